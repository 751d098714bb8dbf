"""Trains the joint model and its baselines from the same nets, and measures each alike: one JSON per run, one table.

    python training/studies/image_front/run.py training/configs/image_front.json --train train-images-idx3-ubyte.gz \\
        --output_dir training/studies/image_front/results

Recipes: the joint model (a share of 0.1 of the diffusion loss's gradient reaches the encoder), the same with the whole
gradient or none, the paper's objective, a diffusion autoencoder whose prior is trained afterwards for as many steps
("two stages"), pixel diffusion without latents; and with the decoder in one pass the joint model, two stages, the same
autoencoder with a Gaussian fitted to its latents in place of the chain, and a VAE. "As long" is joint training of 1.4
times the steps, which takes the time of both stages with the small networks of `image_front.json`, and more than that
with larger ones; with "features" the latents are to agree with a frozen encoder, which `self_supervised.py` makes.
With `--noise_variances` the recipes with a chain over latents are swept over the encoder's noise, the front's knob.
Edits take held-out images to another class, drawn for each, by adding the difference of the two classes' mean latents.
A run whose JSON exists is not repeated: an interrupted benchmark goes on where it stopped. The table and the plot
(`front.png`) are of all JSON files there.
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from hf_eddpm import EDDPMPipeline
from hf_eddpm.hub.card import TRAINING_FILE, markdown_table
from hf_eddpm.modalities.image.data import ImageData
from hf_eddpm.modalities.image.metrics import linear_probe, mean_squared_error, structural_similarity
from hf_eddpm.training.baselines.pixels import UnconditionalDiffusion, fit_prior
from hf_eddpm.training.baselines.priors import PriorPipeline
from hf_eddpm.training.baselines.vae import VariationalAutoencoder
from hf_eddpm.training.environment import describe_environment
from hf_eddpm.training.evaluation import as_embeddings, latent_statistics, reach_statistics, result_file
from hf_eddpm.training.image_judge import Judge, decode, sample_latents
from hf_eddpm.training.image_measures import SHARES
from hf_eddpm.training.train_image import main as train_image
from hf_eddpm.training.train_image import parse_data

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the studies, which share code

from common.classes import class_means, other_classes
from common.probes import component_probe
from common.tables import mean_cells, read_results

PAPER = {
    "latent_normalization": "none",
    "encoder_gradient_scale": 1.0,
    "encoder_noise_variance": 0.008,
    "alignment_target": "mean",
    "prediction_type": "epsilon",
}
JOINT = {"encoder_gradient_scale": 0.1}
TWO_STAGES = {"encoder_gradient_scale": 0.0, "diffusion_weight": 0.0}
CONVOLUTIONAL = {"model_type": "eddpm_image_conv"}
NUM_IMAGES = 500
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
    "latents_frechet": ("latents' Frechet over real halves", ".2f"),
    "effective_rank": ("effective rank", ".1f"),
    "probe": ("latent probe", ".3f"),
    "pca_probe": ("PCA probe", ".3f"),
    "edits_in_class": ("edits in class", ".3f"),
    "edits_ssim": ("their SSIM", ".3f"),
    "train_cpu_seconds": ("training, CPU s", ".0f"),
}


@dataclass(frozen=True)
class Recipe:
    """One way to train."""

    name: str
    model_config: dict[str, Any] = field(default_factory=dict)
    words: tuple[str, ...] = ()
    prior: Literal["own", "second stage", "Gaussian"] = "own"  # what latents are drawn from; fitted after training
    own_decoder: bool = True  # the configuration's, rather than one in one pass
    swept: bool = True  # whether the encoder's noise variance means something
    length: float = 1.0  # training steps, in units of the others'
    feature_weight: float | None = None  # of the latents' agreement with the features of `--feature_encoder`


RECIPES = (
    Recipe("joint, 0.1", JOINT),
    Recipe("two stages", TWO_STAGES, prior="second stage"),
    Recipe("no latents", {"latent_normalization": "none"}, ("--no_latents", "true"), swept=False),
    Recipe("VAE, one pass", {}, ("--vae_kl_weight", "1.0"), own_decoder=False, swept=False),
    Recipe("VAE, KL weight 10, one pass", {}, ("--vae_kl_weight", "10.0"), own_decoder=False, swept=False),
    Recipe("VAE, KL weight 0.1, one pass", {}, ("--vae_kl_weight", "0.1"), own_decoder=False, swept=False),
    Recipe("joint, 0.1, one pass", JOINT, own_decoder=False),
    Recipe("joint, 0.1, one pass, as long", JOINT, own_decoder=False, length=1.4),
    Recipe("two stages, one pass", TWO_STAGES, prior="second stage", own_decoder=False),
    Recipe("autoencoder, Gaussian prior, one pass", TWO_STAGES, prior="Gaussian", own_decoder=False),
    Recipe("paper", PAPER, swept=False),
    Recipe("paper, one pass", PAPER, own_decoder=False, swept=False),
    Recipe("joint, 1", {"encoder_gradient_scale": 1.0}),
    Recipe("joint, 0", {"encoder_gradient_scale": 0.0}),
    Recipe("joint, 0, one pass", {"encoder_gradient_scale": 0.0}, own_decoder=False),
    Recipe("joint, 0, one pass, as long", {"encoder_gradient_scale": 0.0}, own_decoder=False, length=1.4),
    Recipe(
        "joint, 0, one pass, renormalised",
        {"encoder_gradient_scale": 0.0, "latent_normalization": "batch_renorm"},
        own_decoder=False,
    ),
    Recipe("joint, 0, one pass, features 0.1", {"encoder_gradient_scale": 0.0}, own_decoder=False, feature_weight=0.1),
    Recipe("joint, 0, one pass, features 0.5", {"encoder_gradient_scale": 0.0}, own_decoder=False, feature_weight=0.5),
)


@torch.no_grad()
def measure(
    pipe: EDDPMPipeline, train: ImageData, dev: ImageData, judge: Judge, label: str | None, num_images: int
) -> dict[str, float]:
    """Samples, reconstructions, interpolations, edits and a probe of one model on the held-out images."""
    pipe.set_progress_bar_config(disable=True)
    some = dev.sample(num_images, SEED)
    batch = 250
    if isinstance(pipe.model, UnconditionalDiffusion):
        zeros = torch.zeros(num_images, pipe.model.config.num_latents, pipe.model.config.latent_dim)
        return {"frechet": judge.frechet(decode(pipe, zeros, NUM_STEPS, batch, SEED))}
    if isinstance(pipe.model, VariationalAutoencoder):
        prior = pipe.model.sample_prior(num_images, torch.Generator().manual_seed(SEED))
        samples = decode(pipe, prior, NUM_STEPS, batch, SEED)
        drawn = None
    else:
        drawn = sample_latents(pipe, num_images, NUM_STEPS, SEED)
        samples = decode(pipe, drawn, NUM_STEPS, batch, SEED)
    latents = pipe.encode(list(some.images), batch).latents
    again = decode(pipe, latents, NUM_STEPS, batch, SEED)
    ends = latents[torch.from_numpy(np.random.default_rng(SEED).permutation(len(latents)))]
    result = {
        "frechet": judge.frechet(samples),
        "reconstruction_frechet": judge.frechet(again),
        "mse": mean_squared_error(again.astype(np.float32) / 255, some.images.astype(np.float32) / 255),
        "ssim": structural_similarity(again.astype(np.float32) / 255, some.images.astype(np.float32) / 255),
        "latent_std": float(as_embeddings(latents).std(axis=0).mean()),
    }
    fit = train.sample(NUM_PROBE, SEED)
    real = pipe.encode(list(fit.images), batch).latents
    if drawn is not None:
        reach = reach_statistics(drawn, latents, real)
        statistics = latent_statistics(as_embeddings(latents), pipe.model.config.encoder_noise_variance)
        result |= {
            "latents_frechet": reach["frechet"] / reach["real_frechet"],
            "effective_rank": statistics["effective_rank"],
        }
    for share in SHARES:
        middle = torch.lerp(latents, ends, share)
        result[f"interpolation_{share}"] = judge.frechet(decode(pipe, middle, NUM_STEPS, batch, SEED))
    if label is not None:
        labels, held = fit.labels(label), some.labels(label)
        known = as_embeddings(real)
        result["probe"] = linear_probe(known, labels, as_embeddings(latents), held)["accuracy"]
        result["pca_probe"] = component_probe(fit, some, label, known.shape[1])
        means = class_means(torch.from_numpy(known).view(len(known), *latents.shape[1:]), labels)
        targets = other_classes(held, len(means), SEED)
        moved = latents + (means[targets] - means[held]).to(latents)
        edited = decode(pipe, moved, NUM_STEPS, batch, SEED)
        result["edits_in_class"] = float((judge.classes(edited) == targets).mean())
        result["edits_ssim"] = structural_similarity(edited / 255, some.images / 255)
    return result


def table(results: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over training seeds of each recipe and noise variance."""
    rows = []
    for (recipe, variance), group in _points(results).items():
        row = {
            "recipe": recipe,
            "encoder noise": "" if variance is None else f"{variance:g}",
            "seeds": str(len(group)),
        }
        rows.append(row | mean_cells(group, MEASURES))
    real = np.mean([result["real_frechet"] for result in results])
    return markdown_table(rows) + f"\n\nReal images against real images: {real:.2f}."


def plot(results: list[dict[str, Any]], path: Path) -> None:
    """Draws reconstruction against samples: a small point for each run, a large one for the mean over its seeds."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    points = {key: group for key, group in _points(results).items() if "mse" in group[0]}
    figure, axes = plt.subplots(figsize=(8, 5), layout="constrained")
    for number, recipe in enumerate(dict.fromkeys(recipe for recipe, _ in points)):
        means = []
        for (_, variance), group in (item for item in points.items() if item[0][0] == recipe):
            pairs = np.array([(result["mse"], result["frechet"]) for result in group])
            means.append(pairs.mean(0))
            axes.scatter(*pairs.T, s=10, alpha=0.5, color=f"C{number}")
            if variance is not None:
                axes.annotate(f"{variance:g}", means[-1], textcoords="offset points", xytext=(5, 4), fontsize=8)
        axes.plot(*np.array(means).T, marker="o", color=f"C{number}", label=recipe)
    axes.set(
        xlabel="reconstruction, mean squared error", ylabel="samples, Frechet distance", xscale="log", yscale="log"
    )
    axes.legend()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def trainings(points: Sequence[tuple[Recipe, float | None]]) -> list[list[tuple[Recipe, float | None]]]:
    """Recipes with their noise variances, those of one training together: they differ in what is fitted afterwards."""
    groups: dict[str, list[tuple[Recipe, float | None]]] = {}
    for recipe, variance in points:
        same = (
            recipe.model_config,
            recipe.words,
            recipe.own_decoder,
            recipe.length,
            recipe.feature_weight,
            variance,
        )
        groups.setdefault(json.dumps(same, sort_keys=True), []).append((recipe, variance))
    return list(groups.values())


def _points(results: list[dict[str, Any]]) -> dict[tuple[str, float | None], list[dict[str, Any]]]:
    """The runs of each recipe and noise variance, in the recipes' order and by rising variance."""
    order = [recipe.name for recipe in RECIPES]
    points: dict[tuple[str, float | None], list[dict[str, Any]]] = {}
    for result in sorted(results, key=lambda one: (order.index(one["recipe"]), one["encoder_noise_variance"] or 0)):
        points.setdefault((result["recipe"], result["encoder_noise_variance"]), []).append(result)
    return points


def train_recipe(
    recipe: Recipe,
    variance: float | None,
    seed: int,
    words: list[str],
    folder: Path,
    max_steps: int,
    extra: list[str],
    feature_encoder: str | None = None,
) -> tuple[Path, NDArray[np.float64]]:
    """Trains one model, with the encoder noise variance given, or the recipe's own; its folder and the time."""
    start = _clocks()
    config = {**json.loads(Path(words[0]).read_text(encoding="utf-8")).get("model_config", {}), **recipe.model_config}
    if variance is not None:
        config["encoder_noise_variance"] = variance
    if not recipe.own_decoder:
        shape = {key: value for key, value in config.get("decoder", {}).items() if key in _SHAPE}
        config["decoder"] = {**shape, **CONVOLUTIONAL}
    if recipe.feature_weight is not None:
        extra = [*extra, "--feature_encoder", str(feature_encoder), "--feature_weight", str(recipe.feature_weight)]
    pipeline = train_image(
        [
            *words,
            *("--model_config", json.dumps(config), "--seed", str(seed), "--output_dir", str(folder)),
            *("--eval_strategy", "no", "--save_strategy", "no", "--num_previews", "0", "--disable_tqdm", "true"),
            *("--max_steps", str(round(recipe.length * max_steps))),
            *recipe.words,
            *extra,
        ]
    )
    return pipeline, _clocks() - start


def measure_recipe(
    recipe: Recipe,
    seed: int,
    words: list[str],
    pipeline: Path,
    trained: NDArray[np.float64],
    train: ImageData,
    dev: ImageData,
    judge: Judge,
    label: str | None,
    num_images: int,
) -> dict[str, Any]:
    """Fits the prior that the recipe wants to a trained model's latents, and measures it."""
    start = _clocks()
    file = json.loads(Path(words[0]).read_text(encoding="utf-8"))
    facts = json.loads((pipeline / TRAINING_FILE).read_text(encoding="utf-8"))
    pipe = EDDPMPipeline.from_pretrained(pipeline)
    num_parameters = pipe.model.num_parameters()
    if recipe.prior != "own":
        steps, batch = facts["steps"], facts["batch_size"]
        means = pipe.encode(list(train.sample(steps * batch, SEED).images)).latents
        if recipe.prior == "Gaussian":
            num_parameters -= sum(parameter.numel() for parameter in pipe.model.denoiser.parameters())
            pipe = PriorPipeline.around(pipe)
            pipe.fit(means)
        else:
            rate, decay = file.get("learning_rate", 1e-3), file.get("ema_decay", 0.998)
            fit_prior(pipe.model, means, steps, batch, rate, decay, seed)
    wall, cpu = trained + _clocks() - start
    return {
        "recipe": recipe.name,
        "encoder_noise_variance": pipe.model.config.encoder_noise_variance if recipe.swept else None,
        "seed": seed,
        "steps": facts["steps"],
        "batch_size": facts["batch_size"],
        **measure(pipe, train, dev, judge, label, num_images),
        "train_seconds": round(wall, 1),
        "train_cpu_seconds": round(cpu, 1),
        "num_parameters": num_parameters,
        "extractor": judge.name,
        **describe_environment(pipe.device),
    }


def _clocks() -> NDArray[np.float64]:
    """Seconds by the clock, and of the processor."""
    return np.array([time.perf_counter(), time.process_time()])


_SHAPE = ("block_out_channels", "layers_per_block", "norm_num_groups", "patch_size")


def main(args: list[str] | None = None) -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="configuration file of train_image.py")
    parser.add_argument("--train", nargs="+", default=None, help="training images, if the file does not name them")
    parser.add_argument("--output_dir", required=True, help="where the JSON files and the table go")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="training seeds")
    parser.add_argument("--recipes", nargs="+", help="by default all that need no `feature_encoder`")
    parser.add_argument("--feature_encoder", help="frozen vision model for latents to agree with: folder or Hub id")
    parser.add_argument(
        "--noise_variances", nargs="+", type=float, default=[None], help="of the encoder; by default the file's"
    )
    parser.add_argument(
        "--max_steps", type=int, default=None, help="training steps of each run; by default the file's"
    )
    parser.add_argument("--num_images", type=int, default=NUM_IMAGES, help="samples, and images reconstructed")
    parser.add_argument("--num_threads", type=int, default=2)
    parser.add_argument("--use_cpu", action="store_true")
    arguments = parser.parse_args(args)
    aligned = {recipe.name for recipe in RECIPES if recipe.feature_weight is not None}
    if arguments.recipes is None:
        arguments.recipes = [recipe.name for recipe in RECIPES if recipe.name not in aligned]
    if unknown := set(arguments.recipes) - {recipe.name for recipe in RECIPES}:
        raise ValueError(f"`recipes` must be among {[recipe.name for recipe in RECIPES]}, got {sorted(unknown)}.")
    if arguments.feature_encoder is None and (wants := aligned & set(arguments.recipes)):
        raise ValueError(f"`feature_encoder` must name a vision model for the recipes {sorted(wants)}.")

    output = Path(arguments.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    words = [arguments.config, *(["--train", *arguments.train] if arguments.train else [])]
    extra = ["--num_threads", str(arguments.num_threads), *(["--use_cpu"] if arguments.use_cpu else [])]
    max_steps = arguments.max_steps or json.loads(Path(arguments.config).read_text(encoding="utf-8"))["max_steps"]
    train, dev, data_args = parse_data(words)
    judge = Judge(train, dev, data_args.label_column, SEED)
    real = judge.frechet(train.sample(arguments.num_images, SEED).images)
    points = [
        (recipe, variance)
        for recipe in RECIPES
        for variance in (arguments.noise_variances if recipe.swept else [None])
        if recipe.name in arguments.recipes
    ]
    for seed in arguments.seeds:
        for group in trainings(points):
            missing = {}
            for recipe, variance in group:
                noise = "" if variance is None else f" noise {variance:g}"
                file = result_file(output, f"{recipe.name}{noise} seed {seed}")
                if not file.exists():
                    missing[file] = recipe
            if not missing:
                continue
            label, num = data_args.label_column, arguments.num_images
            with tempfile.TemporaryDirectory() as folder:
                pipeline, trained = train_recipe(
                    *group[0], seed, words, Path(folder), max_steps, extra, arguments.feature_encoder
                )
                for file, recipe in missing.items():
                    result = measure_recipe(recipe, seed, words, pipeline, trained, train, dev, judge, label, num)
                    result["real_frechet"] = real
                    text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
                    file.write_text(text, encoding="utf-8")
                    print(f"{file.stem}: {result['frechet']:.3f}", flush=True)
    results = read_results(output)
    text = table(results)
    (output / "table.md").write_text(text + "\n", encoding="utf-8")
    plot(results, output / "front.png")
    print(text)


if __name__ == "__main__":
    torch.set_flush_denormal(True)  # as train_image.py
    main()
