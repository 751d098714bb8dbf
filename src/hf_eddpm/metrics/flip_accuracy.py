"""How many edits reach the class they were meant to reach, by an independent classifier, and what they keep."""

from collections.abc import Sequence
from typing import Any

import datasets
import evaluate


def flip_accuracy(classes: Sequence[int], targets: Sequence[int]) -> float:
    """The share of edited data that a classifier puts into the target class, in [0, 1].

    Args:
        classes: The classifier's answers for the edited data.
        targets: The classes that were meant.

    Raises:
        ValueError: If the lists are empty or differ in length.
    """
    if not len(classes) or len(classes) != len(targets):
        raise ValueError(
            f"Two lists of the same length, not empty, are needed; got {len(classes)} and {len(targets)}."
        )
    return sum(a == b for a, b in zip(classes, targets, strict=True)) / len(classes)


class FlipAccuracy(evaluate.Metric):
    """Classes of edited data and targets, perhaps `before=` classes -> `flip_accuracy`, `flip_accuracy_before`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__,
            citation="Shen et al. 2017, Style transfer from non-parallel text by cross-alignment",
            inputs_description="predictions: classes of edited data; references: targets; before: classes unedited",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions: Any, references: Any, before: Any = None) -> dict[str, float]:
        values = {"flip_accuracy": flip_accuracy(predictions, references)}
        return values if before is None else {**values, "flip_accuracy_before": flip_accuracy(before, references)}
