"""How well single latents stand for single factors of the data: DCI, MIG and SAP."""

from typing import Any

import datasets
import evaluate
import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import mutual_info_score


def mutual_information_gap(latents: NDArray[np.floating], factors: NDArray[np.integer], num_bins: int = 20) -> float:
    """MIG (Chen et al. 2018, arXiv 1802.04942, equation 6), by histograms of the latents.

    For each factor the gap between the largest and the second largest mutual information with a latent, over the
    factor's entropy; mean over the factors.

    Args:
        latents: (num, dim), at least two dimensions.
        factors: Class of each factor, (num, num_factors).
        num_bins: Bins of equal width of a latent.

    Returns:
        In [0, 1]; 1 if each factor is in one latent, and in no other.
    """
    latents, factors = _check(latents, factors)
    binned = [np.digitize(column, np.histogram(column, num_bins)[1][1:-1]) for column in latents.T]
    gaps = []
    for factor in factors.T:
        information = sorted(mutual_info_score(factor, column) for column in binned)
        gaps.append((information[-1] - information[-2]) / mutual_info_score(factor, factor))
    return float(np.mean(gaps))


def separated_attribute_predictability(
    latents: NDArray[np.floating], factors: NDArray[np.integer], test_share: float = 0.25, seed: int = 0
) -> float:
    """SAP (Kumar et al. 2018, arXiv 1711.00848, section 3), by a linear classifier on each latent alone.

    For each factor the gap between the best and the second best latent's held-out accuracy; mean over the factors.

    Args:
        latents: (num, dim), at least two dimensions.
        factors: Class of each factor, (num, num_factors).
        test_share: Share of the data that accuracy is measured on.
        seed: Of the split.

    Returns:
        In [0, 1]: at most 1 less the accuracy of guessing, if each factor is in one latent, and in no other.
    """
    latents, factors = _check(latents, factors)
    train, test = _split(len(latents), test_share, seed)
    latents = (latents - latents[train].mean(0)) / np.maximum(latents[train].std(0), 1e-12)
    gaps = []
    for factor in factors.T:
        accuracies = sorted(
            LogisticRegression().fit(column[train], factor[train]).score(column[test], factor[test])
            for column in np.split(latents, latents.shape[1], axis=1)
        )
        gaps.append(accuracies[-1] - accuracies[-2])
    return float(np.mean(gaps))


def dci(
    latents: NDArray[np.floating], factors: NDArray[np.integer], test_share: float = 0.25, seed: int = 0
) -> dict[str, float]:
    """Disentanglement, completeness, informativeness (Eastwood & Williams 2018), by gradient-boosted trees.

    Args:
        latents: (num, dim), at least two dimensions.
        factors: Class of each factor, (num, num_factors), at least two factors.
        test_share: Share of the data that accuracy is measured on.
        seed: Of the split and of the trees.

    Returns:
        `disentanglement` (each latent stands for one factor), `completeness` (each factor is in one latent), both from
        the trees' importances and in [0, 1], and `informativeness`, the trees' held-out accuracy.
    """
    latents, factors = _check(latents, factors)
    if factors.shape[1] < 2:
        raise ValueError(f"`factors` must be at least two, got {factors.shape[1]}.")
    train, test = _split(len(latents), test_share, seed)
    importances, accuracies = [], []
    for factor in factors.T:
        trees = GradientBoostingClassifier(n_estimators=20, random_state=seed).fit(latents[train], factor[train])
        importances.append(trees.feature_importances_)
        accuracies.append(trees.score(latents[test], factor[test]))
    relevance = np.array(importances).T + 1e-12  # (dim, num_factors)
    by_latent, by_factor = _certainty(relevance), _certainty(relevance.T)
    return {
        "disentanglement": float(np.average(by_latent, weights=relevance.sum(1))),
        "completeness": float(np.average(by_factor, weights=relevance.sum(0))),
        "informativeness": float(np.mean(accuracies)),
    }


def disentanglement(
    latents: NDArray[np.floating], factors: NDArray[np.integer], num_bins: int = 20, seed: int = 0
) -> dict[str, float]:
    """`mig`, `sap` and what `dci` gives, of the same latents and factors."""
    return {
        "mig": mutual_information_gap(latents, factors, num_bins),
        "sap": separated_attribute_predictability(latents, factors, seed=seed),
        **dci(latents, factors, seed=seed),
    }


def _split(count: int, test_share: float, seed: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    order = np.random.default_rng(seed).permutation(count)
    split = count - max(1, round(test_share * count))
    return order[:split], order[split:]


def _certainty(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """1 minus the entropy of each row's shares, in units of its largest possible value."""
    shares = weights / weights.sum(1, keepdims=True)
    return 1 + (shares * np.log(shares)).sum(1) / np.log(weights.shape[1])


def _check(latents: Any, factors: Any) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    latents, factors = np.asarray(latents, dtype=np.float64), np.asarray(factors)
    if latents.ndim != 2 or factors.ndim != 2 or len(latents) != len(factors) or latents.shape[1] < 2:
        raise ValueError(
            f"`latents` (num, at least 2) and `factors` (num, num_factors) are needed, got {latents.shape} and "
            f"{factors.shape}."
        )
    if any(len(np.unique(factor)) < 2 for factor in factors.T):
        raise ValueError("`factors` must each have at least two different values.")
    return latents, factors


class Disentanglement(evaluate.Metric):
    """Latents and factors of the same data -> `mig`, `sap`, `disentanglement`, `completeness`, `informativeness`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__,
            citation="Chen et al. 2018 (arXiv 1802.04942); Kumar et al. 2018 (arXiv 1711.00848); Eastwood & Williams "
            "2018, A framework for the quantitative evaluation of disentangled representations",
            inputs_description="predictions: latents (num, dim); references: factors' classes (num, num_factors)",
            features=datasets.Features(
                {
                    "predictions": datasets.Sequence(datasets.Value("float64")),
                    "references": datasets.Sequence(datasets.Value("int64")),
                }
            ),
        )

    def _compute(self, predictions: Any, references: Any, num_bins: int = 20, seed: int = 0) -> dict[str, float]:
        return disentanglement(np.asarray(predictions), np.asarray(references), num_bins, seed)
