"""Samplers by how they read and what spread they keep."""

import json

from conftest import SENTENCES

import schedulers.page as page
import schedulers.samplers as samplers


def _row(perplexity, reverse_perplexity, std):
    values = {"perplexity": perplexity, "reverse_perplexity": reverse_perplexity, "std": std}
    return {"real_std": 1.0} | {name: {"mean": value} for name, value in values.items()}


def test_the_most_fluent_sampler_that_keeps_the_spread_is_chosen():
    fluent, spread, best, far = _row(50, 190, 0.8), _row(90, 160, 0.97), _row(80, 165, 1.02), _row(60, 150, 1.2)
    assert samplers.choose([fluent, spread, best]) is best
    assert samplers.choose([fluent, best, far]) is best  # none keeps both: the nearest in standard deviation
    assert samplers.choose([fluent, spread, _row(70, 200, 1.0)]) is spread


def test_a_checkpoints_samplers_are_measured_and_the_table_names_one(make_pipe, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(samplers, "SETTINGS", (("DDIM", 2, 1.0), (samplers.DPM, 2, 0.9), ("ancestral", 3, 1.0)))
    make_pipe().save_pretrained(tmp_path / "tiny")
    (tmp_path / "train.txt").write_text("\n".join(SENTENCES) + "\n")
    (tmp_path / "dev.txt").write_text("\n".join(f"{sentence} again" for sentence in SENTENCES) + "\n")
    words = [str(tmp_path / "tiny"), "--train", str(tmp_path / "train.txt"), "--dev", str(tmp_path / "dev.txt")]
    samplers.main([*words, "--num_samples", "4", "--output", str(tmp_path / "out.json")])
    result = json.loads((tmp_path / "out.json").read_text())
    assert len(result["rows"]) == 3 and result["chosen"]["steps"] in (2, 3) and result["real"]["std"] > 0
    table = (tmp_path / "out.md").read_text()
    assert table.count("**ancestral**") + table.count("**DDIM**") + table.count(f"**{samplers.DPM}**") == 1
    assert "real sentences" in table


def test_the_page_holds_what_was_measured():
    text = page.PAGE.read_text()
    assert page.rewrite(text) == text, "run `python training/studies/schedulers/page.py`"
