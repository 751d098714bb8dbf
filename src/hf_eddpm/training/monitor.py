"""What a training log says beside the loss: its terms, and what the latents carry."""

from typing import Any

import torch
from diffusers import DPMSolverMultistepScheduler

from ..diagnostics import moment_eigenvalues, nearest_distances, spectrum_statistics
from ..double_precision import as_double
from ..modeling_eddpm import EDDPMModel
from ..outputs import EDDPMOutput
from ..sampling import run_chain

_ACTIVE_STD = 0.1  # a dimension whose posterior mean varies less than this carries (almost) nothing
_MAX_SPECTRUM = 1024  # wider latents have no spectrum in the log: the covariance would cost too much
_CHAIN_STEPS = 20


class TrainingMonitor:
    """Sums loss terms and statistics of the latents over batches, for the log.

    Args:
        num_kept: Posterior means to keep, the first since the last call of `take_means`.

    Attributes:
        count: Data that the averages last collected are of.
    """

    def __init__(self, num_kept: int = 0) -> None:
        self.sums: dict[str, torch.Tensor] = {}
        self.count = 0
        self.num_kept = num_kept
        self._means: list[torch.Tensor] = []

    def clear(self) -> None:
        """Forget what was added since the last collection."""
        self.sums, self._means = {}, []

    def take_means(self) -> torch.Tensor | None:
        """Return the posterior means that were kept, `(num, num_latents, latent_dim)`, and keep none; None of none."""
        means, self._means = self._means, []
        return torch.cat(means)[: self.num_kept] if means else None

    def update(self, output: EDDPMOutput) -> None:
        """Add a batch, in float64 and without gradient."""
        assert output.posterior_mean is not None
        mean = as_double(output.posterior_mean.detach()).flatten(1)  # (batch, latent_size)
        batch = len(mean)
        if sum(map(len, self._means)) < self.num_kept:
            self._means.append(output.posterior_mean.detach().float().cpu())
        values = {
            "count": torch.tensor(batch, dtype=torch.float64, device=mean.device),
            "mean": mean.sum(0),
            "square": mean.square().sum(0),
            "norm": mean.norm(dim=1).sum(),
        }
        if mean.shape[1] <= _MAX_SPECTRUM:
            values["products"] = mean.T @ mean
        for name in ("reconstruction_loss", "diffusion_loss", "alignment_loss", "property_loss"):
            if output.get(name) is not None:
                values[name] = as_double(output[name].detach()) * batch
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def collect(self, reduce: Any, noise_variance: float) -> dict[str, float]:
        """Return the averages since the last call and start anew.

        Args:
            reduce: Function that sums a tensor over all processes.
            noise_variance: The encoder's noise variance.

        Returns:
            The loss terms, and the collapse diagnostics: `latent_std` (mean over dimensions of the posterior mean's
            standard deviation), `active_dims` (dimensions where it exceeds 0.1), `latent_norm`, and `kl_per_dim`
            (KL of the posterior from the standard Gaussian, nats). These look at one dimension at a time: of
            dimensions that copy each other each counts as active and pays its KL. What sees it are `effective_rank`,
            `largest_share` and `rate` (nats), see `spectrum_statistics`; they are left out of latents of more than
            1,024 numbers, of a single datum, and where latents are not finite.
        """
        if not self.sums:
            return {}
        sums = {name: reduce(value) for name, value in self.sums.items()}
        self.sums = {}
        count, total, products = sums.pop("count"), sums.pop("mean"), sums.pop("products", None)
        mean, square = total / count, sums.pop("square") / count
        self.count = int(count)
        spectrum = {}
        if products is not None and self.count > 1 and bool(products.isfinite().all()):
            spectrum = spectrum_statistics(moment_eigenvalues(self.count, total, products), noise_variance)
        std = (square - mean.square()).clamp(min=0).sqrt()
        variance = torch.tensor(noise_variance, dtype=torch.float64)
        return {
            **{name: float(sums[name] / count) for name in sorted(sums) if name.endswith("_loss")},
            "latent_std": float(std.mean()),
            "active_dims": float((std > _ACTIVE_STD).sum()),
            "latent_norm": float(sums["norm"] / count),
            "kl_per_dim": float(0.5 * (square.mean().cpu() + variance - 1 - variance.log())),
            **spectrum,
        }


@torch.no_grad()
def held_out_neighbor_ratio(model: EDDPMModel, means: torch.Tensor) -> float | None:
    """Return how far sampled latents lie from held-out ones, see `diagnostics.nearest_neighbor_ratio`.

    Every other datum is in the place of the training data, the rest in that of unseen ones; as many latents are
    sampled by DPM-Solver++, in twenty steps and always from the same noise.

    Args:
        model: The model, in evaluation mode.
        means: Posterior means of held-out data, `(num, num_latents, latent_dim)`.

    Returns:
        The ratio; None of fewer than twenty data, of latents that are not finite or all the same, and for a model
        whose denoiser does not train.
    """
    trains = any(parameter.requires_grad for parameter in model.denoiser.parameters())
    if len(means) < 20 or not trains or not bool(means.isfinite().all()):
        return None
    real, unseen = means[::2], means[1::2]
    apart = float(nearest_distances(unseen, real).mean())
    if apart == 0:
        return None
    noise = torch.randn(unseen.shape, generator=torch.Generator().manual_seed(0))
    scheduler = DPMSolverMultistepScheduler.from_config(model.scheduler.config, use_karras_sigmas=True)
    steps = min(_CHAIN_STEPS, len(model.scheduler))
    sampled = run_chain(model.denoise, scheduler, noise.to(model.device), steps).float()
    if not bool(sampled.isfinite().all()):
        return None
    return float(nearest_distances(sampled, real).mean()) / apart
