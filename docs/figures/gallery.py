"""Makes the gallery: what each checkpoint gives, uncurated, with fixed seeds.

    python docs/figures/gallery.py --sentences data/sentences --yelp $YELP --gifford $GIFFORD --gfp $GFP \\
        --gb1 $GB1 --fashion $FASHION --faces $UTKFACE --cifar10 $CIFAR

The folders hold the held-out data (the first is what training/studies/sentences/prepare.py made); the digits
come with scikit-learn. A page for each checkpoint goes to docs/gallery. Its pictures go to the folder `gallery`
beside the checkpoint's card, which gets a section with them. A checkpoint whose data are not named is left as it is.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import torch
from PIL import Image

from hf_eddpm import EDDPMPipeline, PropertyGuidance, SimilarityGuidance, plot_grid
from hf_eddpm.hub.card import markdown_table, show_gallery
from hf_eddpm.modalities.image.data import ImageData, load_images
from hf_eddpm.modalities.image.files import DIGITS
from hf_eddpm.modalities.protein.data import load_proteins
from hf_eddpm.modalities.text.data import load_text
from hf_eddpm.plots import plot_latents, plot_scores
from shipped import ROOT, load, seed

sys.path.insert(0, str(ROOT / "training" / "studies"))  # what the studies know of the data

from control.smile import labelled_faces

CARDS = ROOT / "model_cards"
PAGES = ROOT / "docs" / "gallery"
SHOWN = 8  # data in a table or a row
YOUNG, OLD = 6, 60  # ages of the directions
# The wild type in the data's own spelling, whose four letters stand one position late
GB1 = "MTYKLILNGKTLKGETTTEAVDAATAEKVFKQYANDNGVVDGWTYDDATKTFTVVE"
MAPPED = 1000  # data on a map of the latents, and in a histogram


class Page:
    """A page of the gallery, and its pictures.

    Args:
        name: The checkpoint.
        lead: What it is, in a sentence.
    """

    def __init__(self, name: str, lead: str):
        self.name = name
        self.parts = [f"# {name}", f"{lead} Its card: {{doc}}`../models/{name}`."]
        self.captions: dict[str, str] = {}

    def table(self, title: str, rows: list[dict[str, Any]], text: str = "") -> None:
        """Add a table of data, each in a code literal so that nothing in it is taken for markup."""
        cells = [{key: f"`{value}`" for key, value in row.items()} for row in rows]
        self.parts += [f"## {title}", *([text] if text else []), markdown_table(cells)]

    def picture(self, title: str, kind: str, draw: Any, text: str = "", in_card: bool = True) -> None:
        """Add a picture: a matplotlib figure or a PIL image. Some cards have one like it among their results."""
        path = CARDS / self.name / "gallery" / f"{kind}.png"
        path.parent.mkdir(exist_ok=True)
        if isinstance(draw, Image.Image):
            draw.quantize(256).save(path, optimize=True)
        else:
            draw.savefig(path, dpi=90)
            plt.close(draw)
        place = path.relative_to(ROOT).as_posix()
        self.parts += [f"## {title}", *([text] if text else []), f"![{title}](../../{place})"]
        if in_card:
            self.captions[path.name] = f"{title}. {text}" if text else f"{title}."

    def write(self) -> None:
        """Write the page, and the section of the card."""
        PAGES.mkdir(parents=True, exist_ok=True)
        show_gallery(CARDS / self.name, self.captions)
        (PAGES / f"{self.name}.md").write_text("\n\n".join(self.parts) + "\n", encoding="utf-8")


def as_it_is(datum: str) -> str:
    """Return a datum as a table shows it."""
    return datum


def changes_from(wild_type: str) -> Callable[[str], str]:
    """Return a function that says by which mutations a variant differs, for example A39W; "wild type" for none."""

    def changes(variant: str) -> str:
        if len(variant) != len(wild_type):
            return f"{len(variant)} residues"
        pairs = enumerate(zip(wild_type, variant, strict=True), start=1)
        return " ".join(f"{old}{place}{new}" for place, (old, new) in pairs if old != new) or "wild type"

    return changes


def nearest(
    pipe: EDDPMPipeline, queries: list[str], pool: list[str], show: Callable[[str], str]
) -> list[dict[str, str]]:
    """Return each query's nearest neighbours among others, by the cosine of the embeddings."""
    a, b = (torch.nn.functional.normalize(pipe.encode(data).embeddings, dim=1) for data in (queries, pool))
    order = (a @ b.T).argsort(1, descending=True)
    return [
        {"query": show(query), **{f"neighbour {place + 1}": show(pool[int(row[place])]) for place in range(2)}}
        for query, row in zip(queries, order, strict=True)
    ]


def shuffled(data: Sequence[str], by_word: bool) -> list[str]:
    """Return the data with their words, or letters, in a random order."""
    generator = seed(1)
    pieces = [datum.split() if by_word else list(datum) for datum in data]
    orders = [torch.randperm(len(each), generator=generator).tolist() for each in pieces]
    joiner = " " if by_word else ""
    return [joiner.join(each[place] for place in order) for each, order in zip(pieces, orders, strict=True)]


def sequences(
    page: Page,
    pipe: EDDPMPipeline,
    held_out: list[str],
    labels: Sequence[Any],
    by_word: bool,
    show: Callable[[str], str] = as_it_is,
) -> None:
    """Add what sentences and proteins have in common."""
    samples = pipe(num_samples=MAPPED, generator=seed()).samples
    page.table("Samples", [{"sample": show(sample)} for sample in samples[:SHOWN]], "The first of seed 0.")
    originals = held_out[:SHOWN]
    plain, refined = pipe.reconstruct(originals), pipe.reconstruct(originals, refinement_steps=10)
    page.table(
        "Reconstructions",
        [
            {"held-out datum": show(a), "one pass": show(b), "10 refinement steps": show(c)}
            for a, b, c in zip(originals, plain, refined, strict=True)
        ],
    )
    first, second = [datum for datum in held_out if not by_word or 6 <= len(datum.split()) <= 14][:2]
    path = pipe.interpolate(first, second, num_steps=7)[0]
    text = "The first two held-out sentences of 6 to 14 words." if by_word else "The first two held-out sequences."
    rows = [{"point": str(at), "datum": show(datum)} for at, datum in enumerate(path)]
    page.table("From one to another", rows, text)
    directions = pipe.directions(held_out[:MAPPED], num_directions=3)
    walks = pipe.traverse(first, directions, scales=(-2.0, -1.0, 0.0, 1.0, 2.0))[0]
    rows = [
        {"direction": f"{number}", **{f"{at:+d}": show(datum) for at, datum in zip(range(-2, 3), walk, strict=True)}}
        for number, walk in enumerate(walks, start=1)
    ]
    text = (
        "The first held-out datum, moved along the directions in which the latents vary most, in standard deviations."
    )
    page.table("Traversals", rows, text)
    rows = []
    for scale in (0.0, 0.3, 1.0, 3.0):
        guidance = SimilarityGuidance(second, scale=scale)
        found = pipe(num_samples=2, guidance=guidance, generator=seed()).samples
        rows.append({"scale": f"{scale:g}", "first": show(found[0]), "second": show(found[1])})
    text = f"Samples of seed 0, drawn towards `{show(second)}`."
    page.table("Guidance from weak to strong", rows, text)
    latents = pipe.encode(held_out[:MAPPED]).latents
    figure = plot_latents(latents, list(labels[:MAPPED]))
    page.picture("A map of the latents", "latents", figure, "Held-out data in the plane in which they vary most.")
    page.table("Nearest neighbours", nearest(pipe, held_out[:SHOWN], held_out[SHOWN:2000], show))
    few = held_out[:300]
    kinds = {"held-out data": few, "samples": samples[:300], "shuffled": shuffled(few, by_word)}
    scores = {name: pipe.score(data, num_timesteps=16, generator=seed()).bits_per_unit for name, data in kinds.items()}
    figure = plot_scores(scores, label="bits per token, by the bound")
    page.picture("Scores", "scores", figure, "Fewer bits: the model finds it likelier.")


def yelp(name: str, folder: Path) -> None:
    """The gallery of a checkpoint of review sentences."""
    pipe = load(name)
    data = load_text([f"{folder}/dev.0.txt.gz=0", f"{folder}/dev.1.txt.gz=1"]).sample(3000, 0)
    labels = ["complaint" if label == 0 else "praise" for label in data.labels or []]
    order = torch.randperm(len(data), generator=seed()).tolist()
    sentences, labels = [data.sentences[row] for row in order], [labels[row] for row in order]
    page = Page(name, "Restaurant reviews, lower case.")
    sequences(page, pipe, sentences, labels, by_word=True)
    praise, complaints = (
        [sentence for sentence, label in zip(sentences, labels, strict=True) if label == kind]
        for kind in ("praise", "complaint")
    )
    shown = complaints[-SHOWN:]
    rows: list[dict[str, Any]] = [{"complaint": sentence} for sentence in shown]
    attribute = pipe.attribute(praise, complaints[:-SHOWN])
    for probability in (0.5, 0.75, 0.9):
        out = pipe.edit_to(shown, attribute, probability, refinement_steps=10)
        for row, edit in zip(rows, out.samples, strict=True):
            row[f"praise, probability {probability:g}"] = edit
    page.table("Edits", rows, "As far as each sentence needs, by an attribute fitted to other held-out sentences.")
    page.write()


def everyday(folder: Path) -> None:
    """The gallery of everyday English."""
    pipe = load("eddpm-sentences")
    classes = ("negative review", "positive review", "user's turn", "system's turn", "caption")
    held_out = [
        (line, name)
        for label, name in enumerate(classes)
        for line in (folder / f"dev.{label}.txt").read_text(encoding="utf-8").splitlines()[:1000]
    ]
    order = torch.randperm(len(held_out), generator=seed()).tolist()
    sentences, labels = [held_out[row][0] for row in order], [held_out[row][1] for row in order]
    page = Page("eddpm-sentences", "Reviews, task dialogue and captions.")
    rows: list[dict[str, Any]] = [{} for _ in range(SHOWN)]
    for label, name in enumerate(classes):
        options = {"class_labels": label, "guidance_scale": 2.0, "num_candidates": 8}
        for row, sample in zip(rows, pipe(num_samples=SHOWN, generator=seed(), **options).samples, strict=True):
            row[name] = sample
    text = "The first of seed 0, `guidance_scale` 2, each the surest of 8 candidates."
    page.table("Samples of a class", [{"class": name, **_numbered(rows, name)} for name in classes], text)
    sequences(page, pipe, sentences, labels, by_word=True)
    one = (
        "A man is riding a bike.",
        "A woman is singing a song.",
        "A dog runs on the beach.",
        "A girl sits on a bench.",
    )
    two = (
        "Two men are riding bikes.",
        "Two women are singing.",
        "Two dogs run on the beach.",
        "Two girls sit on a bench.",
    )
    direction = pipe.direction(list(two), list(one))
    edited = [{"one": text} for text in ("A woman is reading a book.", "A boy jumps into the water.", "A cat sleeps.")]
    for scale in (1.0, 1.5, 2.0):
        options = {"direction": direction, "scale": scale, "refinement_steps": 10}
        for row, edit in zip(edited, pipe.edit([row["one"] for row in edited], **options), strict=True):
            row[f"towards two, scale {scale:g}"] = edit
    page.table("Edits", edited, "The direction comes from four pairs of sentences.")
    page.write()


def _numbered(rows: list[dict[str, Any]], name: str) -> dict[str, Any]:
    return {str(number + 1): row[name] for number, row in enumerate(rows[:4])}


def calibration(uncertainty: dict[str, Any]) -> Any:
    """Draw what predicted intervals hold against what they should."""
    figure, axes = plt.subplots(figsize=(4.2, 4.0), layout="constrained")
    axes.plot([0, 1], [0, 1], color="grey", linewidth=0.8)
    for name, found in uncertainty.items():
        axes.plot(found["shares"], found["held"], marker="o", markersize=3, label=name)
    axes.set_xlabel("share that an interval should hold")
    axes.set_ylabel("share that it holds")
    axes.legend(frameon=False)
    return figure


def proteins(name: str, lead: str, table: Path, show: Callable[[str], str] = as_it_is, **reading: Any) -> None:
    """The gallery of a family of proteins."""
    pipe = load(name)
    data = load_proteins(str(table), **reading)
    order = torch.randperm(len(data.sequences), generator=seed()).tolist()
    held_out = [data.sequences[row] for row in order]
    values = [float(data.properties[row][0]) for row in order]
    page = Page(name, lead)
    sequences(page, pipe, held_out, values, False, show)
    evaluation = json.loads((CARDS / name / "evaluation.json").read_text(encoding="utf-8"))
    if "uncertainty" in evaluation:
        text = (
            "Shares of held-out measurements in the intervals that should hold them; on the diagonal, all are right."
        )
        page.picture("Calibration", "calibration", calibration(evaluation["uncertainty"]), text)
    rows = []
    for scale in (0.0, 1.0, 3.0, 10.0):
        found = pipe(num_samples=100, guidance=PropertyGuidance("higher", scale=scale), generator=seed()).samples
        mean = float(pipe.predict(found).mean())
        rows.append({"scale": f"{scale:g}", "mean prediction": f"{mean:.2f}", "the first": show(found[0])})
    text = "A hundred samples of seed 0, and what the model's own head says of them."
    page.table("Towards a higher value, from weak to strong", rows, text)
    low = [row for row, value in enumerate(values) if value < sorted(values)[len(values) // 2]][:SHOWN]
    better = pipe.optimize([held_out[row] for row in low], method="guided", max_mutations=3, generator=seed())
    page.table(
        "Optimised, at most three mutations",
        [
            {
                "start": show(held_out[row]),
                "measured": f"{values[row]:.2f}",
                "found": show(found),
                "predicted": f"{float(value[0]):.2f}",
            }
            for row, found, value in zip(low, better.samples, better.predictions, strict=True)
        ],
        "What is predicted is the model's own opinion of what it found.",
    )
    page.write()


def own_noise(pipe: EDDPMPipeline) -> dict[str, bool]:
    """Say what keeps of an image what its latents do not; a decoder in one pass has no such thing."""
    return {"invert_noise": True} if pipe.decoder_scheduler is not None else {}


def images_control(
    page: Page,
    pipe: EDDPMPipeline,
    pictures: list[Image.Image],
    labels: list[int],
    scale: int,
    class_names: Sequence[str],
) -> None:
    """Add edits, traversals, neighbours and scores of images."""
    one, two = (
        [picture for picture, label in zip(pictures, labels, strict=True) if label == kind][:200] for kind in (7, 9)
    )
    direction = pipe.direction(two, one)
    shown = one[-SHOWN:]
    rows = [shown]
    for strength in (0.5, 1.0, 1.5):
        rows.append(pipe.edit(shown, direction=direction, scale=strength, **own_noise(pipe)))
    text = f"From {class_names[7]} to {class_names[9]}: originals, then scales 0.5, 1 and 1.5 along the direction."
    page.picture("Edits", "edits", plot_grid(rows, scale=scale), text)
    directions = pipe.directions(pictures[:MAPPED], num_directions=4)
    walks = pipe.traverse(pictures[0], directions, **own_noise(pipe))[0]
    text = (
        "One image moved along the four directions in which the latents vary most, from -3 to 3 standard deviations."
    )
    page.picture("Traversals", "traversals", plot_grid(walks, scale=scale), text)
    a, b = (
        torch.nn.functional.normalize(pipe.encode(each).embeddings, dim=1)
        for each in (pictures[:SHOWN], pictures[SHOWN:])
    )
    order = (a @ b.T).argsort(1, descending=True)[:, :4].tolist()
    columns = [[pictures[place], *(pictures[SHOWN + found] for found in order[place])] for place in range(SHOWN)]
    text = "In each row an image, then the four whose latents are nearest."
    page.picture("Nearest neighbours", "neighbours", plot_grid(columns, scale=scale), text)
    few = pictures[:100]
    upside_down = [picture.transpose(Image.Transpose.FLIP_TOP_BOTTOM) for picture in few]
    kinds = {"held-out data": few, "samples": pipe(100, generator=seed()).samples, "upside down": upside_down}
    scores = {name: pipe.score(data, num_timesteps=8, generator=seed()).reconstruction for name, data in kinds.items()}
    figure = plot_scores(scores, label="reconstruction term of the bound, nats")
    page.picture("Scores", "scores", figure, "Fewer nats: the model restores it more easily.")


def images(name: str, lead: str, data: ImageData, scale: int, class_names: Sequence[str]) -> None:
    """The gallery of an image checkpoint."""
    pipe = load(name)
    pictures = [Image.fromarray(image[..., 0] if image.shape[2] == 1 else image) for image in data.images]
    labels = data.labels("label").tolist()
    order = torch.randperm(len(pictures), generator=seed()).tolist()
    pictures, labels = [pictures[row] for row in order], [labels[row] for row in order]
    page = Page(name, lead)
    samples = pipe(num_samples=100, generator=seed()).samples
    page.picture("Samples", "samples", plot_grid(samples, num_columns=20, scale=scale), "A hundred of seed 0.", False)
    originals = pictures[:16]
    rows = [originals, pipe.reconstruct(originals, **({"generator": seed()} if own_noise(pipe) else {}))]
    text = "Originals; decoded from the latents."
    if own_noise(pipe):
        rows.append(pipe.reconstruct(originals, **own_noise(pipe)))
        text = (
            "Originals; decoded from the latents and fresh noise; decoded from the latents and the images' own noise."
        )
    page.picture("Reconstructions", "reconstructions", plot_grid(rows, scale=scale), text, False)
    firsts = [labels.index(label) for label in range(len(class_names))]
    pairs = list(zip(firsts, firsts[1:], strict=False))[::2]
    paths = pipe.interpolate(
        [pictures[a] for a, _ in pairs],
        [pictures[b] for _, b in pairs],
        num_steps=9,
        space="latents",
        **own_noise(pipe),
    )
    page.picture("From one to another", "interpolation", plot_grid(paths, scale=scale), in_card=False)
    rows = [
        pipe(
            num_samples=len(class_names),
            class_labels=list(range(len(class_names))),
            guidance_scale=weight,
            generator=seed(),
        ).samples
        for weight in (0.0, 1.0, 2.0, 4.0)
    ]
    text = f"Asked for {', '.join(class_names)}; `guidance_scale` 0, 1, 2, 4 from top to bottom, the same noise."
    page.picture("Classes, from no guidance to strong", "guidance", plot_grid(rows, scale=scale), text, False)
    images_control(page, pipe, pictures, labels, scale, class_names)
    latents = pipe.encode(pictures[:MAPPED]).latents
    figure = plot_latents(latents, [class_names[label] for label in labels[:MAPPED]])
    page.picture("A map of the latents", "latents", figure, "Data in the plane in which they vary most.")
    page.write()


def faces(folder: Path) -> None:
    """The gallery of the checkpoint of faces. It shows no face of the data, whose pictures may not be published."""
    pipe = load("eddpm-faces64")
    data = load_images(str(folder / "validation.parquet"))
    people = [Image.fromarray(image) for image in data.images]
    ages = data.attribute("age")
    lead = "Faces of 64 x 64 pixels. All faces on this page are generated; nobody looks like this."
    page = Page("eddpm-faces64", lead)
    samples = pipe(num_samples=100, generator=seed()).samples
    page.picture("Samples", "samples", plot_grid(samples, num_columns=10), "A hundred of seed 0.")
    made = pipe(num_samples=20, generator=seed(1)).samples
    again = pipe.reconstruct(made)
    text = "Generated faces; below each what the model makes of it when it encodes and decodes it once more."
    page.picture("Reconstructions", "reconstructions", plot_grid([made[:10], again[:10]]), text)
    paths = pipe.interpolate(made[:5], made[5:10], num_steps=9, space="latents")
    page.picture("From one to another", "interpolation", plot_grid(paths), in_card=False)
    latents = pipe.encode(people).latents
    shown = made[:SHOWN]
    old, grown, young = (
        [person for person, fits in zip(people, fitting, strict=True) if fits]
        for fitting in (ages >= OLD, (ages >= 20) & (ages < 35), ages <= YOUNG)
    )
    older, younger = pipe.direction(old, grown), pipe.direction(young, grown)
    rows = [
        pipe.edit(shown, direction=younger, scale=2.0),
        pipe.edit(shown, direction=younger, scale=1.0),
        shown,
        pipe.edit(shown, direction=older, scale=1.0),
        pipe.edit(shown, direction=older, scale=2.0),
    ]
    text = (
        f"Generated faces in the middle; above moved towards ages of at most {YOUNG} years, below towards {OLD} and "
        "more, by the difference of mean latents, and by twice that."
    )
    page.picture("Age", "edits", plot_grid(rows), text)
    smile = pipe.direction(*labelled_faces(str(folder / "train.parquet")))
    rows = [pipe.edit(shown, direction=smile, scale=scale) for scale in (-1.5, -0.75, 0.0, 0.75, 1.5)]
    text = (
        "Generated faces in the middle; above moved away from a smile, below towards it, by 0.75 and 1.5 times the "
        "difference of the mean latents of 117 faces that smile and 121 that do not."
    )
    page.picture("A smile", "smile", plot_grid(rows), text)
    directions = pipe.directions(people, num_directions=6)
    walks = pipe.traverse(made[1], directions)[0]
    text = "One face moved along the six directions in which the latents vary most, from -3 to 3 standard deviations."
    page.picture("Traversals", "traversals", plot_grid(walks), text)
    groups = ["child" if age < 13 else "young" if age < 40 else "older" for age in ages]
    figure = plot_latents(latents[:MAPPED], groups[:MAPPED])
    page.picture("A map of the latents", "latents", figure, "Held-out faces in the plane in which they vary most.")
    page.write()


def main(words: Sequence[str] | None = None) -> None:
    """Writes the pages of the checkpoints whose data are named."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("sentences", "yelp", "gifford", "gfp", "gb1", "fashion", "faces", "cifar10"):
        parser.add_argument(f"--{name}", type=Path, help="folder of its data")
    arguments = parser.parse_args(words)
    digits = load_images(DIGITS)
    jobs: list[Callable[[], None]] = [
        lambda: images("eddpm-digits", "Handwritten digits of 8 x 8 pixels.", digits, 5, [str(n) for n in range(10)])
    ]
    if arguments.sentences:
        jobs.append(lambda: everyday(arguments.sentences))
    if arguments.yelp:
        jobs += [partial(yelp, name, arguments.yelp) for name in ("eddpm-yelp", "eddpm-yelp-mini")]
    if arguments.gifford:
        table, columns = arguments.gifford / "validation.csv.gz", ["fitness"]
        lead = "Antibody loops (CDR-H3)."
        jobs.append(lambda: proteins("eddpm-gifford", lead, table, property_columns=columns, padding_symbol="J"))
    if arguments.gfp:
        variants, lead_gfp = arguments.gfp / "validation.csv.gz", "Variants of green fluorescent protein."
        wild_type = load_proteins(str(arguments.gfp / "wild_type.csv.gz")).sequences[0]
        changes = changes_from(wild_type)
        jobs.append(lambda: proteins("eddpm-gfp", lead_gfp, variants, changes, property_columns=["fitness"]))
    if arguments.gb1:
        domain, lead_gb1 = arguments.gb1 / "validation.csv.gz", "Variants of protein G's domain B1 at four sites."
        jobs.append(lambda: proteins("eddpm-gb1", lead_gb1, domain, changes_from(GB1), property_columns=["fitness"]))
    if arguments.fashion:
        clothes = ["T-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot"]
        data = load_images(str(arguments.fashion / "train-images-idx3-ubyte.gz"))
        held_out = data.take(slice(len(data) - 6000, None))  # as in configs/image_fashion.json
        jobs.append(lambda: images("eddpm-fashion", "Clothes of 28 x 28 pixels.", held_out, 2, clothes))
    if arguments.faces:
        jobs.append(lambda: faces(arguments.faces))
    if arguments.cifar10:
        things = ["plane", "car", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "lorry"]
        shown = load_images(str(arguments.cifar10 / "validation.parquet"))
        jobs.append(lambda: images("eddpm-cifar10", "Colour pictures of 32 x 32 pixels.", shown, 2, things))
    for job in jobs:
        job()


if __name__ == "__main__":
    main()
