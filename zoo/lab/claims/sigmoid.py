"""A sigmoid neuron gives a probability between 0 and 1 of an event."""

from __future__ import annotations

from statistics import fmean
from typing import TYPE_CHECKING

from zoo.evaluation import predict, softmax
from zoo.figures import BLUE, ORANGE
from zoo.lab.claim import Claim, Finding, Interval, Row, Tables, Verdict, column, distinct
from zoo.layers import feature_extractor

if TYPE_CHECKING:
    import numpy
    from matplotlib.figure import Figure

    from zoo.lab.laboratory import Laboratory

CALIBRATED = 0.05
BINS = 10
UNITS_DRAWN = 10


def measure(lab: Laboratory) -> Tables:
    import numpy

    units, bins = [], []
    outputs: list[tuple[numpy.ndarray, numpy.ndarray]] = []
    for seed in lab.seeds:
        model = lab.learn(lab.recipe("sigmoid_mlp"), seed).model
        extract = feature_extractor(model, ["hidden1", "hidden2", "logits"])
        known = predict(extract, lab.training.images)
        seen = predict(extract, lab.validation.images)
        for level in ("hidden1", "hidden2", "logits"):
            values, events = _events(level, known[level], lab.training.labels, seen[level], lab.validation.labels)
            kind = "output" if level == "logits" else "hidden"
            units.append(
                {
                    "seed": seed,
                    "layer": level,
                    "kind": kind,
                    "least": float(values.min()),
                    "most": float(values.max()),
                    "calibration_error": calibration_error(values, events),
                }
            )
            if kind == "output":
                outputs.append((values.ravel(), events.ravel()))
            elif level == "hidden2" and seed == lab.seeds[0]:
                for unit in range(min(UNITS_DRAWN, values.shape[1])):
                    bins += [{"kind": kind, "unit": str(unit), **row} for row in reliability(values[:, unit], events[:, unit])]
    pooled = (numpy.concatenate(arrays) for arrays in zip(*outputs, strict=True))
    bins += [{"kind": "output", "unit": "all", **row} for row in reliability(*pooled)]
    return {"units": units, "reliability": bins}


def _events(
    level: str, known: numpy.ndarray, known_labels: numpy.ndarray, seen: numpy.ndarray, labels: numpy.ndarray
) -> tuple[numpy.ndarray, numpy.ndarray]:
    """Units' values on held-out images with the event that each unit's value is taken for the probability of, both `(n, units)`.

    An output unit's event is its class. A hidden unit has none of its own: it gets the class, or the absence of the class, that
    its values on the training images correlate with most.
    """
    import numpy

    classes = numpy.arange(int(known_labels.max()) + 1)
    truth = (labels[:, None] == classes).astype("float64")
    if level == "logits":
        return softmax(seen), truth
    known_truth = (known_labels[:, None] == classes).astype("float64")
    centred = known - known.mean(axis=0)
    correlation = centred.T @ (known_truth - known_truth.mean(axis=0)) / (centred.std(axis=0)[:, None] * known_truth.std(axis=0) + 1e-9)
    best = abs(correlation).argmax(axis=1)
    positive = correlation[numpy.arange(len(best)), best] > 0
    return seen.astype("float64"), numpy.where(positive, truth[:, best], 1 - truth[:, best])


def reliability(values: numpy.ndarray, events: numpy.ndarray) -> list[dict[str, float]]:
    """Returns per bin of the values, ten over 0..1: how many, their mean, and the share of events among them."""
    import numpy

    bins = numpy.minimum((values * BINS).astype(int), BINS - 1).ravel()
    count = numpy.bincount(bins, minlength=BINS)
    mean, share = (numpy.bincount(bins, weights=array.ravel(), minlength=BINS) / numpy.maximum(count, 1) for array in (values, events))
    return [{"count": int(count[i]), "value": float(mean[i]), "events": float(share[i])} for i in range(BINS) if count[i]]


def calibration_error(values: numpy.ndarray, events: numpy.ndarray) -> float:
    """Returns the distance between a unit's values and the share of events, over bins weighted by size, meaned over units.

    Example:
        >>> import numpy
        >>> calibration_error(numpy.array([[0.5], [0.5]]), numpy.array([[1.0], [0.0]]))
        0.0
    """
    errors = []
    for unit in range(values.shape[1]):
        rows = reliability(values[:, unit], events[:, unit])
        errors.append(sum(row["count"] * abs(row["value"] - row["events"]) for row in rows) / len(values))
    return float(sum(errors) / len(errors))


def judge(tables: Tables) -> Finding:
    rows = tables["units"]
    least, most = min(column(rows, "least")), max(column(rows, "most"))
    output = Interval.of(column(rows, "calibration_error", kind="output"))
    hidden = Interval.of([fmean(column(rows, "calibration_error", kind="hidden", seed=seed)) for seed in distinct(rows, "seed")])
    if least < 0 or most > 1 or output.low > CALIBRATED:
        verdict = Verdict.WRONG
    elif output.high < CALIBRATED and hidden.high < CALIBRATED:
        verdict = Verdict.HOLDS
    else:
        verdict = Verdict.WITH_CONDITIONS
    return Finding(
        verdict,
        (
            f"Every sigmoid unit's value lay between 0 and 1: the least was {least:.2g}, the most {most:.6g}.",
            f"Read as probabilities of the classes, the outputs, trained under cross-entropy, were off by {output.show(100, 1)} points.",
            (
                f"A hidden unit's value, read as the probability of the class it goes with best, was off by {hidden.show(100, 1)} points: "
                "no loss made it a probability."
            ),
        ),
    )


def draw(tables: Tables, figure: Figure) -> None:
    left, right = figure.subplots(1, 2, sharey=True)
    for axis in (left, right):
        axis.plot([0, 1], [0, 1], color="grey", linewidth=1, linestyle="--")
        axis.set(xlabel="value of the unit, if it were a probability", xlim=(-0.03, 1.03), ylim=(-0.03, 1.03))
    rows = [row for row in tables["reliability"] if row["kind"] == "output"]
    shares = column(rows, "events")
    ends = [_interval(row) for row in rows]
    below, above = ([abs(share - end[side]) for share, end in zip(shares, ends, strict=True)] for side in (0, 1))
    left.errorbar(column(rows, "value"), shares, yerr=[below, above], color=BLUE, marker="o", capsize=3)
    left.set(title="output units, all together: near the diagonal", ylabel="share of images with the event")
    rows = [row for row in tables["reliability"] if row["kind"] == "hidden"]
    for unit in distinct(rows, "unit"):
        right.plot(column(rows, "value", unit=unit), column(rows, "events", unit=unit), color=ORANGE, alpha=0.7, marker=".", linewidth=0.8)
    right.set(title="hidden units, a line for each: far from it")
    figure.suptitle("When is a sigmoid's value a probability?")


def _interval(row: Row) -> tuple[float, float]:
    """The 95 % Wilson score interval of a bin's share of events."""
    from scipy.stats import binomtest

    interval = binomtest(round(row["events"] * row["count"]), row["count"]).proportion_ci(method="wilson")
    return float(interval.low), float(interval.high)


CLAIM = Claim(
    name="sigmoid",
    says="A sigmoid neuron gives a probability between 0 and 1 of an event.",
    theory=(
        "1 / (1 + exp(-x)) lies in (0, 1). It is a probability only where a loss makes it one, as cross-entropy does for an output unit, "
        "and then only as well calibrated as it is measured to be; a hidden unit's value is none."
    ),
    rule=(
        "Wrong if a value leaves 0..1, or if the calibration error of the outputs lies above 5 points with its whole interval. "
        "Holds if the errors of output and hidden units both lie below 5 points with their whole intervals. Holds with conditions otherwise."
    ),
    measure=measure,
    judge=judge,
    draw=draw,
)
