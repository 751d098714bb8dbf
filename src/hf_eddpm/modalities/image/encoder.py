"""Encoders of images: convolutional, or any vision backbone."""

from typing import Any

import torch
from diffusers.models.unets.unet_2d_blocks import DownEncoderBlock2D
from torch import nn
from torch.nn.functional import interpolate, pixel_unshuffle
from transformers import AutoModel, PreTrainedConfig, PreTrainedModel

from ...configuration_eddpm import EDDPMConfig
from ..backbones import takes_pooling_layer
from ..base import ModalityEncoder
from ..states import RecordedStates
from .blocks import Blocks, KeepsInitialization
from .configuration import ImageEncoderConfig


class _ConvolutionalEncoder(nn.Module):
    """The first half of a UNet, and an average over the cells of a grid.

    Args:
        config: An `ImageEncoderConfig`.
    """

    def __init__(self, config: Any):
        super().__init__()
        channels = config.block_out_channels
        self.patch_size, self.pool_size = config.patch_size, config.pool_size
        self.conv_in = nn.Conv2d(config.patch_channels, channels[0], 3, padding=1)
        self.blocks = Blocks(
            DownEncoderBlock2D(
                channels[max(level - 1, 0)],
                channels[level],
                num_layers=config.layers_per_block,
                resnet_groups=config.norm_num_groups,
                add_downsample=level < len(channels) - 1,
            )
            for level in range(len(channels))
        )
        self.norm = nn.GroupNorm(config.norm_num_groups, channels[-1])
        self.activation = nn.SiLU()
        self.output_size = channels[-1] * config.pool_size**2

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Map `(batch, channels, height, width)` to `(batch, output_size)`."""
        hidden_states = self.blocks.run(self.conv_in(pixel_unshuffle(pixel_values, self.patch_size)))
        hidden_states = self.activation(self.norm(hidden_states))
        return nn.functional.adaptive_avg_pool2d(hidden_states, self.pool_size).flatten(1)


class ImageEncoder(KeepsInitialization, ModalityEncoder):
    """A convolutional encoder, or any vision backbone of transformers with a pooling of its hidden states.

    A backbone with an `image_size` of its own gets the images resized to it, one for colour gets grey images in all
    three channels, and where its config has `image_mean` and `image_std` (of pixels in [0, 1], as in its
    `preprocessor_config.json`) they are normalised so.

    Args:
        config: Supplies `encoder` (an `ImageEncoderConfig`, or a backbone's), `pooling` (of a backbone) and
            `num_latents`.
        backbone: The backbone itself (for example a pretrained DINOv2) in place of one made from `config.encoder`.
    """

    input_names = ("pixel_values",)

    def __init__(self, config: EDDPMConfig, backbone: PreTrainedModel | None = None):
        super().__init__(config)
        encoder: Any = config.encoder
        self.num_latents = config.num_latents
        self.queries: nn.Embedding | None = None
        self.is_convolutional = backbone is None and encoder.model_type == ImageEncoderConfig.model_type
        self.backbone: Any
        if self.is_convolutional:
            self.backbone = _ConvolutionalEncoder(encoder)
            self.output_size = self.backbone.output_size
        else:
            if backbone is None:
                no_head = {"add_pooling_layer": False} if takes_pooling_layer(encoder) else {}
                backbone = AutoModel.from_config(encoder, **no_head)
            if backbone.main_input_name != "pixel_values":
                raise ValueError(f"`encoder` of images must be a vision backbone, got {encoder.model_type!r}.")
            self.backbone = backbone
            self.output_size = _hidden_size(encoder)
            self.image_size = _side(getattr(encoder, "image_size", None))
            self.image_channels = getattr(encoder, "num_channels", 3)
            self.image_mean, self.image_std = getattr(encoder, "image_mean", None), getattr(encoder, "image_std", None)
            if config.pooling == "attention":
                self.queries = nn.Embedding(config.num_latents, self.output_size)
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the first layer."""
        return self.backbone.conv_in if self.is_convolutional else self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the first layer."""
        if self.is_convolutional:
            self.backbone.conv_in = value
        else:
            self.backbone.set_input_embeddings(value)

    @property
    def records_states(self) -> bool:  # type: ignore[override]
        """Whether the backbone is one of transformers."""
        return not self.is_convolutional

    def forward(self, pixel_values: torch.Tensor, record: RecordedStates | None = None) -> torch.Tensor:
        """Encode.

        Args:
            pixel_values: `(batch, channels, height, width)`, in [-1, 1].
            record: Takes a vision backbone's hidden states and attention weights.

        Returns:
            Features `(batch, num_latents, output_size)`.
        """
        pixel_values = pixel_values.to(next(self.parameters()).dtype)
        if self.is_convolutional:
            return self.backbone(pixel_values).unsqueeze(1).expand(-1, self.num_latents, -1)
        asked = {} if record is None else record.arguments
        output = self.backbone(pixel_values=self._prepare(pixel_values), **asked)
        if record is not None:
            record.take(output)
        hidden_states = output.last_hidden_state
        if hidden_states.ndim == 4:  # of a convolutional backbone: (batch, hidden, height, width)
            hidden_states = hidden_states.flatten(2).transpose(1, 2)
        if self.queries is None:
            return hidden_states.mean(1).unsqueeze(1).expand(-1, self.num_latents, -1)
        # float32, whatever autocast says: with random queries the scores differ by less than bfloat16 resolves
        with torch.autocast(hidden_states.device.type, enabled=False):
            scores = torch.einsum("lh,bsh->bls", self.queries.weight.float(), hidden_states.float())
        return scores.softmax(-1).to(hidden_states.dtype) @ hidden_states

    def _prepare(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return the images as the backbone knows them."""
        if self.image_size is not None and pixel_values.shape[-1] != self.image_size:
            size = (self.image_size, self.image_size)
            pixel_values = interpolate(pixel_values, size, mode="bilinear", align_corners=False, antialias=True)
        if pixel_values.shape[1] == 1 and self.image_channels == 3:
            pixel_values = pixel_values.expand(-1, 3, -1, -1)
        if self.image_mean is not None and self.image_std is not None:
            mean, std = (
                pixel_values.new_tensor(values).view(1, -1, 1, 1) for values in (self.image_mean, self.image_std)
            )
            pixel_values = ((pixel_values + 1) / 2 - mean) / std
        return pixel_values


def _side(image_size: Any) -> int | None:
    return image_size[0] if isinstance(image_size, (list, tuple)) else image_size


def _hidden_size(config: PreTrainedConfig) -> int:
    sizes = getattr(config, "hidden_sizes", None)
    size = getattr(config, "hidden_size", None) or (sizes[-1] if sizes else None)
    if size is None:
        raise ValueError(f"`encoder` must have a `hidden_size` or `hidden_sizes`, got {type(config).__name__}.")
    return size
