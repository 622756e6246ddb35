"""A SavedModel folder of Keras 2: the configuration that Keras put beside the graph, and the variables by layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.models.keras2 import Written, layer_by_layer, parse
from pipeline.models.quiet import quiet

METADATA = "keras_metadata.pb"
GRAPH = "_CHECKPOINTABLE_OBJECT_GRAPH"


def read(path: Path) -> Written:
    """What the folder holds. Raises `UserError` for one without Keras' configuration, or damaged."""
    if not (path / METADATA).is_file():
        raise UserError(
            f"{path}: a SavedModel that holds a graph for running and no Keras layers, as model.export() of Keras 3"
            " writes it; there is nothing to prune in it. Where the model was made, save it whole:"
            " model.save('model.keras'), and give that file"
        )
    with quiet():
        import tensorflow as tf
        from google.protobuf.message import DecodeError
        from tensorflow.core.protobuf.trackable_object_graph_pb2 import TrackableObjectGraph
        from tensorflow.python.keras.protobuf.saved_metadata_pb2 import SavedMetadata
    try:
        metadata = SavedMetadata.FromString((path / METADATA).read_bytes())
        reader = tf.train.load_checkpoint(str(path / "variables" / "variables"))
        graph = TrackableObjectGraph.FromString(reader.get_tensor(GRAPH))
        nodes = {node.node_path: parse(node.metadata) for node in metadata.nodes}
        root = nodes["root"]
        weights = {
            described["name"]: _variables(graph, node, reader)
            for where, described in nodes.items()
            if (node := _find(graph, where)) is not None and where.count(".") == 1
        }
    except (OSError, KeyError, ValueError, DecodeError, tf.errors.OpError) as error:
        raise UserError(f"{path}: not a whole SavedModel of Keras 2: {error}") from None
    return Written({"class_name": root["class_name"], "config": root["config"]}, weights, layer_by_layer)


def _find(graph: Any, where: str) -> Any:
    """The node at a path such as root.layer_with_weights-0; None where the graph has none."""
    node = graph.nodes[0]
    for name in where.split(".")[1:]:
        number = _children(node).get(name)
        if number is None:
            return None
        node = graph.nodes[number]
    return node


def _variables(graph: Any, node: Any, reader: Any) -> list[tuple[str, np.ndarray]]:
    """The node's list of variables, in its order; where it has none, the variables it holds by themselves."""
    held = _children(node)
    if "variables" in held:
        listed = _children(graph.nodes[held["variables"]])
        found = [("", listed[name]) for name in sorted(listed, key=int)]
    else:
        first: dict[int, str] = {}
        for name, number in held.items():
            first.setdefault(number, name)
        found = [(name, number) for number, name in first.items() if graph.nodes[number].attributes]
    return [
        (name, np.asarray(reader.get_tensor(graph.nodes[number].attributes[0].checkpoint_key)))
        for name, number in found
    ]


def _children(node: Any) -> Mapping[str, int]:
    return {child.local_name: child.node_id for child in node.children}
