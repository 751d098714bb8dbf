"""Quality against number of steps: schedulers, and a distilled denoiser, on one checkpoint of text or proteins.

    python training/studies/few_steps/run.py --checkpoint model_cards/eddpm-yelp --distilled runs/yelp-few \\
        --dev dev.0.txt.gz dev.1.txt.gz --output steps.json

For each scheduler, noise scale and number of steps, over the sampling seeds: the relative Frechet distance of the
latents from samples of the posterior of one half of the held-out data, the divergence of the decoded samples' n-grams
(two words, three residues) from that half's, how many of them differ, and the seconds of the chain. The other half of
the held-out data, measured alike, is the floor. Sizes are equal throughout.
"""

import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import LCMScheduler
from tqdm import tqdm
from transformers import HfArgumentParser

from hf_eddpm import EDDPMPipeline
from hf_eddpm.hub.card import markdown_table
from hf_eddpm.metrics.ngram_divergence import ngram_divergence
from hf_eddpm.modalities.protein.metrics import kmer_divergence
from hf_eddpm.modalities.text.metrics import latent_frechet
from hf_eddpm.training.environment import describe_command
from hf_eddpm.training.evaluation import as_embeddings, finish_result, plus_minus, spread
from hf_eddpm.training.options import ColumnArguments
from hf_eddpm.training.raw_data import load_raw_data

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the studies, which share code

from common.schedulers import SCHEDULERS
from common.timing import timed

DISTILLED = "distilled (LCM)"


@dataclass
class StepsArguments:
    """What is compared."""

    checkpoint: str = field(metadata={"help": "Folder or Hub id of the pipeline."})
    dev: list[str] = field(metadata={"help": "Held-out data."})
    distilled: str | None = field(default=None, metadata={"help": "Pipeline that distill.py made of the checkpoint."})
    steps: list[int] = field(default_factory=lambda: [5, 10, 20, 50], metadata={"help": "Numbers of steps."})
    distilled_steps: list[int] = field(
        default_factory=lambda: [1, 2, 4], metadata={"help": "Numbers of steps of the distilled denoiser."}
    )
    noise_scales: list[float] = field(
        default_factory=list, metadata={"help": "Noise scales besides 1, with `noise_scale_steps` steps."}
    )
    noise_scale_steps: int = field(default=20, metadata={"help": "Steps of those samples."})
    num_samples: int = field(default=1000, metadata={"help": "Samples for each number of steps and seed."})
    seeds: list[int] = field(default_factory=lambda: [0, 1], metadata={"help": "Sampling seeds."})
    output: str | None = field(default=None, metadata={"help": "JSON file to write; the table goes beside it."})
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads of torch."})

    def __post_init__(self) -> None:
        if min([*self.steps, *self.distilled_steps, self.num_samples, self.noise_scale_steps], default=0) < 1:
            raise ValueError("`steps`, `distilled_steps`, `noise_scale_steps` and `num_samples` must be at least 1.")


def settings(
    args: StepsArguments, pipe: EDDPMPipeline, student: EDDPMPipeline | None
) -> Iterable[tuple[str, int, float, EDDPMPipeline, Any]]:
    """Yields name, number of steps, noise scale, pipeline and scheduler of each row."""
    config = pipe.model.scheduler.config
    for name, make in SCHEDULERS.items():
        for steps in args.steps:
            yield name, steps, 1.0, pipe, make(config)
        for scale in args.noise_scales:
            yield name, args.noise_scale_steps, scale, pipe, make(config)
    if student is not None:
        for steps in args.distilled_steps:
            yield DISTILLED, steps, 1.0, student, LCMScheduler.from_config(student.scheduler.config)


def benchmark(
    pipe: EDDPMPipeline, student: EDDPMPipeline | None, items: list[Any], args: StepsArguments
) -> list[dict[str, Any]]:
    """Measures each row; the last is real data."""
    protein = pipe.model.config.modality == "protein"
    divergence, n = (kmer_divergence, 3) if protein else (ngram_divergence, 2)
    order = np.random.default_rng(args.seeds[0]).permutation(len(items))
    num = min(args.num_samples, len(items) // 2)
    reference, rest = ([items[row] for row in order[part]] for part in (slice(0, num), slice(num, 2 * num)))
    means = pipe.encode([*reference, *rest]).latents
    noise = torch.randn(means.shape, generator=torch.Generator().manual_seed(args.seeds[0]))
    posterior = as_embeddings(means + pipe.model.config.encoder_noise_variance**0.5 * noise)

    rows = []
    for name, steps, scale, each, scheduler in tqdm(list(settings(args, pipe, student)), desc="settings"):
        each.scheduler = scheduler
        values: dict[str, list[float]] = {"latent_frechet": [], "divergence": [], "unique": [], "seconds": []}
        for seed in args.seeds:
            sampling = {
                "num_inference_steps": steps,
                "noise_scale": scale,
                "generator": torch.Generator().manual_seed(seed),
            }
            out, timing = timed(partial(each, num, output_type="latent", **sampling))
            samples = each.decode(out.latents)
            values["latent_frechet"].append(latent_frechet(as_embeddings(out.latents), posterior[:num]))
            values["divergence"].append(divergence(samples, reference, n))
            values["unique"].append(len(set(samples)) / len(samples))
            values["seconds"].append(timing.wall)
        measured = {key: spread(value) for key, value in values.items()}
        rows.append({"scheduler": name, "steps": steps, "noise_scale": scale, **measured})
    real = {
        "latent_frechet": spread([latent_frechet(posterior[num:], posterior[:num])]),
        "divergence": spread([divergence(rest, reference, n)]),
        "unique": spread([len(set(rest)) / len(rest)]),
    }
    return [*rows, {"scheduler": "real data", **real}]


def markdown_report(rows: list[dict[str, Any]]) -> str:
    """The rows as a table; a column of noise scales where there are several."""
    scaled = len({row["noise_scale"] for row in rows if "steps" in row}) > 1
    return markdown_table(
        [
            {
                "scheduler": row["scheduler"],
                "steps": row.get("steps", ""),
                **({"noise": f"{row['noise_scale']:g}" if "steps" in row else ""} if scaled else {}),
                "latent Frechet": plus_minus(row["latent_frechet"], ".3f"),
                "n-gram divergence": plus_minus(row["divergence"], ".3f"),
                "unique": plus_minus(row["unique"], ".3f"),
                "s": f"{min(row['seconds']['values']):.2f}" if "seconds" in row else "",
            }
            for row in rows
        ]
    )


def main(words: list[str] | None = None) -> list[dict[str, Any]]:
    """Runs the comparison of the command line."""
    parser = HfArgumentParser((StepsArguments, ColumnArguments), description=__doc__.splitlines()[0])
    args, columns = parser.parse_args_into_dataclasses(args=words)
    if args.num_threads is not None:
        torch.set_num_threads(args.num_threads)
    start = time.perf_counter()
    pipe = EDDPMPipeline.from_pretrained(args.checkpoint)
    student = None if args.distilled is None else EDDPMPipeline.from_pretrained(args.distilled)
    for each in (pipe, student):
        if each is not None:
            each.set_progress_bar_config(disable=True)
    rows = benchmark(pipe, student, load_raw_data(pipe, args.dev, columns).items, args)
    result = {
        "command": describe_command("training/studies/few_steps/run.py", sys.argv[1:] if words is None else words),
        "rows": rows,
    }
    report = markdown_report(rows)
    finish_result(result, start, args.output, report)
    print(report)
    return rows


if __name__ == "__main__":
    main()
