"""The checkpoints that a page serves: loaded once, the last few kept."""

import json
import threading
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from ..pipeline_eddpm import EDDPMPipeline

Sources = Literal["all", "hub", "none"]
_KEPT = 2  # checkpoints in memory


@dataclass(frozen=True)
class Checkpoint:
    """A loaded pipeline and what its folder says of it.

    Args:
        name: Folder or Hub id.
        pipe: The pipeline.
        training: The facts of `training.json`; empty if there is none.
        evaluation: Those of `evaluation.json`.
    """

    name: str
    pipe: EDDPMPipeline
    training: dict[str, Any]
    evaluation: dict[str, Any]

    @property
    def modality(self) -> str:
        """The kind of its data: "text", "protein" or "image"."""
        return self.pipe.model.config.modality

    @property
    def class_names(self) -> list[str]:
        """A name for each class that the model can be asked for; none if it knows no classes."""
        count = self.pipe.model.config.num_classes
        names = self.training.get("class_names") or []
        return list(map(str, names if len(names) == count else range(count)))

    @property
    def property_names(self) -> list[str]:
        """A name for each property that the model predicts."""
        count = self.pipe.model.config.num_properties
        names = self.training.get("property_names") or []
        return list(map(str, names)) if len(names) == count else [f"property {number}" for number in range(count)]


class Checkpoints:
    """Loads checkpoints by name.

    Args:
        device: Where they run; None for an accelerator if there is one.
        sources: What visitors may load: "all", "hub" (Hub ids, no folder of this machine) or "none".
    """

    def __init__(self, device: str | None = None, sources: Sources = "all"):
        if device is None:
            device = str(torch.accelerator.current_accelerator() if torch.accelerator.is_available() else "cpu")
        self.device = device
        self.sources = sources
        self._loaded: OrderedDict[str, Checkpoint] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, name: str) -> Checkpoint:
        """Return a checkpoint, loading it if need be.

        Raises:
            OSError: If it cannot be loaded.
        """
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = load_checkpoint(name, self.device)
            self._loaded.move_to_end(name)
            while len(self._loaded) > _KEPT:
                self._loaded.popitem(last=False)
            return self._loaded[name]

    def ask(self, name: str | None) -> Checkpoint:
        """Return a checkpoint that a visitor asks for.

        Raises:
            OSError: If it cannot be loaded.
            ValueError: If the page does not load such checkpoints.
        """
        name = (name or "").strip()
        if not name:
            raise ValueError("Write the folder or the Hub id of a checkpoint first, for example user/repo.")
        if self.sources == "none":
            raise ValueError("This page shows one checkpoint and loads no others.")
        is_hub_id = name.count("/") == 1 and not name.startswith((".", "~", "/"))
        if self.sources == "hub" and (not is_hub_id or Path(name).exists()):
            raise ValueError(f"This page loads checkpoints from the Hub (user/repo), got {name!r}.")
        return self.get(name)


def load_checkpoint(name: str, device: str) -> Checkpoint:
    """Load a pipeline and the facts beside it.

    Args:
        name: Folder or Hub id.
        device: Where it runs.

    Raises:
        OSError: If it cannot be loaded.
    """
    pipe = EDDPMPipeline.from_pretrained(name).to(device)
    folder = Path(pipe._loaded_from or name)
    return Checkpoint(name, pipe, _read_facts(folder / "training.json"), _read_facts(folder / "evaluation.json"))


def _read_facts(path: Path) -> dict[str, Any]:
    try:
        facts = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # of another origin: the page does without
    return facts if isinstance(facts, dict) else {}
