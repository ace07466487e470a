"""Optimizers as records: name, family, Keras class, defaults, search domain, paper.

A search draws `learning_rate` and the other domains of the record; the ranges follow AlgoPerf's tuning search spaces, the
Deep Learning Tuning Playbook and DeepOBS.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zoo.errors import UsageError, unknown
from zoo.specs import Choice, Domain, Float, OptimizerSpec

if TYPE_CHECKING:
    import keras

_MOMENTUM = Float(0.7, 0.995, "complement_log")
_EPSILON = Float(1e-10, 1.0, "log")
_ADAM: dict[str, Domain] = {
    "learning_rate": Float(1e-5, 3e-2, "log"),
    "beta_1": Float(0.5, 0.996, "complement_log"),
    "epsilon": _EPSILON,
    "beta_2": Float(0.8, 0.9999, "complement_log"),
}

_OPTIMIZERS = (
    OptimizerSpec(
        name="sgd",
        family="sgd",
        keras_class="SGD",
        learning_rate=0.1,
        defaults={},
        domains={"learning_rate": Float(1e-3, 5.0, "log")},
        reference="Robbins, Monro, A Stochastic Approximation Method, 1951, https://doi.org/10.1214/aoms/1177729586",
        description="w <- w - lr g: a step against the gradient of one mini-batch",
    ),
    OptimizerSpec(
        name="momentum",
        family="momentum",
        keras_class="SGD",
        learning_rate=0.02,
        defaults={"momentum": 0.9},
        domains={"learning_rate": Float(1e-3, 3.0, "log"), "momentum": _MOMENTUM},
        reference="Polyak, Some methods of speeding up the convergence of iteration methods, 1964, https://doi.org/10.1016/0041-5553(64)90137-5",
        description="v <- m v - lr g; w <- w + v: past steps decay instead of being forgotten",
    ),
    OptimizerSpec(
        name="nesterov",
        family="momentum",
        keras_class="SGD",
        learning_rate=0.02,
        defaults={"momentum": 0.9, "nesterov": True},
        domains={"learning_rate": Float(1e-3, 3.0, "log"), "momentum": _MOMENTUM},
        reference="Sutskever et al., On the importance of initialization and momentum in deep learning, 2013, https://proceedings.mlr.press/v28/sutskever13",
        description="momentum whose gradient counts from where the velocity is about to lead",
    ),
    OptimizerSpec(
        name="muon",
        family="momentum",
        keras_class="Muon",
        learning_rate=2e-2,
        defaults={},
        domains={
            "learning_rate": Float(1e-3, 3e-1, "log"),
            "momentum": Float(0.5, 0.98, "complement_log"),
            "sgd_learning_rate_ratio": Float(0.1, 10.0, "log"),
            "bias_learning_rate_ratio": Float(0.1, 10.0, "log"),
        },
        reference="Jordan et al., Muon: An optimizer for hidden layers in neural networks, 2024, https://kellerjordan.github.io/posts/muon/",
        description="momentum made orthogonal for matrices and filters, nesterov for the rest",
    ),
    OptimizerSpec(
        name="adagrad",
        family="adaptive",
        keras_class="Adagrad",
        learning_rate=0.02,
        defaults={},
        domains={"learning_rate": Float(1e-3, 1.0, "log"), "initial_accumulator_value": Choice((0.0, 0.1))},
        reference="Duchi, Hazan, Singer, Adaptive Subgradient Methods for Online Learning and Stochastic Optimization, 2011, https://jmlr.org/papers/v12/duchi11a",
        description="divides each step by the root of the sum of all squared gradients",
    ),
    OptimizerSpec(
        name="adadelta",
        family="adaptive",
        keras_class="Adadelta",
        learning_rate=1.0,
        defaults={},
        domains={"learning_rate": Float(1e-2, 10.0, "log"), "rho": Float(0.7, 0.999, "complement_log")},
        reference="Zeiler, ADADELTA: An Adaptive Learning Rate Method, 2012, https://arxiv.org/abs/1212.5701",
        description="scales each step by the running size of past steps over that of past gradients",
    ),
    OptimizerSpec(
        name="rmsprop",
        family="adaptive",
        keras_class="RMSprop",
        learning_rate=1e-3,
        defaults={},
        domains={
            "learning_rate": Float(1e-5, 1e-1, "log"),
            "rho": Float(0.7, 0.999, "complement_log"),
            "momentum": Choice((0.0, 0.9)),
            "epsilon": _EPSILON,
        },
        reference="Tieleman, Hinton, Lecture 6.5 - rmsprop, COURSERA: Neural Networks for Machine Learning, 2012",
        description="divides each step by the root of a running mean of squared gradients",
    ),
    OptimizerSpec(
        name="adam",
        family="adaptive",
        keras_class="Adam",
        learning_rate=1e-3,
        defaults={},
        domains=_ADAM,
        reference="Kingma, Ba, Adam: A Method for Stochastic Optimization, 2014, https://arxiv.org/abs/1412.6980",
        description="momentum over rmsprop, both corrected for their start at zero",
    ),
    OptimizerSpec(
        name="adamax",
        family="adaptive",
        keras_class="Adamax",
        learning_rate=2e-3,
        defaults={},
        domains=_ADAM,
        reference="Kingma, Ba, Adam: A Method for Stochastic Optimization, 2014, section 7.1, https://arxiv.org/abs/1412.6980",
        description="adam with the largest recent gradient in place of the mean square",
    ),
    OptimizerSpec(
        name="adamw",
        family="adaptive",
        keras_class="AdamW",
        learning_rate=1e-3,
        defaults={"weight_decay": 0.01},
        domains={**_ADAM, "learning_rate": Float(1e-4, 1e-2, "log"), "weight_decay": Float(5e-3, 1.0, "log")},
        reference="Loshchilov, Hutter, Decoupled Weight Decay Regularization, 2017, https://arxiv.org/abs/1711.05101",
        description="adam whose weights also shrink by a fixed share per step",
    ),
    OptimizerSpec(
        name="nadam",
        family="adaptive",
        keras_class="Nadam",
        learning_rate=1e-3,
        defaults={},
        domains=_ADAM,
        reference="Dozat, Incorporating Nesterov Momentum into Adam, 2016, https://openreview.net/forum?id=OM0jvwB8jIp57ZJjtNEZ",
        description="adam with nesterov's look ahead",
    ),
    OptimizerSpec(
        name="lamb",
        family="adaptive",
        keras_class="Lamb",
        learning_rate=3e-3,
        defaults={},
        domains={**_ADAM, "learning_rate": Float(1e-4, 1e-1, "log")},
        reference="You et al., Large Batch Optimization for Deep Learning: Training BERT in 76 minutes, 2019, https://arxiv.org/abs/1904.00962",
        description="adam whose step has, layer by layer, the length of the weights",
    ),
    OptimizerSpec(
        name="lion",
        family="adaptive",
        keras_class="Lion",
        learning_rate=1e-4,
        defaults={},
        domains={
            "learning_rate": Float(1e-5, 3e-3, "log"),
            "beta_2": Float(0.9, 0.999, "complement_log"),
            "weight_decay": Float(1.5e-2, 10.0, "log"),
        },
        reference="Chen et al., Symbolic Discovery of Optimization Algorithms, 2023, https://arxiv.org/abs/2302.06675",
        description="the sign of an interpolated momentum, so that every weight moves by the same amount",
    ),
)

OPTIMIZERS: Mapping[str, OptimizerSpec] = {spec.name: spec for spec in _OPTIMIZERS}


def list_optimizers(family: str | None = None) -> list[str]:
    """Lists the optimizers, or those of one family: `"sgd"`, `"momentum"` or `"adaptive"`.

    Example:
        >>> list_optimizers("momentum")
        ['momentum', 'nesterov', 'muon']
    """
    families = {spec.family for spec in _OPTIMIZERS}
    if family is not None and family not in families:
        raise unknown("optimizer family", family, families, plural="optimizer families")
    return [spec.name for spec in _OPTIMIZERS if family in (None, spec.family)]


def optimizer_info(name: str) -> OptimizerSpec:
    """Returns the record of an optimizer.

    Raises:
        UnknownNameError: No such optimizer.

    Example:
        >>> optimizer_info("adam").family
        'adaptive'
    """
    if name not in OPTIMIZERS:
        raise unknown("optimizer", name, OPTIMIZERS)
    return OPTIMIZERS[name]


def optimizer_class(spec: OptimizerSpec) -> type[keras.Optimizer]:
    """Returns the class behind a record: the zoo's own Muon, or Keras's class of that name."""
    import keras

    if spec.keras_class == "Muon":  # Keras's own hands filter banks to Adam
        from zoo.muon import Muon

        return Muon
    return getattr(keras.optimizers, spec.keras_class)


def create_optimizer(
    name: str, learning_rate: float | keras.optimizers.schedules.LearningRateSchedule | None = None, **arguments: Any
) -> keras.Optimizer:
    """Creates a Keras optimizer by name.

    Args:
        name: One of `list_optimizers()`.
        learning_rate: A number above 0, or a Keras schedule; the record's default where None.
        **arguments: Further arguments of the Keras class, e.g. `momentum=0.95`.

    Raises:
        UnknownNameError: No such optimizer or argument.
        UsageError: Keras rejects a value.

    Example:
        >>> optimizer = create_optimizer("momentum", learning_rate=0.01)
        >>> type(optimizer).__name__, optimizer.momentum
        ('SGD', 0.9)
    """
    import inspect
    import math
    import numbers

    spec = optimizer_info(name)
    keras_class = optimizer_class(spec)
    valid = [key for key in inspect.signature(keras_class.__init__).parameters if key not in ("self", "learning_rate", "kwargs")]
    for key in arguments:
        if key not in valid:
            raise unknown(f"argument of {name}", key, valid, plural=f"arguments of {name}")
    rate = spec.learning_rate if learning_rate is None else learning_rate
    if isinstance(rate, numbers.Real):
        rate = float(rate)  # Keras takes no whole numbers here
        if not (rate > 0 and math.isfinite(rate)):
            raise UsageError(f"learning_rate must be a finite number above 0, or a Keras schedule. Received: {learning_rate!r}.")
    try:
        return keras_class(learning_rate=rate, **{**spec.defaults, **arguments})
    except (TypeError, ValueError) as error:
        raise UsageError(f"The optimizer {name} cannot be created: {error}") from None


def lookahead(optimizer: keras.Optimizer, steps: int, share: float = 0.5) -> keras.Optimizer:
    """Has an optimizer go part of its way back after every few steps.

    The slow weights move by `share` towards the fast ones, which then start again from there (Zhang et al., Lookahead
    Optimizer: k steps forward, 1 step back, 2019, https://arxiv.org/abs/1907.08610).

    Args:
        optimizer: Not yet built; it is changed in place.
        steps: Between two such moves, above 0.
        share: Of the way that is kept, 0..1.

    Returns:
        The same optimizer.

    Example:
        >>> optimizer = lookahead(create_optimizer("momentum"), steps=5)
    """
    from keras import ops

    build, update = optimizer.build, optimizer.update_step

    def build_with_slow_weights(variables: list[Any]) -> None:
        if optimizer.built:
            return
        build(variables)
        optimizer.slow_weights = [
            optimizer.add_variable_from_reference(
                variable, name="slow", initializer=lambda shape, dtype, value=variable.value: ops.cast(value, dtype)
            )
            for variable in variables
        ]

    def update_and_look_back(gradient: Any, variable: Any, learning_rate: Any) -> None:
        update(gradient, variable, learning_rate)
        slow = optimizer.slow_weights[optimizer._get_variable_index(variable)]
        back = ops.equal((optimizer.iterations + 1) % steps, 0)
        moved = slow + share * (variable - slow)
        optimizer.assign(variable, ops.where(back, moved, variable))
        optimizer.assign(slow, ops.where(back, moved, slow))

    optimizer.build, optimizer.update_step = build_with_slow_weights, update_and_look_back
    return optimizer
