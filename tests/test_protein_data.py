import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.utils import logging

from hf_eddpm.modalities.protein.data import ProteinData, load_proteins
from hf_eddpm.modalities.protein.residues import RESIDUES

SHARED = Path(__file__).parents[2] / "shared" / "data" / "protein"
ROWS = [("ACDX", 1.5), ("WYF", None), ("ACDX", -2.0)]
sequences = st.text(RESIDUES, min_size=1, max_size=30)


def _write(path, rows, columns=("sequence", "fitness")):
    """Writes rows in the format that the path's ending names."""
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        parquet.write_table(pa.table(dict(zip(columns, map(list, zip(*rows, strict=True)), strict=True))), path)
        return str(path)
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", encoding="utf-8", newline="") as file:
        if name.endswith(".jsonl"):
            file.writelines(json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in rows)
        elif name.endswith((".fa", ".fasta")):
            file.writelines(f">{header}\n{sequence}\n" for header, sequence in rows)
        else:
            writer = csv.writer(file, delimiter="\t" if name.endswith(".tsv") else ",")
            writer.writerows([columns, *rows])
    return str(path)


@pytest.mark.parametrize("ending", ["a2m", "a3m.gz"])
def test_of_an_alignment_gaps_and_insert_states_are_dropped_and_counted(tmp_path, ending, caplog):
    path = tmp_path / f"family.{ending}"
    opener = gzip.open if ending.endswith(".gz") else open
    with opener(path, "wt", encoding="utf-8") as file:
        file.write(">a\nAC-D.E\n>b x\nACghF-\n-W\n")
    logger = logging.get_logger("hf_eddpm.modalities.protein.data")
    logger.addHandler(caplog.handler)
    try:
        data = load_proteins(str(path))
    finally:
        logger.removeHandler(caplog.handler)
    assert data.sequences == ["ACDE", "ACFW"] and data.headers == ["a", "b x"]
    assert "4 gaps and 2 residues of insert states are dropped" in caplog.text
    path = tmp_path / "empty.a2m"
    path.write_text(">a\nAC\n>b\n--gh\n", encoding="utf-8")
    with pytest.raises(ValueError, match="line 3 .* has no match state"):
        load_proteins(str(path))


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "tsv", "jsonl.gz", "parquet"])
def test_tables_of_every_format_give_the_same_data(tmp_path, ending):
    data = load_proteins(_write(tmp_path / f"a.{ending}", ROWS))
    assert data.sequences == ["ACDX", "WYF", "ACDX"]
    np.testing.assert_array_equal(data.properties, [[1.5], [np.nan], [-2.0]])
    assert (data.property_names, data.headers, data.num_duplicates) == (["fitness"], None, 1)


def test_several_properties_and_none(tmp_path):
    rows = [("ACD", "1e-3", ""), ("W", "nan", "4")]
    path = _write(tmp_path / "a.csv", rows, ("protein", "binding", "stability"))
    data = load_proteins(path, sequence_column="protein", property_columns=["stability", "binding"])
    np.testing.assert_array_equal(data.properties, [[np.nan, 1e-3], [4, np.nan]])
    assert load_proteins(path, sequence_column="protein", property_columns=[]).properties.shape == (2, 0)


def test_a_sequence_that_reads_like_a_missing_value_is_a_sequence(tmp_path):
    assert load_proteins(_write(tmp_path / "a.csv", [("NA", 1), ("NAN", 2)])).sequences == ["NA", "NAN"]


@given(st.lists(st.tuples(sequences, st.none() | st.floats(allow_nan=False, allow_infinity=False)), min_size=1))
def test_what_is_written_is_read(tmp_path_factory, rows):
    data = load_proteins(_write(tmp_path_factory.mktemp("proteins") / "a.tsv.gz", rows))
    assert data.sequences == [sequence for sequence, _ in rows]
    np.testing.assert_array_equal(data.properties[:, 0], [np.nan if value is None else value for _, value in rows])


@pytest.mark.parametrize("ending", ["fasta", "fa.gz"])
def test_fasta_keeps_headers_and_joins_lines(tmp_path, ending):
    path = tmp_path / f"a.{ending}"
    text = "; a comment\n>P1 first one\r\nACD\r\nEF G\n\n>P2\nWY\n"
    path.write_bytes(gzip.compress(text.encode()) if ending.endswith("gz") else text.encode())
    data = load_proteins(str(path))
    assert (data.sequences, data.headers) == (["ACDEFG", "WY"], ["P1 first one", "P2"])
    assert data.properties.shape == (2, 1) and np.isnan(data.properties).all()


@given(st.lists(st.text(RESIDUES, min_size=1, max_size=150), min_size=1, max_size=5), st.integers(1, 80))
def test_fasta_of_any_line_width_gives_the_sequences_back(tmp_path_factory, chains, width):
    path = tmp_path_factory.mktemp("fasta") / "a.fasta"
    with open(path, "w") as file:
        for number, chain in enumerate(chains):
            lines = [chain[start : start + width] for start in range(0, len(chain), width)]
            file.write("\n".join([f">{number}", *lines]) + "\n")
    data = load_proteins(str(path))
    assert (data.sequences, data.headers) == (chains, [str(number) for number in range(len(chains))])


def test_a_table_and_a_fasta_file_can_be_read_together(tmp_path):
    table = _write(tmp_path / "a.csv", ROWS)
    fasta = _write(tmp_path / "b.fasta", [("P1", "WYF")])
    data = load_proteins([table, fasta])
    assert (len(data), data.headers, data.num_duplicates) == (4, None, 2)
    np.testing.assert_array_equal(data.properties[:, 0], [1.5, np.nan, -2.0, np.nan])


@given(sequences, st.integers(0, 5), st.integers(0, 5))
def test_padding_is_stripped_from_both_ends(tmp_path_factory, sequence, left, right):
    path = _write(tmp_path_factory.mktemp("padded") / "a.csv", [("J" * left + sequence + "J" * right, 0)])
    assert load_proteins(path, padding_symbol="J").sequences == [sequence]


def test_a_sample_keeps_order_and_properties():
    data = ProteinData(
        ["A" * n for n in range(1, 31)], np.arange(1.0, 31)[:, None], ["size"], [f"P{n}" for n in range(1, 31)]
    )
    sample = data.sample(7, seed=3)
    sizes = [len(sequence) for sequence in sample.sequences]
    assert sizes == sorted(set(sizes)) and len(sizes) == 7
    assert sample.properties[:, 0].tolist() == sizes and sample.headers == [f"P{size}" for size in sizes]
    assert sample.sequences == data.sample(7, seed=3).sequences != data.sample(7, seed=4).sequences
    assert data.sample(99, seed=0) is data
    with pytest.raises(ValueError, match="`num_sequences` must be at least 1, got 0"):
        data.sample(0, seed=0)


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        ("ACB*", r"Row 2 of .*unknown residues \['\*', 'B'\]; allowed are 'ACDEFGHIKLMNPQRSTVWYX'"),
        ("AC-D.", r"Row 2 of .*has gaps \['-', '\.'\]"),
        ("ACdE", r"Row 2 of .*lower-case letters \['d'\]; `upper_case=True`"),
        ("acde", r"Row 2 of .*lower-case letters"),
        ("", r"Row 2 of .*sequence is empty"),
        ("  ", r"Row 2 of .*sequence is empty"),
        ("AC DE", r"Row 2 of .*unknown residues \[' '\]"),
        ("ACJDE", r"Row 2 of .*unknown residues \['J'\]"),
    ],
)
def test_what_is_no_sequence_is_refused_with_its_row(tmp_path, sequence, message):
    path = _write(tmp_path / "a.csv", [("ACD", 1), (sequence, 2)])
    with pytest.raises(ValueError, match=message):
        load_proteins(path)


def test_case_and_padding_are_repaired_on_request_only(tmp_path):
    path = _write(tmp_path / "a.csv", [("JJacDEJ", 1)])
    assert load_proteins(path, padding_symbol="J", upper_case=True).sequences == ["ACDE"]
    path = _write(tmp_path / "b.csv", [("JACJDJ", 1)])
    with pytest.raises(ValueError, match="Row 1 of .*`padding_symbol` 'J' stands inside the sequence 'ACJD'"):
        load_proteins(path, padding_symbol="J")
    with pytest.raises(ValueError, match="Row 1 of .*sequence is empty"):
        load_proteins(_write(tmp_path / "c.csv", [("JJJ", 1)]), padding_symbol="J")


@pytest.mark.parametrize("value", ["high", "inf", "-inf", "1,5", True, [1.0]])
def test_a_property_that_is_no_finite_number_is_refused_with_its_row(tmp_path, value):
    path = _write(tmp_path / "a.jsonl", [("ACD", 1), ("ACD", None), ("ACE", value)])
    with pytest.raises(ValueError, match=r"Row 3 of .*`property_columns` 'fitness' must hold finite numbers .*got"):
        load_proteins(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (">P1\nACD\n>P2\n>P3\nAC\n", "The record at line 3 of .*sequence is empty"),
        (">P1\nACD\n>P2\n", "The record at line 3 of .*sequence is empty"),
        (">P1 a\nACD\n>P1 b\nAC\n", "The record at line 3 of .*repeats the id 'P1' of an earlier one .*line 1 of"),
        (">\nACD\n", "The record at line 1 of .*empty header"),
        ("ACD\n>P1\nACD\n", "Line 1 of .*no FASTA"),
        (">P1\nAC-D\n", "The record at line 1 of .*gaps"),
        (">P1\nacd\n", "The record at line 1 of .*lower-case"),
        ("", "holds no sequence"),
        ("; only a comment\n", "holds no sequence"),
    ],
)
def test_damaged_fasta_is_refused(tmp_path, text, message):
    path = tmp_path / "a.fasta"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        load_proteins(str(path))


def test_ids_must_differ_between_files(tmp_path):
    paths = [_write(tmp_path / f"{name}.fasta", [("P1", "ACD")]) for name in "ab"]
    with pytest.raises(ValueError, match=r"b\.fasta.*repeats the id 'P1' .*line 1 of .*a\.fasta"):
        load_proteins(paths)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv.gz", b"not compressed"),
        ("a.fasta.gz", gzip.compress(b">a\n" + b"ACD\n" * 99, mtime=0)[:-9]),
        ("a.fa", b">a\xe9\nACD"),
    ],
    ids=["not gzip", "cut off", "not UTF-8"],
)
def test_a_damaged_file_is_named(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{name}' is damaged or not UTF-8 text"):
        load_proteins(str(tmp_path / name))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sequence_column": "protein"}, r"`sequence_column` 'protein' is not in .*\['fitness', 'sequence'\]"),
        ({"property_columns": ["fitness", "binding"]}, r"`property_columns` 'binding' is not in"),
        ({"property_columns": "fitness"}, "`property_columns` must be a list of different columns"),
        ({"property_columns": ["fitness", "fitness"]}, "`property_columns` must be a list of different columns"),
        ({"padding_symbol": "A"}, "`padding_symbol` must be one character that is no residue, got 'A'"),
        ({"padding_symbol": "JJ"}, "`padding_symbol` must be one character"),
        ({"split": "train"}, "`split` is for Hub data sets"),
    ],
)
def test_wrong_arguments_are_named(tmp_path, arguments, message):
    path = _write(tmp_path / "a.csv", ROWS)
    with pytest.raises(ValueError, match=message):
        load_proteins(path, **arguments)


def test_wrong_sources_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="No such file.*missing"):
        load_proteins("missing.fasta")
    (tmp_path / "a.txt").write_text("ACD\n")
    with pytest.raises(ValueError, match=r"unknown ending; allowed are \.csv, .*\.fa"):
        load_proteins(str(tmp_path / "a.txt"))
    for source in ("", [], [3]):
        with pytest.raises(ValueError, match="`source` must be"):
            load_proteins(source)
    with pytest.raises(ValueError, match="must hold files only"):
        load_proteins([_write(tmp_path / "a.csv", ROWS), "user/dataset"])


def test_datasets_reads_a_folder(tmp_path):
    pytest.importorskip("datasets")
    _write(tmp_path / "train.csv", ROWS)
    data = load_proteins(str(tmp_path), split="train")
    assert data.sequences == ["ACDX", "WYF", "ACDX"] and np.isnan(data.properties[1, 0])


@pytest.mark.parametrize(
    ("name", "padding_symbol", "num_rows", "lengths"),
    [("gfp", None, 3780, {237}), ("gifford", "J", 6633, set(range(8, 19))), ("gb1", None, 11276, {56})],
)
def test_the_published_sets_are_read_whole(name, padding_symbol, num_rows, lengths):
    path = SHARED / name / "validation.csv.gz"
    if not path.is_file():
        pytest.skip(f"the data set {name} is not on this machine")
    data = load_proteins(str(path), padding_symbol=padding_symbol)
    assert len(data) == num_rows and not np.isnan(data.properties).any()
    assert set(map(len, data.sequences)) <= lengths


def test_classes_are_read_with_their_gaps_and_follow_their_rows(tmp_path):
    (tmp_path / "a.csv").write_text("sequence,kind\nACD,1\nEFG,\nHIK,0.0\n")
    (tmp_path / "b.fasta").write_text(">x\nLMN\n")
    files = [str(tmp_path / "a.csv"), str(tmp_path / "b.fasta")]
    data = load_proteins(files, property_columns=[], class_column="kind")
    assert data.classes == [1, -1, 0, -1]
    assert data.take([2, 0]).classes == [0, 1]
    assert load_proteins(files, property_columns=[]).classes is None


@pytest.mark.parametrize("value", ["-1", "0.5", "inf", "heavy"])
def test_a_class_that_is_no_integer_is_named_by_its_row(tmp_path, value):
    (tmp_path / "a.csv").write_text(f"sequence,kind\nACD,1\nEFG,{value}\n")
    with pytest.raises(ValueError, match=r"Row 2 of .*`class_column` 'kind' must hold integers of at least 0"):
        load_proteins(str(tmp_path / "a.csv"), property_columns=[], class_column="kind")
