"""Pictures are prepared alike in training, by the saved pipeline, and by every command that reads them again."""

import json

import numpy as np
import pytest
from images import NET, SIZE, random_images, tiny_image_pipe
from PIL import Image
from typer.testing import CliRunner

from hf_eddpm import EDDPMImageProcessor
from hf_eddpm.cli import main as cli
from hf_eddpm.data.raw import load_raw
from hf_eddpm.training import train_image
from hf_eddpm.training.options import ImageDataArguments

OWN = {name: value for name, value in NET.items() if name not in ("image_size", "num_channels")}
TINY = {
    "encoder": {**OWN, "pool_size": 2},
    "decoder": {**OWN, "model_type": "eddpm_image_conv"},
    "latent_dim": 6,
    "denoiser_num_layers": 1,
    "denoiser_hidden_size": 16,
}


@pytest.fixture
def photos(tmp_path):
    """Twelve pictures of 28 x 20 in colour, each with a transparent left half."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, image in enumerate(random_images(12, channels=3, size=28)):
        image = image.resize((28, 20)).convert("RGBA")
        image.paste((0, 0, 0, 0), (0, 0, 14, 20))
        image.save(folder / f"{number:02}.png")
    return folder


@pytest.fixture
def train(tmp_path, photos):
    """Function that trains a step on the pictures and returns the pipeline's folder."""

    def run(*words, name="run"):
        fixed = ["--output_dir", str(tmp_path / name), "--max_steps", "1", "--report_to", "none", "--use_cpu"]
        quiet = ["--save_strategy", "no", "--num_previews", "0", "--per_device_train_batch_size", "4"]
        return train_image.main(["--train", str(photos), *fixed, *quiet, *map(str, words)])

    return run


def _prepared(folder) -> tuple:
    processor = EDDPMImageProcessor.from_pretrained(folder / "processor")
    return processor.image_size, processor.num_channels, processor.resize, processor.background


def _run(*words) -> None:
    result = CliRunner().invoke(cli.app, list(map(str, words)))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output


def test_a_trained_pipeline_prepares_pictures_as_its_training_did(train, photos, tmp_path):
    config = json.dumps(TINY)
    words = ["--resize", "crop", "--image_size", SIZE, "--background", 0, "--model_config", config]
    folder = train(*words)
    assert _prepared(folder) == (SIZE, 3, "crop", 0)
    assert json.loads((folder / "training.json").read_text())["arguments"]["background"] == 0
    assert "takes the middle square of other sizes" in (folder / "README.md").read_text()
    _run("reconstruct", folder, photos, "-o", tmp_path / "again.npz")
    assert np.load(tmp_path / "again.npz")["images"].shape == (12, SIZE, SIZE, 3)


def test_a_training_from_a_checkpoint_prepares_pictures_as_the_checkpoint_or_as_it_is_told(train, tmp_path):
    pipe = tiny_image_pipe(resize="stretch")
    pipe.processor.background = 7
    pipe.save_pretrained(tmp_path / "start")
    start = ["--init_from", tmp_path / "start"]
    assert _prepared(train(*start)) == (SIZE, 1, "stretch", 7)
    told = [*start, "--resize", "crop", "--background", 0]
    assert _prepared(train(*told, name="told")) == (SIZE, 1, "crop", 0)
    with pytest.raises(ValueError, match=f"must hold images of {SIZE} x {SIZE}, got 20 x 28"):
        train(*start, "--resize", "none", name="refused")
    with pytest.raises(ValueError, match=f"`train` must hold images of {SIZE} pixels and 1 channels"):
        train(*start, "--image_size", 16, name="refused")


@pytest.mark.parametrize("resize", ["crop", "stretch"])
def test_commands_read_pictures_as_the_pipeline_takes_them(photos, tmp_path, resize):
    pipe = tiny_image_pipe(resize=resize)
    pipe.processor.background = 0
    pipe.save_pretrained(tmp_path / "pipe")
    files = sorted(photos.iterdir())
    taken = (pipe.processor([Image.open(file) for file in files])["pixel_values"] + 1) * 127.5
    read = np.stack(load_raw(pipe.processor, "image", [str(photos)]).items).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(read, taken.numpy(), atol=0.51)
    _run("encode", tmp_path / "pipe", photos, "-o", tmp_path / "latents.jsonl")
    rows = [json.loads(line)["embedding"] for line in (tmp_path / "latents.jsonl").read_text().splitlines()]
    expected = pipe.encode([Image.open(file) for file in files]).embeddings
    np.testing.assert_allclose(rows, expected.numpy(), atol=0.05)


def test_an_evaluation_reads_pictures_as_the_checkpoint_takes_them(photos):
    processor = EDDPMImageProcessor(SIZE, 1, resize="crop", background=0)
    arguments = ImageDataArguments(train=[str(photos)], dev_last=4)
    train, dev = train_image.load_data(arguments, 0, processor)
    assert train.images.shape == (8, SIZE, SIZE, 1) and dev.images.shape == (4, SIZE, SIZE, 1)
    assert (dev.resize, dev.background) == ("crop", 0)
    np.testing.assert_allclose(
        dev.images[-1].transpose(2, 0, 1),
        (processor(Image.open(photos / "11.png"))["pixel_values"][0] + 1) * 127.5,
        atol=0.51,
    )
    arguments = ImageDataArguments(train=[str(photos)], image_size=16, num_channels=3, resize="stretch", background=9)
    train, _ = train_image.load_data(arguments, 0, processor)
    assert train.images.shape[1:] == (16, 16, 3) and (train.resize, train.background) == ("stretch", 9)
