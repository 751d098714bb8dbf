"""No tensor becomes float64 on a device that has none."""

import re
from pathlib import Path

import torch

from hf_eddpm.double_precision import as_double

SRC = Path(__file__).parent.parent / "src" / "hf_eddpm"
ON_THE_CPU = {  # whose tensors never leave it
    "double_precision.py",
    "scheduling_eddpm.py",
    "image_judge.py",
    "oracle.py",
    "metrics.py",
    "weight_files.py",
}
MAKES_DOUBLE = re.compile(r"\.double\(\)|\.to\([^)]*torch\.float64")


class OnMPS:
    """What `as_double` asks of a tensor that is on a device without float64."""

    device = torch.device("mps")

    def double(self):
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype")

    def cpu(self):
        return torch.tensor([1.5])


def test_numbers_of_a_device_without_float64_go_to_the_cpu():
    assert as_double(OnMPS()).dtype == torch.float64
    assert as_double(torch.tensor([1.5])).dtype == torch.float64


def test_what_becomes_float64_is_on_the_cpu_before():
    lines = [
        f"{path.name}:{number}: {line.strip()}"
        for path in SRC.rglob("*.py")
        if path.name not in ON_THE_CPU
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if MAKES_DOUBLE.search(line) and ".cpu()" not in line
    ]
    assert lines == []
