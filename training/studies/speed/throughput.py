"""Measures how many sentences a second are encoded, decoded and generated, as ratios to the straightforward loop.

    python training/studies/speed/throughput.py --threads 1 --checkpoint model_cards/eddpm-yelp --compile \\
        --dev dev.0.txt.gz dev.1.txt.gz --output throughput.json

The straightforward loop takes one sentence after the other and decodes without a key/value cache. Against it stand
batches, batches of sentences of like length, bfloat16 and, if asked for, torch.compile. Rates are per second of CPU
time, which other work on the machine disturbs little. Beside the JSON file the table is written as Markdown.
"""

import json
import random
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import HfArgumentParser
from transformers.utils import logging

from hf_eddpm import EDDPMPipeline
from hf_eddpm.hub.card import markdown_table
from hf_eddpm.modalities.text.data import load_text
from hf_eddpm.training.environment import describe_command, describe_environment

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the studies, which share code

from common.timing import timed


@dataclass
class ThroughputArguments:
    """What to measure, and how much of it."""

    checkpoint: str = field(metadata={"help": "Pipeline to measure."})
    dev: list[str] = field(metadata={"help": "Held-out sentences."})
    threads: int | None = field(default=None, metadata={"help": "CPU threads of torch."})
    output: str | None = field(default=None, metadata={"help": "JSON file to write; the table goes beside it."})
    num_sentences: int = field(default=2000, metadata={"help": "Sentences taken in batches."})
    num_one_by_one: int = field(default=100, metadata={"help": "How many of them are taken one after the other."})
    num_inference_steps: int = field(default=20, metadata={"help": "Steps of the chain."})
    compile: bool = field(default=False, metadata={"help": "Measure torch.compile too."})


@torch.no_grad()
def decode_one_by_one(pipe: EDDPMPipeline, latents: torch.Tensor) -> list[str]:
    """Greedy decoding, one datum after the other and without a cache, each up to its end token."""
    decoder, config = pipe.model.decoder, pipe.model.config.decoder.get_text_config()
    samples = []
    for row in latents.split(1):
        tokens = torch.empty(1, 0, dtype=torch.long)
        while tokens.shape[1] < pipe.processor.max_length and config.eos_token_id not in tokens[:, -1:]:
            unknown = torch.full((1, 1), config.eos_token_id)
            logits = decoder.logits(row, torch.cat([tokens, unknown], dim=1))
            tokens = torch.cat([tokens, logits[:, -1].argmax(-1, keepdim=True)], dim=1)
        samples += pipe.processor.postprocess(tokens)
    return samples


def measure_throughput(args: ThroughputArguments) -> list[dict[str, Any]]:
    """Times encoding, decoding and generating: the straightforward loop first, then what the scripts do."""
    pipe = EDDPMPipeline.from_pretrained(args.checkpoint)
    pipe.set_progress_bar_config(disable=True)
    sentences = list(load_text(args.dev).sentences)
    random.Random(0).shuffle(sentences)
    sentences = sentences[: args.num_sentences]
    few, by_length = sentences[: args.num_one_by_one], sorted(sentences, key=len)
    latents = pipe.encode(sentences).latents
    steps = args.num_inference_steps

    def generate(count: int) -> list[str]:
        return pipe(num_samples=count, num_inference_steps=steps).samples

    rows: list[dict[str, Any]] = []

    def measure(task: str, way: str, count: int, work: Callable[[], Any]) -> Any:
        with torch.inference_mode():
            result, timing = timed(work)
        first = next((row for row in rows if row["task"] == task), None)
        rate = count / timing.cpu
        ratio = 1.0 if first is None else rate / first["per_cpu_second"]
        rows.append({"task": task, "way": way, "sentences": count, "per_cpu_second": rate, "ratio": ratio})
        rows[-1]["per_second"] = count / timing.wall
        return result

    measure("encode", "one by one", len(few), lambda: [pipe.encode(one) for one in few])
    measure("encode", "batches as they come", len(sentences), lambda: pipe.encode(sentences))
    measure("encode", "batches of like length", len(sentences), lambda: pipe.encode(by_length))
    plain = measure("decode", "one by one, no cache", len(few), lambda: decode_one_by_one(pipe, latents[: len(few)]))
    batched = measure("decode", "batches, cache", len(sentences), lambda: pipe.decode(latents))
    if plain != batched[: len(few)]:
        raise RuntimeError(
            f"{sum(a != b for a, b in zip(plain, batched, strict=False))} sentences are decoded differently."
        )

    def loop() -> None:
        for _ in few:
            decode_one_by_one(pipe, pipe(num_inference_steps=steps, output_type="latent").latents)

    measure("generate", f"one by one, no cache, {steps} steps", len(few), loop)
    measure("generate", f"batches, cache, {steps} steps", len(sentences), lambda: generate(len(sentences)))
    if args.compile:
        pipe.model.encoder.compile(dynamic=True)
        pipe.encode(by_length)  # compiles
        measure("encode", "batches of like length, compiled", len(sentences), lambda: pipe.encode(by_length))
        pipe = EDDPMPipeline.from_pretrained(args.checkpoint)
        pipe.set_progress_bar_config(disable=True)
    pipe.to(torch.bfloat16)
    measure("encode", "batches of like length, bfloat16", len(sentences), lambda: pipe.encode(by_length))
    measure("decode", "batches, cache, bfloat16", len(sentences), lambda: pipe.decode(latents))
    measure("generate", f"batches, cache, {steps} steps, bfloat16", len(sentences), lambda: generate(len(sentences)))
    return sorted(rows, key=lambda row: ("encode", "decode", "generate").index(row["task"]))


def markdown_report(result: dict[str, Any]) -> str:
    """The table of what was measured."""
    rows = [
        {
            "task": row["task"],
            "way": row["way"],
            "sentences per CPU second": f"{row['per_cpu_second']:.3g}",
            "ratio": f"{row['ratio']:.1f}",
        }
        for row in result["throughput"]
    ]
    return f"Measured on {result['hardware']}.\n\n{markdown_table(rows)}"


def main() -> None:
    """Measures what the command line asks for."""
    parser = HfArgumentParser(ThroughputArguments, description=__doc__.splitlines()[0])
    (args,) = parser.parse_args_into_dataclasses()
    logging.set_verbosity_error()
    if args.threads is not None:
        torch.set_num_threads(args.threads)
    result: dict[str, Any] = {"command": describe_command("training/studies/speed/throughput.py", sys.argv[1:])}
    result |= describe_environment(torch.device("cpu"))
    result["throughput"] = measure_throughput(args)
    report = markdown_report(result)
    if args.output is not None:
        output = Path(args.output)
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        output.with_suffix(".md").write_text(report + "\n", encoding="utf-8")
    print(report)


if __name__ == "__main__":
    main()
