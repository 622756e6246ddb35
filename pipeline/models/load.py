"""A Keras model from the file or the function that the plan names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pipeline.artifacts import Artifact
from pipeline.errors import UserError
from pipeline.models import sources
from pipeline.models.quiet import keras_module, quiet

ENDINGS = (".keras", ".h5")


def load_model(artifact: Artifact, custom: Artifact | None = None) -> Any:
    """The built Keras model in `artifact`: a .keras or Keras 3 .h5 file, or a function that returns one.

    `custom` is the Python file whose registered layers the model may use. Raises `UserError` when it cannot be
    loaded, has never been built, or has more than one input or output.
    """
    keras = keras_module()
    if custom is not None and custom.kind == "source":
        sources.load_module(custom.path)
    if artifact.kind == "source":
        model = sources.call(sources.from_artifact(artifact))
        if not isinstance(model, keras.Model):
            raise UserError(f"{artifact.path}: expected a Keras model, received {type(model).__name__}")
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
    if (len(model.inputs), len(model.outputs)) != (1, 1):
        counts = f"{len(model.inputs)} and {len(model.outputs)}"
        raise UserError(f"{artifact.path}: expected a model with one input and one output, received {counts}")
    return model


def save_model(model: Any, path: Path) -> None:
    """Write a .keras file."""
    with quiet():
        model.save(path)
