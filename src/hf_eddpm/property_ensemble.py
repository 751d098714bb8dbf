"""An ensemble of property heads, fitted to measurements with the rest of the model left as it is."""

from dataclasses import dataclass

import torch

from .configuration_eddpm import EDDPMConfig
from .modeling_property import PropertyHead
from .outputs import EDDPMPropertyFit

MIN_ROWS = 20  # measurements below which predictions rest on assumptions, and the uncertainty is a guess
_BATCH = 256
_CHECK_EVERY = 25  # steps from one look at the rows a member has not seen to the next
_NOISE = torch.logspace(-3, 0.5, 36)  # variances in standardised units, among which the likelihood chooses
_SPREAD = torch.cat([torch.zeros(1), torch.logspace(-1, 2, 31)])
_INTERVALS = torch.arange(0.05, 1.0, 0.05)  # nominal coverages of the calibration error


@dataclass(frozen=True)
class HeadSizes:
    """What `PropertyHead` reads of a configuration.

    Args:
        latent_size: Inputs.
        num_properties: Outputs.
        property_hidden_size: Width of each member's hidden layer.
        property_members: Members.
    """

    latent_size: int
    num_properties: int
    property_hidden_size: int
    property_members: int


@dataclass
class FittedEnsemble:
    """An ensemble, and what it says of rows that a member has not seen.

    Args:
        head: The heads, float32.
        fit: How well the rows out of bag are predicted.
        mean: Of the members that have not seen a row, in standard deviations, `(data, num_properties)`.
        std: The predicted standard deviation of a measurement around it, of the same shape and unit.
        usable: Where there are at least two such members, and a measurement.
    """

    head: PropertyHead
    fit: EDDPMPropertyFit
    mean: torch.Tensor
    std: torch.Tensor
    usable: torch.Tensor


def fit_ensemble(
    config: EDDPMConfig | HeadSizes,
    latents: torch.Tensor,
    properties: torch.Tensor,
    num_steps: int = 1000,
    generator: torch.Generator | None = None,
    held_out: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> FittedEnsemble:
    """Fit an ensemble of heads to measurements, all members in one pass, and its uncertainty to what they left out.

    Each member sees a bootstrap sample of the rows (Breiman 1996; for neural networks Osband et al. 2016, arXiv
    1602.04621) from weights of its own, and keeps the weights that were best on the rows it has not drawn. On these
    rows, "out of bag", noise and spread (see `PropertyHead`) get the values of highest Gaussian likelihood; or on
    held-out rows, which all members predict.

    Args:
        config: A configuration with `num_properties` and `property_members` > 1.
        latents: Posterior means, `(data, num_latents, latent_dim)`.
        properties: Measurements, `(data, num_properties)`, NaN where missing.
        num_steps: Steps of AdamW on batches of 256.
        generator: Source of the weights and the bootstrap, on the CPU.
        held_out: Latents and measurements, shaped as the others, for the uncertainty; None for the rows out of bag.

    Raises:
        ValueError: If a property has no two different values, or shapes are wrong.
    """
    source = torch.Generator().manual_seed(int(torch.randint(2**31, (1,), generator=generator)))
    with torch.enable_grad():
        head = _make_head(config, source)
        head.fit(properties)
        latents = latents.detach().cpu().float()
        targets, known = _standardise(head, properties)
        counts = _bootstrap(len(latents), head.num_members, source)  # (data, members)
        _train(head, latents, targets, known, counts, num_steps, source)
    with torch.no_grad():
        unseen = counts == 0
        if held_out is not None:
            latents = held_out[0].detach().cpu().float()
            targets, known = _standardise(head, held_out[1])
            unseen = torch.ones(len(latents), head.num_members, dtype=torch.bool)
        members = head.predict_members(latents)  # (data, members, num_properties)
        return _calibrate(head.eval(), members, unseen, targets, known)


def _standardise(head: PropertyHead, properties: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return measurements in the head's standard deviations, 0 where they are missing, and where they are not."""
    properties = properties.cpu().double()
    known = ~properties.isnan()
    targets = ((properties - head.target_mean.cpu().double()) / head.target_std.cpu().double()).float()
    return torch.where(known, targets, 0.0), known


def _make_head(config: EDDPMConfig | HeadSizes, source: torch.Generator) -> PropertyHead:
    """Return a new head whose weights come from a generator: torch's own state is every thread's."""
    with torch.device("meta"):
        head = PropertyHead(config)
    head = head.to_empty(device="cpu")
    with torch.no_grad():
        for name, value in head.named_parameters():
            size = config.latent_size if name.startswith("hidden") else config.property_hidden_size
            value.uniform_(-(size**-0.5), size**-0.5, generator=source)
        head.noise_variance.fill_(1.0)
        head.spread_factor.fill_(1.0)
    return head


def _bootstrap(rows: int, members: int, source: torch.Generator) -> torch.Tensor:
    draws = torch.randint(rows, (rows, members), generator=source)
    return torch.zeros(rows, members).scatter_add_(0, draws, torch.ones(rows, members))


def _train(
    head: PropertyHead,
    latents: torch.Tensor,
    targets: torch.Tensor,
    known: torch.Tensor,
    counts: torch.Tensor,
    num_steps: int,
    source: torch.Generator,
) -> None:
    members = head.num_members
    optimizer = torch.optim.AdamW(head.parameters(), lr=3e-3, weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, num_steps)
    best = torch.full((members,), float("inf"))
    state = {name: value.detach().clone() for name, value in head.named_parameters()}
    unseen = (counts == 0)[..., None] & known[:, None]  # (data, members, num_properties)
    for step in range(1, num_steps + 1):
        rows = torch.randint(len(latents), (min(_BATCH, len(latents)),), generator=source)
        weights = counts[rows][..., None] * known[rows][:, None]
        errors = (head.predict_members(latents[rows]) - targets[rows][:, None]).square()
        loss = (errors * weights).sum() / weights.sum().clamp(min=1) * members  # each member's own mean, added up
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % _CHECK_EVERY == 0:
            with torch.no_grad():
                errors = (head.predict_members(latents) - targets[:, None]).square() * unseen
                errors = errors.sum((0, 2)) / unseen.sum((0, 2)).clamp(min=1)  # (members,)
                better = errors < best
                best = torch.where(better, errors, best)
                for name, value in head.named_parameters():  # the members' parts stand one after another
                    parts = state[name].view(members, -1)
                    parts[better] = value.detach().view(members, -1)[better]
    with torch.no_grad():
        for name, value in head.named_parameters():
            value.copy_(state[name])


def _calibrate(
    head: PropertyHead, members: torch.Tensor, unseen: torch.Tensor, targets: torch.Tensor, known: torch.Tensor
) -> FittedEnsemble:
    weights = unseen.float()[..., None]  # (data, members, 1)
    number = weights.sum(1)  # (data, 1)
    mean = (members * weights).sum(1) / number.clamp(min=1)
    spread = ((members - mean[:, None]).square() * weights).sum(1) / (number - 1).clamp(min=1)
    usable = known & (number >= 2)
    rmse, coverage, errors = [], [], []
    for index in range(targets.shape[1]):
        rows = usable[:, index]
        residuals = (targets[rows, index] - mean[rows, index]).square()
        if len(residuals) >= MIN_ROWS // 2:
            # of the prediction by all members; the likelihood of each pair of noise and spread: (noise, spread, data)
            variance = _NOISE[:, None, None] + _SPREAD[:, None] * spread[rows, index]
            cost = (variance.log() + residuals / variance).mean(-1)
            noise, factor = divmod(int(cost.argmin()), len(_SPREAD))
            head.noise_variance[index], head.spread_factor[index] = _NOISE[noise], _SPREAD[factor]
        deviation = (head.noise_variance[index] + head.spread_factor[index] * spread[rows, index]).sqrt()
        scaled = residuals.sqrt() / deviation
        rmse.append(float(residuals.mean().sqrt() * head.target_std[index]) if len(residuals) else float("nan"))
        coverage.append(interval_coverage(scaled, 0.9))
        errors.append(calibration_error(scaled))
    variance = head.noise_variance + head.spread_factor * spread
    fit = EDDPMPropertyFit(num_rows=len(targets), rmse=rmse, coverage_90=coverage, calibration_error=errors)
    return FittedEnsemble(head, fit, mean, variance.sqrt(), usable)


def interval_coverage(scaled_errors: torch.Tensor, share: float) -> float:
    """Return the share of measurements inside the Gaussian interval that should hold `share` of them.

    Args:
        scaled_errors: Absolute errors divided by the predicted standard deviations, `(data,)`.
        share: What the interval should hold, in (0, 1).
    """
    limit = torch.special.ndtri(torch.tensor(0.5 + share / 2, dtype=torch.float64))
    return float((scaled_errors <= limit).float().mean())


def calibration_error(scaled_errors: torch.Tensor) -> float:
    """Return the mean difference between what central intervals should hold and what they hold, in [0, 1].

    It is the expected calibration error of regression (Kuleshov et al. 2018, arXiv 1807.00263, here with absolute
    differences) over intervals of 5, 10, ... 95 %.

    Args:
        scaled_errors: As for `interval_coverage`.
    """
    differences = [abs(interval_coverage(scaled_errors, float(share)) - float(share)) for share in _INTERVALS]
    return sum(differences) / len(differences)
