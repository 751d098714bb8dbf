"""Batches of raw data."""

from typing import Any

import torch
from transformers import BatchFeature

from ..processing_eddpm import EDDPMProcessor


class RawDataCollator:
    """Batches raw data by a processor.

    Args:
        processor: The modality's processor.
    """

    def __init__(self, processor: EDDPMProcessor):
        self.processor = processor

    def __call__(self, examples: list[Any]) -> BatchFeature:
        """Batch examples: raw data, or dicts of `data` (one raw datum) and further inputs of `forward`.

        These are `diffusion_mask` (a bool), `properties` (numbers, NaN where missing) and `class_labels` (an integer,
        -1 where unknown).
        """
        if not isinstance(examples[0], dict):
            return self.processor(examples)
        batch = self.processor([example["data"] for example in examples])
        kinds = {"diffusion_mask": torch.bool, "properties": torch.float32, "class_labels": torch.int64}
        for name, dtype in kinds.items():
            if name in examples[0]:
                batch[name] = torch.tensor([example[name] for example in examples], dtype=dtype)
        return batch
