"""Distillation, and quality against steps."""

import pytest
import torch
from conftest import SENTENCES, tiny_model
from diffusers import LCMScheduler
from proteins import PROTEINS, tiny_protein_pipe

import few_steps.run as benchmark_steps
from few_steps.run import StepsArguments
from hf_eddpm import EDDPMPipeline
from hf_eddpm.training import distill
from hf_eddpm.training.options import DistillArguments

LATENT = {"output_type": "latent"}
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.fixture(scope="module")
def teacher():
    """A tiny model whose denoiser has learned two clusters of latents."""
    model = tiny_model(prediction_type="v_prediction", denoiser_hidden_size=48)
    optimizer = torch.optim.Adam(model.denoiser.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(300):
        clean = (torch.randint(2, (128, 1, 1), generator=generator) * 2.0 - 1).expand(-1, 2, 8)
        spread, noise = torch.randn(2, 128, 2, 8, generator=generator)
        clean = clean + 0.3 * spread
        timesteps = torch.randint(len(model.scheduler), (128,), generator=generator)
        output = model.denoise(model.scheduler.add_noise(clean, noise, timesteps), timesteps)
        loss = (output - model.scheduler.get_velocity(clean, noise, timesteps)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.requires_grad_(False)


def test_a_trajectorys_end_is_what_the_pipeline_samples_from_its_start(teacher, make_pipe):
    pipe = make_pipe(teacher)
    points, timesteps, ends = distill.solve_trajectories(teacher, 5, 24, torch.Generator().manual_seed(0))
    assert points.shape == (24, 5, 2, 8) and timesteps.shape == (24,)
    full = pipe(latents=points[0], num_inference_steps=1000, **LATENT).latents
    torch.testing.assert_close(ends, full, atol=0.1, rtol=0)


def test_the_student_comes_closer_to_the_full_chain_in_one_step_than_the_teacher_and_leaves_it_alone(
    teacher, make_pipe
):
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    arguments = {"num_steps": 250, "batch_size": 128, "solver_steps": 12, "pool_size": 256, "learning_rate": 2e-3}
    student = distill.distill(teacher, DistillArguments("", "", ema_decay=0.9, **arguments))
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    noise = torch.randn(200, 2, 8, generator=torch.Generator().manual_seed(7))
    full = make_pipe(teacher)(latents=noise, num_inference_steps=200, **LATENT).latents
    errors = []
    for model in (teacher, student):
        pipe = make_pipe(model)
        pipe.scheduler = LCMScheduler.from_config(pipe.scheduler.config)
        one = pipe(latents=noise, num_inference_steps=1, **LATENT).latents
        errors.append(float((one - full).square().mean()))
        few = pipe(latents=noise, num_inference_steps=4, generator=torch.Generator().manual_seed(0), **LATENT).latents
        assert few.shape == noise.shape and few.isfinite().all()
    assert errors[1] < 0.5 * errors[0]


def test_both_scripts_run_on_text_and_on_proteins(make_pipe, tmp_path, capsys):
    (tmp_path / "text.txt").write_text("\n".join(SENTENCES))
    (tmp_path / "proteins.csv").write_text("\n".join(["sequence", *PROTEINS]))
    for pipe, data in ((make_pipe(), "text.txt"), (tiny_protein_pipe(), "proteins.csv")):
        pipe.save_pretrained(tmp_path / "teacher")
        words = ["--num_steps", "2", "--pool_size", "4", "--batch_size", "4", "--solver_steps", "5"]
        folder = distill.main(["--checkpoint", f"{tmp_path}/teacher", "--output_dir", f"{tmp_path}/student", *words])
        assert isinstance(EDDPMPipeline.from_pretrained(folder).scheduler, LCMScheduler)
        words = ["--checkpoint", f"{tmp_path}/teacher", "--distilled", str(folder), "--dev", f"{tmp_path}/{data}"]
        rows = benchmark_steps.main(
            [*words, "--steps", "5", "--num_samples", "4", "--output", f"{tmp_path}/steps.json"]
            + ["--noise_scales", "1.2", "--noise_scale_steps", "3"]
        )
        assert [row.get("steps") for row in rows] == [5, 3, 5, 3, 5, 3, 1, 2, 4, None]
        assert [row.get("noise_scale") for row in rows[:2]] == [1, 1.2]
        assert EDDPMPipeline.from_pretrained(folder).config.default_num_inference_steps == 1
        assert "| real data |" in (tmp_path / "steps.md").read_text()
        assert all(row["latent_frechet"]["mean"] >= 0 and 0 <= row["divergence"]["mean"] <= 1 for row in rows)


@pytest.mark.parametrize(
    "make",
    [
        lambda: DistillArguments("", "", num_steps=0),
        lambda: DistillArguments("", "", ema_decay=1.0),
        lambda: StepsArguments("", [], steps=[0]),
    ],
)
def test_arguments_that_make_no_sense_are_refused(make):
    with pytest.raises(ValueError, match="must be"):
        make()
