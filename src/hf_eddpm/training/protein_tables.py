"""The Markdown tables of a protein evaluation, for a model card or a README."""

from typing import Any

from ..hub.card import markdown_table
from .evaluation import plus_minus

HOW_TO_READ = """\
Sites: right ones among all sites of the frame, padding included; residues: among those where the protein has
one. Exact: proteins reconstructed without an error. Frechet: squared Frechet distance from held-out proteins in
{components} principal components of one-hot sequences, in one-hot units; beside it as many training proteins
("real"), as it falls with their number. Divergence: Jensen-Shannon, in bits, of the k-mers or of the residues
at a site. Valid: only residues, no padding inside. Novel: no training protein. Pairwise distance: mean edits
between two. Neighbours' variation: Geary's ratio of the fitness over the {neighbors}-nearest-neighbour graph of
the latents, 1 when unrelated. Ridge, CNN: trained on one-hot sequences of the same training data. Proposals:
scores by a judge that is not the model ({judge}); improved: share scored above their starts; disagreement: of
the judge's members, large where it extrapolates. The genetic algorithm asks the judge itself. Steps: denoising
steps. ± is the standard deviation over sampling seeds."""

SAMPLE_MEASURES = {
    "frechet": ".3f",
    "site_divergence": ".4f",
    "1mer_divergence": ".4f",
    "2mer_divergence": ".4f",
    "3mer_divergence": ".4f",
    "validity": ".3f",
    "uniqueness": ".3f",
    "novelty": ".3f",
    "pairwise_distance": ".2f",
    "mean_length": ".2f",
}
OPTIMIZATION_MEASURES = {
    "max": ".3f",
    "mean": ".3f",
    "median": ".3f",
    "improved": ".2f",
    "disagreement": ".3f",
    "feasible": ".2f",
    "validity": ".3f",
    "novelty": ".3f",
    "pairwise_distance": ".2f",
    "edit_distance": ".2f",
    "num_oracle_calls": ".0f",
}


def markdown_tables(result: dict[str, Any]) -> str:
    """The tables of a protein evaluation: a summary row, fitness, samples by number of steps, optimisation.

    Args:
        result: What `evaluate` in evaluate_protein.py returned.
    """
    samples, reference = result["samples"], result["reference"]
    most_steps = max(samples, key=int)
    best = samples[most_steps]
    summary = {
        "site accuracy": f"{result['reconstruction']['site_accuracy']:.4f}",
        "residues": f"{result['reconstruction']['residue_accuracy']:.4f}",
        "exact": f"{result['reconstruction']['exact_match']:.3f}",
    }
    for steps, values in result["refined_reconstruction"].items():
        summary[f"after {steps} refinement steps: sites, exact"] = (
            f"{values['site_accuracy']:.4f}, {values['exact_match']:.3f}"
        )
    summary |= {
        f"sample Frechet ({most_steps} steps)": plus_minus(best["frechet"], ".3f"),
        "real vs real": plus_minus(reference["frechet"], ".3f"),
        "3-mer JSD": plus_minus(best["3mer_divergence"], ".3f"),
        "real vs real (3-mer)": plus_minus(reference["3mer_divergence"], ".3f"),
        "valid": plus_minus(best["validity"], ".3f"),
        "unique": plus_minus(best["uniqueness"], ".3f"),
        "novel": plus_minus(best["novelty"], ".3f"),
    }
    tables = [markdown_table([summary])]

    rows = []
    for name, predictors in result.get("fitness", {}).items():
        for predictor, values in predictors.items():
            row = {"property": name, "predictor": predictor}
            row |= {key: _number(values[key]) for key in ("pearson", "spearman", "mse", "l1")}
            smoothness = result["smoothness"].get(name)
            if predictor == "model" and smoothness is not None:
                row["neighbours' variation (shuffled)"] = (
                    f"{smoothness['value']:.3f} ({plus_minus(smoothness['shuffled'], '.3f')})"
                )
            rows.append(row)
    if rows:
        tables.append(markdown_table(rows))

    rows = [{"steps": steps, **_cells(values, SAMPLE_MEASURES)} for steps, values in samples.items()]
    rows.append({"steps": "real, training", **_cells(reference, SAMPLE_MEASURES)})
    tables.append(markdown_table(rows))

    if "optimization" in result:
        methods = {
            f"generated, {most_steps} steps": "samples",
            "starts": "starts",
            **{name: name for name in result["optimization"]["proposals"] if name not in ("samples", "starts")},
        }
        proposals = result["optimization"]["proposals"]
        rows = [
            {"proposals": title, **_cells(proposals[name], OPTIMIZATION_MEASURES)} for title, name in methods.items()
        ]
        tables.append(markdown_table(rows))
    return "\n\n".join(tables)


def how_to_read(result: dict[str, Any]) -> str:
    """What the columns of the tables mean."""
    judge = "none here"
    if "optimization" in result:
        oracle = result["optimization"]["oracle"]
        judge = oracle["kind"]
        if "on_training_sequences" in oracle:
            pearson = _number(oracle["on_training_sequences"]["pearson"])
            judge += f", Pearson {pearson} with measurements they have not seen"
    return HOW_TO_READ.format(
        components=result["frechet_components"], neighbors=result["settings"]["num_neighbors"], judge=judge
    )


def _cells(values: dict[str, Any], measures: dict[str, str]) -> dict[str, str]:
    return {key.replace("_", " "): plus_minus(values[key], form) for key, form in measures.items() if key in values}


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
