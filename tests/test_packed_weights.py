"""Packed weights compute what the plain ones do, and follow them when they change."""

import copy

import pytest
import torch
from conftest import SENTENCES, tiny_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from hf_eddpm.packed_weights import PackedForward, pack_weights, unpack_weights

pytestmark = pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="this torch has no oneDNN")


def _packed(layer):
    return isinstance(vars(layer).get("forward"), PackedForward)


@pytest.mark.parametrize(
    "layer", [nn.Linear(48, 40), nn.Linear(48, 40, bias=False), Conv1D(40, 48)], ids=["linear", "no bias", "Conv1D"]
)
@pytest.mark.parametrize("shape", [(1, 48), (5, 48), (2, 3, 48), (2, 0, 48)])
def test_a_packed_layer_maps_as_the_plain_one(layer, shape):
    layer, inputs = copy.deepcopy(layer).eval(), torch.randn(shape)
    with torch.no_grad():
        plain = layer(inputs)
        assert pack_weights(layer) == 1
        torch.testing.assert_close(layer(inputs), plain, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(layer(inputs.double().float().transpose(-1, -1)), plain, atol=1e-5, rtol=1e-5)
    unpack_weights(layer)
    assert not _packed(layer)


def test_weights_that_change_are_packed_anew():
    layer, inputs = nn.Linear(8, 8), torch.randn(3, 8)
    pack_weights(layer)
    with torch.inference_mode():
        layer(inputs)
    with torch.no_grad():
        layer.weight.mul_(2)
    with torch.inference_mode():
        torch.testing.assert_close(layer(inputs), nn.functional.linear(inputs, layer.weight, layer.bias))
    layer.load_state_dict(nn.Linear(8, 8).state_dict())
    layer.weight = nn.Parameter(torch.randn(8, 8))
    with torch.inference_mode():
        torch.testing.assert_close(layer(inputs), nn.functional.linear(inputs, layer.weight, layer.bias))


def test_gradients_other_types_and_autocast_take_the_plain_way():
    layer, inputs = nn.Linear(8, 8), torch.randn(3, 8)
    plain = layer(inputs)
    pack_weights(layer)
    output = layer(inputs)
    assert torch.equal(output, plain)
    output.sum().backward()
    assert layer.weight.grad is not None
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert layer(inputs).dtype == torch.bfloat16
    with torch.no_grad():
        assert layer.to(torch.float64)(inputs.double()).dtype == torch.float64


def test_a_copy_packs_its_own_weights():
    layer, inputs = nn.Linear(8, 8), torch.randn(3, 8)
    pack_weights(layer)
    with torch.no_grad():
        before = layer(inputs)
        other = copy.deepcopy(layer)
        other.weight.zero_()
        torch.testing.assert_close(other(inputs), other.bias.expand(3, 8))
        assert torch.equal(layer(inputs), before)


@pytest.mark.parametrize("conditioning", ["prefix", "memory"])
def test_a_pipeline_gives_the_same_with_packed_weights(make_pipe, conditioning):
    pipe = make_pipe(tiny_model(decoder_conditioning=conditioning))
    noise = torch.randn(4, *pipe.encode(SENTENCES[:1]).latents.shape[1:], generator=torch.Generator().manual_seed(0))
    calls = (
        lambda: pipe.encode(SENTENCES).embeddings,
        lambda: pipe(latents=noise, num_inference_steps=3, output_type="latent").latents,
        lambda: pipe.encode(SENTENCES[:2], refinement_steps=2).embeddings,
    )
    plain, sentences = [call() for call in calls], pipe.reconstruct(SENTENCES)
    pipe.enable_packed_weights()
    assert any(map(_packed, pipe.model.modules()))
    for call, expected in zip(calls, plain, strict=True):
        torch.testing.assert_close(call(), expected, atol=1e-4, rtol=1e-4)
    assert pipe.reconstruct(SENTENCES) == sentences
    pipe.disable_packed_weights()
    assert not any(map(_packed, pipe.model.modules()))
    assert torch.equal(calls[0](), plain[0])


def test_saving_does_not_see_them(make_pipe, tmp_path):
    pipe = make_pipe()
    pipe.save_pretrained(tmp_path / "plain")
    pipe.enable_packed_weights()
    pipe.encode(SENTENCES[:1])
    pipe.save_pretrained(tmp_path / "packed")
    name = "model/model.safetensors"
    assert (tmp_path / "plain" / name).read_bytes() == (tmp_path / "packed" / name).read_bytes()
