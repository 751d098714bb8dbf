"""The options of the denoiser."""

import json
import math

import pytest
import torch
from conftest import SENTENCES, tiny_model
from proteins import PROTEINS, tiny_protein_pipe

import denoisers.run as benchmark_denoisers
from denoisers.run import (
    Chain,
    DenoiserArguments,
    LinearDenoiser,
    Option,
    heldout_error,
    options,
    sample,
    shifted_betas,
    train,
)
from hf_eddpm import EDDPMScheduler
from speed.text import SCHEDULERS

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


@pytest.fixture(scope="module")
def model():
    return tiny_model().requires_grad_(False)


def _chain(model, **values):
    torch.manual_seed(0)
    return Chain(model, Option("", **values))


def test_a_shift_moves_the_log_snr_of_every_timestep_by_itself():
    chain = EDDPMScheduler()
    shifted = EDDPMScheduler(trained_betas=shifted_betas(chain, math.log(4)))
    moved = shifted.alphas_cumprod.double().logit() - chain.alphas_cumprod.double().logit()
    torch.testing.assert_close(moved, torch.full((1000,), math.log(4), dtype=torch.float64), atol=0.02, rtol=0)


def test_options_differ_from_the_base_by_what_their_name_says(model):
    base, *others = options(model.config)
    assert base == Option(base.name)
    assert len({option.name for option in others}) == len(others)
    for option in others:
        changed = [
            name
            for name in ("min_snr", "stratified", "log_snr", "linear", "self_conditioning")
            if getattr(option, name)
        ]
        assert len(changed) + bool(option.config) == 1
        assert (
            _chain(model, **{name: getattr(option, name) for name in changed}, config=option.config)
            .loss(torch.randn(4, 2, 8))
            .isfinite()
        )


def test_stratified_timesteps_are_one_in_each_stratum_and_others_are_not(model):
    torch.manual_seed(0)
    strata = torch.arange(50)
    assert torch.equal(_chain(model, stratified=True).draw_timesteps(50) // 20, strata)
    assert not torch.equal(_chain(model).draw_timesteps(50).sort().values // 20, strata)
    assert _chain(model, stratified=True).draw_timesteps(5000).max() == 999


def test_the_log_snr_goes_from_0_to_t_and_spreads_noise_levels_evenly(model):
    chain = _chain(model, log_snr=True)
    seen = []
    chain.network.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[1]))
    timesteps = torch.tensor([0, 1, 500, 999])
    chain(torch.randn(4, 2, 8), timesteps)
    kept = chain.scheduler.alphas_cumprod
    expected = (kept[0].logit() - kept[timesteps].logit()) / (kept[0].logit() - kept[999].logit()) * 1000
    torch.testing.assert_close(seen[0], expected, atol=1e-3, rtol=1e-4)
    assert seen[0][0] == 0 and seen[0][-1] == 1000


def test_min_snr_caps_the_weight_of_the_clean_estimates_error(model):
    """Of x0 the weight is min(snr, gamma), whatever the denoiser predicts."""
    latents, timesteps = torch.randn(6, 2, 8), torch.tensor([0, 5, 50, 200, 500, 999])
    chain = _chain(model, min_snr=5.0)
    chain.draw_timesteps = lambda num: timesteps
    torch.manual_seed(1)
    loss = chain.loss(latents)
    torch.manual_seed(1)
    noise = torch.randn_like(latents)
    clean = chain.clean(chain.scheduler.add_noise(latents, noise, timesteps), timesteps)
    kept = chain.scheduler.alphas_cumprod[timesteps]
    weights = (kept / (1 - kept)).clamp(max=5.0)
    torch.testing.assert_close(loss, (weights * (clean - latents).square().mean((1, 2))).mean(), rtol=1e-3, atol=1e-4)


def test_self_conditioning_sees_the_estimate_and_starts_from_zeros(model):
    chain = _chain(model, self_conditioning=True)
    noisy, timesteps = torch.randn(3, 2, 8), torch.tensor([1, 2, 3])
    assert chain(noisy, timesteps).shape == noisy.shape
    assert torch.equal(chain(noisy, timesteps), chain(noisy, timesteps, torch.zeros_like(noisy)))
    assert not torch.equal(chain(noisy, timesteps), chain(noisy, timesteps, torch.ones_like(noisy)))


@pytest.mark.parametrize("config", [{}, {"beta_schedule": "squaredcos_cap_v2"}, {"prediction_type": "epsilon"}])
def test_an_exact_denoiser_has_the_least_error_and_samples_the_data(model, config):
    """Data with variance 0.25: E[clean | noisy] is linear, and the error of v is that of the posterior variance."""
    chain = _chain(model, config=config)

    class Exact(torch.nn.Module):
        def forward(self, noisy_latents, timesteps):
            kept = chain.scheduler.alphas_cumprod[timesteps].reshape(-1, 1, 1)
            clean = kept.sqrt() * 0.25 / (kept * 0.25 + 1 - kept) * noisy_latents
            noise = (noisy_latents - kept.sqrt() * clean) / (1 - kept).sqrt()
            return (
                noise
                if config.get("prediction_type") == "epsilon"
                else chain.scheduler.get_velocity(clean, noise, timesteps)
            )

    chain.network = Exact()
    levels = torch.tensor([3.0, 0.0, -3.0])
    generator = torch.Generator().manual_seed(0)
    latents = 0.5 * torch.randn(3000, 2, 8, generator=generator)
    kept = torch.sigmoid(levels)
    expected = (0.25 / (kept * 0.25 + 1 - kept)).mean()  # posterior variance 0.25 (1 - kept) / (...), over 1 - kept
    assert heldout_error(chain, latents, levels, 1) == pytest.approx(float(expected), rel=0.02)
    noise = torch.randn(1000, 2, 8, generator=generator)
    for name, steps in ((benchmark_denoisers.DDIM, 500), (benchmark_denoisers.DPM, 10)):
        drawn = sample(chain, SCHEDULERS[name](chain.scheduler.config), steps, noise)
        assert drawn.std() == pytest.approx(0.5, abs=0.04)  # DDIM ends a little narrow


def test_the_linear_denoiser_has_the_least_error_on_gaussian_latents_of_any_covariance(model):
    generator = torch.Generator().manual_seed(0)
    mixing = torch.randn(16, 16, generator=generator) / 4
    means = (torch.randn(20_000, 16, generator=generator) @ mixing + 0.5).view(-1, 2, 8)
    chain = _chain(model, linear=True)
    chain.network = LinearDenoiser(chain.scheduler, means, 0.1)
    variances = torch.linalg.eigvalsh(mixing.T @ mixing) + 0.1
    levels = torch.tensor([3.0, -1.0])
    kept = torch.sigmoid(levels)[:, None]
    expected = (variances / (kept * variances + 1 - kept)).mean()  # posterior variances over 1 - kept
    latents = means + 0.1**0.5 * torch.randn(means.shape, generator=generator)
    assert heldout_error(chain, latents, levels, 1) == pytest.approx(float(expected), rel=0.03)
    drawn = sample(chain, SCHEDULERS[benchmark_denoisers.DPM](chain.scheduler.config), 20, torch.randn(5000, 2, 8))
    torch.testing.assert_close(torch.cov(drawn.flatten(1).T), torch.cov(latents.flatten(1).T), atol=0.15, rtol=0)


def test_training_learns_and_leaves_the_checkpoint_alone(model):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    means = 0.2 * torch.randn(256, 2, 8)
    arguments = DenoiserArguments("", [], [], "", num_steps=60, batch_size=64, learning_rate=3e-3, ema_decay=0.9)
    chain = _chain(model)
    levels = torch.tensor([2.0, -2.0])
    first = heldout_error(chain, means, levels, 0)
    assert train(chain, means, 0.01, arguments) > 0
    assert heldout_error(chain, means, levels, 0) < 0.7 * first
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_script_runs_on_text_and_on_proteins_and_goes_on_where_it_stopped(make_pipe, tmp_path):
    (tmp_path / "text.txt").write_text("\n".join(SENTENCES))
    (tmp_path / "proteins.csv").write_text("\n".join(["sequence", *PROTEINS]))
    for pipe, data in ((make_pipe(), "text.txt"), (tiny_protein_pipe(), "proteins.csv")):
        pipe.save_pretrained(tmp_path / data / ".." / f"{data}-checkpoint")
        output = tmp_path / f"{data}.json"
        words = [f"{tmp_path}/{data}-checkpoint", "--data", f"{tmp_path}/{data}", "--dev", f"{tmp_path}/{data}"]
        words += ["--output", str(output), "--num_steps", "2", "--batch_size", "4", "--num_samples", "4"]
        words += ["--ddim_steps", "2", "--dpm_steps", "2", "--seeds", "0", "1"]
        rows = benchmark_denoisers.main([*words, "--options", "epsilon", "x0"])
        assert [row["option"] for row in rows] == ["epsilon", "x0", "real data"]
        before = json.loads(output.read_text())["rows"]
        rows = benchmark_denoisers.main([*words, "--options", "x0", "self-conditioning", "best linear denoiser"])
        names = ["best linear denoiser", "epsilon", "x0", "self-conditioning", "real data"]
        assert [row["option"] for row in rows] == names
        assert rows[1:3] == before[:2]
        assert all(len(row["DDIM, 2 steps"]["values"]) == 2 for row in rows[:4])
        assert "| self-conditioning |" in output.with_suffix(".md").read_text()
    with pytest.raises(ValueError, match="`options` must be among .*transform"):
        benchmark_denoisers.main([*words, "--options", "transform"])


def test_arguments_that_make_no_sense_are_refused():
    with pytest.raises(ValueError, match="`num_steps` must be at least 1"):
        DenoiserArguments("", [], [], "", num_steps=0)
