import copy
import itertools
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import SENTENCES, TINY, tiny_model
from safetensors.torch import load_file
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_utils import get_last_checkpoint

from hf_eddpm import EDDPMModel, EDDPMTextProcessor, EDDPMTrainer, diagnostics, latents
from hf_eddpm.diagnostics import covariance_eigenvalues, spectrum_statistics
from hf_eddpm.training import trainer
from hf_eddpm.training.collator import RawDataCollator
from hf_eddpm.training.finishing import finish_denoiser
from hf_eddpm.training.monitor import held_out_neighbor_ratio

NO_DROPOUT = {"model_type": "bert", **TINY, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
VOLATILE = ("runtime", "per_second", "train_seconds", "flos", "train_loss")  # the last counts from the last start


def _arguments(folder, **values):
    defaults = {
        "max_steps": 4,
        "per_device_train_batch_size": 4,
        "per_device_eval_batch_size": 8,
        "learning_rate": 1e-3,
        "logging_steps": 1,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
    }
    return TrainingArguments(str(folder), **{**defaults, **values})


@pytest.fixture
def make_trainer(processor, tmp_path):
    """Function that makes a trainer of a new tiny model; `trainer_values` go to it, the rest to its arguments."""

    def make(model=None, folder="run", trainer_values=None, **values):
        given = {"train_dataset": SENTENCES, "processor": processor, **(trainer_values or {})}
        return EDDPMTrainer(model or tiny_model(), _arguments(tmp_path / folder, **values), **given)

    return make


def _state(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def _assert_same(state, other):
    assert state.keys() == other.keys()
    different = [name for name in state if not torch.equal(state[name], other[name])]
    assert different == []


def _entries(run, key):
    return [entry for entry in run.state.log_history if key in entry]


def _lasting(history):
    """The log without what depends on the clock or on where the run was started."""
    return [{key: value for key, value in row.items() if not any(v in key for v in VOLATILE)} for row in history]


# The log


def _diagnostics(means, noise_variance):
    """The collapse diagnostics of posterior means `(data, latent_size)`, by their definitions."""
    std = means.std(0, correction=0)
    kl = 0.5 * (means.square() + noise_variance - 1 - torch.tensor(noise_variance).double().log())
    return {
        "latent_std": float(std.mean()),
        "active_dims": float((std > 0.1).sum()),
        "latent_norm": float(means.norm(dim=1).mean()),
        "kl_per_dim": float(kl.mean()),
        **spectrum_statistics(covariance_eigenvalues(means), noise_variance),
    }


def test_the_log_holds_the_averages_of_the_loss_terms_and_the_diagnostics_since_the_last_entry(
    make_trainer, monkeypatch
):
    outputs = []
    update = trainer.TrainingMonitor.update
    monkeypatch.setattr(
        trainer.TrainingMonitor, "update", lambda self, output: outputs.append(output) or update(self, output)
    )
    run = make_trainer(max_steps=4, logging_steps=2)
    run.train()
    assert len(outputs) == 4
    entries = _entries(run, "loss")
    assert [entry["step"] for entry in entries] == [2, 4]
    for entry, window in zip(entries, (outputs[:2], outputs[2:]), strict=True):
        for name in ("loss", "reconstruction_loss", "diffusion_loss", "alignment_loss"):
            expected = sum(float(output[name].detach()) for output in window) / 2
            assert entry[name] == pytest.approx(expected, rel=1e-4, abs=1e-6)
        means = torch.cat([output.posterior_mean.detach().double().flatten(1) for output in window])
        expected = _diagnostics(means, run.model.config.encoder_noise_variance)
        assert {name: entry[name] for name in expected} == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("batch_size", [8, 2])
def test_evaluation_logs_the_terms_of_the_whole_held_out_set(make_trainer, processor, batch_size):
    model = tiny_model(latent_normalization="none")
    with torch.no_grad():
        expected = model(**processor(SENTENCES))
    run = make_trainer(model, trainer_values={"eval_dataset": SENTENCES}, per_device_eval_batch_size=batch_size)
    metrics = run.evaluate()
    for name in ("diffusion_loss", "alignment_loss"):
        assert metrics[f"eval_{name}"] == pytest.approx(float(expected[name]), rel=1e-4)
    diagnostics = _diagnostics(expected.posterior_mean.double().flatten(1), model.config.encoder_noise_variance)
    assert {name: metrics[f"eval_{name}"] for name in diagnostics} == pytest.approx(diagnostics, rel=1e-4)
    if batch_size == 8:  # the reconstruction loss is a mean over the tokens of a batch
        assert metrics["eval_loss"] == pytest.approx(float(expected.loss), rel=1e-4)
        assert metrics["eval_reconstruction_loss"] == pytest.approx(float(expected.reconstruction_loss), rel=1e-4)
    assert {name: metrics[name] for name in metrics} == {
        name: value for name, value in run.state.log_history[-1].items() if name in metrics
    }


def test_evaluations_and_training_do_not_mix_their_averages(make_trainer):
    run = make_trainer(
        tiny_model(latent_normalization="none"),
        max_steps=2,
        learning_rate=0.0,
        eval_strategy="steps",
        eval_steps=1,
        trainer_values={"eval_dataset": SENTENCES[:2]},
    )
    run.train()
    assert len(_entries(run, "reconstruction_loss")) == 2
    first, second = (_lasting([entry])[0] for entry in _entries(run, "eval_reconstruction_loss"))
    varying = {"step", "epoch"}
    assert {key: first[key] for key in first.keys() - varying} == {key: second[key] for key in second.keys() - varying}


def test_a_collapsed_encoder_shows_in_the_log(make_trainer):
    model = tiny_model(latent_normalization="none")
    with torch.no_grad():
        for projection in model.bottleneck.projection:
            projection.weight.zero_()
            projection.bias.fill_(0.5)
    run = make_trainer(model, max_steps=1, learning_rate=0.0)
    run.train()
    (entry,) = _entries(run, "loss")
    assert entry["latent_std"] == pytest.approx(0, abs=1e-6) and entry["active_dims"] == 0
    assert entry["latent_norm"] == pytest.approx(0.5 * 16**0.5)


def test_an_evaluation_warns_of_held_out_latents_on_a_line(make_trainer, processor, monkeypatch):
    warnings = []
    monkeypatch.setattr(diagnostics.logger, "warning", warnings.append)
    model = tiny_model()
    held_out = SENTENCES * 10
    make_trainer(model, trainer_values={"eval_dataset": held_out}).evaluate()
    assert warnings == []
    with torch.no_grad():
        for projection in model.bottleneck.projection:
            projection.weight.copy_(model.bottleneck.projection[0].weight[:1].expand_as(projection.weight))
    metrics = make_trainer(model, trainer_values={"eval_dataset": held_out}).evaluate()
    assert metrics["eval_active_dims"] == 16 and metrics["eval_effective_rank"] == pytest.approx(1, abs=1e-3)
    assert len(warnings) == 1 and "of 16" in warnings[0]


def test_an_evaluation_says_whether_samples_reach_held_out_latents(make_trainer):
    model = tiny_model()
    metrics = make_trainer(model, trainer_values={"eval_dataset": SENTENCES * 10}).evaluate()
    assert metrics["eval_neighbor_ratio"] > 0
    assert "eval_neighbor_ratio" not in make_trainer(model, trainer_values={"eval_dataset": SENTENCES[:9]}).evaluate()


def test_the_ratio_falls_as_the_chain_learns_the_latents(generator):
    model = tiny_model(prediction_type="v_prediction", denoiser_hidden_size=48).eval()
    sides = (torch.randint(2, (200, 1, 1), generator=generator) * 2.0 - 1).expand(-1, 2, 8)
    means = sides + 0.2 * torch.randn(200, 2, 8, generator=generator)
    before = held_out_neighbor_ratio(model, means)
    finish_denoiser(model, means, None, 300, 64, 3e-3, 0.9, seed=0)
    after = held_out_neighbor_ratio(model, means)
    assert 0 < after < before / 2
    assert held_out_neighbor_ratio(model, means) == after  # always the same noise
    assert held_out_neighbor_ratio(model, means[:1].expand(30, -1, -1)) is None  # all the same
    model.denoiser.requires_grad_(False)
    assert held_out_neighbor_ratio(model, means) is None


# Gradients


class _FixedDraws:
    """A collator that gives each sentence its own timestep and noise, whatever batch it comes in."""

    def __init__(self, processor, sentences):
        self.processor = processor
        generator = torch.Generator().manual_seed(0)
        self.rows = {sentence: row for row, sentence in enumerate(sentences)}
        self.timesteps = torch.randint(1, 1000, (len(sentences),), generator=generator)
        self.noise = torch.randn(len(sentences), 2, 8, generator=generator)
        self.batches = []

    def __call__(self, sentences):
        rows = [self.rows[sentence] for sentence in sentences]
        batch = {**self.processor(sentences), "timesteps": self.timesteps[rows], "noise": self.noise[rows]}
        self.batches.append(batch)
        return batch


@pytest.fixture
def one_step(processor, tmp_path, monkeypatch):
    """Function that takes one step of plain gradient descent on eight sentences of as many tokens each."""
    words = "the food was cold".split()
    sentences = [" ".join(order) for order in itertools.islice(itertools.permutations(words), 8)]
    # The one draw that cannot be handed in; training and gradients are the same without it.
    monkeypatch.setattr(latents.LatentPosterior, "sample", lambda self, generator=None, noise=None: self.mean)

    def run(trainer_class, batch_size, accumulation, **config):
        model = tiny_model(encoder=NO_DROPOUT, **config)
        before = copy.deepcopy(model)
        collator = _FixedDraws(processor, sentences)
        arguments = _arguments(
            tmp_path / f"{trainer_class.__name__}-{batch_size}",
            max_steps=1,
            per_device_train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            optim="sgd",
            learning_rate=0.1,
            lr_scheduler_type="constant",
            max_grad_norm=0.0,
        )
        trainer_class(model, arguments, data_collator=collator, train_dataset=sentences).train()
        # what follows is for the statistics of the latents
        return before, dict(model.named_parameters()), collator.batches[:accumulation]

    return run


@pytest.mark.parametrize("trainer_class", [Trainer, EDDPMTrainer])
def test_four_accumulated_batches_of_two_train_as_one_batch_of_eight(one_step, trainer_class):
    before, whole, _ = one_step(trainer_class, 8, 1, latent_normalization="none")
    _, accumulated, batches = one_step(trainer_class, 2, 4, latent_normalization="none")
    assert len(batches) == 4
    initial = dict(before.named_parameters())
    assert max(float((whole[name] - initial[name]).detach().abs().max()) for name in whole) > 1e-3
    for name, parameter in whole.items():
        torch.testing.assert_close(accumulated[name], parameter, atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize("trainer_class", [Trainer, EDDPMTrainer])
@pytest.mark.parametrize("latent_normalization", ["batch", "batch_renorm", "none"])
def test_an_accumulated_step_follows_the_mean_of_its_batches_gradients(one_step, trainer_class, latent_normalization):
    before, after, batches = one_step(trainer_class, 2, 4, latent_normalization=latent_normalization)
    before.train()
    for batch in batches:
        (before(**batch).loss / len(batches)).backward()
    for name, parameter in before.named_parameters():
        expected = parameter.detach() - 0.1 * parameter.grad
        torch.testing.assert_close(after[name].detach(), expected, atol=1e-6, rtol=1e-4)


def test_both_trainers_take_the_same_steps(processor, tmp_path):
    # Parameters alone: at the end ours also takes the latents' statistics anew, over all training data.
    states = []
    for trainer_class, values in ((Trainer, {"data_collator": processor}), (EDDPMTrainer, {"processor": processor})):
        model = tiny_model()
        arguments = _arguments(tmp_path / trainer_class.__name__)
        trainer_class(model, arguments, train_dataset=SENTENCES, **values).train()
        states.append({name: parameter.detach() for name, parameter in model.named_parameters()})
    _assert_same(*states)


def test_the_normalisation_ends_with_the_statistics_of_the_training_data(make_trainer, processor):
    run = make_trainer()
    run.train()
    with torch.no_grad():
        batch = processor(SENTENCES)
        inputs = {name: batch[name] for name in run.model.encoder.input_names}
        latents = run.model.eval().encode(**inputs).mean
    torch.testing.assert_close(latents.mean(0), torch.zeros(2, 8), atol=1e-3, rtol=0)
    torch.testing.assert_close(latents.std(0), torch.ones(2, 8), atol=1e-2, rtol=0)


def test_a_plain_trainer_lowers_the_loss(processor, tmp_path):
    arguments = _arguments(tmp_path, max_steps=50, learning_rate=3e-3, logging_steps=10)
    run = Trainer(tiny_model(), arguments, data_collator=processor, train_dataset=SENTENCES)
    run.train()
    losses = [entry["loss"] for entry in run.state.log_history if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]


# The average of the weights


class _Recorder(TrainerCallback):
    """Keeps the trained parameters after each step."""

    def __init__(self, model):
        self.model = model
        self.steps = []

    def on_step_end(self, args, state, control, **kwargs):
        self.steps.append([parameter.detach().clone() for parameter in self.model.parameters()])


def test_the_average_is_the_exponential_one_with_its_warm_up(make_trainer):
    model = tiny_model()
    expected = [parameter.detach().clone() for parameter in model.parameters()]
    recorder = _Recorder(model)
    run = make_trainer(model, max_steps=6, trainer_values={"ema_decay": 0.3, "callbacks": [recorder]})
    run.train()
    assert len(recorder.steps) == 6
    for step, parameters in enumerate(recorder.steps):
        # diffusers: the first step copies, then the decay grows as (1 + n) / (10 + n) up to `ema_decay`
        decay = 0.0 if step == 0 else min(0.3, (1 + step) / (10 + step))
        expected = [
            average * decay + parameter * (1 - decay) for average, parameter in zip(expected, parameters, strict=True)
        ]
    for average, value in zip(run.ema.shadow_params, expected, strict=True):
        torch.testing.assert_close(average, value)
    # and the model ends with it
    for parameter, value in zip(model.parameters(), expected, strict=True):
        torch.testing.assert_close(parameter.detach(), value)


def test_the_average_follows_only_what_trains(make_trainer):
    model = tiny_model()
    model.encoder.requires_grad_(False)
    frozen = _state(model.encoder)
    run = make_trainer(model, trainer_values={"ema_decay": 0.5})
    run.train()
    assert len(run.ema.shadow_params) == sum(parameter.requires_grad for parameter in model.parameters())
    _assert_same(_state(model.encoder), frozen)


def test_evaluation_uses_the_averaged_weights_and_gives_the_raw_ones_back(make_trainer, processor):
    run = make_trainer(trainer_values={"ema_decay": 0.9, "eval_dataset": SENTENCES})
    run.train()
    with torch.no_grad():  # training is over: make raw and averaged weights differ again
        for parameter in run.model.parameters():
            parameter.add_(0.05)
    raw = _state(run.model)
    averaged = copy.deepcopy(run.model).eval()
    run.ema.copy_to(averaged.parameters())
    averaged.calibrate([processor(SENTENCES)])
    with torch.no_grad():
        expected = float(averaged(**processor(SENTENCES)).loss)
        raw_loss = float(run.model.eval()(**processor(SENTENCES)).loss)
    assert run.evaluate()["eval_loss"] == pytest.approx(expected, rel=1e-4)
    assert abs(raw_loss - expected) > 1e-2
    _assert_same(_state(run.model), raw)


def test_the_raw_weights_come_back_after_a_failed_evaluation(make_trainer, monkeypatch):
    run = make_trainer(trainer_values={"ema_decay": 0.9, "eval_dataset": SENTENCES})
    run.train()
    with torch.no_grad():
        for parameter in run.model.parameters():
            parameter.add_(0.05)
    raw = _state(run.model)
    monkeypatch.setattr(run.model, "calibrate", lambda batches: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run.evaluate()
    _assert_same(_state(run.model), raw)


def test_the_best_checkpoint_is_loaded_at_the_end_with_its_average(make_trainer):
    run = make_trainer(
        max_steps=6,
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        save_total_limit=1,
        load_best_model_at_end=True,
        metric_for_best_model="eval_loss",
        greater_is_better=True,  # the loss falls: this makes the first checkpoint the best one
        trainer_values={"ema_decay": 0.5, "eval_dataset": SENTENCES},
    )
    run.train()
    losses = {entry["step"]: entry["eval_loss"] for entry in _entries(run, "eval_loss")}
    assert max(losses, key=losses.get) == 2
    best = Path(run.state.best_model_checkpoint)
    assert best == Path(run.args.output_dir) / "checkpoint-2" and best.is_dir()
    averages = load_file(best / "ema.safetensors")
    for index, parameter in enumerate(run.model.parameters()):
        assert torch.equal(parameter.detach(), averages[str(index)])
    assert run.evaluate()["eval_loss"] == pytest.approx(losses[2], rel=1e-5)


@pytest.mark.parametrize("ema_decay", [0.0, 1.0, -0.5, 2.0])
def test_a_decay_outside_the_open_unit_interval_is_refused(make_trainer, ema_decay):
    with pytest.raises(ValueError, match=r"`ema_decay` must be in \(0, 1\)"):
        make_trainer(trainer_values={"ema_decay": ema_decay})


def test_a_checkpoint_without_an_average_is_refused_where_one_is_kept(make_trainer):
    make_trainer(max_steps=2, save_strategy="steps", save_steps=2).train()
    run = make_trainer(max_steps=4, trainer_values={"ema_decay": 0.5})
    with pytest.raises(ValueError, match=r"holds no ema\.safetensors"):
        run.train(resume_from_checkpoint=True)


# Previews


def test_previews_show_what_the_averaged_weights_generate_and_reconstruct(make_trainer):
    originals = SENTENCES[:2]
    run = make_trainer(
        eval_strategy="steps",
        eval_steps=2,
        trainer_values={
            "ema_decay": 0.5,
            "eval_dataset": SENTENCES,
            "preview_data": originals,
            "num_preview_samples": 3,
        },
    )
    run.train()
    lines = (Path(run.args.output_dir) / "previews.jsonl").read_text().splitlines()
    previews = [json.loads(line) for line in lines]
    assert [preview["step"] for preview in previews] == [2, 4]
    assert all(preview["originals"] == originals and len(preview["samples"]) == 3 for preview in previews)
    pipe = run.build_pipeline()
    pipe.set_progress_bar_config(disable=True)
    assert previews[-1]["reconstructions"] == pipe.reconstruct(originals)


def test_previews_do_not_change_the_training(make_trainer):
    states = []
    for folder, values in (("plain", {}), ("previews", {"preview_data": SENTENCES[:2]})):
        run = make_trainer(
            folder=folder, eval_strategy="steps", eval_steps=1, trainer_values={"eval_dataset": SENTENCES, **values}
        )
        run.train()
        states.append(_state(run.model))
    _assert_same(*states)


def test_previews_need_a_processor(processor, tmp_path):
    with pytest.raises(ValueError, match="`preview_data` needs a `processor`"):
        EDDPMTrainer(tiny_model(), _arguments(tmp_path), preview_data=SENTENCES)


def test_the_pipeline_of_a_trained_model_is_in_evaluation_mode(make_trainer):
    run = make_trainer(max_steps=1)
    run.train()
    pipe = run.build_pipeline()
    assert not pipe.model.training
    torch.testing.assert_close(pipe.encode(SENTENCES[0]).latents, pipe.encode(SENTENCES[:2]).latents[:1])


# Checkpoints and resuming


class _Killed(BaseException):
    """Stands for the end of the process."""


class _KillAt(TrainerCallback):
    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step == self.step:
            raise _Killed


RUN = {
    "max_steps": 6,
    "per_device_train_batch_size": 3,  # three batches an epoch: every checkpoint but the last is in the middle of one
    "save_strategy": "steps",
    "save_steps": 2,
    "eval_strategy": "steps",
    "eval_steps": 2,
}


def _make_run(folder, tokenizer, seed=0, callbacks=(), **values):
    """A trainer with everything on: dropout, normalisation, average, evaluation, previews."""
    return EDDPMTrainer(
        tiny_model(seed),
        _arguments(folder, **{**RUN, **values}),
        EDDPMTextProcessor(tokenizer, max_length=16),
        train_dataset=SENTENCES,
        eval_dataset=SENTENCES,
        ema_decay=0.5,
        preview_data=SENTENCES[:1],
        num_preview_samples=1,
        callbacks=list(callbacks),
    )


@pytest.fixture
def make_run(tokenizer, tmp_path):
    return lambda folder, *args, **values: _make_run(tmp_path / folder, tokenizer, *args, **values)


@pytest.fixture(scope="module")
def uninterrupted(tokenizer, tmp_path_factory):
    run = _make_run(tmp_path_factory.mktemp("uninterrupted"), tokenizer)
    run.train()
    return run


def _assert_same_run(run, other):
    _assert_same(_state(run.model), _state(other.model))
    assert run.ema.optimization_step == other.ema.optimization_step
    assert all(torch.equal(a, b) for a, b in zip(run.ema.shadow_params, other.ema.shadow_params, strict=True))
    assert _lasting(run.state.log_history) == _lasting(other.state.log_history)


@pytest.mark.parametrize("step", [pytest.param(3, marks=pytest.mark.slow), 5])
def test_a_killed_run_goes_on_from_its_checkpoint_as_if_nothing_had_happened(make_run, uninterrupted, step):
    with pytest.raises(_Killed):
        make_run("killed", callbacks=[_KillAt(step)]).train()
    torch.manual_seed(99)
    resumed = make_run("killed", seed=1)  # other initial weights, which the checkpoint replaces
    resumed.train(resume_from_checkpoint=True)
    assert resumed.state.global_step == 6
    _assert_same_run(resumed, uninterrupted)


def test_resuming_a_finished_run_takes_no_further_step(make_run, uninterrupted):
    again = make_run(uninterrupted.args.output_dir, seed=1)
    again.train(resume_from_checkpoint=True)
    assert again.state.global_step == 6
    _assert_same(_state(again.model), _state(uninterrupted.model))


@pytest.mark.parametrize(
    "part",
    [
        pytest.param("_save", marks=pytest.mark.slow),
        pytest.param("_save_optimizer_and_scheduler", marks=pytest.mark.slow),
        "_save_rng_state",
    ],
)
def test_an_interrupted_checkpoint_leaves_no_folder_and_the_previous_one_serves(
    make_run, uninterrupted, monkeypatch, part
):
    original = getattr(EDDPMTrainer, part)

    def stop_at_the_second(self, *args, **kwargs):
        original(self, *args, **kwargs)
        if self.state.global_step == 4:
            raise _Killed

    with monkeypatch.context() as patch:
        patch.setattr(EDDPMTrainer, part, stop_at_the_second)
        killed = make_run("killed")
        with pytest.raises(_Killed):
            killed.train()
    folder = Path(killed.args.output_dir)
    assert [path.name for path in folder.glob("checkpoint-*")] == ["checkpoint-2"]
    assert get_last_checkpoint(str(folder)) == str(folder / "checkpoint-2")
    resumed = make_run("killed", seed=1)
    resumed.train(resume_from_checkpoint=True)
    _assert_same_run(resumed, uninterrupted)
    assert not list(folder.glob(".checkpoint-*"))  # what the interrupted write left is gone


KILLED_TRAINING = """
import os, signal, sys
from test_trainer import RUN, SENTENCES, _arguments, tiny_model
from hf_eddpm import EDDPMTextProcessor, EDDPMTrainer

folder, processor = sys.argv[1:]

class Killed(EDDPMTrainer):
    def _save_rng_state(self, output_dir):
        if self.state.global_step == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        super()._save_rng_state(output_dir)

processor = EDDPMTextProcessor.from_pretrained(processor)
values = {"ema_decay": 0.5, "preview_data": SENTENCES[:1], "num_preview_samples": 1}
data = {"train_dataset": SENTENCES, "eval_dataset": SENTENCES}
Killed(tiny_model(), _arguments(folder, **RUN), processor, **data, **values).train()
"""


@pytest.mark.slow
def test_a_process_killed_while_writing_a_checkpoint_resumes_from_the_one_before(
    make_run, uninterrupted, processor, tmp_path
):
    processor.save_pretrained(tmp_path / "processor")
    tests = Path(__file__).parent
    paths = [tests.parent / "src", tests]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, "-c", KILLED_TRAINING, str(tmp_path / "killed"), str(tmp_path / "processor")]
    assert subprocess.run(command, env=environment, timeout=300).returncode == -signal.SIGKILL
    assert [path.name for path in (tmp_path / "killed").glob("checkpoint-*")] == ["checkpoint-2"]
    resumed = make_run("killed", seed=1)
    resumed.train(resume_from_checkpoint=True)
    _assert_same_run(resumed, uninterrupted)


def test_only_the_newest_checkpoints_are_kept(make_trainer):
    run = make_trainer(max_steps=5, save_strategy="steps", save_steps=1, save_total_limit=2)
    run.train()
    folders = sorted(path.name for path in Path(run.args.output_dir).iterdir())
    assert folders == ["checkpoint-4", "checkpoint-5"]


def test_a_checkpoint_holds_the_raw_weights_the_average_and_the_processor(make_run, processor):
    run = make_run("run", max_steps=2)
    run.add_callback(recorder := _Recorder(run.model))
    run.train()
    checkpoint = Path(run.args.output_dir) / "checkpoint-2"
    loaded = EDDPMModel.from_pretrained(checkpoint)
    for parameter, raw in zip(loaded.parameters(), recorder.steps[-1], strict=True):
        assert torch.equal(parameter.detach(), raw)
    averages = load_file(checkpoint / "ema.safetensors")
    for index, parameter in enumerate(run.model.parameters()):
        assert torch.equal(averages[str(index)], parameter.detach())
    saved = EDDPMTextProcessor.from_pretrained(checkpoint)
    assert saved.max_length == processor.max_length
    assert torch.equal(saved(SENTENCES)["labels"], processor(SENTENCES)["labels"])


def test_the_final_model_reconstructs_as_the_pipeline_saved_from_it(make_run, tmp_path):
    run = make_run("run", max_steps=2)
    run.train()
    pipe = run.build_pipeline()
    pipe.set_progress_bar_config(disable=True)
    pipe.save_pretrained(tmp_path / "pipeline")
    loaded = type(pipe).from_pretrained(tmp_path / "pipeline")
    assert loaded.reconstruct(SENTENCES) == pipe.reconstruct(SENTENCES)
    assert torch.equal(loaded.encode(SENTENCES).latents, pipe.encode(SENTENCES).latents)


@pytest.mark.parametrize("name", ["train_dataset", "eval_dataset"])
def test_a_text_that_cannot_be_trained_on_is_refused_before_training(processor, tmp_path, name):
    data = {"train_dataset": SENTENCES, name: [*SENTENCES, "", "more ."]}
    with pytest.raises(
        ValueError, match=f"`{name}` must not hold empty sentences, got one at position {len(SENTENCES)}"
    ):
        EDDPMTrainer(tiny_model(), _arguments(tmp_path), processor=processor, **data)


def test_the_collator_takes_raw_data_and_marked_data(processor):
    plain = RawDataCollator(processor)(SENTENCES[:2])
    marked = RawDataCollator(processor)(
        [{"data": text, "diffusion_mask": text is SENTENCES[0]} for text in SENTENCES[:2]]
    )
    assert marked.pop("diffusion_mask").tolist() == [True, False]
    classes = RawDataCollator(processor)(
        [{"data": text, "class_labels": row} for row, text in enumerate(SENTENCES[:2])]
    )
    assert torch.equal(classes.pop("class_labels"), torch.tensor([0, 1])) and plain.keys() == classes.keys()
    assert plain.keys() == marked.keys()
    for name in plain:
        torch.testing.assert_close(plain[name], marked[name])
