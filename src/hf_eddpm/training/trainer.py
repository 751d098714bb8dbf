"""EDDPMTrainer: transformers' Trainer with the loss terms in the log, an average of the weights, and previews."""

import contextlib
import inspect
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import torch
from diffusers.training_utils import EMAModel
from huggingface_hub import HfApi
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR, PredictionOutput, rotate_checkpoints
from transformers.utils import logging

from ..diagnostics import warn_of_low_rank
from ..hub.upload import upload_checkpoint
from ..modeling_eddpm import EDDPMModel
from ..pipeline_eddpm import EDDPMPipeline
from ..processing_eddpm import EDDPMProcessor
from ..scheduling_eddpm import EDDPMScheduler
from .callbacks import AverageStep, Clock, FreshMonitors, OwnNoise, TimeLimit
from .collator import RawDataCollator
from .defaults import EMA_DECAY, default_arguments
from .monitor import TrainingMonitor, held_out_neighbor_ratio
from .ordered import OrderedTrainer
from .previews import Preview
from .refusals import check_options

logger = logging.get_logger(__name__)

_EMA_FILE = "ema.safetensors"
_NOT_PREDICTED = ("reconstruction_loss", "diffusion_loss", "alignment_loss", "property_loss", "latents")
_KEPT_MEANS = 1000  # held-out data whose latents those of samples are compared with in the log
_CALIBRATION_DATA = 4096  # data from which the latents' statistics under averaged weights are taken


class EDDPMTrainer(OrderedTrainer):
    """Trainer for [`EDDPMModel`]; a plain `Trainer` gives the same gradients.

    Added to it: each loss term and the collapse diagnostics in the log (see `TrainingMonitor.collect`), with a warning
    where held-out latents have lost their rank, an exponential moving average of the
    weights (used for evaluation and left in the model when training ends), previews at each evaluation, and
    checkpoints that appear whole or not at all.

    Args:
        model: The model.
        args: The training arguments; None for those of `training.defaults`, which fit the number of data and the
            machine, with an average of the weights.
        processor: The modality's processor. It is saved with each checkpoint; unless `data_collator` is given, it
            also batches the data, so that data sets may simply be lists of raw data (see `RawDataCollator`).
        ema_decay: Decay of the average, in (0, 1); `None` for no average.
        preview_data: Data reconstructed at each evaluation; `None` for no previews.
        num_preview_samples: Samples generated at each evaluation; 0 for none.
        **kwargs: As for `Trainer`.

    Raises:
        ValueError: If `ema_decay` is outside (0, 1), previews are asked for without a processor, either is given with
            FSDP, or `args` has an option that training would not heed.
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
        if args is None:
            data: Any = kwargs.get("train_dataset")
            if not hasattr(data, "__len__"):
                raise ValueError("`args` must be given for training data without a length: the steps depend on it.")
            args = TrainingArguments("runs/eddpm", **default_arguments(len(data)))
            ema_decay = EMA_DECAY if ema_decay is None else ema_decay
        super().__init__(model=model, args=args, **kwargs)
        if ema_decay is not None and self.is_fsdp_enabled:
            raise ValueError("`ema_decay` must be None with FSDP, whose parameters are in pieces.")
        if preview_data is not None and self.is_fsdp_enabled:
            raise ValueError("`preview_data` must be None with FSDP, where no process can decode alone.")
        self.processor = processor
        self._check_sentences()
        self._check_options()
        if args.label_names is None:  # Trainer finds none in the signature of `forward`
            self.label_names = list(self._eddpm.decoder.target_names)
        self.monitors = {"train": TrainingMonitor(), "eval": TrainingMonitor(_KEPT_MEANS)}
        self.ema: EMAModel | None = None
        self._evaluated = "eval"  # prefix of the evaluation that runs
        self._has_averaged_weights = False
        self._saving_checkpoint_in: str | None = None
        self.add_callback(Clock())
        if (minutes := getattr(args, "max_minutes", None)) is not None:
            self.add_callback(TimeLimit(minutes))
        self.add_callback(OwnNoise())
        self.add_callback(FreshMonitors(self.monitors))
        if ema_decay is not None:
            self.ema = EMAModel(self.ema_parameters(), decay=ema_decay, foreach=True)
            self.add_callback(AverageStep(self.ema_parameters, self.ema))
        if preview_data is not None:
            self.add_callback(
                Preview(
                    self.build_pipeline, preview_data, num_preview_samples, lambda: self.callback_handler.callbacks
                )
            )

    def _check_sentences(self) -> None:
        """Refuse a list of texts one of which cannot be trained on before training comes to it."""
        for name in ("train_dataset", "eval_dataset"):
            data: Any = getattr(self, name)
            if self.processor is not None and isinstance(data, list) and data and isinstance(data[0], str):
                self.processor.as_list(data, name)

    def _check_options(self) -> None:
        check_options(self.args, self._eddpm, self.train_dataset, self.compute_metrics, self.compute_loss_func)
        grouped = self.args.train_sampling_strategy == "group_by_length"
        if grouped and self._eddpm.config.latent_normalization == "batch":
            logger.warning(
                "Batches of like length ('group_by_length') have other statistics than all data, by which latents are "
                "normalised in evaluation: `latent_normalization` 'batch_renorm' trains by those of all data."
            )

    def _hp_search_setup(self, trial: Any) -> None:
        super()._hp_search_setup(trial)
        self._check_options()  # a trial has options of its own

    def _set_signature_columns_if_needed(self) -> None:
        # Trainer would read the columns to keep off `forward`, which takes whatever its modality needs.
        names = [*self._eddpm.encoder.input_names, *self._eddpm.decoder.target_names]
        data_names = ("data",) if self.processor is None else self.processor.data_names
        self._signature_columns = [*names, *data_names, "diffusion_mask", "properties", "class_labels"]

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
        evaluated = f"{self._evaluated}_loss" in logs
        kind = "train" if "loss" in logs else "eval" if evaluated else None
        if kind is not None:
            terms = self.monitors[kind].collect(self._sum_over_processes, self._eddpm.config.encoder_noise_variance)
            names = {name: name if kind == "train" else f"{self._evaluated}_{name}" for name in terms}
            logs.update({names[name]: value for name, value in terms.items()})
            if kind == "eval" and self.is_world_process_zero():
                if "effective_rank" in terms:
                    warn_of_low_rank(
                        terms["effective_rank"], self._eddpm.config.latent_size, self.monitors["eval"].count
                    )
                means = self.monitors["eval"].take_means()
                ratio = None if means is None or self._is_sharded else held_out_neighbor_ratio(self._eddpm, means)
                if ratio is not None:
                    logs[f"{self._evaluated}_neighbor_ratio"] = ratio
        super().log(logs, start_time)

    def _sum_over_processes(self, value: torch.Tensor) -> torch.Tensor:
        return self.accelerator.reduce(value, reduction="sum")

    @contextlib.contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """Within, the model is what it will be when training ends: averaged weights, statistics of the latents."""
        if self._has_averaged_weights:  # of several evaluation sets, the first put them in
            yield
            return
        parameters = self.ema_parameters()
        statistics = {name: buffer.clone() for name, buffer in self._eddpm.bottleneck.named_buffers()}
        if self.ema is not None:
            self.ema.store(parameters)
        self._has_averaged_weights = True
        try:
            self._finish_weights()
            yield
        finally:
            self._has_averaged_weights = False
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
            with torch.random.fork_rng():  # a data set may draw; that must not change the training
                torch.manual_seed(self.args.seed)
                model.calibrate(self._calibration_batches())

    def _calibration_batches(self) -> Iterator[dict[str, Any]]:
        """Yield the same few thousand training data every time."""
        examples = self._spread_examples(_CALIBRATION_DATA)
        batch_size = max(self.args.per_device_train_batch_size, 2)
        for start in range(0, len(examples), batch_size):
            yield self._prepare_inputs(self.data_collator(examples[start : start + batch_size]))

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Evaluate the averaged weights; see `Trainer.evaluate`.

        Of several evaluation sets each has its own loss terms and diagnostics, under its own prefix.
        """
        prefix = inspect.signature(super().evaluate).bind(*args, **kwargs).arguments.get("metric_key_prefix", "eval")
        before, self._evaluated = self._evaluated, prefix
        self.monitors["eval"].clear()
        try:
            with self.averaged_weights():
                return super().evaluate(*args, **kwargs)
        finally:
            self._evaluated = before

    def predict(self, *args: Any, **kwargs: Any) -> PredictionOutput:
        """Predict by the averaged weights; see `Trainer.predict`.

        The predictions, as in `compute_metrics`, are the posterior means `(num, num_latents, latent_dim)`; of a model
        with a property head a tuple of these and the predicted properties. `label_ids` are the decoder's targets.
        """
        with self.averaged_weights():
            return super().predict(*args, **kwargs)

    def prediction_step(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        prediction_loss_only: bool,
        ignore_keys: list[str] | None = None,
    ) -> Any:
        """Leave out of the predictions what is one number for a batch; see `Trainer.prediction_step`."""
        if missing := [name for name in self.label_names if inputs.get(name) is None]:
            raise ValueError(f"`label_names` must be in the batch, which lacks {missing} of {self.label_names}.")
        return super().prediction_step(model, inputs, prediction_loss_only, [*(ignore_keys or ()), *_NOT_PREDICTED])

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train; the model ends up with the averaged weights (of the best checkpoint, if that is asked for).

        With or without them, the latents' normalisation ends up with the statistics of the training data, and the
        model in evaluation mode: a pipeline around it can be used at once. With several processes each draws its own
        noise.
        """
        if not hasattr(self._eddpm, "peft_config"):
            self._eddpm.name_or_path = ""  # no longer the weights of that name
        result = super().train(*args, **kwargs)
        self._finish_weights()
        self._eddpm.eval()
        return result

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
            api,
            folder,
            repo_id,
            commit_message,
            revision=kwargs.get("revision") or self.args.hub_revision,
            run_as_future=not blocking,
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
        folder = Path(resume_from_checkpoint)
        if folder.is_dir() and not any(folder.glob("optimizer*")):
            raise ValueError(
                f"`resume_from_checkpoint` {resume_from_checkpoint!r} holds no state of the optimizer, as with "
                "`save_only_model`: start a new training from its weights instead."
            )
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
