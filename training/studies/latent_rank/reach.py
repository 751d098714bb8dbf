"""Whether the samples of the shipped checkpoints reach their latents: rows of the report, from their evaluations."""

import json
from pathlib import Path
from typing import Any

CARDS = Path(__file__).resolve().parents[3] / "model_cards"
MOST_RATIO, MOST_FRECHET = 1.2, 1.5  # of the neighbour ratio; of the Frechet distance over that of real halves
LOW_RANK = 0.25  # of the width, below which training warns


def reaches(values: dict[str, Any]) -> bool:
    """Whether both measures of `reach_statistics` are met."""
    return values["neighbor_ratio"] <= MOST_RATIO and values["frechet"] <= MOST_FRECHET * values["real_frechet"]


def shipped_rows(cards: Path = CARDS) -> list[dict[str, str]]:
    """A row for each checkpoint, sampled as it is by itself; empty cells where that is not measured.

    Args:
        cards: The folder of the checkpoints.
    """
    rows = []
    for file in sorted(cards.glob("*/evaluation.json")):
        evaluation = json.loads(file.read_text(encoding="utf-8"))
        index = json.loads((file.parent / "model_index.json").read_text(encoding="utf-8"))
        latents, reach = evaluation["latents"], evaluation.get("reach", {})
        own = str(index.get("default_num_inference_steps", ""))
        steps = own if own in reach else max(reach, key=int, default=own)
        row = {"checkpoint": file.parent.name, "latents": str(latents["dims"])}
        if "effective_rank" in latents:
            low = " (low)" if latents["effective_rank"] < LOW_RANK * latents["dims"] else ""
            row |= {"effective rank": f"{latents['effective_rank']:.1f}{low}", "rate, nats": f"{latents['rate']:.1f}"}
        name, noise = index["scheduler"][1].removesuffix("Scheduler"), index.get("default_noise_scale", 1.0)
        row["sampler"] = ", ".join(filter(None, (name, steps, "" if noise == 1 else f"noise {noise:g}")))
        if steps in reach and "neighbor_ratio" in reach[steps]:
            values = reach[steps]
            row |= {
                "samples": str(values["num"]),
                "standard deviation, of real": f"{values['std'] / values['real_std']:.2f}",
                "neighbour ratio": f"{values['neighbor_ratio']:.2f}",
                "latents' Frechet over real halves": f"{values['frechet'] / values['real_frechet']:.2f}",
                "reached": "yes" if reaches(values) else "no",
            }
        rows.append(row)
    return rows
