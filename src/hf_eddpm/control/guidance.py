"""Energies that steer the latents: terms that are summed, in the chain or by an ODE, and their gradients.

A term is a log-weight of latents, up to a constant: samples are drawn with a density of about
p(latents) exp(sum of scale * term). Terms of the clean latents are evaluated at the clean estimate of each step.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from transformers.utils import logging

from ..argument_checks import check_number, is_integer, is_number
from ..modeling_eddpm import EDDPMModel
from ..modeling_property import PropertyHead
from ..scheduling_eddpm import EDDPMScheduler
from .guided_step import Objective, predict_guided
from .latent_guide import LatentGuide

logger = logging.get_logger(__name__)

TimedObjective = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]  # the same of noisy latents and a timestep


@dataclass(frozen=True)
class LatentSpace:
    """What guidance and optimisation see of a pipeline.

    Args:
        model: The model.
        device: Where latents are worked on.
        encode: Function from data, one or a list, to their latents, float32 `(batch, num_latents, latent_dim)`.
    """

    model: EDDPMModel
    device: torch.device
    encode: Callable[[Any], torch.Tensor]


class Guidance:
    """One term of what steers the samples; subclasses say what it is.

    Args:
        scale: Its weight, at least 0; 0 is no guidance.

    Attributes:
        on_noisy_latents: Whether it is a function of the noisy latents rather than of the clean estimate.

    Raises:
        ValueError: If the scale is negative or not finite.
    """

    on_noisy_latents = False

    def __init__(self, scale: float = 1.0):
        check_number(scale, "scale", at_least=0)
        self.scale = scale

    def bind(self, space: LatentSpace, batch: int) -> TimedObjective:
        """Return the log-weight, before the scale, as a differentiable function for a batch of latents.

        It takes latents `(batch, num_latents, latent_dim)` and their timestep (clean ones have 0) and returns
        `(batch,)`.
        """
        raise NotImplementedError


class EnergyGuidance(Guidance):
    """Any energy of the clean latents: the lower, the likelier.

    Args:
        energy: Differentiable function of latents `(batch, num_latents, latent_dim)` that returns `(batch,)`, each
            number from its own row.
        scale: Weight, at least 0.
    """

    def __init__(self, energy: Callable[[torch.Tensor], torch.Tensor], scale: float = 1.0):
        super().__init__(scale)
        if not callable(energy):
            raise TypeError(f"`energy` must be a function of latents, got {type(energy).__name__}.")
        self.energy = energy

    def bind(self, space: LatentSpace, batch: int) -> TimedObjective:
        """Return minus the energy."""
        return lambda latents, timestep: -self.energy(latents)


class ClassifierGuidance(Guidance):
    """The log-probability that a classifier gives to a class.

    A [`LatentGuide`] sees the noisy latents (Dhariwal & Nichol 2021, arXiv 2105.05233, algorithm 2); any other
    classifier sees the clean estimate, through which its gradient goes back to the noisy latents (Chung et al. 2023,
    arXiv 2209.14687, section 3).

    Args:
        classifier: `LatentGuide`, or any function of latents `(batch, num_latents, latent_dim)` that returns logits
            `(batch, num_classes)` and can be differentiated.
        target: The class, or one for each sample.
        scale: Weight, at least 0.
    """

    def __init__(
        self,
        classifier: LatentGuide | Callable[[torch.Tensor], torch.Tensor],
        target: int | Sequence[int],
        scale: float = 1.0,
    ):
        super().__init__(scale)
        if not callable(classifier):
            raise TypeError(f"`classifier` must be a LatentGuide or a function, got {type(classifier).__name__}.")
        self.classifier = classifier
        self.target = target
        self.on_noisy_latents = isinstance(classifier, LatentGuide)

    def bind(self, space: LatentSpace, batch: int) -> TimedObjective:
        """Return the class's log-probability.

        Raises:
            ValueError: If the classifier does not fit the latents, or the target is none of its classes.
        """
        classifier = self.classifier
        if isinstance(classifier, LatentGuide):
            classifier.check_model(space.model)
            classifier.to(space.device)
            classes = classifier.config.num_classes
        else:
            classes = _count_classes(classifier, space)
        target = self.target
        targets = [target] * batch if is_integer(target) else target
        if not isinstance(targets, (list, tuple)) or not all(map(is_integer, targets)):
            raise TypeError(f"`target` must be an integer or a list of integers, got {target!r}.")
        if len(targets) != batch:
            raise ValueError(f"`target` must be one class or one for each of {batch} samples, got {len(targets)}.")
        if outside := [each for each in targets if each not in range(classes)]:
            raise ValueError(f"`target` must be in [0, {classes}), the classifier's classes, got {outside[0]}.")
        columns = torch.tensor(targets, device=space.device)[:, None]

        def log_probability(latents: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
            arguments = (latents, timestep) if self.on_noisy_latents else (latents,)
            return classifier(*arguments).log_softmax(-1).gather(1, columns)[:, 0]

        return log_probability


class PropertyGuidance(Guidance):
    """The model's own prediction of a property: towards more of it, less of it, or a value.

    Args:
        target: "higher", "lower", or a value in the unit of the data; a list has one for each sample.
        property_index: Which property, in [0, num_properties); may be left out if there is one.
        scale: Weight, at least 0; for a value it is the inverse variance, in standardised units, that samples
            get around it.
    """

    def __init__(
        self,
        target: float | Sequence[float] | Literal["higher", "lower"],
        property_index: int | None = None,
        scale: float = 1.0,
    ):
        super().__init__(scale)
        self.target = target
        self.property_index = property_index

    def bind(self, space: LatentSpace, batch: int) -> TimedObjective:
        """Return the objective of `property_objective`.

        Raises:
            ValueError: If the model has no property head, or the target does not fit it.
        """
        head = space.model.property_head
        if head is None:
            raise ValueError("`PropertyGuidance` needs a model with a property head (`num_properties` > 0).")
        objective = property_objective(head, self.target, self.property_index, batch)
        return lambda latents, timestep: objective(latents)


class SimilarityGuidance(Guidance):
    """Nearness to an example: -1/2 the squared distance of the latents.

    Args:
        example: One datum, a list with one for each sample, or latents `(num_latents, latent_dim)` or
            `(num_samples, num_latents, latent_dim)`.
        scale: Weight, at least 0: the inverse variance that samples get around the example.
    """

    def __init__(self, example: Any, scale: float = 1.0):
        super().__init__(scale)
        self.example = example

    def bind(self, space: LatentSpace, batch: int) -> TimedObjective:
        """Return minus half the squared distance.

        Raises:
            ValueError: If there are neither one nor as many examples as samples.
        """
        if isinstance(self.example, torch.Tensor):
            latents = self.example[None] if self.example.ndim == 2 else self.example
            space.model.check_latents(latents, "example")
        else:
            latents = space.encode(self.example)
        if len(latents) not in (1, batch):
            raise ValueError(f"`example` must be one or one for each of {batch} samples, got {len(latents)}.")
        goal = latents.to(space.device, torch.float32)
        return lambda latents, timestep: -0.5 * (latents - goal).square().flatten(1).sum(1)


class Steering:
    """The sum of several terms, for a batch of a pipeline.

    Args:
        guidance: One term or several.
        space: Whose latents they are.
        batch: Samples.

    Raises:
        TypeError: If a term is no `Guidance`.
        ValueError: If there is none, or one does not fit the model.
    """

    def __init__(self, guidance: Guidance | Sequence[Guidance], space: LatentSpace, batch: int):
        terms = [guidance] if isinstance(guidance, Guidance) else list(guidance)
        if not terms:
            raise ValueError("`guidance` must hold at least one term, got none.")
        for term in terms:
            if not isinstance(term, Guidance):
                raise TypeError(f"`guidance` must hold Guidance objects, got {type(term).__name__}.")
        self.batch = batch
        self._terms = [
            (f"guidance[{index}] ({type(term).__name__})", term.on_noisy_latents, term.scale, term.bind(space, batch))
            for index, term in enumerate(terms)
        ]

    def predict(
        self,
        denoise: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        scheduler: EDDPMScheduler,
        noisy: torch.Tensor,
        timestep: torch.Tensor,
    ) -> torch.Tensor:
        """Return the denoiser's output under guidance, shaped as `noisy`; arguments as for `predict_guided`."""
        clean_terms, noisy_terms = ([term for term in self._terms if term[1] == kind] for kind in (False, True))
        nearest = torch.as_tensor(timestep, device=noisy.device).round().long().clamp(0, len(scheduler) - 1)
        clean, noise_pred = predict_guided(
            denoise,
            scheduler,
            noisy,
            timestep,
            (lambda latents: _sum_of(clean_terms, latents, nearest)) if clean_terms else None,
            (lambda latents: _sum_of(noisy_terms, latents, nearest)) if noisy_terms else None,
        )
        if not bool(torch.isfinite(noise_pred).all()):
            names = ", ".join(term[0] for term in self._terms)
            raise ValueError(
                f"The gradient of {names} is NaN or infinite at timestep {int(nearest)}: sampling is stopped. "
                "Choose a smaller `scale` or a nearer `target`."
            )
        return scheduler.training_target(clean, noise_pred, nearest)

    def total(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the sum of all terms at clean latents, `(batch,)`."""
        return _sum_of(self._terms, latents, torch.zeros((), dtype=torch.long, device=latents.device))


def _sum_of(
    terms: list[tuple[str, bool, float, TimedObjective]], latents: torch.Tensor, timestep: torch.Tensor
) -> torch.Tensor:
    total = torch.zeros(len(latents), device=latents.device)
    for name, _, scale, objective in terms:
        value = objective(latents, timestep)
        if value.shape != (len(latents),):
            raise ValueError(f"{name} must return one number a row, ({len(latents)},), got {tuple(value.shape)}.")
        if not bool(torch.isfinite(value).all()):
            raise ValueError(
                f"{name} is NaN or infinite at timestep {int(timestep)}: sampling is stopped. "
                "Choose a smaller `scale` or a nearer `target`."
            )
        if latents.requires_grad and not value.requires_grad:
            raise ValueError(f"{name} must be differentiable: what it returned does not depend on the latents.")
        total = total + scale * value
    return total


def property_objective(head: PropertyHead, target: Any, property_index: int | None, batch: int) -> Objective:
    """Return the objective: the standardised prediction, minus it, or -1/2 its squared distance from the target.

    Args:
        head: The model's property head.
        target: "higher", "lower", a number, or one for each of `batch` data, in the unit of the data.
        property_index: Which property, in [0, num_properties); None if there is one.
        batch: Data; the function takes k rows for each, side by side.

    Raises:
        TypeError: If the target is none of these.
        ValueError: If it, or the index, is out of range.
    """
    count = len(head.target_mean)
    if property_index is None and count > 1:
        raise ValueError(f"`property_index` must be given: the model predicts {count} properties.")
    index = 0 if property_index is None else property_index
    if not is_integer(index) or not 0 <= index < count:
        raise ValueError(f"`property_index` must be an integer in [0, {count}), got {property_index!r}.")
    if isinstance(target, str):
        if target not in ("higher", "lower"):
            raise ValueError(f"`target` must be 'higher', 'lower' or numbers, got {target!r}.")
        sign = 1 if target == "higher" else -1
        return lambda latents: sign * head(latents)[:, index]

    values = [target] * batch if is_number(target) else target
    if not isinstance(values, (list, tuple)) or not all(map(is_number, values)):
        raise TypeError(f"`target` must be 'higher', 'lower', a number or a list of numbers, got {target!r}.")
    if len(values) != batch:
        raise ValueError(f"`target` must be one number or one for each of {batch} data, got {len(values)}.")
    if not all(map(math.isfinite, values)):
        raise ValueError(f"`target` must be finite, got {target!r}.")
    low, high = float(head.minimum[index]), float(head.maximum[index])
    if outside := [value for value in values if not low <= value <= high]:
        logger.warning(
            f"`target` {outside[0]:g} is outside what training saw, {low:g} to {high:g}: the model extrapolates there."
        )
    goal = torch.tensor(values, dtype=torch.float32)
    goal = (goal.to(head.target_mean.device) - head.target_mean[index]) / head.target_std[index]  # (batch,)

    def closeness(latents: torch.Tensor) -> torch.Tensor:
        return -0.5 * (head(latents)[:, index] - goal.repeat_interleave(len(latents) // batch)).square()

    return closeness


def _count_classes(classifier: Callable[[torch.Tensor], torch.Tensor], space: LatentSpace) -> int:
    """Return the number of a classifier's classes, found by trying it."""
    config = space.model.config
    latents = torch.zeros(2, config.num_latents, config.latent_dim, device=space.device)
    try:
        with torch.no_grad():
            logits = classifier(latents)
    except RuntimeError as error:
        raise ValueError(f"`classifier` does not take latents of the shape {tuple(latents.shape)}: {error}") from error
    if not isinstance(logits, torch.Tensor) or logits.ndim != 2 or len(logits) != 2 or logits.shape[1] < 2:
        got = tuple(logits.shape) if isinstance(logits, torch.Tensor) else type(logits).__name__
        raise ValueError(f"`classifier` must return logits (batch, at least 2 classes), got {got} for a batch of 2.")
    return logits.shape[1]
