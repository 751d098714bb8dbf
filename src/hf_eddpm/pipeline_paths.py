"""Walks between data, and the way back from data to noise."""

from collections.abc import Callable, Sequence
from difflib import SequenceMatcher
from typing import Annotated, Any, Literal

import numpy as np
import torch

from .argument_types import Bounds, Count, IntTensor, NumberFromZero, StepsOrZero, checked, refuse_without
from .processing_eddpm import EDDPMProcessor
from .sampling import denoise_rows, slerp, without_gradient
from .scheduling_eddpm import EDDPMScheduler

_PATH_STEPS = 100  # of inversion and denoising: fewer lose too much of the ends of a path
_NOISE_LEVEL = 0.7  # of the middle of a path through the latents: training/studies/sentences measures it
_DENSER = 8  # points that are decoded for each that is shown, with perceptual spacing


def data_distance(first: Any, second: Any) -> float:
    """Return how far apart two data are that a pipeline has decoded.

    Args:
        first: Text or a sequence of residues, or an image.
        second: Another.

    Returns:
        Of strings the share in [0, 1] of characters that no longest matching runs hold (Ratcliff and Obershelp, as in
        `difflib`); of images the root mean square of their pixels' differences.
    """
    if isinstance(first, str):
        return 1 - SequenceMatcher(None, first, second, autojunk=False).ratio()
    difference = np.asarray(first, dtype=np.float64) - np.asarray(second, dtype=np.float64)
    return float(np.sqrt(np.square(difference).mean()))


def perceptual_steps(path: Sequence[Any], num_steps: int) -> list[int]:
    """Choose points of a path that divide it evenly, as its data show it.

    Args:
        path: Data on the path, in order, at least two.
        num_steps: Points to choose, the ends included, at least 2.

    Returns:
        Their places, not falling. Places of equal neighbours count as one; a place is named twice only if the path
        has fewer different neighbours than `num_steps`.
    """
    gaps = [data_distance(first, second) for first, second in zip(path, path[1:], strict=False)]
    starts = [0] + [place + 1 for place, gap in enumerate(gaps) if gap > 0]  # of runs of equal data
    along = np.concatenate([[0.0], np.cumsum([gap for gap in gaps if gap > 0])])
    wanted = np.linspace(0, along[-1], num_steps)
    costs = (wanted[:, None] - along[None, :]) ** 2  # (step, run)
    least_rise = int(len(starts) >= num_steps)  # to a later run each time, if there are enough
    best = np.full(costs.shape, np.inf)
    came = np.zeros(costs.shape, dtype=int)
    best[0, 0] = costs[0, 0]  # the first step is the first run
    for step in range(1, num_steps):
        for run in range(least_rise, len(starts)):
            earlier = best[step - 1, : run + 1 - least_rise]
            came[step, run] = int(earlier.argmin())
            best[step, run] = earlier.min() + costs[step, run]
    runs = [len(starts) - 1]  # the last step is the last run
    for step in range(num_steps - 1, 0, -1):
        runs.append(int(came[step, runs[-1]]))
    return [starts[run] for run in reversed(runs)]


class PathsMixin:
    """The methods of `EDDPMPipeline` that walk between data; a plain class, as `RestoreMixin` is."""

    model: Any
    processor: EDDPMProcessor
    decoder_scheduler: Any
    progress_bar: Callable[..., Any]
    maybe_free_model_hooks: Callable[[], None]
    encode: Callable[..., Any]
    decode: Callable[..., Any]
    _execution_device: torch.device
    _refuse_copies: Callable[..., None]
    _denoise: Callable[..., torch.Tensor]
    _latents_of: Callable[[Any], torch.Tensor]
    _ddim: Callable[[], EDDPMScheduler]
    _inverted: Callable[..., dict[str, Any]]
    _noise_of_paths: Callable[..., torch.Tensor]
    _prepare_classes: Callable[..., dict[str, Any]]

    @without_gradient
    @checked
    def interpolate(
        self,
        a: Any,
        b: Any,
        num_steps: Annotated[int, Bounds(at_least=2)] = 7,
        mode: Literal["slerp", "lerp"] = "slerp",
        space: Literal["latents", "noise"] | None = None,
        spacing: Literal["even", "perceptual"] = "even",
        num_inference_steps: Count | None = None,
        noise_level: NumberFromZero | None = None,
        invert_noise: bool = False,
        **decode_arguments: Any,
    ) -> list[Any]:
        """Walk from each datum in `a` to its counterpart in `b`. The ends are the reconstructions of the two.

        In "latents" space the latents are mixed, and with a `noise_level` what lies between the two, where no datum
        need be, is denoised as though it were noisy: the more, the further it is from the ends. No noise is added.

        In "noise" space both are inverted to the noise they come from, the noise is mixed and denoised again, so that
        every point of the path passes through the whole chain. What inversion loses at the ends is added back along
        the path, which makes the ends exact.

        A decoder that is a chain itself starts, on all points of a path, from the same noise, so that only the latents
        change; with `invert_noise` from a mixture (slerp) of the noises that it takes the two ends to.

        Args:
            a: One datum or a list of them.
            b: As many.
            num_steps: Points of each path, both ends counted, at least 2.
            mode: "slerp" (along the arc; the norm is mixed linearly) or "lerp" (straight).
            space: "latents" or "noise". By default what measures best (docs/benchmarks/paths.md): the latents for
                strings, which are text and proteins, and the noise for other data.
            spacing: "even" takes even steps in that space. "perceptual" decodes eight times as many points and takes
                those that divide the way between the ends evenly as the data show it: by characters that change, or
                the root mean square of pixels; of equal data one is taken, as long as there are others.
            num_inference_steps: Steps of the whole chain, in [1, T], by default 100 (or T): in "noise" space all are
                taken, otherwise those from the noise level down.
            noise_level: What is denoised: the standard deviation, in units of the latents as they are, of the noise
                that the middle of the path is taken to have; a point at a share w of the way gets
                `sqrt(4 * w * (1 - w))` of it, as the variance that a mixture lacks is in that proportion. By default
                0.7 for strings in "latents" space, otherwise 0, none.
            invert_noise: As for `reconstruct`.
            **decode_arguments: Passed to the decoder; `decoder_noise` has one entry for each pair.

        Returns:
            One path of `num_steps` data for each pair.

        Raises:
            ValueError: If the lists differ in length, or an argument is outside its range.
        """
        starts, ends = self.processor.as_list(a, "a"), self.processor.as_list(b, "b")
        if len(starts) != len(ends):
            raise ValueError(f"`a` and `b` must have the same length, got {len(starts)} and {len(ends)}.")
        of_strings = bool(starts) and isinstance(starts[0], str)
        if space is None:
            space = "latents" if of_strings else "noise"
        if noise_level is None:
            noise_level = _NOISE_LEVEL if of_strings and space == "latents" else 0.0
        if space == "latents" and noise_level == 0 and num_inference_steps is not None:
            refuse_without("a `noise_level`", ["num_inference_steps"], "latents are mixed without the chain")
        self._refuse_copies(decode_arguments)
        latents = self.encode([*starts, *ends]).latents
        mix: Callable[..., torch.Tensor] = slerp if mode == "slerp" else torch.lerp
        first, last = latents.chunk(2)
        num_points = num_steps if spacing == "even" else _DENSER * (num_steps - 1) + 1
        weights = torch.linspace(0, 1, num_points, device=latents.device)
        steps = min(_PATH_STEPS, len(self.model.scheduler)) if num_inference_steps is None else num_inference_steps
        if space == "latents":
            points = torch.stack([mix(first, last, weight) for weight in weights])  # (steps, pairs, ...)
        else:
            noise = self.invert(latents, steps)
            first_noise, last_noise = noise.chunk(2)
            noises = torch.stack([mix(first_noise, last_noise, weight) for weight in weights])  # (steps, pairs, ...)
            # the steps that were inverted, whatever scheduler generates
            points = self._denoise(noises.flatten(0, 1), steps, scheduler=self._ddim()).view_as(noises)
            gap_a, gap_b = first - points[0], last - points[-1]
            points = points + torch.stack([torch.lerp(gap_a, gap_b, weight) for weight in weights])
        if noise_level:
            levels = noise_level * (4 * weights * (1 - weights)).sqrt()
            points = denoise_rows(self.model.denoise, self._ddim(), points, levels, steps, self.progress_bar)
        if invert_noise:
            decode_arguments |= self._inverted([*starts, *ends], latents, 256, decode_arguments)
            first_noise, last_noise = decode_arguments["decoder_noise"].chunk(2)
            noises = torch.stack([slerp(first_noise, last_noise, weight) for weight in weights], dim=1)
            decode_arguments["decoder_noise"] = noises.flatten(0, 1)
        elif self.decoder_scheduler is not None:
            noise = self._noise_of_paths(len(starts), num_points, decode_arguments)
            decode_arguments["decoder_noise"] = noise.repeat_interleave(num_points, dim=0)
        samples = self.decode(points.transpose(0, 1).flatten(0, 1), **decode_arguments)  # pair by pair
        paths = [samples[start : start + num_points] for start in range(0, len(samples), num_points)]
        if spacing == "even":
            return paths
        return [[path[place] for place in perceptual_steps(path, num_steps)] for path in paths]

    @without_gradient
    @checked
    def invert(
        self,
        data: Any,
        num_inference_steps: Count = _PATH_STEPS,
        num_refinements: StepsOrZero = 3,
        class_labels: int | Sequence[int] | IntTensor | None = None,
    ) -> torch.Tensor:
        """Find the noise that denoises to the data's latents: DDIM run backwards (arXiv 2010.02502, section 4.3).

        The backward step needs the denoiser's output at latents not known yet; it is found by fixed-point iteration
        (Pan et al. 2023, arXiv 2309.04907), started from the output at the known ones.

        Args:
            data: One datum, a list of them, or latents `(batch, num_latents, latent_dim)`.
            num_inference_steps: Steps of the chain, in [1, T].
            num_refinements: Iterations after the first evaluation; 0 is plain DDIM inversion.
            class_labels: The class of the data, or one for each; None if it is unknown.

        Returns:
            Noise, float32 `(batch, num_latents, latent_dim)`; `pipe(latents=noise, num_inference_steps=...,
            noise_scale=1)` with the same number of steps of an `EDDPMScheduler` comes back to the latents; with
            another scheduler as nearly as the two solve the same equation.
        """
        latents = self._latents_of(data)
        classes = self._prepare_classes(class_labels, 1.0, len(latents))
        scheduler = self._ddim()
        scheduler.set_timesteps(num_inference_steps, device=latents.device)
        for t in self.progress_bar(scheduler.timesteps.flip(0)):
            noisier = latents
            for _ in range(num_refinements + 1):
                noise_pred = self.model.denoise(noisier, t, **classes)
                noisier = scheduler.invert_step(noise_pred, t, latents, return_dict=False)[0]
            latents = noisier
        self.maybe_free_model_hooks()
        return latents
