import pytest
from conftest import SENTENCES

import control.composition as evaluate_composition
from control.composition import CompositionArguments, length_class
from hf_eddpm import LatentGuide


def _guide(model, num_classes, folder):
    guide = LatentGuide.for_model(model, num_classes, hidden_size=16)
    guide.register_to_config(num_train_steps=1)
    guide.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def words(pipe, tmp_path):
    for label in (0, 1):
        (tmp_path / f"{label}.txt").write_text("\n".join([f"{text} {label}" for text in SENTENCES] * 2))
    files = [f"{tmp_path}/0.txt=0", f"{tmp_path}/1.txt=1"]
    pipe.save_pretrained(tmp_path / "checkpoint")
    guides = ["--sentiment", _guide(pipe.model, 2, tmp_path / "a"), "--length", _guide(pipe.model, 3, tmp_path / "b")]
    quick = ["--num", "3", "--scales", "2", "--ode_steps", "2"]
    return ["--checkpoint", f"{tmp_path}/checkpoint", *guides, "--train", *files, "--dev", *files, *quick]


def test_every_combination_is_judged_alone_and_jointly(words, tmp_path, capsys):
    output = tmp_path / "composition.json"
    result = evaluate_composition.main([*words, "--thresholds", "3", "5", "--output", str(output)])
    assert list(result["rows"]) == ["none", "sentiment, scale 2", "length, scale 2", "both, scale 2"] + [
        "both by the ODE, scale 1"
    ]
    assert len(result["combinations"]) == 6 and output.is_file() and str(tmp_path) not in result["command"]
    for row in result["rows"].values():
        assert row["both"] <= min(row["sentiment"], row["length"])
    # each sample has one sentiment of two and one length of three
    none = result["rows"]["none"]
    assert (none["sentiment"], none["length"], none["both"]) == pytest.approx((1 / 2, 1 / 3, 1 / 6))
    assert "| real sentences |" in capsys.readouterr().out


def test_a_length_has_the_class_of_the_guides_thresholds():
    assert length_class(["a b c", "a b c d", "a b c d e f"], [3, 5]).tolist() == [0, 1, 2]


def test_thresholds_that_are_not_the_guides_are_refused(words):
    with pytest.raises(ValueError, match="`thresholds` must be those of the length guide's 3 classes"):
        evaluate_composition.main([*words, "--thresholds", "3"])
    for values in ([], [5.0, 3.0]):
        with pytest.raises(ValueError, match="`thresholds` must be ascending"):
            CompositionArguments("", "", "", values, [], [])
    with pytest.raises(ValueError, match="`num` must be at least 1"):
        CompositionArguments("", "", "", [3.0], [], [], num=0)
