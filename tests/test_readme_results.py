"""The numbers of README.md and of the benchmarks' first page are those of the files."""

import json
import re
import shutil
from pathlib import Path

import pytest

import readme_tables.run as readme_results
from readme_tables.comparison import FRONTS, METHODS, REAL, compare
from readme_tables.run import BEGIN, END, PAGES, ROWS, rewrite

ROOT = Path(__file__).parent.parent
TEXTS = {page: (ROOT / page).read_text(encoding="utf-8") for page in PAGES}
NUMBERS = "docs/benchmarks/index.md"
each_page = pytest.mark.parametrize("page", PAGES)


def _section(text):
    return text.partition(BEGIN)[2].partition(END)[0]


@each_page
def test_the_page_is_what_the_script_writes(page):
    assert rewrite(TEXTS[page], page) == TEXTS[page], "run `python training/studies/readme_tables/run.py`"


def test_a_number_changed_by_hand_does_not_pass(tmp_path):
    for page, text in TEXTS.items():
        (tmp_path / page).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / page).write_text(text, encoding="utf-8")
    assert readme_results.main(["--check", "--folder", str(tmp_path)]) == 0
    section = _section(TEXTS[NUMBERS])
    value = re.search(r"\| ([\d.]+), [\d.]+ \| `model_cards", section)[1]
    changed = TEXTS[NUMBERS].replace(section, section.replace(value, "99.9", 1))
    (tmp_path / NUMBERS).write_text(changed, encoding="utf-8")
    assert readme_results.main(["--check", "--folder", str(tmp_path)]) == 1
    assert (tmp_path / NUMBERS).read_text(encoding="utf-8") == changed  # a check writes nothing
    assert readme_results.main(["--folder", str(tmp_path)]) == 0
    assert (tmp_path / NUMBERS).read_text(encoding="utf-8") == TEXTS[NUMBERS]


def test_a_measurement_made_anew_changes_its_row_alone(tmp_path):
    for file in {row.file for row in ROWS} | {"model_cards/eddpm-yelp/training.json"}:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / file, tmp_path / file)
    for front in FRONTS:
        shutil.copytree(ROOT / front.folder, tmp_path / front.folder, dirs_exist_ok=True)
    assert rewrite(TEXTS[NUMBERS], NUMBERS, tmp_path) == TEXTS[NUMBERS]
    file = tmp_path / "model_cards/eddpm-digits/evaluation.json"
    result = json.loads(file.read_text())
    result["reconstruction"]["mse"] = 0.5432
    file.write_text(json.dumps(result))
    before, after = (
        _section(text).splitlines() for text in (TEXTS[NUMBERS], rewrite(TEXTS[NUMBERS], NUMBERS, tmp_path))
    )
    (changed,) = (row for row in after if row not in before)
    assert len(before) == len(after) and re.search(r"\| 0\.5432\b", changed)


def test_rows_of_a_file_that_is_not_there_yet_are_left_out(tmp_path):
    file = "training/studies/ood/results/gifford.json"
    (tmp_path / file).parent.mkdir(parents=True)
    shutil.copyfile(ROOT / file, tmp_path / file)
    assert [row.count("|") for row in readme_results.table(tmp_path).splitlines()] == [4, 4, 4]


def test_methods_are_compared_by_the_mean_over_their_seeds(tmp_path):
    front = next(front for front in FRONTS if "Gifford" in front.title)
    folder = tmp_path / front.folder
    folder.mkdir(parents=True)
    recipes = [
        ("paper", 1.0, 0.2, 3.0),
        ("paper", 1.0, 0.4, 5.0),
        ("paper", 3.0, 0.9, 9.0),
        ("language model", 5, None, 2),
    ]
    for number, (recipe, value, exact, frechet) in enumerate(recipes):
        result = {"recipe": recipe, "value": value, "frechet": frechet, "real_frechet": 0.5}
        result |= {} if exact is None else {"exact_match": exact}
        (folder / f"{number}.json").write_text(json.dumps(result))
    assert compare(tmp_path).splitlines() == [
        f"| method | {front.title} |",
        "| --- | --- |",
        f"| {METHODS[1]} | 0.300 ± 0.141; 4.000 ± 1.414 |",
        f"| {METHODS[-1]} | none; 2.000 |",
        f"| {REAL} | 0.500 |",
    ]


def test_every_method_that_a_front_names_has_results():
    for front in FRONTS:
        files = [json.loads(file.read_text(encoding="utf-8")) for file in (ROOT / front.folder).glob("*.json")]
        for wanted in front.points.values():
            assert any(wanted.items() <= file.items() for file in files), wanted


def test_every_row_names_a_file_of_the_repository_and_the_script_that_writes_it():
    assert [row.file for row in ROWS if not (ROOT / row.file).is_file()] == []
    assert [row.script for row in ROWS if not (ROOT / "training" / row.script.split()[0]).is_file()] == []


@each_page
def test_a_page_without_its_markers_is_refused(page):
    for text in ("# README\n", TEXTS[page].replace(END, ""), TEXTS[page].replace(BEGIN, "")):
        with pytest.raises(ValueError, match=rf"{re.escape(page)} must hold"):
            rewrite(text, page)
