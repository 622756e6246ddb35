"""Networks with pruned weights for sparse inference to stumble over: the patterns that it treats each in its own way,
and random mixtures of them, by their seed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

Random = np.random.Generator
Block = Callable[[Random, Any], Any]
SMOOTH = ("relu", "relu6", "hard_swish", "swish", "leaky_relu", "sigmoid", "tanh", "elu", "gelu", "linear")


def network(seed: int) -> Any:
    """A small network with pruned weights, of batch 1: of every three seeds one has a single pattern, two a mixture."""
    import keras

    random = np.random.default_rng(seed)
    keras.utils.set_random_seed(seed)
    model = _single(random, seed // 3) if seed % 3 == 0 else _mixture(random)
    _prune(model, random)
    return model


def _single(random: Random, number: int) -> Any:
    """One pattern in a network that sparse inference runs wholly but for it."""
    import keras

    patterns = list(_patterns())
    name = patterns[number % len(patterns)]
    image = keras.Input((16, 16, 1 if name == "one channel" else 3), batch_size=1)
    begins = {
        "stem same": _stem("same"),
        "stem stride 1": _stem("same", 1),
        "one channel": _stem("same"),
    }
    tensor = begins.get(name, _stem(1))(random, image)
    tensor = middle = _patterns()[name](random, _separable(random, tensor))
    tensor = _separable(random, tensor) if len(tensor.shape) == 4 else tensor
    ends = {"max tail": _max_tail, "pool tail": _pool_tail, "convolution head": _convolution_head}
    tensor = ends.get(name, _mean_tail)(random, tensor)
    return keras.Model(image, [tensor, middle] if name == "tapped" else tensor)


def _patterns() -> dict[str, Block]:
    same: Block = lambda random, tensor: tensor  # noqa: E731
    ends = ("base", "stem same", "stem stride 1", "one channel", "max tail", "pool tail", "convolution head")
    return {
        **dict.fromkeys((*ends, "tapped"), same),
        "residual": _residual,
        "squeeze-excite": _excite,
        "hard-swish": _activated("hard_swish"),
        "swish": _activated("swish"),
        "leaky ReLU": _activated("leaky_relu"),
        "5x5": _depthwise(5, 1, "same"),
        "bilinear": _resized,
        "stride 2, padding 1": _depthwise(3, 2, 1),
        "stride 2 same": _depthwise(3, 2, "same"),
        "stride 2, padding 0 and 1": _depthwise(3, 2, ((0, 1), (0, 1))),
        "concat": _concatenated,
        "max pool": _max_pooled,
        "average pool": _average_pooled,
        "inner 3x3": _inner,
    }


def _mixture(random: Random) -> Any:
    """Blocks that fit, or some that do not among them; then outputs taken from the middle, and one of several ends."""
    import keras

    channels = 3 if random.random() < 0.9 else 1
    height = int(random.integers(9, 21))
    width = height if random.random() < 0.8 else int(random.integers(9, 21))
    image = keras.Input((height, width, channels), batch_size=1)
    stems = [
        _stem(1),
        _stem("same"),
        _stem("same", 1),
        _stem("valid"),
        _stem(((0, 1), (0, 1))),
        _pointwise(),
    ]
    odds = [0.58, 0.22, 0.05, 0.05, 0.05, 0.05]
    tensor = stems[random.choice(len(stems), p=odds)](random, image)
    misfits = random.choice([0.0, 0.15, 0.4])
    taps: list[Any] = []
    for _ in range(random.integers(1, 6)):
        blocks = MISFITS if random.random() < misfits else FITTING
        tensor = blocks[random.integers(len(blocks))](random, tensor)
        if random.random() < 0.06:
            taps.append(_tapped(random, tensor))
    odds = [0.5, *[0.5 / (len(TAILS) - 1)] * (len(TAILS) - 1)]
    end = TAILS[random.choice(len(TAILS), p=odds)](random, tensor)
    return keras.Model(image, [end, *taps] if taps else end)


def _width(random: Random) -> int:
    return int(random.choice([3, 4, 6, 8, 12, 16, 24]))


def _padded(padding: Any, tensor: Any) -> tuple[Any, str]:
    """`padding`: `same`, `valid`, or what ZeroPadding2D takes."""
    import keras

    if isinstance(padding, str):
        return tensor, padding
    return keras.layers.ZeroPadding2D(padding)(tensor), "valid"


def _stem(padding: Any, strides: int = 2) -> Block:
    def made(random: Random, tensor: Any) -> Any:
        import keras

        padded, how = _padded(padding, tensor)
        stem = keras.layers.Conv2D(_width(random), 3, strides, how, activation=_activation(random))
        return stem(padded)

    return made


def _activation(random: Random) -> str:
    return "relu" if random.random() < 0.5 else str(random.choice(SMOOTH))


def _pointwise(activation: str | None = None, strides: int = 1) -> Block:
    def made(random: Random, tensor: Any) -> Any:
        import keras

        chosen = activation or _activation(random)
        return keras.layers.Conv2D(_width(random), 1, strides, activation=chosen)(tensor)

    return made


def _depthwise(kernel: int, strides: int, padding: Any, **options: Any) -> Block:
    """A depthwise convolution, and mostly a 1x1 one after it."""

    def made(random: Random, tensor: Any) -> Any:
        import keras

        if min(tensor.shape[1:3]) < kernel - 2:
            return tensor
        padded, how = _padded(padding, tensor)
        if how == "valid" and min(padded.shape[1:3]) < kernel:
            return tensor
        layer = keras.layers.DepthwiseConv2D(kernel, strides, how, activation=_activation(random), **options)
        made = layer(padded)
        return _pointwise()(random, made) if random.random() < 0.85 else made

    return made


_separable = _depthwise(3, 1, "same")


def _residual(random: Random, tensor: Any) -> Any:
    """As in MobileNetV2: wide inside, and the sum of both ends."""
    import keras

    inside = _depthwise(3, 1, "same")(random, _pointwise()(random, tensor))
    inside = keras.layers.Conv2D(tensor.shape[-1], 1)(inside)
    joined = keras.layers.Multiply() if random.random() < 0.15 else keras.layers.Add()
    return joined([tensor, inside] if random.random() < 0.5 else [inside, tensor])


def _excite(random: Random, tensor: Any) -> Any:
    """Squeeze and excite, of 1x1 convolutions."""
    import keras

    scale = keras.layers.GlobalAveragePooling2D(keepdims=True)(tensor)
    scale = _pointwise()(random, scale)
    gate = str(random.choice(["sigmoid", "hard_sigmoid"], p=[0.8, 0.2]))
    return keras.layers.Multiply()([tensor, keras.layers.Conv2D(tensor.shape[-1], 1, activation=gate)(scale)])


def _excite_densely(random: Random, tensor: Any) -> Any:
    """Squeeze and excite, of Dense layers."""
    import keras

    channels = tensor.shape[-1]
    scale = keras.layers.GlobalAveragePooling2D()(tensor)
    scale = keras.layers.Dense(_width(random), activation="relu")(scale)
    scale = keras.layers.Dense(channels, activation="sigmoid")(scale)
    return keras.layers.Multiply()([tensor, keras.layers.Reshape((1, 1, channels))(scale)])


def _activated(name: str) -> Block:
    def made(random: Random, tensor: Any) -> Any:
        return _pointwise(name)(random, _depthwise(3, 1, "same")(random, tensor))

    return made


def _resized(random: Random, tensor: Any) -> Any:
    import keras

    if max(tensor.shape[1:3]) > 12:
        return tensor
    larger = keras.layers.UpSampling2D(2, interpolation="bilinear")(tensor)
    return _pointwise()(random, larger)


def _scaled(random: Random, tensor: Any) -> Any:
    """A batch normalisation that nothing can be folded into, after a sum, or a constant."""
    import keras

    if random.random() < 0.5:
        return keras.layers.BatchNormalization()(keras.layers.Add()([tensor, tensor]))
    return keras.layers.Rescaling(0.7, offset=float(random.choice([0.0, 0.1])))(tensor)


def _concatenated(random: Random, tensor: Any) -> Any:
    import keras

    other = tensor if random.random() < 0.5 else _pointwise()(random, tensor)
    return keras.layers.Concatenate()([other, _pointwise()(random, tensor)])


def _max_pooled(random: Random, tensor: Any) -> Any:
    import keras

    return _pointwise()(random, keras.layers.MaxPooling2D(2, padding="same")(tensor))


def _average_pooled(random: Random, tensor: Any) -> Any:
    import keras

    return _pointwise()(random, keras.layers.AveragePooling2D(2, padding="same")(tensor))


def _inner(random: Random, tensor: Any) -> Any:
    """A convolution that has no channel-first kernel."""
    import keras

    kernel, strides, dilation = ((3, 1, 1), (3, 2, 1), (2, 1, 1), (5, 1, 1), (3, 1, 2))[
        random.choice(5, p=[0.5, 0.2, 0.1, 0.1, 0.1])
    ]
    layer = keras.layers.Conv2D(_width(random), kernel, strides, "same", dilation_rate=dilation)
    return keras.layers.ReLU()(layer(tensor))


def _odd(random: Random, tensor: Any) -> Any:
    """A layer that clusters do not have, of no parameter or few."""
    import keras

    layers, channels = keras.layers, tensor.shape[-1]
    made = [
        layers.PReLU(shared_axes=[1, 2]),
        lambda each: layers.Subtract()([each, _pointwise_of(channels)(each)]),
        lambda each: layers.Maximum()([each, _pointwise_of(channels)(each)]),
        layers.Cropping2D(((0, 1), (1, 0))),
        layers.ZeroPadding2D(1),
        layers.Softmax(),
        layers.UpSampling2D(2),
        layers.Conv2DTranspose(_width(random), 2, 2, "same"),
        layers.Reshape((tensor.shape[2], tensor.shape[1], channels)),
        layers.Permute((2, 1, 3)),
        layers.Conv2D(channels, 1, 2),
    ]
    changed = made[random.integers(len(made))](tensor)
    return changed if max(changed.shape[1:3]) < 25 and min(changed.shape[1:3]) > 0 else tensor


def _pointwise_of(channels: int) -> Any:
    import keras

    return keras.layers.Conv2D(channels, 1)


def _tapped(random: Random, tensor: Any) -> Any:
    """An output from the middle: as it is, after a convolution of its own, or a vector."""
    kind = random.integers(4)
    if kind == 0:
        return tensor
    if kind == 1:
        return _pointwise_of(2)(tensor)
    return (_mean_tail if kind == 2 else _max_tail)(random, tensor)


def _dense(random: Random, vector: Any) -> Any:
    import keras

    for _ in range(random.integers(0, 3)):
        layer = keras.layers.Dense(int(random.choice([16, 20, 32, 48])), activation=_activation(random))
        vector = layer(vector)
    return keras.layers.Dense(int(random.choice([3, 4, 10])))(vector)


def _mean_tail(random: Random, tensor: Any) -> Any:
    import keras

    mean = keras.layers.GlobalAveragePooling2D(keepdims=bool(random.random() < 0.2))(tensor)
    return _dense(random, keras.layers.Flatten()(mean) if len(mean.shape) == 4 else mean)


def _max_tail(random: Random, tensor: Any) -> Any:
    import keras

    return _dense(random, keras.layers.GlobalMaxPooling2D()(tensor))


def _pool_tail(random: Random, tensor: Any) -> Any:
    import keras

    pooled = keras.layers.AveragePooling2D(tensor.shape[1:3])(tensor)
    return _dense(random, keras.layers.Flatten()(pooled))


def _flat_tail(random: Random, tensor: Any) -> Any:
    import keras

    return _dense(random, keras.layers.Flatten()(tensor))


def _convolution_head(random: Random, tensor: Any) -> Any:
    """The mean with its two dimensions kept, and a 1x1 convolution in place of Dense, or two."""
    import keras

    mean = keras.layers.GlobalAveragePooling2D(keepdims=True)(tensor)
    if random.random() < 0.3:
        mean = _pointwise()(random, mean)
    return keras.layers.Flatten()(_pointwise_of(4)(mean))


def _image_tail(random: Random, tensor: Any) -> Any:
    """An image, as segmentation has it, or one that depth was turned into space of."""
    import keras

    image = _pointwise_of(4)(tensor)
    if random.random() < 0.5:
        return image
    return keras.layers.Lambda(_depth_to_space, output_shape=(image.shape[1] * 2, image.shape[2] * 2, 1))(
        image
    )


def _depth_to_space(tensor: Any) -> Any:
    import tensorflow as tf

    return tf.nn.depth_to_space(tensor, 2)


def _two_means(random: Random, tensor: Any) -> Any:
    """The means of the image and of one that is made of it."""
    import keras

    after = _separable(random, tensor)
    means = [keras.layers.GlobalAveragePooling2D()(each) for each in (tensor, after)]
    return _dense(random, keras.layers.Concatenate()(means))


TAILS: tuple[Block, ...] = (
    _mean_tail,
    _max_tail,
    _pool_tail,
    _flat_tail,
    _convolution_head,
    _image_tail,
    _two_means,
)
FITTING: tuple[Block, ...] = (
    _separable,
    _residual,
    _residual,
    _excite,
    _pointwise(),
    _resized,
    _depthwise(5, 1, "same"),
    _depthwise(3, 2, 1),
    _depthwise(5, 2, 2),
)
MISFITS: tuple[Block, ...] = (
    _depthwise(3, 2, "same"),
    _depthwise(5, 2, "same"),
    _depthwise(3, 2, ((0, 1), (0, 1))),
    _depthwise(3, 1, "valid"),
    _depthwise(3, 1, "same", depth_multiplier=2),
    _depthwise(3, 1, "same", dilation_rate=2),
    _excite_densely,
    _scaled,
    _concatenated,
    _max_pooled,
    _average_pooled,
    _inner,
    _odd,
)


def _prune(model: Any, random: Random) -> None:
    """Random weights that keep the size of what passes; of matrices a share of zeros, of some in blocks."""
    share = random.uniform(0.3, 0.95) if random.random() < 0.5 else 0.9
    everything = random.random() < 0.2
    for layer in model.layers:
        filled = [_filled(layer, weight, random) for weight in layer.weights]
        if filled and (everything or _is_matrix(filled[0])):
            keep = np.clip(share + random.normal() * 0.03, 0, 0.97)
            filled[0] = _with_zeros(filled[0], float(keep), random)
        layer.set_weights(filled)


def _filled(layer: Any, weight: Any, random: Random) -> np.ndarray:
    shape = tuple(weight.shape)
    if "variance" in weight.path or "gamma" in weight.path:
        return random.uniform(0.5, 2, shape)
    if len(shape) == 1:
        return random.normal(size=shape) * 0.3
    fan_in = np.prod(shape[:2]) if "depthwise" in type(layer).__name__.lower() else np.prod(shape[:-1])
    return random.normal(size=shape) * np.sqrt(2 / fan_in)


def _is_matrix(weight: np.ndarray) -> bool:
    return weight.ndim == 2 or (weight.ndim == 4 and weight.shape[:2] == (1, 1) and min(weight.shape[2:]) > 1)


def _with_zeros(weight: np.ndarray, share: float, random: Random) -> np.ndarray:
    """Single zeros, or blocks of inputs; what stays grows, so that the size of what passes does not shrink."""
    keep = random.random(weight.shape) >= share
    block = int(random.choice([1, 4, 16])) if weight.ndim == 2 else 1
    if block > 1 and weight.shape[0] % block == 0:
        keep = np.repeat(random.random((weight.shape[0] // block, weight.shape[1])) >= share, block, axis=0)
    return weight * keep / np.sqrt(max(1 - share, 0.05))
