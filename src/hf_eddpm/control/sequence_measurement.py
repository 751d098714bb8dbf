"""Sequences of which some positions are known: their likelihood given latents, and the rest filled in."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import cross_entropy

from ..argument_checks import is_column, is_integer
from ..modalities.protein.residues import AMINO_ACIDS, FIRST_RESIDUE_ID, RESIDUES, UNKNOWN
from ..modeling_eddpm import EDDPMModel
from ..processing_eddpm import EDDPMProcessor

_IGNORED = -100
# X stands for a residue that nobody knows: it is never filled in.
_FILLED_IN = torch.tensor([FIRST_RESIDUE_ID + RESIDUES.index(residue) for residue in AMINO_ACIDS])


@dataclass(frozen=True)
class KnownPart:
    """A protein of which some residues are known.

    Args:
        sequence: Its residues; those that are not known are `X`.
        known: Positions that are known, from 0 on.
    """

    sequence: str
    known: tuple[int, ...]


class SequenceMeasurement:
    """The known positions of a batch of sequences.

    A decoder of all sites at once says how likely the known ones are, whatever the others are. To a causal one the
    others matter: at each noise level they are decoded anew from the latents expected there, the known ones held, and
    the likelihood is of the known ones between them.

    Args:
        model: The model that fills them in.
        processor: Its processor.
        parts: The sequences, from `read`.
        device: Where to compute.
    """

    def __init__(self, model: EDDPMModel, processor: EDDPMProcessor, parts: Sequence[KnownPart], device: torch.device):
        self.model, self.processor, self.parts, self.device = model, processor, parts, device
        self.decoder: Any = model.decoder
        self.labels = self._labels([part.sequence for part in parts])  # (batch, sites)
        self.known = torch.zeros_like(self.labels, dtype=torch.bool)
        self.unknown = torch.zeros_like(self.known)
        for row, part in enumerate(parts):
            first = self._first_site(part)
            self.unknown[row, first : first + len(part.sequence)] = True
            self.known[row, [first + position for position in part.known]] = True
        self.unknown &= ~self.known
        if not self.decoder.has_independent_sites:  # that nothing follows is known too
            self.known |= (self.labels != _IGNORED) & ~self.unknown

    @staticmethod
    def read(model: EDDPMModel, processor: Any, data: Any, mask: Any) -> list[KnownPart]:
        """Return sequences with what is known of them, checked.

        Args:
            model: The model that fills them in.
            processor: Its processor.
            data: A sequence or a list of them; what stands where it is not known does not matter.
            mask: True at each known position: a list of flags, or one such list for each sequence.

        Raises:
            TypeError: If something is no sequence.
            ValueError: If the model is not for proteins, or a mask has another length or nothing known.
        """
        modality = model.config.modality
        if modality != "protein":
            raise ValueError(
                f"`restore` with a `mask` is for images and proteins, not for the modality {modality!r}: what its "
                f"{type(model.decoder).__name__} decodes has no positions that could be held."
            )
        items = [data] if isinstance(data, str) else data
        if not is_column(items) or not all(isinstance(item, str) for item in items):
            raise TypeError(f"`data` must be a string or a list of strings, got {type(data).__name__}.")
        flags = _flags(mask, len(items))
        parts = []
        for place, (sequence, row) in enumerate(zip(items, flags, strict=True)):
            if len(row) != len(sequence):
                raise ValueError(
                    f"`mask` must have a flag for each of {len(sequence)} positions of the sequence at position "
                    f"{place}, got {len(row)}."
                )
            if not any(row):
                raise ValueError(f"`mask` must leave something known, got nothing known at position {place}.")
            hidden = "".join(symbol if flag else UNKNOWN for symbol, flag in zip(sequence, row, strict=True))
            known = tuple(position for position, flag in enumerate(row) if flag)
            parts.append((hidden, known))
        sequences = processor.as_list([hidden for hidden, _ in parts])
        return [KnownPart(sequence, known) for sequence, (_, known) in zip(sequences, parts, strict=True)]

    def prepare(self, latents: torch.Tensor) -> None:
        """Fill in the unknown positions from latents, for a causal decoder; `(batch, num_latents, latent_dim)`."""
        if not self.decoder.has_independent_sites:
            self.labels = self._labels(self.processor.postprocess(self._decode_around(latents)))

    def log_likelihood(self, latents: torch.Tensor) -> torch.Tensor:
        """Return log p(known positions | latents), `(batch,)`."""
        return -self._nats(latents)

    def decode(self, latents: torch.Tensor, generator: Any = None) -> torch.Tensor:
        """Return the token ids of the sequences, the unknown positions decoded and the known ones as they are.

        Args:
            latents: Of p(latents | known positions), `(batch, num_latents, latent_dim)`.
            generator: Not used: the likeliest residues are taken.
        """
        self.latents = latents
        if self.decoder.has_independent_sites:
            logits = self.decoder.logits(latents.to(self.model.denoiser.output.weight.dtype))
            allowed = _FILLED_IN.to(self.device)
            best = allowed[logits[..., allowed].argmax(-1)]
            return torch.where(self.unknown, best, self.labels)
        return self._decode_around(latents)

    def misfit(self, outputs: torch.Tensor) -> torch.Tensor:
        """Return -log p(known positions | latents that were decoded) for each position, in nats, `(batch,)`."""
        return self._nats(self.latents) / self.known.sum(1)

    def _nats(self, latents: torch.Tensor) -> torch.Tensor:
        latents = latents.to(self.model.denoiser.output.weight.dtype)
        if self.decoder.has_independent_sites:
            logits = self.decoder.logits(latents)
        else:
            logits = self.decoder.logits(latents, self.labels)
        targets = self.labels.masked_fill(~self.known, _IGNORED)
        nats = cross_entropy(logits.float().transpose(1, 2), targets, ignore_index=_IGNORED, reduction="none")
        return nats.sum(1)

    def _decode_around(self, latents: torch.Tensor) -> torch.Tensor:
        """Return token ids of a causal decoder that is held to the known positions and to each length."""
        held = [{position: part.sequence[position] for position in part.known} for part in self.parts]
        by_length: dict[int, list[int]] = {}
        for row, part in enumerate(self.parts):
            by_length.setdefault(len(part.sequence), []).append(row)
        tokens: list[Any] = [None] * len(self.parts)
        for length, rows in by_length.items():
            frozen = [held[row] for row in rows]
            lengths = {"max_new_tokens": length, "min_new_tokens": length}
            ids = self.model.decode(latents[rows].detach(), frozen_positions=frozen, **lengths)
            for row, each in zip(rows, ids, strict=True):
                tokens[row] = each[:length]
        return torch.nn.utils.rnn.pad_sequence(tokens, batch_first=True)

    def _labels(self, sequences: Sequence[str]) -> torch.Tensor:
        return self.processor(list(sequences))["labels"].to(self.device)

    def _first_site(self, part: KnownPart) -> int:
        processor: Any = self.processor
        return processor.first_site(part.sequence)


def _flags(mask: Any, count: int) -> list[list[bool]]:
    """Return the flags of each of `count` sequences."""
    rows = mask.tolist() if hasattr(mask, "tolist") else list(mask)
    if not rows:
        raise ValueError("`mask` must hold a flag for each position, got none.")
    nested = [row.tolist() if hasattr(row, "tolist") else row for row in rows]
    rows = [list(row) for row in nested] if isinstance(nested[0], (list, tuple)) else [nested] * count
    if len(rows) != count:
        raise ValueError(f"`mask` must be one or one for each of {count} sequences, got {len(rows)}.")
    for row in rows:
        for flag in row:
            if not (isinstance(flag, bool) or is_integer(flag) and flag in (0, 1)):
                raise ValueError(f"`mask` must hold only True and False (or 1 and 0), got {flag!r}.")
    return [[bool(flag) for flag in row] for row in rows]
