"""What the pipeline's methods are made of: batches, noise, classes, one run of the chain, one decoding."""

import inspect
import threading
import weakref
from collections.abc import Callable, Iterable, Iterator, MutableMapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.utils.torch_utils import randn_tensor
from tqdm.auto import tqdm

from .argument_checks import check_generators
from .argument_types import Count, FloatTensor, Generators, GuidanceScale, StepsOrZero, check_values, checked
from .control.guidance import Guidance, LatentSpace, Steering
from .control.guided_step import check_guidable
from .draws import generator_of_each
from .packed_weights import pack_weights, unpack_weights
from .processing_eddpm import EDDPMProcessor, listed
from .sampling import check_scheduler, run_chain, without_gradient
from .scheduling_eddpm import EDDPMScheduler

# A batch pays from this many data on, and is cut where the next datum is smaller than this share of the first.
_FEWEST, _ALIKE = 16, 0.75
_INVERSION_STEPS = 50  # of a decoder's chain: fewer lose detail that more samples would not need


_threads = threading.local()


def _of_this_thread(name: str) -> MutableMapping[Any, Any]:
    """Return what pipelines keep by that name while this thread runs them."""
    if not hasattr(_threads, name):
        setattr(_threads, name, weakref.WeakKeyDictionary())
    return getattr(_threads, name)


class PipelineParts:
    """The parts of `EDDPMPipeline` that its public methods share.

    A plain class beside it: diffusers takes the only pipeline class in a module for the one to load.
    """

    model: Any
    scheduler: Any
    processor: EDDPMProcessor
    decoder_scheduler: Any
    config: Any
    encode: Callable[..., Any]
    maybe_free_model_hooks: Callable[[], None]
    _execution_device: torch.device
    _num_timesteps: int

    def progress_bar(self, iterable: Any = None, total: int | None = None) -> Any:
        """Show the progress of what takes more than a second; `set_progress_bar_config(disable=True)` shows none.

        Args:
            iterable: What to go through.
            total: Its length, in the place of `iterable`.
        """
        settings = {"delay": 1.0, "leave": False} | getattr(self, "_progress_bar_config", {})
        return tqdm(iterable, total=total, **settings)

    def enable_packed_weights(self) -> None:
        """Compute on a CPU from weights in oneDNN's own layout: faster in float32, about twice on an AMD EPYC.

        Results are equal but for rounding. The packed weights take as much memory again, and are packed anew when the
        weights change. On other devices and in other types nothing changes.

        Raises:
            RuntimeError: If this torch was built without oneDNN.
        """
        pack_weights(self.model)

    def disable_packed_weights(self) -> None:
        """Compute from the weights as they are again."""
        unpack_weights(self.model)

    def _batch_bar(self, batches: Sequence[Any]) -> Iterable[Any]:
        # within a single batch the chain has its own
        return self.progress_bar(batches) if len(batches) > 1 else batches

    @property
    def guidance_scale(self) -> float:
        """Weight of the class in this thread's run; a callback changes it by `pipe._guidance_scale = 1.0`."""
        return self._guidance_scale

    @property
    def _guidance_scale(self) -> float:
        return _of_this_thread("scales").get(self, 1.0)

    @_guidance_scale.setter
    def _guidance_scale(self, value: float) -> None:
        check_values({"guidance_scale": value}, {"guidance_scale": GuidanceScale})
        _of_this_thread("scales")[self] = float(value)

    @property
    def interrupt(self) -> bool:
        """Whether this thread's chain stops before its next step; a callback sets `pipe._interrupt = True`."""
        return self._interrupt

    @property
    def _interrupt(self) -> bool:
        return _of_this_thread("interrupts").get(self, False)

    @_interrupt.setter
    def _interrupt(self, value: bool) -> None:
        _of_this_thread("interrupts")[self] = bool(value)

    @without_gradient
    @checked
    def invert_decoder(
        self,
        data: Any,
        latents: FloatTensor | None = None,
        num_decoder_steps: Count = _INVERSION_STEPS,
        num_refinements: StepsOrZero = 2,
        batch_size: Count = 256,
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

    def enable_sequential_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        """Refuse what the model cannot do: layers that come and go one by one, while it reads their weights at rest.

        Raises:
            ValueError: Always.
        """
        raise ValueError(
            "`enable_sequential_cpu_offload` is not supported: some layers' weights are read outside of the layers, "
            "where they would be gone. `enable_model_cpu_offload` moves the model as a whole."
        )

    def _batches(
        self, items: list[Any], batch_size: int, places: Sequence[Sequence[int]] | None = None
    ) -> Iterator[dict[str, torch.Tensor]]:
        """Yield the tensors of data, in their order or of the places given for each batch; say what was cut."""
        if places is None:
            places = [range(start, min(start + batch_size, len(items))) for start in range(0, len(items), batch_size)]
        cut: dict[int, int] = {}
        for batch in self._batch_bar(places):
            tensors, found = self.processor.prepare([items[place] for place in batch])
            cut |= {batch[position]: size for position, size in found.items()}
            if not self.processor.truncation:
                self.processor.report_cut(items, cut)  # refuses at once
            yield {name: tensor.to(self._execution_device) for name, tensor in tensors.items()}
        self.processor.report_cut(items, cut)

    def _decode(
        self, latents: torch.Tensor, batch_size: int = 256, output_type: str = "data", **decode_arguments: Any
    ) -> Any:
        self.model.check_latents(latents)
        self._check_output_type(output_type)
        arguments = {**self._default_decode_arguments(decode_arguments), **decode_arguments}
        if self.decoder_scheduler is not None:
            check_scheduler(self.decoder_scheduler, self.model.decoder.scheduler, "decoder_scheduler")
            if arguments.get("decoder_noise") is not None:
                self.model.decoder.check_noise(arguments["decoder_noise"], len(latents))
            else:  # at once: the same whatever the batches
                check_generators(arguments.get("generator"), len(latents))
                arguments["decoder_noise"] = self.model.decoder.draw_noise(
                    len(latents), arguments.get("generator"), self._execution_device
                )
            own = {
                "scheduler": self.decoder_scheduler,
                "num_decoder_steps": self.config.default_num_decoder_steps,
            }
            arguments = {**own, **arguments}
            if decode_arguments.get("scheduler") is not None:
                check_scheduler(decode_arguments["scheduler"], self.model.decoder.scheduler)
            if len(latents) <= batch_size:  # otherwise the batches' own
                arguments["progress_bar"] = self.progress_bar
        elif "generator" in self.model.decoder.per_datum_arguments:  # the same whatever the batches
            generator = arguments.get("generator")
            check_generators(generator, len(latents), "datum", "data")
            arguments["generator"] = generator_of_each(generator, len(latents), self._execution_device)
        as_type = {} if output_type == "data" else {"output_type": output_type}
        parts: list[Any] = []
        for start in self._batch_bar(range(0, len(latents), batch_size)):
            rows = slice(start, start + batch_size)
            chunk = latents[rows].to(self._execution_device)
            outputs = self.model.decode(chunk, **self._arguments_of(rows, len(latents), arguments))
            parts.append(self.processor.postprocess(outputs, **as_type))
        return joined(parts)

    def _default_decode_arguments(self, decode_arguments: dict[str, Any]) -> dict[str, Any]:
        """Return what the processor sets where the caller does not, by argument or in a `generation_config`."""
        config = decode_arguments.get("generation_config")
        lengths = ("max_new_tokens", "max_length", "min_new_tokens", "min_length")
        named = {name for name in lengths if decode_arguments.get(name) is not None}
        named |= {name for name in lengths if getattr(config, name, None) is not None}
        defaults = self.processor.decode_arguments
        return {name: value for name, value in defaults.items() if name not in lengths or not named}

    def _latents_of(self, data: Any) -> torch.Tensor:
        """Return float32 latents of data, or of latents themselves; a tensor of another shape may be of images."""
        shape = (self.model.config.num_latents, self.model.config.latent_dim)
        if isinstance(data, torch.Tensor) and (self.model.config.modality != "image" or data.shape[1:] == shape):
            self.model.check_latents(data)
            return data.to(self._execution_device, torch.float32)
        return self.encode(data).latents.to(self._execution_device, torch.float32)

    def _latents_of_sides(
        self, positives: Any, negatives: Any, batch_size: int = 256
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the latents of data that have an attribute, and of data that lack it."""
        positives = self.processor.as_list(positives, "positives")
        negatives = self.processor.as_list(negatives, "negatives")
        return self.encode(positives, batch_size).latents, self.encode(negatives, batch_size).latents

    def _give_generator(self, decode_arguments: dict[str, Any], generator: Generators) -> None:
        """Let the decoder draw from the generator of the call, if it draws and the caller names none for it."""
        if generator is not None and "generator" in inspect.signature(self.model.decoder.generate).parameters:
            decode_arguments.setdefault("generator", generator)

    def _copies(self, decode_arguments: dict[str, Any]) -> int:
        """Return how many samples the decoder makes of each datum's latents."""
        config = decode_arguments.get("generation_config")
        named = decode_arguments.get("num_return_sequences")
        return named or getattr(config, "num_return_sequences", None) or 1

    def _refuse_copies(self, decode_arguments: dict[str, Any]) -> None:
        if (copies := self._copies(decode_arguments)) != 1:
            raise ValueError(f"`num_return_sequences` must be 1 here: each point has one sample, got {copies}.")

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

    def _draw_noise_once(self, count: int, points: int, decode_arguments: dict[str, Any]) -> torch.Tensor:
        """Return the decoder's noise for each datum (or pair) that is decoded at so many points.

        A generator for each becomes one for each point, which is what the decoder takes.
        """
        generator = decode_arguments.get("generator")
        check_generators(generator, count, "datum", "data")
        if isinstance(generator, list):
            decode_arguments["generator"] = [one for one in generator for _ in range(points)]
        return self.model.decoder.draw_noise(count, generator, self._execution_device)

    def _noise_of_paths(self, pairs: int, num_points: int, decode_arguments: dict[str, Any]) -> torch.Tensor:
        """Return the decoder's noise for each pair, given or drawn."""
        noise = decode_arguments.get("decoder_noise")
        if noise is None:
            return self._draw_noise_once(pairs, num_points, decode_arguments)
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

    def _prepare_noise(
        self, num_samples: int | None, generator: Generators, latents: torch.Tensor | None
    ) -> torch.Tensor:
        if latents is not None:
            self.model.check_latents(latents)
            if num_samples not in (None, len(latents)):
                raise ValueError(f"`num_samples` must be the number of `latents`, {len(latents)}, got {num_samples}.")
            num_samples = len(latents)
        num_samples = 1 if num_samples is None else num_samples
        check_generators(generator, num_samples)
        if latents is not None:
            return latents.to(self._execution_device, torch.float32)
        shape = (num_samples, self.model.config.num_latents, self.model.config.latent_dim)
        return randn_tensor(shape, generator=generator, device=self._execution_device, dtype=torch.float32)

    def _prepare_classes(
        self, class_labels: int | Sequence[int] | torch.Tensor | None, guidance_scale: float, batch: int
    ) -> dict[str, Any]:
        """Return the arguments of `EDDPMModel.denoise` for a batch of those classes."""
        if class_labels is None:
            if guidance_scale != 1:
                raise ValueError(f"`guidance_scale` needs `class_labels` beside it, got {guidance_scale} alone.")
            return {}
        labels = torch.as_tensor(class_labels if isinstance(class_labels, torch.Tensor) else listed(class_labels))
        labels = labels.expand(batch) if labels.ndim == 0 else labels
        self.model.check_class_labels(labels, batch)
        return {"class_labels": labels.to(self._execution_device), "guidance_scale": guidance_scale}

    def _space(self) -> LatentSpace:
        return LatentSpace(self.model, self._execution_device, lambda data: self.encode(data).latents)

    def _steering(self, guidance: Guidance | Sequence[Guidance], batch: int) -> Steering:
        check_guidable(self.scheduler, self.model.scheduler)
        return Steering(guidance, self._space(), batch)

    def _denoise(
        self,
        noise: torch.Tensor,
        num_inference_steps: int | None,
        eta: float = 0.0,
        generator: Generators = None,
        callback: Callable[[Any, int, int, dict[str, Any]], dict[str, Any] | None] | None = None,
        callback_names: Sequence[str] | None = None,
        steering: Steering | None = None,
        start: torch.Tensor | None = None,
        strength: float = 1.0,
        scheduler: Any = None,
        **classes: Any,
    ) -> torch.Tensor:
        """Run the chain (see `run_chain`) with progress, guidance and the caller's callback."""
        n = self.config.default_num_inference_steps if num_inference_steps is None else num_inference_steps
        check_scheduler(self.scheduler, self.model.scheduler)

        if "guidance_scale" in classes:
            self._guidance_scale = classes["guidance_scale"]

        def denoise(noisy_latents: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            if "guidance_scale" in classes:
                classes["guidance_scale"] = self._guidance_scale  # a callback may have changed it
            return self.model.denoise(noisy_latents, t, **classes).float()

        def guided(noisy_latents: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            return steering.predict(denoise, self.model.scheduler, noisy_latents, t)  # type: ignore[union-attr]

        bar: Any = None

        def begin(num_timesteps: int) -> None:
            nonlocal bar
            self._num_timesteps = num_timesteps
            bar = self.progress_bar(total=num_timesteps)

        def after(step: int, t: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
            if callback is not None:
                tensors = {"latents": latents} if "latents" in (callback_names or []) else {}
                latents = (callback(self, step, int(t), tensors) or {}).get("latents", latents)
            bar.update()
            return latents

        self._interrupt = False  # of a call before
        try:
            return run_chain(
                denoise if steering is None else guided,
                self.scheduler if scheduler is None else scheduler,
                noise,
                n,
                eta,
                generator,
                start,
                strength,
                on_step=after,
                on_start=begin,
                is_interrupted=lambda: self._interrupt,
            )
        finally:
            if bar is not None:
                bar.close()

    def _ddim(self) -> EDDPMScheduler:
        """Return the scheduler whose steps can be inverted, whatever scheduler generates."""
        return EDDPMScheduler(**self.model.config.scheduler_config)


def joined(parts: list[Any]) -> Any:
    """Return what batches were postprocessed into as one list, array or tensor."""
    if isinstance(parts[0], list):
        return [sample for part in parts for sample in part]
    return torch.cat(parts) if isinstance(parts[0], torch.Tensor) else np.concatenate(parts)


def batches_of_like_size(sizes: Sequence[int], batch_size: int) -> list[list[int]]:
    """Divide data into batches in which little is padded, the largest data first; each place is in one of them.

    A batch ends early where the next datum is much smaller than its first one, but not below a number of data at
    which a batch pays.

    Args:
        sizes: What each datum costs.
        batch_size: The most data of a batch.
    """
    batches: list[list[int]] = [[]]
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        batch = batches[-1]
        if len(batch) >= batch_size or (len(batch) >= _FEWEST and sizes[place] < _ALIKE * sizes[batch[0]]):
            batches.append(batch := [])
        batch.append(place)
    return batches
