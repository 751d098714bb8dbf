"""Runs bulk jobs: in this process, or on a Ray cluster."""

from collections.abc import Iterator
from typing import Any

from tqdm import tqdm
from transformers.utils import logging

from ..argument_checks import check_count
from .jobs import BulkJob
from .making import PartMaker
from .parts import SKIPPED_FILE, is_whole, list_skipped, open_output, remove_leftovers
from .reading import count_rows, ending_of, no_rows

logger = logging.get_logger(__name__)

ENGINES = ("local", "ray")


def run_bulk(job: BulkJob, engine: str = "local", address: str | None = None, num_workers: int | None = None) -> int:
    """Make what is missing of a job's parts, and list the rows that were skipped.

    Run it again after a kill, with the same or another engine: it goes on where it was.

    Args:
        job: The job.
        engine: "local" (this process) or "ray" (Ray Data, extra `ray`).
        address: For "ray": "auto" for the cluster that this machine is a node of, or "host:port" of its head; by
            default Ray is started on this machine, for all of its GPUs or CPUs.
        num_workers: For "ray": workers at most, at least 1; by default one for each GPU, or CPU where there is none.

    Returns:
        How many rows were made.

    Raises:
        ConnectionError: If the cluster does not answer.
        FileNotFoundError: If data are missing.
        ImportError: If the engine is not installed.
        MemoryError: If a single datum needs more memory than there is.
        RuntimeError: If a part lost its worker too often.
        ValueError: If an argument is outside its range, the data have no rows, the folder holds parts of another job
            or of other content of its files, or the model does not take a row.
    """
    if engine not in ENGINES:
        raise ValueError(f"`engine` must be one of {', '.join(ENGINES)}, got {engine!r}.")
    for name, value in (("address", address), ("num_workers", num_workers)):
        if value is not None and engine != "ray":
            raise ValueError(f"`{name}` needs `engine` ray beside it, got {value!r} and {engine!r}.")
    if num_workers is not None:
        check_count(num_workers, "num_workers")
    if job.has_data:
        ending_of(job)
    done = 0
    with tqdm(total=job.num_samples or job.limit, unit=" rows") as bar:
        for rows in _on_ray(job, address, num_workers, bar) if engine == "ray" else _here(job):
            done += rows
            bar.update(rows)
    folder = open_output(job.output_dir, job.settings())
    remove_leftovers(folder)
    skipped = list_skipped(folder) if job.has_data else 0
    logger.info(f"{done} rows made; the rest was there.")
    if skipped:
        logger.warning(f"{skipped} rows have no results: {folder / SKIPPED_FILE} says why.")
    return done


def _here(job: BulkJob) -> Iterator[int]:
    folder = open_output(job.output_dir, job.settings())
    maker = PartMaker(job)
    for part in job.part_numbers():
        if not is_whole(folder, part):
            rows = maker.make(part)
            if not rows and not part:
                raise no_rows(job)
            if not rows:
                return
            yield rows


def _on_ray(job: BulkJob, address: str | None, num_workers: int | None, bar: Any) -> Iterator[int]:
    from . import ray_engine

    with ray_engine.connected(address):
        total = count_rows(job)
        folder = open_output(job.output_dir, job.settings())
        parts = [part for part in range(-(-total // job.part_size)) if not is_whole(folder, part)]
        bar.reset(sum(min(job.part_size, total - part * job.part_size) for part in parts))
        if parts:
            yield from ray_engine.make_parts(job, parts, num_workers)
