import math
from collections import Counter
from itertools import product

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.linalg import sqrtm
from scipy.spatial.distance import jensenshannon

from hf_eddpm.metrics.distinct_novelty import distinct_n, novelty, uniqueness
from hf_eddpm.metrics.ngram_divergence import ngram_divergence
from hf_eddpm.metrics.reconstruction_bleu import corpus_bleu, exact_match
from hf_eddpm.modalities.text.metrics import (
    END,
    START,
    TrigramModel,
    fit_text_classifier,
    latent_frechet,
    length_distance,
    linear_probe_accuracy,
    path_smoothness,
    reverse_perplexity,
)

sentence_lists = st.lists(st.lists(st.sampled_from("abcd"), max_size=6).map(" ".join), min_size=1, max_size=8)


def test_bleu_has_the_value_worked_out_by_hand():
    # precisions 4/5, 3/4, 2/3, 1/2 and no brevity penalty
    expected = 100 * (4 / 5 * 3 / 4 * 2 / 3 * 1 / 2) ** 0.25
    assert corpus_bleu(["a b c d e"], ["a b c d f"]) == pytest.approx(expected)
    assert corpus_bleu(["a b c d e"], ["a b c d e"]) == pytest.approx(100)
    # four words where there should be eight: all precisions 1, brevity penalty exp(1 - 8 / 4)
    assert corpus_bleu(["a b c d"], ["a b c d e f g h"]) == pytest.approx(100 * math.exp(-1))


def test_exact_match_compares_words():
    assert exact_match(["a b", " a  b ", "a", ""], ["a b", "a b", "b", ""]) == 0.75


def test_statistics_of_one_text_count_as_defined():
    text = ["a b a", "a b a", "c", ""]
    assert distinct_n(text, 1) == 3 / 7
    assert distinct_n(text, 2) == 2 / 4
    assert distinct_n(["c"], 2) == 0.0
    assert uniqueness(text) == 3 / 4
    assert novelty(text, ["a  b a", "d"]) == 2 / 4


def test_length_distance_is_in_words():
    assert length_distance(["a", "a b"], ["a b c", "a b c d"]) == pytest.approx(2)
    assert length_distance(["a b", "c"], ["d", "e f"]) == 0


def test_ngram_divergence_equals_scipy():
    p = [2 / 5, 1 / 5, 0, 2 / 5]  # a, b, c and the end mark in "a b" and "a"
    q = [0, 1 / 4, 2 / 4, 1 / 4]  # and in "b c c"
    expected = jensenshannon(p, q, base=2) ** 2
    assert ngram_divergence(["a b", "a"], ["b c c"], 1) == pytest.approx(expected)


@given(sentence_lists, sentence_lists, st.integers(1, 3))
def test_ngram_divergence_is_a_bounded_symmetric_distance(first, second, n):
    divergence = ngram_divergence(first, second, n)
    assert 0 <= divergence <= 1
    assert divergence == pytest.approx(ngram_divergence(second, first, n), abs=1e-12)
    assert ngram_divergence(first, first, n) == pytest.approx(0, abs=1e-12)
    assert ngram_divergence(first, first + first, n) == pytest.approx(0, abs=1e-12)


def test_bigrams_that_share_nothing_are_one_bit_apart():
    assert ngram_divergence(["a a"], ["b"], 2) == pytest.approx(1)


def test_trigram_model_has_the_probabilities_worked_out_by_hand():
    model = TrigramModel.fit(["a b", "a c"])
    # Unigrams count the words they follow: a, b, c one each; END two (b and c). Three seen once, one twice: D = 3/5.
    # Five kinds of word: a, b, c, END, unknown.
    uniform, discount = 1 / 5, 3 / (3 + 2 * 1)
    unigram_b = (1 - discount + discount * 4 * uniform) / 5
    unknown = discount * 4 * uniform / 5
    assert model.probability("b") == pytest.approx(unigram_b)
    assert model.probability("never seen") == pytest.approx(unknown)
    # Bigrams: (START, a) by its count 2; (a, b), (a, c), (b, END), (c, END) follow one word each: D = 4/6.
    discount = 4 / (4 + 2 * 1)
    bigram_b = (1 - discount + discount * 2 * unigram_b) / 2
    assert model.probability("b", ["a"]) == pytest.approx(bigram_b)
    # Trigrams: four seen once and none twice, so the discount is the usual 0.75.
    trigram_b = (1 - 0.75 + 0.75 * 2 * bigram_b) / 2
    assert model.probability("b", [START, "a"]) == pytest.approx(trigram_b)
    # an unseen context falls back to the next shorter one that was seen
    assert model.probability("b", ["c", "a"]) == pytest.approx(bigram_b)
    assert model.probability("b", ["a", "never seen"]) == pytest.approx(unigram_b)


@given(sentence_lists, st.lists(st.sampled_from("abcdx"), max_size=2), st.booleans())
def test_trigram_probabilities_sum_to_one(sentences, context, starts):
    model = TrigramModel.fit(sentences)
    words = sorted({word for sentence in sentences for word in sentence.split()})
    context = [START, *context] if starts else context
    total = sum(model.probability(word, context) for word in [*words, END, "never seen"])
    assert total == pytest.approx(1)


@given(sentence_lists, st.integers(0, 50))
def test_a_larger_vocabulary_shares_the_mass_of_unknown_words(sentences, num_more):
    known = {word for sentence in sentences for word in sentence.split()}
    model = TrigramModel.fit(sentences, vocabulary_size=len(known) + 2 + num_more)
    total = sum(model.probability(word) for word in [*known, END])
    assert total + (1 + num_more) * model.probability("never seen") == pytest.approx(1)


def test_reverse_perplexity_sees_bland_text_that_perplexity_prefers():
    foods, verdicts = ["soup", "bread", "fish", "cake"], ["good", "bad", "cold", "late"]
    real = [f"the {food} was {verdict} ." for food in foods for verdict in verdicts]
    bland = ["the soup was good ."] * len(real)
    judge = TrigramModel.fit(real)
    size = judge.vocabulary_size
    assert judge.perplexity(bland) <= judge.perplexity(real) + 1e-9
    assert reverse_perplexity(bland, real, size) > 2 * reverse_perplexity(real, real, size)
    assert reverse_perplexity(real, real, size) == pytest.approx(judge.perplexity(real))


@given(sentence_lists)
def test_trigram_probabilities_of_known_sentences_sum_to_at_most_one(sentences):
    model = TrigramModel.fit(sentences)
    known = {word for sentence in sentences for word in sentence.split()}
    short = [" ".join(words) for length in range(4) for words in product(known, repeat=length)]
    total = sum(model.perplexity([sentence]) ** -(len(sentence.split()) + 1) for sentence in short)
    assert 0 < total <= 1 + 1e-9


def test_perplexity_is_per_token_with_the_end_of_each_sentence():
    model = TrigramModel.fit(["a b", "a c", "a b c"])
    probabilities = [
        model.probability("a", [START]),
        model.probability("b", [START, "a"]),
        model.probability(END, ["a", "b"]),
        model.probability(END, [START]),
    ]
    assert model.perplexity(["a b", ""]) == pytest.approx(math.prod(probabilities) ** (-1 / 4))


def test_perplexity_ranks_real_order_before_shuffled_before_unknown_words():
    train = ["the food was good .", "the staff was nice .", "the food was cold .", "i like the staff ."]
    model = TrigramModel.fit(train)
    real, shuffled, unknown = (
        model.perplexity([sentence])
        for sentence in ("the staff was good .", "good was . staff the", "xyz qrs tuv wxy zzz")
    )
    assert real < shuffled < unknown


def test_latent_frechet_has_the_closed_form_of_gaussians():
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(50, 4)) * [1, 2, 3, 4] + 1, rng.normal(size=(60, 4))
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    distance = np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(cov_a + cov_b - 2 * sqrtm(cov_a @ cov_b).real)
    assert latent_frechet(a, b) == pytest.approx(distance / np.trace(cov_b))
    assert latent_frechet(10 * a, 10 * b) == pytest.approx(latent_frechet(a, b))
    assert latent_frechet(b, b) == pytest.approx(0, abs=1e-9)
    assert latent_frechet(b + 0.5, b) == pytest.approx(4 * 0.25 / np.trace(cov_b))
    assert latent_frechet(np.repeat(b.mean(0, keepdims=True), 5, axis=0), b) == pytest.approx(1)
    # a singular covariance: more dimensions than latents
    wide = rng.normal(size=(5, 20))
    assert latent_frechet(wide, wide) == pytest.approx(0, abs=1e-6)


def test_path_smoothness_tells_an_even_path_from_a_jump():
    even = ["a a a", "b a a", "b b a", "b b b"]
    jump = ["a a a", "a a a", "b b b", "b b b"]
    detour = ["a a a", "c c c", "c c c", "b b b"]
    assert path_smoothness([even]).path_length == 1
    assert path_smoothness([even]).largest_step == pytest.approx(1 / 3)
    assert (path_smoothness([jump]).path_length, path_smoothness([jump]).largest_step) == (1, 1)
    assert (path_smoothness([detour]).path_length, path_smoothness([detour]).largest_step) == (2, 1)
    both = path_smoothness([even, detour, ["a", "b", "a"]])  # the last has no distance between its ends
    assert (both.path_length, both.num_paths) == (1.5, 2)


@given(st.lists(sentence_lists.filter(lambda path: path[0] != path[-1]), min_size=1, max_size=4))
def test_no_path_is_shorter_than_the_straight_one(paths):
    smoothness = path_smoothness(paths)
    assert smoothness.path_length >= 1
    assert smoothness.largest_step >= 1 / (max(map(len, paths)) - 1) - 1e-12


def test_linear_probe_finds_a_linear_label_and_no_other():
    rng = np.random.default_rng(0)
    embeddings = rng.normal(size=(400, 5)) * [1, 100, 1e-3, 1, 1]  # standardisation makes the small one count
    linear, noise = (embeddings[:, 2] > 0).astype(int), rng.integers(0, 2, 400)
    train, test = slice(0, 300), slice(300, None)
    assert linear_probe_accuracy(embeddings[train], linear[train], embeddings[test], linear[test]) > 0.95
    assert abs(linear_probe_accuracy(embeddings[train], noise[train], embeddings[test], noise[test]) - 0.5) < 0.15


def test_text_classifier_uses_word_pairs_and_punctuation():
    good = ["not bad !", "was good !", "good , not bad !"] * 3
    bad = ["not good :(", "was bad :(", "bad , not good :("] * 3
    classifier = fit_text_classifier(good + bad, [1] * 9 + [0] * 9)
    assert classifier.predict(["not bad", "not good", ":("]).tolist() == [1, 0, 0]
    assert classifier.score(good + bad, [1] * 9 + [0] * 9) == 1


def test_bad_input_is_refused():
    for measure in (uniqueness, TrigramModel.fit, TrigramModel([Counter()] * 3, 2).perplexity):
        for sentences in ([], "a string"):
            with pytest.raises(ValueError, match="`sentences` must be"):
                measure(sentences)
    with pytest.raises(ValueError, match="same length"):
        corpus_bleu(["a"], ["a", "b"])
    with pytest.raises(ValueError, match="`vocabulary_size` must be at least 4"):
        TrigramModel.fit(["a b"], vocabulary_size=3)
    with pytest.raises(ValueError, match="`n` must be at least 1"):
        distinct_n(["a"], 0)
    with pytest.raises(ValueError, match=r"shape \(at least 2, dim\)"):
        latent_frechet(np.zeros((3, 2)), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="no variance"):
        latent_frechet(np.zeros((3, 2)), np.ones((3, 2)))


def test_paths_that_end_where_they_start_have_no_measure():
    smoothness = path_smoothness([["a", "b", "a"]])
    assert (smoothness.path_length, smoothness.largest_step, smoothness.num_paths) == (None, None, 0)
