"""Attributes of data: what tells those that have one from those that lack it, and the least edit that gives it."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers.utils import logging

from .argument_types import Count, PositiveNumber, Share, StepsOrZero, checked
from .control.attributes import LinearAttribute, fit_attribute, least_move
from .outputs import EDDPMAttributeEdit
from .processing_eddpm import EDDPMProcessor
from .sampling import without_gradient
from .undoing import EditJudge, give_back_unneeded, nearest

logger = logging.get_logger(__name__)


class AttributesMixin:
    """The methods of `EDDPMPipeline` that fit and give attributes; a plain class, as `RestoreMixin` is."""

    model: Any
    processor: EDDPMProcessor
    encode: Callable[..., Any]
    decode: Callable[..., Any]
    progress_bar: Callable[..., Any]
    _latents_of_sides: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    _give_generator: Callable[..., None]
    _refuse_copies: Callable[..., None]

    @without_gradient
    @checked
    def attribute(
        self, positives: Any, negatives: Any, weight_decay: PositiveNumber = 0.01, batch_size: Count = 256
    ) -> LinearAttribute:
        """Fit what tells data with an attribute from data without: a logistic regression on their latents.

        Args:
            positives: Data that have the attribute.
            negatives: Data that lack it; the two lists may differ in length.
            weight_decay: Positive factor of half the squared norm of the standardised weights; the more, the fewer
                examples are needed.
            batch_size: How many data are encoded at a time.

        Returns:
            The attribute. Its `probability(latents)` is `(batch,)`; its `opposite()` is that of lacking it.

        Raises:
            ValueError: If a list is empty, or the two do not differ.
        """
        return fit_attribute(*self._latents_of_sides(positives, negatives, batch_size), weight_decay)

    @without_gradient
    @checked
    def edit_to(
        self,
        data: Any,
        attributes: LinearAttribute | Sequence[LinearAttribute],
        probability: Share = 0.7,
        num_attempts: Count = 16,
        max_log_odds: PositiveNumber = 25.0,
        give_back: bool = False,
        num_candidates: Count = 1,
        refinement_steps: StepsOrZero = 0,
        generator: torch.Generator | None = None,
        **decode_arguments: Any,
    ) -> EDDPMAttributeEdit:
        """Change data as little as it takes to have attributes.

        The latents move to the nearest ones that an attribute's regression is sure enough of, and are decoded; what
        comes out is encoded and judged again. Where it falls short, the next attempt aims higher. So data that are
        easily changed are changed little, other than along one `scale` for all as in `edit`.

        With `give_back`, words or residues that the attributes do not need are then put back, one difference after
        another, as long as the attributes keep their probability; data that have them already stay as they are. More
        of the content is kept where single words carry an attribute. Where grammar does, as between one man and two,
        its traces are put back too: leave it out there.

        Args:
            data: One datum or a list of them.
            attributes: What the data are to have, from `attribute`; several at once move in one step.
            probability: What each attribute must have, of what was decoded, in (0, 1).
            num_attempts: How often to aim higher.
            max_log_odds: What the last attempt aims at, above the log odds of `probability`.
            give_back: Whether words or residues that the attributes do not need are put back; for text and sequences.
            num_candidates: How many attempts that have the attributes are compared for each datum; what keeps most of
                it is chosen, with some regard to how sure the decoder is. More than one needs text or sequences.
            refinement_steps: As for `encode`; more of the data's content is kept.
            generator: Source of noise of a decoder that draws.
            **decode_arguments: Passed to the decoder; none with a value for each datum.

        Returns:
            For each datum the first attempt that has the attributes, or the nearest of several; if none has them, the
            one that is likeliest to, with a warning.

        Raises:
            ValueError: If an argument is outside its range, attributes contradict each other or are not of this
                model's latents, or a decoder's argument holds a value for each datum.
        """
        items = self.processor.as_list(data, "data")
        wanted = [attributes] if isinstance(attributes, LinearAttribute) else list(attributes)
        lowest = self._check_attributes(wanted, probability, max_log_odds)
        if not (self.model.decoder.decodes_tokens and all(isinstance(item, str) for item in items)):
            refused = "it takes words or residues, and " + type(self.model.decoder).__name__ + " makes none."
            if num_candidates > 1:
                raise ValueError(f"`num_candidates` must be 1, got {num_candidates}: {refused}")
            if give_back:
                raise ValueError(f"`give_back` must be False: {refused}")
        per_datum = {*self.model.decoder.per_datum_arguments, "output_type"} - {"generator"}
        if given := sorted(per_datum & decode_arguments.keys()):
            raise ValueError(f"`{given[0]}` must not be given to `edit_to`: each attempt decodes other data anew.")
        self._refuse_copies(decode_arguments)
        self._give_generator(decode_arguments, generator)
        judge = EditJudge(self.model, self.processor, lambda some: self.encode(some).latents, wanted)
        start = self.encode(items, refinement_steps=refinement_steps).latents
        samples: list[Any] = [None] * len(items)
        best = torch.full((len(items), len(wanted)), -1.0)
        candidates: list[list[Any]] = [[] for _ in items]
        pending = list(range(len(items)))
        for log_odds in self.progress_bar(torch.linspace(lowest, max_log_odds, num_attempts).tolist()):
            decoded = self.decode(least_move(start[pending], wanted, log_odds), **decode_arguments)
            if give_back:
                decoded = give_back_unneeded(
                    self.processor, judge, [items[row] for row in pending], decoded, probability
                )
            for row, sample, found in zip(pending, decoded, judge.probabilities(decoded), strict=True):
                if found.min() > best[row].min():
                    samples[row], best[row] = sample, found
                if found.min() >= probability:
                    candidates[row].append(sample)
            pending = [row for row in pending if len(candidates[row]) < num_candidates]
            if not pending:
                break
        if num_candidates > 1:
            for row, some in enumerate(candidates):
                if some:
                    samples[row] = nearest(self.processor, judge, items[row], some)
                    best[row] = judge.probabilities([samples[row]])[0]
        if missed := sum(not some for some in candidates):
            logger.warning(
                f"{missed} of {len(items)} data did not reach a `probability` of {probability:g}: they are as "
                "near as they came. Raise `max_log_odds`, or ask for less."
            )
        return EDDPMAttributeEdit(samples, best, (best >= probability).all(1))

    def _check_attributes(self, wanted: list[LinearAttribute], probability: float, max_log_odds: float) -> float:
        """Check what `edit_to` was given, and return the log odds of the probability."""
        if not wanted:
            raise ValueError("`attributes` must hold at least one attribute, got none.")
        for attribute in wanted:
            self.model.check_latents(attribute.weights[None], "attributes' weights")
        if not 0 < probability < 1:
            raise ValueError(f"`probability` must be in (0, 1), got {probability:g}.")
        lowest = math.log(probability / (1 - probability))
        if not max_log_odds > lowest:
            raise ValueError(
                f"`max_log_odds` must be above the log odds of `probability`, {lowest:.3g}, got {max_log_odds:g}."
            )
        return lowest
