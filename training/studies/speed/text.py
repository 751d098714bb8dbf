"""Measures speed as ratios within one run: decoding, sampling with few steps, and where a training step's time goes.

    python training/studies/speed/text.py --threads 2 --output speed.json \\
        --checkpoint model_cards/eddpm-yelp --dev dev.0.txt.gz dev.1.txt.gz \\
        --config training/configs/text_yelp_mini.json --train train.0.txt.gz train.1.txt.gz

- **decoding**, always: `TextDecoder.generate` (greedy, key/value cache) against greedy decoding that runs the whole
  prefix again for every token and computes the logits of every position, on random weights without an end token. Both
  give the same tokens. The output layer's share grows with the vocabulary, so the ratio is given for several.
- **sampling**, with `--checkpoint` and `--dev`: seconds for the latents of the same noise with few steps and with
  many, by scheduler, and their relative Frechet distance from posterior samples of one half of the held-out sentences.
  The other half's distance from the first is the floor.
- **roofline**, with `--checkpoint` and `--dev`: encoding, the chain and decoding of a batch, each as a share of the
  time of all and of the rate at which this machine multiplies matrices.
- **training**, with `--config` and `--train`: seconds of an optimiser step of that configuration, by part, and the
  share of that rate which its networks come to.

Beside the JSON file the tables are written as Markdown (`speed.md` here) and printed.
"""

import json
import random
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import HfArgumentParser, TrainerCallback
from transformers.utils import logging

from hf_eddpm import EDDPMConfig, EDDPMPipeline, EDDPMTrainer, TextDecoder
from hf_eddpm.hub.card import markdown_table
from hf_eddpm.modalities.text.data import load_text
from hf_eddpm.modalities.text.metrics import latent_frechet
from hf_eddpm.training.arguments import EDDPMTrainingArguments, parse_arguments
from hf_eddpm.training.environment import describe_command, describe_environment
from hf_eddpm.training.options import CardArguments, TextDataArguments, TextModelArguments
from hf_eddpm.training.train_text import build_model

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the studies, which share code

from common.schedulers import SCHEDULERS
from common.timing import timed
from speed.roofline import count_operations, matmul_rate, operations_of, rate_row


@dataclass
class SpeedArguments:
    """What to measure, and how much of it."""

    threads: int | None = field(default=None, metadata={"help": "CPU threads of torch."})
    output: str | None = field(default=None, metadata={"help": "JSON file to write; the tables go beside it."})
    vocab_sizes: list[int] = field(
        default_factory=lambda: [8192, 50257], metadata={"help": "Vocabularies of the decoder; GPT-2 has 50257."}
    )
    num_sentences: int = field(default=64, metadata={"help": "Sentences decoded at a time."})
    num_tokens: int = field(default=32, metadata={"help": "Tokens of each."})
    num_layers: int = field(default=6, metadata={"help": "Layers of the decoder."})
    hidden_size: int = field(default=384, metadata={"help": "Their width."})
    repeats: int = field(default=3, metadata={"help": "Repetitions of each decoding; the fastest counts."})
    checkpoint: str | None = field(default=None, metadata={"help": "Pipeline to sample from."})
    dev: list[str] = field(default_factory=list, metadata={"help": "Held-out sentences for it."})
    num_samples: int = field(default=1000, metadata={"help": "Latents sampled per scheduler and seed."})
    few_steps: list[int] = field(default_factory=lambda: [20], metadata={"help": "Small numbers of steps."})
    many_steps: int = field(default=1000, metadata={"help": "Number of steps that they are compared with."})
    seeds: list[int] = field(default_factory=lambda: [0, 1], metadata={"help": "Sampling seeds."})
    config: str | None = field(default=None, metadata={"help": "Configuration file of train_text.py."})
    train: list[str] = field(default_factory=list, metadata={"help": "Training sentences for it."})
    train_steps: int = field(default=20, metadata={"help": "Optimiser steps measured, after a few to warm up."})

    def __post_init__(self) -> None:
        if (self.checkpoint is None) != (not self.dev):
            raise ValueError("`checkpoint` and `dev` go together.")
        if (self.config is None) != (not self.train):
            raise ValueError("`config` and `train` go together.")


# ---- decoding


@torch.no_grad()
def decode_naively(decoder: TextDecoder, latents: torch.Tensor, num_tokens: int) -> torch.Tensor:
    """Greedy decoding without a cache: each step runs the whole prefix again, with the logits of every position."""
    vocab_size = decoder.backbone.get_input_embeddings().num_embeddings
    tokens = torch.empty(len(latents), 0, dtype=torch.long)
    for _ in range(num_tokens):
        # `logits` shifts its labels right: the last one is the token to be found and is not read.
        unknown = torch.zeros(len(latents), 1, dtype=torch.long)
        logits = decoder.logits(latents, torch.cat([tokens, unknown], dim=1))  # (batch, seq, vocabulary)
        assert logits.shape == (len(latents), tokens.shape[1] + 1, vocab_size)
        tokens = torch.cat([tokens, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    return tokens


def measure_decoding(args: SpeedArguments, vocab_size: int) -> dict[str, Any]:
    """Times both ways of decoding in turns and checks that they give the same tokens."""
    torch.manual_seed(0)
    config = EDDPMConfig(
        decoder={
            "model_type": "gpt2",
            "n_layer": args.num_layers,
            "n_embd": args.hidden_size,
            "n_head": max(1, args.hidden_size // 64),
            "n_positions": args.num_tokens + 8,
            "vocab_size": vocab_size,
            "bos_token_id": 0,
            "eos_token_id": None,  # no sentence ends early
            "pad_token_id": 1,
        }
    )
    decoder = TextDecoder(config).eval()
    latents = torch.randn(args.num_sentences, config.num_latents, config.latent_dim)
    with torch.no_grad():
        decoder.generate(latents[:2], max_new_tokens=args.num_tokens)  # warm up
    cached, naive = [], []
    for _ in range(args.repeats):
        with torch.no_grad():
            ours, timing = timed(lambda: decoder.generate(latents, max_new_tokens=args.num_tokens))
        cached.append(timing)
        theirs, timing = timed(lambda: decode_naively(decoder, latents, args.num_tokens))
        naive.append(timing)
        if not torch.equal(ours, theirs):
            raise RuntimeError(f"The two ways differ in {int((ours != theirs).sum())} of {ours.numel()} tokens.")
    result: dict[str, Any] = {
        "vocab_size": vocab_size,
        "parameters": sum(parameter.numel() for parameter in decoder.parameters()),
        "tokens": ours.numel(),
        "distinct_tokens": len(ours.unique()),
        # positions that one way runs for each that the other does: an upper bound of the ratio, but for the overheads
        "positions_ratio": sum(range(2, args.num_tokens + 2)) / (args.num_tokens + 1),
    }
    for kind in ("cpu", "wall"):
        fast, slow = (min(getattr(timing, kind) for timing in timings) for timings in (cached, naive))
        result |= {f"cached_{kind}_seconds": fast, f"naive_{kind}_seconds": slow, f"{kind}_ratio": slow / fast}
    return result


# ---- sampling


def measure_sampling(args: SpeedArguments) -> list[dict[str, Any]]:
    """Times sampling of latents by scheduler and number of steps, and measures how far they are from the posterior."""
    assert args.checkpoint is not None
    pipe = EDDPMPipeline.from_pretrained(args.checkpoint)
    pipe.set_progress_bar_config(disable=True)
    sentences = list(load_text(args.dev).sentences)
    random.Random(args.seeds[0]).shuffle(sentences)
    means = pipe.encode(sentences).embeddings
    generator = torch.Generator().manual_seed(args.seeds[0])
    noise_std = pipe.model.config.encoder_noise_variance**0.5
    posterior = (means + noise_std * torch.randn(means.shape, generator=generator)).double().numpy()
    reference, rest = np.array_split(posterior, 2)
    if len(rest) < args.num_samples:
        raise ValueError(f"`dev` must hold at least {2 * args.num_samples} sentences, got {len(posterior)}.")

    original = pipe.scheduler
    runs = [("DDIM", args.many_steps), *((name, steps) for name in SCHEDULERS for steps in args.few_steps)]
    rows: list[dict[str, Any]] = []
    shape = (args.num_samples, pipe.model.config.num_latents, pipe.model.config.latent_dim)
    for name, steps in runs:
        pipe.scheduler = SCHEDULERS[name](original.config)
        distances, timings = [], []
        for seed in args.seeds:
            noise = torch.randn(shape, generator=torch.Generator().manual_seed(seed))

            def sample(noise: torch.Tensor = noise, steps: int = steps) -> torch.Tensor:
                return pipe(latents=noise, num_inference_steps=steps, output_type="latent").latents

            latents, timing = timed(sample)
            distances.append(latent_frechet(latents.flatten(1).double().numpy(), reference))
            timings.append(timing)
        rows.append(
            {
                "scheduler": name,
                "steps": steps,
                "frechet_mean": float(np.mean(distances)),
                "frechet_by_seed": distances,
                "wall_seconds": min(timing.wall for timing in timings),
                "cpu_seconds": min(timing.cpu for timing in timings),
            }
        )
    for row in rows:
        for kind in ("wall", "cpu"):
            row[f"{kind}_ratio"] = rows[0][f"{kind}_seconds"] / row[f"{kind}_seconds"]
    floor = latent_frechet(rest[: args.num_samples], reference)
    return [*rows, {"scheduler": "real: the other half of the held-out sentences", "frechet_mean": floor}]


# ---- the machine


def measure_rates() -> dict[str, float]:
    """The machine's rate of matrix products by type, in operations a second."""
    return {name: matmul_rate(getattr(torch, name)) for name in ("float32", "bfloat16")}


def measure_roofline(args: SpeedArguments, rate: float) -> list[dict[str, Any]]:
    """Encoding, chain and decoding of a batch of held-out sentences, in float32, beside the machine's rate."""
    assert args.checkpoint is not None
    pipe = EDDPMPipeline.from_pretrained(args.checkpoint)
    pipe.set_progress_bar_config(disable=True)
    sentences = list(load_text(args.dev).sample(args.num_sentences, args.seeds[0]).sentences)
    noise = torch.randn(
        len(sentences),
        pipe.model.config.num_latents,
        pipe.model.config.latent_dim,
        generator=torch.Generator().manual_seed(args.seeds[0]),
    )
    latents = pipe.encode(sentences).latents
    works: dict[str, Callable[[], Any]] = {
        "encode": lambda: pipe.encode(sentences),
        "chain": lambda: pipe(latents=noise, num_inference_steps=args.few_steps[0], output_type="latent"),
        "decode": lambda: pipe.decode(latents),
    }
    measured = {}
    for name, work in works.items():
        operations = count_operations(work)["total"]
        measured[name] = operations, min(timed(work)[1].wall for _ in range(args.repeats))
    total = sum(seconds for _, seconds in measured.values())
    rows = [rate_row(name, *values, rate, total) for name, values in measured.items()]
    steps = f"generate (chain of {args.few_steps[0]} steps, decode)"
    operations, seconds = (sum(measured[name][place] for name in ("chain", "decode")) for place in (0, 1))
    return [*rows, rate_row(steps, int(operations), seconds, rate, total)]


# ---- training


class StepTimer(TrainerCallback):
    """Seconds by part of the optimiser steps after a few first ones.

    On the CPU the backward pass runs in one thread from the last forward operation to the first: through the denoiser,
    then the decoder, then bottleneck and encoder. Hooks on their outputs therefore mark where each begins.
    """

    WARM_UP = 3

    def __init__(self, model: nn.Module):
        self.seconds: dict[str, float] = {}
        self.num_steps = 0
        self.step = 0
        self.last = 0.0
        for part in ("encoder", "bottleneck", "denoiser", "decoder"):
            module = getattr(model, part)
            module.register_forward_pre_hook(lambda *_: self.mark("forward: loss terms and the rest"))
            module.register_forward_hook(self._after_forward(part))
        model.register_forward_hook(lambda *_: self.mark("forward: loss terms and the rest"))

    def _after_forward(self, part: str) -> Callable[..., None]:
        before = {"denoiser": "loss terms", "decoder": "denoiser", "encoder": "decoder"}.get(part)

        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            self.mark(f"forward: {part}")
            tensor = output[0] if isinstance(output, tuple) else output
            if before is not None and isinstance(tensor, torch.Tensor) and tensor.requires_grad:
                tensor.register_hook(lambda _: self.mark(f"backward: {before}"))

        return hook

    def mark(self, part: str) -> None:
        """Counts the time since the last mark to `part`."""
        now = time.perf_counter()
        if self.step > self.WARM_UP:
            self.seconds[part] = self.seconds.get(part, 0.0) + now - self.last
        self.last = now

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self.mark("batches, scheduler, logging")
        self.step += 1
        self.num_steps = max(0, self.step - self.WARM_UP)

    def on_pre_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.mark("gradient clipping")

    def on_optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        self.mark("optimiser")

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.mark("average of the weights, zero_grad")

    def on_train_end(self, *args: Any, **kwargs: Any) -> None:
        self.step = 0  # what runs the model after the last step is not counted


class TimedTrainer(EDDPMTrainer):
    """Marks where the backward pass ends."""

    timer: StepTimer
    operations: dict[str, int]

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.timer.step == 1:  # not one of those timed
            with FlopCounterMode(display=False) as counter:
                loss = super().training_step(*args, **kwargs)
            self.operations = operations_of(counter)
        else:
            loss = super().training_step(*args, **kwargs)
        self.timer.mark("backward: bottleneck and encoder")
        return loss


def measure_training(args: SpeedArguments, rates: dict[str, float]) -> dict[str, Any]:
    """Times optimiser steps of a configuration on real sentences."""
    assert args.config is not None
    num_steps = args.train_steps + StepTimer.WARM_UP
    with tempfile.TemporaryDirectory() as folder:
        fixed = {"max_steps": num_steps, "eval_strategy": "no", "save_strategy": "no", "logging_strategy": "no"}
        fixed |= {"output_dir": folder, "disable_tqdm": True, "report_to": "none", "use_cpu": True}
        words = [args.config, "--train", *args.train]
        for name, value in fixed.items():
            words += [f"--{name}", str(value)]
        data_args, model_args, _, training_args = parse_arguments(
            TextDataArguments, TextModelArguments, CardArguments, EDDPMTrainingArguments, args=words
        )
        sentences = load_text(data_args.train, text_column=data_args.text_column).sentences
        torch.manual_seed(training_args.seed)
        model, processor = build_model(model_args, data_args.max_length, sentences)
        if model.config.encoder_gradient_scale == 0:
            raise ValueError(
                f"`--config` must have an `encoder_gradient_scale` above 0, {args.config} has 0: without a gradient "
                "behind the denoiser its backward pass and the decoder's are not told apart."
            )
        trainer = TimedTrainer(
            model=model,
            args=training_args,
            processor=processor,
            ema_decay=training_args.ema_decay,
            train_dataset=sentences,
        )
        trainer.timer = StepTimer(model)
        trainer.add_callback(trainer.timer)
        _, timing = timed(trainer.train)
    timer = trainer.timer
    parts = {part: seconds / timer.num_steps for part, seconds in timer.seconds.items()}
    step, rate = sum(parts.values()), rates["bfloat16" if training_args.bf16 else "float32"]
    roofline = []
    for name in ("encoder", "denoiser", "decoder"):
        # the encoder's backward pass is timed with the bottleneck's
        behind = "bottleneck and encoder" if name == "encoder" else name
        seconds = parts[f"forward: {name}"] + parts[f"backward: {behind}"]
        operations = trainer.operations[f"{type(model).__name__}.{name}"]
        roofline.append(rate_row(f"{name}, forward and backward", operations, seconds, rate, step))
    roofline.append(rate_row("step", trainer.operations["total"], step, rate, step))
    return {
        "config": Path(args.config).name,
        "parameters": model.num_parameters(),
        "batch_size": training_args.train_batch_size * training_args.gradient_accumulation_steps,
        "bf16": training_args.bf16,
        "steps": timer.num_steps,
        "wall_seconds_per_step": step,
        "roofline": roofline,
        "cpu_seconds_of_all_steps": timing.cpu,
        "wall_seconds_by_part": dict(sorted(parts.items(), key=lambda item: -item[1])),
    }


# ---- report


def markdown_report(result: dict[str, Any]) -> str:
    """The tables of what was measured."""
    size = "{num_sentences} sentences x {num_tokens} tokens, {num_layers} layers x {hidden_size}".format(
        **result["arguments"]
    )
    rows = [
        {
            "vocabulary": f"{row['vocab_size']:,}",
            "with cache: CPU s": f"{row['cached_cpu_seconds']:.2f}",
            "recomputing: CPU s": f"{row['naive_cpu_seconds']:.2f}",
            "CPU ratio": f"{row['cpu_ratio']:.1f}",
            "with cache: wall s": f"{row['cached_wall_seconds']:.2f}",
            "recomputing: wall s": f"{row['naive_wall_seconds']:.2f}",
            "wall ratio": f"{row['wall_ratio']:.1f}",
        }
        for row in result["decoding"]
    ]
    parts = [f"Measured on {result['hardware']}.", f"Greedy decoding, {size}; equal tokens:", markdown_table(rows)]
    if "sampling" in result:
        rows = [
            {
                "scheduler": row["scheduler"],
                "steps": row.get("steps", ""),
                "latent Frechet": f"{row['frechet_mean']:.4f}",
                "wall s": f"{row['wall_seconds']:.2f}" if "steps" in row else "",
                "times faster": f"{row['wall_ratio']:.1f}" if "steps" in row else "",
                "CPU s": f"{row['cpu_seconds']:.2f}" if "steps" in row else "",
                "times less CPU": f"{row['cpu_ratio']:.1f}" if "steps" in row else "",
            }
            for row in result["sampling"]
        ]
        parts += [f"Sampling {result['arguments']['num_samples']} latents:", markdown_table(rows)]
    if "training" in result:
        training = result["training"]
        total = training["wall_seconds_per_step"]
        rows = [
            {"part": part, "ms": f"{1000 * seconds:.1f}", "share": f"{seconds / total:.1%}"}
            for part, seconds in [*training["wall_seconds_by_part"].items(), ("step", total)]
        ]
        what = f"{training['config']}, {training['parameters'] / 1e6:.2f} million parameters"
        parts += [f"A training step ({what}, batch {training['batch_size']}):", markdown_table(rows)]
    if "rates" in result:
        rates = ", ".join(f"{rate / 1e9:,.0f} in {name}" for name, rate in result["rates"].items())
        parts.append(
            f"Matrix products on this machine, billions of operations a second: {rates}. Shares of that rate:"
        )
        if "roofline" in result:
            of = f"{result['arguments']['num_sentences']} sentences, float32"
            parts.append(_rate_table(of, result["roofline"]))
        if "training" in result:
            of = f"training step, {'bfloat16' if result['training']['bf16'] else 'float32'}"
            parts.append(_rate_table(of, result["training"]["roofline"]))
    return "\n\n".join(parts)


def _rate_table(title: str, rows: list[dict[str, Any]]) -> str:
    return markdown_table(
        [
            {
                title: row["part"],
                "billion operations": f"{row['operations'] / 1e9:.2f}",
                "ms": f"{1000 * row['seconds']:.1f}",
                "share of time": f"{row['share_of_time']:.1%}",
                "share of the rate": f"{row['share_of_rate']:.1%}",
            }
            for row in rows
        ]
    )


def main(words: list[str] | None = None) -> None:
    """Measures what the command line asks for."""
    parser = HfArgumentParser(SpeedArguments, description=__doc__.splitlines()[0])
    (args,) = parser.parse_args_into_dataclasses(args=words)
    logging.set_verbosity_error()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    command = describe_command("training/studies/speed/text.py", sys.argv[1:] if words is None else words)
    sizes = ("num_sentences", "num_tokens", "num_layers", "hidden_size", "repeats", "num_samples", "seeds")
    result: dict[str, Any] = {"command": command, "arguments": {name: getattr(args, name) for name in sizes}}
    result |= describe_environment(torch.device("cpu"))
    start = time.perf_counter()
    result["rates"] = measure_rates()
    result["decoding"] = [measure_decoding(args, vocab_size) for vocab_size in args.vocab_sizes]
    if args.checkpoint is not None:
        result["sampling"] = measure_sampling(args)
        result["roofline"] = measure_roofline(args, result["rates"]["float32"])
    if args.config is not None:
        result["training"] = measure_training(args, result["rates"])
    result["wall_time_seconds"] = round(time.perf_counter() - start, 1)
    report = markdown_report(result)
    if args.output is not None:
        output = Path(args.output)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        output.with_suffix(".md").write_text(report + "\n", encoding="utf-8")
    print(report)


if __name__ == "__main__":
    main()
