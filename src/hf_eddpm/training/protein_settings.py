"""How much the evaluation of protein checkpoints measures."""

from dataclasses import dataclass, field

METHODS = ("gradient", "guided", "mcmc", "hill_climb", "ode")
NUM_EXAMPLES = 10


@dataclass
class EvaluationSettings:
    """How much to measure. The defaults gave the published numbers."""

    num_samples: int = field(default=10_000, metadata={"help": "Generated sequences per number of steps and seed."})
    num_inference_steps: list[int] = field(
        default_factory=lambda: [5, 10, 20, 50, 100], metadata={"help": "Numbers of denoising steps to sample with."}
    )
    seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2], metadata={"help": "Seeds; the first also draws every subset of the data."}
    )
    refinement_steps: list[int] = field(
        default_factory=lambda: [10],
        metadata={"help": "Gradient steps to refine the latents by before reconstructing, each beside none at all."},
    )
    num_neighbors: int = field(default=10, metadata={"help": "Neighbours in the graph over the latents."})
    no_baselines: bool = field(default=False, metadata={"help": "Leave out the regressions on one-hot sequences."})
    no_optimize: bool = field(default=False, metadata={"help": "Leave out the optimisation and its oracle."})
    methods: list[str] = field(default_factory=lambda: list(METHODS), metadata={"help": "Methods of optimisation."})
    num_starts: int = field(default=128, metadata={"help": "Training sequences to optimise the first property of."})
    optimize_steps: int = field(default=50, metadata={"help": "Steps of each method."})
    max_mutations: int | None = field(default=None, metadata={"help": "Most mutations of a start; any by default."})
    genetic_budgets: list[int] = field(
        default_factory=lambda: [2, 11],
        metadata={"help": "Oracle calls of the genetic algorithm, as multiples of `num_starts`, at least 2."},
    )
    oracle_members: int = field(default=5, metadata={"help": "Regressors of the oracle."})
    num_epochs: int = field(default=20, metadata={"help": "Epochs of the oracle's regressors and the baseline's."})
    batch_size: int = field(default=512, metadata={"help": "Sequences per forward pass."})
    limit: int | None = field(
        default=None, metadata={"help": "Upper bound for every number of sequences, for a quick look."}
    )

    def __post_init__(self) -> None:
        names = ("num_samples", "num_neighbors", "num_starts", "optimize_steps", "num_epochs", "batch_size", "limit")
        for name in names:
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1, got {value}.")
        if not self.seeds or not self.num_inference_steps:
            raise ValueError("`seeds` and `num_inference_steps` must each hold at least one number.")
        if any(steps < 1 for steps in self.refinement_steps):
            raise ValueError(f"`refinement_steps` must be at least 1, got {self.refinement_steps}.")
        if unknown := sorted(set(self.methods) - set(METHODS)):
            raise ValueError(f"`methods` must be among {METHODS}, got {unknown}.")
        if any(multiple < 2 for multiple in self.genetic_budgets):
            raise ValueError(f"`genetic_budgets` must be at least 2, got {self.genetic_budgets}.")
        if self.limit is not None:
            for name in ("num_samples", "num_starts"):
                setattr(self, name, min(getattr(self, name), self.limit))
