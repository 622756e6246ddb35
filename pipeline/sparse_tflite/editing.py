"""Changes to a graph of a .tflite file: new constants, tensors and operators, and weights in another shape."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from pipeline.sparse_tflite.schema import schema
from pipeline.sparse_tflite.stored_weights import UNPACKING
from pipeline.sparse_tflite.tables import kind_of, numbers, vector


class Editor:
    """Edits one subgraph (`SubGraphT`) of a model (`ModelT`) in place; only through this are its operators changed.

    Who reads and who writes a tensor is kept at hand: a file may have as many operators as tables.
    """

    def __init__(self, model: Any, graph: Any) -> None:
        self.model, self.graph = model, graph
        self._outputs = Counter(numbers(graph.outputs))
        self._readers, self._writers = (defaultdict[int, list[Any]](list) for _ in range(2))
        for operator in graph.operators:
            self._link(operator)
        self._sharing = Counter(tensor.buffer for each in model.subgraphs for tensor in each.tensors)

    def _link(self, operator: Any) -> None:
        for links, tensors in ((self._readers, operator.inputs), (self._writers, operator.outputs)):
            for tensor in numbers(tensors):
                links[tensor].append(operator)

    def _unlink(self, operator: Any) -> None:
        for links, tensors in ((self._readers, operator.inputs), (self._writers, operator.outputs)):
            for tensor in numbers(tensors):
                links[tensor].remove(operator)

    def kind(self, operator: Any) -> str:
        """The operator's name."""
        return kind_of(self.model, operator)[0]

    def readers(self, tensor: int) -> int:
        """How many read a tensor: operators, and the model's user."""
        return len(self.reading(tensor)) + self._outputs[tensor]

    def reading(self, tensor: int) -> Sequence[Any]:
        """The operators that read a tensor, each as often as it does."""
        return self._readers.get(tensor, ())

    def writer(self, tensor: int) -> Any | None:
        """The operator that writes a tensor, the first of several; None for an input or a constant."""
        return next(iter(self._writers.get(tensor, ())), None)

    def rewire(
        self, operator: Any, inputs: Sequence[int] | None = None, outputs: Sequence[int] | None = None
    ) -> None:
        """Let an operator read or write other tensors."""
        self._unlink(operator)
        operator.inputs = operator.inputs if inputs is None else list(inputs)
        operator.outputs = operator.outputs if outputs is None else list(outputs)
        self._link(operator)

    def remove(self, operators: Iterable[Any]) -> None:
        """Take operators out of the graph."""
        leaving = {id(operator): operator for operator in operators}
        for operator in leaving.values():
            self._unlink(operator)
        self.graph.operators = [each for each in self.graph.operators if id(each) not in leaving]

    def shape(self, tensor: int) -> tuple[int, ...]:
        """A tensor's shape."""
        return tuple(numbers(self.graph.tensors[tensor].shape))

    def only_batch_is_open(self, tensor: int) -> bool:
        """Whether all sizes of a tensor but the first are fixed."""
        return min(numbers(self.graph.tensors[tensor].shapeSignature)[1:], default=0) >= 0

    def is_float(self, tensor: int) -> bool:
        """Whether a tensor is float32 and no constant."""
        found = self.graph.tensors[tensor]
        return bool(found.type == schema().TensorType.FLOAT32) and not len(self._data(found))

    def integers(self, tensor: int) -> list[int] | None:
        """What an int32 constant holds; None for another tensor."""
        found = self.graph.tensors[tensor]
        if found.type != schema().TensorType.INT32 or not len(self._data(found)):
            return None
        return [int(each) for each in np.asarray(self._data(found), np.uint8).view("<i4")]

    def own_weights(self, tensor: int) -> list[Any] | None:
        """The tensors from what an operator reads to where the weights are stored, the stored one last.

        None unless they are dense floats that nobody else uses.
        """
        chain = []
        for _ in range(1 + len(UNPACKING)):
            found, writer = self.graph.tensors[tensor], self.writer(tensor)
            chain.append(found)
            if self.readers(tensor) != 1 or found.sparsity is not None:
                return None
            if writer is None:
                break
            if self.kind(writer) != "DEQUANTIZE":
                return None
            tensor = int(writer.inputs[0])
        stored, kinds = chain[-1], schema().TensorType
        floats = stored.type in (kinds.FLOAT32, kinds.FLOAT16)
        return chain if floats and self._sharing[stored.buffer] == 1 and len(self._data(stored)) else None

    def values(self, chain: list[Any]) -> np.ndarray:
        """The values of `own_weights`, in their shape."""
        stored = chain[-1]
        dtype = "<f4" if stored.type == schema().TensorType.FLOAT32 else "<f2"
        return np.asarray(self._data(stored), np.uint8).view(dtype).reshape(stored.shape)

    def replace(self, chain: list[Any], values: np.ndarray) -> None:
        """Give `own_weights` other values, of the same type, in their shape."""
        self.model.buffers[chain[-1].buffer].data = np.ascontiguousarray(values).view(np.uint8).ravel()
        for tensor in chain:
            tensor.shape = list(values.shape)

    def constant(self, name: str, values: np.ndarray, scales: np.ndarray | None = None) -> int:
        """A new constant, float32 or int32, which stands for real numbers by its `scales`; its number."""
        buffer = schema().BufferT()
        buffer.data = np.ascontiguousarray(values).view(np.uint8).ravel()
        self.model.buffers.append(buffer)
        number = self._tensor(name, values.shape, values.dtype.name, len(self.model.buffers) - 1, None)
        if scales is not None:
            told = self.graph.tensors[number].quantization = schema().QuantizationParametersT()
            told.scale, told.zeroPoint = scales.astype(np.float32), np.zeros(len(scales), np.int64)
        return number

    def like(self, tensor: int, name: str, shape: tuple[int, ...]) -> int:
        """A new float32 tensor of `shape`, its batch as open as that of another; its number."""
        opened = min(numbers(self.graph.tensors[tensor].shapeSignature)[:1], default=0) < 0
        return self._tensor(name, shape, "float32", 0, [-1, *shape[1:]] if opened else None)

    def _tensor(
        self, name: str, shape: tuple[int, ...], dtype: str, buffer: int, signature: list[int] | None
    ) -> int:
        tensor = schema().TensorT()
        tensor.name, tensor.shape, tensor.buffer = name.encode(), list(shape), buffer
        tensor.type, tensor.shapeSignature = getattr(schema().TensorType, dtype.upper()), signature
        tensor.hasRank = True
        self.graph.tensors.append(tensor)
        self._sharing[buffer] += 1
        return len(self.graph.tensors) - 1

    def operator(
        self, kind: str, inputs: list[int], output: int, before: Any, version: int = 1, **options: Any
    ) -> Any:
        """A new operator with its `options`, run before another one."""
        operator, titles = schema().OperatorT(), OPTIONS[kind]
        operator.opcodeIndex = self.code(kind, version)
        operator.inputs, operator.outputs = inputs, [output]
        operator.builtinOptionsType = getattr(schema().BuiltinOptions, titles)
        operator.builtinOptions = getattr(schema(), f"{titles}T")()
        for key, value in options.items():
            setattr(operator.builtinOptions, key, value)
        self.graph.operators.insert(self.graph.operators.index(before), operator)
        self._link(operator)
        return operator

    def code(self, kind: str, version: int) -> int:
        """The index of an operator's code, added where the model has none."""
        number = getattr(schema().BuiltinOperator, kind)
        for at, code in enumerate(self.model.operatorCodes):
            same = max(code.builtinCode, code.deprecatedBuiltinCode) == number
            if same and code.version == version:
                return at
        code = schema().OperatorCodeT()
        code.builtinCode, code.deprecatedBuiltinCode, code.version = number, min(number, 127), version
        self.model.operatorCodes.append(code)
        return len(self.model.operatorCodes) - 1

    def _data(self, tensor: Any) -> Any:
        return vector(self.model.buffers[tensor.buffer].data)


OPTIONS = {
    "CONV_2D": "Conv2DOptions",
    "DEPTHWISE_CONV_2D": "DepthwiseConv2DOptions",
    "FULLY_CONNECTED": "FullyConnectedOptions",
    "PAD": "PadOptions",
    "RESHAPE": "ReshapeOptions",
}
