"""The methods side by side: one point of each one's front in every modality, from the files of the benchmarks."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_eddpm.hub.card import markdown_table
from hf_eddpm.training.evaluation import plus_minus, spread

REAL = "real data"


@dataclass(frozen=True)
class Front:
    """Where a benchmark's results lie, and what is shown of them.

    Attributes:
        title: What the numbers are of.
        folder: Of the JSON files, from the repository's folder.
        latents: Keys that lead, in a file, to how much of the data the latents hold, and how that is formatted.
        samples: The same of the samples' quality.
        real: Keys that lead to what real data have of the latter.
        points: By method, the values by which its files are known.
    """

    title: str
    folder: str
    latents: tuple[tuple[str, ...], str]
    samples: tuple[tuple[str, ...], str]
    real: tuple[str, ...]
    points: dict[str, dict[str, Any]]


METHODS = (
    "EDDPM, joint training (the default)",
    "the paper's objective",
    "two-stage latent diffusion",
    "autoencoder, Gaussian prior",
    "VAE",
    "without latents: language model, pixel diffusion",
)


def _points(*points: tuple[str, dict[str, Any]] | None) -> dict[str, dict[str, Any]]:
    """By method, in the order of `METHODS`: the recipe's name, and what else picks its files; None where none ran."""
    return {
        method: {"recipe": point[0], **point[1]}
        for method, point in zip(METHODS, points, strict=True)
        if point is not None
    }


_PROTEINS: Any = {"samples": (("frechet",), ".3f"), "real": ("real_frechet",)}
FRONTS = (
    Front(
        "sentences (Yelp): BLEU; perplexity of samples",
        "training/studies/text_front/results",
        (("reconstruction", "bleu"), ".1f"),
        (("samples", "50", "perplexity", "mean"), ".0f"),
        ("reference", "dev", "perplexity"),
        _points(
            ("batch, 0.1, decoder noise 0.3", {"value": 0.02}),
            ("paper", {"value": 8.0}),
            ("batch, 0 (two-stage)", {"value": 0.1}),
            ("autoencoder, Gaussian prior", {"value": 0.1}),
            ("VAE", {"value": 0.03}),
            ("language model", {}),
        ),
    ),
    Front(
        "antibody loops (Gifford): exact; Frechet distance of samples",
        "training/studies/protein_front/results/gifford",
        (("exact_match",), ".3f"),
        **_PROTEINS,
        points=_points(
            ("default", {"value": 0.1}),
            ("paper", {"value": 1.0}),
            ("two-stage", {"value": 0.1}),
            ("autoencoder, Gaussian prior", {"value": 0.1}),
            ("VAE", {"value": 0.01}),
            ("language model", {}),
        ),
    ),
    Front(
        "green fluorescent protein: Pearson of fitness; Frechet distance of samples",
        "training/studies/protein_front/results/gfp",
        (("pearson",), ".3f"),
        **_PROTEINS,
        points=_points(
            ("default", {"value": 0.03}),
            ("paper", {"value": 1.0}),
            ("two-stage", {"value": 0.03}),
            ("autoencoder, Gaussian prior", {"value": 0.03}),
            ("VAE", {"value": 0.01}),
            None,
        ),
    ),
    Front(
        "clothes (Fashion-MNIST): MSE; Frechet distance of samples",
        "training/studies/image_front/results",
        (("mse",), ".4f"),
        (("frechet",), ".0f"),
        ("real_frechet",),
        _points(
            ("joint, 0.1, one pass, as long", {"encoder_noise_variance": 0.03}),
            ("paper, one pass", {}),
            ("two stages, one pass", {"encoder_noise_variance": 0.03}),
            ("autoencoder, Gaussian prior, one pass", {"encoder_noise_variance": 0.03}),
            ("VAE, one pass", {}),
            ("no latents", {}),
        ),
    ),
)


def compare(root: Path) -> str:
    """The Markdown table, a row for each method and a column for each front whose files are there.

    Args:
        root: The repository's folder.
    """
    rows: dict[str, dict[str, str]] = {method: {"method": method} for method in (*METHODS, REAL)}
    for front in FRONTS:
        files = [json.loads(file.read_text(encoding="utf-8")) for file in sorted((root / front.folder).glob("*.json"))]
        for method, wanted in front.points.items():
            group = [file for file in files if wanted.items() <= file.items()]
            if group:
                rows[method][front.title] = _cell(front, group)
        if files:
            real = spread([_value(file, front.real) for file in files])["mean"]
            rows[REAL][front.title] = f"{real:{front.samples[1]}}"
    return markdown_table([row for row in rows.values() if len(row) > 1])


def _cell(front: Front, group: list[dict[str, Any]]) -> str:
    shown = []
    for keys, form in (front.latents, front.samples):
        values = [_value(file, keys) for file in group]
        shown.append("none" if None in values else plus_minus(spread(values), form))
    return "; ".join(shown)


def _value(file: dict[str, Any], keys: tuple[str, ...]) -> float | None:
    value: Any = file
    for key in keys:
        if key not in value:
            return None
        value = value[key]
    return value
