from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.spatial.distance import jensenshannon
from scipy.stats import pearsonr, spearmanr
from sklearn.decomposition import PCA
from sklearn.metrics import mean_absolute_error, mean_squared_error

from hf_eddpm.metrics.frechet_distance import frechet_distance
from hf_eddpm.metrics.levenshtein_diversity import mean_pairwise_levenshtein
from hf_eddpm.modalities.protein.data import load_proteins
from hf_eddpm.modalities.protein.metrics import (
    SYMBOLS,
    SequenceFrechet,
    is_valid,
    kmer_divergence,
    latent_smoothness,
    one_hot,
    reconstruction_accuracy,
    regression_metrics,
    site_divergence,
    to_frames,
    validity,
)
from hf_eddpm.modalities.protein.residues import RESIDUES

GIFFORD = Path(__file__).parents[2] / "shared" / "data" / "protein" / "gifford"
chains = st.text(RESIDUES, min_size=1, max_size=12)


def _letters(frames):
    return ["".join(SYMBOLS[index] for index in row) for row in frames]


def _random_chains(rng, num, low=3, high=9, residues=RESIDUES):
    return ["".join(rng.choice(list(residues), rng.integers(low, high))) for _ in range(num)]


def test_frames_stand_left_or_in_the_middle():
    assert _letters(to_frames(["ACD", "W", ""], 6)) == ["ACD---", "W-----", "------"]
    # (length - n) // 2 sites before: the odd one is at the end
    assert _letters(to_frames(["ACD", "AC", "ACDEFG"], 6, "center")) == ["-ACD--", "--AC--", "ACDEFG"]
    assert _letters(to_frames(["A-D"], 4)) == ["A-D-"]


@given(st.lists(chains, min_size=1, max_size=5), st.sampled_from(["left", "center"]))
def test_a_frame_gives_its_sequence_back(sequences, alignment):
    frames = to_frames(sequences, 12, alignment)
    assert [letters.strip("-") for letters in _letters(frames)] == sequences
    vectors = one_hot(frames)
    assert vectors.shape == (len(sequences), 12 * 22) and (vectors.sum(axis=1) == 12).all()
    assert (vectors.reshape(-1, 12, 22).argmax(axis=2) == frames).all()


def test_reconstruction_accuracy_has_the_values_worked_out_by_hand():
    accuracy = reconstruction_accuracy(to_frames(["ACDE", "WY", "A"], 5), to_frames(["ACDF", "WY", "AC"], 5))
    assert accuracy["site_accuracy"] == pytest.approx(13 / 15)
    assert accuracy["residue_accuracy"] == pytest.approx(6 / 8)
    assert accuracy["exact_match"] == pytest.approx(1 / 3)
    # a residue too many counts where the original has padding
    accuracy = reconstruction_accuracy(to_frames(["ACD"], 4), to_frames(["AC"], 4))
    assert accuracy == {"site_accuracy": 0.75, "residue_accuracy": 1.0, "exact_match": 0.0}


@given(st.integers(0, 2**16), st.floats(0, 0.9))
def test_regression_metrics_agree_with_scikit_learn_and_leave_missing_targets_out(seed, missing):
    rng = np.random.default_rng(seed)
    targets, predictions = rng.normal(size=(2, 50))
    targets[rng.random(50) < missing] = np.nan
    targets[:2] = 0.3, -0.5
    known = ~np.isnan(targets)
    metrics = regression_metrics(predictions, targets)
    predictions, targets = predictions[known], targets[known]
    assert metrics["mse"] == pytest.approx(mean_squared_error(targets, predictions))
    assert metrics["l1"] == pytest.approx(mean_absolute_error(targets, predictions))
    assert metrics["pearson"] == pytest.approx(pearsonr(targets, predictions).statistic)
    assert metrics["spearman"] == pytest.approx(spearmanr(targets, predictions).statistic)
    assert metrics["num"] == known.sum()


def test_constant_and_unknown_targets_have_no_correlation():
    metrics = regression_metrics(np.array([1.0, 1.0]), np.array([1.0, 3.0]))
    assert metrics == {"mse": 2.0, "l1": 1.0, "pearson": None, "spearman": None, "num": 2}
    assert regression_metrics(np.zeros(2), np.full(2, np.nan))["mse"] is None
    with pytest.raises(ValueError, match=r"must both be \(num,\), got \(3,\) and \(3, 1\)"):
        regression_metrics(np.zeros(3), np.zeros((3, 1)))


def test_smoothness_is_the_quadratic_form_of_the_laplacian():
    rng = np.random.default_rng(0)
    points, values = rng.normal(size=(40, 3)), rng.normal(size=40)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2) + np.diag(np.full(40, np.inf))
    adjacency = np.zeros((40, 40))
    adjacency[np.arange(40)[:, None], np.argsort(distances, axis=1)[:, :4]] = 1
    adjacency = np.maximum(adjacency, adjacency.T)
    laplacian = np.diag(adjacency.sum(axis=1)) - adjacency
    expected = values @ laplacian @ values / (adjacency.sum() * values.var(ddof=1))
    assert latent_smoothness(points, values, num_neighbors=4) == pytest.approx(expected)
    # neither the unit of the property nor that of the latents counts
    assert latent_smoothness(7 * points, 3 - 5 * values, num_neighbors=4) == pytest.approx(expected)


def test_smoothness_tells_a_smooth_property_from_a_shuffled_one():
    rng = np.random.default_rng(0)
    points = rng.normal(size=(500, 2))
    smooth = points @ [1.0, 2.0]
    assert latent_smoothness(points, smooth) < 0.05
    shuffled = [latent_smoothness(points, rng.permutation(smooth)) for _ in range(40)]
    assert np.mean(shuffled) == pytest.approx(1, abs=0.02)  # its expectation is exactly 1
    clusters = np.repeat([[0.0], [100.0]], 20, axis=0) + rng.normal(size=(40, 1))
    assert latent_smoothness(clusters, np.repeat([0.0, 1.0], 20)) == 0


@pytest.mark.parametrize(
    ("values", "num_neighbors", "message"),
    [
        (np.ones(5), 2, "`values` are constant"),
        (np.array([1, 2, 3, 4, np.nan]), 2, r"`values` must be \(5,\) without NaN"),
        (np.arange(4), 2, r"`values` must be \(5,\)"),
        (np.arange(5), 5, r"`num_neighbors` must be in \[1, 5\), got 5"),
    ],
)
def test_smoothness_refuses_what_has_none(values, num_neighbors, message):
    with pytest.raises(ValueError, match=message):
        latent_smoothness(np.arange(10.0).reshape(5, 2), values, num_neighbors)


def test_only_residues_without_a_gap_are_valid():
    assert [is_valid(sequence) for sequence in ("ACDX", "W", "", "A-C", "-AC", "acd", "AC*")] == [True] * 2 + [
        False
    ] * 5
    assert validity(["ACD", "A-D", "", "X"]) == 0.5
    with pytest.raises(ValueError, match="`sequences` must be a list"):
        validity("ACD")


def test_pairwise_distance_takes_all_pairs_of_a_few_and_a_sample_of_many():
    assert mean_pairwise_levenshtein(["ACD", "AC", "WWW"]) == pytest.approx((1 + 3 + 3) / 3)
    assert mean_pairwise_levenshtein(["ACD", "ACD"]) == 0  # two rows, not two different sequences
    assert mean_pairwise_levenshtein(["ACD"]) is None
    sequences = _random_chains(np.random.default_rng(0), 120)
    exact = mean_pairwise_levenshtein(sequences, num_pairs=120 * 119 // 2)
    sampled = [mean_pairwise_levenshtein(sequences, num_pairs=3000, seed=seed) for seed in (0, 0, 1)]
    assert sampled[0] == sampled[1] != sampled[2]
    assert sampled[0] == pytest.approx(exact, rel=0.02) and sampled[0] != exact


def test_kmer_divergence_is_that_of_the_frequencies():
    # 1-mers with the end mark: (A 2, C 1, end 1) / 4 and (A 1, C 1, end 2) / 4
    expected = jensenshannon([2, 1, 1], [1, 1, 2], base=2) ** 2
    assert kmer_divergence(["AAC"], ["A", "C"], 1) == pytest.approx(expected)
    assert kmer_divergence(["ACD", "W"], ["W", "ACD"], 3) == pytest.approx(0)
    assert kmer_divergence(["ACD"], ["DCA"], 1) == pytest.approx(0)
    assert kmer_divergence(["ACD"], ["DCA"], 2) > 0.5
    assert kmer_divergence(["AA"], ["WW"], 3) == pytest.approx(1)


def test_site_divergence_is_the_mean_over_the_sites():
    frames, reference = to_frames(["AC", "AD"], 3), to_frames(["AC", "WC"], 3)
    first = jensenshannon([1, 0], [0.5, 0.5], base=2) ** 2
    second = jensenshannon([0.5, 0.5], [1, 0], base=2) ** 2
    assert site_divergence(frames, reference) == pytest.approx((first + second + 0) / 3)
    assert site_divergence(to_frames(["AA"], 2), to_frames(["WW"], 2)) == pytest.approx(1)


def test_frechet_is_that_of_the_projected_one_hot_frames():
    rng = np.random.default_rng(0)
    train, a, b = (to_frames(_random_chains(rng, num), 8) for num in (300, 60, 80))
    pca = PCA(5, svd_solver="full").fit(one_hot(train))
    x, y = pca.transform(one_hot(a)), pca.transform(one_hot(b))
    cov_x, cov_y = np.cov(x.T), np.cov(y.T)
    expected = np.sum((x.mean(0) - y.mean(0)) ** 2) + np.trace(cov_x + cov_y - 2 * sqrtm(cov_x @ cov_y).real)
    measure = SequenceFrechet(train, num_components=5)
    assert measure.distance(a, b) == pytest.approx(expected, rel=1e-4)
    assert measure.distance(a, a) == pytest.approx(0, abs=1e-6)
    assert SequenceFrechet(train[:20]).num_components == 20


def test_long_frames_have_nearly_exact_components():
    rng = np.random.default_rng(0)
    wild_type = rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), 120)

    def variants(num):
        rows = np.tile(wild_type, (num, 1))
        for row in rows:
            row[rng.integers(0, 10, 3)] = rng.choice(list("ACDE"), 3)  # ten sites vary
        return to_frames(["".join(row) for row in rows], 120)

    train, a, b = variants(400), variants(100), variants(100)
    pca = PCA(8, svd_solver="full").fit(one_hot(train))
    expected = frechet_distance(pca.transform(one_hot(a)), pca.transform(one_hot(b)))
    assert SequenceFrechet(train, num_components=8).distance(a, b) == pytest.approx(expected, rel=0.02)


def test_frechet_grows_with_the_share_of_foreign_sequences():
    rng = np.random.default_rng(0)
    train, real = (to_frames(_random_chains(rng, num, residues="ACDE"), 8) for num in (400, 200))
    foreign = to_frames(_random_chains(rng, 200, residues="WYFG"), 8)
    measure = SequenceFrechet(train)
    distances = [measure.distance(np.concatenate([train[share:200], foreign[:share]]), real) for share in (0, 40, 160)]
    assert 0 < distances[0] < distances[1] / 2 < distances[2] / 4


def test_real_sequences_of_gifford_have_the_stated_distance():
    if not GIFFORD.is_dir():
        pytest.skip("the Gifford data set is not on this machine")
    frames = []
    for split in ("train", "validation"):
        data = load_proteins(str(GIFFORD / f"{split}.csv.gz"), padding_symbol="J")
        frames.append(to_frames(data.sequences, 20, "center"))
    train, validation = frames
    rows = np.random.default_rng(0).choice(len(train), 10_000, replace=False)
    assert SequenceFrechet(train).distance(train[rows], validation) == pytest.approx(0.0285, abs=0.004)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((["ACDE"], 3), "at most `length` = 3 residues, got 4 at position 0"),
        ((["AC", "aC"], 3), "letters of .* only, got 'aC' at position 1"),
        ((["AC", "A\u03b1"], 3), "letters of .* only"),
        ((["AC"], 3, "right"), "`alignment` must be 'left' or 'center', got 'right'"),
    ],
)
def test_what_fits_no_frame_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        to_frames(*arguments)


def test_frames_of_different_shape_are_refused():
    with pytest.raises(ValueError, match=r"of one shape .* got \(1, 3\) and \(2, 3\)"):
        reconstruction_accuracy(to_frames(["A"], 3), to_frames(["A", "C"], 3))
