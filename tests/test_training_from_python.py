"""The training that README shows runs as it is printed there, up to the upload to a hub on the loopback interface."""

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import SENTENCES
from hub_server import HubServer
from PIL import Image
from transformers import TrainingArguments

from hf_eddpm import EDDPMPipeline, EDDPMTrainer, model_for_data
from hf_eddpm.hub.card import hub_id
from hf_eddpm.modalities.image.data import load_images
from hf_eddpm.training.defaults import default_arguments, default_steps

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
(SNIPPET,) = [
    block for block in re.findall(r"^```python\n(.*?)^```$", README, re.M | re.S) if "model_for_data" in block
]
# As printed, but for the length of the training.
SCRIPT = """
from hf_eddpm.training import defaults
defaults._EPOCHS, defaults._LEAST_STEPS = 0, 3
exec(compile(open("snippet.py").read(), "README.md", "exec"))
"""


def test_the_snippet_of_the_readme_trains_and_uploads(tmp_path):
    lines = [f"{sentence[:-1]}{word} ." for sentence in SENTENCES for word in ("today", "again", "here", "too")]
    (tmp_path / "my_sentences.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (tmp_path / "snippet.py").write_text(SNIPPET, encoding="utf-8")
    with HubServer() as hub:
        environment = {**os.environ, **hub.environment(tmp_path / "home"), "PYTHONPATH": str(ROOT / "src")}
        environment |= {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "0"}
        result = subprocess.run(
            [sys.executable, "-c", SCRIPT], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
        )
        assert result.returncode == 0, result.stderr[-3000:]
        files = set(hub.files(hub_id("my-sentences")))
    assert {"model_index.json", "model/config.json", "model/model.safetensors", "README.md"} <= files


def test_the_steps_grow_with_the_data_within_bounds():
    assert default_steps(10) == 300
    assert default_steps(64_000) == 20_000
    assert default_steps(6_400) == 3_000
    assert default_arguments(10)["per_device_train_batch_size"] == 10


def _trained(model, processor, data, folder):
    arguments = TrainingArguments(
        str(folder), max_steps=2, per_device_train_batch_size=4, report_to="none", use_cpu=True
    )
    trainer = EDDPMTrainer(model, arguments, processor, train_dataset=data)
    trainer.train()
    trainer.build_pipeline().save_pretrained(folder / "pipeline")
    return EDDPMPipeline.from_pretrained(folder / "pipeline")


@pytest.mark.parametrize("values", [{"num_latents": 8}, {"num_latents": 2, "decoder_prefix_length": 4}])
def test_a_model_for_sentences_has_positions_for_its_latents(tmp_path, values):
    sentences = ["the food was great .", "i hate it , and we will not come back .", "fine ."]
    model, processor = model_for_data(sentences, vocab_size=300, **values)
    pipe = _trained(model, processor, sentences, tmp_path)
    assert len(pipe.reconstruct(sentences)) == 3
    longest = processor.max_length
    assert pipe.model.decode(pipe.encode(sentences).latents, max_new_tokens=longest).shape[1] <= longest


def test_a_model_for_proteins_predicts_their_properties(tmp_path):
    proteins = ["ACDEFGHIK", "ACDEFG", "LMNPQRSTV", "WYACDEF"]
    model, processor = model_for_data(proteins, "protein", properties=[[0.0], [1.0], [2.0], [float("nan")]])
    data = [{"data": protein, "properties": [0.5]} for protein in proteins]
    pipe = _trained(model, processor, data, tmp_path)
    assert pipe.predict(proteins).shape == (4, 1)
    assert all(len(sample) <= 9 for sample in pipe(num_samples=3, num_inference_steps=3).samples)


@pytest.mark.parametrize(
    ("mode", "num_channels"),
    [("1", 1), ("L", 1), ("LA", 1), ("I;16", 1), ("P", 3), ("grey P", 3), ("RGB", 3), ("RGBA", 3), ("CMYK", 3)],
)
def test_a_model_for_images_has_the_channels_that_load_images_gives_them(tmp_path, mode, num_channels):
    ramp = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) * 4)
    colour = Image.merge("RGB", [ramp, ramp.rotate(90), ramp.rotate(180)])
    if mode == "I;16":
        image = Image.fromarray(np.asarray(ramp).astype(np.uint16) * 257)
    else:
        image = ramp.convert("P") if mode == "grey P" else colour.convert(mode)
    image.save(tmp_path / "a.tif")
    processor = model_for_data([image], "image")[1]
    assert processor.num_channels == load_images(str(tmp_path)).num_channels == num_channels


def test_a_model_for_images_prepares_them_as_asked():
    images = [Image.new("RGBA", (12, 8), (0, 0, 0, 0)), np.zeros((8, 8, 3), np.uint8), torch.zeros(3, 8, 16)]
    model, processor = model_for_data(images, "image", resize="crop", background=0, value_range="-1_1")
    assert (processor.image_size, processor.num_channels, model.config.decoder.image_size) == (8, 3, 8)
    assert processor(images)["pixel_values"].amax((1, 2, 3)).tolist() == [-1, -1, 0]
    assert model_for_data(images[2:], "image", image_size=16, resize="stretch")[1].num_channels == 3
    for wrong in ("a.png", np.zeros(3)):
        with pytest.raises(TypeError, match="`data` must hold images .* at position 0"):
            model_for_data([wrong], "image")


def test_a_model_for_images_has_their_size_and_classes(tmp_path):
    images = list(np.random.default_rng(0).integers(0, 256, (6, 20, 20), dtype=np.uint8))
    model, processor = model_for_data(images, "image", class_labels=[0, 1, 2, 0, 1, -1])
    data = [{"data": image, "class_labels": label} for image, label in zip(images, [0, 1, 2, 0, 1, -1], strict=True)]
    pipe = _trained(model, processor, data, tmp_path)
    (sample,) = pipe(num_samples=1, num_inference_steps=2, class_labels=2).samples
    assert sample.size == (20, 20) and sample.mode == "L"
    assert model.config.decoder.model_type == "eddpm_image_conv" and model.config.decoder.patch_size == 2


def test_the_same_seed_makes_the_same_model():
    models = [model_for_data(SENTENCES, "text", seed=seed, latent_dim=8)[0] for seed in (1, 1, 2)]
    first, second, other = (torch.cat([p.flatten() for p in model.parameters()]) for model in models)
    assert torch.equal(first, second) and not torch.equal(first, other)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"data": []}, "`data` must hold at least one datum"),
        ({"data": SENTENCES, "modality": "smell"}, "`modality` must be one of"),
        ({"data": SENTENCES, "class_labels": [0, 1]}, "`class_labels` must be 8 integers"),
        ({"data": SENTENCES, "class_labels": [True] * 8}, "`class_labels` must be 8 integers"),
        ({"data": SENTENCES, "properties": [1.0] * 8}, r"`properties` must have the shape \(8, num_properties\)"),
        ({"data": [np.zeros((8, 6), np.uint8)], "modality": "image"}, "`image_size` must be given"),
        ({"data": ["ACB1"], "modality": "protein"}, "must consist of"),
    ],
)
def test_data_that_no_model_fits_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        model_for_data(**arguments)


def test_a_trainer_without_arguments_needs_data_of_known_length():
    model, processor = model_for_data(SENTENCES, "text", latent_dim=8)
    with pytest.raises(ValueError, match="`args` must be given"):
        EDDPMTrainer(model, processor=processor, train_dataset=iter(SENTENCES))
