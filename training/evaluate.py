"""Evaluates a checkpoint on held-out data. The first word says of which modality it is; the options follow.

    python training/evaluate.py text --checkpoint runs/yelp/pipeline --train train.txt.gz --dev dev.txt.gz
    python training/evaluate.py text --help

The same functions are `main` of `hf_eddpm.training.evaluate_text`, `evaluate_protein` and `evaluate_image`.
"""

import sys
from pathlib import Path

# The folder of this script holds this file, which would hide the library `evaluate`.
sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).resolve().parent]

MODALITIES = ("text", "protein", "image")


def main() -> None:
    """Evaluates the checkpoint that the command line names."""
    modality, *words = sys.argv[1:] or ["--help"]
    if modality in ("-h", "--help"):
        print(__doc__)
        return
    if modality not in MODALITIES:
        sys.exit(f"The first word must be one of {', '.join(MODALITIES)}, got {modality!r}.")
    from hf_eddpm.training.entry import run_modality

    run_modality("evaluate", modality, words)


if __name__ == "__main__":
    main()
