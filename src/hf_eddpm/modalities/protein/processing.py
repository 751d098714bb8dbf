"""EDDPMProteinProcessor: residue strings to token ids and back."""

from typing import Any, Literal

import numpy as np
import torch
from transformers import BatchFeature, PreTrainedTokenizerBase
from transformers.processing_utils import ProcessorMixin  # noqa: F401  (diffusers finds the loader by this name)

from ...argument_types import Count, check_values
from ...configuration_eddpm import EDDPMConfig
from ...processing_eddpm import EDDPMProcessor, listed
from .modeling import ProteinConvConfig
from .residues import FIRST_RESIDUE_ID, PADDING_ID, RESIDUES, STOP_ID, UNKNOWN, VOCAB_SIZE, explain_symbols

_ALLOWED = {
    "length": Count,
    "min_length": Count,
    "alignment": Literal["left", "center"],
    "stop": bool,
    "upper_case": bool,
}
_OWN_IDS = {residue: FIRST_RESIDUE_ID + index for index, residue in enumerate(RESIDUES)}


class EDDPMProteinProcessor(EDDPMProcessor):
    r"""Turns residue strings, for example "AAAAYDYWFDY", into tokens: 20 amino acids, X, padding and stop.

    Args:
        length: Most residues of a protein; the sites of the frame.
        min_length: Fewest residues; equal to `length` for proteins of one length.
        alignment: Where shorter proteins stand in the frame: at its "left" end, or in the "center" (an odd rest goes
            to the right).
        stop: Whether the labels are the residues and a stop token, for a causal decoder, rather than the whole frame
            with its padding, for the convolutional one.
        upper_case: Whether lower-case residues are taken as upper-case ones; otherwise they are refused.
        encoder_ids: Ids of the residues, one for each letter of `residues`, where the encoder has a vocabulary of its
            own (see `from_tokenizer`); proteins then start at the left end. `None`: the ids of the labels.
        encoder_start_ids: Ids that this encoder expects before the residues.
        encoder_stop_ids: Ids that it expects after them.

    Raises:
        ValueError: If an argument is outside its range.
    """

    data_names = ("data", "sequence")
    residues = RESIDUES
    padding_symbol = "-"  # stands in decoded proteins for padding between residues, which makes them invalid
    unproposed_symbols = padding_symbol + UNKNOWN  # nobody can make a protein of them

    def __init__(
        self,
        length: int = 20,
        min_length: int = 1,
        alignment: Literal["left", "center"] = "left",
        stop: bool = False,
        upper_case: bool = False,
        encoder_ids: list[int] | None = None,
        encoder_start_ids: list[int] | None = None,
        encoder_stop_ids: list[int] | None = None,
    ):
        given = {"length": length, "min_length": min_length, "alignment": alignment}
        given |= {"stop": stop, "upper_case": upper_case}
        check_values(given, _ALLOWED)
        if min_length > length:
            raise ValueError(f"`min_length` must be at most `length` = {length}, got {min_length}.")
        if stop and alignment == "center":
            raise ValueError(
                "`alignment` must be 'left' with `stop`: labels that end with a stop token have no frame."
            )
        if encoder_ids is not None and len(encoder_ids) != len(RESIDUES):
            raise ValueError(f"`encoder_ids` must hold an id for each of {RESIDUES!r}, got {len(encoder_ids)}.")
        super().__init__()
        self.length = int(length)  # NumPy's too: a processor is saved as JSON
        self.min_length = int(min_length)
        self.alignment = alignment
        self.stop = bool(stop)
        self.upper_case = bool(upper_case)
        self.encoder_ids = encoder_ids
        self.encoder_start_ids = encoder_start_ids or []
        self.encoder_stop_ids = encoder_stop_ids or []

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerBase, **kwargs: Any) -> "EDDPMProteinProcessor":
        """Make a processor for an encoder with its own residue vocabulary, for example ESM-2's.

        Args:
            tokenizer: The encoder's tokenizer, with a token for each of `residues`.
            **kwargs: The other arguments.

        Raises:
            ValueError: If it does not turn each residue into one token.
        """
        ids = tokenizer.convert_tokens_to_ids(list(RESIDUES))
        wrapped = tokenizer(RESIDUES, add_special_tokens=True)["input_ids"]
        place = wrapped.index(ids[0]) if ids[0] in wrapped else 0
        if wrapped[place : place + len(ids)] != ids or tokenizer.unk_token_id in ids:
            raise ValueError(f"`tokenizer` must turn each residue of {RESIDUES!r} into a token of its own.")
        # What it puts around the tokens of a protein
        around = {"encoder_start_ids": wrapped[:place], "encoder_stop_ids": wrapped[place + len(ids) :]}
        return cls(encoder_ids=ids, **around, **kwargs)

    def __call__(self, data: str | list[str], return_tensors: str = "pt", **kwargs: Any) -> BatchFeature:
        """Tokenise.

        Args:
            data: A protein or a list of them, in one-letter code.
            return_tensors: "pt".

        Returns:
            `input_ids` and `attention_mask` (1 at residues) for the encoder, and `labels`, each int64 `(batch,
            sites)`.

        Raises:
            TypeError: If something is not a string.
            ValueError: If a protein is empty, too short, too long, or holds other symbols.
        """
        if kwargs:
            raise TypeError(f"Unexpected keyword arguments {sorted(kwargs)}.")
        if return_tensors != "pt":
            raise ValueError(f"`return_tensors` must be 'pt', got {return_tensors!r}.")
        proteins = self.as_list(data)
        lengths = np.array([len(protein) for protein in proteins])
        letters = np.frombuffer("".join(proteins).encode("ascii"), dtype=np.uint8)
        owners = np.repeat(np.arange(len(proteins)), lengths)
        places = np.arange(len(letters)) - np.repeat(np.cumsum(lengths) - lengths, lengths)

        def lay_out(ids: list[int], starts: np.ndarray | int, width: int, fill: int) -> np.ndarray:
            table = np.zeros(256, dtype=np.int64)
            table[list(RESIDUES.encode())] = ids
            rows = np.full((len(proteins), width), fill, dtype=np.int64)
            rows[owners, places + (starts if isinstance(starts, int) else np.repeat(starts, lengths))] = table[letters]
            return rows

        own_ids = list(_OWN_IDS.values())
        starts = (self.length - lengths) // 2 if self.alignment == "center" else np.zeros_like(lengths)
        if self.stop:
            labels = lay_out(own_ids, 0, int(lengths.max()) + 1, -100)
            labels[np.arange(len(proteins)), lengths] = STOP_ID
        else:
            labels = lay_out(own_ids, starts, self.length, PADDING_ID)

        if self.encoder_ids is None:
            width = int(lengths.max()) if self.alignment == "left" else self.length
            input_ids = lay_out(own_ids, starts, width, PADDING_ID)
            mask = (input_ids != PADDING_ID).astype(np.int64)
        else:
            before, after = self.encoder_start_ids, self.encoder_stop_ids
            width = int(lengths.max()) + len(before) + len(after)
            input_ids = lay_out(self.encoder_ids, len(before), width, 0)
            input_ids[:, : len(before)] = before
            ends = lengths + len(before)
            for offset, token in enumerate(after):
                input_ids[np.arange(len(proteins)), ends + offset] = token
            mask = (np.arange(width) < (ends + len(after))[:, None]).astype(np.int64)
        tensors = {"input_ids": input_ids, "attention_mask": mask, "labels": labels}
        return BatchFeature({name: torch.from_numpy(array) for name, array in tensors.items()})

    def postprocess(self, outputs: torch.Tensor) -> list[str]:
        """Turn token ids `(batch, sites)` into residue strings.

        What follows a stop token and the padding at both ends is left out. Padding between residues stays, as
        `padding_symbol`: such a protein is not valid.
        """
        symbols = {PADDING_ID: self.padding_symbol, **{token: residue for residue, token in _OWN_IDS.items()}}
        proteins = []
        for row in outputs.tolist():
            ids = row[: row.index(STOP_ID)] if STOP_ID in row else row
            proteins.append("".join(symbols.get(token, self.padding_symbol) for token in ids))
        return [protein.strip(self.padding_symbol) for protein in proteins]

    def as_list(self, data: str | list[str], name: str = "data") -> list[str]:
        """Return a protein or several as a list of checked residue strings."""
        proteins = [data] if isinstance(data, str) else listed(data)
        if not isinstance(proteins, list):
            raise TypeError(f"`{name}` must be a string or a list of strings, got {type(data).__name__}.")
        if not proteins:
            raise ValueError(f"`{name}` must hold at least one protein, got an empty list.")
        checked = []
        for position, protein in enumerate(proteins):
            if not isinstance(protein, str):
                raise TypeError(f"`{name}` must hold strings, got {type(protein).__name__} at position {position}.")
            protein = protein.upper() if self.upper_case else protein
            if unknown := sorted(set(protein) - set(RESIDUES)):
                hint = explain_symbols(unknown)
                if all(symbol.upper() in RESIDUES for symbol in unknown):
                    hint = " Lower case needs `upper_case=True`."
                raise ValueError(
                    f"`{name}` must consist of {RESIDUES!r}, got {''.join(unknown)!r} at position {position}.{hint}"
                )
            if not self.min_length <= len(protein) <= self.length:
                allowed = f"{self.length}" if self.min_length == self.length else f"{self.min_length} to {self.length}"
                raise ValueError(
                    f"`{name}` must hold proteins of {allowed} residues, got {len(protein)} at position {position}."
                )
            checked.append(protein)
        return checked

    def units(self, datum: str) -> list[str]:
        """Return the residues."""
        return list(datum)

    def first_site(self, protein: str) -> int:
        """Return the site of the frame at which the protein's first residue stands."""
        return (self.length - len(protein)) // 2 if self.alignment == "center" else 0

    def check_model(self, config: EDDPMConfig) -> None:
        """Raise a ValueError if the frame, the kind of labels or the vocabulary is not the model's."""
        if config.modality != "protein":
            raise ValueError(f"`processor` is for proteins, got a model of modality {config.modality!r}.")
        decoder: Any = config.decoder
        encoder: Any = config.encoder
        convolutional = decoder.model_type == ProteinConvConfig.model_type
        if convolutional and self.stop:
            raise ValueError("`stop` must be False: the model's decoder predicts the whole frame.")
        if not convolutional and not self.stop:
            raise ValueError("`stop` must be True: the model's decoder goes on until a stop token.")
        if convolutional and decoder.num_sites != self.length:
            raise ValueError(f"`length` = {self.length} does not fit the model, whose frame has {decoder.num_sites}.")
        ids = list(_OWN_IDS.values()) if self.encoder_ids is None else self.encoder_ids
        added = len(self.encoder_start_ids) + len(self.encoder_stop_ids)
        parts = [("encoder", encoder, max([*ids, *self.encoder_start_ids, *self.encoder_stop_ids]) + 1, added)]
        if not convolutional:  # the decoder reads the start token and the latents besides
            parts.append(("decoder", decoder, VOCAB_SIZE, config.latent_positions + 1))
        for name, backbone, needed, extra in parts:
            text_config = backbone.get_text_config()
            if text_config.vocab_size < needed:
                raise ValueError(
                    f"`processor` does not fit the model: its ids need {needed} tokens, the {name} has "
                    f"{text_config.vocab_size}."
                )
            positions = getattr(text_config, "max_position_embeddings", None)
            if positions is not None and self.length + extra > positions:
                raise ValueError(
                    f"`length` = {self.length} does not fit the model: the {name} needs {self.length + extra} "
                    f"positions and has {positions}."
                )

    @property
    def decode_arguments(self) -> dict[str, Any]:
        """As few residues as a protein may have, and for a causal decoder as many."""
        if not self.stop:
            return {"min_residues": self.min_length}
        return {"max_new_tokens": self.length, "min_new_tokens": self.min_length}
