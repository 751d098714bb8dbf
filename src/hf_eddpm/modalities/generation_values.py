"""What `generate()` may be told by name, checked: transformers takes "no" for true and a negative length for none."""

from typing import Annotated, Any

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


def check_generation_values(values: dict[str, Any], samples: bool) -> None:
    """Check the arguments of a call of `generate()`; names that are not known here are transformers' to judge.

    Args:
        values: Single values of the generation config, as the caller gave them.
        samples: Whether tokens are drawn.

    Raises:
        ValueError: If a value is outside its range, or one of sampling is given where nothing is drawn.
    """
    check_values(values, _GENERATION_VALUES)
    if not samples:
        given = [name for name in _OfSampling if values.get(name) is not None]
        refuse_without("`do_sample=True`", given, "without it the likeliest token is taken")
