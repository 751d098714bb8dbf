"""The joint loss, its terms and gradients, the bound, saving and loading.

`PYTHONPATH=src:training python tests/test_modeling_eddpm.py` writes the golden values anew; say why in the commit.
"""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SENTENCES, TINY, enable_checkpointing, tiny_config, tiny_model
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import AutoConfig, AutoModel

from hf_eddpm import EDDPMModel
from hf_eddpm.latents import LatentNormalization, LatentPosterior

GOLDEN = Path(__file__).parent / "fixtures" / "golden" / "text.json"
# Complete, so that a change of the config's defaults changes no golden value.
CHAIN = {"num_train_timesteps": 1000, "beta_schedule": "linear", "beta_start": 0.008, "beta_end": 0.008}
VARIANTS = {
    "balanced": {
        **CHAIN,
        "latent_normalization": "batch",
        "encoder_noise_variance": 0.2,
        "encoder_gradient_scale": 0.1,
        "denoiser_samples_per_latent": 4,
        "reconstruction_weight": 1.0,
        "diffusion_weight": 1.0,
        "alignment_target": "sample",
        "decoder_conditioning": "prefix",
        "prediction_type": "epsilon",
        "loss_weighting": "simple",
    },
    "paper": {
        **CHAIN,
        "prediction_type": "epsilon",
        "loss_weighting": "simple",
        "latent_normalization": "none",
        "encoder_noise_variance": 0.008,
        "encoder_gradient_scale": 1.0,
        "denoiser_samples_per_latent": 1,
        "reconstruction_weight": None,
        "diffusion_weight": 8.0,
        "alignment_target": "mean",
        "decoder_conditioning": "memory",
    },
    "bound": {
        **CHAIN,
        "latent_normalization": "batch",
        "encoder_noise_variance": 0.2,
        "encoder_gradient_scale": 0.1,
        "denoiser_samples_per_latent": 4,
        "reconstruction_weight": None,
        "diffusion_weight": 1.0,
        "alignment_target": "sample",
        "decoder_conditioning": "prefix",
        "prediction_type": "v_prediction",
        "loss_weighting": "elbo",
    },
}
VARIANTS["transformer"] = {**VARIANTS["balanced"], "prediction_type": "v_prediction", "denoiser_type": "transformer"}
LOSSES = ("loss", "reconstruction_loss", "diffusion_loss", "alignment_loss")
NO_DROPOUT = {
    "encoder": {"model_type": "bert", **TINY, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
}


def _ids(rows=4, length=7, seed=1):
    return torch.randint(3, 300, (rows, length), generator=torch.Generator().manual_seed(seed))


def _batch(rows=4, length=7):
    """Rows of different length."""
    ids = _ids(rows, length)
    mask = (torch.arange(length) < length - torch.arange(rows).unsqueeze(1) % (length - 1)).long()
    return {"input_ids": ids * mask, "attention_mask": mask, "labels": ids.masked_fill(mask == 0, -100)}


def _row(batch, row):
    return {name: value[row : row + 1] for name, value in batch.items()}


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def _gradients(loss, model):
    names, parameters = zip(*model.named_parameters(), strict=True)
    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
    return dict(zip(names, gradients, strict=True))


def _reached(loss, model):
    """The top-level modules that a loss gives a gradient other than zero."""
    gradients = _gradients(loss, model)
    return {name.split(".")[0] for name, grad in gradients.items() if grad is not None and bool(grad.ne(0).any())}


def _golden_values():
    values = {}
    for name, variant in VARIANTS.items():
        model = tiny_model(**variant)
        batch = _batch()
        with torch.no_grad():
            values[f"{name}, evaluation"] = {key: model(**batch)[key].item() for key in LOSSES}
            given = model(**batch, timesteps=torch.tensor([0, 3, 400, 999]), noise=torch.ones(4, 2, 8))
            values[f"{name}, given timesteps"] = {key: given[key].item() for key in LOSSES}
            bound = model.bound(8, generator=_seeded(), **batch)
            values[f"{name}, bound"] = {key: value.tolist() for key, value in bound.items()}
    return values


# ----------------------------------------------------------------------------------------------------- values


def test_losses_are_the_recorded_ones():
    golden = json.loads(GOLDEN.read_text())["values"]
    values = _golden_values()
    assert values.keys() == golden.keys()
    for name, terms in golden.items():
        assert values[name].keys() == terms.keys()
        for key, value in terms.items():
            assert values[name][key] == pytest.approx(value, rel=1e-3, abs=1e-4), f"{name}: {key}"


def _paper_objective(model, output, batch, timesteps, noise, prediction_type, weighting):
    """DESIGN section 1, written down again: constant beta 0.008, T = 1000, the diffusion weighted by 8."""
    beta, total = 0.008, 1000
    alpha = 1 - beta
    alphas_cumprod = alpha ** (np.arange(total) + 1.0)
    bound_weights = beta / (2 * alpha * (1 - alphas_cumprod))

    log_probs = model.decoder.logits(output.latents, batch["labels"]).log_softmax(-1)
    nats, tokens = [], []
    for row, labels in enumerate(batch["labels"].tolist()):
        kept = [(position, token) for position, token in enumerate(labels) if token != -100]
        nats.append(-sum(log_probs[row, position, token] for position, token in kept))
        tokens.append(len(kept))

    chain = []
    for row, t in enumerate(timesteps.tolist()):
        signal, spread = math.sqrt(alphas_cumprod[t]), math.sqrt(1 - alphas_cumprod[t])
        clean, mean = output.latents[row], output.posterior_mean[row]
        noisy = signal * clean + spread * noise[row]
        predicted = model.denoise(noisy.unsqueeze(0), torch.tensor([t]))[0]
        if prediction_type == "epsilon":
            target, denoised, noise_pred = noise[row], (noisy - spread * predicted) / signal, predicted
        elif prediction_type == "sample":
            target, denoised, noise_pred = clean, predicted, (noisy - signal * predicted) / spread
        else:
            target = signal * noise[row] - spread * clean
            denoised, noise_pred = signal * noisy - spread * predicted, signal * predicted + spread * noisy
        if weighting == "simple":
            error = (
                alpha / beta * (mean - denoised).square().mean() if t == 0 else (target - predicted).square().mean()
            )
        elif t == 0:
            error = total * (mean - denoised).square().sum() / (2 * beta)
        else:
            error = total * bound_weights[t] * (noise[row] - noise_pred).square().sum()
        chain.append(error)
    if weighting == "simple":
        return np.mean(1 / (total * bound_weights)) * sum(nats) / sum(tokens) + 8 * sum(chain) / len(chain)
    return sum(nats) / len(nats) + 8 * sum(chain) / len(chain)


@pytest.mark.parametrize("weighting", ["simple", "elbo"])
@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("training", [False, True])
def test_the_paper_objective_is_its_formula(weighting, prediction_type, training):
    values = {**VARIANTS["paper"], "prediction_type": prediction_type, "loss_weighting": weighting}
    model = tiny_model(**values).train(training)
    batch, timesteps = _batch(5), torch.tensor([0, 1, 0, 500, 999])
    noise = torch.randn(5, 2, 8, generator=_seeded(2))
    with torch.no_grad():
        output = model(**batch, timesteps=timesteps, noise=noise, generator=_seeded())
        expected = _paper_objective(model, output, batch, timesteps, noise, prediction_type, weighting)
    assert torch.equal(output.latents, output.posterior_mean) is not training
    assert output.loss.item() == pytest.approx(expected.item(), rel=2e-3)


@pytest.mark.parametrize("weighting", ["simple", "elbo"])
def test_the_loss_is_the_weighted_sum_of_its_terms(weighting):
    model = tiny_model(loss_weighting=weighting, reconstruction_weight=0.3, diffusion_weight=5.0)
    output = model(**_batch())
    expected = 0.3 * output.reconstruction_loss + 5 * (output.diffusion_loss + output.alignment_loss)
    torch.testing.assert_close(output.loss, expected)


def test_without_a_reconstruction_weight_the_bound_gives_it():
    assert tiny_model(reconstruction_weight=None).reconstruction_weight == pytest.approx(0.21726, abs=5e-6)
    assert tiny_model(reconstruction_weight=None, loss_weighting="elbo").reconstruction_weight == 1
    assert tiny_model(reconstruction_weight=0.0).reconstruction_weight == 0


@pytest.mark.parametrize("weighting", ["simple", "elbo"])
def test_both_alignment_targets_agree_where_the_latents_are_the_mean(weighting):
    timesteps, noise = torch.zeros(4, dtype=torch.long), torch.randn(4, 2, 8, generator=_seeded())
    values = {"loss_weighting": weighting, "prediction_type": "epsilon"}
    losses = [
        tiny_model(alignment_target=target, **values)(**_batch(), timesteps=timesteps, noise=noise)
        for target in ("sample", "mean")
    ]
    torch.testing.assert_close(losses[0].alignment_loss, losses[1].alignment_loss, rtol=1e-3, atol=1e-4)
    assert losses[0].diffusion_loss == losses[1].diffusion_loss == 0


def test_evaluation_gives_the_first_timestep_its_share_of_the_mean(monkeypatch):
    model = tiny_model(prediction_type="sample", encoder_noise_variance=1e-12, num_train_timesteps=50)
    batch = _batch()
    mean = model(**batch).posterior_mean
    monkeypatch.setattr(model, "denoise", lambda noisy_latents, *_: mean.repeat(16, 1, 1) + 1)  # error 1
    output = model(**batch)
    assert output.alignment_loss.item() == pytest.approx(1 / 50, rel=1e-3)
    assert output.diffusion_loss.item() == pytest.approx(49 / 50, rel=1e-3)


def test_a_chain_of_one_step_has_an_alignment_only():
    output = tiny_model(num_train_timesteps=1)(**_batch())
    assert output.diffusion_loss == 0
    assert torch.isfinite(output.loss) and output.alignment_loss > 0


# -------------------------------------------------------------------------------------------- determinism, batches


def test_the_evaluation_loss_repeats_itself_and_draws_nothing():
    model, batch = tiny_model(), _batch()
    first = model(**batch)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    second = model(**batch)
    assert torch.equal(torch.get_rng_state(), state)
    for key in LOSSES:
        assert torch.equal(first[key], second[key])


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_evaluation_loss_of_a_batch_is_the_mean_of_its_items(variant):
    model, batch = tiny_model(**VARIANTS[variant]), _batch()
    with torch.no_grad():
        together = model(**batch)
        alone = [model(**_row(batch, row)) for row in range(4)]
    for key in ("diffusion_loss", "alignment_loss"):
        torch.testing.assert_close(together[key], torch.stack([item[key] for item in alone]).mean())
    lengths = batch["attention_mask"].sum(1) if variant != "bound" else torch.ones(4)
    reconstruction = (torch.stack([item.reconstruction_loss for item in alone]) * lengths).sum() / lengths.sum()
    torch.testing.assert_close(together.reconstruction_loss, reconstruction)
    torch.testing.assert_close(together.latents, torch.cat([item.latents for item in alone]))


def test_training_draws_come_from_the_generator():
    model, batch = tiny_model(**NO_DROPOUT).train(), _batch()

    def loss(seed, global_seed):
        torch.manual_seed(global_seed)
        return model(**batch, generator=_seeded(seed)).loss

    assert torch.equal(loss(0, 0), loss(0, 1))
    assert not torch.equal(loss(0, 0), loss(1, 0))


@pytest.mark.parametrize("pooling", ["mean", "attention"])
@pytest.mark.parametrize("conditioning", ["prefix", "memory"])
def test_padding_changes_no_loss(pooling, conditioning):
    model, batch = tiny_model(pooling=pooling, decoder_conditioning=conditioning), _batch()
    junk = _ids(4, 5, seed=9)
    padded = {
        "input_ids": torch.cat([batch["input_ids"].masked_fill(batch["attention_mask"] == 0, 7), junk], dim=1),
        "attention_mask": nn.functional.pad(batch["attention_mask"], (0, 5)),
        "labels": nn.functional.pad(batch["labels"], (0, 3), value=-100),
    }
    with torch.no_grad():
        expected, output = model(**batch), model(**padded)
    for key in (*LOSSES, "latents"):
        torch.testing.assert_close(output[key], expected[key])


def test_several_draws_lower_the_variance_but_not_the_mean():
    means, stds = [], []
    for draws in (1, 16):
        model = tiny_model(denoiser_samples_per_latent=draws, latent_normalization="none", **NO_DROPOUT).train()
        generator = _seeded()
        with torch.no_grad():
            losses = torch.stack([model(**_batch(), generator=generator).diffusion_loss for _ in range(60)])
        means.append(losses.mean().item())
        stds.append(losses.std().item())
    assert stds[1] < 0.6 * stds[0]
    assert means[1] == pytest.approx(means[0], abs=4 * stds[0] / 60**0.5)


# -------------------------------------------------------------------------------------------------- gradients


def test_the_reconstruction_reaches_all_but_the_denoiser():
    model = tiny_model().train()
    assert _reached(model(**_batch()).reconstruction_loss, model) == {"encoder", "bottleneck", "decoder"}


@pytest.mark.parametrize("term", ["diffusion_loss", "alignment_loss"])
@pytest.mark.parametrize("target", ["sample", "mean"])
@pytest.mark.parametrize(
    ("share", "reached"), [(0.0, set()), (0.1, {"encoder", "bottleneck"}), (1.0, {"encoder", "bottleneck"})]
)
def test_the_chain_reaches_the_denoiser_and_its_share_of_the_encoder(term, target, share, reached):
    model = tiny_model(encoder_gradient_scale=share, alignment_target=target).train()
    timesteps = torch.zeros(4, dtype=torch.long) if term == "alignment_loss" else torch.tensor([1, 2, 500, 999])
    loss = model(**_batch(), timesteps=timesteps)[term]
    assert _reached(loss, model) == {"denoiser", *reached}


@pytest.mark.parametrize("timesteps", [None, [0, 0, 0, 0], [1, 10, 500, 999]])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5])
def test_the_encoders_gradient_from_the_chain_is_exactly_the_share(share, timesteps):
    timesteps = None if timesteps is None else torch.tensor(timesteps)
    losses, gradients = [], []
    for scale in (1.0, share):
        model = tiny_model(encoder_gradient_scale=scale, alignment_target="mean", **NO_DROPOUT).train()
        output = model(**_batch(), timesteps=timesteps, generator=_seeded())
        losses.append(output.loss)
        gradients.append(_gradients(output.diffusion_loss + output.alignment_loss, model))
    assert torch.equal(*losses)
    # Some gradients are zero but for rounding: a key's bias moves no attention.
    rounding = 1e-5 * max(whole.abs().max().item() for whole in gradients[0].values() if whole is not None)
    for name, whole in gradients[0].items():
        part = gradients[1][name]
        if name.startswith(("encoder", "bottleneck")):
            part = torch.zeros_like(whole) if part is None else part
            torch.testing.assert_close(part, share * whole, rtol=1e-4, atol=rounding)
        elif name.startswith("denoiser"):
            torch.testing.assert_close(part, whole)


@pytest.mark.parametrize("share", [0.0, 0.1])
@pytest.mark.parametrize("conditioning", ["prefix", "memory"])
@pytest.mark.parametrize(("pooling", "denoiser_type"), [("mean", "mlp"), ("attention", "transformer")])
def test_every_parameter_gets_a_finite_gradient(share, conditioning, pooling, denoiser_type):
    values = {"decoder_conditioning": conditioning, "pooling": pooling, "denoiser_type": denoiser_type}
    model = tiny_model(encoder_gradient_scale=share, **values).train()
    for name, gradient in _gradients(model(**_batch()).loss, model).items():
        assert gradient is not None and torch.isfinite(gradient).all(), name


def test_activation_checkpointing_changes_no_gradient():
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model(**NO_DROPOUT).train()
        if checkpointing:
            enable_checkpointing(model)
            assert any(getattr(module, "gradient_checkpointing", False) for module in model.encoder.modules())
            assert any(getattr(module, "gradient_checkpointing", False) for module in model.decoder.modules())
        gradients.append(_gradients(model(**_batch(), generator=_seeded()).loss, model))
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient)


# ---------------------------------------------------------------------------------------------- normalisation


def test_batch_normalisation_gives_mean_0_and_variance_1_in_training(generator):
    normalization = LatentNormalization(2, 8).train()
    normalized = normalization(3 + 5 * torch.randn(64, 2, 8, generator=generator))
    torch.testing.assert_close(normalized.mean(0), torch.zeros(2, 8), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalized.var(0, correction=0), torch.ones(2, 8), atol=1e-4, rtol=0)


def test_batch_normalisation_equals_that_of_torch(generator):
    ours = LatentNormalization(2, 8, momentum=0.1)
    theirs = nn.BatchNorm1d(16, momentum=0.1, affine=False)
    for _ in range(3):
        latents = 3 + 5 * torch.randn(6, 2, 8, generator=generator)
        torch.testing.assert_close(ours(latents).flatten(1), theirs(latents.flatten(1)))
    ours.eval(), theirs.eval()
    torch.testing.assert_close(ours(latents).flatten(1), theirs(latents.flatten(1)))


def test_evaluation_uses_the_running_statistics_and_leaves_them(generator):
    normalization = LatentNormalization(2, 8, momentum=1.0)
    latents = 3 + 5 * torch.randn(64, 2, 8, generator=generator)
    normalization(latents)
    torch.testing.assert_close(normalization.running_mean, latents.mean(0))
    torch.testing.assert_close(normalization.running_var, latents.var(0))
    normalization.eval()
    expected = (latents[:1] + 1 - latents.mean(0)) / latents.std(0)
    torch.testing.assert_close(normalization(latents[:1] + 1), expected, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(normalization.running_mean, latents.mean(0))


def test_a_training_batch_of_one_uses_the_running_statistics_and_leaves_them(generator):
    normalization = LatentNormalization(2, 8, momentum=1.0)
    normalization(3 + 5 * torch.randn(64, 2, 8, generator=generator))
    statistics = normalization.running_mean.clone()
    latents = torch.randn(1, 2, 8, generator=generator)
    trained = normalization.train()(latents)
    assert torch.isfinite(trained).all()
    assert torch.equal(trained, normalization.eval()(latents))
    assert torch.equal(normalization.running_mean, statistics)


def test_a_model_trains_on_a_batch_of_one():
    model = tiny_model().train()
    gradients = _gradients(model(**_batch(1)).loss, model)
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())


def test_batch_normalisation_pins_the_scale_of_the_posterior_mean():
    model = tiny_model().train()
    mean = model(**_batch(16)).posterior_mean
    torch.testing.assert_close(mean.var(0, correction=0), torch.ones(2, 8), atol=0.01, rtol=0)
    unpinned = tiny_model(latent_normalization="none").train()(**_batch(16)).posterior_mean
    assert (unpinned.var(0, correction=0) - 1).abs().max() > 0.2


def test_renormalised_values_are_those_by_the_running_statistics(generator):
    normalization = LatentNormalization(2, 8, renormalize=True, momentum=0.1).train()
    for _ in range(60):
        normalization(1 + 2 * torch.randn(512, 2, 8, generator=generator))
    batch = 1 + 2 * torch.randn(16, 2, 8, generator=generator)
    trained = normalization(batch)
    torch.testing.assert_close(trained, normalization.eval()(batch), atol=1e-5, rtol=1e-5)
    plain = LatentNormalization(2, 8).train()(batch)
    assert plain.mean(0).abs().max() < 1e-5 < 0.05 < trained.mean(0).abs().max()  # the noise that is taken away


def test_renormalised_gradients_are_those_of_the_batch_in_proportion(generator):
    normalization = LatentNormalization(2, 8, renormalize=True).train()
    for _ in range(400):
        normalization(torch.randn(64, 2, 8, generator=generator))
    batch, direction = (torch.randn(16, 2, 8, generator=generator) for _ in range(2))
    gradients = []
    for each in (normalization, LatentNormalization(2, 8)):
        leaf = batch.clone().requires_grad_()
        each.train()(leaf).backward(direction)
        gradients.append(leaf.grad)
    ratio = (batch.var(0, correction=0) / normalization.running_var).sqrt()
    torch.testing.assert_close(gradients[0], gradients[1] * ratio, atol=1e-4, rtol=1e-3)
    assert gradients[0].sum(0).abs().max() < 1e-4  # a common shift of the batch changes nothing


def test_a_batch_far_from_the_running_statistics_is_corrected_so_far_and_no_farther(generator):
    normalization = LatentNormalization(1, 4, renormalize=True, momentum=1e-6).train()
    normalization.set_statistics(torch.tensor([-1.0, 1.0]).view(2, 1, 1).expand(2, 1, 4) / 2**0.5)
    far = normalization(1000 + 100 * torch.randn(4096, 1, 4, generator=generator))
    torch.testing.assert_close(far.mean(0), torch.full((1, 4), 5.0), atol=1e-3, rtol=0)
    torch.testing.assert_close(far.std(0), torch.full((1, 4), 3.0), atol=0.01, rtol=0)


def test_the_first_batches_make_the_statistics_of_a_new_encoder(generator):
    normalization = LatentNormalization(1, 4, renormalize=True).train()
    first = normalization(7 + 0.1 * torch.randn(256, 1, 4, generator=generator))
    assert first.mean(0).abs().max() < 0.01 and (first.std(0) - 1).abs().max() < 0.01
    for _ in range(20):
        normalization(9 + 0.2 * torch.randn(256, 1, 4, generator=generator))
    torch.testing.assert_close(normalization.running_mean, torch.full((1, 4), 9.0), atol=0.05, rtol=0)
    known = LatentNormalization(1, 4, renormalize=True).train()
    known.load_state_dict(normalization.state_dict())
    known(torch.zeros(16, 1, 4))  # a training that goes on does not begin its statistics anew
    assert (known.running_mean - normalization.running_mean).abs().max() < 0.1


def test_a_model_with_renormalised_latents_trains_and_comes_back(tmp_path):
    model = tiny_model(latent_normalization="batch_renorm").train()
    gradients = _gradients(model(**_batch(16)).loss, model)
    assert all(torch.isfinite(gradient).all() for gradient in gradients.values())
    model.save_pretrained(tmp_path)
    again = type(model).from_pretrained(tmp_path)
    assert again.config.latent_normalization == "batch_renorm" and again.bottleneck.normalization.renormalize
    torch.testing.assert_close(
        again.bottleneck.normalization.running_mean, model.bottleneck.normalization.running_mean
    )


def test_the_statistics_are_float32_whatever_the_input(generator):
    normalization = LatentNormalization(2, 8)
    assert normalization(torch.randn(4, 2, 8, generator=generator).to(torch.bfloat16)).dtype == torch.float32


def test_a_posterior_sample_has_the_stated_mean_and_variance(generator):
    posterior = LatentPosterior(torch.full((5000, 2, 8), 3.0), 0.2)
    sample = posterior.sample(generator)
    assert sample.mean().item() == pytest.approx(3, abs=0.01)
    assert sample.var().item() == pytest.approx(0.2, rel=0.02)
    noise = torch.ones(5000, 2, 8)
    torch.testing.assert_close(posterior.sample(noise=noise), posterior.mean + 0.2**0.5)
    assert torch.equal(posterior.sample(_seeded(3)), posterior.sample(_seeded(3)))


def test_a_posterior_sample_takes_one_generator_or_one_for_each_datum():
    posterior = LatentPosterior(torch.zeros(2, 1, 8), 1.0)
    drawn = posterior.sample([_seeded(1), _seeded(2)])
    assert torch.equal(drawn[0], LatentPosterior(torch.zeros(1, 1, 8), 1.0).sample(_seeded(1))[0])
    with pytest.raises(ValueError, match="`generator` must hold one generator for each of 2 data, got 1"):
        posterior.sample([_seeded(1)])
    with pytest.raises(TypeError, match="`generator` must be a torch.Generator"):
        posterior.sample(0)


# ------------------------------------------------------------------------------------------------------- bound


def test_the_bound_is_the_sum_of_its_terms_for_each_datum():
    bound = tiny_model().bound(8, generator=_seeded(), **_batch())
    terms = bound.reconstruction + bound.alignment + bound.diffusion + bound.prior
    torch.testing.assert_close(bound.bound, terms)
    assert bound.bound.shape == (4,)
    assert bound.num_units.tolist() == _batch()["attention_mask"].sum(1).tolist()
    assert (bound.reconstruction > 0).all() and (bound.diffusion > 0).all() and (bound.prior > 0).all()


@pytest.mark.parametrize("variance", [0.008, 0.2, 1.0])
def test_the_bounds_chain_terms_are_the_divergence_from_a_standard_gaussian_if_the_denoiser_knows_one(
    variance, monkeypatch
):
    # The denoiser E[noise | noisy latents] = sqrt(1 - a) noisy latents of standard Gaussian latents makes the chain's
    # marginal N(0, I) at every step and its reverse exact, so that the terms together are a divergence known in closed
    # form: KL(N(mean, b I) || N(0, I)) = (|mean|^2 + d (b - 1 - log b)) / 2.
    chain = {"num_train_timesteps": 20, "beta_start": 0.1, "beta_end": 0.3, "prediction_type": "epsilon"}
    model = tiny_model(encoder_noise_variance=variance, **chain)

    def gaussian(noisy_latents, timesteps, class_labels):
        return (1 - model.scheduler.alphas_cumprod[timesteps]).sqrt().view(-1, 1, 1) * noisy_latents

    monkeypatch.setattr(model, "denoise", gaussian)
    one = _row(_batch(), 0)
    mean = model(**one).posterior_mean
    expected = (mean.square().sum().item() + 16 * (variance - 1 - math.log(variance))) / 2
    many = {name: value.expand(2000, -1) for name, value in one.items()}
    monkeypatch.setattr(model, "encode", lambda **inputs: LatentPosterior(mean.expand(2000, -1, -1), variance))
    monkeypatch.setattr(model.decoder, "forward", lambda latents, labels: (torch.zeros(2000), torch.ones(2000)))
    for num_timesteps in (19, 4):  # every timestep once; strata of several
        bound = model.bound(num_timesteps, generator=_seeded(), **many).bound
        error = bound.std().item() / 2000**0.5
        assert error < 0.05 * expected + 0.2
        assert bound.mean().item() == pytest.approx(expected, abs=4 * error)


def test_a_bound_needs_a_timestep_and_a_generator_for_each_datum():
    with pytest.raises(ValueError, match="`num_timesteps`"):
        tiny_model().bound(0, **_batch())
    with pytest.raises(ValueError, match="`generator` must hold one generator for each of"):
        tiny_model().bound(2, generator=[_seeded()], **_batch())


def test_the_bound_comes_from_the_generator():
    model = tiny_model()
    first, same, other = (model.bound(4, generator=_seeded(seed), **_batch()).bound for seed in (0, 0, 1))
    assert torch.equal(first, same) and not torch.equal(first, other)


# ---------------------------------------------------------------------------------------- errors of the chain


@pytest.mark.parametrize("prediction_type", ["epsilon", "sample", "v_prediction"])
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_the_errors_of_the_chain_of_a_denoiser_that_knows_nothing_are_the_squares_of_the_target(
    prediction_type, share, monkeypatch
):
    model = tiny_model(prediction_type=prediction_type)
    monkeypatch.setattr(model, "denoise", lambda latents, timesteps, labels: torch.zeros_like(latents))
    latents = torch.randn(6, 2, 8, generator=_seeded())
    noise = torch.randn(1, 2, 8, generator=_seeded()).square().mean().item()  # the model's own draw, of the same seed
    variance = (1 - model.scheduler.alphas_cumprod).sub(share).abs().min().item() + share  # nearest from above
    squares = latents.square().flatten(1).mean(1)
    # Noise of either sign: what mixes latents and noise in the square of a velocity cancels.
    expected = {
        "epsilon": torch.full_like(squares, noise),
        "sample": squares,
        "v_prediction": (1 - variance) * noise + variance * squares,
    }
    found = model.chain_errors(latents, noise_variances=[share])
    torch.testing.assert_close(found, expected[prediction_type], atol=2e-3, rtol=2e-2)


def test_errors_of_the_chain_are_of_each_datum_and_of_its_class():
    model = tiny_model(num_classes=3)
    latents, labels = torch.randn(5, 2, 8, generator=_seeded()), torch.tensor([0, 1, 2, -1, 0])
    together = model.chain_errors(latents, labels)
    alone = [model.chain_errors(latents[row : row + 1], labels[row : row + 1]) for row in range(5)]
    torch.testing.assert_close(together, torch.cat(alone))
    untold = model.chain_errors(latents)
    assert torch.equal(untold[3], together[3]) and not torch.isclose(untold[:3], together[:3]).any()


def test_errors_of_the_chain_need_latents_and_classes_of_the_model():
    model = tiny_model(num_classes=3)
    with pytest.raises(ValueError, match="`latents`"):
        model.chain_errors(torch.zeros(2, 1, 8))
    with pytest.raises(ValueError, match="`class_labels`"):
        model.chain_errors(torch.zeros(2, 2, 8), torch.tensor([0, 3]))
    with pytest.raises(ValueError, match="`noise_variances` must hold at least one share"):
        model.chain_errors(torch.zeros(2, 2, 8), noise_variances=[])
    with pytest.raises(ValueError, match="`noise_variances`"):
        model.chain_errors(torch.zeros(2, 2, 8), noise_variances=[0.1, 1.5])


# --------------------------------------------------------------------------------------------- types, save, load


def test_bfloat16_weights_leave_the_schedule_in_float32():
    model, batch = tiny_model(), _batch()
    betas, exact = model.scheduler.betas.clone(), model(**batch).loss
    model.to(torch.bfloat16)
    assert model.scheduler.alphas_cumprod.dtype == torch.float32
    assert torch.equal(model.scheduler.betas, betas)
    output = model(**batch)
    assert output.latents.dtype == torch.bfloat16
    torch.testing.assert_close(output.loss.float(), exact, rtol=0.05, atol=0.05)
    output.loss.backward()
    assert model.decode(output.latents, max_new_tokens=3).shape[0] == 4
    assert model.decode(output.latents.float(), max_new_tokens=3).shape[0] == 4


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("shard", ["5GB", "40KB"])
def test_a_saved_model_loads_with_the_same_output(tmp_path, variant, shard):
    model = tiny_model(**VARIANTS[variant]).train()
    with torch.no_grad():
        model(**_batch(), generator=_seeded())  # so that running statistics are not the initial ones
    model.eval().save_pretrained(tmp_path, max_shard_size=shard)
    assert (len(list(tmp_path.glob("*.safetensors"))) > 1) == (shard == "40KB")
    for cls in (EDDPMModel, AutoModel):
        loaded = cls.from_pretrained(tmp_path)
        assert type(loaded) is EDDPMModel and not loaded.training
        assert loaded.state_dict().keys() == model.state_dict().keys()
        for name, value in model.state_dict().items():
            assert torch.equal(loaded.state_dict()[name], value), name
        with torch.no_grad():
            assert torch.equal(loaded(**_batch()).loss, model(**_batch()).loss)


def test_running_statistics_are_part_of_the_checkpoint(tmp_path):
    model = tiny_model().train()
    model(**_batch())
    statistics = model.bottleneck.normalization.running_mean
    assert statistics.abs().max() > 0
    model.save_pretrained(tmp_path)
    assert torch.equal(EDDPMModel.from_pretrained(tmp_path).bottleneck.normalization.running_mean, statistics)


def test_loading_in_bfloat16_keeps_the_schedule(tmp_path):
    model = tiny_model()
    model.save_pretrained(tmp_path)
    loaded = EDDPMModel.from_pretrained(tmp_path, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in loaded.parameters()} == {torch.bfloat16}
    assert torch.equal(loaded.scheduler.alphas_cumprod, model.scheduler.alphas_cumprod)
    with torch.no_grad():
        torch.testing.assert_close(loaded(**_batch()).loss.float(), model(**_batch()).loss, rtol=0.05, atol=0.05)


def test_auto_classes_know_the_model():
    assert AutoConfig.for_model("eddpm").model_type == "eddpm"
    assert type(AutoModel.from_config(tiny_config())) is EDDPMModel


def test_truncated_weights_are_refused(tmp_path):
    tiny_model().save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(OSError, match="damaged or incomplete"):
        EDDPMModel.from_pretrained(tmp_path)


def test_given_modules_take_the_place_of_new_ones():
    donor = tiny_model(seed=3)
    model = EDDPMModel(donor.config, encoder=donor.encoder, decoder=donor.decoder)
    assert model.encoder is donor.encoder and model.decoder is donor.decoder
    weights = donor.encoder.get_input_embeddings().weight
    assert weights.std().item() == pytest.approx(0.15, rel=0.05)  # not initialised again


# --------------------------------------------------------------------------------------------------- interface


def test_the_tuple_holds_the_loss_first_and_all_that_the_output_does():
    model, batch = tiny_model(), _batch()
    output, values = model(**batch), model(**batch, return_dict=False)
    assert isinstance(values, tuple) and len(values) == len(output)
    assert torch.equal(values[0], output.loss)
    for key, value in zip(output, values, strict=True):
        assert torch.equal(output[key], value)


def test_without_a_loss_no_targets_are_needed():
    model, batch = tiny_model(), _batch()
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    output = model(**inputs, return_loss=False)
    assert output.loss is None
    assert torch.equal(output.latents, model.encode(**inputs).mean)
    latents, mean = model(**batch, return_loss=False, return_dict=False)
    assert torch.equal(latents, output.latents) and torch.equal(mean, output.posterior_mean)


@pytest.mark.parametrize("num_latents", [1, 3])
@pytest.mark.parametrize("pooling", ["mean", "attention"])
def test_latents_have_the_configured_shape(num_latents, pooling):
    model = tiny_model(num_latents=num_latents, pooling=pooling)
    output = model(**_batch())
    assert output.latents.shape == output.posterior_mean.shape == (4, num_latents, 8)
    assert torch.isfinite(output.loss)
    assert model.decode(output.latents, max_new_tokens=3).shape == (4, 3)
    for first in range(num_latents):
        for second in range(first):  # each has its own projection or query
            assert not torch.allclose(output.latents[:, first], output.latents[:, second])


def test_different_data_have_different_latents():
    latents = tiny_model()(**_batch()).latents
    assert torch.cdist(latents.flatten(1), latents.flatten(1)).fill_diagonal_(1).min() > 1e-2


def test_input_embeddings_are_the_encoders_and_can_be_replaced():
    model, batch = tiny_model(), _batch()
    assert model.get_input_embeddings() is model.encoder.backbone.get_input_embeddings()
    assert model.get_output_embeddings() is None
    before = model(**batch).posterior_mean
    replacement = nn.Embedding(300, 32)
    model.set_input_embeddings(replacement)
    assert model.get_input_embeddings() is replacement
    assert not torch.allclose(model(**batch).posterior_mean, before)


def test_unknown_and_missing_inputs_are_refused_by_their_name():
    model, batch = tiny_model(), _batch()
    with pytest.raises(ValueError, match="'pixel_values'"):
        model(**batch, pixel_values=torch.zeros(1))
    with pytest.raises(ValueError, match="`labels`"):
        model(input_ids=batch["input_ids"])
    with pytest.raises(ValueError, match="`labels`"):
        model(input_ids=batch["input_ids"], labels=None)
    with pytest.raises((TypeError, ValueError), match="input_ids"):
        model(labels=batch["labels"])
    with pytest.raises(ValueError, match="`noise` needs `timesteps`"):
        model(**batch, noise=torch.zeros(4, 2, 8))
    with pytest.raises(ValueError, match=r"`timesteps` must be in \[0, 1000\)"):
        model(**batch, timesteps=torch.tensor([0, 1, 2, 1000]))


@pytest.mark.parametrize("shape", [(2, 8), (4, 1, 8), (4, 2, 7), (4, 2, 8, 1)])
def test_latents_of_the_wrong_shape_are_refused(model, shape):
    with pytest.raises(ValueError, match=r"`latents`.*\(batch, 2, 8\)"):
        model.decode(torch.zeros(shape))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_latents_that_are_not_finite_are_refused(model, value):
    latents = torch.zeros(4, 2, 8)
    latents[2, 1, 3] = value
    with pytest.raises(ValueError, match="`latents` must be finite"):
        model.decode(latents)


@pytest.mark.parametrize("latents", [None, "latents", [[0.0] * 8] * 2, np.zeros((1, 2, 8))])
def test_latents_of_the_wrong_type_are_refused(model, latents):
    with pytest.raises(TypeError, match="`latents` must be a tensor"):
        model.decode(latents)


# -------------------------------------------------------------------------------------------------- overfitting


@pytest.mark.slow
@pytest.mark.parametrize("conditioning", ["prefix", "memory"])
def test_a_tiny_model_reconstructs_eight_examples_exactly_once_it_has_overfitted_them(processor, conditioning):
    torch.manual_seed(0)
    model = EDDPMModel(tiny_config(decoder_conditioning=conditioning, encoder_noise_variance=0.02, **NO_DROPOUT))
    batch = processor(SENTENCES)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    first = model(**batch).reconstruction_loss.item()
    for _ in range(150):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    # Running statistics follow so few and so large steps late: take those of the last batch, which is all data.
    model.bottleneck.normalization.momentum = 1.0
    with torch.no_grad():
        model(**batch)
    model.eval()
    with torch.no_grad():
        output = model(**batch)
    assert output.reconstruction_loss < 0.02 * first
    assert processor.postprocess(model.decode(output.latents, **processor.decode_arguments)) == SENTENCES


def test_masked_data_train_the_decoder_but_not_the_chain(model, batch):
    model.train()
    draws = {"timesteps": torch.tensor([3, 0, 700, 40]), "noise": torch.randn(4, 2, 8)}
    torch.manual_seed(1)
    plain = model(**batch, **draws)
    torch.manual_seed(1)
    masked = model(**batch, **draws, diffusion_mask=torch.tensor([True, False, True, False]))
    torch.testing.assert_close(masked.reconstruction_loss, plain.reconstruction_loss)
    assert masked.alignment_loss == 0  # the one datum at the first timestep is masked
    torch.manual_seed(1)
    nothing = model(**batch, **draws, diffusion_mask=torch.zeros(4, dtype=torch.bool))
    assert nothing.diffusion_loss == 0
    with pytest.raises(ValueError, match="`diffusion_mask`"):
        model(**batch, **draws, diffusion_mask=torch.tensor([True]))


def test_a_mask_of_true_changes_nothing(model, batch):
    plain, masked = model(**batch), model(**batch, diffusion_mask=torch.ones(4, dtype=torch.bool))
    torch.testing.assert_close(masked.loss, plain.loss)


LABELS = torch.tensor([0, 2, 1, 0])


def _chain_losses(model, batch, training=True, **values):
    model.train(training)
    generator = torch.Generator().manual_seed(1)
    output = model(**batch, generator=generator, **values)
    return torch.stack([output.diffusion_loss, output.alignment_loss])


def test_the_chain_is_told_the_classes_but_for_the_share_that_is_dropped(batch):
    told, dropped, half = (tiny_model(num_classes=3, label_dropout=share, **NO_DROPOUT) for share in (0, 1, 0.5))
    unknown = _chain_losses(told, batch)
    classes = _chain_losses(told, batch, class_labels=LABELS)
    assert (classes - unknown).abs().max() > 1e-4
    torch.testing.assert_close(_chain_losses(told, batch, class_labels=torch.full((4,), -1)), unknown)
    torch.testing.assert_close(_chain_losses(dropped, batch, class_labels=LABELS), unknown)
    between = _chain_losses(half, batch, class_labels=LABELS)
    assert (between - unknown).abs().max() > 1e-4 and (between - classes).abs().max() > 1e-4


def test_in_evaluation_no_label_is_dropped_and_a_batch_has_the_mean_loss_of_its_data(batch):
    model = tiny_model(num_classes=3, label_dropout=1.0)
    together = _chain_losses(model, batch, training=False, class_labels=LABELS)
    assert (together - _chain_losses(model, batch, training=False)).abs().max() > 1e-5
    alone = [
        _chain_losses(
            model,
            {name: value[row : row + 1] for name, value in batch.items()},
            training=False,
            class_labels=LABELS[row : row + 1],
        )
        for row in range(4)
    ]
    torch.testing.assert_close(torch.stack(alone).mean(0), together, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("denoiser_type", ["mlp", "transformer"])
@pytest.mark.parametrize("guidance_scale", [0.0, 1.0, 2.5])
def test_classifier_free_guidance_goes_from_the_unconditional_output_through_the_conditional_one(
    guidance_scale, denoiser_type
):
    model = tiny_model(num_classes=3, denoiser_type=denoiser_type)
    noisy_latents, timesteps = torch.randn(4, 2, 8), torch.tensor([0, 3, 500, 999])
    with torch.no_grad():
        unconditional, conditional = (
            model.denoise(noisy_latents, timesteps),
            model.denoise(noisy_latents, timesteps, LABELS),
        )
        guided = model.denoise(noisy_latents, timesteps, LABELS, guidance_scale)
    assert not torch.allclose(unconditional, conditional, atol=1e-3)
    expected = (1 - guidance_scale) * unconditional + guidance_scale * conditional
    torch.testing.assert_close(guided, expected, atol=1e-5, rtol=1e-4)


def test_the_bound_of_a_class_is_another_than_that_of_all(batch):
    model = tiny_model(num_classes=3)
    bounds = [
        model.bound(4, torch.Generator().manual_seed(0), labels, **batch)
        for labels in (LABELS, None, torch.full((4,), -1))
    ]
    assert (bounds[0].diffusion - bounds[1].diffusion).abs().min() > 1e-4
    torch.testing.assert_close(bounds[0].reconstruction, bounds[1].reconstruction)
    torch.testing.assert_close(bounds[1].bound, bounds[2].bound)


@pytest.mark.parametrize(
    ("classes", "labels", "message"),
    [
        (0, [0, 0, 0, 0], "needs a model with `num_classes` > 0"),
        (3, [0, 1, 2, 3], r"in \[-1, 3\), got 0 to 3"),
        (3, [-2, 1, 2, 0], r"in \[-1, 3\), got -2"),
        (3, [0, 1], r"of the shape \(4,\)"),
        (3, [0.0, 1.0, 2.0, 0.0], "must be int64"),
    ],
)
def test_labels_that_are_no_classes_are_refused(batch, classes, labels, message):
    with pytest.raises(ValueError, match=f"`class_labels` .*{message}|`class_labels` {message}"):
        tiny_model(num_classes=classes)(**batch, class_labels=torch.tensor(labels))


def test_decoder_noise_disturbs_training_alone_and_leaves_the_latents(batch):
    quiet, noisy = tiny_model(), tiny_model(decoder_noise_variance=4.0)
    torch.testing.assert_close(noisy(**batch).loss, quiet(**batch).loss)
    losses = []
    for one in (quiet, noisy):
        one.train()
        torch.manual_seed(3)
        output = one(**batch)
        losses.append(output.reconstruction_loss)
        assert output.latents.var() < 3  # the chain's latents have the encoder's noise only
    assert losses[0] != losses[1]


def test_a_checkpoint_that_lacks_a_weight_is_refused(model, tmp_path):
    model.save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["denoiser.output.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(OSError, match="lacks 1 weights.*denoiser.output.weight"):
        EDDPMModel.from_pretrained(tmp_path)


if __name__ == "__main__":
    GOLDEN.parent.mkdir(parents=True, exist_ok=True)
    record = {"command": "PYTHONPATH=src:training python tests/test_modeling_eddpm.py", "values": _golden_values()}
    GOLDEN.write_text(json.dumps(record, indent=1) + "\n")


def refined(model, batch, num_steps, **values):
    latents = model.encode(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).mean
    return latents.detach(), model.refine(latents, num_steps, labels=batch["labels"], **values)


def test_refined_latents_reconstruct_better_the_longer_they_are_refined(model, batch):
    latents, few = refined(model, batch, 5)
    _, many = refined(model, batch, 30)
    with torch.no_grad():
        nats = [model.decoder(each, labels=batch["labels"])[0] for each in (latents, few, many)]
    assert bool((nats[1] < nats[0]).all()) and bool((nats[2] < nats[1]).all())


@pytest.mark.parametrize(("variance", "rate"), [(0.02, 0.1), (0.5, 0.1), (0.0002, 0.01)])
def test_refinement_steps_are_not_larger_than_the_noise(model, batch, variance, rate):
    model.config.encoder_noise_variance = variance
    latents, result = refined(model, batch, 1, proximity=0.0)
    moved = (result - latents).abs()
    assert moved.max() == pytest.approx(rate, rel=1e-2)  # Adam's first step has the length of its rate
    _, as_told = refined(model, batch, 1, proximity=0.0, learning_rate=rate)
    torch.testing.assert_close(result, as_told)


def test_refinement_stays_near_the_start_as_far_as_it_is_told_to(model, batch):
    moves = []
    for proximity in (0.0, 1.0, 100.0):
        latents, result = refined(model, batch, 20, proximity=proximity)
        moves.append(float((result - latents).norm()))
    assert moves[0] > moves[1] > moves[2]


def test_refining_a_batch_is_refining_its_items(model, batch):
    _, together = refined(model, batch, 4)
    for row in range(len(together)):
        _, alone = refined(model, {name: tensor[row : row + 1] for name, tensor in batch.items()}, 4)
        torch.testing.assert_close(alone[0], together[row], atol=1e-4, rtol=1e-4)


def test_refinement_leaves_the_weights_and_their_gradients_alone(model, batch):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        _, result = refined(model, batch, 3)
    assert not result.requires_grad
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("num_steps", {"num_steps": 0}),
        ("num_steps", {"num_steps": 2.0}),
        ("learning_rate", {"num_steps": 1, "learning_rate": 0.0}),
        ("proximity", {"num_steps": 1, "proximity": -1.0}),
        ("proximity", {"num_steps": 1, "proximity": float("nan")}),
    ],
)
def test_impossible_refinements_are_refused_by_name(model, batch, name, values):
    with pytest.raises(ValueError, match=f"`{name}`"):
        refined(model, batch, **values)
