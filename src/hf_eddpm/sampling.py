"""Running the chain of latents with any scheduler, and mixing latents."""

import copy
import functools
import inspect
from collections.abc import Callable
from typing import Any

import torch
from transformers.utils import logging

from .argument_checks import is_integer
from .argument_types import Generators
from .scheduling_eddpm import EDDPMScheduler

logger = logging.get_logger(__name__)

_FAR = 0.1  # share of the chain between a strength and the nearest step that is worth a word


def without_gradient(method: Callable[..., Any]) -> Callable[..., Any]:
    """Let a method compute without gradients, and with tensors that can have some, whatever the caller's mode.

    Guidance and refinement take gradients inside; tensors made under `torch.inference_mode` allow none.
    """

    @functools.wraps(method)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with torch.inference_mode(False), torch.no_grad():
            return method(*args, **kwargs)

    return wrapped


def check_scheduler(scheduler: Any, own: EDDPMScheduler, name: str = "scheduler") -> None:
    """Raise a ValueError unless a scheduler runs the chain that the model was trained on.

    Right are the schedulers whose noise schedule is the model's, step for step; `docs/guides/schedulers.md` has a
    measurement of each. `LCMScheduler` is right for a distilled denoiser only, which nothing here can tell.

    Args:
        scheduler: Scheduler of diffusers or ours.
        own: The chain of the model.
        name: The argument that the error names.
    """
    kind = type(scheduler).__name__
    advice = f"Make one by `Other.from_config(pipe.{name}.config)`, for example of `DDIMScheduler`."
    if "Inverse" in kind:
        raise ValueError(f"`{name}` cannot be a {kind}: it runs the chain backwards, see `pipe.invert`. {advice}")
    theirs = getattr(scheduler, "alphas_cumprod", None)
    alphas = own.alphas_cumprod
    same = isinstance(theirs, torch.Tensor) and theirs.shape == alphas.shape
    if not same or not torch.allclose(theirs.float().cpu(), alphas, atol=1e-5):  # type: ignore[union-attr]
        raise ValueError(
            f"`{name}` must have the noise schedule that the model was trained with ({len(alphas)} timesteps, its "
            f"betas), which this {kind} has not. {advice}"
        )
    predicts = scheduler.config.get("prediction_type", own.config.prediction_type)
    if predicts != own.config.prediction_type:
        raise ValueError(
            f"`{name}` must have the `prediction_type` of the model, {own.config.prediction_type!r}, got "
            f"{predicts!r}. {advice}"
        )
    needed = [
        parameter.name
        for parameter in list(inspect.signature(scheduler.step).parameters.values())[3:]
        if parameter.default is parameter.empty and parameter.kind is not parameter.VAR_KEYWORD
    ]
    if needed:
        raise ValueError(f"`{name}` cannot be a {kind}: its steps need {needed} besides. {advice}")


def run_chain(
    denoise: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    scheduler: Any,
    noise: torch.Tensor,
    num_inference_steps: int,
    eta: float = 0.0,
    generator: Generators = None,
    start: torch.Tensor | None = None,
    strength: float = 1.0,
    on_step: Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    on_start: Callable[[int], None] | None = None,
    is_interrupted: Callable[[], bool] = lambda: False,
) -> torch.Tensor:
    """Run the chain from noise to latents, both float32 `(batch, num_latents, latent_dim)`.

    Args:
        denoise: Function from noisy latents and a timestep to the denoiser's output.
        scheduler: Scheduler of diffusers or ours; a copy of it runs.
        noise: Standard Gaussian noise.
        num_inference_steps: Steps, in [1, T].
        eta: Share in [0, 1] of ancestral noise.
        generator: Source of the scheduler's noise.
        start: With a `strength` below 1, latents that are noised to start from.
        strength: Share of the timesteps that is run, in (0, 1].
        on_step: Called with the step, the timestep and the latents after each step; it returns the latents to go on
            with.
        on_start: Called with the number of steps before the first.
        is_interrupted: Asked before each step; True ends the run with the latents as they are.

    Raises:
        ValueError: If the number of steps is out of range, or the scheduler has no `eta`.
    """
    scheduler = copy.deepcopy(scheduler)  # it keeps the state of a run: another call must not meet it
    num_train_timesteps, n = scheduler.config.num_train_timesteps, num_inference_steps
    if not is_integer(n) or not 1 <= n <= num_train_timesteps:
        raise ValueError(f"`num_inference_steps` must be an integer in [1, {num_train_timesteps}], got {n!r}.")
    try:
        scheduler.set_timesteps(n, device=noise.device)
    except (ValueError, IndexError, RuntimeError) as error:  # a solver of several steps may need more of them
        kind = type(scheduler).__name__
        raise ValueError(f"`num_inference_steps` = {n} is none that {kind} can take ({error}).") from error
    timesteps = scheduler.timesteps
    latents = noise * scheduler.init_noise_sigma
    first = 0
    if start is not None and strength < 1:
        # by the timestep, as schedulers space their steps differently
        starts = timesteps[:: scheduler.order].cpu().double()
        distances = (starts + 1 - strength * num_train_timesteps).abs()
        first = int(distances.argmin()) * scheduler.order
        if distances.min() > _FAR * num_train_timesteps:
            logger.warning(
                f"`strength` = {strength} lies between the steps: of {n}, the nearest starts at "
                f"{(float(timesteps[first]) + 1) / num_train_timesteps:.3g} of the chain. More `num_inference_steps` "
                "come nearer."
            )
        timesteps = timesteps[first:]
    if hasattr(scheduler, "set_begin_index"):  # a solver's first two steps may share a timestep: it cannot tell
        scheduler.set_begin_index(first)
    if start is not None and strength < 1:
        latents = scheduler.add_noise(start, noise, timesteps[:1])
    step_arguments = _step_arguments(scheduler, eta, generator)
    _seed_own_noise(scheduler, generator)
    if on_start is not None:
        on_start(len(timesteps))
    for step, t in enumerate(timesteps):
        if is_interrupted():
            break
        noise_pred = denoise(scheduler.scale_model_input(latents, t), t)
        latents = scheduler.step(noise_pred, t, latents, **step_arguments).prev_sample
        if on_step is not None:
            latents = on_step(step, t, latents)
    return latents


def _seed_own_noise(scheduler: Any, generator: Generators) -> None:
    """Let a scheduler that draws noise by itself (`DPMSolverSDEScheduler`) draw what the generator decides."""
    if generator is None or not hasattr(scheduler, "noise_sampler_seed"):
        return
    if isinstance(generator, list):
        raise ValueError(
            f"`generator` must be a single one with {type(scheduler).__name__}, whose noise has one seed."
        )
    scheduler.noise_sampler_seed = int(torch.randint(2**31, (), generator=generator, device=generator.device))


def _step_arguments(scheduler: Any, eta: float, generator: Generators) -> dict[str, Any]:
    """Return those of `eta` and `generator` that the scheduler's `step` takes."""
    accepted = inspect.signature(scheduler.step).parameters
    arguments: dict[str, Any] = {}
    if "generator" in accepted:
        arguments["generator"] = generator
    if "eta" in accepted:
        arguments["eta"] = eta
    elif eta != 0:
        raise ValueError(f"`eta` must be 0 with {type(scheduler).__name__}, whose step has none; got {eta}.")
    return arguments


def denoise_rows(
    denoise: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
    scheduler: Any,
    rows: torch.Tensor,
    noise_levels: torch.Tensor,
    num_inference_steps: int,
    progress_bar: Callable[[Any], Any] = iter,
) -> torch.Tensor:
    """Denoise latents as though they were noisy, each row from a level of its own; no noise is added.

    Args:
        denoise: Function from noisy latents and a timestep to the denoiser's output.
        scheduler: An `EDDPMScheduler`; a copy of it runs.
        rows: Latents, float32 `(num_rows, batch, num_latents, latent_dim)`.
        noise_levels: Standard deviation of the noise in each row, in units of the latents as they are,
            `sqrt((1 - alpha_prod) / alpha_prod)` of the timestep that it starts from; `(num_rows,)`. A row whose
            level is below half of the cleanest timestep's stays as it is.
        num_inference_steps: Steps of the whole chain, in [1, T].
        progress_bar: Wraps the timesteps.

    Returns:
        Latents, shaped as `rows`.
    """
    scheduler = copy.deepcopy(scheduler)
    scheduler.set_timesteps(num_inference_steps, device=rows.device)
    timesteps = scheduler.timesteps
    alpha_prods = scheduler.alphas_cumprod.to(rows.device)[timesteps]
    levels = ((1 - alpha_prods) / alpha_prods).sqrt()
    noise_levels = noise_levels.to(levels)
    starts = (levels[None, :] - noise_levels[:, None]).abs().argmin(1)  # places among the timesteps
    clean = noise_levels < levels.min() / 2
    signal = torch.where(clean, 1.0, alpha_prods[starts].sqrt())
    starts = torch.where(clean, len(timesteps), starts)
    latents = rows * signal.to(rows).view(-1, 1, 1, 1)
    for place, t in enumerate(progress_bar(timesteps)):
        under_way = (starts <= place).nonzero().flatten()
        if len(under_way):
            noisy = latents[under_way].flatten(0, 1)
            cleaner = scheduler.step(denoise(noisy, t), t, noisy).prev_sample
            latents[under_way] = cleaner.view_as(latents[under_way])
    return latents


def slerp(a: torch.Tensor, b: torch.Tensor, weight: torch.Tensor | float) -> torch.Tensor:
    """Interpolate along the arc between two batches of latents (Shoemake 1985), their norms linearly.

    Args:
        a: `(batch, ...)`.
        b: Shaped as `a`.
        weight: In [0, 1]; 0 gives `a`, 1 gives `b`.
    """
    flat_a, flat_b = a.flatten(1), b.flatten(1)
    norm_a, norm_b = flat_a.norm(dim=1, keepdim=True), flat_b.norm(dim=1, keepdim=True)
    unit_a, unit_b = flat_a / norm_a.clamp(min=1e-12), flat_b / norm_b.clamp(min=1e-12)
    # atan2 of the half angle's sine and cosine: acos loses digits near parallel and opposite vectors
    angle = 2 * torch.atan2((unit_a - unit_b).norm(dim=1, keepdim=True), (unit_a + unit_b).norm(dim=1, keepdim=True))
    straight = angle.sin() < 1e-4  # (nearly) parallel or opposite: no arc is singled out
    sine = torch.where(straight, torch.ones_like(angle), angle.sin())
    arc = torch.sin((1 - weight) * angle) / sine * unit_a + torch.sin(weight * angle) / sine * unit_b
    mixed = arc * ((1 - weight) * norm_a + weight * norm_b)
    return torch.where(straight, (1 - weight) * flat_a + weight * flat_b, mixed).view_as(a)
