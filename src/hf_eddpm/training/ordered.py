"""A Trainer whose data come in an order that a resumed run finds again, in the middle of an epoch too."""

import itertools
import os
from typing import Any

import torch
from torch.utils.data import SequentialSampler
from transformers import Trainer, TrainerState
from transformers.trainer import TRAINER_STATE_NAME

from ..data.augmented import AugmentedData
from .batching import LengthGroups, begin_epoch, data_seed
from .collator import RawDataCollator


class OrderedTrainer(Trainer):
    """Trainer whose order of the data follows from `data_seed` (or else `seed`), epoch and position alone."""

    def create_accelerator_and_postprocess(self) -> None:
        """Choose the seed of the order; accelerate would take whatever torch was last seeded with."""
        super().create_accelerator_and_postprocess()
        self.accelerator.dataloader_config.data_seed = data_seed(self.args)

    def _get_dataloader(self, *args: Any, **kwargs: Any) -> Any:
        drop_last = self.args.dataloader_drop_last
        # Trainer would leave the last data out of evaluations too.
        self.args.dataloader_drop_last = drop_last and kwargs.get("is_training", False)
        try:
            loader = super()._get_dataloader(*args, **kwargs)
        finally:
            self.args.dataloader_drop_last = drop_last
        if self.args.dataloader_persistent_workers:
            # Workers are seeded when they start, after a resumption in other places than without one. That must not
            # draw from the generator that the training draws from.
            loader.base_dataloader.generator = torch.Generator().manual_seed(data_seed(self.args))
        return loader

    def _get_train_sampler(self, train_dataset: Any = None) -> Any:
        if self.args.train_sampling_strategy != "group_by_length":
            return super()._get_train_sampler(train_dataset)
        dataset: Any = self.train_dataset if train_dataset is None else train_dataset
        together = self._train_batch_size * self.args.gradient_accumulation_steps * self.args.world_size
        return LengthGroups(self._lengths(dataset), together, data_seed(self.args))

    def _lengths(self, dataset: Any) -> list[int]:
        complete: Any = self.train_dataset  # `dataset` may have lost the columns that the model does not take
        if self.args.length_column_name in (getattr(complete, "column_names", None) or ()):
            return list(complete[self.args.length_column_name])
        if isinstance(self.data_collator, RawDataCollator):
            return self.data_collator.lengths(_first_epoch(dataset))
        return super()._get_train_sampler(dataset).lengths

    def _get_eval_sampler(self, eval_dataset: Any) -> Any:
        if isinstance(self.data_collator, RawDataCollator) and self.args.train_sampling_strategy == "group_by_length":
            return SequentialSampler(eval_dataset)
        return super()._get_eval_sampler(eval_dataset)

    def _init_training_state(
        self,
        max_steps: int,
        num_update_steps_per_epoch: int,
        num_train_epochs: int,
        checkpoint: str | None,
        trial: Any,
    ) -> tuple[int, int]:
        epochs, batches = super()._init_training_state(
            max_steps, num_update_steps_per_epoch, num_train_epochs, checkpoint, trial
        )
        if checkpoint is None or hasattr(self.train_dataset, "__len__") or not batches:
            return epochs, batches
        # Trainer takes a stream for one epoch of all steps. One that ended before began anew, as the next epoch.
        saved = TrainerState.load_from_json(os.path.join(checkpoint, TRAINER_STATE_NAME))
        steps_in_epoch = saved.max_steps * self.args.gradient_accumulation_steps
        epochs, before = divmod(round((saved.epoch or 0.0) * steps_in_epoch) - 1, steps_in_epoch)
        return epochs, before + 1

    def _run_epoch(self, *args: Any, **kwargs: Any) -> None:
        # A run resumed after its last step would otherwise take one step more.
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
            return
        begin_epoch(kwargs["train_dataloader"], kwargs["epoch"])
        super()._run_epoch(*args, **kwargs)

    def _spread_examples(self, count: int) -> list[Any]:
        """Return the same training examples every time, spread over the data set; of a stream, the first ones."""
        dataset: Any = _first_epoch(self.train_dataset)
        if hasattr(dataset, "__len__"):
            size = len(dataset)
            count = min(count, size)
            return [dataset[position * size // count] for position in range(count)]
        # The stream of `datasets` is read elsewhere at the same time, perhaps in a later epoch: a stream of its own.
        return list(dataset.take(count) if hasattr(dataset, "take") else itertools.islice(dataset, count))


def _first_epoch(dataset: Any) -> Any:
    return dataset.at_epoch(0) if isinstance(dataset, AugmentedData) else dataset
