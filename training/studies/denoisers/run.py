"""Options of the latent denoiser, each trained alone on the latents of one frozen checkpoint of text or proteins.

    python training/studies/denoisers/run.py model_cards/eddpm-gifford --data train.csv.gz --dev validation.csv.gz \\
        --padding_symbol J --output training/studies/denoisers/results/gifford.json

Encoder and decoder stay as they are; for each option and seed a new denoiser learns the posterior samples of the
training data. Measured are the relative Frechet distance of sampled latents from posterior samples of held-out data,
by scheduler and number of steps, and the held-out error of the denoiser's v at 16 noise levels that are the same for
every option. The first option is the base; each other one differs from it in what its name says, and the best linear
denoiser stands beside them. The file is written after each option, and options that it holds already are not run
again.
"""

import copy
import json
import math
import sys
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers.training_utils import EMAModel
from torch import nn
from tqdm import tqdm
from transformers import HfArgumentParser, get_cosine_schedule_with_warmup

from hf_eddpm import EDDPMConfig, EDDPMModel, EDDPMPipeline, EDDPMScheduler
from hf_eddpm.hub.card import markdown_table
from hf_eddpm.modalities.text.metrics import latent_frechet
from hf_eddpm.training.environment import describe_command, describe_environment
from hf_eddpm.training.evaluation import as_embeddings, plus_minus, spread
from hf_eddpm.training.options import ColumnArguments
from hf_eddpm.training.precision import choose_precision
from hf_eddpm.training.raw_data import load_raw_data

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the studies, which share code

from common.schedulers import SCHEDULERS

DDIM, DPM = "DDIM", "DPM-Solver++ (Karras)"
NUM_NOISE_LEVELS = 16
POSTERIOR_SEED = 1_000_000  # none of `seeds`: equal noise elsewhere would go together with the posterior samples'


@dataclass
class DenoiserArguments:
    """What is compared."""

    checkpoint: str = field(metadata={"help": "Folder or Hub id of the pipeline."})
    data: list[str] = field(metadata={"help": "Training data."})
    dev: list[str] = field(metadata={"help": "Held-out data."})
    output: str = field(metadata={"help": "JSON file to write; the table goes beside it."})
    options: list[str] = field(default_factory=list, metadata={"help": "Names of the options to run; all by default."})
    num_train: int = field(default=20_000, metadata={"help": "Training data to encode, at most."})
    num_steps: int = field(default=1000, metadata={"help": "Training steps."})
    batch_size: int = field(default=256, metadata={"help": "Latents in a step."})
    learning_rate: float = field(default=1e-3, metadata={"help": "AdamW's, with 5%% warm-up and a cosine decay."})
    ema_decay: float = field(default=0.99, metadata={"help": "Decay of the averaged weights."})
    precision: str = field(default="fp32", metadata={"help": "fp32, bf16 or auto (bf16 if the processor has it)."})
    ddim_steps: list[int] = field(default_factory=lambda: [5, 20, 100], metadata={"help": "Numbers of DDIM steps."})
    dpm_steps: list[int] = field(default_factory=lambda: [10], metadata={"help": "Numbers of DPM-Solver++ steps."})
    num_samples: int = field(default=1000, metadata={"help": "Samples for each scheduler, number of steps and seed."})
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2], metadata={"help": "Training and sampling seeds."})
    num_threads: int | None = field(default=None, metadata={"help": "CPU threads of torch."})

    def __post_init__(self) -> None:
        for name in ("num_train", "num_steps", "batch_size", "num_samples"):
            if getattr(self, name) < 1:
                raise ValueError(f"`{name}` must be at least 1, got {getattr(self, name)}.")
        self.precision = choose_precision(self.precision, use_cpu=True)


@dataclass(frozen=True)
class Option:
    """One denoiser.

    Attributes:
        name: What it is called.
        config: Values of `EDDPMConfig` in place of the checkpoint's.
        min_snr: The gamma of Hang et al. 2023 (arXiv 2303.09556), which caps the weight of the clean estimate's error.
        stratified: Whether a batch's timesteps are spread evenly, one in each of as many strata (Kingma et al. 2021,
            arXiv 2107.00630, section 4).
        log_snr: Whether the denoiser is told the log signal-to-noise ratio in place of the timestep.
        linear: Whether the denoiser is the best linear one, computed and not trained: what a network gains over it is
            what it knows of the latents beyond a Gaussian.
        self_conditioning: Whether the denoiser sees its previous clean estimate (Chen et al. 2022, arXiv 2208.04202).
    """

    name: str
    config: dict[str, Any] = field(default_factory=dict)
    min_snr: float | None = None
    stratified: bool = False
    log_snr: bool = False
    linear: bool = False
    self_conditioning: bool = False


def shifted_betas(scheduler: EDDPMScheduler, shift: float) -> list[float]:
    """The betas of a chain whose log signal-to-noise ratio is everywhere larger by `shift` than the scheduler's."""
    kept = torch.sigmoid(torch.logit(scheduler.alphas_cumprod.double()) + shift)  # alphas_cumprod
    return (1 - kept / torch.cat([kept.new_ones(1), kept[:-1]])).tolist()


def options(config: EDDPMConfig) -> list[Option]:
    """The base, and what differs from it by one thing each."""
    chain = EDDPMScheduler(**config.scheduler_config)
    all_options = [
        Option("base: v, constant beta, MLP"),
        Option("best linear denoiser", linear=True),
        Option("epsilon", {"prediction_type": "epsilon"}),
        Option("x0", {"prediction_type": "sample"}),
        Option("cosine schedule", {"beta_schedule": "squaredcos_cap_v2"}),
        Option("log-SNR + log 4", {"trained_betas": shifted_betas(chain, math.log(4))}),
        Option("log-SNR - log 4", {"trained_betas": shifted_betas(chain, -math.log(4))}),
        Option("min-SNR 5", min_snr=5.0),
        Option("stratified timesteps", stratified=True),
        Option("told the log-SNR", log_snr=True),
        Option("self-conditioning", self_conditioning=True),
        Option("MLP, 1.5 x width", {"denoiser_hidden_size": config.denoiser_hidden_size * 3 // 2}),
        Option("timestep embedding of a quarter", {"denoiser_embedding_size": config.denoiser_hidden_size // 4}),
    ]
    if config.num_latents > 1:
        shape = {"denoiser_hidden_size": 128, "denoiser_num_attention_heads": 2}  # about the base's parameters
        all_options.append(Option("transformer", {"denoiser_type": "transformer", **shape}))
    return all_options


class LinearDenoiser(nn.Module):
    """The v that is exact where latents are a Gaussian with the moments of the given ones.

    Args:
        scheduler: The chain.
        means: Posterior means, `(num, num_latents, latent_dim)`.
        variance: Of the posterior around them.
    """

    def __init__(self, scheduler: EDDPMScheduler, means: torch.Tensor, variance: float):
        super().__init__()
        self.scheduler = scheduler
        flat = means.flatten(1).double()
        self.mean = flat.mean(0)
        covariance = torch.cov(flat.T) + variance * torch.eye(flat.shape[1], dtype=flat.dtype)
        self.variances, self.directions = torch.linalg.eigh(covariance)

    def forward(self, noisy_latents: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Return v, shaped as `noisy_latents`."""
        kept = self.scheduler.alphas_cumprod.double()[timesteps].unsqueeze(1)  # (batch, 1)
        noisy = noisy_latents.flatten(1).double()
        shares = kept.sqrt() * self.variances / (kept * self.variances + 1 - kept)
        clean = self.mean + ((noisy - kept.sqrt() * self.mean) @ self.directions * shares) @ self.directions.T
        return ((kept.sqrt() * noisy - clean) / (1 - kept).sqrt()).view_as(noisy_latents)


class Chain:
    """A denoiser with an option, and its noise schedule.

    Args:
        model: The frozen model.
        option: What differs from it.
    """

    def __init__(self, model: EDDPMModel, option: Option):
        values = {**copy.deepcopy(model.config.to_dict()), **option.config}
        self.scheduler = EDDPMScheduler(**EDDPMConfig.from_dict(copy.deepcopy(values)).scheduler_config)
        if option.self_conditioning:
            values["latent_dim"] *= 2  # the clean estimate stands beside each latent
        config = EDDPMConfig.from_dict(values)
        self.network: nn.Module = EDDPMModel(config, encoder=model.encoder, decoder=model.decoder).denoiser
        self.option = option
        kept = self.scheduler.alphas_cumprod
        self.snr = kept / (1 - kept)

    def __call__(
        self, noisy_latents: torch.Tensor, timesteps: torch.Tensor, estimate: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Returns the denoiser's output; `estimate` is its previous clean estimate, if any."""
        told = timesteps
        if self.option.log_snr:  # as a number from 0 (cleanest) to T
            log_snr = self.snr.log()
            told = (log_snr[0] - log_snr[timesteps]) / (log_snr[0] - log_snr[-1]) * len(self.scheduler)
        if not self.option.self_conditioning:
            return self.network(noisy_latents, told).float()
        beside = torch.zeros_like(noisy_latents) if estimate is None else estimate
        output = self.network(torch.cat([noisy_latents, beside], dim=-1), told)
        return output[..., : noisy_latents.shape[-1]].float()

    def clean(
        self, noisy_latents: torch.Tensor, timesteps: torch.Tensor, estimate: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Returns the clean estimate."""
        return self.scheduler.predict(self(noisy_latents, timesteps, estimate), timesteps, noisy_latents)[0]

    def draw_timesteps(self, num: int) -> torch.Tensor:
        """Draws `(num,)` timesteps evenly."""
        if not self.option.stratified:
            return torch.randint(len(self.scheduler), (num,))
        return ((torch.arange(num) + torch.rand(num)) * (len(self.scheduler) / num)).long()

    def loss(self, latents: torch.Tensor) -> torch.Tensor:
        """Returns the mean loss of clean latents `(batch, num_latents, latent_dim)`."""
        timesteps, noise = self.draw_timesteps(len(latents)), torch.randn_like(latents)
        noisy_latents = self.scheduler.add_noise(latents, noise, timesteps)
        estimate = None
        if self.option.self_conditioning and torch.rand(()) < 0.5:
            with torch.no_grad():
                estimate = self.clean(noisy_latents, timesteps)
        output = self(noisy_latents, timesteps, estimate)
        errors = (output - self.scheduler.training_target(latents, noise, timesteps)).square().flatten(1).mean(1)
        if self.option.min_snr is not None:  # of v; that of the clean estimate is (snr + 1) times smaller
            snr = self.snr[timesteps]
            errors = errors * snr.clamp(max=self.option.min_snr) / (snr + 1)
        return errors.mean()


def train(chain: Chain, means: torch.Tensor, variance: float, args: DenoiserArguments) -> float:
    """Trains a chain's denoiser on posterior samples, leaves it the averaged weights, and returns the seconds."""
    start = time.perf_counter()
    parameters = list(chain.network.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=args.learning_rate, betas=(0.9, 0.98), weight_decay=0.01)
    schedule = get_cosine_schedule_with_warmup(optimizer, args.num_steps // 20, args.num_steps)
    average = EMAModel(parameters, decay=args.ema_decay, foreach=True)
    for _ in range(args.num_steps):
        rows = torch.randint(len(means), (args.batch_size,))
        latents = means[rows] + variance**0.5 * torch.randn(args.batch_size, *means.shape[1:])
        with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16"):
            loss = chain.loss(latents)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        schedule.step()
        average.step(parameters)
    average.copy_to(parameters)
    return time.perf_counter() - start


@torch.no_grad()
def sample(chain: Chain, scheduler: Any, num_steps: int, noise: torch.Tensor) -> torch.Tensor:
    """Goes from noise to latents with any scheduler of the chain's noise schedule."""
    scheduler.set_timesteps(num_steps)
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(0)  # with Karras' spacing a timestep may come twice, and is taken for the second one
    latents, estimate = noise, None
    for t in scheduler.timesteps:
        output = chain(latents, t.expand(len(latents)), estimate)
        estimate = chain.scheduler.predict(output, t, latents)[0]
        latents = scheduler.step(output, t, latents).prev_sample
    return latents


@torch.no_grad()
def heldout_error(chain: Chain, latents: torch.Tensor, levels: torch.Tensor, seed: int) -> float:
    """The mean squared error of v over noise levels, given as log signal-to-noise ratios `(levels,)`.

    At each the chain's nearest timestep is taken. A denoiser with self-conditioning sees its estimate from a first
    pass.
    """
    generator = torch.Generator().manual_seed(seed)
    errors = []
    for level in levels:
        timestep = (chain.snr.log() - level).abs().argmin().expand(len(latents))
        noise = torch.randn(latents.shape, generator=generator)
        noisy_latents = chain.scheduler.add_noise(latents, noise, timestep)
        estimate = chain.clean(noisy_latents, timestep) if chain.option.self_conditioning else None
        clean = chain.clean(noisy_latents, timestep, estimate)
        kept = chain.scheduler.alphas_cumprod[timestep[0]]
        errors.append(float((clean - latents).square().mean() / (1 - kept)))  # v = (sqrt(kept) noisy - clean) / sigma
    return float(np.mean(errors))


def measure(
    option: Option, model: EDDPMModel, means: torch.Tensor, heldout: torch.Tensor, args: DenoiserArguments
) -> dict[str, Any]:
    """Trains one option with every seed and measures it.

    Args:
        option: The option.
        model: The frozen model.
        means: Posterior means of the training data, `(num, num_latents, latent_dim)`.
        heldout: Posterior samples of held-out data, shaped likewise.
        args: How long, and what to measure.
    """
    levels = model.scheduler.alphas_cumprod.logit()[:: len(model.scheduler) // NUM_NOISE_LEVELS]
    reference = as_embeddings(heldout)
    wanted = [(DDIM, steps) for steps in args.ddim_steps] + [(DPM, steps) for steps in args.dpm_steps]
    values: dict[str, list[float]] = {}
    num_parameters = 0
    for seed in args.seeds:
        torch.manual_seed(seed)
        chain = Chain(model, option)
        variance = model.config.encoder_noise_variance
        measured: dict[str, float] = {}
        if option.linear:
            chain.network = LinearDenoiser(chain.scheduler, means, variance)
        else:
            measured["seconds"] = train(chain, means, variance, args)
        num_parameters = sum(parameter.numel() for parameter in chain.network.parameters())
        chain.network.eval()
        noise = torch.randn(len(heldout), *means.shape[1:], generator=torch.Generator().manual_seed(seed))
        with torch.autocast("cpu", torch.bfloat16, enabled=args.precision == "bf16" and not option.linear):
            measured["error"] = heldout_error(chain, heldout, levels, seed)
            for name, steps in wanted:
                latents = sample(chain, SCHEDULERS[name](chain.scheduler.config), steps, noise)
                measured[f"{name}, {steps} steps"] = latent_frechet(as_embeddings(latents), reference)
        for key, value in measured.items():
            values.setdefault(key, []).append(value)
    return {
        "option": option.name,
        "num_parameters": num_parameters,
        **{key: spread(each) for key, each in values.items()},
    }


def markdown_report(rows: Iterable[dict[str, Any]]) -> str:
    """The rows as a table."""
    hidden = {"option", "num_parameters", "seconds", "error"}
    return markdown_table(
        [
            {
                "option": row["option"],
                **{key: plus_minus(value, ".4f") for key, value in row.items() if key not in hidden},
                "held-out error of v": plus_minus(row["error"], ".4f") if "error" in row else "",
                "million parameters": f"{row['num_parameters'] / 1e6:.2f}" if "num_parameters" in row else "",
                "training s": plus_minus(row["seconds"], ".0f") if "seconds" in row else "",
            }
            for row in rows
        ]
    )


def main(words: list[str] | None = None) -> list[dict[str, Any]]:
    """Runs the comparison of the command line."""
    parser = HfArgumentParser((DenoiserArguments, ColumnArguments), description=__doc__.splitlines()[0])
    words = sys.argv[1:] if words is None else words
    named = words if words and words[0].startswith("-") else ["--checkpoint", *words]
    args, columns = parser.parse_args_into_dataclasses(args=named)
    if args.num_threads is not None:
        torch.set_num_threads(args.num_threads)
    pipe = EDDPMPipeline.from_pretrained(args.checkpoint)
    pipe.set_progress_bar_config(disable=True)
    pipe.to(dtype=torch.float32)
    model = pipe.model.requires_grad_(False)
    chosen = options(model.config)
    if unknown := set(args.options) - {option.name for option in chosen}:
        raise ValueError(f"`options` must be among {[option.name for option in chosen]}, got {sorted(unknown)}.")

    train_data = load_raw_data(pipe, args.data, columns).sample(args.num_train, 0)
    dev_data = load_raw_data(pipe, args.dev, columns).sample(args.num_samples, 0)
    means, heldout = (pipe.encode(data.items).latents.float() for data in (train_data, dev_data))
    std = model.config.encoder_noise_variance**0.5
    generator = torch.Generator().manual_seed(POSTERIOR_SEED)
    heldout = heldout + std * torch.randn(heldout.shape, generator=generator)
    again = means[: len(heldout)] + std * torch.randn(means[: len(heldout)].shape, generator=generator)
    floor = latent_frechet(as_embeddings(again), as_embeddings(heldout))
    sampled = {
        key: spread([floor])
        for key in [f"{DDIM}, {steps} steps" for steps in args.ddim_steps]
        + [f"{DPM}, {steps} steps" for steps in args.dpm_steps]
    }

    output = Path(args.output)
    output.parent.mkdir(parents=True, exist_ok=True)
    done = json.loads(output.read_text(encoding="utf-8"))["rows"] if output.exists() else []
    rows = {row["option"]: row for row in done}
    for option in tqdm([option for option in chosen if not args.options or option.name in args.options]):
        if option.name in rows:
            continue
        rows[option.name] = measure(option, model, means, heldout, args)
        rows.pop("real data", None)
        rows["real data"] = {"option": "real data", **sampled}
        order = [each.name for each in chosen] + ["real data"]
        ordered = sorted(rows.values(), key=lambda row: order.index(row["option"]))
        settings = {key: value for key, value in asdict(args).items() if isinstance(value, (int, float))}
        result = {
            "command": describe_command("training/studies/denoisers/run.py", words),
            "settings": {**settings, "precision": args.precision, "seeds": args.seeds},
            "num_train": len(means),
            "num_heldout": len(heldout),
            "rows": ordered,
            **describe_environment(torch.device("cpu")),
        }
        output.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
        output.with_suffix(".md").write_text(markdown_report(ordered) + "\n", encoding="utf-8")
    ordered = json.loads(output.read_text(encoding="utf-8"))["rows"]
    print(markdown_report(ordered))
    return ordered


if __name__ == "__main__":
    torch.set_flush_denormal(True)  # as train_text.py
    main()
