"""A corpus of short English sentences that every machine with Python has: the docstrings of its packages.

    python docs/examples/docstring_corpus.py runs/docstrings/sentences.txt

writes the one-sentence summaries of docstrings in the standard library and in the packages of the running environment,
one a line. The same environment always gives the same sentences in the same order; another environment gives others.
"""

import argparse
import ast
import re
import sysconfig
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

MIN_WORDS, MAX_WORDS = 4, 20
SKIPPED_FOLDERS = {"site-packages", "dist-packages", "test", "tests", "testing", "_vendor", "__pycache__"}
INLINE_MARKUP = re.compile(r":\w+(?::\w+)*:`([^`]*)`|``([^`]*)``|`([^`]*)`|\*\*(\S[^*]*)\*\*|(?<!\w)\*(\w[^*]*)\*")
SENTENCE_END = re.compile(r"(?<![A-Z])(?<!\be\.g)(?<!\bi\.e)(?<!\betc)(?<!\bvs)\.(?=\s|$)")
PLAIN_SENTENCE = re.compile(r"[A-Z][A-Za-z0-9 ,;:'()/_.-]*\.")
WORD = re.compile(r"[A-Za-z]+(?:['-][A-Za-z]+)*[,;:]?")


def docstring_summaries(limit: int = 20_000) -> list[str]:
    """Up to `limit` different summaries; files come in a fixed shuffled order, so that no package fills the list."""
    if limit < 1:
        raise ValueError(f"`limit` must be at least 1, got {limit}.")
    summaries: dict[str, None] = {}
    for path in _source_files():
        for docstring in _docstrings(path):
            summary = _summary(docstring)
            if summary is not None:
                summaries[summary] = None
                if len(summaries) == limit:
                    return list(summaries)
    return list(summaries)


def _source_files() -> list[Path]:
    files = {}
    for root in sorted({sysconfig.get_path(name) for name in ("stdlib", "purelib", "platlib")}):
        for path in Path(root).rglob("*.py"):
            relative = path.relative_to(root)
            if SKIPPED_FOLDERS.isdisjoint(relative.parts):
                files[path] = (zlib.crc32(relative.as_posix().encode()), relative.as_posix())
    return sorted(files, key=files.__getitem__)


def _docstrings(path: Path) -> Iterator[str]:
    """Docstrings of a module, its functions, classes and methods; none for a file that this Python can't parse."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in other people's files
            module = ast.parse(path.read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError):
        return
    stack: list[ast.AST] = [module]
    while stack:
        node = stack.pop()
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if docstring := ast.get_docstring(node):
                yield docstring
        if isinstance(node, ast.Module | ast.ClassDef):
            stack.extend(reversed(node.body))


def _summary(docstring: str) -> str | None:
    """The first sentence in plain English, or None where it holds code, markup or too few or too many words."""
    paragraph = " ".join(docstring.split("\n\n", 1)[0].split())
    text = INLINE_MARKUP.sub(lambda match: next(group for group in match.groups() if group is not None), paragraph)
    text = SENTENCE_END.split(text, maxsplit=1)[0].strip(" .") + "."
    words = text[:-1].split()
    if not MIN_WORDS <= len(words) <= MAX_WORDS or not PLAIN_SENTENCE.fullmatch(text):
        return None
    # at most one word in four may be a name, a number or the like
    if sum(WORD.fullmatch(word) is None for word in words) * 4 > len(words):
        return None
    return text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("output", type=Path, help="text file to write, one sentence a line")
    parser.add_argument("--limit", type=int, default=20_000, help="number of sentences (default: %(default)s)")
    arguments = parser.parse_args()
    summaries = docstring_summaries(arguments.limit)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text("".join(f"{summary}\n" for summary in summaries), encoding="utf-8")
    print(f"wrote {len(summaries)} sentences to {arguments.output}")


if __name__ == "__main__":
    main()
