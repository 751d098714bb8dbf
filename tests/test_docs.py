"""The Python that README.md and the documentation show runs from top to bottom, and prints what they say it prints."""

import contextlib
import difflib
import io
import itertools
import re
from pathlib import Path

import pytest

from hf_eddpm import EDDPMConfig
from hf_eddpm.hub.card import ORGANISATION

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")), *sorted((ROOT / "docs" / "guides").glob("*.md"))]
BENCHMARKS = [page for page in sorted((ROOT / "docs" / "benchmarks").glob("*.md")) if page.stem != "index"]
# What a block holds that cannot run here: a repository of the Hub, a file of the reader's, an extra, a name that is
# the reader's. Other tests run these with stand-ins.
NOT_HERE = re.compile(rf"{ORGANISATION}/|my_sentences|import ray|reviews\.txt")
OWN_TESTS = {"adding-a-modality.md", "schedulers.md"}  # test_adding_a_modality.py; a snippet about a pipeline at hand
LONG = {"restoring.md"}  # takes a quarter of a minute
ALIKE = 0.8  # share of a printed text that must be as shown: other processors round otherwise


def blocks(page):
    """Return a page's Python blocks, each with the text that is shown after it as its output, or None."""
    fences = list(re.finditer(r"^```(\w*)\n(.*?)^```$", page.read_text(encoding="utf-8"), re.M | re.S))
    found = []
    for fence, following in itertools.zip_longest(fences, fences[1:]):
        if fence[1] == "python" and not NOT_HERE.search(fence[2]):
            shown = following is not None and following[1] == ""
            between = "" if following is None else following.string[fence.end() : following.start()].strip()
            found.append((fence[2], following[2] if shown and not between else None))
    return found


def _pages_with_code():
    return [page for page in PAGES if page.name not in OWN_TESTS and blocks(page)]


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=pytest.mark.slow if page.name in LONG else ()) for page in _pages_with_code()],
    ids=lambda page: page.relative_to(ROOT).as_posix(),
)
def test_the_code_of_a_page_runs_and_prints_what_it_says(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    names = {"__name__": "__main__"}
    for code, shown in blocks(page):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, page.name, "exec"), names)
        assert len(printed.getvalue().splitlines()) >= code.count("print(")  # tensors take several lines
        if shown is not None:
            assert difflib.SequenceMatcher(None, printed.getvalue(), shown, autojunk=False).ratio() >= ALIKE


def test_pages_with_output_are_among_them():
    assert {page.name for page in PAGES if any(shown for _, shown in blocks(page))} >= {"README.md", "start.md"}


def test_every_value_of_a_model_is_listed_with_its_default():
    text = (ROOT / "docs" / "reference" / "configuration.md").read_text(encoding="utf-8")
    listed = dict(re.findall(r"^\| `(\w+)` \| `([^`]*)` \| \S", text, re.M))
    own = {name: value for name, value in vars(EDDPMConfig).items() if name in EDDPMConfig.__annotations__}
    defaults = {name: value for name, value in own.items() if name not in ("sub_configs_defaults", "model_type")}
    assert listed == {name: repr(value).replace("'", '"') for name, value in defaults.items()}


def test_every_page_is_reached_from_the_first():
    """No page of the site is left out of its table of contents, and none is named that is not there."""
    docs = ROOT / "docs"
    listed = set()
    for index in (docs / "index.md", docs / "benchmarks" / "index.md", docs / "gallery" / "index.md"):
        for body in re.findall(r"```{toctree}\n(.*?)```", index.read_text(encoding="utf-8"), re.S):
            names = [line for line in body.splitlines() if line and not line.startswith(":")]
            listed |= {(index.parent / name).relative_to(docs).as_posix() for name in names}
    written = {"models/index", "reference/command-line"}  # by conf.py
    sources = [*docs.rglob("*.md"), *(docs / "notebooks").glob("*.ipynb")]
    pages = {path.relative_to(docs).with_suffix("").as_posix() for path in sources}
    generated = {page for page in pages if page.startswith("models/")} | written
    assert listed - generated == pages - generated - {"index"} - {p for p in pages if p.startswith("_build/")}


def test_links_between_pages_and_to_pictures_lead_somewhere():
    missing = []
    for page in [*PAGES, *sorted((ROOT / "docs" / "benchmarks").glob("*.md")), ROOT / "training" / "README.md"]:
        for target in re.findall(r"\]\((?!https?:)([^)#\s]+)", page.read_text(encoding="utf-8")):
            if not (page.parent / target).exists():
                missing.append(f"{page.name}: {target}")
    assert missing == []


def test_the_only_owner_of_models_in_the_documentation_is_the_placeholder():
    owners = set()
    for page in [*PAGES, *sorted((ROOT / "model_cards").glob("*/README.md"))]:
        calls = r"""(?:from_pretrained\(|push_to_hub\(|hf-eddpm push \S+ )["']?([\w.-]+)/"""
        owners |= set(re.findall(calls, page.read_text(encoding="utf-8")))
    assert owners - {"model_cards", "runs"} == {ORGANISATION}


@pytest.mark.parametrize("page", BENCHMARKS, ids=lambda page: page.stem)
def test_a_benchmark_starts_with_a_question_and_an_answer_that_its_numbers_are_in(page):
    title, question, answer, rest = page.read_text(encoding="utf-8").split("\n\n", 3)
    assert title.startswith("# ") and re.fullmatch(r"\*\*Question\.\*\* .*\?", question, re.S)
    assert answer.startswith("**Answer.** ") and len(answer.split()) < 110
    measured = set(re.findall(r"\d+(?:\.\d+)?", rest.replace(",", "")))
    stated = re.findall(r"(?<![\w.])\d+\.\d+", answer)
    rounded = {f"{float(number):.{places}f}" for number in measured for places in (1, 2, 3)}
    assert [number for number in stated if number not in measured | rounded] == []
