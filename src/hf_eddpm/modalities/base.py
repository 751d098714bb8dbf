"""What every modality's encoder and decoder are to the rest of the model."""

import copy
import functools
import os
from dataclasses import fields
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers import initialization as init

from ..adapter_files import ADAPTER_FOLDER, active_adapter, save_adapter
from ..argument_types import Generators
from ..configuration_eddpm import EDDPMConfig
from ..weight_files import (
    HUB_ARGUMENTS,
    Headers,
    check_finite,
    check_size,
    check_types,
    describe_misfit,
    find_weight_files,
    outline,
    read_headers,
)


class EDDPMPreTrainedModel(PreTrainedModel):
    """Loading, saving and initialisation of the model and of its parts.

    The parts are PreTrainedModels too: transformers passes what it must know of a backbone (tied weights, layers
    not to split, ...) from each such model to its parent, and stops at a plain module.
    """

    config_class = EDDPMConfig
    base_model_prefix = ""
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, *args: Any, **kwargs: Any) -> Any:
        """Load a model as any `PreTrainedModel`; a checkpoint that contradicts itself is an error, not a warning.

        What the config asks for is compared with the files before anything is allocated. With
        `output_loading_info=True` weights that the checkpoint lacks, or has besides, are reported and not refused;
        `ignore_mismatched_sizes=True` makes those of another shape anew, with a warning.

        Raises:
            OSError: If the weights are no safetensors, are not those that the config asks for, hold NaN or infinity,
                or are far fewer than it asks for.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        if kwargs.pop("use_safetensors", None) is False:
            raise ValueError("`use_safetensors` must not be False: a pickle can run any code.")
        where = str(pretrained_model_name_or_path)
        model_outline: nn.Module | None = None
        headers: Headers = {}
        if pretrained_model_name_or_path is not None and not args and "state_dict" not in kwargs:
            model_outline, headers = cls._outline(where, kwargs)
        try:
            model, info = super().from_pretrained(
                pretrained_model_name_or_path, *args, output_loading_info=True, use_safetensors=True, **kwargs
            )
        except RuntimeError as error:
            if model_outline is None or "ignore_mismatched_sizes" not in str(error):
                raise
            raise OSError(f"{where!r} contradicts itself: {describe_misfit(model_outline, headers)}.") from error
        for keys, what in (("missing_keys", "lacks {} weights that"), ("unexpected_keys", "has {} weights that not")):
            if (names := sorted(info[keys])) and not wants_info:
                raise OSError(
                    f"{where!r} {what.format(len(names))} its config asks for, {names[0]!r} for one; the checkpoint "
                    "is incomplete or its config is another's."
                )
        check_finite([*model.named_parameters(), *model.named_buffers()], where)
        return (model, info) if wants_info else model

    @classmethod
    def _outline(cls, where: str, kwargs: dict[str, Any]) -> tuple[nn.Module, Headers]:
        """Return the model without its weights, and what the files say of these; refuse sizes that do not fit."""
        hub_arguments = {name: kwargs[name] for name in HUB_ARGUMENTS if kwargs.get(name) is not None}
        config = kwargs.get("config")
        if not isinstance(config, PreTrainedConfig):
            values = {field.name: kwargs[field.name] for field in fields(EDDPMConfig) if field.name in kwargs}
            config = EDDPMConfig.from_pretrained(where if config is None else config, **hub_arguments, **values)
        files = find_weight_files(where, kwargs.get("variant"), **hub_arguments)
        headers = read_headers(files)
        config = copy.deepcopy(config)  # a model changes its config
        model = outline(lambda: cls(config), len(headers), where)
        check_size([*model.parameters(), *model.buffers()], files, where)
        if getattr(config, "quantization_config", None) is None and kwargs.get("quantization_config") is None:
            check_types(model, headers, where)
        return model, headers

    @functools.wraps(PreTrainedModel.save_pretrained)
    def save_pretrained(self, save_directory: str | os.PathLike, *args: Any, **kwargs: Any) -> None:
        """Save config and weights; of a model with adapters the config, and the active one in `adapter/`."""
        if not hasattr(self, "peft_config"):
            super().save_pretrained(save_directory, *args, **kwargs)
            return
        self.config.save_pretrained(save_directory)
        save_adapter(self, os.path.join(save_directory, ADAPTER_FOLDER), adapter_name=active_adapter(self))

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        # Buffers that stand in our own modules without a layer around them
        for name, buffer in module.named_buffers(recurse=False):
            if name == "running_mean":
                init.zeros_(buffer)
            elif name in ("running_var", "target_std"):
                init.ones_(buffer)
            elif name == "target_mean":
                init.zeros_(buffer)
            elif name == "target_range":
                init.constant_(buffer[0], float("inf"))  # empty: nothing seen yet
                init.constant_(buffer[1], float("-inf"))


class ModalityEncoder(EDDPMPreTrainedModel):
    """Base of the encoders, whose `forward(**inputs)` returns features `(batch, num_latents, output_size)`.

    Attributes:
        input_names: Keyword arguments of `forward`, the datum itself first.
        output_size: Width of the features.
        records_states: Whether `forward` takes `record`, a `RecordedStates` (see states.py) that its `backbone` fills.
    """

    input_names: tuple[str, ...]
    output_size: int
    records_states: bool = False


class ModalityDecoder(EDDPMPreTrainedModel):
    """Base of the decoders, from latents `(batch, num_latents, latent_dim)` to one kind of data.

    `forward(latents, **targets)` returns -log p(targets | latents) in nats and the number of units (tokens, sites or
    pixel values) it covers, both `(batch,)`.

    A decoder may be a diffusion chain over the data itself, conditioned on the latents: its `scheduler_config` is not
    None. `forward` then also takes `timesteps` `(batch,)`, which it shares with the latents' chain in training, and
    `generator`; `generate` also takes `scheduler`, `decoder_noise` and `progress_bar`; and there are `draw_noise` and
    `invert`, which say where its chain starts.

    Attributes:
        target_names: Keyword arguments of `forward` besides the latents.
        per_datum_arguments: Keyword arguments of `generate` that may be lists or tensors with an entry for each datum.
        decodes_tokens: Whether each unit is a token, of which the decoder gives a probability.
        has_independent_sites: Whether the latents alone decide each site, whatever the others are; `logits(latents)`
            then gives all sites at once.
        records_states: As for the encoders.
    """

    target_names: tuple[str, ...]
    per_datum_arguments: tuple[str, ...] = ()
    decodes_tokens: bool = False
    has_independent_sites: bool = False
    records_states: bool = False

    @property
    def scheduler_config(self) -> dict[str, Any] | None:
        """The schedule of the decoder's own chain, as keyword arguments of `EDDPMScheduler`; None if it has none."""
        return None

    def negative_log_likelihood(
        self, latents: torch.Tensor, num_timesteps: int = 32, generator: Generators = None, **targets: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return -log p(targets | latents) or a bound on it, in nats, and the number of units, both `(batch,)`.

        Unlike `forward`, whose loss a decoder may weight as it trains best.

        Args:
            latents: `(batch, num_latents, latent_dim)`.
            num_timesteps: Timesteps drawn where the decoder is a chain.
            generator: Source of the draws, or one for each datum.
            **targets: As for `forward`.
        """
        return self(latents, **targets)

    def draw_noise(
        self, num_samples: int, generator: torch.Generator | list[torch.Generator] | None, device: torch.device
    ) -> torch.Tensor:
        """Return the noise that the decoder's own chain starts from, one for each datum."""
        raise NotImplementedError

    def invert(self, latents: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        """Return the noise from which the decoder's own chain comes to the given data."""
        raise NotImplementedError

    def generate(self, latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return decoded data, which the processor's `postprocess` turns into what users see."""
        raise NotImplementedError
