"""Drawing latents given a measurement: what a differentiable likelihood says of them, under the chain as the prior."""

from collections.abc import Callable
from typing import Any

import torch

from ..argument_types import Count, Share, Steps, checked
from ..scheduling_eddpm import EDDPMScheduler
from .guided_step import Objective

# Adam's (Kingma & Ba 2015, arXiv 1412.6980); the step is in units of the latents, whose standard deviation is about 1.
_STEP_SIZE, _BETAS, _EPSILON = 0.1, (0.9, 0.99), 1e-8
_FREE_SHARE = 1 / 3  # of the steps, the noisiest, which the likelihood does not touch


@checked
def sample_posterior(
    denoise: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    scheduler: EDDPMScheduler,
    log_likelihood: Objective,
    noise: torch.Tensor,
    draw: Callable[[], torch.Tensor],
    num_inference_steps: Steps = 10,
    num_gradient_steps: Count = 20,
    free_share: Share = _FREE_SHARE,
    on_step: Callable[[], Any] = lambda: None,
    before_gradients: Callable[[torch.Tensor], Any] = lambda clean: None,
) -> torch.Tensor:
    r"""Draw latents from p(latents | measurement), nearly, by annealing whose levels are independent of one another.

    At each noise level the denoiser says which clean latents it expects, `clean`. These are moved to the most probable
    point of likelihood(z) N(z; clean, (1 - alphas_cumprod) I), by Adam; the variance is what is left of a standard
    Gaussian prior at that level. The result is noised afresh to the next level, so that an error of one level does not
    stay. Optimising at a level is the hard data consistency of ReSample (Song et al. 2023, arXiv 2307.08123,
    section 3), fresh noise is the decoupled annealing of DAPS (Zhang et al. 2024, arXiv 2407.01521, proposition 1),
    whose Langevin steps the optimisation replaces. The alternatives and what they measure: training/studies/restore.

    Args:
        denoise: The denoiser as a function of noisy latents and a timestep.
        scheduler: The chain's arithmetic; its timesteps are set here.
        log_likelihood: log p(measurement | latents), `(batch,)`, each row's from its own latents.
        noise: Where to start, `(batch, num_latents, latent_dim)`.
        draw: Function that draws as much noise again.
        num_inference_steps: Noise levels.
        num_gradient_steps: Gradients of the likelihood at each.
        free_share: Share of the levels, from the noisiest on, at which the chain runs as it is.
        on_step: Called after each level.
        before_gradients: Called with the clean latents before the gradients of a level.

    Returns:
        Latents, float32, shaped as `noise`.

    Raises:
        ValueError: If the likelihood has no gradient, or one that is not finite.
    """
    scheduler.set_timesteps(num_inference_steps, device=noise.device)
    latents = noise
    for step, t in enumerate(scheduler.timesteps):
        model_output = denoise(latents, t)
        previous = scheduler.previous_timestep(int(t))
        if step < int(free_share * num_inference_steps):
            latents = scheduler.step(model_output, t, latents, return_dict=False)[0]
        else:
            clean, _ = scheduler.predict(model_output, t, latents)
            before_gradients(clean)
            variance = 1 - float(scheduler.alphas_cumprod[int(t)])
            latents = _most_probable(log_likelihood, clean.detach(), variance, num_gradient_steps)
            if previous >= 0:
                latents = scheduler.add_noise(latents, draw(), previous)
        on_step()
    return latents


def climb(log_likelihood: Objective, start: torch.Tensor, num_gradient_steps: int) -> torch.Tensor:
    """Return latents near `start` of the highest likelihood, without a prior: what `sample_posterior` is better than.

    Args:
        log_likelihood: As for `sample_posterior`.
        start: `(batch, num_latents, latent_dim)`.
        num_gradient_steps: Steps of Adam.
    """
    return _most_probable(log_likelihood, start.detach(), float("inf"), num_gradient_steps)


def _most_probable(log_likelihood: Objective, start: torch.Tensor, variance: float, num_steps: int) -> torch.Tensor:
    """Ascend log_likelihood(z) + log N(z; start, variance I) by Adam, each number of each row by itself."""
    latents = start
    first, second = torch.zeros_like(start), torch.zeros_like(start)
    for step in range(1, num_steps + 1):
        slope = likelihood_gradient(log_likelihood, latents) - (latents - start) / variance
        first = _BETAS[0] * first + (1 - _BETAS[0]) * slope
        second = _BETAS[1] * second + (1 - _BETAS[1]) * slope.square()
        size = (second / (1 - _BETAS[1] ** step)).sqrt() + _EPSILON
        latents = latents + _STEP_SIZE * first / (1 - _BETAS[0] ** step) / size
    return latents


def likelihood_gradient(log_likelihood: Objective, latents: torch.Tensor) -> torch.Tensor:
    """Return the gradient of a log-likelihood by the latents, shaped as they are.

    Raises:
        ValueError: If it has none, or it is not finite.
    """
    with torch.inference_mode(False), torch.enable_grad():
        latents = latents.detach().clone().requires_grad_()
        value = log_likelihood(latents)
        if not value.requires_grad:
            raise ValueError(
                "`operator` must be differentiable: what it returned has no gradient. NumPy, `.detach()`, `.item()` "
                "and integer types cut it off."
            )
        (slope,) = torch.autograd.grad(value.sum(), latents)
    if not bool(torch.isfinite(slope).all()):
        raise ValueError("The gradient of the measurement by the latents is NaN or infinite: check `operator`.")
    return slope
