"""A configuration and a processor that fit given proteins."""

from typing import Any

from ...configuration_eddpm import EDDPMConfig
from .modeling import ProteinConvConfig
from .processing import EDDPMProteinProcessor


def fit_protein(sequences: list[str], **values: Any) -> tuple[EDDPMConfig, EDDPMProteinProcessor]:
    """Return a configuration and a processor for proteins: a frame as long as the longest.

    Args:
        sequences: The training data, in one-letter code.
        **values: Values of `EDDPMConfig` beside the small preset's.
    """
    lengths = [len(sequence) for sequence in sequences]
    longest, shortest = max(lengths), min(lengths)
    values["decoder"] = {
        "model_type": ProteinConvConfig.model_type,
        **values.get("decoder", {}),
        "num_sites": longest,
    }
    processor = EDDPMProteinProcessor(length=longest, min_length=longest if shortest == longest else 1)
    processor.as_list(sequences)
    return EDDPMConfig.from_preset("protein-small", **values), processor
