"""How well an image checkpoint is steered: samples of a class, of a brightness, of both, and edits to another class.

    python training/studies/control/image.py training/configs/image_fashion.json --train train-images-idx3-ubyte.gz \\
        --checkpoint model_cards/eddpm-fashion --guide runs/clothes --output control.json

The configuration file and the data options are those of train_image.py, so that the held-out images are the same; the
guide is train_guide.py's, of the classes of `--label_column`. The judge, a small network fitted here to the training
images' pixels, shares nothing with the model. What is measured:

- **samples** of a class, the same number of each: by the guide, and where the model knows classes by classifier-free
  guidance. Share in the class; Frechet distance from held-out images; variety, the variance of the judge's features
  within the classes it sees, in units of that of real images.
- **brightness**, the mean of all pixels in [0, 1]. Its regression on the latents of training images, linear, is the
  energy of `EnergyGuidance`, towards three goals: the 0.1, 0.5 and 0.9 quantile of training images. Measured on the
  decoded images: the mean error in standard deviations of real images, and the share within a quarter of one; "own
  error" is the regression's. Beside them stand reconstructions of held-out images, whose goal is the original's: what
  the decoder alone misses.
- **both**: every class with every goal, by one guidance, by the other and by their sum.
- **edits** of held-out images to another class, drawn for each: along the difference of the two classes' mean latents,
  and by noise to a share of the chain, alone, under the guide, and told the class. Share in the new class and in the
  old one; SSIM, mean squared error, and cosine of the latents with the original's. Where the decoder is a chain over
  pixels it starts from a draw, or from the noise that the original itself comes from ("inverted"). The last row says
  how like the originals other images of the new class are.

With `--output` pictures of the first images of the rows lie beside the JSON file, which names their rows.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hf_eddpm import ClassifierGuidance, EDDPMPipeline, EnergyGuidance, Guidance, LatentGuide, plot_grid
from hf_eddpm.hub.card import markdown_table
from hf_eddpm.modalities.image.data import ImageData
from hf_eddpm.modalities.image.metrics import extract
from hf_eddpm.training.arguments import EDDPMTrainingArguments, parse_arguments
from hf_eddpm.training.environment import describe_command
from hf_eddpm.training.evaluate_image import to_pictures
from hf_eddpm.training.evaluation import as_embeddings, finish_result
from hf_eddpm.training.image_judge import Judge, decode, pixel_errors, sample_latents, to_uint8
from hf_eddpm.training.options import CardArguments, ImageDataArguments, ImageModelArguments
from hf_eddpm.training.train_image import load_data

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the studies, which share code

from common.classes import class_means, other_classes

QUANTILES = (0.1, 0.5, 0.9)  # of training images' brightness: the goals
NEAR = 0.25  # standard deviations that count as having met a goal
BATCH = 250  # images decoded at a time
IN_PICTURE = 10  # images of a row


@dataclass
class ImageControlArguments:
    """What is steered, and how strongly."""

    checkpoint: str = field(default="", metadata={"help": "Folder or Hub id of the pipeline."})
    guide: str = field(default="", metadata={"help": "Folder or Hub id of a guide that train_guide.py made of it."})
    scales: list[float] = field(default_factory=lambda: [1.0, 3.0, 10.0], metadata={"help": "Scales of the guide."})
    class_scales: list[float] = field(
        default_factory=lambda: [1.0, 2.0, 4.0], metadata={"help": "Guidance scales of a model that knows classes."}
    )
    brightness_scales: list[float] = field(
        default_factory=lambda: [3.0, 10.0, 30.0, 100.0], metadata={"help": "Guidance scales of brightness."}
    )
    direction_scales: list[float] = field(
        default_factory=lambda: [0.5, 1.0, 1.5], metadata={"help": "Multiples of the direction in edits."}
    )
    strengths: list[float] = field(default_factory=lambda: [0.1, 0.2, 0.4], metadata={"help": "Strengths of edits."})
    edit_scale: float = field(default=3.0, metadata={"help": "Scale of the guide in edits and beside brightness."})
    edit_class_scale: float = field(default=2.0, metadata={"help": "Likewise of a model that knows classes."})
    both_scale: float = field(default=10.0, metadata={"help": "Likewise of brightness beside a class."})
    num: int = field(default=300, metadata={"help": "Samples of each row, and images edited."})
    num_fitted: int = field(default=10_000, metadata={"help": "Training images for directions and the regression."})
    num_inference_steps: int = field(default=20, metadata={"help": "Steps of either chain."})
    sampling_seed: int = field(default=0, metadata={"help": "Seed of the judge, the subsets and the noise."})
    output: str | None = field(default=None, metadata={"help": "JSON file to write; pictures go beside it."})

    def __post_init__(self) -> None:
        for name in ("num", "num_fitted", "num_inference_steps"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")


def brightness(images: NDArray[np.uint8]) -> NDArray[np.float64]:
    """The mean of all pixels of each image, in [0, 1]."""
    return images.reshape(len(images), -1).mean(1) / 255


def variety(features: NDArray[np.floating], classes: NDArray[np.integer]) -> float:
    """The variance of features (num, num_features) within classes (num,), summed over the features."""
    groups = [features[classes == each] for each in np.unique(classes)]
    square = sum(float(((group - group.mean(0)) ** 2).sum()) for group in groups)
    return square / max(1, len(features) - len(groups))


class LinearAttribute:
    """A number of each datum as a linear function of its latents, by least squares.

    Args:
        latents: `(num, num_latents, latent_dim)`.
        values: The numbers (num,), not all the same.
    """

    def __init__(self, latents: torch.Tensor, values: NDArray[np.floating]):
        features = np.column_stack([as_embeddings(latents), np.ones(len(values))])
        *weight, bias = np.linalg.lstsq(features, values, rcond=None)[0]
        self.weight = torch.tensor(weight, dtype=torch.float32)
        self.bias, self.std = float(bias), float(np.std(values))

    def __call__(self, latents: torch.Tensor) -> torch.Tensor:
        """Predict `(batch,)` from `(batch, num_latents, latent_dim)`."""
        return latents.flatten(1) @ self.weight.to(latents) + self.bias

    def energy(self, goals: NDArray[np.floating]) -> Callable[[torch.Tensor], torch.Tensor]:
        """Half the squared distance from goals (batch,), one for each datum, in standard deviations."""
        wanted = torch.from_numpy(goals).float()
        return lambda latents: 0.5 * ((self(latents) - wanted.to(latents)) / self.std).square()


class _Rows(dict[str, dict[str, float]]):
    """Measured rows by name, and the first images of each."""

    def __init__(self) -> None:
        super().__init__()
        self.images: dict[str, NDArray[np.uint8]] = {}


def evaluate(
    pipe: EDDPMPipeline,
    guide: LatentGuide,
    train: ImageData,
    dev: ImageData,
    label: str,
    args: ImageControlArguments,
) -> tuple[dict[str, Any], dict[str, dict[str, NDArray[np.uint8]]]]:
    """Measures everything; see the module.

    Args:
        pipe: The pipeline.
        guide: A guide of its latents.
        train: What it was trained on.
        dev: Held-out images, to edit and to measure distances from.
        label: Attribute of the classes.
        args: How much, and how strongly.

    Returns:
        The result, and by table and row the images that its pictures show.
    """
    classes, seed = guide.config.num_classes, args.sampling_seed
    for data in (train, dev):
        data.labels(label, classes)  # checks them
    judge = Judge(train, dev, label, seed)
    fitted, real = train.sample(args.num_fitted, seed), train.sample(args.num, seed)
    if (found := len(np.unique(fitted.labels(label)))) < classes:
        raise ValueError(
            f"`num_fitted` must be enough for images of all {classes} classes, got {args.num_fitted}: {found} classes."
        )
    latents = pipe.encode(list(fitted.images)).latents
    means = class_means(latents, fitted.labels(label))
    attribute = LinearAttribute(latents, brightness(fitted.images))
    levels = np.quantile(brightness(fitted.images), QUANTILES)
    targets = np.arange(args.num) % classes
    goals = levels[np.arange(args.num) // classes % len(levels)]
    real_variety = variety(*extract(judge.model, real.images))

    def draw(scale: float = 0.0, class_scale: float | None = None, brightness_scale: float = 0.0) -> torch.Tensor:
        terms: list[Guidance] = []
        if scale:
            terms.append(ClassifierGuidance(guide, targets.tolist(), scale))
        if brightness_scale:
            terms.append(EnergyGuidance(attribute.energy(goals), brightness_scale))
        told = {"class_labels": None}
        if class_scale is not None:
            told = {"class_labels": torch.from_numpy(targets), "guidance_scale": class_scale}
        return sample_latents(pipe, args.num, args.num_inference_steps, seed, guidance=terms or None, **told)

    def sample(**guidance: Any) -> NDArray[np.uint8]:
        return decode(pipe, draw(**guidance), args.num_inference_steps, BATCH, seed)

    def of_class(images: NDArray[np.uint8], wanted: NDArray[np.int64]) -> dict[str, float]:
        features, seen = extract(judge.model, images)
        return {
            "in class": float((seen == wanted).mean()),
            "Frechet": judge.frechet(images),
            "variety": variety(features, seen) / real_variety,
        }

    def misses(images: NDArray[np.uint8], wanted: NDArray[np.floating]) -> NDArray[np.float64]:
        return np.abs(brightness(images) - wanted) / attribute.std

    def of_brightness(images: NDArray[np.uint8], wanted: NDArray[np.floating] = goals) -> dict[str, float]:
        error = misses(images, wanted)
        near = float((error < NEAR).mean())
        return {"error": float(error.mean()), "near": near, "Frechet": judge.frechet(images)}

    def at_goals(latents: torch.Tensor, images: NDArray[np.uint8]) -> dict[str, float]:
        means = [float(brightness(images[goals == level]).mean()) for level in levels if (goals == level).any()]
        own = attribute.energy(goals)(latents).mul(2).sqrt().mean()
        at_levels = {f"at {quantile:g}": each for quantile, each in zip(QUANTILES, means, strict=False)}
        return {**at_levels, "own error": float(own), **of_brightness(images)}

    def of_both(images: NDArray[np.uint8]) -> dict[str, float]:
        right = judge.classes(images) == targets
        error = misses(images, goals)
        return {
            "in class": float(right.mean()),
            "near": float((error < NEAR).mean()),
            "both": float((right & (error < NEAR)).mean()),
            "error": float(error.mean()),
            "Frechet": judge.frechet(images),
        }

    ways = {"no guidance": sample()}
    ways |= {f"guide, scale {scale:g}": sample(scale=scale) for scale in args.scales}
    if pipe.model.config.num_classes:
        ways |= {f"told the class, scale {scale:g}": sample(class_scale=scale) for scale in args.class_scales}
    samples = {name: of_class(images, targets) for name, images in ways.items()}
    samples["real images"] = of_class(real.images, real.labels(label))

    lit = {}
    for scale in (0.0, *args.brightness_scales):
        latents = draw(brightness_scale=scale)
        images = decode(pipe, latents, args.num_inference_steps, BATCH, seed)
        lit[f"scale {scale:g}" if scale else "no guidance"] = at_goals(latents, images)

    together = {
        "no guidance": ways["no guidance"],
        "class": sample(scale=args.edit_scale),
        "brightness": sample(brightness_scale=args.both_scale),
        "both": sample(scale=args.edit_scale, brightness_scale=args.both_scale),
    }
    if pipe.model.config.num_classes:
        told = args.edit_class_scale
        together["told the class"] = sample(class_scale=told)
        together["told the class, brightness"] = sample(class_scale=told, brightness_scale=args.both_scale)

    edits, edited = _edit(pipe, guide, train, dev, judge, means, label, args)
    held = pipe.encode(list(dev.images)).latents
    explained = 1 - np.var(brightness(dev.images) - attribute(held).double().cpu().numpy()) / np.var(
        brightness(dev.images)
    )
    result = {
        "num": args.num,
        "num_inference_steps": args.num_inference_steps,
        "seed": seed,
        "judge": judge.name,
        "samples": samples,
        "brightness": {
            "goals": dict(zip(map(str, QUANTILES), levels.tolist(), strict=True)),
            "std": attribute.std,
            "explained_variance": float(explained),
            "rows": lit
            | {"reconstruction": of_brightness(edited["none (reconstruction)"], brightness(edited["original"]))},
        },
        "both": {name: of_both(images) for name, images in together.items()},
        "edits": edits,
    }
    shown = {name: images[: min(classes, IN_PICTURE)] for name, images in ways.items()}
    combined = list(together)[-1]
    for row, quantile in enumerate(QUANTILES):
        if (row + 1) * classes <= args.num:
            first = row * classes
            shown[f"{combined} at {quantile:g}"] = together[combined][first : first + min(classes, IN_PICTURE)]
    return result, {"samples": shown, "edits": {name: images[:IN_PICTURE] for name, images in edited.items()}}


def _edit(
    pipe: EDDPMPipeline,
    guide: LatentGuide,
    train: ImageData,
    dev: ImageData,
    judge: Judge,
    means: torch.Tensor,
    label: str,
    args: ImageControlArguments,
) -> tuple[dict[str, dict[str, float]], dict[str, NDArray[np.uint8]]]:
    """Measures edits of held-out images; also returns the images of each row, the originals first."""
    steps, seed = args.num_inference_steps, args.sampling_seed
    some = dev.sample(args.num, seed)
    originals, labels = list(some.images), some.labels(label)
    targets = other_classes(labels, len(means), seed)
    latents = pipe.encode(originals).latents
    direction = (means[targets] - means[labels]).to(latents)

    def noised(strength: float, decoding: dict[str, Any], **steering: Any) -> NDArray[np.uint8]:
        generator = torch.Generator(device=pipe.device).manual_seed(seed)
        chain = {"num_decoder_steps": steps} if pipe.decoder_scheduler is not None else {}
        return to_uint8(
            pipe.edit(
                originals,
                strength=strength,
                num_inference_steps=steps,
                generator=generator,
                output_type="np",
                **steering,
                **chain,
                **decoding,
            )
        )

    steerings: dict[str, dict[str, Any]] = {
        "": {},
        ", guided": {"guidance": ClassifierGuidance(guide, targets.tolist(), args.edit_scale)},
    }
    if pipe.model.config.num_classes:
        told = {"class_labels": torch.from_numpy(targets), "guidance_scale": args.edit_class_scale}
        steerings[", told the class"] = told
    noises: dict[str, dict[str, Any]] = {"": {}}
    if pipe.decoder_scheduler is not None:
        inverted = pipe.invert_decoder(originals, latents, num_decoder_steps=steps)
        noises[", inverted"] = {"decoder_noise": inverted, "scheduler": None}
    rows: dict[str, NDArray[np.uint8]] = {}
    for ending, decoding in noises.items():
        for scale in (0.0, *args.direction_scales):
            name = f"direction, scale {scale:g}" if scale else "none (reconstruction)"
            rows[name + ending] = decode(pipe, latents + scale * direction, steps, BATCH, seed, **decoding)
        for way, steering in steerings.items():
            if ending and way != list(steerings)[-1]:
                continue  # inverted noise for one way of noising is enough
            for strength in args.strengths:
                rows[f"strength {strength:g}{way}{ending}"] = noised(strength, decoding, **steering)
    rng, known = np.random.default_rng(seed), train.labels(label)
    others = [rng.choice(np.flatnonzero(known == target)) for target in targets]
    rows["another image of the class"] = train.images[others]

    measured = {}
    for name, images in rows.items():
        seen, errors = judge.classes(images), pixel_errors(images, some.images)
        measured[name] = {
            "in class": float((seen == targets).mean()),
            "old class": float((seen == labels).mean()),
            "SSIM": errors["ssim"],
            "MSE": errors["mse"],
            "similarity": float(pipe.similarity(originals, list(images)).mean()),
        }
    return measured, {"original": some.images, **rows}


def draw_pictures(pictures: dict[str, dict[str, NDArray[np.uint8]]], output: Path) -> dict[str, Any]:
    """Writes a picture for each table beside `output`; returns by file the names of its rows, from above."""
    rows_of = {}
    for table, rows in pictures.items():
        file = output.with_name(f"{output.stem}_{table}.png")
        file.parent.mkdir(parents=True, exist_ok=True)
        size = next(iter(rows.values())).shape[1]
        plot_grid([to_pictures(images) for images in rows.values()], scale=max(1, 64 // size)).save(file)
        rows_of[file.name] = list(rows)
    return rows_of


def markdown_report(result: dict[str, Any]) -> str:
    """The four tables."""

    def table(title: str, rows: dict[str, dict[str, float]]) -> str:
        return markdown_table(
            [{title: name, **{key: f"{value:.3g}" for key, value in row.items()}} for name, row in rows.items()]
        )

    goals = {"the goals": {f"at {quantile}": value for quantile, value in result["brightness"]["goals"].items()}}
    return "\n\n".join(
        [
            table("guidance", result["samples"]),
            table("guidance to a brightness", {**result["brightness"]["rows"], **goals}),
            table("guided to", result["both"]),
            table("edit", result["edits"]),
        ]
    )


def main(words: list[str] | None = None) -> dict[str, Any]:
    """Runs the evaluation of the command line."""
    words = sys.argv[1:] if words is None else words
    classes = (
        ImageControlArguments,
        ImageDataArguments,
        ImageModelArguments,
        CardArguments,
        EDDPMTrainingArguments,
    )
    args, data_args, _, _, training_args = parse_arguments(
        *classes, args=[*words, "--output_dir", "unused", "--precision", "fp32"]
    )
    if not args.checkpoint or not args.guide:
        raise ValueError("`checkpoint` and `guide` must name the folders or Hub ids of the two.")
    if data_args.label_column is None:
        raise ValueError("`label_column` must name the attribute of the classes.")
    start = time.perf_counter()
    pipe = EDDPMPipeline.from_pretrained(args.checkpoint)
    train, dev = load_data(data_args, training_args.seed, pipe.processor)
    pipe.set_progress_bar_config(disable=True)
    guide = LatentGuide.from_pretrained(args.guide)
    measured, pictures = evaluate(pipe, guide, train, dev, data_args.label_column, args)
    result = {"command": describe_command("training/studies/control/image.py", words), **measured}
    if args.output is not None:
        result["pictures"] = draw_pictures(pictures, Path(args.output))
    result = finish_result(result, start, args.output)
    print(markdown_report(result))
    return result


if __name__ == "__main__":
    torch.set_flush_denormal(True)  # as train_image.py
    main()
