"""A table of measured proteins, checked row by row: what cannot be used is named, what is joined is said."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers.utils import logging

from ..argument_checks import is_column, is_number
from ..property_ensemble import MIN_ROWS

logger = logging.get_logger(__name__)

_FAR = 20.0  # median absolute deviations from the median at which one value is called an outlier
_SHOWN = 5  # rows that a note names
_FEW_VALUES = 4  # different ones at which a column looks like classes


@dataclass
class Measurements:
    """Different measured proteins.

    Attributes:
        sequences: Residues, each once, in the order of the table.
        values: Means of each sequence's measurements in the data's unit, float64 `(num, num_properties)`; NaN where
            a property is missing.
        counts: Measurements behind each mean, `(num, num_properties)`.
        names: What the properties are called.
        replicate_variance: Variance between measurements of one sequence, pooled over all of them,
            `(num_properties,)`; NaN where no sequence was measured twice.
        notes: What was found and done.
    """

    sequences: list[str]
    values: NDArray[np.float64]
    counts: NDArray[np.float64]
    names: list[str]
    replicate_variance: NDArray[np.float64]
    notes: list[str] = field(default_factory=list)

    def __len__(self) -> int:
        return len(self.sequences)


def check_measurements(
    sequences: Any,
    values: Any,
    as_list: Callable[[Any, str], list[str]],
    names: Sequence[str] | None = None,
    arguments: tuple[str, str] = ("measured", "values"),
) -> Measurements:
    """Check a table of measurements and join the rows of one sequence.

    Args:
        sequences: A list of proteins, repeats being replicates.
        values: Numbers, `(rows,)` or `(rows, num_properties)`, or a mapping (a data frame too) from names to columns;
            None, NaN or an empty string where missing.
        as_list: The processor's check of proteins.
        names: What the properties are called; by default the mapping's names or "property 0" and so on.
        arguments: What errors call `sequences` and `values`.

    Raises:
        TypeError: If something is no list, or a sequence no string.
        ValueError: If lengths differ, or a sequence or number cannot be used; the row (from 1) and the column are
            named. If a property has no two different values.
    """
    sequence_argument, value_argument = arguments
    rows, given_names = _rows(values, value_argument)
    names = list(names or given_names or [f"property {index}" for index in range(max(map(len, rows), default=0))])
    if not is_column(sequences):
        raise TypeError(f"`{sequence_argument}` must be a list of proteins, got {type(sequences).__name__}.")
    proteins = list(sequences)
    if len(proteins) != len(rows):
        raise ValueError(
            f"`{value_argument}` must have a row for each of the {len(proteins)} proteins in `{sequence_argument}`, "
            f"got {len(rows)}."
        )
    if not proteins:
        raise ValueError(f"`{sequence_argument}` must hold at least one protein, got none.")
    proteins = _check_sequences(proteins, as_list, sequence_argument)
    table = np.full((len(rows), len(names)), math.nan)
    for number, row in enumerate(rows):
        if len(row) != len(names):
            raise ValueError(f"`{value_argument}` must have {len(names)} columns, got {len(row)} in row {number + 1}.")
        for column, value in enumerate(row):
            table[number, column] = _as_number(value, names[column], number + 1, rows, column, value_argument)
    measurements = _join(proteins, table, names)
    _examine(measurements, table, value_argument)
    for note in measurements.notes:
        logger.warning(note)
    return measurements


def _rows(values: Any, argument: str) -> tuple[list[list[Any]], list[str] | None]:
    if isinstance(values, Mapping) or getattr(values, "columns", None) is not None:  # a data frame
        names = [str(name) for name in values]
        if not all(is_column(values[name]) for name in values):
            raise TypeError(f"`{argument}` must map names to columns of numbers, got {values!r:.80}.")
        columns = [list(values[name]) for name in values]
        if not names or len({len(column) for column in columns}) > 1:
            raise ValueError(f"`{argument}` must hold columns of one length, got {[len(each) for each in columns]}.")
        return [list(row) for row in zip(*columns, strict=True)], names
    if hasattr(values, "detach"):
        values = values.detach().cpu().numpy()
    if isinstance(values, np.ndarray) and values.ndim == 2:
        return [list(row) for row in values.tolist()], None
    if not is_column(values):
        raise TypeError(
            f"`{argument}` must be numbers, one for each protein or a row of them for each, got "
            f"{type(values).__name__}."
        )
    name = getattr(values, "name", None)  # a column of pandas
    rows = [list(value) if isinstance(value, (list, tuple, np.ndarray)) else [value] for value in values]
    return rows, [str(name)] if name is not None else None


def _check_sequences(proteins: list[Any], as_list: Callable[[Any, str], list[str]], argument: str) -> list[str]:
    try:
        return as_list(proteins, argument)
    except (TypeError, ValueError):
        for number, protein in enumerate(proteins, start=1):  # to name the row
            try:
                as_list([protein], argument)
            except (TypeError, ValueError) as error:
                message = str(error).removesuffix(".").replace(" at position 0", "")
                raise type(error)(f"Row {number} of {message}.") from None
        raise


def _as_number(value: Any, name: str, number: int, rows: list[list[Any]], column: int, argument: str) -> float:
    if value is None or type(value).__name__ == "NAType" or (isinstance(value, str) and not value.strip()):
        return math.nan  # pandas has a nothing of its own
    try:
        if isinstance(value, (bool, np.bool_)) or not (isinstance(value, str) or is_number(value)):
            raise ValueError
        result = float(value)
    except (TypeError, ValueError):
        result = math.inf
    if not math.isinf(result):
        return result
    words = {row[column] for row in rows if _is_word(row[column])}
    if _is_word(value) and 1 < len(words) < 10 and len(words) < len(rows) / 2:
        raise ValueError(
            f"Column {name!r} of `{argument}` holds classes {sorted(words, key=str)[:_SHOWN]}, not numbers (row "
            f"{number} is the first): give a number for each, for example 0 and 1."
        )
    raise ValueError(
        f"Row {number}, column {name!r} of `{argument}` must hold a finite number, or nothing where missing, got "
        f"{value!r}."
    )


def _is_word(value: Any) -> bool:
    """Whether a cell names a class: a word, or True or False."""
    if not isinstance(value, str):
        return isinstance(value, (bool, np.bool_))
    try:
        float(value)
    except ValueError:
        return bool(value.strip())
    return False


def _join(proteins: list[str], table: NDArray[np.float64], names: list[str]) -> Measurements:
    """Average the rows of each sequence, and pool their variance."""
    notes = []
    empty = np.flatnonzero(np.isnan(table).all(1))
    if len(empty):
        notes.append(f"{len(empty)} rows without a measurement are left out: {_listed(empty + 1)}.")
    order: dict[str, int] = {}
    for row in np.flatnonzero(~np.isnan(table).all(1)):
        order.setdefault(proteins[row], len(order))
    owners = np.array([order.get(protein, -1) for protein in proteins])
    owners[empty] = -1
    known = ~np.isnan(table) & (owners >= 0)[:, None]
    counts, sums = np.zeros((len(order), len(names))), np.zeros((len(order), len(names)))
    np.add.at(counts, owners[owners >= 0], known[owners >= 0].astype(float))
    np.add.at(sums, owners[owners >= 0], np.where(known, table, 0.0)[owners >= 0])
    values = np.divide(sums, counts, out=np.full_like(sums, math.nan), where=counts > 0)
    residuals = np.where(known, table - values[owners], 0.0) if len(order) else np.zeros_like(table)
    freedom = np.clip(counts - 1, 0, None).sum(0)
    squares = (residuals**2).sum(0)
    variance = np.divide(squares, freedom, out=np.full(len(names), math.nan), where=freedom > 0)
    repeated = np.flatnonzero((counts > 1).any(1))
    if len(repeated):
        apart = residuals.any(1)
        first = int(np.flatnonzero(apart)[0]) + 1 if apart.any() else None
        deviations = ", ".join(
            f"{name} {math.sqrt(each):.3g}" for name, each in zip(names, variance, strict=True) if not math.isnan(each)
        )
        disagreeing = "" if first is None else f"; they disagree, first in row {first}"
        notes.append(
            f"{len(repeated)} sequences stand in several rows and are averaged{disagreeing}. Standard deviation "
            f"between replicates: {deviations}."
        )
    return Measurements(list(order), values, counts, names, variance, notes)


def _examine(measurements: Measurements, table: NDArray[np.float64], argument: str) -> None:
    """Refuse properties that are constant, and note what makes predictions doubtful."""
    for index, name in enumerate(measurements.names):
        column = measurements.values[:, index]
        known = column[~np.isnan(column)]
        if len(known) < 2 or np.ptp(known) == 0:
            what = "no value" if not len(known) else f"{known[0]:g} alone"
            raise ValueError(
                f"Column {name!r} of `{argument}` must hold at least two different values, got {what}: nothing can be "
                "learned from it."
            )
        missing = len(column) - len(known)
        if missing:
            measurements.notes.append(f"Property {name!r} is missing for {missing} of {len(column)} sequences.")
        if len(known) < MIN_ROWS:
            measurements.notes.append(
                f"Property {name!r} has {len(known)} measured sequences, fewer than {MIN_ROWS}: predictions rest on "
                "the prior (most changes do little) more than on data, and their uncertainty is a guess."
            )
        different = len(np.unique(known))
        if different <= _FEW_VALUES and len(known) >= MIN_ROWS:
            measurements.notes.append(
                f"Property {name!r} has only {different} different values in {len(known)} sequences, as classes have: "
                "predictions order sequences by them, and their intervals mean little."
            )
        middle = np.median(known)
        width = np.median(np.abs(known - middle)) or np.ptp(np.sort(known)[1:-1]) or 0.0
        far = np.flatnonzero(np.abs(table[:, index] - middle) > _FAR * width)
        if len(known) >= 3 and len(far) == 1:
            measurements.notes.append(
                f"Row {far[0] + 1}, column {name!r} of `{argument}`: {table[far[0], index]:g} is an outlier, the "
                f"median is {middle:g}. Predictions use ranks, so that its size does no harm; check it."
            )


def _listed(rows: NDArray[np.integer]) -> str:
    shown = ", ".join(str(int(row)) for row in rows[:_SHOWN])
    return f"row {shown}" if len(rows) == 1 else f"rows {shown}{', ...' if len(rows) > _SHOWN else ''}"
