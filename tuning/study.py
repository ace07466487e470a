"""A search: trials of configurations under a budget, watched, recorded, and resumed without a loss.

The loop is a function of the record: it takes up a trial that was under way, else lets the scheduler promote one that
waits, else asks the sampler for a new configuration. So a process that was killed anywhere goes on, when it is started
again, as if it had not been.

This process alone decides and writes; an executor trains. With several workers the order in which trials end is chance, and
so is which configurations are proposed later; what a configuration gives is not.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import signal
import threading
import time
import warnings
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras_tuner

from tuning.dispatch import LOOKAHEAD, Dispatcher, kept
from tuning.executors import Executor, InProcess, Job, Outcome, Threads, trials_at_once
from tuning.history import History
from tuning.hparams import write_trial
from tuning.oracles import Observation, Proposer, distribution
from tuning.priors import first_configurations
from tuning.result import TABLE, SearchResult, Trial, TrialTable
from tuning.schedulers import Scheduler, create_scheduler
from tuning.segments import OUT_OF_TIME, Row, Snapshot
from tuning.settings import SETTINGS, Claim, Settings, claim, default_directory, read_settings
from tuning.snapshots import Snapshots
from tuning.spaces import Range, Study, describe, number_ranges, search_space
from tuning.storage import DirectoryLock, Ledger, Record, State
from tuning.structures import why_plain
from tuning.subjects import Arrays, ArraySubject, HyperModel, ZooSubject, repeats
from tuning.warm_start import begin_with, read_study
from zoo.errors import StudyError, UsageError, unknown
from zoo.specs import Recipe
from zoo.training import write_recipe

BEST_RECIPE, CHECKPOINTS = "best_recipe.json", "checkpoints"
ENGINES = ("compiled", "plain", "ray")
POLL_SECONDS = 0.5  # between two looks at a shared study in which others are at work
WORKERS_PER_LOOK = 50  # with very many workers, so many times fewer looks at what the trials gave: each result tells little
BLIND = ("random", "qmc")  # samplers that look at no result
DEATHS = 3  # of its workers, before a trial counts as failed
OVERTIME = 10.0  # seconds after the budget's end until workers that have not come to a stop are ended


@dataclass(frozen=True)
class Status:
    """How a search stands, for whoever watches.

    Attributes:
        records: All trials.
        seconds: Since the search began.
        budget: Seconds it may take; infinite for no limit.
        total: Trials it may take; None for no limit.
        step_seconds: Of the seconds, those inside training steps; the mean of the workers where there are several.
        current: The trial that is being trained, or that has just come to the end of an epoch; None between trials.
        ended: The trial whose stretch has just ended; None otherwise.
        running: All trials that are being trained.
    """

    records: Sequence[Record]
    seconds: float
    budget: float
    total: int | None
    step_seconds: float
    current: Record | None
    ended: Record | None
    running: Sequence[Record] = ()


Watch = Callable[[Status], None]


def search(
    recipe: Recipe | None = None,
    *,
    hypermodel: HyperModel | None = None,
    data: tuple[Arrays, Arrays] | None = None,
    optimizers: Sequence[str] | None = None,
    study: Study = "joint",
    vary: Sequence[str] = (),
    ranges: Mapping[str, Range] | None = None,
    sampler: str | keras_tuner.Oracle = "tpe",
    scheduler: str = "asha",
    reduction: int = 3,
    first: int = 1,
    priors: bool = True,
    budget: float | None = None,
    trials: int | None = None,
    epochs: int = 9,
    batch_size: int = 128,
    seed: int = 0,
    engine: str = "compiled",
    workers: int | None = None,
    address: str | None = None,
    checkpoints: bool = False,
    directory: str | Path | None = None,
    storage: str | None = None,
    from_study: str | Path | None = None,
    accept_changes: bool = False,
    tensorboard: bool = True,
    data_dir: str | Path | None = None,
    on_trial: Callable[[Trial], None] | None = None,
    watch: Watch | None = None,
) -> SearchResult:
    """Searches for the configuration with the best validation accuracy.

    What is known to be good comes first; then a sampler draws from the whole space, and learns from what it is told. A
    scheduler compares the trials after a few epochs and lets only the best go on; a trial that goes on does so to the bit as if
    it had never paused. Each trial trains with `zoo.train`'s own arithmetic on the training images less the validation split,
    and is judged by its last epoch, so that training the best recipe repeats its figure. The test images are not touched.

    Args:
        recipe: The model, the data set, and everything the search does not vary; its `epochs` are those of a whole trial.
        hypermodel: In place of a recipe: any KerasTuner hypermodel, or function of its hyperparameters, that builds a compiled
            classifier with the metric `accuracy`.
        data: With a hypermodel: `((x, y), (validation_x, validation_y))`, arrays as its `fit` takes them.
        optimizers: The optimizers to choose from; all of the zoo's where None.
        study: What varies: `"optimizers"`, `"architecture"` or `"joint"`; see `tuning.search_space`.
        vary: What else varies: `"schedule"`, `"label_smoothing"`.
        ranges: Other ends for numbers of the space, by the name that they have in it.
        sampler: Proposes configurations: a name of `tuning.oracles.SAMPLERS` or `KERASTUNER`, or a KerasTuner oracle.
        scheduler: Decides which go on: `"asha"`, `"hyperband"`, `"median"` or `"none"`.
        reduction: One in so many trials goes on.
        first: Epochs before the first comparison.
        priors: Begins with configurations that earlier searches found good, and with the defaults of the other optimizers.
        budget: Seconds, from this call on; what is under way then can be gone on with.
        trials: Total number of trials, those of earlier calls on the same directory included.
        epochs: Of a whole trial of a hypermodel.
        batch_size: Images per step of a hypermodel's trials.
        seed: Of a hypermodel's search; with a recipe its own counts.
        engine: `"compiled"`; `"ray"`, which is the same on the machines of a Ray cluster; or `"plain"` Keras as the reference.
        workers: Processes that train, each with an equal share of the processors; with one, this process itself, one trial after
            the other. Where None, trials train side by side in this process, one on each of up to eight processors, if the search
            ends by the clock alone or no trial depends on another (a blind sampler, and no scheduler); otherwise one after the
            other, which makes a search repeatable, and so with hypermodels, plain Keras, or an accelerator. With Ray one process
            for each of the cluster's processors, those that join later included, unless given. The trials' results do not depend
            on it, but which configurations are proposed does: a sampler knows less when several trials are under way.
        address: Of the Ray cluster, such as `ray://head:10001`; one that runs on this machine, or a new one, where None.
        checkpoints: Keeps every paused trial on disk, so that after a kill it goes on from there and not from its start. The
            trials are the same either way.
        directory: Where the search keeps its state; `runs/search-<model>-<dataset>-<fingerprint>` where None. A search that
            stands there already goes on.
        storage: URL of a database that several searches share; SQLite in the directory where None.
        from_study: The directory of another search, on another data set as a rule: its best configurations come first, in turn
            with those that would have come without it, so that the report can tell whether they helped.
        accept_changes: Goes on with another space, sampler or scheduler than the directory's search had.
        tensorboard: Writes each trial for TensorBoard's HParams page.
        data_dir: Where TFDS keeps its data sets.
        on_trial: Called with each trial as it ends or pauses.
        watch: Called with a `Status` after each epoch, and as trials begin and end.

    Returns:
        All trials; also written to `trials.csv` and, epoch by epoch, to `history.csv`, and the best one's recipe to
        `best_recipe.json`.

    Raises:
        UsageError: Neither budget nor trials, or one that is not above 0; the space is empty; or the directory holds a search of
            something else.
        UnknownNameError: No such model, optimizer, study, sampler or scheduler.
        StudyError: The record cannot be opened, read or written. What was finished is kept.

    Example:
        >>> import tempfile, tuning, zoo
        >>> recipe = zoo.Recipe("relu_mlp", "digits", hyperparameters={"units": 32}, schedule="constant", epochs=1)
        >>> result = tuning.search(recipe, optimizers=["sgd", "adam"], study="optimizers", trials=2, directory=tempfile.mkdtemp())
        >>> sorted(trial.optimizer for trial in result.trials)
        ['adam', 'sgd']
    """
    started = time.monotonic()
    for name, limit in (("budget", budget), ("trials", trials)):
        if limit is not None and not limit > 0:
            raise UsageError(f"{name} must be above 0. Received: {limit!r}.")
    if budget is None and trials is None:
        raise UsageError("A search needs a limit: budget, in seconds, or trials.")
    if engine not in ENGINES:
        raise unknown("engine", engine, ENGINES)
    if workers is not None and workers < 1:
        raise UsageError(f"A search needs one worker or more. Received: workers={workers!r}.")
    other = None if from_study is None else read_study(from_study)
    begun_with = other.name if other else _begun_with(directory)
    settings = Settings(
        recipe=None if recipe is None else dataclasses.replace(recipe, validate=True),
        hypermodel="" if hypermodel is None else _name(hypermodel),
        optimizers=() if recipe is None else tuple(search_space(recipe.model, optimizers, study="optimizers")._hps["optimizer"][0].values),
        study=study,
        vary=tuple(vary),
        ranges=dict(ranges or {}),
        sampler=sampler if isinstance(sampler, str) else type(sampler).__name__,
        scheduler=scheduler,
        reduction=reduction,
        first=first,
        priors=priors,
        epochs=epochs if recipe is None else recipe.epochs,
        batch_size=batch_size if recipe is None else recipe.batch_size,
        seed=seed if recipe is None else recipe.seed,
        begun_with=begun_with,
    )
    subject = _subject(settings, hypermodel, data, data_dir)
    rules = create_scheduler(scheduler, settings.epochs, reduction, min(first, settings.epochs))
    # A user's own hypermodel is built by the user's code, which may not be made for threads; plain Keras seeds the whole process.
    shareable = recipe is not None and engine == "compiled" and not why_plain(recipe)
    blind = sampler in BLIND and scheduler == "none"  # no trial depends on what another gave
    threads = trials_at_once() if workers is None and shareable and (trials is None or blind) else 1
    parallel = threads > 1 or engine == "ray" or (workers or 1) > 1
    proposer = Proposer(sampler, subject.space, settings.seed, settings.epochs, parallel)  # before a sampler that is none is written down
    enqueued = _enqueued(settings, subject.space, data_dir) if priors else []
    if other is not None:
        enqueued = begin_with(other, subject.space, enqueued, settings.seed)
    directory = Path(directory) if directory is not None else default_directory(settings)
    lock = DirectoryLock(directory)
    try:
        place = claim(directory, settings, subject.space, enqueued, storage, accept_changes)
        proposer.parallel |= place.shared
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "(currentThread|getName)", DeprecationWarning)
            run = _Search(
                subject, settings, place, rules, proposer, _Limits(started, budget, trials), checkpoints, tensorboard, on_trial, watch, threads
            )
            return run.run(lambda: _executor(subject, engine, workers, threads, address))
    finally:
        lock.release()


def resume(directory: str | Path, *, budget: float | None = None, trials: int | None = None, **arguments: Any) -> SearchResult:
    """Goes on with the search of a directory, as it was.

    Args:
        directory: The search's.
        budget: Seconds, from this call on.
        trials: Total number of trials, those so far included.
        **arguments: Others of `search` that are no part of what is searched, such as `watch`, `engine` and `checkpoints`.

    Raises:
        UsageError: The directory holds no search, or no limit is given.
        StudyError: The record cannot be opened, read or written.

    Example:
        >>> import tempfile, tuning, zoo
        >>> recipe = zoo.Recipe("relu_mlp", "digits", hyperparameters={"units": 32}, schedule="constant", epochs=1)
        >>> first = tuning.search(recipe, optimizers=["sgd"], study="optimizers", trials=1, directory=tempfile.mkdtemp())
        >>> len(tuning.resume(first.directory, trials=2).trials)
        2
    """
    settings = read_settings(directory)
    if settings.recipe is None and "hypermodel" not in arguments:
        raise UsageError(
            f"{directory} holds a search over the hypermodel {settings.hypermodel}. Go on with it by tuning.search, with that hypermodel."
        )
    kept = {
        name: getattr(settings, name)
        for name in ("study", "vary", "ranges", "sampler", "scheduler", "reduction", "first", "priors", "epochs", "batch_size", "seed")
    }
    optimizers = settings.optimizers or None
    return search(settings.recipe, optimizers=optimizers, budget=budget, trials=trials, directory=directory, **{**kept, **arguments})


def _executor(subject: ZooSubject | ArraySubject, engine: str, workers: int | None, threads: int, address: str | None) -> Executor:
    """Creates what trains: this process where one worker is enough."""
    if engine == "ray":
        from tuning.ray_workers import RayWorkers

        handler = signal.getsignal(signal.SIGTERM)
        executor = RayWorkers(subject, "compiled", workers, address)
        if callable(handler) and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, handler)  # Ray's own, which has taken its place, aborts the process after three seconds
        return executor
    if workers is None or workers == 1:
        first: Any = subject.engine(engine)
        return Threads(first.side_by_side(threads)) if threads > 1 else InProcess(first)
    from tuning.workers import Workers

    return Workers(subject, engine, workers)


def _name(hypermodel: HyperModel) -> str:
    return str(getattr(hypermodel, "name", None) or getattr(hypermodel, "__name__", type(hypermodel).__name__))


def _subject(
    settings: Settings, hypermodel: HyperModel | None, data: tuple[Arrays, Arrays] | None, data_dir: str | Path | None
) -> ZooSubject | ArraySubject:
    if (settings.recipe is None) == (hypermodel is None) or (hypermodel is None) != (data is None):
        raise UsageError("A search is over a recipe, or over a hypermodel and its data: give the one or the other.")
    return ZooSubject(settings, data_dir) if hypermodel is None or data is None else ArraySubject(settings, hypermodel, data)


def _begun_with(directory: str | Path | None) -> str:
    """Returns what the search that stands in a directory began with."""
    return read_settings(directory).begun_with if directory is not None and (Path(directory) / SETTINGS).is_file() else ""


def _enqueued(settings: Settings, space: keras_tuner.HyperParameters, data_dir: str | Path | None) -> list[dict[str, Any]]:
    if settings.recipe is None:
        return first_configurations(space)
    return first_configurations(space, settings.recipe.model, settings.recipe.dataset, data_dir)


@dataclass(frozen=True)
class _Limits:
    """When a search ends."""

    started: float
    budget: float | None
    trials: int | None

    @property
    def deadline(self) -> float:
        return math.inf if self.budget is None else self.started + self.budget


class _Search:
    """One process's part of a search."""

    def __init__(
        self,
        subject: ZooSubject | ArraySubject,
        settings: Settings,
        place: Claim,
        scheduler: Scheduler,
        proposer: Proposer,
        limits: _Limits,
        checkpoints: bool,
        tensorboard: bool,
        on_trial: Callable[[Trial], None] | None,
        watch: Watch | None,
        threads: int,
    ) -> None:
        self.subject, self.settings, self.place, self.limits = subject, settings, place, limits
        self.scheduler, self.proposer, self.tensorboard = scheduler, proposer, tensorboard
        self.on_trial, self.watch = on_trial, watch
        self.distributions = {entry.name: distribution(entry) for entry in subject.space.space}
        self.ledger = Ledger(place.storage, place.name, settings.to_dict(), self.distributions, place.worker, shared=place.shared)
        self.history = History(place.directory, [record for record in self.ledger.records if record.mine])
        self.snapshots = Snapshots(place.directory / CHECKPOINTS if checkpoints else None)
        self.step_seconds = 0.0
        self.workers = 1
        self.absent = 0.0  # seconds before workers joined, together
        self.ready: list[Record] = []  # to be trained next
        self.running: dict[int, Record] = {}
        self.told: list[Observation] = []
        self.age = 0
        self.observed: dict[int, Observation] = {}
        self.dispatcher = Dispatcher(kept(threads))
        self.deaths: Counter[int] = Counter()
        self.left: list[Record] | None = None
        self.none_to_promote = False  # since when nothing has come of any trial
        self.ended = ""
        self.error: BaseException | None = None

    # -- the loop ------------------------------------------------------------------------------------------------------

    def run(self, start: Callable[[], Executor]) -> SearchResult:
        """Searches until a limit is met, on the executor that `start` gives."""
        try:
            self.ledger.suspend(waiting=False)
            self._end_whole()
            self.executor = start()
            self.workers = self.executor.size
            with contextlib.closing(self.executor):
                self._loop()
            if self.ended != OUT_OF_TIME:
                self._close_paused()
        finally:
            result = self._finish()
        return result

    def _loop(self) -> None:
        while self._feed() or self.running or self._wait_for_others():
            if not self.ready and not self.running:
                continue
            outcome = self.executor.next_finished(self._on_row, self._patience())
            self.absent += (self.executor.size - self.workers) * self._seconds()
            self.workers = self.executor.size
            if outcome is not None:
                self._settle(outcome)
            elif self.running and time.monotonic() > self.limits.deadline + OVERTIME:
                self.ended = OUT_OF_TIME  # what they were at begins again from its last pause
                return

    def _feed(self) -> bool:
        """Gives every free worker a trial, as far as there are any, and those that still start one to come; returns whether one is ready."""
        late = time.monotonic() >= self.limits.deadline
        for record in self.ready:
            record.busy = not late
        self.ready = [record for record in self.ready if record.mine and not late]
        for worker in self.executor.free():
            if not self.ready and not self._add():
                break
            self._give(worker, self._choose(worker))
        while len(self.ready) < self.executor.wanted() and self._add():
            pass
        return bool(self.ready)

    def _add(self) -> bool:
        """Has one more trial ready, if there is any."""
        record = self._next()
        if record is None:
            return False
        self._put(len(self.ready), record)
        return True

    def _put(self, place: int, record: Record) -> None:
        record.busy, record.passed, record.signature = True, 0, self.subject.signature(_own(record.config))
        self.ready.insert(place, record)
        self.dispatcher.add(record)

    def _wait_for_others(self) -> bool:
        """Waits a moment while trials of another search of a shared study are under way; returns whether that was so.

        What it leaves behind when it dies is this one's to finish.
        """
        if time.monotonic() >= self.limits.deadline or not self.ledger.waits():
            return False
        time.sleep(POLL_SECONDS)
        return True

    def _give(self, worker: int, record: Record) -> None:
        """Has a worker train a trial to its next pause."""
        self.running[record.number] = record
        self._show(record, None)
        left = self.limits.deadline - time.monotonic()
        asks = type(self.scheduler).stops is not Scheduler.stops
        job = Job(record.number, self.subject.job(_own(record.config)), record.until, self._snapshot(record), left, asks)
        self.executor.submit(worker, job)

    def _choose(self, worker: int) -> Record:
        """Takes the trial out of the ready ones that suits a worker best, thinking of a few more where none does."""
        index, fits = self.dispatcher.choose(worker, self.ready)
        while not fits and len(self.ready) <= LOOKAHEAD and self._add():
            index, fits = self.dispatcher.choose(worker, self.ready)
        record = self.ready.pop(index)
        for earlier in self.ready[:index]:
            earlier.passed += 1
        self.dispatcher.give(worker, record)
        return record

    def _patience(self) -> float | None:
        """Returns how long to wait for the next outcome; None for ever."""
        return None if math.isinf(self.limits.deadline) else max(0.1, self.limits.deadline + OVERTIME - time.monotonic())

    def _next(self) -> Record | None:
        """Returns the trial to train now, with the epoch it trains to; None where the search ends."""
        if time.monotonic() >= self.limits.deadline:
            self.ended = OUT_OF_TIME
            return None
        if self.place.shared:
            self.ledger.refresh()
            self.ledger.take_over()
            self._end_whole()
        if under_way := next((record for record in self._left() if record.active and not record.busy), None):
            return under_way
        return self._promoted(closing=False) or self._begun() or self._promoted(closing=True)

    def _left(self) -> list[Record]:
        """Returns the trials that may wait to be gone on with: those of an earlier process, or of another one."""
        if self.left is None or self.place.shared:
            self.left = [record for record in self.ledger.records if record.active]
        self.left = [record for record in self.left if record.active and not record.busy]
        return self.left

    def _begun(self) -> Record | None:
        """Returns a new trial; None where there are to be no more."""
        with self.ledger.exclusive():
            records = self.ledger.records
            if self.limits.trials is not None and len(records) >= self.limits.trials:
                self.ended = f"{len(records)} trials are done"
                return None
            source, config = self._propose(records)
            if config is None:
                self.ended = "every configuration of the space was tried"
                return None
            return self.ledger.begin(config, config.get("tuner/epochs") or self.scheduler.pause(len(records)), source)

    def _promoted(self, closing: bool) -> Record | None:
        if self.none_to_promote and not closing and not self.place.shared:
            return None
        found = self.scheduler.promotion(self.ledger.records, closing)
        self.none_to_promote = found is None
        if found is None:
            return None
        record = self.ledger.records[found[0]]
        record.until = found[1]
        self.ledger.update(record)
        return record

    def _propose(self, records: Sequence[Record]) -> tuple[str, dict[str, Any] | None]:
        """Returns where the next configuration is from, and the configuration; None where the space is exhausted."""
        number = len(records)
        if number < len(self.place.enqueued):
            entry = self.place.enqueued[number]
            return entry["source"], dict(entry["config"])
        again = bool(self.age % max(1, self.workers // WORKERS_PER_LOOK)) and not self.place.shared
        if again:
            self.told.extend(self._observed(record) for record in records[len(self.told) :])
        else:
            self.told = [self._observed(record) for record in records]
        self.age += 1
        return self.settings.sampler, self.proposer.propose(self.told, number, again)

    def _observed(self, record: Record) -> Observation:
        """Returns what a sampler is told of a trial; the same object as long as nothing but its curve has changed."""
        infeasible = record.state in ("diverged", "failed")
        running = record.state == "running" and record.epochs < record.pause
        known = self.observed.get(record.number)
        if known is None or known.curve is not record.curve or (known.infeasible, known.running) != (infeasible, running):
            given = record.number < len(self.place.enqueued)
            known = self.observed[record.number] = Observation(record.config, record.curve, infeasible, record.pause, given, running)
        return known

    def _settle(self, outcome: Outcome) -> None:
        """Writes down what came of a stretch of a trial."""
        record = self.running.pop(outcome.number)
        record.busy = self.none_to_promote = False
        self._raise()
        if not record.mine:  # taken over by another search
            return
        record.seconds += outcome.seconds
        if outcome.death:
            self.dispatcher.forget(outcome.worker)
            self._mourn(record, outcome)
            return
        if outcome.segment is None:
            self._end(record, "failed", outcome.failure)
            return
        segment = outcome.segment
        self.dispatcher.settle(outcome.worker, record, segment)
        self.step_seconds += segment.step_seconds
        for name in ("build_seconds", "step_seconds", "validation_seconds"):
            setattr(record, name, getattr(record, name) + getattr(segment, name))
        record.plain = segment.plain
        if segment.state == "diverged":
            self._end(record, "diverged", segment.message)
        elif segment.state == "stopped" and segment.message != OUT_OF_TIME:
            self._end(record, "pruned", f"others did better by epoch {record.epochs}")
        elif segment.state == "completed" and record.until >= self._length(record):
            self._keep(record, segment.snapshot)
            self._end(record, "completed")
        else:
            if segment.state == "completed":
                self._keep(record, segment.snapshot)
            self.ledger.update(record)
            self._show(None, record)

    def _mourn(self, record: Record, outcome: Outcome) -> None:
        """Has a trial whose worker died go on from its last pause, unless it seems to be the trial's own fault."""
        self.deaths[record.number] += outcome.begun
        if self.deaths[record.number] >= DEATHS:
            self._end(record, "failed", f"its worker died {DEATHS} times; the last one {outcome.death}")
            return
        self._put(0, record)

    def _snapshot(self, record: Record) -> Snapshot | None:
        """Returns where a trial goes on: its own last pause, or that of the trial it continues."""
        parent = record.config.get("tuner/trial_id")
        own = self.snapshots.take if self.executor.local else self.snapshots.peek  # another worker may need it again
        return own(record.number) or (self.snapshots.peek(int(parent)) if parent else None)

    def _keep(self, record: Record, snapshot: Snapshot | None) -> None:
        last = record.until >= self.settings.epochs
        if snapshot is not None and not last:
            others = [*self.ready, *self.running.values()]
            parents = {int(parent) for other in others if (parent := other.config.get("tuner/trial_id"))}
            self.snapshots.put(record, snapshot, {other.number for other in others} | parents)

    def _on_row(self, number: int, row: Row) -> bool:
        """Takes an epoch of a trial from the executor; returns whether the trial ends there."""
        ends = self._epoch(self.running[number], row)
        if not self.executor.local:  # in this process it would look like the trial's own error
            self._raise()
        return ends

    def _epoch(self, record: Record, row: Row) -> bool:
        """Writes down an epoch; returns whether the trial ends there."""
        epoch, accuracy = int(row["epoch"]), float(row.get("val_accuracy", math.nan))
        if epoch in record.curve or epoch <= record.config.get("tuner/initial_epoch", 0):  # trained again, up to where it was paused
            return False
        try:
            if "val_accuracy" not in row:
                raise UsageError(f"A trial is judged by its val_accuracy: compile the model with metrics=['accuracy']. It has: {', '.join(row)}.")
            self.history.append(self._elapsed(), record.number, row)
            self.ledger.report(record, epoch, accuracy)
            self.none_to_promote = False
            self._show(record, None)
        except BaseException as error:  # not the trial's fault: it must not count as a failed one
            self.error = error
            return True
        return self.scheduler.stops(record, self.ledger.records)

    def _raise(self) -> None:
        if self.error is not None:
            raise _writing(self.error, self.place.directory)
        self.ledger.check()

    def _end(self, record: Record, state: State, message: str = "") -> None:
        self._write_end(record, state, message)
        self._show(None, record)

    def _write_end(self, record: Record, state: State, message: str) -> None:
        self.ledger.finish(record, state, message, (lambda: write_trial(self.place.directory, record)) if self.tensorboard else None)
        if not record.config.get("tuner/epochs"):
            self.snapshots.drop(record.number)

    def _end_whole(self) -> None:
        """Ends the trials that had come to their last epoch when the process that trained them was killed."""
        for record in self.ledger.records:
            if record.mine and record.state == "running" and not record.busy and record.epochs >= self._length(record):
                stops = self.scheduler.stops(record, self.ledger.records)
                self._write_end(record, "pruned" if stops else "completed", f"others did better by epoch {record.epochs}" if stops else "")

    def _length(self, record: Record) -> int:
        """Returns the last epoch of a trial."""
        return int(record.config.get("tuner/epochs") or self.settings.epochs)

    def _close_paused(self) -> None:
        """Ends what waits for a promotion that will not come."""
        for record in self.ledger.records:
            if record.paused:
                self._write_end(record, "pruned", f"others did better by epoch {record.epochs}")

    # -- what is told --------------------------------------------------------------------------------------------------

    def _seconds(self) -> float:
        return time.monotonic() - self.limits.started

    def _mean_workers(self) -> float:
        return self.workers - self.absent / self._seconds()

    def _elapsed(self) -> float:
        return self.history.elapsed + self._seconds()

    def _show(self, current: Record | None, ended: Record | None) -> None:
        if self.on_trial is not None and ended is not None:
            self.on_trial(self._trial(ended))
        if self.watch is not None:
            budget = math.inf if self.limits.budget is None else self.limits.budget
            running = tuple(self.running.values())
            spent = self.step_seconds / self._mean_workers()
            self.watch(Status(self.ledger.records, self._seconds(), budget, self.limits.trials, spent, current, ended, running))

    def _trial(self, record: Record) -> Trial:
        state = "paused" if record.paused else "stopped" if record.state == "running" else record.state
        measured = record.curve.get(record.epochs) if record.state not in ("diverged", "failed") else None
        return Trial(
            record.number,
            state,
            record.config,
            self.subject.recipe(_own(record.config), record.epochs),
            measured,
            record.epochs,
            round(record.seconds, 3),
            record.message,
            dict(record.curve),
            record.source,
            round(record.step_seconds, 3),
            record.plain,
        )

    def _finish(self) -> SearchResult:
        """Closes the record, whatever happened, and writes the answers."""
        try:
            self.ledger.suspend(waiting=True)
        finally:
            try:
                self.ledger.close()
            finally:
                self.history.close()
        result = self._result()
        try:
            result.trials.to_csv(self.place.directory / TABLE)
            if result.ranking and result.best.recipe is not None:
                write_recipe(result.best.recipe, self.place.directory / BEST_RECIPE)
        except OSError as error:
            raise _writing(error, self.place.directory) from None
        return result

    def _result(self) -> SearchResult:
        seconds = self._seconds()
        base = self.settings.recipe
        return SearchResult(
            TrialTable(self._trial(record) for record in self.ledger.records),
            self.place.directory,
            seconds,
            overhead=max(0.0, 1 - self.step_seconds / self._mean_workers() / seconds),
            space=describe(self.subject.space),
            ranges=number_ranges(self.subject.space),
            epochs=self.settings.epochs,
            whole_only=base is not None and (not repeats(base) or "schedule" in self.settings.vary),
            elapsed=self._elapsed(),
            ended=self.ended,
            validation=self.subject.validation,
            compilation=self.dispatcher.summary(self.workers),
        )


def _own(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration without what KerasTuner's Hyperband adds to it."""
    return {name: value for name, value in config.items() if not name.startswith("tuner/")}


def _writing(error: BaseException, directory: Path) -> BaseException:
    """An error of writing the record as one line."""
    if not isinstance(error, OSError):
        return error
    return StudyError(f"{directory} cannot be written: {error.strerror or error}. What was finished is kept; make room, then go on.")
