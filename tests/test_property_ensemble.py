"""Ensembles of property heads: fitted to measurements in seconds, saved, and right about how sure they are."""

import numpy as np
import pytest
import torch
from proteins import LENGTH, tiny_protein_pipe

from hf_eddpm import EDDPMPipeline
from hf_eddpm.modeling_property import PropertyHead
from hf_eddpm.property_ensemble import calibration_error, fit_ensemble, interval_coverage


def proteins(num, seed=0):
    rng = np.random.default_rng(seed)
    return ["".join(row) for row in rng.choice(list("ACDEFGHIKLMNPQRSTVWY"), (num, LENGTH))]


def noisy_line(num, noise, seed=0):
    """Latents `(num, 1, 6)` and a linear function of them with Gaussian noise, `(num, 1)`."""
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn(num, 1, 6, generator=generator)
    values = latents[:, 0, :1] * 2 + latents[:, 0, 1:2] + noise * torch.randn(num, 1, generator=generator)
    return latents, values * 10 + 50


@pytest.fixture(scope="module")
def line():
    config = tiny_protein_pipe(property_members=8, property_hidden_size=16).model.config
    latents, values = noisy_line(300, noise=0.5)
    fitted = fit_ensemble(config, latents, values.double(), 300, torch.Generator().manual_seed(0))
    return fitted.head, fitted.fit


def test_intervals_hold_what_they_say_on_data_that_no_member_has_seen(line):
    head, fit = line
    latents, values = noisy_line(2000, noise=0.5, seed=1)
    with torch.no_grad():
        errors = ((values - head.predict(latents)) / head.predict_std(latents)).abs()[:, 0]
    assert interval_coverage(errors, 0.9) == pytest.approx(0.9, abs=0.05)
    assert calibration_error(errors) < 0.06
    assert fit.coverage_90[0] == pytest.approx(0.9, abs=0.05)
    # the noise alone is 5, in the unit of the data
    assert fit.rmse[0] == pytest.approx(6, abs=1)


def test_held_out_rows_widen_the_intervals_where_the_latents_know_the_fitted_ones():
    config = tiny_protein_pipe(property_members=8, property_hidden_size=16).model.config

    def rows(num, noise, seed):  # the first number is the value, more or less
        latents, values = noisy_line(num, 0.0, seed)
        latents[:, 0, 0] = values[:, 0] / 20 + noise * torch.randn(num, generator=torch.Generator().manual_seed(seed))
        return latents, values

    known, held_out, new = rows(300, 0.01, 0), rows(500, 1.0, 1), rows(2000, 1.0, 2)
    coverage = []
    for others in (None, held_out):
        fitted = fit_ensemble(config, *known, 300, torch.Generator().manual_seed(0), others)
        with torch.no_grad():
            errors = ((new[1] - fitted.head.predict(new[0])) / fitted.head.predict_std(new[0])).abs()[:, 0]
        coverage.append(interval_coverage(errors, 0.9))
    assert coverage[0] < 0.5
    assert coverage[1] == pytest.approx(0.9, abs=0.03)
    assert fitted.fit.num_rows == 500 and fitted.fit.coverage_90[0] == pytest.approx(0.9, abs=0.03)


@pytest.mark.parametrize("given", ["held_out", "held_out_properties"])
def test_held_out_rows_without_values_are_refused(given):
    other = {"held_out", "held_out_properties"} - {given}
    with pytest.raises(ValueError, match=f"`{other.pop()}` must be given with `{given}`, got None"):
        tiny_protein_pipe().fit_property(proteins(30), list(range(30)), num_steps=1, **{given: [1.0]})


def test_a_pipeline_takes_held_out_rows_and_names_them_in_errors():
    pipe, data = tiny_protein_pipe(), proteins(60)
    values = [float(sequence.count("A")) for sequence in data]
    options = {"num_members": 2, "num_steps": 5}
    fit = pipe.fit_property(data[:40], values[:40], held_out=data[40:], held_out_properties=values[40:], **options)
    assert fit.num_rows == 20
    with pytest.raises(ValueError, match="`held_out_properties` must have a row for each of the 20 proteins"):
        pipe.fit_property(data[:40], values[:40], held_out=data[40:], held_out_properties=values, **options)


def test_predictions_far_from_the_data_are_less_sure(line):
    head, _ = line
    latents, _ = noisy_line(200, noise=0.0, seed=2)
    with torch.no_grad():
        assert head.predict_std(8 * latents).mean() > 1.5 * head.predict_std(latents).mean()


def test_the_same_generator_gives_the_same_heads():
    config = tiny_protein_pipe(property_members=3).model.config
    latents, values = noisy_line(40, 0.1)
    state = torch.random.get_rng_state()
    a, b = (fit_ensemble(config, latents, values, 30, torch.Generator().manual_seed(3)).head for _ in range(2))
    assert torch.equal(state, torch.random.get_rng_state())
    for name, value in a.state_dict().items():
        assert torch.equal(value, b.state_dict()[name]), name


def test_members_differ_and_their_mean_is_the_prediction():
    head = PropertyHead(tiny_protein_pipe(property_members=4, num_properties=2).model.config)
    latents = torch.randn(5, 1, 6)
    members = head.predict_members(latents)
    assert members.shape == (5, 4, 2)
    assert (members.std(1) > 0).all()
    torch.testing.assert_close(head(latents), members.mean(1))
    # each member reads its own part of the hidden layer
    part = head.activation(head.hidden(latents.flatten(1)))[:, 8:16]
    second = part @ head.output.weight[2:4, :, 0].T + head.output.bias[2:4]
    torch.testing.assert_close(members[:, 1], second)


def test_a_pipeline_fits_predicts_saves_and_loads(tmp_path):
    pipe = tiny_protein_pipe(num_properties=0)
    data = proteins(60)
    values = np.array([sequence.count("A") - sequence.count("W") for sequence in data], dtype=float)
    fit = pipe.fit_property(data, values, num_members=3, num_steps=50, generator=torch.Generator().manual_seed(0))
    assert fit.num_rows == 60 and len(fit.rmse) == 1
    mean, std = pipe.predict(data[:4], return_std=True)
    assert mean.shape == std.shape == (4, 1) and (std > 0).all()
    torch.testing.assert_close(mean, pipe.predict(data[:4]))
    pipe.save_pretrained(tmp_path)
    loaded = EDDPMPipeline.from_pretrained(tmp_path)
    assert loaded.model.config.property_members == 3
    for a, b in zip(loaded.predict(data[:4], return_std=True), (mean, std), strict=True):
        torch.testing.assert_close(a, b)
    better = loaded.optimize(data[:2], num_steps=2)  # which climbs the mean of the members
    assert (better.predictions >= loaded.predict(data[:2])).all()


def test_several_properties_with_gaps_are_fitted_together():
    pipe = tiny_protein_pipe()
    data = proteins(50)
    values = {"charge": [float(s.count("K")) for s in data], "bulk": [float(s.count("W")) for s in data]}
    values["bulk"][3] = float("nan")
    fit = pipe.fit_property(data, values, num_members=2, num_steps=10)
    assert len(fit.rmse) == 2 and any("'bulk' is missing for 1 of 50" in note for note in fit.notes)
    assert pipe.predict(data[:3]).shape == (3, 2)


def test_a_single_head_has_no_standard_deviation_and_says_how_to_get_one():
    pipe = tiny_protein_pipe()
    assert pipe.model.config.property_members == 1
    assert pipe.predict("AYDYWFD").shape == (1, 1)
    with pytest.raises(ValueError, match=r"`return_std` needs an ensemble .* `pipe.fit_property\(data, properties\)`"):
        pipe.predict("AYDYWFD", return_std=True)
