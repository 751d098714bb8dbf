"""What the evaluation scripts share: timing, spreads over seeds, facts of the model and its latents."""

import json
import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ..diagnostics import (
    covariance_eigenvalues,
    frechet_beside_real,
    nearest_distances,
    nearest_neighbor_ratio,
    spectrum_statistics,
)
from ..pipeline_eddpm import EDDPMPipeline
from .environment import describe_environment

ACTIVE_STD = 0.1  # a latent dimension is active if its posterior mean varies more than this over the data
NUM_REAL = 5000  # training data whose latents those of samples are compared with


class Stopwatch:
    """Seconds by part of the evaluation."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def __call__(self, part: str) -> Iterator[None]:
        """Adds the time of the enclosed block to `part`."""
        start = time.perf_counter()
        yield
        self.seconds[part] = round(self.seconds.get(part, 0.0) + time.perf_counter() - start, 2)


def read_evaluation(path: str, settings: Any, argument: str, may_differ: Sequence[str] = ()) -> dict[str, Any]:
    """Reads an evaluation that was made with the same settings.

    Args:
        path: Its JSON file.
        settings: The settings, a dataclass.
        argument: What names the file on the command line.
        may_differ: Settings that may be others.

    Raises:
        ValueError: If it was made with other settings.
    """
    other = json.loads(Path(path).read_text(encoding="utf-8"))
    fixed = {name: value for name, value in asdict(settings).items() if name not in may_differ}
    if different := sorted(name for name, value in fixed.items() if other["settings"].get(name) != value):
        raise ValueError(f"`{argument}` must be an evaluation with the same settings; {different} differ.")
    return other


class Parts:
    """The parts of an evaluation that no scheduler changes: measured, or those of an earlier one of the same weights.

    Args:
        result: Where they go.
        earlier: The earlier evaluation, or `None` to measure all.
    """

    def __init__(self, result: dict[str, Any], earlier: dict[str, Any] | None):
        self.result = result
        self.earlier = earlier

    def add(self, name: str, measure: Callable[[], Any]) -> None:
        """Measures a part, or takes the earlier one, if there was one."""
        if self.earlier is None:
            self.result[name] = measure()
        elif name in self.earlier:
            self.result[name] = self.earlier[name]

    def check_weights(self, reconstruction: dict[str, Any]) -> None:
        """Raises a ValueError if the earlier evaluation's reconstructions were others."""
        if self.earlier is None:
            return
        now, before = (each["exact_match"] for each in (reconstruction, self.earlier["reconstruction"]))
        if abs(now - before) > 0.002:  # as much as rounding on another machine may change
            raise ValueError(f"`keep` must be of the same weights: exact match was {before:.4f} and is {now:.4f}.")

    def finish(self, seconds: dict[str, float]) -> None:
        """Adds the seconds by part, the earlier ones among them."""
        self.result["seconds"] = (self.earlier or {}).get("seconds", {}) | seconds


def with_earlier(result: dict[str, Any], earlier: dict[str, Any] | None) -> dict[str, Any]:
    """A result whose command and wall time include the evaluation that parts of it come from."""
    if earlier is None:
        return result
    return result | {
        "command": f"{earlier['command']}\n{result['command']}",
        "wall_time_seconds": round(earlier["wall_time_seconds"] + result["wall_time_seconds"], 1),
    }


def finish_result(
    result: dict[str, Any], start: float, output: str | Path | None, table: str | None = None
) -> dict[str, Any]:
    """Adds hardware, versions and wall time to what a script measured on the CPU, and writes it.

    Args:
        result: What was measured.
        start: `time.perf_counter()` at the start.
        output: JSON file to write, its folder made if need be; `None` for none.
        table: Markdown to write beside it; `None` for none.
    """
    result = result | describe_environment(torch.device("cpu"))
    result["wall_time_seconds"] = round(time.perf_counter() - start, 1)
    if output is not None:
        Path(output).parent.mkdir(parents=True, exist_ok=True)
        Path(output).write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        if table is not None:
            Path(output).with_suffix(".md").write_text(table + "\n", encoding="utf-8")
    return result


def result_file(folder: Path, name: str) -> Path:
    """The JSON file of a run in a benchmark's folder: its name in lower case, hyphens for what no file should hold."""
    return folder / f"{re.sub('[^a-z0-9.]+', '-', name.lower())}.json"


def spread(values: Sequence[float | None]) -> dict[str, Any]:
    """Mean, standard deviation (`None` for one value) and the values themselves; values of `None` have no mean."""
    known = [value for value in values if value is not None]
    std = float(np.std(known, ddof=1)) if len(known) > 1 else None
    return {"mean": float(np.mean(known)) if known else None, "std": std, "values": list(values)}


def plus_minus(values: dict[str, Any], form: str) -> str:
    """What `spread` returned, as text."""
    if values["mean"] is None:
        return "none"
    mean = f"{values['mean']:{form}}"
    return mean if values["std"] is None else f"{mean} ± {values['std']:{form}}"


def plain_config(pipe: EDDPMPipeline) -> dict[str, Any]:
    """The values of the model's configuration that are numbers, strings or truth values."""
    return {
        key: value
        for key, value in pipe.model.config.to_dict().items()
        if not key.startswith("_") and (value is None or isinstance(value, (bool, int, float, str)))
    }


def describe_sampler(pipe: EDDPMPipeline) -> dict[str, Any]:
    """What the pipeline samples with where nothing else is said."""
    return {"scheduler": type(pipe.scheduler).__name__, "noise_scale": pipe.config.default_noise_scale}


def sampler_sentence(evaluation: dict[str, Any]) -> str:
    """The same as a sentence of the card; nothing for evaluations that do not know it."""
    if "sampler" not in evaluation:
        return ""
    sampler = evaluation["sampler"]
    scaled = "" if sampler["noise_scale"] == 1 else f", noise scale {sampler['noise_scale']:g}"
    return f" Sampled with the pipeline's own `{sampler['scheduler']}`{scaled}."


def latent_statistics(embeddings: NDArray[np.floating], noise_variance: float) -> dict[str, float | int]:
    """How the posterior means fill their space.

    `std`, `active_dims` and `norm` cannot see dimensions that copy each other; `effective_rank`, `largest_share` and
    `rate` do (`hf_eddpm.diagnostics`).

    Args:
        embeddings: Posterior means (num, dim).
        noise_variance: The encoder's.
    """
    std = embeddings.std(axis=0)
    return {
        "std": float(std.mean()),
        "active_dims": int((std > ACTIVE_STD).sum()),
        "dims": embeddings.shape[1],
        "norm": float(np.linalg.norm(embeddings, axis=1).mean()),
        **spectrum_statistics(covariance_eigenvalues(torch.from_numpy(embeddings)), noise_variance),
    }


def draw_latents(pipe: EDDPMPipeline, num_samples: int, steps: int, seed: int, batch_size: int) -> torch.Tensor:
    """Latents of samples, drawn in batches, `(num_samples, num_latents, latent_dim)`."""
    generator = torch.Generator(device=pipe.device).manual_seed(seed)
    parts = []
    for done in range(0, num_samples, batch_size):
        out: Any = pipe(
            num_samples=min(batch_size, num_samples - done),
            num_inference_steps=steps,
            generator=generator,
            output_type="latent",
        )
        parts.append(out.latents)
    return torch.cat(parts)


def reach_statistics(sampled: torch.Tensor, unseen: torch.Tensor, real: torch.Tensor) -> dict[str, float | int]:
    """Whether the chain's latents lie where the data's do: posterior means, without the encoder's noise.

    Args:
        sampled: Latents of samples, `(num_sampled, num_latents, latent_dim)`.
        unseen: Posterior means of held-out data, of the same shape.
        real: Posterior means of training data, of the same shape; the Frechet distances are measured on as many
            vectors as half of them, or as there are samples.
    """
    num = min(len(sampled), len(real) // 2)
    # Drawn: data may be in an order, and then their first half is not like their second.
    drawn = real[torch.randperm(len(real), generator=torch.Generator().manual_seed(0)).to(real.device)]
    distance, floor = frechet_beside_real(sampled[:num], drawn[:num], drawn[num : 2 * num])
    result = {
        "num": num,
        "std": float(sampled.flatten(1).std(0).mean()),
        "real_std": float(real.flatten(1).std(0).mean()),
        "frechet": distance,
        "real_frechet": floor,
    }
    if bool(nearest_distances(unseen, real).any()):  # else the held-out data are training data
        result["neighbor_ratio"] = nearest_neighbor_ratio(sampled, unseen, real)
    return result


def as_embeddings(latents: torch.Tensor) -> NDArray[np.float64]:
    """Latents (num, num_latents, latent_dim) as vectors (num, num_latents * latent_dim)."""
    return latents.flatten(1).cpu().double().numpy()
