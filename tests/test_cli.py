"""The command line: every command on shipped checkpoints, files of every kind, errors that a user can read."""

import csv
import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from conftest import SENTENCES
from PIL import Image
from typer.testing import CliRunner

from hf_eddpm import EDDPMPipeline
from hf_eddpm.cli import main as cli
from hf_eddpm.cli.usual_options import USUAL_OPTIONS
from hf_eddpm.training.entry import run_modality

ROOT = Path(__file__).parent.parent
TEXT, PROTEIN, DIGITS = (str(ROOT / "model_cards" / f"eddpm-{name}") for name in ("yelp", "gifford", "digits"))
COMMANDS = ["generate", "reconstruct", "encode", "interpolate", "edit", "score", "optimize", "restore", "push", "app"]
LOOPS = ["AAAAYDYWFDY", "ARDGYYGSFDY"]


def run(*words, stdin=None):
    result = CliRunner().invoke(cli.app, list(map(str, words)), input=stdin)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def sentences(tmp_path):
    file = tmp_path / "sentences.txt"
    file.write_text("\n".join(SENTENCES[:3]) + "\n")
    return file


@pytest.mark.parametrize("command", COMMANDS)
def test_the_help_of_a_command_fits_a_screen(command):
    text = run(command, "--help").stdout
    assert len(text.splitlines()) <= 24, text
    assert text.count("--") >= 2


@pytest.mark.parametrize("modality", ["text", "protein", "image"])
@pytest.mark.parametrize("task", ["train", "evaluate"])
def test_the_help_of_training_and_evaluation_fits_a_screen_and_is_true(task, modality, capsys):
    lines = run(task, modality, "--help").stdout.splitlines()
    assert len(lines) <= 24 and all(len(line) <= 110 for line in lines)
    with pytest.raises(SystemExit):
        run_modality(task, modality, ["--help_all" if task == "train" else "--help"])
    every = capsys.readouterr().out
    for option in USUAL_OPTIONS[task, modality]:
        assert re.search(rf"{option.split()[0]}\b", every), option
    assert "text|protein|image" in run(task, "--help").stdout


def test_the_help_names_every_command():
    text = run("--help").stdout
    assert all(f"  {command}" in text for command in [*COMMANDS, "train", "evaluate", "distill"])


def test_lines_go_in_by_the_standard_input_and_out_by_the_standard_output():
    result = run("reconstruct", TEXT, "-", "--refinement_steps", 5, stdin="the food was great .\n\ni love it here .\n")
    assert result.stdout == "the food was great .\ni love it here .\n"


@pytest.mark.parametrize("ending", ["txt", "csv", "tsv", "jsonl", "parquet"])
def test_sentences_are_read_from_and_written_to_files_of_every_kind(tmp_path, ending):
    rows = SENTENCES[:3]
    source, target = tmp_path / f"in.{ending}", tmp_path / f"out.{ending}"
    if ending == "parquet":
        parquet = pytest.importorskip("pyarrow.parquet")
        import pyarrow

        parquet.write_table(pyarrow.table({"review": rows}), source)
    elif ending == "jsonl":
        source.write_text("".join(json.dumps({"review": row}) + "\n" for row in rows))
    elif ending == "txt":
        source.write_text("\n".join(rows) + "\n")
    else:
        with source.open("w", newline="") as file:
            writer = csv.writer(file, delimiter="," if ending == "csv" else "\t")
            writer.writerows([["review"], *([row] for row in rows)])
    column = [] if ending == "txt" else ["--column", "review"]
    run("reconstruct", TEXT, source, *column, "-o", target)
    if ending == "parquet":
        written = parquet.read_table(target).column("reconstruction").to_pylist()
    elif ending == "jsonl":
        written = [json.loads(line)["reconstruction"] for line in target.read_text().splitlines()]
    else:
        written = target.read_text().splitlines()[0 if ending == "txt" else 1 :]
    assert len(written) == 3 and all(written)


def test_embeddings_are_arrays_and_scores_are_columns(tmp_path, sentences):
    run("encode", TEXT, sentences, "-o", tmp_path / "embeddings.npz")
    assert np.load(tmp_path / "embeddings.npz")["embedding"].shape == (3, 128)
    lines = run("score", TEXT, sentences, "--num_timesteps", 2).stdout.splitlines()
    assert len(lines) == 3 and all(len(line.split("\t")) == 3 for line in lines)


def test_samples_repeat_under_a_seed():
    words = ["generate", TEXT, "-n", 3, "--num_inference_steps", 4, "--seed"]
    assert run(*words, 1).stdout == run(*words, 1).stdout != run(*words, 2).stdout


def test_paths_edits_and_proteins(tmp_path, sentences):
    lines = run("interpolate", TEXT, "the food was great .", "i hate it .", "--num_steps", 3).stdout.splitlines()
    assert [line.split("\t")[:2] for line in lines] == [["0", "0"], ["0", "1"], ["0", "2"]]
    (tmp_path / "good.txt").write_text("great food .\n")
    (tmp_path / "bad.txt").write_text("awful food .\n")
    sides = ["--towards", tmp_path / "good.txt", "--away_from", tmp_path / "bad.txt"]
    assert len(run("edit", TEXT, sentences, *sides, "--scale", 2).stdout.splitlines()) == 3
    edited = [
        line.split("\t") for line in run("edit", TEXT, sentences, *sides, "--probability", 0.6).stdout.splitlines()
    ]
    assert len(edited) == 3 and all(0 <= float(probability) <= 1 for _, probability in edited)
    with pytest.raises(ValueError, match="`scale` must not be given with `probability`"):
        run("edit", TEXT, sentences, *sides, "--probability", 0.6, "--scale", 2)
    chosen = run("edit", TEXT, sentences, *sides, "--probability", 0.6, "--give_back", "--num_candidates", 2).stdout
    pipe = EDDPMPipeline.from_pretrained(TEXT)
    pipe.set_progress_bar_config(disable=True)
    attribute = pipe.attribute(*(Path(file).read_text().splitlines() for file in sides[1::2]))
    expected = pipe.edit_to(SENTENCES[:3], attribute, 0.6, give_back=True, num_candidates=2).samples
    assert [line.split("\t")[0] for line in chosen.splitlines()] == expected
    for option in (["--give_back"], ["--num_candidates", 2]):
        with pytest.raises(ValueError, match=f"`{option[0][2:]}` needs `probability`"):
            run("edit", TEXT, sentences, *sides, *option)
    (tmp_path / "loops.fasta").write_text("".join(f">{i}\n{loop}\n" for i, loop in enumerate(LOOPS)))
    run("optimize", PROTEIN, tmp_path / "loops.fasta", "--num_steps", 2, "-o", tmp_path / "better.csv")
    with (tmp_path / "better.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 and set(rows[0]) == {"sample", "prediction"}
    run("reconstruct", PROTEIN, tmp_path / "loops.fasta", "-o", tmp_path / "again.fasta")
    assert (tmp_path / "again.fasta").read_text().count(">") == 2


def test_images_come_from_folders_and_go_to_folders(tmp_path):
    run("generate", DIGITS, "-n", 2, "-o", tmp_path / "digits", "--class_label", 3)
    files = sorted((tmp_path / "digits").iterdir())
    assert len(files) == 2 and Image.open(files[0]).size == (8, 8)
    run("reconstruct", DIGITS, tmp_path / "digits", "-o", tmp_path / "again.npz")
    assert np.load(tmp_path / "again.npz")["images"].shape[0] == 2
    run("encode", DIGITS, tmp_path / "digits", "-o", tmp_path / "latents.jsonl")
    assert len(json.loads((tmp_path / "latents.jsonl").read_text().splitlines()[0])["embedding"]) == 16


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["reconstruct", "no/such/model/here", "x.txt"], "is not a saved pipeline"),
        (["reconstruct", TEXT, "missing.txt"], "missing.txt"),
        (["generate", TEXT, "-o", "samples.doc"], "`--output` must end in one of"),
        (["generate", TEXT, "-o", "no_such_folder/samples.txt"], "must lie in an existing folder"),
        (["generate", DIGITS], "must be a folder or a .npz file for images"),
        (["generate", TEXT, "-n", "0"], "`num_samples`"),
        (["score", TEXT, "x.txt", "-o", "scores.txt"], "use .csv or .jsonl"),
        (["optimize", PROTEIN, "-", "--target", "much"], "`--target` must be"),
        (["train", "music"], "`modality` must be one of"),
        (["train", "text", "--train", "missing.txt"], "missing.txt"),
    ],
)
def test_bad_input_is_named(tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError), match=re.escape(message)):
        run(*words, stdin="AAAAYDYWFDY\n")


def test_an_error_is_one_line_and_exit_code_1(tmp_path):
    result = subprocess.run(
        [sys.executable, "-c", "from hf_eddpm.cli.main import main; main()", "reconstruct", "no/such/model", "x.txt"],
        cwd=tmp_path,
        env={"PYTHONPATH": str(ROOT / "src"), "PATH": "", "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 1, result.stderr[-2000:]
    (line,) = result.stderr.splitlines()
    assert line.startswith("hf-eddpm: ") and "is not a saved pipeline" in line
    assert not result.stdout


def test_a_command_that_cannot_be_read_has_exit_code_2():
    assert run("generate").exit_code == 2
    assert run("generate", TEXT, "--num_samples", "many").exit_code == 2
    assert run("sing").exit_code == 2


def test_the_standard_input_is_read_as_files_are(tmp_path):
    plain = "the food was great .\nmy soup was cold .\n"
    expected = run("encode", TEXT, "-", stdin=plain).stdout
    for stdin in ("\ufeff" + plain, plain.replace("\n", "\r\n"), "  " + plain.replace("\n", " \n\n")):
        assert run("encode", TEXT, "-", stdin=stdin.encode()).stdout == expected
    with pytest.raises(ValueError, match="standard input is not UTF-8"):
        run("encode", TEXT, "-", stdin="caf\u00e9 .\n".encode("latin-1"))


def test_a_datum_may_be_longer_than_a_file_name():
    loop = "ARDGYYGSFDY"
    sentence = "the food was great and " * 20
    assert len(run("interpolate", TEXT, sentence, "my soup was cold .", "--num_steps", 3).stdout.splitlines()) == 3
    with pytest.raises(ValueError, match="`a` must hold proteins of 1 to 20 residues, got 330"):
        run("interpolate", PROTEIN, loop * 30, loop)


def test_sentences_that_are_too_long_are_refused_if_asked(sentences):
    sentences.write_text(sentences.read_text() + "good food " * 60 + "\n")
    run("reconstruct", TEXT, sentences)
    for command in ("reconstruct", "encode", "score"):
        with pytest.raises(ValueError, match="as `truncation` is False, got .* at position 3"):
            run(command, TEXT, sentences, "--no_truncation")
    with pytest.raises(ValueError, match="`--no_truncation` is for text"):
        run("encode", PROTEIN, "-", "--no_truncation", stdin="ARDGYYGSFDY\n")
    with pytest.raises(ValueError, match="`--no_truncation` must not be given with `--output_dir`"):
        run("encode", TEXT, sentences, "--no_truncation", "--output_dir", sentences.parent / "bulk")


@pytest.mark.parametrize(
    "words", [["reconstruct"], ["interpolate"], ["edit", "--scale", "0.5"], ["edit", "--probability", "0.6"]]
)
def test_what_a_chain_over_pixels_draws_has_a_seed(tmp_path, words):
    run("generate", DIGITS, "-n", 4, "-o", tmp_path / "digits")
    command, *options = words
    data = [tmp_path / "digits"] * (2 if command == "interpolate" else 1)
    if command == "edit":
        run("generate", DIGITS, "-n", 4, "--seed", 5, "-o", tmp_path / "others")
        options += ["--towards", tmp_path / "digits", "--away_from", tmp_path / "others"]
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run(command, DIGITS, *data, *options, "--seed", seed, "-o", tmp_path / f"{name}.npz")
    a, b, c = (np.load(tmp_path / f"{name}.npz")["images"] for name in "abc")
    assert np.array_equal(a, b) and not np.array_equal(a, c)
