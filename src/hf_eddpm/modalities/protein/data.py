"""Proteins, with or without measured properties, from local files or from the Hugging Face Hub.

    load_proteins("gfp.csv.gz")                                       # columns "sequence" and "fitness"
    load_proteins("loops.tsv", padding_symbol="J")                    # sequences padded to one length with J
    load_proteins("family.fasta.gz", upper_case=True)                 # headers are kept
    load_proteins("family.a3m")                                       # an alignment: its match states without gaps
    load_proteins("user/proteins", split="train", property_columns=["stability", "binding"])

Nothing is dropped or repaired in silence: what is no sequence of residues is refused with its row.
"""

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers.utils import logging

from ...data.tables import COMPRESSION, TABLE_FORMATS, is_local_file, open_text, read_hub, read_table
from .residues import RESIDUES, explain_symbols

logger = logging.get_logger(__name__)

GAPS = "-."
FASTA_FORMATS = (".fasta", ".fa")
ALIGNMENT_FORMATS = (".a2m", ".a3m")
FILE_FORMATS = (*TABLE_FORMATS, *FASTA_FORMATS, *ALIGNMENT_FORMATS)


@dataclass
class ProteinData:
    """Proteins in the order of their sources.

    Attributes:
        sequences: Residues in upper case, never empty, without padding.
        properties: Measured values in the data's unit, float64 (num, num_properties); NaN where missing.
        property_names: The columns they come from; none for data without properties.
        headers: The FASTA headers without ">", one per sequence; `None` if a source is no FASTA file.
        num_duplicates: How many sequences repeat an earlier one. They are counted, not removed.
        sources: Where the sequences came from, as the user wrote it.
        classes: A class for each, -1 where unknown; `None` if no column was asked for.
    """

    sequences: list[str]
    properties: NDArray[np.float64]
    property_names: list[str]
    headers: list[str] | None = None
    num_duplicates: int = field(init=False)
    sources: list[str] = field(default_factory=list)
    classes: list[int] | None = None

    def __post_init__(self) -> None:
        expected = (len(self.sequences), len(self.property_names))
        if self.properties.shape != expected:
            raise ValueError(f"`properties` must be of shape {expected}, got {self.properties.shape}.")
        if self.headers is not None and len(self.headers) != len(self.sequences):
            raise ValueError(
                f"`headers` must hold one header per sequence, got {len(self.headers)} headers for "
                f"{len(self.sequences)} sequences."
            )
        if self.classes is not None and len(self.classes) != len(self.sequences):
            raise ValueError(f"`classes` must hold {len(self.sequences)} classes, got {len(self.classes)}.")
        self.num_duplicates = len(self.sequences) - len(set(self.sequences))

    def __len__(self) -> int:
        return len(self.sequences)

    def take(self, rows: Sequence[int] | NDArray[np.integer]) -> "ProteinData":
        """The proteins at `rows`, in that order."""
        return ProteinData(
            [self.sequences[row] for row in rows],
            self.properties[np.asarray(rows, dtype=int)],
            self.property_names,
            None if self.headers is None else [self.headers[row] for row in rows],
            sources=self.sources,
            classes=None if self.classes is None else [self.classes[row] for row in rows],
        )

    def sample(self, num_sequences: int, seed: int) -> "ProteinData":
        """A random subset without replacement, in the original order; all of the data if it is not larger.

        Args:
            num_sequences: Size of the subset, at least 1.
            seed: The same seed gives the same subset.
        """
        if num_sequences < 1:
            raise ValueError(f"`num_sequences` must be at least 1, got {num_sequences}.")
        if num_sequences >= len(self):
            return self
        return self.take(sorted(random.Random(seed).sample(range(len(self)), num_sequences)))


def load_proteins(
    source: str | Sequence[str],
    split: str | None = None,
    sequence_column: str = "sequence",
    property_columns: Sequence[str] = ("fitness",),
    padding_symbol: str | None = None,
    upper_case: bool = False,
    config_name: str | None = None,
    class_column: str | None = None,
) -> ProteinData:
    """Reads proteins from local files or from a Hub data set.

    Args:
        source: A Hub data set id (or a folder that `datasets.load_dataset` reads), one local file, or a list of local
            files. Known endings are .csv, .tsv, .jsonl, .parquet, .fasta, .fa, .a2m and .a3m; all but .parquet also
            with .gz. Of alignments (.a2m, .a3m) gaps and insert states (lower case) are dropped, and the log says how
            many.
        split: Split of a Hub data set, for example "train". Required for the Hub, refused for files.
        sequence_column: Column (or JSON key) of the sequence. FASTA has none.
        property_columns: Columns of measured values; an empty list to read sequences alone. FASTA files have none:
            all values of their sequences are missing.
        padding_symbol: A letter that the file pads sequences with; stripped from both ends and refused inside.
        upper_case: Whether to turn lower-case letters into upper case; they are refused otherwise, as they often
            mark something (masked or unaligned regions).
        config_name: Configuration of a Hub data set that has several.
        class_column: Column of a class, an integer of at least 0, or nothing where it is not known, as in all FASTA
            files.

    Returns:
        The sequences with their properties and classes, and headers if all sources are FASTA files.

    Raises:
        FileNotFoundError: A local file does not exist.
        ImportError: The source needs the `train` extra, which is not installed.
        ValueError: Unknown file ending, missing column, damaged file, an empty source; or, named by its row (from 1,
            the header not counted) or its FASTA line: an empty sequence, gaps, letters that are no residues, lower
            case, a property that is no finite number, a class that is no integer, an empty or repeated FASTA id.
    """
    sources = [source] if isinstance(source, str) else list(source)
    if not sources or not all(isinstance(item, str) and item for item in sources):
        raise ValueError(f"`source` must be a path, a Hub data set id or a list of paths, got {source!r}.")
    if isinstance(property_columns, str) or len(set(property_columns)) < len(property_columns):
        raise ValueError(f"`property_columns` must be a list of different columns, got {property_columns!r}.")
    if padding_symbol is not None and (len(padding_symbol) != 1 or padding_symbol in RESIDUES):
        raise ValueError(f"`padding_symbol` must be one character that is no residue, got {padding_symbol!r}.")

    columns = [("sequence_column", sequence_column), *(("property_columns", name) for name in property_columns)]
    if class_column is not None:
        columns.append(("class_column", class_column))
    missing = (math.nan,) * len(property_columns)
    sequences: list[str] = []
    properties: list[tuple[float, ...]] = []
    classes: list[int] = []
    headers: list[str] = []
    places: dict[str, str] = {}  # FASTA id: where it stands
    for item in sources:
        path = Path(item).expanduser()
        if is_local_file(path, item, FILE_FORMATS):
            if split is not None:
                raise ValueError(f"`split` is for Hub data sets, but {str(path)!r} is a file; leave `split` out.")
            name = path.name.removesuffix(COMPRESSION)
            if name.endswith((*FASTA_FORMATS, *ALIGNMENT_FORMATS)):
                records = _read_fasta(path, places)
                if name.endswith(ALIGNMENT_FORMATS):
                    records = _match_states(path, records)
                for header, text, where in records:
                    sequences.append(_as_sequence(text, where, padding_symbol, upper_case))
                    properties.append(missing)
                    classes.append(-1)
                    headers.append(header)
                continue
            rows = read_table(path, columns)
        elif len(sources) > 1:
            raise ValueError(f"A list in `source` must hold files only, but {item!r} is not a file.")
        else:
            rows = read_hub(item, split, columns, config_name)
        for number, (text, *values) in enumerate(rows, start=1):
            where = f"Row {number} of {item!r}"
            sequences.append(_as_sequence(text, where, padding_symbol, upper_case))
            if class_column is not None:
                classes.append(_as_class(values.pop(), class_column, where))
            properties.append(
                tuple(_as_property(value, name, where) for value, name in zip(values, property_columns, strict=True))
            )
    if not sequences:
        raise ValueError(f"`source` {source!r} holds no sequence.")

    data = ProteinData(
        sequences,
        np.array(properties, dtype=np.float64).reshape(len(sequences), len(property_columns)),
        list(property_columns),
        headers if len(headers) == len(sequences) else None,
        sources=sources,
        classes=None if class_column is None else classes,
    )
    logger.info(f"Read {len(data)} sequences from {sources}; {data.num_duplicates} repeat an earlier one.")
    return data


def _read_fasta(path: Path, places: dict[str, str]) -> Iterator[tuple[str, str, str]]:
    """Yields (header, sequence, where it stands) for every record; `places` collects the ids.

    A record is a line ">id description" and the lines after it; a line that starts with ";" is a comment (Pearson and
    Lipman, 1988).
    """
    header, where = "", ""
    parts: list[str] | None = None
    with open_text(path) as file:
        for number, line in enumerate(file, start=1):
            line = line.strip()
            if line.startswith(">"):
                if parts is not None:
                    yield header, "".join(parts), where
                header, where, parts = line[1:].strip(), f"The record at line {number} of {str(path)!r}", []
                if not header:
                    raise ValueError(f"{where} has an empty header; write an id after '>'.")
                identifier = header.split()[0]
                if identifier in places:
                    raise ValueError(
                        f"{where} repeats the id {identifier!r} of an earlier one ({places[identifier]}); "
                        "ids must differ."
                    )
                places[identifier] = f"line {number} of {str(path)!r}"
            elif line and not line.startswith(";"):
                if parts is None:
                    raise ValueError(f"Line {number} of {str(path)!r} is no FASTA: no header ('>...') precedes it.")
                parts.append("".join(line.split()))
    if parts is not None:
        yield header, "".join(parts), where


def _match_states(path: Path, records: Iterator[tuple[str, str, str]]) -> Iterator[tuple[str, str, str]]:
    """Yields the records of an alignment without gaps and insert states, and logs how many these were.

    In a2m and a3m upper case and "-" are match states, lower case and "." insert states (Krogh et al. 1994; HH-suite).
    """
    gaps = inserts = 0
    for header, text, where in records:
        kept = "".join(symbol for symbol in text if symbol not in GAPS and not symbol.islower())
        inserts += sum(symbol.islower() for symbol in text)
        gaps += sum(symbol in GAPS for symbol in text)
        if not kept:
            raise ValueError(f"{where} has no match state: nothing is left without gaps and insert states.")
        yield header, kept, where
    logger.warning(f"{str(path)!r} is an alignment: {gaps} gaps and {inserts} residues of insert states are dropped.")


def _as_sequence(text: Any, where: str, padding_symbol: str | None, upper_case: bool) -> str:
    if text is None or text == "":
        raise ValueError(f"{where}: the sequence is empty.")
    if not isinstance(text, str):
        raise ValueError(f"{where}: the sequence must be a string, got {type(text).__name__}.")
    sequence = text.strip()
    if padding_symbol is not None:
        sequence = sequence.strip(padding_symbol)
        if padding_symbol in sequence:
            raise ValueError(
                f"{where}: `padding_symbol` {padding_symbol!r} stands inside the sequence {sequence!r}; it may only "
                "stand at the ends."
            )
    if upper_case:
        sequence = sequence.upper()
    if not sequence:
        raise ValueError(f"{where}: the sequence is empty.")
    wrong = sorted(set(sequence) - set(RESIDUES))
    if not wrong:
        return sequence
    if gaps := [letter for letter in wrong if letter in GAPS]:
        raise ValueError(f"{where}: the sequence has gaps {gaps}; give unaligned sequences.")
    if all(letter.upper() in RESIDUES for letter in wrong):
        raise ValueError(
            f"{where}: the sequence has lower-case letters {wrong}; `upper_case=True` turns them into upper case."
        )
    raise ValueError(
        f"{where}: the sequence has unknown residues {wrong}; allowed are {RESIDUES!r}.{explain_symbols(wrong)}"
    )


def _as_property(
    value: Any, name: str, where: str, argument: str = "property_columns", allowed: str = "finite numbers"
) -> float:
    """A number, NaN for an empty cell; Python and pandas write a missing float as "nan"."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return math.nan
    try:
        if isinstance(value, bool):
            raise ValueError
        number = float(value)
    except (TypeError, ValueError):
        number = math.inf
    if math.isinf(number):
        raise ValueError(
            f"{where}: `{argument}` {name!r} must hold {allowed} (or nothing where missing), got {value!r}."
        )
    return number


def _as_class(value: Any, name: str, where: str) -> int:
    """A class, -1 for an empty cell; pandas writes whole numbers of a column with gaps as 1.0."""
    number = _as_property(value, name, where, "class_column", "integers of at least 0")
    if math.isnan(number):
        return -1
    if number < 0 or number != int(number):
        raise ValueError(
            f"{where}: `class_column` {name!r} must hold integers of at least 0 (or nothing where missing), "
            f"got {value!r}."
        )
    return int(number)
