"""Directions of attributes in the latents: normals of linear classifiers, made orthogonal to one another."""

from collections.abc import Sequence

import torch


def linear_direction(positives: torch.Tensor, negatives: torch.Tensor, weight_decay: float = 0.01) -> torch.Tensor:
    r"""Return the unit normal of a logistic regression between two sets of latents, towards `positives`.

    Unlike the difference of the means it leaves out what only goes along with the attribute, as far as a linear
    classifier needs it not. Latents are standardised for the fit; both sets weigh the same whatever their sizes.

    Args:
        positives: `(count, ...)`, at least one.
        negatives: `(count, ...)`, likewise.
        weight_decay: Positive factor of half the squared norm of the standardised weights.

    Returns:
        float32, shaped as one datum's latents, of norm 1.

    Raises:
        ValueError: If a set is empty, shapes differ, values are not finite or the two sets are the same.
    """
    if len(positives) == 0 or len(negatives) == 0 or positives.shape[1:] != negatives.shape[1:]:
        raise ValueError(
            "`positives` and `negatives` must each hold latents of the same shape, got "
            f"{tuple(positives.shape)} and {tuple(negatives.shape)}."
        )
    if not 0 < weight_decay < float("inf"):
        raise ValueError(f"`weight_decay` must be positive and finite, got {weight_decay!r}.")
    features = torch.cat([positives, negatives]).flatten(1).double()
    if not bool(torch.isfinite(features).all()):
        raise ValueError("`positives` and `negatives` must be finite, got NaN or infinity.")
    scale = features.std(0, correction=0).clamp(min=1e-8)
    features = (features - features.mean(0)) / scale
    signs = torch.ones(len(features), dtype=torch.float64, device=features.device)
    signs[len(positives) :] = -1
    shares = torch.where(signs > 0, 0.5 / len(positives), 0.5 / len(negatives))
    weights = torch.zeros(features.shape[1] + 1, dtype=torch.float64, device=features.device, requires_grad=True)
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
    normal = weights.detach()[:-1] / scale
    norm = normal.norm()
    if not norm > 1e-12:
        raise ValueError("`positives` and `negatives` must differ: no direction leads from one to the other.")
    return (normal / norm).float().view(positives.shape[1:])


def orthogonalize(direction: torch.Tensor, others: Sequence[torch.Tensor]) -> torch.Tensor:
    """Return the part of `direction` that is orthogonal to all of `others`.

    Args:
        direction: Any shape.
        others: Directions of the same shape, which need not be orthogonal to one another.

    Raises:
        ValueError: If shapes differ, or nothing is left.
    """
    if not others:
        return direction
    if any(other.shape != direction.shape for other in others):
        raise ValueError(f"`others` must all have the shape {tuple(direction.shape)}.")
    span = torch.stack([other.flatten() for other in others], dim=1).to(direction.device, torch.float64)
    basis, singular, _ = torch.linalg.svd(span, full_matrices=False)
    basis = basis[:, singular > 1e-8 * singular.max().clamp(min=1e-300)]
    flat = direction.flatten().double()
    rest = flat - basis @ (basis.T @ flat)
    if not rest.norm() > 1e-6 * flat.norm():
        raise ValueError("`others` must leave something of the direction, which lies in their span.")
    return rest.to(direction.dtype).view_as(direction)
