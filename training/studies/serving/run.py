"""Serving on loopback: latency and throughput of batched requests against one after the other, and memory.

python training/studies/serving/run.py --checkpoint model_cards/eddpm-sentences --data dev.txt.gz
"""

import argparse
import gzip
import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import psutil
import torch

from hf_eddpm.training.environment import describe_environment

ROOT = Path(__file__).resolve().parents[3]
RESULTS = Path(__file__).parent / "results"


@contextmanager
def serving(checkpoint: str, *words: str) -> Iterator[tuple[str, psutil.Process]]:
    """Within, give the address of a server and the process that holds the model."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    script = str(ROOT / "docs" / "examples" / "serve.py")
    command = [sys.executable, script, "--checkpoint", checkpoint, "--port", port, "--device", "cpu", *words]
    environment = {**os.environ, "RAY_SERVE_LOG_TO_STDERR": "0"}
    with psutil.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as server:
        while not server.stdout.readline().startswith("ready: "):
            if server.poll() is not None:
                raise SystemExit("the server did not start")
        children = server.children(recursive=True)
        (replica,) = [each for each in children if "ServeReplica" in "".join(each.cmdline())]
        try:
            yield f"http://127.0.0.1:{port}", replica
        finally:
            server.terminate()


def post(url: str, body: dict) -> float:
    """Return the seconds that an answer takes."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"content-type": "application/json"})
    start = time.perf_counter()
    with urllib.request.urlopen(request, timeout=300) as answer:
        json.load(answer)
    return time.perf_counter() - start


def load(url: str, bodies: list[dict], concurrency: int) -> dict:
    """Send requests, `concurrency` of them at a time."""
    with ThreadPoolExecutor(concurrency) as pool:
        list(pool.map(lambda body: post(url, body), bodies[:concurrency]))  # warm
        start = time.perf_counter()
        seconds = list(pool.map(lambda body: post(url, body), bodies))
        total = time.perf_counter() - start
    p50, p95 = np.percentile(np.array(seconds) * 1000, [50, 95])
    return {
        "requests": len(bodies),
        "concurrency": concurrency,
        "p50_ms": round(float(p50), 1),
        "p95_ms": round(float(p95), 1),
        "requests_per_second": round(len(bodies) / total, 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True)
    parser.add_argument("--data", required=True, help="a sentence a line, .gz")
    parser.add_argument("--num_requests", type=int, default=400)
    parser.add_argument("--num_memory", type=int, default=5000, help="requests while the memory is watched")
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--output", type=Path, default=RESULTS / "load.json")
    arguments = parser.parse_args()
    with gzip.open(arguments.data, "rt", encoding="utf-8") as file:
        sentences = [line.strip() for line in file if line.strip()]
    sentences = [sentences[number % len(sentences)] for number in range(arguments.num_requests)]
    bodies = {
        "encode": [{"data": [sentence]} for sentence in sentences],
        "reconstruct": [{"data": [sentence]} for sentence in sentences],
        "generate": [{"num_inference_steps": 20, "seed": seed} for seed in range(arguments.num_requests)],
    }
    facts: dict = {"checkpoint": arguments.checkpoint, "load": {}, "memory": {}}
    for name, words in (("batched", []), ("one by one", ["--max_batch", "1"])):
        with serving(arguments.checkpoint, *words) as (url, replica):
            for verb, requests in bodies.items():
                result = load(f"{url}/{verb}", requests, arguments.concurrency)
                facts["load"].setdefault(verb, {})[name] = result
                print(name, verb, result, flush=True)
            if name == "batched":
                steps = 10
                rss = [replica.memory_info().rss]
                for _ in range(steps):
                    count = arguments.num_memory // steps
                    load(f"{url}/encode", (bodies["encode"] * (count // arguments.num_requests + 1))[:count], 32)
                    rss.append(replica.memory_info().rss)
                facts["memory"] = {
                    "requests": arguments.num_memory,
                    "rss_mb_by_tenth": [round(each / 2**20, 1) for each in rss],
                }
                print(facts["memory"], flush=True)
    facts |= describe_environment(torch.device("cpu"), ["ray"])
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
