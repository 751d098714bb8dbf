"""Several latents for a sentence beside one of the same total width, each with the denoisers that fit.

    python training/studies/longer_text/run.py --train captions.txt.gz --dev held_out.txt.gz \\
        --output_dir training/studies/longer_text/results --name captions

The networks, data and steps are those of `configs/text_longer.json`; what differs is how 128 numbers are laid out and
which denoiser models them. One JSON per run is written as it ends, and a run whose JSON exists is not repeated.
"""

import argparse
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import torch

from hf_eddpm.hub.card import markdown_table
from hf_eddpm.training.evaluation import plus_minus, result_file

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the studies, which share code

from text_front.run import SETTINGS, Run, measure, train

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "text_longer.json"
MLP = {"denoiser_type": "mlp", "denoiser_hidden_size": 384}
STEPS = "50"  # denoising steps that `measure` samples with


def runs() -> list[Run]:
    """The layouts, the plainest first."""
    return [
        Run("MLP", "num_latents", 1, {**MLP, "num_latents": 1, "latent_dim": 128}),
        Run("MLP", "num_latents", 8, MLP),
        Run("transformer", "num_latents", 8, {}),
    ]


def markdown_report(results: list[dict[str, Any]]) -> str:
    """One row for each run."""
    rows = []
    for result in results:
        samples, reference = result["samples"][STEPS], result["reference"]
        config = result["config"]
        rows.append(
            {
                "latents": f"{config['num_latents']} x {config['latent_dim']}",
                "denoiser": result["recipe"],
                "seed": result["seed"],
                "BLEU": f"{result['reconstruction']['bleu']:.1f}",
                "exact match": f"{result['reconstruction']['exact_match']:.3f}",
                "sample perplexity": plus_minus(samples["perplexity"], ".1f"),
                "real": f"{reference['dev']['perplexity']:.1f}",
                "reverse perplexity": plus_minus(samples["reverse_perplexity"], ".0f"),
                "real ": f"{reference['train']['reverse_perplexity']:.0f}",
                "latent Frechet": plus_minus(samples["latent_frechet"], ".3f"),
                "real  ": f"{reference['train']['latent_frechet']:.3f}",
                "million parameters": f"{result['num_parameters'] / 1e6:.2f}",
                "training s": f"{result['train_seconds']:.0f}",
            }
        )
    return markdown_table(rows)


def main(words: list[str] | None = None) -> list[dict[str, Any]]:
    """Runs what is missing and prints the table of all runs of that name."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs="+", required=True, help="training text, one passage a line")
    parser.add_argument("--dev", nargs="+", required=True, help="held-out text, likewise")
    parser.add_argument("--output_dir", required=True, help="where the JSON files and the table go")
    parser.add_argument("--name", required=True, help="what the data are called in the files' names")
    parser.add_argument("--denoisers", nargs="+", default=["MLP", "transformer"], help="denoisers to run")
    parser.add_argument("--num_latents", nargs="+", type=int, default=[1, 8], help="numbers of latents to run")
    parser.add_argument("--seeds", nargs="+", type=int, default=[1], help="training seeds")
    parser.add_argument("--max_steps", type=int, help="training steps of each run, in place of the configuration's")
    parser.add_argument("--max_length", type=int, help="tokens of a passage, in place of the configuration's")
    parser.add_argument("--num_samples", type=int, default=SETTINGS.num_samples, help="samples of each sampling seed")
    parser.add_argument("--num_threads", type=int, default=2)
    parser.add_argument("--use_cpu", action="store_true")
    arguments = parser.parse_args(words)

    output = Path(arguments.output_dir)
    output.mkdir(parents=True, exist_ok=True)
    options = [] if arguments.max_length is None else ["--max_length", str(arguments.max_length)]
    for seed in arguments.seeds:
        for run in runs():
            if run.recipe not in arguments.denoisers or run.value not in arguments.num_latents:
                continue
            file = result_file(output, f"{arguments.name} {run.value} {run.recipe} seed {seed}")
            if not file.exists():
                folder = output / f".{file.stem}"
                result = measure(run, seed, arguments, *train(run, seed, arguments, folder, CONFIG, options))
                shutil.rmtree(folder)
                file.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    files = sorted(output.glob(f"{arguments.name}-*.json"))
    results = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    report = markdown_report(results)
    (output / f"{arguments.name}.md").write_text(report + "\n", encoding="utf-8")
    print(report)
    return results


if __name__ == "__main__":
    torch.set_flush_denormal(True)  # as train_text.py
    main()
