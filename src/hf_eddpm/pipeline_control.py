"""What the pipeline does to data: predict, move along directions, edit, steer and optimise."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch

from .argument_types import (
    Count,
    CountOrZero,
    FloatTensor,
    Generators,
    GuidanceScale,
    IntTensor,
    PositiveShare,
    Share,
    Steps,
    StepsOrZero,
    checked,
    refuse_without,
)
from .control.directions import (
    fisher_information,
    independent_directions,
    linear_direction,
    orthogonalize,
    principal_directions,
)
from .control.guidance import Guidance, LatentSpace, Steering
from .control.guided_step import Solver, follow_ode
from .control.optimization import optimize
from .outputs import EDDPMOptimization
from .processing_eddpm import EDDPMProcessor
from .sampling import without_gradient


class ControlMixin:
    """The methods of `EDDPMPipeline` that change data or say what would change them.

    A plain class beside it: diffusers takes the only pipeline class in a module for the one to load.
    """

    model: Any
    processor: EDDPMProcessor
    decoder_scheduler: Any
    encode: Callable[..., Any]
    decode: Callable[..., Any]
    progress_bar: Callable[..., Any]
    maybe_free_model_hooks: Callable[[], None]
    _execution_device: torch.device
    _space: Callable[[], LatentSpace]
    _steering: Callable[..., Steering]
    _batches: Callable[..., Any]
    _denoise: Callable[..., torch.Tensor]
    _latents_of: Callable[[Any], torch.Tensor]
    _draw_noise_once: Callable[..., torch.Tensor]
    _inverted: Callable[..., dict[str, Any]]
    _prepare_noise: Callable[..., torch.Tensor]
    _prepare_classes: Callable[..., dict[str, Any]]
    _check_output_type: Callable[..., None]
    _latents_of_sides: Callable[..., tuple[torch.Tensor, torch.Tensor]]
    _give_generator: Callable[..., None]
    _refuse_copies: Callable[..., None]

    @without_gradient
    @checked
    def predict(
        self, data: Any, batch_size: Count = 256, return_std: bool = False
    ) -> torch.Tensor | tuple[torch.Tensor, torch.Tensor]:
        """Predict the data's properties from the means of their posteriors.

        Args:
            data: One datum or a list of them.
            batch_size: How many are encoded at a time.
            return_std: Whether to return how sure the prediction is, too. For models with an ensemble of heads (see
                `fit_property`).

        Returns:
            float32 `(batch, num_properties)`, in the unit of the training data; with `return_std` a pair of them, the
            predictions and the standard deviations of measurements around them.

        Raises:
            ValueError: If the model has no property head, or a single one with `return_std`.
        """
        head = self.model.property_head
        if head is None:
            raise ValueError("`predict` needs a model with a property head (`num_properties` > 0), got one without.")
        if return_std:
            head.check_members()
        latents = self.encode(data, batch_size).latents.to(self._execution_device)
        return (head.predict(latents), head.predict_std(latents)) if return_std else head.predict(latents)

    @without_gradient
    @checked
    def direction(
        self,
        positives: Any,
        negatives: Any,
        method: Literal["mean", "linear"] = "mean",
        orthogonal_to: FloatTensor | Sequence[FloatTensor] = (),
    ) -> torch.Tensor:
        """Return a latent direction from `negatives` to `positives`.

        Args:
            positives: Data that have an attribute.
            negatives: Data that lack it; the two lists may differ in length.
            method: "mean" is the difference of the two means. "linear" is the normal of a linear classifier between
                the two (see `linear_direction`), of length 1.
            orthogonal_to: Directions, each `(num_latents, latent_dim)`, that the result has no part of: those of
                attributes that must stay. The rest keeps its length with "mean" and gets length 1 with "linear".

        Returns:
            float32 `(num_latents, latent_dim)`.

        Raises:
            ValueError: If `method` is unknown, or nothing is left beside `orthogonal_to`.
        """
        with_it, without_it = self._latents_of_sides(positives, negatives)
        others = [orthogonal_to] if isinstance(orthogonal_to, torch.Tensor) else list(orthogonal_to)
        for other in others:
            self.model.check_latents(other[None], "orthogonal_to[None]")
        if method == "mean":
            return orthogonalize(with_it.mean(0) - without_it.mean(0), others)
        direction = orthogonalize(linear_direction(with_it, without_it), others)
        return direction / direction.norm()

    @without_gradient
    @checked
    def directions(
        self,
        data: Any,
        num_directions: Count = 8,
        method: Literal["pca", "ica", "jacobian"] = "pca",
        batch_size: Count = 64,
    ) -> torch.Tensor:
        """Find directions in the latents without labels.

        Args:
            data: At least two data.
            num_directions: How many, at most `num_latents * latent_dim`.
            method: "pca" (where the latents vary most), "ica" (where they vary independently of one another: nearest
                to single factors of the data; wants many data) or "jacobian" (where the decoder's likelihood of the
                data changes most: leading eigenvectors of its Fisher information).
            batch_size: How many data go through the decoder at a time.

        Returns:
            float32 `(num_directions, num_latents, latent_dim)`, most important first, each as long as the standard
            deviation of the latents along it; but for "ica" orthogonal.

        Raises:
            ImportError: If "ica" is asked for and scikit-learn is not installed.
            ValueError: If an argument is outside its range.
        """
        items = self.processor.as_list(data)
        latents = self.encode(items, batch_size).latents
        if method == "ica":
            return independent_directions(latents, num_directions)
        sensitivity = None
        if method == "jacobian":
            sensitivity = fisher_information(self.model, self._batches(items, batch_size))
        directions = principal_directions(latents, num_directions, sensitivity)
        self.maybe_free_model_hooks()
        return directions

    @without_gradient
    @checked
    def traverse(
        self,
        data: Any,
        directions: FloatTensor,
        scales: Sequence[float] = (-3.0, -2.0, -1.0, 0.0, 1.0, 2.0, 3.0),
        invert_noise: bool = False,
        **decode_arguments: Any,
    ) -> list[list[list[Any]]]:
        """Walk from data along directions and decode on the way.

        Args:
            data: One datum or a list of them.
            directions: `(num_directions, num_latents, latent_dim)`, for example from `directions()`, or one of them.
            scales: Multiples of the direction at which is decoded, at least one.
            invert_noise: As for `reconstruct`; at scale 0 the datum itself comes back.
            **decode_arguments: Passed to the decoder.

        Returns:
            For each datum and each direction the data at the scales.

        Raises:
            ValueError: If there are no scales, or the directions have another shape or are not finite.
        """
        self._refuse_copies(decode_arguments)
        several = directions[None] if directions.ndim == 2 else directions
        self.model.check_latents(several, "directions")
        if not len(scales):
            raise ValueError("`scales` must hold at least one number, got none.")
        latents = self.encode(data).latents
        if invert_noise:
            decode_arguments |= self._inverted(data, latents, 256, decode_arguments)
        steps = torch.tensor(scales, dtype=torch.float32, device=latents.device)
        moves = several.to(latents)[:, None] * steps[:, None, None]  # (directions, scales, num_latents, latent_dim)
        points = latents[:, None, None] + moves
        if self.decoder_scheduler is not None:  # the same noise wherever a datum goes: only the latents change
            noise = decode_arguments.get("decoder_noise")
            if noise is None:
                noise = self._draw_noise_once(len(latents), len(several) * len(steps), decode_arguments)
            decode_arguments["decoder_noise"] = noise.repeat_interleave(len(several) * len(steps), dim=0)
        samples = iter(self.decode(points.flatten(0, 2), **decode_arguments))
        return [[[next(samples) for _ in scales] for _ in several] for _ in latents]

    @without_gradient
    @checked
    def aggregate(self, data: Any, refinement_steps: StepsOrZero = 0) -> torch.Tensor:
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

    @without_gradient
    @checked
    def similarity(self, a: Any, b: Any, batch_size: Count = 256) -> torch.Tensor:
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

    @without_gradient
    @checked
    def edit(
        self,
        data: Any,
        direction: FloatTensor | None = None,
        scale: float = 1.0,
        refinement_steps: StepsOrZero = 0,
        strength: PositiveShare | None = None,
        guidance: Guidance | Sequence[Guidance] | None = None,
        class_labels: int | Sequence[int] | IntTensor | None = None,
        guidance_scale: GuidanceScale = 1.0,
        num_inference_steps: Count | None = None,
        eta: Share = 0.0,
        generator: Generators = None,
        invert_noise: bool = False,
        **decode_arguments: Any,
    ) -> Any:
        """Change data's latents and decode: move them along a direction, noise and denoise them, or both in turn.

        With `strength` the latents are noised part of the way and denoised again, under guidance or of another class,
        as SDEdit does with images (Meng et al. 2022, arXiv 2108.01073). `similarity` measures how much of the content
        stays.

        Args:
            data: One datum or a list of them.
            direction: `(num_latents, latent_dim)`, for example from `direction()`; None to move along none.
            scale: How far along it; negative for the other way.
            refinement_steps: As for `encode`; more of the data's content is kept.
            strength: Share of the chain's T timesteps, in (0, 1]; 1 forgets the data, little keeps nearly all. None
                for no noise.
            guidance: What steers the denoising, as for a call of the pipeline.
            class_labels: Class that the denoiser is told, as for a call of the pipeline.
            guidance_scale: Weight of the class.
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
            self.model.check_latents(direction[None], "direction[None]")
        elif scale != 1:
            refuse_without("`direction`", ["scale"], "it is how far along it")
        if strength is None:
            of_the_chain = {
                "guidance": guidance is not None,
                "class_labels": class_labels is not None,
                "guidance_scale": guidance_scale != 1,
                "num_inference_steps": num_inference_steps is not None,
                "eta": eta != 0,
            }
            given = [name for name, is_given in of_the_chain.items() if is_given]
            refuse_without("a `strength`", given, "without noise nothing is denoised")
        latents = self.encode(data, refinement_steps=refinement_steps).latents
        if invert_noise:
            decode_arguments |= self._inverted(data, latents, 256, decode_arguments)
        self._give_generator(decode_arguments, generator)
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

    @without_gradient
    @checked
    def steer(
        self,
        data: Any,
        guidance: Guidance | Sequence[Guidance],
        num_steps: Steps = 20,
        solver: Solver = "midpoint",
        output_type: str = "data",
        **decode_arguments: Any,
    ) -> Any:
        """Move latents to where guidance wants them by an ODE, without the chain.

        See `control.guided_step.follow_ode`.

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
        latents = self._latents_of(data)
        latents = follow_ode(Steering(guidance, self._space(), len(latents)).total, latents, num_steps, solver=solver)[
            -1
        ]
        if not bool(torch.isfinite(latents).all()):
            raise ValueError("The latents grew beyond all bounds: choose a smaller `scale` or more `num_steps`.")
        self.maybe_free_model_hooks()
        if output_type == "latent":
            return latents
        return self.decode(latents, output_type=output_type, **decode_arguments)

    @without_gradient
    @checked
    def optimize(
        self,
        data: Any,
        method: Literal["gradient", "guided", "mcmc", "hill_climb", "ode"] = "gradient",
        target: float | Sequence[float] | Literal["higher", "lower"] = "higher",
        property_index: CountOrZero | None = None,
        num_steps: Steps = 50,
        max_mutations: CountOrZero | None = None,
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
                of some neighbours) or "ode" (LatentOps); described in `hf_eddpm.control.search` by functions of
                these names.
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
        result = optimize(
            self._space(),
            self.processor,
            self.decode,
            self.progress_bar,
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
        self.maybe_free_model_hooks()
        return result
