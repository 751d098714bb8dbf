"""Data of any modality, for what takes a checkpoint of any modality."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..modalities.image.data import load_images
from ..modalities.protein.data import load_proteins
from ..modalities.text.data import load_text
from .class_names import renumber


@dataclass
class RawData:
    """Data as a pipeline takes them.

    Attributes:
        items: The data.
        labels: A class for each; `None` if there are none.
        properties: float64 (num, num_properties), NaN where missing; no columns where there are none.
        class_names: What the labels stand for, where that is known.
    """

    items: list[Any]
    labels: list[int] | None
    properties: NDArray[np.float64]
    class_names: list[str] | None = None

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
        return RawData([self.items[row] for row in rows], labels, self.properties[rows], self.class_names)

    def with_classes_of(self, other: "RawData") -> "RawData":
        """The same data, their labels numbered as in the training data, by the classes' names where there are any.

        Raises:
            ValueError: A class is not among the other data's.
        """
        if self.labels is None:
            return self
        numbers = np.asarray(self.labels, dtype=np.float64)
        numbers = renumber(numbers, self.class_names, other.class_names, "label_column", "the held-out data")
        return replace(self, labels=[int(number) for number in numbers], class_names=other.class_names)


def load_raw(
    processor: Any,
    modality: str,
    source: Sequence[str],
    text_column: str = "text",
    label_column: str | None = None,
    sequence_column: str = "sequence",
    property_columns: Sequence[str] = (),
    padding_symbol: str | None = None,
    images: bool = True,
) -> RawData:
    """Reads data of one modality.

    Args:
        processor: The processor of the model that will take them; it says what images must measure, and what
            happens to those that do not.
        modality: "text", "protein" or "image".
        source: Files (of text `file=label` too) or a Hub id.
        text_column: Column of the sentence in tables.
        label_column: Column of an integer label, or attribute of images.
        sequence_column: Column of the protein.
        property_columns: Columns of properties, or attributes of images.
        padding_symbol: Letter that the files pad proteins with.
        images: Whether the caller can take images, uint8 (height, width, channels) each.

    Raises:
        ValueError: The modality is none that the caller takes, or a column means nothing for it.
    """
    given = {"label_column": label_column, "property_columns": property_columns, "padding_symbol": padding_symbol}
    foreign = {
        "text": ("property_columns", "padding_symbol"),
        "protein": ("label_column",),
        "image": ("padding_symbol",),
    }
    if wrong := [name for name in foreign.get(modality, ()) if given[name]]:
        raise ValueError(f"`{wrong[0]}` {given[wrong[0]]!r} means nothing for the modality {modality!r}.")
    one_or_more: Any = source[0] if len(source) == 1 else list(source)
    if modality == "text":
        text = load_text(one_or_more, text_column=text_column, label_column=label_column)
        return RawData(text.sentences, text.labels, np.empty((len(text), 0)))
    if modality == "protein":
        proteins = load_proteins(
            one_or_more,
            sequence_column=sequence_column,
            property_columns=property_columns,
            padding_symbol=padding_symbol,
        )
        return RawData(proteins.sequences, None, proteins.properties)
    if modality == "image" and images:
        data = load_images(
            one_or_more,
            image_size=processor.image_size,
            num_channels=processor.num_channels,
            resize=processor.resize,
            background=processor.background,
        )
        for argument, names in (("label_column", [label_column]), ("property_columns", property_columns)):
            if missing := [name for name in names if name is not None and name not in data.attributes]:
                raise ValueError(
                    f"`{argument}` {missing[0]!r} is no attribute of the images: {sorted(data.attributes)}."
                )
        labels = None if label_column is None else data.labels(label_column).tolist()
        values = [data.attribute(name) for name in property_columns]
        properties = np.stack(values, 1) if values else np.empty((len(data), 0))
        return RawData(list(data.images), labels, properties, data.class_names.get(label_column or ""))
    if modality == "image":
        raise ValueError("This script reads text and proteins, and the checkpoint's modality is 'image'.")
    raise ValueError(f"`modality` must be 'text', 'protein' or 'image', got {modality!r}.")


def load_items(processor: Any, modality: str, source: Sequence[str], column: str | None = None) -> list[Any]:
    """Reads the data alone, without labels and properties.

    Args:
        processor: As for `load_raw`.
        modality: "text", "protein" or "image".
        source: Files or a Hub id.
        column: Column of the data in tables; "text" or "sequence" by default.
    """
    columns: dict[str, Any] = {}
    if column is not None:
        if modality == "image":
            raise ValueError(f"`column` {column!r} means nothing for images in files.")
        columns["text_column" if modality == "text" else "sequence_column"] = column
    return load_raw(processor, modality, source, **columns).items
