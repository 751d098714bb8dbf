"""The tabs of every checkpoint: generate, reconstruct, interpolate, score, and the map of the latents."""

from typing import Any

import gradio as gr

from . import actions
from .actions import Grid
from .checkpoints import Checkpoint
from .downloads import write_csv, write_fasta
from .latent_map import LatentMap, decode_point, draw_map
from .limits import (
    MAX_CANDIDATES,
    MAX_MAP_SAMPLES,
    MAX_PATH,
    MAX_REFINEMENT_STEPS,
    MAX_SAMPLES,
    MAX_STEPS,
    MAX_TIMESTEPS,
)
from .widgets import (
    button,
    data_input,
    datum_input,
    figure_output,
    grid_output,
    in_sentences,
    of_model,
    on_click,
    read,
    seed_input,
    show_figure,
    show_grid,
    show_table,
    table_output,
)


def add_generate(checkpoint: Checkpoint) -> None:
    """Add the tab that draws samples."""
    pipe, config = checkpoint.pipe, checkpoint.pipe.config
    is_image = checkpoint.modality == "image"
    makes_tokens = pipe.model.decoder.decodes_tokens
    with gr.Tab("Generate", id="generate"), gr.Row():
        with gr.Column(scale=2, min_width=320):
            number = gr.Slider(1, MAX_SAMPLES, value=24 if is_image else 8, step=1, label="Samples", interactive=True)
            most = min(MAX_STEPS, pipe.model.config.num_train_timesteps)
            steps = gr.Slider(
                1, most, value=min(most, config.default_num_inference_steps), step=1, label="Steps", interactive=True
            )
            scale = gr.Slider(
                0.1,
                1.5,
                value=config.default_noise_scale,
                step=0.05,
                label="Noise scale",
                info="Below 1, samples are more typical and less varied.",
                interactive=True,
            )
            names = checkpoint.class_names
            label = gr.Dropdown(
                ["any", *names], value="any", type="index", label="Class", visible=bool(names), interactive=True
            )
            guidance = gr.Slider(
                0,
                5,
                value=2,
                step=0.1,
                label="Guidance scale",
                info="Weight of the class: more is more typical.",
                visible=bool(names),
                interactive=True,
            )
            candidates = gr.Slider(
                1,
                MAX_CANDIDATES,
                value=4 if makes_tokens else 1,
                step=1,
                label="Candidates",
                info="As many are drawn for each sample; the one that the model is surest of is kept.",
                visible=makes_tokens,
                interactive=True,
            )
            seed = seed_input()
            start = button("Generate", "generate-run")
        with gr.Column(scale=3, min_width=320):
            if is_image:
                result: Any = gr.Gallery(
                    label="Samples",
                    show_label=False,
                    columns=6,
                    height="auto",
                    format="png",
                    object_fit="contain",
                    interactive=False,
                    elem_id="generate-result",
                    elem_classes="pixels",
                )
            else:
                result = table_output(["sample"], "Samples", "generate-result", checkpoint.modality)
            downloads = _download_buttons(checkpoint)

    def run(*values: Any) -> Any:
        number, steps, scale, label, guidance, candidates, seed = values
        class_label = label - 1 if label else None
        samples = actions.generate(pipe, number, steps, scale, class_label, guidance, candidates, seed)
        if is_image:
            return samples
        grid = Grid(["sample"], [[sample] for sample in samples])
        return [show_table(grid), *fill_downloads(checkpoint, grid, samples, "samples")]

    on_click(start, run, [number, steps, scale, label, guidance, candidates, seed], [result, *downloads])


def add_reconstruct(checkpoint: Checkpoint, examples: list[Any]) -> None:
    """Add the tab that encodes data and decodes them again."""
    pipe = checkpoint.pipe
    with gr.Tab("Reconstruct", id="reconstruct"), gr.Row():
        with gr.Column(scale=2, min_width=320):
            data = data_input(checkpoint, "Data", examples, elem_id="reconstruct-data")
            steps = refinement_input(checkpoint)
            invert = inversion_input(checkpoint, "Also decode from the image's own noise", value=True)
            seed = seed_input()
            start = button("Reconstruct", "reconstruct-run")
        with gr.Column(scale=3, min_width=320):
            result = grid_output(checkpoint, ["input", "reconstruction", "refined"], "Results", "reconstruct-result")

    def run(value: Any, steps: int, invert: bool, seed: int) -> Any:
        items = read(checkpoint, value, "Data")
        return show_grid(checkpoint, actions.reconstruct(pipe, items, steps, invert, seed))

    on_click(start, run, [data, steps, invert, seed], result)


def add_interpolate(checkpoint: Checkpoint, examples: list[Any]) -> None:
    """Add the tab that walks from one datum to another."""
    with gr.Tab("Interpolate", id="interpolate"), gr.Row():
        with gr.Column(scale=2, min_width=320):
            with gr.Row():
                first = datum_input(checkpoint, "From", examples[0], "interpolate-from")
                last = datum_input(checkpoint, "To", examples[min(1, len(examples) - 1)], "interpolate-to")
            points = gr.Slider(
                2, MAX_PATH, value=7, step=1, label="Points", info="Both ends are counted.", interactive=True
            )
            space = gr.Radio(
                [("their latents", "latents"), ("the noise they come from", "noise")],
                value="noise" if checkpoint.modality == "image" else "latents",
                label="Way through",
                interactive=True,
            )
            invert = inversion_input(checkpoint, "Keep the ends exactly as they are", value=True)
            seed = seed_input()
            start = button("Interpolate", "interpolate-run")
        with gr.Column(scale=3, min_width=320):
            result = grid_output(checkpoint, ["way", "path"], "Path", "interpolate-result", [1, 6])

    def run(first: Any, last: Any, points: int, space: Any, invert: bool, seed: int) -> Any:
        sides = read(checkpoint, first, "From"), read(checkpoint, last, "To")
        if any(len(side) > 1 for side in sides):
            raise ValueError("“From” and “To” hold a single datum each.")
        (path,) = actions.interpolate(checkpoint.pipe, *sides, points, space, invert, seed)
        shares = [f"{place / (points - 1):.0%}" for place in range(points)]
        return show_grid(checkpoint, Grid(["way", "path"], [list(row) for row in zip(shares, path, strict=True)]))

    on_click(start, run, [first, last, points, space, invert, seed], result)


def add_score(checkpoint: Checkpoint, examples: list[Any]) -> None:
    """Add the tab that bounds how likely data are."""
    with gr.Tab("Score", id="score"), gr.Row():
        with gr.Column(scale=2, min_width=320):
            gr.Markdown("How strange are data to the model? The bound is on −log p; the higher, the stranger.")
            data = data_input(checkpoint, "Data", examples, elem_id="score-data")
            steps = gr.Slider(
                1,
                MAX_TIMESTEPS,
                value=32,
                step=1,
                label="Timesteps",
                info="Drawn for each datum; more are more exact.",
                interactive=True,
            )
            seed = seed_input()
            start = button("Score", "score-run")
        with gr.Column(scale=3, min_width=320):
            headers = ["datum", "bits per unit", "bound, nats", "of it, reconstruction"]
            table = table_output(headers, "Scores", "score-result", checkpoint.modality, [2, 1, 1, 1.4])
            figure = figure_output("Scores beside those of samples", "score-figure")
            (download,) = csv_button()

    def run(value: Any, steps: int, seed: int) -> Any:
        grid, drawn = actions.score(checkpoint.pipe, read(checkpoint, value, "Data"), steps, seed)
        return [show_table(grid), show_figure(drawn), filled(write_csv(as_text(grid), "scores"))]

    on_click(start, run, [data, steps, seed], [table, figure, download])


def add_map(checkpoint: Checkpoint, examples: list[Any]) -> None:
    """Add the tab that shows the latents; a click decodes the nearest point."""
    is_image = checkpoint.modality == "image"
    with gr.Tab("Latent map", id="map"), gr.Row():
        with gr.Column(scale=2, min_width=320):
            data = data_input(checkpoint, "Data among the samples (may be empty)", examples, elem_id="map-data")
            number = gr.Slider(3, MAX_MAP_SAMPLES, value=400, step=1, label="Samples", interactive=True)
            seed = seed_input()
            start = button("Draw the map", "map-run")
        with gr.Column(scale=3, min_width=320):
            gr.Markdown("The plane in which the latents vary most. **Click a point to decode it.**")
            picture = figure_output("Latents", "map-result")
            if is_image:
                decoded: Any = gr.Image(
                    label="Decoded",
                    format="png",
                    height=180,
                    interactive=False,
                    elem_id="map-decoded",
                    elem_classes="pixels",
                )
            else:
                classes = "sequences" if checkpoint.modality == "protein" else None
                decoded = gr.Textbox(
                    label="Decoded", interactive=False, lines=2, elem_id="map-decoded", elem_classes=classes
                )
            chosen = gr.Markdown(elem_id="map-chosen")
            state = gr.State()

    def draw(value: Any, number: int, seed: int) -> Any:
        given = read(checkpoint, value, "Data") if value else []
        drawn = draw_map(checkpoint.pipe, given, checkpoint.class_names, number, seed)
        return [drawn.image, drawn, None, ""]

    def decode(drawn: LatentMap | None, event: gr.SelectData) -> Any:
        if drawn is None:
            raise gr.Error("Draw the map first.")
        point = drawn.nearest(*event.index)
        datum = in_sentences(decode_point, checkpoint.pipe, drawn, point)
        words = f"This is {drawn.names[point]}."
        if point < len(drawn.data) and not is_image:
            words += f" It was given as: `{drawn.data[point]}`"
        return [drawn.with_ring(point), datum, words]

    on_click(start, draw, [data, number, seed], [picture, state, decoded, chosen])
    picture.select(decode, state, [picture, decoded, chosen], show_progress="minimal", **of_model())


def refinement_input(checkpoint: Checkpoint) -> Any:
    """Make the slider for the steps that refine latents."""
    return gr.Slider(
        0,
        MAX_REFINEMENT_STEPS,
        value=10 if checkpoint.modality == "text" else 0,
        step=1,
        label="Refinement steps",
        info="Gradient steps that move the latents to where the data are decoded better.",
        interactive=True,
    )


def inversion_input(checkpoint: Checkpoint, label: str, value: bool) -> Any:
    """Make the box for the inversion of a decoder that is a chain; other decoders have nothing to invert."""
    can_invert = checkpoint.pipe.decoder_scheduler is not None
    return gr.Checkbox(value and can_invert, label=label, visible=can_invert, interactive=True)


def csv_button() -> list[Any]:
    """Make the button that downloads a table, at first without one."""
    return [gr.DownloadButton("Download CSV", size="sm", interactive=False)]


def _download_buttons(checkpoint: Checkpoint) -> list[Any]:
    return [] if checkpoint.modality == "image" else download_buttons(checkpoint)


def download_buttons(checkpoint: Checkpoint) -> list[Any]:
    """Make the buttons that download results: a table, and FASTA for proteins."""
    with gr.Row():
        buttons = csv_button()
        if checkpoint.modality == "protein":
            buttons.append(gr.DownloadButton("Download FASTA", size="sm", interactive=False))
    return buttons


def fill_downloads(checkpoint: Checkpoint, grid: Grid, data: list[Any], name: str) -> list[Any]:
    """Return the values of `download_buttons`."""
    files = [write_csv(as_text(grid), name)]
    if checkpoint.modality == "protein":
        files.append(write_fasta(data, name))
    return list(map(filled, files))


def filled(path: str) -> Any:
    """Return a download button's value: a file, and that it can be clicked."""
    return gr.DownloadButton(value=path, interactive=True)


def as_text(grid: Grid) -> Grid:
    """Return a grid whose images are their numbers."""
    return Grid(grid.headers, show_table(grid)["data"])
