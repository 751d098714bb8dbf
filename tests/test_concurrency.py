"""Calls in threads give what serial calls with the same seeds give; whatever draws takes the generator of its call."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from conftest import SENTENCES, tiny_model
from diffusers import DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler
from images import tiny_image_pipe

from hf_eddpm import EDDPMPipeline

CARDS = Path(__file__).parent.parent / "model_cards"
THREADS, CALLS = 8, 20
FEW = {"num_inference_steps": 4}


def _plain(value):
    """What can be compared: texts, tensors as lists, pictures as bytes."""
    if isinstance(value, torch.Tensor):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value.tobytes() if hasattr(value, "tobytes") else value


def _text_calls(pipe):
    direction = pipe.direction(SENTENCES[:2], SENTENCES[2:4])

    def call(seed):
        generator = torch.Generator().manual_seed(seed)
        datum, other = SENTENCES[seed % 8], SENTENCES[(3 * seed + 1) % 8]
        kind = seed % 6
        if kind == 0:
            return pipe(num_samples=1 + seed % 3, generator=generator, do_sample=True, **FEW).samples
        if kind == 1:
            return pipe.reconstruct([datum, other][: 1 + seed % 2], refinement_steps=seed % 2)
        if kind == 2:
            return pipe.interpolate(datum, other, num_steps=3, **FEW)
        if kind == 3:
            return pipe.edit([datum], direction=direction, scale=float(seed % 4))
        if kind == 4:
            return [value.tolist() for value in pipe.score([datum, other], 2, generator).values()]
        return pipe.encode([datum, other]).latents

    return call


@pytest.mark.parametrize(
    ("conditioning", "scheduler"),
    [
        ("prefix", None),
        pytest.param("prefix", DPMSolverMultistepScheduler, marks=pytest.mark.slow),
        pytest.param("memory", None, marks=pytest.mark.slow),
        pytest.param("memory", DPMSolverMultistepScheduler, marks=pytest.mark.slow),
    ],
)
def test_threads_give_sentences_that_serial_calls_give(make_pipe, conditioning, scheduler):
    pipe = make_pipe(tiny_model(decoder="gpt2", decoder_conditioning=conditioning))
    if scheduler is not None:
        pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    _check(_text_calls(pipe))


def test_threads_give_proteins_that_serial_calls_give():
    pipe = EDDPMPipeline.from_pretrained(CARDS / "eddpm-gifford")
    pipe.set_progress_bar_config(disable=True)
    loops = ["AAAAYDYWFDY", "ARDGYYGSFDY", "ARWGGDGFYAMDY"]

    def call(seed):
        generator = torch.Generator().manual_seed(seed)
        if seed % 3 == 0:
            return pipe(num_samples=2, generator=generator, do_sample=True, **FEW).samples
        if seed % 3 == 1:
            return pipe.optimize(loops[: 1 + seed % 3], method="mcmc", num_steps=2, generator=generator).samples
        return pipe.predict([loops[seed % 2]])

    _check(call)


def test_threads_give_images_that_serial_calls_give():
    pipe = tiny_image_pipe()
    images = pipe(num_samples=3, num_decoder_steps=2, generator=torch.Generator().manual_seed(0), **FEW).samples

    def call(seed):
        generator = torch.Generator().manual_seed(seed)
        if seed % 2:
            return pipe(num_samples=1 + seed % 3, num_decoder_steps=3, generator=generator, **FEW).samples
        return pipe.reconstruct(images[: 1 + seed % 3], num_decoder_steps=3, generator=generator)

    _check(call)


def _check(call):
    seeds = range(THREADS * CALLS)
    serial = [_plain(call(seed)) for seed in seeds]
    with ThreadPoolExecutor(THREADS) as pool:
        together = [_plain(result) for result in pool.map(call, seeds)]
    assert [seed for seed in seeds if serial[seed] != together[seed]] == []


DRAWS = {
    "sampled tokens": lambda pipe, g: pipe(num_samples=3, do_sample=True, temperature=2.0, generator=g, **FEW).samples,
    "ancestral steps": lambda pipe, g: pipe(num_samples=3, eta=1.0, generator=g, **FEW).latents,
    "sampled tokens of decode": lambda pipe, g: pipe.decode(torch.ones(2, 2, 8), do_sample=True, generator=g),
    "sampled tokens of reconstruct": lambda pipe, g: pipe.reconstruct(SENTENCES[:2], do_sample=True, generator=g),
    "noise of edit": lambda pipe, g: pipe.edit(SENTENCES[:2], strength=0.8, generator=g, do_sample=True),
    "score": lambda pipe, g: pipe.score(SENTENCES[:2], 3, g).bound,
    "top-p and several returns": lambda pipe, g: (
        pipe(num_samples=2, do_sample=True, top_p=0.9, num_return_sequences=3, generator=g, **FEW).samples
    ),
}


@pytest.mark.parametrize("name", DRAWS)
@pytest.mark.parametrize("scheduler", [None, EulerAncestralDiscreteScheduler])
def test_the_generator_alone_decides_what_is_drawn(make_pipe, name, scheduler):
    pipe = make_pipe(tiny_model(decoder="gpt2"))
    if scheduler is not None and name != "ancestral steps":
        pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    results = []
    for global_seed, seed in ((1, 5), (2, 5), (1, 6)):
        torch.manual_seed(global_seed)
        results.append(_plain(DRAWS[name](pipe, torch.Generator().manual_seed(seed))))
    assert results[0] == results[1]
    assert results[0] != results[2]


def test_a_generator_for_each_datum_makes_sampled_sentences_independent_of_the_batch(make_pipe):
    pipe = make_pipe(tiny_model(decoder="gpt2"))
    latents = torch.randn(4, 2, 8)

    def generators(rows):
        return [torch.Generator().manual_seed(row) for row in rows]

    together = pipe.decode(latents, do_sample=True, generator=generators(range(4)))
    alone = [pipe.decode(latents[[row]], do_sample=True, generator=generators([row]))[0] for row in range(4)]
    assert together == alone
    assert pipe.decode(latents, batch_size=3, do_sample=True, generator=generators(range(4))) == together


def test_sampled_tokens_follow_the_models_distribution(make_pipe):
    model = tiny_model(decoder="gpt2")
    latents = torch.zeros(1, 2, 8)
    expected = model.decoder.logits(latents, torch.tensor([[5]]))[0, 0].softmax(-1)
    rows = latents.expand(4000, -1, -1)
    first = model.decoder.generate(rows, do_sample=True, max_new_tokens=1, generator=torch.Generator().manual_seed(0))
    observed = torch.bincount(first[:, 0], minlength=len(expected)) / len(rows)
    likely = expected > 0.005
    torch.testing.assert_close(observed[likely], expected[likely], atol=0.02, rtol=0.2)


def test_sampled_beams_with_a_generator_are_refused(make_pipe):
    with pytest.raises(ValueError, match="`generator` cannot be honoured when beams are sampled"):
        make_pipe().decode(torch.ones(1, 2, 8), do_sample=True, num_beams=2, generator=torch.Generator())
