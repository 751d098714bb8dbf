"""What the training scripts share: the start, resuming, and the facts of a run that its card is made from."""

import json
import logging as python_logging
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import torch
from transformers import set_seed
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import logging

from ..hub.card import EVALUATION_FILE, TRAINING_FILE
from ..pipeline_eddpm import EDDPMPipeline
from .arguments import EDDPMTrainingArguments
from .callbacks import train_seconds
from .environment import describe_environment, without_folders
from .trainer import EDDPMTrainer

logger = logging.get_logger(__name__)


def set_up(training_args: EDDPMTrainingArguments, *loggers: str, model_config: dict[str, Any] | None = None) -> None:
    """Starts a script: progress in the log, threads, seed; logs the precision and where the output goes.

    Args:
        training_args: Supplies `num_threads` and `seed`.
        loggers: Names of loggers whose information is worth a line even where warnings suffice.
        model_config: Values of the model's configuration, file and command line together, to be logged.
    """
    logging.set_verbosity_info()
    python_logging.basicConfig(stream=sys.stderr)
    own = (f"hf_eddpm.training.{name}" for name in ("trainer", "callbacks", "start"))
    for name in (*loggers, __name__, *own):
        python_logging.getLogger(name).setLevel(python_logging.INFO)
    if training_args.num_threads is not None:
        torch.set_num_threads(training_args.num_threads)
    set_seed(training_args.seed)
    logger.info(f"Precision: {training_args.describe_precision()}. Output: {training_args.output_dir}.")
    if model_config:
        logger.info(f"model_config: {json.dumps(model_config)}")


def warn_of_unused_labels(what: str, column: str | None) -> None:
    """Says that labels are there which the training does not use."""
    source = "" if column is None else f" (`label_column` {column!r})"
    logger.warning(
        f"The labels of {what}{source} are not used: `num_classes` in `model_config` would tell them to the denoiser."
    )


def find_checkpoint(training_args: EDDPMTrainingArguments) -> str | None:
    """Returns the checkpoint to resume from: a folder, or with "auto" the last one of `output_dir` if any."""
    wanted = training_args.resume_from_checkpoint
    if wanted != "auto":
        return wanted
    folder = Path(training_args.output_dir)
    return get_last_checkpoint(str(folder)) if folder.is_dir() else None


def describe_arguments(*arguments: Any) -> dict[str, Any]:
    """The values of the arguments that differ from their defaults, secrets left out."""
    facts = {}
    for group in arguments:
        for item in fields(group):
            value = getattr(group, item.name)
            default = item.default_factory() if item.default_factory is not MISSING else item.default
            # `TrainingArguments` turns some of its `None` into empty values; its enumerations are strings.
            differs = value != default and (value or default or type(value) is int)
            # `bf16` and `fp16` only repeat the precision that the settings tell.
            unsaid = item.name.endswith("_token") or item.name in ("resume_from_checkpoint", "bf16", "fp16")
            if differs and not unsaid and isinstance(value, (str, int, float, list, dict)):
                facts[item.name] = value
    return facts


def describe_run(trainer: EDDPMTrainer, metrics: dict[str, float]) -> dict[str, Any]:
    """The facts of the training itself."""
    args, state = trainer.args, trainer.state
    return {
        "seed": args.seed,
        "steps": state.global_step,
        "batch_size": args.train_batch_size * args.gradient_accumulation_steps * args.world_size,
        "settings": {
            "optimiser": f"{args.optim.value}, weight decay {args.weight_decay:g}",
            "learning_rate": f"{args.learning_rate:g}, {args.lr_scheduler_type.value}, "
            f"{args.get_warmup_steps(state.max_steps)} warm-up steps",
            "precision": args.describe_precision(),
            "average_of_weights": "none" if args.ema_decay is None else f"exponential, decay {args.ema_decay:g}",
        },
        "wall_time_seconds": train_seconds(state),
        **describe_environment(args.device),
        "metrics": metrics,
        "log": thin_log(state.log_history),
    }


def hold_out_distinct(items: Sequence[str], dev_fraction: float, seed: int, what: str) -> set[str]:
    """Chooses which of the distinct items are held out, so that equal items stay on one side.

    Args:
        items: The training data, repeats included.
        dev_fraction: Share of the distinct items to hold out, in (0, 1); at least one item is.
        seed: Seed of the choice.
        what: What the items are, plural, for the error.

    Raises:
        ValueError: The share is outside its range, or nothing would be left to train on.
    """
    if not 0 < dev_fraction < 1:
        raise ValueError(f"`dev_fraction` must be in (0, 1), got {dev_fraction}.")
    distinct = sorted(set(items))
    random.Random(seed).shuffle(distinct)
    held_out = set(distinct[: max(1, round(len(distinct) * dev_fraction))])
    if len(held_out) == len(distinct):
        raise ValueError(f"`train` must hold at least two different {what} where `dev` is not given.")
    return held_out


def save_pipeline(pipe: EDDPMPipeline, folder: Path) -> None:
    """Saves a trained pipeline; an evaluation that lies in its folder is of other weights and goes."""
    (folder / EVALUATION_FILE).unlink(missing_ok=True)
    pipe.save_pretrained(folder)


def publish(
    trainer: EDDPMTrainer,
    pipe: EDDPMPipeline,
    folder: Path,
    facts: dict[str, Any],
    write_card: Callable[[EDDPMPipeline, Path], Path],
) -> None:
    """Leaves the facts and the card beside a saved pipeline, and uploads it if `push_to_hub` asks for that."""
    write_facts(folder, facts)
    write_card(pipe, folder)
    logger.info(f"Saved the pipeline in {folder}.")
    if trainer.args.push_to_hub:
        trainer.push_to_hub()


def write_facts(folder: Path, facts: dict[str, Any]) -> None:
    """Leaves the facts of a run in the pipeline's folder, without the names of local folders."""
    text = json.dumps(without_folders(facts), indent=1, ensure_ascii=False)
    (folder / TRAINING_FILE).write_text(text + "\n", encoding="utf-8")


def thin_log(history: list[dict[str, float]], max_entries: int = 100) -> list[dict[str, float]]:
    """At most `max_entries` of each kind of log entry (training, evaluation), evenly spread, both ends among them."""
    kept: list[int] = []
    for kind in ("loss", "eval_loss"):
        rows = [row for row, entry in enumerate(history) if kind in entry]
        stride = max(1.0, (len(rows) - 1) / (max_entries - 1))
        kept += [rows[round(place * stride)] for place in range(min(len(rows), max_entries))]
    return [history[row] for row in sorted(kept)]
