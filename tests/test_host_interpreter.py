"""The interpreter on this machine, in a process of its own: right answers, and no file that takes us down."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from pipeline.errors import UserError
from pipeline.sparse_tflite import host_interpreter
from pipeline.sparse_tflite.flatbuffer import read_model, write_model
from pipeline.sparse_tflite.host_interpreter import answers_on_host, outputs_on_host
from tests.tflite_files import endless_file, matrix_file

MATRIX = np.arange(12, dtype=np.float32).reshape(3, 4)
INPUTS = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32)


def test_each_file_answers_by_its_own_weights() -> None:
    contents = [matrix_file(MATRIX, at="dense"), matrix_file(2 * MATRIX, at="dense")]
    once, twice = answers_on_host(contents, INPUTS)
    np.testing.assert_allclose(once, INPUTS @ MATRIX.T, rtol=1e-5)
    np.testing.assert_array_equal(twice, 2 * np.asarray(once))


def test_tensorflow_itself_is_not_imported_for_it() -> None:
    script = (
        "import sys; from pipeline.sparse_tflite import interpreter_process as it; it._interpreter_class();"
        "print('tensorflow.python.framework' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said.stdout == "False\n"


def changed(change: Any) -> bytes:
    model = read_model(matrix_file(MATRIX, at="dense"), "dense")
    change(model.subgraphs[0])
    return write_model(model)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda graph: setattr(graph.tensors[1], "shape", [3, 5]), ""),
        (lambda graph: setattr(graph, "outputs", []), "it has no output"),
        (lambda graph: setattr(graph, "inputs", [0, 0]), "expected samples for each of "),
    ],
)
def test_what_the_interpreter_refuses_is_told(change: Any, words: str) -> None:
    with pytest.raises(UserError, match=f"cannot run the .tflite file: {words}"):
        outputs_on_host(changed(change), INPUTS)


def test_a_crash_is_a_refusal_with_the_signal() -> None:
    with pytest.raises(UserError, match=r"crashed on the .tflite file \(signal SIG[A-Z]+\)"):
        outputs_on_host(endless_file(), np.ones(2, np.float32))


def test_a_file_that_never_ends_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_interpreter, "SECONDS", 0.0)
    with pytest.raises(UserError, match=r"did not get through one sample of the \.tflite file within 0 s"):
        outputs_on_host(matrix_file(MATRIX, at="dense"), INPUTS)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_interpreter, "MEMORY", 64 << 20)
    with pytest.raises(UserError, match=r"exit code 1 on the \.tflite file: "):
        outputs_on_host(matrix_file(MATRIX, at="dense"), INPUTS)
