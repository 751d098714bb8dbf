import itertools

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hf_eddpm.modalities.protein import ehrlich
from hf_eddpm.modalities.protein.ehrlich import EhrlichFunction
from hf_eddpm.modalities.protein.residues import AMINO_ACIDS

# A may be followed by A and C, C by C and D, D by D and A; motifs AC at distance 1 and DA at distance 2
SMALL = EhrlichFunction(
    np.array([[0.5, 0.5, 0], [0, 0.5, 0.5], [0.5, 0, 0.5]]),
    np.array([[0, 1], [2, 0]]),
    np.array([[0, 1], [0, 2]]),
    5,
    2,
)


@st.composite
def functions(draw):
    num_motifs, motif_length = draw(st.integers(1, 3)), draw(st.integers(1, 4))
    divisors = [level for level in range(1, motif_length + 1) if motif_length % level == 0]
    return EhrlichFunction.random(
        length=num_motifs * motif_length + draw(st.integers(0, 10)),
        num_motifs=num_motifs,
        motif_length=motif_length,
        quantization=draw(st.sampled_from(divisors)),
        num_states=draw(st.integers(2, 20)),
        seed=draw(st.integers(0, 2**16)),
    )


def test_a_small_function_has_the_values_worked_out_by_hand():
    # AC and D.A; AC and D.; nothing of AC but A, D.A; one residue of each motif
    assert SMALL(["ACDDA", "ACDDD", "DDAAA", "AAAAA"]).tolist() == [1.0, 0.5, 0.5, 0.25]
    # AD and CA are banned, W is unknown, and one is too short
    assert SMALL(["ADDDA", "ACCCA", "ACDDW", "ACDD"]).tolist() == [-np.inf] * 4
    coarse = EhrlichFunction(SMALL.transitions, SMALL.motifs, SMALL.spacings, 5, quantization=1)
    assert coarse(["ACDDA", "ACDDD"]).tolist() == [1.0, 0.0]
    assert SMALL.optimal_sequence() == "ACDDA"


def test_no_sequence_of_a_small_function_is_above_the_optimum():
    everything = ["".join(letters) for letters in itertools.product("ACD", repeat=5)]
    values = SMALL(everything)
    assert values.max() == 1
    # a place of a motif where every residue matches, looked for in the text itself
    full = [
        any(s[i : i + 2] == "AC" for i in range(4)) and any(s[i] + s[i + 2] == "DA" for i in range(3))
        for s in everything
    ]
    assert [value == 1 for value in values] == [
        is_full and feasible for is_full, feasible in zip(full, SMALL.is_feasible(everything), strict=True)
    ]


@given(functions())
def test_the_optimum_is_feasible_and_reached(function):
    assert function([function.optimal_sequence()]).tolist() == [1.0]


@given(functions(), st.integers(0, 2**16))
def test_values_are_products_of_the_levels_and_walks_are_feasible(function, seed):
    values = function(function.sample(20, seed))
    levels = np.arange(function.quantization + 1) / function.quantization
    products = {np.prod(chosen) for chosen in itertools.product(levels, repeat=len(function.motifs))}
    assert all(np.isclose(list(products), value).any() for value in values)


@given(functions())
def test_transitions_are_an_ergodic_chain_that_may_stay(function):
    transitions = function.transitions
    np.testing.assert_allclose(transitions.sum(axis=1), 1)
    assert (np.diag(transitions) > 0).all()
    assert (np.linalg.matrix_power(transitions, 2 * len(transitions)) > 0).all()
    if len(transitions) > 5:
        assert (transitions == 0).any(axis=1).all()


def test_walks_have_the_frequencies_of_the_transitions():
    function = EhrlichFunction.random(length=40, num_states=4, seed=1)
    counts = np.zeros((4, 4))
    for sequence in function.sample(2000, seed=0):
        states = [AMINO_ACIDS.index(residue) for residue in sequence]
        np.add.at(counts, (states[:-1], states[1:]), 1)
    np.testing.assert_allclose(counts / counts.sum(axis=1, keepdims=True), function.transitions, atol=0.02)


def test_the_seed_decides_and_a_saved_function_is_the_same(tmp_path):
    function = EhrlichFunction.random(seed=3)
    function.save(tmp_path / "function.json")
    loaded = EhrlichFunction.load(tmp_path / "function.json")
    sequences = function.sample(50, seed=1)
    assert loaded(sequences).tolist() == function(sequences).tolist()
    assert function.sample(50, seed=1) == sequences != function.sample(50, seed=2)
    assert EhrlichFunction.random(seed=4).optimal_sequence() != function.optimal_sequence()


def test_the_script_writes_a_function_and_its_values(tmp_path, capsys):
    words = "--length 12 --num_motifs 2 --motif_length 3 --quantization 1 --num_train 30 --num_validation 7".split()
    ehrlich.main(["--output_dir", str(tmp_path / "run"), *words])
    function = EhrlichFunction.load(tmp_path / "run" / "function.json")
    assert (function.length, function.motifs.shape, function.quantization) == (12, (2, 3), 1)
    for name, num in (("train", 30), ("validation", 7)):
        table = pd.read_csv(tmp_path / "run" / f"{name}.csv.gz", keep_default_na=False)
        assert len(table) == num
        np.testing.assert_array_equal(table.fitness, function(table.sequence.tolist()))
    assert "train: 30 sequences" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_states": 21}, r"`num_states` must be in \[2, 20\], got 21"),
        ({"length": 7}, "product at most `length` = 7"),
        ({"num_motifs": 0}, "`num_motifs` and `motif_length` must be at least 1"),
        ({"quantization": 3}, "`quantization` must divide the motif length 4, got 3"),
    ],
)
def test_impossible_functions_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        EhrlichFunction.random(**arguments)
    with pytest.raises(ValueError, match="`spacings` must ascend"):
        EhrlichFunction(SMALL.transitions, SMALL.motifs, np.array([[0, 1], [0, 0]]), 5, 2)
    with pytest.raises(ValueError, match="`length` must hold all motifs, that is 5 sites"):
        EhrlichFunction(SMALL.transitions, SMALL.motifs, SMALL.spacings, 4, 2)


@pytest.mark.slow
@pytest.mark.parametrize("quantization", [1, 2, 4])
def test_values_are_those_of_the_authors_implementation(quantization):
    torch = pytest.importorskip("torch")
    reference = pytest.importorskip("holo.test_functions.closed_form", reason="pytorch-holo is not installed").Ehrlich
    theirs = reference(num_states=20, dim=32, num_motifs=4, motif_length=4, quantization=quantization, random_seed=1)
    ours = EhrlichFunction(
        theirs.transition_matrix.double().numpy(),
        np.stack([motif.numpy() for motif in theirs.motifs]),
        np.stack([[0, *spacing.cumsum(0).tolist()] for spacing in theirs.spacings]),
        32,
        quantization,
    )
    rng = np.random.default_rng(0)
    states = np.concatenate([theirs.initial_solution(500).numpy(), np.tile(theirs.optimal_solution(), (500, 1))])
    states = np.where(rng.random(states.shape) < 0.03, rng.integers(0, 20, states.shape), states)
    expected = theirs.evaluate_true(torch.from_numpy(states)).numpy()
    letters = ["".join(AMINO_ACIDS[state] for state in row) for row in states]
    assert 0.1 < np.isfinite(expected).mean() < 0.9
    np.testing.assert_allclose(ours(letters), expected, rtol=1e-6)
