"""Trains variants of a recipe for sentences or proteins and measures what their latents carry: one JSON file per run.

    python training/studies/latent_rank/sequences.py yelp --train train.0.txt.gz=0 train.1.txt.gz=1 \\
        --dev dev.0.txt.gz=0 dev.1.txt.gz=1
    python training/studies/latent_rank/sequences.py gifford --train train.csv.gz --dev validation.csv.gz

See README.md beside this file. A run whose file exists is not repeated. The most telling runs come first, and with
`--shard 0/4` to `--shard 3/4` four processes share them. `--use_cpu false` trains on a GPU.
"""

import argparse
import json
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from fitting import add_values, fit_variant
from report import write_report
from torch.utils.data import Dataset
from transformers import set_seed
from variants import VARIANCES, Variant, sequence_variants

from hf_eddpm import EDDPMModel, EDDPMPipeline
from hf_eddpm.diagnostics import covariance_eigenvalues, spectrum_statistics
from hf_eddpm.modalities.protein import data as protein_data
from hf_eddpm.modalities.protein.metrics import (
    SequenceFrechet,
    reconstruction_accuracy,
    regression_metrics,
    to_frames,
    validity,
)
from hf_eddpm.modalities.text import data as text_data
from hf_eddpm.modalities.text.metrics import (
    TrigramModel,
    corpus_bleu,
    exact_match,
    linear_probe_accuracy,
    reverse_perplexity,
    uniqueness,
)
from hf_eddpm.processing_eddpm import EDDPMProcessor
from hf_eddpm.training import train_protein, train_text
from hf_eddpm.training.arguments import EDDPMTrainingArguments, parse_arguments
from hf_eddpm.training.environment import describe_environment
from hf_eddpm.training.evaluation import as_embeddings, draw_latents, reach_statistics, result_file
from hf_eddpm.training.finishing import EMA_DECAY, finish_denoiser
from hf_eddpm.training.options import (
    CardArguments,
    LoraArguments,
    ProteinDataArguments,
    ProteinModelArguments,
    TextDataArguments,
    TextModelArguments,
)

FOLDER = Path(__file__).resolve().parent
NUM_SAMPLES = {"yelp": 1000, "gifford": 4000, "gfp": 1000}
NUM_RECONSTRUCTIONS = 1000
NUM_ENCODED = 6000  # training data, for the probe and the distances of latents
NUM_UNSEEN = 2000  # held-out data
NUM_FINISHED = 20_000  # training data whose latents a denoiser finishes on
FINISH_BATCH_SIZE = 256
STEPS = 20
BATCH_SIZE = 500
SEED = 0


class Measured(Protocol):
    """Data of one kind: how to build a model for them, and what to measure on them."""

    num_samples: int

    def build(self, words: list[str], variant: Variant) -> tuple[EDDPMModel, EDDPMProcessor, Any, Dataset]:
        """An untrained model of a variant, its processor, the training's arguments and data."""

    def draw(self, part: str, count: int) -> Any:
        """So many data of `train` or `dev`, drawn, with their labels."""

    def raw(self, data: Any) -> list[str]:
        """The sentences or proteins of these data."""

    def compare(self, again: list[str], before: Any) -> dict[str, float]:
        """How well reconstructions agree with the data."""

    def judge(self, samples: list[str]) -> dict[str, float]:
        """How good samples are."""

    def probe(self, known: Any, train: Any, unseen: Any, dev: Any) -> float:
        """What a linear probe of embeddings (num, size) tells of the data's label."""


@dataclass
class Sentences:
    """Sentences with a class each.

    Args:
        words: Options of the training script that name them.
        num_samples: Sentences to sample.
    """

    words: list[str]
    num_samples: int
    kinds: tuple = field(
        default=(TextDataArguments, TextModelArguments, LoraArguments, CardArguments, EDDPMTrainingArguments)
    )

    def __post_init__(self) -> None:
        data_args, *_, args = parse_arguments(*self.kinds, args=self.words)
        self.train, self.dev = train_text.load_data(data_args, args.seed)
        self.trigrams = TrigramModel.fit(self.train.sentences)

    def build(self, words: list[str], variant: Variant) -> tuple[EDDPMModel, EDDPMProcessor, Any, Dataset]:
        """See `Measured`."""
        data_args, model_args, _, _, args = parse_arguments(*self.kinds, args=words)
        set_seed(args.seed)
        add_values(model_args, variant)
        model, processor = train_text.build_model(model_args, data_args.max_length, self.train.sentences)
        return model, processor, args, text_data.SplicedSentences(self.train.sentences, 0.0, None, args.seed)

    def draw(self, part: str, count: int) -> text_data.TextData:
        """See `Measured`."""
        return getattr(self, part).sample(count, SEED)

    def raw(self, data: text_data.TextData) -> list[str]:
        """See `Measured`."""
        return data.sentences

    def compare(self, again: list[str], before: text_data.TextData) -> dict[str, float]:
        """See `Measured`."""
        return {"bleu": corpus_bleu(again, before.sentences), "exact_match": exact_match(again, before.sentences)}

    def judge(self, samples: list[str]) -> dict[str, float]:
        """See `Measured`."""
        unseen = self.dev.sample(len(samples), SEED).sentences
        return {
            "perplexity": self.trigrams.perplexity(samples),
            "reverse_perplexity": reverse_perplexity(samples, unseen, self.trigrams.vocabulary_size),
            "unique": uniqueness(samples),
        }

    def probe(self, known: Any, train: text_data.TextData, unseen: Any, dev: text_data.TextData) -> float:
        """The accuracy of the class."""
        return linear_probe_accuracy(known, train.labels or [], unseen, dev.labels or [])


@dataclass
class Proteins:
    """Proteins with a fitness each.

    Args:
        words: Options of the training script that name them.
        num_samples: Proteins to sample.
    """

    words: list[str]
    num_samples: int
    kinds: tuple = field(default=(ProteinDataArguments, ProteinModelArguments, CardArguments, EDDPMTrainingArguments))

    def __post_init__(self) -> None:
        self.data_args, _, _, args = parse_arguments(*self.kinds, args=self.words)
        self.train, self.dev = train_protein.load_data(self.data_args, args.seed)
        self.frechet = SequenceFrechet(self._frames(self.train.sequences))
        self.reference = self._frames(self.dev.sequences)

    def _frames(self, sequences: list[str]) -> np.ndarray:
        return to_frames(sequences, self.data_args.length, self.data_args.alignment or "left")

    def build(self, words: list[str], variant: Variant) -> tuple[EDDPMModel, EDDPMProcessor, Any, Dataset]:
        """See `Measured`."""
        data_args, model_args, _, args = parse_arguments(*self.kinds, args=words)
        set_seed(args.seed)
        add_values(model_args, variant)
        model, processor = train_protein.build_model(model_args, data_args, self.train)
        return model, processor, args, train_protein.MeasuredProteins(self.train)

    def draw(self, part: str, count: int) -> protein_data.ProteinData:
        """See `Measured`."""
        return getattr(self, part).sample(count, SEED)

    def raw(self, data: protein_data.ProteinData) -> list[str]:
        """See `Measured`."""
        return data.sequences

    def compare(self, again: list[str], before: protein_data.ProteinData) -> dict[str, float]:
        """See `Measured`."""
        found = reconstruction_accuracy(self._frames(again), self._frames(before.sequences))
        return {name: found[name] for name in ("site_accuracy", "exact_match")}

    def judge(self, samples: list[str]) -> dict[str, float]:
        """See `Measured`."""
        distance = self.frechet.distance(self._frames(samples), self.reference)
        return {"frechet": distance, "valid": validity(samples), "unique": uniqueness(samples)}

    def probe(self, known: Any, train: protein_data.ProteinData, unseen: Any, dev: protein_data.ProteinData) -> float:
        """Pearson's correlation of a ridge regression of the fitness with the held-out one."""
        from sklearn.linear_model import RidgeCV

        measured = ~np.isnan(train.properties[:, 0])
        ridge = RidgeCV(np.logspace(-3, 3, 7)).fit(known[measured], train.properties[measured, 0])
        return float(regression_metrics(ridge.predict(unseen), dev.properties[:, 0])["pearson"] or 0.0)


@torch.no_grad()
def measure(pipe: EDDPMPipeline, data: Measured) -> dict[str, float]:
    """Latents, reconstructions, samples and a probe of one model."""
    train, dev = data.draw("train", NUM_ENCODED), data.draw("dev", NUM_UNSEEN)
    some = data.draw("dev", NUM_RECONSTRUCTIONS)
    known, unseen, held = (pipe.encode(data.raw(each), BATCH_SIZE).latents.float() for each in (train, dev, some))
    eigenvalues = covariance_eigenvalues(unseen)
    sampled = draw_latents(pipe, data.num_samples, STEPS, SEED, BATCH_SIZE)
    reach = reach_statistics(sampled.float(), unseen, known)
    samples = pipe.decode(sampled, batch_size=BATCH_SIZE)
    return {
        **spectrum_statistics(eigenvalues, pipe.model.config.encoder_noise_variance),
        "latent_size": pipe.model.config.latent_size,
        **data.compare(pipe.decode(held, batch_size=BATCH_SIZE), some),
        "probe": data.probe(as_embeddings(known), train, as_embeddings(unseen), dev),
        **data.judge(samples),
        "neighbor_ratio": reach["neighbor_ratio"],
        "latent_frechet": reach["frechet"],
        "real_latent_frechet": reach["real_frechet"],
        "latent_frechet_ratio": reach["frechet"] / reach["real_frechet"],
        "sampled_std": reach["std"],
        "real_std": reach["real_std"],
        "num_samples": data.num_samples,
    }


def finish(pipe: EDDPMPipeline, data: Measured, args: EDDPMTrainingArguments, num_steps: int) -> float:
    """Lets the denoiser alone learn the latents as they are; returns the seconds."""
    start = time.perf_counter()
    means = pipe.encode(data.raw(data.draw("train", NUM_FINISHED)), BATCH_SIZE).latents.float().cpu()
    options = (num_steps, FINISH_BATCH_SIZE, args.learning_rate, EMA_DECAY, args.seed, args.bf16)
    finish_denoiser(pipe.model, means, None, *options)
    return round(time.perf_counter() - start, 1)


def main(args: list[str] | None = None) -> None:
    """Runs what is missing and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=list(VARIANCES))
    parser.add_argument("--train", nargs="+", required=True, help="training data")
    parser.add_argument("--dev", nargs="+", required=True, help="held-out data")
    parser.add_argument("--variants", nargs="*", help="names of variants; by default all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--max_steps", type=int, help="in place of the recipe's")
    parser.add_argument("--shard", default="0/1", help="which of how many parts of the runs this process does")
    parser.add_argument("--use_cpu", default="true", choices=("true", "false"))
    parser.add_argument("--output_dir", type=Path, default=FOLDER / "results", help="where the JSON files go")
    arguments = parser.parse_args(args)
    shard, num_shards = map(int, arguments.shard.split("/"))
    variants = sequence_variants(arguments.dataset)
    if unknown := set(arguments.variants or ()) - set(variants):
        raise ValueError(f"`variants` must be among {list(variants)}, got {sorted(unknown)}.")
    names = list(variants) if arguments.variants is None else arguments.variants
    with tempfile.TemporaryDirectory() as work:
        words = [str(FOLDER / f"{arguments.dataset}.json"), "--train", *arguments.train, "--dev", *arguments.dev]
        words += ["--output_dir", work, "--use_cpu", arguments.use_cpu]
        words += ["--num_threads", str(torch.get_num_threads())]
        words += ["--max_steps", str(arguments.max_steps)] if arguments.max_steps else []
        data = (Sentences if arguments.dataset == "yelp" else Proteins)(words, NUM_SAMPLES[arguments.dataset])
        real = {
            f"real_{name}": value for name, value in data.judge(data.raw(data.draw("train", data.num_samples))).items()
        }
        folder = arguments.output_dir / arguments.dataset
        folder.mkdir(parents=True, exist_ok=True)
        runs = [(name, seed) for seed in arguments.seeds for name in names]
        for name, seed in runs[shard::num_shards]:
            variant = variants[name]
            steps = parse_arguments(*data.kinds, args=words)[-1].max_steps
            file = result_file(folder, f"{name} steps {steps} seed {seed}")
            if file.exists():
                continue
            plain, processor, training_args, dataset = data.build([*words, "--seed", str(seed)], variant)
            pipe, facts = fit_variant(variant, plain, processor, training_args, dataset)
            if variant.finish_steps:
                facts["finish_seconds"] = finish(pipe, data, training_args, variant.finish_steps)
            start = time.perf_counter()
            result = {"data": arguments.dataset, "variant": name, **facts, **measure(pipe, data), **real}
            result["measure_seconds"] = round(time.perf_counter() - start, 1)
            result |= describe_environment(pipe.device)
            file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
            print(f"{name}, seed {seed}: rank {result['effective_rank']:.1f}, rate {result['rate']:.1f}", flush=True)
    if arguments.output_dir == FOLDER / "results":
        write_report(arguments.output_dir, FOLDER)


if __name__ == "__main__":
    torch.set_flush_denormal(True)  # as the training scripts
    main()
