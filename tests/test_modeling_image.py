import logging

import numpy as np
import pytest
import torch
from conftest import enable_checkpointing
from hypothesis import given
from hypothesis import strategies as st
from images import (
    CONV_DECODER,
    CONV_ENCODER,
    DECODERS,
    ENCODERS,
    MAP_DECODER,
    NET,
    RESNET_ENCODER,
    SIZE,
    UNET_DECODER,
    VIT_ENCODER,
    make_image_pipe,
    random_images,
    tiny_image_model,
    tiny_image_pipe,
)

from hf_eddpm import (
    EDDPMConfig,
    EDDPMModel,
    EDDPMPipeline,
    EDDPMScheduler,
    ImageConvConfig,
    ImageEncoder,
    ImageEncoderConfig,
    ImageUNetConfig,
)
from hf_eddpm.modalities.image.decoder import discretized_gaussian_nats

decoders = pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)
TEXT_ENCODER = {"model_type": "gpt2", "n_layer": 1, "n_embd": 8, "n_head": 1, "vocab_size": 16}
PAIRS = {
    "convolutional, diffusion": (CONV_ENCODER, UNET_DECODER),
    "vit, convolutional": (VIT_ENCODER, CONV_DECODER),
    "dinov2, diffusion with a map": (ENCODERS["dinov2"], MAP_DECODER),
    "resnet, convolutional": (RESNET_ENCODER, CONV_DECODER),
}
pairs = pytest.mark.parametrize(("encoder", "decoder"), PAIRS.values(), ids=PAIRS)
STEPS = {"num_decoder_steps": 4}


def _steps(decoder):
    return {} if decoder is CONV_DECODER else STEPS


@pairs
def test_a_batch_equals_its_items(encoder, decoder):
    pipe = tiny_image_pipe(encoder=encoder, decoder=decoder)
    images = random_images(3)
    latents = pipe.encode(images).latents
    alone = torch.cat([pipe.encode(image).latents for image in images])
    torch.testing.assert_close(latents, alone, atol=1e-5, rtol=1e-4)
    noise = {}
    if decoder is not CONV_DECODER:
        noise = {"decoder_noise": torch.randn(3, 1, SIZE, SIZE), **STEPS}
    together = pipe.decode(latents, output_type="pt", **noise)
    in_parts = pipe.decode(latents, batch_size=2, output_type="pt", **noise)
    torch.testing.assert_close(together, in_parts, atol=1e-4, rtol=1e-4)
    batch = pipe.processor(images)
    with torch.no_grad():
        losses = [pipe.model(pixel_values=pixels[None]).loss for pixels in batch["pixel_values"]]
        torch.testing.assert_close(pipe.model(**batch).loss, torch.stack(losses).mean(), atol=1e-4, rtol=1e-4)


@pairs
def test_a_saved_image_pipeline_loads_with_the_same_outputs(encoder, decoder, tmp_path):
    pipe = tiny_image_pipe(encoder=encoder, decoder=decoder)
    pipe.save_pretrained(tmp_path)
    loaded = EDDPMPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    images = random_images(2)
    assert torch.equal(loaded.encode(images).latents, pipe.encode(images).latents)
    samples = [
        each(2, num_inference_steps=3, generator=torch.Generator().manual_seed(0), output_type="np", **_steps(decoder))
        for each in (pipe, loaded)
    ]
    assert np.array_equal(samples[0].samples, samples[1].samples)
    assert (loaded.decoder_scheduler is None) == (decoder is CONV_DECODER)
    if decoder is not CONV_DECODER:
        assert dict(loaded.decoder_scheduler.config) == dict(pipe.decoder_scheduler.config)


@pairs
def test_every_parameter_gets_a_gradient(encoder, decoder):
    pipe = tiny_image_pipe(encoder=encoder, decoder=decoder, num_latents=2, pooling="attention")
    model = pipe.model.train()
    model(**pipe.processor(random_images())).loss.backward()
    without = [name for name, parameter in model.named_parameters() if parameter.grad is None]
    assert without == (["encoder.backbone.embeddings.mask_token"] if encoder is ENCODERS["dinov2"] else [])


@decoders
def test_checkpointing_changes_no_gradient(decoder):
    gradients = []
    for checkpointing in (False, True):
        model = tiny_image_model(decoder=decoder).train()
        if checkpointing:
            enable_checkpointing(model)
        batch = make_image_pipe(model).processor(random_images())
        model.train()(**batch, generator=torch.Generator().manual_seed(0)).loss.backward()
        gradients.append({name: parameter.grad for name, parameter in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name], atol=1e-5, rtol=1e-4)


@decoders
def test_the_latents_decide_what_is_decoded(decoder):
    model = tiny_image_model(decoder=decoder)
    latents = torch.randn(2, 1, 6)
    noise = {"decoder_noise": torch.randn(1, 1, SIZE, SIZE).expand(2, -1, -1, -1), **STEPS}
    images = model.decode(latents, **({} if decoder is CONV_DECODER else noise))
    assert (images[0] - images[1]).abs().max() > 0.05
    assert float(images.abs().max()) <= 1


def test_grey_images_reach_a_colour_backbone_and_its_statistics_are_used():
    model = tiny_image_model(encoder=VIT_ENCODER)
    pixels = torch.rand(2, 1, SIZE, SIZE) * 2 - 1
    prepared = model.encoder._prepare(pixels)
    assert prepared.shape == (2, 3, 16, 16)
    statistics = {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.2, 0.1]}
    other = tiny_image_model(encoder={**VIT_ENCODER, **statistics})
    expected = ((prepared + 1) / 2 - torch.tensor([0.5, 0.4, 0.3]).view(3, 1, 1)) / torch.tensor([0.2, 0.2, 0.1]).view(
        3, 1, 1
    )
    torch.testing.assert_close(other.encoder._prepare(pixels), expected)


def test_a_given_backbone_is_the_encoder():
    model = tiny_image_model(encoder=VIT_ENCODER)
    backbone = model.encoder.backbone
    given = EDDPMModel(model.config, encoder=ImageEncoder(model.config, backbone))
    assert given.encoder.backbone is backbone
    assert given.get_input_embeddings() is backbone.get_input_embeddings()


def test_colour_images_of_another_size_and_patches_go_through_both_decoders():
    net = {**NET, "image_size": 24, "num_channels": 3, "patch_size": 2, "block_out_channels": [8, 8, 16]}
    for decoder in (CONV_DECODER, {**UNET_DECODER, "attention_levels": [1], "attention_head_dim": 4}):
        pipe = tiny_image_pipe(encoder={**CONV_ENCODER, **net}, decoder={**decoder, **net})
        images = random_images(2, channels=3, size=24)
        assert pipe.reconstruct(images, output_type="np").shape == (2, 24, 24, 3)
        assert bool(pipe.score(images, num_timesteps=2).bits_per_unit.isfinite().all())


def test_the_pixels_see_the_timesteps_of_the_latents_chain(monkeypatch):
    model = tiny_image_model(denoiser_samples_per_latent=3).train()
    seen = {}
    decoder_forward, chain_errors = model.decoder.forward, model._chain_errors

    def watch_decoder(latents, **targets):
        seen["pixels"] = targets["timesteps"]
        return decoder_forward(latents, **targets)

    def watch_chain(latents, mean, timesteps, *rest):
        seen["latents"] = timesteps
        return chain_errors(latents, mean, timesteps, *rest)

    monkeypatch.setattr(model.decoder, "forward", watch_decoder)
    monkeypatch.setattr(model, "_chain_errors", watch_chain)
    pixels = torch.rand(4, 1, SIZE, SIZE)
    model(pixel_values=pixels)
    assert seen["latents"].shape == (12,) and torch.equal(seen["latents"][:4], seen["pixels"])
    given = torch.tensor([0, 7, 20, 49])
    model(pixel_values=pixels, timesteps=given)
    assert torch.equal(seen["pixels"], given) and torch.equal(seen["latents"], given)


def test_the_weights_of_the_paper_are_those_of_the_two_losses(generator):
    model = tiny_image_model(reconstruction_weight=1.4, diffusion_weight=0.6).train()
    output = model(pixel_values=torch.rand(4, 1, SIZE, SIZE), generator=generator)
    expected = 1.4 * output.reconstruction_loss + 0.6 * (output.diffusion_loss + output.alignment_loss)
    torch.testing.assert_close(output.loss, expected)


def test_the_simple_pixel_loss_is_the_mean_square_of_the_networks_error(generator):
    decoder = tiny_image_model().decoder
    pixels, latents, timesteps = torch.rand(3, 1, SIZE, SIZE), torch.randn(3, 1, 6), torch.tensor([0, 10, 40])
    state = generator.get_state()
    errors, units = decoder(latents, pixel_values=pixels, timesteps=timesteps, generator=generator)
    noise = torch.randn(pixels.shape, generator=generator.set_state(state))
    noisy = decoder.scheduler.add_noise(pixels, noise, timesteps)
    target = decoder.scheduler.get_velocity(pixels, noise, timesteps)
    expected = (target - decoder.denoise(noisy, timesteps, latents)).square().flatten(1).mean(1)
    torch.testing.assert_close(errors / units, expected)
    assert units.tolist() == [SIZE * SIZE] * 3


def test_the_bound_of_an_oracle_is_that_of_its_last_step_and_the_ends(monkeypatch, generator):
    model = tiny_image_model()
    decoder, scheduler = model.decoder, model.decoder.scheduler
    pixels = torch.zeros(2, 1, SIZE, SIZE)

    def oracle(noisy, timesteps, latents):  # knows that every image is grey
        a = scheduler.alphas_cumprod[timesteps].reshape(-1, 1, 1, 1)
        return a.sqrt() * noisy / (1 - a).sqrt()

    monkeypatch.setattr(decoder, "denoise", oracle)
    nats, _ = decoder.negative_log_likelihood(torch.zeros(2, 1, 6), 4, generator, pixel_values=pixels)
    last = discretized_gaussian_nats(pixels, pixels, float(scheduler.betas[0]) ** 0.5)
    rest, prior = scheduler.bound_terms(pixels, lambda timesteps: torch.zeros(2), 4, generator)
    torch.testing.assert_close(nats, last + rest + prior, atol=1e-2, rtol=1e-4)


@given(mean=st.floats(-1, 1), std=st.floats(0.005, 1.0))
def test_the_probabilities_of_all_grey_levels_sum_to_one(mean, std):
    levels = (torch.arange(256, dtype=torch.float64) / 127.5 - 1).float()[:, None]
    nats = discretized_gaussian_nats(levels, torch.full_like(levels, mean), std)
    assert float(torch.exp(-nats.double()).sum()) == pytest.approx(1, abs=1e-3)


def test_the_density_of_the_decoder_in_one_pass_is_a_gaussians(generator):
    model = tiny_image_model(decoder={**CONV_DECODER, "variance": 0.3})
    latents, pixels = torch.randn(2, 1, 6, generator=generator), torch.rand(2, 1, SIZE, SIZE)
    nats, units = model.decoder(latents, pixel_values=pixels)
    expected = -torch.distributions.Normal(model.decoder.mean(latents), 0.3**0.5).log_prob(pixels)
    torch.testing.assert_close(nats, expected.flatten(1).sum(1))
    assert units.tolist() == [64, 64]


@pytest.mark.parametrize("shape", [(2, 3, SIZE, SIZE), (2, 1, 16, 16), (2, SIZE, SIZE)])
@decoders
def test_pixels_of_another_shape_are_refused(decoder, shape):
    model = tiny_image_model(decoder=decoder)
    with pytest.raises(ValueError, match="`pixel_values` must have the shape"):
        model.decoder(torch.zeros(2, 1, 6), pixel_values=torch.zeros(shape))


@pytest.mark.parametrize(
    ("config_class", "values"),
    [
        (ImageEncoderConfig, {"image_size": 30}),
        (ImageEncoderConfig, {"image_size": 0}),
        (ImageEncoderConfig, {"pool_size": 9}),
        (ImageEncoderConfig, {"block_out_channels": []}),
        (ImageEncoderConfig, {"block_out_channels": [12, 16]}),
        (ImageEncoderConfig, {"num_channels": 2}),
        (ImageConvConfig, {"variance": 0.0}),
        (ImageConvConfig, {"layers_per_block": 1.5}),
        (ImageUNetConfig, {"attention_levels": [3]}),
        (ImageUNetConfig, {"dropout": 1.0}),
        (ImageUNetConfig, {"prediction_type": "noise"}),
        (ImageUNetConfig, {"beta_schedule": "constant"}),
        (ImageUNetConfig, {"beta_start": 0.0}),
        (ImageUNetConfig, {"attention_head_dim": 0}),
        (ImageUNetConfig, {"map_channels": -1}),
    ],
)
def test_impossible_networks_are_refused_by_name(config_class, values):
    (name,) = values
    with pytest.raises(ValueError, match=f"`{name}`"):
        config_class(**values)


def test_a_size_that_the_stride_does_not_divide_is_explained():
    with pytest.raises(ValueError, match="divisible by the network's stride of 8 .*got 28"):
        ImageUNetConfig(image_size=28, patch_size=2)


def test_a_decoder_of_another_modality_is_refused():
    with pytest.raises(ValueError, match="`decoder` of images must be one of .*got 'gpt2'"):
        EDDPMModel(EDDPMConfig(modality="image", encoder=CONV_ENCODER, decoder=TEXT_ENCODER))
    with pytest.raises(ValueError, match="vision backbone"):
        EDDPMModel(EDDPMConfig(modality="image", encoder=TEXT_ENCODER, decoder=CONV_DECODER))


@pytest.mark.parametrize("name", ["image-small", "image-small-chain", "image-paper-64", "image-paper-128"])
def test_the_presets_build(name):
    config = EDDPMConfig.from_preset(name)
    assert config.modality == "image" and EDDPMConfig.from_dict(config.to_dict()).to_dict() == config.to_dict()
    with torch.device("meta"):
        EDDPMModel(config)


@pytest.mark.parametrize(("name", "share"), [("image-small", 0), ("image-small-chain", 0), ("image-paper-64", 1)])
def test_the_chains_gradient_reaches_the_encoder_in_the_papers_presets_alone(name, share):
    assert EDDPMConfig.from_preset(name).encoder_gradient_scale == share


def test_networks_start_as_torch_made_them_and_backbones_as_transformers_does():
    model = tiny_image_model(encoder=RESNET_ENCODER)
    weight = model.decoder.unet.conv_in.weight
    assert float(weight.detach().abs().max()) <= 1 / 9**0.5 + 1e-6  # kaiming uniform of a fan of 9
    assert float(weight.detach().std()) > 0.1


def test_a_chain_that_stops_short_of_noise_is_warned_of(caplog):
    chain = {**UNET_DECODER, "beta_start": 0.002, "beta_end": 0.4}
    library = logging.getLogger("hf_eddpm.modalities.image.diffusion_decoder")
    library.addHandler(caplog.handler)
    try:
        tiny_image_model(decoder=chain)
        assert not caplog.records
        tiny_image_model()
        assert "ends at a signal of 0.78 instead of noise" in caplog.text
    finally:
        library.removeHandler(caplog.handler)


def test_half_precision_weights_sample_and_score():
    pipe = tiny_image_pipe()
    pipe.to(dtype=torch.bfloat16)
    assert pipe(2, num_inference_steps=2, output_type="np", **STEPS).samples.shape == (2, SIZE, SIZE, 1)
    assert bool(pipe.score(random_images(2), num_timesteps=2).bound.isfinite().all())


def test_clipping_keeps_the_chain_within_the_range_of_pixels():
    scheduler = EDDPMScheduler(60, 1e-4, 0.2, prediction_type="epsilon", clip_sample=True)
    scheduler.set_timesteps(5)
    sample = torch.randn(2, 1, 4, 4)
    for t in scheduler.timesteps:
        step = scheduler.step(torch.zeros_like(sample), t, sample)
        assert float(step.pred_original_sample.abs().max()) <= 1
        sample = step.prev_sample
    assert float(sample.abs().max()) <= 1


@pytest.mark.slow
@decoders
def test_a_tiny_model_reconstructs_the_images_it_has_overfitted(decoder):
    net = {"block_out_channels": [16, 32]}
    # 50 steps of a chain of 1,000 would stop far from noise, which decoding starts from
    chain = {} if decoder is CONV_DECODER else {"beta_start": 0.002, "beta_end": 0.4}
    pipe = tiny_image_pipe(encoder={**CONV_ENCODER, **net}, decoder={**decoder, **net, **chain}, latent_dim=16)
    model, images = pipe.model.train(), random_images(8)
    batch = pipe.processor(images)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(1200 if decoder is MAP_DECODER else 600):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    model.eval()
    steps = {} if decoder is CONV_DECODER else {"num_decoder_steps": 25}
    again = pipe.processor(pipe.reconstruct(images, **steps))["pixel_values"]
    pixels = batch["pixel_values"]
    assert float((again - pixels).square().mean()) < 0.1 * float((pixels - pixels.mean(0)).square().mean())
