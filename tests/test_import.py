"""What importing the package costs and needs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
OPTIONAL = (
    "datasets",
    "sacrebleu",
    "sklearn",
    "matplotlib",
    "pandas",
    "pyarrow",
    "scipy",
    "bitsandbytes",
)

# Another package's import counts as its own: what ours adds is measured after them.
IMPORT = f"""
import sys, time

sys.modules.update(dict.fromkeys({OPTIONAL!r}))  # as if they were not installed
import torch, transformers, diffusers
from transformers import AutoModelForCausalLM, PreTrainedModel, ProcessorMixin
from diffusers import DiffusionPipeline, SchedulerMixin
start = time.process_time()
import hf_eddpm
print(time.process_time() - start, "hf_eddpm.hub.lora" in sys.modules)
"""


def test_the_package_imports_quickly_and_without_any_extra():
    result = subprocess.run(
        [sys.executable, "-c", IMPORT],
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": "", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    seconds, has_lora = result.stdout.split()
    assert float(seconds) < 2 and has_lora == "False"


HEAVY = ("sklearn", "scipy", "matplotlib", "datasets", "evaluate", "pandas", "pyarrow", "torchdiffeq")
MODULES = """
import json, sys
from diffusers import DiffusionPipeline
import transformers
before = [name for name in {heavy!r} if name in sys.modules]
import hf_eddpm
after = [name for name in {heavy!r} if name in sys.modules]
trainer = "transformers.trainer" in sys.modules
hf_eddpm.EDDPMTrainer, hf_eddpm.EDDPMPipeline
print(json.dumps([before, after, trainer]))
"""


def test_the_import_loads_nothing_heavy_that_diffusers_does_not_load_itself():
    result = subprocess.run(
        [sys.executable, "-c", MODULES.format(heavy=HEAVY)],
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": "", "HF_HUB_OFFLINE": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    before, after, trainer = json.loads(result.stdout)
    assert after == before
    assert not trainer, "what only training needs is imported with the package"
    assert not result.stderr, "the import says something that nobody can act on"


SESSION = """
import torch
from hf_eddpm import EDDPMPipeline

pipe = EDDPMPipeline.from_pretrained({folder!r})
generator = torch.Generator().manual_seed(0)
data = pipe(num_samples=3, num_inference_steps=3, generator=generator)
print(repr(data))
print(repr(pipe.encode(data.samples)))
print(repr(pipe.score(data.samples, num_timesteps=2)))
pipe.reconstruct(data.samples, refinement_steps=1)
pipe.interpolate(data.samples[:1], data.samples[1:2], num_steps=3, num_inference_steps=3)
pipe.edit(data.samples, direction=pipe.direction(data.samples[:1], data.samples[1:]))
if pipe.model.property_head is not None:
    print(repr(pipe.optimize(data.samples, num_steps=2)))
"""


@pytest.mark.parametrize("name", ["eddpm-yelp", "eddpm-gifford", "eddpm-digits"])
def test_a_normal_session_prints_nothing_but_results_and_these_fit_a_screen(name):
    folder = str(ROOT / "model_cards" / name)
    result = subprocess.run(
        [sys.executable, "-c", SESSION.format(folder=folder)],
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    assert not [line for line in result.stderr.splitlines() if "%|" not in line], result.stderr
    reprs = result.stdout.splitlines()
    assert len(reprs) >= 3
    assert all(len(line) < 80 * 24 for line in reprs)
