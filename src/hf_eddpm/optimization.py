"""Optimisation of a property in the latents: five methods behind `optimize`, and the limits on sequences.

The methods see a `LatentProblem`, which knows nothing of data: each yields the states it goes through. What concerns
sequences (edit distance, trust region, frozen positions) is in `SequenceLimits`.
"""

import inspect
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor
from transformers.utils import logging

from .modeling_property import PropertyHead
from .modeling_protein import ProteinConvDecoder
from .scheduling_eddpm import EDDPMScheduler

if TYPE_CHECKING:
    from .pipeline_eddpm import EDDPMPipeline

logger = logging.get_logger(__name__)

# Variance-preserving diffusion of Song et al. 2021 (arXiv 2011.13456, appendix C), which LatentOps takes over.
_ODE_BETA_START, _ODE_BETA_END = 0.1, 20.0
_TINY = 1e-12  # in the place of a zero that would be divided by
# Fixed steps only: an adaptive solver chooses its steps for the batch as a whole, which ties the data to one another.
_ODE_SOLVERS = ("euler", "midpoint", "heun2", "heun3", "rk4")


@dataclass
class EDDPMOptimization(BaseOutput):
    """Result of `EDDPMPipeline.optimize`.

    Args:
        samples: For each datum the best of the states visited, the start among them, by the model's own prediction.
        predictions: The model's predictions for `samples`, encoded anew, in the data's unit; float32
            `(batch, num_properties)`.
        trajectory: For each datum the `num_steps + 1` states from the start on, as pairs of a sample and its
            predictions `(num_properties,)`. A step whose sample breaks a limit repeats the state before.
        edit_distances: Levenshtein distances of `samples` from the start, int64 `(batch,)`; None for data that are not
            strings.
        latents: Posterior means of `samples`, float32 `(batch, num_latents, latent_dim)`.
    """

    samples: list[Any]
    predictions: torch.Tensor
    trajectory: list[list[tuple[Any, torch.Tensor]]]
    edit_distances: torch.Tensor | None
    latents: torch.Tensor


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
        objective: Differentiable function of latents, `(k * batch,)`; the larger the better. Its unit is that of the
            standardised property.
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

    def gradient(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the objective's gradient, shaped as `latents`."""
        with torch.enable_grad():
            latents = latents.detach().requires_grad_()
            return torch.autograd.grad(self.objective(latents).sum(), latents)[0]

    def gradient_and_curvature(self, latents: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the objective's gradient, and how concave it is in that direction, `(batch,)`, 0 where it is not."""
        with torch.enable_grad():
            latents = latents.detach().requires_grad_()
            slope = torch.autograd.grad(self.objective(latents).sum(), latents, create_graph=True)[0]
            norm = slope.detach().flatten(1).norm(dim=1).clamp(min=_TINY)
            direction = slope.detach() / norm[:, None, None]
            change = torch.zeros_like(slope)  # the Hessian times the direction; a linear objective has none
            if slope.requires_grad:
                change = torch.autograd.grad(slope, latents, direction, materialize_grads=True)[0]
        return slope.detach(), -(change * direction).flatten(1).sum(1).clamp(max=0)

    def draw(self, *shape: int) -> torch.Tensor:
        """Draw standard Gaussian noise `(batch, *shape)`, each datum's from its own generator if it has one."""
        latents = self.start.latents
        return randn_tensor((len(latents), *shape), self.generator, device=latents.device, dtype=torch.float32)


def gradient(
    problem: LatentProblem,
    num_steps: int,
    *,
    step_size: float = 0.3,
    project: float = 0.0,
    project_every: int = 5,
    project_steps: int = 10,
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
    _check_number(step_size, "step_size", above=0)
    _check_number(project, "project", at_least=0, at_most=1)
    _check_count(project_every, "project_every")
    _check_count(project_steps, "project_steps")
    latents = problem.start.latents
    for step in range(1, num_steps + 1):
        slope, curvature = problem.gradient_and_curvature(latents)
        longest = step_size / slope.flatten(1).norm(dim=1).clamp(min=_TINY)
        factor = torch.minimum(longest, 1 / curvature.clamp(min=_TINY))  # (batch,)
        latents = latents + factor[:, None, None] * slope
        if project and step % project_every == 0:
            *_, latents = diffuse(problem, latents, project, project_steps, name="project_steps")
        yield problem.visit(latents)


def guided(
    problem: LatentProblem, num_steps: int, *, strength: float = 0.5, scale: float = 10.0
) -> Iterator[LatentState]:
    r"""Denoise under guidance, which draws latents with a density of about p(latents) exp(scale objective(latents)).

    Each step adds the objective's gradient to the noise estimate (Dhariwal & Nichol 2021, arXiv 2105.05233, algorithm
    2); the objective is evaluated at the clean estimate and differentiated through the denoiser, so that no regressor
    of noisy latents is needed (Chung et al. 2023, arXiv 2209.14687, section 3). The clean latents are uncertain,
    the more so the earlier the step, and where the objective is concave its weight is lowered by that, as in Boys et
    al. 2023 (arXiv 2310.06721): exact for a Gaussian prior and a target of a linear property, and stable at any scale.

    Args:
        problem: What is to be optimised.
        num_steps: DDIM steps, at most the timesteps of the noised part of the chain.
        strength: Share in (0, 1] of the chain that the start is noised; 1 is pure noise, which forgets the start.
        scale: Weight of the objective, at least 0; for a target value the inverse variance, in standardised units,
            that samples shall have around it.
    """
    _check_number(strength, "strength", above=0, at_most=1)
    _check_number(scale, "scale", at_least=0)
    for latents in diffuse(problem, problem.start.latents, strength, num_steps, scale):
        yield problem.visit(latents)


def mcmc(
    problem: LatentProblem, num_steps: int, *, step_size: float = 0.3, temperature: float = 0.1
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
    _check_number(step_size, "step_size", above=0)
    _check_number(temperature, "temperature", at_least=0)
    state = problem.start
    for _ in range(num_steps):
        proposal = problem.visit(state.latents + step_size * problem.draw(*state.latents.shape[1:]))
        uniform = torch.special.ndtr(problem.draw())  # (batch,)
        change = proposal.scores - state.scores
        accepted = change >= 0 if temperature == 0 else uniform.log() < change / temperature
        state = state.replaced(accepted, proposal)
        yield state


def hill_climb(
    problem: LatentProblem,
    num_steps: int,
    *,
    step_size: float = 0.3,
    num_neighbors: int = 8,
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
    _check_number(step_size, "step_size", above=0)
    _check_count(num_neighbors, "num_neighbors")
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


def ode(
    problem: LatentProblem,
    num_steps: int,
    *,
    scale: float = 10.0,
    solver: Literal["euler", "midpoint", "heun2", "heun3", "rk4"] = "midpoint",
) -> Iterator[LatentState]:
    r"""Follow the ODE of LatentOps (Liu et al. 2022, arXiv 2208.00638, section 3.2) from time 1 to time 0.

    With latents that are standard Gaussian as a whole (`latent_normalization="batch"` sees to their scale) the
    probability-flow ODE of p(latents) exp(scale objective(latents)) is d latents / dt = -1/2 beta(t) scale
    grad objective: the prior's score cancels the drift. beta is linear, 0.1 at time 0 and 20 at time 1.

    Args:
        problem: What is to be optimised.
        num_steps: Steps of the solver.
        scale: Weight of the objective, at least 0.
        solver: Solver of torchdiffeq, with fixed steps.

    Raises:
        ImportError: If torchdiffeq is missing.
    """
    try:
        from torchdiffeq import odeint
    except ImportError as error:
        raise ImportError("`method='ode'` needs torchdiffeq: run `pip install hf_eddpm[protein]`.") from error
    _check_number(scale, "scale", at_least=0)
    if solver not in _ODE_SOLVERS:
        raise ValueError(f"`solver` must be one of {_ODE_SOLVERS}, got {solver!r}.")

    def velocity(time: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        beta = _ODE_BETA_START + time * (_ODE_BETA_END - _ODE_BETA_START)
        return -0.5 * beta * scale * problem.gradient(latents)

    start = problem.start.latents
    times = torch.linspace(1, 0, num_steps + 1, device=start.device)
    for latents in odeint(velocity, start, times, method=solver)[1:]:  # (num_steps + 1, batch, ...)
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
    num_steps: int,
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
            clean, noise_pred = _predict_guided(problem, noisy, t, scale)
        else:
            with torch.no_grad():
                clean, noise_pred = scheduler.predict(problem.denoise(noisy, t), t, noisy)
        model_output = scheduler.training_target(clean, noise_pred, t)
        noisy = scheduler.step(model_output, t, noisy, return_dict=False)[0]
        yield clean


def _predict_guided(
    problem: LatentProblem, noisy: torch.Tensor, t: torch.Tensor, scale: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the clean latents and the noise that the denoiser implies under guidance, shaped as `noisy`."""
    alpha_prod = problem.scheduler.alphas_cumprod[int(t)].to(noisy.device)
    signal, noise_scale = alpha_prod.sqrt(), (1 - alpha_prod).sqrt()
    with torch.enable_grad():
        noisy = noisy.detach().requires_grad_()
        clean, noise_pred = problem.scheduler.predict(problem.denoise(noisy, t), t, noisy)
        slope, curvature = problem.gradient_and_curvature(clean)
        pulled_back = torch.autograd.grad(clean, noisy, slope)[0]
    # Cov[clean | noisy] = noise_scale^2 / signal * d clean / d noisy. Along the slope it is `spread`, by which the
    # objective, concave there by `curvature`, is less sure of the noisy latents than of the clean ones.
    square = slope.square().flatten(1).sum(1).clamp(min=_TINY)
    spread = noise_scale**2 / signal * (pulled_back * slope).flatten(1).sum(1) / square
    weight = scale / (1 + scale * curvature * spread.clamp(min=0))  # (batch,)
    noise_pred = (noise_pred - noise_scale * weight[:, None, None] * pulled_back).detach()
    return ((noisy - noise_scale * noise_pred) / signal).detach(), noise_pred


class SequenceLimits:
    """How far sequences may go from their starts.

    Args:
        starts: The sequences to start from.
        max_mutations: Most edits (Levenshtein) from the start, or `None`.
        frozen_positions: Positions of the start that keep their residues; with any, sequences keep their length.
        log_odds: Function of latents, starts and sequences of the same lengths, one of each for each row. For each row
            it returns a list over positions: the larger, the surer the decoder is of the change there. Only the order
            within a row matters.
        placeholder: Symbol that decoded sequences may hold but data may not: the start's residue takes its place.

    Raises:
        ImportError: If rapidfuzz is missing.
        TypeError: If the frozen positions are not a list of integers.
        ValueError: If they are out of range, or `max_mutations` is negative.
    """

    def __init__(
        self,
        starts: list[str],
        max_mutations: int | None,
        frozen_positions: Sequence[int] | None,
        log_odds: Callable[[torch.Tensor, list[str], list[str]], list[list[float]]],
        placeholder: str | None = None,
    ):
        if max_mutations is not None:
            _check_count(max_mutations, "max_mutations", minimum=0)
        frozen = [] if frozen_positions is None else frozen_positions
        if not isinstance(frozen, (list, tuple)) or not all(_is_integer(position) for position in frozen):
            raise TypeError(f"`frozen_positions` must be a list of integers, got {frozen_positions!r}.")
        length = min(map(len, starts))
        if outside := [position for position in frozen if not 0 <= position < length]:
            raise ValueError(
                f"`frozen_positions` must be in [0, {length}), the positions of the shortest sequence, got {outside}."
            )
        self.starts = starts
        self.max_mutations = max_mutations
        self.frozen = frozenset(frozen)
        self.log_odds = log_odds
        self.placeholder = placeholder
        self.distance = _levenshtein()

    def apply(self, sequences: list[str], latents: torch.Tensor) -> list[str | None]:
        """Make sequences keep the limits.

        Of a sequence as long as its start the changes the decoder is surest of are kept and the others reverted. Of
        any other length it is kept as it is or not at all.

        Args:
            sequences: k for each start, side by side.
            latents: What they were decoded from, `(k * batch, num_latents, latent_dim)`.

        Returns:
            The sequences, None for those that cannot be kept.
        """
        copies = len(sequences) // len(self.starts)
        starts = [start for start in self.starts for _ in range(copies)]
        results = [self._without_forbidden(sequence, start) for sequence, start in zip(sequences, starts, strict=True)]
        far = {
            row for row, (result, start) in enumerate(zip(results, starts, strict=True)) if self._far(result, start)
        }
        same = {row: result for row, result in enumerate(results) if row in far and result is not None}
        same = {row: result for row, result in same.items() if len(result) == len(starts[row])}
        if same:
            rows = list(same)
            odds = self.log_odds(latents[rows], [starts[row] for row in rows], list(same.values()))
            for row, each in zip(rows, odds, strict=True):
                results[row] = self._keep_surest(same[row], starts[row], each)
        return [None if row in far and row not in same else result for row, result in enumerate(results)]

    def allow(self, sequence: str) -> list[bool]:
        """Whether a sequence keeps the limits as it is, for each start."""
        return [
            (not self.frozen or len(sequence) == len(start) and all(sequence[i] == start[i] for i in self.frozen))
            and not self._far(sequence, start)
            for start in self.starts
        ]

    def _without_forbidden(self, sequence: str, start: str) -> str | None:
        """Revert what may not change at all; None if the length must stay and does not."""
        if len(sequence) != len(start):
            forbidden = self.frozen or (self.placeholder is not None and self.placeholder in sequence)
            return None if forbidden else sequence
        kept = [
            old if position in self.frozen or new == self.placeholder else new
            for position, (old, new) in enumerate(zip(start, sequence, strict=True))
        ]
        return "".join(kept)

    def _far(self, sequence: str | None, start: str) -> bool:
        if sequence is None or self.max_mutations is None:
            return False
        return self.distance(start, sequence, score_cutoff=self.max_mutations) > self.max_mutations

    def _keep_surest(self, sequence: str, start: str, odds: list[float]) -> str:
        changed = [position for position in range(len(start)) if sequence[position] != start[position]]
        surest = sorted(changed, key=lambda position: -odds[position])[: self.max_mutations]
        return "".join(sequence[i] if i in surest else start[i] for i in range(len(start)))


def optimize(
    pipe: "EDDPMPipeline",
    data: Any,
    method: Literal["gradient", "guided", "mcmc", "hill_climb", "ode"] = "gradient",
    target: float | Sequence[float] | Literal["higher", "lower"] = "higher",
    property_index: int | None = None,
    num_steps: int = 50,
    max_mutations: int | None = None,
    frozen_positions: Sequence[int] | None = None,
    generator: torch.Generator | list[torch.Generator] | None = None,
    **method_arguments: Any,
) -> EDDPMOptimization:
    """Change data so that the model predicts a better property: see `EDDPMPipeline.optimize`."""
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"`method` must be one of {list(METHODS)}, got {method!r}.")
    parameters = inspect.signature(METHODS[method]).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    if unknown := sorted(set(method_arguments) - set(known)):
        raise TypeError(f"`method={method!r}` takes {known}, got {unknown} besides.")
    _check_count(num_steps, "num_steps")
    head = pipe.model.property_head
    if head is None:
        raise ValueError("`optimize` needs a model with a property head (`num_properties` > 0), got one without.")
    starts = pipe.processor.as_list(data)
    _check_generator(generator, len(starts))
    objective = _make_objective(head, target, property_index, len(starts))
    limits = _make_limits(pipe, starts, max_mutations, frozen_positions)

    problem = _make_problem(pipe, head, starts, objective, limits, generator)
    state = best = problem.start
    trajectory = [[(sample, prediction)] for sample, prediction in zip(state.samples, state.predictions, strict=True)]
    with pipe.progress_bar(total=num_steps) as progress_bar:
        for visited in METHODS[method](problem, num_steps, **method_arguments):
            state = state.replaced(visited.scores.isfinite(), visited)
            best = best.replaced(state.scores > best.scores, state)
            for path, sample, prediction in zip(trajectory, state.samples, state.predictions, strict=True):
                path.append((sample, prediction))
            progress_bar.update()
    distances = None
    if limits is not None:
        distances = torch.tensor([limits.distance(*pair) for pair in zip(starts, best.samples, strict=True)])
    pipe.maybe_free_model_hooks()
    return EDDPMOptimization(
        samples=best.samples,
        predictions=best.predictions,
        trajectory=trajectory,
        edit_distances=distances,
        latents=best.latents,
    )


def _make_problem(
    pipe: "EDDPMPipeline",
    head: PropertyHead,
    starts: list[Any],
    objective: Callable[[torch.Tensor], torch.Tensor],
    limits: SequenceLimits | None,
    generator: torch.Generator | list[torch.Generator] | None,
) -> LatentProblem:
    model, processor = pipe.model, pipe.processor

    @torch.no_grad()
    def assess(samples: list[Any], latents: torch.Tensor) -> LatentState:
        return LatentState(samples, latents, head.predict(latents), objective(latents))

    def decode_arguments(copies: int) -> dict[str, Any]:
        # A causal decoder that knows the frozen residues suits the others to them; `limits` holds with any decoder.
        if limits is None or not limits.frozen or "frozen_positions" not in model.decoder.per_datum_arguments:
            return {}
        sites = [{processor.first_site(start) + i: start[i] for i in limits.frozen} for start in starts]
        return {"frozen_positions": [each for each in sites for _ in range(copies)]}

    def visit(latents: torch.Tensor) -> LatentState:
        if not bool(torch.isfinite(latents).all()):
            raise ValueError("The latents grew beyond all bounds: choose a smaller `step_size` or `scale`.")
        samples: list[Any] = pipe.decode(latents, **decode_arguments(len(latents) // len(starts)))
        if limits is not None:
            samples = limits.apply(samples, latents)
        valid = _accepted(pipe, samples)
        # In the place of a datum that breaks a limit, or that the processor does not take, its start is encoded: what
        # the encoder sees at once does not depend on which are valid.
        copies = len(samples) // len(starts)
        samples = [sample if valid[row] else starts[row // copies] for row, sample in enumerate(samples)]
        state = assess(samples, pipe.encode(samples).latents)
        state.scores.masked_fill_(~torch.tensor(valid, device=state.scores.device), -math.inf)
        return state

    def look_up(candidates: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        items = processor.as_list(candidates, "candidates")
        allowed = torch.ones(len(items), len(starts), dtype=torch.bool)
        if limits is not None:
            allowed = torch.tensor([limits.allow(item) for item in items])
        latents = pipe.encode(items).latents
        return latents, allowed.T.clone().to(latents.device)

    start = assess(starts, pipe.encode(starts).latents)
    return LatentProblem(
        start=start,
        objective=objective,
        visit=visit,
        denoise=lambda latents, t: model.denoise(latents, t).float(),
        scheduler=EDDPMScheduler(**model.config.scheduler_config),  # its DDIM, whatever scheduler generates
        generator=generator,
        look_up=look_up,
        assess=assess,
    )


def _make_objective(
    head: PropertyHead, target: Any, property_index: int | None, batch: int
) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the objective: the standardised prediction, minus it, or -1/2 its squared distance from the target."""
    count = len(head.target_mean)
    if property_index is None and count > 1:
        raise ValueError(f"`property_index` must be given: the model predicts {count} properties.")
    index = 0 if property_index is None else property_index
    if not _is_integer(index) or not 0 <= index < count:
        raise ValueError(f"`property_index` must be an integer in [0, {count}), got {property_index!r}.")
    if isinstance(target, str):
        if target not in ("higher", "lower"):
            raise ValueError(f"`target` must be 'higher', 'lower' or numbers, got {target!r}.")
        sign = 1 if target == "higher" else -1
        return lambda latents: sign * head(latents)[:, index]

    values = [target] * batch if _is_number(target) else target
    if not isinstance(values, (list, tuple)) or not all(map(_is_number, values)):
        raise TypeError(f"`target` must be 'higher', 'lower', a number or a list of numbers, got {target!r}.")
    if len(values) != batch:
        raise ValueError(f"`target` must be one number or one for each of {batch} data, got {len(values)}.")
    if not all(map(math.isfinite, values)):
        raise ValueError(f"`target` must be finite, got {target!r}.")
    low, high = float(head.minimum[index]), float(head.maximum[index])
    if outside := [value for value in values if not low <= value <= high]:
        logger.warning(
            f"`target` {outside[0]:g} is outside what training saw, {low:g} to {high:g}: the model extrapolates there."
        )
    goal = torch.tensor(values, dtype=torch.float32)
    goal = (goal.to(head.target_mean.device) - head.target_mean[index]) / head.target_std[index]  # (batch,)

    def closeness(latents: torch.Tensor) -> torch.Tensor:
        return -0.5 * (head(latents)[:, index] - goal.repeat_interleave(len(latents) // batch)).square()

    return closeness


def _make_limits(
    pipe: "EDDPMPipeline", starts: list[Any], max_mutations: int | None, frozen_positions: Sequence[int] | None
) -> SequenceLimits | None:
    """Return the limits; None for data that are not strings."""
    if not isinstance(starts[0], str):
        if max_mutations is not None or frozen_positions is not None:
            raise ValueError(
                "`max_mutations` and `frozen_positions` are for data that are strings, got "
                f"{type(starts[0]).__name__}."
            )
        return None
    placeholder = getattr(pipe.processor, "padding_symbol", None)  # only processors of sequences have one
    return SequenceLimits(
        starts, max_mutations, frozen_positions, lambda *arguments: _log_odds(pipe, *arguments), placeholder
    )


@torch.no_grad()
def _log_odds(
    pipe: "EDDPMPipeline", latents: torch.Tensor, starts: list[str], sequences: list[str]
) -> list[list[float]]:
    """Return log p(start with the change at a position | latents) - log p(start | latents) for each position."""
    decoder = pipe.model.decoder
    latents = latents.to(pipe.model.denoiser.output.weight.dtype)
    if isinstance(decoder, ProteinConvDecoder):  # its sites are independent, one evaluation gives all
        log_probs = decoder.logits(latents).log_softmax(-1)  # (batch, sites, vocabulary)
        old, new = (pipe.processor(each)["labels"].to(latents.device)[..., None] for each in (starts, sequences))
        frames = (log_probs.gather(-1, new) - log_probs.gather(-1, old))[..., 0].tolist()
        firsts = [pipe.processor.first_site(start) for start in starts]
        return [row[at : at + len(start)] for row, at, start in zip(frames, firsts, starts, strict=True)]

    changes = [
        (row, position, start[:position] + new + start[position + 1 :])
        for row, (start, sequence) in enumerate(zip(starts, sequences, strict=True))
        for position, new in enumerate(sequence)
        if new != start[position]
    ]
    accepted = _accepted(pipe, [mutant for _, _, mutant in changes])
    changes = [change for change, valid in zip(changes, accepted, strict=True) if valid]
    odds = [[-math.inf] * len(start) for start in starts]
    for first in range(0, len(changes), 256):
        chunk = changes[first : first + 256]
        batch = pipe.processor([mutant for _, _, mutant in chunk])
        targets = {name: batch[name].to(latents.device) for name in decoder.target_names}
        nats, _ = decoder(latents[[row for row, _, _ in chunk]], **targets)  # (chunk,)
        for (row, position, _), value in zip(chunk, nats.tolist(), strict=True):
            odds[row][position] = -value  # the start's own term, the same throughout a row, is left out
    return odds


def _accepted(pipe: "EDDPMPipeline", samples: list[Any]) -> list[bool]:
    """Tell which samples the processor takes; None is no sample."""
    try:
        pipe.processor(samples)
        return [True] * len(samples)
    except (TypeError, ValueError):
        if len(samples) == 1:
            return [False]
        return [_accepted(pipe, [sample])[0] for sample in samples]


def _levenshtein() -> Callable[..., int]:
    try:
        from rapidfuzz.distance import Levenshtein
    except ImportError as error:
        raise ImportError("Edit distances need rapidfuzz: run `pip install hf_eddpm[protein]`.") from error
    return Levenshtein.distance


def _check_generator(generator: Any, batch: int) -> None:
    generators = generator if isinstance(generator, list) else [] if generator is None else [generator]
    if not all(isinstance(each, torch.Generator) for each in generators):
        raise TypeError("`generator` must be a torch.Generator or a list of them, one for each datum.")
    if isinstance(generator, list) and len(generator) != batch:
        raise ValueError(f"`generator` must hold one generator for each of {batch} data, got {len(generator)}.")


def _is_integer(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _check_count(value: Any, name: str, minimum: int = 1) -> None:
    if not _is_integer(value) or value < minimum:
        raise ValueError(f"`{name}` must be an integer of at least {minimum}, got {value!r}.")


def _check_number(
    value: Any, name: str, above: float | None = None, at_least: float | None = None, at_most: float = math.inf
) -> None:
    valid = _is_number(value) and math.isfinite(value) and value <= at_most
    if not valid or (above is not None and value <= above) or (at_least is not None and value < at_least):
        low = f"above {above:g}" if above is not None else f"at least {at_least:g}"
        high = "" if at_most == math.inf else f" and at most {at_most:g}"
        raise ValueError(f"`{name}` must be a finite number {low}{high}, got {value!r}.")
