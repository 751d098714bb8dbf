"""What people do with a text model, each use with a number beside an outside reference.

    python training/studies/sentences/uses.py --checkpoint model_cards/eddpm-sentences --data data/sentences \\
        --captions data/captions5 --output training/studies/sentences/results/uses.json

`--data` is what `prepare.py` wrote; `--captions` the folder of the captions with the number of their picture. Search:
how often the caption nearest to another is one of the same picture, by the cosine of embeddings, of whitened ones, of
those along the directions that captions of a picture share (linear discriminant analysis of `--pairs` training
captions), of TF-IDF, of the last two together, by a linear map of the encoder's states that training captions teach
(`similarity.py`), and of a sentence encoder if `--sentence_encoder` names one.
Interpolation: how often neighbours on a path of seven are equal, the perplexity in its middle over that of the ends,
under a trigram model of the training sentences, and the share of the words there that an end has. Edits: negative
reviews moved along the direction to positive ones, or as far as each needs (`edit_to`), also with the words given back
that need not change, judged by logistic regression on the n-grams of training reviews, and their BLEU with what they
were. Score: the area under the ROC curve that tells two kinds of held-out sentences by the difference of their bounds
as one class and as the other; and real from shuffled words by the bound per token.
"""

import json
import random
import sys
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.metrics import roc_auc_score
from transformers import AutoModel, AutoTokenizer

from hf_eddpm import EDDPMPipeline, EDDPMScore
from hf_eddpm.hub.card import markdown_table
from hf_eddpm.metrics.reconstruction_bleu import corpus_bleu
from hf_eddpm.modalities.text.metrics import TrigramModel, fit_text_classifier
from hf_eddpm.training.environment import describe_command
from hf_eddpm.training.evaluation import finish_result

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the studies, which share code

from sentences.domains import chosen, nearest_is_paraphrase, parser_of_study, read, read_captions, words_of
from sentences.similarity import by_similarity, mean_of_tokens, together

POINTS = 7
KINDS = {"reviews": (0, 1), "dialogue": (2, 3), "captions": (4,)}
SCALES = (1.0, 1.5, 2.0)
PROBABILITIES = (0.5, 0.75, 0.9)
WAYS: tuple[tuple[Literal["latents", "noise"], float], ...] = (
    ("noise", 0.0),
    ("latents", 0.0),
    ("latents", 0.5),
    ("latents", 0.7),
    ("latents", 0.9),
)
NUM_DIRECTIONS = 64  # that captions of a picture share
LITTLE_NOISE = (0.01, 0.02, 0.05)  # shares of the variance
USES = ("search", "interpolation", "edits", "score")


def whitened(vectors: torch.Tensor) -> torch.Tensor:
    """Return vectors `(num, size)` whose directions all have the same variance."""
    centred = vectors.float() - vectors.float().mean(0)
    _, values, directions = torch.linalg.svd(centred, full_matrices=False)
    return centred @ directions.T / values


def sentence_vectors(name: str, sentences: list[str]) -> torch.Tensor:
    """Return the mean hidden states `(num, hidden)` of a sentence encoder."""
    tokenizer, model = AutoTokenizer.from_pretrained(name), AutoModel.from_pretrained(name).eval()
    parts = []
    for start in range(0, len(sentences), 128):
        batch = tokenizer(sentences[start : start + 128], padding=True, truncation=True, return_tensors="pt")
        with torch.no_grad():
            states = model(**batch).last_hidden_state
        parts.append(mean_of_tokens(states, batch["attention_mask"]))
    return torch.cat(parts)


def shared_directions(pipe: EDDPMPipeline, folder: Path, count: int) -> LinearDiscriminantAnalysis:
    """Return the map from embeddings to the directions in which captions differ by their picture, not within it."""
    pictures, captions = read_captions(folder / "train.tsv.gz", count)
    most = len(pictures.unique()) - 1
    analysis = LinearDiscriminantAnalysis(solver="eigen", n_components=min(NUM_DIRECTIONS, most))
    return analysis.fit(pipe.encode(captions).embeddings.numpy(), pictures)


def search(
    pipe: EDDPMPipeline, folder: Path, encoder: str | None, limit: int | None, pairs: int, taught: int | None
) -> dict[str, float]:
    """Return how often a caption's nearest is one of the same picture, by what it is compared with."""
    pictures, captions = read_captions(folder / "dev.tsv.gz", limit)
    latents = pipe.encode(captions).embeddings
    analysis = shared_directions(pipe, folder, pairs)
    shared = torch.from_numpy(analysis.transform(latents.numpy())).float()
    words = words_of(captions)
    vectors = {
        "ours": latents,
        "ours, whitened": whitened(latents),
        "ours, shared directions": shared,
        "TF-IDF": words,
        "ours, shared directions, and TF-IDF": together(shared, words),
    }
    vectors |= by_similarity(pipe, folder, captions, words, taught)
    if encoder is not None:
        vectors["sentence encoder"] = sentence_vectors(encoder, captions)
    return {name: nearest_is_paraphrase(each, pictures) for name, each in vectors.items()}


def share_of_words(path: list[str]) -> float:
    """Return the share of the words in the middle of a path that one of its ends has."""
    ends = {*path[0].split(), *path[-1].split()}
    middle = path[len(path) // 2].split()
    return sum(word in ends for word in middle) / max(1, len(middle))


def repeated(paths: list[list[Any]]) -> float:
    """Return the share of neighbours on paths that are equal."""
    steps = [step for path in paths for step in zip(path, path[1:], strict=False)]
    return sum(bool(np.array_equal(first, second)) for first, second in steps) / len(steps)


def interpolation(pipe: EDDPMPipeline, judge: TrigramModel, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Return what paths are like, for each way through and spacing."""
    firsts, lasts = [first for first, _ in pairs], [last for _, last in pairs]
    found = {}
    for space, level in WAYS:
        for spacing in ("even", "perceptual"):
            paths = pipe.interpolate(firsts, lasts, POINTS, space=space, spacing=spacing, noise_level=level)
            middle = [path[POINTS // 2] for path in paths]
            ends = [text for path in paths for text in (path[0], path[-1])]
            found[f"{space}, denoised from {level:g}, {spacing}"] = {
                "repeated": repeated(paths),
                "perplexity_of_middle_over_ends": judge.perplexity(middle) / judge.perplexity(ends),
                "words_of_the_ends": sum(map(share_of_words, paths)) / len(paths),
                "first": paths[0],
            }
    return found


def edits(pipe: EDDPMPipeline, folder: Path, count: int) -> dict[str, Any]:
    """Return what becomes of negative reviews along the direction to positive ones."""
    reviews = [read(folder / f"train.{label}.txt") for label in (0, 1)]
    labels = [label for label, texts in enumerate(reviews) for _ in texts]
    judge = fit_text_classifier([text for texts in reviews for text in texts], labels)
    some = [random.Random(1).sample(texts, min(2000, len(texts))) for texts in reviews]
    direction = pipe.direction(some[1], some[0])
    texts = chosen(folder, [0], count)
    attribute = pipe.attribute(some[1], some[0])
    ways = {f"scale {scale:g}": partial(pipe.edit, texts, direction=direction, scale=scale) for scale in SCALES} | {
        f"as far as needed, {probability:g}{name}": partial(_edit_to, pipe, texts, attribute, probability, **others)
        for name, others in (("", {}), (", words given back", {"give_back": True, "num_candidates": 4}))
        for probability in PROBABILITIES
    }
    found: dict[str, Any] = {}
    for name, way in ways.items():
        changed = way(refinement_steps=10)
        found[name] = {
            "flipped": float((judge.predict(changed) == 1).mean()),
            "self_bleu": corpus_bleu(changed, texts),
            "first": [list(pair) for pair in zip(texts[:5], changed[:5], strict=True)],
        }
    found["unchanged"] = {"flipped": float((judge.predict(texts) == 1).mean()), "self_bleu": 100.0}
    return found


def _edit_to(pipe: EDDPMPipeline, *arguments: Any, **others: Any) -> list[str]:
    return pipe.edit_to(*arguments, **others).samples


def scores(pipe: EDDPMPipeline, texts: list[str], label: int | None = None) -> EDDPMScore:
    """Return the scores of sentences, as sentences of a class."""
    generator = torch.Generator().manual_seed(0)
    return pipe.score(texts, num_timesteps=32, generator=generator, class_labels=label)


def told_apart(pipe: EDDPMPipeline, folder: Path, count: int) -> dict[str, float]:
    """Return the areas under the ROC curve between each two kinds, and between real and shuffled sentences."""
    sets = {name: chosen(folder, labels, count) for name, labels in KINDS.items()}
    found = {}
    names = list(sets)
    for place, one in enumerate(names):
        for other in names[place + 1 :]:
            texts = sets[one] + sets[other]
            # The bound of a kind is that of its likeliest class.
            as_one, as_other = (
                torch.stack([scores(pipe, texts, label).bits_per_unit for label in KINDS[name]]).amin(0)
                for name in (one, other)
            )
            truth = [0] * len(sets[one]) + [1] * len(sets[other])
            found[f"{one} or {other}"] = float(roc_auc_score(truth, (as_one - as_other).numpy()))
    real = [text for texts in sets.values() for text in texts]
    rng = random.Random(0)
    shuffled = [" ".join(rng.sample(words, len(words))) for words in map(str.split, real)]
    pair = [scores(pipe, texts) for texts in (real, shuffled)]
    truth = [0] * len(real) + [1] * len(shuffled)
    ways = {
        "real or shuffled words": [score.bits_per_unit for score in pair],
        "real or shuffled words, by the reconstruction alone": [
            score.reconstruction / score.num_units for score in pair
        ],
        "real or shuffled words, by the denoiser's error at little noise": [
            pipe.model.chain_errors(pipe.encode(texts).latents, noise_variances=LITTLE_NOISE)
            for texts in (real, shuffled)
        ],
    }
    return found | {name: float(roc_auc_score(truth, torch.cat(values).numpy())) for name, values in ways.items()}


def report(found: dict[str, Any]) -> str:
    """Return one table of all uses."""
    rows = [
        ("search: nearest is of the same picture", name, f"{value:.2f}") for name, value in found["search"].items()
    ]
    for name, values in found["interpolation"].items():
        ratio = values["perplexity_of_middle_over_ends"]
        rows.append(
            (
                "interpolation: equal neighbours; of the middle: perplexity, words of the ends",
                name,
                f"{values['repeated']:.2f}, x {ratio:.2f}, {values['words_of_the_ends']:.2f}",
            )
        )
    for name, values in found["edits"].items():
        rows.append(
            (
                "edit: judged positive, BLEU with the original",
                name,
                f"{values['flipped']:.2f}, {values['self_bleu']:.0f}",
            )
        )
    rows += [("score: area under the ROC curve", name, f"{value:.2f}") for name, value in found["score"].items()]
    return markdown_table([dict(zip(("use", "by", "result"), row, strict=True)) for row in rows])


def main(words: Sequence[str] | None = None) -> None:
    """Writes the JSON and the table."""
    parser = parser_of_study(__doc__.splitlines()[0])
    parser.add_argument("--captions", type=Path, required=True, help="folder of the captions and their pictures")
    parser.add_argument("--sentence_encoder", help="folder or Hub id of a sentence encoder to search by, too")
    parser.add_argument("--output", type=Path, required=True, help="JSON file; the table goes beside it")
    parser.add_argument("--count", type=int, default=200, help="sentences of a kind, edits; a third of it paths")
    parser.add_argument("--limit", type=int, help="captions to search; all by default")
    parser.add_argument("--pairs", type=int, default=20_000, help="training captions that show what pictures share")
    parser.add_argument("--taught", type=int, help="training captions that teach the map; all by default")
    parser.add_argument("--uses", nargs="+", choices=USES, default=list(USES), help="the others stay in the JSON")
    words = sys.argv[1:] if words is None else list(words)
    arguments, start = parser.parse_args(words), time.perf_counter()
    pipe = EDDPMPipeline.from_pretrained(arguments.checkpoint)
    pipe.set_progress_bar_config(disable=True)
    found = {} if arguments.uses == list(USES) else json.loads(arguments.output.read_text(encoding="utf-8"))
    found["command"] = describe_command("training/studies/sentences/uses.py", words)
    if "search" in arguments.uses:
        hits = search(
            pipe, arguments.captions, arguments.sentence_encoder, arguments.limit, arguments.pairs, arguments.taught
        )
        found["search"] = {**hits, **{name: hit for name, hit in found.get("search", {}).items() if name not in hits}}
    if "interpolation" in arguments.uses:
        files = [arguments.data / f"train.{label}.txt" for labels in KINDS.values() for label in labels]
        judge = TrigramModel.fit([text for file in files for text in read(file)])
        some = [chosen(arguments.data, labels, 2 * max(1, arguments.count // 9)) for labels in KINDS.values()]
        pairs = [(texts[place], texts[place + 1]) for texts in some for place in range(0, len(texts) - 1, 2)]
        found["interpolation"] = interpolation(pipe, judge, pairs)
    if "edits" in arguments.uses:
        found["edits"] = edits(pipe, arguments.data, arguments.count)
    if "score" in arguments.uses:
        found["score"] = told_apart(pipe, arguments.data, arguments.count)
    table = report(found)
    finish_result(found, start, arguments.output, table)
    print(table)


if __name__ == "__main__":
    main()
