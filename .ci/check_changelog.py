"""Exits with what is missing unless CHANGELOG.md describes the version of the package as a release.

python .ci/check_changelog.py
"""

import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def problems(version: str, changelog: str) -> list[str]:
    """Return what keeps a version from being released.

    Args:
        version: The package's `__version__`.
        changelog: Text of CHANGELOG.md.
    """
    found = []
    sections = re.findall(r"^## \[([^\]]+)\]([^\n]*)\n(.*?)(?=^## |\Z)", changelog, re.M | re.S)
    names = [name for name, _, _ in sections]
    if version not in names:
        return [f"CHANGELOG.md has no heading `## [{version}] - YEAR-MONTH-DAY`: move what is under Unreleased there."]
    released = [name for name in names if name != "Unreleased"]
    if released[0] != version:
        found.append(f"The newest release in CHANGELOG.md is {released[0]}, `__version__` is {version}.")
    for name, rest, body in sections:
        if name == "Unreleased" and body.strip():
            found.append(f"CHANGELOG.md lists changes under Unreleased: move them to {version}.")
        if name == version and not re.fullmatch(r" - \d{4}-\d\d-\d\d", rest):
            found.append(f"The heading of {version} in CHANGELOG.md must end with the date, got `{rest.strip(' -')}`.")
        if name == version and not body.strip():
            found.append(f"CHANGELOG.md says nothing of {version}.")
    return found


def main() -> None:
    """Check this repository."""
    source = (ROOT / "src" / "hf_eddpm" / "__init__.py").read_text(encoding="utf-8")
    version = re.search(r'^__version__ = "([^"]+)"$', source, re.M)
    assert version is not None
    found = problems(version[1], (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"))
    if found:
        sys.exit("\n".join(found))


if __name__ == "__main__":
    main()
