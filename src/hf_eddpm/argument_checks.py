"""Checks of numbers that users give; each error names the argument, what is allowed and what came."""

import math
from numbers import Integral, Real
from typing import Any

import torch


def is_integer(value: Any) -> bool:
    """Whether a value is an integer, Python's or NumPy's, and no bool."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    """Whether a value is a real number, Python's or NumPy's, and no bool."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_column(value: Any) -> bool:
    """Whether a value is a list of data: a list, a tuple, or a column of NumPy, pandas, torch or `datasets`."""
    if isinstance(value, (str, bytes, dict)) or getattr(value, "ndim", 1) != 1:
        return False
    return hasattr(value, "__len__") and hasattr(value, "__iter__")


def check_count(value: Any, name: str, minimum: int = 1) -> None:
    """Raise a ValueError unless `value` is an integer of at least `minimum`."""
    if not is_integer(value) or value < minimum:
        raise ValueError(f"`{name}` must be an integer of at least {minimum}, got {value!r}.")


def check_number(
    value: Any, name: str, above: float | None = None, at_least: float | None = None, at_most: float = math.inf
) -> None:
    """Raise a ValueError unless `value` is a finite number within the bounds."""
    valid = is_number(value) and math.isfinite(value) and value <= at_most
    if not valid or (above is not None and value <= above) or (at_least is not None and value < at_least):
        low = f"above {above:g}" if above is not None else f"at least {at_least:g}"
        high = "" if at_most == math.inf else f" and at most {at_most:g}"
        raise ValueError(f"`{name}` must be a finite number {low}{high}, got {value!r}.")


def check_class_labels(class_labels: torch.Tensor, batch: int, num_classes: int, lowest: int = 0) -> None:
    """Raise a ValueError unless `class_labels` are int64 `(batch,)` in [lowest, num_classes)."""
    if not num_classes:
        raise ValueError("`class_labels` needs a model with `num_classes` > 0, got one without.")
    if class_labels.dtype != torch.int64 or class_labels.shape != (batch,):
        raise ValueError(
            f"`class_labels` must be int64 of the shape ({batch},), got {class_labels.dtype} of "
            f"{tuple(class_labels.shape)}."
        )
    low, high = int(class_labels.min()), int(class_labels.max())
    if low < lowest or high >= num_classes:
        raise ValueError(f"`class_labels` must be in [{lowest}, {num_classes}), got {low} to {high}.")


def check_generators(generator: Any, count: int, each: str = "sample", all_of_them: str = "samples") -> None:
    """Raise an error unless `generator` is None, one generator, or a list with one for each of `count` samples."""
    generators = generator if isinstance(generator, list) else [] if generator is None else [generator]
    if not all(isinstance(one, torch.Generator) for one in generators):
        raise TypeError(f"`generator` must be a torch.Generator or a list of them, one for each {each}.")
    if isinstance(generator, list) and len(generator) != count:
        raise ValueError(
            f"`generator` must hold one generator for each of {count} {all_of_them}, got {len(generator)}."
        )
