"""What is wanted of the properties, as a utility of a judge's scores: the larger the better."""

import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from ..argument_checks import is_number
from ..modeling_property import PropertyHead
from .judges import Judge, Scores

Objective = Callable[[torch.Tensor], torch.Tensor]  # latents (batch, ...) -> (batch,)
Direction = float | Literal["higher", "lower"]


class Goal:
    """A target for each property, and how several are weighed against each other.

    Args:
        target: "higher", "lower" or a value in the data's unit, for all properties or one for each.
        weights: Weight of each property's utility in standard deviations, at least 0 and not all 0; "pareto" for
            every compromise. None for equal ones.
        num_properties: Properties of the judge.

    Raises:
        TypeError: If the target is none of these.
        ValueError: If there are not as many as properties, or a number is out of range.
    """

    def __init__(
        self,
        target: Direction | Sequence[Direction],
        weights: Sequence[float] | Literal["pareto"] | None,
        num_properties: int,
    ):
        given: Any = target
        targets = [given] * num_properties if isinstance(given, str) or is_number(given) else list(given)
        if len(targets) != num_properties:
            raise ValueError(f"`target` must hold one target for each of {num_properties} properties, got {targets}.")
        for each in targets:
            if not (each in ("higher", "lower") if isinstance(each, str) else is_number(each) and math.isfinite(each)):
                raise ValueError(f"`target` must be 'higher', 'lower' or a finite number, got {each!r}.")
        self.targets = targets
        self.is_pareto = isinstance(weights, str)
        if isinstance(weights, str) and weights != "pareto":
            raise ValueError(f"`weights` must be numbers or 'pareto', got {weights!r}.")
        if self.is_pareto and num_properties == 1:
            raise ValueError("`weights` = 'pareto' needs at least two properties, and there is one.")
        chosen: list[Any] = [1.0] * num_properties if weights is None or self.is_pareto else list(weights)
        if len(chosen) != num_properties:
            raise ValueError(f"`weights` must hold one weight for each of {num_properties} properties, got {chosen}.")
        if not all(is_number(each) and math.isfinite(each) and each >= 0 for each in chosen) or not sum(chosen) > 0:
            raise ValueError(f"`weights` must be finite, at least 0, and not all 0, got {chosen}.")
        self.weights: NDArray[np.float64] = np.array(chosen, dtype=np.float64) / sum(chosen)

    def utilities(self, scores: Scores, judge: Judge) -> Scores:
        """Return the utility of each property, shaped as scores `(..., num_properties)`.

        It is the score, minus the score, or minus its distance from the target's.
        """
        parts = []
        for index, target in enumerate(self.targets):
            column = scores[..., index]
            if target == "higher":
                parts.append(column)
            elif target == "lower":
                parts.append(-column)
            else:
                parts.append(-np.abs(column - judge.to_scores(np.array(float(target)), index)))
        return np.stack(parts, -1)

    def total(self, utilities: Scores) -> Scores:
        """Return the weighted sum of utilities, `(...)`."""
        total: Scores = utilities @ self.weights
        return total

    def objective(self, head: PropertyHead, to_standard: Callable[[float, int], float]) -> Objective:
        """Return the same as a differentiable function of latents `(batch, ...)`, by a head's predictions.

        Args:
            head: A property head.
            to_standard: Function from a target value and the index of its property to the head's standardised unit.
        """
        goals: list[tuple[int, float, Any]] = [
            (index, float(weight), target if isinstance(target, str) else to_standard(float(target), index))
            for index, (weight, target) in enumerate(zip(self.weights, self.targets, strict=True))
        ]

        def objective(latents: torch.Tensor) -> torch.Tensor:
            predictions = head(latents)  # (batch, num_properties)
            total = torch.zeros(len(latents), device=predictions.device)
            for index, weight, goal in goals:
                column = predictions[:, index]
                if isinstance(goal, str):
                    total = total + weight * (column if goal == "higher" else -column)
                else:
                    total = total - weight * 0.5 * (column - goal).square()
            return total

        return objective
