"""What makes a better text model in the same time? Trains each recipe for some minutes and measures all alike.

    python training/studies/text_recipe/run.py --train train.0.txt.gz=0 train.1.txt.gz=1 \\
        --dev dev.0.txt.gz=0 dev.1.txt.gz=1 --output_dir training/studies/text_recipe/results

One JSON file a run; a run whose file exists is not repeated. `--shard 0/4` takes every fourth of the runs, so that
several processes share them. `variants.py` lists the recipes. Measured of each: BLEU of held-out sentences in one pass
and after ten refinement steps, and of samples the perplexity under a trigram model of the training sentences, the
perplexity of held-out sentences under a trigram model of the samples, and distinct bigrams; of the first recipe also
the samples whose latents come back most closely when they are encoded again.
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoTokenizer, set_seed

from hf_eddpm import EDDPMPipeline, EDDPMScheduler, EDDPMTrainer
from hf_eddpm.diagnostics import covariance_eigenvalues, spectrum_statistics
from hf_eddpm.hub.lora import count_parameters
from hf_eddpm.metrics.distinct_novelty import distinct_n
from hf_eddpm.metrics.reconstruction_bleu import corpus_bleu
from hf_eddpm.modalities.text.data import SplicedSentences, TextData, load_text
from hf_eddpm.modalities.text.metrics import TrigramModel, reverse_perplexity
from hf_eddpm.training.arguments import EDDPMTrainingArguments, merge, parse_arguments
from hf_eddpm.training.callbacks import AverageStep
from hf_eddpm.training.collator import RawDataCollator
from hf_eddpm.training.environment import describe_environment
from hf_eddpm.training.evaluation import result_file
from hf_eddpm.training.feature_alignment import FeatureAlignedTrainer, FeatureAlignment, sentence_features
from hf_eddpm.training.options import TextDataArguments, TextModelArguments
from hf_eddpm.training.train_text import build_model

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # the folder of the studies, which share code

from latent_rank.variants import RisingShare
from sentences.domains import describe
from text_recipe.report import write_report
from text_recipe.variants import (
    MINILM,
    VARIANTS,
    MaskingCollator,
    Variant,
    drop_latents,
    slow_encoder,
)

CONFIG = Path(__file__).resolve().parents[2] / "configs" / "text_recipe.json"
NUM_SENTENCES, NUM_REFINED, NUM_SAMPLES, STEPS = 2000, 500, 2000, 50


class SparseAverage(AverageStep):
    """Takes a step of the average after every so many training steps."""

    every = 1

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Take a step, or none."""
        if state.global_step % self.every == 0:
            super().on_step_end(args, state, control, **kwargs)


def train(
    variant: Variant, seed: int, data: TextData, words: list[str], config_file: Path = CONFIG
) -> tuple[EDDPMPipeline, dict[str, Any]]:
    """Train a recipe; return the pipeline and the facts of the run."""
    config = json.loads(config_file.read_text(encoding="utf-8"))
    base = config["model_config"]
    if "--encoder" in variant.options:
        del base["encoder"]
    config["model_config"] = merge(base, variant.model_config)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "config.json")
        file.write_text(json.dumps(config), encoding="utf-8")
        options = [str(file), "--seed", str(seed), *variant.options, *words]
        data_args, model_args, args = parse_arguments(
            TextDataArguments, TextModelArguments, EDDPMTrainingArguments, args=options
        )
    set_seed(seed)
    model, processor = build_model(model_args, data_args.max_length, data.sentences)
    if variant.latent_dropout:
        drop_latents(model, variant.latent_dropout)
    collator: Any = RawDataCollator(processor)
    if variant.masked:
        collator = MaskingCollator(collator, variant.masked)
    kind, first = EDDPMTrainer, ()
    if variant.aligned:
        frozen = sentence_features(AutoModel.from_pretrained(MINILM), AutoTokenizer.from_pretrained(MINILM), processor)
        kind, first = FeatureAlignedTrainer, (FeatureAlignment(frozen, variant.aligned),)
    share = model.config.encoder_gradient_scale
    trainer = kind(
        *first,
        model=model,
        args=args,
        processor=processor,
        data_collator=collator,
        ema_decay=args.ema_decay,
        train_dataset=SplicedSentences(data.sentences, 0.0, None, seed),
        callbacks=[] if variant.rise is None else [RisingShare(model, share, variant.rise)],
    )
    if variant.encoder_rate is not None:
        slow_encoder(trainer, variant.encoder_rate)
    if variant.every > 1:
        trainer.pop_callback(AverageStep)
        average = SparseAverage(trainer.ema_parameters, trainer.ema)
        average.every = variant.every
        trainer.add_callback(average)
    start = time.perf_counter()
    trainer.train()
    facts = {
        "train_seconds": round(time.perf_counter() - start, 1),
        "steps": trainer.state.global_step,
        "batch_size": args.train_batch_size,
        "num_parameters": count_parameters(model)["total"]["all"],
    }
    model.config.encoder_gradient_scale = share
    return trainer.build_pipeline(), facts


def samples_of(pipe: EDDPMPipeline, count: int) -> tuple[list[str], torch.Tensor]:
    """Return sentences and the latents that they were decoded from."""
    generator = torch.Generator(pipe.device).manual_seed(0)
    out: Any = pipe(count, num_inference_steps=STEPS, generator=generator, batch_size=500)
    return out.samples, out.latents


def measure(pipe: EDDPMPipeline, judge: TrigramModel, dev: TextData, filtered: bool) -> dict[str, Any]:
    """Return what a recipe came to."""
    pipe.set_progress_bar_config(disable=True)
    pipe.scheduler = EDDPMScheduler(**pipe.model.config.scheduler_config)  # DDIM for all
    sentences = dev.sample(NUM_SENTENCES, 0).sentences
    some = sentences[:NUM_REFINED]
    latents = pipe.encode(sentences, 500).latents
    texts, drawn = samples_of(pipe, NUM_SAMPLES)
    result: dict[str, Any] = {
        "bleu": corpus_bleu(pipe.decode(latents, batch_size=500), sentences),
        "refined_bleu": corpus_bleu(pipe.reconstruct(some, batch_size=250, refinement_steps=10), some),
        "samples": describe(texts, judge, sentences),
        **spectrum_statistics(covariance_eigenvalues(latents), pipe.model.config.encoder_noise_variance),
        "first": texts[:5],
    }
    if filtered:
        more, drawn = samples_of(pipe, 2 * NUM_SAMPLES)
        written = [place for place, text in enumerate(more) if text.strip()]  # the encoder refuses empty ones
        if not written:
            return result
        again = pipe.encode([more[place] for place in written], 500).latents
        away = (again.cpu() - drawn.cpu()[written]).square().flatten(1).mean(1)
        kept = [more[written[row]] for row in away.argsort().tolist()[:NUM_SAMPLES]]
        result["kept_half"] = describe(kept, judge, sentences)
    return result


def main(words: list[str] | None = None) -> None:
    """Runs what is missing and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--train", nargs="+", required=True, help="training sentences, `file=label`")
    parser.add_argument("--dev", nargs="+", required=True, help="held-out sentences, likewise")
    parser.add_argument("--output_dir", type=Path, required=True, help="where the JSON files and the table go")
    parser.add_argument("--variants", nargs="*", choices=list(VARIANTS), default=list(VARIANTS))
    parser.add_argument("--shard", default="0/1", help="which of how many parts of the runs, e.g. 0/4")
    parser.add_argument("--deadline", type=float, help="minutes after which no further run begins")
    arguments, rest = parser.parse_known_args(words)
    part, parts = map(int, arguments.shard.split("/"))
    start = time.perf_counter()
    arguments.output_dir.mkdir(parents=True, exist_ok=True)
    data, dev = load_text(arguments.train), load_text(arguments.dev)
    judge = TrigramModel.fit(data.sentences)
    runs = [
        (name, seed)
        for seed in range(1, 1 + max(variant.seeds for variant in VARIANTS.values()))
        for name in arguments.variants
        if seed <= VARIANTS[name].seeds
    ]
    for name, seed in runs[part::parts]:
        file = result_file(arguments.output_dir, f"{name} seed {seed}")
        late = arguments.deadline is not None and time.perf_counter() - start > 60 * arguments.deadline
        if file.exists() or late:
            continue
        pipe, facts = train(VARIANTS[name], seed, data, [*rest, "--output_dir", f"runs/.{file.stem}"])
        result = {"recipe": name, "part": VARIANTS[name].part, "seed": seed, **facts}
        result |= measure(pipe, judge, dev, filtered=name == next(iter(VARIANTS)))
        result["real"] = {
            "perplexity": judge.perplexity(dev.sample(NUM_SAMPLES, 0).sentences),
            "distinct_2": distinct_n(dev.sample(NUM_SAMPLES, 0).sentences, 2),
            "reverse_perplexity": reverse_perplexity(
                data.sample(NUM_SAMPLES, 0).sentences, dev.sample(NUM_SENTENCES, 0).sentences, judge.vocabulary_size
            ),
        }
        result |= describe_environment(pipe.device)
        file.write_text(json.dumps(result, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"{file.stem}: {facts['steps']} steps, BLEU {result['bleu']:.1f}", flush=True)
    if parts == 1:
        print(write_report(arguments.output_dir))


if __name__ == "__main__":
    torch.set_flush_denormal(True)
    main()
