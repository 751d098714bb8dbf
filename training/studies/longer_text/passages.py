"""Joins utterances that follow one another into passages of drawn lengths, for `by_length.py`.

    python training/studies/longer_text/passages.py --dialogue data/dialogue --output_dir data/passages

The folder holds the dialogues as `train.tsv.gz` and `dev.tsv.gz`: who speaks, a tab, the utterance, in the order in
which they were spoken. Each passage takes utterances until it has as many words as were drawn for it: 8, 16, 32 or 64,
all equally likely. Out come `train.txt` and `dev.txt`, one passage a line.
"""

import argparse
import random
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the studies, which share code

from sentences.prepare import read_lines

WORDS = (8, 16, 32, 64)


def passages(utterances: Sequence[str], seed: int) -> Iterator[str]:
    """Yield passages; each utterance is in one of them, and what the end leaves over is in none."""
    draw = random.Random(seed)
    parts: list[str] = []
    words, wanted = 0, draw.choice(WORDS)
    for utterance in utterances:
        parts.append(utterance.strip())
        words += len(utterance.split())
        if words >= wanted:
            yield " ".join(parts)
            parts, words, wanted = [], 0, draw.choice(WORDS)


def main(words: Sequence[str] | None = None) -> None:
    """Writes both files and prints how many passages each has."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--dialogue", type=Path, required=True, help="folder of the dialogues")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the files")
    parser.add_argument("--seed", type=int, default=0, help="of the lengths")
    arguments = parser.parse_args(words)
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    for split in ("train", "dev"):
        spoken = [line.split("\t", 1)[1] for line in read_lines(arguments.dialogue / f"{split}.tsv.gz")]
        found = list(passages(spoken, arguments.seed))
        (arguments.output_dir / f"{split}.txt").write_text("".join(f"{line}\n" for line in found), encoding="utf-8")
        print(f"{split}: {len(found)} passages")


if __name__ == "__main__":
    main()
