"""A Gaussian process over sequences: exact, with hyperparameters of its own, for up to a few thousand rows.

scikit-learn's takes dense one-hot vectors, 5,000 numbers a row for a protein of 237 residues; here the kernel is
computed from the few letters in which two sequences differ.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from ..extras import needs_extra

with needs_extra("Designing proteins"):
    from scipy import sparse

MAX_ROWS = 5000  # rows that are worth their time, which grows with their cube
_FIT_ROWS = 300  # rows the hyperparameters are found on
_FIT_STEPS = 60
_CHUNK = 2048
# log of the hyperparameters: the mean of a Gaussian prior of standard deviation 1, in standardised units
_PRIOR = {
    "constant": -2.0,
    "linear": -2.0,
    "product": -0.5,
    "length": 1.0,
    "latent": -1.5,
    "width": 0.0,
    "noise": -1.0,
}


@dataclass
class Inputs:
    """Sequences as the kernel sees them.

    Args:
        frames: Symbols, uint8 `(num, sites)`, from `to_frames`.
        latents: Posterior means as vectors, float64 `(num, size)`; None for a kernel on sequences alone.
    """

    frames: NDArray[np.uint8]
    latents: NDArray[np.float64] | None = None

    def __len__(self) -> int:
        return len(self.frames)

    def take(self, rows: NDArray[np.integer] | slice) -> "Inputs":
        """Return those rows."""
        return Inputs(self.frames[rows], None if self.latents is None else self.latents[rows])


class SequenceProcess:
    r"""A Gaussian process whose kernel adds effects of single residues to those of whole sequences.

    With H(a, b) the sites at which two sequences differ, and S(a, b) those at which both have the same residue other
    than the consensus of the training rows,

        k(a, b) = constant + linear S(a, b) + product exp(-H(a, b) / length)
                  + latent exp(-|z_a - z_b|^2 / (2 width^2 d)),

    the second term being ridge regression on one-hot residues (Rasmussen & Williams 2006, section 2.1), the third a
    product of site kernels, and the last one on latents of d dimensions. The hyperparameters maximise the marginal
    likelihood (equation 5.8) times a weak log-normal prior, which regularises small tables.

    Args:
        inputs: Training rows, `MAX_ROWS` at most for what a processor core does in seconds.
        targets: Standardised values, float64 `(num,)`.
        counts: Measurements behind each value, `(num,)`: the noise of a mean is smaller.
        rng: Chooses the rows that hyperparameters are found on.
    """

    def __init__(
        self, inputs: Inputs, targets: NDArray[np.float64], counts: NDArray[np.float64], rng: np.random.Generator
    ):
        self.inputs = inputs
        values, measured = torch.from_numpy(targets), torch.from_numpy(counts)
        self.consensus = np.array([np.bincount(column).argmax() for column in self.inputs.frames.T], dtype=np.uint8)
        self._letters = self._encode(self.inputs.frames)
        fit = spread_rows(targets, _FIT_ROWS, rng)
        self.values = _maximise(self._parts(inputs.take(fit), inputs.take(fit)), values[fit], measured[fit])
        kernel = self._kernel(self._parts(self.inputs, self.inputs))
        noise = self.values["noise"] / measured
        self._factor = torch.linalg.cholesky(kernel + torch.diag(noise + 1e-8))
        self._alpha = torch.cholesky_solve(values[:, None], self._factor)[:, 0]
        # Leave-one-out predictions in closed form (Rasmussen & Williams 2006, equations 5.10 to 5.12)
        precision = torch.cholesky_inverse(self._factor).diagonal()
        errors = self._alpha / precision
        self.left_out = (values - errors).numpy()
        scaled = errors * precision.sqrt()
        # of the standard deviations, so that left-out errors have the size they say
        self.scale = float(scaled.square().mean().sqrt().clamp(0.5, 2.0))
        self.left_out_errors = (scaled.abs() / self.scale).numpy()

    @property
    def noise(self) -> float:
        """Variance of a single measurement, in standardised units."""
        return float(self.values["noise"]) * self.scale**2

    def predict(self, inputs: Inputs) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return mean and standard deviation of the function, without noise, each `(num,)`."""
        means, deviations = [], []
        prior = float(self.values["constant"] + self.values["product"] + self.values["latent"])
        for start in range(0, len(inputs), _CHUNK):
            part = inputs.take(slice(start, start + _CHUNK))
            cross = self._kernel(self._parts(part, self.inputs))  # (part, rows)
            own = prior + float(self.values["linear"]) * self._encode(part.frames)[1].sum(1)
            solved = torch.linalg.solve_triangular(self._factor, cross.T, upper=False)
            variance = np.asarray(own).ravel() - solved.square().sum(0).numpy()
            means.append((cross @ self._alpha).numpy())
            deviations.append(np.sqrt(np.clip(variance, 1e-10, None)) * self.scale)
        return np.concatenate(means), np.concatenate(deviations)

    def draw(self, inputs: Inputs, num: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Draw functions at sequences, `(num, sequences)`; pairs of them are mirrored, so that their mean is exact."""
        cross = self._kernel(self._parts(inputs, self.inputs))
        solved = torch.linalg.solve_triangular(self._factor, cross.T, upper=False)
        covariance = self._kernel(self._parts(inputs, inputs)) - solved.T @ solved
        factor = torch.linalg.cholesky(covariance + torch.eye(len(inputs), dtype=torch.float64) * 1e-6)
        noise = torch.from_numpy(rng.standard_normal((len(inputs), -(-num // 2))))
        deviations = (self.scale * factor @ noise).T.numpy()
        return (cross @ self._alpha).numpy() + np.concatenate([deviations, -deviations])[:num]

    def _encode(self, frames: NDArray[np.uint8]) -> tuple[sparse.csr_matrix, sparse.csr_matrix]:
        """Return letters that are not the consensus's, `(num, sites * 256)`, and where they stand, `(num, sites)`."""
        rows, sites = np.nonzero(frames != self.consensus)
        ones = np.ones(len(rows))
        shape = frames.shape
        letters = sparse.csr_matrix((ones, (rows, sites * 256 + frames[rows, sites])), (shape[0], shape[1] * 256))
        return letters, sparse.csr_matrix((ones, (rows, sites)), shape)

    def _parts(self, a: Inputs, b: Inputs) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return S and H between two sets, and the latents' mean squared distances per dimension."""
        first = self._encode(a.frames)
        second = self._letters if b is self.inputs else self._encode(b.frames)
        same = (first[0] @ second[0].T).toarray()
        both = (first[1] @ second[1].T).toarray()
        changed = [np.asarray(each[1].sum(1)).ravel() for each in (first, second)]
        differing = changed[0][:, None] + changed[1] - both - same
        distances = None
        if a.latents is not None and b.latents is not None:
            squares = np.square(a.latents).sum(1)[:, None] + np.square(b.latents).sum(1)
            distances = np.clip(squares - 2 * a.latents @ b.latents.T, 0, None)
            distances = torch.from_numpy(distances / a.latents.shape[1])
        return torch.from_numpy(same), torch.from_numpy(differing), distances

    def _kernel(self, parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]) -> torch.Tensor:
        return _kernel(parts, self.values)


def _kernel(
    parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None], values: dict[str, torch.Tensor]
) -> torch.Tensor:
    same, differing, distances = parts
    kernel = values["constant"] + values["linear"] * same + values["product"] * (-differing / values["length"]).exp()
    if distances is not None:
        kernel = kernel + values["latent"] * (-distances / (2 * values["width"] ** 2)).exp()
    return kernel


@torch.enable_grad()
def _maximise(
    parts: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None], targets: torch.Tensor, counts: torch.Tensor
) -> dict[str, torch.Tensor]:
    """Return the hyperparameters of highest marginal likelihood times prior."""
    prior = torch.tensor(list(_PRIOR.values()), dtype=torch.float64)
    logs = prior.clone().requires_grad_()
    optimizer = torch.optim.Adam([logs], lr=0.1)
    best, kept = float("inf"), prior
    for _ in range(_FIT_STEPS):
        values = dict(zip(_PRIOR, logs.exp(), strict=True))
        covariance = _kernel(parts, values) + torch.diag(values["noise"] / counts + 1e-6)
        factor = torch.linalg.cholesky(covariance)
        solved = torch.linalg.solve_triangular(factor, targets[:, None], upper=False)
        loss = solved.square().sum() / 2 + factor.diagonal().log().sum() + (logs - prior).square().sum() / 2
        if loss.item() < best:
            best, kept = loss.item(), logs.detach().clone()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    values = dict(zip(_PRIOR, kept.exp(), strict=True))
    if parts[2] is None:
        values["latent"] = torch.zeros((), dtype=torch.float64)
    return values


def spread_rows(targets: NDArray[np.float64], most: int, rng: np.random.Generator) -> NDArray[np.intp]:
    """Return at most that many rows, in order: a quarter each the highest and the lowest, the rest at random."""
    if len(targets) <= most:
        return np.arange(len(targets))
    order = np.argsort(targets, kind="stable")
    ends = np.concatenate([order[: most // 4], order[len(order) - most // 4 :]])
    others = rng.permutation(order[most // 4 : len(order) - most // 4])[: most - len(ends)]
    return np.sort(np.concatenate([ends, others]))
