"""Real pretrained language models: all-MiniLM-L6-v2 encodes, the first layers of SmolLM2-135M decode."""

import json

import pytest
import torch
from conftest import SENTENCES

from hf_eddpm import EDDPMPipeline
from hf_eddpm.hub.adapters import merge_adapter
from hf_eddpm.training import train_text
from pretrained_packages import HUB_IDS

REAL = [
    *SENTENCES,
    "service was slow but the pizza made up for it .",
    "they lost my reservation and never apologised .",
    "the patio is lovely in the evening .",
    "i would give zero stars if i could .",
    "our waiter remembered us from last year .",
    "overpriced , overcooked and underseasoned .",
    "the coffee is strong and the pastries are fresh .",
    "parking is a nightmare on weekends .",
]
NUM_LAYERS = 6  # of SmolLM2's 30: what a CPU trains in reasonable time
MODEL = {
    "latent_dim": 32,
    "denoiser_num_layers": 2,
    "denoiser_hidden_size": 128,
    "decoder": {"num_hidden_layers": NUM_LAYERS},
}


@pytest.fixture(scope="module")
def tuned(pretrained_models, tmp_path_factory):
    """A pipeline's folder after a few steps of LoRA."""
    folder = tmp_path_factory.mktemp("real")
    (folder / "sentences.txt").write_text("\n".join(REAL * 4) + "\n")
    words = ["--train", str(folder / "sentences.txt"), "--output_dir", str(folder / "run")]
    words += [
        "--encoder",
        str(pretrained_models / HUB_IDS["minilm"]),
        "--decoder",
        str(pretrained_models / HUB_IDS["smollm2"]),
        "--lora",
        "--lora_preset",
        "paper",
    ]
    words += ["--model_config", json.dumps(MODEL), "--max_length", "24", "--max_steps", "12"]
    words += ["--per_device_train_batch_size", "8", "--learning_rate", "0.002", "--logging_steps", "4", "--use_cpu"]
    words += ["--save_strategy", "no", "--num_previews", "0", "--report_to", "none", "--disable_tqdm", "true"]
    return train_text.main(words)


@pytest.mark.slow
def test_the_loss_falls_in_a_few_steps_and_few_parameters_train(tuned):
    facts = json.loads((tuned / "training.json").read_text())
    losses = [entry["reconstruction_loss"] for entry in facts["log"] if "loss" in entry]
    assert losses[-1] < 0.8 * losses[0]
    assert "LoRA, rank 8, alpha 16" in facts["settings"]["tuning"]


@pytest.mark.slow
@torch.no_grad()
def test_the_adapter_is_small_reloads_merges_and_generates(tuned):
    assert sum(path.stat().st_size for path in (tuned / "adapter").iterdir()) < 10e6
    pipe = EDDPMPipeline.from_pretrained(tuned)
    pipe.set_progress_bar_config(disable=True)
    assert len(pipe.model.decoder.backbone.model.layers) == NUM_LAYERS
    pipe.to(dtype=torch.float64)  # what float32 rounds away is no difference between the two
    latents = pipe.encode(REAL).latents
    batch = pipe.processor(REAL)
    logits = pipe.model.decoder.logits(latents.double(), batch["labels"])
    merge_adapter(pipe.model)
    torch.testing.assert_close(pipe.encode(REAL).latents, latents, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(
        pipe.model.decoder.logits(latents.double(), batch["labels"]), logits, atol=1e-5, rtol=1e-5
    )
    pipe.to(dtype=torch.float32)
    samples = pipe(num_samples=3, num_inference_steps=5, generator=torch.Generator().manual_seed(0)).samples
    assert len(samples) == 3 and all(isinstance(sample, str) for sample in samples)
    assert len(pipe.reconstruct(REAL[:2])) == 2
