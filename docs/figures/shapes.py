"""Makes the gallery's page of eddpm-sprites: shapes with known factors, uncurated, with fixed seeds.

    python docs/figures/shapes.py --sprites $SPRITES

The folder holds the held-out shapes.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gallery import MAPPED, Page
from hf_eddpm import plot_grid
from hf_eddpm.modalities.image.data import load_images
from hf_eddpm.plots import plot_latents
from shipped import load, seed

NAMES = ("square", "ellipse", "heart")
MOVED = ("scale", "pos_x", "pos_y")  # factors that have a least and a greatest value
SCALES = (-1.5, -1.0, -0.5, 0.0, 0.5, 1.0, 1.5)


def shapes(name: str, folder: Path) -> None:
    """The gallery of the checkpoint of shapes."""
    pipe = load(name)
    data = load_images(str(folder / "validation.npz"))
    order = np.random.default_rng(0).permutation(len(data))
    data = data.take(order)
    pictures = [Image.fromarray(image[..., 0]) for image in data.images]
    page = Page(name, "Black and white shapes of 64 x 64 pixels, of five known factors.")
    samples = pipe(num_samples=100, generator=seed()).samples
    page.picture("Samples", "samples", plot_grid(samples, num_columns=20), "A hundred of seed 0.", False)
    rows = [pictures[:16], pipe.reconstruct(pictures[:16])]
    page.picture("Reconstructions", "reconstructions", plot_grid(rows), "Originals; decoded from the latents.", False)
    paths = pipe.interpolate(pictures[:5], pictures[5:10], num_steps=9, space="latents")
    page.picture("From one to another", "interpolation", plot_grid(paths), in_card=False)
    latents = pipe.encode(pictures).latents
    kinds = data.labels("shape")
    directions = []
    for factor in MOVED:
        values = data.attribute(factor)
        high, low = values >= np.quantile(values, 0.8), values <= np.quantile(values, 0.2)
        directions.append(latents[torch.from_numpy(high)].mean(0) - latents[torch.from_numpy(low)].mean(0))
    means = [latents[torch.from_numpy(kinds == kind)].mean(0) for kind in range(len(NAMES))]
    directions.append(means[2] - means[0])
    walks = pipe.traverse(pictures[0], torch.stack(directions), scales=SCALES)[0]
    text = (
        f"One shape moved by {', '.join(MOVED)}, and from square to heart: along the difference of the mean latents "
        "of the greatest and the least fifth, times -1.5 to 1.5."
    )
    page.picture("Traversals by factor", "factors", plot_grid(walks), text)
    walks = pipe.traverse(pictures[0], pipe.directions(pictures, 10, "ica"), scales=SCALES)[0]
    text = "The same along the ten directions in which latents vary independently (ICA), from -1.5 to 1.5 deviations."
    page.picture("Traversals", "traversals", plot_grid(walks), text)
    figure = plot_latents(latents[:MAPPED], [NAMES[kind] for kind in kinds[:MAPPED]])
    page.picture("A map of the latents", "latents", figure, "Held-out shapes in the plane in which they vary most.")
    page.write()


def main(words: Sequence[str] | None = None) -> None:
    """Writes the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sprites", type=Path, required=True, help="folder of the held-out shapes")
    shapes("eddpm-sprites", parser.parse_args(words).sprites)


if __name__ == "__main__":
    main()
