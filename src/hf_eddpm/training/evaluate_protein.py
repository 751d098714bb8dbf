"""Measures a protein checkpoint on held-out sequences: one JSON file, and Markdown tables.

    python training/evaluate.py protein --checkpoint runs/gifford/pipeline --output gifford.json \\
        --train gifford/train.csv.gz --dev gifford/validation.csv.gz --padding_symbol J

With `--update_card` the result is also stored in the checkpoint's folder, and its model card written anew.

`--train` are the sequences the model was trained on and `--dev` those it was selected on. The test split stays out of
this script. What is measured, by functions of `modalities/protein/metrics.py` unless said otherwise:

- **reconstruction** of decoded posterior means: accuracy by site and by residue, exact matches, valid sequences.
- **fitness**: errors and correlations of `pipe.predict` on held-out sequences, beside ridge regression and a small
  convolutional network on one-hot sequences, trained here on `--train`; and how **smooth** the measured fitness is
  over the latents' neighbour graph, beside the same for shuffled fitness.
- **samples**, for each number of denoising steps, as mean and standard deviation over seeds: validity, uniqueness,
  novelty, edit distance between two, and the distance from the held-out sequences in k-mers, sites and a projection of
  one-hot sequences. Beside them ("reference") as many training sequences in the place of the samples.
- **optimisation** of training sequences by every method, judged by an oracle that is never the model's own predictor:
  an ensemble trained on `--dev` (hf_eddpm.modalities.protein.oracle) or, with `--ehrlich`, the function that made the
  data. Beside them the starts, generated sequences, and a genetic algorithm that asks the judge itself: with twice as
  many oracle calls as there are starts, which is what scoring the starts and one proposal for each costs, and with
  more.
"""

import json
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

from transformers import HfArgumentParser

from ..hub.card import EVALUATION_FILE
from ..modalities.protein.data import ProteinData, load_proteins
from ..modalities.protein.ehrlich import EhrlichFunction
from ..pipeline_eddpm import EDDPMPipeline
from .environment import describe_command, describe_environment
from .evaluation import (
    read_evaluation,
    with_earlier,
)
from .protein_card import write_protein_card
from .protein_measures import evaluate
from .protein_settings import EvaluationSettings
from .protein_tables import markdown_tables

JUDGES = ("numpy", "scipy", "scikit-learn", "rapidfuzz")  # libraries that the metrics are computed with


@dataclass
class EvaluationArguments:
    """What to evaluate, and where to write the result."""

    checkpoint: str = field(metadata={"help": "Folder or Hub id of the pipeline."})
    train: list[str] = field(metadata={"help": "Sequences the model was trained on: files or a Hub id."})
    dev: list[str] = field(metadata={"help": "Held-out sequences, in the same forms."})
    train_split: str | None = field(default=None, metadata={"help": "Split of a Hub data set for --train."})
    dev_split: str | None = field(default=None, metadata={"help": "Split of a Hub data set for --dev."})
    sequence_column: str = field(default="sequence", metadata={"help": "Column that holds the sequence."})
    property_columns: list[str] = field(
        default_factory=lambda: ["fitness"], metadata={"help": "Columns of the properties, as in training."}
    )
    padding_symbol: str | None = field(default=None, metadata={"help": "Letter that the files pad sequences with."})
    upper_case: bool = field(default=False, metadata={"help": "Turn lower-case letters into upper case."})
    ehrlich: str | None = field(
        default=None, metadata={"help": "function.json of ehrlich.py, whose values the first property holds."}
    )
    recipe: str | None = field(default=None, metadata={"help": "Name of the training recipe."})
    device: str = field(default="cpu", metadata={"help": "Torch device, for example cuda."})
    output: str | None = field(default=None, metadata={"help": "JSON file to write."})
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


def main(args: list[str] | None = None) -> None:
    """Evaluates the checkpoint named on the command line."""
    parser = HfArgumentParser((EvaluationArguments, EvaluationSettings), description=__doc__.splitlines()[0])
    arguments, settings = parser.parse_args_into_dataclasses(args)
    start = time.perf_counter()

    def load(source: list[str], split: str | None) -> ProteinData:
        return load_proteins(
            source if len(source) > 1 else source[0],
            split,
            arguments.sequence_column,
            arguments.property_columns,
            arguments.padding_symbol,
            arguments.upper_case,
        )

    train, dev = load(arguments.train, arguments.train_split), load(arguments.dev, arguments.dev_split)
    ehrlich = None if arguments.ehrlich is None else EhrlichFunction.load(arguments.ehrlich)
    earlier = None
    if arguments.keep is not None:
        earlier = read_evaluation(arguments.keep, settings, "keep", ("num_inference_steps",))
    pipe = EDDPMPipeline.from_pretrained(arguments.checkpoint).to(arguments.device)
    words = sys.argv[1:] if args is None else args
    result = {"command": describe_command("training/evaluate.py", ["protein", *words]), "recipe": arguments.recipe}
    result |= evaluate(pipe, train, dev, settings, ehrlich, earlier)
    result |= describe_environment(pipe.device, JUDGES) | {"wall_time_seconds": round(time.perf_counter() - start, 1)}
    result = with_earlier(result, earlier)
    outputs = [] if arguments.output is None else [Path(arguments.output)]
    if arguments.update_card:
        outputs.append(Path(arguments.checkpoint) / EVALUATION_FILE)
    for output in outputs:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(result, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    if arguments.update_card:
        write_protein_card(pipe, arguments.checkpoint)
    print(markdown_tables(result))
