"""Sizes of image models: small ones, and the paper's."""

from typing import Any

from .configuration import ImageEncoderConfig, ImageUNetConfig

# The encoder learns by reconstruction alone: of images the chain's gradient removes more from the latents than it
# makes easier to draw (training/studies/latent_rank).
SMALL: dict[str, Any] = {
    "latent_dim": 64,
    "encoder_noise_variance": 0.03,
    "decoder_noise_variance": 0.0,
    "encoder_gradient_scale": 0.0,
    "denoiser_num_layers": 4,
    "denoiser_hidden_size": 256,
    "denoiser_embedding_size": 64,
}
# A diffusion autoencoder's networks (Preechakul et al. 2022, appendix) with 512 latent dimensions, and the objective
# of Liu et al. 2024: w latent + (2 - w) pixel, w = 1, with a whole gradient.
PAPER: dict[str, Any] = {
    "latent_dim": 512,
    "latent_normalization": "none",
    "encoder_noise_variance": 0.008,
    "decoder_noise_variance": 0.0,
    "encoder_gradient_scale": 1.0,
    "denoiser_num_layers": 19,  # and the output layer, which the paper counts as the twentieth
    "denoiser_hidden_size": 2048,
    "denoiser_embedding_size": 512,
    "denoiser_samples_per_latent": 1,
    "prediction_type": "epsilon",
    "reconstruction_weight": 1.0,
    "diffusion_weight": 1.0,
    "alignment_target": "mean",
}


def paper_networks(image_size: int, decoder: list[int], encoder: list[int]) -> dict[str, Any]:
    """Return encoder and decoder of a diffusion autoencoder, by the channels of their levels."""
    # Both nets attend at a resolution of 16 in the original; diffusers' plain down blocks of the encoder do not.
    size = {"image_size": image_size, "norm_num_groups": 32, "layers_per_block": 2}
    attention = [level for level in range(len(decoder)) if image_size // 2**level == 16]
    return {
        "encoder": {
            "model_type": ImageEncoderConfig.model_type,
            **size,
            "block_out_channels": encoder,
            "pool_size": 1,
        },
        "decoder": {
            "model_type": ImageUNetConfig.model_type,
            **size,
            "block_out_channels": decoder,
            "attention_levels": attention,
            "attention_head_dim": 64,
            "dropout": 0.1,
            "prediction_type": "epsilon",
        },
    }
