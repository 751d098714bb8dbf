"""Trains one small model per recipe, setting and seed, measures each alike, and draws the fronts they span.

    python training/studies/protein_front/run.py training/configs/protein_front.json --train train.csv.gz \\
        --dev validation.csv.gz --output_dir training/studies/protein_front/results/gifford

The recipes share networks, data and number of steps. Each is swept over its rate knob: the encoder's noise variance
for the default and for two-stage latent diffusion (no gradient of the diffusion loss reaches the encoder), the
diffusion weight for the paper's objective, the KL weight for a variational autoencoder. Beside them stand the two-
stage autoencoder with a Gaussian fitted to its latents in place of the chain, and a language model of about as many
parameters, which reconstructs nothing. One JSON per run is written as it ends, and a run whose JSON exists is not
repeated: an interrupted benchmark goes on where it stopped.

Of each training are measured: reconstruction and fitness of the held-out proteins, paths through the latents between
pairs of them, and training proteins moved along the direction from the least to the most fit ones, scored by
regressors of the held-out proteins, which no model has seen; of each point its samples: in fifty steps of DDIM, and
those of a chain also by the pipeline's own solver and number of steps.
"""

import argparse
import json
import random
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import matplotlib
import numpy as np
import torch

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 (the backend is chosen first: no screen is needed)

from hf_eddpm import EDDPMPipeline, EDDPMScheduler  # noqa: E402
from hf_eddpm.argument_checks import check_count  # noqa: E402
from hf_eddpm.hub.card import TRAINING_FILE, markdown_table  # noqa: E402
from hf_eddpm.metrics.distinct_novelty import uniqueness  # noqa: E402
from hf_eddpm.modalities.protein.data import ProteinData  # noqa: E402
from hf_eddpm.modalities.protein.metrics import (  # noqa: E402
    SequenceFrechet,
    is_valid,
    reconstruction_accuracy,
    regression_metrics,
    to_frames,
    validity,
)
from hf_eddpm.modalities.protein.oracle import EnsembleOracle  # noqa: E402
from hf_eddpm.modalities.protein.residues import PADDING_ID, START_ID, STOP_ID, VOCAB_SIZE  # noqa: E402
from hf_eddpm.modalities.text.metrics import path_smoothness  # noqa: E402
from hf_eddpm.training.baselines.priors import PriorPipeline  # noqa: E402
from hf_eddpm.training.environment import describe_environment  # noqa: E402
from hf_eddpm.training.evaluation import result_file  # noqa: E402
from hf_eddpm.training.train_protein import main as train_protein  # noqa: E402
from hf_eddpm.training.train_protein import parse_data  # noqa: E402

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
NUM_PATHS = 200
PATH_STEPS = 11
MIDDLE = slice(4, 7)  # the points of a path that lie in its middle third
NUM_EXTREMES = 2000  # of the most and of the least fit proteins, whose means the direction joins
NUM_EDITS = 500
EDIT_SCALES = (0.0, 1.0, 2.0)  # 0 is plain reconstruction, 1 the whole way from the least to the most fit
ORACLE_MEMBERS = 3
SAMPLING_SEED = 0
MEASURES = {
    "site_accuracy": "site accuracy",
    "exact_match": "exact match",
    "frechet": "Frechet distance of samples",
    "pearson": "fitness, Pearson",
    "spearman": "Spearman",
    "validity": "valid",
    "uniqueness": "unique",
    "solver_frechet": "Frechet distance, own solver",
    "solver_uniqueness": "unique, own solver",
}
WALK_MEASURES = {
    "path_validity": "valid between",
    "path_length": "path length",
    "largest_step": "largest step",
    "middle_frechet": "Frechet distance of the middle",
    **{
        f"edit_{name}_{scale:g}": f"{title}, {scale:g}"
        for name, title in (("score_change", "score change"), ("identity", "residues left"), ("validity", "valid"))
        for scale in EDIT_SCALES
    },
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


@dataclass
class Judges:
    """The data and what is fitted to them once, for all points."""

    train: ProteinData
    dev: ProteinData
    frame: Frame
    num_samples: int = NUM_SAMPLES
    frechet: SequenceFrechet = field(init=False)
    oracle: EnsembleOracle | None = field(init=False, default=None)  # of the first property, if there is one

    def __post_init__(self) -> None:
        self.frechet = SequenceFrechet(self.frame(self.train.sequences))
        if self.dev.property_names:
            self.oracle = EnsembleOracle.fit(
                self.dev.sequences,
                self.dev.properties[:, 0],
                self.frame.length,
                self.frame.alignment,
                ORACLE_MEMBERS,
                SAMPLING_SEED,
            )


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


def trainings(points: Sequence[Run]) -> list[list[Run]]:
    """The points, those of one training together: the Gaussian is fitted to the two-stage autoencoder's latents."""
    groups: dict[str, list[Run]] = {}
    for run in points:
        kind = "chain" if run.prior in ("chain", "fitted") else f"{run.prior} {run.value}"
        groups.setdefault(kind + json.dumps(run.model_config, sort_keys=True), []).append(run)
    return list(groups.values())


def select(points: Sequence[Run], recipes: Sequence[str] | None, values: Sequence[float] | None) -> list[Run]:
    """The points of these recipes at these values; `None` for all.

    Raises:
        ValueError: If a recipe is unknown, or a value is one of none of them.
    """
    known = list(dict.fromkeys(run.recipe for run in points))
    if unknown := [recipe for recipe in recipes or [] if recipe not in known]:
        raise ValueError(f"`recipes` must be among {known}, got {unknown}.")
    points = [run for run in points if recipes is None or run.recipe in recipes]
    allowed = sorted({run.value for run in points})
    if unknown_values := [value for value in values or [] if value not in allowed]:
        raise ValueError(f"`values` must be among {allowed}, those of the recipes, got {unknown_values}.")
    return [run for run in points if values is None or run.value in values]


@torch.no_grad()
def measure(points: Sequence[Run], pipe: EDDPMPipeline, judges: Judges) -> list[dict[str, Any]]:
    """Measures one training by the held-out proteins, and the samples of each of its points."""
    pipe.set_progress_bar_config(disable=True)
    dev = judges.dev
    shared: dict[str, Any] = {}
    if points[0].prior != "language model":
        frames = judges.frame(pipe.decode(pipe.encode(dev.sequences).latents))
        shared |= reconstruction_accuracy(frames, judges.frame(dev.sequences))
        shared |= measure_paths(pipe, judges)
        if judges.oracle is not None:
            shared |= measure_edits(pipe, judges, judges.oracle)
    if pipe.model.property_head is not None:
        predictions = pipe.predict(dev.sequences).double().numpy()[:, 0]
        scores = regression_metrics(predictions, dev.properties[:, 0])
        shared |= {name: scores[name] for name in ("mse", "pearson", "spearman")}
    return [{**shared, **measure_samples(run, pipe, judges)} for run in points]


def measure_samples(run: Run, pipe: EDDPMPipeline, judges: Judges) -> dict[str, float]:
    """Samples of one point beside as many training proteins."""
    dev_frames = judges.frame(judges.dev.sequences)

    def draw_samples(pipe: EDDPMPipeline, **arguments: Any) -> dict[str, float]:
        generator = torch.Generator().manual_seed(SAMPLING_SEED)
        samples = pipe(judges.num_samples, generator=generator, **arguments).samples
        distance = judges.frechet.distance(judges.frame(samples), dev_frames)
        return {"frechet": distance, "validity": validity(samples), "uniqueness": uniqueness(samples)}

    result: dict[str, float] = {}
    if run.prior == "chain":
        result |= {f"solver_{name}": value for name, value in draw_samples(pipe).items()}
        ddim = EDDPMScheduler(**pipe.model.config.scheduler_config)
        pipe = EDDPMPipeline(pipe.model, ddim, pipe.processor)
        pipe.set_progress_bar_config(disable=True)
    else:
        pipe = PriorPipeline.around(pipe)
    if run.prior == "fitted":
        pipe.fit(pipe.encode(judges.train.sample(20_000, SAMPLING_SEED).sequences).latents)
    if run.prior == "language model":
        pipe.decoding = {"do_sample": True, "top_k": 0}
    real = judges.train.sample(judges.num_samples, SAMPLING_SEED).sequences
    return {
        **result,
        **draw_samples(pipe, num_inference_steps=NUM_INFERENCE_STEPS),
        "num_samples": judges.num_samples,
        "real_frechet": judges.frechet.distance(judges.frame(real), dev_frames),
    }


def measure_paths(pipe: EDDPMPipeline, judges: Judges) -> dict[str, float | int | None]:
    """Paths through the latents, along the arc, between pairs of held-out proteins.

    `path_smoothness` counts residues where it counts words in text. The middle's distance from the held-out proteins
    stands beside that of as many training proteins (`real_middle_frechet`).
    """
    pairs = min(NUM_PATHS, len(judges.dev) // 2)
    chosen = random.Random(SAMPLING_SEED).sample(judges.dev.sequences, 2 * pairs)
    paths = pipe.interpolate(chosen[:pairs], chosen[pairs:], num_steps=PATH_STEPS, space="latents", noise_level=0)
    middle = [protein for path in paths for protein in path[MIDDLE]]
    real = judges.train.sample(len(middle), SAMPLING_SEED).sequences
    dev_frames = judges.frame(judges.dev.sequences)
    return {
        "path_validity": validity([protein for path in paths for protein in path[1:-1]]),
        **asdict(path_smoothness([[" ".join(protein) for protein in path] for path in paths])),
        "middle_frechet": judges.frechet.distance(judges.frame(middle), dev_frames),
        "real_middle_frechet": judges.frechet.distance(judges.frame(real), dev_frames),
    }


def measure_edits(pipe: EDDPMPipeline, judges: Judges, oracle: EnsembleOracle) -> dict[str, Any]:
    """Training proteins moved along the direction from the least to the most fit ones, judged by the oracle.

    They are not held-out ones, as the oracle has learned from those. `edit_score_change_1` is the mean change of the
    oracle's score from the protein itself to what it becomes at scale 1, over those that stay valid, and
    `edit_identity_1` the share of residues that stay at their sites; at scale 0 both say what reconstruction alone
    changes.
    """
    train = judges.train
    known = np.flatnonzero(~np.isnan(train.properties[:, 0]))
    order = known[np.argsort(train.properties[known, 0], kind="stable")]
    count = min(NUM_EXTREMES, len(order) // 2)
    least, most = order[:count], order[len(order) - count :]
    direction = pipe.direction(train.take(most).sequences, train.take(least).sequences)
    originals = train.sample(NUM_EDITS, SAMPLING_SEED).sequences
    scores = oracle(originals)
    result: dict[str, Any] = {"oracle_pearson": oracle.out_of_fold["pearson"]}
    for scale in EDIT_SCALES:
        edited = pipe.edit(originals, direction=direction, scale=scale)
        valid = [row for row, protein in enumerate(edited) if is_valid(protein)]
        change = (oracle([edited[row] for row in valid]) - scores[valid]).mean() if valid else None
        left = reconstruction_accuracy(judges.frame(edited), judges.frame(originals))["residue_accuracy"]
        result[f"edit_score_change_{scale:g}"] = None if change is None else float(change)
        result[f"edit_identity_{scale:g}"] = left
        result[f"edit_validity_{scale:g}"] = len(valid) / len(edited)
    return result


def summarize(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Mean and standard deviation over training seeds of each point, ordered by recipe and value."""
    points: dict[tuple[str, float], list[dict[str, Any]]] = {}
    for result in results:
        points.setdefault((result["recipe"], result["value"]), []).append(result)
    rows = []
    for (recipe, value), group in sorted(points.items()):
        row: dict[str, Any] = {"recipe": recipe, "knob": group[0]["knob"], "value": value, "seeds": len(group)}
        for name in (*MEASURES, *WALK_MEASURES):
            values = [result[name] for result in group if result.get(name) is not None]
            if values:
                row[name] = (float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None)
        rows.append(row)
    return rows


def draw(results: list[dict[str, Any]], output: Path) -> str:
    """Writes the picture (down and to the right is better) and the tables beside it; returns the tables."""
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

    tables = table(points, MEASURES)
    if walks := [point for point in points if "path_validity" in point]:
        tables += f"\n\n{table(walks, WALK_MEASURES)}"
    output.with_suffix(".md").write_text(tables + "\n", encoding="utf-8")
    return tables


def table(points: Sequence[dict[str, Any]], measures: dict[str, str]) -> str:
    """A row for each point that `summarize` returned; a measure is a column, in their order, if any point has it."""
    measures = {name: title for name, title in measures.items() if any(name in point for point in points)}
    rows = []
    for point in points:
        row = {name: point[name] for name in ("recipe", "knob", "seeds")} | {"value": f"{point['value']:g}"}
        for name, title in measures.items():
            mean, std = point.get(name, (None, None))
            spread = "" if std is None else f" ± {std:.3f}"
            row[title] = "" if mean is None else f"{mean:.3f}{spread}"
        rows.append(row)
    return markdown_table(rows)


def point_file(output: Path, run: Run, seed: int) -> Path:
    """Where a point's result goes."""
    return result_file(output, f"{run.recipe} {run.value} seed {seed}")


def main(args: list[str] | None = None) -> None:
    """Runs what is missing and draws the fronts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="configuration file of train_protein.py")
    parser.add_argument("--train", nargs="+", required=True, help="training proteins")
    parser.add_argument("--dev", nargs="+", required=True, help="held-out proteins")
    parser.add_argument("--output_dir", required=True, help="where the JSON files and the plot go")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="training seeds")
    parser.add_argument("--recipes", nargs="+", help="only these recipes")
    parser.add_argument("--values", nargs="+", type=float, help="only these values of the recipes' knobs")
    parser.add_argument("--max_steps", type=int, help="training steps of each run, in place of the file's")
    parser.add_argument("--num_samples", type=int, default=NUM_SAMPLES, help="samples of each point")
    parser.add_argument("--num_threads", type=int, default=2)
    parser.add_argument("--use_cpu", action="store_true")
    arguments = parser.parse_args(args)
    check_count(arguments.num_samples, "num_samples", minimum=2)
    chosen = trainings(select(runs(), arguments.recipes, arguments.values))

    output = Path(arguments.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    words = [arguments.config, "--train", *arguments.train, "--dev", *arguments.dev]
    words += ["--use_cpu"] if arguments.use_cpu else []
    words += ["--max_steps", str(arguments.max_steps)] if arguments.max_steps else []
    given = json.loads(Path(arguments.config).read_text(encoding="utf-8"))
    base = given.get("model_config", {})
    judges = Judges(*parse_data(words), Frame(given["length"], given["alignment"]), arguments.num_samples)
    for seed in arguments.seeds:
        for group in chosen:
            points = [run for run in group if not point_file(output, run, seed).exists()]
            if not points:
                continue
            run = points[0]
            folder = output / f".{point_file(output, run, seed).stem}"
            start = time.perf_counter()
            # A point's blocks replace the configuration's, where the command line would merge into them.
            folder.mkdir(exist_ok=True)
            config = folder / "config.json"
            config.write_text(json.dumps({**given, "model_config": {**base, **run.model_config}}), encoding="utf-8")
            pipeline = train_protein(
                [
                    *(str(config), *words[1:], "--seed", str(seed)),
                    *("--output_dir", str(folder)),
                    *("--eval_strategy", "no", "--save_strategy", "no", "--num_previews", "0"),
                    *("--disable_tqdm", "true", "--num_threads", str(arguments.num_threads)),
                    *{
                        "standard": ("--vae_kl_weight", str(run.value)),
                        "language model": ("--no_latents", "true", "--alignment", "left"),
                    }.get(run.prior, ()),
                ]
            )
            seconds = round(time.perf_counter() - start, 1)
            pipe = EDDPMPipeline.from_pretrained(pipeline)
            facts = json.loads((pipeline / TRAINING_FILE).read_text(encoding="utf-8"))
            about = {"seed": seed, "max_steps": facts["steps"], "batch_size": facts["batch_size"]}
            machine = {"num_parameters": pipe.model.num_parameters(), **describe_environment(pipe.device)}
            for point, measured in zip(points, measure(points, pipe, judges), strict=True):
                result = {**asdict(point), **about, **measured, "train_seconds": seconds, **machine}
                text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
                point_file(output, point, seed).write_text(text, encoding="utf-8")
                print(f"{point.recipe} {point.value}, seed {seed}: Frechet {measured['frechet']:.3f}", flush=True)
            shutil.rmtree(folder)
    files = sorted(output.glob("*.json"))
    print(draw([json.loads(file.read_text(encoding="utf-8")) for file in files], output / "front.png"))


if __name__ == "__main__":
    torch.set_flush_denormal(True)  # as train_protein.py
    main()
