"""Inverse problems: images from measurements of them, proteins from part of them."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from images import CONV_DECODER, DECODERS, random_images, tiny_image_pipe
from PIL import Image
from proteins import CAUSAL_DECODER, LENGTH, tiny_protein_pipe
from typer.testing import CliRunner

from hf_eddpm import EDDPMPipeline
from hf_eddpm.cli import main as cli
from hf_eddpm.control.operators import Blur, Downsample, Grey, Mask

ROOT = Path(__file__).parent.parent
DIGITS = str(ROOT / "model_cards" / "eddpm-digits")
FAST = {"num_inference_steps": 4, "output_type": "pt"}
KNOWN = np.arange(64).reshape(8, 8) % 3 > 0
OPERATORS = {"mask": Mask(KNOWN), "downsample": Downsample(2), "blur": Blur(1.0)}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tiny_pipe(**values):
    pipe = tiny_image_pipe(**values)
    pipe.register_to_config(default_num_decoder_steps=5)
    return pipe


def generators(count, start=0):
    return [seeded(start + place) for place in range(count)]


def as_tensor(images):
    return torch.stack([torch.from_numpy(np.array(image)).float()[None] / 255 for image in images])


@pytest.fixture(scope="module")
def digits():
    pipe = EDDPMPipeline.from_pretrained(ROOT / "model_cards" / "eddpm-digits")
    pipe.set_progress_bar_config(disable=True)
    pipe.register_to_config(default_num_decoder_steps=10)
    pipe.restore = functools.partial(pipe.restore, num_inference_steps=30)
    return pipe


@pytest.fixture(scope="module")
def digit_images(digits):
    return digits(6, class_labels=[0, 1, 2, 3, 4, 5], generator=seeded(3), output_type="pt").samples


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("decoder", DECODERS)
def test_restored_images_have_the_measurement(decoder, name):
    pipe, operator = tiny_pipe(decoder=DECODERS[decoder]), OPERATORS[name]
    measured = operator(as_tensor(random_images(3)))
    out = pipe.restore(measured, operator, generator=seeded(), **FAST)
    assert out.samples.shape == (3, 1, 8, 8) and out.latents.shape == (3, 1, 6)
    drawn = pipe(3, generator=seeded(), output_type="pt").samples
    without = (operator(drawn) - measured).flatten(1).square().mean(1).sqrt()
    assert (out.misfits < 0.3 * without).all()


def test_a_restored_image_is_nearer_to_the_truth_than_a_sample_and_than_the_nearest_pixels(digits, digit_images):
    operator = Mask(np.arange(64).reshape(8, 8) % 2 == 0)  # every other column
    out = digits.restore(operator(digit_images), operator, num_samples=3, generator=seeded(), output_type="pt")
    mean = out.samples.view(6, 3, 1, 8, 8).mean(1)
    copied = digit_images.clone()
    copied[..., 1::2] = digit_images[..., ::2]
    error, of_copies = ((guess - digit_images).square().mean() for guess in (mean, copied))
    assert error < 0.5 * of_copies


def test_what_is_wholly_known_comes_back(digits, digit_images):
    out = digits.restore(digit_images, lambda images: images, generator=seeded(), output_type="pt")
    torch.testing.assert_close(out.samples, digit_images, atol=2e-3, rtol=0)


def test_known_pixels_stay_and_unknown_ones_of_the_measurement_do_not_matter(digits, digit_images):
    known = torch.from_numpy(KNOWN)
    out = digits.restore(digit_images, mask=KNOWN, generator=seeded(), output_type="pt")
    torch.testing.assert_close(out.samples[..., known], digit_images[..., known], atol=2e-3, rtol=0)
    other = torch.where(known, digit_images, torch.rand(6, 1, 8, 8))
    torch.testing.assert_close(digits.restore(other, mask=KNOWN, generator=seeded(), output_type="pt"), out)


def test_with_noise_the_misfit_is_about_the_noise(digits, digit_images):
    noise = 0.1 * torch.randn(6, 1, 8, 8, generator=seeded())
    out = digits.restore(digit_images + noise, lambda images: images, noise_level=0.1, generator=seeded())
    assert 0.04 < float(out.misfits.mean()) < 0.16


def test_a_grey_photograph_gets_colours():
    colour = {"num_channels": 3}
    encoder = {"model_type": "eddpm_image_encoder", "image_size": 8, "block_out_channels": [8, 16], "pool_size": 2}
    encoder |= {"norm_num_groups": 4, **colour}
    pipe = tiny_image_pipe(encoder=encoder, decoder={**CONV_DECODER, **colour})
    images = torch.stack([torch.from_numpy(np.array(image)) for image in random_images(2, channels=3)])
    grey = Grey()(images.permute(0, 3, 1, 2) / 255)
    out = pipe.restore(grey, Grey(), generator=seeded(), **FAST)
    assert out.samples.shape == (2, 3, 8, 8)
    assert float(out.misfits.max()) < 0.02
    with pytest.raises(ValueError, match="colour images"):
        tiny_pipe().restore(grey, Grey(), **FAST)


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_batch_gives_what_its_items_give(decoder):
    pipe, images = tiny_pipe(decoder=DECODERS[decoder]), as_tensor(random_images(3))
    masks = np.stack([KNOWN, ~KNOWN, np.flip(KNOWN, 1)])
    together = pipe.restore(images, mask=masks, num_samples=2, generator=generators(6), **FAST)
    for row in range(3):
        alone = pipe.restore(
            images[row : row + 1], mask=masks[row], num_samples=2, generator=generators(2, 2 * row), **FAST
        )
        for name in ("samples", "latents", "misfits"):
            torch.testing.assert_close(
                alone[name], together[name][2 * row : 2 * row + 2], atol=1e-4, rtol=1e-4, msg=name
            )
    in_parts = pipe.restore(images, mask=masks, num_samples=2, generator=generators(6), batch_size=4, **FAST)
    torch.testing.assert_close(in_parts.samples, together.samples, atol=1e-4, rtol=1e-4)


def test_the_same_seed_gives_the_same_and_samples_differ(digits, digit_images):
    measured = Downsample(4)(digit_images[:1])
    first, again = (
        digits.restore(measured, Downsample(4), num_samples=3, generator=seeded(5), **FAST).samples for _ in range(2)
    )
    torch.testing.assert_close(first, again)
    assert float((first[0] - first[1]).abs().max()) > 0.05


def test_pictures_arrays_and_tensors_are_the_same_measurement():
    pipe, images = tiny_pipe(), random_images(2)
    arrays = [np.asarray(image) for image in images]
    first = pipe.restore(images, mask=KNOWN, generator=seeded(), **FAST).samples
    for same in (arrays, np.stack(arrays)[..., None], as_tensor(images), [a.astype(np.float32) / 255 for a in arrays]):
        torch.testing.assert_close(pipe.restore(same, mask=KNOWN, generator=seeded(), **FAST).samples, first)
    assert pipe.restore(images[0], mask=KNOWN, generator=seeded(), **{**FAST, "output_type": "pil"}).samples[0].size


def test_classes_are_told(digits, digit_images):
    nothing_but_a_corner = np.zeros((8, 8), bool)
    nothing_but_a_corner[0, 0] = True
    arguments = {"mask": nothing_but_a_corner, "class_labels": [7] * 6, "guidance_scale": 3.0, "output_type": "pt"}
    sevens = digits.restore(digit_images, generator=seeded(), **arguments).samples
    others = digits(6, class_labels=7, guidance_scale=3.0, generator=seeded(1), output_type="pt").samples
    zeros = digits(6, class_labels=0, guidance_scale=3.0, generator=seeded(1), output_type="pt").samples
    assert (sevens.mean(0) - others.mean(0)).square().sum() < (sevens.mean(0) - zeros.mean(0)).square().sum()


BAD = {
    "neither": ({}, "`operator` or a `mask`"),
    "both": ({"operator": Downsample(2), "mask": KNOWN}, "not both"),
    "mask of another size": ({"mask": np.ones((4, 4))}, r"`mask` must be of the images' size, \(8, 8\)"),
    "masks of another number": ({"mask": np.ones((3, 8, 8))}, "one for each of 2 images, got 3"),
    "half mask": ({"mask": np.full((8, 8), 0.5)}, "no half-known pixel"),
    "flat mask": ({"mask": [1, 0]}, "must have the shape"),
    "nothing known": ({"mask": np.zeros((8, 8))}, "at least one pixel"),
    "other shape": ({"operator": Downsample(2)}, r"what `operator` makes of 2 images, \(2, 1, 4, 4\)"),
    "detached": ({"operator": lambda images: images.detach()}, "no gradient"),
    "numpy": ({"operator": lambda images: images.detach().numpy()}, "return a tensor"),
    "rounded": ({"operator": lambda images: (images * 4).round() / 4}, "gradient is 0 everywhere"),
    "constant": ({"operator": lambda images: torch.zeros_like(images)}, "no gradient"),
    "numpy without detaching": ({"operator": lambda images: images.numpy()}, "no gradient"),
    "complex": ({"operator": lambda images: images + 1j}, "must return real numbers, got torch.complex64"),
    "steps": ({"mask": KNOWN, "num_inference_steps": 51}, "num_inference_steps"),
    "noise level": ({"mask": KNOWN, "noise_level": -0.1}, "noise_level"),
    "generators": ({"mask": KNOWN, "generator": generators(3)}, "one generator for each of 2"),
    "operator on text": ({"operator": Grey()}, "colour images"),
    "output type": ({"mask": KNOWN, "output_type": "jpg"}, "output_type"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_named(case):
    arguments, message = BAD[case]
    with pytest.raises(ValueError, match=message):
        tiny_pipe().restore(as_tensor(random_images(2)), **arguments)


@pytest.mark.parametrize(
    "values, message",
    [
        (torch.full((1, 1, 8, 8), float("nan")), "finite"),
        (torch.full((1, 1, 8, 8), 2.0), r"in \[0, 1\]"),
        (torch.full((1, 1, 8, 8), 100), "must be of uint8 or floats"),
        (np.full((8, 8), 7), "uint8 or floats"),
        ([], "at least one"),
        ([np.zeros((8, 8)), np.zeros((4, 4))], "one shape"),
    ],
)
def test_bad_measurements_are_named(values, message):
    with pytest.raises(ValueError, match=message):
        tiny_pipe().restore(values, mask=KNOWN)


def test_pictures_of_any_kind_are_read_as_elsewhere(tmp_path):
    pipe = tiny_pipe()
    grey = random_images(1)[0].convert("L")
    levels = np.asarray(grey)
    clear = Image.fromarray(np.stack([levels, np.zeros_like(levels)], -1), "LA")
    turned = grey.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by 90 degrees clockwise to be seen
    turned.save(tmp_path / "turned.png", exif=exif)
    kinds = {
        "16 bits": Image.fromarray(levels.astype(np.uint16) * 257),
        "opaque": Image.fromarray(np.stack([levels, np.full_like(levels, 255)], -1), "LA"),
        "turned": Image.open(tmp_path / "turned.png"),
    }
    arguments = {"mask": KNOWN, **FAST}
    plain = pipe.restore(grey, generator=seeded(), **arguments)
    for name, image in kinds.items():
        assert torch.equal(pipe.restore(image, generator=seeded(), **arguments).samples, plain.samples), name
    white = pipe.restore(np.full_like(levels, 255), generator=seeded(), **arguments)
    assert torch.equal(pipe.restore(clear, generator=seeded(), **arguments).samples, white.samples)
    with pytest.raises(ValueError, match="mode 'F', whose range is unknown, got one at position 1"):
        pipe.restore([grey, grey.convert("F")], **arguments)


def test_the_command_reads_folders_as_training_does(tmp_path, caplog):
    (tmp_path / "in" / "more").mkdir(parents=True)
    digits = random_images(2)
    digits[0].save(tmp_path / "in" / "a.png")
    Image.fromarray(np.asarray(digits[1].convert("L")).astype(np.uint16) * 257).save(
        tmp_path / "in" / "more" / "b.png"
    )
    (tmp_path / "in" / "._a.png").write_bytes(b"of a Mac")
    (tmp_path / "in" / "c.heic").write_bytes(b"of a phone")
    Image.fromarray(np.uint8(KNOWN) * 255).save(tmp_path / "mask.png")
    words = ["restore", DIGITS, str(tmp_path / "in"), "--operator", "mask", "--mask", str(tmp_path / "mask.png")]
    words += ["--num_inference_steps", "4", "-o", str(tmp_path / "out.npz")]
    assert CliRunner().invoke(cli.app, words).exit_code == 0
    restored = np.load(tmp_path / "out.npz")["images"]
    truth = np.stack([np.asarray(image.convert("L")) for image in digits])
    assert len(restored) == 2 and np.abs(restored.astype(int) - truth)[:, KNOWN].max() <= 3
    assert "c.heic" in caplog.text
    (tmp_path / "in" / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match="a.png' is damaged"):
        raise CliRunner().invoke(cli.app, words).exception


def test_no_measurement_is_a_type_error():
    with pytest.raises(TypeError, match="`data` must hold"):
        tiny_pipe().restore("cat.png", mask=KNOWN)


def _hide_in_place(images):
    images[..., :3] = 0
    return images


GOOD = {
    "sums to a constant": lambda images: images.flatten(1).softmax(1),
    "without the mean": lambda images: images - images.mean((1, 2, 3), keepdim=True),
    "differences": lambda images: images - images.roll(1, -1),
    "second differences": lambda images: 2 * images - images.roll(1, -1) - images.roll(-1, -1),
    "one number": lambda images: images.mean((1, 2, 3)),
    "in place": _hide_in_place,
    "nearly undefined beyond": lambda images: (images + 0.01).log(),
}


@pytest.mark.parametrize("decoder", DECODERS)
@pytest.mark.parametrize("name", GOOD)
def test_any_differentiable_function_will_do(name, decoder):
    pipe, truth, seen = tiny_pipe(decoder=DECODERS[decoder]), as_tensor(random_images(2)), []

    def operator(images):
        seen.extend([float(images.detach().min()), float(images.detach().max())])
        return GOOD[name](images)

    before = truth.clone()
    out = pipe.restore(GOOD[name](truth.clone()), operator, generator=generators(2), **FAST)
    assert out.samples.shape == truth.shape and bool(torch.isfinite(out.misfits).all())
    assert 0 <= min(seen) and max(seen) <= 1  # as the docstring promises
    assert torch.equal(before, truth)


def test_values_beyond_the_range_keep_their_gradient(digits, digit_images):
    bright = digits.restore(torch.ones(2, 1, 8, 8), Blur(1.0), generator=seeded()).samples
    assert all(np.asarray(image).mean() > 60 for image in bright)


@pytest.mark.parametrize("hidden", [float("nan"), -1.0, 7.0])
def test_what_is_hidden_does_not_matter(hidden):
    pipe, images = tiny_pipe(), as_tensor(random_images(2))
    arguments = {"mask": KNOWN, "generator": generators(2), **FAST}
    plain = pipe.restore(images, **arguments)
    strange = torch.where(torch.from_numpy(KNOWN), images, hidden)
    again = pipe.restore(strange, **arguments | {"generator": generators(2)})
    assert torch.equal(plain.samples, again.samples) and torch.equal(plain.misfits, again.misfits)


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_seed_means_the_same_whatever_the_batches(decoder):
    pipe, images = tiny_pipe(decoder=DECODERS[decoder]), as_tensor(random_images(3))
    arguments = {"mask": KNOWN, "num_samples": 2, **FAST}
    ones, twos, all_at_once = (
        pipe.restore(images, generator=seeded(), batch_size=size, **arguments) for size in (1, 2, 6)
    )
    for other in (twos, all_at_once):
        torch.testing.assert_close(ones.samples, other.samples, atol=1e-4, rtol=0)
    assert not torch.equal(ones.samples[0], ones.samples[1])


def test_an_operator_that_breaks_on_the_way_is_named():
    with pytest.raises(ValueError, match="NaN or infinite"):
        tiny_pipe().restore(torch.zeros(1, 1, 8, 8), lambda images: (images - images.detach()).abs().sqrt(), **FAST)


@pytest.mark.parametrize("decoder", ["conv", "causal"])
def test_known_residues_stay_and_the_length_does(decoder):
    pipe = tiny_protein_pipe(**({} if decoder == "conv" else {"decoder": CAUSAL_DECODER}))
    protein = "ACDEFGH"[: min(7, LENGTH)]
    mask = [place % 2 == 0 for place in range(len(protein))]
    hidden = "".join(letter if flag else "?" for letter, flag in zip(protein, mask, strict=True))
    arguments = {"num_samples": 3, "num_inference_steps": 3}
    out = pipe.restore([hidden, protein], mask=[mask, mask], generator=generators(6), **arguments)
    assert len(out.samples) == 6
    for sample in out.samples:
        assert len(sample) == len(protein) and set(sample) <= set("ACDEFGHIKLMNPQRSTVWY")
        assert all(a == b for a, b, flag in zip(sample, protein, mask, strict=True) if flag)
    alone = pipe.restore(protein, mask=mask, generator=generators(3, 3), **arguments)
    assert alone.samples == out.samples[3:]


def test_latents_are_drawn_that_say_the_known_residues():
    pipe = EDDPMPipeline.from_pretrained(ROOT / "model_cards" / "eddpm-gifford")
    pipe.set_progress_bar_config(disable=True)
    loops = pipe(4, generator=seeded(3)).samples
    mask = [[place % 3 > 0 for place in range(len(loop))] for loop in loops]
    few, many = (
        pipe.restore(loops, mask=mask, num_samples=2, num_inference_steps=steps, generator=seeded()).misfits.mean()
        for steps in (1, 60)
    )
    assert float(many) < 0.5 * float(few)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"mask": [True]}, "a flag for each"),
        ({"mask": [False] * 4}, "something known"),
        ({"mask": [2, 1, 1, 1]}, "only True and False"),
        ({"mask": [[True] * 4] * 2}, "one for each of 1 sequences"),
        ({"mask": []}, "got none"),
        ({"operator": lambda x: x}, "`operator` is for images"),
        ({"mask": [True] * 4, "noise_level": 0.1}, "`noise_level` is for images"),
    ],
)
def test_bad_masks_of_proteins_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        tiny_protein_pipe().restore("ACDE", **arguments)


def test_decoders_that_cannot_are_refused_by_name(pipe):
    with pytest.raises(ValueError, match="not for the modality 'text': .* TextDecoder"):
        pipe.restore("the food was good", mask=[True, True, True, False])
    with pytest.raises(ValueError, match="ImageConvDecoder is none"):
        tiny_image_pipe(decoder=CONV_DECODER).restore(random_images(1), mask=KNOWN, num_decoder_steps=3)


def test_the_command_line_restores_pictures(tmp_path):
    pictures = tmp_path / "small"
    pictures.mkdir()
    for number, image in enumerate(random_images(2, size=4)):
        image.save(pictures / f"{number}.png")
    mask = tmp_path / "mask.png"
    Image.fromarray(np.where(KNOWN, 255, 0).astype(np.uint8)).save(mask)
    whole = tmp_path / "whole.png"
    random_images(1)[0].save(whole)
    fast = ["--num_inference_steps", 2]

    def run(*words):
        result = CliRunner().invoke(cli.app, ["restore", DIGITS, *map(str, words)])
        if isinstance(result.exception, (ValueError, OSError)):
            raise result.exception
        return result

    run(pictures, "--operator", "downsample", "--output", tmp_path / "large", "-n", 2, *fast)
    assert [Image.open(tmp_path / "large" / f"{number}.png").size for number in range(4)] == [(8, 8)] * 4
    run(whole, "--operator", "mask", "--mask", mask, "--output", tmp_path / "filled", *fast)
    there, filled = (np.asarray(Image.open(path)).astype(int) for path in (whole, tmp_path / "filled" / "0.png"))
    assert np.abs(there - filled)[KNOWN].max() <= 1
    for words, message in (
        ([whole, "--operator", "mask"], "belongs to"),
        ([tmp_path / "none.png", "--operator", "blur"], "no file"),
        ([whole, "--operator", "downsample"], "must have the shape"),
    ):
        with pytest.raises((ValueError, OSError), match=message):
            run(*words, "--output", tmp_path / "out", *fast)
