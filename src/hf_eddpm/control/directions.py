"""Directions in the latents: of attributes, and without labels where the data vary or the decoder is sensitive."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch

from ..argument_checks import check_count
from ..argument_types import FloatTensor, PositiveNumber, checked
from ..extras import needs_extra
from ..modeling_eddpm import EDDPMModel
from .attributes import fit_attribute


@checked
def linear_direction(
    positives: FloatTensor, negatives: FloatTensor, weight_decay: PositiveNumber = 0.01
) -> torch.Tensor:
    r"""Return the unit normal of a logistic regression between two sets of latents, towards `positives`.

    Unlike the difference of the means it leaves out what only goes along with the attribute, as far as a linear
    classifier needs it not; see `fit_attribute`.

    Args:
        positives: `(count, ...)`, at least one.
        negatives: `(count, ...)`, at least one.
        weight_decay: Positive factor of half the squared norm of the standardised weights.

    Returns:
        float32, shaped as one datum's latents, of norm 1.

    Raises:
        ValueError: If a set is empty, shapes differ, values are not finite or the two sets are the same.
    """
    weights = fit_attribute(positives, negatives, weight_decay).weights
    return weights / weights.norm()


@checked
def orthogonalize(direction: FloatTensor, others: Sequence[FloatTensor]) -> torch.Tensor:
    """Return the part of `direction` that is orthogonal to all of `others`.

    Args:
        direction: Any shape.
        others: Directions of the same shape, which need not be orthogonal to one another.

    Raises:
        ValueError: If shapes differ, or nothing is left.
    """
    if not others:
        return direction
    for name, given in (("direction", [direction]), ("others", others)):
        if not all(bool(each.isfinite().all()) for each in given):
            raise ValueError(f"`{name}` must be finite, got NaN or infinity.")
    if wrong := [tuple(other.shape) for other in others if other.shape != direction.shape]:
        raise ValueError(f"`others` must all have the shape of `direction`, {tuple(direction.shape)}, got {wrong[0]}.")
    span = torch.stack([other.flatten() for other in others], dim=1).cpu().double()
    basis, singular, _ = torch.linalg.svd(span, full_matrices=False)
    basis = basis[:, singular > 1e-8 * singular.max().clamp(min=1e-300)]
    flat = direction.flatten().cpu().double()
    rest = flat - basis @ (basis.T @ flat)
    if not rest.norm() > 1e-6 * flat.norm():
        raise ValueError("`others` must leave something of the direction, which lies in their span.")
    return rest.to(direction.dtype).view_as(direction).to(direction.device)


def principal_directions(
    latents: torch.Tensor, num_directions: int, sensitivity: torch.Tensor | None = None
) -> torch.Tensor:
    """Return the directions in which latents vary most, or which a matrix over them singles out.

    Args:
        latents: `(data, num_latents, latent_dim)`, at least two data.
        num_directions: How many, in [1, num_latents * latent_dim].
        sensitivity: Symmetric matrix `(latent_size, latent_size)` whose leading eigenvectors are wanted rather
            than the covariance's, for example `fisher_information`.

    Returns:
        float32 `(num_directions, num_latents, latent_dim)`, orthogonal, most important first, each as long as the
        standard deviation of the latents along it.

    Raises:
        ValueError: If there are too many directions or too few data.
    """
    check_count(num_directions, "num_directions")
    size = latents[0].numel()
    if num_directions > size:
        raise ValueError(f"`num_directions` must be at most {size}, the size of the latents, got {num_directions}.")
    if len(latents) < 2:
        raise ValueError("`data` must hold at least two data.")
    embeddings = latents.flatten(1).cpu().double()  # (data, latent_size)
    centred = embeddings - embeddings.mean(0)
    covariance = centred.T @ centred / (len(latents) - 1)
    matrix = covariance if sensitivity is None else sensitivity
    vectors = torch.linalg.eigh(matrix).eigenvectors.flip(1).T[:num_directions]  # largest eigenvalue first
    vectors = _with_signs(vectors)
    deviations = ((vectors @ covariance) * vectors).sum(1).clamp(min=0).sqrt()
    directions = vectors * deviations[:, None]
    return directions.float().view(num_directions, *latents.shape[1:]).to(latents.device)


def _with_signs(vectors: torch.Tensor) -> torch.Tensor:
    """Return vectors `(num, size)`, whose signs are arbitrary, with each one's largest entry positive."""
    return vectors * vectors.gather(1, vectors.abs().argmax(1, keepdim=True)).sign()


def independent_directions(latents: torch.Tensor, num_directions: int) -> torch.Tensor:
    """Return the directions along which latents vary independently of one another (FastICA, Hyvarinen 1999).

    A step along one changes its component by one standard deviation and no other component. They need not be
    orthogonal.

    Args:
        latents: `(data, num_latents, latent_dim)`, at least two data; many are needed to tell directions apart.
        num_directions: How many, less than there are data and at most num_latents * latent_dim.

    Returns:
        float32 `(num_directions, num_latents, latent_dim)`, by their variance, the largest first.

    Raises:
        ImportError: If scikit-learn is not installed.
        ValueError: If there are too many directions or too few data.
    """
    check_count(num_directions, "num_directions")
    most = min(latents[0].numel(), len(latents) - 1)
    if num_directions > most:
        raise ValueError(
            f"`num_directions` must be at most {most} of {len(latents)} data with latents of {latents[0].numel()} "
            f"numbers, got {num_directions}."
        )
    with needs_extra("ICA"):
        from sklearn.decomposition import FastICA
    flat = latents.flatten(1).cpu().double().numpy()
    mixing = FastICA(most, whiten="unit-variance", random_state=0, max_iter=1000).fit(flat).mixing_  # (size, most)
    directions = torch.from_numpy(mixing.T.copy())
    order = directions.norm(dim=1).argsort(descending=True)[:num_directions]
    return _with_signs(directions[order]).float().view(num_directions, *latents.shape[1:]).to(latents.device)


def fisher_information(model: EDDPMModel, batches: Iterable[dict[str, Any]]) -> torch.Tensor:
    """Return the mean outer product of the gradients of each datum's log-likelihood by its latents.

    At the data it stands for J^T J of the decoder's Jacobian J, in the metric of its likelihood (the empirical Fisher
    information; Arvanitidis et al. 2022, arXiv 2106.05367, for the pull-back by that metric).

    Args:
        model: The model.
        batches: Inputs as for its `forward`.

    Returns:
        float64 `(latent_size, latent_size)`.
    """
    total, count = torch.zeros(model.config.latent_size, model.config.latent_size, dtype=torch.float64), 0
    for batch in batches:
        inputs = {name: batch[name] for name in model.encoder.input_names if name in batch}
        targets: dict[str, Any] = {name: batch[name] for name in model.decoder.target_names}
        with torch.enable_grad():
            latents = model.encode(**inputs).mean.detach().requires_grad_()
            nats, _ = model.decoder(latents, **targets)
            slopes = torch.autograd.grad(nats.sum(), latents)[0].flatten(1).cpu().double()
        total += slopes.T @ slopes
        count += len(slopes)
    return total / count
