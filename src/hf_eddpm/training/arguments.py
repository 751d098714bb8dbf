"""Command-line arguments of the training scripts, with JSON or YAML files of them."""

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser, TrainingArguments
from transformers.utils import logging

from ..data.tables import open_text
from ..extras import needs_extra
from .defaults import UNCONFIGURED
from .options import (
    CardArguments,
    ImageDataArguments,
    ImageModelArguments,
    LoraArguments,
    ProteinDataArguments,
    ProteinModelArguments,
    TextDataArguments,
    TextModelArguments,
    TrainingOptions,
)
from .precision import DTYPE_NAMES, PRECISIONS, choose_precision, has_accelerator

with needs_extra("The command line of training"):
    import yaml

__all__ = [
    "CardArguments",
    "EDDPMTrainingArguments",
    "ImageDataArguments",
    "ImageModelArguments",
    "LoraArguments",
    "ProteinDataArguments",
    "ProteinModelArguments",
    "TextDataArguments",
    "TextModelArguments",
    "merge",
    "parse_arguments",
]

logger = logging.get_logger(__name__)


@dataclass
class EDDPMTrainingArguments(TrainingOptions, TrainingArguments):
    """transformers' TrainingArguments and what EDDPMTrainer adds.

    `precision` decides; `bf16` and `fp16` say what was decided. Given themselves they must not contradict it.
    """

    bf16: bool | None = field(default=None, metadata={"help": "The same as `precision` bf16; false rules it out."})
    fp16: bool | None = field(default=None, metadata={"help": "The same as `precision` fp16."})
    logging_nan_inf_filter: bool = field(
        default=False,
        metadata={"help": "Log the mean of before where the loss is not finite; it makes a GPU wait at every step."},
    )

    def __post_init__(self) -> None:
        chosen = self._choose_precision()
        self.bf16, self.fp16 = chosen == "bf16", chosen == "fp16"
        if not has_accelerator(self.use_cpu):  # type: ignore[has-type]
            # Without it transformers takes bf16 for a GPU's, and accelerate each process of torchrun for the only one.
            self.use_cpu = True
        super().__post_init__()
        if self.save_dtype not in ("float32", "float16", "bfloat16"):
            raise ValueError(f"`save_dtype` must be float32, float16 or bfloat16, got {self.save_dtype!r}.")

    @property
    def chosen_precision(self) -> str:
        """What the training multiplies in: bf16, fp16 or fp32."""
        return "bf16" if self.bf16 else "fp16" if self.fp16 else "fp32"

    def describe_precision(self) -> str:
        """The chosen precision for the log and the card, and that it was chosen if it was."""
        name = DTYPE_NAMES[self.chosen_precision]
        kind = name if name == "float32" else f"{name} autocast"
        return f"{kind} (`precision` auto)" if self.precision == "auto" else kind

    def _choose_precision(self) -> str:
        if self.precision not in PRECISIONS:
            raise ValueError(f"`precision` must be one of {', '.join(PRECISIONS)}, got {self.precision!r}.")
        flags = {"bf16": self.bf16, "fp16": self.fp16}
        on = [name for name, value in flags.items() if value]
        if len(on) > 1:
            raise ValueError("`bf16` and `fp16` exclude each other: give one `precision` instead.")
        if (on and self.precision not in ("auto", *on)) or flags.get(self.precision) is False:
            flag = on[0] if on else self.precision
            raise ValueError(
                f"`{flag}` {str(bool(on)).lower()} contradicts `precision` {self.precision!r}: give `precision` alone."
            )
        argument = on[0] if on else "precision"
        self.precision = wanted = on[0] if on else self.precision
        launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
        if launched in ("bf16", "fp16"):  # what the Trainer would otherwise use without a word
            if wanted not in ("auto", launched):
                raise ValueError(
                    f"`precision` {wanted!r} contradicts the mixed precision {launched!r} of `accelerate launch`."
                )
            wanted = launched
        elif wanted == "auto" and self.bf16 is False:
            wanted = "fp32"
        return choose_precision(wanted, self.use_cpu, argument)


def parse_arguments(*argument_classes: type, args: Sequence[str] | None = None) -> tuple[Any, ...]:
    """Parses the command line; its first word may be a .json or .yaml file, whose values the rest overrides.

    A mapping on the command line (`--model_config`) is merged into the file's, see `merge`. Without `output_dir` the
    output goes to `runs/<name of the file>`, or `runs/unnamed` without a file. Without a file a training takes the
    values of `defaults.UNCONFIGURED` and as many steps as fit its data.

    Args:
        argument_classes: Dataclasses, one instance of each of which is returned.
        args: The command line; `None` for `sys.argv`.

    Raises:
        ValueError: The file is missing, or holds something that is no argument.
    """
    words = list(sys.argv[1:] if args is None else args)
    parser = HfArgumentParser(argument_classes)
    name = "unnamed"
    if words and words[0].endswith((".json", ".yaml", ".yml")):
        path = Path(words.pop(0))
        values, name = _read_config(path), path.stem
        known = {action.dest for action in parser._actions}
        if unknown := sorted(set(values) - known):
            raise ValueError(f"The configuration file holds unknown arguments: {unknown}.")
        parser.set_defaults(**values)
        for action in parser._actions:
            if isinstance(values.get(action.dest), dict):
                action.type = _merge_into(values[action.dest])
    trains = any(issubclass(each, TrainingArguments) for each in argument_classes)
    if trains and name == "unnamed":
        parser.set_defaults(**UNCONFIGURED)
    if trains and parser.get_default("output_dir") is None:
        parser.set_defaults(output_dir=str(Path("runs") / name))
    parsed = parser.parse_args_into_dataclasses(args=words)
    given = {word.partition("=")[0] for word in words}
    for each in parsed:
        if isinstance(each, TrainingArguments) and name == "unnamed":
            each.steps_fit_data = given.isdisjoint(("--max_steps", "--num_train_epochs"))
    return parsed


def merge(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Merges a mapping into another, key by key, at every depth.

    Mappings are merged; any other value of `changes` replaces the one it meets. A block that names another
    `model_type` than the one it meets replaces it: the keys of one kind of net mean nothing to another.
    """
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        if old is not None and _same_kind(old, value):
            merged[key] = merge(old, value)
        else:
            merged[key] = value
    return merged


def _same_kind(old: Any, new: Any) -> bool:
    if not isinstance(old, Mapping) or not isinstance(new, Mapping):
        return False
    return new.get("model_type", old.get("model_type")) == old.get("model_type")


def _merge_into(base: dict[str, Any]) -> Callable[[str], Any]:
    def convert(text: str) -> Any:
        try:
            changes = json.loads(text)
        except json.JSONDecodeError:
            return text  # the argument's own class says what is wrong with it
        return merge(base, changes) if isinstance(changes, dict) else text

    return convert


def _read_config(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ValueError(f"No such configuration file: {str(path)!r}.")
    with open_text(path) as file:
        text = file.read()
    try:
        values = json.loads(text) if path.suffix == ".json" else yaml.safe_load(text)
    except (json.JSONDecodeError, yaml.YAMLError) as error:
        kind = "JSON" if path.suffix == ".json" else "YAML"
        raise ValueError(f"{str(path)!r} is no {kind}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{str(path)!r} must hold a mapping of argument names to values.")
    return values
