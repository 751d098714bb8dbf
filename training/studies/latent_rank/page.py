"""Tables of docs/benchmarks/latents.md from the results of this study.

python training/studies/latent_rank/page.py            # rewrites the page between its markers
python training/studies/latent_rank/page.py --check    # fails if that would change it
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from report import KINDS, LATENTS, REACH, Points, place, points_by_data, read_runs

from hf_eddpm.hub.card import markdown_table
from shipped import shipped_rows

FOLDER = Path(__file__).resolve().parent
PAGE = FOLDER.parents[2] / "docs" / "benchmarks" / "latents.md"
# Of each kind of data: reconstruction, samples, probe
MEASURES = {
    "images": (("mse", "MSE", ".4f"), ("pixel_frechet", "Frechet", ".3f"), ("probe", "accuracy", ".3f")),
    "yelp": (
        ("bleu", "BLEU", ".1f"),
        ("reverse_perplexity", "reverse perplexity", ".0f"),
        ("probe", "accuracy", ".3f"),
    ),
    "proteins": (("exact_match", "exact", ".3f"), ("frechet", "Frechet", ".3f"), ("probe", "Pearson", ".3f")),
}
TITLES = ("reconstruction", "samples", "probe")


def table(data: dict[str, Points], front: bool) -> str:
    """One row for each data set and variant.

    Args:
        data: Runs by data set and variant.
        front: Whether the rows are the shares at the recipe's own variance, or the other variants.
    """
    rows = []
    for name, points in data.items():
        for variant, group in points.items():
            where = place(variant)
            if front != (where is not None and where[0] < 0) or (not front and where is not None):
                continue
            rows.append({"data": name, "variant": variant, "seeds": str(len(group))} | _cells(group))
    return markdown_table(rows)


def _cells(group: list[dict[str, Any]]) -> dict[str, str]:
    first = group[0]["data"]
    kind = MEASURES["images" if first not in KINDS else "yelp" if first == "yelp" else "proteins"]
    cells = {title: _cell(group, key, form) for key, (title, form) in LATENTS.items()}
    for title, (key, unit, form) in zip(TITLES, kind, strict=True):
        cells[title] = f"{_cell(group, key, form)} ({unit})"
    return cells | {title: _cell(group, key, form) for key, (title, form) in REACH.items()}


def _cell(group: list[dict[str, Any]], key: str, form: str) -> str:
    values = [run[key] for run in group]
    return f"{np.mean(values):{form}}" + (f" ± {np.std(values, ddof=1):{form}}" if len(values) > 1 else "")


def rewrite(page: str) -> str:
    """Returns the page with each table between its markers."""
    data = points_by_data(read_runs(FOLDER / "results"))
    tables = {
        "shares": table(data, front=True),
        "cures": table(data, front=False),
        "checkpoints": markdown_table(shipped_rows()),
    }
    for name, text in tables.items():
        begin = f"<!-- {name}: written by training/studies/latent_rank/page.py -->"
        end = f"<!-- end of {name} -->"
        before, _, rest = page.partition(begin)
        page = f"{before}{begin}\n\n{text}\n\n{end}{rest.partition(end)[2]}"
    return page


def main(words: Sequence[str] | None = None) -> int:
    """Writes the page, or checks it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail if the page would change")
    arguments = parser.parse_args(words)
    before = PAGE.read_text(encoding="utf-8")
    after = rewrite(before)
    if arguments.check:
        return int(after != before)
    PAGE.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
