"""The progress of a training run, on a terminal and in a pipe."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from zoo import progress
from zoo.progress import BARS, SPARKLINE_WIDTH, progress_callback, sparkline
from zoo.specs import Recipe


def test_sparkline() -> None:
    assert sparkline([0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]) == BARS
    assert sparkline([2.0, 1.0]) == "█▁"
    assert sparkline([1.0, 1.0]) == "▁▁"
    assert sparkline([]) == ""
    assert sparkline([float(value) for value in range(100)], width=4) == "▁▃▆█"
    assert len(sparkline([1.0] * 13)) == SPARKLINE_WIDTH


@pytest.mark.parametrize(("terminal", "encoding", "drawn"), [(True, "utf-8", True), (True, "ascii", False), (False, "utf-8", False)])
def test_a_terminal_shows_the_losses_as_a_sparkline(terminal: bool, encoding: str, drawn: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr(progress, "console", lambda stderr: Console(file=written, force_terminal=terminal, width=200))
    callback = progress_callback(Recipe("cnn", "digits", epochs=3), steps=2, history=[{"loss": 2.0}])
    callback.on_train_begin()
    for epoch, loss in ((1, 1.0), (2, 0.5)):
        callback.on_epoch_begin(epoch)
        callback.on_train_batch_end(1)
        callback.on_epoch_end(epoch, {"loss": loss, "accuracy": 0.9, "val_accuracy": 0.8})
    callback.on_train_end()
    written.seek(0)
    text = written.read()
    assert ("█▃▁" in text) is drawn
    assert "epoch 3/3" in text
    assert "validation 80.00 %" in text
