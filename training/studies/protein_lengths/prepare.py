"""Proteins of 32 to 512 residues, made of measured variants of green fluorescent protein.

    prepare() { python training/studies/protein_lengths/prepare.py "$@"; }
    prepare $GFP/train.csv.gz --output runs/lengths/train.csv.gz
    prepare $GFP/validation.csv.gz --num 600 --seed 1 --output runs/lengths/dev.csv.gz

Nobody has measured these proteins: each is a window of a tandem of two variants (a tag of six histidines, the first
variant, a linker of two to six times GGGGS, the second variant; tandems of fluorescent proteins are real, as tdTomato
is one). Its length and its place are drawn uniformly, so that proteins differ in these, in the linker, and in the
variants' own mutations.
"""

import argparse
import csv
import gzip
from pathlib import Path

import numpy as np

from hf_eddpm.modalities.protein.data import load_proteins

TAG, LINKER = "MHHHHHH", "GGGGS"
SHORTEST, LONGEST = 32, 512


def window(variants: list[str], rng: np.random.Generator) -> str:
    """Return a random part of a random tandem."""
    first, second = (variants[rng.integers(len(variants))] for _ in range(2))
    tandem = TAG + first + LINKER * int(rng.integers(2, 7)) + second
    length = int(rng.integers(SHORTEST, min(len(tandem), LONGEST) + 1))
    start = int(rng.integers(len(tandem) - length + 1))
    return tandem[start : start + length]


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", help="Table of the variants.")
    parser.add_argument("--num", type=int, default=40000, help="Proteins to make.")
    parser.add_argument("--seed", type=int, default=0, help="Of the draws.")
    parser.add_argument("--output", type=Path, required=True, help="Table, .csv.gz.")
    given = parser.parse_args(args)
    variants = load_proteins(given.data, property_columns=[]).sequences
    rng = np.random.default_rng(given.seed)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(given.output, "wt", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(["sequence"])
        writer.writerows([window(variants, rng)] for _ in range(given.num))


if __name__ == "__main__":
    main()
