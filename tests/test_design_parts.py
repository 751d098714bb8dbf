"""The parts of a design: tables of measurements, limits, judges, and the choice of a batch."""

import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from hf_eddpm import EDDPMProteinProcessor
from hf_eddpm.design.alignment import align, aligned_frames, write_alignment
from hf_eddpm.design.candidates import Pool, Sources, list_edits, mutate, propose, recombine
from hf_eddpm.design.convolution import ConvolutionalNetworks
from hf_eddpm.design.goals import Goal
from hf_eddpm.design.judges import ProcessJudge, RankScores
from hf_eddpm.design.kernel import Inputs, SequenceProcess
from hf_eddpm.design.limits import DesignLimits
from hf_eddpm.design.measurements import check_measurements
from hf_eddpm.design.selection import select_batch
from hf_eddpm.modalities.protein.metrics import to_frames
from hf_eddpm.modalities.protein.residues import AMINO_ACIDS

AS_LIST = EDDPMProteinProcessor(6).as_list
FRAME = EDDPMProteinProcessor(6, min_length=6).as_list
variants = st.text(AMINO_ACIDS, min_size=6, max_size=6)


def table(sequences, values, as_list=AS_LIST):
    return check_measurements(sequences, values, as_list)


def random_variants(num, rng, length=6, letters=AMINO_ACIDS):
    return ["".join(row) for row in rng.choice(list(letters), (num, length))]


# ---- measurements


def test_replicates_are_averaged_and_their_variance_is_pooled():
    measured = table(["ACD", "WYF", "ACD", "ACD", "WYF"], [1.0, 5.0, 2.0, 3.0, 7.0])
    assert measured.sequences == ["ACD", "WYF"]
    np.testing.assert_allclose(measured.values[:, 0], [2, 6])
    np.testing.assert_array_equal(measured.counts[:, 0], [3, 2])
    assert measured.replicate_variance[0] == pytest.approx((1 + 0 + 1 + 1 + 1) / 3)  # 5 rows less 2 means
    assert any("2 sequences stand in several rows" in note and "first in row 1" in note for note in measured.notes)


def test_rows_without_a_measurement_are_left_out_and_said():
    measured = table(["ACD", "WYF", "AAA"], [1.0, None, "2"])
    assert measured.sequences == ["ACD", "AAA"]
    assert "1 rows without a measurement are left out: row 2." in measured.notes


@pytest.mark.parametrize(
    ("sequences", "values", "message"),
    [
        (["ACD", "WYF"], [1.0, "high"], "Row 2, column 'property 0' of `values` must hold a finite number.*'high'"),
        (["ACD", "WYF"], [1.0, math.inf], "Row 2, column 'property 0'.*inf"),
        (["ACD", "WYF"], {"binding": [1.0, True]}, "Row 2, column 'binding'.*True"),
        (["ACD", "WY*"], [1.0, 2.0], r"Row 2 of `measured`.*'\*' is a stop codon"),
        (["ABD", "WYF"], [1.0, 2.0], "Row 1 of `measured`.*'B' is D or N"),
        (["ACD", "WYZ"], [1.0, 2.0], "Row 2 of `measured`.*'Z' is E or Q"),
        (["ACD", "WYJ"], [1.0, 2.0], "Row 2 of `measured`.*'J' is I or L"),
        (["ACD", "WYO"], [1.0, 2.0], "Row 2 of `measured`.*'O' is pyrrolysine"),
        (["ACD", ""], [1.0, 2.0], "Row 2 of `measured` must hold proteins of 1 to 6 residues, got 0"),
        (["ACD", "WYU"], [1.0, 2.0], "Row 2 of `measured`.*'U' is selenocysteine"),
        (["ACD", "wyf"], [1.0, 2.0], "Row 2 of `measured`.*upper_case"),
        (["ACD", "W-F"], [1.0, 2.0], "Row 2 of `measured`.*'-' is a gap"),
        (["ACD", 3], [1.0, 2.0], "Row 2 of `measured` must hold strings"),
        (["ACD"], [1.0, 2.0], "`values` must have a row for each of the 1 proteins"),
        (["ACD", "WYF"], [[1.0, 2.0], [1.0]], "must have 2 columns, got 1 in row 2"),
        (["ACD", "WYF"], [2.0, 2.0], "at least two different values, got 2 alone"),
        (["ACD", "WYF"], [2.0, None], "at least two different values"),
        ([], [], "at least one protein"),
        ("ACD", [1.0], "`measured` must be a list of proteins, got str"),
        (["ACD"], "1", "`values` must be numbers"),
    ],
)
def test_what_cannot_be_used_is_named_by_row_and_column(sequences, values, message):
    with pytest.raises((TypeError, ValueError), match=message):
        table(sequences, values)


def test_lengths_that_a_frame_does_not_take_are_named():
    with pytest.raises(ValueError, match="Row 2 of `measured` must hold proteins of 6 residues, got 5"):
        table(["ACDEFG", "ACDEF"], [1.0, 2.0], FRAME)


def test_classes_are_told_from_a_mistyped_number():
    words = ["active", "dead"] * 10
    with pytest.raises(ValueError, match=r"holds classes \['active', 'dead'\], not numbers"):
        table(random_variants(20, np.random.default_rng(0)), words)


def test_truth_values_are_classes_and_few_different_numbers_may_be():
    sequences = random_variants(40, np.random.default_rng(0))
    with pytest.raises(ValueError, match=r"holds classes \[False, True\], not numbers \(row 1 is the first\)"):
        table(sequences, [True, False] * 20)
    notes = table(sequences, [0, 1] * 20).notes
    assert any("only 2 different values in 40 sequences, as classes have" in note for note in notes)
    assert not any("as classes have" in note for note in table(sequences, list(range(40))).notes)


def test_few_rows_and_an_outlier_are_noted_and_the_outlier_does_no_harm():
    rng = np.random.default_rng(0)
    sequences, values = random_variants(12, rng), rng.normal(size=12)
    values[4] = 1e6
    notes = table(sequences, values).notes
    assert any("12 measured sequences, fewer than 20" in note for note in notes)
    assert any("Row 5" in note and "outlier" in note for note in notes)
    assert np.abs(RankScores(values).to_scores(values)).max() < 3


# ---- limits


def test_motifs_positions_and_distance_are_told_apart():
    limits = DesignLimits(["ACDEFG"], 2, [0], {1: "CW"}, ["glycosylation", "extra_cysteine", "WW"])
    broken = {
        "ACDEFG": None,
        "AWDEFG": None,
        "WCDEFG": "frozen_positions",
        "AYDEFG": "allowed_residues",
        "ACNAAG": "max_mutations",
        "ACNEWG": None,
        "ACDNGT": "max_mutations",
        "ACDCFG": "forbidden_motifs 'extra_cysteine'",
        "AWWEFG": "forbidden_motifs 'WW'",
        "ACDEF": "frozen_positions",
        "ACDEFX": "residues",
    }
    assert {sequence: limits.broken(sequence) for sequence in broken} == broken
    glycosylation = DesignLimits(["AAAAAA"], forbidden_motifs=["glycosylation"])
    assert [glycosylation.broken(each) is None for each in ("NASAAA", "NPSAAA", "NATAAA", "NAAAAA")] == [
        False,
        True,
        False,
        True,
    ]


@given(st.lists(variants, min_size=1, max_size=3), variants, st.integers(1, 6), st.sets(st.integers(0, 5), max_size=4))
@example(["CACCCC"], "ACAAAA", 5, set())  # six residues differ, but one deletion and four other edits lead there
def test_what_is_repaired_keeps_positions_and_distance(anchors, sequence, most, frozen):
    limits = DesignLimits(anchors, most, sorted(frozen))
    repaired = limits.repair(sequence, np.random.default_rng(0))
    assert limits.broken(repaired) is None
    if limits.broken(sequence) is None:
        assert repaired == sequence


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"frozen_positions": [1], "allowed_residues": {1: "W"}}, "contradict each other: `frozen_positions` keeps C"),
        ({"max_mutations": 1, "allowed_residues": {0: "W", 1: "W"}}, "asks for 2 mutations.*`max_mutations` is 1"),
        ({"frozen_positions": range(6)}, "leave no position free"),
        ({"frozen_positions": range(6), "max_insertions": 2, "max_deletions": 2}, "leave no position free"),
        ({"forbidden_motifs": ["NXS"]}, r"letters that stand for none of .*: \['X'\]. Write '.' for any residue"),
        ({"max_mutations": 0}, "`max_mutations` must be at least 1"),
        ({"frozen_positions": [6]}, r"`frozen_positions` must be in \[0, 6\)"),
        ({"frozen_positions": "12"}, "`frozen_positions` must be a list of integers"),
        ({"allowed_residues": {9: "A"}}, r"`allowed_residues` must have positions in \[0, 6\)"),
        ({"allowed_residues": {1: "J"}}, "`allowed_residues` must allow some of"),
        ({"max_insertions": 1, "lengths": (1, 6)}, "`max_insertions` must be 0 or None: .* at most 6 residues"),
        ({"max_deletions": 1, "lengths": (6, 9)}, "`max_deletions` must be 0 or None: .* at least 6 residues"),
        ({"forbidden_motifs": ["N["]}, "`forbidden_motifs` must hold names"),
        ({"forbidden_motifs": ["sugar"]}, "patterns of residues in upper case, got 'sugar'"),
        ({"forbidden_motifs": ["A*"]}, "matches every sequence"),
        ({"forbidden_motifs": "NG"}, "`forbidden_motifs` must be a list"),
    ],
)
def test_constraints_that_cannot_be_kept_are_refused(arguments, message):
    with pytest.raises((TypeError, ValueError), match=message):
        DesignLimits(["ACDEFG"], **arguments)


@given(st.text("ACD", min_size=1, max_size=7), st.text("ACD", min_size=1, max_size=7))
def test_an_alignment_puts_every_residue_somewhere_and_counts_the_fewest_edits(sequence, reference):
    aligned = align(sequence, reference)
    pieces = [side for pair in zip(aligned.inserted, [*aligned.residues, ""], strict=True) for side in pair]
    assert "".join(pieces) == sequence
    replaced = sum(bool(a) and a != b for a, b in zip(aligned.residues, reference, strict=True))
    edits = replaced + aligned.num_insertions + aligned.num_deletions
    assert edits == Levenshtein.distance(reference, sequence)
    assert [reference[at] for at in aligned.places if at is not None] == [
        reference[at] for at, residue in enumerate(aligned.residues) if residue
    ]
    (frame,), (same,) = aligned_frames([sequence], reference), aligned_frames([reference], reference)
    assert (frame == same).all() == (sequence == reference)


def test_rows_of_an_alignment_have_inserts_in_lower_case():
    sequences = ["ACDEF", "ACDWEF", "ADEF"]
    assert write_alignment(sequences, "ACDEF", fill=False) == ["ACDEF", "ACDEF", "ACDwEF", "A-DEF"]
    assert write_alignment(sequences, "ACDEF", fill=True) == ["ACD.EF", "ACD.EF", "ACDwEF", "A-D.EF"]


def test_an_insertion_moves_one_residue_of_an_aligned_frame():
    first, second = aligned_frames(["ACDEFG", "ACWDEFG"], "ACDEFG")
    assert (first != second).sum() == 2  # what is inserted, and how many
    assert (to_frames(["ACDEFG"], 7) != to_frames(["ACWDEFG"], 7)).sum() == 5


def test_insertions_and_deletions_are_limited_and_keep_frozen_positions():
    limits = DesignLimits(["ACDEFG"], None, [0, 2, 3], {5: "GW"}, max_insertions=1, max_deletions=1, lengths=(5, 7))
    broken = {
        "ACDEFG": None,
        "ACDEWFG": None,
        "ACDEG": None,
        "ADEFG": None,
        "AWDEFWW": None,
        "ACDEFGWW": "length",
        "ACDEFGW": None,
        "WACDEFG": "frozen_positions",  # nothing goes before a frozen end
        "ACDWEFG": "frozen_positions",  # nor between two frozen residues
        "CDEFG": "frozen_positions",
        "ACDFG": "frozen_positions",
        "ACDEF": "allowed_residues",
        "ACDEFA": "allowed_residues",
    }
    assert {sequence: limits.broken(sequence) for sequence in broken} == broken
    many = DesignLimits(["ACDEFG"], max_insertions=1, max_deletions=0)
    assert [many.broken(each) for each in ("ACDEFGWW", "ACDEF", "ACWDEFG")] == [
        "max_insertions",
        "max_deletions",
        None,
    ]
    assert DesignLimits(["ACDEFG"], max_insertions=0, max_deletions=0).broken("WACDEF") is None  # substitutions


def test_mutants_have_insertions_and_deletions_where_these_are_asked_for():
    rng = np.random.default_rng(0)
    limits = DesignLimits(["ACDEFG"], None, [0], max_insertions=2, max_deletions=1)
    mutants = {mutate(["ACDEFG", "ACWDEFG"], limits, rng) for _ in range(500)}
    assert {4, 5, 6, 7, 8} <= {len(mutant) for mutant in mutants}
    kept = [mutant for mutant in mutants if limits.broken(mutant) is None]
    assert len(kept) > 0.8 * len(mutants) and all(mutant[0] == "A" for mutant in mutants)
    assert {5, 6, 7, 8} == {len(mutant) for mutant in kept}
    assert {len(mutate(["ACDEFG"], DesignLimits(["ACDEFG"]), rng)) for _ in range(100)} == {6}
    assert limits.space_size() == math.inf


def test_the_size_of_the_space_is_the_number_of_its_sequences():
    limits = DesignLimits(["ACDEFG"], 2, [0, 1, 2], {3: "EK", 4: "FWY"})
    pool = Pool(limits, frozenset(), None, np.random.default_rng(0))
    propose(pool, [], ["ACDEFG"], ["ACDEFG"], Sources(lambda *_: [], lambda *_: []), len, 10**4)
    # none or one or two of: 1, 2 and 19 other residues
    assert len(pool.methods) == limits.space_size() == 1 + 22 + (2 + 19 + 38)
    assert set(pool.methods.values()) == {"enumerate"}


@given(variants, variants)
def test_edits_turn_the_start_into_the_sequence(start, sequence):
    letters = list(start)
    edits = list_edits(sequence, start)
    if len(edits) == sum(a != b for a, b in zip(start, sequence, strict=True)):  # substitutions alone
        for edit in edits:
            assert letters[int(edit[1:-1]) - 1] == edit[0]
            letters[int(edit[1:-1]) - 1] = edit[-1]
        assert "".join(letters) == sequence


def test_edits_are_written_as_biologists_do():
    assert list_edits("AWDEF", "ACDEF") == ["C2W"]
    assert list_edits("ADEF", "ACDEF") == ["C2del"]
    assert list_edits("ACWDEF", "ACDEF") == ["2_3insW"]
    assert list_edits("ACDEF", "ACDEF") == []


def test_children_differ_from_their_parents_where_they_may():
    limits = DesignLimits(["ACDEFG"], frozen_positions=[0], allowed_residues={1: "CW"})
    rng = np.random.default_rng(0)
    children = [mutate(["ACDEFG"], limits, rng) for _ in range(200)]
    assert all(child[0] == "A" and child[1] in "CW" and child != "ACDEFG" for child in children)
    mixed = [recombine(["AAAAAA", "WWWWWW"], limits, rng) for _ in range(50)]
    assert {"A", "W"} == set("".join(mixed)) and len(set(mixed)) > 20


# ---- judges


@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=40).filter(lambda values: len(set(values)) > 2))
def test_scores_go_up_with_values_and_back(values):
    transform = RankScores(np.array(values))
    different = np.unique(values)
    scores = transform.to_scores(different)
    assert (np.diff(scores) > 0).all()
    np.testing.assert_allclose(transform.to_unit(scores), different, atol=1e-6 * (1 + np.ptp(different)))


def _additive(num, seed, noise=0.1):
    rng = np.random.default_rng(seed)
    frames = rng.integers(1, 5, (num, 5)).astype(np.uint8)
    effects = np.random.default_rng(7).normal(size=(5, 5))
    values = effects[np.arange(5), frames].sum(1)
    return Inputs(frames), (values + noise * rng.normal(size=num)) / 2


def test_the_process_agrees_with_scikit_learn():
    """The posterior is that of scikit-learn's regressor with the same kernel matrix, given as features."""
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import DotProduct

    inputs, values = _additive(40, 0)
    new, _ = _additive(7, 1)
    process = SequenceProcess(inputs, values, np.ones(40), np.random.default_rng(0))
    both = Inputs(np.concatenate([inputs.frames, new.frames]))
    kernel = process._kernel(process._parts(both, both)).numpy()
    features = np.linalg.cholesky(kernel + 1e-9 * np.eye(47))
    exact = GaussianProcessRegressor(
        DotProduct(0.0, "fixed"), alpha=float(process.values["noise"]) + 1e-8, optimizer=None
    )
    mean, std = exact.fit(features[:40], values).predict(features[40:], return_std=True)
    ours, deviation = process.predict(new)
    np.testing.assert_allclose(ours, mean, atol=1e-4)
    np.testing.assert_allclose(deviation / process.scale, std, atol=1e-3)
    draws = process.draw(new, 4000, np.random.default_rng(0))
    np.testing.assert_allclose(draws.mean(0), mean, atol=1e-4)
    np.testing.assert_allclose(draws.std(0), deviation, rtol=0.1, atol=2e-3)


def test_left_out_predictions_are_those_of_a_process_without_the_row():
    inputs, values = _additive(25, 0)
    process = SequenceProcess(inputs, values, np.ones(25), np.random.default_rng(0))
    kernel = process._kernel(process._parts(inputs, inputs)).numpy() + np.eye(25) * float(process.values["noise"])
    rest = np.arange(25) != 3
    expected = kernel[3, rest] @ np.linalg.solve(kernel[rest][:, rest], values[rest])
    assert process.left_out[3] == pytest.approx(expected, abs=1e-5)


def test_intervals_of_the_process_hold_what_they_say_and_widen_with_distance():
    inputs, values = _additive(300, 0, noise=0.4)
    process = SequenceProcess(inputs, values, np.ones(300), np.random.default_rng(0))
    new, truth = _additive(1000, 1, noise=0.4)
    mean, deviation = process.predict(new)
    inside = np.abs(truth - mean) < 1.645 * np.sqrt(deviation**2 + process.noise)
    assert 0.85 < inside.mean() < 0.95
    far = Inputs(np.full((1, 5), 9, dtype=np.uint8))  # residues that were never seen
    assert process.predict(far)[1][0] > 2 * deviation.mean()


def test_a_mean_of_replicates_is_believed_more():
    inputs, values = _additive(30, 0, noise=0.5)
    counts = np.ones(30)
    counts[4] = 100
    once, often = (SequenceProcess(inputs, values, each, np.random.default_rng(0)) for each in (np.ones(30), counts))
    row = inputs.take(np.array([4]))
    assert abs(often.predict(row)[0][0] - values[4]) < abs(once.predict(row)[0][0] - values[4])


def test_the_judge_orders_variants_of_a_landscape():
    rng = np.random.default_rng(0)
    sequences = random_variants(150, rng, letters="ACDE")
    values = [math.exp(each.count("A") - each.count("D")) for each in sequences]
    judge = ProcessJudge(table(sequences, values), lambda each: to_frames(each, 6), None, ["higher"], rng)
    mean, std = judge.predict(["AAAAAA", "CCCCCC", "DDDDDD"])
    assert mean[0, 0] > mean[1, 0] > mean[2, 0] and (std > 0).all()
    units = judge.to_unit(mean[:, 0], 0)
    assert units[0] > units[1] > units[2]
    assert "rank correlation" in judge.note


def _two_sites_interact(num, seed):
    rng = np.random.default_rng(seed)
    sequences = random_variants(num, rng, letters="ACDE")
    values = [each.count("A") + 2.0 * (each[0] == each[5]) + 0.3 * rng.normal() for each in sequences]
    return sequences, np.array(values)


def test_networks_are_as_sure_as_they_are_right():
    rng = np.random.default_rng(0)
    judge = ProcessJudge(table(*_two_sites_interact(200, 0)), lambda each: to_frames(each, 6), None, ["higher"], rng)
    assert isinstance(judge._regressions[0], ConvolutionalNetworks)
    sequences, values = _two_sites_interact(600, 1)
    mean, std = judge.predict(sequences)
    errors = np.abs(judge.to_scores(values, 0) - mean[:, 0]) / np.sqrt(std[:, 0] ** 2 + judge.noise[0])
    assert 0.85 < (errors < 1.645).mean() < 0.96
    draws = judge.draw(sequences[:20], 4000, rng)[..., 0]
    np.testing.assert_allclose(draws.mean(0), mean[:20, 0], atol=1e-6)  # mirrored pairs
    np.testing.assert_allclose(draws.std(0), std[:20, 0], rtol=0.1, atol=0.01)


def test_networks_weigh_a_mean_of_replicates_more_and_repeat_with_their_source():
    rng = np.random.default_rng(0)
    frames = to_frames(["AAAAAA", "WWWWWW"] * 40, 6)
    targets = np.tile([1.0, -1.0, -1.0, 1.0], 20)  # the first two rows of four say one thing, the others another
    counts = np.tile([9.0, 9.0, 1.0, 1.0], 20)
    networks = [ConvolutionalNetworks(Inputs(frames), targets, counts, np.random.default_rng(1)) for _ in range(2)]
    (mean, std), (again, _) = (each.predict(Inputs(frames[:2])) for each in networks)
    np.testing.assert_allclose(mean, [0.8, -0.8], atol=0.25)  # (9 - 1) / 10
    np.testing.assert_array_equal(mean, again)
    draws = networks[0].draw(Inputs(frames[:2]), 4000, rng)
    np.testing.assert_allclose(draws.std(0), std, rtol=0.1, atol=1e-3)


def test_proteins_of_many_sites_are_judged_by_the_process_alone():
    rng = np.random.default_rng(0)
    sequences = random_variants(60, rng, length=80)
    values = [each.count("A") for each in sequences]
    measured = check_measurements(sequences, values, EDDPMProteinProcessor(80).as_list)
    judge = ProcessJudge(measured, lambda each: to_frames(each, 80), None, ["higher"], rng)
    assert isinstance(judge._regressions[0], SequenceProcess)


# ---- goals and selection


class _Unit:
    def to_scores(self, values, index):
        return values


def test_goals_say_what_is_better():
    scores = np.array([[0.0, 1.0], [2.0, 3.0]])
    unit = _Unit()
    np.testing.assert_array_equal(Goal("higher", None, 2).utilities(scores, unit), scores)
    np.testing.assert_array_equal(Goal(["lower", 2.0], None, 2).utilities(scores, unit), [[0, -1], [-2, -1]])
    assert Goal("higher", [3.0, 1.0], 2).total(scores).tolist() == [0.25, 2.25]
    for target, weights in (("up", None), (["higher"], None), ("higher", [0, 0]), ("higher", [1]), ("higher", "best")):
        with pytest.raises(ValueError, match="`target`|`weights`"):
            Goal(target, weights, 2)


def _draws(mean, covariance, num=2000):
    half = np.random.default_rng(0).multivariate_normal(np.zeros(len(mean)), covariance, num // 2)
    return (mean + np.concatenate([half, -half]))[..., None]


def _choose(draws, num=2, exploration=1.0, acquisition="ucb", weights=(1.0,), accept=lambda row, chosen: True):
    weights = None if weights is None else np.array(weights)
    return select_batch(draws, num, exploration, acquisition, weights, 0.01, accept, np.random.default_rng(0))


def test_without_exploration_the_highest_means_are_chosen():
    draws = _draws(np.array([0.0, 3.0, 1.0, 2.0]), np.eye(4))
    for acquisition in ("ucb", "thompson"):
        assert _choose(draws, 3, 0.0, acquisition) == [1, 3, 2]


def test_what_resembles_a_chosen_one_loses_its_bonus():
    covariance = np.eye(3)
    covariance[0, 1] = covariance[1, 0] = 0.999
    draws = _draws(np.array([0.1, 0.09, 0.0]), covariance)
    assert _choose(draws) == [0, 2]  # the twin of the first is all but measured
    assert _choose(draws, exploration=0.0) == [0, 1]


def test_thompson_chooses_what_may_be_best_as_often_as_it_may_be():
    draws = _draws(np.array([0.0, 0.0, -9.0]), np.eye(3), 200)
    assert {tuple(sorted(_choose(draws, acquisition="thompson"))) for _ in range(5)} == {(0, 1)}


def test_all_compromises_are_chosen_from():
    draws = np.zeros((2, 4, 2))
    draws[:] = np.array([[3.0, 0.0], [2.0, 2.0], [0.0, 3.0], [-1.0, -1.0]])
    assert set(_choose(draws, 3, weights=None)) == {0, 1, 2}
    assert _choose(draws, 2, weights=(1.0, 0.0)) == [0, 1]


def test_what_may_not_join_is_passed_over():
    draws = _draws(np.array([3.0, 2.0, 1.0]), 0.01 * np.eye(3))
    assert _choose(draws, 3, accept=lambda row, chosen: row != 1) == [0, 2]
