"""What the latents carry, and whether the chain reaches them: functions of tensors alone.

Statistics of single dimensions cannot see that dimensions copy each other: latents on a line, each dimension with unit
variance, have all of them active. The eigenvalues of the covariance see it.
"""

import torch
from transformers.utils import logging

logger = logging.get_logger(__name__)

_LOW_RANK = 0.25  # an effective rank below this share of the width deserves a warning
_PAIRS = 2**24  # distances held in memory at once


def covariance_eigenvalues(means: torch.Tensor) -> torch.Tensor:
    """Return the eigenvalues of the covariance of posterior means, float64 `(size,)`, the largest first.

    Args:
        means: Posterior means `(num, ...)`, at least two; everything after the first dimension is one vector of `size`
            numbers.

    Raises:
        ValueError: If there are fewer than two, or they are not finite.
    """
    vectors = _vectors(means, "means")
    centred = vectors - vectors.mean(0)
    return moment_eigenvalues(len(vectors), centred.sum(0), centred.T @ centred)


def moment_eigenvalues(count: float, total: torch.Tensor, products: torch.Tensor) -> torch.Tensor:
    """Return what `covariance_eigenvalues` does, from sums over the data.

    Args:
        count: Data, at least two.
        total: Sum of the vectors, `(size,)`.
        products: Sum of the products of their numbers, `(size, size)`.

    Raises:
        ValueError: If there are fewer than two data.
    """
    if count < 2:
        raise ValueError(f"`count` must be at least 2: one datum has no covariance, got {count:g}.")
    mean, products = total.cpu().double() / count, products.cpu().double() / count
    eigenvalues = torch.linalg.eigvalsh(products - mean.outer(mean)).flip(0)
    rounding = 16 * torch.finfo(torch.float64).eps * products.trace()
    return eigenvalues.where(eigenvalues > rounding, torch.zeros_like(eigenvalues))


def effective_rank(eigenvalues: torch.Tensor) -> float:
    """Return the exponential of the entropy of the normalised eigenvalues (Roy & Vetterli 2007, "The effective rank").

    Args:
        eigenvalues: Of a covariance, `(size,)`, non-negative.

    Returns:
        From 1 (all vectors on a line) to `size` (all directions vary alike); 0 if nothing varies. With `num` vectors
        at most `num - 1`.

    Raises:
        ValueError: If an eigenvalue is negative or not finite.
    """
    shares = _shares(eigenvalues)
    return 0.0 if shares is None else float(torch.special.entr(shares).sum().exp())


def largest_share(eigenvalues: torch.Tensor) -> float:
    """Return the largest eigenvalue's share of their sum: from 1 / `size` to 1; 0 if nothing varies.

    Args:
        eigenvalues: As for `effective_rank`.

    Raises:
        ValueError: As for `effective_rank`.
    """
    shares = _shares(eigenvalues)
    return 0.0 if shares is None else float(shares.max())


def gaussian_rate(eigenvalues: torch.Tensor, noise_variance: float) -> float:
    """Return what latents tell of the datum, in nats, were the means Gaussian: sum of 1/2 log(1 + eigenvalue / noise).

    The capacity of parallel Gaussian channels (Cover & Thomas, "Elements of Information Theory", section 9.4). Means
    of any distribution with this covariance carry at most as much.

    Args:
        eigenvalues: As for `effective_rank`, in squared units of the latents.
        noise_variance: The encoder's, positive, in the same unit.

    Raises:
        ValueError: If `noise_variance` is not positive, or as for `effective_rank`.
    """
    if not noise_variance > 0:
        raise ValueError(f"`noise_variance` must be positive, got {noise_variance!r}.")
    return 0.5 * float(torch.log1p(_checked(eigenvalues) / noise_variance).sum())


def spectrum_statistics(eigenvalues: torch.Tensor, noise_variance: float) -> dict[str, float]:
    """Return `effective_rank`, `largest_share` (both without unit) and `rate` (nats) by these names.

    Args:
        eigenvalues: As for `effective_rank`.
        noise_variance: As for `gaussian_rate`.

    Raises:
        ValueError: As for `gaussian_rate`.
    """
    return {
        "effective_rank": effective_rank(eigenvalues),
        "largest_share": largest_share(eigenvalues),
        "rate": gaussian_rate(eigenvalues, noise_variance),
    }


def warn_of_low_rank(rank: float, size: int, num_data: int) -> bool:
    """Warn, with what to change, if the effective rank is below a quarter of the width.

    Args:
        rank: The effective rank.
        size: The latents' width, `num_latents * latent_dim`.
        num_data: Data that the rank was taken from. Of fewer than twice the width nothing is said: few data span few
            directions whatever the encoder.

    Returns:
        Whether there was a warning.
    """
    low = num_data >= 2 * size and rank < _LOW_RANK * size
    if low:
        logger.warning(
            f"The latents' effective rank is {rank:.1f} of {size}: their dimensions copy each other, which their "
            "standard deviations do not show. Lower `encoder_gradient_scale` (0 keeps the most), train longer, or "
            "take a smaller `latent_dim`."
        )
    return low


def nearest_distances(vectors: torch.Tensor, reference: torch.Tensor) -> torch.Tensor:
    """Return each vector's Euclidean distance to the nearest reference, float64 `(num,)`.

    Args:
        vectors: `(num, ...)`.
        reference: `(num_reference, ...)`, none of them among `vectors`.

    Raises:
        ValueError: If there are none of either, they are not finite, or their sizes differ.
    """
    a, b = _vectors(vectors, "vectors", 1), _vectors(reference, "reference", 1)
    if a.shape[1] != b.shape[1]:
        raise ValueError(f"`vectors` and `reference` must be of equal size, got {a.shape[1]} and {b.shape[1]}.")
    rows = max(1, _PAIRS // len(b))
    exact = "donot_use_mm_for_euclid_dist"  # the other way loses the digits of small distances
    return torch.cat([torch.cdist(part, b, compute_mode=exact).amin(1) for part in a.split(rows)])


def nearest_neighbor_ratio(sampled: torch.Tensor, unseen: torch.Tensor, real: torch.Tensor) -> float:
    """Return how much farther from real latents sampled ones lie than unseen real ones do.

    It is the mean distance of `sampled` to the nearest of `real` over that of `unseen`: 1 where the chain's latents
    are like new data, more where they lie beside the data, less where they repeat it. Unlike the Frechet distance it
    sees more than two moments.

    Args:
        sampled: Latents from the chain, `(num_sampled, ...)`.
        unseen: Posterior means of held-out data, `(num_unseen, ...)`.
        real: Posterior means of other data, `(num_real, ...)`.

    Raises:
        ValueError: As for `nearest_distances`, or if all `unseen` are among `real`.
    """
    apart = float(nearest_distances(unseen, real).mean())
    if apart == 0:
        raise ValueError("`unseen` must hold data that are not among `real`: all have distance 0.")
    return float(nearest_distances(sampled, real).mean()) / apart


def frechet_beside_real(sampled: torch.Tensor, real: torch.Tensor, other_real: torch.Tensor) -> tuple[float, float]:
    """Return the squared Frechet distance of sampled latents from real ones, and that between two halves of real ones.

    The second is the floor of the first: the distance falls with the number of vectors even where both come from one
    distribution, so all three sets must be equally large.

    Args:
        sampled: Latents from the chain, `(num, ...)`, at least two.
        real: Posterior means, `(num, ...)`.
        other_real: Posterior means of other data, `(num, ...)`.

    Raises:
        ValueError: If the sets are not equally large, or the vectors not finite.
    """
    from .metrics.frechet_distance import frechet_distance

    sets = {"sampled": sampled, "real": real, "other_real": other_real}
    arrays = [_vectors(values, name).cpu().numpy() for name, values in sets.items()]
    if len({array.shape for array in arrays}) > 1:
        raise ValueError(f"`sampled`, `real` and `other_real` must have one shape, got {[a.shape for a in arrays]}.")
    return frechet_distance(arrays[0], arrays[1]), frechet_distance(arrays[2], arrays[1])


def _vectors(values: torch.Tensor, name: str, least: int = 2) -> torch.Tensor:
    """Return `values` as float64 `(num, size)`, checked."""
    if len(values) < least:
        raise ValueError(f"`{name}` must hold at least {least}, got {len(values)}.")
    vectors = values.detach().flatten(1).cpu().double()
    if not bool(torch.isfinite(vectors).all()):
        raise ValueError(f"`{name}` must be finite, got NaN or infinity.")
    return vectors


def _checked(eigenvalues: torch.Tensor) -> torch.Tensor:
    values = eigenvalues.cpu().double()
    if not bool(torch.isfinite(values).all()) or bool((values < 0).any()):
        raise ValueError(f"`eigenvalues` must be finite and non-negative, got {eigenvalues}.")
    return values


def _shares(eigenvalues: torch.Tensor) -> torch.Tensor | None:
    values = _checked(eigenvalues)
    total = values.sum()
    return None if total == 0 else values / total
