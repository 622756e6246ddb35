"""A file whose inputs and outputs stand in a stated order, each tensor under the name of its port.

A converter sorts inputs and outputs as it likes and calls their tensors what it likes; its signature alone says which
is which. Interpreters show the tensors' names, so that these need no signature.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.errors import UserError
from pipeline.sparse_tflite.flatbuffer import read_model, write_model


def with_port_names(content: bytes, inputs: Mapping[str, str], outputs: Mapping[str, str]) -> bytes:
    """The file with its ports in the order of `inputs` and `outputs`, which say by the signature's name what the tensor
    is to be called.

    Raises `UserError` where the signature has not a tensor for each.
    """
    model = read_model(content, "the converted model")
    (signature,) = model.signatureDefs
    graph = model.subgraphs[signature.subgraphIndex]
    graph.inputs = _named(graph, signature.inputs, inputs)
    graph.outputs = _named(graph, signature.outputs, outputs)
    return write_model(model)


def _named(graph: Any, entries: Sequence[Any], names: Mapping[str, str]) -> list[int]:
    indices = {entry.name.decode(): int(entry.tensorIndex) for entry in entries}
    if set(indices) != set(names) or len(set(indices.values())) != len(names):
        made = [names[each] for each in names if each in indices]
        raise UserError(
            f"convert: expected a tensor for each of {', '.join(names.values())}, TensorFlow's converter made"
            f" {len(set(indices.values()))}, for {', '.join(made)}; leave out inputs that nothing reads, and outputs"
            " that repeat another"
        )
    for each, name in names.items():
        graph.tensors[indices[each]].name = name.encode()
    return [indices[each] for each in names]
