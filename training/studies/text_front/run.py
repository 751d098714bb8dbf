"""Trains one small model per recipe and setting, evaluates each alike, and draws the front they span.

    python training/studies/text_front/run.py --train train.0.txt.gz=0 train.1.txt.gz=1 \\
        --dev dev.0.txt.gz=0 dev.1.txt.gz=1 --output_dir training/studies/text_front/results

The recipes are the paper's objective (swept over its diffusion weight) and three shares of the diffusion loss's
gradient that reach a batch-normalised encoder (swept over the encoder's noise variance); everything else is the same.
Beside them stand the same networks without a chain: the two-stage autoencoder with a Gaussian fitted to its latents, a
variational autoencoder (swept over its KL weight), and a language model of as many parameters, which reconstructs
nothing.
One JSON per run is written as it ends, and a run whose JSON exists is not repeated: an interrupted benchmark goes on
where it stopped.
"""

import argparse
import json
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch

from hf_eddpm import EDDPMPipeline, EDDPMScheduler
from hf_eddpm.modalities.text.data import load_text
from hf_eddpm.training.baselines.priors import PriorPipeline
from hf_eddpm.training.environment import describe_environment
from hf_eddpm.training.evaluation import result_file
from hf_eddpm.training.text_measures import EvaluationSettings, evaluate
from hf_eddpm.training.train_text import main as train_text

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the studies, which share code

from text_front.plot import draw

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "text_front.json"
NOISE = "encoder_noise_variance"
NOISE_VARIANCES = (0.02, 0.1, 0.3)
BATCH = {"latent_normalization": "batch", "decoder_noise_variance": 0.0}
PAPER = {
    "decoder_noise_variance": 0.0,
    "latent_normalization": "none",
    "encoder_gradient_scale": 1.0,
    "encoder_noise_variance": 0.008,
    "alignment_target": "mean",
    "prediction_type": "epsilon",
    "reconstruction_weight": None,
}
# As many parameters as the others have: the encoder's and the denoiser's go to the decoder.
LANGUAGE_MODEL = {
    "encoder": {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 1,
        "intermediate_size": 16,
        "max_position_embeddings": 64,
    },
    "decoder": {"n_embd": 256, "n_layer": 5, "n_head": 4, "n_positions": 64},
}
SETTINGS = EvaluationSettings(
    num_samples=1000,
    num_inference_steps=[50],
    seeds=[0, 1, 2],
    noise_scales=[],
    num_encoded=6000,
    num_paths=20,
    num_edits=50,
    refinement_steps=[],
    edit_refinement_steps=0,
)
UNMEASURED = ("reconstruction", "refined_reconstruction", "interpolation", "probe_accuracy", "edits", "latents")


@dataclass(frozen=True)
class Run:
    """One point of the front: a recipe, and the value of what is swept along its line."""

    recipe: str
    swept: str
    value: float
    model_config: dict[str, Any]
    prior: Literal["chain", "fitted", "standard", "language model"] = "chain"


def runs() -> list[Run]:
    """All points, the middle of each line first, so that an interrupted benchmark still compares all recipes."""
    points = [
        Run("paper", "diffusion_weight", weight, {**PAPER, "diffusion_weight": weight}) for weight in (2.0, 8.0, 32.0)
    ]
    for recipe, share in (("batch, 0 (two-stage)", 0.0), ("batch, 0.1", 0.1), ("batch, 1", 1.0)):
        for variance in NOISE_VARIANCES:
            points.append(Run(recipe, NOISE, variance, {**BATCH, "encoder_gradient_scale": share, NOISE: variance}))
    for share, variances in ((0.1, (0.005, 0.02, 0.1)), (0.0, (0.02,))):
        config = {**BATCH, "encoder_gradient_scale": share, "decoder_noise_variance": 0.3}
        recipe = f"batch, {share:g}, decoder noise 0.3"
        points += [Run(recipe, NOISE, variance, {**config, NOISE: variance}) for variance in variances]
    for weight in (0.003, 0.01, 0.03, 0.1):
        points.append(Run("VAE", "kl_weight", weight, {}, "standard"))
    points.append(
        Run("language model", "layers", LANGUAGE_MODEL["decoder"]["n_layer"], LANGUAGE_MODEL, "language model")
    )
    for variance in NOISE_VARIANCES:
        config = {**BATCH, "encoder_gradient_scale": 0.0, NOISE: variance}
        points.append(Run("autoencoder, Gaussian prior", NOISE, variance, config, "fitted"))
    middles = {"diffusion_weight": 8.0, NOISE: NOISE_VARIANCES[1], "kl_weight": 0.01, "layers": 5}
    return sorted(points, key=lambda run: run.value != middles[run.swept])


def trainings() -> list[list[Run]]:
    """The points, those of one training together: the Gaussian is fitted to the two-stage autoencoder's latents."""
    groups: dict[str, list[Run]] = {}
    for run in runs():
        kind = "chain" if run.prior in ("chain", "fitted") else f"{run.prior} {run.value}"
        groups.setdefault(kind + json.dumps(run.model_config, sort_keys=True), []).append(run)
    return list(groups.values())


def train(
    run: Run,
    seed: int,
    arguments: argparse.Namespace,
    folder: Path,
    config: Path = CONFIG,
    options: Sequence[str] = (),
) -> tuple[Path, float]:
    """Trains a point by the configuration and further options of train_text.py; the pipeline's folder, and seconds."""
    base = json.loads(config.read_text(encoding="utf-8"))["model_config"]
    values = {**base, **run.model_config}
    baseline = {"standard": ["--vae_kl_weight", str(run.value)], "language model": ["--no_latents", "true"]}
    start = time.perf_counter()
    pipeline = train_text(
        [
            str(config),
            *("--train", *arguments.train, "--dev", *arguments.dev),
            *("--model_config", json.dumps(values), "--seed", str(seed), "--output_dir", str(folder)),
            *("--num_threads", str(arguments.num_threads), "--use_cpu", str(arguments.use_cpu)),
            *(["--max_steps", str(arguments.max_steps)] if arguments.max_steps else []),
            *baseline.get(run.prior, []),
            *options,
        ]
    )
    return pipeline, round(time.perf_counter() - start, 1)


def measure(run: Run, seed: int, arguments: argparse.Namespace, pipeline: Path, seconds: float) -> dict[str, Any]:
    """Evaluates one point that was trained with `seed` in so many `seconds`."""
    pipe = EDDPMPipeline.from_pretrained(pipeline)
    pipe.scheduler = EDDPMScheduler(**pipe.model.config.scheduler_config)  # DDIM, as all points
    train_data, dev = load_text(arguments.train), load_text(arguments.dev)
    if run.prior != "chain":
        pipe = PriorPipeline.around(pipe)
    if run.prior == "fitted":
        pipe.fit(pipe.encode(train_data.sample(20_000, seed).sentences).latents)
    if run.prior == "language model":
        pipe.factor = torch.zeros_like(pipe.factor)  # it knows no other latents than zero
        pipe.decoding = {"do_sample": True, "top_k": 0}
    result = evaluate(pipe, train_data, dev, replace(SETTINGS, num_samples=arguments.num_samples))
    if run.prior in ("standard", "language model"):  # the measured distance is from an EDDPM's posterior
        for values in (*result["samples"].values(), result["reference"]["train"]):
            values.pop("latent_frechet")
    if run.prior == "language model":
        result = {name: value for name, value in result.items() if name not in UNMEASURED}
    return {
        **{**asdict(run), "seed": seed, "train_seconds": seconds},
        **result,
        **describe_environment(pipe.device),
    }


def point_file(output: Path, run: Run, seed: int) -> Path:
    """Where a point's result goes."""
    return result_file(output, f"{run.recipe} {run.value} seed {seed}")


def main() -> None:
    """Runs what is missing and draws the front."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs="+", required=True, help="training sentences, `file=label`")
    parser.add_argument("--dev", nargs="+", required=True, help="held-out sentences, likewise")
    parser.add_argument("--output_dir", required=True, help="where the JSON files and the plot go")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3], help="training seeds")
    parser.add_argument("--recipes", nargs="+", help="only what is trained for these recipes")
    parser.add_argument("--max_steps", type=int, help="training steps of each run, in place of the configuration's")
    parser.add_argument("--num_samples", type=int, default=SETTINGS.num_samples, help="samples of each sampling seed")
    parser.add_argument("--num_threads", type=int, default=2)
    parser.add_argument("--use_cpu", action="store_true")
    arguments = parser.parse_args()

    output = Path(arguments.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    for seed in arguments.seeds:
        for points in trainings():
            missing = {run.recipe: point_file(output, run, seed) for run in points}
            missing = {recipe: file for recipe, file in missing.items() if not file.exists()}
            if not missing or (arguments.recipes and not missing.keys() & set(arguments.recipes)):
                continue
            folder = output / f".{next(iter(missing.values())).stem}"
            pipeline, seconds = train(points[0], seed, arguments, folder)
            for run in points:
                if run.recipe in missing:
                    result = measure(run, seed, arguments, pipeline, seconds)
                    text = json.dumps(result, indent=1, ensure_ascii=False) + "\n"
                    missing[run.recipe].write_text(text, encoding="utf-8")
            shutil.rmtree(folder)
            print(draw(sorted(output.glob("*.json")), output / "front.png"), flush=True)


if __name__ == "__main__":
    torch.set_flush_denormal(True)  # as train_text.py
    main()
