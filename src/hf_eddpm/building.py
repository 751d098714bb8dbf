"""A new model and its processor, to the measure of the data."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from .argument_checks import is_integer
from .argument_types import CountOrZero, checked
from .modalities.registry import get_modality
from .modeling_eddpm import EDDPMModel
from .processing_eddpm import EDDPMProcessor


@checked
def model_for_data(
    data: Iterable[Any],
    modality: str = "text",
    properties: Any = None,
    class_labels: Iterable[int] | None = None,
    seed: CountOrZero = 0,
    **values: Any,
) -> tuple[EDDPMModel, EDDPMProcessor]:
    """Make an untrained model and a processor that fit the data: vocabulary, lengths, sizes, classes.

    Args:
        data: The training data: sentences, proteins or images.
        modality: "text", "protein", "image", or another one that is registered with a function `fit`.
        properties: Measured values for a property head, `(data, num_properties)`, NaN where missing.
        class_labels: A class for each datum, integers of at least 0, -1 where unknown; samples can then be asked for
            by class.
        seed: Seed of the initial weights.
        **values: Values of `EDDPMConfig`, and what the modality's `fit` takes (for text `vocab_size` and
            `max_length`; for images `image_size`, `num_channels`, `resize`, `value_range` and `background`).

    Returns:
        The model in training mode, and the processor.

    Raises:
        ValueError: If there are no data, an argument does not fit them, or the modality has no `fit`.
    """
    items = list(data)
    if not items:
        raise ValueError("`data` must hold at least one datum, got none.")
    fit = get_modality(modality).fit
    if fit is None:
        raise ValueError(f"`modality` {modality!r} is registered without a function `fit`: make its config yourself.")
    if class_labels is not None:
        labels = [label.item() if hasattr(label, "item") else label for label in class_labels]
        if len(labels) != len(items) or not all(is_integer(label) and label >= -1 for label in labels):
            raise ValueError(f"`class_labels` must be {len(items)} integers of at least -1, one for each datum.")
        values.setdefault("num_classes", max(labels) + 1)
    targets = None
    if properties is not None:
        rows = properties if isinstance(properties, torch.Tensor) else np.array(properties, dtype=np.float64)
        targets = torch.as_tensor(rows, dtype=torch.float64)
        if targets.ndim != 2 or len(targets) != len(items):
            raise ValueError(
                f"`properties` must have the shape ({len(items)}, num_properties), got {tuple(targets.shape)}."
            )
        values.setdefault("num_properties", targets.shape[1])
    config, processor = fit(items, **values)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = EDDPMModel(config)
    if targets is not None and model.property_head is not None:
        model.property_head.fit(targets)
    return model, processor
