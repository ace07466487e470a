"""Which models and versions a server answers for: a folder of models, or TF Serving's models.config."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zoo.errors import ServingError
from zoo.export import MODELS_CONFIG, model_names, versions
from zoo.files import write_text
from zoo.serving.messages import message
from zoo.serving.status import Code

PLATFORM = "tensorflow"


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

    def aspired(self, shadow: int | None = None) -> dict[int, Path] | None:
        """Returns the versions that there are and that the policy serves, ascending, with their folders.

        None where the base folder itself is missing: that is no reason to unload anything.

        Args:
            shadow: A version that is wanted in any case, and that the policy does not count.
        """
        try:
            children = [child for child in self.base_path.iterdir() if child.name.isascii() and child.name.isdecimal() and child.is_dir()]
        except OSError:
            return None
        found = {int(child.name): child for child in sorted(children, key=lambda child: (int(child.name), child.name))}
        others = {version: path for version, path in found.items() if version != shadow}
        if self.policy == "specific":
            others = {version: path for version, path in others.items() if version in self.chosen}
        elif self.policy == "latest":
            others = dict(list(others.items())[-max(self.count, 1) :])
        return {version: path for version, path in found.items() if version in others or version == shadow}

    def missing(self) -> str:
        """Returns what to say where no version is found."""
        return (
            f"No versions of servable {self.name} found under base path {self.base_path}. "
            f"A version is a folder named by a whole number, such as {self.base_path}/1."
        )


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
        ServingError: The file cannot be read or parsed, or TF Serving would not take it.
    """
    sources = sources_of(read_text_message(path, message("ModelServerConfig")()))
    return [_beside(source, Path(path).parent) for source in sources]


def read_text_message(path: str | Path, empty: Any) -> Any:
    """Reads a message in protocol buffer text format.

    Raises:
        ServingError: The file cannot be read or parsed.
    """
    from google.protobuf import text_format

    try:
        return text_format.Parse(Path(path).read_bytes(), empty)
    except OSError as error:
        raise ServingError(f"{path} cannot be read: {error.strerror or error}.") from None
    except (text_format.ParseError, ValueError) as error:
        raise ServingError(f"Error parsing text-format {empty.DESCRIPTOR.full_name}: {path}: {error}", Code.INVALID_ARGUMENT) from None


def write_config(path: Path, sources: Sequence[ModelSource]) -> Path:
    """Writes models to a `models.config` that TF Serving takes as it is, with absolute paths."""
    from google.protobuf import text_format

    config = message("ModelServerConfig")()
    for source in sources:
        entry = config.model_config_list.config.add(name=source.name, base_path=str(source.base_path.resolve()), model_platform=PLATFORM)
        policy = entry.model_version_policy
        if source.policy == "all":
            policy.all.SetInParent()
        elif source.policy == "specific":
            policy.specific.versions.extend(source.chosen)
        else:
            policy.latest.num_versions = source.count
        for label, version in source.labels.items():
            entry.version_labels[label] = version
    write_text(path, text_format.MessageToString(config))
    return path


def sources_of(config: Any) -> list[ModelSource]:
    """Returns the models of a ModelServerConfig.

    Raises:
        ServingError: TF Serving would not take it; the message is TF Serving's.
    """
    if config.WhichOneof("config") == "custom_model_config":
        raise ServingError("Only ModelConfigList is supported, not custom_model_config.", Code.INVALID_ARGUMENT)
    entries = config.model_config_list.config
    for index, entry in enumerate(entries):
        if any(entry.name == earlier.name for earlier in entries[:index]):
            raise ServingError(f"Illegal to list model {entry.name} multiple times in config list", Code.INVALID_ARGUMENT)
        if not entry.base_path.startswith("/"):
            raise ServingError(
                f"Expected model {entry.name} to have an absolute path or URI; got base_path()={entry.base_path}", Code.INVALID_ARGUMENT
            )
    return [_source(entry) for entry in entries]


def _source(entry: Any) -> ModelSource:
    platform = entry.model_platform or (PLATFORM if entry.model_type else "")
    if not platform:
        raise ServingError(
            "Illegal setting neither ModelServerConfig::model_type (deprecated) nor ModelServerConfig::model_platform.", Code.INVALID_ARGUMENT
        )
    if platform != PLATFORM:
        raise ServingError(f"Model {entry.name} requests unsupported platform {platform}", Code.INVALID_ARGUMENT)
    policy = entry.model_version_policy
    return ModelSource(
        name=entry.name,
        base_path=Path(entry.base_path),
        policy={"all": "all", "specific": "specific"}.get(policy.WhichOneof("policy_choice"), "latest"),
        count=policy.latest.num_versions or 1,
        chosen=tuple(policy.specific.versions),
        labels=dict(entry.version_labels),
    )


def _beside(source: ModelSource, folder: Path) -> ModelSource:
    sibling = folder / source.base_path.name
    if source.base_path.exists() or not sibling.exists():
        return source
    return ModelSource(source.name, sibling, source.policy, source.count, source.chosen, source.labels)
