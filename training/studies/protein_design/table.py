"""Tables of docs/benchmarks/protein-design.md from the results of gb1.py and calibration.py.

python training/studies/protein_design/table.py
"""

import json
from collections import defaultdict
from pathlib import Path

import numpy as np

RESULTS = Path(__file__).parent / "results"
PAGE = Path(__file__).parents[3] / "docs" / "benchmarks" / "protein-design.md"
CAMPAIGN = {"best": 2, "top_10": 2, "above_wild_type": 2, "diversity": 2, "look_ups": 0}
CALIBRATION = {"spearman": 2, "rmse": 2, "coverage_90": 2, "calibration_error": 3}


def rows_by(path: Path, depth: int) -> dict[tuple[str, ...], list[dict[str, float]]]:
    """Results by their key without the seed, the key's last part."""
    groups: dict[tuple[str, ...], list[dict[str, float]]] = defaultdict(list)
    for key, result in json.loads(path.read_text(encoding="utf-8")).items():
        groups[tuple(key.split("/")[:depth])].append(result)
    return groups


def cells(results: list[dict[str, float]], columns: dict[str, int]) -> str:
    """Means over the seeds, and standard deviations where there are several."""
    parts = []
    for name, digits in columns.items():
        values = [result[name] for result in results]
        spread = f" ± {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 and digits else ""
        parts.append(f"{np.mean(values):.{digits}f}{spread}")
    return " | ".join(parts)


def campaign_table(path: Path) -> str:
    groups = rows_by(path, 2)
    head = "| start | strategy | best | mean of the best 10 | share above wild type | diversity | look-ups | seeds |"
    lines = [head, "| --- " * 8 + "|"]
    order = sorted(groups, key=lambda key: (int(key[0]), -np.mean([each["top_10"] for each in groups[key]])))
    for budget, name in order:
        results = groups[budget, name]
        lines.append(f"| {budget} | {name} | {cells(results, CAMPAIGN)} | {len(results)} |")
    return "\n".join(lines)


def calibration_table(path: Path) -> str:
    groups = rows_by(path, 3)
    head = "| learned from | tested on | judge | rank correlation | RMSE | 90 % intervals hold | calibration error |"
    lines = [head, "| --- " * 7 + "|"]
    for where, num, name in groups:
        lines.append(f"| {num} | {where} | {name} | {cells(groups[where, num, name], CALIBRATION)} |")
    return "\n".join(lines)


def main() -> None:
    """Writes the tables between the marks of the page."""
    text = PAGE.read_text(encoding="utf-8")
    for name, make in (("gb1", campaign_table), ("calibration-gfp", calibration_table)):
        start, end = f"<!-- {name}: written by training/studies/protein_design/table.py -->", f"<!-- end of {name} -->"
        before, rest = text.split(start)
        text = f"{before}{start}\n\n{make(RESULTS / f'{name}.json')}\n\n{end}{rest.split(end)[1]}"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
