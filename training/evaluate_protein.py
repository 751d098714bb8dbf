"""Measures a protein checkpoint on held-out sequences: one JSON file, and Markdown tables.

    python training/evaluate_protein.py --checkpoint runs/gifford/pipeline --output gifford.json \\
        --train gifford/train.csv.gz --dev gifford/validation.csv.gz --padding_symbol J

With `--update_card` the result is also stored in the checkpoint's folder, and its model card written anew.

`--train` are the sequences the model was trained on and `--dev` those it was selected on. The test split stays out of
this script. What is measured, by functions of `protein_metrics.py` unless said otherwise:

- **reconstruction** of decoded posterior means: accuracy by site and by residue, exact matches, valid sequences.
- **fitness**: errors and correlations of `pipe.predict` on held-out sequences, beside ridge regression and a small
  convolutional network on one-hot sequences, trained here on `--train`; and how **smooth** the measured fitness is
  over the latents' neighbour graph, beside the same for shuffled fitness.
- **samples**, for each number of denoising steps, as mean and standard deviation over seeds: validity, uniqueness,
  novelty, edit distance between two, and the distance from the held-out sequences in k-mers, sites and a projection of
  one-hot sequences. Beside them ("reference") as many training sequences in the place of the samples.
- **latents**: how they fill their space; **reach**: how far sampled latents lie from real posterior means, which are
  what `encode` returns, for each number of steps.
- **optimisation** of training sequences by every method, judged by an oracle that is never the model's own predictor:
  an ensemble trained on `--dev` (see protein_oracle.py) or, with `--ehrlich`, the function that made the data. Beside
  them the starts, generated sequences, and a genetic algorithm that asks the judge itself: with twice as many oracle
  calls as there are starts, which is what scoring the starts and one proposal for each costs, and with more.
"""

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein
from tqdm import tqdm
from transformers import HfArgumentParser

from ehrlich import EhrlichFunction
from environment import describe_command, describe_environment
from evaluation import (
    NUM_REAL,
    Parts,
    Stopwatch,
    as_embeddings,
    describe_sampler,
    draw_latents,
    latent_statistics,
    plain_config,
    reach_statistics,
    read_evaluation,
    spread,
    with_earlier,
)
from genetic import genetic_algorithm
from hf_eddpm import EDDPMPipeline
from hf_eddpm.model_card import EVALUATION_FILE
from hf_eddpm.residues import FIRST_RESIDUE_ID
from protein_card import write_protein_card
from protein_data import ProteinData, load_proteins
from protein_metrics import (
    SequenceFrechet,
    is_valid,
    kmer_divergence,
    latent_smoothness,
    mean_pairwise_levenshtein,
    reconstruction_accuracy,
    regression_metrics,
    site_divergence,
    to_frames,
    validity,
)
from protein_oracle import EnsembleOracle, fit_cnn, fit_ridge
from protein_tables import markdown_tables
from text_metrics import novelty, uniqueness

METHODS = ("gradient", "guided", "mcmc", "hill_climb", "ode")
NUM_EXAMPLES = 10
NUM_SHUFFLES = 10
JUDGES = ("numpy", "scipy", "scikit-learn", "rapidfuzz")  # libraries that the metrics are computed with

Oracle = EnsembleOracle | EhrlichFunction


@dataclass
class EvaluationArguments:
    """What to evaluate, and where to write the result."""

    checkpoint: str = field(metadata={"help": "Folder or Hub id of the pipeline."})
    train: list[str] = field(metadata={"help": "Sequences the model was trained on: files or a Hub id."})
    dev: list[str] = field(metadata={"help": "Held-out sequences, in the same forms."})
    train_split: str | None = field(default=None, metadata={"help": "Split of a Hub data set for --train."})
    dev_split: str | None = field(default=None, metadata={"help": "Split of a Hub data set for --dev."})
    sequence_column: str = field(default="sequence", metadata={"help": "Column that holds the sequence."})
    property_columns: list[str] = field(
        default_factory=lambda: ["fitness"], metadata={"help": "Columns of the properties, as in training."}
    )
    padding_symbol: str | None = field(default=None, metadata={"help": "Letter that the files pad sequences with."})
    upper_case: bool = field(default=False, metadata={"help": "Turn lower-case letters into upper case."})
    ehrlich: str | None = field(
        default=None, metadata={"help": "function.json of ehrlich.py, whose values the first property holds."}
    )
    recipe: str | None = field(default=None, metadata={"help": "Name of the training recipe."})
    device: str = field(default="cpu", metadata={"help": "Torch device, for example cuda."})
    output: str | None = field(default=None, metadata={"help": "JSON file to write."})
    keep: str | None = field(
        default=None,
        metadata={"help": "JSON file of an earlier evaluation of these weights; only the samples are measured anew."},
    )
    update_card: bool = field(
        default=False, metadata={"help": "Store the result in the checkpoint's folder and rewrite its model card."}
    )

    def __post_init__(self) -> None:
        if self.update_card and not Path(self.checkpoint).is_dir():
            raise ValueError(f"`update_card` needs a local folder as `checkpoint`, got {self.checkpoint!r}.")


@dataclass
class EvaluationSettings:
    """How much to measure. The defaults are those of the published numbers."""

    num_samples: int = field(default=10_000, metadata={"help": "Generated sequences per number of steps and seed."})
    num_inference_steps: list[int] = field(
        default_factory=lambda: [5, 10, 20, 50, 100], metadata={"help": "Numbers of denoising steps to sample with."}
    )
    seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds; the first also draws every subset of the data."}
    )
    refinement_steps: list[int] = field(
        default_factory=lambda: [10],
        metadata={"help": "Gradient steps to refine the latents by before reconstructing, each beside none at all."},
    )
    num_neighbors: int = field(default=10, metadata={"help": "Neighbours in the graph over the latents."})
    no_baselines: bool = field(default=False, metadata={"help": "Leave out the regressions on one-hot sequences."})
    no_optimize: bool = field(default=False, metadata={"help": "Leave out the optimisation and its oracle."})
    methods: list[str] = field(default_factory=lambda: list(METHODS), metadata={"help": "Methods of optimisation."})
    num_starts: int = field(default=128, metadata={"help": "Training sequences to optimise the first property of."})
    optimize_steps: int = field(default=50, metadata={"help": "Steps of each method."})
    max_mutations: int | None = field(default=None, metadata={"help": "Most mutations of a start; any by default."})
    genetic_budgets: list[int] = field(
        default_factory=lambda: [2, 11],
        metadata={"help": "Oracle calls of the genetic algorithm, as multiples of `num_starts`, at least 2."},
    )
    oracle_members: int = field(default=5, metadata={"help": "Regressors of the oracle."})
    num_epochs: int = field(default=20, metadata={"help": "Epochs of the oracle's regressors and the baseline's."})
    batch_size: int = field(default=512, metadata={"help": "Sequences per forward pass."})
    limit: int | None = field(
        default=None, metadata={"help": "Upper bound for every number of sequences, for a quick look."}
    )

    def __post_init__(self) -> None:
        names = ("num_samples", "num_neighbors", "num_starts", "optimize_steps", "num_epochs", "batch_size", "limit")
        for name in names:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        if not self.seeds or not self.num_inference_steps:
            raise ValueError("`seeds` and `num_inference_steps` must each hold at least one number.")
        if any(steps < 1 for steps in self.refinement_steps):
            raise ValueError(f"`refinement_steps` must be at least 1, got {self.refinement_steps}.")
        if unknown := sorted(set(self.methods) - set(METHODS)):
            raise ValueError(f"`methods` must be among {METHODS}, got {unknown}.")
        if any(multiple < 2 for multiple in self.genetic_budgets):
            raise ValueError(f"`genetic_budgets` must be at least 2, got {self.genetic_budgets}.")
        if self.limit is not None:
            for name in ("num_samples", "num_starts"):
                setattr(self, name, min(getattr(self, name), self.limit))


def evaluate(
    pipe: EDDPMPipeline,
    train: ProteinData,
    dev: ProteinData,
    settings: EvaluationSettings,
    ehrlich: EhrlichFunction | None = None,
    earlier: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Measures a pipeline.

    Args:
        pipe: A protein pipeline, on the device to use.
        train: The sequences it was trained on, with its properties in the head's order.
        dev: Held-out sequences.
        settings: How much to measure.
        ehrlich: The function that the first property holds values of, if it is one.
        earlier: An evaluation of the same weights whose parts are kept, but for the samples: for another scheduler.

    Returns:
        A JSON-serialisable dictionary; see the top of this file for its parts.

    Raises:
        ValueError: The data have another number of properties than the model predicts, or the earlier evaluation is
            of other weights.
    """
    num_properties = pipe.model.config.num_properties
    if num_properties and len(train.property_names) != num_properties:
        raise ValueError(
            f"`property_columns` must name the {num_properties} properties that the model predicts, in their order; "
            f"got {train.property_names}."
        )
    pipe.set_progress_bar_config(disable=True)
    stopwatch = Stopwatch()
    seed = settings.seeds[0]
    if settings.limit is not None:
        train, dev = train.sample(settings.limit, seed), dev.sample(settings.limit, seed)
    train_frames, dev_frames = (_frames(pipe, data.sequences) for data in (train, dev))

    with stopwatch("encode"):
        latents = pipe.encode(dev.sequences, batch_size=settings.batch_size).latents
        real_latents = pipe.encode(train.sample(NUM_REAL, seed).sequences, batch_size=settings.batch_size).latents
    embeddings = as_embeddings(latents)
    result: dict[str, Any] = {
        "settings": asdict(settings),
        "num_train_sequences": len(train),
        "num_dev_sequences": len(dev),
        "num_parameters": pipe.model.num_parameters(),
        "sampler": describe_sampler(pipe),
        "config": plain_config(pipe),
        "latents": latent_statistics(embeddings, pipe.model.config.encoder_noise_variance),
    }
    parts = Parts(result, earlier)
    with stopwatch("reconstruct"):
        reconstruction = _reconstruction(pipe, dev, dev_frames, latents, settings)
    parts.check_weights(reconstruction)
    parts.add("reconstruction", lambda: reconstruction)
    parts.add("refined_reconstruction", lambda: _refined_reconstructions(pipe, dev, dev_frames, settings, stopwatch))
    if train.property_names:
        parts.add("fitness", lambda: _fitness(pipe, train, dev, train_frames, dev_frames, settings, stopwatch))
        with stopwatch("smoothness"):
            parts.add("smoothness", lambda: _smoothness(dev, embeddings, settings))

    frechet = SequenceFrechet(train_frames)
    result["frechet_components"] = frechet.num_components
    parts.add("reference", lambda: _reference(train, dev, train_frames, dev_frames, frechet, settings))
    result["samples"] = {
        str(steps): _samples(pipe, train, dev, dev_frames, frechet, steps, settings, stopwatch)
        for steps in tqdm(settings.num_inference_steps, desc="samples", unit="number of steps")
    }
    with stopwatch("reach"):
        result["reach"] = {
            str(steps): reach_statistics(
                draw_latents(pipe, settings.num_samples, steps, seed, settings.batch_size), latents, real_latents
            )
            for steps in settings.num_inference_steps
        }
    if num_properties and not settings.no_optimize:
        result["optimization"] = _optimization(pipe, train, dev, ehrlich, settings, stopwatch, earlier)
    parts.finish(stopwatch.seconds)
    return result


def _refined_reconstructions(
    pipe: EDDPMPipeline,
    dev: ProteinData,
    dev_frames: NDArray[np.uint8],
    settings: EvaluationSettings,
    stopwatch: Stopwatch,
) -> dict[str, Any]:
    result = {}
    for steps in settings.refinement_steps:
        with stopwatch(f"refine {steps} steps"):
            refined = pipe.encode(dev.sequences, settings.batch_size, refinement_steps=steps).latents
        result[str(steps)] = _reconstruction(pipe, dev, dev_frames, refined, settings)
    return result


def _frames(pipe: EDDPMPipeline, sequences: Sequence[str]) -> NDArray[np.uint8]:
    return to_frames(sequences, pipe.processor.length, pipe.processor.alignment)


def _decode(
    pipe: EDDPMPipeline, latents: torch.Tensor, settings: EvaluationSettings
) -> tuple[list[str], NDArray[np.uint8]]:
    """Decoded sequences and their frames; of a decoder of whole frames as it wrote them, shifted ones included."""
    if pipe.processor.stop:
        sequences = pipe.decode(latents, batch_size=settings.batch_size)
        return sequences, _frames(pipe, sequences)
    sequences, frames = [], []
    with torch.no_grad():
        for chunk in latents.to(pipe.device).split(settings.batch_size):
            ids = pipe.model.decode(chunk)
            sequences += pipe.processor.postprocess(ids)
            frames.append((ids - FIRST_RESIDUE_ID + 1).clamp(min=0).cpu().numpy().astype(np.uint8))
    return sequences, np.concatenate(frames)


def _reconstruction(
    pipe: EDDPMPipeline,
    dev: ProteinData,
    dev_frames: NDArray[np.uint8],
    latents: torch.Tensor,
    settings: EvaluationSettings,
) -> dict[str, Any]:
    sequences, frames = _decode(pipe, latents, settings)
    pairs = [list(pair) for pair in zip(dev.sequences, sequences, strict=True)]
    return {
        **reconstruction_accuracy(frames, dev_frames),
        "validity": validity(sequences),
        "examples": pairs[:: max(1, len(pairs) // NUM_EXAMPLES)][:NUM_EXAMPLES],
    }


def _fitness(
    pipe: EDDPMPipeline,
    train: ProteinData,
    dev: ProteinData,
    train_frames: NDArray[np.uint8],
    dev_frames: NDArray[np.uint8],
    settings: EvaluationSettings,
    stopwatch: Stopwatch,
) -> dict[str, dict[str, Any]]:
    """By property and predictor, what `regression_metrics` says on the held-out sequences."""
    result: dict[str, dict[str, Any]] = {name: {} for name in train.property_names}
    if pipe.model.property_head is not None:
        with stopwatch("predict"):
            predictions = pipe.predict(dev.sequences, batch_size=settings.batch_size).double().cpu().numpy()
        for column, name in enumerate(train.property_names):
            result[name]["model"] = regression_metrics(predictions[:, column], dev.properties[:, column])
    if settings.no_baselines:
        return result
    for column, name in enumerate(train.property_names):
        known = ~np.isnan(train.properties[:, column])
        frames, values = train_frames[known], train.properties[known, column]
        with stopwatch("ridge"):
            ridge = fit_ridge(frames, values, settings.seeds[0])
        with stopwatch("cnn"):
            cnn = fit_cnn(frames, values, settings.seeds[0], settings.num_epochs)
        for predictor, predictions in (("ridge", ridge.predict(dev_frames)), ("cnn", cnn.predict(dev_frames))):
            result[name][predictor] = regression_metrics(predictions, dev.properties[:, column])
    return result


def _smoothness(
    dev: ProteinData, embeddings: NDArray[np.float64], settings: EvaluationSettings
) -> dict[str, dict[str, Any]]:
    """By property, how it varies between neighbours in the latents of held-out sequences, and so shuffled."""
    rng = np.random.default_rng(settings.seeds[0])
    result = {}
    for column, name in enumerate(dev.property_names):
        known = ~np.isnan(dev.properties[:, column])
        points, values = embeddings[known], dev.properties[known, column]
        if len(values) <= settings.num_neighbors or not np.ptp(values) > 0:
            continue
        shuffled = [
            latent_smoothness(points, rng.permutation(values), settings.num_neighbors) for _ in range(NUM_SHUFFLES)
        ]
        result[name] = {
            "value": latent_smoothness(points, values, settings.num_neighbors),
            "shuffled": spread(shuffled),
            "num": len(values),
        }
    return result


def _reference(
    train: ProteinData,
    dev: ProteinData,
    train_frames: NDArray[np.uint8],
    dev_frames: NDArray[np.uint8],
    frechet: SequenceFrechet,
    settings: EvaluationSettings,
) -> dict[str, Any]:
    """The statistics of training sequences in the place of samples, a draw for each seed."""
    by_seed = []
    for seed in settings.seeds:
        num = min(settings.num_samples, len(train))
        rows = np.random.default_rng(seed).choice(len(train), num, replace=False)
        by_seed.append(_statistics(train.take(rows).sequences, train_frames[rows], train, dev, dev_frames, frechet))
    return {"num": num, **{name: spread([values[name] for values in by_seed]) for name in by_seed[0]}}


def _samples(
    pipe: EDDPMPipeline,
    train: ProteinData,
    dev: ProteinData,
    dev_frames: NDArray[np.uint8],
    frechet: SequenceFrechet,
    num_inference_steps: int,
    settings: EvaluationSettings,
    stopwatch: Stopwatch,
) -> dict[str, Any]:
    """Statistics of generated sequences: for each the mean, the standard deviation and the values over the seeds."""
    by_seed, examples = [], []
    for seed in settings.seeds:
        start = time.perf_counter()
        with stopwatch("sample"):
            samples, frames = _generate(pipe, settings.num_samples, num_inference_steps, seed, settings)
        seconds = time.perf_counter() - start
        with stopwatch("sample statistics"):
            statistics = _statistics(samples, frames, train, dev, dev_frames, frechet)
        by_seed.append(statistics | {"seconds": seconds})
        examples = examples or samples[:NUM_EXAMPLES]
    return {**{name: spread([values[name] for values in by_seed]) for name in by_seed[0]}, "examples": examples}


def _generate(
    pipe: EDDPMPipeline, num_samples: int, num_inference_steps: int, seed: int, settings: EvaluationSettings
) -> tuple[list[str], NDArray[np.uint8]]:
    return _decode(pipe, draw_latents(pipe, num_samples, num_inference_steps, seed, settings.batch_size), settings)


def _statistics(
    sequences: list[str],
    frames: NDArray[np.uint8],
    train: ProteinData,
    dev: ProteinData,
    dev_frames: NDArray[np.uint8],
    frechet: SequenceFrechet,
) -> dict[str, float | None]:
    return {
        "validity": validity(sequences),
        "uniqueness": uniqueness(sequences),
        "novelty": novelty(sequences, train.sequences),
        "pairwise_distance": mean_pairwise_levenshtein(sequences),
        "mean_length": float(np.mean([len(sequence) for sequence in sequences])),
        **{f"{k}mer_divergence": kmer_divergence(sequences, dev.sequences, k) for k in (1, 2, 3)},
        "site_divergence": site_divergence(frames, dev_frames),
        "frechet": frechet.distance(frames, dev_frames),
    }


def _optimization(
    pipe: EDDPMPipeline,
    train: ProteinData,
    dev: ProteinData,
    ehrlich: EhrlichFunction | None,
    settings: EvaluationSettings,
    stopwatch: Stopwatch,
    earlier: dict[str, Any] | None,
) -> dict[str, Any]:
    """Proposals of every method for the first property, judged by an oracle: the mean and spread over the seeds.

    With an earlier evaluation only the samples' row is made anew: the methods choose their own steps.
    """
    seed = settings.seeds[0]
    name = train.property_names[0]
    with stopwatch("oracle"):
        oracle, facts = _choose_oracle(pipe, train, dev, ehrlich, settings)
    starts = train.sample(settings.num_starts, seed).sequences
    proposals: dict[str, list[dict[str, Any]]] = {"starts": [_judge(oracle, starts, None, train)]}

    for run_seed in settings.seeds:
        steps = max(settings.num_inference_steps)
        generated = _generate(pipe, len(starts), steps, run_seed, settings)[0]
        proposals.setdefault("samples", []).append(_judge(oracle, generated, None, train))
        if earlier is not None:
            continue
        for method in settings.methods:
            generator = torch.Generator(device=pipe.device).manual_seed(run_seed)
            with stopwatch(f"optimize {method}"):
                out = pipe.optimize(
                    starts,
                    method=method,
                    target="higher",
                    property_index=0,
                    num_steps=settings.optimize_steps,
                    max_mutations=settings.max_mutations,
                    generator=generator,
                )
            judged = _judge(oracle, out.samples, starts, train)
            judged["own_prediction"] = float(out.predictions[:, 0].mean())  # how far the model overrates its proposals
            proposals.setdefault(method, []).append(judged)
        for multiple in settings.genetic_budgets:
            with stopwatch("genetic algorithm"):
                run = genetic_algorithm(oracle, starts, multiple * len(starts), len(starts), seed=run_seed)
            judged = _judge(oracle, run.best(len(starts), without=starts), None, train)
            judged["num_oracle_calls"] = run.num_calls
            proposals.setdefault(f"genetic, {multiple} calls per start", []).append(judged)

    summary = {}
    for title, runs in proposals.items():
        summary[title] = {key: spread([run[key] for run in runs]) for key in runs[0] if key != "examples"}
        summary[title]["examples"] = runs[0]["examples"]
    if earlier is not None:
        return earlier["optimization"] | {"proposals": earlier["optimization"]["proposals"] | summary}
    return {"property": name, "oracle": facts, "num_starts": len(starts), "proposals": summary}


def _choose_oracle(
    pipe: EDDPMPipeline,
    train: ProteinData,
    dev: ProteinData,
    ehrlich: EhrlichFunction | None,
    settings: EvaluationSettings,
) -> tuple[Oracle, dict[str, Any]]:
    """The function itself, or an ensemble trained on held-out sequences with its quality on unseen training ones."""
    if ehrlich is not None:
        return ehrlich, {"kind": "Ehrlich function", "optimum": 1.0}
    oracle = EnsembleOracle.fit(
        dev.sequences,
        dev.properties[:, 0],
        pipe.processor.length,
        pipe.processor.alignment,
        settings.oracle_members,
        settings.seeds[0],
        num_epochs=settings.num_epochs,
    )
    unseen = train.sample(10_000, settings.seeds[0])
    return oracle, {
        "kind": f"{len(oracle.members)} convolutional regressors trained on the held-out sequences",
        "out_of_fold": oracle.out_of_fold,
        "on_training_sequences": regression_metrics(oracle(unseen.sequences), unseen.properties[:, 0]),
    }


def _judge(oracle: Oracle, sequences: list[str], starts: list[str] | None, train: ProteinData) -> dict[str, Any]:
    """Scores of proposals by the oracle, over the valid ones; a valid one that is not feasible counts as 0.

    With `starts`, one for each proposal, also how many edits a proposal takes and how many score higher than their
    starts (over all proposals).
    """
    valid = [row for row, sequence in enumerate(sequences) if is_valid(sequence)]
    chosen = [sequences[row] for row in valid]
    scores = np.asarray(oracle(chosen), dtype=np.float64) if chosen else np.empty(0)
    feasible = np.isfinite(scores)
    scores = np.where(feasible, scores, 0.0)
    result: dict[str, Any] = {
        "max": float(scores.max()) if chosen else None,
        "mean": float(scores.mean()) if chosen else None,
        "median": float(np.median(scores)) if chosen else None,
        "validity": len(chosen) / len(sequences),
        "novelty": novelty(sequences, train.sequences),
        "uniqueness": uniqueness(sequences),
        "pairwise_distance": mean_pairwise_levenshtein(sequences),
    }
    if isinstance(oracle, EnsembleOracle):
        result["disagreement"] = float(oracle.disagreement(chosen).mean()) if chosen else None
    else:
        result["feasible"] = float(feasible.mean()) if chosen else None
    if starts is not None:
        before = np.asarray(oracle([starts[row] for row in valid])) if chosen else np.empty(0)
        result["improved"] = float((scores > before).sum()) / len(sequences)
        edits = [Levenshtein.distance(*pair) for pair in zip(sequences, starts, strict=True)]
        result["edit_distance"] = float(np.mean(edits))
        result["num_oracle_calls"] = len(starts) + len(sequences)
    best = np.argsort(-scores, kind="stable")[:NUM_EXAMPLES]
    result["examples"] = [[chosen[row], float(scores[row])] for row in best]
    return result


def main(args: list[str] | None = None) -> None:
    """Evaluates the checkpoint named on the command line."""
    parser = HfArgumentParser((EvaluationArguments, EvaluationSettings), description=__doc__.splitlines()[0])
    arguments, settings = parser.parse_args_into_dataclasses(args)
    start = time.perf_counter()

    def load(source: list[str], split: str | None) -> ProteinData:
        return load_proteins(
            source if len(source) > 1 else source[0],
            split,
            arguments.sequence_column,
            arguments.property_columns,
            arguments.padding_symbol,
            arguments.upper_case,
        )

    train, dev = load(arguments.train, arguments.train_split), load(arguments.dev, arguments.dev_split)
    ehrlich = None if arguments.ehrlich is None else EhrlichFunction.load(arguments.ehrlich)
    earlier = None
    if arguments.keep is not None:
        earlier = read_evaluation(arguments.keep, settings, "keep", ("num_inference_steps",))
    pipe = EDDPMPipeline.from_pretrained(arguments.checkpoint).to(arguments.device)
    words = sys.argv[1:] if args is None else args
    result = {"command": describe_command("training/evaluate_protein.py", words), "recipe": arguments.recipe}
    result |= evaluate(pipe, train, dev, settings, ehrlich, earlier)
    result |= describe_environment(pipe.device, JUDGES) | {"wall_time_seconds": round(time.perf_counter() - start, 1)}
    result = with_earlier(result, earlier)
    outputs = [] if arguments.output is None else [Path(arguments.output)]
    if arguments.update_card:
        outputs.append(Path(arguments.checkpoint) / EVALUATION_FILE)
    for output in outputs:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if arguments.update_card:
        write_protein_card(pipe, arguments.checkpoint)
    print(markdown_tables(result))


if __name__ == "__main__":
    main()
