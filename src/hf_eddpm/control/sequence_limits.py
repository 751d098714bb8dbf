"""How far sequences may go from where they started."""

from collections.abc import Callable, Sequence

import torch
from rapidfuzz.distance import Levenshtein

from ..argument_checks import check_count, is_integer


class SequenceLimits:
    """How far sequences may go from their starts.

    Args:
        starts: The sequences to start from.
        max_mutations: Most edits (Levenshtein) from the start, or `None`.
        frozen_positions: Positions of the start that keep their residues; with any, sequences keep their length.
        log_odds: Function of latents, starts and sequences of the same lengths, one of each for each row. For each row
            it returns a list over positions: the larger, the surer the decoder is of the change there. Only the order
            within a row matters.
        forbidden: Symbols that decoded sequences may hold but none may propose: the start's residue takes their place.

    Raises:
        TypeError: If the frozen positions are not a list of integers.
        ValueError: If they are out of range, or `max_mutations` is negative.
    """

    def __init__(
        self,
        starts: list[str],
        max_mutations: int | None,
        frozen_positions: Sequence[int] | None,
        log_odds: Callable[[torch.Tensor, list[str], list[str]], list[list[float]]],
        forbidden: str = "",
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
        self.forbidden = frozenset(forbidden)
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
        if self.forbidden & set(sequence) and sequence not in self.starts:
            return [False] * len(self.starts)
        return [
            (not self.frozen or len(sequence) == len(start) and all(sequence[i] == start[i] for i in self.frozen))
            and not self._far(sequence, start)
            for start in self.starts
        ]

    def _without_forbidden(self, sequence: str, start: str) -> str | None:
        """Revert what may not change at all; None if the length must stay and does not."""
        if len(sequence) != len(start):
            return None if self.frozen or self.forbidden & set(sequence) else sequence
        kept = [
            old if position in self.frozen or new in self.forbidden else new
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
