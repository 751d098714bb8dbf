"""A training that starts from the weights of a pipeline: fine-tuning, or more of the same."""

from typing import Any

import torch
from torch import nn
from transformers.utils import logging

from ..hub.adapters import merge_adapter
from ..modeling_eddpm import EDDPMModel
from ..pipeline_eddpm import EDDPMPipeline
from ..processing_eddpm import EDDPMProcessor

logger = logging.get_logger(__name__)

# What belongs to the training and not to the networks, and may differ from the checkpoint's.
_TRAINING_VALUES = (
    "encoder_noise_variance",
    "decoder_noise_variance",
    "decoder_word_dropout",
    "encoder_gradient_scale",
    "denoiser_samples_per_latent",
    "label_dropout",
    "reconstruction_weight",
    "diffusion_weight",
    "property_weight",
)


def load_start(name: str, modality: str, values: dict[str, Any]) -> tuple[EDDPMModel, EDDPMProcessor]:
    """Load model and processor of a pipeline to train them on, in float32; an adapter is merged into the weights.

    Args:
        name: Folder or Hub id of the pipeline.
        modality: What the data are; the checkpoint must be of it.
        values: `EDDPMConfig` values for the training. Those that shape the networks must be the checkpoint's own.

    Raises:
        ValueError: If the checkpoint is of another modality, or a value contradicts its networks.
    """
    pipe = EDDPMPipeline.from_pretrained(name, dtype=torch.float32)
    config = pipe.model.config
    if config.modality != modality:
        raise ValueError(f"`init_from` must be a checkpoint of modality {modality!r}, got one of {config.modality!r}.")
    if hasattr(pipe.model, "peft_config"):
        merge_adapter(pipe.model)
        logger.info(f"The adapter of `init_from` {name!r} is merged into the weights, all of which are trained.")
    own = config.to_dict()
    type(config).from_dict(own | values)  # refuses a value that there is not
    for key, value in values.items():
        if key in _TRAINING_VALUES:
            setattr(config, key, value)
        elif key == "latent_normalization" and "none" not in (value, own[key]):  # one kind of statistics or the other
            setattr(config, key, value)
            pipe.model.bottleneck.normalization.choose(renormalize=value == "batch_renorm")
        elif wrong := _contradiction(value, own.get(key), key):
            raise ValueError(f"`model_config` must fit the networks of `init_from` {name!r}, {wrong}.")
    return pipe.model.train(), pipe.processor


def set_attention(part: nn.Module, implementation: str | None) -> None:
    """Let a loaded encoder or decoder compute its attention in another way; None leaves it as it is.

    Args:
        part: The encoder or decoder; without a `backbone` it has no attention.
        implementation: The option `attn_implementation`.

    Raises:
        ImportError: If the implementation needs a package that is not installed.
        ValueError: If the backbone has no such implementation.
    """
    backbone: Any = getattr(part, "backbone", None)
    if implementation is None or backbone is None:
        return
    backbone.set_attn_implementation(implementation)
    if backbone.config._attn_implementation != implementation:  # transformers has only warned
        raise ValueError(
            f"`attn_implementation` must be left out for {type(backbone).__name__}, whose attention cannot be chosen, "
            f"got {implementation!r}."
        )


def _contradiction(given: Any, own: Any, key: str) -> str | None:
    """What of a value is not the checkpoint's, if anything; a mapping may leave values out."""
    if isinstance(given, dict) and isinstance(own, dict):
        found = (_contradiction(value, own.get(name), f"{key}.{name}") for name, value in given.items())
        return next((each for each in found if each), None)
    return None if given == own else f"whose `{key}` is {own!r}, got {given!r}"
