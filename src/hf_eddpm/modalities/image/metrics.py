"""Metrics of images and of their latents, each a plain function of arrays."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...extras import needs_extra

with needs_extra("The metrics of images"):
    from scipy.ndimage import uniform_filter

BATCH = 500


def mean_squared_error(images: NDArray[np.floating], references: NDArray[np.floating]) -> float:
    """Mean squared difference of pixels."""
    return float(np.mean((images - references) ** 2, dtype=np.float64))


def peak_signal_to_noise(images: NDArray[np.floating], references: NDArray[np.floating]) -> float:
    """Mean over images of -10 log10(mean squared error), decibels; pixels in [0, 1], errors of at least 1e-10."""
    errors = np.mean((images - references) ** 2, axis=tuple(range(1, images.ndim)), dtype=np.float64)
    return float(np.mean(-10 * np.log10(np.maximum(errors, 1e-10))))


def structural_similarity(images: NDArray[np.floating], references: NDArray[np.floating], window: int = 7) -> float:
    """Mean structural similarity (Wang et al. 2004, equation 13), of uniform windows and sample covariances.

    Args:
        images: (num, height, width, channels), in [0, 1].
        references: Shaped as `images`.
        window: Odd side of the window, at most the images'. Windows that would reach beyond the border do not count.

    Returns:
        At most 1, which is equality.
    """
    if window % 2 == 0 or window > min(images.shape[1:3]):
        raise ValueError(f"`window` must be odd and at most {min(images.shape[1:3])}, got {window}.")
    x, y = np.asarray(images, dtype=np.float64), np.asarray(references, dtype=np.float64)

    def mean(values: NDArray[np.float64]) -> NDArray[np.float64]:
        return uniform_filter(values, size=(1, window, window, 1))

    count = window**2
    mean_x, mean_y = mean(x), mean(y)
    factor = count / (count - 1)
    var_x, var_y = factor * (mean(x * x) - mean_x**2), factor * (mean(y * y) - mean_y**2)
    covariance = factor * (mean(x * y) - mean_x * mean_y)
    c1, c2 = 0.01**2, 0.03**2
    similarity = ((2 * mean_x * mean_y + c1) * (2 * covariance + c2)) / (
        (mean_x**2 + mean_y**2 + c1) * (var_x + var_y + c2)
    )
    border = window // 2
    return float(similarity[:, border : similarity.shape[1] - border, border : similarity.shape[2] - border].mean())


def intersection_over_union(images: NDArray[np.floating], references: NDArray[np.floating]) -> float:
    """Mean over images of the shapes' intersection over their union; a pixel above 1/2 is of the shape.

    Args:
        images: (num, height, width, channels), in [0, 1].
        references: Shaped as `images`.

    Returns:
        From 0 to 1; two images without a shape count as 1.
    """
    axes = tuple(range(1, images.ndim))
    shapes, others = images > 0.5, references > 0.5
    common, either = (shapes & others).sum(axes), (shapes | others).sum(axes)
    return float(np.mean(np.where(either > 0, common / np.maximum(either, 1), 1.0)))


class FeatureExtractor(nn.Module):
    """A small classifier whose last hidden layer measures images, in the place of Inception's.

    Args:
        num_channels: 1 or 3.
        num_classes: Classes it tells apart.
        width: Channels of its first layer.
        num_features: Width of the last hidden layer.
    """

    def __init__(self, num_channels: int, num_classes: int, width: int = 16, num_features: int = 64):
        super().__init__()
        layers: list[nn.Module] = []
        channels = num_channels
        for level in range(3):
            layers += [
                nn.Conv2d(channels, width * 2**level, 3, stride=1 if level == 0 else 2, padding=1),
                nn.BatchNorm2d(width * 2**level),
                nn.ReLU(),
            ]
            channels = width * 2**level
        self.trunk = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten())
        self.hidden = nn.Linear(channels * 16, num_features)
        self.head = nn.Linear(num_features, num_classes)

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """Map (num, channels, height, width) in [-1, 1] to (num, num_features)."""
        return self.hidden(self.trunk(images))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits (num, num_classes)."""
        return self.head(torch.relu(self.features(images)))


def fit_extractor(
    images: NDArray[np.uint8],
    labels: NDArray[np.integer],
    seed: int,
    num_steps: int = 500,
    batch_size: int = 128,
) -> FeatureExtractor:
    """Trains the classifier; the same seed gives the same one on the same machine.

    Args:
        images: uint8 (num, height, width, channels) of the training split.
        labels: Their classes (num,).
        seed: Of initialisation and order.
        num_steps: Training steps.
        batch_size: Images of a step.
    """
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = FeatureExtractor(images.shape[3], int(labels.max()) + 1)
        targets = torch.from_numpy(np.asarray(labels, dtype=np.int64))

        def draw() -> tuple[torch.Tensor, torch.Tensor]:
            chosen = torch.randint(len(images), (batch_size,))
            return to_tensor(images[chosen.numpy()]), targets[chosen]

        fit_classifier(model, draw, num_steps)
    return model


def fit_classifier(model: nn.Module, draw: Callable[[], tuple[torch.Tensor, torch.Tensor]], num_steps: int) -> float:
    """Trains a classifier by AdamW in one cycle of the learning rate, up to 0.004, and leaves it in evaluation mode.

    Args:
        model: Maps images `(batch, channels, height, width)` to logits.
        draw: Returns a batch of images and their classes `(batch,)`.
        num_steps: Steps.

    Returns:
        The share of right answers, a running mean over the last twenty steps or so.
    """
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=num_steps)
    right: Any = 0.0  # on the device, where nothing waits for it
    for _ in range(num_steps):
        images, targets = draw()
        logits = model(images)
        loss = nn.functional.cross_entropy(logits, targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        right = 0.95 * right + 0.05 * (logits.argmax(1) == targets).float().mean()
    model.eval()
    return float(right)


@torch.no_grad()
def extract(model: FeatureExtractor, images: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Features (num, num_features) and predicted classes (num,) of uint8 images (num, height, width, channels)."""
    features, classes = [], []
    for start in range(0, len(images), BATCH):
        hidden = model.features(to_tensor(images[start : start + BATCH]))
        features.append(hidden.double().numpy())
        classes.append(model.head(torch.relu(hidden)).argmax(1).numpy())
    return np.concatenate(features), np.concatenate(classes)


def to_tensor(images: NDArray[np.uint8]) -> torch.Tensor:
    """Return uint8 images (num, height, width, channels) as floats (num, channels, height, width) in [-1, 1]."""
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2))).float() / 127.5 - 1


def linear_probe(
    train: NDArray[np.floating],
    train_labels: NDArray[Any],
    dev: NDArray[np.floating],
    dev_labels: NDArray[Any],
) -> dict[str, float]:
    """Accuracy on `dev` of a logistic regression on standardised features; of two classes also average precision."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import average_precision_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    probe.fit(train, train_labels)
    result = {"accuracy": float(probe.score(dev, dev_labels))}
    if len(probe.classes_) == 2:
        scores = probe.predict_proba(dev)[:, 1]
        result["average_precision"] = float(average_precision_score(dev_labels == probe.classes_[1], scores))
    return result
