"""Reading images from folders, files and the Hub, each with what is known of it."""

import gzip
import json
import math
import posixpath
import struct
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from transformers.utils import logging

from ...data.tables import COMPRESSION, is_local_file, open_parquet, read_batches, read_csv_rows

logger = logging.get_logger(__name__)

DIGITS = "digits"
FILE_FORMATS = (".npz", ".parquet", "idx1-ubyte", "idx3-ubyte")
METADATA_FILE = "metadata.csv"
MAX_NAMED = 5  # files or damaged images that a warning names

# Formats that Pillow knows and takes no pixels from: it only writes them, or leaves them to other programs.
_NO_PIXELS = {"BUFR", "EPS", "GRIB", "HDF5", "MPEG", "PALM", "PDF", "WMF"}
# Ends of names that nobody takes for pictures: what is said of them, and what systems leave behind.
_COMPANIONS = (".csv", ".json", ".jsonl", ".md", ".tsv", ".txt", ".xml", ".yaml", ".yml", "desktop.ini", "thumbs.db")
_ARRAYS = ("images", "imgs_packed", "labels", "factors", "factor_names")  # of an npz file
_ARCHIVE_DAMAGE = (OSError, EOFError, LookupError, RuntimeError, struct.error, zipfile.BadZipFile, zlib.error)

Rows = Iterator[tuple[str, Any, dict[str, Any]]]  # name for messages, image, attributes
Stack = tuple[NDArray[np.uint8], dict[str, NDArray[np.float64]], dict[str, list[str]]]


def image_formats() -> frozenset[str]:
    """The endings of files that Pillow reads, with the plug-ins that are registered at the moment."""
    return frozenset(end for end, name in Image.registered_extensions().items() if name not in _NO_PIXELS)


def read_stack(source: str) -> Stack | None:
    """Reads a source that is one array (num, height, width, channels); `None` for other sources.

    Raises:
        ValueError: The file is damaged, holds no image, or something else than images and numbers.
    """
    stack = _read_arrays(source)
    if stack is not None and 0 in stack[0].shape:
        raise ValueError(f"{source!r} holds no images: its array has the shape {stack[0].shape}.")
    return stack


def _read_arrays(source: str) -> Stack | None:
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
            if attributes["label"].shape != (len(images),):
                raise ValueError(
                    f"{str(labels)!r} must have one label for each of {len(images)} images, got an array of the shape "
                    f"{attributes['label'].shape}."
                )
        return images[..., None], attributes, {}
    return None


def _read_digits() -> Stack:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise ImportError('The digits need scikit-learn: run `pip install "hf_eddpm[train]"`.') from error
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[..., None]
    return images, {"label": digits.target.astype(np.float64)}, {"label": [str(digit) for digit in range(10)]}


def _read_npz(path: Path) -> Stack:
    arrays = _load_npz(path)
    if "imgs_packed" in arrays:
        images = _unpacked(arrays["imgs_packed"], path)
    else:
        images = arrays["images"]
    images = images[..., None] if images.ndim == 3 else images
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[3] not in (1, 3):
        raise ValueError(
            f"`images` of {str(path)!r} must be uint8 (num, height, width[, channels]), got {images.dtype} "
            f"{images.shape}."
        )
    attributes = {}
    if "labels" in arrays:
        attributes["label"] = _as_floats(arrays["labels"], "labels", 1, len(images), path)
    if "factors" in arrays:
        factors = _as_floats(arrays["factors"], "factors", 2, len(images), path)
        titles = [str(name) for name in arrays.get("factor_names", np.empty(0)).reshape(-1)]
        titles = titles or [f"factor_{column}" for column in range(factors.shape[1])]
        if len(titles) != factors.shape[1] or len(set(titles)) != len(titles):
            raise ValueError(
                f"`factor_names` of {str(path)!r} must be {factors.shape[1]} different names, one for each column of "
                f"`factors`, got {titles}."
            )
        attributes |= {title: factors[:, column] for column, title in enumerate(titles)}
    return images, attributes, {}


def _load_npz(path: Path) -> dict[str, NDArray[Any]]:
    """The arrays of an npz file that mean something here, by name."""
    with path.open("rb") as stream:
        if not zipfile.is_zipfile(stream):
            raise ValueError(f"{str(path)!r} is damaged or no npz file: it is no whole zip archive.")
    arrays, name = {}, "the list of arrays"
    try:
        with np.load(path, allow_pickle=False) as archive:
            names = sorted(archive.files)
            for name in _ARRAYS:
                if name in names:
                    arrays[name] = archive[name]
                    if not isinstance(arrays[name], np.ndarray):  # numpy gives bytes where it knows no array
                        raise ValueError("no array")
    except ValueError as error:  # numpy's own words advise to allow pickles, which run what a file holds
        raise ValueError(f"`{name}` of {str(path)!r} is damaged, or an array of Python objects.") from error
    except _ARCHIVE_DAMAGE as error:
        raise ValueError(f"{str(path)!r} is damaged: {error}.") from error
    if not arrays.keys() & {"images", "imgs_packed"}:
        raise ValueError(f"{str(path)!r} must hold `images` or `imgs_packed`, it has {names}.")
    return arrays


def _unpacked(packed: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    """Black and white images from their bits, uint8 (num, side, side)."""
    bits = 8 * packed.shape[1] if packed.ndim == 2 else 0
    side = math.isqrt(bits)
    if packed.dtype != np.uint8 or not bits or side**2 != bits:
        raise ValueError(
            f"`imgs_packed` of {str(path)!r} must be uint8 (num, side * side / 8), the bits of square images, got "
            f"{packed.dtype} {packed.shape}."
        )
    return np.unpackbits(packed, axis=1).reshape(-1, side, side) * np.uint8(255)


def _as_floats(values: NDArray[Any], name: str, ndim: int, num: int, path: Path) -> NDArray[np.float64]:
    """Labels or factors, checked to be numbers, one row for each image."""
    if values.dtype.kind not in "biuf":
        raise ValueError(f"`{name}` of {str(path)!r} must be numbers, got {values.dtype}: number what has names.")
    if values.ndim != ndim or len(values) != num:
        shape = "(num,)" if ndim == 1 else "(num, num_factors)"
        raise ValueError(f"`{name}` of {str(path)!r} must be {shape} for {num} images, got {values.shape}.")
    return values.astype(np.float64)


def _read_idx(path: Path) -> NDArray[np.uint8]:
    """An array of unsigned bytes in the idx format (LeCun's MNIST page)."""
    opener: Any = gzip.open if path.suffix == ".gz" else open
    try:
        with opener(path, "rb") as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as error:
        raise ValueError(f"{str(path)!r} is damaged: {error}.") from error
    start = 4 + 4 * content[3] if len(content) >= 4 else 0  # of the values, behind the sizes
    if content[:3] != b"\x00\x00\x08" or not 4 < start <= len(content):
        raise ValueError(f"{str(path)!r} is damaged or no idx file of bytes.")
    shape = struct.unpack(f">{content[3]}I", content[4:start])
    if len(content) - start != math.prod(shape):
        raise ValueError(f"{str(path)!r} is damaged: it has {len(content) - start} of {math.prod(shape)} bytes.")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def read_rows(source: str, split: str | None, image_column: str, class_names: dict[str, list[str]]) -> Rows:
    """Yields image by image of a folder, a parquet file or a Hub data set; `class_names` is filled in."""
    path = Path(source)
    if path.is_dir():
        yield from _read_folder(path, class_names)
    elif is_local_file(path, source, FILE_FORMATS):
        yield from _read_parquet(path, image_column, class_names)
    else:
        yield from _read_hub(source, split, image_column, class_names)


def pictures_in(folder: Path) -> list[Path]:
    """Return the pictures in a folder at any depth, sorted, without hidden ones; others are mentioned in the log.

    Raises:
        ValueError: If there are none.
    """
    found = sorted(path for path in folder.rglob("*") if path.is_file() and not _is_hidden(path.relative_to(folder)))
    endings = image_formats()
    files = [path for path in found if path.suffix.lower() in endings]
    others = [
        path for path in found if path.suffix.lower() not in endings and not path.name.lower().endswith(_COMPANIONS)
    ]
    if not files:
        named = f"; it holds {_listed(others, folder)}" if others else ""
        raise ValueError(
            f"{str(folder)!r} holds no images: none of its files ends in .png, .jpg or another ending that Pillow "
            f"reads{named}."
        )
    if others:
        logger.warning(
            f"{len(others)} files of {str(folder)!r} have endings that Pillow does not read and were left out: "
            f"{_listed(others, folder)}"
        )
    return files


def _read_folder(folder: Path, class_names: dict[str, list[str]]) -> Rows:
    files = pictures_in(folder)
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
        if empty := _folders_without(files, folder):
            logger.warning(f"Folders of {str(folder)!r} without images are no classes: {', '.join(empty)}.")
    for path in files:
        name = path.relative_to(folder).as_posix()
        label = {"label": classes.index(path.parent.relative_to(folder).as_posix())} if labelled else {}
        yield repr(str(path)), path, {**label, **metadata.get(name, {})}


def _folders_without(files: Sequence[Path], folder: Path) -> list[str]:
    """The outermost folders inside that hold none of the files at any depth."""
    full = {parent for path in files for parent in path.parents}
    inside = (path for path in folder.rglob("*") if path.is_dir() and not _is_hidden(path.relative_to(folder)))
    outermost = (path for path in inside if path not in full and path.parent in full)
    return sorted(repr(path.relative_to(folder).as_posix()) for path in outermost)


def _listed(files: Sequence[Path], folder: Path) -> str:
    """The first few files, as they are called in the folder."""
    named = [repr(path.relative_to(folder).as_posix()) for path in files[:MAX_NAMED]]
    return ", ".join(named) + (", ..." if len(files) > MAX_NAMED else "")


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
    for batch in read_batches(file, path):
        columns = {name: batch.column(name).to_pylist() for name in names}
        images = columns.pop(image_column)
        for place, image in enumerate(images):
            yield f"image {row} of {str(path)!r}", image, {name: column[place] for name, column in columns.items()}
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
