"""EDDPMModel: encode, noise, denoise, decode, and the joint loss over the whole chain."""

import functools
import os
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from diffusers.utils.torch_utils import randn_tensor
from torch import nn
from transformers import PreTrainedModel  # diffusers finds the loader by this name
from transformers.utils import ModelOutput

from .configuration_eddpm import EDDPMConfig
from .modalities.registry import get_modality
from .modeling_denoiser import make_denoiser
from .modalities.base import EDDPMPreTrainedModel, ModalityDecoder, ModalityEncoder
from .modeling_property import PropertyHead
from .outputs import compact_repr
from .scheduling_eddpm import EDDPMScheduler

# Timesteps and noise of the evaluation loss: fixed, so that it is the same for a datum alone and in any batch.
_EVALUATION_DRAWS = 16
_EVALUATION_SEED = 0


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
        properties: Their predictions from `latents` in the unit of the data, `(batch, num_properties)`; None likewise.
    """

    loss: torch.Tensor | None = None
    reconstruction_loss: torch.Tensor | None = None
    diffusion_loss: torch.Tensor | None = None
    alignment_loss: torch.Tensor | None = None
    latents: torch.Tensor | None = None
    posterior_mean: torch.Tensor | None = None
    property_loss: torch.Tensor | None = None
    properties: torch.Tensor | None = None

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


class LatentPosterior:
    """q(latents | datum): a Gaussian with a learned mean and a fixed variance, the same in every dimension.

    Args:
        mean: `(batch, num_latents, latent_dim)`.
        variance: Positive number.
    """

    def __init__(self, mean: torch.Tensor, variance: float):
        self.mean = mean
        self.variance = variance

    def sample(
        self,
        generator: torch.Generator | list[torch.Generator] | None = None,
        noise: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Draw latents, shaped as `mean`; `noise` (standard Gaussian, broadcast to it) replaces the draw."""
        if noise is None:
            noise = randn_tensor(self.mean.shape, generator=generator, device=self.mean.device, dtype=self.mean.dtype)
        return self.mean + self.variance**0.5 * noise


class _SumOverProcesses(torch.autograd.Function):
    """Sums a tensor over all processes, and in the backward pass its gradients."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        gradient = gradients[0].clone()
        dist.all_reduce(gradient)
        return gradient


class LatentNormalization(nn.Module):
    """Standardises latents over the batch, without learned scale or shift (Ioffe & Szegedy 2015, arXiv 1502.03167).

    Batch statistics in training, taken over all processes together; running statistics in evaluation, and for a
    training batch of a single datum, which has no variance of its own. Statistics are float32 whatever the input.

    Args:
        num_latents: Latent vectors per datum.
        latent_dim: Their width.
        momentum: Weight in (0, 1] of a batch in the running statistics.
        eps: Added to the variance.
    """

    running_mean: torch.Tensor
    running_var: torch.Tensor

    def __init__(self, num_latents: int, latent_dim: int, momentum: float = 0.05, eps: float = 1e-5):
        super().__init__()
        self.momentum = momentum
        self.eps = eps
        self.register_buffer("running_mean", torch.zeros(num_latents, latent_dim))
        self.register_buffer("running_var", torch.ones(num_latents, latent_dim))

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Map `(batch, num_latents, latent_dim)` to the same shape, in float32."""
        latents = latents.float()
        mean, var = self.running_mean.float(), self.running_var.float()
        if self.training:
            count, total = latents.new_tensor(float(len(latents))), latents.sum(0)
            if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
                dist.all_reduce(count)
                total = _SumOverProcesses.apply(total)
                mean_of_all = total / count
                squares = _SumOverProcesses.apply((latents - mean_of_all).square().sum(0))
            else:
                mean_of_all = total / count
                squares = (latents - mean_of_all).square().sum(0)
            if count > 1:
                mean, var = mean_of_all, squares / count
                with torch.no_grad():
                    self.running_mean.lerp_(mean.to(self.running_mean.dtype), self.momentum)
                    unbiased = (squares / (count - 1)).to(self.running_var.dtype)
                    self.running_var.lerp_(unbiased, self.momentum)
        return (latents - mean) * (var + self.eps).rsqrt()


class LatentBottleneck(nn.Module):
    """From the encoder's features to the posterior; the only place where latents are normalised.

    Args:
        config: Supplies the latents' shape, `latent_normalization` and `encoder_noise_variance`.
        input_size: Width of the encoder's features.
    """

    def __init__(self, config: EDDPMConfig, input_size: int):
        super().__init__()
        # One projection for each latent: with mean pooling all latents see the same features.
        self.projection = nn.ModuleList(nn.Linear(input_size, config.latent_dim) for _ in range(config.num_latents))
        self.normalization = (
            LatentNormalization(config.num_latents, config.latent_dim)
            if config.latent_normalization == "batch"
            else nn.Identity()
        )
        self.variance = config.encoder_noise_variance

    def forward(self, features: torch.Tensor) -> LatentPosterior:
        """Map features `(batch, num_latents, hidden)` to the posterior over `(batch, num_latents, latent_dim)`."""
        mean = self.project(features)
        return LatentPosterior(self.normalization(mean).to(mean.dtype), self.variance)

    def project(self, features: torch.Tensor) -> torch.Tensor:
        """Map features `(batch, num_latents, hidden)` to latents before normalisation."""
        return torch.stack([project(features[:, i]) for i, project in enumerate(self.projection)], dim=1)


class EDDPMModel(EDDPMPreTrainedModel):
    r"""A generalised diffusion model: encoder, Gaussian chain over latents, decoder, trained together.

    Source: Liu et al., ICML 2024 (arXiv 2402.19009). For the chain's arithmetic see [`EDDPMScheduler`].

    Args:
        config: The configuration.
        encoder: Encoder module in place of a newly made one, for example around a pretrained backbone.
        decoder: Decoder module in place of a newly made one.
    """

    # Trainer: the loss is a mean over this batch and not yet divided for gradient accumulation.
    accepts_loss_kwargs = False

    encoder: ModalityEncoder
    decoder: ModalityDecoder

    def __init__(
        self,
        config: EDDPMConfig,
        encoder: ModalityEncoder | None = None,
        decoder: ModalityDecoder | None = None,
    ):
        super().__init__(config)
        modality = get_modality(config.modality)
        self.encoder = modality.encoder_class(config) if encoder is None else encoder
        self.bottleneck = LatentBottleneck(config, self.encoder.output_size)
        self.denoiser = make_denoiser(config)
        self.decoder = modality.decoder_class(config) if decoder is None else decoder
        self.property_head = PropertyHead(config) if config.num_properties else None
        self.post_init()

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
        """Save config and weights; of a model with an adapter the config, and the adapter in `adapter/`."""
        if not hasattr(self, "peft_config"):
            super().save_pretrained(save_directory, *args, **kwargs)
            return
        from .hub.adapters import ADAPTER_FOLDER, save_adapter

        self.config.save_pretrained(save_directory)
        save_adapter(self, os.path.join(save_directory, ADAPTER_FOLDER))

    @functools.cached_property
    def scheduler(self) -> EDDPMScheduler:
        """The chain's arithmetic, from the config. Not a buffer: its float32 must survive `.to(torch.bfloat16)`."""
        with torch.device("cpu"):
            return EDDPMScheduler(**self.config.scheduler_config)

    def get_input_embeddings(self) -> nn.Module:
        """Return the encoder's token embeddings (or first layer)."""
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the encoder's token embeddings (or first layer)."""
        self.encoder.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module | None:
        """Return None: the decoder keeps its output layer to itself."""
        return None

    def encode(self, **inputs: Any) -> LatentPosterior:
        """Return q(latents | datum).

        Args:
            **inputs: What the modality's encoder takes, for text `input_ids` and `attention_mask`, `(batch, seq)`.
        """
        return self.bottleneck(self.encoder(**inputs))

    def denoise(
        self,
        noisy_latents: torch.Tensor,
        timesteps: torch.Tensor | int,
        class_labels: torch.Tensor | None = None,
        guidance_scale: float = 1.0,
    ) -> torch.Tensor:
        """Return the denoiser's output (see `config.prediction_type`).

        With classifier-free guidance it is `unconditional + guidance_scale * (conditional - unconditional)` (Ho &
        Salimans 2022, arXiv 2207.12598, equation 6, whose w is `guidance_scale - 1`).

        Args:
            noisy_latents: `(batch, num_latents, latent_dim)`.
            timesteps: Integers in [0, T), `(batch,)` or a single one.
            class_labels: int64 `(batch,)` in [0, num_classes), -1 where unknown; None if all are.
            guidance_scale: Weight of the class; 1, or no labels, is one evaluation without guidance.
        """
        noisy_latents = noisy_latents.to(self.denoiser.output.weight.dtype)
        if class_labels is None or guidance_scale == 1:
            return self.denoiser(noisy_latents, timesteps, class_labels)
        timesteps = torch.as_tensor(timesteps, device=noisy_latents.device).expand(len(noisy_latents))
        labels = torch.cat([torch.full_like(class_labels, -1), class_labels])
        both = self.denoiser(_repeat(noisy_latents, 2), _repeat(timesteps, 2), labels)
        unconditional, conditional = both.chunk(2)
        return unconditional + guidance_scale * (conditional - unconditional)

    @torch.no_grad()
    def decode(self, latents: torch.Tensor, **kwargs: Any) -> Any:
        """Decode latents into the modality's raw output (for text: token ids, `(batch, seq)`).

        Args:
            latents: `(batch, num_latents, latent_dim)`.
            **kwargs: What the modality's decoder takes, for text the arguments of `generate()`.

        Raises:
            ValueError: If the latents have another shape or are not finite.
        """
        self.check_latents(latents)
        return self.decoder.generate(latents.to(self.denoiser.output.weight.dtype), **kwargs)

    def refine(
        self,
        latents: torch.Tensor,
        num_steps: int,
        learning_rate: float = 0.1,
        proximity: float = 0.05,
        **targets: Any,
    ) -> torch.Tensor:
        r"""Move latents to where the decoder reconstructs the data better: Adam on each datum's own latents.

        The encoder's answer for data it was not trained on is only near the best latents (the amortisation gap); a few
        steps of gradient descent close much of it (Kim et al. 2018, "Semi-Amortized Variational Autoencoders",
        arXiv 1802.02550). Minimised is -log p(datum | latents) + proximity / 2 * |latents - start|^2, in nats.

        Args:
            latents: Where to start, for example the posterior mean, `(batch, num_latents, latent_dim)`.
            num_steps: Steps, at least 1; each costs a pass through the decoder and back.
            learning_rate: Adam's, positive; the most that a step changes one number of the latents, roughly.
            proximity: Non-negative weight that keeps the latents near the start.
            **targets: What the decoder takes, for text `labels`.

        Returns:
            Latents, float32, shaped as given, without gradient. Each datum's are independent of its batch.

        Raises:
            ValueError: If an argument is outside its range.
        """
        if isinstance(num_steps, bool) or not isinstance(num_steps, int) or num_steps < 1:
            raise ValueError(f"`num_steps` must be a positive integer, got {num_steps!r}.")
        if not 0 < learning_rate < float("inf"):
            raise ValueError(f"`learning_rate` must be positive and finite, got {learning_rate!r}.")
        if not 0 <= proximity < float("inf"):
            raise ValueError(f"`proximity` must be non-negative and finite, got {proximity!r}.")
        self.check_latents(latents)
        start = latents.detach().float()
        dtype = self.denoiser.output.weight.dtype
        refined = start.clone().requires_grad_(True)
        optimizer = torch.optim.Adam([refined], lr=learning_rate, betas=(0.9, 0.99))
        with torch.enable_grad():
            for _ in range(num_steps):
                nats, _ = self.decoder(refined.to(dtype), **targets)
                # A sum: each datum's gradient is its own.
                loss = nats.float().sum() + proximity / 2 * (refined - start).square().sum()
                (refined.grad,) = torch.autograd.grad(loss, refined)
                optimizer.step()
        return refined.detach()

    def check_latents(self, latents: torch.Tensor, name: str = "latents") -> None:
        """Raise a ValueError unless `latents` are finite, not empty and `(batch, num_latents, latent_dim)`."""
        expected = (self.config.num_latents, self.config.latent_dim)
        if not isinstance(latents, torch.Tensor):
            raise TypeError(f"`{name}` must be a tensor, got {type(latents).__name__}.")
        if latents.ndim != 3 or tuple(latents.shape[1:]) != expected:
            raise ValueError(
                f"`{name}` must have the shape (batch, {expected[0]}, {expected[1]}), got {tuple(latents.shape)}."
            )
        if len(latents) == 0:
            raise ValueError(f"`{name}` must hold at least one datum, got an empty batch.")
        if not bool(torch.isfinite(latents).all()):
            raise ValueError(f"`{name}` must be finite, got NaN or infinity.")

    def check_class_labels(self, class_labels: torch.Tensor, batch: int, lowest: int = 0) -> None:
        """Raise a ValueError unless `class_labels` are int64 `(batch,)` in [lowest, num_classes)."""
        classes = self.config.num_classes
        if not classes:
            raise ValueError("`class_labels` needs a model with `num_classes` > 0, got one without.")
        if class_labels.dtype != torch.int64 or class_labels.shape != (batch,):
            raise ValueError(
                f"`class_labels` must be int64 of the shape ({batch},), got {class_labels.dtype} of "
                f"{tuple(class_labels.shape)}."
            )
        low, high = int(class_labels.min()), int(class_labels.max())
        if low < lowest or high >= classes:
            raise ValueError(f"`class_labels` must be in [{lowest}, {classes}), got {low} to {high}.")

    def forward(
        self,
        timesteps: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        diffusion_mask: torch.Tensor | None = None,
        properties: torch.Tensor | None = None,
        return_loss: bool = True,
        return_dict: bool | None = None,
        **inputs: Any,
    ) -> EDDPMOutput | tuple[torch.Tensor, ...]:
        r"""Compute the joint loss (Liu et al. 2024, section 3).

        In training mode latents, timesteps and noise are drawn. In evaluation mode the decoder gets the posterior
        mean and the diffusion terms are taken at fixed timesteps and noise, so that the loss is the same from run to
        run and for any batching.

        Args:
            timesteps: `(batch,)` integers in [0, T) in place of those.
            noise: Noise of the chain in place of the draw, `(batch, num_latents, latent_dim)`; with `timesteps`.
            generator: Source of the draws.
            diffusion_mask: bool `(batch,)`, True for data whose latents the chain shall learn. The others, for example
                augmented ones, train encoder and decoder without being generated later.
            properties: Targets of the property head in the unit of the data, `(batch, num_properties)`, NaN where
                missing; None if all are.
            return_loss: False to encode only: `latents` and `posterior_mean` are returned, and no targets are needed.
            return_dict: Whether to return an `EDDPMOutput` rather than its tuple.
            **inputs: What the modality's encoder and decoder take, for text `input_ids`, `attention_mask`, `labels`;
                and `class_labels`, the classes that the denoiser is told, int64 `(batch,)` in [0, num_classes), -1
                where unknown. In training it is not told the share `label_dropout` of them.

        Raises:
            ValueError: If an input is unknown or missing, or `noise` is given without `timesteps`.
        """
        if noise is not None and timesteps is None:
            raise ValueError("`noise` needs `timesteps` beside it.")
        # Not in the signature: where Trainer finds a name with "label" there, it wants it for every loss.
        class_labels = inputs.pop("class_labels", None)
        encoder_inputs, targets = self._split(inputs, with_targets=return_loss)
        if class_labels is not None:
            self.check_class_labels(class_labels, len(encoder_inputs[self.encoder.input_names[0]]), lowest=-1)
        return_dict = self.config.return_dict if return_dict is None else return_dict
        posterior = self.encode(**encoder_inputs)
        latents = posterior.sample(generator) if self.training else posterior.mean
        if not return_loss:
            predictions = None if self.property_head is None else self.property_head.predict(latents)
            output = EDDPMOutput(latents=latents, posterior_mean=posterior.mean, properties=predictions)
            return output if return_dict else output.to_tuple()

        decoder_latents = self._disturb(latents, generator)
        draws = self.config.denoiser_samples_per_latent if timesteps is None else 1
        if self.decoder.scheduler_config is not None:
            if self.training and timesteps is None:
                timesteps = self._draw_timesteps(draws * len(latents), latents, generator)
            shared = None if timesteps is None else timesteps[: len(latents)]
            targets = {**targets, "timesteps": shared, "generator": generator}
        nats, num_units = self.decoder(decoder_latents, **targets)  # both (batch,)
        nats = nats.float()

        if self.training or timesteps is not None:
            chain = _repeat(latents, draws)
            row_weights = None
            if timesteps is None:
                timesteps = self._draw_timesteps(len(chain), chain, generator)
            if noise is None:
                noise = randn_tensor(chain.shape, generator=generator, device=chain.device, dtype=chain.dtype)
        else:
            chain, timesteps, noise, row_weights = self._evaluation_draws(posterior)
        gradient = self.config.encoder_gradient_scale
        mean = _repeat(posterior.mean, len(chain) // len(latents))
        labels = self._labels_told(class_labels, len(chain) // len(latents), generator)
        errors = self._chain_errors(
            _scale_gradient(chain, gradient), _scale_gradient(mean, gradient), timesteps, noise, labels
        )
        if row_weights is not None:
            errors = errors * row_weights
        if diffusion_mask is not None:
            if diffusion_mask.shape != (len(latents),):
                raise ValueError(
                    f"`diffusion_mask` must have the shape ({len(latents)},), got {tuple(diffusion_mask.shape)}."
                )
            share = self._mean_over_processes(diffusion_mask.float().mean()).clamp(min=1 / len(latents))
            errors = errors * _repeat(diffusion_mask.float(), len(errors) // len(latents)) / share

        first = timesteps == 0
        zero = torch.zeros_like(errors)
        diffusion_loss = torch.where(first, zero, errors).mean()
        alignment_loss = torch.where(first, errors, zero).mean()
        if self.config.loss_weighting == "simple":
            reconstruction_loss = nats.sum() / self._mean_over_processes(num_units.sum().float()).clamp(min=1)
        else:
            reconstruction_loss = nats.mean()
            diffusion_loss = diffusion_loss * len(self.scheduler)
            alignment_loss = alignment_loss * len(self.scheduler)
        loss = self.reconstruction_weight * reconstruction_loss + self.config.diffusion_weight * (
            diffusion_loss + alignment_loss
        )
        property_loss, predictions = self._property_terms(latents, properties)
        if property_loss is not None:
            loss = loss + self.config.property_weight * property_loss
        output = EDDPMOutput(
            loss=loss,
            reconstruction_loss=reconstruction_loss,
            diffusion_loss=diffusion_loss,
            alignment_loss=alignment_loss,
            latents=latents,
            posterior_mean=posterior.mean,
            property_loss=property_loss,
            properties=predictions,
        )
        return output if return_dict else output.to_tuple()

    def _property_terms(
        self, latents: torch.Tensor, properties: torch.Tensor | None
    ) -> tuple[torch.Tensor | None, torch.Tensor | None]:
        """Return the property loss and the predictions in the unit of the data, None without a head."""
        if self.property_head is None:
            if properties is not None:
                raise ValueError("`properties` needs a model with `num_properties` > 0, got one without.")
            return None, None
        predictions = self.property_head(latents)  # (batch, num_properties)
        if properties is None:
            properties = torch.full_like(predictions, float("nan"))
        if properties.shape != predictions.shape:
            raise ValueError(
                f"`properties` must have the shape {tuple(predictions.shape)}, got {tuple(properties.shape)}."
            )
        return self.property_head.loss(predictions, properties), self.property_head.predict(latents)

    @torch.no_grad()
    def calibrate(self, batches: Iterable[dict[str, Any]]) -> None:
        """Set the latent normalisation's running statistics to those of these data under the present weights.

        Averaged weights need it (as in Izmailov et al. 2018, arXiv 1803.05407): the running statistics belong to the
        weights that trained. Nothing happens with `latent_normalization="none"`.

        Args:
            batches: Inputs as for `forward`; a few thousand data in all do.

        Raises:
            ValueError: If there are fewer than two data.
        """
        normalization = self.bottleneck.normalization
        if not isinstance(normalization, LatentNormalization):
            return
        training = self.training
        self.eval()
        names = self.encoder.input_names
        inputs = ({name: batch[name] for name in names if name in batch} for batch in batches)
        means = [self.bottleneck.project(self.encoder(**batch)).float() for batch in inputs]
        self.train(training)
        if sum(map(len, means)) < 2:
            raise ValueError("`batches` must hold at least two data.")
        latents = torch.cat(means)  # (data, num_latents, latent_dim)
        normalization.running_mean.copy_(latents.mean(0))
        normalization.running_var.copy_(latents.var(0))

    @functools.cached_property
    def reconstruction_weight(self) -> float:
        """The reconstruction loss's factor: the config's, or the value that the bound implies."""
        if self.config.reconstruction_weight is not None:
            return self.config.reconstruction_weight
        return self.scheduler.reconstruction_weight() if self.config.loss_weighting == "simple" else 1.0

    @torch.no_grad()
    def bound(
        self,
        num_timesteps: int = 32,
        generator: torch.Generator | None = None,
        class_labels: torch.Tensor | None = None,
        **inputs: Any,
    ) -> EDDPMBound:
        r"""Estimate the bound on -log p(datum) and its terms, in nats (DDPM's decomposition with the encoder as q).

        With x_1 a sample of q(x_1 | x_0) = N(mean, b I), b = `encoder_noise_variance`, and beta the first beta, the
        alignment is E[log q(x_1 | x_0) - log p(x_1 | x_2)] = w_0 |noise - noise_pred|^2 + d/2 (log(beta / b) - 1).
        It is exact for any b, since the chain starts at the sample and not at the mean.

        Args:
            num_timesteps: Timesteps of the stratified estimate of the diffusion term, at least 1.
            generator: Source of the draws.
            class_labels: As for `forward`; the bound is then on -log p(datum | class).
            **inputs: As for `forward`.
        """
        if num_timesteps < 1:
            raise ValueError(f"`num_timesteps` must be at least 1, got {num_timesteps}.")
        encoder_inputs, targets = self._split(inputs)
        posterior = self.encode(**encoder_inputs)
        latents = posterior.sample(generator)
        nats, num_units = self.decoder.negative_log_likelihood(latents, num_timesteps, generator, **targets)

        scheduler, size = self.scheduler, self.config.latent_size
        chain = latents.float()
        first = torch.zeros(len(chain), dtype=torch.long, device=chain.device)
        if class_labels is not None:
            self.check_class_labels(class_labels, len(chain), lowest=-1)
        first_errors = self._noise_errors(chain, first, generator, class_labels)
        alignment = scheduler.bound_weights(first) * first_errors + size / 2 * (
            torch.log(scheduler.betas[0] / posterior.variance) - 1
        ).to(chain.device)

        diffusion, prior = scheduler.bound_terms(
            chain,
            lambda timesteps: self._noise_errors(chain, timesteps, generator, class_labels),
            num_timesteps,
            generator,
        )
        nats = nats.float()
        return EDDPMBound(
            bound=nats + alignment + diffusion + prior,
            reconstruction=nats,
            alignment=alignment,
            diffusion=diffusion,
            prior=prior,
            num_units=num_units.float(),
        )

    def _mean_over_processes(self, value: torch.Tensor) -> torch.Tensor:
        """Average what a training loss is divided by, so that the mean of the processes' losses, and with it their
        gradient, is that of one process with the whole batch."""
        if self.training and dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            value = value.clone()
            dist.all_reduce(value)
            value = value / dist.get_world_size()
        return value

    def _draw_timesteps(self, count: int, like: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """Return `(count,)` timesteps, evenly drawn, on the device of `like`."""
        device = _generator_device(generator, like)
        return torch.randint(len(self.scheduler), (count,), generator=generator, device=device).to(like.device)

    def _disturb(self, latents: torch.Tensor, generator: torch.Generator | None) -> torch.Tensor:
        """Return the latents that the decoder sees: in training with noise of a variance drawn for each datum."""
        if not self.training or self.config.decoder_noise_variance == 0:
            return latents
        device = _generator_device(generator, latents)
        share = torch.rand(len(latents), 1, 1, generator=generator, device=device).to(latents)
        noise = randn_tensor(latents.shape, generator=generator, device=latents.device, dtype=latents.dtype)
        return latents + (share * self.config.decoder_noise_variance).sqrt() * noise

    def _labels_told(
        self, class_labels: torch.Tensor | None, draws: int, generator: torch.Generator | None
    ) -> torch.Tensor | None:
        """Return the labels that the denoiser is told, `(draws * batch,)`: in training without those dropped."""
        if class_labels is None:
            return None
        labels = _repeat(class_labels, draws)
        if not self.training:
            return labels
        device = _generator_device(generator, labels)
        dropped = torch.rand(len(labels), generator=generator, device=device) < self.config.label_dropout
        return labels.masked_fill(dropped.to(labels.device), -1)

    def _noise_errors(
        self,
        latents: torch.Tensor,
        timesteps: torch.Tensor,
        generator: torch.Generator | None,
        class_labels: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return `|noise - noise_pred|^2`, `(batch,)`."""
        noise = randn_tensor(latents.shape, generator=generator, device=latents.device, dtype=latents.dtype)
        noisy_latents = self.scheduler.add_noise(latents, noise, timesteps)
        model_output = self.denoise(noisy_latents, timesteps, class_labels)
        _, noise_pred = self.scheduler.predict(model_output, timesteps, noisy_latents)
        return (noise - noise_pred).square().flatten(1).sum(1)

    def _chain_errors(
        self,
        latents: torch.Tensor,
        mean: torch.Tensor,
        timesteps: torch.Tensor,
        noise: torch.Tensor,
        class_labels: torch.Tensor | None,
    ) -> torch.Tensor:
        """Return each row's term of the diffusion or alignment loss, `(rows,)`, before the factor T of "elbo"."""
        scheduler, config = self.scheduler, self.config
        latents, mean, noise = latents.float(), mean.float(), noise.float()
        noisy_latents = scheduler.add_noise(latents, noise, timesteps)
        model_output = self.denoise(noisy_latents, timesteps, class_labels).float()
        if config.loss_weighting == "simple":
            target = scheduler.training_target(latents, noise, timesteps)
            errors = (target - model_output).square().flatten(1).mean(1)
        else:
            _, noise_pred = scheduler.predict(model_output, timesteps, noisy_latents)
            errors = scheduler.bound_weights(timesteps) * (noise - noise_pred).square().flatten(1).sum(1)
        if config.alignment_target == "mean":
            # KL(q(x_1 | x_0) || p(x_1 | x_2)) with equal variances beta; p's mean at the first timestep is the clean
            # estimate. Divided by T w_0 it is (alpha / beta) times the mean square ("simple").
            clean, _ = scheduler.predict(model_output, timesteps, noisy_latents)
            squares = (mean - clean).square().flatten(1)
            beta, alpha = scheduler.betas[0].item(), scheduler.alphas[0].item()
            aligned = (
                alpha / beta * squares.mean(1) if config.loss_weighting == "simple" else squares.sum(1) / (2 * beta)
            )
            errors = torch.where(timesteps == 0, aligned, errors)
        return errors

    def _evaluation_draws(
        self, posterior: LatentPosterior
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return latents, timesteps, noise and weights, the same for every datum: `(batch * draws, ...)`.

        The first timestep is one of the draws; the weights give it its share 1/T of the mean over all timesteps.
        """
        batch, *shape = posterior.mean.shape
        generator = torch.Generator().manual_seed(_EVALUATION_SEED)
        draws = torch.randn(2, _EVALUATION_DRAWS, 1, *shape, generator=generator).to(posterior.mean)
        posterior_noise, noise = (draw.expand(-1, batch, *shape).flatten(0, 1) for draw in draws)
        timesteps = torch.linspace(0, len(self.scheduler) - 1, _EVALUATION_DRAWS).round().long()
        timesteps = timesteps.to(noise.device).repeat_interleave(batch)
        latents = _repeat(posterior.mean, _EVALUATION_DRAWS) + posterior.variance**0.5 * posterior_noise
        total = len(self.scheduler)
        first, others = int((timesteps == 0).sum()), int((timesteps > 0).sum())
        weight_of_first = len(timesteps) / (total * first)
        weight_of_others = len(timesteps) * (total - 1) / (total * max(others, 1))
        weights = torch.where(timesteps == 0, weight_of_first, weight_of_others).float()
        return latents, timesteps, noise, weights

    def _split(self, inputs: dict[str, Any], with_targets: bool = True) -> tuple[dict[str, Any], dict[str, Any]]:
        """Divide the batch into what the encoder takes and what the decoder takes."""
        known = {*self.encoder.input_names, *self.decoder.target_names}
        if unknown := sorted(set(inputs) - known):
            raise ValueError(f"Inputs must be among {sorted(known)}, got {unknown} besides.")
        if inputs.get(self.encoder.input_names[0]) is None:
            raise ValueError(f"`{self.encoder.input_names[0]}` must be given: there is nothing to encode.")
        encoder_inputs = {name: inputs[name] for name in self.encoder.input_names if name in inputs}
        if not with_targets:
            return encoder_inputs, {}
        if missing := [name for name in self.decoder.target_names if inputs.get(name) is None]:
            raise ValueError(f"`{missing[0]}` must be given: the loss needs what the decoder shall reconstruct.")
        return encoder_inputs, {name: inputs[name] for name in self.decoder.target_names}


def _repeat(tensor: torch.Tensor, times: int) -> torch.Tensor:
    return tensor.repeat(times, *[1] * (tensor.ndim - 1)) if times > 1 else tensor


def _scale_gradient(tensor: torch.Tensor, share: float) -> torch.Tensor:
    """Return `tensor`, its gradient multiplied by `share`."""
    return tensor if share == 1 else tensor.detach() if share == 0 else tensor.detach().lerp(tensor, share)


def _generator_device(generator: torch.Generator | None, like: torch.Tensor) -> torch.device:
    return like.device if generator is None else generator.device
