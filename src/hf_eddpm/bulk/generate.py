"""Generates a corpus of any size into parquet files.

    python -m hf_eddpm.bulk.generate --checkpoint model_cards/eddpm-yelp-mini --num_samples 100000 --output_dir out
    torchrun --nproc_per_node 8 -m hf_eddpm.bulk.generate --checkpoint user/model --num_samples 10000000 \\
        --output_dir out

Each part has a seed of its own, so the same command gives the same samples with any number of processes. A run that
was killed goes on where it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.utils import logging

from ..extras import needs_extra
from ..training.arguments import parse_arguments
from .encode import check_dtype, load_pipeline
from .parts import make_parts, missing_here, open_output

with needs_extra("Generating a corpus"):
    import pyarrow

logger = logging.get_logger(__name__)


@dataclass
class GenerateArguments:
    """What is generated, and how."""

    checkpoint: str = field(metadata={"help": "Folder or Hub id of the pipeline."})
    output_dir: str = field(metadata={"help": "Where the parts go."})
    num_samples: int = field(default=10_000, metadata={"help": "How many."})
    num_inference_steps: int | None = field(
        default=None, metadata={"help": "Steps of the chain; by default the checkpoint's own number."}
    )
    eta: float = field(default=0.0, metadata={"help": "0 is DDIM, 1 is ancestral sampling."})
    noise_scale: float | None = field(
        default=None, metadata={"help": "Standard deviation of the first noise; by default the checkpoint's own."}
    )
    keep_latents: bool = field(default=False, metadata={"help": "Whether the latents are a column of the output."})
    batch_size: int = field(default=256, metadata={"help": "Samples decoded at a time."})
    part_size: int = field(default=5_000, metadata={"help": "Rows of one output file."})
    seed: int = field(default=0, metadata={"help": "Seed."})
    device: str | None = field(default=None, metadata={"help": "Device; by default this process's GPU, or the CPU."})
    dtype: str = field(default="float32", metadata={"help": "Type to compute in: float32, float16 or bfloat16."})
    compile: bool = field(default=False, metadata={"help": "torch.compile the denoiser; it takes a minute at first."})
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads of torch."})

    def __post_init__(self) -> None:
        check_dtype(self.dtype)
        for name in ("num_samples", "batch_size", "part_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")


def main(args: Sequence[str] | None = None) -> int:
    """Generates what is missing of this process's parts; returns how many rows that were."""
    (arguments,) = parse_arguments(GenerateArguments, args=args)
    if arguments.num_threads is not None:
        torch.set_num_threads(arguments.num_threads)
    decisive = ("checkpoint", "num_samples", "num_inference_steps", "eta", "noise_scale", "keep_latents", "part_size")
    settings = {name: getattr(arguments, name) for name in (*decisive, "batch_size", "seed", "dtype")}
    folder = open_output(arguments.output_dir, settings)
    pipe = load_pipeline(arguments.checkpoint, arguments.device, arguments.dtype)
    if arguments.compile:
        pipe.model.denoiser.compile(dynamic=True)
    size, total = arguments.part_size, arguments.num_samples

    @torch.inference_mode()
    def make(part: int, rows: list[Any]) -> dict[str, Any]:
        generator = torch.Generator().manual_seed(arguments.seed * 1_000_003 + part)
        out: Any = pipe(
            num_samples=len(rows),
            num_inference_steps=arguments.num_inference_steps,
            eta=arguments.eta,
            noise_scale=arguments.noise_scale,
            generator=generator,
            output_type="latent",
        )
        latents = out.latents
        samples = pipe.decode(latents, arguments.batch_size)
        columns: dict[str, Any] = {"row": pyarrow.array(rows, pyarrow.int64()), "sample": samples}
        if arguments.keep_latents:
            flat = latents.flatten(1).cpu()
            columns["latents"] = pyarrow.FixedSizeListArray.from_arrays(
                pyarrow.array(flat.flatten().numpy()), flat.shape[1]
            )
        return columns

    missing = [part for part in range(-(-total // size)) if missing_here(folder)(part)]
    rows_of = {part: range(part * size, min((part + 1) * size, total)) for part in missing}
    parts = ((part, list(rows_of[part])) for part in missing)
    done = make_parts(folder, parts, make, total=sum(map(len, rows_of.values())))
    logger.info(f"{done} samples generated; the rest was there or is another process's.")
    return done


if __name__ == "__main__":
    main()
