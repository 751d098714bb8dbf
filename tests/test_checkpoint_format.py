"""The version of the checkpoint format: the one before loads with equal outputs, a later one is refused."""

import json
import os
import shutil
from pathlib import Path

import pytest
import torch

from hf_eddpm import EDDPMPipeline
from hf_eddpm.hub import saving, storage

CARDS = Path(__file__).parent.parent / "model_cards"
OLD_MODULES = {new: old for old, new in storage._MODULES_OF_FORMAT_1.items()}


def _index(folder):
    return json.loads((folder / "model_index.json").read_text(encoding="utf-8"))


def _copy(name, folder, change):
    shutil.copytree(CARDS / name, folder)
    index = _index(folder)
    change(index)
    (folder / "model_index.json").write_text(json.dumps(index), encoding="utf-8")
    saving.write_checksums(folder)
    return folder


def _to_format_1(index):
    index.pop("_format_version")
    index["processor"][0] = OLD_MODULES[index["processor"][0]]


@pytest.mark.parametrize("name", ["eddpm-yelp", "eddpm-gifford", "eddpm-digits"])
def test_format_1_loads_with_outputs_that_are_equal_to_the_bit(name, tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr(storage.logger, "warning", warnings.append)
    now = EDDPMPipeline.from_pretrained(CARDS / name)
    assert not warnings
    before = EDDPMPipeline.from_pretrained(_copy(name, tmp_path / "old", _to_format_1))
    (warning,) = warnings
    assert "is saved in format 1" in warning and "pipe.save_pretrained(folder)" in warning
    drawn = []
    for pipe in (now, before):
        pipe.set_progress_bar_config(disable=True)
        drawn.append(pipe(num_samples=2, num_inference_steps=3, generator=torch.Generator().manual_seed(0)))
    assert torch.equal(drawn[0].latents, drawn[1].latents)
    assert [str(sample) for sample in drawn[0].samples if isinstance(sample, str)] == [
        str(sample) for sample in drawn[1].samples if isinstance(sample, str)
    ]
    assert torch.equal(now.encode(drawn[0].samples).latents, before.encode(drawn[1].samples).latents)
    before.save_pretrained(tmp_path / "renewed")
    assert _index(tmp_path / "renewed")["_format_version"] == storage.FORMAT_VERSION
    assert _index(tmp_path / "renewed")["processor"] == _index(CARDS / name)["processor"]
    EDDPMPipeline.from_pretrained(tmp_path / "renewed")
    assert len(warnings) == 1


@pytest.mark.parametrize("version", [storage.FORMAT_VERSION + 1, 0, "2", True, None])
def test_a_format_that_this_version_does_not_know_is_refused(version, tmp_path):
    folder = _copy("eddpm-gifford", tmp_path / "new", lambda index: index.update(_format_version=version))
    with pytest.raises(OSError, match="Upgrade hf_eddpm"):
        EDDPMPipeline.from_pretrained(folder)


def test_the_shipped_checkpoints_are_of_this_version():
    assert {_index(folder)["_format_version"] for folder in CARDS.iterdir()} == {storage.FORMAT_VERSION}


@pytest.mark.skipif(os.name == "nt", reason="no such modes")
@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_whoever_may_read_a_new_file_may_read_every_file_of_a_saved_pipeline(pipe, tmp_path, mask):
    before = os.umask(mask)
    try:
        pipe.save_pretrained(tmp_path / "saved")
    finally:
        os.umask(before)
    modes = {path.stat().st_mode & 0o777 for path in (tmp_path / "saved").rglob("*") if path.is_file()}
    assert modes == {0o666 & ~mask}
