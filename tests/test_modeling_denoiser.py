import pytest
import torch
from conftest import tiny_config

from hf_eddpm.modeling_denoiser import make_denoiser


def _denoiser(**values):
    torch.manual_seed(0)
    return make_denoiser(tiny_config(**values)).eval()


@pytest.fixture
def noisy_latents(generator):
    return torch.randn(3, 2, 8, generator=generator)


@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("num_latents", [1, 2])
def test_the_prediction_has_the_latents_shape(num_layers, num_latents, generator):
    denoiser = _denoiser(denoiser_num_layers=num_layers, num_latents=num_latents)
    noisy_latents = torch.randn(5, num_latents, 8, generator=generator)
    assert denoiser(noisy_latents, torch.arange(5)).shape == noisy_latents.shape
    assert len(denoiser.layers) == num_layers


@pytest.mark.parametrize("timestep", [7, torch.tensor(7), torch.tensor([7])])
def test_one_timestep_is_that_of_every_row(noisy_latents, timestep):
    denoiser = _denoiser()
    assert torch.equal(denoiser(noisy_latents, timestep), denoiser(noisy_latents, torch.tensor([7, 7, 7])))


def test_a_batch_gives_what_its_rows_give_alone(noisy_latents):
    denoiser = _denoiser()
    timesteps = torch.tensor([0, 500, 999])
    together = denoiser(noisy_latents, timesteps)
    for row in range(3):
        alone = denoiser(noisy_latents[row : row + 1], timesteps[row : row + 1])
        torch.testing.assert_close(alone[0], together[row])


def test_neighbouring_timesteps_are_told_apart(noisy_latents):
    denoiser = _denoiser(denoiser_hidden_size=64)
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


def test_every_latent_sees_every_other(noisy_latents):
    denoiser = _denoiser()
    noisy_latents.requires_grad_()
    denoiser(noisy_latents, 5)[:, 0].sum().backward()
    assert (noisy_latents.grad.abs() > 0).all()


def test_bfloat16_weights_work_on_bfloat16_latents(noisy_latents):
    denoiser = _denoiser()
    exact = denoiser(noisy_latents, 5)
    rounded = denoiser.to(torch.bfloat16)(noisy_latents.to(torch.bfloat16), 5)
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, atol=0.03, rtol=0.03)


def test_every_parameter_gets_a_gradient(noisy_latents):
    denoiser = _denoiser()
    denoiser(noisy_latents, torch.tensor([1, 2, 3])).square().sum().backward()
    assert [name for name, parameter in denoiser.named_parameters() if parameter.grad is None] == []


# Classes


def test_without_classes_there_is_no_embedding_of_them_and_labels_are_refused(noisy_latents):
    denoiser = _denoiser()
    assert not [name for name in denoiser.state_dict() if "class" in name]
    with pytest.raises(ValueError, match="`class_labels` needs a model with `num_classes` > 0"):
        denoiser(noisy_latents, 5, torch.tensor([0, 0, 0]))


def test_each_class_is_told_from_the_others_and_from_an_unknown_one(noisy_latents):
    denoiser = _denoiser(num_classes=3)
    latents = noisy_latents[:1].expand(4, -1, -1)
    outputs = denoiser(latents, 5, torch.tensor([0, 1, 2, -1]))
    assert torch.pdist(outputs.flatten(1)).min() > 1e-3
    torch.testing.assert_close(denoiser(latents[:1], 5), outputs[3:])


def test_rows_of_different_classes_give_what_they_give_alone(noisy_latents):
    denoiser = _denoiser(num_classes=2)
    labels = torch.tensor([1, -1, 0])
    together = denoiser(noisy_latents, 7, labels)
    for row in range(3):
        alone = denoiser(noisy_latents[row : row + 1], 7, labels[row : row + 1])
        torch.testing.assert_close(alone[0], together[row])
