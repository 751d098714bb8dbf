"""`pipe.design`: from a table of measurements to a batch, its files, and what it says where it cannot be as asked."""

import csv
import re
import threading

import numpy as np
import pytest
import torch
from proteins import LENGTH, PROTEINS, tiny_protein_pipe
from safetensors.torch import load_file
from typer.testing import CliRunner

from hf_eddpm.cli.main import app
from hf_eddpm.design.candidates import METHODS
from hf_eddpm.modalities.protein.data import load_proteins

LETTERS = list("ACDEFGHIKLMNPQRSTVWY")
QUICK = {"num_candidates": 60, "num_steps": 2}
CHEAP = {"methods": ["mutate", "recombine", "evolve"], "num_candidates": 200}


def fitness(sequence):
    """More tryptophan in the first half, less lysine anywhere."""
    return float(sequence[:4].count("W") * 2 - sequence.count("K"))


def _table(num=60, seed=0):
    rng = np.random.default_rng(seed)
    sequences = ["".join(row) for row in rng.choice(list("ACDEKW"), (num, LENGTH))]
    return {"measured": sequences, "values": [fitness(each) for each in sequences]}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def pipe():
    return tiny_protein_pipe()


@pytest.fixture(scope="module")
def designs(pipe):
    return pipe.design(**_table(), num_designs=100, **CHEAP, max_mutations=3, generator=seeded())


def test_designs_are_new_different_and_better_than_what_is_known(designs):
    table = _table()
    assert len(set(designs.sequences)) == len(designs) == 100
    assert not set(designs.sequences) & set(table["measured"])
    assert np.mean([fitness(each) for each in designs.sequences]) > np.quantile(table["values"], 0.9)
    for design in designs:
        assert 1 <= design.num_edits <= 3 and len(design.edits) == design.num_edits
        assert design.low[0] <= design.predicted[0] <= design.high[0] and design.std[0] >= 0
        assert design.distance_to_known >= 1 and design.nearest_known in table["measured"]
        assert design.method in METHODS and np.isfinite(design.bound)
    assert designs.latents.shape == (100, 1, 6) and designs.known_latents.shape == (60, 1, 6)


def test_all_methods_together_propose(pipe):
    result = pipe.design(**_table(), num_designs=8, **QUICK, frozen_positions=[7], generator=seeded())
    assert len(result) == 8 and "rank correlation" in " ".join(result.notes)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_each_method_alone_proposes_within_the_limits(pipe, method):
    limits = {"max_mutations": 4, "frozen_positions": [0], "allowed_residues": {1: "ACW"}}
    starts = ["WACDEFGH", "WCCCEFGH"]
    result = pipe.design(starts, **_table(), num_designs=3, methods=[method], **QUICK, **limits, generator=seeded())
    assert 1 <= len(result) <= 3
    for design in result:
        assert design.sequence[0] == design.start[0] == "W" and design.sequence[1] in "ACW"
        assert design.num_edits <= 4 and design.start in starts


def test_the_same_generator_gives_the_same_batch_whatever_other_threads_do(pipe):
    found = {}

    def run(name, seed, table):
        found[name] = pipe.design(**table, num_designs=5, **CHEAP, generator=seeded(seed)).sequences

    run("alone", 1, _table())
    jobs = [("again", 1, _table()), ("other", 2, _table(seed=5)), ("third", 1, _table())]
    threads = [threading.Thread(target=run, args=job) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found["alone"] == found["again"] == found["third"] != found["other"]


@pytest.mark.slow
def test_targets_lower_and_a_value(pipe):
    table = _table()
    low = pipe.design(**table, num_designs=10, **CHEAP, target="lower", generator=seeded())
    assert np.mean([fitness(each) for each in low.sequences]) < np.quantile(table["values"], 0.2)
    value = pipe.design(**table, num_designs=10, **CHEAP, target=2.0, exploration=0.0, generator=seeded())
    errors = [abs(fitness(each) - 2.0) for each in value.sequences]
    assert np.mean(errors) < np.mean([abs(each - 2.0) for each in table["values"]])


@pytest.mark.slow
def test_several_properties_weighed_or_as_compromises(pipe):
    table = _table()
    values = {"tryptophan": [each.count("W") for each in table["measured"]]}
    values["lysine"] = [each.count("K") for each in table["measured"]]
    arguments = {"measured": table["measured"], "values": values, "num_designs": 10, **CHEAP}
    both = pipe.design(**arguments, target=["higher", "lower"], weights=[1, 3], generator=seeded())
    assert both.property_names == ["tryptophan", "lysine"]
    assert np.mean([each.count("K") for each in both.sequences]) < 0.5
    front = pipe.design(**arguments, weights="pareto", generator=seeded())
    kinds = [each.count("W") - each.count("K") for each in front.sequences]
    assert min(kinds) < 0 < max(kinds)  # from many of the one to many of the other


def test_batches_keep_their_distances_from_each_other_and_from_the_known(pipe):
    result = pipe.design(**_table(), num_designs=6, **CHEAP, min_distance=3, min_novelty=2, generator=seeded())
    sequences = result.sequences
    hamming = [sum(x != y for x, y in zip(a, b, strict=True)) for a in sequences for b in sequences if a < b]
    assert min(hamming) >= 3 and all(each.distance_to_known >= 2 for each in result)
    known = pipe.design(**_table(), num_designs=6, **CHEAP, generator=seeded())
    other = pipe.design(**_table(), num_designs=6, **CHEAP, known_sequences=known.sequences, generator=seeded())
    assert not set(known.sequences) & set(other.sequences)


def test_latents_may_judge_besides(pipe):
    table = _table()
    latents = pipe.encode(table["measured"]).latents[:, 0, 0]  # what only the encoder can tell
    arguments = {"measured": table["measured"], "values": latents.tolist(), "num_designs": 5, **CHEAP}
    notes = [pipe.design(**arguments, use_latents=use, generator=seeded()).notes[-1] for use in (False, True)]
    correlations = [float(re.search(r"rank correlation of (\S+) ", note)[1]) for note in notes]
    assert correlations[1] > max(correlations[0] + 0.1, 0.7)
    with pytest.raises(ValueError, match="`use_latents` needs `measured`"):
        pipe.design(use_latents=True)


def test_only_sequences_of_a_library_are_chosen(pipe):
    library = ["WWWWAAAA", "WWWAAAAA", "KKKKKKKK"]
    result = pipe.design(**_table(), num_designs=2, library=library, exploration=0.0, generator=seeded())
    assert set(result.sequences) == set(library[:2]) and {each.method for each in result} == {"enumerate"}


def test_a_large_library_is_looked_through_by_a_method_of_its_own(pipe):
    library = ["".join(row) for row in np.random.default_rng(1).choice(list("ACDEKW"), (400, LENGTH))]
    arguments = {**_table(), "num_designs": 5, "library": library, "num_candidates": 50}
    result = pipe.design(**arguments, methods=["library"], generator=seeded())
    assert {each.method for each in result} == {"library"} and set(result.sequences) <= set(library)
    result = pipe.design(**arguments, methods=["mutate"], generator=seeded())  # few mutants are in the library
    assert not result.num_candidates or {each.method for each in result} == {"mutate"}
    with pytest.raises(ValueError, match="`methods 'library'` needs `library`"):
        pipe.design(**_table(), methods=["library"])


def test_the_bound_tells_sequences_apart(pipe, designs):
    again = pipe.design(**_table(), num_designs=100, **CHEAP, max_mutations=3, generator=seeded())
    bounds = np.array([[each.bound for each in result] for result in (designs, again)])
    np.testing.assert_allclose(*bounds)
    some = designs.sequences[:20]
    draws = torch.stack([pipe.score(some, 32, seeded(seed)).bound for seed in range(8)])
    assert float(draws.std(0).mean()) < 10  # nats; timesteps drawn uniformly leave ten times as much


def test_too_few_candidates_are_returned_with_what_bound(pipe):
    limits = {"frozen_positions": range(2, 8), "allowed_residues": {0: "AW", 1: "AC"}, "forbidden_motifs": ["WC"]}
    result = pipe.design("AACDEFGH", **_table(), num_designs=9, **limits, generator=seeded())
    # of four the start is known to be itself only where it was measured
    assert sorted(result.sequences) == ["AACDEFGH", "ACCDEFGH", "WACDEFGH"]
    assert result.rejected == {"forbidden_motifs 'WC'": 1}
    assert "3 designs instead of 9" in result.notes[-1] and "`forbidden_motifs 'WC'` 1" in result.notes[-1]
    none = pipe.design("AACDEFGH", **_table(), num_designs=9, **limits | {"forbidden_motifs": ["C"]})
    assert len(none) == 0 and none.rows() == []


def test_a_wild_type_is_what_edits_are_counted_from(pipe):
    result = pipe.design(**_table(), wild_type="ACDEFGHI", num_designs=5, **CHEAP, max_mutations=2, generator=seeded())
    assert {each.start for each in result} == {"ACDEFGHI"} and all(each.num_edits <= 2 for each in result)
    assert any("`wild_type` is not among the measured" in note for note in result.notes)


def test_insertions_and_deletions_are_proposed_judged_and_listed(pipe):
    table, wild_type = _table(), "WACDEF"
    table["measured"] = [each[: LENGTH - row % 3] for row, each in enumerate(table["measured"])]
    limits = {"max_insertions": 2, "max_deletions": 1, "frozen_positions": [0, 5], "max_mutations": 4}
    result = pipe.design(**table, wild_type=wild_type, **CHEAP, **limits, num_designs=30, generator=seeded())
    assert len(result) == 30 and {5, 6, 7, 8} >= set(map(len, result.sequences)) > {6}
    for design in result:
        inserted, deleted = ("ins" in " ".join(design.edits)), ("del" in " ".join(design.edits))
        assert design.sequence[0] == "W" and design.sequence[-1] == "F"
        assert (len(design.sequence) > 6) <= inserted and (len(design.sequence) < 6) <= deleted
        assert sum("ins" in edit for edit in design.edits) <= 2 and sum("del" in edit for edit in design.edits) <= 1
    with pytest.raises(ValueError, match="`max_insertions` needs `wild_type` or `starts`"):
        pipe.design(**table, **CHEAP, max_insertions=1)
    with pytest.raises(ValueError, match="`max_insertions` must be 0 or None: .* at most 8 residues"):
        pipe.design(**table, **CHEAP, max_insertions=1, wild_type="ACDEFGHI")


def test_without_measurements_an_ensemble_of_heads_judges():
    pipe = tiny_protein_pipe()
    with pytest.raises(ValueError, match="`design` needs to know how sure predictions are.*fit_property"):
        pipe.design(PROTEINS, num_designs=2)
    table = _table()
    pipe.fit_property(table["measured"], table["values"], num_members=3, num_steps=50, generator=seeded())
    result = pipe.design(num_designs=4, **QUICK, generator=seeded())  # from samples
    assert len(result) == 4 and result.known_latents.shape == (0, 1, 6)
    assert all(each.nearest_known is None for each in result)
    pipe.model.property_head = None
    with pytest.raises(ValueError, match="`design` needs measurements .* this model has no head"):
        pipe.design(PROTEINS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"values": None}, "`measured` needs `values`"),
        ({"measured": None}, "`values` needs `measured`"),
        ({"methods": ["magic"]}, r"`methods` must be some of .* got \['magic'\]"),
        ({"methods": []}, "`methods` must be some of"),
        ({"starts": ["B"]}, "`starts` must consist of"),
        ({"weights": "pareto"}, "`weights` = 'pareto' needs at least two properties"),
        ({"num_designs": 0}, "`num_designs` must be an integer in"),
        ({"exploration": -1.0}, "`exploration` must be a finite number of at least 0"),
    ],
)
def test_wrong_arguments_are_named(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe.design(**{**_table(), **CHEAP, **arguments})


def test_models_of_other_data_are_refused(make_pipe):
    with pytest.raises(ValueError, match="`design` is for proteins, got a model of modality 'text'"):
        make_pipe().design(["a cold beer"])


# ---- the result


def test_wells_are_named_row_by_row_or_column_by_column_on_as_many_plates_as_needed(designs):
    by_row, by_column = designs.wells(), designs.wells("columns")
    assert (by_row[0], by_row[11], by_row[12], by_row[95], by_row[96]) == ("A1", "A12", "B1", "H12", "2:A1")
    assert (by_column[0], by_column[1], by_column[8], by_column[95]) == ("A1", "B1", "A2", "H12")
    plates = designs.plate("columns")
    assert len(plates) == 2 and plates[0][1][0] is designs.designs[1] and plates[1][7][11] is None


def test_files_hold_the_table(designs, tmp_path):
    designs.to_csv(tmp_path / "plate.csv")
    rows = list(csv.DictReader((tmp_path / "plate.csv").open(encoding="utf-8")))
    assert [row["sequence"] for row in rows] == designs.sequences and rows[12]["well"] == "B1"
    assert float(rows[0]["predicted property 0"]) == pytest.approx(designs.designs[0].predicted[0], rel=1e-4)
    designs.to_fasta(tmp_path / "plate.fasta")
    lines = (tmp_path / "plate.fasta").read_text(encoding="utf-8").splitlines()
    assert lines[1::2] == designs.sequences and lines[0].startswith(">design_1 A1 ")
    designs.to_csv(tmp_path / "plate.tsv")
    table = load_proteins(str(tmp_path / "plate.tsv"), property_columns=["predicted property 0"])
    assert table.sequences == designs.sequences
    designs.to_alignment(tmp_path / "plate.a3m")
    assert load_proteins(str(tmp_path / "plate.a3m")).sequences[0] == designs.designs[0].start
    with pytest.raises(ValueError, match=r"`path` must end in .a2m or .a3m"):
        designs.to_alignment(tmp_path / "plate.sto")
    assert designs.to_pandas().shape == (100, len(rows[0]))
    designs.to_html(tmp_path / "plate.html", title="A <plate>")
    page = (tmp_path / "plate.html").read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 3 and "A &lt;plate&gt;" in page
    assert all(sequence in page for sequence in designs.sequences)


# ---- the command line


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("design")
    pipe.save_pretrained(folder / "pipeline")
    table = _table()
    lines = [f"{a},{b}" for a, b in zip(table["measured"], table["values"], strict=True)]
    (folder / "assay.csv").write_text("\n".join(["sequence,binding", *lines]) + "\n", encoding="utf-8")
    return folder


def test_the_command_line_designs_and_writes(folder):
    words = f"design {folder}/pipeline --measured {folder}/assay.csv --property_columns binding -n 6 --methods mutate"
    words += " --frozen 1-2,8 --allowed 3=AW --forbid extra_cysteine --num_candidates 100 --wild_type ACDEFGHI"
    words += " --max_insertions 0 --max_deletions 0"
    result = CliRunner().invoke(app, f"{words} -o {folder}/plate.csv --report {folder}/plate.html".split())
    assert result.exit_code == 0, result.output
    rows = list(csv.DictReader((folder / "plate.csv").open(encoding="utf-8")))
    assert len(rows) == 6 and "predicted binding" in rows[0]
    for row in rows:
        assert row["sequence"][:2] == "AC" and row["sequence"][7] == "I" and row["sequence"][2] in "AW"
        assert re.search(r"\bD3[AW]\b", row["edits"])
    assert "<img" in (folder / "plate.html").read_text(encoding="utf-8")
    for ending, records in (("fasta", 6), ("a2m", 7)):  # an alignment begins with the start
        result = CliRunner().invoke(app, f"{words} -o {folder}/plate.{ending}".split())
        assert result.exit_code == 0
        assert (folder / f"plate.{ending}").read_text(encoding="utf-8").count(">") == records


@pytest.mark.slow
def test_the_command_line_fits_heads_that_then_judge(folder):
    words = f"fit-property {folder}/pipeline --measured {folder}/assay.csv --property_columns binding --num_steps 20"
    result = CliRunner().invoke(app, f"{words} --num_members 3 --save_dtype float16 -o {folder}/fitted".split())
    assert result.exit_code == 0 and "90 % intervals hold" in result.output
    weights = load_file(folder / "fitted" / "model" / "model.safetensors")
    assert weights["property_head.output.weight"].dtype == torch.float16
    assert str(folder) not in (folder / "fitted" / "model_index.json").read_text(encoding="utf-8")
    result = CliRunner().invoke(app, f"design {folder}/fitted -n 2 --methods mutate --num_candidates 50".split())
    assert result.exit_code == 0 and len(result.stdout.strip().splitlines()) >= 2


@pytest.mark.parametrize("words", ["--frozen 0-3", "--frozen a", "--allowed 3", "--target up", "--weights a,b"])
def test_words_of_the_command_line_that_mean_nothing_are_named(folder, words):
    line = f"design {folder}/pipeline --measured {folder}/assay.csv --property_columns binding {words}"
    result = CliRunner().invoke(app, line.split())
    assert isinstance(result.exception, ValueError) and words.split()[0] in str(result.exception)
