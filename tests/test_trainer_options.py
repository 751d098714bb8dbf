"""Every option of transformers' TrainingArguments trains on raw data, or is refused by its own name."""

import dataclasses
import warnings

import pytest
import torch
from conftest import SENTENCES, tiny_model
from images import random_images, tiny_image_model
from proteins import LENGTH, PROTEINS, tiny_protein_model
from transformers import TrainingArguments
from transformers.training_args import OptimizerNames

from hf_eddpm import EDDPMImageProcessor, EDDPMProteinProcessor, EDDPMTextProcessor, EDDPMTrainer

EVAL = {"eval_strategy": "steps", "eval_steps": 1}
SAVE = {"save_strategy": "steps", "save_steps": 1}
WORKERS = {"dataloader_num_workers": 1}


def _one(predictions, compute_result=True):
    return {"one": 1.0}


METRICS = {"compute_metrics": _one}

# What does nothing to a training in one process on a CPU: names and places, logs, the Hub (tests/test_hub.py),
# several processes (tests/test_distributed.py), hardware that the tests lack, and what Trainer leaves to scripts.
HARMLESS = """
    output_dir run_name project report_to trackio_space_id trackio_bucket_id trackio_static_space_id log_level
    log_level_replica log_on_each_node disable_tqdm hub_token hub_private_repo hub_model_id hub_revision push_to_hub
    do_train do_eval do_predict resume_from_checkpoint local_rank save_on_each_node dataloader_pin_memory use_cpu
    ddp_find_unused_parameters ddp_bucket_cap_mb ddp_broadcast_buffers ddp_static_graph ddp_backend ddp_timeout
    fsdp_config tf32 fp16 torch_empty_cache_steps average_tokens_across_devices
""".split()

# Option: arguments (and those of the trainer, under "trainer") of tiny runs with it.
WORKS = {
    "per_device_train_batch_size": [{"per_device_train_batch_size": 3}],
    "num_train_epochs": [{"max_steps": -1, "num_train_epochs": 1.5}],
    "max_steps": [{"max_steps": 1}],
    "learning_rate": [{"learning_rate": 1e-2}],
    "lr_scheduler_type": [
        {"lr_scheduler_type": "cosine"},
        {"lr_scheduler_type": "reduce_lr_on_plateau", **EVAL},
    ],
    "lr_scheduler_kwargs": [
        {"lr_scheduler_type": "cosine_with_min_lr", "lr_scheduler_kwargs": {"min_lr": 1e-4}},
    ],
    "warmup_steps": [{"warmup_steps": 1}],
    "optim": [{"optim": name} for name in ("adamw_torch", "adafactor", "sgd", "adagrad", "rmsprop")],
    "optim_args": [{"optim": "rmsprop", "optim_args": "momentum=0.9"}],
    "weight_decay": [{"weight_decay": 0.1}],
    "adam_beta1": [{"adam_beta1": 0.8}],
    "adam_beta2": [{"adam_beta2": 0.9}],
    "adam_epsilon": [{"adam_epsilon": 1e-6}],
    "gradient_accumulation_steps": [{"gradient_accumulation_steps": 2}],
    "max_grad_norm": [{"max_grad_norm": 0.0}],
    "bf16": [{"bf16": True, **EVAL}],
    "activation_checkpointing": [{"activation_checkpointing": True}],
    "activation_checkpointing_kwargs": [
        {"activation_checkpointing": True, "activation_checkpointing_kwargs": {"use_reentrant": False}},
    ],
    "gradient_checkpointing": [{"gradient_checkpointing": True}],
    "gradient_checkpointing_kwargs": [
        {"gradient_checkpointing": True, "gradient_checkpointing_kwargs": {"use_reentrant": False}},
    ],
    "torch_compile": [{"torch_compile": True, "torch_compile_backend": "eager"}],
    "torch_compile_backend": [{"torch_compile_backend": "eager", **EVAL}],
    "use_cache": [{"use_cache": True}],
    "neftune_noise_alpha": [{"neftune_noise_alpha": 5.0}],
    "auto_find_batch_size": [{"auto_find_batch_size": True}],
    "logging_strategy": [{"logging_strategy": "epoch", "max_steps": 3}],
    "logging_steps": [{"logging_steps": 2}],
    "logging_first_step": [{"logging_first_step": True}],
    "logging_nan_inf_filter": [{"logging_nan_inf_filter": True}],
    "include_num_input_tokens_seen": [
        {"include_num_input_tokens_seen": "all"},
        {"include_num_input_tokens_seen": "non_padding"},
    ],
    "eval_strategy": [{"eval_strategy": "epoch"}],
    "eval_steps": [EVAL],
    "eval_delay": [{**EVAL, "eval_delay": 1}],
    "per_device_eval_batch_size": [{**EVAL, "per_device_eval_batch_size": 3}],
    "prediction_loss_only": [{**EVAL, "prediction_loss_only": True}],
    "eval_on_start": [{**EVAL, "eval_on_start": True}],
    "eval_do_concat_batches": [{**EVAL, "eval_do_concat_batches": False, "trainer": METRICS}],
    "eval_use_gather_object": [{**EVAL, "eval_use_gather_object": True, "trainer": METRICS}],
    "eval_accumulation_steps": [{**EVAL, "eval_accumulation_steps": 1, "trainer": METRICS}],
    "include_for_metrics": [{**EVAL, "include_for_metrics": ["inputs", "loss"], "trainer": METRICS}],
    "batch_eval_metrics": [{**EVAL, "batch_eval_metrics": True, "trainer": METRICS}],
    "save_only_model": [{**SAVE, "save_only_model": True}],
    "save_strategy": [
        {"save_strategy": "epoch"},
        {**EVAL, "save_strategy": "best", "metric_for_best_model": "loss"},
    ],
    "save_steps": [SAVE],
    "save_total_limit": [{**SAVE, "save_total_limit": 1}],
    "enable_jit_checkpoint": [{"enable_jit_checkpoint": True}],
    "load_best_model_at_end": [{**EVAL, **SAVE, "load_best_model_at_end": True}],
    "metric_for_best_model": [
        {**EVAL, **SAVE, "load_best_model_at_end": True, "metric_for_best_model": "reconstruction_loss"},
    ],
    "greater_is_better": [{**EVAL, **SAVE, "load_best_model_at_end": True, "greater_is_better": True}],
    "ignore_data_skip": [{"ignore_data_skip": True}],
    "restore_callback_states_from_checkpoint": [{"restore_callback_states_from_checkpoint": True}],
    "full_determinism": [{"full_determinism": True}],
    "seed": [{"seed": 1}],
    "data_seed": [{"data_seed": 0}],
    "accelerator_config": [{"accelerator_config": {"split_batches": True}}],
    "dataloader_drop_last": [{"dataloader_drop_last": True, "per_device_eval_batch_size": 20, **EVAL}],
    "dataloader_num_workers": [WORKERS],
    "dataloader_persistent_workers": [],  # tests/test_resume.py
    "dataloader_prefetch_factor": [{**WORKERS, "dataloader_prefetch_factor": 1}],
    "dataloader_multiprocessing_context": [{**WORKERS, "dataloader_multiprocessing_context": "fork"}],
    "dataloader_in_order": [{**WORKERS, "dataloader_in_order": False}],
    "remove_unused_columns": [{"remove_unused_columns": False}],
    "label_names": [{"label_names": ["labels", "input_ids"], **EVAL, "trainer": METRICS}],
    "train_sampling_strategy": [
        {"train_sampling_strategy": "group_by_length", **EVAL},
        {"train_sampling_strategy": "sequential"},
    ],
    "length_column_name": [{"length_column_name": "length", "train_sampling_strategy": "group_by_length"}],
    "hub_strategy": [{"hub_strategy": "end"}],
    "skip_memory_metrics": [],  # wants psutil
}
SLOW = {"torch_compile", "torch_compile_backend"}  # Dynamo's first compilation

# Option: arguments, and what the error says. What transformers refuses is here too.
REFUSED = {
    "label_smoothing_factor": ({"label_smoothing_factor": 0.1}, "`label_smoothing_factor` must be 0.0"),
    "bf16_full_eval": ({"bf16_full_eval": True}, "`bf16_full_eval` must be False"),
    "fp16_full_eval": ({"fp16_full_eval": True}, "`fp16_full_eval` must be False"),
    "use_liger_kernel": ({"use_liger_kernel": True}, "`use_liger_kernel` must be False"),
    "liger_kernel_config": ({"liger_kernel_config": {"rope": True}}, "`liger_kernel_config` must be None"),
    "optim_target_modules": (
        {"optim_target_modules": "all-linear"},
        "`optim_target_modules` must be None with `optim`",
    ),
    "torch_compile_mode": ({"torch_compile_mode": "fastest", "torch_compile_backend": "inductor"}, "mode"),
    "hub_always_push": ({"hub_always_push": True}, "`hub_always_push` must be False"),
    "parallelism_config": ({}, "`parallelism_config` must have cp_size 1"),
    "debug": ({"debug": "underflow_overflow"}, "`debug` must be without 'underflow_overflow'"),
    "fsdp": ({"fsdp": True}, "fsdp"),
    "deepspeed": ({"deepspeed": {"train_batch_size": 4}}, "(?i)deepspeed"),
}
# The same of values of options that otherwise work.
REFUSED_VALUES = [
    ({"train_sampling_strategy": "batch_rebalance"}, "`train_sampling_strategy` must not be 'batch_rebalance'"),
    (
        {"train_sampling_strategy": "group_by_length", "length_column_name": "size"},
        "`length_column_name` must be a column of the training data",
    ),
    ({"optim": "schedule_free_adamw"}, "`optim` must be no schedule-free one"),
    ({"optim_args": "beta3=0.5"}, "`optim_args` must be None with `optim`"),
    (
        {"accelerator_config": {"use_seedable_sampler": False}},
        "`accelerator_config` must have use_seed",
    ),
    ({"label_names": ["label"]}, "`label_names` must be among"),
    ({"include_for_metrics": ["outputs"], "trainer": METRICS}, "`include_for_metrics` must be among"),
    ({"include_for_metrics": ["loss"]}, "`include_for_metrics` needs `compute_metrics`"),
    ({"batch_eval_metrics": True}, "`batch_eval_metrics` needs `compute_metrics`"),
    (
        {"prediction_loss_only": True, "trainer": METRICS},
        "`prediction_loss_only` must be False with",
    ),
    ({"trainer": {"compute_loss_func": lambda *_, **__: 0}}, "`compute_loss_func` must be None"),
]
REFUSED_FOR_IMAGES = [
    ({"neftune_noise_alpha": 5.0}, "`neftune_noise_alpha` must be None"),
    ({"include_num_input_tokens_seen": "all"}, "`include_num_input_tokens_seen` must be 'no'"),
    ({"include_for_metrics": ["inputs"], "trainer": METRICS}, "`include_for_metrics` must be without 'inputs'"),
]
FIELDS = {field.name: field for field in dataclasses.fields(TrainingArguments)}


def test_every_option_is_sorted_into_one_of_the_tables():
    tables = [set(HARMLESS), set(WORKS), set(REFUSED)]
    sorted_ones = set.union(*tables)
    assert sum(map(len, tables)) == len(sorted_ones)
    assert set(FIELDS) - sorted_ones == set(), "new options: does training heed them? Sort them into a table above"
    for name, runs in WORKS.items():
        assert all(name in run for run in runs)


@pytest.fixture
def train(tokenizer, tmp_path):
    """Function that trains two steps of four raw data; `trainer` are arguments of the trainer."""

    def train(modality="text", only_make=False, trainer=None, **values):
        if modality == "text":
            model, processor, data = tiny_model(), EDDPMTextProcessor(tokenizer, max_length=16), SENTENCES
        elif modality == "protein":
            model, processor, data = tiny_protein_model(), EDDPMProteinProcessor(LENGTH, stop=False), PROTEINS
        else:
            model, processor, data = tiny_image_model(), EDDPMImageProcessor(8, 1), random_images(8)
        defaults = {
            "max_steps": 2,
            "per_device_train_batch_size": 4,
            "logging_steps": 1,
            "save_strategy": "no",
            "report_to": "none",
            "disable_tqdm": True,
            "use_cpu": True,
        }
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # some options go in v6
            arguments = TrainingArguments(str(tmp_path / "run"), **{**defaults, **values})
            given = {"train_dataset": data, "eval_dataset": data, "ema_decay": 0.5, **(trainer or {})}
            run = EDDPMTrainer(model, arguments, processor, **given)
            if not only_make:
                run.train()
        return run

    yield train
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.deterministic = False


def _runs(tables, slow=SLOW):
    for name, runs in tables.items():
        if name in FIELDS:  # not every release has all
            for run in runs:
                extra = {key: value for key, value in run.items() if key == name or name == "optim"}
                marks = [pytest.mark.slow] if name in slow else []
                yield pytest.param(run, id=f"{name}-{list(extra.values())[0]}", marks=marks)


@pytest.mark.parametrize("values", list(_runs(WORKS)))
def test_an_option_trains_on_raw_data(train, values, monkeypatch):
    monkeypatch.setenv("CUDA_LAUNCH_BLOCKING", "0")  # `full_determinism` sets these for good
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":16:8")
    run = train(**values)
    expected = {-1: 3, 1: 1, 3: 3}.get(values.get("max_steps"), 2)
    assert run.state.global_step == expected
    entries = run.state.log_history
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    assert losses and all(0 < loss < 1e3 for loss in losses)
    evaluations = [entry for entry in entries if any(key.startswith("eval_") for key in entry)]
    assert bool(evaluations) == bool(values.get("eval_strategy"))
    for entry in evaluations:
        assert {"eval_loss", "eval_diffusion_loss", "eval_latent_std"} <= entry.keys()
        assert ("eval_one" in entry) == ("trainer" in values)
    assert run.model.dtype == torch.float32


@pytest.mark.parametrize("modality", ["protein", "image"])
def test_options_that_look_at_inputs_train_other_raw_data(train, modality):
    values = {"train_sampling_strategy": "group_by_length"} if modality == "protein" else {}
    values |= {"neftune_noise_alpha": 5.0, "include_num_input_tokens_seen": "all"} if modality == "protein" else {}
    run = train(modality, **values, **EVAL, dataloader_drop_last=True, trainer=METRICS)
    assert run.state.global_step == 2 and run.state.log_history[-2]["eval_one"] == 1.0


@pytest.mark.parametrize(
    ("values", "message"),
    [pytest.param(*case, id=name) for name, case in REFUSED.items() if name in FIELDS]
    + [pytest.param(*case, id=f"{list(case[0])[0]}-value") for case in REFUSED_VALUES],
)
def test_what_training_would_not_heed_is_refused_by_name(train, values, message):
    if "parallelism_config" in message:
        from accelerate import ParallelismConfig

        run = train(only_make=True)
        run.args.parallelism_config = ParallelismConfig(cp_size=2)
        with pytest.raises(ValueError, match=message):
            run._check_options()
        return
    with pytest.raises((ValueError, ImportError, RuntimeError), match=message):
        train(**values)


@pytest.mark.parametrize(("values", "message"), REFUSED_FOR_IMAGES)
def test_what_needs_tokens_is_refused_for_images(train, values, message):
    with pytest.raises(ValueError, match=message):
        train("image", only_make=True, **values)


@pytest.mark.parametrize("name", [name.value for name in OptimizerNames])
def test_every_optimizer_is_heeded_or_refused(train, name):
    """Those of packages that are not installed: transformers names the package, before a step is taken."""
    try:
        run = train(optim=name, max_steps=1, trainer={"eval_dataset": None})
    except (ValueError, ImportError) as error:
        assert "optim" in str(error) or "install" in str(error) or "import" in str(error)
    else:
        assert run.state.global_step == 1
