"""The registry of data kinds: which encoder and decoder a `modality` name stands for."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn


class ModalityEncoder(nn.Module):
    """Base of the encoders, whose `forward(**inputs)` returns features `(batch, num_latents, output_size)`.

    Attributes:
        input_names: Keyword arguments of `forward`.
        output_size: Width of the features.
    """

    input_names: tuple[str, ...]
    output_size: int

    def get_input_embeddings(self) -> nn.Module:
        """Return the module that first sees the data."""
        raise NotImplementedError

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace that module."""
        raise NotImplementedError


class ModalityDecoder(nn.Module):
    """Base of the decoders, from latents `(batch, num_latents, latent_dim)` to one kind of data.

    `forward(latents, **targets)` returns -log p(targets | latents) in nats and the number of units (tokens, sites or
    pixels) it covers, both `(batch,)`.

    Attributes:
        target_names: Keyword arguments of `forward` besides the latents.
    """

    target_names: tuple[str, ...]

    def generate(self, latents: torch.Tensor, **kwargs: Any) -> Any:
        """Return decoded data, which the processor's `postprocess` turns into what users see."""
        raise NotImplementedError


@dataclass(frozen=True)
class Modality:
    """What the model needs to know about one kind of data.

    Args:
        encoder_class: `ModalityEncoder` built as `encoder_class(config)`.
        decoder_class: `ModalityDecoder` built as `decoder_class(config)`.
        default_encoder: Values of the encoder's own config where the user gives none; `model_type` included.
        default_decoder: The same for the decoder.
        presets: Complete sets of `EDDPMConfig` values by name, for `EDDPMConfig.from_preset`.
    """

    encoder_class: type[ModalityEncoder]
    decoder_class: type[ModalityDecoder]
    default_encoder: dict[str, Any] | None
    default_decoder: dict[str, Any] | None
    presets: dict[str, dict[str, Any]] = field(default_factory=dict)


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
