"""Draws reconstruction against sample quality, one line per training recipe, from files of `evaluate_text.py`.

    python training/studies/text_front/plot.py --output front.png --swept encoder_noise_variance \\
        --recipe "paper" runs/paper-*.json --recipe "batch, 0.1" runs/batch-*.json

Evaluations of one recipe and one swept value are training seeds of one point; the points of a recipe are joined in the
order of the swept value, which is written beside them. Beside the picture two Markdown tables are written (`front.md`
here) and printed: reconstruction and samples, and what else latents are for. Without `--recipe`, give the files alone:
each names its recipe itself (`evaluate_text.py --recipe`).
"""

import argparse
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 (the backend is chosen first: no screen is needed)
from matplotlib.ticker import LogLocator, NullFormatter, ScalarFormatter  # noqa: E402

from hf_eddpm.hub.card import markdown_table  # noqa: E402
from hf_eddpm.training.evaluation import plus_minus, spread  # noqa: E402

EDIT_SCALE = "2"  # multiple of the direction between the classes
REAL = "real sentences"


@dataclass(frozen=True)
class Measure:
    """A column of a table.

    Attributes:
        title: Its head.
        form: How its numbers are formatted.
        read: Takes an evaluation and a number of denoising steps; raises KeyError where there is none.
        read_real: What real sentences have, likewise from an evaluation.
    """

    title: str
    form: str
    read: Callable[[dict[str, Any], str], float]
    read_real: Callable[[dict[str, Any]], float] | None = None


def _of_samples(title: str, form: str, name: str, reference: str) -> Measure:
    return Measure(
        title,
        form,
        lambda result, steps: result["samples"][steps][name]["mean"],
        lambda result: result["reference"][reference][name],
    )


def _of_edits(title: str, form: str, name: str) -> Measure:
    def read(result: dict[str, Any], steps: str) -> float:
        both = result["edits"]["by_scale"][EDIT_SCALE].values()
        return sum(way[name] for way in both) / len(both)

    return Measure(title, form, read)


RECONSTRUCTION_AND_SAMPLES = {
    "bleu": Measure("BLEU", ".1f", lambda result, steps: result["reconstruction"]["bleu"]),
    "exact_match": Measure("exact match", ".3f", lambda result, steps: result["reconstruction"]["exact_match"]),
    "perplexity": _of_samples("sample perplexity", ".1f", "perplexity", "dev"),
    "reverse_perplexity": _of_samples("reverse perplexity", ".0f", "reverse_perplexity", "train"),
    "bigram_divergence": _of_samples("bigram JSD", ".3f", "bigram_divergence", "train"),
    "uniqueness": _of_samples("unique", ".3f", "uniqueness", "train"),
}
LATENTS = {
    "probe": Measure("probe", ".3f", lambda result, steps: result["probe_accuracy"]),
    "path_length": Measure(
        "path length", ".2f", lambda result, steps: result["interpolation"]["latents"]["path_length"]
    ),
    "path_perplexity": Measure(
        "perplexity on paths",
        ".0f",
        lambda result, steps: result["interpolation"]["latents"]["perplexity"],
        lambda result: result["reference"]["dev"]["perplexity"],
    ),
    "edit_accuracy": _of_edits("edits in the class", ".2f", "accuracy"),
    "edit_bleu": _of_edits("BLEU to the original", ".1f", "content_bleu"),
    "edit_perplexity": _of_edits("perplexity of edits", ".0f", "perplexity"),
}
MEASURES = RECONSTRUCTION_AND_SAMPLES | LATENTS


@dataclass(frozen=True)
class Evaluation:
    """What one evaluated checkpoint has of `MEASURES`, and real sentences beside it.

    Attributes:
        recipe: Name of the line it belongs to.
        swept: Value of what is swept along the line, or `None`.
        values: By name; what the checkpoint cannot do is missing.
        real: By name, for the measures that real sentences have.
    """

    recipe: str
    swept: float | str | None
    values: dict[str, float]
    real: dict[str, float]


@dataclass(frozen=True)
class FrontPoint:
    """A point of a line: the mean over its training seeds.

    Attributes:
        swept: Value of what is swept along the line, or `None`.
        seeds: How many evaluations there are.
        values: By name of the measure, what `evaluation.spread` returns.
    """

    swept: float | str | None
    seeds: int
    values: dict[str, dict[str, Any]]


def read_result(
    path: str | Path, recipe: str | None = None, swept: str | None = None, num_inference_steps: int | None = None
) -> Evaluation:
    """Reads one evaluation.

    Args:
        path: JSON file written by `evaluate_text.py`.
        recipe: Name of the line; by default the file's own.
        swept: Key of the model's config whose value orders and labels the points.
        num_inference_steps: Which samples to take; by default those with the most steps.

    Raises:
        ValueError: The file names no recipe, its config has no such key, or it has no samples with that many steps.
    """
    result: dict[str, Any] = json.loads(Path(path).read_text(encoding="utf-8"))
    recipe = recipe or result.get("recipe")
    if recipe is None:
        raise ValueError(f"{str(path)!r} names no recipe; name it with `--recipe NAME FILE ...`.")
    if swept is not None and swept not in result["config"]:
        raise ValueError(
            f"`swept` {swept!r} is not in the config of {str(path)!r}; it has {sorted(result['config'])}."
        )
    steps = str(num_inference_steps) if num_inference_steps else max(result["samples"], key=int)
    if steps not in result["samples"]:
        raise ValueError(f"{str(path)!r} has samples with {', '.join(result['samples'])} steps, not {steps}.")
    values = {name: _read(measure.read, result, steps) for name, measure in MEASURES.items()}
    real = {name: _read(each.read_real, result) for name, each in MEASURES.items() if each.read_real is not None}
    return Evaluation(
        recipe=recipe,
        swept=result.get("value") if swept is None else result["config"][swept],
        values={name: value for name, value in values.items() if value is not None},
        real={name: value for name, value in real.items() if value is not None},
    )


def _read(read: Callable[..., float], *arguments: Any) -> float | None:
    try:
        return read(*arguments)
    except KeyError:
        return None


def by_recipe(evaluations: Iterable[Evaluation]) -> dict[str, list[FrontPoint]]:
    """Groups evaluations into points and those into lines, in the order of the swept value, or of BLEU."""
    groups: dict[str, dict[float | str | None, list[Evaluation]]] = {}
    for evaluation in evaluations:
        key = evaluation.swept
        if key is None:  # nothing is swept: each evaluation is a point
            key = f"{len(groups.get(evaluation.recipe, {}))}"
        groups.setdefault(evaluation.recipe, {}).setdefault(key, []).append(evaluation)
    lines = {}
    for recipe, points in groups.items():
        line = [
            FrontPoint(
                group[0].swept,
                len(group),
                {  # runs of a collapsed model lack some measures
                    name: spread([each.values[name] for each in group])
                    for name in group[0].values
                    if all(name in each.values for each in group)
                },
            )
            for group in points.values()
        ]
        line.sort(key=lambda p: p.swept if isinstance(p.swept, (int, float)) else _mean(p, "bleu") or 0.0)
        lines[recipe] = line
    return lines


def _mean(point: FrontPoint, name: str) -> float | None:
    return point.values[name]["mean"] if name in point.values else None


def plot_front(lines: dict[str, list[FrontPoint]], real_perplexity: float, output: str | Path) -> None:
    """Writes the picture: up is better, and left as far as the dashed line of real text."""
    figure, axes = plt.subplots(figsize=(8, 6))
    for (recipe, line), marker in zip(lines.items(), "osD^vPX*<>" * len(lines), strict=False):
        if "bleu" not in line[0].values:
            axes.axvline(line[0].values["perplexity"]["mean"], linestyle=":", color="black", label=recipe)
            continue
        means, errors = (
            {name: [point.values[name][of] or 0.0 for point in line] for name in ("perplexity", "bleu")}
            for of in ("mean", "std")
        )
        axes.errorbar(
            means["perplexity"],
            means["bleu"],
            xerr=errors["perplexity"],
            yerr=errors["bleu"],
            marker=marker,
            capsize=2,
            label=recipe,
        )
        for point, *place in zip(line, means["perplexity"], means["bleu"], strict=True):
            if point.swept is not None:
                axes.annotate(f"{point.swept:g}", place, xytext=(5, 4), textcoords="offset points", fontsize=8)
    axes.axvline(real_perplexity, linestyle="--", color="grey", label=REAL)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.xaxis.set_major_formatter(ScalarFormatter())  # 50, not 5 x 10^1
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("perplexity of samples under a trigram model (log scale)")
    axes.set_ylabel("reconstruction BLEU")
    axes.grid(alpha=0.3, which="both")
    axes.legend(fontsize="small")
    figure.tight_layout()
    figure.savefig(output, dpi=150)
    plt.close(figure)


def front_table(
    lines: dict[str, list[FrontPoint]], real: dict[str, float], measures: dict[str, Measure], swept: str | None = None
) -> str:
    """Points as a Markdown table, in the order of the lines, and real sentences in the last row."""
    head = swept or "value"
    rows = [
        {
            "recipe": recipe,
            head: "" if point.swept is None else f"{point.swept}",
            "seeds": str(point.seeds),
            **{
                measure.title: plus_minus(point.values[name], measure.form) if name in point.values else ""
                for name, measure in measures.items()
            },
        }
        for recipe, line in lines.items()
        for point in line
        if point.values.keys() & measures.keys()
    ]
    if real.keys() & measures.keys():
        rows.append(
            {
                **dict.fromkeys(rows[0], ""),
                "recipe": REAL,
                **{measure.title: f"{real[n]:{measure.form}}" for n, measure in measures.items() if n in real},
            }
        )
    return markdown_table(rows)


def main() -> None:
    """Draws the front of the files named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="evaluations that name their recipe themselves")
    parser.add_argument("--recipe", nargs="+", action="append", default=[], metavar=("NAME", "FILE"))
    parser.add_argument("--swept", help="key of the model's config whose value orders and labels the points")
    parser.add_argument("--num_inference_steps", type=int, help="which samples to take; by default the most steps")
    parser.add_argument("--output", required=True, help="PNG file; the tables go beside it as .md")
    arguments = parser.parse_args()

    named = [(file, None) for file in arguments.files]
    named += [(file, name) for name, *files in arguments.recipe for file in files]
    if not named:
        parser.error("give at least one evaluation, alone or after --recipe NAME")
    evaluations = [read_result(file, name, arguments.swept, arguments.num_inference_steps) for file, name in named]
    print(_draw(evaluations, Path(arguments.output), arguments.swept))


def draw(files: Iterable[str | Path], output: str | Path) -> str:
    """Draws the front of evaluations that name their recipe and swept value themselves; returns the tables."""
    return _draw([read_result(file) for file in files], Path(output), None)


def _draw(evaluations: list[Evaluation], output: Path, swept: str | None) -> str:
    lines = by_recipe(evaluations)
    names = {name for evaluation in evaluations for name in evaluation.real}
    real = {name: spread([each.real[name] for each in evaluations if name in each.real])["mean"] for name in names}
    output.parent.mkdir(parents=True, exist_ok=True)
    plot_front(lines, real["perplexity"], output)
    tables = "\n\n".join(
        front_table(lines, real, measures, swept) for measures in (RECONSTRUCTION_AND_SAMPLES, LATENTS)
    )
    output.with_suffix(".md").write_text(tables + "\n", encoding="utf-8")
    return tables


if __name__ == "__main__":
    main()
