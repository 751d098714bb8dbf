"""The evaluation of proteins, end to end on a tiny model and a closed-form fitness."""

import csv
import json
import math
import sys

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard

from hf_eddpm import EDDPMConfig, EDDPMModel, EDDPMPipeline, EDDPMProteinProcessor, EDDPMScheduler
from hf_eddpm.modalities.protein.data import ProteinData
from hf_eddpm.modalities.protein.ehrlich import EhrlichFunction
from hf_eddpm.training import evaluate_protein
from hf_eddpm.training.environment import describe_environment
from hf_eddpm.training.evaluate_protein import EvaluationArguments
from hf_eddpm.training.protein_card import build_protein_card
from hf_eddpm.training.protein_measures import evaluate
from hf_eddpm.training.protein_settings import METHODS, EvaluationSettings
from hf_eddpm.training.protein_tables import markdown_tables

LENGTH = 10
FUNCTION = EhrlichFunction.random(length=LENGTH, num_motifs=2, motif_length=2, seed=0)
CAUSAL = {"model_type": "llama", "num_key_value_heads": 2}
SIZES = {
    "vocab_size": 24,
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
QUICK = {
    "num_samples": 30,
    "num_inference_steps": [2, 3],
    "seeds": [0, 1],
    "refinement_steps": [2],
    "num_neighbors": 3,
    "num_starts": 6,
    "optimize_steps": 2,
    "oracle_members": 2,
    "num_epochs": 2,
}


def _data(num, seed):
    sequences = FUNCTION.sample(num, seed)
    return ProteinData(sequences, FUNCTION(sequences)[:, None], ["fitness"])


TRAIN, DEV = _data(80, 0), _data(40, 1)


def _pipe(causal=False, **values):
    torch.manual_seed(0)
    conv = {"model_type": "eddpm_protein_conv", "num_sites": LENGTH, "hidden_size": 16, "num_hidden_layers": 1}
    ends = {"bos_token_id": 1, "eos_token_id": 2}
    defaults = {
        "modality": "protein",
        "encoder": {"model_type": "bert", **SIZES},
        "decoder": {**CAUSAL, **SIZES, **ends} if causal else conv,
        "latent_dim": 6,
        "num_latents": 1,
        "denoiser_num_layers": 2,
        "denoiser_hidden_size": 16,
        "num_properties": 1,
    }
    model = EDDPMModel(EDDPMConfig(**{**defaults, **values}))
    if model.config.num_properties == 1:
        model.property_head.fit(torch.from_numpy(TRAIN.properties))
    processor = EDDPMProteinProcessor(length=LENGTH, stop=causal)
    return EDDPMPipeline(model, EDDPMScheduler(**model.config.scheduler_config), processor)


@pytest.fixture(scope="module")
def evaluation():
    return evaluate(_pipe(), TRAIN, DEV, EvaluationSettings(**QUICK))


def test_every_part_is_measured_and_can_be_written(evaluation):
    assert json.loads(json.dumps(evaluation, allow_nan=False)) == evaluation
    assert set(evaluation["samples"]) == {"2", "3"} and set(evaluation["refined_reconstruction"]) == {"2"}
    assert set(evaluation["fitness"]["fitness"]) == {"model", "ridge", "cnn"}
    assert evaluation["fitness"]["fitness"]["ridge"]["num"] == len(DEV)
    assert (evaluation["num_train_sequences"], evaluation["num_dev_sequences"]) == (80, 40)
    assert evaluation["latents"]["dims"] == 6


def test_training_sequences_in_the_place_of_samples_are_valid_and_not_novel(evaluation):
    reference = evaluation["reference"]
    assert reference["validity"]["values"] == [1, 1] and reference["novelty"]["values"] == [0, 0]
    assert reference["mean_length"]["mean"] == LENGTH
    for values in evaluation["samples"].values():
        assert values["1mer_divergence"]["mean"] > reference["1mer_divergence"]["mean"]
        assert values["3mer_divergence"]["mean"] > reference["3mer_divergence"]["mean"]
        spread = values["pairwise_distance"]
        assert spread["mean"] == pytest.approx(np.mean(spread["values"]))
        assert spread["std"] == pytest.approx(np.std(spread["values"], ddof=1))


def test_the_same_settings_give_the_same_numbers(evaluation):
    settings = EvaluationSettings(**QUICK, no_optimize=True, no_baselines=True)
    again = evaluate(_pipe(), TRAIN, DEV, settings)
    assert "optimization" not in again and set(again["fitness"]["fitness"]) == {"model"}
    for part in ("reconstruction", "reference", "smoothness", "latents"):
        assert again[part] == evaluation[part]
    assert again["samples"]["3"]["frechet"] == evaluation["samples"]["3"]["frechet"]


def test_an_earlier_evaluation_of_the_same_weights_keeps_all_but_the_samples(evaluation):
    earlier = json.loads(json.dumps(evaluation))
    earlier["fitness"] = "kept"
    settings = EvaluationSettings(**{**QUICK, "num_inference_steps": [4]})
    again = evaluate(_pipe(), TRAIN, DEV, settings, None, earlier)
    assert set(again["samples"]) == {"4"} and again["fitness"] == "kept"
    new, old = (each["optimization"]["proposals"] for each in (again, earlier))
    assert list(new) == list(old) and {name for name in old if new[name] != old[name]} <= {"samples", "starts"}
    earlier["reconstruction"]["exact_match"] += 0.1
    with pytest.raises(ValueError, match="`keep` must be of the same weights"):
        evaluate(_pipe(), TRAIN, DEV, settings, None, earlier)


def test_proposals_of_every_method_are_judged_by_the_oracle(evaluation):
    optimization = evaluation["optimization"]
    titles = ["starts", "samples", *METHODS, "genetic, 2 calls per start", "genetic, 11 calls per start"]
    assert sorted(optimization["proposals"]) == sorted(titles)
    assert optimization["oracle"]["kind"].startswith("2 convolutional regressors")
    assert optimization["oracle"]["on_training_sequences"]["num"] == len(TRAIN)
    for method in METHODS:
        proposals = optimization["proposals"][method]
        assert len(proposals["mean"]["values"]) == 2 and proposals["num_oracle_calls"]["mean"] == 12
        assert 0 <= proposals["improved"]["mean"] <= 1
    genetic = optimization["proposals"]["genetic, 11 calls per start"]
    assert genetic["num_oracle_calls"]["mean"] == 66
    assert genetic["max"]["mean"] > optimization["proposals"]["starts"]["max"]["mean"]


def test_an_ensemble_says_how_sure_it_is_and_where_it_is_most_wrong(tmp_path):
    pipe = _pipe()
    pipe.fit_property(
        TRAIN.sequences,
        TRAIN.properties[:, 0],
        num_members=3,
        num_steps=30,
        generator=torch.Generator().manual_seed(0),
    )
    result = evaluate(pipe, TRAIN, DEV, EvaluationSettings(**QUICK, no_optimize=True, no_baselines=True))
    found = result["uncertainty"]["fitness"]
    mean, std = (each[:, 0].double().numpy() for each in pipe.predict(DEV.sequences, return_std=True))
    errors = np.abs(mean - DEV.properties[:, 0])
    assert found["coverage_90"] == pytest.approx((errors / std <= 1.6448536).mean())
    assert found["held"] == sorted(found["held"]) and len(found["held"]) == len(found["shares"]) == 19
    worst = [abs(each["measured"] - each["predicted"]) for each in found["worst"]]
    np.testing.assert_allclose(worst, np.sort(errors)[::-1][:3], rtol=1e-5)
    pipe.save_pretrained(tmp_path)
    facts = {"command": "evaluate", "wall_time_seconds": 1.0, **describe_environment(pipe.device)}
    card = build_protein_card(pipe, tmp_path, None, facts | json.loads(json.dumps(result))).text
    assert f"hold {found['coverage_90']:.0%} of 40 held-out measurements" in card
    assert all(each["sequence"] in card for each in found["worst"])
    assert all(each in card for each in result["samples"]["3"]["examples"][:8])


def test_an_ehrlich_function_judges_by_its_own_values():
    settings = EvaluationSettings(**QUICK, no_baselines=True, methods=["mcmc"], max_mutations=1)
    optimization = evaluate(_pipe(), TRAIN, DEV, settings, FUNCTION)["optimization"]
    assert optimization["oracle"] == {"kind": "Ehrlich function", "optimum": 1.0}
    starts = TRAIN.sample(6, seed=0).sequences
    proposals = optimization["proposals"]
    assert proposals["starts"]["mean"]["values"] == [pytest.approx(FUNCTION(starts).mean())]
    assert proposals["starts"]["feasible"]["mean"] == 1
    assert proposals["mcmc"]["edit_distance"]["mean"] <= 1
    for sequence, score in proposals["genetic, 11 calls per start"]["examples"]:
        assert score == max(0, FUNCTION([sequence])[0])


def test_a_perfect_model_has_perfect_reconstructions():
    """A decoder that is told the answer: what is measured is the comparison, frames and all."""
    pipe = _pipe()
    labels = pipe.processor(DEV.sequences)["labels"]
    pipe.model.decode = lambda latents, **_: labels[: len(latents)]
    settings = EvaluationSettings(**QUICK | {"refinement_steps": []}, no_optimize=True, no_baselines=True)
    reconstruction = evaluate(pipe, TRAIN, DEV, settings)["reconstruction"]
    assert [reconstruction[key] for key in ("site_accuracy", "residue_accuracy", "exact_match", "validity")] == [1] * 4
    assert all(before == after for before, after in reconstruction["examples"])


def test_a_causal_decoder_and_a_model_without_properties_are_measured():
    settings = EvaluationSettings(**QUICK | {"refinement_steps": []}, no_baselines=True)
    result = evaluate(_pipe(causal=True, num_properties=0), TRAIN, DEV, settings)
    assert "optimization" not in result and result["fitness"] == {"fitness": {}}
    assert 0 <= result["reconstruction"]["site_accuracy"] <= 1
    assert "| frechet |" in markdown_tables(result)


def test_sequences_without_any_property_are_measured():
    train, dev = (ProteinData(data.sequences, np.empty((len(data), 0)), []) for data in (TRAIN, DEV))
    result = evaluate(_pipe(num_properties=0), train, dev, EvaluationSettings(**QUICK))
    assert "fitness" not in result and "optimization" not in result


def test_missing_fitness_is_left_out():
    dev = DEV.take(range(len(DEV)))
    dev.properties[::2] = math.nan
    result = evaluate(_pipe(), TRAIN, dev, EvaluationSettings(**QUICK, no_optimize=True))
    assert {values["num"] for values in result["fitness"]["fitness"].values()} == {len(DEV) // 2}
    assert result["smoothness"]["fitness"]["num"] == len(DEV) // 2


def test_the_tables_have_a_row_for_each_number_of_steps_and_each_method(evaluation):
    summary, fitness, samples, proposals = markdown_tables(evaluation).split("\n\n")
    assert "sample Frechet (3 steps)" in summary and len(summary.splitlines()) == 3
    assert len(fitness.splitlines()) == 2 + 3
    assert [line.split(" | ")[0] for line in samples.splitlines()[2:]] == ["| 2", "| 3", "| real, training"]
    assert len(proposals.splitlines()) == 2 + 9
    assert f"{evaluation['optimization']['proposals']['ode']['max']['mean']:.3f}" in proposals


def test_the_script_writes_json_and_a_card_and_prints_the_tables(tmp_path, monkeypatch, capsys):
    _pipe().save_pretrained(tmp_path / "pipeline")
    for name, data in (("train", TRAIN), ("dev", DEV)):
        with open(tmp_path / f"{name}.csv", "w", newline="") as file:
            rows = zip(data.sequences, data.properties[:, 0], strict=True)
            csv.writer(file).writerows([("sequence", "fitness"), *rows])
    FUNCTION.save(tmp_path / "function.json")
    words = ["--num_samples=20", "--num_inference_steps=2", "--seeds=0", "--num_starts=4", "--optimize_steps=1"]
    words += ["--methods", "gradient", "--genetic_budgets=2", "--no_baselines", "--num_neighbors=3"]
    paths = {name: str(tmp_path / f"{name}.csv") for name in ("train", "dev")}
    words += ["--checkpoint", str(tmp_path / "pipeline"), "--train", paths["train"], "--dev", paths["dev"]]
    output = tmp_path / "results" / "tiny.json"
    words += ["--ehrlich", str(tmp_path / "function.json"), "--output", str(output), "--update_card"]
    monkeypatch.setattr(sys, "argv", ["evaluate_protein.py", *words])
    evaluate_protein.main()
    result = json.loads(output.read_text())
    assert json.loads((tmp_path / "pipeline" / "evaluation.json").read_text()) == result
    card = ModelCard.load(tmp_path / "pipeline" / "README.md")
    printed = capsys.readouterr().out.strip().splitlines()
    assert any(line.startswith("| site accuracy |") for line in printed)
    assert all(line in card.text for line in printed[-3:])
    values = {item.metric_name: item.metric_value for item in card.data.eval_results}
    assert values["reconstruction exact match"] == round(result["reconstruction"]["exact_match"], 4)
    assert "(Ehrlich function)" in card.text
    assert (
        result["command"].startswith("python training/evaluate.py protein") and str(tmp_path) not in result["command"]
    )
    assert result["optimization"]["oracle"]["kind"] == "Ehrlich function"
    assert {"torch", "rapidfuzz", "scipy"} <= set(result["versions"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 0}, "`num_samples` must be at least 1, got 0"),
        ({"seeds": []}, "`seeds` and `num_inference_steps`"),
        ({"methods": ["gradient", "luck"]}, r"`methods` must be among .*got \['luck'\]"),
        ({"genetic_budgets": [1]}, "`genetic_budgets` must be at least 2"),
        ({"refinement_steps": [0]}, "`refinement_steps` must be at least 1"),
    ],
)
def test_impossible_settings_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        EvaluationSettings(**arguments)


def test_another_number_of_properties_is_refused():
    with pytest.raises(ValueError, match=r"`property_columns` must name the 2 properties .* got \['fitness'\]"):
        evaluate(_pipe(num_properties=2), TRAIN, DEV, EvaluationSettings(**QUICK))


def test_a_limit_bounds_everything():
    settings = EvaluationSettings(**QUICK, limit=5)
    assert (settings.num_samples, settings.num_starts) == (5, 5)


def test_a_card_needs_a_local_folder():
    with pytest.raises(ValueError, match="`update_card` needs a local folder as `checkpoint`, got 'user/proteins'"):
        EvaluationArguments("user/proteins", ["a.csv"], ["b.csv"], update_card=True)
