"""Processes that begin with everything loaded, as a search's workers do, and can be killed at any moment."""

from __future__ import annotations

import multiprocessing
from typing import Any

from tuning.workers import PRELOADED

LOADED = [*PRELOADED, "tuning.hparams", "zoo.training", "h5py"]


def forking() -> Any:
    """Returns a context of `multiprocessing`; one server forks the processes of all tests in a file."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(LOADED)
    return context
