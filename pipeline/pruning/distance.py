"""How far a model's outputs are from those of the dense model, as Gauss-Newton needs it: value, gradient, curvature.

The outputs f are those before the last softmax or sigmoid, and t those of the dense model: no labels. With the
probabilities p and q that f and t stand for,

    squared     1/2 |f - t|^2                     gradient f - t    curvature I
    softmax     KL(q | p), over the classes       gradient p - q    curvature diag(p) - p p^T
    sigmoid     KL(q | p), summed over outputs    gradient p - q    curvature diag(p (1 - p))

The curvature is the Fisher information of what is predicted (Martens 2014): logits that decide nothing are free.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Distance = Literal["squared", "softmax", "sigmoid"]


def value(distance: Distance, f: Array, target: Array) -> float:
    """The mean over samples, of outputs (n, o)."""
    f, target = f.astype(np.float64), target.astype(np.float64)
    if distance == "squared":
        each = (f - target) ** 2 / 2
    elif distance == "softmax":
        each = _softmax(target) * (_log_softmax(target) - _log_softmax(f))
    else:
        q = _sigmoid(target)
        each = q * (_log_sigmoid(target) - _log_sigmoid(f))
        each += (1 - q) * (_log_sigmoid(-target) - _log_sigmoid(-f))
    return float(each.sum(axis=1).mean())


def gradient(distance: Distance, f: Array, target: Array) -> Array:
    """By the outputs, (n, o)."""
    link = {"squared": lambda x: x, "softmax": _softmax, "sigmoid": _sigmoid}[distance]
    difference: Array = link(f) - link(target)
    return difference


def root(distance: Distance, f: Array) -> Array | None:
    """R (n, o, o) with R R^T the curvature at `f`; None stands for the identity.

    Of softmax: R = diag(sqrt p) - p sqrt(p)^T.
    """
    if distance == "squared":
        return None
    eye = np.eye(f.shape[1], dtype=f.dtype)
    if distance == "sigmoid":
        p = _sigmoid(f)
        found: Array = np.sqrt(p * (1 - p))[:, :, None] * eye
        return found
    p = _softmax(f)
    side = np.sqrt(p)
    found = side[:, :, None] * eye - p[:, :, None] * side[:, None, :]
    return found


def rooted(distance: Distance, f: Array, v: Array) -> Array:
    """R v at outputs `f`, both (n, o), without R: of random signs v the mean of R v (R v)^T is the curvature."""
    if distance == "squared":
        return v
    if distance == "sigmoid":
        p = _sigmoid(f)
        return np.asarray(np.sqrt(p * (1 - p)) * v)
    p = _softmax(f)
    side = np.sqrt(p)
    return np.asarray(side * v - p * np.sum(side * v, axis=1, keepdims=True))


def curved(distance: Distance, f: Array, v: Array) -> Array:
    """R R^T v at outputs `f`, both (n, o): what the gradient changes by along `v`, without R."""
    if distance == "squared":
        return v
    if distance == "sigmoid":
        p = _sigmoid(f)
        return np.asarray(p * (1 - p) * v)
    p = _softmax(f)
    return np.asarray(p * (v - np.sum(p * v, axis=1, keepdims=True)))


def _softmax(f: Array) -> Array:
    return np.exp(_log_softmax(f))


def _log_softmax(f: Array) -> Array:
    shifted = f - f.max(axis=1, keepdims=True)
    logs: Array = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs


def _sigmoid(f: Array) -> Array:
    return np.exp(_log_sigmoid(f))


def _log_sigmoid(f: Array) -> Array:
    logs: Array = -np.logaddexp(np.zeros((), f.dtype), -f)
    return logs
