import subprocess
import sys
from pathlib import Path

import pytest

import docstring_corpus
from docstring_corpus import MAX_WORDS, MIN_WORDS, docstring_summaries

MODULE = '''"""Read and write the *small* files of :mod:`this` project, e.g. its ``settings``. More about that."""

def add(a, b):
    """Return the sum of two numbers.

    A second paragraph.
    """

class Box:
    """A box that holds one thing"""

    def open(self):
        """Open the box
        without breaking it.
        """

    async def close(self):
        """Return the sum of two numbers."""

def too_short():
    """Do it."""

def code():
    """>>> add(1, 2) is what the example below shows."""

def mostly_names():
    """Call foo_bar baz_qux x1 y2 first."""
'''
SENTENCES = [
    "Read and write the small files of this project, e.g. its settings.",
    "Return the sum of two numbers.",
    "A box that holds one thing.",
    "Open the box without breaking it.",
]


@pytest.fixture
def packages(tmp_path, monkeypatch):
    """The only installed package is MODULE, beside files that can't be parsed or must be skipped."""
    (tmp_path / "box").mkdir()
    (tmp_path / "box" / "box.py").write_text(MODULE, encoding="utf-8")
    (tmp_path / "box" / "broken.py").write_text('"""A module that does not parse at all."""\ndef (:', encoding="utf-8")
    (tmp_path / "box" / "escape.py").write_text('"""Warn about an invalid escape here: \\d."""\n', encoding="utf-8")
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_box.py").write_text('"""Sentences from tests are left out."""\n', encoding="utf-8")
    monkeypatch.setattr(docstring_corpus.sysconfig, "get_path", lambda name: str(tmp_path))


def test_summaries_are_the_clean_first_sentences_each_once(packages):
    assert docstring_summaries() == SENTENCES


def test_limit_cuts_the_list_short(packages):
    assert docstring_summaries(limit=2) == SENTENCES[:2]
    with pytest.raises(ValueError, match="`limit` must be at least 1, got 0"):
        docstring_summaries(limit=0)


def test_installed_packages_give_many_sentences_in_a_fixed_order():
    summaries = docstring_summaries(limit=500)
    assert len(set(summaries)) == len(summaries) == 500
    assert all(MIN_WORDS <= len(summary.split()) <= MAX_WORDS and summary.endswith(".") for summary in summaries)
    assert docstring_summaries(limit=100) == summaries[:100]


def test_command_line_writes_one_sentence_a_line_and_the_same_in_every_process(tmp_path):
    output = tmp_path / "new folder" / "sentences.txt"
    subprocess.run([sys.executable, docstring_corpus.__file__, str(output), "--limit", "50"], check=True)
    assert Path(output).read_text(encoding="utf-8").splitlines() == docstring_summaries(limit=50)
