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
  noise.
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
import resource
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm
from transformers.utils import logging

from ..hub.card import EVALUATION_FILE
from ..metrics.disentanglement import disentanglement
from ..metrics.frechet_distance import frechet_distance
from ..modalities.image.data import ImageData
from ..modalities.image.metrics import (
    extract,
    fit_extractor,
    linear_probe,
    mean_squared_error,
    peak_signal_to_noise,
    structural_similarity,
)
from ..modalities.image.processing import plot_grid
from ..pipeline_eddpm import EDDPMPipeline
from .arguments import CardArguments, EDDPMTrainingArguments, ImageDataArguments, ImageModelArguments, parse_arguments
from .environment import describe_command, describe_environment
from .evaluation import NUM_REAL, Stopwatch, as_embeddings, latent_statistics, plain_config, reach_statistics, spread
from .image_card import write_image_card
from .image_tables import markdown_tables
from .train_image import load_data

logger = logging.get_logger(__name__)

JUDGES = ("numpy", "scipy", "scikit-learn")  # libraries that the metrics are computed with
SHARES = (0.2, 0.4)
GUIDANCE_SCALE = 2.0
MAX_CLASSES = 20  # an attribute of more values is split at its median


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
    update_card: bool = field(
        default=False, metadata={"help": "Store the result in the checkpoint's folder and rewrite its model card."}
    )

    def __post_init__(self) -> None:
        if self.update_card and not Path(self.checkpoint).is_dir():
            raise ValueError(f"`update_card` needs a local folder as `checkpoint`, got {self.checkpoint!r}.")


@dataclass
class EvaluationSettings:
    """How much to measure."""

    num_samples: int = field(default=2000, metadata={"help": "Generated images per number of steps and seed."})
    num_reconstructions: int = field(default=2000, metadata={"help": "Held-out images to reconstruct."})
    num_inverted: int = field(default=200, metadata={"help": "Held-out images to reconstruct from inverted noise."})
    num_scored: int = field(default=50, metadata={"help": "Held-out images whose bound is estimated."})
    num_probe: int = field(default=10_000, metadata={"help": "Training images for the probes."})
    sampling_steps: list[int] = field(
        default_factory=lambda: [5, 10, 20, 50], metadata={"help": "Numbers of steps to sample with."}
    )
    inverted_steps: int = field(default=50, metadata={"help": "Steps of inversion and decoding."})
    sampling_seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds; the first also draws every subset of the data."}
    )
    probe_attributes: list[str] = field(
        default_factory=list, metadata={"help": "Attributes to probe; all by default."}
    )
    factors: list[str] = field(default_factory=list, metadata={"help": "Attributes that are the known factors."})
    eval_batch_size: int = field(default=250, metadata={"help": "Images per forward pass."})
    limit: int | None = field(
        default=None, metadata={"help": "Upper bound for every number of images, for a quick look."}
    )

    def __post_init__(self) -> None:
        names = ("num_samples", "num_reconstructions", "num_inverted", "num_scored", "num_probe", "eval_batch_size")
        for name in (*names, "inverted_steps", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        if not self.sampling_seeds or not self.sampling_steps:
            raise ValueError("`sampling_seeds` and `sampling_steps` must each hold at least one number.")
        if self.limit is not None:
            for name in names[:-1]:
                setattr(self, name, min(getattr(self, name), self.limit))


class Judge:
    """Distances from held-out images in the features of a classifier trained on the training images.

    Args:
        train: The training images.
        dev: The held-out ones.
        label_column: Attribute of the classes; `None` to tell four rotations apart.
        seed: Of the classifier.
        extractor: TorchScript file in place of the classifier.
    """

    def __init__(
        self, train: ImageData, dev: ImageData, label_column: str | None, seed: int, extractor: str | None = None
    ):
        self.dev = dev
        self.script = None if extractor is None else torch.jit.load(extractor).eval()
        images = train.images
        if label_column is None:
            rotations = np.random.default_rng(seed).integers(0, 4, len(images))
            labels = rotations
            images = np.stack([np.rot90(image, turns) for image, turns in zip(images, rotations, strict=True)])
            what = "four rotations"
        else:
            labels = train.labels(label_column)
            what = f"`{label_column}` ({int(labels.max()) + 1} classes)"
        self.model = fit_extractor(images, labels, seed)
        self.name = f"the last hidden layer (64 units) of a small CNN trained here on the training images' {what}"
        if label_column is not None:
            right = extract(self.model, dev.images)[1] == dev.labels(label_column)
            self.name += f", {right.mean():.3f} right on held-out images"
        if self.script is not None:
            self.name = f"`{Path(str(extractor)).name}`"
        self.compare_with(dev.images)

    def compare_with(self, images: NDArray[np.uint8]) -> None:
        """Measure distances from these images instead of the held-out ones."""
        self.features = self._features(images)

    def _features(self, images: NDArray[np.uint8]) -> NDArray[np.float64]:
        if self.script is None:
            return extract(self.model, images)[0]
        known = {argument.name for argument in self.script.forward.schema.arguments}
        options = {"return_features": True} if "return_features" in known else {}
        parts = []
        with torch.no_grad():
            for start in range(0, len(images), 100):
                batch = torch.from_numpy(images[start : start + 100].transpose(0, 3, 1, 2).copy())
                batch = batch.expand(-1, 3, -1, -1) if batch.shape[1] == 1 else batch
                parts.append(self.script(batch, **options).double().numpy())
        return np.concatenate(parts)

    def frechet(self, images: NDArray[np.uint8]) -> float:
        """Squared Frechet distance of uint8 images (num, height, width, channels) from the held-out ones."""
        return frechet_distance(self._features(images), self.features)

    def classes(self, images: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The classes that the classifier sees."""
        return extract(self.model, images)[1]


def to_uint8(images: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Pixels in [0, 1] as grey levels."""
    return np.round(images * 255).astype(np.uint8)


def decode(
    pipe: EDDPMPipeline, latents: torch.Tensor, steps: int, batch_size: int, seed: int | None = None, **arguments: Any
) -> NDArray[np.uint8]:
    """Decoded images, uint8 (num, height, width, channels)."""
    if pipe.decoder_scheduler is not None:
        arguments["num_decoder_steps"] = steps
        if seed is not None:
            arguments["generator"] = torch.Generator(device=pipe.device).manual_seed(seed)
    return to_uint8(pipe.decode(latents, batch_size=batch_size, output_type="np", **arguments))


def sample_latents(pipe: EDDPMPipeline, num_samples: int, steps: int, seed: int, **arguments: Any) -> torch.Tensor:
    """Generated latents; of a model that knows classes those of evenly drawn ones."""
    classes = pipe.model.config.num_classes
    if classes and "class_labels" not in arguments:
        arguments["class_labels"] = torch.from_numpy(np.random.default_rng(seed).integers(0, classes, num_samples))
    generator = torch.Generator(device=pipe.device).manual_seed(seed)
    return pipe(num_samples, num_inference_steps=steps, generator=generator, output_type="latent", **arguments).latents


def generate(
    pipe: EDDPMPipeline, num_samples: int, steps: int, seed: int, batch_size: int, **arguments: Any
) -> NDArray[np.uint8]:
    """Generated images, uint8 (num, height, width, channels); `arguments` as for `sample_latents`."""
    return decode(pipe, sample_latents(pipe, num_samples, steps, seed, **arguments), steps, batch_size, seed)


def evaluate(
    pipe: EDDPMPipeline,
    train: ImageData,
    dev: ImageData,
    settings: EvaluationSettings,
    judge: Judge,
    label: str | None,
) -> dict[str, Any]:
    """Measures everything; see the module.

    Args:
        pipe: The pipeline.
        train: What it was trained on.
        dev: Held-out images.
        settings: How much.
        judge: The measure of distances.
        label: Attribute of the classes, if there is one.
    """
    stopwatch = Stopwatch()
    pipe.set_progress_bar_config(disable=True)
    seed, batch, most = settings.sampling_seeds[0], settings.eval_batch_size, max(settings.sampling_steps)
    some = dev.sample(settings.num_reconstructions, seed)
    with stopwatch("encode"):
        latents = pipe.encode(list(some.images), batch).latents
        unseen = pipe.encode(list(dev.images), batch).latents
        real_latents = pipe.encode(list(train.sample(NUM_REAL, seed).images), batch).latents
    result: dict[str, Any] = {
        "settings": {"seeds": settings.sampling_seeds, **asdict(settings)},
        "config": plain_config(pipe),
        "num_parameters": pipe.model.num_parameters(),
        "num_dev_images": len(dev),
        "num_samples": settings.num_samples,
        "extractor": judge.name,
        "latents": latent_statistics(as_embeddings(unseen), pipe.model.config.encoder_noise_variance),
    }
    with stopwatch("reconstruct"):
        images = decode(pipe, latents, most, batch, seed)
    result["reconstruction"] = {
        **pixel_errors(images, some.images),
        "frechet": judge.frechet(images),
        "num": len(some),
    }
    few = dev.sample(settings.num_inverted, seed)
    if pipe.decoder_scheduler is not None:
        with stopwatch("invert"):
            inverted = pipe.reconstruct(
                list(few.images),
                batch,
                invert_noise=True,
                num_decoder_steps=settings.inverted_steps,
                output_type="np",
            )
        result["inverted"] = {**pixel_errors(to_uint8(inverted), few.images), "num": len(few)}
    with stopwatch("interpolate"):
        result["interpolation"] = _interpolation(pipe, latents, judge, most, batch, seed)
    with stopwatch("score"):
        generator = torch.Generator(device=pipe.device).manual_seed(seed)
        scored = dev.sample(settings.num_scored, seed)
        bits = pipe.score(list(scored.images), num_timesteps=16, generator=generator, batch_size=batch).bits_per_unit
        result["bits_per_dim"] = float(bits.mean())
    result["probes"] = _probes(pipe, train, some, latents, settings, stopwatch)
    if settings.factors:
        with stopwatch("factors"):
            factors = np.stack([some.labels(name) for name in settings.factors], axis=1)
            result["factors"] = {
                "names": settings.factors,
                "num": len(some),
                **disentanglement(as_embeddings(latents), factors, seed=seed),
            }

    real = [judge.frechet(train.sample(settings.num_samples, each).images) for each in settings.sampling_seeds]
    result["real_frechet"] = spread(real)
    result["samples"] = {
        str(steps): _samples(pipe, judge, steps, settings, label, stopwatch)
        for steps in tqdm(settings.sampling_steps, desc="samples", unit="number of steps")
    }
    with stopwatch("reach"):
        result["reach"] = {
            str(steps): reach_statistics(sample_latents(pipe, settings.num_samples, steps, seed), unseen, real_latents)
            for steps in settings.sampling_steps
        }
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    if pipe.device.type == "cuda":
        peak = torch.cuda.max_memory_allocated(pipe.device) / 2**20
    result["peak_memory_mib"] = round(peak)
    result["seconds"] = stopwatch.seconds
    return result


def pixel_errors(images: NDArray[np.uint8], references: NDArray[np.uint8]) -> dict[str, float]:
    """Mean squared error, PSNR and SSIM of images, uint8 (num, height, width, channels), in units of [0, 1]."""
    a, b = images.astype(np.float32) / 255, references.astype(np.float32) / 255
    return {
        "mse": mean_squared_error(a, b),
        "psnr": peak_signal_to_noise(a, b),
        "ssim": structural_similarity(a, b, min(7, (a.shape[1] - 1) // 2 * 2 + 1)),
    }


def _interpolation(
    pipe: EDDPMPipeline, latents: torch.Tensor, judge: Judge, steps: int, batch: int, seed: int
) -> dict[str, float]:
    order = torch.from_numpy(np.random.default_rng(seed).permutation(len(latents))).to(latents.device)
    ends = latents[order]
    return {
        str(share): judge.frechet(decode(pipe, torch.lerp(latents, ends, share), steps, batch, seed))
        for share in SHARES
    }


def _probes(
    pipe: EDDPMPipeline,
    train: ImageData,
    dev: ImageData,
    dev_latents: torch.Tensor,
    settings: EvaluationSettings,
    stopwatch: Stopwatch,
) -> dict[str, dict[str, float]]:
    """By attribute, linear probes on the latents and on as many principal components of the pixels."""
    names = settings.probe_attributes or sorted(set(train.attributes) & set(dev.attributes))
    if not names:
        return {}
    from sklearn.decomposition import PCA

    some = train.sample(settings.num_probe, settings.sampling_seeds[0])
    with stopwatch("probes"):
        fit = as_embeddings(pipe.encode(list(some.images), settings.eval_batch_size).latents)
        held = as_embeddings(dev_latents)
        pixels, held_pixels = (data.images.reshape(len(data), -1) / 255 for data in (some, dev))
        pca = PCA(min(fit.shape[1], *pixels.shape), random_state=0).fit(pixels)
        result: dict[str, dict[str, float]] = {}
        for name in names:
            values, held_values = some.attribute(name), dev.attribute(name)
            known, held_known = ~np.isnan(values), ~np.isnan(held_values)
            values, held_values, title = values[known], held_values[held_known], name
            if len(np.unique(values)) > MAX_CLASSES:
                middle = float(np.median(values))
                values, held_values, title = values > middle, held_values > middle, f"{name} > {middle:g}"
            if len(np.unique(values)) < 2 or len(held_values) == 0:
                continue
            probe = linear_probe(fit[known], values, held[held_known], held_values)
            on_pixels = linear_probe(
                pca.transform(pixels)[known], values, pca.transform(held_pixels)[held_known], held_values
            )
            result[title] = {"num_train": len(values), **probe}
            result[title] |= {f"pca_{key}": value for key, value in on_pixels.items()}
    return result


def _samples(
    pipe: EDDPMPipeline,
    judge: Judge,
    steps: int,
    settings: EvaluationSettings,
    label: str | None,
    stopwatch: Stopwatch,
) -> dict[str, Any]:
    """Statistics of generated images: for each the mean, the standard deviation and the values over the seeds."""
    by_seed = []
    num, batch, classes = settings.num_samples, settings.eval_batch_size, pipe.model.config.num_classes
    for seed in settings.sampling_seeds:
        start = time.perf_counter()
        with stopwatch("sample"):
            images = generate(pipe, num, steps, seed, batch)
        values = {"seconds": (time.perf_counter() - start) / num, "frechet": judge.frechet(images)}
        if classes and label is not None:
            wanted = np.arange(min(num, 500)) % classes
            for name, scale in (("class_accuracy", 1.0), ("guided_class_accuracy", GUIDANCE_SCALE)):
                with stopwatch("sample classes"):
                    images = generate(
                        pipe,
                        len(wanted),
                        steps,
                        seed,
                        batch,
                        class_labels=torch.from_numpy(wanted),
                        guidance_scale=scale,
                    )
                values[name] = float((judge.classes(images) == wanted).mean())
        by_seed.append(values)
    return {name: spread([values[name] for values in by_seed]) for name in by_seed[0]}


def to_pictures(images: NDArray[np.uint8]) -> list[Image.Image]:
    """Images, uint8 (num, height, width, channels), as `plot_grid` takes them."""
    return [Image.fromarray(image[..., 0] if image.shape[2] == 1 else image) for image in images]


def draw_pictures(pipe: EDDPMPipeline, dev: ImageData, folder: Path, seed: int, steps: int) -> list[Path]:
    """Writes the pictures that a model card shows, and returns their paths."""
    folder.mkdir(parents=True, exist_ok=True)
    scale = max(1, 48 // dev.image_size)
    few = dev.sample(10, seed).images

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
    train, dev = load_data(data_args, training_args.seed)
    pipe = EDDPMPipeline.from_pretrained(arguments.checkpoint).to(arguments.device)
    seed = settings.sampling_seeds[0]
    judge = Judge(train, dev, data_args.label_column, seed, arguments.extractor)
    result = {"command": describe_command("training/evaluate.py", ["image", *words]), "recipe": arguments.recipe}
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
        draw_pictures(pipe, dev, folder, seed, max(settings.sampling_steps))
    if arguments.update_card:
        write_image_card(pipe, arguments.checkpoint)
    print(markdown_tables(result))
