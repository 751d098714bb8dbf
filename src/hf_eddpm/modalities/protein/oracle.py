"""Regressors of fitness on one-hot sequences: an oracle that judges proposals, and baselines of the model's predictor.

The oracle must not share measurements with the model it judges: noise that both have learned from the same rows would
count as success. The model's predictor learns from the training rows, so the oracle learns from the held-out ones
(`--dev`), and its own quality is measured on training rows, which it has not seen. The starts of an optimisation are
training rows for the same reason. What the oracle still shares with the model is the experiment itself (its biases,
its range of sequences): far from the data its scores are extrapolations, so the spread of its members stands beside
them.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...extras import needs_extra
from .metrics import SYMBOLS, Alignment, regression_metrics, to_frames

with needs_extra("The oracle of proteins"):
    from sklearn.linear_model import Ridge
    from sklearn.model_selection import KFold
    from sklearn.pipeline import Pipeline, make_pipeline
    from sklearn.preprocessing import OneHotEncoder

RIDGE_ALPHAS = (0.1, 1.0, 10.0, 100.0)


class ConvolutionalRegressor(nn.Module):
    """Two 1-D convolutions over one-hot sites, then a linear layer over all sites and channels.

    Args:
        length: Sites of a frame.
        channels: Width of the convolutions.
        kernel_size: Sites that one of them sees, odd.
        dropout: Share of features dropped before the linear layer, in [0, 1).
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, length: int, channels: int = 32, kernel_size: int = 5, dropout: float = 0.3):
        super().__init__()
        widths = (len(SYMBOLS), channels, channels)
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv1d(before, after, kernel_size, padding=kernel_size // 2), nn.ReLU()]
        self.layers = nn.Sequential(*layers, nn.Flatten(), nn.Dropout(dropout), nn.Linear(length * channels, 1))
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Maps frames (batch, length) to standardised predictions (batch,)."""
        vectors = nn.functional.one_hot(frames.long(), len(SYMBOLS)).float()  # (batch, length, symbols)
        return self.layers(vectors.transpose(1, 2)).squeeze(1)

    @torch.no_grad()
    def predict(self, frames: NDArray[np.uint8], batch_size: int = 1024) -> NDArray[np.float64]:
        """Maps frames (num, length) to predictions (num,) in the data's unit."""
        self.eval()
        chunks = torch.from_numpy(np.ascontiguousarray(frames)).split(batch_size)
        return torch.cat([self(chunk) * self.std + self.mean for chunk in chunks]).double().numpy()


def fit_cnn(
    frames: NDArray[np.uint8],
    values: NDArray[np.floating],
    seed: int = 0,
    num_epochs: int = 20,
    batch_size: int = 128,
    learning_rate: float = 2e-3,
) -> ConvolutionalRegressor:
    """Trains a convolutional regressor by Adam with weight decay on a learning rate that falls to 0 along a cosine.

    Args:
        frames: (num, length), from `to_frames`.
        values: (num,), without missing ones, not constant.
        seed: Of the weights, the order and the dropout; torch's global state is left as it was.
        num_epochs: Passes over the data.
        batch_size: Sequences of a step.
        learning_rate: The highest.
    """
    known = _check_values(frames, values)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = ConvolutionalRegressor(frames.shape[1]).train()
        model.mean.fill_(float(known.mean()))
        model.std.fill_(float(known.std()))
        inputs = torch.from_numpy(np.ascontiguousarray(frames))
        targets = (torch.from_numpy(known).float() - model.mean) / model.std
        steps_per_epoch = -(-len(inputs) // batch_size)
        optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_epochs * steps_per_epoch)
        for _ in range(num_epochs):
            for rows in torch.randperm(len(inputs)).split(batch_size):
                loss = nn.functional.mse_loss(model(inputs[rows]), targets[rows])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
    return model.eval()


def fit_ridge(frames: NDArray[np.uint8], values: NDArray[np.floating], seed: int = 0) -> Pipeline:
    """Ridge regression on one-hot sites, its penalty chosen among `RIDGE_ALPHAS` on a tenth of the rows.

    Args:
        frames: (num, length), at least 10.
        values: (num,), without missing ones, not constant.
        seed: Of the choice of that tenth.

    Returns:
        A scikit-learn pipeline fitted on all rows; `.predict(frames)`.
    """
    values = _check_values(frames, values)

    def fit(rows: NDArray[np.integer], alpha: float) -> Pipeline:
        encoder = OneHotEncoder(categories=[np.arange(len(SYMBOLS))] * frames.shape[1], dtype=np.float64)
        return make_pipeline(encoder, Ridge(alpha, solver="sparse_cg")).fit(frames[rows], values[rows])

    order = np.random.default_rng(seed).permutation(len(frames))
    held_out, rest = np.split(order, [max(1, len(order) // 10)])
    errors = [np.mean((fit(rest, alpha).predict(frames[held_out]) - values[held_out]) ** 2) for alpha in RIDGE_ALPHAS]
    return fit(order, RIDGE_ALPHAS[int(np.argmin(errors))])


class EnsembleOracle:
    """The mean of convolutional regressors, each trained on all folds of the data but one.

    Args:
        members: At least one, of the same length.
        length: Sites of a frame.
        alignment: Where sequences stand in it.
        out_of_fold: What `regression_metrics` says of each row's prediction by the member that has not seen it: the
            quality of one member; the mean's is a little better.
    """

    def __init__(
        self,
        members: Sequence[ConvolutionalRegressor],
        length: int,
        alignment: Alignment,
        out_of_fold: dict[str, float | int | None],
    ):
        self.members = list(members)
        self.length = length
        self.alignment = alignment
        self.out_of_fold = out_of_fold

    @classmethod
    def fit(
        cls,
        sequences: Sequence[str],
        values: NDArray[np.floating],
        length: int,
        alignment: Alignment = "left",
        num_members: int = 5,
        seed: int = 0,
        **training: Any,
    ) -> "EnsembleOracle":
        """Trains the members.

        Args:
            sequences: Proteins whose measurements the judged model has not seen; repeats must not span folds.
            values: (num,); rows without a value (NaN) are left out.
            length: Sites of a frame.
            alignment: "left" or "center".
            num_members: Folds, at least 2.
            seed: Of the folds and the members.
            **training: As for `fit_cnn`.
        """
        values = np.asarray(values, dtype=np.float64)
        known = np.flatnonzero(~np.isnan(values))
        if not 2 <= num_members <= len(known):
            raise ValueError(
                f"`num_members` must be in [2, {len(known)}], the number of known values, got {num_members}."
            )
        frames, values = to_frames([sequences[int(row)] for row in known], length, alignment), values[known]
        members, predictions = [], np.empty(len(values))
        for member, (rows, held_out) in enumerate(KFold(num_members, shuffle=True, random_state=seed).split(frames)):
            members.append(fit_cnn(frames[rows], values[rows], seed=seed * num_members + member, **training))
            predictions[held_out] = members[-1].predict(frames[held_out])
        return cls(members, length, alignment, regression_metrics(predictions, values))

    def predict_members(self, sequences: Sequence[str]) -> NDArray[np.float64]:
        """The predictions of each member in the data's unit, (members, num)."""
        frames = to_frames(sequences, self.length, self.alignment)
        return np.stack([member.predict(frames) for member in self.members])

    def __call__(self, sequences: Sequence[str]) -> NDArray[np.float64]:
        """The mean of the members' predictions, (num,)."""
        return self.predict_members(sequences).mean(axis=0)

    def disagreement(self, sequences: Sequence[str]) -> NDArray[np.float64]:
        """The standard deviation of the members' predictions, (num,): large where they extrapolate."""
        return self.predict_members(sequences).std(axis=0, ddof=1)


def _check_values(frames: NDArray[np.uint8], values: NDArray[np.floating]) -> NDArray[np.float64]:
    checked: NDArray[np.float64] = np.asarray(values, dtype=np.float64)
    if checked.shape != (len(frames),) or not np.isfinite(checked).all():
        raise ValueError(f"`values` must be ({len(frames)},) and finite, got {checked.shape} or a value that is not.")
    if not np.ptp(checked) > 0:
        raise ValueError("`values` are constant, so there is nothing to regress on.")
    return checked
