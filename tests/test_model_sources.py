"""What may stand for a model: what is taken, and what is refused with its reason and the way there is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pipeline import model_files
from pipeline.artifacts import folder_digest
from pipeline.errors import UserError
from pipeline.models.load import parse_source
from pipeline.progress import Progress
from pipeline.sparse_tflite.host_interpreter import outputs_on_host
from tests.models_for_tests import write_dense_model
from tests.workspace import Workspace


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("m.tflite", "no such file"),
        ("m.pt", "PyTorch .*litert-torch.* prune.method: none"),
        ("m.pth", "PyTorch .*litert-torch"),
        ("m.onnx", "ONNX .* litert-torch"),
        (
            "m.txt",
            "or a .h5 file or a .hdf5 file or a .tflite file or a folder with saved_model.pb, received 'm.txt'",
        ),
        ("folder", "or a folder with saved_model.pb, received 'folder'"),
    ],
)
def test_a_format_without_layers_is_refused_with_the_way_there_is(
    tmp_path: Path, name: str, words: str
) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(ValueError, match=words):
        parse_source(name, tmp_path)


def test_a_folders_digest_is_of_names_and_bytes(tmp_path: Path) -> None:
    digests = set()
    for number, (name, content) in enumerate([("a/b", b"1"), ("a/c", b"1"), ("a/b", b"2"), ("ab", b"1")]):
        path = tmp_path / str(number) / name
        path.parent.mkdir(parents=True)
        path.write_bytes(content)
        digests.add(folder_digest(tmp_path / str(number)))
    assert len(digests) == 4


def test_pruning_a_tflite_file_ends_with_2_before_any_work(tmp_path: Path, home: Path) -> None:
    workspace = Workspace(tmp_path, home)
    write_dense_model(tmp_path / "m.tflite")
    ended = workspace.run("prune", "m.tflite", "--data", "none.npz", "--out", "p.keras")
    assert ended.code == 2
    assert "prune.method: a .tflite file has no layer graph" in ended.err and "none.npz" in ended.err


def test_a_tflite_file_is_encoded_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    answer = write_dense_model(tmp_path / "m.tflite")
    report = model_files.convert(
        Path("m.tflite"), Path("out.tflite"), "local", model_files.Conversion(), Progress()
    )
    assert report["agreement"]["agrees"] and [each["encoding"] for each in report["encodings"]] == ["dense"]
    x = np.random.default_rng(0).normal(size=(4, 4)).astype(np.float32)
    encoded = outputs_on_host((tmp_path / "out.tflite").read_bytes(), x)
    np.testing.assert_allclose(encoded, answer(x), atol=1e-6)
    again = model_files.convert(
        Path("out.tflite"), Path("again.tflite"), "local", model_files.Conversion(), Progress()
    )
    assert (tmp_path / "again.tflite").read_bytes() == (tmp_path / "out.tflite").read_bytes()
    assert again["encodings"] == report["encodings"]


@pytest.mark.parametrize(
    ("name", "words"), [("none.tflite", "cannot be read"), ("text.tflite", "not a TFLite file")]
)
def test_a_tflite_file_that_is_none_is_told(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "text.tflite").write_text("text")
    with pytest.raises(UserError, match=words):
        model_files.convert(
            tmp_path / name, tmp_path / "out.tflite", "local", model_files.Conversion(), Progress()
        )
