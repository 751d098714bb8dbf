"""Tables of docs/benchmarks/protein-design.md from the results of this study and of protein_curve/regression.py.

python training/studies/protein_design/table.py
"""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

from hf_eddpm.hub.card import markdown_table
from hf_eddpm.training.evaluation import plus_minus, spread

RESULTS = Path(__file__).parent / "results"
CURVES = Path(__file__).parents[1] / "protein_curve" / "results"
PAGE = Path(__file__).parents[3] / "docs" / "benchmarks" / "protein-design.md"
# Of each measure its title and its digits
CAMPAIGN = {
    "best": ("best", 2),
    "top_10": ("mean of the best 10", 2),
    "above_wild_type": ("share above wild type", 2),
    "diversity": ("diversity", 2),
    "look_ups": ("look-ups", 0),
}
EHRLICH = CAMPAIGN | {"above_wild_type": ("share above the best start", 2)}
CALIBRATION = {
    "spearman": ("rank correlation", 2),
    "rmse": ("RMSE", 2),
    "coverage_90": ("90 % intervals hold", 2),
    "calibration_error": ("calibration error", 3),
}


def rows_by(path: Path, depth: int) -> dict[tuple[str, ...], list[dict[str, float]]]:
    """Results by their key without the seed, the key's last part."""
    groups: dict[tuple[str, ...], list[dict[str, float]]] = defaultdict(list)
    for key, result in json.loads(path.read_text(encoding="utf-8")).items():
        groups[tuple(key.split("/")[:depth])].append(result)
    return groups


def cells(results: list[dict[str, float]], columns: dict[str, tuple[str, int]]) -> dict[str, str]:
    """Means over the seeds by title, and standard deviations where there are several."""
    found = {}
    for name, (title, digits) in columns.items():
        values = [result[name] for result in results]
        found[title] = plus_minus(spread(values), f".{digits}f") if digits else f"{np.mean(values):.0f}"
    return found


def campaign_table(path: Path, columns: dict[str, tuple[str, int]] = CAMPAIGN) -> str:
    """What each strategy found, the best first for each start or function."""
    groups = rows_by(path, 2)
    order = sorted(
        groups, key=lambda key: (int(key[0].split()[0]), -np.mean([each["top_10"] for each in groups[key]]))
    )
    first = "start" if columns is CAMPAIGN else "function"
    rows = [
        {first: key[0], "strategy": key[1], **cells(groups[key], columns), "seeds": len(groups[key])} for key in order
    ]
    return markdown_table(rows)


def regression_table(path: Path) -> str:
    """The rank correlation of each method by data set and rows; for GB1 the mean of the best-predicted rows, too."""
    groups = rows_by(path, 3)
    methods = list(dict.fromkeys(method for _, _, method in groups))
    rows = []
    for title, measure in (("{}, rank correlation", "spearman"), ("{}, mean fitness of the 96 best-predicted", "top")):
        for name, size in sorted({key[:2] for key in groups}, key=lambda key: (key[0], int(key[1]))):
            if measure == "top" and name != "gb1":
                continue
            row = {"data": title.format({"gb1": "GB1", "gfp": "GFP", "gifford": "Gifford"}[name]), "rows": size}
            for method in methods:
                found = groups.get((name, size, method))
                row[method] = "" if found is None else plus_minus(spread([each[measure] for each in found]), ".2f")
            rows.append(row)
    return markdown_table(rows)


def calibration_table(path: Path) -> str:
    """How well each judge predicts, and how sure it is."""
    rows = [
        {"learned from": num, "tested on": where, "judge": name, **cells(results, CALIBRATION)}
        for (where, num, name), results in rows_by(path, 3).items()
    ]
    return markdown_table(rows)


def main() -> None:
    """Writes the tables between the marks of the page."""
    text = PAGE.read_text(encoding="utf-8")
    tables = {
        "gb1": campaign_table(RESULTS / "gb1.json"),
        "ehrlich": campaign_table(RESULTS / "ehrlich.json", EHRLICH),
        "regression": regression_table(CURVES / "regression.json"),
        "calibration-gfp": calibration_table(RESULTS / "calibration-gfp.json"),
    }
    for name, table in tables.items():
        start, end = f"<!-- {name}: written by training/studies/protein_design/table.py -->", f"<!-- end of {name} -->"
        before, rest = text.split(start)
        text = f"{before}{start}\n\n{table}\n\n{end}{rest.split(end)[1]}"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
