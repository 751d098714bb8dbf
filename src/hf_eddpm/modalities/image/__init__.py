"""Images."""

from ..registry import Modality, register_modality
from .configuration import ImageConvConfig, ImageEncoderConfig, ImageUNetConfig
from .diffusion_decoder import make_image_decoder
from .encoder import ImageEncoder
from .fitting import fit_image
from .presets import PAPER, SMALL, paper_networks

register_modality(
    "image",
    Modality(
        encoder_class=ImageEncoder,
        decoder_class=make_image_decoder,
        default_encoder={"model_type": ImageEncoderConfig.model_type},
        default_decoder={"model_type": ImageConvConfig.model_type},
        fit=fit_image,
        presets={
            "image-small": {**SMALL, "decoder": {"model_type": ImageConvConfig.model_type}},
            "image-small-chain": {**SMALL, "decoder": {"model_type": ImageUNetConfig.model_type}},
            "image-paper-64": {
                **PAPER,
                **paper_networks(64, [64, 128, 256, 512], [64, 128, 256, 512, 512]),
            },
            "image-paper-128": {
                **PAPER,
                **paper_networks(128, [128, 128, 256, 384, 512], [128, 128, 256, 384, 512, 512]),
            },
        },
    ),
)
