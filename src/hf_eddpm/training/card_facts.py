"""What the model cards of every modality take from the facts beside a checkpoint."""

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..hub.card import EVALUATION_FILE, TRAINING_FILE, markdown_table
from ..pipeline_eddpm import EDDPMPipeline

HOW_TO_READ_LATENTS = """\
Latents of held-out data. Effective rank: directions in which they vary (the exponential of the entropy of the
covariance's normalised eigenvalues), of as many as they have numbers; largest share: of the variance, in the first of
these directions; rate: what they tell of a datum, in nats, were they Gaussian; active: dimensions that vary at all,
copies of each other included. Below, latents of samples beside training data's: their standard deviation; neighbour
ratio: mean distance to the nearest real latents, over that of held-out data (1: they lie like new data); squared
Frechet distance from real ones, and of as many real ones from these."""


def read_facts(folder: Path) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """What the training and the evaluation script left in a pipeline's folder; `None` for what is not there."""
    files = [folder / name for name in (TRAINING_FILE, EVALUATION_FILE)]
    training, evaluation = (json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None for file in files)
    return training, evaluation


def latent_tables(evaluation: dict[str, Any]) -> list[str]:
    """What the latents carry and whether samples reach them, as blocks of Markdown; none of an older evaluation."""
    latents = evaluation.get("latents", {})
    if "effective_rank" not in latents or "reach" not in evaluation:
        return []
    row = {
        "effective rank": f"{latents['effective_rank']:.1f} of {latents['dims']}",
        "largest share": f"{latents['largest_share']:.3f}",
        "rate, nats": f"{latents['rate']:.1f}",
        "active": latents["active_dims"],
    }
    rows = [
        {
            "steps": steps,
            "latents' standard deviation": f"{values['std']:.3f}",
            "real data's": f"{values['real_std']:.3f}",
            "neighbour ratio": f"{values['neighbor_ratio']:.2f}" if "neighbor_ratio" in values else "",
            "latents' Frechet": f"{values['frechet']:.3f}",
            "real": f"{values['real_frechet']:.3f}",
        }
        for steps, values in evaluation["reach"].items()
    ]
    return [HOW_TO_READ_LATENTS, markdown_table([row]), markdown_table(rows)]


def card_notes(training: dict[str, Any]) -> list[str]:
    """What was said on the command line about the data and the run, for the limits of the card."""
    notes = {"Data": training["card"].get("data_note"), "Training": training["card"].get("training_note")}
    return [f"{title}: {note}" for title, note in notes.items() if note]


def rewrite_card(description: str, write_card: Callable[[EDDPMPipeline, str], Path]) -> None:
    """Writes the card of the pipeline folder named on the command line, and prints its path.

    Args:
        description: Docstring of the command; its first line stands in the help.
        write_card: Writes the card of a pipeline in its folder and returns the card's path.
    """
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("checkpoint", help="Folder of the pipeline.")
    folder = parser.parse_args().checkpoint
    print(write_card(EDDPMPipeline.from_pretrained(folder), folder))


def card_arguments(folder: Path, training: dict[str, Any] | None) -> dict[str, Any]:
    """Arguments of `build_model_card` that mean the same in every modality.

    Args:
        folder: The pipeline's folder, which names the model where the training did not.
        training: What the training script wrote, or `None`.
    """
    training = training or {}
    card = training.get("card", {})
    resolved = folder.resolve()
    return {
        "name": card.get("card_name") or (resolved.parent.name if resolved.name == "pipeline" else resolved.name),
        "license": card.get("card_license"),
        "datasets": training.get("hub_datasets") or None,
        "base_model": training.get("base_models") or None,
    }
