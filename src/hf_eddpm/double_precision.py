"""Numbers in float64 on every device."""

import torch


def as_double(values: torch.Tensor) -> torch.Tensor:
    """Return values in float64 where they are; on the CPU if their device has no float64 (MPS)."""
    return (values.cpu() if values.device.type == "mps" else values).double()
