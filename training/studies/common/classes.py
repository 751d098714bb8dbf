"""Classes of images and of their latents."""

import numpy as np
import torch
from numpy.typing import NDArray


def class_means(latents: torch.Tensor, labels: NDArray[np.integer]) -> torch.Tensor:
    """The mean latents of each class.

    Args:
        latents: `(num, num_latents, latent_dim)`.
        labels: Their classes (num,), in [0, num_classes); each has at least one.

    Returns:
        `(num_classes, num_latents, latent_dim)`.
    """
    return torch.stack([latents[torch.from_numpy(labels == each)].mean(0) for each in range(int(labels.max()) + 1)])


def other_classes(labels: NDArray[np.integer], num_classes: int, seed: int) -> NDArray[np.int64]:
    """For each label (num,) another class in [0, num_classes), drawn evenly."""
    return (labels + np.random.default_rng(seed).integers(1, num_classes, len(labels))) % num_classes
