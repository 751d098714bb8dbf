"""What the evaluation of text checkpoints measures; evaluate_text.py says how to read it."""

import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from ..hub.lora import count_parameters
from ..modalities.text.data import TextData
from ..modalities.text.metrics import (
    TrigramModel,
    corpus_bleu,
    distinct_n,
    exact_match,
    fit_text_classifier,
    latent_frechet,
    length_distance,
    linear_probe_accuracy,
    ngram_divergence,
    novelty,
    path_smoothness,
    reverse_perplexity,
    uniqueness,
)
from ..pipeline_eddpm import EDDPMPipeline
from ..pipeline_paths import data_distance
from .evaluation import (
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

NUM_EXAMPLES = 10
NUM_FAILURES = 3


@dataclass
class EvaluationSettings:
    """How much to measure. The defaults gave the published numbers."""

    num_samples: int = field(default=2000, metadata={"help": "Generated sentences per number of steps and seed."})
    num_inference_steps: list[int] = field(
        default_factory=lambda: [10, 20, 50, 100], metadata={"help": "Numbers of denoising steps to sample with."}
    )
    noise_scales: list[float] = field(
        default_factory=lambda: [0.8, 0.9],
        metadata={"help": "Noise scales besides 1 to sample with, with `noise_scale_steps` steps."},
    )
    noise_scale_steps: int = field(default=20, metadata={"help": "Denoising steps of those samples."})
    seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2],
        metadata={"help": "Sampling seeds; the first also draws every subset of the data."},
    )
    num_encoded: int = field(
        default=20_000, metadata={"help": "Training sentences encoded, for the probe and the direction."}
    )
    num_paths: int = field(default=100, metadata={"help": "Pairs of held-out sentences to interpolate between."})
    path_steps: int = field(default=11, metadata={"help": "Sentences on a path, its ends included."})
    num_edits: int = field(default=500, metadata={"help": "Held-out sentences to edit, per class."})
    edit_scales: list[float] = field(
        default_factory=lambda: [0.0, 0.5, 1.0, 1.5, 2.0, 3.0],
        metadata={"help": "Multiples of the direction; 0 is plain reconstruction."},
    )
    refinement_steps: list[int] = field(
        default_factory=lambda: [5, 10, 20],
        metadata={"help": "Gradient steps to refine the latents by before reconstructing, each beside none at all."},
    )
    edit_refinement_steps: int = field(default=10, metadata={"help": "The same before editing."})
    batch_size: int = field(default=256, metadata={"help": "Sentences per forward pass."})
    limit: int | None = field(
        default=None, metadata={"help": "Upper bound for every number of sentences above, for a quick look."}
    )

    def __post_init__(self) -> None:
        for name in ("num_samples", "num_encoded", "num_paths", "num_edits", "batch_size", "limit"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        if self.edit_refinement_steps < 0 or any(steps < 1 for steps in self.refinement_steps):
            raise ValueError("`refinement_steps` must be at least 1 and `edit_refinement_steps` at least 0.")
        if self.path_steps < 3:
            raise ValueError(f"`path_steps` must be at least 3, got {self.path_steps}.")
        if not self.seeds or not self.num_inference_steps:
            raise ValueError("`seeds` and `num_inference_steps` must each hold at least one number.")
        if self.limit is not None:
            for name in ("num_samples", "num_encoded", "num_paths", "num_edits"):
                setattr(self, name, min(getattr(self, name), self.limit))


def evaluate(
    pipe: EDDPMPipeline,
    train: TextData,
    dev: TextData,
    settings: EvaluationSettings,
    earlier: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Measures a pipeline.

    Args:
        pipe: A text pipeline, on the device to use.
        train: The sentences it was trained on; the judges (trigram model, probe, classifier) are fitted on them.
        dev: Held-out sentences.
        settings: How much to measure.
        earlier: An evaluation of the same weights whose parts are kept, but for the samples: for another scheduler.

    Returns:
        A JSON-serialisable dictionary; see the top of this file for its parts.

    Raises:
        ValueError: If the earlier evaluation is of other weights.
    """
    pipe.set_progress_bar_config(disable=True)
    stopwatch = Stopwatch()
    seed = settings.seeds[0]
    if settings.limit is not None:
        dev = dev.sample(settings.limit, seed)
    encoded_train = train.sample(settings.num_encoded, seed)

    with stopwatch("trigram model"):
        judge = TrigramModel.fit(train.sentences)
    with stopwatch("encode"):
        latents = pipe.encode(dev.sentences, batch_size=settings.batch_size).latents
        dev_embeddings = as_embeddings(latents)
        train_latents = pipe.encode(encoded_train.sentences, batch_size=settings.batch_size).latents
        train_embeddings = as_embeddings(train_latents)
    rng = np.random.default_rng(seed)
    noise_std = pipe.model.config.encoder_noise_variance**0.5

    def posterior(embeddings: NDArray[np.float64]) -> NDArray[np.float64]:
        return embeddings + noise_std * rng.standard_normal(embeddings.shape)

    dev_posterior = posterior(dev_embeddings)
    result: dict[str, Any] = {
        "settings": asdict(settings),
        "num_train_sentences": len(train),
        "num_dev_sentences": len(dev),
        "num_parameters": count_parameters(pipe.model)["total"]["all"],
        "sampler": describe_sampler(pipe),
        "config": plain_config(pipe),
    }
    parts = Parts(result, earlier)

    with stopwatch("reconstruct"):
        reconstructions = pipe.decode(latents, batch_size=settings.batch_size)
    reconstruction = _reconstruction(dev, reconstructions) | {"failures": _failures(dev.sentences, reconstructions)}
    parts.check_weights(reconstruction)
    parts.add("reconstruction", lambda: reconstruction)
    parts.add("refined_reconstruction", lambda: _refined_reconstructions(pipe, dev, settings, stopwatch))
    result["latents"] = latent_statistics(dev_embeddings, pipe.model.config.encoder_noise_variance)
    parts.add(
        "reference",
        lambda: _reference(
            judge,
            train,
            dev,
            posterior(rng.permutation(train_embeddings)[: len(dev)]),
            dev_posterior,
            settings,
        ),
    )
    result["samples"] = {
        str(steps): _samples(pipe, judge, train, dev, dev_posterior, steps, 1.0, settings, stopwatch)
        for steps in tqdm(settings.num_inference_steps, desc="samples", unit="number of steps")
    }
    result["scaled_samples"] = {
        str(scale): _samples(
            pipe, judge, train, dev, dev_posterior, settings.noise_scale_steps, scale, settings, stopwatch
        )
        for scale in tqdm(settings.noise_scales, desc="samples", unit="noise scale")
    }
    with stopwatch("reach"):
        result["reach"] = {
            str(steps): reach_statistics(
                draw_latents(pipe, settings.num_samples, steps, seed, settings.batch_size), latents, train_latents
            )
            for steps in settings.num_inference_steps
        }
    with stopwatch("interpolate"):
        parts.add("interpolation", lambda: _interpolation(pipe, judge, dev, settings))
    if train.labels is not None and dev.labels is not None:
        with stopwatch("probe"):
            parts.add(
                "probe_accuracy",
                lambda: linear_probe_accuracy(
                    train_embeddings, encoded_train.labels or [], dev_embeddings, dev.labels or []
                ),
            )
        if len(train.classes) == 2 and dev.classes == train.classes:
            with stopwatch("edit"):
                parts.add("edits", lambda: _edits(pipe, judge, train, encoded_train, dev, settings))
    parts.finish(stopwatch.seconds)
    return result


def _refined_reconstructions(
    pipe: EDDPMPipeline, dev: TextData, settings: EvaluationSettings, stopwatch: Stopwatch
) -> dict[str, Any]:
    result = {}
    for steps in tqdm(settings.refinement_steps, desc="refinement", unit="number of steps"):
        with stopwatch(f"refine {steps} steps"):
            refined = pipe.reconstruct(dev.sentences, batch_size=settings.batch_size, refinement_steps=steps)
        result[str(steps)] = _reconstruction(dev, refined)
    return result


def _reconstruction(dev: TextData, reconstructions: list[str]) -> dict[str, Any]:
    return {
        "bleu": corpus_bleu(reconstructions, dev.sentences),
        "exact_match": exact_match(reconstructions, dev.sentences),
        "examples": _examples(zip(dev.sentences, reconstructions, strict=True)),
    }


def _failures(sentences: Sequence[str], reconstructions: Sequence[str]) -> list[list[str]]:
    """The held-out sentences of which fewest characters came back, with what came."""
    pairs = sorted(zip(sentences, reconstructions, strict=True), key=lambda pair: -data_distance(*pair))
    return [list(pair) for pair in pairs[:NUM_FAILURES]]


def _reference(
    judge: TrigramModel,
    train: TextData,
    dev: TextData,
    train_posterior: NDArray[np.float64],
    dev_posterior: NDArray[np.float64],
    settings: EvaluationSettings,
) -> dict[str, Any]:
    """The values that real text has, to be read beside the values of the samples.

    `dev`: real sentences that the trigram model has not seen. `dev_shuffled`: the same with their words in random
    order. `train`: as many training sentences in the place of the samples: the distances of real text from real text,
    and the perplexity of a model that only repeats its training data.
    """
    rng = random.Random(settings.seeds[0])
    heldout = dev.sample(settings.num_samples, settings.seeds[0])
    shuffled = [" ".join(rng.sample(words, len(words))) for words in map(str.split, heldout.sentences)]
    real = train.sample(len(heldout), settings.seeds[0])
    return {
        "dev": _text_statistics(heldout.sentences, judge, train),
        "dev_shuffled": {"perplexity": judge.perplexity(shuffled)},
        "train": _text_statistics(real.sentences, judge, train)
        | _text_distances(real.sentences, heldout.sentences, judge)
        | {"latent_frechet": latent_frechet(train_posterior[: len(heldout)], dev_posterior)},
    }


def _samples(
    pipe: EDDPMPipeline,
    judge: TrigramModel,
    train: TextData,
    dev: TextData,
    dev_posterior: NDArray[np.float64],
    num_inference_steps: int,
    noise_scale: float,
    settings: EvaluationSettings,
    stopwatch: Stopwatch,
) -> dict[str, Any]:
    """Statistics of generated sentences: for each the mean, the standard deviation and the values over the seeds."""
    heldout = dev.sample(settings.num_samples, settings.seeds[0]).sentences
    by_seed: list[dict[str, float]] = []
    examples: list[str] = []
    for seed in settings.seeds:
        start = time.perf_counter()
        with stopwatch("sample"):
            samples, latents = _generate(pipe, num_inference_steps, noise_scale, seed, settings)
        seconds = time.perf_counter() - start
        by_seed.append(
            _text_statistics(samples, judge, train)
            | _text_distances(samples[: len(heldout)], heldout, judge)  # at equal sizes, as in the reference
            | {"latent_frechet": latent_frechet(latents[: len(heldout)], dev_posterior), "seconds": seconds}
        )
        examples = examples or samples[:NUM_EXAMPLES]
    statistics = {name: spread([values[name] for values in by_seed]) for name in by_seed[0]}
    return {**statistics, "examples": examples}


def _generate(
    pipe: EDDPMPipeline, num_inference_steps: int, noise_scale: float, seed: int, settings: EvaluationSettings
) -> tuple[list[str], NDArray[np.float64]]:
    generator = torch.Generator(device=pipe.device).manual_seed(seed)
    samples: list[str] = []
    latents = []
    while len(samples) < settings.num_samples:
        out: Any = pipe(
            num_samples=min(settings.batch_size, settings.num_samples - len(samples)),
            num_inference_steps=num_inference_steps,
            noise_scale=noise_scale,
            generator=generator,
        )
        samples += out.samples
        latents.append(as_embeddings(out.latents))
    return samples, np.concatenate(latents)


def _text_statistics(sentences: Sequence[str], judge: TrigramModel, train: TextData) -> dict[str, float]:
    return {
        "perplexity": judge.perplexity(sentences),
        "uniqueness": uniqueness(sentences),
        "novelty": novelty(sentences, train.sentences),
        "distinct_1": distinct_n(sentences, 1),
        "distinct_2": distinct_n(sentences, 2),
        "empty": float(np.mean([not sentence.strip() for sentence in sentences])),
        "mean_words": float(np.mean([len(sentence.split()) for sentence in sentences])),
    }


def _text_distances(sentences: Sequence[str], heldout: Sequence[str], judge: TrigramModel) -> dict[str, float]:
    return {
        "reverse_perplexity": reverse_perplexity(sentences, heldout, judge.vocabulary_size),
        "unigram_divergence": ngram_divergence(sentences, heldout, 1),
        "bigram_divergence": ngram_divergence(sentences, heldout, 2),
        "trigram_divergence": ngram_divergence(sentences, heldout, 3),
        "length_distance": length_distance(sentences, heldout),
    }


def _interpolation(
    pipe: EDDPMPipeline, judge: TrigramModel, dev: TextData, settings: EvaluationSettings
) -> dict[str, Any]:
    """Paths between pairs of held-out sentences, through the latents and through the noise they invert to."""
    chosen = random.Random(settings.seeds[0]).choices(dev.sentences, k=2 * settings.num_paths)
    firsts, seconds = chosen[: settings.num_paths], chosen[settings.num_paths :]
    result = {}
    for space in ("latents", "noise"):
        paths = pipe.interpolate(
            firsts, seconds, num_steps=settings.path_steps, mode="slerp", space=space, noise_level=0
        )
        between = [sentence for path in paths for sentence in path[1:-1]]
        result[space] = {
            **asdict(path_smoothness(paths)),
            "perplexity": judge.perplexity(between),
            "example": paths[0],
        }
    return result


def _edits(
    pipe: EDDPMPipeline,
    judge: TrigramModel,
    train: TextData,
    encoded_train: TextData,
    dev: TextData,
    settings: EvaluationSettings,
) -> dict[str, Any]:
    """Held-out sentences moved along the direction between the two classes of the training sentences.

    The classifier has seen neither the model nor the held-out sentences; at scale 0 it judges plain reconstructions.
    """
    negative, positive = train.classes
    classifier = fit_text_classifier(train.sentences, train.labels or [])
    direction = pipe.direction(encoded_train.of_class(positive), encoded_train.of_class(negative))
    by_scale: dict[str, Any] = {f"{scale:g}": {} for scale in settings.edit_scales}
    for start, target, sign in ((negative, positive, 1), (positive, negative, -1)):
        originals = TextData(dev.of_class(start)).sample(settings.num_edits, settings.seeds[0]).sentences
        for scale in settings.edit_scales:
            edited = pipe.edit(
                originals,
                direction=direction,
                scale=sign * scale,
                refinement_steps=settings.edit_refinement_steps,
            )
            by_scale[f"{scale:g}"][f"{start}_to_{target}"] = {
                "accuracy": float(np.mean(classifier.predict(edited) == target)),
                "content_bleu": corpus_bleu(edited, originals),
                "perplexity": judge.perplexity(edited),
                "examples": _examples(zip(originals, edited, strict=True)),
            }
    return {"classifier_accuracy": float(classifier.score(dev.sentences, dev.labels)), "by_scale": by_scale}


def _examples(pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """A few (before, after) pairs, spread over the data: files are often sorted by class."""
    rows = [list(pair) for pair in pairs]
    return rows[:: max(1, len(rows) // NUM_EXAMPLES)][:NUM_EXAMPLES]
