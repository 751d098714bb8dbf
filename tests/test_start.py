"""Trainings that start from a pipeline's weights, and trainings that end by the clock."""

import json
import time

import numpy as np
import pytest
import torch
from conftest import SENTENCES, TINY, tiny_model
from transformers import TrainerCallback

from hf_eddpm import EDDPMPipeline, EDDPMScheduler, EDDPMTrainer
from hf_eddpm.training import train_image, train_text
from hf_eddpm.training.arguments import EDDPMTrainingArguments
from hf_eddpm.training.callbacks import TimeLimit
from hf_eddpm.training.options import TextModelArguments
from hf_eddpm.training.start import load_start

QUIET = ["--report_to", "none", "--use_cpu", "--disable_tqdm", "true", "--save_strategy", "no", "--num_previews", "0"]


@pytest.fixture
def checkpoint(processor, tmp_path):
    """Folder of a tiny pipeline of text, in half precision."""
    model = tiny_model()
    pipe = EDDPMPipeline(model, EDDPMScheduler(**model.config.scheduler_config), processor)
    pipe.to(dtype=torch.float16).save_pretrained(tmp_path / "start")
    return tmp_path / "start"


@pytest.fixture
def tune(checkpoint, tmp_path):
    """Function that trains text for a step from the checkpoint and returns the pipeline's folder."""
    (tmp_path / "train.txt").write_text("\n".join(SENTENCES) + "\n")

    def run(*words, **config):
        options = ["--train", str(tmp_path / "train.txt"), "--init_from", str(checkpoint), "--max_steps", "1"]
        options += ["--model_config", json.dumps(config), "--output_dir", str(tmp_path / "run"), *QUIET]
        return train_text.main([*options, "--per_device_train_batch_size", "4", *words])

    return run


def test_a_step_of_no_length_leaves_the_checkpoint_as_it_was(tune, checkpoint):
    folder = tune("--learning_rate", "0", "--weight_decay", "0")
    before, after = (EDDPMPipeline.from_pretrained(each) for each in (checkpoint, folder))
    for part in ("encoder", "decoder", "denoiser"):
        old, new = (dict(getattr(pipe.model, part).named_parameters()) for pipe in (before, after))
        assert all(torch.equal(old[name].float(), new[name].float()) for name in old)
    assert before.processor.tokenizer.get_vocab() == after.processor.tokenizer.get_vocab()
    assert checkpoint.name in json.loads((folder / "training.json").read_text())["base_models"]


def test_the_chain_of_a_checkpoint_is_finished_and_the_rest_stays(tune, checkpoint):
    folder = tune("--learning_rate", "1e-3", "--warmup_steps", "9999999", "--finish_steps", "3")
    before, after = (EDDPMPipeline.from_pretrained(each).model for each in (checkpoint, folder))
    same = {
        part: all(map(torch.equal, a.half().parameters(), b.half().parameters()))
        for part in ("encoder", "decoder", "denoiser")
        for a, b in [(getattr(before, part), getattr(after, part))]
    }
    assert same == {"encoder": True, "decoder": True, "denoiser": False}


def test_the_training_may_differ_but_not_the_networks(tune, checkpoint):
    folder = tune(encoder_noise_variance=0.5, decoder={"model_type": "llama"})
    assert EDDPMPipeline.from_pretrained(folder).model.config.encoder_noise_variance == 0.5
    with pytest.raises(ValueError, match="`model_config` must fit the networks of `init_from`.*`latent_dim` is"):
        tune(latent_dim=999)
    with pytest.raises(ValueError, match="`encoder.hidden_size` is"):
        tune(encoder={"hidden_size": TINY["hidden_size"] * 2})


def test_what_the_training_is_told_holds_from_its_first_step(checkpoint):
    told = {"encoder_noise_variance": 0.5, "decoder_word_dropout": 0.9, "latent_normalization": "batch_renorm"}
    model, processor = load_start(str(checkpoint), "text", told)
    batch = dict(processor(SENTENCES))
    torch.manual_seed(0)
    started = model(**batch)
    fresh = type(model)(model.config).train()
    fresh.load_state_dict(load_start(str(checkpoint), "text", {})[0].state_dict())
    torch.manual_seed(0)
    torch.testing.assert_close(started.loss, fresh(**batch).loss)
    untold, _ = load_start(str(checkpoint), "text", {})
    torch.manual_seed(0)
    assert abs(untold(**batch).loss.item() - started.loss.item()) > 0.01
    with pytest.raises(ValueError, match="`latent_normalization` is 'batch', got 'none'"):
        load_start(str(checkpoint), "text", {"latent_normalization": "none"})
    with pytest.raises(ValueError, match="`latent_normalization`"):
        load_start(str(checkpoint), "text", {"latent_normalization": "layer"})
    with pytest.raises(ValueError, match="`encoder_noise_variance`"):
        load_start(str(checkpoint), "text", {"encoder_noise_variance": -1.0})


def test_what_a_start_leaves_no_room_for_is_refused(tune, checkpoint, tmp_path):
    with pytest.raises(ValueError, match="`max_length` must be that of `init_from`"):
        tune("--max_length", "7")
    with pytest.raises(ValueError, match="leave out vae_kl_weight"):
        tune("--vae_kl_weight", "1")
    with pytest.raises(ValueError, match="leave out `lora`"):
        tune("--lora", "true")
    np.savez(tmp_path / "images.npz", images=np.zeros((8, 8, 8), np.uint8))
    with pytest.raises(ValueError, match="`init_from` must be a checkpoint of modality 'image', got one of 'text'"):
        words = ["--train", str(tmp_path / "images.npz"), "--init_from", str(checkpoint)]
        train_image.main([*words, "--output_dir", str(tmp_path / "run"), "--max_steps", "1", *QUIET])


@pytest.mark.parametrize("values", [{"preset": "text-small"}, {"vocab_size": 300}])
def test_what_a_start_passes_over_is_said(checkpoint, caplog, values):
    (name,) = values
    TextModelArguments(init_from=str(checkpoint))
    assert "is passed over" not in caplog.text
    TextModelArguments(init_from=str(checkpoint), **values)
    assert f"`{name}` is passed over" in caplog.text


def test_the_attention_of_a_start_is_the_one_asked_for(checkpoint):
    def attention(**values):
        model_args = TextModelArguments(init_from=str(checkpoint), **values)
        model, _ = train_text.build_model(model_args, None, SENTENCES)
        return {part.backbone.config._attn_implementation for part in (model.encoder, model.decoder)}

    assert attention() == {"sdpa"} and attention(attn_implementation="eager") == {"eager"}
    with pytest.raises(ValueError, match="attn_implementation"):
        attention(attn_implementation="fast")


class _Rates(TrainerCallback):
    """Notes when each step began and its learning rate."""

    def __init__(self):
        self.seen = []

    def on_step_begin(self, args, state, control, **kwargs):
        time.sleep(0.05)
        self.seen.append((time.perf_counter(), kwargs["optimizer"].param_groups[0]["lr"]))


@pytest.fixture
def timed(processor, tmp_path):
    """Function that trains and returns the trainer and the rates of its steps."""

    def run(**values):
        fixed = {"per_device_train_batch_size": 2, "learning_rate": 1.0e-3, "report_to": "none", "disable_tqdm": True}
        fixed |= {"lr_scheduler_type": "linear", "save_strategy": "no", "use_cpu": True}
        arguments = EDDPMTrainingArguments(str(tmp_path / "run"), **{**fixed, **values})
        rates = _Rates()
        trainer = EDDPMTrainer(
            tiny_model(), arguments, processor, train_dataset=SENTENCES, eval_dataset=SENTENCES[:4], callbacks=[rates]
        )
        trainer.train()
        return trainer, [(moment - rates.seen[0][0], rate) for moment, rate in rates.seen]

    return run


def test_the_clock_ends_a_training_with_the_whole_schedule(timed):
    trainer, seen = timed(max_minutes=0.05, max_steps=100_000)
    assert 1 < trainer.state.global_step < 100 and seen[-1][0] < 3.5
    rates = [rate for _, rate in seen]
    assert rates == sorted(rates, reverse=True) and set(trainer.lr_scheduler.get_last_lr()) == {0.0}
    for moment, rate in seen[1:]:
        assert rate == pytest.approx(1e-3 * (1 - moment / 3), abs=0.3e-3)  # the clock starts a little earlier


def test_steps_that_end_first_have_the_whole_schedule_too(timed):
    trainer, seen = timed(max_minutes=10, max_steps=5)
    assert [rate for _, rate in seen] == pytest.approx([1e-3, 0.8e-3, 0.6e-3, 0.4e-3, 0.2e-3])
    assert trainer.state.global_step == 5


def test_times_and_schedules_that_make_no_sense_are_refused(timed):
    for minutes in (0, -1, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="`max_minutes` must be positive and finite"):
            TimeLimit(minutes)
    with pytest.raises(ValueError, match="`lr_scheduler_type` must be a schedule by steps with `max_minutes`"):
        timed(
            max_minutes=1, max_steps=2, lr_scheduler_type="reduce_lr_on_plateau", eval_strategy="steps", eval_steps=1
        )
