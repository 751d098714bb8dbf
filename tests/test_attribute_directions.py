import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from hf_eddpm import linear_direction, orthogonalize


def _two_sets(seed, dim=6, count=200):
    generator = torch.Generator().manual_seed(seed)
    normal = torch.nn.functional.normalize(torch.randn(dim, generator=generator), dim=0)
    points = torch.randn(count, dim, generator=generator)
    side = points @ normal > 0
    return normal, points[side].unsqueeze(1), points[~side].unsqueeze(1)


@given(seed=st.integers(0, 2**16))
def test_the_normal_of_a_separating_plane_is_found(seed):
    normal, positives, negatives = _two_sets(seed)
    direction = linear_direction(positives, negatives)
    assert direction.shape == (1, 6) and direction.dtype == torch.float32
    assert float(direction.norm()) == pytest.approx(1, abs=1e-5)
    assert float(direction.flatten() @ normal) > 0.95
    torch.testing.assert_close(linear_direction(negatives, positives), -direction, atol=1e-3, rtol=1e-3)


def test_what_goes_along_with_the_attribute_is_left_out():
    generator = torch.Generator().manual_seed(0)
    cause = torch.randn(2000, generator=generator)
    points = torch.stack([cause, cause + 0.5 * torch.randn(2000, generator=generator)], dim=1)
    positives, negatives = points[cause > 0], points[cause <= 0]
    mean = torch.nn.functional.normalize(positives.mean(0) - negatives.mean(0), dim=0)
    assert float(mean[0]) < 0.8
    assert float(linear_direction(positives, negatives)[0]) > 0.95


@given(seed=st.integers(0, 2**16), count=st.integers(1, 4))
def test_what_is_left_is_orthogonal_to_all_others(seed, count):
    generator = torch.Generator().manual_seed(seed)
    direction, *others = torch.randn(count + 1, 2, 4, generator=generator)
    others.append(2 * others[0])  # twice the same
    rest = orthogonalize(direction, others)
    for other in others:
        assert abs(float((rest * other).sum())) < 1e-4
    torch.testing.assert_close(orthogonalize(rest, others), rest, atol=1e-5, rtol=1e-5)
    assert float((rest * direction).sum()) == pytest.approx(float(rest.square().sum()), rel=1e-3)


@pytest.mark.parametrize(
    ("positives", "negatives", "message"),
    [
        (torch.zeros(0, 1, 2), torch.zeros(1, 1, 2), "same shape"),
        (torch.zeros(1, 1, 2), torch.zeros(1, 1, 3), "same shape"),
        (torch.full((1, 1, 2), float("nan")), torch.zeros(1, 1, 2), "finite"),
        (torch.ones(2, 1, 2), torch.ones(2, 1, 2), "must differ"),
    ],
)
def test_sets_without_a_direction_are_refused(positives, negatives, message):
    with pytest.raises(ValueError, match=message):
        linear_direction(positives, negatives)


def test_impossible_arguments_are_refused():
    with pytest.raises(ValueError, match="`weight_decay`"):
        linear_direction(torch.ones(1, 2), torch.zeros(1, 2), weight_decay=0.0)
    with pytest.raises(ValueError, match="`others` must all have the shape"):
        orthogonalize(torch.ones(1, 2), [torch.ones(2)])
    with pytest.raises(ValueError, match="leave something"):
        orthogonalize(torch.ones(1, 2), [torch.ones(1, 2)])
