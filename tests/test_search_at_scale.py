"""The files of docs/tasks/search-at-scale: what a cluster would say to them, as far as that can be known without one."""

from __future__ import annotations

import argparse
import copy
import re
import subprocess
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from zoo.cli import build_parser

FILES = Path(__file__).parents[1] / "docs" / "tasks" / "search-at-scale"
KUBERNETES = "1.33"


def cluster() -> dict[str, Any]:
    found = yaml.safe_load((FILES / "raycluster.yaml").read_text(encoding="utf-8"))
    assert isinstance(found, dict)
    return found


def groups(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [document["spec"]["headGroupSpec"], *document["spec"]["workerGroupSpecs"]]


def check(document: dict[str, Any]) -> None:
    """Checks a RayCluster: what its own fields have to be, and its pods by the schemas of Kubernetes."""
    assert (document["apiVersion"], document["kind"]) == ("ray.io/v1", "RayCluster")
    assert set(document) == {"apiVersion", "kind", "metadata", "spec"}
    assert set(document["spec"]) <= {"rayVersion", "headGroupSpec", "workerGroupSpecs", "enableInTreeAutoscaling", "autoscalerOptions"}
    for index, group in enumerate(groups(document)):
        own = {"groupName", "replicas", "minReplicas", "maxReplicas"} if index else set()
        assert set(group) == {"rayStartParams", "template"} | own
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        if index:
            assert 0 <= group["minReplicas"] <= group["replicas"] <= group["maxReplicas"]
        kubernetes_validate.validate(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "pod"}, "spec": group["template"]["spec"]}, KUBERNETES, strict=True
        )


def test_the_ray_cluster_is_valid() -> None:
    document = cluster()
    check(document)
    assert groups(document)[0]["rayStartParams"]["num-cpus"] == "0"
    ports = {port["containerPort"] for container in groups(document)[0]["template"]["spec"]["containers"] for port in container["ports"]}
    assert 10001 in ports  # what the page's --address names


def test_what_is_wrong_with_a_ray_cluster_is_found() -> None:
    for path, value in ((("template", "spec", "containers", 0, "image"), 3), (("rayStartParams", "num-cpus"), 0), (("replicas",), 99)):
        document = copy.deepcopy(cluster())
        place: Any = groups(document)[1]
        for name in path[:-1]:
            place = place[name]
        place[path[-1]] = value
        with pytest.raises((AssertionError, kubernetes_validate.ValidationError)):
            check(document)


def test_the_slurm_script_is_a_script() -> None:
    script = FILES / "search.slurm"
    subprocess.run(["bash", "-n", str(script)], check=True)
    lines = script.read_text(encoding="utf-8").splitlines()
    assert lines[0].startswith("#!")
    settings = [line for line in lines if line.startswith("#SBATCH")]
    assert settings
    assert all(re.fullmatch(r"#SBATCH --[a-z-]+=\S+", line) for line in settings)
    first = next(index for index, line in enumerate(lines) if line and not line.startswith("#"))
    assert all(lines.index(line) < first for line in settings)  # Slurm stops reading at the first command


@pytest.mark.parametrize("source", ["search-at-scale.md", "search-at-scale/search.slurm"])
def test_every_command_takes_its_options(source: str) -> None:
    text = (FILES.parent / source).read_text(encoding="utf-8").replace("\\\n", " ")
    commands = re.findall(r"^zoo (tune [^#&\n]+)", text, re.MULTILINE)
    assert commands
    parser: argparse.ArgumentParser = build_parser()
    for command in commands:
        words = re.sub(r"\$\(\(.*?\)\)", "8", command).replace('"', "").split()
        assert parser.parse_args(words).run
