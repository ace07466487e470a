"""SavedModels that TF Serving loads as they are: stable names, whole versions, labels in the answer.

A model repository is laid out as TF Serving expects it:

    saved_models/
      models.config                 which models there are
      cnn_bn.mnist/
        1/                          a version: a directory named by a whole number
          saved_model.pb, variables/
          assets/labels.txt         the class names, one per line
          assets.extra/             what TF Serving passes over:
            card.json               what the weights are
            golden/                 a request and its response for every signature
            tf_serving_warmup_requests   but for these, which it answers before the version takes traffic
            model.tflite, model.onnx     the model for other runtimes, where asked for
        tf_serving_warmup_requests       the shapes of real requests, where `zoo serve --record-warmup` wrote them down

A version directory is written under a temporary name and renamed when it is complete, so that a server that polls the
repository never sees a part of one. The same weights give the same bytes, whatever the process did before.
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import logging
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.cards import Card
from zoo.errors import ExportError, UsageError, closest
from zoo.factory import load_trained
from zoo.files import atomic_directory, write_text
from zoo.formats import write_litert, write_onnx
from zoo.golden import GOLDEN, WARMUP, answerable_records, golden_exchanges, write_golden_requests, write_warmup_requests
from zoo.signatures import CLASSIFY, CLASSIFY_METHOD, signature_functions

if TYPE_CHECKING:
    import keras

MODELS_CONFIG = "models.config"
MOUNT_POINT = "/models"
LATEST_VERSION = 2**63 - 1
EXTRA = "assets.extra"
SAVED_MODEL = "saved_model"
FORMATS = {SAVED_MODEL: "saved_model.pb", "litert": f"{EXTRA}/model.tflite", "onnx": f"{EXTRA}/model.onnx"}
"""Format -> its file within a version."""


def export_model(
    source: str | Path | tuple[keras.Model, Card],
    to: str | Path = "saved_models",
    *,
    version: int | None = None,
    name: str | None = None,
    formats: Sequence[str] = (SAVED_MODEL,),
) -> Path:
    """Exports a trained model as a version of a model repository.

    The signature `serving_default` maps `image`, float32 `(batch, height, width, channels)`, values 0..255, to

    - `probabilities`: float32 `(batch, classes)`;
    - `class_id`: int64 `(batch,)`, the most probable class;
    - `label`: string `(batch,)`, its name;
    - `logits`: float32 `(batch, classes)`.

    `predict_uint8` takes `image` as uint8, `predict_bytes` takes `image_bytes`, PNG or JPEG files of any size, `classify` takes
    serialized `tf.Example`, and `features` gives the activations of every level; see `zoo.signatures`.

    Args:
        source: `model[.tag]`, the directory of a training run, or a model with its card.
        to: The repository.
        version: The version's number; the next free one where None.
        name: The model's name in the repository; the card's where None.
        formats: What the version holds: `saved_model`, which is always there, and `litert` and `onnx`, from `image`, float32, to
            logits, in `assets.extra/`.

    Returns:
        The version's directory.

    Raises:
        ExportError: The version exists, the repository cannot be written, or Keras does not run on TensorFlow.
        MissingExtraError: `onnx` is wanted and the extra `formats` is not installed.
        UsageError: There is no such format.
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
    check_formats(formats)
    model, card = load_trained(source) if isinstance(source, str | Path) else source
    name = card.name if name is None else name
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise ExportError(f"A served model's name consists of letters, digits, '_', '-' and '.'. Received: {name!r}.")
    if version is not None and not 1 <= version <= LATEST_VERSION:
        raise ExportError(f"A version is a whole number above 0 and below 2**63. Received: {version}.")
    base = Path(to) / name
    try:
        number = _next_version(base) if version is None else version
        if (base / str(number)).exists():
            raise ExportError(f"{base / str(number)} exists. Versions are never overwritten; the next free one is {_next_version(base)}.")
        with atomic_directory(base / str(number)) as directory:
            _write(model, card, name, formats, directory)
        write_models_config(to)
    except OSError as error:
        raise ExportError(f"{base} cannot be written: {error.strerror or error}. Nothing was exported.") from None
    finally:
        with contextlib.suppress(OSError):
            base.rmdir()  # goes through only where it is empty: it was made for a version that came to nothing
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
    return sorted(int(child.name) for child in base.iterdir() if child.is_dir() and re.fullmatch(r"[0-9]+", child.name))


def model_names(repository: str | Path) -> list[str]:
    """Returns the names of the models that a repository holds, sorted."""
    repository = Path(repository)
    return sorted(child.name for child in repository.iterdir() if child.is_dir() and versions(child))


def write_models_config(repository: str | Path) -> Path:
    """Writes `models.config` for every model in a repository, for `tensorflow_model_server --model_config_file`.

    TF Serving wants absolute paths, and a repository moves. So the paths are those of TF Serving's container image, where
    the repository is mounted at `/models`; `zoo serve` looks beside the file where such a path does not exist. What the file says
    of a model already, such as its labels, stays.

    Raises:
        ExportError: There is a file that cannot be parsed.
    """
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

    path, names = Path(repository) / MODELS_CONFIG, model_names(repository)
    heading = f"# Mount this folder at {MOUNT_POINT}: tensorflow_model_server --model_config_file={MOUNT_POINT}/{MODELS_CONFIG}\n"
    with edited_models_config(path, ModelServerConfig(), heading) as config:
        entries = config.model_config_list.config
        for index in reversed(range(len(entries))):
            if entries[index].name not in names and entries[index].base_path == f"{MOUNT_POINT}/{entries[index].name}":
                del entries[index]  # its folder is gone
        for name in set(names) - {entry.name for entry in entries}:
            entries.add(name=name, base_path=f"{MOUNT_POINT}/{name}", model_platform="tensorflow")
        entries.sort(key=lambda entry: entry.name)
    return path


@contextlib.contextmanager
def edited_models_config(path: Path, config: Any, heading: str = "") -> Iterator[Any]:
    """Yields what a `models.config` says, and writes it back, atomically, when the block ends without an error.

    The comments at the file's beginning stay. A file that says the same afterwards is left as it is.

    Args:
        path: The file, which need not be there yet.
        config: An empty ModelServerConfig.
        heading: The comments of a new file.

    Raises:
        ExportError: The file cannot be parsed.
    """
    from google.protobuf import text_format

    text = path.read_text(encoding="utf-8") if path.is_file() else None
    try:
        text_format.Parse(text or "", config)
    except text_format.ParseError as error:
        raise ExportError(f"{path} is no models.config: {error}. It is left as it is: mend or remove it.") from None
    before = config.SerializeToString(deterministic=True)
    yield config
    if text is None or config.SerializeToString(deterministic=True) != before:
        lines = (heading if text is None else text).splitlines(keepends=True)
        comments = "".join(itertools.takewhile(lambda line: not line.strip() or line.startswith("#"), lines))
        write_text(path, comments + text_format.MessageToString(config))


def _next_version(base: Path) -> int:
    return max(versions(base), default=0) + 1


def check_formats(formats: Sequence[str]) -> None:
    """Raises UsageError for a format that does not exist, with the closest that does."""
    for name in formats:
        if name not in FORMATS:
            hint = "".join(f" Did you mean {match!r}?" for match in closest(name, FORMATS, 1))
            raise UsageError(f"Unknown format {name!r}.{hint} Formats: {', '.join(FORMATS)}.")


def _write(model: keras.Model, card: Card, name: str, formats: Sequence[str], directory: Path) -> None:
    """Writes everything that a version holds into an empty directory."""
    import tensorflow as tf

    functions = signature_functions(model, card)
    exchanges = golden_exchanges(functions, card)
    try:
        _write_graph(model, functions, directory)
    except tf.errors.OpError as error:
        if isinstance(error, tf.errors.ResourceExhaustedError | tf.errors.UnknownError | tf.errors.InternalError | tf.errors.DataLossError):
            full = os.strerror(errno.ENOSPC)
            raise OSError(0, full if full in error.message else str(error.message).partition("\n")[0]) from None
        raise
    (directory / "assets").mkdir(exist_ok=True)
    (directory / "assets" / "labels.txt").write_text("".join(f"{label}\n" for label in card.class_names), encoding="utf-8")
    (directory / EXTRA).mkdir()
    card.write(directory / EXTRA / "card.json")
    write_golden_requests(exchanges, directory / EXTRA / GOLDEN)
    write_warmup_requests(exchanges, name, directory / EXTRA / WARMUP, answerable_records(directory.parent / WARMUP, functions))
    if "litert" in formats:
        write_litert(model, directory / FORMATS["litert"])
    if "onnx" in formats:
        write_onnx(model, directory / FORMATS["onnx"])


def _write_graph(model: keras.Model, functions: Mapping[str, Any], directory: Path) -> None:
    """Writes the SavedModel.

    What is saved are the bare variables in the model's order. A Keras model saved as such leaves variables behind that a
    session does not initialize, and `keras.export.ExportArchive` orders them by chance.
    """
    import tensorflow as tf

    holder = tf.Module()
    used = {id(variable): variable for function in functions.values() for variable in function.variables}
    holder.model_variables = [used.pop(id(weight.value)) for weight in model.weights if id(weight.value) in used]
    holder.further_variables = list(used.values())
    with _quiet():
        tf.saved_model.save(holder, str(directory), signatures=dict(functions))
    _finish_graph(directory)


def _finish_graph(directory: Path) -> None:
    """Gives `classify` the method name that TF Serving asks for, which TensorFlow 2 cannot write, and the file a stable form."""
    from tensorflow.core.protobuf.fingerprint_pb2 import FingerprintDef
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel
    from tensorflow.python.saved_model.pywrap_saved_model import fingerprinting

    path = directory / FORMATS[SAVED_MODEL]
    saved_model = SavedModel.FromString(path.read_bytes())
    graph = saved_model.meta_graphs[0]
    graph.signature_def[CLASSIFY].method_name = CLASSIFY_METHOD
    _rename(graph, _stable_names(graph.graph_def.library.function))
    for function in graph.graph_def.library.function:
        for argument in function.arg_attr.values():
            if argument.attr["_user_specified_name"].s.isdigit():  # the number of a captured variable, as of this process
                del argument.attr["_user_specified_name"]
    graph.graph_def.library.function.sort(key=lambda function: function.signature.name)
    path.write_bytes(saved_model.SerializeToString(deterministic=True))
    fingerprint = FingerprintDef.FromString(fingerprinting.CreateFingerprintDef(str(directory)))
    fingerprint.uuid = str(fingerprint.saved_model_checksum)  # otherwise random
    (directory / "fingerprint.pb").write_bytes(fingerprint.SerializeToString(deterministic=True))


def _stable_names(functions: Iterable[Any]) -> dict[str, str]:
    """Functions' names -> the same with numbers that count from 0. TensorFlow's own count everything the process ever traced."""
    numbered = [(function.signature.name, re.search(r"(?:_[0-9]+)*$", function.signature.name)) for function in functions]
    order = sorted((list(map(int, match[0].split("_")[1:])), name, name[: match.start()]) for name, match in numbered if match)
    names = {name: f"{base}_{index}" for index, (_, name, base) in enumerate(order)}
    arguments = [argument.name for function in functions for argument in function.signature.input_arg]
    return names | {name: re.sub(r"_[0-9]+(?=___redundant_placeholder)", "", name) for name in arguments if "___redundant_placeholder" in name}


def _rename(message: Any, names: Mapping[str, str]) -> None:
    """Replaces strings anywhere in a protocol buffer message, in place."""
    for field, value in message.ListFields():
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            for key in list(value):
                if field.message_type.fields_by_name["value"].message_type is not None:
                    _rename(value[key], names)
                    if key in names:
                        value[names[key]].CopyFrom(value[key])
                        del value[key]
        elif field.message_type is not None:
            for item in value if _is_repeated(value) else [value]:
                _rename(item, names)
        elif field.type == field.TYPE_STRING and _is_repeated(value):
            value[:] = [names.get(item, item) for item in value]
        elif field.type == field.TYPE_STRING:
            setattr(message, field.name, names.get(value, value))


def _is_repeated(value: Any) -> bool:
    return hasattr(value, "append") or hasattr(value, "add")


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
    """Returns JSON-ready data about an export: its name, version, directory, formats and size in bytes."""
    size = sum(os.path.getsize(file) for file in path.rglob("*") if file.is_file())
    formats = {name: str(path / file) for name, file in FORMATS.items() if (path / file).is_file()}
    return {"name": path.parent.name, "version": int(path.name), "directory": str(path), "formats": formats, "bytes": size}
