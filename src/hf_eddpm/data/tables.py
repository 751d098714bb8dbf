"""Rows of tables, from local files (csv, tsv, jsonl, parquet) or from the Hugging Face Hub."""

import codecs
import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

COMPRESSION = ".gz"
_DAMAGE = (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError)
_LONGEST_FIELD = 2**31 - 1  # characters; csv's own limit is 131,072
TABLE_FORMATS = (".csv", ".tsv", ".jsonl", ".parquet")

# Columns to read, each with the name of the argument that asks for it, which errors quote.
Columns = Sequence[tuple[str, str]]


def is_local_file(path: Path, item: str, formats: tuple[str, ...]) -> bool:
    """Whether a source is a local file; raises if it can only be one and is missing or of an unknown kind.

    Args:
        path: The source as a path.
        item: The source as the user wrote it.
        formats: The known endings; all but .parquet may be followed by .gz.
    """
    known = path.name.removesuffix(COMPRESSION).endswith(formats)
    if path.is_file():
        if not known or path.name.endswith(f".parquet{COMPRESSION}"):
            raise ValueError(
                f"{str(path)!r} has an unknown ending; allowed are {', '.join(formats)}, "
                f"all but .parquet also followed by {COMPRESSION}."
            )
        return True
    # A Hub id is "name" or "user/name"; anything that looks like a path must be one.
    looks_local = known or path.is_absolute() or item.startswith((".", "~")) or len(path.parts) > 2
    if looks_local and not path.is_dir():
        raise FileNotFoundError(f"No such file: {str(path)!r}.")
    return False


@contextmanager
def open_text(path: Path) -> Iterator[IO[str]]:
    """Opens a text file, compressed or not; one that is damaged or not UTF-8 raises a ValueError that names it."""
    opener: Callable[..., IO[Any]] = gzip.open if path.name.endswith(COMPRESSION) else open
    try:
        with opener(path, "rb") as raw:
            head = raw.read(4096)
        if b"\0" in head or head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
            raise ValueError(f"{str(path)!r} is UTF-16 or no text: save it as UTF-8.")
        # "utf-8-sig" drops a byte order mark; newline="" leaves line ends as they are, as the csv module asks
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            yield file
    except _DAMAGE as error:
        raise ValueError(f"{str(path)!r} is damaged or not UTF-8 text: {error}.") from error


def read_table(path: Path, columns: Columns) -> Iterator[tuple[Any, ...]]:
    """Yields the values of `columns` for every row of a local table; an empty line of .jsonl gives only `None`."""
    name = path.name.removesuffix(COMPRESSION)
    if name.endswith(".parquet"):
        yield from _read_parquet(path, columns)
        return
    with open_text(path) as file:
        yield from (_read_jsonl if name.endswith(".jsonl") else _read_csv)(file, path, columns)


def read_hub(name: str, split: str | None, columns: Columns, config_name: str | None) -> Iterator[tuple[Any, ...]]:
    """Yields the values of `columns` for every row of a data set that `datasets.load_dataset` reads."""
    try:
        from datasets import load_dataset
        from datasets.exceptions import DatasetNotFoundError
    except ImportError as error:
        raise ImportError('Data from the Hub needs datasets: run `pip install "hf_eddpm[train]"`.') from error
    if split is None:
        raise ValueError(f"`split` is required for the data set {name!r}, for example 'train'.")
    try:
        dataset = load_dataset(name, config_name, split=split)
    except DatasetNotFoundError as error:
        raise ValueError(f"{name!r} is neither a local file nor a data set that can be found: {error}") from error
    _check_columns(dataset.column_names, name, columns)
    yield from zip(*(dataset[column] for _, column in columns), strict=True)


def _read_csv(file: IO[str], path: Path, columns: Columns) -> Iterator[tuple[Any, ...]]:
    reader = _csv_reader(file, path)
    _check_columns(reader.fieldnames or [], path, columns)
    for row in _csv_rows(reader, path):
        yield tuple(row[column] for _, column in columns)


def read_csv_rows(path: Path) -> Iterator[dict[str, str | None]]:
    """Yields every row of a .csv or .tsv file by the names of its columns."""
    with open_text(path) as file:
        yield from _csv_rows(_csv_reader(file, path), path)


def _csv_reader(file: IO[str], path: Path) -> "csv.DictReader[str]":
    csv.field_size_limit(_LONGEST_FIELD)
    if ".tsv" in path.name:  # of tab-separated values a quote is a character: one alone must not swallow rows
        reader = csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    else:  # strict: a stray quote would otherwise swallow the rows up to the next one
        reader = csv.DictReader(file, strict=True)
    try:
        _refuse_repeated(reader.fieldnames or [], path)
    except csv.Error as error:
        raise ValueError(f"{str(path)!r} is malformed in its first line: {error}.") from error
    return reader


def _csv_rows(reader: "csv.DictReader[str]", path: Path) -> Iterator[dict[str, str | None]]:
    is_tsv = ".tsv" in path.name
    try:
        for row in reader:
            if None in row:
                raise ValueError(
                    f"Line {reader.line_num} of {str(path)!r} has more fields than the header; "
                    "quote a value that contains the separator."
                )
            yield {name: _unquoted(value) for name, value in row.items()} if is_tsv else row
    except csv.Error as error:
        raise ValueError(f"{str(path)!r} is malformed after line {reader.line_num}: {error}.") from error


def _refuse_repeated(names: Sequence[str], where: Path | str) -> None:
    if repeated := sorted({name for name in names if list(names).count(name) > 1}):
        raise ValueError(f"{str(where)!r} has several columns {repeated[0]!r}: give each a name of its own.")


def _unquoted(value: str | None) -> str | None:
    """Return a field without the quotes that a writer put around the whole of it."""
    if value is None or not re.fullmatch(r'"(?:[^"]|"")*"', value):
        return value
    return value[1:-1].replace('""', '"')


def _read_jsonl(file: IO[str], path: Path, columns: Columns) -> Iterator[tuple[Any, ...]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            yield (None,) * len(columns)
            continue
        try:
            row = json.loads(line, object_pairs_hook=partial(_as_row, where=f"Line {number} of {path}"))
        except json.JSONDecodeError as error:
            raise ValueError(f"Line {number} of {str(path)!r} is not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise ValueError(f"Line {number} of {str(path)!r} must be a JSON object, got {type(row).__name__}.")
        _check_columns(row, path, columns)
        yield tuple(row[column] for _, column in columns)


def _as_row(pairs: list[tuple[str, Any]], where: str) -> dict[str, Any]:
    _refuse_repeated([name for name, _ in pairs], where)
    return dict(pairs)


def _read_parquet(path: Path, columns: Columns) -> Iterator[tuple[Any, ...]]:
    file = open_parquet(path)
    _check_columns(file.schema_arrow.names, path, columns)
    for batch in read_batches(file, path, list(dict.fromkeys(column for _, column in columns))):
        yield from zip(*(batch.column(column).to_pylist() for _, column in columns), strict=True)


def open_parquet(path: Path) -> Any:
    """Opens a parquet file; one that is damaged, or has two columns of one name, raises a ValueError that names it."""
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ImportError('Reading .parquet needs pyarrow: run `pip install "hf_eddpm[train]"`.') from error
    try:
        file = parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{str(path)!r} is damaged or not a parquet file: {error}.") from error
    _refuse_repeated(file.schema_arrow.names, path)
    return file


def read_batches(file: Any, path: Path, columns: list[str] | None = None) -> Iterator[Any]:
    """Yields the rows of an open parquet file batch by batch; damage that shows only then raises a ValueError too.

    Args:
        file: The result of `open_parquet`.
        path: Its path, for the error.
        columns: What to read; by default all.
    """
    import pyarrow

    batches = file.iter_batches(columns=columns)
    while True:
        try:
            batch = next(batches, None)
        except (OSError, pyarrow.ArrowException) as error:
            raise ValueError(f"{str(path)!r} is damaged: {error}.") from error
        if batch is None:
            return
        yield batch


def _check_columns(available: Iterable[str], where: Path | str, columns: Columns) -> None:
    for argument, column in columns:
        if column not in available:
            raise ValueError(f"`{argument}` {column!r} is not in {str(where)!r}; it has {sorted(available)}.")
