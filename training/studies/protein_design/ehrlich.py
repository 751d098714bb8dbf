"""Rounds of design on Ehrlich functions, which are known in closed form: what do 384 calls find?

    python training/studies/protein_design/ehrlich.py

The first 96 sequences are random feasible ones. In each of four rounds a strategy chooses 96 sequences of the right
length, and their values join what is known; an infeasible one counts as 0. No choice of `design` was made on these
functions. What has been measured is not measured again.
"""

import argparse
import json
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path

import numpy as np
from baselines import BASELINES, baseline, greedy_ridge_mutants
from campaigns import campaign, ours, train
from transformers.utils import logging

from hf_eddpm.modalities.protein.ehrlich import EhrlichFunction
from hf_eddpm.modalities.protein.residues import AMINO_ACIDS

HERE = Path(__file__).parent
# Of each function its length, motifs, and the residues of a motif
FUNCTIONS = {"15 sites, 2 motifs of 4": (15, 2, 4), "32 sites, 4 motifs of 4": (32, 4, 4)}
RIDGE = "greedy ridge"  # of the table's kind there is none here
STRATEGIES = ("ours", *BASELINES)
logging.set_verbosity_error()


class AllSequences(Collection):
    """Every sequence of one length, too many to be listed."""

    def __init__(self, length: int):
        self.length = length

    def __contains__(self, variant: object) -> bool:
        return isinstance(variant, str) and len(variant) == self.length and set(variant) <= set(AMINO_ACIDS)

    def __len__(self) -> int:
        return len(AMINO_ACIDS) ** self.length

    def __iter__(self) -> Iterator[str]:
        raise TypeError("There are too many sequences to list them.")


class Function:
    """An Ehrlich function as a landscape; `reference` is the best value of the start."""

    def __init__(self, length: int, num_motifs: int, motif_length: int, num_start: int, seed: int):
        self.function = EhrlichFunction.random(length, num_motifs, motif_length, seed=seed)
        self.table = AllSequences(length)
        self.start = list(dict.fromkeys(self.function.sample(2 * num_start, seed)))[:num_start]
        self.reference = max(self.measure(self.start))

    def measure(self, variants: Sequence[str]) -> list[float]:
        return np.maximum(self.function(variants), 0.0).tolist() if len(variants) else []


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="Of functions, starts and choices.")
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=STRATEGIES, help="By default all.")
    parser.add_argument("--num_start", type=int, default=96, help="Sequences to start from.")
    parser.add_argument("--num_rounds", type=int, default=4, help="Rounds.")
    parser.add_argument("--batch", type=int, default=96, help="Calls of a round.")
    parser.add_argument("--train_steps", type=int, default=400, help="Steps of training of our model.")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "ehrlich.json", help="Where results go.")
    given = parser.parse_args(args)
    results = json.loads(given.output.read_text()) if given.output.is_file() else {}
    for name, sizes in FUNCTIONS.items():
        for seed in given.seeds:
            landscape = Function(*sizes, given.num_start, seed)
            for strategy in given.strategies:
                key = f"{name}/{strategy}/{seed}"
                if key in results:
                    continue
                if strategy == "ours":
                    pipe = train(landscape.start, landscape.measure(landscape.start), given.train_steps, seed)
                    choose = ours(pipe, seed)
                else:
                    choose = greedy_ridge_mutants if strategy == RIDGE else baseline(strategy)
                result = campaign(landscape, choose, landscape.start, given.num_rounds, given.batch, seed)
                results[key] = result | {"best_start": landscape.reference}
                given.output.parent.mkdir(parents=True, exist_ok=True)
                given.output.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")
                print(key, {n: v for n, v in result.items() if n != "mean_by_round"}, flush=True)


if __name__ == "__main__":
    main()
