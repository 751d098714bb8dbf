"""The rows of a job's data, part by part, as `datasets` streams them."""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from ..data.tables import open_parquet
from ..extras import needs_extra
from ..modalities.image.processing import DAMAGE
from .jobs import BulkJob

with needs_extra("A bulk job on data"):
    from datasets import load_dataset

BUILDERS = {".txt": "text", ".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}
COLUMNS = {"text": "text", "protein": "sequence", "image": "image"}  # by modality


def ending_of(job: BulkJob) -> str | None:
    """Return the ending that a job's files share, or None for a Hub data set.

    Raises:
        ValueError: If the files are of several kinds.
    """
    endings = {next((end for end in BUILDERS if path.removesuffix(".gz").endswith(end)), None) for path in job.data}
    if len(endings) == 1 and (None not in endings or len(job.data) == 1):
        return next(iter(endings))
    raise ValueError(f"`data` must be one Hub data set or files of one kind ({sorted(BUILDERS)}), got {job.data}.")


def count_rows(job: BulkJob) -> int:
    """Return how many rows a job has: from what is known of the data, or by reading them once.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If the data cannot be read or have no rows.
    """
    if job.num_samples is not None:
        return job.num_samples
    if ending_of(job) == ".parquet" and all(Path(path).is_file() for path in job.data):
        total = sum(open_parquet(Path(path)).metadata.num_rows for path in job.data)
    else:
        dataset = _stream(job)
        split = None if ending_of(job) else (dataset.info.splits or {}).get(job.split)
        total = split.num_examples if split and split.num_examples else sum(map(len, dataset.iter(2**16)))
    if not total:
        raise no_rows(job)
    return total if job.limit is None else min(total, job.limit)


def no_rows(job: BulkJob) -> ValueError:
    """Return the error that a job's data are empty."""
    return ValueError(f"`data` must have rows, got none in {job.data}.")


class PartReader:
    """Reads parts in rising order of their numbers in one pass over the data; a lower number begins another pass.

    Args:
        job: The job.
        modality: The checkpoint's.
    """

    def __init__(self, job: BulkJob, modality: str):
        self.job = job
        if job.column is not None or ending_of(job) != ".txt":
            self.column = job.column or COLUMNS[modality]
        else:
            self.column = "text"  # what `datasets` calls the lines of a file
        self._begin()

    def _begin(self) -> None:
        self._tables: Iterator[Any] = _stream(self.job).iter(self.job.part_size)
        self._next = 0

    def rows(self, part: int) -> list[Any]:
        """Return the rows of a part: none beyond the end.

        Raises:
            ValueError: If the column is missing, or a file is damaged.
        """
        if part < self._next:
            self._begin()
        table = None
        while self._next <= part:
            self._next += 1
            if (table := next(self._tables, None)) is None:
                return []
        assert table is not None
        if self.column not in table.column_names:
            raise ValueError(f"`column` {self.column!r} is not in the data; they have {sorted(table.column_names)}.")
        return [_decoded(value) for value in table[self.column].to_pylist()]


def _stream(job: BulkJob) -> Any:
    if (ending := ending_of(job)) is None:
        dataset = load_dataset(job.data[0], job.dataset_config, split=job.split, streaming=True)
    else:
        options: dict[str, Any] = {}
        if BUILDERS[ending] == "csv":  # pandas takes the words NA and null for nothing
            options = {"sep": "\t" if ending == ".tsv" else ",", "keep_default_na": False}
        files = {"train": list(job.data)}
        dataset = load_dataset(BUILDERS[ending], data_files=files, split="train", streaming=True, **options)
    dataset = dataset.with_format("arrow")
    return dataset if job.limit is None else dataset.take(job.limit)


def _decoded(value: Any) -> Any:
    """Return a datum: an image is stored as a file's bytes, which come back where they are no image."""
    if not isinstance(value, dict) or value.keys() != {"bytes", "path"}:
        return value
    content, path = value["bytes"], value["path"]
    if content is None and path is None:
        return None
    try:
        return Image.open(path if content is None else BytesIO(content))
    except DAMAGE:
        return content or b""
