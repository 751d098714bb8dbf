"""Samples beside as many real sentences, under a pretrained language model: what guidance and candidates are worth.

    python training/studies/sentences/samples.py --checkpoint model_cards/eddpm-sentences --data data/sentences \\
        --language_model smollm2 --output_dir training/studies/sentences/results/samples

`--data` is what `prepare.py` wrote; `--language_model` a causal language model, here what
`docs/examples/pretrained_packages.py` writes. The classes have their shares of the training sentences. Beams are those
of the decoder's search, 1 for greedy decoding. Perplexity is
per token of the language model, of samples and of held-out sentences of the same class and, as nearly as there is one,
of the same number of words. Odd is what the language model finds less likely, per token, than 95 % of such sentences.
Reverse perplexity: of other held-out sentences under a trigram model of the samples, or of as many training sentences.
A setting and seed whose JSON exists is not repeated; the table is of all that exist.
"""

import argparse
import math
import random
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_eddpm import EDDPMPipeline
from hf_eddpm.hub.card import markdown_table
from hf_eddpm.metrics.distinct_novelty import distinct_n
from hf_eddpm.modalities.text.metrics import TrigramModel
from hf_eddpm.training.environment import describe_command
from hf_eddpm.training.evaluation import finish_result, result_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the studies, which share code

from common.tables import mean_cells, read_results
from sentences.domains import describe, parser_of_study, read
from sentences.prepare import CLASSES

# guidance scale, noise scale, candidates, beams (1 if left out), redundancy penalty (0 if left out)
SETTINGS = (
    *("1,1,1", "2,0.9,1", "2,0.85,1", "2,0.8,1", "2,1,3", "2,0.9,2", "2,0.9,4"),
    *("2,0.9,1,4", "2,0.85,1,4", "2,0.9,2,4", "2,1,3,4"),
    *("2,1,8,1", "2,1,8,1,0.5"),
)
NAMES = ("guidance", "noise", "candidates", "beams", "redundancy_penalty")
KINDS = (float, float, int, int, float)
OTHERWISE: dict[str, Any] = {"beams": 1, "redundancy_penalty": 0.0}  # where a setting leaves them out
STEPS = 50
BATCH = 50
REFERENCE = 1500  # held-out sentences for the reverse perplexity
USUAL = 600  # of each class, whose likelihoods say what is odd
NEIGHBOURS = 60  # of them, the nearest in length


class LanguageModel:
    """What a causal language model finds of sentences.

    Args:
        folder: Folder or Hub id.
    """

    def __init__(self, folder: str) -> None:
        self.tokenizer = AutoTokenizer.from_pretrained(folder)
        self.model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
        self.start = self.tokenizer.bos_token_id

    @torch.no_grad()
    def nats(self, sentences: Sequence[str]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Return the nats and the tokens of each sentence, `(num,)`, by itself after the token of a beginning."""
        nats, tokens = np.zeros(len(sentences)), np.zeros(len(sentences), dtype=np.int64)
        order = sorted(range(len(sentences)), key=lambda place: len(sentences[place]))
        for start in range(0, len(order), BATCH):
            places = order[start : start + BATCH]
            ids = [[self.start, *self.tokenizer(sentences[place])["input_ids"]] for place in places]
            longest = max(map(len, ids))
            batch = torch.tensor([each + [self.start] * (longest - len(each)) for each in ids])
            targets = torch.tensor([each + [-100] * (longest - len(each)) for each in ids])[:, 1:]
            logits = self.model(batch).logits[:, :-1].transpose(1, 2)
            nats[places] = torch.nn.functional.cross_entropy(logits, targets, reduction="none").sum(1).numpy()
            tokens[places] = (targets >= 0).sum(1).numpy()
        return nats, tokens


def shares(folder: Path, count: int) -> list[int]:
    """Return the class of each sample: as often as in the training sentences, in order."""
    sizes = [len(read(folder / f"train.{label}.txt")) for label in range(len(CLASSES))]
    edges = [round(count * sum(sizes[: label + 1]) / sum(sizes)) for label in range(len(CLASSES))]
    return [next(label for label, edge in enumerate(edges) if place < edge) for place in range(count)]


def of_like_length(texts: Sequence[str], real: Sequence[str], rng: random.Random) -> list[str]:
    """Return a real sentence for each text, of the same number of words or the nearest; none twice."""
    left: dict[int, list[str]] = {}
    for sentence in rng.sample(list(real), len(real)):
        left.setdefault(len(sentence.split()), []).append(sentence)
    found = []
    for text in texts:
        words = len(text.split())
        nearest = min((size for size, some in left.items() if some), key=lambda size: abs(size - words))
        found.append(left[nearest].pop())
    return found


def likelihoods_of_like_length(text: str, words: NDArray[np.int64], usual: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the nats per token of the sentences that are nearest to a text in length, of all by their words."""
    return usual[np.abs(words - len(text.split())).argsort(kind="stable")[:NEIGHBOURS]]


class Samples:
    """One checkpoint's samples, measured.

    Args:
        checkpoint: Folder or Hub id.
        folder: What `prepare.py` wrote.
        judge: The language model.
        count: How many are drawn of a setting.
    """

    def __init__(self, checkpoint: str, folder: Path, judge: LanguageModel, count: int) -> None:
        self.pipe = EDDPMPipeline.from_pretrained(checkpoint)
        self.pipe.set_progress_bar_config(disable=True)
        self.labels, self.judge = shares(folder, count), judge
        held_out = [random.Random(0).sample(lines, len(lines)) for lines in self._lines(folder, "dev")]
        used = [round(REFERENCE * self.labels.count(label) / count) for label in range(len(CLASSES))]
        self.reference = [each for lines, size in zip(held_out, used, strict=True) for each in lines[:size]]
        self.held_out = [lines[size:] for lines, size in zip(held_out, used, strict=True)]
        self.training = self._lines(folder, "train")
        self.usual = [self._usual(lines[:USUAL]) for lines in self.held_out]
        self.trigrams = TrigramModel.fit([each for lines in self.training for each in lines])

    @staticmethod
    def _lines(folder: Path, split: str) -> list[list[str]]:
        return [read(folder / f"{split}.{label}.txt") for label in range(len(CLASSES))]

    def _usual(self, lines: list[str]) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Return the words and the nats per token of sentences."""
        nats, tokens = self.judge.nats(lines)
        return np.array([len(line.split()) for line in lines]), nats / tokens.clip(1)

    def _is_odd(self, text: str, label: int, nats_per_token: float) -> bool:
        """Return whether a text is less likely than 95 % of real sentences of its class and about its length."""
        return bool(nats_per_token > np.quantile(likelihoods_of_like_length(text, *self.usual[label]), 0.95))

    def _of_classes(self, lines: list[list[str]], seed: int) -> list[str]:
        rng = random.Random(seed)
        return [each for label in range(len(CLASSES)) for each in rng.sample(lines[label], self.labels.count(label))]

    def draw(
        self, guidance: float, noise: float, candidates: int, beams: int, redundancy_penalty: float, seed: int
    ) -> list[str]:
        """Return samples of the classes, in their order."""
        drawn = self.pipe(
            len(self.labels),
            class_labels=self.labels,
            guidance_scale=guidance,
            noise_scale=noise,
            num_candidates=candidates,
            num_beams=beams,
            redundancy_penalty=redundancy_penalty,
            num_inference_steps=STEPS,
            generator=torch.Generator().manual_seed(seed),
        )
        return drawn.samples

    def measure(self, texts: list[str], seed: int) -> dict[str, float]:
        """Return what texts of the classes, in their order, are like beside real sentences of the same lengths."""
        rng = random.Random(seed)
        real: list[str] = []
        for label in range(len(CLASSES)):
            rows = [text for text, own in zip(texts, self.labels, strict=True) if own == label]
            real += of_like_length(rows, self.held_out[label], rng)
        (nats, tokens), (of_real, of_real_tokens) = self.judge.nats(texts), self.judge.nats(real)
        perplexity = math.exp(nats.sum() / tokens.sum())
        real_perplexity = math.exp(of_real.sum() / of_real_tokens.sum())
        odd = [self._is_odd(*one) for one in zip(texts, self.labels, nats / tokens.clip(1), strict=True)]
        found = describe(texts, self.trigrams, self.reference)
        training = describe(self._of_classes(self.training, seed), self.trigrams, self.reference)
        distinct_2_real = distinct_n(real, 2)
        return {
            "perplexity": perplexity,
            "perplexity_real": real_perplexity,
            "perplexity_ratio": perplexity / real_perplexity,
            "odd": float(np.mean(odd)),
            "reverse_perplexity": found["reverse_perplexity"],
            "reverse_perplexity_real": training["reverse_perplexity"],
            "reverse_ratio": found["reverse_perplexity"] / training["reverse_perplexity"],
            "distinct_2": found["distinct_2"],
            "distinct_2_real": distinct_2_real,
            "distinct_ratio": found["distinct_2"] / distinct_2_real,
            "unique": found["unique"],
            "words": found["words"],
        }


def report(results: Sequence[dict[str, Any]]) -> str:
    """Ratios to real sentences by setting, with the standard deviation over seeds."""
    columns = {
        "perplexity": ("perplexity", ".0f"),
        "perplexity_ratio": ("over real", ".2f"),
        "odd": ("odd", ".3f"),
        "reverse_ratio": ("reverse, over real", ".2f"),
        "distinct_ratio": ("distinct 2, over real", ".3f"),
        "unique": ("unique", ".3f"),
        "words": ("words", ".1f"),
    }
    rows = []
    settings = [tuple((OTHERWISE | result["setting"])[name] for name in NAMES) for result in results]
    for setting in sorted(set(settings), key=lambda each: each[::-1]):
        group = [result for result, own in zip(results, settings, strict=True) if own == setting]
        named = {name.replace("_", " "): f"{value:g}" for name, value in zip(NAMES, setting, strict=True)}
        rows.append(named | mean_cells([result["measures"] for result in group], columns))
    return markdown_table(rows)


def parser_of_judged(description: str) -> argparse.ArgumentParser:
    """Return a parser of what a study needs in which a language model judges samples."""
    parser = parser_of_study(description)
    parser.add_argument("--language_model", required=True, help="causal language model: folder or Hub id")
    return parser


def main(words: Sequence[str] | None = None) -> None:
    """Writes the JSON files and the table."""
    parser = parser_of_judged(__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, required=True, help="where the JSON files and the table go")
    parser.add_argument("--settings", nargs="+", default=SETTINGS, help="each guidance,noise,candidates,beams,penalty")
    parser.add_argument("--count", type=int, default=500, help="samples of a setting")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0], help="sampling seeds")
    words = sys.argv[1:] if words is None else list(words)
    arguments = parser.parse_args(words)
    samples: Samples | None = None
    for setting in arguments.settings:
        given = zip(NAMES, KINDS, setting.split(","), strict=False)  # the last ones may be left out
        values = OTHERWISE | {name: kind(value) for name, kind, value in given}
        for seed in arguments.seeds:
            file = result_file(arguments.output_dir, f"{setting} seed {seed}")
            if file.exists():
                continue
            start = time.perf_counter()
            if samples is None:
                judge = LanguageModel(arguments.language_model)
                samples = Samples(arguments.checkpoint, arguments.data, judge, arguments.count)
            texts = samples.draw(**values, seed=seed)
            found = {"setting": values, "seed": seed, "measures": samples.measure(texts, seed)}
            found["examples"] = texts[:: max(arguments.count // 20, 1)]
            command = describe_command("training/studies/sentences/samples.py", words)
            finish_result({"command": command} | found, start, file)
            print(file.stem, found["measures"], flush=True)
    table = report(read_results(arguments.output_dir))
    (arguments.output_dir / "table.md").write_text(table + "\n", encoding="utf-8")
    print(table)


if __name__ == "__main__":
    main()
