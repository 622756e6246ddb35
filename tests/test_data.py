from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline.artifacts import Artifact
from pipeline.errors import UserError
from pipeline.models import data


def npz(folder: Path, **changes: np.ndarray) -> Artifact:
    x, y = np.arange(24, dtype=float).reshape(8, 3), np.arange(8)
    path = folder / "data.npz"
    np.savez(path, **({"x_train": x, "y_train": y, "x_test": x[:2], "y_test": y[:2]} | changes))
    return Artifact("0", "npz", path)


def test_a_split_depends_on_its_seed_alone() -> None:
    one, same, other = (data.load_bundled("digits", 0.25, seed) for seed in (0, 0, 1))
    assert np.array_equal(one.x_test, same.x_test) and not np.array_equal(one.x_test, other.x_test)
    assert len(one.x_test) == 450 and one.x_train.shape[1:] == (8, 8, 1)
    assert np.abs(np.bincount(one.y_test) / 450 - 0.1).max() < 0.01


@pytest.mark.parametrize("fraction", [0.001, 0.999])
def test_a_split_that_cannot_be_is_the_users(fraction: float) -> None:
    with pytest.raises(UserError, match=r"data\.test_fraction"):
        data.load_bundled("iris", fraction, 0)


def test_what_was_saved_is_loaded_and_is_the_same_bytes_again(tmp_path: Path) -> None:
    found = data.load_file(npz(tmp_path))
    for name in ("a", "b"):
        found.save(tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    again = data.load(tmp_path / "a")
    assert np.array_equal(again.x_train, found.x_train) and again.x_train.dtype == np.float32


def test_the_target_may_be_the_input_itself(tmp_path: Path) -> None:
    found = data.load_file(npz(tmp_path), "inputs")
    assert np.array_equal(found.x_test, found.y_test)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"y_train": np.arange(7)}, "the same n > 0"),
        ({"x_test": np.zeros((2, 4))}, "differ in a sample's shape"),
        ({"x_train": np.full((8, 3), np.nan)}, "not finite"),
        ({"x_train": np.full((8, 3), "text")}, "expected numbers"),
    ],
)
def test_arrays_that_do_not_fit_are_told(tmp_path: Path, changes: dict[str, np.ndarray], said: str) -> None:
    with pytest.raises(UserError, match=said):
        data.load_file(npz(tmp_path, **changes))


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut off"])
def test_a_file_that_is_no_npz_is_told(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "data.npz"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"not an \.npz file"):
        data.load_file(Artifact("0", "npz", path))
