"""Ways of loading a pipeline and of placing it: each gives in every public method what plain loading gives."""

import pytest
import torch
from conftest import SENTENCES
from images import random_images, tiny_image_pipe
from proteins import PROTEINS, tiny_protein_pipe

from hf_eddpm import EDDPMModel, EDDPMPipeline


def _text(make_pipe):
    return make_pipe(), SENTENCES[:3]


def _protein(make_pipe):
    return tiny_protein_pipe(), PROTEINS[:3]


def _image(make_pipe):
    return tiny_image_pipe(), random_images(3)


def _with(**arguments):
    return lambda folder: EDDPMPipeline.from_pretrained(folder, **arguments)


def _after(method, *arguments, **named):
    def load(folder):
        pipe = EDDPMPipeline.from_pretrained(folder)
        getattr(pipe, method)(*arguments, **named)
        return pipe

    return load


def _with_model(**arguments):
    def load(folder):
        return EDDPMPipeline.from_pretrained(folder, model=EDDPMModel.from_pretrained(folder / "model", **arguments))

    return load


# How to load, and the type of the weights.
WAYS = {
    "dtype": (_with(dtype=torch.float32), torch.float32),
    "dtype by name": (_with(dtype="float32"), torch.float32),
    "dtype auto": (_with(dtype="auto"), torch.float32),
    "dtype by component": (_with(dtype={"model": torch.float32, "default": torch.float16}), torch.float32),
    "torch_dtype": (_with(torch_dtype=torch.float32), torch.float32),
    "float64": (_with(dtype=torch.float64), torch.float64),
    "float64 by name": (_with(dtype="float64"), torch.float64),
    "to float64": (_after("to", torch.float64), torch.float64),
    "bfloat16 by name": (_with(dtype="bfloat16"), torch.bfloat16),
    "device_map cpu": (_with(device_map="cpu"), torch.float32),
    "device_map auto": (_with(device_map="auto"), torch.float32),
    "device_map balanced": (_with(device_map="balanced"), torch.float32),
    "low_cpu_mem_usage": (_with(low_cpu_mem_usage=False), torch.float32),
    "the model's device_map cpu": (_with_model(device_map="cpu"), torch.float32),
    "the model's device_map auto": (_with_model(device_map="auto"), torch.float32),
    "another attention": (_with_model(attn_implementation="eager"), torch.float32),
    "model offload": (_after("enable_model_cpu_offload", device="cpu"), torch.float32),
    "to cpu": (_after("to", "cpu"), torch.float32),
}


def _results(pipe, items):
    """What each public method gives, of a seed."""
    pipe.set_progress_bar_config(disable=True)
    config = pipe.model.config
    ones = torch.ones(2, config.num_latents, config.latent_dim)
    chain = {} if pipe.decoder_scheduler is None else {"num_decoder_steps": 2}

    def seeded():
        return torch.Generator().manual_seed(0)

    drawn = {} if pipe.decoder_scheduler is None else {"generator": seeded(), **chain}
    results = {
        "generate": pipe(2, num_inference_steps=3, generator=seeded(), **chain).latents,
        "encode": pipe.encode(items).latents,
        "refine": pipe.encode(items, refinement_steps=2).latents,
        "decode": pipe.decode(ones, **drawn),
        "reconstruct": pipe.reconstruct(items, **drawn),
        "interpolate": pipe.interpolate(items[:1], items[1:2], num_steps=3, num_inference_steps=3, **drawn)[0],
        "edit": pipe.edit(items, ones[0], **drawn),
        "score": pipe.score(items, generator=seeded()).bound,
        "invert": pipe.invert(items, num_inference_steps=3),
        "direction": pipe.direction(items[:1], items[1:]),
    }
    if pipe.model.property_head is not None:
        results["predict"] = pipe.predict(items)
    if chain:
        results["invert_decoder"] = pipe.invert_decoder(items, num_decoder_steps=2)
    return results


@pytest.fixture(scope="module", params=[_text, _protein, _image], ids=["text", "protein", "image"])
def saved(request, make_pipe, tmp_path_factory):
    """A saved pipeline, data for it, and what it gives when it is loaded with nothing said."""
    pipe, items = request.param(make_pipe)
    folder = tmp_path_factory.mktemp("saved")
    pipe.save_pretrained(folder)
    return folder, items, _results(EDDPMPipeline.from_pretrained(folder), items)


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_loading_gives_what_plain_loading_gives(way, saved):
    folder, items, expected = saved
    load, dtype = WAYS[way]
    pipe = load(folder)
    assert pipe.model.dtype == dtype
    results = _results(pipe, items)
    assert results.keys() == expected.keys()
    tolerance = 0.2 if dtype == torch.bfloat16 else 1e-4
    for name, result in results.items():
        if isinstance(result, torch.Tensor):
            assert result.dtype == expected[name].dtype, name
            torch.testing.assert_close(result, expected[name], atol=tolerance, rtol=tolerance, msg=name)
        elif dtype != torch.bfloat16:  # where two tokens or two levels are near a tie
            assert list(map(_plain, result)) == list(map(_plain, expected[name])), name


def _plain(datum):
    return datum if isinstance(datum, str) else datum.tobytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dtype": "float99"}, "`dtype` must be a floating-point type"),
        ({"dtype": torch.int8}, "`dtype` must be a floating-point type"),
        ({"dtype": "int8"}, "`dtype` must be a floating-point type"),
        ({"torch_dtype": 16}, "`dtype` must be a floating-point type"),
        ({"dtype": {"model": "x"}}, "`dtype` must be a floating-point type"),
        ({"device_map": {"model": "cpu"}}, "`device_map`"),
        ({"quantization_config": 3}, "`quantization_config`"),
    ],
)
def test_what_cannot_be_is_refused_by_name(arguments, message, saved):
    with pytest.raises(ValueError, match=message):
        EDDPMPipeline.from_pretrained(saved[0], **arguments)


def test_layers_that_come_and_go_one_by_one_are_refused(saved):
    pipe = EDDPMPipeline.from_pretrained(saved[0])
    for arguments in ({}, {"device": "cpu"}):
        with pytest.raises(ValueError, match="`enable_sequential_cpu_offload` is not supported.*model_cpu_offload"):
            pipe.enable_sequential_cpu_offload(**arguments)


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU")
def test_offloading_needs_a_device_to_load_to(saved):
    with pytest.raises(RuntimeError, match="`enable_model_cpu_offload` requires accelerator"):
        EDDPMPipeline.from_pretrained(saved[0]).enable_model_cpu_offload()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_auto_takes_the_type_that_was_saved(dtype, saved, tmp_path):
    folder, _, _ = saved
    EDDPMPipeline.from_pretrained(folder, dtype=dtype).save_pretrained(tmp_path)
    assert EDDPMPipeline.from_pretrained(tmp_path, dtype="auto").model.dtype == getattr(torch, dtype)
    assert EDDPMPipeline.from_pretrained(tmp_path).model.dtype == torch.float32
