"""Training from which removed weights do not come back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.models import graph
from pipeline.models.graph import Graph
from pipeline.models.kernels import kernel_named
from pipeline.models.ports import entering, leaving, output_names
from pipeline.models.samples import Samples, in_order
from pipeline.pruning.distillation import Distillation, distance
from pipeline.pruning.schedule import Gradual, gradual_mask


def fine_tune(
    model: Any,
    masks: Mapping[str, NDArray[np.bool_]],
    x: Samples,
    y: Samples,
    loss: Any,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
    *,
    decay: bool = False,
    gradual: bool = False,
    distillation: Distillation | None = None,
) -> None:
    """Train `model` with Adam; after every step its kernels are zero where their masks are False.

    `masks` are by the kernel's name, of its shape; biases, normalisation and kernels without a mask are free. With
    `decay` the learning rate falls to zero along a cosine (Loshchilov & Hutter 2017, equation 5, without restarts).
    `gradual` takes from the masks only how many weights of each kernel are to go: none at first, and in the end as
    many, in each kernel those of the smallest magnitude by then. `distillation` adds the dense model's answers to
    what is learnt. `loss` is what Keras takes, for several outputs in the structure in which the model gives them.
    `on_epoch` gets the epoch, from 0, and its mean loss. Seeds Python's, numpy's and Keras' global
    generators, so that a run can be repeated. Raises `ValueError` when the loss is no longer finite; `model` is
    then as it was.
    """
    import keras

    def report(epoch: int, logs: Mapping[str, float]) -> None:
        if not np.isfinite(logs["loss"]):
            raise ValueError(
                f"fine-tuning diverged in epoch {epoch + 1}; give a learning rate below {learning_rate:g}"
            )
        on_epoch(epoch, float(logs["loss"]))

    keras.utils.set_random_seed(seed)
    # Layers such as Dropout draw their seeds when they are made, so a copy made now is seeded throughout.
    trained = graph.copy(model)
    held = {
        name: keras.Variable(np.ones_like(mask) if gradual else mask, dtype="bool", trainable=False)
        for name, mask in masks.items()
    }
    kernels = {name: kernel_named(Graph(trained), name).variable for name in masks}
    for name, mask in held.items():
        kernel = kernels[name]
        kernel.constraint = _holding(mask, kernel.constraint)
        kernel.assign(kernel.constraint(kernel))
    callbacks = [keras.callbacks.LambdaCallback(on_epoch_end=report)]
    steps = epochs * -(-len(x) // batch_size)
    if gradual:
        removed = {name: mask.size - int(np.count_nonzero(mask)) for name, mask in masks.items()}
        course = Gradual(steps, removed)
        callbacks.append(_removing(kernels, held, course))
    learner, targets, losses = _with_distillation(trained, y, loss, distillation)
    rate = keras.optimizers.schedules.CosineDecay(learning_rate, steps) if decay else learning_rate
    learner.compile(optimizer=keras.optimizers.Adam(rate), **losses)
    learner.fit(
        entering(learner, x), targets, epochs=epochs, batch_size=batch_size, verbose=0, callbacks=callbacks
    )
    model.set_weights(trained.get_weights())


def _holding(mask: Any, own: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    """A constraint, which Keras applies within each step, after the update: the layer's `own`, then the mask."""
    import keras

    def constraint(kernel: Any) -> Any:
        value = keras.ops.convert_to_tensor(kernel if own is None else own(kernel))
        return keras.ops.where(mask, value, keras.ops.zeros_like(value))

    return constraint


def _removing(kernels: Mapping[str, Any], held: Mapping[str, Any], course: Gradual) -> Any:
    """A callback that makes the masks anew as the course says."""
    import keras

    step = 0

    def after_step(batch: int, logs: Any) -> None:
        nonlocal step
        step += 1
        if not course.removes_after(step):
            return
        for name, mask in held.items():
            kernel = kernels[name]
            mask.assign(gradual_mask(kernel.numpy(), mask.numpy(), course.count(name, step)))
            kernel.assign(kernel.constraint(kernel))

    return keras.callbacks.LambdaCallback(on_train_batch_end=after_step)


def _with_distillation(
    trained: Any, y: Samples, loss: Any, distillation: Distillation | None
) -> tuple[Any, Any, dict[str, Any]]:
    """What to train, on which targets, with which losses: the model, or the model with its outputs given twice."""
    import keras

    if distillation is None:
        return trained, leaving(trained, y), {"loss": loss}
    names = output_names(trained)
    again = [
        keras.layers.Identity(name=f"{name}_as_the_dense_model")(output)
        for name, output in zip(names, trained.outputs, strict=True)
    ]
    learnt = [distance(each, distillation.temperature) for each in distillation.activations]
    weights = [1 - distillation.share] * len(names) + [distillation.share] * len(names)
    losses = {"loss": [*keras.tree.flatten(loss), *learnt], "loss_weights": weights}
    targets = [*in_order(y, names), *in_order(distillation.outputs, names)]
    return keras.Model(trained.inputs, [*trained.outputs, *again]), targets, losses
