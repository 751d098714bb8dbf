"""Gives a trained checkpoint a new denoiser, of another size or schedule, and trains it alone on the latents.

    python training/studies/sentences/chain.py --checkpoint model_cards/eddpm-sentences --data data/sentences \\
        --denoiser_hidden_size 1024 --denoiser_embedding_size 256 --beta_schedule squaredcos_cap_v2 \\
        --num_steps 9000 --batch_size 4096 --output_dir runs/sentences-chain

Encoder and decoder stay as they are, and with them every reconstruction: that is possible because no gradient of the
chain reached the encoder. `--data` is what `prepare.py` wrote. A GPU takes two minutes, a CPU core some hours.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from hf_eddpm import EDDPMPipeline, EDDPMScheduler
from hf_eddpm.modeling_denoiser import make_denoiser
from hf_eddpm.training.finishing import finish_denoiser
from hf_eddpm.training.precision import choose_precision

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the studies, which share code

from sentences.domains import read
from sentences.prepare import CLASSES

SHAPES = ("denoiser_hidden_size", "denoiser_num_layers", "denoiser_embedding_size", "beta_schedule")


def encode_all(pipe: EDDPMPipeline, folder: Path, bf16: bool) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the latents of all training sentences, `(num, num_latents, latent_dim)`, and their classes `(num,)`."""
    latents, labels = [], []
    for label in range(len(CLASSES)):
        sentences = read(folder / f"train.{label}.txt")
        with torch.autocast(pipe.device.type, torch.bfloat16, enabled=bf16):
            latents.append(pipe.encode(sentences, 1024).latents.float())
        labels += [label] * len(sentences)
    return torch.cat(latents), torch.tensor(labels)


def main(words: Sequence[str] | None = None) -> None:
    """Trains the denoiser and saves the pipeline."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="folder or Hub id of the pipeline")
    parser.add_argument("--data", type=Path, required=True, help="folder that prepare.py wrote")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the new pipeline")
    for name in SHAPES:
        kind = str if name == "beta_schedule" else int
        parser.add_argument(f"--{name}", type=kind, help="of the new denoiser; the checkpoint's by default")
    parser.add_argument("--num_steps", type=int, default=9000)
    parser.add_argument("--batch_size", type=int, default=4096)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args(words)
    pipe = EDDPMPipeline.from_pretrained(arguments.checkpoint, dtype=torch.float32).to(arguments.device)
    pipe.set_progress_bar_config(disable=True)
    bf16 = choose_precision("auto", use_cpu=arguments.device == "cpu") == "bf16"
    latents, labels = encode_all(pipe, arguments.data, bf16)
    config = pipe.model.config
    for name in SHAPES:
        if getattr(arguments, name) is not None:
            setattr(config, name, getattr(arguments, name))
    torch.manual_seed(0)
    pipe.model.denoiser = make_denoiser(config).to(arguments.device)
    pipe.model.__dict__.pop("scheduler", None)  # the model's own arithmetic is made anew from the config
    pipe.scheduler = EDDPMScheduler(**config.scheduler_config)
    finish_denoiser(
        pipe.model,
        latents,
        labels if config.num_classes else None,
        arguments.num_steps,
        arguments.batch_size,
        arguments.learning_rate,
        ema_decay=0.999,
        seed=0,
        bf16=bf16,
    )
    pipe.to(dtype=torch.float16)
    pipe.save_pretrained(arguments.output_dir)


if __name__ == "__main__":
    torch.set_flush_denormal(True)
    main()
