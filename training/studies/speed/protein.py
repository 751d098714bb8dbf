"""Times the small protein preset beside the paper's: training steps and sampling, in CPU seconds, in one run.

    python training/studies/speed/protein.py --output training/studies/speed/results/protein.json

Networks of both presets with random weights, on random proteins of the lengths of Gifford's (9 to 17 residues in a
frame of 20): neither affects the time. CPU seconds are summed over threads, the median of several repeats.
"""

import argparse
import json
import random
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from hf_eddpm import EDDPMConfig, EDDPMModel, EDDPMPipeline, EDDPMProteinProcessor, EDDPMScheduler
from hf_eddpm.hub.card import markdown_table
from hf_eddpm.modalities.protein.residues import RESIDUES
from hf_eddpm.training.environment import describe_environment

LENGTH = 20
BATCH_SIZE = 256
PRESETS = {"small": "protein-small", "paper": "protein-paper"}
FEW_STEPS = 20


def cpu_seconds(call: Callable[[], Any], repeats: int) -> float:
    """Median CPU seconds of `call`, after one call to warm up."""
    call()
    times = []
    for _ in range(repeats):
        start = time.process_time()
        call()
        times.append(time.process_time() - start)
    return statistics.median(times)


def build(preset: str) -> EDDPMPipeline:
    """A pipeline of that preset with random weights."""
    torch.manual_seed(0)
    model = EDDPMModel(EDDPMConfig.from_preset(preset, num_properties=1))
    processor = EDDPMProteinProcessor(LENGTH, alignment="center")
    pipe = EDDPMPipeline(model, EDDPMScheduler(**model.config.scheduler_config), processor)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def time_step(pipe: EDDPMPipeline, repeats: int) -> float:
    """CPU seconds of one training step: forward, backward and AdamW."""
    rng = random.Random(0)
    proteins = ["".join(rng.choices(RESIDUES, k=rng.randint(9, 17))) for _ in range(BATCH_SIZE)]
    batch = dict(pipe.processor(proteins), properties=torch.zeros(BATCH_SIZE, 1))
    model = pipe.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)

    def step() -> None:
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()

    seconds = cpu_seconds(step, repeats)
    model.eval()
    return seconds


def main() -> None:
    """Times and writes the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", required=True, help="JSON file; the table goes beside it as .md")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--num_samples", type=int, default=1024, help="samples; the long chain draws a 64th")
    parser.add_argument("--many_steps", type=int, default=1000, help="steps of the paper's own chain")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    result: dict[str, Any] = {"batch_size": BATCH_SIZE, "num_samples": arguments.num_samples, "presets": {}}
    for name, preset in PRESETS.items():
        pipe = build(preset)
        values = {
            "denoiser_parameters": sum(parameter.numel() for parameter in pipe.model.denoiser.parameters()),
            "parameters": pipe.model.num_parameters(),
            "step_cpu_seconds": time_step(pipe, arguments.repeats),
        }
        # a thousand steps of the paper's denoiser take minutes: once, on fewer samples
        lengths = [(FEW_STEPS, arguments.num_samples, arguments.repeats)]
        lengths += [(arguments.many_steps, max(1, arguments.num_samples // 64), 1)] if name == "paper" else []
        for steps, count, repeats in lengths:
            generate = lambda: pipe(count, num_inference_steps=steps)  # noqa: B023, E731 (called at once)
            values[f"samples_per_cpu_second_{steps}_steps"] = count / cpu_seconds(generate, repeats)
        result["presets"][name] = values
    small, paper = result["presets"]["small"], result["presets"]["paper"]
    result["step_ratio"] = paper["step_cpu_seconds"] / small["step_cpu_seconds"]
    result |= describe_environment(torch.device("cpu"))

    output = Path(arguments.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    table = markdown_table(
        [
            {"preset": name, **{key.replace("_", " "): f"{value:,.3g}" for key, value in values.items()}}
            for name, values in result["presets"].items()
        ]
    )
    output.with_suffix(".md").write_text(table + "\n", encoding="utf-8")
    print(f"{table}\n\nA step of the paper's preset costs {result['step_ratio']:.1f} times that of the small one.")


if __name__ == "__main__":
    main()
