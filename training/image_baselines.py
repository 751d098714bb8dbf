"""What a joint model of images is compared with: pixel diffusion without latents, and a prior trained afterwards."""

from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import nn
from transformers import PreTrainedModel  # noqa: F401  (diffusers finds the loader by this name)

from hf_eddpm import EDDPMConfig, EDDPMModel, EDDPMOutput
from hf_eddpm.modeling_denoiser import make_denoiser
from hf_eddpm.modeling_eddpm import LatentPosterior


class UnconditionalDiffusion(EDDPMModel):
    """The pixel diffusion of an EDDPM alone (DDPM, Ho et al. 2020): all latents are zero, and nothing else trains.

    New images are decoded from latents of zero.

    Args:
        config: As for `EDDPMModel`, with a decoder that is a chain; `latent_normalization` must be "none".
    """

    def __init__(self, config: EDDPMConfig):
        if config.latent_normalization != "none":
            raise ValueError(f"`latent_normalization` must be 'none', got {config.latent_normalization!r}.")
        super().__init__(config)
        if self.decoder.scheduler_config is None:
            raise ValueError("`decoder` must be a diffusion chain over pixels.")
        parts = (self.encoder, self.bottleneck, self.denoiser, self.decoder.projection, self.decoder.map_projection)
        for part in parts:
            if part is not None:
                part.requires_grad_(False)

    def encode(self, **inputs: Any) -> LatentPosterior:
        """Return zeros."""
        pixels = inputs["pixel_values"]
        shape = (len(pixels), self.config.num_latents, self.config.latent_dim)
        return LatentPosterior(torch.zeros(shape, device=pixels.device), self.config.encoder_noise_variance)

    def forward(self, generator: torch.Generator | None = None, **inputs: Any) -> EDDPMOutput:
        """Compute the pixels' diffusion loss."""
        inputs.pop("class_labels", None)
        encoder_inputs, targets = self._split(inputs)
        mean = self.encode(**encoder_inputs).mean
        nats, num_units = self.decoder(mean, generator=generator, **targets)
        loss = nats.float().sum() / num_units.sum()
        zero = torch.zeros_like(loss)
        return EDDPMOutput(
            loss=loss,
            reconstruction_loss=loss,
            diffusion_loss=zero,
            alignment_loss=zero,
            latents=mean,
            posterior_mean=mean,
        )


def fit_prior(
    model: EDDPMModel,
    posterior_means: torch.Tensor,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    ema_decay: float,
    seed: int,
) -> None:
    """Gives a trained autoencoder a new latent denoiser, trained on the latents as they are now.

    The second stage of latent diffusion (Rombach et al. 2022, arXiv 2112.10752) and of diffusion autoencoders.

    Args:
        model: The model; encoder and decoder stay.
        posterior_means: Of the training data, `(num, num_latents, latent_dim)`.
        num_steps: Training steps.
        batch_size: Latents of a step; of each as many pairs of timestep and noise as in joint training.
        learning_rate: AdamW's, with a cosine decay.
        ema_decay: Of the averaged weights, which the model gets.
        seed: Of initialisation and draws.
    """
    config, scheduler = model.config, model.scheduler
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.denoiser = make_denoiser(config)
        for module in model.denoiser.modules():
            if isinstance(module, nn.Linear):  # as EDDPMModel initialises it
                nn.init.normal_(module.weight, std=config.initializer_range)
                nn.init.zeros_(module.bias)
        parameters = list(model.denoiser.parameters())
        optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
        ema = EMAModel(parameters, decay=ema_decay, foreach=True)
        for _ in range(num_steps):
            rows = torch.randint(len(posterior_means), (batch_size,))
            rows = rows.repeat(config.denoiser_samples_per_latent)
            means = posterior_means[rows]
            latents = means + config.encoder_noise_variance**0.5 * torch.randn_like(means)
            timesteps = torch.randint(len(scheduler), (len(latents),))
            noise = torch.randn_like(latents)
            output = model.denoiser(scheduler.add_noise(latents, noise, timesteps), timesteps)
            loss = (output - scheduler.training_target(latents, noise, timesteps)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            ema.step(parameters)
        ema.copy_to(parameters)
    model.eval()
