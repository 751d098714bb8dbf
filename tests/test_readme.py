"""What README.md and the model cards show runs, and what they name exists."""

import re
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from hf_eddpm.hub.card import ORGANISATION

ROOT = Path(__file__).parent.parent
README, CONTRIBUTING = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "CONTRIBUTING.md"))
CHECKPOINTS = sorted(path.parent for path in (ROOT / "model_cards").glob("*/model_index.json"))
MEASURES = {
    "eddpm-sentences": {"bleu", "exact_match", "perplexity"},
    "eddpm-yelp": {"bleu", "exact_match", "perplexity"},
    "eddpm-yelp-mini": {"bleu", "exact_match", "perplexity"},
    "eddpm-yelp-smollm2-lora": {"bleu", "exact_match", "perplexity"},
    "eddpm-gifford": {"accuracy", "pearson"},
    "eddpm-digits": {"frechet", "mse", "ssim", "accuracy"},
    "eddpm-fashion": {"frechet", "mse", "ssim", "accuracy"},
    "eddpm-faces64": {"frechet", "mse", "ssim", "accuracy"},
    "eddpm-cifar10": {"frechet", "mse", "ssim", "accuracy"},
    "eddpm-sprites": {"frechet", "mse", "ssim", "iou", "accuracy"},
    "eddpm-gfp": {"accuracy", "pearson"},
    "eddpm-gb1": {"accuracy", "pearson"},
}
MAX_BYTES = {
    "eddpm-sentences": 60 * 10**6,
    "eddpm-yelp": 40 * 10**6,
    "eddpm-yelp-smollm2-lora": 48 * 10**6,
}  # of the others 30

each_checkpoint = pytest.mark.parametrize("folder", CHECKPOINTS, ids=lambda folder: folder.name)


def _blocks(text, language):
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    return [block for kind, block in fences if kind == language]


def _run(snippet, name):
    exec(compile(snippet, name, "exec"), {"__name__": "__main__"})


def _tree_paths(text):
    """Every path of the tree in CONTRIBUTING.md: unindented folders, and below them one or more names a line."""
    (tree,) = [block for block in _blocks(text, "") if "src/hf_eddpm/" in block]
    folder = ""
    for line in tree.splitlines():
        names = re.findall(r"[\w./-]+(?:\.(?:py|md|json)|/)(?=[\s,]|$)", line)
        if not line.startswith(" "):
            folder = names[0]
            yield folder
        else:
            yield from (folder + name for name in names)


def test_every_path_in_the_tree_exists():
    paths = list(_tree_paths(CONTRIBUTING))
    assert "src/hf_eddpm/pipeline_eddpm.py" in paths and "training/configs/" in paths and len(paths) > 12
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_folder_of_the_package_is_in_the_tree():
    listed = set(_tree_paths(CONTRIBUTING))
    folders = [path.relative_to(ROOT).as_posix() + "/" for path in (ROOT / "src" / "hf_eddpm").glob("[!_]*/")]
    assert [folder for folder in folders if folder not in listed] == []


def test_the_readme_has_at_most_700_words():
    prose = re.sub(r"^```.*?^```$|^    [^\n]*$|<!--.*?-->", "", README, flags=re.M | re.S)
    assert len(prose.split()) <= 700


def test_every_make_target_of_the_readme_exists():
    targets = set(re.findall(r"make ([a-z-]+)", " ".join(re.findall(r"`[^`]+`|^    make.*$", README, re.M))))
    makefile = (ROOT / "Makefile").read_text()
    assert {"demo", "test"} <= targets
    assert [target for target in targets if not re.search(rf"^{target}:", makefile, re.M)] == []


def test_the_named_checkpoints_are_there():
    assert {path.name for path in CHECKPOINTS} == set(MEASURES)


@each_checkpoint
def test_the_card_parses_and_states_licence_results_and_metadata(folder):
    card = ModelCard.load(folder / "README.md")
    assert card.data.license and card.data.library_name
    assert {result.metric_type for result in card.data.eval_results} >= MEASURES[folder.name]
    assert "FILL IN" not in card.text


@each_checkpoint
def test_the_snippet_of_the_card_runs_where_the_checkpoint_lies(folder, request, tmp_path, monkeypatch, capsys):
    (snippet, *_) = _blocks(ModelCard.load(folder / "README.md").text, "python")
    assert f'"{ORGANISATION}/{folder.name}"' in snippet
    (tmp_path / ORGANISATION).mkdir()
    (tmp_path / ORGANISATION / folder.name).symlink_to(folder)
    if (folder / "adapter").is_dir():  # beside the models it was made from
        for owner in request.getfixturevalue("pretrained_models").iterdir():
            (tmp_path / owner.name).symlink_to(owner)
    monkeypatch.chdir(tmp_path)
    _run(snippet, "model card")
    assert capsys.readouterr().out


@each_checkpoint
def test_the_shipped_checkpoint_is_small_and_holds_no_pickle(folder):
    files = [path for path in folder.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES.get(folder.name, 30 * 10**6)
    assert {path.suffix for path in files} <= {".json", ".md", ".safetensors", ".txt", ".jinja", ".png"}
