"""Serve a checkpoint over HTTP with Ray Serve: encode, reconstruct, score, generate, interpolate.

    python docs/examples/serve.py --checkpoint model_cards/eddpm-yelp --port 8000

On a cluster: `serve run serve:build checkpoint=model_cards/eddpm-yelp num_replicas=4` in this file's folder.
docs/guides/serving.md describes the requests. A datum is a string: a sentence, a protein, or an image file in base64.
"""

import argparse
import asyncio
import base64
import contextlib
import os
import signal
import threading
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from io import BytesIO
from typing import Annotated, Any, Literal

import ray
import torch
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from ray import serve
from ray.serve.metrics import Counter

from hf_eddpm import EDDPMPipeline
from hf_eddpm.modalities.image.processing import DAMAGE

MAX_DATA = 256  # of a request
MAX_BYTES = 4 * 2**20  # of a request's body
MAX_BATCH = 32  # requests that go through the model together

Data = Annotated[list[str], Field(min_length=1, max_length=MAX_DATA)]
Seed = Annotated[int, Field(ge=0, lt=2**32)]
Steps = Annotated[int | None, Field(ge=1, le=1000)]


class Body(BaseModel):
    """A request's body: what it does not know is refused."""

    model_config = ConfigDict(extra="forbid", strict=True)


class Encode(Body):
    data: Data
    refinement_steps: Annotated[int, Field(ge=0, le=100)] = 0


class Score(Body):
    data: Data
    num_timesteps: Annotated[int, Field(ge=1, le=1000)] = 32
    seed: Seed = 0


class Generate(Body):
    num_samples: Annotated[int, Field(ge=1, le=MAX_DATA)] = 1
    num_inference_steps: Steps = None
    noise_scale: Annotated[float | None, Field(gt=0, le=10)] = None
    class_labels: Annotated[int | None, Field(ge=0)] = None
    guidance_scale: Annotated[float, Field(ge=0, le=100)] = 1.0
    num_candidates: Annotated[int, Field(ge=1, le=16)] = 1
    seed: Seed = 0


class Interpolate(Body):
    a: Data
    b: Data
    num_steps: Annotated[int, Field(ge=2, le=64)] = 7
    space: Literal["latents", "noise"] | None = None
    noise_level: Annotated[float, Field(ge=0)] | None = None


class Arguments(BaseModel):
    """What `build` takes; environment variables of these names, EDDPM_CHECKPOINT for example, are the defaults."""

    checkpoint: str = os.environ.get("EDDPM_CHECKPOINT", "")
    device: str = os.environ.get("EDDPM_DEVICE", "cuda" if torch.cuda.is_available() else "cpu")
    num_replicas: int = int(os.environ.get("EDDPM_NUM_REPLICAS", "1"))
    max_batch: int = int(os.environ.get("EDDPM_MAX_BATCH", str(MAX_BATCH)))
    batch_wait: float = float(os.environ.get("EDDPM_BATCH_WAIT", "0.01"))  # seconds to wait for a batch to fill
    timeout: float = float(os.environ.get("EDDPM_TIMEOUT", "60"))  # seconds of a request


@dataclass
class Call:
    """A request: data, and arguments that are the same for all of them."""

    verb: str
    data: list[Any]
    arguments: dict[str, Any]


def encode(pipe: EDDPMPipeline, data: list[Any], **arguments: Any) -> list[Any]:
    return pipe.encode(data, **arguments).embeddings.tolist()


def reconstruct(pipe: EDDPMPipeline, data: list[Any], **arguments: Any) -> list[Any]:
    return pipe.reconstruct(data, **arguments)


def score(pipe: EDDPMPipeline, data: list[Any], seed: int, **arguments: Any) -> list[Any]:
    terms = pipe.score(data, generator=torch.Generator().manual_seed(seed), **arguments)
    columns = {name: values.tolist() for name, values in terms.items()}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def generate(pipe: EDDPMPipeline, data: list[int], **arguments: Any) -> list[Any]:
    """A sample for each seed: with a generator of its own it does not depend on what it is drawn with."""
    return pipe(len(data), generator=[torch.Generator().manual_seed(seed) for seed in data], **arguments).samples


def interpolate(pipe: EDDPMPipeline, data: list[Any], **arguments: Any) -> list[Any]:
    return pipe.interpolate([pair[0] for pair in data], [pair[1] for pair in data], **arguments)


VERBS: dict[str, Callable[..., list[Any]]] = {
    "encode": encode,
    "reconstruct": reconstruct,
    "score": score,
    "generate": generate,
    "interpolate": interpolate,
}
ALONE = ("score",)  # draws for all its data from one generator: not joined with the data of others


class Refused(Exception):
    """A request that is not answered, and why."""

    def __init__(self, status: int, message: str):
        super().__init__(message)
        self.status, self.message = status, message


def _image(name: str, place: int, datum: str) -> Image.Image:
    try:
        image = Image.open(BytesIO(base64.b64decode(datum, validate=True)))
        image.load()
        return image
    except DAMAGE:  # of the base64 too, which is a ValueError
        raise Refused(422, f"`{name}.{place}`: must be a file of an image in base64.") from None


def _base64(image: Image.Image) -> str:
    file = BytesIO()
    image.save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode("ascii")


api = FastAPI(title="hf_eddpm")


@api.exception_handler(Refused)
async def tell(_: Request, error: Refused) -> JSONResponse:
    return JSONResponse({"error": error.message}, error.status)


@api.exception_handler(RequestValidationError)
async def tell_of_arguments(_: Request, error: RequestValidationError) -> JSONResponse:
    problems = []
    for each in error.errors():
        is_json = each["type"] != "json_invalid"
        where = ".".join(map(str, each["loc"][1:])) if is_json and each["loc"][1:] else "body"
        came = f", got {str(each['input'])[:100]}" if is_json and each["type"] != "missing" else ""
        problems.append(f"`{where}`: {each['msg']}{came}")
    return JSONResponse({"error": "; ".join(problems)}, 422)


@api.middleware("http")
async def limit_size(request: Request, go_on: Callable[[Request], Awaitable[Response]]) -> Response:
    if request.method == "POST":
        length = request.headers.get("content-length", "")
        if not length.isdigit():
            return JSONResponse({"error": "`Content-Length` is needed."}, 411)
        if int(length) > MAX_BYTES:
            return JSONResponse({"error": f"The body must have at most {MAX_BYTES} bytes, got {length}."}, 413)
    return await go_on(request)


@serve.deployment(max_ongoing_requests=128, max_queued_requests=256, health_check_period_s=10)
@serve.ingress(api)
class Server:
    """Answers requests; those that ask for the same thing within a moment go through the model as one batch."""

    def __init__(self, arguments: Arguments):
        self.arguments = arguments
        self.pipe = EDDPMPipeline.from_pretrained(arguments.checkpoint).to(arguments.device)
        with contextlib.suppress(RuntimeError):  # of a torch without oneDNN; asking it first would not be picklable
            self.pipe.enable_packed_weights()  # faster on CPUs
        self.pipe.set_progress_bar_config(disable=True)
        self.modality = self.pipe.model.config.modality
        self.broken: str | None = None
        self.data_served = Counter("eddpm_data", "Data that went through the model.", tag_keys=("verb",))
        self.batches_served = Counter("eddpm_batches", "Batches that went through the model.", tag_keys=("verb",))
        self._joined.set_max_batch_size(arguments.max_batch)  # type: ignore[attr-defined]
        self._joined.set_batch_wait_timeout_s(arguments.batch_wait)  # type: ignore[attr-defined]

    def check_health(self) -> None:
        """Ray Serve asks this, and starts a new replica in the place of one that raises."""
        if self.broken is not None:
            raise RuntimeError(self.broken)

    @api.get("/health")
    def health(self) -> dict[str, str]:
        self.check_health()
        return {"status": "ok", "checkpoint": self.arguments.checkpoint, "modality": self.modality}

    @api.post("/encode")
    async def encode(self, body: Encode) -> dict[str, Any]:
        data = self._data("data", body.data)
        return {"embeddings": await self._run(Call("encode", data, body.model_dump(exclude={"data"})))}

    @api.post("/reconstruct")
    async def reconstruct(self, body: Encode) -> dict[str, Any]:
        data = self._data("data", body.data)
        samples = await self._run(Call("reconstruct", data, body.model_dump(exclude={"data"})))
        return {"reconstructions": self._shown(samples)}

    @api.post("/score")
    async def score(self, body: Score) -> dict[str, Any]:
        data = self._data("data", body.data)
        return {"scores": await self._run(Call("score", data, body.model_dump(exclude={"data"})))}

    @api.post("/generate")
    async def generate(self, body: Generate) -> dict[str, Any]:
        seeds = [body.seed + number for number in range(body.num_samples)]
        samples = await self._run(Call("generate", seeds, body.model_dump(exclude={"num_samples", "seed"})))
        return {"samples": self._shown(samples)}

    @api.post("/interpolate")
    async def interpolate(self, body: Interpolate) -> dict[str, Any]:
        if len(body.a) != len(body.b):
            raise Refused(422, f"`a` and `b` must have the same length, got {len(body.a)} and {len(body.b)}.")
        pairs = list(zip(self._data("a", body.a), self._data("b", body.b), strict=True))
        paths = await self._run(Call("interpolate", pairs, body.model_dump(exclude={"a", "b"})))
        return {"paths": [self._shown(path) for path in paths]}

    async def _run(self, call: Call) -> list[Any]:
        try:
            outcome = await asyncio.wait_for(self._joined(call), self.arguments.timeout)
        except asyncio.TimeoutError:
            raise Refused(504, f"This took longer than {self.arguments.timeout:g} seconds: ask for less.") from None
        if isinstance(outcome, Refused):
            raise outcome
        return outcome

    @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=0.01)
    async def _joined(self, calls: list[Call]) -> list[Any]:
        return await asyncio.to_thread(self._compute, calls)  # so that health checks are answered meanwhile

    def _compute(self, calls: list[Call]) -> list[Any]:
        groups: dict[Any, list[int]] = {}
        for number, call in enumerate(calls):
            alone = number if call.verb in ALONE else None
            groups.setdefault((call.verb, str(sorted(call.arguments.items())), alone), []).append(number)
        outcomes: list[Any] = [None] * len(calls)
        for numbers in groups.values():
            results = self._through_model([calls[number] for number in numbers])
            if isinstance(results, Refused) and len(numbers) > 1:  # one of them: which one?
                results = [self._single(calls[number]) for number in numbers]
            elif isinstance(results, Refused):
                results = [results]
            for number, result in zip(numbers, results, strict=True):
                outcomes[number] = result
        return outcomes

    def _single(self, call: Call) -> Any:
        results = self._through_model([call])
        return results if isinstance(results, Refused) else results[0]

    def _through_model(self, calls: list[Call]) -> Any:
        """Return the results of calls of one kind, or why there are none."""
        verb, data = calls[0].verb, [datum for call in calls for datum in call.data]
        try:
            results = VERBS[verb](self.pipe, data, **calls[0].arguments)
        except (ValueError, TypeError) as error:
            return Refused(422, str(error))
        except (MemoryError, torch.OutOfMemoryError):
            return Refused(503, "This needs more memory than there is: ask for less.")
        except Exception as error:
            self.broken = f"{type(error).__name__}: {error}"
            return Refused(500, "The model failed; its replica is replaced.")
        self.data_served.inc(len(data), {"verb": verb})
        self.batches_served.inc(1, {"verb": verb})
        ends = [sum(len(call.data) for call in calls[: number + 1]) for number in range(len(calls))]
        return [results[end - len(call.data) : end] for call, end in zip(calls, ends, strict=True)]

    def _data(self, name: str, data: list[str]) -> list[Any]:
        """Return data as the pipeline takes them; what it does not take is refused before it meets others' data."""
        if self.modality == "image":
            data = [_image(name, place, datum) for place, datum in enumerate(data)]
        try:
            self.pipe.processor.as_list(data, name)
        except (ValueError, TypeError) as error:
            raise Refused(422, str(error)) from None
        return data

    def _shown(self, samples: list[Any]) -> list[str]:
        return [_base64(sample) for sample in samples] if self.modality == "image" else list(samples)


def build(arguments: Arguments) -> serve.Application:
    """Return the application for `serve run serve:build checkpoint=...` or `serve.run`.

    Raises:
        ValueError: If there is no checkpoint.
    """
    if not arguments.checkpoint:
        raise ValueError("`checkpoint` must be a folder or a Hub id; or set EDDPM_CHECKPOINT.")
    options = {"num_cpus": 1, "num_gpus": int(arguments.device.startswith("cuda"))}
    return Server.options(num_replicas=arguments.num_replicas, ray_actor_options=options).bind(arguments)


def main() -> None:
    """Serve on this machine until it is interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    defaults = Arguments()
    for name, kind in Arguments.__annotations__.items():
        parser.add_argument(f"--{name}", type=kind, default=getattr(defaults, name))
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on; 0.0.0.0 for every one")
    parser.add_argument("--port", type=int, default=8000)
    values = vars(parser.parse_args())
    ray.init(address="local")
    serve.start(http_options={"host": values.pop("host"), "port": (port := values.pop("port"))})
    serve.run(build(Arguments(**values)))
    (node,) = ray.nodes()
    print(
        f"ready: http://127.0.0.1:{port}/docs, metrics: http://127.0.0.1:{node['MetricsExportPort']}/metrics",
        flush=True,
    )
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    stop.wait()
    serve.shutdown()


if __name__ == "__main__":
    main()
