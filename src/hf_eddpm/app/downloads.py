"""Results as files that a visitor takes along."""

import csv
import tempfile
from collections.abc import Sequence
from pathlib import Path

from .actions import Grid

_folder = tempfile.TemporaryDirectory(prefix="hf_eddpm-app-")  # goes when the process ends


def write_csv(grid: Grid, name: str) -> str:
    """Write a grid as a table and return the file's path.

    Args:
        grid: Strings and numbers.
        name: The file's name without its ending.
    """
    path = _new_file(f"{name}.csv")
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(grid.headers)
        writer.writerows(grid.rows)
    return str(path)


def write_fasta(sequences: Sequence[str], name: str) -> str:
    """Write sequences as FASTA and return the file's path.

    Args:
        sequences: Their residues.
        name: The file's name without its ending, and the start of each record's.
    """
    path = _new_file(f"{name}.fasta")
    records = [f">{name}_{number}\n{sequence}\n" for number, sequence in enumerate(sequences, start=1)]
    path.write_text("".join(records), encoding="utf-8")
    return str(path)


def _new_file(name: str) -> Path:
    return Path(tempfile.mkdtemp(dir=_folder.name)) / name
