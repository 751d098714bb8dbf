"""Trains an EDDPM on images and saves it as a pipeline.

    python training/train.py image training/configs/image_digits.json --output_dir runs/digits
    python training/train.py image training/configs/image_fashion.json --train train-images-idx3-ubyte.gz \\
        --output_dir runs/fashion

The configuration file is optional and each of its values can be given on the command line. The pipeline is saved in
`output_dir/pipeline` with its model card and `training.json`, the facts that the card is made from; `output_dir` also
gets curves.png and in `previews`, one for each evaluation, pictures of samples and reconstructions. A run that was
interrupted goes on with `--resume_from_checkpoint auto`.
"""

import copy
import sys
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import AutoModel, TrainerCallback
from transformers.utils import logging

from ..configuration_eddpm import EDDPMConfig
from ..data.augmented import AugmentedData
from ..modalities.image.data import ImageData, hold_out, load_images
from ..modalities.image.decoder import ImageConvDecoder
from ..modalities.image.encoder import ImageEncoder
from ..modalities.image.processing import EDDPMImageProcessor
from ..modeling_eddpm import EDDPMModel
from .arguments import EDDPMTrainingArguments, parse_arguments
from .baselines.pixels import UnconditionalDiffusion
from .baselines.vae import VariationalAutoencoder
from .batching import data_seed
from .callbacks import Curves
from .defaults import fit_steps
from .environment import describe_command
from .feature_alignment import FeatureAlignedTrainer, FeatureAlignment, encoder_features
from .finishing import add_finishing, check_whole_weights, finish_denoiser, finish_training, is_sharded
from .image_card import write_image_card
from .image_losses import (
    KeepCritic,
    PatchCritic,
    PerceptualDistance,
    ReconstructionLosses,
    fit_feature_network,
)
from .options import (
    OPTIONS,
    CardArguments,
    ImageDataArguments,
    ImageModelArguments,
    answer_help,
)
from .pretrained import load_encoder
from .runs import (
    describe_arguments,
    describe_run,
    find_checkpoint,
    publish,
    save_pipeline,
    set_up,
    warn_of_unused_labels,
)
from .sampler import use_solver
from .start import load_start
from .trainer import EDDPMTrainer

logger = logging.get_logger(__name__)

_OWN_NETS = ("eddpm_image_encoder", "eddpm_image_conv", "eddpm_image_unet")


class LabelledImages(AugmentedData):
    """Images as the trainer's collator takes them, with their classes where the denoiser is told them.

    Args:
        images: uint8 (num, height, width, channels).
        labels: Classes (num,), or `None`.
        flip: Whether every other image is mirrored, drawn anew in each epoch.
        seed: Seed of the flips.
    """

    def __init__(
        self, images: NDArray[np.uint8], labels: NDArray[np.int64] | None = None, flip: bool = False, seed: int = 0
    ):
        super().__init__(seed)
        self.images = images
        self.labels = labels
        self.flip = flip

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> dict[str, Any]:
        image = self.images[index]
        if self.flip and self.draws(index).random() < 0.5:
            image = image[:, ::-1]
        example: dict[str, Any] = {"data": image}
        if self.labels is not None:
            example["class_labels"] = int(self.labels[index])
        return example


def main(args: list[str] | None = None) -> Path:
    """Runs the training and returns the pipeline's folder."""
    words = list(sys.argv[1:] if args is None else args)
    answer_help(__doc__, *OPTIONS["train_image"], words=words)
    data_args, model_args, card_args, training_args = parse_arguments(
        ImageDataArguments, ImageModelArguments, CardArguments, EDDPMTrainingArguments, args=words
    )
    check_whole_weights(model_args.finish_steps, training_args)
    set_up(
        training_args,
        __name__,
        load_images.__module__,
        finish_denoiser.__module__,
        ReconstructionLosses.__module__,
        model_config=model_args.model_config,
    )
    start = load_image_start(model_args)
    train, dev = load_data(data_args, training_args.seed, None if start is None else start[1])
    fit_steps(training_args, len(train))
    model, processor = build_model(model_args, train, start)
    logger.info(f"The model has {model.num_parameters() / 1e6:.2f} million parameters.")
    data_facts = {name: describe_data(data) for name, data in (("train", train), ("dev", dev))}

    if not model.config.num_classes and (data_args.label_column or "label" in train.attributes):
        warn_of_unused_labels("the images", data_args.label_column)
    labels = [class_labels(data, data_args.label_column, model.config.num_classes) for data in (train, dev)]
    watched = np.random.default_rng(training_args.seed).permutation(len(dev))[: data_args.max_dev_images]
    previews = list(dev.images[watched[: training_args.num_previews]])
    has_chain = not isinstance(model, (VariationalAutoencoder, UnconditionalDiffusion))
    callbacks: list[TrainerCallback] = [Curves()]
    resumed = find_checkpoint(training_args)
    losses = make_losses(model_args, model, train, training_args)
    if losses is not None:
        model.decoder.extra_loss = losses
        callbacks.append(KeepCritic(losses, resumed))
    features = frozen_features(model_args)
    trainer: EDDPMTrainer = (EDDPMTrainer if features is None else partial(FeatureAlignedTrainer, features))(
        model=model,
        args=training_args,
        processor=processor,
        ema_decay=training_args.ema_decay,
        train_dataset=LabelledImages(train.images, labels[0], data_args.flip, data_seed(training_args)),
        eval_dataset=LabelledImages(dev.images[watched], None if labels[1] is None else labels[1][watched]),
        callbacks=callbacks,
        preview_data=previews or None,
        num_preview_samples=len(previews) if has_chain else 0,
    )
    trainer.train(resume_from_checkpoint=resumed)
    finishing = finish_training(
        trainer, list(train.images), labels[0], model_args.finish_steps, model_args.finish_batch_size
    )
    metrics = trainer.evaluate()

    folder = Path(training_args.output_dir) / "pipeline"
    if trainer.is_world_process_zero():
        pipe = trainer.build_pipeline()
        use_solver(pipe)
        pipe.to(dtype=getattr(torch, training_args.save_dtype))
        save_pipeline(pipe, folder)
        facts = {
            "command": describe_command("training/train.py", ["image", *words]),
            "arguments": describe_arguments(data_args, model_args, training_args),
            "card": asdict(card_args),
            "data": data_facts,
            "class_names": train.class_names.get(data_args.label_column or "", []),
            "hub_datasets": data_args.train if data_args.train_split else [],
            "base_models": [name for name in (model_args.init_from, model_args.encoder) if name],
            **describe_run(trainer, metrics),
        }
        facts["settings"] |= describe_losses(model_args) | describe_features(model_args)
        add_finishing(facts, finishing)
        publish(trainer, pipe, folder, facts, write_image_card)
    return folder


def make_losses(
    args: ImageModelArguments, model: EDDPMModel, train: ImageData, training_args: EDDPMTrainingArguments
) -> ReconstructionLosses | None:
    """Makes the terms beside the pixels that are asked for; the network that measures likeness is trained first."""
    if not args.perceptual_weight and not args.critic_weight:
        return None
    if not isinstance(model.decoder, ImageConvDecoder):
        raise ValueError(
            "`perceptual_weight` and `critic_weight` must be 0 for a decoder that is a diffusion chain: they are "
            'terms of the decoder in one pass, "model_type": "eddpm_image_conv".'
        )
    if args.critic_weight and is_sharded(training_args):
        raise ValueError("`critic_weight` must be 0 with sharded weights: it reads the decoder's last layer.")
    device, channels = training_args.device, train.num_channels
    perceptual = None
    if args.perceptual_weight:
        source = load_images(args.perceptual_train) if args.perceptual_train else train
        column = args.perceptual_column
        if column is not None:
            check_attribute(source, column)
        perceptual = PerceptualDistance(
            fit_feature_network(
                source.images,
                None if column is None else source.labels(column),
                training_args.seed,
                args.perceptual_steps,
                width=args.perceptual_width,
                device=device,
            )
        )
    critic = PatchCritic(channels, args.critic_width).to(device) if args.critic_weight else None
    return ReconstructionLosses(
        perceptual,
        args.perceptual_weight,
        critic,
        args.critic_weight,
        args.critic_start,
        args.critic_learning_rate,
    )


def describe_losses(args: ImageModelArguments) -> dict[str, str]:
    """Says for the card what the decoder learns beside the pixels."""
    parts = []
    if args.perceptual_weight:
        learned = f"`{args.perceptual_column}`" if args.perceptual_column else "four rotations"
        of = (
            f" of {', '.join(f'`{Path(name).name}`' for name in args.perceptual_train)}"
            if args.perceptual_train
            else ""
        )
        parts.append(
            f"distance in the layers of a network that learned {learned}{of} in {args.perceptual_steps:,} steps, "
            f"weight {args.perceptual_weight:g}"
        )
    if args.critic_weight:
        parts.append(f"a critic of patches from batch {args.critic_start:,} on, share {args.critic_weight:g}")
    return {"beside the pixels": "; ".join(parts)} if parts else {}


def frozen_features(args: ImageModelArguments) -> FeatureAlignment | None:
    """Loads the frozen encoder that the latents are to agree with, if one is named."""
    if args.feature_encoder is None:
        return None
    backbone = AutoModel.from_pretrained(args.feature_encoder, dtype=torch.float32)
    if backbone.main_input_name != "pixel_values":
        kind = backbone.config.model_type
        raise ValueError(f"`feature_encoder` must be a vision model, got {args.feature_encoder!r}, a {kind!r}.")
    encoder = ImageEncoder(EDDPMConfig(modality="image", encoder=backbone.config), backbone)
    return FeatureAlignment(encoder_features(encoder), args.feature_weight)


def describe_features(args: ImageModelArguments) -> dict[str, str]:
    """Says for the card what the latents agree with."""
    if args.feature_encoder is None:
        return {}
    return {"latents agree with": f"the features of `{args.feature_encoder}`, weight {args.feature_weight:g}"}


def parse_data(args: list[str]) -> tuple[ImageData, ImageData, ImageDataArguments]:
    """Loads the training and the held-out images that a command line (see `main`) names."""
    data_args, _, _, training_args = parse_arguments(
        ImageDataArguments,
        ImageModelArguments,
        CardArguments,
        EDDPMTrainingArguments,
        args=[*args, "--output_dir", "unused", "--precision", "fp32"],
    )
    return *load_data(data_args, training_args.seed), data_args


def load_data(
    data_args: ImageDataArguments, seed: int, processor: EDDPMImageProcessor | None = None
) -> tuple[ImageData, ImageData]:
    """Loads the training and the held-out images.

    Args:
        data_args: What to load. Where they leave size, channels, `resize` or `background` open, it is the processor's.
        seed: Of the images that are held out.
        processor: The processor of the checkpoint that will take the images, if there is one.
    """
    if not data_args.train:
        raise ValueError("`train` must name the training images.")
    fallback = {"image_size": None, "num_channels": None, "resize": "none", "background": 255}
    shape: dict[str, Any] = {}
    for name, default in fallback.items():
        given = getattr(data_args, name)
        shape[name] = getattr(processor, name, default) if given is None else given

    def load(source: list[str], split: str | None, like: ImageData | None = None) -> ImageData:
        return load_images(
            source,
            split=split,
            image_column=data_args.image_column,
            image_size=shape["image_size"] if like is None else like.image_size,
            num_channels=shape["num_channels"] if like is None else like.num_channels,
            resize=shape["resize"],
            background=shape["background"],
            on_damaged=data_args.on_damaged,
        )

    train = load(data_args.train, data_args.train_split)
    if data_args.dev or data_args.dev_split:
        dev = load(data_args.dev or data_args.train, data_args.dev_split, train)
        return train, dev.with_classes_of(train, data_args.label_column)
    rest, held = hold_out(len(train), data_args.dev_last, data_args.dev_fraction, seed)
    return train.take(rest), train.take(held)


def check_attribute(data: ImageData, column: str) -> None:
    """Raises a ValueError if the images have no such attribute."""
    if column not in data.attributes:
        raise ValueError(
            f"`label_column` {column!r} is no attribute of the images; they have {sorted(data.attributes)}."
        )


def class_labels(data: ImageData, column: str | None, num_classes: int) -> NDArray[np.int64] | None:
    """The labels for a denoiser that is told the class, checked; `None` for one that is not."""
    if column is not None:
        check_attribute(data, column)
    if not num_classes:
        return None
    if column is None:
        raise ValueError(f"`label_column` must name the attribute of the {num_classes} classes that the model knows.")
    return data.labels(column, num_classes)


def describe_data(data: ImageData) -> dict[str, Any]:
    """Counts the images and what is known of them."""
    facts: dict[str, Any] = {
        "sources": data.sources,
        "images": len(data),
        "size": f"{data.image_size} x {data.image_size}, {'grey' if data.num_channels == 1 else 'colour'}",
    }
    if data.damaged:
        facts["damaged, left out"] = len(data.damaged)
    if data.num_unread:
        facts["not the first of their files, left out"] = data.num_unread
    if data.attributes:
        facts["attributes"] = sorted(data.attributes)
    return facts


def load_image_start(model_args: ImageModelArguments) -> tuple[EDDPMModel, EDDPMImageProcessor] | None:
    """Loads the model and the processor that the training starts from, if it starts from any."""
    if model_args.init_from is None:
        return None
    model, processor = load_start(model_args.init_from, "image", model_args.config_values)
    return model, cast(EDDPMImageProcessor, processor)


def build_model(
    model_args: ImageModelArguments, train: ImageData, start: tuple[EDDPMModel, EDDPMImageProcessor] | None = None
) -> tuple[EDDPMModel, EDDPMImageProcessor]:
    """Makes the model and a processor that prepares pictures as the training images were.

    Args:
        model_args: What the model is.
        train: The training images.
        start: The result of `load_image_start`; by default it is called here.
    """
    start = load_image_start(model_args) if start is None else start
    if start is not None:
        model, processor = start
        if (processor.image_size, processor.num_channels) != (train.image_size, train.num_channels):
            raise ValueError(
                f"`train` must hold images of {processor.image_size} pixels and {processor.num_channels} channels, as "
                f"`init_from` knows them, got {train.image_size} and {train.num_channels}."
            )
        processor.resize, processor.background = train.resize, train.background
        return model, processor
    size = {"image_size": train.image_size, "num_channels": train.num_channels}
    preset = EDDPMConfig.from_preset(model_args.preset)
    values = dict(model_args.config_values)
    backbone = None
    if model_args.encoder is not None:
        backbone = load_encoder(model_args.encoder, values.get("encoder", {}), ours=("image_mean", "image_std"))
        values["encoder"] = copy.deepcopy(backbone.config)  # EDDPMConfig takes the choice of attention out of it
    for part in ("encoder", "decoder"):
        given = values.get(part, {})
        if not isinstance(given, dict):
            continue
        # What is not given of one of our nets is the preset's, if it is the same kind of net.
        kind = given.get("model_type", getattr(preset, part).model_type)
        if kind in _OWN_NETS:
            base = getattr(preset, part).to_diff_dict() if kind == getattr(preset, part).model_type else {}
            values[part] = {**base, **given, "model_type": kind, **size}
    if model_args.baseline:
        values |= {"latent_normalization": "none", "denoiser_num_layers": 1, "denoiser_hidden_size": 8}
        values["num_classes"] = 0
    config = EDDPMConfig.from_preset(model_args.preset, **values)
    if model_args.vae_kl_weight is not None:
        model = VariationalAutoencoder(config, model_args.vae_kl_weight)
    elif model_args.no_latents:
        model = UnconditionalDiffusion(config)
    else:
        model = EDDPMModel(config, encoder=None if backbone is None else ImageEncoder(config, backbone))
    return model, EDDPMImageProcessor(
        train.image_size, train.num_channels, resize=train.resize, background=train.background
    )
