"""What makes samples more fluent: guidance, less noise at the start, and choosing or encoding samples again.

    python training/studies/sentences/sampling.py --checkpoint model_cards/eddpm-sentences --data data/sentences \\
        --output training/studies/sentences/results/sampling.json

`--data` is what `prepare.py` wrote. Three of the classes are sampled with one seed. "Kept half" are the samples whose
latents come back most exactly when they are encoded again, of as many without guidance; "encoded again" is what the
model makes of all of them.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from hf_eddpm import EDDPMPipeline
from hf_eddpm.hub.card import markdown_table
from hf_eddpm.modalities.text.metrics import TrigramModel
from hf_eddpm.training.environment import describe_command
from hf_eddpm.training.evaluation import finish_result

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the studies, which share code

from sentences.domains import chosen, describe, parser_of_study, read
from sentences.prepare import CLASSES

LABELS = (0, 3, 4)
SETTINGS = ((1.0, 0.9), (1.5, 0.9), (2.0, 0.9), (1.0, 0.8), (2.0, 0.8))  # guidance scale, noise scale
STEPS = 50


def sample(pipe: EDDPMPipeline, label: int, count: int, guidance: float, noise: float) -> torch.Tensor:
    """Latents of a class, `(count, num_latents, latent_dim)`."""
    options: dict[str, Any] = {"guidance_scale": guidance, "noise_scale": noise, "num_inference_steps": STEPS}
    generator = torch.Generator().manual_seed(0)
    return pipe(count, class_labels=label, generator=generator, output_type="latent", **options).latents


def measure(pipe: EDDPMPipeline, label: int, folder: Path, count: int) -> dict[str, dict[str, float]]:
    """What samples of a class are worth, by the way they were drawn."""
    judge, real = TrigramModel.fit(read(folder / f"train.{label}.txt")), chosen(folder, [label], count)
    held_out = describe(real, judge, real)
    del held_out["reverse_perplexity"]  # it would be tried on itself
    found = {"held out": held_out}
    for guidance, noise in SETTINGS:
        texts = pipe.decode(sample(pipe, label, count, guidance, noise))
        found[f"guidance {guidance:g}, noise {noise:g}"] = describe(texts, judge, real)
    latents = sample(pipe, label, 2 * count, 1.0, 1.0)
    texts = pipe.decode(latents)
    again = pipe.encode(texts).latents
    order = (again - latents).square().flatten(1).mean(1).argsort().tolist()
    found["as they come"] = describe(texts, judge, real)
    found["kept half"] = describe([texts[place] for place in order[:count]], judge, real)
    found["encoded again"] = describe(pipe.decode(again), judge, real)
    return found


def report(found: dict[str, dict[str, dict[str, float]]]) -> str:
    """Perplexity, reverse perplexity and distinct bigrams by way and class."""
    ways = next(iter(found.values()))
    digits = {"perplexity": 0, "reverse_perplexity": 0, "distinct_2": 2}

    def cell(values: dict[str, float]) -> str:
        return ", ".join(f"{values[name]:.{places}f}" if name in values else "-" for name, places in digits.items())

    return markdown_table([{"way": way} | {kind: cell(found[kind][way]) for kind in found} for way in ways])


def main(words: Sequence[str] | None = None) -> None:
    """Writes the JSON and the table."""
    parser = parser_of_study(__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="JSON file; the table goes beside it")
    parser.add_argument("--count", type=int, default=200, help="samples of a class")
    words = sys.argv[1:] if words is None else list(words)
    arguments, start = parser.parse_args(words), time.perf_counter()
    pipe = EDDPMPipeline.from_pretrained(arguments.checkpoint)
    pipe.set_progress_bar_config(disable=True)
    found = {CLASSES[label]: measure(pipe, label, arguments.data, arguments.count) for label in LABELS}
    command = describe_command("training/studies/sentences/sampling.py", words)
    table = report(found)
    finish_result({"command": command, "classes": found}, start, arguments.output, table)
    print(table)


if __name__ == "__main__":
    main()
