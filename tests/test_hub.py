"""Loading from and pushing to the Hub: huggingface_hub unmodified, against a server on the loopback interface.

huggingface_hub reads its settings when it is imported, so all of it happens in one other process, whose report the
tests read.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import SENTENCES
from hub_server import HubServer
from huggingface_hub import ModelCard

SESSION = """
import json, sys
import torch
from transformers import TrainingArguments
from conftest import SENTENCES
from hf_eddpm import EDDPMPipeline, EDDPMTrainer

report_file, folder = sys.argv[1:]
torch.set_num_threads(1)

def attempt(load):
    try:
        return type(load()).__name__
    except Exception as error:
        return f"{type(error).__name__}: {error}"

pipe = EDDPMPipeline.from_pretrained("user/tiny")
report = {"class": type(pipe).__name__, "latents": pipe.encode(SENTENCES).latents.tolist()}
report["offline"] = attempt(lambda: EDDPMPipeline.from_pretrained("user/tiny", local_files_only=True))
report["no such repository"] = attempt(lambda: EDDPMPipeline.from_pretrained("user/absent"))
report["no such revision"] = attempt(lambda: EDDPMPipeline.from_pretrained("user/tiny", revision="absent"))

pipe.push_to_hub("user/pushed")
pushed = EDDPMPipeline.from_pretrained("user/pushed")
report["latents after push"] = pushed.encode(SENTENCES).latents.tolist()
pipe.save_pretrained(folder + "/saved-and-pushed", push_to_hub=True)

def trainer(name, **arguments):
    defaults = {"max_steps": 2, "per_device_train_batch_size": 4, "report_to": "none", "use_cpu": True}
    arguments = TrainingArguments(f"{folder}/{name}", **{**defaults, "save_strategy": "no", **arguments})
    return EDDPMTrainer(pipe.model, arguments, pipe.processor, train_dataset=SENTENCES, ema_decay=0.5)

by_hand = trainer("by-hand")
by_hand.train()
by_hand.push_to_hub()
report["trained"] = by_hand.build_pipeline().encode(SENTENCES).latents.tolist()

on_the_way = trainer("on-the-way", push_to_hub=True, save_strategy="steps", save_steps=1, hub_always_push=True)
on_the_way.train()
on_the_way.push_to_hub()
json.dump(report, open(report_file, "w"))
"""


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    with HubServer() as server:
        yield server


@pytest.fixture(scope="module")
def saved(tmp_path_factory, make_pipe):
    """A saved pipeline with a README.md and a file of a kind that has no business in a checkpoint."""
    folder = tmp_path_factory.mktemp("hub") / "tiny"
    make_pipe().save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\n---\nA tiny one.\n")
    (folder / "optimizer.pt").write_bytes(b"pickled")
    return folder


@pytest.fixture(scope="module")
def report(hub, saved, tmp_path_factory):
    folder = tmp_path_factory.mktemp("session")
    hub.add_folder("user/tiny", saved)
    root = Path(__file__).parent.parent
    clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment = {
        **clean,
        **hub.environment(folder / "home"),
        "PYTHONPATH": os.pathsep.join(str(root / name) for name in ("src", "training", "tests")),
    }
    result = subprocess.run(
        [sys.executable, "-c", SESSION, str(folder / "report.json"), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    return json.loads((folder / "report.json").read_text())


def test_a_hub_id_loads_the_pipeline_that_was_uploaded(hub, report, make_pipe):
    assert report["class"] == "EDDPMPipeline"
    expected = make_pipe().encode(SENTENCES).latents
    torch.testing.assert_close(torch.tensor(report["latents"]), expected)


def test_only_what_a_checkpoint_consists_of_is_downloaded(hub, report):
    fetched = {request.split("/", 5)[-1] for request in hub.requests if request.startswith("GET /user/tiny/resolve/")}
    assert "model/model.safetensors" in fetched and "README.md" in fetched
    assert "optimizer.pt" not in fetched


def test_a_downloaded_pipeline_loads_again_without_the_network(report):
    assert report["offline"] == "EDDPMPipeline"


def test_a_repository_or_revision_that_is_not_there_is_named_in_the_error(report):
    assert report["no such repository"].startswith("RepositoryNotFoundError")
    assert "user/absent" in report["no such repository"]
    assert report["no such revision"].startswith("RevisionNotFoundError")
    assert "absent" in report["no such revision"]


@pytest.mark.parametrize("repo", ["user/pushed", "user/saved-and-pushed", "user/by-hand", "user/on-the-way"])
def test_only_safetensors_and_text_are_offered_to_the_hub(hub, report, repo):
    text = (".json", ".jsonl", ".txt", ".md", ".jinja")
    assert [path for path in sorted(hub.offered[repo]) if not path.endswith((".safetensors", *text))] == []
    assert set(hub.files(repo)) <= hub.offered[repo]


@pytest.mark.parametrize("repo", ["user/pushed", "user/saved-and-pushed", "user/by-hand", "user/on-the-way"])
def test_a_whole_pipeline_reaches_the_hub(hub, report, repo):
    wanted = {"model_index.json", "model/config.json", "model/model.safetensors", "scheduler/scheduler_config.json"}
    assert wanted <= set(hub.files(repo))
    assert any(path.startswith("processor/") for path in hub.files(repo))


def test_a_pushed_pipeline_loads_from_the_hub_and_gives_the_same_latents(report):
    assert report["latents after push"] == report["latents"]


def test_the_trainer_pushes_the_averaged_weights_it_ends_with(hub, report, make_pipe, tmp_path):
    for path, content in hub.files("user/by-hand").items():
        (tmp_path / "pulled" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "pulled" / path).write_bytes(content)
    pulled = type(make_pipe()).from_pretrained(tmp_path / "pulled")
    torch.testing.assert_close(pulled.encode(SENTENCES).latents, torch.tensor(report["trained"]))
    assert report["trained"] != report["latents"]


def test_a_pushed_pipeline_has_a_model_card(hub, report):
    card = ModelCard(hub.files("user/pushed")["README.md"].decode())
    assert card.data.library_name == "diffusers"
