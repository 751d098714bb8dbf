"""The decoder of a joint model alone, the ground of baselines without latents."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from ...configuration_eddpm import EDDPMConfig
from ...latents import LatentPosterior
from ...modeling_eddpm import EDDPMModel
from ...outputs import EDDPMOutput


class DecoderAlone(EDDPMModel):
    """The decoder of an EDDPM alone: all latents are zero, and nothing else trains.

    New data are decoded from latents of zero.

    Args:
        config: As for `EDDPMModel`; `latent_normalization` must be "none".
    """

    def __init__(self, config: EDDPMConfig):
        if config.latent_normalization != "none":
            raise ValueError(f"`latent_normalization` must be 'none', got {config.latent_normalization!r}.")
        super().__init__(config)
        for part in self.unused_parts():
            part.requires_grad_(False)

    def unused_parts(self) -> Iterable[nn.Module]:
        """What no datum passes through."""
        return self.encoder, self.bottleneck, self.denoiser

    def encode(self, **inputs: Any) -> LatentPosterior:
        """Return zeros."""
        data = next(iter(inputs.values()))
        shape = (len(data), self.config.num_latents, self.config.latent_dim)
        return LatentPosterior(torch.zeros(shape, device=data.device), self.config.encoder_noise_variance)

    def forward(  # type: ignore[override]
        self, *, generator: torch.Generator | None = None, **inputs: Any
    ) -> EDDPMOutput:
        """Compute the decoder's loss."""
        for name in ("class_labels", "diffusion_mask", "properties"):  # no chain and no head that they concern
            inputs.pop(name, None)
        encoder_inputs, targets = self.split_inputs(inputs)
        mean = self.encode(**encoder_inputs).mean
        if self.decoder.scheduler_config is not None:
            targets["generator"] = generator
        nats, num_units = self.decoder(mean, **targets)
        loss = nats.float().sum() / num_units.sum().clamp(min=1)
        zero = torch.zeros_like(loss)
        return EDDPMOutput(
            loss=loss,
            reconstruction_loss=loss,
            diffusion_loss=zero,
            alignment_loss=zero,
            latents=mean,
            posterior_mean=mean,
        )
