"""What enters the kernels of a model, and what their products are, while the model runs.

A recurrent layer is observed through its cell, which multiplies the step's input with one kernel and the state that
the step before left with the other. So that both products can be told, the cell's equations are carried out here:

LSTM       z = x W + h U + b;  i, f, g, o its quarters;  c' = s(f) c + s(i) a(g);  h' = s(o) a(c')
GRU        x W + b, h U + b' in thirds for z, r, g;  g = a(x_g + s(r) h_g);  h' = s(z) h + (1 - s(z)) g
SimpleRNN  h' = a(x W + b + h U)

(s the recurrent activation, a the activation.) A GRU that resets before it multiplies has x W only to tell.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.models.graph import Graph
from pipeline.models.kernels import Kernel
from pipeline.models.samples import Samples, fitting_batch

Array = NDArray[Any]
# The least samples of a batch; a step of a sequence takes about the same time whether there are many of them or few.
_BATCH = 64
_STEPWISE_BATCH = 256
# Told of a product: the kernel's name, what entered, and what came of it, tensors both.
Note = Callable[[str, Any, Any], None]


@contextmanager
def observed(kernels: Sequence[Kernel], note: Note) -> Iterator[None]:
    """While the block runs, `note` is told of each product with one of `kernels`: of a sequence, step by step."""
    owners = {id(kernel.owner): kernel.owner for kernel in kernels}
    layers = {id(layer): layer for kernel in kernels for layer in _recurrent(kernel)}
    with ExitStack() as stack:
        for owner in owners.values():
            names = {kernel.attribute: kernel.name for kernel in kernels if kernel.owner is owner}
            stack.enter_context(_watched(owner, names, note))
        for layer in layers.values():
            # A kernel of the graphics card knows no cell, and a loop tries its first step once more.
            stack.enter_context(_replaced(layer, use_cudnn=False, unroll=True))
        yield


def entering(
    wired: Graph, kernel: Kernel, samples: Samples, batch_size: int | None = None
) -> Iterator[tuple[Array, NDArray[np.bool_]]]:
    """What enters the kernel for the model inputs `samples`, a batch at a time: inputs (m, ...), of a sequence that
    is read step by step those of the first step first; and (m,), False for the steps that a mask leaves out.
    """
    import keras

    batch_size = batch_size or (_STEPWISE_BATCH if _recurrent(kernel) else _batch(samples))
    if kernel.is_product:
        for found in wired.inputs(kernel.node.name, samples, batch_size):
            yield found, np.ones(len(found), bool)
        return
    seen: list[Any] = []
    masks: list[Any] = []

    @contextmanager
    def during() -> Iterator[None]:
        seen.clear()
        masks.clear()
        with observed([kernel], lambda _, x, __: seen.append(x)), _masked(kernel, masks):
            yield

    for _ in wired.run(kernel.node.layer.output, samples, batch_size, during):
        found = np.concatenate([np.asarray(keras.ops.convert_to_numpy(x), np.float32) for x in seen])
        counted = np.concatenate([np.asarray(mask, bool) for mask in masks] or [np.ones(len(found), bool)])
        yield found, counted


def _batch(samples: Samples) -> int:
    """More samples where they are small: each batch costs as much again as some hundred of them."""
    return max(_BATCH, fitting_batch(samples, elements=1 << 18))


@contextmanager
def _masked(kernel: Kernel, masks: list[Any]) -> Iterator[None]:
    """While the block runs, the masks of the sequences that the kernel's layer reads are added to `masks`, by step."""
    with ExitStack() as stack:
        for layer in _recurrent(kernel):
            stack.enter_context(
                _replaced(layer, inner_loop=functools.partial(_loop, layer, layer.inner_loop, masks))
            )
        yield


def _loop(layer: Any, own: Callable[..., Any], masks: list[Any], **given: Any) -> Any:
    """The layer's `own` loop over the steps, its mask told first."""
    if given["mask"] is not None:
        steps = np.asarray(given["mask"]).T
        masks.extend(steps[::-1] if layer.go_backwards else steps)
    return own(**given)


def _recurrent(kernel: Kernel) -> list[Any]:
    """The layer that runs the cell which multiplies with the kernel; none where there is no cell."""
    layer = kernel.node.layer
    around = [layer, *(getattr(layer, f"{side}_layer", None) for side in ("forward", "backward"))]
    return [each for each in around if getattr(each, "cell", None) is kernel.owner]


@contextmanager
def _watched(owner: Any, names: dict[str, str], note: Note) -> Iterator[None]:
    """`names` are those of the kernels of `owner`, by their attributes there."""
    step = CELLS.get(type(owner).__name__)
    entered: list[Any] = []
    call, activation = owner.call, getattr(owner, "activation", None)

    def product(attribute: str, inputs: Any) -> Any:
        import keras

        leaving = keras.ops.matmul(inputs, getattr(owner, attribute))
        if attribute in names:
            note(names[attribute], inputs, leaving)
        return leaving

    def seen_entering(inputs: Any, *args: Any, **kwargs: Any) -> Any:
        entered.append(inputs)
        return call(inputs, *args, **kwargs)

    def seen_leaving(leaving: Any) -> Any:
        (name,) = names.values()
        note(name, entered.pop(), leaving)
        return leaving if activation is None else activation(leaving)

    if step is not None:
        with _replaced(owner, call=functools.partial(step, owner, product)):
            yield
    else:
        with _replaced(owner, call=seen_entering, activation=seen_leaving):
            yield


@contextmanager
def _replaced(thing: Any, **values: Any) -> Iterator[None]:
    """While the block runs, the object has these attributes, unbeknown to the tracking of Keras."""
    own = vars(thing)
    before = {name: own[name] for name in values if name in own}
    own.update(values)
    try:
        yield
    finally:
        for name in values:
            del own[name]
        own.update(before)


def _lstm(cell: Any, product: Any, x: Any, states: Any, training: bool = False) -> tuple[Any, list[Any]]:
    import keras

    h, c = states
    z = _biased(product("kernel", x) + product("recurrent_kernel", h), cell.bias)
    i, f, g, o = keras.ops.split(z, 4, axis=1)
    c = cell.recurrent_activation(f) * c + cell.recurrent_activation(i) * cell.activation(g)
    h = cell.recurrent_activation(o) * cell.activation(c)
    return h, [h, c]


def _gru(cell: Any, product: Any, x: Any, states: Any, training: bool = False) -> tuple[Any, list[Any]]:
    import keras

    (h,) = states
    bias, recurrent_bias = cell.bias, None
    if cell.reset_after and bias is not None:
        bias, recurrent_bias = keras.ops.unstack(bias, 2)
    x_z, x_r, x_g = keras.ops.split(_biased(product("kernel", x), bias), 3, axis=1)
    if cell.reset_after:
        h_z, h_r, h_g = keras.ops.split(_biased(product("recurrent_kernel", h), recurrent_bias), 3, axis=1)
        g = x_g + cell.recurrent_activation(x_r + h_r) * h_g
    else:
        kernels = keras.ops.split(keras.ops.convert_to_tensor(cell.recurrent_kernel), 3, axis=1)
        h_z, h_r = (keras.ops.matmul(h, kernel) for kernel in kernels[:2])
        g = x_g + keras.ops.matmul(cell.recurrent_activation(x_r + h_r) * h, kernels[2])
    z = cell.recurrent_activation(x_z + h_z)
    h = z * h + (1 - z) * cell.activation(g)
    return h, [h]


def _simple(cell: Any, product: Any, x: Any, states: Any, training: bool = False) -> tuple[Any, list[Any]]:
    (h,) = states
    h = cell.activation(_biased(product("kernel", x), cell.bias) + product("recurrent_kernel", h))
    return h, [h]


def _biased(values: Any, bias: Any) -> Any:
    return values if bias is None else values + bias


CELLS = {"LSTMCell": _lstm, "GRUCell": _gru, "SimpleRNNCell": _simple}
