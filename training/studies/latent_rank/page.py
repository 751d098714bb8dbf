"""Tables of docs/benchmarks/latents.md from the results of this study.

python training/studies/latent_rank/page.py            # rewrites the page between its markers
python training/studies/latent_rank/page.py --check    # fails if that would change it
"""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from reach import shipped_rows
from report import KINDS, LATENTS, REACH, Points, checkpoint_tables, long_rows, place, points_by_data, read_runs

from hf_eddpm.hub.card import markdown_table
from hf_eddpm.training.evaluation import plus_minus, spread

FOLDER = Path(__file__).resolve().parent
PAGE = FOLDER.parents[2] / "docs" / "benchmarks" / "latents.md"
# Of each kind of data: reconstruction, samples, probe
MEASURES = {
    "images": (("mse", "MSE", ".4f"), ("pixel_frechet", "Frechet", ".3f"), ("probe", "accuracy", ".3f")),
    "yelp": (
        ("bleu", "BLEU", ".1f"),
        ("perplexity", "perplexity", ".0f"),
        ("probe", "accuracy", ".3f"),
    ),
    "proteins": (
        ("site_accuracy", "site accuracy", ".3f"),
        ("frechet", "Frechet", ".3f"),
        ("probe", "Pearson", ".3f"),
    ),
}
TITLES = ("reconstruction", "samples", "probe")


def kind_of(variant: str) -> str:
    """Which table a variant stands in: the shares at the recipe's own variance, at others, or the cures."""
    where = place(variant)
    return "cures" if where is None else "shares" if where[0] < 0 else "variances"


def table(data: dict[str, Points], kind: str) -> str:
    """One row for each data set and variant of a kind."""
    rows = [
        {"data": name, "variant": variant, "seeds": str(len(group))} | _cells(group)
        for name, points in data.items()
        for variant, group in points.items()
        if kind_of(variant) == kind
    ]
    return markdown_table(rows)


def _cells(group: list[dict[str, Any]]) -> dict[str, str]:
    first = group[0]["data"]
    kind = MEASURES["images" if first not in KINDS else "yelp" if first == "yelp" else "proteins"]
    cells = {title: _cell(group, key, form) for key, (title, form) in LATENTS.items()}
    for title, (key, unit, form) in zip(TITLES, kind, strict=True):
        cells[title] = f"{_cell(group, key, form)} ({unit})"
    if first == "yelp":
        cells["samples"] += f", {_cell(group, 'reverse_perplexity', '.0f')} (reverse)"
    return cells | {title: _cell(group, key, form) for key, (title, form) in REACH.items()}


def _cell(group: list[dict[str, Any]], key: str, form: str) -> str:
    return plus_minus(spread([run[key] for run in group]), form)


def rewrite(page: str) -> str:
    """Returns the page with each table between its markers."""
    runs = read_runs(FOLDER / "results")
    data = points_by_data(runs)
    tables = {kind: table(data, kind) for kind in ("shares", "variances", "cures")}
    tables["long"] = markdown_table(long_rows(FOLDER / "results"))
    tables["anew"] = "\n\n".join(checkpoint_tables(runs))
    tables["checkpoints"] = markdown_table(shipped_rows())
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
