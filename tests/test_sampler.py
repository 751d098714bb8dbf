import json

import pytest
import torch
from diffusers import DPMSolverMultistepScheduler
from images import tiny_image_pipe

from hf_eddpm import EDDPMPipeline, EDDPMScheduler
from hf_eddpm.hub.remote_code import write_code
from hf_eddpm.training import sampler

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


def _files(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_checkpoints_choice_changes_and_changes_back_and_its_weights_stay(pipe, tmp_path):
    folder = tmp_path / "checkpoint"
    pipe.save_pretrained(folder)
    before = _files(folder)
    sampler.main([str(folder), "--steps", "7", "--noise_scale", "1.2"])
    loaded = EDDPMPipeline.from_pretrained(folder)
    assert isinstance(loaded.scheduler, DPMSolverMultistepScheduler) and loaded.scheduler.config.use_karras_sigmas
    noise = torch.randn(2, 2, 8)
    latents = loaded(latents=noise, output_type="latent").latents
    assert loaded.num_timesteps == 7
    sampler.use_solver(pipe)
    own = pipe(latents=noise, num_inference_steps=7, noise_scale=1.2, output_type="latent").latents
    torch.testing.assert_close(latents, own)
    changed = {path.name for path, content in _files(folder).items() if content != before.get(path)}
    assert changed == {"scheduler_config.json", "model_index.json", "checksums.json"}

    sampler.main([str(folder), "--scheduler", "ddim", "--steps", "50"])
    assert isinstance(EDDPMPipeline.from_pretrained(folder).scheduler, EDDPMScheduler)
    index = next(path for path in before if path.name == "model_index.json")
    assert json.loads(index.read_text()) == json.loads(before[index])


def test_pictures_of_the_card_may_change_afterwards(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery" / "samples.png").write_bytes(b"one")
    sampler.main([str(tmp_path), "--steps", "7"])
    (tmp_path / "gallery" / "samples.png").write_bytes(b"another")
    assert EDDPMPipeline.from_pretrained(tmp_path).config.default_num_inference_steps == 7


def test_the_choice_is_kept_by_a_checkpoint_that_brings_its_code(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "checkpoint")
    sampler.main([str(tmp_path / "checkpoint"), "--steps", "7", "--noise_scale", "1.2"])
    write_code(tmp_path / "checkpoint")
    loaded = EDDPMPipeline.from_pretrained(tmp_path / "checkpoint")
    assert isinstance(loaded.scheduler, DPMSolverMultistepScheduler)
    assert (loaded.config.default_num_inference_steps, loaded.config.default_noise_scale) == (7, 1.2)


def test_the_chain_of_a_decoder_changes_with_that_of_the_latents_and_back(tmp_path):
    pipe = tiny_image_pipe()
    pipe.save_pretrained(tmp_path)
    before = _files(tmp_path)
    sampler.main([str(tmp_path), "--steps", "7"])
    loaded = EDDPMPipeline.from_pretrained(tmp_path)
    for scheduler in (loaded.scheduler, loaded.decoder_scheduler):
        assert isinstance(scheduler, DPMSolverMultistepScheduler) and scheduler.config.use_karras_sigmas
    assert loaded.decoder_scheduler.config.thresholding and loaded.config.default_num_decoder_steps == 7
    noise, pixels = torch.randn(2, 1, 6), {"output_type": "pt"}
    made = loaded(latents=noise, generator=torch.Generator().manual_seed(0), **pixels).samples
    sampler.use_solver(pipe, 7)
    own = pipe(latents=noise, generator=torch.Generator().manual_seed(0), **pixels).samples
    torch.testing.assert_close(torch.as_tensor(made), torch.as_tensor(own))

    sampler.main([str(tmp_path), "--scheduler", "ddim", "--steps", "50"])
    loaded = EDDPMPipeline.from_pretrained(tmp_path)
    assert isinstance(loaded.scheduler, EDDPMScheduler) and isinstance(loaded.decoder_scheduler, EDDPMScheduler)
    assert _files(tmp_path).keys() == before.keys()


@pytest.mark.parametrize("change", [lambda folder: sampler.main([str(folder), "--steps", "7"]), write_code])
def test_foreign_files_in_subfolders_may_change_afterwards(pipe, tmp_path, change):
    pipe.save_pretrained(tmp_path)
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").write_text("one")
    change(tmp_path)
    (tmp_path / "notes" / "mine.txt").write_text("another")
    EDDPMPipeline.from_pretrained(tmp_path)
    (tmp_path / "scheduler" / "scheduler_config.json").write_text("{}")
    with pytest.raises(OSError, match="scheduler_config.json' is damaged"):
        EDDPMPipeline.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["--steps", "0"], "default_num_inference_steps"),
        (["--noise_scale", "-1"], "default_noise_scale"),
        (["--decoder_steps", "5"], "decoder_steps"),
    ],
)
def test_values_outside_their_range_are_refused_and_change_nothing(pipe, tmp_path, words, name):
    pipe.save_pretrained(tmp_path / "checkpoint")
    before = _files(tmp_path / "checkpoint")
    with pytest.raises(ValueError, match=f"`{name}`"):
        sampler.main([str(tmp_path / "checkpoint"), *words])
    assert _files(tmp_path / "checkpoint") == before
