"""How well does a decoder of one residue after another give back proteins, by their length?

    python training/studies/protein_lengths/measure.py runs/gifford-causal/pipeline --data validation.csv.gz \\
        --padding_symbol J --name "antibody loops"

The results and the tables of docs/benchmarks/protein-recipes.md are written anew.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein

from hf_eddpm import EDDPMPipeline
from hf_eddpm.hub.card import markdown_table
from hf_eddpm.modalities.protein.data import load_proteins
from hf_eddpm.training.evaluation import plus_minus

RESULTS = Path(__file__).parent / "results" / "lengths.json"
EVALUATION = RESULTS.parent / "gifford-causal.json"  # of the causal decoder of loops, by training/evaluate.py
PAGE = Path(__file__).parents[3] / "docs" / "benchmarks" / "protein-recipes.md"
START, END = "<!-- lengths: written by training/studies/protein_lengths/measure.py -->", "<!-- end of lengths -->"


def reconstruction(pipe: EDDPMPipeline, proteins: list[str], edges: list[int]) -> list[dict[str, float | str]]:
    """Measure reconstructions in bins of length."""
    rows: list[dict[str, float | str]] = []
    for low, high in zip(edges[:-1], edges[1:], strict=True):
        some = [protein for protein in proteins if low <= len(protein) < high]
        if not some:
            continue
        found = pipe.reconstruct(some, batch_size=50)
        edits = [Levenshtein.distance(a, b) for a, b in zip(some, found, strict=True)]
        lengths = np.array([len(b) - len(a) for a, b in zip(some, found, strict=True)])
        rows.append(
            {
                "length": f"{low} to {high - 1}",
                "proteins": len(some),
                "exact": float(np.mean([edit == 0 for edit in edits])),
                "right residues": 1 - sum(edits) / sum(map(len, some)),
                "right length": float((lengths == 0).mean()),
                "length off by at most 2": float((np.abs(lengths) <= 2).mean()),
                "median error of the length": float(np.median(np.abs(lengths))),
            }
        )
    return rows


def write_page(results: dict[str, dict]) -> None:
    """Write the tables between the marks of the page."""
    rows, samples = [], []
    for name, result in results.items():
        for row in result["reconstruction"]:
            rows.append({"data": name, **{k: f"{v:.3f}" if isinstance(v, float) else v for k, v in row.items()}})
        for kind in ("real", "samples"):
            lengths = result[kind]
            samples.append({"data": name, "proteins": kind, **{k: f"{v:.4g}" for k, v in lengths.items()}})
    tables = [markdown_table(rows), markdown_table(samples)]
    if EVALUATION.is_file():
        evaluation = json.loads(EVALUATION.read_text(encoding="utf-8"))
        sampled = evaluation["samples"]["20"]
        row = {
            "exact": f"{evaluation['reconstruction']['exact_match']:.3f}",
            "after 1 refinement step": f"{evaluation['refined_reconstruction']['1']['exact_match']:.3f}",
            "Frechet distance of samples": plus_minus(sampled["frechet"], ".3f"),
            "of as many real loops": plus_minus(evaluation["reference"]["frechet"], ".3f"),
            "valid": plus_minus(sampled["validity"], ".3f"),
            "novel": plus_minus(sampled["novelty"], ".3f"),
            "fitness, Pearson": f"{evaluation['fitness']['fitness']['model']['pearson']:.3f}",
            "Spearman": f"{evaluation['fitness']['fitness']['model']['spearman']:.3f}",
        }
        tables.append(markdown_table([row]))
    text = PAGE.read_text(encoding="utf-8")
    before, rest = text.split(START)
    table = "\n\n".join(tables)
    PAGE.write_text(f"{before}{START}\n\n{table}\n\n{END}{rest.split(END)[1]}", encoding="utf-8")


def describe_lengths(proteins: list[str]) -> dict[str, float]:
    """Return how many proteins there are, and how long."""
    lengths = np.array([len(protein) for protein in proteins])
    quantiles = np.quantile(lengths, [0.05, 0.5, 0.95])
    names = ("number", "shortest", "5 %", "median", "95 %", "longest", "different")
    values = (len(lengths), lengths.min(), *quantiles, lengths.max(), len(set(proteins)))
    return dict(zip(names, map(float, values), strict=True))


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", help="Folder of a pipeline.")
    parser.add_argument("--data", required=True, help="Table of held-out proteins.")
    parser.add_argument("--padding_symbol", help="Letter that the table pads sequences with.")
    parser.add_argument("--name", required=True, help="Of the data, in the tables.")
    parser.add_argument("--edges", type=int, nargs="+", default=[1, 64, 128, 256, 384, 513], help="Bins of length.")
    parser.add_argument("--num", type=int, default=600, help="Proteins to reconstruct.")
    parser.add_argument("--num_samples", type=int, default=200, help="Samples to draw.")
    parser.add_argument("--seed", type=int, default=0, help="Of the samples.")
    given = parser.parse_args(args)
    pipe = EDDPMPipeline.from_pretrained(given.checkpoint)
    pipe.set_progress_bar_config(disable=True)
    proteins = load_proteins(given.data, property_columns=[], padding_symbol=given.padding_symbol).sequences
    proteins = proteins[: given.num]
    generator = torch.Generator().manual_seed(given.seed)
    samples: list[str] = []
    while len(samples) < given.num_samples:
        samples += pipe(min(50, given.num_samples - len(samples)), generator=generator).samples
    results = json.loads(RESULTS.read_text(encoding="utf-8")) if RESULTS.is_file() else {}
    results[given.name] = {
        "reconstruction": reconstruction(pipe, proteins, given.edges),
        "real": describe_lengths(proteins),
        "samples": describe_lengths(samples),
        "examples": samples[:3],
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    write_page(results)
    print(json.dumps(results[given.name], indent=1))


if __name__ == "__main__":
    main()
