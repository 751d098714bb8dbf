"""Batches of raw data."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import BatchFeature

from ..processing_eddpm import EDDPMProcessor

_COUNTED_TOGETHER = 1000  # data whose lengths are counted in one call


class RawDataCollator:
    """Batches raw data by a processor.

    Args:
        processor: The modality's processor.
    """

    def __init__(self, processor: EDDPMProcessor):
        self.processor = processor
        self._cut_reported = False

    def __call__(self, examples: list[Any]) -> BatchFeature:
        """Batch examples: raw data, or dicts of `data` (one raw datum) and further inputs of `forward`.

        These are `diffusion_mask` (a bool), `properties` (numbers, NaN where missing) and `class_labels` (an integer,
        -1 where unknown). The datum may also stand under a name that is usual for its kind (`processor.data_names`).
        What an example lacks, or has as None, is missing there and nowhere else.

        Raises:
            ValueError: If an example has no datum, or its `properties` are of another number than the others'.
        """
        if not isinstance(examples[0], dict):
            return self._prepared(examples)
        batch = self._prepared([self._datum(example) for example in examples])
        fields: dict[str, Callable[[Sequence[Any]], torch.Tensor]] = {
            "diffusion_mask": lambda values: torch.tensor([True if v is None else bool(v) for v in values]),
            "properties": _properties,
            "class_labels": lambda values: torch.tensor([-1 if v is None else int(v) for v in values]),
        }
        for name, as_tensor in fields.items():
            if any(name in example for example in examples):
                batch[name] = as_tensor([example.get(name) for example in examples])
        return batch

    def _prepared(self, data: list[Any]) -> BatchFeature:
        """Return the tensors of data; what is cut is said of the first such batch, and refused in each."""
        items = self.processor.as_list(data)
        batch, cut = self.processor.prepare(items)
        if cut and not (self._cut_reported and self.processor.truncation):
            self.processor.report_cut(items, cut)
            self._cut_reported = True
        return batch

    def lengths(self, dataset: Any) -> list[int]:
        """Return the length of each datum of a data set, as `processor.lengths` counts it."""
        lengths: list[int] = []
        for start in range(0, len(dataset), _COUNTED_TOGETHER):
            rows = [dataset[index] for index in range(start, min(start + _COUNTED_TOGETHER, len(dataset)))]
            lengths += self.processor.lengths([self._datum(row) if isinstance(row, dict) else row for row in rows])
        return lengths

    def _datum(self, example: dict[str, Any]) -> Any:
        for name in self.processor.data_names:
            if name in example:
                return example[name]
        names = " or ".join(f"`{name}`" for name in self.processor.data_names)
        raise ValueError(f"Each example must have {names}, got one with {sorted(example)}.")


def _properties(rows: Sequence[Any]) -> torch.Tensor:
    """Return float32 `(batch, num_properties)`, NaN where a row or one of its numbers is None."""
    lists = [None if row is None else [row] if isinstance(row, (int, float)) else list(row) for row in rows]
    counts = {len(row) for row in lists if row is not None}
    if len(counts) > 1:
        raise ValueError(f"`properties` must hold as many numbers for each datum, got {sorted(counts)}.")
    missing = [math.nan] * (counts.pop() if counts else 1)
    values = [[math.nan if v is None else float(v) for v in (missing if row is None else row)] for row in lists]
    return torch.tensor(values, dtype=torch.float32)
