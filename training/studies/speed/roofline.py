"""How near work comes to what the machine can multiply: its measured rate of matrix products, and counted operations.

Operations are counted by torch (matrix products, convolutions and attention, two for each multiplication and addition;
nothing else), so a share of the rate says how much of the time the processor's arithmetic is what takes it.
"""

import time
from collections.abc import Callable
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode


def matmul_rate(dtype: torch.dtype, sizes: tuple[int, ...] = (512, 1024, 2048), seconds: float = 0.5) -> float:
    """The fastest measured rate of square matrix products, in operations a second.

    Args:
        dtype: Of the factors.
        sizes: Of the matrices; the best one counts.
        seconds: Spent on each size.
    """
    best = 0.0
    for size in sizes:
        a, b = (torch.randn(size, size).to(dtype) for _ in range(2))
        torch.mm(a, b)  # warm up
        start = time.perf_counter()
        while time.perf_counter() - start < seconds:
            before = time.perf_counter()
            torch.mm(a, b)
            best = max(best, 2 * size**3 / (time.perf_counter() - before))
    return best


def count_operations(work: Callable[[], Any]) -> dict[str, int]:
    """The operations of some work, all of them as "total", and those inside each module by its name."""
    with FlopCounterMode(display=False) as counter:
        work()
    return operations_of(counter)


def operations_of(counter: FlopCounterMode) -> dict[str, int]:
    """The same of a counter that has counted; a module's backward pass is its own."""
    counts = {name: sum(operations.values()) for name, operations in counter.get_flop_counts().items()}
    return {**counts, "total": counter.get_total_flops()}


def rate_row(part: str, operations: int, seconds: float, rate: float, total_seconds: float) -> dict[str, Any]:
    """One part of some work beside the machine's rate.

    Args:
        part: What it is.
        operations: That it takes.
        seconds: That it takes.
        rate: The machine's, in operations a second.
        total_seconds: Of the whole that it is a part of.
    """
    return {
        "part": part,
        "operations": operations,
        "seconds": seconds,
        "share_of_time": seconds / total_seconds,
        "share_of_rate": operations / seconds / rate,
    }
