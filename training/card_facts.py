"""What the model cards of every modality take from the facts beside a checkpoint."""

import json
from pathlib import Path
from typing import Any

from hf_eddpm.model_card import EVALUATION_FILE, TRAINING_FILE


def read_facts(folder: Path) -> tuple[dict[str, Any] | None, dict[str, Any] | None]:
    """What the training and the evaluation script left in a pipeline's folder; `None` for what is not there."""
    files = [folder / name for name in (TRAINING_FILE, EVALUATION_FILE)]
    training, evaluation = (json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None for file in files)
    return training, evaluation


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
