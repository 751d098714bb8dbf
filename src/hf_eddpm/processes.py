"""Sums and means over the processes of a distributed training, with gradients."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist


def has_processes() -> bool:
    """Return whether several processes train together."""
    return dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1


class SumOverProcesses(torch.autograd.Function):
    """Sums a tensor over all processes, and in the backward pass its gradients."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        """Return the sum over all processes."""
        value = value.clone()
        dist.all_reduce(value)
        return value

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> torch.Tensor:
        """Return the sum of the gradients over all processes."""
        gradient = gradients[0].clone()
        dist.all_reduce(gradient)
        return gradient


def mean_over_processes(value: torch.Tensor) -> torch.Tensor:
    """Average a tensor over all processes, without gradient.

    What a loss is divided by is averaged so. The mean of the processes' losses, and with it their gradient, is then
    the loss of one process with the whole batch.
    """
    if not has_processes():
        return value
    value = value.clone()
    dist.all_reduce(value)
    return value / dist.get_world_size()


def share_from_first(tensors: Iterable[torch.Tensor]) -> None:
    """Give all processes the first one's values of tensors, in place."""
    if has_processes():
        for tensor in tensors:
            dist.broadcast(tensor.detach(), src=0)
