"""What a worker does: load the pipeline once, and turn the rows of a part into its columns."""

from collections.abc import Callable, Sequence
from dataclasses import fields
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers.utils import logging

from ..extras import needs_extra
from ..loading import load_to_use
from ..modalities.image.processing import DAMAGE
from ..outputs import EDDPMScore
from ..pipeline_eddpm import EDDPMPipeline
from .jobs import BulkJob
from .parts import ERROR, ROW, SETTINGS_FILE, part_path, whole_rows, write_part
from .reading import PartReader

with needs_extra("A bulk job"):
    import pyarrow

logger = logging.get_logger(__name__)

_PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")
Values = dict[str, Any]  # columns: arrays (rows, ...), or lists


def _encode(pipe: EDDPMPipeline, data: list[Any], generator: torch.Generator, arguments: dict[str, Any]) -> Values:
    return {"embedding": pipe.encode(data, len(data), **arguments).embeddings.cpu().numpy()}


def _score(pipe: EDDPMPipeline, data: list[Any], generator: torch.Generator, arguments: dict[str, Any]) -> Values:
    score = pipe.score(data, generator=generator, batch_size=len(data), **arguments)
    return {name: value.cpu().numpy() for name, value in score.items()}


def _generate(pipe: EDDPMPipeline, data: list[Any], generator: torch.Generator, arguments: dict[str, Any]) -> Values:
    out: Any = pipe(len(data), generator=generator, **arguments)
    return {"sample": list(out.samples), "latents": out.latents.flatten(1).float().cpu().numpy()}


def _optimize(pipe: EDDPMPipeline, data: list[Any], generator: torch.Generator, arguments: dict[str, Any]) -> Values:
    result = pipe.optimize(data, generator=generator, **arguments)
    return {"sample": list(result.samples), "prediction": result.predictions.float().cpu().numpy()}


_METHODS: dict[str, Callable[..., Values]] = {
    "encode": _encode,
    "score": _score,
    "generate": _generate,
    "optimize": _optimize,
}
# Of a part without a row to work on.
_TYPES: dict[str, dict[str, Any]] = {
    "encode": {"embedding": pyarrow.list_(pyarrow.float32())},
    "score": {score.name: pyarrow.float32() for score in fields(EDDPMScore)},
    "optimize": {"sample": pyarrow.string(), "prediction": pyarrow.list_(pyarrow.float32())},
}


class PartMaker:
    """Makes parts. Each part draws from a generator of its own: it is the same whoever makes it, and whenever.

    Args:
        job: The job.
        device: Where to compute; the job's, or what there is, by default.

    Raises:
        OSError: If the checkpoint cannot be loaded.
        ValueError: If the data's column has a name that the output needs.
    """

    def __init__(self, job: BulkJob, device: str | None = None):
        self.job = job
        self.folder = Path(job.output_dir)
        self.batch_size = job.batch_size
        if job.num_threads is not None:
            torch.set_num_threads(job.num_threads)
        dtype = getattr(torch, job.dtype)
        self.pipe = load_to_use(job.checkpoint, device or job.device, dtype, packed=not job.compile)
        self.pipe.set_progress_bar_config(disable=True)
        if job.compile:
            network = self.pipe.model.encoder if job.has_data else self.pipe.model.denoiser
            network.compile(dynamic=True)
        self.reader = PartReader(job, self.pipe.model.config.modality) if job.has_data else None
        taken = {ROW, ERROR, *_TYPES.get(job.task, ())}
        if self.reader is not None and job.keep_data and self.reader.column in taken:
            raise ValueError(
                f"`column` must not be one of the output's own names, {sorted(taken)}, got {self.reader.column!r}: "
                "rename it, or leave it out by `keep_data` False."
            )

    def make(self, part: int) -> int:
        """Make a part unless it is there, whole; return its rows, 0 beyond the end of the data.

        Args:
            part: Its number.

        Raises:
            FileNotFoundError: If the output's folder is not there, as on a node that does not share it.
            MemoryError: If the memory does not suffice for a single datum.
            ValueError: If the model does not take a row, unless the job skips such rows; or if another job has begun
                the folder anew meanwhile.
        """
        settings = self.folder / SETTINGS_FILE
        if not settings.is_file():
            raise FileNotFoundError(
                f"`output_dir` {str(self.folder)!r} is not there on every node: it must lie on a file system that all "
                "share."
            )
        begun = settings.read_bytes()
        if (rows := whole_rows(part_path(self.folder, part))) is not None:
            return rows
        size = self.job.part_size
        if self.reader is None:
            assert self.job.num_samples is not None
            data: list[Any] = [None] * min(size, self.job.num_samples - part * size)
        else:
            data = self.reader.rows(part)
        if data:
            columns = self._columns(part, data)
            if settings.read_bytes() != begun:  # which is open to all until there is a part
                raise ValueError(f"`output_dir` {str(self.folder)!r} was begun anew by another job: take another.")
            write_part(self.folder, part, columns)
        return len(data)

    def _columns(self, part: int, rows: list[Any]) -> dict[str, Any]:
        first = part * self.job.part_size
        columns: dict[str, Any] = {ROW: pyarrow.array(range(first, first + len(rows)), pyarrow.int64())}
        if self.job.has_data:
            assert self.reader is not None
            reasons = self._reasons(first, rows)
            columns[ERROR] = pyarrow.array(reasons, pyarrow.string())
            if self.job.keep_data:
                kind = None if self.pipe.model.config.modality == "image" else pyarrow.string()
                columns[self.reader.column] = pyarrow.array([_stored(row) for row in rows], kind)
            places = [place for place, reason in enumerate(reasons) if reason is None]
        else:
            places = list(range(len(rows)))
        if self.job.sort_by_length:
            sizes = self.pipe.processor.sizes(rows)
            places.sort(key=lambda place: sizes[place])
        if not places:
            return columns | {name: pyarrow.nulls(len(rows), kind) for name, kind in _TYPES[self.job.task].items()}
        values = self._values(part, [rows[place] for place in places])
        if not self.job.keep_latents:
            values.pop("latents", None)
        return columns | {name: _column(value, places, len(rows)) for name, value in values.items()}

    def _reasons(self, first: int, rows: list[Any]) -> list[str | None]:
        """Return why each row is skipped, None for those that are not."""
        reasons: list[str | None] = ["empty" if _is_empty(row) else None for row in rows]
        full = [place for place, reason in enumerate(reasons) if reason is None]
        if full and self._refusal([rows[place] for place in full]) is not None:
            for place in full:
                reasons[place] = reason = self._refusal([rows[place]])
                if reason is not None and self.job.on_error == "raise":
                    raise ValueError(
                        f"Row {first + place} of the data: {reason} Mend it, or pass over such rows with `on_error` "
                        "skip."
                    )
        return reasons

    def _refusal(self, rows: list[Any]) -> str | None:
        if any(isinstance(row, bytes) for row in rows):
            return "the image is damaged, or of a format that is not known."
        try:
            self.pipe.processor.as_list(rows)
        except (TypeError, ValueError) as error:
            return str(error).replace(" at position 0", "")
        return None

    def _values(self, part: int, data: list[Any]) -> Values:
        method = _METHODS[self.job.task]
        while True:
            generator = torch.Generator().manual_seed(self.job.seed * 1_000_003 + part)
            try:
                batches = [
                    method(self.pipe, data[start : start + self.batch_size], generator, self.job.arguments)
                    for start in range(0, len(data), self.batch_size)
                ]
                return {name: _joined([batch[name] for batch in batches]) for name in batches[0]}
            except (MemoryError, torch.OutOfMemoryError) as error:
                if self.batch_size == 1:
                    raise MemoryError(
                        f"Part {part}: `batch_size` 1 needs more memory than there is: {error}"
                    ) from error
                self.batch_size = max(1, min(self.batch_size, len(data)) // 2)
            logger.warning(
                f"Part {part} needs more memory than there is: `batch_size` is {self.batch_size} from here on"
                f"{'.' if self.job.task == 'encode' else ', and other values are drawn than with the given one.'}"
            )


def _is_empty(row: Any) -> bool:
    return row is None or (isinstance(row, str) and not row.strip())


def _stored(value: Any) -> Any:
    """Return a datum as parquet holds it, an image as `datasets` does; None for one that is damaged."""
    if isinstance(value, bytes):
        return {"bytes": value, "path": None}
    if not isinstance(value, Image.Image):
        return value if value is None else str(value)
    file = BytesIO()
    try:
        image = value if value.mode in _PNG_MODES else value.convert("RGB")
        image.save(file, "PNG")
    except DAMAGE:
        return None
    return {"bytes": file.getvalue(), "path": None}


def _joined(parts: Sequence[Any]) -> Any:
    return [value for part in parts for value in part] if isinstance(parts[0], list) else np.concatenate(parts)


def _column(values: Any, places: list[int], count: int) -> Any:
    """Return a column of `count` rows that has the values, `(made, ...)`, at their places and is null elsewhere."""
    if isinstance(values, list):
        cells: list[Any] = [None] * count
        for place, value in zip(places, values, strict=True):
            cells[place] = _stored(value)
        return pyarrow.array(cells)
    rows = np.zeros((count, *values.shape[1:]), values.dtype)
    rows[places] = values
    missing = np.ones(count, dtype=bool)
    missing[places] = False
    if rows.ndim == 1:
        return pyarrow.array(rows, mask=missing)
    # Lists of any length, as null lists of a fixed one are not read back by pyarrow before 26.
    ends = np.cumsum(np.where(missing, 0, rows.shape[1]))
    offsets = pyarrow.array(np.concatenate([[0], ends]).astype(np.int32))
    kept = pyarrow.array(rows[~missing].reshape(-1))
    return pyarrow.ListArray.from_arrays(offsets, kept, mask=pyarrow.array(missing))
