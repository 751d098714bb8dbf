"""Quality of an image checkpoint's samples against the number of steps, for several schedulers of the pixels' chain.

    python training/studies/few_steps/images.py training/configs/image_digits.json \\
        --checkpoint model_cards/eddpm-digits --output training/studies/few_steps/results/digits.json

Each chain takes the number of steps given: 20 means 20 calls of the latents' denoiser and 20 of the pixels' network.
The latents are the pipeline's own scheduler's, with `--full_steps` (1,000) those of DDIM, and of the ancestral sampler
where the pixels are the ancestral sampler's too. The same seed starts all rows from the same noise. Frechet distances
are from all images, training and held-out ones together, in the features of a classifier trained on the training
images: few held-out images alone do not determine a covariance.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler, DPMSolverMultistepScheduler, UniPCMultistepScheduler
from tqdm import tqdm

from hf_eddpm import EDDPMPipeline, EDDPMScheduler
from hf_eddpm.hub.card import markdown_table
from hf_eddpm.modalities.image.data import ImageData
from hf_eddpm.training.arguments import EDDPMTrainingArguments, parse_arguments
from hf_eddpm.training.environment import describe_command
from hf_eddpm.training.evaluation import finish_result, plus_minus, spread
from hf_eddpm.training.image_judge import Judge, decode, sample_latents
from hf_eddpm.training.options import CardArguments, ImageDataArguments, ImageModelArguments
from hf_eddpm.training.train_image import load_data

# The solvers of diffusers do not clip what they predict of an image to the range of pixels; their `thresholding` with
# the largest value that there is does.
CLIPPED = {"thresholding": True, "sample_max_value": 1.0}
ANCESTRAL = "ancestral (DDPM)"
SCHEDULERS: dict[str, Callable[[Any], Any]] = {
    "DDIM": lambda config: EDDPMScheduler.from_config(config),
    ANCESTRAL: lambda config: DDPMScheduler.from_config(config),
    "DPM-Solver++": lambda config: DPMSolverMultistepScheduler.from_config(config),
    "DPM-Solver++, clipped": lambda config: DPMSolverMultistepScheduler.from_config(config, **CLIPPED),
    "DPM-Solver++ (Karras), clipped": lambda config: DPMSolverMultistepScheduler.from_config(
        config, use_karras_sigmas=True, **CLIPPED
    ),
    "UniPC, clipped": lambda config: UniPCMultistepScheduler.from_config(config, **CLIPPED),
}


@dataclass
class ImageStepsArguments:
    """What is compared."""

    checkpoint: str = field(default="", metadata={"help": "Folder or Hub id of the pipeline."})
    schedulers: list[str] = field(
        default_factory=lambda: list(SCHEDULERS), metadata={"help": "Of the pixels' chain, with few steps."}
    )
    few_steps: list[int] = field(default_factory=lambda: [10, 20, 50], metadata={"help": "Steps of either chain."})
    full_steps: int = field(default=1000, metadata={"help": "Steps of the chains that the others are compared with."})
    full_schedulers: list[str] = field(
        default_factory=lambda: ["DDIM", ANCESTRAL], metadata={"help": "Schedulers of these."}
    )
    num_samples: int = field(default=500, metadata={"help": "Samples of each row and seed."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Sampling seeds."})
    batch_size: int = field(default=250, metadata={"help": "Images decoded at a time."})
    output: str | None = field(default=None, metadata={"help": "JSON file to write; the table goes beside it."})

    def __post_init__(self) -> None:
        for name in ("schedulers", "full_schedulers"):
            if unknown := set(getattr(self, name)) - set(SCHEDULERS):
                raise ValueError(f"`{name}` must be among {list(SCHEDULERS)}, got {sorted(unknown)}.")
        if min([*self.few_steps, self.full_steps, self.num_samples]) < 1:
            raise ValueError("`few_steps`, `full_steps` and `num_samples` must be at least 1.")


def benchmark(pipe: EDDPMPipeline, data: ImageData, judge: Judge, args: ImageStepsArguments) -> list[dict[str, Any]]:
    """Measures each row, the full chains first; the last is real images."""
    settings = [(name, args.full_steps) for name in args.full_schedulers]
    settings += [(name, steps) for name in args.schedulers for steps in args.few_steps]
    latent_scheduler = pipe.scheduler
    # The model's own chains, not what the pipeline's schedulers have made of them.
    own = pipe.model.config.scheduler_config
    pixel_config = EDDPMScheduler(**pipe.model.decoder.scheduler_config).config
    rows = []
    for name, steps in tqdm(settings, desc="settings"):
        full = steps == args.full_steps
        pipe.scheduler = EDDPMScheduler(**own) if full else latent_scheduler
        pipe.decoder_scheduler = SCHEDULERS[name](pixel_config)
        eta = {"eta": 1.0} if full and name == ANCESTRAL else {}
        distances, times = [], []
        for seed in args.seeds:
            start = time.process_time()
            latents = sample_latents(pipe, args.num_samples, steps, seed, **eta)
            images = decode(pipe, latents, steps, args.batch_size, seed)
            times.append(1000 * (time.process_time() - start) / args.num_samples)
            distances.append(judge.frechet(images))
        rows.append({"pixels": name, "steps": steps, "frechet": spread(distances), "cpu_ms": spread(times)})
    real = [judge.frechet(data.sample(args.num_samples, seed).images) for seed in args.seeds]
    best = min((row["frechet"] for row in rows if row["steps"] == args.full_steps), key=lambda each: each["mean"])
    for row in rows:
        # Seed by seed, as a seed's noise is the same in all rows.
        row["ratio"] = spread([a / b for a, b in zip(row["frechet"]["values"], best["values"], strict=True)])
    return [*rows, {"pixels": "real images", "frechet": spread(real)}]


def markdown_report(rows: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    return markdown_table(
        [
            {
                "pixels": row["pixels"],
                "steps": row.get("steps", ""),
                "Frechet": plus_minus(row["frechet"], ".2f"),
                "over the best full chain": plus_minus(row["ratio"], ".3f") if "ratio" in row else "",
                "CPU ms an image": f"{row['cpu_ms']['mean']:.1f}" if "cpu_ms" in row else "",
            }
            for row in rows
        ]
    )


def main(words: list[str] | None = None) -> list[dict[str, Any]]:
    """Runs the comparison of the command line."""
    words = sys.argv[1:] if words is None else words
    classes = (
        ImageStepsArguments,
        ImageDataArguments,
        ImageModelArguments,
        CardArguments,
        EDDPMTrainingArguments,
    )
    args, data_args, _, _, training_args = parse_arguments(
        *classes, args=[*words, "--output_dir", "unused", "--precision", "fp32"]
    )
    if not args.checkpoint:
        raise ValueError("`checkpoint` must name the pipeline's folder or Hub id.")
    start = time.perf_counter()
    pipe = EDDPMPipeline.from_pretrained(args.checkpoint)
    train, dev = load_data(data_args, training_args.seed, pipe.processor)
    every = ImageData(np.concatenate([train.images, dev.images]))
    if pipe.decoder_scheduler is None:
        raise ValueError("`checkpoint` must have a decoder that is a chain.")
    pipe.set_progress_bar_config(disable=True)
    judge = Judge(train, dev, data_args.label_column, args.seeds[0])
    judge.compare_with(every.images)
    rows = benchmark(pipe, every, judge, args)
    result = {
        "command": describe_command("training/studies/few_steps/images.py", words),
        "extractor": judge.name,
        "num_samples": args.num_samples,
        "seeds": args.seeds,
        "rows": rows,
    }
    report = markdown_report(rows)
    finish_result(result, start, args.output, report)
    print(report)
    return rows


if __name__ == "__main__":
    torch.set_flush_denormal(True)  # as train_image.py
    main()
