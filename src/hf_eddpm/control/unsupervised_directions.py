"""Directions in the latents that no label names: where the data vary, and what the decoder is sensitive to."""

from typing import TYPE_CHECKING, Any, Literal

import torch

from ..argument_checks import check_count

if TYPE_CHECKING:
    from ..pipeline_eddpm import EDDPMPipeline


def find_directions(
    pipe: "EDDPMPipeline",
    data: Any,
    num_directions: int = 8,
    method: Literal["pca", "jacobian"] = "pca",
    batch_size: int = 64,
) -> torch.Tensor:
    """Find directions: see `EDDPMPipeline.directions`."""
    if method not in ("pca", "jacobian"):
        raise ValueError(f"`method` must be 'pca' or 'jacobian', got {method!r}.")
    items = pipe.processor.as_list(data)
    check_count(num_directions, "num_directions")
    size = pipe.model.config.latent_size
    if num_directions > size:
        raise ValueError(f"`num_directions` must be at most {size}, the size of the latents, got {num_directions}.")
    if len(items) < 2:
        raise ValueError("`data` must hold at least two data.")
    latents = pipe.encode(items, batch_size).latents
    embeddings = latents.flatten(1).double().cpu()  # (data, latent_size)
    centred = embeddings - embeddings.mean(0)
    covariance = centred.T @ centred / (len(items) - 1)
    matrix = covariance if method == "pca" else _fisher_information(pipe, items, batch_size)
    vectors = torch.linalg.eigh(matrix).eigenvectors.flip(1).T[:num_directions]  # largest eigenvalue first
    # An eigenvector's sign is arbitrary: its largest entry is made positive.
    largest = vectors.gather(1, vectors.abs().argmax(1, keepdim=True))
    vectors = vectors * largest.sign()
    deviations = ((vectors @ covariance) * vectors).sum(1).clamp(min=0).sqrt()
    directions = vectors * deviations[:, None]
    return directions.float().view(num_directions, *latents.shape[1:]).to(latents.device)


def _fisher_information(pipe: "EDDPMPipeline", items: list[Any], batch_size: int) -> torch.Tensor:
    """Return the mean outer product of the gradients of each datum's log-likelihood by its latents.

    At the data it stands for J^T J of the decoder's Jacobian J, in the metric of its likelihood (the empirical Fisher
    information; Arvanitidis et al. 2022, arXiv 2106.05367, for the pull-back by that metric).
    """
    model = pipe.model
    total = torch.zeros(model.config.latent_size, model.config.latent_size, dtype=torch.float64)
    for batch in pipe._batches(items, batch_size):
        inputs = {name: batch[name] for name in model.encoder.input_names if name in batch}
        targets: dict[str, Any] = {name: batch[name] for name in model.decoder.target_names}
        with torch.enable_grad():
            latents = model.encode(**inputs).mean.detach().requires_grad_()
            nats, _ = model.decoder(latents, **targets)
            slopes = torch.autograd.grad(nats.sum(), latents)[0].flatten(1).double().cpu()
        total += slopes.T @ slopes
    return total / len(items)
