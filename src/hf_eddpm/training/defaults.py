"""What a training does where nobody says otherwise: values that fit the data and the machine."""

from typing import Any

from transformers import TrainingArguments
from transformers.utils import logging

from .precision import choose_precision, has_accelerator

logger = logging.get_logger(__name__)

BATCH_SIZE = 64
EMA_DECAY = 0.998
_EPOCHS = 30
_LEAST_STEPS, _MOST_STEPS = 300, 20_000


def default_steps(num_data: int, batch_size: int = BATCH_SIZE) -> int:
    """Return the steps of a training: thirty passes over the data, at least 300 and at most 20,000 steps."""
    return min(max(_EPOCHS * num_data // batch_size, _LEAST_STEPS), _MOST_STEPS)


# Of a training by command without a configuration file; the steps come from the data.
UNCONFIGURED: dict[str, Any] = {
    "per_device_train_batch_size": BATCH_SIZE,
    "per_device_eval_batch_size": 250,
    "learning_rate": 1e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 100,
    "weight_decay": 0.01,
    "adam_beta2": 0.98,
    "ema_decay": EMA_DECAY,
    "logging_steps": 100,
    "save_steps": 1000,
    "save_total_limit": 1,
    "report_to": ["none"],
}


def fit_steps(arguments: TrainingArguments, num_data: int) -> None:
    """Set the steps of a training by command to what fits the data, where the command and its file name none.

    Args:
        arguments: Changed in place, if `parse_arguments` marked them with `steps_fit_data`.
        num_data: Training data.
    """
    if getattr(arguments, "steps_fit_data", False):
        arguments.max_steps = default_steps(num_data, arguments.per_device_train_batch_size)
        logger.info(
            f"{num_data} training data: {arguments.max_steps} steps, as neither max_steps nor epochs are given."
        )


def default_arguments(num_data: int, use_cpu: bool = False) -> dict[str, Any]:
    """Return values of `TrainingArguments` for small models that are trained from scratch.

    Args:
        num_data: Training data.
        use_cpu: Whether to stay on the CPU although there is an accelerator.
    """
    precision = choose_precision("auto", use_cpu)
    return {
        "max_steps": default_steps(num_data),
        "per_device_train_batch_size": min(BATCH_SIZE, num_data),
        "per_device_eval_batch_size": 250,
        "learning_rate": 1e-3,
        "lr_scheduler_type": "cosine",
        "warmup_steps": 100,
        "weight_decay": 0.01,
        "adam_beta2": 0.98,
        "bf16": precision == "bf16",
        "fp16": precision == "fp16",
        "use_cpu": use_cpu or not has_accelerator(),
        "logging_steps": 100,
        "save_strategy": "no",
        "report_to": "none",
    }
