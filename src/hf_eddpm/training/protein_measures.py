"""What the evaluation of protein checkpoints measures; evaluate_protein.py says how to read it."""

import time
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ..metrics.distinct_novelty import novelty, uniqueness
from ..modalities.protein.data import ProteinData
from ..modalities.protein.ehrlich import EhrlichFunction
from ..modalities.protein.metrics import (
    SequenceFrechet,
    kmer_divergence,
    latent_smoothness,
    mean_pairwise_levenshtein,
    reconstruction_accuracy,
    regression_metrics,
    site_divergence,
    validity,
)
from ..modalities.protein.oracle import fit_cnn, fit_ridge
from ..pipeline_eddpm import EDDPMPipeline
from ..property_ensemble import calibration_error, interval_coverage
from .evaluation import (
    NUM_REAL,
    Parts,
    Stopwatch,
    as_embeddings,
    describe_sampler,
    draw_latents,
    latent_statistics,
    plain_config,
    reach_statistics,
    spread,
)
from .protein_proposals import measure_proposals
from .protein_samples import decode, generate, to_pipeline_frames
from .protein_settings import NUM_EXAMPLES, EvaluationSettings

NUM_SHUFFLES = 10
NUM_WORST = 3  # predictions that are shown
INTERVALS = [round(0.05 * number, 2) for number in range(1, 20)]  # shares of measurements that they should hold


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
    train_frames, dev_frames = (to_pipeline_frames(pipe, data.sequences) for data in (train, dev))

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
        if pipe.model.property_head is not None and pipe.model.property_head.num_members > 1:
            parts.add("uncertainty", lambda: _uncertainty(pipe, dev, settings))
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
        result["optimization"] = measure_proposals(pipe, train, dev, ehrlich, settings, stopwatch, earlier)
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


def _reconstruction(
    pipe: EDDPMPipeline,
    dev: ProteinData,
    dev_frames: NDArray[np.uint8],
    latents: torch.Tensor,
    settings: EvaluationSettings,
) -> dict[str, Any]:
    sequences, frames = decode(pipe, latents, settings)
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
            predictions = pipe.predict(dev.sequences, batch_size=settings.batch_size).cpu().double().numpy()
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


def _uncertainty(pipe: EDDPMPipeline, dev: ProteinData, settings: EvaluationSettings) -> dict[str, dict[str, Any]]:
    """By property, what intervals hold of the held-out measurements, and the predictions that are most wrong."""
    means, deviations = (
        each.cpu().double().numpy() for each in pipe.predict(dev.sequences, settings.batch_size, return_std=True)
    )
    result = {}
    for column, name in enumerate(dev.property_names):
        known = np.flatnonzero(~np.isnan(dev.properties[:, column]))
        measured, mean, std = dev.properties[known, column], means[known, column], deviations[known, column]
        errors = np.abs(measured - mean)
        scaled = torch.from_numpy(errors / std)
        result[name] = {
            "num": len(known),
            "shares": INTERVALS,
            "held": [interval_coverage(scaled, share) for share in INTERVALS],
            "coverage_90": interval_coverage(scaled, 0.9),
            "calibration_error": calibration_error(scaled),
            "mean_std": float(std.mean()),
            "worst": [
                {
                    "sequence": dev.sequences[int(known[row])],
                    "measured": float(measured[row]),
                    "predicted": float(mean[row]),
                    "std": float(std[row]),
                }
                for row in np.argsort(-errors, kind="stable")[:NUM_WORST]
            ],
        }
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
    by_seed: list[dict[str, float | None]] = []
    examples: list[str] = []
    for seed in settings.seeds:
        start = time.perf_counter()
        with stopwatch("sample"):
            samples, frames = generate(pipe, settings.num_samples, num_inference_steps, seed, settings)
        seconds = time.perf_counter() - start
        with stopwatch("sample statistics"):
            statistics = _statistics(samples, frames, train, dev, dev_frames, frechet)
        by_seed.append(statistics | {"seconds": seconds})
        examples = examples or samples[:NUM_EXAMPLES]
    return {**{name: spread([values[name] for values in by_seed]) for name in by_seed[0]}, "examples": examples}


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
