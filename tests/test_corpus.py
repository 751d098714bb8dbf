"""Bulk encoding and generation: parts, several processes, resuming."""

import gzip
import json
import os
import re
import shutil
from pathlib import Path

import datasets
import pyarrow.parquet as parquet
import pytest
import torch
from conftest import SENTENCES

import hf_eddpm.bulk.encode as encode_corpus
import hf_eddpm.bulk.generate as generate_corpus
import hf_eddpm.bulk.parts as corpus_parts

ROOT = Path(__file__).parent.parent
TEXT = [*SENTENCES, "", *reversed(SENTENCES), "   "]


@pytest.fixture(scope="module")
def checkpoint(make_pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus") / "tiny"
    make_pipe().save_pretrained(folder)
    (folder.parent / "data.txt").write_text("\n".join(TEXT) + "\n")
    (folder.parent / "data.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in TEXT))
    return folder


@pytest.fixture
def encode(checkpoint, tmp_path):
    def run(*words, output="out", data="data.txt"):
        source = str(checkpoint.parent / data)
        base = ["--checkpoint", str(checkpoint), "--data", source, "--output_dir", str(tmp_path / output)]
        return encode_corpus.main([*base, "--part_size", "5", "--batch_size", "3", *words])

    return run


@pytest.fixture
def generate(checkpoint, tmp_path):
    def run(*words, output="out"):
        base = ["--checkpoint", str(checkpoint), "--output_dir", str(tmp_path / output), "--num_samples", "7"]
        return generate_corpus.main([*base, "--part_size", "3", "--num_inference_steps", "2", *words])

    return run


def _read(folder):
    return [row for path in sorted(folder.glob("part-*.parquet")) for row in parquet.read_table(path).to_pylist()]


@pytest.mark.parametrize("data", ["data.txt", "data.jsonl"])
def test_every_row_has_its_embedding_in_order_and_empty_ones_have_none(encode, make_pipe, tmp_path, data):
    assert encode(data=data) == len(TEXT)
    rows = _read(tmp_path / "out")
    assert [row["row"] for row in rows] == list(range(len(TEXT))) and [row["text"] for row in rows] == TEXT
    assert [row["embedding"] is None for row in rows] == [not text.strip() for text in TEXT]
    expected = make_pipe().encode([text for text in TEXT if text.strip()]).embeddings
    made = torch.tensor([row["embedding"] for row in rows if row["embedding"] is not None])
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("words", [[], ["--task", "score", "--num_timesteps", "2"]])
def test_two_processes_make_what_one_does(encode, tmp_path, monkeypatch, words):
    encode(*words)
    done = []
    for rank in ("0", "1"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "2")
        done.append(encode(*words, output="two"))
    assert sum(done) == len(TEXT) and min(done) > 0
    assert _read(tmp_path / "two") == _read(tmp_path / "out")


def test_a_killed_run_goes_on_where_it_was(encode, tmp_path, monkeypatch):
    encode(output="whole")

    class Killed(BaseException):
        pass

    def killed(source, target):
        if str(target).endswith("part-000002.parquet"):
            raise Killed
        return replace(source, target)

    replace = corpus_parts.os.replace
    with monkeypatch.context() as patch:
        patch.setattr(corpus_parts.os, "replace", killed)
        with pytest.raises(Killed):
            encode()
    out = tmp_path / "out"
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}
    assert sorted(before) == ["part-000000.parquet", "part-000001.parquet"]
    assert encode() == len(TEXT) - 10
    assert all((out / name).stat().st_mtime_ns == time for name, time in before.items())
    assert _read(out) == _read(tmp_path / "whole")
    assert encode() == 0


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-9], lambda content: b"", lambda content: bytes(len(content))]
)
def test_a_part_without_its_footer_is_made_anew(encode, tmp_path, damage):
    encode()
    rows, part = _read(tmp_path / "out"), tmp_path / "out" / "part-000001.parquet"
    part.write_bytes(damage(part.read_bytes()))
    assert encode() == 5  # the rows of that part
    assert _read(tmp_path / "out") == rows


def test_a_part_is_on_the_disk_before_it_has_its_name(encode, tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(corpus_parts.os, "fsync", lambda descriptor: steps.append("fsync") or fsync(descriptor))
    monkeypatch.setattr(corpus_parts.os, "replace", lambda *paths: steps.append("replace") or replace(*paths))
    encode()
    assert steps == ["fsync", "replace", "fsync"] * len(list((tmp_path / "out").glob("part-*.parquet")))


def test_parts_made_with_other_settings_are_not_mixed(encode, generate):
    encode()
    with pytest.raises(ValueError, match=r"begun with another \['num_timesteps', 'seed', 'task'\]"):
        encode("--task", "score")
    generate(output="samples")
    with pytest.raises(ValueError, match=r"begun with another \['seed'\]: \[0\], got \[1\]"):
        generate("--seed", "1", output="samples")


def test_samples_do_not_depend_on_the_number_of_processes(generate, tmp_path, monkeypatch):
    assert generate("--keep_latents") == 7
    for rank in ("1", "0", "2"):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", "3")
        generate("--keep_latents", output="three")
    rows = _read(tmp_path / "out")
    assert _read(tmp_path / "three") == rows and [row["row"] for row in rows] == list(range(7))
    assert len({tuple(row["latents"]) for row in rows}) == 7


def test_the_recipe_for_datasets_in_the_documentation_runs(checkpoint, tmp_path, monkeypatch):
    text = (ROOT / "docs" / "guides" / "scale.md").read_text()
    recipe = re.search(r"```python\n(from datasets .*?)```", text, re.S)[1]
    (tmp_path / "model_cards").mkdir()
    (tmp_path / "model_cards" / "eddpm-yelp-mini").symlink_to(checkpoint)
    with gzip.open(tmp_path / "reviews.txt.gz", "wt") as file:
        file.write("\n".join(TEXT) + "\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    names: dict = {}
    exec(compile(recipe, "scale.md", "exec"), names)
    expected = names["pipe"].encode([line for line in TEXT if line.strip()]).embeddings
    torch.testing.assert_close(torch.tensor(names["encoded"]["embedding"]), expected, atol=1e-5, rtol=1e-5)


def test_memory_holds_one_part_at_a_time():
    alive = []

    def rows():
        for row in range(100):
            alive.append(row)
            yield row

    parts = corpus_parts.rows_of_parts(rows(), 10, lambda part: part % 2 == 1)
    assert next(parts) == (1, list(range(10, 20))) and len(alive) == 20
    assert [part for part, _ in parts] == [3, 5, 7, 9]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--task", "translate"], "`task` must be encode or score, got 'translate'"),
        (["--part_size", "0"], "`part_size` must be at least 1, got 0"),
        (["--column", "review"], r"`column` 'review' is not in the data; they have \['text'\]"),
        (["--data", "a.txt", "b.csv"], "`data` must be one Hub data set or files of one kind"),
    ],
)
def test_what_cannot_be_encoded_is_refused(encode, words, message):
    with pytest.raises(ValueError, match=message):
        encode(*words)


def test_another_type_gives_nearly_the_same_embeddings(encode, tmp_path):
    encode()
    encode("--dtype", "bfloat16", output="short")
    whole, short = (
        [row["embedding"] for row in _read(tmp_path / name) if row["embedding"]] for name in ("out", "short")
    )
    torch.testing.assert_close(torch.tensor(short), torch.tensor(whole), atol=0.1, rtol=0.1)
    assert short != whole


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch.compile
def test_compiled_parts_give_the_same_corpus(encode, generate, tmp_path):
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile needs a C++ compiler on the CPU")
    for words, output in (([], "plain"), (["--compile"], "compiled")):
        encode(*words, output=f"{output}-embeddings")
        generate(*words, "--keep_latents", output=f"{output}-samples")
    for name, column in (("embeddings", "embedding"), ("samples", "latents")):
        plain, compiled = (
            [row[column] for row in _read(tmp_path / f"{way}-{name}") if row[column]] for way in ("plain", "compiled")
        )
        torch.testing.assert_close(torch.tensor(compiled), torch.tensor(plain), atol=1e-4, rtol=1e-4)


def test_what_cannot_be_generated_is_refused(generate):
    with pytest.raises(ValueError, match="`num_samples` must be at least 1, got 0"):
        generate("--num_samples", "0")
    with pytest.raises(ValueError, match="`dtype` must be float32, float16 or bfloat16, got 'int8'"):
        generate("--dtype", "int8")
