"""What a measurement says of an image: its likelihood given latents, and the nearest image that it fits."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from ..modeling_eddpm import EDDPMModel
from ..scheduling_eddpm import EDDPMScheduler
from .operators import NO_GRADIENT, ImageOperator, Operator

_TOLERANCE = 1e-3  # by which values of a ready operator may miss [0, 1]
_NOISE_WIDTH = 6  # standard deviations of noise that they may miss it by besides
_ITERATIONS = 12  # of conjugate gradients; masks and averages need one
_LEAST_RATIO = 1e-4  # of the noise's variance to the image's: a floor that keeps blur invertible
_TINY = 1e-20
_EXAMPLES, _EXAMPLE_STEPS, _EXAMPLE_SEED = 8, 20, 0  # of the model's own images, by which its decoder is known


class DecoderExamples:
    """Images that a model draws, beside their means given the latents: what its latents leave open.

    They are the same in every call.

    Args:
        model: The model.
        scheduler: Scheduler of a pixel chain; None for a decoder in one pass.
        num_decoder_steps: Steps of that chain.
        device: Where to compute.

    Attributes:
        images: float32 `(examples, channels, height, width)`, in [0, 1].
        means: Their means given their latents.
        variance: Of a pixel around its mean.
    """

    def __init__(self, model: EDDPMModel, scheduler: Any, num_decoder_steps: int, device: torch.device):
        config, decoder = model.config, model.decoder
        generator = torch.Generator().manual_seed(_EXAMPLE_SEED)
        shape = (_EXAMPLES, config.num_latents, config.latent_dim)
        latents = torch.randn(shape, generator=generator).to(device)
        chain = EDDPMScheduler(**config.scheduler_config)
        chain.set_timesteps(min(_EXAMPLE_STEPS, len(chain)), device=device)
        for t in chain.timesteps:
            latents = chain.step(model.denoise(latents, t).float(), t, latents).prev_sample
        self.means = expected_images(model, latents)
        if decoder.scheduler_config is None:
            noise = torch.randn(self.means.shape, generator=generator).to(device)
            self.images = self.means + 0.5 * float(decoder.variance) ** 0.5 * noise
        else:
            noise = decoder.draw_noise(_EXAMPLES, generator, device)
            arguments = {"num_decoder_steps": num_decoder_steps, "scheduler": scheduler, "generator": generator}
            self.images = model.decode(latents, decoder_noise=noise, **arguments) / 2 + 0.5
        self.variance = float((self.images - self.means).detach().square().mean())


def expected_images(model: EDDPMModel, latents: torch.Tensor) -> torch.Tensor:
    """Return the means of p(image | latents), in [0, 1] or slightly beyond; they can be differentiated."""
    decoder: Any = model.decoder
    return decoder.mean(latents.to(model.denoiser.output.weight.dtype)) / 2 + 0.5


class ImageMeasurement:
    r"""Measurements y = operator(image) + noise of a batch of images.

    Args:
        model: The model that restores them.
        operator: Differentiable function from images `(batch, channels, height, width)` in [0, 1].
        values: y, float32 `(batch, ...)`.
        noise_level: Standard deviation of the noise, in the unit of y.
        examples: What the model's latents leave open.

    Raises:
        ValueError: If the operator returns no tensor, or one of another shape than `values`, cannot be differentiated,
            or the values are not finite, or out of a ready operator's range.
    """

    def __init__(
        self,
        model: EDDPMModel,
        operator: Operator,
        values: torch.Tensor,
        noise_level: float,
        examples: DecoderExamples,
    ):
        self.model, self.operator, self.noise_level, self.examples = model, operator, noise_level, examples
        self._check_operator(values, examples.means.shape[1:])
        self.known = torch.ones_like(values)
        if isinstance(operator, ImageOperator) and operator.known is not None:
            self.known = operator.known.to(values).expand_as(values)
        self.values = values.masked_fill(self.known == 0, 0.0)  # whatever stands there
        self._check_values()
        self.decoder_variance = self._decoder_variance()

    def _measure(self, images: torch.Tensor) -> torch.Tensor:
        """Return what the operator makes of images cut to [0, 1]; its gradient reaches those beyond it too.

        It gets a tensor of its own, which it may change in place.
        """
        return self.operator(images.detach().clamp(0, 1) + (images - images.detach()))

    def _check_operator(self, values: torch.Tensor, image_shape: Sequence[int]) -> None:
        with torch.inference_mode(False), torch.enable_grad():
            # Not constant, so that what is flat by chance at one value is not taken for flat.
            images = torch.linspace(0.2, 0.8, image_shape[1] * image_shape[2], device=values.device)
            images = images.view(1, 1, *image_shape[1:]).repeat(len(values), image_shape[0], 1, 1).requires_grad_()
            try:
                measured = self._measure(images)
            except RuntimeError as error:
                if "requires grad" in str(error):  # by `.numpy()`
                    raise ValueError(NO_GRADIENT) from error
                raise
            if not isinstance(measured, torch.Tensor):
                raise ValueError(
                    f"`operator` must be differentiable and return a tensor, got {type(measured).__name__}."
                )
            if measured.shape != values.shape:
                raise ValueError(
                    f"`data` must have the shape of what `operator` makes of {len(values)} images, "
                    f"{tuple(measured.shape)}, got {tuple(values.shape)}."
                )
            if not measured.requires_grad:
                raise ValueError(NO_GRADIENT)
            if measured.is_complex():
                raise ValueError(f"`operator` must return real numbers, got {measured.dtype}: `torch.view_as_real`.")
            # Each value counts differently, as their plain sum may be the same whatever the image.
            weights = torch.rand(measured.shape, generator=torch.Generator().manual_seed(0)).to(measured)
            (slope,) = torch.autograd.grad((measured * weights).sum(), images, allow_unused=True)
        if slope is None or not bool(slope.any()):
            raise ValueError(
                "`operator` must be differentiable: its gradient is 0 everywhere, as that of rounding and of "
                "thresholds is."
            )

    def _check_values(self) -> None:
        if not bool(torch.isfinite(self.values).all()):
            raise ValueError("`data` must hold finite measurements, got NaN or infinity.")
        if isinstance(self.operator, ImageOperator):
            slack = _TOLERANCE + _NOISE_WIDTH * self.noise_level
            low, high = float(self.values.min()), float(self.values.max())
            if low < -slack or high > 1 + slack:
                raise ValueError(
                    f"`data` must be in [0, 1], but for noise of `noise_level` = {self.noise_level:g}, got {low:.4g} "
                    f"to {high:.4g}."
                )

    def _decoder_variance(self) -> torch.Tensor:
        """Return how far, squared, a measurement of an image is from that of its mean given the latents, `(batch,)`.

        Latents do not say everything of an image; to the likelihood the rest is noise as well.
        """
        total = torch.zeros(len(self.values), device=self.values.device)
        for image, mean in zip(self.examples.images, self.examples.means, strict=True):
            measured, expected = (self._measure(each.expand(len(total), *each.shape)) for each in (image, mean))
            total = total + self._mean_square((measured - expected) * self.known)
        return total / len(self.examples.images)

    def prepare(self, latents: torch.Tensor) -> None:
        """Do nothing: the likelihood of images is the same at each noise level."""

    def log_likelihood(self, latents: torch.Tensor) -> torch.Tensor:
        """Return log p(y | latents), up to a constant, `(batch,)`.

        It is Gaussian around the measurement of the mean image, with the variance of the noise and of what the latents
        leave open.
        """
        residual = (self._measure(expected_images(self.model, latents)) - self.values) * self.known
        variance = self.noise_level**2 + self.decoder_variance + _TOLERANCE**2
        return -0.5 * _rows(residual).square().sum(1) / variance

    def decode(self, latents: torch.Tensor, **arguments: Any) -> torch.Tensor:
        """Return images in [-1, 1] that fit the measurement, `(batch, channels, height, width)`.

        Args:
            latents: Of p(latents | y), `(batch, num_latents, latent_dim)`.
            **arguments: Of a pixel chain: `num_decoder_steps`, `scheduler`, `generator`.
        """
        variance = max(self.examples.variance, _TINY)
        if self.model.decoder.scheduler_config is None:
            return self.fit(expected_images(self.model, latents), variance).clamp(0, 1) * 2 - 1

        def revise(clean: torch.Tensor, noise_variance: torch.Tensor) -> torch.Tensor:
            # In [0, 1] the chain's noise is half as large. What it leaves open is what latents and noisy image do.
            open_to = float(noise_variance) / 4
            left = variance * open_to / (variance + open_to)
            return self.fit(clean / 2 + 0.5, left).clamp(0, 1) * 2 - 1

        return self.model.decode(latents, revise=revise, **arguments)

    def misfit(self, images: torch.Tensor) -> torch.Tensor:
        """Return the root mean square of operator(image) - y over what is known, `(batch,)`; images in [-1, 1]."""
        return self._mean_square((self._measure(images / 2 + 0.5) - self.values) * self.known).sqrt()

    def _mean_square(self, residual: torch.Tensor) -> torch.Tensor:
        return _rows(residual).square().sum(1) / _rows(self.known).sum(1)

    def fit(self, images: torch.Tensor, variance: torch.Tensor | float) -> torch.Tensor:
        r"""Return the most probable images, each a Gaussian of that variance around the given one, given y.

        For a linear operator it is the solution of (A'A + noise^2 / variance) d = A'(y - A x), the data step of
        DiffPIR (Zhu et al. 2023, arXiv 2305.08995, section 3), here by conjugate gradients for any such operator; for
        another operator its first Gauss-Newton step. The products with A and A' are derivatives of the operator.

        Args:
            images: `(batch, channels, height, width)`; what is outside [0, 1] is cut to it first.
            variance: Of a pixel around them, positive.
        """
        images = images.clamp(0, 1)
        ratio = self.noise_level**2 / torch.as_tensor(variance, device=images.device).clamp(min=_TINY)
        ratio = ratio.clamp(min=_LEAST_RATIO)
        with torch.inference_mode(False), torch.enable_grad():
            point = images.detach().clone().requires_grad_()
            measured = self._measure(point)
            dummy = torch.zeros_like(measured).requires_grad_()
            (transposed,) = torch.autograd.grad(measured, point, dummy, create_graph=True)  # linear in `dummy`

            def pull(residual: torch.Tensor) -> torch.Tensor:
                return torch.autograd.grad(measured, point, residual, retain_graph=True)[0]

            def push(change: torch.Tensor) -> torch.Tensor:
                return torch.autograd.grad(transposed, dummy, change, retain_graph=True)[0]

            residual = pull((self.values - measured.detach()) * self.known)
            change, direction = torch.zeros_like(residual), residual
            square = _inner(residual, residual)
            for _ in range(_ITERATIONS):
                image = pull(push(direction) * self.known) + ratio * direction
                size = square / _inner(direction, image).clamp(min=_TINY)
                change, residual = change + size * direction, residual - size * image
                following = _inner(residual, residual)
                direction = residual + following / square.clamp(min=_TINY) * direction
                square = following
        return (images + change).detach()


def _rows(values: torch.Tensor) -> torch.Tensor:
    """Return `(batch, ...)` as `(batch, any)`."""
    return values.reshape(len(values), -1)


def _inner(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """Return the inner product of each row, `(batch, 1, 1, 1)`."""
    return (a * b).flatten(1).sum(1)[:, None, None, None]


def as_measurements(data: Any, levels: Callable[..., np.ndarray]) -> torch.Tensor:
    """Return measurements as float32 `(batch, ...)`.

    Args:
        data: PIL images or uint8 arrays (grey levels, which become [0, 1]), or floats as the operator returns them:
            one image as a PIL image or an array `(height, width[, channels])`, a list of such, or a tensor
            `(batch, ...)`.
        levels: Function from a PIL image, and what errors add to its name as `where`, to its grey levels, uint8
            `(height, width[, 3])`.

    Raises:
        TypeError: If it is none of these.
        ValueError: If the list is empty, an image's range is not known, or shapes differ.
    """
    if isinstance(data, torch.Tensor):
        if not data.ndim or not len(data):
            raise ValueError(f"`data` must be a tensor (batch, ...) of at least one row, got {tuple(data.shape)}.")
        return _as_floats(data, "")
    if isinstance(data, (Image.Image, np.ndarray)):
        if isinstance(data, np.ndarray) and data.ndim == 4:
            data = list(data)
        else:
            data = [data]
    if not isinstance(data, Sequence) or isinstance(data, str):
        raise TypeError(f"`data` must hold measurements: images, arrays or a tensor, got {type(data).__name__}.")
    if not len(data):
        raise ValueError("`data` must hold at least one measurement, got none.")
    rows = [_as_row(each, place, levels) for place, each in enumerate(data)]
    if len(shapes := {tuple(row.shape) for row in rows}) > 1:
        raise ValueError(f"`data` must hold measurements of one shape, got {sorted(shapes)}.")
    return torch.stack(rows)


def _as_row(item: Any, place: int, levels: Callable[..., np.ndarray]) -> torch.Tensor:
    if isinstance(item, torch.Tensor):
        return _as_floats(item, f" at position {place}")
    if isinstance(item, Image.Image):
        item = levels(item, where=f" at position {place}")
    if not isinstance(item, np.ndarray) or item.ndim not in (2, 3):
        shape = f"an array of shape {item.shape}" if isinstance(item, np.ndarray) else type(item).__name__
        raise TypeError(f"`data` must hold images, arrays or tensors, got {shape} at position {place}.")
    array = np.array(item[None] if item.ndim == 2 else item.transpose(2, 0, 1))  # a copy that may be written
    return _as_floats(torch.from_numpy(array), f" at position {place}")


def _as_floats(values: torch.Tensor, where: str) -> torch.Tensor:
    if values.dtype == torch.uint8:
        return values.float() / 255
    if not values.is_floating_point():
        raise ValueError(f"`data` must be of uint8 or floats, got {values.dtype}{where}.")
    return values.float()
