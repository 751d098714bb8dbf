"""Rounds of design on GB1, all of whose four-site variants are measured: what do 384 look-ups find?

    python training/studies/protein_design/gb1.py $GB1/train.csv.gz $GB1/validation.csv.gz

A cold start: the first N variants are drawn at random from those below the median fitness of the functional ones
(fitness above 0.01). All strategies, our model too, see the four residues that vary. In each of four rounds a strategy
chooses 96 variants of the table, their fitness is looked up, and they join what is known. Strategies that have been
run with a budget and a seed are not run again.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from baselines import BASELINES, baseline
from campaigns import campaign, ours, train
from transformers.utils import logging

from hf_eddpm.design.candidates import LIBRARY, METHODS
from hf_eddpm.modalities.protein.data import load_proteins

HERE = Path(__file__).parent
FUNCTIONAL = 0.01  # fitness above which a variant binds at all; the wild type has 1
logging.set_verbosity_error()


class Landscape:
    """The fitness of variants, strings of the residues at the sites that vary."""

    def __init__(self, sources: list[str]):
        data = load_proteins(sources)
        letters = np.array([list(sequence) for sequence in data.sequences])
        varied = (letters != letters[0]).any(0)
        names = ["".join(row) for row in letters[:, varied]]
        self.fitness = dict(zip(names, data.properties[:, 0].tolist(), strict=True))
        self.table = self.fitness.keys()
        self.reference = 1.0  # the wild type's

    def measure(self, variants: Sequence[str]) -> list[float]:
        return [self.fitness[variant] for variant in variants]

    def cold_start(self, num: int, seed: int) -> list[str]:
        values = np.array(list(self.fitness.values()))
        low = np.flatnonzero(values < np.median(values[values > FUNCTIONAL]))
        names = list(self.table)
        return [names[row] for row in np.random.default_rng(seed).choice(low, num, replace=False)]


def strategies(names: list[str] | None) -> dict[str, dict[str, Any] | None]:
    """Ours by the arguments of `design`; the baselines have none."""
    every: dict[str, dict[str, Any] | None] = {"ours": {}, **dict.fromkeys(BASELINES)}
    every |= {"ours, ucb": {"acquisition": "ucb"}, "ours, greedy": {"exploration": 0.0}}
    every |= {f"ours, {method}": {"methods": [method]} for method in (*METHODS, LIBRARY)}
    if names and (unknown := set(names) - set(every)):
        raise SystemExit(f"--strategies must be among {sorted(every)}, got {sorted(unknown)}.")
    return {name: value for name, value in every.items() if not names or name in names}


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="+", help="Tables of variants with columns sequence and fitness.")
    parser.add_argument("--budgets", type=int, nargs="+", default=[96, 384, 2000], help="Variants to start from.")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="Of starts, models and choices.")
    parser.add_argument("--strategies", nargs="+", help="Some strategies; by default all.")
    parser.add_argument("--num_rounds", type=int, default=4, help="Rounds of look-ups.")
    parser.add_argument("--batch", type=int, default=96, help="Look-ups of a round.")
    parser.add_argument("--train_steps", type=int, default=400, help="Steps of training of our model.")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "gb1.json", help="Where results go.")
    given = parser.parse_args(args)
    landscape = Landscape(given.data)
    results = json.loads(given.output.read_text()) if given.output.is_file() else {}
    for seed in given.seeds:
        for budget in given.budgets:
            start = landscape.cold_start(budget, seed)
            pipe = None
            for name, arguments in strategies(given.strategies).items():
                key = f"{budget}/{name}/{seed}"
                if key in results:
                    continue
                if arguments is None:
                    strategy = baseline(name)
                else:
                    if pipe is None:
                        pipe = train(start, landscape.measure(start), given.train_steps, seed)
                    strategy = ours(pipe, seed, library=list(landscape.table), **arguments)
                result = campaign(landscape, strategy, start, given.num_rounds, given.batch, seed)
                results |= json.loads(given.output.read_text()) if given.output.is_file() else {}
                results[key] = result
                given.output.parent.mkdir(parents=True, exist_ok=True)
                given.output.write_text(json.dumps(dict(sorted(results.items())), indent=1) + "\n")
                print(key, {n: v for n, v in result.items() if n != "mean_by_round"}, flush=True)


if __name__ == "__main__":
    main()
