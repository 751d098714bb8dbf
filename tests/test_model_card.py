import json
import re
from pathlib import Path

import pytest
import yaml
from huggingface_hub import EvalResult, ModelCard

from hf_eddpm import EDDPMPipeline
from hf_eddpm.hub.card import ORGANISATION, build_model_card, markdown_table, save_model_card, show_gallery
from hf_eddpm.training import runs, train_text
from hf_eddpm.training.environment import describe_command
from hf_eddpm.training.text_card import markdown_tables, write_text_card

SPREAD_KEYS = ("perplexity", "reverse_perplexity", "bigram_divergence", "length_distance", "latent_frechet")
SPREAD_KEYS += ("distinct_1", "distinct_2", "uniqueness", "novelty")


def training_facts(**values) -> dict:
    return {
        "command": "python training/train.py text my.json --train a.txt=0",
        "card": {"card_name": "my-model", "card_language": "en", "card_license": "mit", "data_name": "toy reviews"},
        "data": {"train": {"sources": ["a.txt=0"], "sentences": 4321, "empty_left_out": 2, "repeats": 17, "cut": 43}},
        "lower_case": True,
        "examples": ["the food was great .", 'it isn\'t "bad" .'],
        "hub_datasets": [],
        "base_models": [],
        "settings": {"learning_rate": "0.0015, cosine"},
        "seed": 7,
        "steps": 1234,
        "batch_size": 64,
        "wall_time_seconds": 6723.4,
        "hardware": "two cores",
        "versions": {"torch": "2.13.0"},
        "metrics": {"eval_loss": 2.71828, "eval_reconstruction_loss": 1.41421},
        "log": [{"loss": 9.0, "step": 1}, {"loss": 3.14159, "reconstruction_loss": 2.23607, "step": 1234}],
        **values,
    }


def evaluation_facts() -> dict:
    def sampled(shift: float) -> dict:
        spread = {key: {"mean": 0.1234567 * (place + 1) + shift, "std": 0.01} for place, key in enumerate(SPREAD_KEYS)}
        return spread | {"examples": ["a | sample .", "``` another"]}

    real = {"perplexity": 67.25, "distinct_1": 0.03, "distinct_2": 0.2, "uniqueness": 0.99, "novelty": 0.9}
    real_train = real | {"bigram_divergence": 0.301, "reverse_perplexity": 88.0, "length_distance": 0.1}
    return {
        "command": "python training/evaluate.py text --checkpoint my-model",
        "hardware": "two cores",
        "versions": {"torch": "2.13.0"},
        "wall_time_seconds": 61.0,
        "num_dev_sentences": 3999,
        "settings": {"num_samples": 2000, "seeds": [0, 1, 2], "noise_scale_steps": 20},
        "reconstruction": {"bleu": 65.432109, "exact_match": 0.56789, "examples": [["in .", "out ."]]},
        "refined_reconstruction": {"10": {"bleu": 81.5, "exact_match": 0.75, "examples": [["in .", "in ."]]}},
        "samples": {"20": sampled(0.0), "50": sampled(1.0)},
        "scaled_samples": {"0.8": sampled(2.0)},
        "reference": {"dev": real, "train": real_train, "dev_shuffled": {"perplexity": 2676.0}},
        "interpolation": {
            space: {"path_length": 1.5, "perplexity": 70.0, "example": ["a .", "b ."]}
            for space in ("latents", "noise")
        },
        "probe_accuracy": 0.87654,
    }


@pytest.fixture
def folder(pipe, tmp_path) -> Path:
    """A pipeline's folder with the facts of both scripts."""
    folder = tmp_path / "my-model"
    pipe.save_pretrained(folder)
    (folder / "training.json").write_text(json.dumps(training_facts()))
    (folder / "evaluation.json").write_text(json.dumps(evaluation_facts()))
    return folder


def test_metadata_load_back_with_the_measured_numbers(pipe, folder):
    card = ModelCard.load(write_text_card(pipe, folder))
    assert card.data.library_name == "hf_eddpm"
    assert (card.data.language, card.data.license, card.data.pipeline_tag) == ("en", "mit", "text-generation")
    assert "text" in card.data.tags
    assert card.data.model_name == "my-model"
    measured = {result.metric_name: result.metric_value for result in card.data.eval_results}
    facts = evaluation_facts()
    assert measured["reconstruction BLEU, latents refined by 10 gradient steps"] == 81.5
    assert measured["reconstruction BLEU"] == pytest.approx(facts["reconstruction"]["bleu"], abs=1e-4)
    assert measured["linear probe on the embeddings"] == pytest.approx(facts["probe_accuracy"], abs=1e-4)
    samples = facts["samples"]["50"]
    name = "relative Frechet distance of latents (50 steps, mean over seeds)"
    assert measured[name] == pytest.approx(samples["latent_frechet"]["mean"], abs=1e-4)
    assert len(card.data.eval_results) == 10


def test_tables_hold_the_numbers_of_the_facts(pipe, folder):
    text = write_text_card(pipe, folder).read_text(encoding="utf-8")
    assert markdown_tables(evaluation_facts()) in text
    for number in ("65.4", "0.568", "67.2", "0.877", "1.1 ± 0.0", "0.6173 ± 0.0100"):
        assert number in text
    for number in ("4,321", "1,234 of 64", "1 h 52 min", "2.718", "1.414", "3.142", "2.236", "two cores"):
        assert number in text
    assert f"{43 / 4321:.2%} of the training sentences" in text
    for part, module in pipe.model.named_children():
        count = sum(parameter.numel() for parameter in module.parameters())
        assert re.search(rf"\| {part} \|.*\| {count:,} \|", text)


def test_snippet_runs_beside_a_copy_under_the_hub_id(pipe, folder, monkeypatch, capsys):
    text = write_text_card(pipe, folder).read_text(encoding="utf-8")
    (snippet,) = re.findall(r"```python\n(.*?)```", text, re.S)
    (folder.parent / ORGANISATION).mkdir()
    (folder.parent / ORGANISATION / "my-model").symlink_to(folder)
    monkeypatch.chdir(folder.parent)
    exec(compile(snippet, "snippet", "exec"), {})
    assert "torch.Size([2, 16])" in capsys.readouterr().out


def test_pipeline_loads_with_card_and_facts_in_its_folder(pipe, folder):
    write_text_card(pipe, folder)
    assert EDDPMPipeline.from_pretrained(folder).processor.max_length == pipe.processor.max_length


def test_card_without_evaluation_claims_no_results(pipe, folder):
    (folder / "evaluation.json").unlink()
    card = ModelCard.load(write_text_card(pipe, folder))
    assert card.data.eval_results is None
    assert "## Results" not in card.text
    assert "Not evaluated yet" in card.text
    assert "## Training" in card.text


def test_card_without_any_facts_is_valid(pipe, folder):
    for name in ("training.json", "evaluation.json"):
        (folder / name).unlink()
    card = ModelCard.load(write_text_card(pipe, folder))
    assert card.text.strip().startswith("# my-model")
    assert "## Training" not in card.text


def test_core_takes_any_data_and_writes_what_it_is_given(pipe, tmp_path):
    result = EvalResult("other", "toy", "Toy", "accuracy", 0.5)
    facts = {key: evaluation_facts()[key] for key in ("command", "hardware", "versions", "wall_time_seconds")}
    card = build_model_card(
        pipe.model,
        name="m",
        training=None,
        evaluation=facts,
        results=markdown_table([{"a": 1}, {"b": 2}]),
        eval_results=[result],
        limits=["Small."],
        tags=["toy"],
        base_model=["user/base"],
    )
    loaded = ModelCard.load(save_model_card(card, tmp_path))
    assert loaded.data.eval_results == [result]
    assert loaded.data.base_model == ["user/base"]
    assert "| a | b |\n| --- | --- |\n| 1 |  |\n|  | 2 |" in loaded.text
    assert "- Small." in loaded.text


def test_a_gallery_is_shown_once_and_outlives_the_cards_that_follow(pipe, tmp_path):
    card = build_model_card(pipe.model, name="m", training=None, evaluation=None)
    save_model_card(card, tmp_path)
    plain = (tmp_path / "README.md").read_text(encoding="utf-8")
    (tmp_path / "gallery").mkdir()
    for name in ("samples.png", "edits.png"):
        (tmp_path / "gallery" / name).write_bytes(b"")
    show_gallery(tmp_path, {"samples.png": "Old."})
    show_gallery(tmp_path, {"samples.png": "A hundred.", "edits.png": "Changed."})
    shown = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert (
        shown.count("## Gallery") == 1 and "![edits](gallery/edits.png)\n\nChanged." in shown and "Old." not in shown
    )
    save_model_card(card, tmp_path)
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == shown
    show_gallery(tmp_path, {})
    assert (tmp_path / "README.md").read_text(encoding="utf-8") == plain
    with pytest.raises(ValueError, match=r"`captions` names pictures that are not in 'gallery': \['none.png'\]"):
        show_gallery(tmp_path, {"none.png": "Nothing."})
    with pytest.raises(ValueError, match=r"`folder` must hold a README.md"):
        show_gallery(tmp_path / "gallery", {})


def test_facts_of_another_version_are_refused(pipe, tmp_path):
    with pytest.raises(ValueError, match="`training` lacks .*'seed'"):
        build_model_card(pipe.model, name="m", training={"metrics": {}, "log": []}, evaluation=None)
    with pytest.raises(ValueError, match="`folder` must be an existing folder"):
        save_model_card(build_model_card(pipe.model, name="m", training=None, evaluation=None), tmp_path / "missing")


def test_citation_is_that_of_the_repository(pipe):
    text = build_model_card(pipe.model, name="m", training=None, evaluation=None).text
    paper = yaml.safe_load((Path(__file__).parent.parent / "CITATION.cff").read_text(encoding="utf-8"))
    paper = paper["preferred-citation"]
    flat = " ".join(text.split())
    assert paper["title"] in flat
    assert all(author["family-names"] in flat for author in paper["authors"])


def test_commands_show_neither_folders_nor_secrets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a b.txt").write_text("x")
    words = ["--train", str(tmp_path / "data" / "a b.txt") + "=1", "data/a b.txt", "--encoder", "user/model"]
    words += ["--hub_token", "secret", "--resume_from_checkpoint=auto", "--output_dir", str(tmp_path / "runs" / "x")]
    words += [f"--output={tmp_path}/e.json", "--push_to_hub"]
    command = describe_command("training/train.py", ["text", *words])
    expected = "--train 'a b.txt=1' 'a b.txt' --encoder user/model --output_dir x --output=e.json --push_to_hub"
    assert command == f"python training/train.py text {expected}"


def test_long_logs_are_thinned_and_keep_both_ends():
    history = [{"loss": 1.0, "step": step} for step in range(1000)] + [{"eval_loss": 1.0, "step": 999}]
    history += [{"train_runtime": 1.0, "step": 999}]
    thinned = runs.thin_log(history)
    steps = [entry["step"] for entry in thinned]
    assert len(thinned) == 101
    assert steps[0] == 0 and steps[-2:] == [999, 999] and steps == sorted(steps)
    assert runs.thin_log(history[:3]) == history[:3]


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Function that trains a tiny model for some steps and returns the pipeline's folder."""
    monkeypatch.chdir(tmp_path)
    sentences = [f"the {thing} was {how} ." for thing in ("food", "soup", "wine") for how in ("good", "bad", "cold")]
    (tmp_path / "train.txt").write_text("\n".join(sentences * 4) + "\n\n", encoding="utf-8")
    (tmp_path / "dev.txt").write_text("\n".join(sentences), encoding="utf-8")
    size = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = {"encoder": {"model_type": "bert", **size}, "decoder": {"model_type": "llama", **size}}
    model |= {"latent_dim": 4, "denoiser_num_layers": 1, "denoiser_hidden_size": 16}
    config = {"vocab_size": 280, "model_config": model, "use_cpu": True, "per_device_train_batch_size": 8}
    config |= {"save_steps": 2, "logging_steps": 1, "eval_strategy": "no", "num_previews": 0, "report_to": "none"}
    config |= {"ema_decay": 0.9, "max_steps": 7, "disable_tqdm": True, "learning_rate": 0.01}
    (tmp_path / "tiny.json").write_text(json.dumps(config))

    def run(*words: str) -> Path:
        data = ["--train", str(tmp_path / "train.txt"), "--dev", str(tmp_path / "dev.txt")]
        return train_text.main(["tiny.json", *data, "--output_dir", str(tmp_path / "run"), *words])

    return run


def test_finished_run_is_saved_again_from_its_last_checkpoint(train, tmp_path):
    folder = train()
    weights = (folder / "model" / "model.safetensors").read_bytes()
    facts = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    card = (folder / "README.md").read_text(encoding="utf-8")
    (folder / "evaluation.json").write_text("{}")
    (folder / "model" / "model.safetensors").unlink()

    train("--resume_from_checkpoint", "auto")
    again = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    assert (folder / "model" / "model.safetensors").read_bytes() == weights  # the averaged ones, in both
    assert again["steps"] == facts["steps"] == 7
    # The evaluation after training, logged last, has its own running time.
    assert again["log"][:-1] == facts["log"][:-1]
    assert not (folder / "evaluation.json").exists()
    # The last log entry of the first run came after its last checkpoint was written.
    last_logged = max(entry.get("train_seconds", 0) for entry in facts["log"])
    assert last_logged <= again["wall_time_seconds"] <= facts["wall_time_seconds"]
    without_time = [re.sub(r"wall time: [^(]*", "", text) for text in (card, (folder / "README.md").read_text())]
    assert without_time[0] == without_time[1]
    assert sorted(path.name for path in (tmp_path / "run").glob("checkpoint-*"))[-1] == "checkpoint-7"


def test_time_of_a_resumed_run_adds_up(train, tmp_path):
    train()
    state = tmp_path / "run" / "checkpoint-7" / "trainer_state.json"
    values = json.loads(state.read_text())
    values["log_history"][-1]["train_seconds"] = 1000.0
    state.write_text(json.dumps(values))
    folder = train("--resume_from_checkpoint", "auto", "--max_steps", "9")
    assert 1000 <= json.loads((folder / "training.json").read_text())["wall_time_seconds"] < 1100


def test_no_local_folder_is_left_in_what_training_writes(train, tmp_path):
    folder = train()
    for path in (folder / "README.md", folder / "training.json"):
        text = path.read_text(encoding="utf-8")
        assert str(tmp_path) not in text and str(Path.home()) not in text
    facts = json.loads((folder / "training.json").read_text(encoding="utf-8"))
    assert facts["data"]["train"] == {
        "sources": ["train.txt"],
        "sentences": 36,
        "empty_left_out": 1,
        "repeats": 27,
        "cut": 0,
    }
