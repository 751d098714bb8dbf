"""EDDPMModel: encode, noise, denoise, decode, and the joint loss over the whole chain."""

import functools
from collections.abc import Iterable
from typing import Any

import torch
from diffusers.utils.accelerate_utils import apply_forward_hook  # moves the model of an offloaded pipeline
from diffusers.utils.torch_utils import randn_tensor
from torch import nn
from transformers import PreTrainedModel  # noqa: F401  (diffusers finds the loader by this name)

from .argument_types import FloatTensor, IntTensor, NumberFromZero, checked
from .configuration_eddpm import EDDPMConfig
from .latents import (
    LatentBottleneck,
    LatentNormalization,
    LatentPosterior,
    disturb,
    draw_timesteps,
    drop_labels,
    repeat,
    scale_gradient,
)
from .likelihood import LikelihoodMixin, evaluation_draws
from .modalities.base import EDDPMPreTrainedModel, ModalityDecoder, ModalityEncoder
from .modalities.registry import get_modality
from .modalities.states import record_states, returned_states
from .model_inputs import InputsMixin
from .modeling_denoiser import make_denoiser
from .modeling_property import PropertyHead, property_terms
from .outputs import EDDPMOutput
from .processes import mean_over_processes
from .scheduling_eddpm import EDDPMScheduler


class EDDPMModel(InputsMixin, LikelihoodMixin, EDDPMPreTrainedModel):
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
        self.main_input_name = self.encoder.input_names[0]
        self.bottleneck = LatentBottleneck(config, self.encoder.output_size)
        self.denoiser = make_denoiser(config)
        self.decoder = modality.decoder_class(config) if decoder is None else decoder
        self.property_head = PropertyHead(config) if config.num_properties else None
        self.post_init()

    @functools.cached_property
    def scheduler(self) -> EDDPMScheduler:
        """The chain's arithmetic, from the config. Not a buffer: its float32 must survive `.to(torch.bfloat16)`."""
        with torch.device("cpu"), torch.inference_mode(False):
            return EDDPMScheduler(**self.config.scheduler_config)

    def get_input_embeddings(self) -> nn.Module:
        """Return the encoder's token embeddings (or first layer)."""
        return self.encoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the encoder's token embeddings (or first layer)."""
        self.encoder.set_input_embeddings(value)

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> nn.Module:
        """Resize the encoder's token embeddings; the decoder has its own, `model.decoder.resize_token_embeddings`."""
        return self.encoder.resize_token_embeddings(new_num_tokens, *args, **kwargs)

    def get_output_embeddings(self) -> nn.Module | None:
        """Return None: the decoder keeps its output layer to itself."""
        return None

    @apply_forward_hook
    def encode(self, **inputs: Any) -> LatentPosterior:
        """Return q(latents | datum).

        Args:
            **inputs: What the modality's encoder takes, for text `input_ids` and `attention_mask`, `(batch, seq)`.
        """
        return self.bottleneck(self.encoder(**inputs))

    @apply_forward_hook
    @checked
    def denoise(
        self,
        noisy_latents: FloatTensor,
        timesteps: torch.Tensor | int,
        class_labels: IntTensor | None = None,
        guidance_scale: NumberFromZero = 1.0,
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
        both = self.denoiser(repeat(noisy_latents, 2), repeat(timesteps, 2), labels)
        unconditional, conditional = both.chunk(2)
        return unconditional + guidance_scale * (conditional - unconditional)

    @apply_forward_hook
    @torch.no_grad()
    @checked
    def decode(self, latents: FloatTensor, **kwargs: Any) -> Any:
        """Decode latents into the modality's raw output (for text: token ids, `(batch, seq)`).

        Args:
            latents: `(batch, num_latents, latent_dim)`.
            **kwargs: What the modality's decoder takes, for text the arguments of `generate()`.

        Raises:
            ValueError: If the latents have another shape or are not finite.
        """
        self.check_latents(latents)
        return self.decoder.generate(latents.to(self.denoiser.output.weight.dtype), **kwargs)

    def forward(
        self,
        *data: torch.Tensor,
        timesteps: torch.Tensor | None = None,
        noise: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
        diffusion_mask: torch.Tensor | None = None,
        properties: torch.Tensor | None = None,
        return_loss: bool = True,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        **inputs: Any,
    ) -> EDDPMOutput | tuple[torch.Tensor, ...]:
        r"""Compute the joint loss (Liu et al. 2024, section 3).

        In training mode latents, timesteps and noise are drawn. In evaluation mode the decoder gets the posterior
        mean and the diffusion terms are taken at fixed timesteps and noise, so that the loss is the same from run to
        run and for any batching.

        Args:
            *data: What the encoder takes, if not by name: for text and proteins `input_ids` and `attention_mask`, for
                images `pixel_values`.
            timesteps: `(batch,)` integers in [0, T) in place of those.
            noise: Noise of the chain in place of the draw, `(batch, num_latents, latent_dim)`; with `timesteps`.
            generator: Source of the draws.
            diffusion_mask: bool `(batch,)`, True for data whose latents the chain learns. The others, for example
                augmented ones, train encoder and decoder without being generated later.
            properties: Targets of the property head in the unit of the data, `(batch, num_properties)`, NaN where
                missing; None if all are.
            return_loss: False to encode only: `latents` and `posterior_mean` are returned, and no targets are needed.
            output_hidden_states: Whether to return the hidden states of encoder and decoder (without `return_loss` the
                encoder's alone); by default as the config says.
            output_attentions: Whether to return their attention weights.
            return_dict: Whether to return an `EDDPMOutput` rather than its tuple.
            **inputs: What the modality's encoder and decoder take, for text `input_ids`, `attention_mask`, `labels`;
                and `class_labels`, the classes that the denoiser is told, int64 `(batch,)` in [0, num_classes), -1
                where unknown. In training it is not told the share `label_dropout` of them.

        Raises:
            TypeError: If there are more inputs by position than the encoder takes, or one is given twice.
            ValueError: If an input is unknown or missing, `noise` is given without `timesteps`, or a part has no
                hidden states or attention weights to return.
        """
        inputs = self.name_inputs(data, inputs)
        if noise is not None and timesteps is None:
            raise ValueError("`noise` needs `timesteps` beside it.")
        # Not in the signature: where Trainer finds a name with "label" there, it wants it for every loss.
        class_labels = inputs.pop("class_labels", None)
        encoder_inputs, targets = self.split_inputs(inputs, with_targets=return_loss)
        if class_labels is not None:
            self.check_class_labels(class_labels, len(encoder_inputs[self.encoder.input_names[0]]), lowest=-1)
        return_dict = self.config.return_dict if return_dict is None else return_dict
        config = self.config
        encoder_record, decoder_record = record_states(
            self.encoder,
            self.decoder if return_loss else None,
            config.output_hidden_states if output_hidden_states is None else output_hidden_states,
            config.output_attentions if output_attentions is None else output_attentions,
        )
        if encoder_record is not None:
            encoder_inputs["record"] = encoder_record
        posterior = self.encode(**encoder_inputs)
        latents = posterior.sample(generator) if self.training else posterior.mean
        if not return_loss:
            predictions = None if self.property_head is None else self.property_head.predict(latents)
            states = returned_states(encoder_record, None)
            output = EDDPMOutput(latents=latents, posterior_mean=posterior.mean, properties=predictions, **states)
            return output if return_dict else output.to_tuple()

        over_processes = mean_over_processes if self.training else torch.Tensor.clone
        # In training the decoder sees latents with noise of a variance drawn for each datum.
        decoder_latents = disturb(latents, config.decoder_noise_variance, generator) if self.training else latents
        draws = config.denoiser_samples_per_latent if timesteps is None else 1
        if self.decoder.scheduler_config is not None:
            if self.training and timesteps is None:
                timesteps = draw_timesteps(draws * len(latents), len(self.scheduler), latents, generator)
            shared = None if timesteps is None else timesteps[: len(latents)]
            targets = {**targets, "timesteps": shared, "generator": generator}
        if decoder_record is not None:
            targets = {**targets, "record": decoder_record}
        nats, num_units = self.decoder(decoder_latents, **targets)  # both (batch,)
        nats = nats.float()

        if self.training or timesteps is not None:
            chain = repeat(latents, draws)
            row_weights = None
            if timesteps is None:
                timesteps = draw_timesteps(len(chain), len(self.scheduler), chain, generator)
            if noise is None:
                noise = randn_tensor(chain.shape, generator=generator, device=chain.device, dtype=chain.dtype)
        else:
            chain, timesteps, noise, row_weights = evaluation_draws(
                posterior.mean, posterior.variance, len(self.scheduler)
            )
        mean = repeat(posterior.mean, len(chain) // len(latents))
        labels = None if class_labels is None else repeat(class_labels, len(chain) // len(latents))
        if labels is not None and self.training:
            labels = drop_labels(labels, config.label_dropout, generator)
        chain, mean = (scale_gradient(each, config.encoder_gradient_scale) for each in (chain, mean))
        errors = self._chain_errors(chain, mean, timesteps, noise, labels)
        if row_weights is not None:
            errors = errors * row_weights
        if diffusion_mask is not None:
            if diffusion_mask.shape != (len(latents),):
                raise ValueError(
                    f"`diffusion_mask` must have the shape ({len(latents)},), got {tuple(diffusion_mask.shape)}."
                )
            share = over_processes(diffusion_mask.float().mean()).clamp(min=1 / len(latents))
            errors = errors * repeat(diffusion_mask.float(), len(errors) // len(latents)) / share

        first = timesteps == 0
        zero = torch.zeros_like(errors)
        diffusion_loss = torch.where(first, zero, errors).mean()
        alignment_loss = torch.where(first, errors, zero).mean()
        if config.loss_weighting == "simple":
            reconstruction_loss = nats.sum() / over_processes(num_units.sum().float()).clamp(min=1)
        else:
            reconstruction_loss = nats.mean()
            diffusion_loss = diffusion_loss * len(self.scheduler)
            alignment_loss = alignment_loss * len(self.scheduler)
        loss = self.reconstruction_weight * reconstruction_loss + config.diffusion_weight * (
            diffusion_loss + alignment_loss
        )
        property_loss, predictions = property_terms(self.property_head, latents, properties)
        if property_loss is not None:
            loss = loss + config.property_weight * property_loss
        output = EDDPMOutput(
            loss=loss,
            reconstruction_loss=reconstruction_loss,
            diffusion_loss=diffusion_loss,
            alignment_loss=alignment_loss,
            latents=latents,
            posterior_mean=posterior.mean,
            property_loss=property_loss,
            properties=predictions,
            **returned_states(encoder_record, decoder_record),
        )
        return output if return_dict else output.to_tuple()

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
        normalization.set_statistics(latents)

    @property
    def reconstruction_weight(self) -> float:
        """The reconstruction loss's factor: the config's, or the value that the bound implies."""
        if self.config.reconstruction_weight is not None:
            return self.config.reconstruction_weight
        return self.scheduler.reconstruction_weight() if self.config.loss_weighting == "simple" else 1.0

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
