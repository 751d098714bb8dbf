"""The weight files of a checkpoint, held against the model that its configuration asks for.

A configuration is small and easily wrong: one digit more in it asks for more memory than there is. What a model needs
is therefore counted on torch's meta device, which allocates nothing, and compared with what the files hold.
"""

import math
import threading
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from transformers import initialization
from transformers.utils import SAFE_WEIGHTS_NAME, cached_file
from transformers.utils.hub import get_checkpoint_shard_files

HUB_ARGUMENTS = ("token", "revision", "cache_dir", "local_files_only", "force_download", "proxies", "subfolder")

# A file may hold less than a byte for each weight (4-bit quantisation) and fewer tensors than the model has parameters
# (tied ones, experts stored as one).
_WEIGHTS_PER_BYTE = 2
_PARAMETERS_PER_TENSOR = 4
_ALWAYS_PARAMETERS = 5_000
_FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MAY_BE_INFINITE = ("target_range",)  # of a property head that has seen no data

Headers = dict[str, tuple[str, tuple[int, ...]]]


class _TooManyParameters(Exception):
    """Ends the construction of a model that no file could fill."""


def with_variant(name: str, variant: str | None) -> str:
    """Return a weight file's name with a variant in it: `model.fp16.safetensors`."""
    if variant is None:
        return name
    stem, _, ending = name.partition(".")
    return f"{stem}.{variant}.{ending}"


def find_weight_files(
    name: str,
    variant: str | None = None,
    subfolder: str = "",
    weights_name: str = SAFE_WEIGHTS_NAME,
    **hub_arguments: Any,
) -> list[Path]:
    """Return the safetensors files of a model's weights, fetched from the Hub if need be.

    Args:
        name: Folder, or "user/repo" on the Hub.
        variant: As in `model.fp16.safetensors`.
        subfolder: Where in the folder.
        weights_name: Name of the file where there is one; several have an index beside them.
        **hub_arguments: `token`, `revision`, `cache_dir`, `local_files_only`, `force_download`, `proxies`.

    Raises:
        OSError: If there are none. Pickled weights do not count: reading them would run whatever code is in them.
    """
    arguments = {**hub_arguments, "subfolder": subfolder}
    quiet = {"_raise_exceptions_for_missing_entries": False}
    single = cached_file(name, with_variant(weights_name, variant), **arguments, **quiet)
    if single is not None:
        return [Path(single)]
    index = cached_file(name, with_variant(f"{weights_name}.index.json", variant), **arguments, **quiet)
    if index is not None:
        files, _ = get_checkpoint_shard_files(name, index, **arguments)
        return [Path(file) for file in files]
    where = f"{name}/{subfolder}" if subfolder else name
    if variant is not None:
        raise OSError(
            f"You are trying to load the model files of the `variant={variant}`, but no such modeling files are "
            f"available in {where!r}."
        )
    raise OSError(
        f"{where!r} has no {weights_name}. Only safetensors are loaded: a pickle (.bin, .pt) can run any code."
    )


def read_headers(files: Iterable[Path]) -> Headers:
    """Return the type and the shape of every tensor in safetensors files, without reading the tensors.

    Args:
        files: The files.

    Raises:
        OSError: If one is damaged.
    """
    headers: Headers = {}
    for file in files:
        try:
            with safe_open(file, "pt") as opened:
                for name in opened.keys():  # noqa: SIM118  (no mapping)
                    tensor = opened.get_slice(name)
                    headers[name] = (tensor.get_dtype(), tuple(tensor.get_shape()))
        except (SafetensorError, FileNotFoundError) as error:
            raise OSError(
                f"The weights in {str(file)!r} are damaged or incomplete ({error}). Fetch them again."
            ) from error
    return headers


def outline(build: Callable[[], nn.Module], num_tensors: int, where: str) -> nn.Module:
    """Build a model on the meta device, where no tensor takes memory.

    Args:
        build: Makes the model.
        num_tensors: Tensors in the files that will fill it: a model of many times as many is not built to its end.
        where: The checkpoint, for the error.

    Raises:
        OSError: If the configuration asks for far more tensors than these, or for a tensor that cannot be.
    """
    most = _PARAMETERS_PER_TENSOR * num_tensors + _ALWAYS_PARAMETERS
    builder, count = threading.get_ident(), 0

    def counted(module: nn.Module, name: str, parameter: Any) -> None:
        nonlocal count
        if threading.get_ident() != builder:
            return  # another thread's model
        count += 1
        if count > most:
            raise _TooManyParameters

    hook = register_module_parameter_registration_hook(counted)
    try:
        with torch.device("meta"), initialization.no_init_weights():
            return build()
    except _TooManyParameters:
        raise OSError(
            f"The config of {where!r} asks for a model of more than {most} tensors; its files hold {num_tensors}."
        ) from None
    except (RuntimeError, OverflowError, MemoryError) as error:
        raise OSError(f"The config of {where!r} asks for a model that cannot be built: {error}") from error
    finally:
        hook.remove()


def check_size(tensors: Iterable[torch.Tensor], files: Iterable[Path], where: str) -> None:
    """Raise an OSError if a model needs many more numbers than the files can hold.

    Args:
        tensors: The model's parameters and buffers.
        files: The files that will fill it.
        where: The checkpoint, for the error.
    """
    needed = sum(math.prod(tensor.shape) for tensor in {id(tensor): tensor for tensor in tensors}.values())
    held = sum(file.stat().st_size for file in files)
    if needed > _WEIGHTS_PER_BYTE * held:
        raise OSError(
            f"The config of {where!r} asks for a model of {needed:,} weights; its files have {held:,} bytes in all."
        )


def describe_misfit(model: nn.Module, headers: Headers) -> str:
    """Return a sentence that names a tensor whose shape is not the one the model has, if there is one."""
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    wrong = [name for name, (_, shape) in headers.items() if shapes.get(name, shape) != shape]
    if not wrong:
        return "the shapes of its weights are not those that its config asks for"
    first = wrong[0]
    return (
        f"{len(wrong)} of its weights have not the shape that its config asks for, {first!r} for one: "
        f"{headers[first][1]} in the file, {shapes[first]} by the config"
    )


def check_types(model: nn.Module, headers: Headers, where: str) -> None:
    """Raise an OSError if whole numbers stand where the model has floating-point weights."""
    for name, tensor in model.state_dict().items():
        stored = headers.get(name, ("F32", ()))[0]
        if tensor.is_floating_point() and not stored.startswith(("F", "BF")):
            raise OSError(f"{name!r} in {where!r} must hold floating-point numbers, got {stored}.")


def check_finite(tensors: Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]], where: str) -> None:
    """Raise an OSError that names the first tensor with a value that is NaN or infinite.

    Args:
        tensors: Tensors by name.
        where: The checkpoint, for the error.
    """
    if (found := describe_not_finite(tensors)) is not None:
        raise OSError(f"The weights in {where!r} are unusable: {found}.")


def describe_not_finite(tensors: Mapping[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]]) -> str | None:
    """Return which tensor, the first, holds how many values that are NaN or infinite; None if none does."""
    for name, tensor in tensors.items() if isinstance(tensors, Mapping) else tensors:
        if tensor.dtype not in _FLOATS or tensor.is_meta:
            continue
        tensor = tensor.detach()
        # The sum is not finite if a value is not, and takes no memory.
        if math.isfinite(tensor.sum(dtype=torch.float64 if tensor.dtype == torch.float64 else torch.float32)):
            continue
        wrong = tensor.isnan() if name.endswith(_MAY_BE_INFINITE) else ~tensor.isfinite()
        if bool(wrong.any()):
            kind = str(tensor.dtype).removeprefix("torch.")
            return f"{name!r} holds {int(wrong.sum())} values that are NaN or infinite ({kind})"
    return None
