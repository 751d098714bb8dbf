"""LatentDenoiser: the network between encoder and decoder, an MLP with skip connections over the latents."""

import torch
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import nn

from .configuration_eddpm import EDDPMConfig


class DenoiserLayer(nn.Module):
    """Linear, scale by the timestep embedding, LayerNorm, SiLU (Preechakul et al. 2022, arXiv 2111.15640, app. A).

    Args:
        input_size: Width of the input.
        hidden_size: Width of the output and of the timestep embedding.
    """

    def __init__(self, input_size: int, hidden_size: int):
        super().__init__()
        self.linear = nn.Linear(input_size, hidden_size)
        self.timestep_projection = nn.Linear(hidden_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size)
        self.activation = nn.SiLU()

    def forward(self, hidden_states: torch.Tensor, timestep_embedding: torch.Tensor) -> torch.Tensor:
        """Map `(batch, input_size)` and `(batch, hidden_size)` to `(batch, hidden_size)`."""
        scale = 1 + self.timestep_projection(timestep_embedding)
        return self.activation(self.norm(self.linear(hidden_states) * scale))


class LatentDenoiser(nn.Module):
    """Predicts the noise (or clean latents, or v: `config.prediction_type`) in noisy latents.

    Each layer after the first sees the noisy latents again, concatenated to the hidden state. With `num_classes` an
    embedding of the class is added to the timestep's; one more stands for an unknown class.

    Args:
        config: Supplies `latent_size`, `denoiser_num_layers`, `denoiser_hidden_size`, `num_classes`.
    """

    def __init__(self, config: EDDPMConfig):
        super().__init__()
        size, width = config.latent_size, config.denoiser_hidden_size
        self.timestep_features = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.timestep_embedding = TimestepEmbedding(width, width)
        self.num_classes = config.num_classes
        self.class_embedding = nn.Embedding(config.num_classes + 1, width) if config.num_classes else None
        self.layers = nn.ModuleList(
            DenoiserLayer(size if index == 0 else width + size, width) for index in range(config.denoiser_num_layers)
        )
        self.output = nn.Linear(width + size, size)

    def forward(
        self, noisy_latents: torch.Tensor, timesteps: torch.Tensor | int, class_labels: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Denoise.

        Args:
            noisy_latents: `(batch, num_latents, latent_dim)`.
            timesteps: Integers in [0, T), `(batch,)` or a single one.
            class_labels: int64 `(batch,)` in [0, num_classes), -1 where unknown; None if all are.

        Returns:
            The prediction, shaped as `noisy_latents`.

        Raises:
            ValueError: If there are labels, but no classes in the config.
        """
        flat = noisy_latents.flatten(1)  # (batch, latent_size)
        timesteps = torch.as_tensor(timesteps, device=flat.device).expand(len(flat))
        features = self.timestep_features(timesteps).to(flat.dtype)  # (batch, width)
        embedding = self.timestep_embedding(features)
        if self.class_embedding is not None:
            if class_labels is None:
                class_labels = torch.full((len(flat),), -1, device=flat.device)
            rows = torch.where(class_labels < 0, self.num_classes, class_labels)
            embedding = embedding + self.class_embedding(rows)
        elif class_labels is not None:
            raise ValueError("`class_labels` needs a model with `num_classes` > 0, got one without.")
        hidden_states = self.layers[0](flat, embedding)
        for layer in self.layers[1:]:
            hidden_states = layer(torch.cat([hidden_states, flat], dim=-1), embedding)
        return self.output(torch.cat([hidden_states, flat], dim=-1)).view_as(noisy_latents)
