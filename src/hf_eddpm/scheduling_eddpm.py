"""EDDPMScheduler: the arithmetic of the latent diffusion chain. Of this package it imports checks and draws alone."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, FrozenDict, register_to_config
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers, SchedulerMixin
from diffusers.utils import BaseOutput
from diffusers.utils.torch_utils import randn_tensor

from .argument_checks import check_generators
from .argument_types import Bounds, Count, FloatTensor, Generators, IntTensor, Share, check_same_shape, checked
from .draws import draw_uniform


@dataclass
class EDDPMSchedulerOutput(BaseOutput):
    """Result of a step.

    Args:
        prev_sample: Latents one step cleaner (`step`) or noisier (`invert_step`), shaped as the input.
        pred_original_sample: The clean latents that the denoiser's output implies, shaped as the input.
    """

    prev_sample: torch.Tensor
    pred_original_sample: torch.Tensor


class EDDPMScheduler(SchedulerMixin, ConfigMixin):
    r"""Noising, denoising and inversion in a chain of Gaussian latents of any shape `(batch, ...)`.

    Timesteps are integers 0 .. T-1, 0 the cleanest: `noisy = sqrt(alphas_cumprod[t]) * latents +
    sqrt(1 - alphas_cumprod[t]) * noise` (Ho et al. 2020, arXiv 2006.11239, equation 4). All schedule arithmetic is
    float32. Any diffusers scheduler takes this one's place by `Other.from_config(scheduler.config)`.

    Args:
        num_train_timesteps: Length T of the chain, in [1, 10**6].
        beta_start: First beta, in (0, 1).
        beta_end: Last beta, in (0, 1); equal to `beta_start` for the paper's constant beta.
        beta_schedule: "linear", "scaled_linear" (linear in the square roots) or "squaredcos_cap_v2" (the cosine
            schedule of Nichol & Dhariwal 2021, arXiv 2102.09672, betas capped at 0.999).
        trained_betas: T explicit betas in place of a schedule.
        prediction_type: What `model_output` is: "epsilon", "sample" or "v_prediction".
        timestep_spacing: How `set_timesteps` spreads n of T timesteps: "trailing" (ends at T-1), "leading" (starts
            at 0) or "linspace" (both); as in Lin et al. 2023 (arXiv 2305.08891), table 2.
        clip_sample: Whether `step`, here and in other schedulers built from this config, clips the clean sample that
            the denoiser's output implies to [-1, 1], and takes the noise to be what is left. For chains over pixels;
            latents are not bounded.

    Raises:
        ValueError: If a value is outside its range.
    """

    _compatibles = [scheduler.name for scheduler in KarrasDiffusionSchedulers]
    order = 1

    @checked
    @register_to_config
    def __init__(
        self,
        num_train_timesteps: Annotated[int, Bounds(at_least=1, at_most=10**6)] = 1000,
        beta_start: float = 0.008,
        beta_end: float = 0.008,
        beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear",
        trained_betas: np.ndarray | list[float] | None = None,
        prediction_type: Literal["epsilon", "sample", "v_prediction"] = "epsilon",
        timestep_spacing: Literal["trailing", "leading", "linspace"] = "trailing",
        clip_sample: bool = False,
    ):
        self.betas = _make_betas(num_train_timesteps, beta_start, beta_end, beta_schedule, trained_betas)  # (T,)
        self.alphas = 1.0 - self.betas
        self.alphas_cumprod = torch.cumprod(self.alphas, dim=0)
        self.init_noise_sigma = 1.0
        self.num_inference_steps: int | None = None
        self.timesteps = torch.arange(num_train_timesteps - 1, -1, -1)
        self._positions: dict[int, int] | None = None  # timestep -> index in `timesteps`, made by `set_timesteps`

    def register_to_config(self, **kwargs: Any) -> None:
        """Note values in `config`, the arguments of this class alone.

        diffusers would note which were left at their defaults, drop these when another scheduler is built from this
        config, and fill in that scheduler's own betas.
        """
        super().register_to_config(**{name: value for name, value in kwargs.items() if not name.startswith("_")})

    def to_json_string(self) -> str:
        """Return the config as JSON, with the class and the version that diffusers notes there and nowhere else."""
        own = FrozenDict(self.config)
        try:
            return super().to_json_string()
        finally:
            self._internal_dict = own

    def __len__(self) -> int:
        return self.config.num_train_timesteps

    @checked
    def scale_model_input(self, sample: FloatTensor, timestep: int | torch.Tensor | None = None) -> torch.Tensor:
        """Return `sample` unchanged; other schedulers scale the denoiser's input here."""
        return sample

    @checked
    def set_timesteps(
        self,
        num_inference_steps: Count | None = None,
        device: str | torch.device | None = None,
        timesteps: Sequence[int] | IntTensor | None = None,
    ) -> None:
        """Choose the timesteps of a chain: descending, unique, within [0, T).

        Args:
            num_inference_steps: Number of steps, in [1, T].
            device: Device of `self.timesteps`.
            timesteps: Explicit timesteps in place of `num_inference_steps`, strictly descending.

        Raises:
            ValueError: If not exactly one of the two is given, or if its values are outside their range.
        """
        num_train_timesteps = self.config.num_train_timesteps
        if (num_inference_steps is None) == (timesteps is None):
            raise ValueError("Exactly one of `num_inference_steps` and `timesteps` must be given.")
        if timesteps is not None:
            chosen = np.asarray(timesteps, dtype=np.int64)
            if chosen.ndim != 1 or len(chosen) == 0 or (np.diff(chosen) >= 0).any():
                raise ValueError(f"`timesteps` must be a strictly descending list of integers, got {timesteps}.")
            if chosen[0] >= num_train_timesteps or chosen[-1] < 0:
                raise ValueError(f"`timesteps` must be in [0, {num_train_timesteps}), got {timesteps}.")
        else:
            n = num_inference_steps
            if isinstance(n, bool) or not isinstance(n, (int, np.integer)) or not 1 <= n <= num_train_timesteps:
                raise ValueError(f"`num_inference_steps` must be an integer in [1, {num_train_timesteps}], got {n!r}.")
            if self.config.timestep_spacing == "trailing":
                chosen = np.round(np.arange(n, 0, -1) * (num_train_timesteps / n)).astype(np.int64) - 1
            elif self.config.timestep_spacing == "leading":
                chosen = np.arange(n - 1, -1, -1, dtype=np.int64) * (num_train_timesteps // n)
            else:
                chosen = np.linspace(0, num_train_timesteps - 1, n).round()[::-1].astype(np.int64)
        self.num_inference_steps = len(chosen)
        self._positions = {int(timestep): position for position, timestep in enumerate(chosen)}
        self.timesteps = torch.from_numpy(chosen.copy()).to(device)

    @checked
    def previous_timestep(self, timestep: int | IntTensor) -> int:
        """Return the next cleaner timestep of the chosen chain, or -1 after its last.

        Raises:
            ValueError: If `set_timesteps` was called and `timestep` is not in the chain.
        """
        timestep = self._single(timestep)
        if self._positions is None:
            return timestep - 1
        if timestep not in self._positions:
            raise ValueError(f"`timestep` must be one of those chosen by `set_timesteps`, got {timestep}.")
        position = self._positions[timestep]
        return int(self.timesteps[position + 1]) if position + 1 < len(self.timesteps) else -1

    @checked
    def step(
        self,
        model_output: FloatTensor,
        timestep: int | IntTensor,
        sample: FloatTensor,
        eta: Share = 0.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        variance_noise: FloatTensor | None = None,
        return_dict: bool = True,
    ) -> EDDPMSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        """Go from `timestep` to the next cleaner one (Song et al. 2021, arXiv 2010.02502, equations 12 and 16).

        Args:
            model_output: The denoiser's output, as `prediction_type` says, shaped as `sample`.
            timestep: Where `sample` is in the chain.
            sample: Noisy latents `(batch, ...)`.
            eta: Share in [0, 1] of the ancestral noise: 0 is DDIM (deterministic), 1 is DDPM (ancestral sampling).
            generator: Source of that noise.
            variance_noise: The noise itself, shaped as `sample`, in place of `generator`.
            return_dict: Whether to return an `EDDPMSchedulerOutput` rather than its tuple.

        Returns:
            `prev_sample`, and the `pred_original_sample` it was computed from.

        Raises:
            ValueError: If `eta` is outside [0, 1], or both `generator` and `variance_noise` are given.
        """
        check_generators(generator, len(sample) if sample.ndim else 1)
        if variance_noise is not None and generator is not None:
            raise ValueError("Only one of `generator` and `variance_noise` may be given.")
        if variance_noise is not None:
            check_same_shape(variance_noise, sample, "variance_noise", "sample")
        timestep = self._single(timestep)
        clean, noise = self.predict(model_output, timestep, sample)
        alpha_prod = self._alpha_prod(timestep, sample.device)
        alpha_prod_prev = self._alpha_prod(self.previous_timestep(timestep), sample.device)
        if self.config.clip_sample:
            clean = clean.clamp(-1, 1)
            noise = (sample.float() - alpha_prod.sqrt() * clean) / (1 - alpha_prod).sqrt()

        variance = eta**2 * (1 - alpha_prod_prev) / (1 - alpha_prod) * (1 - alpha_prod / alpha_prod_prev)
        prev_sample = alpha_prod_prev.sqrt() * clean + (1 - alpha_prod_prev - variance).clamp(min=0).sqrt() * noise
        if variance > 0:
            if variance_noise is None:
                variance_noise = randn_tensor(
                    sample.shape, generator=generator, device=sample.device, dtype=torch.float32
                )
            prev_sample = prev_sample + variance.sqrt() * variance_noise.float()
        return self._output(prev_sample, clean, sample.dtype, return_dict)

    @checked
    def invert_step(
        self,
        model_output: FloatTensor,
        timestep: int | IntTensor,
        sample: FloatTensor,
        return_dict: bool = True,
    ) -> EDDPMSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        """Go from the next cleaner timestep up to `timestep`: the exact inverse of `step(eta=0)` without clipping.

        Exact if `model_output` is what the denoiser gives at `timestep`; a caller that only has the cleaner latents
        evaluates the denoiser on those (DDIM inversion, Song et al. 2021, section 4.3), with an error that shrinks
        with the step.

        Args:
            model_output: The denoiser's output at `timestep`, shaped as `sample`.
            timestep: The timestep to arrive at.
            sample: Latents at the next cleaner timestep `(batch, ...)` (clean latents before the last one).
            return_dict: Whether to return an `EDDPMSchedulerOutput` rather than its tuple.

        Returns:
            The noisier latents as `prev_sample`, and the clean latents implied.
        """
        check_same_shape(model_output, sample, "model_output", "sample")
        timestep = self._single(timestep)
        previous = self.previous_timestep(timestep)
        alpha_prod = self._alpha_prod(timestep, sample.device)
        alpha_prod_prev = self._alpha_prod(previous, sample.device)
        low, output = sample.float(), model_output.float()
        # low = a' clean + s' noise and noisy = a clean + s noise, with one of clean, noise or v known
        a, s = alpha_prod.sqrt(), (1 - alpha_prod).sqrt()
        a_prev, s_prev = alpha_prod_prev.sqrt(), (1 - alpha_prod_prev).sqrt()
        if self.config.prediction_type == "epsilon":
            noise = output
            clean = (low - s_prev * noise) / a_prev
            noisy = a * clean + s * noise
        elif self.config.prediction_type == "v_prediction":
            # clean = a noisy - s v and noise = s noisy + a v, put into low and solved for noisy
            noisy = (low - (a * s_prev - a_prev * s) * output) / (a_prev * a + s_prev * s)
            clean = a * noisy - s * output
        else:
            clean = output
            # Between clean latents and the first timestep s_prev is 0 and low says nothing about the noise: no
            # inverse exists there, and the latents are carried over without noise.
            noise = (low - a_prev * clean) / s_prev if previous >= 0 else torch.zeros_like(low)
            noisy = a * (clean if previous >= 0 else low) + s * noise
        return self._output(noisy, clean, sample.dtype, return_dict)

    @checked
    def predict(
        self, model_output: FloatTensor, timesteps: int | IntTensor, sample: FloatTensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Turn the denoiser's output into the clean latents and the noise it implies.

        Args:
            model_output: The denoiser's output, shaped as `sample`.
            timesteps: One timestep, or one for each row of `sample`.
            sample: Noisy latents `(batch, ...)`.

        Returns:
            Clean latents and noise, float32, shaped as `sample`.
        """
        check_same_shape(model_output, sample, "model_output", "sample")
        a, s = self._signal_and_noise_scale(timesteps, sample)
        sample, output = sample.float(), model_output.float()
        if self.config.prediction_type == "epsilon":
            return (sample - s * output) / a, output
        if self.config.prediction_type == "sample":
            return output, (sample - a * output) / s
        return a * sample - s * output, a * output + s * sample

    @checked
    def training_target(self, latents: FloatTensor, noise: FloatTensor, timesteps: IntTensor) -> torch.Tensor:
        """Return what the denoiser's output should be, by `prediction_type`; shaped as `latents`."""
        check_same_shape(noise, latents, "noise", "latents")
        if self.config.prediction_type == "epsilon":
            return noise
        if self.config.prediction_type == "sample":
            return latents
        return self.get_velocity(latents, noise, timesteps)

    @checked
    def add_noise(self, original_samples: FloatTensor, noise: FloatTensor, timesteps: int | IntTensor) -> torch.Tensor:
        """Noise clean latents up to `timesteps` (Ho et al. 2020, equation 4).

        Args:
            original_samples: Clean latents `(batch, ...)`.
            noise: Standard Gaussian noise, shaped as the latents.
            timesteps: One timestep, or one for each row, in [0, T).

        Returns:
            Noisy latents, shaped and typed as `original_samples`.
        """
        check_same_shape(noise, original_samples, "noise", "original_samples")
        a, s = self._signal_and_noise_scale(timesteps, original_samples)
        return (a * original_samples.float() + s * noise.float()).to(original_samples.dtype)

    @checked
    def get_velocity(self, sample: FloatTensor, noise: FloatTensor, timesteps: int | IntTensor) -> torch.Tensor:
        """Return v = sqrt(alphas_cumprod) noise - sqrt(1 - alphas_cumprod) sample (arXiv 2202.00512, appendix D)."""
        check_same_shape(noise, sample, "noise", "sample")
        a, s = self._signal_and_noise_scale(timesteps, sample)
        return (a * noise.float() - s * sample.float()).to(sample.dtype)

    @checked
    def bound_weights(self, timesteps: int | IntTensor | None = None) -> torch.Tensor:
        """Return w_t, the weight of `|noise - noise_pred|^2` in the bound, in nats (Ho et al. 2020, equation 12).

        w_t = beta_t / (2 alpha_t (1 - alphas_cumprod[t])), the Gaussian p(x_t-1 | x_t) having variance beta_t.

        Args:
            timesteps: The timesteps of interest; `None` for all T.

        Returns:
            float32, one weight for each timestep.
        """
        weights = self.betas / (2 * self.alphas * (1 - self.alphas_cumprod))
        if timesteps is None:
            return weights
        timesteps = self._in_range(timesteps)
        return weights.to(timesteps.device)[timesteps]

    @checked
    def bound_terms(
        self,
        samples: FloatTensor,
        noise_errors: Callable[[torch.Tensor], torch.Tensor],
        num_timesteps: Count,
        generator: Generators = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Estimate the two terms of the bound beside the first timestep's (Ho et al. 2020, equation 5), in nats.

        Args:
            samples: Clean samples `(batch, ...)`, float32.
            noise_errors: Function from timesteps `(batch,)` to `|noise - noise_pred|^2`, `(batch,)`.
            num_timesteps: Timesteps of the stratified estimate, at least 1.
            generator: Source of the timesteps, or one for each sample.

        Returns:
            The sum of the KLs of timesteps 1 .. T-1, and the KL of the noisiest samples from N(0, I), both `(batch,)`.
        """
        (batch, size), device = (len(samples), samples[0].numel()), samples.device
        diffusion = torch.zeros(batch, device=device)
        # Half evenly, half by the terms that Gaussian data would have, w_t alphas_cumprod (arXiv 2102.09672, 3.3)
        weights, expected = self.bound_weights()[1:], (self.bound_weights() * self.alphas_cumprod)[1:]
        chances = (0.5 * expected / expected.sum() + 0.5 / max(len(weights), 1)).to(device)
        ends, factors = chances.cumsum(0)[:-1], weights.to(device) / chances / num_timesteps
        for stratum in range(num_timesteps if len(weights) else 0):
            places = torch.searchsorted(ends, (stratum + draw_uniform(batch, generator, device)) / num_timesteps)
            diffusion += factors[places] * noise_errors(1 + places)
        # The rest of these KLs: p(x_t-1 | x_t) has variance beta, q(x_t-1 | x_t, x_0) the smaller ratio * beta.
        ratio = (1 - self.alphas_cumprod[:-1].double()) / (1 - self.alphas_cumprod[1:].double())
        diffusion += size / 2 * float((ratio - 1 - ratio.log()).sum())
        # KL(N(sqrt(a) x, (1 - a) I) || N(0, I)) at the chain's end
        alpha = self.alphas_cumprod[-1].to(samples.device)
        prior = 0.5 * (alpha * samples.flatten(1).square().sum(1) - size * (alpha + torch.log1p(-alpha)))
        return diffusion, prior

    def reconstruction_weight(self) -> float:
        """Return c = E_t[1 / (T w_t)], the reconstruction's weight beside the simple loss (EDDPM, section 3)."""
        return float((1 / (len(self) * self.bound_weights().double())).mean())

    def _in_range(self, timesteps: int | torch.Tensor, name: str = "timesteps") -> torch.Tensor:
        """Return timesteps as an int64 tensor.

        Raises:
            ValueError: If one is not in [0, T).
        """
        timesteps = torch.as_tensor(timesteps).long()
        if timesteps.is_cuda:  # not waited for: a training step would stop the GPU for it
            torch._assert_async(
                ((timesteps >= 0) & (timesteps < len(self))).all(), f"`{name}` outside [0, {len(self)})"
            )
            return timesteps
        if timesteps.numel() and not 0 <= int(timesteps.min()) <= int(timesteps.max()) < len(self):
            raise ValueError(
                f"`{name}` must be in [0, {len(self)}), got {int(timesteps.min())} to {int(timesteps.max())}."
            )
        return timesteps

    def _single(self, timestep: int | torch.Tensor) -> int:
        if isinstance(timestep, torch.Tensor) and timestep.numel() != 1:
            raise ValueError(f"`timestep` must be a single one, got the shape {tuple(timestep.shape)}.")
        return int(self._in_range(timestep, "timestep"))

    def _alpha_prod(self, timestep: int, device: torch.device) -> torch.Tensor:
        """Return `alphas_cumprod`, which is 1 for the clean latents (timestep -1)."""
        return (self.alphas_cumprod[timestep] if timestep >= 0 else torch.ones(())).to(device)

    def _signal_and_noise_scale(
        self, timesteps: int | IntTensor, sample: FloatTensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        timesteps = self._in_range(timesteps).to(sample.device)
        if timesteps.ndim > 1 or (timesteps.ndim == 1 and len(timesteps) not in (1, len(sample))):
            raise ValueError(
                f"`timesteps` must be one timestep or one for each of {len(sample)} rows, got the shape "
                f"{tuple(timesteps.shape)}."
            )
        alpha_prod = self.alphas_cumprod.to(sample.device)[timesteps]
        alpha_prod = alpha_prod.reshape(-1, *[1] * (sample.ndim - 1)) if alpha_prod.ndim else alpha_prod
        return alpha_prod.sqrt(), (1 - alpha_prod).sqrt()

    @staticmethod
    def _output(
        sample: torch.Tensor, clean: torch.Tensor, dtype: torch.dtype, return_dict: bool
    ) -> EDDPMSchedulerOutput | tuple[torch.Tensor, torch.Tensor]:
        sample, clean = sample.to(dtype), clean.to(dtype)
        return EDDPMSchedulerOutput(prev_sample=sample, pred_original_sample=clean) if return_dict else (sample, clean)


def _make_betas(
    num_train_timesteps: int,
    beta_start: float,
    beta_end: float,
    beta_schedule: str,
    trained_betas: np.ndarray | list[float] | None,
) -> torch.Tensor:
    if trained_betas is not None:
        betas = torch.as_tensor(np.asarray(trained_betas), dtype=torch.float32)
        if betas.shape != (num_train_timesteps,) or not bool(((betas > 0) & (betas < 1)).all()):
            raise ValueError(
                f"`trained_betas` must be `num_train_timesteps` = {num_train_timesteps} values in (0, 1), got "
                f"{tuple(betas.shape)} values from {betas.min():.4g} to {betas.max():.4g}."
            )
        return betas
    if not (0 < beta_start < 1 and 0 < beta_end < 1):
        raise ValueError(f"`beta_start` and `beta_end` must be in (0, 1), got {beta_start} and {beta_end}.")
    if beta_schedule == "linear":
        return torch.linspace(beta_start, beta_end, num_train_timesteps, dtype=torch.float32)
    if beta_schedule == "scaled_linear":
        return torch.linspace(beta_start**0.5, beta_end**0.5, num_train_timesteps, dtype=torch.float32) ** 2

    # "squaredcos_cap_v2": Nichol & Dhariwal 2021, equation 17
    def alpha_bar(time: float) -> float:
        return math.cos((time + 0.008) / 1.008 * math.pi / 2) ** 2

    steps = range(num_train_timesteps)
    ratios = [alpha_bar((t + 1) / num_train_timesteps) / alpha_bar(t / num_train_timesteps) for t in steps]
    return torch.tensor([min(1 - ratio, 0.999) for ratio in ratios], dtype=torch.float32)
