"""What the command line prints with: one console, JSON for programs, and a TensorFlow that keeps quiet."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console


def console(*, stderr: bool = False) -> Console:
    """Returns a rich console for results (stdout) or for progress and messages (stderr)."""
    from rich.console import Console

    return Console(stderr=stderr, highlight=False, soft_wrap=not stderr)


def print_json(data: Any) -> None:
    """Prints one JSON document on stdout."""
    sys.stdout.write(json.dumps(data, indent=2) + "\n")


def load_backend(*, with_keras: bool = True) -> None:
    """Imports TensorFlow, and Keras where it is wanted, without the notes that their native code writes to the terminal while loading.

    The notes bypass Python's `sys.stderr`, so the file descriptor is turned away while the import runs. If the import
    fails, everything that was held back is shown.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TFDS_DISABLE_PROGRESS_BAR", "1")
    if "tensorflow" in sys.modules:
        return
    sys.stderr.flush()
    original = os.dup(2)
    with tempfile.TemporaryFile() as held_back:
        os.dup2(held_back.fileno(), 2)
        try:
            if with_keras:
                import keras  # noqa: F401
            import tensorflow as tf

            tf.get_logger().setLevel("ERROR")
            tf.config.list_physical_devices("GPU")  # the driver, or its absence, has notes of its own
        except BaseException:
            os.dup2(original, 2)
            held_back.seek(0)
            sys.stderr.write(held_back.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(original, 2)
            os.close(original)
