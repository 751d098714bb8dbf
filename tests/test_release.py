"""What a release is checked for, and the files by which others cite, report and contribute."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import hf_eddpm

ROOT = Path(__file__).parent.parent
CHANGELOG = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def _script(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / ".ci" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("changelog", "message"),
    [
        ("# C\n\n## [Unreleased]\n\n## [1.0.0] - 2030-01-02\n\n- New.\n\n## [0.1.0] - 2029-01-01\n\n- Old.\n", None),
        ("# C\n\n## [1.0.0] - 2030-01-02\n\n- New.\n", None),
        ("# C\n\n## [Unreleased]\n\n- New.\n", "no heading `## [1.0.0] - YEAR-MONTH-DAY`"),
        ("# C\n\n## [Unreleased]\n\n- New.\n\n## [1.0.0] - 2030-01-02\n\n- x\n", "lists changes under Unreleased"),
        ("# C\n\n## [1.0.0] - unreleased\n\n- New.\n", "must end with the date, got `unreleased`"),
        ("# C\n\n## [1.0.0] - 2030-01-02\n\n## [0.1.0] - 2029-01-01\n\n- Old.\n", "says nothing of 1.0.0"),
        (
            "# C\n\n## [1.1.0] - 2030-01-02\n\n- x\n\n## [1.0.0] - 2029-01-01\n\n- y",
            "newest release in CHANGELOG.md is",
        ),
    ],
)
def test_a_version_is_released_only_if_the_changelog_describes_it(changelog, message):
    found = _script("check_changelog").problems("1.0.0", changelog)
    assert (found == []) if message is None else (len(found) == 1 and message in found[0])


def test_the_changelog_has_the_version_of_the_package_or_changes_for_the_next():
    found = _script("check_changelog").problems(hf_eddpm.__version__, CHANGELOG)
    assert not [problem for problem in found if "no heading" in problem or "newest release" in problem]


def test_the_ten_lines_run_from_anywhere(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    code = _script("ten_lines").ten_lines((ROOT / "README.md").read_text(encoding="utf-8"), ROOT)
    assert f'"{ROOT.as_posix()}/model_cards/' in code
    exec(compile(code, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.splitlines()) == code.count("print(")


@pytest.mark.parametrize(
    ("schema", "path"),
    [
        ("citation-file-format", "CITATION.cff"),
        ("github-issue-forms", ".github/ISSUE_TEMPLATE/bug.yml"),
        ("github-issue-forms", ".github/ISSUE_TEMPLATE/feature.yml"),
        ("github-issue-config", ".github/ISSUE_TEMPLATE/config.yml"),
    ],
)
def test_files_for_others_follow_their_schema(schema, path):
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", str(ROOT / path)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout + result.stderr


def test_the_software_is_cited_under_its_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["license"] == "Apache-2.0" and "Apache License" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert citation["preferred-citation"]["title"] and citation["title"].startswith("hf_eddpm")
