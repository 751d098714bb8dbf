"""The example of a server: what it answers is what the pipeline gives, and what it does not take it refuses."""

import base64
import concurrent.futures
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from images import tiny_image_pipe
from PIL import Image

from hf_eddpm import EDDPMPipeline

pytest.importorskip("ray.serve", reason="Ray Serve is not installed: extra `ray`")

ROOT = Path(__file__).parent.parent
CHECKPOINT = ROOT / "model_cards" / "eddpm-yelp-mini"  # which has no classes
SENTENCES = ["the food was great .", "i will never come back !", "my soup was cold ."]

pytestmark = pytest.mark.slow


class Client:
    """Requests to a server, and its own process."""

    def __init__(self, url, metrics):
        self.url, self.metrics = url, metrics

    def post(self, path, body, raw=None):
        """Return the status and the JSON of the answer."""
        data = json.dumps(body).encode() if raw is None else raw
        request = urllib.request.Request(self.url + path, data, {"content-type": "application/json"})
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=60) as answer:
            return json.load(answer)


def start(checkpoint, *words):
    """Start the example on a free port; return its process and a client."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    script = ROOT / "docs" / "examples" / "serve.py"
    command = [sys.executable, script, "--checkpoint", checkpoint, "--port", port, "--device", "cpu", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src")}
    process = subprocess.Popen([*map(str, command)], stdout=subprocess.PIPE, text=True, env=environment)
    for line in process.stdout:
        if line.startswith("ready: "):
            return process, Client(f"http://127.0.0.1:{port}", line.split("metrics: ")[1].strip())
    raise AssertionError(f"the server ended with {process.wait()}")


@pytest.fixture(scope="module")
def server():
    process, client = start(CHECKPOINT)
    yield client
    process.terminate()
    assert process.wait(60) == 0


@pytest.fixture(scope="module")
def pipe():
    pipe = EDDPMPipeline.from_pretrained(CHECKPOINT)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_answers_are_what_the_pipeline_gives(server, pipe):
    assert server.get("/health") == {"status": "ok", "checkpoint": str(CHECKPOINT), "modality": "text"}
    status, answer = server.post("/encode", {"data": SENTENCES})
    assert status == 200
    torch.testing.assert_close(torch.tensor(answer["embeddings"]), pipe.encode(SENTENCES).embeddings)
    _, answer = server.post("/reconstruct", {"data": SENTENCES, "refinement_steps": 2})
    assert answer["reconstructions"] == pipe.reconstruct(SENTENCES, refinement_steps=2)
    _, answer = server.post("/score", {"data": SENTENCES, "num_timesteps": 4, "seed": 3})
    expected = pipe.score(SENTENCES, 4, torch.Generator().manual_seed(3))
    for name, values in expected.items():
        np.testing.assert_allclose([each[name] for each in answer["scores"]], values.numpy(), rtol=1e-5)
    _, answer = server.post("/generate", {"num_samples": 3, "num_inference_steps": 4, "seed": 5})
    generators = [torch.Generator().manual_seed(seed) for seed in (5, 6, 7)]
    assert answer["samples"] == pipe(3, num_inference_steps=4, generator=generators).samples
    _, answer = server.post("/interpolate", {"a": SENTENCES[:1], "b": SENTENCES[1:2], "num_steps": 3})
    assert answer["paths"] == pipe.interpolate(SENTENCES[:1], SENTENCES[1:2], num_steps=3)


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        ("/encode", {}, 422, "`data`: Field required"),
        ("/encode", {"data": []}, 422, "`data`: List should have at least 1 item"),
        ("/encode", {"data": ["a", " "]}, 422, "`data` must not hold empty sentences, got one at position 1"),
        ("/encode", {"data": ["a", 5]}, 422, "`data.1`: Input should be a valid string, got 5"),
        ("/encode", {"data": ["a"] * 257}, 422, "`data`: List should have at most 256 items"),
        ("/encode", {"data": ["a"], "batch": 3}, 422, "`batch`: Extra inputs are not permitted, got 3"),
        ("/score", {"data": ["a"], "num_timesteps": 0}, 422, "`num_timesteps`: Input should be greater than or equal"),
        ("/generate", {"num_samples": "many"}, 422, "`num_samples`: Input should be a valid integer, got many"),
        ("/generate", {"noise_scale": -1}, 422, "`noise_scale`: Input should be greater than 0, got -1"),
        ("/generate", {"class_labels": 1}, 422, "`class_labels` needs a model with `num_classes` > 0"),
        ("/interpolate", {"a": ["x"], "b": ["x", "y"]}, 422, "`a` and `b` must have the same length, got 1 and 2"),
        ("/interpolate", {"a": ["x"], "b": [""]}, 422, "`b` must not hold empty sentences"),
        ("/encode", {"data": ["x" * (4 * 2**20)]}, 413, "The body must have at most 4194304 bytes"),
    ],
)
def test_what_a_request_must_not_hold_is_named(server, path, body, status, message):
    got, answer = server.post(path, body)
    assert got == status and message in answer["error"]


def test_a_body_that_is_no_json_is_refused(server):
    assert server.post("/encode", None, b"{nonsense") == (422, {"error": "`body`: JSON decode error"})


def test_concurrent_requests_do_not_mix(server, pipe):
    """Requests of several kinds, good and bad, at once: each gets its own answer, and some went through together."""
    sentences = [f"the food number {number} was great ." for number in range(40)]
    expected = pipe.encode(sentences).embeddings
    seeds = [torch.Generator().manual_seed(number) for number in range(40)]
    samples = pipe(40, num_inference_steps=4, generator=seeds).samples

    def ask(number):
        if number % 4 == 3:
            return server.post("/encode", {"data": ["\ud800" if number % 8 == 3 else ""]})
        if number % 4 == 2:
            return server.post("/generate", {"num_inference_steps": 4, "seed": number})
        return server.post("/encode", {"data": [sentences[number]]})

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, range(40)))
    for number, (status, answer) in enumerate(answers):
        if number % 4 == 3:
            assert status == 422 and "`data" in answer["error"]
        elif number % 4 == 2:
            assert status == 200 and answer["samples"] == [samples[number]]
        else:
            assert status == 200
            torch.testing.assert_close(torch.tensor(answer["embeddings"][0]), expected[number], atol=1e-5, rtol=1e-4)


def test_metrics_say_how_much_went_through_the_model(server):
    def value(name):
        with urllib.request.urlopen(server.metrics, timeout=60) as answer:
            lines = [line for line in answer.read().decode().splitlines() if line.startswith(f"ray_{name}")]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if 'verb="encode"' in line)

    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda _: server.post("/encode", {"data": SENTENCES}), range(48)))
    end = time.monotonic() + 60
    while value("eddpm_data") < 48 * 3:  # they are collected every few seconds
        assert time.monotonic() < end, "the metrics do not say it"
        time.sleep(1)
    assert 0 < value("eddpm_batches") < value("eddpm_data") / 3  # several requests to a batch


def test_images_go_in_and_out_as_files_and_slow_requests_end(tmp_path):
    pipe = tiny_image_pipe()
    pipe.save_pretrained(tmp_path / "image")
    process, client = start(tmp_path / "image", "--timeout", 5)
    try:
        image = pipe(1, num_inference_steps=2, generator=torch.Generator().manual_seed(0)).samples[0]
        file = BytesIO()
        image.save(file, "PNG")
        datum = base64.b64encode(file.getvalue()).decode()
        _, answer = client.post("/encode", {"data": [datum]})
        torch.testing.assert_close(torch.tensor(answer["embeddings"]), pipe.encode([image]).embeddings)
        status, answer = client.post("/generate", {"num_samples": 2, "num_inference_steps": 2})
        assert status == 200 and Image.open(BytesIO(base64.b64decode(answer["samples"][1]))).size == image.size
        for bad in ("no base64 at all!", base64.b64encode(b"no image").decode()):
            status, answer = client.post("/encode", {"data": [datum, bad]})
            assert status == 422 and answer["error"] == "`data.1`: must be a file of an image in base64."
        status, answer = client.post("/score", {"data": [datum] * 200, "num_timesteps": 1000})
        assert (status, answer) == (504, {"error": "This took longer than 5 seconds: ask for less."})
        assert client.get("/health")["status"] == "ok"
    finally:
        process.terminate()
        process.wait(60)
