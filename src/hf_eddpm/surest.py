"""Choosing among candidates of a sample the one that the model is surest of."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch

from .modeling_eddpm import EDDPMModel
from .processing_eddpm import EDDPMProcessor

_BATCH = 256
_LENGTH_POWER = 0.3  # chosen by what two models of sentences keep of eight candidates
_NO_TOKEN = -100  # padding of the targets


def surest(
    processor: EDDPMProcessor,
    candidates: Sequence[tuple[list[Any], torch.Tensor]],
    doubts: torch.Tensor,
    redundancy_penalty: float = 0.0,
) -> tuple[list[Any], torch.Tensor]:
    """Return for each sample the candidate that is doubted least, and its latents; of equal ones the first.

    With a penalty the samples are chosen one after another, and a candidate is the less welcome the more it repeats of
    those chosen before it (maximal marginal relevance, Carbonell & Goldstein 1998).

    Args:
        processor: It tells the tokens of a sample.
        candidates: The same number of samples each time, with their latents, `(batch, ...)`.
        doubts: What there is to doubt of each, float32 `(num_candidates, batch)` (see `doubt`).
        redundancy_penalty: What is added to the doubt of a candidate, at least 0, times the share of its pairs of
            neighbouring tokens that samples chosen before it have.
    """
    if redundancy_penalty > 0:
        pairs = [[_neighbours(tokens) for tokens in _tokens(processor, samples)] for samples, _ in candidates]
        best = _least_redundant(doubts.T.tolist(), list(zip(*pairs, strict=True)), redundancy_penalty)
    else:
        best = doubts.argmin(0).tolist()
    samples = [candidates[choice][0][place] for place, choice in enumerate(best)]
    return samples, torch.stack([candidates[choice][1][place] for place, choice in enumerate(best)])


def _tokens(processor: EDDPMProcessor, samples: list[Any]) -> list[list[int]]:
    """Return the tokens of each sample with the end token and padding of -100."""
    return [
        row
        for start in range(0, len(samples), _BATCH)
        for row in processor.prepare(samples[start : start + _BATCH])[0]["labels"].tolist()
    ]


def _neighbours(tokens: list[int]) -> set[tuple[int, int]]:
    """Return the pairs of neighbouring tokens of a sample; -100 is none."""
    return set(itertools.pairwise(token for token in tokens if token != _NO_TOKEN))


def _least_redundant(
    doubts: list[list[float]], pairs: list[tuple[set[tuple[int, int]], ...]], penalty: float
) -> list[int]:
    """Return which candidate of each sample is chosen, one sample after another.

    Args:
        doubts: Of each sample's candidates.
        pairs: Pairs of neighbouring tokens of each sample's candidates.
        penalty: Weight of the share of the pairs that were chosen before.
    """
    best = []
    seen: set[tuple[int, int]] = set()
    for own_doubts, own_pairs in zip(doubts, pairs, strict=True):
        costs = [
            value + penalty * len(some & seen) / max(len(some), 1)
            for value, some in zip(own_doubts, own_pairs, strict=True)
        ]
        best.append(costs.index(min(costs)))
        seen |= own_pairs[best[-1]]
    return best


def doubt(
    model: EDDPMModel,
    processor: EDDPMProcessor,
    samples: list[Any],
    class_labels: torch.Tensor | None = None,
    device: torch.device | None = None,
) -> torch.Tensor:
    r"""Return how much there is to doubt of samples, `(batch,)`.

    It is the denoiser's mean squared error at what a sample is encoded to (`EDDPMModel.chain_errors`), over the number
    of its tokens, its end included, to the power of 0.3. Where there are no data the denoiser errs, and the more the
    longer a sample is: undivided, short ones would win. How sure the decoder is of its tokens says less: it spells out
    nonsense with certainty, too.

    Args:
        model: A model whose decoder makes tokens.
        processor: Its processor.
        samples: What was decoded.
        class_labels: int64 `(batch,)`, what the denoiser was told; None if nothing.
        device: Where the model runs; None for where its weights are.
    """
    parts = []
    for rows, inputs, targets in _chunks(model, processor, samples, device or model.device):
        num_tokens = (targets["labels"] != _NO_TOKEN).sum(1).clamp(min=1)
        labels = None if class_labels is None else class_labels[rows]
        parts.append(model.chain_errors(model.encode(**inputs).mean, labels) / num_tokens**_LENGTH_POWER)
    return torch.cat(parts)


def uncertainty(
    model: EDDPMModel, processor: EDDPMProcessor, samples: list[Any], latents: torch.Tensor
) -> torch.Tensor:
    """Return -log p(sample | latents) in nats per token or site, `(batch,)`.

    Args:
        model: A model whose decoder makes tokens.
        processor: Its processor.
        samples: Data.
        latents: `(batch, num_latents, latent_dim)`.
    """
    parts = []
    for rows, _, targets in _chunks(model, processor, samples, latents.device):
        nats, num_units = model.decoder.negative_log_likelihood(
            latents[rows].to(model.denoiser.output.weight.dtype), **targets
        )
        parts.append(nats.float() / num_units.float().clamp(min=1))
    return torch.cat(parts)


def _chunks(
    model: EDDPMModel, processor: EDDPMProcessor, samples: list[Any], device: torch.device
) -> Iterator[tuple[slice, dict[str, Any], dict[str, Any]]]:
    """Yield some of the samples at a time: which they are, what the encoder takes, and what the decoder takes."""
    for start in range(0, len(samples), _BATCH):
        rows = slice(start, start + _BATCH)
        # What was generated up to the longest length is a token too long with its end: the end is left out, unsaid.
        tensors, _ = processor.prepare(samples[rows])
        inputs, targets = model.split_inputs({name: tensor.to(device) for name, tensor in tensors.items()})
        yield rows, inputs, targets
