"""Sentences, with or without labels, from local files or from the Hugging Face Hub.

    load_text("user/reviews", split="train", label_column="label")        # a Hub data set
    load_text("sentences.txt.gz")                                         # one sentence a line
    load_text(["train.0.txt.gz=0", "train.1.txt.gz=1"])                   # the label given once per file
    load_text("reviews.csv", text_column="review", label_column="stars")  # csv, tsv, jsonl, parquet

Nothing is dropped in silence: empty lines and repeated sentences are counted in the result and reported by the logger.
"""

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ...data.augmented import AugmentedData
from ...data.tables import COMPRESSION, TABLE_FORMATS, Columns, is_local_file, open_text, read_hub, read_table
from .processing import has_lone_surrogate

logger = logging.get_logger(__name__)

PLAIN_TEXT = ".txt"
FILE_FORMATS = (PLAIN_TEXT, *TABLE_FORMATS)


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

    columns = [("text_column", text_column)]
    if label_column is not None:
        columns.append(("label_column", label_column))
    sentences: list[str] = []
    labels: list[int | None] = []
    num_empty = 0
    for item in sources:
        path, file_label = _split_label(item)
        if is_local_file(path, item, FILE_FORMATS):
            if split is not None:
                raise ValueError(f"`split` is for Hub data sets, but {str(path)!r} is a file; leave `split` out.")
            if file_label is not None and label_column is not None:
                raise ValueError(f"{item!r} gives a label and `label_column` is {label_column!r}; choose one of them.")
            rows = _read_file(path, columns)
        elif len(sources) > 1:
            raise ValueError(f"A list in `source` must hold files only, but {item!r} is not a file.")
        else:
            rows = read_hub(item, split, columns, config_name)

        empty_here = 0
        for row, (text, *label) in enumerate(rows, start=1):
            if text is None or not (sentence := _as_sentence(text, item, row)):
                empty_here += 1
                continue
            sentences.append(sentence)
            labels.append(file_label if label_column is None else _as_label(label[0], label_column, item, row))
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


def _read_file(path: Path, columns: Columns) -> Iterator[tuple[Any, ...]]:
    """Yields (text,) or (text, label) for every row of one file, whatever its format."""
    if not path.name.removesuffix(COMPRESSION).endswith(PLAIN_TEXT):
        yield from read_table(path, columns)
        return
    if len(columns) > 1:
        raise ValueError(f"Plain text has no `label_column`; write the label as '{path}=0'.")
    with open_text(path) as file:
        for line in file:
            yield (line,)


def _as_sentence(text: Any, where: str, row: int) -> str:
    if not isinstance(text, str):
        raise ValueError(f"Row {row} of {where!r}: the text must be a string, got {type(text).__name__}.")
    if has_lone_surrogate(text):
        raise ValueError(f"Row {row} of {where!r} holds a lone surrogate, half of a character: {text[:40]!r}.")
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


class SplicedSentences(AugmentedData):
    """Training sentences, some of them spliced from two: the words of one up to a point, then those of another.

    Encoder and decoder learn from splices to carry any words in any order, of which a small corpus shows too few. The
    chain does not learn them: they are marked by `diffusion_mask`.

    Args:
        sentences: The training sentences.
        probability: Share of splices, in [0, 1).
        labels: Class of each sentence, for a denoiser that is told it; None for no classes.
        seed: Seed of the splices, which each epoch draws anew.
    """

    def __init__(self, sentences: list[str], probability: float, labels: list[int] | None = None, seed: int = 0):
        if not 0 <= probability < 1:
            raise ValueError(f"`probability` must be in [0, 1), got {probability}.")
        super().__init__(seed)
        self.sentences = sentences
        self.probability = probability
        self.labels = labels

    def __len__(self) -> int:
        return len(self.sentences)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sentence = self.sentences[index]
        draws = self.draws(index)
        if draws.random() >= self.probability:
            return {"data": sentence, "diffusion_mask": True, **self._class(index)}
        first, second = sentence.split(), draws.choice(self.sentences).split()
        head = first[: draws.randint(1, len(first))]
        longest = max(len(first), len(second))
        tail = second[draws.randrange(len(second)) :][: longest - len(head)]
        return {"data": " ".join([*head, *tail]), "diffusion_mask": False, **self._class(index)}

    def _class(self, index: int) -> dict[str, int]:
        return {} if self.labels is None else {"class_labels": self.labels[index]}
