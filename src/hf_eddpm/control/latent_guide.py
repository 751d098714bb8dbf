"""LatentGuide: a small classifier of noisy latents that knows how noisy they are, to guide the chain by."""

from typing import Annotated, Any, cast

import torch
from diffusers import ConfigMixin, ModelMixin
from diffusers.configuration_utils import register_to_config
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from diffusers.utils import SAFETENSORS_WEIGHTS_NAME
from torch import nn

from ..argument_types import Bounds, Count, CountOrZero, checked
from ..modeling_denoiser import DenoiserLayer
from ..modeling_eddpm import EDDPMModel
from ..weight_files import (
    HUB_ARGUMENTS,
    check_finite,
    check_size,
    check_types,
    find_weight_files,
    outline,
    read_headers,
)

_SAME_ENCODER = 0.05  # relative: weights saved in half precision are still the same


class LatentGuide(ModelMixin, ConfigMixin):
    """Classifies noisy latents of one model, as classifier guidance needs (Dhariwal & Nichol 2021, arXiv 2105.05233).

    Saved and loaded like any diffusers model (`save_pretrained`, `from_pretrained`, `push_to_hub`).

    Args:
        num_classes: Classes, at least 2.
        num_latents: Latent vectors of a datum, as the model's.
        latent_dim: Their width.
        encoder_size: Width of the model's encoder features.
        scheduler_config: The model's noise schedule (`EDDPMConfig.scheduler_config`).
        hidden_size: Width of the layers, in [2, 10**5].
        num_layers: Their number, in [1, 1000].
        num_train_steps: Steps it was trained for; 0, an untrained one, is refused as a guide.
        class_names: What the classes are called.

    Raises:
        ValueError: If a number is outside its range.
    """

    encoder_mark: torch.Tensor

    @checked
    @register_to_config
    def __init__(
        self,
        num_classes: Annotated[int, Bounds(at_least=2)],
        num_latents: Count,
        latent_dim: Count,
        encoder_size: Count,
        scheduler_config: dict[str, Any],
        hidden_size: Annotated[int, Bounds(at_least=2, at_most=10**5)] = 256,
        num_layers: Annotated[int, Bounds(at_least=1, at_most=1000)] = 3,
        num_train_steps: CountOrZero = 0,
        class_names: list[str] | None = None,
    ):
        super().__init__()
        size = num_latents * latent_dim
        self.timestep_features = Timesteps(hidden_size, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.timestep_embedding = TimestepEmbedding(hidden_size, hidden_size)
        self.layers = nn.ModuleList(
            DenoiserLayer(size if index == 0 else hidden_size, hidden_size) for index in range(num_layers)
        )
        self.output = nn.Linear(hidden_size, num_classes)
        # A piece of the encoder that made the latents, to know it again by.
        self.register_buffer("encoder_mark", torch.zeros(encoder_size))

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: Any, **kwargs: Any) -> Any:
        """Load a guide as any diffusers model, from safetensors.

        Args:
            pretrained_model_name_or_path: Folder, or "user/repo" on the Hub.
            **kwargs: As for `ModelMixin.from_pretrained`.

        Raises:
            OSError: If the weights are missing, are not those that the config asks for, or hold NaN or infinity.
        """
        where = str(pretrained_model_name_or_path)
        wants_info = kwargs.pop("output_loading_info", False)
        hub_arguments = {name: kwargs[name] for name in HUB_ARGUMENTS if kwargs.get(name) is not None}
        files = find_weight_files(where, kwargs.get("variant"), weights_name=SAFETENSORS_WEIGHTS_NAME, **hub_arguments)
        headers = read_headers(files)
        try:
            config = cls.load_config(where, **hub_arguments)
            if not isinstance(config, dict):
                raise TypeError(f"its config.json must hold a JSON object, got {type(config).__name__}")
            guide_outline = outline(lambda: cast(nn.Module, cls.from_config(config)), len(headers), where)
            check_size([*guide_outline.parameters(), *guide_outline.buffers()], files, where)
            check_types(guide_outline, headers, where)
            kwargs |= {"use_safetensors": True, "output_loading_info": True}
            guide, info = super().from_pretrained(pretrained_model_name_or_path, **kwargs)
        except (RuntimeError, TypeError, AttributeError, KeyError) as error:
            raise OSError(f"{where!r} is damaged or no LatentGuide: {error}") from error
        if wrong := sorted([*info["missing_keys"], *info["unexpected_keys"]]):
            raise OSError(f"The weights in {where!r} are not those that its config asks for: {wrong[0]!r} for one.")
        check_finite([*guide.named_parameters(), *guide.named_buffers()], where)
        return (guide, info) if wants_info else guide

    @classmethod
    def for_model(cls, model: EDDPMModel, num_classes: int, **values: Any) -> "LatentGuide":
        """Make an untrained guide of a model's latents.

        Args:
            model: The model whose latents are to be classified.
            num_classes: Classes, at least 2.
            **values: `hidden_size`, `num_layers`, `class_names`.
        """
        mark = _mark(model)
        config = model.config
        guide = cls(
            num_classes, config.num_latents, config.latent_dim, len(mark), dict(config.scheduler_config), **values
        )
        guide.encoder_mark.copy_(mark)
        return guide

    def forward(self, noisy_latents: torch.Tensor, timesteps: torch.Tensor | int) -> torch.Tensor:
        """Classify.

        Args:
            noisy_latents: `(batch, num_latents, latent_dim)`.
            timesteps: In [0, T), `(batch,)` or a single one.

        Returns:
            Logits, float32 `(batch, num_classes)`.
        """
        hidden_states = noisy_latents.flatten(1).to(self.output.weight.dtype)
        timesteps = torch.as_tensor(timesteps, device=hidden_states.device).expand(len(hidden_states))
        embedding = self.timestep_embedding(self.timestep_features(timesteps).to(hidden_states.dtype))
        for layer in self.layers:
            hidden_states = layer(hidden_states, embedding)
        return self.output(hidden_states).float()

    def check_model(self, model: EDDPMModel) -> None:
        """Raise a ValueError unless this guide is trained, and on the latents of that model."""
        if self.config.num_train_steps == 0:
            raise ValueError("`classifier` is an untrained LatentGuide, which cannot guide: train it first.")
        expected, ours = (model.config.num_latents, model.config.latent_dim), self.config
        if (ours.num_latents, ours.latent_dim) != expected or dict(ours.scheduler_config) != dict(
            model.config.scheduler_config
        ):
            raise ValueError(
                f"`classifier` is for latents of the shape {(ours.num_latents, ours.latent_dim)} and the schedule "
                f"{dict(ours.scheduler_config)}, the model has {expected} and {model.config.scheduler_config}."
            )
        mark, own = _mark(model).cpu(), self.encoder_mark.float().cpu()
        if mark.shape != own.shape or (mark - own).norm() > _SAME_ENCODER * mark.norm():
            raise ValueError("`classifier` was trained on the latents of another encoder than this model's.")


def _mark(model: EDDPMModel) -> torch.Tensor:
    projection = cast(nn.Linear, model.bottleneck.projection[0])
    return projection.weight[0].detach().float()
