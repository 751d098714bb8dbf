"""Writes what short runs with one thing changed came to, from their logs.

    python training/studies/sentences/probes.py a.log b.log --output training/studies/sentences/results/probes.json

A log is what `training/train.py text training/configs/text_sentences.json ...` printed; its name is that of the run.
Kept are the command's model configuration, the batch size and, at each evaluation, the sentences seen and the
held-out reconstruction loss in nats a token.
"""

import argparse
import ast
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_eddpm.hub.card import markdown_table


def read_log(path: Path) -> dict[str, Any]:
    """Return what a log says of a run."""
    text = path.read_text(encoding="utf-8")
    config = re.search(r"model_config: (\{.*\})", text)
    batch = re.search(r"Instantaneous batch size per device = (\d+)", text)
    examples = re.search(r"Num examples = ([\d,]+)", text)
    if config is None or batch is None or examples is None:
        raise ValueError(f"{path} is no log of a training of text.")
    size, count = int(batch[1]), int(examples[1].replace(",", ""))
    points = {}
    for line in text.splitlines():
        if line.startswith("{'") and "eval_reconstruction_loss" in line:
            entry = ast.literal_eval(line)
            steps = round(float(entry["epoch"]) * count / size)
            points[steps] = float(entry["eval_reconstruction_loss"])
    rate = re.search(r"'learning_rate': '([\d.e-]+)'.*\n(?!.*'learning_rate')", text)
    return {
        "model_config": json.loads(config[1]),
        "batch_size": size,
        "learning_rate": None if rate is None else float(rate[1]),
        "loss": [{"sentences": steps * size, "nats_per_token": loss} for steps, loss in points.items()],
    }


def main(words: Sequence[str] | None = None) -> None:
    """Writes the JSON and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logs", type=Path, nargs="+", help="logs of the runs")
    parser.add_argument("--output", type=Path, required=True, help="JSON file")
    arguments = parser.parse_args(words)
    results = {path.stem: read_log(path) for path in arguments.logs}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    counts = sorted({point["sentences"] for result in results.values() for point in result["loss"]})
    rows = []
    for name, result in results.items():
        found = {point["sentences"]: f"{point['nats_per_token']:.2f}" for point in result["loss"]}
        rows.append({"run": name, **{f"{count:,} sentences": found.get(count, "") for count in counts}})
    print(markdown_table(rows))


if __name__ == "__main__":
    main()
