"""Sizes of protein models: what a config is made of where the user gives nothing, and the paper's."""

from typing import Any

from .residues import PADDING_ID, START_ID, STOP_ID, VOCAB_SIZE

SMALL_ENCODER: dict[str, Any] = {
    "model_type": "bert",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 256,
    "max_position_embeddings": 512,
    "hidden_act": "relu",
    "type_vocab_size": 1,
    "pad_token_id": PADDING_ID,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
# Of a causal decoder: a family's own values are those of its text vocabulary
CAUSAL_DECODER: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "bos_token_id": START_ID,
    "eos_token_id": STOP_ID,
    "pad_token_id": PADDING_ID,
}
# Thirty latent dimensions as in the paper, but ten vectors with a query of attention each: the encoder finds what to
# attend to in fewer steps than with one query, and with every seed (docs/guides/proteins.md has the numbers). The
# encoder learns by reconstruction alone: the chain's gradient costs exact reconstructions, and samples are no nearer
# for it (docs/benchmarks/latents.md).
SMALL: dict[str, Any] = {
    "pooling": "attention",
    "num_latents": 10,
    "latent_dim": 3,
    "encoder_noise_variance": 0.008,
    "decoder_noise_variance": 0.0,
    "encoder_gradient_scale": 0.0,
    "denoiser_num_layers": 4,
    "denoiser_hidden_size": 256,
    "denoiser_embedding_size": 64,
}
# Six layers, 30 latent dimensions, a denoiser of 20 x 2048 (Liu et al. 2024, appendix), and its objective
PAPER: dict[str, Any] = {
    "encoder": {**SMALL_ENCODER, "hidden_size": 200, "num_hidden_layers": 6, "intermediate_size": 400},
    "pooling": "attention",
    "latent_dim": 30,
    "latent_normalization": "none",
    "encoder_noise_variance": 0.008,
    "decoder_noise_variance": 0.0,
    "encoder_gradient_scale": 1.0,
    "denoiser_num_layers": 19,  # and the output layer, which the paper counts as the twentieth
    "denoiser_hidden_size": 2048,
    "denoiser_embedding_size": 30,
    "denoiser_samples_per_latent": 1,
    "prediction_type": "epsilon",
    "reconstruction_weight": None,
    "diffusion_weight": 1.0,
    "alignment_target": "mean",
}
