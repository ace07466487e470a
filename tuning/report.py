"""The report of a search: what was found, how sure that is, what mattered, and where to look next; Markdown with figures."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy

from tuning.dispatch import Compilation
from tuning.display import clock, configuration
from tuning.history import read_history
from tuning.importances import importances
from tuning.oracles import Observation, estimates
from tuning.result import TABLE, SearchResult, Trial, TrialTable
from tuning.settings import SETTINGS, read_claim, read_settings
from tuning.spaces import number_ranges, search_space
from tuning.warm_start import SOURCE, judge
from zoo.errors import UsageError
from zoo.figures import BLUE, GREEN, GREY, ORANGE, PINK, RED, SKY, YELLOW, save_figure
from zoo.files import write_text

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

REPORT, FIGURES = "report.md", "report"
RESAMPLES = 1000
COLOURS = (BLUE, ORANGE, GREEN, PINK, SKY, RED, "#8C6D31", YELLOW)
STYLES = ("-", "--", ":")
LISTED = 20  # trials
COLUMNS = 4  # of small panels
ANYTIME, BUDGET = (7.5, 3.4), (7.5, 3.6)  # inches
ABOUT_INTERVALS = (
    "The bar, and the interval, span 95 % of what the best of as many trials would have been, had the trials been drawn again from these (bootstrap, "
    f"{RESAMPLES} resamples). A trial that was stopped early counts with what it would have come to, had it gained as the others did."
)
ABOUT_BUDGETS = (
    "The best validation accuracy to expect of n random ones of these trials (Dodge et al., Show Your Work, 2019, "
    "https://arxiv.org/abs/1909.03004). An optimizer whose curve still rises at its end was given too few trials to be judged."
)


def write_report(result: SearchResult) -> Path:
    """Writes `report.md` and its figures to the search's directory.

    Args:
        result: With at least one measured trial.

    Returns:
        The report.

    Raises:
        MissingExtraError: matplotlib is not installed.
        TrainingError: No trial has a figure.
    """
    best = result.best
    folder = result.directory / FIGURES
    groups = by_optimizer(result)
    figures = estimate_of(result)
    sections = [
        "# Search report",
        _overview(result, best),
        "## The best configuration",
        _settings_table(best.config),
        _retrain(result, best),
        "## By optimizer" if len(groups) > 1 else "## How sure the best is",
        _optimizer_table(groups, figures, result.epochs),
        _picture(
            folder, "optimizers", lambda figure: _draw_optimizers(figure, groups, figures), _height(len(groups)), "every trial, and the best one"
        ),
        ABOUT_INTERVALS,
        *warm_start_sections(result, figures),
        "## Anytime",
        _picture(folder, "anytime", lambda figure: _draw_anytime(figure, result), ANYTIME, "best validation accuracy over time"),
        "## Learning rate",
        _picture(
            folder,
            "learning_rate",
            lambda figure: draw_learning_rates(figure, result, groups, figures),
            panels_size(len(groups)),
            "sensitivity to it",
        ),
        "## What mattered",
        *_importance_sections(result, groups, best, folder),
        "## Configurations",
        *_parallel_sections(folder, result, groups, best, figures),
        "## Budget",
        _picture(folder, "budget", lambda figure: _draw_budget(figure, groups, figures), BUDGET, "expected best over the number of trials"),
        ABOUT_BUDGETS,
        "## The edges of the space",
        _edges(result),
        "## All trials",
        _trial_table(result),
    ]
    path = result.directory / REPORT
    write_text(path, "\n\n".join(section for section in sections if section) + "\n")
    return path


def plot_search(source: Path, directory: Path | None) -> list[Path] | None:
    """Draws a search's figures anew from the files in its directory, for `zoo plot`.

    Args:
        source: What may be a search's directory.
        directory: Where the figures go; `plots` in the search's where None.

    Returns:
        The files; None where `source` is no search.

    Raises:
        UsageError: The search has not ended yet, or no trial came to the end of an epoch.
        MissingExtraError: matplotlib is not installed.
    """
    if not (source / SETTINGS).is_file():
        return None
    settings = read_settings(source)
    if not (source / TABLE).is_file():
        raise UsageError(f"The search in {source} has not come to an end. Go on with it by: zoo tune --resume {source}")
    history = read_history(source)
    recipe = settings.recipe
    space = recipe and search_space(recipe.model, settings.optimizers, study=settings.study, vary=settings.vary, ranges=settings.ranges)
    result = SearchResult(
        TrialTable.from_csv(source / TABLE, history),
        source,
        seconds=math.nan,
        ranges=number_ranges(space) if space else {},
        epochs=settings.epochs,
        elapsed=max((row["wall_seconds"] for row in history), default=0.0),
    )
    if not result.ranking:
        raise UsageError(f"There is nothing to draw: no trial in {source} came to the end of an epoch.")
    groups, figures = by_optimizer(result), estimate_of(result)
    drawings = {
        "optimizers": (lambda figure: _draw_optimizers(figure, groups, figures), _height(len(groups))),
        "anytime": (lambda figure: _draw_anytime(figure, result), ANYTIME),
        "learning_rate": (lambda figure: draw_learning_rates(figure, result, groups, figures), panels_size(len(groups))),
        "budget": (lambda figure: _draw_budget(figure, groups, figures), BUDGET),
    }
    return [file for name, (draw, size) in drawings.items() for file in save_figure(draw, (directory or source / "plots") / name, size)]


# --- figures of merit -------------------------------------------------------------------------------------------------


def by_optimizer(result: SearchResult) -> dict[str, list[Trial]]:
    """Returns the trials of each optimizer, the one with the best trial first; those of a space without optimizers under ''."""
    groups: dict[str, list[Trial]] = {trial.optimizer: [] for trial in result.ranking}
    for trial in result.trials:
        groups.setdefault(trial.optimizer, []).append(trial)
    return groups


def estimate_of(result: SearchResult) -> dict[int, float]:
    """Returns each trial's figure as if all had been trained equally long; NaN for those that diverged, failed or have none."""
    bad = {trial.number for trial in result.trials if trial.state in ("diverged", "failed")}
    observations = [Observation(trial.config, trial.curve, trial.number in bad) for trial in result.trials]
    figures = estimates(observations)
    return {
        trial.number: math.nan if trial.number in bad else figure if trial.state != "completed" else trial.val_accuracy or math.nan
        for trial, figure in zip(result.trials, figures, strict=True)
    }


def bootstrap_best(figures: Sequence[float], resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """Returns the 95 % percentile interval of the best of as many figures drawn again from these.

    Example:
        >>> bootstrap_best([0.5, 0.5, 0.5])
        (0.5, 0.5)
    """
    drawn = numpy.random.default_rng(seed).choice(numpy.asarray(figures), (resamples, len(figures)))
    low, high = numpy.percentile(drawn.max(axis=1), (2.5, 97.5))
    return float(low), float(high)


def expected_best(figures: Sequence[float]) -> list[float]:
    """Returns, for n from 1 to their number, the expected best of n figures drawn from these.

    Example:
        >>> expected_best([0.0, 1.0])
        [0.5, 0.75]
    """
    ordered = numpy.sort(numpy.asarray(figures))
    count = len(ordered)
    shares = numpy.arange(count + 1) / count
    return [float((ordered * numpy.diff(shares**draws)).sum()) for draws in range(1, count + 1)]


# --- text -------------------------------------------------------------------------------------------------------------


def _overview(result: SearchResult, best: Trial) -> str:
    states = [trial.state for trial in result.trials]
    counted = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    epochs = sum(trial.epochs for trial in result.trials)
    interval = result.interval()
    sure = f" (95 % interval of the validation images: {percent(interval[0])} to {percent(interval[1])})" if interval else ""
    return (
        f"Best validation accuracy **{percent(best.val_accuracy)}**{sure}, by trial {best.number} after {best.epochs} epochs.\n\n"
        f"{len(states)} trials ({counted}), {epochs} epochs in {clock(result.elapsed)}; {100 * result.overhead:.0f} % of the time was not spent in "
        f"training steps. {result.ended[:1].upper()}{result.ended[1:]}{'.' if result.ended else ''}{compiling(result.compilation)}"
    )


def compiling(found: Compilation | None) -> str:
    """Returns a paragraph about what compiling took and what was saved; empty where nothing was compiled.

    Example:
        >>> print(compiling(Compilation(2, 2, 6.0, 10, 30.0)).strip())
        Compiling: 2 programs, compiled 2 times in 6.0 s. 10 stretches of training ran on a program that was there: about 30.0 s saved.
    """
    if found is None or not found.times:
        return ""
    text = (
        f"\n\nCompiling: {found.programs} programs, compiled {found.times} times in {found.seconds:.1f} s. "
        f"{found.reused} stretches of training ran on a program that was there: about {found.saved:.1f} s saved."
    )
    if round(found.grouped, 1) > 0:
        text += (
            f" The {found.workers} workers were given trials whose programs they had: in the order of the trials it would have been "
            f"{found.in_order} compilations, about {found.grouped:.1f} s more."
        )
    return text


def _settings_table(config: Mapping[str, Any]) -> str:
    return table(("hyperparameter", "value"), [(name, _value(value)) for name, value in config.items()])


def _retrain(result: SearchResult, best: Trial) -> str:
    if best.recipe is None:
        return ""
    return f"    zoo train {result.directory / 'best_recipe.json'}\n\ntrains it again, to the same validation accuracy within its interval."


def _optimizer_table(groups: Mapping[str, list[Trial]], figures: Mapping[int, float], epochs: int) -> str:
    header = (
        "optimizer",
        "trials",
        "diverged or failed",
        "best validation accuracy",
        f"best at {epochs} epochs, with interval",
        "configuration of the best",
    )
    rows = []
    for name, trials in groups.items():
        known = _known(trials, figures)
        bad = sum(trial.state in ("diverged", "failed") for trial in trials)
        if not known:
            rows.append((name or "all", str(len(trials)), str(bad), "none", "", ""))
            continue
        low, high = bootstrap_best([figures[trial.number] for trial in known])
        best = max(known, key=lambda trial: trial.val_accuracy or 0)
        values = configuration({key: value for key, value in best.config.items() if key != "optimizer"})
        measured = f"{percent(best.val_accuracy)} after {best.epochs}"
        expected = f"{percent(max(figures[trial.number] for trial in known))} ({percent(low)} to {percent(high)})"
        rows.append((name or "all", str(len(trials)), str(bad), measured, expected, f"`{values}`"))
    return table(header, rows)


def warm_start_sections(result: SearchResult, figures: Mapping[int, float]) -> list[str]:
    """Returns what can be said of beginning with another study's configurations; nothing for a search that did not."""
    if not (result.directory / SETTINGS).is_file():
        return []
    found = read_claim(result.directory)
    numbers = {index: entry["figure"] for index, entry in enumerate(found["enqueued"]) if entry["source"] == SOURCE}
    study = found["settings"].get("begun_with", "")
    if not numbers:
        return []
    begun = {trial.number: figures[trial.number] for trial in result.trials if trial.state in ("diverged", "failed") or trial.curve}
    evidence = judge(study, numbers, begun)
    if evidence is None:
        return ["## Warm start", f"The search began with configurations of {study}, but too few trials have been trained to compare them."]
    rows = [
        (name, str(len(group)), *(percent(value) if math.isfinite(value) else "none" for value in (_middle(group), max(group, key=_low))))
        for name, group in ((f"from {study}", evidence.own), ("in turn with them", evidence.others))
    ]
    agreement = "" if math.isnan(evidence.agreement) else f" What they reached there and here agrees by {evidence.agreement:.2f} (Spearman)."
    best = "was" if result.best.number in numbers else "was not"
    verdict = (
        f"In rank, {evidence.verdict} (Mann-Whitney U test, two-sided p = {evidence.probability:.3f}).{agreement} "
        f"The best trial of the search {best} one of them."
    )
    return [
        "## Warm start",
        table(("the first trials", "trials", "median", "best"), rows),
        verdict,
    ]


def _low(figure: float) -> float:
    return figure if math.isfinite(figure) else -math.inf


def _middle(figures: Sequence[float]) -> float:
    """The median, where a trial without a figure is worse than any."""
    middle = sorted(figures, key=_low)[len(figures) // 2]
    return middle if len(figures) % 2 else (middle + sorted(figures, key=_low)[len(figures) // 2 - 1]) / 2


def _edges(result: SearchResult) -> str:
    found = result.on_the_edge()
    if not found:
        return "The best configuration lies inside of every range."
    lines = [
        f"- `{name}` = {_value(value)} lies on the edge of {_value(result.ranges[name][0])} to {_value(result.ranges[name][1])}. "
        f"Search a wider range: `--range {name}={low:g}..{high:g}`"
        for name, value, (low, high) in found
    ]
    return "\n".join(lines)


def _trial_table(result: SearchResult) -> str:
    header = ("trial", "state", "validation accuracy", "epochs", "seconds", "from", "configuration")
    rows = []
    for trial in result.ranking[:LISTED]:
        shown = f"`{configuration(trial.config)}`"
        rows.append((str(trial.number), trial.state, percent(trial.val_accuracy), str(trial.epochs), f"{trial.seconds:.1f}", trial.source, shown))
    note = "" if len(result.trials) <= LISTED else f"\n\nThe best {LISTED}; the others are in `trials.csv`."
    return table(header, rows) + note


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Returns a Markdown table.

    Example:
        >>> print(table(("a", "b"), [("1", "2")]))
        | a | b |
        | --- | --- |
        | 1 | 2 |
    """
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def percent(value: float | None) -> str:
    """Returns a share as `97.50 %`; empty for None."""
    return "" if value is None else f"{100 * value:.2f} %"


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _picture(folder: Path, name: str, draw: Callable[[Figure], None], size: tuple[float, float], title: str) -> str:
    save_figure(draw, folder / name, size)
    return f"![{title}]({FIGURES}/{name}.svg)"


# --- figures ----------------------------------------------------------------------------------------------------------


def _known(trials: Sequence[Trial], figures: Mapping[int, float]) -> list[Trial]:
    return [trial for trial in trials if math.isfinite(figures[trial.number])]


def _look(groups: Mapping[str, list[Trial]]) -> dict[str, tuple[str, str]]:
    """Returns each optimizer's colour and line style."""
    return {name: (COLOURS[index % len(COLOURS)], STYLES[index // len(COLOURS) % len(STYLES)]) for index, name in enumerate(groups)}


def _height(rows: int) -> tuple[float, float]:
    return 7.5, 1.1 + 0.34 * rows


def panels_size(count: int) -> tuple[float, float]:
    """Returns width and height in inches of a figure with a panel per optimizer."""
    columns = min(COLUMNS, count)
    return 1.2 + 2.1 * max(columns, 2), 0.9 + 2.0 * math.ceil(count / columns)


def _window(values: Sequence[float]) -> tuple[float, float]:
    """Returns the percentages that an axis shows: the better two thirds in full, so that the worst do not flatten the rest."""
    shown = 100 * numpy.asarray(values)
    low, high = float(numpy.percentile(shown, 25)), float(shown.max())
    margin = max(0.1, 0.08 * (high - low))
    return max(0.0, low - 2 * margin), min(100.0, high + margin)


def _draw_optimizers(figure: Figure, groups: Mapping[str, list[Trial]], figures: Mapping[int, float]) -> None:
    axes = figure.subplots()
    window = _window([figures[trial.number] for trials in groups.values() for trial in _known(trials, figures)])
    look = _look(groups)
    for row, (name, trials) in enumerate(groups.items()):
        values = [figures[trial.number] for trial in _known(trials, figures)]
        if not values:
            continue
        low, high = (100 * end for end in bootstrap_best(values))
        axes.plot([low, high], [row, row], color=look[name][0], linewidth=5, alpha=0.35, solid_capstyle="butt")
        axes.plot(numpy.clip(100 * numpy.asarray(values), window[0], None), [row] * len(values), "|", color=look[name][0], markersize=9)
        axes.plot(100 * max(values), row, "o", color=look[name][0], markersize=6)
    axes.set_yticks(range(len(groups)), [f"{name or 'all'} ({len(trials)})" for name, trials in groups.items()])
    axes.set_ylim(len(groups) - 0.5, -0.5)
    axes.set_xlim(*window)
    axes.set_xlabel("validation accuracy, % (worse trials stand at the left edge)")


def _draw_anytime(figure: Figure, result: SearchResult) -> None:
    axes = figure.subplots()
    rows = result.history()
    walls, values = [row["wall_seconds"] for row in rows], [100 * row["val_accuracy"] for row in rows]
    axes.plot(walls, values, ".", color=GREY, markersize=3, label="each epoch of each trial")
    axes.step([*walls, result.elapsed], [*accumulate(values, max), max(values)], where="post", color=BLUE, label="best so far")
    axes.set_ylim(*_window([value / 100 for value in [*values, *accumulate(values, max)]]))
    axes.set_xlim(0, result.elapsed * 1.01)
    axes.set_xlabel("seconds since the search began")
    axes.set_ylabel("validation accuracy, %")
    axes.legend(loc="lower right", frameon=False)


def learning_rate_of(trial: Trial) -> float | None:
    """Returns the learning rate of a trial; None where its space has none."""
    for name in (f"{trial.optimizer}.learning_rate", "learning_rate", "lr"):
        if isinstance(trial.config.get(name), float):
            return float(trial.config[name])
    return None


def draw_learning_rates(figure: Figure, result: SearchResult, groups: Mapping[str, list[Trial]], figures: Mapping[int, float]) -> None:
    """Draws the validation accuracy over the learning rate, a panel per optimizer in the order of `groups`.

    Args:
        figure: An empty one.
        result: Gives the ranges.
        groups: The trials of each optimizer.
        figures: Number of a trial -> its figure, 0..1; NaN for one that diverged or failed.
    """
    from matplotlib.ticker import LogLocator, NullFormatter

    columns = min(COLUMNS, len(groups))
    panels = figure.subplots(math.ceil(len(groups) / columns), columns, squeeze=False, sharey=True).ravel()
    window = _window([figures[trial.number] for trials in groups.values() for trial in _known(trials, figures)])
    look = _look(groups)
    for panel, (name, trials) in zip(panels, groups.items(), strict=False):
        points = [(rate, figures[trial.number]) for trial in trials if (rate := learning_rate_of(trial)) is not None]
        known = [(rate, max(100 * figure, window[0])) for rate, figure in points if math.isfinite(figure)]
        bad = [(rate, window[0]) for rate, figure in points if not math.isfinite(figure)]
        for marks, marker, colour in ((known, "o", look[name][0]), (bad, "x", RED)):
            if marks:  # an empty line on a logarithmic axis breaks the layout
                panel.plot(*zip(*marks, strict=True), marker, color=colour, markersize=3.5)
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(numticks=4))
        panel.xaxis.set_minor_formatter(NullFormatter())
        if f"{name}.learning_rate" in result.ranges:
            panel.set_xlim(*result.ranges[f"{name}.learning_rate"][:2])
        panel.set_title(name or "all")
        panel.set_ylim(window[0] - 0.04 * (window[1] - window[0]), window[1])
    for panel in panels[len(groups) :]:
        panel.remove()
    figure.supxlabel("learning rate (crosses: diverged or failed; the lower edge: worse than shown)", fontsize=9)
    figure.supylabel("validation accuracy, %", fontsize=9)


def _importance_sections(result: SearchResult, groups: Mapping[str, list[Trial]], best: Trial, folder: Path) -> list[str]:
    found: list[tuple[str, Mapping[str, float]]] = []
    subjects: list[tuple[str, Sequence[Trial]]] = [("all trials", result.trials)]
    if len(groups) > 1:
        subjects.append((f"{best.optimizer}'s trials", groups[best.optimizer]))
    for title, trials in subjects:
        try:
            shares = importances(trials, result.ranges)
        except UsageError:
            continue
        if len(shares) > 1:
            found.append((title, shares))
    if not found:
        return ["Too few trials, or too few hyperparameters, to tell."]
    rows = max(len(shares) for _, shares in found)
    picture = _picture(folder, "importances", lambda figure: _draw_importances(figure, found), (7.5, 1.2 + 0.28 * rows), "importances")
    return [picture, "Shares of the variance of the validation accuracy (functional ANOVA, Hutter, Hoos, Leyton-Brown, 2014)."]


def _draw_importances(figure: Figure, found: Sequence[tuple[str, Mapping[str, float]]]) -> None:
    panels = figure.subplots(1, len(found), squeeze=False).ravel()
    for panel, (title, shares) in zip(panels, found, strict=True):
        names = list(shares)
        panel.barh(range(len(names)), [100 * shares[name] for name in names], color=BLUE, height=0.6)
        panel.set_yticks(range(len(names)), [name.rpartition(".")[2] for name in names])
        panel.invert_yaxis()
        panel.set_title(title)
        panel.set_xlabel("share, %")


def _parallel_sections(folder: Path, result: SearchResult, groups: Mapping[str, list[Trial]], best: Trial, figures: Mapping[int, float]) -> list[str]:
    sections = []
    common = [name for name in best.config if all(name in trial.config for trial in result.trials)]
    if len(common) > 1:
        trials = _known(result.trials, figures)
        sections.append(
            _picture(folder, "parallel", lambda figure: _draw_parallel(figure, trials, common, result, figures), (9.0, 3.4), "all trials")
        )
    if len(groups) > 1:
        names = [name for name in best.config if name != "optimizer"]
        own = _known(groups[best.optimizer], figures)
        draw: Callable[[Figure], None] = lambda figure: _draw_parallel(figure, own, names, result, figures)  # noqa: E731
        sections.append(_picture(folder, "parallel_best_optimizer", draw, (9.0, 3.4), f"{best.optimizer}'s trials"))
    return sections


def _draw_parallel(figure: Figure, trials: Sequence[Trial], names: Sequence[str], result: SearchResult, figures: Mapping[int, float]) -> None:
    from matplotlib import colormaps

    axes = figure.subplots()
    window = _window([figures[trial.number] for trial in trials])
    places = {name: _axis(name, trials, result) for name in names}
    span = max(window[1] - window[0], 1e-9)
    for trial in sorted(trials, key=lambda trial: figures[trial.number]):
        share = min(max((100 * figures[trial.number] - window[0]) / span, 0.0), 1.0)
        heights = [*(places[name][0](trial.config[name]) for name in names), share]
        axes.plot(range(len(heights)), heights, color=colormaps["viridis_r"](share), linewidth=0.6 + 1.2 * share, alpha=0.35 + 0.6 * share)
    for column, name in enumerate(names):
        _mark_axis(axes, column, places[name][1])
    _mark_axis(axes, len(names), [(0.0, f"{window[0]:.1f} %"), (1.0, f"{window[1]:.1f} %")])
    labels = [_wrapped(name) for name in names]
    axes.set_xticks(range(len(names) + 1), [*labels, "validation\naccuracy"])
    axes.set_xlim(-0.25, len(names) + 0.4)
    axes.set_yticks([])
    axes.set_ylim(-0.05, 1.05)
    axes.spines["left"].set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.tick_params(axis="x", length=0)


def _wrapped(name: str) -> str:
    """The last part of a name, in lines of a few letters."""
    return name.rpartition(".")[2].replace("one_minus_", "1 - ").replace("_", "\n", 1)


def _axis(name: str, trials: Sequence[Trial], result: SearchResult) -> tuple[Callable[[Any], float], list[tuple[float, str]]]:
    """Returns where a value stands on a vertical axis, 0..1, and the marks of the axis."""
    if name in result.ranges:
        low, high, log = result.ranges[name]
        if log:
            return lambda value: math.log(value / low) / math.log(high / low), [(0.0, _end(low)), (1.0, _end(high))]
        return lambda value: (value - low) / (high - low), [(0.0, _end(low)), (1.0, _end(high))]
    values = sorted({str(trial.config[name]) for trial in trials})
    step = 1 / max(1, len(values) - 1)
    return lambda value: values.index(str(value)) * step, [(index * step, value) for index, value in enumerate(values)]


def _end(value: float) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _mark_axis(axes: Axes, column: int, marks: Sequence[tuple[float, str]]) -> None:
    axes.plot([column, column], [0, 1], color="black", linewidth=0.8)
    for height, text in marks:
        axes.annotate(
            text,
            (column, height),
            xytext=(4, 0),
            textcoords="offset points",
            fontsize=7,
            va="center",
            bbox={"fc": "white", "ec": "none", "pad": 0.5, "alpha": 0.7},
        )


def _draw_budget(figure: Figure, groups: Mapping[str, list[Trial]], figures: Mapping[int, float]) -> None:
    axes = figure.subplots()
    look = _look(groups)
    worst = min((trial_figure for trial_figure in figures.values() if math.isfinite(trial_figure)), default=0.0)
    curves = {}
    for name, trials in groups.items():
        known = [figures[trial.number] if math.isfinite(figures[trial.number]) else worst for trial in trials if trial.curve or trial.message]
        if known:
            curves[name] = [100 * value for value in expected_best(known)]
            axes.plot(range(1, len(known) + 1), curves[name], color=look[name][0], linestyle=look[name][1], label=name or "all")
            axes.plot(len(known), curves[name][-1], "o", color=look[name][0], markersize=4)
    ends = sorted((curve[-1] for curve in curves.values()), reverse=True)
    lowest = ends[min(len(ends) - 1, max(2, len(ends) * 2 // 3))]
    axes.set_ylim(
        max(min(curve[0] for curve in curves.values()), lowest - 2 * max(0.5, ends[0] - lowest)), ends[0] + 0.1 * max(0.5, ends[0] - lowest)
    )
    axes.set_xlabel("trials")
    axes.set_ylabel("expected best validation accuracy, %")
    if len(groups) > 1:
        axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)
