"""Every command that the documents print runs as printed, on a processor that does not multiply bfloat16.

The commands of README.md, training/README.md, the model cards, docs/ and the docstrings are collected, and each runs
in a folder of its own: a copy of what the repository holds, and small data under the names that the commands use.
Words that limit the work to two steps or a handful of data are appended; nothing else changes but the number of
processes. A command is a process of its own, forked from one that has imported the libraries: see fork_server.py.
"""

import ast
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parent.parent
DATA = ROOT.parent / "shared" / "data"
SERVER = Path(__file__).parent / "fork_server.py"
DOCUMENTS = [ROOT / "README.md", ROOT / "training" / "README.md"]
DOCUMENTS += [*sorted(ROOT.glob("model_cards/*/README.md")), *sorted(ROOT.glob("docs/**/*.md"))]
SOURCES = [path for folder in ("src", "training", "docs") for path in sorted((ROOT / folder).rglob("*.py"))]
PROGRAMS = ("python", "torchrun", "accelerate", "hf-eddpm", "make", "pip")
TIMEOUT = 300  # seconds; the slowest takes less than a minute

# Commands that cannot run here: what they hold, and why.
SKIPPED = {
    r"^(make|pip) ": "installs packages",
    r"\.\.\.": "an ellipsis stands for its data",
    r"\buser/": "names a model of the Hub",
    r"pretrained_packages|smollm2|face_recognition": "needs packages that are not installed",
    r"diffae": "needs another project's code",
    r"speed/steps": "trains twelve times, in ten minutes: its command line is tested in test_benchmark_speed.py",
    r"page\.py --check": "needs the results, which the copy lacks: test_latent_rank_study.py runs it",
    r"hf-eddpm app|app_tour|figures/notebooks": "test_app_browser.py and test_notebooks.py run it",
    r"--address auto": "needs a cluster: see test_bulk_ray.py",
    r"examples/serve\.py": "serves until it is stopped: see test_serving.py",
}

FEW_STEPS = "--max_steps 2 --per_device_train_batch_size 8 --per_device_eval_batch_size 8"
EVALUATION = "--num_samples 20 --seeds 0 --num_inference_steps 2 --limit 24"
# What makes a command short: a pattern of the command, and words to append to it; the first pattern counts.
LIMITS = {
    r"hf-eddpm (score .*--output |reconstruct)|readme_tables|plot\.py": "",
    r"--help|\.(text|protein|image)_card |training\.sampler": "",
    r"torchrun.*train\.py text": f"{FEW_STEPS} --max_dev_sentences 8",
    r"train(\.py)? text": f"{FEW_STEPS} --max_dev_sentences 8 --finish_steps 2 --finish_batch_size 8",
    r"train(\.py)? protein": f"{FEW_STEPS} --max_dev_sequences 8",
    r"train\.py image.*(utkface64|cifar10)": f"{FEW_STEPS} --max_dev_images 8 --perceptual_steps 2 --finish_steps 2",
    r"train\.py image": f"{FEW_STEPS} --max_dev_images 8",
    r"train\.py guide": "--num_steps 2 --max_train 40",
    r"train\.py distill": "--num_steps 2 --batch_size 8 --pool_size 8 --solver_steps 2",
    r"evaluate\.py text": f"{EVALUATION} --noise_scales 1.0 --noise_scale_steps 2 --num_encoded 40 --num_paths 2 "
    "--path_steps 3 --num_edits 4 --edit_scales 1 --refinement_steps 1 --edit_refinement_steps 1",
    r"evaluate\.py protein": f"{EVALUATION} --refinement_steps 1 --num_neighbors 3 --num_starts 2 --optimize_steps 2 "
    "--genetic_budgets 2 --oracle_members 2 --num_epochs 1",
    r"evaluate\.py image": "--num_samples 20 --num_reconstructions 20 --num_inverted 2 --num_scored 2 --num_probe 40 "
    "--sampling_steps 2 --inverted_steps 2 --sampling_seeds 0 --limit 24",
    r"few_steps/run": "--num_samples 20 --seeds 0 --steps 2 --noise_scale_steps 2",
    r"few_steps/images": "--num_samples 20 --seeds 0 --few_steps 2 --full_steps 3",
    r"denoisers/run": "--num_train 40 --num_steps 2 --batch_size 8 --num_samples 20 --seeds 0 "
    "--ddim_steps 2 --dpm_steps 2",
    r"longer_text/passages": "",
    r"longer_text/by_length": "--max_minutes 0.01",
    r"longer_text/run": "--max_steps 2 --num_samples 20 --num_latents 8 --denoisers MLP",
    r"text_front/run": "--max_steps 2 --num_samples 20 --seeds 1 --recipes 'batch, 0, decoder noise 0.3'",
    r"protein_front": "--max_steps 2 --seeds 1 --num_samples 20 --values 0.1",
    r"image_front/self_supervised": "--max_steps 2 --batch_size 8",
    r"image_front.*--recipes": "--max_steps 2 --num_images 20 --seeds 1",
    r"image_front": "--max_steps 2 --num_images 20 --seeds 1 --recipes 'joint, 0.1'",
    r"image_decoders/judge": "--num_images 20 --blurs 0 --noises 0",
    r"image_decoders": "--seconds 4 --num_images 20 --seeds 1 --variants 'one pass over patches of 2'",
    r"studies/sprites": "--max_steps 2 --num_images 40 --seeds 1 --recipes 'joint, share 0' --rotate",
    r"latent_rank/study": "--max_steps 2 --seeds 1 --variants 'share 0.1'",
    r"(latent_rank|schedulers)/page": "",
    r"latent_rank/sequences": "--max_steps 2 --seeds 1 --variants 'share 0.1'",
    r"latent_rank/chain": "--num_train 40 --num_dev 20 --num_steps 2 --batch_size 8 --num_samples 20 "
    "--sampling_steps 2",
    r"control/text": "--num 4 --num_inference_steps 2 --scales 1 --strengths 0.1",
    r"control/protein": "--num 4 --oracle_members 2 --num_epochs 1 --scales 1 --strengths 0.1",
    r"control/composition": "--num 4 --ode_steps 2 --scales 1",
    r"control/image": "--num 10 --num_fitted 40 --num_inference_steps 2 --scales 1 --class_scales 1 "
    "--brightness_scales 3 --direction_scales 1 --strengths 0.1",
    r"control/smile": "",
    r"schedulers/samplers": "--num_samples 20 --seeds 0",
    r"schedulers/run": "--num_samples 8 --num_steps 4",
    r"ood/run": "--num 8 --num_timesteps 2",
    r"speed/text": "--vocab_sizes 100 --num_sentences 2 --num_tokens 2 --num_layers 1 --repeats 1 --num_samples 20 "
    "--few_steps 2 --many_steps 3 --seeds 0 --train_steps 2",
    r"speed/growth": "--rounds 1 --most 2",
    r"speed/throughput": "--num_sentences 8 --num_one_by_one 2 --num_inference_steps 2",
    r"speed/protein": "--repeats 1 --num_samples 64 --many_steps 101",
    r"hf-eddpm encode .*--output_dir": "--limit 20",
    r"hf-eddpm score .*--output_dir": "--limit 20 --num_timesteps 2",
    r"hf-eddpm generate .*--output_dir": "--num_samples 20 --num_inference_steps 2",
    r"bulk/run\.py cost": "--num_encoded 40 --num_scored 10 --num_generated 10",
    r"bulk/run\.py memory": "--num_samples 400 --part_size 40",
    r"serving/run": "--num_requests 40 --num_memory 40",
    r"hf-eddpm design": "--num_candidates 20 --num_steps 2 --num_designs 4",
    r"fit-property": "--num_steps 2 --num_members 2",
    r"protein_design/gb1": "--budgets 20 --seeds 0 --num_rounds 1 --batch 4 --train_steps 2 --strategies ours "
    "'greedy ridge'",
    r"latent_rank/protein": "--num_train 60 --num_dev 30 --num_samples 20 --steps 5",
    r"protein_design/ehrlich": "--seeds 0 --num_start 20 --num_rounds 1 --batch 4 --train_steps 2 --strategies ours "
    "'random mutation'",
    r"protein_curve/regression": "--sizes 30 --num_test 30 --seeds 0 --methods 'ridge, one-hot'",
    r"protein_lengths/prepare": "--num 30",
    r"protein_lengths/measure": "--num 8 --num_samples 4",
    r"protein_curve/embed": "",
    r"protein_design/calibration": "--num_train 30 --num_test 30 --seeds 0",
    r"protein_design/table": "",
    r"protein\.ehrlich": "--num_train 40 --num_validation 10",
    r"docstring_corpus": "--limit 20",
    r"speed/allocator": "--num_data 2 --repeats 1",
    r"studies/paths": "--count 2",
    r"sentences/sampling": "--count 4",
    r"sentences/uses": "--count 9 --limit 40 --pairs 400",
    r"sentences/further": "--minutes 0.05 --batch_size 4",
    r"sentences/(unseen|lengths)": "--count 8",
    r"sentences/(normalization|average)": "",
    r"sentences/chain": "--num_steps 2 --batch_size 8",
    r"text_recipe/run": "--max_steps 2 --per_device_train_batch_size 8 --variants 'batch 64'",
    r"sentences/domains": "--count 4 --num_samples 4 --num_inference_steps 2",
    r"sentences/(prepare|probes)|figures/(gallery|overview|benchmarks)": "",
    r"demo_text": "--num_samples 2 --num_inference_steps 2",
    r"demo_image": "--num_inference_steps 2",
    r"hf-eddpm restore": "--num_inference_steps 2",
    r"restore/run": "--num_images 8 --seeds 0 --budget 8 --tasks deblur",
    r"large_recipes/run": "--recipes image_celeba64_paper --num_steps 1 --checkpointing 0 --batch_sizes 1",
}

# Pipelines that commands read and other commands make: the checkpoint that stands for each.
PIPELINES = {
    "runs/yelp/pipeline": "eddpm-yelp",
    "runs/mine/pipeline": "eddpm-yelp",
    "runs/my-model": "eddpm-yelp",
    "runs/docstrings/pipeline": "eddpm-yelp",
    "L/pipeline": "eddpm-yelp",
    "runs/first": "eddpm-sentences",
    "runs/second": "eddpm-sentences",
    "runs/gifford/pipeline": "eddpm-gifford",
    "runs/gifford/finished": "eddpm-gifford",
    "G/pipeline": "eddpm-gifford",
    "runs/gfp/pipeline": "eddpm-gfp",
    "runs/gfp/fitted": "eddpm-gfp",
    "runs/gb1/pipeline": "eddpm-gb1",
    "runs/gb1/fitted": "eddpm-gb1",
    "runs/gifford/fitted": "eddpm-gifford",
    "runs/digits/pipeline": "eddpm-digits",
    "runs/fashion/pipeline": "eddpm-fashion",
    "runs/faces/pipeline": "eddpm-faces64",
    "runs/gifford-causal/pipeline": "eddpm-gifford",
}
# Shell variables of the documents, each a folder of that name in small letters.
NAMED_FOLDERS = ("YELP", "GIFFORD", "GFP", "FASHION", "SPRITES", "DIALOGUE", "CAPTIONS", "GB1", "UTKFACE", "CIFAR")
# Options whose folder the printed command of this script, with that output folder, makes.
MADE = {
    **dict.fromkeys(("--guide", "--sentiment", "--length"), r"train\.py guide"),
    "--distilled": r"train\.py distill",
    "--feature_encoder": r"image_front/self_supervised\.py",
}

# Runs before anything else in a command's processes: the processor's answer, and the steps of the judge of images.
PATCHES = """
import sys
from importlib.machinery import PathFinder


def no_instructions(module):
    module.cpu_multiplies_bf16 = lambda: False


def no_autocast(module):
    start = module.autocast.__init__

    def init(self, *args, **kwargs):
        start(self, *args, **kwargs)
        if self.device == "cpu" and self._enabled and "bfloat16" in str(self.fast_dtype):
            raise RuntimeError("bfloat16 autocast on a processor without it")

    module.autocast.__init__ = init


def hasty_judge(module):
    module.fit_extractor.__defaults__ = (2, 8)  # steps and images of a step: no option of the scripts


CHANGES = {
    "hf_eddpm.training.precision": no_instructions,
    "torch.amp.autocast_mode": no_autocast,
    "hf_eddpm.modalities.image.metrics": hasty_judge,
}


class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name not in CHANGES:
            return None
        spec = PathFinder.find_spec(name, path)
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            CHANGES[name](module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, Finder)
"""


@dataclass(frozen=True)
class Command:
    """A printed command, and the assignments and functions printed above it."""

    text: str
    source: Path = field(compare=False)
    definitions: str = ""

    @property
    def whole(self) -> str:
        return f"{self.definitions}\n{self.text}" if "$" in self.text or self.is_call else self.text

    @property
    def is_call(self) -> bool:
        return not self.text.startswith(PROGRAMS)

    @property
    def matched(self) -> str:
        """What patterns are looked for in: the command, with the body of the function that it calls."""
        if not self.is_call:
            return self.text
        name = self.text.split()[0]
        (body,) = [line for line in self.definitions.splitlines() if line.startswith(f"{name}()")]
        return f"{body} {self.text}"

    @property
    def skip_reason(self) -> str | None:
        return next((why for pattern, why in SKIPPED.items() if re.search(pattern, self.text)), None)

    @property
    def name(self) -> str:
        source = self.source.relative_to(ROOT).with_suffix("").as_posix().replace("/", ".")
        scripts = re.findall(r"[\w./-]+\.py(?: (?:text|protein|image|guide|distill)\b)?|-m [\w.]+", self.matched)
        what = scripts[0] if scripts else " ".join(self.text.split()[:3])
        return f"{source}--" + re.sub(r"^(training|docs)/|\.py|-m ", "", what).replace(" ", "-").replace("/", "-")


def _lines(text):
    """Lines of shell, those that a backslash continues joined, without comments."""
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        yield re.sub(r"\s+#\s.*$", "", line).strip()


def _collect():
    commands = []
    for path in DOCUMENTS:
        definitions = []
        text = path.read_text(encoding="utf-8")
        blocks = re.findall(r"^```bash\n(.*?)^```$", text, re.M | re.S)
        blocks += re.findall(r"(?<=\n\n)(?: {4}\S.*\n)+", text)
        for line in (line for block in blocks for line in _lines(block)):
            functions = [each.partition("(")[0] for each in definitions if re.match(r"\w+\(\)", each)]
            if re.match(r"\w+(=|\(\) \{)", line):
                definitions.append(line)
            elif line and line.split()[0] in (*PROGRAMS, *functions):
                commands.append(Command(line, path, "\n".join(definitions)))
    for path in SOURCES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
                lines = _lines(ast.get_docstring(node) or "")
                pattern = rf"({'|'.join(PROGRAMS)}) (-|\S+\.py|train|evaluate|generate|launch)"
                commands += [Command(line, path) for line in lines if re.match(pattern, line)]
    distinct = {}
    for command in commands:
        distinct.setdefault(command.whole, command)
    return list(distinct.values())


COMMANDS = _collect()
_names = Counter()


def _id(command):
    _names[command.name] += 1
    return f"{command.name}-{_names[command.name]}"


def _param(command):
    why = command.skip_reason
    return pytest.param(command, id=_id(command), marks=pytest.mark.skip(reason=why) if why else ())


def _some(rows, count):
    return [rows[index] for index in np.linspace(0, len(rows) - 1, count).astype(int)]


def _read(path):
    return gzip.decompress(path.read_bytes()).decode("utf-8").rstrip("\n").split("\n")


def _write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    data = ("\n".join(rows) + "\n").encode("utf-8")
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)


def _write_text(folder):
    yelp, captions = DATA / "text" / "yelp", DATA / "text" / "multi30k_en"
    for label in "01":
        train, dev = (_some(_read(yelp / f"{part}.{label}.txt.gz"), 80) for part in ("train", "dev"))
        for place in (folder, folder / "yelp"):
            _write(place / f"train.{label}.txt.gz", train)
            _write(place / f"dev.{label}.txt.gz", dev)
            _write(place / f"more.{label}.txt.gz", _some(_read(yelp / f"more.{label}.txt.gz"), 80))
    _write(folder / "reviews.txt.gz", train)
    _write(folder / "train.txt.gz", train)
    _write(folder / "dev.txt.gz", dev)
    _write(folder / "reviews.csv", ["review,stars", *(f'"{line}",{len(line) % 5}' for line in train)])
    _write(folder / "my_sentences.txt", train)
    products = _some(_read(DATA / "text" / "amazon_products" / "dev.0.txt.gz"), 40)
    _write(folder / "products.txt.gz", products)
    _write(folder / "amazon.dev.0.txt.gz", products)
    train, dev = (_some(_read(captions / f"{part}.txt.gz"), 80) for part in ("train", "dev"))
    for name in ("captions.train.txt.gz", "captions.txt.gz"):
        _write(folder / name, train)
    _write_sentences(folder)
    for name in ("captions.dev.txt.gz", "captions.dev.0.txt.gz", "held_out.txt.gz"):
        _write(folder / name, dev)


def _write_sentences(folder):
    """Small copies of what training/studies/sentences reads, and what it makes of them."""
    for source, place in (("yelp", "yelp"), ("yelp", "data/yelp")):
        for label in "01":
            _write(
                folder / place / f"more.{label}.txt.gz",
                _some(_read(DATA / "text" / source / f"more.{label}.txt.gz"), 20),
            )
            for part in ("train", "dev"):
                rows = _some(_read(DATA / "text" / source / f"{part}.{label}.txt.gz"), 80)
                _write(folder / place / f"{part}.{label}.txt.gz", rows)
    for source in ("dialogue", "captions5"):
        for part in ("train", "dev"):
            rows = _read(DATA / "text" / source / f"{part}.tsv.gz")
            rows = rows[:400] if source == "captions5" else _some(rows, 80)  # five captions of each picture
            for place in (source.removesuffix("5"), f"data/{source}"):
                _write(folder / place / f"{part}.tsv.gz", rows)
    for label in range(5):
        for part in ("train", "dev"):
            for place in (folder, folder / "data" / "sentences"):
                _write(place / f"{part}.{label}.txt", [f"Sentence {n} of class {label}." for n in range(9)])
    for part in ("train", "dev"):
        passages = [" ".join(["I would like a table for two."] * (1 + n % 8)) for n in range(40)]
        _write(folder / "data" / "passages" / f"{part}.txt", passages)
    entry = "{'eval_reconstruction_loss': '3.4', 'epoch': '0.5'}"
    for name in ("a", "runs/b"):
        _write(
            folder / f"{name}.log",
            [
                'model_config: {"num_classes": 5}',
                "Num examples = 80",
                "Instantaneous batch size per device = 8",
                entry,
            ],
        )
    _write(folder / "b.log", (folder / "a.log").read_text().splitlines())
    for name in ("bad", "good"):
        _write(folder / f"{name}.txt", [f"this is {name} {n} ." for n in range(40)])


def _write_proteins(folder):
    for name in ("gb1", "gifford", "gfp"):
        for part in ("train", "validation"):
            header, *rows = _read(DATA / "protein" / name / f"{part}.csv.gz")
            _write(folder / name / f"{part}.csv.gz", [header, *_some(rows, 200 if part == "train" else 60)])
    shutil.copy(DATA / "protein" / "gfp" / "wild_type.csv.gz", folder / "gfp")
    _write(folder / "variants.csv", [header, *_some(rows, 60)])


def _write_images(folder):
    # 6,000 are held out by the configuration
    for name, header, size in (("images-idx3", 16, 784), ("labels-idx1", 8, 1)):
        path = DATA / "image" / "fashion_mnist" / f"train-{name}-ubyte.gz"
        with gzip.open(path) as file:
            data = bytearray(file.read(header + 6200 * size))
        data[4:8] = (6200).to_bytes(4, "big")
        for place in (folder, folder / "fashion"):
            place.mkdir(exist_ok=True)
            (place / path.name).write_bytes(gzip.compress(bytes(data), compresslevel=1))
    for name, source in (("utkface", "utkface64"), ("cifar", "cifar10")):
        for part, count in (("train", 120), ("validation", 40)):
            table = pq.read_table(DATA / "image" / source / f"{part}.parquet")
            for place in (folder / name, folder / source):
                place.mkdir(exist_ok=True)
                pq.write_table(table.take(_some(range(len(table)), count)), place / f"{part}.parquet")
    pictures = folder / "my_pictures"
    pictures.mkdir()
    for index in range(10):
        Image.fromarray(np.full((28, 28), 20 * index, np.uint8)).save(pictures / f"{index}.png")
    with np.load(DATA / "image" / "sprites64" / "validation.npz") as sprites:
        arrays = {name: sprites[name] for name in sprites}
    (folder / "small_digits").mkdir()
    for index in range(2):
        Image.fromarray(np.full((4, 4), 50 * index, np.uint8)).save(folder / "small_digits" / f"{index}.png")
    count = len(arrays["factors"])
    some = {name: _some(array, 300) if len(array) == count else array for name, array in arrays.items()}
    (folder / "sprites").mkdir()
    for part in ("train", "validation"):
        np.savez_compressed(folder / "sprites" / f"{part}.npz", **some)


class Workplace:
    """Folders to run commands in, and the environment of their processes."""

    def __init__(self, folder):
        self.folder = folder
        self.made = {}
        self.template = folder / "template"
        self.template.mkdir()
        for name in ("training", "docs", "model_cards"):
            shutil.copytree(ROOT / name, self.template / name, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "README.md", self.template)
        _write_text(self.template)
        _write_proteins(self.template)
        _write_images(self.template)
        patches = folder / "patches"
        patches.mkdir()
        (patches / "sitecustomize.py").write_text(PATCHES)
        programs = folder / "bin"
        self.environment = {
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": f"{patches}{os.pathsep}{ROOT / 'src'}",
            "CUDA_VISIBLE_DEVICES": "",
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": "1",
            "TOKENIZERS_PARALLELISM": "false",
            **{name: name.lower() for name in NAMED_FOLDERS},
        }
        socket = programs / "socket"
        python = f"{sys.executable} -IS {SERVER} run {socket}"
        programs.mkdir()
        for name, line in {
            "python": python,
            "torchrun": f"{sys.executable} -m torch.distributed.run",
            "hf-eddpm": f"{python} -c 'from hf_eddpm.cli.main import main; main()'",
        }.items():
            (programs / name).write_text(f'#!/bin/sh\nexec {line} "$@"\n')
            (programs / name).chmod(0o755)
        self.server = subprocess.Popen([sys.executable, SERVER, "serve", socket], env=self.environment, cwd=folder)
        while not socket.exists():
            assert self.server.poll() is None
            time.sleep(0.1)

    def close(self):
        self.server.kill()
        self.server.wait()

    def run(self, command, folder):
        """Runs a command in a new folder."""
        shutil.copytree(self.template, folder)
        proteins = next((name for name in ("gfp", "gb1") if name in command.matched), "gifford")
        shutil.copytree(folder / proteins, folder, dirs_exist_ok=True)
        if (study := re.search(r"training/studies/\w+", command.matched)) and not re.search(
            r"readme|plot|table\.py|latent_rank/protein", command.text
        ):
            # What is there already is not run again.
            shutil.rmtree(folder / study[0] / "results", ignore_errors=True)
        limit = next(words for pattern, words in LIMITS.items() if re.search(pattern, command.matched))
        self._prepare(command, folder)
        script = re.sub(r"--nproc_per_node \d+", "--nproc_per_node 2", command.whole)
        if keep := re.search(r"--keep \S+", script):
            # The evaluation whose parts are kept must be of the same data.
            self._execute(f"{script.replace(keep[0], '')} {limit}", folder)
        self._execute(f"{script} {limit}", folder)

    def _execute(self, script, folder):
        process = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", script],
            cwd=folder,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        if process.returncode or "Traceback (most recent call last)" in process.stderr:
            pytest.fail(f"{script}\n{process.stderr[-5000:]}\n{process.stdout[-500:]}", pytrace=False)

    def _prepare(self, command, folder):
        """Puts there what earlier commands make."""
        words = command.text.split()
        for path, checkpoint in PIPELINES.items():
            if path in words:
                shutil.copytree(folder / "model_cards" / checkpoint, folder / path)
        for option, path in zip(words, words[1:], strict=False):
            if option in MADE and path.startswith("runs/"):
                shutil.copytree(self._make(MADE[option], path), folder / path)
            elif path == "runs/sprites/pipeline":
                shutil.copytree(self._make(r"train\.py image", "runs/sprites") / "pipeline", folder / path)
        if "runs/paper-*.json" in words:
            (folder / "runs").mkdir()
            for recipe in ("paper", "batch"):
                for file in (folder / "training/studies/text_front/results").glob(f"{recipe}-*.json"):
                    shutil.copy(file, folder / "runs")

    def _make(self, what, path):
        if (what, path) not in self.made:
            command = next(each for each in COMMANDS if re.search(rf"{what} .*--output_dir {path}\b", each.text))
            folder = self.folder / re.sub(r"\W+", "-", f"{what}-{path}")
            self.run(command, folder)
            self.made[what, path] = folder / path
        return self.made[what, path]


def _check_training(command, folder):
    """If the command trains, it did so for two steps in float32."""
    if re.search(r"train(\.py)? (text|protein|image)", command.text) and "--help" not in command.text:
        paths = folder.rglob("pipeline/training.json")
        (facts,) = [json.loads(path.read_text(encoding="utf-8")) for path in paths]
        assert facts["settings"]["precision"].startswith("float32")
        assert facts["steps"] == 2


@pytest.fixture(scope="module")
def workplace(tmp_path_factory):
    if not DATA.is_dir():
        pytest.skip(f"no data: {DATA} is absent")
    place = Workplace(tmp_path_factory.mktemp("commands"))
    yield place
    place.close()


def test_the_commands_are_collected():
    assert len(COMMANDS) > 100
    assert {"README.md", "training/README.md", "model_cards/eddpm-gfp/README.md"} <= {
        command.source.relative_to(ROOT).as_posix() for command in COMMANDS
    }
    for command in COMMANDS:
        if command.skip_reason is None:
            assert any(re.search(pattern, command.matched) for pattern in LIMITS), command


@pytest.mark.parametrize("command", [_param(command) for command in COMMANDS])
def test_the_command_runs(command, workplace, tmp_path):
    folder = tmp_path / "work"
    workplace.run(command, folder)
    _check_training(command, folder)
    shutil.rmtree(folder)
