"""What every modality's encoder and decoder are to the rest of the model."""

import functools
import os
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from ..adapter_files import ADAPTER_FOLDER, active_adapter, save_adapter
from ..configuration_eddpm import EDDPMConfig


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
        """Load a model as any `PreTrainedModel`; weights that the checkpoint lacks are an error, not a warning.

        Raises:
            OSError: If the checkpoint lacks weights of the model.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        model, info = super().from_pretrained(pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs)
        if missing := sorted(info["missing_keys"]):
            raise OSError(
                f"{str(pretrained_model_name_or_path)!r} lacks {len(missing)} weights that its config asks for, "
                f"{missing[0]!r} for one; the checkpoint is incomplete."
            )
        return (model, info) if wants_info else model

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
        input_names: Keyword arguments of `forward`.
        output_size: Width of the features.
    """

    input_names: tuple[str, ...]
    output_size: int


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
        has_independent_sites: Whether the latents alone decide each site, whatever the others are; `logits(latents)`
            then gives all sites at once.
    """

    target_names: tuple[str, ...]
    per_datum_arguments: tuple[str, ...] = ()
    has_independent_sites: bool = False

    @property
    def scheduler_config(self) -> dict[str, Any] | None:
        """The schedule of the decoder's own chain, as keyword arguments of `EDDPMScheduler`; None if it has none."""
        return None

    def negative_log_likelihood(
        self, latents: torch.Tensor, num_timesteps: int = 32, generator: torch.Generator | None = None, **targets: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return -log p(targets | latents) or a bound on it, in nats, and the number of units, both `(batch,)`.

        Unlike `forward`, whose loss a decoder may weight as it trains best.

        Args:
            latents: `(batch, num_latents, latent_dim)`.
            num_timesteps: Timesteps drawn where the decoder is a chain.
            generator: Source of the draws.
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
