"""The study's table and figure, from its JSON files."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from reach import reaches, shipped_rows

from hf_eddpm.hub.card import markdown_table
from hf_eddpm.training.evaluation import plus_minus, spread

LATENTS = {
    "effective_rank": ("effective rank", ".1f"),
    "rate": ("rate, nats", ".1f"),
    "largest_share": ("largest share", ".2f"),
}
REACH = {
    "neighbor_ratio": ("neighbour ratio", ".2f"),
    "latent_frechet_ratio": ("latents' Frechet over real halves", ".2f"),
}
COLUMNS = {
    **LATENTS,
    "mse": ("MSE", ".4f"),
    "probe": ("probe", ".3f"),
    "pixel_frechet": ("samples, Frechet, pixels", ".3f"),
    "frechet": ("classifier", ".1f"),
    **REACH,
    "train_cpu_seconds": ("training, CPU s", ".0f"),
}
OF_SENTENCES = {
    **LATENTS,
    "bleu": ("BLEU", ".1f"),
    "exact_match": ("exact match", ".3f"),
    "probe": ("probe", ".3f"),
    "perplexity": ("perplexity of samples", ".0f"),
    "reverse_perplexity": ("reverse perplexity", ".0f"),
    **REACH,
    "train_seconds": ("training, s", ".0f"),
}
OF_SEQUENCES = {
    **LATENTS,
    "site_accuracy": ("site accuracy", ".3f"),
    "exact_match": ("exact match", ".3f"),
    "probe": ("probe, Pearson", ".3f"),
    "frechet": ("samples, Frechet, one-hot", ".3f"),
    "unique": ("unique", ".3f"),
    **REACH,
    "train_seconds": ("training, s", ".0f"),
}
KINDS = {"yelp": OF_SENTENCES, "gifford": OF_SEQUENCES, "gfp": OF_SEQUENCES}
AXES = {  # error and samples, against the rate
    "images": (("mse", "reconstruction, MSE"), ("pixel_frechet", "samples, Frechet (pixels)")),
    "yelp": (("bleu", "reconstruction, BLEU"), ("perplexity", "perplexity of samples")),
    "gifford": (("site_accuracy", "reconstruction, site accuracy"), ("frechet", "samples, Frechet (one-hot)")),
    "gfp": (("site_accuracy", "reconstruction, site accuracy"), ("frechet", "samples, Frechet (one-hot)")),
}
OF_PROTEINS = {
    "exact_match": ("exact match", ".3f"),
    "refined_exact_match": ("after 10 refinement steps", ".3f"),
    "pearson": ("fitness, Pearson", ".3f"),
    "noise_scale": ("noise scale", "g"),
    "sample_frechet": ("samples, Frechet, one-hot", ".3f"),
    "unique": ("unique", ".3f"),
}
Points = dict[str, list[dict[str, Any]]]


def write_report(results: Path, folder: Path) -> None:
    """Writes `table.md` and `figure.png` of all runs.

    Args:
        results: Where the JSON files lie.
        folder: Where the report goes.
    """
    everything = read_runs(results)
    parts = []
    if tables := checkpoint_tables(everything):
        parts += ["## Checkpoints", *tables]
    data = points_by_data(everything)
    for name, points in data.items():
        first = next(iter(points.values()))[0]
        parts += [
            f"## {name[0].upper()}{name[1:]}",
            markdown_table([_row(variant, group) for variant, group in points.items()]),
            _note(first),
        ]
    if rows := long_rows(results):
        parts += ["## Trainings at the shipped length that were cut short: their logs", markdown_table(rows)]
    if rows := shipped_rows():
        parts += ["## Samples of the shipped checkpoints", markdown_table(rows)]
    if chains := [json.loads(file.read_text(encoding="utf-8")) for file in sorted(results.glob("chain/*.json"))]:
        rows = [_chain_row(chain, name) for chain in chains for name in chain["rows"]]
        parts += ["## The denoiser alone, finished on the latents of saved checkpoints", markdown_table(rows)]
    (folder / "table.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    _plot({name: points for name, points in data.items() if len(points) > 2 or len(data) < 3}, folder / "figure.png")


def read_runs(results: Path) -> list[dict[str, Any]]:
    """All runs, and what was measured of checkpoints."""
    files = [file for pattern in ("*.json", *(f"{name}/*.json" for name in KINDS)) for file in results.glob(pattern)]
    return [json.loads(file.read_text(encoding="utf-8")) for file in sorted(files)]


def checkpoint_tables(everything: list[dict[str, Any]]) -> list[str]:
    """The checkpoints before and after they were trained anew: one table for images, one for proteins."""
    rows = [
        {"data": run["data"], "checkpoint": run["checkpoint"]}
        | {title: f"{run[key]:{form}}" for key, (title, form) in (COLUMNS | OF_PROTEINS).items() if key in run}
        for run in sorted(everything, key=lambda run: (run["data"], run.get("checkpoint") != "before"))
        if "checkpoint" in run
    ]
    kinds = ([row for row in rows if ("exact match" in row) == of_proteins] for of_proteins in (False, True))
    return [markdown_table(kind) for kind in kinds if kind]


def long_rows(results: Path) -> list[dict[str, str]]:
    """The last entry in the log of long trainings, of training data."""
    logs = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(results.glob("long/*.json"))]
    return [
        {
            "data": log["data"],
            "variant": log["variant"],
            "step": f"{log['logged_step']:,} of {log['planned_steps']:,}",
            **{title: f"{log[key]:{form}}" for key, (title, form) in LATENTS.items()},
            "reconstruction loss": f"{log['reconstruction_loss']:.3f}",
            "diffusion loss": f"{log['diffusion_loss']:.3f}",
        }
        for log in logs
    ]


def points_by_data(everything: list[dict[str, Any]]) -> dict[str, Points]:
    """The runs of variants, by data set and number of steps, and by variant."""
    data: dict[str, list[dict[str, Any]]] = {}
    for run in everything:
        if "variant" in run:
            data.setdefault(f"{run['data']}, {run['steps']:,} steps", []).append(run)
    return {name: _points(runs) for name, runs in sorted(data.items())}


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
        "sampler": "{scheduler}, noise {noise_scale:g}".format(**chain["sampler"]) if "sampler" in chain else "",
        "steps": steps,
        "latents' standard deviation": f"{values['std']:.3f}",
        "neighbour ratio": f"{values['neighbor_ratio']:.2f}",
        "latents' Frechet over real halves": f"{values['frechet'] / values['real_frechet']:.2f}",
        "reached": "yes" if reaches(values) else "no",
    }


def _note(run: dict[str, Any]) -> str:
    """What a table's numbers are of, and what real data have."""
    text = (
        f"Latents of {run['latent_size']} numbers where a variant says nothing else; {run['num_samples']:,} samples."
    )
    if run["data"] == "yelp":
        return f"{text} Training sentences in their place: reverse perplexity {run['real_reverse_perplexity']:.0f}."
    if run["data"] in KINDS:
        return f"{text} Training proteins in their place: {run['real_frechet']:.3f}."
    return (
        f"{text} Real images: {run['real_pixel_frechet']:.3f} in 32 principal components of the pixels, "
        f"{run['real_frechet']:.1f} in the features of {run['extractor']}."
    )


def _points(runs: list[dict[str, Any]]) -> Points:
    """Runs by variant: the shares at each variance of the encoder, then the others in the order of `variants.py`."""
    from variants import VARIANTS, sequence_variants

    data = runs[0]["data"]
    names = sequence_variants(data) if data in KINDS else VARIANTS
    groups: Points = {name: [run for run in runs if run["variant"] == name] for name in names}
    found = {name: group for name, group in groups.items() if group}
    return dict(sorted(found.items(), key=lambda item: place(item[0]) or (1.0, 0.0)))


def place(variant: str) -> tuple[float, float] | None:
    """Of a variant of the front: minus one or the encoder's variance, and the share; None for the others."""
    match = re.fullmatch(r"share ([\d.]+)(?:, encoder variance ([\d.]+))?", variant)
    return None if match is None else (float(match[2] or -1), float(match[1]))


def _row(variant: str, group: list[dict[str, Any]]) -> dict[str, str]:
    row = {"variant": variant, "seeds": str(len(group))}
    for key, (title, form) in KINDS.get(group[0]["data"], COLUMNS).items():
        row[title] = plus_minus(spread([run[key] for run in group]), form)
    return row


def _plot(data: dict[str, Points], path: Path) -> None:
    """Draws rate against error, and the spectrum's effective rank against the share, a row for each data set.

    The shares at one variance of the encoder are joined by a line. What has collapsed to a line is left out.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(len(data), 3, figsize=(15, 4 * len(data)), layout="constrained", squeeze=False)
    for row, (name, points) in zip(axes, data.items(), strict=True):
        of = next(iter(points.values()))[0]["data"]
        fronts: dict[float, dict[float, str]] = {}
        for variant in points:
            if where := place(variant):
                fronts.setdefault(where[0], {})[where[1]] = variant
        for axis, (key, title) in zip(row, AXES.get(of, AXES["images"]), strict=False):
            means = {variant: _means(group, "rate", key) for variant, group in points.items()}
            for number, (variance, front) in enumerate(sorted(fronts.items())):
                line = [means[variant] for _, variant in sorted(front.items())]
                label = "recipe's variance" if variance < 0 else f"variance {variance:g}"
                axis.plot(*zip(*line, strict=True), "o-", color="black" if variance < 0 else f"C{number}", label=label)
                for (share, _), point in zip(sorted(front.items()), line, strict=True):
                    axis.annotate(f"{share:g}", point, (4, 4), textcoords="offset points", fontsize=7)
            others = [each for each in points if place(each) is None and not _collapsed(points[each])]
            for number, variant in enumerate(others):
                text, marker = variant.removeprefix("share "), "x+*"[number // 10 % 3]
                axis.scatter(*means[variant], color=f"C{number % 10}", marker=marker, label=text)
            axis.set(xlabel="rate, nats", ylabel=title, title=name)
            if key == "frechet":
                axis.set_yscale("log")
        row[2].legend(*row[0].get_legend_handles_labels(), fontsize=7, loc="center left", bbox_to_anchor=(1, 0.5))
        for number, (variance, front) in enumerate(sorted(fronts.items())):
            shares = sorted(front)
            ranks = [_means(points[front[share]], "effective_rank")[0] for share in shares]
            row[2].plot(shares, ranks, "o-", color="black" if variance < 0 else f"C{number}")
        row[2].axhline(next(iter(points.values()))[0]["latent_size"], color="grey", linestyle=":")
        row[2].set_xscale("symlog", linthresh=0.003)
        shares = sorted({share for front in fronts.values() for share in front})
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


def _collapsed(group: list[dict[str, Any]]) -> bool:
    """Whether the latents lie on a line, and nothing else of the variant is worth a place in the figure."""
    return _means(group, "effective_rank")[0] < 1.2


def _means(group: list[dict[str, Any]], *keys: str) -> tuple[float, ...]:
    return tuple(float(np.mean([run[key] for run in group])) for key in keys)
