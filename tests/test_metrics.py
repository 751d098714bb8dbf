"""The metrics against reference implementations and known values, and as `evaluate` modules loaded by their path."""

import math

import evaluate
import numpy as np
import pytest
import sacrebleu
from hypothesis import given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein
from scipy.integrate import trapezoid
from scipy.linalg import sqrtm
from scipy.spatial.distance import jensenshannon
from scipy.stats import entropy
from sklearn.ensemble import GradientBoostingClassifier

from hf_eddpm.metrics import metric_path
from hf_eddpm.metrics.bits_per_dimension import bits_per_dimension
from hf_eddpm.metrics.disentanglement import (
    dci,
    disentanglement,
    mutual_information_gap,
    separated_attribute_predictability,
)
from hf_eddpm.metrics.distinct_novelty import distinct_n, novelty, uniqueness
from hf_eddpm.metrics.flip_accuracy import flip_accuracy
from hf_eddpm.metrics.frechet_distance import frechet_distance, relative_frechet_distance
from hf_eddpm.metrics.mauve import mauve, mauve_of_histograms
from hf_eddpm.metrics.ngram_divergence import ngram_divergence
from hf_eddpm.metrics.reconstruction_bleu import corpus_bleu, exact_match

A = ["the cat sat on the mat .", "a dog barks .", "it rains today .", "we ate the soup ."]
B = ["the cat sat on a mat .", "a dog barks .", "it rained .", "they ate a soup ."]
RNG = np.random.default_rng(0)
VECTORS, OTHERS = RNG.normal(size=(60, 4)), 0.5 + 1.5 * RNG.normal(size=(40, 4))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    """evaluate copies modules and results into caches under the home folder."""
    monkeypatch.setattr(evaluate.config, "HF_METRICS_CACHE", str(tmp_path / "metrics"))


def load(name):
    return evaluate.load(metric_path(name))


# Loaded by their path


@pytest.mark.parametrize(
    ("name", "inputs", "expected"),
    [
        (
            "reconstruction_bleu",
            {"predictions": A, "references": B},
            {"bleu": corpus_bleu(A, B), "exact_match": 0.25},
        ),
        (
            "frechet_distance",
            {"predictions": VECTORS.tolist(), "reference": OTHERS.tolist()},
            {
                "frechet_distance": frechet_distance(VECTORS, OTHERS),
                "relative_frechet_distance": relative_frechet_distance(VECTORS, OTHERS),
            },
        ),
        (
            "ngram_divergence",
            {"predictions": A, "reference": B[:3]},
            {"ngram_divergence": ngram_divergence(A, B[:3], 2)},
        ),
        (
            "ngram_divergence",
            {"predictions": ["ab", "b"], "reference": ["ab"], "n": 1, "unit": "character"},
            {"ngram_divergence": ngram_divergence(["a b", "b"], ["a b"], 1)},
        ),
        (
            "distinct_novelty",
            {"predictions": A, "reference": B},
            {"distinct_1": distinct_n(A, 1), "distinct_2": distinct_n(A, 2), "uniqueness": 1.0, "novelty": 0.75},
        ),
        ("levenshtein_diversity", {"predictions": ["ab", "abc", "xbc"]}, {"levenshtein_diversity": (1 + 2 + 1) / 3}),
        (
            "flip_accuracy",
            {"predictions": [1, 0, 1], "references": [1, 1, 1], "before": [0, 0, 1]},
            {"flip_accuracy": 2 / 3, "flip_accuracy_before": 1 / 3},
        ),
        ("bits_per_dimension", {"predictions": [math.log(2) * 6], "references": [3]}, {"bits_per_dimension": 2.0}),
        (
            "mauve",
            {"predictions": VECTORS.tolist(), "reference": OTHERS.tolist(), "num_clusters": 5},
            {"mauve": mauve(VECTORS, OTHERS, 5)},
        ),
    ],
)
def test_a_module_gives_what_its_function_gives(name, inputs, expected):
    result = load(name).compute(**inputs)
    assert result.keys() == expected.keys()
    for key, value in expected.items():
        assert result[key] == pytest.approx(value), key


def test_the_disentanglement_module_takes_latents_and_factors():
    latents, factors = _factors(80)
    result = load("disentanglement").compute(predictions=latents.tolist(), references=factors.tolist())
    assert result["mig"] == pytest.approx(mutual_information_gap(latents, factors))
    assert result["sap"] == pytest.approx(separated_attribute_predictability(latents, factors))
    assert result["completeness"] == pytest.approx(dci(latents, factors)["completeness"])


def test_every_metric_has_a_path_and_no_other_has():
    with pytest.raises(ValueError, match="`name` must be one of .*'mauve'"):
        metric_path("rouge")


# Against references


def test_bleu_is_sacrebleus():
    theirs = sacrebleu.metrics.BLEU(tokenize="none", force=True).corpus_score(A, [B]).score
    assert corpus_bleu(A, B) == pytest.approx(theirs)
    assert corpus_bleu(A, A) == pytest.approx(100) and exact_match(A, A) == 1


def test_frechet_is_the_matrix_square_roots_by_scipy():
    a, b = (np.cov(x, rowvar=False) for x in (VECTORS, OTHERS))
    means = np.sum((VECTORS.mean(0) - OTHERS.mean(0)) ** 2)
    expected = means + np.trace(a + b - 2 * sqrtm(a @ b).real)
    assert frechet_distance(VECTORS, OTHERS) == pytest.approx(expected)
    assert relative_frechet_distance(VECTORS, OTHERS) == pytest.approx(expected / np.trace(b))
    assert frechet_distance(VECTORS, VECTORS) == pytest.approx(0, abs=1e-9)


TEXTS = st.lists(st.sampled_from(["a", "b b", "a b", "c"]), min_size=1)


@given(TEXTS, TEXTS)
def test_ngram_divergence_is_the_square_of_scipys_distance(first, second):
    words = [[word for text in texts for word in [*text.split(), "</s>"]] for texts in (first, second)]
    counts = [[each.count(word) for word in ("a", "b", "c", "</s>")] for each in words]
    assert ngram_divergence(first, second, 1) == pytest.approx(jensenshannon(*counts, base=2) ** 2, abs=1e-7)


def test_diversity_is_the_mean_over_all_pairs():
    samples = ["ACD", "ACDE", "WW", "AC"]
    pairs = [Levenshtein.distance(a, b) for i, a in enumerate(samples) for b in samples[:i]]
    result = load("levenshtein_diversity").compute(predictions=samples)
    assert result["levenshtein_diversity"] == pytest.approx(np.mean(pairs))


def test_bits_per_dimension_of_a_gaussian_are_its_entropy():
    # -log2 of a standard Gaussian's density at its own draws: 1/2 log2(2 pi e)
    draws = np.random.default_rng(0).normal(size=(2000, 5))
    nats = (0.5 * np.log(2 * np.pi) + 0.5 * draws**2).sum(1)
    assert bits_per_dimension(nats, [5] * 2000) == pytest.approx(0.5 * math.log2(2 * math.pi * math.e), abs=0.02)
    assert bits_per_dimension([8 * math.log(2), math.log(2)], [2, 1]) == pytest.approx(3)  # of all, no mean of means


# MAUVE


def test_mauve_is_1_for_equal_and_the_closed_form_for_disjoint_histograms():
    histogram = np.array([1, 5, 3])
    assert mauve_of_histograms(histogram, 2 * histogram) == pytest.approx(1)
    # KL(q || r) = -log(1 - w): the curve ((1 - w)^c, w^c) has the area c B(c, c + 1) = (c!)^2 / (2 c)!
    expected = math.factorial(5) ** 2 / math.factorial(10)
    apart = mauve_of_histograms(np.array([4, 0]), np.array([0, 7]), num_mixtures=2000)
    assert apart == pytest.approx(expected, rel=1e-3)


def test_mauve_is_symmetric_and_uses_scipys_divergence():
    p, q = np.array([3, 4, 1, 0]), np.array([1, 1, 5, 2])
    assert mauve_of_histograms(p, q) == pytest.approx(mauve_of_histograms(q, p))
    curve = [(0.0, 1.0)]
    for weight in np.linspace(1e-6, 1 - 1e-6, 25)[::-1]:
        mixture = weight * p / 8 + (1 - weight) * q / 9
        curve.append((math.exp(-5 * entropy(q / 9, mixture)), math.exp(-5 * entropy(p / 8, mixture))))
    curve = np.array([*curve, (1.0, 0.0)])
    curve = curve[np.argsort(curve[:, 0])]
    assert mauve_of_histograms(p, q) == pytest.approx(trapezoid(curve[:, 1], curve[:, 0]), rel=1e-6)


def _clusters(seed, shares):
    """400 points of five groups that any clustering tells apart."""
    rng = np.random.default_rng(seed)
    return np.eye(8)[rng.choice(5, 400, p=shares)] * 10 + 0.2 * rng.normal(size=(400, 8))


# mauve-text 0.4.0 with faiss-cpu 1.15.1: compute_mauve(a, b, num_buckets=5).mauve; of histograms the area under
# get_divergence_curve_for_multinomials(p / sum(p), q / sum(q), linspace(1e-6, 1 - 1e-6, 25), 5), as it computes it
@pytest.mark.parametrize(
    ("shares", "expected"),
    [
        ([0.2, 0.2, 0.2, 0.2, 0.2], 0.9086810660197884),
        ([0.5, 0.2, 0.1, 0.1, 0.1], 0.9772881230910793),
        ([0.0, 0.0, 0.2, 0.3, 0.5], 0.11965947482384495),
    ],
)
def test_mauve_is_mauve_texts(shares, expected):
    reference = _clusters(1, [0.3, 0.3, 0.2, 0.1, 0.1])
    assert mauve(_clusters(0, shares), reference, 5) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(
    ("p", "q", "expected"),
    [
        ([3, 4, 1, 0], [1, 1, 5, 2], 0.21244078989654686),
        ([10, 0, 3], [0, 8, 4], 0.023318563583621908),
        ([20, 30, 50], [25, 25, 50], 0.9995801951428138),
    ],
)
def test_mauve_of_histograms_is_mauve_texts(p, q, expected):
    assert mauve_of_histograms(np.array(p), np.array(q)) == pytest.approx(expected, rel=1e-9)


def test_mauve_falls_as_two_samples_part():
    rng = np.random.default_rng(1)
    base = rng.normal(size=(300, 3)) + [4, 0, 0]
    scores = [mauve(rng.normal(size=(300, 3)) + [4, shift, 0], base, 10) for shift in (0.0, 1.5, 6.0)]
    assert scores[0] > 0.9 and scores[0] > scores[1] > scores[2] and scores[2] < 0.1


# Disentanglement


def _factors(num, seed=0):
    """Two factors of four classes, each in one of three latents; the third is noise."""
    rng = np.random.default_rng(seed)
    factors = rng.integers(0, 4, size=(num, 2))
    return np.concatenate([factors + 0.01 * rng.normal(size=(num, 2)), rng.normal(size=(num, 1))], axis=1), factors


def test_factors_in_one_latent_each_are_disentangled_and_mixed_ones_are_not():
    latents, factors = _factors(600)
    rotation = np.array([[1, 1, 0], [1, -1, 0], [0, 0, 1]]) / [2**0.5, 2**0.5, 1]
    clear, mixed = (disentanglement(each, factors) for each in (latents, latents @ rotation))
    assert min(clear["mig"], clear["disentanglement"], clear["completeness"], clear["informativeness"]) > 0.93
    assert clear["sap"] > 0.6  # 1 less the accuracy of guessing one of four
    assert mixed["mig"] < 0.2 and mixed["disentanglement"] < 0.4 and mixed["completeness"] < 0.6 and mixed["sap"] < 0.2


def test_dci_is_its_definition_by_scipys_entropy_of_scikit_learns_importances():
    latents, factors = _factors(300)
    latents = latents @ np.array([[1, 0.8, 0], [-0.6, 1, 0], [0, 0, 1]])
    rows = np.random.default_rng(0).permutation(300)
    train, test = rows[:225], rows[225:]
    trees = [
        GradientBoostingClassifier(n_estimators=20, random_state=0).fit(latents[train], factor[train])
        for factor in factors.T
    ]
    importances = np.array([tree.feature_importances_ for tree in trees]).T + 1e-12  # (latents, factors)
    by_latent = 1 - entropy(importances, base=2, axis=1)
    by_factor = 1 - entropy(importances, base=3, axis=0)
    accuracies = [tree.score(latents[test], factor[test]) for tree, factor in zip(trees, factors.T, strict=True)]
    expected = {
        "disentanglement": np.sum(by_latent * importances.sum(1)) / importances.sum(),
        "completeness": np.sum(by_factor * importances.sum(0)) / importances.sum(),
        "informativeness": np.mean(accuracies),
    }
    result = dci(latents, factors)
    assert 0.01 < result["disentanglement"] < 0.99 and result == pytest.approx(expected)


def test_the_gap_is_that_of_scipys_mutual_information():
    factors = np.random.default_rng(0).integers(0, 3, size=(500, 1))
    latents = np.stack([factors[:, 0] // 2, factors[:, 0] % 2], axis=1).astype(float)
    information = [
        # H(factor) + H(latent) - H(both), the latter known: the factor decides the latent
        entropy(np.bincount(column.astype(int)))
        for column in latents.T
    ]
    gap = abs(information[0] - information[1]) / entropy(np.bincount(factors[:, 0]))
    assert mutual_information_gap(latents, factors) == pytest.approx(gap)


def test_the_gap_is_the_share_of_the_entropy_that_one_latent_has_alone():
    factor = np.array([0, 0, 1, 1] * 25)
    same = np.stack([factor, factor], 1).astype(float)
    assert mutual_information_gap(same, factor[:, None]) == pytest.approx(0)
    alone = np.stack([factor, np.tile([0, 1], 50)], 1).astype(float)  # the second is independent of the factor
    assert mutual_information_gap(alone, factor[:, None]) == pytest.approx(1)


# Bad input


@pytest.mark.parametrize(
    "call",
    [
        lambda: corpus_bleu(A, B[:2]),
        lambda: flip_accuracy([], []),
        lambda: bits_per_dimension([1.0], [0]),
        lambda: mauve(VECTORS, OTHERS[:, :2]),
        lambda: mauve(VECTORS, OTHERS, 1),
        lambda: dci(VECTORS, np.zeros((60, 2), dtype=int)),
        lambda: mutual_information_gap(VECTORS[:, :1], np.arange(60)[:, None]),
        lambda: separated_attribute_predictability(VECTORS, np.arange(59)[:, None]),
        lambda: load("ngram_divergence").compute(predictions=A, reference=B, unit="syllable"),
        lambda: uniqueness([]),
        lambda: novelty("text", A),
    ],
)
def test_what_cannot_be_measured_is_refused(call):
    with pytest.raises(ValueError):
        call()
