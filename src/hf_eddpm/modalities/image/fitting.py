"""A configuration and a processor that fit given images."""

from typing import Any, Literal

import numpy as np
import torch
from PIL import Image

from ...configuration_eddpm import EDDPMConfig
from .configuration import ImageConvConfig, ImageEncoderConfig, ImageUNetConfig
from .processing import EDDPMImageProcessor, Resize, num_channels_of

_LEAST_FOLDED = 16  # pixels of a side from which on patches of 2 are folded into channels
_OWN_NETS = tuple(config.model_type for config in (ImageEncoderConfig, ImageConvConfig, ImageUNetConfig))


def fit_image(
    images: list[Any],
    image_size: int | None = None,
    num_channels: int | None = None,
    resize: Resize = "none",
    value_range: Literal["0_1", "-1_1"] = "0_1",
    background: int = 255,
    **values: Any,
) -> tuple[EDDPMConfig, EDDPMImageProcessor]:
    """Return a configuration and a processor for images.

    Args:
        images: The training data, as `EDDPMImageProcessor` takes them: PIL images, arrays or tensors.
        image_size: Height and width; by default the first image's, the smaller of the two if `resize` is not "none".
        num_channels: 1 (grey) or 3; by default the first image's. PIL images are grey or not by their mode; those of
            a palette are in colour.
        resize: What the processor does to images of another size: "none" (refused), "stretch" or "crop".
        value_range: Range of float arrays and tensors: "0_1" or "-1_1".
        background: Grey level in [0, 255] behind transparent PIL images.
        **values: Values of `EDDPMConfig`; `encoder` and `decoder` are merged into the small preset's.

    Raises:
        TypeError: If the first datum is no image.
        ValueError: If no size is given and the first image is not square, though `resize` is "none".
    """
    width, height, channels = _measures(images[0])
    if image_size is None:
        if width != height and resize == "none":
            raise ValueError(
                f"`image_size` must be given, or `resize`, for images that are not square, got {width} x {height}."
            )
        image_size = min(width, height)
    num_channels = channels if num_channels is None else num_channels
    processor = EDDPMImageProcessor(image_size, num_channels, resize, value_range, background)
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
    return EDDPMConfig.from_preset("image-small", **values), processor


def _measures(image: Any) -> tuple[int, int, int]:
    """Return width, height and channels of an image."""
    if isinstance(image, Image.Image):
        return *image.size, num_channels_of(image)
    if isinstance(image, torch.Tensor) and image.ndim == 3:
        return image.shape[2], image.shape[1], 1 if image.shape[0] == 1 else 3
    if isinstance(image, np.ndarray) and image.ndim in (2, 3):
        return image.shape[1], image.shape[0], 1 if image.ndim == 2 or image.shape[2] == 1 else 3
    what = f"an array of shape {tuple(image.shape)}" if hasattr(image, "shape") else type(image).__name__
    raise TypeError(f"`data` must hold images (PIL, array or tensor), got {what} at position 0.")
