"""Optimisation of a property: what the methods of `search` are told of the data, and what comes of them."""

import inspect
import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import torch

from ..argument_checks import check_count, check_generators
from ..modeling_eddpm import EDDPMModel
from ..modeling_property import PropertyHead
from ..outputs import EDDPMOptimization
from ..processing_eddpm import EDDPMProcessor
from ..scheduling_eddpm import EDDPMScheduler
from .guidance import LatentSpace, property_objective
from .search import METHODS, LatentProblem, LatentState
from .sequence_limits import SequenceLimits


def optimize(
    space: LatentSpace,
    processor: EDDPMProcessor,
    decode: Callable[..., list[Any]],
    progress_bar: Callable[..., Any],
    data: Any,
    method: Literal["gradient", "guided", "mcmc", "hill_climb", "ode"] = "gradient",
    target: float | Sequence[float] | Literal["higher", "lower"] = "higher",
    property_index: int | None = None,
    num_steps: int = 50,
    max_mutations: int | None = None,
    frozen_positions: Sequence[int] | None = None,
    generator: torch.Generator | list[torch.Generator] | None = None,
    judge: tuple[PropertyHead, Callable[[torch.Tensor], torch.Tensor]] | None = None,
    **method_arguments: Any,
) -> EDDPMOptimization:
    """Change data so that the model predicts a better property.

    Args:
        space: The model and its latents.
        processor: The modality's processor.
        decode: Function from latents, and arguments of the decoder, to data.
        progress_bar: Function that makes a progress bar of `total` steps.
        data: As for `EDDPMPipeline.optimize`, and so are the others.
        method: A name in `search.METHODS`.
        target: "higher", "lower" or numbers.
        property_index: Which property.
        num_steps: Steps of the method.
        max_mutations: Most edits of a sequence.
        frozen_positions: Positions that keep their residues.
        generator: Source of noise, or one for each datum.
        judge: A property head in the place of the model's, and an objective of latents in the place of `target`.
        **method_arguments: What the method takes besides.
    """
    if not isinstance(method, str) or method not in METHODS:
        raise ValueError(f"`method` must be one of {list(METHODS)}, got {method!r}.")
    parameters = inspect.signature(METHODS[method]).parameters.values()
    known = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    if unknown := sorted(set(method_arguments) - set(known)):
        raise TypeError(f"`method={method!r}` takes {known}, got {unknown} besides.")
    check_count(num_steps, "num_steps")
    head = space.model.property_head if judge is None else judge[0]
    if head is None:
        raise ValueError("`optimize` needs a model with a property head (`num_properties` > 0), got one without.")
    starts = processor.as_list(data)
    check_generators(generator, len(starts), "datum", "data")
    objective = property_objective(head, target, property_index, len(starts)) if judge is None else judge[1]
    limits = _make_limits(space.model, processor, starts, max_mutations, frozen_positions)

    problem = _make_problem(space, processor, decode, head, starts, objective, limits, generator)
    state = best = problem.start
    trajectory = [[(sample, prediction)] for sample, prediction in zip(state.samples, state.predictions, strict=True)]
    with progress_bar(total=num_steps) as bar:
        for visited in METHODS[method](problem, num_steps, **method_arguments):
            state = state.replaced(visited.scores.isfinite(), visited)
            best = best.replaced(state.scores > best.scores, state)
            for path, sample, prediction in zip(trajectory, state.samples, state.predictions, strict=True):
                path.append((sample, prediction))
            bar.update()
    distances = None
    if limits is not None:
        distances = torch.tensor([limits.distance(*pair) for pair in zip(starts, best.samples, strict=True)])
    return EDDPMOptimization(
        samples=best.samples,
        predictions=best.predictions,
        trajectory=trajectory,
        edit_distances=distances,
        latents=best.latents,
    )


def _make_problem(
    space: LatentSpace,
    processor: EDDPMProcessor,
    decode: Callable[..., list[Any]],
    head: PropertyHead,
    starts: list[Any],
    objective: Callable[[torch.Tensor], torch.Tensor],
    limits: SequenceLimits | None,
    generator: torch.Generator | list[torch.Generator] | None,
) -> LatentProblem:
    model = space.model

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
        samples: list[Any] = decode(latents, **decode_arguments(len(latents) // len(starts)))
        if limits is not None:
            samples = limits.apply(samples, latents)
        valid = _accepted(processor, samples)
        # In the place of a datum that breaks a limit, or that the processor does not take, its start is encoded: what
        # the encoder sees at once does not depend on which are valid.
        copies = len(samples) // len(starts)
        samples = [sample if valid[row] else starts[row // copies] for row, sample in enumerate(samples)]
        state = assess(samples, space.encode(samples))
        state.scores.masked_fill_(~torch.tensor(valid, device=state.scores.device), -math.inf)
        return state

    def look_up(candidates: list[Any]) -> tuple[torch.Tensor, torch.Tensor]:
        items = processor.as_list(candidates, "candidates")
        allowed = torch.ones(len(items), len(starts), dtype=torch.bool)
        if limits is not None:
            allowed = torch.tensor([limits.allow(item) for item in items])
        latents = space.encode(items)
        return latents, allowed.T.clone().to(latents.device)

    start = assess(starts, space.encode(starts))
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
    model: EDDPMModel,
    processor: EDDPMProcessor,
    starts: list[Any],
    max_mutations: int | None,
    frozen_positions: Sequence[int] | None,
) -> SequenceLimits | None:
    """Return the limits; None for data that are not strings."""
    if not isinstance(starts[0], str):
        if max_mutations is not None or frozen_positions is not None:
            raise ValueError(
                "`max_mutations` and `frozen_positions` are for data that are strings, got "
                f"{type(starts[0]).__name__}."
            )
        return None
    forbidden = getattr(processor, "unproposed_symbols", "")  # only processors of sequences have some
    log_odds = partial(_log_odds, model, processor)
    return SequenceLimits(starts, max_mutations, frozen_positions, log_odds, forbidden)


@torch.no_grad()
def _log_odds(
    model: EDDPMModel, processor: EDDPMProcessor, latents: torch.Tensor, starts: list[str], sequences: list[str]
) -> list[list[float]]:
    """Return log p(start with the change at a position | latents) - log p(start | latents) for each position."""
    decoder: Any = model.decoder
    latents = latents.to(model.denoiser.output.weight.dtype)
    if decoder.has_independent_sites:  # one evaluation gives all
        log_probs = decoder.logits(latents).log_softmax(-1)  # (batch, sites, vocabulary)
        old, new = (processor(each)["labels"].to(latents.device)[..., None] for each in (starts, sequences))
        frames = (log_probs.gather(-1, new) - log_probs.gather(-1, old))[..., 0].tolist()
        firsts = [processor.first_site(start) for start in starts]
        return [row[at : at + len(start)] for row, at, start in zip(frames, firsts, starts, strict=True)]

    changes = [
        (row, position, start[:position] + new + start[position + 1 :])
        for row, (start, sequence) in enumerate(zip(starts, sequences, strict=True))
        for position, new in enumerate(sequence)
        if new != start[position]
    ]
    accepted = _accepted(processor, [mutant for _, _, mutant in changes])
    changes = [change for change, valid in zip(changes, accepted, strict=True) if valid]
    odds = [[-math.inf] * len(start) for start in starts]
    for first in range(0, len(changes), 256):
        chunk = changes[first : first + 256]
        batch = processor([mutant for _, _, mutant in chunk])
        targets = {name: batch[name].to(latents.device) for name in decoder.target_names}
        nats, _ = decoder(latents[[row for row, _, _ in chunk]], **targets)  # (chunk,)
        for (row, position, _), value in zip(chunk, nats.tolist(), strict=True):
            odds[row][position] = -value  # the start's own term, the same throughout a row, is left out
    return odds


def _accepted(processor: EDDPMProcessor, samples: list[Any]) -> list[bool]:
    """Tell which samples the processor takes; None is no sample."""
    try:
        processor(samples)
        return [True] * len(samples)
    except (TypeError, ValueError):
        if len(samples) == 1:
            return [False]
        return [_accepted(processor, [sample])[0] for sample in samples]
