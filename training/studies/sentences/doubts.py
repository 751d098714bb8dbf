"""What candidates should be chosen by: several measures choose among the same draws, and a language model judges.

    python training/studies/sentences/doubts.py --checkpoint model_cards/eddpm-sentences --data data/sentences \\
        --language_model smollm2 --output training/studies/sentences/results/doubts.json

`--data` and `--language_model` are those of `samples.py`. Of each sample `--num_candidates` are drawn, and a measure
keeps the one that it finds the least of; with a penalty the samples are chosen one after another, as
`redundancy_penalty` has it, by that many standard deviations of the measure. Excess is how many nats per token the
language model needs more than for real sentences of the class and about the length; odd is more than it needs for 95 %
of them.
"""

import math
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from hf_eddpm.hub.card import markdown_table
from hf_eddpm.metrics.distinct_novelty import distinct_n
from hf_eddpm.surest import doubt, surest, uncertainty
from hf_eddpm.training.environment import describe_command
from hf_eddpm.training.evaluation import finish_result

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the studies, which share code

from sentences.samples import STEPS, LanguageModel, Samples, likelihoods_of_like_length, parser_of_judged

GUIDANCE, NOISE = 2.0, 1.0
PENALTIES = (0.0, 1.5, 3.0)  # standard deviations


@torch.no_grad()
def measures(samples: Samples, texts: list[str], latents: torch.Tensor, labels: list[int]) -> dict[str, torch.Tensor]:
    """Return what may say that a sample is wrong, larger where it is; `(num,)` each.

    Args:
        samples: It holds the pipeline.
        texts: What was decoded.
        latents: What it was decoded from, `(num, num_latents, latent_dim)`.
        labels: The class of each.
    """
    pipe = samples.pipe
    encoded = pipe.encode(texts).latents
    certainty = uncertainty(pipe.model, pipe.processor, texts, latents)
    away = (encoded - latents.float()).square().flatten(1).mean(1)
    errors = pipe.model.chain_errors(encoded, torch.tensor(labels))
    return {
        "the decoder's nats per token": certainty,
        "distance of where it is encoded": away,
        "both": certainty + away,
        "the denoiser's error": errors,
        "the denoiser's error by the length": doubt(pipe.model, pipe.processor, texts, torch.tensor(labels)),
    }


def judged(samples: Samples, texts: list[str], labels: list[int]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Return the excess of each text, and whether it is odd."""
    nats, tokens = samples.judge.nats(texts)
    excess, odd = np.zeros(len(texts)), np.zeros(len(texts), dtype=bool)
    for place, (text, label, own) in enumerate(zip(texts, labels, nats / tokens.clip(1), strict=True)):
        near = likelihoods_of_like_length(text, *samples.usual[label])
        excess[place], odd[place] = own - np.median(near), own > np.quantile(near, 0.95)
    return excess, odd


def chosen(samples: Samples, texts: list[str], doubts: torch.Tensor, count: int, penalty: float) -> list[int]:
    """Return which of the texts are kept, one for each of `count` samples; texts stand candidate by candidate."""
    places = torch.arange(len(texts), dtype=torch.float32).view(-1, count)
    rounds = [(texts[start : start + count], places[start // count]) for start in range(0, len(texts), count)]
    pipe, of_each = samples.pipe, (doubts / doubts.std()).view(-1, count)
    return surest(pipe.processor, rounds, of_each, penalty)[1].long().tolist()


def compare(samples: Samples, num_candidates: int, seed: int) -> dict[str, Any]:
    """Draws, measures, chooses and judges; returns what came of each measure."""
    count = len(samples.labels)
    generator = torch.Generator().manual_seed(seed)
    draws = [
        samples.pipe(
            count,
            class_labels=samples.labels,
            guidance_scale=GUIDANCE,
            noise_scale=NOISE,
            num_inference_steps=STEPS,
            generator=generator,
        )
        for _ in range(num_candidates)
    ]
    texts = [text for draw in draws for text in draw.samples]
    labels = samples.labels * num_candidates
    excess, odd = judged(samples, texts, labels)

    def describe(rows: list[int]) -> dict[str, float]:
        kept = [texts[row] for row in rows]
        return {
            "excess": float(excess[rows].mean()),
            "odd": float(odd[rows].mean()),
            "distinct_2": distinct_n(kept, 2),
            "words": float(np.mean([len(text.split()) for text in kept])),
        }

    found: dict[str, Any] = {"any": describe(list(range(count)))}
    for name, doubts in measures(samples, texts, torch.cat([draw.latents for draw in draws]), labels).items():
        of_class = [np.array(labels) == label for label in sorted(set(labels))]
        ranks = [spearmanr(doubts.numpy()[rows], excess[rows]).statistic for rows in of_class]
        found[name] = {"rank_correlation": float(np.mean(ranks))} | {
            f"penalty {penalty:g}": describe(chosen(samples, texts, doubts, count, penalty)) for penalty in PENALTIES
        }
    return found


def report(found: dict[str, Any]) -> str:
    """Return the table."""
    rows = []
    for name, values in found.items():
        for penalty in PENALTIES if name != "any" else (None,):
            own = values if penalty is None else values[f"penalty {penalty:g}"]
            rank = values.get("rank_correlation")
            rows.append(
                {
                    "kept by": name,
                    "rank correlation": "" if rank is None else f"{rank:.2f}",
                    "penalty": "" if penalty is None else f"{penalty:g}",
                    "times the perplexity of like sentences": f"{math.exp(own['excess']):.2f}",
                    "odd": f"{own['odd']:.3f}",
                    "distinct 2": f"{own['distinct_2']:.3f}",
                    "words": f"{own['words']:.1f}",
                }
            )
    return markdown_table(rows)


def main(words: Sequence[str] | None = None) -> None:
    """Writes the JSON and the table."""
    parser = parser_of_judged(__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, required=True, help="JSON file; the table goes beside it")
    parser.add_argument("--count", type=int, default=200, help="samples")
    parser.add_argument("--num_candidates", type=int, default=8, help="drawn for each")
    parser.add_argument("--seed", type=int, default=0, help="of the draws")
    words = sys.argv[1:] if words is None else list(words)
    arguments = parser.parse_args(words)
    start = time.perf_counter()
    judge = LanguageModel(arguments.language_model)
    samples = Samples(arguments.checkpoint, arguments.data, judge, arguments.count)
    found = compare(samples, arguments.num_candidates, arguments.seed)
    command = describe_command("training/studies/sentences/doubts.py", words)
    table = report(found)
    finish_result({"command": command, "measures": found}, start, arguments.output, table)
    print(table)


if __name__ == "__main__":
    main()
