"""The output of a bulk job: a folder of parts, each one parquet file, there whole or not at all.

Part p has the rows p * part_size .. (p + 1) * part_size - 1. It is written aside and renamed: one that two workers
make, each not knowing of the other, is one part. A part that exists is never made again.
"""

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ..extras import needs_extra
from ..hub.saving import flush

with needs_extra("Writing parquet files"):
    import pyarrow
    import pyarrow.parquet as parquet

logger = logging.get_logger(__name__)

SETTINGS_FILE = "settings.json"
SKIPPED_FILE = "skipped.jsonl"
_PARTS = "part-*.parquet"
ROW, ERROR = "row", "error"  # columns of every part, and of every part of a job on data


def open_output(folder: str | Path, settings: dict[str, Any]) -> Path:
    """Make the output's folder, or check that it was begun with the same settings.

    A folder without a finished part is begun anew.

    Args:
        folder: Where the parts go.
        settings: What decides their content, JSON values; in `contents`, digests of the files that are read. A folder
            whose settings have no digest of a file, as those of earlier versions, takes any.

    Raises:
        ValueError: If the folder holds parts made with other settings, or of other content of the files.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / SETTINGS_FILE
    message = _difference(folder, json.loads(path.read_text(encoding="utf-8")), settings) if path.exists() else None
    if message is not None and any(whole_rows(part) is not None for part in sorted(folder.glob(_PARTS))):
        raise ValueError(message)
    if message is not None:
        for part in folder.glob(_PARTS):  # damaged ones, of other settings
            part.unlink()
    if message is not None or not path.exists():
        partial = _aside(path)
        partial.write_text(json.dumps(settings, indent=1, sort_keys=True) + "\n", encoding="utf-8")
        os.replace(partial, path)
    return folder


def _difference(folder: Path, before: dict[str, Any], settings: dict[str, Any]) -> str | None:
    """Return what is wrong with going on in a folder, None if nothing is."""
    after = json.loads(json.dumps(settings))
    old, new = before.pop("contents", {}), after.pop("contents", {})
    if different := sorted(key for key in {*before, *after} if before.get(key) != after.get(key)):
        return (
            f"`output_dir` {str(folder)!r} was begun with another {different}: "
            f"{[before.get(key) for key in different]}, got {[after.get(key) for key in different]}."
        )
    if changed := sorted(name for name in new if name in old and old[name] != new[name]):
        return (
            f"`output_dir` {str(folder)!r} has parts made from {changed} as they were before they changed: give "
            "another `output_dir`, or go on with what was there before."
        )
    return None


def part_path(folder: Path, part: int) -> Path:
    """Return the file of a part."""
    return folder / f"part-{part:06d}.parquet"


def write_part(folder: Path, part: int, columns: dict[str, Any]) -> None:
    """Write a part, aside at first.

    Args:
        folder: The output's folder.
        part: Its number.
        columns: Lists or arrow arrays of the same length.
    """
    path = part_path(folder, part)
    partial = _aside(path)
    parquet.write_table(pyarrow.table(columns), partial)
    flush(partial)
    os.replace(partial, path)
    flush(folder)


def whole_rows(path: Path) -> int | None:
    """Return the rows of a part that has the footer which ends a parquet file, else None; a warning names damage."""
    if not path.exists():
        return None
    try:
        return int(parquet.read_metadata(path).num_rows)
    except (pyarrow.ArrowInvalid, OSError) as error:
        logger.warning(f"{path.name} is damaged and is made anew: {error}")
        return None


def is_whole(folder: Path, part: int) -> bool:
    """Return whether a part is there, whole."""
    return whole_rows(part_path(folder, part)) is not None


def list_skipped(folder: Path) -> int:
    """Write `skipped.jsonl`, a line with row number and reason for each row without results; return how many."""
    path, count = folder / SKIPPED_FILE, 0
    partial = _aside(path)
    with partial.open("w", encoding="utf-8") as file:
        for row, error in _skipped(folder):
            file.write(json.dumps({ROW: row, ERROR: error}, ensure_ascii=False) + "\n")
            count += 1
    os.replace(partial, path)
    return count


def remove_leftovers(folder: Path) -> None:
    """Remove what killed workers have left; for a job that is over."""
    for path in [*folder.glob(".part-*"), *folder.glob(".tries-*")]:
        path.unlink(missing_ok=True)


def _skipped(folder: Path) -> Iterator[tuple[int, str]]:
    for path in sorted(folder.glob(_PARTS)):
        with parquet.ParquetFile(path) as file:
            if ERROR not in file.schema_arrow.names:
                continue
            table = file.read(columns=[ROW, ERROR])
            if table[ERROR].null_count < len(table):
                table = table.filter(table[ERROR].is_valid())
                yield from zip(table[ROW].to_pylist(), table[ERROR].to_pylist(), strict=True)


def _aside(path: Path) -> Path:
    """Return a name beside a file that no other process of the cluster writes to."""
    return path.with_name(f".{path.name}.{socket.gethostname()}.{os.getpid()}")
