import pytest
from conftest import SENTENCES

import control.text as evaluate_control
from control.text import ControlArguments, evaluate
from hf_eddpm import LatentGuide
from hf_eddpm.modalities.text.data import TextData


@pytest.fixture
def guide(model):
    guide = LatentGuide.for_model(model, 2, hidden_size=16)
    guide.register_to_config(num_train_steps=1)
    return guide.eval()


def test_the_script_measures_samples_and_edits(pipe, guide, tmp_path, capsys):
    for label in (0, 1):
        (tmp_path / f"{label}.txt").write_text("\n".join([f"{text} {label}" for text in SENTENCES] * 2))
    files = [f"{tmp_path}/0.txt=0", f"{tmp_path}/1.txt=1"]
    pipe.save_pretrained(tmp_path / "checkpoint")
    guide.save_pretrained(tmp_path / "guide")
    words = ["--checkpoint", f"{tmp_path}/checkpoint", "--guide", f"{tmp_path}/guide", "--num", "3"]
    words += ["--train", *files, "--dev", *files, "--num_inference_steps", "3", "--output", f"{tmp_path}/control.json"]
    result = evaluate_control.main([*words, "--scales", "0", "1", "--strengths", "0.5", "--direction_scales", "1"])
    assert list(result["samples"]) == ["0", "1"]
    assert list(result["edits"]) == [
        *("reconstruction", "direction, scale 1", "guided, strength 0.5"),
        *(
            f"as far as needed, {probability}{way}"
            for probability in (0.6, 0.75)
            for way in ("", ", words given back", ", words given back, best of 4")
        ),
    ]
    assert result["classifier_accuracy"] == 1 and (tmp_path / "control.json").is_file()
    assert all(-1 <= row["similarity"] <= 1 for row in result["edits"].values())
    assert "| guidance scale |" in capsys.readouterr().out
    unguided = [words[0], words[1], *words[4:]]
    result = evaluate_control.main(
        [*unguided, "--strengths", "0.5", "--probabilities", "0.6", "--num_candidates", "1"]
    )
    assert not result["samples"] and "| guidance scale |" not in capsys.readouterr().out
    assert "guided, strength 0.5" not in result["edits"]


def test_two_classes_are_needed(pipe, guide):
    data = TextData(SENTENCES, [0] * len(SENTENCES))
    with pytest.raises(ValueError, match="classes 0 and 1 are needed"):
        evaluate(pipe, guide, data, data, ControlArguments("", [], []))
    with pytest.raises(ValueError, match="`num` must be at least 1"):
        ControlArguments("", [], [], num=0)
