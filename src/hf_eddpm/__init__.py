"""EDDPM: one model that generates, reconstructs and represents data (arXiv 2402.19009), for Hugging Face."""

from typing import TYPE_CHECKING, Any

import diffusers
from transformers import AutoConfig, AutoModel, AutoProcessor

from .building import model_for_data
from .configuration_eddpm import EDDPMConfig
from .control.attributes import LinearAttribute
from .control.directions import linear_direction, orthogonalize
from .control.guidance import ClassifierGuidance, EnergyGuidance, Guidance, PropertyGuidance, SimilarityGuidance
from .control.latent_guide import LatentGuide
from .modalities.base import ModalityDecoder, ModalityEncoder
from .modalities.image.configuration import ImageConvConfig, ImageEncoderConfig, ImageUNetConfig
from .modalities.image.decoder import ImageConvDecoder
from .modalities.image.diffusion_decoder import ImageDiffusionDecoder
from .modalities.image.encoder import ImageEncoder
from .modalities.image.processing import EDDPMImageProcessor, plot_grid
from .modalities.protein.modeling import ProteinCausalDecoder, ProteinConvConfig, ProteinConvDecoder, ProteinEncoder
from .modalities.protein.processing import EDDPMProteinProcessor
from .modalities.registry import Modality, register_modality
from .modalities.text.modeling import TextDecoder, TextEncoder
from .modalities.text.processing import EDDPMTextProcessor
from .modeling_eddpm import EDDPMModel
from .modeling_property import PropertyHead
from .outputs import (
    EDDPMAttributeEdit,
    EDDPMBound,
    EDDPMEncoding,
    EDDPMOptimization,
    EDDPMOutput,
    EDDPMPipelineOutput,
    EDDPMScore,
)
from .pipeline_eddpm import EDDPMPipeline
from .processing_eddpm import EDDPMProcessor
from .scheduling_eddpm import EDDPMScheduler, EDDPMSchedulerOutput

if TYPE_CHECKING:
    from .training.trainer import EDDPMTrainer

__all__ = [
    "ClassifierGuidance",
    "EDDPMAttributeEdit",
    "EDDPMBound",
    "EDDPMConfig",
    "EDDPMEncoding",
    "EDDPMImageProcessor",
    "EDDPMModel",
    "EDDPMOptimization",
    "EDDPMOutput",
    "EDDPMPipeline",
    "EDDPMPipelineOutput",
    "EDDPMProcessor",
    "EDDPMProteinProcessor",
    "EDDPMScheduler",
    "EDDPMSchedulerOutput",
    "EDDPMScore",
    "EDDPMTextProcessor",
    "EDDPMTrainer",
    "ImageConvConfig",
    "ImageConvDecoder",
    "ImageDiffusionDecoder",
    "ImageEncoder",
    "ImageEncoderConfig",
    "ImageUNetConfig",
    "EnergyGuidance",
    "Guidance",
    "LatentGuide",
    "LinearAttribute",
    "Modality",
    "ModalityDecoder",
    "ModalityEncoder",
    "PropertyGuidance",
    "PropertyHead",
    "ProteinCausalDecoder",
    "ProteinConvConfig",
    "ProteinConvDecoder",
    "ProteinEncoder",
    "SimilarityGuidance",
    "TextDecoder",
    "TextEncoder",
    "linear_direction",
    "model_for_data",
    "orthogonalize",
    "plot_grid",
    "register_modality",
]
__version__ = "0.1.0"

AutoConfig.register("eddpm", EDDPMConfig, exist_ok=True)
AutoModel.register(EDDPMConfig, EDDPMModel, exist_ok=True)
# AutoProcessor finds a processor's class by its name among those that are registered for some configuration.
AutoProcessor.register(EDDPMConfig, EDDPMTextProcessor, exist_ok=True)
AutoProcessor.register(ProteinConvConfig, EDDPMProteinProcessor, exist_ok=True)
AutoProcessor.register(ImageEncoderConfig, EDDPMImageProcessor, exist_ok=True)
# DiffusionPipeline.from_pretrained looks the class of a saved pipeline up in diffusers.
diffusers.EDDPMPipeline = EDDPMPipeline


def __getattr__(name: str) -> Any:
    """Import what only training needs, and with it `transformers.Trainer`, on first use."""
    if name == "EDDPMTrainer":
        from .training.trainer import EDDPMTrainer

        return EDDPMTrainer
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
