"""Options of the training scripts do what they say."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

import hf_eddpm.training.precision as precision
from hf_eddpm.modeling_property import PropertyHead
from hf_eddpm.training.arguments import EDDPMTrainingArguments, merge, parse_arguments
from hf_eddpm.training.defaults import fit_steps
from hf_eddpm.training.options import TextModelArguments

ROOT = Path(__file__).parent.parent
SCRIPTS = ("text", "image", "protein", "guide", "distill")


@pytest.fixture
def processor(tmp_path, monkeypatch):
    """Function that gives the machine a CPU with the flags named that gains by bfloat16 or not, no accelerator."""
    monkeypatch.delenv("ACCELERATE_MIXED_PRECISION", raising=False)

    def pretend(flags, gains=True):
        monkeypatch.setattr(precision, "cpu_gains_by_bf16", lambda: gains)
        (tmp_path / "cpuinfo").write_text(f"processor : 0\nflags\t\t: fpu sse {flags}\n")
        monkeypatch.setattr(precision, "_CPUINFO", tmp_path / "cpuinfo")
        monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)

    return pretend


@pytest.mark.parametrize(("flags", "chosen"), [("avx512f", "fp32"), ("avx512_bf16", "bf16"), ("amx_bf16", "bf16")])
def test_auto_is_bf16_where_the_cpu_gains_by_it(processor, tmp_path, flags, chosen):
    processor(flags)
    args = EDDPMTrainingArguments(str(tmp_path))
    assert (args.chosen_precision, args.bf16, args.fp16) == (chosen, chosen == "bf16", False)
    assert "auto" in args.describe_precision()
    assert args.use_cpu  # else accelerate takes each process of torchrun for the only one


def test_auto_is_float32_where_the_cpu_only_loses_by_bf16(processor, tmp_path):
    processor("avx512_bf16", gains=False)
    assert EDDPMTrainingArguments(str(tmp_path)).chosen_precision == "fp32"
    assert EDDPMTrainingArguments(str(tmp_path), precision="bf16").chosen_precision == "bf16"


@pytest.mark.parametrize("times", [3.0, 0.5])
def test_a_cpu_gains_where_the_product_takes_less_time(monkeypatch, times):
    factor = {torch.float32: 1.0, torch.bfloat16: times}
    passed = [0.0]

    def product(inputs, weights):
        passed[0] += factor[inputs.dtype]

    monkeypatch.setattr(torch.nn.functional, "linear", product)
    monkeypatch.setattr(precision.time, "perf_counter", lambda: passed[0])
    assert precision.cpu_gains_by_bf16.__wrapped__() is (times < 1)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"precision": "bf16"}, "`precision` must be one of auto, fp32 on this machine's CPU, got 'bf16'"),
        ({"precision": "fp16"}, "`precision` must be one of auto, fp32 on this machine's CPU, got 'fp16'"),
        ({"bf16": True}, "`bf16` must be one of auto, fp32"),
        ({"precision": "half"}, "`precision` must be one of auto, bf16, fp16, fp32, got 'half'"),
        ({"precision": "fp32", "bf16": True}, "`bf16` true contradicts `precision` 'fp32'"),
        ({"precision": "bf16", "bf16": False}, "`bf16` false contradicts `precision` 'bf16'"),
        ({"bf16": True, "fp16": True}, "exclude each other"),
    ],
)
def test_a_precision_that_cannot_be_is_refused_by_name(processor, tmp_path, values, message):
    processor("avx512f")
    with pytest.raises(ValueError, match=message):
        EDDPMTrainingArguments(str(tmp_path), **values)


def test_bf16_itself_is_followed(processor, tmp_path):
    processor("avx512_bf16")
    assert EDDPMTrainingArguments(str(tmp_path), bf16=True).precision == "bf16"
    assert EDDPMTrainingArguments(str(tmp_path), bf16=False).chosen_precision == "fp32"


def test_every_shipped_configuration_leaves_the_precision_to_the_machine_or_names_it():
    for file in (ROOT / "training" / "configs").glob("*.json"):
        assert {"bf16", "fp16"}.isdisjoint(json.loads(file.read_text()))


def test_mappings_are_merged_at_every_depth():
    base = {"a": 1, "b": {"c": 2, "d": {"e": 3, "f": 4}}, "net": {"model_type": "x", "width": 1}}
    assert merge(base, {"b": {"d": {"e": 5}}}) == {**base, "b": {"c": 2, "d": {"e": 5, "f": 4}}}
    assert merge(base, {"net": {"width": 2}})["net"] == {"model_type": "x", "width": 2}
    assert merge(base, {"net": {"model_type": "y"}})["net"] == {"model_type": "y"}


def test_a_mapping_on_the_command_line_is_merged_into_the_files(tmp_path):
    file = tmp_path / "mine.json"
    file.write_text(json.dumps({"model_config": {"latent_dim": 8, "decoder": {"n_layer": 1, "n_embd": 16}}}))
    words = [str(file), "--model_config", '{"decoder": {"n_layer": 2}}', "--precision", "fp32"]
    model_args, training_args = parse_arguments(TextModelArguments, EDDPMTrainingArguments, args=words)
    assert model_args.model_config == {"latent_dim": 8, "decoder": {"n_layer": 2, "n_embd": 16}}
    assert Path(training_args.output_dir) == Path("runs/mine")


def test_a_property_that_does_not_vary_is_named():
    from hf_eddpm import EDDPMConfig

    head = PropertyHead(EDDPMConfig(num_properties=1))
    with pytest.raises(ValueError, match="`property_columns` must hold at least two different values in 'fitness'"):
        head.fit(torch.ones(3, 1), ["fitness"])


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_is_quick_and_tells_our_own_options(script):
    start = time.perf_counter()
    command = [sys.executable, str(ROOT / "training" / "train.py"), script, "--help"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert time.perf_counter() - start < 4
    assert "--output_dir" in text if script in ("guide", "distill") else "--precision" in text


def test_without_a_file_a_training_takes_values_and_steps_that_fit_its_data():
    (arguments,) = parse_arguments(EDDPMTrainingArguments, args=["--use_cpu"])
    assert arguments.learning_rate == 1e-3 and arguments.per_device_train_batch_size == 64
    fit_steps(arguments, 6_400)
    assert arguments.max_steps == 3_000
    for words in (["--max_steps", "7"], ["--num_train_epochs", "2"]):
        (named,) = parse_arguments(EDDPMTrainingArguments, args=["--use_cpu", *words])
        before = named.max_steps
        fit_steps(named, 6_400)
        assert named.max_steps == before


def test_a_file_decides_the_steps_itself(tmp_path):
    (tmp_path / "config.json").write_text('{"num_train_epochs": 2}')
    (arguments,) = parse_arguments(EDDPMTrainingArguments, args=[str(tmp_path / "config.json"), "--use_cpu"])
    fit_steps(arguments, 6_400)
    assert arguments.max_steps == -1 and arguments.learning_rate == 5e-5
