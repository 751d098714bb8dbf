"""Trainings beyond a single run over a list: trials, several evaluation sets, predictions, streams."""

import os
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from conftest import SENTENCES, tiny_model
from images import random_images, tiny_image_model
from proteins import LENGTH, PROTEINS, tiny_protein_model
from test_resume import _assert_equal, _Watched
from transformers import TrainerCallback, TrainingArguments

from hf_eddpm import EDDPMImageProcessor, EDDPMProteinProcessor, EDDPMTextProcessor, EDDPMTrainer
from hf_eddpm.training import trainer as trainer_module
from hf_eddpm.training.collator import RawDataCollator

VOLATILE = ("runtime", "per_second", "train_seconds", "preparation")


@pytest.fixture
def make(tokenizer, tmp_path):
    """Function that makes a watched trainer of a tiny model; `trainer` are its arguments, the rest are options."""

    def make(trainer=None, model=None, processor=None, **values):
        defaults = {
            "max_steps": 4,
            "per_device_train_batch_size": 4,
            "learning_rate": 1e-3,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
        }
        arguments = TrainingArguments(str(tmp_path / "run"), **{**defaults, **values})
        given = {"train_dataset": SENTENCES, **(trainer or {})}
        if "model_init" not in given:
            given["model"] = tiny_model() if model is None else model
        processor = EDDPMTextProcessor(tokenizer, max_length=16) if processor is None else processor
        return _Watched(args=arguments, processor=processor, **given)

    return make


def _lasting(log):
    return [{key: value for key, value in row.items() if not any(v in key for v in VOLATILE)} for row in log]


# Trials


def test_a_second_training_of_model_init_is_the_first_one_again(make):
    """Average, statistics of the latents, monitors, log and previews are of the new model alone."""
    made = []

    def model_init():
        made.append(tiny_model())
        return made[-1]

    trainer = {"model_init": model_init, "ema_decay": 0.5, "eval_dataset": SENTENCES, "preview_data": SENTENCES[:1]}
    # The last step's terms are not logged: the second training must not find them.
    run = make(trainer, max_steps=5, logging_steps=2, eval_strategy="steps", eval_steps=2)
    ends = []
    for _ in range(2):
        run.seen = []
        run.train()
        assert run.model is made[-1]
        state = {name: value.clone() for name, value in run.model.state_dict().items()}
        shadows = [shadow.clone() for shadow in run.ema.shadow_params]
        ends.append((run.seen, state, shadows, run.ema.optimization_step, _lasting(run.state.log_history)))
    assert len(made) == 3  # one as the trainer is made
    _assert_equal(ends[0], ends[1])
    lines = (Path(run.args.output_dir) / "previews.jsonl").read_text().splitlines()
    assert len(lines) == 6 and lines[:3] == lines[3:]  # at steps 2, 4 and the last
    for shadow, parameter in zip(run.ema.shadow_params, made[-1].parameters(), strict=True):
        assert torch.equal(shadow, parameter)


def test_a_trial_with_other_noise_has_its_diagnostics(make):
    variances = iter([0.5, 0.01, 0.01])
    trainer = {"model_init": lambda: tiny_model(encoder_noise_variance=next(variances))}
    run = make(trainer, max_steps=1)
    run.train()
    first = run.state.log_history[0]
    again = make(model=tiny_model(encoder_noise_variance=0.01), max_steps=1)
    again.train()
    assert first["kl_per_dim"] == pytest.approx(again.state.log_history[0]["kl_per_dim"], rel=0.05)


def test_options_of_a_trial_are_checked(make):
    run = make({"model_init": lambda: tiny_model()})
    run.args.label_smoothing_factor = 0.1
    with pytest.raises(ValueError, match="`label_smoothing_factor` must be 0.0"):
        run.train(trial={})


class _OutOfMemory(_Watched):
    """Has no room for batches of eight, which shows in the second step."""

    def training_step(self, model, inputs, *args, **kwargs):
        loss = super().training_step(model, inputs, *args, **kwargs)
        if len(inputs["labels"]) == 8 and self.state.global_step == 1:
            raise RuntimeError("CUDA out of memory.")
        return loss


def test_a_smaller_batch_that_fits_starts_average_and_monitors_anew(tokenizer, tmp_path):
    values = {"max_steps": 3, "per_device_train_batch_size": 8, "logging_steps": 3, "auto_find_batch_size": True}
    arguments = TrainingArguments(str(tmp_path), report_to="none", disable_tqdm=True, use_cpu=True, **values)
    processor = EDDPMTextProcessor(tokenizer, max_length=16)
    run = _OutOfMemory(tiny_model(), arguments, processor, train_dataset=SENTENCES, ema_decay=0.5)
    run.train()
    assert run.state.global_step == 3 and run.ema.optimization_step == 3
    (entry,) = [entry for entry in run.state.log_history if "loss" in entry]
    terms = entry["reconstruction_loss"] + entry["diffusion_loss"] + entry["alignment_loss"]
    # The mean over data of the terms, where `loss` is the mean over steps; nothing of the first attempt is in either.
    assert [len(batch["labels"]) for batch in run.seen] == [8, 8, 7, 1, 7]
    assert run.monitors["train"].count == 15 and terms == pytest.approx(entry["loss"], rel=0.2)


# Evaluation sets and predictions


def test_each_of_several_evaluation_sets_has_its_own_terms(make):
    sets = {"short": SENTENCES[:4], "long": SENTENCES[4:]}
    run = make({"eval_dataset": sets, "ema_decay": 0.5}, eval_strategy="steps", eval_steps=2)
    run.train()
    together = run.evaluate()
    for name, data in sets.items():
        alone = run.evaluate(data, metric_key_prefix="eval_alone")
        for term in ("loss", "reconstruction_loss", "diffusion_loss", "alignment_loss", "latent_std", "rate"):
            assert together[f"eval_{name}_{term}"] == alone[f"eval_alone_{term}"]
        logged = [entry for entry in run.state.log_history if f"eval_{name}_diffusion_loss" in entry]
        assert [entry["step"] for entry in logged] == [2, 4, 4]
    other = {name: metrics for name, metrics in run.evaluate(sets, metric_key_prefix="test").items()}
    assert other["test_short_rate"] == together["eval_short_rate"] and not any(name[:4] == "eval" for name in other)


def test_the_best_model_may_be_that_of_one_of_several_evaluation_sets(make):
    run = make(
        {"eval_dataset": {"a": SENTENCES[:4], "b": SENTENCES[4:]}},
        eval_strategy="steps",
        eval_steps=2,
        save_strategy="steps",
        save_steps=2,
        load_best_model_at_end=True,
        metric_for_best_model="eval_b_reconstruction_loss",
    )
    run.train()
    losses = {row["step"]: row["eval_b_reconstruction_loss"] for row in run.state.log_history if "eval_b_rate" in row}
    assert run.state.best_global_step == min(losses, key=losses.get)


def test_predictions_and_metrics_are_of_posterior_means_and_targets(make, tokenizer):
    given = {}

    def compute_metrics(prediction):
        given["prediction"] = prediction
        return {"rows": len(prediction.predictions)}

    options = {"include_for_metrics": ["inputs", "loss"], "per_device_eval_batch_size": 3}
    run = make({"eval_dataset": SENTENCES, "compute_metrics": compute_metrics, "ema_decay": 0.5}, **options)
    run.train()
    assert run.evaluate()["eval_rows"] == 8
    pipe = run.build_pipeline()
    pipe.set_progress_bar_config(disable=True)
    batch = run.processor(SENTENCES)
    predicted = run.predict(SENTENCES)
    for prediction in (given["prediction"], predicted):
        np.testing.assert_allclose(prediction.predictions, pipe.encode(SENTENCES).latents, atol=1e-5)
        np.testing.assert_array_equal(prediction.label_ids, batch["labels"])
    np.testing.assert_array_equal(
        np.where(batch["attention_mask"] == 0, 0, given["prediction"].inputs), batch["input_ids"]
    )
    assert predicted.metrics["test_rows"] == 8 and given["prediction"].losses.shape == (8,)


def test_predictions_of_other_modalities(make):
    run = make({"train_dataset": PROTEINS}, tiny_protein_model(), EDDPMProteinProcessor(LENGTH, stop=False))
    means, properties = run.predict(PROTEINS).predictions
    assert means.shape == (5, 1, 6) and properties.shape == (5, 1)
    images = random_images(5)
    run = make({"train_dataset": images}, tiny_image_model(), EDDPMImageProcessor(8, 1))
    predicted = run.predict(images)
    assert predicted.predictions.shape[0] == 5 and predicted.label_ids.shape == (5, 1, 8, 8)


def test_labels_that_the_data_lack_are_named(make):
    run = make({"eval_dataset": SENTENCES}, label_names=["class_labels"])
    with pytest.raises(ValueError, match=r"`label_names` must be in the batch, which lacks \['class_labels'\]"):
        run.evaluate()


# Options with an effect of their own


def test_noisy_embeddings_and_counted_tokens(make):
    runs = []
    for alpha in (None, 5.0):
        run = make(max_steps=2, neftune_noise_alpha=alpha, include_num_input_tokens_seen="non_padding")
        run.train()
        runs.append(run)
        tokens = sum(int(batch["attention_mask"].sum()) for batch in run.seen)
        assert run.state.num_input_tokens_seen == tokens
    first, second = (entry["loss"] for run in runs for entry in run.state.log_history[:1])
    assert first != second
    assert not runs[1].model.get_input_embeddings()._forward_hooks


def test_a_column_of_lengths_is_taken_as_it_is(make, monkeypatch):
    lengths = [5, 1, 4, 2, 3, 8, 7, 6]
    data = datasets.Dataset.from_dict({"text": SENTENCES, "size": lengths})
    options = {"train_sampling_strategy": "group_by_length", "length_column_name": "size"}
    monkeypatch.setattr(RawDataCollator, "lengths", lambda self, dataset: 1 / 0)
    run = make({"train_dataset": data}, per_device_train_batch_size=2, **options)
    assert run._get_train_sampler().lengths.tolist() == lengths
    run.train()
    assert run.state.global_step == 4


@pytest.mark.parametrize(
    ("strategy", "normalization", "warned"),
    [
        ("group_by_length", "batch", True),
        ("group_by_length", "batch_renorm", False),
        ("group_by_length", "none", False),
        ("random", "batch", False),
    ],
)
def test_batches_whose_statistics_are_not_those_of_the_data_are_warned_of(
    make, caplog, monkeypatch, strategy, normalization, warned
):
    monkeypatch.setattr(trainer_module.logger, "propagate", True)
    monkeypatch.setattr(trainer_module.logger.parent, "propagate", True)
    make(model=tiny_model(latent_normalization=normalization), train_sampling_strategy=strategy)
    said = [record.getMessage() for record in caplog.records if "group_by_length" in record.getMessage()]
    assert len(said) == int(warned)
    assert all("batch_renorm" in message for message in said)


def test_a_checkpoint_of_the_model_only_serves_its_average_and_is_no_place_to_go_on_from(make):
    values = {"save_strategy": "steps", "save_steps": 2, "save_only_model": True}
    values |= {"eval_strategy": "steps", "eval_steps": 2, "load_best_model_at_end": True}
    run = make({"ema_decay": 0.5, "eval_dataset": SENTENCES}, **values)
    run.train()
    losses = [entry["eval_loss"] for entry in run.state.log_history if "eval_loss" in entry]
    assert run.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-5)
    with pytest.raises(ValueError, match="`resume_from_checkpoint` .* holds no state of the optimizer"):
        make({"ema_decay": 0.5, "eval_dataset": SENTENCES}, **values).train(resume_from_checkpoint=True)


class _Terminated(TrainerCallback):
    """Has the process asked to end after a step, as if its grace period were over."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 1:
            self.manager.is_checkpoint_requested = True


def test_a_checkpoint_at_termination_is_whole(make):
    whole = make({"ema_decay": 0.5})
    whole.train()
    callback = _Terminated()
    run = make({"ema_decay": 0.5, "callbacks": [callback]}, enable_jit_checkpoint=True)
    callback.manager = next(c.jit_manager for c in run.callback_handler.callbacks if hasattr(c, "jit_manager"))
    run.train()
    folder = Path(run.args.output_dir) / "checkpoint-1"
    assert {"ema.safetensors", "optimizer.pt", "trainer_state.json", "rng_state.pth"} <= set(os.listdir(folder))
    assert not list(folder.glob("*incomplete*"))
    resumed = make({"ema_decay": 0.5})
    resumed.train(resume_from_checkpoint=True)
    _assert_equal(resumed.model.state_dict(), whole.model.state_dict())


def test_a_revision_of_the_hub_is_uploaded_to(make, monkeypatch):
    sent = []
    monkeypatch.setattr(trainer_module, "upload_checkpoint", lambda *_, revision, **__: sent.append(revision))
    monkeypatch.setattr(trainer_module.HfApi, "create_repo", lambda *_, **__: SimpleNamespace(repo_id="user/run"))
    run = make(hub_revision="draft")
    run.push_to_hub()
    run.push_to_hub(revision="main")
    assert sent == ["draft", "main"]


# Streams


def _stream(rows=SENTENCES, shards=2):
    data = datasets.Dataset.from_dict({"text": rows, "id": list(range(len(rows)))})
    return data.to_iterable_dataset(num_shards=shards)


@pytest.mark.parametrize("values", [{}, {"remove_unused_columns": False}, {"dataloader_num_workers": 2}], ids=str)
def test_a_stream_trains_as_the_data_it_holds(make, values):
    mapped = make(
        {"train_dataset": datasets.Dataset.from_dict({"text": SENTENCES}), "ema_decay": 0.5},
        train_sampling_strategy="sequential",
    )
    run = make({"train_dataset": _stream(), "eval_dataset": _stream(), "ema_decay": 0.5}, **values)
    for each in (mapped, run):
        each.train()
    if "dataloader_num_workers" not in values:  # each worker reads its own shards
        _assert_equal(run.seen, mapped.seen)
    assert run.evaluate()["eval_loss"] > 0 and len(run.seen) == 4


def test_an_evaluation_leaves_a_shuffled_stream_where_it_is(make):
    seen = []
    for values in ({}, {"eval_strategy": "steps", "eval_steps": 1}):
        stream = _stream(SENTENCES * 4, shards=4).shuffle(seed=0, buffer_size=8)
        run = make({"train_dataset": stream, "eval_dataset": SENTENCES, "ema_decay": 0.5}, max_steps=12, **values)
        run.train()
        seen.append([batch["labels"] for batch in run.seen])
    _assert_equal(*seen)


@pytest.mark.parametrize(
    ("step", "values"),
    [(1, {}), (3, {}), (5, {}), (3, {"dataloader_num_workers": 2}), (3, {"gradient_accumulation_steps": 2})],
    ids=str,
)
def test_a_stream_goes_on_where_it_was_also_after_it_has_begun_anew(make, step, values):
    """Three batches (six in the last case) are a pass: the steps lie in the first, at its end, and in the second."""
    rows = SENTENCES + SENTENCES[:4] if "gradient_accumulation_steps" not in values else SENTENCES * 2
    values = {"max_steps": 8, "save_strategy": "steps", **values}

    def parts():
        return {"train_dataset": _stream(rows).shuffle(seed=3, buffer_size=6), "ema_decay": 0.5}

    whole = make(parts(), save_steps=step, **values)
    whole.train()
    resumed = make(parts(), save_steps=100, **values)
    torch.rand(5)
    resumed.train(resume_from_checkpoint=str(Path(whole.args.output_dir) / f"checkpoint-{step}"))
    _assert_equal(resumed.seen, whole.seen[-len(resumed.seen) :])
    assert len(resumed.seen) == (8 - step) * whole.args.gradient_accumulation_steps
    _assert_equal(dict(resumed.model.state_dict()), dict(whole.model.state_dict()))
    _assert_equal(resumed.ema.shadow_params, whole.ema.shadow_params)
    _assert_equal(resumed.optimizer.state_dict(), whole.optimizer.state_dict())


def test_a_finished_run_over_a_stream_has_the_same_statistics_when_it_is_resumed(make, monkeypatch):
    monkeypatch.setattr(trainer_module, "_CALIBRATION_DATA", 5)
    runs = []
    for values in ({"save_strategy": "steps", "save_steps": 6}, {}):
        stream = _stream(SENTENCES + SENTENCES[:4], shards=4).shuffle(seed=3, buffer_size=6)
        run = make({"train_dataset": stream, "ema_decay": 0.5}, max_steps=6, **values)  # twice over the stream
        run.train(resume_from_checkpoint=None if values else True)
        runs.append(run.model.state_dict())
    _assert_equal(*runs)


def test_lengths_of_a_stream_are_refused_by_name(make):
    with pytest.raises(ValueError, match="`train_sampling_strategy` 'group_by_length' needs"):
        make({"train_dataset": _stream()}, train_sampling_strategy="group_by_length")


def test_a_stream_without_the_datum_is_refused_by_name(make):
    stream = _stream().rename_column("text", "body")
    with pytest.raises(ValueError, match="Each example must have `data` or `text`"):
        EDDPMTrainer.train(make({"train_dataset": stream}, remove_unused_columns=False))
