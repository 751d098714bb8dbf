"""Every argument of every public method, given what it must not be: an error names it, nothing passes in silence.

What is allowed is written here by the kind of argument, apart from the annotations that the package itself checks by.
A call that returns although its value is not allowed is silent; one that fails without naming the argument is
unhelpful; one that takes longer than `PATIENCE` hangs.
"""

import collections
import inspect
import math
import signal
import threading

import numpy as np
import pytest
import torch
from conftest import SENTENCES, tiny_config, tiny_model
from images import tiny_image_pipe
from proteins import tiny_protein_pipe

from hf_eddpm import (
    ClassifierGuidance,
    EDDPMImageProcessor,
    EDDPMProteinProcessor,
    EDDPMScheduler,
    EnergyGuidance,
    LatentGuide,
    PropertyGuidance,
    SimilarityGuidance,
    linear_direction,
    model_for_data,
    orthogonalize,
    plot_grid,
)

PATIENCE = 20  # seconds
PROTEINS = ["ACDEFGHI", "KLMN"]


class Something:
    def __repr__(self):
        return "something"


def _pool(shape):
    """Values of all sorts, among them tensors near `shape` that are wrong in one respect."""
    tensor = torch.zeros(shape)
    return [
        *(True, False, 0, 1, -1, 3, 10**12, 0.5, -0.5, 2.5, 1e30, math.nan, math.inf, 1j),
        *("no", "", "higher", b"bytes", [], [0], ["a"], [math.nan], [True], (), {}, {"a": 1}, Something(), print),
        *(np.int64(2), np.float32(0.5), np.bool_(True), np.array([1, 2]), np.array(["a"]), np.array([math.nan])),
        *(torch.tensor(1), torch.tensor(0.5), torch.Generator().manual_seed(0), [torch.Generator()]),
        *(tensor, tensor.bool(), tensor.int(), tensor.to(torch.complex64), tensor + math.nan, tensor[:0]),
        *(tensor[..., :-1], tensor[None], torch.Size([2]), range(2), None),
    ]


# What is allowed, by kind: True, False, or None where either is right.


def _number(value):
    return isinstance(value, (int, float, np.integer, np.floating)) and not isinstance(value, bool)


def number(low=-math.inf, high=math.inf, above=-math.inf):
    return lambda value: _number(value) and math.isfinite(value) and low <= value <= high and value > above


def count(low=1, high=math.inf):
    def allowed(value):
        return isinstance(value, (int, np.integer)) and not isinstance(value, bool) and low <= value <= high

    return allowed


def flag(value):
    return isinstance(value, (bool, np.bool_))


def choice(*names):
    return lambda value: isinstance(value, str) and value in names


def tensor(*shape, batch=True):
    def allowed(value):
        if not isinstance(value, torch.Tensor) or not value.is_floating_point() or not bool(value.isfinite().all()):
            return False
        return tuple(value.shape[1 if batch else 0 :]) == shape and len(value) > 0

    return allowed


def generators(batch):
    def allowed(value):
        listed = isinstance(value, list) and len(value) == batch
        return isinstance(value, torch.Generator) or (
            listed and all(isinstance(each, torch.Generator) for each in value)
        )

    return allowed


def words(value):
    listed = [value] if isinstance(value, str) else list(value) if isinstance(value, (list, tuple, np.ndarray)) else []
    return len(listed) > 0 and all(isinstance(each, str) and each.strip() for each in listed)


def residues(value):
    return None if words(value) else False


def picture(value):
    return None if isinstance(value, (np.ndarray, torch.Tensor)) else False


def classes(num_classes, batch):
    def allowed(value):
        if isinstance(value, torch.Tensor):
            return None if value.dtype in (torch.int64, torch.int32) else False
        if isinstance(value, (list, tuple, range, np.ndarray)):
            return None if len(value) == batch and all(map(count(0, num_classes - 1), value)) else False
        return count(0, num_classes - 1)(value)

    return allowed


def numbers(value):
    listed = isinstance(value, (list, tuple, range, np.ndarray))
    return None if listed and len(value) and all(map(number(), value)) else False


def integers(value):
    return None if isinstance(value, (list, tuple, range, np.ndarray)) and all(map(count(0), value)) else False


def function(value):
    return None if callable(value) else False


def target(value):
    return True if value in ("higher",) else None if number()(value) or numbers(value) is None else False


def either(value):
    return None


def steps(most):
    return count(1, most)


SIZES = {"batch_size": count()}
CHAIN = {"num_inference_steps": steps(1000), "eta": number(0, 1)}
GENERATION = {
    "do_sample": flag,
    "num_beams": count(1, 8),
    "max_new_tokens": count(1, 60),
    "num_return_sequences": count(1, 4),
    "top_k": count(0),
    "repetition_penalty": number(above=0),
}


def text_targets():
    model = tiny_model(num_classes=2)
    from hf_eddpm import EDDPMPipeline, EDDPMTextProcessor
    from hf_eddpm.modalities.text.fitting import train_tokenizer

    processor = EDDPMTextProcessor(train_tokenizer(SENTENCES, 300), max_length=16)
    pipe = EDDPMPipeline(model, EDDPMScheduler(**model.config.scheduler_config), processor)
    pipe.set_progress_bar_config(disable=True)
    shape = (2, 8)
    latents, direction = tensor(*shape), tensor(*shape, batch=False)
    few = {"num_inference_steps": 2}
    sampling = {"do_sample": True, "max_new_tokens": 4}
    data = {"data": SENTENCES[:2]}
    call = {
        **CHAIN,
        "num_samples": count(1, 10**9),
        "noise_scale": number(above=0, high=1000),
        "num_candidates": count(1, 10**6),
        "class_labels": classes(2, 2),
        "generator": generators(2),
        "latents": latents,
        "output_type": choice("data", "latent"),
        "callback_on_step_end": lambda value: None if callable(value) else False,
        "return_dict": flag,
        **GENERATION,
    }
    yield "text()", pipe, {"num_samples": 2, **few, "max_new_tokens": 4}, call, shape
    yield (
        "text() of a class",
        pipe,
        {"num_samples": 2, **few, "class_labels": 1},
        {"guidance_scale": number(0, 1000)},
        shape,
    )
    chosen = {"redundancy_penalty": number(0)}
    yield (
        "text() of candidates",
        pipe,
        {"num_samples": 2, "num_candidates": 2, **few, "max_new_tokens": 4},
        chosen,
        shape,
    )
    drawn = {"temperature": number(above=0), "top_p": number(above=0, high=1)}
    yield "text() drawn", pipe, {"num_samples": 2, **few, **sampling}, drawn, shape
    refined = {"data": words, **SIZES, "refinement_steps": count(0, 20)}
    yield "encode", pipe.encode, data, refined, shape
    yield (
        "decode",
        pipe.decode,
        {"latents": torch.zeros(2, 2, 8)},
        {"latents": latents, **SIZES, "output_type": choice("data"), **GENERATION},
        shape,
    )
    again = {**refined, "num_reconstructions": count(1, 20), "invert_noise": lambda v: v in (False, np.bool_(False))}
    yield "reconstruct", pipe.reconstruct, data, {**again, "invert_noise": not_true}, shape
    path = {
        "a": words_of(2),
        "b": words_of(2),
        "num_steps": count(2, 100),
        "mode": choice("slerp", "lerp"),
        "space": choice("noise", "latents"),
        "num_inference_steps": steps(100),
        "invert_noise": not_true,
    }
    yield (
        "interpolate",
        pipe.interpolate,
        {"a": SENTENCES[:2], "b": SENTENCES[2:4], "num_inference_steps": 3},
        path,
        shape,
    )
    inverse = {"num_inference_steps": steps(100), "num_refinements": count(0, 10), "class_labels": classes(2, 2)}
    yield "invert", pipe.invert, {**data, "num_inference_steps": 3}, inverse, shape
    scored = {"data": words, "num_timesteps": count(1, 100), "generator": generators(0), "class_labels": classes(2, 2)}
    yield "score", pipe.score, {**data, "num_timesteps": 2}, {**scored, **SIZES}, shape
    sides = {"positives": SENTENCES[:2], "negatives": SENTENCES[2:4]}
    facing = {
        "positives": words_or_none,
        "negatives": words_or_none,
        "method": choice("mean", "linear"),
        "orthogonal_to": either_tensor,
    }
    yield "direction", pipe.direction, sides, facing, shape
    found = {"data": words_or_none, "num_directions": count(1, 16), "method": choice("pca", "jacobian"), **SIZES}
    yield "directions", pipe.directions, data, found, shape
    walk = {"data": words, "directions": either_tensor, "scales": numbers, "invert_noise": not_true}
    yield "traverse", pipe.traverse, {**data, "directions": torch.ones(2, 8), "scales": [0.0]}, walk, shape
    yield "aggregate", pipe.aggregate, data, {"data": words, "refinement_steps": count(0, 20)}, shape
    yield "similarity", pipe.similarity, {"a": SENTENCES[:2], "b": SENTENCES[2:4]}, {"a": words_of(2), **SIZES}, shape
    moved = {"data": words, "direction": direction, "scale": number(), "refinement_steps": count(0, 20)}
    yield "edit", pipe.edit, {**data, "direction": torch.ones(2, 8)}, {**moved, "invert_noise": not_true}, shape
    noised = {**CHAIN, "strength": number(above=0, high=1), "generator": generators(2), "class_labels": classes(2, 2)}
    yield "edit by noise", pipe.edit, {**data, "strength": 0.5, **few}, noised, shape
    terms = EnergyGuidance(lambda z: z.square().flatten(1).sum(1))
    steered = {
        "num_steps": count(1, 100),
        "solver": choice("euler", "midpoint", "heun2", "heun3", "rk4"),
        "guidance": lambda value: False,
        "output_type": choice("data", "latent"),
    }
    yield "steer", pipe.steer, {**data, "guidance": terms, "num_steps": 2}, steered, shape
    yield "guided", pipe, {"num_samples": 2, "guidance": terms, **few}, {"guidance": lambda value: False}, shape
    yield from model_targets(model, shape)


def model_targets(model, shape):
    ids = torch.ones(2, 5, dtype=torch.long)
    inputs = {"input_ids": ids, "attention_mask": ids, "labels": ids}
    yield "model.decode", model.decode, {"latents": torch.zeros(2, *shape)}, {"latents": tensor(*shape)}, shape
    refined = {"latents": tensor(*shape), "num_steps": count(1, 20), "learning_rate": number(above=0)}
    arguments = {"latents": torch.zeros(2, *shape), "num_steps": 1, "labels": ids}
    yield "model.refine", model.refine, arguments, {**refined, "proximity": number(0)}, shape
    bound = {"num_timesteps": count(1, 100), "generator": generators(0)}
    yield "model.bound", model.bound, inputs, bound, shape


def not_true(value):
    return flag(value) and not value


def words_of(number_of_data):
    return lambda value: False if not words(value) else None


def words_or_none(value):
    return None if words(value) else False


def either_tensor(value):
    """A tensor whose numbers are finite may fit; anything else never does."""
    fits = isinstance(value, torch.Tensor) and value.is_floating_point() and bool(value.isfinite().all())
    return None if fits or value in ((), []) else False


def protein_targets():
    pipe = tiny_protein_pipe()
    pipe.set_progress_bar_config(disable=True)
    shape = (1, 6)
    few = {"num_inference_steps": 2}
    yield "protein()", pipe, {"num_samples": 2, **few}, {"do_sample": flag, "generator": generators(2)}, shape
    yield (
        "protein() drawn",
        pipe,
        {"num_samples": 2, **few, "do_sample": True},
        {"temperature": number(above=0)},
        shape,
    )
    yield "predict", pipe.predict, {"data": PROTEINS}, {"data": residues, **SIZES}, shape
    common = {
        "data": residues,
        "method": choice("gradient", "guided", "mcmc", "hill_climb", "ode"),
        "target": target,
        "property_index": count(0, 0),
        "num_steps": count(1, 100),
        "max_mutations": count(0),
        "frozen_positions": integers,
        "generator": generators(2),
    }
    yield "predict with std", pipe.predict, {"data": PROTEINS}, {"return_std": not_true}, shape
    yield from design_targets(shape)
    start = {"data": PROTEINS, "num_steps": 1}
    yield "optimize", pipe.optimize, start, common, shape
    own = {
        "gradient": {
            "step_size": number(above=0),
            "project": number(0, 1),
            "project_every": count(),
            "project_steps": count(),
        },
        "guided": {"strength": number(above=0, high=1), "scale": number(0)},
        "mcmc": {"step_size": number(above=0), "temperature": number(0)},
        "hill_climb": {"step_size": number(above=0), "num_neighbors": count(1, 100), "candidates": residues},
        "ode": {"scale": number(0), "solver": choice("euler", "midpoint", "heun2", "heun3", "rk4")},
    }
    for method, spec in own.items():
        yield f"optimize by {method}", pipe.optimize, {**start, "method": method}, spec, shape
    guided = {"target": target, "property_index": count(0, 0), "scale": number(0)}
    yield (
        "PropertyGuidance",
        lambda **values: pipe(2, 2, guidance=PropertyGuidance(**values)),
        {"target": "higher"},
        guided,
        shape,
    )


def design_targets(shape):
    pipe = tiny_protein_pipe()
    pipe.set_progress_bar_config(disable=True)
    rng = np.random.default_rng(0)
    measured = ["".join(row) for row in rng.choice(list("ACDEKW"), (30, 8))]
    table = {"measured": measured, "values": [float(each.count("W")) for each in measured]}
    number_of_each = {"num_members": count(2, 100), "num_steps": steps(100), "batch_size": count()}
    data = {"data": measured, "properties": table["values"]}
    fitted = {**number_of_each, "data": words_or_none, "properties": lambda value: False, "generator": generators(0)}
    yield "fit_property", pipe.fit_property, {**data, "num_steps": 1, "num_members": 2}, fitted, shape
    motif = lambda value: None if value in ((), []) else False  # noqa: E731
    asked = {
        "starts": residues,
        "measured": words_or_none,
        "values": lambda value: False,
        "num_designs": count(1, 9600),
        "target": target,
        "weights": lambda value: None if numbers(value) is None or isinstance(value, torch.Tensor) else False,
        "wild_type": residues,
        "max_mutations": count(1),
        "frozen_positions": integers,
        "allowed_residues": lambda value: None if value == {} else False,
        "forbidden_motifs": motif,
        "min_distance": count(),
        "min_novelty": count(0),
        "known_sequences": residues,
        "library": residues,
        "methods": lambda value: False,
        "use_latents": flag,
        "exploration": number(0),
        "acquisition": choice("thompson", "ucb"),
        "num_candidates": count(1, 10**4),
        "num_steps": steps(100),
        "generator": generators(0),
    }
    quick = {"num_designs": 2, "methods": ["mutate"], "num_candidates": 5}
    yield "design", pipe.design, {**table, **quick}, asked, shape


def image_targets():
    pipe = tiny_image_pipe()
    pipe.set_progress_bar_config(disable=True)
    shape = (1, 6)
    few = {"num_inference_steps": 2, "num_decoder_steps": 2}
    images = pipe(2, generator=torch.Generator().manual_seed(0), **few).samples
    call = {
        "num_decoder_steps": steps(50),
        "decoder_noise": tensor(1, 8, 8),
        "scheduler": lambda value: value is None,
        "output_type": choice("data", "latent", "pil", "np", "pt"),
    }
    yield "image()", pipe, {"num_samples": 2, **few}, call, (1, 8, 8)
    back = {"data": picture, "num_decoder_steps": steps(50), "num_refinements": count(0, 10), **SIZES}
    yield "invert_decoder", pipe.invert_decoder, {"data": images, "num_decoder_steps": 2}, back, shape
    again = {"data": picture, "invert_noise": flag, "num_reconstructions": count(1, 10)}
    yield "image reconstruct", pipe.reconstruct, {"data": images, "num_decoder_steps": 2}, again, shape
    grid = {"images": lambda value: False, "num_columns": count(), "padding": count(0, 99), "scale": count(1, 99)}
    yield "plot_grid", plot_grid, {"images": images}, grid, shape


def scheduler_targets():
    scheduler = EDDPMScheduler()
    shape = (2, 3)
    sample = torch.zeros(shape)
    of_sample = same_shape(shape)
    times = lambda value: None if isinstance(value, torch.Tensor) else count(0, 999)(value)  # noqa: E731
    whole = lambda value: False if isinstance(value, torch.Tensor) and value.is_floating_point() else times(value)  # noqa: E731
    scheduler.set_timesteps(10)
    step = {"model_output": sample, "timestep": 999, "sample": sample}
    taken = {
        "model_output": of_sample,
        "sample": of_sample,
        "timestep": lambda value: None if whole(value) in (True, None) else False,
        "eta": number(0, 1),
        "generator": generators(2),
        "return_dict": flag,
    }
    yield "step", scheduler.step, step, {**taken, "variance_noise": of_sample}, shape
    back = {name: taken[name] for name in ("model_output", "sample", "timestep", "return_dict")}
    yield "invert_step", scheduler.invert_step, step, back, shape
    timed = {"model_output": sample, "timesteps": 5, "sample": sample}
    yield (
        "predict",
        scheduler.predict,
        timed,
        {"model_output": of_sample, "timesteps": whole, "sample": of_sample},
        shape,
    )
    noised = {"original_samples": sample, "noise": sample, "timesteps": 5}
    spec = {"original_samples": of_sample, "noise": of_sample, "timesteps": whole}
    yield "add_noise", scheduler.add_noise, noised, spec, shape
    velocity = {"sample": sample, "noise": sample, "timesteps": 5}
    spec = {"sample": of_sample, "noise": of_sample, "timesteps": whole}
    yield "get_velocity", scheduler.get_velocity, velocity, spec, shape
    chosen = {"num_inference_steps": 5}
    yield "set_timesteps", EDDPMScheduler().set_timesteps, chosen, {"num_inference_steps": steps(1000)}, shape
    yield (
        "set_timesteps by name",
        EDDPMScheduler().set_timesteps,
        {"timesteps": [5, 1]},
        {"timesteps": integers},
        shape,
    )
    yield "previous_timestep", scheduler.previous_timestep, {"timestep": 999}, {"timestep": taken["timestep"]}, shape
    yield "bound_weights", scheduler.bound_weights, {"timesteps": 5}, {"timesteps": whole}, shape
    made = {
        "num_train_timesteps": count(1, 10**6),
        "beta_start": number(above=0, high=0.999),
        "beta_end": number(above=0, high=0.999),
        "beta_schedule": choice("linear", "scaled_linear", "squaredcos_cap_v2"),
        "prediction_type": choice("epsilon", "sample", "v_prediction"),
        "timestep_spacing": choice("trailing", "leading", "linspace"),
        "clip_sample": flag,
    }
    yield "EDDPMScheduler", EDDPMScheduler, {}, made, shape


def same_shape(shape):
    def allowed(value):
        right = isinstance(value, torch.Tensor) and value.is_floating_point() and tuple(value.shape) == shape
        return None if right else False

    return allowed


def other_targets():
    shape = (4, 3)
    side = torch.eye(4, 3)
    pair = {"positives": side, "negatives": side + 1}
    spec = {"positives": either_tensor, "negatives": either_tensor, "weight_decay": number(above=0)}
    yield "linear_direction", linear_direction, pair, spec, shape
    apart = {"direction": torch.ones(3), "others": [torch.eye(3)[0]]}
    yield "orthogonalize", orthogonalize, apart, {"direction": either_tensor, "others": either_tensor}, (3,)
    scale = {"scale": number(0)}
    yield "EnergyGuidance", EnergyGuidance, {"energy": print}, {**scale, "energy": function}, shape
    yield (
        "ClassifierGuidance",
        ClassifierGuidance,
        {"classifier": print, "target": 0},
        {**scale, "classifier": function},
        shape,
    )
    yield "SimilarityGuidance", SimilarityGuidance, {"example": "a"}, scale, shape
    protein = {
        "length": count(1),
        "min_length": count(1, 20),
        "alignment": choice("left", "center"),
        "stop": flag,
        "upper_case": flag,
    }
    yield "EDDPMProteinProcessor", EDDPMProteinProcessor, {}, protein, shape
    image = {
        "image_size": count(1),
        "num_channels": choice_of(1, 3),
        "resize": choice("none", "stretch", "crop"),
        "value_range": choice("0_1", "-1_1"),
        "background": count(0, 255),
    }
    yield "EDDPMImageProcessor", EDDPMImageProcessor, {}, image, shape
    guide = {
        "num_classes": count(2, 1000),
        "num_latents": count(1, 1000),
        "latent_dim": count(1, 1000),
        "encoder_size": count(1, 1000),
        "hidden_size": count(2, 1000),
        "num_layers": count(1, 100),
        "num_train_steps": count(0),
    }
    valid = {"num_classes": 2, "num_latents": 1, "latent_dim": 4, "encoder_size": 4, "scheduler_config": {}}
    yield "LatentGuide", LatentGuide, valid, guide, shape
    fitted = {"modality": choice("text", "protein", "image"), "seed": count(0), "vocab_size": count(260, 10**5)}
    yield "model_for_data", model_for_data, {"data": SENTENCES, "vocab_size": 300}, fitted, shape
    positive, share = number(above=0), number(0, 1)
    config = {
        **dict.fromkeys(("latent_dim", "num_latents", "denoiser_num_layers", "denoiser_hidden_size"), count()),
        **dict.fromkeys(("num_train_timesteps", "property_hidden_size", "denoiser_samples_per_latent"), count()),
        "decoder_prefix_length": count(),
        **dict.fromkeys(("num_classes", "num_properties"), count(0)),
        **dict.fromkeys(("encoder_noise_variance", "initializer_range"), positive),
        **dict.fromkeys(("encoder_gradient_scale", "label_dropout"), share),
        **dict.fromkeys(("decoder_noise_variance", "diffusion_weight", "property_weight"), number(0)),
        "decoder_word_dropout": number(0, 0.999),
        "beta_start": number(above=0, high=0.999),
        "modality": choice("text"),
        "pooling": choice("mean", "attention"),
        "decoder_conditioning": choice("prefix", "memory"),
        "latent_normalization": choice("batch", "batch_renorm", "none"),
        "denoiser_type": choice("mlp", "transformer"),
        "prediction_type": choice("epsilon", "sample", "v_prediction"),
        "loss_weighting": choice("simple", "elbo"),
        "alignment_target": choice("sample", "mean"),
    }
    del config["num_latents"]  # 10**12 of them are a config's right, and a model's ruin
    yield "EDDPMConfig", lambda **values: tiny_config(**values), {}, config, shape


def choice_of(*values):
    return lambda value: isinstance(value, int) and not isinstance(value, bool) and value in values


class Hang(Exception):
    """A call took longer than `PATIENCE`."""


def _outcome(function, arguments, name, allowed):
    def stop(*_):
        raise Hang

    timed = threading.current_thread() is threading.main_thread()
    if timed:
        signal.signal(signal.SIGALRM, stop)
        signal.alarm(PATIENCE)
    try:
        function(**arguments)
    except Hang:
        return "hang"
    except (TypeError, ValueError, MemoryError) as error:
        return "clear" if name in str(error) or name.replace("_", " ") in str(error) else f"unhelpful: {error}"
    except Exception as error:  # whatever it is, it is not what a user can read
        return f"unhelpful: {type(error).__name__}: {error}"
    finally:
        if timed:
            signal.alarm(0)
    return "silent" if allowed is False else "accepted"


TARGETS = (text_targets, protein_targets, image_targets, scheduler_targets, other_targets)


def _calls(targets):
    for label, function, valid, spec, shape in targets():
        function(**valid)  # what the arguments are changed one by one from
        for name, kind in spec.items():
            parameters = inspect.signature(function).parameters
            optional = name not in parameters or parameters[name].default is None
            for value in _pool((2, *shape) if label not in ("step",) else shape):
                if value is None and (optional or name == "scheduler"):
                    allowed = None
                else:
                    try:
                        allowed = kind(value)
                    except (TypeError, ValueError, RuntimeError):
                        allowed = False
                yield label, function, {**valid, name: value}, name, allowed
        if label != "EDDPMConfig":  # transformers keeps what it does not know, for other tools
            yield label, function, {**valid, "no_such_argument": 1}, "no_such_argument", False


@pytest.mark.slow
@pytest.mark.parametrize("targets", TARGETS, ids=lambda targets: targets.__name__)
def test_wrong_arguments_end_in_errors_that_name_them(targets):
    counts, faults = collections.Counter(), []
    for label, function, arguments, name, allowed in _calls(targets):
        outcome = _outcome(function, arguments, name, allowed)
        kind = outcome.partition(":")[0]
        counts[kind] += 1
        if kind not in ("clear", "accepted"):
            given = " ".join(repr(arguments[name]).split())
            faults.append(f"{label}: {name}={given:.60}: {outcome:.160}")
    print(f"{targets.__name__}: {dict(counts)}")
    assert not faults, f"{len(faults)} of {sum(counts.values())}\n" + "\n".join(faults)
