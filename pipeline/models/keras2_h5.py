"""The .h5 file of Keras 2: its configuration, and its weights by layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pipeline.errors import UserError
from pipeline.models.keras2 import Written, parse, trainable_first


def is_of_keras_2(path: Path) -> bool:
    """Did Keras 2, or an older one, write this .h5 file? False, too, where it is no whole HDF5 file."""
    import h5py

    try:
        with h5py.File(path) as file:
            group = file.get("model_weights", file)
            version = file.attrs.get("keras_version", group.attrs.get("keras_version", "1"))
            return _text(version).split(".")[0] in ("1", "2")
    except OSError:
        return False


def read(path: Path) -> Written:
    """What the file holds. Raises `UserError` where that is weights alone, or damaged."""
    import h5py

    try:
        with h5py.File(path) as file:
            if "model_config" not in file.attrs:
                raise UserError(
                    f"{path}: holds weights alone, and no model; load them into the model in Python, and save that:"
                    " model.load_weights(...); model.save('model.keras')"
                )
            config = parse(file.attrs["model_config"])
            group = file["model_weights"]
            return Written(
                config,
                {name: _weights(group[name]) for name in _names(group, "layer_names")},
                trainable_first,
            )
    except (OSError, KeyError, ValueError, RuntimeError) as error:
        raise UserError(f"{path}: not a whole .h5 model of Keras 2: {error}") from None


def _weights(group: Any) -> list[tuple[str, np.ndarray]]:
    return [(name, np.asarray(group[name])) for name in _names(group, "weight_names")]


def _names(group: Any, key: str) -> list[str]:
    """An attribute that lists names; a long one comes in parts, `key0`, `key1` and so on."""
    if key in group.attrs:
        return [_text(name) for name in group.attrs[key]]
    found: list[str] = []
    part = 0
    while f"{key}{part}" in group.attrs:
        found += [_text(name) for name in group.attrs[f"{key}{part}"]]
        part += 1
    return found


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
