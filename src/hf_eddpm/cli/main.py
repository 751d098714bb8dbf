"""`hf-eddpm`: train a model, and use a trained one on files.

The parser is typer, which huggingface_hub brings along: it reads the options off the functions below, and a command
needs no other description than its own. Progress goes to the standard error, results to files or the standard output.
Exit codes: 0 done, 1 an error that the message explains, 2 a command that cannot be read, 130 interrupted.
"""

import sys
from typing import Annotated, Any

import typer

from ..allocator import keep_freed_memory
from ..argument_types import refuse_without
from ..extras import needs_extra
from . import measured, restoring
from .bulk_options import refuse_without_truncation, run_job, takes_bulk_options
from .options import Checkpoint, Device, Seed, as_target
from .usual_options import USUAL_OPTIONS

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Train encoder-decoder diffusion models and use them.",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

_HELP = ("-h", "--help")
_PASSED_ON = {"allow_extra_args": True, "ignore_unknown_options": True, "help_option_names": []}

Data = Annotated[
    list[str], typer.Argument(help="Files (txt, csv, tsv, jsonl, parquet, fasta, npz), folders of images, or -.")
]
Output = Annotated[
    str, typer.Option("--output", "-o", help="File (txt, csv, tsv, jsonl, parquet, fasta, npz), folder, or -.")
]
Column = Annotated[str | None, typer.Option("--column", help="Column of the data in tables.")]
BatchSize = Annotated[int, typer.Option("--batch_size", help="Data at a time.")]
Steps = Annotated[
    int | None, typer.Option("--num_inference_steps", help="Of the chain; by default the checkpoint's own.")
]
Truncation = Annotated[
    bool, typer.Option("--truncation/--no_truncation", help="Cut sentences that are too long, or refuse them.")
]
Refinement = Annotated[int, typer.Option("--refinement_steps", help="Gradient steps on the latents.")]


@app.command(context_settings=_PASSED_ON, add_help_option=False)
def train(context: typer.Context, modality: Annotated[str, typer.Argument(help="text, protein or image")]) -> None:
    """Train a model: `hf-eddpm train text --help` lists the options."""
    _pass_on("train", modality, context.args)


@app.command(context_settings=_PASSED_ON, add_help_option=False)
def evaluate(context: typer.Context, modality: Annotated[str, typer.Argument(help="text, protein or image")]) -> None:
    """Evaluate a checkpoint: `hf-eddpm evaluate text --help` lists the options."""
    _pass_on("evaluate", modality, context.args)


@app.command(context_settings=_PASSED_ON, add_help_option=False)
def distill(context: typer.Context) -> None:
    """Train a denoiser for one to four steps: `hf-eddpm distill --help` lists the options."""
    from ..training.entry import run_distillation

    run_distillation(context.args)


@app.command()
@takes_bulk_options
def generate(
    checkpoint: Checkpoint,
    output: Output = "-",
    num_samples: Annotated[int, typer.Option("--num_samples", "-n", help="How many.")] = 8,
    num_inference_steps: Steps = None,
    noise_scale: Annotated[
        float | None, typer.Option("--noise_scale", help="Below 1: more typical, less varied.")
    ] = None,
    class_label: Annotated[int | None, typer.Option("--class_label", help="Class of the samples.")] = None,
    guidance_scale: Annotated[float, typer.Option("--guidance_scale", help="Weight of the class.")] = 1.0,
    num_candidates: Annotated[int, typer.Option("--num_candidates", help="Draws of each; the surest is kept.")] = 1,
    redundancy_penalty: Annotated[
        float, typer.Option("--redundancy_penalty", help="Of repeating other samples.")
    ] = 0.0,
    seed: Seed = 0,
    device: Device = None,
    *,
    bulk: dict[str, Any],
) -> None:
    """Draw new data."""
    arguments = {
        "num_inference_steps": num_inference_steps,
        "noise_scale": noise_scale,
        "class_labels": class_label,
        "guidance_scale": guidance_scale,
        "num_candidates": num_candidates,
        "redundancy_penalty": redundancy_penalty,
    }
    if bulk:
        run_job("generate", checkpoint, bulk, num_samples=num_samples, seed=seed, device=device, arguments=arguments)
        return
    session = _session(checkpoint, output, ["sample"], device)
    session.write({"sample": session.pipe(num_samples, generator=session.generator(seed), **arguments).samples})


@app.command()
def reconstruct(
    checkpoint: Checkpoint,
    data: Data,
    output: Output = "-",
    column: Column = None,
    refinement_steps: Refinement = 0,
    batch_size: BatchSize = 256,
    seed: Seed = 0,
    truncation: Truncation = True,
    device: Device = None,
) -> None:
    """Encode data and decode them again."""
    session = _session(checkpoint, output, ["reconstruction"], device, truncation=truncation)
    items = session.read(data, column)
    noise = session.noise_of_decoder(seed)
    session.write({"reconstruction": session.pipe.reconstruct(items, batch_size, refinement_steps, **noise)})


@app.command()
@takes_bulk_options
def encode(
    checkpoint: Checkpoint,
    data: Data,
    output: Annotated[str, typer.Option("--output", "-o", help="File (npz, parquet, jsonl, csv), or -.")] = "-",
    column: Column = None,
    refinement_steps: Refinement = 0,
    batch_size: BatchSize = 256,
    truncation: Truncation = True,
    device: Device = None,
    *,
    bulk: dict[str, Any],
) -> None:
    """Represent data as vectors."""
    if bulk:
        refuse_without_truncation(truncation)
        arguments = {"refinement_steps": refinement_steps}
        fields = {"data": data, "column": column, "batch_size": batch_size, "device": device, "arguments": arguments}
        run_job("encode", checkpoint, bulk, **fields)
        return
    session = _session(checkpoint, output, ["embedding"], device, writes_images=False, truncation=truncation)
    items = session.read(data, column)
    embeddings = session.pipe.encode(items, batch_size, refinement_steps).embeddings
    session.write({"embedding": embeddings.cpu().numpy()})


@app.command()
def interpolate(
    checkpoint: Checkpoint,
    first: Annotated[str, typer.Argument(help="Where paths begin: a datum itself, or a file of data.")],
    last: Annotated[str, typer.Argument(help="Where they end; as many data.")],
    output: Output = "-",
    num_steps: Annotated[int, typer.Option("--num_steps", help="Points of a path, both ends counted.")] = 7,
    space: Annotated[str | None, typer.Option("--space", help="latents or noise.")] = None,
    spacing: Annotated[str, typer.Option("--spacing", help="even, or perceptual: by what the data show.")] = "even",
    noise_level: Annotated[
        float | None, typer.Option("--noise_level", help="Noise that the middle of a path is cleaned of, from 0.")
    ] = None,
    column: Column = None,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Walk from data to other data."""
    session = _session(checkpoint, output, ["path", "point", "sample"], device)
    starts, ends = session.read_or_take(first, column), session.read_or_take(last, column)
    options: dict[str, Any] = {"space": space, "spacing": spacing, "noise_level": noise_level}
    options |= session.noise_of_decoder(seed)
    paths = session.pipe.interpolate(starts, ends, num_steps=num_steps, **options)
    places = [(path, point) for path in range(len(paths)) for point in range(num_steps)]
    samples = [sample for path in paths for sample in path]
    session.write({"path": [path for path, _ in places], "point": [point for _, point in places], "sample": samples})


@app.command()
def edit(
    checkpoint: Checkpoint,
    data: Data,
    towards: Annotated[str, typer.Option("--towards", help="File of data that have the attribute.")],
    away_from: Annotated[str, typer.Option("--away_from", help="File of data that lack it.")],
    output: Output = "-",
    scale: Annotated[float | None, typer.Option("--scale", help="How far along the direction; by default 1.")] = None,
    probability: Annotated[
        float | None,
        typer.Option("--probability", help="Each as far as it takes, in (0, 1)."),
    ] = None,
    give_back: Annotated[bool, typer.Option("--give_back", help="With it: put back what is not needed.")] = False,
    num_candidates: Annotated[
        int | None, typer.Option("--num_candidates", help="With it: edits compared for each.")
    ] = None,
    refinement_steps: Refinement = 0,
    column: Column = None,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Give data an attribute that examples show."""
    if probability is not None and scale is not None:
        raise ValueError("`scale` must not be given with `probability`, which decides how far each datum moves.")
    if probability is None:
        asked = {"give_back": give_back, "num_candidates": num_candidates is not None}
        given = [name for name, is_asked in asked.items() if is_asked]
        refuse_without("`probability`", given, "it asks for edits that are judged")
    session = _session(checkpoint, output, ["edit"] if probability is None else ["edit", "probability"], device)
    items = session.read(data, column)
    examples = session.read([towards], column), session.read([away_from], column)
    options = {"refinement_steps": refinement_steps, **session.noise_of_decoder(seed)}
    if probability is None:
        move = {"direction": session.pipe.direction(*examples), "scale": 1.0 if scale is None else scale}
        session.write({"edit": session.pipe.edit(items, **move, **options)})
        return
    options |= {"give_back": give_back, "num_candidates": 1 if num_candidates is None else num_candidates}
    out = session.pipe.edit_to(items, session.pipe.attribute(*examples), probability, **options)
    session.write({"edit": out.samples, "probability": out.probabilities[:, 0].numpy()})


@app.command()
@takes_bulk_options
def score(
    checkpoint: Checkpoint,
    data: Data,
    output: Output = "-",
    column: Column = None,
    num_timesteps: Annotated[int, typer.Option("--num_timesteps", help="Timesteps drawn for each datum.")] = 32,
    seed: Seed = 0,
    batch_size: BatchSize = 256,
    truncation: Truncation = True,
    device: Device = None,
    *,
    bulk: dict[str, Any],
) -> None:
    """Bound the negative log-likelihood of data, in nats; the higher, the stranger."""
    if bulk:
        refuse_without_truncation(truncation)
        arguments = {"num_timesteps": num_timesteps}
        fields = {"data": data, "column": column, "batch_size": batch_size, "seed": seed, "device": device}
        run_job("score", checkpoint, bulk, **fields, arguments=arguments)
        return
    session = _session(
        checkpoint,
        output,
        ["bound", "reconstruction", "bits_per_unit"],
        device,
        writes_images=False,
        truncation=truncation,
    )
    items = session.read(data, column)
    scores = session.pipe.score(items, num_timesteps, session.generator(seed), batch_size)
    session.write({name: scores[name].cpu().numpy() for name in ("bound", "reconstruction", "bits_per_unit")})


@app.command()
@takes_bulk_options
def optimize(
    checkpoint: Checkpoint,
    data: Data,
    output: Output = "-",
    method: Annotated[str, typer.Option("--method", help="gradient, guided, mcmc, hill_climb or ode.")] = "gradient",
    target: Annotated[str, typer.Option("--target", help="higher, lower or a value.")] = "higher",
    num_steps: Annotated[int, typer.Option("--num_steps", help="Steps of the method.")] = 50,
    max_mutations: Annotated[int | None, typer.Option("--max_mutations", help="Most edits of a sequence.")] = None,
    column: Column = None,
    seed: Seed = 0,
    device: Device = None,
    *,
    bulk: dict[str, Any],
) -> None:
    """Change data so that the model predicts a better property."""
    arguments = {
        "method": method,
        "target": as_target(target),
        "num_steps": num_steps,
        "max_mutations": max_mutations,
    }
    if bulk:
        fields = {"data": data, "column": column, "seed": seed, "device": device, "arguments": arguments}
        run_job("optimize", checkpoint, bulk, **fields)
        return
    session = _session(checkpoint, output, ["sample", "prediction"], device)
    items = session.read(data, column)
    result = session.pipe.optimize(items, generator=session.generator(seed), **arguments)
    session.write({"sample": result.samples, "prediction": result.predictions.cpu().numpy()})


app.command("fit-property")(measured.fit_property)
app.command()(measured.design)
app.command()(restoring.restore)


@app.command("app")
def serve_app(
    checkpoint: Annotated[
        str | None, typer.Argument(help="Folder of a saved pipeline, or its Hub id; none to load one on the page.")
    ] = None,
    host: Annotated[str | None, typer.Option("--host", help="Address to listen on; this machine by default.")] = None,
    port: Annotated[int | None, typer.Option("--port", help="Port; the first free one from 7860 by default.")] = None,
    export_space: Annotated[
        str | None,
        typer.Option("--export_space", "--export-space", help="Write the files of a Space there, and open nothing."),
    ] = None,
    device: Device = None,
) -> None:
    """Try a checkpoint on a page in the browser."""
    with needs_extra("The app", "app"):
        from ..app import page, space
    if export_space is not None:
        typer.echo(f"{export_space}: {', '.join(space.export_space(export_space, checkpoint))}")
        return
    is_local = host in (
        None,
        "127.0.0.1",
        "localhost",
    )  # visitors from elsewhere may not ask for this machine's folders
    page.serve(page.build_page(checkpoint, device, "all" if is_local else "hub"), host, port)


@app.command()
def push(
    folder: Annotated[str, typer.Argument(help="Folder of a saved pipeline.")],
    repo_id: Annotated[str, typer.Argument(help="user/repo; made if need be.")],
    private: Annotated[bool, typer.Option("--private", help="Make a new repository private.")] = False,
    with_code: Annotated[bool, typer.Option("--with_code", help="Add the package's code.")] = False,
    message: Annotated[str, typer.Option("--message", help="Message of the commit.")] = "Upload EDDPMPipeline",
) -> None:
    """Upload a checkpoint and its card to the Hub."""
    from ..pipeline_eddpm import EDDPMPipeline

    pipe = EDDPMPipeline.from_pretrained(folder)
    typer.echo(pipe.push_to_hub(repo_id, private=private or None, with_code=with_code, commit_message=message))


def _pass_on(task: str, modality: str, words: list[str]) -> None:
    if modality in _HELP:
        typer.echo(f"Usage: hf-eddpm {task} text|protein|image [CONFIGURATION.json] [OPTIONS]\n")
        typer.echo(f"`hf-eddpm {task} text --help` lists the usual options, `--help_all` every one.")
        return
    if not set(_HELP).isdisjoint(words) and (task, modality) in USUAL_OPTIONS:
        typer.echo(f"Usage: hf-eddpm {task} {modality} [CONFIGURATION.json] [OPTIONS]\n")
        for option, meaning in USUAL_OPTIONS[task, modality].items():
            typer.echo(f"  {option:32} {meaning}")
        typer.echo("\n  --help_all                       every option")
        return
    from ..training.entry import run_modality

    every = task == "evaluate" and "--help_all" in words  # which knows only the one kind of help
    run_modality(task, modality, ["--help"] if every else words)


def _session(
    checkpoint: str,
    output: str,
    columns: list[str],
    device: str | None,
    writes_images: bool = True,
    truncation: bool = True,
) -> Any:
    from .session import Session

    return Session(checkpoint, output, columns, device, writes_images, truncation)


def main() -> None:
    """Run the command of the command line and exit."""
    keep_freed_memory()
    try:
        app()
    except (ValueError, TypeError, OSError, ImportError) as error:
        print(f"hf-eddpm: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
