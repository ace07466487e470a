"""A search that begins with what another one found, on another data set, and the evidence whether that helped.

The best configurations of the other study come in turn with those that the search would have begun with: so both kinds are tried
under the same conditions, and `judge` can compare them. Figures of two data sets are never compared with each other, only their
order.
"""

from __future__ import annotations

import json
import math
import statistics
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuning.oracles import Observation, estimates, propose
from tuning.priors import complete
from tuning.settings import read_claim, read_settings
from tuning.spaces import SPACE_VERSION
from tuning.storage import read_records
from zoo.errors import UsageError

if TYPE_CHECKING:
    import keras_tuner

TAKEN = 6  # configurations
PER_OPTIMIZER = 2  # of these, unless there are no others
SOURCE = "study"
SIGNIFICANT = 0.05


@dataclass(frozen=True)
class OtherStudy:
    """Another search's trials.

    Attributes:
        name: Its study's.
        configs: Of its trials.
        figures: What each reached, 0..1, as if all had been trained equally long.
    """

    name: str
    configs: Sequence[Mapping[str, Any]]
    figures: Sequence[float]


def read_study(directory: str | Path) -> OtherStudy:
    """Reads the trials of a search, whether it has ended or not.

    Raises:
        UsageError: There is none, or it has another version of the search space.
        StudyError: Its record cannot be read.
    """
    settings, found = read_settings(directory), read_claim(Path(directory))
    if found["space_version"] != SPACE_VERSION:
        raise UsageError(
            f"{directory} holds a search of version {found['space_version']} of the search space, in which names may mean something else than in "
            f"version {SPACE_VERSION}. Choose another study to begin with."
        )
    records = [record for record in read_records(found["url"], found["name"]) if record.state not in ("diverged", "failed")]
    figures = estimates([Observation(record.config, record.curve) for record in records])
    known = [(record.config, figure) for record, figure in zip(records, figures, strict=True) if math.isfinite(figure)]
    return OtherStudy(f"{settings.subject} in {Path(directory).name}", [config for config, _ in known], [figure for _, figure in known])


def begin_with(
    study: OtherStudy, space: keras_tuner.HyperParameters, otherwise: Sequence[Mapping[str, Any]], seed: int, taken: int = TAKEN
) -> list[dict[str, Any]]:
    """Returns what a search begins with: the other study's best, in turn with what would have come without it.

    Args:
        study: The other one.
        space: Of the new search.
        otherwise: What would come first, as `config` and `source`; where it is too little, chance adds to it.
        seed: Of the new search.
        taken: How many configurations of the other study.

    Raises:
        UsageError: None of the study's configurations lies in the space.
    """
    own = list(_best(study, space, taken))
    if not own:
        raise UsageError(f"No configuration of {study.name} lies in this search's space. Choose a study of the same model and optimizers.")
    others = [dict(entry) for entry in otherwise if entry["config"] not in [mine["config"] for mine in own]]
    seen = [Observation(entry["config"]) for entry in (*own, *others)]
    while len(others) < len(own) and (config := propose(space.space, seen, "random", seed, len(seen))) is not None:
        others.append({"source": "random", "config": config})
        seen.append(Observation(config))
    return [entry for pair in zip_longest(own, others) for entry in pair if entry is not None]


def _best(study: OtherStudy, space: keras_tuner.HyperParameters, taken: int) -> Iterator[dict[str, Any]]:
    """Yields a study's best configurations that lie in a space, not too many of one optimizer while there are others."""
    names = {entry.name for entry in space.space}
    ranking = sorted(zip(study.configs, study.figures, strict=True), key=lambda pair: -pair[1])
    fitting: dict[str, dict[str, Any]] = {}
    for config, figure in ranking:
        point = complete(space, config) if names & config.keys() else None
        if point is not None:
            fitting.setdefault(json.dumps(point, sort_keys=True), {"source": SOURCE, "config": point, "figure": round(figure, 6)})
    chosen: list[dict[str, Any]] = []
    spare: list[dict[str, Any]] = []
    counts: Counter[Any] = Counter()
    for entry in fitting.values():
        optimizer = entry["config"].get("optimizer")
        (chosen if counts[optimizer] < PER_OPTIMIZER else spare).append(entry)
        counts[optimizer] += 1
    yield from sorted([*chosen, *spare][:taken], key=lambda entry: -entry["figure"])


@dataclass(frozen=True)
class Evidence:
    """Whether a warm start helped.

    Attributes:
        study: The other study.
        own: Figures of the trials that it gave, NaN for those that diverged or failed.
        others: Of those that came in turn with them.
        probability: Of a difference in rank as large as this, or larger, if both were alike (Mann-Whitney U test, two-sided).
        agreement: Spearman's correlation of what the configurations reached there and here, -1..1; NaN where it cannot be told.
    """

    study: str
    own: Sequence[float]
    others: Sequence[float]
    probability: float
    agreement: float

    @property
    def verdict(self) -> str:
        """`it helped`, `it hurt`, or that it cannot be told."""
        if self.probability >= SIGNIFICANT:
            return "whether it helped cannot be told from so few trials"
        return "it helped" if _rank(self.own, self.others) > 0.5 else "it hurt"


def judge(study: str, numbers: Mapping[int, float], figures: Mapping[int, float]) -> Evidence | None:
    """Compares the trials that another study gave with those that came in turn with them.

    Args:
        study: Its name.
        numbers: Of the trials that it gave, each with what it had reached there.
        figures: What each trial reached here, NaN where it diverged or failed; those that have not begun are missing.

    Returns:
        None while there are fewer than two of each kind.
    """
    from scipy.stats import mannwhitneyu, spearmanr

    own = [number for number in numbers if number in figures]
    others = [number for number in range(2 * len(numbers)) if number not in numbers and number in figures]
    if min(len(own), len(others)) < 2:
        return None
    first, second = ([figures[number] for number in group] for group in (own, others))
    probability = float(mannwhitneyu(_comparable(first), _comparable(second), alternative="two-sided").pvalue)
    here = _comparable(first)
    agreement = math.nan
    if len(set(here)) > 1 and len({numbers[number] for number in own}) > 1:
        agreement = float(spearmanr([numbers[number] for number in own], here).statistic)
    return Evidence(study, first, second, probability, agreement)


def _comparable(figures: Sequence[float]) -> list[float]:
    """Figures in which a trial that has none is worse than any."""
    return [figure if math.isfinite(figure) else -1.0 for figure in figures]


def _rank(own: Sequence[float], others: Sequence[float]) -> float:
    """The share of pairs in which the first is better."""
    pairs = [(first > second) + 0.5 * (first == second) for first in _comparable(own) for second in _comparable(others)]
    return statistics.fmean(pairs)
