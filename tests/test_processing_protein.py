import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from proteins import CAUSAL_DECODER, LENGTH, tiny_protein_model
from transformers import EsmTokenizer

from hf_eddpm import EDDPMConfig, EDDPMPipeline, EDDPMProteinProcessor, EDDPMScheduler
from hf_eddpm.modalities.protein.residues import FIRST_RESIDUE_ID, PADDING_ID, RESIDUES, STOP_ID

proteins = st.text(alphabet=RESIDUES, min_size=1, max_size=LENGTH)
ESM_VOCABULARY = (
    "<cls> <pad> <eos> <unk> L A G V S E R T I D P K Q N F Y M H W C X B U Z O . - <null_1> <mask>".split()
)


@pytest.fixture
def esm_tokenizer(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(ESM_VOCABULARY))
    return EsmTokenizer(str(tmp_path / "vocab.txt"))


@given(st.lists(proteins, min_size=1, max_size=4), st.sampled_from(["left", "center"]))
def test_labels_turn_back_into_the_proteins(sequences, alignment):
    processor = EDDPMProteinProcessor(LENGTH, alignment=alignment)
    assert processor.postprocess(processor(sequences)["labels"]) == sequences


@given(st.lists(proteins, min_size=1, max_size=4))
def test_labels_with_a_stop_token_turn_back_into_the_proteins(sequences):
    processor = EDDPMProteinProcessor(LENGTH, stop=True)
    labels = processor(sequences)["labels"]
    assert processor.postprocess(labels.masked_fill(labels == -100, PADDING_ID)) == sequences
    assert (labels == STOP_ID).sum(1).tolist() == [1] * len(sequences)


def test_a_protein_stands_in_the_middle_of_the_frame_with_the_odd_rest_to_its_right():
    processor = EDDPMProteinProcessor(6, alignment="center")
    batch = processor(["ACD", "ACDEFG"])
    first = FIRST_RESIDUE_ID
    assert batch["labels"].tolist() == [
        [PADDING_ID, first, first + 1, first + 2, PADDING_ID, PADDING_ID],
        [first, first + 1, first + 2, first + 3, first + 4, first + 5],
    ]
    assert torch.equal(batch["input_ids"], batch["labels"])
    assert batch["attention_mask"].tolist() == [[0, 1, 1, 1, 0, 0], [1] * 6]
    assert [processor.first_site(protein) for protein in ("ACD", "ACDEFG")] == [1, 0]


def test_a_batch_holds_what_its_items_hold():
    processor = EDDPMProteinProcessor(LENGTH, alignment="center")
    sequences = ["ACD", "WYX", "A"]
    together = processor(sequences)
    for row, sequence in enumerate(sequences):
        alone = processor(sequence)
        assert all(torch.equal(alone[name][0], together[name][row]) for name in together)


def test_padding_between_residues_stays_to_be_seen():
    processor = EDDPMProteinProcessor(5)
    first = FIRST_RESIDUE_ID
    assert processor.postprocess(torch.tensor([[0, first, 0, first + 1, 0]])) == ["A-C"]
    assert processor.postprocess(torch.zeros(1, 5, dtype=torch.long)) == [""]


def test_an_encoder_with_its_own_vocabulary_gets_what_its_tokenizer_gives(esm_tokenizer):
    processor = EDDPMProteinProcessor.from_tokenizer(esm_tokenizer, length=LENGTH)
    sequences = ["ACDX", "WYACDEFG"]
    batch = processor(sequences)
    expected = esm_tokenizer(sequences, padding=True, return_tensors="pt")
    assert torch.equal(batch["attention_mask"], expected["attention_mask"])
    mask = batch["attention_mask"].bool()
    assert torch.equal(batch["input_ids"][mask], expected["input_ids"][mask])
    assert processor.postprocess(batch["labels"]) == sequences


def test_a_tokenizer_without_a_token_for_each_residue_is_refused(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(token for token in ESM_VOCABULARY if token != "X"))
    with pytest.raises(ValueError, match="`tokenizer` must turn each residue"):
        EDDPMProteinProcessor.from_tokenizer(EsmTokenizer(str(tmp_path / "vocab.txt")))


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([], ValueError, "empty list"),
        ("", ValueError, "1 to 8 residues, got 0"),
        ("ACDEFGHIK", ValueError, "1 to 8 residues, got 9"),
        (["ACD", "AC-D"], ValueError, "'-' at position 1"),
        ("ABZ", ValueError, "'BZ' at position 0"),
        ("ACd", ValueError, "upper_case=True"),
        ("AC D", ValueError, "' ' at position 0"),
        (["A", 3], TypeError, "int at position 1"),
        (7, TypeError, "string or a list"),
    ],
)
def test_what_is_no_protein_is_refused_with_its_position(data, error, message):
    with pytest.raises(error, match=message):
        EDDPMProteinProcessor(LENGTH)(data)


def test_lower_case_is_taken_where_it_is_allowed():
    processor = EDDPMProteinProcessor(LENGTH, upper_case=True)
    assert processor.postprocess(processor("acDx")["labels"]) == ["ACDX"]


def test_a_fixed_length_is_kept():
    with pytest.raises(ValueError, match="proteins of 4 residues, got 3"):
        EDDPMProteinProcessor(4, min_length=4)("ACD")


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("length", {"length": 0}),
        ("min_length", {"length": 4, "min_length": 5}),
        ("alignment", {"alignment": "right"}),
        ("alignment", {"alignment": "center", "stop": True}),
        ("encoder_ids", {"encoder_ids": [1, 2]}),
    ],
)
def test_impossible_processors_are_refused_by_name(name, values):
    with pytest.raises(ValueError, match=f"`{name}`"):
        EDDPMProteinProcessor(**values)


def test_a_saved_processor_loads_with_the_same_output(tmp_path, esm_tokenizer):
    processor = EDDPMProteinProcessor.from_tokenizer(esm_tokenizer, length=LENGTH, alignment="center")
    processor.save_pretrained(tmp_path)
    loaded = EDDPMProteinProcessor.from_pretrained(tmp_path)
    for name, tensor in processor(["ACD"]).items():
        assert torch.equal(loaded(["ACD"])[name], tensor)


@pytest.mark.parametrize(
    ("model", "processor", "message"),
    [
        ({}, {"length": LENGTH + 1}, "`length` = 9 does not fit"),
        ({}, {"length": LENGTH, "stop": True}, "`stop` must be False"),
        ({"decoder": CAUSAL_DECODER}, {"length": LENGTH}, "`stop` must be True"),
        ({"decoder": CAUSAL_DECODER}, {"length": 40, "stop": True}, "positions"),
        ({}, {"length": LENGTH, "encoder_ids": list(range(40, 61))}, "the encoder has 24"),
    ],
)
def test_a_processor_that_does_not_fit_the_model_is_refused(model, processor, message):
    model = tiny_protein_model(**model)
    scheduler = EDDPMScheduler(**model.config.scheduler_config)
    with pytest.raises(ValueError, match=message):
        EDDPMPipeline(model, scheduler, EDDPMProteinProcessor(**processor))


def test_a_model_of_sentences_is_refused():
    with pytest.raises(ValueError, match="modality 'text'"):
        EDDPMProteinProcessor(LENGTH).check_model(EDDPMConfig())
