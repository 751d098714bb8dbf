"""This package as one file inside a checkpoint, for those who load it without installing the package.

diffusers and transformers run code from a repository file by file, and each file must stand alone. So the whole
package goes into one file, its modules line by line, and a copy lies where each of the two looks for it.
"""

import json
import sys
from pathlib import Path

from .checksums import renew_checksums

PACKAGE = __name__.partition(".")[0]
BUNDLE = "eddpm_code"
_LEFT_OUT = ("app", "bulk", "cli", "training")  # what a loaded pipeline does not use

_HEAD = '''\
"""hf_eddpm {version}: the whole package in one file, so that this checkpoint loads where it is not installed.

    DiffusionPipeline.from_pretrained(repository, trust_remote_code=True)
    AutoModel.from_pretrained(repository, subfolder="model", trust_remote_code=True)

Written by hf_eddpm; licence Apache-2.0. If hf_eddpm is installed, that is used and this file does nothing.
"""

import importlib
import importlib.abc
import importlib.util
import sys

'''
_TAIL = '''

class _Finder(importlib.abc.MetaPathFinder, importlib.abc.InspectLoader):
    """Finds and loads the modules in `_SOURCES`."""

    def find_spec(self, name, path=None, target=None):
        return importlib.util.spec_from_loader(name, self, is_package=name in _PACKAGES) if name in _SOURCES else None

    def get_source(self, name):
        return "\\n".join(_SOURCES[name])

    def is_package(self, name):
        return name in _PACKAGES


if importlib.util.find_spec("hf_eddpm") is None:
    sys.meta_path.append(_Finder())
_package = importlib.import_module("hf_eddpm")
globals().update({name: value for name, value in vars(_package).items() if name in _package.__all__})
'''


def write_code(folder: str | Path) -> None:
    """Add the package's code to a saved pipeline, which then needs `trust_remote_code=True` where it is not installed.

    Args:
        folder: A saved pipeline with whole weights.

    Raises:
        ValueError: If the folder is no saved pipeline, or holds an adapter, which only the package can load.
    """
    folder = Path(folder)
    if not (folder / "model_index.json").is_file():
        raise ValueError(f"`folder` must be a saved pipeline, got {str(folder)!r}, which has no model_index.json.")
    if (folder / "adapter").is_dir():
        raise ValueError("`with_code` needs whole weights: merge the adapter first (`merge_adapter`).")
    index = json.loads((folder / "model_index.json").read_text(encoding="utf-8"))
    components = {
        name: value
        for name, value in index.items()
        if isinstance(value, list) and str(value[0]).startswith("hf_eddpm")
    }
    # A list here, and files of these names, are how diffusers knows its remote code.
    index["_class_name"] = [BUNDLE, index["_class_name"]]
    index |= {name: [BUNDLE, class_name] for name, (_, class_name) in components.items()}
    code = bundle()
    files = [folder / name / f"{BUNDLE}.py" for name in components]
    for file in (folder / f"{BUNDLE}.py", *files):
        file.write_text(code, encoding="utf-8")
    config_file = folder / "model" / "config.json"
    config = json.loads(config_file.read_text(encoding="utf-8"))
    config["auto_map"] = {"AutoConfig": f"{BUNDLE}.EDDPMConfig", "AutoModel": f"{BUNDLE}.EDDPMModel"}
    config_file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "model_index.json").write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    renew_checksums(folder, [*files, config_file, folder / "model_index.json"])


def bundle() -> str:
    """Return the package's modules as the source of one module."""
    package = Path(__file__).parents[1]
    packages, lines = [], ["_SOURCES = {"]
    for path in sorted(package.rglob("*.py")):
        parts = path.relative_to(package).with_suffix("").parts
        if parts[0] in _LEFT_OUT:
            continue
        is_package = parts[-1] == "__init__"
        name = ".".join([PACKAGE, *(parts[:-1] if is_package else parts)])
        packages += [name] if is_package else []
        lines.append(f"    {name!r}: [")
        # Quoted lines: what looks for the imports of this file by regular expressions must not find theirs.
        lines += [f"        {line!r}," for line in path.read_text(encoding="utf-8").splitlines()]
        lines.append("    ],")
    lines += ["}", f"_PACKAGES = {packages!r}"]
    return _HEAD.format(version=sys.modules[PACKAGE].__version__) + "\n".join(lines) + "\n" + _TAIL
