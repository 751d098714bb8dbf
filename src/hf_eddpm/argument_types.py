"""Arguments checked against the annotations of what is called.

`checked` reads a function's signature; what may be given is written there, once, and an error says the same:

    @checked
    def sample(num_samples: Count = 1, eta: Share = 0.0, return_dict: bool = True): ...

    sample(num_samples=True)   # ValueError: `num_samples` must be an integer of at least 1, got True.
"""

import collections.abc
import functools
import inspect
import math
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import numpy as np
import torch

from .argument_checks import is_column, is_integer, is_number

_F = TypeVar("_F", bound=Callable[..., Any])
_SHOWN = 80  # most characters of a value in an error


@dataclass(frozen=True)
class Bounds:
    """Which numbers of a type are allowed.

    Args:
        at_least: The smallest.
        above: A number that all are greater than.
        at_most: The greatest.
    """

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None

    def hold(self, value: float) -> bool:
        """Return whether a number is within."""
        low = self.at_least is None or value >= self.at_least
        return low and (self.above is None or value > self.above) and (self.at_most is None or value <= self.at_most)

    def __str__(self) -> str:
        if self.at_most is not None:
            return f" in {'(' if self.above is not None else '['}{_short(self._lowest)}, {_short(self.at_most)}]"
        return f" above {_short(self._lowest)}" if self.above is not None else f" of at least {_short(self._lowest)}"

    @property
    def _lowest(self) -> float:
        return self.above if self.above is not None else -math.inf if self.at_least is None else self.at_least


def _short(number: float) -> str:
    return str(int(number)) if float(number).is_integer() else f"{number:g}"


@dataclass(frozen=True)
class Floating:
    """A tensor of real floating-point numbers."""

    def hold(self, value: torch.Tensor) -> bool:
        """Return whether a tensor is one."""
        return value.is_floating_point()

    def __str__(self) -> str:
        return " of floating-point numbers"


@dataclass(frozen=True)
class Whole:
    """A tensor of integers."""

    def hold(self, value: torch.Tensor) -> bool:
        """Return whether a tensor is one."""
        return not (value.is_floating_point() or value.is_complex() or value.dtype == torch.bool)

    def __str__(self) -> str:
        return " of integers"


Count = Annotated[int, Bounds(at_least=1)]
CountOrZero = Annotated[int, Bounds(at_least=0)]
Steps = Annotated[int, Bounds(at_least=1, at_most=10**6)]  # of a loop, which would otherwise never end
StepsOrZero = Annotated[int, Bounds(at_least=0, at_most=10**6)]
Share = Annotated[float, Bounds(at_least=0, at_most=1)]
PositiveShare = Annotated[float, Bounds(above=0, at_most=1)]
PositiveNumber = Annotated[float, Bounds(above=0)]
NumberFromZero = Annotated[float, Bounds(at_least=0)]
NoiseScale = Annotated[float, Bounds(above=0, at_most=1000)]
GuidanceScale = Annotated[float, Bounds(at_least=0, at_most=1000)]
FloatTensor = Annotated[torch.Tensor, Floating()]
IntTensor = Annotated[torch.Tensor, Whole()]
Generators = torch.Generator | list[torch.Generator] | None


def checked(function: _F) -> _F:
    """Check the arguments of every call against the annotations of the parameters.

    Numbers are Python's or NumPy's; a bool is no number and a string no flag; numbers are finite. Parameters without
    an annotation, or of type `Any`, are left to the function. Within compiled code nothing is checked. Where the
    memory does not suffice, the error names the sizes that were asked for.
    """
    signature = inspect.signature(function)

    @functools.cache
    def annotations() -> dict[str, Any]:
        hints = get_type_hints(function, include_extras=True)
        named = {
            name
            for name, parameter in signature.parameters.items()
            if parameter.kind not in (parameter.VAR_KEYWORD, parameter.VAR_POSITIONAL)
        }
        return {name: hint for name, hint in hints.items() if name in named and hint is not Any}

    @functools.wraps(function)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return function(*args, **kwargs)
        try:
            bound = signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"`{function.__name__}()`: {error}.") from None
        check_values(bound.arguments, annotations())
        for name in annotations().keys() & bound.arguments.keys():
            if isinstance(bound.arguments[name], np.generic):  # a configuration file holds Python's numbers
                bound.arguments[name] = bound.arguments[name].item()
        try:
            return function(*bound.args, **bound.kwargs)
        except RuntimeError as error:
            if "can't allocate memory" not in str(error):
                raise
            given = {**bound.arguments, **bound.kwargs}
            sizes = ", ".join(f"`{name}` = {value}" for name, value in given.items() if is_integer(value))
            raise MemoryError(f"`{function.__name__}()` needs more memory than there is, with {sizes}.") from error

    return wrapper  # type: ignore[return-value]


def check_values(values: Mapping[str, Any], annotations: Mapping[str, Any]) -> None:
    """Check values by their names.

    Args:
        values: What was given.
        annotations: What is allowed, by name; names that are not there are not checked.

    Raises:
        TypeError: If only a tensor, a generator, a function or another object is allowed, and this is none.
        ValueError: If a number, a flag or a string is allowed, and this is none, or another.
    """
    for name, value in values.items():
        annotation = annotations.get(name, Any)
        if not _accepts(value, annotation):
            kind = ValueError if _is_plain(annotation) else TypeError
            raise kind(f"`{name}` must be {_describe(annotation)}, got {_show(value)}.")


def _accepts(value: Any, annotation: Any) -> bool:
    origin, inner = get_origin(annotation), get_args(annotation)
    if annotation is Any:
        return True
    if origin is Annotated:
        return _accepts(value, inner[0]) and all(each.hold(value) for each in inner[1:])
    if origin in (Union, types.UnionType):
        return any(_accepts(value, each) for each in inner)
    if origin is Literal:
        plain = value.item() if isinstance(value, np.generic) else value
        return any(type(plain) is type(each) and plain == each for each in inner)
    if annotation in (None, types.NoneType):
        return value is None
    if annotation is bool:
        return isinstance(value, (bool, np.bool_))
    if annotation is int:
        return is_integer(value)
    if annotation is float:
        return is_number(value) and math.isfinite(value)
    if origin is list:
        return isinstance(value, list) and all(_accepts(each, inner[0]) for each in value)
    if origin in (collections.abc.Sequence, tuple):
        no_list = isinstance(value, (set, frozenset, torch.Tensor))  # tensors have annotations of their own
        return is_column(value) and not no_list and all(_accepts(each, inner[0]) for each in value)
    if origin is collections.abc.Callable or annotation is Callable:
        return callable(value)
    plain = origin if isinstance(origin, type) else annotation
    return isinstance(value, plain) if isinstance(plain, type) else True


def _describe(annotation: Any) -> str:
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _describe(inner[0]) + "".join(map(str, inner[1:]))
    if origin in (Union, types.UnionType):
        words = [_describe(each) for each in inner]
        return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
    if origin is Literal:
        return f"one of {', '.join(map(repr, inner))}" if len(inner) > 1 else repr(inner[0])
    if annotation in (None, types.NoneType):
        return "None"
    if origin in (list, tuple, collections.abc.Sequence):
        return f"a list of which each is {_describe(inner[0])}"
    if origin is collections.abc.Callable or annotation is Callable:
        return "a function"
    words_of = {
        bool: "True or False",
        int: "an integer",
        float: "a finite number",
        str: "a string",
        torch.Tensor: "a tensor",
        torch.Generator: "a torch.Generator",
    }
    name = getattr(annotation, "__name__", str(annotation))
    return words_of.get(annotation, f"{'an' if name[:1] in 'AEIOU' else 'a'} {name}")


def _is_plain(annotation: Any) -> bool:
    """Return whether an annotation allows numbers, flags or strings, or lists of them."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _is_plain(inner[0])
    if origin in (Union, types.UnionType, list, tuple, collections.abc.Sequence):
        return any(map(_is_plain, inner))
    return origin is Literal or annotation in (bool, int, float, str)


def _show(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"a tensor of {value.dtype} and the shape {tuple(value.shape)}"
    if isinstance(value, np.ndarray):
        return f"an array of {value.dtype} and the shape {value.shape}"
    simple = isinstance(value, (str, bytes, bool, int, float, complex, list, tuple, dict, set, np.generic, type(None)))
    text = repr(value) if simple else f"a {type(value).__name__}"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def check_same_shape(value: torch.Tensor, other: torch.Tensor, name: str, other_name: str) -> None:
    """Raise a ValueError unless two tensors have the same shape."""
    if value.shape != other.shape:
        raise ValueError(
            f"`{name}` must have the shape of `{other_name}`, {tuple(other.shape)}, got {tuple(value.shape)}."
        )


def refuse_without(needed: str, given: Sequence[str], reason: str) -> None:
    """Raise a ValueError if arguments were given that mean nothing without another.

    Args:
        needed: The argument without which they mean nothing.
        given: Those that were given, perhaps none.
        reason: What they are for.
    """
    if given:
        names = " and ".join(f"`{name}`" for name in given)
        verb = "needs" if len(given) == 1 else "need"
        raise ValueError(f"{names} {verb} {needed}: {reason}.")
