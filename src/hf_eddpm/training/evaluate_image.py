"""Measures an image checkpoint on held-out images: one JSON file, Markdown tables and pictures.

    python training/evaluate.py image training/configs/image_digits.json --checkpoint runs/digits/pipeline \\
        --output digits.json --update_card
    python training/evaluate.py image training/configs/image_fashion.json --checkpoint runs/fashion/pipeline \\
        --train train-images-idx3-ubyte.gz --output fashion.json --pictures runs/fashion

The configuration file and the data options are those of train_image.py, so that the held-out images are the same;
other values of the file have no meaning here. With `--update_card` result and pictures are also stored in the
checkpoint's folder, and its model card is written anew. What is measured:

- **samples**, for each number of steps (of the latents' chain, and as many of the pixels'), as mean and standard
  deviation over seeds: the Frechet distance from held-out images; for a model that knows classes the share of samples
  whose class a classifier confirms, without and with guidance; seconds per image. Beside them as many training images.
- **reconstruction**: mean squared error, PSNR, SSIM, Frechet distance; where the decoder is a chain also from inverted
  noise, and with `--refinement_steps` after gradient steps on the latents.
- **latents**: how they fill their space, over all held-out images; **reach**: how far sampled latents lie from real
  ones, for each number of steps.
- **interpolation** in the latents at 0.2 and 0.4 of the way: the Frechet distance.
- **probes**: linear classifiers of attributes on the latents, and on as many principal components of the pixels.
- **factors** (`--factors`): DCI, MIG and SAP.
- **bits per dimension**, an upper bound, of a few images.

Frechet distances are those of features of a classifier that this script trains on the training images (of
`--label_column`, or of four rotations where there are no labels), or of `--extractor`, a TorchScript file such as
Inception's. They compare only among themselves.
"""

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from transformers.utils import logging

from ..hub.card import EVALUATION_FILE
from ..modalities.image.data import ImageData
from ..modalities.image.processing import EDDPMImageProcessor, plot_grid
from ..pipeline_eddpm import EDDPMPipeline
from .arguments import CardArguments, EDDPMTrainingArguments, ImageDataArguments, ImageModelArguments, parse_arguments
from .environment import describe_command, describe_environment
from .image_card import write_image_card
from .image_judge import GUIDANCE_SCALE, Judge, decode, generate
from .image_measures import EvaluationSettings, evaluate
from .image_tables import markdown_tables
from .train_image import load_data

logger = logging.get_logger(__name__)
JUDGES = ("numpy", "scipy", "scikit-learn")  # libraries that the metrics are computed with


@dataclass
class EvaluationArguments:
    """What to evaluate, and where to write the result."""

    checkpoint: str = field(default="", metadata={"help": "Folder or Hub id of the pipeline."})
    recipe: str | None = field(default=None, metadata={"help": "Name of the training recipe."})
    device: str = field(default="cpu", metadata={"help": "Torch device, for example cuda."})
    output: str | None = field(default=None, metadata={"help": "JSON file to write."})
    pictures: str | None = field(default=None, metadata={"help": "Folder for the pictures."})
    extractor: str | None = field(
        default=None, metadata={"help": "TorchScript file, uint8 (num, 3, height, width) -> features, e.g. Inception."}
    )
    show_data: bool = field(
        default=True,
        metadata={"help": "Whether pictures may show held-out images; else they start from generated ones."},
    )
    update_card: bool = field(
        default=False, metadata={"help": "Store the result in the checkpoint's folder and rewrite its model card."}
    )

    def __post_init__(self) -> None:
        if self.update_card and not Path(self.checkpoint).is_dir():
            raise ValueError(f"`update_card` needs a local folder as `checkpoint`, got {self.checkpoint!r}.")


def to_pictures(images: NDArray[np.uint8]) -> list[Image.Image]:
    """Images, uint8 (num, height, width, channels), as `plot_grid` takes them."""
    return [Image.fromarray(image[..., 0] if image.shape[2] == 1 else image) for image in images]


def draw_pictures(pipe: EDDPMPipeline, dev: ImageData | None, folder: Path, seed: int, steps: int) -> list[Path]:
    """Writes the pictures that a model card shows, and returns their paths.

    Args:
        pipe: The pipeline.
        dev: Images that are reconstructed and interpolated; None for generated ones.
        folder: Where the pictures go.
        seed: Of the draws.
        steps: Of each chain.
    """
    folder.mkdir(parents=True, exist_ok=True)
    scale = max(1, 48 // pipe.processor.image_size)
    few = generate(pipe, 10, steps, seed + 1, 10) if dev is None else dev.sample(10, seed).images

    grids = {"samples.png": [to_pictures(part) for part in np.split(generate(pipe, 40, steps, seed, 40), 4)]}
    classes = pipe.model.config.num_classes
    if classes:
        rows = min(classes, 10)
        wanted = torch.arange(rows).repeat_interleave(10)
        guided = {"class_labels": wanted, "guidance_scale": GUIDANCE_SCALE}
        images = generate(pipe, len(wanted), steps, seed, 50, **guided)
        grids["classes.png"] = [to_pictures(part) for part in np.split(images, rows)]
    again = [to_pictures(few), to_pictures(decode(pipe, pipe.encode(list(few)).latents, steps, 50, seed))]
    options: dict[str, Any] = {}
    if pipe.decoder_scheduler is not None:
        options = {"num_decoder_steps": steps, "generator": torch.Generator(device=pipe.device).manual_seed(seed)}
        again.append(pipe.reconstruct(list(few), invert_noise=True, num_decoder_steps=steps))
    grids["reconstructions.png"] = again
    half = len(few) // 2
    paths = pipe.interpolate(list(few[:half]), list(few[half : 2 * half]), num_steps=9, space="latents", **options)
    grids["interpolations.png"] = paths
    written = []
    for name, rows_of_images in grids.items():
        plot_grid(rows_of_images, scale=scale).save(folder / name)
        written.append(folder / name)
    return written


def main(args: list[str] | None = None) -> None:
    """Evaluates the checkpoint named on the command line."""
    words = sys.argv[1:] if args is None else args
    classes = (
        EvaluationArguments,
        EvaluationSettings,
        ImageDataArguments,
        ImageModelArguments,
        CardArguments,
        EDDPMTrainingArguments,
    )
    arguments, settings, data_args, _, _, training_args = parse_arguments(
        *classes, args=[*words, "--output_dir", "unused", "--precision", "fp32"]
    )
    if not arguments.checkpoint:
        raise ValueError("`checkpoint` must name the pipeline's folder or Hub id.")
    start = time.perf_counter()
    pipe = EDDPMPipeline.from_pretrained(arguments.checkpoint).to(arguments.device)
    train, dev = load_data(data_args, training_args.seed, cast(EDDPMImageProcessor, pipe.processor))
    seed = settings.sampling_seeds[0]
    judge = Judge(train, dev, data_args.label_column, seed, arguments.extractor)
    result = {"command": describe_command("training/evaluate.py", ["image", *words]), "recipe": arguments.recipe}
    result["pictures_from"] = "held-out" if arguments.show_data else "generated"
    result |= evaluate(pipe, train, dev, settings, judge, data_args.label_column)
    result |= describe_environment(pipe.device, JUDGES) | {"wall_time_seconds": round(time.perf_counter() - start, 1)}
    outputs = [] if arguments.output is None else [Path(arguments.output)]
    folders = [] if arguments.pictures is None else [Path(arguments.pictures)]
    if arguments.update_card:
        outputs.append(Path(arguments.checkpoint) / EVALUATION_FILE)
        folders.append(Path(arguments.checkpoint))
    for output in outputs:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    for folder in folders:
        draw_pictures(pipe, dev if arguments.show_data else None, folder, seed, max(settings.sampling_steps))
    if arguments.update_card:
        write_image_card(pipe, arguments.checkpoint)
    print(markdown_tables(result))
