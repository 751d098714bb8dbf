import platform
import subprocess
import sys

import pytest

from hf_eddpm.allocator import keep_freed_memory

COUNT = """
import resource, sys, torch
from hf_eddpm.allocator import keep_freed_memory
kept = keep_freed_memory() if sys.argv[1] == "kept" else None
def use():
    block = torch.ones(2**24)
for _ in range(3):
    use()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    use()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before, kept)
"""


def _faults(how):
    answer = subprocess.run([sys.executable, "-c", COUNT, how], capture_output=True, text=True, check=True)
    return answer.stdout.split()


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_blocks_that_are_freed_are_used_again():
    faults, _ = _faults("freed")
    fewer, kept = _faults("kept")
    assert kept == "True"
    assert int(fewer) < int(faults) / 2


def test_another_c_library_is_left_alone(monkeypatch):
    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False
