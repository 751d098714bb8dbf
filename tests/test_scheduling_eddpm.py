import diffusers
import numpy as np
import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler
from diffusers.schedulers.scheduling_utils import KarrasDiffusionSchedulers
from hypothesis import given
from hypothesis import strategies as st

from hf_eddpm import EDDPMScheduler

PREDICTION_TYPES = ["epsilon", "sample", "v_prediction"]
SPACINGS = ["trailing", "leading", "linspace"]
SCHEDULES = [
    {"beta_schedule": "linear", "beta_start": 0.008, "beta_end": 0.008},
    {"beta_schedule": "linear", "beta_start": 0.0001, "beta_end": 0.02},
    {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012},
    {"beta_schedule": "squaredcos_cap_v2"},
    {"trained_betas": np.linspace(0.001, 0.3, 60)},
]
SWAPPABLE = [
    scheduler.name
    for scheduler in KarrasDiffusionSchedulers
    if scheduler.name not in ("DPMSolverSDEScheduler", "EDMEulerScheduler")  # needs torchsde; has no betas
]
# numpy complains about how diffusers, not we, makes arrays of tensors.
ignore_numpy = pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")
# Betas chosen so that neither the signal nor the noise of any timestep is lost in float32.
SHORT = {"num_train_timesteps": 60, "beta_start": 0.01, "beta_end": 0.03}


def _randn(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def _scheduler(values, **more):
    length = {"num_train_timesteps": 60} if "trained_betas" in values else {}
    return EDDPMScheduler(**values, **length, **more)


def _diffusers(cls, scheduler, **values):
    """A scheduler of diffusers with our config; not by `from_config`, which has its own test."""
    config = {name: value for name, value in scheduler.config.items() if not name.startswith("_")}
    return cls(**{**config, **values})


def _oracle(scheduler, clean, noise, timestep):
    """What a denoiser that knows everything says."""
    return scheduler.training_target(clean, noise, torch.as_tensor(timestep))


def test_golden_values_of_the_papers_schedule():
    scheduler = EDDPMScheduler(num_train_timesteps=1000, beta_start=0.008, beta_end=0.008)
    weights = 1000 * scheduler.bound_weights()
    assert scheduler.reconstruction_weight() == pytest.approx(0.21726, abs=5e-6)
    assert weights[0].item() == pytest.approx(504.03, abs=5e-3)
    assert weights[999].item() == pytest.approx(4.0336, abs=5e-5)
    assert scheduler.alphas_cumprod[0].item() == pytest.approx(0.992)
    assert scheduler.alphas_cumprod[999].item() == pytest.approx(0.992**1000, rel=1e-4)


def test_bound_weights_are_those_of_the_formula_at_each_timestep():
    scheduler = EDDPMScheduler(**SHORT)
    beta = np.linspace(0.01, 0.03, 60)
    expected = beta / (2 * (1 - beta) * (1 - np.cumprod(1 - beta)))
    np.testing.assert_allclose(scheduler.bound_weights().numpy(), expected, rtol=1e-4)
    timesteps = torch.tensor([7, 0, 59])
    torch.testing.assert_close(scheduler.bound_weights(timesteps), scheduler.bound_weights()[timesteps])
    assert scheduler.reconstruction_weight() == pytest.approx(np.mean(1 / (60 * expected)), rel=1e-4)


@pytest.mark.parametrize("values", SCHEDULES)
@pytest.mark.parametrize("cls", [DDPMScheduler, DDIMScheduler])
def test_add_noise_and_velocity_equal_diffusers(cls, values):
    ours = _scheduler(values)
    theirs = _diffusers(cls, ours)
    clean, noise = _randn(0, 6, 2, 8), _randn(1, 6, 2, 8)
    timesteps = torch.tensor([0, 1, 10, 30, 58, len(ours) - 1])
    torch.testing.assert_close(ours.betas, theirs.betas, rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(ours.add_noise(clean, noise, timesteps), theirs.add_noise(clean, noise, timesteps))
    torch.testing.assert_close(
        ours.get_velocity(clean, noise, timesteps), theirs.get_velocity(clean, noise, timesteps)
    )


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("num_inference_steps", [1, 2, 10, 25, 50, 200, 1000])
def test_timesteps_equal_diffusers(spacing, num_inference_steps):
    ours = EDDPMScheduler(timestep_spacing=spacing)
    ours.set_timesteps(num_inference_steps)
    for cls in (DDPMScheduler, DDIMScheduler):
        theirs = _diffusers(cls, ours)
        theirs.set_timesteps(num_inference_steps)
        assert ours.timesteps.tolist() == theirs.timesteps.tolist()


@pytest.mark.parametrize("values", SCHEDULES[1:4])
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("spacing", ["trailing", "leading"])
@pytest.mark.parametrize("eta", [0.0, 0.3, 1.0])
def test_a_step_equals_the_ddim_schedulers(values, prediction_type, spacing, eta):
    ours = EDDPMScheduler(**values, prediction_type=prediction_type, timestep_spacing=spacing)
    theirs = _diffusers(DDIMScheduler, ours)
    ours.set_timesteps(20)
    theirs.set_timesteps(20)
    sample, model_output = _randn(0, 3, 2, 8), _randn(1, 3, 2, 8)
    for timestep in ours.timesteps[[1, 10, -2, -1]]:
        mine = ours.step(model_output, timestep, sample, eta=eta, generator=torch.Generator().manual_seed(3))
        other = theirs.step(model_output, timestep, sample, eta=eta, generator=torch.Generator().manual_seed(3))
        torch.testing.assert_close(mine.prev_sample, other.prev_sample, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(mine.pred_original_sample, other.pred_original_sample, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("values", SCHEDULES)
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@pytest.mark.parametrize("spacing", SPACINGS)
def test_a_step_at_eta_1_equals_the_ddpm_schedulers(values, prediction_type, spacing):
    ours = _scheduler(values, prediction_type=prediction_type, timestep_spacing=spacing)
    theirs = _diffusers(DDPMScheduler, ours, variance_type="fixed_small")
    ours.set_timesteps(7)
    theirs.set_timesteps(7)
    sample, model_output = _randn(0, 3, 2, 8), _randn(1, 3, 2, 8)
    for timestep in ours.timesteps[1:]:
        mine = ours.step(model_output, timestep, sample, eta=1.0, generator=torch.Generator().manual_seed(3))
        other = theirs.step(model_output, timestep, sample, generator=torch.Generator().manual_seed(3))
        torch.testing.assert_close(mine.prev_sample, other.prev_sample, rtol=1e-4, atol=1e-4)


@ignore_numpy
@pytest.mark.parametrize("values", [SCHEDULES[0], {**SCHEDULES[2], "prediction_type": "v_prediction"}, SCHEDULES[4]])
@pytest.mark.parametrize("name", SWAPPABLE)
def test_every_diffusers_scheduler_takes_over_the_betas(name, values):
    ours = _scheduler(values, timestep_spacing="trailing")
    other = getattr(diffusers, name).from_config(ours.config)
    torch.testing.assert_close(other.betas, ours.betas, rtol=1e-6, atol=1e-8)
    assert other.config.num_train_timesteps == len(ours)
    assert other.config.prediction_type == ours.config.prediction_type
    assert other.config.get("clip_sample", False) is False


def test_a_swap_there_and_back_keeps_the_chain():
    ours = _scheduler(SCHEDULES[1], prediction_type="sample", timestep_spacing="leading")
    back = EDDPMScheduler.from_config(DDIMScheduler.from_config(ours.config).config)
    assert torch.equal(back.alphas_cumprod, ours.alphas_cumprod)
    assert (back.config.prediction_type, back.config.timestep_spacing) == ("sample", "leading")


@ignore_numpy
@pytest.mark.parametrize("name", ["DDIMScheduler", "DPMSolverMultistepScheduler", "UniPCMultistepScheduler"])
def test_swapped_schedulers_reach_the_clean_latents_of_an_oracle(name):
    ours = EDDPMScheduler(prediction_type="sample")
    other = getattr(diffusers, name).from_config(ours.config)
    other.set_timesteps(10)
    clean, sample = 3 * _randn(0, 4, 2, 8), _randn(1, 4, 2, 8)  # beyond [-1, 1]: clipping would show
    for timestep in other.timesteps:
        sample = other.step(clean, timestep, sample).prev_sample
    torch.testing.assert_close(sample, clean, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@given(num_inference_steps=st.integers(1, 60), seed=st.integers(0, 2**16))
def test_oracle_denoiser_recovers_clean_latents(spacing, prediction_type, num_inference_steps, seed):
    scheduler = EDDPMScheduler(**SHORT, prediction_type=prediction_type, timestep_spacing=spacing)
    scheduler.set_timesteps(num_inference_steps)
    clean, noise = _randn(seed, 2, 4, 2, 8)
    sample = scheduler.add_noise(clean, noise, scheduler.timesteps[:1].expand(4))
    for t in scheduler.timesteps:
        step = scheduler.step(_oracle(scheduler, clean, noise, t), t, sample)
        torch.testing.assert_close(step.pred_original_sample, clean, atol=1e-3, rtol=1e-3)
        sample = step.prev_sample
    torch.testing.assert_close(sample, clean, atol=1e-4, rtol=1e-4)


@given(eta=st.floats(0, 1), num_inference_steps=st.integers(1, 60), seed=st.integers(0, 2**16))
def test_oracle_of_the_clean_latents_is_reached_at_any_eta(eta, num_inference_steps, seed):
    scheduler = EDDPMScheduler(**SHORT, prediction_type="sample")
    scheduler.set_timesteps(num_inference_steps)
    clean, sample = _randn(seed, 2, 4, 2, 8)
    generator = torch.Generator().manual_seed(seed)
    for t in scheduler.timesteps:
        sample = scheduler.step(clean, t, sample, eta=eta, generator=generator).prev_sample
    torch.testing.assert_close(sample, clean)


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
@given(num_inference_steps=st.integers(1, 60), seed=st.integers(0, 2**16))
def test_invert_step_is_the_exact_inverse_of_a_deterministic_step(spacing, prediction_type, num_inference_steps, seed):
    scheduler = EDDPMScheduler(**SHORT, prediction_type=prediction_type, timestep_spacing=spacing)
    scheduler.set_timesteps(num_inference_steps)
    model_output, sample = _randn(seed, 2, 4, 2, 8)
    # To the clean latents a "sample" prediction is the answer itself: that one step forgets its input.
    last = num_inference_steps - (prediction_type == "sample")
    for t in scheduler.timesteps[:last]:
        lower = scheduler.step(model_output, t, sample)
        upper = scheduler.invert_step(model_output, t, lower.prev_sample)
        torch.testing.assert_close(upper.prev_sample, sample, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(upper.pred_original_sample, lower.pred_original_sample, atol=1e-3, rtol=1e-3)


def test_inverting_a_sample_prediction_at_the_first_timestep_scales_the_latents():
    scheduler = EDDPMScheduler(**SHORT, prediction_type="sample")
    scheduler.set_timesteps(60)
    clean = _randn(0, 4, 2, 8)
    inverted = scheduler.invert_step(_randn(1, 4, 2, 8), 0, clean).prev_sample
    torch.testing.assert_close(inverted, scheduler.alphas_cumprod[0].sqrt() * clean)


@pytest.mark.parametrize("prediction_type", PREDICTION_TYPES)
def test_prediction_types_agree_on_the_same_denoiser(prediction_type):
    reference, other = EDDPMScheduler(**SHORT), EDDPMScheduler(**SHORT, prediction_type=prediction_type)
    clean, noise = _randn(0, 2, 4, 2, 8)
    timesteps = torch.tensor([0, 5, 30, 59])
    sample = reference.add_noise(clean, noise, timesteps)
    predicted = reference.predict(_oracle(reference, clean, noise, timesteps), timesteps, sample)
    same = other.predict(_oracle(other, clean, noise, timesteps), timesteps, sample)
    torch.testing.assert_close(predicted[0], same[0], atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(predicted[1], same[1], atol=1e-4, rtol=1e-4)


@given(timestep=st.integers(0, 59), value=st.floats(-3, 3), seed=st.integers(0, 2**16))
def test_add_noise_has_the_stated_mean_and_variance(timestep, value, seed):
    scheduler = EDDPMScheduler(**SHORT)
    alpha_prod = float(np.cumprod(1 - np.linspace(0.01, 0.03, 60))[timestep])
    noisy = scheduler.add_noise(torch.full((20_000,), value), _randn(seed, 20_000), timestep)
    std = (1 - alpha_prod) ** 0.5
    assert noisy.mean().item() == pytest.approx(alpha_prod**0.5 * value, abs=5 * std / 20_000**0.5)
    assert noisy.var().item() == pytest.approx(std**2, rel=5 * (2 / 20_000) ** 0.5)


def test_add_noise_of_one_timestep_is_that_of_every_row():
    scheduler = EDDPMScheduler(**SHORT)
    clean, noise = _randn(0, 2, 3, 2, 8)
    for timestep in (7, torch.tensor(7), torch.tensor([7])):
        assert torch.equal(
            scheduler.add_noise(clean, noise, timestep), scheduler.add_noise(clean, noise, torch.tensor([7, 7, 7]))
        )


@pytest.mark.parametrize("spacing", SPACINGS)
@given(length=st.integers(1, 1200), data=st.data())
def test_timesteps_descend_from_within_the_chain_and_are_exactly_as_many_as_asked(spacing, length, data):
    num_inference_steps = data.draw(st.integers(1, length))
    scheduler = EDDPMScheduler(num_train_timesteps=length, timestep_spacing=spacing)
    scheduler.set_timesteps(num_inference_steps)
    timesteps = scheduler.timesteps
    assert timesteps.dtype == torch.int64
    assert len(timesteps) == scheduler.num_inference_steps == num_inference_steps
    assert (timesteps.diff() < 0).all()
    assert 0 <= timesteps[-1] and timesteps[0] < length
    if spacing == "trailing":
        assert timesteps[0] == length - 1  # sampling starts at pure noise
    else:
        assert timesteps[-1] == 0
    if num_inference_steps == length:
        assert timesteps.tolist() == list(range(length - 1, -1, -1))


def test_custom_timesteps_are_taken_as_given_and_stepped_through():
    scheduler = EDDPMScheduler(**SHORT)
    scheduler.set_timesteps(timesteps=[50, 20, 3])
    assert scheduler.timesteps.tolist() == [50, 20, 3]
    assert [scheduler.previous_timestep(t) for t in scheduler.timesteps] == [20, 3, -1]


def test_without_set_timesteps_the_chain_is_whole():
    scheduler = EDDPMScheduler(**SHORT)
    assert scheduler.timesteps.tolist() == list(range(59, -1, -1))
    assert [scheduler.previous_timestep(t) for t in (59, 1, 0)] == [58, 0, -1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "Exactly one"),
        ({"num_inference_steps": 2, "timesteps": [5, 1]}, "Exactly one"),
        *[
            ({"num_inference_steps": n}, "`num_inference_steps` must be an integer")
            for n in (0, -1, 61, 2.5, True, "3")
        ],
        *[({"timesteps": t}, "`timesteps`.*descending") for t in ([], [1, 5], [5, 5])],
        ({"timesteps": [[5, 1]]}, "`timesteps` must be .*each is an integer"),
        *[({"timesteps": t}, r"`timesteps`.*\[0, 60\)") for t in ([60, 1], [5, -1])],
    ],
)
def test_wrong_timesteps_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        EDDPMScheduler(**SHORT).set_timesteps(**arguments)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num_train_timesteps": 0}, "`num_train_timesteps`"),
        ({"prediction_type": "noise"}, "`prediction_type`"),
        ({"timestep_spacing": "even"}, "`timestep_spacing`"),
        ({"beta_schedule": "constant"}, "`beta_schedule`"),
        ({"beta_start": 0.0}, "`beta_start`"),
        ({"beta_end": 1.0}, "`beta_end`"),
        ({"trained_betas": [0.1, 0.2]}, "`trained_betas`"),
        ({"num_train_timesteps": 2, "trained_betas": [0.1, 1.2]}, "`trained_betas`"),
        ({"num_train_timesteps": 2, "trained_betas": [0.1, float("nan")]}, "`trained_betas`"),
    ],
)
def test_wrong_values_are_refused_by_their_name(values, message):
    with pytest.raises(ValueError, match=message):
        EDDPMScheduler(**values)


def test_wrong_arguments_of_a_step_are_refused():
    scheduler = EDDPMScheduler(**SHORT)
    scheduler.set_timesteps(4)
    sample = torch.zeros(1, 2, 8)
    for eta in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="`eta`"):
            scheduler.step(sample, 59, sample, eta=eta)
    with pytest.raises(ValueError, match="`timestep`.*58"):
        scheduler.step(sample, 58, sample)
    with pytest.raises(ValueError, match="`generator` and `variance_noise`"):
        scheduler.step(sample, 59, sample, eta=1.0, generator=torch.Generator(), variance_noise=sample)
    for timestep in (-1, 60):
        with pytest.raises(ValueError, match=r"`timesteps` must be in \[0, 60\)"):
            scheduler.add_noise(sample, sample, timestep)


def test_the_generator_alone_decides_an_ancestral_step():
    scheduler = EDDPMScheduler(**SHORT)
    sample, model_output = _randn(0, 2, 3, 2, 8)

    def step(seed, global_seed, eta=1.0):
        torch.manual_seed(global_seed)
        generator = torch.Generator().manual_seed(seed)
        return scheduler.step(model_output, 30, sample, eta=eta, generator=generator).prev_sample

    assert torch.equal(step(0, 0), step(0, 1))
    assert not torch.equal(step(0, 0), step(1, 0))
    assert torch.equal(step(0, 0, eta=0.0), step(1, 1, eta=0.0))


def test_a_generator_for_each_row_gives_each_row_what_it_gets_alone():
    scheduler = EDDPMScheduler(**SHORT)
    sample, model_output = _randn(0, 2, 3, 2, 8)
    generators = [torch.Generator().manual_seed(seed) for seed in range(3)]
    together = scheduler.step(model_output, 30, sample, eta=1.0, generator=generators).prev_sample
    for row in range(3):
        rows = slice(row, row + 1)
        generator = torch.Generator().manual_seed(row)
        alone = scheduler.step(model_output[rows], 30, sample[rows], eta=1.0, generator=generator).prev_sample
        assert torch.equal(alone, together[rows])


def test_given_noise_replaces_the_draw():
    scheduler = EDDPMScheduler(**SHORT)
    sample, model_output, noise = _randn(0, 3, 3, 2, 8)
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(0))
    by_generator = scheduler.step(model_output, 30, sample, eta=1.0, generator=generator).prev_sample
    assert torch.equal(by_generator, scheduler.step(model_output, 30, sample, 1.0, variance_noise=drawn).prev_sample)
    assert not torch.equal(by_generator, scheduler.step(model_output, 30, sample, 1.0, variance_noise=noise)[0])


@pytest.mark.parametrize("method", ["step", "invert_step"])
def test_return_dict_false_gives_the_same_as_a_tuple(method):
    scheduler = EDDPMScheduler(**SHORT)
    sample, model_output = _randn(0, 2, 3, 2, 8)
    output = getattr(scheduler, method)(model_output, 30, sample)
    prev_sample, clean = getattr(scheduler, method)(model_output, 30, sample, return_dict=False)
    assert torch.equal(output.prev_sample, prev_sample) and torch.equal(output.pred_original_sample, clean)


def test_half_precision_latents_keep_their_type_and_float32_arithmetic():
    scheduler = EDDPMScheduler()
    sample, model_output = _randn(0, 2, 3, 2, 8).to(torch.bfloat16)
    for method in (scheduler.step, scheduler.invert_step):
        prev_sample = method(model_output, 500, sample).prev_sample
        assert prev_sample.dtype == torch.bfloat16
        exact = method(model_output.float(), 500, sample.float()).prev_sample
        assert torch.equal(prev_sample, exact.to(torch.bfloat16))  # rounded once, at the end
    assert scheduler.add_noise(sample, model_output, 5).dtype == torch.bfloat16
    assert scheduler.alphas_cumprod.dtype == torch.float32


@pytest.mark.parametrize("values", SCHEDULES)
def test_a_saved_scheduler_loads_equal(tmp_path, values):
    scheduler = _scheduler(values, prediction_type="v_prediction", timestep_spacing="leading")
    scheduler.save_pretrained(tmp_path)
    loaded = EDDPMScheduler.from_pretrained(tmp_path)
    assert torch.equal(loaded.alphas_cumprod, scheduler.alphas_cumprod)
    assert (loaded.config.prediction_type, loaded.config.timestep_spacing) == ("v_prediction", "leading")
    assert torch.equal(DDIMScheduler.from_config(loaded.config).alphas_cumprod, loaded.alphas_cumprod)


@pytest.mark.parametrize("schedule", ["linear", "squaredcos_cap_v2"])
def test_the_estimate_of_the_bound_is_that_of_all_timesteps(schedule):
    scheduler = EDDPMScheduler(beta_schedule=schedule)
    samples = torch.zeros(2000, 1, 3)

    def terms(errors, num_timesteps=8):
        return scheduler.bound_terms(samples, errors, num_timesteps, torch.Generator().manual_seed(0))[0]

    rest = terms(lambda timesteps: torch.zeros(len(timesteps)))
    weights, alphas = scheduler.bound_weights(), scheduler.alphas_cumprod

    def middle(timesteps):  # where a class shows
        return ((timesteps > 100) & (timesteps < 600)).float()

    for errors, most in ((lambda timesteps: alphas[timesteps], 0.4), (middle, 0.4)):
        exact = float((weights * errors(torch.arange(1000)))[1:].sum())
        estimates = terms(errors) - rest
        assert float(estimates.mean()) == pytest.approx(exact, rel=0.05)
        assert float(estimates.std()) < most * exact
    assert torch.isfinite(EDDPMScheduler(num_train_timesteps=1).bound_terms(samples, torch.ones_like, 2)[0]).all()
