"""Models as Keras 2 wrote them, by hand: the JSON of a configuration, and weights in an .h5 file or a SavedModel."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import h5py
import numpy as np

Weights = Mapping[str, Sequence[tuple[str, np.ndarray]]]
INITIALISERS = {
    "kernel_initializer": {"class_name": "GlorotUniform", "config": {"seed": None}},
    "bias_initializer": {"class_name": "Zeros", "config": {}},
}


def entrance(name: str, *shape: int) -> dict[str, Any]:
    config = {
        "batch_input_shape": [None, *shape],
        "dtype": "float32",
        "sparse": False,
        "ragged": False,
        "name": name,
    }
    return {"class_name": "InputLayer", "config": config, "name": name, "inbound_nodes": []}


def layer(class_name: str, name: str, *calls: Any, **options: Any) -> dict[str, Any]:
    """A layer's entry; each of `calls` is the name of the layer before, or the node as Keras wrote it."""
    config = {"name": name, "trainable": True, "dtype": "float32", **options}
    nodes = [[[call, 0, 0, {}]] if isinstance(call, str) else call for call in calls]
    return {"class_name": class_name, "config": config, "name": name, "inbound_nodes": nodes}


def dense(name: str, units: int, *calls: Any, **options: Any) -> dict[str, Any]:
    plain = {
        "units": units,
        "activation": "linear",
        "use_bias": True,
        "bias_regularizer": None,
        **INITIALISERS,
    }
    return layer("Dense", name, *calls, **(plain | options))


def functional(layers: Sequence[Mapping[str, Any]], output: Any, name: str = "model") -> dict[str, Any]:
    ends = {"input_layers": [[layers[0]["name"], 0, 0]], "output_layers": [output]}
    return {"class_name": "Functional", "config": {"name": name, "layers": list(layers), **ends}}


def write_h5(path: Path, config: Any, weights: Weights, *, parts: int = 1) -> Path:
    """Write the file; with more than one part, the list of layers is split as Keras splits a long one."""
    with h5py.File(path, "w") as file:
        if config is not None:
            file.attrs["model_config"] = json.dumps(config).encode()
        file.attrs["keras_version"], file.attrs["backend"] = b"2.4.0", b"tensorflow"
        group = file.create_group("model_weights")
        names = np.array([name.encode() for name in weights])
        if parts == 1:
            group.attrs["layer_names"] = names
        for number, some in enumerate(np.array_split(names, parts) if parts > 1 else []):
            group.attrs[f"layer_names{number}"] = some
        for name, values in weights.items():
            own = group.create_group(name)
            own.attrs["weight_names"] = np.array([f"{name}/{each}:0".encode() for each, _ in values])
            for each, value in values:
                own.create_dataset(f"{name}/{each}:0", data=value)
    return path


def write_saved_model(path: Path, config: Mapping[str, Any], weights: Weights) -> Path:
    """Write a folder as Keras 2 did: graph and variables by TensorFlow, the configuration beside them.

    Layers without weights, such as an InputLayer, must be in `weights` too, with none.
    """
    import tensorflow as tf
    from tensorflow.python.keras.protobuf.saved_metadata_pb2 import SavedMetadata

    root, metadata = tf.Module(), SavedMetadata()

    def describe(number: int, where: str, value: Any) -> None:
        metadata.nodes.add(
            node_id=number, node_path=where, identifier="_tf_keras_layer", metadata=json.dumps(value)
        )

    describe(0, "root", {"name": "model", "keras_version": "2.15.0", **config})
    for number, (name, values) in enumerate(weights.items()):
        own = tf.Module()
        own.variables_ = [tf.Variable(value, name=each) for each, value in values]
        node = tf.__internal__.tracking.AutoTrackable()
        node.variables = own.variables_
        setattr(root, f"layer-{number}", node)
        describe(number + 1, f"root.layer-{number}", {"name": name, "class_name": "Layer"})
    tf.saved_model.save(root, str(path))
    (path / "keras_metadata.pb").write_bytes(metadata.SerializeToString())
    return path
