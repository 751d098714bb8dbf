import pytest
import torch
from conftest import tiny_model

from hf_eddpm import ClassifierGuidance, LatentGuide


@pytest.fixture
def guide(model):
    torch.manual_seed(1)
    guide = LatentGuide.for_model(model, 3, hidden_size=16, class_names=["a", "b", "c"])
    guide.register_to_config(num_train_steps=5)
    return guide.eval()


def test_a_batch_gives_what_its_rows_give_alone(guide):
    noisy_latents, timesteps = torch.randn(4, 2, 8), torch.tensor([0, 5, 500, 999])
    together = guide(noisy_latents, timesteps)
    assert together.shape == (4, 3) and together.dtype == torch.float32
    for row in range(4):
        torch.testing.assert_close(guide(noisy_latents[row : row + 1], timesteps[row])[0], together[row])


def test_it_knows_how_noisy_the_latents_are(guide):
    noisy_latents = torch.randn(1, 2, 8).expand(2, -1, -1)
    first, second = guide(noisy_latents, torch.tensor([0, 900]))
    assert not torch.allclose(first, second)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_saved_guide_gives_the_same_and_still_fits_its_model(guide, model, tmp_path, dtype):
    guide.to(dtype).save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    loaded = LatentGuide.from_pretrained(tmp_path).eval()
    loaded.check_model(model)
    assert list(loaded.config.class_names) == ["a", "b", "c"]
    noisy_latents = torch.randn(2, 2, 8)
    tolerance = 1e-6 if dtype == torch.float32 else 2e-3
    torch.testing.assert_close(loaded(noisy_latents, 7), guide.float()(noisy_latents, 7), atol=tolerance, rtol=0)


def test_an_untrained_guide_is_refused(model, make_pipe):
    guide = LatentGuide.for_model(model, 2)
    with pytest.raises(ValueError, match="`classifier` is an untrained LatentGuide"):
        make_pipe(model)(guidance=ClassifierGuidance(guide, 1))


@pytest.mark.parametrize("values", [{"latent_dim": 6}, {"num_latents": 1}, {"beta_end": 0.01}])
def test_a_guide_of_other_latents_is_refused(guide, values):
    with pytest.raises(ValueError, match="`classifier` is for latents of the shape"):
        guide.check_model(tiny_model(**values))


def test_a_guide_of_another_encoder_of_the_same_shape_is_refused(guide):
    with pytest.raises(ValueError, match="latents of another encoder"):
        guide.check_model(tiny_model(seed=1))


def test_one_class_is_no_classification(model):
    with pytest.raises(ValueError, match="`num_classes` must be an integer of at least 2"):
        LatentGuide.for_model(model, 1)


def test_every_parameter_gets_a_gradient(guide):
    guide(torch.randn(3, 2, 8), torch.tensor([1, 2, 3])).square().sum().backward()
    assert [name for name, parameter in guide.named_parameters() if parameter.grad is None] == []
