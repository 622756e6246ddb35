"""The examples but the simplest, trained for a moment and taken through every stage on the host."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

from pipeline import engine, locate
from pipeline.artifacts import Store
from pipeline.progress import Progress
from tests.workspace import ROOT

# Every kernel, and no other.
PRUNED = {
    "digits_lstm": {"lstm/kernel", "lstm/recurrent_kernel", "dense1", "classes"},
    "machine": {"wave", "hidden", "wear", "fault"},
    "text": {
        *(f"attention/{part}/kernel" for part in ("query", "key", "value", "output")),
        *("dense1", "classes"),
    },
}


@pytest.mark.parametrize("name", sorted(PRUNED))
def test_an_example_is_pruned_and_converted_to_operators_of_every_runtime(tmp_path: Path, name: str) -> None:
    # The converter refuses what needs other operators, and the host's interpreter has none.
    plan, folder = locate.read_plan(
        str(ROOT / "examples" / f"{name}.yaml"),
        [
            *("train.epochs=1", "train.batch_size=256"),
            *("prune.hessian.calibration_samples=64", "prune.allocation=uniform"),
        ],
    )
    run = engine.run_host_stages(plan, folder, Store(tmp_path), Progress())
    pruned = {each["layer"]: each for each in run.report("prune")["decisions"]}
    assert {layer for layer, each in pruned.items() if each["action"] == "pruned"} == PRUNED[name]
    assert all(each["reason"] for each in pruned.values())
    assert all(pruned[kernel]["loss_increase"] > 0 for kernel in PRUNED[name])
    for runtime in ("tflite-runtime", "ai-edge-litert"):
        # Raises where the runtime has not all of the operators.
        engine.encode(plan, run, Store(tmp_path), Progress(), (runtime, "arm"))
        assert run.encoded[runtime, "arm"]["report"].read_json()["agreement"]["agrees"]


def test_the_corpus_is_the_same_on_every_call_and_its_labels_follow_from_its_words() -> None:
    text = runpy.run_path(str(ROOT / "examples" / "text.py"))
    (x_train, y_train), (x_test, y_test) = text["corpus"]()
    again = text["corpus"]()
    assert np.array_equal(x_train, again[0][0]) and np.array_equal(y_test, again[1][1])
    assert x_train.shape[1:] == x_test.shape[1:] == (text["WORDS"],)
    assert 0.4 < y_train.mean() < 0.6
    words, good, bad = text["VOCABULARY"], text["GOOD"].split(), text["BAD"].split()
    for tokens, label in zip(x_train[:200], y_train[:200], strict=True):
        read = [words[token] for token in tokens]
        if read[-1]:
            continue  # it may have been cut off
        signs = [(word in good) - (word in bad) for word in read]
        turned = [
            -sign if before == text["NEGATION"] else sign
            for before, sign in zip(["", *read], signs, strict=False)
        ]
        assert (sum(turned) > 0) == label
