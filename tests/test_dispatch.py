"""Which trial goes to which worker, and what that saves."""

from __future__ import annotations

import dataclasses
import itertools
import random
from dataclasses import dataclass

import pytest

from tuning.dispatch import KEPT, PATIENCE, Dispatcher, Programs
from tuning.scalars import optimizer_structure
from tuning.segments import OUT_OF_TIME, Segment
from tuning.structures import graph_signature, recipe_structure
from zoo.compilation import make_optimizer
from zoo.specs import Recipe


@dataclass
class Entry:
    signature: str
    passed: int = 0


def built(seconds: float) -> Segment:
    """What a stretch gave that compiled for so long."""
    return Segment("completed", build_seconds=seconds + 0.1, compile_seconds=seconds)


def train(dispatcher: Dispatcher, worker: int, entry: Entry, seconds: float = 2.0) -> None:
    """Gives a worker a trial, which it compiles unless it has the program."""
    known = entry.signature in dispatcher.workers.get(worker, ())
    dispatcher.add(entry)
    dispatcher.give(worker, entry)
    dispatcher.settle(worker, entry, built(0.0 if known else seconds))


def test_a_worker_gets_what_it_has_compiled_or_what_nobody_has() -> None:
    dispatcher = Dispatcher()
    ready = [Entry("a"), Entry("b")]
    assert dispatcher.choose(0, ready) == (0, True)  # cannot be helped
    train(dispatcher, 0, ready[0])
    assert dispatcher.choose(1, [Entry("a"), Entry("b")]) == (1, True)
    assert dispatcher.choose(0, [Entry("a"), Entry("b")]) == (0, True)
    assert dispatcher.choose(1, [Entry("a"), Entry("a")]) == (0, False)  # more should be thought of


def test_where_nothing_fits_what_compiles_quickest_comes_first() -> None:
    dispatcher = Dispatcher()
    train(dispatcher, 0, Entry("slow"), 9.0)
    train(dispatcher, 0, Entry("quick"), 1.0)
    assert dispatcher.cost("slow") == 9.0
    assert dispatcher.cost("new") == 5.0
    assert dispatcher.choose(1, [Entry("slow"), Entry("quick")]) == (1, False)


def test_nothing_is_passed_over_for_ever() -> None:
    dispatcher = Dispatcher()
    train(dispatcher, 0, Entry("a"))
    train(dispatcher, 1, Entry("b"))
    assert dispatcher.choose(0, [Entry("b", PATIENCE - 1), Entry("a")]) == (1, True)
    assert dispatcher.choose(0, [Entry("b", PATIENCE), Entry("a")]) == (0, True)


def test_a_dead_workers_programs_are_gone_and_old_ones_are_dropped() -> None:
    dispatcher = Dispatcher()
    train(dispatcher, 0, Entry("a"))
    dispatcher.forget(0)
    assert dispatcher.choose(1, [Entry("a"), Entry("b")]) == (0, True)
    programs = Programs(KEPT)
    assert not any(programs.use(str(number)) for number in range(KEPT + 1))
    assert not programs.use("0")
    assert programs.use(str(KEPT))


def test_grouping_compiles_less_than_order_and_the_summary_says_so() -> None:
    generator, dispatcher = random.Random(3), Dispatcher()
    ready: list[Entry] = []
    for worker in itertools.islice(itertools.cycle(range(4)), 200):
        while len(ready) < 5:
            ready.append(Entry(generator.choice("abcdefgh")))
            dispatcher.add(ready[-1])
        index, _ = dispatcher.choose(worker, ready)
        entry = ready.pop(index)
        for earlier in ready[:index]:
            earlier.passed += 1
        known = entry.signature in dispatcher.workers.get(worker, ())
        dispatcher.give(worker, entry)
        dispatcher.settle(worker, entry, built(0.0 if known else 3.0))
    found = dispatcher.summary(4)
    assert found.programs == 8
    assert found.times < found.in_order <= 4 * 8
    assert (found.times + found.reused, found.seconds) == (200, 3.0 * found.times)
    assert found.saved == pytest.approx(3.0 * found.reused)
    assert found.grouped == pytest.approx(3.0 * (found.in_order - found.times))
    assert dispatcher.summary(1).grouped == 0


def test_plain_trials_compile_nothing_that_could_be_shared() -> None:
    dispatcher = Dispatcher()
    dispatcher.settle(0, Entry("a"), Segment("completed", build_seconds=1.0, plain="a teacher"))
    assert dispatcher.summary(1).reused == 0


def test_what_ran_out_of_time_before_it_was_built_neither_used_nor_saved_anything() -> None:
    dispatcher = Dispatcher()
    train(dispatcher, 0, Entry("a"))
    known = dispatcher.summary(2)
    for signature in ("a", "b"):
        dispatcher.add(Entry(signature))
        dispatcher.give(1, Entry(signature))
        dispatcher.settle(1, Entry(signature), Segment("stopped", message=OUT_OF_TIME))
    assert dispatcher.summary(2) == known


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"learning_rate": 0.5}, True),
        ({"optimizer_arguments": {"beta_1": 0.5, "epsilon": 1e-3}}, True),
        ({"optimizer_arguments": {"amsgrad": True}}, False),
        ({"optimizer_arguments": {"weight_decay": 0.1}}, False),
        ({"ema": 0.9}, False),
        ({"optimizer_arguments": {"beta_1": 0.5}}, True),
        ({"seed": 3}, True),
        ({"batch_size": 64}, False),
        ({"optimizer": "nadam"}, False),
        ({"hyperparameters": {"units": 32}}, False),
        ({"hyperparameters": {"units": 16, "dropout": 0.2}}, False),
        ({"label_smoothing": 0.1}, False),
    ],
)
def test_signatures_are_those_of_programs(changes: dict[str, object], same: bool) -> None:
    recipe = Recipe("relu_mlp", "digits", hyperparameters={"units": 16}, optimizer="adam", optimizer_arguments={"beta_1": 0.9})
    other = dataclasses.replace(recipe, **changes)  # type: ignore[arg-type]
    assert (graph_signature(other) == graph_signature(recipe)) is same
    keys = [(recipe_structure(entry)[0], optimizer_structure(make_optimizer(entry, 10))[0], entry.batch_size) for entry in (recipe, other)]
    assert (keys[0] == keys[1]) is same  # what the engine keeps programs under
