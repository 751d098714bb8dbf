"""Bulk jobs on Ray: the results of one process, whatever dies on the way."""

import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import psutil
import pyarrow.parquet as parquet
import pytest
from conftest import SENTENCES, tiny_model
from proteins import tiny_protein_pipe

ray = pytest.importorskip("ray", reason="the engine ray is not installed: extra `ray`")

from ray.cluster_utils import Cluster  # noqa: E402

from hf_eddpm.bulk import BulkJob, making, ray_engine, run_bulk  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray", "ignore::ResourceWarning")

NUM_ROWS = 3000


@pytest.fixture(scope="module")
def folder(make_pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ray")
    make_pipe(tiny_model()).save_pretrained(folder / "tiny")
    lines = [f"{SENTENCES[row % 8]} {row}" if row % 7 else "" for row in range(NUM_ROWS)]
    (folder / "data.txt").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without room for workers, and two nodes with room for one each."""
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
    for _ in range(2):
        cluster.add_node(num_cpus=1)
    yield cluster
    ray.shutdown()
    cluster.shutdown()


def read(folder):
    return parquet.read_table(sorted(folder.glob("part-*.parquet"))).to_pylist()


def workers_of(node):
    """The processes of a node that make parts."""
    raylet = psutil.Process(node.all_processes["raylet"][0].process.pid)
    return [each for each in raylet.children(recursive=True) if "MapWorker" in "".join(each.cmdline())]


def wait_for(condition, seconds=120):
    """Wait until something holds; the test fails if it does not within the time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


class Meanwhile(threading.Thread):
    """Something that happens while a job runs; joining raises what it raised."""

    def __init__(self, action):
        super().__init__(daemon=True)
        self.action, self.error = action, None
        self.start()

    def run(self):
        try:
            self.action()
        except BaseException as error:
            self.error = error

    def done(self):
        self.join(60)
        assert self.error is None and not self.is_alive()


@pytest.mark.slow
def test_ray_on_this_machine_makes_what_one_process_makes(folder, tmp_path):
    """The one test of Ray that is not slow; it starts Ray for one worker."""
    (tmp_path / "short.txt").write_text("\n".join([*SENTENCES, "", SENTENCES[0]]) + "\n")
    rows = {}
    for engine, others in (("local", {}), ("ray", {"num_workers": 1})):
        out = tmp_path / engine
        job = BulkJob(
            "score", str(folder / "tiny"), str(out), [str(tmp_path / "short.txt")], part_size=4, batch_size=3
        )
        assert run_bulk(job, engine, **others) == 10
        rows[engine] = read(out)
        assert json.loads((out / "skipped.jsonl").read_text()) == {"row": 8, "error": "empty"}
        assert run_bulk(job, "local") == 0
    assert rows["ray"] == rows["local"] and not list(out.glob(".*"))


@pytest.mark.slow
@pytest.mark.parametrize("task", ["encode", "generate"])
def test_a_job_survives_the_loss_of_a_worker_and_of_a_node(folder, tmp_path, cluster, task):
    def job(name):
        out = str(tmp_path / name)
        if task == "generate":
            chain = {"num_inference_steps": 2}
            return BulkJob(task, str(folder / "tiny"), out, num_samples=1500, part_size=50, arguments=chain)
        return BulkJob(task, str(folder / "tiny"), out, [str(folder / "data.txt")], part_size=100)

    run_bulk(job("local"))
    out, third = tmp_path / "ray", cluster.add_node(num_cpus=1)
    killed = []

    def kill():
        wait_for(lambda: len(list(out.glob("part-*"))) >= 2)
        wait_for(lambda: any(workers_of(node) for node in cluster.worker_nodes))
        victim = next(worker for node in cluster.worker_nodes for worker in workers_of(node))
        killed.append(victim.pid)
        victim.kill()
        wait_for(lambda: len(list(out.glob("part-*"))) >= 6)
        killed.append(len(list(out.glob("part-*"))))
        cluster.remove_node(third, allow_graceful=False)

    meanwhile = Meanwhile(kill)
    total = run_bulk(job("ray"), "ray", cluster.address)
    meanwhile.done()
    rows = read(out)
    assert killed[1] < 30  # it was in the middle
    assert total == len(rows) and [row["row"] for row in rows] == list(range(len(rows)))
    assert rows == read(tmp_path / "local")
    assert not list(out.glob(".*")) and run_bulk(job("ray"), "ray", cluster.address) == 0


@pytest.mark.slow
def test_a_part_that_always_loses_its_worker_is_named(folder, tmp_path, cluster):
    """As one does for which the system kills its worker, for lack of memory."""
    many = {"num_timesteps": 400}  # which takes long enough to be killed
    job = BulkJob("score", str(folder / "tiny"), str(tmp_path / "out"), [str(folder / "data.txt")], arguments=many)
    job = replace(job, part_size=500, limit=1000)
    over = threading.Event()

    def kill():
        tries, seen = tmp_path / "out" / ".tries-1", 0
        while seen < 6 and not over.wait(0.05):
            if tries.exists() and tries.stat().st_size > seen:  # a worker has begun with it
                seen += 1
                for node in cluster.worker_nodes:
                    with suppress(psutil.NoSuchProcess):
                        for worker in workers_of(node):
                            worker.kill()

    meanwhile = Meanwhile(kill)
    try:
        with pytest.raises(RuntimeError, match=r"Part 1 lost its worker 6 times.*`batch_size`"):
            run_bulk(job, "ray", cluster.address, num_workers=1)
    finally:
        over.set()
    meanwhile.done()


@pytest.mark.slow
def test_a_row_that_is_refused_on_a_node_is_named_here(tmp_path, cluster, monkeypatch):
    monkeypatch.chdir(tmp_path)  # the nodes are elsewhere
    tiny_protein_pipe().save_pretrained(tmp_path / "protein")
    (tmp_path / "proteins.csv").write_text("sequence\nACDEFGHI\nA1C\nKLMN\n")

    def job(**values):
        return BulkJob("encode", "protein", "out", ["proteins.csv"], **values)

    with pytest.raises(ValueError, match=r"^Row 1 of the data: `data` must consist of .* skip\.$"):
        run_bulk(job(), "ray", cluster.address)
    assert run_bulk(job(on_error="skip"), "ray", cluster.address) == 3
    assert [row["embedding"] is None for row in read(tmp_path / "out")] == [False, True, False]
    for values, message in (
        ({"column": "protein"}, "^`column` 'protein' is not in the data"),
        ({"device": "cuda"}, "The cluster has no room for a worker, which needs {'num_gpus': 1}"),
    ):
        other = replace(job(**values), output_dir=str(tmp_path / next(iter(values))))
        with pytest.raises(ValueError, match=message):
            run_bulk(other, "ray", cluster.address)


@pytest.mark.slow
@pytest.mark.parametrize("listens", [False, True])
def test_an_address_where_no_cluster_answers_is_an_error_in_time(folder, tmp_path, listens, monkeypatch):
    monkeypatch.setattr(ray_engine, "CONNECT_TIMEOUT", 15)
    job = BulkJob("encode", str(folder / "tiny"), str(tmp_path / "out"), [str(folder / "data.txt")])
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        if listens:
            other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        start = time.monotonic()
        with pytest.raises(ConnectionError, match=f"`address` '{address}' does not answer as a Ray cluster"):
            run_bulk(job, "ray", address)
        assert time.monotonic() - start < 30
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("address", ["ray://10.0.0.1:10001", "head", "head:", "head:port"])
def test_an_address_of_another_form_is_refused(folder, tmp_path, address):
    job = BulkJob("encode", str(folder / "tiny"), str(tmp_path / "out"), [str(folder / "data.txt")])
    with pytest.raises(ValueError, match="`address` must be 'auto' or 'host:port'"):
        run_bulk(job, "ray", address)


def test_a_node_that_does_not_see_the_output_says_so(folder, tmp_path):
    job = BulkJob("encode", str(folder / "tiny"), str(tmp_path / "out"), [str(folder / "data.txt")])
    with pytest.raises(FileNotFoundError, match="`output_dir` .* must lie on a file system that all share"):
        making.PartMaker(job).make(0)


def test_a_worker_gives_up_a_part_that_was_tried_too_often(folder, tmp_path):
    job = BulkJob("encode", str(folder / "tiny"), str(tmp_path / "out"), [str(folder / "data.txt")], part_size=5)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "settings.json").write_text("{}")
    (tmp_path / "out" / ".tries-1").write_text("." * 5)
    worker = ray_engine.Worker(job, "cpu")
    assert list(worker({"part": [1]})) == [{"rows": [5], "error": [""]}]
    (tmp_path / "out" / ".tries-2").write_text("." * 6)
    (made,) = worker({"part": [2, 3]})
    assert made["rows"] == [0] and made["error"][0].startswith("RuntimeError:Part 2 lost its worker 6 times")
