"""Trains an EDDPM on sentences and saves it as a pipeline.

    python training/train.py text training/configs/text_yelp_mini.json --train train.0.txt.gz=0 train.1.txt.gz=1 \\
        --dev dev.0.txt.gz=0 dev.1.txt.gz=1 --output_dir runs/yelp

The configuration file is optional and each of its values can be given on the command line. The pipeline is saved in
`output_dir/pipeline` with its model card, which quotes a few held-out sentences, and `training.json`, the facts that
the card is made from; `output_dir` also gets curves.png, and previews.jsonl with samples and reconstructions of each
evaluation. A run that was interrupted goes on with `--resume_from_checkpoint auto`; one that has taken all its steps
is only evaluated and saved again by it.
"""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from transformers import (
    AutoConfig,
    AutoTokenizer,
    BitsAndBytesConfig,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from ..configuration_eddpm import EDDPMConfig
from ..data.class_names import check_class_names
from ..hub.adapters import merge_adapter
from ..hub.lora import add_lora, count_parameters, describe_trainable
from ..modalities.backbones import add_first_block, freeze_language_model, load_backbone
from ..modalities.text.data import SplicedSentences, TextData, load_text
from ..modalities.text.fitting import fitting_length, train_tokenizer
from ..modalities.text.modeling import TextDecoder, TextEncoder
from ..modalities.text.processing import EDDPMTextProcessor
from ..modeling_eddpm import EDDPMModel
from .arguments import EDDPMTrainingArguments, parse_arguments
from .baselines.priors import LanguageModel
from .baselines.vae import VariationalAutoencoder
from .batching import data_seed
from .callbacks import Curves
from .defaults import fit_steps
from .environment import describe_command
from .finishing import add_finishing, check_whole_weights, finish_denoiser, finish_training
from .options import OPTIONS, CardArguments, LoraArguments, TextDataArguments, TextModelArguments, answer_help
from .runs import (
    describe_arguments,
    describe_run,
    find_checkpoint,
    hold_out_distinct,
    publish,
    save_pipeline,
    set_up,
    warn_of_unused_labels,
)
from .start import load_start, set_attention
from .text_card import write_text_card
from .trainer import EDDPMTrainer

logger = logging.get_logger(__name__)


def main(args: list[str] | None = None) -> Path:
    """Runs the training and returns the pipeline's folder."""
    words = list(sys.argv[1:] if args is None else args)
    answer_help(__doc__, *OPTIONS["train_text"], words=words)
    data_args, model_args, lora_args, card_args, training_args = parse_arguments(
        TextDataArguments, TextModelArguments, LoraArguments, CardArguments, EDDPMTrainingArguments, args=words
    )
    check_whole_weights(model_args.finish_steps, training_args)
    set_up(
        training_args,
        __name__,
        load_text.__module__,
        finish_denoiser.__module__,
        model_config=model_args.model_config,
    )

    train, dev = load_data(data_args, training_args.seed)
    fit_steps(training_args, len(train))
    model, processor = build_model(model_args, data_args.max_length, train.sentences, lora_args)
    check_class_names(data_args.class_names, model.config.num_classes, " of the model (`num_classes`)")
    tuned = choose_trained_weights(model, model_args, lora_args)
    data_facts = describe_data(train, dev, processor)
    logger.info(f"What trains:\n{describe_trainable(tuned)}")
    if train.labels is not None and not model.config.num_classes:
        warn_of_unused_labels("the sentences", data_args.label_column)
    train_labels, dev_labels = (class_labels(data, model.config.num_classes) for data in (train, dev))

    previewed = training_args.num_previews and not model_args.baseline  # those have no chain to generate with
    trainer = EDDPMTrainer(
        model=tuned,
        args=training_args,
        processor=processor,
        ema_decay=training_args.ema_decay,
        train_dataset=SplicedSentences(
            train.sentences, data_args.splice_probability, train_labels, data_seed(training_args)
        ),
        eval_dataset=dev.sentences if dev_labels is None else with_classes(dev.sentences, dev_labels),
        preview_data=dev.sentences[: training_args.num_previews] if previewed else None,
        num_preview_samples=training_args.num_previews,
        callbacks=[Curves()],
    )
    trainer.train(resume_from_checkpoint=find_checkpoint(training_args))
    labels = None if train_labels is None else np.array(train_labels)
    finishing = finish_training(
        trainer, train.sentences, labels, model_args.finish_steps, model_args.finish_batch_size
    )
    metrics = trainer.evaluate()

    folder = Path(training_args.output_dir) / "pipeline"
    weights = trainer.whole_state_dict() if trainer.is_fsdp_enabled else None  # of all processes' pieces
    if trainer.is_world_process_zero():
        if weights is not None:
            model, _ = build_model(model_args, data_args.max_length, train.sentences, lora_args)
            tuned = choose_trained_weights(model, model_args, lora_args)
            tuned.load_state_dict(weights)
        pipe = trainer.build_pipeline(model)
        tuning = describe_tuning(tuned, lora_args)
        if lora_args.lora and lora_args.lora_save == "merged":
            merge_adapter(tuned)
        if not lora_args.load_in_4bit:
            pipe.to(dtype=getattr(torch, training_args.save_dtype))
        save_pipeline(pipe, folder)
        facts_of_run = describe_run(trainer, metrics)
        facts_of_run["settings"] |= tuning
        facts = {
            "command": describe_command("training/train.py", ["text", *words]),
            "arguments": describe_arguments(data_args, model_args, lora_args, training_args),
            "card": asdict(card_args),
            "data": data_facts,
            "class_names": data_args.class_names,
            "lower_case": all(sentence == sentence.lower() for sentence in train.sentences),
            "examples": choose_examples(dev, processor),
            "hub_datasets": data_args.train if data_args.train_split else [],
            "base_models": [name for name in (model_args.init_from, model_args.encoder, model_args.decoder) if name],
            "base_model_relation": "adapter" if lora_args.lora and lora_args.lora_save == "adapter" else "finetune",
            **facts_of_run,
        }
        add_finishing(facts, finishing)
        publish(trainer, pipe, folder, facts, write_text_card)
    return folder


def load_data(data_args: TextDataArguments, seed: int) -> tuple[TextData, TextData]:
    """Loads the training and the held-out sentences."""
    if not data_args.train:
        raise ValueError("`train` must name the training data.")

    def load(source: list[str], split: str | None) -> TextData:
        return load_text(
            source if len(source) > 1 else source[0],
            split=split,
            text_column=data_args.text_column,
            label_column=data_args.label_column,
            config_name=data_args.dataset_config,
        )

    train = load(data_args.train, data_args.train_split)
    if data_args.dev or data_args.dev_split:
        dev = load(data_args.dev or data_args.train, data_args.dev_split)
        return train, dev.sample(data_args.max_dev_sentences, seed)
    held_out = hold_out_distinct(train.sentences, data_args.dev_fraction, seed, "sentences")
    kept = [row for row, sentence in enumerate(train.sentences) if sentence not in held_out]
    known = {} if train.labels is None else dict(zip(train.sentences, train.labels, strict=True))
    dev = TextData(sorted(held_out), [known[sentence] for sentence in sorted(held_out)] if known else None)
    kept_labels = None if train.labels is None else [train.labels[row] for row in kept]
    rest = TextData([train.sentences[row] for row in kept], kept_labels, train.num_empty, sources=train.sources)
    return rest, dev.sample(data_args.max_dev_sentences, seed)


def describe_data(train: TextData, dev: TextData, processor: EDDPMTextProcessor) -> dict[str, dict[str, Any]]:
    """Counts the sentences, and how many are empty, repeated or too long; logs it."""
    facts: dict[str, dict[str, Any]] = {}
    for name, data in (("train", train), ("dev", dev)):
        facts[name] = {
            "sources": data.sources,
            "sentences": len(data),
            "empty_left_out": data.num_empty,
            "repeats": data.num_duplicates,
            "cut": processor.count_truncated(data.sentences),
        }
        logger.info(
            f"{name}: {len(data)} sentences, {data.num_empty} empty ones left out, {data.num_duplicates} repeat an "
            f"earlier one, {facts[name]['cut']} are longer than {processor.max_length} tokens and will be cut."
        )
    return facts


def class_labels(data: TextData, num_classes: int) -> list[int] | None:
    """The labels for a denoiser that is told the class, checked; None for one that is not."""
    if not num_classes:
        return None  # `warn_of_unused_labels` says so
    if data.labels is None or data.classes[0] < 0 or data.classes[-1] >= num_classes:
        raise ValueError(
            f"`num_classes` = {num_classes} needs sentences with labels in [0, {num_classes}), got {data.classes}."
        )
    return data.labels


def with_classes(sentences: list[str], labels: list[int]) -> list[dict[str, Any]]:
    """Sentences and their classes as the trainer's collator takes them."""
    return [{"data": text, "class_labels": label} for text, label in zip(sentences, labels, strict=True)]


def choose_examples(dev: TextData, processor: EDDPMTextProcessor, num_examples: int = 2) -> list[str]:
    """A few held-out sentences for the card's snippet, spread over the data: files are often sorted by class."""
    rows = range(0, len(dev), max(1, len(dev) // (10 * num_examples)))
    fitting = [dev.sentences[row] for row in rows if not processor.count_truncated([dev.sentences[row]])]
    candidates = [sentence for sentence in fitting if sentence.isprintable() and "`" not in sentence]
    return candidates[:: max(1, len(candidates) // num_examples)][:num_examples]


def choose_trained_weights(
    model: EDDPMModel, model_args: TextModelArguments, lora_args: LoraArguments
) -> torch.nn.Module:
    """Puts adapters into the pretrained backbones, or freezes them, as asked; returns what the trainer trains."""
    if lora_args.new_first_block:
        freeze_language_model(model)
    if not lora_args.lora:
        return model
    pretrained = [part for part in ("encoder", "decoder") if getattr(model_args, part)]
    if not pretrained:
        raise ValueError("`lora` needs a pretrained `encoder` or `decoder`, got neither.")
    return add_lora(
        model,
        preset=lora_args.lora_preset,
        r=lora_args.lora_r,
        lora_alpha=lora_args.lora_alpha,
        lora_dropout=lora_args.lora_dropout,
        target_modules=lora_args.targets,
        modules_to_save=lora_args.lora_modules_to_save or None,
        parts=pretrained,
    )


def describe_tuning(model: torch.nn.Module, lora_args: LoraArguments) -> dict[str, str]:
    """What of the model trains, for the card; nothing where all of it does."""
    count = count_parameters(model)["total"]
    trained = f"{count['trainable']:,} of {count['all']:,} parameters"
    if lora_args.lora:
        layers = "the layers named" if lora_args.lora_targets else f"preset `{lora_args.lora_preset}`"
        rank = f"LoRA, rank {lora_args.lora_r}, alpha {lora_args.lora_alpha}, {layers}"
        quantised = ", 4-bit base weights" if lora_args.load_in_4bit else ""
        return {"tuning": f"{rank}{quantised}; {trained} train"}
    if lora_args.new_first_block:
        return {"tuning": f"decoder frozen except its embeddings and a new first block; {trained} train"}
    return {}


def build_model(
    model_args: TextModelArguments,
    max_length: int | None,
    sentences: list[str],
    lora_args: LoraArguments | None = None,
) -> tuple[EDDPMModel, EDDPMTextProcessor]:
    """Makes the model and its processor; what is not pretrained gets a tokenizer trained on `sentences`."""
    lora_args = LoraArguments() if lora_args is None else lora_args
    if model_args.init_from is not None:
        if lora_args.lora or lora_args.new_first_block:
            raise ValueError("`init_from` trains all weights: leave out `lora` and `new_first_block`.")
        model, loaded = load_start(model_args.init_from, "text", model_args.config_values)
        processor = cast(EDDPMTextProcessor, loaded)
        if max_length is not None and max_length != processor.max_length:
            raise ValueError(
                f"`max_length` must be that of `init_from`, {processor.max_length}, or left out, got {max_length}."
            )
        for module in (model.encoder, model.decoder):
            set_attention(module, model_args.attn_implementation)
        return model, processor
    if lora_args.new_first_block and model_args.decoder is None:
        raise ValueError("`new_first_block` needs a pretrained `decoder`.")
    quantization_config = (
        BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        if lora_args.load_in_4bit
        else None
    )
    values = dict(model_args.config_values)
    own = None if model_args.encoder and model_args.decoder else train_tokenizer(sentences, model_args.vocab_size)
    tokenizers: dict[str, PreTrainedTokenizerBase] = {}
    backbones: dict[str, torch.nn.Module] = {}
    attention: dict[str, Any] = (
        {} if model_args.attn_implementation is None else {"attn_implementation": model_args.attn_implementation}
    )
    defaults = EDDPMConfig.from_preset(model_args.preset) if model_args.preset else EDDPMConfig()
    for part in ("encoder", "decoder"):
        name = getattr(model_args, part)
        if name is not None:
            tokenizers[part] = AutoTokenizer.from_pretrained(name)
            # Values given beside a pretrained model change its config, for example to its first few layers.
            backbone = load_backbone(
                part, name, quantization_config=quantization_config, **attention, **values.get(part, {})
            )
            if part == "decoder" and lora_args.new_first_block:
                backbone = add_first_block(backbone)
            backbones[part], values[part] = backbone, backbone.config
            continue
        assert own is not None
        tokenizers[part] = own
        given = values.get(part, {})
        base = {} if "model_type" in given else getattr(defaults, part).to_dict()
        special = {
            "bos_token_id": own.bos_token_id,
            "eos_token_id": own.eos_token_id,
            "pad_token_id": own.pad_token_id,
        }
        merged = {**base, **given, "vocab_size": len(own), **special}
        values[part] = AutoConfig.for_model(merged.pop("model_type"), **merged)
    if model_args.baseline:
        values |= {"latent_normalization": "none", "denoiser_num_layers": 1, "denoiser_hidden_size": 8}
    config = EDDPMConfig.from_preset(model_args.preset, **values) if model_args.preset else EDDPMConfig(**values)
    if model_args.attn_implementation is not None:
        config._attn_implementation = model_args.attn_implementation
    if model_args.vae_kl_weight is not None:
        model = VariationalAutoencoder(config, model_args.vae_kl_weight)
    elif model_args.no_latents:
        model = LanguageModel(config)
    else:
        model = EDDPMModel(
            config,
            encoder=TextEncoder(config, backbones["encoder"]) if "encoder" in backbones else None,
            decoder=TextDecoder(config, backbones["decoder"]) if "decoder" in backbones else None,
        )
    if max_length is None:
        max_length = fitting_length(tokenizers["decoder"], sentences)
    return model, EDDPMTextProcessor(tokenizers["encoder"], tokenizers["decoder"], max_length=max_length)
