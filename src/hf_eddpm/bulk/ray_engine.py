"""A bulk job on a Ray cluster: Ray Data hands the numbers of missing parts to a pool of workers.

A worker is an actor that loads the pipeline once. It reads the rows of a part where they lie, computes, and writes the
part where it belongs, so that nothing large passes through the driver or the object store. Where a worker or a node is
lost, Ray Data hands its parts out anew.
"""

import builtins
import logging
import socket
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..extras import needs_extra
from .jobs import BulkJob
from .making import PartMaker

with needs_extra("`engine` ray", "ray"):
    import ray
    from ray import data as ray_data
    from ray import exceptions

CONNECT_TIMEOUT = 40  # seconds for a cluster to answer; a healthy one takes a few
LOSSES = 5  # times that a part may lose its worker, by a lack of memory or of a node
_TRIES = ".tries-"  # files of the output's folder as long as the tries of a part: Ray tries without an end
_MOST_BLOCKS = 2000  # of the list of parts: each costs the driver a millisecond


class Worker:
    """Makes parts, in rising order of their numbers, on one node.

    Args:
        job: The job.
        device: Where to compute.
    """

    def __init__(self, job: BulkJob, device: str | None):
        self.job, self.device = job, device
        self.maker: PartMaker | None = None

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, list[Any]]]:
        """Make parts; yield the number of rows of each once it is written, or the error that ends the job."""
        for part in batch["part"]:
            try:
                yield {"rows": [self._make(int(part))], "error": [""]}
            except Exception as error:  # told as data: the engine would add its own words to an exception
                if not isinstance(error, (ValueError, OSError, MemoryError)):
                    logging.getLogger(__name__).exception(f"Part {part}")
                kind = next(each.__name__ for each in type(error).__mro__ if each.__module__ == "builtins")
                yield {"rows": [0], "error": [f"{kind}:{error}"]}
                return

    def _make(self, part: int) -> int:
        tries = Path(self.job.output_dir) / f"{_TRIES}{part}"
        if tries.parent.is_dir():
            with tries.open("a") as file:
                file.write(".")
            if tries.stat().st_size > LOSSES + 1:
                raise RuntimeError(
                    f"Part {part} lost its worker {LOSSES + 1} times, as one that needs more memory than its node has "
                    "does: lower `batch_size` or `part_size`."
                )
        if self.maker is None:
            self.maker = PartMaker(self.job, self.device)
        rows = self.maker.make(part)
        tries.unlink(missing_ok=True)
        return rows


@contextmanager
def connected(address: str | None) -> Iterator[None]:
    """Within, be connected to a cluster; one that was connected to before stays so.

    Args:
        address: "auto" for the cluster that this machine is a node of, "host:port" of its head; None starts Ray on
            this machine alone.

    Raises:
        ConnectionError: If there is no cluster, or it does not answer in time.
        ValueError: If the address has another form.
    """
    if ray.is_initialized():
        yield
        return
    if address is not None:
        _check_answers(address)
    start: dict[str, Any] = (
        {"address": "local", "include_dashboard": False} if address is None else {"address": address}
    )
    ray.init(**start, logging_level=logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()


def _check_answers(address: str) -> None:
    """Connect in another process first: where no cluster answers, Ray waits for minutes and then ends the process."""
    host, _, port = address.rpartition(":")
    if address != "auto" and (not host or not port.isdigit() or "/" in host):
        raise ValueError(
            f"`address` must be 'auto' or 'host:port' of a cluster that this machine is a node of, got {address!r}; "
            "from elsewhere use `ray job submit`."
        )
    command = [sys.executable, "-c", "import sys, ray; ray.init(address=sys.argv[1])", address]
    try:
        if address != "auto":  # which is known at once where nothing listens
            socket.create_connection((host, int(port)), CONNECT_TIMEOUT / 4).close()
        result = subprocess.run(command, capture_output=True, text=True, timeout=CONNECT_TIMEOUT)
    except (subprocess.TimeoutExpired, TimeoutError):
        reason = f"nothing for {CONNECT_TIMEOUT} seconds"
    except (OSError, OverflowError) as error:
        reason = str(error)
    else:
        if result.returncode == 0:
            return
        reason = next(reversed(result.stderr.strip().splitlines()), f"exit code {result.returncode}").rstrip(".")
    raise ConnectionError(
        f"`address` {address!r} does not answer as a Ray cluster: {reason}. `ray status` on its head says whether it "
        "is up."
    )


def _with_whole_paths(job: BulkJob) -> BulkJob:
    """Return the job as a process in another folder understands it; what is not there is a Hub id or a pattern."""
    checkpoint, *data = [
        str(Path(name).absolute()) if Path(name).exists() else name for name in (job.checkpoint, *job.data)
    ]
    return replace(job, checkpoint=checkpoint, data=data, output_dir=str(Path(job.output_dir).absolute()))


def make_parts(job: BulkJob, parts: Sequence[int], num_workers: int | None) -> Iterator[int]:
    """Make parts on the cluster that is connected; yield the rows of each once it is written.

    Args:
        job: The job.
        parts: Numbers of the parts, rising.
        num_workers: Workers at most; by default one for each GPU, or where there is none for each `num_threads` CPUs.

    Raises:
        RuntimeError: If a part lost its worker too often, or the cluster fails.
        ValueError: If the cluster has no room for a worker; and whatever `PartMaker.make` raises.
    """
    for path in Path(job.output_dir).glob(f"{_TRIES}*"):
        path.unlink()
    resources = ray.cluster_resources()
    on_gpu = resources.get("GPU", 0) >= 1 if job.device is None else job.device.startswith("cuda")
    needed: dict[str, float] = {"num_gpus": 1} if on_gpu else {"num_cpus": job.num_threads or 1}
    room = int(resources.get("GPU", 0)) if on_gpu else int(resources.get("CPU", 0) // needed["num_cpus"])
    if room < 1:
        raise ValueError(f"The cluster has no room for a worker, which needs {needed}: it has {resources}.")
    size = min(room if num_workers is None else num_workers, len(parts))
    context = ray_data.DataContext.get_current()
    context.enable_progress_bars = context.print_on_execution_start = False  # ours counts rows
    context.execution_no_progress_timeout_s = -1  # a part may take hours
    logging.getLogger("ray.data").setLevel(logging.WARNING)
    dataset = ray_data.from_items(
        [{"part": part} for part in parts], override_num_blocks=min(len(parts), _MOST_BLOCKS)
    )
    dataset = dataset.map_batches(
        Worker,
        fn_constructor_args=(_with_whole_paths(job), "cuda" if on_gpu else job.device or "cpu"),
        batch_size=None,  # a block as it is
        compute=ray_data.ActorPoolStrategy(
            min_size=1, max_size=size, initial_size=size, max_tasks_in_flight_per_actor=1
        ),
        **needed,
    )
    try:
        for batch in dataset.iter_batches(batch_size=None, prefetch_batches=0):
            for rows, error in zip(batch["rows"].tolist(), batch["error"].tolist(), strict=True):
                if error:
                    kind, _, message = error.partition(":")
                    raise getattr(builtins, kind)(message)
                yield rows
    except exceptions.RayError as error:
        raise RuntimeError(f"The cluster gave up: {error}") from error
