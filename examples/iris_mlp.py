"""The classic multilayer perceptron for the iris data."""

from __future__ import annotations

import keras


def build() -> keras.Model:
    """Four measurements of a flower in, three species out."""
    return keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(64, activation="relu", name="hidden1"),
            keras.layers.Dense(64, activation="relu", name="hidden2"),
            keras.layers.Dense(3, activation="softmax", name="species"),
        ],
        name="iris_mlp",
    )
