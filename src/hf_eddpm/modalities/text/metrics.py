"""What the text evaluation measures, as functions of sentences and arrays; nothing here knows the model.

A sentence is a string whose words are separated by white space (the data are expected to be tokenised so). Distances
are 0 for equal inputs and are biased upwards by small samples: read them beside the value for two sets of real
sentences of the same sizes. That value is no floor: bland text repeats common n-grams, which are sampled with less
noise, and can come out below it. Perplexity, too, flatters bland text. `reverse_perplexity` and `distinct_n` do not.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import exp, log

import numpy as np
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein

from ...extras import needs_extra

with needs_extra("The metrics of text"):
    from scipy.stats import wasserstein_distance
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import Pipeline, make_pipeline
    from sklearn.preprocessing import StandardScaler

    from ...metrics.distinct_novelty import distinct_n, novelty, uniqueness
    from ...metrics.frechet_distance import relative_frechet_distance as latent_frechet
    from ...metrics.ngram_divergence import END, START, ngram_divergence, ngrams
    from ...metrics.reconstruction_bleu import corpus_bleu, exact_match

__all__ = [
    "END",
    "START",
    "PathSmoothness",
    "TrigramModel",
    "corpus_bleu",
    "distinct_n",
    "exact_match",
    "fit_text_classifier",
    "latent_frechet",
    "length_distance",
    "linear_probe_accuracy",
    "ngram_divergence",
    "novelty",
    "path_smoothness",
    "reverse_perplexity",
    "uniqueness",
]


# ---- the distributions of two texts


def length_distance(sentences: Sequence[str], reference: Sequence[str]) -> float:
    """Wasserstein-1 distance between the sentence lengths of two texts, in words."""
    _check_sentences(sentences)
    _check_sentences(reference)
    return float(wasserstein_distance([len(s.split()) for s in sentences], [len(s.split()) for s in reference]))


class TrigramModel:
    """An interpolated Kneser-Ney trigram language model: a judge of fluency that shares nothing with the model judged.

    Kneser and Ney (1995), interpolated as by Chen and Goodman (1999): one absolute discount per order,
    `D = n1 / (n1 + 2 n2)` from the numbers of n-grams seen once and twice; the trigrams by their counts, the lower
    orders by the number of different words they follow (n-grams that begin with the start mark, which nothing
    precedes, by their counts). A sentence is its words and an end mark; one start mark predicts the first word.

    The unigrams interpolate with a uniform distribution over the vocabulary: the training words, the end mark and one
    unknown word (KenLM's choice, Heafield, 2011), or as many words as `vocabulary_size` says. So an unknown word has a
    small probability of its own and is never free of charge.
    """

    def __init__(self, counts: list[Counter[tuple[str, ...]]], vocabulary_size: int) -> None:
        self.vocabulary_size = vocabulary_size
        self._counts = counts  # the (continuation) counts of the 1-, 2- and 3-grams
        self._discounts = [self._discount(order) for order in counts]
        self._totals: list[Counter[tuple[str, ...]]] = []  # per context: the sum of the counts of its n-grams
        self._followers: list[Counter[tuple[str, ...]]] = []  # per context: how many different words follow it
        for order in counts:
            totals: Counter[tuple[str, ...]] = Counter()
            for gram, count in order.items():
                totals[gram[:-1]] += count
            self._totals.append(totals)
            self._followers.append(Counter(gram[:-1] for gram in order))

    @classmethod
    def fit(cls, sentences: Sequence[str], vocabulary_size: int | None = None) -> "TrigramModel":
        """Counts the sentences. Repeated sentences count as often as they occur.

        Args:
            sentences: The training text.
            vocabulary_size: How many words share the uniform distribution, the end mark and the unknown ones included.
                Models of different texts are comparable only with the same one: by default it is the number of
                different words here plus two, so a model of few words would have its unknown ones cheap.
        """
        _check_sentences(sentences)
        raw: list[Counter[tuple[str, ...]]] = [Counter(), Counter(), Counter()]
        for sentence in sentences:
            words = (START, *sentence.split(), END)
            for n in (1, 2, 3):
                raw[n - 1].update(ngrams(words, n))
        unigrams = Counter(gram[1:] for gram in raw[1])
        bigrams = Counter(gram[1:] for gram in raw[2])
        bigrams.update({gram: count for gram, count in raw[1].items() if gram[0] == START})
        known = len(unigrams) + 1  # the words and the end mark, and one unknown word
        if vocabulary_size is not None and vocabulary_size < known:
            raise ValueError(f"`vocabulary_size` must be at least {known} for this text, got {vocabulary_size}.")
        return cls([unigrams, bigrams, raw[2]], vocabulary_size or known)

    def probability(self, word: str, context: Sequence[str] = ()) -> float:
        """The probability of `word` (END for the end of the sentence) after the last two words of `context`.

        A context that starts a sentence begins with START.
        """
        probability = 1 / self.vocabulary_size
        for n in (1, 2, 3):
            history = tuple(context[len(context) - n + 1 :]) if n > 1 else ()
            if len(history) < n - 1 or not (total := self._totals[n - 1][history]):
                break
            discount = self._discounts[n - 1]
            discounted = max(self._counts[n - 1][(*history, word)] - discount, 0.0)
            probability = (discounted + discount * self._followers[n - 1][history] * probability) / total
        return probability

    def perplexity(self, sentences: Sequence[str]) -> float:
        """exp of the mean negative log probability per token, where each sentence's end counts as one token."""
        _check_sentences(sentences)
        total, tokens = 0.0, 0
        for sentence in sentences:
            words = (START, *sentence.split(), END)
            for position in range(1, len(words)):
                total -= log(self.probability(words[position], words[max(0, position - 2) : position]))
            tokens += len(words) - 1
        return exp(total / tokens)

    @staticmethod
    def _discount(counts: Counter[tuple[str, ...]]) -> float:
        frequencies = Counter(counts.values())
        once, twice = frequencies[1], frequencies[2]
        # tiny corpora may have no n-gram seen once, or none seen twice; 0.75 is the usual value
        return once / (once + 2 * twice) if once and twice else 0.75


def reverse_perplexity(sentences: Sequence[str], reference: Sequence[str], vocabulary_size: int) -> float:
    """Perplexity of real text under a trigram model of the generated text (Zhao et al., 2018).

    It is high for text that is not fluent and for text that is fluent but says few things.

    Args:
        sentences: The generated text; compare equal numbers of sentences.
        reference: Real text.
        vocabulary_size: See `TrigramModel.fit`; the same for all texts compared. Words beyond it raise it.
    """
    words = {word for sentence in sentences for word in sentence.split()}
    return TrigramModel.fit(sentences, max(vocabulary_size, len(words) + 2)).perplexity(reference)


# ---- latents and paths through them


@dataclass
class PathSmoothness:
    """How evenly decoded paths lead from one sentence to another.

    Attributes:
        path_length: Word edits along the path over word edits between its ends; at least 1, which is the straightest.
        largest_step: The largest single step over the edits between the ends; at least `1 / (sentences - 1)`, and 1 or
            more when a path jumps.
        num_paths: How many paths the means are over; those whose two ends decode to the same words have no measure.
    """

    path_length: float | None
    largest_step: float | None
    num_paths: int


def path_smoothness(paths: Sequence[Sequence[str]]) -> PathSmoothness:
    """Measures paths of sentences by the word-level edit distance between neighbours, as means over the paths.

    Args:
        paths: Each the sentences along one interpolation, its two ends included.
    """
    lengths, largest = [], []
    for path in paths:
        words = [sentence.split() for sentence in path]
        if not (between_ends := Levenshtein.distance(words[0], words[-1])):
            continue
        steps = [Levenshtein.distance(a, b) for a, b in zip(words, words[1:], strict=False)]
        lengths.append(sum(steps) / between_ends)
        largest.append(max(steps) / between_ends)
    if not lengths:  # a collapsed model decodes everything to the same words
        return PathSmoothness(None, None, 0)
    return PathSmoothness(float(np.mean(lengths)), float(np.mean(largest)), len(lengths))


# ---- classifiers


def linear_probe_accuracy(
    train_embeddings: NDArray[np.floating],
    train_labels: Sequence[int],
    test_embeddings: NDArray[np.floating],
    test_labels: Sequence[int],
) -> float:
    """Held-out accuracy of a logistic regression on standardised embeddings: how linearly they hold the label.

    Args:
        train_embeddings: (num_train, dim); the mean and scale of the standardisation come from these.
        train_labels: One class per row.
        test_embeddings: (num_test, dim).
        test_labels: One class per row.
    """
    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=1000))
    return float(probe.fit(train_embeddings, train_labels).score(test_embeddings, test_labels))


def fit_text_classifier(sentences: Sequence[str], labels: Sequence[int]) -> Pipeline:
    """A bag-of-words classifier of raw text that shares nothing with the model: a judge of edits.

    TF-IDF of words and word pairs, then logistic regression. State its held-out accuracy, `classifier.score(sentences,
    labels)`, beside whatever it judges.
    """
    _check_pairs(sentences, labels)
    words_and_pairs = TfidfVectorizer(token_pattern=r"\S+", ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    return make_pipeline(words_and_pairs, LogisticRegression(C=10, max_iter=1000)).fit(sentences, labels)


# ---- shared by the above


def _check_sentences(sentences: Sequence[str]) -> None:
    if isinstance(sentences, str) or not len(sentences):
        raise ValueError("`sentences` must be a list with at least one sentence.")


def _check_pairs(first: Sequence[object], second: Sequence[object]) -> None:
    if not len(first) or len(first) != len(second):
        raise ValueError(f"Two lists of the same length, not empty, are needed; got {len(first)} and {len(second)}.")
