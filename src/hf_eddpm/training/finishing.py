"""The end of a training: the denoiser alone learns the latents as they have become."""

import logging
import os
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from numpy.typing import NDArray
from peft.utils import AuxiliaryTrainingWrapper
from torch import nn
from tqdm import tqdm
from transformers import TrainingArguments, get_cosine_schedule_with_warmup

from ..modeling_eddpm import EDDPMModel
from ..processes import share_from_first
from .trainer import EDDPMTrainer

logger = logging.getLogger(__name__)

WARMUP_STEPS = 100
EMA_DECAY = 0.998


def finish_denoiser(
    model: EDDPMModel,
    posterior_means: torch.Tensor,
    class_labels: torch.Tensor | None,
    num_steps: int,
    batch_size: int,
    learning_rate: float,
    ema_decay: float,
    seed: int,
    bf16: bool = False,
    noise_variance: float = 0.0,
) -> None:
    """Trains the denoiser of a trained model further; encoder and decoder stay.

    In joint training the chain follows latents that move until the end, and it learns samples of the posterior, whose
    noise it then makes anew: noise that latents of data, which are posterior means, do not have. Here it learns the
    means themselves. A step costs a small part of one of joint training.

    Args:
        model: The model, with the weights that stay; left in evaluation mode.
        posterior_means: Of the training data, `(num, num_latents, latent_dim)`.
        class_labels: Their classes, int64 `(num,)`; None for a denoiser that is told none.
        num_steps: Steps, the first hundred of them with a rising learning rate.
        batch_size: Latents of a step.
        learning_rate: AdamW's highest, with a cosine decay.
        ema_decay: Of the averaged weights, which the model gets.
        seed: Of the draws.
        bf16: Whether the network computes in bfloat16.
        noise_variance: Of noise added to the means; with the encoder's the chain learns samples of the posterior.
    """
    if not isinstance(model.denoiser, AuxiliaryTrainingWrapper):  # which an adapter holds
        model.name_or_path = ""  # no longer the weights of that name
    config, scheduler, denoiser = model.config, model.scheduler, model.denoiser.train()
    parameters = list(denoiser.parameters())
    device = parameters[0].device
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
    schedule = get_cosine_schedule_with_warmup(optimizer, min(WARMUP_STEPS, num_steps // 2), num_steps)
    average = EMAModel(parameters, decay=ema_decay, foreach=True)
    total = torch.zeros((), device=device)  # a number of Python would wait for the device in each step
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for _ in tqdm(range(num_steps), desc="finishing", disable=None):
            rows = torch.randint(len(posterior_means), (batch_size,))
            means = posterior_means[rows].to(device)
            if noise_variance:
                means = means + noise_variance**0.5 * torch.randn(means.shape).to(device)
            timesteps = torch.randint(len(scheduler), (len(rows),)).to(device)
            noise = torch.randn(means.shape).to(device)
            labels = None
            if class_labels is not None:
                dropped = torch.rand(len(rows)) < config.label_dropout
                labels = class_labels[rows].masked_fill(dropped, -1).to(device)
            with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                output = denoiser(scheduler.add_noise(means, noise, timesteps), timesteps, labels)
            loss = (output.float() - scheduler.training_target(means, noise, timesteps)).square().mean()
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()
            schedule.step()
            average.step(parameters)
            total += loss.detach()
        average.copy_to(parameters)
    model.eval()
    logger.info(f"Finished the denoiser in {num_steps} steps, mean loss {total.item() / num_steps:.4f}.")


def is_sharded(args: TrainingArguments) -> bool:
    """Return whether the weights are to be sharded over processes (FSDP), by argument or by `accelerate launch`."""
    launched = os.environ.get("ACCELERATE_USE_FSDP", "").lower() in ("1", "true") and args.world_size > 1
    return bool(args.fsdp) or launched


def check_whole_weights(num_steps: int, args: TrainingArguments) -> None:
    """Raises a ValueError if the denoiser is to finish and no process has all weights."""
    if num_steps and is_sharded(args):
        raise ValueError(f"`finish_steps` must be 0 with sharded weights: no process has them all. Got {num_steps}.")


def finish_training(
    trainer: EDDPMTrainer,
    data: Sequence[Any],
    labels: NDArray[np.int64] | None,
    num_steps: int,
    batch_size: int,
) -> tuple[str, float] | None:
    """Lets the denoiser learn the final latents, if that is asked for; of several processes each does it all.

    Args:
        trainer: It has trained, and its averaged weights are used up: the model has them.
        data: All training data, as the processor takes them.
        labels: Their classes, `(num,)`, or None.
        num_steps: Steps; 0 to do nothing.
        batch_size: Latents of a step.

    Returns:
        What was done, in words, and the seconds it took; None if nothing was.
    """
    if not num_steps:
        return None
    start, args = time.perf_counter(), trainer.args
    pipe = trainer.build_pipeline()
    pipe.set_progress_bar_config(disable=True)
    means = pipe.encode(list(data), args.per_device_eval_batch_size).latents.float()
    finish_denoiser(
        pipe.model,
        means,
        None if labels is None else torch.from_numpy(labels),
        num_steps,
        batch_size,
        args.learning_rate,
        EMA_DECAY,
        args.seed,
        args.bf16,
    )
    # Several processes do the same; where their arithmetic differs in the last digit, the first one's counts.
    share_from_first(pipe.model.denoiser.parameters())
    trainer.ema = None  # the model has its averages already, and the denoiser newer ones
    what = (
        f"{num_steps:,} steps of {batch_size} of the denoiser alone on posterior means, {args.learning_rate:g}, cosine"
    )
    return what, time.perf_counter() - start


def add_finishing(facts: dict[str, Any], finishing: tuple[str, float] | None) -> None:
    """Adds to the facts of a run what `finish_training` returned: what was done, and its seconds to the wall time."""
    if finishing is not None:
        facts["settings"]["finishing"], seconds = finishing
        facts["wall_time_seconds"] = round(facts["wall_time_seconds"] + seconds, 1)
