"""Trains one small model per recipe, setting and seed, measures each alike, and draws the fronts they span.

    python training/benchmark_protein.py training/configs/protein_front.json --train train.csv.gz \\
        --dev validation.csv.gz --output_dir training/results/protein_front

The recipes share networks, data and number of steps. Each is swept over its rate knob: the encoder's noise variance
for the default and for two-stage latent diffusion (no gradient of the diffusion loss reaches the encoder), the
diffusion weight for the paper's objective, the KL weight for a variational autoencoder. Beside them stand the two-
stage autoencoder with a Gaussian fitted to its latents in place of the chain, and a language model of about as many
parameters, which reconstructs nothing. One JSON per run is written as it ends, and a run whose JSON exists is not
repeated: an interrupted benchmark goes on where it stopped.
"""

import argparse
import json
import re
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
import torch

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 (the backend is chosen first: no screen is needed)

from environment import describe_environment  # noqa: E402
from hf_eddpm import EDDPMPipeline, EDDPMScheduler  # noqa: E402
from hf_eddpm.model_card import TRAINING_FILE, markdown_table  # noqa: E402
from hf_eddpm.residues import PADDING_ID, START_ID, STOP_ID, VOCAB_SIZE  # noqa: E402
from prior_baselines import PriorPipeline  # noqa: E402
from protein_data import ProteinData  # noqa: E402
from protein_metrics import (  # noqa: E402
    SequenceFrechet,
    reconstruction_accuracy,
    regression_metrics,
    to_frames,
    validity,
)
from text_metrics import uniqueness  # noqa: E402
from train_protein import main as train_protein  # noqa: E402
from train_protein import parse_data  # noqa: E402

NOISE = "encoder_noise_variance"
PAPER = {
    "latent_normalization": "none",
    "encoder_gradient_scale": 1.0,
    "encoder_noise_variance": 0.008,
    "alignment_target": "mean",
    "prediction_type": "epsilon",
    "reconstruction_weight": None,
}
LANGUAGE_MODEL = {
    "encoder": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 16},
    "decoder": {
        "model_type": "gpt2",
        "n_embd": 128,
        "n_layer": 5,
        "n_head": 4,
        "n_positions": 64,
        "vocab_size": VOCAB_SIZE,
        "pad_token_id": PADDING_ID,
        "bos_token_id": START_ID,
        "eos_token_id": STOP_ID,
    },
}
NUM_SAMPLES = 10_000
NUM_INFERENCE_STEPS = 50
SAMPLING_SEED = 0
MEASURES = {
    "site_accuracy": "site accuracy",
    "exact_match": "exact match",
    "frechet": "Frechet distance of samples",
    "pearson": "fitness, Pearson",
    "spearman": "Spearman",
    "validity": "valid",
    "uniqueness": "unique",
}


@dataclass(frozen=True)
class Run:
    """One point of a front: a recipe, and the value of its knob."""

    recipe: str
    knob: str
    value: float
    model_config: dict[str, Any]
    prior: Literal["chain", "fitted", "standard", "language model"] = "chain"


@dataclass(frozen=True)
class Frame:
    """Where proteins are compared site by site, whatever frame a model has."""

    length: int
    alignment: str

    def __call__(self, sequences: Sequence[str]) -> Any:
        """Place the sequences in the frame."""
        return to_frames(sequences, self.length, self.alignment)


def runs() -> list[Run]:
    """All points, the middle of each line first, so that an interrupted benchmark still compares all recipes."""
    points = [
        Run("paper", "diffusion_weight", weight, {**PAPER, "diffusion_weight": weight}) for weight in (0.3, 1.0, 3.0)
    ]
    for recipe, share in (("two-stage", 0.0), ("default", 0.1)):
        for variance in (0.03, 0.1, 0.3):
            points.append(Run(recipe, NOISE, variance, {"encoder_gradient_scale": share, NOISE: variance}))
    for variance in (0.03, 0.1, 0.3):
        config = {"encoder_gradient_scale": 0.0, NOISE: variance}
        points.append(Run("autoencoder, Gaussian prior", NOISE, variance, config, "fitted"))
    points += [Run("VAE", "kl_weight", weight, {}, "standard") for weight in (0.003, 0.01, 0.03, 0.1)]
    layers = LANGUAGE_MODEL["decoder"]["n_layer"]
    points.append(Run("language model", "layers", layers, LANGUAGE_MODEL, "language model"))
    middles = {"diffusion_weight": 1.0, NOISE: 0.1, "kl_weight": 0.01, "layers": layers}
    return sorted(points, key=lambda run: run.value != middles[run.knob])


@torch.no_grad()
def measure(
    run: Run, pipe: EDDPMPipeline, train: ProteinData, dev: ProteinData, frame: Frame, frechet: SequenceFrechet
) -> dict[str, float]:
    """Reconstruction, prediction and samples of one model on the held-out proteins."""
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = EDDPMScheduler(**pipe.model.config.scheduler_config)  # DDIM for all
    dev_frames = frame(dev.sequences)
    result: dict[str, float] = {}
    if run.prior != "language model":
        latents = pipe.encode(dev.sequences).latents
        result |= reconstruction_accuracy(frame(pipe.decode(latents)), dev_frames)
    if pipe.model.property_head is not None:
        predictions = pipe.predict(dev.sequences).double().numpy()[:, 0]
        scores = regression_metrics(predictions, dev.properties[:, 0])
        result |= {name: scores[name] for name in ("mse", "pearson", "spearman")}
    if run.prior != "chain":
        pipe = PriorPipeline.around(pipe)
    if run.prior == "fitted":
        pipe.fit(pipe.encode(train.sample(20_000, SAMPLING_SEED).sequences).latents)
    if run.prior == "language model":
        pipe.decoding = {"do_sample": True, "top_k": 0}
    generator = torch.Generator().manual_seed(SAMPLING_SEED)
    samples = pipe(NUM_SAMPLES, num_inference_steps=NUM_INFERENCE_STEPS, generator=generator).samples
    real = train.sample(NUM_SAMPLES, SAMPLING_SEED).sequences
    return {
        **result,
        "frechet": frechet.distance(frame(samples), dev_frames),
        "real_frechet": frechet.distance(frame(real), dev_frames),
        "validity": validity(samples),
        "uniqueness": uniqueness(samples),
    }


def summarize(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over training seeds of each point, ordered by recipe and value."""
    points: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for result in results:
        points.setdefault((result["recipe"], result["value"]), []).append(result)
    rows = []
    for (recipe, value), group in sorted(points.items()):
        row: dict[str, Any] = {"recipe": recipe, "knob": group[0]["knob"], "value": value, "seeds": len(group)}
        for name in MEASURES:
            values = [result[name] for result in group if name in result]
            if values:
                row[name] = (float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)
        rows.append(row)
    return rows


def draw(results: list[dict[str, Any]], output: Path) -> str:
    """Writes the picture (down and to the right is better) and the table beside it; returns the table."""
    points = summarize(results)
    figure, axes = plt.subplots(figsize=(7, 6), layout="constrained")
    for recipe, marker in zip(dict.fromkeys(point["recipe"] for point in points), "osD^vPX*", strict=False):
        line = [point for point in points if point["recipe"] == recipe]
        if "exact_match" not in line[0]:  # nothing to reconstruct with
            axes.axhline(line[0]["frechet"][0], linestyle=":", color="black", label=recipe)
            continue
        spans = {name: [point[name][1] or 0.0 for point in line] for name in ("exact_match", "frechet")}
        axes.errorbar(
            [point["exact_match"][0] for point in line],
            [point["frechet"][0] for point in line],
            xerr=spans["exact_match"],
            yerr=spans["frechet"],
            marker=marker,
            capsize=2,
            label=f"{recipe} ({line[0]['knob'].replace('_', ' ')})",
        )
        for point in line:
            place = (point["exact_match"][0], point["frechet"][0])
            axes.annotate(f"{point['value']:g}", place, xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.axhline(np.mean([result["real_frechet"] for result in results]), linestyle="--", color="grey", label="real")
    axes.set_yscale("log")
    axes.set_xlabel("exact reconstructions of held-out proteins")
    axes.set_ylabel("Frechet distance of samples (log scale)")
    axes.grid(alpha=0.3, which="both")
    figure.legend(loc="outside upper center", ncols=2, fontsize="small")
    figure.savefig(output, dpi=150)
    plt.close(figure)

    rows = []
    for point in points:
        row = {name: point[name] for name in ("recipe", "knob", "seeds")} | {"value": f"{point['value']:g}"}
        for name, title in MEASURES.items():
            if name in point:
                mean, std = point[name]
                row[title] = f"{mean:.3f}" if std is None else f"{mean:.3f} ± {std:.3f}"
        rows.append(row)
    table = markdown_table(rows)
    output.with_suffix(".md").write_text(table + "\n", encoding="utf-8")
    return table


def main() -> None:
    """Runs what is missing and draws the fronts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="configuration file of train_protein.py")
    parser.add_argument("--train", nargs="+", required=True, help="training proteins")
    parser.add_argument("--dev", nargs="+", required=True, help="held-out proteins")
    parser.add_argument("--output_dir", required=True, help="where the JSON files and the plot go")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="training seeds")
    parser.add_argument("--max_steps", type=int, help="training steps of each run, in place of the file's")
    parser.add_argument("--num_threads", type=int, default=2)
    parser.add_argument("--use_cpu", action="store_true")
    arguments = parser.parse_args()

    output = Path(arguments.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    words = [arguments.config, "--train", *arguments.train, "--dev", *arguments.dev]
    words += ["--use_cpu"] if arguments.use_cpu else []
    words += ["--max_steps", str(arguments.max_steps)] if arguments.max_steps else []
    given = json.loads(Path(arguments.config).read_text(encoding="utf-8"))
    base = given.get("model_config", {})
    train, dev = parse_data(words)
    frame = Frame(given["length"], given["alignment"])
    frechet = SequenceFrechet(frame(train.sequences))
    for seed in arguments.seeds:
        for run in runs():
            name = re.sub("[^a-z0-9.]+", "-", f"{run.recipe} {run.value} seed {seed}".lower())
            file = output / f"{name}.json"
            if file.exists():
                continue
            folder = output / f".{name}"
            start = time.perf_counter()
            pipeline = train_protein(
                [
                    *words,
                    *("--model_config", json.dumps({**base, **run.model_config}), "--seed", str(seed)),
                    *("--output_dir", str(folder)),
                    *("--eval_strategy", "no", "--save_strategy", "no", "--num_previews", "0"),
                    *("--disable_tqdm", "true", "--num_threads", str(arguments.num_threads)),
                    *{
                        "standard": ("--vae_kl_weight", str(run.value)),
                        "language model": ("--no_latents", "true", "--alignment", "left"),
                    }.get(run.prior, ()),
                ]
            )
            seconds = time.perf_counter() - start
            pipe = EDDPMPipeline.from_pretrained(pipeline)
            facts = json.loads((pipeline / TRAINING_FILE).read_text(encoding="utf-8"))
            result = {**asdict(run), "seed": seed, "max_steps": facts["steps"], "batch_size": facts["batch_size"]}
            result |= {**measure(run, pipe, train, dev, frame, frechet), "train_seconds": round(seconds, 1)}
            result |= {"num_parameters": pipe.model.num_parameters(), **describe_environment(pipe.device)}
            shutil.rmtree(folder)
            file.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            print(f"{name}: {result.get('exact_match', 0):.3f} exact, {result['frechet']:.3f}", flush=True)
    files = sorted(output.glob("*.json"))
    print(draw([json.loads(file.read_text(encoding="utf-8")) for file in files], output / "front.png"))


if __name__ == "__main__":
    torch.set_flush_denormal(True)  # as train_protein.py
    main()
