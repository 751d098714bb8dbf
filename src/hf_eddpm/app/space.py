"""A folder that runs the page as a Hugging Face Space."""

import shutil
import sys
from importlib import metadata
from pathlib import Path

PACKAGE = __name__.partition(".")[0]
_CHECKPOINT = "checkpoint"  # folder of a local checkpoint's copy

_README = """---
title: {title}
emoji: 🔁
colorFrom: green
colorTo: blue
sdk: gradio
sdk_version: {gradio}
python_version: "3.12"
app_file: app.py
license: apache-2.0
pinned: false
{models}---

# {title}

This page tries an encoder-decoder diffusion model: one model that generates, reconstructs, represents and edits data
([Liu et al., ICML 2024](https://arxiv.org/abs/2402.19009)). Visitors {loading}.

To publish it, make a Space and push this folder:

```bash
hf repo create USER/SPACE --repo-type space --space-sdk gradio
hf upload USER/SPACE . --repo-type space
```

`app.py` is the page, `{package}/` the package that it imports, `requirements.txt` what that needs.
"""

_APP = """{imports}from {package}.app.page import build_page, serve

page = build_page({checkpoint}, sources={sources!r})

if __name__ == "__main__":
    serve(page)
"""


def export_space(folder: str, checkpoint: str | None = None) -> list[str]:
    """Write the files of a Space, which shows a checkpoint or, without one, lets visitors load any from the Hub.

    The package's code goes along, and so do the files of a checkpoint that is a folder.

    Args:
        folder: Where to; made if need be, and other files in it stay.
        checkpoint: Folder or Hub id; None for none.

    Returns:
        The names of the files and folders that were written.

    Raises:
        OSError: If the checkpoint is neither a saved pipeline nor a Hub id.
        ValueError: If `folder` is a file, or the checkpoint's own folder.
    """
    target = Path(folder)
    if target.exists() and not target.is_dir():
        raise ValueError(f"`folder` must be a folder, got the file {folder!r}.")
    local = checkpoint is not None and Path(checkpoint).is_dir()
    if local and not Path(str(checkpoint), "model_index.json").is_file():
        raise OSError(f"{checkpoint!r} is not a saved pipeline: it has no model_index.json.")
    if checkpoint is not None and not local and checkpoint.count("/") != 1:
        raise OSError(f"{checkpoint!r} is not a saved pipeline: there is no such folder, and it is no Hub id.")
    if local and target.resolve() == Path(str(checkpoint)).resolve():
        raise ValueError(f"`folder` must be another folder than the checkpoint's, got {folder!r} for both.")
    target.mkdir(parents=True, exist_ok=True)
    where = repr(checkpoint)
    if local:
        where = f'str(Path(__file__).parent / "{_CHECKPOINT}")'
        _copy(Path(str(checkpoint)), target / _CHECKPOINT)
    _copy(Path(str(sys.modules[PACKAGE].__file__)).parent, target / PACKAGE)
    name = "EDDPM" if checkpoint is None else Path(checkpoint).name
    files = {
        "README.md": _README.format(
            title=name,
            gradio=metadata.version("gradio"),
            package=PACKAGE,
            models="" if local or checkpoint is None else f"models:\n- {checkpoint}\n",
            loading="load a checkpoint from the Hub" if checkpoint is None else f"try {name}",
        ),
        "app.py": _APP.format(
            imports="from pathlib import Path\n\n" if local else "",
            package=PACKAGE,
            checkpoint=where,
            sources="hub" if checkpoint is None else "none",
        ),
        "requirements.txt": "\n".join(_requirements()) + "\n",
    }
    for file, text in files.items():
        (target / file).write_text(text, encoding="utf-8")
    return [*files, PACKAGE, *([_CHECKPOINT] if local else [])]


def _requirements() -> list[str]:
    """Return what the package needs, and what the page needs besides in the versions that it was tried with."""
    needed = [line for line in metadata.requires(PACKAGE) or [] if "extra ==" not in line]
    return sorted([*needed, *(f"{name}=={metadata.version(name)}" for name in ("gradio", "matplotlib"))])


def _copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target, ignore=shutil.ignore_patterns("__pycache__", "*.pyc"), dirs_exist_ok=True)
