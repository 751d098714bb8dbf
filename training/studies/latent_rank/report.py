"""The study's table and figure, from its JSON files."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from hf_eddpm.hub.card import markdown_table

COLUMNS = {
    "effective_rank": ("effective rank", ".1f"),
    "rate": ("rate, nats", ".1f"),
    "largest_share": ("largest share", ".2f"),
    "mse": ("MSE", ".4f"),
    "probe": ("probe", ".3f"),
    "pixel_frechet": ("samples, Frechet, pixels", ".3f"),
    "frechet": ("classifier", ".1f"),
    "neighbor_ratio": ("neighbour ratio", ".2f"),
    "latent_frechet_ratio": ("latents' Frechet over real halves", ".2f"),
    "train_cpu_seconds": ("training, CPU s", ".0f"),
}
OF_PROTEINS = {
    "exact_match": ("exact match", ".3f"),
    "refined_exact_match": ("after 10 refinement steps", ".3f"),
    "pearson": ("fitness, Pearson", ".3f"),
    "noise_scale": ("noise scale", "g"),
    "sample_frechet": ("samples, Frechet, one-hot", ".3f"),
    "unique": ("unique", ".3f"),
}
FRONT = ("share 0", "share 0.003", "share 0.01", "share 0.03", "share 0.1", "share 1")
Points = dict[str, list[dict[str, Any]]]


def write_report(results: Path, folder: Path) -> None:
    """Writes `table.md` and `figure.png` of all runs.

    Args:
        results: Where the JSON files lie.
        folder: Where the report goes.
    """
    everything = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(results.glob("*.json"))]
    runs = [run for run in everything if "variant" in run]
    parts = []
    checkpoints = [run for run in everything if "checkpoint" in run]
    if checkpoints:
        rows = [
            {"data": run["data"], "checkpoint": run["checkpoint"]}
            | {title: f"{run[key]:{form}}" for key, (title, form) in (COLUMNS | OF_PROTEINS).items() if key in run}
            for run in sorted(checkpoints, key=lambda run: (run["data"], run["checkpoint"] != "before"))
        ]
        kinds = ([row for row in rows if ("exact match" in row) == of_proteins] for of_proteins in (False, True))
        parts += ["## Checkpoints", *(markdown_table(kind) for kind in kinds if kind)]
    data: dict[str, Points] = {}
    for name in sorted({f"{run['data']}, {run['steps']:,} steps" for run in runs}):
        chosen = [run for run in runs if f"{run['data']}, {run['steps']:,} steps" == name]
        data[name] = points = _points(chosen)
        first = next(iter(points.values()))[0]
        parts += [
            f"## {name[0].upper()}{name[1:]}",
            markdown_table([_row(variant, group) for variant, group in points.items()]),
            f"Latents of {first['latent_size']} numbers where a variant says nothing else; {first['num_samples']:,} "
            f"samples. Real images: {first['real_pixel_frechet']:.3f} in 32 principal components of the pixels, "
            f"{first['real_frechet']:.1f} in the features of {first['extractor']}.",
        ]
    if chains := [json.loads(file.read_text(encoding="utf-8")) for file in sorted(results.glob("chain/*.json"))]:
        rows = [_chain_row(chain, name) for chain in chains for name in chain["rows"]]
        parts += ["## The denoiser alone, finished on the latents of saved checkpoints", markdown_table(rows)]
    (folder / "table.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    _plot(data, folder / "figure.png")


def _chain_row(chain: dict[str, Any], name: str) -> dict[str, str]:
    """How far one checkpoint's samples lie from real latents, with the smallest number of steps."""
    latents, row = chain["latents"], chain["rows"][name]
    steps = min((key for key in row if key != "seconds"), key=int)
    values = row[steps]
    return {
        "checkpoint": chain["checkpoint"],
        "effective rank": f"{latents['effective_rank']:.1f}",
        "rate, nats": f"{latents['rate']:.1f}",
        "denoiser": name,
        "steps": steps,
        "latents' standard deviation": f"{values['std']:.3f}",
        "neighbour ratio": f"{values['neighbor_ratio']:.2f}",
        "latents' Frechet over real halves": f"{values['frechet'] / values['real_frechet']:.2f}",
    }


def _points(runs: list[dict[str, Any]]) -> Points:
    """Runs by variant, in the order of `VARIANTS`."""
    from variants import VARIANTS

    groups: Points = {name: [run for run in runs if run["variant"] == name] for name in VARIANTS}
    return {name: group for name, group in groups.items() if group}


def _row(variant: str, group: list[dict[str, Any]]) -> dict[str, str]:
    row = {"variant": variant, "seeds": str(len(group))}
    for key, (title, form) in COLUMNS.items():
        values = [run[key] for run in group]
        spread = f" ± {np.std(values, ddof=1):{form}}" if len(values) > 1 else ""
        row[title] = f"{np.mean(values):{form}}{spread}"
    return row


def _plot(data: dict[str, Points], path: Path) -> None:
    """Draws rate against error, and the spectrum's effective rank against the share, a row for each data set."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(data), 3, figsize=(13, 4 * len(data)), layout="constrained", squeeze=False)
    measures = (("mse", "reconstruction, MSE"), ("pixel_frechet", "samples, Frechet (pixels)"))
    for row, (name, points) in zip(axes, data.items(), strict=True):
        for place, (key, title) in zip(row, measures, strict=False):
            for number, (variant, group) in enumerate(points.items()):
                x, y = (np.mean([run[each] for run in group]) for each in ("rate", key))
                front = variant in FRONT
                place.scatter(x, y, color="black" if front else f"C{number % 10}", marker="o" if front else "x")
                place.annotate(variant.removeprefix("share "), (x, y), (4, 4), textcoords="offset points", fontsize=7)
            place.set(xlabel="rate, nats", ylabel=title, title=name)
        front = [variant for variant in FRONT if variant in points]
        shares = [float(variant.removeprefix("share ")) for variant in front]
        ranks = [np.mean([run["effective_rank"] for run in points[variant]]) for variant in front]
        row[2].plot(shares, ranks, "o-", color="black")
        row[2].axhline(points[front[0]][0]["latent_size"], color="grey", linestyle=":")
        row[2].set_xscale("symlog", linthresh=0.003)
        row[2].set_xticks(shares, [f"{share:g}" for share in shares], minor=False)
        row[2].set_xticks([], minor=True)
        row[2].set(
            xlabel="share of the joint gradient",
            ylabel="effective rank",
            title=name,
            xlim=(-5e-4, 1.5),
            ylim=(0, None),
        )
    figure.savefig(path, dpi=90)
    plt.close(figure)
