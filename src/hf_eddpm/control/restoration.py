"""Drawing latents given a measurement: what a differentiable likelihood says of them, under the chain as the prior."""

from collections.abc import Callable
from typing import Any

import torch

from ..argument_types import PositiveNumber, Steps, checked
from ..scheduling_eddpm import EDDPMScheduler
from .guided_step import TINY, Objective
from .operators import NO_GRADIENT

_STEP_SIZE = 0.3  # of latents whose standard deviation is about 1
_PREPARATIONS = 10  # times that a likelihood which changes on the way is made anew


@checked
def sample_posterior(
    denoise: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    scheduler: EDDPMScheduler,
    log_likelihood: Objective,
    noise: torch.Tensor,
    draw: Callable[[], torch.Tensor],
    num_inference_steps: Steps = 100,
    step_size: PositiveNumber = _STEP_SIZE,
    on_step: Callable[[], Any] = lambda: None,
    prepare: Callable[[torch.Tensor], Any] = lambda clean: None,
) -> torch.Tensor:
    r"""Draw latents from p(latents | measurement), nearly: diffusion posterior sampling in the latents.

    After each ancestral step the latents go down the gradient of their distance from the measurement, which is
    evaluated at the clean estimate and differentiated through denoiser and decoder (Chung et al. 2023, arXiv
    2209.14687, algorithm 1). There the distance is the norm of the residual. Here it is sqrt(-2 log p(measurement |
    clean)), the norm in standard deviations of the likelihood where that is Gaussian: one step size then does for
    measurements in any unit, and for tokens. The alternatives and what they measure: training/studies/restore.

    Args:
        denoise: The denoiser as a function of noisy latents and a timestep.
        scheduler: The chain's arithmetic; its timesteps are set here.
        log_likelihood: log p(measurement | latents), at most 0, `(batch,)`, each row's from its own latents.
        noise: Where to start, `(batch, num_latents, latent_dim)`.
        draw: Function that draws as much noise again.
        num_inference_steps: Steps of the chain, each with a gradient, in [1, T].
        step_size: Weight of the measurement.
        on_step: Called after each step.
        prepare: Called with clean latents now and then, for a likelihood that depends on what they decode to.

    Returns:
        Latents, float32, shaped as `noise`.

    Raises:
        ValueError: If the likelihood has no gradient, or one that is not finite.
    """
    scheduler.set_timesteps(num_inference_steps, device=noise.device)
    every = max(1, num_inference_steps // _PREPARATIONS)
    latents = noise
    for step, t in enumerate(scheduler.timesteps):
        with torch.inference_mode(False), torch.enable_grad():
            noisy = latents.detach().clone().requires_grad_()
            model_output = denoise(noisy, t)
            clean, _ = scheduler.predict(model_output, t, noisy)
            if step % every == 0:
                prepare(clean.detach())
            slope = _gradient(_distance(log_likelihood, clean), noisy)
        ancestral = scheduler.step(
            model_output.detach(), t, latents, eta=1.0, variance_noise=draw(), return_dict=False
        )[0]
        latents = ancestral - step_size * slope
        on_step()
    return latents


def _distance(log_likelihood: Objective, latents: torch.Tensor) -> torch.Tensor:
    """Return how far latents are from a measurement: sqrt(-2 log-likelihood), `(batch,)`.

    Raises:
        ValueError: If it has no gradient.
    """
    value = log_likelihood(latents)
    if not value.requires_grad:
        raise ValueError(NO_GRADIENT)
    return (-2 * value).clamp(min=TINY).sqrt()


def _gradient(values: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
    (slope,) = torch.autograd.grad(values.sum(), latents)
    if not bool(torch.isfinite(slope).all()):
        raise ValueError("The gradient of the measurement by the latents is NaN or infinite: check `operator`.")
    return slope
