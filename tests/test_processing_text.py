import logging

import pytest
import torch
from conftest import SENTENCES, VOCAB_SIZE, tiny_config, tiny_model
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from hf_eddpm import EDDPMTextProcessor
from hf_eddpm.modalities.text.fitting import train_tokenizer
from hf_eddpm.training.collator import RawDataCollator

SOURCE = "hf_eddpm.modalities.text.processing"
ascii_sentences = st.text(st.characters(max_codepoint=127), min_size=1, max_size=60).filter(str.strip)
unicode_sentences = st.text(min_size=1, max_size=60).filter(str.strip)
TOKENIZER = train_tokenizer(SENTENCES, VOCAB_SIZE)  # hypothesis runs many examples in one test


@pytest.fixture
def bert_tokenizer() -> PreTrainedTokenizerFast:
    """Whole words between [CLS] and [SEP]."""
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *sorted({word for text in SENTENCES for word in text.split()})]
    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)


def _decode(processor, labels):
    return processor.postprocess(labels.masked_fill(labels == -100, processor.decoder_tokenizer.pad_token_id))


# -------------------------------------------------------------------------------------------------- there and back


@given(sentence=st.one_of(ascii_sentences, unicode_sentences))
def test_decoding_gives_every_sentence_back(sentence):
    processor = EDDPMTextProcessor(TOKENIZER, max_length=1000)
    assert _decode(processor, processor(sentence)["labels"]) == [sentence]


@given(sentences=st.lists(unicode_sentences, min_size=1, max_size=5))
def test_a_batch_is_tokenised_as_its_sentences_are(sentences):
    processor = EDDPMTextProcessor(TOKENIZER, max_length=1000)
    batch = processor(sentences)
    assert _decode(processor, batch["labels"]) == sentences
    for row, sentence in enumerate(sentences):
        alone = processor(sentence)
        assert batch["input_ids"][row][batch["attention_mask"][row] == 1].tolist() == alone["input_ids"][0].tolist()
        assert batch["labels"][row][batch["labels"][row] != -100].tolist() == alone["labels"][0].tolist()


def test_a_sentence_that_spells_a_special_token_comes_back(processor):
    for sentence in ("a </s> b", "<pad>", "the <s> tag"):
        assert _decode(processor, processor(sentence)["labels"]) == [sentence]


def test_labels_are_the_tokens_and_the_end_token(processor, tokenizer):
    batch = processor(["the food was great .", "cold ."])
    for row, sentence in enumerate(["the food was great .", "cold ."]):
        tokens = tokenizer(sentence, add_special_tokens=False)["input_ids"]
        length = len(tokens)
        assert batch["input_ids"][row, :length].tolist() == tokens
        assert batch["attention_mask"][row].tolist() == [1] * length + [0] * (batch["input_ids"].shape[1] - length)
        assert batch["labels"][row, : length + 1].tolist() == [*tokens, tokenizer.eos_token_id]
        assert (batch["labels"][row, length + 1 :] == -100).all()
    assert all(value.dtype == torch.int64 for value in batch.values())


def test_without_tensors_rows_keep_their_length(processor):
    padded, plain = processor(SENTENCES), processor(SENTENCES, return_tensors=None)
    for row in range(len(SENTENCES)):
        length = len(plain["input_ids"][row])
        assert plain["attention_mask"][row] == [1] * length
        assert plain["input_ids"][row] == padded["input_ids"][row, :length].tolist()
        assert len(plain["labels"][row]) == length + 1


# ---------------------------------------------------------------------------------------------------- truncation


def _said(caplog):
    return [record.getMessage() for record in caplog.records if record.name == SOURCE]


def _long(tokenizer):
    """A limit, and the tokens of the sentences beyond it by position."""
    lengths = [len(tokenizer(sentence, add_special_tokens=False)["input_ids"]) for sentence in SENTENCES]
    limit = sorted(lengths)[3]
    return limit, {place: length for place, length in enumerate(lengths) if length > limit}


def test_a_warning_says_which_sentences_are_cut_each_time(tokenizer, caplog):
    limit, too_long = _long(tokenizer)
    assert 0 < len(too_long) < len(SENTENCES)
    processor = EDDPMTextProcessor(tokenizer, max_length=limit)
    with caplog.at_level(logging.WARNING, logger=SOURCE):
        batch = processor(SENTENCES)
        processor(SENTENCES)
    first, second = _said(caplog)
    assert first == second
    assert f"{len(too_long)} of {len(SENTENCES)}" in first and f"`max_length` = {limit}" in first
    assert all(f"{length} at position {place}" in first for place, length in too_long.items())
    assert batch["input_ids"].shape[1] == limit and batch["labels"].shape[1] == limit + 1
    assert (batch["labels"] == tokenizer.eos_token_id).sum(1).tolist() == [1] * len(SENTENCES)  # the end is kept
    assert processor.count_truncated(SENTENCES) == len(too_long)


def test_long_lists_of_cut_sentences_are_shortened(tokenizer, caplog):
    with caplog.at_level(logging.WARNING, logger=SOURCE):
        EDDPMTextProcessor(tokenizer, max_length=1)(SENTENCES * 10)
    (message,) = _said(caplog)
    assert "80 of 80" in message and message.endswith("and 75 more.")


def test_sentences_that_are_too_long_are_refused_without_truncation(tokenizer, tmp_path):
    limit, too_long = _long(tokenizer)
    processor = EDDPMTextProcessor(tokenizer, max_length=limit, truncation=False)
    place, length = next(iter(too_long.items()))
    message = f"at most `max_length` = {limit} tokens, as `truncation` is False, got {length} at position {place}"
    with pytest.raises(ValueError, match=message):
        processor(SENTENCES)
    kept = [sentence for place, sentence in enumerate(SENTENCES) if place not in too_long]
    assert processor(kept)["input_ids"].shape[0] == len(kept)
    processor.save_pretrained(tmp_path)
    assert EDDPMTextProcessor.from_pretrained(tmp_path).truncation is False


def test_the_pipeline_names_cut_sentences_by_their_place_in_all_the_data(make_pipe, tokenizer, caplog):
    pipe = make_pipe()
    limit, too_long = _long(tokenizer)
    pipe.processor = EDDPMTextProcessor(tokenizer, max_length=limit)
    for use in (pipe.encode, pipe.score, pipe.reconstruct):
        caplog.clear()
        with caplog.at_level(logging.WARNING, logger=SOURCE):
            use(SENTENCES, batch_size=3)
        (message,) = _said(caplog)
        assert f"{len(too_long)} of {len(SENTENCES)}" in message
        assert all(f"{length} at position {place}" in message for place, length in too_long.items())
    pipe.processor.truncation = False
    place, length = max(too_long.items(), key=lambda item: item[1])
    for use in (pipe.encode, pipe.score, pipe.reconstruct):
        with pytest.raises(ValueError, match=f"{length} at position {place}"):
            use([SENTENCES[place] if row == place else "cold ." for row in range(len(SENTENCES))], batch_size=3)


def test_a_training_says_once_that_it_cuts(tokenizer, caplog):
    collate = RawDataCollator(EDDPMTextProcessor(tokenizer, max_length=2))
    with caplog.at_level(logging.WARNING, logger=SOURCE):
        for _ in range(3):
            collate(SENTENCES)
    assert len(_said(caplog)) == 1
    with pytest.raises(ValueError, match="`truncation` is False"):
        RawDataCollator(EDDPMTextProcessor(tokenizer, max_length=2, truncation=False))(SENTENCES)


def test_nothing_is_said_or_counted_where_nothing_is_cut(processor, caplog):
    with caplog.at_level(logging.WARNING, logger=SOURCE):
        short = processor("cold .")
    assert not [record for record in caplog.records if record.name == SOURCE]
    assert processor.count_truncated(["cold ."]) == 0
    exact = EDDPMTextProcessor(processor.tokenizer, max_length=short["input_ids"].shape[1])
    assert exact.count_truncated(["cold ."]) == 0


def test_counting_warns_of_nothing(tokenizer, caplog):
    processor = EDDPMTextProcessor(tokenizer, max_length=1)
    with caplog.at_level(logging.WARNING):
        assert processor.count_truncated(SENTENCES) == len(SENTENCES)
    assert not caplog.records


def test_decoding_makes_room_for_the_longest_sentence_and_its_end(processor, model):
    assert processor.decode_arguments == {"max_new_tokens": 17}
    longest = processor(" ".join(SENTENCES))
    assert longest["labels"].shape[1] == 17


# ------------------------------------------------------------------------------------------------ two tokenizers


def test_encoder_and_decoder_may_have_different_tokenizers(bert_tokenizer, tokenizer):
    processor = EDDPMTextProcessor(bert_tokenizer, tokenizer, max_length=32)
    batch = processor(SENTENCES)
    one = EDDPMTextProcessor(tokenizer, max_length=32)(SENTENCES)
    assert torch.equal(batch["labels"], one["labels"])
    assert batch["input_ids"].shape != one["input_ids"].shape
    assert _decode(processor, batch["labels"]) == SENTENCES
    assert torch.isfinite(tiny_model()(**batch).loss)


def test_special_tokens_of_the_encoder_stay_on_its_side(bert_tokenizer, tokenizer):
    processor = EDDPMTextProcessor(bert_tokenizer, tokenizer, max_length=3)
    batch = processor(["the food was great .", "cold"], return_tensors=None)
    words = [bert_tokenizer.convert_tokens_to_ids(word) for word in ("the", "food", "was")]
    assert batch["input_ids"][0] == [2, *words, 3]  # cut to `max_length` words, the special tokens kept
    assert batch["input_ids"][1] == [2, bert_tokenizer.convert_tokens_to_ids("cold"), 3]
    assert batch["attention_mask"][0] == [1] * 5
    tokens = tokenizer("the food was great .", add_special_tokens=False)["input_ids"]
    assert batch["labels"][0] == [*tokens[:3], tokenizer.eos_token_id]


def test_a_sentence_too_long_for_either_counts_once(bert_tokenizer, tokenizer):
    assert len(tokenizer("the food was great .", add_special_tokens=False)["input_ids"]) > 5  # five words
    assert EDDPMTextProcessor(bert_tokenizer, tokenizer, max_length=5).count_truncated(["the food was great ."]) == 1
    assert EDDPMTextProcessor(bert_tokenizer, tokenizer, max_length=4).count_truncated(["the food was great ."]) == 1
    assert EDDPMTextProcessor(bert_tokenizer, tokenizer, max_length=32).count_truncated(["the food was great ."]) == 0


@pytest.mark.parametrize("two", [False, True])
def test_a_saved_processor_loads_equal(tmp_path, tokenizer, bert_tokenizer, two):
    processor = EDDPMTextProcessor(bert_tokenizer, tokenizer, max_length=7) if two else EDDPMTextProcessor(tokenizer)
    expected = processor(SENTENCES)
    processor.save_pretrained(tmp_path)
    loaded = EDDPMTextProcessor.from_pretrained(tmp_path)
    assert loaded.max_length == processor.max_length
    batch = loaded(SENTENCES)
    assert batch.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(batch[name], value)
    assert _decode(loaded, batch["labels"]) == _decode(processor, expected["labels"])
    assert loaded.count_truncated(SENTENCES) == processor.count_truncated(SENTENCES)


# ---------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("data", "error", "message"),
    [
        ([], ValueError, "`data`.*empty list"),
        ("", ValueError, "`data`.*empty sentences.*position 0"),
        (" \t\n", ValueError, "`data`.*empty sentences"),
        (["good", ""], ValueError, "`data`.*position 1"),
        (None, TypeError, "`data`.*NoneType"),
        (3, TypeError, "`data`.*int"),
        (b"good", TypeError, "`data`.*bytes"),
        ({"text": "good"}, TypeError, "`data`.*dict"),
        (["good", 3], TypeError, "`data`.*int at position 1"),
        ([["good"]], TypeError, "`data`.*list at position 0"),
        (torch.ones(2), TypeError, "`data`.*Tensor"),
    ],
)
def test_data_that_are_no_sentences_are_refused(processor, data, error, message):
    with pytest.raises(error, match=message):
        processor(data)


def test_the_argument_that_a_caller_names_is_the_one_in_the_message(processor):
    with pytest.raises(ValueError, match="`positives`"):
        processor.as_list([], name="positives")


def test_an_unknown_keyword_is_refused(processor):
    with pytest.raises(TypeError, match="truncate"):
        processor("good", truncate=True)


@pytest.mark.parametrize("max_length", [0, -1, 2.0, True, None, "8"])
def test_a_wrong_length_is_refused(tokenizer, max_length):
    with pytest.raises(ValueError, match="`max_length`"):
        EDDPMTextProcessor(tokenizer, max_length=max_length)


def test_a_decoder_tokenizer_needs_an_end_token(bert_tokenizer):
    with pytest.raises(ValueError, match="`decoder_tokenizer`.*end-of-sequence"):
        EDDPMTextProcessor(bert_tokenizer)


def test_a_tokenizer_that_does_not_fit_the_model_is_refused(tokenizer, bert_tokenizer):
    one, two = EDDPMTextProcessor(tokenizer), EDDPMTextProcessor(bert_tokenizer, tokenizer)
    one.check_model(tiny_config())
    two.check_model(tiny_config())

    config = tiny_config()
    config.decoder.vocab_size = len(tokenizer) - 1
    with pytest.raises(ValueError, match="`decoder_tokenizer` does not fit"):
        one.check_model(config)
    with pytest.raises(ValueError, match="`decoder_tokenizer` does not fit"):
        two.check_model(config)

    config = tiny_config()
    config.encoder.vocab_size = len(bert_tokenizer) - 1
    with pytest.raises(ValueError, match="`tokenizer` does not fit"):
        two.check_model(config)

    config = tiny_config()
    config.decoder.eos_token_id = 7
    with pytest.raises(ValueError, match="end token is 2.*7"):
        one.check_model(config)
    config.decoder.eos_token_id = [7, 2]
    one.check_model(config)

    config = tiny_config()
    config.modality = "protein"
    with pytest.raises(ValueError, match="'protein'"):
        one.check_model(config)
