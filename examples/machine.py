"""A model of two inputs and two outputs, for machines that tell how they run, and readings made up from a seed."""

from __future__ import annotations

import keras
import numpy as np

SAMPLES = 64  # of a vibration
EVENTS = 8  # in the log
CODES = 20  # that an event may have; 0: none
FAULTS = ("healthy", "bearing", "imbalance")


def readings(count: int, random: np.random.Generator) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Inputs `vibration` (count, SAMPLES) and `events` (count, EVENTS), targets `fault` (count,) and `wear` (count,).

    A bearing that fails hums high and an imbalance low, both the louder the more is worn; half of the log tells wear.
    """
    fault, wear = random.integers(0, len(FAULTS), count), random.random(count)
    pitch = np.array([0.0, 1.1, 0.2])[fault][:, None] * np.arange(SAMPLES) + random.random((count, 1)) * 6
    loud = np.where(fault == 0, 0, 0.5 + wear)[:, None]
    vibration = loud * np.sin(pitch) + 0.3 * random.normal(size=(count, SAMPLES))
    telling = random.random((count, EVENTS)) < 0.5
    codes = np.where(
        telling, 1 + (wear[:, None] * (CODES - 2)).astype(int), random.integers(0, CODES, telling.shape)
    )
    return {"vibration": vibration, "events": codes}, {"fault": fault, "wear": wear}


def data() -> dict[str, dict[str, np.ndarray]]:
    """The same on every call; by the names of the model's inputs and output layers."""
    random = np.random.default_rng(0)
    (x_train, y_train), (x_test, y_test) = readings(3000, random), readings(500, random)
    return {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test}


def build() -> keras.Model:
    """Inputs `vibration` and `events`, the latter whole numbers; outputs `fault`, a class, and `wear`, in 0..1."""
    vibration = keras.Input((SAMPLES,), name="vibration")
    events = keras.Input((EVENTS,), dtype="int32", name="events")
    wave = keras.layers.Dense(64, activation="relu", name="wave")(vibration)
    log = keras.layers.Embedding(CODES, 16, name="codes")(events)
    log = keras.layers.GlobalAveragePooling1D(name="mean")(log)
    both = keras.layers.Concatenate(name="both")([wave, log])
    both = keras.layers.Dense(64, activation="relu", name="hidden")(both)
    fault = keras.layers.Dense(len(FAULTS), activation="softmax", name="fault")(both)
    wear = keras.layers.Dense(1, activation="sigmoid", name="wear")(both)
    return keras.Model([vibration, events], [fault, wear], name="machine")
