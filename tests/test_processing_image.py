import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from images import SIZE, random_images, tiny_image_model
from PIL import Image

from hf_eddpm import EDDPMImageProcessor, plot_grid

MODES = ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "HSV", "I;16", "PA"]


def _picture(mode, size=SIZE) -> Image.Image:
    ramp = np.linspace(0, 255, size * size).reshape(size, size).astype(np.uint8)
    if mode == "I;16":
        return Image.fromarray(ramp.astype(np.uint16) * 257)
    if mode == "PA":
        return Image.fromarray(ramp).convert("P").convert("PA")
    if mode in ("L", "1"):
        return Image.fromarray(ramp).convert(mode)
    return Image.fromarray(np.stack([ramp, ramp[::-1], ramp.T], axis=-1)).convert(mode)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("mode", MODES)
def test_an_image_of_any_mode_goes_in_and_comes_back_as_what_it_was_converted_to(mode, channels):
    processor = EDDPMImageProcessor(SIZE, channels)
    pixels = processor(_picture(mode))["pixel_values"]
    assert pixels.shape == (1, channels, SIZE, SIZE) and pixels.dtype == torch.float32
    assert -1 <= float(pixels.min()) < float(pixels.max()) <= 1
    (back,) = processor.postprocess(pixels)
    assert back.mode == ("L" if channels == 1 else "RGB")
    torch.testing.assert_close(processor(back)["pixel_values"], pixels, atol=1e-6, rtol=0)
    if mode == back.mode:
        assert back.tobytes() == _picture(mode).tobytes()


@given(seed=st.integers(0, 2**16), channels=st.sampled_from([1, 3]))
def test_grey_levels_survive_the_round_trip_in_every_form(seed, channels):
    levels = np.random.default_rng(seed).integers(0, 256, (2, SIZE, SIZE, channels), dtype=np.uint8)
    processor = EDDPMImageProcessor(SIZE, channels)
    pixels = processor(levels)["pixel_values"]
    signed = EDDPMImageProcessor(SIZE, channels, value_range="-1_1")
    for same in (
        processor(list(levels))["pixel_values"],
        processor(torch.from_numpy(levels).permute(0, 3, 1, 2))["pixel_values"],
        processor(levels.astype(np.float64) / 255)["pixel_values"],
        processor(processor.postprocess(pixels, "np"))["pixel_values"],
        processor(processor.postprocess(pixels, "pt"))["pixel_values"],
        processor(processor.as_list(levels))["pixel_values"],
        signed(pixels)["pixel_values"],
    ):
        torch.testing.assert_close(same, pixels, atol=1e-5, rtol=0)
    assert [image.tobytes() for image in processor.postprocess(pixels)] == [image.tobytes() for image in levels]


def test_integers_are_of_16_bits_where_their_file_or_their_values_say_so(tmp_path):
    processor = EDDPMImageProcessor(SIZE, 1)
    dark, bright = (Image.fromarray(np.full((SIZE, SIZE), level, np.uint16)) for level in (200, 51400))
    expected = [round(level / 257) / 127.5 - 1 for level in (200, 51400)]
    dark.save(tmp_path / "dark.png")
    dark.save(tmp_path / "dark.pgm")  # which Pillow opens in mode "I"
    with Image.open(tmp_path / "dark.png") as png, Image.open(tmp_path / "dark.pgm") as pgm:
        pixels = processor([dark, bright, png, pgm, bright.convert("I")])["pixel_values"]
        with pytest.raises(ValueError, match="convert it to mode 'L'"):
            processor(png.convert("I"))
    levels = [expected[0], expected[1], expected[0], expected[0], expected[1]]
    np.testing.assert_allclose(pixels[:, 0, 0, 0].numpy(), levels, atol=1e-6)


def test_what_is_transparent_shows_the_background():
    image = Image.new("RGBA", (SIZE, SIZE), (255, 0, 0, 0))
    for background in (0, 255):
        pixels = EDDPMImageProcessor(SIZE, 1, background=background)(image)["pixel_values"]
        assert float(pixels.mean()) == pytest.approx(background / 127.5 - 1)
    palette = _picture("L").convert("P")
    palette.info["transparency"] = 0
    assert EDDPMImageProcessor(SIZE, 3)(palette)["pixel_values"].shape == (1, 3, SIZE, SIZE)


def test_other_sizes_are_refused_stretched_or_cropped():
    wide = Image.fromarray(np.tile(np.repeat(np.array([0, 255, 0], np.uint8), SIZE), (SIZE, 1)))
    with pytest.raises(ValueError, match="8 x 8, got 8 x 24"):
        EDDPMImageProcessor(SIZE, 1)(wide)
    cropped = EDDPMImageProcessor(SIZE, 1, resize="crop")(wide)["pixel_values"]
    stretched = EDDPMImageProcessor(SIZE, 1, resize="stretch")(wide)["pixel_values"]
    assert float(cropped.min()) == 1.0
    assert float(stretched[..., 0].max()) < -0.9 < 0.9 < float(stretched[..., SIZE // 2].min())


def _array(value=0.5, channels=1, dtype=np.float32):
    return np.full((SIZE, SIZE, channels), value, dtype)


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        (_array(channels=3), ValueError, "must have 1 channels, got 3 at position 0"),
        ([_array(), _array(channels=4)], ValueError, "must have 1 channels, got 4 at position 1"),
        (torch.zeros(2, SIZE, SIZE), ValueError, "must have 1 channels, got 2"),
        (np.zeros((SIZE, SIZE + 1), np.uint8), ValueError, "8 x 8, got 8 x 9 at position 0; `resize`"),
        (_array(dtype=np.int64), ValueError, "must be of uint8 or floats, got int64"),
        (_array(dtype=bool), ValueError, "must be of uint8 or floats, got bool"),
        (_array(float("nan")), ValueError, "got NaN or infinity"),
        (_array(1.5), ValueError, r"must be in \[0, 1\].*got 1.5 to 1.5"),
        (_array(-0.5), ValueError, r"`value_range`='0_1'"),
        (torch.full((1, SIZE, SIZE), -0.5), ValueError, r"`value_range`='0_1'"),
        (torch.zeros(SIZE, SIZE), ValueError, r"tensors \(channels, height, width\)"),
        (np.zeros(SIZE, np.uint8), ValueError, r"arrays \(height, width\[, channels\]\)"),
        (np.zeros((0, SIZE, SIZE, 1), np.uint8), ValueError, "at least one image"),
        ([], ValueError, "at least one image"),
        ("a.png", TypeError, "must be an image .* got str"),
        (["a.png"], TypeError, "must hold images .* got str at position 0"),
        (np.zeros((1, 1, SIZE, SIZE, 1), np.uint8), TypeError, "got 5 dimensions"),
        (Image.new("F", (SIZE, SIZE)), ValueError, "mode 'F'"),
        (Image.new("I", (SIZE, SIZE), 70000), ValueError, "at most 16 bits"),
        (Image.new("I", (SIZE, SIZE), 200), ValueError, r"mode 'I' with all values in \[0, 255\].*at position 0"),
    ],
)
def test_what_is_no_image_of_the_model_is_refused(data, error, message):
    with pytest.raises(error, match=message):
        EDDPMImageProcessor(SIZE, 1)(data)


def test_the_declared_range_of_floats_is_held_to():
    with pytest.raises(ValueError, match=r"must be in \[-1, 1\]"):
        EDDPMImageProcessor(SIZE, 1, value_range="-1_1")(_array(-1.5))


def test_a_damaged_file_is_named_by_its_position(tmp_path):
    path = tmp_path / "cut.png"
    random_images(1, size=64)[0].resize((SIZE, SIZE)).save(path)
    path.write_bytes(path.read_bytes()[:60])
    with Image.open(path) as image, pytest.raises(ValueError, match="damaged image at position 1"):
        EDDPMImageProcessor(SIZE, 1)([random_images(1)[0], image])


@pytest.mark.parametrize(
    "values",
    [{"image_size": 0}, {"num_channels": 2}, {"resize": "pad"}, {"value_range": "0_255"}, {"background": 256}],
)
def test_impossible_processors_are_refused_by_name(values):
    (name,) = values
    with pytest.raises(ValueError, match=f"`{name}`"):
        EDDPMImageProcessor(**values)


@pytest.mark.parametrize(("arguments", "name"), [((16, 1), "image_size"), ((SIZE, 3), "num_channels")])
def test_a_processor_of_another_size_does_not_fit_the_model(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}`"):
        EDDPMImageProcessor(*arguments).check_model(tiny_image_model().config)


def test_a_processor_loads_as_it_was_saved(tmp_path):
    processor = EDDPMImageProcessor(16, 3, resize="crop", value_range="-1_1", background=3)
    processor.save_pretrained(tmp_path)
    assert EDDPMImageProcessor.from_pretrained(tmp_path).to_dict() == processor.to_dict()


def test_a_grid_holds_every_image_at_its_place():
    images = [Image.new("L", (4, 4), level) for level in (10, 20, 30)]
    grid = plot_grid(images, num_columns=2, padding=1, scale=2)
    assert (grid.size, grid.mode) == ((19, 19), "L")
    assert [grid.getpixel(place) for place in ((1, 1), (10, 1), (1, 10), (10, 10))] == [10, 20, 30, 255]
    rows = plot_grid([images[:1], images], padding=0)
    assert rows.size == (12, 8) and rows.getpixel((8, 4)) == 30 and rows.getpixel((8, 0)) == 255
    assert plot_grid([images[0], Image.new("RGB", (4, 4))]).mode == "RGB"


@pytest.mark.parametrize(
    ("images", "arguments", "error", "message"),
    [
        ([], {}, ValueError, "`images`"),
        ([np.zeros((4, 4))], {}, TypeError, "PIL images"),
        ([Image.new("L", (4, 4)), Image.new("L", (5, 4))], {}, ValueError, "one size"),
        ([Image.new("L", (4, 4))], {"scale": 0}, ValueError, "`scale`"),
        ([Image.new("L", (4, 4))], {"padding": -1}, ValueError, "`padding`"),
        ([[Image.new("L", (4, 4))]], {"num_columns": 2}, ValueError, "`num_columns`"),
    ],
)
def test_impossible_grids_are_refused(images, arguments, error, message):
    with pytest.raises(error, match=message):
        plot_grid(images, **arguments)
