"""What each tab does, as functions from values to results; they know of no widget."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from matplotlib.figure import Figure

from ..argument_types import CountOrZero, GuidanceScale, NoiseScale, checked
from ..control.guidance import PropertyGuidance
from ..plots import plot_front, plot_scores
from .attributes import Attribute, direction_of, valid_samples
from .limits import NumCandidates, NumPoints, NumRefinementSteps, NumSamples, NumSteps, NumTimesteps, Seed

_REFERENCE = 64  # samples whose scores stand beside those of given data
_SHARES = (0.0, 0.5, 1.0)  # of an edit's scale that are shown
Method = Literal["gradient", "guided", "mcmc", "hill_climb", "ode"]


@dataclass(frozen=True)
class Grid:
    """Results with a row for each datum.

    Args:
        headers: What the columns are.
        rows: Data (strings or images) and numbers.
    """

    headers: list[str]
    rows: list[list[Any]]

    def column(self, header: str) -> list[Any]:
        """Return the cells below a header."""
        place = self.headers.index(header)
        return [row[place] for row in self.rows]


@checked
def generate(
    pipe: Any,
    num_samples: NumSamples,
    num_inference_steps: NumSteps,
    noise_scale: NoiseScale,
    class_label: int | None,
    guidance_scale: GuidanceScale,
    num_candidates: NumCandidates,
    seed: Seed,
) -> list[Any]:
    """Draw samples; without a class `guidance_scale` means nothing and is left out."""
    guided = {} if class_label is None else {"class_labels": class_label, "guidance_scale": guidance_scale}
    return pipe(
        num_samples,
        num_inference_steps=num_inference_steps,
        noise_scale=noise_scale,
        num_candidates=num_candidates,
        generator=_generator(seed),
        **guided,
    ).samples


@checked
def reconstruct(
    pipe: Any, data: list[Any], refinement_steps: NumRefinementSteps, invert_noise: bool, seed: Seed
) -> Grid:
    """Encode and decode data, as they are and after refinement of their latents."""
    headers, columns = ["input", "reconstruction"], [data, pipe.reconstruct(data, **_decoding(pipe, seed))]
    if refinement_steps:
        headers.append("refined")
        columns.append(pipe.reconstruct(data, refinement_steps=refinement_steps, **_decoding(pipe, seed)))
    if invert_noise:
        headers.append("from its own noise")
        columns.append(pipe.reconstruct(data, refinement_steps=refinement_steps, invert_noise=True))
    return _grid(headers, columns)


@checked
def interpolate(
    pipe: Any,
    first: list[Any],
    last: list[Any],
    num_points: NumPoints,
    space: Literal["noise", "latents"],
    invert_noise: bool,
    seed: Seed,
) -> list[list[Any]]:
    """Walk from each of the first data to its counterpart among the last; one path for each pair."""
    if len(first) != len(last):
        raise ValueError(f"There must be as many starts as ends, got {len(first)} and {len(last)}.")
    decoding = {"invert_noise": True} if invert_noise else _decoding(pipe, seed)
    return pipe.interpolate(first, last, num_steps=num_points, space=space, **decoding)


@checked
def edit(
    pipe: Any,
    data: list[Any],
    attribute: Attribute,
    scale: float,
    refinement_steps: NumRefinementSteps,
    invert_noise: bool,
    seed: Seed,
) -> Grid:
    """Move data along an attribute: not at all, half of the way, and all of it."""
    direction = direction_of(pipe, attribute)
    headers, columns = ["input"], [data]
    for share in _SHARES:
        decoding = {"invert_noise": True} if invert_noise else {"generator": _generator(seed)}
        headers.append(f"scale {share * scale:g}")
        columns.append(pipe.edit(data, direction, scale=share * scale, refinement_steps=refinement_steps, **decoding))
    return _grid(headers, columns)


@checked
def score(pipe: Any, data: list[Any], num_timesteps: NumTimesteps, seed: Seed) -> tuple[Grid, Figure]:
    """Bound the negative log-likelihood of data; the figure has the model's own samples beside them."""
    scores = pipe.score(data, num_timesteps, _generator(seed))
    samples = valid_samples(pipe.processor, pipe(_REFERENCE, generator=_generator(seed)).samples)
    reference = pipe.score(samples, num_timesteps, _generator(seed)).bits_per_unit
    shown = {
        "bits per unit": scores.bits_per_unit,
        "bound, nats": scores.bound,
        "of it, reconstruction": scores.reconstruction,
    }
    columns = [data, *([round(number, 2) for number in values.tolist()] for values in shown.values())]
    figure = plot_scores({"samples of the model": reference, "your data": scores.bits_per_unit}, bins=30)
    return _grid(["datum", *shown], columns), figure


@checked
def predict(pipe: Any, data: list[Any], property_names: Sequence[str]) -> Grid:
    """Predict the properties of data."""
    predictions = pipe.predict(data).T.tolist()
    return _grid(["datum", *property_names], [data, *map(_rounded, predictions)])


@checked
def optimize(
    pipe: Any,
    data: list[Any],
    property_index: int,
    property_name: str,
    method: Method,
    target: float | Literal["higher", "lower"],
    num_steps: NumSteps,
    max_mutations: CountOrZero,
    seed: Seed,
) -> tuple[Grid, Figure]:
    """Change data so that the model predicts a better property; the figure has the predictions of every step."""
    result = pipe.optimize(
        data,
        method=method,
        target=target,
        property_index=property_index,
        num_steps=num_steps,
        max_mutations=max_mutations or None,
        generator=_generator(seed),
    )
    paths = [[prediction[property_index].item() for _, prediction in path] for path in result.trajectory]
    columns = [data, _rounded([path[0] for path in paths]), result.samples]
    columns.append(_rounded(result.predictions[:, property_index].tolist()))
    headers = ["start", f"{property_name} before", "best found", f"{property_name} after"]
    if result.edit_distances is not None:
        headers.append("edits")
        columns.append(result.edit_distances.tolist())
    lines = {f"datum {number}": list(enumerate(path)) for number, path in enumerate(paths, start=1)}
    return _grid(headers, columns), plot_front(lines, "step", f"predicted {property_name}")


@checked
def design(
    pipe: Any,
    num_samples: NumSamples,
    property_index: int,
    property_name: str,
    target: float | Literal["higher", "lower"],
    strength: GuidanceScale,
    seed: Seed,
) -> Grid:
    """Draw new data that are guided to a property, those nearest to the target first."""
    guidance = PropertyGuidance(target, property_index, scale=strength)
    drawn = pipe(num_samples, guidance=guidance, generator=_generator(seed)).samples
    samples = list(dict.fromkeys(drawn)) if all(isinstance(sample, str) for sample in drawn) else drawn
    samples = valid_samples(pipe.processor, samples)
    values = pipe.predict(samples)[:, property_index].tolist()
    order = sorted(range(len(samples)), key=lambda row: _distance(values[row], target))
    return Grid(["sample", property_name], [[samples[row], round(values[row], 3)] for row in order])


def read_target(choice: str, value: float | None) -> float | Literal["higher", "lower"]:
    """Return the target that a choice and the number beside it say.

    Raises:
        ValueError: If a value is to be reached and none is given.
    """
    if choice == "higher":
        return "higher"
    if choice == "lower":
        return "lower"
    if value is None:
        raise ValueError("Write the value that is to be reached.")
    return float(value)


def _distance(value: float, target: float | str) -> float:
    """Return how far a prediction is from a target; only the order of such numbers says anything."""
    if isinstance(target, str):
        return -value if target == "higher" else value
    return abs(value - target)


def _generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)  # on the CPU, so that devices draw the same


def _decoding(pipe: Any, seed: int) -> dict[str, Any]:
    """Return what makes a decoder that draws repeat itself; nothing for others."""
    return {} if pipe.decoder_scheduler is None else {"generator": _generator(seed)}


def _rounded(numbers: Sequence[float]) -> list[float]:
    return [round(number, 3) for number in numbers]


def _grid(headers: list[str], columns: Sequence[Sequence[Any]]) -> Grid:
    return Grid(headers, [list(row) for row in zip(*columns, strict=True)])
