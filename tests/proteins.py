"""Tiny real protein models and pipelines for the tests."""

import torch

from hf_eddpm import EDDPMConfig, EDDPMModel, EDDPMPipeline, EDDPMProteinProcessor, EDDPMScheduler
from hf_eddpm.modalities.protein.residues import VOCAB_SIZE

LENGTH = 8
PROTEINS = ["ACDEFGHI", "KLMN", "WYV", "AAAAAAAA", "GHIKLMX"]
ENCODER = {
    "model_type": "bert",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 16,
    "type_vocab_size": 1,
    "pad_token_id": 0,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
CONV_DECODER = {
    "model_type": "eddpm_protein_conv",
    "num_sites": LENGTH,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "kernel_size": 3,
}
CAUSAL_DECODER = {
    "model_type": "gpt2",
    "vocab_size": VOCAB_SIZE,
    "n_embd": 16,
    "n_layer": 1,
    "n_head": 2,
    "n_positions": 16,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
DECODERS = {"convolutional": CONV_DECODER, "causal": CAUSAL_DECODER}


def tiny_protein_model(seed: int = 0, **values) -> EDDPMModel:
    """A seeded protein model in evaluation mode, with a property head, whose outputs differ from input to input."""
    torch.manual_seed(seed)
    defaults = {
        "encoder": ENCODER,
        "decoder": CONV_DECODER,
        "num_latents": 1,
        "latent_dim": 6,
        "num_properties": 1,
        "property_hidden_size": 8,
        "denoiser_num_layers": 1,
        "denoiser_hidden_size": 16,
        "denoiser_embedding_size": None,
    }
    model = EDDPMModel(EDDPMConfig.from_preset("protein-small", **{**defaults, **values})).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    if model.property_head is not None:
        model.property_head.fit(torch.tensor([[1.0], [3.0]]).expand(2, model.config.num_properties))
    return model


def tiny_protein_pipe(**values) -> EDDPMPipeline:
    """A pipeline around such a model."""
    model = tiny_protein_model(**values)
    stop = model.config.decoder.model_type != "eddpm_protein_conv"
    processor = EDDPMProteinProcessor(LENGTH, stop=stop)
    pipe = EDDPMPipeline(model, EDDPMScheduler(**model.config.scheduler_config), processor)
    pipe.set_progress_bar_config(disable=True)
    return pipe
