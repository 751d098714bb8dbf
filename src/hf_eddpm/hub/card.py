"""Model cards: the README.md of a checkpoint, made from what its training and its evaluation measured."""

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData
from torch import nn

from ..configuration_eddpm import EDDPMConfig
from ..modeling_eddpm import EDDPMModel

CARD_FILE = "README.md"
TRAINING_FILE = "training.json"
EVALUATION_FILE = "evaluation.json"
ORGANISATION = "your-org"  # owner of the models in cards and documentation, until an upload puts the real one there

# Not "diffusers", although the folder is one of its pipelines: the code that the Hub shows for that library loads
# the pipeline without importing this package, and fails.
_LIBRARY_NAME = "hf_eddpm"
_TAGS = ("eddpm", "diffusers", "latent-diffusion", "autoencoder", "representation-learning", "arxiv:2402.19009")
_TERMS = (
    *("loss", "reconstruction_loss", "diffusion_loss", "alignment_loss"),
    *("latent_std", "active_dims", "kl_per_dim", "effective_rank", "largest_share", "rate", "neighbor_ratio"),
)

_CITATION = """\
@inproceedings{liu2024unified,
  title     = {Unified Generation, Reconstruction, and Representation: Generalized Diffusion with Adaptive Latent
               Encoding-Decoding},
  author    = {Liu, Guangyi and Wang, Yu and Feng, Zeyu and Wu, Qiyu and Tang, Liping and Gao, Yuan and Li, Zhen and
               Cui, Shuguang and McAuley, Julian and Yang, Zichao and Xing, Eric P. and Hu, Zhiting},
  booktitle = {Proceedings of the 41st International Conference on Machine Learning},
  year      = {2024},
  note      = {arXiv:2402.19009}
}"""


def build_model_card(
    model: EDDPMModel,
    *,
    name: str,
    training: dict[str, Any] | None,
    evaluation: dict[str, Any] | None,
    summary: str = "",
    snippet: str = "",
    results: str = "",
    eval_results: Sequence[EvalResult] = (),
    limits: Sequence[str] = (),
    tags: Sequence[str] = (),
    **metadata: Any,
) -> ModelCard:
    """Write a checkpoint's model card. Every number in it comes from the arguments.

    What depends on the kind of data (`summary`, `snippet`, `results`, `eval_results`, `limits`) comes from the caller.

    Args:
        model: The model that the card describes.
        name: The model's name, with or without its owner on the Hub; see `hub_id`.
        training: Facts of the training run: `command`, `data` (for each split a dictionary of counts and names),
            `settings`, `seed`, `steps`, `batch_size`, `wall_time_seconds`, `hardware`, `versions`, `metrics` (of the
            last evaluation, names as in the log) and `log` (entries of the trainer's log). `None` if not known.
        evaluation: Facts of the evaluation: `command`, `wall_time_seconds`, `hardware` and `versions`. `None` for a
            model that has not been evaluated; `results` and `eval_results` are left out then.
        summary: What the model was trained for, in a sentence or two of Markdown.
        snippet: Python lines that go on from `pipe`, shown after the generation of a few samples.
        results: The measured tables, Markdown.
        eval_results: The same measurements for the metadata (`model-index`).
        limits: Sentences of Markdown, one for each list item.
        tags: Tags besides those that every model of this package has.
        **metadata: Other fields of `huggingface_hub.ModelCardData`: `pipeline_tag`, `language`, `license`, `datasets`,
            `base_model` and so on.

    Raises:
        ValueError: If `training` or `evaluation` lacks one of these facts.
    """
    _check_facts("training", training, _TRAINING_FACTS)
    _check_facts("evaluation", evaluation, _EVALUATION_FACTS)
    measured = list(eval_results) if evaluation is not None else []
    data = ModelCardData(
        library_name=_LIBRARY_NAME,
        tags=[*_TAGS, model.config.modality, *tags],
        eval_results=measured or None,
        model_name=name if measured else None,
        metrics=sorted({result.metric_type for result in measured}) or None,
        **metadata,
    )
    sections = [f"# {name}", _introduction(model, summary), "## Use", _usage(name, snippet)]
    if evaluation is not None:
        sections += ["## Results", results, _measured_with(evaluation)]
    stored = (training or {}).get("arguments", {}).get("save_dtype")  # a model that is measured is in float32
    sections += [_PARTS_TITLE, _parts_table(model, stored or str(model.dtype).removeprefix("torch."))]
    if training is not None:
        sections += ["## Training", *_training(training)]
    sections += ["## Limits", *_bullets([*limits, *_general_limits(training, evaluation)])]
    sections += ["## Reproduce", *_reproduce(training, evaluation), "## Citation", f"```bibtex\n{_CITATION}\n```"]
    text = "\n\n".join(section for section in sections if section)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{text}\n")


def save_model_card(card: ModelCard, folder: str | os.PathLike) -> Path:
    """Write a card as the README.md of a checkpoint's folder, whole or not at all, and return its path.

    Args:
        card: The card.
        folder: An existing folder.

    Raises:
        ValueError: If the folder does not exist.
    """
    if not Path(folder).is_dir():
        raise ValueError(f"`folder` must be an existing folder, got {os.fspath(folder)!r}.")
    path = Path(folder) / CARD_FILE
    if path.is_file() and (shown := _gallery_of(path.read_text(encoding="utf-8"))):
        card = ModelCard(_with_gallery(str(card), shown))
    partial = path.with_name(f".{CARD_FILE}.partial")
    card.save(partial)
    os.replace(partial, path)
    return path


def show_gallery(folder: str | os.PathLike, captions: Mapping[str, str]) -> None:
    """Give the card in a folder a section with the pictures of the folder `gallery` beside it.

    A section that is there is replaced; a card that is written anew later keeps it.

    Args:
        folder: A checkpoint's folder, with a card.
        captions: What each picture shows, by its file name.

    Raises:
        ValueError: If there is no card, or a picture is not there.
    """
    path = Path(folder) / CARD_FILE
    if not path.is_file():
        raise ValueError(f"`folder` must hold a {CARD_FILE}, got {os.fspath(folder)!r}.")
    if missing := [name for name in captions if not (path.parent / GALLERY_FOLDER / name).is_file()]:
        raise ValueError(f"`captions` names pictures that are not in {GALLERY_FOLDER!r}: {missing}.")
    pictures = [f"![{Path(name).stem}]({GALLERY_FOLDER}/{name})\n\n{caption}" for name, caption in captions.items()]
    section = "\n\n".join([_GALLERY_TITLE, *pictures]) if captions else ""
    text = _with_gallery(path.read_text(encoding="utf-8"), section)
    path.write_text(text, encoding="utf-8")


def _gallery_of(text: str) -> str:
    """Return the gallery's section of a card, or nothing."""
    found = re.search(rf"^{_GALLERY_TITLE}\n.*?(?=^## |\Z)", text, re.M | re.S)
    return found[0].strip() if found else ""


def _with_gallery(text: str, section: str) -> str:
    """Return a card with another section of its gallery, before what the model is made of."""
    if old := _gallery_of(text):
        text = text.replace(f"{old}\n\n", "")
    return text.replace(_PARTS_TITLE, f"{section}\n\n{_PARTS_TITLE}", 1) if section else text


GALLERY_FOLDER = "gallery"
_GALLERY_TITLE, _PARTS_TITLE = "## Gallery", "## What it is made of"
_EVALUATION_FACTS = ("command", "wall_time_seconds", "hardware", "versions")
_TRAINING_FACTS = (*_EVALUATION_FACTS, "data", "settings", "seed", "steps", "batch_size", "metrics", "log")


def hub_id(name: str) -> str:
    """Return the Hub id that a card gives for a model: "owner/name", the placeholder's where no owner is named.

    Args:
        name: The model's name, or its Hub id.
    """
    return name if "/" in name else f"{ORGANISATION}/{name}"


def name_repository(folder: str | os.PathLike, repo_id: str, subfolder: str | None = None) -> None:
    """Put a repository's own id in the place of the placeholder of the card in a folder, if there is one.

    Args:
        folder: A folder that will be the repository.
        repo_id: "owner/name".
        subfolder: Where in the repository the folder goes.
    """
    path = Path(folder) / CARD_FILE
    if not path.is_file():
        return
    text = path.read_text(encoding="utf-8")
    place = f'"{repo_id}"' + (f', subfolder="{subfolder}"' if subfolder else "")
    named = re.sub(rf'(?<=EDDPMPipeline\.from_pretrained\()"{re.escape(ORGANISATION)}/[^"]*"', place, text)
    if named != text:
        path.write_text(named, encoding="utf-8")


def _check_facts(name: str, facts: dict[str, Any] | None, required: Iterable[str]) -> None:
    if facts is not None and (missing := sorted(set(required) - set(facts))):
        raise ValueError(f"`{name}` lacks {missing}: write it anew with the script of this version.")


def _introduction(model: EDDPMModel, summary: str) -> str:
    millions = f"{_num_parameters(model) / 1e6:.3g}"
    return (
        f"An encoder-decoder diffusion model (EDDPM, [Liu et al., ICML 2024](https://arxiv.org/abs/2402.19009)) for "
        f"{model.config.modality} with {millions} million parameters: one diffusion chain whose first step is a "
        f"learned encoder and whose last step is a learned decoder. It generates, reconstructs, represents, "
        f"interpolates and edits. {summary}"
    ).strip()


def _num_parameters(module: nn.Module) -> int:
    # Beside a module that trains with an adapter, peft keeps the original, which is not used.
    named = module.named_parameters()
    return sum(parameter.numel() for name, parameter in named if "original_module" not in name.split("."))


def _usage(name: str, snippet: str) -> str:
    lines = [
        "import torch",
        "",
        "from hf_eddpm import EDDPMPipeline",
        "",
        f'pipe = EDDPMPipeline.from_pretrained("{hub_id(name)}")  # its Hub id, or a copy of this folder',
        "print(pipe(num_samples=4, generator=torch.Generator().manual_seed(0)).samples)",
        *snippet.strip().splitlines(),
    ]
    return "\n".join(["```python", *lines, "```"])


def _parts_table(model: EDDPMModel, weights: str) -> str:
    config = model.config
    denoiser = "" if config.denoiser_type == "mlp" else f"{config.denoiser_type}, "
    what = {
        "encoder": _backbone(config.encoder),
        "bottleneck": f"{config.num_latents} x {config.latent_dim} latents, normalisation "
        f"`{config.latent_normalization}`, encoder noise variance {config.encoder_noise_variance:g}; the encoder gets "
        f"{config.encoder_gradient_scale:.0%} of the diffusion loss's gradient",
        "denoiser": f"{denoiser}{config.denoiser_num_layers} layers x {config.denoiser_hidden_size}, predicts "
        f"`{config.prediction_type}`; {_schedule(config)}",
        "decoder": _backbone(config.decoder),
    }
    rows = []
    for part, module in model.named_children():
        count = _num_parameters(module)
        rows.append({"part": part, "what": what.get(part, ""), "parameters": f"{count:,}"})
    return f"{markdown_table(rows)}\n\nThe weights are stored as {weights}; `model/config.json` has every value."


def _backbone(config: Any) -> str:
    model_type = getattr(config, "model_type", None)
    if model_type is None:
        return ""
    size = " x ".join(
        str(value)
        for value in (getattr(config, "num_hidden_layers", None), getattr(config, "hidden_size", None))
        if value is not None
    )
    return f"`{model_type}`" + (f", {size} (layers x width)" if " x " in size else "")


def _schedule(config: EDDPMConfig) -> str:
    if config.trained_betas is not None:
        betas = "explicit betas"
    elif config.beta_schedule == "squaredcos_cap_v2":
        betas = "cosine schedule"
    elif config.beta_start == config.beta_end:
        betas = f"constant beta {config.beta_start:g}"
    else:
        betas = f"`{config.beta_schedule}` betas from {config.beta_start:g} to {config.beta_end:g}"
    return f"{config.num_train_timesteps} timesteps, {betas}"


def _training(training: dict[str, Any]) -> list[str]:
    splits = [
        {"data": split} | {key.replace("_", " "): _cell(value) for key, value in facts.items()}
        for split, facts in training["data"].items()
    ]
    run = {
        "steps": f"{training['steps']:,} of {training['batch_size']} examples",
        "seed": training["seed"],
        **{key.replace("_", " "): _cell(value) for key, value in training["settings"].items()},
        "wall time": f"{_duration(training['wall_time_seconds'])} (evaluations and checkpoints included)",
        "hardware": training["hardware"],
        "versions": _versions(training["versions"]),
    }
    return [markdown_table(splits), "\n".join(f"- {key}: {value}" for key, value in run.items()), *_losses(training)]


def _losses(training: dict[str, Any]) -> list[str]:
    logged = [entry for entry in training["log"] if "loss" in entry]
    last, held_out = (logged[-1] if logged else {}), training["metrics"]
    rows = [
        {
            "term": f"`{term}`",
            "training, last logged": _number(last.get(term)),
            "held-out data": _number(held_out.get(f"eval_{term}")),
        }
        for term in _TERMS
        if term in last or f"eval_{term}" in held_out
    ]
    if not rows:
        return []
    note = f"`{TRAINING_FILE}` has the arguments and the course of these values."
    if "eval_effective_rank" in held_out:
        note += (
            " Active dimensions and KL look at one dimension at a time; the effective rank counts the directions in "
            "which the latents vary, the largest share is the share of the first of them, and the rate is in nats."
        )
    if "eval_neighbor_ratio" in held_out:
        note += (
            " The neighbour ratio says how much farther from held-out latents sampled ones lie than other held-out "
            "ones do: 1 where samples are like new data."
        )
    return [markdown_table(rows), note]


def _measured_with(evaluation: dict[str, Any]) -> str:
    return (
        f"Measured on {evaluation['hardware']} in {_duration(evaluation['wall_time_seconds'])} with "
        f"{_versions(evaluation['versions'])}. `{EVALUATION_FILE}` has every number and more examples."
    )


def _general_limits(training: dict[str, Any] | None, evaluation: dict[str, Any] | None) -> list[str]:
    limits = []
    if training is not None:
        limits.append("One training run with one seed: another seed gives somewhat other numbers.")
    if evaluation is None:
        limits.append("Not evaluated yet, beyond the losses above." if training is not None else "Not evaluated yet.")
    limits.append("Not examined for bias or harmful content: it repeats what its training data contain.")
    return limits


def _reproduce(training: dict[str, Any] | None, evaluation: dict[str, Any] | None) -> list[str]:
    commands = [facts["command"] for facts in (training, evaluation) if facts is not None]
    if not commands:
        return ["The commands that made this checkpoint were not recorded."]
    block = "\n".join(["```bash", *commands, "```"])
    return [
        f"From a clone of the hf_eddpm repository, with the data files in the current folder:\n\n{block}",
        "Results repeat on the same hardware with the same versions; elsewhere floating-point arithmetic differs.",
    ]


def markdown_table(rows: Sequence[dict[str, Any]]) -> str:
    """Return a Markdown table; its columns are the keys of all rows, in the order of their first appearance.

    Args:
        rows: Cells by column; one that a row lacks stays empty.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns), *([str(row.get(column, "")) for column in columns] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _bullets(sentences: Iterable[str]) -> list[str]:
    return ["\n".join(f"- {sentence}" for sentence in sentences)]


def _cell(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return ", ".join(f"`{item}`" for item in value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.4g}"


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{library} {version}" for library, version in versions.items())


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
