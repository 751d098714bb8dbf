"""How right are judges about how sure they are, near their training rows and far from them?

    python training/studies/protein_design/calibration.py model_cards/eddpm-gfp --data $GFP/validation.csv.gz \\
        --wild_type $GFP/wild_type.csv.gz --output training/studies/protein_design/results/calibration-gfp.json

All rows are held out from the checkpoint. Judges learn from `--num_train` of them: drawn at random ("all"), or, with a
wild type, from those with at most `--near` mutations ("near"); they are tested on others, which "near" tells apart by
the number of their mutations.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein
from scipy.stats import spearmanr

from hf_eddpm import EDDPMPipeline
from hf_eddpm.design.judges import RankScores
from hf_eddpm.design.kernel import Inputs, SequenceProcess
from hf_eddpm.modalities.protein.data import load_proteins
from hf_eddpm.modalities.protein.metrics import to_frames
from hf_eddpm.modalities.protein.oracle import fit_ridge
from hf_eddpm.property_ensemble import HeadSizes, calibration_error, fit_ensemble, interval_coverage

BINS = ((1, 3), (4, 5), (6, 8), (9, 99))


class Rows:
    """Proteins with their measurements, frames and latents."""

    def __init__(self, pipe: EDDPMPipeline, sequences: list[str], values: np.ndarray):
        self.pipe, self.sequences, self.values = pipe, sequences, values
        self.frames = to_frames(sequences, pipe.processor.length, pipe.processor.alignment)
        self.latents = pipe.encode(sequences).latents.cpu()

    def inputs(self, rows: np.ndarray, sequence: bool, latents: bool) -> Inputs:
        frames = self.frames[rows] if sequence else np.zeros((len(rows), 1), dtype=np.uint8)
        return Inputs(frames, self.latents[rows].flatten(1).double().numpy() if latents else None)


def judge(name: str, data: Rows, train: np.ndarray, test: np.ndarray, seed: int):
    """Return predictions in the data's unit, and absolute errors over predicted standard deviations."""
    values = data.values[train]
    if name == "ensemble of heads":
        config = data.pipe.model.config
        sizes = HeadSizes(config.latent_size, 1, config.property_hidden_size, 16)
        generator = torch.Generator().manual_seed(seed)
        head = fit_ensemble(sizes, data.latents[train], torch.from_numpy(values)[:, None], 1000, generator).head
        with torch.no_grad():
            mean, std = head.predict(data.latents[test])[:, 0], head.predict_std(data.latents[test])[:, 0]
        return mean.numpy(), ((torch.from_numpy(data.values[test]) - mean) / std).abs()
    if name == "ridge, constant error":
        held_out, rest = np.split(np.random.default_rng(seed).permutation(train), [max(len(train) // 5, 2)])
        errors = data.values[held_out] - fit_ridge(data.frames[rest], data.values[rest], seed).predict(
            data.frames[held_out]
        )
        mean = fit_ridge(data.frames[train], values, seed).predict(data.frames[test])
        return mean, torch.from_numpy(np.abs(data.values[test] - mean) / np.sqrt(np.mean(errors**2)))
    sequence, latents = "sequences" in name, "latents" in name
    transform = RankScores(values)
    rng = np.random.default_rng(seed)
    inputs = data.inputs(train, sequence, latents)
    process = SequenceProcess(inputs, transform.to_scores(values), np.ones(len(train)), rng)
    mean, deviation = process.predict(data.inputs(test, sequence, latents))
    errors = np.abs(transform.to_scores(data.values[test]) - mean) / np.sqrt(deviation**2 + process.noise)
    return transform.to_unit(mean), torch.from_numpy(errors)


JUDGES = (
    "process on sequences",
    "process on latents",
    "process on sequences and latents",
    "ensemble of heads",
    "ridge, constant error",
)


def measure(mean: np.ndarray, errors: torch.Tensor, truth: np.ndarray) -> dict[str, float]:
    return {
        "rows": len(truth),
        "spearman": float(spearmanr(mean, truth).statistic),
        "rmse": float(np.sqrt(np.mean((mean - truth) ** 2))),
        "coverage_90": interval_coverage(errors, 0.9),
        "calibration_error": calibration_error(errors),
    }


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", help="Folder of a pipeline.")
    parser.add_argument("--data", nargs="+", required=True, help="Tables that the checkpoint has not seen.")
    parser.add_argument("--padding_symbol", help="Letter that the tables pad sequences with.")
    parser.add_argument("--wild_type", help="Table of the wild type, for the split by mutations.")
    parser.add_argument("--near", type=int, default=3, help="Most mutations of what is learned from.")
    parser.add_argument("--num_train", type=int, nargs="+", default=[96, 400, 1000], help="Rows to learn from.")
    parser.add_argument("--num_test", type=int, default=2000, help="Rows to test on.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="Of rows and judges.")
    parser.add_argument("--output", type=Path, required=True, help="Where results go.")
    given = parser.parse_args(args)
    pipe = EDDPMPipeline.from_pretrained(given.checkpoint)
    pipe.set_progress_bar_config(disable=True)
    table = load_proteins(given.data, padding_symbol=given.padding_symbol)
    known = np.flatnonzero(~np.isnan(table.properties[:, 0]))
    most = max(given.num_train) + given.num_test
    known = np.random.default_rng(0).permutation(known)[: 2 * most]
    data = Rows(pipe, [table.sequences[row] for row in known], table.properties[known, 0])
    mutations = np.zeros(len(known), dtype=int)
    splits = ["all"]
    if given.wild_type:
        (origin,) = load_proteins(given.wild_type).sequences
        mutations = np.array([Levenshtein.distance(origin, sequence) for sequence in data.sequences])
        splits.append("near")
    results: dict[str, dict[str, float]] = {}
    for split in splits:
        for num in given.num_train:
            for seed in given.seeds:
                order = np.random.default_rng(seed).permutation(len(known))
                pool = order if split == "all" else order[mutations[order] <= given.near]
                train = pool[:num]
                if len(train) < num or len(np.unique(data.values[train])) < 2:
                    continue
                test = np.setdiff1d(order, train)[: given.num_test]
                for name in JUDGES:
                    mean, errors = judge(name, data, train, test, seed)
                    bins = BINS if split == "near" else ((0, 10**6),)
                    for low, high in bins:
                        rows = np.flatnonzero((mutations[test] >= low) & (mutations[test] <= high))
                        if len(rows) < 10:
                            continue
                        where = split if split == "all" else f"{low} to {high} mutations"
                        key = f"{where}/{num}/{name}/{seed}"
                        results[key] = measure(mean[rows], errors[rows], data.values[test][rows])
                print(split, num, seed, flush=True)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    given.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
