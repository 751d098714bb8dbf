"""The training scripts, end to end on a handful of sentences."""

import dataclasses
import json
import math
import sys
from pathlib import Path

import pytest
import torch
import yaml
from conftest import DECODERS, SENTENCES, SPECIAL_IDS, TINY
from diffusers import DPMSolverMultistepScheduler
from huggingface_hub import ModelCard
from safetensors.torch import load_file
from transformers import AutoModel, AutoModelForCausalLM, BertConfig, LlamaConfig

import demo_text
import text_front.plot as plot_front
from hf_eddpm import EDDPMPipeline
from hf_eddpm.hub.card import ORGANISATION
from hf_eddpm.modalities.text.data import TextData
from hf_eddpm.training import evaluate_text, train_text
from hf_eddpm.training.arguments import EDDPMTrainingArguments, parse_arguments
from hf_eddpm.training.options import TextDataArguments, TextModelArguments
from hf_eddpm.training.start import load_start
from hf_eddpm.training.text_card import markdown_tables
from hf_eddpm.training.text_measures import EvaluationSettings, evaluate

POSITIVE, NEGATIVE = SENTENCES[::2], SENTENCES[1::2]
LONG = " and".join(["the soup was cold"] * 8)
MODEL = {
    "latent_dim": 8,
    "num_latents": 2,
    "denoiser_num_layers": 2,
    "denoiser_hidden_size": 32,
}
BACKBONES = {
    "encoder": {"model_type": "bert", **{key: value for key, value in TINY.items() if key not in SPECIAL_IDS}},
    "decoder": {"model_type": "gpt2", **DECODERS["gpt2"]},
}
VALUES = {
    "vocab_size": 300,
    "max_length": 16,
    "model_config": {**MODEL, **BACKBONES},
    "max_steps": 2,
    "per_device_train_batch_size": 4,
    "learning_rate": 0.001,
    "logging_steps": 1,
    "save_strategy": "no",
    "num_previews": 0,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "dev_fraction": 0.25,
}


pytestmark = pytest.mark.usefixtures("quiet_again")


@pytest.fixture
def sentences(tmp_path):
    path = tmp_path / "sentences.txt"
    path.write_text("\n".join(SENTENCES) + "\n")
    return str(path)


CONFIGS = Path(__file__).parent.parent / "training" / "configs"


@pytest.fixture
def run(tmp_path):
    """Function that trains by a configuration file of `VALUES` and `values`, and returns the pipeline's folder."""

    def train(*words, output="run", **values):
        config = tmp_path / "config.json"
        config.write_text(json.dumps({**VALUES, **values}))
        return train_text.main([str(config), "--output_dir", str(tmp_path / output), *words])

    return train


def _facts(folder):
    return json.loads((folder / "training.json").read_text())


# train_text.py


def test_a_few_steps_on_a_text_file_leave_a_pipeline_that_loads(run, sentences, tmp_path):
    folder = run("--train", sentences)
    assert folder == tmp_path / "run" / "pipeline"
    pipe = EDDPMPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    assert (pipe.model.config.latent_dim, pipe.model.config.num_latents) == (8, 2)
    assert pipe.processor.max_length == 16
    assert len(pipe.reconstruct(SENTENCES)) == len(SENTENCES)
    assert len(pipe(num_samples=2, num_inference_steps=2).samples) == 2
    facts = _facts(folder)
    assert facts["steps"] == 2 and facts["batch_size"] == 4
    assert facts["data"]["train"]["sentences"] + facts["data"]["dev"]["sentences"] == len(SENTENCES)
    assert all(math.isfinite(facts["metrics"][f"eval_{name}"]) for name in ("loss", "reconstruction_loss"))


def test_the_card_of_a_new_pipeline_parses_and_its_snippet_runs(run, sentences, tmp_path, monkeypatch, capsys):
    folder = run("--train", sentences)
    card = ModelCard.load(folder / "README.md")
    assert card.data.pipeline_tag == "text-generation"
    snippet = card.text.split("```python\n")[1].split("```")[0]
    (tmp_path / ORGANISATION).mkdir()
    (tmp_path / ORGANISATION / folder.parent.name).symlink_to(folder)  # a copy of the folder under its Hub id
    monkeypatch.chdir(tmp_path)
    exec(compile(snippet, "README.md", "exec"), {})
    assert "torch.Size([2, 16])" in capsys.readouterr().out


def test_the_command_line_overrides_the_configuration_file(run, sentences):
    folder = run("--train", sentences, "--max_steps", "1", "--max_length", "8", "--seed", "7", max_steps=5)
    facts = _facts(folder)
    assert facts["steps"] == 1 and facts["seed"] == 7
    assert EDDPMPipeline.from_pretrained(folder).processor.max_length == 8


def test_json_and_yaml_files_of_the_same_values_give_the_same_arguments(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(VALUES))
    (tmp_path / "a.yaml").write_text(yaml.safe_dump(VALUES))
    classes = (TextDataArguments, TextModelArguments, EDDPMTrainingArguments)
    parsed = [
        parse_arguments(*classes, args=[str(tmp_path / name), "--train", "x.txt", "--output_dir", str(tmp_path)])
        for name in ("a.json", "a.yaml")
    ]
    # the training arguments hold enumerations and a state of their own: their JSON says all
    data, model, training = zip(*parsed, strict=True)
    assert data[0] == data[1] and model[0] == model[1]
    assert training[0].to_json_string() == training[1].to_json_string()
    assert (data[0].max_length, model[0].model_config, training[0].max_steps) == (16, VALUES["model_config"], 2)


def test_an_unknown_key_in_the_configuration_file_is_refused(run, sentences):
    with pytest.raises(ValueError, match=r"unknown arguments: \['learning_rte'\]"):
        run("--train", sentences, learning_rte=0.1)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("absent.json", None, "No such configuration file"),
        ("list.json", "[]", "must hold a mapping"),
        ("list.yaml", "- 1", "must hold a mapping"),
        ("half.json", '{"a": ', "half.json' is no JSON"),
        ("half.yaml", "a: [1\nb: {", "half.yaml' is no YAML"),
        ("wide.json", '{"a": 1}'.encode("utf-16"), "wide.json' is UTF-16"),
        ("wide.yaml", "a: 1".encode("utf-16"), "wide.yaml' is UTF-16"),
        ("mark.json", "\ufeff[]", "must hold a mapping"),
        ("mark.yaml", "\ufeff- 1", "must hold a mapping"),
    ],
)
def test_what_is_no_configuration_file_is_refused(tmp_path, name, content, message):
    if content is not None:
        (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        train_text.main([str(tmp_path / name), "--output_dir", str(tmp_path)])


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"model_config": {"latent_dim": 0}}, "`latent_dim` must be a positive integer"),
        ({"model_config": {"latent_dims": 8}}, "did you mean `latent_dim`"),
        ({"model_config": "not json"}, "`model_config` must be JSON"),
        ({"preset": "text-huge"}, "must be one of"),
        ({"save_dtype": "int8"}, "`save_dtype` must be"),
        ({"dev_fraction": 1.5}, r"`dev_fraction` must be in \(0, 1\)"),
    ],
)
def test_values_outside_their_range_are_refused(run, sentences, values, message):
    with pytest.raises(ValueError, match=message):
        run("--train", sentences, **values)


def test_training_data_must_be_named(run):
    with pytest.raises(ValueError, match="`train` must name the training data"):
        run()


def test_an_interrupted_run_goes_on_from_its_last_checkpoint(run, sentences, monkeypatch):
    checkpoints = {"save_strategy": "steps", "save_steps": 1, "max_steps": 3}
    whole = run("--train", sentences, output="whole", **checkpoints)
    words = ("--train", sentences, "--resume_from_checkpoint", "auto")

    class Killed(BaseException):
        pass

    def killed(self, *args, **kwargs):
        if self.state.global_step == 2:
            raise Killed
        return original(self, *args, **kwargs)

    original = train_text.EDDPMTrainer.training_step
    with monkeypatch.context() as patch:
        patch.setattr(train_text.EDDPMTrainer, "training_step", killed)
        with pytest.raises(Killed):
            run(*words, output="killed", **checkpoints)  # "auto" with nothing to resume from starts anew
    resumed = run(*words, output="killed", **checkpoints)
    expected = EDDPMPipeline.from_pretrained(whole).model.state_dict()
    state = EDDPMPipeline.from_pretrained(resumed).model.state_dict()
    assert [name for name in expected if not torch.equal(expected[name], state[name])] == []
    steps = [entry["step"] for entry in _facts(resumed)["log"] if "loss" in entry]
    assert steps == [1, 2, 3]


def test_empty_and_too_long_lines_are_counted_in_the_log_and_in_the_facts(run, tmp_path, caplog):
    path = tmp_path / "sentences.txt"
    path.write_text("\n".join([*SENTENCES, "", "   ", SENTENCES[0], LONG, f"{LONG} !", f"{LONG} ."]) + "\n")
    dev = tmp_path / "dev.txt"
    dev.write_text(f"{SENTENCES[0]}\n\n{LONG}\n")
    with caplog.at_level("INFO"):
        folder = run("--train", str(path), "--dev", str(dev), "--max_length", "24")
    train_counts, dev_counts = (_facts(folder)["data"][split] for split in ("train", "dev"))
    assert (train_counts["sentences"], train_counts["empty_left_out"], train_counts["repeats"]) == (12, 2, 1)
    assert train_counts["cut"] == 3 and dev_counts["cut"] == 1 and dev_counts["empty_left_out"] == 1
    assert "train: 12 sentences, 2 empty ones left out, 1 repeat an earlier one, 3 are longer than 24" in caplog.text


def test_empty_lines_are_counted_where_the_held_out_data_are_a_share(run, tmp_path):
    path = tmp_path / "sentences.txt"
    path.write_text("\n".join([*SENTENCES, "", "   "]) + "\n")
    assert _facts(run("--train", str(path)))["data"]["train"]["empty_left_out"] == 2


def test_held_out_sentences_are_not_trained_on(sentences):
    arguments = TextDataArguments(train=[sentences], dev_fraction=0.5)
    train, dev = train_text.load_data(arguments, seed=0)
    assert len(dev) == 4 and not set(train.sentences) & set(dev.sentences)
    assert sorted([*train.sentences, *dev.sentences]) == sorted(SENTENCES)


def test_labelled_files_are_read_and_trained_on(run, tmp_path):
    for name, rows in (("positive", POSITIVE), ("negative", NEGATIVE)):
        (tmp_path / f"{name}.txt").write_text("\n".join(rows) + "\n")
    words = [f"{tmp_path / 'positive.txt'}=1", f"{tmp_path / 'negative.txt'}=0"]
    folder = run("--train", *words, "--dev", *words)
    assert _facts(folder)["data"]["train"]["sentences"] == len(SENTENCES)
    arguments = TextDataArguments(train=words, dev=words)
    train, _ = train_text.load_data(arguments, seed=0)
    assert train.of_class(1) == POSITIVE and train.of_class(0) == NEGATIVE
    parts = train_text.load_data(TextDataArguments(train=words, dev_fraction=0.25), seed=0)
    for label, own in ((1, POSITIVE), (0, NEGATIVE)):
        assert sorted(sentence for part in parts for sentence in part.of_class(label)) == sorted(own)


def test_splits_and_configurations_of_a_data_set_are_read_and_sentences_are_spliced(run, tmp_path):
    pytest.importorskip("datasets")
    folder = tmp_path / "reviews"
    (folder / "good").mkdir(parents=True)
    (folder / "bad").mkdir()
    for name, sentences in (("good", POSITIVE[:2]), ("bad", NEGATIVE)):
        for split, chosen in (("train", sentences[1:]), ("test", sentences[:1])):
            lines = "".join(json.dumps({"text": sentence}) + "\n" for sentence in chosen)
            (folder / name / f"{split}.jsonl").write_text(lines)
    configs = [
        {"config_name": name, "data_files": [{"split": s, "path": f"{name}/{s}.jsonl"} for s in ("train", "test")]}
        for name in ("good", "bad")
    ]
    (folder / "README.md").write_text("---\n" + yaml.safe_dump({"configs": configs}) + "---\n")
    splits = ["--train_split", "train", "--dev_split", "test", "--dataset_config", "bad"]
    pipeline = run("--train", str(folder), *splits, "--splice_probability", "0.5")
    data = _facts(pipeline)["data"]
    assert (data["train"]["sentences"], data["dev"]["sentences"]) == (len(NEGATIVE) - 1, 1)


def test_a_denoiser_that_is_told_the_class_trains_on_labelled_files(run, tmp_path):
    for label, part in enumerate((NEGATIVE, POSITIVE)):
        (tmp_path / f"{label}.txt").write_text("\n".join(part) + "\n")
    files = [f"{tmp_path}/0.txt=0", f"{tmp_path}/1.txt=1"]
    conditional = {**VALUES["model_config"], "num_classes": 2}
    folder = run("--train", *files, "--class_names", "complaint", "praise", model_config=conditional)
    assert _facts(folder)["class_names"] == ["complaint", "praise"]
    assert "asks for a class: 0 complaint, 1 praise" in (folder / "README.md").read_text(encoding="utf-8")
    pipe = EDDPMPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    assert len(pipe(num_samples=2, class_labels=[0, 1], guidance_scale=2.0, num_inference_steps=2).samples) == 2
    for words in (["--train", *files[:1], f"{tmp_path}/1.txt=2"], ["--train", f"{tmp_path}/0.txt"]):
        with pytest.raises(ValueError, match=r"`num_classes` = 2 needs sentences with labels in \[0, 2\)"):
            run(*words, model_config=conditional)
    with pytest.raises(ValueError, match=r"`class_names` must name the 2 classes of the model .* got \['one'\]"):
        run("--train", *files, "--class_names", "one", model_config=conditional)


def test_a_training_ends_with_the_denoiser_alone_where_that_is_asked_for(run, tmp_path):
    for label, part in enumerate((NEGATIVE, POSITIVE)):
        (tmp_path / f"part.{label}.txt").write_text("\n".join(part) + "\n")
    data = ["--train", f"{tmp_path}/part.0.txt=0", f"{tmp_path}/part.1.txt=1"]
    told = {"ema_decay": 0.9, "model_config": {**MODEL, **BACKBONES, "num_classes": 2}}
    plain = run(*data, output="plain", **told)
    finished = run(*data, "--finish_steps", "5", "--finish_batch_size", "8", output="finished", **told)
    before, after = (EDDPMPipeline.from_pretrained(folder).model.state_dict() for folder in (plain, finished))
    assert {name.split(".")[0] for name, value in after.items() if not torch.equal(value, before[name])} == {
        "denoiser"
    }
    settings = [_facts(folder)["settings"] for folder in (plain, finished)]
    assert "finishing" not in settings[0] and settings[1]["finishing"].startswith("5 steps of 8")
    with pytest.raises(ValueError, match="`finish_steps` must be 0 for a baseline"):
        run(*data, "--finish_steps", "1", "--no_latents", "true")


def test_weights_are_saved_in_the_type_that_was_asked_for(run, sentences):
    folder = run("--train", sentences, "--save_dtype", "float16")
    assert EDDPMPipeline.from_pretrained(folder, dtype=torch.float16).model.dtype == torch.float16
    stored = json.loads((folder / "model" / "config.json").read_text())["dtype"]
    assert stored == "float16"


@pytest.fixture
def pretrained(tmp_path):
    """Folders of a tiny encoder and a tiny language model, each with a tokenizer of its own."""
    folders = {}
    for part, model_class, config_class, vocab_size in (
        ("encoder", AutoModel, BertConfig, 290),
        ("decoder", AutoModelForCausalLM, LlamaConfig, 310),
    ):
        tokenizer = train_text.train_tokenizer(SENTENCES, vocab_size)
        torch.manual_seed(1)
        model = model_class.from_config(config_class(**{**TINY, "vocab_size": len(tokenizer)}))
        folders[part] = tmp_path / f"pretrained-{part}"
        model.save_pretrained(folders[part])
        tokenizer.save_pretrained(folders[part])
    return folders


def test_pretrained_backbones_with_different_tokenizers_are_trained_on(run, sentences, pretrained):
    words = ["--encoder", str(pretrained["encoder"]), "--decoder", str(pretrained["decoder"])]
    folder = run("--train", sentences, *words, "--learning_rate", "0", model_config=MODEL)
    pipe = EDDPMPipeline.from_pretrained(folder)
    assert len(pipe.processor.tokenizer) != len(pipe.processor.decoder_tokenizer)
    for part, auto_class in (("encoder", AutoModel), ("decoder", AutoModelForCausalLM)):
        state = getattr(pipe.model, part).backbone.state_dict()
        expected = auto_class.from_pretrained(pretrained[part]).state_dict()
        shared = [name for name in expected if name in state]
        assert len(shared) > 10
        assert all(torch.equal(state[name], expected[name]) for name in shared)
    assert len(pipe.reconstruct(SENTENCES)) == len(SENTENCES)


def test_a_pretrained_part_goes_with_a_new_one_that_gets_its_own_tokenizer(run, sentences, pretrained):
    config = {**MODEL, "decoder": BACKBONES["decoder"]}
    folder = run("--train", sentences, "--encoder", str(pretrained["encoder"]), model_config=config)
    pipe = EDDPMPipeline.from_pretrained(folder)
    assert pipe.model.config.encoder.vocab_size == len(pipe.processor.tokenizer)
    assert pipe.model.config.decoder.vocab_size == len(pipe.processor.decoder_tokenizer)


@pytest.mark.parametrize("save", ["adapter", "merged"])
def test_adapters_are_trained_and_saved_as_asked(run, sentences, pretrained, save):
    words = ["--encoder", str(pretrained["encoder"]), "--decoder", str(pretrained["decoder"])]
    words += ["--lora", "--lora_preset", "paper", "--lora_r", "4", "--lora_save", save, "--save_steps", "1"]
    folder = run("--train", sentences, *words, model_config=MODEL, save_strategy="steps", ema_decay=0.5)
    assert (folder / "adapter").is_dir() == (save == "adapter")
    assert (folder / "model" / "model.safetensors").is_file() == (save == "merged")
    pipe = EDDPMPipeline.from_pretrained(folder)
    assert len(pipe.reconstruct(SENTENCES)) == len(SENTENCES)
    card = ModelCard.load(folder / "README.md")
    assert card.data.base_model_relation == ("adapter" if save == "adapter" else "finetune")
    assert len(card.data.base_model) == 2 and "LoRA, rank 4, alpha 16, preset `paper`" in card.text
    checkpoint = folder.parent / "checkpoint-2"
    assert (checkpoint / "adapter_model.safetensors").is_file() and (checkpoint / "ema.safetensors").is_file()


def test_a_training_that_starts_from_an_adapter_merges_it_and_trains_all_weights(run, sentences, pretrained, caplog):
    words = ["--train", sentences, "--encoder", str(pretrained["encoder"]), "--decoder", str(pretrained["decoder"])]
    adapter = run(*words, "--lora", "--lora_preset", "paper", "--learning_rate", "0.1", model_config=MODEL)
    words = ["--train", sentences, "--init_from", str(adapter), "--learning_rate"]
    whole = run(*words, "0", output="whole", model_config={})
    assert "is merged into the weights" in caplog.text
    assert (whole / "model" / "model.safetensors").is_file() and not (whole / "adapter").exists()
    model, processor = load_start(str(adapter), "text", {})
    assert all(parameter.requires_grad for parameter in model.parameters())
    merged = model.eval().encode(**{name: processor(SENTENCES)[name] for name in ("input_ids", "attention_mask")}).mean
    latents = EDDPMPipeline.from_pretrained(adapter).encode(SENTENCES).latents
    torch.testing.assert_close(merged.detach(), latents, atol=1e-5, rtol=1e-5)
    tuned = run(*words, "0.01", output="tuned", model_config={})
    old, new = (EDDPMPipeline.from_pretrained(each).model.state_dict() for each in (whole, tuned))
    backbone = [name for name in old if "backbone" in name and name.endswith("weight")]
    assert sum(not torch.equal(old[name], new[name]) for name in backbone) > len(backbone) / 2


@pytest.mark.parametrize("name", ["text_smollm2_lora", "text_llm_lora"])
def test_the_recipes_of_language_models_train_small_ones_as_well(name, sentences, pretrained, tmp_path):
    words = [str(CONFIGS / f"{name}.json"), "--train", f"{sentences}=0", "--output_dir", str(tmp_path)]
    words += ["--max_length", "16"]
    for part, folder in pretrained.items():
        words += [f"--{part}", str(folder)]
    words += ["--load_in_4bit", "false", "--max_steps", "2", "--per_device_train_batch_size", "4", "--use_cpu"]
    folder = train_text.main([*words, "--precision", "fp32", "--num_previews", "0", "--save_strategy", "no"])
    pipe = EDDPMPipeline.from_pretrained(folder)
    assert pipe.model.config.decoder_conditioning == "memory" and (folder / "adapter").is_dir()
    assert len(pipe.reconstruct(SENTENCES)) == len(SENTENCES)


def test_training_of_adapters_goes_on_from_a_checkpoint(run, sentences, pretrained):
    words = ["--train", sentences, "--encoder", str(pretrained["encoder"]), "--decoder", str(pretrained["decoder"])]
    words += ["--lora", "--lora_targets", r"decoder\..*_proj", "--ema_decay", "0.5"]
    values = {"model_config": MODEL, "save_strategy": "steps", "save_steps": 1, "max_steps": 3}
    whole = run(*words, output="whole", **values)
    resumed = run(*words, "--resume_from_checkpoint", str(whole.parent / "checkpoint-2"), output="resumed", **values)
    expected, state = (load_file(folder / "adapter" / "adapter_model.safetensors") for folder in (whole, resumed))
    assert [name for name in expected if not torch.equal(expected[name], state[name])] == []


def test_a_part_that_is_not_pretrained_trains_in_full_beside_adapters(run, sentences, pretrained):
    config = {**MODEL, "encoder": BACKBONES["encoder"], "pooling": "attention"}
    folder = run("--train", sentences, "--decoder", str(pretrained["decoder"]), "--lora", model_config=config)
    tensors = load_file(folder / "adapter" / "adapter_model.safetensors")
    assert any("encoder.backbone.embeddings" in name for name in tensors) and any(
        "queries" in name for name in tensors
    )
    assert len(EDDPMPipeline.from_pretrained(folder).reconstruct(SENTENCES)) == len(SENTENCES)


def test_the_first_layers_of_a_pretrained_model_are_taken_where_fewer_are_asked_for(run, sentences, pretrained):
    words = ["--encoder", str(pretrained["encoder"]), "--decoder", str(pretrained["decoder"]), "--learning_rate", "0"]
    folder = run("--train", sentences, *words, model_config={**MODEL, "decoder": {"num_hidden_layers": 1}})
    decoder = EDDPMPipeline.from_pretrained(folder).model.decoder.backbone
    expected = AutoModelForCausalLM.from_pretrained(pretrained["decoder"])
    assert len(decoder.model.layers) == 1
    first = decoder.model.layers[0].mlp.up_proj.weight
    assert torch.equal(first, expected.model.layers[0].mlp.up_proj.weight)


def test_a_new_first_block_is_trained_in_a_frozen_decoder(run, sentences, pretrained):
    words = ["--decoder", str(pretrained["decoder"]), "--new_first_block", "--learning_rate", "0.1"]
    config = {**MODEL, "encoder": BACKBONES["encoder"]}
    folder = run("--train", sentences, *words, model_config=config)
    layers = EDDPMPipeline.from_pretrained(folder).model.decoder.backbone.model.layers
    before = AutoModelForCausalLM.from_pretrained(pretrained["decoder"]).model.layers
    assert len(layers) == len(before) + 1
    assert layers[0].mlp.down_proj.weight.abs().max() > 0
    for trained, frozen in zip(layers[1:], before, strict=True):
        state = trained.state_dict()
        assert all(torch.equal(state[name], value) for name, value in frozen.state_dict().items())
    assert "a new first block" in ModelCard.load(folder / "README.md").text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--lora"], "`lora` needs a pretrained"),
        (["--new_first_block"], "`new_first_block` needs a pretrained `decoder`"),
        (["--lora", "--new_first_block"], "exclude each other"),
        (["--lora", "--lora_save", "both"], "`lora_save` must be adapter or merged"),
        (["--load_in_4bit"], "`load_in_4bit` needs `lora`"),
        (["--lora", "--load_in_4bit", "--lora_save", "merged"], "`load_in_4bit` needs `lora_save` adapter"),
        (["--lora", "--decoder", "D", "--lora_targets", "q_porj"], r"`target_modules` \['q_porj'\] match no layer"),
        pytest.param(
            ["--lora", "--load_in_4bit", "--decoder", "D"],
            "`quantization_config` needs a CUDA device",
            marks=pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU"),
        ),
    ],
)
def test_recipes_that_make_no_sense_are_refused(run, sentences, pretrained, words, message):
    words = [str(pretrained["decoder"]) if word == "D" else word for word in words]
    config = {
        **MODEL,
        "encoder": BACKBONES["encoder"],
        "decoder": {} if "--decoder" in words else BACKBONES["decoder"],
    }
    with pytest.raises(ValueError, match=message):
        run("--train", sentences, *words, model_config=config)


# evaluate_text.py and studies/text_front/plot.py

SETTINGS = EvaluationSettings(
    limit=6,
    num_inference_steps=[2, 4],
    seeds=[0, 1],
    path_steps=3,
    edit_scales=[0.0, 2.0],
    batch_size=4,
    refinement_steps=[2],
)


@pytest.fixture(scope="module")
def labelled():
    return TextData([*POSITIVE, *NEGATIVE] * 3, [1] * 4 + [0] * 4 + [1] * 4 + [0] * 4 + [1] * 4 + [0] * 4)


@pytest.fixture(scope="module")
def evaluation(make_pipe, labelled):
    return evaluate(make_pipe(), labelled, labelled, dataclasses.replace(SETTINGS))


def _numbers(value):
    """All numbers anywhere in a result."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in _numbers(item)]
    return [value] if isinstance(value, (int, float)) else []


def test_an_evaluation_holds_the_documented_parts_and_finite_numbers(evaluation):
    parts = {
        "reconstruction",
        "refined_reconstruction",
        "latents",
        "reference",
        "samples",
        "interpolation",
        "probe_accuracy",
        "edits",
    }
    assert parts | {"settings", "config", "seconds", "num_parameters"} <= evaluation.keys()
    assert evaluation["samples"].keys() == {"2", "4"}
    assert evaluation["interpolation"].keys() == {"latents", "noise"}
    assert evaluation["edits"]["by_scale"].keys() == {"0", "2"}
    assert len(_numbers(evaluation)) > 100 and all(math.isfinite(number) for number in _numbers(evaluation))
    assert json.loads(json.dumps(evaluation)) == evaluation


def test_a_statistic_of_the_samples_has_its_spread_over_the_seeds(evaluation):
    uniqueness = evaluation["samples"]["4"]["uniqueness"]
    assert len(uniqueness["values"]) == 2
    assert uniqueness["mean"] == pytest.approx(sum(uniqueness["values"]) / 2)


def test_an_evaluation_without_labels_leaves_out_what_needs_them(make_pipe):
    data = TextData(SENTENCES)
    settings = dataclasses.replace(SETTINGS, num_inference_steps=[2], seeds=[0])
    result = evaluate(make_pipe(), data, data, settings)
    assert "probe_accuracy" not in result and "edits" not in result
    assert result["samples"]["2"]["perplexity"]["std"] is None


def test_the_tables_have_a_row_for_each_number_of_steps_and_each_scale(evaluation):
    summary, samples, edits = markdown_tables(evaluation).split("\n\n")
    assert [row.split("|")[1].strip() for row in samples.splitlines()[2:4]] == ["2", "4"]
    assert [row.split("|")[1].strip() for row in edits.splitlines()[2:]] == ["0", "2"]
    assert f"{evaluation['reconstruction']['bleu']:.1f}" in summary


@pytest.mark.parametrize(
    "values",
    [
        {"num_samples": 0},
        {"path_steps": 2},
        {"seeds": []},
        {"num_inference_steps": []},
        {"limit": 0},
        {"refinement_steps": [0]},
    ],
)
def test_evaluation_settings_outside_their_range_are_refused(values):
    (name,) = values
    with pytest.raises(ValueError, match=f"`{name}`"):
        EvaluationSettings(**values)


def test_the_evaluation_script_writes_json_and_the_card(make_pipe, tmp_path, monkeypatch, capsys):
    make_pipe().save_pretrained(tmp_path / "checkpoint")
    (tmp_path / "data.txt").write_text("\n".join(SENTENCES * 2) + "\n")
    data, output = str(tmp_path / "data.txt"), tmp_path / "result.json"
    words = ["--checkpoint", str(tmp_path / "checkpoint"), "--train", data, "--dev", data, "--output", str(output)]
    small = ["--limit", "4", "--num_inference_steps", "2", "--seeds", "0", "--path_steps", "3", "--update_card"]
    monkeypatch.setattr(sys, "argv", ["evaluate_text.py", *words, *small])
    evaluate_text.main()
    result = json.loads(output.read_text())
    assert result["samples"].keys() == {"2"} and "hardware" in result
    assert "BLEU" in capsys.readouterr().out
    card = ModelCard.load(tmp_path / "checkpoint" / "README.md")
    measured = {each.metric_name: each.metric_value for each in card.data.eval_results}
    assert measured["reconstruction BLEU"] == pytest.approx(result["reconstruction"]["bleu"], abs=1e-3)

    beside = ["--beside", str(output)]
    monkeypatch.setattr(sys, "argv", ["evaluate_text.py", *words, *small, *beside])
    evaluate_text.main()
    assert json.loads(output.read_text())["beside"]["reconstruction"] == result["reconstruction"]
    text = (tmp_path / "checkpoint" / "README.md").read_text()
    ours, other = (line for line in text.splitlines() if line.startswith(("| this model", "| the other")))
    assert ours.split("|")[2:] == other.split("|")[2:]
    monkeypatch.setattr(sys, "argv", ["evaluate_text.py", *words, *small, *beside, "--num_paths", "2"])
    with pytest.raises(ValueError, match=r"`beside` must be an evaluation with the same settings; \['num_paths'\]"):
        evaluate_text.main()

    before = json.loads((tmp_path / "checkpoint" / "evaluation.json").read_text())
    keep = ["--keep", str(tmp_path / "checkpoint" / "evaluation.json")]
    monkeypatch.setattr(sys, "argv", ["evaluate_text.py", *words, *small, *keep, "--num_inference_steps", "3"])
    evaluate_text.main()
    after = json.loads(output.read_text())
    assert after["command"].splitlines()[0] == before["command"] and len(after["command"].splitlines()) == 2
    assert after["wall_time_seconds"] > before["wall_time_seconds"] and after["samples"].keys() == {"3"}
    assert "own `EDDPMScheduler`." in (tmp_path / "checkpoint" / "README.md").read_text()


def test_an_earlier_evaluation_of_the_same_weights_keeps_all_but_the_samples(make_pipe, labelled, evaluation):
    pipe = make_pipe()
    pipe.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, use_karras_sigmas=True)
    settings = dataclasses.replace(SETTINGS, num_inference_steps=[3])
    earlier = json.loads(json.dumps(evaluation))
    earlier["probe_accuracy"] = 0.123  # what is kept is not measured
    again = evaluate(pipe, labelled, labelled, settings, earlier)
    assert again["samples"].keys() == {"3"} and again["probe_accuracy"] == 0.123
    for part in ("reconstruction", "refined_reconstruction", "reference", "interpolation", "edits", "latents"):
        assert again[part] == earlier[part]
    assert (again["sampler"]["scheduler"], evaluation["sampler"]["scheduler"]) == (
        "DPMSolverMultistepScheduler",
        "EDDPMScheduler",
    )
    earlier["reconstruction"]["exact_match"] += 0.1
    with pytest.raises(ValueError, match="`keep` must be of the same weights"):
        evaluate(pipe, labelled, labelled, settings, earlier)


def test_the_front_has_a_point_for_each_value_and_its_spread_over_the_evaluations(
    evaluation, tmp_path, monkeypatch, capsys
):
    for name, variance, bleu in (("a", 0.1, 20.0), ("b", 0.3, 10.0), ("c", 0.1, 23.0)):
        result = json.loads(json.dumps(evaluation))
        result["config"]["encoder_noise_variance"] = variance
        result["reconstruction"]["bleu"] = bleu
        (tmp_path / f"{name}.json").write_text(json.dumps(result))
    files = [str(tmp_path / f"{name}.json") for name in "bac"]
    words = ["--output", str(tmp_path / "front.png"), "--swept", "encoder_noise_variance", "--recipe", "ours", *files]
    monkeypatch.setattr(sys, "argv", ["studies/text_front/plot.py", *words])
    plot_front.main()
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")
    written = (tmp_path / "front.md").read_text()
    assert written in capsys.readouterr().out
    quality, latents = (
        [dict(zip(head, row, strict=True)) for row in rows]
        for head, _, *rows in (
            [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
            for table in written.split("\n\n")
        )
    )
    assert [(row["recipe"], row["encoder_noise_variance"], row["seeds"], row["BLEU"]) for row in quality] == [
        ("ours", "0.1", "2", "21.5 ± 2.1"),
        ("ours", "0.3", "1", "10.0"),
        ("real sentences", "", "", ""),
    ]
    assert quality[-1]["sample perplexity"] == f"{evaluation['reference']['dev']['perplexity']:.1f}"
    ways = evaluation["edits"]["by_scale"]["2"].values()
    assert latents[1]["edits in the class"] == f"{sum(way['accuracy'] for way in ways) / 2:.2f}"


def test_what_an_evaluation_lacks_is_left_out_of_the_front(evaluation, tmp_path):
    without = {name: value for name, value in evaluation.items() if name not in ("edits", "reconstruction")}
    for name, result in (("whole", evaluation), ("part", without)):
        (tmp_path / f"{name}.json").write_text(json.dumps(result | {"recipe": name, "value": 1}))
    plot_front.draw([tmp_path / "whole.json", tmp_path / "part.json"], tmp_path / "front.png")
    (row,) = [row for row in (tmp_path / "front.md").read_text().splitlines()[:4] if row.startswith("| part ")]
    assert row.startswith("| part | 1 | 1 |  |  |")


def test_files_that_the_front_cannot_place_are_refused(evaluation, tmp_path):
    file = tmp_path / "a.json"
    file.write_text(json.dumps(evaluation))
    with pytest.raises(ValueError, match="names no recipe"):
        plot_front.read_result(file)
    with pytest.raises(ValueError, match="`swept` 'nothing' is not in the config"):
        plot_front.read_result(file, "ours", "nothing")
    with pytest.raises(ValueError, match="has samples with 2, 4 steps, not 3"):
        plot_front.read_result(file, "ours", num_inference_steps=3)


# demo_text.py


@pytest.mark.parametrize("tour", ["yelp", pytest.param("docstrings", marks=pytest.mark.slow)])
def test_the_tour_shows_each_thing_the_model_does(make_pipe, tmp_path, monkeypatch, capsys, tour):
    make_pipe().save_pretrained(tmp_path / "tiny")
    words = [
        "--checkpoint",
        str(tmp_path / "tiny"),
        "--tour",
        tour,
        "--num_inference_steps",
        "3",
        "--num_samples",
        "2",
    ]
    monkeypatch.setattr(sys, "argv", ["demo_text.py", *words, SENTENCES[0]])
    demo_text.main()
    out = capsys.readouterr().out
    for title in ("The model:", "Generate:", "Reconstruct:", "Interpolate:", "Edit:", "Compare:"):
        assert f"\n{title}" in out
    assert out.count(SENTENCES[0]) >= 3  # one's own sentence is reconstructed, edited and compared
    assert "The whole tour took" in out


def test_a_tour_has_as_many_sentences_on_either_side_of_its_contrast():
    for tour in demo_text.TOURS.values():
        assert len(tour.positives) == len(tour.negatives) == len({*tour.positives}) == len({*tour.negatives})
