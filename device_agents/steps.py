"""What a worker does: run every input through a model, time one of them many times, or look at what runs."""

from __future__ import annotations

import contextlib
import platform
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from device_agents import memory, pacing, page_cache, placement, runtimes, speed, sustaining, timing
from device_agents.failure import Failure
from device_agents.files import sha256_of
from device_agents.interpreter import Model, Runtime, Setting
from device_agents.rows import Rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Of the largest number of an output: the same file on the same device answers the same, or nearly.
TOLERANCE = 1e-4


def evaluate(request: dict[str, Any]) -> dict[str, Any]:
    """Run each of the N samples at batch 1; every output, N x output shape, becomes a float32 .npy file, written sample
    by sample: neither inputs nor outputs need fit into memory. Then look at what ran, if `look`.
    """
    samples, paths = _samples(request["inputs"]), named(request["outputs"])
    count = len(next(iter(samples.values())))
    with contextlib.ExitStack() as files:
        rows = {name: files.enter_context(Rows(path, count)) for name, path in paths.items()}
        for answers in _answers(request, samples, list(paths)):
            for name, answer in answers.items():
                rows[name].add(answer)
    digests = {name: sha256_of(path) for name, path in paths.items()}
    return {
        "event": "evaluated",
        "samples": count,
        "outputs": request["outputs"],
        "sha256": digests.get("", digests),
        "operators": _look(request, samples) if request["look"] else None,
    }


def profile(request: dict[str, Any]) -> dict[str, Any]:
    """How long each operator takes in the first of the samples, in the mean of inferences for `seconds`."""
    return {
        "event": "profiled",
        "operators": _look(request, _samples(request["inputs"]), request["seconds"]),
    }


def _look(request: dict[str, Any], samples: dict[str, NDArray[Any]], seconds: float = 0) -> dict[str, Any]:
    import numpy as np

    # Here, for it would weigh on every process that is measured.
    try:
        from device_agents import operators
    except ImportError as error:
        return {"reason": f"this Python cannot look: {error}"}

    first = {name: np.array(array[0]) for name, array in samples.items()}
    runtime, setting = runtimes.find(request["runtime"]), Setting(**request["setting"])
    return operators.told(runtime, request["model"], setting, first, seconds)


def check(request: dict[str, Any]) -> dict[str, Any]:
    """Run the first of the samples and compare with the `golden` outputs, one row a sample.

    Raises Failure("unhealthy") where a number is farther off than `TOLERANCE` of the largest.
    """
    import numpy as np

    golden = {name: np.load(path, allow_pickle=False) for name, path in named(request["golden"]).items()}
    count = min(len(array) for array in golden.values())
    samples = {name: array[:count] for name, array in _samples(request["inputs"]).items()}
    worst = 0.0
    largest = {
        name: max(1.0, float(np.abs(array[:count]).max(initial=0.0))) for name, array in golden.items()
    }
    for number, answers in enumerate(_answers(request, samples, list(golden))):
        for name, answer in answers.items():
            off = np.abs(answer - golden[name][number]) / largest[name]
            worst = max(worst, float(np.where(np.isnan(off), np.inf, off).max(initial=0.0)))
    if worst > TOLERANCE:
        raise Failure(
            "unhealthy", f"the installed model answers otherwise than it was measured to: off by {worst:.3g}"
        )
    return {"event": "checked", "samples": count, "difference": worst}


def trial(request: dict[str, Any]) -> dict[str, Any]:
    """Import the runtime and do what a measurement makes a process do besides: a product of matrices, a thread."""
    import threading

    import numpy as np

    runtime = runtimes.find(request["runtime"])
    square = np.ones((128, 128), np.float32)
    thread = threading.Thread(target=np.matmul, args=(square, square))
    thread.start()
    thread.join()
    return {"event": "tried", "versions": _versions(runtime)}


def _answers(
    request: dict[str, Any], samples: dict[str, NDArray[Any]], names: list[str]
) -> Iterator[dict[str, NDArray[np.float32]]]:
    """The outputs of these names for each of the samples in turn."""
    runtime = runtimes.find(request["runtime"])
    model = Model(runtime.load(request["model"], Setting(**request["setting"])), request["model"])
    model.check_inputs(samples)
    model.check_outputs(names)
    for number in range(len(next(iter(samples.values())))):
        model.set_inputs({name: array[number] for name, array in samples.items()})
        model.invoke()
        yield {name: model.output(name) for name in names}


def repetition(request: dict[str, Any]) -> dict[str, Any]:
    """Load a model, run its first inference, warm it up, take samples; all on the first of the samples."""
    placed = placement.take(**request["placement"])
    import numpy as np

    samples = _samples(request["inputs"])
    first = {name: np.array(array[0]) for name, array in samples.items()}
    runtime, setting = runtimes.find(request["runtime"]), Setting(**request["setting"])
    recorder = timing.Recorder(**request["protocol"])
    memory.reset_peak()
    before_load = memory.usage()
    load_ns, interpreter = timing.timed(lambda: runtime.load(request["model"], setting))
    after_load = memory.usage(request["model"])
    model = Model(interpreter, request["model"])
    model.check_inputs(samples)
    model.set_inputs(first)
    first_ns, _ = timing.timed(model.invoke)
    after_first = memory.usage(request["model"])
    looks: list[dict[str, int]] = []
    recorder.record(
        lambda: model.set_inputs(first), model.invoke, lambda: looks.append(speed.frequencies_hz())
    )
    during = {
        **speed.observe(),
        "frequencies_before_hz": looks[0],
        "clocks_ns": recorder.clocks_ns,
        "placement": placed,
    }
    steady = memory.usage(request["model"])
    paced = None
    if request["deadline"] is not None:
        # A copy of the input is part of what such an application does at each release.
        paced = pacing.paced(lambda: model.set_inputs(first), model.invoke, **request["deadline"])
    return {
        "event": "repetition",
        "load_ns": load_ns,
        "first_ns": first_ns,
        "warmup_ns": recorder.warmup_ns.tolist(),
        "steady": recorder.steady,
        "samples_ns": recorder.samples_ns.tolist(),
        "waited_ns": recorder.waited_ns,
        "environment": during,
        "memory": {
            "before_load": before_load,
            "after_load": after_load,
            "after_first": after_first,
            "steady": steady,
        },
        "clock": timing.clock(),
        "threads": setting.threads,
        "versions": _versions(runtime),
        "operators": model.executed_operators(),
        "paced": paced,
    }


def cold(request: dict[str, Any]) -> dict[str, Any]:
    """Load a model whose file is not in the page cache, and run its first inference, on the first of the samples; where
    the file stays there nothing is timed.
    """
    placement.take(**request["placement"])
    import numpy as np

    samples = _samples(request["inputs"])
    first = {name: np.array(array[0]) for name, array in samples.items()}
    runtime, setting = runtimes.find(request["runtime"]), Setting(**request["setting"])
    left, reason = page_cache.evict(request["model"])
    if reason is not None:
        return page_cache.not_cold(left, reason)
    load_ns, interpreter = timing.timed(lambda: runtime.load(request["model"], setting))
    model = Model(interpreter, request["model"])
    model.check_inputs(samples)
    model.set_inputs(first)
    first_ns, _ = timing.timed(model.invoke)
    return {"event": "cold", "load_ns": load_ns, "first_ns": first_ns, "resident": left, "reason": None}


def sustain(request: dict[str, Any]) -> dict[str, Any]:
    """Infer back to back for `seconds`, on the first of the samples."""
    windows = sustaining.sustained(*_on_the_first(request), request["seconds"])
    return {"event": "sustained", "seconds": request["seconds"], "windows": windows}


def spend(request: dict[str, Any]) -> dict[str, Any]:
    """Infer back to back for `seconds` and time none of it, for the launcher to read meters meanwhile."""
    return {"event": "spent", **sustaining.counted(*_on_the_first(request), request["seconds"])}


def _on_the_first(request: dict[str, Any]) -> tuple[Callable[[], None], Callable[[], None]]:
    """A model loaded, in its place: how it is given the first of the samples, and how it is invoked."""
    placement.take(**request["placement"])
    import numpy as np

    samples = _samples(request["inputs"])
    first = {name: np.array(array[0]) for name, array in samples.items()}
    runtime = runtimes.find(request["runtime"])
    model = Model(runtime.load(request["model"], Setting(**request["setting"])), request["model"])
    model.check_inputs(samples)
    return lambda: model.set_inputs(first), model.invoke


def _versions(runtime: Runtime) -> dict[str, str]:
    import numpy as np

    return {
        "python": platform.python_version(),
        "numpy": np.__version__,
        "runtime": runtime.name,
        "runtime_version": runtime.version,
    }


def named(given: str | dict[str, str]) -> dict[str, str]:
    """Paths by the names of inputs or outputs; a single path is that of the only one, which goes by ""."""
    return given if isinstance(given, dict) else {"": given}


def _samples(paths: str | dict[str, str]) -> dict[str, NDArray[Any]]:
    """The inputs by name, as many of each."""
    samples = {name: _array(path) for name, path in named(paths).items()}
    if len({len(array) for array in samples.values()}) != 1:
        received = ", ".join(f"{len(array)} of {name}" for name, array in samples.items())
        raise Failure("job", f"expected as many inputs of each name. Received: {received or 'none'}")
    return samples


def _array(path: str) -> NDArray[Any]:
    """One of the inputs, mapped and not read: it may be larger than the device's memory."""
    import numpy as np

    try:
        array: NDArray[Any] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise Failure("job", f"expected {path} to be a .npy file of inputs: {error}") from None
    if array.dtype.kind not in "fiub" or array.ndim < 2 or len(array) == 0:
        received = f"{array.dtype} {'x'.join(map(str, array.shape))}"
        raise Failure(
            "job",
            f"expected {path} to hold the numbers of at least one input, N x input shape. Received: {received}",
        )
    return array
