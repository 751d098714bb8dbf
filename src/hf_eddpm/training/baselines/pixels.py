"""What a joint model of images is compared with: pixel diffusion without latents, and a prior trained afterwards."""

from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import nn
from transformers import PreTrainedModel  # noqa: F401  (diffusers finds the loader by this name)

from ...configuration_eddpm import EDDPMConfig
from ...modeling_denoiser import make_denoiser
from ...modeling_eddpm import EDDPMModel
from .decoder_alone import DecoderAlone


class UnconditionalDiffusion(DecoderAlone):
    """The pixel diffusion of an EDDPM alone (DDPM, Ho et al. 2020).

    Args:
        config: As for `DecoderAlone`, with a decoder that is a chain.
    """

    def __init__(self, config: EDDPMConfig):
        super().__init__(config)
        if self.decoder.scheduler_config is None:
            net: Any = config.decoder
            raise ValueError(
                "`decoder` must be a diffusion chain over pixels, as in the preset 'image-small-chain', got "
                f"{net.model_type!r}."
            )

    def unused_parts(self) -> list[nn.Module]:
        """The latents' way into the pixels' network too."""
        ways = getattr(self.decoder, "projection", None), getattr(self.decoder, "map_projection", None)
        return [*super().unused_parts(), *(way for way in ways if way is not None)]


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
