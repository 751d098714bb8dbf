"""Trains one variant of a recipe, whatever its data are."""

import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.torch import load_file, save_file
from torch.utils.data import Dataset
from variants import RisingShare, StudyModel, Variant

from hf_eddpm import EDDPMConfig, EDDPMModel, EDDPMPipeline, EDDPMTrainer
from hf_eddpm.processing_eddpm import EDDPMProcessor
from hf_eddpm.training.arguments import EDDPMTrainingArguments, merge
from hf_eddpm.training.sampler import use_solver


def add_values(model_args: Any, variant: Variant) -> None:
    """Puts the variant's values into the recipe's: those of a network are added to its own."""
    changes = variant.model_config | {"encoder_gradient_scale": variant.share}
    model_args.model_config = merge(model_args.model_config, changes)


def fit_variant(
    variant: Variant,
    plain: EDDPMModel,
    processor: EDDPMProcessor,
    args: EDDPMTrainingArguments,
    dataset: Dataset,
    folder: Path | None = None,
) -> tuple[EDDPMPipeline, dict[str, Any]]:
    """Trains a variant; returns its pipeline, with the few-step sampler, and the facts of the run.

    Args:
        variant: The variant, whose values `plain` has.
        plain: An untrained model, for its configuration and what it knows of the data.
        processor: The data's.
        args: Of the training.
        dataset: The training data.
        folder: Where the weights go, and come from if they are there; None to keep none.
    """
    model = StudyModel(EDDPMConfig.from_dict(plain.config.to_dict()), variant)
    if plain.property_head is not None and model.property_head is not None:
        model.property_head.load_state_dict(plain.property_head.state_dict())  # the properties' scales
    trainer = EDDPMTrainer(
        model=model,
        args=args,
        processor=processor,
        ema_decay=args.ema_decay,
        train_dataset=dataset,
        callbacks=[] if variant.rise is None else [RisingShare(model, variant.share, variant.rise)],
    )
    noted = None if folder is None else folder / "facts.json"
    if folder is not None and noted is not None and noted.exists():
        model.load_state_dict(load_file(folder / "model.safetensors"))
        facts = json.loads(noted.read_text(encoding="utf-8"))
    else:
        start = np.array([time.perf_counter(), time.process_time()])
        trainer.train()
        wall, cpu = np.array([time.perf_counter(), time.process_time()]) - start
        facts = {"seed": args.seed, "steps": args.max_steps, "batch_size": args.train_batch_size}
        facts |= {"train_seconds": round(wall, 1), "train_cpu_seconds": round(cpu, 1)}
        if folder is not None and noted is not None:
            folder.mkdir(parents=True, exist_ok=True)
            save_file(model.state_dict(), folder / "model.safetensors")
            noted.write_text(json.dumps(facts) + "\n", encoding="utf-8")
    model.config.encoder_gradient_scale = variant.share
    pipe = trainer.build_pipeline()
    use_solver(pipe)
    pipe.set_progress_bar_config(disable=True)
    pipe.model.eval()
    return pipe, facts
