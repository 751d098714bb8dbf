"""The model card of a text checkpoint, from the facts beside it.

    python -m hf_eddpm.training.text_card runs/yelp/pipeline

`train_text.py` leaves `training.json` in the pipeline's folder and `evaluate_text.py --update_card` leaves
`evaluation.json`; both write the card (README.md) by this file, and this command writes it anew. The card quotes a few
held-out sentences.
"""

from pathlib import Path
from typing import Any

from huggingface_hub import EvalResult, ModelCard

from ..hub.card import build_model_card, markdown_table, save_model_card
from ..pipeline_eddpm import EDDPMPipeline
from .card_facts import card_arguments, card_notes, latent_tables, read_facts, rewrite_card
from .evaluation import plus_minus, sampler_sentence

NUM_EXAMPLES = 5

HOW_TO_READ = """\
BLEU and exact match: decoded posterior means against the held-out sentences themselves; after refinement steps: both
again, once gradient steps have moved each sentence's latents to where it is reconstructed better
(`pipe.reconstruct(sentences, refinement_steps=10)`). Perplexity: of generated
sentences under a trigram model fitted on the training sentences, beside that of real held-out sentences ("real").
Reverse perplexity: of held-out sentences under a trigram model of the samples. Bigram JSD: Jensen-Shannon divergence
of the samples' bigrams from those of held-out sentences, beside that of as many training sentences ("real vs real").
Latent Frechet: distance of sampled latents from the posterior's, relative to its variance. Unique, novel: shares of
different samples and of samples that are no training sentence. Path length: how far the sentences of an interpolation
move, relative to the distance of its ends. Steps: denoising steps. ± is the standard deviation over sampling seeds."""


def write_text_card(pipe: EDDPMPipeline, folder: str | Path) -> Path:
    """Writes README.md in a pipeline's folder from the facts that lie there, and returns its path."""
    folder = Path(folder)
    return save_model_card(build_text_card(pipe, folder, *read_facts(folder)), folder)


def build_text_card(
    pipe: EDDPMPipeline, folder: Path, training: dict[str, Any] | None, evaluation: dict[str, Any] | None
) -> ModelCard:
    """The card of a text pipeline.

    Args:
        pipe: The pipeline.
        folder: Its folder, which names the model where the training did not.
        training: What `train_text.py` wrote, or `None`.
        evaluation: What `evaluate_text.py` wrote, or `None`.
    """
    card = {} if training is None else training.get("card", {})
    data_name = card.get("data_name") or "the training data"
    datasets = [] if training is None else training.get("hub_datasets", [])
    summary = f"Trained on single sentences: {data_name}." if card.get("data_name") else "Trained on sentences."
    if names := (training or {}).get("class_names"):
        classes = ", ".join(f"{number} {name}" for number, name in enumerate(names))
        summary += f" `class_labels` asks for a class: {classes}."
    shared = card_arguments(folder, training)
    relation = None if training is None else training.get("base_model_relation")
    return build_model_card(
        pipe.model,
        training=training,
        evaluation=evaluation,
        summary=summary,
        snippet=_snippet([] if training is None else training.get("examples", []), pipe.model.config.num_classes or 0),
        results="" if evaluation is None else _results(evaluation),
        eval_results=[] if evaluation is None else _eval_results(evaluation, data_name, datasets),
        limits=[*_limits(pipe, training, data_name), *_failures(evaluation)],
        pipeline_tag="text-generation",
        language=card.get("card_language"),
        tags=("peft", "lora") if relation == "adapter" else (),
        base_model_relation=relation if shared["base_model"] else None,
        **shared,
    )


def _snippet(examples: list[str], num_classes: int) -> str:
    a, b = (examples[0], examples[-1]) if examples else ("this is a sentence .", "and this is another one .")
    generation = f"""\
# Of one class, with guidance, and of eight candidates each the one that is doubted least: fewer that make no sense.
options = {{"class_labels": {num_classes - 1}, "guidance_scale": 2.0, "num_candidates": 8}}
print(pipe(num_samples=4, generator=torch.Generator().manual_seed(0), **options).samples)
"""
    return f"""\
{generation if num_classes else ""}\
sentences = [
    {a!r},
    {b!r},
]
print(pipe.reconstruct(sentences))
print(pipe.interpolate(*sentences, num_steps=5)[0])
print(pipe.encode(sentences).embeddings.shape)  # features for a classifier or a search index
"""


def _limits(pipe: EDDPMPipeline, training: dict[str, Any] | None, data_name: str) -> list[str]:
    max_length = pipe.processor.max_length
    limits = [f"Sentences of at most {max_length} tokens: longer ones are cut, and it writes none."]
    if training is None:
        return limits
    data = training["data"]["train"]
    if cut := data["cut"]:
        limits[0] += f" That was {cut / data['sentences']:.2%} of the training sentences."
    limits.append(f"It knows one kind of sentence ({data_name}); others come back as what it knows.")
    if training["lower_case"]:
        limits.append("The training sentences are lower-case throughout: write yours the same way, spacing included.")
    if not training.get("base_models"):
        millions = f"{pipe.model.num_parameters() / 1e6:.3g}"
        limits.append(
            f"A small model ({millions} million parameters) trained from scratch on {data['sentences']:,} sentences: "
            "reconstructions lose rare words and names, and samples can be ungrammatical or say nothing."
        )
    limits.append("The held-out sentences were watched during training; the test split was not used.")
    return [*limits, *card_notes(training)]


def _failures(evaluation: dict[str, Any] | None) -> list[str]:
    pairs = [] if evaluation is None else evaluation["reconstruction"].get("failures", [])
    quoted = [f"`{original}` comes back as `{copy}`" for original, copy in pairs if original != copy]
    return [f"Where it fails most, in one pass: {'; '.join(quoted)}."] if quoted else []


def _results(evaluation: dict[str, Any]) -> str:
    counts = (
        f"{evaluation['num_dev_sentences']:,} held-out sentences; {evaluation['settings']['num_samples']:,} samples"
    )
    seeds = ", ".join(str(seed) for seed in evaluation["settings"]["seeds"])
    counts = f"{counts} for each number of steps and sampling seed ({seeds}).{sampler_sentence(evaluation)}"
    parts = [counts, markdown_tables(evaluation)]
    if "beside" in evaluation:
        command = evaluation["beside"]["command"]
        rows = [
            _compared(title, values)
            for title, values in (("this model", evaluation), ("the other", evaluation["beside"]))
        ]
        parts += [f"Beside another checkpoint, evaluated by `{command}`:", markdown_table(rows)]
    parts += [HOW_TO_READ, *latent_tables(evaluation), *_examples(evaluation)]
    return "\n\n".join(parts)


def _examples(evaluation: dict[str, Any]) -> list[str]:
    most_steps = max(evaluation["samples"], key=int)
    pairs = evaluation["reconstruction"]["examples"][:NUM_EXAMPLES]
    refined = [
        (f"The same, latents refined by {steps} gradient steps", values["examples"][:NUM_EXAMPLES])
        for steps, values in list(evaluation["refined_reconstruction"].items())[-1:]
    ]
    blocks = [
        ("Generated (the first of the first seed)", evaluation["samples"][most_steps]["examples"][:NUM_EXAMPLES]),
        ("Held-out sentences and their reconstructions", [f"{before}\n  -> {after}" for before, after in pairs]),
        *((title, [f"{before}\n  -> {after}" for before, after in rows]) for title, rows in refined),
        ("An interpolation through the noise, first to last", evaluation["interpolation"]["noise"]["example"]),
    ]
    # Indented blocks: a sentence may hold any number of backticks.
    return [
        f"{title}:\n\n" + "\n".join(f"    {line}" for item in lines for line in item.splitlines())
        for title, lines in blocks
    ]


def _eval_results(evaluation: dict[str, Any], data_name: str, datasets: list[str]) -> list[EvalResult]:
    reconstruction = evaluation["reconstruction"]
    most_steps = max(evaluation["samples"], key=int)
    samples = evaluation["samples"][most_steps]
    generated = f"{most_steps} steps, mean over seeds"
    measures = [
        ("bleu", "reconstruction BLEU", reconstruction["bleu"]),
        ("exact_match", "reconstruction exact match", reconstruction["exact_match"]),
        *(
            (kind, f"{name}, latents refined by {steps} gradient steps", values[kind])
            for steps, values in evaluation["refined_reconstruction"].items()
            for kind, name in (("bleu", "reconstruction BLEU"), ("exact_match", "reconstruction exact match"))
        ),
        ("perplexity", f"perplexity of samples under a trigram model ({generated})", samples["perplexity"]["mean"]),
        ("bigram_divergence", f"bigram divergence of samples ({generated})", samples["bigram_divergence"]["mean"]),
        ("uniqueness", f"unique samples ({generated})", samples["uniqueness"]["mean"]),
        ("novelty", f"novel samples ({generated})", samples["novelty"]["mean"]),
        ("latent_frechet", f"relative Frechet distance of latents ({generated})", samples["latent_frechet"]["mean"]),
    ]
    if "probe_accuracy" in evaluation:
        measures.append(("accuracy", "linear probe on the embeddings", evaluation["probe_accuracy"]))
    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=datasets[0] if datasets else "text",
            dataset_name=data_name,
            dataset_split="dev",
            metric_type=kind,
            metric_name=name,
            metric_value=round(value, 4),
        )
        for kind, name, value in measures
    ]


def markdown_tables(result: dict[str, Any]) -> str:
    """The tables of a model card: a summary row, the samples by number of steps, the edits by scale.

    Args:
        result: What `evaluate` returned.
    """
    reconstruction, samples, real = result["reconstruction"], result["samples"], result["reference"]
    most_steps = max(samples, key=int)
    best = samples[most_steps]
    summary = {
        "BLEU": f"{reconstruction['bleu']:.1f}",
        "exact match": f"{reconstruction['exact_match']:.3f}",
        **{
            f"after {steps} refinement steps": f"{values['bleu']:.1f}, {values['exact_match']:.3f}"
            for steps, values in result["refined_reconstruction"].items()
        },
        f"sample perplexity ({most_steps} steps)": plus_minus(best["perplexity"], ".1f"),
        "real": f"{real['dev']['perplexity']:.1f}",
        "bigram JSD": plus_minus(best["bigram_divergence"], ".3f"),
        "real vs real": f"{real['train']['bigram_divergence']:.3f}",
        "unique": plus_minus(best["uniqueness"], ".3f"),
        "novel": plus_minus(best["novelty"], ".3f"),
    }
    if "probe_accuracy" in result:
        summary["probe accuracy"] = f"{result['probe_accuracy']:.3f}"
    for space, values in result["interpolation"].items():
        length = values["path_length"]
        summary[f"path length ({space})"] = "none" if length is None else f"{length:.2f}"
    tables = [markdown_table([summary])]

    measures = {
        "perplexity": ".1f",
        "reverse_perplexity": ".0f",
        "bigram_divergence": ".3f",
        "length_distance": ".2f",
        "latent_frechet": ".4f",
        "distinct_1": ".3f",
        "distinct_2": ".3f",
        "uniqueness": ".3f",
        "novelty": ".3f",
    }
    rows = [
        {"steps": steps} | {key.replace("_", " "): plus_minus(values[key], form) for key, form in measures.items()}
        for steps, values in [*samples.items(), *_scaled(result)]
    ]
    for name, title in (("dev", "real, held out"), ("train", "real, training"), ("dev_shuffled", "shuffled words")):
        known = {key: f"{real[name][key]:{form}}" for key, form in measures.items() if key in real[name]}
        rows.append({"steps": title} | {key.replace("_", " "): value for key, value in known.items()})
    tables.append(markdown_table(rows))

    if "edits" in result:
        rows = []
        for scale, directions in result["edits"]["by_scale"].items():
            row = {"scale": scale}
            for name, values in directions.items():
                title = name.replace("_", " ")
                row[f"{title}: judged as target"] = f"{values['accuracy']:.3f}"
                row[f"{title}: content BLEU"] = f"{values['content_bleu']:.1f}"
                row[f"{title}: perplexity"] = f"{values['perplexity']:.1f}"
            rows.append(row)
        tables.append(markdown_table(rows))
    return "\n\n".join(tables)


def _compared(title: str, result: dict[str, Any]) -> dict[str, str]:
    """A row of the comparison with another checkpoint."""
    most_steps = max(result["samples"], key=int)
    row = {
        "model": title,
        "parameters": f"{result['num_parameters']:,}",
        "BLEU": f"{result['reconstruction']['bleu']:.1f}",
        "exact match": f"{result['reconstruction']['exact_match']:.3f}",
        **{
            f"after {steps} refinement steps": f"{values['bleu']:.1f}, {values['exact_match']:.3f}"
            for steps, values in result["refined_reconstruction"].items()
        },
        f"sample perplexity ({most_steps} steps)": plus_minus(result["samples"][most_steps]["perplexity"], ".1f"),
    }
    if "edits" in result:
        scale, directions = max(result["edits"]["by_scale"].items(), key=lambda item: float(item[0]))
        for name, values in directions.items():
            row[f"{name.replace('_', ' ')} at scale {scale}: judged as target, content BLEU"] = (
                f"{values['accuracy']:.3f}, {values['content_bleu']:.1f}"
            )
    return row


def _scaled(result: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    steps = result["settings"]["noise_scale_steps"]
    return [(f"{steps}, noise x {scale}", values) for scale, values in result["scaled_samples"].items()]


def main() -> None:
    """Writes the card of the pipeline folder named on the command line."""
    rewrite_card(__doc__, write_text_card)


if __name__ == "__main__":
    main()
