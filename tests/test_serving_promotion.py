"""Promotion: labels that move, by hand and by figures, and what stays of the file."""

from __future__ import annotations

import json
import shutil
import threading
from collections import deque
from pathlib import Path
from typing import Any

import pytest
import requests
from serving_load import until
from serving_models import half_plus

from zoo.cli import main
from zoo.errors import ServingError, UsageError, ZooError
from zoo.export import write_models_config
from zoo.serving.manager import Manager, ManagerOptions
from zoo.serving.promotion import ModelsConfig, Thresholds, judge
from zoo.serving.repository import read_models_config
from zoo.serving.server import start
from zoo.serving.shadow import Drift

MODELS = Path(__file__).parent.parent / "saved_models"
MODEL = "relu_mlp.digits"


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """Two models of three versions, of which nothing is loaded here."""
    for name in ("half", "other"):
        for version in (1, 2, 3):
            (tmp_path / name / str(version)).mkdir(parents=True)
    write_models_config(tmp_path)
    return tmp_path


def labels(repository: Path, model: str = "half") -> dict[str, int]:
    return dict(ModelsConfig(repository).source(model).labels)


def served(repository: Path, model: str = "half") -> list[int]:
    return list(ModelsConfig(repository).source(model).aspired() or ())


def test_a_label_moves_on_and_back(repository: Path) -> None:
    config = ModelsConfig(repository)
    assert (config.promote("half", 3).before, labels(repository), served(repository)) == (None, {"stable": 3}, [3])
    change = config.promote("half", 2)
    assert (change.before, change.after, change.policy) == (3, 2, (2, 3))
    assert (labels(repository), served(repository)) == ({"stable": 2, "stable-previous": 3}, [2, 3])
    assert config.promote("half", 2).policy == ()
    assert labels(repository) == {"stable": 2, "stable-previous": 3}, "nothing has changed"
    assert config.promote("half", 1).policy == (1, 2)
    assert (labels(repository), served(repository)) == ({"stable": 1, "stable-previous": 2}, [1, 2])
    change = config.roll_back("half")
    assert (change.before, change.after, change.policy) == (1, 2, ())
    assert (labels(repository), served(repository)) == ({"stable": 2}, [1, 2])
    with pytest.raises(ServingError, match="has no version to go back to: there is no label 'stable-previous'"):
        config.roll_back("half")
    assert labels(repository, "other") == {}
    assert served(repository, "other") == [3]


def test_what_the_latest_policy_serves_stays(repository: Path) -> None:
    assert ModelsConfig(repository).promote("half", 1).policy == (1, 3)
    assert served(repository) == [1, 3]


def test_the_rest_of_the_file_stays(repository: Path) -> None:
    path = repository / "models.config"
    path.write_text(
        "# ours\n# do not touch\nmodel_config_list { config { name: 'half' base_path: '/models/half' model_platform: 'tensorflow' # here\n"
        "model_version_policy { all {} } version_labels { key: 'canary' value: 3 } logging_config { sampling_config { sampling_rate: 0.5 } } }\n"
        f"config {{ name: 'far' base_path: '{repository}/other' model_platform: 'tensorflow' }} }}"
    )
    assert ModelsConfig(path).promote("half", 2).policy == ()
    text = path.read_text()
    assert text.startswith("# ours\n# do not touch\nmodel_config_list {")
    assert "sampling_rate: 0.5" in text
    half, far = read_models_config(path)
    assert (half.policy, half.labels) == ("all", {"canary": 3, "stable": 2})
    assert far.base_path == repository / "other"
    write_models_config(repository)
    assert {source.name: dict(source.labels) for source in read_models_config(path)} == {"far": {}, "half": {"canary": 3, "stable": 2}, "other": {}}


def test_an_export_keeps_labels_and_drops_what_is_gone(repository: Path) -> None:
    ModelsConfig(repository).promote("half", 2)
    before = (repository / "models.config").read_bytes()
    assert write_models_config(repository).read_bytes() == before
    shutil.rmtree(repository / "other")
    write_models_config(repository)
    assert [source.name for source in read_models_config(repository / "models.config")] == ["half"]
    assert labels(repository) == {"stable": 2}


def test_a_broken_file_is_not_written_over(repository: Path) -> None:
    (repository / "models.config").write_text("model_config_list {")
    for broken in (lambda: write_models_config(repository), lambda: ModelsConfig(repository).promote("half", 2)):
        with pytest.raises(ZooError, match=r"models\.config"):
            broken()
    assert (repository / "models.config").read_text() == "model_config_list {"


def test_what_is_not_there(repository: Path, tmp_path: Path) -> None:
    config = ModelsConfig(repository)
    with pytest.raises(ServingError, match=r"names no model 'hal'. Did you mean 'half'\? Models: half, other."):
        config.source("hal")
    with pytest.raises(ServingError, match=r"There is no version 7 of half in .*/half. Versions: 1, 2, 3."):
        config.version("half", "7")
    with pytest.raises(UsageError, match=r"A version is a whole number, or latest. Received: 'new'."):
        config.version("half", "new")
    assert config.version("half", "latest") == 3
    with pytest.raises(ServingError, match="There is no model repository"):
        ModelsConfig(tmp_path / "nowhere")


def measured(repository: Path, pair: tuple[int, int], version: int = 2, **figures: Any) -> None:
    entry = {"requests": 2000, "rows": 2000, "labelled": 2000, "answered": [1.0], "copied": [1.0], **figures}
    path = repository / "half" / "shadow" / f"{version}-0.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps([{"answered_by": pair[0], "copied_to": pair[1], **entry}]))


KEPT = {"disagreements": 20, "distance": 100.0, "copied": [1.5]}
BROKEN = [
    ("label disagreement", {"disagreements": 21}),
    ("mean distance", {"distance": 100.1}),
    ("share of errors", {"errors": 1}),
    ("latency ratio", {"copied": [1.51]}),
    ("requests compared", {"requests": 999}),
]


def test_figures_that_just_keep_their_thresholds(repository: Path) -> None:
    measured(repository, (1, 2), **KEPT)
    _, checks = judge(repository / "half", 2, 1, False, Thresholds())
    assert [check.passed for check in checks] == [True] * 5


@pytest.mark.parametrize(("figure", "broken"), BROKEN, ids=[figure for figure, _ in BROKEN])
def test_each_figure_alone_forbids_it(repository: Path, figure: str, broken: dict[str, Any]) -> None:
    measured(repository, (1, 2), **{**KEPT, **broken})
    _, checks = judge(repository / "half", 2, 1, False, Thresholds())
    assert [check.figure for check in checks if not check.passed] == [figure]


def test_the_version_that_answers_is_judged_the_other_way_round(repository: Path) -> None:
    measured(repository, (2, 1), answered=[2.0], copied=[1.0], failures=20, errors=7)
    _, checks = judge(repository / "half", 2, None, True, Thresholds())
    assert {check.figure: check.value for check in checks if not check.passed} == {"share of errors": 20 / 2020, "latency ratio": 2.0}


def test_where_there_are_no_labels_and_no_figures(repository: Path) -> None:
    measured(repository, (1, 2), labelled=0)
    drift, checks = judge(repository / "half", 2, 1, False, Thresholds())
    assert drift == Drift(2000, 2000, answered=deque([1.0]), copied=deque([1.0]))
    assert [(check.value, check.passed) for check in checks][1] == (None, True)
    drift, checks = judge(repository / "half", 2, 3, False, Thresholds())
    assert (drift, [check.passed for check in checks]) == (None, [False])


def promote(repository: Path, *arguments: str) -> int:
    return main(["promote", "half", *arguments, "--repository", str(repository)])


def test_auto_promotes_refuses_and_rolls_back(repository: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert promote(repository, "1") == 0
    assert promote(repository, "2", "--auto") == 1
    assert "stable stays where it is: too few requests were compared." in capsys.readouterr().out
    measured(repository, (1, 2), disagreements=200)
    assert promote(repository, "2", "--auto") == 1
    said = capsys.readouterr().out
    assert "label disagreement          0.1   wanted <= 0.01    NOT KEPT" in said
    assert "half: stable stays where it is: the version differs too much." in said
    assert labels(repository) == {"stable": 1}
    assert promote(repository, "2", "--auto", "--max-disagreement", "0.1") == 0
    assert labels(repository) == {"stable": 2, "stable-previous": 1}
    capsys.readouterr()
    assert promote(repository, "2", "--auto") == 1
    assert "too few" in capsys.readouterr().out, "what it did as a shadow is no longer what counts"
    assert labels(repository) == {"stable": 2, "stable-previous": 1}
    measured(repository, (2, 1))
    assert promote(repository, "2", "--auto") == 0
    assert "half: stable names version 2 already." in capsys.readouterr().out
    measured(repository, (2, 1), failures=100)
    assert promote(repository, "2", "--auto", "--json") == 1
    report = json.loads(capsys.readouterr().out)
    assert report["change"] == {"model": "half", "label": "stable", "before": 2, "after": 1, "policy": []}
    assert {check["figure"]: check["passed"] for check in report["checks"]}["share of errors"] is False
    assert labels(repository) == {"stable": 1}
    assert promote(repository, "--rollback") == 1


@pytest.mark.parametrize("arguments", [[], ["2", "--rollback"], ["--rollback", "--auto"]])
def test_wrong_usage(repository: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert promote(repository, *arguments) == 2
    assert "Name the version to promote, or ask for --rollback" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [["--max-disagreement", "2"], ["--max-distance", "-1"], ["--max-latency-ratio", "x"]])
def test_a_threshold_that_is_none(repository: Path, arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        promote(repository, "2", "--auto", *arguments)
    assert f"received '{arguments[1]}'" in capsys.readouterr().err


def test_a_running_server_follows_and_no_request_fails(tmp_path: Path) -> None:
    """Version 1 answers; 2 is the same, and is promoted; 3 is another, and is refused; by hand 3 is promoted, and rolled back."""
    base = tmp_path / MODEL
    for version, name in ((1, MODEL), (2, MODEL), (3, "sigmoid_mlp.digits")):
        shutil.copytree(MODELS / name / "1", base / str(version))
    shutil.move(base / "3", tmp_path / "later")
    write_models_config(tmp_path)
    repository = ["--repository", str(tmp_path)]
    assert main(["promote", MODEL, "1", *repository]) == 0
    images = json.loads((base / "1" / "assets.extra" / "golden" / "serving_default.request.json").read_text())
    flags = ["--file_system_poll_wait_seconds=0.2", f"--shadow={MODEL}:2", "--engine=tf"]
    with start(tmp_path, 0, *flags) as server:
        url, failed, stopped = f"{server.url}/v1/models/{MODEL}", [], threading.Event()

        def ask() -> None:
            while not stopped.is_set():
                for path in (f"{url}/labels/stable:predict", f"{url}:predict"):
                    response = requests.post(path, json=images, timeout=30)
                    if response.status_code != 200:
                        failed.append(response.text)

        clients = [threading.Thread(target=ask) for _ in range(2)]
        for client in clients:
            client.start()
        try:
            assert until(lambda: compared(server.url, (1, 2)) >= 100)
            decide = ["promote", MODEL, "2", *repository, "--auto", "--min-requests=100", "--max-latency-ratio=1000"]
            assert until(lambda: main(decide) == 0)
            assert until(lambda: compared(server.url, (2, 1)) >= 100)
            assert main(decide) == 0, "it stays"
            page = requests.get(f"{server.url}/metrics", timeout=30).text
            assert f'zoo_shadow_disagreements_total{{model="{MODEL}",answered_by="1",copied_to="2"}} 0' in page
            assert json.loads(requests.get(f"{server.url}/shadow", timeout=30).text)["shadows"][0]["version"] == 2
        finally:
            stopped.set()
            for client in clients:
                client.join()
        assert failed == []
        (tmp_path / "later").rename(base / "3")
        assert main(["promote", MODEL, "3", *repository]) == 0
        labelled = f"{url}/labels/stable/metadata"
        assert until(lambda: requests.get(labelled, timeout=30).json().get("model_spec", {}).get("version") == "3")
        assert main(["promote", MODEL, "--rollback", *repository]) == 0
        assert until(lambda: requests.get(labelled, timeout=30).json().get("model_spec", {}).get("version") == "2")


def compared(url: str, pair: tuple[int, int]) -> int:
    (shadow,) = requests.get(f"{url}/shadow", timeout=30).json()["shadows"]
    found = {(entry["answered_by"], entry["copied_to"]): entry["requests"] for entry in shadow["comparisons"]}
    return int(found.get(pair, 0))


def answering(manager: Manager, name: str, **which: Any) -> int:
    """The number of the version that answers."""
    with manager.lease(name, **which) as (number, _):
        return number


def test_a_label_may_be_ahead_of_its_version(tmp_path: Path) -> None:
    """A file that asks for a version and names it at once is taken over in two steps, as with TF Serving."""
    for version in (1, 2):
        half_plus(tmp_path / "half" / str(version), version)
    write_models_config(tmp_path)
    path = tmp_path / "models.config"
    ModelsConfig(path).promote("half", 2)
    manager = Manager(read_models_config(path), ManagerOptions(poll_seconds=0, labels_for_unavailable=True), lambda: read_models_config(path))
    assert list(manager.loaded("half")) == [2]
    ModelsConfig(path).promote("half", 1)
    manager._reread()
    assert list(manager.loaded("half")) == [1, 2]
    assert answering(manager, "half", label="stable") == 2
    manager._reread()
    assert answering(manager, "half", label="stable") == 1
    assert answering(manager, "half", label="stable-previous") == 2
    manager.close()
