"""Text: any encoder of transformers before the latents, any causal language model after them."""

from ..tokens import CausalDecoder, TokenEncoder


class TextEncoder(TokenEncoder):
    """A text encoder, for example BERT's or MiniLM's, and a pooling of its hidden states; see `TokenEncoder`."""


class TextDecoder(CausalDecoder):
    """A causal language model that reads the latents, for example GPT-2 or Llama; see `CausalDecoder`."""
