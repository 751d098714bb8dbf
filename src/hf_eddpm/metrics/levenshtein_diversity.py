"""How far samples are from one another, in edits."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np
from rapidfuzz.distance import Levenshtein


def mean_pairwise_levenshtein(sequences: Sequence[str], num_pairs: int = 20_000, seed: int = 0) -> float | None:
    """Mean edit distance (Levenshtein, 1966) between two different rows, in residues.

    Args:
        sequences: At least two, or there is no pair and the result is `None`.
        num_pairs: Pairs drawn at random with replacement; all pairs are taken where there are no more than that.
        seed: The same seed gives the same pairs.
    """
    num = len(sequences)
    if num < 2:
        return None
    if num * (num - 1) // 2 <= num_pairs:
        firsts, seconds = (rows.tolist() for rows in np.triu_indices(num, k=1))
    else:
        rng = np.random.default_rng(seed)
        drawn = rng.integers(0, num, num_pairs)
        firsts, seconds = drawn.tolist(), ((drawn + rng.integers(1, num, num_pairs)) % num).tolist()
    distances = [Levenshtein.distance(sequences[i], sequences[j]) for i, j in zip(firsts, seconds, strict=True)]
    return float(np.mean(distances))


class LevenshteinDiversity(evaluate.Metric):
    """Sequences -> `levenshtein_diversity`, the mean edit distance of two of them, in letters."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__,
            citation="Levenshtein 1966, Binary codes capable of correcting deletions, insertions and reversals",
            inputs_description="predictions: sequences; num_pairs, seed: of the pairs drawn where there are many",
            features=datasets.Features({"predictions": datasets.Value("string")}),
        )

    def _compute(self, predictions: Any, num_pairs: int = 20_000, seed: int = 0) -> dict[str, float | None]:
        return {"levenshtein_diversity": mean_pairwise_levenshtein(predictions, num_pairs, seed)}
