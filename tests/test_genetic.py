import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_eddpm.modalities.protein.ehrlich import EhrlichFunction
from hf_eddpm.modalities.protein.genetic import genetic_algorithm
from hf_eddpm.modalities.protein.residues import AMINO_ACIDS

TARGET = "ACDEFGHIKL"


def _matches(sequences):
    return np.array([sum(a == b for a, b in zip(sequence, TARGET, strict=False)) for sequence in sequences], float)


class Counted:
    """An oracle that remembers what it was asked."""

    def __init__(self, oracle):
        self.oracle, self.asked = oracle, []

    def __call__(self, sequences):
        self.asked += sequences
        return self.oracle(sequences)


@given(
    st.integers(0, 40), st.integers(1, 20), st.integers(1, 8), st.floats(1, 4), st.floats(0, 1), st.integers(0, 2**16)
)
def test_the_budget_is_never_exceeded_and_calls_are_counted(extra, size, parents, mutations, crossover, seed):
    starts = ["WWWWW", "YYYY", "WWWWW", "ACDEF"]
    oracle = Counted(_matches)
    result = genetic_algorithm(oracle, starts, 3 + extra, size, parents, mutations, crossover, seed=seed)
    assert result.num_calls == len(oracle.asked) == len(set(oracle.asked)) == 3 + extra
    assert result.sequences == oracle.asked and result.sequences[:3] == ["WWWWW", "YYYY", "ACDEF"]
    np.testing.assert_array_equal(result.scores, _matches(result.sequences))
    assert {len(sequence) for sequence in result.sequences} <= {4, 5}
    assert set("".join(result.sequences)) <= set(AMINO_ACIDS)


@given(st.sets(st.integers(0, 12), max_size=8), st.integers(0, 2**16))
def test_frozen_positions_never_change(frozen, seed):
    start = "WWYYWWYYWW"
    result = genetic_algorithm(_matches, [start, "YYWWYYWWYY"], 60, 10, frozen_positions=frozen, seed=seed)
    allowed = {tuple(s[site] for site in sorted(frozen) if site < 10) for s in (start, "YYWWYYWWYY")}
    assert {tuple(s[site] for site in sorted(frozen) if site < 10) for s in result.sequences} <= allowed


def test_the_seed_decides():
    runs = [genetic_algorithm(_matches, ["WWWWWWWWWW"], 200, seed=seed).sequences for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


def test_it_finds_the_optimum_of_a_smooth_function_and_random_mutants_do_not():
    result = genetic_algorithm(_matches, ["WWWWWWWWWW"], 4000, seed=0)
    assert result.best(1) == [TARGET]
    blind = genetic_algorithm(lambda sequences: np.zeros(len(sequences)), ["WWWWWWWWWW"], 4000, seed=0)
    assert _matches(blind.sequences).max() < 8


def test_it_climbs_an_ehrlich_function_through_infeasible_children():
    function = EhrlichFunction.random(length=16, num_motifs=2, motif_length=2, seed=0)
    starts = [start for start in function.sample(50, seed=0) if function([start])[0] < 0.5]
    result = genetic_algorithm(function, starts, 3000, seed=0)
    assert np.isinf(result.scores).any()
    assert result.scores.max() == 1


def test_the_best_are_in_order_and_the_starts_can_be_left_out():
    result = genetic_algorithm(_matches, [TARGET, "WWWWWWWWWW"], 300, seed=0)
    best = result.best(20)
    assert best[0] == TARGET and (np.diff(_matches(best)) <= 0).all()
    assert TARGET not in result.best(300, without=[TARGET]) and len(result.best(300, without=[TARGET])) == 299


def test_a_space_that_is_exhausted_ends_the_run():
    result = genetic_algorithm(_matches, ["A"], 100, seed=0)
    assert sorted(result.sequences) == sorted(AMINO_ACIDS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"starts": []}, "`starts` must hold at least one"),
        ({"starts": ["AC", ""]}, "none may be empty"),
        ({"budget": 1}, "`budget` must be at least the number of different starts, 2, got 1"),
        ({"num_parents": 0}, "`population_size` and `num_parents`"),
        ({"mutations_per_child": 0.5}, "`mutations_per_child` must be at least 1"),
        ({"crossover_probability": 1.5}, r"`crossover_probability` in \[0, 1\]"),
        ({"frozen_positions": [0, 1]}, "`frozen_positions` must leave at least one site of each start free"),
    ],
)
def test_bad_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        genetic_algorithm(_matches, **{"starts": ["AC", "WY"], "budget": 10, **arguments})
