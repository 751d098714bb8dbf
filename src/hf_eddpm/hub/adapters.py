"""Checkpoints of models with adapters: the adapter alone with its base models named, or merged into the weights.

The folder `adapter/` is peft's own format beside `base_models.json`, which names the pretrained models:
`{"encoder": {"name": "user/encoder", "revision": null}, "decoder": {...}}`, or `{"model": {...}}` where the base is a
whole EDDPM checkpoint.
"""

import json
import os
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import try_to_load_from_cache
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from ..modalities.backbones import load_backbone
from ..configuration_eddpm import EDDPMConfig
from ..modalities.registry import get_modality
from ..modeling_eddpm import EDDPMModel

ADAPTER_FOLDER = "adapter"
BASE_MODELS_FILE = "base_models.json"
_WEIGHTS_FILE = "adapter_model.safetensors"
_PARTS = ("encoder", "decoder")
_PEFT_PREFIX = "base_model.model."

BaseModels = dict[str, dict[str, str | None]]


def _without_wrapper(model: nn.Module) -> Any:
    return model.get_base_model() if isinstance(model, PeftModel) else model


def find_base_models(model: EDDPMModel) -> BaseModels:
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
    eddpm = _without_wrapper(model)
    if adapter_name not in getattr(eddpm, "peft_config", {}):
        raise ValueError(f"`model` must have an adapter {adapter_name!r}, got {type(eddpm).__name__} without it.")
    bases = find_base_models(eddpm) if base_models is None else base_models
    pretrained = ("",) if "model" in bases else tuple(f"{part}.backbone." for part in bases)
    inside = (".modules_to_save.", ".original_module.")
    if lost := [
        name
        for name in eddpm.state_dict()
        if not name.startswith(pretrained) and not any(wrapped in name for wrapped in inside)
    ]:
        raise ValueError(
            f"An adapter alone would lack {lost[0]!r} and {len(lost) - 1} other tensors, which are not pretrained: "
            "name their modules in `modules_to_save`, or merge the adapter (`merge_adapter`) before saving."
        )
    state = get_peft_model_state_dict(eddpm, adapter_name=adapter_name, save_embedding_layers=False)
    state = {f"{_PEFT_PREFIX}{name.removeprefix(_PEFT_PREFIX)}": value.contiguous() for name, value in state.items()}
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
    save_file(state, folder / _WEIGHTS_FILE, metadata={"format": "pt"})


def load_adapted_model(
    config: EDDPMConfig,
    adapter_folder: str | os.PathLike,
    base_models: dict[str, str | os.PathLike] | None = None,
    dtype: torch.dtype = torch.float32,
    is_trainable: bool = False,
    **hub_arguments: Any,
) -> EDDPMModel:
    """Build a model from its pretrained base models and an adapter.

    Args:
        config: The model's configuration, stored beside the adapter.
        adapter_folder: What [`save_adapter`] wrote.
        base_models: Hub ids or folders in place of those written there: `{"decoder": "my/copy"}`.
        dtype: Type of the weights.
        is_trainable: Whether the adapter goes on training.
        **hub_arguments: `token`, `cache_dir`, `local_files_only`, `force_download`, for base models on the Hub.

    Returns:
        The model in evaluation mode, the adapter in it and active.

    Raises:
        OSError: If a base model cannot be loaded, or the adapter is damaged or fits another model.
        ValueError: If `base_models` names a part that the adapter does not need.
    """
    folder = Path(adapter_folder)
    if not (folder / BASE_MODELS_FILE).is_file():
        raise OSError(f"{str(folder)!r} is no adapter of this package: it has no {BASE_MODELS_FILE}.")
    bases: BaseModels = json.loads((folder / BASE_MODELS_FILE).read_text(encoding="utf-8"))
    if unknown := sorted(set(base_models or {}) - set(bases)):
        raise ValueError(f"`base_models` must be among {sorted(bases)}, got {unknown}.")
    for part, name in (base_models or {}).items():
        bases[part] = {"name": os.fspath(name), "revision": None}

    def load(part: str, load_it: Any) -> Any:
        base = bases[part]
        try:
            return load_it(base["name"], {"revision": base["revision"]} if base["revision"] else {})
        except (OSError, ValueError) as error:
            raise OSError(
                f"The adapter needs the base model {base['name']!r} for its {part}, which cannot be loaded ({error}). "
                f"If it lies elsewhere, pass `base_models={{{part!r}: ...}}`."
            ) from error

    if "model" in bases:
        model = load("model", lambda name, at: _load_whole(name, dtype, **at, **hub_arguments))
    else:
        modality = get_modality(config.modality)
        modules = {}
        part_class: Any
        for part, part_class in (("encoder", modality.encoder_class), ("decoder", modality.decoder_class)):
            if part in bases:
                part_config = getattr(config, part)
                backbone = load(
                    part,
                    lambda name, at, part=part, own=part_config: load_backbone(
                        part, name, own, dtype=dtype, **at, **hub_arguments
                    ),
                )
                backbone.config._name_or_path = bases[part]["name"]
                setattr(config, part, backbone.config)
                modules[part] = part_class(config, backbone)
        model = EDDPMModel(config, **modules).to(dtype)
        model.name_or_path = ""  # no checkpoint holds its weights
    _insert_adapter(model, folder, is_trainable)
    return model.eval()


def _load_whole(name: str, dtype: torch.dtype, **hub_arguments: Any) -> EDDPMModel:
    from ..pipeline_eddpm import EDDPMPipeline

    if os.path.isfile(os.path.join(name, "config.json")):
        return EDDPMModel.from_pretrained(name, dtype=dtype)
    return EDDPMPipeline.from_pretrained(name, dtype=dtype, **hub_arguments).model


def _insert_adapter(model: EDDPMModel, folder: Path, is_trainable: bool) -> None:
    """Put the adapter in and make sure that file and model agree on every tensor; peft would only warn."""
    try:
        with safe_open(folder / _WEIGHTS_FILE, "pt") as file:
            stored = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}
        PeftModel.from_pretrained(model, str(folder), is_trainable=is_trainable)
    except (SafetensorError, FileNotFoundError) as error:
        raise OSError(f"The adapter in {str(folder)!r} is damaged or incomplete ({error}).") from error
    except (RuntimeError, KeyError) as error:  # shapes, modules
        raise OSError(f"The adapter in {str(folder)!r} fits another model: {error}") from error
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    wanted = {f"{_PEFT_PREFIX}{name.removeprefix(_PEFT_PREFIX)}": tuple(value.shape) for name, value in state.items()}
    if different := sorted(set(stored.items()) ^ set(wanted.items())):
        raise OSError(
            f"The adapter in {str(folder)!r} fits another model: {len(different)} tensors differ, "
            f"{different[0][0]!r} for one."
        )


def merge_adapter(model: nn.Module) -> EDDPMModel:
    """Merge the active adapter into the weights, in place, and return the plain model.

    Args:
        model: An `EDDPMModel` with an adapter, or peft's wrapper of one.

    Raises:
        ValueError: If the model has no adapter, or quantised weights, which merging would round.
    """
    eddpm = _without_wrapper(model)
    if not hasattr(eddpm, "peft_config"):
        raise ValueError(f"`model` must have an adapter, got a plain {type(eddpm).__name__}.")
    if any(type(parameter).__name__ in ("Params4bit", "Int8Params") for parameter in eddpm.parameters()):
        raise ValueError("`model` has quantised weights, which merging would round: load the base models unquantised.")
    wrapped = [
        name
        for name, module in eddpm.named_modules()
        if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper))
    ]
    for name in wrapped:
        if any(name.startswith(f"{outer}.") for outer in wrapped):
            continue  # gone with the layer around it
        module: Any = eddpm.get_submodule(name)
        if isinstance(module, AuxiliaryTrainingWrapper):
            plain = module.unload_and_optionally_merge_module(merge=True, safe_merge=True, adapter_names=None)
        else:
            module.merge(safe_merge=True)
            plain = module.get_base_layer()
        parent, _, child = name.rpartition(".")
        setattr(eddpm.get_submodule(parent), child, plain)
    del eddpm.peft_config
    eddpm.name_or_path = ""  # no longer the weights of that name
    for config in (eddpm.config.encoder, eddpm.config.decoder):
        if config is not None:
            config._name_or_path = ""
    return eddpm.requires_grad_(True)
