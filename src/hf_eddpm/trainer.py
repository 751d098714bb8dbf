"""EDDPMTrainer: transformers' Trainer with the loss terms in the log, an average of the weights, and previews."""

import contextlib
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.training_utils import EMAModel
from huggingface_hub import HfApi
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import BatchFeature, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, rotate_checkpoints
from transformers.utils import logging

from .diagnostics import moment_eigenvalues, spectrum_statistics, warn_of_low_rank
from .hub import upload_checkpoint
from .modeling_eddpm import EDDPMModel, EDDPMOutput
from .pipeline_eddpm import EDDPMPipeline
from .processing_eddpm import EDDPMProcessor
from .scheduling_eddpm import EDDPMScheduler

logger = logging.get_logger(__name__)

_EMA_FILE = "ema.safetensors"
_CALIBRATION_DATA = 4096  # data from which the latents' statistics under averaged weights are taken
_ACTIVE_STD = 0.1  # a dimension whose posterior mean varies less than this carries (almost) nothing
_MAX_SPECTRUM = 1024  # wider latents have no spectrum in the log: the covariance would cost too much


class TrainingMonitor:
    """Sums loss terms and statistics of the latents over batches, for the log.

    Args:
        noise_variance: The encoder's noise variance.

    Attributes:
        count: Data that the averages last collected are of.
    """

    def __init__(self, noise_variance: float):
        self.noise_variance = noise_variance
        self.sums: dict[str, torch.Tensor] = {}
        self.count = 0

    def update(self, output: EDDPMOutput) -> None:
        """Add a batch, in float64 and without gradient."""
        assert output.posterior_mean is not None
        mean = output.posterior_mean.detach().double().flatten(1)  # (batch, latent_size)
        batch = len(mean)
        values = {
            "count": torch.tensor(batch, dtype=torch.float64, device=mean.device),
            "mean": mean.sum(0),
            "square": mean.square().sum(0),
            "norm": mean.norm(dim=1).sum(),
        }
        if mean.shape[1] <= _MAX_SPECTRUM:
            values["products"] = mean.T @ mean
        for name in ("reconstruction_loss", "diffusion_loss", "alignment_loss", "property_loss"):
            if output.get(name) is not None:
                values[name] = output[name].detach().double() * batch
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value

    def collect(self, reduce: Any) -> dict[str, float]:
        """Return the averages since the last call and start anew.

        Args:
            reduce: Function that sums a tensor over all processes.

        Returns:
            The loss terms, and the collapse diagnostics: `latent_std` (mean over dimensions of the posterior mean's
            standard deviation), `active_dims` (dimensions where it exceeds 0.1), `latent_norm`, and `kl_per_dim`
            (KL of the posterior from the standard Gaussian, nats). These look at one dimension at a time: of
            dimensions that copy each other each counts as active and pays its KL. What sees it are `effective_rank`,
            `largest_share` and `rate` (nats), see `spectrum_statistics`; they are left out of latents of more than
            1,024 numbers, of a single datum, and where latents are not finite.
        """
        if not self.sums:
            return {}
        sums = {name: reduce(value) for name, value in self.sums.items()}
        self.sums = {}
        count, total, products = sums.pop("count"), sums.pop("mean"), sums.pop("products", None)
        mean, square = total / count, sums.pop("square") / count
        self.count = int(count)
        spectrum = {}
        if products is not None and self.count > 1 and bool(products.isfinite().all()):
            spectrum = spectrum_statistics(moment_eigenvalues(self.count, total, products), self.noise_variance)
        std = (square - mean.square()).clamp(min=0).sqrt()
        variance = torch.tensor(self.noise_variance, dtype=torch.float64)
        return {
            **{name: float(sums[name] / count) for name in sorted(sums) if name.endswith("_loss")},
            "latent_std": float(std.mean()),
            "active_dims": float((std > _ACTIVE_STD).sum()),
            "latent_norm": float(sums["norm"] / count),
            "kl_per_dim": float(0.5 * (square.mean().cpu() + variance - 1 - variance.log())),
            **spectrum,
        }


class _Clock(TrainerCallback):
    """Adds to each log entry the seconds trained so far; a resumed run goes on from its checkpoint's."""

    def __init__(self) -> None:
        self.start: float | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start."""
        self.first_step = state.global_step
        self.seconds_before = train_seconds(state)
        self.start = time.perf_counter()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Note the time."""
        if self.start is None:
            return
        # A run resumed after its last step only saves and evaluates again.
        seconds = time.perf_counter() - self.start if state.global_step > self.first_step else 0.0
        state.log_history[-1]["train_seconds"] = round(self.seconds_before + seconds, 1)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop."""
        self.start = None


def train_seconds(state: TrainerState) -> float:
    """Return the wall time of the training, summed over resumed runs, evaluations and checkpoints included."""
    return max((entry.get("train_seconds", 0.0) for entry in state.log_history), default=0.0)


class RawDataCollator:
    """Batches raw data by a processor.

    Args:
        processor: The modality's processor.
    """

    def __init__(self, processor: EDDPMProcessor):
        self.processor = processor

    def __call__(self, examples: list[Any]) -> BatchFeature:
        """Batch examples: raw data, or dicts of `data` (one raw datum) and further inputs of `forward`.

        These are `diffusion_mask` (a bool), `properties` (numbers, NaN where missing) and `class_labels` (an integer,
        -1 where unknown).
        """
        if not isinstance(examples[0], dict):
            return self.processor(examples)
        batch = self.processor([example["data"] for example in examples])
        kinds = {"diffusion_mask": torch.bool, "properties": torch.float32, "class_labels": torch.int64}
        for name, dtype in kinds.items():
            if name in examples[0]:
                batch[name] = torch.tensor([example[name] for example in examples], dtype=dtype)
        return batch


class _OwnNoise(TrainerCallback):
    """Gives each of several processes a seed of its own, else all would draw the same timesteps and noise."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Seed: after the data loaders took the common seed for the order of the data."""
        if args.world_size > 1:
            torch.manual_seed(args.seed + args.process_index)


class _EMAStep(TrainerCallback):
    """Moves the average after every optimiser step."""

    def __init__(self, trainer: "EDDPMTrainer", ema: EMAModel):
        self.trainer = trainer
        self.ema = ema

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Update the average."""
        self.ema.step(self.trainer.ema_parameters())


class _Preview(TrainerCallback):
    """Shows what the model generates and reconstructs at each evaluation."""

    def __init__(self, trainer: "EDDPMTrainer", data: list[Any], num_samples: int):
        self.trainer = trainer
        self.data = data
        self.num_samples = num_samples

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Write and log the preview."""
        if not state.is_world_process_zero:
            return
        pipe = self.trainer.build_pipeline()
        pipe.set_progress_bar_config(disable=True)
        generator = torch.Generator().manual_seed(args.seed)
        preview = {
            "step": state.global_step,
            "samples": pipe(num_samples=self.num_samples, generator=generator, return_dict=False)[0],
            "originals": self.data,
            "reconstructions": pipe.reconstruct(self.data),
        }
        path = Path(args.output_dir) / "previews.jsonl"
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(preview, default=str) + "\n")
        lines = [f"step {state.global_step}"]
        lines += [f"  generated      {sample}" for sample in preview["samples"]]
        for original, reconstruction in zip(self.data, preview["reconstructions"], strict=True):
            lines += [f"  original       {original}", f"  reconstructed  {reconstruction}"]
        logger.info("\n".join(lines))


class EDDPMTrainer(Trainer):
    """Trainer for [`EDDPMModel`]; a plain `Trainer` gives the same gradients.

    Added to it: each loss term and the collapse diagnostics in the log (see `TrainingMonitor.collect`), with a warning
    where held-out latents have lost their rank, an exponential moving average of the
    weights (used for evaluation and left in the model when training ends), previews at each evaluation, and
    checkpoints that appear whole or not at all.

    Args:
        model: The model.
        args: The training arguments.
        processor: The modality's processor. It is saved with each checkpoint; unless `data_collator` is given, it
            also batches the data, so that data sets may simply be lists of raw data (see `RawDataCollator`).
        ema_decay: Decay of the average, in (0, 1); `None` for no average.
        preview_data: Data reconstructed at each evaluation; `None` for no previews.
        num_preview_samples: Samples generated at each evaluation.
        **kwargs: As for `Trainer`.

    Raises:
        ValueError: If `ema_decay` is outside (0, 1), previews are asked for without a processor, or either is given
            with FSDP.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        processor: EDDPMProcessor | None = None,
        ema_decay: float | None = None,
        preview_data: list[Any] | None = None,
        num_preview_samples: int = 4,
        **kwargs: Any,
    ):
        if ema_decay is not None and not 0 < ema_decay < 1:
            raise ValueError(f"`ema_decay` must be in (0, 1), got {ema_decay}.")
        if preview_data is not None and processor is None:
            raise ValueError("`preview_data` needs a `processor`.")
        if processor is not None:
            if hasattr(processor, "tokenizer"):  # Trainer looks for one in every processor it is given
                kwargs.setdefault("processing_class", processor)
            kwargs.setdefault("data_collator", RawDataCollator(processor))
        super().__init__(model=model, args=args, **kwargs)
        if ema_decay is not None and self.is_fsdp_enabled:
            raise ValueError("`ema_decay` must be None with FSDP, whose parameters are in pieces.")
        if preview_data is not None and self.is_fsdp_enabled:
            raise ValueError("`preview_data` must be None with FSDP, where no process can decode alone.")
        self.processor = processor
        self.monitors = {
            name: TrainingMonitor(self._eddpm.config.encoder_noise_variance) for name in ("train", "eval")
        }
        self.ema: EMAModel | None = None
        self._saving_checkpoint_in: str | None = None
        self.add_callback(_Clock())
        self.add_callback(_OwnNoise())
        if ema_decay is not None:
            self.ema = EMAModel(self.ema_parameters(), decay=ema_decay, foreach=True)
            self.add_callback(_EMAStep(self, self.ema))
        if preview_data is not None:
            self.add_callback(_Preview(self, preview_data, num_preview_samples))

    def _set_signature_columns_if_needed(self) -> None:
        # Trainer would read the columns to keep off `forward`, which takes whatever its modality needs.
        names = [*self._eddpm.encoder.input_names, *self._eddpm.decoder.target_names]
        self._signature_columns = [*names, "data", "diffusion_mask", "properties", "class_labels"]

    @property
    def _eddpm(self) -> EDDPMModel:
        model = self.accelerator.unwrap_model(self.model)
        return model.get_base_model() if hasattr(model, "get_base_model") else model  # peft's wrapper around it

    @property
    def _is_sharded(self) -> bool:
        if not torch.distributed.is_available():
            return False
        from torch.distributed.fsdp import FSDPModule

        return isinstance(self.model, FSDPModule)

    def ema_parameters(self) -> list[nn.Parameter]:
        """Return the parameters that the average follows: those that train."""
        return [parameter for parameter in self._eddpm.parameters() if parameter.requires_grad]

    def whole_state_dict(self) -> dict[str, torch.Tensor]:
        """Return the model's weights in one piece, on the CPU. With FSDP all processes must call it together.

        Returns:
            The weights; with FSDP on the first process only, and nothing on the others.
        """
        if not self._is_sharded:
            return {name: value.cpu() for name, value in self.model.state_dict().items()}
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        return cast(dict[str, torch.Tensor], get_model_state_dict(self.model, options=options))

    def build_pipeline(self, model: EDDPMModel | None = None) -> EDDPMPipeline:
        """Return a pipeline around the model as it is now, in evaluation mode (a training step leaves that mode).

        Args:
            model: Another model with the trained weights in one piece (see `whole_state_dict`), needed with FSDP.

        Raises:
            ValueError: If the trainer has no processor, or the model is in pieces.
        """
        if self.processor is None:
            raise ValueError("`processor` must be given to the trainer to build a pipeline.")
        if model is None and self._is_sharded:
            raise ValueError("`model` must be given: with FSDP no process has all weights (`whole_state_dict`).")
        model = self._eddpm if model is None else model
        return EDDPMPipeline(model, EDDPMScheduler(**model.config.scheduler_config), self.processor)

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Compute the loss and keep its terms for the log; see `Trainer.compute_loss`."""
        loss, output = super().compute_loss(model, inputs, True, num_items_in_batch)
        self.monitors["train" if model.training else "eval"].update(output)
        return (loss, output) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the loss terms and diagnostics to a log entry; see `Trainer.log`."""
        prefix = "train" if "loss" in logs else "eval" if "eval_loss" in logs else None
        if prefix is not None:
            terms = self.monitors[prefix].collect(self._sum_over_processes)
            logs.update({name if prefix == "train" else f"eval_{name}": value for name, value in terms.items()})
            if prefix == "eval" and "effective_rank" in terms and self.is_world_process_zero():
                warn_of_low_rank(terms["effective_rank"], self._eddpm.config.latent_size, self.monitors["eval"].count)
        super().log(logs, start_time)

    def _sum_over_processes(self, value: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(value, reduction="sum")

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Within, the model is what it will be when training ends: averaged weights, statistics of the latents."""
        parameters = self.ema_parameters()
        statistics = {name: buffer.clone() for name, buffer in self._eddpm.bottleneck.named_buffers()}
        if self.ema is not None:
            self.ema.store(parameters)
        try:
            self._finish_weights()
            yield
        finally:
            if self.ema is not None:
                self.ema.restore(parameters)
            for name, buffer in self._eddpm.bottleneck.named_buffers():
                buffer.copy_(statistics[name])

    def _finish_weights(self) -> None:
        """Put the averaged weights in, if there are any, and take the latents' statistics under the weights."""
        if self.ema is not None:
            self.ema.copy_to(self.ema_parameters())
        if self.train_dataset is not None:
            model: Any = self.model
            if self._is_sharded:
                from torch.distributed.fsdp import register_fsdp_forward_method

                register_fsdp_forward_method(model, "calibrate")  # within, the weights are whole
            with torch.random.fork_rng():  # a data set may draw: training shall not notice, nor processes differ
                torch.manual_seed(self.args.seed)
                model.calibrate(self._calibration_batches())

    def _calibration_batches(self) -> Iterator[dict[str, Any]]:
        """Yield the same few thousand training data every time, spread over the data set; draws nothing at random."""
        dataset = self.train_dataset
        batch_size = max(self.args.per_device_train_batch_size, 2)
        if hasattr(dataset, "__len__"):
            size = len(dataset)
            count = min(_CALIBRATION_DATA, size)
            examples = [dataset[position * size // count] for position in range(count)]
        else:
            examples = list(itertools.islice(dataset, _CALIBRATION_DATA))
        for start in range(0, len(examples), batch_size):
            yield self._prepare_inputs(self.data_collator(examples[start : start + batch_size]))

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate the averaged weights; see `Trainer.evaluate`."""
        self.monitors["eval"].sums = {}
        with self.averaged_weights():
            metrics = super().evaluate(*args, **kwargs)
        return metrics

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; the model ends up with the averaged weights (of the best checkpoint, if that is asked for).

        With or without them, the latents' normalisation ends up with the statistics of the training data. With
        several processes each draws its own noise.
        """
        result = super().train(*args, **kwargs)
        self._finish_weights()
        return result

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # A run resumed after its last step would otherwise take one step more.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **kwargs)

    def push_to_hub(self, commit_message: str | None = "End of training", blocking: bool = True, **kwargs: Any) -> Any:
        """Upload the whole pipeline: what `args.output_dir/pipeline` holds, or else the pipeline as it is now.

        Args:
            commit_message: Message of the commit.
            blocking: Whether to wait for the upload.
            **kwargs: `token` and `revision`.

        Returns:
            The commit's data, or a future of it.
        """
        token = kwargs.get("token") or self.args.hub_token
        name = self.hub_model_id if getattr(self, "hub_model_id", None) else self.args.hub_model_id
        if not self.is_world_process_zero():
            return None
        folder = Path(self.args.output_dir) / "pipeline"
        if not (folder / "model_index.json").is_file():
            self.build_pipeline().save_pretrained(folder)
        api = HfApi(token=token)
        repo_id = api.create_repo(
            name or Path(self.args.output_dir).resolve().name, private=self.args.hub_private_repo, exist_ok=True
        ).repo_id
        return upload_checkpoint(
            api, folder, repo_id, commit_message, revision=kwargs.get("revision"), run_as_future=not blocking
        )

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Upload nothing on the way: Trainer would send pickles, and a checkpoint that is still being written."""

    # Checkpoints: written in a folder aside, then renamed, so that a kill never leaves half of one.

    def _get_output_dir(self, trial: Any) -> str:
        return self._saving_checkpoint_in or super()._get_output_dir(trial)

    def _save_checkpoint(self, model: nn.Module, trial: Any) -> None:
        run_dir = self._get_output_dir(trial)
        name = f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}"
        staging = os.path.join(run_dir, f".{name}.partial")
        final = os.path.join(run_dir, name)
        self._saving_checkpoint_in = staging
        try:
            super()._save_checkpoint(model, trial)
        finally:
            self._saving_checkpoint_in = None
        if self.state.best_global_step == self.state.global_step:
            self.state.best_model_checkpoint = final
        self.accelerator.wait_for_everyone()
        if self.args.should_save:
            written = Path(staging) / name
            self.state.save_to_json(str(written / TRAINER_STATE_NAME))
            _replace_folder(written, Path(final))
            Path(staging).rmdir()
            rotate_checkpoints(
                output_dir=run_dir,
                save_total_limit=self.args.save_total_limit,
                best_model_checkpoint=self.state.best_model_checkpoint,
                use_mtime=True,
            )
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        if self.processing_class is None and self.processor is not None and self.args.should_save:
            self.processor.save_pretrained(str(output_dir or self.args.output_dir))
        checkpoint = self.args.should_save and self._saving_checkpoint_in is not None and output_dir is not None
        if self.ema is not None and checkpoint:
            tensors = {str(index): shadow.contiguous() for index, shadow in enumerate(self.ema.shadow_params)}
            steps = {"optimization_step": str(self.ema.optimization_step)}
            save_file(tensors, os.path.join(str(output_dir), _EMA_FILE), metadata=steps)

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        self._load_ema(resume_from_checkpoint)

    def _load_best_model(self) -> None:
        super()._load_best_model()
        self._load_ema(self.state.best_model_checkpoint)

    def _load_ema(self, checkpoint: str) -> None:
        if self.ema is None:
            return
        path = os.path.join(checkpoint, _EMA_FILE)
        if not os.path.isfile(path):
            raise ValueError(f"`ema_decay` is set, but the checkpoint {checkpoint!r} holds no {_EMA_FILE}.")
        with safe_open(path, "pt") as file:
            steps = int(file.metadata()["optimization_step"])
            shadows = [file.get_tensor(str(index)) for index in range(len(file.keys()))]
        if [shadow.shape for shadow in shadows] != [shadow.shape for shadow in self.ema.shadow_params]:
            raise ValueError(f"{path!r} holds the average of another model, or of other trained parameters.")
        self.ema.optimization_step = steps
        for shadow, saved in zip(self.ema.shadow_params, shadows, strict=True):
            shadow.copy_(saved)


def _replace_folder(source: Path, target: Path) -> None:
    """Rename `source` to `target`, replacing a folder that a rerun of the same step finds there."""
    if target.exists():
        aside = target.with_name(f".{target.name}.replaced")
        target.rename(aside)
        source.rename(target)
        shutil.rmtree(aside)
    else:
        source.rename(target)
