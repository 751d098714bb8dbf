"""Encodes (or scores) a corpus of any size into parquet files.

    python -m hf_eddpm.bulk.encode --checkpoint model_cards/eddpm-yelp-mini --data reviews.txt.gz --output_dir out
    torchrun --nproc_per_node 8 -m hf_eddpm.bulk.encode --checkpoint user/model --data user/reviews --split train \\
        --output_dir out --part_size 100000

The data are files of one kind (.txt, .csv, .jsonl, .parquet; .gz) or a Hub data set, and are streamed: memory holds
one part at a time. Row i of the output is row i of the data; an empty datum gives nulls. A run that was killed goes on
where it was, with any number of processes. `datasets.load_dataset("parquet", data_files="out/part-*.parquet")` reads
the result.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import numpy as np
import torch
from transformers.utils import logging

from ..extras import needs_extra
from ..pipeline_eddpm import EDDPMPipeline
from ..training.arguments import parse_arguments
from .parts import make_parts, missing_here, open_output, rows_of_parts

with needs_extra("Encoding a corpus"):
    import pyarrow
    from datasets import load_dataset

logger = logging.get_logger(__name__)

BUILDERS = {".txt": "text", ".csv": "csv", ".tsv": "csv", ".jsonl": "json", ".json": "json", ".parquet": "parquet"}


@dataclass
class EncodeArguments:
    """What is encoded, and how."""

    checkpoint: str = field(metadata={"help": "Folder or Hub id of the pipeline."})
    output_dir: str = field(metadata={"help": "Where the parts go."})
    data: list[str] = field(default_factory=list, metadata={"help": "Files of one kind, or a Hub data set id."})
    split: str = field(default="train", metadata={"help": "Split of a Hub data set."})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a Hub data set."})
    column: str = field(default="text", metadata={"help": "Column of the datum."})
    task: str = field(default="encode", metadata={"help": "encode (embeddings) or score (the bound and its terms)."})
    batch_size: int = field(default=256, metadata={"help": "Data encoded at a time."})
    part_size: int = field(default=20_000, metadata={"help": "Rows of one output file."})
    num_timesteps: int = field(default=32, metadata={"help": "Timesteps of `score`."})
    seed: int = field(default=0, metadata={"help": "Seed of `score`."})
    limit: int | None = field(default=None, metadata={"help": "Rows, if not all."})
    keep_data: bool = field(default=True, metadata={"help": "Whether the datum is a column of the output."})
    sort_by_length: bool = field(default=True, metadata={"help": "Batch data of like length: less padding."})
    device: str | None = field(default=None, metadata={"help": "Device; by default this process's GPU, or the CPU."})
    dtype: str = field(default="float32", metadata={"help": "Type to compute in: float32, float16 or bfloat16."})
    compile: bool = field(default=False, metadata={"help": "torch.compile the encoder; it takes a minute at first."})
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads of torch."})

    def __post_init__(self) -> None:
        check_dtype(self.dtype)
        if not self.data:
            raise ValueError("`data` must name files or a Hub data set.")
        if self.task not in ("encode", "score"):
            raise ValueError(f"`task` must be encode or score, got {self.task!r}.")
        for name in ("batch_size", "part_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")


def main(args: Sequence[str] | None = None) -> int:
    """Encodes what is missing of this process's parts; returns how many rows that were."""
    (arguments,) = parse_arguments(EncodeArguments, args=args)
    if arguments.num_threads is not None:
        torch.set_num_threads(arguments.num_threads)
    decisive = ("checkpoint", "data", "split", "dataset_config", "column", "task", "part_size", "limit", "keep_data")
    settings = {name: getattr(arguments, name) for name in (*decisive, "dtype")}
    if arguments.task == "score":
        settings |= {"num_timesteps": arguments.num_timesteps, "seed": arguments.seed}
    folder = open_output(arguments.output_dir, settings)
    pipe = load_pipeline(arguments.checkpoint, arguments.device, arguments.dtype)
    if arguments.compile:
        pipe.model.encoder.compile(dynamic=True)
    make = Encoder(pipe, arguments)
    rows = islice(stream(arguments), arguments.limit)
    done = make_parts(folder, rows_of_parts(rows, arguments.part_size, missing_here(folder)), make)
    logger.info(f"{done} rows encoded, {make.num_empty} of them empty; the rest was there or is another process's.")
    return done


def check_dtype(name: str) -> None:
    """Refuses what is no type to compute in."""
    if name not in ("float32", "float16", "bfloat16"):
        raise ValueError(f"`dtype` must be float32, float16 or bfloat16, got {name!r}.")


def load_pipeline(checkpoint: str, device: str | None, dtype: str) -> EDDPMPipeline:
    """Loads a pipeline on this process's device."""
    if device is None:
        device = f"cuda:{os.environ.get('LOCAL_RANK', '0')}" if torch.cuda.is_available() else "cpu"
    pipe = EDDPMPipeline.from_pretrained(checkpoint, dtype=getattr(torch, dtype)).to(device)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def stream(arguments: EncodeArguments) -> Iterator[Any]:
    """Yields the data one by one.

    Raises:
        ValueError: If the files are of several kinds or the column is missing.
    """
    endings = {
        next((end for end in BUILDERS if path.removesuffix(".gz").endswith(end)), None) for path in arguments.data
    }
    if endings == {None} and len(arguments.data) == 1:
        dataset = load_dataset(arguments.data[0], arguments.dataset_config, split=arguments.split, streaming=True)
    elif len(endings) == 1 and (ending := next(iter(endings))) is not None:
        separator = {"sep": "\t"} if ending == ".tsv" else {}
        files = {"train": arguments.data}
        dataset = load_dataset(BUILDERS[ending], data_files=files, split="train", streaming=True, **separator)
    else:
        raise ValueError(
            f"`data` must be one Hub data set or files of one kind ({sorted(BUILDERS)}), got {arguments.data}."
        )
    for row in dataset:
        if arguments.column not in row:
            raise ValueError(f"`column` {arguments.column!r} is not in the data; they have {sorted(row)}.")
        yield row[arguments.column]


class Encoder:
    """Turns a part's rows into columns.

    Args:
        pipe: The pipeline.
        arguments: How.
    """

    def __init__(self, pipe: EDDPMPipeline, arguments: EncodeArguments):
        self.pipe = pipe
        self.arguments = arguments
        self.num_empty = 0

    @torch.inference_mode()
    def __call__(self, part: int, rows: list[Any]) -> dict[str, Any]:
        """Return the columns of a part, of as many rows as it has."""
        whole = [place for place, row in enumerate(rows) if row is not None and str(row).strip()]
        self.num_empty += len(rows) - len(whole)
        if self.arguments.sort_by_length:
            whole.sort(key=lambda place: len(rows[place]))
        values = self._values(part, [rows[place] for place in whole]) if whole else {}
        columns: dict[str, Any] = {
            "row": range(part * self.arguments.part_size, part * self.arguments.part_size + len(rows))
        }
        columns["row"] = pyarrow.array(columns["row"], pyarrow.int64())
        if self.arguments.keep_data:
            columns[self.arguments.column] = pyarrow.array(rows)
        return columns | {name: _column(value, whole, len(rows)) for name, value in values.items()}

    def _values(self, part: int, data: list[Any]) -> dict[str, np.ndarray]:
        batch_size = self.arguments.batch_size
        if self.arguments.task == "encode":
            embeddings = self.pipe.encode(data, batch_size).embeddings.cpu()
            return {"embedding": embeddings.numpy()}
        # A seed for each part: the same values whoever makes it, and whenever
        generator = torch.Generator().manual_seed(self.arguments.seed * 1_000_003 + part)
        score = self.pipe.score(data, self.arguments.num_timesteps, generator, batch_size)
        return {name: value.cpu().numpy() for name, value in score.items()}


def _column(values: np.ndarray, places: list[int], count: int) -> pyarrow.Array:
    """Return a column of `count` rows that has the values, `(made, ...)`, at their places and is null elsewhere."""
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


if __name__ == "__main__":
    main()
