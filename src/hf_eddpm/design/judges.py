"""What judges candidates: predictions with an uncertainty, from measurements or from the checkpoint's own heads."""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from ..extras import needs_extra
from ..modeling_property import PropertyHead
from ..property_ensemble import MIN_ROWS, calibration_error, interval_coverage
from .convolution import ConvolutionalNetworks
from .kernel import MAX_ROWS, Inputs, SequenceProcess, spread_rows
from .measurements import Measurements

with needs_extra("Designing proteins"):
    from scipy.stats import norm, rankdata

Scores = NDArray[np.float64]


class Judge(Protocol):
    """Predicts the properties of sequences as scores: a monotone function of the data's unit, of about unit variance.

    Attributes:
        num_properties: Properties it predicts.
        noise: Variance of a measurement around its expected score, `(num_properties,)`.
        note: How well it predicts what it has not seen; empty if that is not known.
    """

    num_properties: int
    noise: Scores
    note: str

    def predict(self, sequences: Sequence[str]) -> tuple[Scores, Scores]:
        """Return means and standard deviations without noise, each `(num, num_properties)`."""

    def draw(self, sequences: Sequence[str], num: int, rng: np.random.Generator) -> Scores:
        """Return functions drawn from what it holds possible, `(draws, num, num_properties)`."""

    def to_unit(self, scores: Scores, index: int) -> Scores:
        """Turn scores of a property into the data's unit."""

    def to_scores(self, values: Scores, index: int) -> Scores:
        """Turn values of a property in the data's unit into scores."""


class RankScores:
    """Values by their ranks: quantiles of a Gaussian, and where one end matters of an exponential distribution, too.

    Fitness has most rows near zero and a few far above: by ranks an outlier's size does not count. Quantiles of the
    Gaussian (van der Waerden 1952) tell the dead from each other as well as the best. Where the best are wanted, the
    mean is taken of these and of quantiles of the exponential distribution (Savage 1956), which are far apart at that
    end. Between measured values scores are interpolated, beyond them the line through the outer tenth is continued.

    Args:
        values: Measured, `(num,)`, at least two different ones.
        target: What is asked for; "higher" and "lower" name the end that matters.
    """

    def __init__(self, values: Scores, target: Any = None):
        shares = (rankdata(values) - 0.5) / len(values)
        scores = norm.ppf(shares)
        if isinstance(target, str):
            scores = (scores - np.log1p(-shares) if target == "higher" else scores + np.log(shares)) / 2
        self.values, first = np.unique(values, return_index=True)
        self.scores = scores[first]
        self.mean, self.std = float(scores.mean()), float(scores.std()) or 1.0
        self.scores = (self.scores - self.mean) / self.std
        tenth = max(len(self.values) // 10, 1)
        self._slopes = [
            (self.values[b] - self.values[a]) / (self.scores[b] - self.scores[a])
            for a, b in ((0, tenth), (len(self.values) - 1 - tenth, len(self.values) - 1))
        ]

    def to_scores(self, values: Scores) -> Scores:
        """Return standardised scores."""
        low, high = (np.maximum(slope, 1e-12) for slope in self._slopes)
        inside: Scores = np.interp(values, self.values, self.scores)
        inside = inside + np.minimum(values - self.values[0], 0) / low
        return inside + np.maximum(values - self.values[-1], 0) / high

    def to_unit(self, scores: Scores) -> Scores:
        """Return values in the data's unit."""
        inside: Scores = np.interp(scores, self.scores, self.values)
        inside = inside + np.minimum(scores - self.scores[0], 0) * self._slopes[0]
        return inside + np.maximum(scores - self.scores[-1], 0) * self._slopes[1]


def _fit(inputs: Inputs, targets: Scores, counts: Scores, rng: np.random.Generator) -> Any:
    """Return networks where sites are few and rows are not, else a Gaussian process, and what it was fitted to."""
    rows = spread_rows(targets, MAX_ROWS, rng)
    few_sites = len(targets) >= MIN_ROWS and ConvolutionalNetworks.fit_for(inputs)
    regression = ConvolutionalNetworks if few_sites else SequenceProcess
    return regression(inputs.take(rows), targets[rows], counts[rows], rng), targets[rows]


class ProcessJudge:
    """Regressions fitted to measurements, one for each property.

    An ensemble of networks where few sites vary and there are latents for none (see `ConvolutionalNetworks`), else a
    Gaussian process (see `SequenceProcess`).

    Args:
        measurements: What was measured.
        to_frames: Function from sequences to frames, uint8 `(num, sites)`.
        encode: Function from sequences to latents as vectors, float64 `(num, size)`; None for a kernel on sequences.
        targets: What is asked of each property (see `RankScores`).
        rng: Chooses rows where there are too many.
    """

    def __init__(
        self,
        measurements: Measurements,
        to_frames: Callable[[Sequence[str]], NDArray[np.uint8]],
        encode: Callable[[Sequence[str]], Scores] | None,
        targets: Sequence[Any],
        rng: np.random.Generator,
    ):
        self._to_frames, self._encode = to_frames, encode
        self.num_properties = measurements.values.shape[1]
        self._regressions: list[SequenceProcess | ConvolutionalNetworks] = []
        self._transforms: list[RankScores] = []
        notes = []
        for index, column in enumerate(measurements.values.T):
            known = np.flatnonzero(~np.isnan(column))
            transform = RankScores(column[known], targets[index])
            scores = transform.to_scores(column[known])
            inputs = self._inputs([measurements.sequences[row] for row in known])
            regression, fitted = _fit(inputs, scores, measurements.counts[known, index], rng)
            self._regressions.append(regression)
            self._transforms.append(transform)
            errors = torch.from_numpy(regression.left_out_errors)
            correlation = np.corrcoef(rankdata(regression.left_out), rankdata(fitted))[0, 1]
            part = f"{len(fitted)} of " if len(known) > len(fitted) else ""
            notes.append(
                f"{measurements.names[index]}: {part}{len(known)} sequences; left out one by one, their predictions "
                f"have a rank correlation of {correlation:.2f} with the measurements, 90 % intervals hold "
                f"{interval_coverage(errors, 0.9):.0%}, and the calibration error is {calibration_error(errors):.3f}."
            )
        self.noise = np.array([regression.noise for regression in self._regressions])
        self.note = " ".join(notes)

    def predict(self, sequences: Sequence[str]) -> tuple[Scores, Scores]:
        """Return means and standard deviations without noise, each `(num, num_properties)`."""
        inputs = self._inputs(sequences)
        means, deviations = zip(*(each.predict(inputs) for each in self._regressions), strict=True)
        return np.stack(means, 1), np.stack(deviations, 1)

    def draw(self, sequences: Sequence[str], num: int, rng: np.random.Generator) -> Scores:
        """Return functions of the posterior, `(draws, num, num_properties)`."""
        inputs = self._inputs(sequences)
        return np.stack([each.draw(inputs, num, rng) for each in self._regressions], 2)

    def guess(self, sequences: Sequence[str]) -> Scores | None:
        """Return means, `(num, num_properties)`, where they are quick to have; else None."""
        if not all(isinstance(each, ConvolutionalNetworks) for each in self._regressions):
            return None
        return self.predict(sequences)[0]

    def to_unit(self, scores: Scores, index: int) -> Scores:
        """Turn scores of a property into the data's unit."""
        return self._transforms[index].to_unit(scores)

    def to_scores(self, values: Scores, index: int) -> Scores:
        """Turn values of a property into scores."""
        return self._transforms[index].to_scores(values)

    def _inputs(self, sequences: Sequence[str]) -> Inputs:
        latents = None if self._encode is None else self._encode(sequences)
        return Inputs(self._to_frames(sequences), latents)


class HeadJudge:
    """The checkpoint's ensemble of property heads, where no measurements are given.

    Args:
        head: An ensemble (see `PropertyHead`).
        encode: Function from sequences to latents `(num, num_latents, latent_dim)` on the head's device.
    """

    def __init__(self, head: PropertyHead, encode: Callable[[Sequence[str]], torch.Tensor]):
        if head.num_members == 1:
            raise ValueError(
                "`design` needs to know how sure predictions are: give the measurements (`measured` and `values`), or "
                "fit an ensemble of heads by `pipe.fit_property`; this model has a single head."
            )
        self._head, self._encode = head, encode
        self.num_properties = len(head.target_mean)
        self.noise = head.noise_variance.cpu().double().numpy()
        self._factor = head.spread_factor.cpu().double().numpy()
        self.note = ""

    @torch.no_grad()
    def _members(self, sequences: Sequence[str]) -> Scores:
        members: Scores = self._head.predict_members(self._encode(sequences)).cpu().double().numpy()
        return members  # (num, members, num_properties)

    def predict(self, sequences: Sequence[str]) -> tuple[Scores, Scores]:
        """Return means and standard deviations without noise, each `(num, num_properties)`."""
        members = self._members(sequences)
        return members.mean(1), np.sqrt(self._factor * members.var(1, ddof=1)) + 1e-6

    def draw(self, sequences: Sequence[str], num: int, rng: np.random.Generator) -> Scores:
        """Return Gaussian functions with the members' mean and scaled covariance, `(draws, num, num_properties)`."""
        members = self._members(sequences)
        mean = members.mean(1)
        deviations = (members - mean[:, None]) * np.sqrt(self._factor / (members.shape[1] - 1))
        noise = rng.standard_normal((-(-num // 2), members.shape[1], self.num_properties))
        drawn = np.einsum("nmp,dmp->dnp", deviations, noise)
        return mean + np.concatenate([drawn, -drawn])[:num]

    def to_unit(self, scores: Scores, index: int) -> Scores:
        """Turn scores of a property into the data's unit."""
        return scores * float(self._head.target_std[index]) + float(self._head.target_mean[index])

    def to_scores(self, values: Scores, index: int) -> Scores:
        """Turn values of a property into scores."""
        return (values - float(self._head.target_mean[index])) / float(self._head.target_std[index])
