"""Several searches on one study: nothing is lost when one of them dies, and nothing is done twice."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import optuna
import pytest
from databases import postgresql
from processes import forking
from scripted_search import RECIPE, ScriptedEngine, scripted, sharing

import tuning
import tuning.leases
from tuning.leases import PREFIX, RELEASED, Lease, exclusive
from tuning.storage import KEY, Ledger, open_storage
from tuning.study import search
from tuning.subjects import ZooSubject


@contextlib.contextmanager
def database(kind: str, directory: Path) -> Iterator[str]:
    with postgresql() if kind == "postgresql" else contextlib.nullcontext(f"sqlite:///{directory / 'shared.db'}") as url:
        yield url


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_of_three_searches_one_is_killed_and_no_trial_is_lost_or_double(kind: str, tmp_path: Path) -> None:
    context = forking()
    with database(kind, tmp_path) as url:
        hangs = context.Event()
        dies, *others = (
            context.Process(target=sharing, args=(tmp_path / name, url, 24, hangs if name == "dies" else None)) for name in ("dies", "one", "two")
        )
        dies.start()
        assert hangs.wait(120)
        for other in others:
            other.start()
        dies.kill()
        for process in (dies, *others):
            process.join()
        assert [process.exitcode for process in (dies, *others)] == [-9, 0, 0]
        trials = trials_at(url)
        again = context.Process(target=sharing, args=(tmp_path / "dies", url, 24))
        again.start()
        again.join()
        assert again.exitcode == 0
        assert trials_at(url) == trials  # what it had begun is done, and nothing is done again
    assert [trial.number for trial in trials] == list(range(24))
    assert {trial.state for trial in trials} == {optuna.trial.TrialState.COMPLETE}
    assert len({json.dumps(trial.params, sort_keys=True) for trial in trials}) == 24
    assert all(sorted(trial.intermediate_values) == list(range(1, 10)) for trial in trials)
    owners = [json.loads(trial.user_attrs[KEY])["worker"] for trial in trials]
    lost = json.loads((tmp_path / "dies" / "search.json").read_text())["worker"]
    assert owners[:3] == [lost] * 3
    assert lost not in owners[3:]


def trials_at(url: str) -> list[optuna.trial.FrozenTrial]:
    """The trials of the only study in a database."""
    storage = open_storage(url)
    (study,) = storage.get_all_studies()
    trials = storage.get_all_trials(study._study_id)
    storage.remove_session()
    storage.engine.dispose()
    return trials


def test_what_an_ended_search_left_is_taken_over_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    told: list[tuning.Trial] = []

    def interrupt(trial: tuning.Trial) -> None:
        told.append(trial)
        if len(told) == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        scripted(tmp_path / "one", monkeypatch.setattr, trials=12, storage=url, on_trial=interrupt)
    part = trials_at(url)
    assert optuna.trial.TrialState.WAITING in {trial.state for trial in part}
    whole = scripted(tmp_path / "two", monkeypatch.setattr, trials=12, storage=url)
    assert {trial.state for trial in whole.trials} <= {"completed", "pruned", "diverged", "failed"}
    assert [trial.params for trial in part] == [trial.config for trial in whole.trials[: len(part)]]
    again = scripted(tmp_path / "one", monkeypatch.setattr, trials=12, storage=url)
    assert [(trial.number, trial.state, trial.curve) for trial in again.trials] == [
        (trial.number, trial.state, trial.curve) for trial in whole.trials
    ]


def test_a_search_lets_go_of_a_trial_that_another_has_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    monkeypatch.setattr(tuning.leases, "GRACE_SECONDS", 1.0)
    monkeypatch.setattr(ZooSubject, "engine", lambda subject, kind: ScriptedEngine())
    taken: list[int] = []

    def take(status: Any) -> None:
        if status.current is not None and status.current.number == 2 and status.current.epochs == 1 and not taken:
            taken.append(2)
            storage = open_storage(url)
            trial = storage.get_all_trials(storage.get_all_studies()[0]._study_id)[2]
            progress = {**json.loads(trial.user_attrs[KEY]), "worker": "another"}
            storage.set_trial_user_attr(trial._trial_id, KEY, json.dumps(progress))
            storage.engine.dispose()

    result = search(RECIPE, optimizers=["sgd"], study="optimizers", scheduler="none", trials=5, directory=tmp_path / "one", storage=url, watch=take)
    assert taken
    found = [(trial.number, trial.state, sorted(trial.curve)) for trial in result.trials]
    assert found == [(number, "completed", list(range(1, 10))) for number in range(5)]  # the other one gave no sign of life
    ended = trials_at(url)
    assert [(trial.state.name, sorted(trial.intermediate_values)) for trial in ended] == [("COMPLETE", list(range(1, 10)))] * 5


# --- the parts --------------------------------------------------------------------------------------------------------


class Watches:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Watches:
    watches = Watches()
    monkeypatch.setattr(tuning.leases, "time", watches)
    monkeypatch.setattr(tuning.leases, "BEAT_SECONDS", 3600.0)
    return watches


def lease(storage: optuna.storages.BaseStorage, worker: str) -> Lease:
    return Lease(storage, 0, worker)


def test_a_search_is_dead_when_its_number_stands_still(clock: Watches) -> None:
    storage = optuna.storages.InMemoryStorage()
    storage.create_new_study([optuna.study.StudyDirection.MAXIMIZE], "study")
    own, other = lease(storage, "own"), lease(storage, "other")
    own.look()
    assert not own.lives("other")  # it may have died long ago
    assert not own.dead("other")
    clock.now += 20
    other._beat()
    own.look()
    assert own.lives("other")
    clock.now += 29
    own.look()
    assert not own.dead("other")
    clock.now += 2
    assert own.dead("other")
    assert not own.lives("other")
    assert not own.dead("own")
    other._beat()
    own.look()
    assert own.lives("other")
    other.release()
    own.look()
    assert own.dead("other")
    assert storage.get_study_user_attrs(0)[PREFIX + "other"] == RELEASED
    assert not own.dead("never seen")
    clock.now += 31
    assert own.dead("never seen")
    own.stop()


@pytest.mark.parametrize("late", [False, True], ids=["before it is taken over", "while it is taken over"])
def test_a_trial_that_its_slow_search_has_just_finished_is_left_alone(
    late: bool, clock: Watches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{tmp_path / 'shared.db'}"
    slow, other = (Ledger(url, "study", {}, {}, worker, shared=True) for worker in ("slow", "other"))
    trial = slow.begin({}, 1, "random")
    slow.report(trial, 1, 0.5)
    write = other.storage.set_trial_user_attr

    def meanwhile(*arguments: Any) -> None:
        if late:  # between the two things that it writes of a trial's end
            write(*arguments)
            slow._set_state(trial, optuna.trial.TrialState.COMPLETE, [0.5])
        else:
            slow.finish(trial, "completed")
        slow.close()
        if not late:
            write(*arguments)

    monkeypatch.setattr(other.storage, "set_trial_user_attr", meanwhile)
    other.refresh()
    other.take_over()  # sees the other one for the first time
    clock.now += 31
    other.take_over()
    other.refresh()
    assert [(record.state, record.curve) for record in other.records] == [("completed", {1: 0.5})]
    assert not other.waits()
    other.close()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_one_at_a_time(kind: str, tmp_path: Path) -> None:
    with database(kind, tmp_path) as url:
        storages = [open_storage(url) for _ in range(2)]
        entered, leave = threading.Event(), threading.Event()
        order: list[str] = []

        def first() -> None:
            with exclusive(storages[0].engine, "study"):
                entered.set()
                leave.wait()
                order.append("first")

        def second() -> None:
            with exclusive(storages[1].engine, "study"):
                order.append("second")

        threads: list[threading.Thread] = []
        start: Callable[[Callable[[], None]], None] = lambda target: threads.append(threading.Thread(target=target))  # noqa: E731
        start(first)
        start(second)
        threads[0].start()
        assert entered.wait(60)
        threads[1].start()
        with exclusive(storages[0].engine, "another study") if kind == "postgresql" else contextlib.nullcontext():
            leave.set()  # another study's lock is another one
        for thread in threads:
            thread.join()
        assert order == ["first", "second"]
        for storage in storages:
            storage.engine.dispose()
