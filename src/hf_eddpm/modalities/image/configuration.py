"""Configurations of the networks over images."""

from typing import Any

from transformers import AutoConfig, PreTrainedConfig

from ...scheduling_eddpm import EDDPMScheduler


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


def _check_positive(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")
