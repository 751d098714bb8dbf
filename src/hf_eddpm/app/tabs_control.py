"""The tabs that change data: edit along attributes, and what a property head adds: predict, optimise, design."""

from typing import Any

import gradio as gr

from . import actions
from .attributes import Attribute, default_attributes
from .checkpoints import Checkpoint
from .downloads import write_csv
from .limits import MAX_SAMPLES, MAX_STEPS
from .tabs_data import as_text, csv_button, download_buttons, fill_downloads, filled, inversion_input, refinement_input
from .widgets import (
    button,
    data_input,
    figure_output,
    grid_output,
    on_click,
    read,
    seed_input,
    show_figure,
    show_grid,
    show_table,
    table_output,
)

_TARGETS = [("higher", "higher"), ("lower", "lower"), ("a value", "value")]


def add_edit(checkpoint: Checkpoint, examples: list[Any]) -> None:
    """Add the tab that moves data along named attributes."""
    known = default_attributes(
        checkpoint.class_names,
        checkpoint.property_names,
        checkpoint.evaluation,
        lambda data: _suits(checkpoint, data),
    )
    with gr.Tab("Edit", id="edit"):
        attributes = gr.State(known)
        with gr.Row():
            with gr.Column(scale=2, min_width=320):
                data = data_input(checkpoint, "Data", examples, elem_id="edit-data")
                first = next(iter(known), None)
                name = gr.Dropdown(
                    list(known), value=first, label="Attribute", elem_id="edit-attribute", interactive=True
                )
                usual = 1.5 if checkpoint.modality == "image" else 2.0
                scale = gr.Slider(
                    -4,
                    4,
                    value=usual,
                    step=0.1,
                    label="Scale",
                    info="How far along it; below 0 the other way.",
                    interactive=True,
                )
                refinement = refinement_input(checkpoint)
                invert = inversion_input(checkpoint, "Keep the input's own fine detail", value=False)
                seed = seed_input()
                start = button("Edit", "edit-run")
            with gr.Column(scale=3, min_width=320):
                headers = ["input", "scale 0", "half of the scale", "the scale"]
                result = grid_output(checkpoint, headers, "Results", "edit-result")
        _add_definition(checkpoint, attributes, name, is_open=not known)

    def run(value: Any, name: str | None, attributes: dict[str, Attribute], *values: Any) -> Any:
        items = read(checkpoint, value, "Data")
        if name not in attributes:
            raise ValueError("Choose an attribute, or define one below.")
        return show_grid(checkpoint, actions.edit(checkpoint.pipe, items, attributes[name], *values))

    on_click(start, run, [data, name, attributes, scale, refinement, invert, seed], result)


def _add_definition(checkpoint: Checkpoint, attributes: Any, chosen: Any, is_open: bool) -> None:
    """Add the part that names a new attribute, by examples or by two classes."""
    names = checkpoint.class_names
    with gr.Accordion("Define an attribute", open=is_open, elem_id="define"):
        with gr.Row():
            name = gr.Textbox(label="Name", placeholder="for example: praise", elem_id="define-name", interactive=True)
            towards = gr.Dropdown(
                names, value=None, type="index", label="Class with it", visible=bool(names), interactive=True
            )
            away = gr.Dropdown(
                names, value=None, type="index", label="Class without it", visible=bool(names), interactive=True
            )
        gr.Markdown(
            "Give examples of both sides; a dozen of each is a good start." + (" Or choose two classes." * bool(names))
        )
        with gr.Row():
            positives = data_input(checkpoint, "Examples with it", [], elem_id="define-positives")
            negatives = data_input(checkpoint, "Examples without it", [], elem_id="define-negatives")
        save = gr.Button("Save the attribute", elem_id="define-run")

    def define(attributes: dict[str, Attribute], name: str, towards: Any, away: Any, *sides: Any) -> Any:
        name = name.strip()
        if not name:
            raise ValueError("Give the attribute a name.")
        if towards is not None and away is not None:
            attribute = Attribute(classes=(towards, away))
        else:
            with_it, without_it = (
                tuple(read(checkpoint, side, label))
                for side, label in zip(sides, ("Examples with it", "Examples without it"), strict=True)
            )
            attribute = Attribute(positives=with_it, negatives=without_it)
        attributes = {**attributes, name: attribute}
        gr.Info(f"“{name}” is saved and chosen.", duration=4)
        return attributes, gr.Dropdown(choices=list(attributes), value=name)

    on_click(save, define, [attributes, name, towards, away, positives, negatives], [attributes, chosen])


def add_predict(checkpoint: Checkpoint, examples: list[Any]) -> None:
    """Add the tab that predicts properties."""
    with gr.Tab("Predict", id="predict"), gr.Row():
        with gr.Column(scale=2, min_width=320):
            data = data_input(checkpoint, "Data", examples, elem_id="predict-data")
            start = button("Predict", "predict-run")
        with gr.Column(scale=3, min_width=320):
            headers = ["datum", *checkpoint.property_names]
            table = table_output(
                headers, "Predictions", "predict-result", checkpoint.modality, [3] + [1] * (len(headers) - 1)
            )
            (download,) = csv_button()

    def run(value: Any) -> Any:
        grid = actions.predict(checkpoint.pipe, read(checkpoint, value, "Data"), checkpoint.property_names)
        return [show_table(grid), filled(write_csv(as_text(grid), "predictions"))]

    on_click(start, run, [data], [table, download])


def add_optimize(checkpoint: Checkpoint, examples: list[Any]) -> None:
    """Add the tab that changes data for a better property."""
    is_image = checkpoint.modality == "image"
    with gr.Tab("Optimize", id="optimize"), gr.Row():
        with gr.Column(scale=2, min_width=320):
            data = data_input(checkpoint, "Starts", examples, elem_id="optimize-data")
            index, choice, value = _target_inputs(checkpoint)
            method = gr.Dropdown(
                [
                    ("hill climbing", "hill_climb"),
                    ("gradient ascent", "gradient"),
                    ("guided diffusion", "guided"),
                    ("Metropolis sampling", "mcmc"),
                    ("an ODE", "ode"),
                ],
                value="hill_climb",
                label="Method",
                interactive=True,
            )
            steps = gr.Slider(1, MAX_STEPS, value=30, step=1, label="Steps", interactive=True)
            mutations = gr.Slider(
                0,
                30,
                value=3,
                step=1,
                label="Most edits",
                info="From the start; 0 for no limit.",
                visible=not is_image,
                interactive=True,
            )
            seed = seed_input()
            start = button("Optimize", "optimize-run")
        with gr.Column(scale=3, min_width=320):
            headers = ["start", "before", "best found", "after", "edits"]
            result = grid_output(checkpoint, headers, "Results", "optimize-result", [3, 1.5, 3, 1.5, 1])
            gr.Markdown(
                "These are the model's own predictions, no measurements: a search makes the most of their errors."
            )
            downloads = [] if is_image else download_buttons(checkpoint)
            figure = figure_output("The course of the search", "optimize-figure")

    def run(data: Any, index: Any, choice: str, value: Any, method: Any, steps: int, mutations: int, seed: int) -> Any:
        items = read(checkpoint, data, "Starts")
        target = actions.read_target(choice, value)
        name = checkpoint.property_names[index or 0]
        limit = 0 if is_image else mutations
        grid, drawn = actions.optimize(checkpoint.pipe, items, index or 0, name, method, target, steps, limit, seed)
        files = [] if is_image else fill_downloads(checkpoint, grid, grid.column("best found"), "optimized")
        return [show_grid(checkpoint, grid), show_figure(drawn), *files]

    inputs = [data, index, choice, value, method, steps, mutations, seed]
    on_click(start, run, inputs, [result, figure, *downloads])


def add_design(checkpoint: Checkpoint) -> None:
    """Add the tab that draws new data with a property."""
    is_image = checkpoint.modality == "image"
    with gr.Tab("Design", id="design"), gr.Row():
        with gr.Column(scale=2, min_width=320):
            number = gr.Slider(1, MAX_SAMPLES, value=16, step=1, label="Samples", interactive=True)
            index, choice, value = _target_inputs(checkpoint)
            strength = gr.Slider(
                0,
                20,
                value=5,
                step=0.5,
                label="Guidance",
                info="More is nearer to the target, and less natural.",
                interactive=True,
            )
            seed = seed_input()
            start = button("Design", "design-run")
        with gr.Column(scale=3, min_width=320):
            result = grid_output(
                checkpoint, ["sample", checkpoint.property_names[0]], "Best first", "design-result", [3, 1]
            )
            gr.Markdown("The values are the model's own predictions, no measurements.")
            downloads = [] if is_image else download_buttons(checkpoint)

    def run(number: int, index: Any, choice: str, value: Any, strength: float, seed: int) -> Any:
        name = checkpoint.property_names[index or 0]
        target = actions.read_target(choice, value)
        grid = actions.design(checkpoint.pipe, number, index or 0, name, target, strength, seed)
        files = [] if is_image else fill_downloads(checkpoint, grid, grid.column("sample"), "designed")
        return [show_grid(checkpoint, grid), *files]

    on_click(start, run, [number, index, choice, value, strength, seed], [result, *downloads])


def _target_inputs(checkpoint: Checkpoint) -> tuple[Any, Any, Any]:
    """Make the widgets that say which property is to be what."""
    names = checkpoint.property_names
    with gr.Row():
        index = gr.Dropdown(
            names, value=names[0], type="index", label="Property", visible=len(names) > 1, interactive=True
        )
        choice = gr.Radio(
            _TARGETS, value="higher", label=f"Target of {names[0]}" if len(names) == 1 else "Target", interactive=True
        )
        value = gr.Number(label="Value", visible=False, interactive=True)
    choice.change(
        lambda choice: gr.Number(visible=choice == "value"), choice, value, queue=False, api_visibility="private"
    )
    return index, choice, value


def _suits(checkpoint: Checkpoint, data: Any) -> bool:
    try:
        return bool(checkpoint.pipe.processor.as_list(list(data)))
    except (ValueError, TypeError):
        return False
