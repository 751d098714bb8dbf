import itertools
import math
import random

import pytest
import torch
from conftest import SENTENCES, tiny_model
from hypothesis import given, settings
from hypothesis import strategies as st
from rapidfuzz.distance import Levenshtein

from hf_eddpm import (
    EDDPMConfig,
    EDDPMModel,
    EDDPMPipeline,
    EDDPMProteinProcessor,
    EDDPMScheduler,
)
from hf_eddpm.control import guidance, optimization
from hf_eddpm.control.search import METHODS, LatentProblem, LatentState, diffuse
from hf_eddpm.control.sequence_limits import SequenceLimits
from hf_eddpm.modalities.protein.residues import VOCAB_SIZE

LENGTH = 12
STARTS = ["ACDEFGHIKLMN", "CCWWYYAAGG", "AAAAYDYWFDY"]
# Arguments under which a method moves far from the start of a tiny random model within a few steps
FAR = {
    "gradient": {"step_size": 3.0},
    "guided": {"strength": 0.8, "scale": 5.0},
    "mcmc": {"step_size": 2.0, "temperature": 1.0},
    "hill_climb": {"step_size": 2.0, "num_neighbors": 4},
    "ode": {"scale": 2.0},
}


def tiny_protein_pipe(decoder="conv", num_properties=2, seed=0, alignment="left", num_latents=1):
    """A random model of proteins of up to `LENGTH` residues whose outputs differ from latent to latent."""
    backbone = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 32,
        "max_position_embeddings": 32,
        "pad_token_id": 0,
    }
    conv = {"model_type": "eddpm_protein_conv", "num_sites": LENGTH, "hidden_size": 16, "num_hidden_layers": 1}
    causal = {"model_type": "llama", "num_key_value_heads": 2, "bos_token_id": 1, "eos_token_id": 2, **backbone}
    torch.manual_seed(seed)
    config = EDDPMConfig(
        modality="protein",
        encoder={"model_type": "bert", **backbone},
        decoder=conv if decoder == "conv" else causal,
        latent_dim=8 // num_latents,
        num_latents=num_latents,
        denoiser_num_layers=2,
        denoiser_hidden_size=16,
        num_properties=num_properties,
    )
    model = EDDPMModel(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.4)
        if decoder == "conv":
            model.decoder.output.bias[0] = -1.0  # some padding, within and around
        if num_properties:
            spread = torch.arange(1.0, num_properties + 1)
            model.property_head.fit(torch.tensor([[-1.0], [3.0]]) * spread)
    processor = EDDPMProteinProcessor(length=LENGTH, alignment=alignment, stop=decoder != "conv")
    pipe = EDDPMPipeline(model, EDDPMScheduler(**config.scheduler_config), processor)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module", params=[("conv", 1), ("conv", 2), ("causal", 1)], ids=str)
def any_pipe(request):
    decoder, num_latents = request.param
    return tiny_protein_pipe(decoder, num_latents=num_latents)


@pytest.fixture(scope="module")
def pipe():
    return tiny_protein_pipe(num_properties=1)


@pytest.fixture(scope="module")
def pipes():
    return {decoder: tiny_protein_pipe(decoder) for decoder in ("conv", "causal")}


def _generators(count):
    return [torch.Generator().manual_seed(seed) for seed in range(count)]


# The latent part, on functions whose optimum is known


def gaussian_problem(starts, objective, generator=None):
    """A problem without data, whose prior is the standard Gaussian: its ideal denoiser is known."""
    scheduler = EDDPMScheduler(num_train_timesteps=200, beta_start=0.02, beta_end=0.05)

    def visit(latents):
        return LatentState([None] * len(latents), latents, objective(latents)[:, None], objective(latents))

    def denoise(noisy, t):  # E[noise | noisy]
        return (1 - scheduler.alphas_cumprod[int(t)]).sqrt() * noisy

    def look_up(candidates):
        return torch.stack(candidates), torch.ones(len(starts), len(candidates), dtype=torch.bool)

    return LatentProblem(
        start=visit(starts),
        objective=objective,
        visit=visit,
        denoise=denoise,
        scheduler=scheduler,
        generator=torch.Generator().manual_seed(0) if generator is None else generator,
        look_up=look_up,
        assess=lambda samples, latents: visit(latents),
    )


OPTIMUM = torch.tensor([[0.5, -1.0, 0.25]])  # (num_latents, latent_dim)


def bowl(latents):
    return -0.5 * (latents - OPTIMUM).square().flatten(1).sum(1)


@pytest.mark.parametrize(
    ("method", "num_steps", "arguments", "tolerance"),
    [
        ("gradient", 60, {"step_size": 0.3}, 1e-4),
        ("guided", 100, {"scale": 1e6, "strength": 0.5}, 1e-2),
        ("guided", 100, {"scale": 1e6, "strength": 1.0}, 1e-2),
        ("mcmc", 400, {"step_size": 0.2, "temperature": 0.0}, 0.2),
        ("hill_climb", 60, {"step_size": 0.2, "num_neighbors": 32}, 0.15),
        ("ode", 60, {"scale": 2.0}, 1e-3),
    ],
)
def test_every_method_finds_the_optimum_of_a_quadratic(method, num_steps, arguments, tolerance):
    starts = torch.randn(4, 1, 3, generator=torch.Generator().manual_seed(1)) * 2
    states = list(METHODS[method](gaussian_problem(starts, bowl), num_steps, **arguments))
    assert len(states) == num_steps
    torch.testing.assert_close(states[-1].latents, OPTIMUM.expand(4, 1, 3), atol=tolerance, rtol=0)


def test_a_step_of_gradient_ascent_stops_at_the_optimum_or_after_the_step_size():
    offsets = torch.tensor([[[3.0, 4.0, 0.0]], [[0.03, 0.0, -0.04]], [[0.0, 0.0, 0.0]]])
    (state,) = METHODS["gradient"](gaussian_problem(OPTIMUM + offsets, bowl), 1, step_size=1.0)
    left = torch.tensor([[[2.4, 3.2, 0.0]], [[0.0, 0.0, 0.0]], [[0.0, 0.0, 0.0]]])
    torch.testing.assert_close(state.latents - OPTIMUM, left)


def test_gradient_ascent_does_not_depend_on_the_objectives_scale():
    starts = torch.randn(2, 1, 3)
    ends = [
        list(METHODS["gradient"](gaussian_problem(starts, lambda latents, f=factor: f * bowl(latents)), 3))[-1].latents
        for factor in (1.0, 1e-3)
    ]
    torch.testing.assert_close(*ends)


def test_projection_returns_latents_to_where_the_data_are():
    def slope(latents):  # without a maximum: ascent runs away
        return 3 * latents.flatten(1).sum(1)

    ascent = {"step_size": 3**0.5}  # 1 in each dimension
    project = {"project": 1.0, "project_every": 20, "project_steps": 200}
    starts = torch.zeros(64, 1, 3)
    *_, free = METHODS["gradient"](gaussian_problem(starts, slope), 20, **ascent)
    *_, held = METHODS["gradient"](gaussian_problem(starts, slope), 20, **ascent, **project)
    torch.testing.assert_close(free.latents, torch.full((64, 1, 3), 20.0))
    assert held.latents.mean().abs() < 0.2 and 0.8 < held.latents.std() < 1.2  # the prior's own


def test_the_ode_follows_its_solution():
    # d latents / dt = -1/2 beta(t) scale grad, from 1 to 0: the distance decays by exp(-scale/2 integral of beta)
    starts = torch.randn(3, 1, 3)
    *_, last = METHODS["ode"](gaussian_problem(starts, bowl), 400, scale=0.2, solver="rk4")
    decay = math.exp(-0.2 / 2 * (0.1 + 20) / 2)
    torch.testing.assert_close(last.latents, OPTIMUM + decay * (starts - OPTIMUM), atol=1e-4, rtol=1e-4)


def test_guidance_draws_from_the_prior_weighted_by_the_objective():
    # N(0, 1) exp(scale * latents) is N(scale, 1)
    starts = torch.zeros(2000, 1, 1)
    problem = gaussian_problem(starts, lambda latents: latents.flatten(1).sum(1))
    for scale in (0.0, 1.5):
        *_, last = METHODS["guided"](problem, 100, strength=1.0, scale=scale)
        assert abs(last.latents.mean() - scale) < 0.1 and abs(last.latents.std() - 1) < 0.1


@pytest.mark.parametrize("scale", [0.5, 4.0])
def test_guidance_towards_a_target_is_exact_for_gaussians(scale):
    # N(0, 1) exp(-scale/2 |latents - optimum|^2) is N(scale optimum / (1 + scale), 1 / (1 + scale))
    problem = gaussian_problem(torch.zeros(4000, 1, 3), bowl)
    *_, last = METHODS["guided"](problem, 200, strength=1.0, scale=scale)
    torch.testing.assert_close(last.latents.mean(0), scale * OPTIMUM / (1 + scale), atol=0.06, rtol=0)
    torch.testing.assert_close(last.latents.var(0), torch.full((1, 3), 1 / (1 + scale)), atol=0.06, rtol=0)


def test_guided_noises_more_of_the_start_with_more_strength():
    starts = torch.randn(500, 1, 3, generator=torch.Generator().manual_seed(1))

    def distance(strength):
        *_, last = METHODS["guided"](gaussian_problem(starts, bowl), 5, strength=strength, scale=0.0)
        return (last.latents - starts).norm() / starts.norm()

    assert 0 < distance(0.03) < distance(0.2) < distance(1.0)


def test_mcmc_draws_from_the_objective_at_its_temperature():
    # Latents are their own data here, so that the proposals are symmetric and Metropolis exact: N(OPTIMUM, 1/2)
    states = list(METHODS["mcmc"](gaussian_problem(torch.zeros(400, 1, 3), bowl), 150, temperature=0.5, step_size=1.0))
    latents = torch.stack([state.latents for state in states[50:]])
    torch.testing.assert_close(latents.mean((0, 1)), OPTIMUM, atol=0.05, rtol=0)
    torch.testing.assert_close(latents.var((0, 1)), torch.full((1, 3), 0.5), atol=0.05, rtol=0)


def test_hill_climbing_goes_to_the_best_of_the_nearest_candidates():
    candidates = [torch.full((1, 3), value) for value in (-3.0, -2.0, -1.0, 0.0, 5.0)]

    def height(latents):
        return latents.flatten(1).sum(1)

    problem = gaussian_problem(torch.tensor([-2.9, 4.0]).view(2, 1, 1).expand(2, 1, 3).contiguous(), height)
    states = list(METHODS["hill_climb"](problem, 4, num_neighbors=2, candidates=candidates))
    path = [state.latents[:, 0, 0].tolist() for state in states]
    # The first goes to -2, sees -1 and 0 next, then what is left; the second finds 5 at once.
    assert [step[0] for step in path] == [-2.0, 0.0, 5.0, 5.0]
    assert [step[1] for step in path] == [5.0] * 4


def test_an_unguided_chain_is_the_pipelines_own(pipe):
    class Stop(Exception):
        pass

    caught = {}

    def catch(problem, num_steps):
        caught["problem"] = problem
        raise Stop

    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(METHODS, "gradient", catch)
        with pytest.raises(Stop):
            pipe.optimize(STARTS, generator=torch.Generator().manual_seed(5))
    *_, last = diffuse(caught["problem"], torch.zeros(3, 1, 8), strength=1.0, num_steps=7)
    drawn = pipe(3, num_inference_steps=7, generator=torch.Generator().manual_seed(5), output_type="latent").latents
    torch.testing.assert_close(last, drawn)


# What every method promises, on real models


def check(pipe, out, starts, index, max_mutations=None, frozen=(), num_steps=3):
    """Assert what holds for any result of `optimize` with the target "higher"."""
    assert out.predictions.dtype == out.latents.dtype == torch.float32
    torch.testing.assert_close(pipe.predict(out.samples), out.predictions)
    torch.testing.assert_close(pipe.encode(out.samples).latents, out.latents)
    assert out.edit_distances.tolist() == [
        Levenshtein.distance(*pair) for pair in zip(starts, out.samples, strict=True)
    ]
    assert (out.predictions[:, index] >= pipe.predict(starts)[:, index] - 1e-5).all()
    for start, sample, prediction, path in zip(starts, out.samples, out.predictions, out.trajectory, strict=True):
        assert len(path) == num_steps + 1 and path[0][0] == start
        found = [entry[1] for entry in path if entry[0] == sample]  # in other batches, which round otherwise
        assert any(torch.allclose(each, prediction, rtol=1e-5, atol=1e-5) for each in found)
        torch.testing.assert_close(max(entry[1][index] for entry in path), prediction[index], rtol=1e-5, atol=1e-5)
        for sequence, _ in path:
            if max_mutations is not None:
                assert Levenshtein.distance(start, sequence) <= max_mutations
            if frozen:
                assert len(sequence) == len(start)
            assert all(sequence[position] == start[position] for position in frozen)


@settings(max_examples=25)
@given(
    method=st.sampled_from(list(METHODS)),
    decoder=st.sampled_from(["conv", "causal"]),
    max_mutations=st.none() | st.integers(0, 5),
    frozen=st.sets(st.integers(0, 9), max_size=4),
    starts=st.lists(st.text("ACDEFGHIKLMNPQRSTVWYX", min_size=10, max_size=LENGTH), min_size=1, max_size=3),
    seed=st.integers(0, 2**16),
)
def test_every_visited_sequence_keeps_the_limits(pipes, method, decoder, max_mutations, frozen, starts, seed):
    out = pipes[decoder].optimize(
        starts,
        method=method,
        property_index=1,
        num_steps=3,
        max_mutations=max_mutations,
        frozen_positions=sorted(frozen),
        generator=torch.Generator().manual_seed(seed),
        **FAR[method],
    )
    check(pipes[decoder], out, starts, 1, max_mutations, frozen)


@pytest.mark.parametrize("method", METHODS)
def test_methods_move_and_improve_on_the_start(any_pipe, method):
    draw = random.Random(0)
    starts = ["".join(draw.choices("ACDEFGHIKLMNPQRSTVWY", k=LENGTH)) for _ in range(24)]
    out = any_pipe.optimize(
        starts, method, property_index=0, num_steps=4, generator=torch.Generator().manual_seed(0), **FAR[method]
    )
    check(any_pipe, out, starts, 0, num_steps=4)
    assert (out.predictions[:, 0] > any_pipe.predict(starts)[:, 0] + 1e-3).any()
    assert out.edit_distances.max() > 0


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_gives_what_its_items_give_with_a_list_of_generators(any_pipe, method):
    arguments = {"method": method, "property_index": 0, "num_steps": 3, "max_mutations": 4, **FAR[method]}
    together = any_pipe.optimize(STARTS, generator=_generators(3), **arguments)
    again = any_pipe.optimize(STARTS, generator=_generators(3), **arguments)
    assert together.samples == again.samples and torch.equal(together.latents, again.latents)
    for row, (start, generator) in enumerate(zip(STARTS, _generators(3), strict=True)):
        alone = any_pipe.optimize(start, generator=[generator], **arguments)
        assert alone.samples == together.samples[row : row + 1]
        assert [entry[0] for entry in alone.trajectory[0]] == [entry[0] for entry in together.trajectory[row]]
        torch.testing.assert_close(alone.predictions, together.predictions[row : row + 1], atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("method", ["guided", "mcmc", "hill_climb"])
def test_one_generator_decides_the_result(pipe, method):
    outs = [
        pipe.optimize(STARTS, method, num_steps=3, generator=torch.Generator().manual_seed(seed), **FAR[method])
        for seed in (0, 0, 1)
    ]
    assert outs[0].trajectory[0][-1][0] == outs[1].trajectory[0][-1][0]
    paths = [[entry[0] for path in out.trajectory for entry in path] for out in outs]
    assert paths[0] == paths[1] != paths[2]


def test_lower_and_target_values_are_sought_in_the_datas_unit(pipe):
    starts = STARTS * 4
    before = pipe.predict(starts)[:, 0]
    arguments = {"method": "hill_climb", "num_steps": 6, **FAR["hill_climb"]}
    lower = pipe.optimize(starts, target="lower", generator=torch.Generator().manual_seed(0), **arguments)
    assert (lower.predictions[:, 0] <= before + 1e-5).all() and lower.predictions.mean() < before.mean() - 0.1
    goals = (0.5 * (lower.predictions + before[:, None]))[:, 0].tolist()
    near = pipe.optimize(starts, target=goals, generator=torch.Generator().manual_seed(0), **arguments)
    errors, errors_before = (near.predictions[:, 0] - torch.tensor(goals)).abs(), (before - torch.tensor(goals)).abs()
    assert (errors <= errors_before + 1e-5).all() and errors.mean() < 0.5 * errors_before.mean()
    single = pipe.optimize(starts, target=0.5, generator=torch.Generator().manual_seed(0), **arguments)
    listed = pipe.optimize(starts, target=[0.5] * 12, generator=torch.Generator().manual_seed(0), **arguments)
    assert single.samples == listed.samples


def test_candidates_are_the_only_sequences_visited_and_the_best_allowed_one_wins(pipe):
    start = "AAAAAAAAAAAA"
    candidates = ["".join(pair) + start[2:] for pair in itertools.product("ACDE", repeat=2)]
    out = pipe.optimize([start], "hill_climb", num_steps=8, num_neighbors=2, candidates=candidates)
    assert {sequence for sequence, _ in out.trajectory[0]} <= {start, *candidates}
    assert out.samples == [candidates[pipe.predict(candidates)[:, 0].argmax()]]

    limited = {"num_steps": 16, "num_neighbors": 1, "max_mutations": 1, "frozen_positions": [0]}
    out = pipe.optimize([start], "hill_climb", candidates=candidates, **limited)
    allowed = [candidate for candidate in candidates if candidate[0] == "A"]
    assert out.samples == [allowed[pipe.predict(allowed)[:, 0].argmax()]]


def test_gradients_do_not_reach_the_weights_and_the_models_state_stays(pipe):
    before = {name: tensor.clone() for name, tensor in pipe.model.state_dict().items()}
    for method in METHODS:
        pipe.optimize(STARTS, method, num_steps=2, **FAR[method])
    assert all(parameter.grad is None for parameter in pipe.model.parameters())
    assert all(torch.equal(before[name], tensor) for name, tensor in pipe.model.state_dict().items())


def test_works_under_no_grad_and_on_any_alignment():
    centred = tiny_protein_pipe(num_properties=1, alignment="center")
    with torch.no_grad():
        out = centred.optimize(STARTS, num_steps=3, max_mutations=2, frozen_positions=[0, 3], **FAR["gradient"])
    check(centred, out, STARTS, 0, 2, (0, 3))


@pytest.mark.parametrize("method", METHODS)
def test_works_on_text(make_pipe, method):
    model = tiny_model(num_properties=1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2)
    pipe, starts = make_pipe(model), [*SENTENCES[:2], "a"]
    out = pipe.optimize(starts, method, num_steps=3, **FAR[method])
    check(pipe, out, starts, 0)
    out = pipe.optimize(starts, method, num_steps=3, max_mutations=3, frozen_positions=[0], **FAR[method])
    check(pipe, out, starts, 0, 3, (0,))


# The limits


def test_the_surest_mutations_are_kept_and_the_others_reverted():
    def log_odds(latents, starts, sequences):
        return [[0.1, 3.0, -2.0, 5.0, 4.0] for _ in sequences]

    limits = SequenceLimits(["AAAAA", "GGGGG"], 2, [3], log_odds)
    latents = torch.zeros(2, 1, 1)
    assert limits.apply(["CCCCC", "GGCGG"], latents) == ["ACAAC", "GGCGG"]


def test_the_decoder_is_asked_about_single_mutations_alike_with_both_decoders(pipes, monkeypatch):
    start, sequence = STARTS[0], "WCDWFGHIKLMW"
    for pipe in pipes.values():
        latents = torch.randn(1, 1, 8)
        (odds,) = optimization._log_odds(pipe.model, pipe.processor, latents, [start], [sequence])
        with torch.no_grad():
            nats = {}
            for protein in (start, *(start[:i] + sequence[i] + start[i + 1 :] for i in (0, 3, 11))):
                nats[protein] = pipe.model.decoder(latents, labels=pipe.processor([protein])["labels"])[0].item()
        mutants = [nats[key] for key in list(nats)[1:]]
        found = [odds[i] for i in (0, 3, 11)]
        # up to a constant that all positions share
        torch.testing.assert_close(torch.tensor(found).diff(), -torch.tensor(mutants).diff(), atol=1e-4, rtol=1e-4)


def test_a_sequence_of_another_length_is_kept_or_rejected_as_it_is():
    limits = SequenceLimits(["AAAAA"], 1, None, None)
    latents = torch.zeros(3, 1, 1)
    assert limits.apply(["AAAA", "AAA", "AAAAAA"], latents) == ["AAAA", None, "AAAAAA"]
    frozen = SequenceLimits(["AAAAA"], None, [0], None)
    assert frozen.apply(["AAAA", "CCCCC", "AAAAAA"], latents) == [None, "ACCCC", None]


def test_padding_within_a_sequence_becomes_the_starts_residue():
    limits = SequenceLimits(["ACDEF"], None, None, None, forbidden="-")
    assert limits.apply(["A-DWF", "A-D"], torch.zeros(2, 1, 1)) == ["ACDWF", None]


def test_a_shift_within_the_trust_region_is_kept():
    limits = SequenceLimits(["ACDEF"], 2, None, None)
    assert limits.apply(["CDEFA"], torch.zeros(1, 1, 1)) == ["CDEFA"]  # two edits, five differing positions


# Bad input


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"method": "magic"}, ValueError, "`method` must be one of .*'gradient'.* got 'magic'"),
        ({"method": None}, ValueError, "`method` must be one of"),
        ({"method": "mcmc", "strength": 1.0}, TypeError, "takes .*'step_size', 'temperature'.* got .*'strength'"),
        ({"num_steps": 0}, ValueError, "`num_steps` must be an integer in \\[1, 1000000\\], got 0"),
        ({"num_steps": True}, ValueError, "`num_steps`"),
        ({"max_mutations": -1}, ValueError, "`max_mutations` must be an integer of at least 0 or None, got -1"),
        ({"max_mutations": 1.5}, ValueError, "`max_mutations`"),
        ({"frozen_positions": [11]}, ValueError, r"`frozen_positions` must be in \[0, 10\).* got \[11\]"),
        ({"frozen_positions": [-1]}, ValueError, "`frozen_positions`"),
        ({"frozen_positions": ["A"]}, ValueError, "`frozen_positions` must be a list of which each is an integer"),
        ({"frozen_positions": 3}, ValueError, "`frozen_positions` must be a list of which each is an integer"),
        ({"target": math.nan}, ValueError, "`target` must be a finite number"),
        ({"target": [0.0, math.inf, 0.0]}, ValueError, "`target` must be a finite number"),
        ({"target": [0.0]}, ValueError, "`target` must be one number or one for each of 3 data, got 1"),
        ({"target": "best"}, ValueError, "`target` must be .* 'higher', 'lower', got 'best'"),
        ({"target": ["higher"] * 3}, ValueError, "`target` must be"),
        ({"target": True}, ValueError, "`target` must be"),
        ({"property_index": 1}, ValueError, r"`property_index` must be an integer in \[0, 1\), got 1"),
        ({"property_index": -1}, ValueError, "`property_index`"),
        ({"generator": _generators(2)}, ValueError, "`generator` must hold one generator for each of 3 data, got 2"),
        ({"generator": 0}, TypeError, "`generator` must be a torch.Generator"),
        ({"step_size": 0}, ValueError, "`step_size` must be a finite number above 0, got 0"),
        ({"step_size": math.nan}, ValueError, "`step_size`"),
        ({"method": "ode", "scale": 1e38}, ValueError, "choose a smaller `step_size` or `scale`"),
        ({"project": -0.1}, ValueError, r"`project` must be a finite number in \[0, 1\]"),
        ({"project": 0.5, "project_every": 0}, ValueError, "`project_every`"),
        ({"project": 0.01, "project_every": 1, "project_steps": 11}, ValueError, "`project_steps` must be at most 10"),
        ({"method": "guided", "strength": -0.5}, ValueError, r"`strength` must be a finite number in \(0, 1\]"),
        ({"method": "guided", "strength": 0}, ValueError, "`strength`"),
        ({"method": "guided", "strength": 1.5}, ValueError, "`strength`"),
        ({"method": "guided", "scale": -1.0}, ValueError, "`scale` must be a finite number of at least 0, got -1.0"),
        ({"method": "guided", "strength": 0.01, "num_steps": 11}, ValueError, "`num_steps` must be at most 10, .* 11"),
        ({"method": "mcmc", "temperature": -1.0}, ValueError, "`temperature` must be a finite number of at least 0"),
        ({"method": "mcmc", "temperature": "hot"}, ValueError, "`temperature`"),
        ({"method": "hill_climb", "num_neighbors": 0}, ValueError, "`num_neighbors`"),
        ({"method": "hill_climb", "candidates": []}, ValueError, "`candidates` must hold at least one"),
        ({"method": "hill_climb", "candidates": ["ACB"]}, ValueError, "`candidates` must consist of"),
        ({"method": "ode", "solver": "dopri5"}, ValueError, "`solver` must be one of .*'rk4'.* got 'dopri5'"),
        ({"method": "ode", "scale": -1}, ValueError, "`scale`"),
    ],
)
def test_bad_arguments_are_named(pipe, arguments, error, message):
    with pytest.raises(error, match=message):
        pipe.optimize(STARTS, **arguments)


def test_bad_data_are_named(pipe):
    with pytest.raises(ValueError, match="`data` must consist of"):
        pipe.optimize(["AB1"])
    with pytest.raises(ValueError, match="`data` must hold at least one"):
        pipe.optimize([])


def test_a_model_without_a_property_head_is_refused():
    with pytest.raises(ValueError, match="needs a model with a property head"):
        tiny_protein_pipe(num_properties=0).optimize(STARTS)


def test_with_several_properties_one_must_be_named(any_pipe):
    with pytest.raises(ValueError, match="`property_index` must be given: the model predicts 2 properties"):
        any_pipe.optimize(STARTS)


def test_targets_outside_what_training_saw_are_warned_of(pipe, monkeypatch):
    warnings = []
    monkeypatch.setattr(guidance.logger, "warning", warnings.append)
    pipe.optimize(STARTS, target=2.0, num_steps=1)
    assert not warnings
    pipe.optimize(STARTS, target=[0.0, 7.0, -4.0], num_steps=1)
    (warning,) = warnings
    assert "7 is outside what training saw, -1 to 3" in warning


def test_nothing_that_cannot_be_made_is_proposed():
    """Neither padding nor X, of which nobody can make a protein; what a start holds already may stay."""
    limits = SequenceLimits(["ACDEF", "AXDEF"], None, None, None, forbidden="-X")
    latents = torch.zeros(2, 1, 8)
    assert limits.apply(["AXDWF", "XXDWF"], latents) == ["ACDWF", "AXDWF"]
    assert limits.apply(["AXD", "ACD"], latents) == [None, "ACD"]
    assert limits.allow("AXDWF") == [False, False]
    pipe = tiny_protein_pipe()
    for method in METHODS:
        out = pipe.optimize(
            STARTS,
            method=method,
            property_index=0,
            num_steps=3,
            generator=torch.Generator().manual_seed(0),
            **FAR.get(method, {}),
        )
        assert not any("X" in sample or "-" in sample for sample in out.samples), (method, out.samples)
