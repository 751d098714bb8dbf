"""Models with adapters: built from their base models, or merged into plain ones."""

import copy
import os
import re
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel, get_peft_model_state_dict
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper
from safetensors import SafetensorError
from torch import nn

from ..adapter_files import (
    ADAPTER_FOLDER,
    BASE_MODELS_FILE,
    PEFT_PREFIX,
    WEIGHTS_FILE,
    BaseModels,
    find_lost,
    without_wrapper,
)
from ..argument_checks import is_integer
from ..configuration_eddpm import EDDPMConfig
from ..modalities.backbones import load_backbone
from ..modalities.registry import get_modality
from ..modeling_eddpm import EDDPMModel
from ..weight_files import Headers, check_finite, check_size, find_weight_files, outline, read_headers
from .contents import read_json
from .download import download_pipeline


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
    bases = _read_base_models(folder)
    if unknown := sorted(set(base_models or {}) - set(bases)):
        raise ValueError(f"`base_models` must be among {sorted(bases)}, got {unknown}.")
    for part, name in (base_models or {}).items():
        bases[part] = {"name": os.fspath(name), "revision": None}

    def load(part: str, load_it: Any) -> Any:
        base = bases[part]
        try:
            return load_it(base["name"], {"revision": base["revision"]} if base["revision"] else {})
        except (OSError, ValueError, RuntimeError) as error:
            raise OSError(
                f"The adapter needs the base model {base['name']!r} for its {part}, which cannot be loaded ({error}). "
                f"If it lies elsewhere, pass `base_models={{{part!r}: ...}}`."
            ) from error

    if "model" in bases:
        model = load("model", lambda name, at: _load_whole(name, dtype, **at, **hub_arguments))
    else:
        modality = get_modality(config.modality)
        _check_sizes(config, folder, bases, hub_arguments)
        modules = {}
        part_class: Any
        for part, part_class in (("encoder", modality.encoder_class), ("decoder", modality.decoder_class)):
            if part in bases:
                part_config = getattr(config, part)
                backbone = load(
                    part,
                    lambda name, at, part=part, own=part_config: _load_whole_backbone(
                        part, name, own, dtype=dtype, **at, **hub_arguments
                    ),
                )
                backbone.config._name_or_path = bases[part]["name"]
                setattr(config, part, backbone.config)
                modules[part] = part_class(config, backbone)
        model = EDDPMModel(config, **modules).to(dtype)
        model.name_or_path = ""  # no checkpoint holds its weights
    _insert_adapter(model, folder, is_trainable)
    if lost := find_lost(model, bases):
        raise OSError(
            f"The adapter in {str(folder)!r} lacks {lost[0]!r} and {len(lost) - 1} other tensors, and its "
            f"{BASE_MODELS_FILE} names no pretrained model that has them."
        )
    return model.eval()


def _read_base_models(folder: Path) -> BaseModels:
    """Return what an adapter's `base_models.json` holds, checked."""
    path = folder / BASE_MODELS_FILE
    if not path.is_file():
        raise OSError(f"{str(folder)!r} is no adapter of this package: it has no {BASE_MODELS_FILE}.")
    bases = read_json(path)
    allowed = {"model"} if "model" in bases else {"encoder", "decoder"}
    for part, base in bases.items():
        valid = part in allowed and isinstance(base, dict) and isinstance(base.get("name"), str) and base["name"]
        if not valid or not isinstance(base.get("revision"), (str, type(None))):
            raise OSError(
                f"{str(path)!r} is damaged: it must name, for each of {sorted(allowed)} that is pretrained, a `name` "
                f"and a `revision` or null; got {base!r} for {part!r}."
            )
    return {part: {"name": base["name"], "revision": base.get("revision")} for part, base in bases.items()}


def _check_sizes(config: EDDPMConfig, folder: Path, bases: BaseModels, hub_arguments: dict[str, Any]) -> None:
    """Raise an OSError if the config asks for many more weights than the adapter and its base models hold."""
    files = [folder / WEIGHTS_FILE]
    own = copy.deepcopy(config)  # a model changes its config
    model = outline(lambda: EDDPMModel(own), len(read_headers(files)), str(folder))
    rest = [*model.named_parameters(), *model.named_buffers()]
    for part, base in bases.items():
        inside = f"{part}.backbone."
        backbone = [tensor for name, tensor in rest if name.startswith(inside)]
        rest = [(name, tensor) for name, tensor in rest if not name.startswith(inside)]
        revision = {"revision": base["revision"]} if base["revision"] else {}
        try:
            base_files = find_weight_files(str(base["name"]), **revision, **hub_arguments)
        except OSError:
            continue  # loading it says what is wrong, or reads weights of another kind
        check_size(backbone, base_files, str(base["name"]))
    check_size([tensor for _, tensor in rest], files, str(folder))


def _load_whole_backbone(part: str, name: str, config: Any, **arguments: Any) -> Any:
    """Load a pretrained backbone; layers that it lacks are an error, where transformers would make new ones."""
    backbone: Any
    backbone, info = load_backbone(part, name, config, output_loading_info=True, **arguments)
    if missing := sorted(info["missing_keys"]):
        raise OSError(f"it lacks {len(missing)} weights that the adapter's config asks for, {missing[0]!r} for one")
    return backbone


def load_model(folder: str | os.PathLike, dtype: torch.dtype, **hub_arguments: Any) -> EDDPMModel:
    """Load the model of a saved pipeline: its own weights, or its base models and the adapter on them.

    Args:
        folder: The pipeline's folder.
        dtype: Type of the weights.
        **hub_arguments: For base models on the Hub.
    """
    model_folder, adapter = Path(folder) / "model", Path(folder) / ADAPTER_FOLDER
    if not adapter.is_dir():
        return EDDPMModel.from_pretrained(model_folder, dtype=dtype)
    return load_adapted_model(EDDPMConfig.from_pretrained(model_folder), adapter, dtype=dtype, **hub_arguments)


def _load_whole(name: str, dtype: torch.dtype, **hub_arguments: Any) -> EDDPMModel:
    """Load an EDDPM checkpoint by its name: a model's folder, a pipeline's, or a repository on the Hub."""
    if os.path.isfile(os.path.join(name, "config.json")):
        model = EDDPMModel.from_pretrained(name, dtype=dtype)
    else:
        folder = name if os.path.isdir(name) else download_pipeline(name, **hub_arguments)
        hub_arguments.pop("revision", None)  # of this repository, not of the base models under it
        model = load_model(folder, dtype, **hub_arguments)
    model.name_or_path = name
    return model


def _insert_adapter(model: EDDPMModel, folder: Path, is_trainable: bool) -> None:
    """Put the adapter in and make sure that file and model agree on every tensor; peft would only warn."""
    headers = read_headers([folder / WEIGHTS_FILE])
    _check_rank(folder, headers)
    try:
        PeftModel.from_pretrained(model, str(folder), is_trainable=is_trainable)
    except (SafetensorError, FileNotFoundError) as error:
        raise OSError(f"The adapter in {str(folder)!r} is damaged or incomplete ({error}).") from error
    except (RuntimeError, KeyError, ValueError, TypeError, AttributeError, re.error) as error:
        raise OSError(
            f"The adapter in {str(folder)!r} fits another model, or its adapter_config.json is damaged: {error}"
        ) from error
    state = get_peft_model_state_dict(model, save_embedding_layers=False)
    wanted = {f"{PEFT_PREFIX}{name.removeprefix(PEFT_PREFIX)}": tuple(value.shape) for name, value in state.items()}
    stored = {name: shape for name, (_, shape) in headers.items()}
    if different := sorted(set(stored.items()) ^ set(wanted.items())):
        raise OSError(
            f"The adapter in {str(folder)!r} fits another model: {len(different)} tensors differ, "
            f"{different[0][0]!r} for one."
        )
    check_finite(state, str(folder))


def _check_rank(folder: Path, headers: Headers) -> None:
    """Raise an OSError if LoRA's configuration asks for a higher rank than the weights have."""
    values = read_json(folder / "adapter_config.json")
    stored = [shape[0] for name, (_, shape) in headers.items() if ".lora_A." in name or ".lora_embedding_A" in name]
    if values.get("peft_type") != "LORA" or not stored:
        return
    pattern = values.get("rank_pattern") or {}
    for rank in (values.get("r"), *(pattern.values() if isinstance(pattern, dict) else [pattern])):
        if not is_integer(rank) or not 1 <= rank <= max(stored):
            raise OSError(
                f"The adapter in {str(folder)!r} contradicts itself: its weights have at most the rank {max(stored)}, "
                f"adapter_config.json says {rank!r}."
            )


def merge_adapter(model: nn.Module) -> EDDPMModel:
    """Merge the active adapter into the weights, in place, and return the plain model.

    Args:
        model: An `EDDPMModel` with an adapter, or peft's wrapper of one.

    Raises:
        ValueError: If the model has no adapter, or quantised weights, which merging would round.
    """
    eddpm = without_wrapper(model)
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
