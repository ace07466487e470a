"""The parity certificate: shipped weights give their golden outputs wherever the model can go.

Golden inputs are made from the weight's name: soft blobs of random ink, eight per weight. Their probabilities were written
down when the weight was published, and lie beside it. Every way a model can take, from a fresh build to the server's
answer, has to arrive at them.
"""

from __future__ import annotations

import contextlib
import importlib.resources
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from zoo import golden
from zoo.errors import MissingExtraError, UsageError, WeightsError
from zoo.evaluation import softmax
from zoo.export import export_model
from zoo.factory import load_trained
from zoo.files import atomic_file
from zoo.formats import load_litert, load_onnx, write_litert, write_onnx
from zoo.registry import resolve
from zoo.signatures import SERVING_DEFAULT
from zoo.weights import pretrained_file

if TYPE_CHECKING:
    import keras
    import numpy

    from zoo.cards import Card
    from zoo.specs import WeightsSpec

TOLERANCE = 1e-5
SUFFIX = ".golden.npz"
HOPS = ("build", "keras_file", "saved_model", "session", "litert", "onnx", "rest", "grpc")


@dataclass(frozen=True)
class Hop:
    """One way to an answer, compared with the golden outputs.

    Attributes:
        name: `model.tag`.
        hop: `build`, a fresh model with the weights; `keras_file`, a `.keras` file; `saved_model`, the export in TensorFlow 2;
            `session`, in a session as TF Serving loads it; `litert`; `onnx`; `rest` and `grpc`, the
            embedded server.
        error: Largest absolute difference of a probability, or None where the hop could not be taken.
        skipped: Why it could not, or the empty string.
    """

    name: str
    hop: str
    error: float | None
    skipped: str = ""

    @property
    def passed(self) -> bool | None:
        """Whether the error is within 1e-5; None where the hop was not taken."""
        return None if self.error is None else self.error <= TOLERANCE


def verify(*names: str) -> list[Hop]:
    """Compares every hop of shipped weights with their golden outputs.

    Args:
        *names: `model.tag`, one or more.

    Returns:
        For each name its hops, in the order of `HOPS`. A hop whose packages are not installed is skipped.

    Raises:
        UnknownNameError: No such weight.
        UsageError: A name without a tag.
        WeightsError: The golden outputs, the card or the weights are missing or damaged.

    Example:
        >>> [hop.hop for hop in verify("relu_mlp.digits") if hop.passed is False]
        []
    """
    goldens = {name: golden_outputs(name) for name in names}
    found: dict[str, list[Hop]] = {name: [] for name in names}
    with tempfile.TemporaryDirectory(prefix="zoo-verify-") as temporary:
        exports = Path(temporary) / "exports"
        exports.mkdir()
        for name in names:
            images = golden_images(name)
            model, card = load_trained(name)
            for hop, answer in _answers(model, card, Path(temporary), exports):
                found[name].append(_hop(name, hop, partial(answer, images), goldens[name]))
        with _served(exports) as answers:
            for name in names:
                for protocol, ask in answers.items():
                    found[name].append(_hop(name, protocol, partial(ask, name, golden_images(name)), goldens[name]))
    return [hop for hops in found.values() for hop in hops]


def golden_images(name: str) -> numpy.ndarray:
    """Returns the inputs behind a weight's golden outputs, the same on every machine.

    Returns:
        uint8 `(8, height, width, channels)`: soft blobs of random ink, no image of any data set.

    Example:
        >>> golden_images("cnn.digits").shape
        (8, 8, 8, 1)
    """
    return golden.golden_images(name, _spec(name).input_shape)


def golden_outputs(name: str) -> numpy.ndarray:
    """Reads a weight's golden probabilities, float32 `(8, classes)`.

    Raises:
        WeightsError: They are missing or damaged.
    """
    import numpy

    path = pretrained_file(name.partition(".")[0], _spec(name), SUFFIX)
    try:
        with path.open("rb") as file, numpy.load(file) as arrays:
            return arrays["probabilities"]
    except (OSError, ValueError, KeyError) as error:
        raise WeightsError(f"The golden outputs {path} cannot be read: {error}. Install the package again.") from None


def write_golden(name: str) -> Path:
    """Writes a shipped weight's golden outputs beside it, as the present build computes them."""
    import numpy

    model, _ = load_trained(name)
    path = Path(str(importlib.resources.files(_spec(name).package))) / f"{name}{SUFFIX}"
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        numpy.savez(file, probabilities=_probabilities(model.predict(golden_images(name), verbose=0)))
    return path


def _spec(name: str) -> WeightsSpec:
    spec, weights = resolve(name)
    if weights is None:
        tags = ", ".join(f"{spec.name}.{tag.tag}" for tag in spec.pretrained)
        raise UsageError(f"Only shipped weights can be verified. Received: the model {name!r}. Its weights: {tags}.")
    return weights


def _probabilities(logits: numpy.ndarray) -> numpy.ndarray:
    return softmax(logits).astype("float32")


def _hop(name: str, hop: str, answer: Callable[[], numpy.ndarray], golden: numpy.ndarray) -> Hop:
    import numpy

    try:
        got = answer()
    except MissingExtraError as error:
        return Hop(name, hop, None, str(error))
    if got.shape != golden.shape:
        return Hop(name, hop, float("inf"))
    return Hop(name, hop, float(numpy.nan_to_num(numpy.abs(got - golden), nan=numpy.inf).max()))


def _answers(model: keras.Model, card: Card, folder: Path, exports: Path) -> Iterator[tuple[str, Callable[[numpy.ndarray], numpy.ndarray]]]:
    """The hops within this process, each as a function from images to probabilities."""
    import keras
    import tensorflow as tf

    from zoo.serving.servable import Servable

    export = export_model((model, card), exports)

    def keras_file(images: numpy.ndarray) -> numpy.ndarray:
        model.save(folder / "model.keras")
        return _probabilities(keras.models.load_model(folder / "model.keras").predict(images, verbose=0))

    def saved_model(images: numpy.ndarray) -> numpy.ndarray:
        loaded = tf.saved_model.load(str(export))
        return loaded.signatures[SERVING_DEFAULT](image=tf.constant(images.astype("float32")))["probabilities"].numpy()

    def session(images: numpy.ndarray) -> numpy.ndarray:
        servable = Servable(export)
        try:
            return servable.run(SERVING_DEFAULT, {"image": images.astype("float32")})["probabilities"]
        finally:
            servable.close()

    def litert(images: numpy.ndarray) -> numpy.ndarray:
        write_litert(model, folder / "model.tflite")
        return _probabilities(load_litert(folder / "model.tflite")(images))

    def onnx(images: numpy.ndarray) -> numpy.ndarray:
        write_onnx(model, folder / "model.onnx")
        return _probabilities(load_onnx(folder / "model.onnx")(images))

    yield "build", lambda images: _probabilities(model.predict(images, verbose=0))
    yield from (("keras_file", keras_file), ("saved_model", saved_model), ("session", session), ("litert", litert), ("onnx", onnx))


@contextlib.contextmanager
def _served(exports: Path) -> Iterator[dict[str, Callable[[str, numpy.ndarray], numpy.ndarray]]]:
    """A server of all exports in a child process: for each protocol a function from a name and images to probabilities."""
    import importlib.util

    from zoo.serving import Client, start

    def refuse(name: str, images: numpy.ndarray) -> numpy.ndarray:
        raise MissingExtraError("Serving needs its packages: pip install 'neuron-zoo[serve]'")

    if not all(importlib.util.find_spec(package) for package in ("orjson", "uvicorn", "grpc", "tensorflow_serving")):
        yield {"rest": refuse, "grpc": refuse}
        return

    def ask(client: Client, name: str, images: numpy.ndarray) -> numpy.ndarray:
        return client.predict(name, image=images.astype("float32"))["probabilities"]

    with start(exports, 0, "--enable_model_warmup=false") as server, Client(server.url) as rest, Client(server.grpc) as grpc:
        yield {"rest": partial(ask, rest), "grpc": partial(ask, grpc)}
