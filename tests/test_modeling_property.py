import math

import pytest
import torch
from proteins import PROTEINS, tiny_protein_model, tiny_protein_pipe

from hf_eddpm import EDDPMConfig, EDDPMModel

NAN = float("nan")


def loss_of(model, batch, properties, seed=0):
    return model(**batch, properties=torch.tensor(properties), generator=torch.Generator().manual_seed(seed))


@pytest.fixture
def protein_batch():
    return dict(tiny_protein_pipe().processor(PROTEINS[:3]))


def test_the_property_loss_is_the_mean_square_in_standard_deviations(protein_batch):
    model = tiny_protein_model(num_properties=2)
    model.property_head.fit(torch.tensor([[0.0, 10.0], [4.0, 30.0], [NAN, 20.0]]))
    targets = torch.tensor([[1.0, 12.0], [NAN, 25.0], [3.0, NAN]])
    output = model(**protein_batch, properties=targets)
    std = torch.tensor([2.0, math.sqrt(200 / 3)])
    known = ~targets.isnan()
    expected = (((output.properties - targets) / std)[known] ** 2).mean()
    torch.testing.assert_close(output.property_loss, expected)
    assert model.property_head.minimum.tolist() == [0.0, 10.0]
    assert model.property_head.maximum.tolist() == [4.0, 30.0]


def test_the_property_loss_is_added_with_its_weight(protein_batch):
    for weight in (0.0, 2.5):
        model = tiny_protein_model(property_weight=weight)
        without = model(**protein_batch)
        output = model(**protein_batch, properties=torch.tensor([[1.0], [2.0], [5.0]]))
        torch.testing.assert_close(output.loss, without.loss + weight * output.property_loss)
        assert without.property_loss == 0


def test_known_targets_reach_the_encoder_and_missing_ones_do_not(protein_batch):
    model = tiny_protein_model(reconstruction_weight=0.0, diffusion_weight=0.0, latent_normalization="none").train()
    embeddings = model.get_input_embeddings().weight
    loss_of(model, protein_batch, [[NAN], [NAN], [NAN]]).loss.backward()
    assert not embeddings.grad.any()
    loss_of(model, protein_batch, [[NAN], [9.0], [NAN]]).loss.backward()
    used = set(embeddings.grad.abs().sum(1).nonzero().flatten().tolist())
    assert used and used <= set(protein_batch["input_ids"][1].tolist())


def test_predictions_are_in_the_datas_unit_whatever_it_is(protein_batch):
    model = tiny_protein_model()
    latents = torch.randn(4, 1, 6)
    model.property_head.fit(torch.tensor([[1.0], [3.0]]))
    first = model.property_head.predict(latents)
    model.property_head.fit(torch.tensor([[1000.0], [3000.0]]))
    torch.testing.assert_close(model.property_head.predict(latents), 1000 * first)


def test_prediction_uses_the_posterior_mean():
    pipe = tiny_protein_pipe()
    latents = pipe.encode(PROTEINS).latents
    with torch.no_grad():
        torch.testing.assert_close(pipe.predict(PROTEINS), pipe.model.property_head.predict(latents))
    torch.testing.assert_close(pipe.predict(PROTEINS[1]), pipe.predict(PROTEINS)[1:2])


def test_without_a_head_there_is_nothing_to_predict(protein_batch):
    pipe = tiny_protein_pipe(num_properties=0)
    output = pipe.model(**protein_batch)
    assert output.property_loss is None and output.properties is None
    with pytest.raises(ValueError, match="property head"):
        pipe.predict(PROTEINS)
    with pytest.raises(ValueError, match="`properties` needs a model with `num_properties` > 0"):
        pipe.model(**protein_batch, properties=torch.zeros(3, 1))


@pytest.mark.parametrize("shape", [(3,), (3, 2), (2, 1)])
def test_targets_of_the_wrong_shape_are_refused(protein_batch, shape):
    with pytest.raises(ValueError, match=r"`properties` must have the shape \(3, 1\)"):
        tiny_protein_model()(**protein_batch, properties=torch.zeros(shape))


@pytest.mark.parametrize("values", [[[1.0, 2.0]], [[1.0]], [[1.0], [1.0]], [[1.0], [float("inf")]], [[NAN], [1.0]]])
def test_targets_without_statistics_are_refused(values):
    with pytest.raises(ValueError, match="`properties` must"):
        tiny_protein_model().property_head.fit(torch.tensor(values))


def test_the_statistics_are_part_of_the_checkpoint(tmp_path):
    model = tiny_protein_model()
    model.property_head.fit(torch.tensor([[5.0], [9.0]]))
    model.save_pretrained(tmp_path)
    loaded = EDDPMModel.from_pretrained(tmp_path)
    for name, buffer in model.property_head.named_buffers():
        assert torch.equal(buffer, dict(loaded.property_head.named_buffers())[name]), name


def test_a_new_head_has_seen_no_target():
    head = EDDPMModel(EDDPMConfig.from_preset("protein-small", num_properties=2)).property_head
    assert head.target_mean.tolist() == [0, 0] and head.target_std.tolist() == [1, 1]
    assert head.minimum.tolist() == [math.inf] * 2 and head.maximum.tolist() == [-math.inf] * 2


@pytest.mark.parametrize("values", [{"num_properties": -1}, {"num_properties": True}, {"property_hidden_size": 0}])
def test_impossible_heads_are_refused_by_name(values):
    (name,) = values
    with pytest.raises(ValueError, match=f"`{name}`"):
        EDDPMConfig(**values)
