"""The Frechet distance between two sets of vectors: latents, or features of data."""

from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray


def frechet_distance(vectors: NDArray[np.floating], reference: NDArray[np.floating]) -> float:
    """Squared Frechet distance between the Gaussians fitted to two sets of vectors.

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))   (Dowson and Landau, 1982)

    Args:
        vectors: (num_a, dim), at least two.
        reference: (num_b, dim), at least two; the order of the two sets makes no difference.

    Returns:
        A number from 0 in the vectors' squared unit. It falls with the size of the sets even where both come from one
        distribution, so compare equal sizes.
    """
    a, b = np.asarray(vectors, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"Two arrays of shape (at least 2, dim) are needed, got {a.shape} and {b.shape}.")
    cov_a, cov_b = (np.atleast_2d(np.cov(x, rowvar=False)) for x in (a, b))
    # tr((C_a C_b)^(1/2)) by the symmetric C_b^(1/2) C_a C_b^(1/2), which has the same eigenvalues
    values, directions = np.linalg.eigh(cov_b)
    root = (directions * np.sqrt(np.clip(values, 0, None))) @ directions.T
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ cov_a @ root), 0, None)).sum()
    squared_means = float(np.sum((a.mean(0) - b.mean(0)) ** 2))
    return max(0.0, squared_means + float(np.trace(cov_a) + np.trace(cov_b)) - 2 * float(cross))


def relative_frechet_distance(vectors: NDArray[np.floating], reference: NDArray[np.floating]) -> float:
    """The squared Frechet distance over the reference's total variance tr(C_b).

    Args:
        vectors: (num_a, dim), for example generated latents.
        reference: (num_b, dim), for example the latents of held-out data; its total variance must not be zero.

    Returns:
        A number from 0 that does not depend on the vectors' scale. Vectors all at the reference's mean have 1.
    """
    distance = frechet_distance(vectors, reference)
    variance = float(np.var(reference, axis=0, ddof=1, dtype=np.float64).sum())
    if not variance > 0:
        raise ValueError("`reference` has no variance, so no distance relative to it exists.")
    return distance / variance


class FrechetDistance(evaluate.Metric):
    """Vectors and `reference=` vectors, any number -> `frechet_distance` and `relative_frechet_distance`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__,
            citation="Dowson and Landau 1982, The Frechet distance between multivariate normal distributions",
            inputs_description="predictions: vectors (num_a, dim); reference: vectors (num_b, dim)",
            features=datasets.Features({"predictions": datasets.Sequence(datasets.Value("float64"))}),
        )

    def _compute(self, predictions: Any, reference: Any) -> dict[str, float]:
        vectors, other = (np.asarray(each, dtype=np.float64) for each in (predictions, reference))
        return {
            "frechet_distance": frechet_distance(vectors, other),
            "relative_frechet_distance": relative_frechet_distance(vectors, other),
        }
