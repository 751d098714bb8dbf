"""Optional libraries: an error that names the extra which brings them."""

from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def needs_extra(what: str, extra: str = "train") -> Iterator[None]:
    """Turns the failing import of an optional library into one that says what to install.

    Args:
        what: What needs the library, as the start of a sentence.
        extra: The extra of this package that brings it.

    Raises:
        ImportError: If a library that the block imports is not installed.
    """
    try:
        yield
    except ModuleNotFoundError as error:
        raise ImportError(f'{what} needs {error.name}: run `pip install "hf_eddpm[{extra}]"`.') from error
