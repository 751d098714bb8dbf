"""Data for scripts that take a checkpoint of any modality: by `data.py`, `protein_data.py` and `image_data.py`."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data import load_text
from hf_eddpm import EDDPMPipeline
from image_data import load_images
from options import ColumnArguments
from protein_data import load_proteins


@dataclass
class RawData:
    """Data as a pipeline takes them.

    Attributes:
        items: The data.
        labels: A class for each; `None` if there are none.
        properties: float64 (num, num_properties), NaN where missing; no columns where there are none.
    """

    items: list[Any]
    labels: list[int] | None
    properties: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.items)

    def sample(self, num: int, seed: int) -> "RawData":
        """A random subset without replacement; all of the data, in their order, if there are no more."""
        if num >= len(self):
            return self
        return self.take(np.random.default_rng(seed).permutation(len(self))[:num])

    def take(self, rows: NDArray[np.integer]) -> "RawData":
        """The data at `rows`, in that order."""
        labels = None if self.labels is None else [self.labels[row] for row in rows]
        return RawData([self.items[row] for row in rows], labels, self.properties[rows])


def load_raw_data(
    pipe: EDDPMPipeline, source: Sequence[str], columns: ColumnArguments, images: bool = False
) -> RawData:
    """Reads data of the pipeline's modality.

    Args:
        pipe: The pipeline that shall take them.
        source: Files (of text `file=label` too) or a Hub id.
        columns: Where in tables they are.
        images: Whether the script can take images, uint8 (height, width, channels) each.

    Raises:
        ValueError: The modality is none that the script takes.
    """
    modality = pipe.model.config.modality
    foreign = {
        "text": ("property_columns", "padding_symbol"),
        "protein": ("label_column",),
        "image": ("padding_symbol",),
    }
    if given := [name for name in foreign.get(modality, ()) if getattr(columns, name)]:
        raise ValueError(f"`{given[0]}` {getattr(columns, given[0])!r} means nothing for the modality {modality!r}.")
    one_or_more: Any = source[0] if len(source) == 1 else list(source)
    if modality == "text":
        text = load_text(one_or_more, text_column=columns.text_column, label_column=columns.label_column)
        return RawData(text.sentences, text.labels, np.empty((len(text), 0)))
    if modality == "protein":
        proteins = load_proteins(
            one_or_more,
            sequence_column=columns.sequence_column,
            property_columns=columns.property_columns,
            padding_symbol=columns.padding_symbol,
        )
        return RawData(proteins.sequences, None, proteins.properties)
    if modality == "image" and images:
        processor = pipe.processor
        data = load_images(one_or_more, image_size=processor.image_size, num_channels=processor.num_channels)
        for argument, names in (
            ("label_column", [columns.label_column]),
            ("property_columns", columns.property_columns),
        ):
            if missing := [name for name in names if name is not None and name not in data.attributes]:
                raise ValueError(
                    f"`{argument}` {missing[0]!r} is no attribute of the images: {sorted(data.attributes)}."
                )
        labels = None if columns.label_column is None else data.labels(columns.label_column).tolist()
        values = [data.attribute(name) for name in columns.property_columns]
        return RawData(list(data.images), labels, np.stack(values, 1) if values else np.empty((len(data), 0)))
    raise ValueError(f"This script reads text and proteins, and the checkpoint's modality is {modality!r}.")
