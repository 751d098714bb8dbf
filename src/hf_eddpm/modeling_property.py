"""PropertyHead: predicts measured properties of a datum, for example a protein's fitness, from its latents."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from .configuration_eddpm import EDDPMConfig


class PropertyHead(nn.Module):
    """A regression from the latents, trained together with the rest of the model.

    It works in standardised units; the statistics of the training targets are buffers, so that a checkpoint predicts
    in the unit of its data.

    With `property_members` above 1 it is an ensemble of as many regressions, of which the prediction is the mean. How
    far they are apart then says how sure it is (Lakshminarayanan et al. 2017, arXiv 1612.01474): the variance of a
    measurement is taken for

        noise_variance + spread_factor * variance of the members,

    two numbers for each property that `property_ensemble.fit_ensemble` finds on data the members have not seen.

    Args:
        config: Supplies `latent_size`, `num_properties`, `property_hidden_size` and `property_members`.
    """

    target_mean: torch.Tensor
    target_std: torch.Tensor
    target_range: torch.Tensor
    noise_variance: torch.Tensor
    spread_factor: torch.Tensor

    def __init__(self, config: EDDPMConfig | Any):
        super().__init__()
        self.num_members = config.property_members
        width = self.num_members * config.property_hidden_size
        self.hidden = nn.Linear(config.latent_size, width)
        self.activation = nn.SiLU()
        self.output: nn.Module
        if self.num_members == 1:
            self.output = nn.Linear(width, config.num_properties)
        else:  # each member reads its own part of the hidden layer
            outputs = self.num_members * config.num_properties
            self.output = nn.Conv1d(width, outputs, kernel_size=1, groups=self.num_members)
            self.register_buffer("noise_variance", torch.ones(config.num_properties))
            self.register_buffer("spread_factor", torch.ones(config.num_properties))
        self.register_buffer("target_mean", torch.zeros(config.num_properties))
        self.register_buffer("target_std", torch.ones(config.num_properties))
        bounds = torch.tensor([float("inf"), float("-inf")])
        self.register_buffer("target_range", bounds[:, None].repeat(1, config.num_properties))

    def forward(self, latents: torch.Tensor) -> torch.Tensor:
        """Map latents `(batch, num_latents, latent_dim)` to standardised predictions `(batch, num_properties)`."""
        return self.predict_members(latents).mean(1)

    def predict_members(self, latents: torch.Tensor) -> torch.Tensor:
        """Map latents to each member's standardised predictions, float32 `(batch, members, num_properties)`."""
        hidden_states = self.activation(self.hidden(latents.flatten(1).to(self.hidden.weight.dtype)))
        if self.num_members > 1:
            hidden_states = hidden_states[..., None]  # (batch, members * hidden, 1)
        return self.output(hidden_states).float().reshape(len(latents), self.num_members, -1)

    def predict_std(self, latents: torch.Tensor) -> torch.Tensor:
        """Map latents to standard deviations of a measurement around `predict`, shaped and in the unit as that.

        Raises:
            ValueError: If there is a single member, which says nothing of its uncertainty.
        """
        self.check_members()
        spread = self.predict_members(latents).var(1)  # (batch, num_properties)
        variance = self.noise_variance.float() + self.spread_factor.float() * spread
        return variance.sqrt() * self.target_std.float()

    def predict(self, latents: torch.Tensor) -> torch.Tensor:
        """Map latents to predictions in the unit of the data, float32 `(batch, num_properties)`; differentiable."""
        return self(latents) * self.target_std.float() + self.target_mean.float()

    def check_members(self) -> None:
        """Raise a ValueError if there is a single member, which says nothing of its uncertainty."""
        if self.num_members == 1:
            raise ValueError(
                "`return_std` needs an ensemble of property heads, and this model has a single one: fit an ensemble "
                "to measurements by `pipe.fit_property(data, properties)` or `hf-eddpm fit-property`."
            )

    @property
    def minimum(self) -> torch.Tensor:
        """Smallest target of each property in the training data, `(num_properties,)`; inf before `fit`."""
        return self.target_range[0]

    @property
    def maximum(self) -> torch.Tensor:
        """Largest target of each property in the training data, `(num_properties,)`; -inf before `fit`."""
        return self.target_range[1]

    @torch.no_grad()
    def fit(self, properties: torch.Tensor, names: Sequence[str] | None = None) -> None:
        """Take mean, standard deviation and range of the training targets. To be called before a training.

        Args:
            properties: `(data, num_properties)` in the unit of the data, NaN where missing.
            names: The columns they come from, for the error.

        Raises:
            ValueError: If the shape is another, a value is infinite, or a property has no two different values.
        """
        properties = torch.as_tensor(
            properties.cpu() if isinstance(properties, torch.Tensor) else properties, dtype=torch.float64
        )
        count = len(self.target_mean)
        if properties.ndim != 2 or properties.shape[1] != count:
            raise ValueError(f"`properties` must have the shape (data, {count}), got {tuple(properties.shape)}.")
        if bool(properties.isinf().any()):
            raise ValueError("`properties` must be finite, or NaN where missing, got infinity.")
        for index, column in enumerate(properties.T):
            known = column[~column.isnan()]
            if len(known) < 2 or known.min() == known.max():
                argument = "properties" if names is None else "property_columns"
                column_name = f"column {index}" if names is None else repr(names[index])
                raise ValueError(
                    f"`{argument}` must hold at least two different values in {column_name}, "
                    f"got {known.unique().tolist() or 'none'}."
                )
            self.target_mean[index], self.target_std[index] = known.mean(), known.std(correction=0)
            self.target_range[0, index], self.target_range[1, index] = known.min(), known.max()

    def loss(self, predictions: torch.Tensor, properties: torch.Tensor) -> torch.Tensor:
        """Return the mean squared error in standard deviations over the targets that are known; 0 if none is.

        Args:
            predictions: Standardised, `(batch, num_properties)`.
            properties: Targets in the unit of the data, shaped alike, NaN where missing.
        """
        known = ~properties.isnan()
        targets = (properties.float() - self.target_mean.float()) / self.target_std.float()
        # The product keeps the gradient defined (zero) when every target is missing.
        errors = (predictions - torch.where(known, targets, predictions.detach())).square() * known
        return errors.sum() / known.sum().clamp(min=1)


def property_terms(
    head: PropertyHead | None, latents: torch.Tensor, properties: torch.Tensor | None
) -> tuple[torch.Tensor | None, torch.Tensor | None]:
    """Return the property loss, a scalar, and the predictions in the unit of the data, `(batch, num_properties)`.

    Args:
        head: The model's property head; without one both are None.
        latents: `(batch, num_latents, latent_dim)`.
        properties: Targets in the unit of the data, `(batch, num_properties)`, NaN where missing; None if all are.

    Raises:
        ValueError: If the targets have another shape, or there is no head for them.
    """
    if head is None:
        if properties is not None:
            raise ValueError("`properties` needs a model with `num_properties` > 0, got one without.")
        return None, None
    predictions = head(latents)  # (batch, num_properties)
    if properties is None:
        properties = torch.full_like(predictions, float("nan"))
    if properties.shape != predictions.shape:
        raise ValueError(
            f"`properties` must have the shape {tuple(predictions.shape)}, got {tuple(properties.shape)}."
        )
    return head.loss(predictions, properties), head.predict(latents)
