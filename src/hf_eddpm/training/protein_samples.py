"""Sequences that a pipeline decodes or generates, with their frames."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from ..modalities.protein.metrics import (
    to_frames,
)
from ..modalities.protein.residues import FIRST_RESIDUE_ID
from ..pipeline_eddpm import EDDPMPipeline
from .evaluation import (
    draw_latents,
)
from .protein_settings import EvaluationSettings


def to_pipeline_frames(pipe: EDDPMPipeline, sequences: Sequence[str]) -> NDArray[np.uint8]:
    """Sequences as frames of the pipeline's length and alignment."""
    return to_frames(sequences, pipe.processor.length, pipe.processor.alignment)


def decode(
    pipe: EDDPMPipeline, latents: torch.Tensor, settings: EvaluationSettings
) -> tuple[list[str], NDArray[np.uint8]]:
    """Decoded sequences and their frames; of a decoder of whole frames as it wrote them, shifted ones included."""
    if pipe.processor.stop:
        sequences = pipe.decode(latents, batch_size=settings.batch_size)
        return sequences, to_pipeline_frames(pipe, sequences)
    sequences, frames = [], []
    with torch.no_grad():
        for chunk in latents.to(pipe.device).split(settings.batch_size):
            ids = pipe.model.decode(chunk)
            sequences += pipe.processor.postprocess(ids)
            frames.append((ids - FIRST_RESIDUE_ID + 1).clamp(min=0).cpu().numpy().astype(np.uint8))
    return sequences, np.concatenate(frames)


def generate(
    pipe: EDDPMPipeline, num_samples: int, num_inference_steps: int, seed: int, settings: EvaluationSettings
) -> tuple[list[str], NDArray[np.uint8]]:
    """Generated sequences and their frames."""
    return decode(pipe, draw_latents(pipe, num_samples, num_inference_steps, seed, settings.batch_size), settings)
