"""Loading from and pushing to the Hub: huggingface_hub unmodified, against a server on the loopback interface.

huggingface_hub reads its settings when it is imported, so all of it happens in one other process, whose report the
tests read.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import SENTENCES
from hub_server import TOKEN, HubServer
from huggingface_hub import ModelCard

SESSION = """
import glob, json, logging, os, sys, time, urllib.request
import torch
from transformers import AutoModel, TrainingArguments
from transformers.utils import logging as transformers_logging
from conftest import SENTENCES
from hf_eddpm import EDDPMModel, EDDPMPipeline, EDDPMTrainer, TextDecoder, TextEncoder
from hf_eddpm.modalities.backbones import load_backbone
from hf_eddpm.hub.lora import add_lora

report_file, folder = sys.argv[1:]
torch.set_num_threads(1)
logging.basicConfig(level=logging.DEBUG)  # a token must not appear even so
transformers_logging.set_verbosity_debug()
wait = time.sleep
time.sleep = lambda seconds: wait(min(seconds, 0.01))  # huggingface_hub waits longer and longer between attempts

def attempt(load):
    try:
        return type(load()).__name__
    except Exception as error:
        return f"{type(error).__name__}: {error}"

def fail(pattern, how, times=1):
    body = json.dumps({"pattern": pattern, "how": how, "times": times}).encode()
    urllib.request.urlopen(urllib.request.Request(os.environ["HF_ENDPOINT"] + "/fail", body)).read()

load = EDDPMPipeline.from_pretrained
pipe = load("user/tiny")
latents = pipe.encode(SENTENCES).latents
report = {"class": type(pipe).__name__, "latents": latents.tolist()}

def same(other):
    return torch.equal(other.encode(SENTENCES).latents, latents)

report["offline"] = attempt(lambda: load("user/tiny", local_files_only=True))
report["no such repository"] = attempt(lambda: load("user/absent"))
report["no such revision"] = attempt(lambda: load("user/tiny", revision="absent"))
report["offline elsewhere"] = attempt(lambda: load("user/tiny", local_files_only=True, cache_dir=folder + "/empty"))
report["cache elsewhere"] = same(load("user/tiny", cache_dir=folder + "/cache")) and len(os.listdir(folder + "/cache"))
report["forced"] = attempt(lambda: load("user/tiny", force_download=True))

pipe.push_to_hub("user/pushed")
pushed = load("user/pushed")
report["latents after push"] = pushed.encode(SENTENCES).latents.tolist()
pipe.save_pretrained(folder + "/saved-and-pushed", push_to_hub=True)

def trainer(name, **arguments):
    defaults = {"max_steps": 2, "per_device_train_batch_size": 4, "report_to": "none", "use_cpu": True}
    arguments = TrainingArguments(f"{folder}/{name}", **{**defaults, "save_strategy": "no", **arguments})
    return EDDPMTrainer(pushed.model, arguments, pipe.processor, train_dataset=SENTENCES, ema_decay=0.5)

by_hand = trainer("by-hand")
by_hand.train()
by_hand.push_to_hub()
report["trained"] = by_hand.build_pipeline().encode(SENTENCES).latents.tolist()
first = pushed.push_to_hub("user/pushed").oid
report["revision"] = not same(load("user/pushed")) and not same(load("user/pushed", revision=first))
pipe.push_to_hub("user/pushed")
report["revision"] = report["revision"] and same(load("user/pushed")) and not same(load("user/pushed", revision=first))
pushed.push_to_hub("user/trained")

on_the_way = trainer("on-the-way", push_to_hub=True, save_strategy="steps", save_steps=1)
on_the_way.train()
on_the_way.push_to_hub()

# A model alone, a subfolder, a variant
pipe.model.push_to_hub("user/model")
report["model alone"] = [
    torch.equal(model.get_input_embeddings().weight, pipe.model.get_input_embeddings().weight)
    for model in (EDDPMModel.from_pretrained("user/model"), AutoModel.from_pretrained("user/model"))
]
pipe.push_to_hub("user/big", subfolder="models/pushed")
report["subfolder"] = [same(load("user/big", subfolder=name)) for name in ("models/tiny", "models/pushed")]
report["no such subfolder"] = attempt(lambda: load("user/big", subfolder="models/absent"))
pipe.push_to_hub("user/variant", variant="fp16")
report["variant"] = same(load("user/variant", variant="fp16"))
report["no variant"] = attempt(lambda: load("user/variant"))
report["no such variant"] = attempt(lambda: load("user/tiny", variant="fp16"))
report["pickle"] = attempt(lambda: load("user/pickle"))
report["model's pickle"] = attempt(lambda: EDDPMModel.from_pretrained("user/pickle", subfolder="model"))

# Who may
report["private without token"] = attempt(lambda: load("user/secret", token=False))
report["private, wrong token"] = attempt(lambda: load("user/secret", token="hf_wrongwrongwrong"))
report["private with token"] = same(load("user/secret", token=os.environ["HF_TOKEN"]))
report["push, wrong token"] = attempt(lambda: pipe.push_to_hub("user/denied", token="hf_wrongwrongwrong"))
pipe.push_to_hub("user/own-secret", private=True)

# An adapter whose base models are on the Hub
model = EDDPMModel.from_pretrained("user/model")
for part, part_class in (("encoder", TextEncoder), ("decoder", TextDecoder)):
    backbone = load_backbone(part, "user/" + part)
    setattr(model.config, part, backbone.config)
    setattr(model, part, part_class(model.config, backbone))
model.name_or_path = ""
add_lora(model, preset="paper")
adapted = EDDPMPipeline(model.eval(), pipe.scheduler, pipe.processor)
adapted.push_to_hub("user/adapter")
report["adapter"] = torch.equal(load("user/adapter").encode(SENTENCES).latents, adapted.encode(SENTENCES).latents)

# What goes wrong on the way
fail("GET /lfs/", "cut")
report["download cut once"] = same(load("user/tiny", cache_dir=folder + "/cut-once"))
fail("GET /lfs/", "cut", 100)
report["download cut"] = attempt(lambda: load("user/tiny", cache_dir=folder + "/cut"))
fail("", "", 0)
report["after the cut"] = attempt(lambda: load("user/tiny", cache_dir=folder + "/cut", local_files_only=True))
report["left of the cut"] = glob.glob(folder + "/cut/**/*.safetensors", recursive=True)
report["cut, then whole"] = same(load("user/tiny", cache_dir=folder + "/cut"))
for name, pattern, how in (
    ("file dropped", "PUT /lfs/", "drop"), ("file refused", "PUT /lfs/", "503"), ("commit dropped", "/commit/", "503")
):
    repo = "user/" + name.replace(" ", "-")
    pipe.push_to_hub(repo)
    with torch.no_grad():
        pipe.model.denoiser.output.bias += 1  # a file that the server does not know yet
    fail(pattern, how)
    report[name + " once"] = attempt(lambda: pipe.push_to_hub(repo))
    with torch.no_grad():
        pipe.model.denoiser.output.bias += 1
    fail(pattern, how, 100)
    report[name] = attempt(lambda: pipe.push_to_hub(repo))
    fail("", "", 0)
    report[name + ", loaded"] = attempt(lambda: load(repo))
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
def report(hub, saved, make_pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("session")
    hub.add_folder("user/tiny", saved)
    hub.add_folder("user/secret", saved)
    hub.private.add("user/secret")
    hub.add_folder("user/big", saved.parent)
    hub.add("user/big", {f"models/{name}": content for name, content in hub.files("user/big").items()})
    tiny = {name: content for name, content in hub.files("user/tiny").items() if name != "checksums.json"}
    tiny["model/pytorch_model.bin"] = tiny.pop("model/model.safetensors")
    hub.add("user/pickle", tiny)
    pipe = make_pipe()
    for part in ("encoder", "decoder"):
        getattr(pipe.model, part).backbone.save_pretrained(folder / part)
        hub.add_folder(f"user/{part}", folder / part)
    root = Path(__file__).parent.parent
    clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    environment = {
        **clean,
        **hub.environment(folder / "home"),
        "PYTHONPATH": os.pathsep.join(str(root / name) for name in ("src", "docs/examples", "tests")),
    }
    result = subprocess.run(
        [sys.executable, "-c", SESSION, str(folder / "report.json"), str(folder)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    errors = [line for line in result.stderr.splitlines() if not line.startswith("DEBUG:")]
    assert result.returncode == 0, "\n".join(errors[-60:])
    report = json.loads((folder / "report.json").read_text())
    return {**report, "output": result.stdout + result.stderr}


def test_a_hub_id_loads_the_pipeline_that_was_uploaded(hub, report, make_pipe):
    assert report["class"] == "EDDPMPipeline"
    expected = make_pipe().encode(SENTENCES).latents
    torch.testing.assert_close(torch.tensor(report["latents"]), expected)


def test_only_what_a_checkpoint_consists_of_is_downloaded(hub, report):
    fetched = {request.split("/", 5)[-1] for request in hub.requests if request.startswith("HEAD /user/tiny/resolve/")}
    assert "model/model.safetensors" in fetched and "README.md" in fetched
    assert "optimizer.pt" not in fetched


def test_a_downloaded_pipeline_loads_again_without_the_network(report):
    assert report["offline"] == "EDDPMPipeline"


def test_a_repository_or_revision_that_is_not_there_is_named_in_the_error(report):
    assert report["no such repository"].startswith("RepositoryNotFoundError")
    assert "user/absent" in report["no such repository"]
    assert report["no such revision"].startswith("RevisionNotFoundError")
    assert "absent" in report["no such revision"]


@pytest.mark.parametrize(
    "repo", ["user/pushed", "user/saved-and-pushed", "user/by-hand", "user/on-the-way", "user/model", "user/adapter"]
)
def test_only_safetensors_and_text_are_offered_to_the_hub(hub, report, repo):
    text = (".json", ".jsonl", ".txt", ".md", ".jinja", ".py")
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


def test_a_pushed_pipeline_has_the_card_it_was_loaded_with_as_long_as_its_weights_are_the_same(hub, report, saved):
    assert hub.files("user/pushed")["README.md"] == (saved / "README.md").read_bytes()
    card = ModelCard(hub.files("user/trained")["README.md"].decode())  # a new one
    assert card.data.library_name == "hf_eddpm" and "Not evaluated yet" in card.text


def test_a_revision_and_a_cache_folder_are_heeded(hub, report):
    assert report["revision"] and report["cache elsewhere"] >= 1
    assert report["offline elsewhere"].startswith("LocalEntryNotFoundError")
    assert report["forced"] == "EDDPMPipeline"


def test_a_model_alone_goes_to_the_hub_and_comes_back(hub, report):
    assert report["model alone"] == [True, True]
    assert {path for path in hub.files("user/model") if path != "README.md"} == {"config.json", "model.safetensors"}


def test_a_pipeline_in_a_subfolder_of_a_bigger_repository_loads_alone(hub, report):
    assert report["subfolder"] == [True, True]
    assert "is not a saved pipeline" in report["no such subfolder"]
    fetched = [request for request in hub.requests if re.match("(GET|HEAD) /user/big/resolve/", request)]
    assert fetched and all(re.search(r"/models/(tiny|pushed)/", request) for request in fetched)


def test_a_variant_of_the_weights_is_saved_and_loaded_by_its_name(hub, report):
    assert report["variant"] and "model/model.fp16.safetensors" in hub.files("user/variant")
    assert report["no variant"].startswith("OSError") and "model.safetensors" in report["no variant"]


def test_a_variant_that_is_not_there_is_named_as_diffusers_does(report):
    assert "You are trying to load the model files of the `variant=fp16`, but no such" in report["no such variant"]


@pytest.mark.parametrize("name", ["pickle", "model's pickle"])
def test_a_repository_with_a_pickle_alone_is_refused(hub, report, name):
    assert report[name].startswith("OSError") and "Only safetensors are loaded" in report[name]
    assert not [request for request in hub.requests if request.startswith("GET") and ".bin" in request]


def test_a_private_repository_needs_the_right_token(hub, report):
    assert report["private without token"].startswith("RepositoryNotFoundError")
    assert report["private, wrong token"].startswith(("RepositoryNotFoundError", "HfHubHTTPError"))
    assert "401" in report["private, wrong token"] and report["private with token"]
    assert report["push, wrong token"].startswith("HfHubHTTPError") and "401" in report["push, wrong token"]
    assert not hub.exists("user/denied") and "user/own-secret" in hub.private


def test_an_adapter_on_the_hub_finds_its_base_models_there(hub, report):
    assert report["adapter"]
    files = hub.files("user/adapter")
    bases = json.loads(files["adapter/base_models.json"])
    assert bases["encoder"] == {"name": "user/encoder", "revision": hub.commit("user/encoder", "main")[0]}
    assert "model/model.safetensors" not in files
    card = ModelCard(files["README.md"].decode())
    assert card.data.base_model == ["user/encoder", "user/decoder"] and card.data.base_model_relation == "adapter"
    assert {"peft", "lora"} <= set(card.data.tags)


def test_weights_go_the_lfs_way(hub, report):
    assert any(request.startswith("PUT /lfs/") for request in hub.requests)
    assert any(request.startswith("GET /lfs/") for request in hub.requests)


def test_a_download_that_breaks_off_is_taken_up_again_or_fails_and_leaves_nothing_that_loads(report):
    assert report["download cut once"]
    assert not report["download cut"].startswith("EDDPMPipeline")
    assert not report["after the cut"].startswith("EDDPMPipeline") and report["left of the cut"] == []
    assert report["cut, then whole"]


@pytest.mark.parametrize("name", ["file dropped", "file refused", "commit dropped"])
def test_an_upload_that_breaks_off_is_taken_up_again_or_fails_with_the_last_commit_in_place(report, name):
    # huggingface_hub sends a file again, a commit not
    assert report[f"{name} once"].startswith("HfHubHTTPError: " if name == "commit dropped" else "CommitInfo")
    assert re.match(r"\w*(Error|Exception)\w*: ", report[name]), report[name]
    assert report[f"{name}, loaded"] == "EDDPMPipeline"


def test_no_token_is_ever_written_down(hub, report, saved):
    assert "debug" in report["output"].lower()
    for token in (TOKEN, "hf_wrongwrongwrong"):
        assert token not in report["output"] and token not in json.dumps({**report, "output": ""})
        for repo in hub.repositories():
            assert not [path for path, content in hub.files(repo).items() if token.encode() in content]
