"""A TFLite interpreter, whichever package it comes from: all of them speak the same Python interface."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable

from device_agents.failure import Failure

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Runtime:
    """One runtime package: its interpreter type and its version."""

    name: str
    version: str
    interpreter_type: Callable[..., Any]

    def load(self, path: str, threads: int) -> Any:
        """An interpreter with its tensors allocated. Raises Failure("model") with the runtime's own words."""
        try:
            interpreter = self.interpreter_type(model_path=path, num_threads=threads)
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise Failure(
                "model", f"{self.name} {self.version} cannot load {path}: {str(error).strip()}"
            ) from None
        return interpreter


class Model:
    """A loaded model of one input and one output, run at batch 1.

    Every call raises Failure("model") for a model it cannot serve.
    """

    def __init__(self, interpreter: Any, path: str) -> None:
        self.path = path
        self._interpreter = interpreter
        self._input = self._only(interpreter.get_input_details(), "input")
        self._output = self._only(interpreter.get_output_details(), "output")

    def _only(self, details: Sequence[Mapping[str, Any]], what: str) -> Mapping[str, Any]:
        if len(details) != 1 or details[0]["dtype"].__name__ != "float32":
            received = ", ".join(f"{one['name']} ({one['dtype'].__name__})" for one in details)
            raise Failure("model", f"expected {self.path} to have one float32 {what}. Received: {received}")
        return details[0]

    def check_input(self, shape: Sequence[int], dtype: object) -> None:
        """Whether one input, without its batch dimension, fits."""
        expected = [int(size) for size in self._input["shape"]]
        if str(dtype) != "float32" or expected != [1, *shape]:
            raise Failure(
                "model",
                f"{self.path} takes float32 {_sizes(expected)}. Received: inputs of {dtype} "
                f"{_sizes([1, *shape])}; convert the model for these inputs, with a batch of 1",
            )

    def set_input(self, row: NDArray[np.float32]) -> None:
        """Copy one input, without its batch dimension, into the model."""
        self._interpreter.set_tensor(self._input["index"], row[None])

    def invoke(self) -> None:
        """Run one inference."""
        try:
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise Failure("model", f"{self.path} cannot be run: {str(error).strip()}") from None

    def output(self) -> NDArray[np.float32]:
        """A copy of the last inference's output, without its batch dimension."""
        output: NDArray[np.float32] = self._interpreter.get_tensor(self._output["index"])
        return output[0] if output.ndim > 1 and len(output) == 1 else output

    def executed_operators(self) -> list[str] | None:
        """Names of the operators in the order of the model, DELEGATE standing for those it took over; None
        when this runtime does not tell.
        """
        try:
            return executed(self._interpreter._get_ops_details())
        except AttributeError:
            return None


def executed(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Operator names without those that a delegate replaced.

    TFLite keeps a replaced node in its list and appends the delegate's node. A node was replaced when a
    delegate's output can be traced back to it without crossing the delegate's inputs.
    """
    producers = {
        int(tensor): at
        for at, node in enumerate(nodes)
        for tensor in node["outputs"]
        if not _is_delegate(node)
    }
    place = {at: float(at) for at in range(len(nodes))}
    for at, node in enumerate(nodes):
        if _is_delegate(node):
            replaced = _replaced(node, nodes, producers)
            place[at] = min(replaced, default=at) - 0.5
            for gone in replaced:
                place.pop(gone, None)
    return [str(nodes[at]["op_name"]) for at in sorted(place, key=place.__getitem__)]


def _replaced(
    delegate: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]], producers: Mapping[int, int]
) -> set[int]:
    found: set[int] = set()
    given = {int(tensor) for tensor in delegate["inputs"]}
    wanted = [int(tensor) for tensor in delegate["outputs"]]
    while wanted:
        at = producers.get(wanted.pop())
        if at is not None and at not in found:
            found.add(at)
            wanted.extend(int(tensor) for tensor in nodes[at]["inputs"] if int(tensor) not in given)
    return found


def _is_delegate(node: Mapping[str, Any]) -> bool:
    return str(node["op_name"]) == "DELEGATE"


def _sizes(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))
