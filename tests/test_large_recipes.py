"""The paper's image recipes start: two steps at full size, on generated images of the data's own sizes."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from hf_eddpm import EDDPMConfig, EDDPMPipeline
from hf_eddpm.training import train_image
from large_recipes import run as large_recipes

CONFIGS = Path(__file__).parent.parent / "training" / "configs"
# What each data set's files are like, and the options that make a training fit a machine.
RECIPES = {
    "image_celeba64_paper": ((218, 178), ["--gradient_accumulation_steps", "2"]),
    "image_ffhq128_paper": ((128, 128), ["--gradient_checkpointing"]),
    "image_lsun128_paper": ((256, 341), ["--precision", "bf16"]),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_that_of_the_paper(name):
    settings = json.loads((CONFIGS / f"{name}.json").read_text())
    config = EDDPMConfig.from_preset(settings["preset"], **settings["model_config"])
    assert config.latent_dim == 512 and settings["per_device_train_batch_size"] == 128
    assert config.decoder.image_size == config.encoder.image_size == settings["image_size"]
    with torch.device("meta"):
        model = large_recipes.make_model(name)
    assert 150e6 < model.num_parameters() < 300e6
    assert large_recipes.count_operations(name) > 1e10


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.gradient_checkpointing. is deprecated")  # renamed in transformers 5.23
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_two_steps(name, tmp_path):
    (height, width), options = RECIPES[name]
    folder = tmp_path / "images"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(6):
        coarse = Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8))
        coarse.resize((width, height), Image.Resampling.BICUBIC).save(folder / f"{number}.jpg")
    words = [str(CONFIGS / f"{name}.json"), "--train", str(folder), "--output_dir", str(tmp_path / "run"), "--use_cpu"]
    words += ["--max_steps", "2", "--per_device_train_batch_size", "2", "--per_device_eval_batch_size", "1"]
    words += [
        "--max_dev_images",
        "1",
        "--num_previews",
        "0",
        "--save_strategy",
        "no",
        "--eval_strategy",
        "no",
        *options,
    ]
    pipe = EDDPMPipeline.from_pretrained(train_image.main(words))
    assert pipe.model.config.decoder.image_size == json.loads((CONFIGS / f"{name}.json").read_text())["image_size"]
    (sample,) = pipe(num_inference_steps=2, num_decoder_steps=1, output_type="pt").samples
    assert torch.isfinite(sample).all()
