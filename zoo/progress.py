"""The progress bar of a training run."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from zoo.console import console

if TYPE_CHECKING:
    import keras

    from zoo.specs import Recipe


def progress_callback(recipe: Recipe, steps: int, first_epoch: int) -> keras.callbacks.Callback:
    """Returns a callback that shows a bar with the time left on a terminal, and a line per epoch elsewhere.

    Args:
        recipe: The run's recipe.
        steps: Steps per epoch.
        first_epoch: Epochs that an earlier part of the run has done.
    """
    import keras
    from rich import progress

    screen = console(stderr=True)
    columns = (
        progress.TextColumn("[bold]{task.description}"),
        progress.BarColumn(),
        progress.TaskProgressColumn(),
        progress.TextColumn("{task.fields[measured]}"),
        progress.TimeElapsedColumn(),
        progress.TextColumn("eta"),
        progress.TimeRemainingColumn(),
    )

    class Bar(keras.callbacks.Callback):
        """One bar over all steps of the run."""

        def on_train_begin(self, logs: Any = None) -> None:
            self.bar = progress.Progress(*columns, console=screen, disable=not screen.is_terminal)
            self.task = self.bar.add_task(recipe.model, total=steps * recipe.epochs, completed=steps * first_epoch, measured="")
            self.epoch, self.measured = first_epoch, ""
            self.bar.start()

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            self.epoch, self.started = epoch, time.perf_counter()

        def on_train_batch_end(self, batch: int, logs: Mapping[str, Any] | None = None) -> None:
            self.bar.update(self.task, completed=self.epoch * steps + batch + 1, measured=f"epoch {self.epoch + 1}/{recipe.epochs} {self.measured}")

        def on_epoch_end(self, epoch: int, logs: Mapping[str, Any] | None = None) -> None:
            self.measured = _measured(logs or {})
            self.bar.update(self.task, completed=(epoch + 1) * steps, measured=f"epoch {epoch + 1}/{recipe.epochs} {self.measured}")
            if not screen.is_terminal:
                screen.print(f"epoch {epoch + 1}/{recipe.epochs}  {self.measured}  {time.perf_counter() - self.started:.1f} s")

        def on_train_end(self, logs: Any = None) -> None:
            self.bar.stop()

    return Bar()


def _measured(logs: Mapping[str, Any]) -> str:
    """`loss 0.123 accuracy 98.70 % validation 97.10 %`."""
    parts = [f"loss {float(logs['loss']):.4f}", f"accuracy {100 * float(logs['accuracy']):.2f} %"]
    if "val_accuracy" in logs:
        parts.append(f"validation {100 * float(logs['val_accuracy']):.2f} %")
    return "  ".join(parts)
