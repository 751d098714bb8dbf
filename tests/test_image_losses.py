"""The terms that a decoder of images in one pass learns beside its pixels."""

import json
import shutil

import numpy as np
import pytest
import torch
from images import CONV_DECODER, NET, SIZE, tiny_image_model
from safetensors.torch import load_file

from hf_eddpm.training import train_image
from hf_eddpm.training.image_losses import (
    CRITIC_FILE,
    FeatureNetwork,
    PatchCritic,
    PerceptualDistance,
    ReconstructionLosses,
    fit_feature_network,
)

OWN = {name: value for name, value in NET.items() if name not in ("image_size", "num_channels")}
CONFIG = {
    "encoder": {**OWN, "pool_size": 2},
    "decoder": {**OWN, "model_type": "eddpm_image_conv"},
    "latent_dim": 6,
    "denoiser_num_layers": 1,
    "denoiser_hidden_size": 16,
    "num_train_timesteps": 100,
}


def _bars(count, rng):
    """Images with a bright bar that lies (class 0) or stands (class 1)."""
    images = rng.integers(0, 40, (count, 12, 12, 1)).astype(np.uint8)
    labels = np.arange(count) % 2
    for image, label in zip(images, labels, strict=True):
        at = rng.integers(2, 10)
        image[(slice(None), at) if label else (at, slice(None))] = 220
    return images, labels


@pytest.fixture(scope="module")
def network():
    images, labels = _bars(200, np.random.default_rng(0))
    return fit_feature_network(images, labels, seed=0, num_steps=60, batch_size=32, width=8)


@pytest.fixture
def images():
    """Four images for the tiny model, in [-1, 1]."""
    return torch.rand(4, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_the_feature_network_tells_what_it_was_taught(network):
    images, labels = _bars(100, np.random.default_rng(1))
    logits = network(torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1)
    assert (logits.argmax(1).numpy() == labels).mean() > 0.9
    assert not any(parameter.requires_grad for parameter in network.parameters())


def test_rotations_are_taught_where_there_are_no_classes():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 30, (100, 12, 12, 1)).astype(np.uint8)
    images[:, :3] = 230  # bright above, so that each rotation looks different
    network = fit_feature_network(images, None, seed=0, num_steps=60, batch_size=32, width=8)
    upright = torch.from_numpy(images[:20]).permute(0, 3, 1, 2).float() / 127.5 - 1
    for turns in range(4):
        assert (network(torch.rot90(upright, turns, (2, 3))).argmax(1) == turns).float().mean() > 0.9


def test_the_same_seed_gives_the_same_network_and_leaves_the_draws_of_others_alone():
    images, labels = _bars(40, np.random.default_rng(0))
    torch.manual_seed(3)
    networks = [fit_feature_network(images, labels, 0, 3, 8, 4) for _ in range(2)]
    drawn = torch.rand(2)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(2))
    states = [network.state_dict() for network in networks]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_the_distance_is_none_to_itself_and_grows_with_a_blur(network):
    images, _ = _bars(8, np.random.default_rng(2))
    sharp = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 127.5 - 1
    distance = PerceptualDistance(network)
    assert torch.equal(distance(sharp, sharp), torch.zeros(8))
    one, two = (torch.nn.functional.avg_pool2d(sharp, size, 1, size // 2) for size in (3, 5))
    assert (distance(one, sharp) > 0).all() and (distance(two, sharp) > distance(one, sharp)).all()
    assert torch.allclose(distance(one, sharp), distance(sharp, one), rtol=1e-5)


def test_grey_images_pass_through_a_network_of_colour():
    network = FeatureNetwork(3, 2, 4).eval()
    grey = torch.rand(2, 1, 8, 8)
    expected = network.features(grey.expand(-1, 3, -1, -1))
    for one, other in zip(network.features(grey), expected, strict=True):
        torch.testing.assert_close(one, other)


def test_the_terms_are_added_in_training_alone_and_are_no_part_of_the_model(network, images):
    model = tiny_image_model(decoder=CONV_DECODER)
    names = set(model.state_dict())
    latents = torch.randn(4, 1, 6, generator=torch.Generator().manual_seed(1))
    plain, _ = model.decoder(latents, images)
    model.decoder.extra_loss = ReconstructionLosses(PerceptualDistance(network), perceptual_weight=2.0)
    assert torch.equal(model.decoder(latents, images)[0], plain)
    model.decoder.train()
    nats, _ = model.decoder(latents, images)
    distances = PerceptualDistance(network)(model.decoder.mean(latents), images)
    torch.testing.assert_close(nats, plain + 2.0 * SIZE * SIZE * distances)
    assert set(model.state_dict()) == names


def test_the_critics_gradient_has_the_share_that_was_asked_for(images):
    torch.manual_seed(0)
    critic = PatchCritic(1, width=4, num_levels=1)
    decoder = tiny_image_model(decoder=CONV_DECODER).decoder.train()
    losses = ReconstructionLosses(critic=critic, critic_weight=0.25, critic_learning_rate=1e-12)
    latents = torch.randn(4, 1, 6, generator=torch.Generator().manual_seed(1))
    layer = decoder.conv_out.weight
    (alone,) = torch.autograd.grad(decoder(latents, images)[0].mean(), layer)
    decoder.extra_loss = losses
    (both,) = torch.autograd.grad(decoder(latents, images)[0].mean(), layer)
    share = ((both - alone).norm() / alone.norm()).item()
    assert share == pytest.approx(0.25, rel=0.02)  # spectral normalisation moves the critic a little at each look


def test_the_critic_learns_from_its_start_on(images):
    torch.manual_seed(0)
    critic = PatchCritic(1, width=8, num_levels=1)
    losses = ReconstructionLosses(critic=critic, critic_start=3, critic_learning_rate=5e-3)
    layer = torch.nn.Parameter(torch.ones(1))
    real, made = images, images * 0.2
    before = {name: value.clone() for name, value in critic.state_dict().items()}
    for step in range(60):
        added = losses(made * layer, real, (made * layer).square().flatten(1).sum(1), layer)
        if step < 3:
            assert torch.equal(added, torch.zeros(4))
            assert all(torch.equal(before[name], value) for name, value in critic.state_dict().items())
    assert critic(real).mean() > 0.5 and critic(made).mean() < -0.5


def test_weights_that_mean_nothing_are_refused(network):
    with pytest.raises(ValueError, match="`perceptual` or `critic` must be given"):
        ReconstructionLosses()
    with pytest.raises(ValueError, match="`critic_weight` must be at least 0, got -1"):
        ReconstructionLosses(PerceptualDistance(network), critic_weight=-1)


@pytest.fixture
def train(tmp_path):
    images, labels = _bars(48, np.random.default_rng(0))
    np.savez(tmp_path / "bars.npz", images=images[:, 2:10, 2:10], labels=labels)

    def run(*words, folder="run", **config):
        options = {"--train": tmp_path / "bars.npz", "--output_dir": tmp_path / folder, "--report_to": "none"}
        options |= {"--perceptual_steps": 3, "--perceptual_width": 4, "--critic_width": 4, "--logging_steps": 1}
        options |= {"--per_device_train_batch_size": 8, "--model_config": json.dumps({**CONFIG, **config})}
        flat = [str(word) for pair in options.items() for word in pair]
        return train_image.main([*flat, "--use_cpu", *words])

    return run


def test_a_resumed_training_equals_one_in_one_go(train, tmp_path):
    words = ("--perceptual_weight", "1", "--perceptual_column", "label", "--critic_weight", "0.5", "--max_steps", "6")
    saving = ("--save_strategy", "steps", "--save_steps", "3", "--save_total_limit", "3", "--ema_decay", "0.9")
    whole = train(*words, *saving)
    shutil.copytree(tmp_path / "run" / "checkpoint-3", tmp_path / "half" / "checkpoint-3")
    assert (tmp_path / "half" / "checkpoint-3" / CRITIC_FILE).is_file()
    half = train(*words, *saving, "--resume_from_checkpoint", "auto", folder="half")
    one, other = (_weights(folder) for folder in (whole, half))
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []
    (tmp_path / "half" / "checkpoint-3" / CRITIC_FILE).unlink()
    shutil.rmtree(tmp_path / "half" / "checkpoint-6")
    with pytest.raises(ValueError, match=f"holds no {CRITIC_FILE}"):
        train(*words, *saving, "--resume_from_checkpoint", "auto", folder="half")


def _weights(folder):
    (path,) = (folder / "model").glob("*.safetensors")
    return load_file(path)


def test_a_chain_over_pixels_has_no_such_terms(train):
    with pytest.raises(ValueError, match="must be 0 for a decoder that is a diffusion chain"):
        train("--perceptual_weight", "1", "--max_steps", "1", decoder={**OWN, "model_type": "eddpm_image_unet"})


def test_weights_and_columns_are_checked_before_the_training(train):
    with pytest.raises(ValueError, match="`perceptual_weight` must be at least 0, got -1"):
        train("--perceptual_weight", "-1", "--max_steps", "1")
    with pytest.raises(ValueError, match="'age' is no attribute"):
        train("--perceptual_weight", "1", "--perceptual_column", "age", "--max_steps", "1")
