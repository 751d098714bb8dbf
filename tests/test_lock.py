"""The lock: whatever is installed, directly or not, has its exact version there, for every Python we support."""

import re
import sys
from importlib import metadata
from pathlib import Path

import pytest
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
PYTHONS = ("3.10", "3.11", "3.12", "3.13")


def environment_of(python: str) -> dict[str, str]:
    """Return what markers are read against: a Python on Linux."""
    return default_environment() | {
        "python_version": python,
        "python_full_version": f"{python}.9",
        "sys_platform": "linux",
        "platform_system": "Linux",
    }


def applies(requirement: Requirement, python: str) -> bool:
    return requirement.marker is None or requirement.marker.evaluate(environment_of(python))


def locked(python: str) -> dict[str, str]:
    """Return name -> version of the lock for a Python on Linux."""
    requirements = [
        Requirement(line)
        for line in (ROOT / "requirements" / "lock.txt").read_text(encoding="utf-8").splitlines()
        if re.match(r"[a-z0-9]", line)
    ]
    chosen = [each for each in requirements if applies(each, python)]
    names = [canonicalize_name(each.name) for each in chosen]
    assert len(set(names)) == len(names), "a package is locked twice"
    versions = [str(each.specifier) for each in chosen]
    assert all(version.startswith("==") and "," not in version for version in versions)
    return {name: version.removeprefix("==") for name, version in zip(names, versions, strict=True)}


def declared() -> list[Requirement]:
    """Return what pyproject.toml names, in every extra."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    lines = [*project["dependencies"], *sum(project["optional-dependencies"].values(), [])]
    return [each for each in map(Requirement, lines) if canonicalize_name(each.name) != "hf-eddpm"]


@pytest.mark.parametrize("python", PYTHONS)
def test_the_lock_has_a_version_within_the_range_of_everything_we_name(python):
    versions = locked(python)
    outside = [
        f"{each} has {versions.get(canonicalize_name(each.name))}"
        for each in declared()
        if applies(each, python) and not each.specifier.contains(versions.get(canonicalize_name(each.name), "0"))
    ]
    assert not outside


def test_everything_installed_for_the_package_has_the_version_of_the_lock(request):
    if request.config.getoption("--versions") != "lock":
        pytest.skip("another end of the ranges is installed")
    versions = locked(f"{sys.version_info.major}.{sys.version_info.minor}")
    todo, seen, wrong = [("hf-eddpm", extra) for extra in ("", "train", "dev", "build")], set(), []
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen:
            continue
        seen.add((name, extra))
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            wrong.append(f"{name} is not installed")
            continue
        if name != "hf-eddpm" and distribution.version.partition("+")[0] != versions.get(name):
            wrong.append(f"{name}: installed {distribution.version}, locked {versions.get(name)}")
        for requirement in map(Requirement, distribution.requires or []):
            if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
                todo += [(canonicalize_name(requirement.name), each) for each in ("", *requirement.extras)]
    assert not wrong
