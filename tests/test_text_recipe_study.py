"""The study of text recipes: its page, and what its variants change."""

import json
import re
from pathlib import Path

import pytest
import torch

from hf_eddpm.training.arguments import merge
from latent_rank.variants import RisingShare
from text_recipe.report import write_report
from text_recipe.variants import VARIANTS, MaskingCollator, drop_latents

STUDY = Path(__file__).parent.parent / "training" / "studies" / "text_recipe"


def test_the_table_is_what_was_measured(tmp_path):
    for file in (STUDY / "results").glob("*.json"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert write_report(tmp_path) + "\n" == (STUDY / "results" / "table.md").read_text(encoding="utf-8")


def test_the_page_quotes_the_table():
    table = (STUDY / "results" / "table.md").read_text(encoding="utf-8")
    means = {f"{float(number):.{digits}f}" for number in re.findall(r"\d+\.\d+", table) for digits in (0, 1)}
    quoted = re.findall(r"BLEU (\d+\.\d) against (\d+\.\d), perplexity (\d+) against (\d+)", _page())
    assert len(quoted) == 1 and set(quoted[0]) <= means


def test_the_page_says_what_first_weights_came_to():
    for file in (STUDY / "results-initial-weights").glob("*.json"):
        run = json.loads(file.read_text(encoding="utf-8"))
        assert f"{run['bleu']:.1f}" in _page() and f"{run['steps']} steps" in _page()


def _page():
    return " ".join((STUDY / "README.md").read_text(encoding="utf-8").split())


def test_every_run_is_of_a_recipe_and_says_what_it_took():
    for file in (STUDY / "results").glob("*.json"):
        run = json.loads(file.read_text(encoding="utf-8"))
        assert run["recipe"] in VARIANTS and run["steps"] > 0 and run["train_seconds"] > 0


def test_values_of_a_network_are_added_to_its_own():
    base = {"latent_dim": 4, "encoder": {"hidden_size": 8, "num_hidden_layers": 1}}
    assert merge(base, {"encoder": {"num_hidden_layers": 2}}) == {
        "latent_dim": 4,
        "encoder": {"hidden_size": 8, "num_hidden_layers": 2},
    }


def test_masked_tokens_are_hidden_from_the_encoder_alone():
    batch = {"attention_mask": torch.ones(50, 40, dtype=torch.long), "labels": torch.ones(50, 40, dtype=torch.long)}
    masked = MaskingCollator(lambda examples: batch, 0.25)([])
    assert masked["attention_mask"][:, 0].all() and masked["labels"] is batch["labels"]
    assert float(masked["attention_mask"].float().mean()) == pytest.approx(0.76, abs=0.03)
    assert batch["attention_mask"].all()


@pytest.mark.parametrize(("passed", "share"), [(0.0, 0.0), (0.5, 0.0), (0.75, 0.05), (1.0, 0.1)])
def test_the_share_rises_with_the_time_that_has_passed(passed, share):
    class Holder:
        pass

    model, state, schedule = Holder(), Holder(), Holder()
    model.config = Holder()
    state.max_steps, schedule.last_epoch = 100, round(100 * passed)
    RisingShare(model, 0.1, (0.5, 1.0)).on_step_begin(None, state, None, lr_scheduler=schedule)
    assert model.config.encoder_gradient_scale == pytest.approx(share)


def test_latents_are_dropped_in_training_alone():
    class Decoder(torch.nn.Module):
        def forward(self, latents):
            return latents

    model = torch.nn.Module()
    model.decoder = Decoder()
    drop_latents(model, 0.5)
    ones = torch.ones(2000)
    assert model.eval().decoder(ones).equal(ones)
    dropped = model.train().decoder(ones)
    assert float((dropped == 0).float().mean()) == pytest.approx(0.5, abs=0.05)
