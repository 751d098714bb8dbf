"""The Markdown tables of an image evaluation, for a model card or a README."""

from typing import Any

from ..hub.card import markdown_table
from .evaluation import plus_minus

HOW_TO_READ = """\
Frechet: squared Frechet distance from held-out images in the features of {extractor}; numbers of other extractors do
not compare. Beside it as many training images ("real"), as it falls with their number. MSE, PSNR and SSIM are of
pixels in [0, 1]; "inverted": decoded from the noise `x_T` that the pixels' chain takes the image itself to. Steps: of
the latents' chain, and as many of the pixels' if there is one. A model that knows classes is asked for evenly drawn
ones. Interpolations: Frechet distance of points at that share of the way between held-out images. Probes: logistic
regression on the latents of training images, judged on held-out ones, beside the same on as many principal components
of the pixels. Peak memory is the whole evaluation's, in batches of {batch_size}. ± is the standard deviation
over sampling seeds."""


def markdown_tables(result: dict[str, Any]) -> str:
    """The tables of an image evaluation: a summary row, samples by number of steps, probes, factors.

    Args:
        result: What `evaluate` in evaluate_image.py returned.
    """
    reconstruction, samples = result["reconstruction"], result["samples"]
    most_steps = max(samples, key=int)
    row = {
        f"samples, Frechet ({most_steps} steps)": plus_minus(samples[most_steps]["frechet"], ".3f"),
        "real": plus_minus(result["real_frechet"], ".3f"),
        **_errors_of(reconstruction),
    }
    if "inverted" in result:
        row |= {
            "MSE, inverted": f"{result['inverted']['mse']:.6f}",
            "PSNR, inverted": f"{result['inverted']['psnr']:.2f}",
            "SSIM, inverted": f"{result['inverted']['ssim']:.4f}",
        }
    for share, value in result["interpolation"].items():
        row[f"interpolation at {share}, Frechet"] = f"{value:.3f}"
    if "bits_per_dim" in result:
        row["bits per dimension, at most"] = f"{result['bits_per_dim']:.3f}"
    row["peak memory, MiB"] = result["peak_memory_mib"]
    tables = [markdown_table([row])]

    if "refined" in result:
        rows = [{"refinement steps": steps, **_errors_of(values)} for steps, values in result["refined"].items()]
        tables.append(markdown_table([{"refinement steps": "0", **_errors_of(reconstruction)}, *rows]))

    rows = []
    for steps, values in samples.items():
        entry = {"steps": steps, "Frechet": plus_minus(values["frechet"], ".3f")}
        if "class_accuracy" in values:
            entry["class right"] = plus_minus(values["class_accuracy"], ".3f")
            entry["class right, guided"] = plus_minus(values["guided_class_accuracy"], ".3f")
        entry["seconds per image"] = f"{values['seconds']['mean']:.4f}"
        rows.append(entry)
    tables.append(markdown_table(rows))

    if "guidance" in result:
        rows = [
            {
                "weight of the class": scale,
                "Frechet": plus_minus(values["frechet"], ".3f"),
                "class right": plus_minus(values["class_accuracy"], ".3f"),
            }
            for scale, values in result["guidance"].items()
        ]
        tables.append(markdown_table(rows))

    rows = []
    for name, probe in result.get("probes", {}).items():
        row = {"probe": name, "images": probe["num_train"]}
        for measure, title in (("accuracy", "accuracy"), ("average_precision", "average precision")):
            if measure in probe:
                row[title] = f"{probe[measure]:.4f}"
                row[f"{title}, principal components"] = f"{probe[f'pca_{measure}']:.4f}"
        rows.append(row)
    if rows:
        tables.append(markdown_table(rows))
    if "factors" in result:
        factors = result["factors"]
        measures = ("disentanglement", "completeness", "informativeness", "mig", "sap")
        names = ("DCI disentanglement", "completeness", "informativeness", "MIG", "SAP")
        tables.append(
            markdown_table([{name: f"{factors[measure]:.3f}" for measure, name in zip(measures, names, strict=True)}])
        )
    return "\n\n".join(tables)


def _errors_of(values: dict[str, Any]) -> dict[str, str]:
    row = {
        "reconstruction, Frechet": f"{values['frechet']:.3f}",
        "MSE": f"{values['mse']:.5f}",
        "PSNR": f"{values['psnr']:.2f}",
        "SSIM": f"{values['ssim']:.4f}",
    }
    if "iou" in values:
        row["intersection over union"] = f"{values['iou']:.4f}"
    return row


def how_to_read(result: dict[str, Any]) -> str:
    """What the columns of the tables mean."""
    text = HOW_TO_READ.format(extractor=result["extractor"], batch_size=result["settings"]["eval_batch_size"])
    if "iou" in result["reconstruction"]:
        text += " Intersection over union: of the pixels above 1/2, in reconstruction and original."
    if "guidance" in result:
        text += " Weight of the class: `guidance_scale`; 1 tells the class, more insists on it; classes in turn."
    if "refined" in result:
        text += " Refinement steps: gradient steps on each image's latents towards its pixels."
    return text
