"""Where candidates come from: the model's searches and samples, and changes of good sequences."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from ..modalities.protein.residues import AMINO_ACIDS
from .limits import DesignLimits

SEARCHES = ("gradient", "guided", "mcmc", "hill_climb", "ode")  # methods of `optimize`
SAMPLES = ("sample", "guided_sample")
CHANGES = ("mutate", "recombine", "evolve")
METHODS = (*SEARCHES, *SAMPLES, *CHANGES)
LIBRARY = "library"  # what the judge prefers of a library
ENUMERATED = "enumerate"  # in the place of all where every sequence can be judged
_GENERATIONS = 8
_SHIFTED = 0.3  # share of mutants with an insertion or a deletion, where these are asked for


@dataclass
class Sources:
    """What proposes sequences by the model.

    Args:
        search: Function from a method's name and starts to the sequences that it goes through.
        sample: Function from a number, and whether to guide by the goal, to samples.
    """

    search: Callable[[str, list[str]], list[str]]
    sample: Callable[[int, bool], list[str]]


class Pool:
    """Different candidates that keep the limits, each with the method that came to it first.

    Args:
        limits: What candidates may be.
        excluded: Sequences that are none, as they are known.
        library: The only sequences that may be candidates; None for any.
        rng: Source of chance.
    """

    def __init__(
        self,
        limits: DesignLimits,
        excluded: frozenset[str],
        library: frozenset[str] | None,
        rng: np.random.Generator,
    ):
        self.limits, self.excluded, self.library, self.rng = limits, excluded, library, rng
        self.methods: dict[str, str] = {}
        self.rejected: dict[str, int] = {}
        self._refused: set[str] = set()

    def add(self, sequences: Sequence[str], method: str) -> list[str]:
        """Take what keeps the limits, after setting back what can be (see `DesignLimits.repair`); return the new."""
        new = []
        for proposed in sequences:
            sequence = self.limits.repair(proposed, self.rng)
            if sequence in self.methods or sequence in self._refused:
                continue
            reason = self._reason(sequence)
            if reason is None:
                self.methods[sequence] = method
                new.append(sequence)
            else:
                self._refused.add(sequence)
                self.rejected[reason] = self.rejected.get(reason, 0) + 1
        return new

    def _reason(self, sequence: str) -> str | None:
        """Return the constraint that a sequence breaks, or None."""
        if sequence in self.excluded:
            return "min_novelty"
        if (broken := self.limits.broken(sequence)) is not None:
            return broken
        return "library" if self.library is not None and sequence not in self.library else None


def propose(
    pool: Pool,
    methods: Sequence[str],
    starts: list[str],
    parents: list[str],
    sources: Sources,
    score: Callable[[Sequence[str]], np.ndarray],
    num_candidates: int,
    reach: int | None = None,
) -> None:
    """Fill a pool with candidates of several methods.

    If the limits or the library leave no more than `num_candidates` sequences, these are all of them, and no method is
    needed.

    Args:
        pool: Takes the candidates.
        methods: Names in `METHODS`, or `LIBRARY`.
        starts: Where searches start.
        parents: Good sequences that changes are made of, best first.
        sources: The model's proposals.
        score: Function from sequences to optimistic utilities `(num,)`, by which `evolve` selects.
        num_candidates: About how many each of the methods proposes.
        reach: Most edits of a change from the nearest of the parents; None for no limit.
    """
    if pool.library is not None and len(pool.library) <= num_candidates:
        pool.add(sorted(pool.library), ENUMERATED)
        return
    if pool.limits.space_size() <= num_candidates:
        pool.add(list(_everything(pool.limits)), ENUMERATED)
        return
    for method in methods:
        if method == LIBRARY:
            continue  # by the judge alone (see `design_batch`)
        if method in SEARCHES:
            pool.add(sources.search(method, starts), method)
        elif method in SAMPLES:
            pool.add(sources.sample(max(num_candidates // 8, 1), method == "guided_sample"), method)
        elif method != "evolve":
            change = mutate if method == "mutate" else recombine
            changed = [change(parents, pool.limits, pool.rng) for _ in range(num_candidates)]
            pool.add(_within(reach, parents, changed), method)
    if "evolve" in methods:
        _evolve(pool, parents, score, num_candidates, reach)


def mutate(parents: Sequence[str], limits: DesignLimits, rng: np.random.Generator) -> str:
    """Return a parent, the better the likelier, with 1 + Poisson(0.5) allowed changes.

    These are substitutions, or in a share of the mutants, where the limits ask for them, insertions and deletions.
    """
    parent = _draw(parents, rng)
    if limits.changes_length and rng.random() < _SHIFTED:
        for _ in range(1 + rng.poisson(0.5)):
            parent = _shift(parent, limits, rng)
        return parent
    choices = limits.choices(parent)
    if not choices:
        return parent
    letters = list(parent)
    for position in rng.permutation(list(choices))[: 1 + rng.poisson(0.5)]:
        residues = choices[int(position)]
        letters[position] = residues[rng.integers(len(residues))]
    return "".join(letters)


def _shift(parent: str, limits: DesignLimits, rng: np.random.Generator) -> str:
    """Return a parent with one residue inserted or deleted where that may be, or as it is where it may not."""
    gaps = limits.gaps(parent) if limits.max_insertions else []
    removable = limits.removable(parent) if limits.max_deletions else []
    if gaps and (not removable or rng.random() < 0.5):
        gap = gaps[rng.integers(len(gaps))]
        return parent[:gap] + AMINO_ACIDS[rng.integers(len(AMINO_ACIDS))] + parent[gap:]
    if removable:
        index = removable[rng.integers(len(removable))]
        return parent[:index] + parent[index + 1 :]
    return parent


def recombine(parents: Sequence[str], limits: DesignLimits, rng: np.random.Generator) -> str:
    """Return a mixture of two parents of one length, each site from either with equal probability."""
    first = _draw(parents, rng)
    mates = [parent for parent in parents if len(parent) == len(first) and parent != first]
    if not mates:
        return mutate(parents, limits, rng)
    second = _draw(mates, rng)
    sides = rng.integers(2, size=len(first))
    return "".join(b if side else a for a, b, side in zip(first, second, sides, strict=True))


def _draw(parents: Sequence[str], rng: np.random.Generator) -> str:
    """Return one of the parents, in order of quality: the index is the smaller of two draws."""
    return parents[int(rng.integers(len(parents), size=2).min())]


def _within(reach: int | None, parents: Sequence[str], sequences: list[str]) -> list[str]:
    """Return the sequences that are at most `reach` edits from a parent."""
    if reach is None:
        return sequences
    nearest = (
        process.extractOne(each, parents, scorer=Levenshtein.distance, score_cutoff=reach) for each in sequences
    )
    return [each for each, found in zip(sequences, nearest, strict=True) if found is not None]


def _evolve(
    pool: Pool,
    parents: list[str],
    score: Callable[[Sequence[str]], np.ndarray],
    num_candidates: int,
    reach: int | None,
) -> None:
    """Generations of mutation and recombination, selected by the judge (as AdaLead does: Sinai et al. 2020).

    The children of all generations are candidates; the best of all candidates so far, whatever method they are from,
    are the next parents.
    """
    seeds = list(dict.fromkeys([*parents, *pool.methods]))
    scores = dict(zip(seeds, score(seeds), strict=True))
    size = max(num_candidates // _GENERATIONS, 1)
    for _ in range(_GENERATIONS):
        best = sorted(scores, key=lambda sequence: -scores[sequence])[: max(len(parents), 32)]
        changes = [recombine if pool.rng.random() < 0.3 else mutate for _ in range(2 * size)]
        children = [change(best, pool.limits, pool.rng) for change in changes]
        new = pool.add(_within(reach, parents, children), "evolve")
        if new:
            scores |= dict(zip(new, score(new), strict=True))


def _everything(limits: DesignLimits) -> Iterator[str]:
    """Yield every sequence that keeps positions and distance."""
    for anchor in limits.anchors:
        choices = limits.choices(anchor)
        most = len(choices) if limits.max_mutations is None else min(limits.max_mutations, len(choices))
        for number in range(most + 1):
            for positions in itertools.combinations(choices, number):
                for residues in itertools.product(*(choices[position] for position in positions)):
                    letters = list(anchor)
                    for position, residue in zip(positions, residues, strict=True):
                        letters[position] = residue
                    yield "".join(letters)


def list_edits(sequence: str, start: str) -> list[str]:
    """Return the edits that make a sequence from a start, positions of the start counted from 1.

    Sequences of one length are compared site by site unless a shift explains them in fewer edits. A substitution is
    `A39W`, a deletion `A39del`, an insertion `39_40insW` (between these two residues), as in the
    nomenclature of the Human Genome Variation Society.
    """
    sites = [site for site, (old, new) in enumerate(zip(start, sequence, strict=False)) if old != new]
    if len(start) == len(sequence) and len(sites) <= Levenshtein.distance(start, sequence):
        return [f"{start[site]}{site + 1}{sequence[site]}" for site in sites]
    edits = []
    for edit in Levenshtein.editops(start, sequence):
        kind, at, into = edit.tag, edit.src_pos, edit.dest_pos
        if kind == "replace":
            edits.append(f"{start[at]}{at + 1}{sequence[into]}")
        elif kind == "delete":
            edits.append(f"{start[at]}{at + 1}del")
        else:
            edits.append(f"{at}_{at + 1}ins{sequence[into]}")
    return edits
