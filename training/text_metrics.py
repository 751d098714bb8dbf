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
import sacrebleu
from numpy.typing import NDArray
from rapidfuzz.distance import Levenshtein
from scipy.stats import wasserstein_distance
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from frechet import frechet_distance

START, END = "<s>", "</s>"


# ---- two texts, sentence by sentence


def corpus_bleu(hypotheses: Sequence[str], references: Sequence[str], tokenize: str = "none") -> float:
    """Corpus BLEU-4 (Papineni et al., 2002) by sacrebleu, one reference per hypothesis.

    Args:
        hypotheses: What the model wrote.
        references: What it should have written, or for an edit the original, whose content should survive.
        tokenize: A sacrebleu tokenizer; "none" keeps the words as they are.

    Returns:
        BLEU in [0, 100].
    """
    _check_pairs(hypotheses, references)
    # force: sacrebleu warns about text that is tokenised already, as ours is
    return sacrebleu.corpus_bleu(list(hypotheses), [list(references)], tokenize=tokenize, force=True).score


def exact_match(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """The share of hypotheses whose words all equal their reference's, in [0, 1]."""
    _check_pairs(hypotheses, references)
    return float(np.mean([a.split() == b.split() for a, b in zip(hypotheses, references, strict=True)]))


# ---- one text


def distinct_n(sentences: Sequence[str], n: int) -> float:
    """The number of different n-grams over the number of n-grams (Li et al., 2016), in [0, 1].

    It falls with the length of the text, so compare equal numbers of sentences. A text without n-grams has 0.
    """
    ngrams = [gram for sentence in sentences for gram in _ngrams(sentence.split(), n)]
    return len(set(ngrams)) / len(ngrams) if ngrams else 0.0


def uniqueness(sentences: Sequence[str]) -> float:
    """The number of different sentences over the number of sentences, in (0, 1]."""
    _check_sentences(sentences)
    return len({tuple(sentence.split()) for sentence in sentences}) / len(sentences)


def novelty(sentences: Sequence[str], train: Sequence[str]) -> float:
    """The share of sentences that do not occur word for word in `train`, in [0, 1]."""
    _check_sentences(sentences)
    known = {tuple(sentence.split()) for sentence in train}
    return float(np.mean([tuple(sentence.split()) not in known for sentence in sentences]))


# ---- the distributions of two texts


def length_distance(sentences: Sequence[str], reference: Sequence[str]) -> float:
    """Wasserstein-1 distance between the sentence lengths of two texts, in words."""
    _check_sentences(sentences)
    _check_sentences(reference)
    return float(wasserstein_distance([len(s.split()) for s in sentences], [len(s.split()) for s in reference]))


def ngram_divergence(sentences: Sequence[str], reference: Sequence[str], n: int) -> float:
    """Jensen-Shannon divergence (Lin, 1991) between the n-gram frequencies of two texts.

    Every sentence gets `n - 1` start marks and one end mark, so that how sentences begin and end counts, and a text of
    very short sentences still has n-grams.

    Args:
        sentences: One text.
        reference: The other; the order makes no difference.
        n: Length of the n-grams, at least 1.

    Returns:
        The divergence in bits (base 2), in [0, 1]: 0 for equal frequencies, 1 for no n-gram in common.
    """
    counts_a, counts_b = _ngram_counts(sentences, n), _ngram_counts(reference, n)
    grams = list(counts_a | counts_b)
    p, q = (np.array([counts[gram] for gram in grams], dtype=np.float64) for counts in (counts_a, counts_b))
    p, q = p / p.sum(), q / q.sum()
    middle = (p + q) / 2
    parts = (np.sum(x[x > 0] * np.log2(x[x > 0] / middle[x > 0])) for x in (p, q))
    return float(np.clip(sum(parts) / 2, 0.0, 1.0))  # rounding may leave the interval by 1e-16


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
                raw[n - 1].update(_ngrams(words, n))
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


def latent_frechet(latents: NDArray[np.floating], reference: NDArray[np.floating]) -> float:
    """Frechet distance between the Gaussians fitted to two sets of latents, relative to the reference's variance.

    |m_a - m_b|^2 + tr(C_a + C_b - 2 (C_a C_b)^(1/2))  over  tr(C_b)   (Dowson and Landau, 1982)

    Args:
        latents: (num_a, dim), for example generated latents.
        reference: (num_b, dim), for example the latents of held-out data; its total variance must not be zero.

    Returns:
        A number from 0 that does not depend on the latents' scale. Latents all at the reference's mean have 1.
    """
    distance = frechet_distance(latents, reference)
    variance = float(np.var(reference, axis=0, ddof=1, dtype=np.float64).sum())
    if not variance > 0:
        raise ValueError("`reference` has no variance, so no distance relative to it exists.")
    return distance / variance


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


def _ngrams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    if n < 1:
        raise ValueError(f"`n` must be at least 1, got {n}.")
    return list(zip(*(words[i:] for i in range(n)), strict=False))


def _ngram_counts(sentences: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    _check_sentences(sentences)
    start = (START,) * (n - 1)
    return Counter(gram for sentence in sentences for gram in _ngrams((*start, *sentence.split(), END), n))


def _check_sentences(sentences: Sequence[str]) -> None:
    if isinstance(sentences, str) or not len(sentences):
        raise ValueError("`sentences` must be a list with at least one sentence.")


def _check_pairs(first: Sequence[object], second: Sequence[object]) -> None:
    if not len(first) or len(first) != len(second):
        raise ValueError(f"Two lists of the same length, not empty, are needed; got {len(first)} and {len(second)}.")
