"""The way through the house: no circle of imports, whatever the kind of import, no long files."""

import ast
from pathlib import Path

SRC = Path(__file__).parent.parent / "src"
FILES = {
    ".".join(path.relative_to(SRC).with_suffix("").parts).removesuffix(".__init__"): path for path in SRC.rglob("*.py")
}


def imports_of(name: str) -> set[str]:
    """Return our modules that a module imports, at its top, inside functions, or for types only."""
    path = FILES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    found = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*start, *([node.module] if node.module else [])])
            found |= {f"{base}.{alias.name}" if f"{base}.{alias.name}" in FILES else base for alias in node.names}
    return {module for module in found if module in FILES and module != name}


GRAPH = {name: imports_of(name) for name in FILES}


def test_no_module_imports_itself_by_way_of_others():
    reached = {name: set(GRAPH[name]) for name in GRAPH}
    for _ in GRAPH:
        for modules in reached.values():
            for module in list(modules):
                modules |= reached[module]
    assert [name for name in GRAPH if name in reached[name]] == []


def test_nothing_imports_the_package_itself():
    assert [name for name, modules in GRAPH.items() if "hf_eddpm" in modules] == []


def test_files_are_short_enough_to_be_read():
    lengths = {name: len(path.read_text(encoding="utf-8").splitlines()) for name, path in FILES.items()}
    assert {name: length for name, length in lengths.items() if length > 450} == {}
    assert lengths["hf_eddpm.modeling_eddpm"] <= 350
