"""What several commands have in common: options, and the reading of their values."""

from typing import Annotated

import typer

Checkpoint = Annotated[str, typer.Argument(help="Folder of a saved pipeline, or its Hub id.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of what is drawn.")]
Device = Annotated[str | None, typer.Option("--device", help="cpu, cuda, mps; by default what there is.")]


def as_target(text: str) -> str | float:
    """Return what `--target` asks for: "higher", "lower", or a value.

    Raises:
        ValueError: If it is none of them.
    """
    return text if text in ("higher", "lower") else as_number(text, "--target", "'higher', 'lower' or a number")


def as_number(text: str, option: str, allowed: str) -> float:
    """Return a number.

    Args:
        text: What was given.
        option: Which option.
        allowed: What the error says that it must be.

    Raises:
        ValueError: If the text is no number.
    """
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"`{option}` must be {allowed}, got {text!r}.") from None
