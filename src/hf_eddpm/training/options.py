"""Options of the training scripts, kept apart from what takes seconds to import so that `--help` answers at once."""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

from transformers import HfArgumentParser

from .option_parts import ChainChoice, FeatureChoice, ImageLosses, as_dict


@dataclass
class TextDataArguments:
    """Where the sentences come from."""

    train: list[str] = field(
        default_factory=list,
        metadata={"help": "Files (txt, csv, tsv, jsonl, parquet; gz) or a Hub data set id; `path=1` labels a file."},
    )
    dev: list[str] = field(
        default_factory=list,
        metadata={"help": "Held-out data; without them `dev_fraction` of the training data is held out."},
    )
    dev_fraction: float = field(default=0.02, metadata={"help": "Share held out where `dev` is not given, in (0, 1)."})
    train_split: str | None = field(default=None, metadata={"help": "Split of a Hub data set."})
    dev_split: str | None = field(default=None, metadata={"help": "Held-out split of a Hub data set."})
    dataset_config: str | None = field(default=None, metadata={"help": "Configuration of a Hub data set."})
    text_column: str = field(default="text", metadata={"help": "Column of the sentence."})
    label_column: str | None = field(default=None, metadata={"help": "Column of an integer label."})
    class_names: list[str] = field(
        default_factory=list, metadata={"help": "Names of the model's classes, in order, for the card and the app."}
    )
    max_length: int | None = field(
        default=None,
        metadata={"help": "Most tokens of a sentence; longer ones are cut. By default what fits the data."},
    )
    splice_probability: float = field(
        default=0.0, metadata={"help": "Share of training sentences spliced from two, in [0, 1)."}
    )
    max_dev_sentences: int = field(default=2000, metadata={"help": "Most sentences used to evaluate during training."})


@dataclass
class ProteinDataArguments:
    """Where the proteins come from."""

    train: list[str] = field(
        default_factory=list,
        metadata={"help": "Files (csv, tsv, jsonl, parquet, fasta, fa; gz) or a Hub data set id."},
    )
    dev: list[str] = field(
        default_factory=list,
        metadata={"help": "Held-out data; without them `dev_fraction` of the training data is held out."},
    )
    dev_fraction: float = field(default=0.1, metadata={"help": "Share held out where `dev` is not given, in (0, 1)."})
    train_split: str | None = field(default=None, metadata={"help": "Split of a Hub data set, e.g. train."})
    dev_split: str | None = field(default=None, metadata={"help": "Held-out split of a Hub data set."})
    sequence_column: str = field(default="sequence", metadata={"help": "Column of the sequence."})
    property_columns: list[str] = field(
        default_factory=list, metadata={"help": "Columns of measured values for the property head; may have gaps."}
    )
    class_column: str | None = field(
        default=None, metadata={"help": "Column of a class for the denoiser, an integer of at least 0; may have gaps."}
    )
    padding_symbol: str | None = field(default=None, metadata={"help": "Letter that the files pad sequences with."})
    upper_case: bool | None = field(
        default=None,
        metadata={
            "help": "Take lower-case residues as upper-case ones; by default as a checkpoint does, else false.",
            "nargs": "?",  # also alone, as other options that are a bool
            "const": True,
        },
    )
    length: int | None = field(
        default=None, metadata={"help": "Most residues of a protein; by default a checkpoint's, else the longest's."}
    )
    alignment: str | None = field(
        default=None,
        metadata={"help": "Where shorter proteins stand: left or center; by default a checkpoint's, else left."},
    )
    max_dev_sequences: int = field(default=2000, metadata={"help": "Most proteins used to evaluate during training."})


@dataclass
class ProteinModelArguments(ChainChoice):
    """What is trained."""

    preset: str = field(default="protein-small", metadata={"help": "Name of an EDDPMConfig preset."})
    init_from: str | None = field(
        default=None,
        metadata={"help": "Pipeline whose weights the training starts from, to tune it further: folder or Hub id."},
    )
    model_config: dict | str | None = field(
        default=None, metadata={"help": "EDDPMConfig values as JSON; they override the preset's."}
    )
    encoder: str | None = field(default=None, metadata={"help": "Pretrained encoder, e.g. ESM-2: Hub id or folder."})
    attn_implementation: str | None = field(default=None, metadata={"help": "Attention of the encoder, e.g. eager."})
    vae_kl_weight: float | None = field(
        default=None,
        metadata={"help": "Train a variational autoencoder of the same networks instead, with this KL weight."},
    )
    no_latents: bool = field(
        default=False,
        metadata={"help": "Train a causal decoder alone instead, a language model of proteins: latents of zero."},
    )
    finish_steps: int = field(
        default=0,
        metadata={"help": "Steps at the end in which the denoiser alone learns the latents of the training proteins."},
    )
    finish_batch_size: int = field(default=256, metadata={"help": "Latents of such a step."})

    def __post_init__(self) -> None:
        self.model_config = as_dict(self.model_config, "model_config")
        self.check_baseline()
        self.check_finish()
        if self.baseline and self.encoder:
            raise ValueError("`vae_kl_weight` and `no_latents` are for networks that start from scratch.")


@dataclass
class ImageDataArguments:
    """Where the images come from."""

    train: list[str] = field(
        default_factory=list,
        metadata={"help": "`digits`, folders, files (npz, parquet, idx) or a Hub data set id."},
    )
    dev: list[str] = field(
        default_factory=list,
        metadata={"help": "Held-out data; without them part of the training data is held out."},
    )
    dev_fraction: float = field(default=0.1, metadata={"help": "Share held out where `dev` is not given, in (0, 1)."})
    dev_last: int | None = field(
        default=None, metadata={"help": "Hold out the last so many images instead of a random share."}
    )
    train_split: str | None = field(default=None, metadata={"help": "Split of a Hub data set, e.g. train."})
    dev_split: str | None = field(default=None, metadata={"help": "Held-out split of a Hub data set."})
    image_column: str = field(default="image", metadata={"help": "Column of the image."})
    image_size: int | None = field(
        default=None, metadata={"help": "Height and width; by default a checkpoint's, else the data's."}
    )
    num_channels: int | None = field(
        default=None, metadata={"help": "1 (grey) or 3; by default a checkpoint's, else the data's."}
    )
    resize: str | None = field(
        default=None,
        metadata={
            "help": "Images of other sizes: none (refused), stretch or crop; by default a checkpoint's, else none."
        },
    )
    background: int | None = field(
        default=None,
        metadata={"help": "Grey level behind transparent images, in [0, 255]; by default a checkpoint's, else 255."},
    )
    on_damaged: str = field(
        default="error", metadata={"help": "Images that cannot be read: error (stop) or skip (count, name, go on)."}
    )
    flip: bool = field(default=False, metadata={"help": "Mirror every other training image, drawn anew each time."})
    label_column: str | None = field(default=None, metadata={"help": "Attribute of the class labels."})
    max_dev_images: int = field(default=1000, metadata={"help": "Most images used to evaluate during training."})


@dataclass
class ImageModelArguments(ImageLosses, FeatureChoice):
    """What is trained."""

    preset: str = field(default="image-small", metadata={"help": "Name of an EDDPMConfig preset."})
    init_from: str | None = field(
        default=None,
        metadata={"help": "Pipeline whose weights the training starts from, to tune it further: folder or Hub id."},
    )
    model_config: dict | str | None = field(
        default=None, metadata={"help": "EDDPMConfig values as JSON; they override the preset's."}
    )
    encoder: str | None = field(
        default=None, metadata={"help": "Pretrained vision encoder, e.g. DINOv2: Hub id or folder."}
    )
    vae_kl_weight: float | None = field(
        default=None,
        metadata={"help": "Train a variational autoencoder of the same networks instead, with this KL weight."},
    )

    no_latents: bool = field(
        default=False, metadata={"help": "Train the pixel diffusion alone instead: no encoder, latents of zero."}
    )

    finish_steps: int = field(
        default=0,
        metadata={"help": "Steps at the end in which the denoiser alone learns the latents of the training images."},
    )
    finish_batch_size: int = field(default=256, metadata={"help": "Latents of such a step."})

    def __post_init__(self) -> None:
        self.model_config = as_dict(self.model_config, "model_config")
        self.check_baseline()
        self.check_losses()
        self.check_features()
        self.check_finish()


@dataclass
class TextModelArguments(ChainChoice):
    """What is trained."""

    preset: str | None = field(default=None, metadata={"help": "Name of an EDDPMConfig preset, e.g. text-small."})
    init_from: str | None = field(
        default=None,
        metadata={"help": "Pipeline whose weights the training starts from, to tune it further: folder or Hub id."},
    )
    model_config: dict | str | None = field(
        default=None, metadata={"help": "EDDPMConfig values as JSON; they override the preset's."}
    )
    vocab_size: int = field(default=8192, metadata={"help": "Tokens of a tokenizer trained on the data."})
    encoder: str | None = field(default=None, metadata={"help": "Pretrained encoder: Hub id or folder."})
    decoder: str | None = field(default=None, metadata={"help": "Pretrained causal language model: Hub id or folder."})
    attn_implementation: str | None = field(
        default=None, metadata={"help": "Attention of the backbones, e.g. eager (faster for short text on a CPU)."}
    )

    vae_kl_weight: float | None = field(
        default=None,
        metadata={"help": "Train a variational autoencoder of the same networks instead, with this KL weight."},
    )
    no_latents: bool = field(
        default=False, metadata={"help": "Train the decoder alone instead, a language model: latents of zero."}
    )
    finish_steps: int = field(
        default=0,
        metadata={
            "help": "Steps at the end in which the denoiser alone learns the latents of the training sentences."
        },
    )
    finish_batch_size: int = field(default=256, metadata={"help": "Latents of such a step."})

    def __post_init__(self) -> None:
        self.model_config = as_dict(self.model_config, "model_config")
        self.check_baseline()
        self.check_finish()
        if self.baseline and (self.encoder or self.decoder):
            raise ValueError("`vae_kl_weight` and `no_latents` are for networks that start from scratch.")


@dataclass
class LoraArguments:
    """How pretrained backbones are tuned: whole (the default), by adapters, or frozen but for a new first block."""

    lora: bool = field(default=False, metadata={"help": "Train LoRA adapters in the pretrained backbones, by peft."})
    lora_preset: str = field(
        default="family",
        metadata={
            "help": "Layers with adapters: family (peft's choice) or paper (all attention and MLP projections)."
        },
    )
    lora_r: int = field(default=8, metadata={"help": "Rank of the adapters."})
    lora_alpha: int = field(default=16, metadata={"help": "Scale of the adapters."})
    lora_dropout: float = field(default=0.0, metadata={"help": "Dropout before the adapters, in [0, 1)."})
    lora_targets: list[str] = field(
        default_factory=list,
        metadata={"help": "Names of layers with adapters, or one regular expression of whole names (it has a `*`)."},
    )
    lora_modules_to_save: list[str] = field(
        default_factory=list,
        metadata={"help": "Modules that train in full; by default all that is not pretrained."},
    )
    lora_save: str = field(
        default="adapter", metadata={"help": "What the pipeline's folder holds: adapter (alone) or merged (weights)."}
    )
    load_in_4bit: bool = field(default=False, metadata={"help": "QLoRA: 4-bit pretrained weights, on a GPU."})
    new_first_block: bool = field(
        default=False,
        metadata={"help": "Freeze the pretrained decoder except its embeddings and a new first block."},
    )

    def __post_init__(self) -> None:
        if self.lora_save not in ("adapter", "merged"):
            raise ValueError(f"`lora_save` must be adapter or merged, got {self.lora_save!r}.")
        if self.lora and self.new_first_block:
            raise ValueError("`lora` and `new_first_block` exclude each other: choose one recipe.")
        if self.load_in_4bit and not self.lora:
            raise ValueError("`load_in_4bit` needs `lora`: quantised weights cannot be trained themselves.")
        if self.load_in_4bit and self.lora_save == "merged":
            raise ValueError("`load_in_4bit` needs `lora_save` adapter: merging would round the adapter away.")

    @property
    def targets(self) -> str | list[str] | None:
        """The targets as peft takes them."""
        if len(self.lora_targets) == 1 and "*" in self.lora_targets[0]:
            return self.lora_targets[0]
        return self.lora_targets or None


@dataclass
class CardArguments:
    """What the model card says that cannot be measured."""

    card_name: str | None = field(default=None, metadata={"help": "Name of the model; by default that of its folder."})
    card_language: str | None = field(default=None, metadata={"help": "Language of the data as a code, e.g. en."})
    card_license: str | None = field(default=None, metadata={"help": "Licence of the weights, e.g. apache-2.0."})
    data_name: str | None = field(default=None, metadata={"help": "What the data are, in a few words."})
    data_note: str | None = field(default=None, metadata={"help": "Where the data come from, and their licence."})
    training_note: str | None = field(
        default=None, metadata={"help": "What the command line does not say of the run."}
    )


@dataclass
class TrainingOptions:
    """What our training adds to transformers' TrainingArguments."""

    precision: str = field(
        default="auto",
        metadata={"help": "auto (bf16 where the hardware gains by it, else fp32), bf16, fp16 or fp32."},
    )
    ema_decay: float | None = field(default=None, metadata={"help": "Decay of the averaged weights, in (0, 1)."})
    num_previews: int = field(default=4, metadata={"help": "Samples and reconstructions shown at each evaluation."})
    save_dtype: str = field(
        default="float32", metadata={"help": "Type of the saved weights: float32, float16 or bfloat16."}
    )
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads of torch."})
    max_minutes: float | None = field(
        default=None,
        metadata={"help": "End after so many minutes, with the whole schedule of the learning rate."},
    )


@dataclass
class GuideArguments:
    """What to train, on what, for how long."""

    checkpoint: str = field(metadata={"help": "Folder or Hub id of the pipeline whose latents are classified."})
    train: list[str] = field(metadata={"help": "Training data with classes: files, `file=label`, or a Hub id."})
    output_dir: str = field(metadata={"help": "Folder of the guide."})
    dev: list[str] = field(
        default_factory=list,
        metadata={"help": "Held-out data; without them part of the training data is held out."},
    )
    dev_last: int | None = field(
        default=None, metadata={"help": "Hold out the last so many data instead of a random share."}
    )
    dev_fraction: float = field(default=0.1, metadata={"help": "Share held out where `dev` is not given, in (0, 1)."})
    thresholds: list[float] = field(
        default_factory=list,
        metadata={"help": "Ascending bounds of classes in the first property, or in words of sentences."},
    )
    class_names: list[str] = field(default_factory=list, metadata={"help": "Names of the classes, in order."})
    max_train: int = field(default=50_000, metadata={"help": "Most training data."})
    hidden_size: int = field(default=256, metadata={"help": "Width of the layers."})
    num_layers: int = field(default=3, metadata={"help": "Number of layers."})
    num_steps: int = field(default=3000, metadata={"help": "Training steps."})
    batch_size: int = field(default=256, metadata={"help": "Data in a step."})
    learning_rate: float = field(default=1e-3, metadata={"help": "AdamW's, with a cosine schedule."})
    weight_decay: float = field(default=0.05, metadata={"help": "AdamW's."})
    seed: int = field(default=0, metadata={"help": "Seed of the draws."})
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads of torch."})

    def __post_init__(self) -> None:
        for name in ("max_train", "num_steps", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if sorted(set(self.thresholds)) != self.thresholds:
            raise ValueError(f"`thresholds` must ascend, got {self.thresholds}.")


@dataclass
class ColumnArguments:
    """Where in tables the data are."""

    text_column: str = field(default="text", metadata={"help": "Column of the sentence."})
    label_column: str | None = field(
        default=None, metadata={"help": "Column (of images attribute) of an integer label."}
    )
    sequence_column: str = field(default="sequence", metadata={"help": "Column of the protein."})
    property_columns: list[str] = field(default_factory=list, metadata={"help": "Columns of properties."})
    padding_symbol: str | None = field(default=None, metadata={"help": "Letter that the files pad proteins with."})


@dataclass
class DistillArguments:
    """What to distil, and for how long."""

    checkpoint: str = field(metadata={"help": "Folder or Hub id of the teacher's pipeline."})
    output_dir: str = field(metadata={"help": "Folder of the student's pipeline."})
    num_steps: int = field(default=4000, metadata={"help": "Training steps."})
    batch_size: int = field(default=512, metadata={"help": "Points of trajectories in a step."})
    learning_rate: float = field(default=5e-4, metadata={"help": "AdamW's, with a cosine schedule."})
    solver_steps: int = field(default=24, metadata={"help": "Steps of the teacher's trajectories."})
    pool_size: int = field(default=2048, metadata={"help": "Trajectories solved at a time."})
    ema_decay: float = field(default=0.995, metadata={"help": "Decay of the averaged weights, in (0, 1)."})
    seed: int = field(default=0, metadata={"help": "Seed of the noise."})
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads of torch."})

    def __post_init__(self) -> None:
        for name in ("num_steps", "batch_size", "solver_steps", "pool_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        if not 0 < self.ema_decay < 1:
            raise ValueError(f"`ema_decay` must be in (0, 1), got {self.ema_decay}.")


# The options of our own that each entry point takes, for `--help`.
OPTIONS: dict[str, tuple[type, ...]] = {
    "train_text": (TextDataArguments, TextModelArguments, LoraArguments, CardArguments, TrainingOptions),
    "train_protein": (ProteinDataArguments, ProteinModelArguments, CardArguments, TrainingOptions),
    "train_image": (ImageDataArguments, ImageModelArguments, CardArguments, TrainingOptions),
    "train_guide": (GuideArguments, ColumnArguments),
    "distill": (DistillArguments,),
}


def answer_help(description: str, *option_classes: type, words: Sequence[str] | None = None) -> None:
    """Prints our own options and ends the process if the command line asks for help; else does nothing.

    To be called before the imports that take seconds. `--help_all` adds the options of transformers' TrainingArguments
    under a heading of their own, where `TrainingOptions` is among the classes.

    Args:
        description: The script's docstring.
        option_classes: Dataclasses of our own options.
        words: The command line; `None` for `sys.argv`.
    """
    asked = set(sys.argv[1:] if words is None else words)
    if asked.isdisjoint(("-h", "--help", "--help_all")):
        return
    parser = HfArgumentParser(
        option_classes,
        description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
        allow_abbrev=False,
    )
    print(parser.format_help())
    if TrainingOptions in option_classes:
        if "--help_all" in asked:
            from transformers import TrainingArguments

            group = HfArgumentParser(TrainingArguments, usage=argparse.SUPPRESS, add_help=False)
            print("Options of transformers' TrainingArguments\n")
            print(group.format_help())
        else:
            print("--help_all also prints the options of transformers' TrainingArguments (--max_steps, --seed ...).")
    raise SystemExit(0)
