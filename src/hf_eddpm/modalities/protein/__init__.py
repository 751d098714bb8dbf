"""Proteins."""

from typing import Any

from ..registry import Modality, register_modality
from .fitting import fit_protein
from .modeling import ProteinConvConfig, ProteinEncoder, make_protein_decoder
from .presets import CAUSAL_DECODER, PAPER, SMALL, SMALL_ENCODER


def _complete_decoder(values: dict[str, Any]) -> dict[str, Any]:
    convolutional = values.get("model_type", ProteinConvConfig.model_type) == ProteinConvConfig.model_type
    return {} if convolutional else CAUSAL_DECODER


register_modality(
    "protein",
    Modality(
        encoder_class=ProteinEncoder,
        decoder_class=make_protein_decoder,
        default_encoder=SMALL_ENCODER,
        default_decoder={"model_type": ProteinConvConfig.model_type},
        presets={"protein-small": SMALL, "protein-paper": PAPER},
        complete_decoder=_complete_decoder,
        fit=fit_protein,
    ),
)
