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
