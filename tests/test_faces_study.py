"""The studies of faces: their measures, and the sentences that the documents say of them."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from control.smile import LABELS, sides
from faces.identity import compare, expression_distance, nearest, principal

ROOT = Path(__file__).parent.parent
STUDIES = ROOT / "training" / "studies"
PAGE = (ROOT / "docs" / "benchmarks" / "image-control.md").read_text(encoding="utf-8")


@pytest.fixture
def landmarks():
    return np.random.default_rng(0).uniform(0, 64, (68, 2))


def test_an_expression_is_what_differs_when_faces_are_laid_over_each_other(landmarks):
    angle = 0.3
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    assert expression_distance(landmarks, 1.2 * landmarks @ turn + [3, -5]) == pytest.approx(0, abs=1e-9)
    smiling = landmarks.copy()
    smiling[48:68, 1] += 3
    assert expression_distance(landmarks, smiling) > 0.5


def test_the_nearest_of_a_pool_is_the_picture_itself_if_it_is_there():
    pictures = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    np.testing.assert_array_equal(nearest(pictures[:2], pictures), pictures[:2])
    expected = [
        np.square(pictures[1:].astype(int) - picture.astype(int)).reshape(5, -1).sum(1).argmin()
        for picture in pictures[:1]
    ]
    np.testing.assert_array_equal(nearest(pictures[:1], pictures[1:]), pictures[1:][expected])


def test_as_many_principal_components_as_pictures_lose_nothing():
    pictures = np.random.default_rng(0).integers(0, 256, (9, 4, 4, 3), dtype=np.uint8)
    np.testing.assert_allclose(principal(pictures, pictures, 8).astype(int), pictures, atol=1)


def test_faces_compared_with_themselves_are_the_same(landmarks):
    class Judge:
        def look(self, pictures):
            return descriptors[: len(pictures)], np.stack([landmarks] * len(pictures))

    descriptors = np.eye(4)
    pictures = np.zeros((4, 8, 8, 3), dtype=np.uint8)
    found = compare(Judge(), Judge().look(pictures), pictures)
    expected = {"distance": 0, "same_person": 1, "cosine": 1, "found": 1, "landmarks": 0, "expression": 0}
    assert found == pytest.approx(expected, abs=1e-9)


def test_smiles_are_labelled_in_the_order_of_the_images():
    labels = "".join(LABELS.read_text(encoding="utf-8").split())
    assert set(labels) == {"0", "1", "-"} and len(labels) == 300
    images = [Image.new("L", (1, 1), number % 256) for number in range(300)]
    smiling, at_rest = sides(images)
    assert smiling == [image for image, label in zip(images, labels, strict=True) if label == "1"]
    assert at_rest == [image for image, label in zip(images, labels, strict=True) if label == "0"]


@pytest.mark.parametrize("table", ["control/results/smile.md", "faces/results/identity.md"])
def test_the_tables_of_the_page_are_what_was_measured(table):
    assert (STUDIES / table).read_text(encoding="utf-8").strip() in PAGE


def test_the_gallery_says_how_many_faces_smile():
    sizes = json.loads((STUDIES / "control" / "results" / "smile.json").read_text(encoding="utf-8"))
    for page in ("docs/gallery/eddpm-faces64.md", "model_cards/eddpm-faces64/README.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        found = re.search(r"latents of (\d+) faces that smile and (\d+) that do not", text)
        assert found and [int(number) for number in found.groups()] == [sizes["smiling"], sizes["at_rest"]]
