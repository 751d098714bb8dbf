"""The entry points of training and evaluation by their names; each is imported when it runs.

Every one is a function `main(args)` of a module of this folder, which takes the words of a command line.
"""

from collections.abc import Sequence
from importlib import import_module
from typing import Any

import torch

from ..allocator import keep_freed_memory

MODALITIES = ("text", "protein", "image")


def run_modality(task: str, modality: str, args: Sequence[str]) -> Any:
    """Trains a model of a modality, or evaluates one.

    Args:
        task: "train" or "evaluate".
        modality: "text", "protein" or "image".
        args: The words of the command line after them.

    Raises:
        ValueError: If there is no such task or modality.
    """
    if task not in ("train", "evaluate"):
        raise ValueError(f"`task` must be 'train' or 'evaluate', got {task!r}.")
    if modality not in MODALITIES:
        raise ValueError(f"`modality` must be one of {', '.join(MODALITIES)}, got {modality!r}.")
    return _run(f"{task}_{modality}", args, trains=task == "train")


def run_distillation(args: Sequence[str]) -> Any:
    """Distils a checkpoint's denoiser."""
    return _run("distill", args, trains=True)


def run_guide(args: Sequence[str]) -> Any:
    """Trains a classifier of noisy latents that guides a checkpoint."""
    return _run("train_guide", args, trains=True)


def _run(module: str, args: Sequence[str], trains: bool) -> Any:
    # The optimiser's moments of rare tokens decay to denormal numbers, which CPUs handle many times more slowly. It
    # holds for the whole process, so it stands here and not in `main`.
    torch.set_flush_denormal(trains)
    keep_freed_memory()  # for the whole process, too
    try:
        return import_module(f".{module}", __package__).main(list(args))
    finally:
        torch.set_flush_denormal(False)
