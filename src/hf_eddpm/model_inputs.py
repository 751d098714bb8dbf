"""What a model is given: by which names, divided between encoder and decoder, and of which shapes."""

from typing import Any

import torch

from .argument_checks import check_class_labels
from .configuration_eddpm import EDDPMConfig
from .latents import check_latents
from .modalities.base import ModalityDecoder, ModalityEncoder


class InputsMixin:
    """Methods of `EDDPMModel` that look at its inputs before anything is computed."""

    config: EDDPMConfig
    encoder: ModalityEncoder
    decoder: ModalityDecoder

    def check_latents(self, latents: torch.Tensor, name: str = "latents") -> None:
        """Raise a ValueError unless `latents` are finite, not empty and `(batch, num_latents, latent_dim)`."""
        check_latents(latents, self.config.num_latents, self.config.latent_dim, name)

    def check_class_labels(self, class_labels: torch.Tensor, batch: int, lowest: int = 0) -> None:
        """Raise a ValueError unless `class_labels` are int64 `(batch,)` in [lowest, num_classes)."""
        check_class_labels(class_labels, batch, self.config.num_classes, lowest)

    def name_inputs(self, data: tuple[torch.Tensor, ...], inputs: dict[str, Any]) -> dict[str, Any]:
        """Return all inputs by name."""
        names = self.encoder.input_names
        if len(data) > len(names):
            raise TypeError(f"Only {list(names)} may be given by position, in this order; got {len(data)} values.")
        named = dict(zip(names, data, strict=False))
        if twice := sorted(named.keys() & inputs.keys()):
            raise TypeError(f"`{twice[0]}` must be given once, got it by position and by name.")
        return {**named, **inputs}

    def split_inputs(self, inputs: dict[str, Any], with_targets: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
        """Divide the batch into what the encoder takes and what the decoder takes."""
        known = {*self.encoder.input_names, *self.decoder.target_names}
        if unknown := sorted(set(inputs) - known):
            raise ValueError(f"Inputs must be among {sorted(known)}, got {unknown} besides.")
        if inputs.get(self.encoder.input_names[0]) is None:
            raise ValueError(f"`{self.encoder.input_names[0]}` must be given: there is nothing to encode.")
        encoder_inputs = {name: inputs[name] for name in self.encoder.input_names if name in inputs}
        if not with_targets:
            return encoder_inputs, {}
        if missing := [name for name in self.decoder.target_names if inputs.get(name) is None]:
            raise ValueError(f"`{missing[0]}` must be given: the loss needs what the decoder reconstructs.")
        return encoder_inputs, {name: inputs[name] for name in self.decoder.target_names}
