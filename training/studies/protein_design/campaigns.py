"""Campaigns: rounds in which a strategy chooses what is measured next, on a landscape whose values are known."""

import contextlib
import os
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist
from transformers import TrainingArguments

from hf_eddpm import EDDPMPipeline, EDDPMScheduler, EDDPMTrainer, model_for_data

HERE = Path(__file__).parent


class Landscape(Protocol):
    """What a campaign looks up.

    Attributes:
        table: The variants that can be chosen.
        reference: A fitness that designs should exceed.
    """

    table: Collection[str]
    reference: float

    def measure(self, variants: Sequence[str]) -> list[float]:
        """Return the fitness of variants."""


def train(sequences: list[str], values: Sequence[float], num_steps: int, seed: int) -> EDDPMPipeline:
    """A small model of the starting variants, with a property head."""
    model, processor = model_for_data(sequences, "protein", properties=np.array(values)[:, None], seed=seed)
    data = [{"data": sequence, "properties": [value]} for sequence, value in zip(sequences, values, strict=True)]
    arguments = TrainingArguments(
        str(HERE / "unused"),
        max_steps=num_steps,
        per_device_train_batch_size=min(64, len(data)),
        learning_rate=2e-3,
        save_strategy="no",
        report_to="none",
        use_cpu=True,
        disable_tqdm=True,
        seed=seed,
        logging_strategy="no",
    )
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        EDDPMTrainer(model, arguments, processor, train_dataset=data).train()
    pipe = EDDPMPipeline(model.eval(), EDDPMScheduler(**model.config.scheduler_config), processor)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def ours(pipe: EDDPMPipeline, seed: int, **arguments: Any):
    """A strategy: `pipe.design` with these arguments."""
    generator = torch.Generator().manual_seed(seed)

    def choose(measured: Mapping[str, float], table: Collection[str], num: int, rng: np.random.Generator) -> list[str]:
        designs = pipe.design(
            measured=list(measured),
            values=list(measured.values()),
            num_designs=num,
            generator=generator,
            **arguments,
        )
        return designs.sequences

    return choose


def campaign(landscape: Landscape, strategy: Any, start: list[str], num_rounds: int, batch: int, seed: int):
    """Run the rounds and measure what they found."""
    measured = dict(zip(start, landscape.measure(start), strict=True))
    before = len(measured)
    rng = np.random.default_rng(seed)
    rounds, begin = [], time.perf_counter()
    for _ in range(num_rounds):
        chosen = strategy(measured, landscape.table, batch, rng)
        assert len(chosen) <= batch and not set(chosen) & set(measured)
        values = landscape.measure(chosen)
        measured |= dict(zip(chosen, values, strict=True))
        rounds.append(float(np.mean(values)) if chosen else None)
    found = list(measured)[before:]
    values = np.sort([measured[variant] for variant in found])[::-1]
    apart = cdist(found, found, scorer=Levenshtein.distance)
    return {
        "look_ups": len(found),
        "best": float(values.max(initial=0.0)),  # of none that were found
        "top_10": float(values[:10].sum() / max(min(len(values), 10), 1)),
        "above_wild_type": float((values > landscape.reference).sum() / max(len(values), 1)),
        "diversity": float(apart[np.triu_indices(len(found), 1)].mean()) if len(found) > 1 else 0.0,
        "mean_by_round": rounds,
        "seconds": time.perf_counter() - begin,
    }
