"""What a preview looks like in TensorBoard, Weights & Biases and trackio; numbers get there by transformers itself."""

from collections.abc import Iterator, Sequence
from importlib import import_module
from typing import Any

import numpy as np
from PIL import Image
from transformers import TrainerCallback
from transformers.integrations import TensorBoardCallback, TrackioCallback, WandbCallback


def report_text(callbacks: Sequence[TrainerCallback], name: str, lines: Sequence[str], step: int) -> None:
    """Shows lines of text in every tracker among the callbacks.

    Args:
        callbacks: The trainer's callbacks.
        name: What the tracker calls them.
        lines: The lines, shown as they are.
        step: The training step they are of.
    """
    for callback in callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            # TensorBoard reads Markdown: an indented block is shown as it is.
            callback.tb_writer.add_text(name, "\n".join(f"    {line}" for line in lines), step)
            callback.tb_writer.flush()
    for library in _libraries(callbacks):
        table = library.Table(columns=["preview"], data=[[line] for line in lines])
        library.log({name: table, "train/global_step": step})


def report_image(callbacks: Sequence[TrainerCallback], name: str, image: Image.Image, step: int) -> None:
    """Shows a picture in every tracker among the callbacks.

    Args:
        callbacks: The trainer's callbacks.
        name: What the tracker calls it.
        image: The picture.
        step: The training step it is of.
    """
    for callback in callbacks:
        if isinstance(callback, TensorBoardCallback) and callback.tb_writer is not None:
            callback.tb_writer.add_image(name, np.asarray(image.convert("RGB")), step, dataformats="HWC")
            callback.tb_writer.flush()
    for library in _libraries(callbacks):
        library.log({name: library.Image(image), "train/global_step": step})


def _libraries(callbacks: Sequence[TrainerCallback]) -> Iterator[Any]:
    """The libraries that log to a run of their own: trackio has the functions and classes of wandb."""
    for callback in callbacks:
        if isinstance(callback, TrackioCallback):
            yield import_module("trackio")
        elif isinstance(callback, WandbCallback) and (wandb := import_module("wandb")).run is not None:
            yield wandb
