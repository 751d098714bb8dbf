"""`EDDPMModel.forward` as callers from transformers expect it: inputs by position, hidden states, tuples."""

import pytest
import torch
from conftest import SENTENCES, tiny_model
from images import CONV_ENCODER, VIT_ENCODER, make_image_pipe, random_images, tiny_image_model
from proteins import CAUSAL_DECODER, PROTEINS, tiny_protein_pipe

from hf_eddpm import EDDPMConfig, EDDPMModel


def _text(make_pipe, **values):
    pipe = make_pipe(tiny_model(**values))
    return pipe.model, dict(pipe.processor(SENTENCES[:3]))


def _protein(make_pipe, **values):
    pipe = tiny_protein_pipe(**values)
    return pipe.model, dict(pipe.processor(PROTEINS))


def _image(make_pipe, **values):
    pipe = make_image_pipe(tiny_image_model(**values))
    return pipe.model, dict(pipe.processor(random_images(3)))


MODELS = {"text": _text, "protein": _protein, "image": _image}


@pytest.mark.parametrize("modality", MODELS)
def test_the_encoders_inputs_may_come_by_position(modality, make_pipe):
    model, batch = MODELS[modality](make_pipe)
    names = list(model.encoder.input_names)
    assert model.main_input_name == names[0] == {"image": "pixel_values"}.get(modality, "input_ids")
    rest = {name: value for name, value in batch.items() if name not in names}
    by_name = model(**batch)
    for count in range(1, len(names) + 1):
        named = {name: batch[name] for name in names[count:]}
        by_position = model(*(batch[name] for name in names[:count]), **named, **rest)
        assert torch.equal(by_position.loss, by_name.loss)
        assert torch.equal(by_position.latents, by_name.latents)
    with pytest.raises(TypeError, match="may be given by position"):
        model(*(batch[name] for name in names), torch.zeros(3))
    with pytest.raises(TypeError, match=f"`{names[0]}` must be given once"):
        model(batch[names[0]], **batch)


# Which parts have what: the values of the config, and the parts that are refused.
STATES = {
    "text": (_text, {}, {"encoder": 3, "decoder": 3}),
    "text by memory": (_text, {"decoder_conditioning": "memory"}, {"encoder": 3, "decoder": 3}),
    "text, gpt2": (_text, {"decoder": "gpt2"}, {"encoder": 3, "decoder": 3}),
    "protein, causal": (_protein, {"decoder": CAUSAL_DECODER}, {"encoder": 2, "decoder": 2}),
    "protein": (_protein, {}, {"encoder": 2}),
    "image": (_image, {"encoder": CONV_ENCODER}, {}),
    "image, vit": (_image, {"encoder": VIT_ENCODER}, {"encoder": 2}),
}


@pytest.mark.parametrize("by", ["argument", "config"])
@pytest.mark.parametrize("name", STATES)
def test_hidden_states_and_attentions_are_given_or_refused_by_the_name_of_the_part(name, by, make_pipe):
    make, values, counts = STATES[name]
    model, batch = make(make_pipe, **values)
    model.set_attn_implementation("eager")
    plain = model(**batch)
    assert not [field for field in plain if field.endswith(("hidden_states", "attentions"))]
    asked = {"output_hidden_states": True, "output_attentions": True}
    if by == "config":
        model.config.output_hidden_states = model.config.output_attentions = True
    given = asked if by == "argument" else {}

    encoder_only = "encoder" in counts
    if encoder_only:
        output = model(**batch, **given, return_loss=False)
        assert {len(output.encoder_hidden_states), len(output.encoder_attentions) + 1} == {counts["encoder"]}
        assert output.decoder_hidden_states is None
    if len(counts) < 2:
        part = "decoder" if encoder_only else "encoder"
        with pytest.raises(ValueError, match=f"`output_hidden_states` must be False here: the {part}, "):
            model(**batch, **given)
        assert torch.equal(model(**batch, output_hidden_states=False, output_attentions=False).loss, plain.loss)
        return
    output = model(**batch, **given)
    torch.testing.assert_close(output.loss, plain.loss)
    for part, count in counts.items():
        states, attentions = output[f"{part}_hidden_states"], output[f"{part}_attentions"]
        assert len(states) == count and len(attentions) == count - 1
        assert all(state.shape[0] == len(batch["input_ids"]) and state.ndim == 3 for state in states)
        assert all(torch.isfinite(weights).all() for weights in attentions)
    assert output.encoder_hidden_states[-1].shape[1] == batch["input_ids"].shape[1]
    values = model(**batch, **given, return_dict=False)
    assert len(values) == len(plain.to_tuple()) + 4


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_attentions_that_are_never_computed_are_refused_with_the_remedy(part, make_pipe):
    model, batch = _text(make_pipe)
    model.set_attn_implementation("eager")
    getattr(model, part).backbone.set_attn_implementation("sdpa")
    with pytest.raises(ValueError, match=f"the {part}'s is 'sdpa': `model.set_attn_implementation"):
        model(**batch, output_attentions=True)
    assert model(**batch, output_hidden_states=True).encoder_hidden_states is not None


def test_a_tuple_holds_the_same_as_the_output(make_pipe):
    model, batch = _text(make_pipe)
    output = model(**batch)
    values = model(**batch, return_dict=False)
    assert isinstance(values, tuple) and len(values) == len(output.to_tuple())
    assert all(torch.equal(one, other) for one, other in zip(values, output.to_tuple(), strict=True))
    model.config.return_dict = False
    assert isinstance(model(**batch), tuple)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", torch.float32])
def test_a_type_given_by_name_survives_saving_and_loading(dtype, tmp_path):
    wanted = getattr(torch, str(dtype).rpartition(".")[2])
    config = EDDPMConfig(dtype=dtype)
    assert config.dtype == wanted
    config.save_pretrained(tmp_path)
    assert EDDPMConfig.from_pretrained(tmp_path).dtype == wanted
    model = tiny_model()
    model.save_pretrained(tmp_path / "model")
    loaded = EDDPMModel.from_pretrained(tmp_path / "model", dtype=dtype)
    assert loaded.dtype == wanted and loaded.config.dtype == wanted
    loaded.save_pretrained(tmp_path / "again")
    assert EDDPMModel.from_pretrained(tmp_path / "again").dtype == wanted
    with pytest.raises(ValueError, match="`dtype` must be a type of torch or its name"):
        EDDPMConfig(dtype="float99")
