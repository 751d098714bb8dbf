"""How well a checkpoint's bound tells data of its own kind from foreign ones: areas under the ROC curve.

    python training/studies/ood/run.py --checkpoint model_cards/eddpm-yelp --output ood.json \\
        --own dev.0.txt.gz dev.1.txt.gz --foreign captions.txt.gz products.txt.gz shuffled

`--own` are held-out data; each `--foreign` is a file or `shuffled`: the own ones, their words (of proteins, residues)
in random order. An area of 0.5 is chance, 1 means that every foreign datum scores worse than every own one.
"""

import random
import sys
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from sklearn.metrics import roc_auc_score
from transformers import HfArgumentParser

from hf_eddpm import EDDPMPipeline, EDDPMScore
from hf_eddpm.hub.card import markdown_table
from hf_eddpm.training.environment import describe_command, without_folders
from hf_eddpm.training.evaluation import finish_result
from hf_eddpm.training.options import ColumnArguments
from hf_eddpm.training.raw_data import load_raw_data

SHUFFLED = "shuffled"


@dataclass
class OodArguments:
    """What is compared."""

    checkpoint: str = field(metadata={"help": "Folder or Hub id of the pipeline."})
    own: list[str] = field(metadata={"help": "Held-out data of the checkpoint's own kind."})
    foreign: list[str] = field(metadata={"help": "Foreign data, each a file, or `shuffled`."})
    foreign_names: list[str] = field(default_factory=list, metadata={"help": "What to call them; by default as said."})
    num: int = field(default=500, metadata={"help": "Most data of each kind."})
    num_timesteps: int = field(default=32, metadata={"help": "Timesteps drawn to estimate each bound."})
    seed: int = field(default=0, metadata={"help": "Seed of the subsets and of the draws."})
    output: str | None = field(default=None, metadata={"help": "JSON file to write."})
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads of torch."})

    def __post_init__(self) -> None:
        if self.num < 2:
            raise ValueError(f"`num` must be at least 2, got {self.num}.")
        self.foreign_names = self.foreign_names or [without_folders(source) for source in self.foreign]
        if len(self.foreign_names) != len(self.foreign) or len(set(self.foreign_names)) < len(self.foreign):
            raise ValueError(f"`foreign_names` must be one for each, all different, got {self.foreign_names}.")


def statistics_of(score: EDDPMScore) -> dict[str, torch.Tensor]:
    """What may tell foreign data, each larger for them; `(num,)` each."""
    return {
        "bits per unit": score.bits_per_unit,
        "bound": score.bound,
        "reconstruction": score.reconstruction,
        "reconstruction per unit": score.reconstruction / score.num_units,
        "chain": score.alignment + score.diffusion + score.prior,
    }


def shuffle(items: list[str], modality: str, seed: int) -> list[str]:
    """The same words, or residues, in random order."""
    rng = random.Random(seed)
    if modality == "text":
        return [" ".join(rng.sample(words, len(words))) for words in map(str.split, items)]
    return ["".join(rng.sample(item, len(item))) for item in items]


def evaluate(pipe: EDDPMPipeline, own: list[Any], foreign: dict[str, list[Any]], args: OodArguments) -> dict[str, Any]:
    """Scores all data; returns the area under the ROC curve of each statistic for each foreign kind."""

    def score(items: list[Any]) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(args.seed)
        return statistics_of(pipe.score(items, num_timesteps=args.num_timesteps, generator=generator))

    ours = score(own)
    result: dict[str, Any] = {"own": {"num": len(own), **{name: float(each.mean()) for name, each in ours.items()}}}
    for kind, items in foreign.items():
        theirs = score(items)
        truth = [0] * len(own) + [1] * len(items)
        areas = {
            name: float(roc_auc_score(truth, torch.cat([ours[name], theirs[name]]).cpu().numpy())) for name in ours
        }
        means = {name: float(each.mean()) for name, each in theirs.items()}
        result[kind] = {"num": len(items), **means, "auroc": areas}
    return result


def markdown_report(result: dict[str, Any]) -> str:
    """The areas as a table."""
    rows = [
        {"foreign data": kind, **{name: f"{area:.3f}" for name, area in values["auroc"].items()}}
        for kind, values in result["scores"].items()
        if kind != "own"
    ]
    return markdown_table(rows)


def main(words: list[str] | None = None) -> dict[str, Any]:
    """Runs the comparison of the command line."""
    parser = HfArgumentParser((OodArguments, ColumnArguments), description=__doc__.splitlines()[0])
    args, columns = parser.parse_args_into_dataclasses(args=words)
    if args.num_threads is not None:
        torch.set_num_threads(args.num_threads)
    start = time.perf_counter()
    pipe = EDDPMPipeline.from_pretrained(args.checkpoint)
    own = load_raw_data(pipe, args.own, columns).sample(args.num, args.seed).items
    foreign = {}
    for kind, source in zip(args.foreign_names, args.foreign, strict=True):
        if source == SHUFFLED:
            foreign[kind] = shuffle(own, pipe.model.config.modality, args.seed)
        else:
            foreign[kind] = load_raw_data(pipe, [source], columns).sample(args.num, args.seed).items
    result = {"command": describe_command("training/studies/ood/run.py", sys.argv[1:] if words is None else words)}
    result |= {"scores": evaluate(pipe, own, foreign, args)}
    result = finish_result(result, start, args.output)
    print(markdown_report(result))
    return result


if __name__ == "__main__":
    main()
