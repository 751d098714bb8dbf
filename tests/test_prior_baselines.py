"""Autoencoders without a chain and a language model, as text is compared with."""

import argparse
import json

import pytest
import torch
from conftest import SENTENCES, tiny_model

import text_front.run as benchmark_text
from hf_eddpm import EDDPMPipeline
from hf_eddpm.training import train_text
from hf_eddpm.training.baselines.priors import LanguageModel, PriorPipeline
from hf_eddpm.training.baselines.vae import VariationalAutoencoder
from hf_eddpm.training.text_measures import EvaluationSettings
from text_front.plot import draw

TINY = {
    "preset": "text-small",
    "vocab_size": 300,
    "max_length": 12,
    "model_config": {
        "latent_dim": 6,
        "denoiser_num_layers": 1,
        "denoiser_hidden_size": 16,
        "encoder": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
        "decoder": {"n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32},
    },
    "max_steps": 2,
    "per_device_train_batch_size": 4,
    "learning_rate": 0.01,
    "eval_strategy": "no",
    "save_strategy": "no",
    "num_previews": 2,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
}


pytestmark = pytest.mark.usefixtures("quiet_again")


@pytest.fixture
def files(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(TINY))
    for label in (0, 1):
        (tmp_path / f"{label}.txt").write_text("\n".join(f"{text} {label}" for text in SENTENCES) + "\n")
    return [f"{tmp_path}/0.txt=0", f"{tmp_path}/1.txt=1"]


@pytest.mark.parametrize(
    ("words", "kind"),
    [(["--vae_kl_weight", "0.1"], VariationalAutoencoder), (["--no_latents", "true"], LanguageModel)],
)
def test_a_baseline_is_trained_and_loaded_as_what_it_is(files, tmp_path, words, kind):
    folder = train_text.main([f"{tmp_path}/config.json", "--train", *files, "--output_dir", f"{tmp_path}/run", *words])
    pipe = EDDPMPipeline.from_pretrained(folder)
    assert type(pipe.model) is kind
    assert len(PriorPipeline.around(pipe)(3).samples) == 3


def test_a_language_models_loss_is_its_decoders_and_the_latents_say_nothing(make_pipe):
    torch.manual_seed(0)
    model = LanguageModel(tiny_model(latent_normalization="none").config).eval()
    pipe = make_pipe(model)
    batch = dict(pipe.processor(SENTENCES))
    nats, tokens = model.decoder(torch.zeros(len(SENTENCES), 2, 8), labels=batch["labels"])
    output = model(**batch)
    torch.testing.assert_close(output.loss, nats.sum() / tokens.sum())
    assert not pipe.encode(SENTENCES).latents.any() and len(set(pipe.reconstruct(SENTENCES))) == 1
    trained = {name.split(".")[0] for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {"decoder"}
    with pytest.raises(ValueError, match="`latent_normalization` must be 'none'"):
        LanguageModel(tiny_model().config)


def test_a_fitted_prior_has_the_latents_mean_and_covariance(pipe):
    mixing = torch.randn(16, 16, generator=torch.Generator().manual_seed(0))
    latents = 2 + (torch.randn(3000, 16, generator=torch.Generator().manual_seed(1)) @ mixing).view(-1, 2, 8)
    prior = PriorPipeline.around(pipe)
    prior.decode = lambda latents, **_: []
    standard = prior(4000, generator=torch.Generator().manual_seed(2)).latents.flatten(1)
    torch.testing.assert_close(standard.T.cov(), torch.eye(16), atol=0.1, rtol=0)
    prior.fit(latents)
    drawn = prior(20_000, generator=torch.Generator().manual_seed(2)).latents.flatten(1)
    expected = latents.flatten(1).T.cov() + pipe.model.config.encoder_noise_variance * torch.eye(16)
    torch.testing.assert_close(drawn.mean(0), latents.flatten(1).mean(0), atol=0.15, rtol=0)
    torch.testing.assert_close(drawn.T.cov(), expected, atol=1.0, rtol=0.1)


def test_sampled_sentences_repeat_with_the_seed_and_differ_without(pipe):
    prior = PriorPipeline.around(pipe)
    prior.decoding = {"do_sample": True, "top_k": 0}
    prior.factor = 0 * prior.factor  # the same latents
    first, again, other = (prior(3, generator=torch.Generator().manual_seed(seed)).samples for seed in (0, 0, 1))
    assert first == again != other
    assert prior.interpolate(SENTENCES[0], SENTENCES[1], num_steps=3, space="noise") == pipe.interpolate(
        SENTENCES[0], SENTENCES[1], num_steps=3, noise_level=0
    )


def test_every_kind_of_point_is_measured_and_drawn(files, tmp_path, monkeypatch):
    small = EvaluationSettings(limit=4, num_inference_steps=[2], seeds=[0], path_steps=3, noise_scales=[])
    small.refinement_steps, small.edit_refinement_steps = [], 0
    monkeypatch.setattr(benchmark_text, "SETTINGS", small)
    decoder = {"decoder": {"n_embd": 24, "n_layer": 1, "n_head": 2, "n_positions": 64}}
    monkeypatch.setitem(benchmark_text.LANGUAGE_MODEL, "decoder", decoder["decoder"])
    arguments = argparse.Namespace(train=files, dev=files, num_threads=1, use_cpu=True, max_steps=1, num_samples=4)
    points = {run.prior: run for run in benchmark_text.runs()}
    assert set(points) == {"chain", "fitted", "standard", "language model"}
    together = [points for points in benchmark_text.trainings() if len(points) > 1]
    assert len(together) == len(benchmark_text.NOISE_VARIANCES)
    assert all({run.prior for run in points} == {"chain", "fitted"} for points in together)
    files = []
    drawn = []
    draw_latents = PriorPipeline.__call__
    monkeypatch.setattr(
        PriorPipeline, "__call__", lambda self, *args, **kw: drawn.append(draw_latents(self, *args, **kw)) or drawn[-1]
    )
    for name, run in points.items():
        trained = benchmark_text.train(run, 1, arguments, tmp_path / name, tmp_path / "config.json")
        result = benchmark_text.measure(run, 1, arguments, *trained)
        files.append(tmp_path / f"{name}.json")
        files[-1].write_text(json.dumps(result, allow_nan=False))
    assert not drawn[-1].latents.any() and drawn[0].latents.any()  # a language model knows no other latents than zero
    table = draw(files, tmp_path / "front.png")
    quality = table.split("\n\n")[0].splitlines()[2:]
    rows = {row.split("|")[1].strip(): row.split("|")[4].strip() for row in quality}
    assert rows["language model"] == "" and rows["VAE"] and rows["autoencoder, Gaussian prior"]
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


def test_baselines_of_pretrained_networks_or_of_two_kinds_are_refused(files, tmp_path):
    words = [f"{tmp_path}/config.json", "--train", *files, "--output_dir", f"{tmp_path}/run", "--no_latents", "true"]
    with pytest.raises(ValueError, match="start from scratch"):
        train_text.main([*words, "--encoder", "user/encoder"])
    with pytest.raises(ValueError, match="exclude each other"):
        train_text.main([*words, "--vae_kl_weight", "1"])
