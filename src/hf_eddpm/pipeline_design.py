"""What the pipeline does with measurements: an ensemble of heads fitted to them, and the next batch to measure."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from .argument_types import Bounds, Count, CountOrZero, NumberFromZero, Steps, checked
from .control.guidance import EnergyGuidance, LatentSpace
from .control.optimization import optimize
from .extras import needs_extra
from .modeling_property import PropertyHead
from .outputs import EDDPMPropertyFit
from .processing_eddpm import EDDPMProcessor
from .property_ensemble import HeadSizes, fit_ensemble
from .sampling import without_gradient

Members = Annotated[int, Bounds(at_least=2, at_most=100)]
BatchOfDesigns = Annotated[int, Bounds(at_least=1, at_most=9600)]
Target = float | Literal["higher", "lower"]
Candidates = Annotated[int, Bounds(at_least=1, at_most=10**6)]

Objective = Callable[[torch.Tensor], torch.Tensor]

_GUIDANCE = 10.0  # weight of the goal, in standard deviations of the property, for guided samples


class DesignMixin:
    """The methods of `EDDPMPipeline` that learn from a table of measurements.

    A plain class beside it: diffusers takes the only pipeline class in a module for the one to load.
    """

    model: Any
    processor: EDDPMProcessor
    encode: Callable[..., Any]
    decode: Callable[..., Any]
    score: Callable[..., Any]
    progress_bar: Callable[..., Any]
    maybe_free_model_hooks: Callable[[], None]
    _execution_device: torch.device
    _space: Callable[[], LatentSpace]

    @without_gradient
    @checked
    def fit_property(
        self,
        data: Any,
        properties: Any,
        num_members: Members = 16,
        num_steps: Steps = 1000,
        batch_size: Count = 256,
        generator: torch.Generator | None = None,
        held_out: Any = None,
        held_out_properties: Any = None,
    ) -> EDDPMPropertyFit:
        """Fit an ensemble of property heads to measurements; the rest of the model stays as it is.

        They take the place of the model's head. Afterwards `predict(..., return_std=True)` says how sure a prediction
        is, and guidance, `optimize` and `design` follow the new heads; `save_pretrained` keeps them. The pipeline
        changes for all that use it.

        Args:
            data: Measured data. Repeats are averaged.
            properties: Their values in any unit, `(rows,)` or `(rows, num_properties)`, or columns by name (a data
                frame); None or NaN where missing.
            num_members: Heads of the ensemble.
            num_steps: Steps of their training, seconds in all.
            batch_size: How many are encoded at a time.
            generator: Source of their initial weights and of what each of them sees.
            held_out: Other measured data, to which the uncertainty is fitted. Give them where the checkpoint has
                learned from the properties of `data` itself, whose latents know these better than those of new data:
                without them its intervals would be too narrow. By default each row is held out from some heads.
            held_out_properties: Their values, as `properties`.

        Returns:
            How well rows are predicted by the heads that have not seen them.

        Raises:
            TypeError: If `data` or `properties` is no list.
            ValueError: If a row cannot be used, named with its column, a property has no two different values, or
                `held_out` or its values come alone.
        """
        from .design.measurements import check_measurements

        table = check_measurements(data, properties, self._as_list, arguments=("data", "properties"))
        config = self.model.config
        sizes = HeadSizes(config.latent_size, len(table.names), config.property_hidden_size, num_members)
        latents = self.encode(table.sequences, batch_size).latents
        others = None
        if held_out is not None and held_out_properties is None:
            raise ValueError("`held_out_properties` must be given with `held_out`, got None.")
        if held_out is None and held_out_properties is not None:
            raise ValueError("`held_out` must be given with `held_out_properties`, got None.")
        if held_out is not None:
            names = ("held_out", "held_out_properties")
            other = check_measurements(held_out, held_out_properties, self._as_list, table.names, names)
            others = self.encode(other.sequences, batch_size).latents, torch.from_numpy(other.values)
        fitted = fit_ensemble(sizes, latents, torch.from_numpy(table.values), num_steps, generator, others)
        self.model.property_head = fitted.head.to(self._execution_device, self.model.denoiser.output.weight.dtype)
        config.num_properties, config.property_members = sizes.num_properties, num_members
        self.model.name_or_path = ""  # no longer the weights of that name
        fitted.fit.notes = table.notes
        self.maybe_free_model_hooks()
        return fitted.fit

    @without_gradient
    @checked
    def design(
        self,
        starts: Any = None,
        measured: Any = None,
        values: Any = None,
        num_designs: BatchOfDesigns = 96,
        target: Target | Sequence[Target] = "higher",
        weights: Sequence[NumberFromZero] | Literal["pareto"] | None = None,
        wild_type: str | None = None,
        max_mutations: CountOrZero | None = None,
        frozen_positions: Sequence[int] | None = None,
        allowed_residues: Mapping[int, str] | None = None,
        forbidden_motifs: Sequence[str] = (),
        max_insertions: CountOrZero | None = None,
        max_deletions: CountOrZero | None = None,
        min_distance: Count = 1,
        min_novelty: CountOrZero = 1,
        known_sequences: Any = None,
        library: Any = None,
        methods: Sequence[str] | None = None,
        use_latents: bool = False,
        exploration: NumberFromZero = 0.5,
        acquisition: Literal["ucb", "thompson"] = "thompson",
        num_candidates: Candidates = 2000,
        num_steps: Steps = 20,
        generator: torch.Generator | None = None,
    ) -> Any:
        """Choose the next proteins to measure.

        Candidates of several methods (searches in the latents, samples, mutation, recombination and evolution of good
        sequences) are made unique and kept within the limits. With measurements a Gaussian process fitted to them
        judges the candidates, without them the checkpoint's ensemble of heads. The batch is chosen for high
        predictions and for what is still uncertain, so that it is not all of a kind. Predictions are no measurements.

        Positions are counted from 0 here, as in `optimize`, and from 1 in the edits of the result.

        Args:
            starts: Proteins to start from, one or a list; by default the best measured ones, or samples.
            measured: Measured proteins; repeats are replicates and are averaged.
            values: Their measurements, `(rows,)` or `(rows, num_properties)`, or columns by name (a data frame); None
                or NaN where missing.
            num_designs: Size of the batch, 1 to 9600. Where the limits leave fewer, these are returned, and the result
                says what bound.
            target: "higher", "lower", or a value in the data's unit; a list has one for each property.
            weights: Of several properties, in standard deviations of each; "pareto" for all compromises between them.
            wild_type: What edits are counted from, by default the nearest start.
            max_mutations: Most edits from there, at least 1; None for no limit.
            frozen_positions: Positions that keep their residues, and with them the sequence its length unless
                insertions or deletions are asked for.
            allowed_residues: For some positions the residues that may stand there, for example `{38: "AVL"}`.
            forbidden_motifs: "glycosylation" (N-X-S/T, X not P), "cysteine", "extra_glycosylation" and
                "extra_cysteine" (no more than the start has), or regular expressions of residues.
            max_insertions: Most residues inserted. With a number above 0 insertions are proposed and judged: positions
                are then those of an alignment to `wild_type`, or to the first start. None, the default, proposes
                none, but takes samples of the model that have some unless a position is limited; 0 refuses any.
            max_deletions: Most residues deleted; `None` and 0 mean the same as above.
            min_distance: Fewest edits between two designs.
            min_novelty: Fewest edits between a design and a known sequence; 0 to allow known ones.
            known_sequences: Proteins that are known besides `measured`, for example the training set.
            library: The only proteins that may be chosen, for example those of a library that can be ordered.
            methods: Some of "gradient", "guided", "mcmc", "hill_climb", "ode" (see `optimize`), "sample",
                "guided_sample", "mutate", "recombine", "evolve" and, with a `library` of few varied sites, "library"
                (what the judge prefers of all of it); by default all.
            use_latents: Whether the judge of a table sees the latents, besides the sequences. Where the checkpoint has
                learned from other measurements of such proteins this is far better
                (docs/benchmarks/protein-design.md). Not for rows that the checkpoint was trained on, whose values its
                latents know: the judge would be too sure.
            exploration: Weight of the uncertainty against the prediction; 0 for the highest predictions alone.
            acquisition: "thompson" (the best by functions drawn at random) or "ucb" (mean plus uncertainty); see
                `hf_eddpm.design.selection`.
            num_candidates: About how many candidates each method proposes.
            num_steps: Steps of the searches in the latents.
            generator: Source of everything drawn.

        Returns:
            An `EDDPMDesigns`: a table that writes itself as CSV, FASTA or HTML.

        Raises:
            TypeError: If an argument has the wrong type.
            ImportError: If the extra `train` is not installed.
            ValueError: If an argument is out of range, a row of the table cannot be used (named with its column),
                constraints contradict each other, or there is neither a table nor an ensemble of heads.
        """
        if self.model.config.modality != "protein":
            raise ValueError(f"`design` is for proteins, got a model of modality {self.model.config.modality!r}.")
        with needs_extra("Designing proteins"):
            from .design.designing import DesignRequest, ModelParts, design_batch

        request = DesignRequest(
            starts=starts,
            measured=measured,
            values=values,
            num_designs=num_designs,
            target=target,
            weights=weights,
            wild_type=wild_type,
            max_mutations=max_mutations,
            frozen_positions=frozen_positions,
            allowed_residues=allowed_residues,
            forbidden_motifs=forbidden_motifs,
            max_insertions=max_insertions,
            max_deletions=max_deletions,
            min_distance=min_distance,
            min_novelty=min_novelty,
            known_sequences=known_sequences,
            library=library,
            methods=methods,
            use_latents=use_latents,
            exploration=exploration,
            acquisition=acquisition,
            num_candidates=num_candidates,
            num_steps=num_steps,
        )
        parts = ModelParts(
            config=self.model.config,
            head=self.model.property_head,
            lengths=self._lengths(),
            as_list=self._as_list,
            to_frames=self._to_frames,
            encode=lambda sequences: self.encode(list(sequences)).latents.to(self._execution_device),
            sample=self._sample,
            search=self._search,
            bound=lambda sequences: self.score(list(sequences), 32, generator).bound.cpu().double().numpy(),
        )
        designs = design_batch(parts, request, generator)
        self.maybe_free_model_hooks()
        return designs

    def _as_list(self, data: Any, name: str = "data") -> list[Any]:
        checked_data: list[Any] = self.processor.as_list(data, name)
        return checked_data

    def _lengths(self) -> tuple[int, int]:
        processor: Any = self.processor
        return processor.min_length, processor.length

    def _to_frames(self, sequences: Sequence[str]) -> NDArray[np.uint8]:
        from .modalities.protein.metrics import to_frames

        processor: Any = self.processor
        return to_frames(sequences, processor.length, processor.alignment)

    def _sample(self, num: int, objective: Objective | None, generator: torch.Generator | None) -> list[str]:
        """Draw samples, guided by an objective of the latents if there is one."""
        guidance = None if objective is None else EnergyGuidance(lambda latents: -objective(latents), _GUIDANCE)
        samples: list[str] = self(num, guidance=guidance, generator=generator).samples  # type: ignore[operator]
        return samples

    def _search(
        self,
        method: Any,
        starts: list[str],
        judge: tuple[PropertyHead, Objective],
        num_steps: int,
        limits: dict[str, Any],
        generator: torch.Generator | None,
    ) -> list[str]:
        """Return all sequences that a search in the latents goes through."""
        result = optimize(
            self._space(),
            self.processor,
            self.decode,
            self.progress_bar,
            starts,
            method=method,
            num_steps=num_steps,
            generator=generator,
            judge=judge,
            **limits,
        )
        return [sample for path in result.trajectory for sample, _ in path]
