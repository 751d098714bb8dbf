"""Tiny real image models and pipelines for the tests."""

import numpy as np
import torch
from PIL import Image

from hf_eddpm import EDDPMConfig, EDDPMImageProcessor, EDDPMModel, EDDPMPipeline, EDDPMScheduler

SIZE = 8
NET = {"image_size": SIZE, "num_channels": 1, "block_out_channels": [8, 16], "norm_num_groups": 4}
CONV_ENCODER = {"model_type": "eddpm_image_encoder", **NET, "pool_size": 2}
VIT_ENCODER = {
    "model_type": "vit",
    "image_size": 16,
    "patch_size": 4,
    "num_channels": 3,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}
DINO_ENCODER = {**VIT_ENCODER, "model_type": "dinov2", "image_size": 16}
RESNET_ENCODER = {
    "model_type": "resnet",
    "num_channels": 1,
    "embedding_size": 8,
    "hidden_sizes": [8, 16],
    "depths": [1, 1],
    "layer_type": "basic",
}
ENCODERS = {"convolutional": CONV_ENCODER, "vit": VIT_ENCODER, "dinov2": DINO_ENCODER, "resnet": RESNET_ENCODER}
UNET_DECODER = {"model_type": "eddpm_image_unet", **NET}
MAP_DECODER = {**UNET_DECODER, "map_channels": 2}
CONV_DECODER = {"model_type": "eddpm_image_conv", **NET}
DECODERS = {"diffusion": UNET_DECODER, "diffusion with a map": MAP_DECODER, "convolutional": CONV_DECODER}


def tiny_image_model(seed: int = 0, **values) -> EDDPMModel:
    """A seeded image model in evaluation mode whose outputs differ from input to input."""
    torch.manual_seed(seed)
    defaults = {
        "encoder": CONV_ENCODER,
        "decoder": UNET_DECODER,
        "latent_dim": 6,
        "denoiser_num_layers": 1,
        "denoiser_hidden_size": 16,
        "denoiser_embedding_size": None,
        "num_train_timesteps": 50,
        "beta_start": 0.02,
        "beta_end": 0.1,
    }
    model = EDDPMModel(EDDPMConfig.from_preset("image-small-chain", **{**defaults, **values})).eval()
    with torch.no_grad():
        for parameter in model.decoder.projection.parameters():
            parameter.mul_(3)
    return model


def tiny_image_pipe(resize: str = "none", **values) -> EDDPMPipeline:
    """A pipeline around such a model."""
    return make_image_pipe(tiny_image_model(**values), resize=resize)


def make_image_pipe(model: EDDPMModel, **arguments) -> EDDPMPipeline:
    """A pipeline around a model, with a processor made to its measure."""
    decoder = model.config.decoder
    processor = EDDPMImageProcessor(decoder.image_size, decoder.num_channels, **arguments)
    pipe = EDDPMPipeline(model, EDDPMScheduler(**model.config.scheduler_config), processor)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def random_images(count: int = 4, seed: int = 0, channels: int = 1, size: int = SIZE) -> list[Image.Image]:
    """Smooth random pictures."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (count, 3, 3, channels), dtype=np.uint8)
    images = [Image.fromarray(image[..., 0] if channels == 1 else image) for image in coarse]
    return [image.resize((size, size), Image.Resampling.BICUBIC) for image in images]
