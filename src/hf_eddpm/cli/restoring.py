"""The command `restore`: images from masked, small, blurred or grey ones."""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from .options import Checkpoint, Device, Seed

Kind = Literal["mask", "downsample", "blur", "grey"]


def restore(
    checkpoint: Checkpoint,
    data: Annotated[list[str], typer.Argument(help="The measured images: files, or folders of them.")],
    kind: Annotated[Kind, typer.Option("--operator", help="What was measured.")],
    output: Annotated[str, typer.Option("--output", "-o", help="Folder or .npz file.")],
    mask: Annotated[str | None, typer.Option("--mask", help="Picture, white where images are known.")] = None,
    factor: Annotated[int, typer.Option("--factor", help="Side of averaged squares.")] = 2,
    std: Annotated[float, typer.Option("--std", help="Of the blur, in pixels.")] = 1.5,
    noise_level: Annotated[float, typer.Option("--noise_level", help="Noise in the data, in [0, 1].")] = 0.0,
    num_samples: Annotated[int, typer.Option("--num_samples", "-n", help="Images for each measurement.")] = 1,
    num_inference_steps: Annotated[int, typer.Option("--num_inference_steps", help="Steps of the chain.")] = 100,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Fill in, enlarge, sharpen or colour images."""
    from ..control.operators import Blur, Downsample, Grey, Mask
    from .session import Session

    if (mask is None) == (kind == "mask"):
        raise ValueError("`--mask` belongs to `--operator mask`: give both or neither.")
    session = Session(checkpoint, output, ["image"], device)
    if session.modality != "image":
        raise ValueError(f"`restore` is for checkpoints of images, got the modality {session.modality!r}.")
    operator: Any
    if kind == "mask":
        assert mask is not None
        operator = Mask(session.pipe.processor.levels(_opened(Path(mask)), 1, "`--mask`") > 127)
    else:
        operator = {"downsample": lambda: Downsample(factor), "blur": lambda: Blur(std), "grey": Grey}[kind]()
    result = session.pipe.restore(
        _read(data, session.pipe.processor, 1 if kind == "grey" else session.pipe.processor.num_channels),
        operator,
        noise_level=noise_level,
        num_samples=num_samples,
        num_inference_steps=num_inference_steps,
        generator=session.generator(seed),
    )
    session.write({"image": result.samples})


def _read(sources: list[str], processor: Any, num_channels: int) -> list[Any]:
    """Return the pictures of files and folders, sorted within a folder, as arrays of that many channels."""
    from ..modalities.image.files import pictures_in

    paths: list[Path] = []
    for source in map(Path, sources):
        paths += pictures_in(source) if source.is_dir() else [source]
    return [processor.levels(_opened(path), num_channels, repr(str(path))) for path in paths]


def _opened(path: Path) -> Any:
    from ..modalities.image.data import open_image
    from ..modalities.image.processing import DAMAGE

    if not path.is_file():
        raise FileNotFoundError(f"There is no file {str(path)!r}.")
    try:
        return open_image(path)[0]
    except DAMAGE as error:
        raise ValueError(f"{str(path)!r} is damaged or no image ({error}).") from error
