"""The .tflite files of generated networks: dense as we convert them, and as TensorFlow's own sparse conversion writes
them. Kept in the state folder, under the digest of the code that they were made by."""

from __future__ import annotations

import functools
import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks._sparse_graphs import network
from pipeline.engine import OWN_PACKAGES
from pipeline.models.quiet import keras_module, quiet
from pipeline.source_digest import source_digest
from pipeline.sparse_tflite.keras_conversion import to_tflite
from pipeline.sparse_tflite.port_names import with_port_names
from pipeline.sparse_tflite.precision import Precision, configure
from targets.places import state_folder

PRECISIONS: tuple[Precision, ...] = ("float32", "float16", "dynamic_range", "int8")
ODDS = (0.45, 0.25, 0.15, 0.15)
SAMPLES, REPRESENTATIVE = 2, 8


@dataclass(frozen=True, eq=False)
class Case:
    """A generated network in files; `theirs` is empty where TensorFlow does not convert it sparsely. `inputs` are
    (samples, height, width, channels)."""

    seed: int
    precision: Precision
    dense: bytes
    theirs: bytes
    inputs: np.ndarray


def case(seed: int) -> Case:
    """The case of a seed, as kept or made anew."""
    place = state_folder() / "benchmarks" / "sparse_right" / f"{_made_by()}-{seed}.npz"
    precision = PRECISIONS[np.random.default_rng(seed + 1_000_000).choice(len(PRECISIONS), p=ODDS)]
    if not place.exists():
        place.parent.mkdir(parents=True, exist_ok=True)
        partial = place.with_suffix(".part.npz")
        np.savez(partial, **_made(seed, precision))
        partial.rename(place)
    with np.load(place) as kept:
        return Case(seed, precision, kept["dense"].tobytes(), kept["theirs"].tobytes(), kept["inputs"])


@functools.cache
def _made_by() -> str:
    root = Path(__file__).absolute().parent.parent
    sources = [root / "benchmarks" / "_sparse_graphs.py", root / "pipeline/sparse_tflite/keras_conversion.py"]
    digest = source_digest(sources, root, OWN_PACKAGES).encode()
    return hashlib.sha256(digest + Path(__file__).read_bytes()).hexdigest()[:16]


def _made(seed: int, precision: Precision) -> dict[str, np.ndarray]:
    # What earlier networks left would name the layers of this one, and fill the memory.
    keras_module().backend.clear_session()
    model = network(seed)
    random = np.random.default_rng(seed)
    inputs = random.normal(size=(REPRESENTATIVE, *model.inputs[0].shape[1:])).astype(np.float32)
    files = {"dense": to_tflite(model, precision, inputs), "theirs": _by_tensorflow(model, precision, inputs)}
    arrays = {name: np.frombuffer(content, np.uint8) for name, content in files.items()}
    return {**arrays, "inputs": inputs[:SAMPLES]}


def _by_tensorflow(model: Any, precision: Precision, inputs: np.ndarray) -> bytes:
    keras = keras_module()
    import tensorflow as tf

    entry = keras.Input(batch_shape=model.inputs[0].shape, name="input")
    with quiet():
        outputs = {f"output_{at}": output for at, output in enumerate(keras.tree.flatten(model(entry)))}
        converter = tf.lite.TFLiteConverter.from_keras_model(keras.Model(entry, outputs))
        configure(converter, precision, [{"input": row[None]} for row in inputs])
        converter.optimizations = [*converter.optimizations, tf.lite.Optimize.EXPERIMENTAL_SPARSITY]
        try:
            return with_port_names(converter.convert(), {"input": "input"}, {name: name for name in outputs})
        except Exception:
            return b""
