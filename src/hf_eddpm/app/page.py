"""The page: a box for the checkpoint on top, and below it a tab for everything that it can do."""

import os
from typing import Any

os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")  # before gradio is imported: it would ask the network

import gradio as gr  # noqa: E402

from .checkpoints import Checkpoint, Checkpoints, Sources  # noqa: E402
from .examples import example_data, well_known  # noqa: E402
from .limits import MAX_AT_ONCE, MAX_UPLOAD, MAX_WAITING  # noqa: E402
from .tabs_control import add_design, add_edit, add_optimize, add_predict  # noqa: E402
from .tabs_data import add_generate, add_interpolate, add_map, add_reconstruct, add_score  # noqa: E402
from .widgets import in_sentences  # noqa: E402

_KINDS = {"text": "sentences", "protein": "proteins", "image": "images"}
_CSS = """
.pixels img { image-rendering: pixelated; }
.pixels .image-frame img { width: 100%; height: 100%; object-fit: contain; }
.pixels .grid-wrap { padding-top: 2rem; }
.words [role=grid] *, .sequences [role=columnheader] * { font-family: var(--font); }
.sequences textarea, .sequences [role=gridcell] * { font-family: var(--font-mono); overflow-wrap: anywhere; }
footer { display: none !important; }
@media (max-width: 640px) { .pixels .grid-container { grid-template-columns: repeat(4, minmax(0, 1fr)) !important; } }
"""


def build_page(checkpoint: str | None = None, device: str | None = None, sources: Sources = "all") -> gr.Blocks:
    """Build the page.

    Args:
        checkpoint: Folder or Hub id that is shown at first; None for none.
        device: Where models run; None for an accelerator if there is one.
        sources: What visitors may load besides: "all", "hub" (Hub ids, no folder of this machine) or "none".

    Raises:
        OSError: If the checkpoint cannot be loaded.
        ValueError: If there is neither a checkpoint nor a way to load one.
    """
    if checkpoint is None and sources == "none":
        raise ValueError("`checkpoint` must be given where `sources` is 'none': there would be nothing to see.")
    checkpoints = Checkpoints(device, sources)
    if checkpoint is not None:
        checkpoints.get(checkpoint)  # now, so that an error ends the command
    with gr.Blocks(title="EDDPM", analytics_enabled=False, delete_cache=(3600, 3600)) as page:
        gr.Markdown("# Encoder-decoder diffusion\nOne model that generates, reconstructs, represents and edits data.")
        loaded = gr.State(checkpoint)
        with gr.Row(visible=sources != "none", equal_height=True):
            name = gr.Textbox(
                value=checkpoint,
                show_label=False,
                placeholder="Checkpoint: user/repo on the Hub" + (", or a folder" if sources == "all" else ""),
                container=False,
                scale=5,
                max_lines=1,
                elem_id="checkpoint",
            )
            button = gr.Button("Load", scale=0, min_width=120, elem_id="load")

        @gr.render(inputs=loaded)
        def show(loaded: str | None) -> None:
            if loaded is None:
                gr.Markdown("Load a checkpoint to begin.")
            else:
                add_tabs(in_sentences(checkpoints.get, loaded))

        def load(name: str) -> str:
            return in_sentences(checkpoints.ask, name).name

        for event in (button.click, name.submit):
            event(load, name, loaded, api_visibility="private", concurrency_limit=1)
    page.queue(max_size=MAX_WAITING, default_concurrency_limit=MAX_AT_ONCE, api_open=False)
    return page


def add_tabs(checkpoint: Checkpoint) -> None:
    """Add a line about a checkpoint and the tabs of what it can do."""
    gr.Markdown(describe(checkpoint), elem_id="summary")
    examples = example_data(checkpoint.pipe, checkpoint.training, checkpoint.evaluation)
    known = well_known(examples, checkpoint.evaluation)
    with gr.Tabs(selected="generate", key=checkpoint.name):
        add_generate(checkpoint)
        add_reconstruct(checkpoint, examples)
        add_interpolate(checkpoint, known)
        add_edit(checkpoint, known)
        if checkpoint.property_names:
            add_predict(checkpoint, examples)
            add_optimize(checkpoint, examples)
            add_design(checkpoint)
        add_map(checkpoint, examples)
        add_score(checkpoint, examples)


def describe(checkpoint: Checkpoint) -> str:
    """Return a line that says what a checkpoint is."""
    config = checkpoint.pipe.model.config
    card = checkpoint.training.get("card") or {}
    parts = [
        f"**{card.get('card_name') or checkpoint.name}** knows {_KINDS.get(checkpoint.modality, checkpoint.modality)}"
        + (f" ({card['data_name']})" if card.get("data_name") else ""),
        f"{checkpoint.pipe.model.num_parameters() / 1e6:.1f} million parameters",
        f"{config.num_latents} × {config.latent_dim} latents",
    ]
    if checkpoint.class_names:
        parts.append(f"{len(checkpoint.class_names)} classes")
    if checkpoint.property_names:
        parts.append(f"predicts {', '.join(checkpoint.property_names)}")
    return " · ".join(parts)


def serve(page: gr.Blocks, host: str | None = None, port: int | None = None, **launch_arguments: Any) -> Any:
    """Serve a page built by `build_page`; nothing on it comes from another machine.

    Args:
        page: The page.
        host: Address to listen on; this machine alone by default.
        port: Port; by default the first free one from 7860 on.
        **launch_arguments: For `gradio.Blocks.launch`.

    Returns:
        What `launch` returns.
    """
    theme = gr.themes.Default(
        primary_hue="teal",
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
        radius_size=gr.themes.sizes.radius_sm,
    )
    return page.launch(
        server_name=host,
        server_port=port,
        share=False,
        theme=theme,
        css=_CSS,
        max_file_size=MAX_UPLOAD,
        footer_links=[],
        ssr_mode=False,
        **launch_arguments,
    )
