"""Measures a text checkpoint on held-out sentences: one JSON file, and Markdown tables for the model card.

    python training/evaluate.py text --checkpoint runs/my-model --output my-model.json \\
        --train train.0.txt.gz=0 train.1.txt.gz=1 --dev dev.0.txt.gz=0 dev.1.txt.gz=1

With `--update_card` the result is also stored in the checkpoint's folder, and its model card written anew.

`--train` are the sentences the model was trained on and `--dev` those it was selected on. The test split stays out of
this script. What is measured, all by functions of `modalities/text/metrics.py`:

- **reconstruction**: BLEU and exact match of decoded posterior means.
- **samples**, for each number of denoising steps, as mean and standard deviation over seeds: perplexity under a
  trigram model, uniqueness, novelty, distinct-n, and the distance from held-out sentences in length, n-grams and
  latents. The trigram model is fitted here, on `--train`: other text than the real sentences (`--dev`) whose
  perplexity stands beside the samples' perplexity. A model that repeats its training sentences would beat real text by
  this measure (`reference.train` says by how much), so read it with the novelty; bland text does well by it too, so
  read it with the reverse perplexity (held-out sentences under a trigram model of the samples) and distinct-n. The
  latents' distance is from samples of the posterior, which is what the chain models, not from its means.
- **interpolation** in both spaces: how even the paths are, and how fluent the sentences between the ends.
- with labels: a linear **probe** of the embeddings and, for two classes, **edits** along the direction between them,
  judged by a bag-of-words classifier that is fitted here on raw training text.
"""

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers import HfArgumentParser

from ..hub.card import EVALUATION_FILE
from ..modalities.text.data import load_text
from ..pipeline_eddpm import EDDPMPipeline
from .environment import describe_command, describe_environment
from .evaluation import (
    read_evaluation,
    with_earlier,
)
from .text_card import markdown_tables, write_text_card
from .text_measures import EvaluationSettings, evaluate

SAMPLING = ("num_inference_steps", "noise_scales", "noise_scale_steps")
JUDGES = ("numpy", "scikit-learn", "sacrebleu", "rapidfuzz")  # libraries that the metrics are computed with


@dataclass
class EvaluationArguments:
    """What to evaluate, and where to write the result."""

    checkpoint: str = field(metadata={"help": "Folder or Hub id of the pipeline."})
    train: list[str] = field(metadata={"help": "Sentences the model was trained on: files, `file=label` or a Hub id."})
    dev: list[str] = field(metadata={"help": "Held-out sentences, in the same forms."})
    train_split: str | None = field(default=None, metadata={"help": "Split of a Hub data set for --train."})
    dev_split: str | None = field(default=None, metadata={"help": "Split of a Hub data set for --dev."})
    text_column: str = field(default="text", metadata={"help": "Column that holds the sentence."})
    label_column: str | None = field(default=None, metadata={"help": "Column that holds an integer label."})
    recipe: str | None = field(
        default=None, metadata={"help": "Name of the training recipe, kept for the plot of fronts."}
    )
    device: str = field(default="cpu", metadata={"help": "Torch device, for example cuda."})
    output: str | None = field(default=None, metadata={"help": "JSON file to write."})
    beside: str | None = field(
        default=None, metadata={"help": "JSON file of another checkpoint's evaluation, to stand beside this one's."}
    )
    keep: str | None = field(
        default=None,
        metadata={"help": "JSON file of an earlier evaluation of these weights; only the samples are measured anew."},
    )
    update_card: bool = field(
        default=False, metadata={"help": "Store the result in the checkpoint's folder and rewrite its model card."}
    )

    def __post_init__(self) -> None:
        if self.update_card and not Path(self.checkpoint).is_dir():
            raise ValueError(f"`update_card` needs a local folder as `checkpoint`, got {self.checkpoint!r}.")


def read_comparison(path: str, settings: EvaluationSettings) -> dict[str, Any]:
    """Reads what is compared of another checkpoint's evaluation.

    Args:
        path: The JSON file.
        settings: The settings of the evaluation that it will stand beside.

    Raises:
        ValueError: If it was made with other settings.
    """
    other = read_evaluation(path, settings, "beside")
    kept = ("command", "num_parameters", "reconstruction", "refined_reconstruction", "samples", "edits")
    return {name: other[name] for name in kept if name in other}


def main(args: list[str] | None = None) -> None:
    """Evaluates the checkpoint named on the command line."""
    words = sys.argv[1:] if args is None else args
    parser = HfArgumentParser((EvaluationArguments, EvaluationSettings), description=__doc__.splitlines()[0])
    arguments, settings = parser.parse_args_into_dataclasses(words)
    start = time.perf_counter()
    columns = {"text_column": arguments.text_column, "label_column": arguments.label_column}
    train = load_text(arguments.train, arguments.train_split, **columns)
    dev = load_text(arguments.dev, arguments.dev_split, **columns)
    beside = None if arguments.beside is None else read_comparison(arguments.beside, settings)
    earlier = None if arguments.keep is None else read_evaluation(arguments.keep, settings, "keep", SAMPLING)
    pipe = EDDPMPipeline.from_pretrained(arguments.checkpoint).to(arguments.device)
    result = {"command": describe_command("training/evaluate.py", ["text", *words]), "recipe": arguments.recipe}
    result |= evaluate(pipe, train, dev, settings, earlier)
    result |= describe_environment(pipe.device, JUDGES) | {"wall_time_seconds": round(time.perf_counter() - start, 1)}
    result = with_earlier(result, earlier)
    if beside is not None:
        result["beside"] = beside
    outputs = [] if arguments.output is None else [Path(arguments.output)]
    if arguments.update_card:
        outputs.append(Path(arguments.checkpoint) / EVALUATION_FILE)
    for output in outputs:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if arguments.update_card:
        write_text_card(pipe, arguments.checkpoint)
    print(markdown_tables(result))
