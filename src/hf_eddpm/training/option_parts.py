"""What several of the training scripts' options have in common."""

import json
from dataclasses import dataclass, field, fields
from typing import Any

from transformers.utils import logging

logger = logging.get_logger(__name__)


def as_dict(value: str | dict[str, Any] | None, name: str) -> dict[str, Any]:
    """Return a mapping that was given as such or as JSON, or an empty one.

    Raises:
        ValueError: If it is no JSON, or no mapping.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise ValueError(f"`{name}` must be JSON: {error}.") from error
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"`{name}` must be a JSON object, got {value!r}.")
    return value or {}


class ChainChoice:
    """What the arguments of all modalities say of the chain: a baseline without one, or how its denoiser finishes."""

    model_config: dict[str, Any] | str | None
    vae_kl_weight: float | None
    no_latents: bool
    init_from: str | None
    finish_steps: int
    finish_batch_size: int

    @property
    def baseline(self) -> bool:
        """Whether something without a chain is trained instead."""
        return self.vae_kl_weight is not None or self.no_latents

    @property
    def config_values(self) -> dict[str, Any]:
        """The values of `model_config`."""
        return as_dict(self.model_config, "model_config")

    def check_baseline(self) -> None:
        """Raises a ValueError if both are asked for, or something beside networks that there are.

        What a configuration file says of new networks is passed over with a warning, so that one file serves to begin
        and to go on.
        """
        if self.vae_kl_weight is not None and self.no_latents:
            raise ValueError("`vae_kl_weight` and `no_latents` exclude each other: choose one baseline.")
        if self.init_from is not None:
            names = ("vae_kl_weight", "no_latents", "encoder", "decoder")
            if given := [name for name in names if getattr(self, name, None) not in (None, False)]:
                raise ValueError(f"`init_from` already says what the networks are: leave out {', '.join(given)}.")
            for each in fields(self):  # type: ignore[arg-type]
                if each.name in ("preset", "vocab_size") and getattr(self, each.name) != each.default:
                    logger.warning(f"`{each.name}` is passed over: the networks and tokens are those of `init_from`.")

    def check_finish(self) -> None:
        """Raises a ValueError if the numbers are out of range, or there is no chain to finish."""
        if self.finish_steps < 0 or self.finish_batch_size < 1:
            raise ValueError(
                "`finish_steps` must be at least 0 and `finish_batch_size` at least 1, "
                f"got {self.finish_steps} and {self.finish_batch_size}."
            )
        if self.finish_steps and self.baseline:
            raise ValueError("`finish_steps` must be 0 for a baseline: it has no chain over latents.")


@dataclass
class ImageLosses:
    """What a decoder in one pass learns beside its pixels (see `training.image_losses`)."""

    perceptual_weight: float = field(
        default=0.0, metadata={"help": "Weight of the distance in the layers of a network that is trained first."}
    )
    perceptual_train: list[str] = field(
        default_factory=list, metadata={"help": "Images that network learns from; the training images by default."}
    )
    perceptual_column: str | None = field(
        default=None, metadata={"help": "Attribute it learns to tell; by default four rotations."}
    )
    perceptual_steps: int = field(default=1000, metadata={"help": "Its training steps."})
    perceptual_width: int = field(default=32, metadata={"help": "Channels of its first level."})
    critic_weight: float = field(
        default=0.0, metadata={"help": "Share of a critic's gradient, of the other terms', at the last layer."}
    )
    critic_start: int = field(default=0, metadata={"help": "Training batches before the critic takes part."})
    critic_width: int = field(default=64, metadata={"help": "Channels of the critic's first level."})
    critic_learning_rate: float = field(default=2e-4, metadata={"help": "The critic's learning rate."})

    def check_losses(self) -> None:
        """Raise a ValueError for a value outside its range."""
        for name in ("perceptual_weight", "critic_weight", "critic_start"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"`{name}` must be at least 0, got {getattr(self, name)!r}.")
        for name in ("perceptual_steps", "perceptual_width", "critic_width", "critic_learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"`{name}` must be positive, got {getattr(self, name)!r}.")


@dataclass
class FeatureChoice(ChainChoice):
    """A frozen encoder whose features the latents are to agree with (see `training.feature_alignment`)."""

    feature_encoder: str | None = field(
        default=None, metadata={"help": "Frozen vision encoder that latents are to agree with: Hub id or folder."}
    )
    feature_weight: float = field(
        default=0.5, metadata={"help": "Weight of one minus the cosine to its features, through a linear head."}
    )

    def check_features(self) -> None:
        """Raise a ValueError for a value outside its range, or if there are no latents."""
        if not self.feature_weight > 0:
            raise ValueError(f"`feature_weight` must be positive, got {self.feature_weight!r}.")
        if self.feature_encoder is not None and self.no_latents:
            raise ValueError("`feature_encoder` must be left out with `no_latents`: no latents are trained.")
