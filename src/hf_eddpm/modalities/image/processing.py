"""EDDPMImageProcessor: pictures to tensors and back; a helper that lays pictures out in a grid."""

import math
import struct
import zlib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers import BatchFeature
from transformers.processing_utils import ProcessorMixin  # noqa: F401  (diffusers finds the loader by this name)

from ...argument_types import Bounds, Count, check_values, checked
from ...configuration_eddpm import EDDPMConfig
from ...processing_eddpm import EDDPMProcessor, listed
from .configuration import ImageConvConfig, ImageEncoderConfig, ImageUNetConfig

ImageLike = Image.Image | np.ndarray | torch.Tensor
Resize = Literal["none", "stretch", "crop"]

# What PIL raises for damaged files, by format and place of the damage.
DAMAGE = (
    OSError,
    ValueError,
    SyntaxError,
    LookupError,
    TypeError,
    ArithmeticError,
    EOFError,
    struct.error,
    zlib.error,
    Image.DecompressionBombError,
)
_RANGES = {"0_1": (0.0, 1.0), "-1_1": (-1.0, 1.0)}
_ALLOWED = {
    "image_size": Count,
    "num_channels": Literal[1, 3],  # grey or colour
    "resize": Resize,
    "value_range": Literal["0_1", "-1_1"],
    "background": Annotated[int, Bounds(at_least=0, at_most=255)],
}
_TOLERANCE = 1e-3  # by which floats may miss their range
_GREY_MODES = ("1", "L", "LA", "La", "F")  # beside those of integers, I and I;16
_16_BIT_FORMATS = ("PNG", "PPM")  # whose images of mode "I" are of 16 bits: 32 they do not have


class EDDPMImageProcessor(EDDPMProcessor):
    r"""Turns pictures into pixel values in [-1, 1] and back.

    It takes PIL images, numpy arrays `(height, width)` or `(height, width, channels)` and tensors
    `(channels, height, width)`: one, a list, or a stack with a leading dimension for the batch. Arrays and tensors are
    uint8 in [0, 255], or floats in `value_range`.

    PIL images may be of any mode but "F", whose range is unknown. Those of 16 bits (mode "I;16") become 8 bits. Mode
    "I", integers without a range, is taken for 16 bits if a file of 16 bits was opened or a value is above 255; it is
    refused if all values are in [0, 255], which could be black in 16 bits or a picture in 8.

    Args:
        image_size: Height and width that the model takes.
        num_channels: 1 for grey images, 3 for colour. PIL images are converted (colour to grey by luminance);
            arrays and tensors must have as many, or none where it is 1.
        resize: What happens to images of another size: "none" (refused), "stretch", or "crop" (the largest square in
            the middle, then resized).
        value_range: Range of float arrays and tensors: "0_1" or "-1_1".
        background: Grey level in [0, 255] that shows through where a PIL image is transparent.

    Raises:
        ValueError: If an argument is outside its range.
    """

    data_names = ("data", "image")
    output_types = ("data", "pil", "np", "pt")

    def __init__(
        self,
        image_size: int = 32,
        num_channels: int = 3,
        resize: Resize = "none",
        value_range: Literal["0_1", "-1_1"] = "0_1",
        background: int = 255,
    ):
        given = {"image_size": image_size, "num_channels": num_channels, "resize": resize}
        check_values({**given, "value_range": value_range, "background": background}, _ALLOWED)
        super().__init__()
        self.image_size = int(image_size)  # NumPy's too: a processor is saved as JSON
        self.num_channels = int(num_channels)
        self.resize = resize
        self.value_range = value_range
        self.background = int(background)

    def __call__(
        self, data: ImageLike | Sequence[ImageLike], return_tensors: str = "pt", **kwargs: Any
    ) -> BatchFeature:
        """Prepare.

        Args:
            data: One image, a list of them, or a stack; see the class.
            return_tensors: "pt".

        Returns:
            `pixel_values`, float32 `(batch, num_channels, image_size, image_size)`, in [-1, 1].

        Raises:
            TypeError: If something is no image.
            ValueError: If an image has other channels or another size, or its values are NaN or out of range.
        """
        if kwargs:
            raise TypeError(f"Unexpected keyword arguments {sorted(kwargs)}.")
        if return_tensors != "pt":
            raise ValueError(f"`return_tensors` must be 'pt', got {return_tensors!r}.")
        return BatchFeature({"pixel_values": torch.from_numpy(np.stack(self._arrays(data, "data")))})

    def postprocess(self, outputs: torch.Tensor, output_type: str = "data") -> Any:
        """Turn pixels `(batch, channels, height, width)` in [-1, 1] into pictures.

        Args:
            outputs: The pixels; what is outside [-1, 1] is clipped.
            output_type: "data" or "pil" (a list of PIL images), "np" (float32 `(batch, height, width, channels)` in
                [0, 1]) or "pt" (float32 `(batch, channels, height, width)` in [0, 1]).
        """
        unit = (outputs.float() / 2 + 0.5).clamp(0, 1)
        if output_type == "pt":
            return unit
        array = unit.permute(0, 2, 3, 1).cpu().numpy()
        if output_type == "np":
            return array
        levels = np.round(array * 255).astype(np.uint8)
        return [Image.fromarray(image[..., 0] if self.num_channels == 1 else image) for image in levels]

    def as_list(self, data: ImageLike | Sequence[ImageLike], name: str = "data") -> list[Any]:
        """Return one image or several as a list of checked arrays `(channels, height, width)` in [-1, 1]."""
        return [_Prepared(array) for array in self._arrays(data, name)]

    def _arrays(self, data: Any, name: str) -> list[np.ndarray]:
        if not isinstance(data, np.ndarray) or data.dtype == object:
            data = listed(data)  # a column of images
        if isinstance(data, (Image.Image, _Prepared)) or (
            isinstance(data, (np.ndarray, torch.Tensor)) and data.ndim < 4
        ):
            images: Any = [data]
        elif isinstance(data, (list, tuple)) or (isinstance(data, (np.ndarray, torch.Tensor)) and data.ndim == 4):
            images = data
        else:
            what = f"{data.ndim} dimensions" if hasattr(data, "ndim") else type(data).__name__
            raise TypeError(
                f"`{name}` must be an image (PIL, array or tensor), a list or a stack of them, got {what}."
            )
        if len(images) == 0:
            raise ValueError(f"`{name}` must hold at least one image, got none.")
        return [self._prepare(image, f"`{name}`", f" at position {place}") for place, image in enumerate(images)]

    def _prepare(self, image: Any, name: str, where: str) -> np.ndarray:
        """Return one image as float32 `(channels, height, width)` in [-1, 1]."""
        if isinstance(image, _Prepared):
            return image.array
        if isinstance(image, Image.Image):
            array = self.levels(image, self.num_channels, name, where)  # (height, width[, channels])
        elif isinstance(image, torch.Tensor):
            if image.ndim != 3:
                raise ValueError(
                    f"{name} must hold tensors (channels, height, width), got {tuple(image.shape)}{where}."
                )
            tensor = image.detach().cpu().permute(1, 2, 0)
            array = (tensor.float() if tensor.is_floating_point() else tensor).numpy()  # numpy has no bfloat16
        elif isinstance(image, np.ndarray):
            if image.ndim not in (2, 3):
                raise ValueError(f"{name} must hold arrays (height, width[, channels]), got {image.shape}{where}.")
            array = image
        else:
            raise TypeError(f"{name} must hold images (PIL, array or tensor), got {type(image).__name__}{where}.")
        array = array[..., None] if array.ndim == 2 else array
        if array.shape[2] != self.num_channels:
            raise ValueError(f"{name} must have {self.num_channels} channels, got {array.shape[2]}{where}.")
        array = self._unit_range(array, name, where)
        if array.shape[:2] != (self.image_size, self.image_size):
            array = self._resized(array, name, where)
        return np.ascontiguousarray(array.transpose(2, 0, 1))

    def levels(
        self, image: Image.Image, num_channels: int | None = None, name: str = "`data`", where: str = ""
    ) -> np.ndarray:
        """Return a picture as it is meant to be seen: turned by its EXIF, laid on `background`, of 8 bits.

        Args:
            image: Of any mode but "F".
            num_channels: 1 or 3, where colour becomes grey by luminance; by default as the image's mode says.
            name: What an error calls it.
            where: What an error adds to that.

        Returns:
            uint8 `(height, width)` or `(height, width, 3)`.

        Raises:
            ValueError: If the image is damaged, or its range is not known.
        """
        num_channels = num_channels_of(image) if num_channels is None else num_channels
        try:
            image.load()
            image = ImageOps.exif_transpose(keep_depth(image))  # as cameras mean it to be seen
        except DAMAGE as error:
            raise ValueError(f"{name} holds a damaged image{where}: {error}.") from error
        if image.mode.startswith("I"):  # 16 bits, whose conversion by PIL would cut everything above 255 off
            levels = np.asarray(image)
            if levels.min() < 0 or levels.max() > 65535:
                raise ValueError(f"{name} must hold integer images of at most 16 bits, got more{where}.")
            if image.mode == "I" and levels.max() <= 255:
                raise ValueError(
                    f"{name} must not hold PIL images of mode 'I' with all values in [0, 255], which may be of 8 bits "
                    f"or of 16, got one{where}: convert it to mode 'L' (8 bits) or 'I;16' (16 bits)."
                )
            array = np.round(levels / 257).astype(np.uint8)
            return array if num_channels == 1 else np.repeat(array[..., None], 3, axis=2)
        if image.mode == "F":
            raise ValueError(
                f"{name} must not hold PIL images of mode 'F', whose range is unknown, got one{where}: give an array."
            )
        mode = "L" if num_channels == 1 else "RGB"
        if image.mode == mode and "transparency" not in image.info:
            return np.asarray(image)
        if "transparency" in image.info or image.mode in ("RGBA", "LA", "PA", "La", "RGBa"):
            image = image.convert("RGBA")
            behind = Image.new("RGBA", image.size, (self.background,) * 3 + (255,))
            image = Image.alpha_composite(behind, image)
        if image.mode not in ("L", "1", "RGB"):
            image = image.convert("RGB")  # by way of RGB: not every mode goes to grey directly
        return np.asarray(image.convert(mode))

    def _unit_range(self, array: np.ndarray, name: str, where: str) -> np.ndarray:
        """Return float32 in [-1, 1]."""
        if array.dtype == np.uint8:
            return array.astype(np.float32) / 127.5 - 1
        if array.dtype.kind != "f":
            raise ValueError(f"{name} must be of uint8 or floats, got {array.dtype}{where}.")
        array = array.astype(np.float32)
        if not np.isfinite(array).all():
            raise ValueError(f"{name} must hold finite pixel values, got NaN or infinity{where}.")
        low, high = _RANGES[self.value_range]
        if array.size and (array.min() < low - _TOLERANCE or array.max() > high + _TOLERANCE):
            raise ValueError(
                f"{name} must be in [{low:g}, {high:g}] where it is of floats (`value_range`={self.value_range!r}), "
                f"got {array.min():.4g} to {array.max():.4g}{where}."
            )
        array = np.clip(array, low, high)
        return array * 2 - 1 if low == 0 else array

    def _resized(self, array: np.ndarray, name: str, where: str) -> np.ndarray:
        height, width = array.shape[:2]
        if self.resize == "none" or 0 in (height, width):
            raise ValueError(
                f"{name} must hold images of {self.image_size} x {self.image_size}, got {height} x {width}{where}; "
                "`resize` of the processor may be 'stretch' or 'crop'."
            )
        if self.resize == "crop":
            side = min(height, width)
            top, left = (height - side) // 2, (width - side) // 2
            array = array[top : top + side, left : left + side]
        size = (self.image_size, self.image_size)
        channels = [
            np.asarray(
                Image.fromarray(np.ascontiguousarray(array[..., channel])).resize(size, Image.Resampling.LANCZOS)
            )
            for channel in range(self.num_channels)
        ]
        return np.clip(np.stack(channels, axis=2), -1, 1)

    def check_model(self, config: EDDPMConfig) -> None:
        """Raise a ValueError if size or channels are not the model's."""
        if config.modality != "image":
            raise ValueError(f"`processor` is for images, got a model of modality {config.modality!r}.")
        own_kinds = (ImageEncoderConfig.model_type, ImageConvConfig.model_type, ImageUNetConfig.model_type)
        for part in ("encoder", "decoder"):
            net: Any = getattr(config, part)
            if net.model_type not in own_kinds:
                continue  # a backbone takes other sizes too, see ImageEncoder
            for name in ("image_size", "num_channels"):
                if getattr(net, name) != getattr(self, name):
                    raise ValueError(
                        f"`{name}` = {getattr(self, name)} does not fit the model, whose {part} has "
                        f"{getattr(net, name)}."
                    )


def num_channels_of(image: Image.Image) -> int:
    """Return the channels that suit a PIL image: 1 if its mode is grey, 3 for colours, palettes included."""
    return 1 if image.mode in _GREY_MODES or image.mode.startswith("I") else 3


def keep_depth(image: Image.Image) -> Image.Image:
    """Return an image whose mode says that it is of 16 bits if its file does: copies forget the file."""
    return image.convert("I;16") if image.mode == "I" and image.format in _16_BIT_FORMATS else image


class _Prepared:
    """An image that the processor has checked and converted already.

    Args:
        array: float32 `(channels, height, width)`, in [-1, 1].
    """

    def __init__(self, array: np.ndarray):
        self.array = array


@checked
def plot_grid(
    images: Sequence[Any],
    num_columns: Count | None = None,
    padding: Annotated[int, Bounds(at_least=0, at_most=1000)] = 2,
    scale: Annotated[int, Bounds(at_least=1, at_most=1000)] = 1,
) -> Image.Image:
    """Lay images out in rows and columns on white, for example samples, or paths of `EDDPMPipeline.interpolate`.

    Args:
        images: Images of one size, filled in row by row; or rows of them, which may differ in length.
        num_columns: Images in a row; by default as many as make the grid about square. Not with rows.
        padding: Pixels between images and around them.
        scale: Whole number that each image is enlarged by, pixels staying sharp.

    Raises:
        TypeError: If something is no PIL image.
        ValueError: If there is no image, sizes differ, or a number is out of range.
    """
    if len(images) == 0:
        raise ValueError("`images` must be a list of at least one image.")
    if isinstance(images[0], (list, tuple)):
        if num_columns is not None:
            raise ValueError("`num_columns` must be None where `images` are rows.")
        rows: list[list[Any]] = [list(row) for row in images]
    else:
        columns = math.ceil(len(images) ** 0.5) if num_columns is None else num_columns
        rows = [list(images[start : start + columns]) for start in range(0, len(images), columns)]
    flat = [image for row in rows for image in row]
    if not flat or not all(isinstance(image, Image.Image) for image in flat):
        raise TypeError("`images` must hold PIL images; `output_type='pil'` gives them.")
    if len(sizes := {image.size for image in flat}) > 1:
        raise ValueError(f"`images` must be of one size, got {sorted(sizes)}.")
    width, height = (side * scale for side in flat[0].size)
    mode = "L" if all(image.mode == "L" for image in flat) else "RGB"
    longest = max(map(len, rows))
    size = (longest * (width + padding) + padding, len(rows) * (height + padding) + padding)
    grid = Image.new(mode, size, "white")
    for y, row in enumerate(rows):
        for x, image in enumerate(row):
            big = image.convert(mode).resize((width, height), Image.Resampling.NEAREST)
            grid.paste(big, (padding + x * (width + padding), padding + y * (height + padding)))
    return grid
