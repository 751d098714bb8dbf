import json
import random
from pathlib import Path

import pytest
import torch
from huggingface_hub import ModelCard
from proteins import CAUSAL_DECODER, PROTEINS, tiny_protein_model, tiny_protein_pipe

import benchmark_protein
import train_protein
from arguments import (
    CardArguments,
    EDDPMTrainingArguments,
    ProteinDataArguments,
    ProteinModelArguments,
    parse_arguments,
)
from hf_eddpm import EDDPMConfig, EDDPMPipeline, ProteinCausalDecoder, ProteinConvDecoder
from hf_eddpm.residues import RESIDUES
from prior_baselines import LanguageModel, PriorPipeline
from vae import VariationalAutoencoder

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


def test_every_recipe_of_the_front_is_a_valid_configuration():
    points = benchmark_protein.runs()
    assert len({(run.recipe, run.value) for run in points}) == len(points) == 17
    file = Path(train_protein.__file__).parent / "configs" / "protein_front.json"
    base = json.loads(file.read_text(encoding="utf-8"))["model_config"]
    for run in points:
        tiny_protein_model(**{**base, **run.model_config})


@pytest.mark.parametrize("name", ["protein_gifford", "protein_gifford_paper", "protein_gfp", "protein_gb1"])
def test_the_published_configurations_are_known_to_the_script(name, table, tmp_path):
    config = Path(train_protein.__file__).parent / "configs" / f"{name}.json"
    words = ["--train", str(table), "--output_dir", str(tmp_path), "--bf16", "false"]
    data_args, model_args, _, training_args = parse_arguments(
        ProteinDataArguments, ProteinModelArguments, CardArguments, EDDPMTrainingArguments, args=[str(config), *words]
    )
    decoder = {"model_type": "eddpm_protein_conv", **model_args.model_config.pop("decoder", {})}
    model = EDDPMConfig.from_preset(model_args.preset, **model_args.model_config, decoder=decoder)
    assert model.modality == "protein" and training_args.max_steps >= 1000
    assert data_args.length <= model.encoder.max_position_embeddings
