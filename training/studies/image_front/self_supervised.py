"""Trains a small ResNet on images without their labels, for latents to agree with, and says how good its features are.

    python training/studies/image_front/self_supervised.py --train train-images-idx3-ubyte.gz --dev_last 6000 \\
        --output_dir runs/self-supervised

Contrastive learning (SimCLR, Chen et al. 2020, arXiv 2002.05709): two views of an image, each cropped, mirrored and
with another contrast at random, are to be nearer to each other than to the views of other images, by the cosine of a
head's outputs. The ResNet is saved without the head, as a model of transformers, with `probe.json`: how often a linear
classifier on its features is right on held-out images, beside one on as many principal components of the pixels.
"""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import affine_grid, cross_entropy, grid_sample, normalize
from transformers import ResNetConfig, ResNetModel, Trainer, TrainingArguments

from hf_eddpm.modalities.image.data import ImageData, hold_out, load_images
from hf_eddpm.modalities.image.metrics import linear_probe, to_tensor
from hf_eddpm.training.environment import describe_environment

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the studies, which share code

from common.probes import component_probe

TEMPERATURE = 0.2
SMALLEST_CROP = 0.4  # share of the area
NUM_PROBE = 10_000


def random_views(images: torch.Tensor) -> torch.Tensor:
    """Return another view of each image `(batch, channels, height, width)`, of values in [-1, 1]."""
    count = len(images)
    side = torch.empty(count).uniform_(SMALLEST_CROP, 1.0).sqrt()
    stretch = torch.empty(count).uniform_(math.log(3 / 4), math.log(4 / 3)).exp().sqrt()
    width, height = (side * stretch).clamp(max=1), (side / stretch).clamp(max=1)
    mirrored = torch.where(torch.rand(count) < 0.5, -1.0, 1.0)
    crop = torch.zeros(count, 2, 3)
    crop[:, 0, 0], crop[:, 1, 1] = width * mirrored, height
    crop[:, 0, 2] = (1 - width) * torch.empty(count).uniform_(-1, 1)
    crop[:, 1, 2] = (1 - height) * torch.empty(count).uniform_(-1, 1)
    grid = affine_grid(crop, list(images.shape), align_corners=False)
    seen = grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    contrast = torch.empty(count, 1, 1, 1).uniform_(0.6, 1.0)
    return (seen + 1) * contrast - 1


class Contrast(nn.Module):
    """A backbone and a head whose outputs for two views of an image are to be alike.

    Args:
        backbone: Vision model of transformers.
        hidden_size: Of its last hidden states.
    """

    def __init__(self, backbone: ResNetModel, hidden_size: int):
        super().__init__()
        self.backbone = backbone
        self.head = nn.Sequential(nn.Linear(hidden_size, hidden_size), nn.ReLU(), nn.Linear(hidden_size, 128))

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the loss (NT-Xent) of a batch of images `(batch, channels, height, width)`."""
        views = torch.cat([random_views(images), random_views(images)])
        states = self.backbone(pixel_values=views).last_hidden_state.mean((2, 3))
        outputs = normalize(self.head(states), dim=1)
        likeness = (outputs @ outputs.T / TEMPERATURE).fill_diagonal_(-torch.inf)
        partner = torch.arange(len(views)).roll(len(images))
        return {"loss": cross_entropy(likeness, partner)}


@torch.no_grad()
def features(backbone: ResNetModel, images: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the mean of the last hidden states (num, hidden)."""
    backbone.eval()
    parts = [backbone(pixel_values=part).last_hidden_state.mean((2, 3)) for part in to_tensor(images).split(500)]
    return torch.cat(parts).numpy()


def probe(backbone: ResNetModel, train: ImageData, dev: ImageData, column: str, seed: int) -> dict[str, float]:
    """Return how often a linear classifier of the features is right, and one of the pixels' principal components."""
    fit = train.sample(NUM_PROBE, seed)
    labels, held = fit.labels(column), dev.labels(column)
    known, new = features(backbone, fit.images), features(backbone, dev.images)
    return {
        "features": linear_probe(known, labels, new, held)["accuracy"],
        "pca": component_probe(fit, dev, column, known.shape[1]),
    }


def main(words: list[str] | None = None) -> None:
    """Trains, saves and probes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs="+", required=True, help="training images")
    parser.add_argument("--dev_last", type=int, default=0, help="held-out images: the last so many")
    parser.add_argument("--label_column", default="label", help="attribute that the probe tells")
    parser.add_argument("--embedding_size", type=int, default=32, help="channels of the ResNet's first layer")
    parser.add_argument("--hidden_sizes", type=int, nargs="+", default=[64, 128, 256], help="of its stages")
    parser.add_argument("--max_steps", type=int, default=1500)
    parser.add_argument("--batch_size", type=int, default=256)
    parser.add_argument("--learning_rate", type=float, default=2e-3)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--num_threads", type=int, default=2)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the ResNet")
    arguments = parser.parse_args(words)
    torch.set_num_threads(arguments.num_threads)
    torch.manual_seed(arguments.seed)

    data = load_images(arguments.train)
    rest, held = hold_out(len(data), arguments.dev_last, 0.1, arguments.seed)
    train, dev = data.take(rest), data.take(held)
    sizes = arguments.hidden_sizes
    config = ResNetConfig(
        num_channels=train.num_channels,
        embedding_size=arguments.embedding_size,
        hidden_sizes=sizes,
        depths=[1] * len(sizes),
        layer_type="basic",
    )
    model = Contrast(ResNetModel(config), sizes[-1])
    trainer = Trainer(
        model,
        TrainingArguments(
            str(arguments.output_dir),
            max_steps=arguments.max_steps,
            per_device_train_batch_size=arguments.batch_size,
            learning_rate=arguments.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=100,
            weight_decay=1e-4,
            logging_steps=100,
            save_strategy="no",
            report_to="none",
            remove_unused_columns=False,
            dataloader_drop_last=True,
            seed=arguments.seed,
            use_cpu=True,
            disable_tqdm=True,
        ),
        train_dataset=[{"images": image} for image in to_tensor(train.images)],
    )
    output = trainer.train()
    model.backbone.save_pretrained(arguments.output_dir)
    facts: dict[str, Any] = {
        **probe(model.backbone, train, dev, arguments.label_column, arguments.seed),
        "steps": arguments.max_steps,
        "batch_size": arguments.batch_size,
        "train_seconds": round(output.metrics["train_runtime"], 1),
        "num_parameters": sum(parameter.numel() for parameter in model.backbone.parameters()),
        **describe_environment(torch.device("cpu")),
    }
    (arguments.output_dir / "probe.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(facts)


if __name__ == "__main__":
    main()
