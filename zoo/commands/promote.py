"""`zoo promote`: moves a version label in models.config, by hand or by what shadowing has measured."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zoo.console import print_json
from zoo.errors import UsageError

if TYPE_CHECKING:
    from zoo.serving.promotion import Change, Check, ModelsConfig, Thresholds

HELP = "move a version label in models.config, or roll it back, by hand or by what shadowing has measured"
EXAMPLES = """  zoo promote cnn_bn.mnist 2                 the label stable names version 2
  zoo promote cnn_bn.mnist latest --label canary
  zoo promote cnn_bn.mnist 2 --auto          if what `zoo serve --shadow cnn_bn.mnist:2` has measured permits it, else back
  zoo promote cnn_bn.mnist --rollback"""


def configure(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="NAME", help="a model of the repository")
    parser.add_argument("version", metavar="VERSION", nargs="?", help="the number of a version, or latest")
    parser.add_argument("--repository", type=Path, default=Path("saved_models"), help="the repository, or its models.config (default: saved_models)")
    parser.add_argument("--label", default="stable", help="the label that moves (default: stable)")
    parser.add_argument("--rollback", action="store_true", help="move the label back to the version that it came from")
    parser.add_argument(
        "--auto",
        action="store_true",
        help="promote where the shadow's figures keep the thresholds; else leave the label, or roll it back, with exit status 1",
    )
    thresholds = parser.add_argument_group("thresholds of --auto")
    thresholds.add_argument("--max-disagreement", type=_share, default=0.01, metavar="SHARE", help="rows with another label (default: 0.01)")
    thresholds.add_argument("--max-distance", type=_amount, default=0.05, metavar="D", help="mean distance of the probabilities (default: 0.05)")
    thresholds.add_argument(
        "--max-latency-ratio", type=_amount, default=1.5, metavar="R", help="new version's median time over the old one's (default: 1.5)"
    )
    thresholds.add_argument(
        "--max-errors", type=_share, default=0.0, metavar="SHARE", help="requests that only the new version fails at (default: 0)"
    )
    thresholds.add_argument(
        "--min-requests", type=int, default=1000, metavar="N", help="requests to compare before anything is decided (default: 1000)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def _share(text: str) -> float:
    value = _amount(text)
    if value > 1:
        raise argparse.ArgumentTypeError(f"expected a share from 0 to 1, received {text!r}")
    return value


def _amount(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not value >= 0:
        raise argparse.ArgumentTypeError(f"expected a number, 0 or more, received {text!r}")
    return value


def run(arguments: argparse.Namespace) -> int:
    from zoo.serving.promotion import ModelsConfig, Thresholds

    if arguments.rollback == (arguments.version is not None) or (arguments.rollback and arguments.auto):
        raise UsageError("Name the version to promote, or ask for --rollback, which takes no version and no --auto.")
    config = ModelsConfig(arguments.repository)
    if arguments.rollback:
        return _finish(arguments, config, config.roll_back(arguments.model, arguments.label), [], 0)
    version = config.version(arguments.model, arguments.version)
    if not arguments.auto:
        return _finish(arguments, config, config.promote(arguments.model, version, arguments.label), [], 0)
    limits = Thresholds(arguments.max_disagreement, arguments.max_distance, arguments.max_latency_ratio, arguments.max_errors, arguments.min_requests)
    return _decide(arguments, config, version, limits)


def _decide(arguments: argparse.Namespace, config: ModelsConfig, version: int, limits: Thresholds) -> int:
    """Promotes a version, or does not, or takes that back."""
    from zoo.serving.promotion import PREVIOUS, judge

    model, label = arguments.model, arguments.label
    source = config.source(model)
    serving = source.labels.get(label) == version
    other = source.labels.get(label + PREVIOUS) if serving else source.labels.get(label)
    _, checks = judge(source.base_path, version, other, serving, limits)
    if all(check.passed for check in checks):
        return _finish(arguments, config, config.promote(model, version, label), checks, 0)
    change = None
    if serving and checks[0].passed:
        change = config.roll_back(model, label)
    return _finish(arguments, config, change, checks, 1)


def _finish(arguments: argparse.Namespace, config: ModelsConfig, change: Change | None, checks: list[Check], status: int) -> int:
    """Says what was decided and why."""
    from zoo.serving.promotion import report

    if arguments.json:
        print_json(report(change, checks, model=arguments.model, label=arguments.label, models_config=str(config.path)))
        return status
    for check in checks:
        print(f"{check.figure:<20} {_number(check.value):>10}   wanted {check.wanted:<10} {'kept' if check.passed else 'NOT KEPT'}")
    print(_sentence(arguments.model, arguments.label, change, checks))
    if change is not None and change.policy:
        print(f"{config.path} asks for these versions from now on: {', '.join(map(str, change.policy))}. A new one is served when it is promoted.")
    return status


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)


def _sentence(model: str, label: str, change: Change | None, checks: list[Any]) -> str:
    if change is None:
        few = bool(checks) and not checks[0].passed
        return f"{model}: {label} stays where it is: {'too few requests were compared' if few else 'the version differs too much'}."
    if change.before == change.after:
        return f"{model}: {label} names version {change.after} already."
    return f"{model}: {label} names version {change.after}" + ("." if change.before is None else f" and no longer {change.before}.")
