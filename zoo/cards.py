"""The card: what a weight file is, how it came about and what was measured, as JSON beside the file."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from zoo.errors import WeightsError
from zoo.files import write_text


@dataclass(frozen=True)
class Card:
    """Everything that is known about one trained set of weights.

    Attributes:
        name: `model.tag` for shipped weights, the run's name otherwise.
        model: The registered model that the weights fit.
        hyperparameters: All of the builder's arguments.
        input_shape: `(height, width, channels)`.
        num_classes: Length of the logits.
        class_names: One per class, in label order.
        dataset: What the weights were trained on.
        light_on_dark: True where the images are light strokes on a dark ground.
        recipe: The training run as data; `zoo.Recipe.from_dict` reads it.
        sha256: Of the weight file.
        parameters: Number of trainable and fixed values in the model.
        results: What `zoo.evaluate` measured with these weights: `test`, all test images; `validation`, where the run held some
            out; `test_views`, the same averaged over the recipe's views of each image; `test_exact`, without the test images
            that were only at hand as JPEG.
        seeds: For shipped weights: `count`, `test_accuracy` (one per seed), their `mean` and `standard_deviation`.
        seconds: Wall time of the training run.
        environment: Versions, processor and backend of the training run.
        license: Of the weights.
        multiply_accumulates: Multiplications with a weight per image.
        stored_dtype: Of the weight file: `float32`, or `float16` where that changes the test accuracy by no more than 0.02 points.
        file_bytes: Size of the weight file.
        latency: Images per batch -> median milliseconds of a prediction on the processor that trained it.
        history: The training curve: column -> one value per epoch.
    """

    name: str
    model: str
    hyperparameters: Mapping[str, Any]
    input_shape: tuple[int, int, int]
    num_classes: int
    class_names: tuple[str, ...]
    dataset: str
    light_on_dark: bool
    recipe: Mapping[str, Any]
    sha256: str
    parameters: int
    results: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    seeds: Mapping[str, Any] = field(default_factory=dict)
    seconds: float = 0.0
    environment: Mapping[str, str] = field(default_factory=dict)
    license: str = "Apache-2.0"
    multiply_accumulates: int = 0
    stored_dtype: str = "float32"
    file_bytes: int = 0
    latency: Mapping[str, float] = field(default_factory=dict)
    history: Mapping[str, list[float]] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Writes the card as JSON, atomically."""
        text = json.dumps(dataclasses.asdict(self), indent=2)
        numbers = re.compile(r"\[[\s\d.,eE+-]*\]")  # a list of numbers takes one line
        write_text(path, numbers.sub(lambda found: " ".join(found[0].split()).replace("[ ", "[").replace(" ]", "]"), text) + "\n")

    @classmethod
    def read(cls, path: Path | Traversable) -> Card:
        """Reads a card.

        Raises:
            WeightsError: The file is missing or is not a card.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            data = {**data, "input_shape": tuple(data["input_shape"]), "class_names": tuple(data["class_names"])}
            data["hyperparameters"] = {name: tuple(value) if isinstance(value, list) else value for name, value in data["hyperparameters"].items()}
            return cls(**data)
        except OSError as error:
            raise WeightsError(f"The card {path} cannot be read: {error.strerror or error}.") from None
        except (ValueError, KeyError, TypeError) as error:
            raise WeightsError(f"The card {path} is damaged: {error}. Install the package again, or train the weights anew.") from None
