"""EDDPMConfig: every architecture, loss-weight and noise-schedule value of an EDDPM model."""

import copy
import difflib
import math
import re
from dataclasses import fields
from typing import Any, ClassVar, Literal, get_args

import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, PreTrainedConfig
from transformers.configuration_utils import SubConfigSpec

from .argument_checks import is_integer
from .modalities.registry import get_modality, get_preset

LatentNormalization = Literal["batch", "batch_renorm", "none"]
PredictionType = Literal["epsilon", "sample", "v_prediction"]
BetaSchedule = Literal["linear", "scaled_linear", "squaredcos_cap_v2"]
LossWeighting = Literal["simple", "elbo"]
AlignmentTarget = Literal["sample", "mean"]
Conditioning = Literal["prefix", "memory"]
Pooling = Literal["mean", "attention"]
DenoiserType = Literal["mlp", "residual", "transformer"]

_CHOICES = {
    "latent_normalization": LatentNormalization,
    "prediction_type": PredictionType,
    "beta_schedule": BetaSchedule,
    "loss_weighting": LossWeighting,
    "alignment_target": AlignmentTarget,
    "decoder_conditioning": Conditioning,
    "pooling": Pooling,
    "denoiser_type": DenoiserType,
}

# Far above what anyone trains, and far below what would fill a machine before an error could be raised.
_MOST_TIMESTEPS = 1_000_000
_MOST_LAYERS = 10_000
_LAYER_COUNT = re.compile(r"layers?(_per_block)?$|blocks?$|depths?$")  # of a backbone's config

_NUMBERS = (
    "decoder_word_dropout",
    "encoder_noise_variance",
    "decoder_noise_variance",
    "encoder_gradient_scale",
    "label_dropout",
    "beta_start",
    "beta_end",
    "reconstruction_weight",
    "diffusion_weight",
    "property_weight",
    "initializer_range",
)


class EDDPMConfig(PreTrainedConfig):
    r"""Configuration of an [`EDDPMModel`]. `EDDPMConfig()` is valid: a small text model.

    The method and its symbols: Liu et al., "Unified Generation, Reconstruction, and Representation: Generalized
    Diffusion with Adaptive Latent Encoding-Decoding", ICML 2024 (arXiv 2402.19009).

    Args:
        modality: Kind of data; names the encoder/decoder pair: "text", "protein" or "image".
        encoder: Config (or its dict, with `model_type`) of the encoder's backbone. `None`: the modality's default.
        decoder: Config (or its dict, with `model_type`) of the decoder's backbone. `None`: the modality's default.
        latent_dim: Width of one latent vector, at least 1.
        num_latents: Number of latent vectors per datum, at least 1. Latents are `(batch, num_latents, latent_dim)`.
        pooling: How the encoder's hidden states become `num_latents` feature vectors: "mean" (masked mean; each
            latent then has its own projection) or "attention" (one learned query per latent).
        decoder_conditioning: How the decoder receives the latents, besides an embedding of them that is added to
            every token: "prefix" (latents as leading input embeddings; any backbone) or "memory" (latents as
            per-layer keys and values, the paper's way; attention backbones only).
        decoder_prefix_length: With "prefix", input embeddings that each latent becomes, at least 1. Several let the
            decoder attend to parts of a latent; they take positions and time.
        decoder_word_dropout: Share in [0, 1) of the decoder's input tokens that are blanked in training, so that it
            leans on the latents (Bowman et al. 2016, arXiv 1511.06349).
        latent_normalization: "batch" standardises the posterior mean by batch statistics (running statistics in
            evaluation), which keeps the scale of the latents at 1 so that `encoder_noise_variance` keeps its meaning.
            "batch_renorm" has the values by running statistics in training too (Ioffe 2017, arXiv 1702.03275): a batch
            of n adds noise of 1 / n and more of the variance, which matters where the encoder's is smaller, and a
            batch of sentences of like length has another mean than all data. It is for trainings of thousands of
            steps: in shorter ones the statistics lag behind. "none" is the paper.
        encoder_noise_variance: Variance beta_0 > 0 of q(latents | datum), in units of the latents.
        decoder_noise_variance: Largest variance of noise added, in training, to the latents that the decoder sees;
            each datum's is drawn evenly between 0 and this. Small encoder noise keeps detail in the latents, and a
            decoder used to noise forgives what the chain gets wrong.
        encoder_gradient_scale: Share in [0, 1] of the diffusion loss's gradient that reaches the encoder. 1 is the
            paper; 0 trains the encoder by reconstruction alone, as in two-stage latent diffusion. The gradient is a
            penalty on the rate: latents near a line are easy to denoise, and `latent_normalization` does not forbid
            one. The log's `effective_rank` shows what is left.
        denoiser_type: Network that denoises the latents: "mlp" (all of them as one vector; the paper), "residual" (the
            same vector through residual blocks with adaptive norms) or "transformer" (each latent a token, which pays
            for itself where there are several).
        denoiser_num_layers: Layers of the denoiser, at least 1.
        denoiser_hidden_size: Width of these layers.
        denoiser_embedding_size: Width of the embedding of timestep and class, which every layer projects; even. None
            for `denoiser_hidden_size`; the paper's is as wide as the latents, the small presets' a quarter.
        denoiser_num_attention_heads: Attention heads of the transformer; must divide its width. The others have none.
        denoiser_samples_per_latent: Pairs of timestep and noise drawn for each latent in a training step. The
            denoiser is cheap beside encoder and decoder, so several draws lower the variance of its loss for little.
        num_classes: Classes that the denoiser may be told, which lets samples be asked for by class; 0 for none.
        label_dropout: Share in [0, 1] of the labels that the denoiser is not told in training, so that it also learns
            the data of all classes together, as classifier-free guidance needs (Ho & Salimans 2022, arXiv 2207.12598).
        num_train_timesteps: Length T of the diffusion chain.
        beta_schedule: "linear" (with `beta_start == beta_end` a constant beta, as in the paper), "scaled_linear"
            or "squaredcos_cap_v2" (cosine; ignores `beta_start` and `beta_end`).
        beta_start: First beta, in (0, 1).
        beta_end: Last beta, in (0, 1).
        trained_betas: T explicit betas in place of the schedule.
        prediction_type: What the denoiser predicts: "epsilon" (the noise), "sample" (the clean latents) or
            "v_prediction" (Salimans & Ho 2022, arXiv 2202.00512).
        loss_weighting: "simple" (the paper's: every timestep counts the same) or "elbo" (nats: the true bound).
        reconstruction_weight: Factor of the reconstruction loss. `None`: the value that the bound implies, which is
            `EDDPMScheduler.reconstruction_weight()` (c = E_t[1 / (T w_t)]) for "simple" and 1 for "elbo".
        diffusion_weight: Factor of the diffusion and alignment losses (paper: 8 for text, 1 otherwise).
        alignment_target: What the denoised latents at the first timestep are compared with: "sample" (the sampled
            latents: the exact bound for any `encoder_noise_variance`) or "mean" (the posterior mean: the paper,
            derived for `encoder_noise_variance` equal to the first beta).
        num_properties: Properties of each datum, for example a protein's fitness, that a head predicts from the
            latents (trained together with everything else); 0 for no head.
        property_hidden_size: Width of the head's hidden layer.
        property_members: Heads of an ensemble, whose disagreement says how sure the prediction is; 1 for one head.
        property_weight: Factor of the property loss, the mean squared error in standard deviations.
        initializer_range: Standard deviation of initial weights outside the backbones.

    Raises:
        ValueError: If a value is outside its range; the message names it.
    """

    model_type = "eddpm"
    sub_configs_defaults: ClassVar[dict[str, SubConfigSpec]] = {
        "encoder": SubConfigSpec(config_class=AutoConfig, model_type="bert", optional=True),
        "decoder": SubConfigSpec(config_class=AutoConfig, model_type="llama", optional=True),
    }

    modality: str = "text"
    encoder: PreTrainedConfig | dict[str, Any] | None = None
    decoder: PreTrainedConfig | dict[str, Any] | None = None
    latent_dim: int = 128
    num_latents: int = 1
    pooling: Pooling = "mean"
    decoder_conditioning: Conditioning = "prefix"
    decoder_prefix_length: int = 1
    decoder_word_dropout: float = 0.0
    latent_normalization: LatentNormalization = "batch"
    encoder_noise_variance: float = 0.02
    decoder_noise_variance: float = 0.3
    encoder_gradient_scale: float = 0.1
    denoiser_type: DenoiserType = "mlp"
    denoiser_num_layers: int = 6
    denoiser_hidden_size: int = 512
    denoiser_embedding_size: int | None = None
    denoiser_num_attention_heads: int = 4
    denoiser_samples_per_latent: int = 4
    num_classes: int = 0
    label_dropout: float = 0.1
    num_train_timesteps: int = 1000
    beta_schedule: BetaSchedule = "linear"
    beta_start: float = 0.008
    beta_end: float = 0.008
    trained_betas: list[float] | None = None
    prediction_type: PredictionType = "v_prediction"
    loss_weighting: LossWeighting = "simple"
    reconstruction_weight: float | None = 1.0
    diffusion_weight: float = 1.0
    alignment_target: AlignmentTarget = "sample"
    num_properties: int = 0
    property_hidden_size: int = 128
    property_members: int = 1
    property_weight: float = 1.0
    initializer_range: float = 0.02
    tie_word_embeddings: bool = False

    def __post_init__(self, **kwargs: Any) -> None:
        self._refuse_misspelt(kwargs)
        self._check_types()
        modality = get_modality(self.modality)
        # Deep copies: sub-configs are changed in place (attention implementation, dtype) once a model uses them.
        if self.encoder is None:
            self.encoder = copy.deepcopy(modality.default_encoder)
        if self.decoder is None:
            self.decoder = copy.deepcopy(modality.default_decoder)
        if isinstance(self.decoder, dict) and modality.complete_decoder is not None:
            self.decoder = {**modality.complete_decoder(self.decoder), **self.decoder}
        try:
            super().__post_init__(**kwargs)
        except (AttributeError, TypeError, KeyError, StrictDataclassError) as error:  # a value of the wrong type
            raise ValueError(f"`encoder` or `decoder` holds a value that cannot be: {error}.") from error
        if self.tie_word_embeddings and isinstance(self.decoder, PreTrainedConfig):
            self.decoder.get_text_config().tie_word_embeddings = True
        self._validate()

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **kwargs: Any) -> Any:
        """Build from a dict, for example a folder's `config.json`.

        Raises:
            ValueError: If it is the config of another type of model (transformers alone would only warn).
        """
        if not isinstance(config_dict, dict):
            raise ValueError(f"`config_dict` must be a dict, got {type(config_dict).__name__}.")
        if config_dict.get("model_type", cls.model_type) != cls.model_type:
            raise ValueError(
                f"`model_type` must be {cls.model_type!r}, got {config_dict['model_type']!r}: not an EDDPM model."
            )
        return super().from_dict(config_dict, **kwargs)

    @classmethod
    def from_preset(cls, name: str, **overrides: Any) -> "EDDPMConfig":
        """Build a named setting, for example "text-paper" or "text-small".

        Args:
            name: Name of the preset.
            **overrides: Values that replace the preset's.

        Raises:
            TypeError: If an override is no value of a configuration.
            ValueError: If there is no such preset; the message lists those there are.
        """
        if unknown := sorted(set(overrides) - {field.name for field in fields(cls)}):
            cls._refuse_misspelt({name: overrides[name] for name in unknown})
            raise TypeError(f"`overrides` must be values of {cls.__name__}, which has no {unknown}.")
        return cls(**{**copy.deepcopy(get_preset(name)), **overrides})

    @property
    def latent_size(self) -> int:
        """Numbers in one datum's latents: `num_latents * latent_dim`."""
        return self.num_latents * self.latent_dim

    @property
    def latent_positions(self) -> int:
        """Positions of a causal decoder that the latents take before the start token."""
        return self.num_latents * self.decoder_prefix_length

    @property
    def scheduler_config(self) -> dict[str, Any]:
        """The noise schedule, as keyword arguments of any diffusers scheduler."""
        return {
            "num_train_timesteps": self.num_train_timesteps,
            "beta_schedule": self.beta_schedule,
            "beta_start": self.beta_start,
            "beta_end": self.beta_end,
            "trained_betas": self.trained_betas,
            "prediction_type": self.prediction_type,
        }

    @staticmethod
    def _refuse_misspelt(extra: dict[str, Any]) -> None:
        # PreTrainedConfig keeps unknown keywords without a word; a near miss of one of ours is a user's slip.
        ours = [field.name for field in fields(EDDPMConfig)]
        for key in extra:
            if close := difflib.get_close_matches(key, ours, n=1, cutoff=0.85):
                raise ValueError(f"`{key}` is not a value of EDDPMConfig; did you mean `{close[0]}`?")

    def _check_types(self) -> None:
        if not isinstance(self.modality, str):
            raise ValueError(f"`modality` must be a string, got {self.modality!r}.")
        for name in ("encoder", "decoder"):
            value = getattr(self, name)
            if value is not None and not isinstance(value, (dict, PreTrainedConfig)):
                raise ValueError(f"`{name}` must be a config or its dict, got {value!r}.")
            _check_layer_counts(value, name)
        if not isinstance(self.tie_word_embeddings, bool):
            raise ValueError(f"`tie_word_embeddings` must be True or False, got {self.tie_word_embeddings!r}.")
        ours: Any = self  # transformers' attribute, whose type mypy is not told
        given = ours.dtype
        dtype = getattr(torch, given.removeprefix("torch."), None) if isinstance(given, str) else given
        if given is not None and not isinstance(dtype, torch.dtype):
            raise ValueError(f"`dtype` must be a type of torch or its name, for example 'float32', got {given!r}.")
        ours.dtype = dtype
        for name in _NUMBERS:
            value = getattr(self, name)
            optional = name == "reconstruction_weight" and value is None
            if not optional and (isinstance(value, bool) or not isinstance(value, (int, float))):
                raise ValueError(f"`{name}` must be a number, got {value!r}.")
        if self.trained_betas is not None:
            try:
                self.trained_betas = [float(beta) for beta in self.trained_betas]  # of an array too: JSON
            except (TypeError, ValueError) as error:
                raise ValueError(f"`trained_betas` must be a list of numbers, got {self.trained_betas!r}.") from error

    def _validate(self) -> None:
        for name, choices in _CHOICES.items():
            if not isinstance(getattr(self, name), str) or getattr(self, name) not in get_args(choices):
                raise ValueError(f"`{name}` must be one of {list(get_args(choices))}, got {getattr(self, name)!r}.")
        for name in (
            "latent_dim",
            "num_latents",
            "decoder_prefix_length",
            "denoiser_num_layers",
            "denoiser_hidden_size",
            "denoiser_num_attention_heads",
            "denoiser_samples_per_latent",
            "num_train_timesteps",
            "property_hidden_size",
            "property_members",
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")
        if self.decoder_conditioning != "prefix" and self.decoder_prefix_length > 1:
            raise ValueError(
                f"`decoder_prefix_length` must be 1 with `decoder_conditioning` {self.decoder_conditioning!r}, "
                f"got {self.decoder_prefix_length}."
            )
        embedding = self.denoiser_embedding_size
        if embedding is not None and (not is_integer(embedding) or embedding < 2 or embedding % 2):
            raise ValueError(f"`denoiser_embedding_size` must be an even positive integer or None, got {embedding!r}.")
        for name, most in (("num_train_timesteps", _MOST_TIMESTEPS), ("denoiser_num_layers", _MOST_LAYERS)):
            if getattr(self, name) > most:
                raise ValueError(f"`{name}` must be at most {most}, got {getattr(self, name)}.")
        width, heads = self.denoiser_hidden_size, self.denoiser_num_attention_heads
        if self.denoiser_type == "transformer" and width % heads:
            raise ValueError(
                f"`denoiser_num_attention_heads` must divide `denoiser_hidden_size` = {width}, got {heads}."
            )
        for name in ("num_properties", "num_classes"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ValueError(f"`{name}` must be a non-negative integer, got {value!r}.")
        for name in ("beta_start", "beta_end"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be in (0, 1), got {getattr(self, name)!r}.")
        if not (self.encoder_noise_variance > 0 and math.isfinite(self.encoder_noise_variance)):
            raise ValueError(
                f"`encoder_noise_variance` must be positive and finite, got {self.encoder_noise_variance!r}."
            )
        if not (self.initializer_range > 0 and math.isfinite(self.initializer_range)):
            raise ValueError(f"`initializer_range` must be positive and finite, got {self.initializer_range!r}.")
        for name in ("encoder_gradient_scale", "label_dropout"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"`{name}` must be in [0, 1], got {getattr(self, name)!r}.")
        if not 0 <= self.decoder_word_dropout < 1:
            raise ValueError(f"`decoder_word_dropout` must be in [0, 1), got {self.decoder_word_dropout!r}.")
        for name in ("reconstruction_weight", "diffusion_weight", "property_weight", "decoder_noise_variance"):
            value = getattr(self, name)
            if value is not None and not (value >= 0 and math.isfinite(value)):
                raise ValueError(f"`{name}` must be non-negative and finite, got {value!r}.")
        if self.trained_betas is not None and (
            len(self.trained_betas) != self.num_train_timesteps or not all(0 < beta < 1 for beta in self.trained_betas)
        ):
            raise ValueError(
                f"`trained_betas` must hold `num_train_timesteps` = {self.num_train_timesteps} values in (0, 1), "
                f"got {len(self.trained_betas)} values."
            )


def _check_layer_counts(config: Any, where: str) -> None:
    """Raise a ValueError if a backbone's config, given as a dict, asks for more layers than anyone has trained."""
    for key, value in config.items() if isinstance(config, dict) else ():
        counts = value if isinstance(value, (list, tuple)) else [value]
        if isinstance(value, dict):
            _check_layer_counts(value, f"{where}.{key}")
        elif _LAYER_COUNT.search(str(key)) and any(isinstance(n, int) and n > _MOST_LAYERS for n in counts):
            raise ValueError(f"`{where}.{key}` must be at most {_MOST_LAYERS}, got {value!r}.")
