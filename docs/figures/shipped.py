"""The checkpoints of model_cards/, for the scripts beside this file."""

from pathlib import Path

import torch

from hf_eddpm import EDDPMPipeline

ROOT = Path(__file__).resolve().parents[2]


def load(name: str) -> EDDPMPipeline:
    """Return a shipped checkpoint that shows no progress."""
    pipe = EDDPMPipeline.from_pretrained(ROOT / "model_cards" / name)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def seed(number: int = 0) -> torch.Generator:
    """Return a generator with that seed."""
    return torch.Generator().manual_seed(number)
