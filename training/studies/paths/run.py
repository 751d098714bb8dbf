"""What lies in the middle between two data, by the way through: data like the others, or not?

    python training/studies/paths/run.py --checkpoint model_cards/eddpm-fashion --train train-images-idx3-ubyte.gz \\
        --dev_last 6000 --label_column label --output training/studies/paths/results/fashion.json

Paths of five points between pairs of held-out data: along the arc between their latents, as it is and with what lies
between denoised from several levels (`noise_level`), straight between the latents, and through the noise that the two
come from. Of what is decoded in the middle, by the checkpoint's modality:

- images: the squared Frechet distance from held-out images, in the features of a classifier trained on the labels;
- proteins: the edits to the nearest of the training proteins, and the bound on the likelihood by the checkpoint
  itself;
- text: the perplexity under a trigram model of the training sentences over that of the ends of the paths, and the
  share of the words that one of the ends has.

Beside it the same of the ends, which are reconstructions, and how often neighbours on a path are equal. Means over
sets of pairs, with the standard deviation.
"""

import argparse
import random
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein
from rapidfuzz.process import cdist

from hf_eddpm import EDDPMPipeline
from hf_eddpm.hub.card import markdown_table
from hf_eddpm.modalities.image.data import ImageData, hold_out, load_images
from hf_eddpm.modalities.protein.data import load_proteins
from hf_eddpm.modalities.text.data import load_text
from hf_eddpm.modalities.text.metrics import TrigramModel
from hf_eddpm.training.environment import describe_command
from hf_eddpm.training.evaluation import finish_result, plus_minus, spread
from hf_eddpm.training.image_judge import Judge

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the studies, which share code

from sentences.uses import repeated, share_of_words

POINTS = 5
WAYS: dict[str, dict[str, Any]] = {
    "noise": {"space": "noise"},
    "straight": {"space": "latents", "mode": "lerp", "noise_level": 0.0},
    "arc": {"space": "latents", "noise_level": 0.0},
    **{
        f"arc, denoised from {level:g}": {"space": "latents", "noise_level": level}
        for level in (0.3, 0.5, 0.7, 0.9, 1.2)
    },
}
SEEDS = (0, 1)
NUM_TIMESTEPS = 16  # of the bound

Measure = Callable[[list[list[Any]]], dict[str, float]]


def of_images(pipe: EDDPMPipeline, arguments: argparse.Namespace) -> tuple[list[Any], Measure]:
    """Return the held-out images, and what measures paths."""
    train: ImageData = load_images(arguments.train, num_channels=pipe.processor.num_channels)
    if arguments.dev:
        dev = load_images(arguments.dev, num_channels=pipe.processor.num_channels)
    else:
        rest, held = hold_out(len(train), arguments.dev_last, 0.1, 0)
        train, dev = train.take(rest), train.take(held)
    judge = Judge(train, dev, arguments.label_column, seed=0)

    def frechet(images: list[Any]) -> float:
        stack = np.stack([np.asarray(image) for image in images])
        return judge.frechet(stack if stack.ndim == 4 else stack[..., None])

    def measure(paths: list[list[Any]]) -> dict[str, float]:
        ends = [path[0] for path in paths] + [path[-1] for path in paths]
        return {
            "Frechet distance of the middle": frechet([path[POINTS // 2] for path in paths]),
            "of a quarter": frechet([path[POINTS // 4] for path in paths]),
            "of the ends": frechet(ends),
        }

    return list(dev.images), measure


def of_proteins(pipe: EDDPMPipeline, arguments: argparse.Namespace) -> tuple[list[Any], Measure]:
    """Return the held-out proteins, and what measures paths."""
    options = {"padding_symbol": arguments.padding_symbol, "property_columns": ()}
    train, dev = (load_proteins(source, **options).sequences for source in (arguments.train, arguments.dev))

    def nearest(proteins: list[str]) -> float:
        return float(cdist(proteins, train, scorer=Levenshtein.distance, workers=1).min(1).mean())

    def bits(proteins: list[str]) -> float:
        generator = torch.Generator().manual_seed(0)
        return float(pipe.score(proteins, num_timesteps=NUM_TIMESTEPS, generator=generator).bits_per_unit.mean())

    def measure(paths: list[list[str]]) -> dict[str, float]:
        middle, ends = [path[POINTS // 2] for path in paths], [path[0] for path in paths]
        return {
            "edits from training data": nearest(middle),
            "of the ends": nearest(ends),
            "bits a residue": bits(middle),
            "the ends' bits": bits(ends),
        }

    return list(dev), measure


def of_text(_: EDDPMPipeline, arguments: argparse.Namespace) -> tuple[list[Any], Measure]:
    """Return the held-out sentences, and what measures paths."""
    train, dev = (load_text(source).sentences for source in (arguments.train, arguments.dev))
    judge = TrigramModel.fit(train)

    def measure(paths: list[list[str]]) -> dict[str, float]:
        ends = [text for path in paths for text in (path[0], path[-1])]
        return {
            "perplexity, over the ends'": judge.perplexity([path[POINTS // 2] for path in paths])
            / judge.perplexity(ends),
            "words of the ends": sum(map(share_of_words, paths)) / len(paths),
        }

    return list(dev), measure


MODALITIES = {"image": of_images, "protein": of_proteins, "text": of_text}


def main(words: Sequence[str] | None = None) -> None:
    """Writes the JSON and the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--checkpoint", required=True, help="folder or Hub id of the pipeline")
    parser.add_argument("--train", nargs="+", required=True, help="its training data")
    parser.add_argument("--dev", nargs="+", help="held-out data; of images, the last of the training data will do")
    parser.add_argument("--dev_last", type=int, default=0, help="held-out images where there is no `dev`")
    parser.add_argument("--label_column", help="attribute of the images that the judge learns")
    parser.add_argument("--padding_symbol", help="letter that the file pads proteins with")
    parser.add_argument("--count", type=int, default=200, help="pairs of each set")
    parser.add_argument("--output", required=True, help="JSON file; the table goes beside it")
    words = sys.argv[1:] if words is None else list(words)
    arguments, start = parser.parse_args(words), time.perf_counter()
    pipe = EDDPMPipeline.from_pretrained(arguments.checkpoint)
    pipe.set_progress_bar_config(disable=True)
    pipe.model.float()
    data, measure = MODALITIES[pipe.model.config.modality](pipe, arguments)
    count = min(arguments.count, len(data) // 2)
    found: dict[str, list[dict[str, float]]] = {name: [] for name in WAYS}
    for seed in SEEDS:
        chosen = random.Random(seed).sample(data, 2 * count)
        for name, way in WAYS.items():
            paths = pipe.interpolate(chosen[:count], chosen[count:], POINTS, **way)
            found[name].append({**measure(paths), "equal neighbours": repeated(paths)})
    rows = [
        {"way": name} | {title: plus_minus(spread([one[title] for one in sets]), ".2f") for title in sets[0]}
        for name, sets in found.items()
    ]
    table = markdown_table(rows)
    result = {"command": describe_command("training/studies/paths/run.py", words), "pairs": count, "ways": found}
    finish_result(result, start, arguments.output, table)
    print(table)


if __name__ == "__main__":
    main()
