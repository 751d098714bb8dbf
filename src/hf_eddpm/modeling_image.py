"""Images: a convolutional encoder or any vision backbone; decoders by pixel diffusion or in one pass."""

import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from diffusers import UNet2DModel
from diffusers.models.unets.unet_2d_blocks import DownEncoderBlock2D, UpDecoderBlock2D
from diffusers.utils.torch_utils import randn_tensor
from torch import nn
from torch.nn.functional import interpolate, pixel_shuffle, pixel_unshuffle
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import logging

from .configuration_eddpm import EDDPMConfig
from .modalities import Modality, register_modality
from .modeling_modality import ModalityDecoder, ModalityEncoder
from .modeling_text import takes_pooling_layer
from .scheduling_eddpm import EDDPMScheduler

# Timesteps and noise of the evaluation loss: fixed, so that it is the same for an image alone and in any batch.
_EVALUATION_DRAWS = 8
_EVALUATION_SEED = 0
_MAX_LAST_SIGNAL = 0.2  # the default schedule's is 0.006

logger = logging.get_logger(__name__)


class ImageNetConfig(PreTrainedConfig):
    r"""What the configurations of the convolutional networks over images have in common.

    Args:
        image_size: Height and width; divisible by `patch_size` and by 2 for each level after the first.
        num_channels: 1 for grey images, 3 for colour.
        block_out_channels: Channels of each level; from one to the next the resolution halves.
        layers_per_block: Residual blocks of each level.
        norm_num_groups: Groups of the group normalisation; divides all channels.
        patch_size: Side of the squares of pixels that are folded into channels before anything else (Luhman & Luhman
            2022, arXiv 2207.04316); 2 makes the network about four times as fast.

    Raises:
        ValueError: If a value is outside its range.
    """

    image_size: int = 32
    num_channels: int = 3
    block_out_channels: list[int] | tuple[int, ...] = (32, 64, 64)
    layers_per_block: int = 1
    norm_num_groups: int = 8
    patch_size: int = 1

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.block_out_channels = list(self.block_out_channels)
        if not self.block_out_channels:
            raise ValueError("`block_out_channels` must hold at least one number.")
        for name in ("image_size", "layers_per_block", "norm_num_groups", "patch_size"):
            _check_positive(getattr(self, name), name)
        for channels in self.block_out_channels:
            _check_positive(channels, "block_out_channels")
            if channels % self.norm_num_groups:
                raise ValueError(
                    f"`block_out_channels` must be divisible by `norm_num_groups` = {self.norm_num_groups}, "
                    f"got {channels}."
                )
        if self.num_channels not in (1, 3):
            raise ValueError(f"`num_channels` must be 1 (grey) or 3 (colour), got {self.num_channels!r}.")
        if self.image_size % self.stride:
            raise ValueError(
                f"`image_size` must be divisible by the network's stride of {self.stride} (`patch_size` times 2 for "
                f"each level after the first), got {self.image_size}."
            )

    @property
    def stride(self) -> int:
        """Pixels, along one side, that one position of the coarsest level stands for."""
        return self.patch_size * 2 ** (len(self.block_out_channels) - 1)

    @property
    def patch_channels(self) -> int:
        """Channels of the image once its patches are folded."""
        return self.num_channels * self.patch_size**2


class ImageEncoderConfig(ImageNetConfig):
    r"""Configuration of the convolutional encoder.

    Args:
        pool_size: The coarsest level is averaged over a grid of this side, whose cells are the features: 1 for
            one global average (Preechakul et al. 2022, arXiv 2111.15640), more to keep where things are.
        **kwargs: As for `ImageNetConfig`.
    """

    model_type = "eddpm_image_encoder"

    pool_size: int = 4

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        _check_positive(self.pool_size, "pool_size")
        if self.pool_size > self.image_size // self.stride:
            raise ValueError(
                f"`pool_size` must be at most the coarsest level's size, {self.image_size // self.stride}, "
                f"got {self.pool_size}."
            )


class ImageConvConfig(ImageNetConfig):
    r"""Configuration of the decoder in one pass, with a Gaussian likelihood.

    Args:
        variance: Variance of each pixel value around what the decoder says, positive; images are in [-1, 1]. The
            smaller, the more the reconstruction counts beside the chain.
        **kwargs: As for `ImageNetConfig`.
    """

    model_type = "eddpm_image_conv"

    variance: float = 0.05

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        if isinstance(self.variance, bool) or not 0 < self.variance < float("inf"):
            raise ValueError(f"`variance` must be positive and finite, got {self.variance!r}.")


class ImageUNetConfig(ImageNetConfig):
    r"""Configuration of the decoder that is a diffusion chain over pixels, as long as the latents' chain.

    Args:
        attention_levels: Levels with self-attention, 0 the finest; the middle block has it if any level has.
        attention_head_dim: Width of a head.
        dropout: Share in [0, 1) dropped in the residual blocks.
        beta_schedule: As in `EDDPMConfig`, of the pixels' own chain.
        beta_start: First beta, in (0, 1).
        beta_end: Last beta, in (0, 1).
        prediction_type: What the network predicts: "epsilon", "sample" or "v_prediction".
        map_channels: Channels of a map over the image's patches that a linear layer draws from the latents and the
            network sees beside the noisy image. It says where things are, which small networks are slow to learn from
            scales and shifts; 0 leaves it at these, as in the paper.
        **kwargs: As for `ImageNetConfig`.
    """

    model_type = "eddpm_image_unet"

    attention_levels: list[int] | tuple[int, ...] = ()
    attention_head_dim: int = 16
    dropout: float = 0.0
    beta_schedule: str = "linear"
    beta_start: float = 0.0001
    beta_end: float = 0.02
    prediction_type: str = "v_prediction"
    map_channels: int = 0

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        self.attention_levels = list(self.attention_levels)
        levels = range(len(self.block_out_channels))
        if unknown := [level for level in self.attention_levels if level not in levels]:
            raise ValueError(f"`attention_levels` must be in [0, {len(levels)}), got {unknown[0]!r}.")
        _check_positive(self.attention_head_dim, "attention_head_dim")
        if isinstance(self.dropout, bool) or not 0 <= self.dropout < 1:
            raise ValueError(f"`dropout` must be in [0, 1), got {self.dropout!r}.")
        if isinstance(self.map_channels, bool) or not isinstance(self.map_channels, int) or self.map_channels < 0:
            raise ValueError(f"`map_channels` must be a non-negative integer, got {self.map_channels!r}.")
        EDDPMScheduler(**self.scheduler_config)  # refuses a schedule that there is not

    @property
    def scheduler_config(self) -> dict[str, Any]:
        """The schedule without its length."""
        return {
            "beta_schedule": self.beta_schedule,
            "beta_start": self.beta_start,
            "beta_end": self.beta_end,
            "prediction_type": self.prediction_type,
        }


for _config_class in (ImageEncoderConfig, ImageConvConfig, ImageUNetConfig):
    AutoConfig.register(_config_class.model_type, _config_class, exist_ok=True)


class _Blocks(nn.ModuleList):
    """Blocks run one after another, each recomputed in the backward pass where checkpointing is enabled."""

    gradient_checkpointing = False
    _gradient_checkpointing_func: Callable[..., Any]

    def run(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Pass the hidden states through all blocks."""
        for block in self:
            if self.gradient_checkpointing and self.training:
                hidden_states = self._gradient_checkpointing_func(block, hidden_states)
            else:
                hidden_states = block(hidden_states)
        return hidden_states


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
        self.blocks = _Blocks(
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


class _KeepsInitialization:
    """Leaves convolutions and linear layers as torch made them, which is how these networks are trained elsewhere."""

    def _init_weights(self, module: nn.Module) -> None:
        if not isinstance(module, (nn.Conv2d, nn.Linear, nn.GroupNorm)):
            super()._init_weights(module)  # type: ignore[misc]


class ImageEncoder(_KeepsInitialization, ModalityEncoder):
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

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Encode.

        Args:
            pixel_values: `(batch, channels, height, width)`, in [-1, 1].

        Returns:
            Features `(batch, num_latents, output_size)`.
        """
        pixel_values = pixel_values.to(next(self.parameters()).dtype)
        if self.is_convolutional:
            return self.backbone(pixel_values).unsqueeze(1).expand(-1, self.num_latents, -1)
        hidden_states = self.backbone(pixel_values=self._prepare(pixel_values)).last_hidden_state
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


class ImageDecoder(_KeepsInitialization, ModalityDecoder):
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

    def _num_units(self, pixel_values: torch.Tensor) -> torch.Tensor:
        return torch.full((len(pixel_values),), pixel_values[0].numel(), device=pixel_values.device)


class ImageConvDecoder(ImageDecoder):
    """Decodes in one pass: linear layer, residual blocks and upsampling. Its likelihood is a Gaussian around that.

    Cheap, and what it cannot say of an image is blurred rather than made up.

    Args:
        config: Supplies `decoder` (an `ImageConvConfig`) and the latents' shape.
    """

    def __init__(self, config: EDDPMConfig):
        super().__init__(config)
        net: Any = config.decoder
        channels = net.block_out_channels[::-1]  # from the coarsest level on
        self.variance = net.variance
        self.coarse_shape = (channels[0], net.image_size // net.stride, net.image_size // net.stride)
        self.projection = nn.Linear(config.latent_size, math.prod(self.coarse_shape))
        self.blocks = _Blocks(
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

        Args:
            latents: `(batch, num_latents, latent_dim)`.
            pixel_values: `(batch, channels, height, width)`, in [-1, 1].

        Raises:
            ValueError: If the images have another shape.
        """
        self.check_images(pixel_values)
        squares = (pixel_values.float() - self.mean(latents)).square() / self.variance
        nats = 0.5 * (squares + math.log(2 * math.pi * self.variance)).flatten(1).sum(1)
        return nats, self._num_units(pixel_values)

    def negative_log_likelihood(
        self, latents: torch.Tensor, num_timesteps: int = 32, generator: torch.Generator | None = None, **targets: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return -log of the probability of the 256 grey levels that the pixels have; see the base class."""
        pixel_values = targets["pixel_values"]
        self.check_images(pixel_values)
        nats = discretized_gaussian_nats(pixel_values, self.mean(latents), self.variance**0.5)
        return nats, self._num_units(pixel_values)

    def generate(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode: the mean, clipped to [-1, 1], float32 `(batch, channels, height, width)`."""
        return self.mean(latents).clamp(-1, 1)


class ImageDiffusionDecoder(ImageDecoder):
    """A diffusion chain over pixels, conditioned on the latents: a diffusion autoencoder's decoder.

    The network is diffusers' `UNet2DModel`; a projection of the latents is added to its time embedding, which scales
    and shifts the normalised features of every residual block (Preechakul et al. 2022, arXiv 2111.15640, section 3.1).
    With `map_channels` it also sees a map drawn from the latents.

    Args:
        config: Supplies `decoder` (an `ImageUNetConfig`), `num_train_timesteps`, `loss_weighting` and the latents'
            shape.
    """

    per_datum_arguments = ("decoder_noise", "generator")

    def __init__(self, config: EDDPMConfig):
        super().__init__(config)
        net: Any = config.decoder
        levels = range(len(net.block_out_channels))
        side = net.image_size // net.patch_size
        self.unet = UNet2DModel(
            sample_size=side,
            in_channels=net.patch_channels + net.map_channels,
            out_channels=net.patch_channels,
            block_out_channels=tuple(net.block_out_channels),
            layers_per_block=net.layers_per_block,
            norm_num_groups=net.norm_num_groups,
            down_block_types=tuple(_block("Down", level in net.attention_levels) for level in levels),
            up_block_types=tuple(_block("Up", level in net.attention_levels) for level in reversed(levels)),
            add_attention=bool(net.attention_levels),
            attention_head_dim=net.attention_head_dim,
            dropout=net.dropout,
            class_embed_type="identity",
            resnet_time_scale_shift="scale_shift",
        )
        self.projection = nn.Linear(config.latent_size, 4 * net.block_out_channels[0])
        self.map_shape = (net.map_channels, side, side)
        self.map_projection = nn.Linear(config.latent_size, math.prod(self.map_shape)) if net.map_channels else None
        signal = float(self.scheduler.alphas_cumprod[-1]) ** 0.5
        if signal > _MAX_LAST_SIGNAL:
            logger.warning(
                f"The pixels' chain ends at a signal of {signal:.2f} instead of noise, which decoding starts from: "
                "raise `beta_end` of `decoder`, whose default is meant for 1,000 timesteps, or `num_train_timesteps`."
            )
        self.post_init()

    @property
    def scheduler_config(self) -> dict[str, Any]:
        """The schedule of the pixels' chain; its clean estimates are clipped to the range of pixels."""
        net: Any = self.config.decoder
        return {
            **net.scheduler_config,
            "num_train_timesteps": self.config.num_train_timesteps,
            "clip_sample": True,
        }

    @functools.cached_property
    def scheduler(self) -> EDDPMScheduler:
        """The arithmetic of the pixels' chain."""
        with torch.device("cpu"):
            return EDDPMScheduler(**self.scheduler_config)

    def denoise(
        self, noisy_images: torch.Tensor, timesteps: torch.Tensor | int, latents: torch.Tensor
    ) -> torch.Tensor:
        """Return the network's output (see `prediction_type` of its config), float32, shaped as `noisy_images`.

        Args:
            noisy_images: `(batch, channels, height, width)`.
            timesteps: Integers in [0, T), `(batch,)` or a single one.
            latents: `(batch, num_latents, latent_dim)`.
        """
        dtype = self.projection.weight.dtype
        patches = pixel_unshuffle(noisy_images.to(dtype), self.patch_size)
        latents = latents.to(dtype).flatten(1)
        if self.map_projection is not None:
            maps = self.map_projection(latents).view(-1, *self.map_shape)
            patches = torch.cat([patches, maps.expand(len(patches), -1, -1, -1)], dim=1)
        condition = self.projection(latents)
        return pixel_shuffle(self.unet(patches, timesteps, condition).sample, self.patch_size).float()

    def forward(
        self,
        latents: torch.Tensor,
        pixel_values: torch.Tensor,
        timesteps: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the pixels' diffusion loss and the number of pixel values, both `(batch,)`.

        With `loss_weighting="simple"` it is the squared error of the network's output, summed over pixel values, with
        "elbo" an estimate of the bound in nats, without the KL at the end of the chain, which nothing can change.

        Args:
            latents: `(batch, num_latents, latent_dim)`.
            pixel_values: `(batch, channels, height, width)`, in [-1, 1].
            timesteps: Integers in [0, T), `(batch,)`. None: drawn in training, and a fixed few in evaluation, whose
                mean is returned.
            generator: Source of noise and timesteps in training.

        Raises:
            ValueError: If the images have another shape.
        """
        self.check_images(pixel_values)
        count, images = len(pixel_values), pixel_values.float()
        if self.training or timesteps is not None:
            device = images.device if generator is None else generator.device
            if timesteps is None:
                timesteps = torch.randint(len(self.scheduler), (count,), generator=generator, device=device)
            noise = randn_tensor(images.shape, generator=generator, device=images.device, dtype=images.dtype)
            errors = self._errors(latents, images, timesteps.to(images.device), noise)
        else:
            fixed = torch.Generator().manual_seed(_EVALUATION_SEED)
            noises = torch.randn(_EVALUATION_DRAWS, 1, *images.shape[1:], generator=fixed).to(images)
            middles = (torch.arange(_EVALUATION_DRAWS) + 0.5) / _EVALUATION_DRAWS * len(self.scheduler)
            errors = torch.zeros(count, device=images.device)
            for timestep, noise in zip(middles.long().to(images.device), noises, strict=True):
                errors += self._errors(latents, images, timestep.expand(count), noise.expand_as(images))
            errors = errors / _EVALUATION_DRAWS
        return errors, self._num_units(pixel_values)

    def _errors(
        self, latents: torch.Tensor, images: torch.Tensor, timesteps: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        noisy = self.scheduler.add_noise(images, noise, timesteps)
        output = self.denoise(noisy, timesteps, latents)
        if self.config.loss_weighting == "simple":
            target = self.scheduler.training_target(images, noise, timesteps)
            return (target - output).square().flatten(1).sum(1)
        _, noise_pred = self.scheduler.predict(output, timesteps, noisy)
        squares = (noise - noise_pred).square().flatten(1).sum(1)
        return len(self.scheduler) * self.scheduler.bound_weights(timesteps) * squares

    def negative_log_likelihood(
        self, latents: torch.Tensor, num_timesteps: int = 32, generator: torch.Generator | None = None, **targets: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the bound on -log of the probability of the 256 grey levels that the pixels have; see the base class.

        Source: Ho et al. 2020 (arXiv 2006.11239), equations 5 and 13, p(x_t-1 | x_t) having variance beta_t.
        """
        images = targets["pixel_values"].float()
        self.check_images(images)

        def noise_errors(timesteps: torch.Tensor) -> torch.Tensor:
            noise = randn_tensor(images.shape, generator=generator, device=images.device, dtype=images.dtype)
            noisy = self.scheduler.add_noise(images, noise, timesteps)
            _, noise_pred = self.scheduler.predict(self.denoise(noisy, timesteps, latents), timesteps, noisy)
            return (noise - noise_pred).square().flatten(1).sum(1)

        first = torch.zeros(len(images), dtype=torch.long, device=images.device)
        noise = randn_tensor(images.shape, generator=generator, device=images.device, dtype=images.dtype)
        noisy = self.scheduler.add_noise(images, noise, first)
        clean, _ = self.scheduler.predict(self.denoise(noisy, first, latents), first, noisy)
        nats = discretized_gaussian_nats(images, clean, float(self.scheduler.betas[0]) ** 0.5)
        diffusion, prior = self.scheduler.bound_terms(images, noise_errors, num_timesteps, generator)
        return nats + diffusion + prior, self._num_units(images)

    def draw_noise(
        self, num_samples: int, generator: torch.Generator | list[torch.Generator] | None, device: torch.device
    ) -> torch.Tensor:
        """Return the noise that the chain starts from, float32 `(num_samples, channels, height, width)`."""
        shape = (num_samples, self.num_channels, self.image_size, self.image_size)
        return randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)

    def generate(
        self,
        latents: torch.Tensor,
        num_decoder_steps: int = 50,
        decoder_noise: torch.Tensor | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        scheduler: Any = None,
        progress_bar: Callable[..., Any] | None = None,
    ) -> torch.Tensor:
        """Decode: run the pixels' chain.

        Args:
            latents: `(batch, num_latents, latent_dim)`.
            num_decoder_steps: Steps of the chain, in [1, T].
            decoder_noise: Noise it starts from, `(batch, channels, height, width)`, in place of a draw.
            generator: Source of noise, or one for each image.
            scheduler: Scheduler of the chain, the model's own (deterministic) one or another with the same betas.
            progress_bar: Function that wraps the steps to show progress.

        Returns:
            Pixels, float32 `(batch, channels, height, width)`, in [-1, 1].

        Raises:
            ValueError: If the noise has another shape, or the number of steps is out of range.
        """
        if decoder_noise is None:
            decoder_noise = self.draw_noise(len(latents), generator, latents.device)
        self.check_noise(decoder_noise, len(latents))
        scheduler = EDDPMScheduler(**self.scheduler_config) if scheduler is None else scheduler
        steps = num_decoder_steps
        if isinstance(steps, bool) or not isinstance(steps, int) or not 1 <= steps <= len(self.scheduler):
            raise ValueError(f"`num_decoder_steps` must be an integer in [1, {len(self.scheduler)}], got {steps!r}.")
        scheduler.set_timesteps(steps, device=latents.device)
        if hasattr(scheduler, "set_begin_index"):  # a solver's first two steps may share a timestep: it cannot tell
            scheduler.set_begin_index(0)
        takes_generator = "generator" in inspect.signature(scheduler.step).parameters
        arguments = {"generator": generator} if takes_generator else {}
        images = decoder_noise.to(latents.device, torch.float32) * scheduler.init_noise_sigma
        for t in scheduler.timesteps if progress_bar is None else progress_bar(scheduler.timesteps):
            model_output = self.denoise(scheduler.scale_model_input(images, t), t, latents)
            images = scheduler.step(model_output, t, images, **arguments).prev_sample
        return images.clamp(-1, 1)

    @torch.no_grad()
    def invert(
        self,
        latents: torch.Tensor,
        pixel_values: torch.Tensor,
        num_decoder_steps: int = 50,
        num_refinements: int = 2,
        progress_bar: Callable[..., Any] | None = None,
    ) -> torch.Tensor:
        """Find the noise that the chain turns into the given images: DDIM run backwards (arXiv 2010.02502, 4.3).

        What the latents do not say of an image is in this noise (the stochastic code of Preechakul et al. 2022). Each
        step is solved by fixed-point iteration, as in `EDDPMPipeline.invert`.

        Args:
            latents: `(batch, num_latents, latent_dim)`.
            pixel_values: `(batch, channels, height, width)`, in [-1, 1].
            num_decoder_steps: Steps of the chain; `generate` with as many comes back to the images.
            num_refinements: Iterations of each step after its first evaluation.
            progress_bar: Function that wraps the steps to show progress.

        Returns:
            Noise, float32, shaped as the images.
        """
        self.check_images(pixel_values)
        scheduler = EDDPMScheduler(**self.scheduler_config)
        scheduler.set_timesteps(num_decoder_steps, device=latents.device)
        images = pixel_values.float()
        timesteps = scheduler.timesteps.flip(0)
        for t in timesteps if progress_bar is None else progress_bar(timesteps):
            noisier = images
            for _ in range(num_refinements + 1):
                model_output = self.denoise(noisier, t, latents)
                noisier = scheduler.invert_step(model_output, t, images, return_dict=False)[0]
            images = noisier
        return images

    def check_noise(self, noise: torch.Tensor, count: int) -> None:
        """Raise a ValueError unless `noise` is finite and fits `count` images."""
        expected = (count, self.num_channels, self.image_size, self.image_size)
        if not isinstance(noise, torch.Tensor) or tuple(noise.shape) != expected:
            got = tuple(noise.shape) if isinstance(noise, torch.Tensor) else type(noise).__name__
            raise ValueError(f"`decoder_noise` must be a tensor of shape {expected}, got {got}.")
        if not bool(torch.isfinite(noise).all()):
            raise ValueError("`decoder_noise` must be finite, got NaN or infinity.")


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


def make_image_decoder(config: EDDPMConfig) -> ImageDecoder:
    """Return the decoder that `config.decoder` describes.

    Raises:
        ValueError: If it is neither an `ImageUNetConfig` nor an `ImageConvConfig`.
    """
    decoders = {
        ImageUNetConfig.model_type: ImageDiffusionDecoder,
        ImageConvConfig.model_type: ImageConvDecoder,
    }
    model_type = getattr(config.decoder, "model_type", None)
    if model_type not in decoders:
        raise ValueError(f"`decoder` of images must be one of {sorted(decoders)}, got {model_type!r}.")
    return decoders[model_type](config)


def _block(way: str, has_attention: bool) -> str:
    return f"{'Attn' if has_attention else ''}{way}Block2D"


def _side(image_size: Any) -> int | None:
    return image_size[0] if isinstance(image_size, (list, tuple)) else image_size


def _hidden_size(config: PreTrainedConfig) -> int:
    sizes = getattr(config, "hidden_sizes", None)
    size = getattr(config, "hidden_size", None) or (sizes[-1] if sizes else None)
    if size is None:
        raise ValueError(f"`encoder` must have a `hidden_size` or `hidden_sizes`, got {type(config).__name__}.")
    return size


def _check_positive(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")


# The encoder learns by reconstruction alone: of images the chain's gradient removes more from the latents than it
# makes easier to draw (training/studies/latent_rank).
_SMALL = {
    "latent_dim": 64,
    "encoder_noise_variance": 0.03,
    "decoder_noise_variance": 0.0,
    "encoder_gradient_scale": 0.0,
    "denoiser_num_layers": 4,
    "denoiser_hidden_size": 256,
}
# A diffusion autoencoder's networks (Preechakul et al. 2022, appendix) with 512 latent dimensions, and the objective
# of Liu et al. 2024: w latent + (2 - w) pixel, w = 1, with a whole gradient.
_PAPER = {
    "latent_dim": 512,
    "latent_normalization": "none",
    "encoder_noise_variance": 0.008,
    "decoder_noise_variance": 0.0,
    "encoder_gradient_scale": 1.0,
    "denoiser_num_layers": 20,
    "denoiser_hidden_size": 2048,
    "denoiser_samples_per_latent": 1,
    "prediction_type": "epsilon",
    "reconstruction_weight": 1.0,
    "diffusion_weight": 1.0,
    "alignment_target": "mean",
}


def _paper_networks(image_size: int, decoder: list[int], encoder: list[int]) -> dict[str, Any]:
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


register_modality(
    "image",
    Modality(
        encoder_class=ImageEncoder,
        decoder_class=make_image_decoder,
        default_encoder={"model_type": ImageEncoderConfig.model_type},
        default_decoder={"model_type": ImageUNetConfig.model_type},
        presets={
            "image-small": _SMALL,
            "image-small-conv": {**_SMALL, "decoder": {"model_type": ImageConvConfig.model_type}},
            "image-paper-64": {
                **_PAPER,
                **_paper_networks(64, [64, 128, 256, 512], [64, 128, 256, 512, 512]),
            },
            "image-paper-128": {
                **_PAPER,
                **_paper_networks(128, [128, 128, 256, 384, 512], [128, 128, 256, 384, 512, 512]),
            },
        },
    ),
)
