"""What a worker does: run every input through a model, or time one of them many times."""

from __future__ import annotations

import os
import platform
from typing import TYPE_CHECKING, Any

from device_agents import memory, runtimes, timing
from device_agents.failure import Failure
from device_agents.files import replacing, sha256_of
from device_agents.interpreter import Model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def evaluate(request: dict[str, Any]) -> dict[str, Any]:
    """Run each of the N inputs at batch 1; the outputs, stacked to N x output shape, become a float32 .npy
    file.
    """
    import numpy as np

    inputs = _inputs(request["inputs"])
    runtime = runtimes.find(request["runtime"])
    model = Model(runtime.load(request["model"], request["threads"]), request["model"])
    model.check_input(inputs.shape[1:], inputs.dtype)
    outputs = np.stack([_infer(model, row) for row in inputs])
    path = request["outputs"]
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    with replacing(path) as stream:
        # Not np.save: on a full disk it raises an OSError that does not say so.
        np.lib.format.write_array_header_1_0(stream, np.lib.format.header_data_from_array_1_0(outputs))
        stream.write(outputs.data)
    return {"event": "evaluated", "samples": len(outputs), "outputs": path, "sha256": sha256_of(path)}


def repetition(request: dict[str, Any]) -> dict[str, Any]:
    """Load a model, run its first inference, warm it up, take samples; all on the first of the inputs."""
    import numpy as np

    first_row = np.array(_inputs(request["inputs"])[0])
    runtime = runtimes.find(request["runtime"])
    recorder = timing.Recorder(**request["protocol"])
    memory.reset_peak()
    before_load = memory.usage()
    load_ns, interpreter = timing.timed(lambda: runtime.load(request["model"], request["threads"]))
    after_load = memory.usage()
    model = Model(interpreter, request["model"])
    model.check_input(first_row.shape, first_row.dtype)
    model.set_input(first_row)
    first_ns, _ = timing.timed(model.invoke)
    after_first = memory.usage()
    recorder.record(lambda: model.set_input(first_row), model.invoke)
    steady = memory.usage()
    return {
        "event": "repetition",
        "load_ns": load_ns,
        "first_ns": first_ns,
        "warmup_ns": recorder.warmup_ns.tolist(),
        "samples_ns": recorder.samples_ns.tolist(),
        "memory": {
            "before_load": before_load,
            "after_load": after_load,
            "after_first": after_first,
            "steady": steady,
        },
        "clock": timing.clock(),
        "threads": request["threads"],
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "runtime": request["runtime"],
            "runtime_version": runtime.version,
        },
        "operators": model.executed_operators(),
    }


def _inputs(path: str) -> NDArray[np.float32]:
    """The inputs, mapped and not read: they may be larger than the device's memory."""
    import numpy as np

    try:
        inputs: NDArray[np.float32] = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise Failure("job", f"expected {path} to be a .npy file of inputs: {error}") from None
    if inputs.dtype != np.float32 or inputs.ndim < 2 or len(inputs) == 0:
        received = f"{inputs.dtype} {'x'.join(map(str, inputs.shape))}"
        raise Failure(
            "job",
            f"expected {path} to hold at least one float32 input, N x input shape. Received: {received}",
        )
    return inputs


def _infer(model: Model, row: NDArray[np.float32]) -> NDArray[np.float32]:
    model.set_input(row)
    model.invoke()
    return model.output()
