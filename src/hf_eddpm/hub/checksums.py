"""Digests of a saved pipeline after some of its files were changed on purpose."""

import json
from collections.abc import Iterable
from pathlib import Path

from .contents import read_json
from .saving import CHECKSUMS_FILE, digest_of, write_checksums


def renew_checksums(folder: Path, changed: Iterable[Path]) -> None:
    """Write the digests of changed or new files to `checksums.json`; those of others stay as they are.

    Args:
        folder: A saved pipeline; without `checksums.json` it gets one of all its files.
        changed: Files in it. Others, such as somebody's notes, are no part of the pipeline.
    """
    path = folder / CHECKSUMS_FILE
    if not path.is_file():
        write_checksums(folder)
        return
    digests = read_json(path)
    for file in changed:
        digests[file.relative_to(folder).as_posix()] = digest_of(file)
    path.write_text(json.dumps(dict(sorted(digests.items())), indent=2) + "\n", encoding="utf-8")
