"""Sizes of text models: what a config is made of where the user gives nothing, and the paper's."""

from typing import Any

# Small enough to train on a CPU, where relu and GPT-2's blocks are the cheapest of their kind.
SMALL_ENCODER: dict[str, Any] = {
    "model_type": "bert",
    "vocab_size": 8192,
    "hidden_size": 256,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 1024,
    "hidden_act": "relu",
    "type_vocab_size": 1,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
SMALL_DECODER: dict[str, Any] = {
    "model_type": "gpt2",
    "vocab_size": 8192,
    "n_positions": 512,
    "n_embd": 256,
    "n_layer": 3,
    "n_head": 4,
    "activation_function": "relu",
    "resid_pdrop": 0.0,
    "embd_pdrop": 0.0,
    "attn_pdrop": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
# A timestep embedding of a quarter is as good as one as wide as the layers (docs/benchmarks/denoisers.md). The encoder
# learns by reconstruction alone: the chain's gradient gains nothing (training/studies/text_recipe/README.md).
SMALL: dict[str, Any] = {"denoiser_embedding_size": 128, "encoder_gradient_scale": 0.0}
# BERT-small, 128 latent dimensions, GPT-2-xl, and the objective of section 3 (Liu et al. 2024, appendix)
PAPER: dict[str, Any] = {
    "encoder": {
        "model_type": "bert",
        "vocab_size": 30522,
        "hidden_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 8,
        "intermediate_size": 2048,
    },
    "decoder": {
        "model_type": "gpt2",
        "vocab_size": 50257,
        "n_embd": 1600,
        "n_layer": 48,
        "n_head": 25,
    },
    "latent_dim": 128,
    "num_latents": 1,
    "decoder_conditioning": "memory",
    "latent_normalization": "none",
    "encoder_noise_variance": 0.008,
    "decoder_noise_variance": 0.0,
    "encoder_gradient_scale": 1.0,
    "denoiser_num_layers": 19,  # and the output layer, which the paper counts as the twentieth
    "denoiser_hidden_size": 2048,
    "denoiser_embedding_size": 128,
    "denoiser_samples_per_latent": 1,
    "prediction_type": "epsilon",
    "beta_start": 0.008,
    "beta_end": 0.008,
    "reconstruction_weight": None,
    "diffusion_weight": 8.0,
    "alignment_target": "mean",
}
