"""Text."""

from ..registry import Modality, register_modality
from .fitting import fit_text
from .modeling import TextDecoder, TextEncoder
from .presets import PAPER, SMALL, SMALL_DECODER, SMALL_ENCODER

register_modality(
    "text",
    Modality(
        encoder_class=TextEncoder,
        decoder_class=TextDecoder,
        default_encoder=SMALL_ENCODER,
        default_decoder=SMALL_DECODER,
        presets={"text-small": SMALL, "text-paper": PAPER},
        fit=fit_text,
    ),
)
