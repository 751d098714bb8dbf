"""Pretrained backbones of encoder and decoder: loading them, also quantised, and the recipe that freezes them."""

import copy
import inspect
import re
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    BitsAndBytesConfig,
    PreTrainedConfig,
    PreTrainedModel,
)

_AUTO_CLASSES = {"encoder": AutoModel, "decoder": AutoModelForCausalLM}
# What a transformer block adds to the residual stream comes out of these layers.
_RESIDUAL_OUTPUTS = (
    "attn.c_proj",
    "mlp.c_proj",
    "self_attn.o_proj",
    "mlp.down_proj",
    "self_attn.out_proj",
    "attention.dense",
    "self_attention.dense",
    "self_attn.dense",
    "mlp.dense_4h_to_h",
    "mlp.fc2",
    "fc2",
)


def takes_pooling_layer(config: PreTrainedConfig) -> bool:
    """Return whether the model of this config has a pooling head, whose parameters would get no gradient."""
    if type(config) not in AutoModel._model_mapping:
        return False
    return "add_pooling_layer" in inspect.signature(AutoModel._model_mapping[type(config)].__init__).parameters


def load_backbone(
    part: str,
    name: str,
    config: PreTrainedConfig | None = None,
    quantization_config: BitsAndBytesConfig | None = None,
    **kwargs: Any,
) -> PreTrainedModel:
    """Load a pretrained model as one part's backbone, float32 unless `dtype` says otherwise.

    Args:
        part: "encoder" (any `AutoModel`; its unused pooling head is left out) or "decoder" (any
            `AutoModelForCausalLM`).
        name: Hub id or folder.
        config: Config in place of the one stored there: with a smaller `num_hidden_layers` the first layers are kept.
        quantization_config: How to quantise the weights while loading, on a GPU.
        **kwargs: As for `from_pretrained`, among them single values of the config.

    Raises:
        ValueError: If `part` is neither, or quantised weights are asked for without a CUDA device.
    """
    if part not in _AUTO_CLASSES:
        raise ValueError(f"`part` must be one of {sorted(_AUTO_CLASSES)}, got {part!r}.")
    if quantization_config is not None:
        if not torch.cuda.is_available():
            raise ValueError(
                "`quantization_config` needs a CUDA device, and there is none: leave it out to train the adapter on "
                "unquantised weights."
            )
        kwargs["quantization_config"] = quantization_config
    if config is not None:
        kwargs["config"] = copy.deepcopy(config)
    kwargs.setdefault("dtype", torch.float32)
    auto_class = _AUTO_CLASSES[part]
    if part == "encoder" and takes_pooling_layer(kwargs.get("config") or _stored_config(name, kwargs)):
        kwargs["add_pooling_layer"] = False
    return auto_class.from_pretrained(name, **kwargs)


def _stored_config(name: str, kwargs: dict[str, Any]) -> PreTrainedConfig:
    places = ("token", "revision", "cache_dir", "local_files_only", "force_download")
    return AutoConfig.from_pretrained(name, **{key: kwargs[key] for key in places if key in kwargs})


def add_first_block(backbone: PreTrainedModel) -> PreTrainedModel:
    """Return the same language model with one new block before its first.

    The new block adds nothing to the residual stream at first (its output projections are zero), so the model computes
    what it did before training (as in Wu et al. 2024, arXiv 2401.02415).

    Args:
        backbone: A causal language model whose blocks are numbered in its parameters' names.

    Raises:
        ValueError: If the blocks, or the layers that end their two halves, are not found.
    """
    config = copy.deepcopy(backbone.config)
    text_config = config.get_text_config()
    num_layers = text_config.num_hidden_layers
    for key, value in list(vars(text_config).items()):
        if isinstance(value, list) and len(value) == num_layers and key != "pruned_heads":
            setattr(text_config, key, [value[0], *value])
    text_config.num_hidden_layers = num_layers + 1
    longer = AutoModelForCausalLM.from_config(config, dtype=backbone.dtype)
    blocks = _blocks(longer)
    prefix = next(name for name, module in longer.named_modules() if module is blocks)
    pattern = re.compile(rf"^{re.escape(prefix)}\.(\d+)\.")
    state = {
        pattern.sub(lambda match: f"{prefix}.{int(match[1]) + 1}.", key): value
        for key, value in backbone.state_dict().items()
    }
    info = longer.load_state_dict(state, strict=False)
    if info.unexpected_keys or not all(key.startswith(f"{prefix}.0.") for key in info.missing_keys):
        raise ValueError(
            f"`backbone` of type {config.model_type!r} has blocks that differ in kind: none can be added."
        )
    outputs = [
        module
        for name, module in blocks[0].named_modules()
        if isinstance(getattr(module, "weight", None), nn.Parameter) and name.endswith(_RESIDUAL_OUTPUTS)
    ]
    if len(outputs) != 2:
        raise ValueError(
            f"`backbone` of type {config.model_type!r} is not known well enough to add a block: its attention and MLP "
            f"must each end in one of {list(_RESIDUAL_OUTPUTS)}."
        )
    with torch.no_grad():
        for module in outputs:
            for parameter in module.parameters():
                parameter.zero_()
    return longer.train(backbone.training)


def freeze_language_model(model: nn.Module, first_block: bool = True) -> None:
    """Freeze the decoder's language model except its token embeddings and, unless told not to, its first block.

    With [`add_first_block`] this is the paper's cheaper recipe. Everything around the language model trains.

    Args:
        model: An `EDDPMModel`; its decoder has a `backbone`.
        first_block: Whether the first block trains.

    Raises:
        ValueError: If the decoder has no `backbone`.
    """
    backbone = getattr(model.decoder, "backbone", None)
    if backbone is None:
        raise ValueError(f"`model` must have a language model as its decoder's backbone, got {type(model.decoder)}.")
    backbone.requires_grad_(False)
    backbone.get_input_embeddings().requires_grad_(True)  # and with them a tied output layer
    if first_block:
        _blocks(backbone)[0].requires_grad_(True)


def _blocks(backbone: PreTrainedModel) -> nn.ModuleList:
    num_layers = backbone.config.get_text_config().num_hidden_layers
    for module in backbone.modules():
        if isinstance(module, nn.ModuleList) and len(module) == num_layers:
            return module
    raise ValueError(f"`backbone` of type {backbone.config.model_type!r} has no list of {num_layers} blocks.")
