"""Measures what a training step costs, as the training command runs it, before and after a change of its settings.

    python training/studies/speed/steps.py --yelp $YELP --sentences data/sentences --gifford $GIFFORD \\
        --fashion $FASHION --output training/studies/speed/results/steps.json

Each configuration is trained twice, for a few steps and for more; the difference in the processes' CPU seconds, over
the difference in steps, is a step. Data, model and saving fall out. One thread; the median of several rounds, in which
the settings take turns. Beside them stand the operations of a step, which torch counts in the checkpoint of that
configuration, and the share of the machine's rate of bfloat16 products that they come to. Rows that the JSON file has
already are not measured again.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

import torch
from PIL import Image

from hf_eddpm import EDDPMPipeline
from hf_eddpm.hub.card import markdown_table
from hf_eddpm.modalities.image.data import load_images
from hf_eddpm.training.environment import describe_command, describe_environment
from hf_eddpm.training.options import ColumnArguments
from hf_eddpm.training.raw_data import load_raw_data

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the studies, which share code

from speed.roofline import count_operations, matmul_rate

ROOT = Path(__file__).resolve().parents[3]
RANDOM, GROUPED = "random batches", "batches of like length"
CHECKPOINTS = {
    "text_yelp_mini": "eddpm-yelp-mini",
    "text_sentences": "eddpm-sentences",
    "protein_gifford": "eddpm-gifford",
    "image_fashion": "eddpm-fashion",
}
STRATEGIES = {RANDOM: "random", GROUPED: "group_by_length"}


def cases(arguments: argparse.Namespace) -> dict[str, tuple[str, list[str]]]:
    """Return the modality and the words of each configuration whose data are named."""
    found: dict[str, tuple[str, list[str]]] = {}
    if arguments.yelp:
        found["text_yelp_mini"] = "text", [f"{arguments.yelp}/train.{label}.txt.gz={label}" for label in (0, 1)]
    if arguments.sentences:
        found["text_sentences"] = "text", [f"{arguments.sentences}/train.{label}.txt={label}" for label in range(5)]
    if arguments.gifford:
        found["protein_gifford"] = "protein", [f"{arguments.gifford}/train.csv.gz"]
    if arguments.fashion:
        found["image_fashion"] = "image", [f"{arguments.fashion}/train-images-idx3-ubyte.gz"]
    return found


def cpu_seconds(modality: str, config: str, train: Sequence[str], steps: int, extra: Sequence[str]) -> float:
    """Train for so many steps in a process of its own, and return its CPU seconds."""
    with tempfile.TemporaryDirectory() as folder:
        words = [f"{ROOT}/training/configs/{config}.json", "--train", *train, "--output_dir", folder, *extra]
        fixed = {"max_steps": steps, "eval_strategy": "no", "save_strategy": "no", "num_threads": 1, "seed": 1}
        fixed |= {"use_cpu": "true", "disable_tqdm": "true", "report_to": "none", "num_previews": 0}
        words += [word for name, value in fixed.items() for word in (f"--{name}", str(value))]
        before = _of_children()
        command = [sys.executable, f"{ROOT}/training/train.py", modality, *words]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        return _of_children() - before


def _of_children() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def operations(config: str, train: Sequence[str], size: int) -> int:
    """Return the operations of a step on data as they come: forward and backward, of so many of the first data."""
    pipe = EDDPMPipeline.from_pretrained(ROOT / "model_cards" / CHECKPOINTS[config])
    if pipe.model.config.modality == "image":
        items = [Image.fromarray(image[..., 0]) for image in load_images(*train).images[:size]]
    else:
        columns = ColumnArguments(padding_symbol="J" if config == "protein_gifford" else None)
        items = load_raw_data(pipe, list(train), columns).sample(size, 0).items
    model = pipe.model.train()
    return count_operations(lambda: model(**pipe.processor(items)).loss.backward())["total"]


def measure(
    found: dict[str, tuple[str, list[str]]], rounds: int, numbers: Sequence[int], rows: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Add to rows one for each configuration and setting that is not there, from trainings of two numbers of steps."""
    for config, (modality, train) in found.items():
        settings = STRATEGIES if modality == "text" else {"as it is": None}
        if any(row["config"] == config for row in rows):
            continue
        seconds: dict[str, list[float]] = {name: [] for name in settings}
        for _ in range(rounds):
            for name, strategy in settings.items():
                extra = [] if strategy is None else ["--train_sampling_strategy", strategy]
                few, more = (cpu_seconds(modality, config, train, steps, extra) for steps in numbers)
                seconds[name].append((more - few) / (numbers[1] - numbers[0]))
        batch = json.loads((ROOT / "training" / "configs" / f"{config}.json").read_text(encoding="utf-8"))
        size = batch.get("per_device_train_batch_size", 8) * batch.get("gradient_accumulation_steps", 1)
        for name, each in seconds.items():
            row = {"config": config, "setting": name, "cpu_seconds": median(each), "all": each, "batch_size": size}
            rows.append({**row, "data_per_cpu_second": size / median(each)})
        first = rows[-len(seconds)]["data_per_cpu_second"]
        for row in rows[-len(seconds) :]:
            row["times_as_many"] = row["data_per_cpu_second"] / first
    return rows


def report(rows: Sequence[dict[str, Any]]) -> str:
    """Return the table."""
    return markdown_table(
        [
            {
                "configuration": row["config"],
                "setting": row["setting"],
                "CPU ms a step": f"{1000 * row['cpu_seconds']:.0f}",
                "data a CPU second": f"{row['data_per_cpu_second']:.0f}",
                "times as many": f"{row['times_as_many']:.2f}",
                "billion operations": f"{row['operations'] / 1e9:.1f}" if "operations" in row else "",
                "share of the rate": f"{row['share']:.0%}" if "share" in row else "",
            }
            for row in rows
        ]
    )


def main(words: Sequence[str] | None = None) -> None:
    """Measures the configurations whose data are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("yelp", "sentences", "gifford", "fashion"):
        parser.add_argument(f"--{name}", type=lambda path: Path(path).resolve(), help="folder of its data")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the median counts")
    parser.add_argument("--steps", type=int, nargs=2, default=[20, 80], help="a few steps, and more of them")
    parser.add_argument("--output", type=Path, required=True, help="JSON file; the table goes beside it")
    arguments = parser.parse_args(words)
    given = sys.argv[1:] if words is None else words
    result: dict[str, Any] = {"command": describe_command("training/studies/speed/steps.py", given)}
    found, rows = cases(arguments), []
    if arguments.output.is_file():
        rows = json.loads(arguments.output.read_text(encoding="utf-8"))["rows"]
    rows = measure(found, arguments.rounds, arguments.steps, rows)
    torch.set_num_threads(1)
    rate = matmul_rate(torch.bfloat16)
    for row in rows:
        if row["config"] in found and row["setting"] != GROUPED:
            row["operations"] = operations(row["config"], found[row["config"]][1], row["batch_size"])
            row["share"] = row["operations"] / row["cpu_seconds"] / rate
    result |= {**describe_environment(torch.device("cpu")), "matrix rate": rate, "rows": rows}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    table = report(result["rows"])
    arguments.output.with_suffix(".md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
