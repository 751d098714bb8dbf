"""The decoder of images that is a diffusion chain over pixels, and the choice between the decoders."""

import copy
import functools
import inspect
import math
from collections.abc import Callable
from typing import Any

import torch
from diffusers import UNet2DModel
from diffusers.utils.torch_utils import randn_tensor
from torch import nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle
from transformers.utils import logging

from ...argument_types import Count, FloatTensor, Generators, checked
from ...configuration_eddpm import EDDPMConfig
from ...scheduling_eddpm import EDDPMScheduler
from .configuration import ImageConvConfig, ImageUNetConfig
from .decoder import ImageConvDecoder, ImageDecoder, discretized_gaussian_nats

# Timesteps and noise of the evaluation loss: fixed, so that it is the same for an image alone and in any batch.
_EVALUATION_DRAWS = 8
_EVALUATION_SEED = 0
_MAX_LAST_SIGNAL = 0.2  # the default schedule's is 0.006

logger = logging.get_logger(__name__)


class ImageDiffusionDecoder(ImageDecoder):
    """A diffusion chain over pixels, conditioned on the latents: a diffusion autoencoder's decoder.

    The network is diffusers' `UNet2DModel`; a projection of the latents is added to its time embedding, which scales
    and shifts the normalised features of every residual block (Preechakul et al. 2022, arXiv 2111.15640, section 3.1).
    With `map_channels` it also sees a map drawn from the latents.

    Args:
        config: Supplies `decoder` (an `ImageUNetConfig`), `num_train_timesteps`, `loss_weighting` and the latents'
            shape.
    """

    per_datum_arguments = ("decoder_noise", "generator")

    def __init__(self, config: EDDPMConfig):
        super().__init__(config)
        net: Any = config.decoder
        levels = range(len(net.block_out_channels))
        side = net.image_size // net.patch_size
        self.unet = UNet2DModel(
            sample_size=side,
            in_channels=net.patch_channels + net.map_channels,
            out_channels=net.patch_channels,
            block_out_channels=tuple(net.block_out_channels),
            layers_per_block=net.layers_per_block,
            norm_num_groups=net.norm_num_groups,
            down_block_types=tuple(_block("Down", level in net.attention_levels) for level in levels),
            up_block_types=tuple(_block("Up", level in net.attention_levels) for level in reversed(levels)),
            add_attention=bool(net.attention_levels),
            attention_head_dim=net.attention_head_dim,
            dropout=net.dropout,
            class_embed_type="identity",
            resnet_time_scale_shift="scale_shift",
        )
        self.projection = nn.Linear(config.latent_size, 4 * net.block_out_channels[0])
        self.map_shape = (net.map_channels, side, side)
        self.map_projection = nn.Linear(config.latent_size, math.prod(self.map_shape)) if net.map_channels else None
        signal = float(self.scheduler.alphas_cumprod[-1]) ** 0.5
        if signal > _MAX_LAST_SIGNAL:
            logger.warning(
                f"The pixels' chain ends at a signal of {signal:.2f} instead of noise, which decoding starts from: "
                "raise `beta_end` of `decoder`, whose default is meant for 1,000 timesteps, or `num_train_timesteps`."
            )
        self.post_init()

    @property
    def scheduler_config(self) -> dict[str, Any]:
        """The schedule of the pixels' chain; its clean estimates are clipped to the range of pixels."""
        net: Any = self.config.decoder
        return {
            **net.scheduler_config,
            "num_train_timesteps": self.config.num_train_timesteps,
            "clip_sample": True,
        }

    @functools.cached_property
    def scheduler(self) -> EDDPMScheduler:
        """The arithmetic of the pixels' chain."""
        with torch.device("cpu"), torch.inference_mode(False):
            return EDDPMScheduler(**self.scheduler_config)

    def denoise(
        self, noisy_images: torch.Tensor, timesteps: torch.Tensor | int, latents: torch.Tensor
    ) -> torch.Tensor:
        """Return the network's output (see `prediction_type` of its config), float32, shaped as `noisy_images`.

        Args:
            noisy_images: `(batch, channels, height, width)`.
            timesteps: Integers in [0, T), `(batch,)` or a single one.
            latents: `(batch, num_latents, latent_dim)`.
        """
        dtype = self.projection.weight.dtype
        patches = pixel_unshuffle(noisy_images.to(dtype), self.patch_size)
        latents = latents.to(dtype).flatten(1)
        if self.map_projection is not None:
            maps = self.map_projection(latents).view(-1, *self.map_shape)
            patches = torch.cat([patches, maps.expand(len(patches), -1, -1, -1)], dim=1)
        condition = self.projection(latents)
        return pixel_shuffle(self.unet(patches, timesteps, condition).sample, self.patch_size).float()

    def forward(
        self,
        latents: torch.Tensor,
        pixel_values: torch.Tensor,
        timesteps: torch.Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the pixels' diffusion loss and the number of pixel values, both `(batch,)`.

        With `loss_weighting="simple"` it is the squared error of the network's output, summed over pixel values, with
        "elbo" an estimate of the bound in nats, without the KL at the end of the chain, which nothing can change.

        Args:
            latents: `(batch, num_latents, latent_dim)`.
            pixel_values: `(batch, channels, height, width)`, in [-1, 1].
            timesteps: Integers in [0, T), `(batch,)`. None: drawn in training, and a fixed few in evaluation, whose
                mean is returned.
            generator: Source of noise and timesteps in training.

        Raises:
            ValueError: If the images have another shape.
        """
        self.check_images(pixel_values)
        count, images = len(pixel_values), pixel_values.float()
        if self.training or timesteps is not None:
            device = images.device if generator is None else generator.device
            if timesteps is None:
                timesteps = torch.randint(len(self.scheduler), (count,), generator=generator, device=device)
            noise = randn_tensor(images.shape, generator=generator, device=images.device, dtype=images.dtype)
            errors = self._errors(latents, images, timesteps.to(images.device), noise)
        else:
            fixed = torch.Generator().manual_seed(_EVALUATION_SEED)
            noises = torch.randn(_EVALUATION_DRAWS, 1, *images.shape[1:], generator=fixed).to(images)
            middles = (torch.arange(_EVALUATION_DRAWS) + 0.5) / _EVALUATION_DRAWS * len(self.scheduler)
            errors = torch.zeros(count, device=images.device)
            for timestep, noise in zip(middles.long().to(images.device), noises, strict=True):
                errors += self._errors(latents, images, timestep.expand(count), noise.expand_as(images))
            errors = errors / _EVALUATION_DRAWS
        return errors, self.num_units(pixel_values)

    def _errors(
        self, latents: torch.Tensor, images: torch.Tensor, timesteps: torch.Tensor, noise: torch.Tensor
    ) -> torch.Tensor:
        noisy = self.scheduler.add_noise(images, noise, timesteps)
        output = self.denoise(noisy, timesteps, latents)
        if self.config.loss_weighting == "simple":
            target = self.scheduler.training_target(images, noise, timesteps)
            return (target - output).square().flatten(1).sum(1)
        _, noise_pred = self.scheduler.predict(output, timesteps, noisy)
        squares = (noise - noise_pred).square().flatten(1).sum(1)
        return len(self.scheduler) * self.scheduler.bound_weights(timesteps) * squares

    def negative_log_likelihood(
        self, latents: torch.Tensor, num_timesteps: int = 32, generator: Generators = None, **targets: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the bound on -log of the probability of the 256 grey levels that the pixels have; see the base class.

        Source: Ho et al. 2020 (arXiv 2006.11239), equations 5 and 13, p(x_t-1 | x_t) having variance beta_t.
        """
        images = targets["pixel_values"].float()
        self.check_images(images)

        def noise_errors(timesteps: torch.Tensor) -> torch.Tensor:
            noise = randn_tensor(images.shape, generator=generator, device=images.device, dtype=images.dtype)
            noisy = self.scheduler.add_noise(images, noise, timesteps)
            _, noise_pred = self.scheduler.predict(self.denoise(noisy, timesteps, latents), timesteps, noisy)
            return (noise - noise_pred).square().flatten(1).sum(1)

        first = torch.zeros(len(images), dtype=torch.long, device=images.device)
        noise = randn_tensor(images.shape, generator=generator, device=images.device, dtype=images.dtype)
        noisy = self.scheduler.add_noise(images, noise, first)
        clean, _ = self.scheduler.predict(self.denoise(noisy, first, latents), first, noisy)
        nats = discretized_gaussian_nats(images, clean, float(self.scheduler.betas[0]) ** 0.5)
        diffusion, prior = self.scheduler.bound_terms(images, noise_errors, num_timesteps, generator)
        return nats + diffusion + prior, self.num_units(images)

    def draw_noise(
        self, num_samples: int, generator: torch.Generator | list[torch.Generator] | None, device: torch.device
    ) -> torch.Tensor:
        """Return the noise that the chain starts from, float32 `(num_samples, channels, height, width)`."""
        shape = (num_samples, self.num_channels, self.image_size, self.image_size)
        return randn_tensor(shape, generator=generator, device=device, dtype=torch.float32)

    @checked
    def generate(
        self,
        latents: FloatTensor,
        num_decoder_steps: Count = 50,
        decoder_noise: FloatTensor | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        scheduler: Any = None,
        progress_bar: Callable[..., Any] | None = None,
        revise: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    ) -> torch.Tensor:
        """Decode: run the pixels' chain.

        Args:
            latents: `(batch, num_latents, latent_dim)`.
            num_decoder_steps: Steps of the chain, in [1, T].
            decoder_noise: Noise it starts from, `(batch, channels, height, width)`, in place of a draw.
            generator: Source of noise, or one for each image.
            scheduler: Scheduler of the chain, the model's own (deterministic) one or another with the same betas.
            progress_bar: Function that wraps the steps to show progress.
            revise: Function that changes the clean estimate of each step, `(batch, channels, height, width)` in
                [-1, 1], given the variance of the noise relative to the signal at that step, a scalar.

        Returns:
            Pixels, float32 `(batch, channels, height, width)`, in [-1, 1].

        Raises:
            ValueError: If the noise has another shape, or the number of steps is out of range.
        """
        if decoder_noise is None:
            decoder_noise = self.draw_noise(len(latents), generator, latents.device)
        self.check_noise(decoder_noise, len(latents))
        # A copy: it keeps the state of a run, which another call must not meet.
        scheduler = EDDPMScheduler(**self.scheduler_config) if scheduler is None else copy.deepcopy(scheduler)
        self._check_steps(num_decoder_steps)
        scheduler.set_timesteps(num_decoder_steps, device=latents.device)
        if hasattr(scheduler, "set_begin_index"):  # a solver's first two steps may share a timestep: it cannot tell
            scheduler.set_begin_index(0)
        takes_generator = "generator" in inspect.signature(scheduler.step).parameters
        arguments = {"generator": generator} if takes_generator else {}
        images = decoder_noise.to(latents.device, torch.float32) * scheduler.init_noise_sigma
        for t in scheduler.timesteps if progress_bar is None else progress_bar(scheduler.timesteps):
            model_output = self.denoise(scheduler.scale_model_input(images, t), t, latents)
            if revise is not None:
                model_output = self._revised(revise, model_output, t, images)
            images = scheduler.step(model_output, t, images, **arguments).prev_sample
        return images.clamp(-1, 1)

    def _revised(
        self,
        revise: Callable[[torch.Tensor, torch.Tensor], torch.Tensor],
        model_output: torch.Tensor,
        t: torch.Tensor,
        images: torch.Tensor,
    ) -> torch.Tensor:
        """Return the network's output whose clean estimate is the revised one."""
        nearest = t.round().long().clamp(0, len(self.scheduler) - 1)  # a solver may step between two timesteps
        clean, _ = self.scheduler.predict(model_output, nearest, images)
        signal = self.scheduler.alphas_cumprod[int(nearest)].to(images.device)
        clean = revise(clean.clamp(-1, 1), (1 - signal) / signal)
        noise = (images - signal.sqrt() * clean) / (1 - signal).sqrt()
        return self.scheduler.training_target(clean, noise, nearest)

    def mean(self, latents: torch.Tensor) -> torch.Tensor:
        """Estimate the mean of p(image | latents) in one evaluation, float32 `(batch, channels, height, width)`.

        At the chain's last timestep the noisy image says next to nothing, and the network's clean estimate is that
        mean. The noise is the same for all data, so that an image does not depend on its batch. Unlike `generate` it
        can be differentiated cheaply.

        Args:
            latents: `(batch, num_latents, latent_dim)`.
        """
        last = len(self.scheduler) - 1
        shape = (1, self.num_channels, self.image_size, self.image_size)
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(_EVALUATION_SEED)).to(latents.device)
        noise = noise.expand(len(latents), -1, -1, -1)
        timestep = torch.tensor(last, device=latents.device)
        return self.scheduler.predict(self.denoise(noise, timestep, latents), timestep, noise)[0]

    @torch.no_grad()
    def invert(
        self,
        latents: torch.Tensor,
        pixel_values: torch.Tensor,
        num_decoder_steps: int = 50,
        num_refinements: int = 2,
        progress_bar: Callable[..., Any] | None = None,
    ) -> torch.Tensor:
        """Find the noise that the chain turns into the given images: DDIM run backwards (arXiv 2010.02502, 4.3).

        What the latents do not say of an image is in this noise (the stochastic code of Preechakul et al. 2022). Each
        step is solved by fixed-point iteration, as in `EDDPMPipeline.invert`.

        Args:
            latents: `(batch, num_latents, latent_dim)`.
            pixel_values: `(batch, channels, height, width)`, in [-1, 1].
            num_decoder_steps: Steps of the chain; `generate` with as many comes back to the images.
            num_refinements: Iterations of each step after its first evaluation.
            progress_bar: Function that wraps the steps to show progress.

        Returns:
            Noise, float32, shaped as the images.
        """
        self.check_images(pixel_values)
        self._check_steps(num_decoder_steps)
        scheduler = EDDPMScheduler(**self.scheduler_config)
        scheduler.set_timesteps(num_decoder_steps, device=latents.device)
        images = pixel_values.float()
        timesteps = scheduler.timesteps.flip(0)
        for t in timesteps if progress_bar is None else progress_bar(timesteps):
            noisier = images
            for _ in range(num_refinements + 1):
                model_output = self.denoise(noisier, t, latents)
                noisier = scheduler.invert_step(model_output, t, images, return_dict=False)[0]
            images = noisier
        return images

    def _check_steps(self, steps: int) -> None:
        if steps > len(self.scheduler):
            raise ValueError(f"`num_decoder_steps` must be an integer in [1, {len(self.scheduler)}], got {steps!r}.")

    def check_noise(self, noise: torch.Tensor, count: int) -> None:
        """Raise a ValueError unless `noise` is finite and fits `count` images."""
        expected = (count, self.num_channels, self.image_size, self.image_size)
        if not isinstance(noise, torch.Tensor) or tuple(noise.shape) != expected:
            got = tuple(noise.shape) if isinstance(noise, torch.Tensor) else type(noise).__name__
            raise ValueError(f"`decoder_noise` must be a tensor of shape {expected}, got {got}.")
        if not bool(torch.isfinite(noise).all()):
            raise ValueError("`decoder_noise` must be finite, got NaN or infinity.")


def make_image_decoder(config: EDDPMConfig) -> ImageDecoder:
    """Return the decoder that `config.decoder` describes.

    Raises:
        ValueError: If it is neither an `ImageUNetConfig` nor an `ImageConvConfig`.
    """
    decoders = {
        ImageUNetConfig.model_type: ImageDiffusionDecoder,
        ImageConvConfig.model_type: ImageConvDecoder,
    }
    model_type = getattr(config.decoder, "model_type", None)
    if model_type not in decoders:
        raise ValueError(f"`decoder` of images must be one of {sorted(decoders)}, got {model_type!r}.")
    return decoders[model_type](config)


def _block(way: str, has_attention: bool) -> str:
    return f"{'Attn' if has_attention else ''}{way}Block2D"
