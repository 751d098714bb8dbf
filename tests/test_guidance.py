"""Guidance on Gaussians, whose guided distribution is known, and on real tiny models."""

import math

import pytest
import torch
from conftest import SENTENCES, tiny_model
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DPMSolverMultistepScheduler,
    EDMEulerScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    UniPCMultistepScheduler,
)
from proteins import tiny_protein_pipe
from torch import nn

from hf_eddpm import (
    ClassifierGuidance,
    EnergyGuidance,
    Guidance,
    LatentGuide,
    PropertyGuidance,
    SimilarityGuidance,
)
from hf_eddpm.control.guided_step import predict_guided

LATENT = {"output_type": "latent"}
OPTIMUM = torch.linspace(-1.0, 1.0, 16).view(2, 8)
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")


class ExactDenoiser(nn.Module):
    """E[noise | noisy latents] where the latents are standard Gaussian; exact, also between timesteps."""

    def __init__(self, model):
        super().__init__()
        self.output = nn.Linear(1, 1)  # the model reads its type
        self.scheduler = model.scheduler

    def forward(self, noisy_latents, timesteps, class_labels=None):
        nearest = torch.as_tensor(timesteps).round().long()
        return (1 - self.scheduler.alphas_cumprod[nearest]).sqrt().reshape(-1, 1, 1) * noisy_latents


@pytest.fixture(scope="module")
def gaussian_pipe(make_pipe):
    model = tiny_model(prediction_type="epsilon", num_train_timesteps=200, beta_start=0.02, beta_end=0.05)
    model.denoiser = ExactDenoiser(model)
    return make_pipe(model)


@pytest.fixture
def pipe(gaussian_pipe, make_pipe):
    return make_pipe(gaussian_pipe.model)


def bowl(precision=1.0, optimum=OPTIMUM):
    return lambda latents: 0.5 * precision * (latents - optimum).square().flatten(1).sum(1)


def sample(pipe, guidance, num_samples=1500, num_inference_steps=200, **arguments):
    generator = torch.Generator().manual_seed(0)
    return pipe(
        num_samples, num_inference_steps, guidance=guidance, generator=generator, **arguments, **LATENT
    ).latents


# What is drawn

SCHEDULERS = {
    "EDDPM": lambda config: None,
    "DDIM": DDIMScheduler.from_config,
    "DDPM": DDPMScheduler.from_config,
    "Euler": EulerDiscreteScheduler.from_config,
    "DPM-Solver++": lambda config: DPMSolverMultistepScheduler.from_config(config, use_karras_sigmas=True),
    "UniPC": lambda config: UniPCMultistepScheduler.from_config(config, use_karras_sigmas=True),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_every_scheduler_draws_the_prior_weighted_by_a_quadratic_energy(pipe, name):
    # N(0, 1) exp(-precision/2 |latents - optimum|^2) is N(precision optimum / (1 + precision), 1 / (1 + precision))
    pipe.scheduler = SCHEDULERS[name](pipe.scheduler.config) or pipe.scheduler
    latents = sample(pipe, EnergyGuidance(bowl(), scale=3.0))
    torch.testing.assert_close(latents.mean(0), 0.75 * OPTIMUM, atol=0.07, rtol=0)
    torch.testing.assert_close(latents.var(0).mean(), torch.tensor(0.25), atol=0.05, rtol=0)


def guided_step(pipe, jacobian, direction, scale, timestep=100):
    """The clean estimate of noise pushed by -1/2 (direction . latents - 1)^2, and without; the denoiser is linear."""
    scheduler = pipe.model.scheduler
    alpha = scheduler.alphas_cumprod[timestep]
    noisy = torch.randn(5, 2, 8, generator=torch.Generator().manual_seed(0))

    def denoise(noisy, timestep):  # predicts the noise of clean latents that are `jacobian` times the noisy ones
        clean = (noisy.flatten(1) @ jacobian.T).view_as(noisy)
        return (noisy - alpha.sqrt() * clean) / (1 - alpha).sqrt()

    def objective(latents):
        return -0.5 * (latents.flatten(1) @ direction - 1).square()

    with torch.no_grad():
        plain, _ = scheduler.predict(denoise(noisy, timestep), torch.tensor(timestep), noisy)
    guided, _ = predict_guided(denoise, scheduler, noisy, torch.tensor(timestep), objective, scale=scale)
    return plain.flatten(1), guided.flatten(1)


@pytest.mark.parametrize("scale", [0.5, 30.0, 1e6])
def test_a_step_is_the_posterior_of_a_gaussian_prior_whose_deviations_differ(pipe, scale):
    mixing = torch.linalg.qr(torch.randn(16, 16, generator=torch.Generator().manual_seed(1)))[0]
    prior = mixing @ torch.diag(torch.linspace(0.2, 2.0, 16).square()) @ mixing.T
    alpha = pipe.model.scheduler.alphas_cumprod[100]
    jacobian = alpha.sqrt() * prior @ torch.linalg.inv(alpha * prior + (1 - alpha) * torch.eye(16))
    direction = torch.ones(16) / 4
    plain, guided = guided_step(pipe, jacobian, direction, scale)
    covariance = (1 - alpha) / alpha.sqrt() * jacobian  # of the clean latents, given the noisy ones
    gain = scale * covariance @ direction / (1 + scale * direction @ covariance @ direction)
    torch.testing.assert_close(guided, plain + (1 - plain @ direction)[:, None] * gain, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("turn", [0.0, 0.1, 2.0])
def test_no_scale_moves_a_step_far_beyond_the_optimum_whatever_the_denoiser(pipe, turn):
    # its derivative turns every slope almost to a right angle, exactly to one, or beyond: that of no covariance
    skew = torch.triu(torch.ones(16, 16), 1)
    jacobian = skew - skew.T - turn * torch.eye(16) + 1e-4 * torch.eye(16)
    direction = torch.ones(16) / 4
    plain, guided = guided_step(pipe, jacobian, direction, 1e6)
    distance = (1 - plain @ direction).abs()
    assert ((guided - plain).norm(dim=1) <= 100.1 * distance).all()


def test_terms_add_up(pipe):
    two = [EnergyGuidance(bowl(1.0, OPTIMUM), 2.0), EnergyGuidance(bowl(2.0, 0 * OPTIMUM), 0.5)]
    one = EnergyGuidance(lambda latents: 2 * bowl(1.0, OPTIMUM)(latents) + 0.5 * bowl(2.0, 0 * OPTIMUM)(latents))
    torch.testing.assert_close(sample(pipe, two, 3), sample(pipe, one, 3), atol=1e-4, rtol=1e-4)


def test_a_linear_energy_shifts_the_prior(pipe):
    latents = sample(pipe, EnergyGuidance(lambda latents: -latents[:, 0, 0], scale=1.5))
    assert abs(latents[:, 0, 0].mean() - 1.5) < 0.1 and latents[:, 1].mean().abs() < 0.05
    assert abs(latents[:, 0, 0].std() - 1) < 0.1


def test_scale_0_is_no_guidance(pipe):
    noise = torch.randn(3, 2, 8)
    plain = pipe(latents=noise, num_inference_steps=7, **LATENT).latents
    terms = [EnergyGuidance(bowl(), scale=0.0), SimilarityGuidance(OPTIMUM, scale=0.0)]
    torch.testing.assert_close(pipe(latents=noise, num_inference_steps=7, guidance=terms, **LATENT).latents, plain)


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
def test_a_batch_gives_what_its_items_give_whatever_the_denoiser_predicts(make_pipe, prediction_type):
    pipe = make_pipe(tiny_model(prediction_type=prediction_type))
    head = nn.Linear(16, 3)

    def classify(latents):
        return head(latents.flatten(1))

    noise, examples = torch.randn(2, 3, 2, 8)

    def run(rows, target):
        terms = [ClassifierGuidance(classify, target, 2.0), SimilarityGuidance(examples[rows], 0.5)]
        return pipe(latents=noise[rows], num_inference_steps=5, guidance=terms, **LATENT).latents

    together = run(slice(0, 3), [0, 2, 1])
    alone = torch.cat([run(slice(row, row + 1), target) for row, target in enumerate((0, 2, 1))])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
    assert (together - pipe(latents=noise, num_inference_steps=5, **LATENT).latents).abs().max() > 1e-3


def test_similarity_is_a_quadratic_energy_around_the_examples_latents(pipe):
    example = pipe.encode(SENTENCES[0]).latents
    by_datum = sample(pipe, SimilarityGuidance(SENTENCES[0], 2.0), 3, 20)
    torch.testing.assert_close(by_datum, sample(pipe, EnergyGuidance(bowl(1.0, example), 2.0), 3, 20))
    torch.testing.assert_close(by_datum, sample(pipe, SimilarityGuidance(example[0], 2.0), 3, 20))


def test_a_classifier_of_the_clean_estimate_leads_to_its_class(pipe):
    def classify(latents):
        return torch.stack([-4 * latents[:, 0, 0], 4 * latents[:, 0, 0]], 1)

    for target, sign in ((0, -1), (1, 1)):
        latents = sample(pipe, ClassifierGuidance(classify, target, scale=2.0), 200)
        assert (sign * latents[:, 0, 0] > 0).float().mean() > 0.97
        assert latents[:, 1].mean().abs() < 0.1


def exact_guide(model):
    """A trained guide whose answer is exact: p(sign of the first number | noisy latents) of standard Gaussians."""
    guide = LatentGuide.for_model(model, 2, hidden_size=16, num_layers=1)
    guide.register_to_config(num_train_steps=1)

    def forward(noisy_latents, timesteps):
        a = model.scheduler.alphas_cumprod[timesteps]
        evidence = noisy_latents[:, 0, 0] * (a / (1 - a)).sqrt()
        return torch.stack([torch.special.log_ndtr(-evidence), torch.special.log_ndtr(evidence)], 1)

    guide.forward = forward
    return guide


def test_an_exact_classifier_of_noisy_latents_draws_exactly_its_class(pipe):
    latents = sample(pipe, ClassifierGuidance(exact_guide(pipe.model), 1))
    first = latents[:, 0, 0]
    assert (first > 0).float().mean() > 0.98
    # the half-normal distribution
    assert abs(first.mean() - math.sqrt(2 / math.pi)) < 0.06
    assert abs(first.std() - math.sqrt(1 - 2 / math.pi)) < 0.06
    assert abs(latents[:, 1].std() - 1) < 0.1


def test_noisy_and_clean_terms_compose(pipe):
    terms = [ClassifierGuidance(exact_guide(pipe.model), 1), EnergyGuidance(lambda latents: -latents[:, 1, 0], 2.0)]
    latents = sample(pipe, terms, 400)
    assert (latents[:, 0, 0] > 0).float().mean() > 0.98 and abs(latents[:, 1, 0].mean() - 2) < 0.15


def test_the_property_head_guides_in_either_direction_and_to_a_value():
    pipe = tiny_protein_pipe()
    noise = torch.randn(8, 1, 6)

    def predict(**arguments):
        latents = pipe(latents=noise, num_inference_steps=20, **arguments, **LATENT).latents
        return pipe.model.property_head.predict(latents)[:, 0].detach()

    plain = predict()
    higher = predict(guidance=PropertyGuidance("higher", scale=3.0))
    lower = predict(guidance=PropertyGuidance("lower", scale=3.0))
    assert (higher > plain).all() and (lower < plain).all()
    near = predict(guidance=PropertyGuidance(2.0, scale=30.0))
    assert (near - 2.0).abs().mean() < 0.5 * (plain - 2.0).abs().mean()


def test_guidance_and_classes_go_together(make_pipe):
    pipe = make_pipe(tiny_model(num_classes=2))
    noise = torch.randn(2, 2, 8)
    options = {"latents": noise, "num_inference_steps": 5, "class_labels": [0, 1], "guidance_scale": 2.0, **LATENT}
    plain = pipe(**options).latents
    torch.testing.assert_close(pipe(**options, guidance=EnergyGuidance(bowl(), 0.0)).latents, plain)
    assert not torch.allclose(pipe(**options, guidance=EnergyGuidance(bowl(), 1.0)).latents, plain)


# The ODE


def test_the_ode_steers_latents_and_data_along_its_solution(pipe):
    # the distance from the optimum decays by exp(-scale/2 integral of beta)
    starts = pipe.encode(SENTENCES[:3]).latents
    terms = [EnergyGuidance(bowl(), 0.15), SimilarityGuidance(OPTIMUM, 0.05)]
    ends = pipe.steer(SENTENCES[:3], terms, num_steps=300, solver="rk4", **LATENT)
    decay = math.exp(-0.2 / 2 * (0.1 + 20) / 2)
    torch.testing.assert_close(ends, OPTIMUM + decay * (starts - OPTIMUM), atol=1e-3, rtol=1e-3)
    assert pipe.steer(starts, terms, num_steps=5) == pipe.decode(pipe.steer(starts, terms, num_steps=5, **LATENT))


def test_a_guide_of_noisy_latents_steers_the_ode_as_of_clean_ones(pipe):
    starts = -torch.rand(5, 2, 8)
    ends = pipe.steer(starts, ClassifierGuidance(exact_guide(pipe.model), 1, 0.3), num_steps=50, **LATENT)
    assert (ends[:, 0, 0] > starts[:, 0, 0]).all()
    torch.testing.assert_close(ends[:, 1], starts[:, 1])


def test_latents_that_run_away_are_named(pipe):
    with pytest.raises(ValueError, match="grew beyond all bounds|NaN or infinite"):
        pipe.steer(torch.ones(1, 2, 8), EnergyGuidance(lambda latents: -latents.pow(4).flatten(1).sum(1), 1e6))


# Bad input


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: EnergyGuidance(bowl(), scale=-1.0), ValueError, "`scale` must be a finite number at least 0"),
        (lambda: SimilarityGuidance(OPTIMUM, scale=math.nan), ValueError, "`scale`"),
        (lambda: EnergyGuidance(3.0), TypeError, "`energy` must be a function"),
        (lambda: ClassifierGuidance("sentiment", 1), TypeError, "`classifier` must be a LatentGuide or a function"),
    ],
)
def test_terms_that_cannot_be_are_refused_when_made(make, error, message):
    with pytest.raises(error, match=message):
        make()


def two_classes(latents):
    return latents.flatten(1)[:, :2]


@pytest.mark.parametrize(
    ("guidance", "error", "message"),
    [
        ([], ValueError, "`guidance` must hold at least one term"),
        ([bowl()], TypeError, "`guidance` must be a Guidance, a list of which each is a Guidance"),
        (ClassifierGuidance(two_classes, 2), ValueError, r"`target` must be in \[0, 2\), .* got 2"),
        (ClassifierGuidance(two_classes, -1), ValueError, r"`target` must be in \[0, 2\), .* got -1"),
        (ClassifierGuidance(two_classes, [0, 1]), ValueError, "`target` must be one class or one for each of 3"),
        (ClassifierGuidance(two_classes, 0.5), TypeError, "`target` must be an integer or a list"),
        (ClassifierGuidance(nn.Linear(5, 2), 1), ValueError, r"`classifier` does not take latents of .*2, 2, 8"),
        (ClassifierGuidance(lambda latents: latents.sum((1, 2)), 1), ValueError, r"`classifier` must return logits"),
        (
            EnergyGuidance(lambda latents: latents.sum()),
            ValueError,
            r"guidance\[0\] \(EnergyGuidance\) must return one",
        ),
        (
            [EnergyGuidance(bowl()), EnergyGuidance(lambda latents: (latents - 100).log().sum((1, 2)))],
            ValueError,
            r"guidance\[1\] \(EnergyGuidance\) is NaN or infinite at timestep",
        ),
        (
            EnergyGuidance(lambda latents: latents.detach().sum((1, 2))),
            ValueError,
            r"guidance\[0\] \(EnergyGuidance\) must be differentiable",
        ),
        (
            EnergyGuidance(lambda latents: (0 * latents).square().sum((1, 2)).sqrt()),  # 0, with a slope of 0 / 0
            ValueError,
            r"The gradient of guidance\[0\] \(EnergyGuidance\) is NaN or infinite at timestep",
        ),
        (PropertyGuidance("higher"), ValueError, "`PropertyGuidance` needs a model with a property head"),
        (SimilarityGuidance(SENTENCES[:2]), ValueError, "`example` must be one or one for each of 3 samples, got 2"),
        (SimilarityGuidance(torch.zeros(3)), ValueError, "`example` must have the shape"),
    ],
)
def test_terms_that_do_not_fit_are_refused_by_name(pipe, guidance, error, message):
    with pytest.raises(error, match=message):
        pipe(3, 2, guidance=guidance, **LATENT)


def test_the_base_class_guides_to_nothing(pipe):
    with pytest.raises(NotImplementedError):
        pipe(guidance=Guidance())


@pytest.mark.parametrize("scheduler", [FlowMatchEulerDiscreteScheduler, EDMEulerScheduler])
def test_a_scheduler_of_another_chain_cannot_guide(pipe, scheduler):
    pipe.scheduler = scheduler()
    with pytest.raises(ValueError, match=f"`guidance` needs a scheduler .*{scheduler.__name__}"):
        pipe(guidance=EnergyGuidance(bowl()))


def test_a_scheduler_with_other_betas_or_another_prediction_cannot_guide(pipe):
    for change in ({"beta_end": 0.01}, {"prediction_type": "v_prediction"}):
        other = DDIMScheduler.from_config({**pipe.scheduler.config, **change})
        pipe.scheduler = other
        with pytest.raises(ValueError, match="`guidance` needs a scheduler with the model's own noise schedule"):
            pipe(guidance=EnergyGuidance(bowl()))
