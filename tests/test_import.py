"""What importing the package costs and needs."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
OPTIONAL = (
    "datasets",
    "sacrebleu",
    "sklearn",
    "matplotlib",
    "pandas",
    "pyarrow",
    "rapidfuzz",
    "scipy",
    "bitsandbytes",
)

# Another package's import counts as its own: what ours adds is measured after them.
IMPORT = f"""
import sys, time

sys.modules.update(dict.fromkeys({OPTIONAL!r}))  # as if they were not installed
import torch, transformers, diffusers
from transformers import AutoModelForCausalLM, PreTrainedModel, ProcessorMixin, Trainer
from diffusers import DiffusionPipeline, SchedulerMixin
from diffusers.training_utils import EMAModel
start = time.process_time()
import hf_eddpm
print(time.process_time() - start, "hf_eddpm.lora" in sys.modules)
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
