"""An ensemble of small convolutional networks on residues, for landscapes of a few sites."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ..modalities.protein.metrics import SYMBOLS
from .kernel import Inputs

MAX_SITES = 40  # that vary; with more of them, each in few rows, a Gaussian process predicts better
_MEMBERS = 4
_CHANNELS, _KERNEL, _DROPOUT = 32, 5, 0.3
_BATCH = 32
_PASSES, _FEWEST_STEPS, _MOST_PASSES = 20, 600, 200  # over the rows; small tables get more, up to a limit
_CHUNK = 4096


class ConvolutionalNetworks:
    """Networks of two convolutions over the sites that vary and a linear layer, each blind to a share of the rows.

    The networks are those of `oracle.ConvolutionalRegressor`; all members train in one pass. From a table of poor
    variants they lead to better ones than a Gaussian process or a single hidden layer does, and than their mean with
    either (docs/benchmarks/protein-design.md). A measurement's variance is taken to be the members' variance plus the
    mean squared error on rows that a member has not seen.

    Args:
        inputs: Training rows, of which the frames are seen, symbols below `len(SYMBOLS)`.
        targets: Standardised values, `(num,)`.
        counts: Measurements behind each value, `(num,)`, its weight.
        rng: Source of weights, folds, order and dropout.

    Attributes:
        noise: Mean squared error of one member on rows that it has not seen.
        left_out: Prediction of each row by the member that has not seen it, `(num,)`.
        left_out_errors: Its absolute error over the predicted standard deviation, `(num,)`.
    """

    def __init__(
        self,
        inputs: Inputs,
        targets: NDArray[np.float64],
        counts: NDArray[np.float64],
        rng: np.random.Generator,
    ):
        frames = inputs.frames
        varied = (frames != frames[0]).any(0)
        self._sites = np.flatnonzero(varied) if varied.any() else np.arange(1)
        source = torch.Generator().manual_seed(int(rng.integers(2**31)))
        folds = torch.arange(len(frames)) % _MEMBERS
        folds = folds[torch.randperm(len(frames), generator=source)]
        self._weights = self._start(source)
        weights = torch.from_numpy(counts / counts.mean()).float()
        self._train(self._windows(frames), torch.from_numpy(targets).float(), weights, folds, source)
        members = self._members(frames)
        self.left_out = members[np.arange(len(frames)), folds.numpy()]
        # The mean of all members is better than one of them, so that the members' spread comes on top for new rows
        errors = np.abs(self.left_out - targets)
        self.noise = max(float(np.square(errors).mean()), 1e-6)
        self.left_out_errors = errors / self.noise**0.5

    @staticmethod
    def fit_for(inputs: Inputs) -> bool:
        """Whether few enough sites vary, and nothing but residues is to be seen."""
        varied = int((inputs.frames != inputs.frames[0]).any(0).sum())
        return inputs.latents is None and 0 < varied <= MAX_SITES

    def predict(self, inputs: Inputs) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and standard deviation of the function, without noise, each `(num,)`."""
        members = self._members(inputs.frames)
        return members.mean(1), members.std(1, ddof=1)

    def draw(self, inputs: Inputs, num: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw Gaussian functions with the members' covariance, `(num, sequences)`, in mirrored pairs."""
        members = self._members(inputs.frames)
        mean = members.mean(1)
        apart = (members - mean[:, None]) / np.sqrt(_MEMBERS - 1)
        half = rng.standard_normal((-(-num // 2), _MEMBERS)) @ apart.T
        drawn: NDArray[np.float64] = mean + np.concatenate([half, -half])[:num]
        return drawn

    def _start(self, source: torch.Generator) -> list[torch.Tensor]:
        """Return weights and biases of the three layers, `(members, inputs, outputs)` and `(members, 1, outputs)`."""
        widths = [(_KERNEL * len(SYMBOLS), _CHANNELS), (_KERNEL * _CHANNELS, _CHANNELS)]
        widths.append((len(self._sites) * _CHANNELS, 1))
        shapes = [((_MEMBERS, size, out), size) for size, out in widths]
        shapes += [((_MEMBERS, 1, out), size) for size, out in widths]
        return [torch.empty(shape).uniform_(-(size**-0.5), size**-0.5, generator=source) for shape, size in shapes]

    def _windows(self, frames: NDArray[np.uint8]) -> torch.Tensor:
        """Return windows of one-hot residues, `(num, sites, kernel * symbols)`."""
        vectors = nn.functional.one_hot(torch.from_numpy(frames[:, self._sites]).long(), len(SYMBOLS)).float()
        return _windows(vectors)

    def _forward(self, windows: torch.Tensor, source: torch.Generator | None = None) -> torch.Tensor:
        """Return predictions, `(members, num)`, with dropout drawn from a source if there is one."""
        first, second, last, *biases = self._weights
        num, sites = windows.shape[:2]
        hidden = (windows.flatten(0, 1) @ first + biases[0]).relu()  # (members, num * sites, channels)
        hidden = _windows(hidden.view(_MEMBERS * num, sites, _CHANNELS)).view(_MEMBERS, num * sites, -1)
        hidden = (hidden @ second + biases[1]).relu().view(_MEMBERS, num, sites * _CHANNELS)
        if source is not None:
            kept = torch.rand(hidden.shape, generator=source) >= _DROPOUT
            hidden = hidden * kept / (1 - _DROPOUT)
        return (hidden @ last + biases[2])[..., 0]

    @torch.enable_grad()
    def _train(
        self,
        windows: torch.Tensor,
        targets: torch.Tensor,
        weights: torch.Tensor,
        folds: torch.Tensor,
        source: torch.Generator,
    ) -> None:
        num = len(windows)
        per_pass = -(-num // _BATCH)
        passes = min(max(_PASSES, -(-_FEWEST_STEPS // per_pass)), _MOST_PASSES)
        for weight in self._weights:
            weight.requires_grad_()
        optimizer = torch.optim.AdamW(self._weights, lr=2e-3, weight_decay=0.01)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, passes * per_pass)
        seen = (folds != torch.arange(_MEMBERS)[:, None]) * weights  # (members, num)
        for _ in range(passes):
            for rows in torch.randperm(num, generator=source).split(_BATCH):
                errors = (self._forward(windows[rows], source) - targets[rows]).square() * seen[:, rows]
                loss = (errors.sum(1) / seen[:, rows].sum(1).clamp(min=1e-6)).sum()  # each member's own mean, added up
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        for weight in self._weights:
            weight.requires_grad_(False)

    @torch.no_grad()
    def _members(self, frames: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Return each member's predictions, `(num, members)`."""
        chunks = [self._forward(self._windows(frames[at : at + _CHUNK])) for at in range(0, len(frames), _CHUNK)]
        members: NDArray[np.float64] = torch.cat(chunks, 1).T.cpu().double().numpy()
        return members


def _windows(vectors: torch.Tensor) -> torch.Tensor:
    """Return what a convolution sees at each site, zeros beyond the ends: `(num, sites, kernel * channels)`."""
    padded = nn.functional.pad(vectors, (0, 0, _KERNEL // 2, _KERNEL // 2))
    return padded.unfold(1, _KERNEL, 1).flatten(2)
