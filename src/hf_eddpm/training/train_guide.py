"""Trains a classifier of a checkpoint's noisy latents, to guide its chain by (`hf_eddpm.ClassifierGuidance`).

    python training/train.py guide --checkpoint model_cards/eddpm-yelp --output_dir runs/sentiment \\
        --train train.0.txt.gz=0 train.1.txt.gz=1 --dev dev.0.txt.gz=0 dev.1.txt.gz=1 --class_names negative positive
    python training/train.py guide --checkpoint model_cards/eddpm-gifford --output_dir runs/enriched \\
        --train train.csv.gz --dev validation.csv.gz --padding_symbol J --property_columns fitness --thresholds 0
    python training/train.py guide --checkpoint model_cards/eddpm-fashion --output_dir runs/clothes \\
        --train train-images-idx3-ubyte.gz --dev_last 6000 --label_column label

The classes are the labels of sentences or images; or how many of `--thresholds` the first property (of images an
attribute) exceeds, or the number of words of sentences without labels. Where `--dev` is not given data are held out as
train_image.py holds them out: with its `--dev_last`, or its `--dev_fraction` and `--seed`, the same. The folder holds
the guide (config.json, safetensors), `training.json` with its held-out accuracy by timestep, and a card.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from tqdm import tqdm
from transformers import HfArgumentParser

from ..control.latent_guide import LatentGuide
from ..data.class_names import check_class_names
from ..data.raw import RawData
from ..hub.card import hub_id
from ..modalities.image.data import hold_out
from ..modeling_eddpm import EDDPMModel
from ..pipeline_eddpm import EDDPMPipeline
from .environment import describe_command, describe_environment, without_folders
from .options import OPTIONS, ColumnArguments, GuideArguments, answer_help
from .raw_data import load_raw_data

NUM_EVALUATED_TIMESTEPS = 6  # at which the accuracy is measured


def find_classes(data: RawData, thresholds: list[float], modality: str) -> torch.Tensor:
    """The class of each datum, int64 (num,); -1 where its property is not known."""
    if data.labels is not None and thresholds:
        raise ValueError("`thresholds` make classes of their own: give files without labels, or no thresholds.")
    if data.labels is not None:
        return torch.tensor(data.labels)
    if not thresholds or not (data.properties.shape[1] or modality == "text"):
        raise ValueError("Classes are needed: label the files (`file=1`), or give `property_columns`, `thresholds`.")
    values = count_words(data.items) if modality == "text" else data.properties[:, 0]
    return torch.from_numpy(np.where(np.isnan(values), -1, np.searchsorted(thresholds, values)))


def count_words(sentences: list[str]) -> NDArray[np.float64]:
    """The length of each sentence in words."""
    return np.array([len(sentence.split()) for sentence in sentences], dtype=np.float64)


def train_guide(
    guide: LatentGuide, model: EDDPMModel, means: torch.Tensor, classes: torch.Tensor, args: GuideArguments
) -> None:
    """Trains a guide by cross-entropy on latents noised to timesteps drawn evenly.

    Args:
        guide: Trained in place.
        model: Supplies the encoder's noise and the chain's arithmetic.
        means: The data's posterior means, (num, num_latents, latent_dim).
        classes: Their classes, int64 (num,).
        args: Supplies steps, batch size, learning rate, weight decay and seed.
    """
    generator = torch.Generator().manual_seed(args.seed)
    optimizer = torch.optim.AdamW(guide.parameters(), lr=args.learning_rate, weight_decay=args.weight_decay)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, args.num_steps)
    guide.train()
    for _ in tqdm(range(args.num_steps), desc="training", unit="step"):
        rows = torch.randint(len(means), (args.batch_size,), generator=generator)
        timesteps = torch.randint(len(model.scheduler), (args.batch_size,), generator=generator)
        logits = guide(noised(model, means[rows], timesteps, generator), timesteps)
        loss = nn.functional.cross_entropy(logits, classes[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    guide.eval()
    guide.register_to_config(num_train_steps=guide.config.num_train_steps + args.num_steps)


def noised(
    model: EDDPMModel, means: torch.Tensor, timesteps: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Samples of the posterior, noised to the timesteps."""
    spread, noise = torch.randn(2, *means.shape, generator=generator)
    return model.scheduler.add_noise(means + model.config.encoder_noise_variance**0.5 * spread, noise, timesteps)


@torch.no_grad()
def measure_accuracy(
    guide: LatentGuide, model: EDDPMModel, means: torch.Tensor, classes: torch.Tensor, args: GuideArguments
) -> dict[str, float]:
    """The share of data whose class the guide finds, by timestep."""
    generator = torch.Generator().manual_seed(args.seed)
    accuracy = {}
    for timestep in torch.linspace(0, len(model.scheduler) - 1, NUM_EVALUATED_TIMESTEPS).long().unique():
        timesteps = timestep.expand(len(means))
        found = guide(noised(model, means, timesteps, generator), timesteps).argmax(-1)
        accuracy[str(int(timestep))] = float((found == classes).float().mean())
    return accuracy


def write_card(folder: Path, facts: dict[str, Any]) -> None:
    """Writes the guide's README.md."""
    rows = [f"| {timestep} | {accuracy:.3f} |" for timestep, accuracy in facts["accuracy"].items()]
    names = ", ".join(f"{index}: {name}" for index, name in enumerate(facts["class_names"]))
    lines = [
        "---\nlibrary_name: hf_eddpm\ntags:\n- eddpm\n- diffusion-guidance\n---\n",
        f"# {folder.name}\n",
        f"Classifies the noisy latents of `{facts['checkpoint']}` ({names or facts['num_classes']}), to guide its "
        "chain (classifier guidance, [Dhariwal & Nichol 2021](https://arxiv.org/abs/2105.05233)).\n",
        "```python\nfrom hf_eddpm import ClassifierGuidance, EDDPMPipeline, LatentGuide\n",
        f'pipe = EDDPMPipeline.from_pretrained("{hub_id(facts["checkpoint"])}")',
        f'guide = LatentGuide.from_pretrained("{hub_id(folder.name)}")',
        "print(pipe(num_samples=4, guidance=ClassifierGuidance(guide, target=1, scale=3.0)).samples)\n```\n",
        f"Held-out accuracy by timestep (0 is the cleanest; the largest class is {facts['largest_class']:.3f} of the "
        f"{facts['num_dev']:,} data); seed {facts['seed']}, {facts['num_steps']:,} steps, {facts['hardware']}:\n",
        "| timestep | accuracy |\n| --- | --- |",
        *rows,
        f"\n```bash\n{facts['command']}\n```",
    ]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def main(args: list[str] | None = None) -> Path:
    """Trains the guide that the command line asks for and returns its folder."""
    words = list(sys.argv[1:] if args is None else args)
    answer_help(__doc__, *OPTIONS["train_guide"], words=words)
    parser = HfArgumentParser((GuideArguments, ColumnArguments), description=__doc__.splitlines()[0])
    given, columns = parser.parse_args_into_dataclasses(words)
    if given.num_threads is not None:
        torch.set_num_threads(given.num_threads)
    torch.manual_seed(given.seed)
    start = time.perf_counter()
    pipe = EDDPMPipeline.from_pretrained(given.checkpoint)
    model = pipe.model
    train = load_raw_data(pipe, given.train, columns, images=True)
    if given.dev:
        dev = load_raw_data(pipe, given.dev, columns, images=True).with_classes_of(train)
    else:
        rest, held = hold_out(len(train), given.dev_last, given.dev_fraction, given.seed)
        train, dev = train.take(rest), train.take(held)
    means, classes = {}, {}
    for name, data in (("train", train.sample(given.max_train, given.seed)), ("dev", dev)):
        found = find_classes(data, given.thresholds, model.config.modality)
        known = found >= 0
        means[name], classes[name] = pipe.encode(data.items).latents[known], found[known]
    num_classes = int(classes["train"].max()) + 1
    check_class_names(given.class_names, num_classes)
    guide = LatentGuide.for_model(
        model,
        num_classes,
        hidden_size=given.hidden_size,
        num_layers=given.num_layers,
        class_names=given.class_names or None,
    )
    train_guide(guide, model, means["train"], classes["train"], given)
    facts = {
        "command": describe_command("training/train.py", ["guide", *words]),
        "checkpoint": without_folders(given.checkpoint),
        "num_classes": num_classes,
        "class_names": given.class_names,
        "num_train": len(means["train"]),
        "num_dev": len(means["dev"]),
        "largest_class": float(classes["dev"].bincount().max() / len(classes["dev"])),
        "accuracy": measure_accuracy(guide, model, means["dev"], classes["dev"], given),
        "num_steps": given.num_steps,
        "seed": given.seed,
        "wall_time_seconds": round(time.perf_counter() - start, 1),
        **describe_environment(torch.device("cpu")),
    }
    folder = Path(given.output_dir)
    guide.save_pretrained(folder)
    (folder / "training.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    write_card(folder, facts)
    print(f"Saved the guide in {folder}: held-out accuracy by timestep {facts['accuracy']}.")
    return folder
