"""Options of transformers' Trainer that would be ignored here, or do something else than they say: refused by name."""

from collections.abc import Mapping
from typing import Any

from torch import nn
from transformers import TrainingArguments
from transformers.debug_utils import DebugOption

from ..modeling_eddpm import EDDPMModel

# Option: the only value it may have, and why. Some are not known to every release of transformers.
_FIXED: dict[str, tuple[Any, str]] = {
    "label_smoothing_factor": (0.0, "the loss is the model's own, which has no labels to smooth"),
    "use_liger_kernel": (False, "Liger has no kernels for these models"),
    "liger_kernel_config": (None, "Liger has no kernels for these models"),
    "bf16_full_eval": (False, "it would leave the weights themselves rounded; `bf16` evaluates in bfloat16"),
    "fp16_full_eval": (False, "it would leave the weights themselves rounded; `fp16` evaluates in float16"),
    "deepspeed": (None, "`fsdp` shards the model"),
    "hub_always_push": (False, "the pipeline is uploaded when training has ended, and nothing before"),
}
_WITHOUT_OPTIM_ARGS = ("adamw_torch", "adamw_torch_fused", "adafactor")
_LOW_RANK = ("galore", "apollo")
_COLLATED = ("diffusion_mask", "properties", "class_labels")  # what a batch may hold besides the processor's


def check_options(
    args: TrainingArguments,
    model: EDDPMModel,
    train_dataset: Any,
    compute_metrics: Any = None,
    compute_loss_func: Any = None,
) -> None:
    """Raise a ValueError for an option that training would not heed.

    Args:
        args: The options.
        model: The model, not wrapped.
        train_dataset: The training data, or None.
        compute_metrics: As given to the trainer.
        compute_loss_func: As given to the trainer.
    """
    for name, (value, reason) in _FIXED.items():
        if getattr(args, name, value) != value:
            raise ValueError(f"`{name}` must be {value}, got {getattr(args, name)!r}: {reason}.")
    if compute_loss_func is not None:
        raise ValueError("`compute_loss_func` must be None: the loss is the model's own. Override `compute_loss`.")
    _check_optimizer(args)
    _check_order(args, train_dataset)
    _check_inputs(args, model)
    _check_metrics(args, compute_metrics)
    if DebugOption.UNDERFLOW_OVERFLOW in args.debug:
        raise ValueError("`debug` must be without 'underflow_overflow', which fails at attention masks that are bool.")
    for name in ("tp_size", "cp_size", "sp_size"):
        if (getattr(args.parallelism_config, name, None) or 1) > 1:
            raise ValueError(
                f"`parallelism_config` must have {name} 1, got {getattr(args.parallelism_config, name)}: the model is "
                "divided by `fsdp` alone, and a datum is encoded in one piece."
            )
    if args.push_to_hub and args.hub_strategy in ("checkpoint", "all_checkpoints"):
        raise ValueError(
            f"`hub_strategy` must be 'end' or 'every_save', got {args.hub_strategy.value!r}: checkpoints are not "
            "uploaded, but the pipeline when training has ended."
        )


def _check_optimizer(args: TrainingArguments) -> None:
    optim = str(getattr(args.optim, "value", args.optim))
    if optim.startswith("schedule_free"):
        raise ValueError(
            f"`optim` must be no schedule-free one, got {optim!r}: these evaluate averaged weights of their own. "
            "`ema_decay` averages the weights of any other."
        )
    if args.optim_args and optim in _WITHOUT_OPTIM_ARGS:
        raise ValueError(
            f"`optim_args` must be None with `optim` {optim!r}, which reads none, got {args.optim_args!r}."
        )
    if args.optim_target_modules is not None and not optim.startswith(_LOW_RANK):
        raise ValueError(
            f"`optim_target_modules` must be None with `optim` {optim!r}, got {args.optim_target_modules!r}: "
            "only GaLore and APOLLO read it."
        )


def _check_order(args: TrainingArguments, train_dataset: Any) -> None:
    strategy = args.train_sampling_strategy
    if strategy == "batch_rebalance":
        raise ValueError(
            "`train_sampling_strategy` must not be 'batch_rebalance': its batches differ in size, so that data would "
            "count more or less in the mean over a step. 'group_by_length' keeps like lengths together."
        )
    if strategy == "group_by_length" and train_dataset is not None and not hasattr(train_dataset, "__len__"):
        raise ValueError("`train_sampling_strategy` 'group_by_length' needs training data with a length: no stream.")
    column = args.length_column_name
    if strategy == "group_by_length" and column != "length" and train_dataset is not None:
        columns = getattr(train_dataset, "column_names", None) or []
        if column not in columns:
            raise ValueError(f"`length_column_name` must be a column of the training data, {columns}, got {column!r}.")
    if not args.accelerator_config.use_seedable_sampler:
        raise ValueError(
            "`accelerator_config` must have use_seedable_sampler True: without it a resumed run finds the data in "
            "another order."
        )


def _check_inputs(args: TrainingArguments, model: EDDPMModel) -> None:
    names = [*model.encoder.input_names, *model.decoder.target_names, *_COLLATED]
    if unknown := sorted(set(args.label_names or ()) - set(names)):
        raise ValueError(f"`label_names` must be among {sorted(set(names))}, got {unknown}.")
    counts_tokens = args.include_num_input_tokens_seen not in (False, "no")
    if counts_tokens and "input_ids" not in names:
        raise ValueError(
            f"`include_num_input_tokens_seen` must be 'no' for the modality {model.config.modality!r}, which has no "
            "tokens."
        )
    if "inputs" in args.include_for_metrics and "input_ids" not in names:
        raise ValueError(
            f"`include_for_metrics` must be without 'inputs' for the modality {model.config.modality!r}, which has no "
            "`input_ids`; the targets are `label_ids`."
        )
    if args.neftune_noise_alpha is not None and not isinstance(model.get_input_embeddings(), nn.Embedding):
        raise ValueError(
            f"`neftune_noise_alpha` must be None for the modality {model.config.modality!r}: there are no embeddings "
            "of tokens to add noise to."
        )


def _check_metrics(args: TrainingArguments, compute_metrics: Any) -> None:
    if unknown := sorted(set(args.include_for_metrics) - {"inputs", "loss"}):
        raise ValueError(f"`include_for_metrics` must be among ['inputs', 'loss'], got {unknown}.")
    for_metrics: Mapping[str, Any] = {
        "include_for_metrics": args.include_for_metrics,
        "batch_eval_metrics": args.batch_eval_metrics,
    }
    for name, value in for_metrics.items():
        if value and compute_metrics is None:
            raise ValueError(f"`{name}` needs `compute_metrics`, which gets what it chooses; got {value!r} alone.")
    if args.prediction_loss_only and compute_metrics is not None:
        raise ValueError("`prediction_loss_only` must be False with `compute_metrics`, which needs predictions.")
