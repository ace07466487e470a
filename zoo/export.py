"""SavedModels that TF Serving loads as they are: stable names, whole versions, labels in the answer.

A model repository is laid out as TF Serving expects it:

    saved_models/
      models.config                 which models there are
      cnn_bn.mnist/
        1/                          a version: a directory named by a whole number
          saved_model.pb, variables/
          assets/labels.txt         the class names, one per line
          assets.extra/card.json    what the weights are

A version directory is written under a temporary name and renamed when it is complete, so that a server that polls the
repository never sees a part of one.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.cards import Card
from zoo.errors import ExportError
from zoo.factory import load_trained
from zoo.files import atomic_directory, write_text

if TYPE_CHECKING:
    import keras

MODELS_CONFIG = "models.config"
MOUNT_POINT = "/models"
SIGNATURE = "serving_default"


def export_model(
    source: str | Path | tuple[keras.Model, Card],
    to: str | Path = "saved_models",
    *,
    version: int | None = None,
    name: str | None = None,
) -> Path:
    """Exports a trained model as a version of a model repository.

    The signature `serving_default` maps `image`, float32 `(batch, height, width, channels)`, values 0..255, to

    - `probabilities`: float32 `(batch, classes)`;
    - `class_id`: int64 `(batch,)`, the most probable class;
    - `label`: string `(batch,)`, its name;
    - `logits`: float32 `(batch, classes)`.

    Args:
        source: `model[.tag]`, the directory of a training run, or a model with its card.
        to: The repository.
        version: The version's number; the next free one where None.
        name: The model's name in the repository; the card's where None.

    Returns:
        The version's directory.

    Raises:
        ExportError: The version exists, the repository cannot be written, or Keras does not run on TensorFlow.
        ZooError: The source cannot be loaded; see `zoo.load_trained`.

    Example:
        >>> import tempfile, zoo
        >>> path = zoo.export_model("relu_mlp.digits", to=tempfile.mkdtemp())
        >>> path.parent.name, path.name
        ('relu_mlp.digits', '1')
    """
    import keras

    if keras.backend.backend() != "tensorflow":
        raise ExportError(
            f"A SavedModel can only be written by Keras on TensorFlow. KERAS_BACKEND is {keras.backend.backend()!r}: set it to tensorflow."
        )
    model, card = load_trained(source) if isinstance(source, str | Path) else source
    name = card.name if name is None else name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ExportError(f"A served model's name consists of letters, digits, '_', '-' and '.'. Received: {name!r}.")
    if version is not None and version < 1:
        raise ExportError(f"A version is a whole number above 0. Received: {version}.")
    base = Path(to) / name
    try:
        number = _next_version(base) if version is None else version
        if (base / str(number)).exists():
            raise ExportError(f"{base / str(number)} exists. Versions are never overwritten; the next free one is {_next_version(base)}.")
        with atomic_directory(base / str(number)) as directory:
            _write(model, card, directory)
        write_models_config(to)
    except OSError as error:
        with contextlib.suppress(OSError):
            base.rmdir()  # only if it is empty: it was made for this version
        raise ExportError(f"{base} cannot be written: {error.strerror or error}. Nothing was exported.") from None
    return base / str(number)


def versions(base: str | Path) -> list[int]:
    """Returns the version numbers that lie below a model's directory, ascending.

    Example:
        >>> versions("nowhere")
        []
    """
    base = Path(base)
    if not base.is_dir():
        return []
    return sorted(int(child.name) for child in base.iterdir() if child.is_dir() and child.name.isdecimal())


def model_names(repository: str | Path) -> list[str]:
    """Returns the names of the models that a repository holds, sorted."""
    repository = Path(repository)
    return sorted(child.name for child in repository.iterdir() if child.is_dir() and versions(child))


def write_models_config(repository: str | Path) -> Path:
    """Writes `models.config` for every model in a repository, for `tensorflow_model_server --model_config_file`.

    TF Serving wants absolute paths, and a repository moves. So the paths are those of TF Serving's container image, where
    the repository is mounted at `/models`; `zoo serve` looks beside the file where such a path does not exist.
    """
    repository = Path(repository)
    entries = "".join(
        f'  config {{\n    name: "{name}"\n    base_path: "{MOUNT_POINT}/{name}"\n    model_platform: "tensorflow"\n  }}\n'
        for name in model_names(repository)
    )
    heading = f"# Mount this folder at {MOUNT_POINT}: tensorflow_model_server --model_config_file={MOUNT_POINT}/{MODELS_CONFIG}\n"
    write_text(repository / MODELS_CONFIG, f"{heading}model_config_list {{\n{entries}}}\n")
    return repository / MODELS_CONFIG


def _next_version(base: Path) -> int:
    return max(versions(base), default=0) + 1


def _write(model: keras.Model, card: Card, directory: Path) -> None:
    """Writes the SavedModel, the labels and the card into an empty directory."""
    import keras
    import tensorflow as tf

    try:
        archive = keras.export.ExportArchive()
        names = tf.constant(list(card.class_names))

        def serve(image: tf.Tensor) -> dict[str, tf.Tensor]:
            logits = tf.cast(model(image, training=False), tf.float32)
            class_id = tf.argmax(logits, axis=-1, output_type=tf.int64)
            return {"probabilities": tf.nn.softmax(logits), "class_id": class_id, "label": tf.gather(names, class_id), "logits": logits}

        archive.add_endpoint(SIGNATURE, serve, [tf.TensorSpec((None, *card.input_shape), tf.float32, name="image")])
        with _quiet():
            archive.write_out(str(directory), verbose=False)
    except tf.errors.OpError as error:
        if isinstance(error, tf.errors.ResourceExhaustedError | tf.errors.UnknownError | tf.errors.InternalError | tf.errors.DataLossError):
            full = os.strerror(errno.ENOSPC)
            raise OSError(0, full if full in error.message else str(error.message).partition("\n")[0]) from None
        raise
    (directory / "assets").mkdir(exist_ok=True)
    (directory / "assets" / "labels.txt").write_text("".join(f"{label}\n" for label in card.class_names), encoding="utf-8")
    (directory / "assets.extra").mkdir()
    card.write(directory / "assets.extra" / "card.json")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Holds back TensorFlow's note about assets, and nothing else."""
    logger = logging.getLogger("tensorflow")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def export_report(path: Path) -> dict[str, Any]:
    """Returns JSON-ready data about an export: its name, version, directory and size in bytes."""
    size = sum(os.path.getsize(file) for file in path.rglob("*") if file.is_file())
    return {"name": path.parent.name, "version": int(path.name), "directory": str(path), "bytes": size}
