import numpy as np
import pytest
from proteins import PROTEINS, tiny_protein_pipe

import control.protein as evaluate_protein_control
from control.protein import ProteinControlArguments, identity
from hf_eddpm.modalities.protein.residues import RESIDUES


@pytest.fixture
def words(tmp_path):
    rng = np.random.default_rng(0)
    rows = ["".join(rng.choice(list(RESIDUES[:20]), 8)) for _ in range(40)]
    table = ["sequence,fitness", *(f"{row},{row.count('A') + 0.1 * rng.random()}" for row in rows)]
    (tmp_path / "data.csv").write_text("\n".join(table) + "\n")
    tiny_protein_pipe().save_pretrained(tmp_path / "checkpoint")
    quick = [
        "--num",
        "6",
        "--num_epochs",
        "1",
        "--oracle_members",
        "2",
        "--scales",
        "0",
        "2",
        "--strengths",
        "0.1",
        "0.9",
    ]
    data = ["--train", f"{tmp_path}/data.csv", "--dev", f"{tmp_path}/data.csv"]
    return ["--checkpoint", f"{tmp_path}/checkpoint", *data, *quick]


def test_samples_and_edits_are_judged_and_what_is_left_of_the_content_measured(words, tmp_path, capsys):
    result = evaluate_protein_control.main([*words, "--output", f"{tmp_path}/control.json"])
    assert list(result["samples"]) == ["real", "0", "2"]
    guided = [f"strength {strength}, guided at scale 10" for strength in ("0.1", "0.9")]
    assert list(result["edits"]) == ["none (reconstruction)", "strength 0.1", "strength 0.9", *guided]
    for row in result["edits"].values():
        assert 0 <= row["identity"] <= 1 and row["edit distance"] >= 0 and 0 <= row["improved"] <= row["valid"]
    assert (tmp_path / "control.json").is_file() and str(tmp_path) not in result["command"]
    assert "| guidance scale |" in capsys.readouterr().out


def test_identity_is_the_share_of_equal_sites():
    assert identity("ACDE", "ACDF") == 0.75 and identity("AC", "ACDE") == 0.5 and identity("", "A") == 0
    assert identity(PROTEINS[0], PROTEINS[0]) == 1


def test_what_cannot_be_measured_is_refused(words, tmp_path):
    tiny_protein_pipe(num_properties=0).save_pretrained(tmp_path / "checkpoint")
    with pytest.raises(ValueError, match="`checkpoint` must have a property head"):
        evaluate_protein_control.main(words)
    with pytest.raises(ValueError, match="`num` must be at least 1"):
        ProteinControlArguments("", [], [], num=0)
    with pytest.raises(ValueError, match=r"`top_share` must be in \(0, 1\)"):
        ProteinControlArguments("", [], [], top_share=1.0)
