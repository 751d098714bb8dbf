"""Tiny real models, tokenizers and pipelines; no network."""

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")  # before any Hugging Face import: a test that reaches out must fail
os.environ.setdefault("OMP_NUM_THREADS", "1")  # tiny models: threads of these tests and their processes only wait

from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from deprecations import Deprecations
from hypothesis import HealthCheck, settings
from transformers import PreTrainedTokenizerFast
from transformers.utils import logging

from hf_eddpm import EDDPMConfig, EDDPMModel, EDDPMPipeline, EDDPMScheduler, EDDPMTextProcessor
from hf_eddpm.modalities.text.fitting import train_tokenizer
from pretrained_packages import HUB_IDS, PACKAGES, write_model


def pytest_addoption(parser):
    parser.addoption(
        "--versions",
        choices=("lock", "newest", "lowest"),
        default="lock",
        help="which versions are installed: with 'lock' upstream deprecations are errors, else listed at the end",
    )


def pytest_configure(config):
    if config.getoption("--versions") != "lock":
        for category in ("DeprecationWarning", "FutureWarning"):
            config.addinivalue_line("filterwarnings", f"default::{category}")
    config.pluginmanager.register(Deprecations(config))


# The same examples in every run, so that a change is judged by what it changes; `make test-search` looks for new ones.
settings.register_profile(
    "eddpm", deadline=None, max_examples=25, derandomize=True, suppress_health_check=[HealthCheck.too_slow]
)
settings.register_profile("search", settings.get_profile("eddpm"), max_examples=1000, derandomize=False)
settings.load_profile("eddpm")

SENTENCES = [
    "the food was great .",
    "i will never come back !",
    "a cold beer and a warm welcome .",
    "we waited an hour for our table .",
    "the staff is friendly .",
    "my soup was cold .",
    "best tacos in town !",
    "do not go there .",
]
VOCAB_SIZE = 300
SPECIAL_IDS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
TINY = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "vocab_size": VOCAB_SIZE,
    **SPECIAL_IDS,
}
# One tiny decoder of each family: the values that differ from TINY.
DECODERS = {
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
    "llama": {"num_key_value_heads": 2},
    "qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "gemma": {"num_key_value_heads": 2, "head_dim": 8},
    "mistral": {"num_key_value_heads": 2},
}


def tiny_config(decoder: str | dict = "llama", **values) -> EDDPMConfig:
    """A text configuration of a few thousand parameters; `values` override it."""
    if isinstance(decoder, dict):
        backbone = decoder
    elif decoder == "gpt2":
        backbone = {"model_type": "gpt2", "vocab_size": VOCAB_SIZE, **SPECIAL_IDS, **DECODERS["gpt2"]}
    else:
        backbone = {"model_type": decoder, **TINY, **DECODERS[decoder]}
    defaults = {
        "encoder": {"model_type": "bert", **TINY},
        "decoder": backbone,
        "latent_dim": 8,
        "num_latents": 2,
        "denoiser_num_layers": 2,
        "denoiser_hidden_size": 32,
        "decoder_noise_variance": 0.0,
    }
    return EDDPMConfig(**{**defaults, **values})


def tiny_model(seed: int = 0, **values) -> EDDPMModel:
    """A seeded model in evaluation mode whose weights are large enough that its outputs differ from input to input."""
    torch.manual_seed(seed)
    model = EDDPMModel(tiny_config(**values)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.15)
    return model


def enable_checkpointing(model) -> None:
    """Trade computation for memory; transformers 5.23 renamed the method."""
    if hasattr(model, "activation_checkpointing_enable"):
        model.activation_checkpointing_enable()
    else:
        model.gradient_checkpointing_enable()


@pytest.fixture
def quiet_again():
    """Scripts set transformers' verbosity, which outlives them."""
    verbosity = logging.get_verbosity()
    yield
    logging.set_verbosity(verbosity)


@pytest.fixture(autouse=True)
def _seeded():
    torch.manual_seed(0)


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    return train_tokenizer(SENTENCES, VOCAB_SIZE)


@pytest.fixture
def processor(tokenizer) -> EDDPMTextProcessor:
    return EDDPMTextProcessor(tokenizer, max_length=16)


@pytest.fixture
def model() -> EDDPMModel:
    return tiny_model()


@pytest.fixture
def pipe(model, processor) -> EDDPMPipeline:
    pipe = EDDPMPipeline(model, EDDPMScheduler(**model.config.scheduler_config), processor)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture
def batch(processor):
    """Four sentences of different length, as tensors."""
    return dict(processor(SENTENCES[:4]))


@pytest.fixture(scope="session")
def pretrained_models(request) -> Path:
    """A folder in which real pretrained models lie under their Hub ids; converted once and kept in pytest's cache."""
    if missing := [name for name, package in PACKAGES.items() if find_spec(package) is None]:
        pytest.skip(f"{missing} are not installed: see docs/examples/pretrained_packages.py")
    folder = Path(request.config.cache.mkdir("pretrained-models"))
    for name, hub_id in HUB_IDS.items():
        write_model(name, folder / hub_id)
    return folder


@pytest.fixture(scope="session")
def make_pipe(tokenizer):
    """Function that makes a new pipeline around a model, by default a tiny one; always the same one."""

    def make(model: EDDPMModel | None = None) -> EDDPMPipeline:
        model = tiny_model() if model is None else model
        scheduler = EDDPMScheduler(**model.config.scheduler_config)
        pipe = EDDPMPipeline(model, scheduler, EDDPMTextProcessor(tokenizer, max_length=16))
        pipe.set_progress_bar_config(disable=True)
        return pipe

    return make
