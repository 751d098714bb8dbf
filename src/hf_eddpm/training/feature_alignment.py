"""Latents that agree with a frozen encoder: a linear head from them to its features, in training alone.

    frozen = ImageEncoder(config, AutoModel.from_pretrained("facebook/dinov2-small"))
    trainer = FeatureAlignedTrainer(FeatureAlignment(encoder_features(frozen), weight=0.5), model=model, ...)

Source: Yu et al. 2024, "Representation Alignment for Generation" (REPA, arXiv 2410.06940, equation 8): the negative
cosine between a projection of what is trained and the features of a frozen encoder. Here it is the latents that are
projected, by a linear layer, and a datum has one vector of features.
"""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn.functional import cosine_similarity
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from ..argument_types import PositiveNumber, checked
from ..modalities.base import ModalityEncoder
from ..processing_eddpm import EDDPMProcessor
from .trainer import EDDPMTrainer

Features = Callable[[Mapping[str, torch.Tensor]], torch.Tensor]

_HEAD_FILE = "feature_head.safetensors"


def encoder_features(encoder: ModalityEncoder) -> Features:
    """Return the features of a frozen encoder as a function of a batch: their mean over its latents' slots.

    Args:
        encoder: Encoder of the modality, for example `ImageEncoder(config, backbone)` around a pretrained DINOv2; it
            takes the same inputs as the model's own.
    """
    frozen = encoder.eval().requires_grad_(False)

    @torch.no_grad()
    def features(inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        given = {name: inputs[name] for name in frozen.input_names if name in inputs}
        frozen.to(next(iter(given.values())).device)
        return frozen(**given).float().mean(1)

    return features


def sentence_features(
    backbone: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, processor: EDDPMProcessor
) -> Features:
    """Return the features of a frozen sentence encoder: the mean of its last hidden states, with its own tokenizer.

    Args:
        backbone: Encoder of transformers, for example MiniLM's.
        tokenizer: Its tokenizer.
        processor: The model's processor, which turns the labels of a batch back into sentences.
    """
    frozen = backbone.eval().requires_grad_(False)

    @torch.no_grad()
    def features(inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        labels = inputs["labels"]
        end: Any = getattr(processor, "decoder_tokenizer", tokenizer)
        sentences = processor.postprocess(labels.masked_fill(labels == -100, end.eos_token_id))
        batch = tokenizer(sentences, padding=True, truncation=True, return_tensors="pt").to(labels.device)
        states = frozen.to(labels.device)(**batch).last_hidden_state.float()  # (batch, seq, hidden)
        mask = batch["attention_mask"].unsqueeze(-1).to(states.dtype)
        return (states * mask).sum(1) / mask.sum(1).clamp(min=1)

    return features


class FeatureAlignment:
    """How latents are to agree with features.

    Args:
        features: Function from a batch, the inputs of the model's `forward`, to features `(batch, hidden)`.
        weight: Of the loss `1 - cosine(head(latents), features)`, which is in [0, 2]; positive.
    """

    @checked
    def __init__(self, features: Features, weight: PositiveNumber = 0.5):
        self.features, self.weight = features, weight


class FeatureAlignedTrainer(EDDPMTrainer):
    """An `EDDPMTrainer` whose loss also wants the latents to agree with features; `feature_loss` is in its log.

    The head trains beside the model. It is kept in the checkpoints that a run is resumed from, and in no pipeline.

    Args:
        alignment: The features and the loss's weight.
        **kwargs: As for `EDDPMTrainer`.

    Raises:
        ValueError: If training is sharded (FSDP), or the features are not one finite vector a datum.
    """

    def __init__(self, alignment: FeatureAlignment, **kwargs: Any):
        super().__init__(**kwargs)
        if self.is_fsdp_enabled:
            raise ValueError("`alignment` cannot be used with FSDP, whose parameters are in pieces.")
        self.alignment = alignment
        self.head: nn.Linear | None = None
        self._synchronised: Any = None  # the head, or DDP's wrapper around it
        self._resumed: dict[str, torch.Tensor] | None = None  # a head that is not made yet
        self._sum: torch.Tensor | float = 0.0  # of the features' loss since the last log; on the device until then
        self._count = 0

    def create_optimizer(self, *args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        """Make the optimizer, with the head's parameters in a group of their own."""
        optimizer = super().create_optimizer(*args, **kwargs)
        if self.head is None:
            self.head = self._make_head()
            if self._resumed is not None:
                self.head.load_state_dict(self._resumed)
            several = self.accelerator.num_processes > 1
            self._synchronised = self.accelerator.prepare_model(self.head) if several else self.head
            optimizer.add_param_group({"params": list(self.head.parameters()), "weight_decay": 0.0})
            # Trainer clears the gradients of the model's parameters, not of all that the optimizer has.
            optimizer.register_step_post_hook(lambda *_: self.head.zero_grad())
        return optimizer

    def _make_head(self) -> nn.Linear:
        examples = self._spread_examples(2)
        with torch.random.fork_rng():  # the rest of training draws what it would without a head
            batch = self._prepare_inputs(self.data_collator(examples))
            width = self._features(batch).shape[1]
            torch.manual_seed(self.args.seed)
            return nn.Linear(self._eddpm.config.latent_size, width).to(self.args.device)

    def _features(self, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
        features = self.alignment.features(inputs)
        count = len(inputs[self._eddpm.encoder.input_names[0]])
        if not isinstance(features, torch.Tensor) or features.ndim != 2 or len(features) != count:
            got = tuple(features.shape) if isinstance(features, torch.Tensor) else type(features).__name__
            raise ValueError(f"`features` must return one vector a datum, ({count}, hidden), got {got}.")
        if not bool(torch.isfinite(features).all()):
            raise ValueError("`features` must be finite, got NaN or infinity.")
        return features.detach().float()

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Compute the loss; in training the features' is added. See `EDDPMTrainer.compute_loss`."""
        loss, output = super().compute_loss(model, inputs, True, num_items_in_batch)
        if model.training and self._synchronised is not None:
            projected = self._synchronised(output.latents.flatten(1).float())
            feature_loss = 1 - cosine_similarity(projected, self._features(inputs)).mean()
            self._sum, self._count = self._sum + feature_loss.detach(), self._count + 1
            loss = loss + self.alignment.weight * feature_loss
        return (loss, output) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Add the features' loss to a log entry of the training; of the first process's data."""
        if "loss" in logs and self._count:
            logs["feature_loss"] = float(self._sum) / self._count
            self._sum, self._count = 0.0, 0
        super().log(logs, start_time)

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        super()._save(output_dir, state_dict)
        is_checkpoint = self.args.should_save and self._saving_checkpoint_in is not None and output_dir is not None
        if self.head is not None and is_checkpoint:
            tensors = {name: value.cpu().contiguous() for name, value in self.head.state_dict().items()}
            save_file(tensors, os.path.join(str(output_dir), _HEAD_FILE))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        path = Path(resume_from_checkpoint, _HEAD_FILE)
        if not path.is_file():
            raise ValueError(
                f"`alignment` is given, but the checkpoint {resume_from_checkpoint!r} has no {_HEAD_FILE}."
            )
        self._resumed = load_file(path)
        if self.head is not None:
            self.head.load_state_dict(self._resumed)
