"""Trains the denoiser of a checkpoint alone on the latents: its own further, or a new one of another size or schedule.

    python training/studies/sentences/chain.py --checkpoint model_cards/eddpm-sentences --denoiser_type residual \\
        --train data/sentences/train.0.txt=0 data/sentences/train.1.txt=1 data/sentences/train.2.txt=2 \\
        data/sentences/train.3.txt=3 data/sentences/train.4.txt=4 --denoiser_hidden_size 768 \\
        --num_steps 9000 --batch_size 4096 --output_dir runs/sentences-chain

Encoder and decoder stay as they are, and with them every reconstruction: that is possible because no gradient of the
chain reached the encoder. A GPU takes two minutes, a CPU core some hours.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import HfArgumentParser

from hf_eddpm import EDDPMPipeline, EDDPMScheduler
from hf_eddpm.modeling_denoiser import make_denoiser
from hf_eddpm.training.finishing import finish_denoiser
from hf_eddpm.training.options import ColumnArguments
from hf_eddpm.training.precision import choose_precision
from hf_eddpm.training.raw_data import load_raw_data

SHAPES = {
    "denoiser_type": str,
    "denoiser_num_layers": int,
    "denoiser_hidden_size": int,
    "denoiser_embedding_size": int,
    "beta_schedule": str,
}


def main(words: Sequence[str] | None = None) -> None:
    """Trains the denoiser and saves the pipeline."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="folder or Hub id of the pipeline")
    parser.add_argument("--train", nargs="+", required=True, help="training data, each with =CLASS if it has one")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the new pipeline")
    for name, kind in SHAPES.items():
        parser.add_argument(f"--{name}", type=kind, help="of the new denoiser; the checkpoint's by default")
    parser.add_argument("--num_steps", type=int, default=9000)
    parser.add_argument("--batch_size", type=int, default=4096)
    parser.add_argument("--learning_rate", type=float, default=1e-3)
    parser.add_argument("--limit", type=int, help="sentences, drawn at random; all by default")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments, others = parser.parse_known_args(words)
    (columns,) = HfArgumentParser(ColumnArguments).parse_args_into_dataclasses(args=others)
    pipe = EDDPMPipeline.from_pretrained(arguments.checkpoint, dtype=torch.float32).to(arguments.device)
    pipe.set_progress_bar_config(disable=True)
    bf16 = choose_precision("auto", use_cpu=arguments.device == "cpu") == "bf16"
    data = load_raw_data(pipe, arguments.train, columns, images=True)
    chosen = torch.randperm(len(data.items), generator=torch.Generator().manual_seed(0))[: arguments.limit].tolist()
    with torch.autocast(arguments.device, torch.bfloat16, enabled=bf16):
        latents = pipe.encode([data.items[row] for row in chosen], 1024).latents.float().cpu()
    config = pipe.model.config
    changes = {name: getattr(arguments, name) for name in SHAPES if getattr(arguments, name) is not None}
    if changes:
        for name, value in changes.items():
            setattr(config, name, value)
        torch.manual_seed(0)
        pipe.model.denoiser = make_denoiser(config).to(arguments.device)
        pipe.model.__dict__.pop("scheduler", None)  # the model's own arithmetic is made anew from the config
        pipe.scheduler = EDDPMScheduler(**config.scheduler_config)
    finish_denoiser(
        pipe.model,
        latents,
        torch.tensor(data.labels)[chosen] if config.num_classes else None,
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
