"""The notebooks of the documentation run, and their stored output is what they print."""

import difflib
import importlib.util
from pathlib import Path

import nbformat
import pytest

DOCS = Path(__file__).parent.parent / "docs"
NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))
ALIKE = 0.8  # share of a printed text that must be as stored: other processors round otherwise

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def _code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def _text(cell):
    texts = [output.get("text") or output.get("data", {}).get("text/plain", "") for output in cell.outputs]
    return "\n".join(texts)


def _pictures(cell):
    return sum("image/png" in output.get("data", {}) for output in cell.outputs)


@each_notebook
def test_a_notebook_is_stored_with_its_output_and_without_traces_of_the_run(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert all(cell.outputs and cell.execution_count == row + 1 for row, cell in enumerate(_code_cells(notebook)))
    assert sum(map(_pictures, _code_cells(notebook))) >= 2
    text = path.read_text(encoding="utf-8")
    assert not [word for word in ("/home/", "/root/", "/tmp/", "site-packages", "Traceback") if word in text]
    assert path.stat().st_size < 400_000


def test_there_is_a_notebook_for_each_modality():
    assert [path.stem for path in NOTEBOOKS] == ["image", "protein", "text"]


@pytest.mark.slow
@each_notebook
def test_a_notebook_gives_what_is_stored(path):
    spec = importlib.util.spec_from_file_location("notebooks", DOCS / "figures" / "notebooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    stored, run = nbformat.read(path, as_version=4), module.execute(path)
    for before, after in zip(_code_cells(stored), _code_cells(run), strict=True):
        assert _pictures(before) == _pictures(after)
        assert difflib.SequenceMatcher(None, _text(before), _text(after), autojunk=False).ratio() >= ALIKE
