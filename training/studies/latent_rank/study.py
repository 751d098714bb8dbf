"""Trains variants of one recipe and measures what their latents carry: one JSON file per run, a table and a figure.

    python training/studies/latent_rank/study.py fashion --data train-images-idx3-ubyte.gz --seeds 1 --max_steps 2700

See README.md beside this file. A run whose file exists is not repeated.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from fitting import add_values, fit_variant
from report import write_report
from transformers import set_seed
from variants import VARIANTS, Variant

from hf_eddpm import EDDPMPipeline
from hf_eddpm.diagnostics import covariance_eigenvalues, spectrum_statistics
from hf_eddpm.metrics.frechet_distance import frechet_distance
from hf_eddpm.modalities.image.data import ImageData
from hf_eddpm.modalities.image.metrics import linear_probe, mean_squared_error, structural_similarity
from hf_eddpm.training.arguments import EDDPMTrainingArguments, parse_arguments
from hf_eddpm.training.environment import describe_environment
from hf_eddpm.training.evaluation import as_embeddings, reach_statistics, result_file
from hf_eddpm.training.image_judge import Judge, decode, sample_latents
from hf_eddpm.training.options import CardArguments, ImageDataArguments, ImageModelArguments
from hf_eddpm.training.train_image import LabelledImages, build_model, class_labels, load_data

FOLDER = Path(__file__).resolve().parent
NUM_SAMPLES = 1000
NUM_RECONSTRUCTIONS = 500
NUM_PROBE = 10_000
NUM_COMPONENTS = 32
STEPS = 20
SEED = 0


class Pixels:
    """The Frechet distance in the leading principal components of the training images' pixels.

    Args:
        train: The training images.
        dev: Held-out images, which distances are from.
    """

    def __init__(self, train: ImageData, dev: ImageData):
        from sklearn.decomposition import PCA

        self.pca = PCA(NUM_COMPONENTS, random_state=SEED).fit(self._flat(train.sample(NUM_PROBE, SEED).images))
        self.reference = self.pca.transform(self._flat(dev.images))

    def _flat(self, images: np.ndarray) -> np.ndarray:
        return images.reshape(len(images), -1) / 255

    def frechet(self, images: np.ndarray) -> float:
        """Squared distance of uint8 images (num, height, width, channels) from the held-out ones."""
        return frechet_distance(self.pca.transform(self._flat(images)), self.reference)


def train_variant(
    variant: Variant, words: list[str], train: ImageData, folder: Path
) -> tuple[EDDPMPipeline, dict[str, Any]]:
    """Trains one variant, unless the folder holds its weights; returns the pipeline and the facts of the run."""
    data_args, model_args, _, args = parse_arguments(
        ImageDataArguments, ImageModelArguments, CardArguments, EDDPMTrainingArguments, args=words
    )
    set_seed(args.seed)
    add_values(model_args, variant)
    plain, processor = build_model(model_args, train)
    labels = class_labels(train, data_args.label_column, plain.config.num_classes)
    return fit_variant(variant, plain, processor, args, LabelledImages(train.images, labels), folder)


@torch.no_grad()
def measure(
    pipe: EDDPMPipeline, train: ImageData, dev: ImageData, pixels: Pixels, judge: Judge, label: str
) -> dict[str, float]:
    """Latents, reconstructions, samples and a probe of one model."""
    pipe.model.eval()
    some, fit = dev.sample(NUM_RECONSTRUCTIONS, SEED), train.sample(NUM_PROBE, SEED)
    known, held, all_held = (pipe.encode(list(data.images), 250).latents for data in (fit, some, dev))
    eigenvalues = covariance_eigenvalues(all_held)
    again = decode(pipe, held, STEPS, 250, SEED).astype(np.float32) / 255
    num = min(NUM_SAMPLES, len(known) // 2)
    sampled = sample_latents(pipe, num, STEPS, SEED)
    reach = reach_statistics(sampled, all_held, known)
    samples = decode(pipe, sampled, STEPS, 250, SEED)
    probe = linear_probe(as_embeddings(known), fit.labels(label), as_embeddings(all_held), dev.labels(label))
    return {
        **spectrum_statistics(eigenvalues, pipe.model.config.encoder_noise_variance),
        "latent_size": pipe.model.config.latent_size,
        "mse": mean_squared_error(again, some.images / 255),
        "ssim": structural_similarity(again, some.images / 255),
        "probe": probe["accuracy"],
        "pixel_frechet": pixels.frechet(samples),
        "frechet": judge.frechet(samples),
        "neighbor_ratio": reach["neighbor_ratio"],
        "latent_frechet": reach["frechet"],
        "real_latent_frechet": reach["real_frechet"],
        "latent_frechet_ratio": reach["frechet"] / reach["real_frechet"],
        "sampled_std": reach["std"],
    }


def write(file: Path, result: dict[str, Any]) -> None:
    """Writes a run's result and says in a line what it is."""
    file.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(f"{file.stem}: rank {result['effective_rank']:.1f}, mse {result['mse']:.4f}", flush=True)


def main(args: list[str] | None = None) -> None:
    """Runs what is missing and writes the report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("dataset", choices=("digits", "fashion"))
    parser.add_argument("--data", nargs="+", default=None, help="training images, if the recipe does not name them")
    parser.add_argument("--variants", nargs="*", default=list(VARIANTS), choices=list(VARIANTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--max_steps", type=int, default=None, help="by default those of the configuration")
    parser.add_argument("--shard", default="0/1", help="which of how many parts of the runs this process does")
    parser.add_argument("--use_cpu", default="true", choices=("true", "false"))
    parser.add_argument("--output_dir", type=Path, default=FOLDER / "results", help="where the JSON files go")
    parser.add_argument("--work_dir", type=Path, default=Path("runs/latent_rank"), help="where the weights go")
    parser.add_argument("--checkpoints", nargs="+", default=[], help="measure these too: NAME=FOLDER ...")
    arguments = parser.parse_args(args)
    common = [str(FOLDER / f"{arguments.dataset}.json"), "--output_dir", str(arguments.work_dir)]
    common += ["--train", *arguments.data] if arguments.data else []
    common += ["--max_steps", str(arguments.max_steps)] if arguments.max_steps else []
    common += ["--use_cpu", arguments.use_cpu, "--num_threads", str(torch.get_num_threads())]
    common += ["--eval_strategy", "no", "--save_strategy", "no", "--num_previews", "0", "--disable_tqdm", "true"]
    data_args, _, _, training_args = parse_arguments(
        ImageDataArguments, ImageModelArguments, CardArguments, EDDPMTrainingArguments, args=common
    )
    train, dev = load_data(data_args, training_args.seed)
    pixels, judge = Pixels(train, dev), Judge(train, dev, data_args.label_column, SEED)
    count = min(NUM_SAMPLES, len(train) // 2)
    images = train.sample(count, SEED).images
    shared = {
        "real_pixel_frechet": pixels.frechet(images),
        "real_frechet": judge.frechet(images),
        "num_samples": count,
        "extractor": judge.name,
        **describe_environment(training_args.device),
    }
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    for word in arguments.checkpoints:
        name, _, folder = word.partition("=")
        file = result_file(arguments.output_dir, f"{arguments.dataset} checkpoint {name}")
        if not file.exists():
            pipe = EDDPMPipeline.from_pretrained(folder)
            pipe.set_progress_bar_config(disable=True)
            result = {"data": arguments.dataset, "checkpoint": name}
            result |= measure(pipe, train, dev, pixels, judge, data_args.label_column or "")
            write(file, result | shared)
    shard, num_shards = map(int, arguments.shard.split("/"))
    runs = [(name, seed) for seed in arguments.seeds for name in arguments.variants]
    for name, seed in runs[shard::num_shards]:
        stem = f"{arguments.dataset} {name} steps {training_args.max_steps} seed {seed}"
        file = result_file(arguments.output_dir, stem)
        if file.exists():
            continue
        folder = arguments.work_dir / file.stem
        pipe, facts = train_variant(VARIANTS[name], [*common, "--seed", str(seed)], train, folder)
        result = {"data": arguments.dataset, "variant": name, **facts}
        result |= measure(pipe, train, dev, pixels, judge, data_args.label_column or "")
        write(file, result | shared)
    if arguments.output_dir.resolve() == FOLDER / "results":
        write_report(arguments.output_dir, FOLDER)


if __name__ == "__main__":
    torch.set_flush_denormal(True)  # as train_image.py
    main()
