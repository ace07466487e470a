"""Optimizers: records that create what they say, and five steps against their mathematics."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable
from typing import Any

import keras
import numpy
import pytest

import zoo
from zoo.errors import UnknownNameError, UsageError
from zoo.optimizers import OPTIMIZERS, create_optimizer, list_optimizers, lookahead, optimizer_class, optimizer_info
from zoo.specs import Choice, Domain


def ends(domain: Domain) -> list[Any]:
    return list(domain.values) if isinstance(domain, Choice) else [domain.low, domain.high]


# --- records ----------------------------------------------------------------------------------------------------------


def test_the_asked_for_optimizers_are_there() -> None:
    assert {"sgd", "momentum", "nesterov", "adagrad", "rmsprop", "adam", "adamw", "nadam", "lion", "muon"} <= set(list_optimizers())
    assert list_optimizers("sgd") == ["sgd"]
    assert list_optimizers("momentum") == ["momentum", "nesterov", "muon"]
    assert list_optimizers() == [*list_optimizers("sgd"), *list_optimizers("momentum"), *list_optimizers("adaptive")]


@pytest.mark.parametrize("name", list_optimizers())
def test_a_record_creates_its_class_with_its_defaults(name: str) -> None:
    spec = optimizer_info(name)
    optimizer = create_optimizer(name)
    assert type(optimizer) is optimizer_class(spec)
    assert float(optimizer.learning_rate) == pytest.approx(spec.learning_rate)
    config = optimizer.get_config()
    assert {key: config[key] for key in spec.defaults} == spec.defaults
    assert spec.name == name
    assert spec.description
    assert spec.reference


@pytest.mark.parametrize("name", list_optimizers())
def test_domains_begin_with_the_learning_rate_and_contain_the_defaults(name: str) -> None:
    spec = optimizer_info(name)
    assert next(iter(spec.domains)) == "learning_rate"
    assert spec.learning_rate in spec.domains["learning_rate"]
    parameters = inspect.signature(optimizer_class(spec).__init__).parameters
    for argument, domain in spec.domains.items():
        default = spec.defaults.get(argument, spec.learning_rate if argument == "learning_rate" else parameters[argument].default)
        assert default is None or default in domain, f"{argument}={default} is outside of {domain}"


@pytest.mark.parametrize("name", list_optimizers())
def test_the_ends_of_every_domain_create_an_optimizer(name: str) -> None:
    for argument, domain in optimizer_info(name).domains.items():
        for value in ends(domain):
            created = create_optimizer(name, **{argument: value}).get_config()[argument]
            assert created == pytest.approx(value)


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: create_optimizer("adma"), "Unknown optimizer 'adma'. Did you mean 'adam"),
        (lambda: optimizer_info("SGD"), "Unknown optimizer 'SGD'. Did you mean 'sgd'? Valid optimizers: adadelta, "),
        (lambda: optimizer_info(None), "Unknown optimizer None. "),
        (
            lambda: create_optimizer("momentum", momentun=0.5),
            "Unknown argument of momentum 'momentun'. Did you mean 'momentum' or 'ema_momentum'? Valid arguments of momentum: ",
        ),
        (
            lambda: list_optimizers("adaptve"),
            "Unknown optimizer family 'adaptve'. Did you mean 'adaptive'? Valid optimizer families: adaptive, momentum, sgd.",
        ),
    ],
)
def test_unknown_names(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(UnknownNameError) as error:
        call()
    assert str(error.value).startswith(message)


@pytest.mark.parametrize("rate", [0, -1, -0.1, math.nan, math.inf])
def test_an_impossible_learning_rate(rate: float) -> None:
    with pytest.raises(UsageError) as error:
        create_optimizer("adam", rate)
    assert str(error.value) == f"learning_rate must be a finite number above 0, or a Keras schedule. Received: {rate!r}."


@pytest.mark.parametrize(("arguments", "detail"), [({"momentum": 2.0}, "momentum"), ({"learning_rate": "fast"}, "learning_rate")])
def test_what_keras_refuses_is_a_usage_error(arguments: dict[str, Any], detail: str) -> None:
    with pytest.raises(UsageError, match=rf"^The optimizer momentum cannot be created: .*{detail}"):
        create_optimizer("momentum", **arguments)


def test_a_whole_learning_rate_is_a_number_too() -> None:
    assert float(create_optimizer("sgd", 1).learning_rate) == 1.0


@pytest.mark.parametrize("name", list_optimizers())
def test_a_schedule_is_followed(name: str) -> None:
    optimizer = create_optimizer(name, keras.optimizers.schedules.PiecewiseConstantDecay([1], [0.5, 0.25]))
    variable = keras.Variable([[1.0, 2.0]], name="kernel")
    rates = []
    for _ in range(3):
        rates.append(float(optimizer.learning_rate))
        optimizer.apply([keras.ops.ones((1, 2))], [variable])
    assert rates == [0.5, 0.5, 0.25]


# --- five steps -------------------------------------------------------------------------------------------------------
# Each generator yields the change of `w` for every gradient it is sent, in double precision, as the paper has it. The
# constants that no argument below sets are the papers'.


def sgd(lr: float) -> Any:
    g = yield numpy.zeros(1)
    while True:
        g = yield -lr * g


def momentum(lr: float, m: float = 0.9) -> Any:
    g, v = (yield numpy.zeros(1)), 0.0
    while True:
        v = m * v - lr * g
        g = yield v


def nesterov(lr: float, m: float = 0.9) -> Any:
    g, v = (yield numpy.zeros(1)), 0.0
    while True:
        v = m * v - lr * g
        g = yield m * v - lr * g


def adagrad(lr: float, start: float = 0.1, epsilon: float = 1e-7) -> Any:
    g, total = (yield numpy.zeros(1)), start
    while True:
        total = total + g**2
        g = yield -lr * g / numpy.sqrt(total + epsilon)


def rmsprop(lr: float, rho: float = 0.9, epsilon: float = 1e-7) -> Any:
    g, mean = (yield numpy.zeros(1)), 0.0
    while True:
        mean = rho * mean + (1 - rho) * g**2
        g = yield -lr * g / numpy.sqrt(mean + epsilon)


def adam(lr: float, beta_1: float = 0.9, beta_2: float = 0.999, epsilon: float = 1e-7) -> Any:
    """With the paper's "epsilon hat", which is added before the correction of the second moment; see its section 2."""
    g, first, second, step = (yield numpy.zeros(1)), 0.0, 0.0, 0
    while True:
        step += 1
        first = beta_1 * first + (1 - beta_1) * g
        second = beta_2 * second + (1 - beta_2) * g**2
        rate = lr * numpy.sqrt(1 - beta_2**step) / (1 - beta_1**step)
        g = yield -rate * first / (numpy.sqrt(second) + epsilon)


def lion(lr: float, beta_1: float = 0.9, beta_2: float = 0.99) -> Any:
    g, m = (yield numpy.zeros(1)), 0.0
    while True:
        update = numpy.sign(beta_1 * m + (1 - beta_1) * g)
        m = beta_2 * m + (1 - beta_2) * g
        g = yield -lr * update


GOLDEN: dict[str, tuple[Callable[..., Any], dict[str, Any], float]] = {
    "sgd": (sgd, {}, 0.0),
    "momentum": (momentum, {}, 0.0),
    "nesterov": (nesterov, {}, 0.0),
    "adagrad": (adagrad, {}, 0.0),
    "rmsprop": (rmsprop, {}, 0.0),
    "adam": (adam, {}, 0.0),
    "adamw": (adam, {}, 0.01),
    "lion": (lion, {}, 0.0),
    "momentum, 0.5": (momentum, {"momentum": 0.5}, 0.0),
    "adam, betas": (adam, {"beta_1": 0.5, "beta_2": 0.8, "epsilon": 1e-3}, 0.0),
    "adamw, decay": (adam, {"weight_decay": 0.3}, 0.3),
    "lion, decay": (lion, {"weight_decay": 0.3}, 0.3),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_five_steps_equal_the_mathematics(case: str) -> None:
    formula, arguments, decay = GOLDEN[case]
    name = case.partition(",")[0]
    rate = 0.05
    matrix = numpy.array([[2.0, 0.3, -0.5], [0.3, 1.0, 0.2], [-0.5, 0.2, 0.7]])
    start = numpy.array([1.0, -2.0, 0.5])
    named = {"m" if key == "momentum" else key: value for key, value in arguments.items() if key != "weight_decay"}
    update = formula(rate, **named)
    next(update)
    optimizer = create_optimizer(name, rate, **arguments)
    expected, variable = start.copy(), keras.Variable(start.astype("float32"), name="w")
    for _ in range(5):
        expected = expected * (1 - rate * decay) + update.send(matrix @ expected)  # decay, decoupled, is of the weights before the step
        optimizer.apply([keras.ops.convert_to_tensor((matrix @ variable.numpy()).astype("float32"))], [variable])
        numpy.testing.assert_allclose(variable.numpy(), expected, rtol=2e-5, atol=2e-6)
    assert numpy.abs(expected - start).max() > 0.05


@pytest.mark.parametrize("name", list_optimizers())
def test_every_optimizer_lowers_a_loss(name: str) -> None:
    import tensorflow as tf

    keras.utils.set_random_seed(3)
    model = zoo.create_model("relu_mlp", input_shape=(4, 4, 1), num_classes=3, units=8)
    random = numpy.random.default_rng(3)
    images, labels = random.integers(0, 256, (24, 4, 4, 1), "uint8"), random.integers(0, 3, 24)
    optimizer, losses = create_optimizer(name), []
    for _ in range(12):
        with tf.GradientTape() as tape:
            loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels, model(images, training=True), from_logits=True))
        optimizer.apply(tape.gradient(loss, model.trainable_variables), model.trainable_variables)
        losses.append(float(loss))
    assert losses[-1] < losses[0]
    assert numpy.isfinite(losses).all()


@pytest.mark.parametrize("steps", [1, 3])
def test_lookahead_goes_halfway_back(steps: int) -> None:
    variable = keras.Variable(numpy.zeros(2, "float32"))
    optimizer = lookahead(create_optimizer("sgd", learning_rate=1.0), steps)
    gradient = keras.ops.convert_to_tensor([-1.0, 2.0])
    for _ in range(2 * steps):
        optimizer.apply([gradient], [variable])
    assert variable.numpy() == pytest.approx(-0.5 * 2 * steps * numpy.array([-1.0, 2.0]))
    optimizer.apply([gradient], [variable])
    assert variable.numpy() == pytest.approx(-(0.5 * 2 * steps + (0.5 if steps == 1 else 1.0)) * numpy.array([-1.0, 2.0]))


def test_creating_does_not_change_the_records() -> None:
    before = repr(OPTIMIZERS)
    create_optimizer("momentum", momentum=0.1)
    assert repr(OPTIMIZERS) == before
