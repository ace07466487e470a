"""What defines a search, and the directory that belongs to it: the same settings go on there, others are told what differs."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tuning.spaces import SPACE_VERSION, Range, Study, changes, describe, space_hash
from tuning.storage import directory_url
from zoo.errors import StudyError, UsageError
from zoo.files import write_text
from zoo.specs import Recipe

if TYPE_CHECKING:
    import keras_tuner

SETTINGS = "search.json"
FIXED = ("recipe", "hypermodel", "epochs", "batch_size", "seed")  # with these changed, old and new trials cannot be compared


@dataclass(frozen=True)
class Settings:
    """What a search is of, and how it searches; its limits are no part of it.

    Attributes:
        recipe: All that the search does not vary; None for another hypermodel than the zoo's.
        hypermodel: That one's name.
        optimizers: To choose from.
        study: What varies.
        vary: What else varies.
        ranges: Other ends for numbers of the space.
        sampler: Proposes configurations.
        scheduler: Decides which go on.
        reduction: One in so many goes on.
        first: Epochs before the first comparison.
        priors: Whether known good configurations come first.
        epochs: Of a whole trial.
        batch_size: Images per step.
        seed: Of the trials and the proposals.
        begun_with: The study whose best configurations it began with; empty for none.
    """

    recipe: Recipe | None
    hypermodel: str = ""
    optimizers: tuple[str, ...] = ()
    study: Study = "joint"
    vary: tuple[str, ...] = ()
    ranges: Mapping[str, Range] = field(default_factory=dict)
    sampler: str = "tpe"
    scheduler: str = "asha"
    reduction: int = 3
    first: int = 1
    priors: bool = True
    epochs: int = 9
    batch_size: int = 128
    seed: int = 0
    begun_with: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Returns the settings as JSON-ready data; `Settings.from_dict` is its inverse."""
        data = dataclasses.asdict(dataclasses.replace(self, recipe=None))
        if not self.begun_with:
            del data["begun_with"]
        return json.loads(json.dumps({**data, "recipe": self.recipe and self.recipe.to_dict()}))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Settings:
        """Builds settings from `to_dict`'s data."""
        ranges = {name: (low, high) for name, (low, high) in data["ranges"].items()}
        recipe = Recipe.from_dict(data["recipe"]) if data["recipe"] else None
        return cls(**{**data, "recipe": recipe, "optimizers": tuple(data["optimizers"]), "vary": tuple(data["vary"]), "ranges": ranges})

    @property
    def subject(self) -> str:
        """The model and its data set, for names."""
        return f"{self.recipe.model}-{Path(self.recipe.dataset).name}" if self.recipe else self.hypermodel

    def fingerprint(self) -> str:
        """Returns 12 hexadecimal digits that differ whenever any setting does."""
        return hashlib.sha256(json.dumps(self.to_dict(), sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Claim:
    """A directory as one search's.

    Attributes:
        directory: Where everything of the search lies.
        name: Of its study.
        storage: The URL of the study's database.
        worker: Whose trials this directory's are, among all of a shared study's.
        enqueued: What comes first: `config`, where it is from as `source`, and of another study's what it reached there as `figure`.
        shared: Others may write to the study.
    """

    directory: Path
    name: str
    storage: str
    worker: str
    enqueued: tuple[dict[str, Any], ...]
    shared: bool


def default_directory(settings: Settings) -> Path:
    """Returns the directory that belongs to a search: other settings give another."""
    return Path("runs") / f"search-{settings.subject}-{settings.fingerprint()}"


def claim(
    directory: Path,
    settings: Settings,
    space: keras_tuner.HyperParameters,
    enqueued: Sequence[Mapping[str, Any]],
    storage: str | None = None,
    accept_changes: bool = False,
) -> Claim:
    """Makes a directory this search's, or finds that it is already.

    Args:
        directory: The search's.
        settings: Its settings.
        space: Its space.
        enqueued: What comes first, as `config` and `source`; that of a search which stands there already stays as it is.
        storage: A database URL; SQLite in the directory where None.
        accept_changes: Go on with other settings or another space; the trials so far stay. What it began with cannot change.

    Raises:
        UsageError: The directory holds a search of something else; the message says what differs, and how to go on.
        StudyError: What the directory holds cannot be read.
    """
    lines = describe(space)
    if not lines:
        raise UsageError("The space is empty: the hypermodel declares no hyperparameters, so there is nothing to search.")
    document = {"settings": settings.to_dict(), "space_version": SPACE_VERSION, "space_hash": space_hash(space), "space": lines}
    found = _read(directory)
    if found is None:
        kept: dict[str, Any] = {
            "name": f"{settings.subject}-{settings.fingerprint()}",
            "storage": storage,
            "worker": secrets.token_hex(4),
            "enqueued": [dict(values) for values in enqueued],
        }
    else:
        if storage is not None and storage != found["storage"]:
            raise UsageError(f"{directory} keeps its study in {found['storage'] or 'a file of its own'}, not in {storage}. Leave --storage out.")
        _compare(directory, found, document, accept_changes)
        kept = {name: found[name] for name in ("name", "storage", "worker", "enqueued")}
    if found is None or accept_changes:
        write_text(directory / SETTINGS, json.dumps({**document, **kept}, indent=2) + "\n")
    url = kept["storage"] or directory_url(directory)
    return Claim(directory, kept["name"], url, kept["worker"], tuple(kept["enqueued"]), kept["storage"] is not None)


def read_settings(directory: str | Path) -> Settings:
    """Reads the settings of the search that stands in a directory.

    Raises:
        UsageError: There is none.
        StudyError: What is there cannot be read.
    """
    found = _read(Path(directory))
    if found is None:
        raise UsageError(f"{directory} holds no search to go on with: it has no {SETTINGS}.")
    return Settings.from_dict(found["settings"])


def read_claim(directory: str | Path) -> dict[str, Any]:
    """Reads what a directory says of its search's record: `name`, `url`, `space_version`, `enqueued` and others.

    Raises:
        UsageError: There is no search.
        StudyError: What is there cannot be read.
    """
    found = _read(Path(directory))
    if found is None:
        raise UsageError(f"{directory} holds no search: it has no {SETTINGS}.")
    return {**found, "url": found["storage"] or directory_url(Path(directory))}


def _read(directory: Path) -> dict[str, Any] | None:
    path = directory / SETTINGS
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        Settings.from_dict(found["settings"])
        if not {"name", "storage", "worker", "enqueued", "space", "space_version"} <= found.keys():
            raise KeyError("name")
    except (OSError, ValueError, KeyError, TypeError, LookupError) as error:
        raise StudyError(f"{path} cannot be read as a search's settings ({error}). Choose another directory.") from None
    return found


def _compare(directory: Path, found: Mapping[str, Any], document: Mapping[str, Any], accept_changes: bool) -> None:
    old, new = found["settings"], document["settings"]
    settings = {name: f"{name}: {_short(old.get(name), value)}" for name, value in new.items() if old.get(name) != value}
    space = changes(found["space"], document["space"])
    if found["space_version"] != document["space_version"]:
        space.append(f"version of the space: {found['space_version']} -> {document['space_version']}")
    if not settings and not space:
        return
    if fixed := [line for name, line in settings.items() if name in FIXED]:
        raise UsageError(f"{directory} holds a search of something else ({'; '.join(fixed)}). Choose another directory.")
    if "begun_with" in settings:
        began = f"with {old['begun_with']}" if "begun_with" in old else "without another study"
        raise UsageError(
            f"The search in {directory} began {began}, so it cannot begin with {new['begun_with']}. To go on with it, leave --from out; "
            "to begin with that study, choose another directory by --out."
        )
    if not accept_changes:
        listed = "; ".join([*space, *(line for name, line in settings.items() if name not in ("ranges", "vary") or not space)])
        raise UsageError(
            f"The search in {directory} has changed ({listed}). Go on with what it was by: zoo tune --resume {directory}. "
            "To go on with the change and keep the trials so far, add --accept-changes; to begin anew, choose another directory."
        )


def _short(old: Any, new: Any) -> str:
    """`old -> new`; of a recipe, its fields that differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        return ", ".join(f"{name} {old.get(name)!r} -> {new.get(name)!r}" for name in {**old, **new} if old.get(name) != new.get(name))
    return f"{old!r} -> {new!r}"
