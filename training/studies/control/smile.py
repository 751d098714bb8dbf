"""A smile: do the latents of faces tell it?

    python training/studies/control/smile.py --checkpoint model_cards/eddpm-faces64 --train $UTKFACE/train.parquet \\
        --output training/studies/control/results/smile.json

The data have no such label. `smiles.txt` says of their first 300 images whether teeth show in a smile (1), the mouth
is at rest (0) or it is something else or in between (-), as one looker saw it. A logistic regression on the latents,
and one on principal components of the pixels, are judged by cross-validation, their regularisation chosen within each
fold. `docs/figures/gallery.py` moves generated faces by the difference of the mean latents of the two.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.linear_model import LogisticRegressionCV
from sklearn.metrics import accuracy_score, roc_auc_score
from sklearn.model_selection import cross_val_predict
from sklearn.pipeline import make_pipeline

from hf_eddpm import EDDPMPipeline
from hf_eddpm.hub.card import markdown_table
from hf_eddpm.modalities.image.data import load_images
from hf_eddpm.training.environment import describe_command
from hf_eddpm.training.evaluation import finish_result

LABELS = Path(__file__).resolve().parent / "smiles.txt"
NUM_LABELLED = 300
FOLDS = 10


def sides(images: Sequence[Image.Image]) -> tuple[list[Image.Image], list[Image.Image]]:
    """Return the faces that smile and those that do not, of the data's images in their order."""
    labels = "".join(LABELS.read_text(encoding="utf-8").split())
    named = list(zip(images, labels, strict=False))
    return [face for face, label in named if label == "1"], [face for face, label in named if label == "0"]


def labelled_faces(path: str) -> tuple[list[Image.Image], list[Image.Image]]:
    """Return the same of a file of the data's training images."""
    return sides([Image.fromarray(image) for image in load_images(path).images[:NUM_LABELLED]])


def probe(features: np.ndarray, labels: np.ndarray, num_components: int | None = None) -> dict[str, float]:
    """Return how well a linear classifier of features `(num, size)` tells labels, on faces it has not seen."""
    classifier = LogisticRegressionCV(
        Cs=np.logspace(-3, 0, 7), cv=5, scoring="neg_log_loss", l1_ratios=(0.0,), use_legacy_attributes=False
    )
    steps = classifier if num_components is None else make_pipeline(PCA(num_components, random_state=0), classifier)
    scores = cross_val_predict(steps, features, labels, cv=FOLDS, method="decision_function")
    return {"auroc": float(roc_auc_score(labels, scores)), "accuracy": float(accuracy_score(labels, scores > 0))}


def main(words: Sequence[str] | None = None) -> None:
    """Writes the JSON and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="folder or Hub id of the pipeline")
    parser.add_argument("--train", required=True, help="training images, of which the first 300 are labelled")
    parser.add_argument("--output", type=Path, required=True, help="JSON file; the table goes beside it")
    words = sys.argv[1:] if words is None else list(words)
    arguments, start = parser.parse_args(words), time.perf_counter()
    pipe = EDDPMPipeline.from_pretrained(arguments.checkpoint)
    pipe.set_progress_bar_config(disable=True)
    smiling, at_rest = labelled_faces(arguments.train)
    faces = smiling + at_rest
    labels = np.array([1] * len(smiling) + [0] * len(at_rest))
    order = np.random.default_rng(0).permutation(len(labels))
    latents = pipe.encode(faces).latents.flatten(1).numpy()
    pixels = np.stack([np.asarray(face, dtype=np.float32).ravel() / 255 for face in faces])
    components = min(latents.shape[1], len(labels) * (FOLDS - 1) // FOLDS * 4 // 5)
    found = {
        "latents": probe(latents[order], labels[order]),
        "principal components": probe(pixels[order], labels[order], components),
    }
    command = describe_command("training/studies/control/smile.py", words)
    table = markdown_table(
        [{"features": name} | {key: f"{value:.3f}" for key, value in row.items()} for name, row in found.items()]
    )
    sizes = {"smiling": len(smiling), "at_rest": len(at_rest), "components": components}
    finish_result({"command": command, **sizes, "probes": found}, start, arguments.output, table)
    print(table)


if __name__ == "__main__":
    main()
