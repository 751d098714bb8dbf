"""Five methods that search the latents for a better property, behind `optimize`.

The methods see a `LatentProblem`, which knows nothing of data: each yields the states it goes through.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any

import torch
from diffusers.utils.torch_utils import randn_tensor

from ..argument_types import Bounds, Count, NumberFromZero, PositiveNumber, PositiveShare, Share, Steps, checked
from ..scheduling_eddpm import EDDPMScheduler
from .guided_step import TINY, Solver, follow_ode, gradient_and_curvature, predict_guided


@dataclass
class LatentState:
    """Data with what the model thinks of them.

    Args:
        samples: `batch` data.
        latents: Their posterior means, `(batch, num_latents, latent_dim)`.
        predictions: Their properties in the data's unit, `(batch, num_properties)`.
        scores: The objective there, `(batch,)`; -inf for a datum that breaks a limit.
    """

    samples: list[Any]
    latents: torch.Tensor
    predictions: torch.Tensor
    scores: torch.Tensor

    def take(self, rows: torch.Tensor) -> "LatentState":
        """Return the data of those rows, int64 `(any,)`."""
        samples = [self.samples[row] for row in rows.tolist()]
        return LatentState(samples, self.latents[rows], self.predictions[rows], self.scores[rows])

    def replaced(self, mask: torch.Tensor, other: "LatentState") -> "LatentState":
        """Return these data, with those of `other` where the bool `(batch,)` mask is True."""
        samples = [b if take else a for a, b, take in zip(self.samples, other.samples, mask.tolist(), strict=True)]
        return LatentState(
            samples,
            torch.where(mask[:, None, None], other.latents, self.latents),
            torch.where(mask[:, None], other.predictions, self.predictions),
            torch.where(mask, other.scores, self.scores),
        )


@dataclass
class LatentProblem:
    """What a method may ask. Latents are `(k * batch, num_latents, latent_dim)`: k rows for each datum, side by side.

    Args:
        start: The data to start from.
        objective: Differentiable function of latents, `(k * batch,)`; the larger the better. It is measured
            in standard deviations of the property.
        visit: Function that decodes latents, makes the data keep the limits, encodes and scores them again.
        denoise: The denoiser as a function of noisy latents and a timestep.
        scheduler: The chain's arithmetic; the methods choose its timesteps.
        generator: Source of noise, or one for each datum.
        look_up: Function that encodes a list of data; it returns their latents `(data, num_latents, latent_dim)` and
            which of them keep the limits of which start, bool `(batch, data)`.
        assess: Function that scores data, given with their latents.
    """

    start: LatentState
    objective: Callable[[torch.Tensor], torch.Tensor]
    visit: Callable[[torch.Tensor], LatentState]
    denoise: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    scheduler: EDDPMScheduler
    generator: torch.Generator | list[torch.Generator] | None
    look_up: Callable[[list[Any]], tuple[torch.Tensor, torch.Tensor]]
    assess: Callable[[list[Any], torch.Tensor], LatentState]

    def draw(self, *shape: int) -> torch.Tensor:
        """Draw standard Gaussian noise `(batch, *shape)`, each datum's from its own generator if it has one."""
        latents = self.start.latents
        return randn_tensor((len(latents), *shape), self.generator, device=latents.device, dtype=torch.float32)


@checked
def gradient(
    problem: LatentProblem,
    num_steps: Steps,
    *,
    step_size: PositiveNumber = 0.3,
    project: Share = 0.0,
    project_every: Count = 5,
    project_steps: Count = 10,
) -> Iterator[LatentState]:
    """Ascend the objective in the latents, as in ReLSO (Castro et al. 2022, arXiv 2201.09948).

    A step goes to the best point along the gradient of the objective's second-order expansion, but no farther than
    `step_size`: the Cauchy point (Nocedal & Wright 2006, Numerical Optimization, section 4.1). How steep the head is,
    which differs from model to model, then sets the direction alone.

    With a number as target the ascent ends where the head says that number for the latents. What they decode to may
    fall short of it, as the head is surer of a small move in the latents than the decoder: `guided` comes closer.

    With `project` the latents return every few steps to where the data are: they are noised part of the way and
    denoised by DDIM, without guidance (as SDEdit does with images, Meng et al. 2022, arXiv 2108.01073).

    Args:
        problem: What is to be optimised.
        num_steps: Steps of ascent.
        step_size: Most distance of a step in the latents, positive.
        project: Share in [0, 1] of the chain that a projection noises; 0 for no projections.
        project_every: Steps of ascent from one projection to the next.
        project_steps: DDIM steps of a projection.
    """
    latents = problem.start.latents
    for step in range(1, num_steps + 1):
        slope, curvature = gradient_and_curvature(problem.objective, latents)
        longest = step_size / slope.flatten(1).norm(dim=1).clamp(min=TINY)
        factor = torch.minimum(longest, 1 / curvature.clamp(min=TINY))  # (batch,)
        latents = latents + factor[:, None, None] * slope
        if project and step % project_every == 0:
            *_, latents = diffuse(problem, latents, project, project_steps, name="project_steps")
        yield problem.visit(latents)


@checked
def guided(
    problem: LatentProblem, num_steps: Steps, *, strength: PositiveShare = 0.5, scale: NumberFromZero = 10.0
) -> Iterator[LatentState]:
    r"""Denoise under guidance, which draws latents with a density of about p(latents) exp(scale objective(latents)).

    The objective is evaluated at the clean estimate, so that no regressor of noisy latents is needed: see
    `guided_step.predict_guided`.

    Args:
        problem: What is to be optimised.
        num_steps: DDIM steps, at most the timesteps of the noised part of the chain.
        strength: Share in (0, 1] of the chain that the start is noised; 1 is pure noise, which forgets the start.
        scale: Weight of the objective, at least 0; for a target value the inverse variance, in standardised units,
            that samples get around it.
    """
    for latents in diffuse(problem, problem.start.latents, strength, num_steps, scale):
        yield problem.visit(latents)


@checked
def mcmc(
    problem: LatentProblem, num_steps: Steps, *, step_size: PositiveNumber = 0.3, temperature: NumberFromZero = 0.1
) -> Iterator[LatentState]:
    """Walk by Metropolis' rule with decode-encode cycles (Castro et al. 2022, arXiv 2201.09948: MCMC-cycle).

    A Gaussian step in the latents is decoded and encoded again; the datum so found is accepted with the probability
    min(1, exp(change of the objective / temperature)) (Metropolis et al. 1953). Decoding makes the proposals
    asymmetric, for which nothing corrects: this is a search, not a sampler of an exact distribution.

    Args:
        problem: What is to be optimised.
        num_steps: Proposals for each datum.
        step_size: Standard deviation of the step, positive.
        temperature: In standardised units of the property, at least 0; 0 never accepts what is worse.
    """
    state = problem.start
    for _ in range(num_steps):
        proposal = problem.visit(state.latents + step_size * problem.draw(*state.latents.shape[1:]))
        uniform = torch.special.ndtr(problem.draw())  # (batch,)
        change = proposal.scores - state.scores
        accepted = change >= 0 if temperature == 0 else uniform.log() < change / temperature
        state = state.replaced(accepted, proposal)
        yield state


@checked
def hill_climb(
    problem: LatentProblem,
    num_steps: Steps,
    *,
    step_size: PositiveNumber = 0.3,
    num_neighbors: Annotated[int, Bounds(at_least=1, at_most=10**4)] = 8,
    candidates: list[Any] | None = None,
) -> Iterator[LatentState]:
    """Move to the best of some neighbours as long as it is better (Castro et al. 2022, arXiv 2201.09948).

    Args:
        problem: What is to be optimised.
        num_steps: Moves; a datum that has no better neighbour stays.
        step_size: Standard deviation of the Gaussian steps in the latents whose decoded data are the neighbours;
            positive. Without meaning where `candidates` are given.
        num_neighbors: Neighbours for each datum and step.
        candidates: Data in place of decoded ones: the neighbours are those nearest in the latents among the ones not
            looked at before. Those that break a limit are left out.
    """
    state = problem.start
    batch, *shape = state.latents.shape
    rows = torch.arange(batch, device=state.latents.device)
    if candidates is not None:
        pool, unseen = problem.look_up(candidates)
        num_neighbors = min(num_neighbors, len(pool))
    for _ in range(num_steps):
        if candidates is None:
            noise = problem.draw(num_neighbors, *shape)  # (batch, num_neighbors, num_latents, latent_dim)
            neighbors = problem.visit((state.latents[:, None] + step_size * noise).flatten(0, 1))
            scores = neighbors.scores.view(batch, num_neighbors)
        else:
            # Not by matrix products, whose rounding depends on the batch: (batch, data)
            mode = "donot_use_mm_for_euclid_dist"
            distances = torch.cdist(state.latents.flatten(1), pool.flatten(1), compute_mode=mode)
            nearest = distances.masked_fill(~unseen, math.inf).topk(num_neighbors, largest=False)
            chosen = nearest.indices.flatten()
            neighbors = problem.assess([candidates[row] for row in chosen.tolist()], pool[chosen])
            scores = neighbors.scores.view(batch, num_neighbors).masked_fill(nearest.values.isinf(), -math.inf)
            unseen[rows[:, None], nearest.indices] = False
        best_scores, best = scores.max(1)
        state = state.replaced(best_scores > state.scores, neighbors.take(rows * num_neighbors + best))
        yield state


@checked
def ode(
    problem: LatentProblem,
    num_steps: Steps,
    *,
    scale: NumberFromZero = 10.0,
    solver: Solver = "midpoint",
) -> Iterator[LatentState]:
    """Follow the ODE of LatentOps from time 1 to time 0: see `guided_step.follow_ode`.

    Args:
        problem: What is to be optimised.
        num_steps: Steps of the solver.
        scale: Weight of the objective, at least 0.
        solver: Solver of torchdiffeq, with fixed steps.
    """
    for latents in follow_ode(problem.objective, problem.start.latents, num_steps, scale, solver):
        yield problem.visit(latents)


METHODS: dict[str, Callable[..., Iterator[LatentState]]] = {
    "gradient": gradient,
    "guided": guided,
    "mcmc": mcmc,
    "hill_climb": hill_climb,
    "ode": ode,
}


def diffuse(
    problem: LatentProblem,
    latents: torch.Tensor,
    strength: float,
    num_steps: Steps,
    scale: float = 0.0,
    name: str = "num_steps",
) -> Iterator[torch.Tensor]:
    """Noise latents part of the way and denoise them by DDIM, guided if `scale` is positive (see `guided`).

    Args:
        problem: Supplies denoiser, schedule, noise and objective.
        latents: `(batch, num_latents, latent_dim)`.
        strength: Share of the chain, in (0, 1]; 1 starts from pure noise.
        num_steps: DDIM steps.
        scale: Weight of the objective.
        name: What error messages call `num_steps`.

    Yields:
        The clean estimate after each step; the last is the chain's result.

    Raises:
        ValueError: If there are more steps than timesteps.
    """
    scheduler = problem.scheduler
    num_timesteps = max(round(strength * len(scheduler)), 1)
    if num_steps > num_timesteps:
        raise ValueError(
            f"`{name}` must be at most {num_timesteps}, the timesteps in the share {strength} of the chain, "
            f"got {num_steps}."
        )
    ends = [round(num_timesteps * step / num_steps) for step in range(num_steps, 0, -1)]  # counted from 1
    scheduler.set_timesteps(timesteps=[end - 1 for end in ends], device=latents.device)
    noise = problem.draw(*latents.shape[1:])
    noisy = noise if strength == 1 else scheduler.add_noise(latents, noise, scheduler.timesteps[0])
    for t in scheduler.timesteps:
        if scale > 0:
            clean, noise_pred = predict_guided(
                problem.denoise, scheduler, noisy, t, on_clean=problem.objective, scale=scale
            )
        else:
            with torch.no_grad():
                clean, noise_pred = scheduler.predict(problem.denoise(noisy, t), t, noisy)
        model_output = scheduler.training_target(clean, noise_pred, t)
        noisy = scheduler.step(model_output, t, noisy, return_dict=False)[0]
        yield clean
