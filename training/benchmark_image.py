"""Trains the joint model and its baselines from the same nets, and measures each alike: one JSON per run, one table.

    python training/benchmark_image.py training/configs/image_front.json --train train-images-idx3-ubyte.gz \\
        --output_dir training/results/image_front

Recipes: the joint model (a share of 0.1 of the diffusion loss's gradient reaches the encoder), the same with the whole
gradient, the paper's objective, a diffusion autoencoder whose prior is trained afterwards for as many steps ("two
stages"), pixel diffusion without latents, and with the decoder in one pass the joint model and a VAE. A run whose JSON
exists is not repeated: an interrupted benchmark goes on where it stopped.
"""

import argparse
import json
import re
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from environment import describe_environment
from evaluate_image import SHARES, Judge, decode, generate
from evaluation import as_embeddings, latent_statistics
from hf_eddpm import EDDPMPipeline
from hf_eddpm.model_card import TRAINING_FILE, markdown_table
from image_baselines import UnconditionalDiffusion, fit_prior
from image_data import ImageData
from image_metrics import linear_probe, mean_squared_error, structural_similarity
from train_image import main as train_image
from train_image import parse_data
from vae import VariationalAutoencoder

PAPER = {
    "latent_normalization": "none",
    "encoder_gradient_scale": 1.0,
    "encoder_noise_variance": 0.008,
    "alignment_target": "mean",
    "prediction_type": "epsilon",
}
CONVOLUTIONAL = {"model_type": "eddpm_image_conv"}
NUM_IMAGES = 2000
NUM_PROBE = 10_000
NUM_STEPS = 20
SEED = 0
MEASURES = {
    "frechet": ("samples, Frechet", ".2f"),
    "interpolation_0.2": ("interpolation at 0.2, Frechet", ".2f"),
    "interpolation_0.4": ("at 0.4", ".2f"),
    "reconstruction_frechet": ("reconstruction, Frechet", ".2f"),
    "mse": ("MSE", ".4f"),
    "ssim": ("SSIM", ".3f"),
    "probe": ("latent probe", ".3f"),
    "pca_probe": ("PCA probe", ".3f"),
    "train_seconds": ("training, s", ".0f"),
}


@dataclass(frozen=True)
class Recipe:
    """One way to train."""

    name: str
    model_config: dict[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    second_stage: bool = False
    own_decoder: bool = True  # the configuration's, rather than one in one pass


RECIPES = (
    Recipe("joint, 0.1"),
    Recipe("two stages", {"encoder_gradient_scale": 0.0, "diffusion_weight": 0.0}, second_stage=True),
    Recipe("no latents", {"latent_normalization": "none"}, ("--no_latents", "true")),
    Recipe("VAE, one pass", {}, ("--vae_kl_weight", "1.0"), own_decoder=False),
    Recipe("joint, 0.1, one pass", own_decoder=False),
    Recipe("paper", PAPER),
    Recipe("joint, 1", {"encoder_gradient_scale": 1.0}),
)


@torch.no_grad()
def measure(
    pipe: EDDPMPipeline, train: ImageData, dev: ImageData, judge: Judge, label: str | None
) -> dict[str, float]:
    """Samples, reconstructions, interpolations and a probe of one model on the held-out images."""
    pipe.set_progress_bar_config(disable=True)
    some = dev.sample(NUM_IMAGES, SEED)
    batch = 250
    if isinstance(pipe.model, UnconditionalDiffusion):
        zeros = torch.zeros(NUM_IMAGES, pipe.model.config.num_latents, pipe.model.config.latent_dim)
        return {"frechet": judge.frechet(decode(pipe, zeros, NUM_STEPS, batch, SEED))}
    if isinstance(pipe.model, VariationalAutoencoder):
        prior = pipe.model.sample_prior(NUM_IMAGES, torch.Generator().manual_seed(SEED))
        samples = decode(pipe, prior, NUM_STEPS, batch, SEED)
    else:
        samples = generate(pipe, NUM_IMAGES, NUM_STEPS, SEED, batch)
    latents = pipe.encode(list(some.images), batch).latents
    again = decode(pipe, latents, NUM_STEPS, batch, SEED)
    ends = latents[torch.from_numpy(np.random.default_rng(SEED).permutation(len(latents)))]
    result = {
        "frechet": judge.frechet(samples),
        "reconstruction_frechet": judge.frechet(again),
        "mse": mean_squared_error(again.astype(np.float32) / 255, some.images.astype(np.float32) / 255),
        "ssim": structural_similarity(again.astype(np.float32) / 255, some.images.astype(np.float32) / 255),
        "latent_std": float(latent_statistics(as_embeddings(latents))["std"]),
    }
    for share in SHARES:
        middle = torch.lerp(latents, ends, share)
        result[f"interpolation_{share}"] = judge.frechet(decode(pipe, middle, NUM_STEPS, batch, SEED))
    if label is not None:
        from sklearn.decomposition import PCA

        fit = train.sample(NUM_PROBE, SEED)
        labels, held = fit.labels(label), some.labels(label)
        known = as_embeddings(pipe.encode(list(fit.images), batch).latents)
        result["probe"] = linear_probe(known, labels, as_embeddings(latents), held)["accuracy"]
        pixels, held_pixels = (data.images.reshape(len(data), -1) / 255 for data in (fit, some))
        pca = PCA(known.shape[1], random_state=0).fit(pixels)
        result["pca_probe"] = linear_probe(pca.transform(pixels), labels, pca.transform(held_pixels), held)["accuracy"]
    return result


def table(results: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over training seeds of each recipe."""
    rows = []
    for recipe in dict.fromkeys(result["recipe"] for result in results):
        group = [result for result in results if result["recipe"] == recipe]
        row = {"recipe": recipe, "seeds": str(len(group))}
        for name, (title, form) in MEASURES.items():
            values = [result[name] for result in group if name in result]
            if values:
                spread = f" ± {np.std(values, ddof=1):{form}}" if len(values) > 1 else ""
                row[title] = f"{np.mean(values):{form}}{spread}"
        rows.append(row)
    real = np.mean([result["real_frechet"] for result in results])
    return markdown_table(rows) + f"\n\nReal images against real images: {real:.2f}."


def run(
    recipe: Recipe,
    seed: int,
    words: list[str],
    train: ImageData,
    dev: ImageData,
    judge: Judge,
    label: str | None,
    folder: Path,
    extra: list[str],
) -> dict[str, Any]:
    """Trains and measures one model."""
    start = time.perf_counter()
    decoder = {} if recipe.own_decoder else {"decoder": CONVOLUTIONAL}
    config = json.dumps({**json.loads(_option(words, "--model_config")), **recipe.model_config})
    if decoder:
        given = json.loads(config)
        shape = {key: value for key, value in given.get("decoder", {}).items() if key in _SHAPE}
        config = json.dumps({**given, "decoder": {**shape, **CONVOLUTIONAL}})
    pipeline = train_image(
        [
            *words,
            *("--model_config", config, "--seed", str(seed), "--output_dir", str(folder)),
            *("--eval_strategy", "no", "--save_strategy", "no", "--num_previews", "0", "--disable_tqdm", "true"),
            *recipe.words,
            *extra,
        ]
    )
    facts = json.loads((pipeline / TRAINING_FILE).read_text(encoding="utf-8"))
    pipe = EDDPMPipeline.from_pretrained(pipeline)
    if recipe.second_stage:
        means = pipe.encode(list(train.sample(20_000, SEED).images)).latents
        fit_prior(pipe.model, means, facts["steps"], facts["batch_size"], 1e-3, 0.998, seed)
    seconds = time.perf_counter() - start
    return {
        "recipe": recipe.name,
        "seed": seed,
        "steps": facts["steps"],
        "batch_size": facts["batch_size"],
        **measure(pipe, train, dev, judge, label),
        "train_seconds": round(seconds, 1),
        "num_parameters": pipe.model.num_parameters(),
        "extractor": judge.name,
        **describe_environment(pipe.device),
    }


_SHAPE = ("block_out_channels", "layers_per_block", "norm_num_groups", "patch_size")


def _option(words: list[str], name: str) -> str:
    """The value of an option in a configuration file or, given after it, on the command line."""
    values = json.loads(Path(words[0]).read_text(encoding="utf-8"))
    if name in words:
        return words[words.index(name) + 1]
    return json.dumps(values.get(name.removeprefix("--"), {}))


def main(args: list[str] | None = None) -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="configuration file of train_image.py")
    parser.add_argument("--train", nargs="+", default=None, help="training images, if the file does not name them")
    parser.add_argument("--output_dir", required=True, help="where the JSON files and the table go")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="training seeds")
    parser.add_argument("--recipes", nargs="+", default=[recipe.name for recipe in RECIPES])
    parser.add_argument(
        "--max_steps", type=int, default=None, help="training steps of each run; by default the file's"
    )
    parser.add_argument("--num_threads", type=int, default=2)
    parser.add_argument("--use_cpu", action="store_true")
    arguments = parser.parse_args(args)
    if unknown := set(arguments.recipes) - {recipe.name for recipe in RECIPES}:
        raise ValueError(f"`recipes` must be among {[recipe.name for recipe in RECIPES]}, got {sorted(unknown)}.")

    output = Path(arguments.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    words = [arguments.config, *(["--train", *arguments.train] if arguments.train else [])]
    extra = ["--num_threads", str(arguments.num_threads), *(["--use_cpu"] if arguments.use_cpu else [])]
    extra += [] if arguments.max_steps is None else ["--max_steps", str(arguments.max_steps)]
    train, dev, data_args = parse_data(words)
    judge = Judge(train, dev, data_args.label_column, SEED)
    real = judge.frechet(train.sample(NUM_IMAGES, SEED).images)
    for seed in arguments.seeds:
        for recipe in (recipe for recipe in RECIPES if recipe.name in arguments.recipes):
            name = re.sub("[^a-z0-9.]+", "-", f"{recipe.name} seed {seed}".lower())
            file = output / f"{name}.json"
            if file.exists():
                continue
            folder = output / f".{name}"
            result = run(recipe, seed, words, train, dev, judge, data_args.label_column, folder, extra)
            result["real_frechet"] = real
            shutil.rmtree(folder)
            file.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            print(f"{name}: {result['frechet']:.3f}", flush=True)
    results = [json.loads(file.read_text(encoding="utf-8")) for file in sorted(output.glob("*.json"))]
    text = table(results)
    (output / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    torch.set_flush_denormal(True)  # as train_image.py
    main()
