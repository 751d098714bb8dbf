"""What goes on inside encoder and decoder, for those who ask: hidden states and attention weights of a backbone."""

from typing import Any

import torch
from torch import nn

States = tuple[torch.Tensor, ...] | None


class RecordedStates:
    """Hidden states and attention weights that a backbone is asked for in one call, and what it gave.

    Args:
        hidden_states: Whether to record the hidden states.
        attentions: Whether to record the attention weights.

    Attributes:
        hidden_states: The states after the embeddings and after each layer, or None.
        attentions: Those of each layer, or None.
    """

    def __init__(self, hidden_states: bool, attentions: bool):
        self.arguments = {"output_hidden_states": hidden_states, "output_attentions": attentions}
        self.hidden_states: States = None
        self.attentions: States = None

    def take(self, output: Any) -> None:
        """Note what a backbone has returned for `arguments`."""
        if self.arguments["output_hidden_states"]:
            self.hidden_states = output.hidden_states
        if self.arguments["output_attentions"]:
            self.attentions = output.attentions


def record_states(
    encoder: nn.Module, decoder: nn.Module | None, output_hidden_states: bool, output_attentions: bool
) -> tuple[RecordedStates | None, RecordedStates | None]:
    """Return records for encoder and decoder to fill; None for each if nothing is asked for.

    Args:
        encoder: The encoder.
        decoder: The decoder; None if it does not run.
        output_hidden_states: Whether hidden states are asked for.
        output_attentions: Whether attention weights are.

    Raises:
        ValueError: If a part has none to give.
    """
    if not (output_hidden_states or output_attentions):
        return None, None
    asked = "output_hidden_states" if output_hidden_states else "output_attentions"
    for name, part in (("encoder", encoder), ("decoder", decoder)):
        if part is None:
            continue
        if not getattr(part, "records_states", False):
            raise ValueError(
                f"`{asked}` must be False here: the {name}, {type(part).__name__}, is no transformer that has them."
            )
        config: Any = part.get_submodule("backbone").config
        if output_attentions and config._attn_implementation != "eager":
            raise ValueError(
                f"`output_attentions` needs attention that is computed step by step, and the {name}'s is "
                f"{config._attn_implementation!r}: `model.set_attn_implementation('eager')` changes it."
            )
    record = RecordedStates(output_hidden_states, output_attentions)
    return record, None if decoder is None else RecordedStates(output_hidden_states, output_attentions)


def returned_states(encoder: RecordedStates | None, decoder: RecordedStates | None) -> dict[str, Any]:
    """Return what was recorded as fields of an `EDDPMOutput`."""
    return {
        f"{name}_{what}": getattr(record, what)
        for name, record in (("encoder", encoder), ("decoder", decoder))
        if record is not None
        for what in ("hidden_states", "attentions")
    }
