"""Data for scripts that take a checkpoint of any modality."""

from collections.abc import Sequence
from dataclasses import asdict

from ..data.raw import RawData, load_raw
from ..pipeline_eddpm import EDDPMPipeline
from .options import ColumnArguments


def load_raw_data(
    pipe: EDDPMPipeline, source: Sequence[str], columns: ColumnArguments, images: bool = False
) -> RawData:
    """Reads data of the pipeline's modality.

    Args:
        pipe: The pipeline that will take them.
        source: Files (of text `file=label` too) or a Hub id.
        columns: Where in tables they are.
        images: Whether the script can take images, uint8 (height, width, channels) each.

    Raises:
        ValueError: The modality is none that the script takes.
    """
    return load_raw(pipe.processor, pipe.model.config.modality, source, **asdict(columns), images=images)
