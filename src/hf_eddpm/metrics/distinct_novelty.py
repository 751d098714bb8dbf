"""How varied samples are, and how many of them are not copies of the training data."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate

from hf_eddpm.metrics.ngram_divergence import ngrams


def distinct_n(sentences: Sequence[str], n: int) -> float:
    """The number of different n-grams over the number of n-grams (Li et al., 2016), in [0, 1].

    It falls with the length of the text, so compare equal numbers of sentences. A text without n-grams has 0.
    """
    grams = [gram for sentence in sentences for gram in ngrams(sentence.split(), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def uniqueness(sentences: Sequence[str]) -> float:
    """The number of different sentences over the number of sentences, in (0, 1]."""
    _check_sentences(sentences)
    return len({tuple(sentence.split()) for sentence in sentences}) / len(sentences)


def novelty(sentences: Sequence[str], train: Sequence[str]) -> float:
    """The share of sentences that do not occur word for word in `train`, in [0, 1]."""
    _check_sentences(sentences)
    known = {tuple(sentence.split()) for sentence in train}
    return sum(tuple(sentence.split()) not in known for sentence in sentences) / len(sentences)


def _check_sentences(sentences: Sequence[str]) -> None:
    if isinstance(sentences, str) or not len(sentences):
        raise ValueError("`sentences` must be a list with at least one sentence.")


class DistinctNovelty(evaluate.Metric):
    """Samples, and perhaps `reference=` training data -> `distinct_1`, `distinct_2`, `uniqueness`, `novelty`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__,
            citation="Li et al. 2016, A diversity-promoting objective function for neural conversation models",
            inputs_description="predictions: samples; reference: training data, any number",
            features=datasets.Features({"predictions": datasets.Value("string")}),
        )

    def _compute(self, predictions: Any, reference: Any = None) -> dict[str, float]:
        values = {f"distinct_{n}": distinct_n(predictions, n) for n in (1, 2)}
        values["uniqueness"] = uniqueness(predictions)
        return values if reference is None else {**values, "novelty": novelty(predictions, reference)}
