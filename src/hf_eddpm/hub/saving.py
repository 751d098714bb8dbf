"""Saving that a kill cannot spoil, and digests by which damage is found.

A pipeline is written to a folder of its own inside the target and becomes valid by one rename, to `.new`. Only then do
its parts move into their places. Whoever loads or saves there next moves on what a killed process has left in `.new`,
so that at any moment the folder is either the old pipeline or the new one. Everything happens inside the target, which
may be a mount point, or lie in a folder that cannot be written.
"""

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from transformers.utils import logging

from ..adapter_files import ADAPTER_FOLDER, BASE_MODELS_FILE

logger = logging.get_logger(__name__)

INDEX_FILE = "model_index.json"
CHECKSUMS_FILE = "checksums.json"
_NEW = ".new"
_STAGING = ".saving-"
_PARTS_FILE = ".parts.json"  # in `.new`: the names of the parts that the new pipeline has


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """Within, give a folder to write a pipeline to; afterwards its files are the target's.

    Args:
        target: The pipeline's folder, made if need be; foreign files in it stay.

    Raises:
        OSError: If the target cannot be written.
    """
    made = not target.exists()
    target.mkdir(parents=True, exist_ok=True)
    finish_save(target)
    for leftover in target.glob(f"{_STAGING}*"):
        shutil.rmtree(leftover, ignore_errors=True)
    staging = target / f"{_STAGING}{os.getpid()}"
    staging.mkdir()
    try:
        yield staging
        write_checksums(staging)
        parts = sorted(path.name for path in staging.iterdir())
        (staging / _PARTS_FILE).write_text(json.dumps(parts), encoding="utf-8")
        mode = stat.S_IMODE((staging / _PARTS_FILE).stat().st_mode)  # what the user's mask gives a new file
        for path in staging.rglob("*"):
            if path.is_file():
                path.chmod(mode)  # safetensors writes files that their owner alone may read
            flush(path)
        flush(staging)
        os.replace(staging, target / _NEW)  # from here on the new pipeline is the one
        flush(target)
    except BaseException:
        shutil.rmtree(staging, ignore_errors=True)
        if made:
            shutil.rmtree(target, ignore_errors=True)
        raise
    finish_save(target)


def finish_save(target: Path) -> None:
    """Move into place what a save, perhaps a killed one, has left in `.new`.

    Args:
        target: The pipeline's folder.

    Raises:
        OSError: If the folder cannot be written.
    """
    new = target / _NEW
    if not (new / _PARTS_FILE).is_file():
        shutil.rmtree(new, ignore_errors=True)  # all had been moved
        return
    parts = json.loads((new / _PARTS_FILE).read_text(encoding="utf-8"))
    if ADAPTER_FOLDER not in parts:
        shutil.rmtree(target / ADAPTER_FOLDER, ignore_errors=True)  # of the pipeline before
    for name in sorted(parts, key=lambda name: name == INDEX_FILE):
        if (new / name).exists():
            if (target / name).is_dir():
                shutil.rmtree(target / name)
            os.replace(new / name, target / name)
    flush(target)
    (new / _PARTS_FILE).unlink()
    new.rmdir()


def refuse_own_base(adapter: Path, target: Path) -> None:
    """Raise a ValueError if a saved adapter would take the place of the very weights that it needs.

    Args:
        adapter: The adapter's folder, with the names of its base models.
        target: Where the pipeline goes.
    """
    bases = json.loads((adapter / BASE_MODELS_FILE).read_text(encoding="utf-8"))
    for base in bases.values():
        place = Path(base["name"])
        if place.is_dir() and (place.resolve() == target or target in place.resolve().parents):
            raise ValueError(
                f"`save_directory` must not be the folder of the adapter's base model, {base['name']!r}: "
                "the adapter would take the place of the weights that it needs. Save it elsewhere, or merge it first "
                "(`merge_adapter`)."
            )


def keep_other_variants(before: Path, after: Path, variant: str | None) -> None:
    """Put the weights that a model's folder holds beside the variant that takes its place.

    Args:
        before: The folder of the model that was saved there.
        after: The new one.
        variant: What is saved; None for weights without a variant, which are a new model: others do not belong to it.

    Raises:
        ValueError: If a variant is saved beside another model.
    """
    others = [path for path in before.glob("*.safetensors*") if not (after / path.name).exists()]
    if not others:
        return
    if variant is None:
        if any(_is_variant(path.name) for path in others):
            logger.warning(
                f"Variants of the weights before are gone from {str(before)!r}: save variants of the new weights."
            )
        return
    old, new = (json.loads((folder / "config.json").read_text(encoding="utf-8")) for folder in (before, after))
    for config in (old, new):
        for name in ("dtype", "torch_dtype", "transformers_version", "_name_or_path"):
            config.pop(name, None)
    if old != new:
        different = sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
        raise ValueError(
            f"`variant` = {variant!r} must be saved beside weights of the same model, but {str(before)!r} holds one "
            f"with other {different}: choose another `save_directory`."
        )
    for path in others:
        shutil.copy2(path, after / path.name)


def _is_variant(name: str) -> bool:
    """Return whether weights are a variant's: `model.fp16.safetensors`, not `model-00001-of-00002.safetensors`."""
    return name.split(".safetensors")[0].count(".") > 0


def write_checksums(folder: Path) -> None:
    """Write the SHA-256 digest of every file of a saved pipeline to its `checksums.json`.

    Args:
        folder: What `save_pretrained` wrote; cards, which change afterwards, are left out.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file() and _is_checked(path.relative_to(folder)))
    digests = {path.relative_to(folder).as_posix(): digest_of(path) for path in files}
    (folder / CHECKSUMS_FILE).write_text(json.dumps(digests, indent=2) + "\n", encoding="utf-8")


def verify_checksums(folder: Path) -> None:
    """Raise an OSError that names the file if one is not what was saved; nothing happens without `checksums.json`.

    Args:
        folder: A saved pipeline.
    """
    path = folder / CHECKSUMS_FILE
    if not path.is_file():
        return
    try:
        digests = json.loads(path.read_text(encoding="utf-8"))
        names = {str(name): str(digest) for name, digest in digests.items()}
    except (ValueError, AttributeError) as error:
        raise OSError(f"{str(path)!r} is damaged ({error}). Fetch it again, or load with `verify=False`.") from error
    for name, digest in names.items():
        if not (folder / name).is_file():
            raise OSError(f"{str(folder)!r} lacks {name!r}, which was saved with it. Fetch it again.")
        if digest_of(folder / name) != digest:
            raise OSError(
                f"{str(folder / name)!r} is damaged: it is not the file that was saved. Fetch it again, or load with "
                "`verify=False` if you changed it yourself."
            )


def _is_checked(path: Path) -> bool:
    """Whether a file is among those that `save_pretrained` writes; pictures of the card and others are not."""
    if path.name.startswith(".") or path.name == CHECKSUMS_FILE or path.suffix in (".png", ".jpg", ".gif", ".svg"):
        return False
    return len(path.parts) > 1 or path.name == INDEX_FILE


def digest_of(path: Path) -> str:
    """Return the SHA-256 digest of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(2**20):
            digest.update(block)
    return digest.hexdigest()


def flush(path: Path) -> None:
    """Make sure that a file, or the names in a folder, outlive a power cut, where the system can do that."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)
