"""The data a model is trained, pruned and judged with."""

from __future__ import annotations

import io
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts import Artifact
from pipeline.errors import UserError
from pipeline.models import sources

BUNDLED = ("breast_cancer", "digits", "iris", "wine")
ARRAYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True)
class Dataset:
    """Samples along the first axis; `x` float32; `labels` names the classes, or is empty."""

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray
    y_test: np.ndarray
    labels: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        """Write the arrays, not the labels, to an .npz file: the same bytes for the same arrays."""
        arrays = {name: getattr(self, name) for name in ARRAYS}
        with zipfile.ZipFile(path, "w") as archive:
            for name, array in arrays.items():
                content = io.BytesIO()
                np.lib.format.write_array(content, np.ascontiguousarray(array), allow_pickle=False)
                archive.writestr(zipfile.ZipInfo(f"{name}.npy"), content.getvalue())


def load_bundled(name: str, test_fraction: float, seed: int) -> Dataset:
    """One of scikit-learn's bundled sets, split with `seed`, classes in the same share on both sides.

    Digits are 8 x 8 x 1 images in 0..1; of tables, each column is standardised by the training part.
    """
    from sklearn import datasets
    from sklearn.model_selection import train_test_split

    bunch: Any = getattr(datasets, f"load_{name}")()
    x = bunch.images[..., None] / 16.0 if name == "digits" else bunch.data
    try:
        x_train, x_test, y_train, y_test = train_test_split(
            *(x.astype(np.float32), bunch.target),
            test_size=test_fraction,
            random_state=seed,
            stratify=bunch.target,
        )
    except ValueError as error:
        raise UserError(
            f"data.test_fraction: {test_fraction} does not split {len(x)} samples: {error}"
        ) from None
    if name != "digits":
        mean, deviation = x_train.mean(axis=0), x_train.std(axis=0)
        x_train, x_test = (x_train - mean) / deviation, (x_test - mean) / deviation
    labels = tuple(str(label) for label in bunch.target_names)
    return _checked(
        dict(x_train=x_train, y_train=y_train, x_test=x_test, y_test=y_test), labels, f"sklearn:{name}"
    )


def load_file(source: Artifact, targets: str = "labels") -> Dataset:
    """An .npz file with x_train, y_train, x_test, y_test (and `labels`, if it likes), or a function returning these.

    `targets="inputs"`: the target of a sample is the sample itself, as for an autoencoder. Raises `UserError`
    when an array is missing or shapes do not fit.
    """
    where = str(source.path)
    if source.kind == "source":
        given = sources.call(sources.from_artifact(source))
        if isinstance(given, tuple) and len(given) == 2:
            given = (*given[0], *given[1])
        arrays = dict(zip(ARRAYS, given, strict=False)) if isinstance(given, tuple) else given
        if not isinstance(arrays, dict):
            raise UserError(
                f"{where}: expected a dict of {', '.join(ARRAYS)}, received {type(given).__name__}"
            )
    else:
        try:
            with source.path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
                arrays = {name: file[name] for name in file.files}
        except (ValueError, OSError, EOFError, zlib.error, zipfile.BadZipFile) as error:
            raise UserError(f"{where}: not an .npz file of plain arrays: {error}") from None
    if targets == "inputs":
        arrays = arrays | {"y_train": arrays.get("x_train"), "y_test": arrays.get("x_test")}
    return _checked(arrays, tuple(str(label) for label in arrays.get("labels", ())), where)


def load(path: Path) -> Dataset:
    """What `Dataset.save` wrote."""
    with np.load(path, allow_pickle=False) as file:
        return Dataset(**{name: file[name] for name in ARRAYS})


def spread(available: int, wanted: int | None) -> np.ndarray:
    """`wanted` indexes (None: all), evenly over those available: data often comes sorted by class."""
    count = available if wanted is None else min(wanted, available)
    return np.linspace(0, available - 1, count).round().astype(np.intp)


def _checked(arrays: dict[str, Any], labels: tuple[str, ...], where: str) -> Dataset:
    missing = [name for name in ARRAYS if arrays.get(name) is None]
    if missing:
        raise UserError(f"{where}: expected the arrays {', '.join(ARRAYS)}; missing: {', '.join(missing)}")
    made: dict[str, Any] = {name: np.asarray(arrays[name]) for name in ARRAYS}
    for part in ("train", "test"):
        x, y = made[f"x_{part}"], made[f"y_{part}"]
        if x.dtype.kind not in "fiub" or y.dtype.kind not in "fiub":
            raise UserError(
                f"{where}: expected numbers in x_{part} and y_{part}, received {x.dtype} and {y.dtype}"
            )
        if x.ndim < 2 or len(x) != len(y) or not len(x):
            raise UserError(
                f"{where}: expected x_{part} (n, ...) and y_{part} with the same n > 0,"
                f" received {x.shape} and {y.shape}"
            )
        made[f"x_{part}"] = x = x.astype(np.float32)
        if not np.isfinite(x).all():
            raise UserError(f"{where}: x_{part} holds values that are not finite; clean them first")
    if made["x_train"].shape[1:] != made["x_test"].shape[1:]:
        raise UserError(
            f"{where}: x_train {made['x_train'].shape} and x_test {made['x_test'].shape} differ in a sample's shape"
        )
    return Dataset(**made, labels=labels)
