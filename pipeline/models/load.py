"""A Keras model from the file or the function that the plan names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.artifacts import Artifact
from pipeline.errors import UserError
from pipeline.models import keras2, keras2_h5, saved_model, sources
from pipeline.models.ports import input_ports, output_ports
from pipeline.models.quiet import keras_module, quiet

ENDINGS = (".keras", ".h5", ".hdf5", ".tflite", sources.SAVED_MODEL)
_FROM_PYTORCH = (
    "a PyTorch model has no Keras layers to prune; rebuild it in Keras with its weights and give that model, or"
    " convert it to .tflite with the zeros it has (litert-torch, formerly ai-edge-torch) and deploy that with"
    " prune.method: none"
)
REFUSED = {
    ".pt": _FROM_PYTORCH,
    ".pth": _FROM_PYTORCH,
    ".onnx": (
        "an ONNX file has no Keras layers to prune; give the Keras model it was made from, or rebuild it in Keras."
        " From PyTorch, litert-torch (formerly ai-edge-torch) makes a .tflite file, which prune.method: none deploys"
        " with the zeros it has"
    ),
}


NOT_PRUNED = (
    "a .tflite file has no layer graph whose weights could be pruned; give the Keras model it was made from (from"
    " PyTorch: rebuild it in Keras with its weights, or prune it there and convert it with its zeros). As it is,"
    " method: none encodes, deploys and measures it"
)
NOT_TRAINED = (
    "a .tflite file only runs forward, there is nothing to train it by; train the model it was made from and convert"
    " that again, or leave the key out"
)


def parse_source(text: str, folder: Path) -> sources.Source:
    """What `model.source` names, relative to `folder`. Raises `ValueError`, for a format without layers with the
    reason and the way there is; nothing is loaded."""
    reason = REFUSED.get(Path(text).suffix.lower())
    if reason is not None:
        raise ValueError(reason)
    return sources.parse(text, folder, ENDINGS)


def load_model(artifact: Artifact, custom: Artifact | None = None) -> Any:
    """The built Keras model in `artifact`: a .keras file, an .h5 file of Keras 3 or 2, a SavedModel of Keras 2, or
    a function that returns one.

    `custom` is the Python file whose registered layers the model may use. Raises `UserError` when it cannot be
    loaded, has never been built, or has inputs or outputs that no .tflite file of ours can have.
    """
    keras = keras_module()
    if custom is not None and custom.kind == "source":
        sources.load_module(custom.path)
    if artifact.kind == "source":
        model = sources.call(sources.from_artifact(artifact))
        if not isinstance(model, keras.Model):
            raise UserError(f"{artifact.path}: expected a Keras model, received {type(model).__name__}")
    elif artifact.kind == "saved_model":
        model = keras2.rebuild(saved_model.read(artifact.path), str(artifact.path))
    elif artifact.kind in ("h5", "hdf5") and keras2_h5.is_of_keras_2(artifact.path):
        model = keras2.rebuild(keras2_h5.read(artifact.path), str(artifact.path))
    else:
        try:
            model = keras.saving.load_model(artifact.path, compile=False)
        except Exception as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(
                f"{artifact.path}: Keras {keras.__version__} cannot load it: {first[:300]}"
            ) from error
    if not model.built or not getattr(model, "inputs", None):
        raise UserError(
            f"{artifact.path}: the model has no known input shape; begin it with keras.Input(shape) and use the"
            " Sequential or functional form"
        )
    problem = _problem_of_ports(model)
    if problem is not None:
        raise UserError(f"{artifact.path}: {problem}")
    return model


def _problem_of_ports(model: Any) -> str | None:
    for port in input_ports(model):
        if port.dtype == "string":
            return (
                f"expected inputs of numbers, received text at {port.name}; let the data hold token numbers"
            )
    exits = output_ports(model)
    for port in exits:
        if not port.dtype.startswith("float"):
            return f"expected outputs of floating-point numbers, received {port.dtype} at {port.name}"
    names = [port.name for port in exits]
    if len(set(names)) != len(names):
        return (
            f"expected each output to come out of a layer of its own, received {', '.join(names)}; let a"
            " keras.layers.Identity(name=...) follow each"
        )
    return None


def save_model(model: Any, path: Path) -> None:
    """Write a .keras file."""
    with quiet():
        model.save(path)
