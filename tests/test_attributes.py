"""Attributes as regressions on latents, and the least edit that gives them."""

import numpy as np
import pytest
import torch
from conftest import SENTENCES
from hypothesis import given
from hypothesis import strategies as st
from images import tiny_image_pipe
from proteins import tiny_protein_pipe
from rapidfuzz.distance import Levenshtein
from sklearn.linear_model import LogisticRegression

from hf_eddpm import EDDPMTextProcessor, LinearAttribute
from hf_eddpm.control.attributes import fit_attribute, least_move
from hf_eddpm.undoing import EditJudge, give_back_unneeded, nearest, restorations


def _random_attributes(seed, count, shape=(2, 4)):
    generator = torch.Generator().manual_seed(seed)
    return [
        LinearAttribute(torch.randn(shape, generator=generator), float(torch.randn((), generator=generator)))
        for _ in range(count)
    ], generator


def test_the_fit_is_that_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    points = torch.randn(300, 2, 3, generator=generator) * torch.tensor([1.0, 3.0, 0.2]) + 2
    has_it = (points[:, 0, 0] + 0.5 * points[:, 1, 1] + torch.randn(300, generator=generator)) > 2.5
    attribute = fit_attribute(points[has_it], points[~has_it], weight_decay=0.02)
    flat = torch.cat([points[has_it], points[~has_it]]).flatten(1).double().numpy()
    labels = np.r_[np.ones(int(has_it.sum())), np.zeros(int((~has_it).sum()))]
    weights = np.where(labels == 1, 0.5 / labels.sum(), 0.5 / (1 - labels).sum())
    scaled = (flat - flat.mean(0)) / flat.std(0)
    reference = LogisticRegression(C=1 / 0.02, tol=1e-10, max_iter=10_000).fit(scaled, labels, weights)
    expected = reference.predict_proba(scaled)[:, 1]
    found = attribute.probability(torch.cat([points[has_it], points[~has_it]]))
    np.testing.assert_allclose(found.numpy(), expected, atol=1e-4)
    torch.testing.assert_close(attribute.opposite().probability(points), 1 - attribute.probability(points))


@given(seed=st.integers(0, 2**16), count=st.integers(1, 3), aim=st.floats(-2, 5))
def test_a_move_reaches_the_odds_and_no_shorter_one_does(seed, count, aim):
    attributes, generator = _random_attributes(seed, count)
    latents = torch.randn(5, 2, 4, generator=generator)
    moved = least_move(latents, attributes, aim)
    for attribute in attributes:
        expected = attribute.log_odds(latents).clamp(min=aim)
        torch.testing.assert_close(attribute.log_odds(moved), expected, atol=1e-3, rtol=1e-3)
    # the shortest move has no part that changes none of the odds
    normals = torch.stack([attribute.weights.flatten() for attribute in attributes]).double()
    steps = (moved - latents).flatten(1).double()
    inside = steps @ torch.linalg.pinv(normals) @ normals
    torch.testing.assert_close(steps, inside, atol=1e-4, rtol=1e-3)


def test_attributes_that_contradict_each_other_are_refused():
    (attribute,), _ = _random_attributes(0, 1)
    for other in (attribute, attribute.opposite()):
        with pytest.raises(ValueError, match="`attributes` must be independent"):
            least_move(torch.zeros(1, 2, 4), [attribute, other], 1.0)


def _judge(pipe, attribute):
    return EditJudge(pipe.model, pipe.processor, lambda data: pipe.encode(data).latents, [attribute])


def _attempts(pipe, attribute, sentence, probability, count):
    """Each attempt at a sentence with its probability, what it does not need given back."""
    start = pipe.encode([sentence]).latents
    lowest = float(torch.logit(torch.tensor(probability)))
    tries = []
    for aim in torch.linspace(lowest, 6.0, count).tolist():
        decoded = pipe.decode(least_move(start, [attribute], aim))
        decoded = give_back_unneeded(pipe.processor, _judge(pipe, attribute), [sentence], decoded, probability)[0]
        sure = float(attribute.probability(pipe.encode([decoded]).latents)) if decoded.strip() else 0.0
        tries.append((decoded, sure))
    return tries


def test_an_edit_stops_at_the_first_attempt_that_is_sure_enough(pipe):
    attribute = pipe.attribute(SENTENCES[:3], SENTENCES[3:6])
    out = pipe.edit_to(SENTENCES[2:5], attribute, probability=0.6, num_attempts=3, max_log_odds=6.0, give_back=True)
    for row, (sample, found, reached) in enumerate(zip(out.samples, out.probabilities, out.reached, strict=True)):
        tries = _attempts(pipe, attribute, SENTENCES[2 + row], 0.6, 3)
        good = [pair for pair in tries if pair[1] >= 0.6]
        expected = good[0] if good else max(tries, key=lambda pair: pair[1])
        assert (sample, bool(reached)) == (expected[0], bool(good))
        assert float(found) == pytest.approx(expected[1], abs=1e-4)


def test_of_several_attempts_the_one_that_keeps_most_is_chosen(pipe):
    attribute = pipe.attribute(SENTENCES[:3], SENTENCES[3:6])
    options = {"probability": 0.6, "num_attempts": 3, "max_log_odds": 6.0, "give_back": True}
    out = pipe.edit_to(SENTENCES[2:5], attribute, num_candidates=3, **options)
    for sentence, sample, reached in zip(SENTENCES[2:5], out.samples, out.reached, strict=True):
        good = [text for text, sure in _attempts(pipe, attribute, sentence, 0.6, 3) if sure >= 0.6]
        assert bool(reached) == bool(good)
        if good:
            assert sample == nearest(pipe.processor, _judge(pipe, attribute), sentence, good)


def test_data_that_have_the_attribute_stay_as_they_are(pipe):
    attribute = pipe.attribute(SENTENCES[:3], SENTENCES[3:6])
    again = pipe.reconstruct(SENTENCES[:3])
    sure = attribute.probability(pipe.encode(again).latents).min()
    before = attribute.probability(pipe.encode(SENTENCES[:3]).latents).min()
    out = pipe.edit_to(SENTENCES[:3], attribute, probability=0.9 * float(min(sure, before)), give_back=True)
    assert out.samples == SENTENCES[:3] and out.reached.all()


class _WordJudge:
    """Likes some words: the more of them, the likelier the attribute; it doubts long words."""

    def __init__(self, liked, allowed=64):
        self.liked, self.allowed = liked, allowed

    def probabilities(self, texts):
        return torch.tensor([[sum(text.split().count(word) for word in self.liked) / 4] for text in texts])

    def doubts(self, texts):
        return [max(map(len, text.split())) for text in texts]

    def whole(self, texts):
        return [0 < len(text.split()) <= self.allowed for text in texts]


class _Words:
    """What a text processor takes apart, without a tokenizer."""

    @staticmethod
    def units(text):
        return EDDPMTextProcessor.units(None, text)


WORDS = st.lists(st.sampled_from("a bb ccc good great the".split()), min_size=1, max_size=8).map(" ".join)


@given(before=WORDS, after=WORDS, probability=st.sampled_from([0.25, 0.5]))
def test_what_is_given_back_was_not_needed_and_what_is_left_is(before, after, probability):
    judge = _WordJudge(["good", "great"])

    def sure(text):
        return float(judge.probabilities([text])[0])

    (found,) = give_back_unneeded(_Words, judge, [before], [after], probability)
    units = [_Words.units(text) for text in (before, after, found)]
    if sure(after) < probability:
        assert found == after
        return
    assert sure(found) >= probability
    assert Levenshtein.distance(units[0], units[2]) <= Levenshtein.distance(units[0], units[1])
    for fewer in restorations(units[0], units[2]):
        text = "".join(fewer).strip()
        nearer = Levenshtein.distance(units[0], _Words.units(text)) < Levenshtein.distance(units[0], units[2])
        assert not (text and nearer and sure(text) >= probability)


@given(before=st.text("ACD", max_size=8), after=st.text("ACD", max_size=8))
def test_every_restoration_is_nearer(before, after):
    distance = Levenshtein.distance(before, after)
    found = restorations(list(before), list(after))
    assert bool(found) == (before != after)
    assert all(Levenshtein.distance(before, "".join(units)) < distance for units in found)


@given(text=st.text(max_size=40))
def test_words_make_up_the_text(text):
    assert "".join(_Words.units(text)) == text


def test_words_are_whole():
    units = _Words.units("I don't like it, Anna-Maria ; not at all!  ")
    assert units == ["I", " don't", " like", " it", ",", " Anna-Maria", " ;", " not", " at", " all", "!", "  "]


def test_a_restoration_that_would_be_cut_is_not_made():
    judge = _WordJudge(["good"], allowed=3)
    assert give_back_unneeded(_Words, judge, ["the the the bb"], ["the good bb"], 0.25) == ["the good bb"]


def test_nothing_is_given_back_unless_that_is_asked_for(pipe):
    attribute = pipe.attribute(SENTENCES[:3], SENTENCES[3:6])
    out = pipe.edit_to(SENTENCES[:3], attribute, probability=0.01)
    start = pipe.encode(SENTENCES[:3]).latents
    assert out.samples == pipe.decode(least_move(start, [attribute], float(np.log(0.01 / 0.99))))


def test_of_proteins_residues_are_given_back():
    pipe = tiny_protein_pipe()
    proteins = ["ACDEFGHI", "LKIHGFED", "AAAAGGGG", "GGGGAAAA"]
    attribute = pipe.attribute(proteins[:2], proteins[2:])
    out = pipe.edit_to(proteins, attribute, probability=0.5, give_back=True)
    judge = _judge(pipe, attribute)
    for before, after, reached in zip(proteins, out.samples, out.reached, strict=True):
        if reached:
            fewer = ["".join(units) for units in restorations(list(before), list(after))]
            assert (judge.probabilities(fewer) < 0.5).all()


def test_images_have_no_words_to_give_back():
    image_pipe, images = tiny_image_pipe(), list(np.random.default_rng(0).random((4, 8, 8)))
    attribute = image_pipe.attribute(images[:2], images[2:])
    assert len(image_pipe.edit_to(images, attribute, probability=0.5).samples) == 4
    with pytest.raises(ValueError, match="`num_candidates` must be 1"):
        image_pipe.edit_to(images, attribute, num_candidates=2)
    with pytest.raises(ValueError, match="`give_back` must be False"):
        image_pipe.edit_to(images, attribute, give_back=True)


def test_what_is_not_reached_is_said(pipe, caplog):
    attribute = pipe.attribute(SENTENCES[:3], SENTENCES[3:6])
    out = pipe.edit_to(SENTENCES, attribute, probability=1 - 1e-6, num_attempts=1, max_log_odds=20.0)
    missed = int((~out.reached).sum())
    assert missed and f"{missed} of {len(SENTENCES)} data did not reach" in caplog.text
    assert len(out.samples) == len(SENTENCES) and None not in out.samples


def test_two_attributes_at_once(pipe):
    first = pipe.attribute(SENTENCES[:3], SENTENCES[3:6])
    second = pipe.attribute(SENTENCES[::2], SENTENCES[1::2])
    out = pipe.edit_to(SENTENCES, [first, second.opposite()], probability=0.5, num_attempts=3)
    assert out.probabilities.shape == (len(SENTENCES), 2)
    torch.testing.assert_close(out.reached, (out.probabilities >= 0.5).all(1))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"attributes": []}, "`attributes` must hold at least one"),
        ({"attributes": "positive"}, "`attributes` must be"),
        ({"probability": 1.0}, r"`probability` must be in \(0, 1\), got 1"),
        (
            {"probability": 0.9, "max_log_odds": 2.0},
            r"`max_log_odds` must be above the log odds of `probability`, 2.2",
        ),
        ({"num_candidates": 0}, "`num_candidates` must be an integer of at least 1"),
        ({"num_attempts": 0}, "`num_attempts` must be an integer of at least 1"),
        ({"num_return_sequences": 2, "do_sample": True}, "`num_return_sequences` must be 1"),
        ({"attributes": LinearAttribute(torch.zeros(3, 3), 0.0)}, "weights"),
    ],
)
def test_wrong_arguments_are_named(pipe, arguments, message):
    values = {"attributes": pipe.attribute(SENTENCES[:3], SENTENCES[3:6]), **arguments}
    with pytest.raises((TypeError, ValueError), match=message):
        pipe.edit_to(SENTENCES, **values)
