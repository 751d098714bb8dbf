"""Measures what others' code needs for the same work: CPU seconds in turns, on the same weights or the same sizes.

    python training/studies/speed/references.py --diffae ../diffae --minilm minilm --dev dev.0.txt.gz dev.1.txt.gz \\
        --output training/studies/speed/results/references.json

- **denoiser**, with `--diffae`: the network of the paper's text model (latent 128, 20 layers of 2048) in a clone of
  github.com/phizaz/diffae, from which the paper's release has it, against the preset `text-paper`. Both in float32,
  with random weights of the same number.
- **decoding**, always: 64 sentences of 32 tokens, 6 layers of 384, vocabulary 50,260, greedy. The paper's release runs
  the whole prefix again for each token; transformers' `generate` decodes the same network without latents. All of ours
  give the same tokens.
- **encoding**, with `--minilm` (a folder that `docs/examples/pretrained_packages.py minilm` writes), `--dev` and
  `pip install sentence-transformers`: the same weights and sentences, in batches of several sizes.

Our code is measured twice: as it is, and after `pipe.enable_packed_weights()`.
"""

import argparse
import copy
import importlib
import json
import random
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import torch
from transformers import AutoConfig, AutoModel, AutoTokenizer
from transformers.utils import logging

from hf_eddpm import EDDPMConfig, EDDPMModel, EDDPMPipeline, EDDPMScheduler, EDDPMTextProcessor, TextDecoder
from hf_eddpm.hub.card import markdown_table
from hf_eddpm.modalities.text.data import load_text
from hf_eddpm.modeling_denoiser import make_denoiser
from hf_eddpm.packed_weights import pack_weights, unpack_weights
from hf_eddpm.training.environment import describe_command, describe_environment

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the studies, which share code

from common.timing import timed
from speed.roofline import matmul_rate
from speed.text import decode_naively

SENTENCES, TOKENS, VOCABULARY = 64, 32, 50260
STEPS_OF_THE_RELEASE, STEPS = 1000, 20
SIZES = (32, 128, 256)  # of batches of sentences


def in_turns(
    works: dict[str, Callable[[], Any]], rounds: int, repeats: int = 1, warm_up: bool = True
) -> dict[str, float]:
    """Return the median CPU seconds of each piece of work; all are run in each round."""
    seconds: dict[str, list[float]] = {name: [] for name in works}
    for work in works.values() if warm_up else ():
        work()
    for _ in range(rounds):
        for name, work in works.items():
            seconds[name].append(timed(lambda work=work: [work() for _ in range(repeats)])[1].cpu / repeats)
    return {name: median(each) for name, each in seconds.items()}


def ratios(seconds: dict[str, float], of: str) -> dict[str, Any]:
    """Return the seconds, and how many times those of a reference each piece of work needs."""
    return {"seconds": seconds, "times the reference": {name: each / seconds[of] for name, each in seconds.items()}}


# ---- the network in the latents


def measure_denoiser(folder: Path, rounds: int) -> dict[str, Any]:
    """Time a call, a step of gradients, an optimiser's step and a chain of both networks."""
    sys.path.insert(0, str(folder))
    config_class = importlib.import_module("model.latentnet").MLPSkipNetConfig
    sizes = {"num_channels": 128, "num_hid_channels": 2048, "num_layers": 20}
    theirs = config_class(**sizes, skip_layers=tuple(range(1, 20))).make_model()
    ours = make_denoiser(EDDPMConfig.from_preset("text-paper"))
    packed = copy.deepcopy(ours)
    pack_weights(packed)
    parameters = {
        name: sum(each.numel() for each in net.parameters()) for name, net in (("release", theirs), ("ours", ours))
    }
    result: dict[str, Any] = {"parameters": parameters}
    for batch, repeats in ((64, 3), (1, 10)):
        noisy, times = torch.randn(batch, 128), torch.full((batch,), 500)
        works = {
            "release": partial(theirs, noisy, times),
            "ours": partial(ours, noisy[:, None], 500),
            "ours, packed": partial(packed, noisy[:, None], 500),
        }
        with torch.inference_mode():
            result[f"call, batch {batch}"] = ratios(in_turns(works, rounds, repeats), "release")
    result["gradients, batch 128"] = ratios(in_turns(_gradients(theirs, ours), rounds), "release")
    result["optimiser"] = ratios(in_turns(_optimisers(theirs, ours), rounds), "release")
    call = result["call, batch 64"]["seconds"]
    scheduler = EDDPMScheduler(**EDDPMConfig.from_preset("text-paper").scheduler_config)
    noise = torch.randn(64, 1, 128)

    def chain(net: torch.nn.Module) -> None:
        own = copy.deepcopy(scheduler)
        own.set_timesteps(STEPS)
        latents = noise
        for step in own.timesteps:
            latents = own.step(net(latents, step), step, latents).prev_sample

    with torch.inference_mode():
        seconds = in_turns({"ours": lambda: chain(ours), "ours, packed": lambda: chain(packed)}, rounds)
    seconds["release, calculated from its calls"] = STEPS_OF_THE_RELEASE * call["release"]
    result[f"{STEPS_OF_THE_RELEASE} steps of the release, {STEPS} of ours"] = ratios(seconds, next(reversed(seconds)))
    return result


def _gradients(theirs: Any, ours: Any) -> dict[str, Callable[[], Any]]:
    noisy, times = torch.randn(128, 128), torch.randint(0, 1000, (128,))

    def step(net: Any, run: Callable[[], torch.Tensor]) -> None:
        net.zero_grad()
        run().square().mean().backward()

    def in_bfloat16() -> None:
        with torch.autocast("cpu", torch.bfloat16):
            step(ours, lambda: ours(noisy[:, None], times))

    return {
        "release": lambda: step(theirs, lambda: theirs(noisy, times).pred),
        "ours": lambda: step(ours, lambda: ours(noisy[:, None], times)),
        "ours, bfloat16 autocast": in_bfloat16,
    }


def _optimisers(theirs: Any, ours: Any) -> dict[str, Callable[[], Any]]:
    plain = torch.optim.AdamW(theirs.parameters(), lr=1e-4, foreach=False)
    fused = torch.optim.AdamW(ours.parameters(), lr=1e-4, fused=True)
    return {"release": plain.step, "ours": fused.step}


# ---- decoding


def measure_decoding(rounds: int) -> dict[str, Any]:
    """Time greedy decoding: ours, the release's way, and `generate` of the same network without latents."""
    torch.manual_seed(0)
    values = {"n_layer": 6, "n_embd": 384, "n_head": 6, "n_positions": TOKENS + 8, "vocab_size": VOCABULARY}
    special = {"bos_token_id": 0, "eos_token_id": None, "pad_token_id": 1}  # no sentence ends early
    decoder = TextDecoder(EDDPMConfig(decoder={"model_type": "gpt2", **values, **special})).eval()
    packed = copy.deepcopy(decoder)
    pack_weights(packed)
    latents = torch.randn(SENTENCES, 1, decoder.config.latent_dim)
    start = torch.zeros(SENTENCES, 1, dtype=torch.long)
    arguments = {"do_sample": False, "max_new_tokens": TOKENS, "attention_mask": torch.ones_like(start)}
    works = {
        "generate, no latents": lambda: decoder.backbone.generate(start, pad_token_id=1, **arguments),
        "ours": lambda: decoder.generate(latents, max_new_tokens=TOKENS),
        "ours, packed": lambda: packed.generate(latents, max_new_tokens=TOKENS),
    }
    with torch.inference_mode():
        seconds = in_turns(works, rounds)
        tokens, timing = timed(lambda: decode_naively(decoder, latents, TOKENS))
        if not all(torch.equal(tokens, works[name]()) for name in ("ours", "ours, packed")):
            raise RuntimeError("The ways of decoding give different tokens.")
    return ratios({**seconds, "whole prefix for each token, as the release": timing.cpu}, "generate, no latents")


# ---- encoding


def measure_encoding(folder: Path, dev: Sequence[str], count: int, rounds: int) -> dict[str, Any]:
    """Time the encoding of the same sentences by sentence-transformers and by a pipeline around the same weights."""
    library = importlib.import_module("sentence_transformers")
    reference = library.SentenceTransformer(str(folder), device="cpu")
    pipe = _pipeline_around(folder)
    sentences = list(load_text(list(dev)).sentences)
    random.Random(0).shuffle(sentences)
    sentences = sentences[:count]
    with torch.inference_mode():
        ours = pipe.model.encoder(**{k: v for k, v in pipe.processor(sentences[:8]).items() if k != "labels"})[:, 0]
    theirs = torch.from_numpy(reference.encode(sentences[:8], normalize_embeddings=False))
    unit = torch.nn.functional.normalize
    torch.testing.assert_close(unit(ours), unit(theirs), atol=1e-4, rtol=1e-4)  # the same features
    result: dict[str, Any] = {"sentences": len(sentences)}
    for size in SIZES:
        seconds: dict[str, float] = {}
        for name in ("ours", "ours, packed"):
            if name == "ours, packed":
                pipe.enable_packed_weights()
            pipe.encode(sentences[:100])  # packs
            works = {
                "sentence-transformers": partial(reference.encode, sentences, batch_size=size),
                name: partial(pipe.encode, sentences, batch_size=size),
            }
            seconds |= in_turns(works, rounds, warm_up=False)
            unpack_weights(pipe.model)
        result[f"batches of {size}"] = ratios(seconds, "sentence-transformers")
    return result


def _pipeline_around(folder: Path) -> EDDPMPipeline:
    """Return a pipeline whose encoder is the pretrained one, with a small decoder that is not used."""
    small = {"n_layer": 1, "n_embd": 32, "n_head": 2, "n_positions": 300, "bos_token_id": 101, "eos_token_id": 102}
    encoder = AutoConfig.from_pretrained(folder)
    decoder = {"model_type": "gpt2", **small, "vocab_size": encoder.vocab_size, "pad_token_id": 0}
    model = EDDPMModel(EDDPMConfig(encoder=encoder.to_dict(), decoder=decoder, latent_dim=encoder.hidden_size)).eval()
    weights = AutoModel.from_pretrained(folder, add_pooling_layer=False).state_dict()
    model.encoder.backbone.load_state_dict(weights)
    tokenizer, other = (AutoTokenizer.from_pretrained(folder) for _ in range(2))
    other.bos_token, other.eos_token = "[CLS]", "[SEP]"
    processor = EDDPMTextProcessor(tokenizer, other, max_length=254)
    pipe = EDDPMPipeline(model, EDDPMScheduler(**model.config.scheduler_config), processor)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def report(result: dict[str, Any]) -> str:
    """Return the tables."""
    rate = f"{result['matrix rate'] / 1e9:.0f} billion operations a second in float32"
    parts = [f"Measured on {result['hardware']}. Matrix products: {rate}."]
    for title in ("denoiser", "decoding", "encoding"):
        if title not in result:
            continue
        measured = {title: result[title]} if "seconds" in result[title] else result[title]
        rows = [
            {"work": what, "by": name, "CPU s": f"{each:.3g}", "times": f"{values['times the reference'][name]:.2f}"}
            for what, values in measured.items()
            if isinstance(values, dict) and "seconds" in values
            for name, each in values["seconds"].items()
        ]
        parts += [f"**{title.capitalize()}**", markdown_table(rows)]
    return "\n\n".join(parts)


def main(words: Sequence[str] | None = None) -> None:
    """Measures what the command line has the references for."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--diffae", type=Path, help="clone of github.com/phizaz/diffae")
    parser.add_argument("--minilm", type=Path, help="folder of all-MiniLM-L6-v2")
    parser.add_argument("--dev", nargs="*", default=[], help="files of sentences to encode")
    parser.add_argument("--num_sentences", type=int, default=5000, help="sentences to encode")
    parser.add_argument("--rounds", type=int, default=3, help="rounds, of which the median counts")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads of torch")
    parser.add_argument("--output", type=Path, help="JSON file to write; the tables go beside it")
    arguments = parser.parse_args(words)
    if arguments.minilm and not arguments.dev:
        parser.error("--minilm needs --dev: the sentences to encode")
    logging.set_verbosity_error()
    torch.set_num_threads(arguments.threads)
    given = sys.argv[1:] if words is None else words
    result: dict[str, Any] = {"command": describe_command("training/studies/speed/references.py", given)}
    result |= {**describe_environment(torch.device("cpu")), "matrix rate": matmul_rate(torch.float32)}
    result["decoding"] = measure_decoding(arguments.rounds)
    if arguments.diffae:
        result["denoiser"] = measure_denoiser(arguments.diffae, arguments.rounds)
    if arguments.minilm:
        counts = arguments.num_sentences, arguments.rounds
        result["encoding"] = measure_encoding(arguments.minilm, arguments.dev, *counts)
    tables = report(result)
    if arguments.output:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
        arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        arguments.output.with_suffix(".md").write_text(tables + "\n", encoding="utf-8")
    print(tables)


if __name__ == "__main__":
    main()
