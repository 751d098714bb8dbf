"""Trains a model. The first word says what; its options follow.

    python training/train.py text training/configs/text_yelp_mini.json --train train.txt.gz --output_dir runs/yelp
    python training/train.py text --help

text, protein, image: a model of that modality. guide: a classifier that guides a checkpoint. distill: a denoiser for
one to four steps. The same functions are `main` of `hf_eddpm.training.train_text` and so on.
"""

import ast
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

# The folder of this script holds evaluate.py, which would hide the library `evaluate`.
sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).resolve().parent]

MODULES = {
    "text": "train_text",
    "protein": "train_protein",
    "image": "train_image",
    "guide": "train_guide",
    "distill": "distill",
}


def answer_help(module: str, words: list[str]) -> None:
    """Prints a module's options and ends the process, without importing the package, which takes seconds."""
    package = importlib.util.find_spec("hf_eddpm")
    if package is None or package.origin is None:
        raise ImportError('hf_eddpm is not installed: run `pip install ".[train]"` in the repository\'s folder.')
    folder = Path(package.origin).parent / "training"
    bare = sys.modules["bare"] = ModuleType("bare")  # the package's folder without what its __init__ imports
    bare.__path__ = [str(folder)]
    options = importlib.import_module("bare.options")
    text = ast.get_docstring(ast.parse((folder / f"{module}.py").read_text(encoding="utf-8")))
    options.answer_help(text, *options.OPTIONS[module], words=words)


def main() -> None:
    """Runs what the command line says."""
    what, *words = sys.argv[1:] or ["--help"]
    if what in ("-h", "--help"):
        print(__doc__)
        return
    if what not in MODULES:
        sys.exit(f"The first word must be one of {', '.join(MODULES)}, got {what!r}.")
    if not {"-h", "--help", "--help_all"}.isdisjoint(words):
        answer_help(MODULES[what], words)
    from hf_eddpm.training import entry

    if what == "guide":
        entry.run_guide(words)
    elif what == "distill":
        entry.run_distillation(words)
    else:
        entry.run_modality("train", what, words)


if __name__ == "__main__":
    main()
