"""One step of the chain under guidance, and an ODE in the latents: what a differentiable objective moves."""

from collections.abc import Callable
from typing import Literal

import torch
from diffusers import SchedulerMixin

from ..argument_types import NumberFromZero, Steps, checked
from ..scheduling_eddpm import EDDPMScheduler

# Variance-preserving diffusion of Song et al. 2021 (arXiv 2011.13456, appendix C), which LatentOps takes over.
_ODE_BETA_START, _ODE_BETA_END = 0.1, 20.0
# Least cosine between a slope and its image by a covariance: that of a Gaussian whose standard deviations differ by a
# factor of 200 (Wielandt's inequality). The derivative of a learned denoiser may turn a slope further, even around.
_LEAST_COSINE = 0.01
TINY = 1e-12  # in the place of a zero that would be divided by
# Fixed steps only: an adaptive solver chooses its steps for the batch as a whole, which ties the data to one another.
Solver = Literal["euler", "midpoint", "heun2", "heun3", "rk4"]

Objective = Callable[[torch.Tensor], torch.Tensor]  # latents (k * batch, ...) -> (k * batch,), the larger the better


def check_guidable(scheduler: SchedulerMixin, model_scheduler: EDDPMScheduler) -> None:
    """Raise a ValueError unless a scheduler's chain is the model's, so that its latents have a clean estimate."""
    own = model_scheduler.alphas_cumprod
    theirs = getattr(scheduler, "alphas_cumprod", None)
    same = isinstance(theirs, torch.Tensor) and theirs.shape == own.shape and torch.allclose(theirs.cpu(), own)
    if not same or scheduler.config.prediction_type != model_scheduler.config.prediction_type:
        raise ValueError(
            f"`guidance` needs a scheduler with the model's own noise schedule, which gives the clean estimate; "
            f"{type(scheduler).__name__} does not. Make one by `Other.from_config(pipe.scheduler.config)`."
        )


def _leaf(latents: torch.Tensor) -> torch.Tensor:
    """Return latents that gradients are taken by; of what `torch.inference_mode` made, a copy."""
    latents = latents.detach()
    return (latents.clone() if latents.is_inference() else latents).requires_grad_()


def gradient(objective: Objective, latents: torch.Tensor) -> torch.Tensor:
    """Return an objective's gradient, shaped as `latents`."""
    with torch.inference_mode(False), torch.enable_grad():
        latents = _leaf(latents)
        return torch.autograd.grad(objective(latents).sum(), latents)[0]


def gradient_and_curvature(objective: Objective, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return an objective's gradient, and how concave it is in that direction, `(batch,)`, 0 where it is not."""
    with torch.inference_mode(False), torch.enable_grad():
        latents = _leaf(latents)
        slope = torch.autograd.grad(objective(latents).sum(), latents, create_graph=True)[0]
        norm = slope.detach().flatten(1).norm(dim=1).clamp(min=TINY)
        direction = slope.detach() / norm[:, None, None]
        change = torch.zeros_like(slope)  # the Hessian times the direction; a linear objective has none
        if slope.requires_grad:
            change = torch.autograd.grad(slope, latents, direction, materialize_grads=True)[0]
    return slope.detach(), -(change * direction).flatten(1).sum(1).clamp(max=0)


def predict_guided(
    denoise: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    scheduler: EDDPMScheduler,
    noisy: torch.Tensor,
    timestep: torch.Tensor,
    on_clean: Objective | None,
    on_noisy: Objective | None = None,
    scale: float = 1.0,
) -> tuple[torch.Tensor, torch.Tensor]:
    r"""Return the clean latents and the noise that the denoiser implies under guidance, shaped as `noisy`.

    The objective's gradient is added to the noise estimate (Dhariwal & Nichol 2021, arXiv 2105.05233, algorithm 2).
    An objective of clean latents is evaluated at the clean estimate and differentiated through the denoiser (Chung et
    al. 2023, arXiv 2209.14687, section 3). The clean latents are uncertain, the more so the earlier the step, and
    where the objective is concave its weight is lowered by that, as in Boys et al. 2023 (arXiv 2310.06721): exact for
    a quadratic objective along one direction and a Gaussian prior whose standard deviations differ at most 200-fold.
    Whatever the scale and the denoiser, such an objective moves the clean estimate by no more than a hundred times
    its distance from the optimum.

    Args:
        denoise: The denoiser as a function of noisy latents and a timestep.
        scheduler: The arithmetic of the model's chain.
        noisy: Noisy latents `(batch, num_latents, latent_dim)`.
        timestep: Where they are, in [0, T); between two timesteps the nearer one's arithmetic is used.
        on_clean: Objective of clean latents.
        on_noisy: Objective of noisy latents at that timestep.
        scale: Weight of both.
    """
    nearest = torch.as_tensor(timestep).round().long().clamp(0, len(scheduler) - 1)
    alpha_prod = scheduler.alphas_cumprod[int(nearest)].to(noisy.device)
    signal, noise_scale = alpha_prod.sqrt(), (1 - alpha_prod).sqrt()
    push = torch.zeros_like(noisy)
    if on_noisy is not None:
        push = push + scale * gradient(on_noisy, noisy)
    with torch.inference_mode(False), torch.enable_grad() if on_clean is not None else torch.no_grad():
        noisy = _leaf(noisy) if on_clean is not None else noisy.detach()
        clean, noise_pred = scheduler.predict(denoise(noisy, timestep), nearest, noisy)
        if on_clean is not None:
            slope, curvature = gradient_and_curvature(on_clean, clean)
            pulled_back = torch.autograd.grad(clean, noisy, slope)[0]
            # Cov[clean | noisy] = noise_scale^2 / signal * d clean / d noisy. Along the slope it is `spread`, by which
            # the objective, concave there by `curvature`, is less sure of the noisy latents than of the clean ones.
            norm = slope.flatten(1).norm(dim=1).clamp(min=TINY)
            along = (pulled_back * slope).flatten(1).sum(1) / norm
            along = torch.maximum(along, _LEAST_COSINE * pulled_back.flatten(1).norm(dim=1))
            spread = noise_scale**2 / signal * along / norm
            weight = scale / (1 + scale * curvature * spread)  # (batch,)
            push = push + weight[:, None, None] * pulled_back
    noise_pred = (noise_pred - noise_scale * push).detach()
    return ((noisy - noise_scale * noise_pred) / signal).detach(), noise_pred


@checked
def follow_ode(
    objective: Objective,
    latents: torch.Tensor,
    num_steps: Steps,
    scale: NumberFromZero = 1.0,
    solver: Solver = "midpoint",
) -> torch.Tensor:
    r"""Follow the ODE of LatentOps (Liu et al. 2022, arXiv 2208.00638, section 3.2) from time 1 to time 0.

    With latents that are standard Gaussian as a whole (`latent_normalization="batch"` sees to their scale) the
    probability-flow ODE of p(latents) exp(scale objective(latents)) is d latents / dt = -1/2 beta(t) scale
    grad objective: the prior's score cancels the drift. beta is linear, 0.1 at time 0 and 20 at time 1.

    Args:
        objective: Function of latents.
        latents: Where to start, `(batch, num_latents, latent_dim)`.
        num_steps: Steps of the solver.
        scale: Weight of the objective, at least 0.
        solver: Solver of torchdiffeq, with fixed steps.

    Returns:
        Latents after each step, `(num_steps, batch, num_latents, latent_dim)`.

    Raises:
        ValueError: If `scale` is negative or `solver` is none of those.
    """
    from torchdiffeq import odeint  # here, as it imports scipy

    def velocity(time: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        beta = _ODE_BETA_START + time * (_ODE_BETA_END - _ODE_BETA_START)
        return -0.5 * beta * scale * gradient(objective, latents)

    times = torch.linspace(1, 0, num_steps + 1, device=latents.device)
    return odeint(velocity, latents, times, method=solver)[1:]
