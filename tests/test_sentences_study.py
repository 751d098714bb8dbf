"""The tables of training/studies/sentences/README.md are those of the study's files."""

import json
import re
from pathlib import Path

from sentences.domains import reconstruction_table

STUDY = Path(__file__).parent.parent / "training" / "studies" / "sentences"
README = (STUDY / "README.md").read_text(encoding="utf-8")


def _cells(table):
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in table.splitlines() if row.startswith("|")]


def test_what_comes_back_is_what_was_measured():
    result = json.loads((STUDY / "results" / "domains.json").read_text(encoding="utf-8"))
    rows = _cells(README)
    assert [row for row in _cells(reconstruction_table(result)) if row not in rows] == []
    for name in ("ours", "TF-IDF"):
        assert f"{100 * result['search'][name]:.0f} %" in README


def test_the_probes_are_those_of_the_logs():
    runs = json.loads((STUDY / "results" / "probes.json").read_text(encoding="utf-8")).values()
    measured = sorted(tuple(f"{point['nats_per_token']:.2f}" for point in run["loss"]) for run in runs)
    probes = README.partition("| run |")[2].partition("\n\n")[0]
    shown = sorted(tuple(re.findall(r"\b\d\.\d\d\b", row.split("|", 2)[2])) for row in probes.splitlines()[2:])
    assert shown == measured
