"""Sentences altered so that words stand beside others than in any training sentence."""

import itertools
import random
import re
from collections import Counter, defaultdict
from collections.abc import Sequence

JOINED = 0.6  # how often two sentences are joined
EXCHANGED = 0.65  # how often words are exchanged; one or both of the two happen
RATE = 0.15  # of the words of a sentence
TRIES = 4
LONGER = 3  # words by which a joined sentence may be longer, or up to so many words
SHORT = 8


def kind(word: str) -> tuple[bool, str, bool]:
    """Return whether a word begins with a capital, the sign that it ends with, and whether it has a digit."""
    return word[0].isupper(), "" if word[-1].isalnum() else word[-1], any(sign.isdigit() for sign in word)


class Alteration:
    """Joins sentences and exchanges words, as `training/studies/sentences/README.md` describes.

    Args:
        sentences: What joined sentences end with and words are taken from.
        rng: Source of the draws.
    """

    def __init__(self, sentences: Sequence[str], rng: random.Random) -> None:
        self.sentences = [words for sentence in sentences if (words := sentence.split())]
        self.rng = rng
        counts: dict[tuple[bool, str, bool], Counter[str]] = defaultdict(Counter)
        for word in itertools.chain.from_iterable(self.sentences):
            counts[kind(word)][word] += 1
        # Rare words more often than by their number, as in the noise words of Mikolov et al. 2013, arXiv 1310.4546.
        self.words = {
            of: (list(some), list(itertools.accumulate(count**0.75 for count in some.values())))
            for of, some in counts.items()
        }

    def join(self, words: list[str]) -> list[str]:
        """Return the beginning of a sentence and the end of another, drawn."""
        for _ in range(TRIES):
            other = self.rng.choice(self.sentences)
            end, start = self.rng.randint(1, max(1, len(words) - 1)), self.rng.randrange(len(other))
            joined = words[:end] + other[start:]
            if len(joined) <= max(len(words) + LONGER, SHORT):
                return joined
        return words

    def exchange(self, words: list[str]) -> list[str]:
        """Return a sentence with some words replaced by others of their kind, and digits by others."""
        return [self._other(word) if self.rng.random() < RATE else word for word in words]

    def _other(self, word: str) -> str:
        if kind(word)[2] and self.rng.random() < 0.5:
            return re.sub(r"\d", lambda digit: self.rng.choice("0123456789"), word)
        words, weights = self.words.get(kind(word), ([word], [1.0]))
        return self.rng.choices(words, cum_weights=weights)[0]

    def __call__(self, sentence: str) -> str:
        """Return an altered sentence; an empty one as it is."""
        words = sentence.split()
        if not words:
            return sentence
        place = self.rng.random()
        if place < JOINED:
            words = self.join(words)
        if place > 1 - EXCHANGED:
            words = self.exchange(words)
        return " ".join(words)
