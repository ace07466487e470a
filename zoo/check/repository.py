"""What is wrong with a models.config, and with the folders around the versions."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from zoo.check.rules import Finding
from zoo.check.version import check_version, is_saved_model
from zoo.errors import UsageError
from zoo.export import LATEST_VERSION, MODELS_CONFIG
from zoo.files import TEMPORARY_PREFIX

PLATFORM = "tensorflow"
VERSION = re.compile(r"-?[0-9]+")


def check(path: str | Path) -> list[Finding]:
    """Predicts what TF Serving would do with a SavedModel, a model's versions, or a whole repository, and says how to mend it.

    Args:
        path: A version (a folder with `saved_model.pb`), a model (a folder of versions), a repository (a folder of models,
            perhaps with a `models.config`), or a `models.config`. None of them needs to come from this package.

    Returns:
        What was found, in the order of the files; empty where all is well.

    Raises:
        UsageError: There is no such file or folder.

    Example:
        >>> import tempfile, zoo
        >>> check(zoo.export_model("relu_mlp.digits", to=tempfile.mkdtemp()))
        []
    """
    path = Path(path)
    if not path.exists():
        raise UsageError(f"There is no {path} to check. Expected a SavedModel, a folder of versions, a model repository or a models.config.")
    return list(dict.fromkeys(_check(path)))


def _check(path: Path) -> Iterator[Finding]:
    if path.is_file():
        yield from _check_config(path)
    elif is_saved_model(path):
        if not VERSION.fullmatch(path.resolve().name):
            yield Finding("no-version", path, f"saved_model.pb lies in {path.resolve().name}, which is no version's name")
        yield from check_version(path)
    elif _versions(path):
        yield from _check_model(path)
    elif (path / MODELS_CONFIG).is_file():
        yield from _check_config(path / MODELS_CONFIG)
        yield from _check_unlisted(path)
    else:
        models = [child for child in sorted(path.iterdir()) if child.is_dir() and _is_model(child)]
        if not models:
            held = ", ".join(sorted(child.name for child in path.iterdir())[:4])
            yield Finding("no-version", path, f"it holds {held or 'nothing'}")
        for model in models:
            yield from _check_model(model)


def _is_model(path: Path) -> bool:
    """Whether a folder is meant as a model: it holds versions, or a SavedModel where versions should be."""
    return bool(_versions(path)) or is_saved_model(path) or any(child.is_dir() and is_saved_model(child) for child in path.iterdir())


def _versions(path: Path) -> list[Path]:
    """What the server takes for versions in a model's folder, ascending."""
    numbered = [child for child in path.iterdir() if VERSION.fullmatch(child.name) and abs(int(child.name)) <= LATEST_VERSION]
    return sorted(numbered, key=lambda child: (int(child.name), child.name))


def _check_model(path: Path) -> Iterator[Finding]:
    found = _versions(path)
    if not found:
        held = ", ".join(sorted(child.name for child in path.iterdir())[:4])
        yield Finding("no-version", path, f"it holds {held or 'nothing'}")
    for child in sorted(path.iterdir()):
        if child in found:
            continue
        if child.name.startswith(TEMPORARY_PREFIX):
            yield Finding("leftover", child, "a temporary folder")
        elif VERSION.fullmatch(child.name):
            yield Finding("too-large-version", child, "a number beyond 64 bits")
        elif child.is_dir() and is_saved_model(child):
            yield Finding("ignored-folder", child, "a SavedModel in a folder whose name is no whole number")
            yield from check_version(child)
    yield from _check_numbers(found)
    for version in found:
        if version.is_dir():
            yield from check_version(version)
    if not found and is_saved_model(path):
        yield from check_version(path)


def _check_numbers(found: Sequence[Path]) -> Iterator[Finding]:
    same = defaultdict(list)
    for version in found:
        same[int(version.name)].append(version)
        if int(version.name) < 1:
            yield Finding("version-below-one", version, f"version {int(version.name)}")
        if not version.is_dir():
            yield Finding("version-is-a-file", version, "a file whose name is a whole number")
    for folders in same.values():
        if len(folders) > 1:
            yield Finding("duplicate-version", folders[0], f"the same version as {folders[1].name}")


def _check_config(file: Path) -> Iterator[Finding]:
    from google.protobuf import text_format
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

    try:
        config = text_format.Parse(file.read_text(encoding="utf-8"), ModelServerConfig())
    except (text_format.ParseError, UnicodeDecodeError) as error:
        yield Finding("config-syntax", file, str(error))
        return
    models = list(config.model_config_list.config)
    if not models and config.WhichOneof("config") != "custom_model_config":
        yield Finding("empty-config", file, "no model is listed")
    for name, count in Counter(model.name for model in models).items():
        if count > 1:
            yield Finding("duplicate-model", file, f"{name!r} is listed {count} times")
    for model in models:
        yield from _check_entry(model, file)


def _check_entry(model: Any, file: Path) -> Iterator[Finding]:
    if model.model_type and model.model_platform:
        yield Finding("model-type", file, f"{model.name!r} has both model_type and model_platform")
    elif not model.model_type and not model.model_platform:
        yield Finding("missing-model-platform", file, f"{model.name!r} has no model_platform")
    elif model.model_platform and model.model_platform != PLATFORM:
        yield Finding("unknown-platform", file, f"{model.name!r} has the platform {model.model_platform!r}")
    remote = re.match(r"[a-z0-9]+://", model.base_path)
    if not remote and not model.base_path.startswith("/"):
        yield Finding("relative-base-path", file, f"{model.name!r} has the base_path {model.base_path!r}")
    folder = None if remote else _folder(model.base_path, file)
    if folder is None:
        if not remote:
            yield Finding("missing-base-path", file, f"neither {model.base_path} nor a folder of that name beside the file exists")
        return
    yield from _check_policy(model, folder, file)
    yield from _check_model(folder)


def _folder(base_path: str, file: Path) -> Path | None:
    """A base_path, or the folder of the same name beside the configuration, which is how a repository lies before it is mounted."""
    for folder in (Path(base_path) if base_path.startswith("/") else file.parent / base_path, file.parent / Path(base_path).name):
        if folder.is_dir():
            return folder
    return None


def _check_policy(model: Any, folder: Path, file: Path) -> Iterator[Finding]:
    there = {int(version.name) for version in _versions(folder)}
    policy = model.model_version_policy
    served = set(sorted(there)[-max(policy.latest.num_versions, 1) :])
    if policy.WhichOneof("policy_choice") == "all":
        served = there
    elif policy.WhichOneof("policy_choice") == "specific":
        served = set(policy.specific.versions) & there
        for version in sorted(set(policy.specific.versions) - there):
            yield Finding("missing-specific-version", file, f"{model.name!r} has no version {version}")
    for label, version in sorted(model.version_labels.items()):
        if version not in served:
            yield Finding("label-without-version", file, f"the label {label!r} of {model.name!r} names version {version}, which is not served")
    if model.version_labels:
        yield Finding("labels-need-flag", file, f"{model.name!r} has version labels")


def _check_unlisted(path: Path) -> Iterator[Finding]:
    from google.protobuf import text_format
    from tensorflow_serving.config.model_server_config_pb2 import ModelServerConfig

    try:
        config = text_format.Parse((path / MODELS_CONFIG).read_text(encoding="utf-8"), ModelServerConfig())
    except (text_format.ParseError, UnicodeDecodeError):
        return
    listed = {Path(model.base_path).name for model in config.model_config_list.config}
    for child in sorted(path.iterdir()):
        if child.is_dir() and child.name not in listed and _is_model(child):
            yield Finding("unlisted-model", child, f"{MODELS_CONFIG} does not list it")
