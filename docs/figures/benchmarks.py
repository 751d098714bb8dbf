"""Draws the pictures of the benchmarks' pages from the measured files, and the chain of docs/concepts.md.

    python docs/figures/benchmarks.py

They go to docs/_static/benchmarks.
"""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from PIL import Image

from hf_eddpm.modalities.image.data import load_images
from hf_eddpm.modalities.image.files import DIGITS
from hf_eddpm.sampling import run_chain
from shipped import ROOT, load, seed

STUDIES = ROOT / "training" / "studies"
FOLDER = ROOT / "docs" / "_static" / "benchmarks"
SIZE = (7.0, 3.2)


def read(file: str) -> Any:
    """Return what a file of results holds."""
    return json.loads((STUDIES / file).read_text(encoding="utf-8"))


def bars(axes: Axes, groups: Mapping[str, Mapping[str, tuple[float, float]]]) -> None:
    """Draw groups of bars, each with a mean and a spread by the name of the bar."""
    names = list(dict.fromkeys(name for group in groups.values() for name in group))
    for place, name in enumerate(names):
        shown = [(x, *group[name]) for x, group in enumerate(groups.values()) if name in group]
        xs = [x + (place - (len(names) - 1) / 2) * 0.8 / len(names) for x, _, _ in shown]
        errors = [spread for _, _, spread in shown]
        axes.bar(xs, [value for _, value, _ in shown], 0.8 / len(names), yerr=errors, label=name, capsize=2)
    axes.set_xticks(range(len(groups)), list(groups))
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))


def anomalies() -> Figure:
    """How well each part of the score tells foreign data."""
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    groups: dict[str, dict[str, tuple[float, float]]] = {}
    for name in ("gifford", "yelp"):
        for kind, values in read(f"ood/results/{name}.json")["scores"].items():
            if kind != "own":
                parts = ("reconstruction", "bound", "chain")
                groups[f"{name}\n{kind}"] = {part: (values["auroc"][part], 0.0) for part in parts}
    bars(axes, groups)
    axes.axhline(0.5, color="grey", linewidth=0.8)
    axes.set_ylabel("area under the ROC curve")
    return figure


def denoisers() -> Figure:
    """How near each denoiser's samples come to real latents."""
    figure, axes = plt.subplots(figsize=(7.0, 3.8), layout="constrained")
    rows = read("denoisers/results/gifford.json")["rows"]
    for kind in ("DDIM, 20 steps", "DPM-Solver++ (Karras), 10 steps"):
        shown = [row for row in rows if "option" in row and isinstance(row.get(kind), dict)]
        names = [row["option"] for row in shown]
        spread = [row[kind]["std"] or 0.0 for row in shown]
        axes.errorbar([row[kind]["mean"] for row in shown], names, xerr=spread, fmt="o", capsize=2, label=kind)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("distance of the latents (eddpm-gifford)")
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
    return figure


def factors() -> Figure:
    """How far latent dimensions stand for single factors."""
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    titles = {"disentanglement": "DCI disentanglement", "mig": "MIG", "sap": "SAP"}
    runs: dict[str, list[dict[str, float]]] = {}
    for path in sorted((STUDIES / "sprites" / "results").glob("*-seed-*.json")):
        result = json.loads(path.read_text(encoding="utf-8"))
        runs.setdefault(result["recipe"], []).append(result)
        if "rotated" in result:
            runs.setdefault(f"{result['recipe']}, ICA", []).append(result["rotated"])
    groups = {
        title: {name: _mean_and_spread([run[key] for run in found]) for name, found in runs.items()}
        for key, title in titles.items()
    }
    bars(axes, groups)
    axes.set_ylabel("1 is perfect")
    return figure


def _mean_and_spread(values: Sequence[float]) -> tuple[float, float]:
    return mean(values), stdev(values) if len(values) > 1 else 0.0


def _find(value: Any, key: str) -> dict[str, Any]:
    """Return the dictionary, somewhere within, that has a key."""
    if isinstance(value, dict):
        if key in value:
            return value
        for each in value.values():
            if found := _find(each, key):
                return found
    return {}


def few_steps() -> Figure:
    """What few steps lose."""
    figure, panels = plt.subplots(1, 2, figsize=(8.0, 3.2), layout="constrained")
    for axes, name in zip(panels, ("gifford", "yelp"), strict=True):
        rows = [row for row in read(f"few_steps/results/{name}.json")["rows"] if row.get("noise_scale", 1.0) == 1.0]
        for scheduler in dict.fromkeys(row["scheduler"] for row in rows if row.get("steps")):
            points = [(row["steps"], row["latent_frechet"]) for row in rows if row["scheduler"] == scheduler]
            steps, values = zip(*points, strict=True)
            spread = [value["std"] or 0.0 for value in values]
            axes.errorbar(steps, [value["mean"] for value in values], spread, marker="o", capsize=2, label=scheduler)
        axes.axhline(rows[-1]["latent_frechet"]["mean"], color="grey", linewidth=0.8, label="real data")
        axes.set(xscale="log", yscale="log", xlabel="steps", title=f"eddpm-{'yelp-mini' if name == 'yelp' else name}")
    panels[0].set_ylabel("distance of the latents")
    panels[0].legend(frameon=False, fontsize=8)
    return figure


def longer_text() -> Figure:
    """What several latents are worth."""
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    groups: dict[str, dict[str, tuple[float, float]]] = {}
    for path in sorted((STUDIES / "longer_text" / "results").glob("*-seed-1.json")):
        data, latents, denoiser = path.stem.removesuffix("-seed-1").split("-")
        bleu = _find(json.loads(path.read_text(encoding="utf-8")), "bleu")["bleu"]
        value = bleu["mean"] if isinstance(bleu, dict) else bleu
        groups.setdefault(data, {})[f"{latents} latent{'s' * (latents != '1')}, {denoiser}"] = (value, 0.0)
    bars(axes, groups)
    axes.set_ylabel("BLEU")
    return figure


def protein_design() -> Figure:
    """What designs are worth, by measurements."""
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    runs: dict[str, dict[str, list[float]]] = {}
    for key, run in read("protein_design/results/gb1.json").items():
        if re.fullmatch(r"\d+/.+/\d+", key):
            start, strategy, _ = key.split("/")
            if strategy.startswith("ours, "):
                continue  # the sources one by one stand in the table
            runs.setdefault(start, {}).setdefault(strategy, []).append(run["top_10"])
    order = sorted(runs, key=int)
    groups = {f"from {start}": {k: _mean_and_spread(v) for k, v in runs[start].items()} for start in order}
    bars(axes, groups)
    axes.axhline(1.0, color="grey", linewidth=0.8)
    axes.set_ylabel("mean fitness of the best 10")
    return figure


def protein_optimization() -> Figure:
    """What proposals score on a function in closed form."""
    figure, axes = plt.subplots(figsize=(7.0, 3.8), layout="constrained")
    proposals = read("ehrlich/results/evaluation.json")["optimization"]["proposals"]
    names = list(proposals)
    for place, (what, label) in enumerate((("max", "best"), ("mean", "mean"))):
        values = [proposals[name][what] for name in names]
        centre = [value["mean"] if isinstance(value, dict) else value for value in values]
        spread = [(value["std"] or 0.0) if isinstance(value, dict) else 0.0 for value in values]
        ys = [number + (place - 0.5) * 0.4 for number in range(len(names))]
        axes.barh(ys, centre, 0.4, xerr=spread, label=label, capsize=2)
    axes.set_yticks(range(len(names)), names)
    axes.invert_yaxis()
    axes.set_xlabel("Ehrlich function (optimum 1)")
    axes.legend(frameon=False, fontsize=8)
    return figure


def control() -> Figure:
    """What guidance brings, by its strength."""
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    for name, key, label in (
        ("yelp", "in class", "reviews: of the sentiment asked for"),
        ("gifford", "hits", "antibody loops: above the best tenth"),
        ("gfp", "hits", "green fluorescent protein: above the best tenth"),
    ):
        rows = read(f"control/results/{name}.json")["samples"]
        scales = [scale for scale in rows if re.fullmatch(r"[\d.]+", scale)]
        axes.plot(range(len(scales)), [rows[scale][key] for scale in scales], marker="o", label=label)
        for place, scale in enumerate(scales):
            axes.annotate(scale, (place, rows[scale][key]), textcoords="offset points", xytext=(3, 4), fontsize=7)
    axes.set_xticks([])
    axes.set_xlabel("guidance, from none to strong (the numbers are its scales)")
    axes.set_ylabel("share of samples")
    axes.legend(frameon=False, fontsize=8)
    return figure


def chain() -> Figure:
    """A digit's way to noise, and a new one's way back."""
    pipe = load("eddpm-digits")
    image = load_images(DIGITS).images[12]
    picture = Image.fromarray(image[..., 0])
    latents = pipe.encode(picture).latents
    steps = (0, 60, 150, 300, 999)
    noise = torch.randn(latents.shape, generator=seed(3))
    forward = [pipe.model.scheduler.add_noise(latents, noise, torch.tensor([step])) for step in steps]
    visited: list[torch.Tensor] = []

    def keep(_: int, __: torch.Tensor, current: torch.Tensor) -> torch.Tensor:
        visited.append(current)
        return current

    start = torch.randn(latents.shape, generator=seed(5))
    with torch.inference_mode():
        run_chain(pipe.model.denoise, pipe.model.scheduler, start, 50, on_step=keep)
    backward = [start, visited[20], visited[35], visited[45], visited[-1]]
    figure, panels = plt.subplots(2, 7, figsize=(9.0, 3.0), layout="constrained", gridspec_kw={"wspace": 0.15})
    rows = (
        [picture, *forward, None],
        [pipe.decode(backward[-1], generator=seed())[0], *reversed(backward), None],
    )
    titles = ("datum", "encoded", *(["noisier"] * 3), "noise", "")
    for row, (line, items) in enumerate(zip(panels, rows, strict=True)):
        for place, (axes, item) in enumerate(zip(line, items, strict=True)):
            axes.set_axis_off()
            if item is None:
                arrow, words = ("→", "encoder, then noise") if row == 0 else ("←", "denoiser, then decoder")
                axes.text(0.5, 0.5, f"{arrow}\n{words}", ha="center", va="center", fontsize=9, wrap=True)
            elif isinstance(item, torch.Tensor):
                axes.imshow(item.reshape(4, 4), cmap="RdBu", vmin=-2.5, vmax=2.5)
            else:
                axes.imshow(item, cmap="gray_r")
            if row == 0:
                axes.set_title(titles[place], fontsize=9)
    return figure


def paths() -> Figure:
    """How much worse than its ends the middle of a path is, by the level that it is denoised from."""
    figure, axes = plt.subplots(figsize=SIZE, layout="constrained")
    measures = {
        "fashion": ("Frechet distance of the middle", "of the ends"),
        "faces64": ("Frechet distance of the middle", "of the ends"),
        "gifford": ("edits from training data", "of the ends"),
        "yelp": ("perplexity, over the ends'", None),
    }
    for number, (name, (middle, ends)) in enumerate(measures.items()):
        ways = read(f"paths/results/{name}.json")["ways"]
        ratios = {way: mean(one[middle] / (one[ends] if ends else 1.0) for one in sets) for way, sets in ways.items()}
        levels = {
            0.0 if way == "arc" else float(way.split()[-1]): ratio for way, ratio in ratios.items() if "arc" in way
        }
        axes.plot(*zip(*sorted(levels.items()), strict=True), marker="o", color=f"C{number}", label=f"eddpm-{name}")
        axes.axhline(ratios["noise"], color=f"C{number}", linestyle=":", linewidth=1)
    axes.set(
        xlabel="denoised from this level; dotted: through the noise", ylabel="middle, times the ends", yscale="log"
    )
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set_yticks([0.7, 1, 2, 4, 8], ["0.7", "1", "2", "4", "8"])
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


PICTURES = {
    "anomalies": anomalies,
    "denoisers": denoisers,
    "factors": factors,
    "few-steps": few_steps,
    "longer-text": longer_text,
    "paths": paths,
    "protein-design": protein_design,
    "protein-optimization": protein_optimization,
    "text-and-protein-control": control,
    "chain": chain,
}


def main(names: Sequence[str] = tuple(PICTURES), folder: Path = FOLDER) -> None:
    """Draws the pictures."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        PICTURES[name]().savefig(folder / f"{name}.png", dpi=80)
        plt.close("all")


if __name__ == "__main__":
    main()
