"""How much of a sentence comes back, by its length.

    python training/studies/sentences/lengths.py --checkpoint model_cards/eddpm-sentences --data data/sentences \\
        --output training/studies/sentences/results/lengths.json

`--data` is the folder that `prepare.py` wrote. Held-out sentences of each domain, those of `domains.py`, are put
together and parted by their tokens: BLEU and exact match in one pass and after 10 and 30 refinement steps.
"""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hf_eddpm import EDDPMPipeline
from hf_eddpm.hub.card import markdown_table
from hf_eddpm.training.environment import describe_command
from hf_eddpm.training.evaluation import finish_result

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the studies, which share code

from sentences.domains import DOMAINS, chosen, compare, parser_of_study

EDGES = (0, 8, 14, 20, 26, 34, 65)  # tokens; what has more than the model's longest is left out
STEPS = (0, 10, 30)


def measure(pipe: EDDPMPipeline, sentences: list[str]) -> list[dict[str, Any]]:
    """Return what comes back of the sentences of each range of lengths; empty ones are left out."""
    lengths = [len(ids) for ids in pipe.processor.tokenizer(sentences)["input_ids"]]
    copies = {steps: pipe.reconstruct(sentences, refinement_steps=steps) for steps in STEPS}
    found = []
    for least, edge in zip(EDGES, EDGES[1:], strict=False):
        rows = [row for row, length in enumerate(lengths) if least <= length < edge]
        if rows:
            originals = [sentences[row] for row in rows]
            ways = {str(steps): compare([some[row] for row in rows], originals) for steps, some in copies.items()}
            found.append({"least": least, "most": edge - 1, "sentences": len(rows), **ways})
    return found


def report(found: list[dict[str, Any]]) -> str:
    """Return the table."""
    return markdown_table(
        [
            {
                "tokens": f"{each['least']} to {each['most']}",
                "sentences": each["sentences"],
                **{
                    ("BLEU, one pass" if steps == 0 else f"{steps} refinement steps"): (
                        f"{each[str(steps)]['bleu']:.1f} ({each[str(steps)]['exact_match']:.2f} exact)"
                    )
                    for steps in STEPS
                },
            }
            for each in found
        ]
    )


def main(words: Sequence[str] | None = None) -> None:
    """Writes the JSON and the table."""
    parser = parser_of_study(__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="JSON file; the table goes beside it")
    parser.add_argument("--count", type=int, default=500, help="held-out sentences of a domain")
    words = sys.argv[1:] if words is None else list(words)
    arguments = parser.parse_args(words)
    start = time.perf_counter()
    pipe = EDDPMPipeline.from_pretrained(arguments.checkpoint)
    pipe.set_progress_bar_config(disable=True)
    sentences = [text for labels in DOMAINS.values() for text in chosen(arguments.data, labels, arguments.count)]
    found = measure(pipe, sentences)
    command = describe_command("training/studies/sentences/lengths.py", words)
    table = report(found)
    finish_result({"command": command, "lengths": found}, start, arguments.output, table)
    print(table)


if __name__ == "__main__":
    main()
