"""Bulk jobs in one process: parts, resuming, refused rows, lack of memory, the command line."""

import gzip
import json
import os
import re
import shutil
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet as parquet
import pytest
import torch
from conftest import SENTENCES
from images import random_images, tiny_image_pipe
from proteins import tiny_protein_pipe
from typer.testing import CliRunner

from hf_eddpm.bulk import BulkJob, contents, making, parts, reading, run_bulk
from hf_eddpm.cli.main import app

ROOT = Path(__file__).parent.parent
TEXT = [*SENTENCES, "", *reversed(SENTENCES[:7]), "NA", "   "]
PROTEINS = ["ACDEFGHI", "KLMN", "A1C", "", "WYWY"]  # nothing is left of the second part of two


@pytest.fixture(scope="module")
def folder(make_pipe, tmp_path_factory):
    """A folder of checkpoints, and of the same data in files of every kind."""
    folder = tmp_path_factory.mktemp("bulk")
    make_pipe().save_pretrained(folder / "tiny")
    (folder / "data.txt").write_text("\n".join(TEXT) + "\n")
    with gzip.open(folder / "data.txt.gz", "wt") as file:
        file.write("\n".join(TEXT) + "\n")
    (folder / "data.csv").write_text("text\n" + "".join(f'"{line}"\n' for line in TEXT))
    (folder / "data.jsonl").write_text("".join(json.dumps({"text": line}) + "\n" for line in TEXT))
    parquet.write_table(pyarrow.table({"text": TEXT}), folder / "data.parquet", row_group_size=4)
    (folder / "first.txt").write_text("\n".join(TEXT[:7]) + "\n")
    (folder / "second.txt").write_text("\n".join(TEXT[7:]) + "\n")
    return folder


@pytest.fixture
def job(folder, tmp_path):
    """Function that makes a job on data, by default to encode."""

    def make(output="out", data=("data.txt",), task="encode", **values):
        names = [data] if isinstance(data, str) else data
        values = {"part_size": 5, "batch_size": 3} | values
        return BulkJob(task, str(folder / "tiny"), str(tmp_path / output), [str(folder / n) for n in names], **values)

    return make


@pytest.fixture
def samples(folder, tmp_path):
    """Function that makes a job of seven samples."""

    def make(output="out", **values):
        values = {"num_samples": 7, "part_size": 3, "arguments": {"num_inference_steps": 2}} | values
        return BulkJob("generate", str(folder / "tiny"), str(tmp_path / output), **values)

    return make


def read(folder):
    return [row for path in sorted(folder.glob("part-*.parquet")) for row in parquet.read_table(path).to_pylist()]


def listed(folder):
    return [json.loads(line) for line in (folder / "skipped.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "data", ["data.txt", "data.txt.gz", "data.csv", "data.jsonl", "data.parquet", ("first.txt", "second.txt")]
)
def test_every_row_has_its_embedding_in_order_and_empty_ones_are_listed(job, make_pipe, tmp_path, data):
    assert run_bulk(job(data=data)) == len(TEXT)
    rows = read(tmp_path / "out")
    assert [row["row"] for row in rows] == list(range(len(TEXT)))
    assert [row["text"] for row in rows] == TEXT
    assert [row["embedding"] is None for row in rows] == [not text.strip() for text in TEXT]
    expected = make_pipe().encode([text for text in TEXT if text.strip()]).embeddings
    made = torch.tensor([row["embedding"] for row in rows if row["embedding"] is not None])
    torch.testing.assert_close(made, expected, atol=1e-5, rtol=1e-5)
    assert listed(tmp_path / "out") == [{"row": 8, "error": "empty"}, {"row": 17, "error": "empty"}]


@pytest.mark.parametrize(
    "data", ["data.txt.gz", "data.csv", "data.jsonl", "data.parquet", ("first.txt", "second.txt")]
)
def test_rows_are_counted_and_parts_are_read_in_any_order(job, data):
    todo = job(data=data)
    assert reading.count_rows(todo) == len(TEXT) and reading.count_rows(job(data=data, limit=7)) == 7
    reader = reading.PartReader(todo, "text")
    assert [reader.rows(part) for part in (1, 3, 0, 4)] == [TEXT[5:10], TEXT[15:], TEXT[:5], []]
    assert reading.PartReader(job(data=data, limit=7), "text").rows(1) == TEXT[5:7]


def test_a_limit_ends_the_data(job, tmp_path):
    assert run_bulk(job(limit=7)) == 7 and [row["text"] for row in read(tmp_path / "out")] == TEXT[:7]


def test_scores_are_those_of_the_pipeline(job, make_pipe, tmp_path):
    run_bulk(job(task="score", batch_size=20, part_size=8, arguments={"num_timesteps": 2}, sort_by_length=False))
    generator = torch.Generator().manual_seed(0)
    expected = make_pipe().score(SENTENCES, 2, generator)
    rows = read(tmp_path / "out")[:8]
    for name, values in expected.items():
        np.testing.assert_allclose([row[name] for row in rows], values.numpy(), rtol=1e-5)


def test_samples_are_those_of_the_pipeline(samples, make_pipe, tmp_path):
    assert run_bulk(samples(keep_latents=True)) == 7
    rows, pipe = read(tmp_path / "out"), make_pipe()
    for part, size in enumerate((3, 3, 1)):
        expected = pipe(size, num_inference_steps=2, generator=torch.Generator().manual_seed(part))
        made = rows[part * 3 : part * 3 + size]
        assert [row["sample"] for row in made] == expected.samples
        torch.testing.assert_close(torch.tensor([row["latents"] for row in made]), expected.latents.flatten(1))


def test_a_killed_run_goes_on_where_it_was(job, tmp_path, monkeypatch):
    run_bulk(job("whole"))

    class Killed(BaseException):
        pass

    def killed(source, target):
        if str(target).endswith("part-000002.parquet"):
            raise Killed
        return replace(source, target)

    replace = parts.os.replace
    with monkeypatch.context() as patch:
        patch.setattr(parts.os, "replace", killed)
        with pytest.raises(Killed):
            run_bulk(job())
    out = tmp_path / "out"
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("part-*.parquet")}
    assert sorted(before) == ["part-000000.parquet", "part-000001.parquet"]
    assert run_bulk(job()) == len(TEXT) - 10
    assert all((out / name).stat().st_mtime_ns == time for name, time in before.items())
    assert read(out) == read(tmp_path / "whole")
    assert run_bulk(job()) == 0 and not list(out.glob(".*"))


@pytest.mark.parametrize(
    "damage", [lambda content: content[:-9], lambda content: b"", lambda content: bytes(len(content))]
)
def test_a_part_without_its_footer_is_made_anew(job, tmp_path, damage):
    run_bulk(job())
    rows, part = read(tmp_path / "out"), tmp_path / "out" / "part-000001.parquet"
    part.write_bytes(damage(part.read_bytes()))
    assert run_bulk(job()) == 5  # the rows of that part
    assert read(tmp_path / "out") == rows


def test_a_part_is_on_the_disk_before_it_has_its_name(job, tmp_path, monkeypatch):
    steps = []
    fsync, replace = os.fsync, os.replace
    monkeypatch.setattr(parts.os, "fsync", lambda descriptor: steps.append("fsync") or fsync(descriptor))
    monkeypatch.setattr(parts.os, "replace", lambda *paths: steps.append("replace") or replace(*paths))
    run_bulk(job())
    count = len(list((tmp_path / "out").glob("part-*.parquet")))
    assert steps == ["replace", *["fsync", "replace", "fsync"] * count, "replace"]  # settings, parts, skipped rows


def test_parts_made_with_other_settings_are_not_mixed(job, samples):
    run_bulk(job())
    run_bulk(job(batch_size=4))  # draws nothing: only the rounding differs
    with pytest.raises(ValueError, match=r"begun with another \['batch_size', 'seed', 'sort_by_length', 'task'\]"):
        run_bulk(job(task="score"))
    run_bulk(samples("samples"))
    with pytest.raises(ValueError, match=r"begun with another \['seed'\]: \[0\], got \[1\]"):
        run_bulk(samples("samples", seed=1))


def test_a_folder_without_a_finished_part_may_be_begun_anew(job, tmp_path):
    with pytest.raises(ValueError, match="`column` 'review' is not in the data"):
        run_bulk(job(column="review", part_size=2))
    assert run_bulk(job()) == len(TEXT)
    out = tmp_path / "out"
    for part in out.glob("part-*"):
        part.write_bytes(part.read_bytes()[:-9])
    assert run_bulk(job(limit=3, part_size=4)) == 3  # all parts were damaged
    assert [row["text"] for row in read(out)] == TEXT[:3] and len(list(out.glob("part-*"))) == 1
    with pytest.raises(ValueError, match=r"begun with another \['limit', 'part_size'\]"):
        run_bulk(job())


def test_a_job_whose_folder_another_one_has_begun_anew_leaves_it(job, tmp_path, monkeypatch):
    def meanwhile(pipe, data, *others):
        monkeypatch.setitem(making._METHODS, "encode", encode)
        run_bulk(job(part_size=4))
        return encode(pipe, data, *others)

    encode = making._METHODS["encode"]
    monkeypatch.setitem(making._METHODS, "encode", meanwhile)
    with pytest.raises(ValueError, match="`output_dir` .* was begun anew by another job"):
        run_bulk(job())
    assert [len(parquet.read_table(path)) for path in sorted((tmp_path / "out").glob("part-*"))][:2] == [4, 4]


@pytest.mark.parametrize("size", ["small", "large"])
def test_changed_data_are_not_mixed_with_those_of_before(job, folder, tmp_path, monkeypatch, size):
    if size == "large":  # of which head, tail and places between count
        monkeypatch.setattr(contents, "_WHOLE", 64)
        monkeypatch.setattr(contents, "_BLOCK", 16)
    data = tmp_path / "data.txt"
    lines = [f"{SENTENCES[row % 8]} {row}" for row in range(12)]
    data.write_text("\n".join(lines))
    pattern = str(tmp_path / "d*.txt")
    assert run_bulk(job(data=str(data))) == 12 and run_bulk(job("many", data=pattern)) == 12
    os.utime(data, (0, 0))  # fetched anew
    assert run_bulk(job(data=str(data))) == 0
    for changed in (lines[:7], [*lines, "one more"], ["a" + lines[0][1:], *lines[1:]]):
        data.write_text("\n".join(changed))
        for output, name in (("out", str(data)), ("many", pattern)):
            with pytest.raises(ValueError, match="`output_dir` .* has parts made from .*txt'] as they were before"):
                run_bulk(job(output, data=name))
    data.write_text("\n".join(lines))
    assert run_bulk(job(data=str(data))) == 0
    (tmp_path / "data2.txt").write_text("another")
    with pytest.raises(ValueError, match="has parts made from"):
        run_bulk(job("many", data=pattern))


def test_another_checkpoint_at_the_same_place_is_not_mixed_with_the_one_of_before(job, folder, make_pipe, tmp_path):
    shutil.copytree(folder / "tiny", tmp_path / "tiny")
    todo = replace(job(), checkpoint=str(tmp_path / "tiny"))
    run_bulk(todo)
    (tmp_path / "tiny" / "README.md").write_text("A card, which decides nothing.")
    assert run_bulk(todo) == 0
    pipe = make_pipe()
    with torch.no_grad():
        next(pipe.model.encoder.parameters()).add_(1)
    pipe.save_pretrained(tmp_path / "tiny")
    with pytest.raises(ValueError, match=r"has parts made from \['.*tiny'\] as they were before"):
        run_bulk(todo)


def test_a_folder_of_an_earlier_version_which_has_no_digests_goes_on(job, tmp_path):
    run_bulk(job())
    path = tmp_path / "out" / "settings.json"
    settings = json.loads(path.read_text())
    assert set(settings.pop("contents")) == {job().data[0], job().checkpoint}
    path.write_text(json.dumps(settings))
    (tmp_path / "out" / "part-000001.parquet").unlink()
    assert run_bulk(job()) == 5


@pytest.fixture
def proteins(tmp_path):
    """Function that makes a job on proteins, one of which holds what is no residue."""
    tiny_protein_pipe().save_pretrained(tmp_path / "protein")
    (tmp_path / "proteins.csv").write_text("sequence\n" + "".join(f'"{line}"\n' for line in PROTEINS))

    def make(task="encode", **values):
        data = str(tmp_path / "proteins.csv")
        return BulkJob(task, str(tmp_path / "protein"), str(tmp_path / "out"), [data], part_size=2, **values)

    return make


def test_a_row_that_the_model_does_not_take_is_named_or_skipped_and_listed(proteins, tmp_path):
    with pytest.raises(
        ValueError, match=r"Row 2 of the data: `data` must consist of '\w+', got '1'\. .*`on_error` skip"
    ):
        run_bulk(proteins())
    assert len(list((tmp_path / "out").glob("part-*"))) == 1  # what was made before
    assert run_bulk(proteins(on_error="skip")) == 3
    rows = read(tmp_path / "out")
    assert [row["embedding"] is None for row in rows] == [False, False, True, True, False]
    assert [row["row"] for row in listed(tmp_path / "out")] == [2, 3]
    assert "got '1'." in listed(tmp_path / "out")[0]["error"] and listed(tmp_path / "out")[1]["error"] == "empty"


def test_proteins_are_optimized_from_a_table_of_starts(tmp_path):
    pipe = tiny_protein_pipe(num_properties=1)
    pipe.save_pretrained(tmp_path / "protein")
    starts = ["ACDEFGHI", "KLMNPQRS", "WYWYWYWY"]
    (tmp_path / "starts.jsonl").write_text("".join(json.dumps({"sequence": start}) + "\n" for start in starts))
    arguments = {"method": "hill_climb", "num_steps": 2, "target": "higher"}
    job = BulkJob(
        "optimize",
        str(tmp_path / "protein"),
        str(tmp_path / "out"),
        [str(tmp_path / "starts.jsonl")],
        arguments=arguments,
    )
    assert run_bulk(job) == 3
    expected = pipe.optimize(starts, generator=torch.Generator().manual_seed(0), **arguments)
    rows = read(tmp_path / "out")
    assert [row["sample"] for row in rows] == expected.samples
    np.testing.assert_allclose([row["prediction"] for row in rows], expected.predictions.numpy(), rtol=1e-5)


def test_images_are_stored_as_datasets_reads_them(tmp_path):
    pipe = tiny_image_pipe()
    pipe.save_pretrained(tmp_path / "image")
    arguments = {"num_inference_steps": 2}
    out = tmp_path / "out"
    run_bulk(BulkJob("generate", str(tmp_path / "image"), str(out), num_samples=2, arguments=arguments))
    expected = pipe(2, generator=torch.Generator().manual_seed(0), **arguments).samples
    made = datasets.load_dataset("parquet", data_files=str(out / "part-*.parquet"), split="train", cache_dir=tmp_path)
    made = made.cast_column("sample", datasets.Image())
    for image, other in zip(made["sample"], expected, strict=True):
        np.testing.assert_array_equal(np.asarray(image), np.asarray(other))
    again = BulkJob(
        "encode", str(tmp_path / "image"), str(tmp_path / "codes"), [str(out / "part-000000.parquet")], "sample"
    )
    assert run_bulk(again) == 2
    codes = torch.tensor([row["embedding"] for row in read(tmp_path / "codes")])
    torch.testing.assert_close(codes, pipe.encode(expected).embeddings, atol=1e-4, rtol=1e-4)


def test_images_of_a_table_are_resized_as_the_processor_says_and_damaged_ones_are_skipped(tmp_path):
    tiny_image_pipe(resize="crop").save_pretrained(tmp_path / "image")
    wide = random_images(1, size=16)[0].resize((24, 16))
    contents = []
    for image, kind in ((wide, "png"), (wide.convert("CMYK"), "jpeg")):
        file = BytesIO()
        image.save(file, kind)
        contents.append(file.getvalue())
    contents += [None, b"junk", contents[0][:-40], b""]
    table = pyarrow.table({"image": [{"bytes": content, "path": None} for content in contents]})
    parquet.write_table(table, tmp_path / "data.parquet")
    job = BulkJob("encode", str(tmp_path / "image"), str(tmp_path / "out"), [str(tmp_path / "data.parquet")])
    with pytest.raises(ValueError, match="Row 3 of the data: the image is damaged"):
        run_bulk(job)
    assert run_bulk(replace(job, on_error="skip")) == 6
    rows = read(tmp_path / "out")
    assert [row["embedding"] is None for row in rows] == [False, False, True, True, True, True]
    assert rows[2]["error"] == "empty" and "damaged" in rows[3]["error"] and "damaged" in rows[4]["error"]


@pytest.mark.parametrize("kind", [MemoryError, torch.OutOfMemoryError])
def test_where_the_memory_does_not_suffice_the_batch_is_halved_and_the_log_says_so(
    job, tmp_path, monkeypatch, kind, caplog
):
    run_bulk(job("whole"))
    sizes = []

    def short_of_memory(pipe, data, *others):
        sizes.append(len(data))
        if len(data) > 1:
            raise kind("too much")
        return encode(pipe, data, *others)

    encode = making._METHODS["encode"]
    monkeypatch.setitem(making._METHODS, "encode", short_of_memory)
    monkeypatch.setattr(making.logger, "propagate", True)
    parents = making.logger.parent
    monkeypatch.setattr(parents, "propagate", True)
    assert run_bulk(job(batch_size=5)) == len(TEXT)
    assert sizes[:3] == [5, 2, 1] and set(sizes[3:]) == {1}  # also in the parts that follow
    assert "`batch_size` is 2 from here on" in caplog.text
    for row, other in zip(read(tmp_path / "out"), read(tmp_path / "whole"), strict=True):
        np.testing.assert_allclose(row.pop("embedding") or 0, other.pop("embedding") or 0, atol=1e-5)
        assert row == other


def test_a_datum_that_is_too_large_for_the_memory_is_an_error(job, monkeypatch):
    def no_memory(*arguments):
        raise MemoryError("too much")

    monkeypatch.setitem(making._METHODS, "encode", no_memory)
    with pytest.raises(MemoryError, match="Part 0: `batch_size` 1 needs more memory than there is: too much"):
        run_bulk(job())


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"task": "translate"}, "`task` must be one of encode, score, generate, optimize, got 'translate'"),
        ({"part_size": 0}, "`part_size` must be an integer of at least 1, got 0"),
        ({"limit": -1}, "`limit` must be an integer of at least 1, got -1"),
        ({"batch_size": 2.5}, "`batch_size` must be an integer of at least 1, got 2.5"),
        ({"seed": -1}, "`seed` must be an integer of at least 0, got -1"),
        ({"dtype": "int8"}, "`dtype` must be one of float32, float16, bfloat16, got 'int8'"),
        ({"on_error": "ignore"}, "`on_error` must be one of raise, skip, got 'ignore'"),
        ({"data": ()}, "`data` must name files or a Hub data set"),
        ({"column": "review"}, r"`column` 'review' is not in the data; they have \['text'\]"),
        ({"data": ("a.txt", "b.csv")}, "`data` must be one Hub data set or files of one kind"),
    ],
)
def test_what_cannot_be_done_is_refused(job, values, message):
    with pytest.raises(ValueError, match=message):
        run_bulk(job(**values))


def test_samples_need_a_number_and_no_data(samples):
    for values in ({"num_samples": None}, {"data": ["x.txt"]}):
        with pytest.raises(ValueError, match="'generate' takes `num_samples` and no `data`"):
            samples(**values)
    with pytest.raises(ValueError, match="`num_samples` must be an integer of at least 1, got 0"):
        samples(num_samples=0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"engine": "spark"}, "`engine` must be one of local, ray, got 'spark'"),
        ({"address": "auto"}, "`address` needs `engine` ray beside it, got 'auto' and 'local'"),
        ({"engine": "ray", "num_workers": 0}, "`num_workers` must be an integer of at least 1, got 0"),
    ],
)
def test_engines_are_checked(job, values, message):
    with pytest.raises(ValueError, match=message):
        run_bulk(job(), **values)


def test_a_column_of_the_data_does_not_hide_one_of_the_output(job, folder, tmp_path):
    (folder / "rows.jsonl").write_text("".join(json.dumps({"row": line}) + "\n" for line in SENTENCES))
    with pytest.raises(ValueError, match="`column` must not be one of the output's own names, .*, got 'row'"):
        run_bulk(job(data="rows.jsonl", column="row"))
    assert run_bulk(job("other", data="rows.jsonl", column="row", keep_data=False)) == 8
    assert [row["row"] for row in read(tmp_path / "other")] == list(range(8))


def test_missing_files_and_missing_rows_are_named(job, folder):
    with pytest.raises(FileNotFoundError, match="absent.txt"):
        run_bulk(job(data="absent.txt"))
    (folder / "nothing.txt").write_text("")
    with pytest.raises(ValueError, match="`data` must have rows, got none"):
        reading.count_rows(job(data="nothing.txt"))
    with pytest.raises(ValueError, match="`data` must have rows, got none"):
        run_bulk(job(data="nothing.txt"))


def test_another_type_gives_nearly_the_same_embeddings(job, tmp_path):
    run_bulk(job())
    run_bulk(job("short", dtype="bfloat16"))
    whole, short = (
        [row["embedding"] for row in read(tmp_path / name) if row["embedding"]] for name in ("out", "short")
    )
    torch.testing.assert_close(torch.tensor(short), torch.tensor(whole), atol=0.1, rtol=0.1)
    assert short != whole


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.torch.jit.script_method. is deprecated:DeprecationWarning")  # torch.compile
def test_compiled_parts_give_the_same_corpus(job, samples, tmp_path):
    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("torch.compile needs a C++ compiler on the CPU")
    for compiled in (False, True):
        run_bulk(job(f"embedding-{compiled}", compile=compiled))
        run_bulk(samples(f"latents-{compiled}", compile=compiled, keep_latents=True))
    for column in ("embedding", "latents"):
        plain, compiled = (
            [row[column] for row in read(tmp_path / f"{column}-{way}") if row[column]] for way in (False, True)
        )
        torch.testing.assert_close(torch.tensor(compiled), torch.tensor(plain), atol=1e-4, rtol=1e-4)


def test_the_command_makes_what_the_function_makes(job, samples, folder, tmp_path):
    def run(*words):
        result = CliRunner().invoke(app, [*map(str, words)])
        if result.exception is not None:
            raise result.exception
        return result

    run_bulk(job())
    data = [folder / "tiny", folder / "data.txt"]
    result = run("encode", *data, "--output_dir", tmp_path / "by-command", "--part_size", 5, "--batch_size", 3)
    assert f"{len(TEXT)} rows made" in result.stderr
    assert read(tmp_path / "by-command") == read(tmp_path / "out")
    run("encode", *data, "--output_dir", tmp_path / "few", "--limit", 7, "--no_keep_data")
    assert len(rows := read(tmp_path / "few")) == 7 and set(rows[0]) == {"row", "error", "embedding"}
    run("score", *data, "--output_dir", tmp_path / "scores", "--num_timesteps", 2)
    assert {"bound", "bits_per_unit"} <= set(read(tmp_path / "scores")[0])
    words = ["-n", 7, "--num_inference_steps", 2, "--part_size", 3]
    run("generate", folder / "tiny", *words, "--output_dir", tmp_path / "made")
    run_bulk(samples("samples"))
    assert read(tmp_path / "made") == read(tmp_path / "samples")
    for words, message in (
        (["--limit", 3], "`--limit` needs `--output_dir` beside it"),
        (["--output_dir", tmp_path / "x", "-o", "x.csv"], "`--output_dir` takes the place of `--output`, got 'x.csv'"),
    ):
        with pytest.raises(ValueError, match=re.escape(message)):
            run("encode", *data, *words)
    every = run("encode", "--help_all").stdout
    assert {"--on_error", "--num_workers", "--dtype", "--dataset_config"} <= set(re.findall(r"--\w+", every))


def test_the_recipe_for_datasets_in_the_documentation_runs(folder, tmp_path, monkeypatch):
    text = (ROOT / "docs" / "guides" / "scale.md").read_text()
    recipe = re.search(r"```python\n(from datasets .*?)```", text, re.S)[1]
    (tmp_path / "model_cards").mkdir()
    (tmp_path / "model_cards" / "eddpm-yelp").symlink_to(folder / "tiny")
    shutil.copy(folder / "data.txt.gz", tmp_path / "reviews.txt.gz")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    names: dict = {}
    exec(compile(recipe, "scale.md", "exec"), names)
    expected = names["pipe"].encode([line for line in TEXT if line.strip()]).embeddings
    torch.testing.assert_close(torch.tensor(names["encoded"]["embedding"]), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("task", ["encode", "score"])
def test_parts_without_a_datum_have_the_columns_of_the_others(job, folder, tmp_path, task):
    (folder / "gaps.txt").write_text("\n\n" + "the food was great .\n" * 2)
    run_bulk(job(data="gaps.txt", task=task, part_size=2))
    first, second = (parquet.read_schema(path) for path in sorted((tmp_path / "out").glob("part-*")))
    assert first == second
