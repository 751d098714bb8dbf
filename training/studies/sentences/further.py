"""Trains encoder and decoder of a checkpoint further, on hard sentences more often, for so many minutes.

    torchrun --nproc_per_node 2 training/studies/sentences/further.py \\
        --checkpoint model_cards/eddpm-sentences --data data/sentences --minutes 80 --output_dir runs/sentences-further

`--data` is the folder that `prepare.py` wrote. Classes are drawn in the proportions of `--shares`, and a sentence of n
tokens is taken with the probability n / 18, at least 0.15: short ones are known already. A share is altered
(`altering.py`): what is lost is where words stand beside others than in training. Batches are of sentences of
like length, so the latents are normalised by running statistics (batch renormalisation). The learning rate is constant
for a quarter of the time and then falls to 0. The denoiser stays behind and must follow: `chain.py`.
"""

import argparse
import json
import random
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import broadcast
from diffusers.training_utils import EMAModel
from torch import nn

from hf_eddpm import EDDPMModel, EDDPMPipeline, EDDPMProcessor
from hf_eddpm.latents import disturb
from hf_eddpm.training.precision import choose_precision

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the studies, which share code

from sentences.altering import Alteration

KNOWN = 18  # tokens from which on a sentence is always taken
LEAST = 0.15  # probability of the shortest
GROUP = 32  # batches that are sorted by length together
WARMUP_STEPS = 60
SHARES = (0.08, 0.08, 0.15, 0.48, 0.21)  # half of them turns of the system, where most is lost
CONSTANT = 0.25  # share of the time before the learning rate falls


class Reconstruction(nn.Module):
    """The reconstruction term alone, as a module that processes can share.

    Args:
        model: The model, whose denoiser is left out.
    """

    def __init__(self, model: EDDPMModel):
        super().__init__()
        self.encoder, self.bottleneck, self.decoder = model.encoder, model.bottleneck, model.decoder
        self.noise_variance = model.config.decoder_noise_variance

    def forward(self, inputs: dict[str, torch.Tensor], labels: torch.Tensor) -> torch.Tensor:
        """Return the nats per token of a batch; in training the latents are drawn and disturbed."""
        posterior = self.bottleneck(self.encoder(**inputs))
        latents = posterior.mean
        if self.training:
            latents = disturb(posterior.sample(), self.noise_variance)
        nats, num_tokens = self.decoder(latents, labels=labels)
        return nats.sum() / num_tokens.sum()


def batches(
    pools: Sequence[tuple[list[str], list[int]]],
    shares: Sequence[float],
    batch_size: int,
    rng: random.Random,
    altered: float = 0.0,
) -> Iterator[list[str]]:
    """Yield batches of sentences of like length, for ever.

    Args:
        pools: Sentences of each class and their tokens.
        shares: How often a class is drawn.
        batch_size: Sentences of a batch.
        rng: Source of the draws.
        altered: Share of the sentences that are altered, by others of their class.
    """
    alter: list[Callable[[str], str]] = [Alteration(sentences, rng) for sentences, _ in pools] if altered else []
    queues: list[list[int]] = [[] for _ in pools]
    while True:
        group = []
        for label in rng.choices(range(len(pools)), weights=shares, k=batch_size * GROUP):
            sentences, lengths = pools[label]
            while not queues[label]:
                rows = rng.sample(range(len(sentences)), len(sentences))
                queues[label] = [row for row in rows if rng.random() < max(LEAST, lengths[row] / KNOWN)]
            row = queues[label].pop()
            sentence, length = sentences[row], float(lengths[row])
            if rng.random() < altered:
                changed = alter[label](sentence)
                length *= len(changed) / max(1, len(sentence))
                sentence = changed
            group.append((length + 4 * rng.random(), sentence))
        group.sort()
        starts = list(range(0, len(group), batch_size))
        rng.shuffle(starts)
        yield from ([sentence for _, sentence in group[start : start + batch_size]] for start in starts)


def learning_rate(highest: float, step: int, passed: float) -> float:
    """Return the learning rate of a step, counted from 0, when a share of the time has passed."""
    falling = min(1.0, (1 - passed) / (1 - CONSTANT))
    return highest * min(1.0, (step + 1) / WARMUP_STEPS) * falling


def prepared(
    processor: EDDPMProcessor, sentences: list[str], device: torch.device
) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
    """Return what the encoder takes of a batch, and its labels."""
    batch = {name: tensor.to(device) for name, tensor in processor(sentences).items()}
    labels = batch.pop("labels")
    return batch, labels


@torch.no_grad()
def held_out(reconstruction: Reconstruction, processor: EDDPMProcessor, sentences: list[str]) -> float:
    """Return the nats per token of held-out sentences."""
    reconstruction.eval()
    nats = float(reconstruction(*prepared(processor, sentences, next(reconstruction.parameters()).device)))
    reconstruction.train()
    return nats


def main(words: Sequence[str] | None = None) -> None:
    """Trains, saves the pipeline in half precision and the log beside it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", required=True, help="folder or Hub id of the pipeline")
    parser.add_argument("--data", type=Path, required=True, help="folder with train.0.txt, dev.0.txt and so on")
    parser.add_argument("--output_dir", type=Path, required=True, help="folder for the new pipeline")
    parser.add_argument("--shares", type=float, nargs="+", default=SHARES, help="of the classes")
    parser.add_argument("--altered", type=float, default=0.5, help="share of the sentences that are altered")
    parser.add_argument("--minutes", type=float, default=80)
    parser.add_argument("--batch_size", type=int, default=64, help="of each process")
    parser.add_argument("--learning_rate", type=float, default=5e-4)
    parser.add_argument("--ema_decay", type=float, default=0.998)
    parser.add_argument("--log_minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args(words)

    on_cpu = not torch.cuda.is_available()
    precision = choose_precision("auto", use_cpu=on_cpu)
    # Processes on CPUs train each for itself, unless told.
    accelerator = Accelerator(cpu=on_cpu, mixed_precision="no" if precision == "fp32" else precision)
    torch.manual_seed(arguments.seed * 10 + accelerator.process_index)
    rng = random.Random(arguments.seed * 10 + accelerator.process_index)
    pipe = EDDPMPipeline.from_pretrained(arguments.checkpoint, dtype=torch.float32)
    model, processor = pipe.model, pipe.processor
    model.config.latent_normalization = "batch_renorm"
    model.bottleneck.normalization.choose(renormalize=True)
    pools, dev = [], []
    for label in range(len(arguments.shares)):
        sentences = (arguments.data / f"train.{label}.txt").read_text(encoding="utf-8").splitlines()
        ids = processor.tokenizer(sentences, truncation=True, max_length=processor.max_length)["input_ids"]
        pools.append((sentences, [len(row) for row in ids]))
        sentences = (arguments.data / f"dev.{label}.txt").read_text(encoding="utf-8").splitlines()
        dev.append(random.Random(0).sample(sentences, min(300, len(sentences))))
    reconstruction = Reconstruction(model).train()
    parameters = list(reconstruction.parameters())
    optimizer = torch.optim.AdamW(parameters, lr=arguments.learning_rate, betas=(0.9, 0.98), weight_decay=0.05)
    shared, optimizer = accelerator.prepare(reconstruction, optimizer)
    average = EMAModel(parameters, decay=arguments.ema_decay, foreach=True)
    stream = batches(pools, arguments.shares, arguments.batch_size, rng, arguments.altered)
    log, step, logged, start = [], 0, 0.0, time.perf_counter()
    while True:
        seconds = broadcast(torch.tensor(time.perf_counter() - start, device=accelerator.device)).item()
        passed = seconds / (60 * arguments.minutes)
        if passed >= 1 or seconds - logged > 60 * arguments.log_minutes:
            logged = seconds
            average.store(parameters)
            average.copy_to(parameters)
            nats = [held_out(reconstruction, processor, sentences) for sentences in dev]
            average.restore(parameters)
            log.append({"minutes": seconds / 60, "step": step, "nats_per_token": nats})
            accelerator.print(json.dumps(log[-1]), flush=True)
        if passed >= 1:
            break
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(arguments.learning_rate, step, passed)
        accelerator.backward(shared(*prepared(processor, next(stream), accelerator.device)))
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        average.step(parameters)
        step += 1
    average.copy_to(parameters)
    if accelerator.is_main_process:
        pipe.to(dtype=torch.float16)
        pipe.save_pretrained(arguments.output_dir)
        (arguments.output_dir / "further.json").write_text(json.dumps(log, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_flush_denormal(True)
    main()
