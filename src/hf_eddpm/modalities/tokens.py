"""Sequences of tokens: any transformers encoder before the latents, any causal language model after them."""

import contextlib
import contextvars
import copy
import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    DynamicCache,
    GenerationConfig,
    GenerationMixin,
    LogitsProcessorList,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers import initialization as init

from ..argument_types import check_values
from ..configuration_eddpm import EDDPMConfig
from .backbones import takes_pooling_layer
from .base import ModalityDecoder, ModalityEncoder
from .drawn_token import DrawnToken
from .generation_values import check_generation_values
from .states import RecordedStates


def cache_argument(function: Callable[..., Any]) -> str:
    """Return the name under which a function of transformers takes the key/value cache.

    It is `cache` since transformers 5.24 and `past_key_values` before; a language model's output has it under the same
    name.
    """
    return "cache" if "cache" in inspect.signature(function).parameters else "past_key_values"


_CACHE = cache_argument(GenerationMixin.prepare_inputs_for_generation)

_decoding = contextvars.ContextVar("decoding", default=False)


def _is_news(record: logging.LogRecord) -> bool:
    """Return False for transformers' warning of a missing `attention_mask` while this module decodes.

    `generate()` itself drops a mask of ones, and rows that have ended hold padding: there is nothing to mend.
    """
    return not (_decoding.get() and "passing in an `attention_mask`" in record.getMessage())


logging.getLogger("transformers.modeling_utils").addFilter(_is_news)


class TokenEncoder(ModalityEncoder):
    """An encoder of tokens from transformers and a pooling of its hidden states to `num_latents` vectors.

    Args:
        config: Supplies `encoder` (the backbone's config), `pooling` and `num_latents`.
        backbone: The backbone itself (for example pretrained) in place of one made from `config.encoder`.
    """

    input_names = ("input_ids", "attention_mask")
    records_states = True

    def __init__(self, config: EDDPMConfig, backbone: PreTrainedModel | None = None):
        super().__init__(config)
        self.backbone = _backbone_from_config(config.encoder) if backbone is None else backbone
        self.output_size = _hidden_size(config.encoder)
        self.num_latents = config.num_latents
        self.queries = nn.Embedding(config.num_latents, self.output_size) if config.pooling == "attention" else None
        self.post_init()

    def get_input_embeddings(self) -> nn.Module:
        """Return the backbone's token embeddings."""
        return self.backbone.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the backbone's token embeddings."""
        self.backbone.set_input_embeddings(value)

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> nn.Module:
        """Resize the backbone's token embeddings, and the vocabulary in the configuration with them."""
        embeddings = self.backbone.resize_token_embeddings(new_num_tokens, *args, **kwargs)
        _set_vocab_size(self.config.encoder, len(embeddings.weight))
        return embeddings

    def forward(
        self,
        input_ids: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        record: RecordedStates | None = None,
    ) -> torch.Tensor:
        """Encode.

        Args:
            input_ids: int64 `(batch, seq)`.
            attention_mask: 1 for tokens, 0 for padding, `(batch, seq)`; all ones if None.
            record: Takes the backbone's hidden states and attention weights.

        Returns:
            Features `(batch, num_latents, hidden)`.
        """
        if attention_mask is None:
            attention_mask = torch.ones_like(input_ids)
        asked = {} if record is None else record.arguments
        output = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **asked)
        if record is not None:
            record.take(output)
        hidden_states = output.last_hidden_state  # (batch, seq, hidden)
        mask = attention_mask.unsqueeze(-1).to(hidden_states.dtype)
        if self.queries is None:
            pooled = (hidden_states * mask).sum(1) / mask.sum(1).clamp(min=1)
            return pooled.unsqueeze(1).expand(-1, self.num_latents, -1)
        # float32, whatever autocast says: with random queries the scores differ by less than bfloat16 resolves
        with torch.autocast(hidden_states.device.type, enabled=False):
            scores = torch.einsum("lh,bsh->bls", self.queries.weight.float(), hidden_states.float())
        scores = scores.masked_fill(attention_mask.unsqueeze(1) == 0, torch.finfo(torch.float32).min)
        weights = scores.softmax(-1).to(hidden_states.dtype)  # (batch, num_latents, seq)
        return weights @ hidden_states


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    token = _decoding.set(True)
    try:
        yield
    finally:
        _decoding.reset(token)


class CausalDecoder(ModalityDecoder):
    """A causal language model that reads the latents.

    The latents come in two ways at once: an embedding of them is added to every token's embedding, and they stand
    before the first token, as input embeddings (`decoder_conditioning="prefix"`, `decoder_prefix_length` of them for
    each) or as keys and values of every layer ("memory", Li et al. 2020, arXiv 2004.04092). Position 0 holds the start
    token, as in sequence-to-sequence models: `labels` are the tokens and the end token, and the inputs are the labels
    shifted right.

    Args:
        config: Supplies `decoder` (the backbone's config), `decoder_conditioning`, `decoder_prefix_length` and the
            latents' shape.
        backbone: The language model itself (for example pretrained) in place of one made from `config.decoder`. What
            is added to its tokens' embeddings is zero at first: a random shift would take it where it knows nothing.
    """

    target_names = ("labels",)
    decodes_tokens = True
    per_datum_arguments: tuple[str, ...] = ("generator",)
    records_states = True

    def __init__(self, config: EDDPMConfig, backbone: PreTrainedModel | None = None):
        super().__init__(config)
        self.backbone = AutoModelForCausalLM.from_config(config.decoder) if backbone is None else backbone
        self.conditioning = config.decoder_conditioning
        self.latent_positions = config.latent_positions
        hidden_size = self.backbone.get_input_embeddings().embedding_dim
        self.token_projection = nn.Linear(config.latent_size, hidden_size)
        if self.conditioning == "prefix":
            self.prefix_projection = nn.Linear(config.latent_dim, config.decoder_prefix_length * hidden_size)
        else:
            # Shapes differ from layer to layer in some families and are not all in the config: ask the model.
            self.memory_shapes = _cache_shapes(config.decoder)
            self.memory_projection = nn.Linear(
                config.latent_dim, sum(2 * heads * width for heads, width in self.memory_shapes)
            )
        self.post_init()
        if backbone is not None:
            nn.init.zeros_(self.token_projection.weight)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if module is getattr(self, "prefix_projection", None) and self.config.decoder_prefix_length > 1:
            # As torch has it: from smaller ones several vectors learn slowly (training/studies/text_recipe/README.md).
            init.normal_(module.weight, std=(3 * module.in_features) ** -0.5)

    def resize_token_embeddings(self, new_num_tokens: int | None = None, *args: Any, **kwargs: Any) -> nn.Module:
        """Resize the backbone's token embeddings, and the vocabulary in the configuration with them."""
        embeddings = self.backbone.resize_token_embeddings(new_num_tokens, *args, **kwargs)
        _set_vocab_size(self.config.decoder, len(embeddings.weight))
        return embeddings

    @functools.cached_property
    def start_token_id(self) -> int:
        """The token at position 0: the decoder's bos, or eos where it has none."""
        ids = self._special_ids("bos_token_id") or self._special_ids("eos_token_id")
        if not ids:
            raise ValueError("`config.decoder` must have a `bos_token_id` or an `eos_token_id`, got neither.")
        return ids[0]

    def _special_ids(self, name: str) -> list[int]:
        value = getattr(self.backbone.config.get_text_config(), name, None)
        return [] if value is None else list(value) if isinstance(value, (list, tuple)) else [value]

    def forward(
        self, latents: torch.Tensor, labels: torch.Tensor, record: RecordedStates | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return -log p(labels | latents) in nats and the number of tokens it covers, both `(batch,)`.

        Args:
            latents: `(batch, num_latents, latent_dim)`.
            labels: int64 `(batch, seq)`, -100 where ignored (padding on the right).
            record: Takes the backbone's hidden states and attention weights, also at the latents before the first
                token.
        """
        counted = labels != -100
        if labels.device.type != "cpu":  # to count first would make the host wait for the device
            logits = self._run(latents, labels, record).logits[:, -labels.shape[1] :]
            return _nats(logits, labels).sum(1), counted.sum(1)
        # In training the output layer is much of the cost, and there is one call at a time.
        with self._logits_only_at(counted) if self.training else contextlib.nullcontext():
            output = self._run(latents, labels, record)
        logits = output.logits  # (1, counted tokens, vocabulary) or (batch, positions, vocabulary)
        if logits.shape[:2] == (1, int(counted.sum())) and self.training:
            logits = logits[0].float()
        else:
            logits = logits[:, -labels.shape[1] :][counted].float()
        nats = nn.functional.cross_entropy(logits, labels[counted], reduction="none")
        return torch.zeros_like(labels, dtype=nats.dtype).masked_scatter(counted, nats).sum(1), counted.sum(1)

    def logits(self, latents: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Return the next-token logits `(batch, seq, vocabulary)` at the positions of `labels`."""
        return self._run(latents, labels).logits[:, -labels.shape[1] :]

    def _run(self, latents: torch.Tensor, labels: torch.Tensor, record: RecordedStates | None = None) -> Any:
        """Run the backbone over the labels shifted right; with a prefix, its outputs begin with the prefix's."""
        asked = {} if record is None else record.arguments
        start = labels.new_full((len(labels), 1), self.start_token_id)
        inputs = torch.cat([start, labels[:, :-1]], dim=1)
        # A padded input position only ever feeds ignored labels: attention is causal, so it needs no mask.
        inputs = inputs.masked_fill(inputs == -100, self.start_token_id)
        embeds = self.backbone.get_input_embeddings()(inputs)
        word_dropout = self.config.decoder_word_dropout
        if self.training and word_dropout > 0:
            kept = torch.rand(inputs.shape, device=inputs.device) >= word_dropout
            kept[:, 0] = True  # the start token
            embeds = embeds * kept.unsqueeze(-1)
        embeds = embeds + self._token_shift(latents)
        if self.conditioning == "prefix":
            embeds = torch.cat([self._prefix(latents).to(embeds.dtype), embeds], dim=1)
            output = self.backbone(inputs_embeds=embeds, use_cache=False, **self._last_logits(labels), **asked)
            if record is not None:
                record.take(output)
            return output
        checkpointing = any(getattr(module, "gradient_checkpointing", False) for module in self.backbone.modules())
        if self.training and checkpointing:  # transformers would drop the memory
            raise ValueError("`decoder_conditioning` 'memory' excludes gradient checkpointing; use 'prefix'.")
        mask = labels.new_ones(len(labels), self.latent_positions + labels.shape[1])
        memory = {_CACHE: self._memory(latents)}
        output = self.backbone(
            inputs_embeds=embeds, attention_mask=mask, **memory, **self._last_logits(labels), **asked
        )
        if record is not None:
            record.take(output)
        return output

    def _last_logits(self, labels: torch.Tensor) -> dict[str, int]:
        """Return the argument that keeps the backbone from computing logits at the prefix, where it takes one."""
        takes_it = "logits_to_keep" in inspect.signature(self.backbone.forward).parameters
        return {"logits_to_keep": labels.shape[1]} if takes_it and not self.training else {}

    @contextlib.contextmanager
    def _logits_only_at(self, counted: torch.Tensor) -> Iterator[None]:
        """Within, the backbone computes logits `(1, counted tokens, vocabulary)` at these positions alone.

        A hook on the output layer, which calls in other threads would meet: for training only.
        """
        output_layer = self.backbone.get_output_embeddings()
        if output_layer is None:
            yield
            return

        def select(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            hidden_states = inputs[0][:, -counted.shape[1] :]
            return (hidden_states[counted].unsqueeze(0), *inputs[1:])

        handle = output_layer.register_forward_pre_hook(select)
        try:
            yield
        finally:
            handle.remove()

    def generate(
        self,
        latents: torch.Tensor,
        generation_config: GenerationConfig | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        **kwargs: Any,
    ) -> torch.Tensor:
        """Decode with transformers' `generate()` and its key/value cache; greedy unless told otherwise.

        Calls in several threads do not meet: the latents reach the backbone as arguments of this call.

        Args:
            latents: `(batch, num_latents, latent_dim)`.
            generation_config: How to decode: sampling, beams, lengths.
            generator: Source of sampled tokens, or one for each datum; None for torch's own.
            **kwargs: Single values of it, for example `do_sample=True, top_p=0.9`, `num_beams=4`, `max_new_tokens=64`.
                `max_length` counts the new tokens, as the latents are none.

        Returns:
            Token ids `(batch * num_return_sequences, length)`, padded on the right.

        Raises:
            ValueError: If beams are to be sampled with a generator, or the cache is turned off where the latents are
                in it.
        """
        check_values({"generation_config": generation_config}, {"generation_config": GenerationConfig | None})
        config = copy.deepcopy(GenerationConfig(do_sample=False) if generation_config is None else generation_config)
        kwargs = check_generation_values(kwargs, bool(config.do_sample))
        pad = self._special_ids("pad_token_id") or self._special_ids("eos_token_id") or [self.start_token_id]
        special_ids = {"eos_token_id": self._special_ids("eos_token_id"), "pad_token_id": pad[0]}
        config.update(**{name: ids for name, ids in special_ids.items() if ids and getattr(config, name) is None})
        kwargs = config.update(**kwargs)  # the rest goes to generate(), for example a streamer
        if config.max_length is not None:
            config.update(max_new_tokens=config.max_new_tokens or config.max_length, max_length=None)
        self._check_length(config.max_new_tokens)
        if config.do_sample and generator is not None:
            if (config.num_beams or 1) > 1:
                raise ValueError("`generator` cannot be honoured when beams are sampled: set `num_beams=1`.")
            copies = config.num_return_sequences or 1
            kwargs["logits_processor"] = LogitsProcessorList(
                [*kwargs.get("logits_processor", []), DrawnToken(generator, copies)]
            )
        start = torch.full((len(latents), 1), self.start_token_id, dtype=torch.long, device=latents.device)
        shift = self._token_shift(latents)  # (batch, 1, hidden)
        backbone = self._backbone_with(shift)
        with _quietly():
            if self.conditioning == "prefix":
                embeds = self.backbone.get_input_embeddings()(start) + shift
                embeds = torch.cat([self._prefix(latents).to(embeds.dtype), embeds], dim=1)
                mask = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
                return backbone.generate(inputs_embeds=embeds, attention_mask=mask, generation_config=config, **kwargs)
            if config.use_cache is False:
                raise ValueError(
                    "`use_cache` must not be False: with `decoder_conditioning` 'memory' the latents are it."
                )
            # generate() takes the cached positions for tokens it has already seen: stand-ins fill them.
            tokens = start.expand(-1, self.latent_positions + 1)
            memory = self._memory(latents)
            copies = max(config.num_beams or 1, config.num_return_sequences or 1)
            if copies > 1:
                memory.batch_repeat_interleave(copies)
            output = backbone.generate(
                input_ids=tokens,
                attention_mask=torch.ones_like(tokens),
                generation_config=config,
                **{_CACHE: memory},
                **kwargs,
            )
            return output[:, tokens.shape[1] :]

    def _check_length(self, max_new_tokens: int | None) -> None:
        positions = getattr(self.backbone.config.get_text_config(), "max_position_embeddings", None)
        if positions is not None and (max_new_tokens or 0) > positions - self.latent_positions:
            raise ValueError(
                f"`max_new_tokens` must be at most {positions - self.latent_positions}, as many as the decoder has "
                f"positions for beside the latents, got {max_new_tokens}."
            )

    def _backbone_with(self, shift: torch.Tensor) -> Any:
        """Return the backbone for one `generate()`: its tokens' embeddings come with the latents' added.

        It shares all modules with the backbone, which stays as it is; only the preparation of a step's inputs is its
        own, and turns ids into embeddings.

        Args:
            shift: `(batch, 1, hidden)`.
        """
        backbone = copy.copy(self.backbone)
        prepare, embeddings = self.backbone.prepare_inputs_for_generation, self.backbone.get_input_embeddings()

        @functools.wraps(prepare)
        def prepare_with_latents(*args: Any, **kwargs: Any) -> dict[str, Any]:
            inputs = prepare(*args, **kwargs)
            ids = inputs.pop("input_ids", None)
            if inputs.get("inputs_embeds") is None:
                embeds = embeddings(ids)
                # Beams and several returns repeat each datum's row in place; rows never move between data.
                rows = shift.repeat_interleave(len(embeds) // len(shift), dim=0).to(embeds.dtype)
                inputs["inputs_embeds"] = embeds + rows
            return inputs

        backbone.prepare_inputs_for_generation = prepare_with_latents
        return backbone

    def _token_shift(self, latents: torch.Tensor) -> torch.Tensor:
        return self.token_projection(latents.flatten(1)).unsqueeze(1)  # (batch, 1, hidden)

    def _prefix(self, latents: torch.Tensor) -> torch.Tensor:
        """Return the embeddings before the start token, `(batch, latent_positions, hidden)`."""
        return self.prefix_projection(latents).view(len(latents), self.latent_positions, -1)

    def _memory(self, latents: torch.Tensor) -> DynamicCache:
        """Return keys and values of every layer for the latents; a new cache each time, as models extend it."""
        memory = self.memory_projection(latents)  # (batch, num_latents, sum of layer sizes)
        cache = DynamicCache(config=self.backbone.config)
        sizes = [2 * heads * width for heads, width in self.memory_shapes]
        layers = zip(memory.split(sizes, dim=-1), self.memory_shapes, strict=True)
        for index, (layer, (heads, width)) in enumerate(layers):
            layer = layer.view(*layer.shape[:2], 2, heads, width)
            keys, values = layer.permute(2, 0, 3, 1, 4)  # both (batch, heads, num_latents, width)
            cache.update(keys, values, index)
        return cache


def _nats(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Return -log p of each label, 0 where it is ignored, `(batch, seq)`, from logits `(batch, seq, vocabulary)`."""
    return nn.functional.cross_entropy(logits.transpose(1, 2).float(), labels, ignore_index=-100, reduction="none")


def _backbone_from_config(config: PreTrainedConfig) -> PreTrainedModel:
    return AutoModel.from_config(config, **({"add_pooling_layer": False} if takes_pooling_layer(config) else {}))


def _set_vocab_size(config: Any, size: int) -> None:
    config.get_text_config().vocab_size = size


def _hidden_size(config: PreTrainedConfig) -> int:
    size = getattr(config.get_text_config(), "hidden_size", None)
    if size is None:
        raise ValueError(f"`encoder` must be a text encoder with a `hidden_size`, got {type(config).__name__}.")
    return size


def _cache_shapes(config: PreTrainedConfig) -> list[tuple[int, int]]:
    """Return (heads, width) of each layer's key/value cache, read off a forward pass of one token without data."""
    with torch.device("meta"):
        probe = AutoModelForCausalLM.from_config(copy.deepcopy(config))
        # Embeddings rather than ids: some families look for padding among the ids, which have no values here.
        embeds = torch.zeros(1, 1, probe.get_input_embeddings().embedding_dim)
        output = probe(inputs_embeds=embeds, use_cache=True)
    cache = getattr(output, _CACHE, None)
    layers = [layer for layer in getattr(cache, "layers", []) if getattr(layer, "keys", None) is not None]
    if len(layers) != config.get_text_config().num_hidden_layers:
        raise ValueError(
            f"`decoder_conditioning` 'memory' needs a decoder with a key/value cache in every layer, which "
            f"{config.model_type!r} lacks; use 'prefix'."
        )
    return [(layer.keys.shape[1], layer.keys.shape[3]) for layer in layers]
