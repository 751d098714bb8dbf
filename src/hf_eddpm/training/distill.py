"""Distils a checkpoint's denoiser into one that samples in one to four steps, and saves a pipeline with it.

    python training/train.py distill --checkpoint model_cards/eddpm-yelp --output_dir runs/yelp-few

The student learns the consistency function of the teacher's probability-flow ODE (Song et al. 2023, arXiv
2303.01469): from any point of a trajectory to the trajectory's clean end. The denoiser is small beside encoder and
decoder, so whole trajectories are solved (DPM-Solver++, Karras sigmas) and the student regresses on their ends,
without the bootstrap by an average of itself that larger models need. Encoder, decoder and the student's architecture
are the checkpoint's; only noise is needed, no data. The pipeline's scheduler becomes diffusers' `LCMScheduler`, whose
steps are those of a consistency model: one by default, `pipe(num_inference_steps=2)` for more.
"""

import copy
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from diffusers import DPMSolverMultistepScheduler, LCMScheduler
from diffusers.training_utils import EMAModel
from tqdm import tqdm
from transformers import HfArgumentParser

from ..modeling_eddpm import EDDPMModel
from ..pipeline_eddpm import EDDPMPipeline
from .environment import describe_command, describe_environment, without_folders
from .options import OPTIONS, DistillArguments, answer_help

STEPS_PER_POOL = 40  # training steps until new latents are solved


@torch.no_grad()
def solve_trajectories(
    teacher: EDDPMModel, num: int, solver_steps: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Solves the teacher's probability-flow ODE from noise.

    Returns:
        The points the denoiser saw, (solver_steps, num, num_latents, latent_dim), their timesteps (solver_steps,), and
        the trajectories' ends (num, num_latents, latent_dim).
    """
    scheduler = DPMSolverMultistepScheduler.from_config(teacher.scheduler.config, use_karras_sigmas=True)
    scheduler.set_timesteps(solver_steps)
    scheduler.set_begin_index(0)  # its first two steps may share a timestep
    latents = torch.randn(num, teacher.config.num_latents, teacher.config.latent_dim, generator=generator)
    points = []
    for t in scheduler.timesteps:
        points.append(latents)
        latents = scheduler.step(teacher.denoise(latents, t).float(), t, latents).prev_sample
    return torch.stack(points), scheduler.timesteps, latents


def training_batches(
    teacher: EDDPMModel, args: DistillArguments
) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
    """Yields points, timesteps and ends, drawn evenly from trajectories that are solved anew again and again."""
    generator = torch.Generator().manual_seed(args.seed)
    while True:
        points, timesteps, ends = solve_trajectories(teacher, args.pool_size, args.solver_steps, generator)
        for _ in range(STEPS_PER_POOL):
            rows = torch.randint(len(ends), (args.batch_size,), generator=generator)
            steps = torch.randint(len(timesteps), (args.batch_size,), generator=generator)
            yield points[steps, rows], timesteps[steps], ends[rows]


def distill(teacher: EDDPMModel, args: DistillArguments) -> EDDPMModel:
    """Returns a copy of the teacher whose denoiser goes to a trajectory's end at once."""
    student = copy.deepcopy(teacher)
    student.name_or_path = ""  # no longer the weights of that name
    parameters = list(student.denoiser.parameters())
    for parameter in parameters:
        parameter.requires_grad_(True)
    optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.num_steps)
    average = EMAModel(parameters, decay=args.ema_decay)
    batches = training_batches(teacher, args)
    for _ in tqdm(range(args.num_steps), desc="distilling", unit="step"):
        points, timesteps, ends = next(batches)
        clean, _ = student.scheduler.predict(student.denoise(points, timesteps).float(), timesteps, points)
        loss = (clean - ends).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        average.step(parameters)
    average.copy_to(parameters)
    return student.eval()


def main(args: list[str] | None = None) -> Path:
    """Distils the checkpoint of the command line and returns the student's folder."""
    words = list(sys.argv[1:] if args is None else args)
    answer_help(__doc__, *OPTIONS["distill"], words=words)
    parser = HfArgumentParser(DistillArguments, description=__doc__.splitlines()[0])
    (given,) = parser.parse_args_into_dataclasses(words)
    if given.num_threads is not None:
        torch.set_num_threads(given.num_threads)
    start = time.perf_counter()
    pipe = EDDPMPipeline.from_pretrained(given.checkpoint)
    student = distill(pipe.model, given)
    scheduler = LCMScheduler.from_config(pipe.model.scheduler.config)
    folder = Path(given.output_dir)
    EDDPMPipeline(student, scheduler, pipe.processor, default_num_inference_steps=1).save_pretrained(folder)
    facts = {
        "command": describe_command("training/train.py", ["distill", *words]),
        "teacher": without_folders(given.checkpoint),
        "num_steps": given.num_steps,
        "seed": given.seed,
        "wall_time_seconds": round(time.perf_counter() - start, 1),
        **describe_environment(torch.device("cpu")),
    }
    (folder / "training.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    print(f"Saved the student in {folder} after {facts['wall_time_seconds']} s.")
    return folder
