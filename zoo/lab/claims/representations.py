"""Multi-level representations identify higher-order abstractions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.evaluation import predict
from zoo.figures import BLUE, GREY
from zoo.lab.claim import Claim, Finding, Interval, Tables, Verdict, column, distinct
from zoo.layers import feature_extractor

if TYPE_CHECKING:
    import keras
    import numpy
    from matplotlib.figure import Figure

    from zoo.lab.laboratory import Laboratory

PROBE_IMAGES = 2000
PICTURE_IMAGES = 400


def measure(lab: Laboratory) -> Tables:
    from zoo.training import build

    probes, points = [], []
    for seed in lab.seeds:
        recipe = lab.recipe("cnn", hyperparameters={"blocks": 2, "filters": 16, "units": 64})
        trained = lab.learn(recipe, seed).model
        fresh, _ = build(recipe, lab.training)
        for state, model in (("trained", trained), ("untrained", fresh)):
            known, seen = (_features(model, images) for images in (lab.training.images[:PROBE_IMAGES], lab.validation.images))
            for level in known:
                probes.append(
                    {
                        "seed": seed,
                        "state": state,
                        "level": level,
                        "features": known[level].shape[1],
                        "accuracy": _probe(known[level], lab.training.labels[:PROBE_IMAGES], seen[level], lab.validation.labels),
                    }
                )
                if seed == lab.seeds[0] and state == "trained":
                    points += _picture(level, seen[level][:PICTURE_IMAGES], lab.validation.labels)
    return {"probes": probes, "points": points}


def _features(model: keras.Model, images: numpy.ndarray) -> dict[str, numpy.ndarray]:
    activations = predict(feature_extractor(model), images)
    return {level: values.reshape(len(values), -1) for level, values in activations.items() if level != "logits"}


def _probe(known: numpy.ndarray, labels: numpy.ndarray, seen: numpy.ndarray, truth: numpy.ndarray) -> float:
    """The accuracy of a linear classifier on the activations: ridge regression on one-hot labels."""
    from sklearn.linear_model import RidgeClassifier
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(known)
    classifier = RidgeClassifier(alpha=float(known.shape[1]) / 10).fit(scaler.transform(known), labels)
    return float(classifier.score(scaler.transform(seen), truth))


def _picture(level: str, seen: numpy.ndarray, labels: numpy.ndarray) -> list[dict[str, Any]]:
    """The images' activations on their first two principal components."""
    from sklearn.decomposition import PCA

    plane = PCA(2, random_state=0).fit_transform(seen)
    return [{"level": level, "x": float(x), "y": float(y), "label": int(label)} for (x, y), label in zip(plane, labels, strict=False)]


def judge(tables: Tables) -> Finding:
    rows = tables["probes"]
    levels = distinct(rows, "level")
    pixels, deepest = levels[0], levels[-1]
    at = {(state, level): column(rows, "accuracy", state=state, level=level) for state in ("trained", "untrained") for level in levels}
    gain = Interval.of_differences(at["trained", deepest], at["trained", pixels])
    learned = Interval.of_differences(at["trained", deepest], at["untrained", deepest])
    best = max(levels, key=lambda level: sum(at["trained", level]))
    lost = Interval.of_differences(at["trained", best], at["trained", deepest])
    deepens = gain.low > 0 and learned.low > 0 and lost.low <= 0
    verdict = Verdict.WRONG if gain.high < 0 else Verdict.HOLDS if deepens else Verdict.WITH_CONDITIONS
    return Finding(
        verdict,
        (
            f"A linear classifier on the pixels was right on {Interval.of(at['trained', pixels]).show(100, 1, ' %')} of the held-out images.",
            (
                f"On the activations of {deepest} it was right on {Interval.of(at['trained', deepest]).show(100, 1, ' %')}, "
                f"a gain of {gain.show(100, 1)} points; the same level of an untrained network is {learned.show(100, 1)} points worse."
            ),
            f"Best for a linear classifier was {best}, with {Interval.of(at['trained', best]).show(100, 1, ' %')}"
            + (": the deepest level of all." if best == deepest else ": deeper levels keep what this network needs, not all that a plane can use."),
        ),
    )


def draw(tables: Tables, figure: Figure) -> None:
    rows, points = tables["probes"], tables["points"]
    levels = distinct(rows, "level")
    axes: Any = figure.subplots(1, 1 + len(levels), width_ratios=[1.6] + [1] * len(levels))
    for state, colour, marker in (("trained", BLUE, "o"), ("untrained", GREY, "s")):
        intervals = [Interval.of(column(rows, "accuracy", state=state, level=level)) for level in levels]
        means = [100 * interval.mean for interval in intervals]
        errors = [
            [100 * min(1.0, interval.mean - interval.low) for interval in intervals],
            [100 * min(1.0, interval.high - interval.mean) for interval in intervals],
        ]
        axes[0].errorbar(levels, means, errors, color=colour, marker=marker, capsize=3, label=state)
    axes[0].set(title="a linear classifier on each level", ylabel="% of held-out images right")
    axes[0].tick_params(axis="x", rotation=30)
    axes[0].legend(frameon=False)
    for axis, level in zip(axes[1:], levels, strict=True):
        at = [row for row in points if row["level"] == level]
        axis.scatter(column(at, "x"), column(at, "y"), c=column(at, "label"), cmap="tab10", s=5, linewidths=0)
        axis.set(title=level, xticks=[], yticks=[])
    figure.suptitle("Deeper levels separate the classes (right: images on two principal components, a colour per class)")


CLAIM = Claim(
    name="representations",
    says="Networks are layers of neurons; multi-level representations identify higher-order abstractions.",
    theory="Deeper levels of a trained network make the classes easier to separate by a plane (Alain and Bengio, 2016, arXiv:1610.01644).",
    rule=(
        "Holds if a linear classifier on the deepest hidden level beats one on the pixels, and one on the same level of an untrained network, "
        "both with the whole interval of the difference by seed, and no other level beats it with the whole interval. Wrong if the pixels win "
        "with the whole interval. Holds with conditions otherwise."
    ),
    measure=measure,
    judge=judge,
    draw=draw,
)
