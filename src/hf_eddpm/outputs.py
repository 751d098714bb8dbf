"""What the public methods return, and how it prints: a summary that fits a screen."""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from diffusers.utils import BaseOutput
from transformers.utils import ModelOutput

_SHOWN_NUMBERS = 8  # a tensor of more is described, not printed
_SHOWN_ITEMS = 4  # of a list
_SHOWN_CHARACTERS = 120  # of an item


def describe(value: Any) -> str:
    """Return a short text for a value: small ones as they are, large ones by their type, shape and first items."""
    if isinstance(value, (torch.Tensor, np.ndarray)):
        kind = "tensor" if isinstance(value, torch.Tensor) else "array"
        size = value.numel() if isinstance(value, torch.Tensor) else value.size
        if 0 < size <= _SHOWN_NUMBERS:
            return f"{kind}({[f'{number:.4g}' for number in value.reshape(-1).tolist()]})".replace("'", "")
        return f"<{str(value.dtype).removeprefix('torch.')} {kind} of shape {tuple(value.shape)}>"
    if isinstance(value, (list, tuple)):
        shown = [describe(item) for item in value[:_SHOWN_ITEMS]]
        more = [f"... ({len(value)} in all)"] if len(value) > _SHOWN_ITEMS else []
        return f"[{', '.join(shown + more)}]"
    text = repr(value)
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[:_SHOWN_CHARACTERS]}..."


def compact_repr(output: Any) -> str:
    """Return a dataclass's fields by `describe`, those that are None left out; classes take it as their `__repr__`."""
    names = [field.name for field in dataclasses.fields(output)]
    values = [f"{name}={describe(getattr(output, name))}" for name in names if getattr(output, name) is not None]
    return f"{type(output).__name__}({', '.join(values)})"


@dataclass
class EDDPMOutput(ModelOutput):
    """Result of `EDDPMModel.forward`; every loss is a scalar.

    Args:
        loss: What training minimises: `reconstruction_weight * reconstruction_loss + diffusion_weight *
            (diffusion_loss + alignment_loss) + property_weight * property_loss`.
        reconstruction_loss: Negative log-likelihood given the latents, nats per unit (token, site, pixel) with
            `loss_weighting="simple"`, nats per datum with "elbo".
        diffusion_loss: Contribution of the timesteps after the first: mean squared error per dimension ("simple")
            or nats per datum ("elbo").
        alignment_loss: Contribution of the first timestep, where the chain meets the encoder; same unit.
        latents: Latents given to the decoder, `(batch, num_latents, latent_dim)`: a sample of the posterior in
            training, its mean in evaluation.
        posterior_mean: Mean of q(latents | datum), shaped as `latents`.
        property_loss: Mean squared error of the known properties in standard deviations; None without a head.
        properties: Their predictions from `latents` in the unit of the data, `(batch, num_properties)`; None
            without a head.
        encoder_hidden_states: With `output_hidden_states`, the states after the encoder's embeddings and after each
            of its layers, `(batch, seq, hidden)`.
        encoder_attentions: With `output_attentions`, those of each layer, `(batch, heads, seq, seq)`.
        decoder_hidden_states: The decoder's; with latents as a prefix these come first in `seq`.
        decoder_attentions: The decoder's.
    """

    loss: torch.Tensor | None = None
    reconstruction_loss: torch.Tensor | None = None
    diffusion_loss: torch.Tensor | None = None
    alignment_loss: torch.Tensor | None = None
    latents: torch.Tensor | None = None
    posterior_mean: torch.Tensor | None = None
    property_loss: torch.Tensor | None = None
    properties: torch.Tensor | None = None
    encoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    encoder_attentions: tuple[torch.Tensor, ...] | None = None
    decoder_hidden_states: tuple[torch.Tensor, ...] | None = None
    decoder_attentions: tuple[torch.Tensor, ...] | None = None

    __repr__ = compact_repr


@dataclass
class EDDPMBound(ModelOutput):
    """Upper bound on the negative log-likelihood, in nats for each datum; every tensor is `(batch,)`.

    Args:
        bound: Sum of the four terms.
        reconstruction: -log p(datum | latents), or a bound on it from a decoder that is a chain itself, at one sample
            of the posterior.
        alignment: KL(q(latents | datum) || p(latents | first noisy latents)), at the same sample.
        diffusion: The steps after the first, estimated from the timesteps that were drawn.
        prior: KL of the noisiest latents from the standard Gaussian.
        num_units: Tokens, sites or pixels of the datum.
    """

    bound: torch.Tensor | None = None
    reconstruction: torch.Tensor | None = None
    alignment: torch.Tensor | None = None
    diffusion: torch.Tensor | None = None
    prior: torch.Tensor | None = None
    num_units: torch.Tensor | None = None

    __repr__ = compact_repr


@dataclass
class EDDPMPipelineOutput(BaseOutput):
    """Result of a call of the pipeline.

    Args:
        samples: Generated data, for text `list[str]`, for images what `output_type` says; with `output_type="latent"`
            the latents.
        latents: Their latents, float32 `(num_samples, num_latents, latent_dim)`.
    """

    samples: Any
    latents: torch.Tensor

    __repr__ = compact_repr


@dataclass
class EDDPMEncoding(BaseOutput):
    """Result of `EDDPMPipeline.encode`.

    Args:
        latents: Posterior means, float32 `(batch, num_latents, latent_dim)`.
        embeddings: The same as one vector for each datum, `(batch, num_latents * latent_dim)`.
    """

    latents: torch.Tensor
    embeddings: torch.Tensor

    __repr__ = compact_repr


@dataclass
class EDDPMScore(BaseOutput):
    """Result of `EDDPMPipeline.score`; every tensor is float32 `(batch,)`, in nats unless said otherwise.

    Args:
        bound: Upper bound on -log p(datum), the sum of the terms below.
        reconstruction: -log p(datum | latents).
        alignment: KL from the encoder's posterior to the chain's end.
        diffusion: The chain's other steps.
        prior: KL of the noisiest latents from the standard Gaussian.
        bits_per_unit: The bound in bits per unit.
        num_units: Tokens (with the end), sites or pixel values of each datum; other terms divided by it are per unit.
    """

    bound: torch.Tensor
    reconstruction: torch.Tensor
    alignment: torch.Tensor
    diffusion: torch.Tensor
    prior: torch.Tensor
    bits_per_unit: torch.Tensor
    num_units: torch.Tensor

    __repr__ = compact_repr


@dataclass
class EDDPMOptimization(BaseOutput):
    """Result of `EDDPMPipeline.optimize`.

    Args:
        samples: For each datum the best of the states visited, the start among them, by the model's own prediction.
        predictions: The model's predictions for `samples`, encoded anew, in the data's unit; float32
            `(batch, num_properties)`.
        trajectory: For each datum the `num_steps + 1` states from the start on, as pairs of a sample and its
            predictions `(num_properties,)`. A step whose sample breaks a limit repeats the state before.
        edit_distances: Levenshtein distances of `samples` from the start, int64 `(batch,)`; None for data that are not
            strings.
        latents: Posterior means of `samples`, float32 `(batch, num_latents, latent_dim)`.
    """

    samples: list[Any]
    predictions: torch.Tensor
    trajectory: list[list[tuple[Any, torch.Tensor]]]
    edit_distances: torch.Tensor | None
    latents: torch.Tensor

    __repr__ = compact_repr


@dataclass
class EDDPMAttributeEdit(BaseOutput):
    """Result of `EDDPMPipeline.edit_to`.

    Args:
        samples: The edited data.
        probabilities: Of having each attribute, by `samples` encoded anew, float32 `(batch, num_attributes)`.
        reached: Whether all of these are as high as was asked for, bool `(batch,)`.
    """

    samples: list[Any]
    probabilities: torch.Tensor
    reached: torch.Tensor

    __repr__ = compact_repr


@dataclass
class EDDPMRestoration(BaseOutput):
    """Result of `EDDPMPipeline.restore`; `num_samples` rows for each measurement, side by side.

    Args:
        samples: The data, for images what `output_type` says.
        latents: Their latents, float32 `(rows, num_latents, latent_dim)`.
        misfits: How far each is from its measurement, float32 `(rows,)`: of images the root mean square of
            `operator(image) - measurement`, which should be about `noise_level`; of sequences -log p(known part |
            latents) for each known residue or word, in nats.
    """

    samples: Any
    latents: torch.Tensor
    misfits: torch.Tensor

    __repr__ = compact_repr


@dataclass
class EDDPMPropertyFit(BaseOutput):
    """Result of `EDDPMPipeline.fit_property`: how well rows are predicted by the heads that have not seen them.

    Args:
        num_rows: Different data that the numbers below are of: those the ensemble was fitted to, or the held-out ones.
        rmse: Root mean squared error of each property, in the data's unit.
        coverage_90: Share of the measurements inside the predicted 90 % intervals, for each property.
        calibration_error: Mean difference between the share that intervals of 5 to 95 % should hold and the share they
            hold, in [0, 1], for each property.
        notes: What was found in the measurements and how it was dealt with.
    """

    num_rows: int
    rmse: list[float]
    coverage_90: list[float]
    calibration_error: list[float]
    notes: list[str] = field(default_factory=list)

    __repr__ = compact_repr
