"""Training from which removed weights do not come back."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.models import graph
from pipeline.pruning.keras_layers import kernel_of


def fine_tune(
    model: Any,
    masks: Mapping[str, NDArray[np.bool_]],
    x: NDArray[Any],
    y: NDArray[Any],
    loss: Any,
    epochs: int,
    batch_size: int,
    learning_rate: float,
    seed: int,
    on_epoch: Callable[[int, float], None] = lambda epoch, loss: None,
) -> None:
    """Train `model` with Adam; after every step its kernels are zero where their masks are False.

    `masks` are by layer name, of the kernel's shape; biases, normalisation and layers without a mask are free.
    `on_epoch` gets the epoch, from 0, and its mean loss. Seeds Python's, numpy's and Keras' global generators, so
    that a run can be repeated. Raises `ValueError` when the loss is no longer finite; `model` is then as it was.
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
    for name, mask in masks.items():
        kernel = kernel_of(trained.get_layer(name))
        kernel.constraint = _holding(mask, kernel.constraint)
        kernel.assign(kernel.constraint(kernel))
    trained.compile(optimizer=keras.optimizers.Adam(learning_rate), loss=loss)
    callback = keras.callbacks.LambdaCallback(on_epoch_end=report)
    trained.fit(x, y, epochs=epochs, batch_size=batch_size, verbose=0, callbacks=[callback])
    model.set_weights(trained.get_weights())


def _holding(mask: NDArray[np.bool_], own: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    """A constraint, which Keras applies within each step, after the update: the layer's `own`, then the mask."""
    import keras

    def constraint(kernel: Any) -> Any:
        value = keras.ops.convert_to_tensor(kernel if own is None else own(kernel))
        return keras.ops.where(mask, value, keras.ops.zeros_like(value))

    return constraint
