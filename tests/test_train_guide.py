import json

import pytest
import torch
from conftest import SENTENCES
from proteins import PROTEINS, tiny_protein_pipe

import train_guide
from hf_eddpm import ClassifierGuidance, LatentGuide
from train_guide import GuideArguments

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


def test_a_guide_learns_classes_that_the_latents_hold(model):
    means = torch.randn(200, 2, 8) * 0.1
    classes = torch.arange(200) % 2
    means[:, 0, 0] += 2.0 * classes - 1.0
    guide = LatentGuide.for_model(model, 2, hidden_size=32, num_layers=1)
    args = GuideArguments("", [], [], "", num_steps=150, batch_size=128, learning_rate=1e-2)
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
