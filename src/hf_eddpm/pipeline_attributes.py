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
        refinement_steps: StepsOrZero = 0,
        generator: torch.Generator | None = None,
        **decode_arguments: Any,
    ) -> EDDPMAttributeEdit:
        """Change data as little as it takes to have attributes.

        The latents move to the nearest ones that an attribute's regression is sure enough of, and are decoded; what
        comes out is encoded and judged again. Where it falls short, the next attempt aims higher. So data that are
        easily changed are changed little, other than along one `scale` for all as in `edit`.

        Args:
            data: One datum or a list of them.
            attributes: What the data are to have, from `attribute`; several at once move in one step.
            probability: What each attribute must have, of what was decoded, in (0, 1).
            num_attempts: How often to aim higher.
            max_log_odds: What the last attempt aims at, above the log odds of `probability`.
            refinement_steps: As for `encode`; more of the data's content is kept.
            generator: Source of noise of a decoder that draws.
            **decode_arguments: Passed to the decoder; none with a value for each datum.

        Returns:
            For each datum the first attempt that has the attributes, or, if none has, the one that comes nearest,
            with a warning.

        Raises:
            ValueError: If an argument is outside its range, attributes contradict each other or are not of this
                model's latents, or a decoder's argument holds a value for each datum.
        """
        items = self.processor.as_list(data, "data")
        wanted = [attributes] if isinstance(attributes, LinearAttribute) else list(attributes)
        lowest = self._check_attributes(wanted, probability, max_log_odds)
        per_datum = {*self.model.decoder.per_datum_arguments, "output_type"} - {"generator"}
        if given := sorted(per_datum & decode_arguments.keys()):
            raise ValueError(f"`{given[0]}` must not be given to `edit_to`: each attempt decodes other data anew.")
        self._refuse_copies(decode_arguments)
        self._give_generator(decode_arguments, generator)
        start = self.encode(items, refinement_steps=refinement_steps).latents
        samples: list[Any] = [None] * len(items)
        best = torch.full((len(items), len(wanted)), -1.0)
        pending = list(range(len(items)))
        for log_odds in self.progress_bar(torch.linspace(lowest, max_log_odds, num_attempts).tolist()):
            decoded = self.decode(least_move(start[pending], wanted, log_odds), **decode_arguments)
            for row, sample, found in zip(pending, decoded, self._probabilities(decoded, wanted), strict=True):
                if found.min() > best[row].min():
                    samples[row], best[row] = sample, found
            pending = [row for row in pending if best[row].min() < probability]
            if not pending:
                break
        if pending:
            logger.warning(
                f"{len(pending)} of {len(items)} data did not reach a `probability` of {probability:g}: they are as "
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

    def _probabilities(self, decoded: list[Any], wanted: list[LinearAttribute]) -> torch.Tensor:
        """Each attribute's probability of decoded data, `(batch, num_attributes)`; 0 of text that is empty."""
        rows = [row for row, sample in enumerate(decoded) if not isinstance(sample, str) or sample.strip()]
        found = torch.zeros(len(decoded), len(wanted))
        if rows:
            latents = self.encode([decoded[row] for row in rows]).latents
            found[rows] = torch.stack([each.probability(latents).cpu() for each in wanted], dim=1)
        return found
