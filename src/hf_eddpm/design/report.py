"""A batch of designs as one HTML page, its pictures inside: needs matplotlib, which the extra `train` brings."""

import base64
import html
import io
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..extras import needs_extra
from ..plots import project_latents
from .plate import COLUMNS, ROWS

with needs_extra("The report of designs"):
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

_STYLE = """body{font-family:sans-serif;max-width:75em;margin:2em auto;padding:0 1em;color:#222}
table{border-collapse:collapse;font-size:.85em}td,th{border:1px solid #ccc;padding:.2em .5em;text-align:left}
td.n{text-align:right}.s{font-family:monospace;word-break:break-all}img{max-width:100%}"""


def plot_distance(designs: Any, index: int = 0) -> Figure:
    """Draw each design's predicted value, with its 90 % interval, against its distance from what is known.

    Args:
        designs: At least one.
        index: Which property.
    """
    figure, axes = _axes()
    known = all(design.distance_to_known is not None for design in designs)
    distances = np.array([design.distance_to_known if known else design.num_edits for design in designs], float)
    jitter = np.linspace(-0.25, 0.25, len(designs))
    values, low, high = (
        np.array([getattr(design, name)[index] for design in designs]) for name in ("predicted", "low", "high")
    )
    axes.errorbar(
        distances + jitter,
        values,
        yerr=np.clip([values - low, high - values], 0, None),
        fmt="o",
        markersize=4,
        elinewidth=0.6,
        alpha=0.7,
    )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel(f"edits from the nearest {'known sequence' if known else 'start'}")
    axes.set_ylabel(f"predicted {designs.property_names[index]}, 90 % interval")
    return figure


def plot_latent_map(designs: Any) -> Figure:
    """Draw the batch among the known sequences, in the plane in which latents vary most.

    Args:
        designs: A batch with `latents`.
    """
    figure, axes = _axes()
    latents = torch.as_tensor(designs.latents, dtype=torch.float32)
    known = torch.as_tensor(designs.known_latents, dtype=torch.float32)
    basis = known if len(known) >= 3 else torch.cat([known, latents])
    if len(known):
        points, _ = project_latents(known, basis)
        axes.scatter(points[:, 0], points[:, 1], s=8, color="0.7", linewidths=0, label="measured")
    points, shares = project_latents(latents, basis)
    axes.scatter(points[:, 0], points[:, 1], s=18, color="C3", linewidths=0, label="designs")
    axes.set_xlabel(f"first direction ({shares[0]:.0%} of the variance)")
    axes.set_ylabel(f"second direction ({shares[1]:.0%})")
    axes.legend(frameon=False)
    return figure


def plot_sites(designs: Any, most: int = 40) -> Figure:
    """Draw how many designs change each position, the most changed ones, stacked by the new residue.

    Args:
        designs: At least one.
        most: Positions to draw.
    """
    counts: dict[int, Counter[str]] = {}
    for design in designs:
        for position, (old, new) in enumerate(zip(design.start, design.sequence, strict=False)):
            if old != new and len(design.start) == len(design.sequence):
                counts.setdefault(position, Counter())[new] += 1
    figure, axes = _axes((9, 3.6))
    chosen = sorted(sorted(counts, key=lambda position: -counts[position].total())[:most])
    for place, position in enumerate(chosen):
        bottom = 0
        for residue, count in counts[position].most_common():
            axes.bar(place, count, bottom=bottom, width=0.8, edgecolor="white", linewidth=0.5, color=_colour(residue))
            axes.text(place, bottom + count / 2, residue, ha="center", va="center", fontsize=7)
            bottom += count
    axes.set_xticks(range(len(chosen)), [str(position + 1) for position in chosen], rotation=90, fontsize=8)
    axes.set_xlabel("position, counted from 1")
    axes.set_ylabel("designs that change it")
    return figure


def write_report(designs: Any, path: str | Path, title: str = "Designs") -> None:
    """Write the page: what was found, pictures, the plate, and the table.

    Args:
        designs: The batch.
        path: The file.
        title: Its heading.
    """
    parts = [f"<h1>{html.escape(title)}</h1>"]
    parts.append(
        f"<p>{len(designs)} designs, chosen from {designs.num_candidates} different candidates that keep the limits. "
        "Predictions are no measurements.</p>"
    )
    notes = [*designs.notes, *(f"Rejected by `{name}`: {count}." for name, count in designs.rejected.items())]
    parts.append("<ul>" + "".join(f"<li>{html.escape(note)}</li>" for note in notes) + "</ul>")
    if len(designs):
        figures = [plot_distance(designs, index) for index in range(len(designs.property_names))]
        if len(designs) + len(designs.known_latents) >= 3:
            figures.append(plot_latent_map(designs))
        figures.append(plot_sites(designs))
        parts += [_image(figure) for figure in figures]
        parts += ["<h2>Plate</h2>", _plates(designs), "<h2>Table</h2>", _table(designs)]
    page = (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body>{''.join(parts)}</body></html>\n"
    )
    Path(path).write_text(page, encoding="utf-8")


def _axes(size: tuple[float, float] = (6, 4.2)) -> tuple[Figure, Any]:
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _colour(residue: str) -> str:
    groups = ("AVLIMC", "FWYH", "STNQ", "KR", "DE", "GP")
    return next((f"C{number}" for number, group in enumerate(groups) if residue in group), "0.5")


def _image(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    return f'<p><img alt="" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}"></p>'


def _plates(designs: Any) -> str:
    tables = []
    for plate in designs.plate():
        head = "<tr><th></th>" + "".join(f"<th>{column + 1}</th>" for column in range(COLUMNS)) + "</tr>"
        body = ""
        for name, row in zip(ROWS, plate, strict=True):
            cells = ["" if design is None else html.escape(" ".join(design.edits) or "start") for design in row]
            body += f"<tr><th>{name}</th>" + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"
        tables.append(f"<table>{head}{body}</table>")
    return "<br>".join(tables)


def _table(designs: Any) -> str:
    rows = designs.rows()
    head = "".join(f"<th>{html.escape(name)}</th>" for name in rows[0])
    body = ""
    for row in rows:
        cells = []
        for name, value in row.items():
            kind = "n" if isinstance(value, (int, float)) else "s" if name in ("sequence", "start") else ""
            text = f"{value:.4g}" if isinstance(value, float) else "" if value is None else str(value)
            cells.append(f'<td class="{kind}">{html.escape(text)}</td>')
        body += f"<tr>{''.join(cells)}</tr>"
    return f"<table><tr>{head}</tr>{body}</table>"
