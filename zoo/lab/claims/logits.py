"""Fully connected layers produce logits, the final predictions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from zoo.evaluation import evaluate_logits, predict, softmax
from zoo.figures import BLUE, ORANGE
from zoo.lab.claim import Claim, Finding, Interval, Tables, Verdict, column, distinct

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from zoo.lab.laboratory import Laboratory

TEMPERATURES = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0, 2.8, 4.0)


def measure(lab: Laboratory) -> Tables:
    import numpy

    scores, temperatures = [], []
    for seed in lab.seeds:
        model = lab.learn(lab.recipe("cnn", hyperparameters={"blocks": 2, "filters": 16, "units": 64}), seed).model
        logits = predict(model, lab.validation.images).astype("float64")
        scores.append(
            {
                "seed": seed,
                "least": float(logits.min()),
                "most": float(logits.max()),
                "distributions": float(((logits >= 0).all(axis=1) & (abs(logits.sum(axis=1) - 1) < 1e-3)).mean()),
                "softmax_distributions": float((abs(softmax(logits).sum(axis=1) - 1) < 1e-6).mean()),
            }
        )
        for temperature in TEMPERATURES:
            result = evaluate_logits(logits / temperature, lab.validation.labels)
            temperatures.append(
                {
                    "seed": seed,
                    "temperature": temperature,
                    "same_class": float((softmax(logits / temperature).argmax(axis=1) == logits.argmax(axis=1)).mean()),
                    **{name: result[name] for name in ("accuracy", "negative_log_likelihood", "expected_calibration_error")},
                    "confidence": float(numpy.mean(softmax(logits / temperature).max(axis=1))),
                }
            )
    return {"scores": scores, "temperatures": temperatures}


def judge(tables: Tables) -> Finding:
    scores, rows = tables["scores"], tables["temperatures"]
    same, distributions = min(column(rows, "same_class")), max(column(scores, "distributions"))
    if same < 1:
        verdict = Verdict.WRONG
    elif min(column(scores, "distributions")) == 1:
        verdict = Verdict.HOLDS
    else:
        verdict = Verdict.WITH_CONDITIONS
    accuracy = Interval.of(column(rows, "accuracy", temperature=1.0))
    sharp, soft = (Interval.of(column(rows, "confidence", temperature=value)) for value in (TEMPERATURES[0], TEMPERATURES[-1]))
    return Finding(
        verdict,
        (
            f"The largest logit names the class, the same before and after softmax at every temperature: {accuracy.show(100, 1, ' %')} are right.",
            (
                f"Logits ran from {min(column(scores, 'least')):.1f} to {max(column(scores, 'most')):.1f}; "
                f"{100 * distributions:.0f} % of the images had logits that are probabilities: they are scores."
            ),
            (
                f"Softmax makes probabilities of them, and the temperature sets how sure they are: mean confidence {100 * sharp.mean:.0f} % at "
                f"{TEMPERATURES[0]:g}, {100 * soft.mean:.0f} % at {TEMPERATURES[-1]:g}, with the same answers."
            ),
        ),
    )


def draw(tables: Tables, figure: Figure) -> None:
    axes: Any = figure.subplots(1, 2)
    rows = tables["temperatures"]
    temperatures = distinct(rows, "temperature")
    for name, label, colour in (("confidence", "mean confidence", ORANGE), ("accuracy", "accuracy", BLUE)):
        means = [100 * Interval.of(column(rows, name, temperature=value)).mean for value in temperatures]
        axes[0].plot(temperatures, means, color=colour, marker="o", label=label)
    axes[0].set(title="the temperature changes how sure, not which class", xlabel="temperature", ylabel="%", xscale="log")
    axes[0].legend(frameon=False)
    for seed in distinct(rows, "seed"):
        axes[1].plot(temperatures, column(rows, "negative_log_likelihood", seed=seed), color=BLUE, marker="o", alpha=0.6)
    axes[1].set(title="one temperature fits best", xlabel="temperature", ylabel="negative log likelihood, nats", xscale="log")
    for axis in axes:
        axis.set_xticks([0.25, 0.5, 1, 2, 4], ["1/4", "1/2", "1", "2", "4"])
        axis.minorticks_off()
    figure.suptitle("From logits to probabilities")


CLAIM = Claim(
    name="logits",
    says="Fully connected layers produce logits, the final predictions for the classes.",
    theory="Logits are scores; softmax turns them into probabilities, and a temperature calibrates them (Guo et al., 2017, arXiv:1706.04599).",
    rule=(
        "Wrong if the largest logit ever names another class than the largest probability. Holds if every image's logits are non-negative and "
        "sum to 1, so that they need no softmax. Holds with conditions otherwise: as classes yes, as probabilities after softmax."
    ),
    measure=measure,
    judge=judge,
    draw=draw,
)
