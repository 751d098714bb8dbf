"""Tables of text samplers in docs/benchmarks/few-steps.md, from what samplers.py measured.

python training/studies/schedulers/page.py
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the studies, which share code

from schedulers.samplers import FOLDER, report

PAGE = Path(__file__).resolve().parents[3] / "docs" / "benchmarks" / "few-steps.md"
BEGIN = "<!-- samplers: written by training/studies/schedulers/page.py -->"
END = "<!-- end of samplers -->"


def rewrite(page: str, results: Path = FOLDER) -> str:
    """Returns the page with the table of each checkpoint between its markers.

    Args:
        page: The text of the page.
        results: Where the JSON files lie.
    """
    parts = []
    for file in sorted(results.glob("*-samplers.json")):
        result = json.loads(file.read_text(encoding="utf-8"))
        about = f"{result['checkpoint']}, {result['num_samples']:,} samples, {len(result['seeds'])} sampling seeds"
        parts += [f"{about}:", report(result)]
    before, _, rest = page.partition(BEGIN)
    return f"{before}{BEGIN}\n\n" + "\n\n".join(parts) + f"\n\n{END}{rest.partition(END)[2]}"


def main() -> None:
    """Writes the page."""
    PAGE.write_text(rewrite(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
