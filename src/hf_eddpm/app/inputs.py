"""What visitors type or upload, as the data that a pipeline takes."""

from collections.abc import Sequence
from typing import Any

from PIL import Image

from ..modalities.image.processing import EDDPMImageProcessor, Resize
from .limits import MAX_CHARACTERS, MAX_DATA, MAX_PIXELS


def read_data(processor: Any, modality: str, value: Any, name: str) -> list[Any]:
    """Return the data in what a widget holds: lines of a text box, or images of a gallery.

    Args:
        processor: The checkpoint's processor; it says what images must measure.
        modality: "text", "protein" or "image".
        value: Text with one datum a line, or images, each alone or as a pair with its caption; None for nothing.
        name: What the visitor sees the widget called, for errors.

    Raises:
        ValueError: If there are no data, too many, or one is too long or no datum of this modality.
    """
    data: list[Any]
    if modality == "image":
        data = read_images(processor, value or [], name)
    else:
        data = read_lines(unwrapped(value or "") if modality == "protein" else value or "", name)
    if not data:
        what = "upload at least one image" if modality == "image" else "write at least one line"
        raise ValueError(f"“{name}” is empty: {what}.")
    if len(data) > MAX_DATA:
        raise ValueError(f"“{name}” may hold at most {MAX_DATA} data, got {len(data)}.")
    try:
        processor.as_list(data)
    except ValueError as error:
        raise ValueError(f"“{name}” does not suit this checkpoint. {error}") from error
    return data


def read_lines(text: str, name: str) -> list[str]:
    """Return the lines of a text that are not empty.

    Raises:
        ValueError: If one is too long.
    """
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    for number, line in enumerate(lines, start=1):
        if len(line) > MAX_CHARACTERS:
            raise ValueError(
                f"Line {number} of “{name}” has {len(line)} characters, and at most {MAX_CHARACTERS} are taken."
            )
    return lines


def unwrapped(text: str) -> str:
    """Return proteins one a line, in capitals, without gaps between residues, whether the text is FASTA or lines.

    The lines of a FASTA record belong together.
    """
    if not any(line.lstrip().startswith(">") for line in text.splitlines()):
        return "\n".join("".join(line.split()).upper() for line in text.splitlines())
    records = [""]
    for line in map(str.strip, text.splitlines()):
        if line.startswith(">"):
            records.append("")
        else:
            records[-1] += "".join(line.split()).upper()
    return "\n".join(records)


def read_images(processor: Any, images: Sequence[Any], name: str) -> list[Image.Image]:
    """Return images as the model sees them: in its size, grey if it knows no colours.

    Other sizes are stretched if the processor stretches; otherwise their middle square is taken.

    Args:
        processor: An image processor.
        images: PIL images, or pairs of one and its caption.
        name: What the visitor sees the widget called, for errors.

    Raises:
        ValueError: If something is no image, or one is too large.
    """
    fitted = []
    for number, image in enumerate(images, start=1):
        image = image[0] if isinstance(image, (list, tuple)) else image
        if not isinstance(image, Image.Image):
            raise ValueError(f"Number {number} of “{name}” is no image.")
        if max(image.size) > MAX_PIXELS:
            raise ValueError(
                f"Image {number} of “{name}” is {image.width} x {image.height}, and at most {MAX_PIXELS} pixels a "
                "side are taken."
            )
        fitted.append(image)
    resize: Resize = "crop" if processor.resize == "none" else processor.resize
    fitting = EDDPMImageProcessor(
        processor.image_size, processor.num_channels, resize, background=processor.background
    )
    return processor.postprocess(fitting(fitted)["pixel_values"]) if fitted else []
