import pytest
import torch
from conftest import SENTENCES
from proteins import PROTEINS, tiny_protein_pipe

from hf_eddpm.control.directions import independent_directions


def test_pca_finds_the_principal_axes_with_their_deviations(pipe):
    latents = pipe.encode(SENTENCES).latents.flatten(1)
    directions = pipe.directions(SENTENCES, 5)
    assert directions.shape == (5, 2, 8) and directions.dtype == torch.float32
    flat = directions.flatten(1)
    _, singular, vectors = torch.linalg.svd(latents - latents.mean(0), full_matrices=False)
    deviations = singular / (len(latents) - 1) ** 0.5
    torch.testing.assert_close(flat.norm(dim=1), deviations[:5], atol=1e-4, rtol=1e-4)
    cosines = torch.nn.functional.cosine_similarity(flat, vectors[:5])
    torch.testing.assert_close(cosines.abs(), torch.ones(5), atol=1e-4, rtol=0)


@pytest.mark.parametrize("method", ["pca", "jacobian"])
def test_directions_are_orthogonal_and_do_not_depend_on_batches(pipe, method):
    directions = pipe.directions(SENTENCES, 4, method).flatten(1)
    products = directions @ directions.T
    off_diagonal = products - products.diag().diag()
    assert off_diagonal.abs().max() < 1e-3 * products.diag().max()
    torch.testing.assert_close(
        pipe.directions(SENTENCES, 4, method, batch_size=3).flatten(1), directions, atol=1e-4, rtol=1e-3
    )


def test_the_jacobian_finds_the_only_latent_that_the_decoder_reads():
    pipe = tiny_protein_pipe()
    with torch.no_grad():
        pipe.model.decoder.projection.weight[:, [0, 1, 2, 4, 5]] = 0
    (direction,) = pipe.directions(PROTEINS, 1, "jacobian")
    along = torch.nn.functional.one_hot(torch.tensor([3]), 6).float()
    torch.testing.assert_close(direction / direction.norm(), along, atol=1e-5, rtol=0)
    assert abs(direction.norm() - pipe.encode(PROTEINS).latents[:, 0, 3].std()) < 1e-5


def test_ica_finds_the_directions_of_independent_sources():
    generator = torch.Generator().manual_seed(0)
    sources = (torch.rand(4000, 6, generator=generator) - 0.5) * 12**0.5 * torch.tensor([3.0, 2.5, 2.0, 1.5, 1.0, 0.5])
    mixing = torch.randn(6, 6, generator=generator)
    mixing = mixing / mixing.norm(dim=1, keepdim=True)
    directions = independent_directions((sources @ mixing).view(-1, 2, 3), 4).flatten(1)
    expected = mixing[:4] * torch.tensor([3.0, 2.5, 2.0, 1.5])[:, None]  # a standard deviation of its source
    torch.testing.assert_close(directions.norm(dim=1), expected.norm(dim=1), atol=0.05, rtol=0.05)
    cosines = torch.nn.functional.cosine_similarity(directions, expected)
    torch.testing.assert_close(cosines.abs(), torch.ones(4), atol=0.02, rtol=0)


def test_independent_directions_of_a_pipeline_have_the_latents_shape(pipe):
    directions = pipe.directions(SENTENCES, 3, "ica")
    assert directions.shape == (3, 2, 8) and directions.dtype == torch.float32
    norms = directions.flatten(1).norm(dim=1)
    assert norms.tolist() == sorted(norms.tolist(), reverse=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"method": "tsne"}, "`method` must be"),
        ({"method": "ica", "num_directions": 9}, r"`num_directions` must be at most \d of \d data"),
        ({"num_directions": 0}, "`num_directions`"),
        ({"num_directions": 17}, "`num_directions` must be at most 16"),
        ({"data": SENTENCES[:1]}, "`data` must hold at least two"),
    ],
)
def test_impossible_requests_are_refused_by_name(pipe, arguments, message):
    with pytest.raises(ValueError, match=message):
        pipe.directions(**{"data": SENTENCES, **arguments})
