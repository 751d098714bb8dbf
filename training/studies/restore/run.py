"""Restores held-out images from measurements of them, by several methods.

    python training/studies/restore/run.py training/configs/image_fashion.json \\
        --train $FASHION/train-images-idx3-ubyte.gz --checkpoint model_cards/eddpm-fashion \\
        --output training/studies/restore/results/fashion.json

Every method of `candidates.py` has the same number of gradients through the decoder, PSLD half of it, as its gradients
go through the encoder too. All latents are decoded in the same way, with the measurement's data step; "mean image" is
the decoder's mean image of the kept method's latents without it, "mean of 3" the mean of three of its samples. Each
seed has images of its own. Rows of other methods that the output file has already stay. Frechet distances are from all
held-out images in the features of a classifier trained on the training images; few images are far from all of them, as
the row of real images shows.
"""

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.interpolate import griddata
from torch.nn.functional import interpolate
from tqdm import tqdm

from hf_eddpm import EDDPMPipeline, plot_grid
from hf_eddpm.control.image_measurement import DecoderExamples, ImageMeasurement, expected_images
from hf_eddpm.control.operators import Blur, Downsample, ImageOperator, Mask
from hf_eddpm.hub.card import markdown_table
from hf_eddpm.training.arguments import EDDPMTrainingArguments, parse_arguments
from hf_eddpm.training.environment import describe_command
from hf_eddpm.training.evaluation import finish_result, plus_minus, spread
from hf_eddpm.training.image_judge import Judge, to_uint8
from hf_eddpm.training.options import CardArguments, ImageDataArguments, ImageModelArguments
from hf_eddpm.training.train_image import load_data

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the studies, which share code

from restore.candidates import CANDIDATES, KEPT, Problem  # noqa: E402

NEAREST, BICUBIC = "nearest neighbour", "bicubic"
MEAN_IMAGE, MEAN_OF_SAMPLES, REAL = "mean image of `restore`'s latents", "mean of 3 of `restore`", "real images"
_DRAWS = 3  # samples of the kept method for each measurement
_SHOWN = 10  # images of the picture


@dataclass
class RestoreArguments:
    """What is compared."""

    checkpoint: str = field(default="", metadata={"help": "Folder or Hub id of the pipeline."})
    methods: list[str] = field(default_factory=lambda: list(CANDIDATES), metadata={"help": "Names in CANDIDATES."})
    tasks: list[str] = field(
        default_factory=lambda: ["inpaint", "super-resolve", "deblur"], metadata={"help": "What is measured."}
    )
    num_images: int = field(default=32, metadata={"help": "Images of each seed."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Of images and noise."})
    budget: int = field(default=140, metadata={"help": "Gradients through the decoder."})
    output: str | None = field(default=None, metadata={"help": "JSON file to write; table and picture beside it."})

    def __post_init__(self) -> None:
        if unknown := set(self.methods) - set(CANDIDATES):
            raise ValueError(f"`methods` must be among {list(CANDIDATES)}, got {sorted(unknown)}.")
        if unknown := set(self.tasks) - set(TASKS):
            raise ValueError(f"`tasks` must be among {list(TASKS)}, got {sorted(unknown)}.")


def _middle_hidden(size: int) -> Mask:
    known = np.ones((size, size), dtype=bool)
    known[size // 4 : size - size // 4, size // 4 : size - size // 4] = False
    return Mask(known)


# Of an image of that size: the operator and the standard deviation of the noise.
TASKS: dict[str, Any] = {
    "inpaint": lambda size: (_middle_hidden(size), 0.0),
    "super-resolve": lambda size: (Downsample(4), 0.05),
    "deblur": lambda size: (Blur(2.0), 0.05),
}


def filled_in(operator: ImageOperator, measured: torch.Tensor, size: int, method: str) -> torch.Tensor | None:
    """What interpolation makes of a measurement, `(batch, channels, size, size)`; None where it says nothing."""
    if isinstance(operator, Downsample):
        mode = "nearest" if method == NEAREST else "bicubic"
        return interpolate(measured, (size, size), mode=mode).clamp(0, 1)
    if not isinstance(operator, Mask):
        return measured.clamp(0, 1) if method == NEAREST else None
    assert operator.known is not None
    known = operator.known[0, 0].numpy() > 0
    places = np.argwhere(known)
    grid = np.argwhere(np.ones_like(known))
    kind = "nearest" if method == NEAREST else "cubic"
    images = measured.numpy().copy()
    for image in images.reshape(-1, size, size):
        image[:] = griddata(places, image[known], grid, method=kind).reshape(size, size)
    return torch.from_numpy(images).clamp(0, 1)


def psnr(images: torch.Tensor, truth: torch.Tensor) -> float:
    """Peak signal to noise in decibels, the mean over images in [0, 1]."""
    return float((-10 * (images - truth).square().flatten(1).mean(1).clamp(min=1e-10).log10()).mean())


def restored(
    pipe: EDDPMPipeline, truth: torch.Tensor, task: str, args: RestoreArguments, examples: DecoderExamples, seed: int
) -> dict[str, tuple[torch.Tensor, float]]:
    """What each method makes of the measurements, and its seconds."""
    operator, noise_level = TASKS[task](truth.shape[-1])
    generator = torch.Generator().manual_seed(seed)
    measured = operator(truth)
    measured = measured + noise_level * torch.randn(measured.shape, generator=generator)
    results: dict[str, tuple[torch.Tensor, float]] = {}
    for name in (NEAREST, BICUBIC):
        start = time.process_time()
        if (images := filled_in(operator, measured, truth.shape[-1], name)) is not None:
            results[name] = (images, time.process_time() - start)
    decoding: dict[str, Any] = {}
    if pipe.decoder_scheduler is not None:
        steps = pipe.config.default_num_decoder_steps
        decoding = {"num_decoder_steps": steps, "scheduler": pipe.decoder_scheduler, "generator": generator}
    for name in args.methods:
        samples = []
        for draw in range(_DRAWS if name == KEPT else 1):
            generator.manual_seed(seed + 1000 * draw)
            start = time.process_time()
            measurement = ImageMeasurement(pipe.model, operator, measured, noise_level, examples)
            problem = Problem(pipe.model, measurement, len(truth), generator)
            latents = CANDIDATES[name](problem, args.budget)
            with torch.no_grad():
                images = measurement.decode(latents, **decoding) / 2 + 0.5
                if not draw:
                    results[name] = (images, time.process_time() - start)
                    mean_image = expected_images(pipe.model, latents).clamp(0, 1)
            samples.append(images)
        if name == KEPT:
            results[MEAN_IMAGE] = (mean_image, results[name][1])
            results[MEAN_OF_SAMPLES] = (torch.stack(samples).mean(0), _DRAWS * results[name][1])
    return results


def benchmark(
    pipe: EDDPMPipeline, images: NDArray[np.uint8], judge: Judge, args: RestoreArguments
) -> tuple[list[dict[str, Any]], list[Any]]:
    """One row for each task and method, and rows of pictures."""
    every = torch.from_numpy(images.transpose(0, 3, 1, 2).copy()).float() / 255
    steps = pipe.config.default_num_decoder_steps
    examples = DecoderExamples(pipe.model, pipe.decoder_scheduler, steps, torch.device("cpu"))
    rows, pictures = [], []
    for task in args.tasks:
        found: dict[str, list[tuple[float, float, float]]] = {}
        for place, seed in enumerate(tqdm(args.seeds, desc=task)):
            truth = every[place * args.num_images : (place + 1) * args.num_images]
            results = restored(pipe, truth, task, args, examples, seed)
            results[REAL] = (truth, 0.0)
            for name, (restorations, seconds) in results.items():
                levels = to_uint8(restorations.permute(0, 2, 3, 1).numpy())
                cost = 1000 * seconds / len(truth)
                found.setdefault(name, []).append((psnr(restorations, truth), judge.frechet(levels), cost))
            if not place:
                operator, _ = TASKS[task](truth.shape[-1])
                shown = operator(truth[:_SHOWN])
                shown = interpolate(shown, truth.shape[-2:], mode="nearest")
                for each in (
                    truth[:_SHOWN],
                    shown,
                    *(results[name][0][:_SHOWN] for name in (BICUBIC, KEPT) if name in results),
                ):
                    pictures.append(pipe.processor.postprocess(each * 2 - 1))
        for name, values in found.items():
            scores, distances, costs = zip(*values, strict=True)
            row = {"task": task, "method": name, "psnr": spread(scores), "frechet": spread(distances)}
            rows.append(row | {"cpu_ms": spread(costs)})
    return rows, pictures


def merged(rows: list[dict[str, Any]], args: RestoreArguments) -> list[dict[str, Any]]:
    """The rows, and before them those of other methods that the output file has from a run of the same settings."""
    if args.output is None or not Path(args.output).is_file():
        return rows
    before = json.loads(Path(args.output).read_text(encoding="utf-8"))
    if any(before[name] != getattr(args, name) for name in ("num_images", "budget", "seeds")):
        return rows
    measured = {(row["task"], row["method"]) for row in rows}
    kept = [row for row in before["rows"] if (row["task"], row["method"]) not in measured]
    order = list(TASKS)
    return sorted([*kept, *rows], key=lambda row: order.index(row["task"]))


def markdown_report(rows: list[dict[str, Any]]) -> str:
    """The rows as a table."""
    return markdown_table(
        [
            {
                "task": row["task"],
                "method": row["method"],
                "PSNR": "" if row["method"] == REAL else plus_minus(row["psnr"], ".2f"),
                "Frechet": plus_minus(row["frechet"], ".1f"),
                "CPU ms an image": "" if row["method"] == REAL else f"{row['cpu_ms']['mean']:.0f}",
            }
            for row in rows
        ]
    )


def main(words: list[str] | None = None) -> list[dict[str, Any]]:
    """Runs the comparison of the command line."""
    words = sys.argv[1:] if words is None else words
    classes = (RestoreArguments, ImageDataArguments, ImageModelArguments, CardArguments, EDDPMTrainingArguments)
    args, data_args, _, _, training_args = parse_arguments(
        *classes, args=[*words, "--output_dir", "unused", "--precision", "fp32"]
    )
    if not args.checkpoint:
        raise ValueError("`checkpoint` must name the pipeline's folder or Hub id.")
    start = time.perf_counter()
    pipe = EDDPMPipeline.from_pretrained(args.checkpoint)
    train, dev = load_data(data_args, training_args.seed, pipe.processor)
    if len(dev) < args.num_images * len(args.seeds):
        raise ValueError(f"`num_images` for each of `seeds` must be at most the {len(dev)} held-out images.")
    pipe.set_progress_bar_config(disable=True)
    judge = Judge(train, dev, data_args.label_column, args.seeds[0])
    rows, pictures = benchmark(pipe, dev.images, judge, args)
    rows = merged(rows, args)
    result = {
        "command": describe_command("training/studies/restore/run.py", words),
        "extractor": judge.name,
        "num_images": args.num_images,
        "budget": args.budget,
        "seeds": args.seeds,
        "rows": rows,
    }
    report = markdown_report(rows)
    finish_result(result, start, args.output, report)
    if args.output is not None:
        plot_grid(pictures, scale=2).save(Path(args.output).with_suffix(".png"), optimize=True)
    print(report)
    return rows


if __name__ == "__main__":
    torch.set_flush_denormal(True)  # as train_image.py
    main()
