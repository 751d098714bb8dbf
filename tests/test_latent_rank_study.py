import functools
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from hf_eddpm.diagnostics import covariance_eigenvalues, effective_rank
from hf_eddpm.modalities.image.metrics import fit_extractor
from hf_eddpm.training import image_judge

sys.path.insert(0, str(Path(__file__).parent.parent / "training" / "studies" / "latent_rank"))

import study  # noqa: E402
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
    RisingShare(model, 0.1, (0.5, 1.0)).on_step_begin(None, SimpleNamespace(global_step=step, max_steps=100), None)
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
