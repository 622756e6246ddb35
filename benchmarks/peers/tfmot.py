"""Prune with tensorflow-model-optimization: a job (JSON) on standard input, the accuracies (JSON) on standard output.

The job: `layers` (class and arguments of a Sequential's layers), `arrays` (an .npz file with the weights in order as
w0, w1, ... and with x_train, y_train, x_test, y_test), `sparsities`, `epochs`, `batch_size`, `learning_rate`, `seed`.
"""

from __future__ import annotations

import json
import os
import sys

os.environ["TF_USE_LEGACY_KERAS"] = "1"
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow_model_optimization as tfmot
import tf_keras as keras


def trained(job, arrays):
    """The model with the weights that it was given."""
    layers = [getattr(keras.layers, name)(**arguments) for name, arguments in job["layers"]]
    model = keras.Sequential([keras.Input(arrays["x_train"].shape[1:]), *layers])
    model.set_weights([arrays[f"w{index}"] for index in range(len(model.weights))])
    return model


def pruned(job, arrays, schedule, epochs):
    """The model after `epochs` of training under the toolkit's schedule; 0: one step that learns nothing."""
    keras.utils.set_random_seed(job["seed"])
    model = tfmot.sparsity.keras.prune_low_magnitude(trained(job, arrays), pruning_schedule=schedule)
    rate = job["learning_rate"] if epochs else 0.0
    model.compile(keras.optimizers.Adam(rate), "sparse_categorical_crossentropy")
    count = len(arrays["x_train"]) if epochs else job["batch_size"]
    model.fit(
        arrays["x_train"][:count],
        arrays["y_train"][:count],
        batch_size=job["batch_size"],
        epochs=max(1, epochs),
        verbose=0,
        callbacks=[tfmot.sparsity.keras.UpdatePruningStep()],
    )
    return tfmot.sparsity.keras.strip_pruning(model)


def measured(model, arrays):
    """The accuracy, and the share of zeros in all kernels."""
    answers = model.predict(arrays["x_test"], verbose=0).argmax(axis=1)
    kernels = [weight for weight in model.get_weights() if weight.ndim > 1]
    zeros = sum(int((kernel == 0).sum()) for kernel in kernels) / sum(kernel.size for kernel in kernels)
    return {"accuracy": float((answers == arrays["y_test"]).mean()), "zeros": zeros}


def main():
    """One job."""
    job = json.load(sys.stdin)
    arrays = dict(np.load(job["arrays"]))
    steps = -(-len(arrays["x_train"]) // job["batch_size"]) * job["epochs"]
    schedules = tfmot.sparsity.keras
    found = {"dense": measured(trained(job, arrays), arrays), "rows": []}
    for sparsity in job["sparsities"]:
        at_once = schedules.ConstantSparsity(sparsity, begin_step=0, frequency=1)
        gradual = schedules.PolynomialDecay(
            0.0, sparsity, begin_step=0, end_step=max(1, int(0.75 * steps)), frequency=max(1, steps // 50)
        )
        found["rows"].append(
            {
                "sparsity": sparsity,
                "no fine-tuning": measured(pruned(job, arrays, at_once, 0), arrays),
                "held": measured(pruned(job, arrays, at_once, job["epochs"]), arrays),
                "gradual": measured(pruned(job, arrays, gradual, job["epochs"]), arrays),
            }
        )
    print(json.dumps(found))


main()
