"""What the evaluation of image checkpoints measures; evaluate_image.py says how to read it."""

import resource
import time
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ..metrics.disentanglement import disentanglement
from ..modalities.image.data import ImageData
from ..modalities.image.metrics import intersection_over_union, linear_probe
from ..pipeline_eddpm import EDDPMPipeline
from .evaluation import NUM_REAL, Stopwatch, as_embeddings, latent_statistics, plain_config, reach_statistics, spread
from .image_judge import GUIDANCE_SCALE, Judge, decode, generate, pixel_errors, sample_latents, to_uint8

SHARES = (0.2, 0.4)
MAX_CLASSES = 20  # an attribute of more values is split at its median


@dataclass
class EvaluationSettings:
    """How much to measure."""

    num_samples: int = field(default=2000, metadata={"help": "Generated images per number of steps and seed."})
    num_reconstructions: int = field(default=2000, metadata={"help": "Held-out images to reconstruct."})
    refinement_steps: list[int] = field(
        default_factory=list, metadata={"help": "Numbers of refinement steps to reconstruct with besides."}
    )
    num_inverted: int = field(default=200, metadata={"help": "Held-out images to reconstruct from inverted noise."})
    num_scored: int = field(default=50, metadata={"help": "Held-out images whose bound is estimated."})
    num_probe: int = field(default=10_000, metadata={"help": "Training images for the probes."})
    sampling_steps: list[int] = field(
        default_factory=lambda: [5, 10, 20, 50], metadata={"help": "Numbers of steps to sample with."}
    )
    guidance_scales: list[float] = field(
        default_factory=list, metadata={"help": "Weights of the class to sample with, of a model that knows classes."}
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
        if any(steps < 1 for steps in self.refinement_steps):
            raise ValueError(f"`refinement_steps` must be at least 1, got {min(self.refinement_steps)}.")
        if not self.sampling_seeds or not self.sampling_steps:
            raise ValueError("`sampling_seeds` and `sampling_steps` must each hold at least one number.")
        if self.limit is not None:
            for name in names[:-1]:
                setattr(self, name, min(getattr(self, name), self.limit))


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
    if settings.guidance_scales and (label is None or not pipe.model.config.num_classes):
        raise ValueError("`guidance_scales` needs a model that knows classes, and images with a `label_column`.")
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
    result["reconstruction"] = {**_errors(images, some.images, judge), "num": len(some)}
    for steps in tqdm(settings.refinement_steps, desc="refinement", unit="number of steps"):
        with stopwatch("refine"):
            refined = pipe.encode(list(some.images), batch, steps).latents
            images = decode(pipe, refined, most, batch, seed)
        result.setdefault("refined", {})[str(steps)] = _errors(images, some.images, judge)
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
    if settings.guidance_scales:
        result["guidance"] = _guidance(pipe, judge, most, settings, stopwatch)
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


def _errors(images: NDArray[np.uint8], originals: NDArray[np.uint8], judge: Judge) -> dict[str, float]:
    errors = {**pixel_errors(images, originals), "frechet": judge.frechet(images)}
    if np.isin(originals, (0, 255)).all():  # shapes: black and white alone
        errors["iou"] = intersection_over_union(images / 255, originals / 255)
    return errors


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
            values: NDArray[Any] = some.attribute(name)
            held_values: NDArray[Any] = dev.attribute(name)
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
                    images = _of_classes(pipe, wanted, scale, steps, seed, batch)
                values[name] = float((judge.classes(images) == wanted).mean())
        by_seed.append(values)
    return {name: spread([values[name] for values in by_seed]) for name in by_seed[0]}


def _of_classes(
    pipe: EDDPMPipeline, wanted: NDArray[np.int64], scale: float, steps: int, seed: int, batch: int
) -> NDArray[np.uint8]:
    """Generated images of these classes, with the class weighted by `scale`."""
    labels = torch.from_numpy(wanted)
    return generate(pipe, len(wanted), steps, seed, batch, class_labels=labels, guidance_scale=scale)


def _guidance(
    pipe: EDDPMPipeline,
    judge: Judge,
    steps: int,
    settings: EvaluationSettings,
    stopwatch: Stopwatch,
) -> dict[str, dict[str, Any]]:
    """Distance and classes of generated images, by the weight of the class: statistics over the seeds."""
    wanted = np.arange(settings.num_samples) % pipe.model.config.num_classes
    result = {}
    for scale in tqdm(settings.guidance_scales, desc="guidance", unit="scale"):
        by_seed = []
        for seed in settings.sampling_seeds:
            with stopwatch("guidance"):
                images = _of_classes(pipe, wanted, scale, steps, seed, settings.eval_batch_size)
            right = float((judge.classes(images) == wanted).mean())
            by_seed.append({"frechet": judge.frechet(images), "class_accuracy": right})
        result[f"{scale:g}"] = {name: spread([values[name] for values in by_seed]) for name in by_seed[0]}
    return result
