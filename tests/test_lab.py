"""The lab: each verdict follows from the measurements by its rule, and each experiment runs on real digits."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy
import pytest

from zoo.errors import UnknownNameError, UsageError
from zoo.lab import Claim, Interval, Laboratory, Verdict, claim, examine, list_claims, write_page
from zoo.lab.claim import Tables, column, distinct
from zoo.lab.claims import gradients, logits, pooling, sgd, sigmoid
from zoo.lab.laboratory import Learned
from zoo.specs import Recipe

HOLDS, WITH_CONDITIONS, WRONG = Verdict.HOLDS, Verdict.WITH_CONDITIONS, Verdict.WRONG
SEEDS = (0, 1, 2)
NOISE = (-0.001, 0.0, 0.001)


def rows(**columns: Any) -> list[dict[str, Any]]:
    """One row per seed; a number gets a little noise by seed, a tuple gives a value per seed."""
    return [
        {
            "seed": seed,
            **{
                name: value[seed] if isinstance(value, tuple) else value + NOISE[seed] if isinstance(value, float) else value
                for name, value in columns.items()
            },
        }
        for seed in SEEDS
    ]


# --- made-up measurements on both sides of each rule ------------------------------------------------------------------


def sigmoid_tables(output: float, hidden: float, least: float = 0.01) -> Tables:
    units = [
        {"seed": seed, "layer": layer, "kind": kind, "least": least, "most": 0.99, "calibration_error": error + NOISE[seed]}
        for seed in SEEDS
        for layer, kind, error in (("hidden1", "hidden", hidden), ("hidden2", "hidden", hidden), ("logits", "output", output))
    ]
    return {"units": units, "reliability": []}


def relu_tables(another: float, flat: float) -> Tables:
    return {
        "layers": [
            row
            for layer in ("hidden1", "hidden2")
            for row in rows(layer=layer, another_value=another, slope_zero=flat, slope_one=1 - flat, dead_units=0.0, most=2.0)
        ]
    }


def representation_tables(pixels: float, middle: float, deepest: float, untrained: float) -> Tables:
    levels = {"preprocess": pixels, "block1": middle, "hidden1": deepest}
    probes = [row for level, value in levels.items() for row in rows(state="trained", level=level, accuracy=value)]
    probes += [row for level in levels for row in rows(state="untrained", level=level, accuracy=untrained)]
    return {"probes": probes, "points": []}


def sharing_tables(cnn: float, mlp: float, dense: int = 100) -> Tables:
    accuracy = [
        row
        for shift in (0, 1)
        for model, value in (("cnn", cnn), ("relu_mlp", mlp))
        for row in rows(model=model, parameters=10, shift=shift, accuracy=value * (1 + NOISE[1]))
    ]
    return {"accuracy": accuracy, "layers": [{"layer": "block1_conv1", "convolution": 10, "fully_connected": dense}]}


def pooling_tables(sides: tuple[int, int] = (24, 12), fields: tuple[int, int] = (4, 10), measured: int = 10, effective: float = 0.2) -> Tables:
    table = rows(level="block1_pool", side=sides[0], computed=fields[0], measured=fields[0], effective=effective)
    return {"fields": table + rows(level="block2_pool", side=sides[1], computed=fields[1], measured=measured, effective=effective), "profiles": []}


def logit_tables(same: float, distributions: float) -> Tables:
    temperatures = [
        row
        for temperature in logits.TEMPERATURES
        for row in rows(temperature=temperature, same_class=(same, same, same), accuracy=0.9, confidence=0.5, negative_log_likelihood=0.3)
    ]
    return {"scores": rows(least=-1.0, most=2.0, distributions=(distributions,) * 3), "temperatures": temperatures}


def gradient_tables(first: float, other: float) -> Tables:
    table = [
        row
        for activation, norm in (("sigmoid", first), ("relu", other))
        for normalized in (False, True)
        for level, value in ((1, norm), (8, 1.0))
        for row in rows(
            activation=activation,
            initializer="he_normal",
            batch_normalization=normalized,
            depth=8,
            level=level,
            norm=tuple(value * (1 + noise) for noise in NOISE),
        )
    ]
    return {"norms": table}


def batchnorm_tables(without: tuple[float, float], with_: tuple[float, float], steps: tuple[float, float] = (80.0, 80.0)) -> Tables:
    table = [
        row
        for index, architecture in enumerate(("small", "large"))
        for model, accuracy, taken in (("cnn", without[index], steps[0]), ("cnn_bn", with_[index], steps[1]))
        for row in rows(
            architecture=architecture,
            model=model,
            learning_rate=0,
            steps=100,
            target=0.9,
            accuracy=tuple(accuracy + (noise if model == "cnn" else -noise) for noise in NOISE),
            steps_to_target=(taken, taken, taken),
            gap=0.0,
        )
    ]
    return {"runs": table}


def sgd_tables(one: float, mini: float, full: float) -> Tables:
    """The seconds after which each kind of batch has reached the target, a pass a second."""
    curves = [
        {"batch": batch, "batch_size": 32, "learning_rate": 0.1, "seed": seed, "passes": passes, "seconds": passes * (1 + NOISE[seed]), "loss": loss}
        for batch, seconds in (("one image", one), ("mini-batch", mini), ("all images", full))
        for seed in SEEDS
        for passes, loss in ((seconds / 2, 2 * sgd.TARGET), (seconds, sgd.TARGET / 2))
    ]
    return {"curves": curves}


def momentum_tables(plain_valley: int, heavy_valley: int, plain: tuple[float, float], heavy: tuple[float, float]) -> Tables:
    valley = [
        {"optimizer": name, "step": step, "x": 0.0, "y": 0.0, "height": 0.0 if step == last else 1.0}
        for name, last in (("sgd", plain_valley), ("momentum", heavy_valley))
        for step in range(last + 1)
    ]
    runs = [
        row
        for name, (steps, accuracy), sign in (("sgd", plain, 1), ("momentum", heavy, -1))
        for row in rows(
            optimizer=name,
            learning_rate=0,
            steps_to_target=tuple(steps * (1 + sign * noise) for noise in NOISE),
            accuracy=tuple(accuracy + sign * noise for noise in NOISE),
            loss=0.1,
        )
    ]
    return {"runs": runs, "valley": valley}


def adaptive_tables(default: tuple[float, float], tuned: tuple[float, float]) -> Tables:
    """Accuracies of SGD and of Adam, at the default factor and at a tuned one."""
    table = [
        row
        for problem in ("MLP", "CNN")
        for index, (name, sign) in enumerate((("sgd", 1), ("adam", -1)))
        for factor, value in ((1.0, default[index]), (5.0, tuned[index]))
        for row in rows(
            problem=problem, optimizer=name, learning_rate=0, factor=(factor,) * 3, accuracy=tuple(value + sign * noise for noise in NOISE)
        )
    ]
    table += [{**row, "optimizer": other, "accuracy": 0.1} for row in table for other in ("momentum", "rmsprop")]
    return {"runs": table}


CASES = [
    ("sigmoid", sigmoid_tables(0.02, 0.3), WITH_CONDITIONS),
    ("sigmoid", sigmoid_tables(0.02, 0.02), HOLDS),
    ("sigmoid", sigmoid_tables(0.2, 0.3), WRONG),
    ("sigmoid", sigmoid_tables(0.02, 0.3, least=-0.1), WRONG),
    ("relu", relu_tables(0.4, 0.5), WRONG),
    ("relu", relu_tables(0.4, 0.001), WRONG),
    ("relu", relu_tables(0.002, 0.002), HOLDS),
    ("relu", relu_tables(0.0101, 0.002), WITH_CONDITIONS),
    ("representations", representation_tables(0.90, 0.93, 0.95, 0.85), HOLDS),
    ("representations", representation_tables(0.90, 0.97, 0.95, 0.85), WITH_CONDITIONS),
    ("representations", representation_tables(0.90, 0.93, 0.95, 0.97), WITH_CONDITIONS),
    ("representations", representation_tables(0.90, 0.80, 0.70, 0.60), WRONG),
    ("sharing", sharing_tables(0.95, 0.90), HOLDS),
    ("sharing", sharing_tables(0.95, 0.95), WITH_CONDITIONS),
    ("sharing", sharing_tables(0.90, 0.95), WRONG),
    ("sharing", sharing_tables(0.95, 0.90, dense=9), WRONG),
    ("pooling", pooling_tables(), WITH_CONDITIONS),
    ("pooling", pooling_tables(effective=0.5), HOLDS),
    ("pooling", pooling_tables(measured=12), WRONG),
    ("pooling", pooling_tables(sides=(24, 24)), WRONG),
    ("pooling", pooling_tables(fields=(10, 10)), WRONG),
    ("logits", logit_tables(1.0, 0.0), WITH_CONDITIONS),
    ("logits", logit_tables(1.0, 1.0), HOLDS),
    ("logits", logit_tables(0.99, 0.0), WRONG),
    ("gradients", gradient_tables(1e-4, 1.0), WITH_CONDITIONS),
    ("gradients", gradient_tables(1e-4, 1e4), HOLDS),
    ("gradients", gradient_tables(0.5, 2.0), WRONG),
    ("batchnorm", batchnorm_tables((0.90, 0.90), (0.95, 0.95)), HOLDS),
    ("batchnorm", batchnorm_tables((0.90, 0.90), (0.90, 0.95)), WITH_CONDITIONS),
    ("batchnorm", batchnorm_tables((0.90, 0.90), (0.90, 0.90), steps=(math.inf, 80.0)), WITH_CONDITIONS),
    ("batchnorm", batchnorm_tables((0.90, 0.90), (0.90, 0.90)), WRONG),
    ("sgd", sgd_tables(2.0, 4.0, 40.0), HOLDS),
    ("sgd", sgd_tables(8.0, 4.0, 40.0), WITH_CONDITIONS),
    ("sgd", sgd_tables(8.0, 40.0, 4.0), WRONG),
    ("momentum", momentum_tables(300, 50, (200.0, 0.90), (100.0, 0.95)), HOLDS),
    ("momentum", momentum_tables(300, 50, (200.0, 0.90), (100.0, 0.90)), WITH_CONDITIONS),
    ("momentum", momentum_tables(300, 50, (100.0, 0.90), (100.0, 0.95)), WITH_CONDITIONS),
    ("momentum", momentum_tables(50, 300, (200.0, 0.90), (100.0, 0.95)), WRONG),
    ("adaptive", adaptive_tables((0.50, 0.90), (0.90, 0.95)), HOLDS),
    ("adaptive", adaptive_tables((0.50, 0.90), (0.90, 0.90)), WITH_CONDITIONS),
    ("adaptive", adaptive_tables((0.90, 0.90), (0.90, 0.90)), WRONG),
]


@pytest.mark.parametrize(
    ("name", "tables", "verdict"), CASES, ids=[f"{name}-{verdict.value}-{index}" for index, (name, _, verdict) in enumerate(CASES)]
)
def test_the_verdict_follows_from_the_measurements(name: str, tables: Tables, verdict: Verdict) -> None:
    finding = claim(name).judge(tables)
    assert finding.verdict is verdict
    assert all(sentence.endswith((".", ": a better solution is not shown.")) for sentence in finding.sentences)


def test_every_claim_is_judged_on_both_sides() -> None:
    for name in list_claims():
        assert len({verdict for case, _, verdict in CASES if case == name}) == len(Verdict), f"{name} lacks a verdict"


# --- the experiments --------------------------------------------------------------------------------------------------


class QuickLaboratory(Laboratory):
    """Trains each network once for one epoch, whatever the optimizer: what it measures is real, but says nothing."""

    def __init__(self) -> None:
        super().__init__("digits", seeds=(0, 1))
        self.networks: dict[str, Learned] = {}

    def learn(self, recipe: Recipe, seed: int, images: int = 0) -> Learned:
        key = f"{recipe.model} {recipe.hyperparameters}"
        if key not in self.networks:
            self.networks[key] = super().learn(Recipe(recipe.model, recipe.dataset, hyperparameters=recipe.hyperparameters, epochs=1), 0)
        return self.networks[key]


@pytest.fixture(scope="module")
def laboratory() -> QuickLaboratory:
    return QuickLaboratory()


@pytest.mark.parametrize("name", list_claims())
def test_an_experiment_measures_judges_and_draws(name: str, laboratory: QuickLaboratory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gradients, "DEPTHS", (1, 2))
    monkeypatch.setattr(pooling, "NOISE_IMAGES", 4)
    outcome = examine(claim(name), laboratory, tmp_path)
    record = json.loads((tmp_path / f"{name}.json").read_text())
    assert record["verdict"] == outcome.finding.verdict.value
    assert (tmp_path / f"{name}.svg").read_text().count("<svg") == 1
    assert (tmp_path / f"{name}.png").read_bytes().startswith(b"\x89PNG")
    for table, values in outcome.tables.items():
        with (tmp_path / f"{name}-{table}.csv").open(newline="") as file:
            assert len(list(csv.DictReader(file))) == len(values) > 0
    page = write_page([outcome], tmp_path).read_text()
    assert all(sentence in page for sentence in outcome.finding.sentences)


def test_the_test_images_are_not_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    from zoo.lab import laboratory as module

    asked: list[str] = []
    load: Callable[..., Any] = module.load_dataset
    monkeypatch.setattr(module, "load_dataset", lambda name, split, **rest: asked.append(split) or load(name, split, **rest))
    lab = Laboratory("digits", seeds=(0,))
    assert asked == ["train"]
    together = {image.tobytes() for image in lab.training.images} & {image.tobytes() for image in lab.validation.images}
    assert len(lab.validation.labels) == 431
    assert not together


def test_more_training_images_are_never_held_out_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.lab.laboratory.LIMIT", 500)
    lab = Laboratory("digits", seeds=(0,))
    held_out = {image.tobytes() for image in lab.validation.images}
    assert [len(lab.more_training(count).labels) for count in (0, 350, 800, 10_000)] == [350, 350, 800, 1437 - 150]
    assert numpy.array_equal(lab.more_training(0).images, lab.training.images)
    assert not held_out & {image.tobytes() for image in lab.more_training(10_000).images}
    recipe = lab.recipe("relu_mlp", hyperparameters={"units": 8}, epochs=1)
    assert (lab.learn(recipe, 0).steps_per_epoch, lab.learn(recipe, 0, images=800).steps_per_epoch) == (350 // 32, 800 // 32)


def test_a_training_is_kept_and_another_seed_is_another(monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[int] = []
    lab = Laboratory("digits", seeds=(0,), on_training=lambda recipe: trained.append(recipe.seed))
    recipe = lab.recipe("relu_mlp", hyperparameters={"units": 8}, epochs=1)
    assert lab.learn(recipe, 0) is lab.learn(recipe, 0)
    lab.learn(recipe, 1)
    assert trained == [0, 1]


def test_a_diverged_training_is_a_result() -> None:
    lab = Laboratory("digits", seeds=(0,))
    learned = lab.learn(lab.recipe("relu_mlp", hyperparameters={"units": 8}, optimizer="sgd", learning_rate=1e30, epochs=1), 0)
    assert (learned.diverged, learned.accuracy, learned.loss) == (True, 0.0, math.inf)
    assert learned.steps_to(0.5) == math.inf


# --- parts ------------------------------------------------------------------------------------------------------------


def test_interval() -> None:
    interval = Interval.of([0.9, 1.0, 1.1])
    assert interval.mean == pytest.approx(1.0)
    assert interval.high - interval.mean == pytest.approx(4.303 * 0.1 / math.sqrt(3), rel=1e-3)
    assert Interval.of([2.0]) == Interval(2.0, -math.inf, math.inf, 1)
    assert Interval.of_differences([1.0, 2.0, 3.0], [0.0, 1.0, 2.0]) == Interval(1.0, 1.0, 1.0, 3)
    with pytest.raises(UsageError, match="at least one value"):
        Interval.of([])


def test_columns() -> None:
    table = [{"a": 1, "b": 2}, {"a": 1, "b": 3}, {"a": 4, "b": 5}]
    assert column(table, "b", a=1) == [2, 3]
    assert distinct(table, "a") == [1, 4]


def test_calibration_error_of_a_unit_that_is_always_half_sure() -> None:
    half = numpy.full((10, 1), 0.5)
    events = numpy.array([[1.0]] * 8 + [[0.0]] * 2)
    assert sigmoid.calibration_error(half, events) == pytest.approx(0.3)


def test_the_equal_mlp_has_as_many_parameters(laboratory: QuickLaboratory) -> None:
    import zoo
    from zoo.lab.claims.sharing import _units

    units = _units(9_258, 64, 10)
    assert zoo.create_model("relu_mlp", input_shape=(8, 8, 1), units=units).count_params() == pytest.approx(9_258, rel=0.02)


def test_a_network_of_the_gradient_experiment_is_normalized_where_it_says_so(laboratory: QuickLaboratory) -> None:
    kinds = [type(layer).__name__ for layer in gradients.network(laboratory, "tanh", "too_large", 2, True).layers]
    assert kinds.count("BatchNormalization") == 2
    plain = gradients.network(laboratory, "tanh", "too_large", 2, False)
    kernels = [layer.kernel.numpy() for layer in plain.layers if isinstance(layer, keras.layers.Dense)][:2]
    assert kernels[1].std() == pytest.approx(4 / math.sqrt(gradients.UNITS), rel=0.1)


def test_unknown_names_and_wrong_arguments(laboratory: QuickLaboratory, tmp_path: Path) -> None:
    with pytest.raises(UnknownNameError, match=r"Unknown claim 'relo'\. Did you mean 'relu'"):
        claim("relo")
    with pytest.raises(UsageError, match="at least one seed"):
        Laboratory("digits", seeds=())
    with pytest.raises(UsageError, match="at least one outcome"):
        write_page([], tmp_path)


def test_every_claim_says_what_it_is() -> None:
    for name in list_claims():
        entry = claim(name)
        assert isinstance(entry, Claim)
        assert entry.name == name
        assert all((entry.says, entry.theory, entry.rule))
