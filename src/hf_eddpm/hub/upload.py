"""Uploading a pipeline to the Hub: which files, with which card."""

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import HfApi
from safetensors import safe_open

from ..adapter_files import find_base_models
from ..modeling_eddpm import EDDPMModel
from .card import CARD_FILE, EVALUATION_FILE, TRAINING_FILE, build_model_card, name_repository, save_model_card
from .remote_code import write_code

# Nothing else leaves this machine: no pickles, no logs, no checkpoints of the optimiser.
UPLOADED = ("*.safetensors", "*.json", "*.jsonl", "*.txt", "*.md", "*.jinja", "*.py")


def upload_pipeline(
    save: Callable[[str], None],
    model: EDDPMModel,
    repo_id: str,
    *,
    commit_message: str,
    loaded_from: str | None = None,
    private: bool | None = None,
    token: str | None = None,
    create_pr: bool = False,
    revision: str | None = None,
    subfolder: str | None = None,
    with_code: bool = False,
) -> str:
    """Upload a pipeline in one commit and return its URL.

    Args:
        save: Function that saves the pipeline in a folder.
        model: Its model, for a card where there is none yet.
        repo_id: "user/repo"; made if need be.
        commit_message: Message of the commit.
        loaded_from: The folder that the pipeline was loaded from, whose card is its own.
        private: As for `EDDPMPipeline.push_to_hub`, and so are the others.
        token: Access token.
        create_pr: Whether to open a pull request.
        revision: Branch in place of the main one.
        subfolder: Folder in the repository.
        with_code: Whether to add this package's code.
    """
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    with tempfile.TemporaryDirectory() as folder:
        save(folder)
        place = f"{subfolder.strip('/')}/{CARD_FILE}" if subfolder else CARD_FILE
        outdated = loaded_from is not None and (Path(loaded_from) / CARD_FILE).is_file()
        carried = carry_card(loaded_from, folder)
        if not carried and (outdated or not api.file_exists(repo_id, place, revision=revision)):
            name = repo_id.split("/")[-1]
            card = build_model_card(model, name=name, training=None, evaluation=None, **_adapter_metadata(model))
            save_model_card(card, folder)
        if with_code:
            write_code(folder)
        return upload_checkpoint(
            api, folder, repo_id, commit_message, create_pr=create_pr, revision=revision, path_in_repo=subfolder
        )


def upload_checkpoint(api: HfApi, folder: str | Path, repo_id: str, commit_message: str | None, **kwargs: Any) -> Any:
    """Upload what a checkpoint consists of, safetensors and text, and return the commit's data (or a future of it).

    Its card names the repository from then on.

    Args:
        api: The client, which holds the token.
        folder: The checkpoint.
        repo_id: "user/repo", existing.
        commit_message: Message of the commit.
        **kwargs: As for `HfApi.upload_folder`.
    """
    name_repository(folder, repo_id, kwargs.get("path_in_repo"))
    return api.upload_folder(
        repo_id=repo_id,
        folder_path=folder,
        commit_message=commit_message,
        allow_patterns=list(UPLOADED),
        **kwargs,
    )


def _adapter_metadata(model: EDDPMModel) -> dict[str, Any]:
    if not hasattr(model, "peft_config"):
        return {}
    bases = [base["name"] for base in find_base_models(model).values()]
    return {"base_model": bases, "base_model_relation": "adapter", "tags": ["peft", "lora"]}


def carry_card(source: str | Path | None, folder: str | Path) -> bool:
    """Copy the card, and the facts it is made from, of the folder that a pipeline was loaded from.

    Args:
        source: That folder, if any.
        folder: Where it has been saved.

    Returns:
        Whether there is a card of these weights; those of a model trained since are other weights.
    """
    if source is None or not (Path(source) / CARD_FILE).is_file() or not _same_weights(Path(source), Path(folder)):
        return False
    for name in (CARD_FILE, TRAINING_FILE, EVALUATION_FILE):
        if (Path(source) / name).is_file():
            shutil.copyfile(Path(source) / name, Path(folder) / name)
    return True


def _same_weights(source: Path, folder: Path) -> bool:
    """Whether two saved pipelines hold the same weights, whatever the types they are stored in."""
    places = [_tensors(source), _tensors(folder)]
    if places[0].keys() != places[1].keys():
        return False
    for name, source_file in places[0].items():
        with safe_open(source_file, "pt") as one, safe_open(places[1][name], "pt") as other:
            a, b = one.get_tensor(name), other.get_tensor(name)
        if not torch.equal(a.to(b.dtype), b):
            return False
    return True


def _tensors(folder: Path) -> dict[str, Path]:
    """Return the file of each tensor."""
    files = [*(folder / "model").glob("*.safetensors"), *(folder / "adapter").glob("*.safetensors")]
    found = {}
    for file in files:
        with safe_open(file, "pt") as tensors:
            found.update(dict.fromkeys(tensors.keys(), file))
    return found
