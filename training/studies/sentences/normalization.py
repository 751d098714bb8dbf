"""What a checkpoint loses by its batches' statistics: held-out nats per token by them and by running statistics.

    python training/studies/sentences/normalization.py --data data/sentences \\
        --checkpoints model_cards/eddpm-sentences model_cards/eddpm-yelp \\
        --output training/studies/sentences/results/normalization.json

`--data` is the folder that `prepare.py` wrote. In training, latents are normalised by the statistics of their batch;
afterwards by running statistics. Where the batches are of sentences of like length, as in the trainings of these
checkpoints, the two differ, and the decoder has learned the former.
"""

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

import torch

from hf_eddpm import EDDPMPipeline
from hf_eddpm.latents import LatentNormalization
from hf_eddpm.training.environment import describe_environment

BATCH = 250
COUNT = 500  # sentences of each class


@torch.no_grad()
def nats_per_token(pipe: EDDPMPipeline, batches: Sequence[list[str]]) -> dict[str, float]:
    """Return the reconstruction loss over batches, by their own statistics and by the running ones."""
    model = pipe.model
    running: LatentNormalization = model.bottleneck.normalization
    own = LatentNormalization(model.config.num_latents, model.config.latent_dim, eps=running.eps).eval()
    ways = {"by its batch": own, "by running statistics": running}
    totals, count = dict.fromkeys(ways, 0.0), 0
    for batch in batches:
        tensors, _ = pipe.processor.prepare(batch)
        inputs, targets = model.split_inputs(tensors)
        means = model.bottleneck.project(model.encoder(**inputs)).float()
        own.set_statistics(means)
        for name, normalization in ways.items():
            nats, num_tokens = model.decoder(normalization(means).to(model.dtype), **targets)
            totals[name] += float(nats.sum())
        count += int(num_tokens.sum())
    return {name: total / count for name, total in totals.items()}


def main(words: Sequence[str] | None = None) -> None:
    """Writes the JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoints", nargs="+", required=True, help="folders or Hub ids of pipelines")
    parser.add_argument("--data", type=Path, required=True, help="folder that prepare.py wrote")
    parser.add_argument("--output", type=Path, required=True, help="JSON file")
    arguments = parser.parse_args(words)
    found = {}
    for name in arguments.checkpoints:
        pipe = EDDPMPipeline.from_pretrained(name, dtype=torch.float32)
        classes = range(5 if pipe.model.config.num_classes == 5 else 2)  # the others know reviews alone
        lines = [(arguments.data / f"dev.{label}.txt").read_text(encoding="utf-8").splitlines() for label in classes]
        sentences = [text for each in lines for text in random.Random(0).sample(each, min(COUNT, len(each)))]
        tokens = pipe.processor.tokenizer(sentences)["input_ids"]
        order = sorted(range(len(sentences)), key=lambda row: len(tokens[row]))
        batches = [[sentences[row] for row in order[start : start + BATCH]] for start in range(0, len(order), BATCH)]
        found[Path(name).name] = nats_per_token(pipe, batches)
    result = {"nats_per_token": found, **describe_environment(pipe.device)}
    arguments.output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
