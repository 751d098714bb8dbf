"""Results of several seeds, read from their files and put into a table."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hf_eddpm.training.evaluation import plus_minus, spread


def read_results(folder: Path) -> list[Any]:
    """What the files of single seeds in a folder hold, in the order of their names."""
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*-seed-*.json"))]


def mean_cells(group: Sequence[Mapping[str, Any]], columns: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    """Cells of a row: mean and standard deviation of each measure over the results that have it; empty if none has.

    Args:
        group: Results of one thing, a seed each.
        columns: By the measure's name, the column's title and the number's format.
    """
    cells = {}
    for name, (title, form) in columns.items():
        values = [result[name] for result in group if name in result]
        cells[title] = plus_minus(spread(values), form) if values else ""
    return cells
