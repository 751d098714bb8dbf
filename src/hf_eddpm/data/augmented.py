"""Data that training changes at random, the same way each time it comes to the same place."""

import copy
import random

import torch
from torch.utils.data import Dataset


class AugmentedData(Dataset):
    """Base of data sets that change their data at random.

    What happens to a datum follows from the seed, the epoch and its index, and from nothing that was drawn before. So
    a run that is resumed in the middle of an epoch sees the data that it would have seen, in whatever worker process.

    Args:
        seed: Seed of the changes.
    """

    def __init__(self, seed: int = 0):
        self.seed = seed
        # In shared memory: worker processes that outlive an epoch hold a copy of the data set.
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()

    def set_epoch(self, epoch: int) -> None:
        """Choose the changes of an epoch, counted from 0; the Trainer calls it as each epoch begins."""
        self._epoch.fill_(epoch)

    def at_epoch(self, epoch: int) -> "AugmentedData":
        """Return the same data with the changes of one epoch; this data set, and the workers that read it, stay."""
        other = copy.copy(self)
        other._epoch = torch.tensor(epoch)
        return other

    def draws(self, index: int) -> random.Random:
        """Return the source of the draws for the datum at `index`."""
        return random.Random(f"{self.seed} {int(self._epoch)} {index}")
