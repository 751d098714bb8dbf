"""Checkpoints that bring this package's code along, loaded where the package cannot be imported."""

import json
import os
import subprocess
import sys

import pytest
import torch
from conftest import SENTENCES
from hub_server import HubServer

from hf_eddpm import EDDPMModel, EDDPMPipeline
from hf_eddpm.hub.lora import add_lora
from hf_eddpm.hub.remote_code import BUNDLE, write_code

# Names the classes by the libraries alone. The tests' own environment has the package, so the subprocess takes it out
# of the sight of every finder that was there at the start.
LOAD = """
import json, sys

class WithoutThePackage:
    def __init__(self, finder):
        self.finder = finder

    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] == "hf_eddpm" else self.finder.find_spec(name, path, target)

    def __getattr__(self, name):
        return getattr(self.finder, name)

sys.meta_path[:] = [WithoutThePackage(finder) for finder in sys.meta_path]
import torch
from diffusers import DiffusionPipeline
from transformers import AutoModel

where, subfolder, sentences, hub = sys.argv[1], sys.argv[2], json.loads(sys.argv[3]), sys.argv[4] == "hub"
torch.set_num_threads(1)
model = AutoModel.from_pretrained(where, subfolder=subfolder, trust_remote_code=True)
pipe = DiffusionPipeline.from_pretrained(where, trust_remote_code=True)
pipe.set_progress_bar_config(disable=True)
other = pipe.model.state_dict()
same = all(torch.equal(value, other[name]) for name, value in model.state_dict().items())
print(json.dumps({
    "class": type(pipe).__name__,
    "model": type(model).__name__,
    "same": same,
    "latents": pipe.encode(sentences).latents.tolist(),
    "samples": pipe(num_samples=2, num_inference_steps=2, generator=torch.Generator().manual_seed(0)).samples,
}))
"""


def _load_without_the_package(where, home, environment, hub=""):
    clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH" and "proxy" not in name.lower()}
    result = subprocess.run(
        [sys.executable, "-c", LOAD, str(where), "model", json.dumps(SENTENCES), hub],
        env={**clean, "HF_HOME": str(home), **environment},
        cwd=home,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads(result.stdout.splitlines()[-1])


def _check(report, pipe):
    assert (report["class"], report["model"], report["same"]) == ("EDDPMPipeline", "EDDPMModel", True)
    torch.testing.assert_close(torch.tensor(report["latents"]), pipe.encode(SENTENCES).latents)
    assert report["samples"] == pipe(2, 2, generator=torch.Generator().manual_seed(0)).samples


@pytest.fixture
def folder(make_pipe, tmp_path):
    make_pipe().save_pretrained(tmp_path / "tiny")
    write_code(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.mark.parametrize("source", ["folder", pytest.param("hub", marks=pytest.mark.slow)])
def test_a_repository_with_code_loads_without_the_package(source, folder, make_pipe, tmp_path):
    (tmp_path / "home").mkdir()
    if source == "folder":
        report = _load_without_the_package(folder, tmp_path / "home", {"HF_HUB_OFFLINE": "1"})
    else:
        with HubServer() as server:
            server.add_folder("user/with-code", folder)
            environment = server.environment(tmp_path / "home")
            report = _load_without_the_package("user/with-code", tmp_path / "home", environment, "hub")
    _check(report, make_pipe())


def test_a_repository_with_code_loads_with_the_package_and_runs_none_of_it(folder, make_pipe):
    for place in (folder, folder / "model", folder / "processor", folder / "scheduler"):
        (place / f"{BUNDLE}.py").write_text("raise RuntimeError\n")
    pipe = EDDPMPipeline.from_pretrained(folder, verify=False)
    assert torch.equal(pipe.encode(SENTENCES).latents, make_pipe().encode(SENTENCES).latents)
    assert type(EDDPMModel.from_pretrained(folder / "model")) is EDDPMModel
    pipe.save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    assert index["_class_name"] == "EDDPMPipeline" and index["model"] == ["hf_eddpm.modeling_eddpm", "EDDPMModel"]


def test_code_goes_with_whole_weights_only(make_pipe, tmp_path):
    with pytest.raises(ValueError, match="must be a saved pipeline"):
        write_code(tmp_path)
    make_pipe().save_pretrained(tmp_path / "base")
    pipe = EDDPMPipeline.from_pretrained(tmp_path / "base")
    add_lora(pipe.model, target_modules=["q_proj"])
    pipe.save_pretrained(tmp_path / "adapter")
    with pytest.raises(ValueError, match="`with_code` needs whole weights"):
        write_code(tmp_path / "adapter")
