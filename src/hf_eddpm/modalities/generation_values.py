"""What `generate()` may be told by name, checked: transformers takes "no" for true and a negative length for none."""

from typing import Annotated, Any

import numpy as np

from ..argument_types import Bounds, Count, CountOrZero, PositiveNumber, PositiveShare, check_values, refuse_without

_OfSampling = {
    "temperature": PositiveNumber | None,
    "top_k": CountOrZero | None,
    "top_p": PositiveShare | None,
    "min_p": Annotated[float, Bounds(at_least=0, at_most=1)] | None,
    "typical_p": PositiveShare | None,
    "epsilon_cutoff": Annotated[float, Bounds(at_least=0, at_most=1)] | None,
    "eta_cutoff": Annotated[float, Bounds(at_least=0, at_most=1)] | None,
}
_GENERATION_VALUES: dict[str, Any] = {
    **_OfSampling,
    "do_sample": bool | None,
    "use_cache": bool | None,
    "renormalize_logits": bool | None,
    "return_dict_in_generate": bool | None,
    "output_scores": bool | None,
    "output_logits": bool | None,
    "max_new_tokens": Count | None,
    "max_length": Count | None,
    "min_new_tokens": CountOrZero | None,
    "min_length": CountOrZero | None,
    "num_beams": Count | None,
    "num_return_sequences": Count | None,
    "no_repeat_ngram_size": CountOrZero | None,
    "repetition_penalty": PositiveNumber | None,
    "length_penalty": float | None,
    "early_stopping": bool | str | None,
}


def check_generation_values(values: dict[str, Any], default_do_sample: bool) -> dict[str, Any]:
    """Check the arguments of a call of `generate()`; names that are not known here are transformers' to judge.

    Args:
        values: Single values of the generation config, as the caller gave them.
        default_do_sample: Whether tokens are drawn where the caller does not say.

    Returns:
        The values, numbers of NumPy as Python's and `repetition_penalty` as the float that transformers asks for.

    Raises:
        ValueError: If a value is outside its range, or one of sampling is given where nothing is drawn.
    """
    check_values(values, _GENERATION_VALUES)
    samples = values.get("do_sample")
    if not (default_do_sample if samples is None else samples):
        given = [name for name in _OfSampling if values.get(name) is not None]
        refuse_without("`do_sample=True`", given, "without it the likeliest token is taken")
    plain = {name: value.item() if isinstance(value, np.generic) else value for name, value in values.items()}
    if plain.get("repetition_penalty") is not None:
        plain["repetition_penalty"] = float(plain["repetition_penalty"])
    return plain
