import copy
import itertools
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import SENTENCES, tiny_model
from diffusers import (
    DDIMScheduler,
    DDPMScheduler,
    DiffusionPipeline,
    DPMSolverMultistepScheduler,
    EulerDiscreteScheduler,
    HeunDiscreteScheduler,
    PNDMScheduler,
    UniPCMultistepScheduler,
)
from hypothesis import assume, given
from hypothesis import strategies as st
from transformers import GenerationConfig

from hf_eddpm import (
    EDDPMEncoding,
    EDDPMPipeline,
    EDDPMScheduler,
    EDDPMTextProcessor,
    EnergyGuidance,
)
from hf_eddpm.hub import saving, storage
from hf_eddpm.modalities.text.fitting import train_tokenizer
from hf_eddpm.pipeline_parts import batches_of_like_size
from hf_eddpm.pipeline_paths import perceptual_steps
from hf_eddpm.sampling import slerp
from hf_eddpm.surest import doubt, surest

FEW = {"num_inference_steps": 5}
LATENT = {"output_type": "latent"}
INDEX = "model_index.json"


@pytest.fixture(scope="module")
def trained_model():
    """A tiny model whose denoiser has learned, in half a second, the latents of `SENTENCES` with some noise."""
    model = tiny_model()
    processor = EDDPMTextProcessor(train_tokenizer(SENTENCES, 300), max_length=16)
    inputs = processor(SENTENCES)
    with torch.no_grad():
        known = model.encode(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"]).mean
    optimizer = torch.optim.Adam(model.denoiser.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(400):
        rows = torch.randint(len(known), (64,), generator=generator)
        spread, noise = torch.randn(2, 64, 2, 8, generator=generator)  # (batch, num_latents, latent_dim)
        timesteps = torch.randint(len(model.scheduler), (64,), generator=generator)
        noisy = model.scheduler.add_noise(known[rows] + 0.3 * spread, noise, timesteps)
        loss = (model.denoise(noisy, timesteps) - noise).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.requires_grad_(False)


@pytest.fixture
def pipe(trained_model, make_pipe):
    return make_pipe(trained_model)


@pytest.fixture
def saved(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "saved")
    return tmp_path / "saved"


def _generators(count):
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


# Generation


def test_the_same_seed_gives_the_same_samples_and_another_seed_others(pipe):
    runs = [pipe(num_samples=3, generator=torch.Generator().manual_seed(seed), **FEW) for seed in (1, 1, 2)]
    assert torch.equal(runs[0].latents, runs[1].latents)
    assert runs[0].samples == runs[1].samples
    assert (runs[0].latents - runs[2].latents).abs().max() > 0.1


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_a_batch_with_a_list_of_generators_gives_what_its_items_give_one_by_one(pipe, eta):
    together = pipe(num_samples=3, generator=_generators(3), eta=eta, **FEW)
    alone = [pipe(num_samples=1, generator=generator, eta=eta, **FEW) for generator in _generators(3)]
    torch.testing.assert_close(together.latents, torch.cat([out.latents for out in alone]))
    assert together.samples == [sample for out in alone for sample in out.samples]


def test_num_samples_and_latents_set_the_size_of_the_batch(pipe):
    out = pipe(num_samples=3, **FEW)
    assert len(out.samples) == 3 and out.latents.shape == (3, 2, 8)
    assert all(isinstance(sample, str) for sample in out.samples)
    noise = torch.randn(2, 2, 8)
    assert len(pipe(latents=noise, **FEW).samples) == len(pipe(latents=noise, num_samples=2, **FEW).samples) == 2
    with pytest.raises(ValueError, match="`num_samples` must be the number of `latents`, 2, got 5"):
        pipe(latents=noise, num_samples=5, **FEW)


def test_given_latents_are_the_noise_the_chain_starts_from(pipe):
    noise = torch.randn(2, 2, 8, generator=torch.Generator().manual_seed(3))
    drawn = pipe(num_samples=2, generator=torch.Generator().manual_seed(3), **FEW, **LATENT).latents
    torch.testing.assert_close(pipe(latents=noise, **FEW, **LATENT).latents, drawn)


def test_latents_are_not_changed_in_place(pipe):
    noise = torch.randn(2, 2, 8)
    before = noise.clone()
    pipe(latents=noise, **FEW, **LATENT)
    pipe.decode(noise)
    pipe.invert(noise, 3)
    assert torch.equal(noise, before)


def test_eta_adds_noise_that_the_generator_decides(pipe):
    noise = torch.randn(2, 2, 8)
    seeds = (0, 0, 1)
    noisy = [
        pipe(latents=noise, eta=1.0, generator=torch.Generator().manual_seed(seed), **FEW, **LATENT).latents
        for seed in seeds
    ]
    still = [
        pipe(latents=noise, eta=0.0, generator=torch.Generator().manual_seed(seed), **FEW, **LATENT).latents
        for seed in seeds
    ]
    assert torch.equal(noisy[0], noisy[1]) and not torch.equal(noisy[0], noisy[2])
    assert torch.equal(still[0], still[1]) and torch.equal(still[0], still[2])
    assert not torch.equal(noisy[0], still[0])


def test_output_type_latent_leaves_out_the_decoder(pipe, monkeypatch):
    monkeypatch.setattr(pipe.model.decoder, "generate", lambda *args, **kwargs: pytest.fail("the decoder ran"))
    out = pipe(num_samples=2, **FEW, **LATENT)
    assert torch.equal(out.samples, out.latents) and out.samples.shape == (2, 2, 8)


def test_samples_are_the_decoded_latents(pipe):
    out = pipe(num_samples=3, **FEW)
    assert out.samples == pipe.decode(out.latents)


def test_return_dict_false_gives_the_tuple_of_the_output(pipe):
    as_tuple = pipe(num_samples=2, generator=torch.Generator().manual_seed(0), return_dict=False, **FEW)
    out = pipe(num_samples=2, generator=torch.Generator().manual_seed(0), **FEW)
    assert isinstance(as_tuple, tuple) and len(as_tuple) == 2
    assert as_tuple[0] == out.samples and torch.equal(as_tuple[1], out.latents)


@pytest.mark.parametrize("num_inference_steps", [1, 7, 1000])
def test_the_chain_has_exactly_the_steps_that_were_asked_for(pipe, num_inference_steps):
    seen = []
    pipe(
        num_inference_steps=num_inference_steps,
        callback_on_step_end=lambda pipe, step, timestep, tensors: seen.append((step, timestep)) or tensors,
        **LATENT,
    )
    assert pipe.num_timesteps == num_inference_steps
    assert [step for step, _ in seen] == list(range(num_inference_steps))
    scheduler = EDDPMScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(num_inference_steps)
    assert [timestep for _, timestep in seen] == scheduler.timesteps.tolist()


def test_the_latents_that_the_callback_returns_are_used(pipe):
    wanted = torch.full((2, 2, 8), 0.25)

    def replace_at_the_end(pipe, step, timestep, tensors):
        assert tensors["latents"].shape == (2, 2, 8)
        return {"latents": wanted} if step == pipe.num_timesteps - 1 else tensors

    assert torch.equal(pipe(num_samples=2, callback_on_step_end=replace_at_the_end, **FEW, **LATENT).latents, wanted)


def test_a_callback_without_tensors_changes_nothing(pipe):
    plain = pipe(num_samples=2, generator=torch.Generator().manual_seed(0), **FEW, **LATENT)
    watched = pipe(
        num_samples=2,
        generator=torch.Generator().manual_seed(0),
        callback_on_step_end=lambda pipe, step, timestep, tensors: tensors,
        callback_on_step_end_tensor_inputs=[],
        **FEW,
        **LATENT,
    )
    assert torch.equal(plain.latents, watched.latents)


def test_decode_arguments_reach_the_decoder(pipe):
    latents = torch.randn(3, 2, 8)
    lengths = [len(sample) for sample in pipe.decode(latents, max_new_tokens=1)]
    assert lengths < [len(sample) for sample in pipe.decode(latents)]
    config = GenerationConfig(max_new_tokens=2, do_sample=False)
    assert pipe.decode(latents, generation_config=config) == pipe.decode(latents, max_new_tokens=2)
    assert len(pipe.decode(latents, num_beams=2, num_return_sequences=2)) == 6


# Classes

MEANS = torch.tensor([-1.0, 1.0])  # of the two classes' latents, in every dimension
STD = 0.5


@pytest.fixture(scope="module")
def class_pipe(make_pipe):
    """A pipeline whose denoiser is exact: the latents of a class are Gaussian, those of both a mixture."""
    model = tiny_model(num_classes=2, prediction_type="epsilon")

    class ExactDenoiser(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.output = torch.nn.Linear(1, 1)  # the model reads its type

        def forward(self, noisy_latents, timesteps, class_labels=None):
            nearest = torch.as_tensor(timesteps).round().long()  # some schedulers go between timesteps
            a = model.scheduler.alphas_cumprod[nearest].reshape(-1, 1, 1)
            variance = a * STD**2 + 1 - a
            if class_labels is None:
                class_labels = torch.full((len(noisy_latents),), -1)
            distances = [(noisy_latents - a.sqrt() * mean).square().flatten(1).sum(1) for mean in MEANS]
            weights = torch.softmax(torch.stack(distances, 1) / (-2 * variance[:, 0]), 1)  # (batch, 2)
            mixed = (weights * MEANS).sum(1)
            mean = torch.where(class_labels < 0, mixed, MEANS[class_labels.clamp(min=0)])[:, None, None]
            return (1 - a).sqrt() * (noisy_latents - a.sqrt() * mean) / variance

    model.denoiser = ExactDenoiser()
    return make_pipe(model)


def test_samples_are_of_the_class_that_was_asked_for(class_pipe):
    labels = torch.arange(400) % 2
    latents = class_pipe(400, 250, class_labels=labels, generator=torch.Generator().manual_seed(0), **LATENT).latents
    for label, mean in enumerate(MEANS):
        ours = latents[labels == label]
        torch.testing.assert_close(ours.mean(), mean, atol=0.03, rtol=0)
        torch.testing.assert_close(ours.std(0).mean(), torch.tensor(STD), atol=0.06, rtol=0)


def test_a_callback_changes_the_guidance_scale_of_the_steps_that_follow(class_pipe):
    noise = torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(0))
    seen = []

    def weaken(pipe, step, timestep, tensors):
        seen.append(pipe.guidance_scale)
        pipe._guidance_scale = 1.0

    options = {"class_labels": 1, **FEW, **LATENT}
    changed = class_pipe(latents=noise, guidance_scale=4.0, callback_on_step_end=weaken, **options).latents
    assert seen == [4.0, 1.0, 1.0, 1.0, 1.0]
    plain, strong = (class_pipe(latents=noise, guidance_scale=scale, **options).latents for scale in (1.0, 4.0))
    assert not torch.allclose(changed, plain) and not torch.allclose(changed, strong)
    with pytest.raises(ValueError, match=r"`guidance_scale` must be a finite number in \[0, 1000\]"):
        class_pipe._guidance_scale = -1


def test_a_transformer_denoiser_samples_classes_by_guidance_and_comes_back_from_a_folder(make_pipe, tmp_path):
    pipe = make_pipe(tiny_model(num_classes=2, denoiser_type="transformer"))
    noise = torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(0))
    options = {"guidance_scale": 2.0, **FEW, **LATENT}
    together = pipe(latents=noise, class_labels=[0, 1, 1], **options).latents
    assert not torch.allclose(together, pipe(latents=noise, class_labels=[1, 1, 1], **options).latents, atol=1e-3)
    for row, label in enumerate((0, 1, 1)):
        alone = pipe(latents=noise[row : row + 1], class_labels=label, **options).latents
        torch.testing.assert_close(alone[0], together[row], atol=1e-5, rtol=1e-4)
    pipe.save_pretrained(tmp_path)
    loaded = EDDPMPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(loaded(latents=noise, class_labels=[0, 1, 1], **options).latents, together)


def test_more_guidance_narrows_a_class_and_none_gives_both(class_pipe):
    spreads = []
    for scale in (0.0, 1.0, 4.0):
        generator = torch.Generator().manual_seed(0)
        latents = class_pipe(400, 100, class_labels=1, guidance_scale=scale, generator=generator, **LATENT).latents
        spreads.append(float(latents.flatten(1).mean(1).std()))
        if scale == 0:
            share = float((latents.flatten(1).mean(1) > 0).float().mean())
            assert 0.4 < share < 0.6
        else:
            assert bool((latents.flatten(1).mean(1) > 0).all())
    assert spreads[0] > 3 * spreads[1] and spreads[2] <= spreads[1]


def test_one_class_is_that_of_every_sample_and_a_batch_gives_what_its_items_give(class_pipe):
    noise = torch.randn(3, 2, 8)
    options = {"guidance_scale": 2.0, **FEW, **LATENT}
    together = class_pipe(latents=noise, class_labels=[0, 1, 1], **options).latents
    for row, label in enumerate((0, 1, 1)):
        alone = class_pipe(latents=noise[row : row + 1], class_labels=label, **options).latents
        torch.testing.assert_close(alone[0], together[row])


def test_inversion_under_a_class_is_undone_by_the_class(class_pipe):
    latents = 1 + 0.5 * torch.randn(3, 2, 8)
    noise = class_pipe.invert(latents, 50, num_refinements=20, class_labels=1)
    torch.testing.assert_close(
        class_pipe(latents=noise, class_labels=1, num_inference_steps=50, **LATENT).latents, latents, atol=1e-3, rtol=0
    )


def test_a_class_bounds_its_own_data_better(class_pipe):
    bounds = [class_pipe.score(SENTENCES, 4, torch.Generator().manual_seed(0), 3, label).bound for label in (0, None)]
    own = class_pipe.score(SENTENCES, 4, torch.Generator().manual_seed(0), 3, [0] * len(SENTENCES)).bound
    torch.testing.assert_close(own, bounds[0])
    assert not torch.allclose(bounds[0], bounds[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"class_labels": 2}, r"`class_labels` must be in \[0, 2\), got 2"),
        ({"class_labels": -1}, r"`class_labels` must be in \[0, 2\), got -1"),
        ({"class_labels": [0, 1]}, r"`class_labels` must be int64 of the shape \(3,\)"),
        ({"class_labels": 0.5}, "`class_labels` must be .*integers or None, got 0.5"),
        ({"guidance_scale": 2.0}, "`guidance_scale` needs `class_labels` beside it"),
        ({"class_labels": 1, "guidance_scale": -0.5}, r"`guidance_scale` must be a finite number in \[0, 1000\]"),
        ({"class_labels": 1, "guidance_scale": math.nan}, r"`guidance_scale` must be a finite number in \[0, 1000\]"),
    ],
)
def test_classes_and_scales_outside_their_range_are_refused(class_pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        class_pipe(num_samples=3, **arguments, **FEW)


def test_a_model_without_classes_refuses_one(pipe):
    with pytest.raises(ValueError, match="`class_labels` needs a model with `num_classes` > 0"):
        pipe(class_labels=0, **FEW)


def test_a_model_with_classes_survives_saving(make_pipe, tmp_path):
    pipe = make_pipe(tiny_model(num_classes=2))
    pipe.save_pretrained(tmp_path / "saved")
    noise = torch.randn(2, 2, 8)
    loaded = EDDPMPipeline.from_pretrained(tmp_path / "saved")
    loaded.set_progress_bar_config(disable=True)
    same = [
        each(latents=noise, class_labels=[0, 1], guidance_scale=3.0, **FEW, **LATENT).latents
        for each in (pipe, loaded)
    ]
    assert torch.equal(*same)


# Editing by noise


@pytest.mark.parametrize(
    "scheduler",
    [None, DDIMScheduler, DDPMScheduler, EulerDiscreteScheduler, HeunDiscreteScheduler]
    + [DPMSolverMultistepScheduler, UniPCMultistepScheduler],
)
@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
def test_little_noise_keeps_the_data_and_all_of_it_forgets_them(class_pipe, monkeypatch, make_pipe, scheduler):
    pipe = make_pipe(class_pipe.model)
    if scheduler is not None:
        pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    latents = MEANS[torch.arange(200) % 2][:, None, None] + STD * torch.randn(200, 2, 8)
    monkeypatch.setattr(pipe, "encode", lambda *args, **kwargs: EDDPMEncoding(latents=latents, embeddings=None))
    monkeypatch.setattr(pipe, "decode", lambda latents, **_: latents)

    def edit(strength):
        generator = torch.Generator().manual_seed(7)
        return pipe.edit(SENTENCES, strength=strength, num_inference_steps=50, generator=generator)

    changes = [float((edit(strength) - latents).square().mean()) for strength in (0.02, 0.1, 0.3, 1.0)]
    assert changes[0] < 0.15 and changes == sorted(changes)
    assert changes[3] > 1.5  # another draw of the mixture: 2 (1 + STD^2) on average
    if scheduler is None:
        pipe.edit(SENTENCES, strength=0.3, num_inference_steps=50)
        assert pipe.num_timesteps == 15


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
@pytest.mark.parametrize("karras", [False, True])
@pytest.mark.parametrize("strength", [0.1, 0.3, 0.7])
def test_a_strength_is_the_same_noise_whatever_the_spacing_of_the_steps(pipe, monkeypatch, karras, strength):
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, use_karras_sigmas=karras)
    seen = []
    step = DPMSolverMultistepScheduler.step

    def spy(scheduler, model_output, timestep, sample, generator=None):
        seen.append(timestep)
        return step(scheduler, model_output, timestep, sample, generator)

    monkeypatch.setattr(DPMSolverMultistepScheduler, "step", spy)
    pipe.edit(SENTENCES[:1], strength=strength, num_inference_steps=50)
    assert abs(float(seen[0]) + 1 - 1000 * strength) < 30


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
@pytest.mark.parametrize("solver", [DPMSolverMultistepScheduler, UniPCMultistepScheduler])
@pytest.mark.parametrize("steps", [5, 20])
def test_a_solver_whose_first_steps_share_a_timestep_ends_in_the_clean_latents(make_pipe, monkeypatch, solver, steps):
    pipe = make_pipe(tiny_model(beta_schedule="squaredcos_cap_v2", prediction_type="sample"))
    pipe.scheduler = solver.from_config(pipe.scheduler.config, use_karras_sigmas=True)
    clean = torch.linspace(-1, 1, 16).view(1, 2, 8)
    monkeypatch.setattr(pipe.model, "denoise", lambda latents, t: clean.expand_as(latents))
    latents = pipe(3, num_inference_steps=steps, output_type="latent").latents
    torch.testing.assert_close(latents, clean.expand(3, -1, -1), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("strength", "steps", "warned"), [(0.3, 1, True), (0.3, 50, False), (1.0, 1, False)])
def test_a_strength_far_from_every_step_is_said(pipe, strength, steps, warned, caplog):
    pipe.edit(SENTENCES[:1], strength=strength, num_inference_steps=steps)
    said = [record.getMessage() for record in caplog.records if "`strength`" in record.getMessage()]
    assert len(said) == warned
    assert not warned or "nearest starts at 1 of the chain" in said[0]


def test_full_strength_is_generation(pipe):
    samples = pipe(3, num_inference_steps=5, generator=torch.Generator().manual_seed(4)).samples
    edited = pipe.edit(SENTENCES[:3], strength=1.0, num_inference_steps=5, generator=torch.Generator().manual_seed(4))
    assert edited == samples


def test_editing_by_noise_moves_data_to_another_class_and_the_batch_does_not_matter(class_pipe, monkeypatch):
    latents = MEANS[0] + STD * torch.randn(6, 2, 8)
    monkeypatch.setattr(class_pipe, "encode", lambda data, **_: EDDPMEncoding(latents=data, embeddings=None))
    monkeypatch.setattr(class_pipe, "decode", lambda latents, **_: latents)
    options = {"strength": 0.5, "class_labels": 1, "guidance_scale": 2.0, "num_inference_steps": 40}
    together = class_pipe.edit(latents, generator=_generators(6), **options)
    assert (together.mean((1, 2)) > 0).all()
    alone = [
        class_pipe.edit(latents[row : row + 1], generator=[generator], **options)[0]
        for row, generator in enumerate(_generators(6))
    ]
    torch.testing.assert_close(torch.stack(alone), together, atol=1e-4, rtol=1e-4)
    energy = EnergyGuidance(lambda latents: 2 * (latents - 1).square().flatten(1).sum(1))
    guided = class_pipe.edit(latents, strength=0.5, guidance=energy, num_inference_steps=40)
    assert (guided.mean((1, 2)) > 0).all()


def test_a_direction_comes_before_the_noise(pipe):
    direction = torch.full((2, 8), 0.5)
    options = {"strength": 0.2, "num_inference_steps": 10}
    both = pipe.edit(SENTENCES[:2], direction, 2.0, generator=torch.Generator().manual_seed(0), **options)
    start = pipe.encode(SENTENCES[:2]).latents + 1.0
    noise = torch.randn(2, 2, 8, generator=torch.Generator().manual_seed(0))
    assert both == pipe.decode(pipe._denoise(noise, 10, start=start, strength=0.2))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "`edit` needs a `direction`, a `strength`, or both"),
        ({"strength": 0}, r"`strength` must be a finite number in \(0, 1\]"),
        ({"strength": 1.01}, "`strength`"),
        ({"strength": math.nan}, "`strength`"),
        ({"strength": True}, "`strength`"),
        ({"direction": torch.ones(2, 8), "guidance": EnergyGuidance(torch.sum)}, "needs a `strength`"),
        ({"direction": torch.ones(2, 8), "class_labels": 1}, "needs a `strength`"),
        ({"strength": 0.5, "guidance": []}, "`guidance` must hold at least one term"),
    ],
)
def test_edits_that_cannot_be_are_refused_by_name(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe.edit("a .", **arguments)


def test_similarity_is_1_for_equal_data_and_less_for_others(pipe):
    shifted = SENTENCES[1:] + SENTENCES[:1]
    torch.testing.assert_close(pipe.similarity(SENTENCES, SENTENCES), torch.ones(len(SENTENCES)))
    similarity = pipe.similarity(SENTENCES, shifted)
    assert (similarity < 0.99).all() and (similarity >= -1).all()
    torch.testing.assert_close(pipe.similarity(shifted, SENTENCES, batch_size=3), similarity)
    with pytest.raises(ValueError, match="`a` and `b` must have the same length"):
        pipe.similarity(SENTENCES, SENTENCES[:2])


def test_a_traversal_decodes_each_datum_along_each_direction(pipe):
    directions = torch.randn(3, 2, 8)
    walks = pipe.traverse(SENTENCES[:2], directions, scales=(-1.5, 0.0, 2.0))
    latents = pipe.encode(SENTENCES[:2]).latents
    for row in range(2):
        for column in range(3):
            points = torch.stack([latents[row] + scale * directions[column] for scale in (-1.5, 0.0, 2.0)])
            assert walks[row][column] == pipe.decode(points)
    assert pipe.traverse(SENTENCES[:1], directions[0], [2.0]) == [[walks[0][0][2:]]]
    with pytest.raises(ValueError, match="`scales`"):
        pipe.traverse(SENTENCES, directions, [])
    with pytest.raises(ValueError, match="`directions` must have the shape"):
        pipe.traverse(SENTENCES, torch.ones(3, 8, 2))


@pytest.mark.parametrize(
    ("call", "name"),
    [
        (lambda pipe: pipe.direction([], ["a ."]), "positives"),
        (lambda pipe: pipe.direction(["a ."], []), "negatives"),
        (lambda pipe: pipe.direction([], ["a ."], method="linear"), "positives"),
        (lambda pipe: pipe.directions([]), "data"),
        (lambda pipe: pipe.aggregate([]), "data"),
        (lambda pipe: pipe.traverse("a .", torch.zeros(0, 2, 8)), "directions"),
        (lambda pipe: pipe.traverse("a .", torch.ones(1, 2, 8), scales=()), "scales"),
        (lambda pipe: pipe.similarity([], []), "a"),
        (lambda pipe: pipe.steer("a .", []), "guidance"),
    ],
)
def test_empty_sets_are_refused_by_name(pipe, call, name):
    with pytest.raises(ValueError, match=f"`{name}` must hold at least one"):
        call(pipe)


def test_an_aggregate_points_as_the_mean_and_is_as_long_as_its_data(pipe):
    latents = pipe.encode(SENTENCES).latents
    joined = pipe.aggregate(SENTENCES)
    assert joined.shape == (1, 2, 8)
    torch.testing.assert_close(joined.norm(), latents.flatten(1).norm(dim=1).mean())
    cosine = torch.nn.functional.cosine_similarity(joined.flatten(), latents.mean(0).flatten(), dim=0)
    assert cosine > 1 - 1e-5
    torch.testing.assert_close(pipe.aggregate(SENTENCES[0]), latents[:1])


# Scheduler swaps

NUMPY_WARNING = "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"  # in diffusers


def test_ddim_swapped_in_gives_the_same_latents(pipe):
    noise = torch.randn(3, 2, 8)
    own = pipe(latents=noise, num_inference_steps=20, **LATENT).latents
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    torch.testing.assert_close(pipe(latents=noise, num_inference_steps=20, **LATENT).latents, own)


@pytest.mark.filterwarnings(NUMPY_WARNING)
def test_the_karras_solver_comes_closer_to_the_full_chain_in_twenty_steps_than_ddim(pipe):
    noise = torch.randn(4, 2, 8)
    full = pipe(latents=noise, num_inference_steps=1000, **LATENT).latents
    ddim = pipe(latents=noise, num_inference_steps=20, **LATENT).latents
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, use_karras_sigmas=True)
    solver = pipe(latents=noise, num_inference_steps=20, **LATENT).latents
    assert (solver - full).abs().max() < 0.3 * (ddim - full).abs().max()


@pytest.mark.filterwarnings(NUMPY_WARNING)
@pytest.mark.parametrize(
    ("scheduler", "options"),
    [(DPMSolverMultistepScheduler, {"use_karras_sigmas": True}), (UniPCMultistepScheduler, {})],
)
def test_eta_is_refused_where_the_scheduler_has_none(pipe, scheduler, options):
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config, **options)
    out = pipe(num_samples=2, num_inference_steps=20, generator=torch.Generator().manual_seed(0))
    assert len(out.samples) == 2 and out.latents.abs().max() < 10
    with pytest.raises(ValueError, match="`eta` must be 0 with"):
        pipe(eta=0.5, **FEW)


def test_an_ancestral_scheduler_swapped_in_draws_from_the_generator(pipe):
    pipe.scheduler = DDPMScheduler.from_config(pipe.scheduler.config)
    noise = torch.randn(2, 2, 8)
    runs = [
        pipe(latents=noise, generator=torch.Generator().manual_seed(seed), **FEW, **LATENT).latents
        for seed in (0, 0, 1)
    ]
    assert torch.equal(runs[0], runs[1]) and not torch.equal(runs[0], runs[2])


# Encoding and decoding


def test_a_batch_gives_what_its_items_give(pipe):
    together = pipe.encode(SENTENCES)
    alone = torch.cat([pipe.encode(sentence).latents for sentence in SENTENCES])
    torch.testing.assert_close(together.latents, alone)
    torch.testing.assert_close(pipe.encode(SENTENCES, batch_size=3).latents, alone)
    assert torch.equal(together.embeddings, together.latents.flatten(1))
    decoded = pipe.decode(alone)
    assert decoded == [sample for row in alone for sample in pipe.decode(row[None])]
    assert decoded == pipe.decode(alone, batch_size=3)
    assert pipe.reconstruct(SENTENCES) == [sample for sentence in SENTENCES for sample in pipe.reconstruct(sentence)]


def test_one_datum_and_a_list_of_it_are_the_same(pipe):
    assert torch.equal(pipe.encode(SENTENCES[0]).latents, pipe.encode(SENTENCES[:1]).latents)
    assert pipe.reconstruct(SENTENCES[0]) == pipe.reconstruct(SENTENCES[:1])


def test_reconstruct_decodes_the_means_of_the_posteriors(pipe):
    assert pipe.reconstruct(SENTENCES) == pipe.decode(pipe.encode(SENTENCES).latents)


def test_the_model_is_in_evaluation_mode_however_it_came(trained_model, make_pipe):
    model = copy.deepcopy(trained_model).train()
    assert not make_pipe(model).model.training


# Interpolation


def _steps_of(space):
    return {"num_inference_steps": 10} if space == "noise" else {}


@pytest.mark.parametrize("space", ["noise", "latents"])
@pytest.mark.parametrize("mode", ["slerp", "lerp"])
def test_the_ends_of_a_path_are_the_reconstructions(pipe, monkeypatch, space, mode):
    starts, ends = SENTENCES[:3], SENTENCES[3:6]
    decoded = []
    decode = pipe.decode
    monkeypatch.setattr(pipe, "decode", lambda latents, **kwargs: decoded.append(latents) or decode(latents, **kwargs))
    paths = pipe.interpolate(starts, ends, num_steps=4, mode=mode, space=space, **_steps_of(space))
    monkeypatch.undo()
    assert [len(path) for path in paths] == [4, 4, 4]
    assert [path[0] for path in paths] == pipe.reconstruct(starts)
    assert [path[-1] for path in paths] == pipe.reconstruct(ends)
    latents = decoded[0].unflatten(0, (3, 4))  # (pairs, steps, num_latents, latent_dim)
    torch.testing.assert_close(latents[:, 0], pipe.encode(starts).latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(latents[:, -1], pipe.encode(ends).latents, atol=1e-5, rtol=1e-5)


def test_a_straight_path_in_the_latents_passes_through_their_middle(pipe):
    (path,) = pipe.interpolate(SENTENCES[0], SENTENCES[1], num_steps=3, mode="lerp", noise_level=0)
    middle = pipe.encode(SENTENCES[:2]).latents.mean(0, keepdim=True)
    assert path[1:2] == pipe.decode(middle)


@pytest.mark.parametrize("space", ["noise", "latents"])
def test_what_lies_between_the_ends_of_a_path_is_denoised(pipe, monkeypatch, space):
    decoded = []
    decode = pipe.decode
    monkeypatch.setattr(pipe, "decode", lambda latents, **kwargs: decoded.append(latents) or decode(latents, **kwargs))
    for noise_level in (0.0, 0.7):
        pipe.interpolate(SENTENCES[0], SENTENCES[1], num_steps=5, space=space, noise_level=noise_level)
    pipe.interpolate(SENTENCES[0], SENTENCES[1], num_steps=5, space=space)
    plain, cleaned, default = decoded
    torch.testing.assert_close(cleaned[[0, 4]], plain[[0, 4]])
    assert (cleaned - plain)[1:4].flatten(1).norm(dim=1).min() > 0.01
    torch.testing.assert_close(default, cleaned if space == "latents" else plain)


@pytest.mark.parametrize("space", ["noise", "latents"])
def test_a_path_does_not_depend_on_the_other_pairs(pipe, space):
    options = {"num_steps": 3, "space": space, **_steps_of(space)}
    together = pipe.interpolate(SENTENCES[:2], SENTENCES[2:4], **options)
    alone = [pipe.interpolate(a, b, **options)[0] for a, b in zip(SENTENCES[:2], SENTENCES[2:4], strict=True)]
    assert together == alone


_number = st.floats(-3, 3, width=32)
_vector = st.lists(_number, min_size=4, max_size=4).filter(lambda values: math.hypot(*values) > 0.05)
_weight = st.floats(0, 1, width=32)


def _row(values):
    return torch.tensor(values).view(1, 2, 2)


@given(a=_vector, b=_vector)
def test_slerp_starts_at_the_first_and_ends_at_the_second(a, b):
    a, b = _row(a), _row(b)
    torch.testing.assert_close(slerp(a, b, 0.0), a, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(slerp(a, b, 1.0), b, atol=1e-5, rtol=1e-5)


@given(a=_vector, b=_vector, weight=_weight)
def test_slerp_is_the_same_from_either_end(a, b, weight):
    a, b = _row(a), _row(b)
    torch.testing.assert_close(slerp(a, b, weight), slerp(b, a, 1 - weight), atol=1e-4, rtol=1e-4)


@given(a=_vector, b=_vector, weight=_weight)
def test_slerp_mixes_the_norms_linearly(a, b, weight):
    a, b = _row(a), _row(b)
    cosine = torch.nn.functional.cosine_similarity(a.flatten(), b.flatten(), dim=0)
    assume(cosine > -0.999)  # opposite vectors: no arc is singled out
    norm = (1 - weight) * a.norm() + weight * b.norm()
    torch.testing.assert_close(slerp(a, b, weight).norm(), norm, atol=1e-3, rtol=1e-3)


@given(a=_vector, factor=st.floats(0.1, 4), weight=_weight)
def test_slerp_between_parallel_vectors_is_straight(a, factor, weight):
    a = _row(a)
    expected = a * (1 - weight + weight * factor)
    torch.testing.assert_close(slerp(a, a * factor, weight), expected, atol=1e-4, rtol=1e-4)


def test_slerp_goes_along_the_arc():
    a, b = torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 1.0]]])
    expected = torch.tensor([[[math.cos(math.pi / 6), math.sin(math.pi / 6)]]])
    torch.testing.assert_close(slerp(a, b, 1 / 3), expected)


# Inversion


def _round_trip_error(pipe, num_inference_steps, num_refinements):
    latents = pipe.encode(SENTENCES).latents
    noise = pipe.invert(latents, num_inference_steps, num_refinements=num_refinements)
    back = pipe(latents=noise, num_inference_steps=num_inference_steps, **LATENT).latents
    return float((back - latents).square().mean().sqrt())


@pytest.mark.parametrize("num_refinements", [0, 3])
def test_the_round_trip_through_the_noise_loses_less_with_more_steps(pipe, num_refinements):
    errors = [_round_trip_error(pipe, steps, num_refinements) for steps in (10, 50, 200)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] < (0.05 if num_refinements == 0 else 0.002)


def test_refinements_make_the_inversion_more_exact(pipe):
    assert _round_trip_error(pipe, 50, 3) < 0.3 * _round_trip_error(pipe, 50, 0)


def test_data_and_their_latents_invert_to_the_same_noise(pipe):
    noise = pipe.invert(SENTENCES[:2], 10)
    assert noise.shape == (2, 2, 8) and noise.dtype == torch.float32
    assert torch.equal(noise, pipe.invert(pipe.encode(SENTENCES[:2]).latents, 10))


# Editing


def test_the_direction_is_the_difference_of_the_means(pipe):
    direction = pipe.direction(SENTENCES[:3], SENTENCES[3:5])
    expected = pipe.encode(SENTENCES[:3]).latents.mean(0) - pipe.encode(SENTENCES[3:5]).latents.mean(0)
    assert direction.shape == (2, 8)
    torch.testing.assert_close(direction, expected)


@pytest.mark.parametrize("scale", [-1.5, 0, 2.5])
def test_edit_moves_the_latents_by_scale_times_the_direction(pipe, scale):
    direction = pipe.direction(SENTENCES[:3], SENTENCES[3:5])
    expected = pipe.decode(pipe.encode(SENTENCES).latents + scale * direction)
    assert pipe.edit(SENTENCES, direction=direction, scale=scale) == expected
    assert (expected == pipe.reconstruct(SENTENCES)) == (scale == 0)


# The bound


def test_the_terms_sum_to_the_bound_and_the_seed_decides_the_draws(pipe):
    scores = [pipe.score(SENTENCES, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)]
    first = scores[0]
    total = first.reconstruction + first.alignment + first.diffusion + first.prior
    torch.testing.assert_close(first.bound, total)
    assert first.bound.shape == (len(SENTENCES),) and first.bound.dtype == torch.float32
    assert all(torch.equal(scores[0][name], scores[1][name]) for name in scores[0])
    assert not torch.equal(scores[0].bound, scores[2].bound)


def test_bits_per_unit_are_the_bound_over_the_tokens_and_the_end_token(pipe):
    score = pipe.score(SENTENCES, generator=torch.Generator().manual_seed(0))
    tokens = (pipe.processor(SENTENCES)["labels"] != -100).sum(1)
    torch.testing.assert_close(score.bits_per_unit, score.bound / tokens / math.log(2))


def _seeded_generators(count, start=0):
    return [torch.Generator().manual_seed(start + place) for place in range(count)]


def test_a_score_does_not_depend_on_the_batch(pipe):
    for generator in (lambda: torch.Generator().manual_seed(0), lambda: _seeded_generators(len(SENTENCES))):
        together = pipe.score(SENTENCES, num_timesteps=8, generator=generator())
        for size in (1, 3):
            parts = pipe.score(SENTENCES, num_timesteps=8, generator=generator(), batch_size=size)
            for name in together:
                torch.testing.assert_close(together[name], parts[name], atol=1e-3, rtol=1e-4)


def test_equal_data_with_equal_generators_have_equal_scores(pipe):
    generators = _seeded_generators(1) + _seeded_generators(1) + _seeded_generators(1, 5)
    bound = pipe.score([SENTENCES[0]] * 3, generator=generators).bound
    torch.testing.assert_close(bound[0], bound[1])
    assert bound[0] != bound[2]
    with pytest.raises(ValueError, match="one generator for each of 2 data, got 1"):
        pipe.score(SENTENCES[:2], generator=generators[:1])
    with pytest.raises(TypeError, match="`generator` must be"):
        pipe.score(SENTENCES[:2], generator=[0, 1])


def test_a_tighter_fit_of_the_denoiser_lowers_the_bound(pipe, make_pipe):
    untrained = make_pipe().score(SENTENCES, generator=torch.Generator().manual_seed(0))
    trained = pipe.score(SENTENCES, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(untrained.reconstruction, trained.reconstruction)
    assert trained.diffusion.sum() < 0.95 * untrained.diffusion.sum()
    assert trained.bound.sum() < untrained.bound.sum()


def test_steps_that_a_scheduler_cannot_take_are_named(pipe):
    pipe.scheduler = PNDMScheduler.from_config(pipe.scheduler.config)
    with pytest.raises(ValueError, match="`num_inference_steps` = 2 is none that PNDMScheduler can take"):
        pipe(1, num_inference_steps=2)
    assert len(pipe(1, num_inference_steps=5).samples) == 1


def test_an_interrupt_ends_its_own_call_alone(pipe):
    def stop(pipe, *_):
        pipe._interrupt = True

    expected = pipe.edit(SENTENCES[:2], strength=0.5, generator=_seeded_generators(2), num_inference_steps=6)
    cut = pipe(2, callback_on_step_end=stop, num_inference_steps=6)
    assert pipe.interrupt and len(cut.samples) == 2
    assert pipe.edit(SENTENCES[:2], strength=0.5, generator=_seeded_generators(2), num_inference_steps=6) == expected


def test_an_interrupt_does_not_reach_another_thread(pipe):
    expected = pipe(2, num_inference_steps=20, generator=_seeded_generators(2)).latents
    running, stopped = threading.Event(), threading.Event()

    def wait(pipe, step, *_):
        if step == 3:
            running.set()
            assert stopped.wait(30)

    def stop(pipe, *_):
        pipe._interrupt = True

    with ThreadPoolExecutor(2) as threads:
        long = threads.submit(
            pipe, 2, num_inference_steps=20, generator=_seeded_generators(2), callback_on_step_end=wait
        )
        assert running.wait(30)
        threads.submit(pipe, 1, num_inference_steps=5, callback_on_step_end=stop).result()
        stopped.set()
        torch.testing.assert_close(long.result().latents, expected)


def test_sampled_tokens_do_not_depend_on_the_batches(pipe):
    latents = torch.randn(5, 2, 8, generator=torch.Generator().manual_seed(0))
    arguments = {"do_sample": True, "max_new_tokens": 6}
    whole, twos, ones = (
        pipe.decode(latents, batch_size=size, generator=torch.Generator().manual_seed(3), **arguments)
        for size in (5, 2, 1)
    )
    assert whole == twos == ones and len(set(whole)) > 1


# Saving and loading


def _lasting(config):
    """The config without what loading adds to it: where from, the versions, the type of the weights."""
    added = {"_name_or_path", "transformers_version", "_diffusers_version", "dtype"}
    return {
        key: _lasting(value) if isinstance(value, dict) else value for key, value in config.items() if key not in added
    }


@pytest.mark.parametrize("loader", [EDDPMPipeline, DiffusionPipeline])
def test_every_component_survives_saving_and_loading(pipe, saved, loader):
    loaded = loader.from_pretrained(saved)
    assert type(loaded) is EDDPMPipeline and type(loaded.scheduler) is EDDPMScheduler
    expected, state = pipe.model.state_dict(), loaded.model.state_dict()
    assert expected.keys() == state.keys()
    assert all(torch.equal(expected[name], state[name]) for name in expected)
    assert not loaded.model.training
    assert _lasting(pipe.model.config.to_dict()) == _lasting(loaded.model.config.to_dict())
    assert _lasting(dict(pipe.scheduler.config)) == _lasting(dict(loaded.scheduler.config))
    assert torch.equal(pipe.scheduler.betas, loaded.scheduler.betas)
    assert loaded.processor.max_length == pipe.processor.max_length
    assert torch.equal(loaded.processor(SENTENCES)["labels"], pipe.processor(SENTENCES)["labels"])
    loaded.set_progress_bar_config(disable=True)
    runs = [p(num_samples=3, generator=torch.Generator().manual_seed(0), **FEW) for p in (pipe, loaded)]
    # a file's weights lie elsewhere in memory, where products of single rows round otherwise
    torch.testing.assert_close(runs[0].latents, runs[1].latents, atol=1e-5, rtol=1e-5)
    assert runs[0].samples == runs[1].samples
    assert pipe.reconstruct(SENTENCES) == loaded.reconstruct(SENTENCES)


def test_the_checkpoints_own_steps_and_noise_scale_are_saved_and_taken_where_a_call_names_none(pipe, tmp_path):
    own = EDDPMPipeline(
        pipe.model, pipe.scheduler, pipe.processor, default_num_inference_steps=7, default_noise_scale=1.5
    )
    own.save_pretrained(tmp_path / "pipeline")
    loaded = EDDPMPipeline.from_pretrained(tmp_path / "pipeline")
    noise = torch.randn(2, 2, 8)
    expected = pipe(latents=noise, num_inference_steps=7, noise_scale=1.5, output_type="latent").latents
    torch.testing.assert_close(loaded(latents=noise, output_type="latent").latents, expected)
    assert loaded.num_timesteps == 7
    loaded.edit(SENTENCES[:1], strength=1.0)
    assert loaded.num_timesteps == 7
    loaded(num_inference_steps=3, output_type="latent")
    assert loaded.num_timesteps == 3
    pipe(output_type="latent")
    assert pipe.num_timesteps == 50
    index = tmp_path / "pipeline" / "model_index.json"  # of before there were defaults
    values = {key: value for key, value in json.loads(index.read_text()).items() if not key.startswith("default_")}
    index.write_text(json.dumps(values))
    old = EDDPMPipeline.from_pretrained(tmp_path / "pipeline", verify=False)
    old(output_type="latent")
    assert old.num_timesteps == 50 and old.config.default_noise_scale == 1


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("default_num_inference_steps", 0),
        ("default_num_inference_steps", 2.5),
        ("default_noise_scale", 0.0),
        ("default_num_decoder_steps", 0),
    ],
)
def test_defaults_outside_their_range_are_refused(pipe, name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        EDDPMPipeline(pipe.model, pipe.scheduler, pipe.processor, **{name: value})


@pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning")
def test_paths_scores_and_inversion_do_not_depend_on_the_scheduler_that_generates(pipe):
    def run():
        generator = torch.Generator().manual_seed(0)
        path = pipe.interpolate(SENTENCES[:2], SENTENCES[2:4], num_steps=3, num_inference_steps=10)
        return path, pipe.invert(SENTENCES, 10), pipe.score(SENTENCES, 2, generator).bound

    path, noise, bound = run()
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, use_karras_sigmas=True)
    others = run()
    assert others[0] == path
    torch.testing.assert_close(others[1], noise)
    torch.testing.assert_close(others[2], bound)


def test_a_swapped_scheduler_survives_saving_and_loading(pipe, tmp_path):
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, use_karras_sigmas=True)
    pipe.save_pretrained(tmp_path / "swapped")
    loaded = EDDPMPipeline.from_pretrained(tmp_path / "swapped")
    assert type(loaded.scheduler) is DPMSolverMultistepScheduler
    assert torch.equal(loaded.scheduler.betas, pipe.scheduler.betas)
    assert loaded.scheduler.config.use_karras_sigmas


def test_a_saved_pipeline_holds_safetensors_and_text_and_no_path_of_this_machine(saved):
    files = [path for path in saved.rglob("*") if path.is_file()]
    assert {path.suffix for path in files} <= {".safetensors", ".json", ".jinja", ".txt"}
    texts = [path.read_text() for path in files if path.suffix == ".json"]
    assert not any(str(saved.parent) in text for text in texts)
    assert {path.name for path in saved.parent.iterdir()} == {saved.name}  # nothing left beside it
    assert json.loads((saved / INDEX).read_text())["model"] == ["hf_eddpm.modeling_eddpm", "EDDPMModel"]


def test_pickled_weights_are_refused(pipe, tmp_path):
    with pytest.raises(ValueError, match="`safe_serialization` must be True"):
        pipe.save_pretrained(tmp_path / "pickled", safe_serialization=False)
    assert not (tmp_path / "pickled").exists()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_weights_load_in_float32_unless_a_dtype_is_asked_for(trained_model, make_pipe, tmp_path, dtype):
    pipe = make_pipe(copy.deepcopy(trained_model))
    pipe.to(dtype=dtype)
    pipe.save_pretrained(tmp_path / "half")
    loaded = EDDPMPipeline.from_pretrained(tmp_path / "half")
    assert {value.dtype for value in loaded.model.state_dict().values()} == {torch.float32}
    assert torch.equal(loaded.model.state_dict()["denoiser.output.weight"], pipe.model.denoiser.output.weight.float())
    assert EDDPMPipeline.from_pretrained(tmp_path / "half", dtype=dtype).model.dtype == dtype


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_a_half_precision_pipeline_gives_nearly_the_latents_of_float32(trained_model, make_pipe, dtype):
    half = make_pipe(copy.deepcopy(trained_model))
    half.to(dtype=dtype)
    full = make_pipe(trained_model)
    latents = half.encode(SENTENCES).latents
    assert latents.dtype == torch.float32
    torch.testing.assert_close(latents, full.encode(SENTENCES).latents, atol=0.15, rtol=0.15)
    noise = torch.randn(2, 2, 8)
    out = half(latents=noise, num_inference_steps=20)
    expected = full(latents=noise, num_inference_steps=20).latents
    assert out.latents.dtype == torch.float32 and len(out.samples) == 2
    torch.testing.assert_close(out.latents, expected, atol=0.15, rtol=0.15)


# Interrupted and repeated saves


class _Killed(BaseException):
    """Stands for the end of the process: no handler of an error catches it."""


def _stop_before(monkeypatch, target, name, call):
    """Make call number `call` of `target.name`, and every later one, raise; nothing is cleaned up afterwards."""
    original = getattr(target, name)
    calls = []

    def stopping(*args, **kwargs):
        calls.append(args)
        if len(calls) > call:
            raise _Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(target, name, stopping)


def _broken_or(folder, expected):
    """Whether the folder does not load, or loads as `expected`."""
    try:
        loaded = EDDPMPipeline.from_pretrained(folder)
    except (OSError, ValueError):
        return True
    state = loaded.model.state_dict()
    return all(torch.equal(state[name], value) for name, value in expected.items())


@pytest.mark.parametrize("component", ["model", "scheduler", "processor"])
def test_a_save_that_stops_inside_a_component_leaves_what_was_there(
    pipe, saved, make_pipe, tmp_path, monkeypatch, component
):
    before = pipe.model.state_dict()
    other = make_pipe(tiny_model(seed=1))
    with monkeypatch.context() as patch:
        _stop_before(patch, type(getattr(other, component)), "save_pretrained", 0)
        for folder in (saved, tmp_path / "new"):
            with pytest.raises(_Killed):
                other.save_pretrained(folder)
    assert _broken_or(saved, before)
    assert EDDPMPipeline.from_pretrained(saved).reconstruct(SENTENCES) == pipe.reconstruct(SENTENCES)
    assert not (tmp_path / "new").exists()
    assert {path.name for path in tmp_path.iterdir()} == {"saved"}


@pytest.mark.parametrize("call", range(7))
def test_a_save_killed_between_two_moves_leaves_the_old_pipeline_or_the_new_one(
    pipe, saved, make_pipe, tmp_path, monkeypatch, call
):
    (other,) = [make_pipe(tiny_model(seed=1))]
    states = [each.model.state_dict() for each in (pipe, other)]
    with monkeypatch.context() as patch:
        _stop_before(patch, saving.os, "replace", call)
        try:
            other.save_pretrained(saved)
            was_killed = False
        except _Killed:
            was_killed = True
    assert was_killed == (call < 6)  # one move makes it valid, five put its parts in their places
    loaded = EDDPMPipeline.from_pretrained(saved).model.state_dict()
    old, new = (all(torch.equal(loaded[name], value) for name, value in state.items()) for state in states)
    assert (old, new) == ((True, False) if call == 0 else (False, True))
    assert not [path for path in saved.iterdir() if path.name.startswith(".")], "leftovers"


def test_the_next_save_cleans_what_a_killed_one_left(saved, make_pipe):
    (saved / ".saving-1").mkdir()
    (saved / ".saving-1" / "half").write_bytes(b"of a file")
    make_pipe().save_pretrained(saved)
    assert not [path for path in saved.iterdir() if path.name.startswith(".")]


def test_a_folder_below_one_that_cannot_be_written_takes_a_save(saved, make_pipe, monkeypatch):
    other = make_pipe(tiny_model(seed=1))
    mkdir = Path.mkdir

    def inside_only(path, *args, **kwargs):
        if path.exists() or saved in path.parents:
            return mkdir(path, *args, **kwargs)
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "mkdir", inside_only)
    other.save_pretrained(saved)
    assert EDDPMPipeline.from_pretrained(saved).reconstruct(SENTENCES) == other.reconstruct(SENTENCES)


@pytest.mark.parametrize(
    "name", ["model/config.json", "model/model.safetensors", "model_index.json", "processor/tokenizer.json"]
)
@pytest.mark.parametrize("damage", ["flip", "truncate", "remove"])
def test_a_damaged_file_is_named(saved, name, damage):
    path = saved / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    if damage == "remove":
        path.unlink()
    else:
        path.write_bytes(content if damage == "flip" else content[:-1])
    with pytest.raises(OSError, match=re.escape(Path(name).name)):
        EDDPMPipeline.from_pretrained(saved)


def test_changed_files_load_when_the_user_says_so(saved):
    path = saved / "processor" / "processor_config.json"
    path.write_text(path.read_text().replace('"max_length": 16', '"max_length": 12'))
    with pytest.raises(OSError, match="verify=False"):
        EDDPMPipeline.from_pretrained(saved)
    assert EDDPMPipeline.from_pretrained(saved, verify=False).processor.max_length == 12


KILLED_SAVE = """
import os, signal, sys
from hf_eddpm import EDDPMPipeline, EDDPMTextProcessor

pipe = EDDPMPipeline.from_pretrained(sys.argv[1])
EDDPMTextProcessor.save_pretrained = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)
pipe.save_pretrained(sys.argv[2])
"""


@pytest.mark.slow
def test_a_process_killed_while_saving_leaves_no_pipeline(saved, tmp_path):
    environment = {**os.environ, "PYTHONPATH": str(Path(storage.__file__).parents[2])}
    command = [sys.executable, "-c", KILLED_SAVE, str(saved), str(tmp_path / "new")]
    assert subprocess.run(command, env=environment, timeout=300).returncode == -signal.SIGKILL
    with pytest.raises(OSError, match="no model_index.json"):
        EDDPMPipeline.from_pretrained(tmp_path / "new")


def test_saving_over_a_folder_keeps_foreign_files_and_replaces_ours(saved, make_pipe):
    (saved / "README.md").write_text("a card")
    (saved / "figures").mkdir()
    (saved / "figures" / "front.png").write_bytes(b"png")
    (saved / "model" / "model-00001-of-00002.safetensors").write_bytes(b"an old shard")
    other = make_pipe(tiny_model(seed=1))
    other.save_pretrained(saved)
    assert (saved / "README.md").read_text() == "a card"
    assert (saved / "figures" / "front.png").read_bytes() == b"png"
    assert not (saved / "model" / "model-00001-of-00002.safetensors").exists()
    assert EDDPMPipeline.from_pretrained(saved).reconstruct(SENTENCES) == other.reconstruct(SENTENCES)


def test_a_relative_folder_and_a_trailing_slash_are_fine(pipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    pipe.save_pretrained("runs/mine/")
    assert EDDPMPipeline.from_pretrained("runs/mine/").reconstruct(SENTENCES) == pipe.reconstruct(SENTENCES)


# Bad input


@pytest.mark.parametrize(
    ("method", "steps"),
    [
        *itertools.product(["__call__", "invert", "interpolate"], [0, -1, 1001, 2.0, "5", True]),
        ("invert", None),
    ],
)
def test_steps_outside_the_chain_are_refused(pipe, method, steps):
    data = {"__call__": (), "invert": (torch.zeros(1, 2, 8),), "interpolate": ("a", "b")}[method]
    with pytest.raises(ValueError, match=r"num_inference_steps|Exactly one"):
        getattr(pipe, method)(*data, num_inference_steps=steps)


BAD_LATENTS = [
    (torch.full((1, 2, 8), math.nan), ValueError, "must be finite"),
    (torch.full((1, 2, 8), math.inf), ValueError, "must be finite"),
    (torch.zeros(2, 8), ValueError, r"must have the shape \(batch, 2, 8\), got \(2, 8\)"),
    (torch.zeros(1, 8, 2), ValueError, r"must have the shape \(batch, 2, 8\)"),
    (torch.zeros(1, 1, 8), ValueError, r"must have the shape \(batch, 2, 8\)"),
    (torch.zeros(0, 2, 8), ValueError, "at least one"),
    ([[0.0] * 8] * 2, TypeError, "`latents` must be a tensor of floating-point numbers"),
]


@pytest.mark.parametrize(("latents", "error", "message"), BAD_LATENTS)
def test_latents_of_the_wrong_kind_shape_or_value_are_refused(pipe, latents, error, message):
    with pytest.raises(error, match=message):
        pipe(latents=latents, **FEW)
    with pytest.raises(error, match=message):
        pipe.decode(latents)
    if isinstance(latents, torch.Tensor):
        with pytest.raises(error, match=message):
            pipe.invert(latents, 2)


BAD_DATA = [
    ([], ValueError, "at least one sentence"),
    ("", ValueError, "must not hold empty sentences"),
    (["fine .", "  "], ValueError, "empty sentences, got one at position 1"),
    (None, TypeError, "got NoneType"),
    (3, TypeError, "got int"),
    (["fine .", 3], TypeError, "got int at position 1"),
    (b"bytes", TypeError, "got bytes"),
]


@pytest.mark.parametrize(("data", "error", "message"), BAD_DATA)
@pytest.mark.parametrize("method", ["encode", "reconstruct", "invert", "score"])
def test_data_that_are_empty_or_no_strings_are_refused(pipe, method, data, error, message):
    with pytest.raises(error, match=message):
        getattr(pipe, method)(data)


@pytest.mark.parametrize(("data", "error", "message"), BAD_DATA)
def test_the_argument_at_fault_is_named(pipe, data, error, message):
    for name, arguments in (("a", (data, "b")), ("b", ("a", data))):
        with pytest.raises(error, match=f"`{name}` .*{message}"):
            pipe.interpolate(*arguments)
    for name, arguments in (("positives", (data, "b")), ("negatives", ("a", data))):
        with pytest.raises(error, match=f"`{name}` .*{message}"):
            pipe.direction(*arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples": 0}, "`num_samples` must be an integer of at least 1"),
        ({"num_samples": 2.0}, "`num_samples` must be an integer of at least 1"),
        ({"eta": -0.1}, r"`eta` must be a finite number in \[0, 1\]"),
        ({"eta": 1.1}, r"`eta` must be a finite number in \[0, 1\]"),
        ({"eta": math.nan}, r"`eta` must be a finite number in \[0, 1\]"),
        ({"output_type": "pil"}, "`output_type` must be"),
        ({"callback_on_step_end": print, "callback_on_step_end_tensor_inputs": ["noise_pred"]}, "must be among"),
        ({"callback_on_step_end_tensor_inputs": ["latents"]}, "needs `callback_on_step_end`"),
        ({"no_such_argument": 1}, "no_such_argument"),
    ],
)
def test_arguments_of_the_call_outside_their_range_are_refused(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe(**{**FEW, **arguments})


@pytest.mark.parametrize("space", ["noise", "latents"])
def test_perceptual_spacing_chooses_points_of_a_denser_path(pipe, space):
    dense = pipe.interpolate("the food was great .", "i hate it .", num_steps=17, space=space)[0]
    chosen = pipe.interpolate("the food was great .", "i hate it .", 3, space=space, spacing="perceptual")[0]
    assert chosen == [dense[place] for place in perceptual_steps(dense, 3)]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_steps": 1}, "`num_steps` must be an integer of at least 2"),
        ({"num_steps": 2.5}, "`num_steps` must be an integer of at least 2"),
        ({"mode": "cubic"}, "`mode` must be"),
        ({"space": "pixels"}, "`space` must be"),
        ({"noise_level": -0.1}, "`noise_level` must be a finite number of at least 0"),
        ({"noise_level": math.nan}, "`noise_level` must be a finite number of at least 0"),
        ({"noise_level": 0, "num_inference_steps": 5}, "`num_inference_steps`"),
        ({"b": ["one .", "two ."]}, "`a` and `b` must have the same length, got 1 and 2"),
    ],
)
def test_arguments_of_interpolate_outside_their_range_are_refused(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe.interpolate(**{"a": ["one ."], "b": ["two ."], **arguments})


@pytest.mark.parametrize(
    ("direction", "error", "message"),
    [
        (torch.zeros(8), ValueError, "direction"),
        (torch.zeros(1, 2, 8), ValueError, "direction"),
        (torch.full((2, 8), math.nan), ValueError, "direction.* must be finite"),
        ([0.0] * 16, TypeError, "`direction` must be a tensor"),
    ],
)
def test_a_direction_of_the_wrong_kind_shape_or_value_is_refused(pipe, direction, error, message):
    with pytest.raises(error, match=message):
        pipe.edit("a .", direction=direction)


def test_a_scale_that_is_not_finite_is_refused(pipe):
    with pytest.raises(ValueError, match="`scale` must be a finite number"):
        pipe.edit("a .", direction=torch.ones(2, 8), scale=math.nan)


@pytest.mark.parametrize("batch_size", [0, -1, 2.0])
@pytest.mark.parametrize("method", ["encode", "decode", "reconstruct", "score"])
def test_batch_sizes_below_one_are_refused(pipe, method, batch_size):
    data = torch.zeros(1, 2, 8) if method == "decode" else "a ."
    with pytest.raises(ValueError, match="`batch_size` must be an integer of at least 1"):
        getattr(pipe, method)(data, batch_size=batch_size)


def test_fewer_than_one_timestep_and_fewer_than_no_refinements_are_refused(pipe):
    with pytest.raises(ValueError, match="`num_timesteps`"):
        pipe.score("a .", num_timesteps=0)
    with pytest.raises(ValueError, match="`num_refinements`"):
        pipe.invert("a .", 2, num_refinements=-1)


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("arguments", [{"num_samples": 2}, {"latents": torch.zeros(2, 2, 8), "eta": 1.0}])
def test_a_list_of_generators_of_the_wrong_length_is_refused(pipe, arguments, count):
    with pytest.raises(ValueError, match=f"one generator for each of 2 samples, got {count}"):
        pipe(generator=_generators(count), **arguments, **FEW)


def test_what_is_no_generator_is_refused(pipe):
    with pytest.raises(TypeError, match="`generator` must be"):
        pipe(generator=0, **FEW)


class _CudaGenerator(torch.Generator):
    """Says that it is on a GPU, which this machine may not have."""

    device = torch.device("cuda")


def test_a_generator_on_another_device_is_refused(pipe):
    with pytest.raises(ValueError, match="generator of type cuda"):
        pipe(generator=_CudaGenerator(), **FEW)
    with pytest.raises(ValueError, match="generator of type cuda"):
        pipe.score("a .", generator=_CudaGenerator())


@pytest.mark.gpu
def test_a_generator_on_the_gpu_is_refused_by_a_pipeline_on_the_cpu(pipe):
    with pytest.raises(ValueError, match="generator of type cuda"):
        pipe(generator=torch.Generator("cuda"), **FEW)


@pytest.mark.gpu
def test_a_cpu_generator_gives_the_same_noise_on_the_gpu(trained_model, make_pipe):
    pipe = make_pipe(copy.deepcopy(trained_model))
    on_cpu = pipe(num_samples=2, generator=torch.Generator().manual_seed(0), **FEW, **LATENT).latents
    pipe.to("cuda")
    on_gpu = pipe(num_samples=2, generator=torch.Generator().manual_seed(0), **FEW, **LATENT).latents
    torch.testing.assert_close(on_gpu.cpu(), on_cpu, atol=1e-3, rtol=1e-3)


@pytest.mark.gpu
def test_a_training_step_does_not_wait_for_the_gpu(pipe):
    model = pipe.model.to("cuda").train()
    batch = {name: tensor.to("cuda") for name, tensor in pipe.processor(SENTENCES).items()}
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            with torch.autocast("cuda", torch.bfloat16):
                loss = model(**batch).loss
            loss.backward()
            optimizer.step()
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert torch.isfinite(loss)
    waits = [f"{warning.filename}:{warning.lineno}" for warning in caught if "hf_eddpm" in warning.filename]
    assert not waits, waits  # transformers looks whether a mask is full


@pytest.mark.parametrize("kind", ["empty folder", "file", "missing", "other pipeline", "only a model"])
def test_what_is_not_a_saved_pipeline_does_not_load(pipe, tmp_path, kind):
    path = tmp_path / "thing"
    if kind == "file":
        path.write_text("text")
    elif kind == "only a model":
        pipe.model.save_pretrained(path)
    elif kind != "missing":
        path.mkdir()
    if kind == "other pipeline":
        DDPMScheduler().save_pretrained(path / "scheduler")
        index = {"_class_name": "DDPMPipeline", "scheduler": ["diffusers", "DDPMScheduler"]}
        (path / INDEX).write_text(json.dumps(index))
    with pytest.raises((OSError, ValueError), match="not a saved pipeline|neither a valid local path|expected"):
        EDDPMPipeline.from_pretrained(path)


@pytest.mark.parametrize("keep", ["half", "header", "nothing", "all but a byte", "other bytes"])
def test_damaged_weights_do_not_load(saved, keep):
    weights = saved / "model" / "model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(
        {
            "half": whole[: len(whole) // 2],
            "header": whole[:5],
            "nothing": b"",
            "all but a byte": whole[:-1],
            "other bytes": b"\xff" * 64 + whole[64:],
        }[keep]
    )
    with pytest.raises(OSError, match="damaged"):
        EDDPMPipeline.from_pretrained(saved)
    with pytest.raises(OSError, match="damaged or incomplete"):
        EDDPMPipeline.from_pretrained(saved, verify=False)


@pytest.mark.parametrize(
    "missing", ["model/model.safetensors", "model/config.json", "scheduler", "processor", "model"]
)
def test_a_folder_that_lacks_a_part_does_not_load(saved, missing):
    path = saved / missing
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    with pytest.raises((OSError, ValueError)):
        EDDPMPipeline.from_pretrained(saved)


def test_a_damaged_index_does_not_load(saved):
    (saved / INDEX).write_text("{")
    with pytest.raises(OSError, match=r"model_index\.json"):
        EDDPMPipeline.from_pretrained(saved)


def test_a_tokenizer_that_does_not_fit_the_model_is_refused(pipe, saved):
    larger = EDDPMTextProcessor(train_tokenizer(SENTENCES, 330))
    with pytest.raises(ValueError, match="`tokenizer` does not fit the model: it has 330 tokens"):
        EDDPMPipeline(pipe.model, pipe.scheduler, larger)
    other_end = train_tokenizer(SENTENCES, 300)
    other_end.eos_token = "<s>"
    with pytest.raises(ValueError, match="its end token is 1, the decoder's `eos_token_id`"):
        EDDPMPipeline(pipe.model, pipe.scheduler, EDDPMTextProcessor(other_end))
    larger.save_pretrained(saved / "processor")
    with pytest.raises(ValueError, match="does not fit the model"):
        EDDPMPipeline.from_pretrained(saved, verify=False)


# Candidates


def test_of_several_candidates_the_one_that_the_model_doubts_least_is_kept(pipe):
    generator = torch.Generator().manual_seed(4)
    rounds = [pipe(num_samples=5, generator=generator, **FEW) for _ in range(3)]
    doubts = torch.stack([doubt(pipe.model, pipe.processor, out.samples) for out in rounds])
    best = doubts.argmin(0).tolist()
    assert len(set(best)) > 1  # otherwise nothing would be chosen
    kept = pipe(num_samples=5, num_candidates=3, generator=torch.Generator().manual_seed(4), **FEW)
    assert kept.samples == [rounds[choice].samples[place] for place, choice in enumerate(best)]
    expected = torch.stack([rounds[choice].latents[place] for place, choice in enumerate(best)])
    torch.testing.assert_close(kept.latents, expected)


def test_a_candidate_that_repeats_other_samples_gives_way_to_one_that_does_not(pipe):
    one, two, three = SENTENCES[:3]
    latents = torch.arange(6.0).view(6, 1, 1).expand(6, 2, 8)
    rounds = [([one, one, one], latents[:3]), ([two, three, ""], latents[3:])]
    doubts = torch.tensor([[0.1, 0.1, 0.1], [0.2, 0.2, 0.2]])
    assert surest(pipe.processor, rounds, doubts)[0] == [one, one, one]
    samples, chosen = surest(pipe.processor, rounds, doubts, redundancy_penalty=1000.0)
    assert samples == [one, three, ""]  # the first has nothing to repeat
    assert chosen[:, 0, 0].tolist() == [0, 4, 5]


def test_the_penalty_is_the_share_of_pairs_of_tokens_that_samples_before_have(pipe):
    first, second, other = "a b c d", "a b x y", SENTENCES[0]
    pairs = {text: set(itertools.pairwise(pipe.processor([text])["labels"][0].tolist())) for text in (first, second)}
    share = len(pairs[first] & pairs[second]) / len(pairs[second])
    assert 0 < share < 1
    latents = torch.zeros(2, 2, 8)
    rounds, doubts = [([first, second], latents), ([first, other], latents)], torch.tensor([[0.0, 0.3], [0.0, 0.5]])
    turn = 0.2 / share  # where the other candidate becomes the better one
    below, above = (surest(pipe.processor, rounds, doubts, factor * turn)[0] for factor in (0.99, 1.01))
    assert (below[1], above[1]) == (second, other)


def test_a_call_chooses_with_its_penalty(pipe):
    generator = torch.Generator().manual_seed(4)
    short = {**FEW, "max_new_tokens": 2, "do_sample": True, "top_k": 3}  # which repeats itself
    rounds = [pipe(num_samples=30, generator=generator, **short) for _ in range(3)]
    rounds = [(out.samples, out.latents) for out in rounds]
    doubts = torch.stack([doubt(pipe.model, pipe.processor, texts) for texts, _ in rounds])
    expected, _ = surest(pipe.processor, rounds, doubts, 20.0)
    generator.manual_seed(4)
    chosen = pipe(num_samples=30, num_candidates=3, redundancy_penalty=20.0, generator=generator, **short).samples
    assert chosen == expected != surest(pipe.processor, rounds, doubts)[0]


def test_doubt_is_the_error_of_the_denoiser_by_the_length(pipe):
    latents = pipe.encode(SENTENCES[:4]).latents
    num_tokens = (pipe.processor(SENTENCES[:4])["labels"] != -100).sum(1)
    assert len(set(num_tokens.tolist())) > 1
    found = doubt(pipe.model, pipe.processor, SENTENCES[:4])
    torch.testing.assert_close(found, pipe.model.chain_errors(latents) / num_tokens**0.3, atol=1e-4, rtol=1e-4)
    alone = [doubt(pipe.model, pipe.processor, [SENTENCES[i]]) for i in range(4)]
    torch.testing.assert_close(torch.cat(alone), found, atol=1e-4, rtol=1e-4)


def test_the_denoiser_errs_more_far_from_data(pipe):
    latents = pipe.encode(SENTENCES).latents
    away = latents + 3 * torch.randn(latents.shape, generator=torch.Generator().manual_seed(0))
    assert pipe.model.chain_errors(away).mean() > 1.5 * pipe.model.chain_errors(latents).mean()


def test_candidates_of_a_class_are_doubted_as_of_that_class(make_pipe):
    class_pipe = make_pipe(tiny_model(num_classes=2))
    classes = torch.tensor([0, 1, 1])
    generator = torch.Generator().manual_seed(4)
    rounds = [class_pipe(num_samples=3, class_labels=classes, generator=generator, **FEW) for _ in range(4)]
    doubts = [doubt(class_pipe.model, class_pipe.processor, out.samples, classes) for out in rounds]
    untold = [doubt(class_pipe.model, class_pipe.processor, out.samples) for out in rounds]
    assert not torch.allclose(torch.stack(doubts), torch.stack(untold))
    best = torch.stack(doubts).argmin(0).tolist()
    generator.manual_seed(4)
    kept = class_pipe(num_samples=3, class_labels=classes, num_candidates=4, generator=generator, **FEW)
    assert kept.samples == [rounds[choice].samples[place] for place, choice in enumerate(best)]


@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_candidates_of_a_sample_come_from_its_own_generator(pipe, eta):
    together = pipe(num_samples=3, generator=_generators(3), num_candidates=3, eta=eta, **FEW)
    alone = [pipe(generator=generator, num_candidates=3, eta=eta, **FEW) for generator in _generators(3)]
    torch.testing.assert_close(together.latents, torch.cat([out.latents for out in alone]), atol=1e-5, rtol=1e-4)
    assert together.samples == [sample for out in alone for sample in out.samples]


def test_candidates_may_be_sentences_of_the_longest_length_or_empty(pipe):
    longest = pipe(num_samples=3, num_candidates=2, min_new_tokens=16, max_new_tokens=16, **FEW)
    assert len(longest.samples) == 3
    assert torch.isfinite(doubt(pipe.model, pipe.processor, ["", SENTENCES[0]])).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"latents": torch.zeros(2, 2, 8)}, "with `latents`"),
        ({"output_type": "latent"}, "with `output_type='latent'`"),
        ({"do_sample": True, "num_return_sequences": 2}, "`num_return_sequences`"),
        ({"num_candidates": 0}, "`num_candidates`"),
        ({"num_candidates": 1.5}, "`num_candidates`"),
        ({"redundancy_penalty": -0.1}, "`redundancy_penalty` must be a finite number of at least 0"),
        (
            {"num_candidates": 1, "redundancy_penalty": 0.5},
            "`redundancy_penalty` must be 0 with one candidate, got",
        ),
    ],
)
def test_candidates_that_cannot_be_chosen_among_are_refused(pipe, arguments, message):
    with pytest.raises((ValueError, TypeError), match=message):
        pipe(**{"num_candidates": 2, **FEW, **arguments})


@pytest.mark.parametrize(
    ("name", "value"), [("denoiser.output.weight", float("nan")), ("denoiser.output.bias", float("inf"))]
)
def test_weights_that_could_not_be_loaded_are_not_saved_over_those_that_can(saved, name, value):
    pipe = EDDPMPipeline.from_pretrained(saved)
    before = {path.name: path.read_bytes() for path in sorted(saved.rglob("*")) if path.is_file()}
    pipe.model.state_dict()[name].view(-1)[0] = value
    with pytest.raises(ValueError, match=f"is not saved.*'{name}' holds 1 values that are NaN or infinite"):
        pipe.save_pretrained(saved)
    assert {path.name: path.read_bytes() for path in sorted(saved.rglob("*")) if path.is_file()} == before


def test_numbers_too_large_for_half_precision_are_named_when_saved(saved, tmp_path):
    pipe = EDDPMPipeline.from_pretrained(saved)
    with torch.no_grad():
        pipe.model.denoiser.output.weight[0, 0] = 1e6
    pipe.save_pretrained(tmp_path / "whole")
    with pytest.raises(ValueError, match=r"'denoiser.output.weight' holds 1 values .*\(float16\)"):
        pipe.to(dtype=torch.float16).save_pretrained(tmp_path / "half")
    assert not (tmp_path / "half").exists()


def test_noise_scale_multiplies_the_noise_the_chain_starts_from(pipe):
    noise = torch.randn(2, 2, 8)
    scaled = pipe(latents=noise, noise_scale=0.5, num_inference_steps=5, output_type="latent").latents
    by_hand = pipe(latents=0.5 * noise, num_inference_steps=5, output_type="latent").latents
    torch.testing.assert_close(scaled, by_hand)


@pytest.mark.parametrize("noise_scale", [0.0, -1.0, float("nan"), float("inf")])
def test_a_noise_scale_that_is_not_positive_and_finite_is_refused(pipe, noise_scale):
    with pytest.raises(ValueError, match="`noise_scale`"):
        pipe(noise_scale=noise_scale)


def test_refinement_is_the_same_for_a_batch_and_for_its_items_and_off_by_default(pipe):
    together = pipe.encode(SENTENCES[:3], refinement_steps=3).latents
    alone = torch.cat([pipe.encode(sentence, refinement_steps=3).latents for sentence in SENTENCES[:3]])
    torch.testing.assert_close(alone, together, atol=1e-4, rtol=1e-4)
    plain = pipe.encode(SENTENCES[:3]).latents
    assert not torch.allclose(plain, together)
    assert pipe.reconstruct(SENTENCES[:3], refinement_steps=3) == pipe.decode(together)
    direction = torch.ones_like(plain[0])
    assert pipe.edit(SENTENCES[:3], direction, 0.5, refinement_steps=3) == pipe.decode(together + 0.5 * direction)


@pytest.mark.parametrize("steps", [-1, 1.5, True])
def test_impossible_refinement_steps_are_refused(pipe, steps):
    with pytest.raises(ValueError, match="`refinement_steps`"):
        pipe.encode(SENTENCES[0], refinement_steps=steps)


def test_data_of_like_length_are_encoded_together_and_come_back_in_their_order(pipe, monkeypatch):
    sentences = [" ".join(["the"] * (1 + number % 12)) for number in range(60)]
    one_by_one = torch.cat([pipe.encode(sentence).latents for sentence in sentences])
    shapes = []
    prepare = type(pipe.processor).prepare

    def watched(self, data):
        batch, cut = prepare(self, data)
        shapes.append(tuple(batch["input_ids"].shape))
        return batch, cut

    monkeypatch.setattr(type(pipe.processor), "prepare", watched)
    torch.testing.assert_close(pipe.encode(sentences).latents, one_by_one, atol=1e-5, rtol=1e-5)
    assert len(shapes) > 1 and all(rows <= 60 for rows, _ in shapes)
    assert sum(rows * length for rows, length in shapes) < 60 * 12
    refined = pipe.encode(sentences[:20], batch_size=7, refinement_steps=1).latents
    alone = torch.cat([pipe.encode(sentence, refinement_steps=1).latents for sentence in sentences[:20]])
    torch.testing.assert_close(refined, alone, atol=1e-4, rtol=1e-4)


@given(sizes=st.lists(st.integers(0, 50), min_size=1, max_size=100), batch_size=st.integers(1, 40))
def test_every_datum_is_in_one_batch_of_like_size(sizes, batch_size):
    batches = batches_of_like_size(sizes, batch_size)
    assert sorted(place for batch in batches for place in batch) == list(range(len(sizes)))
    assert all(0 < len(batch) <= batch_size for batch in batches)
    ordered = [sizes[place] for batch in batches for place in batch]
    assert ordered == sorted(ordered, reverse=True)
    assert all(sizes[batch[-1]] >= 0.75 * sizes[batch[0]] for batch in batches if len(batch) > 16)


def test_variants_lie_side_by_side(pipe, make_pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    half = make_pipe(copy.deepcopy(pipe.model)).to(dtype=torch.float16)
    half.save_pretrained(tmp_path, variant="fp16")
    latents = pipe.encode(SENTENCES).latents
    torch.testing.assert_close(EDDPMPipeline.from_pretrained(tmp_path).encode(SENTENCES).latents, latents)
    loaded = EDDPMPipeline.from_pretrained(tmp_path, variant="fp16")
    torch.testing.assert_close(loaded.encode(SENTENCES).latents, latents, atol=0.05, rtol=0.05)
    other = make_pipe(tiny_model(latent_dim=4))
    with pytest.raises(ValueError, match="'fp16' must be saved beside weights of the same model.*latent_dim"):
        other.save_pretrained(tmp_path, variant="fp16")
    assert EDDPMPipeline.from_pretrained(tmp_path).model.config.latent_dim == 8
    other.save_pretrained(tmp_path)  # another model: the variant of before does not belong to it
    assert not list((tmp_path / "model").glob("*fp16*"))


def test_where_and_how_to_upload_reaches_the_upload(pipe, tmp_path, monkeypatch):
    asked = {}
    monkeypatch.setattr(EDDPMPipeline, "push_to_hub", lambda self, repo_id, **given: asked.update(given, repo=repo_id))
    given = {"variant": "fp16", "revision": "v2", "subfolder": "s", "private": True}
    pipe.save_pretrained(tmp_path / "a", push_to_hub=True, repo_id="u/r", **given)
    assert asked == {**given, "repo": "u/r"}
    with pytest.raises(ValueError, match=r"`push_to_hub` must be True beside \['revision'\]"):
        pipe.save_pretrained(tmp_path / "b", revision="v2")
