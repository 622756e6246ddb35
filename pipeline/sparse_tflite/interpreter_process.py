"""The process that `host_interpreter` starts: python -m pipeline.sparse_tflite.interpreter_process FOLDER FILES MEMORY

In FOLDER lie `inputs.npz` and FILES files `0.tflite`, `1.tflite`, ...; the answers go into `0.npz`, `1.npz`, ..., an
array for each output by its number. On standard output: a dot after each step, and for each file a line of JSON, with
the `names` of its outputs or why it was `refused`. MEMORY bounds the address space, in bytes.
"""

from __future__ import annotations

import importlib.util
import json
import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np

from pipeline.models.samples import NamedArrays, Samples, at_key, in_order
from pipeline.sparse_tflite.quantum import dequantised, quantised

STEP = b"."
# What `import tensorflow` would run before its interpreter could be imported, for seconds.
PACKAGES = ("tensorflow", "tensorflow.lite", "tensorflow.python", "tensorflow.python.util")


def main(folder: Path, files: int, memory: int) -> None:
    """Run the files one after the other; ends the process at the first that is refused."""
    _bound(resource.RLIMIT_AS, memory)
    _bound(resource.RLIMIT_CORE, 0)
    # Native libraries print as well; what they say must not get between the lines.
    out = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    make = _interpreter_class()
    with np.load(folder / "inputs.npz", allow_pickle=False) as stored:
        found = at_key("inputs", {key: stored[key] for key in stored.files})
    inputs: Samples = NamedArrays(found) if isinstance(found, dict) else np.asarray(found)
    for number in range(files):
        try:
            names, answers = _run(make, (folder / f"{number}.tflite").read_bytes(), inputs, out)
        except (RuntimeError, ValueError, TypeError, MemoryError) as error:
            out.write(json.dumps({"refused": str(error) or type(error).__name__}).encode() + b"\n")
            return
        np.savez(folder / f"{number}.npz", **{str(at): array for at, array in enumerate(answers)})  # type: ignore[arg-type]
        out.write(json.dumps({"names": names}).encode() + b"\n")


def _bound(what: int, size: int) -> None:
    """Lower a limit of this process."""
    _, hard = resource.getrlimit(what)
    size = size if hard == resource.RLIM_INFINITY else min(size, hard)
    resource.setrlimit(what, (size, hard))


def _interpreter_class() -> Any:
    """`tf.lite.Interpreter`, without the rest of TensorFlow where its files are laid out as they are today."""
    found = importlib.util.find_spec("tensorflow")
    places = found.submodule_search_locations if found is not None else None
    for name in PACKAGES if places else ():
        package = ModuleType(name)
        package.__path__ = [str(Path(place, *name.split(".")[1:])) for place in places or ()]
        sys.modules[name] = package
    try:
        from tensorflow.lite.python.interpreter import Interpreter
    except (ImportError, AttributeError):
        for name in [each for each in sys.modules if each.split(".")[0] == "tensorflow"]:
            del sys.modules[name]
        import tensorflow

        return tensorflow.lite.Interpreter
    return Interpreter


def _run(make: Any, content: bytes, inputs: Samples, out: Any) -> tuple[list[str], list[np.ndarray]]:
    """The names of a file's outputs, and their answers to all samples."""
    interpreter = make(model_content=content)
    interpreter.allocate_tensors()
    out.write(STEP + b"\n")
    sources, sinks = interpreter.get_input_details(), interpreter.get_output_details()
    if not sinks:
        raise ValueError("it has no output")
    arrays = in_order(inputs, [source["name"] for source in sources])
    answers: list[list[np.ndarray]] = [[] for _ in sinks]
    for number in range(len(inputs)):
        for source, array in zip(sources, arrays, strict=True):
            interpreter.set_tensor(source["index"], _taken(source, array[number][None]))
        interpreter.invoke()
        for sink, found in zip(sinks, answers, strict=True):
            found.append(_answer(sink, interpreter.get_tensor(sink["index"])))
        out.write(STEP + b"\n")
    return [sink["name"] for sink in sinks], [np.stack(found) for found in answers]


def _taken(source: Mapping[str, Any], array: np.ndarray) -> np.ndarray:
    """A sample in an input's type: whole numbers that stand for real ones are made of these."""
    scale, zero_point = source["quantization"]
    if scale and array.dtype.kind == "f" and np.dtype(source["dtype"]).kind in "iu":
        return quantised(array, scale, zero_point, source["dtype"])
    return array.astype(source["dtype"])


def _answer(sink: Mapping[str, Any], found: np.ndarray) -> np.ndarray:
    """What an output says of one sample, in real numbers; one that has no batch, all of it."""
    if found.dtype.kind not in "biufc":
        raise ValueError(f"expected numbers at its output {sink['name']}, received {found.dtype}")
    answer = np.array(found[0] if found.shape[:1] == (1,) else found)
    scale, zero_point = sink["quantization"]
    return dequantised(answer, scale, zero_point) if scale and answer.dtype.kind in "iu" else answer


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
