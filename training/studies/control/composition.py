"""Two attributes of text at once: sentiment and length, each by a guide of its own, and their sum.

    python training/studies/control/composition.py --checkpoint model_cards/eddpm-yelp \\
        --sentiment runs/sentiment --length runs/length --thresholds 6 10 --train train.0.txt.gz=0 train.1.txt.gz=1 \\
        --dev dev.0.txt.gz=0 dev.1.txt.gz=1 --output composition.json

The guides are train_guide.py's: of the labels 0 and 1, and of `--thresholds` in words. Every combination of a
sentiment and a length is asked for, with neither guide, either, and both at each scale; and with both by the ODE of
`pipe.steer`, on samples drawn without guidance. The sentiment is judged by a bag-of-words classifier that shares
nothing with the model, the length counted. Perplexity depends on the length: beside the samples' stands that of
held-out sentences of the same combinations.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import product
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import HfArgumentParser

from hf_eddpm import ClassifierGuidance, EDDPMPipeline, LatentGuide
from hf_eddpm.hub.card import markdown_table
from hf_eddpm.metrics.distinct_novelty import uniqueness
from hf_eddpm.modalities.text.data import TextData, load_text
from hf_eddpm.modalities.text.metrics import TrigramModel, fit_text_classifier
from hf_eddpm.training.environment import describe_command
from hf_eddpm.training.evaluation import finish_result
from hf_eddpm.training.train_guide import count_words


@dataclass
class CompositionArguments:
    """What is steered, and how strongly."""

    checkpoint: str = field(metadata={"help": "Folder or Hub id of the pipeline."})
    sentiment: str = field(metadata={"help": "Guide of the labels 0 and 1 that train_guide.py made of it."})
    length: str = field(metadata={"help": "Guide of the lengths, likewise."})
    thresholds: list[float] = field(metadata={"help": "Its thresholds, in words."})
    train: list[str] = field(metadata={"help": "Labelled training sentences, for the judges."})
    dev: list[str] = field(metadata={"help": "Labelled held-out sentences, to compare with."})
    scales: list[float] = field(default_factory=lambda: [3.0, 10.0], metadata={"help": "Guidance scales."})
    class_scale: float = field(
        default=2.0, metadata={"help": "Weight of the class, where the checkpoint knows the two sentiments."}
    )
    ode_scale: float = field(default=1.0, metadata={"help": "Scale of the terms in the ODE."})
    ode_steps: int = field(default=20, metadata={"help": "Steps of the ODE; 0 leaves it out."})
    num: int = field(default=100, metadata={"help": "Samples of each combination."})
    seed: int = field(default=0, metadata={"help": "Seed of the noise."})
    output: str | None = field(default=None, metadata={"help": "JSON file to write."})
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads of torch."})

    def __post_init__(self) -> None:
        if self.num < 1:
            raise ValueError(f"`num` must be at least 1, got {self.num}.")
        if not self.thresholds or sorted(set(self.thresholds)) != self.thresholds:
            raise ValueError(f"`thresholds` must be ascending numbers, at least one, got {self.thresholds}.")


def length_class(sentences: list[str], thresholds: list[float]) -> NDArray[np.int64]:
    """How many of the thresholds each sentence exceeds in words."""
    return np.searchsorted(thresholds, count_words(sentences))


def evaluate(
    pipe: EDDPMPipeline,
    sentiment: LatentGuide,
    length: LatentGuide,
    train: TextData,
    dev: TextData,
    args: CompositionArguments,
) -> dict[str, Any]:
    """Measures samples of every combination, by what guides them."""
    if train.classes != [0, 1] or dev.classes != [0, 1]:
        raise ValueError(f"Sentences of the classes 0 and 1 are needed, got {train.classes} and {dev.classes}.")
    if length.config.num_classes != len(args.thresholds) + 1:
        raise ValueError(
            f"`thresholds` must be those of the length guide's {length.config.num_classes} classes, "
            f"got {args.thresholds}."
        )
    classifier, fluency = fit_text_classifier(train.sentences, train.labels or []), TrigramModel.fit(train.sentences)
    combinations = list(product(range(2), range(len(args.thresholds) + 1)))

    def judge(samples: list[str], target: tuple[int, int]) -> dict[str, float]:
        right = [classifier.predict(samples) == target[0], length_class(samples, args.thresholds) == target[1]]
        return {
            "sentiment": float(right[0].mean()),
            "length": float(right[1].mean()),
            "both": float((right[0] & right[1]).mean()),
            "perplexity": fluency.perplexity(samples),
            "unique": uniqueness(samples),
        }

    def terms(target: tuple[int, int], scales: tuple[float, float]) -> list[ClassifierGuidance]:
        guides = (sentiment, length)
        return [ClassifierGuidance(*each) for each in zip(guides, target, scales, strict=True) if each[2]]

    def generator() -> torch.Generator:
        return torch.Generator(device=pipe.device).manual_seed(args.seed)

    def chain(scales: tuple[float, float]) -> Callable[[tuple[int, int]], list[str]]:
        return lambda target: pipe(args.num, guidance=terms(target, scales) or None, generator=generator()).samples

    def told(scale: float) -> Callable[[tuple[int, int]], list[str]]:
        return lambda target: (
            pipe(
                args.num,
                class_labels=target[0],
                guidance_scale=args.class_scale,
                guidance=terms(target, (0, scale)),
                generator=generator(),
            ).samples
        )

    def ode(target: tuple[int, int]) -> list[str]:
        start = pipe(args.num, generator=generator(), output_type="latent").latents
        return pipe.steer(start, terms(target, (args.ode_scale, args.ode_scale)), num_steps=args.ode_steps)

    ways: dict[str, Callable[[tuple[int, int]], list[str]]] = {"none": chain((0, 0))}
    for scale in args.scales:
        ways |= {
            f"sentiment, scale {scale:g}": chain((scale, 0)),
            f"length, scale {scale:g}": chain((0, scale)),
            f"both, scale {scale:g}": chain((scale, scale)),
        }
        if pipe.model.config.num_classes == 2:
            ways[f"sentiment as the class, length, scale {scale:g}"] = told(scale)
    if args.ode_steps:
        ways[f"both by the ODE, scale {args.ode_scale:g}"] = ode
    rows, examples = {}, {}
    for name, make in ways.items():
        made = {target: make(target) for target in combinations}
        rows[name] = _mean([judge(samples, target) for target, samples in made.items()])
        examples[name] = {f"{target[0]}, {target[1]}": samples[:3] for target, samples in made.items()}
    lengths, labels = length_class(dev.sentences, args.thresholds), np.array(dev.labels)
    real = [
        [dev.sentences[row] for row in np.flatnonzero((labels == target[0]) & (lengths == target[1]))]
        for target in combinations
    ]
    perplexities = [fluency.perplexity(sentences[: args.num]) for sentences in real if sentences]
    return {
        "classifier_accuracy": float(classifier.score(dev.sentences, dev.labels)),
        "real_perplexity": float(np.mean(perplexities)),
        "combinations": [list(target) for target in combinations],
        "rows": rows,
        "examples": examples,
    }


def _mean(values: list[dict[str, float]]) -> dict[str, float]:
    return {name: float(np.mean([each[name] for each in values])) for name in values[0]}


def markdown_report(result: dict[str, Any]) -> str:
    """The rows as a table."""
    rows = [
        {"guides": name, **{key: f"{value:.3g}" for key, value in row.items()}} for name, row in result["rows"].items()
    ]
    return markdown_table([*rows, {"guides": "real sentences", "perplexity": f"{result['real_perplexity']:.3g}"}])


def main(words: list[str] | None = None) -> dict[str, Any]:
    """Runs the evaluation of the command line."""
    parser = HfArgumentParser(CompositionArguments, description=__doc__.splitlines()[0])
    (args,) = parser.parse_args_into_dataclasses(args=words)
    if args.num_threads is not None:
        torch.set_num_threads(args.num_threads)
    start = time.perf_counter()
    pipe = EDDPMPipeline.from_pretrained(args.checkpoint)
    pipe.set_progress_bar_config(disable=True)
    guides = [LatentGuide.from_pretrained(folder) for folder in (args.sentiment, args.length)]
    command = describe_command("training/studies/control/composition.py", sys.argv[1:] if words is None else words)
    result = {"command": command, **evaluate(pipe, *guides, load_text(args.train), load_text(args.dev), args)}
    result = finish_result(result, start, args.output)
    print(markdown_report(result))
    return result


if __name__ == "__main__":
    main()
