"""Reconstruction BLEU: how many of the words of what was encoded come back, and in their order."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate
import sacrebleu


def corpus_bleu(hypotheses: Sequence[str], references: Sequence[str], tokenize: str = "none") -> float:
    """Corpus BLEU-4 (Papineni et al., 2002) by sacrebleu, one reference per hypothesis.

    Args:
        hypotheses: What the model wrote.
        references: What it should have written, or for an edit the original, whose content should survive.
        tokenize: A sacrebleu tokenizer; "none" keeps the words as they are.

    Returns:
        BLEU in [0, 100].

    Raises:
        ValueError: If the lists are empty or differ in length.
    """
    _check_pairs(hypotheses, references)
    # force: sacrebleu warns about text that is tokenised already, as ours is
    return sacrebleu.corpus_bleu(list(hypotheses), [list(references)], tokenize=tokenize, force=True).score


def exact_match(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """The share of hypotheses whose words all equal their reference's, in [0, 1]."""
    _check_pairs(hypotheses, references)
    return sum(a.split() == b.split() for a, b in zip(hypotheses, references, strict=True)) / len(hypotheses)


def _check_pairs(first: Sequence[str], second: Sequence[str]) -> None:
    if not len(first) or len(first) != len(second):
        raise ValueError(f"Two lists of the same length, not empty, are needed; got {len(first)} and {len(second)}.")


class ReconstructionBleu(evaluate.Metric):
    """Strings and their reconstructions -> `bleu` in [0, 100] and `exact_match` in [0, 1]."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__,
            citation="Papineni et al. 2002, BLEU: a method for automatic evaluation of machine translation",
            inputs_description="predictions: reconstructions; references: what was encoded; tokenize: of sacrebleu",
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
        )

    def _compute(self, predictions: Any, references: Any, tokenize: str = "none") -> dict[str, float]:
        return {
            "bleu": corpus_bleu(predictions, references, tokenize),
            "exact_match": exact_match(predictions, references),
        }
