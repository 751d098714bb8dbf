"""The page on adding a modality is executed: a fourth kind of data is trained, saved, loaded and sampled."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "guides" / "adding-a-modality.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)


def test_a_modality_is_less_than_150_lines():
    assert sum(len(block.splitlines()) for block in BLOCKS[:-1]) < 150


def test_the_page_trains_saves_loads_and_samples_rows_of_numbers(tmp_path):
    (tmp_path / "rows").mkdir()
    for block in BLOCKS[:-1]:
        name = re.match(r"# (rows/\w+\.py)\n", block)[1]
        (tmp_path / name).write_text(block, encoding="utf-8")
    (tmp_path / "script.py").write_text(BLOCKS[-1], encoding="utf-8")
    result = subprocess.run(
        [sys.executable, "script.py"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{tmp_path}", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    error, mean, deviation = map(float, re.findall(r"-?\d+\.\d+", result.stdout.split("error of")[1]))
    assert error < 0.1  # of values whose standard deviation is about 0.4
    assert mean == pytest.approx(1.0, abs=0.1) and deviation == pytest.approx(0.41, abs=0.12)
