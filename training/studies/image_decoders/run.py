"""Trains image autoencoders with different decoders for equal CPU time, and measures each alike.

    python training/studies/image_decoders/run.py training/studies/image_decoders/fashion.json \\
        --train train-images-idx3-ubyte.gz --seconds 180 --output_dir training/studies/image_decoders/results/fashion

Encoder and chain of the latents are the same; the decoders are one pass (pixels alone, or with a perceptual distance
and a critic), a chain over pixels or over patches folded into channels, one pass with a chain over its residual, and a
chain over patches whose student takes few steps. The last two give half of the time to their second part. How many
steps fit in the time is measured first, in CPU seconds of one thread, and kept in `steps.json`; the network of the
perceptual distance counts. Each row is one number of the pixels' steps. A run whose JSON exists is not repeated; the
table is of all JSON files there.
"""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import TrainerCallback, trainer

from hf_eddpm import EDDPMPipeline
from hf_eddpm.hub.card import markdown_table
from hf_eddpm.modalities.image.metrics import to_tensor
from hf_eddpm.training.environment import describe_environment
from hf_eddpm.training.evaluation import result_file
from hf_eddpm.training.image_judge import Judge, decode, pixel_errors, sample_latents, to_uint8
from hf_eddpm.training.train_image import main as train_image
from hf_eddpm.training.train_image import parse_data

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the studies, which share code

from common.tables import mean_cells, read_results
from common.timing import timed  # noqa: E402
from image_decoders.stages import BATCH_SIZE, ResidualChain, distill_pixels, fit_residual  # noqa: E402

LATENT_STEPS = 20
BATCH = 250
SEED = 0
CRITIC_START = 0.3  # share of the steps before the critic counts
PERCEPTUAL = ("--perceptual_weight", "1.0", "--perceptual_width", "16")
CRITIC = ("--critic_weight", "0.5")
STEPS_FILE = "steps.json"
PACE_STEPS = 40

Decode = Callable[[torch.Tensor, int], NDArray[np.uint8]]


@dataclass(frozen=True)
class Variant:
    """One decoder."""

    name: str
    patch_size: int
    chain: bool = False
    losses: bool = False
    second: str = ""  # what the other half of the time goes to
    num_steps: tuple[int, ...] = field(default=(1,))  # of the pixels' chain, a row each


VARIANTS = (
    Variant("one pass", 1),
    Variant("one pass over patches of 2", 2),
    Variant("one pass over patches of 2, perceptual distance and critic", 2, losses=True),
    Variant("chain over pixels", 1, chain=True, num_steps=(4, 10, 20)),
    Variant("chain over patches of 2", 2, chain=True, num_steps=(4, 10, 20)),
    Variant("chain over patches of 4", 4, chain=True, num_steps=(4, 10, 20)),
    Variant("one pass over patches of 2, then a chain over its residual", 2, second="residual", num_steps=(2, 4, 10)),
    Variant("chain over patches of 2, distilled", 2, chain=True, second="student", num_steps=(1, 2, 4)),
)


class StepClock(TrainerCallback):
    """The CPU seconds of a training's steps, without what comes before the first and after the last."""

    def __init__(self) -> None:
        self.seconds, self.began = 0.0, 0.0

    @classmethod
    @contextlib.contextmanager
    def listening(cls) -> Iterator["StepClock"]:
        """Give a clock to the trainers that are made in the meantime."""
        clock = cls()
        trainer.DEFAULT_CALLBACKS.append(clock)
        try:
            yield clock
        finally:
            trainer.DEFAULT_CALLBACKS.remove(clock)

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        """Start the clock."""
        self.began = time.process_time()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        """Stop it."""
        self.seconds += time.process_time() - self.began


class Study:
    """The variants on one data set.

    Args:
        config: Training configuration file.
        train_paths: Training images.
        dev_paths: Held-out images, if the configuration does not hold them out of the training ones.
        channels: Of the decoder's levels, by the patch's side.
        seconds: CPU seconds of each training.
        output: Folder of the results.
        num_images: Samples, and images reconstructed.
        perceptual_steps: Of the training of the perceptual distance's network.
    """

    def __init__(
        self,
        config: str,
        train_paths: list[str],
        dev_paths: list[str],
        channels: dict[int, list[int]],
        seconds: float,
        output: Path,
        num_images: int,
        perceptual_steps: int,
    ):
        self.words = [config, "--train", *train_paths, *(["--dev", *dev_paths] if dev_paths else [])]
        self.model_config = json.loads(Path(config).read_text(encoding="utf-8"))["model_config"]
        self.channels, self.seconds, self.output, self.num_images = channels, seconds, output, num_images
        self.perceptual_steps = perceptual_steps
        self.train, self.dev, data_args = parse_data(self.words)
        self.label = data_args.label_column
        self.judge = Judge(self.train, self.dev, self.label, SEED)
        self.some = self.dev.sample(num_images, SEED)
        self.real = self.judge.frechet(self.train.sample(num_images, SEED).images)

    def train_first(self, variant: Variant, seed: int, num_steps: int, folder: Path) -> EDDPMPipeline:
        """Trains the autoencoder, and its latents' chain with it."""
        kind = "eddpm_image_unet" if variant.chain else "eddpm_image_conv"
        decoder: dict[str, Any] = {
            "model_type": kind,
            "block_out_channels": self.channels[variant.patch_size],
            "patch_size": variant.patch_size,
            "layers_per_block": 1,
            **({"map_channels": 4} if variant.chain else {}),
        }
        losses: tuple[str, ...] = ()
        if variant.losses:
            column = ("--perceptual_column", self.label) if self.label else ()
            perceptual = (*PERCEPTUAL, "--perceptual_steps", str(self.perceptual_steps), *column)
            losses = (*perceptual, *CRITIC, "--critic_start", str(round(CRITIC_START * num_steps)))
        model_config = {**self.model_config, "decoder": decoder}
        words = (
            *("--model_config", json.dumps(model_config), "--seed", str(seed), "--output_dir", str(folder)),
            *("--max_steps", str(num_steps), "--num_threads", "1", *losses),
        )
        pipe = EDDPMPipeline.from_pretrained(train_image([*self.words, *words]))
        pipe.set_progress_bar_config(disable=True)
        return pipe

    def pace(self, variant: Variant) -> dict[str, float]:
        """CPU seconds of a training step and of what comes before the first, measured once for all seeds."""
        path = self.output / STEPS_FILE
        known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
        if variant.name not in known:
            with tempfile.TemporaryDirectory() as folder, StepClock.listening() as clock:
                _, timing = timed(lambda: self.train_first(variant, SEED, PACE_STEPS, Path(folder)))
            known[variant.name] = {
                "seconds_per_step": clock.seconds / PACE_STEPS,
                "start": timing.cpu - clock.seconds,
            }
            path.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        return known[variant.name]

    def fitting_steps(self, variant: Variant) -> int:
        """How many training steps fit in the time."""
        pace = self.pace(variant)
        seconds = self.seconds * (0.5 if variant.second else 1.0)
        if variant.losses:  # the network of the distance is trained before the first step
            plain = next(each for each in VARIANTS if each.patch_size == variant.patch_size and not each.chain)
            seconds -= max(pace["start"] - self.pace(plain)["start"], 0.0)
        if seconds <= 0:
            raise ValueError(
                f"`seconds` must be more: the perceptual distance's network alone takes {-seconds:.0f} s longer."
            )
        return max(round(seconds / pace["seconds_per_step"]), 1)

    def draw(self, pipe: EDDPMPipeline, seed: int) -> Callable[[], tuple[torch.Tensor, torch.Tensor]]:
        """Batches of training images in [-1, 1] with latents drawn around their means."""
        rng = np.random.default_rng(seed)
        images = self.train.sample(20_000, seed).images
        means = pipe.encode(list(images), BATCH).latents
        deviation = pipe.model.config.encoder_noise_variance**0.5

        def batch() -> tuple[torch.Tensor, torch.Tensor]:
            rows = rng.integers(len(images), size=BATCH_SIZE)
            latents = means[torch.from_numpy(rows)]
            return to_tensor(images[rows]), latents + deviation * torch.randn_like(latents)

        return batch

    def run(self, variant: Variant, seed: int) -> list[dict[str, Any]]:
        """Trains a variant and measures it, a result for each number of the pixels' steps."""
        steps = self.fitting_steps(variant)
        with tempfile.TemporaryDirectory() as folder:
            pipe = self.train_first(variant, seed, steps, Path(folder))
        pipe.model.requires_grad_(False)
        torch.manual_seed(seed)
        residual: ResidualChain | None = None
        if variant.second == "residual":
            channels = self.channels[variant.patch_size]
            residual = fit_residual(pipe, self.draw(pipe, seed), variant.patch_size, channels, self.seconds / 2)
        elif variant.second == "student":
            pipe = distill_pixels(pipe, self.draw(pipe, seed), self.seconds / 2)
        parameters = sum(each.numel() for each in (residual or pipe.model.decoder).parameters())
        if residual is not None:
            parameters += sum(each.numel() for each in pipe.model.decoder.parameters())

        @torch.no_grad()
        def decoded(latents: torch.Tensor, num_steps: int) -> NDArray[np.uint8]:
            if residual is None:
                return decode(pipe, latents, num_steps, BATCH, SEED)
            parts = []
            for number, some in enumerate(latents.split(BATCH)):
                mean = pipe.model.decoder.mean(some).clamp(-1, 1)
                images = residual.sample(mean, some, num_steps, SEED + number)
                parts.append(to_uint8((images.permute(0, 2, 3, 1).numpy() + 1) / 2))
            return np.concatenate(parts)

        latents = pipe.encode(list(self.some.images), BATCH).latents
        drawn = sample_latents(pipe, self.num_images, LATENT_STEPS, SEED)
        results = []
        for num_steps in variant.num_steps:
            again, timing = timed(lambda num_steps=num_steps: decoded(latents, num_steps))
            results.append(
                {
                    "variant": variant.name,
                    "seed": seed,
                    "num_steps": num_steps,
                    "train_steps": steps,
                    "cpu_seconds": self.seconds,
                    "decoder_parameters": parameters,
                    "reconstruction_frechet": self.judge.frechet(again),
                    "frechet": self.judge.frechet(decoded(drawn, num_steps)),
                    **pixel_errors(again, self.some.images),
                    "milliseconds": 1000 * timing.cpu / len(latents),
                    "real_frechet": self.real,
                    "extractor": self.judge.name,
                    **describe_environment(pipe.device),
                }
            )
        return results


def table(results: list[dict[str, Any]]) -> str:
    """Mean and standard deviation over the seeds of each variant and number of steps."""
    columns = {
        "reconstruction_frechet": ("reconstructions, Frechet", ".1f"),
        "frechet": ("samples, Frechet", ".1f"),
        "ssim": ("SSIM", ".3f"),
        "psnr": ("PSNR", ".1f"),
        "milliseconds": ("ms an image", ".1f"),
    }
    rows = []
    for variant in VARIANTS:
        for num_steps in variant.num_steps:
            group = [one for one in results if (one["variant"], one["num_steps"]) == (variant.name, num_steps)]
            if not group:
                continue
            row = {
                "decoder": variant.name,
                "its steps": str(num_steps) if variant.chain or variant.second else "",
                "trained, steps": f"{group[0]['train_steps']:,}",
                "seeds": str(len(group)),
            }
            rows.append(row | mean_cells(group, columns))
    return markdown_table(rows) + f"\n\nReal images against real images: {results[0]['real_frechet']:.2f}."


def main(args: list[str] | None = None) -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config", help="training configuration without a decoder")
    parser.add_argument("--train", nargs="+", required=True, help="training images")
    parser.add_argument("--dev", nargs="+", default=[], help="held-out images, if not of the training ones")
    parser.add_argument("--output_dir", required=True, help="where the JSON files and the table go")
    parser.add_argument("--variants", nargs="+", default=[variant.name for variant in VARIANTS])
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2], help="training seeds")
    parser.add_argument("--seconds", type=float, default=180.0, help="CPU seconds of each training")
    parser.add_argument("--num_images", type=int, default=500, help="samples, and images reconstructed")
    parser.add_argument("--perceptual_steps", type=int, default=300, help="of the perceptual distance's network")
    parser.add_argument("--pixels", nargs="+", type=int, default=[32, 64, 128], help="channels of a decoder of pixels")
    parser.add_argument("--patches2", nargs="+", type=int, default=[48, 96], help="of one over patches of 2")
    parser.add_argument("--patches4", nargs="+", type=int, default=[128], help="of one over patches of 4")
    arguments = parser.parse_args(args)
    if unknown := set(arguments.variants) - {variant.name for variant in VARIANTS}:
        raise ValueError(f"`variants` must be among {[each.name for each in VARIANTS]}, got {sorted(unknown)}.")
    output = Path(arguments.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    channels = {1: arguments.pixels, 2: arguments.patches2, 4: arguments.patches4}
    study: Study | None = None
    for seed in arguments.seeds:
        for variant in VARIANTS:
            file = result_file(output, f"{variant.name} seed {seed}")
            if variant.name not in arguments.variants or file.exists():
                continue
            if study is None:
                paths = (arguments.train, arguments.dev)
                study = Study(
                    arguments.config,
                    *paths,
                    channels,
                    arguments.seconds,
                    output,
                    arguments.num_images,
                    arguments.perceptual_steps,
                )
            results = study.run(variant, seed)
            file.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
            print(f"{file.stem}: {[round(one['frechet'], 1) for one in results]}", flush=True)
    text = table([one for results in read_results(output) for one in results])
    (output / "table.md").write_text(text + "\n", encoding="utf-8")
    print(text)


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)  # as train_image.py
    main()
