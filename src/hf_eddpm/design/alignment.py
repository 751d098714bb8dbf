"""Sequences beside a reference of another length: which residue stands where, what is inserted, what is missing."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from ..modalities.protein.metrics import SYMBOLS

_MOST_INSERTED = len(SYMBOLS) - 1  # a count is a symbol like the others


@dataclass
class Alignment:
    """A sequence beside a reference, by the fewest edits.

    Attributes:
        residues: What stands at each position of the reference; "" where it is deleted.
        inserted: What stands before each position of the reference and, last, after its end.
        places: For each residue of the sequence its position in the reference; None for an inserted one.
    """

    residues: list[str]
    inserted: list[str]
    places: list[int | None]

    @property
    def num_insertions(self) -> int:
        """Residues that the reference has not."""
        return sum(map(len, self.inserted))

    @property
    def num_deletions(self) -> int:
        """Positions of the reference that are missing."""
        return self.residues.count("")


def align(sequence: str, reference: str) -> Alignment:
    """Return a sequence beside a reference (Levenshtein 1966: substitutions, insertions and deletions cost 1 each).

    Sequences of one length stand site by site unless a shift explains them in fewer edits. Of several alignments with
    as few edits the one is taken that keeps the most at both ends.
    """
    length = len(reference)
    if len(sequence) == length and Levenshtein.distance(reference, sequence) == sum(
        a != b for a, b in zip(reference, sequence, strict=True)
    ):
        return Alignment(list(sequence), [""] * (length + 1), list(range(length)))
    residues, inserted = [""] * length, [""] * (length + 1)
    places: list[int | None] = [None] * len(sequence)
    for block in Levenshtein.opcodes(reference, sequence):
        if block.tag == "insert":
            inserted[block.src_start] += sequence[block.dest_start : block.dest_end]
        elif block.tag != "delete":  # equal or replaced, as many on both sides
            for position, index in zip(
                range(block.src_start, block.src_end), range(block.dest_start, block.dest_end), strict=True
            ):
                residues[position] = sequence[index]
                places[index] = position
    return Alignment(residues, inserted, places)


def aligned_frames(sequences: Sequence[str], reference: str) -> NDArray[np.uint8]:
    """Return sequences as rows of equal width, in which an insertion does not shift what follows it.

    Args:
        sequences: Residues of `SYMBOLS`.
        reference: What they are aligned to.

    Returns:
        uint8 `(num, 3 * len(reference) + 2)`: the residue at each position (0 where deleted), then before each
        position and after the last one the first inserted residue (0 for none), then how many are inserted there.
    """
    index = {symbol: number for number, symbol in enumerate(SYMBOLS)} | {"": 0}
    length = len(reference)
    frames = np.zeros((len(sequences), 3 * length + 2), dtype=np.uint8)
    for row, sequence in zip(frames, sequences, strict=True):
        aligned = align(sequence, reference)
        row[:length] = [index[residue] for residue in aligned.residues]
        row[length : 2 * length + 1] = [index[residues[:1]] for residues in aligned.inserted]
        row[2 * length + 1 :] = [min(len(residues), _MOST_INSERTED) for residues in aligned.inserted]
    return frames


def write_alignment(sequences: Sequence[str], reference: str, fill: bool) -> list[str]:
    """Return the rows of an alignment to a reference, which is the first of them.

    Args:
        sequences: Residues.
        reference: Its residues are the match states.
        fill: Whether rows have a "." beside each residue that another row has inserted (a2m), rather than be of
            different lengths (a3m).

    Returns:
        Match states in upper case or "-", insert states in lower case, for the reference and for each sequence.
    """
    aligned = [align(sequence, reference) for sequence in (reference, *sequences)]
    widths = [max(map(len, column)) * fill for column in zip(*(each.inserted for each in aligned), strict=True)]
    rows = []
    for each in aligned:
        states = [residue or "-" for residue in each.residues]
        inserts = [text.lower().ljust(width, ".") for text, width in zip(each.inserted, widths, strict=True)]
        rows.append("".join(insert + state for insert, state in zip(inserts, [*states, ""], strict=True)))
    return rows
