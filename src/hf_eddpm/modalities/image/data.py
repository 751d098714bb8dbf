"""Images with their attributes, from local files or from the Hugging Face Hub, in memory.

    load_images("digits")                                              # scikit-learn's 8 x 8 digits, with their labels
    load_images("train-images-idx3-ubyte.gz")                          # idx; labels from the file beside it
    load_images("train.parquet", num_channels=3)                       # `datasets`' image column and its neighbours
    load_images("sprites.npz")                                         # `images` or `imgs_packed`, `labels`, `factors`
    load_images("photos/", image_size=64, resize="crop")               # a folder; subfolders are classes
    load_images("user/images", split="train")                          # the Hub

A folder may hold metadata.csv, whose column `file_name` says to which image a row of attributes belongs. Every
file with an ending that Pillow reads is an image; other files are mentioned in the log, but for texts and tables.
"""

import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from transformers.utils import logging

from ...data.class_names import join_names, renumber
from .files import MAX_NAMED, Rows, read_rows, read_stack
from .processing import DAMAGE, EDDPMImageProcessor, Resize, keep_depth, num_channels_of

logger = logging.get_logger(__name__)

ON_DAMAGED = ("error", "skip")


@dataclass
class ImageData:
    """Images in the order of their sources.

    Attributes:
        images: uint8 (num, height, width, channels).
        attributes: Values by name, float64 (num,); NaN where missing.
        class_names: What the integers of an attribute stand for, where that is known.
        sources: Where the images came from, as the user wrote it.
        damaged: Names of images that could not be read and were left out.
        num_unread: Images after the first of files that hold several, which were not read.
        resize: What was done to images of another size, as for `EDDPMImageProcessor`.
        background: Grey level that was put behind transparent images.
    """

    images: NDArray[np.uint8]
    attributes: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    class_names: dict[str, list[str]] = field(default_factory=dict)
    sources: list[str] = field(default_factory=list)
    damaged: list[str] = field(default_factory=list)
    num_unread: int = 0
    resize: Resize = "none"
    background: int = 255

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_size(self) -> int:
        """Height and width."""
        return self.images.shape[1]

    @property
    def num_channels(self) -> int:
        """1 or 3."""
        return self.images.shape[3]

    def take(self, rows: Sequence[int] | NDArray[np.integer] | slice) -> "ImageData":
        """The images at `rows`, in that order."""
        rows = rows if isinstance(rows, slice) else np.asarray(rows, dtype=int)
        attributes = {name: values[rows] for name, values in self.attributes.items()}
        return replace(self, images=self.images[rows], attributes=attributes, damaged=[], num_unread=0)

    def sample(self, num_images: int, seed: int) -> "ImageData":
        """A random subset without replacement, in the original order; all of the data if it is not larger."""
        if num_images < 1:
            raise ValueError(f"`num_images` must be at least 1, got {num_images}.")
        if num_images >= len(self):
            return self
        return self.take(np.sort(np.random.default_rng(seed).choice(len(self), num_images, replace=False)))

    def attribute(self, name: str) -> NDArray[np.float64]:
        """The values of one attribute.

        Raises:
            ValueError: There is no such attribute.
        """
        if name not in self.attributes:
            raise ValueError(f"`attribute` must be one of {sorted(self.attributes)}, got {name!r}.")
        return self.attributes[name]

    def with_classes_of(self, other: "ImageData", label_column: str | None = None) -> "ImageData":
        """The same images, their classes numbered as in other data, by name.

        Args:
            other: The training data.
            label_column: The attribute that must have its classes there; any other one that has not is left out, with
                a warning.

        Raises:
            ValueError: A class of `label_column` is not among the other data's.
        """
        attributes = {}
        for name, values in self.attributes.items():
            own, names = self.class_names.get(name), other.class_names.get(name)
            try:
                known = name in other.attributes
                attributes[name] = renumber(values, own, names, name, repr(self.sources)) if known else values
            except ValueError as error:
                if name == label_column:
                    raise
                logger.warning(f"{error} The attribute is left out there.")
        class_names = {**self.class_names, **{name: other.class_names[name] for name in other.class_names}}
        kept = {name: names for name, names in class_names.items() if name in attributes}
        return replace(self, attributes=attributes, class_names=kept)

    def labels(self, name: str, num_classes: int | None = None) -> NDArray[np.int64]:
        """An attribute as class labels.

        Args:
            name: The attribute.
            num_classes: How many classes there are; by default as many as the largest label says.

        Raises:
            ValueError: There is no such attribute, or a value is missing, no integer or outside [0, num_classes).
        """
        values = self.attribute(name)
        high = np.inf if num_classes is None else num_classes
        wrong = np.flatnonzero(~((values == np.floor(values)) & (values >= 0) & (values < high)))
        if len(wrong):
            allowed = "non-negative" if num_classes is None else f"in [0, {num_classes})"
            raise ValueError(
                f"`{name}` must hold class labels (integers, {allowed}), got {values[wrong[0]]:g} at image {wrong[0]}."
            )
        return values.astype(np.int64)


def load_images(
    source: str | Sequence[str],
    split: str | None = None,
    image_column: str = "image",
    image_size: int | None = None,
    num_channels: int | None = None,
    resize: Resize = "none",
    background: int = 255,
    on_damaged: str = "error",
) -> ImageData:
    """Reads images and what is known of each.

    Args:
        source: "digits", a Hub data set id, a folder, a file (.npz, .parquet, idx with or without .gz), or a list of
            these but for Hub ids.
        split: Split of a Hub data set, for example "train".
        image_column: Column of the image in a parquet file or a Hub data set.
        image_size: Height and width; by default the first image's.
        num_channels: 1 or 3; by default the first image's.
        resize: What happens to images of another size, as for `EDDPMImageProcessor`.
        background: Grey level behind transparent images, as for `EDDPMImageProcessor`.
        on_damaged: "error" to stop at an image that cannot be read, or "skip" to leave such images out, counted and
            named in the log.

    Raises:
        FileNotFoundError: A local file does not exist.
        ImportError: The source needs a package that is not installed.
        ValueError: Unknown file ending, a damaged file or image, images of another size, an empty source.
    """
    if on_damaged not in ON_DAMAGED:
        raise ValueError(f"`on_damaged` must be one of {list(ON_DAMAGED)}, got {on_damaged!r}.")
    sources = [source] if isinstance(source, str) else list(source)
    if not sources:
        raise ValueError("`source` must name at least one source of images.")
    parts: list[ImageData] = []
    for each in sources:
        names: dict[str, list[str]] = {}
        stack = read_stack(each)
        if stack is not None:
            images, attributes, names = stack
            fits = image_size in (None, images.shape[1]) and images.shape[1] == images.shape[2]
            if fits and num_channels in (None, images.shape[3]):
                part = ImageData(images, attributes, names)
            else:
                rows: Rows = (
                    (f"image {row} of {each!r}", Image.fromarray(image[..., 0] if image.shape[2] == 1 else image), {})
                    for row, image in enumerate(images)
                )
                part = _collect(rows, each, image_size, num_channels, resize, background, on_damaged)
                part.attributes, part.class_names = attributes, names
        else:
            rows = read_rows(each, split, image_column, names)
            part = _collect(rows, each, image_size, num_channels, resize, background, on_damaged)
            part.class_names = names
            _check_classes(part, each)
        image_size, num_channels = part.image_size, part.num_channels
        parts.append(part)
    common = [name for name in parts[0].attributes if all(name in part.attributes for part in parts)]
    class_names, columns = {}, {}
    for name in common:
        own = [part.class_names.get(name) for part in parts]
        joined = join_names(own, name)
        if joined is not None:
            class_names[name] = joined
        columns[name] = np.concatenate(
            [
                renumber(part.attributes[name], names, joined, name, repr(each))
                for part, names, each in zip(parts, own, sources, strict=True)
            ]
        )
    return ImageData(
        np.concatenate([part.images for part in parts]),
        columns,
        class_names,
        sources,
        [name for part in parts for name in part.damaged],
        sum(part.num_unread for part in parts),
        resize,
        background,
    )


def _check_classes(data: ImageData, source: str) -> None:
    """Raises a ValueError if the damaged images left a class of a folder without any."""
    for name, titles in data.class_names.items():
        if data.damaged and name in data.attributes:
            empty = sorted(set(range(len(titles))) - set(data.attributes[name].tolist()))
            if empty:
                raise ValueError(
                    f"The class {titles[empty[0]]!r} of {source!r} has no image that can be read: mend or remove it."
                )


def hold_out(
    num: int, dev_last: int | None, dev_fraction: float, seed: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Splits data into training and held-out ones.

    Args:
        num: How many there are.
        dev_last: Hold out the last so many, in [1, num); `None` for a random share.
        dev_fraction: That share, in (0, 1).
        seed: Of the draw.

    Returns:
        The rows of each, ascending.

    Raises:
        ValueError: One of these is outside its range, or nothing is left to train on.
    """
    if dev_last is not None:
        if not 1 <= dev_last < num:
            raise ValueError(f"`dev_last` must be in [1, {num}), got {dev_last}.")
        return np.arange(num - dev_last), np.arange(num - dev_last, num)
    if not 0 < dev_fraction < 1:
        raise ValueError(f"`dev_fraction` must be in (0, 1), got {dev_fraction}.")
    order = np.random.default_rng(seed).permutation(num)
    count = max(1, round(num * dev_fraction))
    if count == num:
        raise ValueError("`train` must hold at least two data where `dev` is not given.")
    return np.sort(order[count:]), np.sort(order[:count])


def _collect(
    rows: Rows,
    source: str,
    image_size: int | None,
    num_channels: int | None,
    resize: Resize,
    background: int,
    on_damaged: str,
) -> ImageData:
    """Converts image by image."""
    images, damaged = [], []
    with_more, num_unread = 0, 0
    attributes: list[dict[str, Any]] = []
    processor = None
    for name, raw, values in rows:
        try:
            image, num_frames = open_image(raw)
        except DAMAGE as error:
            if on_damaged == "error":
                raise ValueError(
                    f"{name} is damaged or no image ({error}); `on_damaged` 'skip' leaves such images out."
                ) from error
            damaged.append(name)
            continue
        with_more += num_frames > 1
        num_unread += num_frames - 1
        if processor is None:
            size = min(image.size) if image_size is None else image_size
            processor = EDDPMImageProcessor(
                size,
                num_channels or num_channels_of(image),
                resize=resize,
                background=background,
            )
        try:
            pixels = processor(image)["pixel_values"][0]
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from error
        images.append(((pixels.numpy().transpose(1, 2, 0) + 1) * 127.5).round().astype(np.uint8))
        attributes.append(values)
    if damaged:
        named = ", ".join(damaged[:MAX_NAMED]) + (", ..." if len(damaged) > MAX_NAMED else "")
        logger.warning(f"{len(damaged)} damaged images of {source!r} were left out: {named}")
    if with_more:
        logger.warning(
            f"{with_more} files of {source!r} hold several images: the first of each was read, {num_unread} were not."
        )
    if not images:
        raise ValueError(f"{source!r} holds no images{' that can be read' if damaged else ''}.")
    names = list(dict.fromkeys(name for values in attributes for name in values))
    columns = {name: _as_numbers([values.get(name) for values in attributes]) for name in names}
    kept = {name: column for name, column in columns.items() if column is not None}
    return ImageData(np.stack(images), kept, damaged=damaged, num_unread=num_unread)


def open_image(raw: Any) -> tuple[Image.Image, int]:
    """Decodes an image whole, so that damage shows here; of a file with several (animations, pages) the first.

    Args:
        raw: A PIL image, the bytes of a file, its path, an open file, or a mapping of `bytes` and `path`.

    Returns:
        The image, and how many there are.

    Raises:
        ValueError: If there is nothing, or nothing of these; `DAMAGE` lists what else a damaged file may raise.
    """
    if isinstance(raw, dict):  # of `datasets`
        raw = raw["bytes"] if raw.get("bytes") is not None else raw.get("path")
    if raw is None:
        raise ValueError("its value is missing")
    if isinstance(raw, bytes):
        raw = io.BytesIO(raw)
    if not isinstance(raw, (Image.Image, str, os.PathLike)) and not hasattr(raw, "read"):
        raise ValueError(f"its value is of type {type(raw).__name__}")
    image = raw if isinstance(raw, Image.Image) else Image.open(raw)
    image.load()
    num_frames = getattr(image, "n_frames", 1)  # looking for them may leave the first
    if num_frames > 1:
        image.seek(0)
    return ImageOps.exif_transpose(keep_depth(image)), num_frames


def _as_numbers(values: Sequence[Any]) -> NDArray[np.float64] | None:
    """A column as floats, NaN where empty; `None` if it is not of numbers."""
    try:
        return np.array([np.nan if value in (None, "") else float(value) for value in values])
    except (TypeError, ValueError):
        return None
