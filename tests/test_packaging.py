"""The wheel: what it holds, and that it works in an environment outside the repository, alone and beside another package.

The environments start empty. Where a test is not about the dependencies, they come from the environment that runs the
tests, by a path line in a .pth file: Python reads no .pth files along such a path, so an editable install of this
repository does not leak in.
"""

from __future__ import annotations

import configparser
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import tomllib
import venv
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import zoo

ROOT = Path(__file__).parents[1]
SOURCES = ("pyproject.toml", "setup.cfg", "README.md", "LICENSE", "zoo", "tuning")
FAMILIES = ("cnn", "cnn_bn", "relu_mlp", "sigmoid_mlp")
WEIGHTS = [f"{family}.{dataset}" for family in FAMILIES for dataset in ("digits", "mnist")]


@dataclass(frozen=True)
class Environment:
    """A virtual environment outside the repository, and an empty directory to run in."""

    directory: Path
    desk: Path

    @property
    def python(self) -> Path:
        return self.directory / "bin" / "python"

    @property
    def site_packages(self) -> Path:
        return Path(sysconfig.get_path("purelib", "venv", {"base": str(self.directory), "platbase": str(self.directory)}))

    def borrow_dependencies(self) -> None:
        (self.site_packages / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")

    def install(self, *arguments: str | Path) -> None:
        pip = [sys.executable, "-m", "pip", "--python", str(self.python), "--disable-pip-version-check", "--quiet"]
        check([*pip, "install", *map(str, arguments)], self.desk)

    def run(self, *command: str | Path) -> subprocess.CompletedProcess[str]:
        name, *arguments = command
        return execute([self.directory / "bin" / name, *arguments], self.desk)


def execute(command: Sequence[str | Path], directory: Path) -> subprocess.CompletedProcess[str]:
    outside = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")}
    return subprocess.run(list(map(str, command)), cwd=directory, env=outside, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900)


def check(command: Sequence[str | Path], directory: Path) -> str:
    process = execute(command, directory)
    assert process.returncode == 0, f"{command}\n{process.stdout}\n{process.stderr}"
    return process.stdout


def new_environment(directory: Path) -> Environment:
    venv.create(directory / "venv", symlinks=True, with_pip=False)
    (directory / "desk").mkdir()
    return Environment(directory / "venv", directory / "desk")


def build_wheel(source: Path, out: Path) -> Path:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    check([*pip, "wheel", "--no-deps", "--no-index", "--no-build-isolation", "--wheel-dir", out, source], source)
    (wheel,) = out.glob("*.whl")
    return wheel


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, so that it neither litters the repository nor holds what an earlier build left there."""
    source = tmp_path_factory.mktemp("source")
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copy(ROOT / name, source / name)
    return build_wheel(source, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """An environment with the wheel and borrowed dependencies."""
    environment = new_environment(tmp_path_factory.mktemp("installed"))
    environment.install("--no-deps", "--no-index", wheel)
    environment.borrow_dependencies()
    return environment


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The first test image of the digits, as a PNG file; its label is `photo_label`."""
    import tensorflow as tf

    path = tmp_path_factory.mktemp("photo") / "some.png"
    tf.io.write_file(str(path), tf.io.encode_png(zoo.load_dataset("digits", "test").images[0]))
    return path


@pytest.fixture(scope="module")
def photo_label() -> str:
    return str(zoo.load_dataset("digits", "test").labels[0])


# --- what the wheel holds ---------------------------------------------------------------------------------------------


def test_the_wheel_holds_the_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert {name.partition("/")[0] for name in names} == {"zoo", "tuning", f"neuron_zoo-{zoo.__version__}.dist-info"}
    sources = {path.relative_to(ROOT).as_posix() for package in ("zoo", "tuning") for path in (ROOT / package).rglob("*.py")}
    assert {name for name in names if name.endswith(".py")} == sources
    assert {"zoo/py.typed", "tuning/py.typed", f"neuron_zoo-{zoo.__version__}.dist-info/licenses/LICENSE"} <= set(names)


@pytest.mark.parametrize("name", WEIGHTS)
def test_the_wheel_holds_the_weights_and_their_cards(wheel: Path, name: str) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    assert f"zoo/pretrained/{name}.weights.h5" in names
    assert f"zoo/pretrained/{name}.json" in names


def test_every_data_file_of_the_packages_is_in_the_wheel(wheel: Path) -> None:
    files = {path.relative_to(ROOT).as_posix() for package in ("zoo", "tuning") for path in (ROOT / package).rglob("*") if path.is_file()}
    data = {name for name in files if "__pycache__" not in name and not Path(name).name.startswith(".")}
    assert data <= set(zipfile.ZipFile(wheel).namelist())


def test_no_setting_stands_in_both_files() -> None:
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    tools = set(pyproject["tool"])
    assert not {section for section in setup.sections() if section == "metadata" or section.partition(":")[2] in tools or section in tools}
    options = {section.removeprefix("options.").split(".")[0] for section in setup.sections() if section.startswith("options")}
    keys = {key.replace("-", "_") for key in pyproject["tool"]["setuptools"]}
    assert not options & (keys | {"extras_require", "entry_points", "dynamic"})


def test_constraints_are_names_and_versions() -> None:
    lines = [line for line in (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines() if line and not line.startswith("#")]
    assert len(lines) > 50
    for line in lines:
        name, separator, version = line.partition("==")
        assert separator, line
        assert name.replace("-", "").replace("_", "").replace(".", "").isalnum(), line
        assert version.replace(".", "").replace("post", "").isalnum(), line


# --- the installed package --------------------------------------------------------------------------------------------


def test_it_is_the_installed_package_that_runs(installed: Environment) -> None:
    output = installed.run("python", "-c", "import zoo, tuning; print(zoo.__file__); print(tuning.__file__)").stdout.split()
    assert len(output) == 2
    assert all(Path(path).is_relative_to(installed.site_packages) for path in output)
    assert installed.run("zoo", "--version").stdout.strip() == f"neuron-zoo {zoo.__version__}"


def test_zoo_list(installed: Environment) -> None:
    process = installed.run("zoo", "list")
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    assert all(family in process.stdout for family in FAMILIES)


def test_zoo_info(installed: Environment) -> None:
    process = installed.run("zoo", "info", "cnn_bn.digits")
    assert process.returncode == 0, process.stderr
    assert "digits" in process.stdout


def test_zoo_predict(installed: Environment, photo: Path, photo_label: str) -> None:
    process = installed.run("zoo", "predict", "cnn_bn.digits", photo, "--json")
    assert process.returncode == 0, process.stderr
    assert process.stderr == ""
    assert first_label(process.stdout) == photo_label


def test_a_run_leaves_nothing_behind(installed: Environment) -> None:
    assert list(installed.desk.iterdir()) == []


def first_label(output: str) -> str:
    """The most probable label of the first image in the output of `zoo predict --json`."""
    return json.loads(output)[0]["label"]


@pytest.mark.slow
def test_the_wheel_brings_its_dependencies(wheel: Path, tmp_path: Path, photo: Path, photo_label: str) -> None:
    environment = new_environment(tmp_path)
    environment.install("--constraint", ROOT / "constraints.txt", f"neuron-zoo[serve] @ {wheel.as_uri()}")
    assert all(family in check([environment.directory / "bin" / "zoo", "list"], environment.desk) for family in FAMILIES)
    assert first_label(check([environment.directory / "bin" / "zoo", "predict", "cnn_bn.digits", photo, "--json"], environment.desk)) == photo_label
    for command in ("train", "evaluate", "tune", "export", "serve", "demo"):
        assert command in check([environment.directory / "bin" / "zoo", command, "--help"], environment.desk)


# --- a second package -------------------------------------------------------------------------------------------------

SECOND_PYPROJECT = """
    [build-system]
    requires = ["setuptools>=77"]
    build-backend = "setuptools.build_meta"

    [project]
    name = "second-package"
    version = "1.0"
    dependencies = ["neuron-zoo"]

    [project.entry-points."neuron_zoo.models"]
    second = "second_package.models"

    [tool.setuptools.package-data]
    second_package = ["*.json", "*.weights.h5"]
"""
SECOND_MODELS = '''
    """Models of a package that is not the zoo."""

    import zoo


    @zoo.register_model(
        "{name}",
        domains={{"units": zoo.Int(4, 32)}},
        pretrained=[zoo.WeightsSpec("digits", "digits", (8, 8, 1), 10, package="second_package")],
    )
    def build(input_shape=(8, 8, 1), num_classes=10, *, units=16):
        """One layer of exponential linear units."""
        import keras

        image = keras.Input(input_shape, name="image")
        hidden = keras.layers.Dense(units, "elu", name="hidden1_dense")(keras.layers.Flatten()(image))
        return keras.Model(image, keras.layers.Dense(num_classes, name="logits")(hidden))
'''


def second_package(directory: Path, name: str) -> Path:
    """Writes a package with one model called `name`, its weights not included, and returns its directory."""
    package = directory / "second_package"
    package.mkdir(parents=True)
    (directory / "pyproject.toml").write_text(textwrap.dedent(SECOND_PYPROJECT), encoding="utf-8")
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "models.py").write_text(textwrap.dedent(SECOND_MODELS.format(name=name)), encoding="utf-8")
    return directory


def add_weights(package: Path) -> list[float]:
    """Writes weights and a card for `elu_mlp.digits` into the package; returns the logits that they give a gray image."""
    import keras
    import numpy

    from zoo.cards import Card
    from zoo.files import sha256

    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1), name="image")
    hidden = keras.layers.Dense(16, "elu", name="hidden1_dense")(keras.layers.Flatten()(image))
    model = keras.Model(image, keras.layers.Dense(10, name="logits")(hidden))
    weights = package / "elu_mlp.digits.weights.h5"
    model.save_weights(weights)
    Card(
        name="elu_mlp.digits",
        model="elu_mlp",
        hyperparameters={"units": 16},
        input_shape=(8, 8, 1),
        num_classes=10,
        class_names=tuple("0123456789"),
        dataset="digits",
        light_on_dark=True,
        recipe={"model": "elu_mlp", "dataset": "digits"},
        sha256=sha256(weights),
        parameters=model.count_params(),
        results={"test": {"accuracy": 0.1}},
    ).write(package / "elu_mlp.digits.json")
    return [float(value) for value in model.predict(numpy.full((1, 8, 8, 1), 128, "uint8"), verbose=0)[0]]


def test_models_of_a_second_package(wheel: Path, tmp_path: Path) -> None:
    source = second_package(tmp_path / "source", "elu_mlp")
    logits = add_weights(source / "second_package")
    environment = new_environment(tmp_path)
    environment.install("--no-deps", "--no-index", wheel, build_wheel(source, tmp_path))
    environment.borrow_dependencies()

    listing = environment.run("zoo", "list", "--json")
    assert listing.returncode == 0, listing.stderr
    row = next(row for row in json.loads(listing.stdout) if row["model"] == "elu_mlp")
    assert row == {"model": "elu_mlp", "pretrained": ["digits"], "description": "One layer of exponential linear units."}

    code = """
        import json, numpy, zoo
        built = zoo.create_model("elu_mlp", input_shape=(28, 28, 1), num_classes=3, units=5)
        trained = zoo.create_model("elu_mlp.digits", pretrained=True)
        print(json.dumps([built.output_shape, built.count_params(), trained.predict(numpy.full((1, 8, 8, 1), 128, "uint8"), verbose=0)[0].tolist()]))
    """
    process = environment.run("python", "-c", textwrap.dedent(code))
    assert process.returncode == 0, process.stderr
    shape, parameters, received = json.loads(process.stdout)
    assert shape == [None, 3]
    assert parameters == 28 * 28 * 5 + 5 + 5 * 3 + 3
    assert received == pytest.approx(logits, rel=1e-5, abs=1e-5)


def test_a_second_package_cannot_take_a_name(wheel: Path, tmp_path: Path) -> None:
    environment = new_environment(tmp_path)
    environment.install("--no-deps", "--no-index", wheel, build_wheel(second_package(tmp_path / "source", "cnn_bn"), tmp_path))
    environment.borrow_dependencies()
    process = environment.run("zoo", "list")
    assert process.returncode == 2
    assert process.stdout == ""
    assert process.stderr == (
        "zoo: The models of 'second_package.models' (entry point 'second') could not be registered: "
        "A model named 'cnn_bn' is registered already, by zoo.models.cnn.cnn_bn. Choose another name.\n"
    )
