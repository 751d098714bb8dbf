"""Strategies that choose the next variants to measure without our model.

Variants are strings of the residues at the sites that vary. Each strategy sees what has been measured and proposes
variants of the table, or of all sequences, that have not.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from hf_eddpm.modalities.protein.metrics import to_frames
from hf_eddpm.modalities.protein.oracle import fit_cnn, fit_ridge
from hf_eddpm.modalities.protein.residues import AMINO_ACIDS

Strategy = Callable[[Mapping[str, float], Collection[str], int, np.random.Generator], list[str]]


def random_mutation(measured: Mapping[str, float], table: Collection[str], num: int, rng: np.random.Generator):
    """One or two random substitutions of the best tenth."""
    best = _best(measured, max(len(measured) // 10, 10))
    return _fill(
        lambda: _mutate(best[rng.integers(len(best))], int(rng.integers(1, 3)), rng), measured, table, num, rng
    )


def genetic(measured: Mapping[str, float], table: Collection[str], num: int, rng: np.random.Generator):
    """One generation of a genetic algorithm: uniform crossover of two of the 32 best, 1 + Poisson(0.5) changes."""
    best = _best(measured, 32)

    def child() -> str:
        a, b = (best[rng.integers(len(best))] for _ in range(2))
        mixed = "".join(y if side else x for x, y, side in zip(a, b, rng.integers(2, size=len(a)), strict=True))
        return _mutate(mixed if rng.random() < 0.5 else a, 1 + int(rng.poisson(0.5)), rng)

    return _fill(child, measured, table, num, rng)


def greedy_ridge(measured: Mapping[str, float], table: Collection[str], num: int, rng: np.random.Generator):
    """The highest predictions of ridge regression on one-hot residues over the whole table."""
    model = fit_ridge(_frames(measured), np.array(list(measured.values())), seed=int(rng.integers(2**31)))
    rest = [variant for variant in table if variant not in measured]
    predictions = np.concatenate([model.predict(_frames(rest[i : i + 20000])) for i in range(0, len(rest), 20000)])
    return [rest[row] for row in np.argsort(-predictions, kind="stable")[:num]]


def greedy_ridge_mutants(measured: Mapping[str, float], table: Collection[str], num: int, rng: np.random.Generator):
    """The highest predictions of ridge regression among 5,000 children of the genetic algorithm."""
    model = fit_ridge(_frames(measured), np.array(list(measured.values())), seed=int(rng.integers(2**31)))
    children = genetic(measured, table, 5000, rng)
    return [children[row] for row in np.argsort(-model.predict(_frames(children)), kind="stable")[:num]]


class HoloGenetic:
    """The genetic algorithm of pytorch-holo (Stanton et al. 2024), `DiscreteEvolution`, as it comes: `pip install` it.

    One generation for each call, of as many particles as are measured at a time; the first are the best of the start.
    Half of them survive, the others are mixtures of two, and each site of each mutates with a probability of 0.2. What
    has been measured is not measured again.
    """

    def __init__(self) -> None:
        self.optimizer: Any = None

    def __call__(self, measured: Mapping[str, float], table: Collection[str], num: int, rng: np.random.Generator):
        from holo.optim import DiscreteEvolution

        if self.optimizer is None:
            start = torch.stack([_states(variant) for variant in _best(measured, num)])
            solution = torch.nn.Parameter(start[:1].clone(), requires_grad=False)
            vocabulary = list(range(len(AMINO_ACIDS)))
            self.optimizer = DiscreteEvolution([solution], vocabulary, num_particles=len(start))
            self.optimizer.state[solution]["particles"] = start
        particles = next(iter(self.optimizer.state.values()))["particles"]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**31)))
            self.optimizer.step(lambda _: torch.tensor([-measured.get(each, 0.0) for each in _letters(particles)]))
        return [each for each in dict.fromkeys(_letters(particles)) if each in table and each not in measured]


def _states(variant: str) -> torch.Tensor:
    return torch.tensor(
        [AMINO_ACIDS.index(letter) for letter in variant], dtype=torch.float32
    )  # as it draws in floats


def _letters(particles: torch.Tensor) -> list[str]:
    return ["".join(AMINO_ACIDS[state] for state in row) for row in particles.long().tolist()]


def adalead_cnn(measured: Mapping[str, float], table: Collection[str], num: int, rng: np.random.Generator):
    """AdaLead (Sinai et al. 2020, arXiv 2010.02141, algorithm 1) on an ensemble of three convolutional networks.

    Threshold 0.05, one expected mutation, recombination rate 0.2, as in the paper; 4,000 calls of the model. Children
    outside the table are not called.
    """
    values = np.array(list(measured.values()))
    epochs = max(20, -(-600 * 32 // len(values)))
    ensemble = [
        fit_cnn(_frames(measured), values, seed=int(rng.integers(2**31)), num_epochs=min(epochs, 200), batch_size=32)
        for _ in range(3)
    ]
    known: dict[str, float] = {}

    def predict(variants: list[str]) -> None:
        new = [variant for variant in dict.fromkeys(variants) if variant not in known]
        if new:
            mean = np.mean([model.predict(_frames(new)) for model in ensemble], axis=0)
            known.update(zip(new, mean.tolist(), strict=True))

    top = values.max()
    parents = [variant for variant, value in measured.items() if value >= top * (1 - 0.05 * np.sign(top))]
    parents = parents if len(parents) >= 2 else _best(measured, 10)
    for _ in range(200):
        if len(known) >= 4000:
            break
        pool = [_cross(parents, rng) for _ in range(50)]
        predict(pool)
        for node in pool:
            for _ in range(20):  # a rollout goes on while the model says it does not get worse
                child = _mutate(node, max(1, int(rng.binomial(len(node), 1 / len(node)))), rng)
                if child not in table or child in known:
                    continue
                predict([child])
                if known[child] < known[node]:
                    break
                node = child
        parents = sorted(known, key=lambda variant: -known[variant])[:50]
    ranked = sorted((v for v in known if v in table and v not in measured), key=lambda variant: -known[variant])
    chosen = ranked[:num]
    return (
        chosen
        if len(chosen) == num
        else chosen + random_mutation({**measured, **dict.fromkeys(chosen, 0.0)}, table, num - len(chosen), rng)
    )


BASELINES: dict[str, Strategy | type[HoloGenetic]] = {
    "random mutation": random_mutation,
    "genetic algorithm": genetic,
    "greedy ridge": greedy_ridge,
    "AdaLead, CNN ensemble": adalead_cnn,
    "genetic algorithm of pytorch-holo": HoloGenetic,
}


def baseline(name: str) -> Strategy:
    """Return a baseline for one campaign."""
    found = BASELINES[name]
    return found() if isinstance(found, type) else found


def _frames(variants: Sequence[str] | Mapping[str, float]) -> np.ndarray:
    names = list(variants)
    return to_frames(names, len(names[0]))


def _best(measured: Mapping[str, float], num: int) -> list[str]:
    return sorted(measured, key=lambda variant: -measured[variant])[:num]


def _mutate(variant: str, num: int, rng: np.random.Generator) -> str:
    letters = list(variant)
    for site in rng.permutation(len(letters))[:num]:
        others = AMINO_ACIDS.replace(letters[site], "")
        letters[site] = others[rng.integers(len(others))]
    return "".join(letters)


def _cross(parents: list[str], rng: np.random.Generator) -> str:
    a, b = (parents[rng.integers(len(parents))] for _ in range(2))
    return "".join(y if rng.random() < 0.2 else x for x, y in zip(a, b, strict=True))


def _fill(
    draw: Callable[[], str], measured: Mapping[str, float], table: Collection[str], num: int, rng: np.random.Generator
) -> list[str]:
    """Draw until there are enough new variants of the table."""
    chosen = dict.fromkeys(())
    for _ in range(200 * num):
        variant = draw()
        if variant in table and variant not in measured:
            chosen[variant] = None
        if len(chosen) == num:
            break
    return list(chosen)
