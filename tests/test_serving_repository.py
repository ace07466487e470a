"""Repositories: folders and models.config."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from zoo.errors import ServingError
from zoo.serving.repository import ModelSource, find_models, read_models_config, write_config


def version(base: Path, name: str) -> None:
    (base / name).mkdir(parents=True)
    (base / name / "saved_model.pb").touch()


def test_versions_by_policy(tmp_path: Path) -> None:
    for name in ("4", "00000011", "2", "no", ".tmp-12", "-3", "1.5", "٣"):
        version(tmp_path / "model", name)
    (tmp_path / "model" / "99").write_text("a file is no version")
    source = ModelSource("model", tmp_path / "model")
    assert source.aspired() == {11: tmp_path / "model" / "00000011"}
    assert list(dataclasses.replace(source, count=2).aspired() or ()) == [4, 11]
    assert list(dataclasses.replace(source, count=0).aspired() or ()) == [11]
    assert list(dataclasses.replace(source, policy="all").aspired() or ()) == [2, 4, 11]
    assert list(dataclasses.replace(source, policy="specific", chosen=(4, 5)).aspired() or ()) == [4]
    assert ModelSource("model", tmp_path / "nowhere").aspired() is None
    (tmp_path / "empty").mkdir()
    assert ModelSource("model", tmp_path / "empty").aspired() == {}


def test_folders_without_a_config_are_found(tmp_path: Path) -> None:
    version(tmp_path / "repository" / "model", "11")
    (source,) = find_models(tmp_path / "repository")
    assert (source.name, list(source.aspired() or ())) == ("model", [11])
    assert find_models(tmp_path / "repository" / "model")[0].name == "model"
    with pytest.raises(ServingError, match=r"There is no model repository .*nowhere"):
        find_models(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ServingError, match="holds no model"):
        find_models(tmp_path / "empty")


CONFIG = """# every policy, and labels
model_config_list: {
  config { name: 'a' base_path: '/srv/a' model_platform: 'tensorflow' }
  config { name: "b", base_path: "/srv/b", model_platform: "tensorflow", model_version_policy: { latest: { num_versions: 3 } } }
  config { name: "c" base_path: "/srv/c" model_platform: "tensorflow" model_version_policy { all {} } }
  config { name: "d" base_path: "/srv/d" model_platform: "tensorflow" model_version_policy { specific { versions: 4 versions: 5 } }
           version_labels { key: "stable" value: 4 } version_labels { key: "canary" value: 5 } }
  config { name: "e" base_path: "/srv/e" model_type: TENSORFLOW model_version_policy { specific { versions: [6, 7] } } }
}
"""
SOURCES = [
    ModelSource("a", Path("/srv/a")),
    ModelSource("b", Path("/srv/b"), count=3),
    ModelSource("c", Path("/srv/c"), "all"),
    ModelSource("d", Path("/srv/d"), "specific", chosen=(4, 5), labels={"stable": 4, "canary": 5}),
    ModelSource("e", Path("/srv/e"), "specific", chosen=(6, 7)),
]


def test_models_config(tmp_path: Path) -> None:
    (tmp_path / "models.config").write_text(CONFIG)
    assert read_models_config(tmp_path / "models.config") == SOURCES
    assert read_models_config(write_config(tmp_path / "again.config", SOURCES)) == SOURCES
    (tmp_path / "empty.config").write_text("")
    assert read_models_config(tmp_path / "empty.config") == []


def test_a_base_path_that_is_elsewhere_is_looked_for_beside_the_file(tmp_path: Path) -> None:
    version(tmp_path / "b", "1")
    (tmp_path / "models.config").write_text(CONFIG)
    paths = [source.base_path for source in find_models(tmp_path)]
    assert paths == [Path("/srv/a"), tmp_path / "b", Path("/srv/c"), Path("/srv/d"), Path("/srv/e")]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model_config_list {", r"Error parsing text-format tensorflow\.serving\.ModelServerConfig: .*models\.config: "),
        ("}", r"Error parsing text-format tensorflow\.serving\.ModelServerConfig"),
        ("@", r"Error parsing text-format tensorflow\.serving\.ModelServerConfig"),
        ("model_config_list { config { name: } }", r"Error parsing text-format tensorflow\.serving\.ModelServerConfig"),
        ("model_config_list { config { nonsense: 3 } }", r'has no field named "nonsense"'),
        ('model_config_list { config { name: "a" } }', r"Expected model a to have an absolute path or URI; got base_path\(\)="),
        ('model_config_list { config { name: "a" base_path: "a" model_platform: "tensorflow" } }', r"got base_path\(\)=a"),
        ('model_config_list { config { name: "a" base_path: "/a" } }', "Illegal setting neither ModelServerConfig::model_type"),
        ('model_config_list { config { name: "a" base_path: "/a" model_platform: "other" } }', "Model a requests unsupported platform other"),
        (
            'model_config_list { config { name: "a" base_path: "/a" model_platform: "tensorflow" } config { name: "a" base_path: "/b" } }',
            "Illegal to list model a multiple times in config list",
        ),
        ("custom_model_config {}", "Only ModelConfigList is supported"),
    ],
)
def test_a_malformed_models_config(text: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "models.config").write_text(text)
    with pytest.raises(ServingError, match=message):
        read_models_config(tmp_path / "models.config")


def test_a_models_config_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ServingError, match=r"nowhere\.config cannot be read: No such file or directory\."):
        read_models_config(tmp_path / "nowhere.config")
    (tmp_path / "binary.config").write_bytes(b"\xff\xfe")
    with pytest.raises(ServingError, match="Error parsing text-format"):
        read_models_config(tmp_path / "binary.config")
