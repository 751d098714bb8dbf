"""The way from starts and measurements to a batch: candidates, judgement, selection, table."""

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein
from transformers.utils import logging

from ..argument_types import refuse_without
from ..configuration_eddpm import EDDPMConfig
from ..modeling_property import PropertyHead
from ..property_ensemble import HeadSizes, fit_ensemble
from .alignment import aligned_frames
from .candidates import LIBRARY, METHODS, Pool, Sources, list_edits, propose
from .goals import Direction, Goal, Objective
from .judges import HeadJudge, Judge, ProcessJudge, Scores
from .limits import DesignLimits
from .measurements import Measurements, check_measurements
from .result import Design, EDDPMDesigns
from .selection import Acquisition, select_batch

logger = logging.get_logger(__name__)

_JUDGED = 1000  # candidates, the most promising ones, among which the batch is chosen
_DRAWS = 512  # functions that stand for what the judge holds possible
_HEAD_ROWS = 3000  # measured rows that searches in the latents learn from
_HEAD_MEMBERS, _HEAD_STEPS = 4, 300
_NUM_STARTS = 12  # of the searches, where none are given
_NUM_PARENTS = 48  # good sequences that changes are made of
_REACH = 3  # edits of a change from the best measured sequences: no judge knows what a leap breaks
_CHUNK = 8192  # sequences of a library at a time
_SHOWN = 1000  # measured sequences on the map of latents
_NINETY = 1.6448536269514722  # standard deviations to either end of a Gaussian's central 90 %


@dataclass
class DesignRequest:
    """What a batch must be: the arguments of `EDDPMPipeline.design`, which describes them."""

    starts: Any = None
    measured: Any = None
    values: Any = None
    num_designs: int = 96
    target: Direction | Sequence[Direction] = "higher"
    weights: Sequence[float] | Literal["pareto"] | None = None
    wild_type: str | None = None
    max_mutations: int | None = None
    frozen_positions: Sequence[int] | None = None
    allowed_residues: Mapping[int, str] | None = None
    forbidden_motifs: Sequence[str] = ()
    max_insertions: int | None = None
    max_deletions: int | None = None
    min_distance: int = 1
    min_novelty: int = 1
    known_sequences: Collection[str] | None = None
    library: Collection[str] | None = None
    methods: Sequence[str] | None = None
    use_latents: bool = False
    exploration: float = 0.5
    acquisition: Acquisition = "thompson"
    num_candidates: int = 2000
    num_steps: int = 20


@dataclass
class ModelParts:
    """What the pipeline does for a design.

    Args:
        config: The model's configuration.
        head: Its property head, or None.
        lengths: Fewest and most residues of a protein.
        as_list: The processor's check of proteins, by the name of the argument.
        to_frames: Function from sequences to frames, uint8 `(num, sites)`.
        encode: Function from sequences to latents, `(num, num_latents, latent_dim)`.
        sample: Function from a number, an objective of latents or None, and a generator to samples.
        search: Function from a method of `optimize`, starts, a head with an objective, steps, limits and a generator
            to all sequences on the way.
        bound: Function from sequences to the model's bound on their negative log-likelihood in nats, `(num,)`.
    """

    config: EDDPMConfig
    head: PropertyHead | None
    lengths: tuple[int, int]
    as_list: Callable[[Any, str], list[str]]
    to_frames: Callable[[Sequence[str]], NDArray[np.uint8]]
    encode: Callable[[Sequence[str]], torch.Tensor]
    sample: Callable[[int, Objective | None, torch.Generator | None], list[str]]
    search: Callable[..., list[str]]
    bound: Callable[[Sequence[str]], NDArray[np.float64]]


def design_batch(model: ModelParts, request: DesignRequest, generator: torch.Generator | None) -> EDDPMDesigns:
    """Propose, judge and choose (see `EDDPMPipeline.design`).

    Args:
        model: What the model does.
        request: What is asked for.
        generator: Source of everything drawn.
    """
    if (request.measured is None) != (request.values is None):
        given, missing = ("values", "measured") if request.measured is None else ("measured", "values")
        refuse_without(f"`{missing}`", [given], "a table of measurements has both")
    methods = check_methods(request.methods, request.library is not None)
    known = [] if request.known_sequences is None else model.as_list(request.known_sequences, "known_sequences")
    library = None if request.library is None else frozenset(model.as_list(request.library, "library"))
    origin = None if request.wild_type is None else model.as_list(request.wild_type, "wild_type")
    given_starts = None if request.starts is None else model.as_list(request.starts, "starts")
    table = None
    if request.measured is not None:
        table = check_measurements(request.measured, request.values, model.as_list)
    count = model.config.num_properties if table is None else table.values.shape[1]
    goal = Goal(request.target, request.weights, max(count, 1))  # a model without a head is refused below
    rng = np.random.default_rng(int(torch.randint(2**31, (1,), generator=generator)))
    reference = _reference(request, origin, given_starts)
    judge = _make_judge(model, table, goal, request.use_latents, reference, rng)

    ranked = [] if table is None else _rank_measured(table, judge, goal)
    starts = given_starts or ranked[:_NUM_STARTS]
    if not starts:
        starts = origin or list(dict.fromkeys(model.sample(_NUM_STARTS, None, generator)))
    limits = DesignLimits(
        origin or starts,
        request.max_mutations,
        request.frozen_positions,
        request.allowed_residues,
        request.forbidden_motifs,
        request.max_insertions,
        request.max_deletions,
        model.lengths,
    )
    notes = [] if table is None else list(table.notes)
    if judge.note:
        notes.append(judge.note)
    if origin is not None and table is not None and origin[0] not in set(table.sequences):
        notes.append("`wild_type` is not among the measured sequences: how designs compare with it is a prediction.")
        logger.warning(notes[-1])

    known = list(dict.fromkeys([*([] if table is None else table.sequences), *known]))
    pool = Pool(limits, frozenset(known if request.min_novelty else ()), library, rng)
    sources = _make_sources(model, request, methods, table, judge, goal, limits, generator)

    def optimistic(sequences: Sequence[str]) -> Scores:
        """Return mean utility plus exploration times its standard deviation, `(num,)`."""
        if not len(sequences):
            return np.empty(0)
        means, deviations = judge.predict(list(sequences))
        spread = np.sqrt(np.square(deviations * goal.weights).sum(-1))
        return goal.total(goal.utilities(means, judge)) + request.exploration * spread

    parents = [limits.repair(each, rng) for each in dict.fromkeys([*starts, *ranked[:_NUM_PARENTS]])]
    parents = list(dict.fromkeys(parents))
    reach = None if table is None else _REACH
    propose(pool, methods, starts, parents, sources, optimistic, request.num_candidates, reach)
    if library is not None and LIBRARY in methods and isinstance(judge, ProcessJudge):
        _look_through(pool, library, judge, goal, request.num_candidates)
    ordered = sorted(pool.methods)  # by which method came first does not matter
    scores = optimistic(ordered)
    candidates = [ordered[row] for row in np.argsort(-scores, kind="stable")]
    chosen, near = _choose(candidates, request, judge, goal, known, rng)
    rejected = {reason: count for reason, count in {**pool.rejected, **near}.items() if count}
    if len(chosen) < request.num_designs:
        notes.append(_say_what_bound(len(chosen), request.num_designs, len(candidates), rejected))
        logger.warning(notes[-1])
    names = [f"property {index}" for index in range(judge.num_properties)] if table is None else table.names
    designs = _describe(chosen, pool.methods, limits, judge, goal, known, model.bound)
    shown = [] if table is None else [table.sequences[row] for row in rng.permutation(len(table))[:_SHOWN]]
    latents, known_latents = (
        model.encode(each).cpu() if each else torch.empty(0, model.config.num_latents, model.config.latent_dim)
        for each in (chosen, shown)
    )
    return EDDPMDesigns(designs, names, notes, rejected, len(candidates), latents, known_latents)


def _reference(request: DesignRequest, origin: list[str] | None, starts: list[str] | None) -> str | None:
    """Return what sequences are aligned to where insertions or deletions are asked for, else None."""
    asked = [name for name in ("max_insertions", "max_deletions") if getattr(request, name)]
    if asked and not (origin or starts):
        refuse_without("`wild_type` or `starts`", asked, "insertions and deletions are counted from there")
    return [*(origin or []), *(starts or [])][0] if asked else None


def _make_judge(
    model: ModelParts,
    table: Measurements | None,
    goal: Goal,
    use_latents: bool,
    reference: str | None,
    rng: np.random.Generator,
) -> Judge:
    def encode(sequences: Sequence[str]) -> Scores:
        return model.encode(sequences).flatten(1).cpu().double().numpy()

    if table is not None:
        to_frames = model.to_frames
        if reference is not None:
            to_frames = functools.partial(aligned_frames, reference=reference)
        return ProcessJudge(table, to_frames, encode if use_latents else None, goal.targets, rng)
    if use_latents:
        refuse_without("`measured`", ["use_latents"], "it is for the judge of a table")
    if model.head is None:
        raise ValueError(
            "`design` needs measurements (`measured` and `values`) or a model with an ensemble of property heads (see "
            "`fit_property`); this model has no head."
        )
    return HeadJudge(model.head, model.encode)


def _rank_measured(table: Measurements, judge: Judge, goal: Goal) -> list[str]:
    """Return the measured sequences by the utility of their values, best first; a missing one counts as average."""
    scores = np.stack([judge.to_scores(column, index) for index, column in enumerate(table.values.T)], 1)
    utilities = goal.utilities(scores, judge)
    totals = goal.total(np.where(np.isnan(utilities), np.nanmean(utilities, axis=0), utilities))
    return [table.sequences[row] for row in np.argsort(-totals, kind="stable")]


def _look_through(pool: Pool, library: frozenset[str], judge: ProcessJudge, goal: Goal, num: int) -> None:
    """Add the sequences of a library that the judge's networks, which are quick, prefer."""
    rest = sorted(library - set(pool.methods) - pool.excluded)
    guesses = [judge.guess(rest[start : start + _CHUNK]) for start in range(0, len(rest), _CHUNK)]
    known = [guess for guess in guesses if guess is not None]
    if known and len(known) == len(guesses):
        utilities = goal.total(goal.utilities(np.concatenate(known), judge))
        pool.add([rest[row] for row in np.argsort(-utilities, kind="stable")[:num]], LIBRARY)


def _make_sources(
    model: ModelParts,
    request: DesignRequest,
    methods: Sequence[str],
    table: Measurements | None,
    judge: Judge,
    goal: Goal,
    limits: DesignLimits,
    generator: torch.Generator | None,
) -> Sources:
    """Return the model's proposals, which climb a head fitted to the measurements, or the model's own head."""

    @functools.cache
    def head_and_objective() -> tuple[PropertyHead, Objective]:
        head = model.head
        if table is not None:
            values = np.stack([judge.to_scores(column, index) for index, column in enumerate(table.values.T)], 1)
            some = np.random.default_rng(0).permutation(len(table))[:_HEAD_ROWS]
            best = [
                row for row in np.argsort(-np.nan_to_num(values).sum(1))[: _HEAD_ROWS // 4] if len(table) > len(some)
            ]
            rows = sorted({*some.tolist(), *best})
            sizes = HeadSizes(
                model.config.latent_size, values.shape[1], model.config.property_hidden_size, _HEAD_MEMBERS
            )
            latents = model.encode([table.sequences[row] for row in rows])
            head = fit_ensemble(sizes, latents, torch.from_numpy(values[rows]), _HEAD_STEPS, generator).head
            head = head.to(latents.device)
        assert head is not None
        means, deviations = head.target_mean.cpu().double().numpy(), head.target_std.cpu().double().numpy()

        def to_standard(value: float, index: int) -> float:
            score = judge.to_scores(np.array(value), index) if table is not None else np.array(value)
            return float((score - means[index]) / deviations[index])

        return head, goal.objective(head, to_standard)

    def search(method: str, starts: list[str]) -> list[str]:
        bounds: dict[str, Any] = {"max_mutations": request.max_mutations}
        if limits.frozen:  # they are positions of the anchor, and of starts as long as it
            bounds["frozen_positions"] = sorted(limits.frozen)
            starts = [start for start in starts if len(start) == len(limits.nearest(start)[0])]
            if not starts:
                return []
        steps = request.num_steps
        return model.search(method, starts, head_and_objective(), steps, bounds, generator)

    def sample(num: int, is_guided: bool) -> list[str]:
        return model.sample(num, head_and_objective()[1] if is_guided else None, generator)

    return Sources(search, sample)


def _choose(
    candidates: list[str],
    request: DesignRequest,
    judge: Judge,
    goal: Goal,
    known: list[str],
    rng: np.random.Generator,
) -> tuple[list[str], dict[str, int]]:
    """Return the batch from candidates, the most promising first, and how many each distance rejected."""
    most = max(_JUDGED, 2 * request.num_designs)
    chosen: list[int] = []
    closeness = _Closeness(candidates, known, request.min_distance, request.min_novelty)
    noise = float((judge.noise * goal.weights**2).sum())
    # Where distances reject nearly all of the most promising ones, more get their turn
    for size in sorted({min(most, len(candidates)), min(4 * most, len(candidates))} - {0}):
        closeness.rejected.clear()
        chosen = select_batch(
            goal.utilities(judge.draw(candidates[:size], _DRAWS, rng), judge),
            request.num_designs,
            request.exploration,
            request.acquisition,
            None if goal.is_pareto else goal.weights,
            noise,
            closeness.accept,
            rng,
        )
        if len(chosen) == request.num_designs:
            break
    return [candidates[row] for row in chosen], closeness.rejected


@dataclass
class _Closeness:
    """Checks of distances, counting what they reject."""

    sequences: list[str]
    known: list[str]
    min_distance: int
    min_novelty: int
    rejected: dict[str, int] = field(default_factory=dict)

    def accept(self, row: int, chosen: list[int]) -> bool:
        """Whether a candidate is far enough from the chosen and the known ones."""
        sequence = self.sequences[row]
        others = [self.sequences[each] for each in chosen]
        if self.min_distance > 1 and self._is_near(sequence, others, self.min_distance):
            self.rejected["min_distance"] = self.rejected.get("min_distance", 0) + 1
            return False
        if self.min_novelty > 1 and self._is_near(sequence, self.known, self.min_novelty):
            self.rejected["min_novelty"] = self.rejected.get("min_novelty", 0) + 1
            return False
        return True

    def _is_near(self, sequence: str, others: list[str], distance: int) -> bool:
        cutoff = distance - 1
        return process.extractOne(sequence, others, scorer=Levenshtein.distance, score_cutoff=cutoff) is not None


def _say_what_bound(found: int, wanted: int, candidates: int, rejected: dict[str, int]) -> str:
    reasons = ", ".join(f"`{name}` {count}" for name, count in sorted(rejected.items(), key=lambda item: -item[1]))
    why = f"rejected were, by constraint: {reasons}" if rejected else "no method proposed more"
    return f"{found} designs instead of {wanted}: {candidates} different candidates kept the limits; {why}."


def _describe(
    sequences: list[str],
    methods: dict[str, str],
    limits: DesignLimits,
    judge: Judge,
    goal: Goal,
    known: list[str],
    plausibility: Callable[[Sequence[str]], NDArray[np.float64]],
) -> list[Design]:
    if not sequences:
        return []
    means, deviations = judge.predict(sequences)
    wide = np.sqrt(np.square(deviations) + judge.noise)  # of a measurement

    def in_unit(shift: float) -> Scores:
        columns = [judge.to_unit(means[:, i] + shift * wide[:, i], i) for i in range(judge.num_properties)]
        return np.stack(columns, 1)

    values, low, high = in_unit(0.0), in_unit(-_NINETY), in_unit(_NINETY)
    spread = (in_unit(1.0) - in_unit(-1.0)) / 2
    utilities = goal.total(goal.utilities(means, judge))
    bounds = plausibility(sequences)
    designs = []
    for row, sequence in enumerate(sequences):
        start, distance = limits.nearest(sequence)
        near = process.extractOne(sequence, known, scorer=Levenshtein.distance) if known else None
        designs.append(
            Design(
                rank=row + 1,
                sequence=sequence,
                start=start,
                edits=list_edits(sequence, start),
                num_edits=distance,
                predicted=values[row].tolist(),
                std=spread[row].tolist(),
                low=low[row].tolist(),
                high=high[row].tolist(),
                utility=float(utilities[row]),
                nearest_known=None if near is None else near[0],
                distance_to_known=None if near is None else int(near[1]),
                bound=float(bounds[row]),
                method=methods[sequence],
            )
        )
    return designs


def check_methods(methods: Any, has_library: bool = False) -> list[str]:
    """Return methods without repeats; by default all that can be.

    Args:
        methods: Names in `METHODS`, or `LIBRARY`; None for all.
        has_library: Whether there is a library to look through.

    Raises:
        ValueError: If there are none, one is unknown, or there is no library for the one that looks through it.
    """
    possible = (*METHODS, LIBRARY)
    names = list(possible if has_library else METHODS) if methods is None else list(dict.fromkeys(methods))
    if not names or (unknown := [name for name in names if name not in possible]):
        raise ValueError(f"`methods` must be some of {list(possible)}, got {names if not names else unknown}.")
    if LIBRARY in names and not has_library:
        refuse_without("`library`", [f"methods {LIBRARY!r}"], "it proposes what the judge prefers of one")
    return names
