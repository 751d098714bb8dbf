"""The alphabet of proteins, which the processor and the decoders share."""

from collections.abc import Iterable

AMINO_ACIDS = "ACDEFGHIKLMNPQRSTVWY"
UNKNOWN = "X"
RESIDUES = AMINO_ACIDS + UNKNOWN
PADDING_ID, START_ID, STOP_ID = 0, 1, 2
FIRST_RESIDUE_ID = 3
VOCAB_SIZE = FIRST_RESIDUE_ID + len(RESIDUES)

_MEANINGS = {
    "*": "a stop codon",
    "B": "D or N",
    "Z": "E or Q",
    "J": "I or L",
    "U": "selenocysteine",
    "O": "pyrrolysine",
    "-": "a gap",
    ".": "a gap",
}


def explain_symbols(symbols: Iterable[str]) -> str:
    """Return what symbols that are no residues stand for, and what to do; empty if that is not known."""
    meanings = [f"{symbol!r} is {_MEANINGS[symbol]}" for symbol in symbols if symbol in _MEANINGS]
    if not meanings:
        return ""
    return f" {', '.join(meanings)}: cut it off, write X for a residue that is not known, or leave the row out."
