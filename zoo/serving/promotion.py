"""Promotion: a label of `models.config` moves to another version, by hand or by what shadowing has measured, and back.

TF Serving and `zoo serve` read the file again while they run, so clients that ask for the label get the other version from then on.
The version that the label came from keeps the label `LABEL-previous`, which says where a rollback goes, and keeps it loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zoo.errors import ServingError, UsageError, closest
from zoo.export import MODELS_CONFIG, edited_models_config, model_names, versions, write_models_config
from zoo.serving.messages import message
from zoo.serving.repository import ModelSource, read_models_config
from zoo.serving.shadow import Drift, read_drifts

STABLE = "stable"
PREVIOUS = "-previous"


@dataclass(frozen=True)
class Thresholds:
    """How much a version may differ from the one before it.

    Attributes:
        disagreement: The greatest share of rows with another label.
        distance: The greatest mean distance; see `zoo.serving.shadow.Drift`.
        latency_ratio: The greatest ratio of the median times, the new version's over the old one's.
        errors: The greatest share of requests that only the new version fails at.
        requests: How many requests have to be compared.
    """

    disagreement: float = 0.01
    distance: float = 0.05
    latency_ratio: float = 1.5
    errors: float = 0.0
    requests: int = 1000


@dataclass(frozen=True)
class Check:
    """A figure beside its threshold.

    Attributes:
        figure: What it is.
        value: What was measured; None where the model gives nothing to measure it by.
        wanted: The threshold, as text.
        passed: Whether the figure keeps it.
    """

    figure: str
    value: float | None
    wanted: str
    passed: bool


@dataclass(frozen=True)
class Change:
    """What became of a label.

    Attributes:
        model: The model's name.
        label: The label.
        before: The version that it named; None where there was no such label.
        after: The version that it names now.
        policy: Which versions the file asks servers to load from now on, where that had to change, else empty.
    """

    model: str
    label: str
    before: int | None
    after: int
    policy: tuple[int, ...] = ()


class ModelsConfig:
    """A `models.config` whose labels can be moved.

    Args:
        path: The file, or the repository that holds it; where the repository has none, it is written.

    Raises:
        ServingError: There is no such file or repository, or the file cannot be parsed.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.is_dir():
            if not (self.path / MODELS_CONFIG).is_file() and model_names(self.path):
                write_models_config(self.path)
            self.path /= MODELS_CONFIG
        if not self.path.is_file():
            folder = path if self.path.name == MODELS_CONFIG else self.path
            raise ServingError(f"There is no model repository {folder}, and no file of that name. `zoo export NAME --to {folder}` makes one.")

    def source(self, model: str) -> ModelSource:
        """Returns what the file says of a model.

        Raises:
            ServingError: It does not name the model; the message gives the closest name.
        """
        sources = {source.name: source for source in read_models_config(self.path)}
        if model not in sources:
            hint = "".join(f" Did you mean {match!r}?" for match in closest(model, sources, 1))
            raise ServingError(f"{self.path} names no model {model!r}.{hint} Models: {', '.join(sources) or 'none'}.")
        return sources[model]

    def version(self, model: str, text: str) -> int:
        """Returns a version of a model by its number, or by the word `latest`.

        Raises:
            ServingError: The model's folder holds no such version.
            UsageError: The text is neither.
        """
        base = self.source(model).base_path
        found = versions(base)
        if text != "latest" and not text.isdecimal():
            raise UsageError(f"A version is a whole number, or latest. Received: {text!r}.")
        number = max(found, default=0) if text == "latest" else int(text)
        if number not in found:
            raise ServingError(f"There is no version {text} of {model} in {base}. Versions: {', '.join(map(str, found)) or 'none'}.")
        return number

    def promote(self, model: str, version: int, label: str = STABLE) -> Change:
        """Moves a label to a version.

        The version that it came from stays loaded, under the label `LABEL-previous`. Where the file's version policy would not
        keep both, it becomes `specific`, for all versions that have a label; the versions that a policy `latest` serves now stay, too.

        Args:
            model: The model's name.
            version: The version.
            label: The label; it need not be there yet.

        Returns:
            What changed.

        Raises:
            ServingError: See `source`.
        """
        before = self.source(model).labels.get(label)
        labels = {label: version} if before in (None, version) else {label: version, label + PREVIOUS: before}
        return Change(model, label, before, version, () if before == version else self._relabel(model, labels))

    def roll_back(self, model: str, label: str = STABLE) -> Change:
        """Moves a label back to the version that it came from; that it was elsewhere is forgotten.

        Raises:
            ServingError: It came from nowhere.
        """
        labels = self.source(model).labels
        if label + PREVIOUS not in labels:
            raise ServingError(f"The label {label!r} of {model} has no version to go back to: there is no label {label + PREVIOUS!r} in {self.path}.")
        after = labels[label + PREVIOUS]
        return Change(model, label, labels.get(label), after, self._relabel(model, {label: after, label + PREVIOUS: None}))

    def _relabel(self, model: str, labels: Mapping[str, int | None]) -> tuple[int, ...]:
        """Writes labels, and returns the versions of the policy where that changed, too."""
        source = self.source(model)
        wanted = {name: version for name, version in {**source.labels, **labels}.items() if version is not None}
        aspired = set(source.aspired() or ())
        kept = sorted({*wanted.values(), *(aspired if source.policy == "latest" else ())})
        missing = set(kept) - aspired
        with edited_models_config(self.path, message("ModelServerConfig")()) as config:
            entry = next(entry for entry in config.model_config_list.config if entry.name == model)
            for name in list(entry.version_labels):
                del entry.version_labels[name]
            for name, version in wanted.items():
                entry.version_labels[name] = version
            if missing:
                entry.model_version_policy.Clear()
                entry.model_version_policy.specific.versions.extend(kept)
        return tuple(kept) if missing else ()


def judge(base_path: Path, version: int, other: int | None, serving: bool, thresholds: Thresholds) -> tuple[Drift | None, list[Check]]:
    """Holds what shadowing has measured of a version against thresholds.

    Args:
        base_path: The model's folder.
        version: The version that is judged.
        other: The version that it is held against; None for the one with which it was compared most.
        serving: Whether the version answers, and the other one gets copies; otherwise it is the other way round.
        thresholds: How much it may differ.

    Returns:
        The figures, None where there are none, and each beside its threshold; too few requests are the first of them.
    """
    found = {pair: drift for pair, drift in read_drifts(base_path, version).items() if pair[0 if serving else 1] == version}
    drifts = {pair[1 if serving else 0]: drift for pair, drift in found.items()}
    if other is None:
        other = max(drifts, key=lambda number: drifts[number].requests, default=None)
    drift = drifts.get(other) if other is not None else None
    if drift is None:
        return None, [Check("requests compared", 0, f">= {thresholds.requests}", False)]
    errors, ratio = (drift.failures, _inverse(drift.latency_ratio)) if serving else (drift.errors, drift.latency_ratio)
    tried = drift.requests + errors
    return drift, [
        Check("requests compared", tried, f">= {thresholds.requests}", tried >= thresholds.requests),
        _at_most("label disagreement", drift.disagreement, thresholds.disagreement),
        _at_most("mean distance", drift.mean_distance, thresholds.distance),
        _at_most("share of errors", errors / tried if tried else None, thresholds.errors),
        _at_most("latency ratio", ratio, thresholds.latency_ratio),
    ]


def _inverse(value: float | None) -> float | None:
    return 1 / value if value else None


def _at_most(figure: str, value: float | None, threshold: float) -> Check:
    return Check(figure, value, f"<= {threshold:g}", value is None or value <= threshold)


def report(change: Change | None, checks: list[Check], **more: Any) -> dict[str, Any]:
    """Returns what was decided and why, ready for JSON."""
    return {
        **more,
        "change": None if change is None else vars(change) | {"policy": list(change.policy)},
        "checks": [vars(check) for check in checks],
    }
