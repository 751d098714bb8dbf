"""Lets the denoiser of a saved checkpoint finish on its latents, and measures whether samples reach them.

    python training/studies/latent_rank/chain.py model_cards/eddpm-gfp --data train.csv.gz --dev validation.csv.gz

Compared are the checkpoint as it is, and its denoiser after more steps on samples of the posterior and on its means.
The checkpoint is not changed.
"""

import copy
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import HfArgumentParser

from hf_eddpm import EDDPMPipeline
from hf_eddpm.diagnostics import covariance_eigenvalues, spectrum_statistics
from hf_eddpm.training.environment import describe_environment
from hf_eddpm.training.evaluation import describe_sampler, reach_statistics
from hf_eddpm.training.finishing import finish_denoiser
from hf_eddpm.training.options import ColumnArguments
from hf_eddpm.training.raw_data import load_raw_data
from hf_eddpm.training.sampler import use_solver

FOLDER = Path(__file__).resolve().parent


@dataclass
class ChainArguments:
    """What is finished, and for how long."""

    checkpoint: str = field(metadata={"help": "Folder of the pipeline."})
    data: list[str] = field(metadata={"help": "Training data."})
    dev: list[str] = field(default_factory=list, metadata={"help": "Held-out data."})
    dev_last: int = field(default=0, metadata={"help": "In place of these, the last of the data."})
    output: str | None = field(default=None, metadata={"help": "JSON file; by default in results/chain."})
    num_train: int = field(default=20_000, metadata={"help": "Training data to encode, at most."})
    num_dev: int = field(default=2000, metadata={"help": "Held-out data to encode, at most."})
    num_steps: int = field(default=1500, metadata={"help": "Steps of the denoiser alone."})
    batch_size: int = field(default=256, metadata={"help": "Latents of a step."})
    learning_rate: float = field(default=1e-3, metadata={"help": "AdamW's."})
    num_samples: int = field(default=1000, metadata={"help": "Samples."})
    sampling_steps: list[int] = field(default_factory=lambda: [20, 50], metadata={"help": "Numbers of steps."})
    noise_scale: float | None = field(default=None, metadata={"help": "Of the first noise; the checkpoint's own."})
    solver: bool = field(default=False, metadata={"help": "Sample by DPM-Solver++, whatever the checkpoint does."})
    device: str = field(default="cpu", metadata={"help": "Where the networks compute."})
    seed: int = field(default=0, metadata={"help": "Of everything."})


@torch.no_grad()
def reach(
    pipe: EDDPMPipeline, unseen: torch.Tensor, real: torch.Tensor, args: ChainArguments
) -> dict[str, dict[str, Any]]:
    """How far sampled latents lie from real ones, for each number of steps."""
    result = {}
    for steps in args.sampling_steps:
        generator = torch.Generator().manual_seed(args.seed)
        classes, options = pipe.model.config.num_classes, {}
        if classes:
            options["class_labels"] = torch.randint(classes, (args.num_samples,), generator=generator)
        if args.noise_scale is not None:
            options["noise_scale"] = args.noise_scale
        out = pipe(args.num_samples, num_inference_steps=steps, generator=generator, output_type="latent", **options)
        result[str(steps)] = reach_statistics(out.latents.float().cpu(), unseen, real)
    return result


def main(words: list[str] | None = None) -> None:
    """Measures, finishes and measures again."""
    words = sys.argv[1:] if words is None else words
    named = words if words and words[0].startswith("-") else ["--checkpoint", *words]
    args, columns = HfArgumentParser((ChainArguments, ColumnArguments)).parse_args_into_dataclasses(args=named)
    pipe = EDDPMPipeline.from_pretrained(args.checkpoint)
    pipe.set_progress_bar_config(disable=True)
    pipe.to(args.device, dtype=torch.float32)
    if args.solver:
        use_solver(pipe)
    train = load_raw_data(pipe, args.data, columns, images=True)
    if args.dev_last:
        rows_of = np.arange(len(train))
        train, dev = train.take(rows_of[: -args.dev_last]), train.take(rows_of[-args.dev_last :])
    else:
        dev = load_raw_data(pipe, args.dev, columns, images=True)
    train, dev = train.sample(args.num_train, args.seed), dev.sample(args.num_dev, args.seed)
    labels = torch.tensor(train.labels) if train.labels is not None and pipe.model.config.num_classes else None
    real, unseen = (pipe.encode(data.items, 250).latents.float().cpu() for data in (train, dev))
    model, noise = pipe.model, pipe.model.config.encoder_noise_variance
    before = copy.deepcopy(model.denoiser.state_dict())
    rows: dict[str, Any] = {"as trained": reach(pipe, unseen, real[:5000], args)}
    for name, variance in (("finished on samples", noise), ("finished on means", 0.0)):
        model.denoiser.load_state_dict(before)
        start = time.perf_counter()
        rate, decay = args.learning_rate, 0.998
        finish_denoiser(model, real, labels, args.num_steps, args.batch_size, rate, decay, args.seed, False, variance)
        rows[name] = {"seconds": round(time.perf_counter() - start, 1)} | reach(pipe, unseen, real[:5000], args)
    settings = {key: value for key, value in asdict(args).items() if isinstance(value, (int, float, list))}
    result = {
        "checkpoint": Path(args.checkpoint).name,
        "settings": {key: value for key, value in settings.items() if key not in ("data", "dev")},
        "latents": spectrum_statistics(covariance_eigenvalues(unseen), noise),
        "rows": rows,
        "sampler": describe_sampler(pipe),
        **describe_environment(pipe.device),
    }
    output = Path(args.output or FOLDER / "results" / "chain" / f"{result['checkpoint']}.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    for name, row in rows.items():
        print(name, {steps: round(values["neighbor_ratio"], 3) for steps, values in row.items() if steps != "seconds"})


if __name__ == "__main__":
    torch.set_flush_denormal(True)
    main()
