"""Measures how cost grows: with the batch, the sequence, the number of latents, the steps, and the data set.

    python training/studies/speed/growth.py --output training/studies/speed/results/growth.json

The networks are those of the preset `text-small` with random weights and no end token, so that every sentence has the
length asked for. CPU milliseconds of one datum (of one optimiser step for the data sets), the median of several rounds
on one thread. Beside the JSON file, the curves are drawn.
"""

import argparse
import json
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from matplotlib.ticker import NullFormatter
from transformers.utils import logging

from hf_eddpm import EDDPMConfig, EDDPMModel, EDDPMScheduler, EDDPMTrainer, model_for_data
from hf_eddpm.sampling import run_chain
from hf_eddpm.training.arguments import EDDPMTrainingArguments
from hf_eddpm.training.environment import describe_command, describe_environment

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the studies, which share code

from common.timing import timed

BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
LENGTHS = (8, 16, 32, 64, 128, 256)
LATENTS = (1, 2, 4, 8, 16, 32)
STEPS = (5, 10, 20, 50, 100)
ROWS = (1_000, 10_000, 100_000)
FEW, MORE = 10, 40  # training steps, whose difference counts
VOCABULARY = 8000


def make(num_latents: int = 1, latent_dim: int = 128, denoiser: str = "mlp") -> EDDPMModel:
    """Return a model with random weights that reads and says as many tokens as it is asked to."""
    torch.manual_seed(0)
    config = EDDPMConfig.from_preset(
        "text-small", num_latents=num_latents, latent_dim=latent_dim, denoiser_type=denoiser
    ).to_dict()
    config["encoder"] |= {"vocab_size": VOCABULARY, "max_position_embeddings": 300}
    config["decoder"] |= {"vocab_size": VOCABULARY, "n_positions": 300, "eos_token_id": None, "pad_token_id": 1}
    return EDDPMModel(EDDPMConfig.from_dict(config)).eval()


def milliseconds(work: Callable[[], Any], data: int, rounds: int) -> float:
    """Return the CPU milliseconds of a datum, the median of some rounds after one to warm up."""
    work()
    return 1000 * median(timed(work)[1].cpu for _ in range(rounds)) / data


def works(model: EDDPMModel, batch: int, length: int, steps: int) -> dict[str, Callable[[], Any]]:
    """Return encoding, the chain and decoding of a batch."""
    ids = torch.randint(5, VOCABULARY, (batch, length))
    latents = torch.randn(batch, model.config.num_latents, model.config.latent_dim)
    scheduler = EDDPMScheduler(**model.config.scheduler_config)
    return {
        "encode": lambda: model.encode(input_ids=ids, attention_mask=torch.ones_like(ids)),
        "chain": lambda: run_chain(model.denoise, scheduler, latents, steps),
        "decode": lambda: model.decode(latents, max_new_tokens=length),
    }


def measure(rounds: int, most: int) -> dict[str, dict[str, dict[int, float]]]:
    """Return milliseconds by what grows, by the work, and by its size; the first sizes of each only."""
    result: dict[str, dict[str, dict[int, float]]] = {}
    plain = make()

    def note(what: str, name: str, size: int, work: Callable[[], Any], data: int) -> None:
        result.setdefault(what, {}).setdefault(name, {})[size] = milliseconds(work, data, rounds)

    with torch.inference_mode():
        for batch in BATCHES[:most]:
            for name, work in works(plain, batch, 32, 20).items():
                note("batch size", name, batch, work, batch)
        for length in LENGTHS[:most]:
            for name, work in works(plain, 16, length, 20).items():
                if name != "chain":
                    note("tokens of a sentence", name, length, work, 16)
        for latents in LATENTS[:most]:
            for kind in ("mlp", "transformer"):
                chain = works(make(latents, 32, kind), 16, 32, 20)["chain"]
                note("latents of 32 numbers", f"chain, {kind}", latents, chain, 16)
            note("latents of 32 numbers", "decode", latents, works(make(latents, 32), 16, 32, 20)["decode"], 16)
        for steps in STEPS[:most]:
            note("steps of the chain", "chain", steps, works(plain, 64, 32, steps)["chain"], 64)
    result["rows of the data set"] = {
        "a training step of 32": {rows: step_milliseconds(rows, rounds) for rows in ROWS[:most]}
    }
    return result


def step_milliseconds(rows: int, rounds: int) -> float:
    """Return the CPU milliseconds of a training step on so many sentences, without what comes before and after."""
    words = [f"word{number}" for number in range(500)]
    draw = torch.randint(0, len(words), (rows, 8), generator=torch.Generator().manual_seed(0)).tolist()
    sentences = [" ".join(words[place] for place in row) for row in draw]
    model, processor = model_for_data(sentences[:1000], "text")

    def run(steps: int) -> float:
        with tempfile.TemporaryDirectory() as folder:
            fixed = {"eval_strategy": "no", "save_strategy": "no", "report_to": "none", "disable_tqdm": True}
            arguments = EDDPMTrainingArguments(
                folder, max_steps=steps, per_device_train_batch_size=32, use_cpu=True, **fixed
            )
            trainer = EDDPMTrainer(model, args=arguments, processor=processor, train_dataset=sentences)
            return timed(trainer.train)[1].cpu

    run(2)
    return 1000 * median(run(MORE) - run(FEW) for _ in range(rounds)) / (MORE - FEW)


def draw(result: dict[str, dict[str, dict[int, float]]]) -> plt.Figure:
    """Draw a panel for each thing that grows."""
    figure, panels = plt.subplots(1, len(result), figsize=(4 * len(result), 3.4), layout="constrained")
    for panel, (what, curves) in zip(panels, result.items(), strict=True):
        for name, points in curves.items():
            panel.loglog(list(points), list(points.values()), marker="o", label=name)
        panel.set_xlabel(what)
        values = [value for points in curves.values() for value in points.values()]
        panel.set_ylim(min(1.0, *values) / 2, 2 * max(values))
        panel.yaxis.set_minor_formatter(NullFormatter())
        panel.legend(frameon=False)
    panels[0].set_ylabel("CPU ms of one datum")
    panels[-1].set_ylabel("CPU ms of one step")
    return figure


def main(words: Sequence[str] | None = None) -> None:
    """Measures, writes the JSON file and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the median counts")
    parser.add_argument("--most", type=int, default=9, help="sizes of each kind, the smallest first")
    parser.add_argument("--output", type=Path, required=True, help="JSON file; the picture goes beside it")
    arguments = parser.parse_args(words)
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    given = sys.argv[1:] if words is None else words
    result: dict[str, Any] = {"command": describe_command("training/studies/speed/growth.py", given)}
    result |= {**describe_environment(torch.device("cpu")), "milliseconds": measure(arguments.rounds, arguments.most)}
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    draw(result["milliseconds"]).savefig(arguments.output.with_suffix(".png"), dpi=80)


if __name__ == "__main__":
    main()
