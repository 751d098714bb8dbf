"""The registry of data kinds: which encoder and decoder a `modality` name stands for."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Modality:
    """What the model needs to know about one kind of data.

    Args:
        encoder_class: Subclass of `ModalityEncoder` (see modeling_modality.py), built as `encoder_class(config)`.
        decoder_class: Subclass of `ModalityDecoder`, or a function that chooses one; `decoder_class(config)` makes it.
        default_encoder: Values of the encoder's own config where the user gives none; `model_type` included.
        default_decoder: The same for the decoder.
        presets: Complete sets of `EDDPMConfig` values by name, for `EDDPMConfig.from_preset`.
        complete_decoder: Function from a decoder's values, `model_type` among them, to those that it needs besides
            where they are not given, for example the size of a vocabulary that is the modality's own.
        fit: Function from training data and values to a configuration and a processor, for `model_for_data`.
    """

    encoder_class: type[Any]
    decoder_class: Callable[[Any], Any]
    default_encoder: dict[str, Any] | None
    default_decoder: dict[str, Any] | None
    presets: dict[str, dict[str, Any]] = field(default_factory=dict)
    complete_decoder: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    fit: Callable[..., tuple[Any, Any]] | None = None


_MODALITIES: dict[str, Modality] = {}


def register_modality(name: str, modality: Modality) -> None:
    """Make `modality` available as `EDDPMConfig(modality=name)`; a second registration replaces the first."""
    _MODALITIES[name] = modality


def get_modality(name: str) -> Modality:
    """Look a modality up by its name.

    Raises:
        ValueError: If no modality of that name is registered.
    """
    if name not in _MODALITIES:
        raise ValueError(f"`modality` must be one of {sorted(_MODALITIES)}, got {name!r}.")
    return _MODALITIES[name]


def get_preset(name: str) -> dict[str, Any]:
    """Look the values of a preset up by its name, among the presets of all modalities.

    Raises:
        ValueError: If no modality has a preset of that name.
    """
    presets = {
        preset: {"modality": modality_name, **values}
        for modality_name, modality in _MODALITIES.items()
        for preset, values in modality.presets.items()
    }
    if name not in presets:
        raise ValueError(f"`name` of a preset must be one of {sorted(presets)}, got {name!r}.")
    return presets[name]
