"""MAUVE on given features: how much of two distributions lies where the other one does."""

from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray
from sklearn.cluster import KMeans
from sklearn.decomposition import PCA
from sklearn.preprocessing import normalize


def mauve(
    features: NDArray[np.floating],
    reference: NDArray[np.floating],
    num_clusters: int | None = None,
    scaling: float = 5.0,
    seed: int = 0,
) -> float:
    """MAUVE (Pillutla et al. 2021, arXiv 2102.01454) of features that the caller made, for example embeddings.

    Features are normalised, reduced to the principal components with 90 % of the variance and clustered, all together,
    as in the authors' code; the clustering is scikit-learn's.

    Args:
        features: (num_a, dim), of generated data.
        reference: (num_b, dim), of real data.
        num_clusters: Clusters, at least 2; by default a tenth of the smaller set, rounded.
        scaling: Factor of the divergences in the curve.
        seed: Of the clustering.

    Returns:
        In (0, 1]; 1 for equal distributions. It depends on the sets' sizes, so compare equal ones.

    Raises:
        ValueError: If the shapes do not fit, or there are fewer than two data.
    """
    a, b = np.asarray(features, dtype=np.float64), np.asarray(reference, dtype=np.float64)
    if a.ndim != 2 or b.ndim != 2 or a.shape[1] != b.shape[1] or min(len(a), len(b)) < 2:
        raise ValueError(f"Two arrays of shape (at least 2, dim) are needed, got {a.shape} and {b.shape}.")
    if num_clusters is None:
        num_clusters = max(2, round(min(len(a), len(b)) / 10))
    if not 2 <= num_clusters <= len(a) + len(b):
        raise ValueError(f"`num_clusters` must be in [2, {len(a) + len(b)}], got {num_clusters}.")
    both = normalize(np.concatenate([a, b]))
    components = PCA(random_state=seed).fit(both)
    kept = int(np.searchsorted(np.cumsum(components.explained_variance_ratio_), 0.9)) + 1
    clusters = KMeans(num_clusters, n_init=5, random_state=seed).fit_predict(components.transform(both)[:, :kept])
    p, q = (np.bincount(rows, minlength=num_clusters) for rows in (clusters[: len(a)], clusters[len(a) :]))
    return mauve_of_histograms(p, q, scaling)


def mauve_of_histograms(p: NDArray[Any], q: NDArray[Any], scaling: float = 5.0, num_mixtures: int = 25) -> float:
    """The area under the divergence curve exp(-scaling * (KL(q || r), KL(p || r))) of mixtures r (equation 2 there).

    Args:
        p: Counts, (clusters,).
        q: Counts of the other sample.
        scaling: See above.
        num_mixtures: Points of the curve between its ends.
    """
    p, q = p / p.sum(), q / q.sum()
    points = [(0.0, 1.0), (1.0, 0.0)]
    for weight in np.linspace(1e-6, 1 - 1e-6, num_mixtures):
        mixture = weight * p + (1 - weight) * q
        points.append((float(np.exp(-scaling * _kl(q, mixture))), float(np.exp(-scaling * _kl(p, mixture)))))
    curve = np.array(points)
    areas = [_area(curve[np.argsort(curve[:, axis], kind="stable")][:, [axis, 1 - axis]]) for axis in (0, 1)]
    return float(np.mean(areas))


def _kl(p: NDArray[np.float64], q: NDArray[np.float64]) -> float:
    known = p > 0
    return float(np.sum(p[known] * np.log(p[known] / q[known])))


def _area(curve: NDArray[np.float64]) -> float:
    """By the trapezoidal rule."""
    return float(np.sum(np.diff(curve[:, 0]) * (curve[1:, 1] + curve[:-1, 1]) / 2))


class Mauve(evaluate.Metric):
    """Features and `reference=` features, any number -> `mauve` in (0, 1]."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__,
            citation="Pillutla et al. 2021, MAUVE (arXiv 2102.01454)",
            inputs_description="predictions: features (num_a, dim); reference: features (num_b, dim)",
            features=datasets.Features({"predictions": datasets.Sequence(datasets.Value("float64"))}),
        )

    def _compute(
        self,
        predictions: Any,
        reference: Any,
        num_clusters: int | None = None,
        scaling: float = 5.0,
        seed: int = 0,
    ) -> dict[str, float]:
        return {"mauve": mauve(np.asarray(predictions), np.asarray(reference), num_clusters, scaling, seed)}
