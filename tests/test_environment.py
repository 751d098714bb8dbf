"""What a measurement says it was made with."""

import subprocess

import torch

from hf_eddpm.training import environment
from hf_eddpm.training.environment import describe_environment, find_commit


def _git(folder, *words):
    identity = ["-c", "user.name=someone", "-c", "user.email=someone@example.org"]
    return subprocess.run(
        ["git", "-C", str(folder), *identity, *words], check=True, capture_output=True, text=True
    ).stdout.strip()


def test_the_commit_is_named_and_whether_files_differ_from_it(tmp_path):
    assert find_commit(tmp_path) is None
    _git(tmp_path, "init")
    assert find_commit(tmp_path) is None  # nothing committed yet
    (tmp_path / "a.txt").write_text("a")
    _git(tmp_path, "add", "a.txt")
    _git(tmp_path, "commit", "-m", "first")
    commit = _git(tmp_path, "rev-parse", "HEAD")
    (tmp_path / "result.json").write_text("{}")  # what a run writes is no change
    assert find_commit(tmp_path) == commit
    (tmp_path / "a.txt").write_text("b")
    assert find_commit(tmp_path) == f"{commit} with changes"
    (tmp_path / "below").mkdir()
    assert find_commit(tmp_path / "below") is None  # a folder in somebody else's repository


def test_results_name_hardware_versions_and_the_commit_where_there_is_one(monkeypatch):
    monkeypatch.setattr(environment, "COMMIT", "0" * 40)
    described = describe_environment(torch.device("cpu"), ("numpy",))
    assert described["commit"] == "0" * 40 and "CPU cores" in described["hardware"]
    assert {"torch", "transformers", "diffusers", "hf_eddpm", "numpy"} <= described["versions"].keys()
    monkeypatch.setattr(environment, "COMMIT", None)
    assert "commit" not in describe_environment(torch.device("cpu"))
