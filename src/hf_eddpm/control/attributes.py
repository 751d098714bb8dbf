"""Attributes of data as logistic regressions on their latents, and the least move that gives them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ..argument_types import FloatTensor, PositiveNumber, checked


@dataclass(frozen=True)
class LinearAttribute:
    """What tells data that have an attribute from data that lack it: a logistic regression on their latents.

    Args:
        weights: float32 `(num_latents, latent_dim)`.
        bias: Added to the product of the weights with a datum's latents.
    """

    weights: torch.Tensor
    bias: float

    def log_odds(self, latents: torch.Tensor) -> torch.Tensor:
        """Return log(p / (1 - p)) of having the attribute, float32 `(batch,)`.

        Args:
            latents: `(batch, num_latents, latent_dim)`.
        """
        return latents.float().flatten(1) @ self.weights.flatten().to(latents.device) + self.bias

    def probability(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the probability of having the attribute, float32 `(batch,)`; see `log_odds`."""
        return self.log_odds(latents).sigmoid()

    def opposite(self) -> "LinearAttribute":
        """Return the attribute of lacking it."""
        return LinearAttribute(-self.weights, -self.bias)


@checked
def fit_attribute(
    positives: FloatTensor, negatives: FloatTensor, weight_decay: PositiveNumber = 0.01
) -> LinearAttribute:
    """Fit a logistic regression that tells two sets of latents apart.

    Latents are standardised for the fit; both sets weigh the same whatever their sizes.

    Args:
        positives: `(count, ...)`, at least one.
        negatives: `(count, ...)`, at least one.
        weight_decay: Positive factor of half the squared norm of the standardised weights.

    Raises:
        ValueError: If a set is empty, shapes differ, values are not finite or the two sets are the same.
    """
    if not positives.ndim or not negatives.ndim:
        raise ValueError("`positives` and `negatives` must be `(count, ...)`, got a single number.")
    if len(positives) == 0 or len(negatives) == 0 or positives.shape[1:] != negatives.shape[1:]:
        raise ValueError(
            "`positives` and `negatives` must each hold latents of the same shape, got "
            f"{tuple(positives.shape)} and {tuple(negatives.shape)}."
        )
    features = torch.cat([positives, negatives]).flatten(1).cpu().double()
    if not bool(torch.isfinite(features).all()):
        raise ValueError("`positives` and `negatives` must be finite, got NaN or infinity.")
    scale, middle = features.std(0, correction=0).clamp(min=1e-8), features.mean(0)
    features = (features - middle) / scale
    signs = torch.ones(len(features), dtype=torch.float64)
    signs[len(positives) :] = -1
    shares = torch.where(signs > 0, 0.5 / len(positives), 0.5 / len(negatives))
    weights = torch.zeros(features.shape[1] + 1, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([weights], max_iter=200, tolerance_grad=1e-7, line_search_fn="strong_wolfe")

    def loss() -> torch.Tensor:
        optimizer.zero_grad()
        margins = signs * (features @ weights[:-1] + weights[-1])
        value = (shares * torch.nn.functional.softplus(-margins)).sum()
        value = value + weight_decay / 2 * weights[:-1].square().sum()
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    found = weights.detach()
    normal = found[:-1] / scale
    if not normal.norm() > 1e-12:
        raise ValueError(
            "`positives` and `negatives` must differ, and `weight_decay` leave something: no direction leads from one "
            "to the other."
        )
    bias = float(found[-1] - normal @ middle)
    return LinearAttribute(normal.float().view(positives.shape[1:]).to(positives.device), bias)


def least_move(latents: torch.Tensor, attributes: Sequence[LinearAttribute], log_odds: float) -> torch.Tensor:
    """Return the nearest latents whose log odds of every attribute are at least so many.

    Where a datum has an attribute with more, these stay as they are.

    Args:
        latents: `(batch, num_latents, latent_dim)`.
        attributes: At least one.
        log_odds: What is aimed at.

    Raises:
        ValueError: If one attribute follows from the others: attributes that are equal, or opposite.
    """
    normals = torch.stack([attribute.weights.flatten() for attribute in attributes]).cpu().double()
    singular = torch.linalg.svdvals(normals / normals.norm(dim=1, keepdim=True))
    if len(attributes) > 1 and not singular[-1] > 1e-4:
        raise ValueError(
            "`attributes` must be independent, got one that follows from the others or is their opposite."
        )
    now = torch.stack([attribute.log_odds(latents) for attribute in attributes], dim=1).cpu().double()
    missing = (log_odds - now).clamp(min=0)
    steps = torch.linalg.solve(normals @ normals.T, missing.T).T @ normals
    return latents + steps.to(latents).view_as(latents)
