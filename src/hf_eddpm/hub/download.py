"""Fetching a pipeline's repository from the Hub."""

import os
from typing import Any

from huggingface_hub import snapshot_download

HUB_ARGUMENTS = ("cache_dir", "force_download", "token", "revision", "local_files_only")
_DOWNLOADED = ("*.json", "*.safetensors", "*.txt", "*.jinja", "*.model", "README.md")


def download_pipeline(repo_id: str, subfolder: str | None = None, **hub_arguments: Any) -> str:
    """Fetch a pipeline's repository and return the local folder.

    Args:
        repo_id: "user/repo".
        subfolder: The folder of the pipeline in a bigger repository.
        **hub_arguments: `cache_dir`, `force_download`, `token`, `revision`, `local_files_only`; others have no meaning
            here.
    """
    inside = f"{subfolder.strip('/')}/" if subfolder else ""
    folder = snapshot_download(
        repo_id,
        allow_patterns=[f"{inside}{pattern}" for pattern in _DOWNLOADED],
        **{name: hub_arguments[name] for name in HUB_ARGUMENTS if hub_arguments.get(name) is not None},
    )
    return os.path.join(folder, inside.rstrip("/")) if inside else folder
