"""Plain data: what a model, a weight, an optimizer, a data set and a training run are.

Everything here is a frozen dataclass that imports neither TensorFlow nor Keras, can be compared and printed, and
survives a trip through JSON (`to_dict`, `Recipe.from_dict`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from zoo.errors import UnknownNameError, UsageError, unknown

Sampling = Literal["linear", "log", "complement_log"]


@dataclass(frozen=True)
class Float:
    """A real hyperparameter in `[low, high]`.

    `sampling` says on which scale a search draws it: `linear`; `log`, uniform in `log x`; or `complement_log`, uniform
    in `log(1 - x)`, for quantities such as momentum whose distance from 1 is what matters.
    """

    low: float
    high: float
    sampling: Sampling = "linear"

    def __post_init__(self) -> None:
        valid = self.low < self.high and (self.sampling != "log" or self.low > 0)
        if not valid or (self.sampling == "complement_log" and self.high >= 1):
            raise UsageError(f"Not a range that can be sampled: {self!r}. Expected low < high, above 0 for log, below 1 for complement_log.")

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int | float) and self.low <= value <= self.high


@dataclass(frozen=True)
class Int:
    """A whole hyperparameter in `[low, high]`, both included. Sampling `log` doubles: low, 2 low, 4 low ... high."""

    low: int
    high: int
    sampling: Literal["linear", "log"] = "linear"
    step: int = 1

    def __post_init__(self) -> None:
        if self.low >= self.high or self.step < 1 or (self.sampling == "log" and self.low < 1):
            raise UsageError(f"Not a range that can be sampled: {self!r}. Expected low < high, step >= 1, above 0 for log.")

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int) and self.low <= value <= self.high


@dataclass(frozen=True)
class Choice:
    """One of a few values, all of one type (`str`, `int`, `float` or `bool`)."""

    values: tuple[Any, ...]

    def __post_init__(self) -> None:
        if not self.values:
            raise UsageError("A Choice needs at least one value. Received: none.")

    def __contains__(self, value: object) -> bool:
        return value in self.values


Domain = Float | Int | Choice


@dataclass(frozen=True)
class WeightsSpec:
    """One pretrained tag of a model: the configuration it was trained in, and where its files lie.

    Attributes:
        tag: The part of the name after the dot, e.g. `"mnist"`.
        dataset: The data set's name, as `zoo.load_dataset` takes it.
        input_shape: `(height, width, channels)`.
        num_classes: Length of the logits.
        hyperparameters: The builder's arguments, where they differ from its defaults.
        package: Import name of the package that holds `<model>.<tag>.weights.h5` and its card `<model>.<tag>.json`.
    """

    tag: str
    dataset: str
    input_shape: tuple[int, int, int]
    num_classes: int
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    package: str = "zoo.pretrained"


@dataclass(frozen=True)
class ModelSpec:
    """One registered model.

    Attributes:
        name: `family` or `family_variant`, e.g. `"cnn_bn"`.
        family: The name of the builder that this is a variant of; equal to `name` for the builder itself.
        builder: `(input_shape, num_classes, **hyperparameters) -> keras.Model`.
        defaults: The builder's hyperparameters with this variant's values.
        domains: For each searchable hyperparameter, the range a search draws it from.
        pretrained: The tags, the default one first.
        description: One line.
        references: Papers, as `Author, Title, year, link`.
    """

    name: str
    family: str
    builder: Callable[..., Any]
    defaults: Mapping[str, Any]
    domains: Mapping[str, Domain]
    pretrained: tuple[WeightsSpec, ...]
    description: str
    references: tuple[str, ...]

    def weights(self, tag: str | None = None) -> WeightsSpec:
        """Returns the weights of `tag`, or the default ones.

        Raises:
            UnknownNameError: The model has no such tag, or no weights at all.
        """
        if tag is None:
            if not self.pretrained:
                raise UnknownNameError(f"The model {self.name} has no pretrained weights.")
            return self.pretrained[0]
        for weights in self.pretrained:
            if weights.tag == tag:
                return weights
        raise unknown(f"tag of {self.name}", tag, [weights.tag for weights in self.pretrained], plural=f"tags of {self.name}")


@dataclass(frozen=True)
class OptimizerSpec:
    """One optimizer: its Keras class, its defaults and what a search varies.

    Attributes:
        name: e.g. `"momentum"`.
        family: `"sgd"`, `"momentum"` or `"adaptive"`.
        keras_class: Name of the class in `keras.optimizers`.
        learning_rate: The default, which suits the zoo's models (not always Keras's own).
        defaults: Other constructor arguments, where they differ from Keras's.
        domains: `learning_rate` first, then the others in the order in which a growing budget should add them.
        reference: The paper.
        description: One line: what the update does.
    """

    name: str
    family: Literal["sgd", "momentum", "adaptive"]
    keras_class: str
    learning_rate: float
    defaults: Mapping[str, Any]
    domains: Mapping[str, Domain]
    reference: str
    description: str


@dataclass(frozen=True)
class DatasetSpec:
    """What is known about a data set without reading it.

    Attributes:
        name: As `zoo.load_dataset` takes it.
        image_shape: `(height, width, channels)`; height and width None where the images differ in size.
        class_names: One per class, in label order.
        splits: Split name -> number of images.
        source: Where the images come from.
        light_on_dark: True where the images are light strokes on a dark ground (MNIST and its kin), so that a photograph
            of dark ink on paper has to be inverted.
        ink_box: Where the images are pen strokes: the share of the image's side that the longer side of the strokes takes.
        homepage: A page that describes it.
        license: The data's licence, as its source states it.
        how_to_get: One line that tells how to obtain it.
    """

    name: str
    image_shape: tuple[int | None, int | None, int]
    class_names: tuple[str, ...]
    splits: Mapping[str, int]
    source: str
    light_on_dark: bool = False
    ink_box: float | None = None
    homepage: str = ""
    license: str = ""
    how_to_get: str = ""

    @property
    def num_classes(self) -> int:
        return len(self.class_names)


# --- augmentations: each is a record here and a graph in zoo.augmentation ---------------------------------------------


@dataclass(frozen=True)
class Shift:
    """Moves the image by a whole number of pixels, uniform in `[-pixels, pixels]` on each axis; zeros come in, or its mirror image."""

    pixels: int = 2
    reflect: bool = False


@dataclass(frozen=True)
class Affine:
    """Rotates by up to `degrees`, scales each axis by up to `1 +- scale`, shears by up to `shear`, moves by up to `pixels`."""

    degrees: float = 12.0
    scale: float = 0.1
    shear: float = 0.12
    pixels: float = 2.0


@dataclass(frozen=True)
class Elastic:
    """Warps by a `grid x grid` field of normal displacements of `pixels` standard deviation, smoothly interpolated.

    The idea is that of Simard, Steinkraus and Platt, Best Practices for Convolutional Neural Networks, 2003.
    """

    pixels: float = 0.9
    grid: int = 4


@dataclass(frozen=True)
class Flip:
    """Mirrors the image left to right with probability 1/2.

    `alternating` draws only each image's first epoch, and mirrors it in every second one from then on, so that an image is
    never seen the same way in two epochs running (Jordan, 2024, arXiv:2404.00498).
    """

    alternating: bool = False


@dataclass(frozen=True)
class Cutout:
    """Blanks one `size x size` square at a random place (DeVries and Taylor, 2017, arXiv:1708.04552)."""

    size: int = 8


Augmentation = Shift | Affine | Elastic | Flip | Cutout
AUGMENTATIONS: Mapping[str, type[Augmentation]] = {kind.__name__.lower(): kind for kind in (Shift, Affine, Elastic, Flip, Cutout)}

ScheduleName = Literal["constant", "cosine", "linear", "one_cycle"]
SCHEDULES: tuple[ScheduleName, ...] = ("constant", "cosine", "linear", "one_cycle")
Precision = Literal["float32", "mixed_bfloat16"]
PRECISIONS: tuple[Precision, ...] = ("float32", "mixed_bfloat16")
VIEWS = ("flip", "shift")


@dataclass(frozen=True)
class Recipe:
    """A whole training run as data: the same recipe and seed give the same weights.

    Attributes:
        model: A registered name. With a tag, the tag's configuration applies; otherwise the data set's shape does.
        dataset: As `zoo.load_dataset` takes it.
        image_size: Height and width that the images are resized to; None keeps their size. For photographs, and for a folder whose
            images are larger than the model needs.
        hyperparameters: Builder arguments on top of the model's own.
        optimizer: A name of `zoo.list_optimizers()`.
        learning_rate: The schedule's peak; None takes the optimizer's default.
        optimizer_arguments: Other arguments of the optimizer.
        schedule: `constant`, or after `warmup` a fall to zero along a `cosine` or a `linear` line; `one_cycle` rises over
            the first 30 % and then falls along a cosine.
        warmup: Share of all steps over which the learning rate rises linearly from zero, 0..1.
        batch_size: Images per step.
        epochs: Passes over the training images.
        label_smoothing: Share of the target that is spread over all classes, 0..1.
        augmentation: Applied to training images in this order, in the graph.
        augmentation_tail: Share of the epochs, the last ones, over which `Affine` and `Elastic` weaken linearly to nothing, 0..1.
        initialization: Names of `zoo.initialization.INITIALIZATIONS`, applied in this order to the new model.
        teacher: Pretrained weights as `model.tag` whose answers to the images, before augmentation but for alternating flips, are
            learned along with the labels (Hinton, Vinyals, Dean, 2015, arXiv:1503.02531).
        teacher_weight: Share of the teacher's answers in the loss, 0..1; the labels have the rest.
        temperature: Divides the logits of both where answers are compared, above 0.
        ema: Momentum of the weights' exponential moving average, which replaces them at the end; None for none.
        lookahead: Steps after which the weights go halfway back to where they were as many steps before (Zhang et al., 2019,
            arXiv:1907.08610); None for never.
        views: What evaluation averages over besides the image as it is, for a second figure: `flip`, its mirror image; `shift`,
            itself moved by a pixel towards two corners.
        precision: `float32` or `mixed_bfloat16` (computation only; variables, logits and evaluation stay float32).
        validate: Holds out the data set's validation split and evaluates on it after every epoch. Without it the run
            trains on all training images.
        early_stopping: Ends after this many epochs without a better validation accuracy, and keeps the best epoch's
            weights. Needs `validate`.
        initial_weights: Pretrained weights to start from, as `model.tag`; the head starts anew where the classes differ.
        seed: Seeds the initialization, the order of the images, the augmentation and dropout.
    """

    model: str
    dataset: str
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    optimizer: str = "adam"
    learning_rate: float | None = None
    optimizer_arguments: Mapping[str, Any] = field(default_factory=dict)
    schedule: ScheduleName = "cosine"
    warmup: float = 0.0
    batch_size: int = 128
    epochs: int = 10
    label_smoothing: float = 0.0
    augmentation: tuple[Augmentation, ...] = ()
    augmentation_tail: float = 0.0
    initialization: tuple[str, ...] = ()
    teacher: str | None = None
    teacher_weight: float = 0.9
    temperature: float = 2.0
    lookahead: int | None = None
    views: tuple[str, ...] = ()
    ema: float | None = None
    precision: Precision = "float32"
    validate: bool = False
    early_stopping: int | None = None
    initial_weights: str | None = None
    seed: int = 0
    image_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("model", "dataset", "optimizer"):
            self._require(isinstance(getattr(self, name), str), name, "a name")
        for name in ("initial_weights", "teacher"):
            self._require(getattr(self, name) is None or isinstance(getattr(self, name), str), name, "None or a name")
        for name, valid in (("initialization", None), ("views", VIEWS)):
            object.__setattr__(self, name, _tuple(getattr(self, name)))
            names = isinstance(getattr(self, name), tuple) and all(
                isinstance(item, str) and item in (valid or (item,)) for item in getattr(self, name)
            )
            self._require(names, name, "a tuple of names" + (f" out of {', '.join(valid)}" if valid else ""))
        for name in ("hyperparameters", "optimizer_arguments"):
            self._require(isinstance(getattr(self, name), Mapping), name, "an object of names and values")
            object.__setattr__(self, name, {key: _tuple(value) for key, value in getattr(self, name).items()})
        self._require(isinstance(self.augmentation, tuple), "augmentation", "a tuple of augmentations")
        self._require(isinstance(self.validate, bool), "validate", "true or false")
        self._require(self.schedule in SCHEDULES, "schedule", f"one of {', '.join(SCHEDULES)}")
        self._require(self.precision in PRECISIONS, "precision", f"one of {', '.join(PRECISIONS)}")
        self._require(self.image_size is None or _positive_int(self.image_size), "image_size", "None or a whole number above 0")
        self._require(_positive_int(self.batch_size), "batch_size", "a whole number above 0")
        self._require(_positive_int(self.epochs), "epochs", "a whole number above 0")
        self._require(_in_unit_interval(self.warmup), "warmup", "a number from 0 to below 1")
        self._require(_in_unit_interval(self.label_smoothing), "label_smoothing", "a number from 0 to below 1")
        self._require(_in_unit_interval(self.augmentation_tail), "augmentation_tail", "a number from 0 to below 1")
        self._require(_number(self.teacher_weight) and 0 <= self.teacher_weight <= 1, "teacher_weight", "a number from 0 to 1")
        self._require(_number(self.temperature) and self.temperature > 0, "temperature", "a finite number above 0")
        self._require(self.lookahead is None or _positive_int(self.lookahead), "lookahead", "None or a whole number above 0")
        self._require(self.ema is None or _in_unit_interval(self.ema), "ema", "None or a number from 0 to below 1")
        positive = self.learning_rate is None or (_number(self.learning_rate) and self.learning_rate > 0)
        self._require(positive, "learning_rate", "a finite number above 0")
        self._require(_whole(self.seed) and 0 <= self.seed < 2**31, "seed", "a whole number from 0 to 2**31 - 1")
        self._require(self.early_stopping is None or _positive_int(self.early_stopping), "early_stopping", "a whole number above 0")
        if self.early_stopping is not None and not self.validate:
            raise UsageError("Recipe.early_stopping needs validate=True: it watches the validation accuracy.")
        if self.early_stopping is not None and self.ema is not None:
            raise UsageError("Recipe.early_stopping and Recipe.ema both decide which weights are kept. Choose one.")

    def _require(self, condition: bool, name: str, expected: str) -> None:
        if not condition:
            raise UsageError(f"Recipe.{name} must be {expected}. Received: {getattr(self, name)!r}.")

    def to_dict(self) -> dict[str, Any]:
        """Returns the recipe as JSON-ready data; `Recipe.from_dict` is its inverse.

        `image_size` is left out where it is None, so that cards and unfinished runs from before there was one stay as they are.
        """
        data = dataclasses.asdict(dataclasses.replace(self, augmentation=()))
        data["augmentation"] = [{type(item).__name__.lower(): dataclasses.asdict(item)} for item in self.augmentation]
        if self.image_size is None:
            del data["image_size"]
        return json.loads(json.dumps(data))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Recipe:
        """Builds a recipe from `to_dict`'s data.

        Raises:
            UnknownNameError: A key or an augmentation does not exist.
            UsageError: A value is out of range, or `model` or `dataset` is missing.

        Example:
            >>> recipe = Recipe(model="cnn", dataset="digits", augmentation=(Shift(1),))
            >>> Recipe.from_dict(recipe.to_dict()) == recipe
            True
        """
        if not isinstance(data, Mapping):
            raise UsageError(f"A recipe is a JSON object. Received: {type(data).__name__}.")
        names = [item.name for item in dataclasses.fields(cls)]
        for key in data:
            if key not in names:
                raise unknown("recipe field", key, names)
        if missing := [name for name in ("model", "dataset") if name not in data]:
            raise UsageError(f"The recipe lacks {' and '.join(missing)}.")
        arguments = dict(data)
        if isinstance(data.get("augmentation"), list | tuple):
            arguments["augmentation"] = tuple(_augmentation(item) for item in data["augmentation"])
        return cls(**arguments)

    def fingerprint(self) -> str:
        """Returns 12 hexadecimal digits that differ whenever any field does."""
        text = json.dumps(self.to_dict(), sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]


def _augmentation(item: Mapping[str, Any]) -> Augmentation:
    if not isinstance(item, Mapping) or len(item) != 1 or not isinstance(next(iter(item.values())), Mapping):
        raise UsageError(f'An augmentation is an object with one key, such as {{"shift": {{"pixels": 2}}}}. Received: {item!r}.')
    (name, arguments), *_ = item.items()
    if name not in AUGMENTATIONS:
        raise unknown("augmentation", name, AUGMENTATIONS)
    kind = AUGMENTATIONS[name]
    names = [entry.name for entry in dataclasses.fields(kind)]
    for key in arguments:
        if key not in names:
            raise unknown(f"argument of {name}", key, names, plural=f"arguments of {name}")
        if isinstance(getattr(kind(), key), bool):
            if not isinstance(arguments[key], bool):
                raise UsageError(f"The augmentation {name}'s {key} must be true or false. Received: {arguments[key]!r}.")
        elif not _number(arguments[key]) or arguments[key] < 0:
            raise UsageError(f"The augmentation {name}'s {key} must be a number from 0 up. Received: {arguments[key]!r}.")
    return kind(**arguments)


def _tuple(value: Any) -> Any:
    """JSON's list as a tuple, so that a recipe equals itself after a trip through JSON."""
    return tuple(_tuple(item) for item in value) if isinstance(value, list) else value


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _in_unit_interval(value: Any) -> bool:
    return _number(value) and 0 <= value < 1


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _positive_int(value: Any) -> bool:
    return _whole(value) and value > 0
