"""Does a reconstructed face stay the same person, with the same pose and expression?

    pip install --no-deps dlib-bin==20.0.1.post1
    pip download --no-deps --no-binary :all: face-recognition-models==0.3.0
    tar xzf face_recognition_models-0.3.0.tar.gz
    python training/studies/faces/identity.py --checkpoint model_cards/eddpm-faces64 --train $UTKFACE/train.parquet \\
        --dev $UTKFACE/validation.parquet --output training/studies/faces/results/identity.json \\
        --models face_recognition_models-0.3.0/face_recognition_models/models

The judge is dlib's: a ResNet trained on other faces, whose descriptors of one person lie within 0.6 of each other by
its author's measure (King 2017, http://blog.dlib.net/2017/02/high-quality-face-recognition-with-deep.html), and 68
landmarks (Kazemi & Sullivan 2014), here for pose (all of them) and expression (mouth, eyes and brows, once one face is
laid over the other). Every held-out face is compared with what a way makes of it: our reconstructions, as many
principal components of the training pixels as there are latents, the training face nearest in pixels, another
held-out face, and the face itself in a mirror, which is the same person by another picture.
"""

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from sklearn.decomposition import PCA

from hf_eddpm import EDDPMPipeline
from hf_eddpm.hub.card import markdown_table
from hf_eddpm.modalities.image.data import load_images
from hf_eddpm.training.environment import describe_command
from hf_eddpm.training.evaluation import finish_result

SAME = 0.6  # distance of descriptors up to which dlib's author takes two faces for one person
SIDE = 150  # pixels of the judge's pictures
BOX = (12, 18, 138, 144)  # where the aligned faces lie in them
MOVING = (*range(17, 27), *range(36, 68))  # landmarks of brows, eyes and mouth

MIRROR = "the face in a mirror"  # whose landmarks have other places

Pictures = NDArray[np.uint8]


class FaceJudge:
    """dlib's descriptor and landmarks.

    Args:
        folder: Folder of the `.dat` files.
    """

    def __init__(self, folder: Path) -> None:
        try:
            import dlib
        except ImportError as error:
            raise ImportError("This study needs dlib: `pip install --no-deps dlib-bin==20.0.1.post1`.") from error
        self.network = dlib.face_recognition_model_v1(str(folder / "dlib_face_recognition_resnet_model_v1.dat"))
        self.predictor = dlib.shape_predictor(str(folder / "shape_predictor_68_face_landmarks.dat"))
        self.box = dlib.rectangle(*BOX)

    def look(self, pictures: Pictures) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return descriptors `(num, 128)` and landmarks in pixels of the pictures, `(num, 68, 2)`."""
        descriptors, landmarks = [], []
        for picture in pictures:
            large = np.asarray(Image.fromarray(picture).resize((SIDE, SIDE), Image.Resampling.BICUBIC))
            descriptors.append(np.array(self.network.compute_face_descriptor(large)))
            points = [(point.x, point.y) for point in self.predictor(large, self.box).parts()]
            landmarks.append(np.array(points) * picture.shape[0] / SIDE)
        return np.stack(descriptors), np.stack(landmarks)


def expression_distance(ours: NDArray[np.float64], theirs: NDArray[np.float64]) -> float:
    """Return by how many pixels brows, eyes and mouth differ once one face is laid over the other (Procrustes)."""
    a, b = ours - ours.mean(0), theirs - theirs.mean(0)
    u, singular, v = np.linalg.svd(b.T @ a)
    over = b @ (u @ v) * (singular.sum() / np.square(b).sum())
    return float(np.linalg.norm(over - a, axis=1)[list(MOVING)].mean())


def nearest(pictures: Pictures, pool: Pictures) -> Pictures:
    """Return of each picture the nearest of a pool by the squared error of the pixels."""
    flat, others = (some.reshape(len(some), -1).astype(np.float32) for some in (pictures, pool))
    distances = np.square(others).sum(1)[None] - 2 * flat @ others.T
    return pool[distances.argmin(1)]


def principal(pictures: Pictures, train: Pictures, num_components: int) -> Pictures:
    """Return what so many principal components of the training pixels keep of pictures."""
    fitted = PCA(num_components, svd_solver="randomized", random_state=0).fit(train.reshape(len(train), -1) / 255.0)
    restored = fitted.inverse_transform(fitted.transform(pictures.reshape(len(pictures), -1) / 255.0))
    return (restored.reshape(pictures.shape).clip(0, 1) * 255).round().astype(np.uint8)


def compare(judge: FaceJudge, faces: tuple[NDArray[Any], NDArray[Any]], made: Pictures) -> dict[str, float]:
    """Return how near each picture is to its face, and how often to no other of the faces nearer."""
    descriptors, landmarks = judge.look(made)
    own, points = faces
    distances = np.linalg.norm(descriptors[:, None] - own[None], axis=2)  # (made, faces)
    right = distances.diagonal()
    cosine = (descriptors * own).sum(1) / np.linalg.norm(descriptors, axis=1) / np.linalg.norm(own, axis=1)
    moved = [expression_distance(one, other) for one, other in zip(points, landmarks, strict=True)]
    return {
        "distance": float(right.mean()),
        "same_person": float((right <= SAME).mean()),
        "cosine": float(cosine.mean()),
        "found": float((distances.argmin(1) == np.arange(len(made))).mean()),
        "landmarks": float(np.linalg.norm(landmarks - points, axis=2).mean()),
        "expression": float(np.mean(moved)),
    }


def main(words: Sequence[str] | None = None) -> None:
    """Writes the JSON and the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="folder or Hub id of the pipeline")
    parser.add_argument("--train", required=True, help="training images")
    parser.add_argument("--dev", required=True, help="held-out images")
    parser.add_argument("--models", type=Path, required=True, help="folder of dlib's two models")
    parser.add_argument("--output", type=Path, required=True, help="JSON file; the table goes beside it")
    parser.add_argument("--limit", type=int, help="of the held-out images, the first so many")
    words = sys.argv[1:] if words is None else list(words)
    arguments, start = parser.parse_args(words), time.perf_counter()
    pipe = EDDPMPipeline.from_pretrained(arguments.checkpoint)
    pipe.set_progress_bar_config(disable=True)
    train, dev = load_images(arguments.train).images, load_images(arguments.dev).images[: arguments.limit]
    numbers = pipe.model.config.num_latents * pipe.model.config.latent_dim

    def reconstructed(steps: int) -> Pictures:
        return np.stack([np.asarray(image) for image in pipe.reconstruct(list(dev), refinement_steps=steps)])

    ways: dict[str, Callable[[], Pictures]] = {
        "reconstruction, one pass": lambda: reconstructed(0),
        "reconstruction, 10 refinement steps": lambda: reconstructed(10),
        f"{numbers} principal components": lambda: principal(dev, train, numbers),
        "nearest training face": lambda: nearest(dev, train),
        "another held-out face": lambda: np.roll(dev, 1, axis=0),
        MIRROR: lambda: np.ascontiguousarray(dev[:, :, ::-1]),
    }
    judge = FaceJudge(arguments.models)
    faces = judge.look(dev)
    found = {name: compare(judge, faces, make()) for name, make in ways.items()}
    for measure in ("landmarks", "expression"):
        del found[MIRROR][measure]
    titles = {
        "distance": ("descriptor distance", 3),
        "same_person": ("same person", 3),
        "cosine": ("cosine", 3),
        "found": ("original is nearest", 3),
        "landmarks": ("landmarks, pixels", 2),
        "expression": ("expression, pixels", 2),
    }
    rows = [
        {"way": name} | {title: f"{row[key]:.{digits}f}" for key, (title, digits) in titles.items() if key in row}
        for name, row in found.items()
    ]
    table = markdown_table(rows)
    command = describe_command("training/studies/faces/identity.py", words)
    finish_result({"command": command, "num_faces": len(dev), "ways": found}, start, arguments.output, table)
    print(table)


if __name__ == "__main__":
    main()
