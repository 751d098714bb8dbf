"""Bulk jobs: what a million rows cost, and whether the memory stays flat.

python training/studies/bulk/run.py cost --checkpoint model_cards/eddpm-yelp --data train.0.txt.gz
python training/studies/bulk/run.py memory --checkpoint model_cards/eddpm-gifford --num_samples 1000000
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil
import torch

from hf_eddpm.training.environment import describe_environment

COMMAND = [sys.executable, "-c", "from hf_eddpm.cli.main import main; main()"]
RESULTS = Path(__file__).parent / "results"


def run(words: list[str], watch: list[dict] | None = None, interval: float = 2.0) -> tuple[float, float]:
    """Run a command; return its wall time and its CPU time in seconds. `watch` gets its memory as it runs."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    out = Path(words[words.index("--output_dir") + 1])
    with psutil.Popen([*COMMAND, *words], stderr=subprocess.DEVNULL) as process:
        while process.poll() is None:
            if watch is not None:
                parts = len(list(out.glob("part-*")))
                watch.append({"parts": parts, "rss_mb": round(process.memory_info().rss / 2**20, 1)})
            time.sleep(interval if watch is not None else 0.05)
    if process.returncode:
        raise SystemExit(f"{words} failed")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return time.perf_counter() - start, cpu


def cost(arguments: argparse.Namespace, folder: Path) -> dict:
    """Time each task on two sizes: their difference leaves out what loading takes."""
    rows = {}
    for task, num_rows in (
        ("encode", arguments.num_encoded),
        ("score", arguments.num_scored),
        ("generate", arguments.num_generated),
    ):
        few = max(1, num_rows // 5)
        times = []
        for count in (few, num_rows):
            data = ["--num_samples", count] if task == "generate" else [*arguments.data, "--limit", count]
            words = [task, arguments.checkpoint, *data, "--output_dir", folder / f"{task}-{count}", "--num_threads", 1]
            times.append(run([*map(str, words), "--device", arguments.device, "--dtype", arguments.dtype]))
        made = num_rows - few
        wall, cpu = (max(long - short, 1e-9) for short, long in zip(*times, strict=True))
        rows[task] = {
            "rows": made,
            "wall_seconds": round(wall, 2),
            "cpu_seconds": round(cpu, 2),
            "rows_per_cpu_second": round(made / cpu, 1),
            "cpu_hours_per_million": round(1e6 / made * cpu / 3600, 3),
        }
        print(task, rows[task])
    return {
        "checkpoint": arguments.checkpoint,
        "device": arguments.device,
        "dtype": arguments.dtype,
        "threads": 1,
        "tasks": rows,
    }


def memory(arguments: argparse.Namespace, folder: Path) -> dict:
    """Generate a long stream, encode what came of it, and watch the resident memory of both."""
    facts = {}
    made = ["generate", arguments.checkpoint, "--num_samples", arguments.num_samples, "--num_inference_steps", 2]
    encoded = ["encode", arguments.checkpoint, "--column", "sample", "--no_keep_data"]
    for task in ("generate", "encode"):
        words = made if task == "generate" else [*encoded, *sorted((folder / "generate").glob("part-*"))]
        watched: list[dict] = []
        words = [*words, "--output_dir", folder / task, "--part_size", arguments.part_size, "--device", "cpu"]
        wall, cpu = run([*map(str, words), *(["--on_error", "skip"] if task == "encode" else [])], watched)
        num_parts = -(-arguments.num_samples // arguments.part_size)
        tenths = {}
        for tenth in range(1, 11):  # the most within each tenth of the stream
            within = [each["rss_mb"] for each in watched if 10 * each["parts"] // num_parts == tenth - 1]
            tenths[f"{tenth}/10"] = max(within, default=None)
        facts[task] = {
            "rows": arguments.num_samples,
            "parts": num_parts,
            "wall_seconds": round(wall, 1),
            "cpu_seconds": round(cpu, 1),
            "rss_mb_by_tenth": tenths,
        }
        print(task, facts[task])
    return {"checkpoint": arguments.checkpoint, "part_size": arguments.part_size, "tasks": facts}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("cost", "memory"))
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data", nargs="*", default=[])
    parser.add_argument("--num_encoded", type=int, default=20_000)
    parser.add_argument("--num_scored", type=int, default=2_000)
    parser.add_argument("--num_generated", type=int, default=3_000)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--num_samples", type=int, default=1_000_000)
    parser.add_argument("--part_size", type=int, default=10_000)
    parser.add_argument("--output", type=Path, help="by default results/<what>.json here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        facts = {"cost": cost, "memory": memory}[arguments.what](arguments, Path(folder))
    facts |= describe_environment(torch.device(arguments.device), ["datasets"])
    output = arguments.output or RESULTS / f"{arguments.what}.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
