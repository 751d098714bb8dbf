"""Giving back what an edit changed without need."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from rapidfuzz.distance import Levenshtein

from .modeling_eddpm import EDDPMModel
from .processing_eddpm import EDDPMProcessor
from .surest import doubt

_DOUBT_WEIGHT = 0.1  # of a nat per unit, against the share of units that are kept


class Judged(NamedTuple):
    """A datum that was encoded anew.

    Args:
        probabilities: Of having each attribute, float32 `(num_attributes,)`.
        doubt: See `surest.doubt`; 0 of a decoder that makes no tokens.
    """

    probabilities: torch.Tensor
    doubt: float


class EditJudge:
    """Says how likely edited data have attributes, and how much there is to doubt of them; each datum once.

    Args:
        model: The model.
        processor: Its processor.
        encode: From a list of data to latents `(batch, num_latents, latent_dim)`.
        probabilities: From latents to the probability of each attribute, `(batch, num_attributes)`.
        num_attributes: How many there are.
    """

    def __init__(
        self,
        model: EDDPMModel,
        processor: EDDPMProcessor,
        encode: Callable[[list[Any]], torch.Tensor],
        probabilities: Callable[[torch.Tensor], torch.Tensor],
        num_attributes: int,
    ):
        self.model, self.processor, self.encode = model, processor, encode
        self.probabilities, self.num_attributes = probabilities, num_attributes
        self._known: dict[str, Judged] = {}

    def __call__(self, data: list[Any]) -> list[Judged]:
        """Judge data; what the processor refuses and an empty text have no attribute."""
        if not all(isinstance(datum, str) for datum in data):
            return self._judge(data)
        new = [datum for datum in dict.fromkeys(data) if datum not in self._known]
        sound = [datum for datum in new if datum.strip() and self._cut(datum) is not None]
        nothing = Judged(torch.zeros(self.num_attributes), float("inf"))
        self._known |= dict.fromkeys(new, nothing)
        self._known |= zip(sound, self._judge(sound), strict=True) if sound else {}
        return [self._known[datum] for datum in data]

    def _judge(self, data: list[Any]) -> list[Judged]:
        latents = self.encode(data)
        found = self.probabilities(latents).cpu()
        doubts = [0.0] * len(data)
        if self.model.decoder.decodes_tokens:
            doubts = doubt(self.model, self.processor, data, latents.to(self.model.device)).tolist()
        return [Judged(*pair) for pair in zip(found, doubts, strict=True)]

    def is_whole(self, datum: str) -> bool:
        """Whether the processor takes a datum, and all of it."""
        return self._cut(datum) == 0

    def _cut(self, datum: str) -> int | None:
        """How many data of this one would be cut, 0 or 1; None if the processor refuses it."""
        try:
            return len(self.processor.prepare(self.processor.as_list([datum]))[1])
        except ValueError:
            return None


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
    pending = [row for row, each in enumerate(judge(edited)) if bool((each.probabilities >= probability).all())]
    while pending:
        candidates = [(row, text) for row in pending for text in _nearer(processor, originals[row], results[row])]
        candidates = [(row, text) for row, text in candidates if judge.is_whole(text)]
        found: dict[int, tuple[float, str]] = {}
        for (row, text), each in zip(candidates, judge([text for _, text in candidates]), strict=True):
            if bool((each.probabilities >= probability).all()):
                found[row] = min(found.get(row, (each.doubt, text)), (each.doubt, text))
        for row, (_, text) in found.items():
            results[row] = text
        pending = list(found)
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
    merits = [share - _DOUBT_WEIGHT * each.doubt for share, each in zip(kept, judge(candidates), strict=True)]
    return candidates[merits.index(max(merits))]
