import functools
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from conftest import SENTENCES

from hf_eddpm.diagnostics import covariance_eigenvalues, effective_rank
from hf_eddpm.modalities.image.metrics import fit_extractor
from hf_eddpm.training import image_judge

sys.path.insert(0, str(Path(__file__).parent.parent / "training" / "studies" / "latent_rank"))

import page  # noqa: E402
import sequences  # noqa: E402
import study  # noqa: E402
import variants  # noqa: E402
from reach import shipped_rows  # noqa: E402
from variants import VARIANTS, IterativeNormalization, RisingShare  # noqa: E402


def _correlated(num, generator):
    return torch.randn(num, 1, 2, generator=generator) @ torch.randn(2, 6, generator=generator) + torch.randn(
        num, 1, 6, generator=generator
    )


def test_iterative_normalisation_whitens_in_training_and_evaluation(generator):
    latents = _correlated(512, generator)
    normalization = IterativeNormalization(1, 6)
    normalization.momentum = 1.0
    eigenvalues = [covariance_eigenvalues(latents), covariance_eigenvalues(normalization.train()(latents))]
    assert effective_rank(eigenvalues[1]) > 5.5 > effective_rank(eigenvalues[0])
    torch.testing.assert_close(normalization.eval()(latents).mean(0), torch.zeros(1, 6), atol=1e-4, rtol=0)
    again = covariance_eigenvalues(normalization(latents))
    torch.testing.assert_close(again, eigenvalues[1], atol=1e-3, rtol=1e-3)


def test_the_gradient_of_iterative_normalisation_knows_that_scale_does_not_matter(generator):
    latents = _correlated(64, generator).requires_grad_(True)
    IterativeNormalization(1, 6).train()(latents)[:10].square().sum().backward()
    along = float((latents.grad * (latents - latents.mean(0))).sum())
    assert abs(along) < 0.01 * float(latents.grad.norm() * latents.norm())


@pytest.mark.parametrize(("step", "share"), [(0, 0.0), (50, 0.0), (75, 0.05), (100, 0.1), (120, 0.1)])
def test_the_share_rises_once_reconstruction_has_settled(step, share):
    model = SimpleNamespace(config=SimpleNamespace(encoder_gradient_scale=None))
    schedule = SimpleNamespace(last_epoch=step)
    RisingShare(model, 0.1, (0.5, 1.0)).on_step_begin(
        None, SimpleNamespace(max_steps=100), None, lr_scheduler=schedule
    )
    assert model.config.encoder_gradient_scale == pytest.approx(share)


@pytest.mark.slow
def test_the_study_measures_every_kind_of_variant_and_reports(tmp_path, monkeypatch):
    monkeypatch.setattr(image_judge, "fit_extractor", functools.partial(fit_extractor, num_steps=15, batch_size=32))
    monkeypatch.setattr(study, "FOLDER", tmp_path)
    recipe = json.loads((Path(sys.modules["variants"].__file__).parent / "digits.json").read_text())
    (tmp_path / "digits.json").write_text(json.dumps(recipe))
    names = [
        "share 0",
        "share 0, then to 0.1",
        "share 0.1, iterative normalisation",
        "share 0.1, covariance penalty 0.1",
        "share 0, 16 cells",
    ]
    words = ["digits", "--max_steps", "2", "--seeds", "1", "--output_dir", str(tmp_path / "results")]
    words += ["--work_dir", str(tmp_path / "work"), "--variants"]
    study.main([*words, *names])
    files = sorted((tmp_path / "results").glob("*.json"))
    assert {json.loads(file.read_text())["variant"] for file in files} == set(names) <= set(VARIANTS)
    before = files[0].read_text()
    files[0].unlink()  # measured again, not trained again
    study.main([*words, *names])
    old, new = json.loads(before), json.loads(files[0].read_text())
    assert (
        new["effective_rank"] == pytest.approx(old["effective_rank"]) and new["train_seconds"] == old["train_seconds"]
    )
    assert "share 0, 16 cells" in (tmp_path / "table.md").read_text() and (tmp_path / "figure.png").is_file()


def test_checkpoints_are_listed_with_whether_their_samples_reach_the_latents(tmp_path):
    reach = {"num": 9, "std": 0.9, "real_std": 1.0, "neighbor_ratio": 1.1, "frechet": 1.4, "real_frechet": 1.0}
    latents = {"dims": 16, "effective_rank": 3.0, "rate": 20.0}
    for name, steps in (("a", "10"), ("b", "20")):
        (tmp_path / name).mkdir()
        values = {"latents": latents, "reach": {steps: reach, "50": reach | {"neighbor_ratio": 1.3}}}
        (tmp_path / name / "evaluation.json").write_text(json.dumps(values))
        index = {"scheduler": ["diffusers", "DDIMScheduler"], "default_num_inference_steps": 10}
        (tmp_path / name / "model_index.json").write_text(json.dumps(index))
    first, second = shipped_rows(tmp_path)
    assert (first["reached"], first["sampler"], first["effective rank"]) == ("yes", "DDIM, 10", "3.0 (low)")
    assert (second["reached"], second["sampler"]) == ("no", "DDIM, 50")  # its own number was not measured


def test_the_page_of_the_benchmark_holds_what_was_measured(monkeypatch, tmp_path):
    assert page.main(["--check"]) == 0, "run `python training/studies/latent_rank/page.py`"
    changed = tmp_path / "latents.md"
    changed.write_text(page.PAGE.read_text().replace("share 0.003 | 1 |", "share 0.003 | 7 |"))
    monkeypatch.setattr(page, "PAGE", changed)
    assert page.main(["--check"]) == 1


@pytest.fixture
def front(tmp_path, monkeypatch):
    """Function that runs variants of sentences or proteins on a handful of data, and returns what was measured."""
    for name, value in (("NUM_ENCODED", 40), ("NUM_UNSEEN", 12), ("NUM_RECONSTRUCTIONS", 5), ("STEPS", 2)):
        monkeypatch.setattr(sequences, name, value)
    monkeypatch.setattr(sequences, "NUM_SAMPLES", dict.fromkeys(sequences.NUM_SAMPLES, 6))
    monkeypatch.setattr(variants, "FINISH_STEPS", 2)
    rows = [f"{'ACDEFGHIKL'[i % 10] * 3}{'MNPQ'[i % 4]}{'RSTVW'[i % 5]},{i % 7}" for i in range(80)]
    for part, proteins in (("train", rows[:60]), ("dev", rows[60:])):
        (tmp_path / f"{part}.csv").write_text("sequence,fitness\n" + "\n".join(proteins) + "\n")
        for label in (0, 1):
            sentences = [s if part == "train" else f"{s} again" for s in SENTENCES[label::2] * 4]
            (tmp_path / f"{part}.{label}.txt").write_text("\n".join(sentences) + "\n")

    def data(dataset, part):
        classes = [f"{tmp_path}/{part}.{label}.txt={label}" for label in (0, 1)]
        return classes if dataset == "yelp" else [str(tmp_path / f"{part}.csv")]

    def run(dataset, names, *words):
        words = ["--max_steps", "2", "--seeds", "1", "--output_dir", str(tmp_path / "out"), *words]
        sequences.main(
            [dataset, "--train", *data(dataset, "train"), "--dev", *data(dataset, "dev"), *words, "--variants", *names]
        )
        files = sorted((tmp_path / "out" / dataset).glob("*.json"))
        return {run["variant"]: run for run in (json.loads(file.read_text()) for file in files)}

    return run


@pytest.mark.slow
@pytest.mark.parametrize(("dataset", "shape"), [("yelp", "eight vectors"), ("gifford", "one vector")])
def test_sentences_and_proteins_are_measured_in_every_kind_of_variant(front, dataset, shape):
    names = [
        f"share 0, {shape}",
        "share 0, finished",
        "share 0, then to 0.1",
        "share 0.1, iterative normalisation",
        "share 0.1, covariance penalty 0.1",
        "share 1, the bound's weights, encoder variance 0.3",
    ]
    found = front(dataset, names)
    assert set(found) == set(names) <= set(variants.sequence_variants(dataset))
    for run in found.values():
        assert run["steps"] == 2 and run["rate"] > 0 and run["neighbor_ratio"] > 0 and 0 <= run["exact_match"] <= 1
    assert "finish_seconds" in found["share 0, finished"]


@pytest.mark.slow
def test_processes_share_the_runs_and_none_is_repeated(front):
    names = ["share 0", "share 0.1"]
    assert list(front("gifford", names, "--shard", "1/2")) == ["share 0.1"]
    seconds = front("gifford", names, "--shard", "0/2")["share 0.1"]["train_seconds"]
    assert front("gifford", names)["share 0.1"]["train_seconds"] == seconds
    with pytest.raises(ValueError, match="`variants` must be among"):
        front("gifford", ["share 7"])
