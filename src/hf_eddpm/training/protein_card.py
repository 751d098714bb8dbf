"""The model card of a protein checkpoint, from the facts beside it.

    python -m hf_eddpm.training.protein_card runs/gifford/pipeline

`train_protein.py` leaves `training.json` in the pipeline's folder and `evaluate_protein.py --update_card` leaves
`evaluation.json`; both write the card (README.md) by this file, and this command writes it anew.
"""

from collections import Counter
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard

from ..design.candidates import list_edits
from ..hub.card import build_model_card, markdown_table, save_model_card
from ..pipeline_eddpm import EDDPMPipeline
from .card_facts import card_arguments, card_notes, latent_tables, read_facts, rewrite_card
from .evaluation import sampler_sentence
from .protein_tables import how_to_read, markdown_tables

NUM_SHOWN = 8  # samples
LONG = 60  # residues above which proteins are told by their edits


def write_protein_card(pipe: EDDPMPipeline, folder: str | Path) -> Path:
    """Writes README.md in a pipeline's folder from the facts that lie there, and returns its path."""
    folder = Path(folder)
    return save_model_card(build_protein_card(pipe, folder, *read_facts(folder)), folder)


def build_protein_card(
    pipe: EDDPMPipeline, folder: Path, training: dict[str, Any] | None, evaluation: dict[str, Any] | None
) -> ModelCard:
    """The card of a protein pipeline.

    Args:
        pipe: The pipeline.
        folder: Its folder, which names the model where the training did not.
        training: What `train_protein.py` wrote, or `None`.
        evaluation: What `evaluate_protein.py` wrote, or `None`.
    """
    card = {} if training is None else training.get("card", {})
    data_name = card.get("data_name") or "the training data"
    return build_model_card(
        pipe.model,
        training=training,
        evaluation=evaluation,
        summary=f"Trained on proteins: {data_name}." if card.get("data_name") else "Trained on proteins.",
        snippet=_snippet(pipe, [] if training is None else training.get("examples", [])),
        results="" if evaluation is None else _results(evaluation),
        eval_results=[] if evaluation is None else _eval_results(evaluation, data_name),
        limits=_limits(pipe, training, data_name),
        **card_arguments(folder, training),
    )


def _snippet(pipe: EDDPMPipeline, examples: list[str]) -> str:
    length = pipe.processor.min_length
    a, b = (examples[0], examples[-1]) if examples else ("A" * length, "G" * length)
    lines = [
        "proteins = [",
        f"    {a!r},",
        f"    {b!r},",
        "]",
        "print(pipe.reconstruct(proteins))",
        "print(pipe.interpolate(*proteins, num_steps=5)[0])",
        "print(pipe.encode(proteins).embeddings.shape)",
    ]
    if pipe.model.property_head is not None:
        lines.append("print(pipe.predict(proteins))  # in the unit of the training data")
    return "\n".join(lines) + "\n"


def _results(evaluation: dict[str, Any]) -> str:
    settings = evaluation["settings"]
    seeds = ", ".join(str(seed) for seed in settings["seeds"])
    counts = (
        f"{evaluation['num_dev_sequences']:,} held-out proteins; {settings['num_samples']:,} samples for each number "
        f"of steps and sampling seed ({seeds}).{sampler_sentence(evaluation)}"
    )
    parts = [counts, markdown_tables(evaluation), how_to_read(evaluation), *latent_tables(evaluation)]
    return "\n\n".join([*parts, *_uncertainty(evaluation), *_samples(evaluation)])


def _uncertainty(evaluation: dict[str, Any]) -> list[str]:
    """How sure an ensemble of heads is of each property, and where it is most wrong."""
    parts = []
    reference = _consensus(evaluation)
    for name, found in evaluation.get("uncertainty", {}).items():
        parts.append(
            f"The ensemble of heads gives a standard deviation with `pipe.predict(..., return_std=True)`, of {name} "
            f"{found['mean_std']:.2f} on average. Its 90 % intervals hold {found['coverage_90']:.0%} of "
            f"{found['num']:,} held-out measurements; the calibration error over all intervals is "
            f"{found['calibration_error']:.3f}. The three predictions that are most wrong:"
        )
        rows = [
            {
                "protein": f"`{_short(each['sequence'], reference)}`",
                "measured": f"{each['measured']:.2f}",
                "predicted": f"{each['predicted']:.2f} ± {each['std']:.2f}",
            }
            for each in found["worst"]
        ]
        parts.append(markdown_table(rows))
    return parts


def _samples(evaluation: dict[str, Any]) -> list[str]:
    """The first samples of the first seed, as they came."""
    reference = _consensus(evaluation)
    most = max(evaluation["samples"], key=int)
    rows = [{"sample": f"`{_short(each, reference)}`"} for each in evaluation["samples"][most]["examples"][:NUM_SHOWN]]
    against = ""
    if len(reference) > LONG:
        against = ", by their edits against the most common residues of held-out proteins"
    return [f"The first samples of the first seed, {most} steps, as they came{against}:", markdown_table(rows)]


def _consensus(evaluation: dict[str, Any]) -> str:
    """Return what most of the held-out examples have at each site, for proteins of one length; else the first."""
    examples = [original for original, _ in evaluation["reconstruction"]["examples"]]
    if len(set(map(len, examples))) > 1:
        return examples[0]
    return "".join(Counter(site).most_common(1)[0][0] for site in zip(*examples, strict=True))


def _short(sequence: str, reference: str) -> str:
    """Return a protein, or if it is long its edits against another."""
    if len(reference) <= LONG:
        return sequence
    return " ".join(list_edits(sequence, reference)) or "the same"


def _eval_results(evaluation: dict[str, Any], data_name: str) -> list[EvalResult]:
    most_steps = max(evaluation["samples"], key=int)
    samples = evaluation["samples"][most_steps]
    generated = f"{most_steps} steps, mean over seeds"
    measures = [
        ("accuracy", "reconstruction, accuracy by site", evaluation["reconstruction"]["site_accuracy"]),
        ("exact_match", "reconstruction exact match", evaluation["reconstruction"]["exact_match"]),
        ("frechet", f"Frechet distance of one-hot samples ({generated})", samples["frechet"]["mean"]),
        ("novelty", f"novel samples ({generated})", samples["novelty"]["mean"]),
    ]
    for name, predictors in evaluation.get("fitness", {}).items():
        for kind in ("pearson", "spearman"):
            measures.append((kind, f"predicted {name}, {kind} correlation", predictors.get("model", {}).get(kind)))
    return [
        EvalResult(
            task_type="other",
            dataset_type="protein",
            dataset_name=data_name,
            dataset_split="dev",
            metric_type=kind,
            metric_name=name,
            metric_value=round(value, 4),
        )
        for kind, name, value in measures
        if value is not None
    ]


def _limits(pipe: EDDPMPipeline, training: dict[str, Any] | None, data_name: str) -> list[str]:
    processor = pipe.processor
    sizes = f"{processor.length}" if processor.min_length == processor.length else f"at most {processor.length}"
    limits = [f"Proteins of {sizes} residues, in one-letter code; others are refused."]
    if training is None:
        return limits
    limits.append(f"It knows one family of proteins ({data_name}); others come back as what it knows.")
    if training.get("property_names"):
        limits.append(
            "Predicted properties are a regression's from the training data, no measurement: judge designs by an "
            "experiment or an independent predictor."
        )
    limits.append("The held-out proteins were watched during training; no test split was used.")
    return [*limits, *card_notes(training)]


def main() -> None:
    """Writes the card of the pipeline folder named on the command line."""
    rewrite_card(__doc__, write_protein_card)


if __name__ == "__main__":
    main()
