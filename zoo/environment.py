"""Where a result came from: versions, processor, commit."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path

PACKAGES = ("neuron-zoo", "keras", "tensorflow", "jax", "numpy", "keras-tuner", "tensorflow-datasets")


def environment() -> dict[str, str]:
    """Returns the versions, the backend, the processor and, in a checkout, the commit that a result depends on.

    Example:
        >>> environment()["python"].startswith("3.")
        True
    """
    import keras

    versions = {}
    for package in PACKAGES:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return {
        **versions,
        "backend": keras.backend.backend(),
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "processor": processor(),
        "cores": str(os.cpu_count()),
        "commit": _commit(),
    }


def processor() -> str:
    """Returns the processor's name."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), platform.processor())


def _commit() -> str:
    """The checkout's commit, with `+` where files differ from it; empty outside a checkout."""
    directory = Path(__file__).resolve().parent.parent
    if not (directory / ".git").exists():
        return ""
    try:
        described = ["git", "-C", str(directory), "describe", "--always", "--dirty=+", "--abbrev=12", "--exclude=*"]
        return subprocess.run(described, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""
