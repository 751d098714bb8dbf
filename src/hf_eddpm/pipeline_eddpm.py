"""EDDPMPipeline: generate, reconstruct, represent, interpolate and edit data. Inference only."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers import DiffusionPipeline, SchedulerMixin

from .argument_checks import check_count, check_generators, check_number
from .argument_types import (
    Count,
    FloatTensor,
    Generators,
    GuidanceScale,
    IntTensor,
    NoiseScale,
    NumberFromZero,
    Share,
    Steps,
    StepsOrZero,
    checked,
    refuse_without,
)
from .control.guidance import Guidance
from .draws import generator_of_each, of_rows
from .hub.storage import PipelineStorage
from .modeling_eddpm import EDDPMModel
from .outputs import EDDPMEncoding, EDDPMPipelineOutput, EDDPMScore
from .pipeline_attributes import AttributesMixin
from .pipeline_control import ControlMixin
from .pipeline_design import DesignMixin
from .pipeline_parts import PipelineParts, batches_of_like_size
from .pipeline_paths import PathsMixin
from .pipeline_restore import RestoreMixin
from .processing_eddpm import EDDPMProcessor
from .sampling import check_scheduler, without_gradient
from .scheduling_eddpm import EDDPMScheduler
from .surest import doubt, surest


class EDDPMPipeline(
    PipelineParts,
    PathsMixin,
    ControlMixin,
    AttributesMixin,
    DesignMixin,
    RestoreMixin,
    PipelineStorage,
    DiffusionPipeline,
):
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
        default_noise_scale: Noise scale where a call names none; saved with the pipeline.
        default_num_decoder_steps: Steps of a decoder that is a chain itself, where a call names none; saved with the
            pipeline. Inverting that chain takes 50 steps (see `invert_decoder`).

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
        check_scheduler(scheduler, model.scheduler)
        if decoder_scheduler is not None:
            check_scheduler(decoder_scheduler, model.decoder.scheduler, "decoder_scheduler")
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

    @property
    def num_timesteps(self) -> int:
        """Steps of the last chain that was run."""
        return self._num_timesteps

    @without_gradient
    @checked
    def __call__(
        self,
        num_samples: Count | None = None,
        num_inference_steps: Count | None = None,
        eta: Share = 0.0,
        noise_scale: NoiseScale | None = None,
        class_labels: int | Sequence[int] | IntTensor | None = None,
        guidance_scale: GuidanceScale = 1.0,
        guidance: Guidance | Sequence[Guidance] | None = None,
        generator: Generators = None,
        latents: FloatTensor | None = None,
        num_candidates: Steps = 1,
        redundancy_penalty: NumberFromZero = 0.0,
        output_type: str = "data",
        callback_on_step_end: Callable[[Any, int, int, dict[str, Any]], dict[str, Any] | None] | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] | None = None,
        return_dict: bool = True,
        **decode_arguments: Any,
    ) -> EDDPMPipelineOutput | tuple[Any, torch.Tensor]:
        """Generate.

        Args:
            num_samples: How many data, at least 1; by default as many as `latents`, or 1.
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
            num_candidates: How many are drawn for each sample, one after another, at least 1; the model keeps the one
                that it is surest of (see `hf_eddpm.surest.doubt`). More than one needs a decoder of tokens. Fewer
                samples go wrong; they are less varied, at as many times the cost.
            redundancy_penalty: Weight, at least 0, of what a candidate repeats: the share of its pairs of neighbouring
                tokens that samples chosen before it in this call have, beside its doubt. It gives
                back the variety that candidates cost; the samples are then no longer independent of one another.
                Needs more than one candidate.
            output_type: "data", or "latent" to leave out the decoder; for images also "pil" (the same as "data"), "np"
                or "pt".
            callback_on_step_end: Called as `callback(pipe, step, timestep, tensors)` after each step; tensors in the
                dict it returns replace the pipeline's. It may return None, end the chain by
                `pipe._interrupt = True`, and change the weight of the class by `pipe._guidance_scale`.
            callback_on_step_end_tensor_inputs: Names of the tensors given to it; only "latents".
            return_dict: Whether to return an `EDDPMPipelineOutput` rather than its tuple.
            **decode_arguments: Passed to the decoder, for text `generation_config` or `do_sample=True, top_p=0.9`
                (with `num_return_sequences` each sample's latents are repeated beside its sequences), for
                pixel diffusion `num_decoder_steps` (by default the checkpoint's own) and `decoder_noise`.

        Raises:
            ValueError: If an argument is outside its range.
        """
        self._check_output_type(output_type, ("latent",))
        if output_type == "latent":
            refuse_without("another `output_type` than 'latent'", sorted(decode_arguments), "nothing is decoded")
        if callback_on_step_end is None and callback_on_step_end_tensor_inputs is not None:
            refuse_without("`callback_on_step_end`", ["callback_on_step_end_tensor_inputs"], "it is what is called")
        names = ["latents"] if callback_on_step_end_tensor_inputs is None else callback_on_step_end_tensor_inputs
        if unknown := set(names) - set(self._callback_tensor_inputs):
            raise ValueError(
                f"`callback_on_step_end_tensor_inputs` must be among {self._callback_tensor_inputs}, "
                f"got {sorted(unknown)}."
            )
        self._check_candidates(num_candidates, redundancy_penalty, latents, output_type, decode_arguments)
        noise_scale = self.config.default_noise_scale if noise_scale is None else noise_scale

        def draw() -> tuple[Any, torch.Tensor]:
            noise = noise_scale * self._prepare_noise(num_samples, generator, latents)
            classes = self._prepare_classes(class_labels, guidance_scale, len(noise))
            steering = None if guidance is None else self._steering(guidance, len(noise))
            drawn = self._denoise(
                noise, num_inference_steps, eta, generator, callback_on_step_end, names, steering, **classes
            )
            if output_type == "latent":
                return drawn, drawn
            self._give_generator(decode_arguments, generator)
            samples = self._decode(drawn, output_type=output_type, **decode_arguments)
            return samples, drawn.repeat_interleave(self._copies(decode_arguments), dim=0)

        candidates = [draw() for _ in range(num_candidates)]
        samples, latents = candidates[0]
        if num_candidates > 1:
            labels = self._prepare_classes(class_labels, guidance_scale, len(samples)).get("class_labels")
            doubts = [doubt(self.model, self.processor, texts, labels, latents.device) for texts, _ in candidates]
            samples, latents = surest(self.processor, candidates, torch.stack(doubts), redundancy_penalty)
        self.maybe_free_model_hooks()
        return EDDPMPipelineOutput(samples=samples, latents=latents) if return_dict else (samples, latents)

    def _check_candidates(
        self,
        num_candidates: int,
        redundancy_penalty: float,
        latents: torch.Tensor | None,
        output_type: str,
        decode_arguments: dict[str, Any],
    ) -> None:
        """Refuse a penalty without candidates, and what several candidates of a sample cannot be chosen with."""
        if num_candidates == 1:
            if redundancy_penalty > 0:
                raise ValueError(
                    f"`redundancy_penalty` must be 0 with one candidate, got {redundancy_penalty}: nothing is chosen. "
                    "Set `num_candidates` to 2 or more."
                )
            return
        if not self.model.decoder.decodes_tokens:
            raise ValueError(
                "`num_candidates` must be 1: a decoder is more or less sure of tokens, and "
                f"{type(self.model.decoder).__name__} makes none."
            )
        if latents is not None:
            raise ValueError("`num_candidates` must be 1 with `latents`: all candidates would start from them.")
        if output_type == "latent":
            raise ValueError("`num_candidates` must be 1 with `output_type='latent'`: what is decoded decides.")
        self._refuse_copies(decode_arguments)

    @without_gradient
    @checked
    def encode(self, data: Any, batch_size: Count = 256, refinement_steps: StepsOrZero = 0) -> EDDPMEncoding:
        """Represent data by the means of their posteriors.

        Data of like length are encoded together, which saves what padding costs; the results have the data's order.

        Args:
            data: One datum or a list of them.
            batch_size: How many are encoded at a time, at most.
            refinement_steps: Gradient steps that move each datum's latents to where it is reconstructed better (see
                `EDDPMModel.refine`). Ten bring most of the gain, at ten times the cost of a training step's decoder.

        Raises:
            ValueError: If `refinement_steps` is negative.
        """
        items = self.processor.as_list(data)
        places = batches_of_like_size(self.processor.sizes(items), batch_size)
        parts = []
        for batch in self._batches(items, batch_size, places):
            inputs = {name: batch[name] for name in self.model.encoder.input_names if name in batch}
            means = self.model.encode(**inputs).mean.float()
            if refinement_steps:
                targets: dict[str, Any] = {name: batch[name] for name in self.model.decoder.target_names}
                means = self.model.refine(means, refinement_steps, **targets)
            parts.append(means)
        order = torch.tensor([place for batch in places for place in batch], device=parts[0].device)
        latents = torch.cat(parts)[order.argsort()]
        self.maybe_free_model_hooks()
        return EDDPMEncoding(latents=latents, embeddings=latents.flatten(1))

    @without_gradient
    @checked
    def decode(
        self, latents: FloatTensor, batch_size: Count = 256, output_type: str = "data", **decode_arguments: Any
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

    @without_gradient
    @checked
    def reconstruct(
        self,
        data: Any,
        batch_size: Count = 256,
        refinement_steps: StepsOrZero = 0,
        num_reconstructions: Count = 1,
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
        latents = self.encode(data, batch_size, refinement_steps).latents
        if invert_noise:
            if num_reconstructions > 1:
                raise ValueError("`num_reconstructions` must be 1 with `invert_noise`: all would be the same.")
            decode_arguments |= self._inverted(data, latents, batch_size, decode_arguments)
        latents = latents.repeat_interleave(num_reconstructions, dim=0)
        return self.decode(latents, batch_size, **decode_arguments)

    @without_gradient
    @checked
    def score(
        self,
        data: Any,
        num_timesteps: Steps = 32,
        generator: Generators = None,
        batch_size: Count = 256,
        class_labels: int | Sequence[int] | IntTensor | None = None,
    ) -> EDDPMScore:
        """Estimate the bound on each datum's negative log-likelihood and its terms.

        Args:
            data: One datum or a list of them.
            num_timesteps: Timesteps drawn for each datum to estimate the diffusion term.
            generator: Source of the draws, or one for each datum; what a datum gets does not depend on the batches.
            batch_size: How many are scored at a time.
            class_labels: The class of the data, or one for each: the bound is then on -log p(datum | class).
        """
        items = self.processor.as_list(data)
        check_generators(generator, len(items), "datum", "data")
        generator = generator_of_each(generator, len(items), self._execution_device)
        labels = self._prepare_classes(class_labels, 1.0, len(items)).get("class_labels")
        starts = range(0, len(items), batch_size)
        parts = [
            self.model.bound(
                num_timesteps=num_timesteps,
                generator=of_rows(generator, start, start + batch_size),
                class_labels=None if labels is None else labels[start : start + batch_size],
                **batch,
            )
            for start, batch in zip(starts, self._batches(items, batch_size), strict=True)
        ]
        terms = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
        self.maybe_free_model_hooks()
        bits = terms["bound"] / terms["num_units"] / torch.log(torch.tensor(2.0))
        return EDDPMScore(**terms, bits_per_unit=bits)
