"""What a training leaves to look at: curves, previews, and the event files of TensorBoard."""

import io
import json
import sys

import numpy as np
import pytest
from conftest import SENTENCES
from images import NET, SIZE
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_training import VALUES

from hf_eddpm.training import train_image, train_text
from hf_eddpm.training.trackers import report_image

DIAGNOSTICS = {"latent_std", "active_dims", "latent_norm", "kl_per_dim", "effective_rank", "largest_share", "rate"}
TERMS = {"reconstruction_loss", "diffusion_loss", "alignment_loss"}


pytestmark = pytest.mark.usefixtures("quiet_again")


@pytest.fixture
def train_sentences(tmp_path):
    """Function that trains on a few sentences and returns the folder of the run."""
    (tmp_path / "sentences.txt").write_text("\n".join(SENTENCES) + "\n")

    def run(**values):
        values = {**VALUES, "num_previews": 2, "eval_strategy": "steps", "eval_steps": 1, **values}
        (tmp_path / "config.json").write_text(json.dumps(values))
        data = ["--train", str(tmp_path / "sentences.txt"), "--output_dir", str(tmp_path / "run")]
        return train_text.main([str(tmp_path / "config.json"), *data]).parent

    return run


def _events(folder):
    """Every event file, read: the evaluation after the training opens a second one."""
    files = sorted(folder.rglob("events.out.tfevents*"))
    read = [EventAccumulator(str(file)) for file in files]
    for each in read:
        each.Reload()
    return read


def test_losses_diagnostics_and_previews_of_text_reach_the_event_files(train_sentences):
    run = train_sentences(report_to="tensorboard")
    read = _events(run)
    scalars = {tag for each in read for tag in each.Tags()["scalars"]}
    assert scalars >= {f"{kind}/{name}" for kind in ("train", "eval") for name in {"loss", *TERMS, *DIAGNOSTICS}}
    by_step = {event.step: event.value for each in read for event in _scalars(each, "eval/diffusion_loss")}
    history = json.loads((run / "pipeline" / "training.json").read_text(encoding="utf-8"))["log"]
    logged = {entry["step"]: entry["eval_diffusion_loss"] for entry in history if "eval_loss" in entry}
    assert by_step == pytest.approx(logged) and set(by_step) == {1, 2}
    texts = [event for each in read for event in each.Tensors("previews/text_summary")]
    assert [event.step for event in texts] == [1, 2, 2]
    shown = texts[-1].tensor_proto.string_val[0].decode()
    preview = json.loads((run / "previews.jsonl").read_text().splitlines()[-1])
    for line in [*preview["samples"], *preview["originals"], *preview["reconstructions"]]:
        assert line in shown


def _scalars(read, tag):
    return read.Scalars(tag) if tag in read.Tags()["scalars"] else []


def test_previews_of_images_reach_the_event_files(tmp_path):
    own = {name: value for name, value in NET.items() if name not in ("image_size", "num_channels")}
    config = {"encoder": {**own, "pool_size": 2}, "decoder": own, "latent_dim": 6, "denoiser_num_layers": 1}
    config |= {"denoiser_hidden_size": 16, "num_train_timesteps": 100}
    images = np.random.default_rng(0).integers(0, 255, (32, SIZE, SIZE)).astype(np.uint8)
    np.savez(tmp_path / "data.npz", images=images)
    words = ["--train", str(tmp_path / "data.npz"), "--model_config", json.dumps(config), "--max_steps", "1"]
    words += ["--num_previews", "2", "--use_cpu", "--report_to", "tensorboard", "--output_dir", str(tmp_path / "run")]
    train_image.main(words)
    (event,) = [event for each in _events(tmp_path / "run") for event in _images(each)]
    reported = Image.open(io.BytesIO(event.encoded_image_string)).convert("L")
    with Image.open(tmp_path / "run" / "previews" / "step-1.png") as saved:
        assert np.array_equal(np.asarray(reported), np.asarray(saved)) and event.step == 1


def _images(read):
    return read.Images("previews") if "previews" in read.Tags()["images"] else []


def test_curves_are_drawn_at_each_evaluation(train_sentences):
    run = train_sentences()
    with Image.open(run / "curves.png") as curves:
        assert curves.width > 1000 and np.asarray(curves.convert("L")).std() > 1


def test_training_without_matplotlib_draws_nothing_and_goes_on(train_sentences, monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.delitem(sys.modules, "hf_eddpm.plots", raising=False)
    run = train_sentences()
    assert (run / "pipeline" / "model_index.json").is_file() and not (run / "curves.png").exists()


def test_a_tracker_that_is_not_there_gets_nothing():
    report_image([], "previews", Image.new("L", (2, 2)), 1)
