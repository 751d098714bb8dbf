"""Inputs that a checkpoint's tabs are filled with: its card's examples, else what it draws itself."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from PIL import Image

from ..modalities.image.data import load_images
from ..modalities.image.files import DIGITS
from .attributes import valid_samples

_SHOWN = 4


def example_data(pipe: Any, training: Mapping[str, Any], evaluation: Mapping[str, Any]) -> list[Any]:
    """Return a few data of the kind that a checkpoint knows.

    Args:
        pipe: The pipeline, which draws them where its folder holds none.
        training: The facts of `training.json`, whose examples come first.
        evaluation: Those of `evaluation.json`, with held-out data beside their reconstructions.
    """
    if pipe.model.config.modality == "image":
        found: list[Any] = _digits(pipe.processor) if _trained_on_digits(training) else []
    else:
        pairs = (evaluation.get("reconstruction") or {}).get("examples") or []
        found = [*(training.get("examples") or []), *(pair[0] for pair in pairs)]
        found = _short_ones(pipe.processor, found)
    if len(found) < 2:
        generator = torch.Generator().manual_seed(1)
        found = valid_samples(pipe.processor, pipe(4 * _SHOWN, generator=generator).samples)
    return found[:_SHOWN]


def well_known(examples: Sequence[Any], evaluation: Mapping[str, Any]) -> list[Any]:
    """Return the data that a checkpoint reconstructs exactly, if its card knows two: what is done to others is hidden.

    Args:
        examples: The result of `example_data`, in their place if there are none.
        evaluation: The facts of `evaluation.json`.
    """
    pairs = (evaluation.get("reconstruction") or {}).get("examples") or []
    exact = [original for original, copy in pairs if original == copy and isinstance(original, str)]
    return exact[:_SHOWN] if len(exact) > 1 and isinstance(examples[0], str) else list(examples)


def _short_ones(processor: Any, data: Sequence[Any]) -> list[str]:
    """Return the texts that the processor takes, each once, the shortest half of them, in their order."""
    texts = list(dict.fromkeys(text for text in data if isinstance(text, str)))
    try:
        texts = valid_samples(processor, texts)
    except ValueError:
        return []
    middle = sorted(map(len, texts))[max(_SHOWN, len(texts) // 2) - 1 :]
    return [text for text in texts if not middle or len(text) <= middle[0]]


def _trained_on_digits(training: Mapping[str, Any]) -> bool:
    sources = ((training.get("data") or {}).get("train") or {}).get("sources") or []
    return list(sources) == [DIGITS]


def _digits(processor: Any) -> list[Image.Image]:
    """Return the first of the digits that come with scikit-learn; none where it is not installed."""
    try:
        size = {"image_size": processor.image_size, "num_channels": processor.num_channels}
        stack = load_images(DIGITS, **size, resize=processor.resize)
    except (ImportError, ValueError):
        return []
    return [Image.fromarray(image[..., 0] if image.shape[2] == 1 else image) for image in stack.images[:_SHOWN]]
