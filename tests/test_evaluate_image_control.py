import functools
import json

import numpy as np
import pytest
import torch
from images import CONV_DECODER, SIZE, tiny_image_pipe
from PIL import Image

import control.image as evaluate_image_control
from control.image import (
    ImageControlArguments,
    LinearAttribute,
    brightness,
    class_means,
    other_classes,
    variety,
)
from hf_eddpm import EnergyGuidance, LatentGuide
from hf_eddpm.modalities.image.metrics import fit_extractor
from hf_eddpm.training import image_judge


@pytest.fixture
def stack(tmp_path):
    """48 images of three classes, by their brightness."""
    labels = np.arange(48) % 3
    noise = np.random.default_rng(0).integers(0, 60, (48, SIZE, SIZE))
    np.savez(tmp_path / "data.npz", images=(labels[:, None, None] * 80 + noise).astype(np.uint8), labels=labels)
    return str(tmp_path / "data.npz")


@pytest.fixture
def run(stack, tmp_path, monkeypatch):
    fit = functools.partial(fit_extractor, num_steps=15, batch_size=32)
    monkeypatch.setattr(image_judge, "fit_extractor", fit)

    def evaluate(*words, **values):
        pipe = tiny_image_pipe(**values)
        pipe.save_pretrained(tmp_path / "checkpoint")
        guide = LatentGuide.for_model(pipe.model, 3, hidden_size=16)
        guide.register_to_config(num_train_steps=1)
        guide.save_pretrained(tmp_path / "guide")
        given = ["--train", stack, "--label_column", "label", "--dev_last", "24", "--use_cpu", "--num", "12"]
        given += ["--checkpoint", str(tmp_path / "checkpoint"), "--guide", str(tmp_path / "guide")]
        few = ["--scales", "2", "--class_scales", "2", "--brightness_scales", "9", "--num_inference_steps", "3"]
        return evaluate_image_control.main([*given, *few, "--strengths", "0.5", "--direction_scales", "1", *words])

    return evaluate


def test_samples_and_edits_are_measured_by_every_way(run, tmp_path, capsys):
    output = tmp_path / "results" / "control.json"
    result = run("--output", str(output), num_classes=3)
    assert json.loads(output.read_text()) == result and str(tmp_path) not in result["command"]
    assert list(result["samples"]) == ["no guidance", "guide, scale 2", "told the class, scale 2", "real images"]
    assert result["samples"]["real images"]["variety"] == 1
    assert result["samples"]["real images"]["in class"] > result["samples"]["no guidance"]["in class"]
    both = ["no guidance", "class", "brightness", "both", "told the class", "told the class, brightness"]
    assert list(result["both"]) == both
    for row in result["both"].values():
        assert row["both"] <= min(row["in class"], row["near"])
    edits = result["edits"]
    told = [f"strength 0.5{way}" for way in ("", ", guided", ", told the class")]
    assert list(edits) == [
        *("none (reconstruction)", "direction, scale 1", *told),
        *("none (reconstruction), inverted", "direction, scale 1, inverted", "strength 0.5, told the class, inverted"),
        "another image of the class",
    ]
    assert edits["none (reconstruction), inverted"]["MSE"] < edits["none (reconstruction)"]["MSE"]
    assert edits["another image of the class"]["in class"] > 0.8 > edits["another image of the class"]["old class"]
    for file, rows in result["pictures"].items():
        with Image.open(output.parent / file) as picture:
            assert picture.height > SIZE * len(rows)
    assert result["pictures"]["control_edits.png"] == ["original", *edits]
    assert list(result["brightness"]["rows"]) == ["no guidance", "scale 9", "reconstruction"]
    assert "| guided to |" in capsys.readouterr().out


def test_a_decoder_in_one_pass_has_no_noise_to_invert_and_a_model_without_classes_is_told_none(run):
    result = run(decoder=CONV_DECODER)
    assert "pictures" not in result
    assert not [name for name in [*result["edits"], *result["samples"]] if "inverted" in name or "told" in name]


def test_brightness_goes_where_its_energy_wants_it():
    pipe = tiny_image_pipe()
    latents = torch.randn(50, 1, 6, generator=torch.Generator().manual_seed(0))
    values = 0.3 + latents[:, 0] @ torch.tensor([0.1, 0, -0.2, 0, 0, 0.05])
    attribute = LinearAttribute(latents, values.numpy())
    torch.testing.assert_close(attribute(latents), values)
    goals = np.repeat([0.0, 0.6], 20)
    energy = attribute.energy(goals)
    assert energy(latents[:40]).shape == (40,) and attribute.energy(attribute(latents).numpy())(latents).max() < 1e-6

    def error(guidance):
        generator = torch.Generator().manual_seed(0)
        out = pipe(40, 10, guidance=guidance, generator=generator, output_type="latent")
        return float((attribute(out.latents) - torch.from_numpy(goals)).abs().mean())

    assert error(EnergyGuidance(energy, 100.0)) < 0.3 * error(None)


def test_an_edit_along_class_means_reaches_the_other_mean():
    labels = np.array([0, 1, 2, 0, 1, 2])
    latents = torch.randn(6, 2, 3)
    means = class_means(latents, labels)
    torch.testing.assert_close(means[1], (latents[1] + latents[4]) / 2)
    targets = other_classes(labels, 3, seed=0)
    moved = latents + means[targets] - means[labels]
    torch.testing.assert_close(moved - means[targets], latents - means[labels])


def test_another_class_is_another_and_any():
    labels = np.arange(900) % 3
    targets = other_classes(labels, 3, seed=1)
    assert (targets != labels).all()
    pairs, counts = np.unique(np.stack([labels, targets]), axis=1, return_counts=True)
    assert pairs.shape[1] == 6 and counts.min() > 100


def test_variety_is_the_variance_within_classes():
    features = np.random.default_rng(0).normal(size=(2000, 3)) * [1, 2, 3]
    classes = np.arange(2000) % 4
    shifted = features + 100 * classes[:, None]
    assert variety(shifted, classes) == pytest.approx(variety(features, np.zeros(2000)), rel=0.01)
    assert variety(features, classes) == pytest.approx(14, rel=0.1)
    assert variety(np.repeat(features[:4], 5, axis=0), np.repeat(classes[:4], 5)) == pytest.approx(0)


def test_brightness_is_the_mean_of_all_pixels():
    images = np.zeros((2, 4, 4, 3), np.uint8)
    images[1, :2] = 255
    assert brightness(images).tolist() == [0, 0.5]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"num": 0}, "`num` must be at least 1"),
        ({"num_inference_steps": 0}, "`num_inference_steps` must be at least 1"),
        ({"num_fitted": 0}, "`num_fitted` must be at least 1"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        ImageControlArguments(**values)


def test_what_is_missing_is_named(run, stack):
    with pytest.raises(ValueError, match="`checkpoint` and `guide` must name"):
        evaluate_image_control.main(["--train", stack])
    with pytest.raises(ValueError, match="`label_column` must name"):
        evaluate_image_control.main(["--train", stack, "--checkpoint", "any", "--guide", "any"])
    with pytest.raises(ValueError, match="`num_fitted` must be enough"):
        run("--num_fitted", "1")
