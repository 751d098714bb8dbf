from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from proteins import CAUSAL_DECODER, DECODERS, ENCODER, LENGTH, PROTEINS, tiny_protein_model, tiny_protein_pipe
from transformers import EsmConfig, EsmModel

from hf_eddpm import EDDPMConfig, EDDPMModel, EDDPMPipeline, ProteinConvConfig, ProteinEncoder
from hf_eddpm.modalities.protein import modeling
from hf_eddpm.modalities.protein.residues import RESIDUES, START_ID, STOP_ID

decoders = pytest.mark.parametrize("decoder", DECODERS.values(), ids=DECODERS)


@decoders
def test_a_batch_of_different_lengths_equals_its_items(decoder):
    pipe = tiny_protein_pipe(decoder=decoder)
    together = pipe.encode(PROTEINS)
    alone = torch.cat([pipe.encode(protein).latents for protein in PROTEINS])
    torch.testing.assert_close(together.latents, alone, atol=1e-5, rtol=1e-5)
    assert pipe.reconstruct(PROTEINS) == [pipe.reconstruct(protein)[0] for protein in PROTEINS]
    scores = pipe.model(**pipe.processor(PROTEINS))
    assert scores.loss.isfinite()


@decoders
def test_generated_proteins_consist_of_residues_and_are_no_longer_than_the_frame(decoder, generator):
    samples = tiny_protein_pipe(decoder=decoder)(num_samples=20, num_inference_steps=3, generator=generator).samples
    assert all(set(sample) <= set(RESIDUES) and 0 < len(sample) <= LENGTH for sample in samples)
    assert len(set(samples)) > 5


@decoders
@given(frozen=st.dictionaries(st.integers(0, LENGTH - 1), st.sampled_from(RESIDUES), max_size=4))
def test_frozen_positions_are_kept_in_generation(decoder, frozen):
    pipe = tiny_protein_pipe(decoder=decoder)
    latents = torch.randn(3, 1, 6, generator=torch.Generator().manual_seed(0))
    tokens = pipe.model.decode(latents, frozen_positions=frozen, **pipe.processor.decode_arguments)
    symbols = {token: residue for residue, token in zip(RESIDUES, range(3, 3 + len(RESIDUES)), strict=True)}
    for row in tokens.tolist():
        assert {site: symbols.get(row[site]) for site in frozen} == frozen
    if not frozen:
        assert torch.equal(tokens, pipe.model.decode(latents, **pipe.processor.decode_arguments))


@decoders
def test_each_datum_may_have_its_own_frozen_positions_in_any_batching(decoder):
    pipe = tiny_protein_pipe(decoder=decoder)
    latents = pipe.encode(PROTEINS[:3]).latents
    frozen = [{0: "W"}, {}, {1: "Y", 3: "C"}]
    together = pipe.decode(latents, frozen_positions=frozen)
    assert together == pipe.decode(latents, batch_size=2, frozen_positions=frozen)
    assert together[0][0] == "W" and together[2][1] == "Y" and together[2][3] == "C"
    assert together[1] == pipe.decode(latents[1:2])[0]


@decoders
@pytest.mark.parametrize("frozen", [{-1: "A"}, {LENGTH: "A"}, {0: "B"}, {0: "AC"}, {0: 3}, {True: "A"}, [{0: "A"}]])
def test_frozen_positions_out_of_range_are_refused(decoder, frozen):
    pipe = tiny_protein_pipe(decoder=decoder)
    with pytest.raises(ValueError, match="`frozen_positions`"):
        pipe.decode(torch.zeros(2, 1, 6), frozen_positions=frozen)


def test_beams_keep_their_own_frozen_positions():
    pipe = tiny_protein_pipe(decoder=CAUSAL_DECODER)
    latents = pipe.encode(PROTEINS[:2]).latents
    samples = pipe.decode(latents, num_beams=3, frozen_positions=[{1: "W"}, {1: "Y"}])
    assert [sample[1] for sample in samples] == ["W", "Y"]


@decoders
def test_conditioning_by_memory_gives_residues_too(decoder):
    pipe = tiny_protein_pipe(decoder=decoder, decoder_conditioning="memory")
    samples = pipe.decode(pipe.encode(PROTEINS).latents, frozen_positions={2: "W"})
    assert all(sample[2] == "W" for sample in samples)


def test_the_likelihood_of_the_convolutional_decoder_is_that_of_its_logits():
    model = tiny_protein_model()
    latents, labels = torch.randn(2, 1, 6), torch.randint(3, 24, (2, LENGTH))
    labels[0, 0] = -100
    nats, sites = model.decoder(latents, labels=labels)
    log_p = model.decoder.logits(latents).log_softmax(-1)
    kept = labels != -100
    expected = -(log_p.gather(-1, labels.clamp(min=0)[..., None])[..., 0] * kept).sum(1)
    torch.testing.assert_close(nats, expected)
    assert sites.tolist() == [LENGTH - 1, LENGTH]
    assert bool((log_p[..., [START_ID, STOP_ID]] == float("-inf")).all())


def test_draws_follow_the_decoders_distribution_over_proteins_without_gaps(generator):
    model = tiny_protein_model()
    latents = torch.randn(1, 1, 6, generator=generator)
    draws = model.decoder.generate(latents.expand(4000, 1, 6), do_sample=True, generator=generator, min_residues=3)
    observed = torch.nn.functional.one_hot(draws, 24).float().mean(0)
    # The same by throwing away: sites drawn each for itself, kept where the residues stand side by side.
    sites = model.decoder.logits(latents).softmax(-1)[0]
    drawn = torch.multinomial(sites, 40_000, replacement=True, generator=generator).T
    frames = ["".join("-+"[token > 0] for token in row).strip("-") for row in drawn.tolist()]
    kept = torch.tensor([len(frame) >= 3 and "-" not in frame for frame in frames])
    expected = torch.nn.functional.one_hot(drawn[kept], 24).float().mean(0)
    assert (observed - expected).abs().max() < 0.04
    cold = model.decoder.generate(latents, do_sample=True, temperature=1e-4, generator=generator)
    assert torch.equal(cold, model.decoder.generate(latents))
    with pytest.raises(ValueError, match="`temperature`"):
        model.decoder.generate(latents, do_sample=True, temperature=0.0)


@given(
    seed=st.integers(0, 2**16),
    min_residues=st.integers(1, 6),
    padding=st.floats(-2, 4),
    frozen=st.dictionaries(st.integers(0, 5), st.integers(0, 20), max_size=2),
)
def test_a_frame_without_gaps_is_the_likeliest_of_all_such_frames(seed, min_residues, padding, frozen):
    logits = torch.randn(1, 6, 24, generator=torch.Generator().manual_seed(seed))
    logits[..., 1:3] = float("-inf")
    logits[..., 0] += padding
    for site, residue in frozen.items():
        kept = logits[0, site, 3 + residue].item()
        logits[0, site] = float("-inf")
        logits[0, site, 3 + residue] = kept
    (tokens,) = modeling._decode_block(logits, min_residues, False, None)
    assert modeling._is_block(tokens[None], min_residues).item()
    inside, outside = logits[0, :, 3:].amax(-1).tolist(), logits[0, :, 0].tolist()
    best = max(
        sum(inside[site] if start <= site < end else outside[site] for site in range(6))
        for start in range(6)
        for end in range(start + min_residues, 7)
    )
    assert logits[0].gather(1, tokens[:, None]).sum().item() == pytest.approx(best, abs=1e-4)
    (drawn,) = modeling._decode_block(logits, min_residues, True, torch.Generator().manual_seed(seed))
    assert modeling._is_block(drawn[None], min_residues).item()
    assert all(drawn[site] == 3 + residue for site, residue in frozen.items())


@decoders
@pytest.mark.parametrize("min_length", [1, 5])
@pytest.mark.parametrize("arguments", [{}, {"do_sample": True}, {"do_sample": True, "temperature": 5.0}])
def test_a_model_reads_back_all_that_it_generates(decoder, min_length, arguments, generator):
    pipe = tiny_protein_pipe(decoder=decoder)
    pipe.processor.min_length = min_length
    samples = pipe(60, num_inference_steps=2, noise_scale=3.0, generator=generator, **arguments).samples
    assert all(min_length <= len(sample) <= LENGTH for sample in samples)
    encoding = pipe.encode(samples)
    assert len(pipe.predict(samples)) == 60
    assert pipe.encode(pipe.reconstruct(samples)).latents.shape == encoding.latents.shape
    generators = [torch.Generator().manual_seed(row) for row in range(3)]
    alone = [
        pipe.decode(encoding.latents[row : row + 1], generator=torch.Generator().manual_seed(row), **arguments)
        for row in range(3)
    ]
    together = pipe.decode(encoding.latents[:3], generator=generators, **arguments)
    assert together == [sample for (sample,) in alone]


def test_the_shipped_model_of_loops_reads_back_a_thousand_samples():
    pipe = EDDPMPipeline.from_pretrained(Path(__file__).parent.parent / "model_cards" / "eddpm-gifford")
    pipe.set_progress_bar_config(disable=True)
    samples = pipe(1000, generator=torch.Generator().manual_seed(0)).samples
    assert not [sample for sample in samples if set(sample) - set(RESIDUES)]
    assert pipe.encode(samples).latents.isfinite().all() and pipe.predict(samples).isfinite().all()
    assert pipe.encode(pipe.reconstruct(samples[:100])).latents.isfinite().all()


def test_labels_of_another_frame_are_refused():
    with pytest.raises(ValueError, match="`labels` must have 8 sites, got 7"):
        tiny_protein_model().decoder(torch.zeros(1, 1, 6), labels=torch.zeros(1, 7, dtype=torch.long))


@pytest.mark.parametrize("values", [{"num_sites": 0}, {"hidden_size": 1.5}, {"kernel_size": 4}])
def test_impossible_convolutions_are_refused_by_name(values):
    (name,) = values
    with pytest.raises(ValueError, match=f"`{name}`"):
        ProteinConvConfig(**values)


def test_an_esm_2_model_can_be_the_encoder():
    esm = EsmConfig(
        vocab_size=33,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        pad_token_id=1,
        mask_token_id=32,
        position_embedding_type="rotary",
        token_dropout=True,
    )
    torch.manual_seed(0)
    backbone = EsmModel(esm, add_pooling_layer=False)
    model = tiny_protein_model(encoder=esm)
    config = model.config
    given = EDDPMModel(config, encoder=ProteinEncoder(config, backbone))
    assert given.encoder.backbone is backbone
    inputs = {"input_ids": torch.tensor([[0, 5, 6, 2, 1, 1]]), "attention_mask": torch.tensor([[1, 1, 1, 1, 0, 0]])}
    short = {name: tensor[:, :4] for name, tensor in inputs.items()}
    torch.testing.assert_close(given.eval().encode(**inputs).mean, given.encode(**short).mean, atol=1e-5, rtol=1e-4)
    given.encode(**short).mean.sum().backward()
    assert all(parameter.grad is not None for parameter in given.encoder.backbone.encoder.parameters())


@decoders
def test_a_saved_protein_pipeline_loads_with_the_same_outputs(decoder, tmp_path):
    pipe = tiny_protein_pipe(decoder=decoder)
    pipe.save_pretrained(tmp_path)
    loaded = EDDPMPipeline.from_pretrained(tmp_path)
    loaded.set_progress_bar_config(disable=True)
    assert type(loaded.model.decoder) is type(pipe.model.decoder)
    assert loaded.reconstruct(PROTEINS) == pipe.reconstruct(PROTEINS)
    assert torch.equal(loaded.predict(PROTEINS), pipe.predict(PROTEINS))
    assert loaded.processor.to_dict() == pipe.processor.to_dict()


@pytest.mark.parametrize(("name", "share"), [("protein-small", 0), ("protein-paper", 1)])
def test_the_chains_gradient_reaches_the_encoder_in_the_papers_preset_alone(name, share):
    assert EDDPMConfig.from_preset(name).encoder_gradient_scale == share


@pytest.mark.parametrize("name", ["protein-small", "protein-paper"])
def test_the_presets_build(name):
    config = EDDPMConfig.from_preset(name)
    assert config.modality == "protein" and config.latent_size == 30
    with torch.device("meta"):
        EDDPMModel(config)


@decoders
def test_every_parameter_gets_a_gradient(decoder):
    pipe = tiny_protein_pipe(decoder=decoder)
    model = pipe.model.train()
    batch = pipe.processor(PROTEINS)
    model(**batch, properties=torch.full((len(PROTEINS), 1), 2.0)).loss.backward()
    assert [name for name, parameter in model.named_parameters() if parameter.grad is None] == []


@pytest.mark.slow
@decoders
def test_a_tiny_model_reconstructs_the_proteins_it_has_overfitted(decoder):
    wider = {"hidden_size": 32} if decoder is not CAUSAL_DECODER else {"n_embd": 32}
    pipe = tiny_protein_pipe(
        decoder={**decoder, **wider}, encoder={**ENCODER, "hidden_size": 32}, latent_dim=16, num_properties=0
    )
    model = pipe.model.train()
    batch = pipe.processor(PROTEINS)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(400):
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    model.eval()
    assert pipe.reconstruct(PROTEINS) == PROTEINS


def test_a_causal_decoder_has_the_alphabet_of_proteins_unless_told_otherwise(tmp_path):
    decoder = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 16}
    config = EDDPMConfig.from_preset("protein-small", decoder=decoder)
    assert (config.decoder.vocab_size, config.decoder.bos_token_id, config.decoder.eos_token_id) == (24, 1, 2)
    config.save_pretrained(tmp_path)
    assert EDDPMConfig.from_pretrained(tmp_path).to_dict()["decoder"] == config.to_dict()["decoder"]
    assert EDDPMConfig.from_preset("protein-small", decoder={**decoder, "vocab_size": 40}).decoder.vocab_size == 40
    assert not hasattr(EDDPMConfig.from_preset("protein-small").decoder, "vocab_size")
    assert EDDPMConfig(modality="text", decoder=decoder).decoder.vocab_size == 50257
