"""The next token of a sequence, drawn from given generators."""

import torch
from transformers import LogitsProcessor

from ..double_precision import as_double


class DrawnToken(LogitsProcessor):
    """Draws the next token from given generators, where `generate()` would draw it from torch's global one.

    It comes after all other processors and leaves one token: the one at which the running sum of the probabilities
    passes a uniform number.

    Args:
        generator: One generator, or one for each datum.
        copies: Rows of each datum, side by side.
    """

    def __init__(self, generator: torch.Generator | list[torch.Generator], copies: int = 1):
        self.generator = generator
        self.copies = copies

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return scores `(rows, vocabulary)` that are 0 at the token drawn and -inf elsewhere."""
        if isinstance(self.generator, list):
            draws = [torch.rand(self.copies, generator=each, device=each.device) for each in self.generator]
            uniform = torch.cat([draw.to(scores.device) for draw in draws])
        else:
            device = self.generator.device
            uniform = torch.rand(len(scores), generator=self.generator, device=device).to(scores.device)
        sums = as_double(scores.float().softmax(-1)).cumsum(-1)
        tokens = torch.searchsorted(sums, (as_double(uniform) * sums[:, -1])[:, None], right=True)
        tokens = tokens.clamp(max=scores.shape[-1] - 1).to(scores.device)
        return torch.full_like(scores, float("-inf")).scatter(1, tokens, 0.0)
