"""A model's outputs as linear functions of its weights, and the Gauss-Newton matrix that follows.

For one sample, with the layer's input rows x_p and the slopes G_op = d f_o / d a_p of output o by the pre-activation
a_p = W^T x_p at the layer's position p,

    d f_o / d W_ij = sum_p x_pi G_opj .

With a curvature R_n R_n^T of the distance at the outputs of sample n, the Gauss-Newton matrix is

    H = 1/n sum_n J_n^T R_n R_n^T J_n .

Where every layer has one position its block of the units u and v, of any layers, is 1/n X_u^T diag(m) X_v with
m_n = (R_n^T G_n)_u . (R_n^T G_n)_v: no Jacobian is formed, and the number of outputs costs next to nothing.

Weights are matrices (d, r), one for each layer; where a layer has biases they are its last row, and its inputs end
with a one. A vector of the free weights, those at which `masks` are True, runs by layer, unit and input.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Matrices = Sequence[Array]
Masks = Sequence[NDArray[np.bool_]]

# 128 MiB of float32, twice while the columns are put together.
_JACOBIAN_ELEMENTS = 1 << 25


@dataclass(frozen=True)
class Linearised:
    """Some samples of a model whose weights are as they are now; positions P and widths d, r differ by layer.

    inputs  (n, P, d)      what enters each layer
    slopes  (n, o, P, r)   of the distance's `root` at the outputs: R^T G, with as many rows o as R has columns
    pull    (n, P, r)      the distance's gradient by the layer's pre-activations
    """

    inputs: Sequence[Array]
    slopes: Sequence[Array]
    pull: Sequence[Array]

    def __len__(self) -> int:
        return len(self.inputs[0])


@dataclass(frozen=True)
class Unit:
    """An output of a layer with inputs whose weights are free, all or a part; `place` is theirs in the vector."""

    layer: int
    column: int
    rows: NDArray[np.intp]
    place: slice


def linearised(
    inputs: Sequence[Array], slopes: Sequence[Array], gradient: Array, root: Array | None
) -> Linearised:
    """From the slopes G (n, o, P, r) of the outputs, and the distance's gradient (n, o) and root (n, o, k).

    No root stands for the identity.
    """
    pull = [np.einsum("no,nopr->npr", gradient, slope, optimize=True) for slope in slopes]
    if root is not None:
        turned = root.transpose(0, 2, 1)
        slopes = [
            np.matmul(turned, slope.reshape(*slope.shape[:2], -1)).reshape(len(slope), -1, *slope.shape[2:])
            for slope in slopes
        ]
    return Linearised(inputs, slopes, pull)


def gather(matrices: Matrices, masks: Masks) -> Array:
    """The vector of the free weights."""
    return np.concatenate([matrix.T[mask.T] for matrix, mask in zip(matrices, masks, strict=True)])


def scatter(vector: Array, masks: Masks) -> list[Array]:
    """The matrices of which `vector` are the free weights; zeros elsewhere."""
    parts = np.split(vector, np.cumsum([np.count_nonzero(mask) for mask in masks])[:-1])
    matrices = [np.zeros(mask.shape, vector.dtype) for mask in masks]
    for matrix, mask, part in zip(matrices, masks, parts, strict=True):
        matrix.T[mask.T] = part
    return matrices


def units(masks: Masks, most: int | None = None) -> Iterator[Unit]:
    """The units that have free weights, in the order of the vector; those of more than `most` in parts."""
    start = 0
    for layer, mask in enumerate(masks):
        for column in range(mask.shape[1]):
            free = np.flatnonzero(mask[:, column])
            for first in range(0, len(free), most or max(len(free), 1)):
                rows = free[first:][:most]
                yield Unit(layer, column, rows, slice(start, start + len(rows)))
                start += len(rows)


def gradient(batch: Linearised, masks: Masks) -> Array:
    """The gradient of the distance, summed over the samples, by the free weights."""
    return gather([_rows(x).T @ _rows(a) for x, a in zip(batch.inputs, batch.pull, strict=True)], masks)


def normal_equations(batches: Iterable[Linearised], masks: Masks) -> tuple[Array, Array]:
    """H (p, p), in float32, and the distance's mean gradient (p,), in float64, of the p free weights.

    Memory: 3 p^2 numbers and, for a batch of n samples, 2 n p; or 256 MiB where a layer has many positions.
    """
    every = list(units(masks))
    p = every[-1].place.stop if every else 0
    hessian, pulled, count = np.zeros((p, p), np.float32), np.zeros(p), 0
    for batch in batches:
        count += len(batch)
        pulled += gradient(batch, masks)
        if all(x.shape[1] == 1 for x in batch.inputs):
            _add_by_units(hessian, batch, every)
        else:
            for part in _parts(batch, p):
                rows = np.concatenate([jacobian(part, unit) for unit in every], axis=1)
                hessian += rows.T @ rows
    upper = np.triu(hessian) / max(count, 1)
    return upper + np.triu(upper, 1).T, pulled / max(count, 1)


def jacobian(batch: Linearised, unit: Unit) -> Array:
    """The columns (n o, weights of the unit) of R^T J."""
    slope = np.ascontiguousarray(batch.slopes[unit.layer][..., unit.column])
    columns: Array = np.matmul(slope, batch.inputs[unit.layer][:, :, unit.rows])
    return columns.reshape(-1, len(unit.rows))


def block_equations(
    batches: Iterable[Linearised], masks: Masks, chosen: Sequence[Unit]
) -> tuple[list[Array], Array]:
    """The block of H, (k, k), of each unit's k free weights, and the distance's mean gradient (p,) in float64."""
    blocks: list[Array] = [np.zeros(())] * len(chosen)
    pulled, count = np.zeros(sum(int(np.count_nonzero(mask)) for mask in masks)), 0
    for batch in batches:
        count += len(batch)
        pulled += gradient(batch, masks)
        for index, unit in enumerate(chosen):
            x, slope = batch.inputs[unit.layer], batch.slopes[unit.layer][..., unit.column]
            if x.shape[1] == 1:
                entering = x[:, 0, unit.rows]
                block = entering.T @ (entering * np.sum(slope[..., 0] ** 2, axis=1)[:, None])
            else:
                columns = jacobian(batch, unit)
                block = columns.T @ columns
            blocks[index] = blocks[index] + block
    return [block / count for block in blocks], pulled / count


def _add_by_units(hessian: Array, batch: Linearised, every: Sequence[Unit]) -> None:
    """The upper triangle, a row of blocks at a time: X_u^T (m X_v over all v from u on)."""
    n, p = len(batch), len(hessian)
    entering, scaled = np.empty((n, p), np.float32, "F"), np.empty((n, p), np.float32, "F")
    for unit in every:
        entering[:, unit.place] = batch.inputs[unit.layer][:, 0, unit.rows]
    slopes = np.stack([batch.slopes[unit.layer][:, :, 0, unit.column] for unit in every], axis=2)
    turned = slopes.transpose(0, 2, 1)
    for index, unit in enumerate(every):
        weight = np.matmul(turned, slopes[:, :, index, None])[..., 0]
        for other in range(index, len(every)):
            place = every[other].place
            np.multiply(entering[:, place], weight[:, other, None], out=scaled[:, place])
        start = unit.place.start
        hessian[unit.place, start:] += entering[:, unit.place].T @ scaled[:, start:]


def _parts(batch: Linearised, p: int) -> Iterator[Linearised]:
    """The samples in parts whose rows of R^T J have a bounded size."""
    step = max(1, _JACOBIAN_ELEMENTS // (batch.slopes[0].shape[1] * p))
    for start in range(0, len(batch), step):
        part = slice(start, start + step)
        yield Linearised(
            *([array[part] for array in arrays] for arrays in (batch.inputs, batch.slopes, batch.pull))
        )


def _rows(array: Array) -> Array:
    return array.reshape(-1, array.shape[-1])
