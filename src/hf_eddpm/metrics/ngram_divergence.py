"""The divergence between the n-gram frequencies of two texts, or k-mer frequencies of two sets of sequences."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import numpy as np

START, END = "<s>", "</s>"


def ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    """All runs of `n` words, in order; `n` at least 1."""
    if n < 1:
        raise ValueError(f"`n` must be at least 1, got {n}.")
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def ngram_divergence(sentences: Sequence[str], reference: Sequence[str], n: int) -> float:
    """Jensen-Shannon divergence (Lin, 1991) between the n-gram frequencies of two texts.

    Every sentence gets `n - 1` start marks and one end mark, so that how sentences begin and end counts, and a text of
    very short sentences still has n-grams.

    Args:
        sentences: One text.
        reference: The other; the order makes no difference.
        n: Length of the n-grams, at least 1.

    Returns:
        The divergence in bits (base 2), in [0, 1]: 0 for equal frequencies, 1 for no n-gram in common.
    """
    counts_a, counts_b = _ngram_counts(sentences, n), _ngram_counts(reference, n)
    grams = list(counts_a | counts_b)
    p, q = (np.array([counts[gram] for gram in grams], dtype=np.float64) for counts in (counts_a, counts_b))
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2
    parts = (np.sum(x[x > 0] * np.log2(x[x > 0] / middle[x > 0])) for x in (p, q))
    return float(np.clip(sum(parts) / 2, 0.0, 1.0))  # rounding may leave the interval by 1e-16


def _ngram_counts(sentences: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    if isinstance(sentences, str) or not len(sentences):
        raise ValueError("`sentences` must be a list with at least one sentence.")
    start = (START,) * (n - 1)
    return Counter(gram for sentence in sentences for gram in ngrams((*start, *sentence.split(), END), n))


class NgramDivergence(evaluate.Metric):
    """Sentences and `reference=` sentences, any number -> `ngram_divergence` in bits, in [0, 1].

    With `unit="character"` for sequences without spaces, whose k-mers are compared.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__,
            citation="Lin 1991, Divergence measures based on the Shannon entropy",
            inputs_description="predictions: sentences; reference: sentences; n: length; unit: 'word' or 'character'",
            features=datasets.Features({"predictions": datasets.Value("string")}),
        )

    def _compute(self, predictions: Any, reference: Any, n: int = 2, unit: str = "word") -> dict[str, float]:
        if unit not in ("word", "character"):
            raise ValueError(f"`unit` must be 'word' or 'character', got {unit!r}.")
        if unit == "character":
            predictions, reference = ([" ".join(each) for each in text] for text in (predictions, reference))
        return {"ngram_divergence": ngram_divergence(predictions, reference, n)}
