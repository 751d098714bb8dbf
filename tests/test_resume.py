"""A run that is stopped in the middle of an epoch goes on as if nothing had happened, bit for bit."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SENTENCES, tiny_model
from images import random_images, tiny_image_model
from proteins import LENGTH, PROTEINS, tiny_protein_model
from transformers import TrainingArguments

from hf_eddpm import EDDPMImageProcessor, EDDPMProteinProcessor, EDDPMTextProcessor, EDDPMTrainer
from hf_eddpm.data.augmented import AugmentedData
from hf_eddpm.modalities.protein.data import ProteinData
from hf_eddpm.modalities.text.data import SplicedSentences
from hf_eddpm.training.batching import LengthGroups, data_seed
from hf_eddpm.training.train_image import LabelledImages
from hf_eddpm.training.train_protein import MeasuredProteins

# Three batches an epoch: after step 4 the second epoch has begun, at the end the third one.
RUN = {
    "max_steps": 8,
    "per_device_train_batch_size": 3,
    "learning_rate": 1e-3,
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 4,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}
GROUPED = {"train_sampling_strategy": "group_by_length"}
WORKERS = {"dataloader_num_workers": 2}
PERSISTENT = {**WORKERS, "dataloader_persistent_workers": True, "eval_strategy": "steps", "eval_steps": 2}


def _proteins():
    sequences = [*PROTEINS, "ACD", "WYVAC", "KLMNPQ"]
    return ProteinData(sequences, np.arange(8.0).reshape(8, 1), ["fitness"])


def _parts(modality, tokenizer):
    """A tiny model, its processor and augmented data."""
    if modality == "text":
        data = SplicedSentences(SENTENCES, 0.5, seed=7)
        return tiny_model(), EDDPMTextProcessor(tokenizer, max_length=16), data
    if modality == "protein":
        return tiny_protein_model(), EDDPMProteinProcessor(LENGTH, stop=False), MeasuredProteins(_proteins())
    images = np.stack([np.asarray(image)[..., None] for image in random_images(8)])
    return tiny_image_model(), EDDPMImageProcessor(8, 1), LabelledImages(images, flip=True, seed=7)


class _Watched(EDDPMTrainer):
    """Keeps what each step sees."""

    def training_step(self, model, inputs, *args, **kwargs):
        self.__dict__.setdefault("seen", []).append({name: value.clone() for name, value in inputs.items()})
        return super().training_step(model, inputs, *args, **kwargs)


@pytest.fixture
def make(tokenizer, tmp_path):
    def make(modality, data=None, **values):
        model, processor, own_data = _parts(modality, tokenizer)
        arguments = TrainingArguments(str(tmp_path / "run"), **{**RUN, **values})
        data = own_data if data is None else data
        evaluated = {"eval_dataset": data} if values.get("eval_strategy") else {}
        return _Watched(model, arguments, processor, ema_decay=0.5, train_dataset=data, **evaluated)

    return make


def _assert_equal(value, other):
    """Compares nested containers of tensors bit for bit."""
    if isinstance(value, torch.Tensor):
        assert torch.equal(value, other)
    elif isinstance(value, dict):
        assert value.keys() == other.keys()
        for key in value:
            _assert_equal(value[key], other[key])
    elif isinstance(value, (list, tuple)):
        assert len(value) == len(other)
        for one, another in zip(value, other, strict=True):
            _assert_equal(one, another)
    else:
        assert value == other


def _assert_resumes(make, modality, step=4, data=lambda: None, **values):
    whole = make(modality, data(), save_steps=step, **values)
    whole.train()
    torch.manual_seed(99)
    resumed = make(modality, data(), save_steps=100, **values)
    torch.rand(17)  # whatever the program does before it goes on
    resumed.train(resume_from_checkpoint=str(Path(whole.args.output_dir) / f"checkpoint-{step}"))
    assert len(resumed.seen) >= 8 - step
    _assert_equal(resumed.seen, whole.seen[-len(resumed.seen) :])
    _assert_equal(resumed.model.state_dict(), whole.model.state_dict())
    _assert_equal(resumed.ema.shadow_params, whole.ema.shadow_params)
    assert resumed.ema.optimization_step == whole.ema.optimization_step == 8
    _assert_equal(resumed.optimizer.state_dict(), whole.optimizer.state_dict())
    return whole


@pytest.mark.parametrize("loading", [{}, WORKERS], ids=["here", "workers"])
@pytest.mark.parametrize(
    ("modality", "values"), [("text", {}), ("text", GROUPED), ("protein", {}), ("image", {})], ids=str
)
def test_a_run_goes_on_from_the_middle_of_an_epoch_bit_for_bit(make, modality, values, loading):
    whole = _assert_resumes(make, modality, **values, **loading)
    if modality == "text":  # both kinds of data are there, and an epoch's splices are not the one's before
        masks = torch.cat([batch["diffusion_mask"] for batch in whole.seen])
        assert 0 < masks.float().mean() < 1


@pytest.mark.slow  # such workers take seconds to end
def test_workers_that_outlive_an_epoch_change_nothing(make):
    whole = _assert_resumes(make, "text", **PERSISTENT)
    seen = whole.seen
    other = make("text", save_strategy="no")
    other.train()
    _assert_equal(other.seen, seen)


@pytest.mark.slow
@pytest.mark.parametrize("values", [{}, GROUPED, {"gradient_accumulation_steps": 2}], ids=str)
@pytest.mark.parametrize("step", range(1, 8))
def test_a_run_goes_on_from_any_step_bit_for_bit(make, step, values):
    _assert_resumes(make, "text", step, **values)


def test_what_a_program_draws_before_training_does_not_change_the_order_of_the_data(make):
    seen = []
    for seed in (1, 2):
        run = make("text", max_steps=4, save_strategy="no")
        torch.manual_seed(seed)
        run.train()
        seen.append(run.seen)
    _assert_equal(*seen)


@pytest.mark.parametrize("values", [{}, GROUPED], ids=["random", "grouped"])
def test_a_data_seed_of_zero_is_a_seed(make, values):
    orders = {}
    for seed, order_seed in ((1, 0), (2, 0), (0, None), (1, None)):
        run = make("text", max_steps=4, save_strategy="no", seed=seed, data_seed=order_seed, **values)
        assert data_seed(run.args) == (seed if order_seed is None else order_seed)
        run.train()
        # The labels before any change of the data would do as well; splices have a seed of their own here.
        orders[seed, order_seed] = run.seen
    _assert_equal(orders[1, 0], orders[2, 0])
    _assert_equal(orders[1, 0], orders[0, None])
    with pytest.raises(AssertionError):
        _assert_equal(orders[1, 0], orders[1, None])


# The data sets themselves


class _Dice(AugmentedData):
    def __len__(self):
        return 50

    def __getitem__(self, index):
        return self.draws(index).randrange(10**9)


def test_draws_follow_from_seed_epoch_and_index_alone():
    dice = _Dice(3)
    first = [dice[index] for index in range(50)]
    torch.manual_seed(5)
    assert [dice[index] for index in reversed(range(50))] == first[::-1]
    dice.set_epoch(1)
    second = [dice[index] for index in range(50)]
    assert len({*first, *second, *(_Dice(4)[index] for index in range(50))}) == 150
    assert [dice.at_epoch(0)[index] for index in range(50)] == first and dice[0] == second[0]


@pytest.mark.parametrize("context", ["fork", pytest.param("spawn", marks=pytest.mark.slow)])
def test_workers_that_persist_see_the_epoch(context):
    dice = _Dice()
    loader = torch.utils.data.DataLoader(
        dice, batch_size=10, num_workers=1, persistent_workers=True, multiprocessing_context=context
    )
    for epoch in (0, 1, 5):
        dice.set_epoch(epoch)
        assert torch.cat(list(loader)).tolist() == [dice.at_epoch(epoch)[index] for index in range(50)]


def test_the_order_by_length_changes_from_epoch_to_epoch():
    groups = LengthGroups(list(range(40)), 4, seed=0)
    orders = []
    for epoch in (0, 1, 0):
        groups.set_epoch(epoch)
        orders.append(list(groups))
    assert orders[0] == orders[2] != orders[1]
    assert sorted(orders[1]) == list(range(40))


# Several processes

SCRIPT = """
import os, sys
import torch
from conftest import SENTENCES, VOCAB_SIZE, tiny_model, train_tokenizer
from test_resume import RUN, _Watched
from transformers import TrainingArguments
from hf_eddpm import EDDPMTextProcessor
from hf_eddpm.modalities.text.data import SplicedSentences

folder, strategy, checkpoint = sys.argv[1:]
values = {**RUN, "max_steps": 6, "per_device_train_batch_size": 1, "save_steps": 5}
values["train_sampling_strategy"] = strategy
processor = EDDPMTextProcessor(train_tokenizer(SENTENCES, VOCAB_SIZE), max_length=16)
data = SplicedSentences(SENTENCES, 0.5)
run = _Watched(tiny_model(), TrainingArguments(folder, **values), processor, train_dataset=data, ema_decay=0.5)
run.train(resume_from_checkpoint=checkpoint or None)
name = "resumed" if checkpoint else "whole"
torch.save([run.seen[-1], run.model.state_dict()], f"{folder}/{name}-{os.environ['RANK']}.pt")
"""


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["random", "group_by_length"])
def test_two_processes_go_on_from_the_middle_of_a_later_epoch_bit_for_bit(tmp_path, strategy):
    (tmp_path / "train.py").write_text(SCRIPT)
    tests = Path(__file__).parent
    paths = [tests.parent / "src", tests, tests.parent / "docs" / "examples"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    for checkpoint in ("", str(tmp_path / "checkpoint-5")):  # four steps are an epoch
        command = [*launcher, str(tmp_path / "train.py"), str(tmp_path), strategy, checkpoint]
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr[-3000:]
    for rank in (0, 1):
        _assert_equal(torch.load(tmp_path / f"resumed-{rank}.pt"), torch.load(tmp_path / f"whole-{rank}.pt"))
