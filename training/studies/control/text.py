"""How well a guide steers a text checkpoint: samples of a class, and edits to the other one, judged independently.

    python training/studies/control/text.py --checkpoint model_cards/eddpm-yelp --guide runs/sentiment \\
        --train train.0.txt.gz=0 train.1.txt.gz=1 --dev dev.0.txt.gz=0 dev.1.txt.gz=1 --output control.json

The judges, fitted here on `--train`, share nothing with the model: a bag-of-words classifier and a trigram model.
Edits noise held-out sentences part of the way and denoise them under guidance, or as the other class where the
checkpoint knows classes; move latents along the difference of the classes' means; or go as far as each sentence needs
(`edit_to`), until a regression on the latents has this probability, with and without giving words back that it does
not need, and as the best of some candidates. Encodings take `--refinement_steps`. All numbers are means over both
directions of two classes. Without `--guide` nothing is guided or sampled.
"""

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import HfArgumentParser

from hf_eddpm import ClassifierGuidance, EDDPMPipeline, LatentGuide
from hf_eddpm.hub.card import markdown_table
from hf_eddpm.metrics.distinct_novelty import uniqueness
from hf_eddpm.metrics.reconstruction_bleu import corpus_bleu
from hf_eddpm.modalities.text.data import TextData, load_text
from hf_eddpm.modalities.text.metrics import TrigramModel, fit_text_classifier
from hf_eddpm.training.environment import describe_command
from hf_eddpm.training.evaluation import finish_result

NUM_FITTED = 10_000  # training sentences that directions and attributes are fitted to


@dataclass
class ControlArguments:
    """What is steered, and how strongly."""

    checkpoint: str = field(metadata={"help": "Folder or Hub id of the pipeline."})
    train: list[str] = field(metadata={"help": "Labelled training sentences, for the judges."})
    dev: list[str] = field(metadata={"help": "Labelled held-out sentences, to edit."})
    guide: str | None = field(
        default=None, metadata={"help": "Folder or Hub id of a guide of two classes that train_guide.py made of it."}
    )
    scales: list[float] = field(default_factory=lambda: [0.0, 2.0, 5.0, 10.0], metadata={"help": "Guidance scales."})
    strengths: list[float] = field(default_factory=lambda: [0.1, 0.2, 0.4], metadata={"help": "Strengths of edits."})
    edit_scale: float = field(default=10.0, metadata={"help": "Guidance scale of edits."})
    direction_scales: list[float] = field(
        default_factory=lambda: [1.0, 2.0], metadata={"help": "Multiples of the direction in latent arithmetic."}
    )
    probabilities: list[float] = field(
        default_factory=lambda: [0.6, 0.75], metadata={"help": "Of the class, for edits that go as far as needed."}
    )
    num_candidates: list[int] = field(
        default_factory=lambda: [1, 4], metadata={"help": "Candidates of edits with words given back."}
    )
    class_scale: float = field(default=2.0, metadata={"help": "Weight of the class in edits by class."})
    refinement_steps: int = field(default=0, metadata={"help": "Refinement steps of what is edited."})
    num: int = field(default=200, metadata={"help": "Samples, and sentences edited, for each class."})
    num_inference_steps: int = field(default=50, metadata={"help": "Steps of the chain."})
    seed: int = field(default=0, metadata={"help": "Seed of the subsets and of the noise."})
    output: str | None = field(default=None, metadata={"help": "JSON file to write."})
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads of torch."})

    def __post_init__(self) -> None:
        if self.num < 1:
            raise ValueError(f"`num` must be at least 1, got {self.num}.")


Edit = Callable[[list[str], int], list[str]]


def edit_methods(
    pipe: EDDPMPipeline,
    guide: LatentGuide | None,
    train: TextData,
    args: ControlArguments,
    generator: Callable[[], torch.Generator],
) -> dict[str, Edit]:
    """The ways to edit sentences to a class, by name."""
    refined = {"refinement_steps": args.refinement_steps}
    some = train.sample(NUM_FITTED, args.seed)
    direction = pipe.direction(some.of_class(1), some.of_class(0))
    attribute = pipe.attribute(some.of_class(1), some.of_class(0))
    methods: dict[str, Edit] = {"reconstruction": lambda texts, target: pipe.reconstruct(texts, **refined)}
    for scale in args.direction_scales:
        methods[f"direction, scale {scale:g}"] = lambda texts, target, scale=scale: pipe.edit(
            texts, direction, scale if target else -scale, **refined
        )
    for strength in args.strengths:
        chain = {"strength": strength, "num_inference_steps": args.num_inference_steps, **refined}
        if guide is not None:
            methods[f"guided, strength {strength:g}"] = lambda texts, target, chain=chain: pipe.edit(
                texts, guidance=ClassifierGuidance(guide, target, args.edit_scale), generator=generator(), **chain
            )
        if pipe.model.config.num_classes == 2:
            methods[f"class, strength {strength:g}"] = lambda texts, target, chain=chain: pipe.edit(
                texts, class_labels=target, guidance_scale=args.class_scale, generator=generator(), **chain
            )
    for probability in args.probabilities:
        ways: dict[str, dict[str, Any]] = {"": {}}
        for count in args.num_candidates:
            ways[", words given back" + f", best of {count}" * (count > 1)] = {
                "give_back": True,
                "num_candidates": count,
            }
        for way, options in ways.items():
            options |= {"probability": probability, **refined}
            methods[f"as far as needed, {probability:g}{way}"] = lambda texts, target, options=options: (
                pipe.edit_to(texts, attribute if target else attribute.opposite(), **options).samples
            )
    return methods


def evaluate(
    pipe: EDDPMPipeline, guide: LatentGuide | None, train: TextData, dev: TextData, args: ControlArguments
) -> dict[str, Any]:
    """Measures samples by scale and edits by method."""
    if train.classes != [0, 1] or dev.classes != [0, 1]:
        raise ValueError(f"Sentences of the classes 0 and 1 are needed, got {train.classes} and {dev.classes}.")
    classifier, fluency = fit_text_classifier(train.sentences, train.labels or []), TrigramModel.fit(train.sentences)

    def judge(samples: list[str], target: int) -> dict[str, float]:
        return {
            "in class": float(np.mean(classifier.predict(samples) == target)),
            "perplexity": fluency.perplexity(samples),
            "unique": uniqueness(samples),
        }

    def generator() -> torch.Generator:
        return torch.Generator(device=pipe.device).manual_seed(args.seed)

    def mean(values: list[dict[str, float]]) -> dict[str, float]:
        return {name: float(np.mean([each[name] for each in values])) for name in values[0]}

    samples = {}
    for scale in args.scales if guide is not None else []:
        rows = []
        for target in (0, 1):
            term = ClassifierGuidance(guide, target, scale)
            rows.append(
                judge(pipe(args.num, args.num_inference_steps, guidance=term, generator=generator()).samples, target)
            )
        samples[f"{scale:g}"] = mean(rows)

    edits = {}
    for name, method in edit_methods(pipe, guide, train, args, generator).items():
        rows = []
        for start, target in ((0, 1), (1, 0)):
            originals = TextData(dev.of_class(start)).sample(args.num, args.seed).sentences
            edited = method(originals, target)
            kept = {
                "content BLEU": corpus_bleu(edited, originals),
                "similarity": float(pipe.similarity(originals, [text or "." for text in edited]).mean()),
            }
            rows.append({**judge(edited, target), **kept})
        edits[name] = mean(rows)
    return {
        "classifier_accuracy": float(classifier.score(dev.sentences, dev.labels)),
        "real_perplexity": fluency.perplexity(dev.sample(2 * args.num, args.seed).sentences),
        "samples": samples,
        "edits": edits,
    }


def markdown_report(result: dict[str, Any]) -> str:
    """The two tables."""

    def table(title: str, rows: dict[str, dict[str, float]]) -> str:
        return markdown_table(
            [{title: name, **{key: f"{value:.3g}" for key, value in row.items()}} for name, row in rows.items()]
        )

    samples = [table("guidance scale", result["samples"])] if result["samples"] else []
    return "\n\n".join([*samples, table("edit", result["edits"])])


def main(words: list[str] | None = None) -> dict[str, Any]:
    """Runs the evaluation of the command line."""
    parser = HfArgumentParser(ControlArguments, description=__doc__.splitlines()[0])
    (args,) = parser.parse_args_into_dataclasses(args=words)
    if args.num_threads is not None:
        torch.set_num_threads(args.num_threads)
    start = time.perf_counter()
    pipe = EDDPMPipeline.from_pretrained(args.checkpoint)
    pipe.set_progress_bar_config(disable=True)
    guide = None if args.guide is None else LatentGuide.from_pretrained(args.guide)
    result = {
        "command": describe_command("training/studies/control/text.py", sys.argv[1:] if words is None else words)
    }
    result |= evaluate(pipe, guide, load_text(args.train), load_text(args.dev), args)
    result = finish_result(result, start, args.output)
    print(markdown_report(result))
    return result


if __name__ == "__main__":
    main()
