"""Who proposes configurations: Optuna's samplers behind KerasTuner's Oracle API, and KerasTuner's own oracles.

`OptunaOracle` works with any KerasTuner tuner. It differs from KerasTuner's own oracles in what it keeps: nothing but the
trials. The proposal for trial n is a function of the seed, n, and what the trials before it gave, so that a search which was
killed proposes after its restart what it would have proposed without.

A space with conditions is sampled scope by scope: first what is always there, then the arguments of what was chosen, each
by a sampler that has seen just the trials of that scope. So GP, CMA-ES and QMC, which want every trial to have the same
parameters, work for conditional spaces as well, and each optimizer's arguments are tuned among that optimizer's trials.

A trial that was paused or pruned counts with its last figure plus what the longest trials gained from that epoch on; an
infeasible one, whose loss diverged or whose model could not be built, counts as much as the worst feasible one.
"""

from __future__ import annotations

import hashlib
import heapq
import importlib.util
import json
import math
import statistics
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import keras_tuner
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from zoo.errors import MissingExtraError, UsageError, unknown

if TYPE_CHECKING:
    from keras_tuner.engine.hyperparameters import HyperParameter

Values = dict[str, Any]
Seen = Sequence[tuple[Mapping[str, Any], float]]  # points of a scope, each with its trial's figure
ATTEMPTS = 20  # at a configuration that was not tried yet, before chance is asked, and then again
SAMPLERS = ("tpe", "random", "gp", "cmaes", "qmc")
KERASTUNER = ("kerastuner_random", "kerastuner_bayesian", "kerastuner_grid", "kerastuner_hyperband")
REPLAYED = ("cmaes", "qmc")  # samplers that go on from their own last proposals
STARTUP = 10
STUDY_NAME = "one proposal"  # of a study that lives as long; Optuna would draw one from the system's random numbers, which can be slow
SHOWN = 300  # trials of a scope, to a sampler for several workers
MANY = 100  # trials of a scope under way: beyond, half as many are shown, so that workers do not wait for proposals longer than these are worth


@dataclass(frozen=True)
class Observation:
    """What is known of one trial.

    Attributes:
        values: The active hyperparameters.
        curve: Epoch -> figure, as far as the trial has come; empty for one that has only begun.
        infeasible: It can have no figure.
        pause: The epoch at which it is first looked at; 0 for its last.
        given: It was not proposed, but stood at the beginning.
        running: It has not come to its pause yet.
    """

    values: Mapping[str, Any]
    curve: Mapping[int, float] = field(default_factory=dict)
    infeasible: bool = False
    pause: int = 0
    given: bool = False
    running: bool = False


def estimates(observations: Sequence[Observation], maximize: bool = True) -> list[float]:
    """Returns one figure per trial, on one scale however long each was trained; NaN for those that have only begun.

    Example:
        >>> curves = [{1: 0.5, 2: 0.75}, {1: 0.25}, {}]
        >>> estimates([Observation({}, curve) for curve in curves] + [Observation({}, infeasible=True)])
        [0.75, 0.5, nan, 0.5]
    """
    curves = [{} if entry.infeasible else _finite(entry.curve) for entry in observations]
    ends = [max(curve) if curve else 0 for curve in curves]
    longest = max(ends, default=0)
    whole = [curve for curve in curves if longest in curve]
    gains: dict[int, float] = {longest: 0.0}
    figures = []
    for curve, step in zip(curves, ends, strict=True):
        if not curve:
            figures.append(math.nan)
            continue
        if step not in gains:
            gained = [other[longest] - other[step] for other in whole if step in other]
            gains[step] = statistics.median(gained) if gained else 0.0
        figures.append(curve[step] + gains[step])
    finite = [figure for figure in figures if math.isfinite(figure)]
    worst = (min(finite) if maximize else max(finite)) if finite else 0.0
    return [worst if entry.infeasible else figure for entry, figure in zip(observations, figures, strict=True)]


def _finite(curve: Mapping[int, float]) -> Mapping[int, float]:
    """A curve without the figures that are none."""
    if all(map(math.isfinite, curve.values())):
        return curve
    return {step: value for step, value in curve.items() if math.isfinite(value)}


class Memory:
    """What `propose` has worked out of a study's trials, which are only ever added to."""

    def __init__(self) -> None:
        self.tried: set[str] = set()
        self.count = 0
        self.points: dict[tuple[int, int], dict[str, Any] | None] = {}  # scope and trial -> the trial's point in the scope
        self.frozen: dict[tuple[int, int], FrozenTrial] = {}
        self.known: list[float] = []
        self.scopes: dict[int, tuple[int, list[tuple[Mapping[str, Any], float]]]] = {}  # how far a scope's trials were looked at, and they

    def look(self, observations: Sequence[Observation], maximize: bool, again: bool) -> Sequence[float]:
        """Notes which configurations were tried, and returns `estimates`; see `propose` for `again`."""
        self.tried.update(_key(entry.values) for entry in observations[self.count :])
        self.count = len(observations)
        if not again:
            self.known, self.scopes = estimates(observations, maximize), {}
        self.known.extend([math.nan] * (len(observations) - len(self.known)))
        return self.known

    def seen(self, index: int, scope: Sequence[HyperParameter], observations: Sequence[Observation], figures: Sequence[float]) -> Seen:
        """Returns the points of a scope, each with its trial's figure."""
        start, found = self.scopes.get(index, (0, []))
        for number in range(start, len(observations)):
            point = self.point(index, number, scope, observations[number].values)
            if point is not None:
                found.append((point, figures[number]))
        self.scopes[index] = (len(observations), found)
        return found

    def point(self, index: int, number: int, scope: Sequence[HyperParameter], values: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns a trial's point in a scope; see `_encode`."""
        if (index, number) not in self.points:
            self.points[index, number] = _encode(scope, values)
        return self.points[index, number]

    def trial(self, index: int, number: int, point: Mapping[str, Any], distributions: Mapping[str, BaseDistribution], figure: float) -> FrozenTrial:
        """Returns a trial in Optuna's terms; see `_trial`."""
        known = self.frozen.get((index, number))
        if known is None or not math.isfinite(figure) or known.state != TrialState.COMPLETE or known.value != figure:
            known = self.frozen[index, number] = _trial(number, point, distributions, figure)
        return known


def propose(
    space: Sequence[HyperParameter],
    observations: Sequence[Observation],
    sampler: str,
    seed: int,
    number: int,
    *,
    maximize: bool = True,
    parallel: bool = False,
    memory: Memory | None = None,
    again: bool = False,
) -> Values | None:
    """Returns the configuration of trial `number`, or None where every attempt gave one that was tried already.

    Args:
        space: The hyperparameters, parents before children.
        observations: The trials so far.
        sampler: One of `SAMPLERS`.
        seed: Of the study.
        number: Of the trial; another number draws anew.
        maximize: Whether a higher figure is better.
        parallel: Whether others may be under way, of which TPE then thinks ill until it knows better, so as to try something else.
        memory: Of the same study's proposals before.
        again: Nothing has changed since the proposal before but that trials have begun; or what has changed can wait.
    """
    memory = Memory() if memory is None else memory
    figures = memory.look(observations, maximize, again)
    for name in (sampler, "random"):
        for attempt in range(ATTEMPTS):
            values = _draw(space, observations, figures, name, derive_seed(seed, number, attempt), maximize, parallel, memory)
            if _key(values) not in memory.tried:
                return values
    return None


def derive_seed(*parts: int | str) -> int:
    """Returns a seed from 1 to 2**31 that follows from its parts."""
    return int.from_bytes(hashlib.sha256(json.dumps(parts).encode()).digest()[:4], "big") % (2**31 - 1) + 1


def create_sampler(name: str, seed: int, parallel: bool = False) -> BaseSampler:
    """Creates one of Optuna's samplers.

    Args:
        name: One of `SAMPLERS`.
        seed: Of its random numbers.
        parallel: See `propose`.

    Raises:
        UnknownNameError: No such sampler.
        MissingExtraError: The sampler needs a package that is not installed.
    """
    if name not in SAMPLERS:
        raise unknown("sampler", name, [*SAMPLERS, *KERASTUNER])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        if name == "tpe":
            return optuna.samplers.TPESampler(seed=seed, n_startup_trials=STARTUP, multivariate=True, constant_liar=parallel)
        if name == "random":
            return optuna.samplers.RandomSampler(seed=seed)
        if name == "gp":
            if importlib.util.find_spec("torch") is None:
                raise MissingExtraError("Optuna's GP sampler needs PyTorch: pip install 'neuron-zoo[gp]'. Without it: kerastuner_bayesian, or tpe.")
            return optuna.samplers.GPSampler(seed=seed, n_startup_trials=STARTUP, warn_independent_sampling=False)
        if name == "cmaes":
            return optuna.samplers.CmaEsSampler(seed=seed, n_startup_trials=STARTUP, warn_independent_sampling=False)
        return optuna.samplers.QMCSampler(seed=seed, scramble=True, warn_independent_sampling=False)


def distribution(hyperparameter: HyperParameter) -> BaseDistribution:
    """Returns a hyperparameter's range in Optuna's terms, in its own unit: what a study's record shows.

    Example:
        >>> distribution(keras_tuner.engine.hyperparameters.Float("x", 0.001, 1.0, sampling="log"))
        FloatDistribution(high=1.0, log=True, low=0.001, step=None)
    """
    if not hasattr(hyperparameter, "min_value"):
        return CategoricalDistribution([hyperparameter.value] if hasattr(hyperparameter, "value") else list(hyperparameter.values))
    log = hyperparameter.sampling == "log"
    kind = IntDistribution if isinstance(hyperparameter, keras_tuner.engine.hyperparameters.Int) else FloatDistribution
    return kind(hyperparameter.min_value, hyperparameter.max_value, log=log)


# --- sampling ---------------------------------------------------------------------------------------------------------


def _key(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True)


def _scopes(space: Sequence[HyperParameter]) -> Iterator[tuple[Any, list[HyperParameter]]]:
    """Yields the hyperparameters that stand under the same conditions, the unconditional ones first."""
    scopes: dict[str, tuple[Any, list[HyperParameter]]] = {}
    for hyperparameter in space:
        key = json.dumps([[condition.name, list(condition.values)] for condition in hyperparameter.conditions])
        scopes.setdefault(key, (hyperparameter.conditions, []))[1].append(hyperparameter)
    yield from scopes.values()


def _draw(
    space: Sequence[HyperParameter],
    observations: Sequence[Observation],
    figures: Sequence[float],
    sampler: str,
    seed: int,
    maximize: bool,
    parallel: bool,
    memory: Memory,
) -> Values:
    values: Values = {}
    for index, (conditions, scope) in enumerate(_scopes(space)):
        if not all(condition.name in values and values[condition.name] in condition.values for condition in conditions):
            continue
        seen = memory.seen(index, scope, observations, figures)
        point = _sample(scope, index, seen, sampler, derive_seed(seed, index), maximize, parallel, memory)
        values |= {hyperparameter.name: _decode(hyperparameter, point) for hyperparameter in scope}
    return {hyperparameter.name: values[hyperparameter.name] for hyperparameter in space if hyperparameter.name in values}


def _unit(hyperparameter: HyperParameter) -> BaseDistribution | None:
    """What the samplers see: the cumulative probability of a number on its own scale, or the index of a choice."""
    if hasattr(hyperparameter, "min_value"):
        return FloatDistribution(0.0, 1.0)
    return None if hasattr(hyperparameter, "value") else CategoricalDistribution(list(range(len(hyperparameter.values))))


def _encode(scope: Sequence[HyperParameter], values: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns the point of a scope that a configuration holds; None if it lacks a value, or has one that is out of range."""
    point: dict[str, Any] = {}
    for hyperparameter in scope:
        name = hyperparameter.name
        if name not in values:
            return None
        if hasattr(hyperparameter, "min_value"):
            if not hyperparameter.min_value <= values[name] <= hyperparameter.max_value:
                return None
            point[name] = min(max(float(hyperparameter.value_to_prob(values[name])), 0.0), 1.0)
        elif not hasattr(hyperparameter, "value"):
            if values[name] not in hyperparameter.values:
                return None
            point[name] = list(hyperparameter.values).index(values[name])
    return point


def _decode(hyperparameter: HyperParameter, point: Mapping[str, Any]) -> Any:
    if hasattr(hyperparameter, "min_value"):
        value = hyperparameter.prob_to_value(min(point[hyperparameter.name], 1 - 1e-12))
        return min(max(value, hyperparameter.min_value), hyperparameter.max_value)
    return hyperparameter.value if hasattr(hyperparameter, "value") else list(hyperparameter.values)[point[hyperparameter.name]]


def _sample(
    scope: Sequence[HyperParameter], index: int, seen: Seen, name: str, seed: int, maximize: bool, parallel: bool, memory: Memory
) -> dict[str, Any]:
    distributions = {entry.name: kind for entry in scope if (kind := _unit(entry)) is not None}
    if not distributions:
        return {}
    sampler = create_sampler(name, seed if name not in REPLAYED else derive_seed(name), parallel)
    direction = StudyDirection.MAXIMIZE if maximize else StudyDirection.MINIMIZE
    if name in REPLAYED:
        return _replay(sampler, distributions, seen, direction, seed)
    with silence():
        numbers = _kept([figure for _, figure in seen], maximize) if parallel else range(len(seen))
        trials = [memory.trial(index, number, seen[number][0], distributions, seen[number][1]) for number in numbers]
        study = optuna.create_study(storage=_View(trials), study_name=STUDY_NAME, sampler=sampler, direction=direction)
        trial = _trial(len(seen), {}, {}, math.nan)
        known = next((entry for entry in reversed(trials) if entry.state == TrialState.COMPLETE), None)
        alike = optuna.create_study(  # all have the same parameters
            storage=_View([] if known is None else [known]), study_name=STUDY_NAME, direction=direction
        )
        related = sampler.infer_relative_search_space(alike, trial)
        found = sampler.sample_relative(study, trial, related)
        return {
            entry: found[entry] if entry in found else sampler.sample_independent(study, trial, entry, distributions[entry])
            for entry in distributions
        }


def _kept(figures: Sequence[float], maximize: bool) -> list[int]:
    """Returns the trials that a sampler is shown where many workers wait for it: all, or the best and the latest of very many."""
    shown = SHOWN if sum(map(math.isnan, figures)) <= MANY else SHOWN // 2
    if len(figures) <= shown:
        return list(range(len(figures)))
    known = [number for number, figure in enumerate(figures) if math.isfinite(figure)]
    best = heapq.nlargest(shown // 5, known, key=lambda number: figures[number] if maximize else -figures[number])
    latest = range(len(figures) - shown + len(best), len(figures))
    return sorted({*best, *latest})


def _replay(
    sampler: BaseSampler,
    distributions: Mapping[str, BaseDistribution],
    seen: Seen,
    direction: StudyDirection,
    seed: int,
) -> dict[str, Any]:
    """Asks once per trial of the past, each time putting that trial's own point in the place of the answer, and once more."""
    with silence():
        replayed = _Replayed(sampler)
        study = optuna.create_study(sampler=replayed, direction=direction)
        for point, figure in seen:
            replayed.forced = dict(point)
            trial = study.ask(dict(distributions))
            if math.isfinite(figure):
                study.tell(trial, figure)
        replayed.forced = {}
        sampler.reseed_rng()
        replayed.chance = optuna.samplers.RandomSampler(seed=seed)
        return study.ask(dict(distributions)).params


class _Replayed(BaseSampler):
    """A sampler whose answers can be replaced; what it draws without regard to the past depends on `chance` alone."""

    def __init__(self, sampler: BaseSampler) -> None:
        self.sampler, self.forced, self.chance = sampler, dict[str, Any](), optuna.samplers.RandomSampler(seed=1)

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        return self.sampler.infer_relative_search_space(study, trial)

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        found = self.sampler.sample_relative(study, trial, search_space)
        return {name: self.forced.get(name, value) for name, value in found.items()}

    def sample_independent(self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution) -> Any:
        if param_name in self.forced:
            return self.forced[param_name]
        return self.chance.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        self.sampler.after_trial(study, trial, state, values)


class _View(optuna.storages.InMemoryStorage):
    """A storage that shows given trials without a copy of each."""

    def __init__(self, trials: Sequence[FrozenTrial]) -> None:
        super().__init__()
        self.shown = trials

    def get_all_trials(self, study_id: int, deepcopy: bool = True, states: Any = None) -> list[FrozenTrial]:
        return [trial for trial in self.shown if states is None or trial.state in states]

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Forgets what a sampler notes about the trial that it is asked about: it is asked but once."""


def _trial(number: int, point: Mapping[str, Any], distributions: Mapping[str, BaseDistribution], figure: float) -> FrozenTrial:
    known = math.isfinite(figure)
    return FrozenTrial(
        number=number,
        state=TrialState.COMPLETE if known else TrialState.RUNNING,
        value=figure if known else None,
        datetime_start=None,
        datetime_complete=None,
        params=dict(point),
        distributions=dict(distributions),
        user_attrs={},
        system_attrs={},
        intermediate_values={},
        trial_id=number,
    )


class silence(warnings.catch_warnings):  # noqa: N801
    """Holds back what Optuna says about each study and each experimental feature."""

    def __enter__(self) -> None:
        super().__enter__()
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        self.verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.ERROR)

    def __exit__(self, *exc_info: Any) -> None:
        optuna.logging.set_verbosity(self.verbosity)
        super().__exit__(*exc_info)


# --- KerasTuner's API -------------------------------------------------------------------------------------------------


class OptunaOracle(keras_tuner.Oracle):
    """Optuna's samplers as a KerasTuner oracle.

    Only the hyperparameters that are active get a value, in the order of the space. A trial whose result is NaN or infinite,
    or that failed, teaches the sampler to stay away, and never ends the search. A seed of 0 is a seed.

    Args:
        objective: As for any KerasTuner oracle.
        max_trials: Total number of trials; None for no limit.
        sampler: `"tpe"` (Bergstra et al., Algorithms for Hyper-Parameter Optimization, 2011), `"gp"`, `"cmaes"` (Hansen, Ostermeier,
            2001), `"qmc"` (scrambled Sobol points) or `"random"`.
        seed: Of all proposals.
        enqueued: Configurations to begin with, in this order.
        **arguments: Others of `keras_tuner.Oracle`.

    Raises:
        UnknownNameError: No such sampler.
        MissingExtraError: The sampler needs a package that is not installed.

    Example:
        >>> import keras, tempfile, tuning, zoo
        >>> digits = zoo.load_dataset("digits", "validation")
        >>> hypermodel = tuning.ZooHyperModel(zoo.Recipe("relu_mlp", "digits", epochs=1), digits, ["sgd", "adam"], "optimizers")
        >>> oracle = OptunaOracle("val_accuracy", max_trials=2, sampler="random", seed=0)
        >>> tuner = keras_tuner.Tuner(oracle, hypermodel, directory=tempfile.mkdtemp())
        >>> tuner.search(digits.images, digits.labels, validation_split=0.2, epochs=1, verbose=0)
        >>> len(oracle.get_best_trials(2))
        2
    """

    def __init__(
        self,
        objective: Any = None,
        max_trials: int | None = None,
        *,
        sampler: str = "tpe",
        seed: int = 0,
        enqueued: Sequence[Mapping[str, Any]] = (),
        **arguments: Any,
    ) -> None:
        create_sampler(sampler, 1)
        arguments.setdefault("max_consecutive_failed_trials", 10**9)  # a failed trial is a result, no reason to end
        super().__init__(objective, max_trials, seed=seed + 1, **arguments)
        self.sampler, self.study_seed, self.enqueued = sampler, seed, [dict(values) for values in enqueued]
        self.numbers: dict[str, int] = {}

    def populate_space(self, trial_id: str) -> dict[str, Any]:
        """Returns KerasTuner's `status` and the `values` of a new trial."""
        number = self.numbers.setdefault(trial_id, len(self.numbers))
        values = self.enqueued[number] if number < len(self.enqueued) else self._propose(number)
        return {"status": "STOPPED" if values is None else "RUNNING", "values": values}

    def observations(self) -> list[Observation]:
        """Returns what is known of every trial, in the order of their numbers."""
        return [self._observation(trial) for trial in sorted(self.trials.values(), key=lambda trial: self.numbers.get(trial.trial_id, 0))]

    def _propose(self, number: int) -> Values | None:
        maximize = getattr(self.objective, "direction", "min") == "max"
        return propose(self.hyperparameters.space, self.observations(), self.sampler, self.study_seed, number, maximize=maximize)

    def _observation(self, trial: keras_tuner.engine.trial.Trial) -> Observation:
        name = getattr(self.objective, "name", None)
        history = trial.metrics.get_history(name) if name and trial.metrics.exists(name) else []
        curve = {int(entry.step or 0): float(entry.mean()) for entry in history}
        failed = trial.status in ("FAILED", "INVALID") or any(not math.isfinite(value) for value in curve.values())
        return Observation(trial.hyperparameters.values, curve, failed)

    def get_state(self) -> dict[str, Any]:
        """Returns what `set_state` needs, the numbers of the trials included."""
        return {**super().get_state(), "sampler": self.sampler, "study_seed": self.study_seed, "numbers": self.numbers, "enqueued": self.enqueued}

    def set_state(self, state: dict[str, Any]) -> None:
        """Takes up the state that `get_state` gave."""
        super().set_state(state)
        self.sampler, self.study_seed, self.numbers, self.enqueued = (state[key] for key in ("sampler", "study_seed", "numbers", "enqueued"))


class Proposer:
    """Asks an oracle for one configuration after the other, and tells it what came of each; keeps nothing on disk.

    KerasTuner's oracles know no rungs: they are told a trial's figure where it first pauses, and that is the end of it for
    them. After a restart they are led through all trials again. A grid counts on from its own last point, so it is not told of
    others, but what was tried before it comes to it is passed over.

    Args:
        oracle: A name of `SAMPLERS` or `KERASTUNER`, or a KerasTuner oracle that maximizes `val_accuracy`.
        space: What to search.
        seed: Of the study.
        epochs: Of a whole trial.
        parallel: Whether several trials may be under way at once.

    Raises:
        UnknownNameError: No such sampler.
        MissingExtraError: The sampler needs a package that is not installed.
        UsageError: The oracle has another objective.
    """

    def __init__(self, oracle: str | keras_tuner.Oracle, space: keras_tuner.HyperParameters, seed: int, epochs: int, parallel: bool = False) -> None:
        self.space, self.seed, self.parallel, self.memory = space, seed, parallel, Memory()
        self.sampler = oracle if isinstance(oracle, str) and oracle not in KERASTUNER else ""
        if self.sampler:
            create_sampler(self.sampler, 1)
            return
        self.oracle = _kerastuner(oracle, derive_seed(seed), epochs) if isinstance(oracle, str) else oracle
        if (getattr(self.oracle.objective, "name", None), getattr(self.oracle.objective, "direction", None)) != ("val_accuracy", "max"):
            raise UsageError(f"A search maximizes val_accuracy. The oracle's objective: {self.oracle.objective!r}.")
        self.oracle.update_space(space)
        self.oracle.verbose = 0
        self.oracle.max_consecutive_failed_trials = 10**9
        self.oracle.save = self.oracle._save_trial = lambda *arguments: None  # the study's storage is the record
        self.asked: dict[int, keras_tuner.engine.trial.Trial] = {}  # the oracle's trials that it was told nothing of yet
        self.told: set[int] = set()

    def propose(self, observations: Sequence[Observation], number: int, again: bool = False) -> Values | None:
        """Returns the configuration of trial `number`, or None where the space is exhausted.

        Args:
            observations: One per trial so far, in their order.
            number: Of the new trial.
            again: See `propose`.
        """
        if self.sampler:
            return propose(self.space.space, observations, self.sampler, self.seed, number, parallel=self.parallel, memory=self.memory, again=again)
        others = [entry for entry in observations if entry.given] if isinstance(self.oracle, keras_tuner.oracles.GridSearchOracle) else []
        for index, entry in enumerate(observations):
            if index in self.told or entry in others:
                continue
            trial = self.asked.get(index) or self._ask(index, others)
            if entry.running:
                self.asked[index] = trial
                continue
            self.asked.pop(index, None)
            self.told.add(index)
            self._tell(trial, entry)
        trial = self._ask(number, others)
        if trial.status != "RUNNING":  # nothing more, or not before others have ended
            return None
        self.asked[number] = trial
        return dict(trial.hyperparameters.values)

    def _ask(self, number: int, tried: Sequence[Observation]) -> keras_tuner.engine.trial.Trial:
        while True:
            trial = self.oracle.create_trial(f"trial {number}")  # one of its tuners has one trial at a time
            known = next((entry for entry in tried if entry.values == trial.hyperparameters.values), None)
            if trial.status != "RUNNING" or known is None:
                return trial
            self._tell(trial, known)

    def _tell(self, trial: keras_tuner.engine.trial.Trial, entry: Observation) -> None:
        trial.hyperparameters.values = dict(entry.values)
        steps = [step for step in entry.curve if step <= (entry.pause or step)]
        if steps and not entry.infeasible:
            self.oracle.update_trial(trial.trial_id, {self.oracle.objective.name: entry.curve[max(steps)]}, step=max(steps))
        trial.status = "COMPLETED" if steps and not entry.infeasible else "FAILED"
        self.oracle.end_trial(trial)


def _kerastuner(name: str, seed: int, epochs: int) -> keras_tuner.Oracle:
    objective, oracles = keras_tuner.Objective("val_accuracy", "max"), keras_tuner.oracles
    if name == "kerastuner_random":
        return oracles.RandomSearchOracle(objective, max_trials=None, seed=seed)
    if name == "kerastuner_bayesian":
        return oracles.BayesianOptimizationOracle(objective, max_trials=None, seed=seed)
    if name == "kerastuner_grid":
        return oracles.GridSearchOracle(objective, max_trials=None, seed=seed)
    return oracles.HyperbandOracle(objective, max_epochs=epochs, hyperband_iterations=10**6, seed=seed)
