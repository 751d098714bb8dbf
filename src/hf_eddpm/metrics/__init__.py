"""Measures as `evaluate` modules: `evaluate.load("<this folder>/ngram_divergence.py")`, or their functions by import.

They work offline. `metric_path` gives the path for `evaluate.load`. Sets of different sizes do not fit in one table of
`evaluate`, so the second set of a distance is an argument of its own, `reference=`.
"""

from pathlib import Path


def metric_path(name: str) -> str:
    """Return the path of a metric for `evaluate.load`.

    Args:
        name: File name without its ending, for example "frechet_distance".

    Raises:
        ValueError: If there is none of that name.
    """
    folder = Path(__file__).parent
    names = sorted(path.stem for path in folder.glob("[!_]*.py"))
    if name not in names:
        raise ValueError(f"`name` must be one of {names}, got {name!r}.")
    return str(folder / f"{name}.py")
