"""A text classifier with an embedding and attention, and a small corpus of film reviews generated from a seed."""

from __future__ import annotations

import keras
import numpy as np

WORDS = 32  # of a review
TOKENS = 1000  # room for the most frequent words of IMDB; the small corpus needs fewer
GOOD = "superb charming gripping delightful brilliant moving funny clever"
BAD = "dull tedious clumsy dreadful shallow tiresome bland awkward"
PARTS = "plot cast script music camera dialogue ending pacing"
FILLING = "the a was is of this that film and its with for all in it quite rather often i we they found felt"
NEGATION = "never"
VOCABULARY = ["", *GOOD.split(), *BAD.split(), *PARTS.split(), *FILLING.split(), NEGATION]


def reviews(count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Token numbers (count, WORDS), 0 after the end, and labels (count,): 1 where more is praised than blamed.

    `never` before a word turns it into its opposite, so counting words is not enough.
    """
    number = {word: index for index, word in enumerate(VOCABULARY)}
    tokens, labels = np.zeros((count, WORDS), np.int64), np.zeros(count, np.int64)
    for row in range(count):
        text: list[str] = []
        balance = 0
        while balance == 0 or len(text) < WORDS // 2:
            praise, negated = random.random() < 0.5, random.random() < 0.25
            text += [*random.choice(FILLING.split(), 2), random.choice(PARTS.split())]
            text += [NEGATION] * negated + [random.choice((GOOD if praise != negated else BAD).split())]
            balance += 1 if praise else -1
        tokens[row, : len(text[:WORDS])] = [number[word] for word in text[:WORDS]]
        labels[row] = balance > 0
    return tokens, labels


def corpus() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """(x_train, y_train), (x_test, y_test), the same on every call."""
    random = np.random.default_rng(0)
    return reviews(4000, random), reviews(500, random)


def imdb() -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """The last words of the 50,000 film reviews of IMDB, which Keras downloads; rare words are one token."""

    def padded(part: tuple[np.ndarray, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        return keras.utils.pad_sequences(part[0], WORDS, padding="post", truncating="pre"), part[1]

    train, test = keras.datasets.imdb.load_data(num_words=TOKENS)
    return padded(train), padded(test)


def build() -> keras.Model:
    """Input (WORDS,) token numbers, two classes; about 40,000 parameters."""
    tokens = keras.Input((WORDS,), dtype="int32", name="tokens")
    words = keras.layers.Embedding(TOKENS, 32, name="words")(tokens)
    place = keras.ops.cumsum(keras.ops.ones_like(tokens), axis=1) - 1
    x = words + keras.layers.Embedding(WORDS, 32, name="places")(place)
    attended = keras.layers.MultiHeadAttention(4, 8, name="attention")(x, x)
    x = keras.layers.LayerNormalization(name="norm")(x + attended)
    x = keras.layers.GlobalAveragePooling1D(name="mean")(x)
    x = keras.layers.Dense(64, activation="relu", name="dense1")(x)
    return keras.Model(tokens, keras.layers.Dense(2, activation="softmax", name="classes")(x), name="text")
