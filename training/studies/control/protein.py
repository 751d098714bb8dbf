"""How well a property steers a protein checkpoint: samples and edits, judged by an independent oracle.

    python training/studies/control/protein.py --checkpoint model_cards/eddpm-gifford --train train.csv.gz \\
        --dev validation.csv.gz --padding_symbol J --output control.json

The judge is that of evaluate_protein.py: regressors of the first property trained on the held-out sequences, which
the model has not seen. It is asked for the mean score of samples steered to a higher property at each scale, and what
share of them hit the target: the score that the best tenth of real sequences has. Edits noise training sequences part
of the way and denoise them, with and without guidance; beside the score stands how much of the content is left: the
share of the residues at their sites, edits (Levenshtein) and the cosine of the embeddings.
"""

import sys
import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from rapidfuzz.distance import Levenshtein
from transformers import HfArgumentParser

from hf_eddpm import EDDPMPipeline, PropertyGuidance
from hf_eddpm.hub.card import markdown_table
from hf_eddpm.metrics.distinct_novelty import novelty, uniqueness
from hf_eddpm.modalities.protein.data import ProteinData, load_proteins
from hf_eddpm.modalities.protein.metrics import is_valid
from hf_eddpm.modalities.protein.oracle import EnsembleOracle
from hf_eddpm.training.environment import describe_command
from hf_eddpm.training.evaluation import finish_result


@dataclass
class ProteinControlArguments:
    """What is steered, and how strongly."""

    checkpoint: str = field(metadata={"help": "Folder or Hub id of the pipeline; it has a property head."})
    train: list[str] = field(metadata={"help": "Sequences the model was trained on, with the property."})
    dev: list[str] = field(metadata={"help": "Held-out sequences, likewise, for the judge."})
    property_columns: list[str] = field(default_factory=lambda: ["fitness"], metadata={"help": "As in training."})
    padding_symbol: str | None = field(default=None, metadata={"help": "Letter that the files pad proteins with."})
    scales: list[float] = field(
        default_factory=lambda: [0.0, 1.0, 3.0, 10.0, 30.0], metadata={"help": "Guidance scales of samples."}
    )
    strengths: list[float] = field(
        default_factory=lambda: [0.05, 0.1, 0.2, 0.4, 0.7], metadata={"help": "Strengths of edits."}
    )
    edit_scale: float = field(default=10.0, metadata={"help": "Guidance scale of edits."})
    top_share: float = field(default=0.1, metadata={"help": "Share of real sequences above the target, in (0, 1)."})
    num: int = field(default=500, metadata={"help": "Samples, and sequences edited."})
    oracle_members: int = field(default=5, metadata={"help": "Regressors of the judge."})
    num_epochs: int = field(default=20, metadata={"help": "Epochs of the judge's regressors."})
    seed: int = field(default=0, metadata={"help": "Seed of the subsets and of the noise."})
    output: str | None = field(default=None, metadata={"help": "JSON file to write."})
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads of torch."})

    def __post_init__(self) -> None:
        if self.num < 1:
            raise ValueError(f"`num` must be at least 1, got {self.num}.")
        if not 0 < self.top_share < 1:
            raise ValueError(f"`top_share` must be in (0, 1), got {self.top_share}.")


def identity(sequence: str, original: str) -> float:
    """The share of sites that hold the same residue; of the longer one's sites, both read from the left."""
    same = sum(a == b for a, b in zip(sequence, original, strict=False))
    return same / max(len(sequence), len(original), 1)


def evaluate(
    pipe: EDDPMPipeline, train: ProteinData, dev: ProteinData, args: ProteinControlArguments
) -> dict[str, Any]:
    """Measures samples by scale, and edits by strength with and without guidance."""
    processor = pipe.processor
    oracle = EnsembleOracle.fit(
        dev.sequences,
        dev.properties[:, 0],
        processor.length,
        processor.alignment,
        args.oracle_members,
        args.seed,
        num_epochs=args.num_epochs,
    )
    real = train.sample(args.num, args.seed).sequences
    scores_of_real = oracle(real)
    target = float(np.quantile(scores_of_real, 1 - args.top_share))

    def judge(sequences: list[str]) -> dict[str, float | None]:
        valid = [sequence for sequence in sequences if is_valid(sequence)]
        scores = oracle(valid) if valid else np.full(1, np.nan)
        predictions = pipe.predict(valid)[:, 0] if valid else torch.full((1,), torch.nan)
        values = {
            "score": scores.mean(),
            "hits": (scores > target).sum() / len(sequences),
            "own prediction": float(predictions.mean()),
            "disagreement": oracle.disagreement(valid).mean() if valid else np.nan,
            "valid": len(valid) / len(sequences),
            "unique": uniqueness(sequences),
            "novel": novelty(sequences, train.sequences),
        }
        return {name: float(value) if np.isfinite(value) else None for name, value in values.items()}

    def generator() -> torch.Generator:
        return torch.Generator(device=pipe.device).manual_seed(args.seed)

    def guidance(scale: float) -> PropertyGuidance | None:
        return PropertyGuidance("higher", property_index=0, scale=scale) if scale else None

    samples = {"real": judge(real)}
    for scale in args.scales:
        samples[f"{scale:g}"] = judge(pipe(args.num, guidance=guidance(scale), generator=generator()).samples)

    methods: dict[str, dict[str, Any]] = {}
    for scale in (0.0, args.edit_scale):
        for strength in args.strengths:
            name = f"strength {strength:g}" + (f", guided at scale {scale:g}" if scale else "")
            methods[name] = {"strength": strength, "guidance": guidance(scale), "generator": generator()}
    edits = {}
    for name, arguments in {"none (reconstruction)": None, **methods}.items():
        edited = pipe.reconstruct(real) if arguments is None else pipe.edit(real, **arguments)
        valid = [row for row, sequence in enumerate(edited) if is_valid(sequence)]
        improved = oracle([edited[row] for row in valid]) > scores_of_real[valid] if valid else np.zeros(1, bool)
        cosines = pipe.similarity([real[row] for row in valid], [edited[row] for row in valid]) if valid else None
        pairs = list(zip(edited, real, strict=True))
        edits[name] = {
            **judge(edited),
            "improved": float(improved.sum() / len(real)),
            "identity": float(np.mean([identity(*pair) for pair in pairs])),
            "edit distance": float(np.mean([Levenshtein.distance(*pair) for pair in pairs])),
            "similarity": None if cosines is None else float(cosines.mean()),
        }
    return {
        "property": train.property_names[0],
        "target": target,
        "oracle": {"members": args.oracle_members, "out_of_fold": oracle.out_of_fold},
        "samples": samples,
        "edits": edits,
    }


def markdown_report(result: dict[str, Any]) -> str:
    """The two tables."""

    def table(title: str, rows: dict[str, dict[str, float | None]]) -> str:
        return markdown_table(
            [
                {title: name, **{key: "" if value is None else f"{value:.3g}" for key, value in row.items()}}
                for name, row in rows.items()
            ]
        )

    return f"{table('guidance scale', result['samples'])}\n\n{table('edit', result['edits'])}"


def main(words: list[str] | None = None) -> dict[str, Any]:
    """Runs the evaluation of the command line."""
    parser = HfArgumentParser(ProteinControlArguments, description=__doc__.splitlines()[0])
    (args,) = parser.parse_args_into_dataclasses(args=words)
    if args.num_threads is not None:
        torch.set_num_threads(args.num_threads)
    start = time.perf_counter()
    pipe = EDDPMPipeline.from_pretrained(args.checkpoint)
    if pipe.model.property_head is None:
        raise ValueError("`checkpoint` must have a property head, and this one has none.")
    pipe.set_progress_bar_config(disable=True)
    train, dev = (
        load_proteins(
            source if len(source) > 1 else source[0],
            property_columns=args.property_columns,
            padding_symbol=args.padding_symbol,
        )
        for source in (args.train, args.dev)
    )
    command = describe_command("training/studies/control/protein.py", sys.argv[1:] if words is None else words)
    result = {"command": command, **evaluate(pipe, train, dev, args)}
    result = finish_result(result, start, args.output)
    print(markdown_report(result))
    return result


if __name__ == "__main__":
    main()
