"""What a measurement was made with: hardware, versions, commit, and the command line as others can repeat it."""

import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

REPOSITORY = Path(__file__).resolve().parents[3]  # of a clone; another folder where the package is installed
PACKAGE = __name__.partition(".")[0]
# Options that a card leaves out: secrets, what only concerns one interrupted run, and what it says elsewhere.
UNSAID = ("--hub_token", "--push_to_hub_token", "--resume_from_checkpoint", "--training_note")


def find_commit(folder: Path) -> str | None:
    """The commit that a repository's folder is at, and whether its files differ from it; None outside of one."""

    def git(*words: str) -> str:
        command = ["git", "-C", str(folder), *words]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        if Path(git("rev-parse", "--show-toplevel")).resolve() != folder.resolve():
            return None
        changed = git("status", "--porcelain", "--untracked-files=no")
        return git("rev-parse", "HEAD") + (" with changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):  # no git, or not a repository
        return None


COMMIT = find_commit(REPOSITORY)  # at the start: a long run may outlive it


def describe_environment(device: torch.device, libraries: Sequence[str] = ()) -> dict[str, Any]:
    """The hardware, the library versions and, in a clone of the repository, its commit.

    Args:
        device: Where the work is done.
        libraries: Distributions to name besides torch, transformers and diffusers.
    """
    hardware = f"{_processor_name()}, CPU cores: {_usable_cores()}, torch threads: {torch.get_num_threads()}"
    if device.type == "cuda":
        hardware = f"{torch.cuda.get_device_name(device)}; {hardware}"
    names = ("torch", "transformers", "diffusers", *libraries)
    versions = {"python": platform.python_version(), "hf_eddpm": sys.modules[PACKAGE].__version__}
    commit = {} if COMMIT is None else {"commit": COMMIT}
    return {"hardware": hardware, **commit, "versions": versions | {name: version(name) for name in names}}


def _processor_name() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        name = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(encoding="utf-8", errors="replace"), re.M)
        if name is not None:
            return name[1].strip()
    return platform.processor() or platform.machine()


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def describe_command(script: str, words: Sequence[str]) -> str:
    """The command line without secrets and without the folders of this machine.

    Args:
        script: Path of the script, relative to the repository.
        words: What followed it.
    """
    kept: list[str] = []
    skipping = False  # the value of an option that is left out
    for word in words:
        option = word.split("=", 1)[0]
        if option in UNSAID:
            skipping = "=" not in word
            continue
        if skipping and not word.startswith("--"):
            skipping = False
            continue
        skipping = False
        if word.startswith("--") and "=" in word:
            kept.append(f"{option}={without_folders(word.split('=', 1)[1])}")
        else:
            kept.append(without_folders(word))
    return shlex.join(["python", script, *kept])


def without_folders(value: Any) -> Any:
    """A value, or a list or dictionary of them, with each local path reduced to its name.

    Paths in this repository stay, relative to its root; a label (`path=1`) stays too.
    """
    if isinstance(value, dict):
        return {key: without_folders(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [without_folders(item) for item in value]
    if not isinstance(value, str):
        return value
    text, label = value, ""
    if (match := re.fullmatch(r"(.+)(=[+-]?\d+)", value)) is not None:
        text, label = match.groups()
    expanded = os.path.expanduser(text)
    # A Hub id looks like a relative path: only what is one, or can be nothing else, is touched.
    if not (os.path.exists(expanded) or os.path.isabs(expanded) or text.startswith(("./", "../"))):
        return value
    path = Path(expanded).resolve()
    if path.is_relative_to(REPOSITORY):
        name = path.relative_to(REPOSITORY).as_posix()
    elif path.name == "pipeline":  # what every training calls its result: the run's name tells it apart
        name = f"{path.parent.name}/{path.name}"
    else:
        name = path.name
    return f"{name}{label}"
