"""What the study compares: shares of the joint gradient, and cures for the rank that it costs."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback

from hf_eddpm import EDDPMConfig, EDDPMModel, EDDPMOutput, ImageEncoder
from hf_eddpm.latents import LatentNormalization

NEWTON_STEPS = 5


@dataclass(frozen=True)
class Variant:
    """One way to train.

    Attributes:
        share: Of the diffusion loss's gradient that reaches the encoder.
        rise: Parts of the training at which the share starts to rise from 0 and reaches `share`; None: constant.
        penalty: Weight of the covariance penalty.
        whiten: Whether iterative normalisation takes the place of that of single dimensions.
        cells: Whether each latent sees one cell of the encoder's grid instead of all of it.
        finish_steps: Steps at the end in which the denoiser alone learns the posterior means.
        model_config: Values that differ from the configuration file's; those of a network are added to its own.
    """

    share: float = 0.1
    rise: tuple[float, float] | None = None
    penalty: float = 0.0
    whiten: bool = False
    cells: bool = False
    finish_steps: int = 0
    model_config: dict[str, Any] = field(default_factory=dict)


POOLED = {"encoder": {"pool_size": 1}}
CELLS = {"encoder": {"pool_size": 4}, "num_latents": 16, "latent_dim": 4}
VARIANTS = {
    **{f"share {share:g}": Variant(share) for share in (0, 0.003, 0.01, 0.03, 0.1, 1)},
    **{
        f"share {share:g}, encoder variance {noise:g}": Variant(share, model_config={"encoder_noise_variance": noise})
        for share in (0, 0.1)
        for noise in (0.003, 0.1, 0.3)
    },
    "share 0, then to 0.1": Variant(0.1, rise=(0.5, 1.0)),
    "share 0, then to 0.03": Variant(0.03, rise=(0.5, 1.0)),
    "share 0.1, iterative normalisation": Variant(0.1, whiten=True),
    "share 0, iterative normalisation": Variant(0, whiten=True),
    "share 0.1, covariance penalty 0.01": Variant(0.1, penalty=0.01),
    "share 0.1, covariance penalty 0.1": Variant(0.1, penalty=0.1),
    "share 0.1, one pooled vector": Variant(0.1, model_config=POOLED),
    "share 0, one pooled vector": Variant(0, model_config=POOLED),
    "share 0.1, 16 cells": Variant(0.1, cells=True, model_config=CELLS),
    "share 0, 16 cells": Variant(0, cells=True, model_config=CELLS),
    "share 0, map": Variant(0, model_config={"decoder": {"map_channels": 4}}),
    "share 0.1, map": Variant(0.1, model_config={"decoder": {"map_channels": 4}}),
    "share 0, cosine schedule": Variant(0, model_config={"beta_schedule": "squaredcos_cap_v2"}),
    "share 0.01, cosine schedule": Variant(0.01, model_config={"beta_schedule": "squaredcos_cap_v2"}),
    "share 0.1, cosine schedule": Variant(0.1, model_config={"beta_schedule": "squaredcos_cap_v2"}),
    "share 1, the bound's weights": Variant(1.0, model_config={"loss_weighting": "elbo"}),
    "share 0.1, the bound's weights": Variant(0.1, model_config={"loss_weighting": "elbo"}),
}

VARIANCES = {"yelp": (0.1, 0.3, 0.02), "gifford": (0.1, 0.3, 0.03), "gfp": (0.03, 0.1)}  # of the encoder
SHARES = (0, 0.1, 0.01, 1, 0.03, 0.003)  # the most telling first
FINISH_STEPS = 1000
SHAPES = {  # of the latents, beside the recipe's own
    "yelp": {"eight vectors": {"pooling": "attention", "num_latents": 8, "latent_dim": 8}},
    "gifford": {"one vector": {"num_latents": 1, "latent_dim": 30}},
    "gfp": {"one vector": {"num_latents": 1, "latent_dim": 128}},
}


def sequence_variants(dataset: str) -> dict[str, Variant]:
    """Variants for sentences or proteins by name, the most telling first.

    Args:
        dataset: Name of the recipe. The first of its variances is its own, at which the cures stand.
    """
    variances = VARIANCES[dataset]
    elbo = {"loss_weighting": "elbo"}
    named = {f"share {share:g}": Variant(share) for share in SHARES}
    named |= {
        "share 0.1, covariance penalty 0.1": Variant(0.1, penalty=0.1),
        "share 0.1, iterative normalisation": Variant(0.1, whiten=True),
        "share 0, then to 0.1": Variant(0.1, rise=(0.5, 1.0)),
        "share 0, finished": Variant(0, finish_steps=FINISH_STEPS),
        "share 0.1, finished": Variant(0.1, finish_steps=FINISH_STEPS),
        **{
            f"share {share:g}, {name}": Variant(share, model_config=shape)
            for name, shape in SHAPES[dataset].items()
            for share in (0, 0.1)
        },
        "share 0.1, covariance penalty 0.01": Variant(0.1, penalty=0.01),
        "share 1, covariance penalty 0.1": Variant(1, penalty=0.1),
        "share 1, the bound's weights": Variant(1, model_config=elbo),
        "share 0, cosine schedule": Variant(0, model_config={"beta_schedule": "squaredcos_cap_v2"}),
    }
    for variance in variances[1:]:
        value = {"encoder_noise_variance": variance}
        named |= {
            f"share {share:g}, encoder variance {variance:g}": Variant(share, model_config=value) for share in SHARES
        }
        named[f"share 1, the bound's weights, encoder variance {variance:g}"] = Variant(1, model_config=value | elbo)
    return named


class RisingShare(TrainerCallback):
    """Raises the share linearly from 0, once a part of the training is over, whether steps or the clock end it.

    Args:
        model: The model.
        share: What it rises to.
        rise: Parts of the training at which the rise starts and ends.
    """

    def __init__(self, model: EDDPMModel, share: float, rise: tuple[float, float]):
        self.model, self.share, self.rise = model, share, rise

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Sets the share of the step; the schedule of learning rates knows how much of the training is over."""
        start, end = self.rise
        part = (kwargs["lr_scheduler"].last_epoch / state.max_steps - start) / (end - start)
        self.model.config.encoder_gradient_scale = self.share * min(max(part, 0.0), 1.0)


class IterativeNormalization(LatentNormalization):
    """Whitens latents by their covariance over the batch, with gradient (Huang et al. 2019, arXiv 1904.03441).

    Newton's iteration for the inverse root of the covariance, stopped early: directions of the smallest variance are
    whitened in part only. In evaluation the covariance is the running one.
    """

    running_cov: torch.Tensor

    def __init__(self, num_latents: int, latent_dim: int):
        super().__init__(num_latents, latent_dim)
        self.register_buffer("running_cov", torch.eye(num_latents * latent_dim))

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Map `(batch, num_latents, latent_dim)` to the same shape, in float32."""
        with torch.autocast(latents.device.type, enabled=False):
            flat = latents.float().flatten(1)
            mean, cov = self.running_mean.flatten(), self.running_cov
            if self.training and len(flat) > 1:
                mean = flat.mean(0)
                cov = (flat - mean).T @ (flat - mean) / len(flat)
                with torch.no_grad():
                    self.running_mean.lerp_(mean.view_as(self.running_mean), self.momentum)
                    self.running_cov.lerp_(cov, self.momentum)
            return ((flat - mean) @ self._inverse_root(cov)).view_as(latents)

    def _inverse_root(self, cov: torch.Tensor) -> torch.Tensor:
        identity = torch.eye(len(cov), device=cov.device)
        cov = cov + 1e-3 * identity
        trace = cov.trace()
        root = identity
        for _ in range(NEWTON_STEPS):
            root = 1.5 * root - 0.5 * root @ root @ root @ (cov / trace)
        return root * trace.rsqrt()


class CellEncoder(ImageEncoder):
    """The convolutional encoder with one latent for each cell of its grid."""

    def __init__(self, config: EDDPMConfig):
        super().__init__(config)
        self.output_size //= config.num_latents

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Return features `(batch, num_latents, output_size)`."""
        features = self.backbone(pixel_values.to(next(self.parameters()).dtype))
        return features.view(len(features), self.output_size, self.num_latents).transpose(1, 2)


class StudyModel(EDDPMModel):
    """The model with what the variant adds.

    Args:
        config: The configuration.
        variant: The variant.
    """

    def __init__(self, config: EDDPMConfig, variant: Variant):
        super().__init__(config, encoder=CellEncoder(config) if variant.cells else None)
        self.penalty = variant.penalty
        if variant.whiten:
            self.bottleneck.normalization = IterativeNormalization(config.num_latents, config.latent_dim)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Add the covariance penalty of VICReg (Bardes et al. 2022, arXiv 2105.04906, equation 4) in training."""
        output = super().forward(*args, **kwargs)
        if self.training and self.penalty and isinstance(output, EDDPMOutput):
            mean = output.posterior_mean.float().flatten(1)  # (batch, size)
            centred = mean - mean.mean(0)
            covariance = centred.T @ centred / (len(mean) - 1)
            others = covariance.square().sum() - covariance.diagonal().square().sum()
            output.loss = output.loss + self.penalty * others / len(covariance)
        return output

    @torch.no_grad()
    def calibrate(self, batches: Iterable[dict[str, Any]]) -> None:
        """Set the running statistics under the present weights, the covariance too."""
        batches = list(batches)
        super().calibrate(batches)
        normalization: nn.Module = self.bottleneck.normalization
        if isinstance(normalization, IterativeNormalization):
            was_training = self.training
            self.eval()
            name = self.encoder.input_names[0]
            raw = [self.bottleneck.project(self.encoder(**{name: batch[name]})).float() for batch in batches]
            self.train(was_training)
            normalization.running_cov.copy_(torch.cat(raw).flatten(1).T.cov())
