"""Ehrlich functions: closed-form fitness of sequences with a known optimum (Stanton et al. 2024, arXiv 2407.00236).

    python -m hf_eddpm.modalities.protein.ehrlich --output_dir runs/ehrlich --length 32 --num_motifs 2 --motif_length 4

writes `function.json` and, of feasible random sequences, `train.csv.gz` and `validation.csv.gz` with their fitness.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...extras import needs_extra
from .residues import AMINO_ACIDS

BANNED_SHARE = 0.4  # of the possible transitions from a residue to another


@dataclass
class EhrlichFunction:
    """A product over motifs of how much of each is present, for sequences without a banned transition.

    A sequence x of `length` residues is feasible if no residue follows one after which it is banned. Its fitness is
    -inf if it is not, and else the product over the motifs of

        h(x) = max over places l of floor(quantization * matches(x, l) / motif_length) / quantization,

    where `matches(x, l)` counts the residues j of the motif that stand at `l + spacing[j]` (Stanton et al. 2024,
    section 4). The optimum is 1, and `optimal_sequence` reaches it.

    Attributes:
        transitions: Probabilities of the next residue, (states, states): 0 where banned, never on the diagonal.
        motifs: Indices of residues, (num_motifs, motif_length).
        spacings: Offsets of a motif's residues from its first, ascending from 0, (num_motifs, motif_length).
        length: Residues of a sequence.
        quantization: Levels of h above 0; divides the motif length.
    """

    transitions: NDArray[np.float64]
    motifs: NDArray[np.int64]
    spacings: NDArray[np.int64]
    length: int
    quantization: int

    def __post_init__(self) -> None:
        num_motifs, motif_length = self.motifs.shape
        if self.spacings.shape != self.motifs.shape or (self.spacings[:, 0] != 0).any():
            raise ValueError(f"`spacings` must be {self.motifs.shape} and start with 0, got {self.spacings.tolist()}.")
        if motif_length > 1 and (np.diff(self.spacings, axis=1) < 1).any():
            raise ValueError(f"`spacings` must ascend, got {self.spacings.tolist()}.")
        if self.quantization < 1 or motif_length % self.quantization:
            raise ValueError(f"`quantization` must divide the motif length {motif_length}, got {self.quantization}.")
        if int((self.spacings[:, -1] + 1).sum()) > self.length:
            raise ValueError(f"`length` must hold all motifs, that is {int((self.spacings[:, -1] + 1).sum())} sites.")

    @classmethod
    def random(
        cls,
        length: int = 32,
        num_motifs: int = 2,
        motif_length: int = 4,
        quantization: int | None = None,
        num_states: int = 20,
        seed: int = 0,
    ) -> "EhrlichFunction":
        """Draws a function whose optimum is feasible.

        Args:
            length: Residues of a sequence, at least `num_motifs * motif_length`.
            num_motifs: Motifs, at least 1.
            motif_length: Residues of a motif, at least 1.
            quantization: Levels of a motif's presence; `None` for `motif_length`, the finest.
            num_states: Residues in use, in [2, 20], in the order of `AMINO_ACIDS`.
            seed: The same seed gives the same function.
        """
        if not 2 <= num_states <= len(AMINO_ACIDS):
            raise ValueError(f"`num_states` must be in [2, {len(AMINO_ACIDS)}], got {num_states}.")
        if num_motifs < 1 or motif_length < 1 or num_motifs * motif_length > length:
            raise ValueError(
                f"`num_motifs` and `motif_length` must be at least 1 and their product at most `length` = {length}, "
                f"got {num_motifs} and {motif_length}."
            )
        rng = np.random.default_rng(seed)
        transitions = _random_transitions(rng, num_states)
        # One walk cut into motifs: each motif is feasible, and so is the next one after it.
        walk = _walk(rng, transitions, num_motifs * motif_length, _stationary(transitions), 1)[0]
        reach = length // num_motifs  # sites for a motif, so that all fit side by side
        spacings = [
            [0, *np.sort(rng.choice(np.arange(1, reach), motif_length - 1, replace=False))] for _ in range(num_motifs)
        ]
        return cls(
            transitions,
            walk.reshape(num_motifs, motif_length),
            np.array(spacings, dtype=np.int64),
            length,
            motif_length if quantization is None else quantization,
        )

    @property
    def residues(self) -> str:
        """The residues in use."""
        return AMINO_ACIDS[: len(self.transitions)]

    def is_feasible(self, sequences: Sequence[str]) -> NDArray[np.bool_]:
        """Whether each sequence has the length, the residues and none of the banned transitions, (num,)."""
        feasible = np.zeros(len(sequences), dtype=bool)
        for row, sequence in enumerate(sequences):
            if len(sequence) == self.length and set(sequence) <= set(self.residues):
                states = self._states([sequence])[0]
                feasible[row] = (self.transitions[states[:-1], states[1:]] > 0).all()
        return feasible

    def presence(self, sequences: Sequence[str]) -> NDArray[np.float64]:
        """How much of each motif each sequence of the right length has, h(x), (num, num_motifs)."""
        states = self._states(sequences)
        values = []
        for motif, spacing in zip(self.motifs, self.spacings, strict=True):
            places = np.arange(self.length - spacing[-1])
            matches = (states[:, places[:, None] + spacing] == motif).sum(axis=2).max(axis=1)  # (num,)
            values.append(matches * self.quantization // len(motif) / self.quantization)
        return np.stack(values, axis=1)

    def __call__(self, sequences: Sequence[str]) -> NDArray[np.float64]:
        """The fitness of each sequence, in [0, 1], or -inf where it is not feasible, (num,)."""
        feasible = self.is_feasible(sequences)
        values = np.full(len(sequences), -np.inf)
        if feasible.any():
            chosen = [sequence for sequence, good in zip(sequences, feasible, strict=True) if good]
            values[feasible] = self.presence(chosen).prod(axis=1)
        return values

    def sample(self, num: int, seed: int) -> list[str]:
        """Feasible random sequences: walks along the transitions from their stationary distribution."""
        rng = np.random.default_rng(seed)
        walks = _walk(rng, self.transitions, self.length, _stationary(self.transitions), num)
        return self._letters(walks)

    def optimal_sequence(self) -> str:
        """A feasible sequence with all motifs side by side, each residue repeated up to the next one of its motif."""
        states: list[int] = []
        for motif, spacing in zip(self.motifs, self.spacings, strict=True):
            gaps = np.diff([*spacing, spacing[-1] + 1])
            states += np.repeat(motif, gaps).tolist()
        states += [states[-1]] * (self.length - len(states))
        return self._letters(np.array([states]))[0]

    def save(self, path: str | Path) -> None:
        """Writes the function as JSON."""
        values = {name: getattr(self, name).tolist() for name in ("transitions", "motifs", "spacings")}
        values |= {"length": self.length, "quantization": self.quantization}
        Path(path).write_text(json.dumps(values) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> "EhrlichFunction":
        """Reads what `save` wrote."""
        values = json.loads(Path(path).read_text(encoding="utf-8"))
        transitions = np.array(values.pop("transitions"), dtype=np.float64)
        arrays: dict[str, Any] = {name: np.array(values.pop(name), dtype=np.int64) for name in ("motifs", "spacings")}
        return cls(transitions, **arrays, **values)

    def _states(self, sequences: Sequence[str]) -> NDArray[np.int64]:
        return np.array([[AMINO_ACIDS.index(residue) for residue in sequence] for sequence in sequences])

    def _letters(self, states: NDArray[np.int64]) -> list[str]:
        return ["".join(AMINO_ACIDS[state] for state in row) for row in states]


def _random_transitions(rng: np.random.Generator, num_states: int) -> NDArray[np.float64]:
    """Random transition probabilities, some of them 0, of an ergodic chain.

    A cycle through all residues is never banned, so each can be reached from each; a residue may always repeat, so the
    chain has no period and any gap inside a motif can be filled.
    """
    cycle = rng.permutation(num_states)
    following = np.empty(num_states, dtype=int)
    following[cycle] = np.roll(cycle, -1)
    logits = rng.normal(size=(num_states, num_states))
    for state in range(num_states):
        others = np.setdiff1d(np.arange(num_states), [state, following[state]])
        logits[state, rng.choice(others, int(BANNED_SHARE * len(others)), replace=False)] = -np.inf
    weights = np.exp(logits)
    return weights / weights.sum(axis=1, keepdims=True)


def _stationary(transitions: NDArray[np.float64]) -> NDArray[np.float64]:
    """The distribution that the transitions leave as it is: their left eigenvector of eigenvalue 1."""
    values, vectors = np.linalg.eig(transitions.T)
    vector = np.abs(vectors[:, np.argmin(np.abs(values - 1))].real)
    return vector / vector.sum()


def _walk(
    rng: np.random.Generator, transitions: NDArray[np.float64], length: int, start: NDArray[np.float64], num: int
) -> NDArray[np.int64]:
    """Random walks, (num, length)."""
    cumulative = np.cumsum(transitions, axis=1)
    states = np.empty((num, length), dtype=np.int64)
    states[:, 0] = rng.choice(len(start), num, p=start)
    for site in range(1, length):
        rows = cumulative[states[:, site - 1]]
        # Scaled by the last sum, which rounding may leave off 1: a draw never falls on a banned residue at the end.
        draws = rng.random((num, 1)) * rows[:, -1:]
        states[:, site] = (draws >= rows).sum(axis=1)
    return states


def main(args: list[str] | None = None) -> None:
    """Draws a function and writes it with a data set of its values."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, required=True, help="Folder for the three files.")
    parser.add_argument("--length", type=int, default=32, help="Residues of a sequence.")
    parser.add_argument("--num_motifs", type=int, default=2, help="Motifs.")
    parser.add_argument("--motif_length", type=int, default=4, help="Residues of a motif.")
    parser.add_argument("--quantization", type=int, help="Levels of a motif's presence; the motif length by default.")
    parser.add_argument("--num_train", type=int, default=20_000, help="Training sequences.")
    parser.add_argument("--num_validation", type=int, default=2_000, help="Held-out sequences.")
    parser.add_argument("--seed", type=int, default=0, help="Of the function and the sequences.")
    given = parser.parse_args(args)
    function = EhrlichFunction.random(
        given.length, given.num_motifs, given.motif_length, given.quantization, seed=given.seed
    )
    given.output_dir.mkdir(parents=True, exist_ok=True)
    function.save(given.output_dir / "function.json")
    with needs_extra("Writing the data set"):
        import pandas as pd
    sequences = function.sample(given.num_train + given.num_validation, given.seed)
    table = pd.DataFrame({"sequence": sequences, "fitness": function(sequences)})
    for name, rows in (("train", table[: given.num_train]), ("validation", table[given.num_train :])):
        rows.to_csv(given.output_dir / f"{name}.csv.gz", index=False)
        print(f"{name}: {len(rows)} sequences, mean fitness {rows.fitness.mean():.3f}, best {rows.fitness.max():.3f}")


if __name__ == "__main__":
    main()
