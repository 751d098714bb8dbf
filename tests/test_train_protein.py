import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from proteins import CAUSAL_DECODER, PROTEINS, tiny_protein_model, tiny_protein_pipe
from transformers import EsmConfig, EsmModel, EsmTokenizer

import protein_front.run as benchmark_protein
from hf_eddpm import EDDPMConfig, EDDPMPipeline, ProteinCausalDecoder, ProteinConvDecoder
from hf_eddpm.modalities.protein.data import ProteinData
from hf_eddpm.modalities.protein.residues import RESIDUES
from hf_eddpm.training import train_protein
from hf_eddpm.training.arguments import EDDPMTrainingArguments, parse_arguments
from hf_eddpm.training.baselines.priors import LanguageModel, PriorPipeline
from hf_eddpm.training.baselines.vae import VariationalAutoencoder
from hf_eddpm.training.options import CardArguments, ProteinDataArguments, ProteinModelArguments

TINY = {
    "encoder": {
        "model_type": "bert",
        "vocab_size": 24,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 32,
    },
    "latent_dim": 6,
    "denoiser_num_layers": 1,
    "denoiser_hidden_size": 16,
}


@pytest.fixture
def table(tmp_path):
    rng = random.Random(0)
    rows = ["sequence,fitness"]
    for row in range(40):
        protein = "".join(rng.choices(RESIDUES, k=rng.randint(3, 8)))
        rows.append(f"{protein},{'' if row % 5 == 0 else rng.random()}")
    (tmp_path / "data.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "data.csv"


@pytest.fixture
def train(tmp_path, table):
    def run(*words: str, source=table, properties=("--property_columns", "fitness"), **config):
        fixed = ["--output_dir", str(tmp_path / "run"), "--max_steps", "2", "--report_to", "none", "--use_cpu"]
        config = json.dumps({**TINY, **config})
        return train_protein.main(["--train", str(source), *properties, "--model_config", config, *fixed, *words])

    return run


def test_two_steps_leave_a_pipeline_that_generates_reconstructs_and_predicts(train, table):
    folder = train()
    pipe = EDDPMPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    assert isinstance(pipe.model.decoder, ProteinConvDecoder)
    assert pipe.processor.length == 8 and pipe.processor.min_length == 1
    assert len(pipe(num_samples=3, num_inference_steps=2).samples) == 3
    assert pipe.predict(["ACDEF", "GHI"]).shape == (2, 1)
    assert type(pipe.scheduler).__name__ == "DPMSolverMultistepScheduler"
    assert pipe.config.default_num_inference_steps == 20
    values = [float(line.split(",")[1]) for line in table.read_text().splitlines()[1:] if line.split(",")[1]]
    assert min(values) - 1e-6 <= float(pipe.model.property_head.minimum) < float(pipe.model.property_head.maximum)
    assert float(pipe.model.property_head.maximum) <= max(values) + 1e-6
    facts = json.loads((folder / "training.json").read_text())
    assert facts["data"]["train"]["proteins"] + facts["data"]["dev"]["proteins"] == 40
    assert facts["data"]["train"]["known fitness"] < facts["data"]["train"]["proteins"]
    card = ModelCard.load(folder / "README.md")
    assert "pipe.predict" in card.text and "protein" in card.data.tags


def test_a_causal_decoder_is_trained_by_configuration(train):
    decoder = {**CAUSAL_DECODER, "n_positions": 32}
    pipe = EDDPMPipeline.from_pretrained(train(decoder=decoder))
    assert isinstance(pipe.model.decoder, ProteinCausalDecoder) and pipe.processor.stop


def test_proteins_of_one_length_make_a_model_of_that_length(train, tmp_path):
    (tmp_path / "one.csv").write_text("sequence\nACD\nEFG\nHIK\nLMN\n")
    pipe = EDDPMPipeline.from_pretrained(train(source=tmp_path / "one.csv", properties=()))
    assert pipe.processor.min_length == pipe.processor.length == 3
    assert pipe.model.property_head is None


def test_a_training_ends_with_the_denoiser_alone_where_that_is_asked_for(train):
    def run(*words):
        folder = train("--ema_decay", "0.9", *words)
        weights = EDDPMPipeline.from_pretrained(folder).model.state_dict()
        return weights, json.loads((folder / "training.json").read_text())

    plain, plain_facts = run()
    finished, facts = run("--finish_steps", "5", "--finish_batch_size", "8")
    changed = {name.split(".")[0] for name, value in finished.items() if not torch.equal(value, plain[name])}
    assert changed == {"denoiser"}
    assert facts["settings"]["finishing"].startswith("5 steps of 8") and "finishing" not in plain_facts["settings"]
    with pytest.raises(ValueError, match="`finish_steps` must be 0 for a baseline"):
        train("--finish_steps", "1", "--no_latents", "true")


def test_the_baseline_is_trained_and_loaded_as_what_it_is(train):
    pipe = EDDPMPipeline.from_pretrained(train("--vae_kl_weight", "0.5"))
    assert isinstance(pipe.model, VariationalAutoencoder)
    samples = pipe.decode(pipe.model.sample_prior(3, torch.Generator().manual_seed(0)))
    assert len(samples) == 3 and all(set(sample) <= set(RESIDUES + "-") for sample in samples)


def test_a_language_model_of_proteins_is_trained_without_latents(train):
    pipe = EDDPMPipeline.from_pretrained(train("--no_latents", "true", decoder={**CAUSAL_DECODER, "n_positions": 32}))
    assert isinstance(pipe.model, LanguageModel) and pipe.model.property_head is None
    assert float(pipe.encode(["ACDE"]).latents.abs().max()) == 0
    pipe = PriorPipeline.around(pipe)
    pipe.decoding = {"do_sample": True, "top_k": 0}
    generator = torch.Generator().manual_seed(0)
    samples, others = pipe(6, generator=generator).samples, pipe(6, generator=generator).samples
    assert samples != others and samples == pipe(6, generator=torch.Generator().manual_seed(0)).samples
    assert len(set(samples)) > 1 and set("".join(samples)) <= set(RESIDUES)
    with pytest.raises(ValueError, match="`no_latents` needs a causal decoder"):
        train("--no_latents", "true")
    with pytest.raises(ValueError, match="`vae_kl_weight` and `no_latents` exclude each other"):
        train("--no_latents", "true", "--vae_kl_weight", "0.1")


@pytest.fixture
def classified(tmp_path, table):
    header, *rows = table.read_text().splitlines()
    classes = [("0", "2", "")[row % 3] for row in range(len(rows))]
    lines = [f"{header},kind", *(f"{row},{kind}" for row, kind in zip(rows, classes, strict=True))]
    (tmp_path / "classified.csv").write_text("\n".join(lines) + "\n")
    return tmp_path / "classified.csv"


def test_a_column_of_classes_trains_a_denoiser_that_is_told_them(train, classified):
    folder = train("--class_column", "kind", source=classified)
    pipe = EDDPMPipeline.from_pretrained(folder)
    assert pipe.model.config.num_classes == 3
    facts = json.loads((folder / "training.json").read_text())["data"]
    assert facts["train"]["known classes"] + facts["dev"]["known classes"] == 27
    told = {"num_inference_steps": 3, "generator": torch.Generator().manual_seed(0), "output_type": "latent"}
    latents = pipe(4, class_labels=[0, 1, 2, 2], guidance_scale=2.0, **told).latents
    assert latents.shape[0] == 4 and latents.isfinite().all()
    vae = EDDPMPipeline.from_pretrained(train("--class_column", "kind", "--vae_kl_weight", "0.1", source=classified))
    assert isinstance(vae.model, VariationalAutoencoder)


@pytest.mark.parametrize(
    ("words", "config", "message"),
    [
        (["--class_column", "kind"], {"num_classes": 2}, "`num_classes` = 2 needs classes below it .* got 2"),
        ([], {"num_classes": 2}, "`class_column` must name the column of the 2 classes"),
        (["--class_column", "family"], {}, "`class_column` 'family' is not in"),
        (["--class_column", "fitness"], {}, "`class_column` 'fitness' must hold integers of at least 0"),
    ],
)
def test_classes_that_do_not_fit_are_refused(train, classified, words, config, message):
    with pytest.raises(ValueError, match=message):
        train(*words, source=classified, **config)


def test_a_column_without_any_class_is_refused(train, tmp_path, table):
    header, *rows = table.read_text().splitlines()
    (tmp_path / "none.csv").write_text("\n".join([f"{header},kind", *(f"{row}," for row in rows)]) + "\n")
    with pytest.raises(ValueError, match="`class_column` 'kind' must hold a class somewhere"):
        train("--class_column", "kind", source=tmp_path / "none.csv")


def test_held_out_proteins_longer_than_the_frame_are_refused(train):
    with pytest.raises(ValueError, match="`train` must hold proteins of 1 to 4 residues"):
        train("--length", "4")


def protein_batch():
    return tiny_protein_pipe().processor(PROTEINS)


def make_vae(kl_weight):
    config = tiny_protein_model(latent_normalization="none").config
    torch.manual_seed(0)
    return VariationalAutoencoder(config, kl_weight)


def test_the_vaes_loss_is_its_bound(generator):
    model = make_vae(1.0).train()
    batch = dict(protein_batch())
    output = model(**batch, generator=generator)
    features = model.encoder(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"])
    posterior = torch.distributions.Normal(
        model.bottleneck.project(features), torch.exp(0.5 * model.log_variance(features))
    )
    prior = torch.distributions.Normal(torch.zeros(()), torch.ones(()))
    units = batch["labels"].numel()
    expected = torch.distributions.kl_divergence(posterior, prior).sum() / units
    torch.testing.assert_close(output.diffusion_loss, expected)
    nats, _ = model.decoder(output.latents, labels=batch["labels"])
    torch.testing.assert_close(output.loss, nats.sum() / units + expected)


def test_the_kl_weight_scales_the_kl_alone():
    losses = []
    for weight in (0.0, 2.0):
        model = make_vae(weight).train()
        losses.append(model(**protein_batch(), generator=torch.Generator().manual_seed(0)))
    torch.testing.assert_close(losses[1].loss - losses[0].loss, 2 * losses[0].diffusion_loss)
    with pytest.raises(ValueError, match="`kl_weight`"):
        make_vae(-1.0)


def test_the_front_has_a_row_for_each_point_with_the_spread_over_its_seeds(tmp_path):
    results = [
        {
            "recipe": recipe,
            "knob": "kl_weight",
            "value": value,
            "seed": seed,
            "real_frechet": 0.03,
            "exact_match": 0.5 + seed / 10,
            "frechet": 0.2,
            "site_accuracy": 0.9,
            "validity": 1.0,
            "uniqueness": 1.0,
        }
        for recipe in ("VAE", "default")
        for value in (0.1, 0.3)
        for seed in (1, 2, 3)
    ]
    table = benchmark_protein.draw(results, tmp_path / "front.png")
    rows = table.splitlines()[2:]
    assert len(rows) == 4 and "0.700 ± 0.100" in rows[0]
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    assert (tmp_path / "front.md").read_text() == table + "\n"


def test_paths_and_edits_have_a_table_of_their_own_for_the_points_that_measured_them(tmp_path):
    old = {"knob": "kl_weight", "seed": 1, "real_frechet": 0.03, "exact_match": 0.5, "frechet": 0.2}
    walked = {**old, "path_validity": 0.875, "edit_score_change_1": 0.125, "edit_score_change_2": None}
    points = [
        {**old, "recipe": "VAE", "value": 0.1},
        {**walked, "recipe": "default", "value": 0.3},
        {**walked, "recipe": "two-stage", "value": 0.3, "largest_step": 0.25},
    ]
    first, second = benchmark_protein.draw(points, tmp_path / "front.png").split("\n\n")
    assert len(first.splitlines()) == 5 and "0.875" not in first
    assert second.splitlines() == [
        "| recipe | knob | seeds | value | valid between | largest step | score change, 1 |",
        "| --- | --- | --- | --- | --- | --- | --- |",
        "| default | kl_weight | 1 | 0.3 | 0.875 |  | 0.125 |",
        "| two-stage | kl_weight | 1 | 0.3 | 0.875 | 0.250 | 0.125 |",
    ]


@pytest.mark.parametrize("name", ["protein_front", "protein_front_gfp"])
def test_every_recipe_of_the_front_is_a_valid_configuration(name):
    points = benchmark_protein.runs()
    assert len({(run.recipe, run.value) for run in points}) == len(points) == 17
    file = Path(__file__).parent.parent / "training" / "configs" / f"{name}.json"
    given = json.loads(file.read_text(encoding="utf-8"))
    assert given["alignment"] in ("left", "center") and given["length"] > 0
    for run in points:
        tiny_protein_model(**{**given["model_config"], **run.model_config})


def test_the_gaussian_shares_its_training_with_the_two_stage_autoencoder():
    groups = benchmark_protein.trainings(benchmark_protein.runs())
    assert sum(map(len, groups)) == 17
    shared = [group for group in groups if len(group) > 1]
    assert [run.value for group in shared for run in group] == [0.1, 0.1, 0.03, 0.03, 0.3, 0.3]
    for group in shared:
        assert [run.recipe for run in group] == ["two-stage", "autoencoder, Gaussian prior"]
        assert group[0].model_config == group[1].model_config


def test_only_the_chosen_points_are_run_and_unknown_ones_refused():
    points = benchmark_protein.runs()
    assert benchmark_protein.select(points, None, None) == points
    chosen = benchmark_protein.select(points, ["default", "VAE"], [0.03])
    assert {(run.recipe, run.value) for run in chosen} == {("default", 0.03), ("VAE", 0.03)}
    with pytest.raises(ValueError, match=r"`recipes` must be among \['paper', .*got \['defaults'\]"):
        benchmark_protein.select(points, ["default", "defaults"], None)
    with pytest.raises(ValueError, match=r"`values` must be among \[0.03, 0.1, 0.3\], .*got \[1.0\]"):
        benchmark_protein.select(points, ["default"], [0.1, 1.0])


UNFIT, FIT = "CW"


def make_judges():
    """Judges of forty proteins of eight sites: six unfit residues or six fit ones, and two that do not matter."""
    rng = random.Random(0)
    tails = ["".join(rng.choices("DEFGH", k=2)) for _ in range(20)]
    proteins = [residue * 6 + tail for tail in tails for residue in (UNFIT, FIT)]
    fitness = np.array([[float(protein.count(FIT))] for protein in proteins])
    data = ProteinData(proteins, fitness, ["fitness"])
    return benchmark_protein.Judges(data, data, benchmark_protein.Frame(8, "left"), num_samples=10)


class SpelledPipeline:
    """Latents that are the residues themselves: it edits and walks without a model, so that the result is known."""

    def encode(self, proteins):
        return torch.stack([torch.tensor([RESIDUES.index(letter) for letter in protein]) for protein in proteins])

    def decode(self, latents):
        return ["".join(RESIDUES[int(index)] for index in row) for row in latents.round()]

    def direction(self, positives, negatives):
        return self.encode(positives).double().mean(0) - self.encode(negatives).double().mean(0)

    def edit(self, proteins, direction, scale):
        moved = self.encode(proteins) + scale * direction.round()
        return self.decode(moved.clamp(0, RESIDUES.index(FIT)))

    def interpolate(self, starts, ends, num_steps, space, noise_level):
        assert space == "latents" and noise_level == 0
        cuts = [round(8 * step / (num_steps - 1)) for step in range(num_steps)]
        pairs = zip(starts, ends, strict=True)
        return [[start[: 8 - cut] + end[8 - cut :] for cut in cuts] for start, end in pairs]


def test_an_edit_along_fitness_raises_the_judges_score_and_its_price_is_the_residues_it_changes():
    judges = make_judges()
    result = benchmark_protein.measure_edits(SpelledPipeline(), judges, judges.oracle)
    assert result["edit_score_change_0"] == 0 and result["edit_identity_0"] == 1
    assert result["edit_score_change_1"] > 1  # half of the proteins rise by up to six, the others stay at the top
    assert result["edit_identity_1"] == pytest.approx(1 - 6 / 8 / 2)
    assert result["edit_validity_1"] == 1


def test_edits_that_leave_nothing_valid_have_no_score():
    judges = make_judges()
    pipe = SpelledPipeline()
    pipe.edit = lambda proteins, direction, scale: ["A-C" if scale else protein for protein in proteins]
    result = benchmark_protein.measure_edits(pipe, judges, judges.oracle)
    assert result["edit_score_change_1"] is None and result["edit_validity_1"] == 0
    assert result["edit_score_change_0"] == 0


def test_paths_that_change_a_residue_at_a_time_are_even_and_padding_within_is_counted_as_invalid():
    judges = make_judges()
    pipe = SpelledPipeline()
    result = benchmark_protein.measure_paths(pipe, judges)
    assert result["path_validity"] == 1 and result["path_length"] == pytest.approx(1)
    assert result["largest_step"] < 1 and result["num_paths"] <= 20
    straight = pipe.interpolate

    def broken(*arguments, **others):
        return [[*path[:5], "A-C", *path[6:]] for path in straight(*arguments, **others)]

    pipe.interpolate = broken
    worse = benchmark_protein.measure_paths(pipe, judges)
    assert worse["path_validity"] == pytest.approx(8 / 9)
    assert worse["middle_frechet"] != result["middle_frechet"] and worse["largest_step"] > result["largest_step"]


def test_the_benchmark_measures_two_points_by_one_training_and_repeats_none(table, tmp_path, monkeypatch):
    config = {"model_config": TINY, "property_columns": ["fitness"], "length": 8, "alignment": "left"}
    (tmp_path / "front.json").write_text(json.dumps({**config, "report_to": "none", "card_name": "front"}))
    trained = []

    def count(words):
        trained.append(words)
        return train_protein.main(words)

    monkeypatch.setattr(benchmark_protein, "train_protein", count)
    data = ["--train", str(table), "--dev", str(table), "--output_dir", str(tmp_path / "out"), "--max_steps", "2"]
    few = ["--seeds", "1", "--num_samples", "6", "--num_threads", "1", "--use_cpu"]
    words = [str(tmp_path / "front.json"), *data, *few, "--recipes", "two-stage", "autoencoder, Gaussian prior"]
    for _ in range(2):
        benchmark_protein.main([*words, "--values", "0.1"])
        assert len(trained) == 1
    results = [json.loads(file.read_text()) for file in sorted((tmp_path / "out").glob("*.json"))]
    assert [result["recipe"] for result in results] == ["autoencoder, Gaussian prior", "two-stage"]
    for name in ("exact_match", "path_length", "edit_identity_1", "train_seconds"):
        assert results[0][name] == results[1][name]
    assert all(result["num_samples"] == 6 and result["oracle_pearson"] is not None for result in results)
    assert ["solver_frechet" in result for result in results] == [False, True]  # a Gaussian has no solver
    for wrong, message in (
        (["--num_samples", "1"], "`num_samples` must be an integer of at least 2"),
        (["--values", "7"], "`values` must be among"),
    ):
        with pytest.raises(ValueError, match=message):
            benchmark_protein.main([*words, *wrong])


@pytest.mark.parametrize(
    "name",
    [
        "protein_gifford",
        "protein_gifford_causal",
        "protein_gifford_paper",
        "protein_gfp",
        "protein_gb1",
        "protein_lengths",
    ],
)
def test_the_published_configurations_are_known_to_the_script(name, table, tmp_path):
    config = Path(__file__).parent.parent / "training" / "configs" / f"{name}.json"
    words = ["--train", str(table), "--output_dir", str(tmp_path), "--precision", "fp32"]
    data_args, model_args, _, training_args = parse_arguments(
        ProteinDataArguments, ProteinModelArguments, CardArguments, EDDPMTrainingArguments, args=[str(config), *words]
    )
    decoder = {"model_type": "eddpm_protein_conv", **model_args.model_config.pop("decoder", {})}
    model = EDDPMConfig.from_preset(model_args.preset, **model_args.model_config, decoder=decoder)
    assert model.modality == "protein" and training_args.max_steps >= 1000
    assert data_args.length <= model.encoder.max_position_embeddings


@pytest.fixture
def started(train, table, tmp_path, monkeypatch):
    """Function that trains from a checkpoint of tiny proteins, which it makes first, on the table or another one."""
    train("--upper_case")
    folder = (tmp_path / "run").rename(tmp_path / "start") / "pipeline"
    monkeypatch.setattr(train_protein.logger, "propagate", True)
    monkeypatch.setattr(train_protein.logger.parent, "propagate", True)

    def run(*words, source=table):
        fixed = ["--output_dir", str(tmp_path / "run"), "--max_steps", "1", "--report_to", "none", "--use_cpu"]
        fixed += ["--num_previews", "0", "--init_from", str(folder)]
        return train_protein.main(["--train", str(source), "--property_columns", "fitness", *fixed, *words])

    return run


def test_a_start_predicts_in_the_unit_of_its_own_measurements(started, table, tmp_path, caplog):
    header, *rows = table.read_text().splitlines()
    cells = [row.split(",") for row in rows]
    scaled = [f"{protein},{value and 1000 + 70 * float(value)}" for protein, value in cells]
    (tmp_path / "scaled.csv").write_text("\n".join([header, *scaled]) + "\n")
    folder = started(source=tmp_path / "scaled.csv")
    head = EDDPMPipeline.from_pretrained(folder).model.property_head
    assert 1020 < float(head.target_mean) < 1050 and 5 < float(head.target_std) < 40
    assert 1000 <= float(head.minimum) < float(head.maximum) <= 1070
    metrics = json.loads((folder / "training.json").read_text())["metrics"]
    assert metrics["eval_property_loss"] < 10
    assert "Property 'fitness': the training data set the head's unit, 10" in caplog.text


def test_a_start_takes_what_options_it_can_and_refuses_the_others_by_name(started, table, tmp_path):
    lower = tmp_path / "lower.csv"
    lower.write_text(table.read_text().lower())
    pipe = EDDPMPipeline.from_pretrained(started(source=lower))  # as the checkpoint does
    assert pipe.processor.upper_case and pipe.processor.length == 8 and pipe.processor.alignment == "left"
    assert not EDDPMPipeline.from_pretrained(started("--upper_case", "false")).processor.upper_case
    for words, message in (
        (["--length", "7"], "`length` must be that of `init_from`, 8, or left out, got 7"),
        (["--alignment", "center"], "`alignment` must be that of `init_from`, 'left', or left out, got 'center'"),
        (["--property_columns", "fitness", "sequence"], "`property_columns` must name .* each of the 1 properties"),
        (["--attn_implementation", "fast"], "`?attn_implementation"),
    ):
        with pytest.raises(ValueError, match=message):
            started(*words)


def test_the_attention_of_a_start_is_the_one_asked_for(started, table, tmp_path):
    start = started().parent / "pipeline"
    for given, expected in ((None, "sdpa"), ("eager", "eager")):
        model_args = ProteinModelArguments(init_from=str(start), attn_implementation=given)
        data_args = ProteinDataArguments(train=[str(table)], property_columns=["fitness"])
        train, _ = train_protein.load_data(data_args, 0)
        model, _ = train_protein.build_model(model_args, data_args, train)
        assert model.encoder.backbone.config._attn_implementation == expected


@pytest.fixture
def esm(tmp_path):
    """Folder of a tiny pretrained encoder with a vocabulary of its own."""
    vocabulary = ["<cls>", "<pad>", "<eos>", "<unk>", *RESIDUES, "<mask>"]
    (tmp_path / "vocab.txt").write_text("\n".join(vocabulary))
    EsmTokenizer(str(tmp_path / "vocab.txt")).save_pretrained(tmp_path / "esm")
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "intermediate_size": 32, "num_hidden_layers": 2}
    ids = {"vocab_size": len(vocabulary), "mask_token_id": len(vocabulary) - 1, "pad_token_id": 1}
    config = EsmConfig(**ids, **sizes, position_embedding_type="rotary")
    EsmModel(config, add_pooling_layer=False).save_pretrained(tmp_path / "esm")
    return tmp_path / "esm"


def test_values_beside_a_pretrained_encoder_hold_and_unknown_ones_are_refused(esm, table):
    data_args = ProteinDataArguments(train=[str(table)], property_columns=["fitness"])
    train, _ = train_protein.load_data(data_args, 0)

    def build(attention=None, **encoder):
        config = {name: value for name, value in TINY.items() if name != "encoder"} | {"encoder": encoder}
        model_args = ProteinModelArguments(encoder=str(esm), attn_implementation=attention, model_config=config)
        return train_protein.build_model(model_args, data_args, train)[0]

    stored = EsmModel.from_pretrained(esm, add_pooling_layer=False).state_dict()
    backbone = build().encoder.backbone
    assert all(map(torch.equal, backbone.state_dict().values(), stored.values()))
    assert backbone.config._attn_implementation == "sdpa" and backbone.config.hidden_dropout_prob == 0.1
    changed = build("eager", num_hidden_layers=1, hidden_dropout_prob=0.0)
    assert changed.encoder.backbone.config._attn_implementation == "eager"
    assert len(changed.encoder.backbone.encoder.layer) == 1
    assert changed.config.encoder.hidden_dropout_prob == 0.0 == changed.encoder.backbone.config.hidden_dropout_prob
    for values, message in (
        ({"num_layer": 1}, "`model_config` must give values of `encoder` '.*esm' .*, got 'num_layer'"),
        ({"model_type": "bert"}, "`model_config` must fit `encoder` '.*esm', whose `model_type` is 'esm', got 'bert'"),
        ({"num_hidden_layers": 3}, "whose `num_hidden_layers` is 2, got 3"),
        ({"intermediate_size": 8}, "`model_config` must fit `encoder` '.*esm', whose '.*' is of another size"),
    ):
        with pytest.raises(ValueError, match=message):
            build(**values)
    with pytest.raises(ValueError, match="attn_implementation"):
        build("fast")
