"""The speed report at tiny sizes, and its counts against known ones."""

import json
from types import SimpleNamespace

import pytest
import torch
from conftest import SENTENCES
from test_prior_baselines import TINY

import speed.text as benchmark_speed
from speed import references, roofline, steps

pytestmark = pytest.mark.usefixtures("quiet_again")


def test_operations_of_matrix_products_are_twice_their_multiplications():
    a, b, layer = torch.randn(3, 5), torch.randn(5, 7), torch.nn.Linear(5, 7)
    assert roofline.count_operations(lambda: a @ b)["total"] == 2 * 3 * 5 * 7
    counts = roofline.count_operations(lambda: layer(a).sum().backward())
    assert counts["total"] == 2 * 2 * 3 * 5 * 7  # forward, and the weight's gradient: the input needs none


def test_a_share_of_the_rate_is_operations_over_what_the_time_allows(monkeypatch):
    row = roofline.rate_row("part", operations=50, seconds=2.0, rate=100.0, total_seconds=8.0)
    assert row["share_of_time"] == 0.25 and row["share_of_rate"] == 0.25
    rate = roofline.matmul_rate(torch.float32, sizes=(64, 128), seconds=0.02)
    assert 1e8 < rate < 1e15


def test_parts_that_cannot_be_told_apart_are_refused(tmp_path):
    (tmp_path / "data.txt").write_text("\n".join(SENTENCES) + "\n")
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    args = SimpleNamespace(config=f"{tmp_path}/config.json", train=[f"{tmp_path}/data.txt"], train_steps=1)
    with pytest.raises(ValueError, match="`--config` must have an `encoder_gradient_scale` above 0"):
        benchmark_speed.measure_training(args, {"float32": 1.0})


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
def test_the_report_has_every_part(pipe, tmp_path, monkeypatch, capsys):
    pipe.save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "data.txt").write_text("\n".join(SENTENCES) + "\n")
    joint = {**TINY, "model_config": {**TINY.get("model_config", {}), "encoder_gradient_scale": 0.1}}
    (tmp_path / "config.json").write_text(json.dumps(joint))
    monkeypatch.setattr(benchmark_speed, "matmul_rate", lambda dtype: 1e12)
    data = str(tmp_path / "data.txt")
    words = ["--checkpoint", f"{tmp_path}/checkpoint", "--dev", data, "--config", f"{tmp_path}/config.json"]
    words += [
        "--train",
        data,
        "--train_steps",
        "2",
        "--vocab_sizes",
        "50",
        "--num_sentences",
        "4",
        "--num_tokens",
        "3",
    ]
    words += ["--num_layers", "1", "--hidden_size", "64", "--repeats", "1", "--num_samples", "4", "--many_steps", "3"]
    benchmark_speed.main([*words, "--few_steps", "2", "--seeds", "0", "--output", f"{tmp_path}/speed.json"])
    result = json.loads((tmp_path / "speed.json").read_text())
    encode, chain, decode, generate = result["roofline"]
    assert encode["share_of_time"] + chain["share_of_time"] + decode["share_of_time"] == pytest.approx(1)
    assert generate["operations"] == chain["operations"] + decode["operations"]
    *networks, step = result["training"]["roofline"]
    assert [row["part"].split(",")[0] for row in networks] == ["encoder", "denoiser", "decoder"]
    assert 0.9 * step["operations"] < sum(row["operations"] for row in networks) <= step["operations"]
    assert all(0 < row["share_of_rate"] < 1 for row in [*result["roofline"], *result["training"]["roofline"]])
    assert "| 4 sentences, float32 |" in capsys.readouterr().out
    assert str(tmp_path) not in result["command"]


def test_ways_of_decoding_are_compared_on_equal_tokens(monkeypatch):
    for name, value in {"SENTENCES": 2, "TOKENS": 3, "VOCABULARY": 60}.items():
        monkeypatch.setattr(references, name, value)
    result = references.measure_decoding(rounds=1)
    assert result["times the reference"]["generate, no latents"] == 1
    assert set(result["seconds"]) == set(result["times the reference"]) > {"ours", "ours, packed"}
    table = references.report({"hardware": "this", "matrix rate": 1e9, "decoding": result})
    assert table.count("| decoding |") == 4 and "1 billion operations" in table


@pytest.mark.slow
def test_steps_are_the_difference_of_two_trainings(tmp_path):
    train = tmp_path / "sentences" / "train.0.txt"
    train.parent.mkdir()
    for label in range(5):
        (train.parent / f"train.{label}.txt").write_text("\n".join(SENTENCES * 4) + "\n", encoding="utf-8")
    words = [
        "--sentences",
        str(train.parent),
        "--rounds",
        "1",
        "--steps",
        "1",
        "3",
        "--output",
        f"{tmp_path}/steps.json",
    ]
    steps.main(words)
    rows = json.loads((tmp_path / "steps.json").read_text())["rows"]
    assert [row["setting"] for row in rows] == [steps.RANDOM, steps.GROUPED]
    assert rows[0]["times_as_many"] == 1 and rows[0]["operations"] > 1e9 and "share" not in rows[1]
    before = json.loads((tmp_path / "steps.json").read_text())["rows"][1]
    steps.main(words)
    assert json.loads((tmp_path / "steps.json").read_text())["rows"][1] == before  # not measured again
