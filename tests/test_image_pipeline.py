"""What the pipeline does with a decoder that is a chain itself."""

import numpy as np
import pytest
import torch
from conftest import SENTENCES
from diffusers import DDIMScheduler, DDPMScheduler
from images import CONV_DECODER, SIZE, make_image_pipe, random_images, tiny_image_model, tiny_image_pipe
from PIL import Image

from hf_eddpm import EDDPMPipeline, EDDPMScheduler

STEPS = {"num_decoder_steps": 8}


@pytest.fixture(scope="module")
def pipe() -> EDDPMPipeline:
    return tiny_image_pipe()


@pytest.fixture(scope="module")
def conv_pipe() -> EDDPMPipeline:
    return tiny_image_pipe(decoder=CONV_DECODER)


@pytest.fixture(scope="module")
def trained() -> EDDPMPipeline:
    """A few hundred steps on four images: enough that the chain's outputs are smooth in its inputs."""
    model, images = tiny_image_model().train(), random_images()
    pipe = make_image_pipe(model)
    batch = pipe.processor(images)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(80):
        optimizer.zero_grad()
        model(**batch, generator=generator).loss.backward()
        optimizer.step()
    model.eval()
    return pipe


def _error(images, originals) -> float:
    a, b = (np.stack([np.asarray(image, dtype=np.float64) for image in each]) for each in (images, originals))
    return float(np.mean((a - b) ** 2))


def test_inverted_noise_reconstructs_better_than_drawn_noise(trained):
    images = random_images()
    drawn = trained.reconstruct(images, generator=torch.Generator().manual_seed(0), num_decoder_steps=20)
    inverted = trained.reconstruct(images, invert_noise=True, num_decoder_steps=20)
    assert _error(inverted, images) < 0.2 * _error(drawn, images)


def test_inversion_is_of_the_chains_own_step_whatever_scheduler_samples(trained):
    images, own = random_images(2), trained.decoder_scheduler
    inverted = {"invert_noise": True, "output_type": "pt", **STEPS}
    expected = [trained.reconstruct(images, **inverted)]
    expected += trained.interpolate(*images, num_steps=2, space="latents", **inverted)
    zero = torch.zeros(1, 6)
    expected.append(trained.edit(images, zero, **inverted))
    trained.decoder_scheduler = DDPMScheduler.from_config(own.config)
    try:
        got = [trained.reconstruct(images, **inverted)]
        got += trained.interpolate(*images, num_steps=2, space="latents", **inverted)
        got.append(trained.edit(images, zero, **inverted))
        noise = trained.invert_decoder(images, **STEPS)
        latents = trained.encode(images).latents
        got.append(trained.decode(latents, decoder_noise=noise, scheduler=None, output_type="pt", **STEPS))
    finally:
        trained.decoder_scheduler = own
    for one, other in zip(got, [*expected, expected[0]], strict=True):
        torch.testing.assert_close(one, other)


def test_inversion_and_decoding_take_as_many_steps(trained, monkeypatch):
    seen = []
    invert = trained.model.decoder.invert
    monkeypatch.setattr(
        trained.model.decoder, "invert", lambda *args, **kwargs: seen.append(kwargs) or invert(*args, **kwargs)
    )
    trained.reconstruct(random_images(1), invert_noise=True, num_decoder_steps=7)
    trained.edit(random_images(1), torch.zeros(1, 6), invert_noise=True, num_decoder_steps=9)
    assert [each["num_decoder_steps"] for each in seen] == [7, 9]


def test_the_checkpoints_own_decoder_steps_are_saved_and_taken_where_a_call_names_none(pipe, tmp_path, monkeypatch):
    own = EDDPMPipeline(**pipe.components, default_num_decoder_steps=3)
    own.save_pretrained(tmp_path / "pipeline")
    loaded = EDDPMPipeline.from_pretrained(tmp_path / "pipeline")
    seen = []
    for name in ("generate", "invert"):
        method = getattr(loaded.model.decoder, name)
        monkeypatch.setattr(
            loaded.model.decoder,
            name,
            lambda *args, method=method, **kwargs: seen.append(kwargs["num_decoder_steps"]) or method(*args, **kwargs),
        )
    loaded(1, num_inference_steps=2)
    loaded.reconstruct(random_images(1))
    loaded.reconstruct(random_images(1), num_decoder_steps=4)
    assert seen == [3, 3, 4]
    loaded.reconstruct(random_images(1), invert_noise=True)  # inversion, and decoding from its noise
    assert seen[3:] == [50, 50]


@pytest.mark.parametrize("output_type", ["data", "pil", "np", "pt"])
def test_samples_come_in_the_form_that_is_asked_for(pipe, conv_pipe, output_type):
    for each, steps in ((pipe, STEPS), (conv_pipe, {})):
        samples = each(3, num_inference_steps=2, output_type=output_type, **steps).samples
        if output_type in ("data", "pil"):
            assert [(image.size, image.mode) for image in samples] == [((SIZE, SIZE), "L")] * 3
            assert all(isinstance(image, Image.Image) for image in samples)
        else:
            assert samples.shape == ((3, SIZE, SIZE, 1) if output_type == "np" else (3, 1, SIZE, SIZE))
            assert 0 <= float(samples.min()) <= float(samples.max()) <= 1
            assert isinstance(samples, np.ndarray if output_type == "np" else torch.Tensor)


def test_what_is_asked_for_in_another_form_is_the_same(pipe):
    samples = {
        form: pipe(
            2, num_inference_steps=2, generator=torch.Generator().manual_seed(1), output_type=form, **STEPS
        ).samples
        for form in ("pil", "np", "pt")
    }
    assert np.array_equal(samples["np"], samples["pt"].permute(0, 2, 3, 1).numpy())
    assert np.array_equal(np.round(samples["np"][..., 0] * 255), np.stack([np.asarray(x) for x in samples["pil"]]))


def test_images_have_no_candidates_as_no_tokens_are_decoded(pipe, conv_pipe):
    for each in (pipe, conv_pipe):
        with pytest.raises(ValueError, match=r"`num_candidates` must be 1: .* tokens, and \w+ makes none"):
            each(num_samples=1, num_candidates=2)


def test_one_generator_for_each_sample_makes_it_independent_of_its_batch(pipe):
    def sample(seeds, **arguments):
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        return pipe(len(seeds), 2, generator=generators, output_type="pt", **STEPS, **arguments).samples

    together = sample([0, 1, 2])
    torch.testing.assert_close(together[1:2], sample([1]), atol=1e-4, rtol=1e-4)


def test_the_same_seed_gives_the_same_images_whatever_the_batches(pipe):
    latents = pipe.encode(random_images(3)).latents
    decoded = [
        pipe.decode(latents, batch_size=size, generator=torch.Generator().manual_seed(0), output_type="pt", **STEPS)
        for size in (3, 2, 1)
    ]
    for other in decoded[1:]:
        torch.testing.assert_close(other, decoded[0], atol=1e-4, rtol=1e-4)


def test_latents_are_decoded_as_often_as_asked(pipe, conv_pipe):
    images = random_images(2)
    several = pipe.reconstruct(images, num_reconstructions=3, output_type="pt", **STEPS)
    assert len(several) == 6
    assert (several[0] - several[1]).abs().max() > 1e-3
    same = conv_pipe.reconstruct(images, num_reconstructions=2, output_type="pt")
    assert torch.equal(same[0], same[1]) and not torch.equal(same[1], same[2])


def test_all_points_of_a_path_start_from_the_same_noise_and_its_ends_are_the_reconstructions(pipe):
    a, b = random_images(2), random_images(2, seed=1)
    noise = torch.randn(2, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(3))
    paths = pipe.interpolate(a, b, num_steps=4, space="latents", decoder_noise=noise, output_type="pt", **STEPS)
    assert [path.shape for path in paths] == [(4, 1, SIZE, SIZE)] * 2
    ends = [pipe.reconstruct(each, decoder_noise=noise, output_type="pt", **STEPS) for each in (a, b)]
    for row in range(2):
        torch.testing.assert_close(paths[row][0], ends[0][row], atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(paths[row][-1], ends[1][row], atol=1e-3, rtol=1e-3)
    seeded = [
        pipe.interpolate(
            a, b, 3, space="latents", generator=torch.Generator().manual_seed(0), output_type="pt", **STEPS
        )
        for _ in range(2)
    ]
    assert torch.equal(seeded[0][1], seeded[1][1])


def test_paths_between_inverted_noises_end_at_the_images(trained):
    a, b = random_images(1), random_images(2)[1:]
    (path,) = trained.interpolate(a, b, num_steps=3, space="latents", invert_noise=True, num_decoder_steps=20)
    drawn = trained.reconstruct([*a, *b], num_decoder_steps=20, generator=torch.Generator().manual_seed(0))
    assert _error([path[0], path[-1]], [*a, *b]) < 0.3 * _error(drawn, [*a, *b])


def test_a_walk_from_inverted_noise_begins_at_the_image(trained):
    images = random_images(2)
    walks = trained.traverse(images, torch.ones(2, 1, 6), (0.0, 2.0), invert_noise=True, num_decoder_steps=20)
    drawn = trained.reconstruct(images, num_decoder_steps=20, generator=torch.Generator().manual_seed(0))
    starts = [walk[0] for walks_of_one in walks for walk in walks_of_one]
    assert _error(starts, [image for image in images for _ in range(2)]) < 0.3 * _error(drawn, images)
    assert _error([walks[0][0][1]], images[:1]) > _error(starts[:1], images[:1])


def test_edits_move_the_image_and_none_leaves_it(trained):
    images = random_images(2)
    direction = trained.direction(images[:1], images[1:])
    kept = trained.edit(images, torch.zeros_like(direction), invert_noise=True, num_decoder_steps=20)
    moved = trained.edit(images, direction, scale=2.0, invert_noise=True, num_decoder_steps=20)
    assert _error(kept, images) < 0.5 * _error(moved, images)


def test_directions_of_linear_classifiers_have_length_one_and_leave_others_alone(pipe):
    bright = [Image.fromarray(np.clip(np.asarray(image) // 2 + 120, 0, 255)) for image in random_images(6)]
    dark = [Image.fromarray(np.asarray(image) // 2) for image in random_images(6, seed=1)]
    first = pipe.direction(bright, dark, method="linear")
    assert first.shape == (1, 6) and float(first.norm()) == pytest.approx(1, abs=1e-5)
    second = pipe.direction(bright[:3], bright[3:], method="linear", orthogonal_to=[first])
    assert float(second.norm()) == pytest.approx(1, abs=1e-5) and abs(float((first * second).sum())) < 1e-5
    third = pipe.direction(bright[:3], bright[3:], orthogonal_to=first)
    assert abs(float((first * third).sum())) < 1e-5
    with pytest.raises(ValueError, match="`method`"):
        pipe.direction(bright, dark, method="svm")
    with pytest.raises(ValueError, match="`orthogonal_to"):
        pipe.direction(bright, dark, orthogonal_to=torch.zeros(3))


@pytest.mark.filterwarnings("ignore:__array_:DeprecationWarning")
@pytest.mark.parametrize("scheduler", [DDIMScheduler, DDPMScheduler])
def test_other_schedulers_run_the_pixels_chain(scheduler):
    pipe = tiny_image_pipe()
    pipe.decoder_scheduler = scheduler.from_config(pipe.decoder_scheduler.config)
    assert pipe.decoder_scheduler.config.clip_sample and pipe.decoder_scheduler.config.beta_end == 0.02
    first, second = (
        pipe(2, 2, generator=torch.Generator().manual_seed(seed), output_type="np", **STEPS).samples for seed in (0, 0)
    )
    assert np.array_equal(first, second)


def test_both_chains_show_their_progress(capsys):
    pipe = tiny_image_pipe()
    pipe.set_progress_bar_config(disable=False)
    pipe(1, num_inference_steps=3, num_decoder_steps=5)
    assert not capsys.readouterr().err, "a bar for what takes less than a second"
    pipe.set_progress_bar_config(delay=0, leave=True)
    pipe(1, num_inference_steps=3, num_decoder_steps=5)
    shown = capsys.readouterr().err
    assert "3/3" in shown and "5/5" in shown


def test_tensors_of_images_are_inverted_as_the_images_are(pipe):
    tensors = pipe(2, num_inference_steps=2, num_decoder_steps=2, output_type="pt").samples
    latents = pipe.encode(tensors).latents
    torch.testing.assert_close(pipe.invert(tensors, 3), pipe.invert(latents, 3))


def test_paths_and_traversals_take_a_generator_for_each_datum(pipe):
    images, arguments = random_images(4), {"num_decoder_steps": 2, "output_type": "np"}

    def seeds(*numbers):
        return [torch.Generator().manual_seed(number) for number in numbers]

    both = pipe.interpolate(images[:2], images[2:], 3, num_inference_steps=2, generator=seeds(0, 1), **arguments)
    alone = pipe.interpolate(images[1], images[3], 3, num_inference_steps=2, generator=seeds(1), **arguments)
    np.testing.assert_allclose(both[1], alone[0], atol=1e-4)
    direction = torch.ones(1, 1, pipe.model.config.num_latents, pipe.model.config.latent_dim)[0]
    moved = pipe.traverse(images[:2], direction, [0.0, 1.0], generator=seeds(0, 1), **arguments)
    again = pipe.traverse(images[1], direction, [0.0, 1.0], generator=seeds(1), **arguments)
    np.testing.assert_allclose(moved[1], again[0], atol=1e-4)
    with pytest.raises(ValueError, match="one generator for each of 2 data, got 3"):
        pipe.interpolate(images[:2], images[2:], 3, num_inference_steps=2, generator=seeds(0, 1, 2), **arguments)


def test_a_score_counts_every_pixel_value(pipe, conv_pipe):
    images = random_images(3)
    for each in (pipe, conv_pipe):
        score = each.score(images, num_timesteps=4, generator=torch.Generator().manual_seed(0))
        expected = score.bound / (SIZE * SIZE) / np.log(2)
        torch.testing.assert_close(score.bits_per_unit, expected.float())
        assert float(score.bits_per_unit.min()) > 0


def test_a_score_does_not_depend_on_the_batch(pipe, conv_pipe):
    images = random_images(3)
    for each in (pipe, conv_pipe):
        bounds = [
            each.score(images, num_timesteps=4, generator=torch.Generator().manual_seed(0), batch_size=size).bound
            for size in (1, 2, 3)
        ]
        for bound in bounds[1:]:
            torch.testing.assert_close(bounds[0], bound, rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"output_type": "jpeg"}, "`output_type` must be one of .*'latent'"),
        ({"num_decoder_steps": 0}, "`num_decoder_steps`"),
        ({"num_decoder_steps": 51}, "`num_decoder_steps`"),
        ({"num_decoder_steps": True}, "`num_decoder_steps`"),
        ({"decoder_noise": torch.zeros(1, 1, SIZE, SIZE)}, "`decoder_noise` must be a tensor of shape"),
        ({"decoder_noise": torch.zeros(2, 1, 4, 4)}, "`decoder_noise` must be a tensor of shape"),
        ({"decoder_noise": torch.full((2, 1, SIZE, SIZE), float("nan"))}, "`decoder_noise` must be finite"),
    ],
)
def test_impossible_arguments_of_the_decoder_are_refused(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe(2, num_inference_steps=2, **arguments)


def test_impossible_reconstructions_are_refused(pipe, conv_pipe):
    images = random_images(2)
    with pytest.raises(ValueError, match="`num_reconstructions` must be an integer of at least 1"):
        pipe.reconstruct(images, num_reconstructions=0)
    with pytest.raises(ValueError, match="`num_reconstructions` must be 1 with `invert_noise`"):
        pipe.reconstruct(images, num_reconstructions=2, invert_noise=True)
    with pytest.raises(ValueError, match="Only one of `invert_noise` and `decoder_noise`"):
        pipe.reconstruct(images, invert_noise=True, decoder_noise=torch.zeros(2, 1, SIZE, SIZE))
    with pytest.raises(ValueError, match="`decoder_noise` must have an entry for each of 1 pairs"):
        pipe.interpolate(images[0], images[1], space="latents", decoder_noise=torch.zeros(2, 1, SIZE, SIZE))
    with pytest.raises(ValueError, match="`latents` must be those of 2 data"):
        pipe.invert_decoder(images, latents=torch.zeros(1, 1, 6))
    for call in (
        lambda: conv_pipe.reconstruct(images, invert_noise=True),
        lambda: conv_pipe.edit(images, torch.zeros(1, 6), invert_noise=True),
        lambda: conv_pipe.interpolate(images[0], images[1], space="latents", invert_noise=True),
    ):
        with pytest.raises(ValueError, match="`invert_noise` needs a decoder that is a chain"):
            call()


def test_a_decoder_without_a_chain_takes_no_scheduler(conv_pipe, make_pipe):
    with pytest.raises(ValueError, match="`decoder_scheduler` must be None"):
        EDDPMPipeline(conv_pipe.model, conv_pipe.scheduler, conv_pipe.processor, EDDPMScheduler())
    text = make_pipe()
    assert text.decoder_scheduler is None and text.components["decoder_scheduler"] is None
    with pytest.raises(ValueError, match=r"`output_type` must be one of \['data'\]"):
        text.reconstruct(SENTENCES[:1], output_type="pil")


def test_a_path_between_images_goes_through_the_noise_and_between_latents_as_they_are(conv_pipe):
    a, b = random_images(2)
    few = {"num_steps": 3, "output_type": "pt"}
    (default,) = conv_pipe.interpolate(a, b, num_inference_steps=5, **few)
    (noise,) = conv_pipe.interpolate(a, b, space="noise", num_inference_steps=5, noise_level=0, **few)
    (latents,) = conv_pipe.interpolate(a, b, space="latents", **few)
    (plain,) = conv_pipe.interpolate(a, b, space="latents", noise_level=0, **few)
    torch.testing.assert_close(default, noise)
    torch.testing.assert_close(latents, plain)
    assert not torch.allclose(noise[1], plain[1])
