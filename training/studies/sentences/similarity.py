"""Captions of one picture found by a linear map of the encoder's states, which training captions teach."""

import math
import random
import sys
from pathlib import Path

import torch
from torch.nn.functional import cross_entropy, normalize

from hf_eddpm import EDDPMPipeline
from hf_eddpm.pipeline_parts import batches_of_like_size

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the studies, which share code

from sentences.domains import nearest_is_paraphrase, read_captions, words_of

SIZE = 256  # of what the map returns
STEPS, PICTURES, LEARNING_RATE, TEMPERATURE = 1500, 1024, 1e-3, 0.05
HELD_OUT = 5000  # training captions that choose how much TF-IDF counts
WEIGHTS = (0.25, 0.5, 1.0, 2.0)


def mean_of_tokens(states: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
    """Return the mean of the tokens' states `(num, hidden)`, of `(num, seq, hidden)` and the mask `(num, seq)`."""
    mask = attention_mask.unsqueeze(-1)
    return (states * mask).sum(1) / mask.sum(1)


@torch.no_grad()
def states_of(pipe: EDDPMPipeline, sentences: list[str], batch_size: int = 256) -> torch.Tensor:
    """Return the mean of the tokens' embeddings beside that of the last layer's states, `(num, 2 * hidden)`."""
    batches = batches_of_like_size(pipe.processor.sizes(sentences), batch_size)
    parts = []
    for places in batches:
        batch, _ = pipe.processor.prepare([sentences[place] for place in places])
        inputs = {name: batch[name].to(pipe.device) for name in ("input_ids", "attention_mask")}
        states = pipe.model(**inputs, return_loss=False, output_hidden_states=True).encoder_hidden_states
        means = [mean_of_tokens(each, inputs["attention_mask"]) for each in (states[0], states[-1])]
        parts.append(torch.cat(means, dim=1))
    order = torch.tensor([place for places in batches for place in places])
    return torch.cat(parts).float().cpu()[order.argsort()]


def learned_map(states: torch.Tensor, pictures: torch.Tensor, num_steps: int = STEPS) -> torch.nn.Module:
    """Return a linear map by which captions of a picture are near to each other and far from others'.

    In each step it tells of two captions of each picture which belong together (InfoNCE, van den Oord et al. 2018,
    arXiv 1807.03748).

    Args:
        states: `(num, size)`.
        pictures: Number of each caption's picture, `(num,)`.
        num_steps: Steps of AdamW; the learning rate falls to 0.
    """
    groups: dict[int, list[int]] = {}
    for place, picture in enumerate(pictures.tolist()):
        groups.setdefault(picture, []).append(place)
    several = [places for places in groups.values() if len(places) > 1]
    rng = random.Random(0)
    torch.manual_seed(0)
    standard = torch.nn.BatchNorm1d(states.shape[1], affine=False)
    standard.running_mean, standard.running_var = states.mean(0), states.var(0)
    linear = torch.nn.Linear(states.shape[1], SIZE)
    mapped = torch.nn.Sequential(standard.eval(), linear)
    optimizer = torch.optim.AdamW(linear.parameters(), lr=LEARNING_RATE, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, num_steps)
    for _ in range(num_steps):
        pairs = [rng.sample(places, 2) for places in rng.sample(several, min(PICTURES, len(several)))]
        one, other = (normalize(mapped(states[list(side)]), dim=1) for side in zip(*pairs, strict=True))
        likeness = one @ other.T / TEMPERATURE
        own = torch.arange(len(pairs))
        loss = cross_entropy(likeness, own) + cross_entropy(likeness.T, own)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return mapped


def together(vectors: torch.Tensor, words: torch.Tensor, weight: float = 1.0) -> torch.Tensor:
    """Return vectors whose cosine is the mean of those of both, with a weight for that of words."""
    return torch.cat([normalize(vectors, dim=1), math.sqrt(weight) * normalize(words.float(), dim=1)], dim=1)


def by_similarity(
    pipe: EDDPMPipeline, folder: Path, captions: list[str], words: torch.Tensor, limit: int | None
) -> dict[str, torch.Tensor]:
    """Return vectors of captions by the learned map, alone and with TF-IDF; how much that counts training data say.

    Args:
        pipe: The pipeline.
        folder: Folder of the captions.
        captions: Those to search.
        words: Their TF-IDF vectors.
        limit: Most training captions.
    """
    pictures, known = read_captions(folder / "train.tsv.gz", limit)
    held_out = min(HELD_OUT, len(known) // 5)
    states = states_of(pipe, known)
    mapped = learned_map(states[held_out:], pictures[held_out:])
    with torch.no_grad():
        vectors, tried = mapped(states_of(pipe, captions)), mapped(states[:held_out])
    words_tried = words_of(known[:held_out])
    hits = {
        weight: nearest_is_paraphrase(together(tried, words_tried, weight), pictures[:held_out]) for weight in WEIGHTS
    }
    best = max(hits, key=lambda weight: hits[weight])
    name = "ours, map learned from captions of a picture"
    return {name: vectors, f"{name}, and TF-IDF": together(vectors, words, best)}
