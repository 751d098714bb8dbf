"""Proteins: any transformers encoder over residues, and a decoder of all sites at once or of one after another."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedConfig

from ...argument_checks import is_integer
from ...argument_types import FloatTensor, PositiveNumber, checked, refuse_without
from ...configuration_eddpm import EDDPMConfig
from ..base import ModalityDecoder
from ..tokens import CausalDecoder, TokenEncoder
from .residues import FIRST_RESIDUE_ID, PADDING_ID, RESIDUES, START_ID, STOP_ID, VOCAB_SIZE

# A residue kept at a site, 0-based in the frame: for all data alike, or one such dict for each.
FrozenPositions = dict[int, str] | Sequence[dict[int, str]] | None


class ProteinConvConfig(PreTrainedConfig):
    r"""Configuration of the convolutional decoder, which predicts all sites of a frame at once.

    Args:
        num_sites: Sites of the frame, at least 1.
        hidden_size: Channels.
        num_hidden_layers: Residual blocks.
        kernel_size: Sites that a convolution sees, odd.

    Raises:
        ValueError: If a value is outside its range.
    """

    model_type = "eddpm_protein_conv"

    num_sites: int = 20
    hidden_size: int = 64
    num_hidden_layers: int = 2
    kernel_size: int = 5

    def __post_init__(self, **kwargs: Any) -> None:
        super().__post_init__(**kwargs)
        for name in ("num_sites", "hidden_size", "num_hidden_layers", "kernel_size"):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")
        if self.kernel_size % 2 == 0:
            raise ValueError(f"`kernel_size` must be odd, got {self.kernel_size}.")


AutoConfig.register(ProteinConvConfig.model_type, ProteinConvConfig, exist_ok=True)


class ProteinEncoder(TokenEncoder):
    """A transformer over residues, for example BERT's or ESM-2's, and a pooling of its hidden states.

    Args:
        config: Supplies `encoder` (the backbone's config), `pooling` and `num_latents`.
        backbone: The backbone itself (for example a pretrained ESM-2) in place of one made from `config.encoder`.
    """


class ResidualConvolution(nn.Module):
    """Pre-activation residual block of two 1-D convolutions (He et al. 2016, arXiv 1603.05027).

    Args:
        channels: Width of input and output.
        kernel_size: Odd.
    """

    def __init__(self, channels: int, kernel_size: int):
        super().__init__()
        self.norms = nn.ModuleList(nn.GroupNorm(1, channels) for _ in range(2))
        self.convolutions = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel_size, padding=kernel_size // 2) for _ in range(2)
        )
        self.activation = nn.SiLU()

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Map `(batch, channels, sites)` to the same shape."""
        residual = hidden_states
        for norm, convolution in zip(self.norms, self.convolutions, strict=True):
            hidden_states = convolution(self.activation(norm(hidden_states)))
        return residual + hidden_states


class ProteinConvDecoder(ModalityDecoder):
    """Predicts every site of the frame from the latents, independently given them: linear layer, convolutions, logits.

    The head of Liu et al. 2024 (arXiv 2402.19009, section 4.3), after Castro et al. 2022 (arXiv 2201.09948). Padding
    is predicted like a residue, so that it also says where the protein begins and ends.

    Args:
        config: Supplies `decoder` (a `ProteinConvConfig`) and the latents' shape.
    """

    target_names = ("labels",)
    decodes_tokens = True
    per_datum_arguments = ("frozen_positions", "generator")
    has_independent_sites = True

    def __init__(self, config: EDDPMConfig):
        super().__init__(config)
        conv: Any = config.decoder
        self.num_sites, self.channels = conv.num_sites, conv.hidden_size
        self.projection = nn.Linear(config.latent_size, conv.num_sites * conv.hidden_size)
        self.blocks = nn.ModuleList(
            ResidualConvolution(conv.hidden_size, conv.kernel_size) for _ in range(conv.num_hidden_layers)
        )
        self.norm = nn.GroupNorm(1, conv.hidden_size)
        self.activation = nn.SiLU()
        self.output = nn.Conv1d(conv.hidden_size, VOCAB_SIZE, 1)
        self.post_init()

    def logits(self, latents: torch.Tensor) -> torch.Tensor:
        """Return `(batch, num_sites, vocabulary)`, float32; start and stop tokens, which no frame has, get -inf."""
        hidden_states = self.projection(latents.flatten(1)).view(len(latents), self.channels, self.num_sites)
        for block in self.blocks:
            hidden_states = block(hidden_states)
        logits = self.output(self.activation(self.norm(hidden_states))).float().transpose(1, 2)
        absent = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
        absent[[START_ID, STOP_ID]] = True
        return logits.masked_fill(absent, float("-inf"))

    def forward(self, latents: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return -log p(labels | latents) in nats and the number of sites, both `(batch,)`.

        Args:
            latents: `(batch, num_latents, latent_dim)`.
            labels: int64 `(batch, num_sites)`, padding included; -100 where a site does not count.

        Raises:
            ValueError: If the labels have another number of sites.
        """
        if labels.shape[1] != self.num_sites:
            raise ValueError(f"`labels` must have {self.num_sites} sites, got {labels.shape[1]}.")
        nats = nn.functional.cross_entropy(self.logits(latents).transpose(1, 2), labels, reduction="none")
        return nats.sum(1), (labels != -100).sum(1)

    @checked
    def generate(
        self,
        latents: FloatTensor,
        frozen_positions: FrozenPositions = None,
        do_sample: bool = False,
        temperature: PositiveNumber = 1.0,
        generator: torch.Generator | list[torch.Generator] | None = None,
        min_residues: int = 1,
    ) -> torch.Tensor:
        """Decode.

        The residues of a frame stand side by side, with padding before and after them, as in all data. Where the
        sites, each for itself, would have it otherwise, the likeliest such frame is taken, or one drawn among these.

        Args:
            latents: `(batch, num_latents, latent_dim)`.
            frozen_positions: Residues to keep, by site: a dict for all data, or one for each.
            do_sample: Whether to draw each site from its distribution rather than take the likeliest token.
            temperature: Divides the logits of a draw; positive.
            generator: Source of the draws, or one for each datum.
            min_residues: Fewest residues, in [1, num_sites].

        Returns:
            int64 `(batch, num_sites)`, padding included.

        Raises:
            ValueError: If a frozen position or residue is none of the frame's, or `temperature` is not positive.
        """
        logits = self.logits(latents)
        for row, frozen in enumerate(_frozen_rows(frozen_positions, len(latents), self.num_sites)):
            for site, token in frozen.items():
                kept = logits[row, site, token].nan_to_num(neginf=0.0)
                logits[row, site] = float("-inf")
                logits[row, site, token] = kept
        if not is_integer(min_residues) or not 1 <= min_residues <= self.num_sites:
            raise ValueError(f"`min_residues` must be an integer in [1, {self.num_sites}], got {min_residues!r}.")
        if not do_sample:
            if temperature != 1:
                refuse_without("`do_sample=True`", ["temperature"], "without it the likeliest residue is taken")
            tokens = logits.argmax(-1)
        else:
            logits = logits / temperature
            tokens = _draw(logits.softmax(-1), generator)
        broken = torch.nonzero(~_is_block(tokens, min_residues))[:, 0]
        if len(broken):
            chosen = [generator[row] for row in broken.tolist()] if isinstance(generator, list) else generator
            tokens[broken] = _decode_block(logits[broken], min_residues, do_sample, chosen)
        return tokens


def _draw(probabilities: torch.Tensor, generator: torch.Generator | list[torch.Generator] | None) -> torch.Tensor:
    """Draw an index from each of the distributions `(batch, ..., choices)`."""
    shape, flat = probabilities.shape[:-1], probabilities.reshape(-1, probabilities.shape[-1])
    if isinstance(generator, list):
        rows = zip(flat.view(len(generator), -1, flat.shape[-1]), generator, strict=True)
        return torch.stack([torch.multinomial(row, 1, generator=each) for row, each in rows]).view(shape)
    return torch.multinomial(flat, 1, generator=generator).view(shape)


def _is_block(tokens: torch.Tensor, min_residues: int) -> torch.Tensor:
    """Return which frames `(batch, sites)` hold residues side by side, and enough of them; bool `(batch,)`."""
    residues = tokens != PADDING_ID
    sites = torch.arange(tokens.shape[1], device=tokens.device)
    first = torch.where(residues, sites, tokens.shape[1]).amin(1)
    last = torch.where(residues, sites, -1).amax(1)
    count = residues.sum(1)
    return (count == last - first + 1) & (count >= min_residues)


def _decode_block(
    logits: torch.Tensor,
    min_residues: int,
    do_sample: bool,
    generator: torch.Generator | list[torch.Generator] | None,
) -> torch.Tensor:
    """Return the likeliest frames with residues side by side, or draws from the distribution over these.

    A frame's probability is the product over its sites, so that only its first and its last residue must be searched.

    Args:
        logits: `(batch, sites, vocabulary)`.
        min_residues: Fewest residues.
        do_sample: Whether to draw.
        generator: Source of the draws.
    """
    residues, padding = logits[..., FIRST_RESIDUE_ID:], logits[..., PADDING_ID]
    frozen = padding == float("-inf")  # sites that must hold a residue
    inside = residues.logsumexp(-1) if do_sample else residues.amax(-1)  # (batch, sites)
    sums = nn.functional.pad(torch.where(frozen, 0, inside - padding).cumsum(1), (1, 0))  # (batch, sites + 1)
    ends = torch.arange(sums.shape[1], device=logits.device)
    first = torch.where(frozen, ends[:-1], len(ends)).amin(1)[:, None, None]
    last = torch.where(frozen, ends[:-1], -1).amax(1)[:, None, None]
    possible = (ends[None, :] - ends[:, None] >= min_residues) & (ends[:, None] <= first) & (ends[None, :] > last)
    scores = (sums[:, None, :] - sums[:, :, None]).masked_fill(~possible, float("-inf")).flatten(1)
    block = _draw(scores.softmax(-1)[:, None], generator)[:, 0] if do_sample else scores.argmax(-1)  # (batch,)
    start, end = (block // len(ends))[:, None], (block % len(ends))[:, None]
    tokens = _draw(residues.softmax(-1), generator) if do_sample else residues.argmax(-1)
    sites = ends[:-1]
    return torch.where((sites >= start) & (sites < end), tokens + FIRST_RESIDUE_ID, PADDING_ID)


class ProteinCausalDecoder(CausalDecoder):
    """A causal language model over residues, one site after another, ended by the stop token.

    Args:
        config: Supplies `decoder` (the backbone's config), `decoder_conditioning` and the latents' shape.
        backbone: The language model itself in place of one made from `config.decoder`.
    """

    per_datum_arguments = ("frozen_positions", "generator")

    def generate(
        self,
        latents: torch.Tensor,
        generation_config: GenerationConfig | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        frozen_positions: FrozenPositions = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Decode with transformers' `generate()`, greedily unless told otherwise; see `CausalDecoder.generate`.

        Args:
            latents: `(batch, num_latents, latent_dim)`.
            generation_config: How to decode.
            generator: Source of sampled residues, or one for each datum.
            frozen_positions: Residues to keep, by site: a dict for all data, or one for each. A protein does not end
                before its last one.
            **kwargs: As for `CausalDecoder.generate`.

        Returns:
            Token ids `(batch * num_return_sequences, length)`, padded on the right.

        Raises:
            ValueError: If a frozen position or residue is out of range.
        """
        rows = _frozen_rows(frozen_positions, len(latents), kwargs.get("max_new_tokens"))
        # With "memory" generate() is given stand-ins for the latents and the start token, with "prefix" no ids.
        offset = 0 if self.conditioning == "prefix" else self.latent_positions + 1
        processors = LogitsProcessorList([*kwargs.pop("logits_processor", []), _ResiduesOnly(rows, offset)])
        return super().generate(latents, generation_config, generator, logits_processor=processors, **kwargs)


class _ResiduesOnly(LogitsProcessor):
    """Lets `generate()` choose residues and the stop token only, and at frozen sites the frozen residue."""

    def __init__(self, rows: list[dict[int, int]], offset: int):
        self.rows = rows
        self.offset = offset

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        scores = scores.clone()
        scores[:, [PADDING_ID, START_ID]] = float("-inf")
        scores[:, VOCAB_SIZE:] = float("-inf")
        site = input_ids.shape[1] - self.offset
        copies = len(scores) // len(self.rows)  # beams, several returns
        for row, frozen in enumerate(self.rows):
            if not frozen or site > max(frozen):
                continue
            block = scores[row * copies : (row + 1) * copies]
            block[:, STOP_ID] = float("-inf")
            if site in frozen:
                kept = block[:, frozen[site]].clone()
                block[:] = float("-inf")
                block[:, frozen[site]] = kept
        return scores


def _frozen_rows(frozen_positions: FrozenPositions, count: int, num_sites: int | None) -> list[dict[int, int]]:
    """Return for each datum the token to keep at each frozen site."""
    frozen = {} if frozen_positions is None else frozen_positions
    rows = [frozen] * count if isinstance(frozen, dict) else list(frozen)
    if len(rows) != count:
        raise ValueError(f"`frozen_positions` must be a dict or one for each of {count} data, got {len(rows)}.")
    tokens = []
    for row in rows:
        for site, residue in row.items():
            if not is_integer(site) or site < 0 or (num_sites and site >= num_sites):
                allowed = f"[0, {num_sites})" if num_sites else "non-negative"
                raise ValueError(f"`frozen_positions` must be sites (integers, {allowed}), got {site!r}.")
            if not isinstance(residue, str) or len(residue) != 1 or residue not in RESIDUES:
                raise ValueError(f"`frozen_positions` must hold one of {RESIDUES!r} at site {site}, got {residue!r}.")
        tokens.append({site: FIRST_RESIDUE_ID + RESIDUES.index(residue) for site, residue in row.items()})
    return tokens


def make_protein_decoder(config: EDDPMConfig) -> ModalityDecoder:
    """Return the decoder that `config.decoder` describes: convolutional for a `ProteinConvConfig`, else causal."""
    is_conv = getattr(config.decoder, "model_type", None) == ProteinConvConfig.model_type
    return ProteinConvDecoder(config) if is_conv else ProteinCausalDecoder(config)
