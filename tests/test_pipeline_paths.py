"""Paths whose points are spaced by what the data show."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hf_eddpm import EDDPMScheduler
from hf_eddpm.pipeline_paths import data_distance, perceptual_steps
from hf_eddpm.sampling import denoise_rows


def test_points_divide_the_way_between_the_ends_evenly():
    path = [Image.fromarray(np.full((2, 2), value, dtype=np.uint8)) for value in (0, 1, 2, 3, 40, 80, 90, 100)]
    assert perceptual_steps(path, 3) == [0, 4, 7]  # of a way of 100 the half is nearest to 40


def test_equal_neighbours_are_named_once_while_there_are_others():
    path = ["aa", "aa", "aa", "ab", "ab", "bb", "bb", "bb", "bb"]
    assert perceptual_steps(path, 3) == [0, 3, 5]


def test_a_path_with_few_different_points_repeats_them():
    chosen = [["x", "x", "y"][place] for place in perceptual_steps(["x", "x", "y"], 4)]
    assert chosen[0] == "x" and chosen[-1] == "y" and len(chosen) == 4


def test_a_path_of_one_datum_stays_where_it_is():
    assert perceptual_steps(["same"] * 9, 3) == [0, 0, 0]


@given(st.lists(st.text("ab", min_size=1, max_size=3), min_size=2, max_size=20), st.integers(2, 7))
def test_places_do_not_fall_and_include_the_ends(path, num_steps):
    places = perceptual_steps(path, num_steps)
    assert len(places) == num_steps and places == sorted(places)
    assert path[places[0]] == path[0] and path[places[-1]] == path[-1]
    runs = 1 + sum(first != second for first, second in zip(path, path[1:], strict=False))
    if runs >= num_steps:
        assert len(set(places)) == num_steps


@pytest.mark.parametrize(("first", "second", "distance"), [("abcd", "abcd", 0), ("abcd", "abxy", 0.5), ("a", "b", 1)])
def test_strings_are_as_far_apart_as_they_differ(first, second, distance):
    assert data_distance(first, second) == distance


def test_images_are_apart_by_the_root_mean_square():
    black, grey = (np.full((2, 2), value, dtype=np.uint8) for value in (0, 30))
    assert data_distance(black, grey) == 30


def _rows(*shape):
    return torch.randn(*shape, 2, 4, generator=torch.Generator().manual_seed(0))


def test_rows_come_to_what_the_denoiser_sees_in_them_each_from_its_own_level():
    scheduler = EDDPMScheduler(prediction_type="sample")
    rows, seen, asked = _rows(4, 3), torch.full((2, 4), 0.5), []

    def denoise(noisy, t):
        asked.append((len(noisy), int(t)))
        return seen.expand_as(noisy)

    levels = torch.tensor([0.0, 0.3, 0.9, 0.0])
    out = denoise_rows(denoise, scheduler, rows, levels, 50)
    assert torch.equal(out[[0, 3]], rows[[0, 3]])
    torch.testing.assert_close(out[1:3], seen.expand(2, 3, 2, 4))
    alpha_prod = scheduler.alphas_cumprod[asked[0][1]]
    assert ((1 - alpha_prod) / alpha_prod).sqrt() == pytest.approx(0.9, abs=0.05)  # 50 of 1,000 timesteps
    assert asked[0][0] == 3 and asked[-1][0] == 6  # data of one row at first, of both at last


def test_rows_of_gaussian_data_shrink_as_the_ode_says():
    # Of standard Gaussian data the noise expected in x_t is sqrt(1 - alpha_prod) x_t; the ODE then keeps x_t as it is.
    scheduler = EDDPMScheduler(prediction_type="epsilon", beta_schedule="squaredcos_cap_v2")
    rows, level = _rows(1, 5), 0.7
    out = denoise_rows(
        lambda noisy, t: (1 - scheduler.alphas_cumprod[t]).sqrt() * noisy, scheduler, rows, torch.tensor([level]), 1000
    )
    torch.testing.assert_close(out, rows / (1 + level**2) ** 0.5, rtol=0.01, atol=0.01)


def test_a_row_does_not_depend_on_the_others():
    scheduler = EDDPMScheduler(prediction_type="v_prediction")
    rows, levels = _rows(3, 2), torch.tensor([0.2, 0.5, 1.5])

    def denoise(which):
        return denoise_rows(lambda noisy, t: noisy.tanh(), scheduler, rows[which], levels[which], 200)

    together, alone = denoise(slice(None)), [denoise(slice(place, place + 1)) for place in range(3)]
    torch.testing.assert_close(together, torch.cat(alone))
    assert not torch.isclose(together, rows).all(dim=(1, 2, 3)).any()
