"""The table of the study of text recipes."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

from hf_eddpm.hub.card import markdown_table
from hf_eddpm.training.evaluation import plus_minus, spread

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the studies, which share code

from text_recipe.variants import VARIANTS

SAMPLED = {"perplexity": 1, "reverse_perplexity": 1, "distinct_2": 3}


def _row(name: str, runs: list[dict[str, Any]], samples: str = "samples") -> dict[str, str]:
    row = {"recipe": name, "steps": f"{np.mean([run['steps'] for run in runs]):,.0f}"}
    row["parameters, M"] = f"{runs[0]['num_parameters'] / 1e6:.1f}"
    row["BLEU"] = plus_minus(spread([run["bleu"] for run in runs]), ".1f")
    row["refined"] = plus_minus(spread([run["refined_bleu"] for run in runs]), ".1f")
    for key, digits in SAMPLED.items():
        row[key.replace("_", " ")] = plus_minus(spread([run[samples][key] for run in runs]), f".{digits}f")
    row["rank"] = plus_minus(spread([run["effective_rank"] for run in runs]), ".0f")
    row["rate"] = plus_minus(spread([run["rate"] for run in runs]), ".0f")
    return row | {"seeds": str(len(runs))}


def write_report(folder: Path) -> str:
    """Write `table.md` from the runs in a folder and return it."""
    runs = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))]
    rows = []
    for name in VARIANTS:
        if same := [run for run in runs if run["recipe"] == name]:
            rows.append(_row(name, same))
            if filtered := [run for run in same if "kept_half" in run]:
                rows.append(_row(f"{name}, the half of the samples that comes back best", filtered, "kept_half"))
    real = runs[0]["real"]
    last = {name: "" for name in rows[0]} | {"recipe": "real sentences"}
    rows.append(last | {key.replace("_", " "): f"{real[key]:.{digits}f}" for key, digits in SAMPLED.items()})
    table = markdown_table(rows)
    (folder / "table.md").write_text(table + "\n", encoding="utf-8")
    return table


if __name__ == "__main__":
    print(write_report(Path(sys.argv[1])))
