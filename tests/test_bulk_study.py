"""The numbers in the pages on bulk jobs and serving are those of the studies' files, and say what the pages claim."""

import json
from pathlib import Path

ROOT = Path(__file__).parent.parent
STUDIES = ROOT / "training" / "studies"


def _page(name):
    return (ROOT / "docs" / "guides" / name).read_text(encoding="utf-8")


def _results(study, name):
    return json.loads((STUDIES / study / "results" / f"{name}.json").read_text(encoding="utf-8"))


def test_the_cost_of_a_million_sentences_is_what_was_measured():
    page = _page("scale.md")
    for task, facts in _results("bulk", "cost")["tasks"].items():
        row = f" | {facts['rows_per_cpu_second']:,.0f} | {facts['cpu_hours_per_million']:.2f} |"
        assert any(line.startswith(f"| {task}") and line.endswith(row) for line in page.splitlines()), task
        assert abs(1e6 / facts["rows_per_cpu_second"] / 3600 - facts["cpu_hours_per_million"]) < 0.01


def test_the_memory_of_a_bulk_job_is_flat_over_a_million_rows():
    page = _page("scale.md")
    for task, facts in _results("bulk", "memory")["tasks"].items():
        tenths = list(facts["rss_mb_by_tenth"].values())
        assert facts["rows"] == 1_000_000 and len(tenths) == 10
        assert max(tenths) < 1.1 * tenths[0]
        cells = [facts["cpu_seconds"], *tenths[::3], max(tenths)]
        assert f"| {task} | " + " | ".join(f"{cell:,.0f}" for cell in cells) + " |" in page


def test_the_load_on_a_server_is_what_was_measured_and_its_memory_is_flat():
    page, results = _page("serving.md"), _results("serving", "load")
    for verb, ways in results["load"].items():
        for way, facts in ways.items():
            cells = [facts["p50_ms"], facts["p95_ms"], facts["requests_per_second"]]
            assert f"| {verb} | {way} | " + " | ".join(f"{cell:,.0f}" for cell in cells) + " |" in page
    rss = results["memory"]["rss_mb_by_tenth"]
    assert results["memory"]["requests"] >= 5000 and rss[-1] < 1.1 * rss[1]
    assert f"{rss[1]:.0f} to {rss[-1]:.0f} MB" in page
