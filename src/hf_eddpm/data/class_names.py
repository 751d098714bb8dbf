"""Classes known by name: joined by their names, never by the numbers that one source or another gives them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

Names = list[str] | None


def check_class_names(names: Sequence[str], num_classes: int, whose: str = "") -> None:
    """Raise a ValueError if there are `class_names`, but not one for each class.

    Args:
        names: The names, none if the classes have none.
        num_classes: Classes.
        whose: What has them, for the error.
    """
    if names and len(names) != num_classes:
        raise ValueError(f"`class_names` must name the {num_classes} classes{whose}, got {names}.")


def join_names(lists: Sequence[Names], what: str) -> Names:
    """Return the names of all sources, the first one's first; None if none has names.

    Args:
        lists: Each source's names, None where its classes are numbers.
        what: The attribute, for the error.

    Raises:
        ValueError: If some have names and others have numbers that these names do not explain.
    """
    named = [names for names in lists if names is not None]
    if not named:
        return None
    joined = list(dict.fromkeys(name for names in named for name in names))
    if len(named) < len(lists) and not _are_numbers(joined):
        raise ValueError(
            f"`{what}` has names in one source ({', '.join(joined[:5])}) and numbers in another: which number is "
            "which class is not known."
        )
    return joined


def renumber(values: NDArray[np.float64], own: Names, names: Names, what: str, where: str) -> NDArray[np.float64]:
    """Return class numbers as another source counts its classes.

    Args:
        values: Numbers in `own`, float64, NaN where missing.
        own: Names of these classes; None for numbers alone.
        names: Names in the order wanted.
        what: The attribute, for the error.
        where: The source, for the error.

    Raises:
        ValueError: If a class that occurs is not among `names`, or only one of the two has names.
    """
    if own == names:
        return values
    known = join_names([names, own], what) if own is None or names is None else names
    if own is None or known is None:
        return values
    numbers = np.full(len(own), np.nan)
    for number, name in enumerate(own):
        if name in known:
            numbers[number] = known.index(name)
    there = ~np.isnan(values)
    used = values[there].astype(int)
    if unknown := sorted({own[number] for number in used if np.isnan(numbers[number])}):
        raise ValueError(f"`{what}` has the class {unknown[0]!r} in {where}, which the training data lack.")
    renumbered = values.copy()
    renumbered[there] = numbers[used]
    return renumbered


def _are_numbers(names: Sequence[str]) -> bool:
    """Whether the names are the classes' own numbers."""
    return list(names) == [str(number) for number in range(len(names))]
