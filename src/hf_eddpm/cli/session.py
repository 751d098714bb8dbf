"""One command's checkpoint, input and output."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from ..data.raw import load_items
from ..loading import load_to_use
from .files import STANDARD, check_output, is_path, read_lines, write_images, write_table


class Session:
    """Loads a checkpoint, after making sure that the results can be written.

    Args:
        checkpoint: Folder or Hub id.
        output: File, folder, or "-".
        columns: What the results are called.
        device: Where to run; None for an accelerator if there is one.
        writes_images: Whether the results of an image model are images.
        truncation: Whether sentences that are too long are cut, rather than refused.
    """

    def __init__(
        self,
        checkpoint: str,
        output: str,
        columns: Sequence[str],
        device: str | None = None,
        writes_images: bool = True,
        truncation: bool = True,
    ):
        self.output = output
        if Path(output).suffix:  # a folder is for images alone, which only the checkpoint tells
            check_output(output, columns)
        self.pipe = load_to_use(checkpoint, device)
        self.modality = self.pipe.model.config.modality
        if not truncation:
            if self.modality != "text":
                raise ValueError(f"`--no_truncation` is for text, got a checkpoint of modality {self.modality!r}.")
            self.pipe.processor.truncation = False
        self.writes_images = writes_images and self.modality == "image"
        check_output(output, columns, self.writes_images)

    def generator(self, seed: int) -> torch.Generator:
        """Return a generator of that seed; on the CPU, so that devices draw the same."""
        return torch.Generator().manual_seed(seed)

    def noise_of_decoder(self, seed: int) -> dict[str, torch.Generator]:
        """Return what a decoder that is a chain draws from, as arguments of the pipeline; nothing for others."""
        return {} if self.pipe.decoder_scheduler is None else {"generator": self.generator(seed)}

    def read(self, sources: Sequence[str], column: str | None) -> list[Any]:
        """Read data of the checkpoint's modality from files, or from the standard input."""
        if list(sources) == [STANDARD]:
            if self.modality == "image":
                raise ValueError("`-` is for lines of text: images come from files and folders.")
            return read_lines()
        return load_items(self.pipe.processor, self.modality, sources, column)

    def read_or_take(self, source: str, column: str | None) -> list[Any]:
        """Read data from a file; what is no file is a datum itself."""
        if source == STANDARD or is_path(source) or self.modality == "image":
            return self.read([source], column)
        return [source]

    def write(self, columns: dict[str, Sequence[Any]]) -> None:
        """Write results; of an image model's columns the images alone."""
        if not self.writes_images:
            write_table(self.output, columns)
            return
        *others, images = columns.values()
        names = ["-".join(map(str, place)) for place in zip(*others, strict=True)] if others else None
        write_images(self.output, list(images), names)
