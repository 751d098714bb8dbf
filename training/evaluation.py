"""What the evaluation scripts share: timing, spreads over seeds, facts of the model and its latents."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from hf_eddpm import EDDPMPipeline

ACTIVE_STD = 0.1  # a latent dimension is active if its posterior mean varies more than this over the data


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


def latent_statistics(embeddings: NDArray[np.floating]) -> dict[str, float | int]:
    """How the posterior means (num, dim) fill their space."""
    std = embeddings.std(axis=0)
    return {
        "std": float(std.mean()),
        "active_dims": int((std > ACTIVE_STD).sum()),
        "dims": embeddings.shape[1],
        "norm": float(np.linalg.norm(embeddings, axis=1).mean()),
    }


def as_embeddings(latents: torch.Tensor) -> NDArray[np.float64]:
    """Latents (num, num_latents, latent_dim) as vectors (num, num_latents * latent_dim)."""
    return latents.flatten(1).double().cpu().numpy()
