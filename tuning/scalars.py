"""Hyperparameters as inputs of a compiled step, in place of constants in it.

A number such as `beta_1` is a Python float in Keras, and so part of the graph that is traced from it: another value means
another graph. A `Scalar` takes its place while the graph is traced, and stands for a number that each call brings along.
"""

from __future__ import annotations

import contextlib
import json
import math
import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import keras

if TYPE_CHECKING:
    import tensorflow as tf

# Of each optimizer, the arguments that are nothing but factors and terms of its update. The others decide which operations
# there are, or how a slot starts.
FREE: Mapping[str, tuple[str, ...]] = {
    "SGD": ("momentum",),
    "RMSprop": ("rho", "momentum", "epsilon"),
    "Adagrad": ("epsilon",),
    "Adadelta": ("rho", "epsilon"),
    "Adam": ("beta_1", "beta_2", "epsilon"),
    "AdamW": ("beta_1", "beta_2", "epsilon"),
    "Adamax": ("beta_1", "beta_2", "epsilon"),
    "Nadam": ("beta_1", "beta_2", "epsilon"),
    "Lamb": ("beta_1", "beta_2", "epsilon"),
    "Lion": ("beta_1", "beta_2"),
    "Muon": ("momentum", "sgd_momentum", "sgd_learning_rate_ratio", "bias_learning_rate_ratio"),
}
FREE_IN_ALL = ("weight_decay", "clipnorm", "clipvalue", "global_clipnorm", "ema_momentum")


class Scalar(float):
    """A number above 0 and below infinity that is known when a graph runs, not when it is traced.

    It stays in float64 among Python numbers, as Python's own floats do, so that `1 - beta_2` keeps its digits, and becomes
    a float32 tensor among tensors. Where Keras asks whether a number is 0, the answer is no: a 0 leaves operations out, and
    so belongs to another graph. What is not foreseen here finds a NaN, so that no result can be wrong in silence.

    Args:
        value: A float64 tensor without dimensions.

    Example:
        >>> import tensorflow as tf
        >>> one_minus = 1 - Scalar(tf.constant(0.9999, tf.float64))
        >>> float(one_minus * tf.constant(1.0)) == float(tf.constant(1 - 0.9999))
        True
    """

    dtype = "float32"
    value: tf.Tensor

    def __new__(cls, value: tf.Tensor) -> Scalar:
        scalar = super().__new__(cls, math.nan)
        scalar.value = value
        return scalar

    def __tf_tensor__(self, dtype: Any = None, name: str | None = None) -> tf.Tensor:
        import tensorflow as tf

        return tf.cast(self.value, dtype or tf.float32)

    def __gt__(self, other: Any) -> bool:
        return _zero(other)

    def __lt__(self, other: Any) -> bool:
        return not _zero(other)

    def __ge__(self, other: Any) -> bool:  # asked of shares, which are below 1
        return other != 1

    def __ne__(self, other: object) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return False

    __hash__ = float.__hash__

    def __add__(self, other: Any) -> Any:
        return self._combined(operator.add, self, other)

    def __sub__(self, other: Any) -> Any:
        return self._combined(operator.sub, self, other)

    def __rsub__(self, other: Any) -> Any:
        return self._combined(operator.sub, other, self)

    def __mul__(self, other: Any) -> Any:
        return self._combined(operator.mul, self, other)

    def __truediv__(self, other: Any) -> Any:
        return self._combined(operator.truediv, self, other)

    def __rtruediv__(self, other: Any) -> Any:
        return self._combined(operator.truediv, other, self)

    __radd__, __rmul__ = __add__, __mul__

    @staticmethod
    def _combined(operation: Callable[[Any, Any], Any], left: Any, right: Any) -> Any:
        """A scalar of Python numbers and scalars, a tensor where there is one."""
        if all(isinstance(side, int | float) for side in (left, right)):
            return Scalar(operation(*(side.value if isinstance(side, Scalar) else side for side in (left, right))))
        return operation(*(side.__tf_tensor__() if isinstance(side, Scalar) else side for side in (left, right)))


def _zero(other: Any) -> bool:
    if other == 0:
        return True
    raise TypeError(f"A Scalar can be compared with 0 only. Received: {other!r}.")


class Slots:
    """Where the free numbers of a model stand: a name, and the attributes that hold it.

    Example:
        >>> optimizer = keras.optimizers.Adam()
        >>> slots = Slots({"beta_1": [(optimizer, "beta_1")]})
        >>> slots.vector({"beta_1": 0.8})
        [0.8]
    """

    def __init__(self, places: Mapping[str, Sequence[tuple[Any, str]]]) -> None:
        self.places = dict(sorted(places.items()))

    def vector(self, values: Mapping[str, float]) -> list[float]:
        """Returns the numbers in the order in which `filled` takes them."""
        return [float(values[name]) for name in self.places]

    @contextlib.contextmanager
    def filled(self, vector: tf.Tensor) -> Iterator[None]:
        """Puts scalars in the place of the numbers while a graph is traced.

        Args:
            vector: float64 `(len(places),)`.
        """
        previous = [(holder, attribute, getattr(holder, attribute)) for pairs in self.places.values() for holder, attribute in pairs]
        try:
            for index, pairs in enumerate(self.places.values()):
                for holder, attribute in pairs:
                    setattr(holder, attribute, Scalar(vector[index]))
            yield
        finally:
            for holder, attribute, value in previous:
                setattr(holder, attribute, value)


def is_free(value: Any) -> bool:
    """Tells whether a number can be a `Scalar`: 0 and None leave operations out of the graph."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def optimizer_structure(optimizer: keras.Optimizer) -> tuple[str, dict[str, float]]:
    """Splits an optimizer into what its graph depends on, as JSON, and its free numbers by name.

    The learning rate belongs to neither: a compiled step takes it as an input, whatever schedule it follows.

    Example:
        >>> structure, free = optimizer_structure(keras.optimizers.SGD(0.1, momentum=0.9))
        >>> free["momentum"]
        0.9
    """
    kind = type(optimizer)
    with without_schedule(optimizer):
        config = {name: value for name, value in optimizer.get_config().items() if name not in ("learning_rate", "name")}
    names = (*FREE.get(kind.__name__, ()), *FREE_IN_ALL) if is_known(optimizer) else ()
    free = {name: float(config[name]) for name in names if is_free(config.get(name))}
    fixed = {name: "free" if name in free else value for name, value in config.items()}
    return json.dumps([kind.__module__, kind.__name__, fixed], sort_keys=True, default=repr), free


@contextlib.contextmanager
def without_schedule(optimizer: keras.Optimizer) -> Iterator[None]:
    """Lets an optimizer tell its configuration although its schedule cannot tell its own."""
    schedule, optimizer._learning_rate = optimizer._learning_rate, 1.0
    try:
        yield
    finally:
        optimizer._learning_rate = schedule


def is_known(optimizer: keras.Optimizer) -> bool:
    """Tells whether an optimizer is Keras's own or the zoo's: of others nobody knows what they keep in Python."""
    return type(optimizer).__module__.startswith(("keras.", "zoo."))
