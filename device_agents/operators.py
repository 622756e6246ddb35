"""Which operators ran by which kernels, and how long each took, told by the graph itself and by XNNPACK.

Two onlookers of ours are asked as delegates are, and take nothing. The first, before all others, hangs a profiler into
the graph, to which XNNPACK reports its kernels. The second, when all others have taken theirs, puts a stopwatch around
each operator that is left. It is native code that we reach into: only in a process whose end harms nothing.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from ctypes import c_void_p, cast
from typing import TYPE_CHECKING, Any, Callable

from device_agents.failure import Failure
from device_agents.interpreter import Model, Runtime, Setting, replaced_by
from device_agents.tflite_c import Invoke, Onlooker, Profiler, plan_of

if TYPE_CHECKING:
    from numpy.typing import NDArray

Sample = Mapping[str, "NDArray[Any]"]
WARM_UPS = 3
# XNNPACK's word for a product of a sparse matrix and a dense one.
SPARSE_KERNEL = "spmm"
READS_SPARSE_WEIGHTS = ("FULLY_CONNECTED",)


def told(runtime: Runtime, path: str, setting: Setting, sample: Sample, seconds: float = 0) -> dict[str, Any]:
    """What ran in one inference of `sample`; with `seconds`, how long it took in the mean of inferences for so long.

    `nodes`, in the order in which they ran: `kind` (DELEGATE for what one took over), `output` (the tensor it writes),
    `by` (the delegate's name, None for the runtime's own kernels), `took` (kinds of what the delegate took over),
    `sparse` (whether a kernel for sparse weights ran, None where nobody tells), `kernels` (the delegate's, by name) and
    nanoseconds `ns` of all of these. `whole_ns` is what an inference takes without onlookers. `reason` instead, where
    the runtime does not tell.
    """
    try:
        whole_ns = None
        if seconds:
            plain = Model(runtime.load(path, setting), path)
            whole_ns = _mean(plain, sample, seconds, lambda: None)[0]
            del plain
        watch = _Watch(runtime, path, setting)
        _, runs = _mean(watch.model, sample, seconds, watch.begin)
        nodes = watch.nodes(runs if seconds else None)
    except (AttributeError, TypeError, ValueError, RuntimeError, OSError, ImportError, Failure) as error:
        return {"reason": f"{runtime.name} {runtime.version} does not tell: {error}"}
    return {"runs": runs if seconds else 0, "whole_ns": whole_ns, "nodes": nodes}


def _mean(model: Model, sample: Sample, seconds: float, begin: Callable[[], object]) -> tuple[float, int]:
    """Nanoseconds of an inference in the mean, and of how many; without `seconds`, of a single one."""
    now = time.perf_counter_ns
    for _ in range(WARM_UPS if seconds else 0):
        model.set_inputs(sample)
        model.invoke()
    begin()
    taken = runs = 0
    while runs == 0 or taken < seconds * 1e9:
        model.set_inputs(sample)
        start = now()
        model.invoke()
        taken += now() - start
        runs += 1
    return taken / runs, runs


class _Watch:
    """A loaded model with both onlookers at it. They live as long as it does."""

    def __init__(self, runtime: Runtime, path: str, setting: Setting) -> None:
        self._profiler = Profiler(self._report)
        self._first, self._second = Onlooker(self._hang_profiler), Onlooker(self._put_stopwatches)
        self._graphs: list[int] = []
        self._plan: list[tuple[int, str | None]] = []
        self._kept: list[Any] = []
        self.begin()
        self._interpreter = runtime.load(path, setting, [self._first])
        self._interpreter._interpreter.ModifyGraphWithDelegate(self._second.address)
        if not self._plan:
            raise RuntimeError("its graph cannot be looked at")
        self.model = Model(self._interpreter, path)

    def begin(self) -> None:
        """Forget all times until now."""
        self._ns: dict[int, int] = {}
        self._kernels: dict[int, dict[int, tuple[str, int]]] = {}
        self._running = -1
        self._reports = 0
        self._reported_at = 0

    def _hang_profiler(self, context: Any) -> None:
        # The first graph is the model's; the others are bodies of its control flow, and count with what calls them.
        self._graphs.append(cast(context, c_void_p).value or 0)
        if len(self._graphs) == 1:
            context.contents.profiler = self._profiler.address

    def _put_stopwatches(self, context: Any) -> None:
        if cast(context, c_void_p).value != self._graphs[0]:
            return
        for number, registration in plan_of(context):
            name = registration.contents.custom_name
            self._plan.append((number, None if name is None else name.decode(errors="replace")))
            if registration.contents.invoke:
                registration.contents.invoke = self._stopwatch(number, registration.contents.invoke)

    def _stopwatch(self, number: int, address: int) -> Any:
        call, now = Invoke(address), time.perf_counter_ns

        def timed(context: int, node: int) -> int:
            self._running, self._reports, self._reported_at = number, 0, 0
            start = now()
            status: int = call(context, node)
            # What reporting takes is none of the kernels' time.
            end = self._reported_at or now()
            self._ns[number] = self._ns.get(number, 0) + end - start
            return status

        wrapped = Invoke(timed)
        self._kept += [call, wrapped]
        return cast(wrapped, c_void_p)

    def _report(self, name: str, microseconds: int) -> None:
        self._reported_at = self._reported_at or time.perf_counter_ns()
        kernels = self._kernels.setdefault(self._running, {})
        before = kernels.get(self._reports, (name, 0))[1]
        kernels[self._reports] = name, before + 1000 * microseconds
        self._reports += 1

    def nodes(self, runs: int | None) -> list[dict[str, Any]]:
        """What is known of each operator that ran, see `told`."""
        details = {int(node["index"]): node for node in self._interpreter._get_ops_details()}
        tensors = {int(tensor["index"]): tensor for tensor in self._interpreter.get_tensor_details()}
        replaced = replaced_by(list(details.values()))
        found = []
        for number, name in self._plan:
            node = details[number]
            kind, outputs = str(node["op_name"]), [int(tensor) for tensor in node["outputs"]]
            delegated = kind == "DELEGATE"
            kernels = list(self._kernels.get(number, {}).values())
            writes = tensors.get(outputs[0]) if outputs else None
            found.append(
                {
                    "kind": kind,
                    "output": str(writes["name"]) if writes else "",
                    "by": name or kind if delegated else None,
                    "took": [str(details[at]["op_name"]) for at in sorted(replaced.get(number, ()))],
                    "sparse": _ran_sparse(kernels) if delegated else _reads_sparse(node, tensors),
                    "ns": None if runs is None or number not in self._ns else self._ns[number] / runs,
                    "kernels": [
                        {"name": kernel, "ns": None if runs is None else total / runs}
                        for kernel, total in kernels
                    ],
                }
            )
        return found


def _ran_sparse(kernels: list[tuple[str, int]]) -> bool | None:
    return any(SPARSE_KERNEL in name.lower() for name, _ in kernels) if kernels else None


def _reads_sparse(node: Mapping[str, Any], tensors: Mapping[int, Mapping[str, Any]]) -> bool:
    """Whether an operator of the runtime's own is given sparse weights as they are stored."""
    if str(node["op_name"]) not in READS_SPARSE_WEIGHTS:
        return False
    weights = tensors.get(int(node["inputs"][1]))
    return bool(weights and weights.get("sparsity_parameters"))
