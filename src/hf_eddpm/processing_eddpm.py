"""EDDPMProcessor: what every modality's processor does, from raw data to tensors and back."""

import os
from pathlib import Path
from typing import Any

from transformers import BatchFeature
from transformers.processing_utils import ProcessorMixin

from .argument_checks import is_column
from .configuration_eddpm import EDDPMConfig


def listed(data: Any) -> Any:
    """Return a column of data as a list: a tuple, a pandas Series, a NumPy array, a column of `datasets`.

    What is no such column comes back as it is.
    """
    return list(data) if is_column(data) else data


class EDDPMProcessor(ProcessorMixin):
    """Base of the processors; a modality subclasses it and overrides every method here.

    The pipeline and the trainer know processors by these methods alone.

    Attributes:
        output_types: What a user may ask of the pipeline as `output_type`. Of a processor that has more than "data",
            `postprocess` takes the others as its argument of that name.
        data_names: Names under which a training example may hold its datum.
        truncation: Whether data that are too long are cut, for a modality that cuts.
    """

    output_types: tuple[str, ...] = ("data",)
    data_names: tuple[str, ...] = ("data",)
    truncation: bool = True

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Any:
        """Load a processor as any `ProcessorMixin`; files that its folder lacks are an error.

        transformers alone would fill in default values, and one tokenizer for another.

        Raises:
            OSError: If a file is missing.
        """
        folder = Path(pretrained_model_name_or_path, kwargs.get("subfolder") or "")
        if folder.is_dir():
            needed = ["processor_config.json"]
            for name in cls.get_attributes():
                inside = "" if name == "tokenizer" else f"{name}/"
                needed += [f"{inside}{file}" for file in ("tokenizer.json", "tokenizer_config.json")]
            if not (folder / "tokenizer.json").is_file():  # tokenizers of other kinds have files of other names
                needed = [name for name in needed if not name.endswith("tokenizer.json")]
            if missing := [name for name in needed if not (folder / name).is_file()]:
                raise OSError(f"{str(folder)!r} is incomplete: it has no {missing[0]}.")
        return super().from_pretrained(pretrained_model_name_or_path, **kwargs)

    def __call__(self, data: Any, **kwargs: Any) -> BatchFeature:
        """Turn raw data, one or a list, into the tensors that `EDDPMModel.forward` takes."""
        raise NotImplementedError

    def prepare(self, data: list[Any]) -> tuple[BatchFeature, dict[int, int]]:
        """Return the tensors of data as `as_list` returned them, and the size of each that was cut, by position."""
        return self(data), {}

    def report_cut(self, data: list[Any], cut: dict[int, int]) -> None:
        """Warn of data that were cut, or refuse them if `truncation` is False."""

    def postprocess(self, outputs: Any) -> Any:
        """Turn the raw output of `EDDPMModel.decode` into a list of data."""
        raise NotImplementedError

    def as_list(self, data: Any, name: str = "data") -> list[Any]:
        """Return one datum or several as a list, checked; `name` is the argument that error messages mention."""
        raise NotImplementedError

    def check_model(self, config: EDDPMConfig) -> None:
        """Raise a ValueError if this processor's tensors do not fit a model of that configuration."""
        raise NotImplementedError

    def lengths(self, data: list[Any]) -> list[int]:
        """Return what each datum costs, in its modality's own unit; 1 where all cost the same."""
        return [1] * len(self.as_list(data))

    def sizes(self, data: list[Any]) -> list[int]:
        """Return numbers that rank data, as `as_list` returned them, by what they cost, without preparing them."""
        return [len(datum) if isinstance(datum, str) else 1 for datum in data]

    def units(self, datum: str) -> list[str]:
        """Return the parts of a datum that an edit changes or leaves one by one; joined they are the datum."""
        return [datum]

    @property
    def decode_arguments(self) -> dict[str, Any]:
        """Arguments of `EDDPMModel.decode` that suit what this processor feeds, overridden by the caller's."""
        return {}
