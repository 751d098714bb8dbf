"""What a checkpoint samples with where a call says nothing: its scheduler, numbers of steps and noise scale.

    python -m hf_eddpm.training.sampler model_cards/eddpm-gfp --steps 20 --noise_scale 1.2
    python -m hf_eddpm.training.sampler model_cards/eddpm-gfp --scheduler ddim --steps 100

The training scripts of proteins and images save their pipelines with twenty steps of DPM-Solver++, which on every
such checkpoint measured are better than fifty of DDIM. Those of text start with DDIM. This command
changes a saved pipeline's choice; the weights stay, and what was measured with another scheduler is measured anew by
the evaluation scripts' `--keep`.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from diffusers import DPMSolverMultistepScheduler

from ..hub.checksums import renew_checksums
from ..hub.saving import CHECKSUMS_FILE
from ..pipeline_eddpm import EDDPMPipeline
from ..scheduling_eddpm import EDDPMScheduler

STEPS = 20


def use_solver(pipe: EDDPMPipeline, steps: int = STEPS, noise_scale: float = 1.0) -> None:
    """Makes DPM-Solver++ with Karras' spacing a pipeline's own scheduler, and that of a decoder that is a chain.

    On a chain of constant beta evenly spaced steps leave out the last ones, where detail is decided; these do not. On
    the pixels' chain the clean estimate is clipped to their range, which the solver calls thresholding.
    """
    config = EDDPMScheduler(**pipe.model.config.scheduler_config).config
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(config, use_karras_sigmas=True)
    if pipe.decoder_scheduler is not None:
        pipe.decoder_scheduler = DPMSolverMultistepScheduler.from_config(
            pipe.decoder_scheduler.config, use_karras_sigmas=True, thresholding=True, sample_max_value=1.0
        )
        pipe.register_to_config(default_num_decoder_steps=steps)
    pipe.register_to_config(default_num_inference_steps=steps, default_noise_scale=noise_scale)


def main(words: Sequence[str] | None = None) -> None:
    """Changes the choice of the pipeline that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("checkpoint", type=Path, help="folder of the pipeline")
    parser.add_argument("--scheduler", choices=("dpm", "ddim"), default="dpm", help="DPM-Solver++ or DDIM")
    parser.add_argument("--steps", type=int, default=STEPS, help="steps of the chain")
    parser.add_argument("--decoder_steps", type=int, help="steps of a decoder that is a chain; by default as many")
    parser.add_argument("--noise_scale", type=float, default=1.0, help="standard deviation of the first noise")
    arguments = parser.parse_args(words)
    folder = arguments.checkpoint
    pipe = EDDPMPipeline.from_pretrained(folder)
    use_solver(pipe, arguments.steps, arguments.noise_scale)
    if arguments.scheduler == "ddim":
        pipe.scheduler = EDDPMScheduler(**pipe.model.config.scheduler_config)
        if pipe.decoder_scheduler is not None:
            pipe.decoder_scheduler = EDDPMScheduler(**pipe.model.decoder.scheduler_config)
    defaults = {"default_num_inference_steps": arguments.steps, "default_noise_scale": arguments.noise_scale}
    if pipe.decoder_scheduler is not None:
        decoder_steps = arguments.steps if arguments.decoder_steps is None else arguments.decoder_steps
        defaults["default_num_decoder_steps"] = decoder_steps
    elif arguments.decoder_steps is not None:
        raise ValueError(f"`decoder_steps` is for a decoder that is a chain, and {folder} has none.")
    EDDPMPipeline(**pipe.components, **defaults)  # checks them
    schedulers = {"scheduler": pipe.scheduler, "decoder_scheduler": pipe.decoder_scheduler}
    file = folder / "model_index.json"
    index = json.loads(file.read_text(encoding="utf-8"))
    changed = [file]
    for name, scheduler in schedulers.items():
        if scheduler is not None:
            scheduler.save_pretrained(folder / name)
            changed.append(folder / name / "scheduler_config.json")
            library = type(scheduler).__module__
            index[name] = [library if library.startswith("hf_eddpm") else "diffusers", type(scheduler).__name__]
    index |= defaults
    file.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    if (folder / CHECKSUMS_FILE).is_file():
        renew_checksums(folder, changed)


if __name__ == "__main__":
    main()
