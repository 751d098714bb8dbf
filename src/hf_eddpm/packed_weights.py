"""Linear layers whose weights lie as oneDNN wants them: faster inference in float32 on CPUs.

torch multiplies float32 matrices on CPUs by Intel's MKL, which on processors of other makers leaves AVX-512 unused.
oneDNN, which torch has too, uses it, and reads a weight faster from a layout of its own.
"""

from typing import Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

_LINEAR = (nn.Linear, Conv1D)


class PackedForward:
    """Stands in the place of a linear layer's `forward`.

    The packed copy is made at the first call and again whenever the weight has changed. Where it cannot serve (a
    gradient is needed, another type or device, autocast, a compiler is watching) the layer's own `forward` runs.

    Args:
        layer: The layer.
    """

    def __init__(self, layer: nn.Module):
        self.layer = layer
        self.packed: tuple[tuple[int, int], torch.Tensor] | None = None

    def __call__(self, input: torch.Tensor) -> torch.Tensor:
        """Map `(..., in_features)` to `(..., out_features)`."""
        weight: Any = self.layer.weight
        bias: Any = self.layer.bias
        serves = input.dtype == weight.dtype == torch.float32 and input.device.type == weight.device.type == "cpu"
        if not serves or not input.numel() or torch.is_grad_enabled() or _is_watched():
            return type(self.layer).forward(self.layer, input)
        state = (weight.data_ptr(), weight._version)
        held = self.packed
        if held is None or held[0] != state:
            rows = weight.detach().t() if isinstance(self.layer, Conv1D) else weight.detach()
            held = self.packed = (state, torch.ops.mkldnn._reorder_linear_weight(rows.contiguous()))
        return torch.ops.mkldnn._linear_pointwise(input, held[1], bias, "none", [], "")

    def __getstate__(self) -> dict[str, Any]:
        """Copies pack anew: oneDNN's tensors cannot be copied."""
        return {"layer": self.layer, "packed": None}


def _is_watched() -> bool:
    return torch.is_autocast_enabled("cpu") or torch.compiler.is_compiling()


def pack_weights(model: nn.Module) -> int:
    """Let the linear layers of a model compute from packed weights; returns how many.

    Layers of other types, for example quantised ones, and those that accelerate moves between devices stay as they
    are. Each packed weight takes as much memory again.

    Args:
        model: The model, of which only layers in float32 on a CPU will gain.

    Raises:
        RuntimeError: If this torch was built without oneDNN.
    """
    if not torch.backends.mkldnn.is_available():
        raise RuntimeError("Packing weights needs a torch that was built with oneDNN, which this one was not.")
    layers = [module for module in model.modules() if type(module) in _LINEAR and not hasattr(module, "_hf_hook")]
    for layer in layers:
        layer.forward = PackedForward(layer)
    return len(layers)


def unpack_weights(model: nn.Module) -> None:
    """Give the layers that `pack_weights` changed their own `forward` back."""
    for module in model.modules():
        if isinstance(vars(module).get("forward"), PackedForward):
            del module.forward
