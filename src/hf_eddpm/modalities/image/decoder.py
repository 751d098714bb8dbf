"""Decoders of images: their base, and the one that decodes in one pass."""

import math
from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.unets.unet_2d_blocks import UpDecoderBlock2D
from torch import nn
from torch.nn.functional import pixel_shuffle

from ...argument_types import FloatTensor, Generators, checked
from ...configuration_eddpm import EDDPMConfig
from ..base import ModalityDecoder
from .blocks import Blocks, KeepsInitialization


class ImageDecoder(KeepsInitialization, ModalityDecoder):
    """Base of the two decoders of images.

    Args:
        config: Supplies `decoder` and the latents' shape.
    """

    target_names = ("pixel_values",)

    def __init__(self, config: EDDPMConfig):
        super().__init__(config)
        net: Any = config.decoder
        self.image_size, self.num_channels, self.patch_size = net.image_size, net.num_channels, net.patch_size

    def check_images(self, pixel_values: torch.Tensor) -> None:
        """Raise a ValueError unless the images are of the decoder's size."""
        expected = (self.num_channels, self.image_size, self.image_size)
        if pixel_values.ndim != 4 or tuple(pixel_values.shape[1:]) != expected:
            raise ValueError(
                f"`pixel_values` must have the shape (batch, {', '.join(map(str, expected))}), "
                f"got {tuple(pixel_values.shape)}."
            )

    def num_units(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the number of pixel values of each image, `(batch,)`."""
        return torch.full((len(pixel_values),), pixel_values[0].numel(), device=pixel_values.device)


class ImageConvDecoder(ImageDecoder):
    """Decodes in one pass: linear layer, residual blocks and upsampling. Its likelihood is a Gaussian around that.

    Cheap, and what it cannot say of an image is blurred rather than made up, unless its training adds terms that
    forbid it (`extra_loss`, see `training.image_losses`).

    Args:
        config: Supplies `decoder` (an `ImageConvConfig`) and the latents' shape.
    """

    # In training: what is added to each image's nats, `(batch,)`, from what is decoded, the images, their nats and the
    # last layer's weights. It belongs to the training and is not saved.
    extra_loss: Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor] | None = None

    def __init__(self, config: EDDPMConfig):
        super().__init__(config)
        net: Any = config.decoder
        channels = net.block_out_channels[::-1]  # from the coarsest level on
        self.variance = net.variance
        self.coarse_shape = (channels[0], net.image_size // net.stride, net.image_size // net.stride)
        self.projection = nn.Linear(config.latent_size, math.prod(self.coarse_shape))
        self.blocks = Blocks(
            UpDecoderBlock2D(
                channels[max(level - 1, 0)],
                channels[level],
                num_layers=net.layers_per_block,
                resnet_groups=net.norm_num_groups,
                add_upsample=level < len(channels) - 1,
            )
            for level in range(len(channels))
        )
        self.norm = nn.GroupNorm(net.norm_num_groups, channels[-1])
        self.activation = nn.SiLU()
        self.conv_out = nn.Conv2d(channels[-1], net.patch_channels, 3, padding=1)
        self.post_init()

    def mean(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the mean of p(image | latents), float32 `(batch, channels, height, width)`."""
        hidden_states = self.blocks.run(self.projection(latents.flatten(1)).view(-1, *self.coarse_shape))
        hidden_states = self.conv_out(self.activation(self.norm(hidden_states)))
        return pixel_shuffle(hidden_states, self.patch_size).float()

    def forward(self, latents: torch.Tensor, pixel_values: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return -log p(pixel_values | latents), a density, and the number of pixel values, both `(batch,)`.

        In training `extra_loss` is added to the first.

        Args:
            latents: `(batch, num_latents, latent_dim)`.
            pixel_values: `(batch, channels, height, width)`, in [-1, 1].

        Raises:
            ValueError: If the images have another shape.
        """
        self.check_images(pixel_values)
        mean = self.mean(latents)
        squares = (pixel_values.float() - mean).square() / self.variance
        nats = 0.5 * (squares + math.log(2 * math.pi * self.variance)).flatten(1).sum(1)
        if self.training and self.extra_loss is not None:
            nats = nats + self.extra_loss(mean, pixel_values, nats, self.conv_out.weight)
        return nats, self.num_units(pixel_values)

    def negative_log_likelihood(
        self, latents: torch.Tensor, num_timesteps: int = 32, generator: Generators = None, **targets: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return -log of the probability of the 256 grey levels that the pixels have; see the base class."""
        pixel_values = targets["pixel_values"]
        self.check_images(pixel_values)
        nats = discretized_gaussian_nats(pixel_values, self.mean(latents), self.variance**0.5)
        return nats, self.num_units(pixel_values)

    @checked
    def generate(self, latents: FloatTensor) -> torch.Tensor:
        """Decode: the mean, clipped to [-1, 1], float32 `(batch, channels, height, width)`."""
        return self.mean(latents).clamp(-1, 1)


def discretized_gaussian_nats(pixel_values: torch.Tensor, mean: torch.Tensor, std: float) -> torch.Tensor:
    """Return -log of the probability that a Gaussian gives to each image's grey levels, summed: `(batch,)`.

    Source: Ho et al. 2020 (arXiv 2006.11239), equation 13. Each of 256 levels has the Gaussian's mass in a bin of
    width 2/255 around it; the outermost bins have no outer end.

    Args:
        pixel_values: `(batch, ...)`, in [-1, 1].
        mean: Shaped as `pixel_values`.
        std: Positive number.
    """
    pixel_values, mean = pixel_values.float(), mean.float()
    upper = torch.special.ndtr((pixel_values + 1 / 255 - mean) / std)
    lower = torch.special.ndtr((pixel_values - 1 / 255 - mean) / std)
    upper = torch.where(pixel_values > 0.999, torch.ones_like(upper), upper)
    lower = torch.where(pixel_values < -0.999, torch.zeros_like(lower), lower)
    return -(upper - lower).clamp(min=1e-12).log().flatten(1).sum(1)
