"""What the tabs share: widgets for data of each modality, and calls whose errors are sentences."""

import html
import io
from collections.abc import Callable, Sequence
from typing import Any

import gradio as gr
from matplotlib.figure import Figure
from PIL import Image
from transformers.utils import logging

from ..plots import plot_interpolation
from .actions import Grid
from .checkpoints import Checkpoint
from .inputs import read_data
from .limits import MAX_AT_ONCE, MAX_DATA

logger = logging.get_logger(__name__)

_COLUMNS = 8  # images side by side
_TRACKED = gr.Progress(track_tqdm=True)
_NAMES = {"text": ("sentence", "sentences"), "protein": ("sequence", "sequences"), "image": ("image", "images")}


def data_input(checkpoint: Checkpoint, label: str, value: Sequence[Any], lines: int = 4, elem_id: str = "") -> Any:
    """Make a widget that takes data: a text box with one a line, or a gallery of uploaded images."""
    if checkpoint.modality == "image":
        return gr.Gallery(
            value=list(value) or None,
            label=label,
            type="pil",
            format="png",
            file_types=["image"],
            interactive=True,
            columns=4,
            height=185,
            object_fit="contain",
            sources=["upload", "clipboard"],
            elem_id=elem_id or None,
            elem_classes="pixels",
        )
    one, _ = _NAMES[checkpoint.modality]
    return gr.Textbox(
        value="\n".join(value),
        label=label,
        info=f"One {one} a line, at most {MAX_DATA}.",
        lines=lines,
        max_lines=max(lines, 10),
        elem_id=elem_id or None,
        elem_classes="sequences" if checkpoint.modality == "protein" else None,
        interactive=True,
    )


def datum_input(checkpoint: Checkpoint, label: str, value: Any, elem_id: str) -> Any:
    """Make a widget that takes a single datum."""
    if checkpoint.modality == "image":
        return gr.Image(
            value=value,
            label=label,
            type="pil",
            format="png",
            image_mode=None,
            height=180,
            sources=["upload", "clipboard"],
            elem_id=elem_id,
            elem_classes="pixels",
            interactive=True,
        )
    classes = "sequences" if checkpoint.modality == "protein" else None
    return gr.Textbox(value=value, label=label, lines=3, elem_id=elem_id, elem_classes=classes, interactive=True)


def read(checkpoint: Checkpoint, value: Any, name: str) -> list[Any]:
    """Return the data in what a widget of `data_input` or `datum_input` holds."""
    value = [value] if isinstance(value, Image.Image) else value
    return read_data(checkpoint.pipe.processor, checkpoint.modality, value, name)


def grid_output(
    checkpoint: Checkpoint, headers: Sequence[str], label: str, elem_id: str, widths: Sequence[float] = ()
) -> Any:
    """Make the widget that shows a grid: a table, or a picture of images."""
    if checkpoint.modality == "image":
        return figure_output(label, elem_id)
    return table_output(headers, label, elem_id, checkpoint.modality, widths)


def figure_output(label: str, elem_id: str) -> Any:
    """Make a widget that shows a figure; its label is not shown, as it would lie upon the figure."""
    return gr.Image(
        label=label, show_label=False, format="png", interactive=False, elem_id=elem_id, buttons=["download"]
    )


def table_output(
    headers: Sequence[str], label: str, elem_id: str, modality: str = "text", widths: Sequence[float] = ()
) -> Any:
    """Make a table that shows results; without `widths`, all columns are as wide."""
    shares = widths or [1] * len(headers)
    return gr.Dataframe(
        headers=list(headers),
        label=label,
        interactive=False,
        wrap=True,
        column_widths=[f"{100 * share / sum(shares):.1f}%" for share in shares],
        elem_id=elem_id,
        elem_classes="sequences" if modality == "protein" else "words",
        buttons=["copy"],
    )


def show_grid(checkpoint: Checkpoint, grid: Grid) -> Any:
    """Return a grid as the value of its widget."""
    if checkpoint.modality == "image":
        return show_figure(_picture(grid))
    return show_table(grid)


def show_table(grid: Grid) -> dict[str, Any]:
    """Return a grid as a table, images by their number."""
    rows = [
        [f"image {number}" if isinstance(cell, Image.Image) else cell for cell in row]
        for number, row in enumerate(grid.rows, start=1)
    ]
    return {"headers": grid.headers, "data": rows}


def show_figure(figure: Figure) -> Image.Image:
    """Return a figure as an image, sharp enough for a wide screen."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=160)
    return Image.open(file).convert("RGB")


def _picture(grid: Grid) -> Figure:
    """Return the images of a grid with a line for each of its columns, eight data a block."""
    lines, titles = [], []
    shown = [place for place, cell in enumerate(grid.rows[0]) if isinstance(cell, Image.Image)]
    for start in range(0, len(grid.rows), _COLUMNS):
        for place in shown:
            lines.append([row[place] for row in grid.rows[start : start + _COLUMNS]])
            titles.append(grid.headers[place])
    return plot_interpolation(lines, titles)


def on_click(button: Any, function: Callable[..., Any], inputs: Sequence[Any], outputs: Sequence[Any] | Any) -> None:
    """Let a button call a function of its inputs' values: in the queue, with progress, errors as sentences."""

    def run(progress: Any = _TRACKED, *values: Any) -> Any:
        return in_sentences(function, *values)

    button.click(run, list(inputs), outputs, **of_model())


def of_model() -> dict[str, Any]:
    """Return the arguments of an event that computes: all of them share one queue."""
    return {"concurrency_id": "model", "concurrency_limit": MAX_AT_ONCE, "api_visibility": "private"}


def in_sentences(function: Callable[..., Any], *values: Any) -> Any:
    """Call a function; what it refuses becomes a message on the page.

    Raises:
        gr.Error: In the place of a ValueError, TypeError, OSError, ImportError or MemoryError.
    """
    try:
        return function(*values)
    except (ValueError, TypeError, OSError, ImportError, MemoryError) as error:
        logger.info("A request was refused.", exc_info=error)
        message = html.escape(str(error), quote=False)  # the page would take it for markup
        raise gr.Error(message, title="That did not work", print_exception=False) from error


def button(label: str, elem_id: str) -> Any:
    """Make the button that starts a tab's work."""
    return gr.Button(label, variant="primary", elem_id=elem_id)


def seed_input() -> Any:
    """Make the widget for a seed."""
    return gr.Number(
        value=0, label="Seed", info="The same seed gives the same result.", precision=0, minimum=0, interactive=True
    )
