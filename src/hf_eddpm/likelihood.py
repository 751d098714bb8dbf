"""Beside the training loss: the bound on -log p in nats, the fixed draws of an evaluation, better latents."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor

from .argument_checks import check_generators
from .argument_types import FloatTensor, Generators, IntTensor, NumberFromZero, PositiveNumber, Share, Steps, checked
from .outputs import EDDPMBound
from .scheduling_eddpm import EDDPMScheduler

# Timesteps and noise of the evaluation loss: fixed, so that it is the same for a datum alone and in any batch.
_EVALUATION_DRAWS = 16
_EVALUATION_SEED = 0

_REFINEMENT_RATE = 0.1


def bound_terms(
    latents: torch.Tensor,
    variance: float,
    scheduler: EDDPMScheduler,
    noise_errors: Callable[[torch.Tensor], torch.Tensor],
    num_timesteps: int = 32,
    generator: Generators = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    r"""Estimate the chain's terms of the bound on -log p(datum), in nats (DDPM's decomposition with the encoder as q).

    With x_1 a sample of q(x_1 | x_0) = N(mean, b I), b = `encoder_noise_variance`, and beta the first beta, the
    alignment is E[log q(x_1 | x_0) - log p(x_1 | x_2)] = w_0 |noise - noise_pred|^2 + d/2 (log(beta / b) - 1).
    It is exact for any b, since the chain starts at the sample and not at the mean.

    Args:
        latents: A sample of the posterior for each datum, float32 `(batch, num_latents, latent_dim)`.
        variance: The posterior's, b.
        scheduler: The chain's arithmetic.
        noise_errors: Function from timesteps `(batch,)` to `|noise - noise_pred|^2`, `(batch,)`.
        num_timesteps: Timesteps of the stratified estimate of the diffusion term, at least 1.
        generator: Source of the timesteps, or one for each datum.

    Returns:
        Alignment, diffusion and prior, each `(batch,)`.
    """
    size = latents[0].numel()
    first = torch.zeros(len(latents), dtype=torch.long, device=latents.device)
    alignment = scheduler.bound_weights(first) * noise_errors(first) + size / 2 * (
        torch.log(scheduler.betas[0] / variance) - 1
    ).to(latents.device)
    diffusion, prior = scheduler.bound_terms(latents, noise_errors, num_timesteps, generator)
    return alignment, diffusion, prior


def evaluation_draws(
    mean: torch.Tensor, variance: float, num_timesteps: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return what an evaluation draws, the same for every datum: latents, timesteps, noise, weights.

    Each is `(draws * batch, ...)`.

    The first timestep is one of the draws; the weights give it its share 1/T of the mean over all timesteps.

    Args:
        mean: The posterior's, `(batch, num_latents, latent_dim)`.
        variance: The posterior's.
        num_timesteps: T.
    """
    batch, *shape = mean.shape
    generator = torch.Generator().manual_seed(_EVALUATION_SEED)
    draws = torch.randn(2, _EVALUATION_DRAWS, 1, *shape, generator=generator).to(mean)
    posterior_noise, noise = (draw.expand(-1, batch, *shape).flatten(0, 1) for draw in draws)
    timesteps = torch.linspace(0, num_timesteps - 1, _EVALUATION_DRAWS).round().long()
    timesteps = timesteps.to(noise.device).repeat_interleave(batch)
    latents = mean.repeat(_EVALUATION_DRAWS, 1, 1) + variance**0.5 * posterior_noise
    first, others = int((timesteps == 0).sum()), int((timesteps > 0).sum())
    weight_of_first = len(timesteps) / (num_timesteps * first)
    weight_of_others = len(timesteps) * (num_timesteps - 1) / (num_timesteps * max(others, 1))
    weights = torch.where(timesteps == 0, weight_of_first, weight_of_others).float()
    return latents, timesteps, noise, weights


def refine_latents(
    latents: torch.Tensor,
    nats: Callable[[torch.Tensor], torch.Tensor],
    num_steps: int,
    learning_rate: float,
    proximity: float,
) -> torch.Tensor:
    r"""Move latents to where the data are reconstructed better: Adam on each datum's own latents.

    Minimised is -log p(datum | latents) + proximity / 2 * |latents - start|^2, in nats (Kim et al. 2018,
    "Semi-Amortized Variational Autoencoders", arXiv 1802.02550).

    Args:
        latents: Where to start, `(batch, num_latents, latent_dim)`.
        nats: Function from latents to -log p(datum | latents) of each datum, `(batch,)`.
        num_steps: Steps, at least 1.
        learning_rate: Adam's, positive.
        proximity: Non-negative weight that keeps the latents near the start.

    Returns:
        Latents, float32, shaped as given, without gradient.
    """
    # What was made under `torch.inference_mode` has no gradient: copies have.
    with torch.inference_mode(False), torch.enable_grad():
        start = latents.detach().float().clone()
        refined = start.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([refined], lr=learning_rate, betas=(0.9, 0.99))
        for _ in range(num_steps):
            # A sum: each datum's gradient is its own.
            loss = nats(refined).float().sum() + proximity / 2 * (refined - start).square().sum()
            (refined.grad,) = torch.autograd.grad(loss, refined)
            optimizer.step()
    return refined.detach()


class LikelihoodMixin:
    """The methods of `EDDPMModel` that training does not need: the bound on the likelihood, and better latents."""

    config: Any
    decoder: Any
    denoiser: Any
    encode: Callable[..., Any]
    denoise: Callable[..., torch.Tensor]
    check_latents: Callable[..., None]
    check_class_labels: Callable[..., None]
    split_inputs: Callable[..., tuple[dict[str, Any], dict[str, Any]]]

    @property
    def scheduler(self) -> EDDPMScheduler:
        """The chain's arithmetic."""
        raise NotImplementedError

    @torch.no_grad()
    @checked
    def bound(
        self,
        num_timesteps: Steps = 32,
        generator: Generators = None,
        class_labels: IntTensor | None = None,
        **inputs: Any,
    ) -> EDDPMBound:
        r"""Estimate the bound on -log p(datum) and its terms, in nats (DDPM's decomposition with the encoder as q).

        See `likelihood.bound_terms`.

        Args:
            num_timesteps: Timesteps of the stratified estimate of the diffusion term, at least 1.
            generator: Source of the draws, or one for each datum, which makes each independent of its batch.
            class_labels: As for `forward`; the bound is then on -log p(datum | class).
            **inputs: As for `forward`.

        Raises:
            ValueError: If there is not one generator, or one for each datum.
        """
        encoder_inputs, targets = self.split_inputs(inputs)
        posterior = self.encode(**encoder_inputs)
        check_generators(generator, len(posterior.mean), "datum", "data")
        latents = posterior.sample(generator)
        nats, num_units = self.decoder.negative_log_likelihood(latents, num_timesteps, generator, **targets)

        chain = latents.float()
        if class_labels is not None:
            self.check_class_labels(class_labels, len(chain), lowest=-1)
        alignment, diffusion, prior = bound_terms(
            chain,
            posterior.variance,
            self.scheduler,
            lambda timesteps: self._noise_errors(chain, timesteps, generator, class_labels),
            num_timesteps,
            generator,
        )
        nats = nats.float()
        return EDDPMBound(
            bound=nats + alignment + diffusion + prior,
            reconstruction=nats,
            alignment=alignment,
            diffusion=diffusion,
            prior=prior,
            num_units=num_units.float(),
        )

    @torch.no_grad()
    @checked
    def chain_errors(
        self,
        latents: FloatTensor,
        class_labels: IntTensor | None = None,
        noise_variances: Sequence[Share] = (0.1, 0.2, 0.3, 0.4, 0.5),
    ) -> torch.Tensor:
        """Return the denoiser's mean squared error at latents, float32 `(batch,)`: large where there are no data.

        It is the simple loss (Ho et al. 2020, arXiv 2006.11239, equation 14) of what `config.prediction_type` names. A
        denoiser knows the way back to what it was trained on only (Graham et al. 2023, arXiv 2211.07740). Latents get
        the same noise by themselves as in any batch, each once with either sign.

        Args:
            latents: `(batch, num_latents, latent_dim)`.
            class_labels: As for `denoise`.
            noise_variances: At least one share in [0, 1] of the noise in the variance of what the denoiser gets; for
                each the nearest timestep is taken. Little noise asks for the details, much for what they are about.

        Raises:
            ValueError: If an argument is outside its range, or the latents have another shape.
        """
        self.check_latents(latents)
        if class_labels is not None:
            self.check_class_labels(class_labels, len(latents), lowest=-1)
        if not noise_variances:
            raise ValueError("`noise_variances` must hold at least one share, got none.")
        chain, scheduler = latents.float(), self.scheduler
        generator = torch.Generator().manual_seed(_EVALUATION_SEED)
        total = torch.zeros(len(chain), device=chain.device)
        for variance in noise_variances:
            timesteps = (1 - scheduler.alphas_cumprod - variance).abs().argmin().expand(len(chain)).to(chain.device)
            drawn = torch.randn(1, *chain.shape[1:], generator=generator).to(chain)
            for noise in (drawn.expand_as(chain), -drawn.expand_as(chain)):
                output = self.denoise(scheduler.add_noise(chain, noise, timesteps), timesteps, class_labels).float()
                total += (output - scheduler.training_target(chain, noise, timesteps)).square().flatten(1).mean(1)
        return total / (2 * len(noise_variances))

    @checked
    def refine(
        self,
        latents: FloatTensor,
        num_steps: Steps,
        learning_rate: PositiveNumber | None = None,
        proximity: NumberFromZero = 0.05,
        **targets: Any,
    ) -> torch.Tensor:
        r"""Move latents to where the decoder reconstructs the data better: Adam on each datum's own latents.

        The encoder's answer for data it was not trained on is only near the best latents (the amortisation gap); a few
        steps of gradient descent close much of it (Kim et al. 2018, "Semi-Amortized Variational Autoencoders",
        arXiv 1802.02550). Minimised is `-log p(datum | latents) + proximity / 2 * |latents - start|^2`, in nats.

        Args:
            latents: Where to start, for example the posterior mean, `(batch, num_latents, latent_dim)`.
            num_steps: Steps, at least 1; each costs a pass through the decoder and back.
            learning_rate: Adam's, positive; the most that a step changes one number of the latents, roughly. By
                default 0.1, or `sqrt(encoder_noise_variance / 2)` where that is less: steps of the size of the noise
                that the decoder is used to.
            proximity: Non-negative weight that keeps the latents near the start.
            **targets: What the decoder takes, for text `labels`.

        Returns:
            Latents, float32, shaped as given, without gradient. Each datum's are independent of its batch.

        Raises:
            ValueError: If an argument is outside its range.
        """
        self.check_latents(latents)
        if missing := [name for name in self.decoder.target_names if name not in targets]:
            raise ValueError(f"`{missing[0]}` must be given: it is what the latents are to reconstruct.")
        if unknown := sorted(set(targets) - set(self.decoder.target_names)):
            raise TypeError(f"`refine()` takes {list(self.decoder.target_names)} besides, got {unknown}.")
        dtype = self.denoiser.output.weight.dtype
        if learning_rate is None:
            learning_rate = min(_REFINEMENT_RATE, (self.config.encoder_noise_variance / 2) ** 0.5)

        with torch.inference_mode(False):
            targets = {name: target.clone() for name, target in targets.items()}

        def nats(latents: torch.Tensor) -> torch.Tensor:
            return self.decoder(latents.to(dtype), **targets)[0]

        return refine_latents(latents, nats, num_steps, learning_rate, proximity)

    def _noise_errors(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        generator: Generators,
        class_labels: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return `|noise - noise_pred|^2`, `(batch,)`."""
        noise = randn_tensor(latents.shape, generator=generator, device=latents.device, dtype=latents.dtype)
        noisy_latents = self.scheduler.add_noise(latents, noise, timesteps)
        model_output = self.denoise(noisy_latents, timesteps, class_labels)
        _, noise_pred = self.scheduler.predict(model_output, timesteps, noisy_latents)
        return (noise - noise_pred).square().flatten(1).sum(1)
