import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge

from hf_eddpm.modalities.protein.metrics import one_hot, regression_metrics, to_frames
from hf_eddpm.modalities.protein.oracle import EnsembleOracle, fit_cnn, fit_ridge

LENGTH = 8
SETTINGS = {"num_epochs": 20, "batch_size": 64, "learning_rate": 5e-3}


def _data(num, seed, noise=0.0):
    """Random chains and a fitness that is a sum over residues plus one interaction of neighbours."""
    rng = np.random.default_rng(seed)
    chains = ["".join(rng.choice(list("ACDE"), rng.integers(5, LENGTH + 1))) for _ in range(num)]
    values = np.array([10 + chain.count("A") - chain.count("D") + 2 * ("CE" in chain) for chain in chains])
    return chains, values + noise * rng.normal(size=num)


@pytest.fixture(scope="module")
def oracle():
    chains, values = _data(400, 0, noise=0.3)
    return EnsembleOracle.fit(chains, values, LENGTH, num_members=3, **SETTINGS)


def test_the_oracle_predicts_sequences_it_has_not_seen(oracle):
    chains, values = _data(300, 1)
    metrics = regression_metrics(oracle(chains), values)
    assert metrics["pearson"] > 0.9 and metrics["mse"] < 0.4 * values.var()
    # the members' own quality, each on the fold it has not seen
    assert oracle.out_of_fold["num"] == 400
    assert 0.8 < oracle.out_of_fold["pearson"] < 0.99


def test_the_oracle_is_the_mean_of_its_members_and_knows_where_they_disagree(oracle):
    chains, _ = _data(50, 2)
    members = oracle.predict_members(chains)
    assert members.shape == (3, 50)
    np.testing.assert_allclose(oracle(chains), members.mean(axis=0))
    np.testing.assert_allclose(oracle.disagreement(chains), np.std(members, axis=0, ddof=1))
    foreign = ["WYFHKLMN", "PQRSTVWY", "GHIKLMNP"] * 5
    assert oracle.disagreement(foreign).mean() > oracle.disagreement(chains).mean()


def test_out_of_fold_quality_of_noise_is_none():
    chains, _ = _data(200, 3)
    values = np.random.default_rng(0).normal(size=200)
    noise = EnsembleOracle.fit(chains, values, LENGTH, num_members=2, **SETTINGS)
    assert abs(noise.out_of_fold["pearson"]) < 0.25
    # its members know the rows they were trained on, which is why rows that were seen say nothing
    assert regression_metrics(noise(chains), values)["pearson"] > 0.4


def test_missing_values_are_left_out():
    chains, values = _data(60, 4)
    values[::2] = np.nan
    with_missing = EnsembleOracle.fit(chains, values, LENGTH, num_members=2, num_epochs=2)
    without = EnsembleOracle.fit(chains[1::2], values[1::2], LENGTH, num_members=2, num_epochs=2)
    assert with_missing.out_of_fold["num"] == 30
    np.testing.assert_allclose(with_missing(chains), without(chains))


def test_the_seed_decides_and_torch_is_left_alone():
    chains, values = _data(60, 5)
    frames = to_frames(chains, LENGTH)
    state = torch.random.get_rng_state()
    predictions = [fit_cnn(frames, values, seed=seed, num_epochs=2).predict(frames) for seed in (0, 0, 1)]
    assert torch.equal(torch.random.get_rng_state(), state)
    np.testing.assert_array_equal(predictions[0], predictions[1])
    assert not np.allclose(predictions[0], predictions[2])


def test_the_cnn_finds_the_interaction_that_ridge_cannot():
    (chains, values), (unseen, truth) = _data(800, 6), _data(300, 7)
    frames, unseen = to_frames(chains, LENGTH), to_frames(unseen, LENGTH)
    ridge = regression_metrics(fit_ridge(frames, values).predict(unseen), truth)
    cnn = regression_metrics(fit_cnn(frames, values, **SETTINGS).predict(unseen), truth)
    assert ridge["pearson"] > 0.7
    assert cnn["mse"] < 0.5 * ridge["mse"]


def test_ridge_is_that_of_the_one_hot_vectors():
    chains, values = _data(200, 8, noise=0.5)
    frames = to_frames(chains, LENGTH)
    fitted = fit_ridge(frames, values)
    vectors = one_hot(frames).astype(np.float64)
    expected = Ridge(fitted[-1].alpha).fit(vectors, values).predict(vectors)
    np.testing.assert_allclose(fitted.predict(frames), expected, atol=0.02)


def test_bad_input_is_refused():
    frames = to_frames(["AC", "AD"], LENGTH)
    with pytest.raises(ValueError, match=r"`values` must be \(2,\) and finite"):
        fit_cnn(frames, np.array([1.0, np.nan]))
    with pytest.raises(ValueError, match="`values` are constant"):
        fit_ridge(frames, np.ones(2))
    with pytest.raises(ValueError, match=r"`num_members` must be in \[2, 1\], the number of known values, got 2"):
        EnsembleOracle.fit(["AC", "AD"], np.array([1.0, np.nan]), LENGTH, num_members=2)
    with pytest.raises(ValueError, match="at most `length` = 8 residues"):
        EnsembleOracle.fit(["A" * 9, "AC"], np.array([1.0, 2.0]), LENGTH, num_members=2)
