"""A configuration and a processor that fit given sentences."""

from collections.abc import Iterator
from typing import Annotated, Any

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from ...argument_types import Bounds, Count, checked
from ...configuration_eddpm import EDDPMConfig
from .processing import EDDPMTextProcessor

_BYTES_AND_SPECIAL = 259
_LARGEST_VOCABULARY = 10**6  # more would only fill the memory
Vocabulary = Annotated[int, Bounds(at_least=_BYTES_AND_SPECIAL, at_most=_LARGEST_VOCABULARY)]

_MOST_TOKENS = 128  # a sentence for which no length is given is cut there
_WORDS_PER_TOKEN = 8  # sentences for each token of the vocabulary: rarer ones have too few examples


@checked
def train_tokenizer(sentences: list[str], vocab_size: Vocabulary) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE tokenizer (Sennrich et al. 2016, arXiv 1508.07909) that gives every string back exactly.

    Args:
        sentences: What it is trained on.
        vocab_size: Most tokens, the 256 bytes and three special tokens among them.
    """

    def batches() -> Iterator[list[str]]:
        for start in range(0, len(sentences), 1000):
            yield sentences[start : start + 1000]

    tokenizer = Tokenizer(models.BPE())
    # A leading space makes a word the same token at the start of a sentence as inside it; the decoder takes it back.
    tokenizer.normalizer = normalizers.Prepend(" ")
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(content=" ", left=1, right=0)])
    special = {"pad_token": "<pad>", "bos_token": "<s>", "eos_token": "</s>"}
    tokenizer.train_from_iterator(
        batches(),
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=list(special.values()),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **special)


def fitting_length(tokenizer: PreTrainedTokenizerBase, sentences: list[str]) -> int:
    """Return the tokens that 999 of 1,000 sentences have at most; no more than 128."""
    lengths = [len(ids) for ids in tokenizer(sentences, add_special_tokens=False)["input_ids"]]
    return min(int(np.quantile(lengths, 0.999)) + 1, _MOST_TOKENS)


@checked
def fit_text(
    sentences: list[str], vocab_size: Vocabulary | None = None, max_length: Count | None = None, **values: Any
) -> tuple[EDDPMConfig, EDDPMTextProcessor]:
    """Return a configuration and a processor for sentences.

    Args:
        sentences: The training data.
        vocab_size: Tokens; by default one for every eight sentences, in [500, 8192].
        max_length: Most tokens of a sentence; by default as many as 999 of 1,000 sentences have, at most 128.
        **values: Values of `EDDPMConfig`; `encoder` and `decoder` are merged into the small preset's.
    """
    if vocab_size is None:
        vocab_size = min(max(len(sentences) // _WORDS_PER_TOKEN, 500), 8192)
    tokenizer = train_tokenizer(sentences, vocab_size)
    if max_length is None:
        max_length = fitting_length(tokenizer, sentences)
    asked = {name: values[name] for name in ("num_latents", "decoder_prefix_length") if name in values}
    small = EDDPMConfig.from_preset("text-small", **asked)
    positions = max_length + small.latent_positions + 2  # special tokens besides
    special = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    own = {
        "encoder": {"max_position_embeddings": positions},
        "decoder": {"n_positions": positions},
    }
    for part, sizes in own.items():
        base: Any = getattr(small, part)
        values[part] = {**base.to_dict(), **sizes, "vocab_size": len(tokenizer), **special, **values.get(part, {})}
    return EDDPMConfig.from_preset("text-small", **values), EDDPMTextProcessor(tokenizer, max_length=max_length)
