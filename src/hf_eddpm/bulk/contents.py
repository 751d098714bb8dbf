"""Digests of what a bulk job reads from this machine, by which a folder of parts knows that it has changed."""

import glob
import hashlib
from collections.abc import Iterable
from pathlib import Path

_WHOLE = 2**24  # bytes of a file up to which all of it counts; a larger one is read at places
_PLACES = 64
_BLOCK = 2**16  # bytes read at each place


def contents_of(names: Iterable[str], checkpoint: str) -> dict[str, str]:
    """Return digests of local files, folders and patterns of file names, and of a local checkpoint.

    All bytes of a file of up to 16 MiB count; of a larger one its size, head, tail and 62 places between. Its time
    does not, so that data may be fetched anew.

    Args:
        names: The data of a job. What lies elsewhere, as a Hub data set does, has no digest.
        checkpoint: Folder of a pipeline, which has a digest where it has `checksums.json`, or Hub id.
    """
    digests = {name: digest for name in names if (digest := _digest_data(name)) is not None}
    checksums = Path(checkpoint) / "checksums.json"
    if checksums.is_file():
        digests[checkpoint] = _digest_file(checksums)
    return digests


def _digest_data(name: str) -> str | None:
    path = Path(name)
    if path.is_file():
        return _digest_file(path)
    if path.is_dir():  # which may hold a million images: names and sizes
        files = sorted(file for file in path.rglob("*") if file.is_file())
        return _joined(f"{file.relative_to(path).as_posix()}:{file.stat().st_size}" for file in files)
    files = [Path(found) for found in sorted(glob.glob(name, recursive=True)) if Path(found).is_file()]
    return _joined(f"{file.as_posix()}:{_digest_file(file)}" for file in files) if files else None


def _digest_file(path: Path) -> str:
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        if size <= _WHOLE:
            while block := file.read(_BLOCK):
                digest.update(block)
        else:
            for place in range(_PLACES):
                file.seek((size - _BLOCK) * place // (_PLACES - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()


def _joined(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()
