"""The figures of a benchmark: appended to a CSV file, and printed as they come."""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from zoo.environment import environment

FIGURE = ("value", "unit", "ratio", "wanted", "met", "processor", "cores")


class Table:
    """The rows of one run. Each also says on what processor, with what versions and at which commit it was measured.

    Args:
        path: Of the CSV file.
        columns: What a row says of itself, ahead of its figure.
        versions: Packages whose versions a row gives, `python` and `commit` among them.
        heading: Returns what is printed of a row ahead of its figure.
    """

    def __init__(self, path: Path, columns: Sequence[str], versions: Sequence[str], heading: Callable[[Mapping[str, Any]], str]) -> None:
        self.path, self.heading = path, heading
        self.fields = (*columns, *FIGURE, *versions)
        about = environment()
        self.about = {"processor": accelerator() or about["processor"], "cores": about["cores"]}
        self.about |= {name: about[name] if name in about else installed(name) for name in versions}

    def add(self, **row: Any) -> None:
        new = not self.path.is_file()
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a", newline="") as file:
            writer = csv.DictWriter(file, self.fields, lineterminator="\n")
            if new:
                writer.writeheader()
            writer.writerow({**self.about, **{name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()}})
        verdict = f"   wanted {row['wanted']}: {'met' if row['met'] == 'yes' else 'NOT MET'}" if row.get("met") else ""
        figure = f"{row['value']:.4g} {row['unit']}" + (f", {row['ratio']:.2f}x" if row.get("ratio") else "")
        print(f"{self.heading(row)} {figure}{verdict}", flush=True)


def accelerator() -> str:
    """The name of the accelerator that JAX computes on; empty where it has none, or another backend computes."""
    import keras

    if keras.backend.backend() != "jax":
        return ""
    import jax

    return "" if jax.default_backend() == "cpu" else jax.devices()[0].device_kind


def installed(package: str) -> str:
    """The version of a package; empty where there is none."""
    try:
        return version(package)
    except PackageNotFoundError:
        return ""
