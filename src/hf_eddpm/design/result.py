"""A batch of designs as a table, a plate, and files."""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers.utils import BaseOutput

from ..argument_types import checked
from ..extras import needs_extra
from .alignment import write_alignment
from .plate import COLUMNS, ROWS, WELLS


@dataclass
class Design:
    """A protein that is proposed for measurement.

    Args:
        rank: Place in the batch, from 1, in the order of choice.
        sequence: Residues.
        start: The start, or wild type, that is nearest.
        edits: What makes it from the start, positions counted from 1: `A39W`, `A39del`, `39_40insW`.
        num_edits: How many (Levenshtein).
        predicted: Median of the predicted measurement, for each property in the data's unit.
        std: Half the width of the interval that holds 68 % of measurements, by prediction.
        low: Lower end of the predicted 90 % interval.
        high: Upper end.
        utility: What was asked for, in standard deviations of the measured property: higher is better.
        nearest_known: The measured (or otherwise known) sequence that is nearest; None if none is known.
        distance_to_known: Its distance in edits.
        bound: The model's bound on the sequence's negative log-likelihood in nats; the lower, the more plausible.
        method: Where the candidate came from first.
    """

    rank: int
    sequence: str
    start: str
    edits: list[str]
    num_edits: int
    predicted: list[float]
    std: list[float]
    low: list[float]
    high: list[float]
    utility: float
    nearest_known: str | None
    distance_to_known: int | None
    bound: float
    method: str


@dataclass
class EDDPMDesigns(BaseOutput):
    """Result of `EDDPMPipeline.design`: a ranked batch.

    Args:
        designs: The batch, in the order of choice.
        property_names: What the predicted properties are called.
        notes: What was found in the measurements, how well the judge predicts what it has not seen, and what kept the
            batch small, if it is.
        rejected: How many different candidates each constraint rejected.
        num_candidates: How many different ones kept all limits.
        latents: Their posterior means, float32 `(designs, num_latents, latent_dim)`.
        known_latents: Those of measured sequences, at most 1,000 of them drawn at random.
    """

    designs: list[Design]
    property_names: list[str]
    notes: list[str]
    rejected: dict[str, int]
    num_candidates: int
    latents: torch.Tensor
    known_latents: torch.Tensor

    def __len__(self) -> int:
        return len(self.designs)

    def __iter__(self) -> Iterator[Design]:
        return iter(self.designs)

    def __repr__(self) -> str:
        shown = [f"  {design.rank:3} {design.sequence} ({', '.join(design.edits)})" for design in self.designs[:5]]
        more = [f"  ... ({len(self)} in all)"] if len(self) > 5 else []
        return "\n".join([f"EDDPMDesigns of {', '.join(self.property_names)}:", *shown, *more])

    @property
    def sequences(self) -> list[str]:
        """The designs' sequences."""
        return [design.sequence for design in self.designs]

    @checked
    def wells(self, order: Literal["rows", "columns"] = "rows") -> list[str]:
        """Return the well of each design on plates of 96: "A1" to "H12", on further plates "2:A1" and so on.

        Args:
            order: Whether wells are filled row by row (A1, A2, ...) or column by column (A1, B1, ...).
        """
        names = []
        for number in range(len(self)):
            plate, place = divmod(number, WELLS)
            row, column = divmod(place, COLUMNS) if order == "rows" else divmod(place, len(ROWS))[::-1]
            names.append(f"{f'{plate + 1}:' if plate else ''}{ROWS[row]}{column + 1}")
        return names

    @checked
    def rows(self, order: Literal["rows", "columns"] = "rows") -> list[dict[str, Any]]:
        """Return the table: for each design its columns by name.

        Args:
            order: As for `wells`.
        """
        table = []
        for design, well in zip(self.designs, self.wells(order), strict=True):
            row: dict[str, Any] = {"rank": design.rank, "well": well, "sequence": design.sequence}
            row |= {"edits": " ".join(design.edits), "num_edits": design.num_edits}
            for index, name in enumerate(self.property_names):
                row |= {
                    f"predicted {name}": design.predicted[index],
                    f"std {name}": design.std[index],
                    f"low {name}": design.low[index],
                    f"high {name}": design.high[index],
                }
            row |= {"utility": design.utility, "distance_to_known": design.distance_to_known}
            row |= {"nearest_known": design.nearest_known, "bound": design.bound, "method": design.method}
            table.append(row | {"start": design.start})
        return table

    def to_csv(self, path: str | Path, order: Literal["rows", "columns"] = "rows") -> None:
        """Write the table as comma-separated values, or with tabs if the file ends in .tsv; numbers have six digits.

        Args:
            path: The file.
            order: As for `wells`.
        """
        separator = "\t" if str(path).endswith(".tsv") else ","
        table = self.rows(order)
        with open(path, "w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(
                file, list(table[0]) if table else ["rank"], delimiter=separator, lineterminator="\n"
            )
            writer.writeheader()
            for row in table:
                writer.writerow({k: f"{v:.6g}" if isinstance(v, float) else v for k, v in row.items()})

    def headers(self) -> list[str]:
        """Return for each design its line in a FASTA file: the rank, the well, the edits and the predictions."""
        lines = []
        for design, well in zip(self.designs, self.wells(), strict=True):
            pairs = zip(self.property_names, design.predicted, strict=True)
            predictions = " ".join(f"{name.replace(' ', '_')}={value:.4g}" for name, value in pairs)
            lines.append(f">design_{design.rank} {well} {'/'.join(design.edits) or 'start'} {predictions}")
        return lines

    def to_fasta(self, path: str | Path) -> None:
        """Write the sequences, each after its header (see `headers`).

        Args:
            path: The file.
        """
        with open(path, "w", encoding="utf-8") as file:
            for header, design in zip(self.headers(), self.designs, strict=True):
                file.write(f"{header}\n{design.sequence}\n")

    def to_alignment(self, path: str | Path) -> None:
        """Write an alignment of the designs to the start of the first of them, which is its first row.

        Match states are in upper case, deletions are "-", and inserted residues are in lower case (a3m, HH-suite); in
        a2m (Krogh et al. 1994) the other rows have a "." beside each, so that all rows are of one length.

        Args:
            path: The file; its ending, .a2m or .a3m, is the format.

        Raises:
            ValueError: If the file has another ending, or there is no design.
        """
        if not str(path).endswith((".a2m", ".a3m")):
            raise ValueError(f"`path` must end in .a2m or .a3m, got {str(path)!r}.")
        if not self.designs:
            raise ValueError("`to_alignment` needs at least one design: there is nothing to align to.")
        rows = write_alignment(self.sequences, self.designs[0].start, fill=str(path).endswith(".a2m"))
        with open(path, "w", encoding="utf-8") as file:
            for header, row in zip([">start", *self.headers()], rows, strict=True):
                file.write(f"{header}\n{row}\n")

    @checked
    def to_html(self, path: str | Path, title: str = "Designs") -> None:
        """Write a page with the pictures, the plate and the table.

        Args:
            path: The file.
            title: Its heading.

        Raises:
            ImportError: If matplotlib, of the extra `train`, is not installed.
        """
        from .report import write_report

        write_report(self, path, title)

    @checked
    def to_pandas(self, order: Literal["rows", "columns"] = "rows") -> Any:
        """Return the table as a pandas data frame.

        Args:
            order: As for `wells`.

        Raises:
            ImportError: If pandas, of the extra `train`, is not installed.
        """
        with needs_extra("A data frame"):
            import pandas as pd
        return pd.DataFrame(self.rows(order))

    @checked
    def plate(self, order: Literal["rows", "columns"] = "rows") -> list[list[list[Design | None]]]:
        """Return plates as 8 rows of 12 wells, None where empty.

        Args:
            order: As for `wells`.
        """
        plates: list[list[list[Design | None]]] = []
        for number, design in enumerate(self.designs):
            index, place = divmod(number, WELLS)
            if index == len(plates):
                plates.append([[None] * COLUMNS for _ in ROWS])
            row, column = divmod(place, COLUMNS) if order == "rows" else divmod(place, len(ROWS))[::-1]
            plates[index][row][column] = design
        return plates
