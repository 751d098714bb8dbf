"""Draws reconstruction against sample quality, one line per training recipe, from files of `evaluate_text.py`.

    python training/plot_front.py --output front.png --swept encoder_noise_variance \\
        --recipe "paper" runs/paper-*.json --recipe "batch, 0.1" runs/batch-*.json

Each point is one checkpoint; the points of a recipe are joined in the order of the swept value, which is written
beside them. Beside the picture a Markdown table of the same numbers is written (`front.md` here) and printed. Without
`--recipe`, give the files alone: each names its recipe itself (`evaluate_text.py --recipe`).
"""

import argparse
import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402 (the backend is chosen first: no screen is needed)
from matplotlib.ticker import ScalarFormatter  # noqa: E402


@dataclass
class FrontPoint:
    """One evaluated checkpoint.

    Attributes:
        recipe: Name of the line it belongs to.
        swept: Value of what is swept along the line, or `None`.
        bleu: Reconstruction BLEU on held-out sentences; `None` for what does not reconstruct.
        exact_match: Share of them reconstructed word for word, likewise.
        perplexity: Mean over the seeds of the samples' perplexity.
        perplexity_std: Its standard deviation over the seeds, 0 for one seed.
        real_perplexity: That of held-out sentences under the same trigram model.
        reverse_perplexity: Of held-out sentences under a trigram model of the samples.
        real_reverse_perplexity: Of them under a trigram model of as many training sentences.
        bigram_divergence: Of the samples from held-out sentences.
        real_bigram_divergence: Of as many training sentences from them.
        uniqueness: Share of different samples.
    """

    recipe: str
    swept: float | str | None
    bleu: float | None
    exact_match: float | None
    perplexity: float
    perplexity_std: float
    real_perplexity: float
    reverse_perplexity: float
    real_reverse_perplexity: float
    bigram_divergence: float
    real_bigram_divergence: float
    uniqueness: float


def read_point(
    path: str | Path, recipe: str | None = None, swept: str | None = None, num_inference_steps: int | None = None
) -> FrontPoint:
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
    samples, reference = result["samples"][steps], result["reference"]
    reconstruction = result.get("reconstruction", {})
    return FrontPoint(
        recipe=recipe,
        swept=result.get("value") if swept is None else result["config"][swept],
        bleu=reconstruction.get("bleu"),
        exact_match=reconstruction.get("exact_match"),
        perplexity=samples["perplexity"]["mean"],
        perplexity_std=samples["perplexity"]["std"] or 0.0,
        real_perplexity=reference["dev"]["perplexity"],
        reverse_perplexity=samples["reverse_perplexity"]["mean"],
        real_reverse_perplexity=reference["train"]["reverse_perplexity"],
        bigram_divergence=samples["bigram_divergence"]["mean"],
        real_bigram_divergence=reference["train"]["bigram_divergence"],
        uniqueness=samples["uniqueness"]["mean"],
    )


def by_recipe(points: Iterable[FrontPoint]) -> dict[str, list[FrontPoint]]:
    """Groups points into lines, each in the order of the swept value, or of BLEU where nothing is swept."""
    lines: dict[str, list[FrontPoint]] = {}
    for point in points:
        lines.setdefault(point.recipe, []).append(point)
    for line in lines.values():
        line.sort(key=lambda p: p.swept if isinstance(p.swept, (int, float)) else p.bleu or 0.0)
    return lines


def plot_front(lines: dict[str, list[FrontPoint]], output: str | Path) -> None:
    """Writes the picture: up is better, and left as far as the dashed line of real text."""
    figure, axes = plt.subplots(figsize=(7, 5))
    for (recipe, line), marker in zip(lines.items(), "osD^vPX*<>" * len(lines), strict=False):
        if line[0].bleu is None:
            axes.axvline(line[0].perplexity, linestyle=":", color="black", label=recipe)
            continue
        axes.errorbar(
            [p.perplexity for p in line],
            [p.bleu for p in line],
            xerr=[p.perplexity_std for p in line],
            marker=marker,
            capsize=2,
            label=recipe,
        )
        for point in line:
            if point.swept is not None:
                place = (point.perplexity, point.bleu)
                axes.annotate(f"{point.swept}", place, xytext=(5, 4), textcoords="offset points", fontsize=8)
    real = [point.real_perplexity for line in lines.values() for point in line]
    axes.axvline(sum(real) / len(real), linestyle="--", color="grey", label="real sentences")
    axes.set_xscale("log")
    axes.xaxis.set_major_formatter(ScalarFormatter())  # 50, not 5 x 10^1
    axes.xaxis.set_minor_formatter(ScalarFormatter())
    axes.set_xlabel("perplexity of samples under a trigram model (log scale)")
    axes.set_ylabel("reconstruction BLEU")
    axes.grid(alpha=0.3, which="both")
    axes.legend()
    figure.tight_layout()
    figure.savefig(output, dpi=150)
    plt.close(figure)


def front_table(lines: dict[str, list[FrontPoint]], swept: str | None = None) -> str:
    """The points as a Markdown table, in the order of the lines."""
    columns = ["recipe", swept or "", "BLEU", "exact match", "sample perplexity", "real"]
    columns += ["reverse perplexity", "real", "bigram JSD", "real", "unique"]
    rows = [columns, ["---"] * len(columns)]
    for recipe, line in lines.items():
        for p in line:
            rows.append(
                [
                    recipe,
                    "" if p.swept is None else f"{p.swept}",
                    "" if p.bleu is None else f"{p.bleu:.1f}",
                    "" if p.exact_match is None else f"{p.exact_match:.3f}",
                    f"{p.perplexity:.1f} ± {p.perplexity_std:.1f}",
                    f"{p.real_perplexity:.1f}",
                    f"{p.reverse_perplexity:.0f}",
                    f"{p.real_reverse_perplexity:.0f}",
                    f"{p.bigram_divergence:.3f}",
                    f"{p.real_bigram_divergence:.3f}",
                    f"{p.uniqueness:.3f}",
                ]
            )
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main() -> None:
    """Draws the front of the files named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", help="evaluations that name their recipe themselves")
    parser.add_argument("--recipe", nargs="+", action="append", default=[], metavar=("NAME", "FILE"))
    parser.add_argument("--swept", help="key of the model's config whose value orders and labels the points")
    parser.add_argument("--num_inference_steps", type=int, help="which samples to take; by default the most steps")
    parser.add_argument("--output", required=True, help="PNG file; the table goes beside it as .md")
    arguments = parser.parse_args()

    named = [(file, None) for file in arguments.files]
    named += [(file, name) for name, *files in arguments.recipe for file in files]
    if not named:
        parser.error("give at least one evaluation, alone or after --recipe NAME")
    points = [read_point(file, name, arguments.swept, arguments.num_inference_steps) for file, name in named]
    print(_draw(points, Path(arguments.output), arguments.swept))


def draw(files: Iterable[str | Path], output: str | Path) -> str:
    """Draws the front of evaluations that name their recipe and swept value themselves; returns the table."""
    return _draw([read_point(file) for file in files], Path(output), None)


def _draw(points: list[FrontPoint], output: Path, swept: str | None) -> str:
    lines = by_recipe(points)
    output.parent.mkdir(parents=True, exist_ok=True)
    plot_front(lines, output)
    table = front_table(lines, swept)
    output.with_suffix(".md").write_text(table + "\n", encoding="utf-8")
    return table


if __name__ == "__main__":
    main()
