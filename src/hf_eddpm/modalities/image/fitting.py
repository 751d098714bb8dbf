"""A configuration and a processor that fit given images."""

from typing import Any

import numpy as np

from ...configuration_eddpm import EDDPMConfig
from .configuration import ImageConvConfig, ImageEncoderConfig, ImageUNetConfig
from .processing import EDDPMImageProcessor

_LEAST_FOLDED = 16  # pixels of a side from which on patches of 2 are folded into channels
_OWN_NETS = tuple(config.model_type for config in (ImageEncoderConfig, ImageConvConfig, ImageUNetConfig))


def fit_image(
    images: list[Any], image_size: int | None = None, num_channels: int | None = None, **values: Any
) -> tuple[EDDPMConfig, EDDPMImageProcessor]:
    """Return a configuration and a processor for images.

    Args:
        images: The training data: PIL images or uint8 arrays `(height, width[, channels])`.
        image_size: Height and width; by default the first image's, which all must then have.
        num_channels: 1 (grey) or 3; by default the first image's.
        **values: Values of `EDDPMConfig`; `encoder` and `decoder` are merged into the small preset's.

    Raises:
        ValueError: If no size is given and the first image is not square.
    """
    first = np.asarray(images[0])
    if image_size is None:
        if first.shape[0] != first.shape[1]:
            raise ValueError(
                f"`image_size` must be given for images that are not square, got {first.shape[1]} x {first.shape[0]}."
            )
        image_size = first.shape[0]
    if num_channels is None:
        num_channels = 1 if first.ndim == 2 or first.shape[-1] == 1 else 3
    size = {"image_size": image_size, "num_channels": num_channels}
    # Over patches: in equal time all measures are better than over pixels (training/studies/image_decoders).
    patch_size = 1 if image_size % 2 or image_size < _LEAST_FOLDED else 2
    levels = [32, 64, 64]
    while len(levels) > 1 and image_size % (patch_size * 2 ** (len(levels) - 1)):
        levels.pop()
    coarsest = image_size // (patch_size * 2 ** (len(levels) - 1))
    nets: dict[str, dict[str, Any]] = {
        "encoder": {"block_out_channels": levels, "patch_size": patch_size, "pool_size": min(4, coarsest)},
        "decoder": {"block_out_channels": levels, "patch_size": patch_size},
    }
    preset = EDDPMConfig.from_preset("image-small")
    for part, net in nets.items():
        given = values.get(part, {})
        kind = given.get("model_type", getattr(preset, part).model_type)
        own = {**net, **size} if kind in _OWN_NETS else {}
        values[part] = {"model_type": kind, **own, **given}
    return EDDPMConfig.from_preset("image-small", **values), EDDPMImageProcessor(image_size, num_channels)
