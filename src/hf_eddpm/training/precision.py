"""Which floating-point type a training multiplies in: what the machine's hardware can do, and the choice among it.

Sources: transformers' `TrainingArguments` refuses `bf16=True` only where neither `use_cpu` nor an accelerator is given
and never looks at the processor, so that a CPU without bfloat16 instructions emulates them, slower than float32. The
instructions are AVX512-BF16 and AMX-BF16 (Intel 64 and IA-32 Architectures Software Developer's Manual, volume 2);
Linux names them `avx512_bf16` and `amx_bf16` in /proc/cpuinfo, and `bf16` those of Arm. float16 autocast needs an
accelerator: accelerate refuses it on a CPU.

To have the instructions is not to gain by them. One core of an Intel Xeon of model 207 multiplies 155 GFLOP/s in
float32 and, where a virtual machine hides AMX from it, 82 in bfloat16; with AMX it is several times as fast as in
float32. So "auto" tries it: a tenth of a second, once in a process.
"""

import re
import time
from functools import cache
from pathlib import Path

import torch
from transformers.utils import is_torch_bf16_gpu_available

PRECISIONS = ("auto", "bf16", "fp16", "fp32")
DTYPE_NAMES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}

_CPUINFO = Path("/proc/cpuinfo")
_CPU_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def cpu_multiplies_bf16() -> bool:
    """Return whether the CPU has instructions that multiply bfloat16 numbers."""
    if _CPUINFO.is_file():
        text = _CPUINFO.read_text(encoding="utf-8", errors="replace")
        # One line for each core, all alike; Arm calls them features.
        flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.MULTILINE)
        return flags is not None and not _CPU_FLAGS.isdisjoint(flags[1].split())
    supported = getattr(torch.cpu, "_is_avx512_bf16_supported", None)  # private, and not in every release
    return bool(supported is not None and supported())


@cache
def cpu_gains_by_bf16() -> bool:
    """Return whether a product of bfloat16 matrices is clearly faster here than one of float32, by the best of five.

    Clearly: it takes at most four fifths of the time, since autocast adds the rounding of weights and inputs.
    """
    seconds = []
    for dtype in (torch.float32, torch.bfloat16):
        inputs, weights = torch.ones(512, 1024, dtype=dtype), torch.ones(1024, 1024, dtype=dtype)
        tries = []
        for _ in range(5):
            start = time.perf_counter()
            torch.nn.functional.linear(inputs, weights)
            tries.append(time.perf_counter() - start)
        seconds.append(min(tries))
    return seconds[1] < 0.8 * seconds[0]


def has_accelerator(use_cpu: bool = False) -> bool:
    """Return whether a training runs on an accelerator (CUDA, MPS, XPU and the like)."""
    return not use_cpu and torch.accelerator.is_available()


def available_precisions(use_cpu: bool = False) -> tuple[str, ...]:
    """Return the precisions that the hardware has, of "bf16", "fp16" and "fp32".

    Args:
        use_cpu: Whether the training stays on the CPU although there is an accelerator.
    """
    if not has_accelerator(use_cpu):
        return ("bf16", "fp32") if cpu_multiplies_bf16() else ("fp32",)
    if torch.cuda.is_available():
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
    else:
        bf16 = is_torch_bf16_gpu_available()
    return ("bf16", "fp16", "fp32") if bf16 else ("fp16", "fp32")


def choose_precision(precision: str, use_cpu: bool = False, argument: str = "precision") -> str:
    """Return the precision to train in: what was named, or for "auto" bf16 where the hardware gains by it, else fp32.

    Args:
        precision: One of "auto", "bf16", "fp16", "fp32".
        use_cpu: Whether the training stays on the CPU although there is an accelerator.
        argument: What the user named it by, for the error.

    Raises:
        ValueError: `precision` is none of these, or this machine lacks it.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"`precision` must be one of {', '.join(PRECISIONS)}, got {precision!r}.")
    available = available_precisions(use_cpu)
    if precision == "auto":
        gains = "bf16" in available and (has_accelerator(use_cpu) or cpu_gains_by_bf16())
        return "bf16" if gains else "fp32"
    if precision not in available:
        device = "accelerator" if has_accelerator(use_cpu) else "CPU"
        raise ValueError(
            f"`{argument}` must be one of auto, {', '.join(available)} on this machine's {device}, got {precision!r}."
        )
    return precision
