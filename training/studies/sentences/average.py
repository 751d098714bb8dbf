"""Averages the weights of checkpoints that were trained further from the same one (Wortsman et al. 2022, model soups).

    python training/studies/sentences/average.py --checkpoints model_cards/eddpm-sentences runs/first runs/second \\
        --output_dir runs/sentences-average

arXiv 2203.05482. The averages of the latents' normalisation are averaged too. All else is the first checkpoint's.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from hf_eddpm import EDDPMPipeline


def average(states: Sequence[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """Return the mean of each tensor, in its dtype; of whole numbers the first.

    Raises:
        ValueError: If the checkpoints do not have the same tensors.
    """
    first, *others = states
    for number, state in enumerate(others, start=2):
        shapes = {name: tensor.shape for name, tensor in state.items()}
        if shapes != {name: tensor.shape for name, tensor in first.items()}:
            raise ValueError(f"`checkpoints` must have the same tensors as the first, number {number} has others.")
    return {
        name: torch.stack([state[name].float() for state in states]).mean(0).to(tensor.dtype)
        if tensor.is_floating_point()
        else tensor
        for name, tensor in first.items()
    }


def main(words: Sequence[str] | None = None) -> None:
    """Saves the average, in half precision."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoints", nargs="+", required=True, help="folders or Hub ids of pipelines")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the new pipeline")
    arguments = parser.parse_args(words)
    pipes = [EDDPMPipeline.from_pretrained(each, dtype=torch.float32) for each in arguments.checkpoints]
    pipes[0].model.load_state_dict(average([pipe.model.state_dict() for pipe in pipes]))
    pipes[0].to(dtype=torch.float16)
    pipes[0].save_pretrained(arguments.output_dir)


if __name__ == "__main__":
    main()
