"""Which models and versions a server answers for: a folder of models, or TF Serving's models.config."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.errors import ServingError
from zoo.export import MODELS_CONFIG, model_names, versions

_TOKEN = re.compile(r"""\s+|\#[^\n]*|(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<sign>[{}:;,\[\]])|(?P<word>[^\s{}:;,\[\]"'#]+)""")


@dataclass(frozen=True)
class ModelSource:
    """One model of a repository.

    Attributes:
        name: As it stands in the URL.
        base_path: The folder that holds the version folders.
        policy: `latest`, `all` or `specific`, as in TF Serving's `model_version_policy`.
        count: How many versions `latest` serves.
        chosen: The versions that `specific` serves.
        labels: Version label -> version.
    """

    name: str
    base_path: Path
    policy: str = "latest"
    count: int = 1
    chosen: tuple[int, ...] = ()
    labels: Mapping[str, int] = field(default_factory=dict)

    def versions(self) -> list[int]:
        """Returns the versions to serve, ascending.

        Raises:
            ServingError: The folder holds no version, or a chosen one is missing.
        """
        found = versions(self.base_path)
        if not found:
            raise ServingError(
                f"No versions of model {self.name} found under {self.base_path}. "
                f"A version is a folder named by a whole number, such as {self.base_path}/1."
            )
        if self.policy == "specific":
            if missing := sorted(set(self.chosen) - set(found)):
                raise ServingError(f"Model {self.name} has no version {missing[0]} under {self.base_path}. It has: {', '.join(map(str, found))}.")
            return sorted(self.chosen)
        return found if self.policy == "all" else found[-self.count :]


def find_models(repository: str | Path) -> list[ModelSource]:
    """Returns the models of a repository: those of its `models.config`, or every folder with a version in it.

    Raises:
        ServingError: There is no such folder, or no model in it.
    """
    repository = Path(repository)
    if not repository.is_dir():
        raise ServingError(f"There is no model repository {repository}. `zoo export NAME --to {repository}` makes one.")
    if versions(repository):
        return [ModelSource(repository.resolve().name, repository)]
    if (repository / MODELS_CONFIG).is_file():
        return read_models_config(repository / MODELS_CONFIG)
    names = model_names(repository)
    if not names:
        raise ServingError(
            f"{repository} holds no model: no folder <model>/<version> with a saved_model.pb. `zoo export NAME --to {repository}` writes one."
        )
    return [ModelSource(name, repository / name) for name in names]


def read_models_config(path: str | Path) -> list[ModelSource]:
    """Reads TF Serving's `models.config`, a ModelServerConfig in protocol buffer text format.

    A `base_path` that does not exist is looked for beside the file, so that one file serves a container, where the
    repository is mounted at some absolute path, and a checkout.

    Raises:
        ServingError: The file cannot be read or parsed.
    """
    path = Path(path)
    try:
        config = _message(_tokens(path.read_text(encoding="utf-8")))
        entries = [entry for models in config.get("model_config_list", []) for entry in models.get("config", [])]
        return [_source(entry, path.parent) for entry in entries]
    except OSError as error:
        raise ServingError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        raise ServingError(f"Error parsing text-format tensorflow.serving.ModelServerConfig: {path}: {error}.") from None


def _source(entry: Mapping[str, list[Any]], folder: Path) -> ModelSource:
    name, base_path = entry["name"][0], Path(entry["base_path"][0])
    if not base_path.exists():
        base_path = folder / base_path.name
    policy = entry.get("model_version_policy", [{}])[0]
    kind = next(iter(policy), "latest")
    details = policy.get(kind, [{}])[0]
    return ModelSource(
        name=name,
        base_path=base_path,
        policy=kind,
        count=int(details.get("num_versions", ["1"])[0]),
        chosen=tuple(int(version) for version in details.get("versions", [])),
        labels={label["key"][0]: int(label["value"][0]) for label in entry.get("version_labels", [])},
    )


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    """The text's tokens as `(kind, value)`; comments and white space fall away."""
    at = 0
    while at < len(text):
        match = _TOKEN.match(text, at)
        if match is None:
            raise ValueError(f"unexpected {text[at]!r} in line {text.count(chr(10), 0, at) + 1}")
        at = match.end()
        if match.lastgroup == "text":
            yield "text", match["text"][1:-1].encode().decode("unicode_escape")
        elif match.lastgroup:
            yield match.lastgroup, match[match.lastgroup]


def _message(tokens: Iterator[tuple[str, str]], nested: bool = False) -> dict[str, list[Any]]:
    """A message as field name -> values; a nested message is a dict, everything else a string."""
    fields: dict[str, list[Any]] = {}
    for kind, name in tokens:
        if (kind, name) == ("sign", "}") and nested:
            return fields
        if kind == "sign" and name in ";,":
            continue
        if kind != "word":
            raise ValueError(f"expected a field name, found {name!r}")
        kind, value = next(tokens, ("end", ""))
        if (kind, value) == ("sign", ":"):
            kind, value = next(tokens, ("end", ""))
        if (kind, value) == ("sign", "{"):
            fields.setdefault(name, []).append(_message(tokens, nested=True))
        elif (kind, value) == ("sign", "["):
            fields.setdefault(name, []).extend(_items(tokens))
        elif kind in ("text", "word"):
            fields.setdefault(name, []).append(value)
        else:
            raise ValueError(f"expected a value of {name}, found {value or 'the end of the file'!r}")
    if nested:
        raise ValueError("a '{' is never closed")
    return fields


def _items(tokens: Iterator[tuple[str, str]]) -> Iterator[str]:
    for kind, value in tokens:
        if (kind, value) == ("sign", "]"):
            return
        if kind != "sign":
            yield value
    raise ValueError("a '[' is never closed")
