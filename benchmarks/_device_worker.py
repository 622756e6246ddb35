"""Runs on a device: loads the models of an archive one after another and prints what each answers, a line of JSON each.

    python3 worker.py BUNDLE RUNTIME ARCHIVE SECONDS

Standard input: a line of JSON for each run, then an empty line. A run that crashes, or takes longer than SECONDS, ends
the process: the host knows by the lines that are missing.
"""

import base64
import io
import json
import os
import signal
import sys
import time
import zipfile


def main():
    bundle, runtime, archive, seconds = sys.argv[1:]
    lines = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # native libraries print as well
    sys.path.insert(0, bundle)
    interpreter = __import__(runtime.replace("-", "_") + ".interpreter", fromlist=["Interpreter"])
    files = zipfile.ZipFile(archive)
    for line in iter(sys.stdin.readline, "\n"):
        signal.setitimer(signal.ITIMER_REAL, float(seconds))
        lines.write(json.dumps(run(interpreter, files, json.loads(line))) + "\n")
        lines.flush()
    signal.setitimer(signal.ITIMER_REAL, 0)


def run(interpreter, files, job):
    import numpy

    resolver = interpreter.OpResolverType
    kind = resolver.AUTO if job["delegate"] else resolver.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    inputs = numpy.load(io.BytesIO(files.read(job["inputs"])))
    try:
        loaded = interpreter.Interpreter(
            model_content=files.read(job["model"]), num_threads=1, experimental_op_resolver_type=kind
        )
        loaded.allocate_tensors()
        entry, exits = loaded.get_input_details()[0]["index"], loaded.get_output_details()
        answers = [[] for _ in exits]
        for row in inputs:
            loaded.set_tensor(entry, row[None])
            loaded.invoke()
            for found, each in zip(answers, exits, strict=True):
                found.append(loaded.get_tensor(each["index"])[0])
        seconds = min(timed(loaded) for _ in range(job["times"])) if job["times"] else None
    except (RuntimeError, ValueError) as error:
        return {"error": str(error).strip()}
    nodes = [
        {"op_name": node["op_name"], **{key: [int(at) for at in node[key]] for key in ("inputs", "outputs")}}
        for node in loaded._get_ops_details()
    ]
    return {"answers": [packed(numpy.stack(found)) for found in answers], "nodes": nodes, "seconds": seconds}


def timed(loaded):
    started = time.perf_counter()
    loaded.invoke()
    return time.perf_counter() - started


def packed(array):
    return [base64.b64encode(array.astype("<f4").tobytes()).decode(), array.shape]


main()
