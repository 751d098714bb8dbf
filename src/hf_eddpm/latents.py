"""What latents are: the encoder's posterior over them, their normalisation, and the bottleneck that makes them."""

import torch
import torch.distributed as dist
from diffusers.utils.torch_utils import randn_tensor
from torch import nn

from .argument_checks import check_generators
from .configuration_eddpm import EDDPMConfig
from .processes import SumOverProcesses, has_processes

_MOST_RATIO, _MOST_SHIFT = 3.0, 5.0  # of batch to running statistics (Ioffe 2017, section 4): r_max and d_max


class LatentPosterior:
    """q(latents | datum): a Gaussian with a learned mean and a fixed variance, the same in every dimension.

    Args:
        mean: `(batch, num_latents, latent_dim)`.
        variance: Positive number.
    """

    def __init__(self, mean: torch.Tensor, variance: float):
        self.mean = mean
        self.variance = variance

    def sample(
        self,
        generator: torch.Generator | list[torch.Generator] | None = None,
        noise: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Draw latents, shaped as `mean`.

        Args:
            generator: Source of the draws, or one for each datum; None for torch's own.
            noise: Standard Gaussian numbers, broadcast to the mean, in the place of a draw.

        Raises:
            TypeError: If `generator` is something else.
            ValueError: If there are not as many generators as data.
        """
        check_generators(generator, len(self.mean), "datum", "data")
        if noise is None:  # float32, so that a seed means the same draw in every type
            noise = randn_tensor(self.mean.shape, generator=generator, device=self.mean.device, dtype=torch.float32)
        return self.mean + self.variance**0.5 * noise.to(self.mean.dtype)


class LatentNormalization(nn.Module):
    """Standardises latents over the batch, without learned scale or shift (Ioffe & Szegedy 2015, arXiv 1502.03167).

    Batch statistics in training, taken over all processes together; running statistics in evaluation, and for a
    training batch of a single datum, which has no variance of its own. Statistics are float32 whatever the input.

    The statistics of n data are off by about 1 / n of the variance each, so that a decoder trains on latents with that
    much noise more than `encoder_noise_variance` says. Batch renormalisation (Ioffe 2017, arXiv 1702.03275) takes it
    away: the values are those by the running statistics, the gradient is still that by the batch's. The statistics of
    a new encoder are soon out of date, so that its first batches weigh more in them.

    Args:
        num_latents: Latent vectors per datum.
        latent_dim: Their width.
        renormalize: Whether to renormalise.
        momentum: Weight in (0, 1] of a batch in the running statistics; by default 0.05, or 0.01 renormalised.
        eps: Added to the variance.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor
    momentum: float

    def __init__(
        self,
        num_latents: int,
        latent_dim: int,
        renormalize: bool = False,
        momentum: float | None = None,
        eps: float = 1e-5,
    ):
        super().__init__()
        self.choose(renormalize)
        if momentum is not None:
            self.momentum = momentum
        self.eps = eps
        self.register_buffer("running_mean", torch.zeros(num_latents, latent_dim))
        self.register_buffer("running_var", torch.ones(num_latents, latent_dim))

    def choose(self, renormalize: bool) -> None:
        """Renormalise from now on or not, with the momentum that suits it."""
        self.renormalize = renormalize
        self.momentum = 0.01 if renormalize else 0.05
        self._num_batches: int | None = None

    def _weight(self) -> float:
        """Return the weight of the next batch in the running statistics; at first, renormalised, a larger one."""
        if not self.renormalize:
            return self.momentum
        if self._num_batches is None:  # statistics that are not those of a new module are not begun anew
            fresh = not bool(self.running_mean.any()) and bool((self.running_var == 1).all())
            self._num_batches = 0 if fresh else round(2 / self.momentum)
        self._num_batches += 1
        return max(self.momentum, 2 / (self._num_batches + 1))

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Map `(batch, num_latents, latent_dim)` to the same shape, in float32."""
        latents = latents.float()
        running_mean, running_var = self.running_mean.float(), self.running_var.float()
        mean, var = running_mean, running_var
        if self.training:
            count, total = latents.new_tensor(float(len(latents))), latents.sum(0)
            if has_processes():
                dist.all_reduce(count)
                total = SumOverProcesses.apply(total)
                mean_of_all = total / count
                squares = SumOverProcesses.apply((latents - mean_of_all).square().sum(0))
            else:
                mean_of_all = total / count
                squares = (latents - mean_of_all).square().sum(0)
            if len(latents) > 1 or has_processes():  # each process has at least a row
                mean, var = mean_of_all, squares / count
                weight = self._weight()
                with torch.no_grad():
                    self.running_mean.lerp_(mean.to(self.running_mean.dtype), weight)
                    unbiased = (squares / (count - 1)).to(self.running_var.dtype)
                    self.running_var.lerp_(unbiased, weight)
        normalized = (latents - mean) * (var + self.eps).rsqrt()
        if not self.renormalize or mean is running_mean:
            return normalized
        scale = (self.running_var.float() + self.eps).rsqrt()
        ratio = ((var.detach() + self.eps).sqrt() * scale).clamp(1 / _MOST_RATIO, _MOST_RATIO)
        shift = ((mean.detach() - self.running_mean.float()) * scale).clamp(-_MOST_SHIFT, _MOST_SHIFT)
        return normalized * ratio + shift

    def set_statistics(self, latents: torch.Tensor) -> None:
        """Take the running statistics from latents before normalisation, `(data, num_latents, latent_dim)`."""
        self.running_mean.copy_(latents.mean(0))
        self.running_var.copy_(latents.var(0))


class LatentBottleneck(nn.Module):
    """From the encoder's features to the posterior; the only place where latents are normalised.

    Args:
        config: Supplies the latents' shape, `latent_normalization` and `encoder_noise_variance`.
        input_size: Width of the encoder's features.
    """

    def __init__(self, config: EDDPMConfig, input_size: int):
        super().__init__()
        # One projection for each latent: with mean pooling all latents see the same features.
        self.projection = nn.ModuleList(nn.Linear(input_size, config.latent_dim) for _ in range(config.num_latents))
        self.normalization = (
            nn.Identity()
            if config.latent_normalization == "none"
            else LatentNormalization(
                config.num_latents, config.latent_dim, renormalize=config.latent_normalization == "batch_renorm"
            )
        )
        self.config = config

    def forward(self, features: torch.Tensor) -> LatentPosterior:
        """Map features `(batch, num_latents, hidden)` to the posterior over `(batch, num_latents, latent_dim)`."""
        mean = self.project(features)
        return LatentPosterior(self.normalization(mean).to(mean.dtype), self.config.encoder_noise_variance)

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Map features `(batch, num_latents, hidden)` to latents before normalisation."""
        return torch.stack([project(features[:, i]) for i, project in enumerate(self.projection)], dim=1)


def check_latents(latents: torch.Tensor, num_latents: int, latent_dim: int, name: str = "latents") -> None:
    """Raise an error unless `latents` are finite, not empty and `(batch, num_latents, latent_dim)`.

    Args:
        latents: What a user gave.
        num_latents: Latent vectors of a datum.
        latent_dim: Their width.
        name: The argument that the error names.

    Raises:
        TypeError: If they are no tensor.
        ValueError: If they have another shape, none is there, or one is not finite.
    """
    if not isinstance(latents, torch.Tensor):
        raise TypeError(f"`{name}` must be a tensor, got {type(latents).__name__}.")
    if not latents.is_floating_point():
        raise ValueError(f"`{name}` must be a tensor of floating-point numbers, got {latents.dtype}.")
    if latents.ndim != 3 or tuple(latents.shape[1:]) != (num_latents, latent_dim):
        raise ValueError(
            f"`{name}` must have the shape (batch, {num_latents}, {latent_dim}), got {tuple(latents.shape)}."
        )
    if len(latents) == 0:
        raise ValueError(f"`{name}` must hold at least one datum, got an empty batch.")
    if not bool(torch.isfinite(latents).all()):
        raise ValueError(f"`{name}` must be finite, got NaN or infinity.")


def draw_timesteps(
    count: int, num_timesteps: int, like: torch.Tensor, generator: torch.Generator | None = None
) -> torch.Tensor:
    """Return int64 timesteps `(count,)`, evenly drawn from [0, num_timesteps), on the device of `like`."""
    device = _generator_device(generator, like)
    return torch.randint(num_timesteps, (count,), generator=generator, device=device).to(like.device)


def disturb(latents: torch.Tensor, most_variance: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """Return latents with noise of a variance drawn evenly from [0, most_variance] for each datum.

    Args:
        latents: `(batch, num_latents, latent_dim)`.
        most_variance: At least 0; with 0 the latents come back as they are.
        generator: Source of the draws.
    """
    if most_variance == 0:
        return latents
    device = _generator_device(generator, latents)
    share = torch.rand(len(latents), 1, 1, generator=generator, device=device).to(latents)
    noise = randn_tensor(latents.shape, generator=generator, device=latents.device, dtype=latents.dtype)
    return latents + (share * most_variance).sqrt() * noise


def drop_labels(class_labels: torch.Tensor, share: float, generator: torch.Generator | None = None) -> torch.Tensor:
    """Return int64 class labels, that share of them, in [0, 1], replaced by -1: unknown."""
    device = _generator_device(generator, class_labels)
    dropped = torch.rand(len(class_labels), generator=generator, device=device) < share
    return class_labels.masked_fill(dropped.to(class_labels.device), -1)


def repeat(tensor: torch.Tensor, times: int) -> torch.Tensor:
    """Return the rows of a tensor that many times, one whole copy after another."""
    return tensor.repeat(times, *[1] * (tensor.ndim - 1)) if times > 1 else tensor


def scale_gradient(tensor: torch.Tensor, share: float) -> torch.Tensor:
    """Return `tensor`, its gradient multiplied by `share`."""
    return tensor if share == 1 else tensor.detach() if share == 0 else tensor.detach().lerp(tensor, share)


def _generator_device(generator: torch.Generator | None, like: torch.Tensor) -> torch.device:
    return like.device if generator is None else generator.device
