"""Attributes as regressions on latents, and the least edit that gives them."""

import numpy as np
import pytest
import torch
from conftest import SENTENCES
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from hf_eddpm import LinearAttribute
from hf_eddpm.control.attributes import fit_attribute, least_move


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


def test_an_edit_stops_at_the_first_attempt_that_is_sure_enough(pipe):
    attribute = pipe.attribute(SENTENCES[:3], SENTENCES[3:6])
    out = pipe.edit_to(SENTENCES, attribute, probability=0.6, num_attempts=5, max_log_odds=6.0)
    start = pipe.encode(SENTENCES).latents
    lowest = float(torch.logit(torch.tensor(0.6)))
    for row, (sample, found, reached) in enumerate(zip(out.samples, out.probabilities, out.reached, strict=True)):
        tries = []
        for aim in torch.linspace(lowest, 6.0, 5).tolist():
            decoded = pipe.decode(least_move(start[row : row + 1], [attribute], aim))[0]
            sure = float(attribute.probability(pipe.encode([decoded]).latents)) if decoded.strip() else 0.0
            tries.append((decoded, sure))
        good = [pair for pair in tries if pair[1] >= 0.6]
        expected = good[0] if good else max(tries, key=lambda pair: pair[1])
        assert (sample, bool(reached)) == (expected[0], bool(good))
        assert float(found) == pytest.approx(expected[1], abs=1e-4)


def test_data_that_have_the_attribute_are_reconstructed(pipe):
    attribute = pipe.attribute(SENTENCES[:3], SENTENCES[3:6])
    again = pipe.reconstruct(SENTENCES[:3])
    sure = attribute.probability(pipe.encode(again).latents).min()
    before = attribute.probability(pipe.encode(SENTENCES[:3]).latents).min()
    probability = 0.9 * float(min(sure, before))
    out = pipe.edit_to(SENTENCES[:3], attribute, probability=probability)
    assert out.samples == again and out.reached.all()


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
        ({"num_attempts": 0}, "`num_attempts` must be an integer of at least 1"),
        ({"num_return_sequences": 2, "do_sample": True}, "`num_return_sequences` must be 1"),
        ({"attributes": LinearAttribute(torch.zeros(3, 3), 0.0)}, "weights"),
    ],
)
def test_wrong_arguments_are_named(pipe, arguments, message):
    values = {"attributes": pipe.attribute(SENTENCES[:3], SENTENCES[3:6]), **arguments}
    with pytest.raises((TypeError, ValueError), match=message):
        pipe.edit_to(SENTENCES, **values)
