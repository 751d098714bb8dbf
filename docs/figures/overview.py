"""Draws docs/_static/overview.png: a sentence, a protein and an image on their way through a model.

    python docs/figures/overview.py

Everything in it comes from the checkpoints in model_cards/, with fixed seeds. The image that is encoded
is itself a sample.
"""

import argparse
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes

from shipped import ROOT, load, seed

INK, ACCENT = "#1f2933", "#2f6f8f"


def text_row() -> dict[str, Any]:
    """What the text model makes of a sentence."""
    pipe = load("eddpm-sentences")
    sentence, single = "The train was late again.", "A man in a red shirt is cooking."
    two = [
        "Two men are riding bikes.",
        "Two dogs run on the beach.",
        "Two girls sit on a bench.",
        "Two cats are sleeping.",
    ]
    one = ["A man is riding a bike.", "A dog runs on the beach.", "A girl sits on a bench.", "A cat is sleeping."]
    direction = pipe.direction(two, one)
    path = pipe.interpolate("A man is riding a bike.", "A woman is reading a book.", 3, spacing="perceptual")[0]
    edits = pipe.edit([single], direction=direction, scale=1.0, refinement_steps=10)
    options = {"class_labels": 2, "guidance_scale": 2.0, "num_candidates": 8}
    return {
        "kind": "a sentence",
        "input": sentence,
        "latents": pipe.encode([sentence]).latents[0],
        "output": pipe.reconstruct([sentence])[0],
        "verbs": {
            "sample a user's turn": [shorten(text) for text in pipe(3, generator=seed(), **options).samples],
            "interpolate": [shorten(text) for text in path],
            "edit": [shorten(single), *map(shorten, edits)],
        },
    }


def shorten(text: str, width: int = 26) -> str:
    """Return a text in lines of that width."""
    return "\n".join(textwrap.wrap(text, width))


def protein_row() -> dict[str, Any]:
    """What the protein model makes of an antibody loop."""
    pipe = load("eddpm-gifford")
    loop, other = "ARDGYYGSFDY", "AAAAYDYWFDY"
    better = pipe.optimize([loop], method="hill_climb", num_steps=5, generator=seed())
    before, after = float(pipe.predict([loop])[0, 0]), float(better.predictions[0])
    return {
        "kind": "a protein",
        "input": loop,
        "latents": pipe.encode([loop]).latents[0],
        "output": pipe.reconstruct([loop])[0],
        "verbs": {
            "sample": pipe(num_samples=2, generator=seed()).samples,
            "interpolate": pipe.interpolate(loop, other, num_steps=5)[0][1:4],
            "optimise": [f"{better.samples[0]}", f"predicted {before:.2f} to {after:.2f}"],
        },
    }


def image_row() -> dict[str, Any]:
    """What the image model makes of a piece of clothing."""
    pipe = load("eddpm-fashion")
    guided = {"guidance_scale": 2.0, "generator": seed()}
    bag, boot = pipe(class_labels=[8, 9], num_samples=2, **guided).samples
    return {
        "kind": "an image",
        "input": bag,
        "latents": pipe.encode([bag]).latents[0],
        "output": pipe.reconstruct([bag])[0],
        "verbs": {
            "sample": pipe(num_samples=4, class_labels=[0, 3, 5, 7], **guided).samples,
            "interpolate": pipe.interpolate(bag, boot, num_steps=4, space="latents")[0],
            "vary": pipe.edit([bag] * 4, strength=0.4, class_labels=8, generator=seed()),
        },
    }


def show(axes: Axes, value: Any, size: int = 11) -> None:
    """Put a string, several strings, an image or a strip of images into a box."""
    axes.set_axis_off()
    several = value if isinstance(value, list) else [value]
    if isinstance(several[0], str):
        axes.text(0.5, 0.5, "\n".join(several), ha="center", va="center", fontsize=size, color=INK, wrap=True)
        return
    arrays = [np.asarray(image, dtype=float) for image in several]
    gap = np.full((arrays[0].shape[0], 1), arrays[0].min())
    strip = np.hstack([part for array in arrays for part in (array, gap)][:-1])
    axes.imshow(strip, cmap="gray_r", interpolation="nearest")


def draw(rows: Sequence[dict[str, Any]]) -> plt.Figure:
    """Return the figure: a row for each kind of data."""
    figure = plt.figure(figsize=(14.5, 6.6), facecolor="white")
    widths = [2.3, 1.5, 2.3, 2.6, 3.0, 2.7]
    grid = figure.add_gridspec(len(rows), 6, width_ratios=widths, hspace=0.45, wspace=0.22)
    for index, row in enumerate(rows):
        boxes = [figure.add_subplot(grid[index, column]) for column in range(6)]
        latents = row["latents"].flatten()
        height = max(d for d in range(1, int(len(latents) ** 0.5) + 1) if len(latents) % d == 0)
        show(boxes[0], row["input"])
        boxes[1].imshow(latents.view(height, -1), cmap="RdBu", vmin=-2.5, vmax=2.5, aspect="auto")
        boxes[1].set_xticks([]), boxes[1].set_yticks([])
        show(boxes[2], row["output"])
        boxes[0].set_title(row["kind"], fontsize=14, color=ACCENT)
        boxes[1].set_title(f"{len(latents)} numbers", fontsize=14, color=ACCENT)
        boxes[2].set_title("decode", fontsize=14, color=ACCENT)
        for box, (verb, value) in zip(boxes[3:], row["verbs"].items(), strict=True):
            box.set_title(verb, fontsize=14, color=ACCENT)
            show(box, value, size=10)
    return figure


def main(words: Sequence[str] | None = None) -> Path:
    """Writes the picture and returns its path."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=ROOT / "docs" / "_static" / "overview.png")
    path = parser.parse_args(words).output
    path.parent.mkdir(parents=True, exist_ok=True)
    figure = draw([text_row(), protein_row(), image_row()])
    figure.savefig(path, dpi=110, bbox_inches="tight")
    plt.close(figure)
    return path


if __name__ == "__main__":
    print(main())
