"""Figures of what a model does, and of its training. They need matplotlib, which the extra `train` brings.

Each function returns a `matplotlib.figure.Figure`, which knows no window and no state: save it with `savefig`.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from .argument_types import Count, FloatTensor, checked
from .extras import needs_extra

with needs_extra("Plotting"):
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_COLOURS = tuple(f"C{number}" for number in range(10))  # those of matplotlib
_LOSSES = ("reconstruction_loss", "diffusion_loss", "alignment_loss", "property_loss", "loss")


@checked
def plot_interpolation(paths: Sequence[Sequence[Any]], titles: Sequence[str] | None = None) -> Figure:
    """Draw paths of `EDDPMPipeline.interpolate`, or rows of `traverse`: images side by side, texts below each other.

    Args:
        paths: One list of data for each path, all strings or all PIL images.
        titles: A title for each path.

    Raises:
        TypeError: If the data are neither strings nor images.
        ValueError: If there is no path, one is empty, or there are not as many titles as paths.
    """
    if len(paths) == 0 or any(len(path) == 0 for path in paths):
        raise ValueError("`paths` must hold at least one path, each with at least one datum.")
    if titles is not None and len(titles) != len(paths):
        raise ValueError(f"`titles` must hold one title for each of {len(paths)} paths, got {len(titles)}.")
    data = [datum for path in paths for datum in path]
    if all(isinstance(datum, str) for datum in data):
        longest = max(map(len, paths))
        figure = Figure(figsize=(7, 0.3 * longest * len(paths) + 0.5 * len(paths)), layout="constrained")
        for number, path in enumerate(paths):
            axes = figure.add_subplot(len(paths), 1, number + 1)
            axes.set_axis_off()
            for row, text in enumerate(path):
                axes.text(0.02, 1 - (row + 0.5) / len(path), text, va="center", fontsize=11, parse_math=False)
            if titles is not None:
                axes.set_title(titles[number], loc="left", fontsize=11)
        return figure
    if not all(isinstance(datum, Image.Image) for datum in data):
        raise TypeError("`paths` must hold strings or PIL images.")
    columns = max(map(len, paths))
    figure = Figure(figsize=(columns, 1.15 * len(paths)), layout="constrained")
    for number, path in enumerate(paths):
        for column in range(columns):
            axes = figure.add_subplot(len(paths), columns, number * columns + column + 1)
            axes.set_axis_off()
            if column < len(path):
                _show(axes, path[column])
        if titles is not None:
            figure.axes[number * columns].set_title(titles[number], loc="left", fontsize=9)
    return figure


@checked
def plot_latents(
    latents: FloatTensor,
    labels: Sequence[Any] | None = None,
    method: Literal["pca"] = "pca",
    basis: FloatTensor | None = None,
) -> Figure:
    """Draw latents as points of a plane, coloured by class or by a number.

    Args:
        latents: `(data, num_latents, latent_dim)` or `(data, size)`, at least three.
        labels: A class (a string or an integer) or a number for each datum; None for one colour.
        method: "pca": the plane in which the latents vary most.
        basis: Latents whose plane is taken, by default these.

    Raises:
        ValueError: If there are fewer than three data, values are not finite, or labels do not fit.
    """
    if labels is not None and len(labels) != len(latents):
        raise ValueError(f"`labels` must hold one label for each of {len(latents)} data, got {len(labels)}.")
    points, shares = project_latents(latents, basis)
    figure = Figure(figsize=(6, 5), layout="constrained")
    axes = figure.add_subplot()
    if labels is None:
        axes.scatter(points[:, 0], points[:, 1], s=8, color=_COLOURS[0], alpha=0.6, linewidths=0)
    elif all(isinstance(label, (float, np.floating)) for label in labels):
        values = np.asarray(labels, float)
        drawn = axes.scatter(points[:, 0], points[:, 1], s=8, c=values, cmap="viridis", linewidths=0)
        figure.colorbar(drawn, ax=axes)
    else:
        names = sorted({str(label) for label in labels})
        for number, name in enumerate(names):
            rows = np.array([str(label) == name for label in labels])
            colour = _COLOURS[number % len(_COLOURS)]
            axes.scatter(points[rows, 0], points[rows, 1], s=8, color=colour, label=name, alpha=0.6, linewidths=0)
        axes.legend(markerscale=2, fontsize=8, frameon=False)
    axes.set_xlabel(f"first direction ({shares[0]:.0%} of the variance)")
    axes.set_ylabel(f"second direction ({shares[1]:.0%})")
    _tidy(axes)
    return figure


@checked
def project_latents(
    latents: FloatTensor, basis: FloatTensor | None = None
) -> tuple[NDArray[np.float64], tuple[float, float]]:
    """Return where latents lie in the plane of `plot_latents`, and the shares of the variance along its axes.

    Args:
        latents: `(data, num_latents, latent_dim)` or `(data, size)`.
        basis: At least three latents whose plane is taken, by default these.

    Returns:
        float64 `(data, 2)`, and two shares in [0, 1].

    Raises:
        ValueError: If there are fewer than three data to take the plane from, or values are not finite.
    """
    flat = latents.detach().double().cpu().flatten(1)
    reference = flat if basis is None else basis.detach().double().cpu().flatten(1)
    if len(reference) < 3 or not bool(flat.isfinite().all()):
        raise ValueError("`latents` must be those of at least three data, and finite.")
    centre = reference.mean(0)
    _, singular, directions = torch.linalg.svd(reference - centre, full_matrices=False)
    shares = (singular.square() / singular.square().sum())[:2].tolist()
    return ((flat - centre) @ directions[:2].T).numpy(), (shares[0], shares[1])


@checked
def plot_scores(scores: Mapping[str, Any], label: str = "bits per unit", bins: Count = 40) -> Figure:
    """Draw histograms of scores over each other, for example of `pipe.score` on known data, foreign data and samples.

    Args:
        scores: Numbers, a tensor or a list, by the name of their data.
        label: What the numbers are.
        bins: Bins of the histograms.

    Raises:
        ValueError: If there are none, or one is not finite.
    """
    arrays = {name: np.asarray(torch.as_tensor(values).detach().cpu(), float) for name, values in scores.items()}
    if not arrays or any(values.size == 0 or not np.isfinite(values).all() for values in arrays.values()):
        raise ValueError("`scores` must hold finite numbers for at least one name.")
    low = min(float(values.min()) for values in arrays.values())
    high = max(float(values.max()) for values in arrays.values())
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)
    figure = Figure(figsize=(6, 3.2), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, values) in enumerate(arrays.items()):
        colour = _COLOURS[number % len(_COLOURS)]
        axes.hist(values, edges.tolist(), density=True, alpha=0.55, color=colour, label=name)
    axes.set_xlabel(label)
    axes.set_yticks([])
    axes.legend(frameon=False)
    _tidy(axes)
    return figure


@checked
def plot_front(points: Mapping[str, Sequence[tuple[float, float]]], x_label: str, y_label: str) -> Figure:
    """Draw fronts: one line for each recipe, swept over its own knob.

    Args:
        points: For each recipe its points `(x, y)`, in the order of the line.
        x_label: What x is.
        y_label: What y is.

    Raises:
        ValueError: If there are none.
    """
    if not points or any(len(line) == 0 for line in points.values()):
        raise ValueError("`points` must hold at least one recipe, each with at least one point.")
    figure = Figure(figsize=(6, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for number, (name, line) in enumerate(points.items()):
        values = np.asarray(line, float)
        axes.plot(values[:, 0], values[:, 1], marker="o", color=_COLOURS[number % len(_COLOURS)], label=name)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.legend(frameon=False)
    _tidy(axes)
    return figure


@checked
def plot_curves(log_history: Sequence[Mapping[str, Any]]) -> Figure:
    """Draw the course of a training: the loss and its terms, on training and on held-out data, and the effective rank.

    Args:
        log_history: `trainer.state.log_history`, or "log" of a checkpoint's `training.json`.

    Raises:
        ValueError: If no entry has a step and a loss.
    """
    training: dict[str, list[tuple[float, float]]] = {}
    held_out: dict[str, list[tuple[float, float]]] = {}
    ranks: dict[str, list[tuple[float, float]]] = {}
    for entry in log_history:
        for name, value in entry.items() if "step" in entry else ():
            point = (float(entry["step"]), value)
            if name in _LOSSES:
                training.setdefault(name, []).append(point)
            elif name == "effective_rank":
                ranks.setdefault("training", []).append(point)
            elif name.startswith("eval_") and name.endswith("_effective_rank"):
                ranks.setdefault(_of_set(name, "effective_rank"), []).append(point)
            elif name.startswith("eval_") and (term := next((each for each in _LOSSES if name.endswith(each)), None)):
                held_out.setdefault(f"{_of_set(name, term)} {term}", []).append(point)
    if not training and not held_out:
        raise ValueError("`log_history` must hold entries with `step` and `loss` or `eval_loss`.")
    panels = [
        (title, lines)
        for title, lines in (("training", training), ("held-out", held_out), ("effective rank", ranks))
        if lines
    ]
    figure = Figure(figsize=(4.2 * len(panels), 3.4), layout="constrained")
    for number, (title, lines) in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        for row, (name, line) in enumerate(lines.items()):
            values = np.asarray(line, float)
            colour = _COLOURS[row % len(_COLOURS)]
            marker = "o" if len(line) < 20 else None
            label = name.removeprefix("held-out ").replace("_", " ")
            axes.plot(values[:, 0], values[:, 1], marker=marker, markersize=3, color=colour, label=label)
        if all(value > 0 for line in lines.values() for _, value in line) and title != "effective rank":
            axes.set_yscale("log")
        axes.set_title(title, loc="left", fontsize=10)
        axes.set_xlabel("step")
        axes.legend(fontsize=8, frameon=False)
        _tidy(axes)
    return figure


def _of_set(name: str, measure: str) -> str:
    """Return "held-out", or the name of the evaluation set that a measure in the log is of."""
    return name.removeprefix("eval_").removesuffix(measure).removesuffix("_") or "held-out"


def _show(axes: Axes, image: Image.Image) -> None:
    axes.imshow(np.asarray(image), cmap="gray" if image.mode == "L" else None, interpolation="nearest")


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
