"""A picture of the latents of samples and of given data, in which each point can be decoded."""

import io
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ..argument_types import checked
from ..plots import plot_latents, project_latents
from .limits import NumMapSamples, Seed

_DPI = 150
_RADIUS = 9  # of the ring around the chosen point, in pixels


@dataclass(frozen=True)
class LatentMap:
    """The picture and what its points are.

    Args:
        image: The picture.
        pixels: Where each point is in it, float64 `(points, 2)`, from the upper left corner.
        latents: The latents of each point.
        names: What each point is, for example "sample 3".
        data: The given data, whose points come first.
    """

    image: Image.Image
    pixels: NDArray[np.float64]
    latents: torch.Tensor
    names: list[str]
    data: list[Any]

    def nearest(self, x: float, y: float) -> int:
        """Return the number of the point nearest to a place in the picture."""
        return int(np.square(self.pixels - (x, y)).sum(1).argmin())

    def with_ring(self, point: int) -> Image.Image:
        """Return the picture with a ring around a point."""
        image = self.image.copy()
        x, y = self.pixels[point]
        box = (x - _RADIUS, y - _RADIUS, x + _RADIUS, y + _RADIUS)
        ImageDraw.Draw(image).ellipse(box, outline="black", width=3)
        return image


@checked
def draw_map(pipe: Any, data: list[Any], class_names: list[str], num_samples: NumMapSamples, seed: Seed) -> LatentMap:
    """Draw samples' latents, and given data's among them, in the plane in which they vary most.

    Args:
        pipe: The pipeline.
        data: Data of its modality, perhaps none.
        class_names: The names of the classes, by which samples are coloured; none for one colour.
        num_samples: How many samples, evenly of all classes.
        seed: Of the samples.
    """
    generator = torch.Generator().manual_seed(seed)
    classes = [number % len(class_names) for number in range(num_samples)] if class_names else None
    samples = pipe(num_samples, class_labels=classes, output_type="latent", generator=generator).latents
    given = pipe.encode(data).latents if data else samples[:0]
    latents = torch.cat([given, samples])
    labels = None if classes is None else [class_names[number] for number in classes]
    figure = plot_latents(samples, labels, basis=latents)
    points, _ = project_latents(latents, latents)
    axes = figure.axes[0]
    if data:
        axes.scatter(
            points[: len(data), 0],
            points[: len(data), 1],
            s=45,
            marker="D",
            facecolors="white",
            edgecolors="black",
            label="your data",
        )
    if data or labels:
        axes.legend(fontsize=8, frameon=False, markerscale=1.2, loc="upper left", bbox_to_anchor=(1, 1))
    figure.set_dpi(_DPI)
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=_DPI)
    image = Image.open(file).convert("RGB")
    pixels = axes.transData.transform(points)
    pixels[:, 1] = image.height - pixels[:, 1]  # pictures count from above
    of_class = [""] * num_samples if labels is None else [f", class {label}" for label in labels]
    names = [f"your datum {number}" for number in range(1, len(data) + 1)]
    names += [f"sample {number}{words}" for number, words in enumerate(of_class, start=1)]
    return LatentMap(image, pixels, latents.cpu(), names, data)


def decode_point(pipe: Any, latent_map: LatentMap, point: int) -> Any:
    """Return the decoded datum of a point; a decoder that draws draws the same each time."""
    decoding = {} if pipe.decoder_scheduler is None else {"generator": torch.Generator().manual_seed(0)}
    return pipe.decode(latent_map.latents[point][None].to(pipe.device), **decoding)[0]
