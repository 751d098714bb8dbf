"""What is trained after an autoencoder: a chain over its decoder's residual, and a student of its pixels' chain."""

import copy
import time
from collections.abc import Callable

import torch
from diffusers import DPMSolverMultistepScheduler, LCMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from torch import nn
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from hf_eddpm import EDDPMPipeline, EDDPMScheduler

BATCH_SIZE = 64
LEARNING_RATE = 1e-3
EMA_DECAY = 0.99
SOLVER_STEPS = 10  # of the teacher's trajectories
_BETAS = (0.9, 0.98)

Draw = Callable[[], tuple[torch.Tensor, torch.Tensor]]


class ResidualChain(nn.Module):
    """A diffusion chain over what a decoder in one pass leaves of an image, which it sees beside the decoded one.

    Args:
        num_channels: Of the images.
        patch_size: Side of the patches that are folded into channels.
        channels: Of the network's levels.
        latent_size: Numbers of an image's latents.
    """

    def __init__(self, num_channels: int, patch_size: int, channels: list[int], latent_size: int):
        super().__init__()
        folded = num_channels * patch_size**2
        self.patch_size = patch_size
        self.unet = UNet2DModel(
            in_channels=2 * folded,
            out_channels=folded,
            block_out_channels=tuple(channels),
            layers_per_block=1,
            norm_num_groups=8,
            down_block_types=("DownBlock2D",) * len(channels),
            up_block_types=("UpBlock2D",) * len(channels),
            add_attention=False,
            class_embed_type="identity",
            resnet_time_scale_shift="scale_shift",
        )
        self.projection = nn.Linear(latent_size, 4 * channels[0])
        self.scheduler = EDDPMScheduler(beta_schedule="linear", beta_end=0.02, prediction_type="v_prediction")
        self.register_buffer("scale", torch.ones(()))

    def forward(
        self, noisy: torch.Tensor, timesteps: torch.Tensor, mean: torch.Tensor, latents: torch.Tensor
    ) -> torch.Tensor:
        """The network's output, shaped as the noisy residual (batch, channels, height, width)."""
        patches = pixel_unshuffle(torch.cat([noisy, mean], dim=1), self.patch_size)
        condition = self.projection(latents.flatten(1))
        return pixel_shuffle(self.unet(patches, timesteps, condition).sample, self.patch_size)

    def errors(self, images: torch.Tensor, mean: torch.Tensor, latents: torch.Tensor) -> torch.Tensor:
        """Mean squared error of the prediction at drawn timesteps, of images and decoded ones in [-1, 1]."""
        residual = (images - mean) / self.scale
        noise = torch.randn_like(residual)
        timesteps = torch.randint(len(self.scheduler), (len(images),))
        output = self(self.scheduler.add_noise(residual, noise, timesteps), timesteps, mean, latents)
        return (output - self.scheduler.training_target(residual, noise, timesteps)).square().mean()

    @torch.no_grad()
    def sample(self, mean: torch.Tensor, latents: torch.Tensor, num_steps: int, seed: int) -> torch.Tensor:
        """Decoded images with a drawn residual, in [-1, 1]."""
        scheduler = DPMSolverMultistepScheduler.from_config(self.scheduler.config, use_karras_sigmas=True)
        scheduler.set_timesteps(num_steps)
        scheduler.set_begin_index(0)
        residual = torch.randn(mean.shape, generator=torch.Generator().manual_seed(seed))
        for t in scheduler.timesteps:
            residual = scheduler.step(self(residual, t, mean, latents), t, residual).prev_sample
        return (mean + self.scale * residual).clamp(-1, 1)


def fit_residual(
    pipe: EDDPMPipeline, draw: Draw, patch_size: int, channels: list[int], seconds: float
) -> ResidualChain:
    """Trains a chain over the residual of a pipeline's decoder for so many CPU seconds.

    Args:
        pipe: With a decoder in one pass.
        draw: Gives images in [-1, 1] and their latents.
        patch_size: See `ResidualChain`.
        channels: See `ResidualChain`.
        seconds: Of one core.
    """
    decoder = pipe.model.decoder
    chain = ResidualChain(decoder.num_channels, patch_size, channels, pipe.model.config.latent_size)
    images, latents = draw()
    with torch.no_grad():
        chain.scale.copy_((images - decoder.mean(latents)).std())

    def loss() -> torch.Tensor:
        images, latents = draw()
        with torch.no_grad():
            mean = decoder.mean(latents).clamp(-1, 1)
        return chain.errors(images, mean, latents)

    _fit(chain, loss, seconds)
    return chain


def distill_pixels(pipe: EDDPMPipeline, draw: Draw, seconds: float) -> EDDPMPipeline:
    """Teaches a pixels' chain to reach the end of a trajectory at once, for so many CPU seconds.

    Whole trajectories of the teacher are solved and the student regresses on their ends, as `distill` does for latents
    (Song et al. 2023, arXiv 2303.01469). The pipeline returned decodes with diffusers' `LCMScheduler`.
    """
    teacher = pipe.model.decoder
    student = copy.deepcopy(teacher).requires_grad_(True).train()
    solver = copy.deepcopy(pipe.decoder_scheduler)  # the training saved DPM-Solver++ with the pipeline
    pool: list[tuple[torch.Tensor, ...]] = []

    def solve() -> None:
        images, latents = draw()
        solver.set_timesteps(SOLVER_STEPS)
        solver.set_begin_index(0)
        points, current = [], torch.randn_like(images)
        with torch.no_grad():
            for t in solver.timesteps:
                points.append(current)
                current = solver.step(teacher.denoise(current, t, latents), t, current).prev_sample
        order = torch.randperm(len(points) * len(images))
        steps, rows = order // len(images), order % len(images)
        stacked = torch.stack(points)
        for part in range(len(points)):
            at = slice(part * len(images), (part + 1) * len(images))
            pool.append(
                (stacked[steps[at], rows[at]], solver.timesteps[steps[at]], current[rows[at]], latents[rows[at]])
            )

    def loss() -> torch.Tensor:
        if not pool:
            solve()
        noisy, timesteps, ends, latents = pool.pop()
        clean, _ = student.scheduler.predict(student.denoise(noisy, timesteps, latents), timesteps, noisy)
        return (clean - ends).square().mean()

    _fit(student, loss, seconds)
    pipe.model.decoder = student.eval()
    pipe.decoder_scheduler = LCMScheduler.from_config(EDDPMScheduler(**student.scheduler_config).config)
    return pipe


def _fit(module: nn.Module, loss: Callable[[], torch.Tensor], seconds: float) -> None:
    """Minimises a loss until the CPU time is over, with a cosine schedule by that time; leaves averaged weights."""
    parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=LEARNING_RATE, betas=_BETAS, weight_decay=0.01)
    average = EMAModel(parameters, decay=EMA_DECAY, foreach=True)
    start, passed = time.process_time(), 0.0
    while passed < 1:
        rate = 0.5 * LEARNING_RATE * (1 + torch.cos(torch.tensor(torch.pi * passed)))
        for group in optimizer.param_groups:
            group["lr"] = float(rate)
        error = loss()
        optimizer.zero_grad()
        error.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        average.step(parameters)
        passed = (time.process_time() - start) / seconds
    average.copy_to(parameters)
    module.eval().requires_grad_(False)
