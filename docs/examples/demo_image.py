"""A tour of an image checkpoint: pictures of samples, reconstructions, interpolations and edits, and what they show.

    python docs/examples/demo_image.py                                            # model_cards/eddpm-digits
    python docs/examples/demo_image.py --checkpoint model_cards/eddpm-fashion --images my_pictures/

The pictures are written to `--output_dir` (runs/demo_image). The digits come with scikit-learn; other checkpoints need
`--images` to reconstruct something, and without them reconstruct their own samples.
"""

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from hf_eddpm import EDDPMPipeline, plot_grid
from hf_eddpm.modalities.image.data import load_images
from hf_eddpm.modalities.image.files import DIGITS
from hf_eddpm.modalities.image.metrics import fit_extractor

DEFAULT_CHECKPOINT = Path(__file__).resolve().parents[2] / "model_cards" / "eddpm-digits"
PATH_LENGTH = 9
SHADES = " .:-=+*#%@"


def as_text(images: list[Image.Image], width: int = 8) -> str:
    """Images side by side as characters, two of them for each pixel of a small copy."""
    small = [np.asarray(image.convert("L").resize((width, width))) // (256 // len(SHADES) + 1) for image in images]
    rows = ["  ".join("".join(2 * SHADES[level] for level in image[y]) for image in small) for y in range(width)]
    return "\n".join(f"  {row}" for row in rows)


def mean_error(a: list[Image.Image], b: list[Image.Image]) -> float:
    """Mean absolute difference in grey levels."""
    return float(
        np.mean([np.abs(np.asarray(x, float) - np.asarray(y, float)).mean() for x, y in zip(a, b, strict=True)])
    )


class Tour:
    """Writes the pictures and says what they show.

    Args:
        pipe: The pipeline.
        images: Images to reconstruct, walk between and edit.
        labels: Their classes, or `None`.
        folder: Where the pictures go.
        steps: Steps of each chain.
        seed: Of all noise.
    """

    def __init__(
        self, pipe: EDDPMPipeline, images: list[Image.Image], labels: Any, folder: Path, steps: int, seed: int
    ):
        self.pipe = pipe
        self.images = images
        self.labels = labels
        self.folder = folder
        self.steps = steps
        self.seed = seed
        self.scale = max(1, 64 // pipe.processor.image_size)

    @property
    def decoding(self) -> dict[str, Any]:
        """Arguments of a decoder that is a chain; fresh noise of the same seed each time."""
        if self.pipe.decoder_scheduler is None:
            return {}
        return {"num_decoder_steps": self.steps, "generator": self.generator()}

    def generator(self) -> torch.Generator:
        """A new generator of the tour's seed."""
        return torch.Generator(device=self.pipe.device).manual_seed(self.seed)

    def save(self, name: str, rows: Any) -> None:
        """Writes one picture."""
        path = self.folder / name
        plot_grid(rows, scale=self.scale).save(path)
        print(f"  -> {path}\n")

    def generate(self) -> None:
        heading("Generate", "noise becomes latents, latents and noise become pixels")
        steps = {} if self.pipe.decoder_scheduler is None else {"num_decoder_steps": self.steps}
        samples = self.pipe(32, num_inference_steps=self.steps, generator=self.generator(), **steps).samples
        print(as_text(samples[:6]))
        self.save("samples.png", [samples[start : start + 8] for start in range(0, 32, 8)])

    def generate_classes(self) -> None:
        classes = self.pipe.model.config.num_classes
        if not classes:
            return
        heading("Generate by class", "the latent denoiser is told the class; guidance scale 2")
        steps = {} if self.pipe.decoder_scheduler is None else {"num_decoder_steps": self.steps}
        rows = min(classes, 10)
        wanted = torch.arange(rows).repeat_interleave(8)
        samples = self.pipe(
            len(wanted),
            num_inference_steps=self.steps,
            class_labels=wanted,
            guidance_scale=2.0,
            generator=self.generator(),
            **steps,
        ).samples
        if self.labels is not None:
            arrays = self.pipe.processor(self.images)["pixel_values"].permute(0, 2, 3, 1).numpy()
            judge = fit_extractor(np.round((arrays + 1) * 127.5).astype(np.uint8), self.labels, seed=0, num_steps=200)
            with torch.no_grad():
                seen = judge(self.pipe.processor(samples)["pixel_values"]).argmax(1)
            print(f"  A small classifier trained on the data sees the class asked for in {(seen == wanted).sum()} of")
            print(f"  {len(wanted)} samples.")
        self.save("classes.png", [samples[start : start + 8] for start in range(0, len(wanted), 8)])

    def reconstruct(self) -> None:
        heading("Reconstruct", "pixels become latents, latents become pixels")
        originals = self.pipe.processor.postprocess(self.pipe.processor(self.images[:8])["pixel_values"])
        rows = [originals, self.pipe.reconstruct(originals, **self.decoding)]
        size = self.pipe.model.config.latent_size
        values = self.pipe.processor.image_size**2 * self.pipe.processor.num_channels
        print(as_text(originals[:6]) + "\n\n" + as_text(rows[1][:6]) + "\n")
        print(f"  From {size} numbers instead of {values}: off by {mean_error(*rows):.1f} of 255 grey levels.")
        if self.pipe.decoder_scheduler is not None:
            rows.append(self.pipe.reconstruct(originals, invert_noise=True, num_decoder_steps=50))
            print(f"  With the noise that the image itself comes from: {mean_error(rows[0], rows[2]):.1f}.")
        self.save("reconstructions.png", rows)

    def interpolate(self) -> None:
        heading("Interpolate", "through the latents, from the same noise on all points of a path")
        starts, ends = self.images[:5], self.images[5:10]
        paths = self.pipe.interpolate(starts, ends, num_steps=PATH_LENGTH, space="latents", **self.decoding)
        print(as_text(paths[0][::2]))
        self.save("interpolations.png", paths)

    def edit(self) -> None:
        if self.labels is None:
            return
        first, second = (int(label) for label in np.unique(self.labels)[:2])
        heading("Edit", f"class {first} towards class {second}, by the difference of their mean latents")
        groups = [[self.images[row] for row in np.flatnonzero(self.labels == label)] for label in (first, second)]
        direction = self.pipe.direction(groups[1], groups[0])  # (num_latents, latent_dim)
        rows = [self.pipe.edit(groups[0][:8], direction, scale, **self.decoding) for scale in (0.0, 0.5, 1.0, 1.5)]
        print(as_text([row[0] for row in rows]))
        self.save("edits.png", rows)


def heading(title: str, explanation: str) -> None:
    print(f"\n{title}: {explanation}\n")


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default=str(DEFAULT_CHECKPOINT), help="local folder or Hub id")
    parser.add_argument("--images", nargs="+", default=None, help="images to reconstruct")
    parser.add_argument("--output_dir", default="runs/demo_image", help="folder of the pictures")
    parser.add_argument("--num_inference_steps", type=int, default=25, help="steps of each chain")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(args)

    start = time.perf_counter()
    pipe = EDDPMPipeline.from_pretrained(arguments.checkpoint).to("cuda" if torch.cuda.is_available() else "cpu")
    pipe.set_progress_bar_config(disable=True)
    processor, config = pipe.processor, pipe.model.config
    print(
        f"{arguments.checkpoint}: {pipe.model.num_parameters() / 1e6:.1f} million parameters, "
        f"{processor.image_size} x {processor.image_size} {'grey' if processor.num_channels == 1 else 'colour'} "
        f"images, {config.num_latents} x {config.latent_dim} latents"
    )
    folder = Path(arguments.output_dir)
    folder.mkdir(parents=True, exist_ok=True)
    is_digits = (processor.image_size, processor.num_channels) == (8, 1)
    labels = None
    if arguments.images or is_digits:
        data = load_images(
            arguments.images or DIGITS,
            image_size=processor.image_size,
            num_channels=processor.num_channels,
            resize="crop",
        )
        images = [Image.fromarray(image[..., 0] if image.shape[2] == 1 else image) for image in data.images[:1000]]
        labels = data.labels("label")[: len(images)] if "label" in data.attributes else None
    else:
        generator = torch.Generator().manual_seed(arguments.seed + 1)
        images = pipe(10, num_inference_steps=arguments.num_inference_steps, generator=generator).samples
    if len(images) < 10:
        raise ValueError(f"`images` must name at least 10 images, got {len(images)}.")
    tour = Tour(pipe, images, labels, folder, arguments.num_inference_steps, arguments.seed)
    tour.generate()
    tour.generate_classes()
    tour.reconstruct()
    tour.interpolate()
    tour.edit()
    print(f"The whole tour took {time.perf_counter() - start:.0f} seconds.")


if __name__ == "__main__":
    main()
