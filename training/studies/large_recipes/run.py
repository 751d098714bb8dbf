"""Measures a training step of the paper's image recipes, and what a whole training would take by it.

    python training/studies/large_recipes/run.py --output training/studies/large_recipes/results/cpu.json

On a CPU a step of two images is measured, in seconds of computing (what others compute there does not count), on a GPU
(`--device cuda`) as many images as `--batch_sizes` says, in bfloat16; `--checkpointing 0 1` compares without and with
gradient checkpointing. A step is what the trainer does: loss, gradients, AdamW, an average of the weights. The
floating-point operations of a step are counted by torch, without computing anything. The hours are those of the
configuration's steps and batch at the pictures a second measured, on one such device, and beside them those of one
that sustains 50 TFLOP/s.
"""

import argparse
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch.utils.flop_counter import FlopCounterMode

from hf_eddpm import EDDPMConfig, EDDPMModel
from hf_eddpm.hub.card import markdown_table
from hf_eddpm.training.environment import describe_command
from hf_eddpm.training.evaluation import finish_result

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
RECIPES = ("image_celeba64_paper", "image_ffhq128_paper", "image_lsun128_paper")
SUSTAINED = 50e12  # operations a second, for an estimate: a sixth of an A100's peak in bfloat16
_WARM_UP = 1  # steps before those that are timed


def settings(recipe: str) -> dict[str, Any]:
    """What a configuration file says."""
    return json.loads((CONFIGS / f"{recipe}.json").read_text(encoding="utf-8"))


def make_model(recipe: str) -> EDDPMModel:
    """The model of a configuration, untrained."""
    given = settings(recipe)
    return EDDPMModel(EDDPMConfig.from_preset(given["preset"], **given["model_config"]))


def random_images(recipe: str, count: int, device: str) -> torch.Tensor:
    """Noise of the recipe's size, float32 (count, 3, size, size) in [-1, 1]."""
    size = settings(recipe)["image_size"]
    return torch.rand(count, 3, size, size, device=device) * 2 - 1


def count_operations(recipe: str) -> float:
    """Floating-point operations of the loss of one image and of its gradients."""
    with torch.device("meta"):
        model = make_model(recipe).train()
        images = random_images(recipe, 1, "meta")
        timesteps = torch.zeros(1, dtype=torch.long)
        with FlopCounterMode(display=False) as counter:
            latents = model.encode(pixel_values=images).mean
            outputs = model.denoiser(latents, timesteps), model.decoder.denoise(images, timesteps, latents)
            sum(output.sum() for output in outputs).backward()
    return float(counter.get_total_flops())


def measure_step(recipe: str, batch_size: int, device: str, checkpointing: bool, num_steps: int) -> dict[str, float]:
    """Seconds of a training step, and the memory it takes at its height."""
    torch.manual_seed(0)
    model = make_model(recipe).to(device).train()
    if checkpointing:
        # transformers 5.23 renamed the method
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)
    average = EMAModel(model.parameters(), decay=settings(recipe)["ema_decay"], foreach=True)
    images = random_images(recipe, batch_size, device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
    for step in range(_WARM_UP + num_steps):
        if step == _WARM_UP:
            start = _now(device)
        with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
            loss = model(images).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        average.step(model.parameters())
    seconds = (_now(device) - start) / num_steps
    on_cpu = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else on_cpu
    return {"seconds": seconds, "gigabytes": peak / 1e9}


def _now(device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() / torch.get_num_threads()


def benchmark(args: argparse.Namespace) -> list[dict[str, Any]]:
    """One row for each recipe and setting; on a CPU the memory is that of the process at its height so far."""
    rows = []
    for recipe in args.recipes:
        given = settings(recipe)
        operations = count_operations(recipe)
        with torch.device("meta"):
            parameters = make_model(recipe).num_parameters()
        for batch_size in args.batch_sizes:
            for checkpointing in args.checkpointing:
                measured = measure_step(recipe, batch_size, args.device, bool(checkpointing), args.num_steps)
                whole = given["max_steps"] * given["per_device_train_batch_size"]
                hours = measured["seconds"] / batch_size * whole / 3600
                row = {
                    "recipe": recipe,
                    "parameters": parameters,
                    "operations": operations,
                    "batch_size": batch_size,
                    "checkpointing": bool(checkpointing),
                    "steps": given["max_steps"],
                    "batch": given["per_device_train_batch_size"],
                    **measured,
                    "hours": hours,
                }
                rows.append(row)
                print(json.dumps(row), flush=True)
    return rows


def markdown_report(rows: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    return markdown_table(
        [
            {
                "recipe": f"`{row['recipe']}`",
                "million parameters": f"{row['parameters'] / 1e6:.0f}",
                "GFLOP an image": f"{row['operations'] / 1e9:.0f}",
                "images of the step": row["batch_size"],
                "gradient checkpointing": "yes" if row["checkpointing"] else "no",
                "seconds": f"{row['seconds']:.2f}",
                "GB": f"{row['gigabytes']:.1f}",
                "hours for all steps": f"{row['hours']:,.0f}",
                "hours at 50 TFLOP/s": f"{row['operations'] * row['steps'] * row['batch'] / SUSTAINED / 3600:,.0f}",
            }
            for row in rows
        ]
    )


def main(words: list[str] | None = None) -> list[dict[str, Any]]:
    """Measures, and writes a JSON file and a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=RECIPES)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--batch_sizes", nargs="+", type=int, default=[2])
    parser.add_argument("--checkpointing", nargs="+", type=int, default=[0], choices=[0, 1])
    parser.add_argument("--num_steps", type=int, default=2, help="Steps that are timed.")
    parser.add_argument("--output", default=None, help="JSON file to write; the table goes beside it.")
    words = sys.argv[1:] if words is None else words
    args = parser.parse_args(words)
    start = time.perf_counter()
    rows = benchmark(args)
    result: dict[str, Any] = {
        "command": describe_command("training/studies/large_recipes/run.py", words),
        "rows": rows,
    }
    if args.device == "cuda":
        result["gpu"] = torch.cuda.get_device_name()
    report = markdown_report(rows)
    finish_result(result, start, args.output, report)
    print(report)
    return rows


if __name__ == "__main__":
    main()
