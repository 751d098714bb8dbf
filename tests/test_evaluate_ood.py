import math

import pytest
import torch
from conftest import SENTENCES
from proteins import PROTEINS, tiny_protein_pipe

import ood.run as evaluate_ood
from hf_eddpm import EDDPMScore
from ood.run import OodArguments, evaluate, statistics_of


def test_the_statistics_are_the_scores_own(pipe):
    score = pipe.score(SENTENCES, 4)
    values = statistics_of(score)
    torch.testing.assert_close(values["chain"] + values["reconstruction"], score.bound)
    units = values["reconstruction"] / values["reconstruction per unit"]
    torch.testing.assert_close(units, units.round(), atol=1e-3, rtol=0)


def test_areas_are_1_for_data_that_all_score_worse_and_half_for_the_same(pipe, monkeypatch):
    def score(items, **_):
        terms = torch.tensor([float(item) for item in items])
        units = torch.full_like(terms, 3 / math.log(2))
        return EDDPMScore(terms, terms, terms * 0, terms * 0, terms * 0, terms / 3, units)

    monkeypatch.setattr(pipe, "score", score)
    foreign = {"same": ["1", "2", "3"], "worse": ["4", "5"], "mixed": ["0.5", "4"]}
    result = evaluate(pipe, ["1", "2", "3"], foreign, OodArguments("", [], []))
    assert [result[kind]["auroc"]["bound"] for kind in foreign] == [0.5, 1.0, 0.5]


def test_the_script_reads_both_modalities_and_writes_json(pipe, tmp_path, capsys):
    (tmp_path / "own.txt").write_text("\n".join(SENTENCES))
    (tmp_path / "other.txt").write_text("a b\nc d e\n")
    pipe.save_pretrained(tmp_path / "text")
    words = ["--own", f"{tmp_path}/own.txt", "--foreign", f"{tmp_path}/other.txt", "shuffled"]
    words += ["--num_timesteps", "2", "--output", f"{tmp_path}/ood.json"]
    result = evaluate_ood.main(["--checkpoint", f"{tmp_path}/text", *words])
    assert set(result["scores"]) == {"own", "other.txt", "shuffled"} and (tmp_path / "ood.json").is_file()
    assert str(tmp_path) not in result["command"] and "| shuffled |" in capsys.readouterr().out

    tiny_protein_pipe().save_pretrained(tmp_path / "protein")
    (tmp_path / "own.csv").write_text("\n".join(["sequence", *PROTEINS]))
    words = ["--own", f"{tmp_path}/own.csv", "--foreign", "shuffled", "--num_timesteps", "2", "--num", "4"]
    assert evaluate_ood.main(["--checkpoint", f"{tmp_path}/protein", *words])["scores"]["shuffled"]["num"] == 4


@pytest.mark.parametrize(("name", "values"), [("num", {"num": 1}), ("foreign_names", {"foreign": ["a.txt", "a.txt"]})])
def test_arguments_that_make_no_sense_are_refused(name, values):
    with pytest.raises(ValueError, match=f"`{name}`"):
        OodArguments(**{"checkpoint": "", "own": [], "foreign": [], **values})
