"""Random draws of which each datum may have its own source."""

import torch

from .argument_types import Generators


def generator_of_each(generator: Generators, count: int, device: torch.device) -> Generators:
    """Return a generator for each of `count` data, seeded by the given one.

    What is drawn for a datum is then the same in whatever batches the data are worked on. A single datum has the
    given generator itself, as in a list. None and a list of generators come back as they are.

    Raises:
        ValueError: If it is neither on the CPU nor on a device of the type where its numbers are wanted.
    """
    if not isinstance(generator, torch.Generator):
        return generator
    if generator.device.type not in ("cpu", device.type):
        raise ValueError(
            f"`generator` must be on the CPU or {device}, got a generator of type {generator.device.type}."
        )
    if count == 1:
        return [generator]
    seeds = torch.randint(2**62, (count,), generator=generator, device=generator.device)
    return [torch.Generator(generator.device).manual_seed(seed) for seed in seeds.tolist()]


def of_rows(generator: Generators, start: int, stop: int) -> Generators:
    """Return the generators of those rows; one for all, or None, as it is."""
    return generator[start:stop] if isinstance(generator, list) else generator


def draw_uniform(count: int, generator: Generators, device: torch.device) -> torch.Tensor:
    """Return numbers evenly drawn from [0, 1), float32 `(count,)`, each by its own generator if there are."""
    if isinstance(generator, list):
        return torch.stack([torch.rand((), generator=one, device=one.device).to(device) for one in generator])
    return torch.rand(count, generator=generator, device=getattr(generator, "device", device)).to(device)
