import copy
import dataclasses
import math

import pytest
import torch
from conftest import TINY, tiny_config
from transformers import AutoConfig, BertConfig, BertModel, PreTrainedConfig

from hf_eddpm import EDDPMConfig, EDDPMModel, EDDPMPipeline, EDDPMScheduler, register_modality
from hf_eddpm.modalities import registry as modalities

INVALID = [
    ("modality", "smell"),
    ("latent_normalization", "layer"),
    ("prediction_type", "noise"),
    ("beta_schedule", "constant"),
    ("loss_weighting", "paper"),
    ("alignment_target", "median"),
    ("decoder_conditioning", "cross"),
    ("decoder_prefix_length", 0),
    ("decoder_prefix_length", 1.5),
    ("pooling", "cls"),
    ("denoiser_type", "unet"),
    *[
        (name, value)
        for name in (
            "latent_dim",
            "num_latents",
            "denoiser_num_layers",
            "denoiser_hidden_size",
            "denoiser_num_attention_heads",
            "denoiser_samples_per_latent",
            "num_train_timesteps",
        )
        for value in (0, -1, 2.0, True, "4")
    ],
    *[(name, value) for name in ("beta_start", "beta_end") for value in (0, 1, -0.1, math.nan)],
    *[("encoder_noise_variance", value) for value in (0, -0.1, math.inf, math.nan)],
    *[(name, value) for name in ("encoder_gradient_scale", "label_dropout") for value in (-0.1, 1.1, math.nan)],
    *[("num_classes", value) for value in (-1, 2.0, True)],
    *[("decoder_word_dropout", value) for value in (-0.1, 1, math.nan)],
    *[(name, value) for name in ("reconstruction_weight", "diffusion_weight") for value in (-1, math.inf, math.nan)],
    *[("trained_betas", value) for value in ([0.1], [0.5] * 999 + [1.0], [0.5] * 999 + [math.nan])],
]


@pytest.mark.parametrize(("name", "value"), INVALID, ids=lambda value: str(value)[:20])
def test_a_value_outside_its_range_is_refused_by_its_name(name, value):
    with pytest.raises(ValueError, match=f"`{name}`"):
        EDDPMConfig(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("beta_start", "0.1"),
        ("encoder_noise_variance", "0.2"),
        ("encoder_gradient_scale", "a"),
        ("decoder_word_dropout", None),
        ("reconstruction_weight", "1"),
        ("diffusion_weight", None),
        ("initializer_range", -0.02),
        ("trained_betas", 3),
        ("encoder", "bert"),
        ("modality", ["text"]),
    ],
)
def test_a_value_of_the_wrong_type_is_refused_by_its_name(name, value):
    with pytest.raises((TypeError, ValueError), match=f"`{name}`"):
        EDDPMConfig(**{name: value})


def test_the_transformers_heads_must_divide_its_width():
    with pytest.raises(ValueError, match="`denoiser_num_attention_heads` must divide .* = 512, got 3"):
        EDDPMConfig(denoiser_type="transformer", denoiser_num_attention_heads=3)
    assert EDDPMConfig(denoiser_num_attention_heads=3).denoiser_type == "mlp"  # which has no heads


def test_a_memory_has_no_prefix_of_several_vectors():
    with pytest.raises(
        ValueError, match="`decoder_prefix_length` must be 1 with `decoder_conditioning` 'memory', got 2"
    ):
        EDDPMConfig(decoder_conditioning="memory", decoder_prefix_length=2)


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [("latentdim", "latent_dim"), ("encoder_noise_varience", "encoder_noise_variance"), ("num_latent", "num_latents")],
)
def test_a_misspelt_keyword_is_refused_with_the_right_one(misspelt, meant):
    with pytest.raises(ValueError, match=f"`{misspelt}`.*`{meant}`"):
        EDDPMConfig(**{misspelt: 1})


def test_every_value_is_documented():
    fields = {field.name for field in dataclasses.fields(EDDPMConfig)} - {
        field.name for field in dataclasses.fields(PreTrainedConfig)
    }
    assert {name for name in fields if f"\n        {name}: " not in EDDPMConfig.__doc__} <= {"tie_word_embeddings"}


def test_no_argument_is_needed():
    config = EDDPMConfig()
    assert config.modality == "text"
    assert isinstance(config.encoder, PreTrainedConfig) and isinstance(config.decoder, PreTrainedConfig)
    assert config.latent_size == config.num_latents * config.latent_dim


def test_two_configs_share_no_backbone_config():
    first, second = EDDPMConfig(), EDDPMConfig()
    first.encoder.hidden_size = 17
    assert second.encoder.hidden_size != 17
    assert EDDPMConfig().encoder.hidden_size != 17


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"decoder": "gpt2", "num_latents": 3, "pooling": "attention", "decoder_conditioning": "memory"},
        {"encoder": {"model_type": "llama", **TINY}, "decoder": {"model_type": "llama", **TINY, "hidden_size": 64}},
        {"num_train_timesteps": 3, "trained_betas": [0.1, 0.2, 0.3], "reconstruction_weight": None},
        {"loss_weighting": "elbo", "alignment_target": "mean", "latent_normalization": "none"},
        {"denoiser_type": "transformer", "denoiser_num_attention_heads": 2},
        {"decoder_prefix_length": 3},
    ],
    ids=["default", "gpt2", "one family twice", "trained betas", "choices", "transformer", "prefix length"],
)
def test_a_saved_config_loads_equal(tmp_path, values):
    config = tiny_config(**values)
    config.save_pretrained(tmp_path)
    for loaded in (EDDPMConfig.from_pretrained(tmp_path), AutoConfig.from_pretrained(tmp_path)):
        assert type(loaded) is EDDPMConfig
        assert {**loaded.to_dict(), "_name_or_path": ""} == config.to_dict()
        assert type(loaded.encoder) is type(config.encoder) and type(loaded.decoder) is type(config.decoder)
        assert loaded.decoder.hidden_size == config.decoder.hidden_size


def test_trained_betas_may_be_an_array(tmp_path):
    betas = torch.linspace(0.1, 0.3, 3).numpy()
    tiny_config(num_train_timesteps=3, trained_betas=betas).save_pretrained(tmp_path)
    assert EDDPMConfig.from_pretrained(tmp_path).trained_betas == pytest.approx([0.1, 0.2, 0.3])


def test_an_invalid_value_in_a_saved_file_is_refused(tmp_path):
    tiny_config().save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(path.read_text().replace('"latent_dim": 8', '"latent_dim": 0'))
    with pytest.raises(ValueError, match="`latent_dim`"):
        EDDPMConfig.from_pretrained(tmp_path)


@pytest.mark.parametrize("loader", [EDDPMConfig, EDDPMModel])
def test_the_folder_of_another_model_type_is_refused(tmp_path, loader):
    BertModel(BertConfig(**TINY)).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="'bert'"):
        loader.from_pretrained(tmp_path)


def test_an_unknown_preset_is_refused_with_those_there_are(monkeypatch):
    monkeypatch.setattr(modalities, "_MODALITIES", dict(modalities._MODALITIES))
    text = modalities.get_modality("text")
    register_modality("text", dataclasses.replace(text, presets={"text-test": {"latent_dim": 5}}))
    with pytest.raises(ValueError, match=r"`name`.*'text-test'.*'no-such'"):
        EDDPMConfig.from_preset("no-such")


def test_a_preset_is_a_start_that_overrides_change(monkeypatch):
    preset = {"latent_dim": 5, "encoder": {"model_type": "bert", **TINY}}
    kept = copy.deepcopy(preset)
    monkeypatch.setattr(modalities, "_MODALITIES", dict(modalities._MODALITIES))
    register_modality("text", dataclasses.replace(modalities.get_modality("text"), presets={"text-test": preset}))
    config = EDDPMConfig.from_preset("text-test", num_latents=2)
    assert (config.modality, config.latent_dim, config.num_latents) == ("text", 5, 2)
    config.encoder.hidden_size = 17
    assert preset == kept
    assert EDDPMConfig.from_preset("text-test", latent_dim=6).latent_dim == 6


@pytest.mark.parametrize("name", [name for modality in modalities._MODALITIES.values() for name in modality.presets])
def test_every_preset_builds_a_model(name):
    config = EDDPMConfig.from_preset(name)
    with torch.device("meta"):
        assert EDDPMModel(config).num_parameters() > 0


def test_a_registered_modality_is_a_valid_choice(monkeypatch):
    monkeypatch.setattr(modalities, "_MODALITIES", dict(modalities._MODALITIES))
    register_modality("smell", modalities.get_modality("text"))
    assert EDDPMConfig(modality="smell").modality == "smell"


SCHEDULES = [
    {},
    {"beta_schedule": "scaled_linear", "beta_start": 0.001, "beta_end": 0.02, "num_train_timesteps": 50},
    {"beta_schedule": "squaredcos_cap_v2", "prediction_type": "v_prediction"},
    {"trained_betas": [0.1, 0.2, 0.3], "num_train_timesteps": 3, "prediction_type": "sample"},
]


@pytest.mark.parametrize("values", SCHEDULES)
def test_the_models_chain_and_the_pipelines_are_the_same(processor, values):
    config = tiny_config(**values)
    model = EDDPMModel(config)
    pipe = EDDPMPipeline(model, EDDPMScheduler(**config.scheduler_config), processor)
    assert torch.equal(pipe.scheduler.alphas_cumprod, model.scheduler.alphas_cumprod)
    assert pipe.scheduler.config.prediction_type == model.scheduler.config.prediction_type == config.prediction_type
    assert len(pipe.scheduler) == len(model.scheduler) == config.num_train_timesteps


def test_defaults_of_config_and_scheduler_agree():
    assert torch.equal(EDDPMScheduler().betas, EDDPMScheduler(**EDDPMConfig().scheduler_config).betas)


def test_tied_embeddings_are_the_decoders():
    decoder = {
        "model_type": "llama",
        "hidden_size": 8,
        "num_attention_heads": 2,
        "num_hidden_layers": 1,
        "vocab_size": 50,
    }
    tied, own = (EDDPMConfig(decoder=dict(decoder), tie_word_embeddings=value) for value in (True, False))
    assert tied.decoder.tie_word_embeddings and not own.decoder.tie_word_embeddings
    assert EDDPMConfig(decoder={**decoder, "tie_word_embeddings": True}).decoder.tie_word_embeddings


@pytest.mark.parametrize(("name", "share"), [("text-small", 0), ("text-paper", 1)])
def test_the_chains_gradient_reaches_the_encoder_of_text_in_the_papers_preset_alone(name, share):
    assert EDDPMConfig.from_preset(name).encoder_gradient_scale == share
