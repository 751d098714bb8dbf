"""Trains an EDDPM on proteins and saves it as a pipeline.

    python training/train.py protein training/configs/protein_gifford.json --train train.csv.gz \\
        --dev validation.csv.gz --output_dir runs/gifford

The configuration file is optional and each of its values can be given on the command line. The pipeline is saved in
`output_dir/pipeline` with its model card and `training.json`, the facts that the card is made from; `output_dir` also
gets curves.png, and previews.jsonl with samples and reconstructions of each evaluation. A run that was interrupted
goes on with `--resume_from_checkpoint auto`.
"""

import copy
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import AutoTokenizer
from transformers.utils import logging

from ..configuration_eddpm import EDDPMConfig
from ..modalities.protein.data import ProteinData, load_proteins
from ..modalities.protein.modeling import ProteinConvConfig, ProteinEncoder
from ..modalities.protein.processing import EDDPMProteinProcessor
from ..modeling_eddpm import EDDPMModel
from ..modeling_property import PropertyHead
from .arguments import EDDPMTrainingArguments, parse_arguments
from .baselines.priors import LanguageModel
from .baselines.vae import VariationalAutoencoder
from .callbacks import Curves
from .defaults import fit_steps
from .environment import describe_command
from .finishing import add_finishing, check_whole_weights, finish_denoiser, finish_training
from .options import OPTIONS, CardArguments, ProteinDataArguments, ProteinModelArguments, answer_help
from .pretrained import load_encoder
from .protein_card import write_protein_card
from .runs import describe_arguments, describe_run, find_checkpoint, hold_out_distinct, publish, save_pipeline, set_up
from .sampler import use_solver
from .start import load_start, set_attention
from .trainer import EDDPMTrainer

logger = logging.get_logger(__name__)


class MeasuredProteins(Dataset):
    """Proteins as the trainer's collator takes them, with their properties and classes where there are any.

    Args:
        data: The proteins.
    """

    def __init__(self, data: ProteinData):
        self.data = data

    def __len__(self) -> int:
        return len(self.data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example: dict[str, Any] = {"data": self.data.sequences[index]}
        if self.data.property_names:
            example["properties"] = self.data.properties[index].tolist()
        if self.data.classes is not None:
            example["class_labels"] = self.data.classes[index]
        return example


def main(args: list[str] | None = None) -> Path:
    """Runs the training and returns the pipeline's folder."""
    words = list(sys.argv[1:] if args is None else args)
    answer_help(__doc__, *OPTIONS["train_protein"], words=words)
    data_args, model_args, card_args, training_args = parse_arguments(
        ProteinDataArguments, ProteinModelArguments, CardArguments, EDDPMTrainingArguments, args=words
    )
    check_whole_weights(model_args.finish_steps, training_args)
    set_up(
        training_args,
        __name__,
        load_proteins.__module__,
        finish_denoiser.__module__,
        model_config=model_args.model_config,
    )
    start = load_protein_start(model_args, data_args)
    train, dev = load_data(data_args, training_args.seed, None if start is None else start[1])
    fit_steps(training_args, len(train))
    model, processor = build_model(model_args, data_args, train, start)
    data_facts = describe_data(train, dev, processor)
    logger.info(f"The model has {model.num_parameters() / 1e6:.2f} million parameters.")

    previews = dev.sequences[: training_args.num_previews] if training_args.num_previews else None
    trainer = EDDPMTrainer(
        model=model,
        args=training_args,
        processor=processor,
        ema_decay=training_args.ema_decay,
        train_dataset=MeasuredProteins(train),
        eval_dataset=MeasuredProteins(dev.sample(data_args.max_dev_sequences, training_args.seed)),
        preview_data=None if model_args.baseline else previews,  # those have no chain to generate with
        num_preview_samples=training_args.num_previews,
        callbacks=[Curves()],
    )
    trainer.train(resume_from_checkpoint=find_checkpoint(training_args))
    labels = np.array(train.classes) if train.classes is not None and model.config.num_classes else None
    finishing = finish_training(
        trainer, train.sequences, labels, model_args.finish_steps, model_args.finish_batch_size
    )
    metrics = trainer.evaluate()

    folder = Path(training_args.output_dir) / "pipeline"
    if trainer.is_world_process_zero():
        pipe = trainer.build_pipeline()
        use_solver(pipe)
        pipe.to(dtype=getattr(torch, training_args.save_dtype))
        save_pipeline(pipe, folder)
        facts = {
            "command": describe_command("training/train.py", ["protein", *words]),
            "arguments": describe_arguments(data_args, model_args, training_args),
            "card": asdict(card_args),
            "data": data_facts,
            "property_names": train.property_names,
            "examples": dev.sequences[:: max(1, len(dev) // 2)][:2],
            "hub_datasets": data_args.train if data_args.train_split else [],
            "base_models": [name for name in (model_args.init_from, model_args.encoder) if name],
            **describe_run(trainer, metrics),
        }
        add_finishing(facts, finishing)
        publish(trainer, pipe, folder, facts, write_protein_card)
    return folder


def parse_data(args: list[str]) -> tuple[ProteinData, ProteinData]:
    """Loads the training and the held-out proteins that a command line (see `main`) names."""
    data_args, _, _, training_args = parse_arguments(
        ProteinDataArguments,
        ProteinModelArguments,
        CardArguments,
        EDDPMTrainingArguments,
        args=[*args, "--output_dir", "unused"],
    )
    return load_data(data_args, training_args.seed)


def load_data(
    data_args: ProteinDataArguments, seed: int, processor: EDDPMProteinProcessor | None = None
) -> tuple[ProteinData, ProteinData]:
    """Loads the training and the held-out proteins.

    Args:
        data_args: What to load. Where they leave `upper_case` open, it is the processor's.
        seed: Of the proteins that are held out.
        processor: The processor of the checkpoint that will take the proteins, if there is one.
    """
    upper_case = data_args.upper_case
    if upper_case is None:
        upper_case = processor is not None and processor.upper_case
    if not data_args.train:
        raise ValueError("`train` must name the training data.")

    def load(source: list[str], split: str | None) -> ProteinData:
        return load_proteins(
            source if len(source) > 1 else source[0],
            split=split,
            sequence_column=data_args.sequence_column,
            property_columns=data_args.property_columns,
            padding_symbol=data_args.padding_symbol,
            upper_case=upper_case,
            class_column=data_args.class_column,
        )

    train = load(data_args.train, data_args.train_split)
    if data_args.dev or data_args.dev_split:
        return train, load(data_args.dev or data_args.train, data_args.dev_split)
    held_out = hold_out_distinct(train.sequences, data_args.dev_fraction, seed, "proteins")
    rows = range(len(train))
    return (
        train.take([row for row in rows if train.sequences[row] not in held_out]),
        train.take([row for row in rows if train.sequences[row] in held_out]),
    )


def describe_data(train: ProteinData, dev: ProteinData, processor: EDDPMProteinProcessor) -> dict[str, dict[str, Any]]:
    """Counts the proteins and what is known of them; checks that all fit the frame; logs it."""
    facts: dict[str, dict[str, Any]] = {}
    for name, data in (("train", train), ("dev", dev)):
        processor.as_list(data.sequences, name)
        lengths = [len(sequence) for sequence in data.sequences]
        facts[name] = {
            "sources": data.sources,
            "proteins": len(data),
            "repeats": data.num_duplicates,
            "residues": f"{min(lengths)} to {max(lengths)}",
            **{
                f"known {column}": int((data.properties[:, index] == data.properties[:, index]).sum())
                for index, column in enumerate(data.property_names)
            },
        }
        if data.classes is not None:
            facts[name]["known classes"] = sum(label >= 0 for label in data.classes)
        logger.info(f"{name}: {facts[name]}")
    return facts


def load_protein_start(
    model_args: ProteinModelArguments, data_args: ProteinDataArguments
) -> tuple[EDDPMModel, EDDPMProteinProcessor] | None:
    """Loads the model and the processor that the training starts from, if it starts from any, as the options say."""
    if model_args.init_from is None:
        return None
    model, loaded = load_start(model_args.init_from, "protein", model_args.config_values)
    processor = cast(EDDPMProteinProcessor, loaded)
    for name in ("length", "alignment"):
        given, own = getattr(data_args, name), getattr(processor, name)
        if given not in (None, own):
            raise ValueError(f"`{name}` must be that of `init_from`, {own!r}, or left out, got {given!r}.")
    count = model.config.num_properties
    if len(data_args.property_columns) != count:
        raise ValueError(
            f"`property_columns` must name a column for each of the {count} properties of `init_from`, got "
            f"{data_args.property_columns}."
        )
    if data_args.upper_case is not None:
        processor.upper_case = data_args.upper_case
    set_attention(model.encoder, model_args.attn_implementation)
    return model, processor


def fit_property_head(head: PropertyHead, train: ProteinData) -> None:
    """Makes the head predict in the unit of the training data, and logs the unit that it had before."""
    before = head.target_mean.tolist(), head.target_std.tolist()
    head.fit(torch.from_numpy(train.properties), train.property_names)
    after = head.target_mean.tolist(), head.target_std.tolist()
    for name, mean, std, old_mean, old_std in zip(train.property_names, *after, *before, strict=True):
        logger.info(
            f"Property {name!r}: the training data set the head's unit, {mean:.4g} ± {std:.4g} ("
            f"`init_from` had {old_mean:.4g} ± {old_std:.4g})."
        )


def build_model(
    model_args: ProteinModelArguments,
    data_args: ProteinDataArguments,
    train: ProteinData,
    start: tuple[EDDPMModel, EDDPMProteinProcessor] | None = None,
) -> tuple[EDDPMModel, EDDPMProteinProcessor]:
    """Makes the model and its processor, to the measure of the training data.

    Args:
        model_args: What the model is.
        data_args: What the data are.
        train: The training proteins.
        start: The result of `load_protein_start`; by default it is called here.
    """
    start = load_protein_start(model_args, data_args) if start is None else start
    lengths = [len(sequence) for sequence in train.sequences]
    length = max(lengths) if data_args.length is None else data_args.length
    highest = max(train.classes or [-1])
    if train.classes is not None and highest < 0:
        raise ValueError(f"`class_column` {data_args.class_column!r} must hold a class somewhere in `train`.")
    values: dict[str, Any] = {
        "num_properties": len(data_args.property_columns),
        "num_classes": highest + 1 if start is None else start[0].config.num_classes,
        **model_args.config_values,
    }
    if train.classes is not None and not highest < values["num_classes"]:
        raise ValueError(
            f"`num_classes` = {values['num_classes']} needs classes below it in `class_column`, got {highest}."
        )
    if values["num_classes"] and train.classes is None:
        raise ValueError(f"`class_column` must name the column of the {values['num_classes']} classes of the model.")
    if start is not None:
        if start[0].property_head is not None:
            fit_property_head(start[0].property_head, train)
        return start
    decoder = dict(values.get("decoder", {}))
    convolutional = decoder.get("model_type", ProteinConvConfig.model_type) == ProteinConvConfig.model_type
    if convolutional:
        values["decoder"] = {"model_type": ProteinConvConfig.model_type, **decoder, "num_sites": length}
    frame: dict[str, Any] = {
        "length": length,
        "min_length": length if min(lengths) == length else 1,
        "alignment": data_args.alignment or "left",
        "stop": not convolutional,
        "upper_case": bool(data_args.upper_case),
    }
    backbone = None
    if model_args.encoder is None:
        processor = EDDPMProteinProcessor(**frame)
    else:
        processor = EDDPMProteinProcessor.from_tokenizer(AutoTokenizer.from_pretrained(model_args.encoder), **frame)
        backbone = load_encoder(model_args.encoder, values.get("encoder", {}), model_args.attn_implementation)
        values["encoder"] = copy.deepcopy(backbone.config)  # EDDPMConfig takes the choice of attention out of it
    if model_args.baseline:
        values |= {"latent_normalization": "none", "denoiser_num_layers": 1, "denoiser_hidden_size": 8}
    if model_args.no_latents:
        if convolutional:
            raise ValueError("`no_latents` needs a causal decoder: one of all sites at once says all by its latents.")
        values["num_properties"] = 0
    config = EDDPMConfig.from_preset(model_args.preset, **values)
    if model_args.attn_implementation is not None and backbone is None:
        encoder: Any = config.encoder
        encoder._attn_implementation = model_args.attn_implementation
    if model_args.vae_kl_weight is not None:
        model: EDDPMModel = VariationalAutoencoder(config, model_args.vae_kl_weight)
    elif model_args.no_latents:
        model = LanguageModel(config)
    else:
        model = EDDPMModel(config, encoder=None if backbone is None else ProteinEncoder(config, backbone))
    if model.property_head is not None:
        model.property_head.fit(torch.from_numpy(train.properties), train.property_names)
    return model, processor
