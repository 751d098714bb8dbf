"""Sphinx's configuration. Pages that say what the code already says are written from it before each build."""

import dataclasses
import os
import re
from pathlib import Path
from typing import Any

import typer
from click import Context
from sphinx.application import Sphinx

import hf_eddpm
from hf_eddpm.cli.main import app as command_line
from hf_eddpm.training import options

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent

project = "hf_eddpm"
author = "The hf_eddpm authors"
copyright = f"2026, {author}"
version = release = hf_eddpm.__version__

extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
source_suffix = {".md": "myst-nb", ".ipynb": "myst-nb"}
exclude_patterns = ["_build", "examples", "figures", "**.ipynb_checkpoints"]
nb_execution_mode = "off"  # notebooks are stored with their output
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 3
autodoc_typehints = "none"  # the docstrings say what may be given
autodoc_class_signature = "separated"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
html_theme = "furo"
html_title = f"hf_eddpm {version}"
html_static_path = ["_static"]
html_css_files = ["narrow.css"]
# Images of measurements lie beside their data, outside this folder, and names of the Hub's models are no links.
linkcheck_ignore = [r"https://(huggingface\.co|doi\.org)/.*"]
nitpicky = False


def write(path: Path, text: str) -> None:
    """Write a page unless it says the same already, so that nothing is built for nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def cell(value: Any) -> str:
    """Return a value as a cell of a table."""
    return re.sub(r"\s+", " ", str(value)).replace("|", "\\|").replace("<", "&lt;")


def command_page() -> str:
    """Return the page of the command line: each command's own help."""
    group = typer.main.get_command(command_line)
    os.environ.setdefault("COLUMNS", "110")
    parts = ["# Command line", "`hf-eddpm COMMAND --help` prints what follows."]
    for name, command in sorted(group.commands.items()):  # type: ignore[attr-defined]
        parts += [f"## hf-eddpm {name}", cell(command.help or "").split("  ")[0]]
        rows = []
        for parameter in command.params:
            record = {
                "option": ", ".join(f"`{each}`" for each in parameter.opts),
                "default": "" if parameter.required else f"`{parameter.default}`",
                "what it is": cell(getattr(parameter, "help", "") or ""),
            }
            if "--help" not in parameter.opts:
                rows.append("| " + " | ".join(record.values()) + " |")
        if rows:
            parts.append("\n".join(["| option | default | what it is |", "| --- | --- | --- |", *rows]))
        Context(command).close()
    parts += ["# Options of training", "Besides those of transformers' `TrainingArguments`."]
    for kind in (
        options.TextDataArguments,
        options.TextModelArguments,
        options.ProteinDataArguments,
        options.ProteinModelArguments,
        options.ImageDataArguments,
        options.ImageModelArguments,
        options.LoraArguments,
        options.TrainingOptions,
        options.CardArguments,
    ):
        rows = []
        for field in dataclasses.fields(kind):
            missing = field.default is dataclasses.MISSING
            default = field.default_factory() if missing else field.default  # type: ignore[misc]
            text = cell(field.metadata.get("help", ""))
            rows.append(f"| `--{field.name}` | `{cell(default)}` | {text} |")
        name = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", kind.__name__.removesuffix("Arguments"))
        title = name.capitalize()
        parts += [f"## {title}", "\n".join(["| option | default | what it is |", "| --- | --- | --- |", *rows])]
    return "\n\n".join(parts).replace("# Options of training", "## Options of training") + "\n"


def model_pages() -> dict[str, str]:
    """Return the pages of the checkpoints: their cards."""
    cards = sorted(ROOT.glob("model_cards/*/README.md"))
    names = [card.parent.name for card in cards]
    pages = {"index": "# Models\n\nThe card of each checkpoint in `model_cards/`.\n\n```{toctree}\n:maxdepth: 1\n\n"}
    pages["index"] += "\n".join(names) + "\n```\n"
    for card, name in zip(cards, names, strict=True):
        text = card.read_text(encoding="utf-8")
        body = text.split("---\n", 2)[2].lstrip() if text.startswith("---\n") else text
        # pictures lie beside the card
        if (HERE / "gallery" / f"{name}.md").is_file():
            body = body.replace("\n## ", f"\nWhat it gives: {{doc}}`../gallery/{name}`.\n\n## ", 1)
        pages[name] = re.sub(r"\]\((?!https?:)([^)#]+\.png)\)", rf"](../../model_cards/{name}/\1)", body)
    return pages


def write_pages(_: Sphinx | None = None) -> None:
    """Write the pages that come from code and cards."""
    write(HERE / "reference" / "command-line.md", command_page())
    for name, text in model_pages().items():
        write(HERE / "models" / f"{name}.md", text)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("builder-inited", write_pages)
