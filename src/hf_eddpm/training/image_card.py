"""The model card of an image checkpoint, from the facts beside it.

    python -m hf_eddpm.training.image_card runs/digits/pipeline

`train_image.py` leaves `training.json` in the pipeline's folder and `evaluate_image.py --update_card` leaves
`evaluation.json` and pictures; both write the card (README.md) by this file, and this command writes it anew.
"""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard

from ..hub.card import build_model_card, save_model_card
from ..pipeline_eddpm import EDDPMPipeline
from .card_facts import card_arguments, card_notes, latent_tables, read_facts, rewrite_card
from .image_tables import how_to_read, markdown_tables


def _captions(source: str, has_chain: bool) -> dict[str, str]:
    """What the pictures show, by their file names.

    Args:
        source: "held-out" or "generated", what the images are that are reconstructed.
        has_chain: Whether the decoder is a diffusion chain over pixels.
    """
    again = ", with `x_T` drawn, then inverted" if has_chain else ""
    same = ", `x_T` the same along a path" if has_chain else ""
    return {
        "samples.png": "Samples, not chosen.",
        "classes.png": "A class in each row, with classifier-free guidance.",
        "reconstructions.png": f"{source.capitalize()} images; below each its reconstruction{again}.",
        "interpolations.png": f"Paths between {source} images through the latents{same}.",
    }


def write_image_card(pipe: EDDPMPipeline, folder: str | Path) -> Path:
    """Writes README.md in a pipeline's folder from the facts that lie there, and returns its path."""
    folder = Path(folder)
    return save_model_card(build_image_card(pipe, folder, *read_facts(folder)), folder)


def build_image_card(
    pipe: EDDPMPipeline, folder: Path, training: dict[str, Any] | None, evaluation: dict[str, Any] | None
) -> ModelCard:
    """The card of an image pipeline.

    Args:
        pipe: The pipeline.
        folder: Its folder, which names the model where the training did not.
        training: What `train_image.py` wrote, or `None`.
        evaluation: What `evaluate_image.py` wrote, or `None`.
    """
    card = {} if training is None else training.get("card", {})
    data_name = card.get("data_name") or "the training data"
    return build_model_card(
        pipe.model,
        training=training,
        evaluation=evaluation,
        summary=f"Trained on images: {data_name}." if card.get("data_name") else "Trained on images.",
        snippet=_snippet(pipe),
        results="" if evaluation is None else _results(pipe, evaluation, folder),
        eval_results=[] if evaluation is None else _eval_results(evaluation, data_name),
        limits=_limits(pipe, training, data_name),
        **card_arguments(folder, training),
        pipeline_tag="unconditional-image-generation",
    )


def _snippet(pipe: EDDPMPipeline) -> str:
    chain = pipe.decoder_scheduler is not None
    lines = ["from hf_eddpm import plot_grid", ""]
    if pipe.model.config.num_classes:
        lines += [
            "generator = torch.Generator().manual_seed(0)",
            "images = pipe(num_samples=2, class_labels=3, guidance_scale=2.0, generator=generator).samples",
        ]
    else:
        lines += ["images = pipe(num_samples=2, generator=torch.Generator().manual_seed(0)).samples"]
    lines += [
        f"again = pipe.reconstruct(images{', invert_noise=True' if chain else ''})  # PIL images of any mode",
        'path = pipe.interpolate(images[0], images[1], num_steps=7, space="latents")[0]',
        "print(plot_grid([images, again, path]).size)  # a PIL image: .save(...) it",
        "print(pipe.encode(images).embeddings.shape)",
    ]
    return "\n".join(lines) + "\n"


def _results(pipe: EDDPMPipeline, evaluation: dict[str, Any], folder: Path) -> str:
    settings = evaluation["settings"]
    seeds = ", ".join(str(seed) for seed in settings["seeds"])
    counts = (
        f"{evaluation['num_dev_images']:,} held-out images; {evaluation['num_samples']:,} samples for each number of "
        f"steps and sampling seed ({seeds})."
    )
    captions = _captions(evaluation.get("pictures_from", "held-out"), pipe.decoder_scheduler is not None)
    pictures = [f"![{text}]({name})\n\n{text}" for name, text in captions.items() if (folder / name).is_file()]
    tables = [markdown_tables(evaluation), how_to_read(evaluation), *latent_tables(evaluation)]
    return "\n\n".join([counts, *tables, *pictures])


def _eval_results(evaluation: dict[str, Any], data_name: str) -> list[EvalResult]:
    most_steps = max(evaluation["samples"], key=int)
    reconstruction = evaluation["reconstruction"]
    measures = [
        ("frechet", f"Frechet distance of samples ({most_steps} steps)", evaluation["samples"][most_steps]["frechet"]),
        ("frechet", "Frechet distance of reconstructions", reconstruction["frechet"]),
        ("mse", "reconstruction mean squared error, pixels in [0, 1]", reconstruction["mse"]),
        ("ssim", "reconstruction SSIM", reconstruction["ssim"]),
    ]
    if "iou" in reconstruction:
        measures.append(("iou", "reconstruction intersection over union", reconstruction["iou"]))
    for steps, values in evaluation.get("refined", {}).items():
        if "iou" in values:
            measures.append(("iou", f"the same after {steps} refinement steps", values["iou"]))
    if "inverted" in evaluation:
        measures.append(("mse", "the same with inverted noise", evaluation["inverted"]["mse"]))
    for name, probe in evaluation.get("probes", {}).items():
        if "accuracy" in probe:
            measures.append(("accuracy", f"linear probe of {name} on the latents", probe["accuracy"]))
    results = []
    for kind, name, value in measures:
        number = value["mean"] if isinstance(value, dict) else value
        results.append(
            EvalResult(
                task_type="other",
                dataset_type="image",
                dataset_name=data_name,
                dataset_split="dev",
                metric_type=kind,
                metric_name=name,
                metric_value=round(number, 5),
            )
        )
    return results


def _limits(pipe: EDDPMPipeline, training: dict[str, Any] | None, data_name: str) -> list[str]:
    processor = pipe.processor
    kind = "grey" if processor.num_channels == 1 else "colour"
    others = {
        "none": "the processor refuses other sizes unless its `resize` says otherwise",
        "stretch": "the processor stretches other sizes",
        "crop": "the processor takes the middle square of other sizes and resizes it",
    }
    limits = [f"{processor.image_size} x {processor.image_size} {kind} images; {others[processor.resize]}."]
    if training is None:
        return limits
    limits.append(f"It knows one kind of picture ({data_name}); others come back as what it knows.")
    limits.append("The held-out images were watched during training; no test split was used.")
    return [*limits, *card_notes(training)]


def main() -> None:
    """Writes the card of the pipeline folder named on the command line."""
    rewrite_card(__doc__, write_image_card)


if __name__ == "__main__":
    main()
