"""What a pipeline's folder must hold, checked before anything in it is built."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import diffusers
import numpy as np

from ..argument_checks import check_count, check_number, is_integer, is_number
from ..configuration_eddpm import EDDPMConfig
from ..sampling import check_scheduler
from ..scheduling_eddpm import EDDPMScheduler
from .saving import INDEX_FILE

_COMPONENTS = ("model", "scheduler", "processor")
_SCHEDULERS = ("scheduler", "decoder_scheduler")
_PROCESSOR_FILE = "processor/processor_config.json"


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Args:
        path: The file; a byte order mark at its head does no harm.

    Raises:
        OSError: If there is no such file, or it holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise OSError(f"{str(path.parent)!r} is incomplete: it has no {path.name}.") from None
    except ValueError as error:
        raise OSError(f"{str(path)!r} is damaged: {error}.") from error
    if not isinstance(value, dict):
        raise OSError(f"{str(path)!r} is damaged: it must hold a JSON object, got {type(value).__name__}.")
    return value


def check_contents(folder: Path, index: Mapping[str, Any], config: EDDPMConfig, given: Mapping[str, Any]) -> None:
    """Raise an error that names the file if a pipeline's parts are not there or do not belong together.

    Args:
        folder: The pipeline's folder.
        index: What its model_index.json holds.
        config: The model's configuration.
        given: What the caller gives in the place of what is stored.

    Raises:
        OSError: If a file is missing or damaged, or a schedule is not the model's.
        ValueError: If a default is outside its range.
    """
    _check_components(folder, index, given)
    if "processor" not in given:
        read_json(folder / _PROCESSOR_FILE)
    for name in _SCHEDULERS:
        if name not in given and index.get(name, [None])[0] is not None:
            _check_scheduler(folder, name, index[name], config)
    _check_defaults(index, config, given)


def name_damaged_json(folder: Path) -> str | None:
    """Return the name of a JSON file in a folder, or below it, that cannot be read; None if there is none."""
    for path in sorted(folder.rglob("*.json")):
        try:
            json.loads(path.read_text(encoding="utf-8-sig"))
        except ValueError:
            return str(path)
    return None


def _check_components(folder: Path, index: Mapping[str, Any], given: Collection[str]) -> None:
    for name in (*_COMPONENTS, "decoder_scheduler"):
        value = index.get(name)
        if name in given or (name not in _COMPONENTS and value in (None, [None, None])):
            continue
        if not isinstance(value, list) or len(value) != 2 or not all(isinstance(word, str) for word in value):
            raise OSError(
                f"{INDEX_FILE} in {str(folder)!r} is damaged: `{name}` must be a module and a class in it, "
                f"got {value!r}."
            )


def _check_scheduler(folder: Path, name: str, entry: list[str], config: EDDPMConfig) -> None:
    """Raise an OSError unless a stored scheduler can be made, runs and, if the latents', has the model's schedule."""
    path = folder / name / "scheduler_config.json"
    values = read_json(path)
    length = values.get("num_train_timesteps")
    if length != config.num_train_timesteps or not is_integer(length):
        raise OSError(
            f"{str(path)!r} contradicts the model's config.json: its `num_train_timesteps` is {length!r}, the model's "
            f"{config.num_train_timesteps}."
        )
    for key in ("beta_start", "beta_end"):
        if key in values and not is_number(values[key]):
            raise OSError(f"{str(path)!r} is damaged: `{key}` must be a number, got {values[key]!r}.")
    _, class_name = entry
    scheduler_class: Any = getattr(diffusers, class_name, None)
    if class_name == EDDPMScheduler.__name__:
        scheduler_class = EDDPMScheduler
    if scheduler_class is None:
        return  # another package's, which diffusers looks for
    if diffusers.SchedulerMixin not in getattr(scheduler_class, "__mro__", ()):
        raise OSError(f"{INDEX_FILE} in {str(folder)!r} is damaged: {class_name!r} is no scheduler.")
    try:
        scheduler: Any = scheduler_class.from_config(values)
        if name == "scheduler":  # the decoder's own chain is compared once the decoder is there
            check_scheduler(scheduler, EDDPMScheduler(**config.scheduler_config))
        with np.errstate(all="ignore"):
            scheduler.set_timesteps(min(50, length))
    except Exception as error:  # whatever a scheduler makes of values that cannot be
        raise OSError(f"{str(path)!r} is damaged or another model's: {error}") from error


def _check_defaults(index: Mapping[str, Any], config: EDDPMConfig, given: Mapping[str, Any]) -> None:
    values = {**index, **given}
    for name in ("default_num_inference_steps", "default_num_decoder_steps"):
        if name in values:
            check_count(values[name], name)
            if values[name] > config.num_train_timesteps:
                raise ValueError(
                    f"`{name}` must be at most the model's `num_train_timesteps` = {config.num_train_timesteps}, "
                    f"got {values[name]}."
                )
    if "default_noise_scale" in values:
        check_number(values["default_noise_scale"], "default_noise_scale", above=0)
