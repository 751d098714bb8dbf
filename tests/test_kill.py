"""A training run, and a pipeline's saving, that are killed again and again."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import SENTENCES, tiny_model
from test_training import VALUES

ROOT = Path(__file__).parent.parent
SAVE_STEPS, NUM_KILLS = 5, 20
NUM_KILLED_SAVES = 40

# Imports once, then forks a process for each stretch of the training and kills it after a while.
NURSERY = """
import json, os, random, signal, sys, time
import torch
from hf_eddpm.training import train_text
from transformers.trainer_utils import get_last_checkpoint

config, folder, save_steps, num_kills = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
torch.set_num_threads(1)
words = [config, "--train", folder + "/sentences.txt", "--output_dir", folder + "/run"]
words += ["--resume_from_checkpoint", "auto"]
steps_file = folder + "/steps"
step = train_text.EDDPMTrainer.training_step

def counted(self, *args, **kwargs):
    with open(steps_file, "a") as file:
        file.write(f"{self.state.global_step}\\n")  # steps taken before this one
    return step(self, *args, **kwargs)

train_text.EDDPMTrainer.training_step = counted

def saved():
    checkpoint = get_last_checkpoint(folder + "/run") if os.path.isdir(folder + "/run") else None
    return int(checkpoint.rsplit("-", 1)[1]) if checkpoint else 0

def stretch(*extra):
    pid = os.fork()
    if pid == 0:
        log = os.open(folder + "/log", os.O_CREAT | os.O_WRONLY | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = 1
        try:
            train_text.main([*words, *extra])
            code = 0
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(code)
    return pid

draw = random.Random(0)
report = []
while sum(entry["killed"] for entry in report) < num_kills:
    open(steps_file, "w").close()
    before = saved()
    pid = stretch()
    wanted = draw.randint(1, 4 * save_steps)  # steps, and then a moment more: in the middle of a step or of saving
    while True:
        done = open(steps_file).read().count("\\n")
        gone, status = os.waitpid(pid, os.WNOHANG)
        if gone or done >= wanted:
            break
        time.sleep(0.002)
    if not gone:
        time.sleep(draw.uniform(0, 0.1))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    taken = [int(line) for line in open(steps_file).read().split()]
    report.append({
        "killed": os.WIFSIGNALED(status), "before": before, "first": taken[0] if taken else None,
        "reached": taken[-1] if taken else before, "saved": saved(),
    })
    if not report[-1]["killed"]:
        break
pid = stretch("--max_steps", str(saved() + 3))
_, status = os.waitpid(pid, 0)
json.dump({"stretches": report, "status": status}, open(folder + "/report.json", "w"))
"""


@pytest.mark.slow
def test_a_run_killed_at_any_moment_goes_on_and_loses_no_more_than_one_save_interval(tmp_path):
    values = {
        **VALUES,
        "max_steps": 100_000,
        "lr_scheduler_type": "constant",
        "save_strategy": "steps",
        "save_steps": SAVE_STEPS,
        "save_total_limit": 2,
        "logging_steps": 50,
        "ema_decay": 0.9,
        "num_threads": 1,
    }
    (tmp_path / "config.json").write_text(json.dumps(values))
    (tmp_path / "sentences.txt").write_text("\n".join(SENTENCES * 4) + "\n")
    path = str(ROOT / "src")
    arguments = [str(tmp_path / "config.json"), str(tmp_path), str(SAVE_STEPS), str(NUM_KILLS)]
    result = subprocess.run(
        [sys.executable, "-c", NURSERY, *arguments],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        timeout=1800,
    )
    log = (tmp_path / "log").read_text()[-3000:]
    assert result.returncode == 0, result.stderr[-3000:] + log
    report = json.loads((tmp_path / "report.json").read_text())
    stretches = report["stretches"]
    assert sum(stretch["killed"] for stretch in stretches) == NUM_KILLS, log
    for stretch in stretches:
        assert stretch["first"] == stretch["before"], stretch  # it went on from the last checkpoint
        # A step begins only once the checkpoint before it is whole.
        assert stretch["saved"] >= stretch["reached"] // SAVE_STEPS * SAVE_STEPS, stretch
    assert report["status"] == 0, log
    assert (tmp_path / "run" / "pipeline" / "model_index.json").is_file()


# Loads two pipelines once, then again and again forks a process that saves one over the other, and kills it.
SAVES = """
import json, os, random, signal, sys, threading, time
from pathlib import Path
import torch, tqdm
from hf_eddpm import EDDPMPipeline

torch.set_num_threads(1)
tqdm.tqdm.set_lock(threading.RLock())  # its own one is shared with forks: a killed one would keep it for ever
folder, num_kills = Path(sys.argv[1]), int(sys.argv[2])
target = folder / "parent" / "target"
pipes = {name: EDDPMPipeline.from_pretrained(folder / name) for name in ("first", "second")}
weights = {name: pipe.model.state_dict() for name, pipe in pipes.items()}

def which():
    state = EDDPMPipeline.from_pretrained(target).model.state_dict()
    return [name for name in pipes if all(torch.equal(state[key], value) for key, value in weights[name].items())]

def leftovers():
    return sorted(path.name for path in [*target.iterdir(), *target.parent.iterdir()] if path.name.startswith("."))

def save(name):
    start = time.perf_counter()
    pipes[name].save_pretrained(target)
    return time.perf_counter() - start

seconds = max(save("first"), save("first"))
draw, report, now = random.Random(0), [], "first"
while sum(entry["killed"] for entry in report) < num_kills:
    other = "second" if now == "first" else "first"
    pid = os.fork()
    if pid == 0:
        try:
            save(other)
        finally:
            os._exit(0)
    time.sleep(draw.uniform(0, 1.2 * seconds))
    os.kill(pid, signal.SIGKILL)
    _, status = os.waitpid(pid, 0)
    entry = {"killed": os.WIFSIGNALED(status), "old": now, "left": leftovers(), "found": which()}
    now = draw.choice(sorted(pipes))
    save(now)
    report.append({**entry, "after": leftovers(), "then": which() == [now]})
json.dump(report, open(folder / "report.json", "w"))
"""


@pytest.mark.slow
def test_a_pipeline_whose_saving_is_killed_at_any_moment_is_the_old_one_or_the_new_one(make_pipe, tmp_path):
    for seed, name in enumerate(("first", "second")):
        make_pipe(tiny_model(seed=seed, denoiser_hidden_size=256)).save_pretrained(tmp_path / name)
    (tmp_path / "parent").mkdir()
    result = subprocess.run(
        [sys.executable, "-c", SAVES, str(tmp_path), str(NUM_KILLED_SAVES)],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert result.returncode == 0, result.stderr[-3000:]
    report = json.loads((tmp_path / "report.json").read_text())
    assert sum(entry["killed"] for entry in report) == NUM_KILLED_SAVES
    for entry in report:
        assert len(entry["found"]) == 1, entry  # one of the two, whole
        assert entry["after"] == [] and entry["then"], entry
    killed = [entry for entry in report if entry["killed"]]
    assert any(entry["left"] for entry in killed)  # some were in the middle of it
    assert any(entry["found"] == [entry["old"]] for entry in killed)
