import csv
import gzip
import json
import logging

import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_eddpm.modalities.text.data import SplicedSentences, TextData, load_text

LABELLED = [("good food .", 1), ("cold soup .", 0), ('she said "no" , twice', 0), ("good food .", 1)]


def _write(path, rows):
    """Writes rows of (text, label) in the format that the path's ending names."""
    opener = gzip.open if path.suffix == ".gz" else open
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        texts, labels = [text for text, _ in rows], [label for _, label in rows]
        parquet.write_table(pa.table({"review": texts, "stars": labels}), path)
        return path
    with opener(path, "wt", encoding="utf-8", newline="") as file:
        if name.endswith(".txt"):
            file.writelines(f"{text}\n" for text, _ in rows)
        elif name.endswith(".jsonl"):
            file.writelines(json.dumps({"review": text, "stars": label}) + "\n" for text, label in rows)
        else:
            writer = csv.writer(file, delimiter="\t" if name.endswith(".tsv") else ",")
            writer.writerows([("review", "stars"), *rows])
    return path


@pytest.mark.parametrize("ending", ["csv", "csv.gz", "tsv", "tsv.gz", "jsonl", "jsonl.gz", "parquet"])
def test_tables_of_every_format_give_the_same_data(tmp_path, ending):
    path = _write(tmp_path / f"reviews.{ending}", LABELLED)
    data = load_text(str(path), text_column="review", label_column="stars")
    assert list(zip(data.sentences, data.labels, strict=True)) == LABELLED
    assert (data.num_empty, data.num_duplicates, data.classes) == (0, 1, [0, 1])
    assert load_text(str(path), text_column="review").labels is None


@pytest.mark.parametrize("ending", ["txt", "txt.gz"])
def test_plain_text_takes_its_label_from_the_argument(tmp_path, ending):
    negative = _write(tmp_path / f"train.0.{ending}", [("cold soup .", 0), ("slow .", 0)])
    positive = _write(tmp_path / f"train.1.{ending}", [("good food .", 1)])
    data = load_text([f"{negative}=0", f"{positive}=1"])
    assert data.sentences == ["cold soup .", "slow .", "good food ."]
    assert data.labels == [0, 0, 1]
    assert data.of_class(0) == ["cold soup .", "slow ."]
    assert load_text([str(negative), str(positive)]).labels is None


def test_a_path_that_looks_like_a_label_is_a_path_if_it_exists(tmp_path):
    folder = tmp_path / "run=1"
    folder.mkdir()
    path = _write(folder / "a.txt", [("one", 0)])
    assert load_text(f"{path}=7").labels == [7]
    assert load_text(str(path)).labels is None


def test_empty_lines_are_counted_and_reported(tmp_path, monkeypatch):
    warnings = []
    monkeypatch.setattr(logging.getLogger("hf_eddpm.modalities.text.data"), "warning", warnings.append)
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeffone\r\n\r\n  \t \ntwo\n\n".encode())
    data = load_text(str(path))
    assert data.sentences == ["one", "two"]
    assert data.num_empty == 3
    assert len(warnings) == 1 and "3 empty lines" in warnings[0] and str(path) in warnings[0]


def test_missing_values_count_as_empty(tmp_path):
    path = _write(tmp_path / "a.parquet", [("one", 1), (None, 0), ("two", 0)])
    data = load_text(str(path), text_column="review", label_column="stars")
    assert (data.sentences, data.labels, data.num_empty) == (["one", "two"], [1, 0], 1)


@given(st.lists(st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20), min_size=1, max_size=20))
def test_every_line_is_kept_or_counted(tmp_path_factory, lines):
    path = tmp_path_factory.mktemp("text") / "a.txt.gz"
    _write(path, [(line, 0) for line in lines])
    kept = [line.strip() for line in lines if line.strip()]
    if not kept:
        with pytest.raises(ValueError, match="holds no sentence"):
            load_text(str(path))
        return
    data = load_text(str(path))
    assert data.sentences == kept
    assert len(data) + data.num_empty == len(lines)
    assert data.num_duplicates == len(kept) - len(set(kept))


@given(st.integers(1, 30), st.integers(1, 40), st.integers(0, 99))
def test_a_sample_keeps_labels_and_order(size, num_sentences, seed):
    data = TextData([f"sentence {i}" for i in range(size)], [i % 3 for i in range(size)])
    sample = data.sample(num_sentences, seed)
    rows = [int(sentence.split()[1]) for sentence in sample.sentences]
    assert rows == sorted(set(rows)) and len(rows) == min(size, num_sentences)
    assert sample.labels == [row % 3 for row in rows]
    assert sample == data.sample(num_sentences, seed)


def test_datasets_reads_a_folder(tmp_path):
    pytest.importorskip("datasets")
    _write(tmp_path / "train.csv", LABELLED)
    data = load_text(str(tmp_path), split="train", text_column="review", label_column="stars")
    assert list(zip(data.sentences, data.labels, strict=True)) == LABELLED
    with pytest.raises(ValueError, match=r"`split` is required"):
        load_text(str(tmp_path), text_column="review")
    with pytest.raises(ValueError, match=r"`text_column` 'text' is not in .*'review', 'stars'"):
        load_text(str(tmp_path), split="train")


@pytest.mark.parametrize("source", ["missing.txt", "./missing", "user/folder/missing.bin", "missing.csv.gz=1"])
def test_a_missing_file_is_named(source):
    with pytest.raises(FileNotFoundError, match="No such file.*missing"):
        load_text(source)


@pytest.mark.parametrize("name", ["a.docx", "a.parquet.gz", "a"])
def test_an_unknown_ending_names_the_allowed_ones(tmp_path, name):
    (tmp_path / name).write_text("one\n")
    with pytest.raises(ValueError, match=r"unknown ending; allowed are \.txt, \.csv"):
        load_text(str(tmp_path / name))


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
@pytest.mark.parametrize("argument", ["text_column", "label_column"])
def test_a_missing_column_names_the_available_ones(tmp_path, ending, argument):
    path = _write(tmp_path / f"a.{ending}", LABELLED)
    columns = {"text_column": "review", "label_column": "stars"} | {argument: "wrong"}
    with pytest.raises(ValueError, match=rf"`{argument}` 'wrong' is not in .*\['review', 'stars'\]"):
        load_text(str(path), **columns)


def test_contradicting_label_arguments_are_refused(tmp_path):
    text = _write(tmp_path / "a.txt", [("one", 0)])
    table = _write(tmp_path / "a.csv", LABELLED)
    with pytest.raises(ValueError, match=r"without one: \['.*a\.csv'\]"):
        load_text([f"{text}=0", str(table)], text_column="review")
    with pytest.raises(ValueError, match="choose one of them"):
        load_text(f"{table}=0", text_column="review", label_column="stars")
    with pytest.raises(ValueError, match="Plain text has no `label_column`"):
        load_text(str(text), label_column="stars")
    with pytest.raises(ValueError, match="`split` is for Hub data sets"):
        load_text(str(text), split="train")
    with pytest.raises(ValueError, match="must hold files only"):
        load_text([str(text), "user/dataset"])
    with pytest.raises(ValueError, match="got 2 labels for 1 sentences"):
        TextData(["one"], [0, 1])


@pytest.mark.parametrize("label", ["positive", None, 0.5])
def test_labels_must_be_integers(tmp_path, label):
    path = _write(tmp_path / "a.jsonl", [("one", 1), ("two", label)])
    with pytest.raises(ValueError, match=r"Row 2 of .*`label_column` 'stars' must hold integers"):
        load_text(str(path), text_column="review", label_column="stars")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.txt", b"\n \n", r"holds no sentence \(2 empty lines\)"),
        ("a.txt", b"caf\xe9\n", "damaged or not UTF-8"),
        ("a.txt.gz", b"not compressed", "damaged or not UTF-8"),
        ("a.txt.gz", gzip.compress(b"one\n" * 99, mtime=0)[:-9], "damaged or not UTF-8"),
        ("a.jsonl", b'{"text": "one"}\n{"text": \n', "Line 2 .* is not JSON"),
        ("a.jsonl", b'["one"]\n', "Line 1 .* must be a JSON object, got list"),
        ("a.jsonl", b'{"text": 3}\n', "Row 1 .* must be a string, got int"),
        ("a.csv", b"text,label\none, two,1\n", "Line 2 .* more fields than the header"),
        ("a.csv", b'text\n"one" two\n', "is malformed after line 1"),
        ("a.parquet", b"PAR1", "damaged or not a parquet file"),
    ],
)
def test_damaged_files_are_refused(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        load_text(str(path))


TEXTS = {
    "a.txt": "gr\u00fcn one\ntwo\n",
    "a.csv": "text\ngr\u00fcn one\ntwo\n",
    "a.tsv": "text\ngr\u00fcn one\ntwo\n",
    "a.jsonl": '{"text": "gr\u00fcn one"}\n{"text": "two"}\n',
}


@pytest.mark.parametrize("name", TEXTS)
def test_a_byte_order_mark_is_no_text_and_other_encodings_are_named(tmp_path, name):
    path = tmp_path / name
    path.write_bytes(TEXTS[name].encode("utf-8-sig"))
    assert load_text(str(path)).sentences == ["gr\u00fcn one", "two"]
    for encoding, message in (("utf-16", "UTF-16"), ("utf-16-le", "UTF-16"), ("latin-1", "not UTF-8")):
        path.write_bytes(TEXTS[name].encode(encoding))
        with pytest.raises(ValueError, match=message):
            load_text(str(path))


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    for name, content in (("a.csv", "text,text\na,b\n"), ("a.tsv", "text\ttext\na\tb\n"), ("a.jsonl", None)):
        (tmp_path / name).write_text(content or '{"text": "a"}\n{"text": "a", "text": "b"}\n')
        with pytest.raises(ValueError, match="has several columns 'text'"):
            load_text(str(tmp_path / name))
    table = pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"])
    parquet.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(ValueError, match="has several columns 'text'"):
        load_text(str(tmp_path / "a.parquet"))


def test_a_lone_quote_in_tab_separated_values_is_a_character(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('text\tlabel\n5" screen\t0\n"whole"\t1\n"half\t1\n')
    data = load_text(str(path), label_column="label")
    assert data.sentences == ['5" screen', "whole", '"half'] and data.labels == [0, 1, 1]


def test_equal_sentences_with_different_labels_stay_separate_rows(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\nsame,0\nsame,1\nsame,0\n")
    data = load_text(str(path), label_column="label")
    assert data.sentences == ["same"] * 3 and data.labels == [0, 1, 0] and data.num_duplicates == 2


@pytest.mark.parametrize("source", ["", [], [3]])
def test_an_empty_source_is_refused(source):
    with pytest.raises(ValueError, match="`source` must be"):
        load_text(source)


def test_splices_join_the_start_of_one_sentence_and_a_piece_of_another_and_are_marked():
    sentences = ["a b c d", "e f g", "h i j k l"]
    spliced = SplicedSentences(sentences, 0.5)
    items = [spliced.at_epoch(epoch)[index] for epoch in range(200) for index in range(3)]
    real = [item["data"] for item in items if item["diffusion_mask"]]
    assert set(real) == set(sentences)
    assert 0.42 < len(real) / len(items) < 0.58
    for item in items:
        words = item["data"].split()
        assert 1 <= len(words) <= 5
        heads = [sentence for sentence in sentences if sentence.split()[0] == words[0]]
        assert len(heads) == 1
        kept = next(n for n in range(len(words), 0, -1) if heads[0].split()[:n] == words[:n])
        assert any(" ".join(words[kept:]) in sentence for sentence in sentences)


def test_a_sentence_keeps_its_class():
    items = SplicedSentences(["a b", "c d", "e f"], 0.5, [2, 0, 1])
    assert [items[index]["class_labels"] for index in (0, 1, 2, 0)] == [2, 0, 1, 2]
    assert "class_labels" not in SplicedSentences(["a b"], 0.5)[0]


def test_no_sentence_is_spliced_at_probability_0_and_1_is_refused():
    assert [SplicedSentences(["a b", "c"], 0.0)[i]["data"] for i in range(2)] == ["a b", "c"]
    with pytest.raises(ValueError, match="`probability`"):
        SplicedSentences(["a b"], 1.0)
