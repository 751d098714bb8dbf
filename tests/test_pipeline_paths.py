"""Paths whose points are spaced by what the data show."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hf_eddpm.pipeline_paths import data_distance, perceptual_steps


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
