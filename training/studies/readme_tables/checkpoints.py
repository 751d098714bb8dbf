"""The shipped checkpoints in one table: data, size, and one measured number of each."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_eddpm.hub.card import markdown_table


@dataclass(frozen=True)
class Checkpoint:
    """A row of the table.

    Attributes:
        name: Folder in model_cards/.
        data: What it was trained on.
        good_at: What it is good for.
        measured: Says one measured number, from the parsed evaluation.json.
    """

    name: str
    data: str
    good_at: str
    measured: Callable[[Any], str]


CHECKPOINTS = (
    Checkpoint(
        "eddpm-sentences",
        "461,000 English sentences",
        "reconstructing, editing",
        lambda r: f"BLEU {r['reconstruction']['bleu']:.0f}, refined {r['refined_reconstruction']['10']['bleu']:.0f}",
    ),
    Checkpoint(
        "eddpm-gifford",
        "59,000 antibody loops",
        "generating, predicting, designing",
        lambda r: f"{r['reconstruction']['exact_match']:.0%} come back exactly",
    ),
    Checkpoint(
        "eddpm-gfp",
        "34,000 variants of GFP",
        "predicting fluorescence",
        lambda r: f"Pearson {r['fitness']['fitness']['model']['pearson']:.2f}",
    ),
    Checkpoint(
        "eddpm-gb1",
        "101,000 variants of GB1",
        "predicting binding",
        lambda r: f"Pearson {r['fitness']['fitness']['model']['pearson']:.2f}",
    ),
    Checkpoint(
        "eddpm-faces64",
        "8,171 faces, 64 x 64",
        "reconstructing, interpolating, editing",
        lambda r: f"SSIM {r['reconstruction']['ssim']:.2f} from 160 numbers",
    ),
    Checkpoint(
        "eddpm-cifar10",
        "45,000 pictures, 32 x 32",
        "reconstructing",
        lambda r: f"SSIM {r['reconstruction']['ssim']:.2f} from 160 numbers",
    ),
    Checkpoint(
        "eddpm-yelp",
        "164,000 review sentences",
        "editing",
        lambda r: f"BLEU {r['reconstruction']['bleu']:.0f}, refined {r['refined_reconstruction']['10']['bleu']:.0f}",
    ),
    Checkpoint(
        "eddpm-yelp-smollm2-lora",
        "the same",
        "fluent samples, LoRA",
        lambda r: (
            f"BLEU {r['reconstruction']['bleu']:.0f}; perplexity {r['samples']['20']['perplexity']['mean']:.0f}, "
            f"real {r['reference']['dev']['perplexity']:.0f}"
        ),
    ),
    Checkpoint(
        "eddpm-digits",
        "1,797 digits, 8 x 8",
        "a quick demonstration",
        lambda r: f"{r['samples']['20']['class_accuracy']['mean']:.1%} of samples are right",
    ),
    Checkpoint(
        "eddpm-fashion",
        "60,000 clothes, 28 x 28",
        "classes, edits, interpolation",
        lambda r: f"{r['samples']['20']['guided_class_accuracy']['mean']:.1%} of guided samples are right",
    ),
    Checkpoint(
        "eddpm-sprites",
        "94,000 shapes, 64 x 64",
        "known factors",
        lambda r: f"{r['reconstruction']['iou']:.0%} overlap from 10 numbers",
    ),
)


def checkpoints(root: Path) -> str:
    """Return the table of the checkpoints whose evaluation is there."""
    rows = []
    for each in CHECKPOINTS:
        folder = root / "model_cards" / each.name
        if not (folder / "evaluation.json").is_file():
            continue
        result = json.loads((folder / "evaluation.json").read_text(encoding="utf-8"))
        size = sum(path.stat().st_size for path in folder.rglob("*.safetensors")) / 1e6
        rows.append(
            {
                "checkpoint": f"[{each.name}](model_cards/{each.name}/README.md)",
                "data": each.data,
                "MB": f"{size:.0f}",
                "good at": each.good_at,
                "measured": each.measured(result),
            }
        )
    return markdown_table(rows)
