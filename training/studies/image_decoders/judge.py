"""What the Frechet distance of the decoder study says of blur and of noise, on the data's own images.

    python training/studies/image_decoders/judge.py training/studies/image_decoders/fashion.json \\
        --train train-images-idx3-ubyte.gz --output training/studies/image_decoders/results/fashion/judge.md

Held-out images are blurred, as by a decoder that is trained for squared errors alone, and given Gaussian noise, as by
a chain that has not learned to take all of it away. Where noise on blurred images brings them nearer to real ones, a
smaller distance does not yet say that images look better: read SSIM beside it.
"""

import argparse
from pathlib import Path

import numpy as np
import torch
from scipy.ndimage import gaussian_filter

from hf_eddpm.hub.card import markdown_table
from hf_eddpm.training.image_judge import Judge, pixel_errors
from hf_eddpm.training.train_image import parse_data

SEED = 0


def main(args: list[str] | None = None) -> None:
    """Writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="training configuration")
    parser.add_argument("--train", nargs="+", required=True, help="training images")
    parser.add_argument("--dev", nargs="+", default=[], help="held-out images, if not of the training ones")
    parser.add_argument("--num_images", type=int, default=300, help="held-out images")
    parser.add_argument("--blurs", nargs="+", type=float, default=[0, 1, 2, 3], help="standard deviations, in pixels")
    parser.add_argument("--noises", nargs="+", type=float, default=[0, 10, 20, 40], help="in grey levels of 255")
    parser.add_argument("--output", required=True, help="Markdown file")
    arguments = parser.parse_args(args)
    words = [arguments.config, "--train", *arguments.train, *(["--dev", *arguments.dev] if arguments.dev else [])]
    train, dev, data_args = parse_data(words)
    judge = Judge(train, dev, data_args.label_column, SEED)
    images = dev.sample(arguments.num_images, SEED).images
    rng = np.random.default_rng(SEED)
    rows = []
    for blur in arguments.blurs:
        blurred = np.stack([gaussian_filter(image.astype(float), (blur, blur, 0)) for image in images])
        for noise in arguments.noises:
            noisy = np.clip(blurred + noise * rng.standard_normal(blurred.shape), 0, 255).round().astype(np.uint8)
            row = {"blur, pixels": f"{blur:g}", "noise, of 255": f"{noise:g}"}
            rows.append(
                row | {"Frechet": f"{judge.frechet(noisy):.1f}", "SSIM": f"{pixel_errors(noisy, images)['ssim']:.3f}"}
            )
    Path(arguments.output).parent.mkdir(parents=True, exist_ok=True)
    Path(arguments.output).write_text(markdown_table(rows) + "\n", encoding="utf-8")
    print(markdown_table(rows))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
