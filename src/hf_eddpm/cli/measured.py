"""The commands that start from a table of measurements: `fit-property` and `design`.

Positions on the command line are counted from 1, as in the edits that a design prints.
"""

import re
from typing import Annotated, Any, Literal

import typer

from .options import Checkpoint, Device, Seed, as_number, as_target

Table = Annotated[list[str], typer.Option("--measured", help="Table of measurements (csv, tsv, jsonl, parquet).")]
SequenceColumn = Annotated[str, typer.Option("--sequence_column", help="Column of the sequence.")]
PropertyColumns = Annotated[
    list[str] | None, typer.Option("--property_columns", help="Column of a property; fitness by default; repeatable.")
]
Padding = Annotated[str | None, typer.Option("--padding_symbol", help="Letter that the table pads sequences with.")]
SaveDtype = Literal["float32", "float16", "bfloat16"]
UpperCase = Annotated[bool, typer.Option("--upper_case", help="Turn lower-case residues into upper case.")]


def fit_property(
    checkpoint: Checkpoint,
    measured: Table,
    output: Annotated[str, typer.Option("--output", "-o", help="Folder for the pipeline with the new heads.")],
    sequence_column: SequenceColumn = "sequence",
    property_columns: PropertyColumns = None,
    padding_symbol: Padding = None,
    upper_case: UpperCase = False,
    num_members: Annotated[int, typer.Option("--num_members", help="Heads of the ensemble.")] = 16,
    num_steps: Annotated[int, typer.Option("--num_steps", help="Steps of their training.")] = 1000,
    held_out: Annotated[
        list[str] | None,
        typer.Option("--held_out", help="Table that the uncertainty is fitted to, where the model knows --measured."),
    ] = None,
    save_dtype: Annotated[SaveDtype, typer.Option("--save_dtype", help="Of the weights in the folder.")] = "float32",
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Fit an ensemble of property heads to measurements, so that predictions say how sure they are."""
    import torch

    from .session import Session

    session = Session(checkpoint, "-", ["sample"], device)
    data = _read(measured, sequence_column, property_columns, padding_symbol, upper_case)
    other = _read(held_out, sequence_column, property_columns, padding_symbol, upper_case) if held_out else None
    fit = session.pipe.fit_property(
        data.sequences,
        _by_column(data),
        num_members=num_members,
        num_steps=num_steps,
        generator=session.generator(seed),
        held_out=None if other is None else other.sequences,
        held_out_properties=None if other is None else _by_column(other),
    )
    session.pipe.to(dtype=getattr(torch, save_dtype))
    session.pipe.save_pretrained(output)
    which = "held out" if held_out else "left out of a member's training"
    typer.echo(f"{output}: {fit.num_rows} sequences, {which}:")
    for index, name in enumerate(data.property_names):
        typer.echo(
            f"{name}: RMSE {fit.rmse[index]:.4g}, 90 % intervals hold {fit.coverage_90[index]:.0%}, calibration error "
            f"{fit.calibration_error[index]:.3f}"
        )


def design(
    checkpoint: Checkpoint,
    output: Annotated[
        str, typer.Option("--output", "-o", help="File (csv, tsv, jsonl, parquet, fasta, a2m, a3m), or -.")
    ] = "-",
    measured: Annotated[
        list[str] | None, typer.Option("--measured", help="Table of measurements (csv, tsv, jsonl, parquet).")
    ] = None,
    sequence_column: SequenceColumn = "sequence",
    property_columns: PropertyColumns = None,
    padding_symbol: Padding = None,
    upper_case: UpperCase = False,
    starts: Annotated[str | None, typer.Option("--starts", help="File of proteins to start from, or one.")] = None,
    wild_type: Annotated[
        str | None, typer.Option("--wild_type", help="Protein that edits are counted from, or its file.")
    ] = None,
    num_designs: Annotated[int, typer.Option("--num_designs", "-n", help="Size of the batch.")] = 96,
    target: Annotated[
        list[str] | None, typer.Option("--target", help="higher, lower or a value; one for each property.")
    ] = None,
    weights: Annotated[
        str | None, typer.Option("--weights", help="Of several properties, for example 1,0.5; or pareto.")
    ] = None,
    max_mutations: Annotated[int | None, typer.Option("--max_mutations", help="Most edits of a sequence.")] = None,
    frozen: Annotated[
        str | None, typer.Option("--frozen", help="Positions that stay, from 1, for example 1-38,42.")
    ] = None,
    allowed: Annotated[
        list[str] | None, typer.Option("--allowed", help="Residues of a position, for example 39=AVL; repeatable.")
    ] = None,
    forbid: Annotated[
        list[str] | None,
        typer.Option("--forbid", help="glycosylation, cysteine, extra_cysteine or a pattern; repeatable."),
    ] = None,
    max_insertions: Annotated[
        int | None, typer.Option("--max_insertions", help="Most inserted residues; above 0 some are proposed.")
    ] = None,
    max_deletions: Annotated[
        int | None, typer.Option("--max_deletions", help="Most deleted residues; above 0 some are proposed.")
    ] = None,
    min_distance: Annotated[int, typer.Option("--min_distance", help="Fewest edits between two designs.")] = 1,
    min_novelty: Annotated[int, typer.Option("--min_novelty", help="Fewest edits from known sequences.")] = 1,
    known: Annotated[list[str] | None, typer.Option("--known", help="File of known sequences; repeatable.")] = None,
    library: Annotated[
        list[str] | None, typer.Option("--library", help="File of the only sequences to choose from; repeatable.")
    ] = None,
    methods: Annotated[
        list[str] | None, typer.Option("--methods", help="Where candidates come from; all by default; repeatable.")
    ] = None,
    use_latents: Annotated[
        bool, typer.Option("--use_latents", help="Judge by latents too; not for rows the checkpoint was trained on.")
    ] = False,
    exploration: Annotated[float, typer.Option("--exploration", help="Weight of the uncertainty.")] = 0.5,
    acquisition: Annotated[str, typer.Option("--acquisition", help="thompson or ucb.")] = "thompson",
    num_candidates: Annotated[int, typer.Option("--num_candidates", help="Of each method, about.")] = 2000,
    num_steps: Annotated[int, typer.Option("--num_steps", help="Steps of the searches in the latents.")] = 20,
    report: Annotated[str | None, typer.Option("--report", help="HTML file for a page with pictures.")] = None,
    seed: Seed = 0,
    device: Device = None,
) -> None:
    """Choose the next proteins to measure, from a table of measurements."""
    from .files import STANDARD, check_output
    from .session import Session

    is_fasta, is_alignment = output.endswith((".fasta", ".fa")), output.endswith((".a2m", ".a3m"))
    if is_fasta or is_alignment:
        check_output(output, ["sequence"], more=(".a2m", ".a3m"))
        session = Session(checkpoint, STANDARD, ["sequence"], device)
    else:
        session = Session(checkpoint, output, ["rank", "sequence"], device)
    table = None
    if measured:
        table = _read(measured, sequence_column, property_columns, padding_symbol, upper_case)
    origin = None if wild_type is None else session.read_or_take(wild_type, None)
    designs = session.pipe.design(
        None if starts is None else session.read_or_take(starts, None),
        measured=None if table is None else table.sequences,
        values=None if table is None else _by_column(table),
        num_designs=num_designs,
        target=_targets(target),
        weights=_weights(weights),
        wild_type=None if origin is None else origin[0],
        max_mutations=max_mutations,
        frozen_positions=None if frozen is None else _positions(frozen),
        allowed_residues=None if not allowed else dict(map(_allowed, allowed)),
        forbidden_motifs=forbid or [],
        max_insertions=max_insertions,
        max_deletions=max_deletions,
        min_distance=min_distance,
        min_novelty=min_novelty,
        known_sequences=None if not known else session.read(known, None),
        library=None if not library else session.read(library, None),
        methods=methods or None,
        use_latents=use_latents,
        exploration=exploration,
        acquisition=acquisition,
        num_candidates=num_candidates,
        num_steps=num_steps,
        generator=session.generator(seed),
    )
    if is_fasta:
        designs.to_fasta(output)
    elif is_alignment:
        designs.to_alignment(output)
    else:
        rows = designs.rows()
        session.write({name: [row[name] for row in rows] for name in (rows[0] if rows else [])})
    if report is not None:
        designs.to_html(report)
    for note in designs.notes:
        typer.echo(note, err=True)


def _read(
    sources: list[str], sequence_column: str, property_columns: list[str] | None, padding: str | None, upper: bool
) -> Any:
    from ..modalities.protein.data import load_proteins

    return load_proteins(
        sources,
        sequence_column=sequence_column,
        property_columns=property_columns or ["fitness"],
        padding_symbol=padding,
        upper_case=upper,
    )


def _by_column(data: Any) -> dict[str, Any]:
    return {name: data.properties[:, index].tolist() for index, name in enumerate(data.property_names)}


def _targets(words: list[str] | None) -> Any:
    targets = [as_target(word) for word in words or ["higher"]]
    return targets[0] if len(targets) == 1 else targets


def _weights(text: str | None) -> Any:
    if text in (None, "pareto"):
        return text
    return [as_number(word, "--weights", "'pareto' or numbers after commas") for word in str(text).split(",")]


def _positions(text: str) -> list[int]:
    """Return positions from 0 of a list of positions and ranges from 1."""
    positions: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None or int(match[1]) < 1 or int(match[2] or match[1]) < int(match[1]):
            raise ValueError(f"`--frozen` must hold positions from 1 and ranges, for example 1-38,42, got {text!r}.")
        positions += range(int(match[1]) - 1, int(match[2] or match[1]))
    return positions


def _allowed(text: str) -> tuple[int, str]:
    match = re.fullmatch(r"(\d+)=([A-Z]+)", text)
    if match is None or int(match[1]) < 1:
        raise ValueError(f"`--allowed` must be a position from 1 and its residues, for example 39=AVL, got {text!r}.")
    return int(match[1]) - 1, match[2]
