"""Giving back what an edit changed without need."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from rapidfuzz.distance import Levenshtein

from .control.attributes import LinearAttribute
from .modeling_eddpm import EDDPMModel
from .processing_eddpm import EDDPMProcessor
from .surest import uncertainty

_DOUBT_WEIGHT = 0.1  # of a nat per unit, against the share of units that are kept


class EditJudge:
    """Says how likely edited data have attributes, and how much there is to doubt of them; strings are encoded once.

    Args:
        model: The model.
        processor: Its processor.
        encode: From a list of data to latents `(batch, num_latents, latent_dim)`.
        attributes: At least one.
    """

    def __init__(
        self,
        model: EDDPMModel,
        processor: EDDPMProcessor,
        encode: Callable[[list[Any]], torch.Tensor],
        attributes: Sequence[LinearAttribute],
    ):
        self.model, self.processor, self.encode, self.attributes = model, processor, encode, attributes
        self._latents: dict[str, torch.Tensor] = {}

    def probabilities(self, data: list[Any]) -> torch.Tensor:
        """Return the probability of each attribute, float32 `(batch, num_attributes)`.

        Of what the processor refuses, and of an empty text, it is 0.
        """
        if not all(isinstance(datum, str) for datum in data):
            return self._of_latents(self.encode(data))
        self._encode_new(data)
        rows = [row for row, datum in enumerate(data) if datum in self._latents]
        found = torch.zeros(len(data), len(self.attributes))
        if rows:
            found[rows] = self._of_latents(torch.stack([self._latents[data[row]] for row in rows]))
        return found

    def doubts(self, data: list[str]) -> list[float]:
        """Return how unsure the decoder is of data that the processor takes, in nats per unit."""
        if not data:
            return []
        self._encode_new(data)
        latents = torch.stack([self._latents[datum] for datum in data]).to(self.model.device)
        return uncertainty(self.model, self.processor, data, latents).tolist()

    def whole(self, data: list[str]) -> list[bool]:
        """Return whether the processor takes each datum, and all of it."""
        accepted = [row for row, datum in enumerate(data) if self._is_accepted(datum)]
        cut = self.processor.prepare([data[row] for row in accepted])[1] if accepted else {}
        taken = {row for place, row in enumerate(accepted) if place not in cut}
        return [row in taken for row in range(len(data))]

    def _encode_new(self, data: list[str]) -> None:
        new = [datum for datum in dict.fromkeys(data) if datum not in self._latents and self._is_accepted(datum)]
        if new:
            self._latents |= zip(new, self.encode(new), strict=True)

    def _of_latents(self, latents: torch.Tensor) -> torch.Tensor:
        return torch.stack([attribute.probability(latents) for attribute in self.attributes], dim=1).cpu()

    def _is_accepted(self, datum: str) -> bool:
        if not datum.strip():
            return False
        try:
            self.processor.as_list([datum])
        except ValueError:
            return False
        return True


def restorations(before: list[str], after: list[str]) -> list[list[str]]:
    """Return `after` with one of its differences from `before` given back, for each difference.

    The differences are those of a shortest alignment (Levenshtein, 1966). A stretch of them is given back as a whole,
    and unit by unit where units replace others. Each result is nearer to `before`.

    Args:
        before: Units of a datum, such as words.
        after: Units of what became of it.
    """
    stretches: list[tuple[int, int, int, int]] = []
    parts: list[tuple[int, int, int, int]] = []
    for step in Levenshtein.opcodes(before, after):
        start, end, first, last = step.src_start, step.src_end, step.dest_start, step.dest_end
        if step.tag == "equal":
            continue
        if stretches and stretches[-1][1] == start and stretches[-1][3] == first:
            stretches[-1] = (stretches[-1][0], end, stretches[-1][2], last)
        else:
            stretches.append((start, end, first, last))
        if step.tag == "replace":
            parts += [(start + i, start + i + 1, first + i, first + i + 1) for i in range(end - start)]
        else:
            parts.append((start, end, first, last))
    return [
        after[:first] + before[start:end] + after[last:]
        for start, end, first, last in dict.fromkeys([*stretches, *parts])
    ]


def give_back_unneeded(
    processor: EDDPMProcessor, judge: EditJudge, originals: list[str], edited: list[str], probability: float
) -> list[str]:
    """Return edits in which every change is needed: without any one of them, an attribute is less likely than asked.

    One difference after another is given back, the one first that leaves least to doubt, as long as all attributes
    keep their probability. An edit that does not have it is left as it is.

    Args:
        processor: It takes data apart into units.
        judge: Of the attributes.
        originals: What was edited.
        edited: What became of it.
        probability: What all attributes must keep.
    """
    results = list(edited)
    pending = [row for row, found in enumerate(judge.probabilities(edited)) if bool((found >= probability).all())]
    while pending:
        pairs = [(row, text) for row in pending for text in _nearer(processor, originals[row], results[row])]
        whole = judge.whole([text for _, text in pairs])
        pairs = [pair for pair, taken in zip(pairs, whole, strict=True) if taken]
        found = judge.probabilities([text for _, text in pairs])
        pairs = [pair for pair, each in zip(pairs, found, strict=True) if bool((each >= probability).all())]
        surest: dict[int, tuple[float, str]] = {}
        for (row, text), doubt in zip(pairs, judge.doubts([text for _, text in pairs]), strict=True):
            surest[row] = min(surest.get(row, (doubt, text)), (doubt, text))
        for row, (_, text) in surest.items():
            results[row] = text
        pending = list(surest)
    return results


def _nearer(processor: EDDPMProcessor, original: str, edited: str) -> list[str]:
    """Return the edit with one difference given back, for each; not those that are no nearer once units are joined."""
    before, after = processor.units(original), processor.units(edited)
    distance = Levenshtein.distance(before, after)
    texts = ["".join(units) for units in restorations(before, after)]
    texts = [text if text == original else text.strip() for text in texts]
    return [text for text in texts if Levenshtein.distance(before, processor.units(text)) < distance]


def nearest(processor: EDDPMProcessor, judge: EditJudge, original: str, candidates: list[str]) -> str:
    """Return the candidate that keeps most of the original and leaves least to doubt; of equal ones the first."""
    before = processor.units(original)
    kept = [Levenshtein.normalized_similarity(before, processor.units(candidate)) for candidate in candidates]
    merits = [share - _DOUBT_WEIGHT * doubt for share, doubt in zip(kept, judge.doubts(candidates), strict=True)]
    return candidates[merits.index(max(merits))]
