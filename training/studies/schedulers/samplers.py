"""Which sampler suits a text checkpoint: how its sentences read, and how much of the data's spread they keep.

    python training/studies/schedulers/samplers.py model_cards/eddpm-yelp --train train.0.txt.gz train.1.txt.gz \\
        --dev dev.0.txt.gz dev.1.txt.gz

A sampler that shortens the latents writes what is likely, and less of what there is: perplexity alone prefers it. So
beside the perplexity under a trigram model of the training sentences stand the latents' standard deviation, their
neighbour ratio, and the perplexity of held-out sentences under a trigram model of the samples (reverse perplexity).
The one that is chosen has the lowest perplexity of those that keep the spread: a standard deviation within 5 % of that
of real latents, and a reverse perplexity within 10 % of the lowest, which is less exact.
"""

import argparse
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler

from hf_eddpm import EDDPMPipeline
from hf_eddpm.hub.card import markdown_table
from hf_eddpm.modalities.text.data import load_text
from hf_eddpm.modalities.text.metrics import TrigramModel, reverse_perplexity, uniqueness
from hf_eddpm.training.environment import describe_command, describe_environment
from hf_eddpm.training.evaluation import NUM_REAL, finish_result, plus_minus, reach_statistics, spread

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the studies, which share code

from common.schedulers import SCHEDULERS as OF_STUDIES

FOLDER = Path(__file__).parent / "results"
DPM = "DPM-Solver++ (Karras)"
SCHEDULERS = {**OF_STUDIES, "ancestral": DDPMScheduler.from_config}
SETTINGS = (  # scheduler, steps, scale of the first noise
    *(("DDIM", steps, 1.0) for steps in (10, 20, 50, 100)),
    ("DDIM", 20, 0.9),
    *((DPM, steps, 1.0) for steps in (10, 20, 50)),
    *((DPM, 20, scale) for scale in (0.8, 0.9, 0.95)),
    *(("ancestral", steps, 1.0) for steps in (50, 100)),
)
STD_WITHIN = 0.05  # of that of real latents
REVERSE_WITHIN = 0.1  # of the lowest
SEED = 0
MEASURES = {
    "perplexity": ("perplexity", ".1f"),
    "reverse_perplexity": ("reverse perplexity", ".0f"),
    "std": ("latents' standard deviation", ".3f"),
    "neighbor_ratio": ("neighbour ratio", ".2f"),
    "frechet_ratio": ("latents' Frechet over real halves", ".2f"),
    "unique": ("unique", ".3f"),
    "seconds": ("seconds", ".1f"),
}


def measure(
    pipe: EDDPMPipeline, train: list[str], dev: list[str], num_samples: int, seeds: Sequence[int]
) -> dict[str, Any]:
    """Rows of all settings and of held-out sentences in the place of samples.

    Args:
        pipe: The pipeline; its scheduler is replaced.
        train: Training sentences.
        dev: Held-out sentences, drawn in this order; at least twice as many as samples are best.
        num_samples: Sentences of each setting and seed.
        seeds: Of the samples.
    """
    config, judge = pipe.model.scheduler.config, TrigramModel.fit(train)
    reference, others = dev[:num_samples], dev[num_samples : 2 * num_samples]
    unseen, known = (pipe.encode(part, 250).latents.float() for part in (reference, train[:NUM_REAL]))

    def judged(sentences: list[str]) -> dict[str, float]:
        backward = reverse_perplexity(sentences, reference, judge.vocabulary_size)
        return {
            "perplexity": judge.perplexity(sentences),
            "reverse_perplexity": backward,
            "unique": uniqueness(sentences),
        }

    rows = []
    for name, steps, scale in SETTINGS:
        pipe.scheduler = SCHEDULERS[name](config)
        found = []
        for seed in seeds:
            start, generator = time.perf_counter(), torch.Generator(pipe.device).manual_seed(seed)
            options = {"num_inference_steps": steps, "noise_scale": scale, "generator": generator}
            latents = pipe(num_samples, output_type="latent", **options).latents
            seconds = time.perf_counter() - start
            reach = reach_statistics(latents.float(), unseen, known)
            found.append(judged(pipe.decode(latents, batch_size=250)) | reach | {"seconds": seconds})
            found[-1]["frechet_ratio"] = reach["frechet"] / reach["real_frechet"]
        measured = {key: spread([each[key] for each in found]) for key in MEASURES}
        rows.append(
            {"scheduler": name, "steps": steps, "noise_scale": scale, "real_std": found[0]["real_std"], **measured}
        )
        print(_row(rows[-1]), flush=True)
    return {"rows": rows, "real": judged(others) | {"std": rows[0]["real_std"]}}


def choose(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The row of the lowest perplexity among those that keep the spread; of none, the one of the most spread."""
    lowest = min(row["reverse_perplexity"]["mean"] for row in rows)
    kept = [
        row
        for row in rows
        if abs(row["std"]["mean"] / row["real_std"] - 1) <= STD_WITHIN
        and row["reverse_perplexity"]["mean"] <= (1 + REVERSE_WITHIN) * lowest
    ]
    if not kept:
        return min(rows, key=lambda row: abs(row["std"]["mean"] / row["real_std"] - 1))
    return min(kept, key=lambda row: row["perplexity"]["mean"])


def _shuffled(sentences: list[str]) -> list[str]:
    return random.Random(SEED).sample(sentences, len(sentences))  # files are often sorted by class


def _row(row: dict[str, Any]) -> dict[str, str]:
    found = {title: plus_minus(row[key], form) for key, (title, form) in MEASURES.items()}
    return {"scheduler": row["scheduler"], "steps": str(row["steps"]), "noise": f"{row['noise_scale']:g}", **found}


def report(result: dict[str, Any]) -> str:
    """The table: what was measured, the chosen row in bold, and real sentences in the last."""
    chosen, rows = choose(result["rows"]), []
    for row in result["rows"]:
        cells = _row(row)
        rows.append({key: f"**{value}**" for key, value in cells.items()} if row is chosen else cells)
    real = {MEASURES[key][0]: f"{value:{MEASURES[key][1]}}" for key, value in result["real"].items()}
    return markdown_table([*rows, {"scheduler": "real sentences", **real}])


def main(words: Sequence[str] | None = None) -> None:
    """Writes the JSON and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", help="folder or Hub id of a text pipeline")
    parser.add_argument("--train", nargs="+", required=True, help="its training sentences")
    parser.add_argument("--dev", nargs="+", required=True, help="held-out sentences")
    parser.add_argument("--num_samples", type=int, default=1000)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, help="JSON file; the table goes beside it; by default in results/")
    words = sys.argv[1:] if words is None else list(words)
    arguments, start = parser.parse_args(words), time.perf_counter()
    pipe = EDDPMPipeline.from_pretrained(arguments.checkpoint).to(arguments.device)
    pipe.set_progress_bar_config(disable=True)
    train, dev = (_shuffled(load_text(source).sentences) for source in (arguments.train, arguments.dev))
    found = measure(pipe, train, dev, arguments.num_samples, arguments.seeds)
    name = Path(arguments.checkpoint).name
    facts = {"checkpoint": name, "num_samples": arguments.num_samples, "seeds": arguments.seeds}
    facts["chain_on"] = describe_environment(pipe.device)["hardware"]  # the rest is the CPU's
    command = describe_command("training/studies/schedulers/samplers.py", words)
    output = arguments.output or FOLDER / f"{name}-samplers.json"
    chosen = {key: choose(found["rows"])[key] for key in ("scheduler", "steps", "noise_scale")}
    finish_result({**facts, "command": command, "chosen": chosen, **found}, start, output, report(found))
    print(report(found))


if __name__ == "__main__":
    main()
