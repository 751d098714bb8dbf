"""What a joint model of sequences is compared with: a prior in the place of the chain, and a language model."""

from typing import Any

import torch
from transformers import PreTrainedModel  # noqa: F401  (diffusers finds the loader by this name)

from ...outputs import EDDPMPipelineOutput
from ...pipeline_eddpm import EDDPMPipeline
from .decoder_alone import DecoderAlone


class LanguageModel(DecoderAlone):
    """An autoregressive language model: new sequences are sampled token by token."""


class PriorPipeline(EDDPMPipeline):
    """A pipeline whose samples are decoded from a Gaussian, without the chain. Paths go straight through the latents.

    Attributes:
        mean: Of the Gaussian, `(num_latents * latent_dim,)`; zero unless fitted.
        factor: Its covariance's Cholesky factor; the identity unless fitted.
        decoding: How samples are decoded: greedily, unless set.
    """

    @classmethod
    def around(cls, pipe: EDDPMPipeline) -> "PriorPipeline":
        """The pipeline of another one's components, with a standard Gaussian."""
        made = cls(**pipe.components)
        config = made.model.config
        size = config.num_latents * config.latent_dim
        made.mean, made.factor, made.decoding = torch.zeros(size), torch.eye(size), {}
        return made

    def fit(self, latents: torch.Tensor) -> None:
        """Takes mean and covariance of latents `(num, num_latents, latent_dim)`, and the encoder's noise besides."""
        flat = latents.flatten(1).cpu().double()
        covariance = flat.T.cov() + self.model.config.encoder_noise_variance * torch.eye(flat.shape[1])
        self.mean, self.factor = flat.mean(0).float(), torch.linalg.cholesky(covariance).float()

    @torch.no_grad()
    def __call__(
        self, num_samples: int = 1, generator: torch.Generator | None = None, noise_scale: float = 1.0, **ignored: Any
    ) -> EDDPMPipelineOutput:
        """Draw from the Gaussian and decode."""
        config = self.model.config
        noise = noise_scale * torch.randn(num_samples, len(self.mean), generator=generator)
        latents = (self.mean + noise @ self.factor.T).view(num_samples, config.num_latents, config.latent_dim)
        if self.decoding.get("do_sample"):  # transformers draws from the global generator
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        return EDDPMPipelineOutput(samples=self.decode(latents, **self.decoding), latents=latents)

    def interpolate(self, *arguments: Any, **others: Any) -> list[Any]:
        """Walk through the latents, which are the prior's own space."""
        return super().interpolate(*arguments, **{**others, "space": "latents", "noise_level": 0.0})
