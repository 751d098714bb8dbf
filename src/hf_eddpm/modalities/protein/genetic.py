"""A genetic algorithm over sequences with a budget of oracle calls: the baseline of an optimisation."""

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .residues import AMINO_ACIDS

Oracle = Callable[[Sequence[str]], NDArray[np.floating]]


@dataclass
class GeneticResult:
    """What a genetic algorithm has scored.

    Attributes:
        sequences: Different sequences in the order in which they were scored, the starts first.
        scores: Their scores, (num,).
        num_calls: Sequences that the oracle has scored; repeats are never scored again.
        num_generations: Generations after the starts.
    """

    sequences: list[str]
    scores: NDArray[np.float64]
    num_calls: int
    num_generations: int

    def best(self, num: int, without: Collection[str] = ()) -> list[str]:
        """The `num` best sequences, best first, those in `without` left out."""
        excluded = set(without)
        ranked = (self.sequences[row] for row in np.argsort(-self.scores, kind="stable"))
        return [sequence for sequence in ranked if sequence not in excluded][:num]


def genetic_algorithm(
    oracle: Oracle,
    starts: Sequence[str],
    budget: int,
    population_size: int = 128,
    num_parents: int = 32,
    mutations_per_child: float = 1.5,
    crossover_probability: float = 0.5,
    frozen_positions: Collection[int] = (),
    seed: int = 0,
) -> GeneticResult:
    """Maximises an oracle by crossover and substitutions among the best sequences so far (Holland, 1975).

    The starts are scored first. In each generation the best `num_parents` of all sequences scored so far have
    `population_size` children: a copy of a parent or, with `crossover_probability`, a mixture of two parents of one
    length, each site from either with equal probability; then 1 + Poisson(`mutations_per_child` - 1) sites are
    substituted, so lengths never change. Children that have been scored before are not scored again.

    Args:
        oracle: Maps a list of sequences to their scores, (num,), higher is better; -inf is allowed.
        starts: First sequences; repeats are left out.
        budget: Sequences to score in all, at least the number of different starts.
        population_size: Children of a generation.
        num_parents: Sequences that have children.
        mutations_per_child: Mean number of substituted sites, at least 1.
        crossover_probability: In [0, 1].
        frozen_positions: Indices of residues that are kept, from 0; beyond a sequence's end they have no meaning.
        seed: The same seed gives the same run.
    """
    population = list(dict.fromkeys(starts))
    if not population or min(map(len, population)) == 0:
        raise ValueError("`starts` must hold at least one sequence, and none may be empty.")
    if budget < len(population):
        raise ValueError(f"`budget` must be at least the number of different starts, {len(population)}, got {budget}.")
    if population_size < 1 or num_parents < 1:
        raise ValueError(
            f"`population_size` and `num_parents` must be at least 1, got {population_size} and {num_parents}."
        )
    if mutations_per_child < 1 or not 0 <= crossover_probability <= 1:
        raise ValueError(
            "`mutations_per_child` must be at least 1 and `crossover_probability` in [0, 1], "
            f"got {mutations_per_child} and {crossover_probability}."
        )
    frozen = set(frozen_positions)
    if any(set(range(len(sequence))) <= frozen for sequence in population):
        raise ValueError("`frozen_positions` must leave at least one site of each start free.")

    rng = np.random.default_rng(seed)
    scores = np.asarray(oracle(population), dtype=np.float64)
    seen = set(population)
    generations = fruitless = 0
    while len(population) < budget and fruitless < 10:  # a space as small as its seen part has no new children
        parents = [population[row] for row in np.argsort(-scores, kind="stable")[:num_parents]]
        children: list[str] = []
        for _ in range(population_size):
            child = _child(rng, parents, mutations_per_child, crossover_probability, frozen)
            if child not in seen and len(population) + len(children) < budget:
                seen.add(child)
                children.append(child)
        if not children:
            fruitless += 1
            continue
        fruitless = 0
        generations += 1
        scores = np.concatenate([scores, np.asarray(oracle(children), dtype=np.float64)])
        population += children
    return GeneticResult(population, scores, len(population), generations)


def _child(
    rng: np.random.Generator,
    parents: list[str],
    mutations_per_child: float,
    crossover_probability: float,
    frozen: Collection[int],
) -> str:
    first = parents[rng.integers(len(parents))]
    residues = np.array(list(first))
    free = np.array([site for site in range(len(first)) if site not in frozen])
    if rng.random() < crossover_probability:
        mates = [parent for parent in parents if len(parent) == len(first) and parent != first]
        if mates:
            second = np.array(list(mates[rng.integers(len(mates))]))
            taken = free[rng.random(len(free)) < 0.5]
            residues[taken] = second[taken]
    num_mutations = min(len(free), 1 + rng.poisson(mutations_per_child - 1))
    for site in rng.choice(free, num_mutations, replace=False):
        others = AMINO_ACIDS.replace(str(residues[site]), "")
        residues[site] = others[rng.integers(len(others))]
    return "".join(residues)
