"""What the folder of an adapter holds: peft's own format beside `base_models.json`, which names the pretrained models.

    {"encoder": {"name": "user/encoder", "revision": null}, "decoder": {...}}

or `{"model": {...}}` where the base is a whole EDDPM checkpoint.
"""

import json
import os
from collections.abc import Collection
from pathlib import Path
from typing import Any

from huggingface_hub import try_to_load_from_cache
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from safetensors.torch import save_file
from torch import nn

ADAPTER_FOLDER = "adapter"
BASE_MODELS_FILE = "base_models.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."
_PARTS = ("encoder", "decoder")

BaseModels = dict[str, dict[str, str | None]]


def without_wrapper(model: nn.Module) -> Any:
    """Return the model inside peft's wrapper, or the model itself."""
    return model.get_base_model() if isinstance(model, PeftModel) else model


def find_base_models(model: Any) -> BaseModels:
    """Return the names of the pretrained models that a model's frozen weights come from.

    Args:
        model: The model, with adapters.

    Raises:
        ValueError: If frozen weights come from nowhere that a name stands for.
    """
    if model.name_or_path:
        return {"model": _source(model.name_or_path)}
    bases: BaseModels = {}
    for part in _PARTS:
        backbone = getattr(getattr(model, part), "backbone", None)
        if backbone is None or isinstance(backbone, AuxiliaryTrainingWrapper):
            continue  # all of it is in the adapter
        config = getattr(model.config, part)
        if not getattr(config, "_name_or_path", ""):
            raise ValueError(
                f"The {part}'s backbone was made from scratch, and an adapter alone would lack its weights: merge the "
                "adapter (`merge_adapter`) before saving, or name the pretrained model in `base_models`."
            )
        bases[part] = _source(config._name_or_path)
    return bases


def _source(name: str) -> dict[str, str | None]:
    """Return a name with the commit that lies in the cache, so that a later one does not change the model."""
    hits = [try_to_load_from_cache(name, file) for file in ("config.json", "model_index.json") if name.count("/") < 2]
    paths = [hit for hit in hits if isinstance(hit, str) and not os.path.isdir(name)]
    return {"name": name, "revision": Path(paths[0]).parent.name if paths else None}


def active_adapter(model: nn.Module) -> str:
    """Return the name of the adapter that a model uses.

    Raises:
        ValueError: If it uses none, or several at once, which one adapter cannot stand for.
    """
    layers = [module for module in without_wrapper(model).modules() if isinstance(module, BaseTunerLayer)]
    names = {name for layer in layers if not layer.disable_adapters for name in layer.active_adapters}
    if len(names) != 1:
        raise ValueError(
            f"A model is saved with the one adapter that is active, here are {sorted(names)}: choose one by "
            "`set_adapter`, or merge them (`merge_adapter`)."
        )
    return names.pop()


def find_lost(model: nn.Module, base_models: Collection[str]) -> list[str]:
    """Return the names of the tensors that neither an adapter nor a pretrained model holds.

    Args:
        model: The model, with an adapter.
        base_models: The parts that are pretrained, or "model".
    """
    pretrained = ("",) if "model" in base_models else tuple(f"{part}.backbone." for part in base_models)
    inside = (".modules_to_save.", ".original_module.")
    return [
        name
        for name in model.state_dict()
        if not name.startswith(pretrained) and not any(wrapped in name for wrapped in inside)
    ]


def save_adapter(
    model: nn.Module, folder: str | os.PathLike, base_models: BaseModels | None = None, adapter_name: str = "default"
) -> None:
    """Save a model's adapter, with all that trains beside it, in peft's format and safetensors only.

    Args:
        model: An `EDDPMModel` with an adapter, or peft's wrapper of one.
        folder: Where to; made if need be.
        base_models: Names of the pretrained models; `None` for [`find_base_models`].
        adapter_name: Which adapter.

    Raises:
        ValueError: If the model has no such adapter, weights would be lost, or the base models have no names.
    """
    eddpm = without_wrapper(model)
    if adapter_name not in getattr(eddpm, "peft_config", {}):
        raise ValueError(f"`model` must have an adapter {adapter_name!r}, got {type(eddpm).__name__} without it.")
    bases = find_base_models(eddpm) if base_models is None else base_models
    if lost := find_lost(eddpm, bases):
        raise ValueError(
            f"An adapter alone would lack {lost[0]!r} and {len(lost) - 1} other tensors, which are not pretrained: "
            "name their modules in `modules_to_save`, or merge the adapter (`merge_adapter`) before saving."
        )
    state = get_peft_model_state_dict(eddpm, adapter_name=adapter_name, save_embedding_layers=False)
    state = {f"{PEFT_PREFIX}{name.removeprefix(PEFT_PREFIX)}": value.contiguous() for name, value in state.items()}
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config: Any = eddpm.peft_config[adapter_name]
    inference_mode, config.inference_mode = config.inference_mode, True
    name_before = config.base_model_name_or_path
    config.base_model_name_or_path = (bases.get("model") or bases.get("decoder") or {}).get("name")
    try:
        config.save_pretrained(str(folder))
    finally:
        config.inference_mode, config.base_model_name_or_path = inference_mode, name_before
    (folder / BASE_MODELS_FILE).write_text(json.dumps(bases, indent=2) + "\n", encoding="utf-8")
    save_file(state, folder / WEIGHTS_FILE, metadata={"format": "pt"})
