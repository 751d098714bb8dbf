"""Distances and classes of images by a judge, and the images that it judges."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..metrics.frechet_distance import frechet_distance
from ..modalities.image.data import ImageData
from ..modalities.image.metrics import (
    extract,
    fit_extractor,
    mean_squared_error,
    peak_signal_to_noise,
    structural_similarity,
)
from ..pipeline_eddpm import EDDPMPipeline

GUIDANCE_SCALE = 2.0


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
    out: Any = pipe(num_samples, num_inference_steps=steps, generator=generator, output_type="latent", **arguments)
    return out.latents


def generate(
    pipe: EDDPMPipeline, num_samples: int, steps: int, seed: int, batch_size: int, **arguments: Any
) -> NDArray[np.uint8]:
    """Generated images, uint8 (num, height, width, channels); `arguments` as for `sample_latents`."""
    return decode(pipe, sample_latents(pipe, num_samples, steps, seed, **arguments), steps, batch_size, seed)


def pixel_errors(images: NDArray[np.uint8], references: NDArray[np.uint8]) -> dict[str, float]:
    """Mean squared error, PSNR and SSIM of images, uint8 (num, height, width, channels), in units of [0, 1]."""
    a, b = images.astype(np.float32) / 255, references.astype(np.float32) / 255
    return {
        "mse": mean_squared_error(a, b),
        "psnr": peak_signal_to_noise(a, b),
        "ssim": structural_similarity(a, b, min(7, (a.shape[1] - 1) // 2 * 2 + 1)),
    }
