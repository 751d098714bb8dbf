"""Measures a checkpoint domain by domain: how much of a sentence comes back, and what samples are like.

    python training/studies/sentences/domains.py --checkpoint model_cards/eddpm-sentences --data data/sentences \\
        --output training/studies/sentences/results/domains.json

`--data` is the folder that `prepare.py` wrote. Reconstruction: BLEU and exact match in one pass, greedily and by four
beams of the decoder, and after ten refinement steps, on held-out sentences of each domain and on `plain.txt`, forty
sentences written for this test. Samples of each class, beside held-out sentences: perplexity under a trigram model of
the training sentences, perplexity of held-out sentences under a trigram model of the samples, distinct bigrams, mean
length.
With `--captions`: how often a caption's nearest neighbour is one of the same picture.
"""

import argparse
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from sklearn.feature_extraction.text import TfidfVectorizer

from hf_eddpm import EDDPMPipeline
from hf_eddpm.hub.card import markdown_table
from hf_eddpm.metrics.distinct_novelty import distinct_n, uniqueness
from hf_eddpm.metrics.reconstruction_bleu import corpus_bleu, exact_match
from hf_eddpm.modalities.text.metrics import TrigramModel, reverse_perplexity
from hf_eddpm.training.environment import describe_environment, without_folders

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the studies, which share code

from sentences.prepare import CLASSES, read_lines

DOMAINS = {"reviews": (0, 1), "dialogue": (2, 3), "captions": (4,)}
PLAIN = Path(__file__).resolve().parent / "plain.txt"


def read(path: Path) -> list[str]:
    """Return the lines of a file."""
    return path.read_text(encoding="utf-8").splitlines()


def chosen(folder: Path, labels: Sequence[int], count: int) -> list[str]:
    """Return held-out sentences of some classes, the same every time."""
    sentences = [line for label in labels for line in read(folder / f"dev.{label}.txt")]
    return random.Random(0).sample(sentences, min(count, len(sentences)))


def compare(copies: list[str], originals: list[str]) -> dict[str, float]:
    """Return how much of the originals came back."""
    return {"bleu": corpus_bleu(copies, originals), "exact_match": exact_match(copies, originals)}


def describe(texts: list[str], judge: TrigramModel, other: list[str]) -> dict[str, float]:
    """Return how fluent and how varied texts are; `other` is what a trigram model of them is tried on."""
    return {
        "perplexity": judge.perplexity(texts),
        "reverse_perplexity": reverse_perplexity(texts, other, judge.vocabulary_size),
        "distinct_2": distinct_n(texts, 2),
        "unique": uniqueness(texts),
        "words": sum(len(text.split()) for text in texts) / len(texts),
    }


def nearest_is_paraphrase(vectors: torch.Tensor, pictures: torch.Tensor) -> float:
    """Return how often the vector nearest to another, by the cosine, is of the same picture."""
    unit = torch.nn.functional.normalize(vectors.float(), dim=1)
    hits = 0
    for start in range(0, len(unit), 500):
        similarity = unit[start : start + 500] @ unit.T
        rows = torch.arange(len(similarity))
        similarity[rows, rows + start] = -1
        hits += int((pictures[similarity.argmax(1)] == pictures[start : start + 500]).sum())
    return hits / len(unit)


def read_captions(path: Path, limit: int | None = None) -> tuple[torch.Tensor, list[str]]:
    """Return the numbers of the pictures `(num,)` and the captions of a file, the first so many or all."""
    rows = [line.split("\t", 1) for line in read_lines(path)][:limit]
    return torch.tensor([int(picture) for picture, _ in rows]), [caption.strip() for _, caption in rows]


def words_of(sentences: list[str]) -> torch.Tensor:
    """Return TF-IDF vectors `(num, words)`."""
    return torch.from_numpy(TfidfVectorizer().fit_transform(sentences).toarray())


def search(pipe: EDDPMPipeline, path: Path) -> dict[str, float]:
    """Return how often a caption's nearest neighbour is a caption of the same picture, beside TF-IDF."""
    pictures, captions = read_captions(path)
    return {
        "ours": nearest_is_paraphrase(pipe.encode(captions).embeddings, pictures),
        "TF-IDF": nearest_is_paraphrase(words_of(captions), pictures),
    }


def parser_of_study(description: str) -> argparse.ArgumentParser:
    """Return a parser of what each of these studies needs: a checkpoint and the sentences."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--checkpoint", required=True, help="folder or Hub id of the pipeline")
    parser.add_argument("--data", type=Path, required=True, help="folder that prepare.py wrote")
    return parser


def reconstruction_table(result: dict[str, Any]) -> str:
    """Return what comes back, one row for each domain."""
    rows = [
        {
            "data": name,
            "BLEU, one pass": f"{value['0']['bleu']:.1f}",
            "exact": f"{value['0']['exact_match']:.2f}",
            "BLEU, four beams": f"{value['four beams']['bleu']:.1f}",
            "BLEU, 10 refinement steps": f"{value['10']['bleu']:.1f}",
            "exact ": f"{value['10']['exact_match']:.2f}",
        }
        for name, value in result["reconstruction"].items()
    ]
    return markdown_table(rows)


def main(words: Sequence[str] | None = None) -> None:
    """Writes the JSON and prints the tables."""
    parser = parser_of_study(__doc__.splitlines()[0])
    parser.add_argument("--captions", type=Path, help="folder of the captions, for the search of paraphrases")
    parser.add_argument("--output", type=Path, required=True, help="JSON file")
    parser.add_argument("--count", type=int, default=1000, help="held-out sentences of a domain")
    parser.add_argument("--num_samples", type=int, default=500, help="samples of a class")
    parser.add_argument("--num_inference_steps", type=int, default=50, help="steps of the chain")
    parser.add_argument("--noise_scale", type=float, default=1.0, help="standard deviation of the first noise")
    arguments = parser.parse_args(words)
    pipe = EDDPMPipeline.from_pretrained(arguments.checkpoint)
    pipe.set_progress_bar_config(disable=True)
    sets = {name: chosen(arguments.data, labels, arguments.count) for name, labels in DOMAINS.items()}
    sets["plain sentences"] = read(PLAIN)
    result: dict[str, Any] = {"reconstruction": {}, "samples": {}}
    for name, sentences in sets.items():
        ways: dict[str, dict[str, int]] = {
            "0": {},
            "four beams": {"num_beams": 4},
            "10": {"refinement_steps": 10},
        }
        result["reconstruction"][name] = {
            way: compare(pipe.reconstruct(sentences, **options), sentences) for way, options in ways.items()
        }
    for label, name in enumerate(CLASSES):
        options = {"num_inference_steps": arguments.num_inference_steps, "noise_scale": arguments.noise_scale}
        generator = torch.Generator().manual_seed(0)
        samples = pipe(arguments.num_samples, class_labels=label, generator=generator, **options).samples
        real = chosen(arguments.data, [label], arguments.num_samples)
        judge = TrigramModel.fit(read(arguments.data / f"train.{label}.txt"))
        result["samples"][name] = {
            kind: describe(texts, judge, heldout)
            for kind, texts, heldout in (("samples", samples, real), ("held out", real, samples))
        } | {"first": samples[:8]}
    if arguments.captions is not None:
        result["search"] = search(pipe, arguments.captions / "dev.tsv.gz")
    result["settings"] = {
        name: without_folders(str(value)) for name, value in vars(arguments).items() if name != "output"
    }
    result |= describe_environment(pipe.device, ("sacrebleu",))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    print(reconstruction_table(result))


if __name__ == "__main__":
    main()
