import json

import numpy as np
import pytest
import torch
from conftest import SENTENCES
from images import SIZE, random_images, tiny_image_pipe
from proteins import PROTEINS, tiny_protein_pipe

from hf_eddpm import ClassifierGuidance, EDDPMPipeline, LatentGuide
from hf_eddpm.training import train_guide
from hf_eddpm.training.options import ColumnArguments, GuideArguments, ImageDataArguments
from hf_eddpm.training.raw_data import load_raw_data
from hf_eddpm.training.train_image import load_data

POSITIVE, NEGATIVE = SENTENCES[::2], SENTENCES[1::2]
QUICK = ["--num_steps", "3", "--batch_size", "4", "--hidden_size", "16"]


@pytest.fixture
def labelled(tmp_path):
    for name, rows in (("0", NEGATIVE), ("1", POSITIVE)):
        (tmp_path / f"{name}.txt").write_text("\n".join(rows) + "\n")
    return [f"{tmp_path}/0.txt=0", f"{tmp_path}/1.txt=1"]


@pytest.fixture
def checkpoint(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "checkpoint")
    return str(tmp_path / "checkpoint")


def test_a_guide_of_labelled_sentences_guides_its_checkpoint(pipe, checkpoint, labelled, tmp_path):
    words = ["--checkpoint", checkpoint, "--train", *labelled, "--dev", *labelled, "--class_names", "bad", "good"]
    folder = train_guide.main([*words, *QUICK, "--output_dir", str(tmp_path / "guide")])
    guide = LatentGuide.from_pretrained(folder)
    assert guide.config.num_train_steps == 3 and list(guide.config.class_names) == ["bad", "good"]
    assert len(pipe(2, 2, guidance=ClassifierGuidance(guide, [0, 1], 2.0)).samples) == 2
    facts = json.loads((folder / "training.json").read_text())
    assert facts["num_train"] == 8 and facts["largest_class"] == 0.5
    assert list(facts["accuracy"]) == ["0", "199", "399", "599", "799", "999"]
    card = (folder / "README.md").read_text()
    assert "0: bad, 1: good" in card and str(tmp_path) not in card


def test_a_property_has_the_classes_that_thresholds_make(tmp_path):
    tiny_protein_pipe().save_pretrained(tmp_path / "checkpoint")
    rows = [f"{protein},{value}" for protein, value in zip(PROTEINS, ("0.1", "", "2.5", "0.5", "9"), strict=True)]
    (tmp_path / "table.csv").write_text("\n".join(["sequence,fitness", *rows]) + "\n")
    table = str(tmp_path / "table.csv")
    words = ["--checkpoint", str(tmp_path / "checkpoint"), "--train", table, "--dev", table, *QUICK]
    thresholds = ["--property_columns", "fitness", "--thresholds", "0.3", "3"]
    folder = train_guide.main([*words, *thresholds, "--output_dir", str(tmp_path / "guide")])
    facts = json.loads((folder / "training.json").read_text())
    assert facts["num_classes"] == 3 and facts["num_train"] == 4 and facts["largest_class"] == 0.5
    with pytest.raises(ValueError, match="Classes are needed"):
        train_guide.main([*words, "--output_dir", str(tmp_path / "other")])


def test_sentences_without_labels_have_the_classes_of_their_lengths(checkpoint, labelled, tmp_path):
    files = [file.removesuffix(f"={label}") for label, file in enumerate(labelled)]
    words = ["--checkpoint", checkpoint, *QUICK, "--thresholds", "3", "5", "--output_dir", str(tmp_path / "guide")]
    folder = train_guide.main([*words, "--train", *files, "--dev", *files])
    lengths = torch.tensor([len(text.split()) for text in SENTENCES])
    counts = torch.stack([lengths <= 3, (lengths > 3) & (lengths <= 5), lengths > 5]).sum(1)
    facts = json.loads((folder / "training.json").read_text())
    assert facts["num_classes"] == 3 and facts["largest_class"] == float(counts.max()) / len(SENTENCES)
    with pytest.raises(ValueError, match="`thresholds` make classes of their own"):
        train_guide.main([*words, "--train", *labelled, "--dev", *labelled])


@pytest.fixture
def image_words(tmp_path):
    """A checkpoint of images and 20 of them, of four classes that follow one another, with a factor 0 to 4."""
    tiny_image_pipe().save_pretrained(tmp_path / "checkpoint")
    images = np.stack([np.asarray(image) for image in random_images(20)])
    arrays = {"images": images, "labels": np.arange(20) // 5, "factors": np.arange(20)[:, None] % 5}
    np.savez(tmp_path / "data.npz", **arrays)
    words = ["--checkpoint", str(tmp_path / "checkpoint"), "--train", str(tmp_path / "data.npz"), *QUICK]
    return [*words, "--output_dir", str(tmp_path / "guide")]


def test_a_guide_of_image_classes_guides_its_checkpoint(image_words, tmp_path):
    folder = train_guide.main([*image_words, "--label_column", "label", "--dev_last", "8"])
    facts = json.loads((folder / "training.json").read_text())
    assert (facts["num_train"], facts["num_dev"]) == (12, 8) and facts["largest_class"] == 5 / 8
    pipe = EDDPMPipeline.from_pretrained(tmp_path / "checkpoint")
    pipe.set_progress_bar_config(disable=True)
    guidance = ClassifierGuidance(LatentGuide.from_pretrained(folder), [0, 2], 2.0)
    images = pipe(2, 2, guidance=guidance, num_decoder_steps=2, output_type="np").samples
    assert images.shape == (2, SIZE, SIZE, 1)
    with pytest.raises(ValueError, match="`dev_last` must be in"):
        train_guide.main([*image_words, "--label_column", "label", "--dev_last", "20"])


def test_what_is_held_out_is_what_the_training_of_images_holds_out(image_words, tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr(train_guide, "find_classes", lambda data, *_: seen.append(data) or torch.arange(len(data)) % 2)
    train_guide.main([*image_words, "--label_column", "label", "--dev_fraction", "0.3", "--seed", "5"])
    source = ImageDataArguments(train=[str(tmp_path / "data.npz")], dev_fraction=0.3)
    for ours, theirs in zip(seen, load_data(source, seed=5), strict=True):
        np.testing.assert_array_equal(np.stack(ours.items), theirs.images)
        assert ours.labels == theirs.labels("label").tolist()


def test_an_attribute_of_images_has_the_classes_that_thresholds_make(image_words):
    thresholds = ["--property_columns", "factor_0", "--thresholds", "0", "2"]
    facts = json.loads((train_guide.main([*image_words, *thresholds]) / "training.json").read_text())
    assert facts["num_classes"] == 3 and facts["num_train"] == 18
    with pytest.raises(ValueError, match="`label_column` 'colour' is no attribute"):
        train_guide.main([*image_words, "--label_column", "colour"])


def test_scripts_that_take_no_images_say_so(tmp_path):
    with pytest.raises(ValueError, match="text and proteins, and the checkpoint's modality is 'image'"):
        load_raw_data(tiny_image_pipe(), ["digits"], ColumnArguments())


def test_a_guide_learns_classes_that_the_latents_hold(model):
    means = torch.randn(200, 2, 8) * 0.1
    classes = torch.arange(200) % 2
    means[:, 0, 0] += 2.0 * classes - 1.0
    guide = LatentGuide.for_model(model, 2, hidden_size=32, num_layers=1)
    args = GuideArguments("", [], "", num_steps=150, batch_size=128, learning_rate=1e-2)
    train_guide.train_guide(guide, model, means, classes, args)
    accuracy = train_guide.measure_accuracy(guide, model, means, classes, args)
    assert accuracy["0"] > 0.97 and accuracy["999"] < 0.75  # nothing is left of the latents there


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--num_steps", "0"], "`num_steps` must be at least 1"),
        (["--thresholds", "1", "0"], "`thresholds` must ascend"),
        (["--class_names", "one"], "`class_names` must name the 2 classes"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(checkpoint, labelled, tmp_path, words, message):
    given = ["--checkpoint", checkpoint, "--train", *labelled, "--dev", *labelled]
    with pytest.raises(ValueError, match=message):
        train_guide.main([*given, *QUICK, *words, "--output_dir", str(tmp_path / "guide")])
