"""Trains autoencoders of one net on shapes with known factors, and measures how single latents follow single factors.

    python training/studies/sprites/run.py training/studies/sprites/nets.json --train train.npz --dev validation.npz \\
        --output_dir training/studies/sprites/results

The joint model with none, a tenth and all of the chain's gradient; beta-VAEs (Higgins et al. 2017) of three weights;
and a diffusion decoder over patches whose latents have the VAE's KL, which is InfoDiffusion's objective (Wang et al.
2023, arXiv 2306.08757) with zeta = 0 and lambda = 1. All train for as many steps. Where `--rotate` names a recipe, its
latents are measured a second time along the axes that FastICA (Hyvarinen 1999) finds in those of training images.
A run whose JSON exists is not repeated; the table is of all JSON files there.
"""

import argparse
import json
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.decomposition import FastICA

from hf_eddpm import EDDPMPipeline
from hf_eddpm.hub.card import markdown_table
from hf_eddpm.metrics.disentanglement import disentanglement
from hf_eddpm.modalities.image.data import ImageData
from hf_eddpm.modalities.image.metrics import intersection_over_union
from hf_eddpm.training.environment import describe_environment
from hf_eddpm.training.evaluation import as_embeddings, latent_statistics, result_file
from hf_eddpm.training.image_judge import decode, sample_latents
from hf_eddpm.training.train_image import main as train_image
from hf_eddpm.training.train_image import parse_data

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the studies, which share code

from common.tables import mean_cells, read_results

FACTORS = ("shape", "scale", "orientation", "pos_x", "pos_y")
NUM_STEPS = 20
BATCH = 250
SEED = 0
NUM_FITTED = 5000  # training images whose latents FastICA sees
ROTATED = ", along ICA's axes"


@dataclass(frozen=True)
class Recipe:
    """One way to train."""

    name: str
    model_config: dict[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    chain: bool = False  # whether the decoder is one over patches


RECIPES = (
    Recipe("joint, share 0", {"encoder_gradient_scale": 0.0}),
    Recipe("joint, share 0.1", {"encoder_gradient_scale": 0.1}),
    Recipe("joint, share 1", {"encoder_gradient_scale": 1.0}),
    Recipe("VAE, beta 1", {}, ("--vae_kl_weight", "1")),
    Recipe("VAE, beta 4", {}, ("--vae_kl_weight", "4")),
    Recipe("VAE, beta 16", {}, ("--vae_kl_weight", "16")),
    Recipe("diffusion decoder with a KL", {}, ("--vae_kl_weight", "1"), chain=True),
)
MEASURES = {
    "iou": ("intersection over union", ".3f"),
    "disentanglement": ("DCI disentanglement", ".3f"),
    "completeness": ("completeness", ".3f"),
    "informativeness": ("informativeness", ".3f"),
    "mig": ("MIG", ".3f"),
    "sap": ("SAP", ".3f"),
    "effective_rank": ("effective rank", ".1f"),
    "samples_iou": ("samples, with the nearest image", ".3f"),
}


def nearest_overlap(images: NDArray[np.uint8], real: NDArray[np.uint8]) -> float:
    """Mean over images of the largest intersection over union with any real image: 1 if each is one of them."""
    shapes, others = ((each > 127).reshape(len(each), -1).astype(np.float32) for each in (images, real))
    common = shapes @ others.T
    either = shapes.sum(1)[:, None] + others.sum(1)[None] - common
    return float((common / np.maximum(either, 1)).max(1).mean())


def measure(pipe: EDDPMPipeline, train: ImageData, dev: ImageData, num_images: int, rotate: bool) -> dict[str, Any]:
    """Reconstruction, factors and samples of one model; with `rotate` the factors along other axes, too."""
    pipe.set_progress_bar_config(disable=True)
    some = dev.sample(num_images, SEED)
    factors = np.stack([some.labels(name) for name in FACTORS], axis=1)
    latents = pipe.encode(list(some.images), BATCH).latents
    again = decode(pipe, latents, NUM_STEPS, BATCH, SEED)
    embeddings = as_embeddings(latents)
    result = {
        "iou": intersection_over_union(again / 255, some.images / 255),
        **disentanglement(embeddings, factors, seed=SEED),
        **latent_statistics(embeddings, pipe.model.config.encoder_noise_variance),
    }
    if hasattr(pipe.model, "sample_prior"):
        drawn = pipe.model.sample_prior(num_images, torch.Generator().manual_seed(SEED))
    else:
        drawn = sample_latents(pipe, num_images, NUM_STEPS, SEED)
    real = train.sample(20_000, SEED).images
    result["samples_iou"] = nearest_overlap(decode(pipe, drawn, NUM_STEPS, BATCH, SEED), real)
    result["unseen_iou"] = nearest_overlap(some.images, real)
    if rotate:
        known = as_embeddings(pipe.encode(list(train.sample(NUM_FITTED, SEED).images), BATCH).latents)
        axes = FastICA(whiten="unit-variance", random_state=SEED, max_iter=1000).fit(known)
        result["rotated"] = disentanglement(axes.transform(embeddings), factors, seed=SEED)
    return result


def table(results: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over training seeds of each recipe."""
    rows = []
    for recipe in RECIPES:
        group = [one for one in results if one["recipe"] == recipe.name]
        turned = [one["rotated"] for one in group if "rotated" in one]
        for name, some in ((recipe.name, group), (recipe.name + ROTATED, turned)):
            if not some:
                continue
            rows.append({"recipe": name, "seeds": str(len(some)), **mean_cells(some, MEASURES)})
    unseen = np.mean([one["unseen_iou"] for one in results])
    return markdown_table(rows) + f"\n\nHeld-out images, with the nearest image: {unseen:.3f}."


def main(args: list[str] | None = None) -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="training configuration; its decoder is one in one pass")
    parser.add_argument("--train", nargs="+", required=True, help="training images with their factors")
    parser.add_argument("--dev", nargs="+", required=True, help="held-out ones")
    parser.add_argument("--output_dir", required=True, help="where the JSON files and the table go")
    parser.add_argument("--recipes", nargs="+", default=[recipe.name for recipe in RECIPES])
    parser.add_argument(
        "--rotate", nargs="*", default=[RECIPES[0].name], help="recipes measured along ICA's axes, too"
    )
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2], help="training seeds")
    parser.add_argument("--max_steps", type=int, default=None, help="training steps; by default the file's")
    parser.add_argument("--num_images", type=int, default=2000, help="samples, and held-out images")
    arguments = parser.parse_args(args)
    if unknown := {*arguments.recipes, *arguments.rotate} - {recipe.name for recipe in RECIPES}:
        raise ValueError(f"`recipes` must be among {[recipe.name for recipe in RECIPES]}, got {sorted(unknown)}.")
    output = Path(arguments.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    words = [arguments.config, "--train", *arguments.train, "--dev", *arguments.dev]
    config = json.loads(Path(arguments.config).read_text(encoding="utf-8"))["model_config"]
    steps = [] if arguments.max_steps is None else ["--max_steps", str(arguments.max_steps)]
    data: tuple[ImageData, ImageData] | None = None
    for seed in arguments.seeds:
        for recipe in RECIPES:
            file = result_file(output, f"{recipe.name} seed {seed}")
            if recipe.name not in arguments.recipes or file.exists():
                continue
            decoder = {**config["decoder"], "model_type": "eddpm_image_conv"}
            if recipe.chain:
                decoder |= {"model_type": "eddpm_image_unet", "map_channels": 4}
            model_config = json.dumps({**config, **recipe.model_config, "decoder": decoder})
            with tempfile.TemporaryDirectory() as folder:
                run = ["--model_config", model_config, "--seed", str(seed), "--output_dir", folder]
                pipe = EDDPMPipeline.from_pretrained(train_image([*words, *run, *steps, *recipe.words]))
            data = data or parse_data(words)[:2]
            result = {
                "recipe": recipe.name,
                "seed": seed,
                "num_parameters": pipe.model.num_parameters(),
                **measure(pipe, *data, arguments.num_images, recipe.name in arguments.rotate),
                **describe_environment(pipe.device),
            }
            file.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            print(f"{file.stem}: {result['iou']:.3f}, {result['disentanglement']:.3f}", flush=True)
    text = table(read_results(output))
    (output / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as train_image.py
    main()
