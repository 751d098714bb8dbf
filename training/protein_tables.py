"""The Markdown tables of a protein evaluation, for a model card or a README."""

from typing import Any

from evaluation import plus_minus
from hf_eddpm.model_card import markdown_table

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


def _cells(values: dict[str, Any], measures: dict[str, str]) -> dict[str, str]:
    return {key.replace("_", " "): plus_minus(values[key], form) for key, form in measures.items() if key in values}


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.3f}"
