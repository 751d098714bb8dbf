"""Reading images from folders, files and the Hub, each with what is known of it."""

import gzip
import json
import posixpath
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers.utils import logging

from ...data.tables import COMPRESSION, is_local_file, open_parquet, read_csv_rows

logger = logging.get_logger(__name__)

DIGITS = "digits"
IMAGE_FORMATS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
FILE_FORMATS = (".npz", ".parquet", "idx1-ubyte", "idx3-ubyte")
METADATA_FILE = "metadata.csv"

Rows = Iterator[tuple[str, Any, dict[str, Any]]]  # name for messages, image, attributes


def read_stack(source: str) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.float64]], dict[str, list[str]]] | None:
    """Reads a source that is one array (num, height, width, channels); `None` for other sources."""
    path = Path(source)
    if source == DIGITS and not path.exists():
        return _read_digits()
    if not path.is_file():
        return None
    if path.suffix == ".npz":
        return _read_npz(path)
    if path.name.removesuffix(COMPRESSION).endswith("idx3-ubyte"):
        images = _read_idx(path)
        if images.ndim != 3:
            raise ValueError(f"{source!r} must hold images, got an array of {images.ndim} dimensions.")
        labels = path.with_name(path.name.replace("images-idx3", "labels-idx1"))
        attributes = {}
        if labels != path and labels.is_file():
            attributes["label"] = _read_idx(labels).astype(np.float64)
            if len(attributes["label"]) != len(images):
                raise ValueError(f"{str(labels)!r} has {len(attributes['label'])} labels for {len(images)} images.")
        return images[..., None], attributes, {}
    return None


def _read_digits() -> tuple[NDArray[np.uint8], dict[str, NDArray[np.float64]], dict[str, list[str]]]:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError('The digits need scikit-learn: run `pip install "hf_eddpm[train]"`.') from error
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    return images, {"label": digits.target.astype(np.float64)}, {"label": [str(digit) for digit in range(10)]}


def _read_npz(path: Path) -> tuple[NDArray[np.uint8], dict[str, NDArray[np.float64]], dict[str, list[str]]]:
    try:
        arrays = np.load(path, allow_pickle=False)
        names = set(arrays.files)
        if "imgs_packed" in names:
            packed = arrays["imgs_packed"]
            side = round((packed.shape[1] * 8) ** 0.5)
            images = np.unpackbits(packed, axis=1).reshape(-1, side, side) * np.uint8(255)
        elif "images" in names:
            images = arrays["images"]
        else:
            raise ValueError(f"{str(path)!r} must hold `images` or `imgs_packed`, it has {sorted(names)}.")
        attributes = {"label": arrays["labels"].astype(np.float64)} if "labels" in names else {}
        if "factors" in names:
            factors = arrays["factors"].astype(np.float64)
            titles = [str(name) for name in arrays["factor_names"]] if "factor_names" in names else []
            titles = titles or [f"factor_{column}" for column in range(factors.shape[1])]
            attributes |= {title: factors[:, column] for column, title in enumerate(titles)}
    except (OSError, zlib.error, EOFError) as error:
        raise ValueError(f"{str(path)!r} is damaged or no npz file: {error}.") from error
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ValueError(
            f"`images` of {str(path)!r} must be uint8 (num, height, width[, channels]), got {images.dtype} "
            f"{images.shape}."
        )
    if any(len(values) != len(images) for values in attributes.values()):
        raise ValueError(f"{str(path)!r} must have as many labels and factors as images.")
    return images, attributes, {}


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """An array of unsigned bytes in the idx format (LeCun's MNIST page)."""
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{str(path)!r} is damaged: {error}.") from error
    if len(content) < 4 or content[:3] != b"\x00\x00\x08":
        raise ValueError(f"{str(path)!r} is damaged or no idx file of bytes.")
    shape = tuple(np.frombuffer(content, ">u4", content[3], 4).tolist())
    values = np.frombuffer(content, np.uint8, offset=4 + 4 * content[3])
    if len(values) != np.prod(shape):
        raise ValueError(f"{str(path)!r} is damaged: it has {len(values)} of {np.prod(shape)} bytes.")
    return values.reshape(shape)


def read_rows(source: str, split: str | None, image_column: str, class_names: dict[str, list[str]]) -> Rows:
    """Yields image by image of a folder, a parquet file or a Hub data set; `class_names` is filled in."""
    path = Path(source)
    if path.is_dir():
        yield from _read_folder(path, class_names)
    elif is_local_file(path, source, FILE_FORMATS):
        yield from _read_parquet(path, image_column, class_names)
    else:
        yield from _read_hub(source, split, image_column, class_names)


def _read_folder(folder: Path, class_names: dict[str, list[str]]) -> Rows:
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_FORMATS and path.is_file() and not _is_hidden(path.relative_to(folder))
    )
    if not files:
        raise ValueError(f"{str(folder)!r} holds no images: none of its files ends in one of {list(IMAGE_FORMATS)}.")
    metadata: dict[str, dict[str, Any]] = {}
    table = folder / METADATA_FILE
    if table.is_file():
        metadata = _read_metadata(table)
        names = {path.relative_to(folder).as_posix() for path in files}
        if unknown := [name for name in metadata if name not in names]:
            raise ValueError(
                f"{str(table)!r} speaks of {len(unknown)} files that are no images of the folder, {unknown[0]!r} for "
                "one."
            )
        if len(metadata) < len(names):
            logger.warning(f"{str(table)!r} has no row for {len(names) - len(metadata)} of {len(names)} images.")
    classes = sorted({path.parent.relative_to(folder).as_posix() for path in files})
    labelled = len(classes) > 1 or classes != ["."]
    if labelled:
        class_names["label"] = classes
        if empty := _empty_folders(folder):
            logger.warning(f"Folders of {str(folder)!r} without images are no classes: {', '.join(empty)}.")
    for path in files:
        name = path.relative_to(folder).as_posix()
        label = {"label": classes.index(path.parent.relative_to(folder).as_posix())} if labelled else {}
        yield repr(name), path, {**label, **metadata.get(name, {})}


def _empty_folders(folder: Path) -> list[str]:
    """The folders inside that hold nothing."""
    inside = (path for path in folder.rglob("*") if path.is_dir() and not _is_hidden(path.relative_to(folder)))
    return sorted(repr(path.relative_to(folder).as_posix()) for path in inside if not any(path.iterdir()))


def _read_metadata(table: Path) -> dict[str, dict[str, Any]]:
    """What a table says of each image, by the image's path."""
    metadata: dict[str, dict[str, Any]] = {}
    for row in read_csv_rows(table):
        if "file_name" not in row:
            raise ValueError(f"{str(table)!r} must have a column 'file_name', it has {sorted(row)}.")
        name = posixpath.normpath(str(row.pop("file_name")).replace("\\", "/"))
        if name in metadata:
            raise ValueError(f"{str(table)!r} has several rows for the image {name!r}.")
        metadata[name] = row
    return metadata


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def _read_parquet(path: Path, image_column: str, class_names: dict[str, list[str]]) -> Rows:
    file = open_parquet(path)
    names = file.schema_arrow.names
    _check_column(image_column, names, str(path))
    stored = json.loads((file.schema_arrow.metadata or {}).get(b"huggingface", b"{}"))
    for name, feature in stored.get("info", {}).get("features", {}).items():
        if isinstance(feature, dict) and feature.get("_type") == "ClassLabel":
            class_names[name] = list(feature["names"])
    row = 0
    for batch in file.iter_batches():
        columns = {name: batch.column(name).to_pylist() for name in names}
        images = columns.pop(image_column)
        for place, image in enumerate(images):
            yield f"image {row} of {path.name!r}", image, {name: column[place] for name, column in columns.items()}
            row += 1


def _read_hub(name: str, split: str | None, image_column: str, class_names: dict[str, list[str]]) -> Rows:
    try:
        from datasets import Image as ImageFeature
        from datasets import load_dataset
        from datasets.exceptions import DatasetNotFoundError
    except ImportError as error:
        raise ImportError('Data from the Hub needs datasets: run `pip install "hf_eddpm[train]"`.') from error
    if split is None:
        raise ValueError(f"`split` is required for the data set {name!r}, for example 'train'.")
    try:
        dataset = load_dataset(name, split=split)
    except DatasetNotFoundError as error:
        raise ValueError(f"{name!r} is neither a local file nor a data set that can be found: {error}") from error
    _check_column(image_column, dataset.column_names, name)
    for column, feature in dataset.features.items():
        if getattr(feature, "names", None):
            class_names[column] = list(feature.names)
    for row, values in enumerate(dataset.cast_column(image_column, ImageFeature(decode=False))):
        image = values.pop(image_column)
        yield f"image {row} of {name!r}", image, values


def _check_column(column: str, available: Iterable[str], where: str) -> None:
    if column not in available:
        raise ValueError(f"`image_column` {column!r} is not in {where!r}; it has {sorted(available)}.")
