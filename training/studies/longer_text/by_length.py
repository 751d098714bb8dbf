"""BLEU against length: how well do 1, 4, 8 and 16 latents bring passages of 1 to 128 tokens back?

    python training/studies/longer_text/passages.py --dialogue data/dialogue --output_dir data/passages
    python training/studies/longer_text/by_length.py --train data/passages/train.txt --dev data/passages/dev.txt \\
        --output_dir training/studies/longer_text/results/by_length

All layouts have the networks of `configs/text_longer.json` with its MLP denoiser and train for equally many minutes on
the same passages. 128 numbers are laid out as one latent or as several. One latent also stands before the decoder as
eight vectors, which tells the number of latents from the number of vectors that the decoder sees. Beside them are
layouts of 512 numbers. One JSON file a run; a run whose file exists is not repeated.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hf_eddpm import EDDPMPipeline
from hf_eddpm.hub.card import markdown_table
from hf_eddpm.metrics.reconstruction_bleu import corpus_bleu
from hf_eddpm.modalities.text.data import load_text
from hf_eddpm.training.environment import describe_environment
from hf_eddpm.training.evaluation import plus_minus, result_file, spread

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the studies, which share code

from longer_text.run import CONFIG, MLP
from text_recipe.run import train
from text_recipe.variants import SLOTS, Variant

MAX_LENGTH = 128
POSITIONS = {"encoder": {"max_position_embeddings": 160}, "decoder": {"n_positions": 160}}
BINS = (16, 32, 64, MAX_LENGTH)  # tokens of a passage, at most
NUM_PASSAGES = 400  # of each bin


def _layout(num_latents: int, latent_dim: int, **others: Any) -> Variant:
    return Variant("length", {**MLP, **POSITIONS, "num_latents": num_latents, "latent_dim": latent_dim, **others})


LAYOUTS = {
    "1 x 128": _layout(1, 128),
    "8 x 16": _layout(8, 16),
    "16 x 8": _layout(16, 8),
    "4 x 32": _layout(4, 32),
    "1 x 128 in eight vectors": _layout(1, 128, **SLOTS),
    "1 x 512": _layout(1, 512),
    "16 x 32": _layout(16, 32),
}


def by_length(pipe: EDDPMPipeline, passages: Sequence[str]) -> dict[int, list[str]]:
    """Return the first passages of each bin, by its most tokens; those beyond the last bin are in none."""
    found: dict[int, list[str]] = {size: [] for size in BINS}
    tokenizer = pipe.processor.decoder_tokenizer
    for passage in passages:
        tokens = len(tokenizer(passage)["input_ids"])
        size = next((size for size in BINS if tokens <= size), None)
        if size is not None and len(found[size]) < NUM_PASSAGES:
            found[size].append(passage)
    return found


def measure(pipe: EDDPMPipeline, passages: Sequence[str]) -> dict[str, Any]:
    """Return BLEU, exact matches and bits a token of held-out passages, by the lengths that there are."""
    pipe.set_progress_bar_config(disable=True)
    result = {}
    for size, some in by_length(pipe, passages).items():
        if not some:
            continue
        again = pipe.reconstruct(some, batch_size=100)
        score = pipe.score(some, batch_size=100, generator=torch.Generator(pipe.device).manual_seed(0))
        result[str(size)] = {
            "num": len(some),
            "bleu": corpus_bleu(again, some),
            "exact_match": sum(a == b for a, b in zip(again, some, strict=True)) / len(some),
            "reconstruction_bits_per_token": float((score.reconstruction / score.num_units).mean() / math.log(2)),
            "example": [some[0], again[0]],
        }
    return result


def markdown_report(results: Sequence[dict[str, Any]]) -> str:
    """One row for each layout: BLEU by length, over training seeds."""
    rows = []
    for layout in LAYOUTS:
        runs = [result for result in results if result["layout"] == layout]
        if not runs:
            continue
        row = {"latents": layout, "seeds": len(runs)}
        measured = [size for size in BINS if all(str(size) in run["lengths"] for run in runs)]
        for size in measured:
            row[f"BLEU, to {size} tokens"] = plus_minus(
                spread([run["lengths"][str(size)]["bleu"] for run in runs]), ".1f"
            )
        for size in measured:
            values = [run["lengths"][str(size)]["reconstruction_bits_per_token"] for run in runs]
            row[f"bits a token, to {size}"] = plus_minus(spread(values), ".2f")
        row["steps"] = ", ".join(f"{run['steps']:,}" for run in runs)
        row["million parameters"] = f"{runs[0]['num_parameters'] / 1e6:.2f}"
        rows.append(row)
    return markdown_table(rows)


def main(words: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Runs what is missing, writes the table and prints it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs="+", required=True, help="training passages, one a line")
    parser.add_argument("--dev", nargs="+", required=True, help="held-out passages, likewise")
    parser.add_argument("--output_dir", type=Path, required=True, help="where the JSON files and the table go")
    parser.add_argument("--layouts", nargs="+", choices=list(LAYOUTS), default=list(LAYOUTS), help="what to train")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1], help="training seeds")
    parser.add_argument("--max_minutes", type=float, default=14, help="training time of each run")
    parser.add_argument("--num_threads", type=int, default=1)
    parser.add_argument("--use_cpu", action="store_true")
    arguments = parser.parse_args(words)

    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    data, dev = load_text(arguments.train), load_text(arguments.dev)
    options = ["--max_length", str(MAX_LENGTH), "--max_minutes", str(arguments.max_minutes), "--max_steps", "100000"]
    options += ["--train_sampling_strategy", "group_by_length", "--num_threads", str(arguments.num_threads)]
    options += ["--use_cpu", str(arguments.use_cpu)]
    for seed in arguments.seeds:
        for layout in arguments.layouts:
            file = result_file(arguments.output_dir, f"{layout} seed {seed}")
            if file.exists():
                continue
            pipe, facts = train(LAYOUTS[layout], seed, data, options, CONFIG)
            result = {"layout": layout, "seed": seed, **facts, "lengths": measure(pipe, dev.sentences)}
            result |= describe_environment(pipe.device)
            file.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    files = sorted(arguments.output_dir.glob("*.json"))
    results = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    report = markdown_report(results)
    (arguments.output_dir / "table.md").write_text(report + "\n", encoding="utf-8")
    print(report)
    return results


if __name__ == "__main__":
    torch.set_flush_denormal(True)  # as train_text.py
    main()
