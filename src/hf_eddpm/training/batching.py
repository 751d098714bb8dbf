"""The order of the training data, which a resumed run finds again."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import Sampler
from transformers import TrainingArguments

_BATCHES_PER_GROUP = 50  # data are drawn at random, then sorted within so many batches


def data_seed(args: TrainingArguments) -> int:
    """Return the seed of the order of the data and of their changes: `data_seed`, or else `seed`."""
    return args.seed if args.data_seed is None else args.data_seed


def begin_epoch(loader: Any, epoch: int) -> None:
    """Tell a loader's data set and all its samplers which epoch begins, counted from 0.

    accelerate tells only some of them where it skips batches or divides them among processes.
    """
    parts: list[Any] = [getattr(loader, "dataset", None), getattr(loader, "batch_sampler", None)]
    while parts[-1] is not None:
        inner = getattr(parts[-1], "batch_sampler", None)
        parts.append(getattr(parts[-1], "sampler", None) if inner is None else inner)
    for part in parts:
        if hasattr(part, "set_epoch"):
            part.set_epoch(epoch)


class LengthGroups(Sampler[int]):
    """The rows of a data set at random, those of like length side by side; the batches come in a random order.

    Rows are shuffled, sorted by length within every fifty batches, and the batches shuffled again. The order follows
    from the seed and the epoch alone.

    Args:
        lengths: Length of each datum.
        batch_size: Rows that are processed together, at least 1.
        seed: Seed of the order.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int):
        self.lengths = torch.as_tensor(lengths)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the order of an epoch, counted from 0."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator().manual_seed(self.seed)
        for _ in range(self.epoch + 1):
            seed = int(torch.randint(2**62, (), generator=generator))
        generator.manual_seed(seed)
        order = torch.randperm(len(self.lengths), generator=generator)
        batches: list[torch.Tensor] = []
        for group in order.split(self.batch_size * _BATCHES_PER_GROUP):
            batches.extend(group[self.lengths[group].argsort(stable=True)].split(self.batch_size))
        whole = [batch for batch in batches if len(batch) == self.batch_size]
        rest = [batch for batch in batches if len(batch) < self.batch_size]  # last, so that batches stay aligned
        shuffled = [whole[index] for index in torch.randperm(len(whole), generator=generator).tolist()]
        yield from torch.cat([*shuffled, *rest]).tolist()
