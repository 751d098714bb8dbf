"""Pipelines for programs that only use them: on the device there is, as fast as it goes."""

import torch

from .pipeline_eddpm import EDDPMPipeline


def load_to_use(
    checkpoint: str, device: str | None = None, dtype: torch.dtype | None = None, packed: bool = True
) -> EDDPMPipeline:
    """Load a pipeline.

    Args:
        checkpoint: Folder or Hub id.
        device: Where it computes; None for an accelerator if there is one.
        dtype: Type to compute in; None for the checkpoint's own.
        packed: Whether to compute from packed weights where this torch can (see `enable_packed_weights`).
    """
    if device is None:
        device = str(torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu")
    given = {} if dtype is None else {"dtype": dtype}
    pipe: EDDPMPipeline = EDDPMPipeline.from_pretrained(checkpoint, **given).to(device)
    if packed and torch.backends.mkldnn.is_available():
        pipe.enable_packed_weights()
    return pipe
