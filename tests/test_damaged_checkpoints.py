"""Checkpoints that are damaged, or whose files contradict each other, are refused: soon, by name, in little memory."""

import json
import re
import shutil
import time
from pathlib import Path

import pytest
import torch
from conftest import tiny_config, tiny_model
from diffusers import DDIMScheduler, DiffusionPipeline
from safetensors.torch import load_file, save_file
from transformers import AutoModel

from hf_eddpm import EDDPMModel, EDDPMPipeline, EDDPMScheduler, LatentGuide, TextDecoder, TextEncoder
from hf_eddpm.hub.lora import add_lora
from hf_eddpm.modalities.backbones import load_backbone

ROOT = Path(__file__).parent.parent / "model_cards"
CARDS = ("eddpm-digits", "eddpm-gifford", "eddpm-yelp")
SECONDS, MEGABYTES = 5, 400  # the largest of the three takes 100 MB
CONFIG, INDEX = "model/config.json", "model_index.json"
SCHEDULER, PROCESSOR, WEIGHTS = (
    "scheduler/scheduler_config.json",
    "processor/processor_config.json",
    "model/model.safetensors",
)
NAN, INF = float("nan"), float("inf")


def link_checkpoint(name: str, folder: Path) -> Path:
    """A folder whose files are links to a shipped checkpoint's, without checksums."""
    for path in (ROOT / name).rglob("*"):
        if path.is_file() and (path.parent != ROOT / name or path.name == INDEX):
            place = folder / path.relative_to(ROOT / name)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(path)
    return folder


def values(file, **changed):
    """Change values of a JSON file; `a__b` is the value b inside a."""

    def change(folder):
        data = json.loads((folder / file).read_text())
        for key, value in changed.items():
            *path, last = key.split("__")
            inner = data
            for word in path:
                inner = inner[word]
            inner[last] = value
        text(file, json.dumps(data))(folder)

    return change


def text(file, content):
    def change(folder):
        (folder / file).unlink()
        (folder / file).write_bytes(content if isinstance(content, bytes) else content.encode())

    return change


def missing(file):
    def change(folder):
        path = folder / file
        shutil.rmtree(path) if path.is_dir() else path.unlink()

    return change


def weights(change_tensors, file=WEIGHTS):
    def change(folder):
        tensors = load_file(folder / file)
        change_tensors(tensors)
        (folder / file).unlink()
        save_file(tensors, folder / file, metadata={"format": "pt"})

    return change


def spoilt(part, value, file=WEIGHTS):
    def change(tensors):
        name = next(name for name in tensors if part in name and tensors[name].is_floating_point())
        tensors[name].view(-1)[0] = value

    return weights(change, file)


def without(part):
    return weights(lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith(part)])


# What is wrong, and a piece of what the error must say. Names of JSON values are in it where one is to blame.
CASES = {
    **{f"scheduler {key}": (values(SCHEDULER, **{key: value}), "scheduler_config") for key, value in {
        "prediction_type": "epsilon", "beta_start": 0.001, "beta_end": 0.5, "beta_schedule": "squaredcos_cap_v2",
        "trained_betas": [0.1] * 1000, "num_train_timesteps": 500, "timestep_spacing": "sideways",
    }.items()},
    **{f"scheduler T {value}": (values(SCHEDULER, num_train_timesteps=value), "num_train_timesteps")
       for value in (0, -1, 1.5, True, "1000", None, [1], 10**9, 10**12)},
    **{f"scheduler {key} {value!r}": (values(SCHEDULER, **{key: value}), "scheduler_config") for key, value in (
        ("beta_start", "a"), ("beta_end", None), ("prediction_type", 3), ("beta_schedule", "steep"),
        ("trained_betas", "abc"),
    )},
    **{f"{file} {content!r}": (text(file, content), Path(file).name)
       for file in (SCHEDULER, PROCESSOR, INDEX) for content in ("", "[]", "null", b"\xff\xfe\0")},
    **{f"config {content!r}": (text(CONFIG, content), "config") for content in ("", "[]", "{}", b"\xff\xfe\0")},
    **{f"{name} {value!r}": (values(INDEX, **{name: value}), name)
       for name in ("default_num_inference_steps", "default_num_decoder_steps")
       for value in (0, -1, 1001, 10**9, 2.5, NAN, True, "20", None, [2])},
    **{f"default_noise_scale {value!r}": (values(INDEX, default_noise_scale=value), "default_noise_scale")
       for value in (0, -1, NAN, INF, True, "1", None)},
    **{f"index {key} {value!r}": (values(INDEX, **{key: value}), key) for key, value in (
        ("model", None), ("model", ["a"]), ("model", [1, 2]), ("scheduler", [None, None]), ("processor", 3),
        ("scheduler", ["diffusers", "AutoencoderKL"]),
    )},
    "a function in the place of a class": (values(INDEX, scheduler=["os", "system"]), "system"),
    **{f"{key} {value!r}": (values(CONFIG, **{key: value}), key) for key, value in (
        ("latent_dim", "16"), ("num_latents", 1.5), ("denoiser_num_layers", None), ("denoiser_hidden_size", [3]),
        ("beta_start", "0.1"), ("beta_end", NAN), ("prediction_type", None), ("modality", 3), ("modality", "sound"),
        ("encoder", "bert"), ("decoder", 3), ("num_train_timesteps", True), ("trained_betas", "abc"),
        ("encoder_noise_variance", NAN), ("diffusion_weight", NAN), ("property_weight", True), ("model_type", "bert"),
        ("dtype", "float99"), ("tie_word_embeddings", "yes"),
    )},
    **{f"not of these weights: {key} {value!r}": (values(CONFIG, **{key: value}), "its config") for key, value in (
        ("num_classes", 7), ("latent_dim", 17), ("num_latents", 2), ("denoiser_num_layers", 2),
        ("denoiser_num_layers", 9), ("denoiser_hidden_size", 128), ("denoiser_type", "transformer"),
        ("latent_normalization", "none"), ("num_properties", 3),
    )},
    **{f"too large: {key} {value:.0e}": (values(CONFIG, **{key: value}), f"config|{key}") for key in (
        "num_train_timesteps", "denoiser_num_layers", "num_latents", "latent_dim", "num_classes",
        "denoiser_hidden_size", "num_properties",
    ) for value in (10**6, 10**9, 10**12)},
    **{f"weights {part} {value}": (spoilt(part, value), part)
       for part, value in (("denoiser", NAN), ("encoder", INF), ("decoder", -INF), ("bottleneck", NAN))},
    **{f"weights without {part}": (without(part), part) for part in ("denoiser", "encoder", "decoder", "bottleneck")},
    "weights besides": (weights(lambda tensors: tensors.update({"surprise.weight": torch.zeros(3)})), "surprise"),
    "weights of integers": (
        weights(lambda tensors: tensors.update({"denoiser.output.weight": tensors["denoiser.output.weight"].char()})),
        "denoiser.output.weight",
    ),
    **{f"weights {content[:4]!r}": (text(WEIGHTS, content), "model.safetensors")
       for content in (b"", b"abc" * 999, (10**12).to_bytes(8, "little") + b"{}")},
    **{f"missing {file}": (missing(file), file.split("/")[0] if "/" not in file else Path(file).name)
       for file in ("scheduler", SCHEDULER, "processor", PROCESSOR, "model", CONFIG, WEIGHTS, INDEX)},
}  # fmt: skip
OF_ONE_CARD = {
    "eddpm-digits": {
        **{f"decoder_scheduler {key}": (values("decoder_scheduler/scheduler_config.json", **{key: value}), "scheduler")
           for key, value in (
               ("num_train_timesteps", 500), ("num_train_timesteps", 10**9), ("beta_end", 0.5),
               ("prediction_type", "epsilon"), ("timestep_spacing", "sideways"),
           )},
        "missing decoder_scheduler": (missing("decoder_scheduler"), "decoder_scheduler"),
        **{f"too large: {part}.{key} {size}": (values(CONFIG, **{f"{part}__{key}": size}), f"config|{key}")
           for part, key in (
               ("encoder", "layers_per_block"), ("decoder", "layers_per_block"), ("encoder", "image_size"),
               ("decoder", "image_size"), ("encoder", "patch_size"), ("decoder", "map_channels"),
           ) for size in (2**20, 2**40)},
        "too large: channels": (values(CONFIG, decoder__block_out_channels=[2**33, 2**33]), "config"),
        "too large: processor": (values(PROCESSOR, image_size=10**9), "image_size"),
    },
    "eddpm-gifford": {
        "no properties": (values(CONFIG, num_properties=0), "property_head"),
        "another pooling": (values(CONFIG, pooling="mean"), "encoder.queries"),
        **{f"too large: {key} {size}": (values(CONFIG, **{key: size}), "config|must be at most") for key in (
            "encoder__num_hidden_layers", "encoder__vocab_size", "encoder__hidden_size", "decoder__num_sites",
            "decoder__num_hidden_layers", "property_hidden_size",
        ) for size in (10**6, 10**9, 10**12)},
        **{f"length {value!r}": (values(PROCESSOR, length=value), "length") for value in (10**9, "20", -1)},
    },
    "eddpm-yelp": {
        "another schedule": (values(SCHEDULER, beta_schedule="linear"), "scheduler_config"),
        "another pooling": (values(CONFIG, pooling="attention"), "encoder.queries"),
        **{f"{key} {value!r}": (values(CONFIG, **{key: value}), "encoder|hidden size") for key, value in (
            ("encoder__hidden_size", "a"), ("encoder__dtype", "float99"), ("encoder__model_type", "no such"),
            ("encoder__num_attention_heads", 7), ("encoder__hidden_act", 3),
        )},
        **{f"too large: {key} {size}": (values(CONFIG, **{key: size}), "config|must be at most") for key in (
            "encoder__num_hidden_layers", "encoder__vocab_size", "encoder__intermediate_size",
            "encoder__max_position_embeddings", "decoder__n_layer", "decoder__n_embd", "decoder__vocab_size",
        ) for size in (10**6, 10**9, 10**12)},
        **{f"missing {file}": (missing(f"processor/{file}"), "tokenizer") for file in (
            "tokenizer.json", "tokenizer_config.json", "decoder_tokenizer", "decoder_tokenizer/tokenizer.json",
            "decoder_tokenizer/tokenizer_config.json",
        )},
        "empty tokenizer": (text("processor/tokenizer.json", ""), "tokenizer.json"),
        **{f"max_length {value!r}": (values(PROCESSOR, max_length=value), "max_length") for value in ("a", 10**9)},
    },
}  # fmt: skip


def _memory() -> int:
    """The most memory that this process has had since the last call, in MB, where the system says it."""
    try:
        peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmHWM" in line)
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        pytest.skip("this system does not say how much memory a process has had")
    return int(peak.split()[1]) // 1024


def check_refusal(folder: Path, change, message: str, load=EDDPMPipeline.from_pretrained) -> None:
    change(folder)
    _memory()
    before = _memory()
    start = time.perf_counter()
    with pytest.raises((ValueError, OSError)) as caught:
        load(folder)
    assert time.perf_counter() - start < SECONDS
    assert _memory() - before < MEGABYTES
    assert re.search(message, str(caught.value))
    assert not type(caught.value).__name__.startswith("JSON")


# eddpm-yelp has the cosine schedule, in which these mean nothing or are what it has.
CONSTANT_ALONE = {"scheduler beta_start", "scheduler beta_end", "scheduler beta_schedule"}
EVERYWHERE = [(name, CARDS[number % (2 if name in CONSTANT_ALONE else 3)]) for number, name in enumerate(CASES)]
ONCE = [(name, card) for card, cases in OF_ONE_CARD.items() for name in cases]
ELSEWHERE = [
    (name, card)
    for name in CASES
    for card in CARDS
    if (name, card) not in EVERYWHERE and not (card == "eddpm-yelp" and name in CONSTANT_ALONE)
]


@pytest.mark.parametrize("name, card", EVERYWHERE + ONCE)
def test_a_damaged_checkpoint_is_refused(name, card, tmp_path):
    case = CASES[name] if (name, card) in EVERYWHERE else OF_ONE_CARD[card][name]
    check_refusal(link_checkpoint(card, tmp_path), *case)


@pytest.mark.slow
@pytest.mark.parametrize("name, card", ELSEWHERE)
def test_a_damaged_checkpoint_of_another_modality_is_refused(name, card, tmp_path):
    check_refusal(link_checkpoint(card, tmp_path), *CASES[name])


@pytest.mark.parametrize("card", CARDS)
def test_a_sound_checkpoint_loads_without_drawing_random_numbers(card, tmp_path):
    state = torch.get_rng_state()
    pipe = EDDPMPipeline.from_pretrained(link_checkpoint(card, tmp_path))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(tensor.device.type == "cpu" for tensor in pipe.model.state_dict().values())


@pytest.mark.parametrize("card", CARDS)
def test_a_model_alone_is_checked_as_in_its_pipeline(card, tmp_path):
    folder = link_checkpoint(card, tmp_path)
    changed = values(CONFIG, latent_dim=10**9)
    check_refusal(folder, changed, "its files have", lambda folder: EDDPMModel.from_pretrained(folder / "model"))
    changed = values(CONFIG, latent_dim=17)
    check_refusal(folder, changed, r"\d+\) by the config", lambda folder: EDDPMModel.from_pretrained(folder / "model"))


def test_what_a_checkpoint_lacks_can_be_reported_instead(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    weights(lambda tensors: tensors.update({"extra": tensors.pop("denoiser.output.bias")}))(tmp_path)
    with pytest.raises(OSError, match="denoiser.output.bias"):
        EDDPMModel.from_pretrained(tmp_path / "model")
    loaded, info = EDDPMModel.from_pretrained(tmp_path / "model", output_loading_info=True)
    assert set(info["missing_keys"]) == {"denoiser.output.bias"} and set(info["unexpected_keys"]) == {"extra"}
    assert torch.equal(loaded.denoiser.output.weight, model.denoiser.output.weight)


def test_weights_of_other_shapes_are_made_anew_where_that_is_asked_for(model, tmp_path):
    model.save_pretrained(tmp_path / "model")
    values(CONFIG, denoiser_hidden_size=16)(tmp_path)
    loaded = EDDPMModel.from_pretrained(tmp_path / "model", ignore_mismatched_sizes=True)
    assert loaded.denoiser.output.in_features == 16 + model.config.latent_size


def test_a_folder_with_a_pickle_alone_is_refused(tmp_path):
    folder = link_checkpoint("eddpm-gifford", tmp_path)
    torch.save(load_file(folder / WEIGHTS), folder / "model" / "pytorch_model.bin")
    missing(WEIGHTS)(folder)
    loaders = [
        lambda: EDDPMPipeline.from_pretrained(folder),
        lambda: DiffusionPipeline.from_pretrained(folder),
        lambda: EDDPMModel.from_pretrained(folder / "model"),
        lambda: AutoModel.from_pretrained(folder / "model"),
    ]
    for load in loaders:
        with pytest.raises(OSError, match="Only safetensors are loaded"):
            load()
    with pytest.raises(ValueError, match="`use_safetensors` must not be False"):
        EDDPMPipeline.from_pretrained(folder, use_safetensors=False)


@pytest.mark.parametrize("card", CARDS)
def test_a_variant_that_is_not_there_is_named_as_diffusers_does(card):
    message = "You are trying to load the model files of the `variant=fp16`, but no such modeling files are available"
    for load, folder in ((EDDPMPipeline.from_pretrained, card), (EDDPMModel.from_pretrained, f"{card}/model")):
        with pytest.raises(OSError, match=message):
            load(ROOT / folder, variant="fp16")


def test_a_loaded_scheduler_has_the_config_of_a_new_one(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    loaded = EDDPMPipeline.from_pretrained(tmp_path).scheduler
    assert dict(loaded.config) == dict(EDDPMScheduler(**pipe.model.config.scheduler_config).config)
    assert not [name for name in loaded.config if name.startswith("_")]
    assert dict(EDDPMScheduler.from_config(loaded.config).config) == dict(loaded.config)
    other = DDIMScheduler.from_config(EDDPMScheduler().config)  # of values that are our defaults
    assert torch.equal(other.betas, EDDPMScheduler().betas)


# Adapters


@pytest.fixture(scope="module")
def adapter(tmp_path_factory, make_pipe):
    """A pipeline's folder with an adapter on two tiny pretrained models."""
    folder, whole = tmp_path_factory.mktemp("adapter"), tiny_model()
    parts = {}
    for part in ("encoder", "decoder"):
        getattr(whole, part).backbone.save_pretrained(folder / part)
        parts[part] = load_backbone(part, str(folder / part))
    config = tiny_config()
    config.encoder, config.decoder = parts["encoder"].config, parts["decoder"].config
    model = EDDPMModel(config, TextEncoder(config, parts["encoder"]), TextDecoder(config, parts["decoder"])).eval()
    add_lora(model, preset="paper")
    make_pipe(model).save_pretrained(folder / "pipe")
    (folder / "pipe" / "checksums.json").unlink()
    return folder / "pipe"


ADAPTER, BASES, ADAPTER_WEIGHTS = (
    "adapter/adapter_config.json",
    "adapter/base_models.json",
    "adapter/adapter_model.safetensors",
)
OF_ADAPTERS = {
    **{f"base models {content!r}": (text(BASES, content), "base_models.json") for content in (
        "", "[]", "{}", "null", b"\xff\xfe\0", '{"encoder": null}', '{"encoder": {}}', '{"decoder": {"name": 3}}',
        '{"encoder": {"name": ""}}', '{"encoder": {"name": "a", "revision": 3}}', '{"denoiser": {"name": "a"}}',
    )},
    "a base model that is not there": (values(BASES, encoder__name="no/such"), "base_models="),
    "a base model of another kind": (
        lambda folder: values(BASES, encoder__name=str(folder.parent / "decoder"))(folder), "adapter"
    ),
    "no base model named for a part": (lambda folder: text(
        BASES, json.dumps({"decoder": json.loads((folder / BASES).read_text())["decoder"]})
    )(folder), "names no pretrained model|lacks"),
    **{f"rank {rank!r}": (values(ADAPTER, r=rank), "rank|damaged") for rank in (10**9, 0, -1, "a", None, 1.5, True)},
    **{f"rank pattern {rank!r}": (values(ADAPTER, rank_pattern={"q_proj": rank}), "rank|damaged|model")
       for rank in (10**9, "a", 1)},
    **{f"targets {targets!r}": (values(ADAPTER, target_modules=targets), "adapter") for targets in (
        ["q_proj"], ["no_such"], [], "[", None, 3,
    )},
    "other modules in full": (values(ADAPTER, modules_to_save=["bottleneck"]), "adapter"),
    **{f"kind {kind!r}": (values(ADAPTER, peft_type=kind), "adapter") for kind in ("IA3", "NO_SUCH", None)},
    **{f"config {content!r}": (text(ADAPTER, content), "adapter_config.json") for content in ("", "[]", "{}")},
    **{f"missing {file}": (missing(file), Path(file).name) for file in (ADAPTER, BASES, ADAPTER_WEIGHTS)},
    **{f"{part} {value}": (spoilt(part, value, ADAPTER_WEIGHTS), part)
       for part, value in (("lora_A", NAN), ("lora_B", INF), ("denoiser", -INF))},
    **{f"too large: {key} {size}": (values(CONFIG, **{key: size}), "config|must be at most|cannot be loaded")
       for key in (
           "latent_dim", "num_latents", "denoiser_hidden_size", "denoiser_num_layers", "num_classes",
           "decoder__num_hidden_layers", "decoder__vocab_size", "encoder__intermediate_size",
       ) for size in (10**6, 10**9)},
    "more layers than the base model": (values(CONFIG, decoder__num_hidden_layers=3), "lacks"),
}  # fmt: skip


@pytest.mark.parametrize("name", OF_ADAPTERS)
def test_a_damaged_adapter_is_refused(name, adapter, tmp_path):
    for part in ("pipe", "encoder", "decoder"):
        shutil.copytree(adapter.parent / part, tmp_path / part)
    check_refusal(tmp_path / "pipe", *OF_ADAPTERS[name])


# Guides

GUIDE, GUIDE_WEIGHTS = "config.json", "diffusion_pytorch_model.safetensors"
OF_GUIDES = {
    **{f"config {content!r}": (text(GUIDE, content), "") for content in ("", "[]", "{}")},
    **{f"{key} {value!r}": (values(GUIDE, **{key: value}), "") for key, value in (
        ("num_classes", 1), ("num_classes", 4), ("num_classes", "a"), ("hidden_size", 8), ("num_layers", 1),
        ("num_layers", 5), ("latent_dim", 3), ("latent_dim", None), ("encoder_size", 5), ("scheduler_config", 3),
    )},
    **{f"too large: {key} {size}": (values(GUIDE, **{key: size}), "asks for|must be an integer in")
       for key in ("num_classes", "hidden_size", "num_layers", "latent_dim", "num_latents", "encoder_size")
       for size in (10**6, 10**9, 10**12)},
    **{f"weights {value}": (spoilt("output", value, GUIDE_WEIGHTS), "output") for value in (NAN, INF, -INF)},
    "weights missing": (weights(lambda tensors: tensors.pop("output.bias"), GUIDE_WEIGHTS), "output.bias"),
    "weights empty": (text(GUIDE_WEIGHTS, ""), "damaged"),
    **{f"missing {file}": (missing(file), file) for file in (GUIDE, GUIDE_WEIGHTS)},
}  # fmt: skip


@pytest.mark.parametrize("name", OF_GUIDES)
def test_a_damaged_guide_is_refused(name, model, tmp_path):
    LatentGuide.for_model(model, 3, hidden_size=16).save_pretrained(tmp_path)
    check_refusal(tmp_path, *OF_GUIDES[name], LatentGuide.from_pretrained)
