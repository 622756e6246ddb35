"""A TFLite interpreter, whichever package it comes from: all of them speak the same Python interface."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from device_agents.failure import Failure

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Setting:
    """How an interpreter runs its models: with so many threads, with XNNPACK or on the runtime's own kernels alone, and
    with an external delegate, the library at `delegate` made with `options`, which is offered the operators first.
    """

    threads: int = 1
    xnnpack: bool = True
    delegate: str | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Runtime:
    """One runtime package and its version; `module` has its Interpreter, OpResolverType and load_delegate."""

    name: str
    version: str
    module: Any

    def load(self, path: str, setting: Setting, first: Sequence[Any] = ()) -> Any:
        """An interpreter with its tensors allocated; delegates in `first` are offered the operators before all others.
        Raises Failure("model") with the runtime's own words, Failure("job") where the setting's delegate is at fault.
        """
        asked: dict[str, Any] = {"model_path": path, "num_threads": setting.threads}
        if not setting.xnnpack:
            resolvers = self.module.OpResolverType
            asked["experimental_op_resolver_type"] = resolvers.BUILTIN_WITHOUT_DEFAULT_DELEGATES
        delegates = [*first, *self._delegates(setting)]
        if delegates:
            asked["experimental_delegates"] = delegates
        try:
            interpreter = self.module.Interpreter(**asked)
            interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise Failure(
                "model", f"{self.name} {self.version} cannot load {path}: {str(error).strip()}"
            ) from None
        return interpreter

    def _delegates(self, setting: Setting) -> list[Any]:
        if setting.delegate is None:
            return []
        try:
            return [self.module.load_delegate(setting.delegate, dict(setting.options))]
        except (ValueError, OSError, AttributeError) as error:
            raise Failure(
                "job", f"{self.name} {self.version} cannot use the delegate {setting.delegate}: {error}"
            ) from None


class Model:
    """A loaded model, run at batch 1. Inputs and outputs go by the names of their tensors, a lone one by "" as well.

    Every call raises Failure("model") for a model it cannot serve.
    """

    def __init__(self, interpreter: Any, path: str) -> None:
        self.path = path
        self._interpreter = interpreter
        self._inputs = _by_name(interpreter.get_input_details())
        self._outputs = _by_name(interpreter.get_output_details())

    def check_inputs(self, samples: Mapping[str, NDArray[Any]]) -> None:
        """Whether arrays of inputs, N x input shape, are those that the model takes."""
        self._check_names("inputs", self._inputs, samples)
        for name, array in samples.items():
            detail = self._inputs[name]
            expected = [int(size) for size in detail["shape"]]
            real = _stands_for_real(detail) and array.dtype.kind == "f"
            if not (real or str(array.dtype) == detail["dtype"].__name__) or expected != [
                1,
                *array.shape[1:],
            ]:
                raise Failure(
                    "model",
                    f"{self.path} takes {detail['dtype'].__name__} {_sizes(expected)}{name and f' as {name}'}."
                    f" Received: inputs of {array.dtype} {_sizes([1, *array.shape[1:]])}; convert the model for "
                    "these inputs, with a batch of 1",
                )

    def check_outputs(self, names: Collection[str]) -> None:
        """Whether these are the model's outputs, and float32, or whole numbers that stand for such."""
        self._check_names("outputs", self._outputs, names)
        for detail in self._outputs.values():
            if detail["dtype"].__name__ != "float32" and not _stands_for_real(detail):
                received = f"{detail['name']} ({detail['dtype'].__name__})"
                raise Failure("model", f"expected {self.path} to have float32 outputs. Received: {received}")

    def _check_names(self, what: str, details: Mapping[str, Any], names: Collection[str]) -> None:
        wanted = {detail["index"]: name for name, detail in details.items()}
        found = {details[name]["index"] for name in names if name in details}
        if len(found) != len(names) or len(found) != len(wanted):
            received = ", ".join(names if any(names) else ["a single one, without a name"])
            raise Failure(
                "model", f"{self.path} has the {what} {', '.join(wanted.values())}. Received: {received}"
            )

    def set_inputs(self, rows: Mapping[str, NDArray[Any]]) -> None:
        """Copy one sample, each input without its batch dimension, into the model; real numbers become the whole ones
        that stand for them.
        """
        for name, row in rows.items():
            detail = self._inputs[name]
            if _stands_for_real(detail) and row.dtype.kind == "f":
                row = _quantised(row, detail)
            self._interpreter.set_tensor(detail["index"], row[None])

    def invoke(self) -> None:
        """Run one inference."""
        try:
            self._interpreter.invoke()
        except (ValueError, RuntimeError) as error:
            raise Failure("model", f"{self.path} cannot be run: {str(error).strip()}") from None

    def output(self, name: str) -> NDArray[np.float32]:
        """A copy of this output of the last inference in real numbers, without its batch dimension."""
        detail = self._outputs[name]
        output: NDArray[np.float32] = self._interpreter.get_tensor(detail["index"])
        if _stands_for_real(detail):
            scale, zero_point = detail["quantization"]
            output = (scale * (output.astype("float64") - zero_point)).astype("float32")
        return output[0] if output.ndim > 1 and len(output) == 1 else output

    def executed_operators(self) -> list[str] | None:
        """Names of the operators in the order of the model, DELEGATE standing for those it took over; None
        when this runtime does not tell.
        """
        try:
            return executed(self._interpreter._get_ops_details())
        except AttributeError:
            return None


def _stands_for_real(detail: Mapping[str, Any]) -> bool:
    """Whether a tensor holds whole numbers n that stand for the real ones scale * (n - zero point)."""
    return detail["dtype"].__name__ in ("int8", "uint8") and detail.get("quantization", (0, 0))[0] != 0


def _quantised(row: NDArray[Any], detail: Mapping[str, Any]) -> NDArray[Any]:
    import numpy as np

    scale, zero_point = detail["quantization"]
    limits = np.iinfo(detail["dtype"])
    whole: NDArray[Any] = np.clip(np.rint(row / scale) + zero_point, limits.min, limits.max)
    return whole.astype(detail["dtype"])


def _by_name(details: Sequence[Mapping[str, Any]]) -> dict[str, Mapping[str, Any]]:
    lone = {"": details[0]} if len(details) == 1 else {}
    return {**lone, **{detail["name"]: detail for detail in details}}


def executed(nodes: Sequence[Mapping[str, Any]]) -> list[str]:
    """Operator names without those that a delegate replaced.

    TFLite keeps a replaced node in its list and appends the delegate's node. A node was replaced when a
    delegate's output can be traced back to it without crossing the delegate's inputs.
    """
    place = {at: float(at) for at in range(len(nodes))}
    for at, replaced in replaced_by(nodes).items():
        place[at] = min(replaced, default=at) - 0.5
        for gone in replaced:
            place.pop(gone, None)
    return [str(nodes[at]["op_name"]) for at in sorted(place, key=place.__getitem__)]


def replaced_by(nodes: Sequence[Mapping[str, Any]]) -> dict[int, set[int]]:
    """The places in the list of the operators that each delegate replaced, by its own place there, see `executed`."""
    producers = {
        int(tensor): at
        for at, node in enumerate(nodes)
        for tensor in node["outputs"]
        if not _is_delegate(node)
    }
    return {at: _replaced(node, nodes, producers) for at, node in enumerate(nodes) if _is_delegate(node)}


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
