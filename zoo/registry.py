"""Names to builders: one decorator registers a model, a few functions look it up.

The files of `zoo.models`, and the modules that other packages name under the entry-point group `neuron_zoo.models`, are
imported at the first look-up; a builder imports Keras only when it is called. So listing loads neither TensorFlow nor
Keras.
"""

from __future__ import annotations

import fnmatch
import functools
import importlib
import importlib.metadata
import inspect
import numbers
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoo.errors import UsageError, ZooError, unknown
from zoo.specs import Domain, ModelSpec, WeightsSpec

if TYPE_CHECKING:
    import keras

ENTRY_POINT_GROUP = "neuron_zoo.models"

_models: dict[str, ModelSpec] = {}


def register_model(
    name: str | None = None,
    *,
    domains: Mapping[str, Domain] | None = None,
    variants: Mapping[str, Mapping[str, Any]] | None = None,
    pretrained: Sequence[WeightsSpec] | Mapping[str, Sequence[WeightsSpec]] = (),
    references: Sequence[str] = (),
) -> Callable[[Callable[..., keras.Model]], Callable[..., keras.Model]]:
    """Registers the decorated builder, and its variants, as models.

    Args:
        name: The family's name; the function's own where None. No dot: a dot separates the tag.
        domains: Builder argument -> the range that a search draws it from.
        variants: Suffix -> builder arguments; `{"tiny": {...}}` on `cnn_bn` registers `cnn_bn_tiny`.
        pretrained: The pretrained tags, the default first. A mapping gives them per name where variants have weights too.
        references: Papers, as `Author, Title, year, link`.

    Returns:
        A decorator that returns the builder unchanged. The builder takes `input_shape` `(height, width, channels)`,
        `num_classes` and keyword-only hyperparameters with defaults, and returns a Keras model from `image`
        `(batch, height, width, channels)`, 0..255, to float32 logits `(batch, num_classes)`.

    Raises:
        UsageError: The name is taken or malformed, or a domain, variant or tag names an argument the builder lacks.

    Example:
        >>> import zoo
        >>> @zoo.register_model(domains={"units": zoo.Int(16, 64)})
        ... def linear_probe(input_shape=(8, 8, 1), num_classes=10, *, units=32):
        ...     "One hidden layer, for the example's sake."
        ...     import keras
        ...     image = keras.Input(input_shape, name="image")
        ...     hidden = keras.layers.Dense(units, name="hidden1_dense")(keras.layers.Flatten()(image))
        ...     return keras.Model(image, keras.layers.Dense(num_classes, name="logits")(hidden))
        >>> zoo.create_model("linear_probe", num_classes=3).output_shape
        (None, 3)
        >>> zoo.unregister_model("linear_probe")
    """

    if name is not None and not isinstance(name, str):
        raise UsageError(f"register_model takes the model's name, or nothing: write @register_model(). Received: {name!r}.")

    def decorate(builder: Callable[..., keras.Model]) -> Callable[..., keras.Model]:
        if not builder.__module__.startswith("zoo.models."):
            _load_own()  # so that a taken name is refused here, and not at the first look-up
        family = name or builder.__name__
        defaults = _hyperparameters(builder)
        tags = pretrained if isinstance(pretrained, Mapping) else {family: pretrained}
        description = (inspect.getdoc(builder) or "").partition("\n")[0].strip()
        configurations = {family: {}, **{f"{family}_{suffix}": dict(values) for suffix, values in (variants or {}).items()}}
        for model in tags:
            if model not in configurations:
                raise unknown(f"variant of {family} in pretrained", model, configurations, plural="variants")
        specs = []
        for model, values in configurations.items():
            weights = tuple(tags.get(model, ()))
            for argument in {*values, *(domains or {}), *(key for tag in weights for key in tag.hyperparameters)}:
                if argument not in defaults:
                    raise unknown(f"hyperparameter of {family}", argument, defaults, plural=f"hyperparameters of {family}")
            specs.append(
                ModelSpec(
                    name=model,
                    family=family,
                    builder=builder,
                    defaults={**defaults, **values},
                    domains=dict(domains or {}),
                    pretrained=weights,
                    description=description,
                    references=tuple(references),
                )
            )
        for spec in specs:
            _check_name(spec)
        _models.update({spec.name: spec for spec in specs})
        return builder

    return decorate


def unregister_model(name: str) -> None:
    """Removes a model, so that its name is free again; for tests and notebooks that register twice.

    Raises:
        UnknownNameError: No model has this name.

    Example:
        >>> import zoo
        >>> @zoo.register_model()
        ... def passing(input_shape, num_classes):
        ...     "Nothing yet."
        >>> zoo.unregister_model("passing")
        >>> zoo.list_models("passing")
        []
    """
    _load_all()
    if name not in _models:
        raise unknown("model", name, _models)
    del _models[name]


def list_models(pattern: str = "*", *, pretrained: bool | None = None) -> list[str]:
    """Lists the registered models, or the pretrained weights.

    Args:
        pattern: Shell-style wildcards, e.g. `"cnn*"` or `"*.mnist"`.
        pretrained: None lists every model's name; True lists `model.tag` for all weights; False lists the models that
            have no weights.

    Returns:
        Sorted names.

    Example:
        >>> import zoo
        >>> zoo.list_models("cnn_bn")
        ['cnn_bn']
        >>> zoo.list_models("cnn.*", pretrained=True)
        ['cnn.cifar10', 'cnn.digits', 'cnn.fashion_mnist', 'cnn.mnist']
    """
    _load_all()
    if pretrained:
        names = [f"{spec.name}.{weights.tag}" for spec in _models.values() for weights in spec.pretrained]
    else:
        names = [spec.name for spec in _models.values() if pretrained is None or not spec.pretrained]
    return sorted(name for name in names if fnmatch.fnmatchcase(name, pattern))


def model_info(name: str) -> ModelSpec:
    """Returns the record of a model; a tag in the name is checked and otherwise ignored.

    Raises:
        UnknownNameError: No such model or tag; the message gives the closest names.

    Example:
        >>> import zoo
        >>> sorted(zoo.model_info("relu_mlp").domains)
        ['depth', 'dropout', 'initializer', 'units']
    """
    return resolve(name)[0]


def resolve(name: str) -> tuple[ModelSpec, WeightsSpec | None]:
    """Splits `model[.tag]` into the model's record and the tag's, None where the name has no tag."""
    _load_all()
    if not isinstance(name, str):
        raise UsageError(f"A model's name is a string such as 'cnn_bn.mnist'. Received: {name!r}.")
    model, dot, tag = name.partition(".")
    if model not in _models:
        raise unknown("model", name if "/" in name else model, _models)
    spec = _models[model]
    return spec, spec.weights(tag) if dot else None


def build_model(
    spec: ModelSpec,
    input_shape: Sequence[int] | None = None,
    num_classes: int | None = None,
    hyperparameters: Mapping[str, Any] | None = None,
) -> keras.Model:
    """Builds a registered model with fresh weights; `zoo.create_model` is the way in by name.

    Raises:
        UnknownNameError: The builder has no such hyperparameter.
        UsageError: A shape or class count is impossible.
    """
    arguments = dict(hyperparameters or {})
    for key in arguments:
        if key not in spec.defaults:
            raise unknown(f"hyperparameter of {spec.name}", key, spec.defaults, plural=f"hyperparameters of {spec.name}")
    if input_shape is not None:
        arguments["input_shape"] = _checked_shape(input_shape)
    if num_classes is not None:
        arguments["num_classes"] = _checked_classes(num_classes)
    try:
        model = spec.builder(**{**spec.defaults, **arguments})
    except ZooError:
        raise
    except (TypeError, ValueError) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in arguments.items()) or "its defaults"
        raise UsageError(f"{spec.name} cannot be built with {given}: {str(error).partition(chr(10))[0]}") from error
    model.name = spec.name
    return model


def _checked_shape(input_shape: Sequence[int]) -> tuple[int, ...]:
    shape = tuple(input_shape) if isinstance(input_shape, Sequence) else ()
    if len(shape) != 3 or not all(_whole(size) and size > 0 for size in shape):
        raise UsageError(f"input_shape must be (height, width, channels), each a whole number above 0. Received: {input_shape!r}.")
    return tuple(int(size) for size in shape)


def _checked_classes(num_classes: int) -> int:
    if not _whole(num_classes) or num_classes < 2:
        raise UsageError(f"num_classes must be a whole number above 1. Received: {num_classes!r}.")
    return int(num_classes)


def _whole(value: object) -> bool:
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)


def _hyperparameters(builder: Callable[..., Any]) -> dict[str, Any]:
    """The builder's keyword-only arguments with their defaults."""
    parameters = inspect.signature(builder).parameters
    if not {"input_shape", "num_classes"} <= set(parameters):
        raise UsageError(f"A model builder takes input_shape and num_classes. {builder.__name__} takes: {', '.join(parameters) or 'nothing'}.")
    rest = {key: value for key, value in parameters.items() if key not in ("input_shape", "num_classes")}
    for key, parameter in rest.items():
        if parameter.default is parameter.empty:
            raise UsageError(f"Every hyperparameter of a model builder has a default. {builder.__name__}'s {key!r} has none.")
    return {key: parameter.default for key, parameter in rest.items()}


def _check_name(spec: ModelSpec) -> None:
    if "." in spec.name or not spec.name:
        raise UsageError(f"A model's name has no dot: the dot separates the tag. Received: {spec.name!r}.")
    if spec.name in _models:
        owner = _models[spec.name].builder
        raise UsageError(f"A model named {spec.name!r} is registered already, by {owner.__module__}.{owner.__qualname__}. Choose another name.")
    tags = [weights.tag for weights in spec.pretrained]
    if len(set(tags)) != len(tags):
        raise UsageError(f"The tags of {spec.name} repeat: {', '.join(tags)}.")


@functools.cache
def _load_own() -> None:
    """Imports this package's modules that register models."""
    package = importlib.import_module("zoo.models")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"zoo.models.{module.name}")


@functools.cache
def _load_all() -> None:
    """Imports the modules that register models: this package's, then other packages'."""
    _load_own()
    for entry_point in importlib.metadata.entry_points(group=ENTRY_POINT_GROUP):
        try:
            entry_point.load()
        except Exception as error:
            kind = type(error) if isinstance(error, ZooError) else ZooError
            raise kind(f"The models of {entry_point.value!r} (entry point {entry_point.name!r}) could not be registered: {error}") from error
