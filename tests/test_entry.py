"""The entry points of training and evaluation, and the scripts over them."""

import builtins
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from hf_eddpm.training import entry

ROOT = Path(__file__).parent.parent


@pytest.mark.parametrize(
    ("task", "modality", "message"),
    [
        ("tune", "text", "`task` must be 'train' or 'evaluate', got 'tune'"),
        ("train", "sound", "`modality` must be one"),
    ],
)
def test_an_entry_point_that_does_not_exist_is_refused_by_name(task, modality, message):
    with pytest.raises(ValueError, match=message):
        entry.run_modality(task, modality, [])


@pytest.mark.parametrize("script", ["train.py", "evaluate.py"])
def test_a_script_without_a_known_first_word_says_which_it_takes(script):
    command = [sys.executable, str(ROOT / "training" / script)]
    assert "--help" in subprocess.run(command, capture_output=True, text=True, check=True).stdout
    result = subprocess.run([*command, "sound"], capture_output=True, text=True)
    assert result.returncode == 1 and "text, protein, image" in result.stderr and "'sound'" in result.stderr


def test_the_script_evaluate_does_not_hide_the_library_of_that_name():
    command = [sys.executable, str(ROOT / "training" / "evaluate.py"), "protein", "--help"]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0 and "--checkpoint" in result.stdout, result.stderr[-3000:]


@pytest.mark.parametrize(
    ("module", "library", "extra"),
    [
        ("modalities.text.metrics", "sklearn", "train"),
        ("modalities.protein.metrics", "scipy", "train"),
        ("modalities.image.metrics", "scipy", "train"),
        ("bulk.parts", "pyarrow", "train"),
        ("bulk.ray_engine", "ray", "ray"),
    ],
)
def test_a_library_that_is_not_installed_is_asked_for_by_the_name_of_its_extra(module, library, extra, monkeypatch):
    real = builtins.__import__

    def missing(name, *arguments, **others):
        if name.split(".")[0] == library:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return real(name, *arguments, **others)

    monkeypatch.delitem(sys.modules, f"hf_eddpm.{module}", raising=False)
    monkeypatch.setattr(builtins, "__import__", missing)
    with pytest.raises(ImportError, match=rf'{library}.*pip install "hf_eddpm\[{extra}\]"'):
        importlib.import_module(f"hf_eddpm.{module}")


def test_the_training_folder_holds_scripts_configurations_and_studies_with_a_readme_each():
    top = {path.name for path in (ROOT / "training").iterdir() if path.name != "__pycache__"}
    assert top == {"train.py", "evaluate.py", "README.md", "configs", "studies"}
    studies = [
        path for path in (ROOT / "training" / "studies").iterdir() if path.is_dir() and path.name != "__pycache__"
    ]
    assert [path.name for path in studies if not (path / "README.md").is_file()] == []
