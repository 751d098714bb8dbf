"""The small tables of the documentation's guides."""

import json
from pathlib import Path
from typing import Any

from hf_eddpm.hub.card import markdown_table

FOREIGN = {"shuffled": "own ones, shuffled", "captions": "captions", "products": "complaints about products"}
# Of the antibody loops' results: scheduler and steps
SHOWN_STEPS = (
    ("DDIM", 50),
    ("DDIM", 5),
    ("DPM-Solver++ (Karras)", 20),
    ("DPM-Solver++ (Karras)", 5),
    ("distilled (LCM)", 1),
)


def read(root: Path, file: str) -> Any:
    """Return what a file of results holds."""
    return json.loads((root / file).read_text(encoding="utf-8"))


def search_table(root: Path) -> str:
    """How often the nearest of all captions is one of the same picture."""
    found = read(root, "training/studies/sentences/results/uses.json")["search"]
    names = {
        "ours": "`eddpm-sentences`, embeddings",
        "ours, shared directions": "the same along the directions that captions of a picture share",
        "TF-IDF": "TF-IDF",
        "ours, shared directions, and TF-IDF": "these directions and TF-IDF together",
        "ours, map learned from captions of a picture": "a linear map of the encoder's states, taught by captions",
        "ours, map learned from captions of a picture, and TF-IDF": "the map and TF-IDF together",
        "sentence encoder": "all-MiniLM-L6-v2",
    }
    return markdown_table([{"vectors": names[who], "nearest is a paraphrase": f"{found[who]:.2f}"} for who in names])


def anomaly_table(root: Path) -> str:
    """How well the terms of the score tell foreign data."""
    rows = []
    for name, checkpoint in {"gifford": "eddpm-gifford", "yelp": "eddpm-yelp-mini"}.items():
        for kind, value in read(root, f"training/studies/ood/results/{name}.json")["scores"].items():
            if "auroc" in value:
                areas = {term: f"{value['auroc'][term]:.3f}" for term in ("reconstruction", "bound", "chain")}
                rows.append({"checkpoint": checkpoint, "foreign data": FOREIGN.get(kind, kind), **areas})
    return markdown_table(rows)


def step_table(root: Path) -> str:
    """What samples of few steps lose, for the antibody loops."""
    result = read(root, "training/studies/few_steps/results/gifford.json")
    found = {(row["scheduler"], row.get("steps")): row for row in result["rows"]}
    return markdown_table(
        [
            {
                "scheduler": scheduler,
                "steps": steps,
                "latents": f"{found[scheduler, steps]['latent_frechet']['mean']:.3f}",
                "3-mers": f"{found[scheduler, steps]['divergence']['mean']:.3f}",
                "seconds": f"{found[scheduler, steps]['seconds']['mean']:.2f}",
            }
            for scheduler, steps in SHOWN_STEPS
        ]
    )


def speed_tables(root: Path) -> str:
    """What others' code needs for the same work."""
    return (root / "training/studies/speed/results/references.md").read_text(encoding="utf-8").rstrip()
