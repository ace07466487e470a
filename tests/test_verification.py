"""The parity certificate: every hop arrives at the golden outputs, and a tampered weight at none."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
import sys
from pathlib import Path

import numpy
import pytest

import zoo
from zoo import verification
from zoo.cli import main
from zoo.errors import UsageError, WeightsError
from zoo.files import sha256
from zoo.specs import ModelSpec
from zoo.verification import HOPS, Hop, golden_images, golden_outputs, write_golden

WEIGHTS = zoo.list_models(pretrained=True)


def representatives() -> list[str]:
    """One weight of each family, of as many data sets as there are."""
    found: list[str] = []
    for family in dict.fromkeys(name.partition(".")[0] for name in WEIGHTS):
        seen = [name.partition(".")[2] for name in found]
        found.append(min((name for name in WEIGHTS if name.startswith(f"{family}.")), key=lambda name: seen.count(name.partition(".")[2])))
    return found


def test_the_representatives_stand_for_all_families_and_data_sets() -> None:
    for part in (0, 2):
        assert {name.partition(".")[part] for name in representatives()} == {name.partition(".")[part] for name in WEIGHTS}


@pytest.mark.parametrize("names", [pytest.param(representatives(), id="representatives"), pytest.param(WEIGHTS, id="all", marks=pytest.mark.slow)])
def test_every_hop_of_every_weight_gives_the_golden_outputs(names: list[str]) -> None:
    hops = zoo.verify(*names)
    assert [(hop.name, hop.hop) for hop in hops] == [(name, hop) for name in names for hop in HOPS]
    assert [hop for hop in hops if not hop.passed] == []


@pytest.mark.parametrize("name", WEIGHTS)
def test_golden_inputs_tell_the_classes_apart(name: str) -> None:
    images, outputs = golden_images(name), golden_outputs(name)
    assert images.dtype == numpy.uint8
    assert numpy.array_equal(images, golden_images(name))
    assert outputs.shape == (8, 10)
    assert outputs.sum(axis=1) == pytest.approx(1.0, abs=1e-5)
    assert numpy.ptp(outputs, axis=0).max() > 0.1, "eight answers alike would prove little"


@pytest.fixture
def copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_registry: dict[str, ModelSpec]) -> Path:
    """A package with a copy of relu_mlp.digits, which a test may damage."""
    package = tmp_path / "copied"
    package.mkdir()
    (package / "__init__.py").touch()
    for file in Path(zoo.__file__).parent.glob("pretrained/relu_mlp.digits.*"):
        shutil.copy(file, package)
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "copied", raising=False)
    spec = own_registry["relu_mlp"]
    own_registry["relu_mlp"] = dataclasses.replace(spec, pretrained=(dataclasses.replace(spec.weights("digits"), package="copied"),))
    return package


def test_a_weight_that_was_changed_fails_everywhere(copy: Path) -> None:
    import h5py

    weights, card = copy / "relu_mlp.digits.weights.h5", copy / "relu_mlp.digits.json"
    with h5py.File(weights, "r+") as file:
        names = [name for name in file["layers"] if "0" in file["layers"][name]["vars"]]
        kernel = file["layers"][names[0]]["vars"]["0"]
        kernel[...] = kernel[...] * 1.5
    card.write_text(json.dumps({**json.loads(card.read_text()), "sha256": sha256(weights)}))
    hops = zoo.verify("relu_mlp.digits")
    assert [hop.hop for hop in hops if hop.passed is False] == list(HOPS)
    write_golden("relu_mlp.digits")
    assert all(hop.passed for hop in zoo.verify("relu_mlp.digits"))


def test_missing_golden_outputs(copy: Path) -> None:
    (copy / "relu_mlp.digits.golden.npz").write_bytes(b"nothing")
    with pytest.raises(WeightsError, match=r"The golden outputs .*relu_mlp\.digits\.golden\.npz cannot be read"):
        zoo.verify("relu_mlp.digits")


def test_only_weights_can_be_verified() -> None:
    with pytest.raises(UsageError, match=r"Only shipped weights can be verified. Received: the model 'cnn'. Its weights: cnn.mnist"):
        zoo.verify("cnn")


def test_the_command_says_what_passed_and_what_did_not(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    hops = [Hop("a.b", "build", 1e-7), Hop("a.b", "onnx", None, "ONNX needs tf2onnx"), Hop("a.b", "rest", 0.5)]
    monkeypatch.setattr("zoo.commands.verify.verify", lambda *names: hops)
    assert main(["verify", "a.b"]) == 1
    printed = capsys.readouterr().out
    assert [line.split()[2] for line in printed.splitlines()[:3]] == ["pass", "skipped", "FAIL"]
    assert "1 of 2 hops within 1e-05" in printed
    assert main(["verify", "a.b", "--json"]) == 1
    assert [hop["passed"] for hop in json.loads(capsys.readouterr().out)] == [True, None, False]
    assert main(["verify"]) == 2
    assert "Name the weights to verify, or ask for --all." in capsys.readouterr().err


def test_without_the_servers_packages_both_its_hops_are_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: None if name == "grpc" else find(name, *rest))
    hops = {hop.hop: hop for hop in zoo.verify("relu_mlp.digits")}
    for name in ("rest", "grpc"):
        assert (hops[name].passed, hops[name].skipped) == (None, "Serving needs its packages: pip install 'neuron-zoo[serve]'")


def test_a_missing_extra_is_a_skipped_hop(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(verification, "load_onnx", lambda path: (_ for _ in ()).throw(zoo.errors.MissingExtraError("ONNX needs onnxruntime")))
    (hop,) = [hop for hop in zoo.verify("relu_mlp.digits") if hop.hop == "onnx"]
    assert (hop.passed, hop.skipped) == (None, "ONNX needs onnxruntime")
