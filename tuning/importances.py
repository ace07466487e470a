"""Which hyperparameters mattered."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from tuning.oracles import Observation, estimates, silence
from zoo.errors import UsageError

if TYPE_CHECKING:
    from tuning.result import Trial

MINIMUM = 8  # trials that shares of the variance are computed from
TREES, DEPTH = 32, 32


def importances(trials: Sequence[Trial], ranges: Mapping[str, tuple[float, float, bool]]) -> dict[str, float]:
    """Returns the share of each hyperparameter that all these trials have; see `SearchResult.importances`.

    Args:
        trials: Those that diverged or failed count as the worst of the others, and shorter ones as on their way; see
            `tuning.oracles.estimates`.
        ranges: The ends of each number, and whether it is sampled by its logarithm.
    """
    known = [trial for trial in trials if trial.curve or trial.state in ("diverged", "failed")]
    figures = estimates([Observation(trial.config, trial.curve, trial.state in ("diverged", "failed")) for trial in known])
    distributions = {name: domain for name, domain in _distributions(known, ranges).items() if not domain.single()}
    if len(known) < MINIMUM or len(set(figures)) < 2 or not distributions:
        raise UsageError(
            f"Importances need at least {MINIMUM} trials with different figures, and a hyperparameter that all of them have. Received: "
            f"{len(known)} trials with {len(set(figures))} figures."
        )
    with silence():
        study = optuna.create_study(direction="maximize")
        study.add_trials(
            [
                optuna.trial.create_trial(
                    params={name: _value(trial.config[name], domain) for name, domain in distributions.items()},
                    distributions=distributions,
                    value=figure,
                )
                for trial, figure in zip(known, figures, strict=True)
                if math.isfinite(figure)
            ]
        )
        evaluator = optuna.importance.FanovaImportanceEvaluator(n_trees=TREES, max_depth=DEPTH, seed=0)
        return dict(optuna.importance.get_param_importances(study, evaluator=evaluator))


def _distributions(trials: Sequence[Trial], ranges: Mapping[str, tuple[float, float, bool]]) -> dict[str, BaseDistribution]:
    common = [name for name in (trials[0].config if trials else {}) if all(name in trial.config for trial in trials)]
    found: dict[str, BaseDistribution] = {}
    for name in common:
        values = [trial.config[name] for trial in trials]
        if name in ranges:
            low, high, log = ranges[name]  # trials of an earlier space may lie outside
            found[name] = FloatDistribution(min(low, *values), max(high, *values), log=log)
        else:
            found[name] = CategoricalDistribution(sorted({_choice(value) for value in values}))
    return found


def _value(value: Any, domain: BaseDistribution) -> Any:
    return _choice(value) if isinstance(domain, CategoricalDistribution) else float(value)


def _choice(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)
