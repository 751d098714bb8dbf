"""EDDPMPipeline: generate, reconstruct, represent, interpolate and edit data. Inference only."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DiffusionPipeline, SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from tqdm.auto import tqdm

from .argument_checks import check_count, check_number
from .control.directions import linear_direction, orthogonalize
from .control.guidance import Guidance, Steering, check_guidable, follow_ode
from .modeling_eddpm import EDDPMModel
from .control.optimization import optimize
from .outputs import EDDPMEncoding, EDDPMOptimization, EDDPMPipelineOutput, EDDPMScore
from .hub.storage import PipelineStorage
from .processing_eddpm import EDDPMProcessor
from .scheduling_eddpm import EDDPMScheduler
from .control.unsupervised_directions import find_directions

Generators = torch.Generator | list[torch.Generator] | None
_INVERSION_STEPS = 50  # of a decoder's chain: fewer lose detail that more samples would not need


class EDDPMPipeline(PipelineStorage, DiffusionPipeline):
    r"""One model that generates, reconstructs and represents data (arXiv 2402.19009).

    Wherever noise is drawn, the same `generator` seed gives the same result on the same machine; a list of
    generators, one for each sample, makes each sample independent of the batch it is in.

    Args:
        model: The trained model.
        scheduler: The latent chain's scheduler: an `EDDPMScheduler` or any diffusers scheduler made by
            `Other.from_config(pipe.scheduler.config)`.
        processor: The modality's processor.
        decoder_scheduler: The scheduler of a decoder that is a chain itself, over pixels for example: an
            `EDDPMScheduler` or any diffusers scheduler made by `Other.from_config(pipe.decoder_scheduler.config)`.
            By default the model's own; None for other decoders.
        default_num_inference_steps: Steps of the chain where a call names none; saved with the pipeline.
        default_noise_scale: Noise scale where a call names none, likewise.
        default_num_decoder_steps: Steps of a decoder that is a chain itself, where a call names none, likewise; what
            inverts that chain takes 50 (see `invert_decoder`).

    Raises:
        ValueError: If the processor does not fit the model, its decoder has no chain to schedule, or a default is
            outside its range.
    """

    model_cpu_offload_seq = "model"
    _optional_components = ["decoder_scheduler"]
    _callback_tensor_inputs = ["latents"]

    model: EDDPMModel
    scheduler: SchedulerMixin
    processor: EDDPMProcessor
    decoder_scheduler: SchedulerMixin | None

    def __init__(
        self,
        model: EDDPMModel,
        scheduler: SchedulerMixin,
        processor: EDDPMProcessor,
        decoder_scheduler: SchedulerMixin | None = None,
        default_num_inference_steps: int = 50,
        default_noise_scale: float = 1.0,
        default_num_decoder_steps: int = 50,
    ):
        super().__init__()
        self._loaded_from: str | None = None  # the folder whose card is this pipeline's
        processor.check_model(model.config)
        decoder_config = model.decoder.scheduler_config
        if decoder_config is not None and decoder_scheduler is None:
            decoder_scheduler = EDDPMScheduler(**decoder_config)
        if decoder_config is None and decoder_scheduler is not None:
            raise ValueError(
                f"`decoder_scheduler` must be None: {type(model.decoder).__name__} decodes without a chain."
            )
        check_count(default_num_inference_steps, "default_num_inference_steps")
        check_number(default_noise_scale, "default_noise_scale", above=0)
        check_count(default_num_decoder_steps, "default_num_decoder_steps")
        model.eval()
        self.register_to_config(
            default_num_inference_steps=default_num_inference_steps,
            default_noise_scale=default_noise_scale,
            default_num_decoder_steps=default_num_decoder_steps,
        )
        self.register_modules(
            model=model, scheduler=scheduler, processor=processor, decoder_scheduler=decoder_scheduler
        )

    def progress_bar(self, iterable: Any = None, total: int | None = None) -> Any:
        """Show the progress of what takes more than a second; `set_progress_bar_config(disable=True)` shows none.

        Args:
            iterable: What to go through.
            total: Its length, in the place of `iterable`.
        """
        settings = {"delay": 1.0, "leave": False} | getattr(self, "_progress_bar_config", {})
        return tqdm(iterable, total=total, **settings)

    def _batch_bar(self, starts: range) -> Iterable[int]:
        return self.progress_bar(starts) if len(starts) > 1 else starts  # within a single batch the chain has its own

    @property
    def num_timesteps(self) -> int:
        """Steps of the last chain that was run."""
        return self._num_timesteps

    @torch.no_grad()
    def __call__(
        self,
        num_samples: int = 1,
        num_inference_steps: int | None = None,
        eta: float = 0.0,
        noise_scale: float | None = None,
        class_labels: int | Sequence[int] | torch.Tensor | None = None,
        guidance_scale: float = 1.0,
        guidance: Guidance | Sequence[Guidance] | None = None,
        generator: Generators = None,
        latents: torch.Tensor | None = None,
        output_type: str = "data",
        callback_on_step_end: Callable[[Any, int, int, dict[str, Any]], dict[str, Any]] | None = None,
        callback_on_step_end_tensor_inputs: list[str] | None = None,
        return_dict: bool = True,
        **decode_arguments: Any,
    ) -> EDDPMPipelineOutput | tuple[Any, torch.Tensor]:
        """Generate.

        Args:
            num_samples: How many data, at least 1; taken from `latents` where these are given.
            num_inference_steps: Steps of the chain, in [1, T]; by default the checkpoint's own number
                (`default_num_inference_steps`).
            eta: Share in [0, 1] of ancestral noise: 0 is DDIM, 1 is DDPM sampling.
            noise_scale: Standard deviation of the noise the chain starts from, positive; by default the checkpoint's
                own (`default_noise_scale`). Below 1 samples are more typical and less varied, as with the temperature
                of Kingma & Dhariwal 2018 (arXiv 1807.03039).
            class_labels: Class of the samples in [0, num_classes), or one for each sample; None for any class.
            guidance_scale: Weight of the class, at least 0 (Ho & Salimans 2022, arXiv 2207.12598): 0 forgets it, 1 is
                the class's own distribution, more makes samples more typical of it and less varied.
            guidance: What steers the samples, one term or several, which add up (see `hf_eddpm.control.guidance`).
            generator: Source of the noise, or one for each sample.
            latents: Noise to start from, `(num_samples, num_latents, latent_dim)`; taken as it is when
                `noise_scale` is 1.
            output_type: "data", or "latent" to leave out the decoder; for images also "pil" (the same as "data"), "np"
                or "pt".
            callback_on_step_end: Called as `callback(pipe, step, timestep, tensors)` after each step; tensors in the
                dict it returns replace the pipeline's.
            callback_on_step_end_tensor_inputs: Names of the tensors given to it; only "latents".
            return_dict: Whether to return an `EDDPMPipelineOutput` rather than its tuple.
            **decode_arguments: Passed to the decoder, for text `generation_config` or `do_sample=True, top_p=0.9`, for
                pixel diffusion `num_decoder_steps` (by default the checkpoint's own) and `decoder_noise`.

        Raises:
            ValueError: If an argument is outside its range.
        """
        if output_type != "latent":
            self._check_output_type(output_type, ("latent",))
        names = ["latents"] if callback_on_step_end_tensor_inputs is None else callback_on_step_end_tensor_inputs
        if unknown := set(names) - set(self._callback_tensor_inputs):
            raise ValueError(
                f"`callback_on_step_end_tensor_inputs` must be among {self._callback_tensor_inputs}, "
                f"got {sorted(unknown)}."
            )
        if noise_scale is None:
            noise_scale = self.config.default_noise_scale
        if not 0 < noise_scale < float("inf"):
            raise ValueError(f"`noise_scale` must be positive and finite, got {noise_scale!r}.")
        noise = noise_scale * self._prepare_noise(num_samples, generator, latents)
        classes = self._prepare_classes(class_labels, guidance_scale, len(noise))
        steering = None if guidance is None else self._steering(guidance, len(noise))
        latents = self._denoise(
            noise, num_inference_steps, eta, generator, callback_on_step_end, names, steering, **classes
        )
        if self.decoder_scheduler is not None:
            decode_arguments.setdefault("generator", generator)
        if output_type == "latent":
            samples = latents
        else:
            samples = self._decode(latents, output_type=output_type, **decode_arguments)
        self.maybe_free_model_hooks()
        return EDDPMPipelineOutput(samples=samples, latents=latents) if return_dict else (samples, latents)

    @torch.no_grad()
    def encode(self, data: Any, batch_size: int = 256, refinement_steps: int = 0) -> EDDPMEncoding:
        """Represent data by the means of their posteriors.

        Args:
            data: One datum or a list of them.
            batch_size: How many are encoded at a time.
            refinement_steps: Gradient steps that move each datum's latents to where it is reconstructed better (see
                `EDDPMModel.refine`). Ten bring most of the gain, at ten times the cost of a training step's decoder.

        Raises:
            ValueError: If `refinement_steps` is negative.
        """
        if isinstance(refinement_steps, bool) or not isinstance(refinement_steps, int) or refinement_steps < 0:
            raise ValueError(f"`refinement_steps` must be a non-negative integer, got {refinement_steps!r}.")
        items = self.processor.as_list(data)
        parts = []
        for batch in self._batches(items, batch_size):
            inputs = {name: batch[name] for name in self.model.encoder.input_names if name in batch}
            means = self.model.encode(**inputs).mean.float()
            if refinement_steps:
                targets: dict[str, Any] = {name: batch[name] for name in self.model.decoder.target_names}
                means = self.model.refine(means, refinement_steps, **targets)
            parts.append(means)
        latents = torch.cat(parts)
        self.maybe_free_model_hooks()
        return EDDPMEncoding(latents=latents, embeddings=latents.flatten(1))

    @torch.no_grad()
    def predict(self, data: Any, batch_size: int = 256) -> torch.Tensor:
        """Predict the data's properties from the means of their posteriors.

        Args:
            data: One datum or a list of them.
            batch_size: How many are encoded at a time.

        Returns:
            float32 `(batch, num_properties)`, in the unit of the training data.

        Raises:
            ValueError: If the model has no property head.
        """
        if self.model.property_head is None:
            raise ValueError("`predict` needs a model with a property head (`num_properties` > 0), got one without.")
        latents = self.encode(data, batch_size).latents
        return self.model.property_head.predict(latents.to(self._execution_device))

    @torch.no_grad()
    def decode(
        self, latents: torch.Tensor, batch_size: int = 256, output_type: str = "data", **decode_arguments: Any
    ) -> Any:
        """Decode latents.

        Args:
            latents: `(batch, num_latents, latent_dim)`, finite.
            batch_size: How many are decoded at a time.
            output_type: "data" for a list of data; for images also "pil" (the same), "np" or "pt".
            **decode_arguments: Passed to the decoder, for text `generation_config` or single values of it
                (`do_sample`, `top_p`, `num_beams`, `max_new_tokens`, ...), greedy by default; for pixel diffusion
                `num_decoder_steps`, `generator`, `decoder_noise` (the noise it starts from) and `scheduler` (in place
                of `decoder_scheduler`; None for the decoder's own DDIM, which `invert_decoder` is the inverse of).

        Raises:
            ValueError: If the latents have another shape or are not finite.
        """
        samples = self._decode(latents, batch_size, output_type, **decode_arguments)
        self.maybe_free_model_hooks()
        return samples

    def reconstruct(
        self,
        data: Any,
        batch_size: int = 256,
        refinement_steps: int = 0,
        num_reconstructions: int = 1,
        invert_noise: bool = False,
        **decode_arguments: Any,
    ) -> Any:
        """Encode data and decode them again.

        Args:
            data: One datum or a list of them.
            batch_size: How many are encoded and decoded at a time.
            refinement_steps: As for `encode`.
            num_reconstructions: How many times each datum's latents are decoded, for decoders that draw; the results
                stand datum by datum.
            invert_noise: For decoders that are chains: whether to decode from the noise that the chain takes the
                datum itself to (see `invert_decoder`), which brings back nearly everything, rather than from a draw.
            **decode_arguments: Passed to the decoder.

        Raises:
            ValueError: If an argument is outside its range, or the decoder has no noise to invert.
        """
        _check_positive(num_reconstructions, "num_reconstructions")
        latents = self.encode(data, batch_size, refinement_steps).latents
        if invert_noise:
            if num_reconstructions > 1:
                raise ValueError("`num_reconstructions` must be 1 with `invert_noise`: all would be the same.")
            decode_arguments |= self._inverted(data, latents, batch_size, decode_arguments)
        latents = latents.repeat_interleave(num_reconstructions, dim=0)
        return self.decode(latents, batch_size, **decode_arguments)

    @torch.no_grad()
    def invert_decoder(
        self,
        data: Any,
        latents: torch.Tensor | None = None,
        num_decoder_steps: int = _INVERSION_STEPS,
        num_refinements: int = 2,
        batch_size: int = 256,
    ) -> torch.Tensor:
        """Find the noise from which a decoder that is a chain itself comes to the data: what the latents leave out.

        Args:
            data: One datum or a list of them.
            latents: What the decoder is given, `(batch, num_latents, latent_dim)`; by default the data's own.
            num_decoder_steps: Steps of the chain, in [1, T].
            num_refinements: Fixed-point iterations of each step after its first evaluation.
            batch_size: How many are inverted at a time.

        Returns:
            Noise, float32, for images `(batch, channels, height, width)`; `pipe.decode(latents, decoder_noise=noise,
            num_decoder_steps=..., scheduler=None)` with the same number of steps comes back to the data.

        Raises:
            ValueError: If the decoder is no chain, or an argument is outside its range.
        """
        if self.decoder_scheduler is None:
            raise ValueError(
                f"`invert_noise` needs a decoder that is a chain itself, got {type(self.model.decoder).__name__}."
            )
        items = self.processor.as_list(data)
        latents = self.encode(items, batch_size).latents if latents is None else latents
        self.model.check_latents(latents)
        if len(latents) != len(items):
            raise ValueError(f"`latents` must be those of {len(items)} data, got {len(latents)}.")
        parts = []
        for number, batch in enumerate(self._batches(items, batch_size)):
            targets: dict[str, Any] = {name: batch[name] for name in self.model.decoder.target_names}
            chunk = latents[number * batch_size : (number + 1) * batch_size].to(self._execution_device)
            noise = self.model.decoder.invert(
                chunk,
                num_decoder_steps=num_decoder_steps,
                num_refinements=num_refinements,
                progress_bar=self.progress_bar if len(items) <= batch_size else None,
                **targets,
            )
            parts.append(noise)
        self.maybe_free_model_hooks()
        return torch.cat(parts)

    def interpolate(
        self,
        a: Any,
        b: Any,
        num_steps: int = 7,
        mode: Literal["slerp", "lerp"] = "slerp",
        space: Literal["noise", "latents"] = "noise",
        num_inference_steps: int = 100,
        invert_noise: bool = False,
        **decode_arguments: Any,
    ) -> list[Any]:
        """Walk from each datum in `a` to its counterpart in `b`. The ends are the reconstructions of the two.

        In "noise" space both are inverted to the noise they come from, the noise is mixed and denoised again, so that
        every point of the path passes through the chain. What inversion loses at the ends is added back along the
        path, which makes the ends exact.

        A decoder that is a chain itself starts, on all points of a path, from the same noise, so that only the latents
        change; with `invert_noise` from a mixture (slerp) of the noises that it takes the two ends to.

        Args:
            a: One datum or a list of them.
            b: As many.
            num_steps: Points of each path, both ends counted, at least 2.
            mode: "slerp" (along the arc; the norm is mixed linearly) or "lerp" (straight).
            space: "noise" or "latents".
            num_inference_steps: Steps of inversion and denoising, in [1, T].
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
        if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 2:
            raise ValueError(f"`num_steps` must be an integer of at least 2, got {num_steps!r}.")
        if mode not in ("slerp", "lerp"):
            raise ValueError(f"`mode` must be 'slerp' or 'lerp', got {mode!r}.")
        if space not in ("noise", "latents"):
            raise ValueError(f"`space` must be 'noise' or 'latents', got {space!r}.")
        latents = self.encode([*starts, *ends]).latents
        mix: Callable[..., torch.Tensor] = slerp if mode == "slerp" else torch.lerp
        first, last = latents.chunk(2)
        weights = torch.linspace(0, 1, num_steps, device=latents.device)
        if space == "latents":
            points = torch.stack([mix(first, last, weight) for weight in weights])
        else:
            noise = self.invert(latents, num_inference_steps)
            first_noise, last_noise = noise.chunk(2)
            noises = torch.stack([mix(first_noise, last_noise, weight) for weight in weights])  # (steps, pairs, ...)
            # the steps that were inverted, whatever scheduler generates
            points = self._denoise(noises.flatten(0, 1), num_inference_steps, scheduler=self._ddim()).view_as(noises)
            gap_a, gap_b = first - points[0], last - points[-1]
            points = points + torch.stack([torch.lerp(gap_a, gap_b, weight) for weight in weights])
        if invert_noise:
            decode_arguments |= self._inverted([*starts, *ends], latents, 256, decode_arguments)
            first_noise, last_noise = decode_arguments["decoder_noise"].chunk(2)
            noises = torch.stack([slerp(first_noise, last_noise, weight) for weight in weights], dim=1)
            decode_arguments["decoder_noise"] = noises.flatten(0, 1)
        elif self.decoder_scheduler is not None:
            noise = self._noise_of_paths(len(starts), decode_arguments)
            decode_arguments["decoder_noise"] = noise.repeat_interleave(num_steps, dim=0)
        samples = self.decode(points.transpose(0, 1).flatten(0, 1), **decode_arguments)  # pair by pair
        return [samples[start : start + num_steps] for start in range(0, len(samples), num_steps)]

    @torch.no_grad()
    def invert(
        self,
        data: Any,
        num_inference_steps: int = 100,
        num_refinements: int = 3,
        class_labels: int | Sequence[int] | torch.Tensor | None = None,
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
        if isinstance(num_refinements, bool) or not isinstance(num_refinements, int) or num_refinements < 0:
            raise ValueError(f"`num_refinements` must be a non-negative integer, got {num_refinements!r}.")
        latents = data if isinstance(data, torch.Tensor) else self.encode(data).latents
        self.model.check_latents(latents)
        latents = latents.to(self._execution_device, torch.float32)
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

    def direction(
        self,
        positives: Any,
        negatives: Any,
        method: Literal["mean", "linear"] = "mean",
        orthogonal_to: torch.Tensor | Sequence[torch.Tensor] = (),
    ) -> torch.Tensor:
        """Return a latent direction from `negatives` to `positives`.

        Args:
            positives: Data that have an attribute.
            negatives: Data that lack it; the two lists may differ in length.
            method: "mean" is the difference of the two means. "linear" is the normal of a linear classifier between
                the two (see `linear_direction`), of length 1.
            orthogonal_to: Directions, each `(num_latents, latent_dim)`, that the result has no part of: those of
                attributes that shall stay. What is left keeps its length with "mean" and gets length 1 with "linear".

        Returns:
            float32 `(num_latents, latent_dim)`.

        Raises:
            ValueError: If `method` is unknown, or nothing is left beside `orthogonal_to`.
        """
        if method not in ("mean", "linear"):
            raise ValueError(f"`method` must be 'mean' or 'linear', got {method!r}.")
        positives = self.processor.as_list(positives, "positives")
        negatives = self.processor.as_list(negatives, "negatives")
        with_it, without_it = self.encode(positives).latents, self.encode(negatives).latents
        others = [orthogonal_to] if isinstance(orthogonal_to, torch.Tensor) else list(orthogonal_to)
        for other in others:
            self.model.check_latents(other[None], "orthogonal_to[None]")
        if method == "mean":
            return orthogonalize(with_it.mean(0) - without_it.mean(0), others)
        direction = orthogonalize(linear_direction(with_it, without_it), others)
        return direction / direction.norm()

    def directions(
        self,
        data: Any,
        num_directions: int = 8,
        method: Literal["pca", "jacobian"] = "pca",
        batch_size: int = 64,
    ) -> torch.Tensor:
        """Find directions in the latents without labels.

        Args:
            data: At least two data.
            num_directions: How many, at most `num_latents * latent_dim`.
            method: "pca" (where the latents vary most) or "jacobian" (where the decoder's likelihood of the data
                changes most: leading eigenvectors of its Fisher information).
            batch_size: How many data go through the decoder at a time.

        Returns:
            float32 `(num_directions, num_latents, latent_dim)`, orthogonal, most important first, each as long as the
            standard deviation of the latents along it.

        Raises:
            ValueError: If an argument is outside its range.
        """
        directions = find_directions(self, data, num_directions, method, batch_size)
        self.maybe_free_model_hooks()
        return directions

    def traverse(
        self,
        data: Any,
        directions: torch.Tensor,
        scales: Sequence[float] = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0),
        **decode_arguments: Any,
    ) -> list[list[list[Any]]]:
        """Walk from data along directions and decode on the way.

        Args:
            data: One datum or a list of them.
            directions: `(num_directions, num_latents, latent_dim)`, for example from `directions()`, or one of them.
            scales: Multiples of the direction at which is decoded, at least one.
            **decode_arguments: Passed to the decoder.

        Returns:
            For each datum and each direction the data at the scales.

        Raises:
            ValueError: If there are no scales, or the directions have another shape or are not finite.
        """
        several = directions[None] if isinstance(directions, torch.Tensor) and directions.ndim == 2 else directions
        self.model.check_latents(several, "directions")
        if not len(scales):
            raise ValueError("`scales` must hold at least one number, got none.")
        latents = self.encode(data).latents
        steps = torch.tensor(scales, dtype=torch.float32, device=latents.device)
        moves = several.to(latents)[:, None] * steps[:, None, None]  # (directions, scales, num_latents, latent_dim)
        points = latents[:, None, None] + moves
        if self.decoder_scheduler is not None:  # the same noise wherever a datum goes: only the latents change
            noise = decode_arguments.get("decoder_noise")
            if noise is None:
                generator = decode_arguments.get("generator")
                noise = self.model.decoder.draw_noise(len(latents), generator, self._execution_device)
            decode_arguments["decoder_noise"] = noise.repeat_interleave(len(several) * len(steps), dim=0)
        samples = iter(self.decode(points.flatten(0, 2), **decode_arguments))
        return [[[next(samples) for _ in scales] for _ in several] for _ in latents]

    def aggregate(self, data: Any, refinement_steps: int = 0) -> torch.Tensor:
        """Join several data into the latents of one, whose decoding says what they have in common.

        It is the mean of their latents, made as long as they are on average: means of many are short, and the decoder
        takes short latents for bland data (Iso et al. 2021, arXiv 2104.01371, on summaries of reviews).

        Args:
            data: The data, at least one.
            refinement_steps: As for `encode`.

        Returns:
            float32 `(1, num_latents, latent_dim)`, for `decode`.
        """
        latents = self.encode(data, refinement_steps=refinement_steps).latents
        mean = latents.mean(0, keepdim=True)
        return mean * latents.flatten(1).norm(dim=1).mean() / mean.norm().clamp(min=1e-12)

    def similarity(self, a: Any, b: Any, batch_size: int = 256) -> torch.Tensor:
        """Measure how much of the content of data others share: the cosine of their embeddings.

        Args:
            a: One datum or a list of them, for example originals.
            b: As many, for example what `edit` made of them.
            batch_size: How many are encoded at a time.

        Returns:
            float32 `(batch,)` in [-1, 1]; 1 for equal data.

        Raises:
            ValueError: If the lists differ in length.
        """
        firsts, seconds = self.processor.as_list(a, "a"), self.processor.as_list(b, "b")
        if len(firsts) != len(seconds):
            raise ValueError(f"`a` and `b` must have the same length, got {len(firsts)} and {len(seconds)}.")
        one, other = (self.encode(items, batch_size).embeddings for items in (firsts, seconds))
        return torch.nn.functional.cosine_similarity(one, other)

    @torch.no_grad()
    def edit(
        self,
        data: Any,
        direction: torch.Tensor | None = None,
        scale: float = 1.0,
        refinement_steps: int = 0,
        strength: float | None = None,
        guidance: Guidance | Sequence[Guidance] | None = None,
        class_labels: int | Sequence[int] | torch.Tensor | None = None,
        guidance_scale: float = 1.0,
        num_inference_steps: int | None = None,
        eta: float = 0.0,
        generator: Generators = None,
        invert_noise: bool = False,
        **decode_arguments: Any,
    ) -> Any:
        """Change data's latents and decode: move them along a direction, noise and denoise them, or both in turn.

        With `strength` the latents are noised part of the way and denoised again, under guidance or of another class,
        as SDEdit does with images (Meng et al. 2022, arXiv 2108.01073). `similarity` says what is left of the content.

        Args:
            data: One datum or a list of them.
            direction: `(num_latents, latent_dim)`, for example from `direction()`; None to move along none.
            scale: How far along it; negative for the other way.
            refinement_steps: As for `encode`; more of the data's content is kept.
            strength: Share of the chain's T timesteps, in (0, 1]; 1 forgets the data, little keeps nearly all. None
                for no noise.
            guidance: What steers the denoising, as for a call of the pipeline.
            class_labels: Class that the denoiser is told, likewise.
            guidance_scale: Its weight, likewise.
            num_inference_steps: Steps of the whole chain, by default the checkpoint's own number; of them those are
                taken that lie in that share.
            eta: As for a call of the pipeline.
            generator: Source of the noise, or one for each datum.
            invert_noise: As for `reconstruct`; what the latents do not say of the data is kept.
            **decode_arguments: Passed to the decoder.

        Raises:
            ValueError: If there is neither a direction nor a strength, or an argument is outside its range.
        """
        if direction is None and strength is None:
            raise ValueError("`edit` needs a `direction`, a `strength`, or both.")
        if direction is not None:
            if not isinstance(direction, torch.Tensor):
                raise TypeError(f"`direction` must be a tensor, got {type(direction).__name__}.")
            self.model.check_latents(direction[None], "direction[None]")
        if strength is None and not (guidance is None and class_labels is None):
            raise ValueError("`guidance` and `class_labels` need a `strength`: they steer the denoising.")
        if strength is not None:
            check_number(strength, "strength", above=0, at_most=1)
        latents = self.encode(data, refinement_steps=refinement_steps).latents
        if invert_noise:
            decode_arguments |= self._inverted(data, latents, 256, decode_arguments)
        if self.decoder_scheduler is not None:
            decode_arguments.setdefault("generator", generator)
        if direction is not None:
            latents = latents + scale * direction.to(latents)
        if strength is not None:
            noise = self._prepare_noise(len(latents), generator, None)
            classes = self._prepare_classes(class_labels, guidance_scale, len(latents))
            steering = None if guidance is None else self._steering(guidance, len(latents))
            latents = self._denoise(
                noise,
                num_inference_steps,
                eta,
                generator,
                steering=steering,
                start=latents.to(self._execution_device),
                strength=strength,
                **classes,
            )
        return self.decode(latents, **decode_arguments)

    @torch.no_grad()
    def steer(
        self,
        data: Any,
        guidance: Guidance | Sequence[Guidance],
        num_steps: int = 20,
        solver: Literal["euler", "midpoint", "heun2", "heun3", "rk4"] = "midpoint",
        output_type: str = "data",
        **decode_arguments: Any,
    ) -> Any:
        """Move latents to where guidance wants them by an ODE, without the chain (see `guidance.follow_ode`).

        Args:
            data: One datum, a list of them, or latents `(batch, num_latents, latent_dim)`, for example samples'.
            guidance: What steers them, one term or several, which add up.
            num_steps: Steps of the solver, at least 1.
            solver: Solver of torchdiffeq, with fixed steps.
            output_type: As for a call of the pipeline.
            **decode_arguments: Passed to the decoder.

        Returns:
            The list of data, or latents.

        Raises:
            ValueError: If an argument is outside its range, or the latents grow beyond all bounds.
        """
        self._check_output_type(output_type, ("latent",))
        check_count(num_steps, "num_steps")
        latents = data if isinstance(data, torch.Tensor) else self.encode(data).latents
        self.model.check_latents(latents)
        latents = latents.to(self._execution_device, torch.float32)
        latents = follow_ode(Steering(guidance, self, len(latents)).total, latents, num_steps, solver=solver)[-1]
        if not bool(torch.isfinite(latents).all()):
            raise ValueError("The latents grew beyond all bounds: choose a smaller `scale` or more `num_steps`.")
        self.maybe_free_model_hooks()
        if output_type == "latent":
            return latents
        return self.decode(latents, output_type=output_type, **decode_arguments)

    @torch.no_grad()
    def score(
        self,
        data: Any,
        num_timesteps: int = 32,
        generator: torch.Generator | None = None,
        batch_size: int = 256,
        class_labels: int | Sequence[int] | torch.Tensor | None = None,
    ) -> EDDPMScore:
        """Estimate the bound on each datum's negative log-likelihood and its terms.

        Args:
            data: One datum or a list of them.
            num_timesteps: Timesteps drawn for each datum to estimate the diffusion term.
            generator: Source of the draws.
            batch_size: How many are scored at a time.
            class_labels: The class of the data, or one for each: the bound is then on -log p(datum | class).
        """
        items = self.processor.as_list(data)
        _check_positive(batch_size, "batch_size")
        labels = self._prepare_classes(class_labels, 1.0, len(items)).get("class_labels")
        starts = range(0, len(items), batch_size)
        parts = [
            self.model.bound(
                num_timesteps=num_timesteps,
                generator=generator,
                class_labels=None if labels is None else labels[start : start + batch_size],
                **batch,
            )
            for start, batch in zip(starts, self._batches(items, batch_size), strict=True)
        ]
        terms = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        num_units = terms.pop("num_units")
        self.maybe_free_model_hooks()
        bits = terms["bound"] / num_units / torch.log(torch.tensor(2.0))
        return EDDPMScore(**terms, bits_per_unit=bits)

    def optimize(
        self,
        data: Any,
        method: Literal["gradient", "guided", "mcmc", "hill_climb", "ode"] = "gradient",
        target: float | Sequence[float] | Literal["higher", "lower"] = "higher",
        property_index: int | None = None,
        num_steps: int = 50,
        max_mutations: int | None = None,
        frozen_positions: Sequence[int] | None = None,
        generator: Generators = None,
        **method_arguments: Any,
    ) -> EDDPMOptimization:
        """Change data so that the model predicts a better property, and return the best it finds.

        Every method steps in the latents, decodes, encodes the data found anew and judges them by the property head:
        the result is never worse than the start by the model's own prediction. That prediction is no measurement;
        search makes the most of its errors.

        Args:
            data: One datum or a list of them.
            method: "gradient" (ascent in the latents), "guided" (diffusion), "mcmc" (Metropolis), "hill_climb" (best
                of some neighbours) or "ode" (LatentOps); described in `hf_eddpm.control.optimization` by functions of these
                names.
            target: "higher", "lower", or a value in the data's unit; a list has one for each datum.
            property_index: Which property, in [0, num_properties); may be left out if there is one.
            num_steps: Steps of the method.
            max_mutations: Most edits (Levenshtein) that a sequence may be away from its start; `None` for no limit.
                Of a sequence that is as long as its start but too far away, the mutations the decoder is surest of
                are kept; one of another length is rejected. For data that are strings.
            frozen_positions: Positions in the start that keep their residues, and with them the sequence its length.
                For data that are strings.
            generator: Source of noise, or one for each datum.
            **method_arguments: For "gradient" `step_size`, `project`, `project_every`, `project_steps`; for "guided"
                `strength`, `scale`; for "mcmc" `step_size`, `temperature`; for "hill_climb" `step_size`,
                `num_neighbors`, `candidates`; for "ode" `scale`, `solver`.

        Raises:
            TypeError: If the method does not take an argument, or an argument has the wrong type.
            ValueError: If the model has no property head, or an argument is outside its range.
        """
        return optimize(
            self,
            data,
            method=method,
            target=target,
            property_index=property_index,
            num_steps=num_steps,
            max_mutations=max_mutations,
            frozen_positions=frozen_positions,
            generator=generator,
            **method_arguments,
        )

    def _batches(self, items: list[Any], batch_size: int) -> Iterator[dict[str, torch.Tensor]]:
        _check_positive(batch_size, "batch_size")
        for start in self._batch_bar(range(0, len(items), batch_size)):
            batch = self.processor(items[start : start + batch_size])
            yield {name: tensor.to(self._execution_device) for name, tensor in batch.items()}

    def _decode(
        self, latents: torch.Tensor, batch_size: int = 256, output_type: str = "data", **decode_arguments: Any
    ) -> Any:
        self.model.check_latents(latents)
        self._check_output_type(output_type)
        arguments = {**self.processor.decode_arguments, **decode_arguments}
        if decode_arguments.get("generation_config") is not None:  # the user's lengths and modes, not our defaults
            arguments = decode_arguments
        _check_positive(batch_size, "batch_size")
        if self.decoder_scheduler is not None:
            if arguments.get("decoder_noise") is None:  # at once: the same whatever the batches
                _check_generators(arguments.get("generator"), len(latents))
                arguments["decoder_noise"] = self.model.decoder.draw_noise(
                    len(latents), arguments.get("generator"), self._execution_device
                )
            own = {
                "scheduler": self.decoder_scheduler,
                "num_decoder_steps": self.config.default_num_decoder_steps,
            }
            arguments = {**own, **arguments}
            if len(latents) <= batch_size:  # otherwise the batches' own
                arguments["progress_bar"] = self.progress_bar
        as_type = {} if output_type == "data" else {"output_type": output_type}
        parts: list[Any] = []
        for start in self._batch_bar(range(0, len(latents), batch_size)):
            rows = slice(start, start + batch_size)
            chunk = latents[rows].to(self._execution_device)
            outputs = self.model.decode(chunk, **self._arguments_of(rows, len(latents), arguments))
            parts.append(self.processor.postprocess(outputs, **as_type))
        if isinstance(parts[0], list):
            return [sample for part in parts for sample in part]
        return torch.cat(parts) if isinstance(parts[0], torch.Tensor) else np.concatenate(parts)

    def _check_output_type(self, output_type: str, others: tuple[str, ...] = ()) -> None:
        allowed = (*self.processor.output_types, *others)
        if output_type not in allowed:
            raise ValueError(f"`output_type` must be one of {list(allowed)}, got {output_type!r}.")

    def _inverted(
        self, data: Any, latents: torch.Tensor, batch_size: int, decode_arguments: dict[str, Any]
    ) -> dict[str, Any]:
        """Return what decodes the data from `invert_decoder`'s noise, of as many steps, by the chain's own step."""
        if decode_arguments.get("decoder_noise") is not None:
            raise ValueError("Only one of `invert_noise` and `decoder_noise` may be given.")
        steps = decode_arguments.get("num_decoder_steps", _INVERSION_STEPS)
        noise = self.invert_decoder(data, latents, steps, batch_size=batch_size)
        return {"decoder_noise": noise, "num_decoder_steps": steps, "scheduler": None}

    def _noise_of_paths(self, pairs: int, decode_arguments: dict[str, Any]) -> torch.Tensor:
        """Return the decoder's noise for each pair, given or drawn."""
        noise = decode_arguments.get("decoder_noise")
        if noise is None:
            return self.model.decoder.draw_noise(pairs, decode_arguments.get("generator"), self._execution_device)
        if len(noise) != pairs:
            raise ValueError(f"`decoder_noise` must have an entry for each of {pairs} pairs, got {len(noise)}.")
        return noise

    def _arguments_of(self, rows: slice, total: int, arguments: dict[str, Any]) -> dict[str, Any]:
        """Return the decoder's arguments for some rows: of those with an entry for each datum, these rows' entries."""
        arguments = dict(arguments)
        for name in self.model.decoder.per_datum_arguments:
            value = arguments.get(name)
            if isinstance(value, (list, tuple, torch.Tensor)):
                if len(value) != total:
                    raise ValueError(f"`{name}` must have an entry for each of {total} data, got {len(value)}.")
                arguments[name] = value[rows]
        return arguments

    def _prepare_noise(self, num_samples: int, generator: Generators, latents: torch.Tensor | None) -> torch.Tensor:
        if latents is not None:
            self.model.check_latents(latents)
            num_samples = len(latents)
        _check_positive(num_samples, "num_samples")
        _check_generators(generator, num_samples)
        if latents is not None:
            return latents.to(self._execution_device, torch.float32)
        shape = (num_samples, self.model.config.num_latents, self.model.config.latent_dim)
        return randn_tensor(shape, generator=generator, device=self._execution_device, dtype=torch.float32)

    def _prepare_classes(
        self, class_labels: int | Sequence[int] | torch.Tensor | None, guidance_scale: float, batch: int
    ) -> dict[str, Any]:
        """Return the arguments of `EDDPMModel.denoise` for a batch of those classes."""
        if isinstance(guidance_scale, bool) or not 0 <= guidance_scale < float("inf"):
            raise ValueError(f"`guidance_scale` must be at least 0 and finite, got {guidance_scale!r}.")
        if class_labels is None:
            if guidance_scale != 1:
                raise ValueError(f"`guidance_scale` needs `class_labels` beside it, got {guidance_scale} alone.")
            return {}
        labels = torch.as_tensor(class_labels)
        labels = labels.expand(batch) if labels.ndim == 0 else labels
        self.model.check_class_labels(labels, batch)
        return {"class_labels": labels.to(self._execution_device), "guidance_scale": guidance_scale}

    def _steering(self, guidance: Guidance | Sequence[Guidance], batch: int) -> Steering:
        check_guidable(self.scheduler, self.model.scheduler)
        return Steering(guidance, self, batch)

    def _ddim(self) -> EDDPMScheduler:
        """Return the scheduler whose steps can be inverted, whatever scheduler generates."""
        return EDDPMScheduler(**self.model.config.scheduler_config)

    def _denoise(
        self,
        noise: torch.Tensor,
        num_inference_steps: int | None,
        eta: float = 0.0,
        generator: Generators = None,
        callback: Callable[[Any, int, int, dict[str, Any]], dict[str, Any]] | None = None,
        callback_names: list[str] | None = None,
        steering: Steering | None = None,
        start: torch.Tensor | None = None,
        strength: float = 1.0,
        scheduler: Any = None,
        **classes: Any,
    ) -> torch.Tensor:
        """Run the chain from noise to latents, both float32 `(batch, num_latents, latent_dim)`.

        With a `strength` below 1 it starts at `start`, noised, and runs over that share of the timesteps.
        """
        scheduler = self.scheduler if scheduler is None else scheduler
        num_train_timesteps = scheduler.config.num_train_timesteps
        n = self.config.default_num_inference_steps if num_inference_steps is None else num_inference_steps
        if isinstance(n, bool) or not isinstance(n, int) or not 1 <= n <= num_train_timesteps:
            raise ValueError(f"`num_inference_steps` must be an integer in [1, {num_train_timesteps}], got {n!r}.")
        scheduler.set_timesteps(n, device=noise.device)
        timesteps = scheduler.timesteps
        latents = noise * scheduler.init_noise_sigma
        first = 0
        if start is not None and strength < 1:
            # by the timestep, as schedulers space their steps differently
            starts = timesteps[:: scheduler.order].double()
            first = int((starts + 1 - strength * num_train_timesteps).abs().argmin()) * scheduler.order
            timesteps = timesteps[first:]
        if hasattr(scheduler, "set_begin_index"):  # a solver's first two steps may share a timestep: it cannot tell
            scheduler.set_begin_index(first)
        if start is not None and strength < 1:
            latents = scheduler.add_noise(start, noise, timesteps[:1])
        self._num_timesteps = len(timesteps)
        step_arguments = self._step_arguments(scheduler, eta, generator)

        def denoise(noisy_latents: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return self.model.denoise(noisy_latents, t, **classes).float()

        with self.progress_bar(total=len(timesteps)) as progress_bar:
            for step, t in enumerate(timesteps):
                model_input = scheduler.scale_model_input(latents, t)
                if steering is None:
                    noise_pred = denoise(model_input, t)
                else:
                    noise_pred = steering.predict(denoise, self.model.scheduler, model_input, t)
                latents = scheduler.step(noise_pred, t, latents, **step_arguments).prev_sample
                if callback is not None:
                    tensors = {"latents": latents} if "latents" in (callback_names or []) else {}
                    latents = callback(self, step, int(t), tensors).get("latents", latents)
                progress_bar.update()
        return latents

    def _step_arguments(self, scheduler: Any, eta: float, generator: Generators) -> dict[str, Any]:
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


def _check_positive(value: Any, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")


def _check_generators(generator: Generators, num_samples: int) -> None:
    generators = generator if isinstance(generator, list) else [] if generator is None else [generator]
    if not all(isinstance(each, torch.Generator) for each in generators):
        raise TypeError("`generator` must be a torch.Generator or a list of them, one for each sample.")
    if isinstance(generator, list) and len(generator) != num_samples:
        raise ValueError(
            f"`generator` must hold one generator for each of {num_samples} samples, got {len(generator)}."
        )


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
