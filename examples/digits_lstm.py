"""A recurrent network that reads an image of a handwritten digit row by row."""

from __future__ import annotations

import keras


def build() -> keras.Model:
    """Input (8, 8, 1) as 8 steps of 8 values, ten classes; about 11,000 parameters.

    Unrolled, each step is a few plain operators of TFLite; a loop would need operators that not every runtime has.
    """
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Reshape((8, 8), name="rows"),
            keras.layers.LSTM(32, unroll=True, name="lstm"),
            keras.layers.Dense(64, activation="relu", name="dense1"),
            keras.layers.Dense(10, activation="softmax", name="classes"),
        ],
        name="digits_lstm",
    )
