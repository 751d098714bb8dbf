"""How a pipeline is saved, loaded, and exchanged with the Hub."""

import contextlib
import importlib
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from diffusers.utils import logging as diffusers_logging
from safetensors import SafetensorError
from transformers.utils import logging as transformers_logging

from ..adapter_files import ADAPTER_FOLDER
from ..configuration_eddpm import EDDPMConfig
from ..modeling_eddpm import EDDPMModel
from ..weight_files import describe_not_finite
from .adapters import load_adapted_model
from .contents import check_contents, name_damaged_json, read_json
from .download import HUB_ARGUMENTS, download_pipeline
from .saving import INDEX_FILE, finish_save, keep_other_variants, refuse_own_base, replacing, verify_checksums
from .upload import upload_pipeline

logger = transformers_logging.get_logger(__name__)

# The layout of a saved pipeline, in its model_index.json. 1 (not written there): processors lay in modules of their
# own names. 2: each modality is a folder.
FORMAT_VERSION = 2
_FORMAT_KEY = "_format_version"
_MODULES_OF_FORMAT_1 = {
    f"hf_eddpm.processing_{modality}": f"hf_eddpm.modalities.{modality}.processing"
    for modality in ("text", "protein", "image")
}
_SLOW_TO_LOAD = 2**30  # bytes of weights that take more than about a second


@contextlib.contextmanager
def _without_bars(folder: str) -> Iterator[None]:
    """Within, diffusers and transformers show no progress of loading if it is a matter of a moment."""
    weights = sum(path.stat().st_size for path in Path(folder).rglob("*.safetensors"))
    libraries = [library for library in (diffusers_logging, transformers_logging) if library.is_progress_bar_enabled()]
    if weights < _SLOW_TO_LOAD:
        for library in libraries:
            library.disable_progress_bar()
    try:
        yield
    finally:
        if weights < _SLOW_TO_LOAD:
            for library in libraries:
                library.enable_progress_bar()


class PipelineStorage:
    """What `EDDPMPipeline` adds to the saving and loading of diffusers' `DiffusionPipeline`.

    A plain class beside it: diffusers takes the only pipeline class in a module for the one to load.

    Attributes:
        _loaded_from: The folder whose card is this pipeline's, if any.
    """

    _loaded_from: str | None
    model: Any

    def save_pretrained(self, save_directory: str | os.PathLike, **kwargs: Any) -> None:
        """Save all components, safetensors only.

        Killed at any moment, it leaves the pipeline that was there before or the new one (see `hub.saving`). With the
        files goes `checksums.json`, their digests.

        Args:
            save_directory: Folder; other files in it stay. With a `variant` so do the weights that are there already,
                which must be of the same model; without one they are replaced, variants included.
            **kwargs: As for `DiffusionPipeline.save_pretrained` (`variant`, `max_shard_size`, `push_to_hub`, ...).

        Raises:
            ValueError: If the folder is a file, or holds the weights that an adapter needs, or another model than the
                one whose variant is saved, or an argument would have no effect, or a weight is NaN or infinite.
        """
        if kwargs.pop("safe_serialization", True) is not True:
            raise ValueError("`safe_serialization` must be True: checkpoints are never pickled.")
        target = Path(save_directory).resolve()
        if target.exists() and not target.is_dir():
            raise ValueError(f"`save_directory` must be a folder, got the file {str(save_directory)!r}.")
        to_hub = kwargs.pop("push_to_hub", False)
        names = ("repo_id", "commit_message", "private", "token", "create_pr", "with_code", "revision", "subfolder")
        hub_arguments = {name: kwargs.pop(name) for name in names if name in kwargs}
        if not to_hub and (lost := sorted(hub_arguments)):
            raise ValueError(f"`push_to_hub` must be True beside {lost}, which say where and how to upload.")
        if (found := describe_not_finite([*self.model.named_parameters(), *self.model.named_buffers()])) is not None:
            raise ValueError(
                f"The pipeline is not saved, as it could not be loaded: {found}. A training diverged, or numbers are "
                "too large for their type."
            )
        variant = kwargs.get("variant")
        with replacing(target) as folder:
            super().save_pretrained(str(folder), **kwargs)  # type: ignore[misc]
            _write_format(folder)
            if (folder / "model" / ADAPTER_FOLDER).is_dir():  # beside the model's config
                (folder / "model" / ADAPTER_FOLDER).rename(folder / ADAPTER_FOLDER)
                refuse_own_base(folder / ADAPTER_FOLDER, target)
            keep_other_variants(target / "model", folder / "model", variant)
        if to_hub:
            self.push_to_hub(hub_arguments.pop("repo_id", target.name), variant=variant, **hub_arguments)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload EDDPMPipeline",
        private: bool | None = None,
        token: str | None = None,
        create_pr: bool = False,
        revision: str | None = None,
        subfolder: str | None = None,
        variant: str | None = None,
        with_code: bool = False,
    ) -> str:
        """Upload the pipeline and its model card to the Hub, in one commit; safetensors and text only.

        The card is the one the pipeline was loaded with. If its weights are no longer the same, or there was none, it
        is a new one without results, unless the repository has one and the pipeline had none.

        Args:
            repo_id: "user/repo"; made if need be.
            commit_message: Message of the commit.
            private: Whether a new repository is private.
            token: Access token in place of the one that `hf auth login` stored.
            create_pr: Whether to open a pull request.
            revision: Branch in place of the main one.
            subfolder: Folder in the repository.
            variant: Suffix of the weights' file, for example "fp16".
            with_code: Whether to add this package's code, so that the repository loads with `trust_remote_code=True`
                where the package is not installed.

        Returns:
            The commit's URL.
        """
        return upload_pipeline(
            lambda folder: self.save_pretrained(folder, variant=variant),
            self.model,
            repo_id,
            commit_message=commit_message,
            loaded_from=self._loaded_from,
            private=private,
            token=token,
            create_pr=create_pr,
            revision=revision,
            subfolder=subfolder,
            with_code=with_code,
        )

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> Any:
        """Load a pipeline from a folder or from the Hub.

        Args:
            pretrained_model_name_or_path: Folder written by `save_pretrained`, or "user/repo" on the Hub.
            **kwargs: As for `DiffusionPipeline.from_pretrained` (`revision`, `token`, `cache_dir`, `force_download`,
                `local_files_only`, `dtype`, `variant`, ...). `dtype` is float32 unless given, whatever type the
                weights were saved in; "auto" takes this. `subfolder` names the pipeline's folder in a bigger
                repository. `base_models` says where the base models of an adapter are, if not where it says itself:
                `{"decoder": folder}`. `verify=False` loads files that are not what `checksums.json` says.

        Raises:
            OSError: If the folder is not a saved pipeline, its files are damaged or contradict each other, or an
                adapter's base model cannot be loaded.
            ValueError: If an argument, or a default that is stored, is outside its range.
        """
        path = folder = os.fspath(pretrained_model_name_or_path)
        subfolder, base_models = kwargs.pop("subfolder", None), kwargs.pop("base_models", None)
        verify = kwargs.pop("verify", True)
        variant = kwargs.pop("variant", None)
        hub_arguments = {name: kwargs.pop(name) for name in HUB_ARGUMENTS if kwargs.get(name) is not None}
        if os.path.isdir(path):
            folder = os.path.join(path, subfolder) if subfolder else path
        elif os.path.exists(path) or os.path.isabs(path) or path.startswith(".") or path.count("/") > 1:
            raise OSError(f"{path!r} is not a saved pipeline: there is no such folder, and it is no Hub id.")
        else:
            folder = cls.download(path, subfolder=subfolder, **hub_arguments)
        finish_save(Path(folder))
        # Without its config the model would be built from the default one.
        needed = ["model_index.json"] if "model" in kwargs else ["model_index.json", "model/config.json"]
        for name in needed:
            if not os.path.isfile(os.path.join(folder, name)):
                raise OSError(f"{folder!r} is not a saved pipeline: it has no {name}.")
        if verify:
            verify_checksums(Path(folder))
        index = read_json(Path(folder, INDEX_FILE))
        _check_format(index, path)
        config = kwargs["model"].config if "model" in kwargs else EDDPMConfig.from_pretrained(f"{folder}/model")
        check_contents(Path(folder), index, config, kwargs)
        dtype = kwargs.pop("torch_dtype", None) if kwargs.get("dtype") is None else kwargs["dtype"]
        kwargs["dtype"] = _model_dtype(dtype, config)
        if kwargs.get("device_map") == "auto":
            kwargs["device_map"] = "balanced"  # what diffusers calls it
        adapter = os.path.join(folder, ADAPTER_FOLDER)
        given_model = "model" in kwargs
        has_adapter = not given_model and os.path.isdir(adapter)
        if base_models and not has_adapter:
            raise ValueError(f"`base_models` is for adapters, and {folder!r} holds none.")
        pipe: Any
        try:
            if has_adapter:  # its base models may be large: they load with a bar
                hub_arguments.pop("revision", None)  # of this repository, not of the base models'
                kwargs["model"] = load_adapted_model(config, adapter, base_models, kwargs["dtype"], **hub_arguments)
            elif not given_model and variant is not None:  # diffusers looks for variants of the processor too
                kwargs["model"] = EDDPMModel.from_pretrained(
                    os.path.join(folder, "model"), variant=variant, dtype=kwargs["dtype"]
                )
            with _without_bars(folder):
                if isinstance(index.get("_class_name"), list):  # with this package's code, which is here already
                    pipe = cls(**_load_components(folder, index, kwargs))
                else:
                    pipe = super().from_pretrained(folder, **kwargs)  # type: ignore[misc]
        except SafetensorError as error:
            raise OSError(f"The weights in {path!r} are damaged or incomplete ({error}). Fetch them again.") from error
        except ValueError as error:
            if (damaged := name_damaged_json(Path(folder))) is None:
                raise
            raise OSError(f"{damaged!r} is damaged: it is no JSON.") from error
        pipe.register_to_config(_name_or_path=path)
        if not given_model:
            pipe._loaded_from = folder
            if not has_adapter:
                pipe.model.name_or_path = os.path.join(path, subfolder) if subfolder else path
        return pipe

    @classmethod
    def download(cls, pretrained_model_name: str, **kwargs: Any) -> str:
        """Fetch a pipeline's repository from the Hub and return the local folder.

        Args:
            pretrained_model_name: "user/repo".
            **kwargs: `subfolder` (the folder of the pipeline in the repository), `cache_dir`, `force_download`,
                `token`, `revision`, `local_files_only`; others that `DiffusionPipeline.from_pretrained` passes have
                no meaning here.
        """
        # diffusers' own looks for components in libraries it knows, and takes our modules for remote code.
        return download_pipeline(pretrained_model_name, **kwargs)


def _model_dtype(dtype: Any, config: EDDPMConfig) -> torch.dtype:
    """Return the type of the model's weights that a caller asks for, float32 by default.

    Args:
        dtype: A type, its name, "auto" for the type of the checkpoint, or diffusers' dict of these by component.
        config: The model's configuration.

    Raises:
        ValueError: If it is none of these.
    """
    stored: Any = config
    wanted = dtype.get("model", dtype.get("default")) if isinstance(dtype, dict) else dtype
    if wanted is None:
        return torch.float32
    if isinstance(wanted, str):
        wanted = stored.dtype or torch.float32 if wanted == "auto" else getattr(torch, wanted, None)
    if not isinstance(wanted, torch.dtype) or not wanted.is_floating_point:
        raise ValueError(
            f"`dtype` must be a floating-point type of torch, its name or 'auto', for example torch.bfloat16; got "
            f"{dtype!r}."
        )
    return wanted


def _write_format(folder: Path) -> None:
    path = folder / "model_index.json"
    index = json.loads(path.read_text(encoding="utf-8"))
    index[_FORMAT_KEY] = FORMAT_VERSION
    index.pop("_name_or_path", None)  # where it was loaded from is no part of it, and may be somebody's folder
    path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _check_format(index: dict[str, Any], name: str) -> None:
    """Refuse a pipeline of a later version, and make the modules that an earlier one names known."""
    version = index.get(_FORMAT_KEY, 1)
    if isinstance(version, bool) or not isinstance(version, int) or not 1 <= version <= FORMAT_VERSION:
        raise OSError(
            f"{name!r} is saved in format {version!r}; this hf_eddpm reads formats 1 to {FORMAT_VERSION}. Upgrade "
            "hf_eddpm to load it."
        )
    modules = {value[0] for value in index.values() if isinstance(value, list)}
    if old := sorted(modules & set(_MODULES_OF_FORMAT_1)):
        logger.warning(
            f"{name!r} is saved in format 1. It loads as it is; `pipe.save_pretrained(folder)` writes format "
            f"{FORMAT_VERSION}, which later versions of hf_eddpm will ask for."
        )
        for module in old:  # diffusers imports the class by the module that the folder names
            sys.modules.setdefault(module, importlib.import_module(_MODULES_OF_FORMAT_1[module]))


def _load_components(folder: str, index: dict[str, Any], kwargs: dict[str, Any]) -> dict[str, Any]:
    """Load the components of a folder that holds this package's code by the package itself, running no other code."""
    package = sys.modules[__name__.partition(".")[0]]
    components = {}
    for name, value in index.items():
        if isinstance(value, list) and name != "_class_name" and value[0] is not None:
            library, class_name = value
            component_class = getattr(package, class_name, None) or getattr(sys.modules[library], class_name)
            dtype = {"dtype": kwargs["dtype"]} if name == "model" else {}
            given = kwargs.get(name)
            components[name] = component_class.from_pretrained(Path(folder, name), **dtype) if given is None else given
        elif name.startswith("default_"):
            components[name] = kwargs.get(name, value)
    return components
