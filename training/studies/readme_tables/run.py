"""Writes the numbers of README.md and of the documentation from the files that were measured.

    python training/studies/readme_tables/run.py            # rewrites the pages between their markers
    python training/studies/readme_tables/run.py --check    # fails if that would change one

None of them is typed. README.md has the table of the checkpoints, guides have small ones, and docs/benchmarks/index.md
all numbers. There a row of the table is an entry of `ROWS`: what the number is, the file that has it, how it reads in
that file, and the script that wrote the file. A file that is not there yet leaves its rows out.
"""

import argparse
import json
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_eddpm.hub.card import markdown_table
from hf_eddpm.training.evaluation import plus_minus

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the studies, which share code

from readme_tables.checkpoints import checkpoints
from readme_tables.comparison import compare
from readme_tables.guides import anomaly_table, search_table, speed_tables, step_table

ROOT = Path(__file__).resolve().parents[3]
BEGIN, END = "<!-- results: written by training/studies/readme_tables/run.py -->", "<!-- end of results -->"

WIDTH = 120

YELP = "model_cards/eddpm-yelp/evaluation.json"
GIFFORD = "model_cards/eddpm-gifford/evaluation.json"
GFP = "model_cards/eddpm-gfp/evaluation.json"
DIGITS = "model_cards/eddpm-digits/evaluation.json"
FASHION = "model_cards/eddpm-fashion/evaluation.json"


DIRECTIONS = ("direction, scale 0.5", "direction, scale 1")  # edits of images


@dataclass(frozen=True)
class Row:
    """A row of the table.

    Attributes:
        number: What it is.
        file: Where it is, from the repository's folder.
        value: Reads and formats it from the parsed file.
        script: What wrote the file.
    """

    number: str
    file: str
    value: Callable[[Any], str]
    script: str


def samples(result: dict[str, Any], name: str, form: str, steps: int = 20) -> str:
    """A statistic of the samples of that many steps, with its spread over sampling seeds."""
    return plus_minus(result["samples"][str(steps)][name], form)


def proposals(result: dict[str, Any], *titles: str) -> str:
    """The oracle's mean score of each method's proposals."""
    return "; ".join(plus_minus(result["optimization"]["proposals"][title]["mean"], ".2f") for title in titles)


def step_row(result: dict[str, Any], scheduler: str, steps: int, scale: float = 1.0) -> dict[str, Any]:
    """The row of a scheduler, number of steps and noise scale in a result of studies/few_steps/run.py."""
    (found,) = (
        row
        for row in result["rows"]
        if (row["scheduler"], row.get("steps"), row.get("noise_scale", 1.0)) == (scheduler, steps, scale)
    )
    return found


def latent_distances(result: dict[str, Any], *settings: tuple[str, int]) -> str:
    """The latents' distances of some rows of studies/few_steps/run.py, and of real data."""
    real = result["rows"][-1]["latent_frechet"]["mean"]
    shown = [f"{step_row(result, *setting)['latent_frechet']['mean']:.3f}" for setting in settings]
    return f"{'; '.join(shown)}; {real:.3f}"


def auroc(result: dict[str, Any], foreign: str) -> str:
    """The area under the ROC curve of the reconstruction term, and of the whole bound."""
    areas = result["scores"][foreign]["auroc"]
    return f"{areas['reconstruction']:.3f}; {areas['bound']:.3f}"


def speed_ratio(result: dict[str, Any], task: str, way: str) -> float:
    """How many times as many sentences a CPU second one way has as the slowest, in studies/speed/throughput.py."""
    (found,) = (row for row in result["throughput"] if (row["task"], row["way"]) == (task, way))
    return found["ratio"]


def _text(number: str, value: Callable[[Any], str]) -> Row:
    return Row(f"text: {number}", YELP, value, "evaluate.py text")


def _protein(name: str, file: str, number: str, value: Callable[[Any], str]) -> Row:
    return Row(f"{name}: {number}", file, value, "evaluate.py protein")


def _image(name: str, file: str, number: str, value: Callable[[Any], str]) -> Row:
    return Row(f"{name}: {number}", file, value, "evaluate.py image")


def _protein_rows(name: str, file: str) -> list[Row]:
    return [
        _protein(
            name,
            file,
            "site accuracy, exact match of held-out ones; exact after 10 refinement steps",
            lambda r: (
                f"{r['reconstruction']['site_accuracy']:.3f}, {r['reconstruction']['exact_match']:.3f}; "
                f"{r['refined_reconstruction']['10']['exact_match']:.3f}"
            ),
        ),
        _protein(
            name,
            file,
            "Frechet distance of samples (20 steps); of real ones; unique samples",
            lambda r: (
                f"{samples(r, 'frechet', '.3f')}; {plus_minus(r['reference']['frechet'], '.3f')}; "
                f"{r['samples']['20']['uniqueness']['mean']:.3f}"
            ),
        ),
        _protein(
            name,
            file,
            "Pearson correlation of predicted fitness; ridge; CNN",
            lambda r: "; ".join(f"{r['fitness']['fitness'][who]['pearson']:.3f}" for who in ("model", "ridge", "cnn")),
        ),
        _protein(
            name,
            file,
            "fitness by an independent oracle: starts; guided; gradient; a genetic algorithm that asks the oracle "
            "itself, 2 and 11 times for each start",
            lambda r: proposals(
                r, "starts", "guided", "gradient", "genetic, 2 calls per start", "genetic, 11 calls per start"
            ),
        ),
    ]


def _image_rows(name: str, file: str, steps: str) -> list[Row]:
    return [
        _image(
            name,
            file,
            f"Frechet distance of samples ({steps} steps); of real ones",
            lambda r: f"{samples(r, 'frechet', '.1f')}; {plus_minus(r['real_frechet'], '.1f')}",
        ),
        _image(
            name,
            file,
            "samples of the class asked for, guidance 1; 2",
            lambda r: (
                f"{r['samples']['20']['class_accuracy']['mean']:.3f}; "
                f"{r['samples']['20']['guided_class_accuracy']['mean']:.3f}"
            ),
        ),
        _image(name, file, "reconstruction MSE", lambda r: f"{r['reconstruction']['mse']:.4f}"),
        _image(
            name,
            file,
            "linear probe on the latents; on as many principal components",
            lambda r: f"{r['probes']['label']['accuracy']:.3f}; {r['probes']['label']['pca_accuracy']:.3f}",
        ),
    ]


def _image_control_rows(name: str, file: str, inverted: bool = False) -> list[Row]:
    """Rows of images; `inverted`: edits from the noise that a chain over pixels comes from, which change least."""
    way = ", inverted" if inverted else ""
    directions = [f"{each}{way}" for each in DIRECTIONS]

    def shares(result: dict[str, Any], table: str, measure: str, *rows: str) -> str:
        return "; ".join(f"{result[table][row][measure]:.3f}" for row in rows)

    return [
        Row(
            f"{name}: samples of a class by an independent classifier: no guidance; guide, scale 3; told the class, "
            "scale 2; real images",
            file,
            lambda r: shares(
                r, "samples", "in class", "no guidance", "guide, scale 3", "told the class, scale 2", "real images"
            ),
            "studies/control/image.py",
        ),
        Row(
            f"{name}: samples of the class and near the brightness asked for: no guidance; class; brightness; both",
            file,
            lambda r: shares(r, "both", "both", "no guidance", "class", "brightness", "both"),
            "studies/control/image.py",
        ),
        Row(
            f"{name}: edits along the latents' direction{' (inverted noise)' if inverted else ''}, scale 0.5; 1: in "
            "the new class; SSIM to the original, and of another image of the class",
            file,
            lambda r: (
                f"{shares(r, 'edits', 'in class', *directions)}; "
                f"{shares(r, 'edits', 'SSIM', *directions, 'another image of the class')}"
            ),
            "studies/control/image.py",
        ),
    ]


def _refined(result: dict[str, Any], steps: int) -> str:
    values = result["refined_reconstruction"][str(steps)]
    return f"{values['bleu']:.1f}, {values['exact_match']:.3f}"


ROWS = [
    _text(
        "reconstruction of held-out sentences in one pass: BLEU, exact match",
        lambda r: f"{r['reconstruction']['bleu']:.1f}, {r['reconstruction']['exact_match']:.3f}",
    ),
    _text("with `refinement_steps=5`; 10", lambda r: f"{_refined(r, 5)}; {_refined(r, 10)}"),
    _text(
        "perplexity of samples under a trigram model (20 steps); real sentences",
        lambda r: f"{samples(r, 'perplexity', '.1f')}; {r['reference']['dev']['perplexity']:.1f}",
    ),
    _text("with `noise_scale=0.9`", lambda r: plus_minus(r["scaled_samples"]["0.9"]["perplexity"], ".1f")),
    _text(
        "unique samples (`noise_scale=1`; 0.9)",
        lambda r: (
            f"{r['samples']['20']['uniqueness']['mean']:.3f}; {r['scaled_samples']['0.9']['uniqueness']['mean']:.3f}"
        ),
    ),
    _text("linear sentiment probe on the embeddings", lambda r: f"{r['probe_accuracy']:.3f}"),
    _text(
        "sentiment flips at scale 3, judged by an independent classifier: to praise, to complaint",
        lambda r: ", ".join(f"{r['edits']['by_scale']['3'][way]['accuracy']:.2f}" for way in ("0_to_1", "1_to_0")),
    ),
    Row(
        "text: samples of a sentiment without guidance; guided, scale 10",
        "training/studies/control/results/yelp.json",
        lambda r: f"{r['samples']['0']['in class']:.3f}; {r['samples']['10']['in class']:.3f}",
        "studies/control/text.py",
    ),
    Row(
        "text: edits to the other sentiment, in class and BLEU with the original: direction, scale 2; 3; as far as "
        "needed, probability 0.5; 0.75; 0.9",
        "training/studies/control/results/yelp.json",
        lambda r: "; ".join(
            f"{r['edits'][name]['in class']:.2f}, {r['edits'][name]['content BLEU']:.0f}"
            for name in (
                *("direction, scale 2", "direction, scale 3"),
                *("as far as needed, 0.5", "as far as needed, 0.75", "as far as needed, 0.9"),
            )
        ),
        "studies/control/text.py",
    ),
    Row(
        "text: the same as far as needed, words given back, nearest of four: probability 0.75; 0.9; 0.95",
        "training/studies/control/results/yelp_edits.json",
        lambda r: "; ".join(
            f"{r['edits'][name]['in class']:.2f}, {r['edits'][name]['content BLEU']:.0f}"
            for name in (
                f"as far as needed, {probability}, words given back, best of 4" for probability in (0.75, 0.9, 0.95)
            )
        ),
        "studies/control/text.py",
    ),
    Row(
        "text: samples of the sentiment and of the length asked for, scale 3: no guide; sentiment's; length's; both; "
        "sentiment as the class",
        "training/studies/control/results/yelp_composition.json",
        lambda r: "; ".join(
            f"{r['rows'][name]['both']:.3f}"
            for name in (
                *("none", "sentiment, scale 3", "length, scale 3", "both, scale 3"),
                "sentiment as the class, length, scale 3",
            )
        ),
        "studies/control/composition.py",
    ),
    Row(
        "antibody loops: samples above the best tenth of real ones, by an independent oracle: scale 0; 3; 10",
        "training/studies/control/results/gifford.json",
        lambda r: "; ".join(f"{r['samples'][scale]['hits']:.3f}" for scale in ("0", "3", "10")),
        "studies/control/protein.py",
    ),
    Row(
        "antibody loops: residues left by edits of strength 0.05; 0.2; score at 0.2 guided, of no edit",
        "training/studies/control/results/gifford.json",
        lambda r: (
            f"{r['edits']['strength 0.05']['identity']:.2f}; {r['edits']['strength 0.2']['identity']:.2f}; "
            f"{r['edits']['strength 0.2, guided at scale 10']['score']:.2f}, "
            f"{r['edits']['none (reconstruction)']['score']:.2f}"
        ),
        "studies/control/protein.py",
    ),
    Row(
        "GFP, earlier weights: samples above the best tenth of real ones, by such an oracle: scale 0; 2; 10",
        "training/studies/control/results/gfp.json",
        lambda r: "; ".join(f"{r['samples'][scale]['hits']:.3f}" for scale in ("0", "2", "10")),
        "studies/control/protein.py",
    ),
    Row(
        "GFP, earlier weights: score of edits of strength 0.2; guided; of no edit; distinct ones of the first",
        "training/studies/control/results/gfp.json",
        lambda r: "; ".join(
            [
                *(
                    f"{r['edits'][name]['score']:.2f}"
                    for name in ("strength 0.2", "strength 0.2, guided at scale 2", "none (reconstruction)")
                ),
                f"{r['edits']['strength 0.2']['unique']:.2f}",
            ]
        ),
        "studies/control/protein.py",
    ),
    *_image_control_rows("handwritten digits, earlier weights", "training/studies/control/results/digits.json", True),
    *_image_control_rows("clothes", "training/studies/control/results/fashion.json"),
    *_protein_rows("antibody loops (Gifford)", GIFFORD),
    *_protein_rows("green fluorescent protein", GFP),
    *_image_rows("handwritten digits", DIGITS, "20 + 20"),
    _image(
        "handwritten digits",
        DIGITS,
        "reconstruction MSE with inverted pixel noise",
        lambda r: f"{r['inverted']['mse']:.5f}",
    ),
    *_image_rows("clothes (Fashion-MNIST)", FASHION, "20"),
    _image(
        "clothes (Fashion-MNIST)",
        FASHION,
        "Frechet distance of reconstructions; SSIM",
        lambda r: f"{r['reconstruction']['frechet']:.1f}; {r['reconstruction']['ssim']:.2f}",
    ),
    Row(
        "text, latents' distance: DDIM, 50 steps; DPM-Solver++, 5; 20; distilled, 1 step; real sentences",
        "training/studies/few_steps/results/yelp.json",
        lambda r: latent_distances(
            r, ("DDIM", 50), ("DPM-Solver++ (Karras)", 5), ("DPM-Solver++ (Karras)", 20), ("distilled (LCM)", 1)
        ),
        "studies/few_steps/run.py",
    ),
    Row(
        "antibody loops: the same; real loops",
        "training/studies/few_steps/results/gifford.json",
        lambda r: latent_distances(
            r, ("DDIM", 50), ("DPM-Solver++ (Karras)", 5), ("DPM-Solver++ (Karras)", 20), ("distilled (LCM)", 1)
        ),
        "studies/few_steps/run.py",
    ),
    Row(
        "GFP: samples that differ, 20 steps: DDIM; DPM-Solver++; at noise scale 1.3",
        "training/studies/few_steps/results/gfp.json",
        lambda r: "; ".join(
            f"{step_row(r, *setting)['unique']['mean']:.3f}"
            for setting in (
                ("DDIM", 20),
                ("DPM-Solver++ (Karras)", 20),
                ("DPM-Solver++ (Karras)", 20, 1.3),
            )
        ),
        "studies/few_steps/run.py",
    ),
    Row(
        "text: foreign sentences told by reconstruction; by the bound (AUROC): captions",
        "training/studies/ood/results/yelp.json",
        lambda r: auroc(r, "captions"),
        "studies/ood/run.py",
    ),
    Row(
        "antibody loops: the same of shuffled residues",
        "training/studies/ood/results/gifford.json",
        lambda r: auroc(r, "shuffled"),
        "studies/ood/run.py",
    ),
    Row(
        "an Ehrlich function, optimum 1: best start; proposal by gradients; by a genetic algorithm with as many calls",
        "training/studies/ehrlich/results/evaluation.json",
        lambda r: "; ".join(
            plus_minus(r["optimization"]["proposals"][title]["max"], ".2f")
            for title in ("starts", "gradient", "genetic, 2 calls per start")
        ),
        "evaluate.py protein",
    ),
    Row(
        "proteins: samples a CPU second, small preset, 20 steps; its training steps for one of the paper's preset",
        "training/studies/speed/results/protein.json",
        lambda r: f"{r['presets']['small']['samples_per_cpu_second_20_steps']:,.0f}; {r['step_ratio']:.1f}",
        "studies/speed/protein.py",
    ),
    Row(
        "decoding with a cache against recomputing the prefix, CPU time (vocabulary 8,192 / 50,257)",
        "training/studies/speed/results/speed.json",
        lambda r: f"{' / '.join(format(row['cpu_ratio'], '.1f') for row in r['decoding'])} times faster",
        "studies/speed/text.py",
    ),
    Row(
        "sampling latents in 20 steps (DPM-Solver++) against 1,000 of DDIM; their latents' distances",
        "training/studies/speed/results/speed.json",
        lambda r: (
            f"{step_row({'rows': r['sampling']}, 'DPM-Solver++ (Karras)', 20)['wall_ratio']:.0f} times faster; "
            f"{step_row({'rows': r['sampling']}, 'DPM-Solver++ (Karras)', 20)['frechet_mean']:.3f}, "
            f"{step_row({'rows': r['sampling']}, 'DDIM', 1000)['frechet_mean']:.3f}"
        ),
        "studies/speed/text.py",
    ),
    Row(
        "sentences encoded / decoded / generated in batches against one by one without a cache, CPU time",
        "training/studies/speed/results/throughput.json",
        lambda r: (
            " / ".join(
                f"{speed_ratio(r, *setting):.1f}"
                for setting in (
                    ("encode", "batches of like length"),
                    ("decode", "batches, cache"),
                    ("generate", "batches, cache, 20 steps"),
                )
            )
            + " times as many"
        ),
        "studies/speed/throughput.py",
    ),
]


def table(root: Path = ROOT) -> str:
    """The table of all rows whose file is there."""
    files = {row.file: root / row.file for row in ROWS}
    results = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in files.items() if path.is_file()}
    return markdown_table(
        [
            {
                "number": row.number,
                "value": row.value(results[row.file]),
                "where it comes from": f"`{row.file}`, by `training/{row.script}`",
            }
            for row in ROWS
            if row.file in results
        ]
    )


def paragraph(root: Path = ROOT) -> str:
    """What the text checkpoint is beside the paper's."""
    folder = (root / YELP).parent
    result, training = (
        json.loads((folder / name).read_text(encoding="utf-8")) for name in ("evaluation.json", "training.json")
    )
    sentences = training["data"]["train"]["sentences"]
    epochs = training["steps"] * training["batch_size"] / sentences
    one_pass, refined = result["reconstruction"]["bleu"], result["refined_reconstruction"]["10"]["bleu"]
    return (
        "The paper reports a reconstruction BLEU of 92.1 on Yelp, with BERT-small and GPT-2-xl after 20 epochs on "
        f"443,000 sentences. eddpm-yelp, {result['num_parameters'] / 1e6:.1f} million parameters trained "
        f"from scratch for {training['wall_time_seconds'] / 60:.0f} minutes of a GPU that trained others beside it "
        f"({epochs:.1f} epochs of "
        f"{sentences:,} sentences), has {one_pass:.1f} in one pass of its encoder and {refined:.1f} when ten gradient "
        "steps refine the latents: its decoder can say much more than its encoder finds. What is lost for good is "
        "mostly long sentences and rare words."
    )


def results(root: Path = ROOT) -> str:
    """All numbers, and the methods side by side."""
    methods = (
        "The methods side by side, with nets, data and steps alike (a few minutes of one CPU core a run), each at the "
        "middle of its front: reconstruction of held-out data, or for green fluorescent protein, where these minutes "
        "do not suffice for that, what the latents tell of its fitness; quality of samples. ± is the standard "
        "deviation over training seeds, three wherever it stands; what has none has one seed."
    )
    more = (
        "One point can be made to favour any of them. The pages of this chapter have the whole fronts, and what they "
        "say of probes, paths and edits, from the files in `training/studies/`."
    )
    paragraphs = [paragraph(root), methods]
    parts = [table(root), *(textwrap.fill(each, WIDTH) for each in paragraphs)]
    return "\n\n".join([*parts, compare(root), textwrap.fill(more, WIDTH)])


PAGES: dict[str, Callable[[Path], str]] = {
    "README.md": checkpoints,
    "docs/benchmarks/index.md": results,
    "docs/benchmarks/speed.md": speed_tables,
    "docs/guides/search.md": search_table,
    "docs/guides/anomalies.md": anomaly_table,
    "docs/guides/few-steps.md": step_table,
}


def rewrite(text: str, page: str, root: Path = ROOT) -> str:
    """A page's text with its section between the markers written anew.

    Args:
        text: The page, with both markers once.
        page: Its name in `PAGES`.
        root: The folder that the files lie in.

    Raises:
        ValueError: If the markers are not there.
    """
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"{page} must hold {BEGIN!r} and, after it, {END!r}.")
    return "\n\n".join([before + BEGIN, PAGES[page](root), END + after])


def main(words: list[str] | None = None) -> int:
    """Rewrites the pages, or with --check returns 1 if one is not what would be written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the numbers are others")
    parser.add_argument("--folder", type=Path, default=ROOT, help="folder of the pages")
    arguments = parser.parse_args(words)
    texts = {page: (arguments.folder / page).read_text(encoding="utf-8") for page in PAGES}
    written = {page: rewrite(text, page) for page, text in texts.items()}
    if arguments.check:
        return int(written != texts)
    for page, text in written.items():
        (arguments.folder / page).write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
