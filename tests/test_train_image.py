import functools
import json
import shutil
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from images import (
    CONV_DECODER,
    NET,
    RESNET_ENCODER,
    SIZE,
    UNET_DECODER,
    VIT_ENCODER,
    make_image_pipe,
    random_images,
    tiny_image_model,
)
from PIL import Image
from safetensors.torch import load_file
from transformers import AutoConfig, AutoModel

import demo_image
import few_steps.images as benchmark_image_steps
import image_front.run as benchmark_image
from hf_eddpm import EDDPMPipeline, ImageConvDecoder, ImageDiffusionDecoder
from hf_eddpm.hub.card import ORGANISATION
from hf_eddpm.modalities.image.data import load_images
from hf_eddpm.modalities.image.metrics import (
    extract,
    fit_extractor,
    intersection_over_union,
    linear_probe,
    peak_signal_to_noise,
    structural_similarity,
)
from hf_eddpm.training import evaluate_image, image_judge, image_measures, train_image
from hf_eddpm.training.arguments import EDDPMTrainingArguments, parse_arguments
from hf_eddpm.training.baselines.pixels import UnconditionalDiffusion, fit_prior
from hf_eddpm.training.baselines.vae import VariationalAutoencoder
from hf_eddpm.training.finishing import finish_denoiser
from hf_eddpm.training.image_card import write_image_card
from hf_eddpm.training.options import CardArguments, ImageDataArguments, ImageModelArguments
from image_front import self_supervised

CONFIGS = Path(__file__).parent.parent / "training" / "configs"
OWN = {name: value for name, value in NET.items() if name not in ("image_size", "num_channels")}
TINY = {
    "encoder": {**OWN, "pool_size": 2},
    "decoder": {**OWN, "model_type": "eddpm_image_unet"},
    "latent_dim": 6,
    "denoiser_num_layers": 1,
    "denoiser_hidden_size": 16,
    "num_train_timesteps": 100,
}


@pytest.fixture
def stack(tmp_path):
    """64 images of four classes, by their brightness, with a factor."""
    rng = np.random.default_rng(0)
    labels = np.arange(64) % 4
    images = (labels[:, None, None] * 60 + rng.integers(0, 60, (64, SIZE, SIZE))).astype(np.uint8)
    np.savez(tmp_path / "data.npz", images=images, labels=labels, factors=np.stack([labels, labels % 2], 1))
    return tmp_path / "data.npz"


@pytest.fixture
def train(tmp_path, stack):
    def run(*words: str, source=stack, **config):
        fixed = ["--output_dir", str(tmp_path / "run"), "--max_steps", "2", "--report_to", "none", "--use_cpu"]
        config = json.dumps({**TINY, **config})
        return train_image.main(["--train", str(source), "--model_config", config, *fixed, *words])

    return run


@pytest.fixture
def quick(monkeypatch):
    """Judges that train for a moment, and few images in what has no argument for it."""
    for module in (image_judge, demo_image):
        monkeypatch.setattr(module, "fit_extractor", functools.partial(fit_extractor, num_steps=15, batch_size=32))
    monkeypatch.setattr(benchmark_image, "NUM_IMAGES", 32)


def _silent(folder) -> EDDPMPipeline:
    pipe = EDDPMPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def test_two_steps_leave_a_pipeline_that_generates_and_reconstructs(train, tmp_path):
    folder = train("--eval_strategy", "steps", "--eval_steps", "2", "--num_previews", "3")
    pipe = _silent(folder)
    assert isinstance(pipe.model.decoder, ImageDiffusionDecoder)
    assert (pipe.processor.image_size, pipe.processor.num_channels) == (SIZE, 1)
    assert len(pipe(3, num_inference_steps=2, num_decoder_steps=2).samples) == 3
    facts = json.loads((folder / "training.json").read_text())
    assert facts["data"]["train"]["images"] + facts["data"]["dev"]["images"] == 64
    card = ModelCard.load(folder / "README.md")
    assert "plot_grid" in card.text and "image" in card.data.tags
    with Image.open(tmp_path / "run" / "previews" / "step-2.png") as preview:
        assert preview.size == (3 * 66 + 2, 3 * 66 + 2)


def test_classes_and_flips_are_trained_by_configuration(train):
    folder = train("--label_column", "label", "--flip", "true", num_classes=4)
    pipe = _silent(folder)
    assert pipe.model.config.num_classes == 4
    pipe(2, class_labels=[0, 3], guidance_scale=2.0, num_inference_steps=2, num_decoder_steps=2)
    assert "class_labels=3" in (folder / "README.md").read_text()


def test_latents_agree_with_a_frozen_encoder_that_is_named(train, tmp_path):
    torch.manual_seed(0)
    frozen = AutoModel.from_config(AutoConfig.for_model(**RESNET_ENCODER))
    frozen.save_pretrained(tmp_path / "frozen")
    plain = train(decoder={**OWN, "model_type": "eddpm_image_conv"})
    before = load_file(plain / "model" / "model.safetensors")
    words = ("--feature_encoder", str(tmp_path / "frozen"), "--feature_weight", "2", "--logging_steps", "1")
    aligned = train(*words, decoder={**OWN, "model_type": "eddpm_image_conv"})
    after = load_file(aligned / "model" / "model.safetensors")
    facts = json.loads((aligned / "training.json").read_text())
    assert "weight 2" in facts["settings"]["latents agree with"]
    assert any("feature_loss" in entry for entry in facts["log"])
    assert before.keys() == after.keys()  # the head and the frozen encoder are not in the pipeline
    moved = [name for name, value in after.items() if not torch.equal(value, before[name])]
    assert any(name.startswith("encoder") for name in moved)


def test_values_beside_a_pretrained_encoder_hold_and_unknown_ones_are_refused(stack, tmp_path):
    vit = AutoModel.from_config(AutoConfig.for_model(**VIT_ENCODER))
    vit.save_pretrained(tmp_path / "vit")

    def build(**encoder):
        config = {"encoder": encoder, "decoder": TINY["decoder"], "latent_dim": 6}
        model_args = ImageModelArguments(encoder=str(tmp_path / "vit"), model_config=config)
        return train_image.build_model(model_args, load_images(str(stack)))[0].encoder

    first, stored = build(layer_norm_eps=0.5, image_mean=[0.5], image_std=[0.2]), dict(vit.named_parameters())
    assert first.backbone.config.layer_norm_eps == 0.5 and first.image_mean == [0.5] and first.image_std == [0.2]
    assert all(torch.equal(value, stored[name]) for name, value in first.backbone.named_parameters())
    with pytest.raises(ValueError, match="`model_config` must give values of `encoder` '.*vit' .*, got 'pool_size'"):
        build(pool_size=2)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--feature_weight", "0"), "`feature_weight` must be positive, got 0"),
        (("--feature_encoder", "somewhere", "--no_latents", "true"), "`feature_encoder` must be left out"),
    ],
)
def test_an_agreement_that_cannot_be_trained_is_refused(train, words, message):
    with pytest.raises(ValueError, match=message):
        train(*words)


def test_latents_cannot_agree_with_an_encoder_of_text(train, tmp_path):
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    AutoModel.from_config(AutoConfig.for_model("bert", vocab_size=16, **sizes)).save_pretrained(tmp_path / "text")
    with pytest.raises(ValueError, match="`feature_encoder` must be a vision model.*'bert'"):
        train("--feature_encoder", str(tmp_path / "text"))


@pytest.mark.parametrize(
    ("words", "config", "message"),
    [
        (["--label_column", "label"], {"num_classes": 3}, r"`label` must hold class labels .*\[0, 3\)"),
        ([], {"num_classes": 4}, "`label_column` must name"),
        (["--label_column", "smile"], {"num_classes": 4}, "`label_column` 'smile' is no attribute"),
        (["--dev_last", "64"], {}, "`dev_last`"),
        (["--dev_fraction", "1"], {}, "`dev_fraction`"),
        (["--image_size", "12"], {}, "`data` must hold images of 12 x 12"),
        (["--vae_kl_weight", "1", "--no_latents", "true"], {}, "exclude each other"),
    ],
)
def test_data_that_do_not_fit_are_refused(train, words, config, message):
    with pytest.raises(ValueError, match=message):
        train(*words, **config)


def test_the_flip_mirrors_about_every_other_image():
    images = np.arange(2, dtype=np.uint8).reshape(1, 1, 2, 1)
    flipped = train_image.LabelledImages(images, flip=True)
    seen = [flipped.at_epoch(epoch)[0]["data"][0, 0, 0] for epoch in range(200)]
    assert 60 < sum(seen) < 140


@pytest.mark.slow
def test_other_decoders_backbones_and_baselines_are_trained_by_configuration(train):
    decoder = {**OWN, "model_type": "eddpm_image_conv"}
    pipe = _silent(train(decoder=decoder, encoder=RESNET_ENCODER))
    assert isinstance(pipe.model.decoder, ImageConvDecoder) and pipe.model.config.encoder.model_type == "resnet"
    pipe = _silent(train("--vae_kl_weight", "1.0", decoder=decoder))
    assert isinstance(pipe.model, VariationalAutoencoder)
    pipe = _silent(train("--no_latents", "true"))
    assert isinstance(pipe.model, UnconditionalDiffusion)
    images = random_images(2)
    assert not bool(pipe.encode(images).latents.any())


def test_every_configuration_of_images_parses_and_builds():
    files = sorted(CONFIGS.glob("image_*.json"))
    assert {file.stem for file in files} >= {"image_digits", "image_fashion", "image_cifar10", "image_sprites64"}
    sizes = {"digits": (8, 1), "fashion": (28, 1), "front": (28, 1), "cifar10": (32, 3), "sprites64": (64, 1)}
    for file in files:
        classes = (ImageDataArguments, ImageModelArguments, CardArguments, EDDPMTrainingArguments)
        words = [str(file), "--output_dir", "unused", "--precision", "fp32"]
        data_args, model_args, _, _ = parse_arguments(*classes, args=words)
        size, channels = sizes.get(file.stem.removeprefix("image_"), (data_args.image_size or 64, 3))
        images = np.zeros((2, size, size, channels), np.uint8)
        with torch.device("meta"):
            model, processor = train_image.build_model(model_args, train_image.ImageData(images))
        processor.check_model(model.config)


def test_an_evaluation_measures_draws_and_writes_the_card(train, stack, tmp_path, capsys, monkeypatch, quick):
    folder = train("--label_column", "label", num_classes=4)
    words = ["--train", str(stack), "--label_column", "label", "--checkpoint", str(folder), "--update_card", "true"]
    small = ["--limit", "24", "--sampling_steps", "2", "3", "--sampling_seeds", "0", "--inverted_steps", "5"]
    factors = ["--factors", "factor_0", "factor_1", "--dev_fraction", "0.5", "--refinement_steps", "2"]
    factors += ["--guidance_scales", "0", "2.5"]
    evaluate_image.main([*words, *small, *factors, "--output", str(tmp_path / "result.json"), "--use_cpu"])
    result = json.loads((tmp_path / "result.json").read_text())
    assert json.loads((folder / "evaluation.json").read_text()) == result
    assert set(result["samples"]) == {"2", "3"} and result["num_dev_images"] == 32
    assert 0 <= result["samples"]["3"]["guided_class_accuracy"]["mean"] <= 1
    assert result["inverted"]["mse"] < result["reconstruction"]["mse"]
    assert set(result["interpolation"]) == {"0.2", "0.4"} and result["bits_per_dim"] > 0
    assert result["probes"]["label"]["pca_accuracy"] > 0.8
    assert {"disentanglement", "mig", "sap"} <= set(result["factors"])
    table = capsys.readouterr().out
    assert f"{result['samples']['3']['frechet']['mean']:.3f}" in table
    refined = result["refined"]["2"]
    assert refined["mse"] != result["reconstruction"]["mse"] and f"| 2 | {refined['frechet']:.3f} |" in table
    guided = result["guidance"]["2.5"]
    assert list(result["guidance"]) == ["0", "2.5"] and 0 <= guided["class_accuracy"]["mean"] <= 1
    assert f"| 2.5 | {guided['frechet']['mean']:.3f} |" in table
    card = (folder / "README.md").read_text()
    assert "![" in card and f"{result['reconstruction']['ssim']:.4f}" in card
    with pytest.raises(ValueError, match="`guidance_scales` needs a model that knows classes"):
        evaluate_image.main([*words[:2], *words[4:6], *small, "--dev_fraction", "0.5", "--guidance_scales", "2"])
    for name in ("samples.png", "classes.png", "reconstructions.png", "interpolations.png"):
        with Image.open(folder / name) as picture:
            low, high = picture.convert("L").getextrema()
            assert low < high and name in card
    (snippet, *_) = [block.split("```")[0] for block in card.split("```python\n")[1:]]
    name = ModelCard.load(folder / "README.md").data.model_name
    (tmp_path / "cards" / ORGANISATION).mkdir(parents=True)
    (tmp_path / "cards" / ORGANISATION / name).symlink_to(folder)
    monkeypatch.chdir(tmp_path / "cards")
    snippet = snippet.replace("pipe(num_samples", "pipe(num_inference_steps=2, num_decoder_steps=2, num_samples")
    exec(compile(snippet.replace("invert_noise=True", "num_decoder_steps=2"), "card", "exec"), {})


def test_an_evaluation_without_labels_tells_rotations_apart(stack, quick):
    data = load_images(str(stack))
    data.attributes.clear()
    judge = image_judge.Judge(data.take(slice(32)), data.take(slice(32, 64)), None, seed=0)
    assert "rotations" in judge.name
    assert judge.frechet(data.images[32:]) == pytest.approx(0, abs=1e-6)
    with pytest.raises(ValueError, match="`checkpoint`"):
        evaluate_image.main(["--train", str(stack)])
    with pytest.raises(ValueError, match="`num_samples`"):
        image_measures.EvaluationSettings(num_samples=0)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # TorchScript, which Inception's usual file is
def test_another_extractor_takes_the_classifiers_place(stack, tmp_path, quick):
    class Means(torch.nn.Module):
        def forward(self, images: torch.Tensor, return_features: bool = False) -> torch.Tensor:
            return images.float().mean(3)[:, :, 0] if return_features else images.float()

    torch.jit.script(Means()).save(str(tmp_path / "means.pt"))
    data = load_images(str(stack))
    judge = image_judge.Judge(data, data, "label", 0, str(tmp_path / "means.pt"))
    assert judge.features.shape == (64, 3) and judge.name == "`means.pt`"


@pytest.mark.slow
def test_the_benchmark_trains_measures_and_tabulates_every_recipe(stack, tmp_path, capsys, quick):
    config = tmp_path / "front.json"
    settings = {"model_config": TINY, "max_steps": 2, "label_column": "label", "dev_fraction": 0.5}
    config.write_text(json.dumps({**settings, "report_to": "none"}))
    words = [str(config), "--train", str(stack), "--output_dir", str(tmp_path / "front"), "--use_cpu", "--seeds", "1"]
    words += ["--num_threads", "1"]
    recipes = ["joint, 0.1", "two stages", "no latents", "VAE, one pass"]
    benchmark_image.main([*words, "--recipes", *recipes])
    results = {file.stem: json.loads(file.read_text()) for file in (tmp_path / "front").glob("*.json")}
    assert {result["recipe"] for result in results.values()} == set(recipes)
    assert "mse" not in results["no-latents-seed-1"] and results["joint-0.1-seed-1"]["probe"] > 0
    benchmark_image.main([*words, "--recipes", "joint, 0.1", "--noise_variances", "0.2"])
    swept = json.loads((tmp_path / "front" / "joint-0.1-noise-0.2-seed-1.json").read_text())
    assert (swept["encoder_noise_variance"], results["joint-0.1-seed-1"]["encoder_noise_variance"]) == (0.2, 0.03)
    table = (tmp_path / "front" / "table.md").read_text()
    assert "| VAE, one pass |" in table and "| joint, 0.1 | 0.2 | 1 |" in table
    with Image.open(tmp_path / "front" / "front.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 5
    capsys.readouterr()
    benchmark_image.main([*words, "--recipes", *recipes])  # nothing is missing
    assert capsys.readouterr().out.startswith("| recipe")
    with pytest.raises(ValueError, match="`recipes`"):
        benchmark_image.main([*words, "--recipes", "triple"])


@pytest.mark.slow
def test_a_self_supervised_encoder_is_trained_probed_and_agreed_with(stack, tmp_path, quick):
    folder = tmp_path / "frozen"
    words = ["--embedding_size", "8", "--hidden_sizes", "8", "16", "--max_steps", "2", "--batch_size", "16"]
    self_supervised.main(["--train", str(stack), "--dev_last", "16", *words, "--output_dir", str(folder)])
    facts = json.loads((folder / "probe.json").read_text())
    assert 0 <= facts["features"] <= 1 and facts["steps"] == 2
    config = tmp_path / "front.json"
    settings = {"model_config": TINY, "max_steps": 2, "label_column": "label", "dev_fraction": 0.5}
    config.write_text(json.dumps({**settings, "report_to": "none"}))
    words = [str(config), "--train", str(stack), "--output_dir", str(tmp_path / "front"), "--use_cpu", "--seeds", "1"]
    words += ["--num_threads", "1", "--recipes", "joint, 0, one pass, features 0.5"]
    with pytest.raises(ValueError, match="`feature_encoder`"):
        benchmark_image.main(words)
    benchmark_image.main([*words, "--feature_encoder", str(folder)])
    assert (tmp_path / "front" / "joint-0-one-pass-features-0.5-seed-1.json").exists()


def test_views_of_an_image_are_drawn_anew_and_stay_in_range():
    images = torch.rand(8, 1, 12, 12) * 2 - 1
    torch.manual_seed(0)
    first, second = self_supervised.random_views(images), self_supervised.random_views(images)
    assert first.shape == images.shape and not torch.equal(first, second)
    assert first.min() >= -1 and first.max() <= 1


@pytest.mark.slow
def test_one_training_has_a_second_stage_and_a_gaussian(stack, tmp_path, quick):
    config = tmp_path / "front.json"
    settings = {"model_config": TINY, "max_steps": 2, "label_column": "label", "dev_fraction": 0.5}
    config.write_text(json.dumps({**settings, "report_to": "none"}))
    words = [str(config), "--train", str(stack), "--output_dir", str(tmp_path / "front"), "--use_cpu", "--seeds", "1"]
    recipes = ["two stages, one pass", "autoencoder, Gaussian prior, one pass"]
    benchmark_image.main([*words, "--num_threads", "1", "--recipes", *recipes])
    files = ("two-stages-one-pass", "autoencoder-gaussian-prior-one-pass")
    chain, gaussian = (json.loads((tmp_path / "front" / f"{file}-seed-1.json").read_text()) for file in files)
    # the same autoencoder, so that all but the samples is the same
    for name in ("mse", "ssim", "probe", "edits_in_class", "edits_ssim", "interpolation_0.2"):
        assert chain[name] == gaussian[name]
    assert chain["frechet"] != gaussian["frechet"] and chain["num_parameters"] > gaussian["num_parameters"]
    assert "| edits in class |" in (tmp_path / "front" / "table.md").read_text()


def test_steps_are_compared_with_the_full_chain(stack, tmp_path, quick):
    make_image_pipe(tiny_image_model()).save_pretrained(tmp_path / "checkpoint")
    words = ["--train", str(stack), "--label_column", "label", "--use_cpu", "--num_samples", "16", "--seeds", "0", "1"]
    chains = ["--few_steps", "2", "--full_steps", "5", "--output", str(tmp_path / "steps.json")]
    rows = benchmark_image_steps.main(["--checkpoint", str(tmp_path / "checkpoint"), *words, *chains])
    full = [row for row in rows if row.get("steps") == 5]
    assert {row["pixels"] for row in full} == {"DDIM", "ancestral (DDPM)"}
    assert min(row["ratio"]["mean"] for row in full) == 1
    assert "| DPM-Solver++, clipped | 2 |" in (tmp_path / "steps.md").read_text()
    make_image_pipe(tiny_image_model(decoder=CONV_DECODER)).save_pretrained(tmp_path / "one_pass")
    with pytest.raises(ValueError, match="`checkpoint` must have a decoder that is a chain"):
        benchmark_image_steps.main(["--checkpoint", str(tmp_path / "one_pass"), *words])
    with pytest.raises(ValueError, match="`schedulers`"):
        benchmark_image_steps.main(["--checkpoint", "any", *words, "--schedulers", "Heun"])


@pytest.mark.slow
def test_compilation_and_checkpointing_are_arguments_of_the_training(train):
    compiled = ["--torch_compile", "true", "--torch_compile_backend", "eager"]  # traced, without a compiler
    new = "activation_checkpointing"  # transformers 5.23 renamed it
    checkpointing = new if new in {each.name for each in fields(EDDPMTrainingArguments)} else "gradient_checkpointing"
    for words in (compiled, [f"--{checkpointing}", "true"]):
        pipe = _silent(train(*words))
        assert len(pipe.reconstruct(random_images(2), num_decoder_steps=2)) == 2


def test_a_prior_trained_afterwards_learns_the_latents(generator):
    model = tiny_image_model(denoiser_num_layers=2, denoiser_hidden_size=32)
    means = torch.randn(500, 1, 6, generator=generator) * 0.1 + torch.tensor([1.0, -1, 0, 1, -1, 0])
    fit_prior(model, means, 150, 64, 3e-3, 0.9, seed=0)
    pipe = make_image_pipe(model)
    latents = pipe(200, num_inference_steps=20, generator=generator, output_type="latent").latents
    torch.testing.assert_close(latents.mean(0), means.mean(0), atol=0.2, rtol=0)


def test_a_finished_denoiser_reaches_the_means_and_nothing_else_changes(generator):
    model = tiny_image_model(denoiser_num_layers=2, denoiser_hidden_size=32)
    model.config.encoder_noise_variance = 0.3
    means = torch.randn(500, 1, 6, generator=generator) * 0.1 + torch.tensor([1.0, -1, 0, 1, -1, 0])
    before = {name: value.clone() for name, value in model.state_dict().items()}
    finish_denoiser(model, means, None, 300, 64, 3e-3, 0.9, seed=0)
    changed = {
        name.split(".")[0] for name, value in model.state_dict().items() if not torch.equal(value, before[name])
    }
    assert changed == {"denoiser"}
    latents = make_image_pipe(model)(200, num_inference_steps=50, generator=generator, output_type="latent").latents
    torch.testing.assert_close(latents.mean(0), means.mean(0), atol=0.2, rtol=0)
    assert latents.std(0).mean() < 0.3
    finish_denoiser(model, means, None, 300, 64, 3e-3, 0.9, seed=0, noise_variance=0.3)
    latents = make_image_pipe(model)(200, num_inference_steps=50, generator=generator, output_type="latent").latents
    assert latents.std(0).mean() > 0.45  # samples of the posterior have 0.56


def test_a_training_ends_with_the_denoiser_alone_where_that_is_asked_for(train, tmp_path):
    words = ["--label_column", "label", "--ema_decay", "0.9"]
    plain, plain_facts = _run(train, tmp_path / "run", *words)
    finished, facts = _run(train, tmp_path / "run", *words, "--finish_steps", "5", "--finish_batch_size", "8")
    changed = {name.split(".")[0] for name, value in finished.items() if not torch.equal(value, plain[name])}
    assert changed == {"denoiser"}
    assert facts["settings"]["finishing"].startswith("5 steps of 8") and "finishing" not in plain_facts["settings"]
    assert facts["metrics"]["eval_reconstruction_loss"] == plain_facts["metrics"]["eval_reconstruction_loss"]
    assert facts["metrics"]["eval_diffusion_loss"] != plain_facts["metrics"]["eval_diffusion_loss"]
    with pytest.raises(ValueError, match="`finish_steps` must be 0 for a baseline"):
        train("--finish_steps", "1", "--no_latents", "true")
    with pytest.raises(ValueError, match="`finish_batch_size`"):
        train("--finish_batch_size", "0")


def _run(train, output, *words):
    folder = train(*words, num_classes=4)
    weights = load_file(folder / "model" / "model.safetensors")
    facts = json.loads((folder / "training.json").read_text())
    shutil.rmtree(output)
    return weights, facts


def test_baselines_refuse_what_they_are_not_made_for():
    config = tiny_image_model().config
    with pytest.raises(ValueError, match="`latent_normalization`"):
        UnconditionalDiffusion(config)
    with pytest.raises(ValueError, match="`decoder` must be a diffusion chain"):
        UnconditionalDiffusion(tiny_image_model(decoder=CONV_DECODER, latent_normalization="none").config)


def test_the_demo_writes_pictures_that_are_not_blank(tmp_path, capsys, quick):
    model = tiny_image_model(decoder={**UNET_DECODER}, num_classes=10)
    make_image_pipe(model).save_pretrained(tmp_path / "checkpoint")
    words = ["--checkpoint", str(tmp_path / "checkpoint"), "--output_dir", str(tmp_path / "pictures")]
    demo_image.main([*words, "--num_inference_steps", "2"])
    told = capsys.readouterr().out
    for name in ("samples", "classes", "reconstructions", "interpolations", "edits"):
        assert f"{name}.png" in told
        with Image.open(tmp_path / "pictures" / f"{name}.png") as picture:
            assert np.asarray(picture)[2:-2, 2:-2].std() > 5
    assert "off by" in told and "million parameters" in told


def test_similarity_and_noise_ratio_are_those_of_known_cases():
    rng = np.random.default_rng(0)
    images = rng.random((3, 16, 16, 1))
    assert structural_similarity(images, images) == pytest.approx(1)
    assert structural_similarity(images, 1 - images) < 0
    assert structural_similarity(np.full_like(images, 0.5), np.full_like(images, 0.5)) == pytest.approx(1)
    # two constants: (2ab + c1) / (a^2 + b^2 + c1)
    a, b = np.full((1, 8, 8, 1), 0.25), np.full((1, 8, 8, 1), 0.75)
    assert structural_similarity(a, b) == pytest.approx((2 * 0.1875 + 1e-4) / (0.0625 + 0.5625 + 1e-4))
    assert peak_signal_to_noise(a, b) == pytest.approx(-10 * np.log10(0.25))
    with pytest.raises(ValueError, match="`window`"):
        structural_similarity(a, b, window=9)


def test_similarity_is_that_of_a_plain_computation_over_windows():
    rng = np.random.default_rng(1)
    a, b = rng.random((2, 1, 9, 9, 1))
    expected = []
    for y in range(3):
        for x in range(3):
            p, q = (each[0, y : y + 7, x : x + 7, 0] for each in (a, b))
            covariance = np.cov(p.ravel(), q.ravel())
            top = (2 * p.mean() * q.mean() + 1e-4) * (2 * covariance[0, 1] + 9e-4)
            bottom = (p.mean() ** 2 + q.mean() ** 2 + 1e-4) * (covariance[0, 0] + covariance[1, 1] + 9e-4)
            expected.append(top / bottom)
    assert structural_similarity(a, b) == pytest.approx(np.mean(expected))


def test_shapes_overlap_as_much_as_their_pixels_do():
    shape, moved, nothing = (np.zeros((1, 8, 8, 1)) for _ in range(3))
    shape[0, 2:6, 2:6], moved[0, 2:6, 3:7] = 1, 0.8
    assert intersection_over_union(moved, shape) == pytest.approx(12 / 20)
    assert intersection_over_union(shape, shape) == intersection_over_union(nothing, nothing) == 1
    assert intersection_over_union(nothing, shape) == 0
    both = intersection_over_union(np.concatenate([moved, shape]), np.concatenate([shape, shape]))
    assert both == pytest.approx((12 / 20 + 1) / 2)


def test_the_classifier_and_the_probe_learn_what_is_there(stack):
    data = load_images(str(stack))
    labels = data.labels("label")
    model = fit_extractor(data.images, labels, seed=0, num_steps=60, batch_size=32)
    features, classes = extract(model, data.images)
    assert features.shape == (64, 64) and (classes == labels).mean() > 0.9
    probe = linear_probe(features, labels == 1, features, labels == 1)
    assert probe["accuracy"] > 0.9 and probe["average_precision"] > 0.9


def test_a_card_without_evaluation_claims_no_results(tmp_path):
    pipe = make_image_pipe(tiny_image_model(decoder=CONV_DECODER))
    pipe.save_pretrained(tmp_path)
    card = ModelCard.load(write_image_card(pipe, tmp_path))
    assert card.data.eval_results is None and "Not evaluated yet" in card.text and "invert_noise" not in card.text


@pytest.mark.slow
def test_guidance_raises_the_accuracy_of_classes_on_digits(tmp_path):
    words = [str(CONFIGS / "image_digits.json"), "--output_dir", str(tmp_path), "--use_cpu", "--max_steps", "300"]
    fast = ["--eval_strategy", "no", "--save_strategy", "no", "--num_previews", "0"]
    pipe = _silent(train_image.main([*words, *fast]))
    data = load_images("digits")
    judge = fit_extractor(data.images, data.labels("label"), seed=0)
    wanted = torch.arange(200) % 10
    right = {}
    for scale in (0.0, 1.0, 3.0):
        images = image_judge.generate(pipe, 200, 20, 0, 200, class_labels=wanted, guidance_scale=scale)
        right[scale] = (extract(judge, images)[1] == wanted.numpy()).mean()
    assert right[0.0] < 0.3 < right[1.0] < right[3.0]
