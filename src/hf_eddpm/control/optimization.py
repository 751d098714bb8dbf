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
from diffusers.utils.torch_utils import randn_tensor
from rapidfuzz.distance import Levenshtein

from ..argument_checks import check_count, check_number, is_integer
from .guidance import (
    follow_ode,
    gradient_and_curvature,
    predict_guided,
    property_objective,
)
from ..modeling_property import PropertyHead
from ..modalities.protein.modeling import ProteinConvDecoder
from ..outputs import EDDPMOptimization
from ..scheduling_eddpm import EDDPMScheduler

if TYPE_CHECKING:
    from ..pipeline_eddpm import EDDPMPipeline

_TINY = 1e-12  # in the place of a zero that would be divided by


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
    check_number(step_size, "step_size", above=0)
    check_number(project, "project", at_least=0, at_most=1)
    check_count(project_every, "project_every")
    check_count(project_steps, "project_steps")
    latents = problem.start.latents
    for step in range(1, num_steps + 1):
        slope, curvature = gradient_and_curvature(problem.objective, latents)
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

    The objective is evaluated at the clean estimate, so that no regressor of noisy latents is needed: see
    `guidance.predict_guided`.

    Args:
        problem: What is to be optimised.
        num_steps: DDIM steps, at most the timesteps of the noised part of the chain.
        strength: Share in (0, 1] of the chain that the start is noised; 1 is pure noise, which forgets the start.
        scale: Weight of the objective, at least 0; for a target value the inverse variance, in standardised units,
            that samples shall have around it.
    """
    check_number(strength, "strength", above=0, at_most=1)
    check_number(scale, "scale", at_least=0)
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
    check_number(step_size, "step_size", above=0)
    check_number(temperature, "temperature", at_least=0)
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
    check_number(step_size, "step_size", above=0)
    check_count(num_neighbors, "num_neighbors")
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
    """Follow the ODE of LatentOps from time 1 to time 0: see `guidance.follow_ode`.

    Args:
        problem: What is to be optimised.
        num_steps: Steps of the solver.
        scale: Weight of the objective, at least 0.
        solver: Solver of torchdiffeq, with fixed steps.

    Raises:
        ImportError: If torchdiffeq is missing.
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
            clean, noise_pred = predict_guided(
                problem.denoise, scheduler, noisy, t, on_clean=problem.objective, scale=scale
            )
        else:
            with torch.no_grad():
                clean, noise_pred = scheduler.predict(problem.denoise(noisy, t), t, noisy)
        model_output = scheduler.training_target(clean, noise_pred, t)
        noisy = scheduler.step(model_output, t, noisy, return_dict=False)[0]
        yield clean


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
            check_count(max_mutations, "max_mutations", minimum=0)
        frozen = [] if frozen_positions is None else frozen_positions
        if not isinstance(frozen, (list, tuple)) or not all(is_integer(position) for position in frozen):
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
        self.distance = Levenshtein.distance

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
    check_count(num_steps, "num_steps")
    head = pipe.model.property_head
    if head is None:
        raise ValueError("`optimize` needs a model with a property head (`num_properties` > 0), got one without.")
    starts = pipe.processor.as_list(data)
    _check_generator(generator, len(starts))
    objective = property_objective(head, target, property_index, len(starts))
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


def _check_generator(generator: Any, batch: int) -> None:
    generators = generator if isinstance(generator, list) else [] if generator is None else [generator]
    if not all(isinstance(each, torch.Generator) for each in generators):
        raise TypeError("`generator` must be a torch.Generator or a list of them, one for each datum.")
    if isinstance(generator, list) and len(generator) != batch:
        raise ValueError(f"`generator` must hold one generator for each of {batch} data, got {len(generator)}.")
