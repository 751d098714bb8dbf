"""Bulk inference in parts: each part of the output is one parquet file, made by one process, whole or not at all.

Part p covers rows p * part_size .. (p + 1) * part_size - 1 and belongs to process p % number of processes. A part that
exists is never made again, so a run goes on after a kill, with any number of processes.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from tqdm import tqdm
from transformers.utils import logging

from ..extras import needs_extra
from ..hub.saving import flush

with needs_extra("Writing parquet files"):
    import pyarrow
    import pyarrow.parquet as parquet

logger = logging.get_logger(__name__)

SETTINGS_FILE = "settings.json"


def process_place() -> tuple[int, int]:
    """This process's index and the number of processes, from what `torchrun` or `accelerate launch` sets."""
    return int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))


def open_output(folder: str | Path, settings: dict[str, Any]) -> Path:
    """Makes the output's folder, or checks that it was begun with the same settings.

    Args:
        folder: Where the parts go.
        settings: What decides their content, JSON values.

    Raises:
        ValueError: If the folder holds parts made with other settings.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    path, text = folder / SETTINGS_FILE, json.dumps(settings, indent=1, sort_keys=True) + "\n"
    partial = folder / f".{SETTINGS_FILE}.{os.getpid()}"
    partial.write_text(text, encoding="utf-8")
    try:
        os.link(partial, path)  # fails where the file exists: one process writes it, the others read it
    except FileExistsError:
        before = json.loads(path.read_text(encoding="utf-8"))
        after = json.loads(text)
        if different := sorted(key for key in {*before, *after} if before.get(key) != after.get(key)):
            raise ValueError(
                f"`output_dir` {str(folder)!r} was begun with another {different}: "
                f"{[before.get(key) for key in different]}, got {[after.get(key) for key in different]}."
            ) from None
    finally:
        partial.unlink()
    return folder


def part_path(folder: Path, part: int) -> Path:
    """The file of a part."""
    return folder / f"part-{part:06d}.parquet"


def write_part(folder: Path, part: int, columns: dict[str, Any]) -> None:
    """Writes a part, aside at first.

    Args:
        folder: The output's folder.
        part: Its number.
        columns: Lists or arrow arrays of the same length.
    """
    partial = folder / f".{part_path(folder, part).name}.{os.getpid()}"
    parquet.write_table(pyarrow.table(columns), partial)
    flush(partial)
    os.replace(partial, part_path(folder, part))
    flush(folder)


def rows_of_parts(
    rows: Iterable[Any], part_size: int, wanted: Callable[[int], bool]
) -> Iterator[tuple[int, list[Any]]]:
    """Cuts a stream into parts and yields those that are wanted; holds one part at a time.

    Args:
        rows: The stream.
        part_size: Rows of a part, at least 1.
        wanted: Whether a part is wanted, by its number.
    """
    part, kept, seen = 0, [], 0
    for row in rows:
        if wanted(part):
            kept.append(row)
        seen += 1
        if seen == part_size:
            if kept:
                yield part, kept
            part, kept, seen = part + 1, [], 0
    if kept:
        yield part, kept


def make_parts(
    folder: Path,
    parts: Iterable[tuple[int, list[Any]]],
    make: Callable[[int, list[Any]], dict[str, Any]],
    total: int | None = None,
) -> int:
    """Makes and writes parts, with a progress bar in rows on the first process; returns how many rows.

    Args:
        folder: The output's folder.
        parts: Numbers and rows.
        make: Function of a part's number and rows that returns its columns.
        total: Rows of this process, if known.
    """
    done = 0
    with tqdm(total=total, unit=" rows", disable=process_place()[0] != 0) as bar:
        for part, rows in parts:
            write_part(folder, part, make(part, rows))
            done += len(rows)
            bar.update(len(rows))
    return done


def missing_here(folder: Path) -> Callable[[int], bool]:
    """Returns the function that says whether a part is this process's and not there yet, whole."""
    rank, world_size = process_place()
    return lambda part: part % world_size == rank and not is_whole(part_path(folder, part))


def is_whole(path: Path) -> bool:
    """Whether a part is there with the footer that ends a parquet file; of one that is damaged a warning says so."""
    if not path.exists():
        return False
    try:
        parquet.read_metadata(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        logger.warning(f"{path.name} is damaged and is made anew: {error}")
        return False
    return True
