"""The data a model is trained, pruned and judged with."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pipeline.artifacts import Artifact, Store
from pipeline.errors import UserError
from pipeline.models import sources
from pipeline.models.samples import NamedArrays, Samples, at_key, by_name, each, keyed, shapes, sizes

BUNDLED = ("breast_cancer", "digits", "iris", "wine")
ARRAYS = ("x_train", "y_train", "x_test", "y_test")


@dataclass(frozen=True)
class Dataset:
    """Samples of the model's inputs and its targets; numbers of `x` that are no whole ones are float32. `labels` names
    the classes, or is empty."""

    x_train: Samples
    y_train: Samples
    x_test: Samples
    y_test: Samples
    labels: tuple[str, ...] = ()

    def save(self, path: Path) -> None:
        """Write the arrays, not the labels, to an .npz file: the same bytes for the same arrays."""
        arrays = {key: array for name in ARRAYS for key, array in keyed(name, getattr(self, name)).items()}
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

    Of a model of several inputs each has its array `x_train/NAME`; a function may also return a dict by name at
    `x_train`. The same goes for the targets of several outputs. `targets="inputs"`: the target of a sample is the
    sample itself, as for an autoencoder. Raises `UserError` when an array is missing or shapes do not fit.
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
        arrays = _arrays(source.path)
    if targets == "inputs":
        own = {key: array for key, array in arrays.items() if not key.startswith("y_")}
        arrays = own | {f"y{key[1:]}": array for key, array in own.items() if key.startswith("x_")}
    return _checked(arrays, tuple(str(label) for label in arrays.get("labels", ())), where)


def load_training_inputs(path: Path) -> Samples:
    """The training inputs alone of an .npz file, `x_train` or of several `x_train/NAME`. Raises `UserError`."""
    arrays, key = _arrays(path), "x_train"
    if at_key(key, arrays) is None:
        raise UserError(
            f"{path}: expected the array {key}, of a model of several inputs each as {key}/NAME;"
            f" received: {', '.join(arrays) or 'none'}"
        )
    found = _numbers(str(path), key, arrays)
    if not len(found) or any(array.ndim < 2 for array in by_name(found).values()):
        received = ", ".join(f"{name} {array.shape}" for name, array in keyed(key, found).items())
        raise UserError(f"{path}: expected {key} (n, ...) with n > 0, received {received}")
    return _clean(str(path), key, found)


def _arrays(path: Path) -> dict[str, np.ndarray]:
    try:
        with path.open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except (ValueError, OSError, EOFError, zlib.error, zipfile.BadZipFile, TypeError) as error:
        raise UserError(f"{path}: not an .npz file of plain arrays: {error}") from None


def load(path: Path) -> Dataset:
    """What `Dataset.save` wrote."""
    with np.load(path, allow_pickle=False) as file:
        arrays = {name: file[name] for name in file.files}
    x_train, y_train, x_test, y_test = (_samples(name, arrays) for name in ARRAYS)
    return Dataset(x_train, y_train, x_test, y_test)


def spread(available: int, wanted: int | None) -> np.ndarray:
    """`wanted` indexes (None: all), evenly over those available: data often comes sorted by class."""
    count = available if wanted is None else min(wanted, available)
    return np.linspace(0, available - 1, count).round().astype(np.intp)


def store_samples(key: str, samples: Samples, store: Store) -> dict[str, Artifact]:
    """Keep samples, each array in a file of its own; what a stage leaves of them, by `key` or `key/NAME`."""
    kept = {}
    for name, array in keyed(key, samples).items():
        with store.new("array") as path:
            np.save(path, array, allow_pickle=False)
            kept[name] = store.put_file("array", path)
    return kept


def load_samples(key: str, artifacts: Mapping[str, Artifact]) -> Samples:
    """What `store_samples` kept, mapped and not read."""
    arrays = {
        name: np.load(artifact.path, mmap_mode="r")
        for name, artifact in artifacts.items()
        if name == key or name.startswith(f"{key}/")
    }
    return _samples(key, arrays)


def _checked(arrays: Mapping[str, Any], labels: tuple[str, ...], where: str) -> Dataset:
    """`arrays` as a data set: of several inputs or outputs at `x_train/NAME`, or as a dict by name at `x_train`."""
    flat = {
        f"{key}/{name}" if name else key: array
        for key, given in arrays.items()
        for name, array in (given if isinstance(given, Mapping) else {"": given}).items()
        if array is not None
    }
    missing = [name for name in ARRAYS if at_key(name, flat) is None]
    if missing:
        raise UserError(
            f"{where}: expected the arrays {', '.join(ARRAYS)}, of a model of several inputs or outputs each as"
            f" {missing[0]}/NAME; missing: {', '.join(missing)}; received: {', '.join(flat) or 'none'}"
        )
    made = {name: _numbers(where, name, flat) for name in ARRAYS}
    for part in ("train", "test"):
        x, y = made[f"x_{part}"], made[f"y_{part}"]
        if any(array.ndim < 2 for array in by_name(x).values()) or len(x) != len(y) or not len(x):
            received = [f"{name} {array.shape}" for name, array in (keyed("x", x) | keyed("y", y)).items()]
            raise UserError(
                f"{where}: expected x_{part} (n, ...) and y_{part} with the same n > 0,"
                f" received {', '.join(received)}"
            )
        made[f"x_{part}"] = _clean(where, f"x_{part}", x)
    train, test = shapes(made["x_train"]), shapes(made["x_test"])
    if any(train[name] != test[name] for name in {*train} & {*test}):
        raise UserError(
            f"{where}: x_train {sizes(made['x_train'])} and x_test {sizes(made['x_test'])} differ in a sample's shape"
        )
    return Dataset(**made, labels=labels)


def _samples(key: str, arrays: Mapping[str, np.ndarray]) -> Samples:
    found = at_key(key, arrays)
    return NamedArrays(found) if isinstance(found, dict) else arrays[key]


def _numbers(where: str, key: str, flat: Mapping[str, Any]) -> Samples:
    arrays = {
        name: np.asarray(array) for name, array in flat.items() if name == key or name.startswith(f"{key}/")
    }
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub":
            raise UserError(f"{where}: expected numbers in {name}, received {array.dtype}")
    if key in arrays and len(arrays) > 1:
        raise UserError(f"{where}: expected either {key} or arrays by name, received {', '.join(arrays)}")
    try:
        return _samples(key, arrays)
    except ValueError as error:
        raise UserError(f"{where}: {key}: {error}") from None


def _clean(where: str, key: str, x: Samples) -> Samples:
    found = each(_floats_in_32_bits, x)
    if not all(np.isfinite(array).all() for array in by_name(found).values()):
        raise UserError(f"{where}: {key} holds values that are not finite; clean them first")
    return found


def _floats_in_32_bits(x: np.ndarray) -> np.ndarray:
    """Whole numbers stay what they are: the model's input says what they become."""
    return x.astype(np.float32) if x.dtype.kind == "f" else x
