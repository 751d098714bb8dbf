"""Prints the first Python block of README.md with the checkpoints' absolute paths, to be run from anywhere.

python .ci/ten_lines.py
"""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def ten_lines(readme: str, root: Path) -> str:
    """Return the first Python block of a README.

    Args:
        readme: Its text.
        root: Folder in which `model_cards` lies.
    """
    block = re.search(r"^```python\n(.*?)^```$", readme, re.M | re.S)
    assert block is not None
    return block[1].replace('"model_cards/', f'"{root.as_posix()}/model_cards/')


if __name__ == "__main__":
    print(ten_lines((ROOT / "README.md").read_text(encoding="utf-8"), ROOT))
