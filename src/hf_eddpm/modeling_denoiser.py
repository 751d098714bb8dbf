"""The network between encoder and decoder: MLPs over all latents as one vector, or a transformer over the latents."""

import torch
from diffusers.models.attention import BasicTransformerBlock
from diffusers.models.embeddings import TimestepEmbedding, Timesteps
from torch import nn

from .configuration_eddpm import EDDPMConfig


class DenoiserLayer(nn.Module):
    """Linear, scale by the timestep embedding, LayerNorm, SiLU (Preechakul et al. 2022, arXiv 2111.15640, app. A).

    Args:
        input_size: Width of the input.
        hidden_size: Width of the output.
        embedding_size: Width of the timestep embedding; None for `hidden_size`.
    """

    def __init__(self, input_size: int, hidden_size: int, embedding_size: int | None = None):
        super().__init__()
        self.linear = nn.Linear(input_size, hidden_size)
        self.timestep_projection = nn.Linear(embedding_size or hidden_size, hidden_size)
        self.norm = nn.LayerNorm(hidden_size)
        self.activation = nn.SiLU()

    def forward(self, hidden_states: torch.Tensor, timestep_embedding: torch.Tensor) -> torch.Tensor:
        """Map `(batch, input_size)` and `(batch or 1, embedding_size)` to `(batch, hidden_size)`."""
        scale = 1 + self.timestep_projection(timestep_embedding)
        return self.activation(self.norm(self.linear(hidden_states) * scale))


class LatentDenoiser(nn.Module):
    """Predicts the noise (or clean latents, or v: `config.prediction_type`) in noisy latents.

    What every denoiser shares: the embedding of the timestep, to which with `num_classes` an embedding of the class is
    added; one more class stands for an unknown one.

    Args:
        config: Supplies `denoiser_hidden_size`, `denoiser_embedding_size` and `num_classes`.

    Attributes:
        output: The last linear layer; its dtype is the denoiser's.
    """

    output: nn.Linear

    def __init__(self, config: EDDPMConfig):
        super().__init__()
        width = config.denoiser_embedding_size or config.denoiser_hidden_size
        self.timestep_features = Timesteps(width, flip_sin_to_cos=True, downscale_freq_shift=0)
        self.timestep_embedding = TimestepEmbedding(width, width)
        self.num_classes = config.num_classes
        self.class_embedding = nn.Embedding(config.num_classes + 1, width) if config.num_classes else None

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
        batch, device = len(noisy_latents), noisy_latents.device
        # A single timestep, as in sampling, is embedded and projected once for all rows.
        timesteps = torch.as_tensor(timesteps, device=device).reshape(-1)
        features = self.timestep_features(timesteps).to(noisy_latents.dtype)  # (batch or 1, width)
        embedding = self.timestep_embedding(features)
        if self.class_embedding is not None:
            if class_labels is None:
                class_labels = torch.full((batch,), -1, device=device)
            rows = torch.where(class_labels < 0, self.num_classes, class_labels)
            embedding = embedding + self.class_embedding(rows)
        elif class_labels is not None:
            raise ValueError("`class_labels` needs a model with `num_classes` > 0, got one without.")
        return self.predict(noisy_latents, embedding)

    def predict(self, noisy_latents: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Map noisy latents and the embedding `(batch or 1, width)` of timestep and class to the prediction."""
        raise NotImplementedError


class MLPDenoiser(LatentDenoiser):
    """The paper's: all latents as one vector. Each layer after the first sees them again beside the hidden state.

    Args:
        config: Supplies `latent_size`, `denoiser_num_layers`, `denoiser_hidden_size`, `denoiser_embedding_size`,
            `num_classes`.
    """

    def __init__(self, config: EDDPMConfig):
        super().__init__(config)
        size, width = config.latent_size, config.denoiser_hidden_size
        self.layers = nn.ModuleList(
            DenoiserLayer(size if index == 0 else width + size, width, config.denoiser_embedding_size)
            for index in range(config.denoiser_num_layers)
        )
        self.output = nn.Linear(width + size, size)

    def predict(self, noisy_latents: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Map noisy latents and the embedding `(batch or 1, width)` of timestep and class to the prediction."""
        flat = noisy_latents.flatten(1)  # (batch, latent_size)
        hidden_states = self.layers[0](flat, embedding)
        for layer in self.layers[1:]:
            hidden_states = layer(torch.cat([hidden_states, flat], dim=-1), embedding)
        return self.output(torch.cat([hidden_states, flat], dim=-1)).view_as(noisy_latents)


class ResidualBlock(nn.Module):
    """h + gate * MLP(norm(h) * (1 + scale) + shift), all three from the embedding of timestep and class.

    The block of MAR's denoising MLP (Li et al. 2024, arXiv 2406.11838, section 4.2), its inner layer twice as wide.

    Args:
        width: Width of the hidden state.
        embedding_size: Width of the embedding.
    """

    def __init__(self, width: int, embedding_size: int):
        super().__init__()
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Linear(embedding_size, 3 * width)
        self.layers = nn.Sequential(nn.Linear(width, 2 * width), nn.SiLU(), nn.Linear(2 * width, width))

    def forward(self, hidden_states: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Map `(batch, width)` and `(batch or 1, embedding_size)` to `(batch, width)`."""
        shift, scale, gate = self.modulation(embedding).chunk(3, dim=-1)
        return hidden_states + gate * self.layers(self.norm(hidden_states) * (1 + scale) + shift)


class ResidualDenoiser(LatentDenoiser):
    """All latents as one vector, through residual blocks that timestep and class scale, shift and gate.

    Args:
        config: Supplies `latent_size`, `denoiser_num_layers`, `denoiser_hidden_size`, `denoiser_embedding_size`,
            `num_classes`.
    """

    def __init__(self, config: EDDPMConfig):
        super().__init__(config)
        size, width = config.latent_size, config.denoiser_hidden_size
        embedding = config.denoiser_embedding_size or width
        self.activation = nn.SiLU()
        self.input = nn.Linear(size, width)
        self.layers = nn.ModuleList(ResidualBlock(width, embedding) for _ in range(config.denoiser_num_layers))
        self.norm = nn.LayerNorm(width, elementwise_affine=False, eps=1e-6)
        self.modulation = nn.Linear(embedding, 2 * width)
        self.output = nn.Linear(width, size)

    def predict(self, noisy_latents: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Map noisy latents and the embedding `(batch or 1, width)` of timestep and class to the prediction."""
        embedding = self.activation(embedding)
        hidden_states = self.input(noisy_latents.flatten(1))  # (batch, width)
        for layer in self.layers:
            hidden_states = layer(hidden_states, embedding)
        shift, scale = self.modulation(embedding).chunk(2, dim=-1)
        return self.output(self.norm(hidden_states) * (1 + scale) + shift).view_as(noisy_latents)


class TransformerDenoiser(LatentDenoiser):
    """Each latent is a token with a position; timestep and class scale, shift and gate every layer (adaptive norms).

    The layers are diffusers' of PixArt-alpha (Chen et al. 2023, arXiv 2310.00426, section 2.3): DiT's (Peebles & Xie
    2023, arXiv 2212.09748) with one projection of the timestep for all layers and a learned offset in each.

    Args:
        config: Supplies `num_latents`, `latent_dim`, `denoiser_num_layers`, `denoiser_hidden_size`,
            `denoiser_embedding_size`, `denoiser_num_attention_heads`, `num_classes`.
    """

    def __init__(self, config: EDDPMConfig):
        super().__init__(config)
        width, heads = config.denoiser_hidden_size, config.denoiser_num_attention_heads
        embedding = config.denoiser_embedding_size or width
        self.input = nn.Linear(config.latent_dim, width)
        self.positions = nn.Embedding(config.num_latents, width)
        self.modulation = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 6 * width))
        self.layers = nn.ModuleList(
            BasicTransformerBlock(
                width,
                heads,
                width // heads,
                attention_bias=True,
                activation_fn="gelu-approximate",
                norm_type="ada_norm_single",
                norm_elementwise_affine=False,
            )
            for _ in range(config.denoiser_num_layers)
        )
        self.output_modulation = nn.Sequential(nn.SiLU(), nn.Linear(embedding, 2 * width))
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.output = nn.Linear(width, config.latent_dim)

    def predict(self, noisy_latents: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
        """Map noisy latents and the embedding `(batch or 1, width)` of timestep and class to the prediction."""
        hidden_states = self.input(noisy_latents) + self.positions.weight  # (batch, num_latents, width)
        modulation = self.modulation(embedding).expand(len(noisy_latents), -1)  # (batch, 6 * width)
        for layer in self.layers:
            hidden_states = layer(hidden_states, timestep=modulation)
        shift, scale = self.output_modulation(embedding).unsqueeze(1).chunk(2, dim=-1)
        return self.output(self.norm(hidden_states) * (1 + scale) + shift)


_DENOISERS = {"mlp": MLPDenoiser, "residual": ResidualDenoiser, "transformer": TransformerDenoiser}


def make_denoiser(config: EDDPMConfig) -> LatentDenoiser:
    """Return a new denoiser of the config's `denoiser_type`."""
    return _DENOISERS[config.denoiser_type](config)
