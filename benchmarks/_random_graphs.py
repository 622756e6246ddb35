"""Random small Keras models from a seed, and what surgery has to hold on each: for the benchmark and the tests."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pipeline.models.graph import Graph
from pipeline.pruning.surgery.cut import Anatomy

Random = np.random.Generator
Block = Callable[[Random, Any], Any]


@dataclass(frozen=True)
class Outcome:
    """Of one graph: the greatest difference as a share of the greatest output, and what was removed.

    `sizes` are of its weights, before and after; `models` are the masked and the cut one.
    """

    difference: float
    groups: int
    units: int
    sizes: list[tuple[int, int]]
    kinds: frozenset[str]
    models: tuple[Any, Any]

    def shrank(self) -> bool:
        """Has a weight become smaller for what left, none larger, and none of the whole model where nothing left?"""
        smaller = any(after < before for before, after in self.sizes)
        return smaller == (self.units > 0) and all(after <= before for before, after in self.sizes)


def outcome(seed: int) -> Outcome:
    """`compare` on the random graph of the seed."""
    import keras

    random = np.random.default_rng(seed)
    keras.utils.clear_session(free_memory=seed % 50 == 0)
    with warnings.catch_warnings():
        # Some layers drop the mask of an Embedding; Keras says so.
        warnings.filterwarnings("ignore", message=".*was passed an input with a mask attached.*")
        return compare(random_graph(random), random)


def compare(model: Any, random: Random) -> Outcome:
    """Fill the model with random weights and remove random units; compare with its consumers' rows set to zero.

    The model is left masked. Raises `AssertionError` where class, names, types or inputs differ.
    """
    fill(model, random)
    anatomy = Anatomy(Graph(model))
    staying = {
        group.name: np.sort(random.choice(group.size, random.integers(1, max(2, group.size)), replace=False))
        for group in anatomy.groups
    }
    cut = anatomy.cut(staying)
    assert type(cut) is type(model) and cut.name == model.name
    assert [layer.name for layer in cut.layers] == [layer.name for layer in model.layers]
    assert [layer.dtype_policy.name for layer in cut.layers] == [
        layer.dtype_policy.name for layer in model.layers
    ]
    for name in ("inputs", "outputs"):
        assert [each.shape for each in getattr(cut, name)] == [each.shape for each in getattr(model, name)]
    x = [samples(tensor, random) for tensor in model.inputs]
    found = outputs(cut, x)
    mask(model, anatomy, staying)
    wanted = outputs(model, x)
    return Outcome(
        difference=max(
            float(np.abs(one - other).max() / (np.abs(other).max() or 1))
            for one, other in zip(found, wanted, strict=True)
        ),
        groups=len(anatomy.groups),
        units=sum(group.size - len(staying[group.name]) for group in anatomy.groups),
        sizes=[
            (int(np.prod(before.shape)), int(np.prod(after.shape)))
            for before, after in zip(model.weights, cut.weights, strict=True)
        ],
        kinds=frozenset(type(layer).__name__ for layer in model.layers),
        models=(model, cut),
    )


def mask(model: Any, anatomy: Anatomy, staying: Mapping[str, NDArray[np.intp]]) -> None:
    """Set to zero, in `model`, what its layers read of the units that are not in `staying`."""
    for group in anatomy.groups:
        gone = np.delete(np.arange(group.size), staying[group.name])
        for consumer in group.consumers:
            layer = model.get_layer(consumer.layer)
            weights = layer.get_weights()
            weights[consumer.index] = consumer.without(gone, weights[consumer.index])
            layer.set_weights(weights)


def fill(model: Any, random: Random) -> None:
    """Random weights, normalisation's included, that keep the size of what passes."""
    filled = []
    for weight in model.weights:
        shape = tuple(weight.shape)
        if "variance" in weight.path or "gamma" in weight.path:
            filled.append(random.uniform(0.5, 2, shape))
        else:
            scale = 1 / np.sqrt(max(1, np.prod(shape[:-1]))) if len(shape) > 1 else 0.3
            filled.append(random.normal(size=shape) * scale)
    model.set_weights(filled)


def samples(tensor: Any, random: Random) -> NDArray[Any]:
    """Random inputs: numbers, or for an integer input words below 10."""
    shape = (3, *tensor.shape[1:])
    if "int" in tensor.dtype:
        return random.integers(0, 10, shape).astype(np.int32)
    return random.normal(size=shape).astype(np.float32)


def outputs(model: Any, x: list[NDArray[Any]]) -> list[NDArray[Any]]:
    """What the model gives, each output an array."""
    given = model(x if len(x) > 1 else x[0], training=False)
    return [np.asarray(each) for each in (given if isinstance(given, list | tuple) else [given])]


def random_graph(random: Random) -> Any:
    """An image, sequence, text or table model, Functional or Sequential, of one or two inputs and outputs."""
    import keras
    from keras import layers

    if random.random() < 0.1:
        return keras.Sequential([keras.Input((6, 6, 3)), *_stack(random)])
    kind = random.choice(["image", "image", "sequence", "text", "table"])
    if kind == "image":
        entering, blocks = keras.Input((6, 6, 3)), IMAGE
    elif kind == "table":
        entering, blocks = keras.Input((7,)), VECTOR
    else:
        entering, blocks = (
            keras.Input((6,), dtype="int32") if kind == "text" else keras.Input((6, 5)),
            SEQUENCE,
        )
    inputs, heads = [entering], []
    x = entering
    if kind == "text":
        x = layers.Embedding(10, _width(random), mask_zero=bool(random.random() < 0.3))(entering)
    for _ in range(random.integers(2, 6)):
        x = blocks[random.integers(len(blocks))](random, x)
        if len(heads) == 0 and random.random() < 0.1:
            heads.append(_vector(random, x))
    x = _vector(random, x)
    if random.random() < 0.25:
        inputs.append(keras.Input((4,)))
        x = layers.Concatenate()([x, layers.Dense(_width(random), activation="relu")(inputs[-1])])
    for _ in range(random.integers(0, 3)):
        x = VECTOR[random.integers(len(VECTOR))](random, x)
    ends = [layers.Dense(3, activation=random.choice(["linear", "softmax", "sigmoid"]))(x)]
    ends += [layers.Dense(2)(head) for head in heads]
    return keras.Model(inputs if len(inputs) > 1 else entering, ends if len(ends) > 1 else ends[0])


def _stack(random: Random) -> list[Any]:
    from keras import layers

    return [
        layers.Conv2D(_width(random), 3, activation=_activation(random)),
        layers.BatchNormalization(),
        layers.SeparableConv2D(_width(random), 2),
        layers.PReLU(shared_axes=[1, 2]) if random.random() < 0.5 else layers.ReLU(),
        layers.Flatten(),
        layers.Dense(_width(random), activation=_activation(random)),
        layers.Dense(3),
    ]


def _width(random: Random) -> int:
    return int(random.choice([2, 4, 6, 8, 12]))


def _activation(random: Random) -> str:
    return str(random.choice(["linear", "relu", "tanh", "sigmoid", "gelu", "silu"]))


def _kernel(random: Random, x: Any, width: int | None = None, **options: Any) -> Any:
    """A Dense layer or a convolution of stride one, for a tensor of any rank."""
    from keras import layers

    options = {"activation": _activation(random), "use_bias": bool(random.random() < 0.7), **options}
    width = width or _width(random)
    if len(x.shape) == 2 or (len(x.shape) == 3 and random.random() < 0.5):
        return layers.Dense(width, **options)
    kind = layers.Conv2D if len(x.shape) == 4 else layers.Conv1D
    return kind(width, int(random.integers(1, 4)), padding="same", **options)


def _plain(random: Random, x: Any) -> Any:
    return _kernel(random, x)(x)


def _grouped(random: Random, x: Any) -> Any:
    from keras import layers

    channels = x.shape[-1] + x.shape[-1] % 2
    if channels != x.shape[-1]:
        x = _kernel(random, x, channels)(x)
    kind = layers.Conv2D if len(x.shape) == 4 else layers.Conv1D
    return kind(channels, 2, groups=2, padding="same")(x)


def _depthwise(random: Random, x: Any) -> Any:
    from keras import layers

    kind = layers.DepthwiseConv2D if len(x.shape) == 4 else layers.DepthwiseConv1D
    return kind(
        2, depth_multiplier=int(random.integers(1, 3)), padding="same", activation=_activation(random)
    )(x)


def _separable(random: Random, x: Any) -> Any:
    from keras import layers

    kind = layers.SeparableConv2D if len(x.shape) == 4 else layers.SeparableConv1D
    return kind(_width(random), 2, depth_multiplier=int(random.integers(1, 3)), padding="same")(x)


def _transposed(random: Random, x: Any) -> Any:
    from keras import layers

    kind = layers.Conv2DTranspose if len(x.shape) == 4 else layers.Conv1DTranspose
    return kind(_width(random), 2, padding="same")(x)


def _normalised(random: Random, x: Any) -> Any:
    from keras import layers

    if random.random() < 0.2:
        return layers.LayerNormalization()(x)
    scale, center = random.random(2) < 0.7
    return layers.BatchNormalization(scale=bool(scale), center=bool(center))(x)


def _unit_wise(random: Random, x: Any) -> Any:
    import keras
    from keras import layers

    made = [
        layers.ReLU(),
        layers.LeakyReLU(),
        layers.PReLU(shared_axes=list(range(1, len(x.shape) - 1)) or None),
        layers.Dropout(0.5),
        layers.Activation(_activation(random)),
        layers.Rescaling(0.5, offset=0.1),
        layers.Softmax(),
        keras.ops.tanh,
        lambda x: 2 * keras.ops.relu(x) + 0.5,
    ]
    return made[random.choice(len(made), p=[0.12] * 6 + [0.04, 0.12, 0.12])](x)


def _residual(random: Random, x: Any) -> Any:
    from keras import layers

    branch = x
    for _ in range(random.integers(0, 2)):
        branch = _plain(random, branch)
    branch = _kernel(random, branch, x.shape[-1])(branch)
    joins = [layers.Add(), layers.Subtract(), layers.Multiply(), layers.Average(), layers.Maximum()]
    pair = [x, branch] if random.random() < 0.5 else [branch, x]
    return pair[0] + pair[1] if random.random() < 0.2 else joins[random.integers(len(joins))](pair)


def _concatenated(random: Random, x: Any) -> Any:
    from keras import layers

    axis = -1 if random.random() < 0.8 or len(x.shape) == 2 else 1
    width = None if axis == -1 else _width(random)
    return layers.Concatenate(axis=axis)([_kernel(random, x, width)(x) for _ in range(random.integers(2, 4))])


def _shared(random: Random, x: Any) -> Any:
    from keras import layers

    layer = _kernel(random, x, x.shape[-1])
    once = layer(x)
    return (
        layer(once)
        if random.random() < 0.5
        else layers.Add()([layer(_kernel(random, x, x.shape[-1])(x)), once])
    )


def _squeezed(random: Random, x: Any) -> Any:
    from keras import layers

    channels = x.shape[-1]
    if len(x.shape) == 4:
        gate = layers.Reshape((1, 1, channels))(layers.GlobalAveragePooling2D()(x))
    else:
        gate = layers.GlobalAveragePooling1D(keepdims=True)(x)
    gate = layers.Dense(_width(random), activation="relu")(gate)
    return layers.Multiply()([x, layers.Dense(channels, activation="sigmoid")(gate)])


def _resized(random: Random, x: Any) -> Any:
    from keras import layers

    two = len(x.shape) == 4
    made = [layers.ZeroPadding2D(1), layers.MaxPooling2D(2, padding="same"), layers.UpSampling2D(2)]
    made += [layers.AveragePooling2D(2, padding="same"), layers.Cropping2D(0)]
    if not two:
        made = [layers.ZeroPadding1D(1), layers.MaxPooling1D(2, padding="same"), layers.UpSampling1D(2)]
        made += [layers.AveragePooling1D(2, padding="same"), layers.Cropping1D(0)]
    x = made[random.integers(len(made))](x)
    return x if (x.shape[1] or 0) < 13 else (layers.MaxPooling2D(2) if two else layers.MaxPooling1D(2))(x)


def _recurrent(random: Random, x: Any) -> Any:
    from keras import layers

    kind = (layers.LSTM, layers.GRU, layers.SimpleRNN)[random.integers(3)]
    options = {"reset_after": bool(random.random() < 0.5)} if kind is layers.GRU else {}
    layer = kind(_width(random), return_sequences=True, use_bias=bool(random.random() < 0.7), **options)
    if random.random() < 0.4:
        layer = layers.Bidirectional(layer, merge_mode=str(random.choice(["concat", "sum", "mul", "ave"])))
    return layer(x)


def _encoded(random: Random, x: Any) -> Any:
    from keras import layers

    width = _width(random)
    _, *states = layers.LSTM(width, return_state=True)(x)
    return layers.LSTM(width, return_sequences=True)(x, initial_state=states)


def _attended(random: Random, x: Any) -> Any:
    from keras import layers

    layer = layers.MultiHeadAttention(int(random.integers(1, 5)), 3, use_bias=bool(random.random() < 0.7))
    attended = layer(x, x, use_causal_mask=bool(random.random() < 0.3))
    return layers.Add()([x, attended]) if random.random() < 0.6 else attended


def _einsum(random: Random, x: Any) -> Any:
    from keras import layers

    width = _width(random)
    if random.random() < 0.5:
        return layers.EinsumDense("abc,cd->abd", (None, width), bias_axes="d", activation="relu")(x)
    heads = layers.EinsumDense("abc,cde->abde", (None, width, 2), bias_axes="de")(x)
    return layers.EinsumDense("abde,def->abf", (None, _width(random)), bias_axes="f")(heads)


def _stepwise(random: Random, x: Any) -> Any:
    from keras import layers

    return layers.TimeDistributed(layers.Dense(_width(random), activation=_activation(random)))(x)


def _turned(random: Random, x: Any) -> Any:
    from keras import layers

    return layers.Permute((2, 1))(layers.ReLU()(layers.Permute((2, 1))(x)))


def _reshaped(random: Random, x: Any) -> Any:
    from keras import layers

    width = _width(random)
    x = layers.Reshape((3, width))(layers.Dense(3 * width, activation="relu")(x))
    return layers.Flatten()(_plain(random, x))


def _vector(random: Random, x: Any) -> Any:
    from keras import layers

    if len(x.shape) == 2:
        return x
    if random.random() < 0.5 and None not in x.shape[1:]:
        return layers.Flatten()(x)
    maximum = bool(random.random() < 0.5)
    if len(x.shape) == 4:
        return (layers.GlobalMaxPooling2D if maximum else layers.GlobalAveragePooling2D)()(x)
    return (layers.GlobalMaxPooling1D if maximum else layers.GlobalAveragePooling1D)()(x)


ANY: list[Block] = [_plain, _normalised, _unit_wise, _residual, _concatenated, _shared]
SPATIAL: list[Block] = [_depthwise, _separable, _grouped, _squeezed, _resized, _transposed]
IMAGE: list[Block] = [*ANY, *SPATIAL]
SEQUENCE: list[Block] = [
    *ANY,
    *SPATIAL,
    _recurrent,
    _recurrent,
    _encoded,
    _attended,
    _einsum,
    _stepwise,
    _turned,
]
VECTOR: list[Block] = [*ANY, _reshaped]
