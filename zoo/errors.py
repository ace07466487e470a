"""Every error a user can cause, each with the exit status that the command line gives it."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ZooError(Exception):
    """Base of all errors this package raises on purpose. Its message is complete: print it as it is."""

    exit_status = 1


class UsageError(ZooError, ValueError):
    """An argument has a wrong value, type or shape."""

    exit_status = 2


class UnknownNameError(ZooError, LookupError):
    """A model, tag, optimizer, data set or hyperparameter does not exist."""

    exit_status = 2


class DatasetError(ZooError):
    """A data set is missing, unreadable or malformed."""


class ImageError(ZooError):
    """A file is not an image that can be decoded."""


class WeightsError(ZooError):
    """A weight file is missing, damaged, or does not fit its model."""


class TrainingError(ZooError):
    """A training run diverged, or its directory belongs to another run."""


class StudyError(ZooError):
    """The record of a search cannot be opened, read or written, or it belongs to something else."""


class ExportError(ZooError):
    """An export could not be written."""


class ServingError(ZooError):
    """The server could not start, a model could not be served, or a server refused a request.

    Attributes:
        code: The canonical status code, as gRPC counts them; 2, unknown, where there is none.
    """

    def __init__(self, message: str = "", code: int = 2) -> None:
        super().__init__(message)
        self.code = code


class MissingExtraError(ZooError, ImportError):
    """An optional dependency is not installed."""


def closest(received: str, valid: Iterable[str], limit: int = 3) -> list[str]:
    """Returns up to `limit` entries of `valid` that look most like `received`, best first."""
    names = sorted(valid)
    matches = difflib.get_close_matches(received, names, n=limit, cutoff=0.5)
    return matches or [name for name in names if received and received.lower() in name.lower()][:limit]


def unknown(kind: str, received: str, valid: Iterable[str], *, plural: str | None = None) -> UnknownNameError:
    """Builds the error for a name that does not exist.

    Args:
        kind: What the name would have named, e.g. `"model"`.
        received: The name as the user gave it.
        valid: All names that exist.
        plural: The plural of `kind`, where adding an s does not give it.

    Example:
        >>> str(unknown("optimizer", "adm", ["adam", "sgd"]))
        "Unknown optimizer 'adm'. Did you mean 'adam'? Valid optimizers: adam, sgd."
    """
    names = sorted(valid)
    matches = closest(str(received), names)
    hint = f" Did you mean {' or '.join(repr(match) for match in matches)}?" if matches else ""
    plural = plural or f"{kind}s"
    listing = f"Valid {plural}: {', '.join(names)}." if names else f"There are no {plural}."
    return UnknownNameError(f"Unknown {kind} {received!r}.{hint} {listing}")
