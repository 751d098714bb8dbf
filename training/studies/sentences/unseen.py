"""What a checkpoint loses of sentences that it was trained on, of altered and of held-out ones.

    python training/studies/sentences/unseen.py --checkpoint model_cards/eddpm-sentences --data data/sentences \\
        --output training/studies/sentences/results/unseen.json

`--data` is the folder that `prepare.py` wrote. Of turns of the system and of captions: training sentences as they are;
each joined to the end of another at a word that both have, so that few triples of neighbouring words are new; joined
anywhere; with words exchanged (`altering.py`); held-out sentences; and training sentences with their words in any
order. For each the nats per token of one pass, the share of pairs and triples of neighbouring words that no training
sentence of the class has, and the mean number of words.
"""

import random
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from hf_eddpm import EDDPMPipeline
from hf_eddpm.hub.card import markdown_table
from hf_eddpm.training.environment import describe_command
from hf_eddpm.training.evaluation import finish_result

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the studies, which share code

from sentences.altering import LONGER, TRIES, Alteration
from sentences.domains import parser_of_study, read
from sentences.normalization import nats_per_token
from sentences.prepare import CLASSES

LABELS = (3, 4)  # of the classes in which most is lost
BATCH = 100


def neighbours(sentences: Iterable[list[str]], size: int) -> list[tuple[str, ...]]:
    """Return the runs of so many neighbouring words."""
    return [run for words in sentences for run in zip(*(words[start:] for start in range(size)), strict=False)]


def joiner_at_shared_words(sentences: Sequence[list[str]], rng: random.Random) -> Callable[[list[str]], list[str]]:
    """Return what joins a sentence to the end of another at a word that both have."""
    places: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for row, words in enumerate(sentences):
        for place, word in enumerate(words[:-1]):
            places[word].append((row, place))

    def join(words: list[str]) -> list[str]:
        for _ in range(TRIES):
            end = rng.randrange(max(1, len(words) - 1))
            if words[end] in places:
                row, place = rng.choice(places[words[end]])
                joined = words[: end + 1] + sentences[row][place + 1 :]
                if len(joined) <= len(words) + LONGER:
                    return joined
        return words

    return join


def measure(pipe: EDDPMPipeline, training: list[str], held_out: list[str], count: int, seed: int) -> dict[str, Any]:
    """Return the nats per token and the unseen neighbours of each kind of sentences.

    Args:
        pipe: The checkpoint.
        training: All training sentences of a class.
        held_out: Its held-out sentences.
        count: Sentences of each kind.
        seed: Of the draws.
    """
    rng = random.Random(seed)
    alteration = Alteration(training, rng)
    known = alteration.sentences
    chosen = rng.sample(known, min(count, len(known)))
    at_shared_words = joiner_at_shared_words(known, rng)
    kinds = {
        "trained on": chosen,
        "joined at a word of both": [at_shared_words(words) for words in chosen],
        "joined anywhere": [alteration.join(words) for words in chosen],
        "words exchanged": [alteration.exchange(words) for words in chosen],
        "held out": [sentence.split() for sentence in rng.sample(held_out, min(count, len(held_out)))],
        "words in any order": [rng.sample(words, len(words)) for words in chosen],
    }
    seen = {size: set(neighbours(known, size)) for size in (2, 3)}
    found = {}
    for name, sentences in kinds.items():
        texts = sorted((" ".join(words) for words in sentences), key=len)
        batches = [texts[start : start + BATCH] for start in range(0, len(texts), BATCH)]
        unseen = {}
        for size, runs in seen.items():
            own = neighbours(sentences, size)
            unseen[f"unseen_{size}"] = sum(run not in runs for run in own) / max(1, len(own))
        nats = nats_per_token(pipe, batches)["by running statistics"]
        mean_words = sum(map(len, sentences)) / len(sentences)
        found[name] = {"nats_per_token": nats, **unseen, "words": mean_words}
    return found


def report(found: dict[str, Any]) -> str:
    """Return the table."""
    rows = [
        {
            "class": label,
            "sentences": name,
            "nats per token": f"{values['nats_per_token']:.2f}",
            "unseen pairs": f"{values['unseen_2']:.3f}",
            "unseen triples": f"{values['unseen_3']:.3f}",
            "words": f"{values['words']:.1f}",
        }
        for label, kinds in found.items()
        for name, values in kinds.items()
    ]
    return markdown_table(rows)


def main(words: Sequence[str] | None = None) -> None:
    """Writes the JSON and the table."""
    parser = parser_of_study(__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="JSON file; the table goes beside it")
    parser.add_argument("--count", type=int, default=1000, help="sentences of each kind")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    words = sys.argv[1:] if words is None else list(words)
    arguments = parser.parse_args(words)
    start = time.perf_counter()
    pipe = EDDPMPipeline.from_pretrained(arguments.checkpoint)
    found = {}
    for label in LABELS:
        lines = [read(arguments.data / f"{part}.{label}.txt") for part in ("train", "dev")]
        found[CLASSES[label]] = measure(pipe, *lines, arguments.count, arguments.seed)
    command = describe_command("training/studies/sentences/unseen.py", words)
    table = report(found)
    finish_result({"command": command, "classes": found}, start, arguments.output, table)
    print(table)


if __name__ == "__main__":
    main()
