"""What the study of text recipes compares: each variant changes one thing of the configuration."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from hf_eddpm import EDDPMModel, EDDPMTrainer
from hf_eddpm.training.collator import RawDataCollator

SLOTS = {"decoder_prefix_length": 8}
MINILM = "sentence-transformers/all-MiniLM-L6-v2"


@dataclass(frozen=True)
class Variant:
    """One recipe.

    Attributes:
        part: Which question of the study it belongs to.
        model_config: Values that differ from the configuration's; those of a network are added to its own.
        options: Further words of the command line.
        rise: Parts of the training between which the share of the chain's gradient rises from 0 to the config's.
        masked: Share of the encoder's tokens that it does not see in training.
        latent_dropout: Share of the latents' numbers that the decoder does not see in training.
        encoder_rate: Factor of the learning rate of a pretrained encoder.
        aligned: Weight of the agreement with a frozen sentence encoder.
        every: Training steps between two steps of the average of weights.
        seeds: How many training seeds.
    """

    part: str
    model_config: Mapping[str, Any] = field(default_factory=dict)
    options: tuple[str, ...] = ()
    rise: tuple[float, float] | None = None
    masked: float = 0.0
    latent_dropout: float = 0.0
    encoder_rate: float | None = None
    aligned: float = 0.0
    every: int = 1
    seeds: int = 2


def _share(value: float) -> dict[str, float]:
    return {"encoder_gradient_scale": value}


def _encoder(width: int, layers: int) -> dict[str, Any]:
    sizes = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": width // 64}
    return {"encoder": {**sizes, "intermediate_size": 4 * width}}


def _best(share: float, rise: tuple[float, float] | None = None) -> Variant:
    """Return the sum of what helped by itself, with a share of the chain's gradient."""
    chain = {"beta_schedule": "squaredcos_cap_v2", "denoiser_hidden_size": 1024}
    config = {**_encoder(384, 3), **chain, **SLOTS, **_share(share)}
    return Variant("best", config, ("--ema_decay", "0.92"), rise=rise, every=8, seeds=3)


_MANY = {"num_latents": 8, "latent_dim": 16, "pooling": "attention"}
VARIANTS = {
    "two-stage (share 0)": Variant("joint", seeds=3),
    "joint, share 0.1": Variant("joint", _share(0.1), seeds=3),
    "joint, share rises to 0.1": Variant("joint", _share(0.1), rise=(0.5, 1.0), seeds=3),
    "joint, share rises to 0.3": Variant("joint", _share(0.3), rise=(0.5, 1.0), seeds=3),
    "encoder MiniLM, a tenth of the rate": Variant("a", options=("--encoder", MINILM), encoder_rate=0.1),
    "encoder 6 layers": Variant("b", _encoder(256, 6)),
    "encoder 384 wide": Variant("b", _encoder(384, 3)),
    "decoder 6 layers": Variant("b", {"decoder": {"n_layer": 6}}),
    "decoder 384 wide": Variant("b", {"decoder": {"n_embd": 384, "n_head": 6}}),
    "one latent in eight prefix slots": Variant("c", SLOTS),
    "8 x 16 latents": Variant("c", _MANY),
    "8 x 16 latents, transformer denoiser": Variant("c", {**_MANY, "denoiser_type": "transformer"}),
    "memory of every layer": Variant("c", {"decoder_conditioning": "memory"}),
    "batch 64": Variant("d", options=("--per_device_train_batch_size", "64", "--learning_rate", "0.0015")),
    "batch 1024": Variant("d", options=("--per_device_train_batch_size", "1024")),
    "batches of like length": Variant("d", options=("--train_sampling_strategy", "group_by_length")),
    "average every 8 steps": Variant("d", options=("--ema_decay", "0.92"), every=8),
    "15 % of the encoder's input masked": Variant("e", masked=0.15),
    "15 % of the latents dropped": Variant("e", latent_dropout=0.15),
    "aligned with MiniLM": Variant("f", aligned=0.5),
    "cosine schedule": Variant("g", {"beta_schedule": "squaredcos_cap_v2"}),
    "decoder noise 0": Variant("noise", {"decoder_noise_variance": 0.0}),
    "decoder noise 0.6": Variant("noise", {"decoder_noise_variance": 0.6}),
    "encoder noise 0.1": Variant("noise", {"encoder_noise_variance": 0.1}),
    "denoiser 1,024 wide": Variant("chain", {"denoiser_hidden_size": 1024}),
    "all that helps, two-stage": _best(0.0),
    "all that helps, share rises to 0.3": _best(0.3, rise=(0.5, 1.0)),
}


class MaskingCollator:
    """Hides tokens from the encoder by its attention mask; the decoder's targets stay whole.

    Args:
        collator: Makes the batches.
        share: How many of the tokens are hidden; the first never is.
    """

    def __init__(self, collator: RawDataCollator, share: float):
        self.collator, self.share = collator, share

    def __call__(self, examples: list[Any]) -> dict[str, Any]:
        """Return the batch."""
        batch = dict(self.collator(examples))
        mask = batch["attention_mask"]
        kept = torch.rand(mask.shape) >= self.share
        kept[:, 0] = True
        batch["attention_mask"] = mask * kept.to(mask.dtype)
        return batch


def drop_latents(model: EDDPMModel, share: float) -> None:
    """Makes the decoder miss a share of the latents' numbers in training."""
    decoder = model.decoder
    forward: Callable[..., Any] = decoder.forward

    def with_dropout(latents: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        return forward(nn.functional.dropout(latents, share, model.training), *args, **kwargs)

    decoder.forward = with_dropout


def slow_encoder(trainer: EDDPMTrainer, factor: float) -> None:
    """Makes the optimizer train the encoder with a part of the learning rate."""
    create = trainer.create_optimizer

    def with_two_rates(*args: Any, **kwargs: Any) -> torch.optim.Optimizer:
        optimizer = create(*args, **kwargs)
        slow = {id(parameter) for parameter in trainer._eddpm.encoder.parameters()}
        for group in list(optimizer.param_groups):
            chosen = [parameter for parameter in group["params"] if id(parameter) in slow]
            if chosen:
                rest = {name: value for name, value in group.items() if name != "params"}
                group["params"] = [parameter for parameter in group["params"] if id(parameter) not in slow]
                optimizer.add_param_group({**rest, "params": chosen, "lr": rest["lr"] * factor})
        return optimizer

    trainer.create_optimizer = with_two_rates
