"""LoRA adapters, the frozen recipe, and their checkpoints."""

import json
import re

import pytest
import torch
from conftest import SENTENCES, TINY, tiny_config, tiny_model
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, BitsAndBytesConfig, TrainingArguments

from hf_eddpm import EDDPMModel, EDDPMPipeline, EDDPMTrainer, TextDecoder, TextEncoder
from hf_eddpm.adapter_files import save_adapter
from hf_eddpm.hub import saving
from hf_eddpm.hub.adapters import load_adapted_model, merge_adapter
from hf_eddpm.hub.card import build_model_card
from hf_eddpm.hub.lora import add_lora, check_targets, count_parameters, describe_trainable, lora_config
from hf_eddpm.modalities.backbones import add_first_block, freeze_language_model, load_backbone
from hf_eddpm.training.finishing import finish_denoiser

FAMILIES = ["llama", "gpt2", "qwen3", "gemma", "mistral"]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory):
    """Function that returns the folders of a tiny encoder and a tiny language model of a family."""
    made = {}

    def make(decoder="llama"):
        if decoder not in made:
            model = tiny_model(decoder=decoder)
            made[decoder] = {part: tmp_path_factory.mktemp(f"{decoder}-{part}") for part in ("encoder", "decoder")}
            for part, folder in made[decoder].items():
                getattr(model, part).backbone.save_pretrained(folder)
        return made[decoder]

    return make


@pytest.fixture
def build(pretrained):
    """Function that makes a model around those pretrained backbones."""

    def make(decoder="llama", **values):
        parts = {part: load_backbone(part, str(folder)) for part, folder in pretrained(decoder).items()}
        config = tiny_config(**values)
        config.encoder, config.decoder = parts["encoder"].config, parts["decoder"].config
        torch.manual_seed(0)
        return EDDPMModel(config, TextEncoder(config, parts["encoder"]), TextDecoder(config, parts["decoder"])).eval()

    return make


@pytest.fixture
def adapted(build, make_pipe):
    """A pipeline whose adapters and own modules are no longer what they started as."""
    model = build()
    add_lora(model, preset="paper")
    _disturb(model)
    return make_pipe(model)


@torch.no_grad()
def _disturb(model):
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.ndim > 1:
            parameter.normal_(std=0.1)


# Which layers get adapters


def _adapted_layers(model):
    return {name.split(".lora_A")[0] for name, _ in model.named_modules() if name.endswith("lora_A")}


@pytest.mark.parametrize("family", FAMILIES)
def test_the_paper_preset_adapts_every_attention_and_mlp_projection(family, build):
    model = build(family)
    expected = {
        f"{part}.backbone.{name}"
        for part in ("encoder", "decoder")
        for name, module in getattr(model, part).backbone.named_modules()
        if type(module).__name__ in ("Linear", "Conv1D") and "lm_head" not in name
    }
    peft_model = add_lora(model, preset="paper")
    assert _adapted_layers(model) == expected
    config = peft_model.peft_config["default"]
    assert (config.r, config.lora_alpha) == (8, 16)


@pytest.mark.parametrize(("family", "names"), [("llama", {"q_proj", "v_proj"}), ("gpt2", {"c_attn"})])
def test_the_default_layers_are_those_of_the_backbones_families(family, names, build):
    model = build(family)
    add_lora(model)
    layers = {tuple(name.split(".")[0 :: len(name.split(".")) - 1]) for name in _adapted_layers(model)}
    assert layers == {("encoder", "query"), ("encoder", "value"), *(("decoder", name) for name in names)}


@pytest.mark.parametrize(
    "targets", [["q_proj", "v_proj"], r"decoder\..*\.(q|v)_proj", r".*decoder.*layers\.\d+\.self_attn\.[qv]_proj"]
)
def test_layers_are_chosen_by_name_or_by_a_regular_expression(targets, build):
    model = build()
    add_lora(model, target_modules=targets)
    layers = _adapted_layers(model)
    assert len(layers) == 4 and all(
        name.startswith("decoder.") and name.endswith(("q_proj", "v_proj")) for name in layers
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            {"target_modules": ["q_proj", "v_porj"]},
            r"`target_modules` \['v_porj'\] match no layer .*did you mean .*'v_proj'",
        ),
        ({"target_modules": ["zzz"]}, r"match no layer of EDDPMModel; its layers end in"),
        ({"target_modules": ".*zzz"}, "must match the whole name of a layer"),
        ({"target_modules": "("}, "is no regular expression"),
        ({"target_modules": []}, "must name layers"),
        ({"target_modules": ["output"]}, "`target_modules`"),  # only the denoiser's, which trains in full
        ({"modules_to_save": ["botleneck"]}, "`modules_to_save` 'botleneck' is no module of EDDPMModel"),
        ({"modules_to_save": ["layers"]}, r"fits 2 modules \("),
        ({"preset": "best"}, "`preset` must be 'family' or 'paper'"),
        ({"r": 0}, "`r` must be a positive integer, got 0"),
        ({"lora_alpha": 1.5}, "`lora_alpha` must be a positive integer"),
        ({"lora_dropout": 1.0}, r"`lora_dropout` must be in \[0, 1\)"),
        ({"parts": ["denoiser"]}, "`parts` must name one or both"),
    ],
)
def test_what_fits_nothing_is_refused(build, arguments, message):
    with pytest.raises(ValueError, match=message):
        lora_config(build(), **arguments)


def test_a_second_adapter_and_a_misspelt_peft_configuration_are_refused(build):
    model = build()
    with pytest.raises(ValueError, match="'q_porj'"):
        add_lora(model, LoraConfig(target_modules=["q_porj", "v_proj"]))
    with pytest.raises(ValueError, match=r"`config` is given: \['r'\]"):
        add_lora(model, LoraConfig(target_modules=["q_proj"]), r=4)
    add_lora(model)
    with pytest.raises(ValueError, match="has adapters already"):
        add_lora(model)


# What trains


def test_the_count_of_what_trains_is_that_of_the_parameters_with_gradients(build, batch):
    model = build()
    before = {name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()}
    peft_model = add_lora(model, r=4)
    peft_model.train()(**batch).loss.backward()
    with_gradient = sum(p.numel() for p in peft_model.parameters() if p.grad is not None)
    counts = count_parameters(peft_model)
    assert (
        counts["total"]["trainable"] == with_gradient == sum(p.numel() for p in model.parameters() if p.requires_grad)
    )
    assert counts["bottleneck"] == {"trainable": before["bottleneck"], "all": before["bottleneck"]}
    assert counts["denoiser"] == {"trainable": before["denoiser"], "all": before["denoiser"]}
    query, value = (4 * (32 + 32) for _ in range(2))  # r x (in + out) in each of two layers
    assert counts["encoder"] == {"trainable": 2 * (query + value), "all": before["encoder"] + 2 * (query + value)}
    assert f"{with_gradient:,}" in describe_trainable(peft_model).splitlines()[-1]


def test_a_plain_peft_model_gives_the_same_loss_and_trains(build, batch, make_pipe, tmp_path):
    """For those who do not use our helpers."""
    model = build()
    expected = model(**batch).loss
    peft_model = get_peft_model(model, LoraConfig(target_modules=["query", "q_proj"], modules_to_save=["bottleneck"]))
    torch.testing.assert_close(peft_model(**batch).loss, expected)
    frozen = model.decoder.backbone.model.embed_tokens.weight.clone()
    arguments = TrainingArguments(
        str(tmp_path),
        max_steps=2,
        save_steps=1,
        per_device_train_batch_size=4,
        report_to="none",
        use_cpu=True,
        learning_rate=0.01,
    )
    trainer = EDDPMTrainer(peft_model, arguments, make_pipe().processor, train_dataset=SENTENCES, ema_decay=0.5)
    trainer.train()
    assert trainer.model_accepts_loss_kwargs is False  # or the loss would be scaled by gradient accumulation
    assert torch.equal(model.decoder.backbone.model.embed_tokens.weight, frozen)
    latents = trainer.build_pipeline().encode(SENTENCES).latents
    assert (tmp_path / "checkpoint-1" / "adapter_model.safetensors").is_file()
    assert not (tmp_path / "checkpoint-1" / "model.safetensors").exists()
    again = EDDPMTrainer(peft_model, arguments, make_pipe().processor, train_dataset=SENTENCES, ema_decay=0.5)
    again.train(resume_from_checkpoint=str(tmp_path / "checkpoint-1"))
    torch.testing.assert_close(again.build_pipeline().encode(SENTENCES).latents, latents, atol=1e-5, rtol=1e-4)


# Checkpoints


def test_an_adapter_alone_is_saved_with_its_base_models_named_and_loads_the_same(adapted, pretrained, tmp_path):
    adapted.save_pretrained(tmp_path / "pipe")
    assert not (tmp_path / "pipe" / "model" / "model.safetensors").exists()
    bases = json.loads((tmp_path / "pipe" / "adapter" / "base_models.json").read_text())
    assert {part: base["name"] for part, base in bases.items()} == {
        part: str(folder) for part, folder in pretrained().items()
    }
    loaded = EDDPMPipeline.from_pretrained(tmp_path / "pipe")
    loaded.set_progress_bar_config(disable=True)
    assert torch.equal(loaded.encode(SENTENCES).latents, adapted.encode(SENTENCES).latents)
    assert loaded.reconstruct(SENTENCES) == adapted.reconstruct(SENTENCES)
    loaded.save_pretrained(tmp_path / "again")
    first, second = (
        load_file(tmp_path / name / "adapter" / "adapter_model.safetensors") for name in ("pipe", "again")
    )
    assert first.keys() == second.keys() and all(torch.equal(first[key], second[key]) for key in first)


def test_a_transformer_denoiser_trains_in_full_beside_the_adapters_and_is_saved_with_them(build, make_pipe, tmp_path):
    model = build(denoiser_type="transformer")
    add_lora(model, preset="paper")
    assert not [layer for layer in _adapted_layers(model) if "denoiser" in layer]
    assert not [
        name
        for name, value in model.named_parameters()
        if "denoiser.modules_to_save" in name and not value.requires_grad
    ]
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "denoiser" in name and value.requires_grad:
                value.normal_(std=0.2)  # the layers' offsets too, which stand outside any linear layer
    pipe = make_pipe(model)
    pipe.save_pretrained(tmp_path)
    loaded = EDDPMPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    noise = torch.randn(3, 2, 8, generator=torch.Generator().manual_seed(0))
    ours, theirs = (
        each(latents=noise, num_inference_steps=3, output_type="latent").latents for each in (pipe, loaded)
    )
    assert torch.equal(ours, theirs)


def test_the_card_of_an_adapter_counts_each_parameter_once(adapted):
    card = build_model_card(adapted.model, name="adapted", training=None, evaluation=None)
    for part, count in count_parameters(adapted.model).items():
        if part != "total":
            assert re.search(rf"\| {part} \|.*\| {count['all']:,} \|", card.text), part


def test_peft_itself_loads_the_adapter(adapted, build, batch, tmp_path):
    adapted.save_pretrained(tmp_path / "pipe")
    loaded = PeftModel.from_pretrained(build(), str(tmp_path / "pipe" / "adapter")).eval()
    torch.testing.assert_close(loaded(**batch).loss, adapted.model(**batch).loss)


def test_base_models_may_lie_elsewhere(adapted, pretrained, tmp_path):
    adapted.save_pretrained(tmp_path / "pipe")
    file = tmp_path / "pipe" / "adapter" / "base_models.json"
    bases = json.loads(file.read_text())
    bases["decoder"]["name"] = str(tmp_path / "gone")
    file.write_text(json.dumps(bases))
    saving.write_checksums(tmp_path / "pipe")
    with pytest.raises(OSError, match=r"base model '.*gone' for its decoder.*pass `base_models={'decoder': ...}`"):
        EDDPMPipeline.from_pretrained(tmp_path / "pipe")
    loaded = EDDPMPipeline.from_pretrained(tmp_path / "pipe", base_models={"decoder": pretrained()["decoder"]})
    assert torch.equal(loaded.encode(SENTENCES).latents, adapted.encode(SENTENCES).latents)
    with pytest.raises(ValueError, match=r"`base_models` must be among \['decoder', 'encoder'\], got \['denoiser'\]"):
        EDDPMPipeline.from_pretrained(tmp_path / "pipe", base_models={"denoiser": "x"})


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_merged_weights_compute_what_the_adapter_does(family, build, make_pipe, batch, tmp_path):
    model = build(family)
    add_lora(model, preset="paper")
    _disturb(model)
    pipe = make_pipe(model)
    with torch.no_grad():
        expected = pipe.model(**batch)
        logits = pipe.model.decoder.logits(expected.latents, batch["labels"])
        merged = merge_adapter(pipe.model)
        assert merged is pipe.model and not hasattr(merged, "peft_config")
        torch.testing.assert_close(merged(**batch).latents, expected.latents, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            merged.decoder.logits(expected.latents, batch["labels"]), logits, atol=1e-5, rtol=1e-5
        )
    pipe.save_pretrained(tmp_path / "merged")
    loaded = EDDPMPipeline.from_pretrained(tmp_path / "merged")
    assert torch.equal(loaded.encode(SENTENCES).latents, pipe.encode(SENTENCES).latents)
    assert sorted(loaded.model.state_dict()) == sorted(build(family).state_dict())


def test_a_whole_checkpoint_can_be_the_base(make_pipe, tmp_path):
    base = make_pipe()
    base.save_pretrained(tmp_path / "base")
    pipe = EDDPMPipeline.from_pretrained(tmp_path / "base")
    add_lora(pipe.model, target_modules=["q_proj"])
    _disturb(pipe.model)
    pipe.save_pretrained(tmp_path / "tuned")
    bases = json.loads((tmp_path / "tuned" / "adapter" / "base_models.json").read_text())
    assert bases == {"model": {"name": str(tmp_path / "base"), "revision": None}}
    loaded = EDDPMPipeline.from_pretrained(tmp_path / "tuned")
    assert torch.equal(loaded.encode(SENTENCES).latents, pipe.encode(SENTENCES).latents)


def test_an_adapter_that_would_lack_weights_is_not_saved_alone(make_pipe, build, tmp_path):
    pipe = make_pipe()
    add_lora(pipe.model, target_modules=["q_proj"])
    with pytest.raises(ValueError, match=r"encoder's backbone was made from scratch.*`merge_adapter`"):
        pipe.save_pretrained(tmp_path / "pipe")
    assert not (tmp_path / "pipe").exists()
    with pytest.raises(ValueError, match="must have an adapter"):
        save_adapter(tiny_model(), tmp_path)
    model = build()
    get_peft_model(model, LoraConfig(target_modules=["q_proj"], modules_to_save=["bottleneck"]))
    with pytest.raises(ValueError, match="would lack 'denoiser.* name their modules in `modules_to_save`"):
        save_adapter(model, tmp_path)
    with pytest.raises(ValueError, match="must have an adapter"):
        merge_adapter(tiny_model())


def test_whole_weights_saved_over_an_adapter_replace_it(adapted, tmp_path):
    adapted.save_pretrained(tmp_path / "pipe")
    merge_adapter(adapted.model)
    adapted.save_pretrained(tmp_path / "pipe")
    assert not (tmp_path / "pipe" / "adapter").exists()
    loaded = EDDPMPipeline.from_pretrained(tmp_path / "pipe")
    assert torch.equal(loaded.encode(SENTENCES).latents, adapted.encode(SENTENCES).latents)


def test_a_damaged_or_foreign_adapter_is_refused(adapted, tmp_path):
    adapted.save_pretrained(tmp_path / "pipe")
    weights = tmp_path / "pipe" / "adapter" / "adapter_model.safetensors"
    tensors = load_file(weights)
    lost = next(name for name in tensors if "denoiser" in name)
    save_file({name: value for name, value in tensors.items() if name != lost}, weights)
    with pytest.raises(OSError, match="fits another model"):
        EDDPMPipeline.from_pretrained(tmp_path / "pipe", verify=False)
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(OSError, match="damaged or incomplete"):
        EDDPMPipeline.from_pretrained(tmp_path / "pipe", verify=False)
    weights.unlink()
    with pytest.raises(OSError, match="damaged or incomplete"):
        EDDPMPipeline.from_pretrained(tmp_path / "pipe", verify=False)
    with pytest.raises(OSError, match=r"has no base_models.json"):
        load_adapted_model(tiny_config(), tmp_path)


# Pretrained backbones


@pytest.mark.skipif(torch.cuda.is_available(), reason="a machine without a GPU")
def test_quantised_weights_are_refused_without_a_gpu(pretrained):
    with pytest.raises(ValueError, match="`quantization_config` needs a CUDA device"):
        load_backbone(
            "decoder", str(pretrained()["decoder"]), quantization_config=BitsAndBytesConfig(load_in_4bit=True)
        )
    with pytest.raises(ValueError, match="`part` must be one of"):
        load_backbone("denoiser", "x")


def test_an_adapter_trains_on_4_bit_weights_and_is_saved_alone(make_pipe, batch, tmp_path):
    pytest.importorskip("bitsandbytes")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    whole = tiny_model(decoder={"model_type": "llama", **TINY, "hidden_size": 128, "intermediate_size": 256})
    for part in ("encoder", "decoder"):
        getattr(whole, part).backbone.save_pretrained(tmp_path / part)
    # `load_backbone` would refuse it without a GPU, which bitsandbytes itself no longer does
    quantised = AutoModelForCausalLM.from_pretrained(
        tmp_path / "decoder", quantization_config=BitsAndBytesConfig(load_in_4bit=True), dtype=torch.float32
    )
    assert any(type(parameter).__name__ == "Params4bit" for parameter in quantised.parameters())
    encoder = load_backbone("encoder", str(tmp_path / "encoder"))
    config = tiny_config()
    config.encoder, config.decoder = encoder.config, quantised.config
    model = EDDPMModel(config, TextEncoder(config, encoder), TextDecoder(config, quantised)).to(device)
    peft_model = add_lora(model, preset="paper").train()
    optimizer = torch.optim.Adam([p for p in peft_model.parameters() if p.requires_grad], lr=0.01)
    batch = {name: tensor.to(device) for name, tensor in batch.items()}
    losses = []
    for _ in range(10):
        losses.append(peft_model(**batch).loss)
        losses[-1].backward()
        assert all(p.grad is not None for p in peft_model.parameters() if p.requires_grad)
        optimizer.step()
        optimizer.zero_grad()
    assert losses[-1] < losses[0] - 0.5
    with pytest.raises(ValueError, match="quantised weights"):
        merge_adapter(peft_model)
    pipe = make_pipe(model.eval())
    pipe.save_pretrained(tmp_path / "pipe")
    loaded = EDDPMPipeline.from_pretrained(tmp_path / "pipe").to(device)  # around the weights before quantisation
    torch.testing.assert_close(loaded.encode(SENTENCES).latents, pipe.encode(SENTENCES).latents)
    merge_adapter(loaded.model)


@pytest.mark.parametrize("conditioning", ["prefix", "memory"])
@torch.no_grad()
def test_a_pretrained_language_model_gets_its_own_token_embeddings_before_training(build, batch, conditioning):
    decoder = build(decoder_conditioning=conditioning).decoder
    seen = []
    decoder.backbone.register_forward_pre_hook(lambda *call: seen.append(call[2]["inputs_embeds"]), with_kwargs=True)
    labels = batch["labels"]
    decoder.logits(torch.randn(len(labels), 2, 8), labels)
    start = torch.full((len(labels), 1), decoder.start_token_id)
    tokens = torch.cat([start, labels[:, :-1].masked_fill(labels[:, :-1] == -100, decoder.start_token_id)], dim=1)
    assert torch.equal(seen[0][:, -tokens.shape[1] :], decoder.backbone.get_input_embeddings()(tokens))


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_a_new_first_block_changes_nothing_before_training(family, pretrained):
    model = AutoModelForCausalLM.from_pretrained(pretrained(family)["decoder"]).eval()
    longer = add_first_block(model)
    assert longer.config.num_hidden_layers == model.config.num_hidden_layers + 1
    ids = torch.randint(3, TINY["vocab_size"], (2, 7))
    torch.testing.assert_close(longer(ids).logits, model(ids).logits, atol=1e-5, rtol=1e-5)
    again = longer.generate(ids, max_new_tokens=4, do_sample=False)
    assert torch.equal(again, model.generate(ids, max_new_tokens=4, do_sample=False))


def test_the_frozen_recipe_trains_embeddings_first_block_and_what_is_new(pretrained, batch):
    backbone = add_first_block(AutoModelForCausalLM.from_pretrained(pretrained()["decoder"]))
    config = tiny_config()
    config.decoder = backbone.config
    model = EDDPMModel(config, decoder=TextDecoder(config, backbone)).train()
    freeze_language_model(model)
    model(**batch).loss.backward()
    trained = {name.removeprefix("backbone.") for name, p in model.decoder.named_parameters() if p.grad is not None}
    inside = {name for name in trained if name.startswith("model.")}
    assert inside == {"model.embed_tokens.weight"} | {name for name in inside if name.startswith("model.layers.0.")}
    assert len(inside) == 1 + len(list(backbone.model.layers[0].parameters()))
    assert all(
        p.grad is not None for part in (model.encoder, model.bottleneck, model.denoiser) for p in part.parameters()
    )


def test_check_targets_accepts_what_get_peft_model_does(build):
    model = build()
    check_targets(model, ["q_proj", "self_attn.v_proj", "encoder.layer.0.attention.self.query"])
    assert _adapted_layers(add_lora(model, target_modules=["self_attn.v_proj"]).get_base_model())


def test_an_adapter_is_not_saved_over_the_weights_that_it_needs(make_pipe, tmp_path):
    make_pipe().save_pretrained(tmp_path / "base")
    pipe = EDDPMPipeline.from_pretrained(tmp_path / "base")
    add_lora(pipe.model)
    before = {path: path.read_bytes() for path in (tmp_path / "base").rglob("*") if path.is_file()}
    for place in (tmp_path / "base", tmp_path / "base" / ".." / "base"):
        with pytest.raises(ValueError, match="`save_directory` must not be the folder of the adapter's base"):
            pipe.save_pretrained(place)
    assert {path: path.read_bytes() for path in (tmp_path / "base").rglob("*") if path.is_file()} == before
    pipe.save_pretrained(tmp_path / "adapter")
    loaded = EDDPMPipeline.from_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(loaded.encode(SENTENCES).latents, pipe.encode(SENTENCES).latents)


def _train(pipe, folder):
    arguments = TrainingArguments(folder, max_steps=2, report_to="none", use_cpu=True, save_strategy="no")
    EDDPMTrainer(pipe.model, arguments, processor=pipe.processor, train_dataset=SENTENCES).train()


def _fit(pipe, folder):
    pipe.fit_property(SENTENCES, torch.arange(len(SENTENCES)).float(), num_members=2, num_steps=2)


def _finish(pipe, folder):
    latents = pipe.encode(SENTENCES).latents
    finish_denoiser(pipe.model, latents, None, 2, 4, 1e-3, 0.9, 0)


@pytest.mark.parametrize("change", [_train, _fit, _finish])
def test_an_adapter_does_not_name_weights_that_have_changed_since(make_pipe, tmp_path, change):
    make_pipe().save_pretrained(tmp_path / "base")
    pipe = EDDPMPipeline.from_pretrained(tmp_path / "base")
    change(pipe, tmp_path / "run")
    add_lora(pipe.model)
    with pytest.raises(ValueError, match="made from scratch"):
        pipe.save_pretrained(tmp_path / "adapter")
    assert not (tmp_path / "adapter").exists()


def test_an_adapter_that_was_trained_names_its_base(make_pipe, tmp_path):
    make_pipe().save_pretrained(tmp_path / "base")
    pipe = EDDPMPipeline.from_pretrained(tmp_path / "base")
    add_lora(pipe.model)
    _train(pipe, tmp_path / "run")
    pipe.save_pretrained(tmp_path / "adapter")
    loaded = EDDPMPipeline.from_pretrained(tmp_path / "adapter")
    torch.testing.assert_close(loaded.encode(SENTENCES).latents, pipe.encode(SENTENCES).latents)
