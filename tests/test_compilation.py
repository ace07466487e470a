"""What a recipe compiles its model with: schedules."""

from __future__ import annotations

import numpy
import pytest

from zoo.compilation import schedule
from zoo.specs import Recipe


def rates(recipe: Recipe, steps: int = 100) -> list[float]:
    value = schedule(recipe, steps)
    return [value if isinstance(value, float) else float(value(step)) for step in range(steps + 1)]


def test_schedules_rise_and_fall_where_they_should() -> None:
    def recipe(**values: object) -> Recipe:
        return Recipe("cnn", "digits", learning_rate=0.1, **values)  # type: ignore[arg-type]

    assert set(rates(recipe(schedule="constant"))) == {0.1}
    cosine = rates(recipe(schedule="cosine"))
    assert cosine[0] == pytest.approx(0.1)
    assert cosine[50] == pytest.approx(0.05)
    assert cosine[100] == pytest.approx(0, abs=1e-7)
    linear = rates(recipe(schedule="linear", warmup=0.2))
    assert [linear[0], linear[10], linear[20], linear[60], linear[100]] == pytest.approx([0, 0.05, 0.1, 0.05, 0])
    cycle = rates(recipe(schedule="one_cycle"))
    assert cycle[0] == pytest.approx(0.004)
    assert numpy.argmax(cycle) == 30
    assert cycle[100] == pytest.approx(0, abs=1e-7)
    assert rates(recipe(schedule="constant", warmup=0.5))[25] == pytest.approx(0.05)
