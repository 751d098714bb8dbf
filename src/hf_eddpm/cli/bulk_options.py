"""The options by which encode, score, generate and optimize become bulk jobs: `--output_dir` and what goes with it."""

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer

from .files import STANDARD

_USUAL: dict[str, tuple[Any, str]] = {
    "output_dir": (str | None, "Make a bulk job of it: write parquet there."),
    "engine": (str | None, "Of a bulk job: local (by default), or ray."),
}
_FURTHER: dict[str, tuple[Any, str]] = {
    "address": (str | None, "Of the Ray cluster: auto, or host:port; by default Ray is started on this machine."),
    "num_workers": (int | None, "Workers of the engine ray; one for each GPU, or CPU, by default."),
    "part_size": (int | None, "Rows of a part; 10,000 by default."),
    "batch_size": (int | None, "Data at a time; 256 by default."),
    "dtype": (str | None, "Type to compute in: float32 (by default), float16 or bfloat16."),
    "compile": (bool | None, "Compile the network that does most of the work."),
    "num_threads": (int | None, "CPU threads of a worker."),
}
_OF_DATA: dict[str, tuple[Any, str]] = {
    "on_error": (str | None, "raise (by default) at a row that the model does not take, or skip and list it."),
    "limit": (int | None, "Rows of the data, if not all."),
    "split": (str | None, "Split of a Hub data set; train by default."),
    "dataset_config": (str | None, "Configuration of a Hub data set."),
    "keep_data": (bool | None, "Whether the datum is a column of the output, as it is by default."),
    "sort_by_length": (bool | None, "Whether data of like length go into a batch, as they do by default."),
}
_OF_SAMPLES: dict[str, tuple[Any, str]] = {
    "keep_latents": (bool | None, "Whether the latents are a column of the output; not so by default."),
}


def takes_bulk_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of bulk jobs.

    Args:
        command: Its parameter `bulk` gets those that were given, by name; none of them unless there is `--output_dir`.
    """
    own = inspect.signature(command, eval_str=True).parameters
    further = _FURTHER | (_OF_DATA if "data" in own else _OF_SAMPLES)
    options = {name: option for name, option in (_USUAL | further).items() if name not in own}

    @functools.wraps(command)
    def wrapper(**values: Any) -> None:
        values.pop("help_all")
        given = {name: value for name in options if (value := values.pop(name)) is not None}
        if given and "output_dir" not in given:
            raise ValueError(f"`--{next(iter(given))}` needs `--output_dir` beside it, the folder of a bulk job.")
        if given and values["output"] != STANDARD:
            raise ValueError(f"`--output_dir` takes the place of `--output`, got {values['output']!r} beside it.")
        command(**values, bulk=given)

    parameters = [parameter for name, parameter in own.items() if name != "bulk"]
    for name, (kind, text) in options.items():
        names = [f"--{name}/--no_{name}"] if kind == bool | None else [f"--{name}"]
        annotation = Annotated[kind, typer.Option(*names, help=text, hidden=name not in _USUAL)]  # type: ignore[valid-type]
        parameters.append(_parameter(name, None, annotation))
    every = typer.Option("--help_all", help="Show every option.", is_eager=True, callback=_show_all)
    parameters.append(_parameter("help_all", False, Annotated[bool, every]))
    wrapper.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    wrapper.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return wrapper


def refuse_without_truncation(truncation: bool) -> None:
    """Raise a ValueError if a bulk job is to refuse what is too long: it cuts, and its log says so."""
    if not truncation:
        raise ValueError("`--no_truncation` must not be given with `--output_dir`: a bulk job cuts what is too long.")


def run_job(task: str, checkpoint: str, bulk: dict[str, Any], **fields: Any) -> None:
    """Run a bulk job.

    Args:
        task: As for `BulkJob`.
        checkpoint: As for `BulkJob`.
        bulk: The options that `takes_bulk_options` gathered.
        **fields: Further fields of `BulkJob`.
    """
    from ..bulk import BulkJob, run_bulk

    engine = {name: bulk[name] for name in ("engine", "address", "num_workers") if name in bulk}
    job = BulkJob(task, checkpoint, **{name: value for name, value in bulk.items() if name not in engine}, **fields)
    typer.echo(f"{job.output_dir}: {run_bulk(job, **engine)} rows made", err=True)


def _parameter(name: str, default: Any, annotation: Any) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _show_all(context: typer.Context, value: bool) -> None:
    if not value:
        return
    for parameter in context.command.params:
        parameter.hidden = False  # type: ignore[attr-defined]
    typer.echo(context.get_help())
    raise typer.Exit()
