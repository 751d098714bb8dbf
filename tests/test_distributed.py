"""The training script in two processes on the CPU (gloo), against one."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.utils import FullyShardedDataParallelPlugin
from conftest import SENTENCES, SPECIAL_IDS, TINY, tiny_model
from safetensors.torch import load_file

from hf_eddpm.training.finishing import check_whole_weights

ROOT = Path(__file__).parent.parent
# Without noise in the latents and without the chain's loss, a step depends on the data alone.
QUIET = {
    "latent_dim": 8,
    "num_latents": 2,
    "denoiser_num_layers": 2,
    "denoiser_hidden_size": 32,
    "encoder_noise_variance": 1e-12,
    "decoder_noise_variance": 0.0,
    "diffusion_weight": 0.0,
    "encoder": {
        "model_type": "bert",
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        **{key: value for key, value in TINY.items() if key not in SPECIAL_IDS},
    },
    "decoder": {
        "model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64,
        "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    },
}  # fmt: skip
VALUES = {
    "vocab_size": 300,
    "max_length": 16,
    "model_config": QUIET,
    "max_steps": 6,
    "optim": "sgd",  # Adam's first steps divide rounding errors by themselves where a gradient is next to nothing
    "learning_rate": 0.1,
    "max_grad_norm": 0.0,
    "dataloader_drop_last": True,  # two processes would pad a last batch differently
    "logging_steps": 1,
    "save_strategy": "steps",
    "save_steps": 3,
    "num_previews": 0,
    "ema_decay": 0.5,
    "report_to": "none",
    "disable_tqdm": True,
    "use_cpu": True,
    "dev_fraction": 0.2,
    "eval_strategy": "steps",
    "eval_steps": 3,
    "num_threads": 1,
}
# One process's view of what all must agree on, written after training
SPY = """
import json, os, sys
import torch
from hf_eddpm.training import train_text
from hf_eddpm import EDDPMTrainer

log = EDDPMTrainer.log
seen = []

def spy(self, logs, *rest, **named):
    log(self, logs, *rest, **named)
    seen.append({name: value for name, value in logs.items() if "runtime" not in name and "per_second" not in name})

EDDPMTrainer.log = spy
finish = EDDPMTrainer._finish_weights

def finish_and_tell(self):
    finish(self)
    weights = {name: float(value.double().sum()) for name, value in self._eddpm.state_dict().items()}
    rank = os.environ.get("RANK", "0")
    averages = [] if self.ema is None else [float(shadow.double().sum()) for shadow in self.ema.shadow_params]
    with open(f"{self.args.output_dir}/seen-{rank}.json", "w") as file:
        json.dump({"log": seen, "weights": weights, "averages": averages}, file)

EDDPMTrainer._finish_weights = finish_and_tell
train_text.main(sys.argv[1:])
"""


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """Function that trains in some number of processes with 8 sentences a step in all; returns the run's folder."""
    folder = tmp_path_factory.mktemp("distributed")
    (folder / "spy.py").write_text(SPY)
    lines = [
        f"{sentence[:-1]}{word} ." for sentence in SENTENCES for word in ("today", "here", "again and again", "too")
    ]
    (folder / "sentences.txt").write_text("\n".join(lines) + "\n")

    def run(num_processes, output, *words, **values):
        config = folder / f"{output}.json"
        batch = {"per_device_train_batch_size": 8 // num_processes, "per_device_eval_batch_size": 4 // num_processes}
        config.write_text(json.dumps({**VALUES, **batch, **values}))
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]
        arguments = [
            str(config),
            "--train",
            str(folder / "sentences.txt"),
            "--precision",  # the order of sums shows in bfloat16
            "fp32",
            "--output_dir",
            str(folder / output),
            *words,
        ]
        result = subprocess.run(
            [sys.executable, *(launcher if num_processes > 1 else []), str(folder / "spy.py"), *arguments],
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT / "src"),
                "OMP_NUM_THREADS": "1",
            },
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert result.returncode == 0, result.stderr[-4000:]
        return folder / output

    return run


def _seen(folder, rank=0):
    return json.loads((folder / f"seen-{rank}.json").read_text())


def _curve(folder, name="loss"):
    return torch.tensor([entry[name] for entry in _seen(folder)["log"] if name in entry])


@pytest.fixture(scope="module")
def two(train):
    return train(2, "two")


@pytest.fixture(scope="module")
def one(train):
    return train(1, "one")


def test_two_processes_follow_the_loss_curve_of_one_with_the_same_global_batch(one, two):
    assert len(_curve(one)) == 6
    torch.testing.assert_close(_curve(two), _curve(one), atol=2e-4, rtol=0)  # of about 6 nats; logs have 4 digits
    for name in ("latent_std", "latent_norm", "kl_per_dim", "effective_rank", "rate"):
        torch.testing.assert_close(_curve(two, name), _curve(one, name), atol=1e-3, rtol=1e-3)
    states = [load_file(folder / "pipeline" / "model" / "model.safetensors") for folder in (one, two)]
    for name, value in states[0].items():
        torch.testing.assert_close(
            states[1][name], value, atol=2e-3, rtol=1e-2, msg=lambda text, name=name: f"{name} {text}"
        )


def test_the_processes_agree_on_weights_averages_statistics_and_log(two):
    first, second = _seen(two, 0), _seen(two, 1)
    assert first["weights"] == second["weights"] and first["averages"] == second["averages"]
    assert any("running_var" in name for name in first["weights"])
    diagnostics = [
        [entry for entry in seen["log"] if "loss" in entry or "eval_loss" in entry] for seen in (first, second)
    ]
    assert diagnostics[0] == diagnostics[1] and len(diagnostics[0]) >= 8


def test_checkpoints_are_written_once(two):
    assert sorted(path.name for path in two.glob("*checkpoint*")) == ["checkpoint-3", "checkpoint-6"]
    assert not list(two.glob(".*partial*"))
    files = {path.name for path in (two / "checkpoint-6").iterdir()}
    assert {"model.safetensors", "ema.safetensors", "rng_state_0.pth", "rng_state_1.pth"} <= files
    state = json.loads((two / "checkpoint-6" / "trainer_state.json").read_text())
    assert [entry["step"] for entry in state["log_history"] if "loss" in entry] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 2)])
def test_a_run_goes_on_with_another_number_of_processes(train, one, two, before, after):
    source = two if before == 2 else one
    resumed = train(after, f"from-{before}-to-{after}", "--resume_from_checkpoint", str(source / "checkpoint-3"))
    losses = [entry["loss"] for entry in _seen(resumed)["log"] if "loss" in entry]
    torch.testing.assert_close(torch.tensor(losses), _curve(one)[3:], atol=5e-4, rtol=0)


IMAGES = {
    "preset": "image-small",
    "model_config": {
        "encoder_noise_variance": 1e-12, "diffusion_weight": 0.0, "latent_dim": 8, "denoiser_hidden_size": 32,
        "denoiser_num_layers": 2,
        "encoder": {"block_out_channels": [16, 32], "layers_per_block": 1, "pool_size": 4},
        "decoder": {"block_out_channels": [16, 32], "layers_per_block": 1},
    },
    "perceptual_weight": 1.0, "perceptual_steps": 3, "critic_weight": 0.5, "critic_start": 1,
    "max_steps": 4, "logging_steps": 1, "optim": "sgd", "learning_rate": 0.01, "max_grad_norm": 0.0,
    "finish_steps": 3, "finish_batch_size": 8, "ema_decay": 0.5, "max_dev_images": 8, "dev_fraction": 0.2,
    "num_previews": 0, "save_strategy": "no", "eval_strategy": "no", "report_to": "none", "disable_tqdm": True,
    "use_cpu": True, "precision": "fp32", "num_threads": 1, "save_dtype": "float32",
}  # fmt: skip


@pytest.mark.slow
def test_two_processes_teach_one_critic_and_finish_one_denoiser_as_one_does(tmp_path):
    def train(num_processes):
        folder = tmp_path / str(num_processes)
        config = tmp_path / f"{num_processes}.json"
        config.write_text(json.dumps({**IMAGES, "per_device_train_batch_size": 16 // num_processes}))
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(num_processes)]
        words = ["image", str(config), "--train", "digits", "--output_dir", str(folder)]
        script = ROOT / "training" / "train.py"
        subprocess.run(
            [sys.executable, *(launcher if num_processes > 1 else []), str(script), *words],
            env={**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
            check=True,
            timeout=300,
        )
        return load_file(folder / "pipeline" / "model" / "model.safetensors")

    one, two = train(1), train(2)
    assert one.keys() == two.keys()
    for name, weights in one.items():
        torch.testing.assert_close(
            two[name], weights, atol=2e-3, rtol=1e-2, msg=lambda text, name=name: f"{name}: {text}"
        )


@pytest.mark.parametrize(
    ("fsdp", "launched", "world_size", "refused"),
    [(["full_shard"], "", 1, True), ([], "true", 2, True), ([], "", 2, False), ([], "true", 1, False)],
)
def test_a_denoiser_is_not_finished_with_sharded_weights(monkeypatch, fsdp, launched, world_size, refused):
    monkeypatch.setenv("ACCELERATE_USE_FSDP", launched)
    args = SimpleNamespace(fsdp=fsdp, world_size=world_size)
    check_whole_weights(0, args)
    if not refused:
        check_whole_weights(5, args)
        return
    with pytest.raises(ValueError, match="`finish_steps` must be 0 with sharded weights.*5"):
        check_whole_weights(5, args)


def test_fsdp_wraps_the_backbones_blocks_and_its_configuration_is_understood():
    config = load_config_from_file(str(ROOT / "training" / "configs" / "fsdp.yaml"))
    assert config.distributed_type == "FSDP" and config.fsdp_config["fsdp_version"] == 2
    model = tiny_model()
    plugin = FullyShardedDataParallelPlugin(auto_wrap_policy="transformer_based_wrap", fsdp_version=2)
    plugin.set_auto_wrap_policy(model)
    policy = plugin.auto_wrap_policy
    wrapped = {
        type(module).__name__ for module in model.modules() if policy(module=module, recurse=False, nonwrapped_numel=0)
    }
    assert wrapped >= {"LlamaDecoderLayer", "BertLayer"} and "EDDPMModel" not in wrapped, wrapped


# accelerate knows FSDP on accelerators only, so that the model is sharded by hand here, as it does it there.
SHARDED = """
import json, sys
import torch
from conftest import SENTENCES, tiny_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import TrainingArguments

from hf_eddpm import EDDPMTextProcessor, EDDPMTrainer
from hf_eddpm.hub.lora import add_lora
from hf_eddpm.modalities.text.fitting import train_tokenizer

torch.set_num_threads(1)
folder = sys.argv[1]
processor = EDDPMTextProcessor(train_tokenizer(SENTENCES, 300), max_length=16)
batch = dict(processor(SENTENCES))
report = {}

def make(adapt):
    model = adapt(tiny_model())
    arguments = TrainingArguments(folder, use_cpu=True, report_to="none", per_device_train_batch_size=4)
    return EDDPMTrainer(model, arguments, processor, train_dataset=SENTENCES)

def step(model):
    torch.manual_seed(0)
    loss = model.train()(**batch).loss
    loss.backward()
    return loss.item()

for name, adapt in {"whole": lambda model: model, "lora": add_lora}.items():
    plain, sharded = make(adapt), make(adapt)
    mesh = init_device_mesh("cpu", (torch.distributed.get_world_size(),))
    for module in list(sharded.model.modules()):
        if type(module).__name__ in ("LlamaDecoderLayer", "BertLayer"):
            fully_shard(module, mesh=mesh)
    fully_shard(sharded.model, mesh=mesh)
    losses = [step(trainer.model) for trainer in (plain, sharded)]
    for trainer in (plain, sharded):
        torch.optim.SGD([p for p in trainer.model.parameters() if p.requires_grad], lr=0.1).step()
        trainer._finish_weights()
    expected, weights = plain.whole_state_dict(), sharded.whole_state_dict()
    try:
        sharded.build_pipeline()
    except ValueError as error:
        refused = str(error)
    if torch.distributed.get_rank() == 0:
        rebuilt = adapt(tiny_model(seed=1))
        rebuilt.load_state_dict(weights)
        rebuilt = rebuilt.get_base_model() if name == "lora" else rebuilt
        latents = [
            trainer.build_pipeline(model).encode(SENTENCES).latents
            for trainer, model in ((plain, None), (sharded, rebuilt))
        ]
        report[name] = {
            "losses": losses,
            "keys": list(weights) == list(expected),
            "weights": max(float((weights[key].double() - expected[key].double()).abs().max()) for key in expected),
            "latents": float((latents[0] - latents[1]).abs().max()),
            "refused": refused,
        }
if torch.distributed.get_rank() == 0:
    json.dump(report, open(folder + "/report.json", "w"))
torch.distributed.destroy_process_group()
"""


@pytest.mark.slow
def test_sharded_weights_train_calibrate_and_come_together_as_whole_ones_do(tmp_path):
    (tmp_path / "sharded.py").write_text(SHARDED)
    path = os.pathsep.join(str(ROOT / name) for name in ("src", "docs/examples", "tests"))
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    result = subprocess.run(
        [sys.executable, *launcher, str(tmp_path / "sharded.py"), str(tmp_path)],
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    report = json.loads((tmp_path / "report.json").read_text())
    assert sorted(report) == ["lora", "whole"]
    for name, facts in report.items():
        assert facts["losses"][0] == pytest.approx(facts["losses"][1], abs=1e-5), name
        assert facts["keys"] and facts["weights"] < 1e-5 and facts["latents"] < 1e-5, (name, facts)
        assert "with FSDP no process has all weights" in facts["refused"]
