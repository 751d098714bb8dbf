import pytest
import torch
import transformers
from conftest import DECODERS, SPECIAL_IDS, VOCAB_SIZE, enable_checkpointing, tiny_config, tiny_model
from packaging.version import Version
from torch import nn
from transformers import GenerationConfig, GenerationMixin

from hf_eddpm import EDDPMModel
from hf_eddpm.modalities.tokens import _nats, cache_argument

CONDITIONINGS = {
    "prefix": {},
    "prefix of three vectors each": {"decoder_prefix_length": 3},
    "memory": {"decoder_conditioning": "memory"},
}
MAMBA = {
    "model_type": "mamba",
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "state_size": 4,
    **SPECIAL_IDS,
}
every_decoder = pytest.mark.parametrize("decoder", DECODERS)
every_conditioning = pytest.mark.parametrize("conditioning", CONDITIONINGS)


def _talkative(decoder="llama", conditioning="prefix", **values):
    """A model whose next token depends on the tokens before it, on their positions and on the latents alike."""
    model = tiny_model(decoder=decoder, **CONDITIONINGS[conditioning], **values)
    backbone = model.decoder.backbone
    with torch.no_grad():
        for name, parameter in backbone.named_parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=1.0 if "wpe" in name else 0.4)
        if backbone.get_output_embeddings().weight is backbone.get_input_embeddings().weight:
            # With tied embeddings a model of random weights repeats its input.
            backbone.config.tie_word_embeddings = False
            layer = backbone.get_output_embeddings()
            layer.weight = nn.Parameter(0.4 * torch.randn(layer.weight.shape, generator=_seeded(5)))
    return model


def _seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def _latents(rows=3, seed=0):
    return torch.randn(rows, 2, 8, generator=_seeded(seed))


def _labels(rows=3, length=6):
    labels = torch.randint(3, VOCAB_SIZE, (rows, length), generator=_seeded(1))
    for row in range(rows):
        labels[row, length - row :] = -100
    return labels


def _greedy_from_scratch(decoder, latents, num_tokens):
    """Greedy decoding without cache or `generate()`: all logits anew for every token."""
    pad, end = SPECIAL_IDS["pad_token_id"], SPECIAL_IDS["eos_token_id"]
    tokens = torch.empty(len(latents), 0, dtype=torch.long)
    ended = torch.zeros(len(latents), dtype=torch.bool)
    for position in range(num_tokens):
        labels = torch.cat([tokens, torch.full((len(latents), 1), pad)], dim=1)
        chosen = decoder.logits(latents, labels)[:, position].argmax(-1).masked_fill(ended, pad)
        tokens = torch.cat([tokens, chosen.unsqueeze(1)], dim=1)
        ended |= chosen == end
    return tokens


# ------------------------------------------------------------------------------------------------------ decoder


def test_the_cache_has_the_name_that_the_installed_release_of_transformers_gives_it():
    def until_5_23(input_ids, past_key_values=None): ...

    def since_5_24(input_ids, cache=None, **kwargs): ...

    assert cache_argument(until_5_23) == "past_key_values"
    assert cache_argument(since_5_24) == "cache"
    renamed = Version(transformers.__version__) >= Version("5.24")
    assert cache_argument(GenerationMixin.prepare_inputs_for_generation) == ("cache" if renamed else "past_key_values")
    backbone = tiny_model(decoder="gpt2").decoder.backbone
    assert cache_argument(backbone.forward) == cache_argument(GenerationMixin.prepare_inputs_for_generation)


@every_decoder
@every_conditioning
def test_a_training_step_gives_finite_gradients_everywhere(decoder, conditioning, batch):
    model = tiny_model(decoder=decoder, **CONDITIONINGS[conditioning]).train()
    model(**batch).loss.backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    torch.optim.SGD(model.parameters(), lr=1e-2).step()
    assert torch.isfinite(model(**batch).loss)


@every_decoder
@every_conditioning
@torch.no_grad()
def test_greedy_decoding_with_the_cache_equals_decoding_without(decoder, conditioning):
    model, latents = _talkative(decoder, conditioning), _latents(4)
    expected = _greedy_from_scratch(model.decoder, latents, 10)
    generated = model.decode(latents, max_new_tokens=10)
    assert generated.tolist() == expected.tolist()
    assert len({tuple(row) for row in generated.tolist()}) > 1  # the latents matter
    assert max(len(set(row)) for row in generated.tolist()) > 3  # and so does what came before


def test_a_prefix_of_several_vectors_begins_as_wide_as_torch_makes_it():
    layer = EDDPMModel(tiny_config(latent_dim=128, decoder_prefix_length=8)).decoder.prefix_projection
    assert layer.weight.std().item() == pytest.approx(nn.Linear(128, 512).weight.std().item(), rel=0.05)
    single = EDDPMModel(tiny_config(latent_dim=128)).decoder.prefix_projection
    assert single.weight.std().item() == pytest.approx(0.02, rel=0.1)


def test_padded_labels_cost_nothing_on_other_devices_either():
    """What runs where the host must not wait for the device, on the CPU."""
    logits, labels = torch.randn(3, 5, 11), torch.randint(0, 11, (3, 5))
    labels[0, 3:] = labels[2, 1:] = -100
    nats = _nats(logits, labels)
    counted = labels != -100
    assert torch.equal(nats[~counted], torch.zeros(int((~counted).sum())))
    expected = nn.functional.cross_entropy(logits[counted], labels[counted], reduction="none")
    torch.testing.assert_close(nats[counted], expected)


@every_decoder
@every_conditioning
@torch.no_grad()
def test_nats_are_the_cross_entropy_of_the_logits(decoder, conditioning):
    model, latents, labels = _talkative(decoder, conditioning), _latents(), _labels()
    nats, num_tokens = model.decoder(latents, labels)
    logits = model.decoder.logits(latents, labels)
    assert logits.shape == (*labels.shape, VOCAB_SIZE)
    expected = nn.functional.cross_entropy(logits.transpose(1, 2), labels, reduction="none").sum(1)
    torch.testing.assert_close(nats, expected, rtol=1e-4, atol=1e-4)
    assert num_tokens.tolist() == [6, 5, 4]


@every_decoder
@every_conditioning
@torch.no_grad()
def test_the_logits_see_no_later_token(decoder, conditioning):
    model, latents, labels = _talkative(decoder, conditioning), _latents(), _labels().clamp(min=3)
    changed = labels.clone()
    changed[:, 3] = (changed[:, 3] + 1).clamp(3, VOCAB_SIZE - 1)
    before, after = model.decoder.logits(latents, labels), model.decoder.logits(latents, changed)
    torch.testing.assert_close(after[:, :4], before[:, :4])
    assert (after[:, 4:] - before[:, 4:]).abs().max() > 1e-2


@every_conditioning
@torch.no_grad()
def test_every_latent_reaches_the_decoder(conditioning):
    model, labels = _talkative(conditioning=conditioning), _labels(1)
    latents = _latents(1)
    nats = model.decoder(latents, labels)[0]
    for index in range(2):
        changed = latents.clone()
        changed[:, index] += 0.1
        assert (model.decoder(changed, labels)[0] - nats).abs() > 1e-3


@every_conditioning
@pytest.mark.parametrize(
    "arguments", [{}, {"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}, {"do_sample": True, "top_k": 1}]
)
def test_a_batch_decodes_as_its_items_do(conditioning, arguments):
    model, latents = _talkative(conditioning=conditioning), _latents(4)
    returned = arguments.get("num_return_sequences", 1)
    together = model.decode(latents, max_new_tokens=8, min_new_tokens=8, **arguments)
    alone = [model.decode(latents[row : row + 1], max_new_tokens=8, min_new_tokens=8, **arguments) for row in range(4)]
    assert together.shape == (4 * returned, 8)
    assert together.tolist() == torch.cat(alone).tolist()


@every_conditioning
@torch.no_grad()
def test_beams_find_sequences_at_least_as_likely_as_greedy_decoding(conditioning):
    model, latents = _talkative(conditioning=conditioning), _latents(6)
    lengths = {"max_new_tokens": 4, "min_new_tokens": 4}
    greedy = model.decoder(latents, model.decode(latents, **lengths))[0]
    beams = model.decoder(latents, model.decode(latents, num_beams=20, **lengths))[0]
    assert (beams <= greedy + 1e-3).all() and (beams < greedy - 1e-2).any()


@every_conditioning
def test_several_returned_sequences_belong_to_their_datum(conditioning):
    model, latents = _talkative(conditioning=conditioning), _latents(3)
    greedy = model.decode(latents, max_new_tokens=6)
    several = model.decode(latents, max_new_tokens=6, do_sample=True, top_k=1, num_return_sequences=4)
    assert several.tolist() == greedy.repeat_interleave(4, dim=0).tolist()
    varied = model.decode(latents, max_new_tokens=6, do_sample=True, temperature=3.0, num_return_sequences=4)
    assert varied.shape == (12, 6)
    assert len({tuple(row) for row in varied.tolist()}) == 12


@every_conditioning
def test_sampling_repeats_itself_under_the_same_seed(conditioning):
    model, latents = _talkative(conditioning=conditioning), _latents(3)

    def sample(seed):
        torch.manual_seed(seed)
        return model.decode(latents, max_new_tokens=6, do_sample=True, temperature=3.0).tolist()

    assert sample(0) == sample(0)
    assert sample(0) != sample(1)


@every_conditioning
def test_a_generation_config_is_honoured_and_left_as_it_was(conditioning):
    model, latents = _talkative(conditioning=conditioning), _latents(3)
    greedy = model.decode(latents, max_new_tokens=6)
    config = GenerationConfig(max_new_tokens=4, num_beams=2, num_return_sequences=2, do_sample=False)
    before = config.to_dict()
    assert model.decode(latents, generation_config=config).shape == (6, 4)
    assert model.decode(latents, generation_config=config, max_new_tokens=3).shape == (6, 3)
    assert config.to_dict() == before

    end = greedy[0, 2].item()  # an end token of the user's own
    first = greedy[0].tolist().index(end)
    stopped = model.decode(latents[:1], generation_config=GenerationConfig(eos_token_id=end, max_new_tokens=6))
    assert stopped.tolist() == [greedy[0, : first + 1].tolist()]


@every_conditioning
def test_decoding_stops_at_the_end_token_and_pads_on_the_right(conditioning):
    model, latents = _talkative(conditioning=conditioning), _latents(4)
    free = model.decode(latents, max_new_tokens=6)
    end = free[0, 1].item()
    model.decoder.backbone.config.eos_token_id = end
    for row, tokens in zip(model.decode(latents, max_new_tokens=6).tolist(), free.tolist(), strict=True):
        length = tokens.index(end) + 1 if end in tokens else 6
        assert row[:length] == tokens[:length]
        assert set(row[length:]) <= {SPECIAL_IDS["pad_token_id"]}


def test_decoding_leaves_no_hook_behind():
    model = _talkative()
    embeddings = model.decoder.backbone.get_input_embeddings()
    model.decode(_latents(), max_new_tokens=2)
    with pytest.raises(ValueError):
        model.decode(_latents(), max_new_tokens=-1)
    assert not embeddings._forward_hooks
    model.decoder(_latents(), _labels())
    assert not model.decoder.backbone.get_output_embeddings()._forward_pre_hooks


def test_without_a_cache_a_prefix_decodes_the_same():
    model, latents = _talkative(), _latents()
    cached = model.decode(latents, max_new_tokens=6)
    assert model.decode(latents, max_new_tokens=6, use_cache=False).tolist() == cached.tolist()


def test_memory_without_a_cache_is_refused():
    model = _talkative(conditioning="memory")
    with pytest.raises(ValueError, match="`use_cache`"):
        model.decode(_latents(), max_new_tokens=6, use_cache=False)


def test_memory_with_activation_checkpointing_is_refused(batch):
    model = tiny_model(decoder_conditioning="memory").train()
    enable_checkpointing(model)
    with pytest.raises(ValueError, match="`decoder_conditioning` 'memory'.*checkpointing"):
        model(**batch)


def test_memory_is_refused_for_a_family_without_a_cache():
    with pytest.raises(ValueError, match="`decoder_conditioning` 'memory'.*'mamba'.*'prefix'"):
        EDDPMModel(tiny_config(decoder=MAMBA, decoder_conditioning="memory"))


@torch.no_grad()
def test_a_family_without_a_cache_decodes_from_a_prefix(batch):
    model = tiny_model(decoder=MAMBA)
    assert torch.isfinite(model(**batch).loss)
    latents = _latents()
    expected = _greedy_from_scratch(model.decoder, latents, 5)
    assert model.decode(latents, max_new_tokens=5).tolist() == expected.tolist()


def test_a_decoder_without_start_and_end_token_is_refused():
    config = tiny_config()
    config.decoder.bos_token_id = config.decoder.eos_token_id = None
    with pytest.raises(ValueError, match="`bos_token_id` or an `eos_token_id`"):
        EDDPMModel(config).decoder(_latents(), _labels())


def test_the_start_token_is_the_end_token_where_there_is_no_other():
    config = tiny_config()
    config.decoder.bos_token_id = None
    assert EDDPMModel(config).decoder.start_token_id == SPECIAL_IDS["eos_token_id"]
    assert EDDPMModel(tiny_config()).decoder.start_token_id == SPECIAL_IDS["bos_token_id"]


@every_conditioning
@torch.no_grad()
def test_word_dropout_blanks_the_tokens_before_in_training_only(conditioning):
    model = _talkative(conditioning=conditioning, decoder_word_dropout=0.9999)
    latents, labels = _latents(2), _labels(2)[:, :4].clamp(min=3)
    other = labels.clone()
    other[:, :3] = other[:, :3].roll(1, 0)  # same last token after another history

    def last(labels):
        return model.decoder.logits(latents, labels)[:, -1]

    assert not torch.allclose(last(labels), last(other), atol=1e-2)
    assert torch.equal(last(labels), last(labels))
    start = model.decoder.logits(latents, labels)[:, 0]
    model.train()
    torch.testing.assert_close(last(labels), last(other))
    torch.testing.assert_close(model.decoder.logits(latents, labels)[:, 0], start)  # the start token stays


# ------------------------------------------------------------------------------------------------------ encoder


@pytest.mark.parametrize("pooling", ["mean", "attention"])
@torch.no_grad()
def test_pooling_ignores_padding(pooling):
    encoder = tiny_model(pooling=pooling).encoder
    ids = torch.randint(3, VOCAB_SIZE, (2, 5), generator=_seeded())
    features = encoder(ids)
    for junk in (0, 7):
        padded = torch.cat([ids, torch.full((2, 3), junk)], dim=1)
        mask = torch.tensor([[1] * 5 + [0] * 3] * 2)
        torch.testing.assert_close(encoder(padded, mask), features)
    assert not torch.allclose(encoder(padded), features, atol=1e-3)  # it is the mask that does it


@torch.no_grad()
def test_mean_pooling_is_the_mean_of_the_backbones_states():
    encoder = tiny_model().encoder
    ids = torch.randint(3, VOCAB_SIZE, (2, 5), generator=_seeded())
    states = encoder.backbone(input_ids=ids).last_hidden_state
    torch.testing.assert_close(encoder(ids), states.mean(1, keepdim=True).expand(-1, 2, -1))


@torch.no_grad()
def test_attention_pooling_weighs_the_states_by_each_query():
    encoder = tiny_model(pooling="attention").encoder
    ids = torch.randint(3, VOCAB_SIZE, (2, 5), generator=_seeded())
    states = encoder.backbone(input_ids=ids).last_hidden_state
    for index, query in enumerate(encoder.queries.weight):
        weights = (states @ query).softmax(-1)
        torch.testing.assert_close(encoder(ids)[:, index], (weights.unsqueeze(-1) * states).sum(1))


def test_the_encoder_has_no_parameter_without_use():
    names = [name for name, _ in tiny_model().encoder.named_parameters()]
    assert not [name for name in names if "pooler" in name or "queries" in name]


@pytest.mark.parametrize("family", ["roberta", "distilbert", "llama"])
def test_encoders_of_other_families_work(family, batch):
    values = {"vocab_size": VOCAB_SIZE, **SPECIAL_IDS}
    shape = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 64}
    if family == "distilbert":
        shape = {"dim": 32, "n_layers": 1, "n_heads": 4, "hidden_dim": 64}
    model = tiny_model(encoder={"model_type": family, **values, **shape})
    model(**batch).loss.backward()
    assert [name for name, parameter in model.encoder.named_parameters() if parameter.grad is None] == []


def test_attention_pooling_trains_under_autocast(batch):
    model = tiny_model(pooling="attention").train()
    with torch.autocast("cpu", torch.bfloat16):
        model(**batch).loss.backward()
    assert bool(model.encoder.queries.weight.grad.isfinite().all())
    assert bool(model.encoder.queries.weight.grad.any())
