"""docs/guides/hub-and-lora.md: its Python runs from top to bottom against a hub on the loopback interface."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hub_server import HubServer
from huggingface_hub import ModelCard

from hf_eddpm.hub.card import ORGANISATION, hub_id, name_repository

ROOT = Path(__file__).parent.parent
GUIDE = ROOT / "docs" / "guides" / "hub-and-lora.md"


@pytest.fixture(scope="module")
def pushed(tmp_path_factory, make_pipe):
    """The server and what the guide's blocks printed, run in a folder of their own."""
    folder = tmp_path_factory.mktemp("guide")
    make_pipe().save_pretrained(folder / "tiny")
    (folder / "model_cards").symlink_to(ROOT / "model_cards")
    code = "\n".join(re.findall(r"^```python\n(.*?)^```$", GUIDE.read_text(encoding="utf-8"), re.M | re.S))
    with HubServer() as server:
        server.add_folder(hub_id("model"), folder / "tiny")
        clean = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        environment = {**clean, **server.environment(folder / "home"), "PYTHONPATH": str(ROOT / "src")}
        result = subprocess.run(
            [sys.executable, "-c", code], cwd=folder, env=environment, capture_output=True, text=True, timeout=300
        )
        assert result.returncode == 0, result.stderr[-3000:]
        yield server, result.stdout


def test_what_the_guide_pushes_is_there_and_loads(pushed):
    server, printed = pushed
    assert printed.splitlines()[-1] == "['AAAAYDYWFDY']"
    assert f"{server.url}/{hub_id('eddpm-gifford')}/commit/" in printed
    assert hub_id("eddpm-gifford") in server.private
    files = server.files(hub_id("eddpm-gifford"))
    wanted = {"README.md", "checksums.json", "model_index.json", "model/config.json", "model/model.safetensors"}
    assert wanted <= set(files) and not [name for name in files if name.endswith((".bin", ".pt"))]
    shipped = (ROOT / "model_cards" / "eddpm-gifford" / "README.md").read_text(encoding="utf-8")
    assert files["README.md"].decode() == shipped  # the placeholder is the repository here


def test_merged_weights_of_the_guide_get_a_card_of_their_own(pushed):
    server, _ = pushed
    card = ModelCard(server.files(hub_id("merged"))["README.md"].decode())
    assert f'from_pretrained("{hub_id("merged")}")' in card.text
    assert "adapter/adapter_config.json" not in server.files(hub_id("merged"))
    assert json.loads(server.files(hub_id("merged"))["model_index.json"])["_class_name"] == "EDDPMPipeline"


@pytest.mark.parametrize(
    ("subfolder", "expected"),
    [(None, 'from_pretrained("me/mine")'), ("a/b", 'from_pretrained("me/mine", subfolder="a/b")')],
)
def test_an_upload_puts_the_name_of_its_repository_into_the_card(tmp_path, subfolder, expected):
    text = f'pipe = EDDPMPipeline.from_pretrained("{ORGANISATION}/x")\nother = from_pretrained("{ORGANISATION}/y")\n'
    (tmp_path / "README.md").write_text(text)
    name_repository(tmp_path, "me/mine", subfolder)
    changed = (tmp_path / "README.md").read_text()
    assert expected in changed and f'other = from_pretrained("{ORGANISATION}/y")' in changed


def test_a_card_without_the_placeholder_stays_as_it_is(tmp_path):
    name_repository(tmp_path, "me/mine")
    assert not list(tmp_path.iterdir())
    (tmp_path / "README.md").write_text('EDDPMPipeline.from_pretrained("someone/else")\n')
    name_repository(tmp_path, "me/mine")
    assert (tmp_path / "README.md").read_text() == 'EDDPMPipeline.from_pretrained("someone/else")\n'
