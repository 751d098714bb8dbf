"""An ensemble of small networks on residues, for landscapes of a few sites."""

import numpy as np
import torch
from numpy.typing import NDArray

from ..property_ensemble import HeadSizes, fit_ensemble

MAX_COLUMNS = 800  # residues at sites; with more of them the networks take longer than they are worth
MAX_ROWS = 5000
_HIDDEN, _MEMBERS, _STEPS = 64, 8, 500


class ResidueNetworks:
    """Networks with one hidden layer on one-hot residues of the sites that vary, each on a bootstrap sample.

    Args:
        frames: Training rows, uint8 `(num, sites)`.
        targets: Standardised values, `(num,)`.
        rng: Source of weights and bootstrap.
    """

    def __init__(self, frames: NDArray[np.uint8], targets: NDArray[np.float64], rng: np.random.Generator):
        self._columns = self.columns(frames)
        sizes = HeadSizes(len(self._columns), 1, _HIDDEN, _MEMBERS)
        generator = torch.Generator().manual_seed(int(rng.integers(2**31)))
        values = torch.from_numpy(targets)[:, None]
        fitted = fit_ensemble(sizes, self._features(frames), values, _STEPS, generator)
        self._head = fitted.head
        scale, shift = float(self._head.target_std), float(self._head.target_mean)
        self.noise = float(self._head.noise_variance) * scale**2
        # Predictions by members that have not seen the row, and where there are such members
        self.left_out = (fitted.mean[:, 0].cpu().double() * scale + shift).numpy()
        self.left_out_std = (fitted.std[:, 0].cpu().double() * scale).numpy()
        self.usable = fitted.usable[:, 0].numpy()

    @staticmethod
    def columns(frames: NDArray[np.uint8]) -> list[tuple[int, int]]:
        """Return the residues that stand at sites where several do, as pairs of a site and a symbol."""
        kinds = [np.unique(column) for column in frames.T]
        return [(site, int(symbol)) for site, symbols in enumerate(kinds) if len(symbols) > 1 for symbol in symbols]

    def predict(self, frames: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return means and standard deviations without noise, each `(num,)`."""
        members = self._members(frames)
        factor = float(self._head.spread_factor)
        return members.mean(1), np.sqrt(factor * members.var(1, ddof=1))

    def draw(self, frames: NDArray[np.uint8], num: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return Gaussian deviations with the members' scaled covariance, `(num, sequences)`, in mirrored pairs."""
        members = self._members(frames)
        apart = (members - members.mean(1, keepdims=True)) * np.sqrt(
            float(self._head.spread_factor) / (members.shape[1] - 1)
        )
        half = rng.standard_normal((-(-num // 2), members.shape[1])) @ apart.T
        deviations: NDArray[np.float64] = np.concatenate([half, -half])[:num]
        return deviations

    @torch.no_grad()
    def _members(self, frames: NDArray[np.uint8]) -> NDArray[np.float64]:
        scores = self._head.predict_members(self._features(frames))[..., 0].cpu().double().numpy()  # (num, members)
        members: NDArray[np.float64] = scores * float(self._head.target_std) + float(self._head.target_mean)
        return members

    def _features(self, frames: NDArray[np.uint8]) -> torch.Tensor:
        sites, symbols = (np.array(each) for each in zip(*self._columns, strict=True))
        return torch.from_numpy((frames[:, sites] == symbols).astype(np.float32))[:, None]  # (num, 1, columns)
