"""Pretrained encoders that the options of a training name, with the values that are given beside them."""

from collections.abc import Collection
from typing import Any

from transformers import AutoConfig, PreTrainedModel

from ..modalities.backbones import load_backbone


def load_encoder(
    name: str, values: dict[str, Any], attn_implementation: str | None = None, ours: Collection[str] = ()
) -> PreTrainedModel:
    """Load the pretrained encoder of a training, float32.

    Args:
        name: The option `encoder`.
        values: What `model_config` gives for `encoder`: values of its configuration, such as fewer layers.
        attn_implementation: The option of that name.
        ours: Values that our encoder reads, which the configuration may lack.

    Raises:
        ValueError: If the configuration has no such value, or it does not fit the weights.
    """
    config = AutoConfig.from_pretrained(name)
    for key, value in values.items():
        if key not in ours and not hasattr(config, key):
            raise ValueError(
                f"`model_config` must give values of `encoder` {name!r} that its {type(config).__name__} has, got "
                f"{key!r}. Those of a configuration file are replaced by "
                f'`--model_config \'{{"encoder": {{"model_type": "{config.model_type}"}}}}\'`.'
            )
        own = getattr(config, key, None)
        if (key == "model_type" and value != own) or (key == "num_hidden_layers" and value > own):
            raise ValueError(f"`model_config` must fit `encoder` {name!r}, whose `{key}` is {own!r}, got {value!r}.")
        setattr(config, key, value)
    options: dict[str, Any] = {} if attn_implementation is None else {"attn_implementation": attn_implementation}
    options |= {"ignore_mismatched_sizes": True, "output_loading_info": True}
    backbone: Any
    backbone, info = load_backbone("encoder", name, config, **options)
    # ESM's head of contacts, which nothing here reads, has the size of all layers.
    if wrong := sorted(key for key, *_ in info["mismatched_keys"] if not key.startswith("contact_head.")):
        raise ValueError(f"`model_config` must fit `encoder` {name!r}, whose {wrong[0]!r} is of another size.")
    return backbone
