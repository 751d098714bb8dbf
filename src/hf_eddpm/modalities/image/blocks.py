"""What the networks over images share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn


class Blocks(nn.ModuleList):
    """Blocks run one after another, each recomputed in the backward pass where checkpointing is enabled."""

    gradient_checkpointing = False
    _gradient_checkpointing_func: Callable[..., Any]

    def run(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Pass the hidden states through all blocks."""
        for block in self:
            if self.gradient_checkpointing and self.training:
                hidden_states = self._gradient_checkpointing_func(block, hidden_states)
            else:
                hidden_states = block(hidden_states)
        return hidden_states


class KeepsInitialization:
    """Leaves convolutions and linear layers as torch made them, which is how these networks are trained elsewhere."""

    def _init_weights(self, module: nn.Module) -> None:
        if not isinstance(module, (nn.Conv2d, nn.Linear, nn.GroupNorm)):
            super()._init_weights(module)  # type: ignore[misc]
