"""What is measured of an image: ready operators for `EDDPMPipeline.restore`, which takes any other function too.

An operator is a differentiable function from images `(batch, channels, height, width)`, in [0, 1], to measurements
`(batch, ...)`, each row from its own image.
"""

from collections.abc import Callable
from typing import Annotated, Any

import numpy as np
import torch
from torch.nn.functional import avg_pool2d, conv2d, pad

from ..argument_types import Bounds, Count, PositiveNumber, checked

Operator = Callable[[torch.Tensor], torch.Tensor]
Factor = Annotated[int, Bounds(at_least=2)]

NO_GRADIENT = (
    "`operator` must be differentiable: what it returned has no gradient. NumPy, `.detach()`, `.item()` and integer "
    "types cut it off."
)
_LUMINANCE = (0.299, 0.587, 0.114)  # of red, green and blue (ITU-R BT.601), as PIL converts to grey


class ImageOperator:
    """Base of the ready operators: of images in [0, 1] their measurements are in [0, 1] too, but for noise.

    Attributes:
        known: Where a measurement counts, 1 or 0, as far as images of the measurement's shape go; None for everywhere.
    """

    known: torch.Tensor | None = None

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Measure images `(batch, channels, height, width)`."""
        raise NotImplementedError


class Mask(ImageOperator):
    """Shows part of an image, for inpainting; the rest is 0.

    Args:
        known: True (or 1) where the image is known: `(height, width)`, or `(batch, height, width)` with one for each
            image; an array, a tensor or a nested list.

    Raises:
        ValueError: If it has other dimensions, other values than 0 and 1, or no known pixel.
    """

    def __init__(self, known: Any):
        mask = torch.as_tensor(np.array(known) if not isinstance(known, torch.Tensor) else known)
        if mask.ndim not in (2, 3):
            raise ValueError(
                f"`known` must have the shape (height, width) or (batch, height, width), got {tuple(mask.shape)}."
            )
        if not bool(((mask == 0) | (mask == 1)).all()):
            raise ValueError("`known` must hold only True and False (or 1 and 0): there is no half-known pixel.")
        if not bool((mask != 0).flatten(-2).any(-1).all()):
            raise ValueError("`known` must show at least one pixel of each image.")
        self.known = (mask[None, None] if mask.ndim == 2 else mask[:, None]).float()  # (1 or batch, 1, height, width)

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return the images with 0 where they are unknown.

        Raises:
            ValueError: If they are of another size than the mask, or another number.
        """
        assert self.known is not None
        if self.known.shape[-2:] != images.shape[-2:]:
            raise ValueError(
                f"`mask` must be of the images' size, {tuple(images.shape[-2:])}, got {tuple(self.known.shape[-2:])}."
            )
        self.check_batch(len(images))
        return images * self.known.to(images)

    def check_batch(self, count: int) -> None:
        """Raise a ValueError unless there is one mask, or one for each of `count` images."""
        assert self.known is not None
        if len(self.known) not in (1, count):
            raise ValueError(f"`mask` must be one or one for each of {count} images, got {len(self.known)}.")

    def repeated(self, rows: torch.Tensor) -> "Mask":
        """Return the masks of those rows, int64 `(any,)`; itself where one is for all."""
        assert self.known is not None
        return self if len(self.known) == 1 else Mask(self.known[rows.to(self.known.device), 0])


class Downsample(ImageOperator):
    """Averages squares of pixels, for super-resolution.

    Args:
        factor: Side of the squares, at least 2; the image's side must be divisible by it.
    """

    @checked
    def __init__(self, factor: Factor = 2):
        self.factor = factor

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return images of a `factor`-th of the height and width."""
        if images.shape[-1] % self.factor or images.shape[-2] % self.factor:
            raise ValueError(
                f"`factor` must divide the images' height and width, {tuple(images.shape[-2:])}, got {self.factor}."
            )
        return avg_pool2d(images, self.factor)


class Blur(ImageOperator):
    """Convolves with a Gaussian, for deblurring; beyond its edges the image is mirrored.

    Args:
        std: The Gaussian's standard deviation in pixels, positive.
        radius: Pixels on either side of its middle that it reaches; by default 3 standard deviations, at most as many
            as the image allows.
    """

    @checked
    def __init__(self, std: PositiveNumber = 1.5, radius: Count | None = None):
        self.std = std
        self.radius = max(1, round(3 * std)) if radius is None else radius

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return blurred images of the same shape."""
        radius = min(self.radius, images.shape[-1] - 1, images.shape[-2] - 1)
        places = torch.arange(-radius, radius + 1, dtype=torch.float32, device=images.device)
        weights = torch.exp(-0.5 * (places / self.std) ** 2)
        weights = (weights / weights.sum()).to(images.dtype)
        channels = images.shape[1]
        images = pad(images, (radius,) * 4, mode="reflect")
        for shape in ((1, 1, -1, 1), (1, 1, 1, -1)):
            images = conv2d(images, weights.view(shape).expand(channels, -1, -1, -1), groups=channels)
        return images


class Grey(ImageOperator):
    """Takes the luminance of colour images, for colourising: `(batch, 1, height, width)`."""

    def __call__(self, images: torch.Tensor) -> torch.Tensor:
        """Return grey images.

        Raises:
            ValueError: If the images are grey already.
        """
        if images.shape[1] != 3:
            raise ValueError(f"`Grey` is for colour images, got images of {images.shape[1]} channel.")
        weights = torch.tensor(_LUMINANCE, dtype=images.dtype, device=images.device).view(1, 3, 1, 1)
        return (images * weights).sum(1, keepdim=True)
