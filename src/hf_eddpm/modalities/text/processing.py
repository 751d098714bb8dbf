"""EDDPMTextProcessor: sentences to token ids and back."""

import re
from typing import Any

import torch
from transformers import BatchFeature, PreTrainedTokenizerBase
from transformers.processing_utils import ProcessorMixin  # noqa: F401  (diffusers finds the loader by this name)
from transformers.utils import logging

from ...configuration_eddpm import EDDPMConfig
from ...processing_eddpm import EDDPMProcessor, listed

logger = logging.get_logger(__name__)

_UNITS = re.compile(r"\s*(?:\w+(?:['’-]\w+)*|[^\w\s])|\s+")
_NAMED = 5  # sentences that a message names


class EDDPMTextProcessor(EDDPMProcessor):
    """Tokenises sentences for the encoder and for the decoder, which may have different tokenizers.

    Args:
        tokenizer: The encoder's tokenizer.
        decoder_tokenizer: The decoder's; `None` for the same one. It needs an end token.
        max_length: Most tokens of a sentence, without special tokens, for encoder and decoder each.
        truncation: Whether longer sentences are cut, and a warning says which; False refuses them.
    """

    data_names = ("data", "text", "sentence")

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        decoder_tokenizer: PreTrainedTokenizerBase | None = None,
        max_length: int = 32,
        truncation: bool = True,
    ):
        decoder_tokenizer = tokenizer if decoder_tokenizer is None else decoder_tokenizer
        if isinstance(max_length, bool) or not isinstance(max_length, int) or max_length < 1:
            raise ValueError(f"`max_length` must be a positive integer, got {max_length!r}.")
        if decoder_tokenizer.eos_token_id is None:
            raise ValueError("`decoder_tokenizer` must have an end-of-sequence token, got none.")
        super().__init__(tokenizer, decoder_tokenizer)
        self.max_length = max_length
        self.truncation = truncation

    def __call__(self, data: str | list[str], return_tensors: str | None = "pt", **kwargs: Any) -> BatchFeature:
        """Tokenise.

        Args:
            data: A sentence or a list of them; none may be empty.
            return_tensors: "pt" for padded tensors, None for lists of different length.

        Returns:
            `input_ids`, `attention_mask` (the encoder's) and `labels` (the decoder's tokens and its end token, -100
            where padded), each int64 `(batch, seq)`.

        Raises:
            TypeError: If something is not a string.
            ValueError: If the list or a sentence is empty, or one is too long and `truncation` is False.
        """
        if kwargs:
            raise TypeError(f"Unexpected keyword arguments {sorted(kwargs)}.")
        sentences = self.as_list(data)
        batch, cut = self._tensors(sentences, return_tensors)
        self.report_cut(sentences, cut)
        return batch

    def prepare(self, data: list[str]) -> tuple[BatchFeature, dict[int, int]]:
        """Return the tensors of sentences, and which were cut: the tokens that each had, by position."""
        return self._tensors(data, "pt")

    def report_cut(self, data: list[str], cut: dict[int, int]) -> None:
        """Warn of the sentences that were cut, or refuse them if `truncation` is False.

        Args:
            data: All sentences.
            cut: The tokens of those that are too long, by position.

        Raises:
            ValueError: If there are any, and `truncation` is False.
        """
        if not cut:
            return
        places = sorted(cut)
        named = ", ".join(f"{cut[place]} at position {place}" for place in places[:_NAMED])
        more = f" and {len(places) - _NAMED} more" if len(places) > _NAMED else ""
        if not self.truncation:
            raise ValueError(
                f"`data` must hold sentences of at most `max_length` = {self.max_length} tokens, as `truncation` is "
                f"False, got {named}{more}."
            )
        logger.warning(
            f"{len(places)} of {len(data)} sentences had more than `max_length` = {self.max_length} tokens and were "
            f"cut: {named}{more}."
        )

    def _tensors(self, sentences: list[str], return_tensors: str | None) -> tuple[BatchFeature, dict[int, int]]:
        cut: dict[int, int] = {}
        plain = self._tokenize(self.tokenizer, sentences, cut)
        shared = self.tokenizer is self.decoder_tokenizer
        targets = plain if shared else self._tokenize(self.decoder_tokenizer, sentences, cut)
        input_ids = self._with_special_tokens(sentences, plain)
        labels = [[*ids, self.decoder_tokenizer.eos_token_id] for ids in targets]
        mask = [[1] * len(ids) for ids in input_ids]
        if return_tensors is None:
            return BatchFeature({"input_ids": input_ids, "attention_mask": mask, "labels": labels}), cut
        pad = self.tokenizer.pad_token_id or 0  # masked, so any id does
        padded = {"input_ids": _pad(input_ids, pad), "attention_mask": _pad(mask, 0), "labels": _pad(labels, -100)}
        return BatchFeature(padded, tensor_type=return_tensors), cut

    def postprocess(self, outputs: torch.Tensor) -> list[str]:
        """Turn token ids `(batch, seq)` into sentences, special tokens left out."""
        return self.decoder_tokenizer.batch_decode(
            outputs, skip_special_tokens=True, clean_up_tokenization_spaces=False
        )

    def as_list(self, data: str | list[str], name: str = "data") -> list[str]:
        """Return a sentence or several as a list of non-empty strings."""
        sentences = [data] if isinstance(data, str) else listed(data)
        if not isinstance(sentences, list):
            raise TypeError(f"`{name}` must be a string or a list of strings, got {type(data).__name__}.")
        if not sentences:
            raise ValueError(f"`{name}` must hold at least one sentence, got an empty list.")
        for position, sentence in enumerate(sentences):
            if not isinstance(sentence, str):
                raise TypeError(f"`{name}` must hold strings, got {type(sentence).__name__} at position {position}.")
            if not sentence.strip():
                raise ValueError(f"`{name}` must not hold empty sentences, got one at position {position}.")
            if has_lone_surrogate(sentence):
                raise ValueError(
                    f"`{name}` must hold whole characters, got a lone surrogate at position {position}: "
                    f"{sentence[:40]!r}."
                )
        return list(sentences)

    def check_model(self, config: EDDPMConfig) -> None:
        """Raise a ValueError if the tokenizers have more tokens than the model, or other special tokens."""
        if config.modality != "text":
            raise ValueError(f"`processor` is for text, got a model of modality {config.modality!r}.")
        parts = (
            ("tokenizer", self.tokenizer, config.encoder),
            ("decoder_tokenizer", self.decoder_tokenizer, config.decoder),
        )
        backbone: Any
        for name, tokenizer, backbone in parts:
            vocab_size = backbone.get_text_config().vocab_size
            if len(tokenizer) > vocab_size:
                raise ValueError(
                    f"`{name}` does not fit the model: it has {len(tokenizer)} tokens, the model's vocabulary "
                    f"{vocab_size}."
                )
            # the decoder reads the start token and the latents besides
            used = self.max_length + (
                tokenizer.num_special_tokens_to_add() if name == "tokenizer" else config.latent_positions + 1
            )
            positions = getattr(backbone.get_text_config(), "max_position_embeddings", None)
            if positions is not None and used > positions:
                raise ValueError(
                    f"`max_length` = {self.max_length} does not fit the model: with special tokens the `{name}` needs "
                    f"{used} positions, the model has {positions}."
                )
        decoder: Any = config.decoder
        ends = decoder.get_text_config().eos_token_id
        ends = list(ends) if isinstance(ends, (list, tuple)) else [ends]
        if self.decoder_tokenizer.eos_token_id not in ends:
            raise ValueError(
                f"`decoder_tokenizer` does not fit the model: its end token is {self.decoder_tokenizer.eos_token_id}, "
                f"the decoder's `eos_token_id` {ends}."
            )

    @property
    def decode_arguments(self) -> dict[str, Any]:
        """As many tokens as a sentence may have, and the end token."""
        return {"max_new_tokens": self.max_length + 1}

    def units(self, datum: str) -> list[str]:
        """Return words and punctuation marks, each with the white space before it."""
        return _UNITS.findall(datum)

    def lengths(self, data: list[str]) -> list[int]:
        """Return each sentence's tokens, without special ones, at most `max_length`."""
        sentences = self.as_list(data)
        return [len(ids) for ids in self._tokenize(self.tokenizer, sentences, {})]

    def count_truncated(self, sentences: list[str]) -> int:
        """Return how many of `sentences` have more than `max_length` tokens for the encoder or the decoder."""
        cut: dict[int, int] = {}
        for tokenizer in {id(tokenizer): tokenizer for tokenizer in (self.tokenizer, self.decoder_tokenizer)}.values():
            self._tokenize(tokenizer, sentences, cut)
        return len(cut)

    def _with_special_tokens(self, sentences: list[str], plain: list[list[int]]) -> list[list[int]]:
        """Return the encoder's ids with the special tokens that its tokenizer adds."""
        added = self.tokenizer.num_special_tokens_to_add()
        if added == 0:
            return plain
        return self.tokenizer(
            sentences, truncation=True, max_length=self.max_length + added, split_special_tokens=True
        )["input_ids"]

    def _tokenize(
        self, tokenizer: PreTrainedTokenizerBase, sentences: list[str], cut: dict[int, int]
    ) -> list[list[int]]:
        """Return each sentence's ids, cut to `max_length`; enter in `cut` the tokens of those that were longer."""
        rows = tokenizer(
            sentences,
            add_special_tokens=False,
            split_special_tokens=True,  # "</s>" in the data is text
            return_attention_mask=False,
            verbose=False,
        )["input_ids"]
        for position, row in enumerate(rows):
            if len(row) > self.max_length:
                cut[position] = max(len(row), cut.get(position, 0))
        return [list(row[: self.max_length]) for row in rows]


def _pad(rows: list[list[int]], value: int) -> list[list[int]]:
    length = max(len(row) for row in rows)
    return [row + [value] * (length - len(row)) for row in rows]


def has_lone_surrogate(text: str) -> bool:
    """Return whether a text holds half of a character, which UTF-8 has no bytes for."""
    return any("\ud800" <= character <= "\udfff" for character in text)
