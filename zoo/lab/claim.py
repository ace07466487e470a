"""What a claim is, and how intervals over seeds become a verdict."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from zoo.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from zoo.lab.laboratory import Laboratory

Row = Mapping[str, Any]
Tables = Mapping[str, Sequence[Row]]


class Verdict(enum.Enum):
    """How a claim stands after it was measured."""

    HOLDS = "holds"
    WITH_CONDITIONS = "holds with conditions"
    WRONG = "wrong"


@dataclass(frozen=True)
class Finding:
    """A verdict, with what was measured in three plain sentences."""

    verdict: Verdict
    sentences: tuple[str, str, str]


@dataclass(frozen=True)
class Claim:
    """One claim of the text and the experiment on it.

    Attributes:
        name: What `zoo lab` calls it.
        says: The claim, paraphrased.
        theory: What theory says of it, with the source where there is one.
        rule: How the verdict follows from the measurements, in words.
        measure: Runs the experiment; returns tables of plain values, each a list of rows with the same columns.
        judge: Applies the rule to the tables, and to nothing else.
        draw: Draws the tables into an empty figure.
    """

    name: str
    says: str
    theory: str
    rule: str
    measure: Callable[[Laboratory], Tables]
    judge: Callable[[Tables], Finding]
    draw: Callable[[Tables, Figure], None]


@dataclass(frozen=True)
class Interval:
    """A mean over seeds with its 95 % interval.

    Attributes:
        mean: Of the values.
        low: Lower end; minus infinity for a single value.
        high: Upper end; infinity for a single value.
        n: How many values.
    """

    mean: float
    low: float
    high: float
    n: int

    @classmethod
    def of(cls, values: Sequence[float]) -> Interval:
        """Returns Student's t interval of independent values, one per seed.

        Raises:
            UsageError: No values.

        Example:
            >>> interval = Interval.of([1.0, 2.0, 3.0])
            >>> interval.mean, round(interval.low, 2), round(interval.high, 2)
            (2.0, -0.48, 4.48)
        """
        from scipy.stats import t

        n = len(values)
        if not n:
            raise UsageError("An interval needs at least one value. Received: none.")
        mean = math.fsum(values) / n
        if n == 1 or not all(math.isfinite(value) for value in values):
            return cls(mean, -math.inf, math.inf, n)
        deviation = math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (n - 1))
        half = float(t.ppf(0.975, n - 1)) * deviation / math.sqrt(n)
        return cls(mean, mean - half, mean + half, n)

    @classmethod
    def of_differences(cls, values: Sequence[float], others: Sequence[float]) -> Interval:
        """Returns the interval of `value - other`, paired by seed."""
        return cls.of([value - other for value, other in zip(values, others, strict=True)])

    def show(self, scale: float = 1.0, digits: int = 2, unit: str = "") -> str:
        """Returns `mean (low to high)` in words, e.g. `97.10 % (96.80 to 97.40)`."""
        ends = f" ({scale * self.low:.{digits}f} to {scale * self.high:.{digits}f})" if self.n > 1 else ""
        return f"{scale * self.mean:.{digits}f}{unit}{ends}"


def column(rows: Sequence[Row], name: str, **where: Any) -> list[Any]:
    """Returns one column of the rows whose other columns have the given values, in their order.

    Example:
        >>> column([{"seed": 0, "loss": 2.0}, {"seed": 1, "loss": 3.0}], "loss", seed=1)
        [3.0]
    """
    return [row[name] for row in rows if all(row[key] == value for key, value in where.items())]


def distinct(rows: Sequence[Row], name: str) -> list[Any]:
    """Returns the values that a column takes, each once, in the order of their first occurrence."""
    return list(dict.fromkeys(row[name] for row in rows))
