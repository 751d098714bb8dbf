"""What happens in a training beside its steps: the clock, the average of the weights, its curves."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from diffusers.training_utils import EMAModel
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments
from transformers.utils import logging

from .monitor import TrainingMonitor

logger = logging.get_logger(__name__)

CURVES_FILE = "curves.png"


class Clock(TrainerCallback):
    """Adds to each log entry the seconds trained so far; a resumed run goes on from its checkpoint's."""

    def __init__(self) -> None:
        self.start: float | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start."""
        self.first_step = state.global_step
        self.seconds_before = train_seconds(state)
        self.start = time.perf_counter()

    def on_log(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Note the time."""
        if self.start is None:
            return
        # A run resumed after its last step only saves and evaluates again.
        seconds = time.perf_counter() - self.start if state.global_step > self.first_step else 0.0
        state.log_history[-1]["train_seconds"] = round(self.seconds_before + seconds, 1)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop."""
        self.start = None


def train_seconds(state: TrainerState) -> float:
    """Return the wall time of the training, summed over resumed runs, evaluations and checkpoints included."""
    return max((entry.get("train_seconds", 0.0) for entry in state.log_history), default=0.0)


class TimeLimit(TrainerCallback):
    """Ends a training after so many minutes, if it has not taken its steps by then, with the whole schedule.

    After a third of the time the learning rate is what it would be after a third of the steps: whichever ends the
    training, the schedule has come to its end too. A resumed run counts the time before it.

    Args:
        minutes: Length of the training, evaluations and checkpoints included, positive.

    Raises:
        ValueError: If `minutes` is not positive, or, when training begins, the schedule is none by steps alone, or
            there are several processes, which have no common clock.
    """

    def __init__(self, minutes: float):
        if not 0 < minutes < float("inf"):
            raise ValueError(f"`max_minutes` must be positive and finite, got {minutes!r}.")
        self.seconds = 60 * minutes

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start."""
        if args.world_size > 1:
            raise ValueError("`max_minutes` must be None with several processes: each would stop by its own clock.")
        if not isinstance(kwargs["lr_scheduler"], torch.optim.lr_scheduler.LambdaLR):
            raise ValueError(
                f"`lr_scheduler_type` must be a schedule by steps with `max_minutes`, got {args.lr_scheduler_type!r}."
            )
        self.start = time.perf_counter() - train_seconds(state)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Set the learning rate by the clock; stop when the time is over."""
        passed = max((time.perf_counter() - self.start) / self.seconds, state.global_step / state.max_steps)
        schedule = kwargs["lr_scheduler"]
        schedule.last_epoch = min(round(passed * state.max_steps), state.max_steps)
        rates = [
            base * rate(schedule.last_epoch) for base, rate in zip(schedule.base_lrs, schedule.lr_lambdas, strict=True)
        ]
        for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
            group["lr"] = rate
        schedule._last_lr = rates
        if passed >= 1:
            control.should_training_stop = True


class OwnNoise(TrainerCallback):
    """Gives each of several processes a seed of its own, else all would draw the same timesteps and noise."""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Seed: after the data loaders took the common seed for the order of the data."""
        if args.world_size > 1:
            torch.manual_seed(args.seed + args.process_index)


class FreshMonitors(TrainerCallback):
    """Forgets what a training before left unlogged: one that was cut short, or another trial of a search."""

    def __init__(self, monitors: Mapping[str, TrainingMonitor]):
        self.monitors = monitors

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start anew."""
        for monitor in self.monitors.values():
            monitor.clear()


class AverageStep(TrainerCallback):
    """Moves the average after every optimiser step."""

    def __init__(self, parameters: Callable[[], list[nn.Parameter]], ema: EMAModel):
        self.parameters = parameters
        self.ema = ema

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Start the average anew where the training does: with another batch size, or as another trial."""
        if state.global_step == 0:
            self.ema.shadow_params = [parameter.detach().clone() for parameter in self.parameters()]
            self.ema.optimization_step = 0

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Update the average."""
        self.ema.step(self.parameters())


class Curves(TrainerCallback):
    """Draws the training into `output_dir/curves.png` at each evaluation, where matplotlib is installed."""

    def __init__(self) -> None:
        self.told = False

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Draw what has been logged so far."""
        if not state.is_world_process_zero or not any("loss" in entry for entry in state.log_history):
            return
        try:
            from ..plots import plot_curves
        except ImportError as error:
            if not self.told:
                logger.info(f"No curves.png: {error}")
            self.told = True
            return
        path = Path(args.output_dir) / CURVES_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        plot_curves(state.log_history).savefig(path, dpi=100)
