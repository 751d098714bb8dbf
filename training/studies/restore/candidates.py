"""Ways to draw latents given a measurement: those that `pipe.restore` was chosen from.

Each takes a `Problem` and a budget of gradients through the decoder, and returns latents
`(batch, num_latents, latent_dim)`. Step sizes were tried on 24 images that the study does not use, that
of latent DPS at more values than those of the others.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from hf_eddpm import EDDPMModel, EDDPMScheduler
from hf_eddpm.control.image_measurement import ImageMeasurement, expected_images
from hf_eddpm.control.restoration import sample_posterior

_DPS_STEP = 3.0  # times the gradient of the residual's norm
_GLUING = 0.3  # PSLD's weight of the encoder's agreement
_LEVELS = 10  # of the methods with several gradients at each
_FREE_LEVELS = 3  # of these, at which the chain runs as it is
_RESAMPLE_GAMMA = 40.0
_LANGEVIN_STEP = 0.3
_ADAM_STEP, _BETAS, _EPSILON = 0.1, (0.9, 0.99), 1e-8


@dataclass
class Problem:
    """One batch of measurements.

    Args:
        model: Whose latents they are to be drawn in.
        measurement: What was measured.
        batch: Measurements.
        generator: Source of noise.
    """

    model: EDDPMModel
    measurement: ImageMeasurement
    batch: int
    generator: torch.Generator

    def draw(self) -> torch.Tensor:
        """Noise shaped as the latents."""
        config = self.model.config
        return torch.randn(self.batch, config.num_latents, config.latent_dim, generator=self.generator)

    def denoise(self, noisy: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        """The denoiser's output."""
        return self.model.denoise(noisy, t).float()

    def chain(self, num_steps: int) -> EDDPMScheduler:
        """A scheduler with that many steps."""
        scheduler = EDDPMScheduler(**self.model.config.scheduler_config)
        scheduler.set_timesteps(num_steps)
        return scheduler

    def residual(self, latents: torch.Tensor) -> torch.Tensor:
        """Norm of what the measurement of the mean image misses, `(batch,)`."""
        measured = self.measurement.operator(expected_images(self.model, latents))
        return ((measured - self.measurement.values) * self.measurement.known).flatten(1).norm(dim=1)


def slope_of(problem: Problem, latents: torch.Tensor) -> torch.Tensor:
    """The gradient of the log-likelihood by the latents."""
    with torch.enable_grad():
        latents = latents.detach().requires_grad_()
        return torch.autograd.grad(problem.measurement.log_likelihood(latents).sum(), latents)[0]


def climb(problem: Problem, start: torch.Tensor, num_steps: int, variance: float = float("inf")) -> torch.Tensor:
    """Ascend log_likelihood(z) + log N(z; start, variance I) by Adam (Kingma & Ba 2015, arXiv 1412.6980)."""
    latents = start = start.detach()
    first, second = torch.zeros_like(start), torch.zeros_like(start)
    for step in range(1, num_steps + 1):
        slope = slope_of(problem, latents) - (latents - start) / variance
        first = _BETAS[0] * first + (1 - _BETAS[0]) * slope
        second = _BETAS[1] * second + (1 - _BETAS[1]) * slope.square()
        size = (second / (1 - _BETAS[1] ** step)).sqrt() + _EPSILON
        latents = latents + _ADAM_STEP * first / (1 - _BETAS[0] ** step) / size
    return latents


def latents_alone(problem: Problem, budget: int) -> torch.Tensor:
    """Gradient descent on the latents without a prior, from noise."""
    return climb(problem, problem.draw(), budget)


def latent_dps(problem: Problem, budget: int, gluing: float = 0.0) -> torch.Tensor:
    """Diffusion posterior sampling (Chung et al. 2023, arXiv 2209.14687, algorithm 1) in the latents."""
    scheduler, latents = problem.chain(budget), problem.draw()
    for t in scheduler.timesteps:
        with torch.enable_grad():
            noisy = latents.detach().requires_grad_()
            model_output = problem.denoise(noisy, t)
            clean, _ = scheduler.predict(model_output, t, noisy)
            goal = _DPS_STEP * problem.residual(clean)
            if gluing:
                goal = goal + gluing * _disagreement(problem, clean)
            (slope,) = torch.autograd.grad(goal.sum(), noisy)
        step = scheduler.step(model_output.detach(), t, latents, eta=1.0, generator=problem.generator)
        latents = step.prev_sample - slope
    return latents


def psld(problem: Problem, budget: int) -> torch.Tensor:
    """Latent DPS that also wants the image, once the measurement is put into it, to be encoded to the same latents.

    Source: Rout et al. 2023 (arXiv 2307.00619, algorithm 2).
    """
    return latent_dps(problem, budget // 2, _GLUING)  # a gradient through the encoder too takes twice as long


def _disagreement(problem: Problem, clean: torch.Tensor) -> torch.Tensor:
    images = expected_images(problem.model, clean)
    measured = problem.measurement.operator(images)
    missing = (problem.measurement.values - measured) * problem.measurement.known
    (back,) = torch.autograd.grad(measured, images, missing, create_graph=True)
    encoded = problem.model.encode(pixel_values=((images + back) * 2 - 1).clamp(-1, 1)).mean
    return (clean - encoded).flatten(1).norm(dim=1)


def resample(problem: Problem, budget: int) -> torch.Tensor:
    """Optimise the clean estimate, then mix it with the chain's own next latents by their variances.

    Source: Song et al. 2023 (arXiv 2307.08123, algorithm 1, stochastic resampling).
    """
    scheduler, latents = problem.chain(_LEVELS), problem.draw()
    for step, t in enumerate(scheduler.timesteps):
        model_output = problem.denoise(latents, t)
        clean, _ = scheduler.predict(model_output, t, latents)
        following = scheduler.step(model_output, t, latents).prev_sample
        if step < _FREE_LEVELS:
            latents = following
            continue
        best = climb(problem, clean, budget // (_LEVELS - _FREE_LEVELS))
        previous = scheduler.previous_timestep(int(t))
        if previous < 0:
            return best
        now, later = (float(scheduler.alphas_cumprod[each]) for each in (int(t), previous))
        variance = _RESAMPLE_GAMMA * (1 - later) / now * (1 - now / later)
        total = variance + 1 - later
        mean = (variance * later**0.5 * best + (1 - later) * following) / total
        latents = mean + (variance * (1 - later) / total) ** 0.5 * problem.draw()
    return latents


def langevin(problem: Problem, budget: int) -> torch.Tensor:
    """Decoupled annealing with Langevin steps at each level, their size set by running squares of the gradient.

    Source: Zhang et al. 2024 (arXiv 2407.01521, algorithm 1); the sizes are those of Li et al. 2016 (arXiv
    1512.07666).
    """

    def walk(clean: torch.Tensor, num_steps: int, variance: float) -> torch.Tensor:
        point, squares = clean, torch.zeros_like(clean)
        for place in range(1, num_steps + 1):
            slope = slope_of(problem, point) - (point - clean) / variance
            squares = 0.99 * squares + 0.01 * slope.square()
            size = _LANGEVIN_STEP / ((squares / (1 - 0.99**place)).sqrt() + 1)
            point = point + size * slope + (2 * size).sqrt() * problem.draw() * (size < variance)
        return point

    return _anneal(problem, budget, walk)


def annealing(problem: Problem, budget: int) -> torch.Tensor:
    """Decoupled annealing that optimises the clean estimate near where the denoiser expects it, as ReSample does."""
    return _anneal(problem, budget, functools.partial(climb, problem))


def _anneal(
    problem: Problem, budget: int, improve: Callable[[torch.Tensor, int, float], torch.Tensor]
) -> torch.Tensor:
    """Improve the clean estimate of each level, given steps and variance, and add the next level's noise to it."""
    scheduler, latents = problem.chain(_LEVELS), problem.draw()
    for step, t in enumerate(scheduler.timesteps):
        model_output = problem.denoise(latents, t)
        clean, _ = scheduler.predict(model_output, t, latents)
        previous = scheduler.previous_timestep(int(t))
        if step < _FREE_LEVELS:
            latents = scheduler.step(model_output, t, latents).prev_sample
            continue
        variance = 1 - float(scheduler.alphas_cumprod[int(t)])
        latents = improve(clean, budget // (_LEVELS - _FREE_LEVELS), variance)
        if previous >= 0:
            latents = scheduler.add_noise(latents, problem.draw(), torch.tensor(previous))
    return latents


def kept(problem: Problem, budget: int) -> torch.Tensor:
    """What `pipe.restore` does: latent DPS, the residual counted in standard deviations of the likelihood."""
    log_likelihood = problem.measurement.log_likelihood
    return sample_posterior(
        problem.denoise, problem.chain(budget), log_likelihood, problem.draw(), problem.draw, budget
    )


KEPT = "latent DPS in standard deviations (`restore`)"
CANDIDATES: dict[str, Callable[[Problem, int], torch.Tensor]] = {
    "gradient descent on the latents alone": latents_alone,
    "latent DPS": latent_dps,
    "PSLD": psld,
    "ReSample": resample,
    "annealing, Langevin (DAPS)": langevin,
    "annealing, optimised": annealing,
    KEPT: kept,
}
