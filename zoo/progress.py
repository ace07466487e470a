"""The progress bar of a training run."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoo.console import console

if TYPE_CHECKING:
    import keras

    from zoo.specs import Recipe


BARS = "▁▂▃▄▅▆▇█"
SPARKLINE_WIDTH = 12


def progress_callback(recipe: Recipe, steps: int, history: Iterable[Mapping[str, float]] = ()) -> keras.callbacks.Callback:
    """Returns a callback that shows a bar with the time left on a terminal, and a line per epoch elsewhere.

    On a terminal the loss of the epochs so far is drawn as a sparkline.

    Args:
        recipe: The run's recipe.
        steps: Steps per epoch.
        history: A row with `loss` for each epoch that an earlier part of the run has done.
    """
    import keras
    from rich import progress

    screen = console(stderr=True)
    losses = [row["loss"] for row in history]
    first_epoch = len(losses)
    drawable = screen.is_terminal and not screen.options.ascii_only
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
            losses.append(float((logs or {})["loss"]))
            self.measured = f"{sparkline(losses)} {_measured(logs or {})}" if drawable else _measured(logs or {})
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


def sparkline(values: Sequence[float], width: int = SPARKLINE_WIDTH) -> str:
    """Draws numbers as a row of bars, the least as the lowest and the greatest as the highest.

    Args:
        values: Finite numbers; where there are more than `width`, each bar is the mean of its neighbours.
        width: Characters at most, above 0.

    Example:
        >>> sparkline([2.3, 0.8, 0.4, 0.3])
        '█▃▁▁'
    """
    count = min(width, len(values))
    bounds = [round(index * len(values) / count) for index in range(count + 1)] if count else []
    means = [sum(values[start:end]) / (end - start) for start, end in itertools.pairwise(bounds)]
    least, spread = min(means, default=0.0), max(means, default=0.0) - min(means, default=0.0)
    return "".join(BARS[round((len(BARS) - 1) * (mean - least) / spread) if spread else 0] for mean in means)
