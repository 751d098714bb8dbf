import pytest
import torch
from conftest import tiny_config

from hf_eddpm import EDDPMConfig
from hf_eddpm.modeling_denoiser import MLPDenoiser, ResidualDenoiser, TransformerDenoiser, make_denoiser

TYPES = {"mlp": MLPDenoiser, "residual": ResidualDenoiser, "transformer": TransformerDenoiser}
every_type = pytest.mark.parametrize("denoiser_type", TYPES)


def _denoiser(**values):
    torch.manual_seed(0)
    return make_denoiser(tiny_config(**values)).eval()


@pytest.fixture
def noisy_latents(generator):
    return torch.randn(3, 2, 8, generator=generator)


@every_type
@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("num_latents", [1, 2])
def test_the_prediction_has_the_latents_shape(denoiser_type, num_layers, num_latents, generator):
    denoiser = _denoiser(denoiser_type=denoiser_type, denoiser_num_layers=num_layers, num_latents=num_latents)
    assert type(denoiser) is TYPES[denoiser_type]
    noisy_latents = torch.randn(5, num_latents, 8, generator=generator)
    assert denoiser(noisy_latents, torch.arange(5)).shape == noisy_latents.shape
    assert len(denoiser.layers) == num_layers


@every_type
@pytest.mark.parametrize("timestep", [7, torch.tensor(7), torch.tensor([7])])
def test_one_timestep_is_that_of_every_row(noisy_latents, timestep, denoiser_type):
    denoiser = _denoiser(denoiser_type=denoiser_type)
    torch.testing.assert_close(denoiser(noisy_latents, timestep), denoiser(noisy_latents, torch.tensor([7, 7, 7])))


@every_type
def test_a_batch_gives_what_its_rows_give_alone(noisy_latents, denoiser_type):
    denoiser = _denoiser(denoiser_type=denoiser_type)
    timesteps = torch.tensor([0, 500, 999])
    together = denoiser(noisy_latents, timesteps)
    for row in range(3):
        alone = denoiser(noisy_latents[row : row + 1], timesteps[row : row + 1])
        torch.testing.assert_close(alone[0], together[row])


@every_type
def test_neighbouring_timesteps_are_told_apart(noisy_latents, denoiser_type):
    denoiser = _denoiser(denoiser_type=denoiser_type, denoiser_hidden_size=64)
    features = denoiser.timestep_features(torch.arange(1000))
    nearest = torch.cdist(features, features).fill_diagonal_(torch.inf).min()
    assert nearest > 0.5  # integers; with t / T the nearest would be 1000 times nearer
    assert not torch.allclose(denoiser(noisy_latents, 500), denoiser(noisy_latents, 501), atol=1e-5)


def test_every_layer_after_the_first_sees_the_noisy_latents_again(noisy_latents):
    denoiser = _denoiser(denoiser_num_layers=3)
    seen = []
    for linear in [*(layer.linear for layer in denoiser.layers), denoiser.output]:
        linear.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    denoiser(noisy_latents, 5)
    flat = noisy_latents.flatten(1)
    assert torch.equal(seen[0], flat)
    assert len(seen) == 4
    for hidden_states in seen[1:]:
        assert hidden_states.shape == (3, 32 + 16)
        assert torch.equal(hidden_states[:, 32:], flat)


@every_type
def test_every_latent_sees_every_other(noisy_latents, denoiser_type):
    denoiser = _denoiser(denoiser_type=denoiser_type)
    noisy_latents.requires_grad_()
    denoiser(noisy_latents, 5)[:, 0].sum().backward()
    assert (noisy_latents.grad.abs() > 0).all()


@every_type
def test_bfloat16_weights_work_on_bfloat16_latents(noisy_latents, denoiser_type):
    denoiser = _denoiser(denoiser_type=denoiser_type)
    exact = denoiser(noisy_latents, 5)
    rounded = denoiser.to(torch.bfloat16)(noisy_latents.to(torch.bfloat16), 5)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, atol=0.03, rtol=0.03)


@every_type
def test_every_parameter_gets_a_gradient(noisy_latents, denoiser_type):
    denoiser = _denoiser(denoiser_type=denoiser_type)
    denoiser(noisy_latents, torch.tensor([1, 2, 3])).square().sum().backward()
    assert [name for name, parameter in denoiser.named_parameters() if parameter.grad is None] == []


# The transformer


def _transformer(**values):
    return _denoiser(denoiser_type="transformer", **values)


def _attend(query, key, value, heads):
    """Attention of each head, written out; all `(batch, tokens, width)`."""
    query, key, value = (each.unflatten(-1, (heads, -1)).transpose(1, 2) for each in (query, key, value))
    weights = (query @ key.transpose(-1, -2) / query.shape[-1] ** 0.5).softmax(-1)
    return (weights @ value).transpose(1, 2).flatten(2)


def test_the_transformer_is_its_formula(noisy_latents):
    """Pre-norm attention and MLP, each scaled, shifted and gated by the timestep's six vectors and an offset."""
    denoiser = _transformer(denoiser_num_layers=3, denoiser_num_attention_heads=2)
    timesteps = torch.tensor([0, 500, 999])
    embedding = denoiser.timestep_embedding(denoiser.timestep_features(timesteps))
    silu, norm = torch.nn.functional.silu, lambda x: torch.nn.functional.layer_norm(x, (32,))
    six = denoiser.modulation[1](silu(embedding)).unflatten(1, (6, 32))  # (batch, 6, width)
    x = denoiser.input(noisy_latents) + denoiser.positions(torch.arange(2))
    for layer in denoiser.layers:
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = (six + layer.scale_shift_table).unsqueeze(2).unbind(1)
        y, attention = norm(x) * (1 + scale) + shift, layer.attn1
        y = _attend(attention.to_q(y), attention.to_k(y), attention.to_v(y), heads=2)
        x = x + gate * attention.to_out[0](y)
        y = layer.ff.net[0].proj(norm(x) * (1 + scale_mlp) + shift_mlp)
        x = x + gate_mlp * layer.ff.net[2](torch.nn.functional.gelu(y, approximate="tanh"))
    shift, scale = denoiser.output_modulation[1](silu(embedding)).unflatten(1, (2, 32)).unsqueeze(2).unbind(1)
    expected = denoiser.output(norm(x) * (1 + scale) + shift)
    torch.testing.assert_close(denoiser(noisy_latents, timesteps), expected, atol=1e-5, rtol=1e-4)


def test_latents_are_told_apart_by_their_positions_alone(noisy_latents):
    denoiser = _transformer()
    swapped = denoiser(noisy_latents.flip(1), 5)
    assert not torch.allclose(swapped.flip(1), denoiser(noisy_latents, 5), atol=1e-3)
    with torch.no_grad():
        denoiser.positions.weight.copy_(denoiser.positions.weight.flip(0))
    torch.testing.assert_close(swapped.flip(1), denoiser(noisy_latents, 5))


def test_the_transformer_takes_one_latent_of_any_width(generator):
    noisy_latents = torch.randn(3, 1, 5, generator=generator)
    assert _transformer(num_latents=1, latent_dim=5)(noisy_latents, 5).shape == noisy_latents.shape


def test_the_transformer_learns_what_two_latents_share(generator):
    """The second latent is the first one turned round: at high noise each is told best from both."""
    denoiser = _transformer(denoiser_hidden_size=32).train()
    optimizer = torch.optim.Adam(denoiser.parameters(), lr=3e-3)
    losses = []
    for _ in range(300):
        first = torch.randn(128, 1, 8, generator=generator)
        clean = torch.cat([first, -first], dim=1)
        noisy = clean + torch.randn(clean.shape, generator=generator)
        loss = (denoiser(noisy, 500) - clean).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    # The posterior variance is 1/2 from one noisy view and 1/3 from two
    assert sum(losses[-20:]) / 20 == pytest.approx(1 / 3, abs=0.03)


# Classes


@every_type
def test_without_classes_there_is_no_embedding_of_them_and_labels_are_refused(noisy_latents, denoiser_type):
    denoiser = _denoiser(denoiser_type=denoiser_type)
    assert not [name for name in denoiser.state_dict() if "class" in name]
    with pytest.raises(ValueError, match="`class_labels` needs a model with `num_classes` > 0"):
        denoiser(noisy_latents, 5, torch.tensor([0, 0, 0]))


@every_type
def test_each_class_is_told_from_the_others_and_from_an_unknown_one(noisy_latents, denoiser_type):
    denoiser = _denoiser(denoiser_type=denoiser_type, num_classes=3)
    latents = noisy_latents[:1].expand(4, -1, -1)
    outputs = denoiser(latents, 5, torch.tensor([0, 1, 2, -1]))
    assert torch.pdist(outputs.flatten(1)).min() > 1e-3
    torch.testing.assert_close(denoiser(latents[:1], 5), outputs[3:])


@every_type
def test_rows_of_different_classes_give_what_they_give_alone(noisy_latents, denoiser_type):
    denoiser = _denoiser(denoiser_type=denoiser_type, num_classes=2)
    labels = torch.tensor([1, -1, 0])
    together = denoiser(noisy_latents, 7, labels)
    for row in range(3):
        alone = denoiser(noisy_latents[row : row + 1], 7, labels[row : row + 1])
        torch.testing.assert_close(alone[0], together[row])


@every_type
def test_the_embedding_of_the_timestep_may_be_narrower_than_the_layers(noisy_latents, denoiser_type):
    wide, narrow = (
        _denoiser(denoiser_type=denoiser_type, denoiser_hidden_size=64, denoiser_embedding_size=size, num_classes=2)
        for size in (None, 16)
    )
    assert narrow.timestep_embedding.linear_2.out_features == narrow.class_embedding.embedding_dim == 16
    assert sum(p.numel() for p in narrow.parameters()) < sum(p.numel() for p in wide.parameters())
    labels = torch.tensor([0, 1, -1])
    alone = [narrow(noisy_latents[row : row + 1], 7, labels[row : row + 1]) for row in range(3)]
    torch.testing.assert_close(narrow(noisy_latents, 7, labels), torch.cat(alone))
    assert not torch.allclose(narrow(noisy_latents, 7), narrow(noisy_latents, 500))


@every_type
def test_a_single_timestep_is_embedded_and_projected_once(noisy_latents, denoiser_type):
    denoiser = _denoiser(denoiser_type=denoiser_type)
    rows = []
    projections = {
        "mlp": lambda: denoiser.layers[0].timestep_projection,
        "residual": lambda: denoiser.layers[0].modulation,
        "transformer": lambda: denoiser.modulation[1],
    }
    projection = projections[denoiser_type]()
    for module in (denoiser.timestep_embedding, projection):
        module.register_forward_hook(lambda module, inputs, output: rows.append(len(output)))
    denoiser(noisy_latents, 7)
    assert rows == [1, 1]


@pytest.mark.parametrize("size", [0, -2, 3, 2.0, True, "16"])
def test_an_embedding_that_cannot_be_is_refused(size):
    with pytest.raises(ValueError, match="`denoiser_embedding_size` must be an even positive integer"):
        tiny_config(denoiser_embedding_size=size)


@pytest.mark.parametrize(("preset", "millions"), [("text-paper", 85.9), ("protein-paper", 78.1)])
def test_the_papers_denoisers_have_the_papers_parameters(preset, millions):
    with torch.device("meta"):
        denoiser = make_denoiser(EDDPMConfig.from_preset(preset))
    assert sum(p.numel() for p in denoiser.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
