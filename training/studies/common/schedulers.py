"""The schedulers that studies of few steps and of speed compare."""

from collections.abc import Callable
from typing import Any

from diffusers import DPMSolverMultistepScheduler, UniPCMultistepScheduler

from hf_eddpm import EDDPMScheduler

SCHEDULERS: dict[str, Callable[[dict[str, Any]], Any]] = {
    "DDIM": EDDPMScheduler.from_config,
    "DPM-Solver++ (Karras)": lambda config: DPMSolverMultistepScheduler.from_config(config, use_karras_sigmas=True),
    "UniPC (Karras)": lambda config: UniPCMultistepScheduler.from_config(config, use_karras_sigmas=True),
}
