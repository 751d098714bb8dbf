"""Measures whether a protein checkpoint's samples reach its latents, for a row beside what its evaluation says.

    python training/studies/latent_rank/protein.py gfp after model_cards/eddpm-gfp --data train.csv.gz \\
        --dev validation.csv.gz

The latents are sampled with the noise as it comes (scale 1), the proteins of the evaluation with the checkpoint's own.
"""

import argparse
import json
from pathlib import Path

import torch
from report import write_report

from hf_eddpm import EDDPMPipeline
from hf_eddpm.diagnostics import covariance_eigenvalues, spectrum_statistics
from hf_eddpm.modalities.protein.data import load_proteins
from hf_eddpm.training.evaluation import reach_statistics

FOLDER = Path(__file__).resolve().parent


def main(words: list[str] | None = None) -> None:
    """Writes the row and the report."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", help="Of the data set.")
    parser.add_argument("checkpoint", choices=("before", "after"), help="Which of the two it is.")
    parser.add_argument("folder", type=Path, help="The checkpoint, with its evaluation.json.")
    parser.add_argument("--data", required=True, help="Training data.")
    parser.add_argument("--dev", required=True, help="Held-out data.")
    parser.add_argument("--num_train", type=int, default=10_000, help="Training data to encode, at most.")
    parser.add_argument("--num_dev", type=int, default=2000, help="Held-out data to encode, at most.")
    parser.add_argument("--num_samples", type=int, default=1000, help="Sampled latents.")
    parser.add_argument("--steps", type=int, default=20, help="Steps of sampling.")
    given = parser.parse_args(words)
    evaluation = json.loads((given.folder / "evaluation.json").read_text(encoding="utf-8"))
    pipe = EDDPMPipeline.from_pretrained(given.folder)
    pipe.set_progress_bar_config(disable=True)
    real, unseen = (
        pipe.encode(load_proteins(source).sample(most, 0).sequences, 250).latents.float()
        for source, most in ((given.data, given.num_train), (given.dev, given.num_dev))
    )
    generator = torch.Generator().manual_seed(0)
    sampled = pipe(
        given.num_samples, num_inference_steps=given.steps, noise_scale=1.0, generator=generator, output_type="latent"
    ).latents.float()
    reach = reach_statistics(sampled, unseen, real)
    row = {
        "data": given.name,
        "checkpoint": given.checkpoint,
        **spectrum_statistics(covariance_eigenvalues(unseen), pipe.model.config.encoder_noise_variance),
        "exact_match": evaluation["reconstruction"]["exact_match"],
        "refined_exact_match": evaluation["refined_reconstruction"]["10"]["exact_match"],
        "pearson": evaluation["fitness"]["fitness"]["model"]["pearson"],
        "noise_scale": pipe.config.default_noise_scale,
        "sample_frechet": evaluation["samples"][str(given.steps)]["frechet"]["mean"],
        "unique": evaluation["samples"][str(given.steps)]["uniqueness"]["mean"],
        "neighbor_ratio": reach["neighbor_ratio"],
        "latent_frechet_ratio": reach["frechet"] / reach["real_frechet"],
    }
    output = FOLDER / "results" / f"{given.name}-checkpoint-{given.checkpoint}.json"
    output.write_text(json.dumps(row, indent=1) + "\n", encoding="utf-8")
    write_report(FOLDER / "results", FOLDER)


if __name__ == "__main__":
    main()
