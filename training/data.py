"""Sentences, with or without labels, from local files or from the Hugging Face Hub.

    load_text("user/reviews", split="train", label_column="label")        # a Hub data set
    load_text("sentences.txt.gz")                                         # one sentence a line
    load_text(["train.0.txt.gz=0", "train.1.txt.gz=1"])                   # the label given once per file
    load_text("reviews.csv", text_column="review", label_column="stars")  # csv, tsv, jsonl, parquet

Nothing is dropped in silence: empty lines and repeated sentences are counted in the result and reported by the logger.
"""

import csv
import gzip
import json
import random
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import torch
from torch.utils.data import Dataset
from transformers.utils import logging

logger = logging.get_logger(__name__)

FILE_FORMATS = (".txt", ".csv", ".tsv", ".jsonl", ".parquet")
COMPRESSION = ".gz"


@dataclass
class TextData:
    """Sentences in the order of their sources.

    Attributes:
        sentences: Stripped, never empty.
        labels: One class index per sentence, or `None` for data without labels.
        num_empty: How many empty or whitespace-only lines (or missing values) were left out.
        num_duplicates: How many sentences repeat an earlier one. They are counted, not removed.
        sources: Where the sentences came from, as the user wrote it.
    """

    sentences: list[str]
    labels: list[int] | None = None
    num_empty: int = 0
    num_duplicates: int = field(init=False)
    sources: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if self.labels is not None and len(self.labels) != len(self.sentences):
            raise ValueError(
                f"`labels` must hold one label per sentence, got {len(self.labels)} labels "
                f"for {len(self.sentences)} sentences."
            )
        self.num_duplicates = len(self.sentences) - len(set(self.sentences))

    def __len__(self) -> int:
        return len(self.sentences)

    @property
    def classes(self) -> list[int]:
        """The labels that occur, in ascending order; empty for data without labels."""
        return sorted(set(self.labels or []))

    def of_class(self, label: int) -> list[str]:
        """The sentences that carry `label`, in order."""
        return [sentence for sentence, own in zip(self.sentences, self.labels or [], strict=False) if own == label]

    def sample(self, num_sentences: int, seed: int) -> "TextData":
        """A random subset without replacement, in the original order; all of the data if it is not larger.

        Args:
            num_sentences: Size of the subset, at least 1.
            seed: The same seed gives the same subset.
        """
        if num_sentences < 1:
            raise ValueError(f"`num_sentences` must be at least 1, got {num_sentences}.")
        if num_sentences >= len(self):
            return self
        rows = sorted(random.Random(seed).sample(range(len(self)), num_sentences))
        labels = None if self.labels is None else [self.labels[row] for row in rows]
        return TextData([self.sentences[row] for row in rows], labels, sources=self.sources)


def load_text(
    source: str | Sequence[str],
    split: str | None = None,
    text_column: str = "text",
    label_column: str | None = None,
    config_name: str | None = None,
) -> TextData:
    """Reads sentences from local files or from a Hub data set.

    Args:
        source: A Hub data set id (or a folder that `datasets.load_dataset` reads), one local file, or a list of local
            files. A file may carry the label of all its sentences: `"path=label"`. Known endings are .txt (one
            sentence a line), .csv, .tsv, .jsonl and .parquet; all but .parquet also with .gz.
        split: Split of a Hub data set, for example "train". Required for the Hub, refused for files.
        text_column: Column (or JSON key) of the sentence. Plain text has none.
        label_column: Column of an integer label. Plain text has none: write `"path=label"`.
        config_name: Configuration of a Hub data set that has several.

    Returns:
        The sentences with their labels and the counts of what was dropped or repeated.

    Raises:
        FileNotFoundError: A local file does not exist.
        ImportError: The source needs the `datasets` extra, which is not installed.
        ValueError: Unknown file ending, missing column, damaged file, a label that is not an integer, labels for some
            files but not for others, or no sentence left.
    """
    sources = [source] if isinstance(source, str) else list(source)
    if not sources or not all(isinstance(item, str) and item for item in sources):
        raise ValueError(f"`source` must be a path, a Hub data set id or a list of paths, got {source!r}.")

    sentences: list[str] = []
    labels: list[int | None] = []
    num_empty = 0
    for item in sources:
        path, file_label = _split_label(item)
        if _is_local_file(path, item):
            if split is not None:
                raise ValueError(f"`split` is for Hub data sets, but {str(path)!r} is a file; leave `split` out.")
            if file_label is not None and label_column is not None:
                raise ValueError(f"{item!r} gives a label and `label_column` is {label_column!r}; choose one of them.")
            rows = _read_file(path, text_column, label_column)
        elif len(sources) > 1:
            raise ValueError(f"A list in `source` must hold files only, but {item!r} is not a file.")
        else:
            rows = _read_hub(item, split, text_column, label_column, config_name)

        empty_here = 0
        for row, (text, label) in enumerate(rows, start=1):
            if text is None or not (sentence := _as_sentence(text, item, row)):
                empty_here += 1
                continue
            sentences.append(sentence)
            labels.append(file_label if label_column is None else _as_label(label, label_column, item, row))
        if empty_here:
            logger.warning(f"Left out {empty_here} empty lines of {item!r}.")
        num_empty += empty_here

    if not sentences:
        raise ValueError(f"`source` {source!r} holds no sentence ({num_empty} empty lines).")
    known = [label for label in labels if label is not None]
    if known and len(known) < len(labels):
        unlabelled = [item for item in sources if _split_label(item)[1] is None]
        raise ValueError(f"Give a label to every file in `source` or to none; without one: {unlabelled}.")

    data = TextData(sentences, known or None, num_empty, sources=sources)
    logger.info(f"Read {len(data)} sentences from {sources}; {data.num_duplicates} repeat an earlier one.")
    return data


def _split_label(item: str) -> tuple[Path, int | None]:
    """Splits `"path=3"` into the path and 3; a path that itself ends so, and exists, stays whole."""
    match = re.fullmatch(r"(.+)=([+-]?\d+)", item)
    if match is None or Path(item).exists():
        return Path(item).expanduser(), None
    return Path(match[1]).expanduser(), int(match[2])


def _is_local_file(path: Path, item: str) -> bool:
    """Whether the source is a file of ours; raises if it can only be a file and is missing or of an unknown kind."""
    known = path.name.removesuffix(COMPRESSION).endswith(FILE_FORMATS)
    if path.is_file():
        if not known or path.name.endswith(f".parquet{COMPRESSION}"):
            raise ValueError(
                f"{str(path)!r} has an unknown ending; allowed are {', '.join(FILE_FORMATS)}, "
                f"all but .parquet also followed by {COMPRESSION}."
            )
        return True
    # A Hub id is "name" or "user/name"; anything that looks like a path must be one.
    looks_local = known or path.is_absolute() or item.startswith((".", "~")) or len(path.parts) > 2
    if looks_local and not path.is_dir():
        raise FileNotFoundError(f"No such file: {str(path)!r}.")
    return False


def _read_file(path: Path, text_column: str, label_column: str | None) -> Iterator[tuple[Any, Any]]:
    """Yields (text, label) for every row of one file, whatever its format."""
    name = path.name.removesuffix(COMPRESSION)
    if name.endswith(".parquet"):
        yield from _read_parquet(path, text_column, label_column)
        return
    opener: Callable[..., IO[str]] = gzip.open if path.name.endswith(COMPRESSION) else open
    try:
        # "utf-8-sig" drops a byte order mark; newline="" leaves line ends as they are, as the csv module asks
        with opener(path, "rt", encoding="utf-8-sig", newline="") as file:
            if name.endswith(".txt"):
                if label_column is not None:
                    raise ValueError(f"Plain text has no `label_column`; write the label as '{path}=0'.")
                for line in file:
                    yield line, None
            elif name.endswith(".jsonl"):
                yield from _read_jsonl(file, path, text_column, label_column)
            else:
                yield from _read_csv(file, path, text_column, label_column)
    except (EOFError, gzip.BadGzipFile, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"{str(path)!r} is damaged or not UTF-8 text: {error}.") from error


def _read_csv(file: IO[str], path: Path, text_column: str, label_column: str | None) -> Iterator[tuple[Any, Any]]:
    # strict: a stray quote would otherwise swallow the rows up to the next one
    reader = csv.DictReader(file, delimiter="\t" if ".tsv" in path.name else ",", strict=True)
    try:
        _check_columns(reader.fieldnames or [], path, text_column, label_column)
        for row in reader:
            if None in row:
                raise ValueError(
                    f"Line {reader.line_num} of {str(path)!r} has more fields than the header; "
                    "quote a sentence that contains the separator."
                )
            yield row[text_column], row[label_column] if label_column else None
    except csv.Error as error:
        raise ValueError(f"{str(path)!r} is malformed after line {reader.line_num}: {error}.") from error


def _read_jsonl(file: IO[str], path: Path, text_column: str, label_column: str | None) -> Iterator[tuple[Any, Any]]:
    for number, line in enumerate(file, start=1):
        if not line.strip():
            yield None, None
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"Line {number} of {str(path)!r} is not JSON: {error}.") from error
        if not isinstance(row, dict):
            raise ValueError(f"Line {number} of {str(path)!r} must be a JSON object, got {type(row).__name__}.")
        _check_columns(row, path, text_column, label_column)
        yield row[text_column], row[label_column] if label_column else None


def _read_parquet(path: Path, text_column: str, label_column: str | None) -> Iterator[tuple[Any, Any]]:
    try:
        import pyarrow
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise ImportError("Reading .parquet needs pyarrow: run `pip install hf_eddpm[train]`.") from error
    try:
        file = parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise ValueError(f"{str(path)!r} is damaged or not a parquet file: {error}.") from error
    _check_columns(file.schema_arrow.names, path, text_column, label_column)
    columns = [column for column in (text_column, label_column) if column]
    for batch in file.iter_batches(columns=columns):
        texts = batch.column(text_column).to_pylist()
        labels = batch.column(label_column).to_pylist() if label_column else [None] * len(texts)
        yield from zip(texts, labels, strict=True)


def _read_hub(
    name: str, split: str | None, text_column: str, label_column: str | None, config_name: str | None
) -> Iterator[tuple[Any, Any]]:
    try:
        from datasets import load_dataset
        from datasets.exceptions import DatasetNotFoundError
    except ImportError as error:
        raise ImportError("Data from the Hub needs datasets: run `pip install hf_eddpm[train]`.") from error
    if split is None:
        raise ValueError(f"`split` is required for the data set {name!r}, for example 'train'.")
    try:
        dataset = load_dataset(name, config_name, split=split)
    except DatasetNotFoundError as error:
        raise ValueError(f"{name!r} is neither a local file nor a data set that can be found: {error}") from error
    _check_columns(dataset.column_names, name, text_column, label_column)
    texts = dataset[text_column]
    yield from zip(texts, dataset[label_column] if label_column else [None] * len(texts), strict=True)


def _check_columns(columns: Iterable[str], where: Path | str, text_column: str, label_column: str | None) -> None:
    for argument, column in (("text_column", text_column), ("label_column", label_column)):
        if column is not None and column not in columns:
            raise ValueError(f"`{argument}` {column!r} is not in {str(where)!r}; it has {sorted(columns)}.")


def _as_sentence(text: Any, where: str, row: int) -> str:
    if not isinstance(text, str):
        raise ValueError(f"Row {row} of {where!r}: the text must be a string, got {type(text).__name__}.")
    return text.strip()


def _as_label(label: Any, label_column: str, where: str, row: int) -> int:
    try:
        if isinstance(label, float) and not label.is_integer():
            raise ValueError
        return int(label)
    except (TypeError, ValueError):
        raise ValueError(
            f"Row {row} of {where!r}: `label_column` {label_column!r} must hold integers, got {label!r}."
        ) from None


class SplicedSentences(Dataset):
    """Training sentences, some of them spliced from two: the words of one up to a point, then those of another.

    Encoder and decoder learn from splices to carry any words in any order, of which a small corpus shows too few. The
    chain does not learn them: they are marked by `diffusion_mask`.

    Args:
        sentences: The training sentences.
        probability: Share of splices, in [0, 1).
    """

    def __init__(self, sentences: list[str], probability: float):
        if not 0 <= probability < 1:
            raise ValueError(f"`probability` must be in [0, 1), got {probability}.")
        self.sentences = sentences
        self.probability = probability

    def __len__(self) -> int:
        return len(self.sentences)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sentence = self.sentences[index]
        # torch's generator, whose state a checkpoint keeps
        if torch.rand(()) >= self.probability:
            return {"data": sentence, "diffusion_mask": True}
        first = sentence.split()
        second = self.sentences[int(torch.randint(len(self.sentences), ()))].split()
        head = first[: int(torch.randint(1, len(first) + 1, ()))]
        longest = max(len(first), len(second))
        tail = second[int(torch.randint(len(second), ())) :][: longest - len(head)]
        return {"data": " ".join([*head, *tail]), "diffusion_mask": False}
