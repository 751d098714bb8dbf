"""What a bulk job is: which data, what is made of them, and in what parts."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from itertools import count
from typing import Any

from ..argument_checks import check_count
from .contents import contents_of

TASKS = ("encode", "score", "generate", "optimize")
DTYPES = ("float32", "float16", "bfloat16")
ON_ERROR = ("raise", "skip")

# Fields that change how fast the result comes, or where, and not what it is.
_INDIFFERENT = ("output_dir", "device", "compile", "num_threads", "on_error")


@dataclass
class BulkJob:
    """A bulk job. Row i of its output is row i of the data, or sample i.

    Args:
        task: "encode" (embeddings), "score" (the bound and its terms), "generate" or "optimize".
        checkpoint: Folder or Hub id of the pipeline.
        output_dir: Folder of the parts; of a cluster's nodes all must see it.
        data: Files of one kind (.txt, .csv, .tsv, .jsonl, .parquet; all but .parquet also .gz), or one Hub data set.
            None for "generate".
        column: Column of the datum; "text", "sequence" or "image" by default, as the checkpoint's modality is.
        split: Split of a Hub data set.
        dataset_config: Configuration of a Hub data set.
        limit: How many rows of the data, at least 1; all by default.
        num_samples: How many samples "generate" makes, at least 1.
        arguments: Further arguments of the pipeline's method, JSON values: `{"num_timesteps": 8}` for "score".
        batch_size: Data that go through the model at a time, at least 1.
        part_size: Rows of a part, at least 1: what is lost at most, for each worker, when a run is killed.
        seed: Each part's generator is seeded with it and the part's number.
        on_error: "raise" ends the job at a row that the model does not take; "skip" leaves its results null and lists
            it in `skipped.jsonl`. Empty rows are always skipped and listed.
        keep_data: Whether the datum is a column of the output.
        keep_latents: Whether the latents of samples are one.
        sort_by_length: Whether sentences of like length go into a batch, which takes less padding.
        device: "cpu", "cuda", "cuda:1", "mps"; by default what there is.
        dtype: Type to compute in: "float32", "float16" or "bfloat16".
        compile: Whether to compile the network that does most of the work; it takes a minute at first.
        num_threads: CPU threads of a worker, at least 1.

    Raises:
        ValueError: If a value is outside its range, or there are data or samples where there must be none.
    """

    task: str
    checkpoint: str
    output_dir: str
    data: Sequence[str] = ()
    column: str | None = None
    split: str = "train"
    dataset_config: str | None = None
    limit: int | None = None
    num_samples: int | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 256
    part_size: int = 10_000
    seed: int = 0
    on_error: str = "raise"
    keep_data: bool = True
    keep_latents: bool = False
    sort_by_length: bool = True
    device: str | None = None
    dtype: str = "float32"
    compile: bool = False
    num_threads: int | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("task", TASKS), ("dtype", DTYPES), ("on_error", ON_ERROR)):
            if (value := getattr(self, name)) not in allowed:
                raise ValueError(f"`{name}` must be one of {', '.join(allowed)}, got {value!r}.")
        for name in ("batch_size", "part_size"):
            check_count(getattr(self, name), name)
        for name in ("limit", "num_samples", "num_threads"):
            if (value := getattr(self, name)) is not None:
                check_count(value, name)
        check_count(self.seed, "seed", minimum=0)
        self.data = [self.data] if isinstance(self.data, str) else list(self.data)
        if self.has_data and not self.data:
            raise ValueError(f"`data` must name files or a Hub data set for {self.task!r}.")
        if not self.has_data and (self.data or self.num_samples is None):
            raise ValueError(
                f"{self.task!r} takes `num_samples` and no `data`, got {self.num_samples} and {self.data}."
            )

    @property
    def has_data(self) -> bool:
        """Whether the job works on data; "generate" does not."""
        return self.task != "generate"

    def part_numbers(self) -> Iterable[int]:
        """Return the numbers of the parts up to `num_samples` or `limit`; without an end where there is neither."""
        total = self.num_samples or self.limit
        return count() if total is None else range(-(-total // self.part_size))

    def settings(self) -> dict[str, Any]:
        """Return what decides the content of the parts, as JSON values: parts of other settings are not mixed.

        `contents` holds digests of local data and of a local checkpoint.
        """
        values = {name: value for name, value in asdict(self).items() if name not in _INDIFFERENT}
        if self.task == "encode":  # draws nothing: the batch only changes the rounding
            for name in ("batch_size", "sort_by_length", "seed"):
                del values[name]
        values["contents"] = contents_of(self.data, self.checkpoint)
        return values
