"""Named attributes, and the directions in the latents that data get them by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

_DRAWN = 64  # samples of a class, whose mean stands for the class
_RANKED = 200  # samples that are ranked by a property


@dataclass(frozen=True)
class Attribute:
    """What data may have more or less of; one of three ways to say it.

    Args:
        positives: Data that have it.
        negatives: Data that lack it.
        classes: Or a class that is all it, and one without it.
        property_index: Or the property whose higher values are it.
    """

    positives: tuple[Any, ...] = ()
    negatives: tuple[Any, ...] = ()
    classes: tuple[int, int] | None = None
    property_index: int | None = None


def direction_of(pipe: Any, attribute: Attribute) -> torch.Tensor:
    """Return the direction of an attribute, `(num_latents, latent_dim)`: the difference of two means.

    Args:
        pipe: The pipeline. It draws the data itself where the attribute is a class or a property.
        attribute: The attribute.

    Raises:
        ValueError: If the checkpoint has no such class or property, or one side has no examples.
    """
    generator = torch.Generator().manual_seed(0)
    if attribute.classes is not None:
        drawn = [
            pipe(_DRAWN, class_labels=label, output_type="latent", generator=generator).latents.mean(0)
            for label in attribute.classes
        ]
        return drawn[0] - drawn[1]
    if attribute.property_index is not None:
        samples = valid_samples(pipe.processor, pipe(_RANKED, generator=generator).samples)
        order = pipe.predict(samples)[:, attribute.property_index].argsort().tolist()
        quarter = max(1, len(order) // 4)
        low, high = ([samples[row] for row in rows] for rows in (order[:quarter], order[-quarter:]))
        return pipe.direction(high, low)
    return pipe.direction(list(attribute.positives), list(attribute.negatives))


def valid_samples(processor: Any, samples: Sequence[Any]) -> list[Any]:
    """Return the samples that the processor takes back: a drawn protein may have gaps, a drawn text no words.

    Raises:
        ValueError: If there are none.
    """

    def is_valid(sample: Any) -> bool:
        try:
            return bool(processor.as_list([sample]))
        except ValueError:
            return False

    if not (valid := [sample for sample in samples if is_valid(sample)]):
        raise ValueError("None of the samples that the model drew is a valid datum: try another seed.")
    return valid


def default_attributes(
    class_names: Sequence[str],
    property_names: Sequence[str],
    evaluation: Mapping[str, Any],
    takes: Callable[[Sequence[Any]], bool],
) -> dict[str, Attribute]:
    """Return the attributes that a checkpoint is offered with, by name.

    Args:
        class_names: Names of the classes that it can draw.
        property_names: Names of the properties that it predicts.
        evaluation: The facts of `evaluation.json`, in which held-out texts of two labels may stand.
        takes: Function that says whether data are of the checkpoint's kind.
    """
    attributes = {
        f"{class_names[towards]} rather than {class_names[away]}": Attribute(classes=(towards, away))
        for towards, away in ((1, 0), (0, 1))
        if len(class_names) >= 2
    }
    for number, name in enumerate(property_names):
        attributes[f"higher {name}"] = Attribute(property_index=number)
    scales = (evaluation.get("edits") or {}).get("by_scale") or {}
    sides: Mapping[str, Any] = next(iter(scales.values()), {})
    texts = [
        tuple(example[0] for example in (sides.get(way) or {}).get("examples") or []) for way in ("0_to_1", "1_to_0")
    ]
    if all(texts) and all(map(takes, texts)):
        with_it, without_it = (min(side, key=len) for side in reversed(texts))
        name = f"like “{with_it}”, not “{without_it}”"
        attributes[name] = Attribute(positives=texts[1], negatives=texts[0])
    return attributes
