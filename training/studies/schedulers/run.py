"""Measures which schedulers of diffusers run a checkpoint's chain: how far their latents are from 200 DDIM steps'.

    python training/studies/schedulers/run.py model_cards/eddpm-yelp

For each scheduler class that `from_config` makes of the checkpoint's schedule:

- the squared distance from the latents of 200 DDIM steps from the same noise, relative to their variance (it says
  nothing of schedulers that add noise on the way),
- the Frechet distance between the two sets of latents, and their standard deviation.

Refused ones are listed with the reason.
"""

import argparse
import inspect
import json
import warnings
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler

from hf_eddpm import EDDPMPipeline
from hf_eddpm.hub.card import markdown_table
from hf_eddpm.metrics.frechet_distance import frechet_distance

FOLDER = Path(__file__).parent / "results"


def scheduler_classes() -> list[type]:
    """Every scheduler class of the installed diffusers, by name."""
    names = sorted(name for name in dir(diffusers) if name.endswith("Scheduler"))
    return [each for each in (getattr(diffusers, name) for name in names) if inspect.isclass(each)]


def measure(checkpoint: str, num_samples: int, num_steps: int) -> list[dict[str, Any]]:
    """One row for each scheduler."""
    pipe = EDDPMPipeline.from_pretrained(checkpoint)
    pipe.set_progress_bar_config(disable=True)
    config = pipe.model.scheduler.config  # the bare schedule, whatever solver the checkpoint has
    shape = (num_samples, pipe.model.config.num_latents, pipe.model.config.latent_dim)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))

    def sample(steps: int) -> torch.Tensor:
        generator = torch.Generator().manual_seed(1)
        return pipe(
            latents=noise, noise_scale=1.0, num_inference_steps=steps, output_type="latent", generator=generator
        ).latents

    pipe.scheduler = DDIMScheduler.from_config(config)
    reference = sample(200)
    rows = []
    for scheduler_class in scheduler_classes():
        row: dict[str, Any] = {"scheduler": scheduler_class.__name__}
        try:
            pipe.scheduler = scheduler_class.from_config(config)
            latents = sample(num_steps)
            row |= {
                "relative squared distance": round(float((latents - reference).square().mean() / reference.var()), 4),
                "Frechet distance": round(
                    float(frechet_distance(latents.flatten(1).numpy(), reference.flatten(1).numpy())), 3
                ),
                "standard deviation": round(float(latents.std()), 3),
            }
        except (ValueError, TypeError, ImportError) as error:
            row["refused"] = " ".join(str(error).split())[:160]
        rows.append(row)
    rows.append({"scheduler": "200 DDIM steps", "standard deviation": round(float(reference.std()), 3)})
    return rows


def main() -> None:
    """Writes a JSON file and a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", help="Folder of a saved pipeline.")
    parser.add_argument("--num_samples", type=int, default=1000)
    parser.add_argument("--num_steps", type=int, default=50)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    rows = measure(arguments.checkpoint, arguments.num_samples, arguments.num_steps)
    name = Path(arguments.checkpoint).name
    FOLDER.mkdir(exist_ok=True)
    facts = {"checkpoint": name, "num_samples": arguments.num_samples, "num_steps": arguments.num_steps, "rows": rows}
    (FOLDER / f"{name}.json").write_text(json.dumps(facts, indent=2) + "\n", encoding="utf-8")
    taken = [{key: value for key, value in row.items() if key != "refused"} for row in rows if "refused" not in row]
    (FOLDER / f"{name}.md").write_text(markdown_table(taken) + "\n", encoding="utf-8")
    print(markdown_table(taken))
    print("\nrefused:", ", ".join(row["scheduler"] for row in rows if "refused" in row))


if __name__ == "__main__":
    main()
