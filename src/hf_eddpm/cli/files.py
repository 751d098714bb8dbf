"""Data in and out of the command line: files by their endings, `-` for the standard streams."""

import csv
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image

STANDARD = "-"
TABLES = (".csv", ".tsv", ".jsonl")
TEXTS = (".txt", ".fasta", ".fa")
OUTPUTS = (*TABLES, *TEXTS, ".parquet", ".npz")


def read_lines() -> list[str]:
    """Return the lines of the standard input that are not empty, as those of a file: without space at their ends.

    Raises:
        ValueError: If there are none, or they are not UTF-8.
    """
    try:
        text = sys.stdin.buffer.read().decode("utf-8-sig")  # whatever the locale; without a byte order mark
    except UnicodeDecodeError as error:
        raise ValueError(f"The standard input is not UTF-8 text: {error}.") from error
    if not (data := [stripped for line in text.split("\n") if (stripped := line.strip())]):
        raise ValueError("The standard input holds no data: one datum a line is expected.")
    return data


def is_path(source: str) -> bool:
    """Return whether there is a file or folder of that name; what cannot be a name is none."""
    try:
        return Path(source).exists()
    except (OSError, ValueError):  # too long for a name, or with a NUL in it
        return False


def check_output(output: str, columns: Sequence[str], images: bool = False, more: Sequence[str] = ()) -> None:
    """Raise a ValueError, before anything is computed, unless results can be written there.

    Args:
        output: File, folder of images, or "-".
        columns: What the results are called; a format of text takes a single one.
        images: Whether the results are images.
        more: Endings of files that the caller writes itself.
    """
    if images:
        if output == STANDARD or Path(output).suffix not in ("", ".npz"):
            raise ValueError(f"`--output` must be a folder or a .npz file for images, got {output!r}.")
        return
    if output == STANDARD:
        return
    suffix = Path(output).suffix.lower()
    if suffix not in (*OUTPUTS, *more):
        raise ValueError(f"`--output` must end in one of {', '.join((*OUTPUTS, *more))} or be '-', got {output!r}.")
    if suffix in TEXTS and len(columns) > 1:
        raise ValueError(f"`--output` {suffix} holds one column, these are {list(columns)}: use .csv or .jsonl.")
    if not Path(output).absolute().parent.is_dir():
        raise ValueError(f"`--output` must lie in an existing folder, got {output!r}.")


def write_table(output: str, columns: dict[str, Sequence[Any]]) -> None:
    """Write columns of the same length: tab-separated to the standard output, else by the ending of the file.

    Args:
        output: File or "-".
        columns: Values by name; texts, numbers or rows of numbers.
    """
    suffix = Path(output).suffix.lower()
    if suffix == ".npz":
        arrays: dict[str, Any] = {name: np.asarray(values) for name, values in columns.items()}
        np.savez(output, **arrays)
        return
    rows = [dict(zip(columns, map(_plain, row), strict=True)) for row in zip(*columns.values(), strict=True)]
    if suffix == ".parquet":
        _write_parquet(output, columns)
        return
    with _opened(output) as file:
        if suffix in (".fasta", ".fa"):
            (values,) = columns.values()
            file.writelines(f">{number}\n{value}\n" for number, value in enumerate(values, start=1))
        elif suffix == ".jsonl":
            file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        elif suffix in (".csv", ".tsv"):
            writer = csv.DictWriter(
                file, list(columns), delimiter="," if suffix == ".csv" else "\t", lineterminator="\n"
            )
            writer.writeheader()
            writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
        else:
            file.writelines("\t".join(str(_cell(value)) for value in row.values()) + "\n" for row in rows)


def write_images(output: str, images: Sequence[Image.Image], names: Sequence[str] | None = None) -> None:
    """Write images as PNG files of a folder, or as an array `images` of a .npz file.

    Args:
        output: Folder or .npz file.
        images: The images.
        names: Their files' names without an ending; by default their numbers.
    """
    if Path(output).suffix == ".npz":
        np.savez(output, images=np.stack([np.asarray(image) for image in images]))
        return
    folder = Path(output)
    folder.mkdir(parents=True, exist_ok=True)
    width = len(str(len(images)))
    for number, image in enumerate(images):
        image.save(folder / f"{names[number] if names else str(number).zfill(width)}.png")


@contextmanager
def _opened(output: str) -> Iterator[IO[str]]:
    if output == STANDARD:
        yield sys.stdout
        return
    with open(output, "w", encoding="utf-8", newline="") as file:
        yield file


def _plain(value: Any) -> Any:
    """Return a value as plain Python: numbers, texts, lists."""
    return value.tolist() if hasattr(value, "tolist") else value


def _cell(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, (list, dict)) else value


def _write_parquet(output: str, columns: dict[str, Sequence[Any]]) -> None:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ImportError('Writing .parquet needs pyarrow: run `pip install "hf_eddpm[train]"`.') from error
    parquet.write_table(pyarrow.table({name: _plain(values) for name, values in columns.items()}), output)
