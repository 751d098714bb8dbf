"""LoRA by peft: which layers get adapters, what trains beside them, and how many parameters that is.

    peft_model = add_lora(model)                      # q/v projections or what the families' defaults are
    peft_model = add_lora(model, preset="paper")      # every attention and MLP projection
    print(describe_trainable(peft_model))

The adapter's checkpoint is the business of `adapter_checkpoint`.
"""

import difflib
import re
import warnings
from collections.abc import Iterable, Sequence
from typing import Any, Literal

from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING, ModulesToSaveWrapper
from torch import nn
from transformers.pytorch_utils import Conv1D

from ..modeling_eddpm import EDDPMModel

LoraPreset = Literal["family", "paper"]

_PARTS = ("encoder", "decoder")


def lora_config(
    model: EDDPMModel,
    *,
    preset: LoraPreset = "family",
    r: int = 8,
    lora_alpha: int = 16,
    lora_dropout: float = 0.0,
    target_modules: str | Sequence[str] | None = None,
    modules_to_save: Sequence[str] | None = None,
    parts: Sequence[str] = _PARTS,
    **kwargs: Any,
) -> LoraConfig:
    """Build the peft configuration for a model (Hu et al. 2021, arXiv 2106.09685).

    Args:
        model: The model.
        preset: Which layers where `target_modules` is not given. "family": those that peft recommends for each
            backbone's family. "paper": every attention and MLP projection, with the ranks below the setting of
            arXiv 2402.19009.
        r: Rank, at least 1.
        lora_alpha: Scale of the adapters, at least 1; they are multiplied by `lora_alpha / r`.
        lora_dropout: Dropout in [0, 1) before the adapters.
        target_modules: Names of layers (`["q_proj", "v_proj"]`: every layer whose name ends so), or one regular
            expression that whole names must match (`r"decoder\\..*\\.(q|v)_proj"`).
        modules_to_save: Names of modules that train in full beside the adapters and are saved with them. `None`:
            everything that is not pretrained, which is whatever lies outside the backbones of `parts`.
        parts: Which of "encoder" and "decoder" get adapters by the preset; the others train in full.
        **kwargs: Other fields of `peft.LoraConfig`.

    Raises:
        ValueError: If a value is outside its range, or a name or expression matches no layer.
    """
    for name, value in (("r", r), ("lora_alpha", lora_alpha)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")
    if isinstance(lora_dropout, bool) or not 0 <= lora_dropout < 1:
        raise ValueError(f"`lora_dropout` must be in [0, 1), got {lora_dropout!r}.")
    if not parts or set(parts) - set(_PARTS):
        raise ValueError(f"`parts` must name one or both of {list(_PARTS)}, got {list(parts)}.")
    saved = own_modules(model, parts) if modules_to_save is None else list(modules_to_save)
    _check_modules_to_save(model, saved)
    if target_modules is None:
        target_modules = default_targets(model, preset, parts)
    elif not isinstance(target_modules, str):
        target_modules = list(target_modules)
    check_targets(model, target_modules, saved)
    return LoraConfig(
        r=r,
        lora_alpha=lora_alpha,
        lora_dropout=lora_dropout,
        target_modules=target_modules,
        modules_to_save=saved,
        **kwargs,
    )


def add_lora(model: EDDPMModel, config: LoraConfig | None = None, **kwargs: Any) -> PeftModel:
    """Put adapters into a model, in place, and return peft's wrapper of it, in which only they (and
    `modules_to_save`) train.

    Args:
        model: The model, without adapters.
        config: peft's configuration; `None` for `lora_config(model, **kwargs)`.
        **kwargs: As for [`lora_config`].

    Raises:
        ValueError: If the model has adapters already, both `config` and `kwargs` are given, or as for
            [`lora_config`].
    """
    if hasattr(model, "peft_config"):
        raise ValueError("`model` has adapters already: merge them first (`hf_eddpm.hub.adapters`).")
    if config is None:
        config = lora_config(model, **kwargs)
    elif kwargs:
        raise ValueError(f"`config` is given: {sorted(kwargs)} belong in it.")
    else:
        check_targets(model, config.target_modules, config.modules_to_save or ())
    with warnings.catch_warnings():
        # GPT-2's layers store their weights the other way round than BERT's; peft sets this for each and says so.
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")
        return get_peft_model(model, config)


def default_targets(model: EDDPMModel, preset: LoraPreset = "family", parts: Sequence[str] = _PARTS) -> str:
    """Return the regular expression of the layers that get adapters by default.

    Args:
        model: The model.
        preset: As for [`lora_config`].
        parts: Which of "encoder" and "decoder".

    Raises:
        ValueError: If the preset is unknown, no part has a backbone, or peft knows no default for its family.
    """
    if preset not in ("family", "paper"):
        raise ValueError(f"`preset` must be 'family' or 'paper', got {preset!r}.")
    patterns = []
    for part in parts:
        backbone = getattr(getattr(model, part), "backbone", None)
        if backbone is None:
            continue
        if preset == "paper":
            # One pattern for the same layer of all blocks
            names = sorted(
                {re.sub(r"(?<=\\\.)\d+(?=\\\.)", r"\\d+", re.escape(name)) for name in _projections(backbone)}
            )
            patterns.append(rf"{part}\.backbone\.({'|'.join(names)})")
            continue
        family = getattr(model.config, part).get_text_config().model_type
        targets = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(family)
        if targets is None:
            raise ValueError(
                f"`target_modules` must be given: peft has no default for the {part}'s family {family!r}, which has "
                f"layers {_last_names(_projections(backbone))}; or use the preset 'paper'."
            )
        inner = targets if isinstance(targets, str) else rf".*\.({'|'.join(map(re.escape, targets))})"
        patterns.append(rf"{part}\.backbone\.{inner}")
    if not patterns:
        raise ValueError("`target_modules` must be given: neither encoder nor decoder has a backbone to adapt.")
    return "|".join(f"({pattern})" for pattern in patterns)


def check_targets(
    model: nn.Module, target_modules: str | Iterable[str] | None, modules_to_save: Iterable[str] = ()
) -> None:
    """Refuse names and expressions that match no layer: peft lets them pass as long as another one matches.

    Args:
        model: The model, without adapters.
        target_modules: Names, or one regular expression.
        modules_to_save: Modules that train in full, whose layers get no adapters.

    Raises:
        ValueError: If one matches nothing; the message names it and what is near.
    """
    if not target_modules:
        raise ValueError(f"`target_modules` must name layers, got {target_modules!r}.")
    saved = tuple(modules_to_save)
    layers = [name for name, module in model.named_modules() if _is_adaptable(module) and not _lies_in(name, saved)]
    if isinstance(target_modules, str):
        try:
            matches = any(re.fullmatch(target_modules, name) for name in layers)
        except re.error as error:
            raise ValueError(f"`target_modules` {target_modules!r} is no regular expression: {error}.") from error
        if not matches:
            raise ValueError(
                f"`target_modules` {target_modules!r} must match the whole name of a layer of {type(model).__name__} "
                f"and matches none; one is {layers[0]!r}."
            )
        return
    names = sorted(target_modules)
    if unmatched := [target for target in names if not any(f".{name}".endswith(f".{target}") for name in layers)]:
        known = _last_names(layers)
        near = sorted({close for name in unmatched for close in difflib.get_close_matches(name, known, n=2)})
        raise ValueError(
            f"`target_modules` {unmatched} match no layer of {type(model).__name__}; "
            + (f"did you mean {near}?" if near else f"its layers end in {known}.")
        )


def own_modules(model: EDDPMModel, parts: Sequence[str] = _PARTS) -> list[str]:
    """Return the names of the modules that lie outside the backbones of `parts`: bottleneck, denoiser, projections.

    Args:
        model: The model.
        parts: Which of "encoder" and "decoder" have a pretrained backbone; the others count as a whole.
    """
    known = [name for name, _ in model.named_modules()]
    names: list[str] = []

    def collect(name: str, module: nn.Module) -> None:
        pretrained = [f"{part}.backbone" for part in parts]
        if name in pretrained or not module.state_dict():
            return
        # peft looks for modules by the ends of their names ("encoder" is also a part of every BERT).
        clashes = sum(other.endswith(name) for other in known) > 1
        is_list = isinstance(module, (nn.ModuleList, nn.ModuleDict))  # which peft takes no copies of
        if clashes or is_list or any(other.startswith(f"{name}.") for other in pretrained):
            for child_name, child in module.named_children():
                collect(f"{name}.{child_name}", child)
        else:
            names.append(name)

    for name, child in model.named_children():
        collect(name, child)
    return names


def count_parameters(model: nn.Module) -> dict[str, dict[str, int]]:
    """Count the parameters that train and all of them, for each part of a model and in "total".

    Args:
        model: An `EDDPMModel`, or peft's wrapper of one. Originals that `modules_to_save` stand in for do not count.

    Returns:
        `{"encoder": {"trainable": ..., "all": ...}, ..., "total": {...}}`.
    """
    model = model.get_base_model() if isinstance(model, PeftModel) else model
    idle = {
        id(parameter)
        for module in model.modules()
        if isinstance(module, ModulesToSaveWrapper) and module.active_adapters
        for parameter in module.original_module.parameters()
    }
    counts: dict[str, dict[str, int]] = {}
    for name, child in model.named_children():
        parameters = [parameter for parameter in child.parameters() if id(parameter) not in idle]
        counts[name] = {
            "trainable": sum(_size(parameter) for parameter in parameters if parameter.requires_grad),
            "all": sum(_size(parameter) for parameter in parameters),
        }
    counts["total"] = {key: sum(count[key] for count in counts.values()) for key in ("trainable", "all")}
    return counts


def describe_trainable(model: nn.Module) -> str:
    """Return a table of which parts train and how many parameters that is; see [`count_parameters`]."""
    lines = []
    for name, count in count_parameters(model).items():
        share = count["trainable"] / count["all"] if count["all"] else 0.0
        lines.append(f"{name:12} {count['trainable']:>14,} of {count['all']:>14,} parameters train ({share:.2%})")
    return "\n".join(lines)


def _size(parameter: nn.Parameter) -> int:
    # 4-bit weights are packed two to a byte
    return parameter.numel() * (2 if type(parameter).__name__ == "Params4bit" else 1)


def _is_adaptable(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, Conv1D, nn.Embedding))


def _projections(backbone: nn.Module) -> list[str]:
    """Return the names of the linear layers inside the backbone's blocks, which are numbered."""
    return [
        name
        for name, module in backbone.named_modules()
        if isinstance(module, (nn.Linear, Conv1D)) and re.search(r"(^|\.)\d+\.", name)
    ]


def _last_names(names: Iterable[str]) -> list[str]:
    return sorted({name.rsplit(".", 1)[-1] for name in names})


def _lies_in(name: str, modules: Iterable[str]) -> bool:
    return any(f".{name}.".find(f".{module}.") >= 0 for module in modules)


def _check_modules_to_save(model: nn.Module, names: Sequence[str]) -> None:
    known = [name for name, _ in model.named_modules()]
    for name in names:
        matches = [module for module in known if module.endswith(name)]  # as peft looks for them
        if not matches:
            raise ValueError(
                f"`modules_to_save` {name!r} is no module of {type(model).__name__}; "
                f"its parts are {[child for child, _ in model.named_children()]}."
            )
        if len(matches) > 1:
            raise ValueError(
                f"`modules_to_save` {name!r} fits {len(matches)} modules ({', '.join(matches[:3])}, ...): write out "
                "the names of the modules inside the one you mean."
            )
