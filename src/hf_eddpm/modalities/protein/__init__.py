"""Proteins."""

from ..registry import Modality, register_modality
from .fitting import fit_protein
from .modeling import ProteinConvConfig, ProteinEncoder, make_protein_decoder
from .presets import PAPER, SMALL, SMALL_ENCODER

register_modality(
    "protein",
    Modality(
        encoder_class=ProteinEncoder,
        decoder_class=make_protein_decoder,
        default_encoder=SMALL_ENCODER,
        default_decoder={"model_type": ProteinConvConfig.model_type},
        presets={"protein-small": SMALL, "protein-paper": PAPER},
        fit=fit_protein,
    ),
)
