"""What a design may be: how far from its start, which residues where, and which motifs it must not have."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from rapidfuzz import process
from rapidfuzz.distance import Levenshtein

from ..argument_checks import is_column, is_integer
from ..modalities.protein.residues import AMINO_ACIDS
from .alignment import Alignment, align

# N-X-S/T with X not P (Marshall 1972, Annual Review of Biochemistry 41, 673-702)
MOTIFS = {"glycosylation": r"N[^P][ST]", "cysteine": r"C"}
_EXTRA = "extra_"


class DesignLimits:
    """The constraints of a design, all of them relative to the start (or wild type) that is nearest to it.

    Args:
        anchors: Sequences that mutations are counted from, at least one.
        max_mutations: Most edits (Levenshtein) from the nearest anchor; None for no limit.
        frozen_positions: Positions, from 0, that keep the anchor's residues.
        allowed_residues: For some positions, from 0, the residues that may stand there.
        forbidden_motifs: Names in `MOTIFS`, or regular expressions of residues, that a design must not hold; a name
            after "extra_" forbids more of them than the anchor has.
        max_insertions: Most residues that a design has and its anchor has not, by the alignment of fewest edits. With
            a number above 0 insertions are proposed; None takes what a model proposes where no position is limited,
            and proposes none.
        max_deletions: Most residues that it lacks; `None` means the same as above.
        lengths: Fewest and most residues of a protein.

    Raises:
        TypeError: If an argument is no list or no mapping.
        ValueError: If a position, residue or pattern is none, or constraints contradict each other.
    """

    def __init__(
        self,
        anchors: Sequence[str],
        max_mutations: int | None = None,
        frozen_positions: Sequence[int] | None = None,
        allowed_residues: Mapping[int, str] | None = None,
        forbidden_motifs: Sequence[str] = (),
        max_insertions: int | None = None,
        max_deletions: int | None = None,
        lengths: tuple[int, float] = (1, math.inf),
    ):
        self.anchors = list(dict.fromkeys(anchors))
        self.max_mutations = max_mutations
        shortest = min(map(len, self.anchors))
        self.frozen = frozenset(_check_positions(frozen_positions, shortest))
        self.allowed = _check_allowed(allowed_residues, shortest)
        self.motifs = {name: _compile(name) for name in _check_motifs(forbidden_motifs)}
        self.max_insertions, self.max_deletions, self.lengths = max_insertions, max_deletions, lengths
        self._check_agreement()

    @property
    def changes_length(self) -> bool:
        """Whether insertions or deletions are asked for: positions are then those of an alignment to the anchor."""
        return bool(self.max_insertions or self.max_deletions)

    @property
    def keeps_length(self) -> bool:
        """Whether designs must be as long as their anchor: without an alignment positions mean something only then."""
        return bool(self.frozen or self.allowed) and not self.changes_length

    def nearest(self, sequence: str) -> tuple[str, int]:
        """Return the nearest anchor, of the same length if lengths must stay, and its distance."""
        anchors = self.anchors
        if self.keeps_length:
            anchors = [anchor for anchor in anchors if len(anchor) == len(sequence)] or anchors
        if len(anchors) == 1:
            return anchors[0], Levenshtein.distance(anchors[0], sequence)
        _, distance, row = process.extractOne(sequence, anchors, scorer=Levenshtein.distance, processor=None)
        return anchors[row], int(distance)

    def broken(self, sequence: str) -> str | None:
        """Return which constraint a sequence breaks, by the name of the argument; None if it keeps all."""
        if not set(sequence) <= set(AMINO_ACIDS):
            return "residues"
        if not self.lengths[0] <= len(sequence) <= self.lengths[1]:
            return "length"
        anchor, distance = self.nearest(sequence)
        if self.keeps_length and len(anchor) != len(sequence):
            return "frozen_positions" if self.frozen else "allowed_residues"
        if self.max_insertions is None and self.max_deletions is None and not (self.frozen or self.allowed):
            aligned = None
        else:
            aligned = self._align(sequence, anchor)
            if self.max_insertions is not None and aligned.num_insertions > self.max_insertions:
                return "max_insertions"
            if self.max_deletions is not None and aligned.num_deletions > self.max_deletions:
                return "max_deletions"
            if any(aligned.residues[position] != anchor[position] for position in self.frozen):
                return "frozen_positions"
            if any(inserted and self._is_closed(gap, anchor) for gap, inserted in enumerate(aligned.inserted)):
                return "frozen_positions"
            if any(aligned.residues[position] not in set(residues) for position, residues in self.allowed.items()):
                return "allowed_residues"
        if self.max_mutations is not None and distance > self.max_mutations:
            return "max_mutations"
        for name, pattern in self.motifs.items():
            most = _count(pattern, anchor) if name.startswith(_EXTRA) else 0
            if _count(pattern, sequence) > most:
                return f"forbidden_motifs {name!r}"
        return None

    def choices(self, sequence: str) -> dict[int, str]:
        """Return the other residues that may stand at each position; positions without any are left out."""
        options = {}
        for index, (residue, position) in enumerate(zip(sequence, self._places(sequence), strict=True)):
            residues = AMINO_ACIDS if position is None else self.allowed.get(position, AMINO_ACIDS)
            if position is None or position not in self.frozen:
                options[index] = residues.replace(residue, "")
        return {index: residues for index, residues in options.items() if residues}

    def gaps(self, sequence: str) -> list[int]:
        """Return where a residue may be inserted: before which positions, or at the length for after the last."""
        anchor, _ = self.nearest(sequence)
        places = self._places(sequence)
        after = [*(len(anchor) if place is None else place for place in places), len(anchor)]
        inside = [place is None for place in places] + [False]
        return [gap for gap, place in enumerate(after) if inside[gap] or not self._is_closed(place, anchor)]

    def removable(self, sequence: str) -> list[int]:
        """Return the positions of a sequence whose residues may be deleted."""
        places = self._places(sequence)
        return [index for index, at in enumerate(places) if at not in self.frozen and at not in self.allowed]

    def _align(self, sequence: str, anchor: str) -> Alignment:
        """Return the sequence beside its anchor; site by site where lengths must stay."""
        if self.changes_length or len(sequence) != len(anchor):
            return align(sequence, anchor)
        length = len(anchor)
        return Alignment(list(sequence), [""] * (length + 1), list(range(length)))

    def _places(self, sequence: str) -> list[int | None]:
        """Return the anchor's position for each residue; None for inserted ones."""
        if not self.changes_length:
            return list(range(len(sequence)))
        return align(sequence, self.nearest(sequence)[0]).places

    def _is_closed(self, gap: int, anchor: str) -> bool:
        """Whether nothing may be inserted before that position: frozen residues, or ends, are on both sides."""
        before = gap == 0 or gap - 1 in self.frozen
        after = gap == len(anchor) or gap in self.frozen
        return bool(self.frozen) and before and after

    def repair(self, sequence: str, rng: np.random.Generator) -> str:
        """Return a sequence as long as its anchor with what breaks positions or the distance set back to the anchor.

        Residues that are not allowed become the anchor's, or a random allowed one; of too many mutations some, drawn
        at random, are undone. A sequence that keeps everything returns as it came. Motifs are left as they are, and so
        are sequences with insertions or deletions.
        """
        if self.broken(sequence) is None:
            return sequence
        anchor, _ = self.nearest(sequence)
        if len(anchor) != len(sequence) or (self.changes_length and self._align(sequence, anchor).num_insertions):
            return sequence
        letters = list(sequence)
        for position in self.frozen:
            letters[position] = anchor[position]
        for position, letter in enumerate(letters):
            residues = self.allowed.get(position, AMINO_ACIDS)
            if position not in self.frozen and letter not in residues:
                keeps = anchor[position] in residues
                letters[position] = anchor[position] if keeps else residues[rng.integers(len(residues))]
        if self.max_mutations is not None:
            changed = [position for position, letter in enumerate(letters) if letter != anchor[position]]
            free = [position for position in changed if anchor[position] in self.allowed.get(position, AMINO_ACIDS)]
            for position in rng.permutation(free)[: max(len(changed) - self.max_mutations, 0)]:
                letters[position] = anchor[position]
        return "".join(letters)

    def space_size(self) -> float:
        """Return at most how many sequences there are, apart from motifs; infinity where lengths may change."""
        if self.changes_length:
            return math.inf
        total = 0.0
        for anchor in self.anchors:
            options = [len(residues) for residues in self.choices(anchor).values()]
            ways = [1.0]  # of 0, 1, ... mutations
            most = len(options) if self.max_mutations is None else min(self.max_mutations, len(options))
            for number in options:
                longer = [*ways, 0.0][: most + 1]
                for changes in range(1, len(longer)):
                    longer[changes] += number * ways[changes - 1]
                ways = longer
            total += sum(ways)
        return total

    def _check_agreement(self) -> None:
        """Refuse what no sequence can keep."""
        if self.max_mutations == 0:
            raise ValueError("`max_mutations` must be at least 1 for designs: with 0 the start alone is allowed.")
        self._check_room()
        reasons = []
        for anchor in self.anchors:
            needed = [position for position, residues in self.allowed.items() if anchor[position] not in residues]
            clash = sorted(self.frozen.intersection(needed))
            if clash:
                reasons.append(
                    f"`frozen_positions` keeps {anchor[clash[0]]} at position {clash[0]}, where `allowed_residues` "
                    f"allows {self.allowed[clash[0]]!r}"
                )
            elif self.max_mutations is not None and len(needed) > self.max_mutations:
                reasons.append(
                    f"`allowed_residues` asks for {len(needed)} mutations of the start, and `max_mutations` is "
                    f"{self.max_mutations}"
                )
            elif (
                not self.choices(anchor)
                and not (self.max_insertions and self.gaps(anchor))
                and not (self.max_deletions and self.removable(anchor))
            ):
                reasons.append("`frozen_positions` and `allowed_residues` leave no position free")
        if len(reasons) == len(self.anchors):
            raise ValueError(f"The constraints contradict each other: {reasons[0]}.")

    def _check_room(self) -> None:
        """Refuse insertions and deletions that no protein of the model can have."""
        fewest, most = self.lengths
        if self.max_insertions and not self.max_deletions and min(map(len, self.anchors)) >= most:
            raise ValueError(
                f"`max_insertions` must be 0 or None: the model takes proteins of at most {most} residues, and no "
                "start is shorter."
            )
        if self.max_deletions and not self.max_insertions and max(map(len, self.anchors)) <= fewest:
            raise ValueError(
                f"`max_deletions` must be 0 or None: the model takes proteins of at least {fewest} residues, and no "
                "start is longer."
            )


def _check_positions(positions: Any, length: int) -> list[int]:
    frozen = [] if positions is None else positions
    if not (is_column(frozen) or isinstance(frozen, (set, frozenset))) or not all(map(is_integer, frozen)):
        raise TypeError(f"`frozen_positions` must be a list of integers, got {positions!r}.")
    if outside := [position for position in frozen if not 0 <= position < length]:
        raise ValueError(
            f"`frozen_positions` must be in [0, {length}), the positions of the shortest start, got {outside[:5]}."
        )
    return [int(position) for position in frozen]


def _check_allowed(allowed: Any, length: int) -> dict[int, str]:
    if allowed is None:
        return {}
    if not isinstance(allowed, Mapping):
        raise TypeError(f"`allowed_residues` must map positions to residues, got {type(allowed).__name__}.")
    checked = {}
    for position, residues in allowed.items():
        if not is_integer(position) or not 0 <= position < length:
            raise ValueError(
                f"`allowed_residues` must have positions in [0, {length}), the shortest start's, got {position!r}."
            )
        if not isinstance(residues, str) or not residues or not set(residues) <= set(AMINO_ACIDS):
            raise ValueError(
                f"`allowed_residues` must allow some of {AMINO_ACIDS!r} at position {position}, got {residues!r}."
            )
        checked[int(position)] = "".join(dict.fromkeys(residues))
    return checked


def _check_motifs(motifs: Any) -> list[str]:
    if isinstance(motifs, str) or not isinstance(motifs, Sequence):
        raise TypeError(f"`forbidden_motifs` must be a list of patterns, got {motifs!r}.")
    for motif in motifs:
        if not isinstance(motif, str) or not motif:
            raise ValueError(f"`forbidden_motifs` must hold names or regular expressions, got {motif!r}.")
    return list(motifs)


def _compile(motif: str) -> re.Pattern[str]:
    pattern = MOTIFS.get(motif.removeprefix(_EXTRA), motif)
    try:
        compiled = re.compile(f"(?=({pattern}))")  # overlapping ones count too
    except re.error as error:
        raise ValueError(
            f"`forbidden_motifs` must hold names in {sorted(MOTIFS)}, perhaps after {_EXTRA!r}, or regular "
            f"expressions, got {motif!r}: {error}."
        ) from error
    if re.fullmatch(pattern, ""):
        raise ValueError(f"`forbidden_motifs` {motif!r} matches every sequence: it may match nothing at all.")
    if motif.removeprefix(_EXTRA) not in MOTIFS and re.search("[a-z]", re.sub(r"\\.", "", motif)):
        raise ValueError(
            f"`forbidden_motifs` must hold names in {sorted(MOTIFS)}, perhaps after {_EXTRA!r}, or patterns of "
            f"residues in upper case, got {motif!r}."
        )
    letters = re.sub(r"\\.", "", motif) if motif.removeprefix(_EXTRA) not in MOTIFS else ""
    if unknown := sorted({letter for letter in letters if letter.isalpha()} - set(AMINO_ACIDS)):
        raise ValueError(
            f"`forbidden_motifs` {motif!r} has letters that stand for none of {AMINO_ACIDS!r}: {unknown}. Write '.' "
            "for any residue, and [DN] for one of several."
        )
    return compiled


def _count(pattern: re.Pattern[str], sequence: str) -> int:
    return sum(1 for _ in pattern.finditer(sequence))
