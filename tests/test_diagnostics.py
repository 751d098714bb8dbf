import logging
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_eddpm import EDDPMOutput
from hf_eddpm.diagnostics import (
    covariance_eigenvalues,
    effective_rank,
    frechet_beside_real,
    gaussian_rate,
    largest_share,
    moment_eigenvalues,
    nearest_distances,
    nearest_neighbor_ratio,
    spectrum_statistics,
    warn_of_low_rank,
)
from hf_eddpm.training.card_facts import latent_tables
from hf_eddpm.training.evaluation import latent_statistics, reach_statistics
from hf_eddpm.training.monitor import TrainingMonitor

SIZE = 8


def _gaussian(num, size=SIZE, seed=0):
    return torch.randn(num, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _with_covariance(variances, num=64):
    """Vectors whose covariance is exactly diagonal with these variances."""
    centred = _gaussian(num, len(variances))
    directions, _ = torch.linalg.qr(centred - centred.mean(0))
    return directions * num**0.5 * torch.tensor(variances, dtype=torch.float64).sqrt()


def _line(num, size=SIZE):
    """Latents on a line, with unit variance in each dimension."""
    place = _gaussian(num, 1)
    return ((place - place.mean()) / place.std(correction=0)).expand(num, size)


@pytest.fixture
def warnings(caplog):
    logger = logging.getLogger("hf_eddpm.diagnostics")
    logger.addHandler(caplog.handler)
    yield caplog
    logger.removeHandler(caplog.handler)


# Values known in closed form


def test_the_eigenvalues_are_those_of_the_covariance():
    variances = [4.0, 2.0, 1.0, 0.5]
    torch.testing.assert_close(covariance_eigenvalues(_with_covariance(variances)), torch.tensor(variances).double())


@pytest.mark.parametrize("size", [1, 3, 64])
def test_an_isotropic_gaussian_has_the_rank_of_its_width(size):
    eigenvalues = torch.full((size,), 2.5)
    assert effective_rank(eigenvalues) == pytest.approx(size)
    assert largest_share(eigenvalues) == pytest.approx(1 / size)
    assert gaussian_rate(eigenvalues, 0.5) == pytest.approx(size / 2 * math.log(6))


def test_the_rank_is_the_exponential_of_the_entropy_in_nats():
    assert effective_rank(torch.tensor([3.0, 1.0])) == pytest.approx(4 / 3**0.75)
    assert largest_share(torch.tensor([1.0, 3.0])) == 0.75


@pytest.mark.parametrize("statistic", [effective_rank, largest_share])
def test_latents_that_do_not_vary_have_no_rank(statistic):
    eigenvalues = covariance_eigenvalues(torch.full((5, SIZE), 0.3))
    assert statistic(eigenvalues) == 0 and gaussian_rate(eigenvalues, 0.1) == 0


def test_few_data_span_few_directions():
    assert effective_rank(covariance_eigenvalues(_gaussian(4))) <= 3


def test_independent_draws_from_one_gaussian_have_a_neighbor_ratio_near_one():
    real, unseen, sampled = (_gaussian(2000, 4, seed) for seed in range(3))
    assert nearest_neighbor_ratio(sampled, unseen, real) == pytest.approx(1, abs=0.06)


def test_the_neighbor_ratio_sees_latents_beside_the_data():
    real = torch.arange(10.0).unsqueeze(1) * torch.tensor([[1.0, 0.0]])
    unseen, sampled = real + torch.tensor([0.0, 0.25]), real + torch.tensor([0.0, 0.5])
    assert nearest_neighbor_ratio(sampled, unseen, real) == pytest.approx(2)
    assert nearest_neighbor_ratio(real, unseen, real) == 0


def test_the_frechet_distances_are_those_of_the_gaussians():
    variances = [1.0, 1.0, 1.0]
    real = _with_covariance(variances)
    distance, floor = frechet_beside_real(2 * real + 1, real, real)
    unbiased = len(real) / (len(real) - 1)
    assert distance == pytest.approx(3 + 3 * unbiased) and floor == pytest.approx(0, abs=1e-9)


# Invariances


@given(seed=st.integers(0, 2**16), scale=st.floats(0.1, 10))
def test_rank_and_share_ignore_rotation_shift_and_scale(seed, scale):
    latents = _gaussian(50, seed=seed) * torch.arange(1.0, SIZE + 1)
    rotation, _ = torch.linalg.qr(_gaussian(SIZE, seed=seed + 1))
    before = covariance_eigenvalues(latents)
    after = covariance_eigenvalues(scale * latents @ rotation + 3)
    assert effective_rank(after) == pytest.approx(effective_rank(before))
    assert largest_share(after) == pytest.approx(largest_share(before))
    assert 1 <= effective_rank(after) <= SIZE


@given(seed=st.integers(0, 2**16))
def test_the_rate_ignores_rotation_and_a_common_scale_of_latents_and_noise(seed):
    latents = _gaussian(50, seed=seed)
    rotation, _ = torch.linalg.qr(_gaussian(SIZE, seed=seed + 1))
    rate = gaussian_rate(covariance_eigenvalues(latents), 0.1)
    assert gaussian_rate(covariance_eigenvalues(3 * latents @ rotation), 0.9) == pytest.approx(rate)


def test_the_neighbor_ratio_ignores_rotation_shift_and_scale():
    sets = [_gaussian(40, seed=seed) for seed in range(3)]
    rotation, _ = torch.linalg.qr(_gaussian(SIZE, seed=9))
    moved = [2 * latents @ rotation - 1 for latents in sets]
    assert nearest_neighbor_ratio(*moved) == pytest.approx(nearest_neighbor_ratio(*sets))


def test_shape_and_type_of_latents_do_not_matter():
    latents = _gaussian(30).float()
    torch.testing.assert_close(covariance_eigenvalues(latents.view(30, 2, 4)), covariance_eigenvalues(latents))


def test_sums_over_batches_give_the_eigenvalues_of_all_data():
    latents = _gaussian(30) + 2
    products = sum(part.T @ part for part in latents.split(7))
    torch.testing.assert_close(
        moment_eigenvalues(30, latents.sum(0), products), covariance_eigenvalues(latents), atol=1e-12, rtol=1e-9
    )


def test_distances_in_parts_are_those_at_once(monkeypatch):
    latents, real = _gaussian(20, seed=1), _gaussian(30, seed=2)
    expected = (latents.unsqueeze(1) - real).norm(dim=-1).amin(1)
    monkeypatch.setattr("hf_eddpm.diagnostics._PAIRS", 70)
    torch.testing.assert_close(nearest_distances(latents, real), expected)


# The failing case: dimensions that are copies of each other


def _monitored(means, noise_variance=0.03):
    monitor = TrainingMonitor()
    for part in means.split(10):
        monitor.update(EDDPMOutput(posterior_mean=part.unsqueeze(1)))
    return monitor, monitor.collect(lambda value: value, noise_variance)


def test_latents_on_a_line_look_healthy_by_dimension_and_are_of_rank_one(warnings):
    _, log = _monitored(_line(40))
    _, healthy = _monitored(_with_covariance([1.0] * SIZE, num=40))
    for name in ("latent_std", "active_dims", "kl_per_dim"):
        assert log[name] == pytest.approx(healthy[name])
    assert log["active_dims"] == SIZE and log["latent_std"] == pytest.approx(1)
    assert log["effective_rank"] == pytest.approx(1) and log["largest_share"] == pytest.approx(1)
    assert healthy["effective_rank"] == pytest.approx(SIZE)
    assert log["rate"] == pytest.approx(0.5 * math.log(1 + SIZE / 0.03))
    assert warn_of_low_rank(log["effective_rank"], SIZE, 40)
    assert "encoder_gradient_scale" in warnings.text and "1.0 of 8" in warnings.text


def test_latents_of_full_rank_and_too_few_data_give_no_warning(warnings):
    assert not warn_of_low_rank(SIZE / 4, SIZE, 1000)
    assert not warn_of_low_rank(1.0, SIZE, 2 * SIZE - 1)
    assert warnings.text == ""


def test_a_monitor_leaves_the_spectrum_out_where_there_is_none():
    _, log = _monitored(_line(1))
    assert "active_dims" in log and "effective_rank" not in log
    _, log = _monitored(torch.full((10, SIZE), float("nan")))
    assert "effective_rank" not in log
    _, log = _monitored(torch.zeros(3, 1025))
    assert "effective_rank" not in log
    monitor, log = _monitored(torch.full((10, SIZE), 0.5))
    assert log["effective_rank"] == 0 and monitor.count == 10


# Errors


@pytest.mark.parametrize("eigenvalues", [[-1.0, 2.0], [float("nan"), 1.0], [float("inf"), 1.0]])
def test_eigenvalues_of_no_covariance_are_refused(eigenvalues):
    with pytest.raises(ValueError, match="`eigenvalues`"):
        effective_rank(torch.tensor(eigenvalues))


def test_bad_input_is_refused_by_name():
    latents = _gaussian(5)
    with pytest.raises(ValueError, match="`means` must hold at least 2"):
        covariance_eigenvalues(latents[:1])
    with pytest.raises(ValueError, match="`count`"):
        moment_eigenvalues(1, latents[0], latents.T @ latents)
    with pytest.raises(ValueError, match="`noise_variance`"):
        spectrum_statistics(torch.ones(3), 0.0)
    with pytest.raises(ValueError, match="`vectors` must be finite"):
        nearest_distances(latents * float("nan"), latents)
    with pytest.raises(ValueError, match="equal size"):
        nearest_distances(latents, latents[:, :3])
    with pytest.raises(ValueError, match="`unseen`"):
        nearest_neighbor_ratio(latents, latents, latents)
    with pytest.raises(ValueError, match="one shape"):
        frechet_beside_real(latents, latents, latents[:4])


# Evaluations and cards


def test_a_card_shows_the_latents_and_how_far_samples_lie_from_them():
    means, noise = _gaussian(100), 0.1
    evaluation = {
        "latents": latent_statistics(means.numpy(), noise),
        "reach": {"20": reach_statistics(_gaussian(30, seed=1), _gaussian(40, seed=2), means)},
    }
    assert {"effective_rank", "largest_share", "rate", "active_dims"} < evaluation["latents"].keys()
    reach = evaluation["reach"]["20"]
    assert reach["num"] == 30 and 0.5 < reach["neighbor_ratio"] < 2
    text = "\n".join(latent_tables(evaluation))
    assert f"{reach['neighbor_ratio']:.2f}" in text and f"of {SIZE}" in text and "Effective rank" in text


def test_the_order_of_real_latents_does_not_make_the_halves_differ():
    means = _gaussian(400)
    ordered = means[means[:, 0].argsort()]
    reach = reach_statistics(_gaussian(200, seed=1), _gaussian(40, seed=2), ordered)
    assert reach["real_frechet"] < 0.5 and reach["frechet"] < 0.5  # halves in order: more than 2


def test_what_cannot_be_measured_is_left_out():
    means = _gaussian(20)
    assert "neighbor_ratio" not in reach_statistics(_gaussian(5, seed=1), means[:5], means)
    assert latent_tables({"latents": {"active_dims": 8}, "samples": {}}) == []
