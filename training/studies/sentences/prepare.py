"""Lays out everyday English from three sources as labelled files, for `configs/text_sentences.json`.

    python training/studies/sentences/prepare.py --yelp data/yelp --dialogue data/dialogue --captions data/captions5 \\
        --output_dir data/sentences

Each folder holds the files that its data set comes in: labelled review sentences (`train.0.txt.gz`, `more.1.txt.gz`,
`dev.0.txt.gz`), utterances with their speaker (`train.tsv.gz`, `dev.tsv.gz`) and captions with the number of their
picture (the same names). The sentences stay as they are: reviews in lower case with spaces before punctuation, the
others cased. Out come `train.0.txt` to `train.4.txt` and `dev.0.txt` to `dev.4.txt`, one sentence a line; `CLASSES`
says what each number is.
"""

import argparse
import gzip
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

CLASSES = ("negative review", "positive review", "user's turn", "system's turn", "caption")


def read_lines(path: Path) -> list[str]:
    """Return the lines of a gzipped UTF-8 file, without line ends."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return file.read().rstrip("\n").split("\n")


def key(sentence: str) -> str:
    """Return what two copies of a sentence share, whatever their case and punctuation."""
    return " ".join(re.findall(r"\w+", sentence.lower()))


def collect(yelp: Path, dialogue: Path, captions: Path, split: str) -> list[list[str]]:
    """Return the sentences of one split, "train" or "dev", as a list for each class."""
    names = ("train", "more") if split == "train" else ("dev",)
    reviews = [[line for name in names for line in read_lines(yelp / f"{name}.{label}.txt.gz")] for label in (0, 1)]
    turns = [line.split("\t", 1) for line in read_lines(dialogue / f"{split}.tsv.gz")]
    spoken = [[text for who, text in turns if who == speaker] for speaker in ("user", "system")]
    captioned = [line.split("\t", 1)[1] for line in read_lines(captions / f"{split}.tsv.gz")]
    return [[text.strip() for text in texts if text.strip()] for texts in (*reviews, *spoken, captioned)]


def without(sentences: Iterable[str], held_out: set[str]) -> list[str]:
    """Return the sentences of which no copy is held out."""
    return [sentence for sentence in sentences if key(sentence) not in held_out]


def main(words: Sequence[str] | None = None) -> None:
    """Writes the files and prints how many sentences each class has."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("yelp", "dialogue", "captions"):
        parser.add_argument(f"--{name}", type=Path, required=True, help=f"folder of the {name}")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the files")
    arguments = parser.parse_args(words)
    folders = (arguments.yelp, arguments.dialogue, arguments.captions)
    dev = collect(*folders, "dev")
    held_out = {key(sentence) for sentences in dev for sentence in sentences}
    train = [without(sentences, held_out) for sentences in collect(*folders, "train")]
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    for split, classes in (("train", train), ("dev", dev)):
        for label, sentences in enumerate(classes):
            path = arguments.output_dir / f"{split}.{label}.txt"
            path.write_text("".join(f"{sentence}\n" for sentence in sentences), encoding="utf-8")
            print(f"{split} {CLASSES[label]}: {len(sentences)}")


if __name__ == "__main__":
    main()
