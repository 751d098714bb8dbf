"""Proposals of better proteins by every method, and the oracle that judges them."""

from typing import Any

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein

from ..modalities.protein.data import ProteinData
from ..modalities.protein.ehrlich import EhrlichFunction
from ..modalities.protein.genetic import genetic_algorithm
from ..modalities.protein.metrics import (
    is_valid,
    mean_pairwise_levenshtein,
    regression_metrics,
)
from ..modalities.protein.oracle import EnsembleOracle
from ..modalities.text.metrics import novelty, uniqueness
from ..pipeline_eddpm import EDDPMPipeline
from .evaluation import (
    Stopwatch,
    spread,
)
from .protein_samples import generate
from .protein_settings import NUM_EXAMPLES, EvaluationSettings

Oracle = EnsembleOracle | EhrlichFunction


def measure_proposals(
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
        generated = generate(pipe, len(starts), steps, run_seed, settings)[0]
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
