"""What the pipeline does with part of a datum, or a measurement of it: draw data that it may have come from."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from diffusers.utils.torch_utils import randn_tensor

from .argument_checks import check_generators
from .argument_types import Count, Generators, GuidanceScale, IntTensor, NumberFromZero, Steps, checked
from .control.image_measurement import DecoderExamples, ImageMeasurement, as_measurements
from .control.operators import Mask, Operator
from .control.restoration import sample_posterior
from .control.sequence_measurement import SequenceMeasurement
from .draws import generator_of_each, of_rows
from .outputs import EDDPMRestoration
from .pipeline_parts import joined
from .processing_eddpm import EDDPMProcessor
from .sampling import without_gradient
from .scheduling_eddpm import EDDPMScheduler

Measurement = ImageMeasurement | SequenceMeasurement


class RestoreMixin:
    """The method of `EDDPMPipeline` that solves inverse problems.

    A plain class beside it: diffusers takes the only pipeline class in a module for the one to load.
    """

    model: Any
    processor: EDDPMProcessor
    decoder_scheduler: Any
    config: Any
    progress_bar: Callable[..., Any]
    maybe_free_model_hooks: Callable[[], None]
    _execution_device: torch.device
    _prepare_noise: Callable[..., torch.Tensor]
    _prepare_classes: Callable[..., dict[str, Any]]
    _check_output_type: Callable[..., None]

    @without_gradient
    @checked
    def restore(
        self,
        data: Any,
        operator: Operator | None = None,
        mask: Any = None,
        noise_level: NumberFromZero = 0.0,
        num_samples: Count = 1,
        num_inference_steps: Steps = 100,
        class_labels: int | Sequence[int] | IntTensor | None = None,
        guidance_scale: GuidanceScale = 1.0,
        generator: Generators = None,
        batch_size: Count = 64,
        output_type: str = "data",
        num_decoder_steps: Count | None = None,
    ) -> EDDPMRestoration:
        r"""Draw data that a measurement may have come from: inpainting, super-resolution, deblurring, colourising.

        The latents are drawn given the measurement (see `control.restoration.sample_posterior`), by its gradient
        through the decoder: through the one pass, or through a pixel chain's estimate of the mean image. Then they are
        decoded, and what the measurement says beyond the latents is put into the image (see
        `ImageMeasurement.fit`), in each step of a pixel chain.

        Images may be measured by any differentiable function of images in [0, 1]; `Mask`, `Downsample`, `Blur` and
        `Grey` are ready in `hf_eddpm.control.operators`. Of proteins a mask says which residues are known; these stay
        as they are, and the others are filled in, the length being kept.

        Args:
            data: The measurements, one or a list. Of images: PIL images or uint8 arrays, whose grey levels become
                [0, 1], or floats as the operator returns them, a tensor `(batch, ...)`. With a mask, images or
                proteins of which the unknown part does not matter.
            operator: What was measured: a function from images `(batch, channels, height, width)` in [0, 1] to
                measurements `(batch, ...)`, each row from its own image.
            mask: In place of an operator, True where the datum is known: of images `(height, width)`, or one for each;
                of proteins a list of flags as long as the protein, or one for each.
            noise_level: Standard deviation of the noise in the measurement, in the unit of the measurement; 0 where it
                is exact. For images.
            num_samples: Data drawn for each measurement; they stand measurement by measurement.
            num_inference_steps: Steps of the chain, each with a gradient through the decoder, in [1, T].
            class_labels: Class of the data, or one for each measurement; None where it is not known.
            guidance_scale: Weight of the class.
            generator: Source of noise, or one for each sample; what a sample gets does not depend on the batches.
            batch_size: Samples worked on at a time.
            output_type: As for a call of the pipeline.
            num_decoder_steps: Steps of a pixel chain, by default the checkpoint's own; for decoders that are one.

        Returns:
            An `EDDPMRestoration`: samples, latents, and how far each sample is from its measurement.

        Raises:
            TypeError: If the measurements are none.
            ValueError: If there is neither or both of `operator` and `mask`, the operator cannot be differentiated or
                returns another shape than the measurements, a mask is of another size, measurements are not finite or
                out of range, or the modality or decoder cannot do it.
        """
        self._check_output_type(output_type)
        as_type = {} if output_type == "data" else {"output_type": output_type}
        if (operator is None) == (mask is None):
            raise ValueError("`restore` needs an `operator` or a `mask`, not both.")
        if num_decoder_steps is not None and self.decoder_scheduler is None:
            raise ValueError(f"`num_decoder_steps` is for pixel chains: {type(self.model.decoder).__name__} is none.")
        count, measure, decoding = self._measuring(data, operator, mask, noise_level, num_decoder_steps)
        total = count * num_samples
        check_generators(generator, total)
        generator = generator_of_each(generator, total, self._execution_device)
        noise = self._prepare_noise(total, generator, None)
        classes = self._prepare_classes(class_labels, guidance_scale, count)
        chain = EDDPMScheduler(**self.model.config.scheduler_config)

        owners = torch.arange(count).repeat_interleave(num_samples)
        parts: list[tuple[Any, torch.Tensor, torch.Tensor]] = []
        starts = range(0, total, batch_size)
        with self.progress_bar(total=len(starts) * num_inference_steps) as bar:
            for start in starts:
                rows = owners[start : start + batch_size]
                ours = of_rows(generator, start, start + batch_size)
                measurement = measure(rows)
                latents = sample_posterior(
                    self._denoiser_of(classes, rows),
                    chain,
                    measurement.log_likelihood,
                    noise[start : start + batch_size],
                    self._drawer(len(rows), ours),
                    num_inference_steps,
                    on_step=bar.update,
                    prepare=measurement.prepare,
                )
                outputs = measurement.decode(latents, generator=ours, **decoding)
                samples = self.processor.postprocess(outputs, **as_type)
                parts.append((samples, latents, measurement.misfit(outputs)))
        self.maybe_free_model_hooks()
        return EDDPMRestoration(
            samples=joined([samples for samples, _, _ in parts]),
            latents=torch.cat([latents for _, latents, _ in parts]),
            misfits=torch.cat([misfits for _, _, misfits in parts]),
        )

    def _measuring(
        self, data: Any, operator: Operator | None, mask: Any, noise_level: float, num_decoder_steps: int | None
    ) -> tuple[int, Callable[[torch.Tensor], Measurement], dict[str, Any]]:
        """Return the number of measurements, a function from rows to these measurements, and what decodes them."""
        config = self.model.config
        if config.modality != "image":
            if operator is not None:
                raise ValueError(
                    f"`operator` is for images; of a model of modality {config.modality!r} give a `mask`."
                )
            if noise_level:
                raise ValueError(f"`noise_level` is for images, got {noise_level:g} for modality {config.modality!r}.")
            parts = SequenceMeasurement.read(self.model, self.processor, data, mask)

            def measure_sequences(rows: torch.Tensor) -> SequenceMeasurement:
                chosen = [parts[row] for row in rows]
                return SequenceMeasurement(self.model, self.processor, chosen, self._execution_device)

            return len(parts), measure_sequences, {}
        measured_by = Mask(mask) if operator is None else operator
        processor: Any = self.processor
        values = as_measurements(data, processor.levels).to(self._execution_device)
        if isinstance(measured_by, Mask):
            measured_by.check_batch(len(values))
        steps = self.config.default_num_decoder_steps if num_decoder_steps is None else num_decoder_steps
        examples = DecoderExamples(self.model, self.decoder_scheduler, steps, self._execution_device)

        def measure(rows: torch.Tensor) -> ImageMeasurement:
            chosen = measured_by.repeated(rows) if isinstance(measured_by, Mask) else measured_by
            return ImageMeasurement(self.model, chosen, values[rows.to(values.device)], noise_level, examples)

        chain = {"num_decoder_steps": steps, "scheduler": self.decoder_scheduler}
        return len(values), measure, {} if self.decoder_scheduler is None else chain

    def _denoiser_of(self, classes: dict[str, Any], rows: torch.Tensor) -> Callable[..., torch.Tensor]:
        """Return the denoiser as a function of noisy latents and a timestep, told the classes of those rows."""
        arguments = dict(classes)
        if classes:
            arguments["class_labels"] = classes["class_labels"][rows.to(self._execution_device)]
        return lambda noisy, t: self.model.denoise(noisy, t, **arguments).float()

    def _drawer(self, count: int, generator: Generators) -> Callable[[], torch.Tensor]:
        """Return a function that draws noise for that many latents."""
        shape = (count, self.model.config.num_latents, self.model.config.latent_dim)
        return lambda: randn_tensor(shape, generator, device=self._execution_device, dtype=torch.float32)
