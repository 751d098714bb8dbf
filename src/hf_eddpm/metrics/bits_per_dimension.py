"""Bits per dimension (per token, site or pixel) from bounds on the negative log-likelihood."""

import math
from collections.abc import Sequence
from typing import Any

import datasets
import evaluate


def bits_per_dimension(nats: Sequence[float], num_units: Sequence[float]) -> float:
    """The bits that all data take together over their units: sum of nats / (ln 2 * sum of units).

    Args:
        nats: -log p of each datum, or bounds on it, for example `EDDPMPipeline.score(...).bound`.
        num_units: Tokens, sites or pixels of each, positive.

    Raises:
        ValueError: If the lists are empty or differ in length, or a number of units is not positive.
    """
    if not len(nats) or len(nats) != len(num_units):
        raise ValueError(f"Two lists of the same length, not empty, are needed; got {len(nats)} and {len(num_units)}.")
    if min(num_units) <= 0:
        raise ValueError(f"`num_units` must be positive, got {min(num_units)}.")
    return math.fsum(nats) / (math.log(2) * math.fsum(num_units))


class BitsPerDimension(evaluate.Metric):
    """Nats of each datum and its number of units -> `bits_per_dimension`."""

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description=__doc__,
            citation="Theis et al. 2016, A note on the evaluation of generative models (arXiv 1511.01844)",
            inputs_description="predictions: nats of each datum; references: its tokens, sites or pixels",
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
            ),
        )

    def _compute(self, predictions: Any, references: Any) -> dict[str, float]:
        return {"bits_per_dimension": bits_per_dimension(predictions, references)}
